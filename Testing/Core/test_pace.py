"""Training for so many minutes at most."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from SAHLoRALib import pace
from SAHLoRALib.cli import main
from SAHLoRALib.errors import Cancelled, ConfigError
from SAHLoRALib.events import Events
from SAHLoRALib.pace import FEW_STEPS, FEWEST_STEPS, SHARE, VALIDATIONS, Pace, Part, measured_pace, steps_within, within_minutes
from SAHLoRALib.runs import RESULT
from SAHLoRALib.study import run_study
from SAHLoRALib.study_config import StudyConfig
from SAHLoRALib.weights import read_info
from small_training import SMALL
from tiny_cohort import CancelAfter, flags, quick, save_cohort, save_tiny_base, user_models

PART = Part(trainings=4, validated=3, positives=200, validation_slices=150)
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return user_models(tmp_path, monkeypatch)


class Machine:
    """Measures what it was told to, and counts how often it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step_s: float = 2.0, slice_s: float = 0.1) -> None:
        self.pace, self.asked = Pace(step_s, slice_s), 0
        monkeypatch.setattr(pace, "measured_pace", self.measure)

    def measure(self, *_: object, **__: object) -> Pace:
        self.asked += 1
        return self.pace


def limited(folder: Path, minutes: float, part: Part = PART, fresh: bool = False, **changes: object) -> tuple[int | None, int | None]:
    config = within_minutes(replace(SMALL, steps=1000, **changes), minutes, None, part, folder, Events(), fresh=fresh)  # type: ignore[arg-type]
    return config.steps, config.steps_per_epoch


@pytest.mark.parametrize("minutes", [3.0, 10.0, 30.0, 240.0])
@pytest.mark.parametrize("part", [PART, Part(1, 1, 50, 400), Part(1, 0, 50, 0)])
@pytest.mark.parametrize("machine", [Pace(4.3, 0.2), Pace(0.06, 0.002)])
def test_all_steps_and_validations_together_fill_the_minutes(minutes: float, part: Part, machine: Pace) -> None:
    steps, validations = steps_within(minutes, machine, part)
    each = part.validation_slices * machine.slice_s * part.validated
    taken = part.trainings * steps * machine.step_s + validations * each
    assert steps == 0 or 60 * minutes - part.trainings * machine.step_s < taken <= 60 * minutes + 1e-6
    assert 1 <= validations <= VALIDATIONS and (validations == 1 or validations * each <= SHARE * 60 * minutes)


def test_fewer_steps_than_asked_for_where_the_machine_is_slow_and_never_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch)
    steps, an_epoch = limited(tmp_path / "short", 30)
    assert steps is not None and an_epoch is not None and steps < 1000
    assert (steps, an_epoch * VALIDATIONS >= steps) == (steps_within(30, Pace(2.0, 0.1), PART)[0], True)
    assert limited(tmp_path / "long", 300) == (1000, SMALL.steps_per_epoch)
    epochs = replace(SMALL, steps=None, steps_per_epoch=None, epochs=2, batch=4)
    assert within_minutes(epochs, 30, None, PART, tmp_path / "epochs", Events()) == replace(epochs, learning_rate=epochs.rate)  # 2 × 100 steps


def test_the_number_of_steps_stays_when_a_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    first = limited(tmp_path, 30)
    machine.pace = Pace(0.5, 0.1)  # nothing else runs beside it any more
    assert limited(tmp_path, 30) == first and machine.asked == 1
    assert limited(tmp_path, 30, learning_rate=0.01) != first and machine.asked == 2  # another training
    assert limited(tmp_path, 31)[0] > first[0] and machine.asked == 3  # type: ignore[operator]
    machine.pace = Pace(2.0, 0.1)
    assert limited(tmp_path, 31, fresh=True)[0] < 1.1 * first[0] and machine.asked == 4  # type: ignore[operator]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"minutes": 30}', '{"minutes": NaN, "steps": "many"}'])
