"""What a training gained: its start on the same patients, patient by patient."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from SAHLoRALib.cases import CaseTable
from SAHLoRALib.cli import main
from SAHLoRALib.evaluation import Evaluation, summarise
from SAHLoRALib.gain import TABLE, Start, gain, gain_in_words, name_of_start
from SAHLoRALib.metrics import case_metrics
from SAHLoRALib.runs import load_segmenter
from SAHLoRALib.weights import ModelInfo, read_info
from tiny_cohort import flags, quick, save_cohort, user_models

SIZES = (0, 2, 3, 4, 5, 6, 7)
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_cohort(Path("cases"), SIZES)
    return user_models(tmp_path, monkeypatch)


def train(name: str, *more: str) -> int:
    return main(["train", "cases/cases.csv", "--name", name, "--base", "tiny", *flags(), *more])


def dice_before(run: Path) -> dict[str, float]:
    with (run / TABLE).open(encoding="utf-8") as file:
        return {row["patient"]: float(row["dice"] or "nan") for row in csv.DictReader(file)}


def dice_of(base: ModelInfo, adapter: ModelInfo | None = None) -> dict[str, float]:
    """Patient → Dice, as a user of this model would get it."""
    segmenter = load_segmenter(adapter or base, base, quick())
    found = {}
    for case in CaseTable.read(Path("cases/cases.csv")):
        ct, reference = case.read()
        found[case.patient] = case_metrics(segmenter.segment(ct).mask, None, reference, ct)["dice"] if reference.any() else math.nan
    return found


def test_the_start_segments_the_same_patients_as_a_user_would_and_the_report_sets_both_side_by_side(models: Path, capsys: Capture) -> None:
    assert train("mine") == 0
    told = capsys.readouterr().out
    assert "tiny, which it starts from, has a Dice of" in told and "In the 1 without haemorrhage it draws" in told
    found = dice_before(Path("runs/mine"))
    assert found == pytest.approx(dice_of(read_info(models / "tiny.safetensors")), rel=1e-5, nan_ok=True)
    report = Path("runs/mine/report.md").read_text(encoding="utf-8")
    assert "## What was gained" in report and f"]({TABLE})" in report and "| Dice, after − before |" in report
    shown = float(re.search(r"has a Dice of ([\d.]+) on the same", report)[1])  # type: ignore[index]
    assert shown == pytest.approx(np.nanmean(list(found.values())), abs=6e-4)


def test_an_interrupted_training_does_not_segment_with_the_start_again(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from SAHLoRALib.segmenter import Segmenter

    assert train("mine") == 0
    before = dice_before(Path("runs/mine"))
    (models / "mine.safetensors").unlink()
    (Path("runs/mine") / TABLE).unlink()

    def again(*given: Any, **named: Any) -> None:
        raise AssertionError("segmented again")

    monkeypatch.setattr(Segmenter, "segment", again)
    assert train("mine") == 0
    assert dice_before(Path("runs/mine")) == pytest.approx(before, nan_ok=True)


def test_without_the_start_nothing_is_said_of_it(models: Path, capsys: Capture) -> None:
    Path("runs/mine").mkdir(parents=True)
    (Path("runs/mine") / TABLE).write_text("of an earlier call", encoding="utf-8")
    assert train("mine", "--no-baseline") == 0
    assert "which it starts from" not in capsys.readouterr().out and not (Path("runs/mine") / TABLE).exists()
    assert "What was gained" not in Path("runs/mine/report.md").read_text(encoding="utf-8")


def test_an_adapter_that_came_along_starts_every_fold_and_is_what_was_before(models: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert train("came-along", "--folds", "0", "--adapter.rank", "2", "--steps", "40", "--learning-rate", "0.05") == 0
    monkeypatch.setattr("SAHLoRALib.model_folders.bundled_folders", lambda: [models])
    assert train("mine", "--continue-from", "came-along", "--learning-rate", "1e-9", "--folder", "own") == 0
    said = capsys.readouterr()
    assert "All folds start from came-along, which came along" in said.err and "start from the base" not in said.err
    assert "came-along, which it starts from, has a Dice of" in said.out
    runs = sorted(Path("runs/mine/runs").glob("cp-lora-r2-fold*/model.safetensors"))
    assert len(runs) == 3 and all("continued_from" in read_info(path).training for path in runs)
    base, found = read_info(models / "tiny.safetensors"), dice_before(Path("runs/mine"))
    assert found == pytest.approx(dice_of(base, read_info(models / "came-along.safetensors")), rel=1e-5, nan_ok=True)
    assert found != pytest.approx(dice_of(base), rel=1e-3, nan_ok=True), "else the test would not tell one from the other"


def evaluation(dice: list[float], false_ml: float = 0.0) -> Evaluation:
    """Patients with 10 mL and such a Dice, and one without haemorrhage."""
    rows: list[dict[str, Any]] = []
    for n, value in enumerate([*dice, None]):
        annotated, predicted = (10.0, 10.0) if value is not None else (0.0, false_ml)
        overlap = 10.0 * value if value is not None else 0.0
        row = {"case": f"c{n}", "patient": f"p{n}", "site": "", "annotated_ml": annotated, "predicted_ml": predicted, "overlap_ml": overlap}
        row |= {"error_ml": predicted - annotated, "absolute_error_ml": abs(predicted - annotated)}
        row |= {"false_positive_ml": predicted - overlap, "false_negative_ml": annotated - overlap}
        row |= {"annotated_voxels": annotated * 100, "predicted_voxels": predicted * 100, "overlap_voxels": overlap * 100}
        row |= {"dice": value if value is not None else float("nan"), "soft_dice": float("nan"), "soft_overlap": 0.0, "soft_total": 0.0}
        row |= {"soft_overlap_ml": 0.0, "soft_total_ml": 0.0, "hd95_mm": float("nan"), "surface_dice": float("nan")}
        rows.append(row | {"precision": float("nan"), "recall": float("nan")})
    return summarise(rows, resamples=200)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ([0.6, 0.7, 0.65, 0.72, 0.66], "own differences are +0.1"),
        ([0.3, 0.4, 0.35, 0.41, 0.36], "It is worse than what it starts from"),
        ([0.4, 0.6, 0.4, 0.6, 0.52], "no clear gain"),
    ],
)
def test_a_gain_a_loss_and_neither_are_told_apart(after: list[float], words: str) -> None:
    start = Start("tbi-base", evaluation([0.5, 0.5, 0.5, 0.5, 0.5], 0.4))
    text = gain_in_words(evaluation(after, 1.5), start)
    assert words in text and "draws 1.50 mL in the median, before 0.40 mL" in text
    assert ("no clear gain" in text) == (words == "no clear gain") and ("worse" in text) == words.startswith("It is worse")
    told = gain(evaluation(after, 1.5), start)
    assert told["n"] == 5 and told["mean"] == pytest.approx(np.mean(after) - 0.5, abs=1e-4) and told["before"] == 0.5


def test_the_start_of_several_kinds_has_both_names(models: Path) -> None:
    base = read_info(models / "tiny.safetensors")
    assert name_of_start(base, None, {}, 3) == "tiny"
    assert train("first", "--folds", "0") == 0
    first = read_info(models / "first.safetensors")
    assert name_of_start(base, first, {}, 3) == "tiny"
    assert name_of_start(base, first, dict.fromkeys(range(3), first), 3) == "first"
    assert name_of_start(base, first, {0: first}, 3) == "first or tiny, whichever a fold starts from"
