"""Folds: nobody changes sides, whatever is added."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from SAHLoRALib.errors import CaseError, ConfigError
from SAHLoRALib.folds import Folds, folds_for, make_folds, split_validation

cohorts = st.dictionaries(st.text(min_size=1, max_size=6), st.floats(0, 80) | st.sampled_from([0.0, 5.0]), min_size=5, max_size=40)


@given(cohorts, st.integers(2, 5), st.integers(0, 100))
def test_every_patient_is_tested_exactly_once_and_never_trained_on(volumes: dict[str, float], count: int, seed: int) -> None:
    folds = make_folds(volumes, count, seed)
    tested = [p for fold in range(count) for p in folds.test_patients(fold)]
    assert sorted(tested) == sorted(volumes)
    for fold in range(count):
        test, training = set(folds.test_patients(fold)), set(folds.training_patients(fold))
        assert not test & training and test | training == set(volumes)


@given(cohorts, st.integers(2, 5), st.integers(0, 100))
def test_folds_are_of_one_size_overall_and_in_every_stratum(volumes: dict[str, float], count: int, seed: int) -> None:
    folds = make_folds(volumes, count, seed)
    strata = {folds.stratum(ml) for ml in volumes.values()}
    for members in [set(volumes)] + [{p for p in volumes if folds.stratum(volumes[p]) == s} for s in strata]:
        sizes = [len(members & set(folds.test_patients(fold))) for fold in range(count)]
        assert max(sizes) - min(sizes) <= 1


@given(cohorts, cohorts, st.integers(2, 5), st.integers(0, 100))
def test_added_patients_move_nobody(volumes: dict[str, float], later: dict[str, float], count: int, seed: int) -> None:
    first = make_folds(volumes, count, seed)
    second = first.with_patients({**later, **volumes})
    assert all(second.folds[p] == fold for p, fold in first.folds.items())
    assert set(second.folds) == set(volumes) | set(later)


@given(cohorts, st.integers(2, 5), st.randoms())
def test_folds_do_not_depend_on_the_order_of_the_table(volumes: dict[str, float], count: int, shuffler: object) -> None:
    names = list(volumes)
    shuffler.shuffle(names)  # type: ignore[attr-defined]
    assert make_folds({p: volumes[p] for p in names}, count) == make_folds(volumes, count)


@given(cohorts, st.floats(0.01, 0.99), st.integers(0, 100))
def test_validation_patients_come_out_of_training_and_leave_some(volumes: dict[str, float], fraction: float, seed: int) -> None:
    training, validation = split_validation(volumes, fraction, seed)
    assert training and validation and not set(training) & set(validation)
    assert set(training) | set(validation) == set(volumes)
    assert len(validation) == min(max(1, round(fraction * len(volumes))), len(volumes) - 1)
    assert split_validation(volumes, fraction, seed) == (training, validation)


def test_volumes_are_spread_over_the_folds() -> None:
    volumes = {f"p{n:02}": float(n) for n in range(1, 31)}
    folds = make_folds(volumes, 3, seed=1)
    for fold in range(3):
        large = Counter(1 + (volumes[p] > 10) + (volumes[p] > 20) for p in folds.test_patients(fold))
        assert set(large.values()) <= {3, 4} and len(large) == 3


def test_seeds_differ_and_repeat() -> None:
    volumes = {f"p{n:02}": float(n) for n in range(1, 31)}
    assert make_folds(volumes, seed=1) == make_folds(volumes, seed=1)
    assert make_folds(volumes, seed=1).folds != make_folds(volumes, seed=2).folds


def test_file_is_written_once_and_kept_when_cases_are_added(tmp_path: Path) -> None:
    path = tmp_path / "run" / "folds.json"
    first = folds_for(path, {f"p{n}": float(n) for n in range(6)})
    stamp = path.stat().st_mtime_ns
    assert folds_for(path, {f"p{n}": float(n) for n in range(6)}, seed=99) == first
    assert path.stat().st_mtime_ns == stamp
    second = folds_for(path, {f"p{n}": float(n) + 40 for n in range(9)})
    assert all(second.folds[p] == fold for p, fold in first.folds.items())
    assert Folds.read(path) == second
    assert [f.name for f in path.parent.iterdir()] == ["folds.json"]


def test_patient_that_left_and_came_back_has_its_old_fold(tmp_path: Path) -> None:
    path = tmp_path / "folds.json"
    everyone = {f"p{n}": float(n + 1) for n in range(9)}
    first = folds_for(path, everyone)
    folds_for(path, {p: ml for p, ml in everyone.items() if p != "p4"} | {"new": 5.0})
    assert folds_for(path, everyone).folds["p4"] == first.folds["p4"]


def test_table_with_fewer_patients_asks_only_for_those(tmp_path: Path) -> None:
    folds = make_folds({f"p{n}": float(n) for n in range(9)})
    table = {"p1", "p2", "p3"}
    assert {p for f in range(3) for p in folds.test_patients(f, table)} == table
    assert set(folds.training_patients(0, table)) <= table


def test_more_folds_than_patients_are_refused() -> None:
    with pytest.raises(ConfigError, match="table has 2"):
        make_folds({"a": 1.0, "b": 2.0}, 3)
    with pytest.raises(ConfigError, match="at least 2 folds"):
        make_folds({"a": 1.0, "b": 2.0}, 1)


def test_another_number_of_folds_is_refused(tmp_path: Path) -> None:
    volumes = {f"p{n}": float(n) for n in range(9)}
    folds_for(tmp_path / "folds.json", volumes, 3)
    with pytest.raises(ConfigError, match="made for 3 folds, not 5"):
        folds_for(tmp_path / "folds.json", volumes, 5)


def test_fold_without_patients_is_refused(tmp_path: Path) -> None:
    volumes = {f"p{n}": float(n) for n in range(9)}
    folds = folds_for(tmp_path / "folds.json", volumes)
    left = {p: volumes[p] for p in folds.training_patients(0)}
    with pytest.raises(ConfigError, match="Fold 0"):
        folds_for(tmp_path / "folds.json", left)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": 1}',
        '{"format": 1, "count": 3, "seed": 0, "edges_ml": [], "folds": {"a": 7}}',
        '{"format": 9}',
        '{"format": "1\\n2"}',
    ],
)
def test_damaged_file_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "folds.json"
    path.write_text(text)
    with pytest.raises(CaseError) as told:
        folds_for(path, {f"p{n}": float(n) for n in range(9)})
    assert path.read_text() == text and "\n" not in str(told.value)


def test_volume_that_is_no_number_is_refused() -> None:
    with pytest.raises(CaseError, match="'b'"):
        make_folds({"a": 1.0, "b": float("nan")}, 2)


def test_validation_of_a_single_patient_is_refused() -> None:
    with pytest.raises(CaseError, match="early stopping"):
        split_validation({"a": 1.0})


@settings(max_examples=30)
@given(cohorts)
def test_folds_survive_the_file(tmp_path_factory: pytest.TempPathFactory, volumes: dict[str, float]) -> None:
    path = tmp_path_factory.mktemp("folds") / "folds.json"
    made = make_folds(volumes)
    made.write(path)
    assert Folds.read(path) == made
    assert json.loads(path.read_text(encoding="utf-8"))["count"] == 3
