"""`slicer.app`, `slicer.mrmlScene`, `slicer.modules`, SampleData; and the way to load a module file and make its panel."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


#: Module name → its file.
loaded: dict[str, Path] = {}


class Application:
    """What the modules ask of slicer.app."""

    slicerHome = ""
    temporaryPath = tempfile.gettempdir()
    applicationName = "Slicer"

    def __init__(self, qapplication: Any, logic: Any) -> None:
        self._qapplication, self._logic = qapplication, logic
        self.startup: list[Any] = []
        self.unload: list[Any] = []
        self.closing: list[Any] = []

    def connect(self, signature: str, slot: Any) -> bool:
        {"startupCompleted()": self.startup, "aboutToQuit()": self.closing}[signature].append(slot)
        return True

    def moduleManager(self) -> Any:
        return types.SimpleNamespace(connect=lambda *a: True, disconnect=lambda *a: True)

    def userSettings(self) -> Any:
        return self.settings()

    def settings(self) -> Any:
        from PySide6.QtCore import QSettings

        return QSettings(str(Path(tempfile.gettempdir()) / "sahlora-standin.ini"), QSettings.IniFormat)

    def layoutManager(self) -> None:
        return None

    def applicationLogic(self) -> Any:
        return self._logic

    def processEvents(self) -> None:
        from PySide6.QtCore import QEventLoop

        # QApplication.processEvents of PySide6 6.12 gives away a reference to None at each call, which ends the process after some ten thousand.
        QEventLoop().processEvents(QEventLoop.AllEvents)

    def clipboard(self) -> Any:
        return self._qapplication.clipboard()

    def translate(self, context: str, text: str) -> str:
        return text

    def testingEnabled(self) -> bool:
        return True


def install(real_python: str | None = None) -> None:
    """Everything into sys.modules. real_python: a folder with Slicer's own ScriptedLoadableModule.py and parameterNodeWrapper, used in our place."""
    from . import pythonqt

    _spare_nones()
    qt = pythonqt.module()
    sys.modules["qt"] = qt
    qapplication = qt.QApplication.instance() or qt.QApplication(["standin"])
    qt.QApplication.setStyle("Fusion")
    import slicer
    import slicer.util

    from . import widgets

    ctk = types.ModuleType("ctk")
    sys.modules["ctk"] = ctk
    for cls in widgets.CTK:
        setattr(ctk, cls.__name__, cls)
    for cls in widgets.QMRML:
        setattr(slicer, cls.__name__, cls)
    logic = slicer.vtkSlicerApplicationLogic()
    slicer.app = Application(qapplication, logic)
    slicer.util.mainWindow = lambda verbose=True: None
    new_scene(logic)
    if real_python:
        _names_of_the_real_ones(ctk, qt)
        slicer.__path__.append(real_python)
    else:
        from . import modulebase

        for name, module in modulebase.modules().items():
            sys.modules[name] = module
            setattr(slicer, name.rpartition(".")[2], module)
    sys.modules["SampleData"] = sample_data()


def _spare_nones() -> None:
    """References to None for PySide6 6.12, which gives one away at each call that returns nothing; below Python 3.12 the process ends at the last."""
    import ctypes

    spare = [None] * 2_000_000
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(spare))  # never freed, so that the references are not missed when Python ends


def new_scene(logic: Any) -> None:
    """An empty scene with the logics that files and segmentations need."""
    import slicer

    scene = slicer.vtkMRMLScene()
    slicer.mrmlScene = scene
    logic.SetMRMLScene(scene)
    cache = tempfile.mkdtemp(prefix="sahlora-cache-")
    logic.SetTemporaryPath(cache)
    remote, data = slicer.vtkMRMLRemoteIOLogic(), slicer.vtkDataIOManagerLogic()
    remote.GetCacheManager().SetRemoteCacheDirectory(cache)
    logic.SetMRMLSceneDataIO(scene, remote, data)
    colors = logic.GetColorLogic()
    colors.SetMRMLScene(scene)
    colors.AddDefaultColorNodes()
    logic.SetModuleLogic("Colors", colors)
    slicer.modules = types.SimpleNamespace()
    slicer.standin = [remote, data]
    for name, cls in (
        ("volumes", slicer.vtkSlicerVolumesLogic),
        ("segmentations", slicer.vtkSlicerSegmentationsModuleLogic),
        ("subjecthierarchy", slicer.vtkSlicerSubjectHierarchyModuleLogic),
    ):
        made = cls()
        made.SetMRMLApplicationLogic(logic)
        made.SetMRMLScene(scene)
        logic.SetModuleLogic(cls.__name__.removeprefix("vtkSlicer").removesuffix("ModuleLogic").removesuffix("Logic"), made)
        setattr(slicer.modules, name, types.SimpleNamespace(logic=lambda made=made: made))


