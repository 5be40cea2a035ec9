"""What a training gained: what it starts from, the base or the adapter that is gone on from, segments the same patients too, and each patient is set
against himself. An adapter that is no better than its start had better not be used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .evaluation import ALL, WITHOUT, Evaluation, differences
from .files import replacing
from .runs import ZERO_SHOT, Run, RunResult, run_digest
from .weights import ModelInfo

#: Table of the patients as the start segments them, with the columns of evaluation_patients.csv.
TABLE = "before_patients.csv"
STAGE = "Before training"


@dataclass(frozen=True)
class Start:
    """name: of the model or models that the folds start from. evaluation: of the patients whom they test, segmented by it as it is. results: of the
    folds.
    """

    name: str
    evaluation: Evaluation
    results: tuple[RunResult, ...] = ()

    def write(self, folder: Path) -> None:
        """`TABLE`, at once or not at all (OutputError)."""
        with replacing(folder / TABLE) as temporary:
            self.evaluation.patients.to_csv(temporary, index=False, float_format="%.6g", encoding="utf-8")


def runs_before(runs: Sequence[Run], base: ModelInfo, digests: Mapping[str, str], starts: Mapping[int, ModelInfo]) -> list[Run]:
    """For each fold's run one in which nothing learns and no threshold is chosen. starts: fold → adapter; without one it is the base."""
    made = []
    for run in runs:
        start = None if run.fold is None else starts.get(run.fold)
        digest = run_digest(None, base, ((), (), run.test), digests, start)
        label = f"{(start or base).name} before training"
        made.append(Run(ZERO_SHOT, 0, label, run.fold, run.config, (), (), run.test, digest, scans=(), fallback=(start or base).threshold))
    return made


def name_of_start(base: ModelInfo, adapter: ModelInfo | None, starts: Mapping[int, ModelInfo], folds: int) -> str:
    """adapter: what is gone on from; of its folds' adapters only its own name tells anybody anything."""
    if adapter is None or not starts:
        return base.name
    return adapter.name if len(starts) == folds else f"{adapter.name} or {base.name}, whichever a fold starts from"


def gain(after: Evaluation, start: Start) -> dict[str, Any]:
    """n, mean, low and high of the patients' own differences in Dice; before and after: mean Dice; false_ml: of the patients without haemorrhage
    n and the median mL drawn in them before and after. None where there is nothing to be told.
    """
    found = differences(after, start.evaluation).set_index("stratum").loc[ALL]
    told = {key: _number(found[key]) for key in ("mean", "low", "high")}
    clean = [evaluation.patients[evaluation.patients["stratum"] == WITHOUT]["predicted_ml"] for evaluation in (start.evaluation, after)]
    false_ml = {"n": len(clean[1]), "before": _number(clean[0].median()), "after": _number(clean[1].median())} if len(clean[1]) else None
    dice = {"before": _number(start.evaluation.value("dice")), "after": _number(after.value("dice"))}
    return {"n": int(found["n"]), **told, **dice, "false_ml": false_ml}


def gain_in_words(after: Evaluation, start: Start) -> str:
    """Sentences; empty where no patient has a Dice."""
    told = gain(after, start)
    if not told["n"]:
        return ""
    known = told["low"] is not None and told["high"] is not None
    interval = f" ({told['low']:+.3f} to {told['high']:+.3f})" if known else ""
    words = [
        f"{start.name}, which it starts from, has a Dice of {told['before']:.3f} on the same patients; the patients' own differences are "
        f"{told['mean']:+.3f} in the mean{interval}."
    ]
    if false := told["false_ml"]:
        words.append(f"In the {false['n']} without haemorrhage it draws {false['after']:.2f} mL in the median, before {false['before']:.2f} mL.")
    if known and told["high"] < 0:
        words.append("It is worse than what it starts from: use that, or train longer or on more cases.")
    elif not known or told["low"] <= 0:
        words.append("That is no clear gain: more patients or more training may show one.")
    return " ".join(words)


def _number(value: Any) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None
