"""The modules on slicer-core and the stand-in for Qt. Without slicer-core and PySide6 only the tests that need neither are run.

SLICER_PYTHON_DIR: a folder with Slicer's own ScriptedLoadableModule.py and parameterNodeWrapper, used in the place of ours.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
MODULE = HERE.parents[1] / "SAHLoRASegment" / "SAHLoRASegment.py"
TRAIN = HERE.parents[1] / "SAHLoRATrain" / "SAHLoRATrain.py"
sys.path[:0] = [str(HERE), str(MODULE.parent)]
HAS_SLICER = all(importlib.util.find_spec(name) for name in ("slicer_core", "PySide6"))
if not HAS_SLICER:
    collect_ignore = sorted(path.name for path in HERE.glob("test_slicer_*.py"))


@pytest.fixture(scope="session")
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module", autouse=True)
def folders_of_jobs_lie_apart(temporary_folder: Path) -> Iterator[None]:
    """Jobs of these tests make their folders in one of this process's own: what is left there was left here, not by tests side by side."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temporary_folder))
        yield


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's model folder with a tiny untrained base: probability about one half everywhere."""
    import torch
    from SAHLoRALib.network import MultiViewUnet, NetworkConfig
    from SAHLoRALib.slices import PixelGrid
    from SAHLoRALib.weights import save_base

    folder = tmp_path_factory.mktemp("models")
    before = os.environ.get("SAHLORA_MODELS")
    os.environ["SAHLORA_MODELS"] = str(folder)
    torch.manual_seed(0)
    network = MultiViewUnet(NetworkConfig(levels=2, width=4))
    save_base(network, folder / "tiny.safetensors", grid=PixelGrid(pixel_mm=4.0), description="Untrained.", threshold=0.3)
    yield folder
    os.environ.pop("SAHLORA_MODELS")
    if before is not None:
        os.environ["SAHLORA_MODELS"] = before


@pytest.fixture(scope="session")
def module(model_folder: Path) -> Any:
    """SAHLoRASegment.py, loaded as Slicer loads it, the bundled models left out."""
    os.environ["OMP_NUM_THREADS"] = "1"
    from standin import application

    application.install(os.environ.get("SLICER_PYTHON_DIR"))
    from SAHLoRASlicer import models

    models.model_folders = lambda: [model_folder]
    return application.load_module(MODULE)


@pytest.fixture
def scene(module: Any) -> Any:
    """An empty scene, which is read from and written to files as at the start: clearing leaves how a test before set that."""
    import slicer

    slicer.mrmlScene.Clear(1)
    slicer.mrmlScene.SetSaveToXMLString(0)
    slicer.mrmlScene.SetLoadFromXMLString(0)
    return slicer.mrmlScene


@pytest.fixture
def panel(module: Any, scene: Any) -> Iterator[Any]:
    """The module's panel in an empty scene."""
    from standin import application

    widget = application.make_widget(module)
    yield widget
    widget.cleanup()


@pytest.fixture(scope="session")
def train_module(module: Any) -> Any:
    from standin import application

    return application.load_module(TRAIN)


@pytest.fixture
def train(train_module: Any, scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The panel, its cases and trainings in an empty folder."""
    from SAHLoRASlicer import train_outcome, train_widget
    from standin import application

    for room in (train_widget, train_outcome):
        monkeypatch.setattr(room, "data_folder", lambda: tmp_path)
    widget = application.make_widget(train_module)
    widget._parameterNode.caseFolder = str(tmp_path / "cases")
    widget._parameterNode.outputFolder = str(tmp_path / "trainings" / "mine")
    widget.initializeParameterNode()
    yield widget
    widget.cleanup()


@pytest.fixture
def sample(module: Any, scene: Any) -> Any:
    """The sample data as a volume node."""
    import SampleData

    module.registerSampleData()
    return SampleData.downloadSample("SAHLoRA: synthetic aSAH head CT")


@pytest.fixture
def ready(panel: Any, sample: Any) -> Any:
    """The panel with the sample chosen: Segment can be pressed."""
    panel.initializeParameterNode()
    return panel


@pytest.fixture
def slice_view(scene: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A window with one slice view: Slicer's own slice logic, the layout manager a stand-in."""
    import types

    import slicer
    import vtk

    logic, logics = slicer.vtkMRMLSliceLogic(), vtk.vtkCollection()
    logic.SetMRMLScene(scene)
    node = logic.AddSliceNode("Red")
    node.SetDimensions(400, 400, 1)
    logics.AddItem(logic)
    widget = types.SimpleNamespace(mrmlSliceNode=lambda: node, mrmlSliceCompositeNode=logic.GetSliceCompositeNode, sliceLogic=lambda: logic)
    manager = types.SimpleNamespace(
        sliceViewNames=lambda: ["Red"], sliceWidget=lambda name: widget if name == "Red" else None, mrmlSliceLogics=lambda: logics,
        setLayout=lambda layout: None,
    )  # fmt: skip
    monkeypatch.setattr(slicer.app, "layoutManager", lambda: manager)
    yield logic
    logic.SetMRMLScene(None)
