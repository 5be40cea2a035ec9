"""The segment button: haemorrhage on head CT, in 3D Slicer. The work is done by SAHLoRALib in a background process."""

from pathlib import Path

import qt
import slicer
import vtk
from SAHLoRASlicer import cases, dependencies, forget_packages, models, samples, volumes
from SAHLoRASlicer.logic import SAHLoRASegmentLogic, SAHLoRASegmentParameterNode  # noqa: F401  (names that Slicer's users look for here)
from SAHLoRASlicer.panel import BatchTable, ModelPicker, ProgressLine, on_paths
from SAHLoRASlicer.runs import FolderRun, SegmentSettings
from SAHLoRASlicer.selftest import SAHLoRASegmentTest  # noqa: F401  (Slicer looks for it here)
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleWidget
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


class SAHLoRASegmentWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: choices in, a run started, results shown. It computes nothing."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._guiTag = None
        self._refreshing = self.starting = False

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
        self.picker = ModelPicker(self.ui.modelComboBox, self.ui.adapterComboBox, self.ui.modelLabel, self.onModelChosen, with_default=True)
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
        on_paths(self.ui.batchInputEdit, self.refresh)
        on_paths(self.ui.batchOutputEdit, self.refresh)
        self.ui.copyLogButton.connect("clicked(bool)", self.onCopyLog)
        for event, slot in (
            (slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose),
            (slicer.mrmlScene.EndCloseEvent, self.onSceneChanged),
            (slicer.mrmlScene.EndImportEvent, self.onSceneChanged),
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
        self.logic.abandon()
        forget_packages()
        ScriptedLoadableModuleWidget.onReload(self)

    def enter(self):
        dependencies.missing_in_words.cache_clear()
        self.initializeParameterNode()

    def exit(self):
        """A run goes on while another module is shown."""

    # --- scene and parameter node

    def onSceneStartClose(self, caller=None, event=None):
        self.logic.leaveScene()
        self.setParameterNode(None)
        self.batch.clear()

    def onSceneChanged(self, caller=None, event=None):
        """A scene was closed, or has come in whole: its parameters took the place of those that were shown."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onNodesChanged(self, caller=None, event=None):
        """Entering refreshes anyway: what happens while another module is shown costs nothing here."""
        if self._parameterNode and self.parent.isEntered and not slicer.mrmlScene.IsBatchProcessing() and not self.logic.running:
            self.refresh()

    def initializeParameterNode(self):
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.inputVolume:
            self._parameterNode.inputVolume = next(iter(self.logic.usableVolumes()), None)

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
        running, node = self.logic.running, self._parameterNode
        why = "" if running else self.logic.whyNot(node.inputVolume, self.picker.model, node.outputSegmentation)
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
        if self.starting:  # a second click while pip installs, which lets Slicer go on
            return
        self.starting = True
        try:
            self.line.wait(_("Starting the background process"))
            dependencies.ensure(self.logic.requirements, self.log)
            start()
        except dependencies.Missing as error:
            self._fail(str(error))
        except Exception as error:
            self._fail(_("The run could not be started: {}").format(error))
        finally:
            self.starting = False
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
            volumes.show_scan(last.volume)

    def _sayBatch(self, outcome):
        run = self.logic.run
        if isinstance(run, FolderRun):
            for scan in (outcome.result or {}).get("scans", []):
                state = _("segmented") if scan["ok"] else _("failed: {}").format(scan["error"])
                self.batch.say(self.batch.row_named(scan["name"]), state, scan.get("total_ml"))
            return
        rows = self.batch.rows()
        for n, scan in enumerate(run.scans):
            if len(rows) and scan in self.batch.nodes:  # after a folder's batch the table shows studies
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
        if not folder:
            return
        try:
            report, picture = self.logic.lastResult().save(Path(folder))
        except OSError as error:
            self._fail(_("The report cannot be written to {}: {}").format(folder, error.strerror or error))
        else:
            self.log(_("Saved in {}: {}, {}").format(folder, report.name, picture.name))

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
