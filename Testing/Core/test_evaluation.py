"""Evaluation of a folder of masks: pooling, strata, files."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from SAHLoRALib.cases import CaseTable
from SAHLoRALib.errors import Cancelled, CaseError, ConfigError
from SAHLoRALib.evaluation import ALL, WITHOUT, evaluate, strata_names, stratum_name, summarise, tertiles
from SAHLoRALib.events import Events
from SAHLoRALib.statistics import icc

SHAPE = (8, 40, 40)
VOXEL_ML = 0.125
SIZES = {"a": 2, "b": 4, "c": 6, "d": 9}  # edge of the annotated square, voxels


def save(array: np.ndarray, path: Path, left: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((5.0, 5.0, 5.0))
    image.SetOrigin((left, 0.0, 0.0))
    sitk.WriteImage(image, str(path))


def head(seed: int) -> np.ndarray:
    y, x = np.mgrid[-1:1:40j, -1:1:40j]
    r = np.hypot(y, x)
    plane = np.where(r < 0.72, 32.0, np.where(r < 0.82, 1100.0, np.where(r < 0.88, 10.0, -1000.0)))
    return (plane + np.random.default_rng(seed).normal(0, 3, SHAPE)).round().astype(np.int16)


def square(size: int, shift: int = 0) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:5, 15 + shift : 15 + shift + size, 15 : 15 + size] = 1
    return mask


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Cases a to d with predictions one row off, e without haemorrhage and 2 mL drawn there by mistake; a and b are one patient."""
    rows = ["case,image,mask,patient,site,haemorrhage"]
    for n, (name, size) in enumerate(SIZES.items()):
        save(head(n), tmp_path / f"ct/{name}.nrrd")
        save(square(size), tmp_path / f"mask/{name}.nrrd")
        save(square(size, 1), tmp_path / f"predicted/{name}.nii.gz")
        rows.append(f"{name},ct/{name}.nrrd,mask/{name}.nrrd,{'ab' if name in 'ab' else name},x,")
    save(head(9), tmp_path / "ct/e.nrrd")
    save(square(0), tmp_path / "mask/e.nrrd")
    save(square(2) * np.uint8(1) + np.roll(square(2), 6, axis=1), tmp_path / "predicted/e.seg.nrrd")
    rows.append("e,ct/e.nrrd,mask/e.nrrd,e,y,no")
    (tmp_path / "cases.csv").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path


def row(patient: str, annotated: int, predicted: int, overlap: int, **more: float) -> dict[str, object]:
    """What case_metrics returns, from three counts of voxels of 1 mL."""
    return {
        "case": f"{patient}{annotated}", "patient": patient, "dice": math.nan, "soft_dice": math.nan, "precision": math.nan, "recall": math.nan,
        "hd95_mm": 1.0, "surface_dice": 0.5, "annotated_ml": annotated, "predicted_ml": predicted, "overlap_ml": overlap,
        "false_positive_ml": predicted - overlap, "false_negative_ml": annotated - overlap, "error_ml": predicted - annotated,
        "absolute_error_ml": abs(predicted - annotated), "relative_error": math.nan, "annotated_voxels": annotated, "predicted_voxels": predicted,
        "overlap_voxels": overlap, "soft_overlap": math.nan, "soft_total": math.nan, **more,
    }  # fmt: skip


def test_folder_of_masks_is_evaluated_by_patient(cohort: Path) -> None:
    result = evaluate(cohort / "predicted", CaseTable.read(cohort), resamples=100)
    assert list(result.cases["case"]) == list("abcde")
    patients = result.patients.set_index("patient")
    assert list(patients.index) == ["ab", "c", "d", "e"]
    assert patients.loc["c", "dice"] == pytest.approx(5 / 6)
    overlap, annotated = 2 * (1 * 2 + 3 * 4), 2 * (4 + 16)
    assert patients.loc["ab", "dice"] == pytest.approx(2 * overlap / (2 * annotated)) and patients.loc["ab", "scans"] == 2
    assert patients.loc["ab", "annotated_ml"] == pytest.approx(annotated * VOXEL_ML / 2)
    assert patients.loc["c", "hd95_mm"] == pytest.approx(5.0)


