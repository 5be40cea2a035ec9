"""One click on Segment: a real worker process, and what of it stands in the scene afterwards."""

from __future__ import annotations

import json
import sys
import tempfile
import types
import unittest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
from fake_process import finished, wait


def _job_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("SAHLoRA-*"))


LEFT_BEFORE = _job_folders()


def test_click_on_segment_brings_mask_table_plot_and_probability(ready: Any, sample: Any, tmp_path: Path) -> None:
    ready.ui.probabilityCheckBox.checked = True
    ready.ui.segmentButton.click()
    folder = ready.logic.run.job.folder
    assert ready.ui.segmentButton.text == "Cancel" and ready.ui.segmentButton.enabled
    assert not any(name in path.name for path in folder.iterdir() for name in (sample.GetName(),)), "no node's name in a file name"
    wait(finished(ready))
    assert ready.ui.segmentButton.text == "Segment" and not folder.exists()
    found = ready.logic.lastResult()
    assert found.ml > 100, "half of the threshold is everything within the skull"
    assert f"{found.ml:.2f} mL" in ready.ui.resultLabel.text and str(folder) not in ready.ui.logText.plainText
    table = slicer.util.getFirstNodeByClassByName("vtkMRMLTableNode", "SAHLoRA volumes")
    assert table.GetNumberOfRows() == 1 and table.GetCellText(0, 2) == f"{found.ml:.2f}"
    chart = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLPlotChartNode")
    areas = slicer.util.arrayFromTableColumn(chart.GetNthPlotSeriesNode(0).GetTableNode(), "Area (cm²)")
    assert len(areas) == 30 and areas.sum() * sample.GetSpacing()[2] / 10 == pytest.approx(found.ml, rel=0.01)
    assert slicer.util.arrayFromVolume(found.probability).shape == (30, 256, 256)
    ready.logic.lastResult().save(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["source"] == "scan"
    assert sample.GetName() not in (tmp_path / "report.json").read_text(), "a node's name may be a patient's"
    assert (tmp_path / "montage.png").read_bytes().startswith(b"\x89PNG")
    first = (tmp_path / "report.json").read_bytes()
    assert [path.name for path in ready.logic.lastResult().save(tmp_path)] == ["report_2.json", "montage_2.png"]
    assert (tmp_path / "report.json").read_bytes() == first
    ready.ui.trainButton.click()
    ready.ui.copyLogButton.click()
    assert "training cases" in slicer.app.clipboard().text()
    slicer.mrmlScene.RemoveNode(found.segmentation)
    assert ready.logic.lastResult() is None and not ready.ui.editButton.enabled


def test_table_and_plot_are_both_in_the_layout(ready: Any, sample: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slicer's own plot logic chooses the layout; the layout manager is a stand-in."""
    from SAHLoRASlicer import segmentations
    from SAHLoRASlicer.job import Outcome
    from SAHLoRASlicer.runs import Segmented

    layout = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLayoutNode")
    layout.SetViewArrangement(layout.SlicerLayoutConventionalView)
    plots = slicer.vtkSlicerPlotsLogic()
    plots.SetMRMLApplicationLogic(slicer.app.applicationLogic())
    plots.SetMRMLScene(slicer.mrmlScene)
    monkeypatch.setattr(slicer.modules, "plots", types.SimpleNamespace(logic=lambda: plots), raising=False)
    monkeypatch.setattr(slicer.app, "layoutManager", lambda: types.SimpleNamespace(setLayout=layout.SetViewArrangement))
    report = {"shape": [30, 8, 8], "total_ml": 1.0, "components": [], "slices": [], "model": {"name": "tiny"}, "warnings": []}
    segmentation, segment = segmentations.add_segment(np.zeros((30, 256, 256), np.uint8), sample)
    found = Segmented(sample, segmentation, segment, None, report, b"")
    ready.logic.run = types.SimpleNamespace(
        results={0: found}, errors={}, scans=[sample], job=types.SimpleNamespace(running=False, abandon=lambda: None)
    )
    ready.logic.finish(Outcome("done", {}))
    ready.refresh()
    ready.ui.tableButton.click()
    assert layout.GetViewArrangement() == layout.SlicerLayoutFourUpPlotTableView
    chosen = slicer.app.applicationLogic().GetSelectionNode()
    assert chosen.GetActiveTableID() and chosen.GetActivePlotChartID()


def test_mask_goes_into_a_new_segmentation_where_the_chosen_one_takes_none_any_more(ready: Any) -> None:
    chosen = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    ready._parameterNode.outputSegmentation = chosen
    ready.ui.segmentButton.click()
    chosen.GetSegmentation().SetSourceRepresentationName("Closed surface")
    wait(finished(ready))
    found = ready.logic.lastResult()
    assert found is not None and found.segmentation is not chosen, ready.ui.logText.plainText
    assert chosen.GetSegmentation().GetNumberOfSegments() == 0 and "it is in a new one" in ready.ui.logText.plainText


def test_segment_statistics_leaves_the_users_own_settings_alone(ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """SegmentStatistics as far as it matters here: a logic that takes the scene's parameter node, and two plugins."""
    import slicer
    from SAHLoRASlicer import segmentations, tables

    mine = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "SegmentStatistics")
    asked: list[Any] = []

    class LabelmapSegmentStatisticsPlugin:
        pass

    class ClosedSurfaceSegmentStatisticsPlugin:
        pass

    class SegmentStatisticsLogic:
        fails = False

        def __init__(self) -> None:
            self.plugins = [LabelmapSegmentStatisticsPlugin(), ClosedSurfaceSegmentStatisticsPlugin()]
            self.parameterNode: Any = None
            self.getParameterNode()

        def getParameterNode(self) -> Any:
            return mine

        def setParameterNode(self, node: Any) -> None:
            for plugin in self.plugins:
                node.SetParameter(f"{type(plugin).__name__}.enabled", "True")
            self.parameterNode = node

        def updateStatisticsForSegment(self, segment: str) -> None:
            if self.fails:
                raise ValueError("a plugin of another extension")
            node = self.getParameterNode()
            asked.append((node.GetParameter("Segmentation"), segment, [n for n in node.GetParameterNames() if node.GetParameter(n) == "True"]))

        def getStatistics(self) -> dict[Any, Any]:
            return {(segment, "LabelmapSegmentStatisticsPlugin.volume_cm3"): 2.5}

    module = types.ModuleType("SegmentStatistics")
    module.SegmentStatisticsLogic = SegmentStatisticsLogic  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "SegmentStatistics", module)
    volume = ready._parameterNode.inputVolume
    segmentation, segment = segmentations.add_segment(np.ones(slicer.util.arrayFromVolume(volume).shape, np.uint8), volume)
    count = slicer.mrmlScene.GetNumberOfNodes()
    assert tables.statistics_ml(segmentation, segment) == 2.5
    assert asked == [(segmentation.GetID(), segment, ["LabelmapSegmentStatisticsPlugin.enabled"])]
    assert slicer.mrmlScene.GetNumberOfNodes() == count and not list(mine.GetParameterNames())
    monkeypatch.setattr(SegmentStatisticsLogic, "fails", True)
    assert tables.statistics_ml(segmentation, segment) is None


def test_modules_own_test_passes(module: Any, scene: Any, model_folder: Path) -> None:
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(module.SAHLoRASegmentTest)
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun >= 2 and not result.skipped, result.skipped
    assert result.wasSuccessful(), [text for _, text in (*result.errors, *result.failures)]


def test_nothing_of_all_these_runs_is_left_in_the_temporary_folder(module: Any) -> None:
    assert _job_folders() - LEFT_BEFORE == set()
