"""``sahlora evaluate``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from ..events import Events
from .common import Common, table

if TYPE_CHECKING:
    from ..evaluation import Evaluation

_TITLES = {
    "dice": "Dice", "soft_dice": "soft Dice", "precision": "precision", "recall": "recall", "hd95_mm": "HD95 (mm)",
    "surface_dice": "surface Dice, 2 mm", "annotated_ml": "annotated (mL)", "predicted_ml": "predicted (mL)",
    "error_ml": "error (mL)", "absolute_error_ml": "absolute error (mL)", "relative_error": "relative error",
    "false_positive_ml": "false positive (mL)", "false_negative_ml": "false negative (mL)",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Arguments(Common):
    """Compare predicted masks with the annotations of a case table: by patient and by volume stratum, means with bootstrap intervals."""

    predictions: tyro.conf.Positional[Path]
    """Folder with a mask for every case: a.nii.gz (a.seg.nrrd …), a/mask.nrrd, or what sahlora segment wrote for these scans; for soft Dice
    a_probability.nii.gz or a/probability.nrrd."""
    cases: tyro.conf.Positional[Path]
    """cases.csv, or a folder of cases."""
    output: Path | None = None
    """Folder for the tables as CSV."""
    edges: tuple[float, ...] = ()
    """mL between the strata; without them the tertiles of the annotated volumes."""
    segment: str | None = None
    """Which segment or label of the annotations is haemorrhage, where a row does not say."""
    prediction_segment: str | None = None
    """Which segment or label of the predicted masks is haemorrhage: one, several as in 1|3, or * for all; not needed where there is only one."""
    split: Literal["test", "training"] | None = None
    """Only the cases that the table's column split calls test, or only all others. Without it all are compared."""
    resamples: int = 2000
    """Of the bootstrap."""
    seed: int = 0
    """Of the bootstrap."""


def run(arguments: Arguments, events: Events) -> int:
    """Returns the exit code. Raises CaseError, ConfigError."""
    from ..cases import CaseTable
    from ..errors import CaseError
    from ..evaluation import evaluate

    cases = CaseTable.read(arguments.cases, arguments.segment)
    for warning in cases.warnings:
        events.log(warning, "warning")
    if arguments.split is not None:
        training, tests = cases.parted()
        cases = tests if arguments.split == "test" else training
        if not len(cases):
            raise CaseError(f"{arguments.cases} has no cases of the split {arguments.split}; its column split says test for those of the test.")
    result = evaluate(
        arguments.predictions,
        cases,
        arguments.output,
        edges=arguments.edges or None,
        segment=arguments.prediction_segment,
        events=events,
        resamples=arguments.resamples,
        seed=arguments.seed,
    )
    arguments.say(told(result))
    if arguments.output is not None:
        arguments.say(f"Tables: {arguments.output}")
    events.result(
        command="evaluate",
        output=str(arguments.output) if arguments.output else None,
        summary=_records(result.summary),
        agreement=_records(result.agreement),
        patients=_records(result.patients),
    )
    return 0


def told(result: Evaluation) -> str:
    """Means with their intervals, and n where fewer patients have the measure: a row a measure, a column a stratum; ICC and Bland–Altman below."""
    patients = result.counts
    header = ("measure", *(f"{name} (n = {n})" for name, n in patients.items()))
    found = {(row["stratum"], row["measure"]): row for row in _records(result.summary)}
    rows = [(title, *(_estimate(found[s, measure], n) for s, n in patients.items())) for measure, title in _TITLES.items()]
    agreement = {row["stratum"]: row for row in _records(result.agreement)}
    rows.append(("ICC of volumes", *(_interval(agreement[s]["icc"], agreement[s]["icc_low"], agreement[s]["icc_high"]) for s in patients)))
    limits = [_interval(agreement[s]["bias_ml"], agreement[s]["limit_low"], agreement[s]["limit_high"]) for s in patients]
    rows.append(("bias, limits of agreement (mL)", *limits))
    return table(header, rows)


def _estimate(row: dict[str, Any], patients: int) -> str:
    from ..evaluation import fewer

    return _interval(row["mean"], row["low"], row["high"]) + (fewer(row["n"], patients) if row["n"] else "")


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if low is None or high is None else f"{value:.3g} ({low:.3g} to {high:.3g})"


def _records(frame: Any) -> list[dict[str, Any]]:
    """The rows of a table for JSON, NaN as null."""
    rows = frame.to_dict(orient="records")
    return [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in rows]
