"""The paper's experiment from label maps to the report, on a handful of patients: `sahlora phantom --cohort paper`, then one study file."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import SimpleITK as sitk
import yaml
from SAHLoRALib.cli import main
from SAHLoRALib.folds import Folds
from SAHLoRALib.phantom import icbm_head

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1500)  # the cohort looks for a patient of each volume
def test_cohort_and_study_file_make_the_papers_report(tmp_path: Path) -> None:
    heads = tmp_path / "heads"
    heads.mkdir()
    image = sitk.GetImageFromArray(icbm_head().labels)
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    for n in range(6):  # six heads of other sizes
        image.SetSpacing([1.0 + 0.02 * n] * 3)
        sitk.WriteImage(image, str(heads / f"{n}.nii.gz"))
    cohort = ["phantom", "--cohort", "paper", "--heads", str(heads), "--output", str(tmp_path / "paper")]
    assert main([*cohort, "--patients", "3", "6", "--matrix", "64", "--slices", "10"]) == 0
    tables = {side: list(csv.DictReader((tmp_path / "paper" / side / "cases.csv").open(encoding="utf-8"))) for side in ("tbi", "asah")}
    assert [len(tables["tbi"]), len(tables["asah"])] == [3, 6]
    study = yaml.safe_load((ROOT / "Resources" / "Study" / "paper.yaml").read_text(encoding="utf-8"))
    quick = {"steps": 2, "steps_per_epoch": 2, "batch": 4, "crop": [32, 32], "patience": 0, "threads": 1, "device": "cpu"}
    study |= {"cases": "paper/asah/cases.csv", "folds_file": "paper/asah/folds.json", "output": "study", "ranks": [1, 2, 40], "resamples": 50}
    study["training"] |= quick
    study["training"].pop("epochs")
    small = {"network": {"levels": 2, "width": 4}, "grid": {"pixel_mm": 5.0, "multiple": 16}}
    study["pretraining"] |= {"cases": "paper/tbi/cases.csv", "validation": 0.4, "training": {**quick, **small}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    assert main(["study", "--file", str(tmp_path / "study.yaml")]) == 0
    report = (tmp_path / "study" / "report.md").read_text(encoding="utf-8")
    assert all(f"| {n}. " in report for n in range(1, 6))  # a verdict on each claim
    methods = [row["label"] for row in csv.DictReader((tmp_path / "study" / "methods.csv").open(encoding="utf-8"))]
    assert len(methods) == 2 + 1 + 6 + 6 * 3 + 2  # zero-shot twice, scratch, standard fine-tuning, adapters by rank, two kinds of normalisation
    given, kept = (Folds.read(tmp_path / place / "folds.json").folds for place in ("paper/asah", "study"))
    assert dict(given) == dict(kept)
    made = json.loads((tmp_path / "study" / "made_of.json").read_text(encoding="utf-8"))
    assert made["base"]["name"] == "base" and len(made["runs"]) >= 3 * (len(methods) - 2)
