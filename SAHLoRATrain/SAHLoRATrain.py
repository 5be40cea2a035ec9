"""Train adapters on your own cases, in 3D Slicer and on this machine. The work is done by SAHLoRALib in a background process."""

import sys
from pathlib import Path
from typing import Annotated

# Both modules are installed into one folder; in the source tree the packages lie beside the other module.
if not (Path(__file__).parent / "SAHLoRASlicer").is_dir():
    sys.path.append(str(Path(__file__).resolve().parents[1] / "SAHLoRASegment"))

import slicer
import vtk
from SAHLoRASlicer import dependencies, forget_packages
from SAHLoRASlicer.train_samples import register
from SAHLoRASlicer.train_selftest import SAHLoRATrainTest  # noqa: F401  (Slicer looks for it here)
from SAHLoRASlicer.train_widget import TrainPanel
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleLogic, ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin


class SAHLoRATrain(ScriptedLoadableModule):
    """Module description."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("SAHLoRA Train")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["SAHLoRASegment"]
        parent.contributors = ["SAHLoRA contributors"]
        parent.helpText = _(
            "Trains low-rank adapters for haemorrhage on head CT on your own annotated cases, with cross-validation by patient, on this machine. "
            "Sample data: “SAHLoRA: training cases”. For research only, not a medical device."
        )
        parent.acknowledgementText = _("Adapters after Hu et al. (LoRA), Minoccheri et al. (tensor adapters for haemorrhage segmentation).")
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Name the training cases to the Sample Data module."""
    register(Path(__file__).parent / "Resources" / "Icons" / "SAHLoRATrain.png")


@parameterNodeWrapper
class SAHLoRATrainParameterNode:
    """The panel's choices, saved with the scene. base: name of a model. earlier: name of an adapter to go on from. modules: names with commas."""

    volume: vtkMRMLScalarVolumeNode
    caseFolder: str = ""
    preset: str = "one"
    base: str = ""
    earlier: str = "none"
    method: str = "cp-lora"
    rank: Annotated[int, WithinRange(1, 4096)] = 8
    modules: str = "stem,encoder,multiview,bottleneck,decoder,head"
    norm: str = "frozen"
    strength: Annotated[float, WithinRange(0.05, 1.0)] = 1.0
    epochs: Annotated[int, WithinRange(1, 10000)] = 40
    minutes: Annotated[int, WithinRange(0, 10000)] = 60
    learningRate: Annotated[float, WithinRange(0.00001, 1.0)] = 0.005
    folds: Annotated[int, WithinRange(0, 100)] = 3
    device: str = "auto"
    name: str = "my-adapter"
    outputFolder: str = ""


class SAHLoRATrainWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Scene and parameter node for the panel, which is `SAHLoRASlicer.train_widget.TrainPanel`."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = self.panel = self._parameterNode = self._guiTag = None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/SAHLoRATrain.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = SAHLoRATrainLogic()
        self.panel = TrainPanel(self.ui, self.parent)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneChanged)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneChanged)
        self.initializeParameterNode()

    def cleanup(self):
        """Slicer quits, or the module is reloaded: a running training ends with it, its last checkpoint stays."""
        if self.panel:
            self.panel.close()
        self.setParameterNode(None)
        self.removeObservers()

    def onReload(self):
        """Take the packages anew too; a developer's button."""
        self.panel.close()
        forget_packages()
        ScriptedLoadableModuleWidget.onReload(self)

    def enter(self):
        dependencies.missing_in_words.cache_clear()
        self.initializeParameterNode()

    def exit(self):
        """A training goes on while another module is shown."""

    def onSceneStartClose(self, caller=None, event=None):
        self.panel.leaveScene()
        self.setParameterNode(None)

    def onSceneChanged(self, caller=None, event=None):
        """A scene was closed, or has come in whole: its parameters took the place of those that were shown."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, node):
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._guiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.panel.refresh)
        self._parameterNode = node
        if node:
            self._guiTag = node.connectGui(self.ui)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self.panel.refresh)
        if self.panel:
            self.panel.attach(node)


class SAHLoRATrainLogic(ScriptedLoadableModuleLogic):
    """The parameter node; trainings are `SAHLoRASlicer.train_run`, usable without the panel."""

    def getParameterNode(self):
        return SAHLoRATrainParameterNode(super().getParameterNode())