def test_patient_without_haemorrhage_counts_with_false_positive_volume_only(cohort: Path) -> None:
    result = evaluate(cohort / "predicted", CaseTable.read(cohort), resamples=100)
    none = result.patients.set_index("patient").loc["e"]
    assert none["stratum"] == WITHOUT and none["false_positive_ml"] == pytest.approx(2.0)
    assert all(math.isnan(none[m]) for m in ("dice", "soft_dice", "recall", "hd95_mm", "surface_dice", "relative_error"))
    dice = result.summary[(result.summary["measure"] == "dice") & (result.summary["stratum"] == ALL)].iloc[0]
    assert dice["n"] == 3
    assert result.value("false_positive_ml", WITHOUT) == pytest.approx(2.0)


def test_soft_dice_is_read_from_probabilities_where_they_lie(cohort: Path) -> None:
    probability = square(6).astype(np.float32) * 0.7 + 0.01
    save(probability, cohort / "predicted/c_probability.nrrd")
    patients = evaluate(cohort / "predicted", CaseTable.read(cohort), resamples=100).patients.set_index("patient")
    g = square(6).astype(bool)
    assert patients.loc["c", "soft_dice"] == pytest.approx(2 * probability[g].sum() / (probability.sum() + g.sum()), rel=1e-5)
    assert math.isnan(patients.loc["d", "soft_dice"])


def test_soft_dice_needs_probabilities_of_all_scans_of_a_patient() -> None:
    rows = [row("p", 4, 4, 2, soft_overlap=2.0, soft_total=8.0), row("p", 6, 6, 3), row("q", 4, 4, 4, soft_overlap=3.0, soft_total=7.0)]
    patients = summarise(rows, resamples=10).patients.set_index("patient")
    assert math.isnan(patients.loc["p", "soft_dice"]) and patients.loc["q", "soft_dice"] == pytest.approx(6 / 7)


def fine(row_of_thick: dict[str, object], times: int) -> dict[str, object]:
    """The same haemorrhage with so many times as many voxels."""
    sums = ("annotated_voxels", "predicted_voxels", "overlap_voxels", "soft_overlap", "soft_total")
    return row_of_thick | {"case": "fine"} | {name: times * row_of_thick[name] for name in sums}


def test_a_scan_with_smaller_voxels_does_not_count_more() -> None:
    """Two scans of 10 mL, one well predicted, one with eight times as many voxels badly."""
    soft = [{"soft_overlap": v, "soft_total": 20.0, "soft_overlap_ml": v, "soft_total_ml": 20.0} for v in (8.0, 3.0)]
    rows = [row("p", 10, 10, 9, **soft[0]), fine(row("p", 10, 5, 2, **soft[1]), 8)]
    patient = summarise(rows, resamples=10).patients.iloc[0]
    assert patient["dice"] == pytest.approx(2 * 11 / 35) and patient["scans"] == 2
    assert (patient["precision"], patient["recall"]) == pytest.approx((11 / 15, 11 / 20))
    assert patient["soft_dice"] == pytest.approx(2 * 11 / 40)


def test_rows_of_an_older_version_are_pooled_by_what_they_hold() -> None:
    rows = [row("p", 10, 10, 9, soft_overlap=8.0, soft_total=20.0), fine(row("p", 10, 5, 2, soft_overlap=3.0, soft_total=20.0), 8)]
    patient = summarise(rows, resamples=10).patients.iloc[0]
    assert patient["dice"] == pytest.approx(2 * 11 / 35) and patient["soft_dice"] == pytest.approx(2 * (8 + 24) / (20 + 160))
    for old in rows:
        del old["overlap_ml"]
    assert summarise(rows, resamples=10).patients.iloc[0]["recall"] == pytest.approx((9 + 16) / (10 + 80))


def test_a_patient_with_one_scan_has_the_figures_of_its_row() -> None:
    """Also where the slices differ in thickness, so that mL and voxels do not go together."""
    patient = summarise([row("p", 8, 6, 4) | {"overlap_ml": 1.0, "annotated_ml": 3.0, "predicted_ml": 3.0}], resamples=10).patients.iloc[0]
    assert patient["dice"] == pytest.approx(8 / 14) and patient["annotated_ml"] == 3.0


def test_missed_haemorrhage_counts_as_zero() -> None:
    patients = summarise([row("p", 4, 0, 0, hd95_mm=math.nan, surface_dice=0.0)], resamples=10).patients.iloc[0]
    assert patients["dice"] == patients["recall"] == patients["surface_dice"] == 0 and patients["relative_error"] == 1
    assert math.isnan(patients["precision"]) and math.isnan(patients["hd95_mm"])


