"""SAHLoRA Train, as a user goes, on slicer-core and the stand-in for Qt."""

from __future__ import annotations

import unittest
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
from fake_process import wait as wait_for

wait = partial(wait_for, seconds=150.0)
TRAIN = Path(__file__).resolve().parents[2] / "SAHLoRATrain" / "SAHLoRATrain.py"


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


def head(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(slices, rows, columns) HU of a skull with brain, and the mask of a bleed in it."""
    k, j, i = np.ogrid[0:8, 0:48, 0:48]
    r = np.hypot(j - 24, i - 24)
    hu = np.where(r < 20, np.where(r < 17, 32, 1000), -1000) + np.zeros((8, 48, 48))
    hu = (hu + np.random.default_rng(seed).normal(0, 3, hu.shape)).astype(np.int16)
    mask = (np.hypot(j - 20 - seed % 5, i - 26) < 5) & (k >= 2) & (k < 6)
    hu[mask] = 65
    return hu, mask.astype(np.uint8)


def scene_case(seed: int) -> tuple[Any, Any, str]:
    from SAHLoRASlicer import segmentations, volumes

    hu, mask = head(seed)
    volume = volumes.volume_from_array(hu, np.diag([-4.0, -4.0, 5.0, 1.0]), f"CT {seed}")
    return volume, *segmentations.add_segment(mask, volume)


def add(train: Any, count: int) -> None:
    for seed in range(count):
        train.panel.cases.add_node(*scene_case(seed), f"patient-{seed}")
    wait(lambda: not train.panel.cases.report.unchecked)


def test_empty_panel_says_why_nothing_can_be_trained(train: Any) -> None:
    assert not train.ui.trainButton.enabled and "There are no cases yet" in train.ui.trainButton.toolTip
    assert not train.ui.resumeButton.enabled and not train.ui.useButton.enabled
    assert "Select a head CT" in train.ui.addSceneButton.toolTip


def test_case_from_the_scene_is_stored_checked_opened_and_corrected(train: Any) -> None:
    volume, segmentation, segment = scene_case(1)
    train._parameterNode.volume = volume
    train.ui.segmentSelector.setCurrentNode(segmentation)
    train.ui.segmentSelector.setCurrentSegmentID(segment)
    train.panel.refresh()
    assert train.ui.addSceneButton.enabled, train.ui.addSceneButton.toolTip
    train.ui.addSceneButton.click()
    wait(lambda: train.panel.cases.report.rows and not train.panel.cases.report.unchecked)
    row = train.panel.cases.report.rows[0]
    assert (row.patient, row.slices, row.state) == ("patient-001", 8, "good") and row.ml > 1
    assert "1 case" in train.ui.totalsLabel.text and "one case only" in train.ui.trainButton.toolTip
    train.ui.openButton.click()
    opened = train.panel.cases.find_open(row.case)
    assert opened is not None and train.ui.keepButton.enabled
    array = np.zeros(slicer.util.arrayFromVolume(opened.volume).shape, np.uint8)
    array[3, 10:20, 10:20] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(array, opened.segmentation, opened.segment, opened.volume)
    train.ui.keepButton.click()
    wait(lambda: not train.panel.cases.report.unchecked)
    assert train.panel.cases.report.rows[0].ml == pytest.approx(100 * 0.08), train.ui.logText.plainText
    train.ui.removeButton.click()
    assert train.panel.cases.report.rows == () and not list(Path(train._parameterNode.caseFolder).glob("case-*"))


def far_off(seed: int) -> tuple[Any, Any, str]:
    """A case at a table position of -900 mm."""
    from SAHLoRASlicer import segmentations, volumes

    hu, mask = head(seed)
    place = np.diag([-4.0, -4.0, 5.0, 1.0])
    place[:3, 3] = (100.0, 100.0, -900.0)
    volume = volumes.volume_from_array(hu, place, "far off")
    return volume, *segmentations.add_segment(mask, volume)


def test_opened_case_is_seen_wherever_it_lies_and_a_view_that_shows_it_stays(train: Any, slice_view: Any) -> None:
    train.panel.cases.add_node(*far_off(1), "patient-1")
    wait(lambda: not train.panel.cases.report.unchecked)
    train.ui.openButton.click()
    opened = train.panel.cases.find_open("case-001")
    assert slice_view.GetSliceCompositeNode().GetBackgroundVolumeID() == opened.volume.GetID()
    assert -900.0 <= slice_view.GetSliceOffset() <= -865.0
    assert min(slice_view.GetSliceNode().GetFieldOfView()[:2]) > 8 * 4.0
    slice_view.SetSliceOffset(-890.0)  # the user scrolls
    train.ui.openButton.click()
    assert slice_view.GetSliceOffset() == -890.0, train.ui.logText.plainText


def test_empty_segmentation_is_told_in_one_sentence_and_not_stored(train: Any) -> None:
    volume, segmentation, segment = scene_case(1)
    slicer.util.updateSegmentBinaryLabelmapFromArray(np.zeros((8, 48, 48), np.uint8), segmentation, segment, volume)
    train.panel.cases.add_node(volume, segmentation, segment, "p")
    wait(lambda: not train.panel.cases.report.unchecked)
    assert "empty" in train.panel.cases.report.rows[0].state and not train.ui.trainButton.enabled


def test_a_path_that_is_being_typed_is_taken_when_it_rests_or_at_a_click(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later: list[Any] = []
    monkeypatch.setattr(train.panel, "_later", lambda ms, call: later.append(call))
    before = train._parameterNode.caseFolder
    for path in (tmp_path / "o", tmp_path / "ot", tmp_path / "oth"):
        train.ui.caseFolderEdit.currentPath = str(path)
    later[0]()
    later[1]()
    assert train._parameterNode.caseFolder == before
    later[2]()
    assert train._parameterNode.caseFolder == str(tmp_path / "oth") == str(train.panel.cases.folder.folder)
    train.ui.caseFolderEdit.currentPath = str(tmp_path / "pressed")
    train.ui.checkButton.click()
    assert train.panel.cases.folder.folder == tmp_path / "pressed"


def test_a_folder_that_may_not_be_read_is_told_in_the_log(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Any) -> None:
        raise PermissionError(13, "Permission denied", "/somewhere")

    monkeypatch.setattr(type(train.panel.cases.folder), "peek", refused)
    train.panel.cases.refresh()
    assert train.panel.cases.report.rows == () and "Permission denied" in train.ui.logText.plainText


def test_a_scene_that_comes_in_brings_its_own_case_folder(train: Any, tmp_path: Path) -> None:
    scene, node = slicer.mrmlScene, train._parameterNode
    node.caseFolder = str(tmp_path / "of-the-scene")
    scene.SetSaveToXMLString(1)
    scene.Commit()
    saved = scene.GetSceneXMLString()
    node.caseFolder = str(tmp_path / "here")
    train.initializeParameterNode()
    scene.SetLoadFromXMLString(1)
    scene.SetSceneXMLString(saved)
    scene.Import()
    assert train._parameterNode.caseFolder == str(tmp_path / "of-the-scene")
    assert train.panel.cases.folder.folder == tmp_path / "of-the-scene" == Path(train.ui.caseFolderEdit.currentPath)


def test_the_patient_that_was_typed_stays_until_the_case_is_stored(train: Any) -> None:
    add(train, 1)
    box = train.ui.patientComboBox
    assert box.currentText == "patient-001"
    box.setEditText("second-of-patient-0")
    train.panel.cases.add_node(*scene_case(1), "patient-001")  # the list of patients is another now
    train.panel.refresh()
    assert box.currentText == "second-of-patient-0" and box.itemText(0) == "patient-002"
    volume, segmentation, segment = scene_case(2)
    train._parameterNode.volume = volume
    train.ui.segmentSelector.setCurrentNode(segmentation)
    train.ui.segmentSelector.setCurrentSegmentID(segment)
    train.panel.refresh()
    train.ui.addSceneButton.click()
    assert train.panel.cases.patients()[-1] == "second-of-patient-0" and box.currentText == "patient-002"
    assert box.insertPolicy == type(box).InsertPolicy.NoInsert


def test_the_patient_of_another_case_folder_is_not_taken_along(train: Any, tmp_path: Path) -> None:
    add(train, 2)
    train.ui.patientComboBox.setEditText("patient-1")
    train.ui.caseFolderEdit.currentPath = str(tmp_path / "other")
    train.ui.checkButton.click()
    assert train.panel.cases.folder.folder == tmp_path / "other" and train.ui.patientComboBox.currentText == "patient-001"


def test_the_patient_that_was_typed_stays_when_the_module_is_shown_again(train: Any) -> None:
    add(train, 1)
    train.ui.patientComboBox.setEditText("second-of-patient-1")
    train.enter()  # back from the Segment Editor
    assert train.ui.patientComboBox.currentText == "second-of-patient-1"


def test_files_that_are_dropped_while_a_training_reads_the_cases_are_refused(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(train, 1)
    before = (train.panel.cases.folder.folder / "cases.csv").read_bytes()
    monkeypatch.setattr(type(train.panel), "running", property(lambda panel: True))
    train.panel.cases.add_files([tmp_path])
    assert "Not while a training reads" in train.ui.logText.plainText
    assert (train.panel.cases.folder.folder / "cases.csv").read_bytes() == before


def test_a_second_click_during_an_installation_starts_nothing(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from SAHLoRASlicer import dependencies

    started: list[Any] = []

    def installing(*_: Any) -> None:
        assert "Starting" in train.ui.statusLabel.text
        if len(started) < 3:  # pip lets Slicer go on, and the user clicks
            train.panel.train()
        raise dependencies.Missing("Declined.")

    def counted(*arguments: Any) -> None:
        started.append(arguments)
        installing()

    monkeypatch.setattr(dependencies, "ensure", counted)
    train.panel.train()
    assert len(started) == 1 and train.panel.run is None and not train.panel.starting
    assert "Declined." in train.ui.statusLabel.text


def test_a_segment_that_is_gone_cannot_be_stored(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    volume, segmentation, segment = scene_case(1)
    train._parameterNode.volume = volume
    train.ui.segmentSelector.setCurrentNode(segmentation)
    train.ui.segmentSelector.setCurrentSegmentID(segment)
    monkeypatch.setattr(type(train.ui.segmentSelector), "currentSegmentID", lambda self: segment)  # as Slicer's goes on saying
    train.panel.refresh()
    assert train.ui.addSceneButton.enabled
    segmentation.GetSegmentation().RemoveSegment(segment)
    train.panel.refresh()
    assert not train.ui.addSceneButton.enabled and "Choose the segment" in train.ui.addSceneButton.toolTip


def test_the_output_folder_can_be_emptied_again(train: Any, tmp_path: Path) -> None:
    assert train.ui.outputEdit.currentPath == str(tmp_path / "trainings" / "mine")
    train.ui.outputEdit.currentPath = ""
    train.panel.refresh()
    assert train._parameterNode.outputFolder == train.ui.outputEdit.currentPath == ""
    assert train.panel.plan().output.endswith("my-adapter")


def test_samples_that_are_ready_after_the_scene_closed_are_told(train: Any) -> None:
    from SAHLoRASlicer.job import Outcome
    from SAHLoRASlicer.train_run import SampleRun

    train.panel.run = SampleRun(Path(train._parameterNode.caseFolder), print, print)
    train.setParameterNode(None)
    train.panel.on_finished(Outcome("done", {}))
    assert "Finished." in train.ui.logText.plainText
    train.panel.run.job.abandon()


def test_two_scans_of_one_patient_are_told_in_the_patient_cell(train: Any) -> None:
    from SAHLoRASlicer.train_cases import PATIENT

    add(train, 2)
    train.ui.casesTable.item(1, PATIENT).setText("patient-0")
    wait(lambda: train.panel.cases.patients() == ["patient-0"])
    assert [row.patient for row in train.panel.cases.folder.rows()] == ["patient-0", "patient-0"]
    train.ui.casesTable.item(1, PATIENT).setText(" ")
    wait(lambda: train.ui.casesTable.item(1, PATIENT).text() == "patient-0")
    assert "patient" in train.ui.logText.plainText


def test_more_folds_than_patients_disables_training_and_says_so(train: Any) -> None:
    add(train, 4)
    train._parameterNode.folds = 9
    assert "9 folds need at least 9 patients" in train.ui.trainButton.toolTip


def test_method_says_what_it_is_and_how_many_numbers_learn(train: Any) -> None:
    box = train.ui.methodComboBox
    box.setCurrentIndex(box.findData("conv-lora"))
    assert train._parameterNode.method == "conv-lora" and train._parameterNode.learningRate == pytest.approx(1e-3)
    before = train.ui.sizeLabel.text
    train.ui.rankSpinBox.value = 16
    assert "numbers learn" in before and train.ui.sizeLabel.text != before
    train.ui.headCheckBox.checked = False
    assert "head" not in train._parameterNode.modules
    assert "--adapter.rank=16" in train.ui.commandText.plainText
    train.ui.strengthSpinBox.value = 0.5
    assert "--adapter.strength=0.5" in train.ui.commandText.plainText


def test_the_time_limit_goes_to_the_training_and_to_a_study(train: Any) -> None:
    from SAHLoRASlicer.train_plan import TrainingPlan

    node, ui = train._parameterNode, train.ui
    assert train.panel.plan().minutes == node.minutes == ui.minutesSpinBox.value == 60  # an hour, unless the user says otherwise
    ui.minutesSpinBox.value = 25
    plan = train.panel.plan()
    assert plan.job()["minutes"] == 25 and "--minutes=25" in plan.command_line("python")
    node.minutes = 0
    assert "minutes" not in train.panel.plan().job() and "minutes" not in TrainingPlan().job()  # as in plans of earlier versions
    node.minutes, node.preset = 25, "study"
    assert train.panel.plan().job()["minutes"] == 25


def test_blood_window_and_case_are_set_in_the_segment_editor(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    asked: dict[str, Any] = {}
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    names = ("setSegmentationNode", "setSourceVolumeNode", "setCurrentSegmentID")
    editor = types.SimpleNamespace(
        mrmlSegmentEditorNode=lambda: node, **{name: lambda value, name=name: asked.update({name: value}) for name in names}
    )
    shown = types.SimpleNamespace(self=lambda: types.SimpleNamespace(editor=editor))
    monkeypatch.setattr(slicer.util, "selectModule", lambda name: asked.update(module=name))
    monkeypatch.setattr(slicer.modules, "segmenteditor", types.SimpleNamespace(widgetRepresentation=lambda: shown), raising=False)
    add(train, 1)
    train.ui.annotateButton.click()
    opened = train.panel.cases.find_open("case-001")
    assert asked["module"] == "SegmentEditor" and asked["setSourceVolumeNode"] is opened.volume and asked["setCurrentSegmentID"] == opened.segment
    assert node.GetSourceVolumeIntensityMask() and tuple(node.GetSourceVolumeIntensityMaskRange()) == (30.0, 100.0)
    # The node is one for all: what SAHLoRA Segment hands to the editor is not limited by what was annotated before.
    from SAHLoRASlicer.logic import SAHLoRASegmentLogic

    last = types.SimpleNamespace(segmentation=opened.segmentation, volume=opened.volume, segment=opened.segment)
    SAHLoRASegmentLogic.editLast(types.SimpleNamespace(lastResult=lambda: last))
    assert not node.GetSourceVolumeIntensityMask()


def test_training_cancels_resumes_and_shows_its_results(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(train, 4)
    node = train._parameterNode
    node.folds, node.epochs, node.rank, node.device, node.name = 2, 2, 1, "cpu", "trained-here"
    assert train.ui.trainButton.enabled, train.ui.trainButton.toolTip
    train.ui.trainButton.click()
    assert train.ui.trainButton.text == "Cancel"
    wait(lambda: train.panel.run.job.pid)
    train.ui.trainButton.click()
    wait(lambda: not train.panel.running)
    assert train.ui.resumeButton.enabled, train.ui.logText.plainText
    train.ui.resumeButton.click()
    wait(lambda: not train.panel.running)
    assert "Finished" in train.ui.statusLabel.text, train.ui.logText.plainText
    assert train.panel.outcome.results is not None and len(train.panel.outcome.results.patients) == 4
    assert train.ui.useButton.enabled and train.ui.startComboBox.findData("trained-here") > 0
    assert len(slicer.util.getNodesByClass("vtkMRMLPlotChartNode")) >= 3
    train.ui.patientsTable.setCurrentCell(0, 0)
    train.panel.outcome.show_patient()
    names = [n.GetName() for n in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")]
    assert any("prediction" in name for name in names) and any("annotation" in name for name in names)
    loop_goes_on_from(train, "trained-here")
    model = train.panel.outcome.model
    from SAHLoRASlicer import train_run

    written = train_run.export(train.panel.outcome.plan, tmp_path / "for a colleague")
    assert {"trained-here-2.safetensors", "report.md"} <= {path.name for path in written}
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda *given, **named: True)
    train.ui.deleteButton.click()
    assert not model.exists() and train.panel.outcome.plan.name == "trained-here"
    train.ui.deleteButton.click()
    assert train.panel.outcome.plan is None


def loop_goes_on_from(train: Any, name: str) -> None:
    """One more case, and a training that goes on from the adapter: same kind, same folds, and a word on which of the two is better."""
    from SAHLoRALib.folds import Folds

    node, first = train._parameterNode, Path(train._parameterNode.outputFolder)
    train.panel.cases.add_node(*scene_case(9), "patient-9")
    wait(lambda: not train.panel.cases.report.unchecked)
    node.rank, node.strength = 5, 0.5
    train.ui.startComboBox.setCurrentIndex(train.ui.startComboBox.findData(name))
    assert (node.rank, node.strength) == (1, 1.0) and not train.ui.methodComboBox.enabled and not train.ui.rankSpinBox.enabled
    assert node.name == f"{name}-2" and f"Goes on from {name}" in train.ui.methodLabel.text
    node.folds = 3
    assert "was trained with 2 folds" in train.ui.trainButton.toolTip
    node.folds, node.outputFolder = 2, str(first.parent / "second")
    assert f"--former-run={first}" in train.ui.commandText.plainText and "--continue-from=" in train.ui.commandText.plainText
    assert train.ui.trainButton.enabled, train.ui.trainButton.toolTip
    train.ui.trainButton.click()
    wait(lambda: not train.panel.running)
    assert "Finished" in train.ui.statusLabel.text and "start from the base" not in train.ui.logText.plainText, train.ui.logText.plainText
    assert "4 patients that both were measured on" in train.ui.resultLabel.text
    kept, now = (Folds.read(folder / "folds.json").folds for folder in (first, first.parent / "second"))
    assert {patient: now[patient] for patient in kept} == dict(kept) and len(now) == 5


def test_trained_adapter_is_chosen_in_sahlora_segment(train: Any, module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import types

    from SAHLoRALib.adapters import AdapterConfig, attach
    from SAHLoRALib.model_folders import user_folder
    from SAHLoRALib.weights import load_network, read_info, save_adapter
    from SAHLoRASlicer.train_plan import FINISHED, TrainingPlan
    from standin import application

    segment = application.make_widget(module)
    shown: list[str] = []
    monkeypatch.setattr(slicer.util, "selectModule", shown.append)
    page = types.SimpleNamespace(widgetRepresentation=lambda: types.SimpleNamespace(self=lambda: segment))
    monkeypatch.setattr(slicer.modules, "sahlorasegment", page, raising=False)
    base, own = user_folder() / "tiny.safetensors", user_folder() / "of-our-hospital.safetensors"
    network, config = load_network(base)[0], AdapterConfig(rank=1)
    attach(network, config)
    save_adapter(network, config, own, base=read_info(base))
    try:
        plan = TrainingPlan(base=str(base), name="of-our-hospital", output=str(tmp_path / "trainings" / "mine"))
        plan.save(FINISHED)
        train.panel.outcome.list_trainings()
        train.panel.refresh()
        train.ui.useButton.click()
        assert shown == ["SAHLoRASegment"] and segment.picker.adapter_name == "of-our-hospital"
        assert segment._parameterNode.adapter == "of-our-hospital", train.ui.logText.plainText
    finally:
        own.unlink()
        segment.cleanup()


def finished_training(folder: Path, dice: float) -> None:
    from SAHLoRASlicer.train_plan import FINISHED, TrainingPlan

    TrainingPlan(output=str(folder), name=folder.name).save(FINISHED)
    (folder / "evaluation_patients.csv").write_text(f"patient,stratum,dice,annotated_ml,predicted_ml\na,small,{dice},10,11\n")


@pytest.mark.parametrize("written", ["{}/", "{}/.", "{}"])
def test_after_a_training_its_own_results_are_shown_however_its_folder_is_written(train: Any, tmp_path: Path, written: str) -> None:
    import types

    from SAHLoRASlicer.job import Outcome

    finished_training(tmp_path / "trainings" / "old", 0.11)
    finished_training(tmp_path / "mine" / "new", 0.99)
    finished_training(tmp_path / "mine" / "another", 0.22)
    outcome = train.panel.outcome
    train._parameterNode.outputFolder = written.format(tmp_path / "mine" / "new")
    plan = train.panel.plan()
    assert plan.output == str(tmp_path / "mine" / "new")
    train.panel.run = types.SimpleNamespace(plan=plan, job=types.SimpleNamespace(running=False, abandon=lambda: None))
    outcome.list_trainings()
    train.panel.on_finished(Outcome("done", {}))
    assert outcome.plan.output == plan.output and outcome.results.patients[0]["dice"] == "0.99"
    assert len(outcome.trainings) == train.ui.runComboBox.count == 3
    outcome.choose(written.format(tmp_path / "mine" / "another"))
    assert outcome.results.patients[0]["dice"] == "0.22"


def test_results_of_a_training_elsewhere_are_shown_and_kept_and_those_of_none_are_not_another_s(train: Any, tmp_path: Path) -> None:
    finished_training(tmp_path / "trainings" / "old", 0.11)
    finished_training(tmp_path / "elsewhere" / "resumed", 0.99)
    outcome = train.panel.outcome
    outcome.list_trainings()
    assert outcome.results.patients[0]["dice"] == "0.11"
    outcome.choose(str(tmp_path / "elsewhere" / "resumed"))  # the output folder that the panel names is another
    outcome.list_trainings()
    assert outcome.results.patients[0]["dice"] == "0.99"
    outcome.choose(str(tmp_path / "gone"))
    assert outcome.plan is None and outcome.results is None and train.ui.patientsTable.rowCount == 0
    assert f"There is no training in {tmp_path / 'gone'}" in train.ui.logText.plainText


@pytest.mark.slow
def test_sample_cases_are_made_and_stand_in_the_table(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from SAHLoRASlicer import train_run

    monkeypatch.setattr(train_run, "SAMPLE", {**train_run.SAMPLE, "count": 2, "matrix": 96, "slices": 8})
    train.ui.sampleButton.click()
    wait(lambda: not train.panel.running, seconds=120.0)
    assert "Finished" in train.ui.statusLabel.text, train.ui.logText.plainText
    wait(lambda: train.panel.cases.report.rows and not train.panel.cases.report.unchecked)
    assert len(train.panel.cases.report.rows) == train.ui.casesTable.rowCount == 2 and "2 cases" in train.ui.totalsLabel.text
    assert Path(train._parameterNode.caseFolder).name == "sample-cases" and train._parameterNode.epochs == train_run.SAMPLE_EPOCHS


def test_full_disk_is_told_before_the_run(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    import types

    add(train, 4)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: types.SimpleNamespace(free=12_000_000))
    train.panel.refresh()
    assert "has 12 MB left" in train.ui.trainButton.toolTip and not train.ui.trainButton.enabled


def test_fault_of_the_program_becomes_a_sentence(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from SAHLoRASlicer.train_widget import _guarded

    def broken() -> None:
        raise AttributeError("no such thing")

    _guarded(broken, train.panel.tell)()
    assert "That did not work (AttributeError: no such thing)" in train.ui.logText.plainText


def test_modules_own_test_passes(train_module: Any, scene: Any) -> None:
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(train_module.SAHLoRATrainTest).run(result)
    assert result.testsRun >= 3 and result.wasSuccessful(), [text for _, text in (*result.errors, *result.failures)]
