"""The panel as a user goes: clicks, a real worker process, results in the scene. Qt is the stand-in, MRML is Slicer's."""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import types
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
from fake_process import FakeProcess, fake_job, finished, process_runs, wait


def _job_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("SAHLoRA-*"))


LEFT_BEFORE = _job_folders()


def test_segment_button_says_why_it_is_disabled(panel: Any, module: Any) -> None:
    assert not panel.ui.segmentButton.enabled
    assert "Select a head CT" in panel.ui.segmentButton.toolTip
    assert not panel.ui.editButton.enabled and "Check volumes" in panel.ui.batchButton.toolTip


def test_without_a_model_the_panel_says_where_to_put_one(panel: Any, sample: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from SAHLoRASlicer import models

    monkeypatch.setattr(models, "model_folders", lambda: [tmp_path])
    panel.initializeParameterNode()
    assert not panel.ui.segmentButton.enabled and "No model is there" in panel.ui.segmentButton.toolTip


def test_model_line_says_what_the_choice_is(ready: Any) -> None:
    assert ready.ui.modelComboBox.currentText == "tiny"
    assert "Untrained." in ready.ui.modelLabel.text and "not measured" in ready.ui.modelLabel.text


def test_adapters_are_offered_with_their_own_base_only(panel: Any, model_folder: Path, sample: Any) -> None:
    from SAHLoRALib.adapters import AdapterConfig, attach
    from SAHLoRALib.network import MultiViewUnet, NetworkConfig
    from SAHLoRALib.slices import PixelGrid
    from SAHLoRALib.weights import load_network, read_info, save_adapter, save_base

    info = read_info(model_folder / "tiny.safetensors")
    network, _ = load_network(info)
    config = AdapterConfig(rank=1)
    attach(network, config)
    made = [model_folder / "asah.safetensors", model_folder / "other.safetensors"]
    save_adapter(network, config, made[0], base=info, training={"lesion": "subarachnoid"})
    save_base(MultiViewUnet(NetworkConfig(levels=2, width=5)), made[1], grid=PixelGrid())
    try:
        panel.initializeParameterNode()
        panel.picker.choose("tiny", "asah")
        panel.onModelChosen()
        assert panel._parameterNode.adapter == "asah" and "An adapter (cp-lora, rank 1) of tiny" in panel.ui.modelLabel.text
        assert "Subarachnoid space" in panel.settings().terminology
        panel.ui.modelComboBox.setCurrentIndex(panel.ui.modelComboBox.findData("other"))
        assert panel.ui.adapterComboBox.findData("asah") < 0 and panel._parameterNode.adapter == "none"
    finally:
        for path in made:
            path.unlink()


def test_where_nothing_is_chosen_the_models_are_those_of_the_command_line(
    module: Any, scene: Any, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SAHLoRALib.model_folders import bundled_folders
    from SAHLoRALib.segmenter import DEFAULT_ADAPTER, DEFAULT_MODEL
    from SAHLoRASlicer import models
    from standin import application

    (model_folder / "a-first.safetensors").write_bytes((model_folder / "tiny.safetensors").read_bytes())
    monkeypatch.setattr(models, "model_folders", lambda: [model_folder, *bundled_folders()])
    panel = application.make_widget(module)
    try:
        panel.initializeParameterNode()
        assert (panel.picker.model_name, panel.picker.adapter_name) == (DEFAULT_MODEL, DEFAULT_ADAPTER)
        panel.ui.adapterComboBox.setCurrentIndex(panel.ui.adapterComboBox.findData("asah-cp-lora"))
        panel.picker.refresh(panel._parameterNode.model, panel._parameterNode.adapter)
        assert Path(panel.settings().adapter).stem == panel.picker.adapter_name == "asah-cp-lora"  # a choice stays
        panel.picker.choose("a-first", "")
        assert panel.picker.adapter_name == "none"
    finally:
        panel.cleanup()
        (model_folder / "a-first.safetensors").unlink()


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


def test_output_segmentation_that_takes_no_mask_is_told_before_the_run(ready: Any) -> None:
    chosen = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "RTSTRUCT")
    ready._parameterNode.outputSegmentation = chosen
    ready.refresh()
    assert ready.ui.segmentButton.enabled, ready.ui.segmentButton.toolTip
    chosen.GetSegmentation().SetSourceRepresentationName("Planar contour")
    ready.refresh()
    assert not ready.ui.segmentButton.enabled
    assert "RTSTRUCT" in ready.ui.segmentButton.toolTip and "New segmentation" in ready.ui.segmentButton.toolTip
    ready._parameterNode.outputSegmentation = None
    ready.refresh()
    assert ready.ui.segmentButton.enabled


def test_mask_goes_into_a_new_segmentation_where_the_chosen_one_takes_none_any_more(ready: Any) -> None:
    chosen = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    ready._parameterNode.outputSegmentation = chosen
    ready.ui.segmentButton.click()
    chosen.GetSegmentation().SetSourceRepresentationName("Closed surface")
    wait(finished(ready))
    found = ready.logic.lastResult()
    assert found is not None and found.segmentation is not chosen, ready.ui.logText.plainText
    assert chosen.GetSegmentation().GetNumberOfSegments() == 0 and "it is in a new one" in ready.ui.logText.plainText


def test_nodes_that_come_while_another_module_is_shown_cost_nothing(ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from SAHLoRASlicer import dependencies

    seen, refresh = [], ready.logic.usableVolumes
    monkeypatch.setattr(ready.logic, "usableVolumes", lambda: seen.append(1) or refresh())
    monkeypatch.setattr(dependencies, "missing_packages", lambda path: seen.append(path) or [])
    ready.exit()
    monkeypatch.setattr(ready.parent, "_entered", False)  # what Slicer's parent says of isEntered then
    slicer.mrmlScene.RemoveNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode"))
    assert seen == []
    monkeypatch.setattr(ready.parent, "_entered", True)
    ready.enter()
    assert seen
    seen.clear()
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode")
    assert seen == [1], "the list of volumes anew, the packages not"


def test_batch_goes_on_after_a_bad_volume_and_fills_its_rows(ready: Any, sample: Any) -> None:
    from SAHLoRASlicer.volumes import local_matrix, volume_from_array

    bad = volume_from_array(np.zeros((30, 64, 64), np.int16), local_matrix(sample), "no head")
    import qt

    for row in range(2):
        ready.ui.batchTable.item(row, 0).setCheckState(qt.Qt.Checked)
    ready.refresh()
    assert len(ready.batch.checked()) == 2 and ready.ui.batchButton.enabled
    ready.ui.batchButton.click()
    wait(finished(ready))
    rows = {name: (state, ml) for name, state, ml in ready.batch.rows()}
    assert rows[sample.GetName()][0] == "segmented" and float(rows[sample.GetName()][1]) > 100
    assert rows[bad.GetName()][0].startswith("failed:") and "scan_002" not in rows[bad.GetName()][0]
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1


def test_where_no_volume_can_be_segmented_each_row_says_why(ready: Any, sample: Any) -> None:
    import qt
    from SAHLoRASlicer.volumes import local_matrix, volume_from_array

    bad = [volume_from_array(np.zeros((30, 64, 64), np.int16), local_matrix(sample), f"no head {n}") for n in (1, 2)]
    ready.refresh()
    for row in range(3):
        ready.ui.batchTable.item(row, 0).setCheckState(qt.Qt.Checked if row else qt.Qt.Unchecked)
    ready.refresh()
    assert ready.batch.checked() == bad
    ready.ui.batchButton.click()
    wait(finished(ready))
    rows = {name: state for name, state, _ in ready.batch.rows()}
    assert all(rows[node.GetName()].startswith("failed: ") and len(rows[node.GetName()]) > 20 for node in bad)
    assert "None of the 2 volumes could be segmented" in ready.ui.logText.plainText and "summary.csv" not in ready.ui.logText.plainText


def test_volumes_are_written_one_per_turn_and_a_cancel_between_ends_it(scene: Any, sample: Any) -> None:
    from SAHLoRASlicer.runs import SegmentRun, SegmentSettings

    process, later, outcomes = FakeProcess(), [], []

    def make_job(on_event: Any, on_finished: Any) -> Any:
        job = fake_job(process, later)
        job._on_finished = on_finished
        return job

    run = SegmentRun([sample] * 3, SegmentSettings(), lambda event: None, outcomes.append, make_job=make_job)
    run.start()
    written = lambda: len(list(run.job.folder.glob("scan_*.nrrd")))  # noqa: E731
    assert written() == 1 and run.job.running and "start" not in process.asked
    later.pop(0)[1]()
    assert written() == 2 and run.job.running
    run.job.cancel()
    later.pop(0)[1]()
    assert [outcome.state for outcome in outcomes] == ["cancelled"] and "start" not in process.asked
    assert not run.job.folder.exists() and not run.job.running


def test_folder_of_studies_ends_with_a_csv(ready: Any, sample: Any, tmp_path: Path) -> None:
    from SAHLoRASlicer.samples import sample_file

    source = tmp_path / "studies"
    source.mkdir()
    (source / "good.nrrd").write_bytes(sample_file().read_bytes())
    (source / "bad.nrrd").write_bytes(b"no scan")
    ready.ui.batchInputEdit.currentPath = str(source)
    assert "folder for the results" in ready.ui.batchButton.toolTip
    ready.ui.batchOutputEdit.currentPath = str(tmp_path / "results")
    ready.ui.batchButton.click()
    wait(finished(ready))
    rows = {row["name"]: row for row in csv.DictReader((tmp_path / "results" / "summary.csv").open())}
    assert rows["good"]["status"] == "ok" and rows["bad"]["status"] == "failed"
    shown = {name: state for name, state, _ in ready.batch.rows()}
    assert shown["good"] == "segmented" and shown["bad"].startswith("failed")
    assert "summary.csv" in ready.ui.logText.plainText
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []
    # Reports of an earlier run say nothing of what a later one has done.
    report = tmp_path / "results" / "good" / "report.json"
    assert ready.logic.run.report("good")["total_ml"] > 100
    report.write_text(json.dumps(json.loads(report.read_text()) | {"date": "2026-01-01T00:00:00+00:00"}))
    assert ready.logic.run.report("good") is None
    # The table shows studies now; a single volume is segmented all the same.
    ready.ui.segmentButton.click()
    wait(finished(ready))
    assert ready.logic.lastResult() is not None and "Traceback" not in ready.ui.logText.plainText


def _start(panel: Any) -> tuple[int, Path]:
    panel.ui.segmentButton.click()
    job = panel.logic.run.job
    wait(lambda: job.pid)
    return job.pid, job.folder


@pytest.fixture
def slow_model(model_folder: Path) -> Iterator[str]:
    """The name of a model that needs seconds for a scan on any machine of these years: it is cancelled long before."""
    import torch
    from SAHLoRALib.network import MultiViewUnet, NetworkConfig
    from SAHLoRALib.slices import PixelGrid
    from SAHLoRALib.weights import save_base

    torch.manual_seed(0)
    path = model_folder / "slow.safetensors"
    save_base(MultiViewUnet(NetworkConfig(levels=4, width=32)), path, grid=PixelGrid(pixel_mm=1.0))
    yield "slow"
    path.unlink()


def _at_the_network(event: dict[str, Any]) -> bool:
    return event["event"] == "progress" and str(event.get("detail", "")).rpartition(": ")[2].startswith("slice ")


@pytest.mark.parametrize("stage", ["the process has begun", "the network has begun"])
def test_cancel_ends_the_process_and_leaves_nothing(ready: Any, slow_model: str, stage: str) -> None:
    ready.initializeParameterNode()
    ready.picker.choose(slow_model, "none")
    ready.onModelChosen()
    ready.ui.flipsCheckBox.checked = True
    events: list[dict[str, Any]] = []
    follow = ready.onEvent
    ready.onEvent = lambda event: (follow(event), events.append(event))
    pid, folder = _start(ready)
    if stage == "the network has begun":
        wait(lambda: any(_at_the_network(event) for event in events) or not ready.logic.running)
    assert ready.logic.running, ready.ui.logText.plainText
    ready.ui.segmentButton.click()
    assert not ready.ui.segmentButton.enabled
    wait(finished(ready))
    wait(lambda: not process_runs(pid))
    assert not folder.exists() and slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []
    assert ready.ui.segmentButton.enabled and "Cancelled" in ready.ui.statusLabel.text


def test_closing_the_scene_during_a_run_ends_it_quietly(ready: Any) -> None:
    pid, folder = _start(ready)
    slicer.mrmlScene.Clear(0)
    wait(finished(ready))
    wait(lambda: not process_runs(pid))
    assert not folder.exists() and slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []


def test_volume_removed_during_a_run_drops_its_result_and_says_so(ready: Any, sample: Any) -> None:
    _start(ready)
    slicer.mrmlScene.RemoveNode(sample)
    wait(finished(ready))
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == [] and "removed" in ready.ui.logText.plainText


def test_run_goes_on_while_another_module_is_shown(ready: Any) -> None:
    _start(ready)
    ready.exit()
    wait(finished(ready))
    ready.enter()
    assert ready.logic.lastResult() is not None


def test_closing_the_panel_during_a_run_ends_the_process(ready: Any) -> None:
    pid, folder = _start(ready)
    ready.cleanup()  # what Slicer calls when it quits, and when the module is reloaded
    wait(lambda: not process_runs(pid))
    assert not folder.exists()
    slicer.app.processEvents()


def test_declined_installation_leaves_the_panel_usable(ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from SAHLoRASlicer import dependencies

    def decline(path: Path, log: Any) -> None:
        raise dependencies.Missing("PyTorch was not installed, and nothing can be segmented without it.")

    monkeypatch.setattr(dependencies, "ensure", decline)
    ready.ui.segmentButton.click()
    assert not ready.logic.running and ready.ui.segmentButton.enabled
    assert "PyTorch was not installed" in ready.ui.statusLabel.text


def test_misspelt_signals_and_calls_of_properties_raise_in_the_stand_in(panel: Any) -> None:
    with pytest.raises(AttributeError, match="no signal"):
        panel.ui.segmentButton.connect("clickd(bool)", panel.onSegment)
    with pytest.raises(TypeError):
        panel.ui.segmentButton.text()
    with pytest.raises(AttributeError):
        panel.ui.segmentButton.toolTipp = "x"


def test_modules_own_test_passes(module: Any, scene: Any, model_folder: Path) -> None:
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(module.SAHLoRASegmentTest)
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun >= 2 and not result.skipped, result.skipped
    assert result.wasSuccessful(), [text for _, text in (*result.errors, *result.failures)]


def test_nothing_of_all_these_runs_is_left_in_the_temporary_folder(module: Any) -> None:
    assert _job_folders() - LEFT_BEFORE == set()


def test_a_label_map_that_comes_first_is_not_taken_for_the_scan(panel: Any) -> None:
    import slicer

    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "mask")
    hu = np.full((4, 8, 8), 30, np.int16)
    from SAHLoRASlicer import volumes

    scan = volumes.volume_from_array(hu, np.eye(4), "CT")
    panel.initializeParameterNode()
    assert panel._parameterNode.inputVolume is scan


def test_a_scene_that_comes_in_while_the_panel_is_shown_is_followed(panel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import slicer

    panel.setParameterNode(None)
    slicer.mrmlScene.InvokeEvent(slicer.mrmlScene.EndImportEvent)
    assert panel._parameterNode is not None


def test_an_emptied_folder_of_studies_brings_the_volumes_back(ready: Any, tmp_path: Path) -> None:
    ready.ui.batchInputEdit.currentPath = str(tmp_path)
    assert not ready.ui.batchButton.enabled and "folder for the results" in ready.ui.batchButton.toolTip
    ready.ui.batchInputEdit.currentPath = ""
    assert "folder for the results" not in ready.ui.batchButton.toolTip


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


def test_a_copy_of_an_older_sample_is_not_taken_for_this_one(module: Any, scene: Any) -> None:
    import hashlib

    import SampleData
    from SAHLoRASlicer import samples

    module.registerSampleData()
    told = SampleData.sources[samples.NAME]["checksums"]
    assert told == "SHA256:" + hashlib.sha256(samples.sample_file().read_bytes()).hexdigest()