def test_over_and_under_segmentation_do_not_cancel_in_the_absolute_error() -> None:
    patient = summarise([row("p", 10, 14, 10), row("p", 10, 6, 6)], resamples=10).patients.iloc[0]
    assert patient["error_ml"] == 0 and patient["absolute_error_ml"] == 4 and patient["relative_error"] == pytest.approx(0.4)


def test_strata_are_tertiles_or_the_edges_of_the_user() -> None:
    rows = [row(f"p{ml}", ml, ml, ml // 2) for ml in range(1, 10)]
    result = summarise(rows, resamples=50)
    assert list(result.patients["stratum"].value_counts()) == [3, 3, 3]
    chosen = summarise(rows, edges=(5.0,), resamples=50)
    assert chosen.edges == (5.0,) and list(chosen.patients["stratum"]) == ["< 5 mL"] * 4 + ["≥ 5 mL"] * 5
    assert chosen.value("annotated_ml", "< 5 mL") == pytest.approx(2.5)
    assert set(chosen.summary["stratum"]) == {ALL, "< 5 mL", "≥ 5 mL"}


def test_stratum_that_nobody_is_in_stays_in_the_tables_with_n_0() -> None:
    result = summarise([row("p", 3, 3, 3), row("q", 4, 4, 3)], edges=(1.0, 10.0), resamples=10)
    assert strata_names(result.edges) == [ALL, "< 1 mL", "1–10 mL", "≥ 10 mL"]
    empty = result.summary[result.summary["stratum"] == "≥ 10 mL"]
    assert (empty["n"] == 0).all() and empty["mean"].isna().all()


def test_edges_lie_in_the_upper_stratum_and_names_do_not_collide() -> None:
    assert stratum_name(5.0, (5.0, 20.0)) == "5–20 mL" and stratum_name(0, (5.0,)) == WITHOUT and stratum_name(3, ()) == "> 0 mL"
    assert len(set(strata_names((1.0001, 1.0002)))) == 4


@pytest.mark.parametrize("edges", [(0.0,), (5.0, 5.0), (9.0, 3.0), (-1.0, 2.0), (math.nan,)])
def test_edges_that_do_not_rise_are_refused(edges: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="rise"):
        summarise([row("p", 3, 3, 3)], edges=edges)


def test_tertiles_leave_out_patients_without_haemorrhage() -> None:
    assert tertiles([0, 0, 0, 1, 2, 3, 4]) == pytest.approx((2.0, 3.0))
    assert tertiles([1.0, 2.0]) == () and tertiles([5.0] * 9) == ()


def test_agreement_of_volumes_is_over_all_patients_and_each_stratum() -> None:
    rng = np.random.default_rng(1)
    rows = [
        row(f"p{n}", int(a), int(p), min(int(a), int(p)))
        for n, (a, p) in enumerate(zip(rng.integers(1, 60, 12), rng.integers(1, 60, 12), strict=True))
    ]
    result = summarise(rows, resamples=50)
    overall = result.agreement.set_index("stratum").loc[ALL]
    expected = icc(result.patients["annotated_ml"].to_numpy(), result.patients["predicted_ml"].to_numpy())
    assert (overall["icc"], overall["n"]) == (pytest.approx(expected.value), 12)
    assert overall["bias_ml"] == pytest.approx((result.patients["predicted_ml"] - result.patients["annotated_ml"]).mean())
    assert len(result.agreement) == 4


def test_intervals_hold_their_means_and_repeat() -> None:
    rows = [row(f"p{ml}", ml, ml + 2, ml // 2 + 1) for ml in range(1, 12)]
    first, second = summarise(rows, resamples=200, seed=4), summarise(rows, resamples=200, seed=4)
    pd.testing.assert_frame_equal(first.summary, second.summary)
    known = first.summary.dropna()
    assert ((known["low"] <= known["mean"] + 1e-9) & (known["mean"] <= known["high"] + 1e-9)).all() and len(known) > 20


def test_tables_are_written_as_csv(cohort: Path) -> None:
    result = evaluate(cohort / "predicted", CaseTable.read(cohort), cohort / "out", resamples=50)
    names = sorted(p.name for p in (cohort / "out").iterdir())
    assert names == [f"evaluation_{n}.csv" for n in ("agreement", "cases", "patients", "summary")]
    again = pd.read_csv(cohort / "out/evaluation_patients.csv")
    assert again["dice"].to_numpy() == pytest.approx(result.patients["dice"].to_numpy(), rel=1e-5, nan_ok=True)


def test_all_missing_masks_are_named(cohort: Path) -> None:
    for name in "bd":
        (cohort / f"predicted/{name}.nii.gz").unlink()
    with pytest.raises(CaseError, match=r"2 of 5 cases \(b, d\)"):
        evaluate(cohort / "predicted", CaseTable.read(cohort), cohort / "out")
    with pytest.raises(CaseError, match="not a folder"):
        evaluate(cohort / "absent", CaseTable.read(cohort))
    assert not (cohort / "out").exists()


def test_all_masks_that_do_not_fit_are_named(cohort: Path) -> None:
    save(square(2), cohort / "predicted/a.nii.gz", left=2.5)
    save(square(4) + square(3), cohort / "predicted/b.nii.gz")
    save(np.full(SHAPE, 3.0, np.float32), cohort / "predicted/c_probability.nrrd")
    (cohort / "predicted/d.nii.gz").write_bytes((cohort / "predicted/d.nii.gz").read_bytes()[:-60])
    with pytest.raises(CaseError) as caught:
        evaluate(cohort / "predicted", CaseTable.read(cohort))
    for part in ("4 of 5", "Case a: ", "Case b: ", "several labels (1, 2)", "Case c: ", "probabilities from 0 to 1", "Case d: "):
        assert part in str(caught.value)


def test_label_of_the_predictions_is_chosen(cohort: Path) -> None:
    save(square(4) + square(3), cohort / "predicted/b.nii.gz")
    table = CaseTable.read(cohort).where(lambda case: case.case == "b")
    assert evaluate(cohort / "predicted", table, segment="2", resamples=10).value("predicted_ml") == pytest.approx(2 * 9 * VOXEL_ML)
    assert evaluate(cohort / "predicted", table, segment="1|2", resamples=10).value("dice") == 1.0


def test_evaluation_stops_when_asked(cohort: Path) -> None:
    events = Events()
    events.cancel()
    with pytest.raises(Cancelled):
        evaluate(cohort / "predicted", CaseTable.read(cohort), events=events)


def test_all_labels_of_a_mask_and_the_test_cases_alone_are_compared_by_the_command(cohort: Path, tmp_path: Path, capsys) -> None:
    from SAHLoRALib.cli import main

    lines = (cohort / "cases.csv").read_text(encoding="utf-8").splitlines()
    marks = ("split", "test", "test", *[""] * (len(lines) - 3))
    (cohort / "cases.csv").write_text("\n".join(f"{line},{mark}" for line, mark in zip(lines, marks, strict=True)) + "\n", encoding="utf-8")
    for name in SIZES:
        array = square(SIZES[name])
        array[3] *= 4
        save(array, tmp_path / f"several/{name}.nrrd")
    save(square(0), tmp_path / "several/e.nrrd")
    command = ["evaluate", str(tmp_path / "several"), str(cohort / "cases.csv"), "--resamples", "50"]
    assert main(command) == 2
    assert "with --prediction-segment, for example 1|4, or * for all" in capsys.readouterr().err
    assert main([*command, "--prediction-segment", "*", "--split", "test"]) == 0
    told = capsys.readouterr().out
    assert "all (n = 1)" in told and re.search(r"Dice +1\n", told)  # a and b are one patient
    assert main([*command, "--prediction-segment", "1|4", "--split", "training"]) == 0
    assert "all (n = 3)" in capsys.readouterr().out


def test_a_mean_of_fewer_patients_than_its_column_says_of_how_many() -> None:
    from SAHLoRALib.commands.evaluate import told
    from SAHLoRALib.report import evaluation_table

    missed = row("missed", 4, 0, 0, hd95_mm=math.nan, surface_dice=0.0)
    result = summarise([row("p", 4, 4, 2), row("q", 6, 8, 4), missed, row("clean", 0, 2, 0, hd95_mm=math.nan)], edges=(), resamples=20)
    for lines in (told(result).splitlines(), [line.strip("| ") for line in evaluation_table(result)]):
        said = {start: next(line for line in lines if line.startswith(start)) for start in ("Dice", "precision", "HD95", "annotated")}
        assert ", n 3" in said["Dice"] and ", n 2" in said["precision"] and ", n 2" in said["HD95"]
        assert ", n" not in said["annotated"] and not any(", n 0" in line for line in lines)
