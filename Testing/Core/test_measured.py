"""Figures in a model's header: what was cross-validated and what was measured on named cases stay apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from SAHLoRALib.card import make_card
from SAHLoRALib.card_text import card_text
from SAHLoRALib.cases import CaseTable
from SAHLoRALib.cli import main
from SAHLoRALib.measured import cross_validated, headline, held_out, with_held_out
from SAHLoRALib.weights import read_info
from tiny_cohort import flags, save_cohort, save_tiny_base

#: What `sahlora train` writes, cut down to what is looked at.
VALIDATED = {"how": "cross-validation by patient in 3 folds", "dice": {"mean": 0.5, "n": 6}, "folds": 3, "patients": 6}
AFTER = {"patients": 2, "strata": {"all": {"dice": {"mean": 0.7, "n": 2}}}}


def test_measuring_a_cross_validated_adapter_keeps_its_cross_validated_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAHLORA_MODELS", str(tmp_path / "models"))
    base = save_tiny_base(tmp_path / "models")
    cases, unseen = save_cohort(tmp_path / "cases", (3, 4, 5, 6)), save_cohort(tmp_path / "unseen", (2, 8))
    words = ["train", str(cases), "--name", "mine", "--run", str(tmp_path / "work"), "--base", "tiny", "--folds", "2", *flags(), "--no-baseline"]
    assert main(words) == 0
    before = read_info(tmp_path / "models" / "mine.safetensors")
    after = make_card(before, base, {"unseen heads": CaseTable.read(unseen)}, tmp_path / "card.md")
    assert cross_validated(after.metrics) == cross_validated(before.metrics) and cross_validated(after.metrics)["dice"]["n"] == 4
    measured = held_out(after.metrics)["unseen heads"]["after"]["strata"]["all"]["dice"]
    assert measured["n"] == 2 and measured["mean"] != cross_validated(after.metrics)["dice"]["mean"]
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert "## Cross-validation on its own cases" in text and "in 2 folds" in text and "## unseen heads" in text
    # And the finished training still knows its model: nothing is trained or written again.
    assert main(words) == 0 and held_out(read_info(after.path).metrics) == held_out(after.metrics)


def test_a_second_table_is_added_to_the_first_and_the_same_one_replaced() -> None:
    once = with_held_out({"cross_validation": VALIDATED}, {"a": AFTER})
    twice = with_held_out(once, {"b": AFTER, "a": {"patients": 3, "strata": {}}})
    assert list(held_out(twice)) == ["a", "b"] and held_out(twice)["a"]["patients"] == 3 and cross_validated(twice) == VALIDATED


def test_headers_of_earlier_versions_are_read_and_brought_into_order() -> None:
    flat = {"validation": {"dice": 0.9}, **VALIDATED}
    assert cross_validated(flat) == VALIDATED
    assert with_held_out(flat, {"a": AFTER}) == {"validation": {"dice": 0.9}, "cross_validation": VALIDATED, "held_out": {"a": AFTER}}
    assert with_held_out({"held_out": {"a": AFTER}, "dice": 0.7}, {}) == {"held_out": {"a": AFTER}}


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ({"cross_validation": VALIDATED, "held_out": {"ten heads": {"before": {}, "after": AFTER}}}, (0.7, "on ten heads")),
        ({"cross_validation": VALIDATED, "validation": {"dice": 0.9}}, (0.5, "in cross-validation of 6 patients")),
        (VALIDATED, (0.5, "in cross-validation of 6 patients")),
        ({"validation": {"dice": 0.8, "best_dice": 0.9, "cases": 4}}, (0.9, "on the 4 validation cases")),
        ({"validation": {"dice": None}}, None),
        ({}, None),
    ],
)
def test_the_figure_that_is_shown_first_is_of_cases_that_decided_nothing(metrics: dict[str, object], told: object) -> None:
    assert headline(metrics) == told


def test_a_card_names_settings_that_were_not_stated(tmp_path: Path) -> None:
    text = card_text(save_tiny_base(tmp_path))
    assert "augmentation ?" in text and "No figures on held-out cases" in text


@pytest.mark.parametrize("metrics", [{"held_out": {"x": "abc"}}, {"validation": "abc"}, {"dice": 10**400}, {"held_out": {"x": {"strata": [1]}}}])
def test_a_strangers_figures_that_are_none_say_nothing(metrics: dict[str, object]) -> None:
    assert headline(metrics) is None