def test_a_damaged_file_is_measured_anew(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    first = limited(tmp_path, 30)
    (tmp_path / pace.FILE).write_text(content)
    assert limited(tmp_path, 30) == first and machine.asked == 2
    assert json.loads((tmp_path / pace.FILE).read_text())["steps"] == first[0]


@pytest.mark.parametrize("part", [PART, Part(1, 1, 50, 400), Part(4, 3, 200, 20_000)])
def test_too_few_minutes_are_refused_and_enough_are_told(part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch)
    with pytest.raises(ConfigError) as error:
        limited(tmp_path, 0.5, part)
    assert not (tmp_path / pace.FILE).exists()
    needed = int(str(error.value).split(" at least ")[1].split()[0])
    assert limited(tmp_path, needed, part)[0] >= FEWEST_STEPS  # type: ignore[operator]
    assert ("0 folds" in str(error.value)) == (part.trainings > 1)


@pytest.mark.parametrize("strategy", ["scratch", "adapter", "decoder"])
def test_a_pace_is_measured_without_a_trace(strategy: str, base: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    threads = torch.get_num_threads()
    config = replace(SMALL, strategy=strategy, network=base.network, grid=base.grid)  # type: ignore[attr-defined]
    told = measured_pace(config, None if strategy == "scratch" else base, Events())  # type: ignore[arg-type]
    assert told.step_s > 0 and told.slice_s > 0
    assert torch.get_num_threads() == threads and not list(tmp_path.glob("sahlora-*"))


def test_measuring_can_be_cancelled() -> None:
    events = Events()
    events.cancel()
    with pytest.raises(Cancelled):
        measured_pace(SMALL, None, events)


def train(cases: Path, run: Path, *more: str) -> int:
    words = [word if word != "2" else "400" for word in flags()[:2]] + flags()[2:]  # 400 steps are asked for
    assert words[:2] == ["--steps", "400"]
    return main(["train", str(cases), "--name", "mine", "--run", str(run), "--base", "tiny", *words, *more])


def test_all_folds_and_the_final_model_get_the_same_steps(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, step_s=0.5, slice_s=0.01)
    cases = save_cohort(tmp_path / "cases", (2, 3, 4, 5, 6, 7))
    assert train(cases, tmp_path / "work", "--folds", "2", "--minutes", "0.6") == 0
    results = [json.loads(path.read_text()) for path in (tmp_path / "work" / "runs").glob(f"cp-lora-*/{RESULT}")]
    steps = [result["steps"] for result in results]
    assert len(steps) == 2 and steps[0] == steps[1] >= FEWEST_STEPS and machine.asked == 1
    assert 3 * steps[0] * 0.5 <= 36
    told = read_info(models / "mine.safetensors").training
    assert told["steps"] <= steps[0] and told["config"]["steps_per_epoch"] == -(-steps[0] // VALIDATIONS)
    machine.pace = Pace(0.1, 0.01)
    assert train(cases, tmp_path / "work", "--folds", "2", "--minutes", "0.6") == 0 and machine.asked == 1  # finished: nothing is done again


def test_without_cross_validation_a_cancelled_training_goes_on_to_the_same_end(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, step_s=0.5, slice_s=0.01)
    cases = save_cohort(tmp_path / "cases", (2, 3, 4, 5, 6, 7))
    words = ["--folds", "0", "--minutes", "0.25"]
    with monkeypatch.context() as stopped:
        stopped.setattr("SAHLoRALib.commands.common.ConsoleEvents", lambda cancel_file=None: CancelAfter(6))
        assert train(cases, tmp_path / "work", *words) == 130
    machine.pace = Pace(0.2, 0.01)
    assert train(cases, tmp_path / "work", *words) == 0 and machine.asked == 1
    assert read_info(models / "mine.safetensors").training["steps"] == json.loads((tmp_path / "work" / pace.FILE).read_text())["steps"] < 40


def test_all_methods_of_a_study_get_the_same_steps_and_an_extended_study_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, step_s=0.5, slice_s=0.01)
    base = save_tiny_base(tmp_path)
    training = quick(steps=400, steps_per_epoch=100)
    cases = save_cohort(tmp_path / "cases", (2, 3, 4, 5, 6, 7))
    config = StudyConfig(cases, tmp_path / "study", str(base.path), ("zero-shot", "head"), (2,), 2, resamples=50, minutes=0.4, training=training)
    first = {run.label: result.steps for run, result in run_study(config, Events()).runs if run.trains}
    assert machine.asked == 1 and 20 <= first["fine-tuning head"] <= 0.4 * 60 / 0.5 / 2
    result = run_study(replace(config, methods=("zero-shot", "head", "cp-lora")), Events())
    steps = [(run.label, result.steps) for run, result in result.runs if run.trains]
    assert {number for _, number in steps} == set(first.values()) and len(steps) == 4 and machine.asked == 1 and result.skipped == 5
    kept = StudyConfig.read(tmp_path / "study" / "study.json")
    assert (kept.minutes, kept.training.steps) == (None, first["fine-tuning head"])  # what it says of itself is what it did
    machine.pace = Pace(0.25, 0.01)
    both = within_minutes(training, 4, base, Part(4, 4, 9, 9), tmp_path / "other", Events(), kinds=[training, replace(training, strategy="head")])
    assert machine.asked == 3 and both.steps == steps_within(4, machine.pace, Part(4, 4, 9, 9))[0]


def test_few_steps_are_told_with_the_minutes_that_more_would_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch)
    for minutes, few in ((8, True), (60, False)):
        events = CancelAfter()
        config = within_minutes(replace(SMALL, steps=1000), minutes, None, PART, tmp_path / str(minutes), events)
        told = [entry["message"] for entry in events.of("log") if "teach little" in entry["message"]]
        assert (config.steps < FEW_STEPS, bool(told)) == (few, few)  # type: ignore[operator]
        if few:
            assert steps_within(int(told[0].split(" would take ")[1].split()[0]), Pace(2.0, 0.1), PART)[0] >= FEW_STEPS


def test_wrong_minutes_are_told_before_any_scan_is_read(models: Path, tmp_path: Path, capsys: Capture) -> None:
    for folds in ("0", "2"):
        for minutes in ("0", "-3", "nan", "inf"):
            assert train(tmp_path / "nowhere.csv", tmp_path / "work", "--folds", folds, f"--minutes={minutes}") == 2
            assert "minutes must be a number above 0" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="minutes must be"):
        StudyConfig(tmp_path, minutes=-1)


def test_on_this_machine_a_quick_training_fits_and_is_as_without_minutes(models: Path, tmp_path: Path, capsys: Capture) -> None:
    cases = save_cohort(tmp_path / "cases", (2, 3, 4, 5, 6, 7))
    words = ["train", str(cases), "--name", "mine", "--run", str(tmp_path / "work"), "--base", "tiny", *flags(), "--folds", "0"]
    assert main([*words, "--minutes", "60"]) == 0
    assert "all 2 steps of a training fit into the 60 minutes" in capsys.readouterr().err
    whole = within_minutes(quick(), 60, None, Part(1, 0, 5, 0), tmp_path / "other", Events())
    assert (whole.steps, whole.steps_per_epoch) == (2, 2)
    digest = read_info(models / "mine.safetensors").digest
    (models / "mine.safetensors").unlink()
    assert main(words) == 0 and read_info(models / "mine.safetensors").digest == digest
