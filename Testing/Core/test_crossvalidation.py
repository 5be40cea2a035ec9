"""Cross-validation of one configuration and the model that comes out, as `sahlora train` does it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from SAHLoRALib.cases import CaseTable
from SAHLoRALib.cli import main
from SAHLoRALib.cohort import Cohort
from SAHLoRALib.crossvalidation import CrossValidation, Usable, cross_validate, hold_out, plan_folds, train_final, usable_cases
from SAHLoRALib.errors import Cancelled, CaseError
from SAHLoRALib.evaluation import ALL, evaluate
from SAHLoRALib.events import Events
from SAHLoRALib.files import alone
from SAHLoRALib.folds import Folds, make_folds
from SAHLoRALib.measured import cross_validated
from SAHLoRALib.runs import Run, finished
from SAHLoRALib.weights import ModelInfo, load_network, read_info
from tiny_cohort import SHAPE, CancelAfter, flags, quick, save_cohort, save_tiny_base, user_models

SIZES = (2, 3, 4, 5, 6, 7)
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return user_models(tmp_path, monkeypatch)


def prepared(cases: Path, base: ModelInfo) -> tuple[Usable, Cohort]:
    usable = usable_cases(CaseTable.read(cases), Events())
    return usable, Cohort(usable.table, base)


def validate(cases: Path, base: ModelInfo, output: Path, events: Events | None = None) -> tuple[CrossValidation, Usable, Cohort]:
    usable, cohort = prepared(cases, base)
    config = quick()
    return cross_validate(config, cohort, usable, output, events or Events(), validation=0.3, resamples=100), usable, cohort


def train(cases: Path, tmp_path: Path, *more: str) -> int:
    return main(["train", str(cases), "--name", "mine", "--run", str(tmp_path / "work"), "--base", "tiny", *flags(), "--no-baseline", *more])


def test_no_patient_is_on_two_sides_and_every_case_is_tested_once(tmp_path: Path) -> None:
    patients = ["p0", "p0", "p1", "p2", "p2", "p3", "p4", "p5"]
    usable = usable_cases(CaseTable.read(save_cohort(tmp_path, (2, 3, 4, 5, 6, 7, 8, 3), patients)), Events())
    folds = make_folds(usable.volumes)
    runs = plan_folds(quick(), usable, folds, None, method="all", rank=0, label="all", validation=0.3, seed=0)
    patient = {case.case: case.patient for case in usable.table}
    for run in runs:
        sides = [{patient[name] for name in part} for part in (run.training, run.validation, run.test)]
        assert all(sides) and not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
        assert len(run.training) + len(run.validation) + len(run.test) == len(usable.table)
    assert sorted(name for run in runs for name in run.test) == sorted(patient)


def test_validation_patients_have_haemorrhage_and_both_sides_keep_some() -> None:
    volumes = {f"b{n}": float(n + 1) for n in range(6)} | {f"w{n}": 0.0 for n in range(9)}
    learning, held = hold_out(volumes, 0.2, 0)
    assert sorted([*learning, *held]) == sorted(volumes) and not set(learning) & set(held)
    assert sum(p.startswith("b") for p in held) == 1 and sum(p.startswith("w") for p in held) == 2
    few = {p: ml for p, ml in volumes.items() if p not in {f"w{n}" for n in range(5)}}
    assert [p[0] for p in hold_out(few, 0.2, 0)[1]] == ["b"]
    assert hold_out(volumes, 0, 0) == (tuple(volumes), ())


def test_digest_of_a_run_follows_settings_base_and_cases(tmp_path: Path) -> None:
    base = save_tiny_base(tmp_path)
    other = save_tiny_base(tmp_path, "other", 45.0)
    usable = usable_cases(CaseTable.read(save_cohort(tmp_path, SIZES)), Events())
    folds = make_folds(usable.volumes)

    def digests(config: object = None, base: ModelInfo = base, usable: Usable = usable) -> list[str]:
        runs = plan_folds(config or quick(), usable, folds, base, method="m", rank=1, label="m", validation=0.3, seed=0)  # type: ignore[arg-type]
        return [run.digest for run in runs]

    assert len(set(digests())) == 3 and digests() == digests()
    assert digests(quick(device="auto", threads=2, memory_gb=1.0)) == digests()  # how, not what
    assert not set(digests(quick(learning_rate=0.002))) & set(digests())
    assert not set(digests(base=other)) & set(digests())
    mask = tmp_path / "a02" / "mask.nrrd"
    moved = np.roll(sitk.GetArrayFromImage(sitk.ReadImage(str(mask))), 1, axis=1)  # as many mL
    image = sitk.GetImageFromArray(moved)
    image.CopyInformation(sitk.ReadImage(str(mask)))
    sitk.WriteImage(image, str(mask))
    assert not set(digests(usable=usable_cases(usable.table, Events()))) & set(digests())


def test_out_of_fold_masks_lie_on_the_scans_grid_and_give_the_reported_figures(tmp_path: Path) -> None:
    cases, base = save_cohort(tmp_path / "cases", SIZES), save_tiny_base(tmp_path)
    validated, usable, cohort = validate(cases, base, tmp_path / "work")
    scan = sitk.ReadImage(str(tmp_path / "cases" / "a03" / "ct.nrrd"))
    mask = sitk.ReadImage(str(tmp_path / "work" / "predictions" / "a03.nrrd"))
    assert mask.GetSize() == scan.GetSize() == SHAPE[::-1]
    assert (mask.GetOrigin(), mask.GetSpacing(), mask.GetDirection()) == (scan.GetOrigin(), scan.GetSpacing(), scan.GetDirection())
    again = evaluate(tmp_path / "work" / "predictions", usable.table, resamples=100)
    for measure in ("dice", "recall", "predicted_ml", "surface_dice"):
        assert again.value(measure) == pytest.approx(validated.evaluation.value(measure))
    assert validated.evaluation.value("dice") > 0 and validated.evaluation.value("soft_dice") > 0
    assert (tmp_path / "work" / "evaluation_patients.csv").is_file()
    # What a user gets with the model of a fold is what was reported for it.
    from SAHLoRALib.metrics import dice
    from SAHLoRALib.segmenter import SegmentConfig, Segmenter

    run, result = validated.runs[0]
    info = read_info(tmp_path / "work" / "runs" / run.name / "model.safetensors")
    ct, reference = cohort.read(run.test[0])
    found = Segmenter(load_network(base, info)[0], base, info, SegmentConfig(device="cpu", precision="float32")).segment(ct)
    assert dice(found.mask, reference) == pytest.approx(result.rows[0]["dice"])


def test_cancelled_cross_validation_goes_on_and_gives_the_same_models(tmp_path: Path) -> None:
    cases, base = save_cohort(tmp_path / "cases", SIZES), save_tiny_base(tmp_path)
    straight, usable, cohort = validate(cases, base, tmp_path / "straight")
    for stop in (2, 4):  # in the first fold's training, in the second's
        with pytest.raises(Cancelled):
            validate(cases, base, tmp_path / "stopped", CancelAfter(stop))
    resumed, _, _ = validate(cases, base, tmp_path / "stopped")
    for (run, a), (_, b) in zip(straight.runs, resumed.runs, strict=True):
        paths = [tmp_path / folder / "runs" / run.name / "model.safetensors" for folder in ("straight", "stopped")]
        assert read_info(paths[0]).digest == read_info(paths[1]).digest
        assert [row["dice"] for row in a.rows] == [row["dice"] for row in b.rows]
    finals = [train_final(quick(), cohort, usable, v, tmp_path / n, tmp_path / n / "m.safetensors", Events()) for v, n in
              ((straight, "straight"), (resumed, "stopped"))]  # fmt: skip
    assert finals[0].digest == finals[1].digest


def test_finished_folds_are_not_trained_again_and_damaged_results_are(tmp_path: Path) -> None:
    cases, base = save_cohort(tmp_path / "cases", SIZES), save_tiny_base(tmp_path)
    first, _, _ = validate(cases, base, tmp_path / "work")
    second, _, _ = validate(cases, base, tmp_path / "work", events := CancelAfter())
    assert not events.of("metric") and [r.rows for _, r in first.runs] == [r.rows for _, r in second.runs]
    damaged = tmp_path / "work" / "runs" / first.runs[1][0].name / "run.json"
    damaged.write_text(damaged.read_text(encoding="utf-8")[:100], encoding="utf-8")
    third, _, _ = validate(cases, base, tmp_path / "work", events := CancelAfter())
    assert {e["fold"] for e in events.of("metric")} == {1}
    assert [row["dice"] for row in third.runs[1][1].rows] == [row["dice"] for row in first.runs[1][1].rows]


def test_train_writes_the_model_with_its_figures_and_says_all_in_events(tmp_path: Path, models: Path, capsys: Capture) -> None:
    cases = save_cohort(tmp_path / "cases", SIZES)
    assert train(cases, tmp_path, "--events", "json", "--adapter.rank", "2") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    [result] = [e for e in events if e["event"] == "result"]
    info = read_info(models / "mine.safetensors")
    assert (info.kind, info.adapter and info.adapter.rank, result["digest"]) == ("adapter", 2, info.digest)
    patients = (tmp_path / "work" / "evaluation_patients.csv").read_text(encoding="utf-8").splitlines()
    mean = sum(float(line.split(",")[3]) for line in patients[1:]) / 6
    figures = cross_validated(info.metrics)
    assert patients[0].split(",")[3] == "dice" and figures["dice"]["mean"] == pytest.approx(mean, abs=1e-4)
    assert figures["folds"] == 3 and figures["patients"] == 6 and "icc" in figures["volume_agreement"]
    assert len(figures["dice_by_volume"]) == 3
    assert info.training["config"]["adapter"]["rank"] == 2 and info.training["cases"] == 6
    assert not re.search(r"\b[ap]0\d\b", json.dumps([info.metrics, info.training]))  # no names; digests may hold such letters
    metrics = [e for e in events if e["event"] == "metric"]
    assert {e["fold"] for e in metrics} == {0, 1, 2, None} and {e["method"] for e in metrics} == {"cp-lora"}
    assert {"loss", "val_dice"} <= {e["name"] for e in metrics} and "cp-lora, rank 2" in {e["run"] for e in metrics}
    shares = [e["fraction"] for e in events if e["event"] == "progress" and e["stage"] == "Training"]
    assert shares == sorted(shares) and shares[-1] == 1.0
    # The same command again trains nothing, and the model is found by its name.
    before = (models / "mine.safetensors").stat().st_mtime_ns
    assert train(cases, tmp_path, "--adapter.rank", "2") == 0
    assert (models / "mine.safetensors").stat().st_mtime_ns == before and "Dice" in capsys.readouterr().out
    assert main(["segment", str(tmp_path / "cases" / "a00" / "ct.nrrd"), "--output", str(tmp_path / "out"), "--adapter", "mine"]) == 0
    # In half precision it is written once more, from the training that is there.
    assert train(cases, tmp_path, "--adapter.rank", "2", "--half") == 0
    half = read_info(models / "mine.safetensors")
    assert half.half and half.metrics == info.metrics and half.training["run"] == info.training["run"]
    # Another training does not take the name.
    assert train(cases, tmp_path, "--adapter.rank", "3") == 2 and "already" in capsys.readouterr().err


def test_final_model_takes_the_folds_median_threshold_and_mean_length(tmp_path: Path) -> None:
    from dataclasses import replace

    cases, base = save_cohort(tmp_path / "cases", SIZES), save_tiny_base(tmp_path)
    usable, cohort = prepared(cases, base)
    validated, _, _ = validate(cases, base, tmp_path / "work")
    changed = [(run, replace(result, threshold=t, best_epoch=e)) for (run, result), t, e in
               zip(validated.runs, (0.3, 0.4, 0.7), (1.0, 1.5, 3.5), strict=True)]  # fmt: skip
    validated = CrossValidation(validated.folds, tuple(changed), validated.evaluation)
    info = train_final(quick(), cohort, usable, validated, tmp_path / "work", tmp_path / "m.safetensors", Events())
    assert info.threshold == 0.4 and info.training["steps"] == 4  # two epochs of two steps
    assert cross_validated(info.metrics)["dice"]["mean"] == pytest.approx(validated.evaluation.value("dice", ALL), rel=1e-4)


def test_folds_stay_when_cases_are_added(tmp_path: Path, models: Path) -> None:
    cases = save_cohort(tmp_path / "cases", SIZES)
    assert train(cases, tmp_path, "--lesion", "subarachnoid", "--half") == 0
    first = read_info(models / "mine.safetensors")
    assert first.training["lesion"] == "subarachnoid" and first.half
    before = Folds.read(tmp_path / "work" / "folds.json").folds
    save_cohort(tmp_path / "cases", (*SIZES, 3, 8, 0))
    assert train(cases, tmp_path) == 0  # the model of that name is this training's: it is brought up to date
    after = Folds.read(tmp_path / "work" / "folds.json").folds
    assert len(after) == 9 and {p: after[p] for p in before} == before
    info = read_info(models / "mine.safetensors")
    figures = cross_validated(info.metrics)
    assert info.training["cases"] == 9 and figures["patients"] == 9 and figures["dice"]["n"] == 8


def test_cases_of_the_split_test_are_left_out(tmp_path: Path) -> None:
    path = save_cohort(tmp_path, SIZES)
    lines = path.read_text(encoding="utf-8").splitlines()
    marks = ["split", "", "test", "", "", "", ""]
    path.write_text("\n".join(f"{line},{mark}" for line, mark in zip(lines, marks, strict=True)), encoding="utf-8")
    assert [case.case for case in usable_cases(CaseTable.read(path), Events()).table] == ["a00", "a02", "a03", "a04", "a05"]


def test_standard_fine_tuning_gives_a_whole_network(tmp_path: Path, models: Path) -> None:
    cases = save_cohort(tmp_path / "cases", (3, 5, 7, 4))
    assert train(cases, tmp_path, "--strategy", "decoder+head", "--folds", "2", "--validation-share", "0") == 0
    info = read_info(models / "mine.safetensors")
    assert info.kind == "finetuned" and info.base_name == "tiny" and info.threshold == 0.5 and info.training["steps"] == 2


@pytest.mark.parametrize(
    ("sizes", "more", "told"),
    [
        ((4,), [], "3 folds need at least 3 patients, and the table has 1"),
        ((4, 5, 6), ["--folds", "5"], "5 folds need at least 5 patients"),
        ((4, 5), ["--folds", "2"], "Early stopping needs at least 2 training patients"),
        ((4, 5, 6), ["--folds", "1"], "folds must be 0"),
        ((4, 5, 6), ["--folds", "-3"], "folds must be 0"),
        ((4, 5, 6), ["--base", "nobody"], "There is no model 'nobody'"),
        ((4, 5, 6), ["--edges", "9", "4"], "must be positive and rise"),
        ((4, 5, 6), ["--validation-share", "0.9"], "between 0 and 0.5"),
        ((4, 5, 6), ["--validation", "other.csv"], "--folds 0"),
        ((4, 5, 6), ["--strategy", "scratch"], "sahlora pretrain"),
        ((4, 5, 6), ["--name", "a/b"], "cannot be a model's name"),
        ((4, 5, 6), ["--name", "tiny"], "already, of another training"),
        ((4, 5, 6), ["--name", "bundled"], "comes with SAHLoRA"),
        ((0, 0, 0), [], "No case of the table has haemorrhage"),
    ],
)
def test_wrong_input_is_told_in_a_sentence(
    sizes: tuple[int, ...], more: list[str], told: str, tmp_path: Path, models: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny_base(tmp_path / "shipped", "bundled")
    monkeypatch.setattr("SAHLoRALib.targets.bundled_folders", lambda: [tmp_path / "shipped"])
    cases = save_cohort(tmp_path / "cases", sizes)
    assert train(cases, tmp_path, *more) == 2
    said = capsys.readouterr().err
    assert told in said and "Traceback" not in said
    assert not (models / "mine.safetensors").exists()


def test_empty_masks_are_all_named_before_anything_is_done(tmp_path: Path, models: Path, capsys: Capture) -> None:
    cases = save_cohort(tmp_path / "cases", (4, 0, 5, 0))
    cases.write_text(cases.read_text(encoding="utf-8").replace(",no", ",yes"), encoding="utf-8")
    assert train(cases, tmp_path) == 2
    said = capsys.readouterr().err
    assert "2 of 4 cases cannot be used" in said and "a01" in said and "a03" in said and "mask is empty" in said
    assert not (tmp_path / "work").exists()
    with pytest.raises(CaseError, match="cannot be used"):
        usable_cases(CaseTable.read(cases), Events())


def test_result_of_another_digest_does_not_count_as_finished(tmp_path: Path) -> None:
    from dataclasses import replace

    cases, base = save_cohort(tmp_path / "cases", SIZES), save_tiny_base(tmp_path)
    validated, _, _ = validate(cases, base, tmp_path / "work")
    run: Run = validated.runs[0][0]
    assert finished(run, tmp_path / "work" / "runs") is not None
    # The folder's name holds ten digits only; the file holds them all.
    assert finished(replace(run, digest=run.digest[:10] + "0" * 54), tmp_path / "work" / "runs") is None


def with_column(path: Path, name: str, values: tuple[str, ...]) -> Path:
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(f"{line},{value}" for line, value in zip(lines, (name, *values), strict=True)) + "\n", encoding="utf-8")
    return path


def test_a_test_patient_or_a_test_scan_among_the_training_is_refused_in_cross_validation_too(tmp_path: Path) -> None:
    same_patient = with_column(save_cohort(tmp_path / "a", (3, 4, 5), ("p0", "p1", "p0")), "split", ("train", "train", "test"))
    with pytest.raises(CaseError, match=r"p0 is in several splits"):
        usable_cases(CaseTable.read(same_patient), Events())
    same_scan = with_column(save_cohort(tmp_path / "b", (3, 4, 5)), "split", ("train", "train", "test"))
    for file in ("ct", "mask"):
        (tmp_path / "b" / "a02" / f"{file}.nrrd").write_bytes((tmp_path / "b" / "a00" / f"{file}.nrrd").read_bytes())
    with pytest.raises(CaseError, match="same scan"):
        usable_cases(CaseTable.read(same_scan), Events())


def test_cases_of_the_split_validation_are_said_to_be_in_the_folds(tmp_path: Path) -> None:
    events = CancelAfter()
    usable = usable_cases(CaseTable.read(with_column(save_cohort(tmp_path, (3, 4, 5)), "split", ("", "validation", ""))), events)
    assert len(usable.table) == 3
    assert any("the split validation (1) take part" in str(fields) for _, fields in events.told)


def test_other_words_for_the_header_are_taken_without_training_anew(tmp_path: Path, models: Path) -> None:
    cases = save_cohort(tmp_path / "cases", SIZES)
    assert train(cases, tmp_path) == 0
    first = read_info(models / "mine.safetensors")
    assert train(cases, tmp_path, "--description", "Ours.", "--lesion", "subarachnoid", "--licence", "CC0-1.0") == 0
    again = read_info(models / "mine.safetensors")
    assert (again.description, again.licence, again.training["lesion"]) == ("Ours.", "CC0-1.0", "subarachnoid")
    assert again.digest == first.digest


def test_a_training_shorter_than_an_epoch_keeps_its_length_for_all_cases(tmp_path: Path) -> None:
    base = save_tiny_base(tmp_path)
    usable, cohort = prepared(save_cohort(tmp_path, SIZES), base)
    config = replace(quick(), steps=3, steps_per_epoch=12)
    validated = cross_validate(config, cohort, usable, tmp_path / "work", Events(), validation=0, resamples=50)
    assert [result.best_epoch for _, result in validated.runs] == [0.25] * 3
    info = train_final(config, cohort, usable, validated, tmp_path / "work", tmp_path / "final.safetensors", Events())
    assert info.training["steps"] == 3


def test_fresh_does_not_take_the_runs_of_a_training_that_is_at_work(tmp_path: Path, models: Path, capsys: Capture) -> None:
    cases = save_cohort(tmp_path / "cases", SIZES)
    kept = tmp_path / "work" / "runs" / "fold" / "checkpoint.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_text("half done")
    with alone(tmp_path / "work"):
        assert train(cases, tmp_path, "--fresh") == 2
    assert "Another SAHLoRA run" in capsys.readouterr().err and kept.is_file()
    assert train(cases, tmp_path, "--fresh") == 0
    assert not kept.exists()


def test_test_cases_need_not_be_there_yet(tmp_path: Path) -> None:
    path = with_column(save_cohort(tmp_path, (3, 4, 5)), "split", ("train", "train", "test"))
    (tmp_path / "a02" / "mask.nrrd").unlink()
    assert len(usable_cases(CaseTable.read(path), Events()).table) == 2
    (tmp_path / "a02" / "ct.nrrd").unlink()
    assert len(usable_cases(CaseTable.read(path), Events()).table) == 2
