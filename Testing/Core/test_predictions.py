"""Predicted masks are found in every form that a folder of them may have."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from SAHLoRALib.cases import CaseTable
from SAHLoRALib.cli import main
from SAHLoRALib.errors import CaseError
from SAHLoRALib.evaluation import evaluate
from SAHLoRALib.predictions import find_predictions
from tiny_cohort import save_cohort, save_tiny_base

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def cases(tmp_path: Path) -> CaseTable:
    return CaseTable.read(save_cohort(tmp_path / "cases", (3, 5)))


def put(path: Path) -> Path:
    """A file that is looked for by its name only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_masks_named_after_the_case_and_masks_in_folders_of_that_name(tmp_path: Path, cases: CaseTable) -> None:
    plain, map_ = put(tmp_path / "p/a00.nii.gz"), put(tmp_path / "p/a00_probability.nrrd")
    inside, inner_map = put(tmp_path / "p/a01/mask.seg.nrrd"), put(tmp_path / "p/a01/probability.nii.gz")
    found = find_predictions(tmp_path / "p", cases)
    assert (found["a00"].mask, found["a00"].probability) == (plain, map_)
    assert (found["a01"].mask, found["a01"].probability) == (inside, inner_map)


def test_what_segment_writes_for_several_inputs_is_evaluated_as_it_lies(tmp_path: Path, capsys: Capture) -> None:
    """All scans are called ct.nrrd, so their result folders are called ct, ct_2, ct_3: the reports say which is whose."""
    base = save_tiny_base(tmp_path)
    path = save_cohort(tmp_path / "cases", (3, 5, 7))
    scans = [str(tmp_path / "cases" / name / "ct.nrrd") for name in ("a02", "a00", "a01")]
    assert main(["segment", *scans, "--output", str(tmp_path / "out"), "--model", str(base.path), "--probability"]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir() if p.is_dir()} == {"ct", "ct_2", "ct_3"}
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "out"), str(path), "--output", str(tmp_path / "tables"), "--resamples", "50"]) == 0
    assert "soft Dice" in capsys.readouterr().out
    with (tmp_path / "tables" / "evaluation_cases.csv").open(encoding="utf-8") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    reports = [json.loads(report.read_text(encoding="utf-8")) for report in (tmp_path / "out").glob("*/report.json")]
    segmented = {Path(report["source"]).parent.name: report["total_ml"] for report in reports}
    assert {name: float(row["predicted_ml"]) for name, row in rows.items()} == pytest.approx(segmented)
    assert len(set(segmented.values())) == 3 and all(row["soft_dice"] for row in rows.values())


def test_two_results_of_one_scan_are_refused_and_masks_of_two_models_are_told(tmp_path: Path, capsys: Capture) -> None:
    base, other = save_tiny_base(tmp_path / "m"), save_tiny_base(tmp_path / "m", "other", 45.0)
    path = save_cohort(tmp_path / "cases", (3, 5))

    def segment(name: str, model: Path) -> int:
        return main(["segment", str(tmp_path / "cases" / name), "--output", str(tmp_path / "out"), "--model", str(model)])

    assert segment("a00/ct.nrrd", base.path) == 0 == segment("a01/ct.nrrd", other.path)
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "out"), str(path), "--resamples", "50"]) == 0
    assert "were not all made in one way (tiny at 0.5; other at 0.5)" in capsys.readouterr().err
    shutil.copytree(tmp_path / "out" / "ct", tmp_path / "out" / "again")
    with pytest.raises(CaseError, match=r"several masks for a00 \(again.mask.nrrd, ct.mask.nrrd\)"):
        find_predictions(tmp_path / "out", CaseTable.read(path))
    shutil.rmtree(tmp_path / "out" / "again")
    assert main(["evaluate", str(tmp_path / "out"), str(path), "--prediction-segment", "7"]) == 2
    assert "has a voxel of 7, but of 1: give one of these" in capsys.readouterr().err


def test_results_are_found_from_any_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, path = save_tiny_base(tmp_path), save_cohort(tmp_path / "cases", (3, 5))
    monkeypatch.chdir(tmp_path / "cases")
    assert main(["segment", "a00/ct.nrrd", "a01/ct.nrrd", "--output", "../out", "--model", str(base.path)]) == 0
    monkeypatch.chdir("/")
    found = find_predictions(tmp_path / "out", CaseTable.read(path))
    assert [found[name].mask.parent.name for name in ("a00", "a01")] == ["ct", "ct_2"]


def test_a_folder_that_another_scans_report_claims_is_not_taken_by_its_name(tmp_path: Path, cases: CaseTable) -> None:
    mask = put(tmp_path / "p/a01/mask.nrrd")
    (mask.parent / "report.json").write_text(f'{{"source": "{cases["a00"].image.as_posix()}"}}', encoding="utf-8")
    with pytest.raises(CaseError, match=r"no mask for 1 of 2 cases \(a01\)"):
        find_predictions(tmp_path / "p", cases)
    shutil.copytree(mask.parent, tmp_path / "p/other")
    (tmp_path / "p/other/report.json").write_text("{", encoding="utf-8")  # a report that cannot be read claims nothing
    with pytest.raises(CaseError, match="no mask for 1 of 2"):
        find_predictions(tmp_path / "p", cases)


def test_two_masks_of_one_case_are_refused_by_name(tmp_path: Path, cases: CaseTable) -> None:
    for name in ("a00.nrrd", "a01.nrrd", "a01/mask.nrrd"):
        put(tmp_path / "p" / name)
    with pytest.raises(CaseError, match=r"several masks for a01 \(a01.nrrd, a01.mask.nrrd\)"):
        find_predictions(tmp_path / "p", cases)


def test_the_folder_of_the_annotations_is_not_taken_for_predictions(tmp_path: Path, cases: CaseTable) -> None:
    with pytest.raises(CaseError, match="are the annotations themselves"):
        evaluate(tmp_path / "cases", cases)
