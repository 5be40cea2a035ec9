"""The command line: models, cases check, evaluate, pretrain and train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from SAHLoRALib.cli import main
from SAHLoRALib.commands.models import describe
from SAHLoRALib.events import Events
from small_cli import json_lines, of_kind, own_models
from tiny_cohort import save_cohort, save_tiny_base
from tiny_scans import box, save_scan

from SAHLoRALib.weights import read_info  # isort: skip

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return own_models(tmp_path, monkeypatch)


def test_models_lists_and_describes(models: Path, capsys: Capture) -> None:
    (models / "broken.safetensors").write_bytes(b"short")
    assert main(["models"]) == 0
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()[2:]] == ["tbi-base", "soft"] and "cp-lora, rank 1" in captured.out
    assert "warning: " in captured.err and "broken.safetensors" in captured.err
    assert main(["models", "soft", "--events", "json"]) == 0
    [result] = of_kind(json_lines(capsys.readouterr().out), "result")
    [described] = result["models"]  # type: ignore[misc]
    assert described["kind"] == "adapter" and described["base_name"] == "tbi-base" and described["adapter"]["method"] == "cp-lora"


def test_models_tells_what_segments_where_none_is_named(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr("SAHLoRALib.segmenter.DEFAULT_ADAPTER", "soft")
    assert main(["models"]) == 0 and capsys.readouterr().out.endswith("\nWhere none is named, tbi-base with soft segments.\n")


def test_models_of_an_empty_folder_says_where_to_put_them(models: Path, capsys: Capture) -> None:
    for path in models.iterdir():
        path.unlink()
    assert main(["models"]) == 0 and f"put weight files into {models}" in capsys.readouterr().out


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Six cases with a bleed each, the last without."""
    rows = ["case,image,mask,patient,site,haemorrhage"]
    for n in range(6):
        bleeds = () if n == 5 else (((6 + n, 36, 28), (3, 5 + n, 5)),)
        save_scan(tmp_path / "cases" / f"c{n}.nrrd", *bleeds, seed=n)
        mask = sitk.GetImageFromArray((box(bleeds[0]) if bleeds else np.zeros((18, 80, 64), bool)).astype(np.uint8))
        mask.CopyInformation(sitk.ReadImage(str(tmp_path / "cases" / f"c{n}.nrrd")))
        sitk.WriteImage(mask, str(tmp_path / "cases" / f"m{n}.nrrd"))
        rows.append(f"c{n},c{n}.nrrd,m{n}.nrrd,p{n},x,{'yes' if bleeds else 'no'}")
    (tmp_path / "cases" / "cases.csv").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path / "cases"


def test_cases_check_tells_all_problems_and_its_exit_code_how_many(cohort: Path, capsys: Capture) -> None:
    assert main(["cases", "check", str(cohort)]) == 0 and "6 cases, no problems" in capsys.readouterr().out
    (cohort / "m1.nrrd").unlink()
    assert main(["cases", "check", str(cohort), "--events", "json"]) == 1
    [result] = of_kind(json_lines(capsys.readouterr().out), "result")
    assert result["problems"] == 1
    assert main(["cases", "check", str(cohort / "nothing.csv")]) == 2 and "cannot be read" in capsys.readouterr().err


def test_evaluate_tells_dice_by_stratum_and_writes_tables(cohort: Path, tmp_path: Path, capsys: Capture) -> None:
    scans = [str(cohort / f"c{n}.nrrd") for n in range(6)]
    assert main(["segment", *scans, "--output", str(tmp_path / "out")]) == 0
    for n in range(6):
        (tmp_path / f"predicted/c{n}.nrrd").parent.mkdir(exist_ok=True)
        (tmp_path / "out" / f"c{n}" / "mask.nrrd").rename(tmp_path / "predicted" / f"c{n}.nrrd")
    capsys.readouterr()
    arguments = ["evaluate", str(tmp_path / "predicted"), str(cohort), "--edges", "4", "--resamples", "50", "--output", str(tmp_path / "tables")]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "all (n = 6)" in told and "< 4 mL" in told and "ICC of volumes" in told and "without haemorrhage (n = 1)" in told
    assert (tmp_path / "tables" / "evaluation_patients.csv").is_file()
    assert main([*arguments, "--events", "json"]) == 0
    [result] = of_kind(json_lines(capsys.readouterr().out), "result")
    found = {(row["stratum"], row["measure"]): row["mean"] for row in result["summary"]}  # type: ignore[attr-defined]
    assert found["all", "dice"] == pytest.approx(1.0) and found["without haemorrhage", "predicted_ml"] == 0


