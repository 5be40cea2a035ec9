"""Training on from an adapter: what starts where, and that nobody is tested on what they have learnt from."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from SAHLoRALib.cases import CaseTable
from SAHLoRALib.cli import main
from SAHLoRALib.continuation import Continuation, continue_from
from SAHLoRALib.crossvalidation import FOLDS, RUNS, plan_folds, usable_cases
from SAHLoRALib.events import Events
from SAHLoRALib.folds import Folds
from SAHLoRALib.runs import MODEL, RESULT, Run
from SAHLoRALib.weights import load_adapted, read_info
from tiny_cohort import CancelAfter, flags, quick, save_cohort, save_tiny_base

SIZES = (2, 3, 4, 5, 6, 7)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base and the adapter "first" of rank 2 in models, its cases, and its run in runs/first."""
    folder = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAHLORA_MODELS", str(folder / "models"))
        patch.chdir(folder)
        save_tiny_base(folder / "models")
        save_cohort(folder / "cases", SIZES)
        assert train("first", "--base", "tiny", "--adapter.rank", "2") == 0
    return folder


@pytest.fixture
def models(tmp_path: Path, trained_once: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's model folder, a copy of `trained_once` in the working folder."""
    shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("SAHLORA_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"


def train(name: str, *more: str) -> int:
    return main(["train", "cases/cases.csv", "--name", name, *flags(), "--no-baseline", *more])


def fold_adapters(name: str) -> list[Path]:
    """Of the run that made a model, in the order of the folds."""
    digests = read_info(Path("models") / f"{name}.safetensors").training["fold_runs"]
    return [next(Path("runs", name, RUNS).glob(f"*-{digest[:10]}")) / MODEL for digest in digests]


def test_each_fold_goes_on_from_the_former_adapter_of_its_fold_and_the_final_one_from_the_adapter(models: Path, capsys: Capture) -> None:
    save_cohort(Path("cases"), (*SIZES, 3, 8))
    assert train("second", "--continue-from", "first") == 0
    assert "start from the base" not in capsys.readouterr().err
    new = read_info(models / "second.safetensors")
    assert new.adapter == read_info(models / "first.safetensors").adapter and new.training["cases"] == 8
    assert new.training["continued_from"]["digest"] == read_info(models / "first.safetensors").digest
    assert set(read_info(models / "first.safetensors").training["scans"]) < set(new.training["scans"])
    for before, after in zip(fold_adapters("first"), fold_adapters("second"), strict=True):
        assert read_info(after).training["continued_from"]["digest"] == read_info(before).digest
    kept, folds = (Folds.read(Path("runs", name, FOLDS)).folds for name in ("first", "second"))
    assert {patient: folds[patient] for patient in kept} == dict(kept) and len(folds) == 8
    # Finished work is found again; the starting adapter decides whose work it is.
    assert train("second", "--continue-from", "first") == 0
    assert train("second", "--base", "tiny", "--adapter.rank", "2") == 2
    assert "already, of another training" in capsys.readouterr().err


def validated_on(adapter: Path) -> list[str]:
    return json.loads(adapter.with_name(RESULT).read_text())["validated_on"]


def test_a_fold_is_chosen_on_the_patients_that_chose_it_before_never_on_those_it_has_learnt_from(models: Path, capsys: Capture) -> None:
    save_cohort(Path("cases"), (*SIZES, 3, 8, 4, 5, 7, 6, 2, 9))
    assert train("second", "--continue-from", "first", "--validation-share", "0.4") == 0
    assert "may have learnt" not in capsys.readouterr().err
    old, new = (set(Folds.read(Path("runs", name, FOLDS)).folds) for name in ("first", "second"))
    assert len(new) == len(old) + 8
    for before, after in zip(fold_adapters("first"), fold_adapters("second"), strict=True):
        held = set(validated_on(after))
        assert set(validated_on(before)) == {case for case in held if case.replace("a", "p") in old}
        assert held > set(validated_on(before))  # and some new ones
    # Where an older version wrote the former results, they are drawn as for a new training, and that is told.
    for before in fold_adapters("first"):
        result = before.with_name(RESULT)
        content = json.loads(result.read_text())
        del content["validated_on"]
        result.write_text(json.dumps(content))
    assert train("third", "--continue-from", "first") == 0
    assert "may have learnt" in capsys.readouterr().err


def renamed(*changes: tuple[str, str]) -> None:
    """Other names in the table of cases; the scans stay where they are."""
    table = Path("cases/cases.csv")
    text = table.read_text(encoding="utf-8")
    for old, new in changes:
        text = re.sub(old, new, text)
    table.write_text(text, encoding="utf-8")


def run_results(name: str) -> list[dict[str, Any]]:
    return [json.loads(adapter.with_name(RESULT).read_text(encoding="utf-8")) for adapter in fold_adapters(name)]


def planned() -> tuple[Continuation, list[Run], str]:
    """What the folds would start from with the table as it is, their runs, and what is told."""
    going_on = continue_from(read_info(Path("models/first.safetensors")), Path("runs/first"), Events())
    usable = usable_cases(CaseTable.read("cases"), Events())
    assert going_on.folds is not None
    folds = going_on.folds.with_patients(usable.volumes)
    going_on = going_on.without_known(folds, usable.table, usable.scans, events := CancelAfter())
    runs = plan_folds(quick(), usable, folds, None, method="m", rank=2, label="m", validation=0.3, seed=0, going_on=going_on)
    return going_on, runs, " ".join(told["message"] for told in events.of("log"))


def test_no_fold_goes_on_from_an_adapter_that_knows_its_test_scans_under_other_names(models: Path, capsys: Capture) -> None:
    assert sorted(planned()[0].starts) == [0, 1, 2] and not planned()[2]
    renamed((r"(?m)^a(\d+),", r"case-\1,"), (r"\bp(\d+),", r"s\1,"))
    assert train("second", "--continue-from", "first") == 0
    every = set(range(len(SIZES)))
    tested, before = ([{int(row["case"][-2:]) for row in result["rows"]} for result in run_results(name)] for name in ("second", "first"))
    known = [now & (every - then) for now, then in zip(tested, before, strict=True)]
    assert (
        any(known)
        and not all(known)
        and [bool(both) for both in known] == ["continued_from" not in read_info(path).training for path in fold_adapters("second")]
    )
    said, folds = capsys.readouterr().err, ", ".join(str(n + 1) for n, both in enumerate(known) if both)
    assert f"{sum(map(len, known))} cases are to be tested" in said and f"start from the base: {folds}." in said
    for result in run_results("second"):
        assert all(re.fullmatch("[0-9a-f]{8}", scan) for scan in result["scans"])  # no names


def test_patients_who_were_put_together_are_tested_by_a_fold_that_knows_none_of_their_scans(models: Path) -> None:
    folds = Folds.read(Path("runs/first", FOLDS)).folds
    other = next(patient for patient, fold in folds.items() if fold != folds["p00"])
    renamed((rf"\b{other},", "p00,"))
    going_on, _, told = planned()
    assert set(going_on.starts) == {0, 1, 2} - {folds["p00"]} == set(going_on.held) and "1 cases are to be tested" in told


def test_a_scan_that_has_left_the_table_is_still_known_to_the_folds_that_used_it(models: Path) -> None:
    save_cohort(Path("cases"), (*SIZES, 3, 8))
    _, runs, _ = planned()
    renamed((r"(?m)^a01,.*\n", ""))
    going_on, fewer, _ = planned()
    for run, less in zip(runs, fewer, strict=True):
        assert run.scans == less.scans and len(run.scans or ()) == len(run.training + run.validation) and less.fold in going_on.starts


def test_a_former_run_that_does_not_tell_its_scans_is_looked_at_by_name_and_that_is_told(models: Path, capsys: Capture) -> None:
    for adapter in fold_adapters("first"):
        content = json.loads(adapter.with_name(RESULT).read_text(encoding="utf-8"))
        del content["scans"]
        adapter.with_name(RESULT).write_text(json.dumps(content), encoding="utf-8")
    written = [adapter.stat().st_mtime_ns for adapter in fold_adapters("first")]
    assert train("first", "--base", "tiny", "--adapter.rank", "2") == 0 and "finished already" in capsys.readouterr().err
    assert [adapter.stat().st_mtime_ns for adapter in fold_adapters("first")] == written
    going_on, runs, told = planned()
    assert sorted(going_on.starts) == [0, 1, 2] and told.count("by name only, not by scan") == 1
    assert [run.scans for run in runs] == [None] * 3  # theirs would not be the whole


def test_training_starts_from_the_adapters_weights(models: Path, capsys: Capture) -> None:
    first = read_info(models / "first.safetensors")
    assert train("same", "--continue-from", "first", "--folds", "0", "--learning-rate", "1e-9", "--adapter.rank", "7") == 0
    assert "is of its kind (rank 2, not 7)" in capsys.readouterr().err
    same = read_info(models / "same.safetensors")
    assert same.adapter and same.adapter.rank == 2  # the adapter's own, not what was asked for
    a, b = (load_adapted(models / "tiny.safetensors", info).state_dict() for info in (first, same))
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)
    assert train("anew", "--base", "tiny", "--folds", "0", "--learning-rate", "1e-9", "--adapter.rank", "2") == 0
    c = load_adapted(models / "tiny.safetensors", models / "anew.safetensors").state_dict()
    assert any(not torch.allclose(a[name], c[name], atol=1e-6) for name in a)


def test_without_the_former_run_the_folds_start_from_the_base_and_that_is_told(models: Path, capsys: Capture) -> None:
    Path("runs/first").rename("moved")
    assert train("second", "--continue-from", "models/first.safetensors") == 0
    assert "The folds start from the base" in capsys.readouterr().err
    assert all("continued_from" not in read_info(path).training for path in fold_adapters("second"))
    assert "continued_from" in read_info(models / "second.safetensors").training
    assert train("third", "--continue-from", "first", "--former-run", "moved") == 0
    assert all("continued_from" in read_info(path).training for path in fold_adapters("third"))


def test_the_number_of_folds_is_the_former_runs_where_none_is_given(models: Path, capsys: Capture) -> None:
    assert train("two", "--base", "tiny", "--adapter.rank", "2", "--folds", "2") == 0
    capsys.readouterr()
    assert train("third", "--continue-from", "two", "--folds", "3") == 2
    assert "made for 2 folds, not 3" in capsys.readouterr().err and not Path("runs/third", FOLDS).exists()
    assert train("third", "--continue-from", "two") == 0
    assert Folds.read(Path("runs/third", FOLDS)).count == 2 and len(fold_adapters("third")) == 2


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--continue-from", "tiny"], "is not an adapter but a whole network"),
        (["--continue-from", "first", "--strategy", "decoder"], "Only an adapter goes on from an adapter"),
        (["--continue-from", "first", "--base", "other"], "belongs to the base tiny"),
        (["--continue-from", "first", "--former-run", "cases"], "is not in cases. Name its run folder"),
        (["--continue-from", "first", "--name", "first"], "choose another name"),
        (["--continue-from", "first", "--folds", "2"], "made for 3 folds, not 2"),
        (["--continue-from", "first", "--run", "elsewhere"], "puts 1 patients into other folds"),
    ],
)
def test_wrong_continuation_is_told_in_a_sentence(more: list[str], told: str, models: Path, capsys: Capture) -> None:
    save_tiny_base(models, "other", 45.0)
    folds = Folds.read(Path("runs/first", FOLDS))
    patient, fold = next(iter(folds.folds.items()))
    Path("elsewhere").mkdir()
    Folds(3, folds.seed, folds.edges, {**folds.folds, patient: (fold + 1) % 3}).write(Path("elsewhere", FOLDS))
    before = (models / "first.safetensors").read_bytes()
    assert train("second", *more) == 2
    said = capsys.readouterr().err
    assert told in said and "Traceback" not in said
    assert (models / "first.safetensors").read_bytes() == before and not (models / "second.safetensors").exists()