def _names_of_the_real_ones(ctk: Any, qt: Any) -> None:
    """Slicer's own connectors name more widgets than our panels have."""
    import slicer
    from PySide6 import QtGui, QtWidgets

    for name in [
        "ctkDoubleSlider",
        "ctkDoubleSpinBox",
        "ctkComboBox",
        "ctkCheckBox",
        "ctkRangeWidget",
        "ctkDoubleRangeSlider",
        "ctkDirectoryButton",
        "ctkColorPickerButton",
        "ctkCheckablePushButton",
    ]:
        setattr(ctk, name, type(name, (QtWidgets.QWidget,), {}))
    for name in ["qMRMLSliderWidget", "qMRMLSpinBox", "qMRMLRangeWidget"]:
        setattr(slicer, name, type(name, (QtWidgets.QWidget,), {}))
    for name in ("QRadioButton", "QAbstractButton", "QScrollArea"):
        setattr(qt, name, getattr(QtWidgets, name))
    qt.QAction = QtGui.QAction


def sample_data() -> types.ModuleType:
    """Slicer's SampleData as far as a registration and a download of one go; a file:// address is read as Slicer does."""
    module = types.ModuleType("SampleData")
    sources: dict[str, dict[str, Any]] = {}

    class SampleDataLogic:
        @staticmethod
        def registerCustomSampleDataSource(
            category: str,
            sampleName: str,
            thumbnailFileName: str,
            uris: str,
            fileNames: str,
            nodeNames: str | None = None,
            customDownloader: Any = None,
            loadFiles: bool | None = None,
            checksums: str | None = None,
        ) -> None:
            sources[sampleName] = {"uri": uris, "node": nodeNames, "thumbnail": thumbnailFileName, "custom": customDownloader}
            sources[sampleName] |= {"checksums": checksums, "load": loadFiles}

    def downloadSample(name: str) -> Any:
        from urllib.request import url2pathname

        if sources[name]["custom"]:
            return sources[name]["custom"](sources[name])
        path = url2pathname(sources[name]["uri"].removeprefix("file://"))
        return load_volume(Path(path), sources[name]["node"])

    module.SampleDataLogic, module.downloadSample, module.sources = SampleDataLogic, downloadSample, sources  # type: ignore[attr-defined]
    return module


def load_volume(path: Path, name: str) -> Any:
    """A volume file as a node, through Slicer's storage node."""
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(path))
    storage.SetSingleFile(1)
    assert storage.ReadData(node), path
    node.CreateDefaultDisplayNodes()
    return node


def load_module(path: Path) -> Any:
    """Load a scripted module's file as Slicer does; returns the Python module."""
    import slicer
    import slicer.util

    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    loaded[name] = path
    slicer.util.modulePath = lambda module_name: str(loaded.get(module_name, ""))
    described = types.SimpleNamespace(path=str(path), title="", icon=None, name=name)
    getattr(module, name)(described)
    setattr(slicer.modules, name.lower(), described)
    return module


def make_widget(module: Any) -> Any:
    """The module's panel, set up."""
    import qt
    import slicer

    parent = slicer.qMRMLWidget()
    parent.setLayout(qt.QVBoxLayout())
    parent.setMRMLScene(slicer.mrmlScene)
    parent._entered = True
    type(parent).isEntered = property(lambda self: self._entered)
    widget = getattr(module, f"{module.__name__}Widget")(parent)
    if not hasattr(widget, "ui"):
        widget.setup()
    return widget
