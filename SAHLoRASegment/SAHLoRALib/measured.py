"""What was measured on a model, as its header keeps it: each kind of figure under a key of its own, so that none overwrites another.

    validation         the validation cases that chose weights and threshold: no measure of how good the model is on others
    cross_validation   out-of-fold predictions of the training's own cases, with how they were made
    held_out           title → what `sahlora card` measured on cases that the training never saw
    clean_scans        title → false mL that it measured in a scan without haemorrhage: after, and for an adapter before

Plain dictionaries, read without torch. Headers of an earlier version hold the figures of the cross-validation, or the first held-out Dice as a
number, at the top; both are still read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VALIDATION, CROSS_VALIDATION, HELD_OUT, CLEAN_SCANS = "validation", "cross_validation", "held_out", "clean_scans"
#: The stratum of all patients, as in `evaluation`.
_ALL = "all"


def cross_validated(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of the cross-validation (measure → mean, low, high …; how, folds, patients); empty where there was none."""
    found = metrics.get(CROSS_VALIDATION)
    if isinstance(found, Mapping):
        return dict(found)
    if isinstance(metrics.get("dice"), Mapping) and "folds" in metrics:  # of an earlier version
        return {key: value for key, value in metrics.items() if key not in (VALIDATION, HELD_OUT)}
    return {}


def held_out(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Title of a case table → what `with_held_out` was given; empty where nothing was measured."""
    found = metrics.get(HELD_OUT)
    return dict(found) if isinstance(found, Mapping) else {}


def with_held_out(metrics: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics with these tables' figures added (title → figures); what the training wrote stays as it is."""
    kept = {key: value for key, value in metrics.items() if key != HELD_OUT}
    if not isinstance(kept.get("dice"), Mapping):
        kept.pop("dice", None)  # an earlier version's copy of the first table's Dice
    old = cross_validated(kept)
    if old and CROSS_VALIDATION not in kept:
        kept = {key: value for key, value in kept.items() if key not in old} | {CROSS_VALIDATION: old}
    return kept | {HELD_OUT: held_out(metrics) | dict(measured)}


def clean_scans(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Title of a scan without haemorrhage → {after, before: false mL}; empty where none was measured."""
    found = metrics.get(CLEAN_SCANS)
    return dict(found) if isinstance(found, Mapping) else {}


def with_clean_scans(metrics: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics with these scans' false mL added."""
    return dict(metrics) | ({CLEAN_SCANS: clean_scans(metrics) | dict(measured)} if measured else {})


def headline(metrics: Mapping[str, Any]) -> tuple[float, str] | None:
    """The mean Dice that says most about new patients, and on what it was measured, in words; None where nothing was measured.

    First held-out cases, then the cross-validation, then the validation cases (which chose the weights and so flatter them). A header of a stranger's
    that holds something else says nothing.
    """
    try:
        return _headline(metrics)
    except (AttributeError, TypeError, ValueError, OverflowError):
        return None


def _headline(metrics: Mapping[str, Any]) -> tuple[float, str] | None:
    for title, figures in held_out(metrics).items():
        strata = figures.get("after", figures).get("strata", {})
        dice = _mean(strata.get(_ALL, {}).get("dice"))
        if dice is not None:
            return dice, f"on {title}"
    validated = cross_validated(metrics)
    dice = _mean(validated.get("dice"))
    if dice is not None:
        return dice, f"in cross-validation of {validated.get('patients', 'its')} patients"
    dice = _mean(metrics.get("dice", metrics.get("Dice")))
    if dice is not None:
        return dice, ""
    chosen_by = metrics.get(VALIDATION) or {}
    dice = _mean(chosen_by.get("best_dice", chosen_by.get("dice")))
    return None if dice is None else (dice, f"on the {chosen_by.get('cases', '')} validation cases".replace("  ", " "))


def _mean(value: Any) -> float | None:
    """A number, or the mean of what a measure's dictionary holds."""
    if isinstance(value, Mapping):
        value = value.get("mean", value.get("value"))
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
