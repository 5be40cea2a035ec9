"""The module's test, for Slicer (ctest, Reload and Test) and for the stand-in alike: load, segment, measure, hand over for editing."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest

from . import cases, dependencies, models, samples, segmentations
from .job import Outcome
from .runs import SegmentSettings

_LONGEST_SECONDS = 300


class SAHLoRASegmentTest(ScriptedLoadableModuleTest):
    """The way a user goes, on the sample data, with the first model that is there."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear(0)

    def runTest(self) -> None:
        for test in (self.test_load_segment_measure_edit, self.test_cancel_leaves_nothing_behind):
            self.setUp()
            test()

    def test_load_segment_measure_edit(self) -> None:
        """A mask, a volume, a table and a plot come back, and the Segment Editor gets the segment."""
        volume, logic = self._prepared()
        outcomes: list[Outcome] = []
        logic.segment([volume], self._settings(threshold=0.3), onFinished=outcomes.append)
        self.assertTrue(logic.running)
        self._wait(logic)
        self.assertEqual([outcome.state for outcome in outcomes], ["done"], outcomes)
        logic.finish(outcomes[0])
        found = logic.lastResult()
        self.assertIsNotNone(found)
        mask = segmentations.segment_array(found.segmentation, found.segment, volume)
        self.assertEqual(mask.shape, slicer.util.arrayFromVolume(volume).shape)
        spacing = volume.GetSpacing()
        self.assertAlmostEqual(float(mask.sum()) * spacing[0] * spacing[1] * spacing[2] / 1000.0, found.ml, delta=0.01 * found.ml + 0.01)
        segment = found.segmentation.GetSegmentation().GetSegment(found.segment)
        self.assertIn("Hemorrhage", _tag(segment))
        self.assertEqual(len(slicer.util.getNodesByClass("vtkMRMLPlotChartNode")), 1)
        self.assertFalse(Path(logic.run.job.folder).exists())
        self.assertTrue(cases.add_case(volume, found.segmentation, found.segment))
        self.assertEqual(len(cases.cases()), 1)
        if slicer.util.mainWindow() is not None:
            logic.editLast()
            editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
            self.assertEqual(editor.segmentationNode().GetID(), found.segmentation.GetID())
        logic.abandon()  # the process that waits for the next scan

    def test_cancel_leaves_nothing_behind(self) -> None:
        """A run that was cancelled ends, and there is no file and no node of it."""
        volume, logic = self._prepared()
        outcomes: list[Outcome] = []
        logic.segment([volume], self._settings(), onFinished=outcomes.append)
        folder = Path(logic.run.job.folder)
        self._wait(logic, until=lambda: logic.run.job.pid is not None)
        logic.cancel()
        self._wait(logic)
        self.assertEqual([outcome.state for outcome in outcomes], ["cancelled"])
        self.assertFalse(folder.exists())
        self.assertEqual(slicer.util.getNodesByClass("vtkMRMLSegmentationNode"), [])
        logic.abandon()

    def _prepared(self) -> tuple[Any, Any]:
        import SampleData

        import SAHLoRASegment

        if missing := dependencies.missing_in_words(SAHLoRASegment.SAHLoRASegmentLogic().requirements):
            self.skipTest(f"not installed: {missing}")
        if not any(card.kind != "adapter" for card in models.list_models()[0]):
            self.skipTest("no model is there")
        SAHLoRASegment.registerSampleData()
        return SampleData.downloadSample(samples.NAME), SAHLoRASegment.SAHLoRASegmentLogic()

    def _settings(self, threshold: float | None = None) -> SegmentSettings:
        card = next(card for card in models.list_models()[0] if card.kind != "adapter")
        return SegmentSettings(model=str(card.path), adapter="none", device="cpu", threshold=threshold)

    def _wait(self, logic: Any, until: Any = None) -> None:
        end = time.monotonic() + float(os.environ.get("SAHLORA_TEST_SECONDS", _LONGEST_SECONDS))
        while logic.running and not (until and until()):
            self.assertLess(time.monotonic(), end, "The run takes too long.")
            slicer.app.processEvents()
            time.sleep(0.01)


def _tag(segment: Any) -> str:
    import vtk

    text = vtk.reference("")
    segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), text)
    return str(text)
