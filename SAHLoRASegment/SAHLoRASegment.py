"""The segment button: haemorrhage on head CT, in 3D Slicer. The work is done by SAHLoRALib in a background process."""

from pathlib import Path
from typing import Annotated

import qt
import slicer
import vtk
from SAHLoRASlicer import cases, dependencies, models, samples, tables, volumes
from SAHLoRASlicer.job import BackgroundJob
from SAHLoRASlicer.panel import BatchTable, ModelPicker, ProgressLine
from SAHLoRASlicer.runs import FolderRun, SegmentRun, SegmentSettings
from SAHLoRASlicer.selftest import SAHLoRASegmentTest  # noqa: F401  (Slicer looks for it here)
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

DEVICES = (("auto", "Automatic"), ("cuda", "GPU (CUDA)"), ("mps", "GPU (Apple)"), ("cpu", "CPU"))


class SAHLoRASegment(ScriptedLoadableModule):
    """Module description."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("SAHLoRA Segment")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = []
        parent.contributors = ["SAHLoRA contributors"]
        parent.helpText = _(
            "Segments haemorrhage on head CT with a multi-view Unet and low-rank adapters, and measures it in mL. "
            "Sample data: “SAHLoRA: synthetic aSAH head CT”. For research only, not a medical device."
        )
        parent.acknowledgementText = _("Adapters after Hu et al. (LoRA), Minoccheri et al. (tensor adapters for haemorrhage segmentation).")
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Name the synthetic head CT to the Sample Data module."""
    samples.register(Path(__file__).parent / "Resources" / "Icons" / "SAHLoRASegmentSample.png")


@parameterNodeWrapper
class SAHLoRASegmentParameterNode:
    """The panel's choices, saved with the scene. model, adapter: names; empty: the first model, no adapter."""

    inputVolume: vtkMRMLScalarVolumeNode
    outputSegmentation: vtkMRMLSegmentationNode
    model: str = ""
    adapter: str = ""
    device: str = "auto"
    modelThreshold: bool = True
    threshold: Annotated[float, WithinRange(0.01, 0.99)] = 0.5
    smallestMl: Annotated[float, WithinRange(0.0, 100.0)] = 0.1
    flips: bool = False
    keepProbability: bool = False


class SAHLoRASegmentWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: choices in, a run started, results shown. It computes nothing."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._guiTag = None
        self._refreshing = False

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/SAHLoRASegment.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = SAHLoRASegmentLogic()
        self.logic.requirements = Path(self.resourcePath("requirements.txt"))
        for device, words in DEVICES:
            self.ui.deviceComboBox.addItem(words, device)
        self.picker = ModelPicker(self.ui.modelComboBox, self.ui.adapterComboBox, self.ui.modelLabel, self.onModelChosen)
        self.line = ProgressLine(self.ui.progressBar, self.ui.statusLabel)
        self.batch = BatchTable(self.ui.batchTable)

        self.ui.deviceComboBox.connect("currentIndexChanged(int)", self.onDeviceChosen)
        self.ui.segmentButton.connect("clicked(bool)", self.onSegment)
        self.ui.importButton.connect("clicked(bool)", self.onImport)
        self.ui.folderButton.connect("clicked(bool)", self.onOpenFolder)
        self.ui.editButton.connect("clicked(bool)", self.onEdit)
        self.ui.trainButton.connect("clicked(bool)", self.onAddToTraining)
        self.ui.tableButton.connect("clicked(bool)", self.onShowTable)
        self.ui.reportButton.connect("clicked(bool)", self.onSaveReport)
        self.ui.batchButton.connect("clicked(bool)", self.onBatch)
        self.ui.batchTable.connect("itemChanged(QTableWidgetItem*)", self.refresh)
        self.ui.batchInputEdit.connect("currentPathChanged(QString)", self.refresh)
        self.ui.batchOutputEdit.connect("currentPathChanged(QString)", self.refresh)
        self.ui.copyLogButton.connect("clicked(bool)", self.onCopyLog)
        for event, slot in (
            (slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose),
            (slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose),
            (slicer.mrmlScene.NodeAddedEvent, self.onNodesChanged),
            (slicer.mrmlScene.NodeRemovedEvent, self.onNodesChanged),
        ):
            self.addObserver(slicer.mrmlScene, event, slot)
        self.initializeParameterNode()

    def cleanup(self):
        """Slicer quits, or the module is reloaded: a running job ends with it."""
        if self.logic:
            self.logic.abandon()
        self.setParameterNode(None)
        self.removeObservers()

    def onReload(self):
        """Take the packages anew too; a developer's button."""
        import sys

        self.logic.abandon()
        for name in [name for name in sys.modules if name.split(".")[0] in ("SAHLoRASlicer", "SAHLoRALib")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def enter(self):
        self.initializeParameterNode()

    def exit(self):
        """A run goes on while another module is shown."""

    # --- scene and parameter node

    def onSceneStartClose(self, caller=None, event=None):
        self.logic.leaveScene()
        self.setParameterNode(None)
        self.batch.clear()

    def onSceneEndClose(self, caller=None, event=None):
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onNodesChanged(self, caller=None, event=None):
        if self._parameterNode and not slicer.mrmlScene.IsBatchProcessing() and not self.logic.running:
            self.refresh()

    def initializeParameterNode(self):
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.inputVolume:
            self._parameterNode.inputVolume = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")

    def setParameterNode(self, node):
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._guiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.refresh)
        self._parameterNode = node
        if node:
            self._guiTag = node.connectGui(self.ui)
            self.picker.refresh(node.model, node.adapter)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self.refresh)
            self.refresh()

    def refresh(self, *unused):
        """Buttons, tool tips and lists follow the state."""
        node = self._parameterNode
        if node is None or self._refreshing:
            return
        self._refreshing = True
        try:
            if node.model and (node.model, node.adapter) != (self.picker.model_name, self.picker.adapter_name):
                self.picker.choose(node.model, node.adapter)
            index = self.ui.deviceComboBox.findData(node.device)
            self.ui.deviceComboBox.setCurrentIndex(max(index, 0))
            self.ui.thresholdSlider.enabled = not node.modelThreshold
            if not self.logic.running and not self.ui.batchInputEdit.currentPath:
                self.batch.show_volumes(self.logic.usableVolumes())
            self._showButtons()
        finally:
            self._refreshing = False

    def _showButtons(self):
        running = self.logic.running
        why = "" if running else self.logic.whyNot(self._parameterNode.inputVolume, self.picker.model)
        self.ui.segmentButton.text = _("Cancel") if running else _("Segment")
        self.ui.segmentButton.enabled = not why and not self.logic.cancelling
        missing = dependencies.missing_in_words(self.logic.requirements)
        ready = _("Segment the haemorrhage.") + (_(" Missing packages are asked for first: {}.").format(missing) if missing else "")
        self.ui.segmentButton.toolTip = _("Stop the run; nothing half-done stays.") if running else why or ready
        whyBatch = "" if running else self._whyNoBatch()
        self.ui.batchButton.text = _("Cancel") if running else _("Segment batch")
        self.ui.batchButton.enabled = not whyBatch and not self.logic.cancelling
        self.ui.batchButton.toolTip = whyBatch or _("One scan after the other; a bad one does not stop the others.")
        last = self.logic.lastResult()
        for button in (self.ui.editButton, self.ui.trainButton, self.ui.tableButton, self.ui.reportButton):
            button.enabled = last is not None and not running

    def _whyNoBatch(self):
        if self.picker.model is None:
            return self.logic.whyNot(None, None)
        if self.ui.batchInputEdit.currentPath:
            return "" if self.ui.batchOutputEdit.currentPath else _("Choose a folder for the results.")
        return "" if self.batch.checked() else _("Check volumes in the table, or choose a folder of studies.")

    def onModelChosen(self):
        with slicer.util.NodeModify(self._parameterNode):
            self._parameterNode.model = self.picker.model_name
            self._parameterNode.adapter = self.picker.adapter_name
            if self._parameterNode.modelThreshold:
                self._parameterNode.threshold = self.picker.threshold
        self.refresh()

    def onDeviceChosen(self, index):
        if self._parameterNode and not self._refreshing:
            self._parameterNode.device = self.ui.deviceComboBox.currentData

    # --- running

    def settings(self):
        node = self._parameterNode
        return SegmentSettings(
            model=str(self.picker.model.path),
            adapter=str(self.picker.adapter.path) if self.picker.adapter else "none",
            device=node.device,
            threshold=None if node.modelThreshold else node.threshold,
            smallest_ml=node.smallestMl,
            flips=node.flips,
            keep_probability=node.keepProbability,
            terminology=self.picker.terminology,
        )

    def onSegment(self, *unused):
        if self.logic.running:
            self._cancel()
            return
        node = self._parameterNode
        self._begin(lambda: self.logic.segment([node.inputVolume], self.settings(), node.outputSegmentation, self.onEvent, self.onFinished))

    def onBatch(self, *unused):
        if self.logic.running:
            self._cancel()
            return
        source, output = self.ui.batchInputEdit.currentPath, self.ui.batchOutputEdit.currentPath
        if source:
            self.batch.clear()
            self._begin(lambda: self.logic.segmentFolder(Path(source), Path(output), self.settings(), self.onEvent, self.onFinished))
        else:
            self._begin(lambda: self.logic.segment(self.batch.checked(), self.settings(), None, self.onEvent, self.onFinished))

    def _begin(self, start):
        try:
            dependencies.ensure(self.logic.requirements, self.log)
            start()
        except dependencies.Missing as error:
            self._fail(str(error))
        except Exception as error:
            self._fail(_("The run could not be started: {}").format(error))
        else:
            self.line.wait(_("Starting the background process"))
        self.refresh()

    def _cancel(self):
        self.logic.cancel()
        self.line.wait(_("Cancelling"))
        self.refresh()

    def _fail(self, text):
        self.log(text)
        self.line.idle(text)
        self.ui.logCollapsibleButton.collapsed = False

    def onEvent(self, event):
        if event["event"] == "progress":
            if not self.logic.cancelling:
                self.line.follow(event)
            self._followBatch(event)
        elif event["event"] == "log":
            self.log(event["message"])

    def _followBatch(self, event):
        """Rows: what is worked on, and what is finished."""
        run, name = self.logic.run, str(event.get("detail", "")).partition(":")[0]
        if isinstance(run, FolderRun):
            row = self.batch.row_named(name) if name else None
        else:
            scan = run.row_of(name)
            row = None if scan is None or run.scans[scan] not in self.batch.checked() else self.batch.row_of(run.scans[scan])
            name = scan
        if row is not None:
            report = run.report(name)
            self.batch.say(row, _("segmented") if report else _("segmenting"), report["total_ml"] if report else None)

    def onFinished(self, outcome):
        words = {"done": "", "cancelled": _("Cancelled."), "failed": outcome.message}[outcome.state]
        for text in self.logic.finish(outcome):
            self.log(text)
        self._showOutcome(words)
        if outcome.state == "failed":
            self._fail(words)
        else:
            if words:
                self.log(words)
            self.line.idle(words)
        self.refresh()
        self._sayBatch(outcome)

    def _showOutcome(self, words):
        last = self.logic.lastResult()
        if last is None or all(last is not found for found in self.logic.run.results.values()):
            return
        self.ui.resultLabel.text = self.logic.inWords(last)
        self.ui.resultsCollapsibleButton.collapsed = False
        if len(self.logic.run.scans) == 1:
            slicer.util.setSliceViewerLayers(background=last.volume)

    def _sayBatch(self, outcome):
        run = self.logic.run
        if isinstance(run, FolderRun):
            for scan in (outcome.result or {}).get("scans", []):
                state = _("segmented") if scan["ok"] else _("failed: {}").format(scan["error"])
                self.batch.say(self.batch.row_named(scan["name"]), state, scan.get("total_ml"))
            return
        rows = self.batch.rows()
        for n, scan in enumerate(run.scans):
            if len(rows) and slicer.mrmlScene.IsNodePresent(scan) and scan in self.logic.usableVolumes():
                found = run.results.get(n)
                state = _("segmented") if found else _("failed: {}").format(run.errors[n]) if n in run.errors else _("not segmented")
                self.batch.say(self.batch.row_of(scan), state, found.ml if found else None)

    # --- results and small things

    def onEdit(self, *unused):
        self.logic.editLast()

    def onAddToTraining(self, *unused):
        last = self.logic.lastResult()
        added = cases.add_case(last.volume, last.segmentation, last.segment)
        self.log(_("Added to the training cases; SAHLoRA Train lists them.") if added else _("This case is in the list of training cases already."))

    def onShowTable(self, *unused):
        self.logic.showTable()

    def onSaveReport(self, *unused):
        folder = qt.QFileDialog.getExistingDirectory(self.parent, _("Folder for the report"))
        if folder:
            self.logic.lastResult().save(Path(folder))
            self.log(_("Report and picture saved in {}").format(folder))

    def onImport(self, *unused):
        path = qt.QFileDialog.getOpenFileName(self.parent, _("Import a model or an adapter"), "", "SAHLoRA (*.safetensors)")
        path = path[0] if isinstance(path, tuple) else path
        if path:
            try:
                card = self.picker.take_file(Path(path))
            except (ValueError, OSError) as error:
                self._fail(str(error))
            else:
                self.log(_("Imported {}").format(card.name))

    def onOpenFolder(self, *unused):
        folder = models.user_folder()
        folder.mkdir(parents=True, exist_ok=True)
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(folder)))

    def onCopyLog(self, *unused):
        slicer.app.clipboard().setText(self.ui.logText.plainText)

    def log(self, text):
        self.ui.logText.appendPlainText(text)


