"""The paper's cohort: volumes by strata, no head on both sides, and the cohorts of the bundled models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from SAHLoRALib.cli import main
from SAHLoRALib.errors import ConfigError
from SAHLoRALib.phantom.paper_cohort import HOSPITALS, STRATA, PaperCohort, apportion, draw_machine, folds_by_head, split_heads, stratum_of
from SAHLoRALib.recipes import Recipes
from SAHLoRALib.study_config import PAPER, StudyConfig

ROOT = Path(__file__).resolve().parents[2]


def test_thirty_patients_are_spread_over_all_volume_strata():
    assert sum(apportion(30)) == 30 and min(apportion(30)) >= 2
    assert [sum(apportion(n)) for n in (1, 3, 7)] == [1, 3, 7]


def test_a_trial_near_an_edge_belongs_to_no_stratum():
    assert stratum_of(0.5) == 0 and stratum_of(100.0) == len(STRATA) - 1
    assert stratum_of(1.01) is None and stratum_of(0.01) is None


def test_no_head_serves_both_sides():
    heads = [Path(f"{n}.nii.gz") for n in range(20)]
    trauma, second = split_heads(heads)
    assert trauma == heads[:11] and second == heads[11:]
    with pytest.raises(ConfigError, match="four label maps"):
        split_heads(heads[:3])


def test_all_patients_of_a_head_lie_in_one_fold_and_folds_are_alike():
    heads = {f"p{n:02}": f"head{n % 9}" for n in range(30)}
    volumes = {patient: 0.5 * 1.2**n for n, patient in enumerate(heads)}
    folds = folds_by_head(heads, volumes, 3, seed=0)
    for head in set(heads.values()):
        assert len({folds.folds[patient] for patient in heads if heads[patient] == head}) == 1
    assert all(9 <= len(folds.test_patients(fold)) <= 11 for fold in range(3))


def test_the_hospitals_have_different_scanners_and_slices_of_1_to_5_mm():
    rng = np.random.default_rng(0)
    drawn = {name: [draw_machine(rng, name, 256) for _ in range(40)] for name in HOSPITALS}
    assert not {name for name, _ in drawn["A"]} & {name for name, _ in drawn["B"]}
    thick = {scanner.thickness_mm for of in drawn.values() for _, scanner in of}
    assert min(thick) == 1.0 and max(thick) == 5.0
    assert np.mean([s.noise_hu for _, s in drawn["B"]]) > np.mean([s.noise_hu for _, s in drawn["A"]])


def test_wrong_sizes_and_missing_heads_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="heads"):
        PaperCohort(tmp_path, None)
    with pytest.raises(ConfigError, match="share"):
        PaperCohort(tmp_path, tmp_path, share=0.0)
    assert PaperCohort(tmp_path, tmp_path).counts == (124, 30) and PaperCohort(tmp_path, tmp_path, share=0.1).counts == (12, 3)


def test_the_cohorts_of_the_bundled_models_can_be_made_and_keep_their_heads_apart(tmp_path):
    recipes = Recipes.read("models")
    for name in recipes.names():
        assert recipes.config(name, tmp_path, tmp_path).output == tmp_path / name
    assert recipes.cohorts["tbi-train"]["use"] != recipes.cohorts["asah-test"]["use"]
    with pytest.raises(ConfigError, match="no cohort"):
        recipes.names(("stroke",))


def test_a_cohort_that_does_not_fit_is_refused_in_one_line(tmp_path, capsys):
    assert main(["phantom", "--cohort", "paper", "--output", str(tmp_path), "--kind", "tbi"]) == 2
    assert "decides kind" in capsys.readouterr().err
    assert main(["phantom", "--cohort", str(tmp_path / "none.yaml"), "--output", str(tmp_path)]) == 2
    assert "none.yaml cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["paper", "deciding"])
def test_the_study_files_can_be_read_and_the_whole_one_holds_the_papers_comparison(name):
    config = StudyConfig.read(ROOT / "Resources" / "Study" / f"{name}.yaml")
    assert len(config.ranks) == 3 and config.folds == 3
    assert name != "paper" or set(PAPER) <= set(config.methods)
