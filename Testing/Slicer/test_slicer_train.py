"""The trainings of SAHLoRA Train, as a user goes: settings, a training, its results."""

from __future__ import annotations

import unittest
from pathlib import Path
from typing import Any

import pytest
import slicer
import slicer.util
from train_scenes import add, scene_case, wait


def test_empty_panel_says_why_nothing_can_be_trained(train: Any) -> None:
    assert not train.ui.trainButton.enabled and "There are no cases yet" in train.ui.trainButton.toolTip
    assert not train.ui.resumeButton.enabled and not train.ui.useButton.enabled
    assert "Select a head CT" in train.ui.addSceneButton.toolTip


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
    assert "what it started from (mean Dice" in train.ui.resultLabel.text
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


def test_results_are_set_against_what_the_training_started_from(train: Any, tmp_path: Path) -> None:
    folder = tmp_path / "trainings" / "mine"
    finished_training(folder, 0.81)
    outcome = train.panel.outcome
    outcome.choose(str(folder))
    assert "started from" not in train.ui.resultLabel.text
    (folder / "before_patients.csv").write_text("patient,stratum,dice,annotated_ml,predicted_ml\na,small,0.5,10,6\n")
    outcome.choose(str(folder))
    assert "It is better than what it started from (mean Dice +0.310; 1 better, 0 worse)." in train.ui.resultLabel.text


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
