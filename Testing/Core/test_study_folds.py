"""Folds that a study is given in a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from SAHLoRALib.errors import CaseError, ConfigError
from SAHLoRALib.folds import Folds
from SAHLoRALib.study import take_given_folds
from SAHLoRALib.study_config import StudyConfig

ROOT = Path(__file__).resolve().parents[2]
PATIENTS = [f"p{n}" for n in range(6)]


def config(folder: Path, folds: dict[str, int]) -> StudyConfig:
    """A study whose file of folds says these."""
    Folds(3, 0, (), folds).write(folder / "given.json")
    return StudyConfig(folder / "cases.csv", folder / "study", folds_file=folder / "given.json")


def test_a_study_begins_with_the_folds_that_it_is_given(tmp_path: Path) -> None:
    together = {patient: n // 2 for n, patient in enumerate(PATIENTS)}
    take_given_folds(config(tmp_path, together))
    assert Folds.read(tmp_path / "study" / "folds.json").folds == together


def test_the_same_folds_are_taken_again_and_others_are_refused(tmp_path: Path) -> None:
    together = {patient: n // 2 for n, patient in enumerate(PATIENTS)}
    take_given_folds(config(tmp_path, together))
    take_given_folds(config(tmp_path, together))
    with pytest.raises(ConfigError, match="has 1 patients in other folds"):
        take_given_folds(config(tmp_path, together | {"p0": 2}))
    assert Folds.read(tmp_path / "study" / "folds.json").folds == together


def test_folds_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"nowhere\.json cannot be read"):
        take_given_folds(StudyConfig(output=tmp_path, folds_file=tmp_path / "nowhere.json"))


def test_the_papers_study_takes_its_cohorts_folds_and_keeps_them_when_written() -> None:
    study = StudyConfig.read(ROOT / "Resources" / "Study" / "paper.yaml")
    assert study.folds_file is not None and study.folds_file.parent == study.cases.parent and study.folds_file.name == "folds.json"
    assert StudyConfig.from_dict(study.as_dict()) == study
