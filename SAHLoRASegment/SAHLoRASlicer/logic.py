"""SAHLoRASegment's logic: runs and results of the scene, and the choices that are saved with it. It needs no panel."""

from pathlib import Path
from typing import Annotated

import slicer
from SAHLoRALib.segmenter import SegmentConfig
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from . import models, segmentations, tables, volumes, warm
from .job import BackgroundJob
from .runs import FolderRun, SegmentRun


@parameterNodeWrapper
class SAHLoRASegmentParameterNode:
    """The panel's choices, saved with the scene. model, adapter: names; empty: the defaults (`segmenter`), or the first model."""

    inputVolume: vtkMRMLScalarVolumeNode
    outputSegmentation: vtkMRMLSegmentationNode
    model: str = ""
    adapter: str = ""
    device: str = "auto"
    modelThreshold: bool = True
    threshold: Annotated[float, WithinRange(0.01, 0.99)] = 0.5
    smallestMl: Annotated[float, WithinRange(0.0, 100.0)] = SegmentConfig.smallest_ml
    flips: bool = False
    keepProbability: bool = False


class SAHLoRASegmentLogic(ScriptedLoadableModuleLogic):
    """Runs and results; usable without the panel.

    make_job: what makes a background job. Without it a single scan goes to the process that stays, and several to one of their own.
    """

    def __init__(self, make_job=None):
        ScriptedLoadableModuleLogic.__init__(self)
        self.requirements = Path(__file__).resolve().parents[1] / "Resources" / "requirements.txt"
        self.run = None
        self.cancelling = False
        self._make_job, self._make_single_job = make_job or BackgroundJob, make_job or warm.warm_job
        self._last = self._table = self._chart = None

    def getParameterNode(self):
        return SAHLoRASegmentParameterNode(super().getParameterNode())

    @property
    def running(self):
        return self.run is not None and self.run.job.running

    def whyNot(self, volume, model, segmentation=None):
        """Why nothing can be segmented now; empty where it can. segmentation: for the mask, None for a new one."""
        if model is None:
            return _("No model is there. Import a weight file, or put one into {}.").format(models.user_folder())
        return volumes.why_unusable(volume) or segmentations.why_unusable(segmentation)

    def usableVolumes(self):
        return [node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if self._mayBeScan(node)]

    def _mayBeScan(self, node):
        made = node.GetAttribute("SAHLoRA") is not None or node.GetHideFromEditors()
        return node.GetClassName() == "vtkMRMLScalarVolumeNode" and not made and not volumes.why_unusable(node)

    def segment(self, scans, settings, segmentation=None, onEvent=lambda event: None, onFinished=lambda outcome: None):
        """Start on volumes of the scene. onFinished gets the Outcome; `finish` then makes table and plot."""
        make_job = self._make_single_job if len(scans) == 1 else self._make_job
        self._start(SegmentRun(scans, settings, onEvent, onFinished, segmentation, make_job))

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
        """Slicer quits, or the module is reloaded: a run ends, and the process that waits for the next one too."""
        if self.run is not None:
            self.run.job.abandon()
        warm.stop()

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
            told += [text for text in (self.inWords(found), found.note) if text]
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
        """Table and plot. The plot comes second: it takes a layout that has both, where one with a table is shown."""
        if self._table and slicer.mrmlScene.IsNodePresent(self._table):
            tables.show_table(self._table)
        if self._chart and slicer.mrmlScene.IsNodePresent(self._chart):
            tables.show_chart(self._chart)

    def editLast(self):
        """Segment Editor with the segment and its scan chosen."""
        last = self.lastResult()
        slicer.util.selectModule("SegmentEditor")
        editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        editor.setSegmentationNode(last.segmentation)
        editor.setSourceVolumeNode(last.volume)
        editor.setCurrentSegmentID(last.segment)
        editor.mrmlSegmentEditorNode().SetSourceVolumeIntensityMask(False)  # SAHLoRATrain limits painting to blood, and the node is one for all