TINY = ["--network.levels", "2", "--network.width", "4", "--grid.pixel-mm", "2.5", "--crop", "32", "32", "--batch", "2", "--device", "cpu"]


def test_pretrain_then_train_then_segment(cohort: Path, tmp_path: Path, models: Path, capsys: Capture) -> None:
    for path in models.iterdir():
        path.unlink()
    common = ["--crop", "32", "32", "--batch", "2", "--device", "cpu", "--steps", "4", "--steps-per-epoch", "2"]
    train = ["train", str(cohort), "--base", "own-base", "--name", "mine", "--folds", "0", "--adapter.rank", "2"]
    run = tmp_path / "run"
    assert main(["pretrain", str(cohort), "--name", "own-base", "--run", str(run / "a"), *TINY, "--steps", "4", "--steps-per-epoch", "2"]) == 0
    base = read_info(models / "own-base.safetensors")
    assert base.kind == "base" and base.network.width == 4 and base.training["cases"] == 5 and base.training["validation_cases"] == 1
    capsys.readouterr()
    assert main([*train, "--run", str(run / "b"), "--events", "json", *common]) == 0
    events = json_lines(capsys.readouterr().out)
    [result] = of_kind(events, "result")
    adapter = read_info(models / "mine.safetensors")
    assert adapter.base_digest == base.digest and adapter.adapter is not None and adapter.adapter.rank == 2
    assert result["digest"] == adapter.digest and result["steps"] == 4 and {"loss", "val_dice"} <= {e["name"] for e in of_kind(events, "metric")}
    assert main(["segment", str(cohort / "c0.nrrd"), "--output", str(tmp_path / "out"), "--adapter", "mine"]) == 0
    capsys.readouterr()
    # Finished, the same command ends at once with the same model; another training does not take its name.
    assert main([*train, "--run", str(run / "b"), *common]) == 0
    assert read_info(models / "mine.safetensors").digest == adapter.digest
    assert main([*train, "--run", str(run / "c"), *common]) == 2 and "already" in capsys.readouterr().err
    # Without its model the finished training writes it once more, smaller where that is asked for.
    adapter.path.rename(tmp_path / "whole.safetensors")
    assert main([*train, "--run", str(run / "b"), *common, "--half"]) == 0
    small = read_info(models / "mine.safetensors")
    assert describe(small)["half"] and small.metrics == adapter.metrics
    assert small.path.stat().st_size < (tmp_path / "whole.safetensors").stat().st_size


def test_pretrain_goes_on_from_a_base_and_widens_it(cohort: Path, tmp_path: Path, models: Path, capsys: Capture) -> None:
    run = ["--run", str(tmp_path / "run"), "--crop", "32", "32", "--batch", "2", "--device", "cpu", "--steps", "2", "--steps-per-epoch", "2"]
    wide = ["--network.levels", "2", "--network.width", "4", "--network.growth", "2"]
    first = next(read_info(path) for path in models.iterdir() if read_info(path).kind == "base")
    assert main(["pretrain", str(cohort), "--name", "wide", "--start", first.name, *run, *wide, "--learning-rate", "1e-9"]) == 0
    base = read_info(models / "wide.safetensors")
    assert base.kind == "base" and base.network.widths == (4, 6, 8) and base.grid == first.grid and base.base_digest is None
    assert base.training["continued_from"] == {"name": first.name, "digest": first.digest}
    capsys.readouterr()
    again = ["pretrain", str(cohort), "--name", "deep", "--start", first.name, *run[2:], "--run", str(tmp_path / "other")]
    assert main([*again, "--network.levels", "3", "--network.width", "4"]) == 2
    assert "can only be made wider" in capsys.readouterr().err