class SAHLoRASegmentLogic(ScriptedLoadableModuleLogic):
    """Runs and results; usable without the panel. make_job: what makes a background job, BackgroundJob unless a test hands in its own."""

    def __init__(self, make_job=BackgroundJob):
        ScriptedLoadableModuleLogic.__init__(self)
        self.requirements = Path(__file__).parent / "Resources" / "requirements.txt"
        self.run = None
        self.cancelling = False
        self._make_job = make_job
        self._last = self._table = self._chart = None

    def getParameterNode(self):
        return SAHLoRASegmentParameterNode(super().getParameterNode())

    @property
    def running(self):
        return self.run is not None and self.run.job.running

    def whyNot(self, volume, model):
        """Why nothing can be segmented now; empty where it can."""
        if model is None:
            return _("No model is there. Import a weight file, or put one into {}.").format(models.user_folder())
        return volumes.why_unusable(volume)

    def usableVolumes(self):
        return [node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if self._mayBeScan(node)]

    def _mayBeScan(self, node):
        made = node.GetAttribute("SAHLoRA") is not None or node.GetHideFromEditors()
        return node.GetClassName() == "vtkMRMLScalarVolumeNode" and not made and not volumes.why_unusable(node)

    def segment(self, scans, settings, segmentation=None, onEvent=lambda event: None, onFinished=lambda outcome: None):
        """Start on volumes of the scene. onFinished gets the Outcome; `finish` then makes table and plot."""
        self._start(SegmentRun(scans, settings, onEvent, onFinished, segmentation, self._make_job))

    def segmentFolder(self, source, output, settings, onEvent=lambda event: None, onFinished=lambda outcome: None):
        """Start on a folder of studies; masks, reports and summary.csv go into another."""
        self._start(FolderRun(source, output, settings, onEvent, onFinished, self._make_job))

    def _start(self, run):
        if self.running:
            run.job.abandon()
            raise RuntimeError(_("Another run is not finished yet."))
        self.run, self.cancelling = run, False
        run.start()

    def cancel(self):
        if self.running:
            self.cancelling = True
            self.run.job.cancel()

    def abandon(self):
        if self.run is not None:
            self.run.job.abandon()

    def leaveScene(self):
        """The scene closes: its nodes go, and with them what refers to them."""
        if self.running:
            self.run.leave_scene()
            self.cancelling = self.run.job.cancelled
        self._last = self._table = self._chart = None

    def finish(self, outcome):
        """After a run: table and plot of what was found. Returns sentences for the log."""
        self.cancelling = False
        told = []
        if isinstance(self.run, FolderRun):
            if outcome.result:
                told.append(_("All volumes: {}").format(outcome.result["summary"]))
            return told
        for _row, found in sorted(self.run.results.items()):
            name = found.segmentation.GetSegmentation().GetSegment(found.segment).GetName()
            if self._table is None or not slicer.mrmlScene.IsNodePresent(self._table):
                self._table = None
            self._table = tables.volume_table(self._table, found.volume.GetName(), name, found.report, found.slicer_ml)
            self._chart = tables.area_plot(found.volume.GetName(), found.report)
            if found.probability:
                found.probability.SetAttribute("SAHLoRA", "probability")
            self._last = found
            told.append(self.inWords(found))
        told += [f"{self.run.scans[row].GetName()}: {text}" for row, text in sorted(self.run.errors.items()) if text != outcome.message]
        return told

    def inWords(self, found):
        """The result in a few sentences."""
        pieces, slices = len(found.report["components"]), len(found.report["slices"])
        first = _("{name}: {ml:.2f} mL in {pieces} pieces, {slices} of {all} slices.").format(
            name=found.volume.GetName(), ml=found.ml, pieces=pieces, slices=slices, all=found.report["shape"][0]
        )
        return " ".join(text for text in (first, tables.difference_in_words(found.ml, found.slicer_ml), *found.report["warnings"]) if text)

    def lastResult(self):
        """The last result, while its nodes and its segment are in the scene."""
        last, scene = self._last, slicer.mrmlScene
        if last is None or not (scene.IsNodePresent(last.volume) and scene.IsNodePresent(last.segmentation)):
            return None
        return last if last.segmentation.GetSegmentation().GetSegment(last.segment) else None

    def showTable(self):
        if self._chart and slicer.mrmlScene.IsNodePresent(self._chart):
            tables.show_chart(self._chart)
        if self._table and slicer.mrmlScene.IsNodePresent(self._table):
            tables.show_table(self._table)

    def editLast(self):
        """Segment Editor with the segment and its scan chosen."""
        last = self.lastResult()
        slicer.util.selectModule("SegmentEditor")
        editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        editor.setSegmentationNode(last.segmentation)
        editor.setSourceVolumeNode(last.volume)
        editor.setCurrentSegmentID(last.segment)