def test_training_stops_before_it_begins_where_cases_are_wrong(cohort: Path, tmp_path: Path, capsys: Capture) -> None:
    (cohort / "m1.nrrd").unlink()
    (cohort / "c3.nrrd").write_bytes(b"NRRD")
    assert main(["train", str(cohort), "--name", "mine", "--run", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert "2 of 6 cases cannot be used" in told and "c1" in told and "c3" in told and not (tmp_path / "run").exists()


def test_pretrain_and_train_know_their_strategies(cohort: Path, capsys: Capture) -> None:
    assert main(["pretrain", str(cohort), "--name", "x", "--strategy", "adapter"]) == 2 and "use: sahlora train" in capsys.readouterr().err
    assert main(["train", str(cohort), "--name", "x", "--strategy", "scratch"]) == 2 and "use: sahlora pretrain" in capsys.readouterr().err


def test_validation_cases_that_choose_nothing_or_are_for_the_test_are_refused(tmp_path: Path, capsys: Capture) -> None:
    base = save_tiny_base(tmp_path)
    cases = save_cohort(tmp_path / "cases", (3, 4, 5, 6, 0))
    rows = cases.read_text(encoding="utf-8").splitlines()
    marked = [f"{row},{mark}" for row, mark in zip(rows, ("split", "", "", "", "test", "val"), strict=True)]

    def train(marks: list[str], *validation: str) -> str:
        cases.write_text("\n".join(marks) + "\n", encoding="utf-8")
        (tmp_path / "cases" / "validation.csv").write_text("\n".join([rows[0], *validation]) + "\n", encoding="utf-8")
        more = ["--validation", str(tmp_path / "cases" / "validation.csv")] if validation else []
        assert main(["train", str(cases), "--name", "x", "--folds", "0", "--base", str(base.path), "--run", str(tmp_path / "run"), *more]) == 2
        return capsys.readouterr().err

    assert "None of the 1 validation cases has blood" in train(marked)
    assert "None of the 1 validation cases has blood" in train(rows[:5], rows[5])
    save_cohort(tmp_path / "cases" / "more", (7,), ["P-03"])
    other = "b0,more/a00/ct.nrrd,more/a00/mask.nrrd,{},here,yes"
    for patient in ("p03", "P03"):
        assert "is no test of it" in train(marked[:5], other.format(patient))
    assert "is no test of it" in train(marked[:5], rows[4].replace("p03", "q"))


def test_every_scan_is_read_once_before_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from SAHLoRALib.cases import Case
    from SAHLoRALib.commands.fitting import chosen_cases
    from SAHLoRALib.commands.train import Arguments

    cases, other = save_cohort(tmp_path / "cases", (3, 4, 5, 6)), save_cohort(tmp_path / "other", (7, 8), ("v0", "v1"))
    lines = zip(cases.read_text(encoding="utf-8").splitlines(), ("split", "", "", "", "test"), strict=True)
    cases.write_text("".join(f"{line},{mark}\n" for line, mark in lines), encoding="utf-8")
    read: list[Path] = []
    whole = Case.read_ct
    monkeypatch.setattr(Case, "read_ct", lambda case, *given, **more: (read.append(case.image), whole(case, *given, **more))[1])
    chosen_cases(Arguments(cases=cases, name="x", validation=other), Events())
    assert len(read) == len(set(read)) == 6


def test_test_cases_are_kept_out_and_validation_cases_follow_the_table(cohort: Path) -> None:
    from SAHLoRALib.commands.fitting import chosen_cases
    from SAHLoRALib.commands.train import Arguments

    table = (cohort / "cases.csv").read_text(encoding="utf-8").splitlines()
    marks = ["split", "train", "train", "val", "test", "train", "train"]
    (cohort / "cases.csv").write_text("\n".join(f"{line},{mark}" for line, mark in zip(table, marks, strict=True)), encoding="utf-8")
    training, validation, _ = chosen_cases(Arguments(cases=cohort, name="x"), Events())
    assert [c.case for c in training] == ["c0", "c1", "c4", "c5"] and [c.case for c in validation] == ["c2"]
    training, validation, _ = chosen_cases(Arguments(cases=cohort, name="x", validation_share=0.4), Events())
    assert len(validation) == 2 and not set(training.patients) & set(validation.patients) and "c3" not in {c.case for c in [*training, *validation]}
