"""Model cards: what a model was trained on, and how it does on cases that it has never seen.

`measure` segments a case table as a user would (`Segmenter`) and evaluates it, `make_card` writes the figures into the model's header and its card
(`card_text`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .card_text import PAIRED, SHOWN, card_text
from .case_check import require_usable, scan_digest
from .cases import Case, CaseTable
from .cohort import case_digests, chosen_on, no_blood, scan_digests
from .ct import CTVolume
from .errors import CaseError, SAHLoRAError
from .evaluation import Evaluation, differences, labels_of, summarise
from .events import Events
from .files import write_text
from .findings import tidied
from .measured import CLEAN_SCANS, HELD_OUT, with_clean_scans, with_held_out
from .metrics import case_metrics, dice
from .provenance import SCAN_DIGITS, TABLE, table_digest, used_scans, used_tables
from .runs import load_segmenter
from .segmenter import Segmenter
from .slices import volume_ml
from .training_config import TrainingConfig
from .validation import THRESHOLDS, best_threshold
from .weights import ModelInfo

if TYPE_CHECKING:
    import pandas as pd

#: What is measured, in words: the model itself, the base beside an adapter, the base with a threshold of its own.
_WHICH = {"after": "the model", "before": "base alone", "chosen": "base alone, chosen threshold"}


def measure(segmenter: Segmenter, cases: CaseTable, events: Events | None = None, stage: str = "measuring") -> Evaluation:
    """Segment and evaluate every case. Raises CaseError, ScanError, Cancelled."""
    found = _segmented(segmenter, cases, events, stage)
    return summarise([{**labels_of(case), **case_metrics(mask, probability, reference, ct)} for case, ct, reference, mask, probability in found])


def chosen_threshold(segmenter: Segmenter, cases: CaseTable, events: Events | None = None, stage: str = "choosing the threshold") -> float:
    """The threshold that validation cases choose by a training's rule (`validation.best_threshold`), but on masks as a user gets them: on the scan's
    pixels, inside the skull, without specks. Raises CaseError, ScanError, Cancelled.
    """
    dices, errors, true_ml = [], [], []
    for _, ct, reference, _, probability in _segmented(segmenter, cases, events, stage):
        true_ml.append(volume_ml(reference, ct))
        specks = (segmenter.config.smallest_ml, segmenter.config.single_slice_ml)
        masks = (tidied(probability >= threshold, ct, *specks)[0] for threshold in THRESHOLDS)
        told = [(dice(mask, reference), abs(volume_ml(mask, ct) - true_ml[-1])) for mask in masks]
        dices.append([at[0] for at in told])
        errors.append([at[1] for at in told])
    return best_threshold(dices, errors, true_ml)


def _segmented(
    segmenter: Segmenter, cases: CaseTable, events: Events | None, stage: str
) -> Iterator[tuple[Case, CTVolume, np.ndarray, np.ndarray, np.ndarray]]:
    """Every case with its scan, its annotation, and the mask and the probability that are found in it."""
    events = events or Events()
    for done, case in enumerate(cases):
        events.progress(stage, done, len(cases), case.case)
        events.check_cancel()
        ct, reference = case.read()
        found = segmenter.segment(ct, keep_probability=True)
        assert found.probability is not None  # it was asked for
        yield case, ct, reference, found.mask, found.probability
    events.progress(stage, len(cases), len(cases))


def figures(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as a header keeps it: stratum → measure → n, mean, low, high, median; patients."""
    strata = _kept(evaluation.summary, SHOWN)
    return {"patients": len(evaluation.patients), "edges_ml": [round(e, 3) for e in evaluation.edges], "strata": strata}


def _kept(summary: pd.DataFrame, measures: Collection[str]) -> dict[str, dict[str, Any]]:
    """stratum → measure → n, mean, low, high, median, of those measures that some patients have."""
    strata: dict[str, dict[str, Any]] = {}
    for row in summary.to_dict(orient="records"):
        if row["measure"] in measures and row["n"]:
            values = {key: _number(row[key]) for key in ("mean", "low", "high", "median")}
            strata.setdefault(str(row["stratum"]), {})[str(row["measure"])] = {"n": int(row["n"]), **values}
    return strata


def _number(value: Any) -> float | None:
    return round(float(value), 4) if isinstance(value, (int, float)) and math.isfinite(value) else None


def make_card(
    info: ModelInfo,
    base: ModelInfo | None,
    tables: dict[str, CaseTable],
    path: Path,
    events: Events | None = None,
    commands: str = "",
    validation: CaseTable | None = None,
    clean: Mapping[str, CTVolume] | None = None,
    choose: bool = False,
    record: bool = True,
) -> ModelInfo:
    """Measure a model on case tables (title → table), an adapter against its base and patient by patient too; record the figures in its header and
    write its card to `path`.

    validation: the cases that chose an adapter's threshold; the base is then measured again with a threshold chosen on them, so that what the
    adapter gains is not the threshold's. clean: title → scan without haemorrhage, in which all that is segmented is false. choose: the model's
    threshold is chosen anew on `validation` first, and written into its header. record: False leaves the file as it is.
    Raises SAHLoRAError for an adapter without its base, CaseError (also for a case that the model or an adapter's base has used), ModelError,
    OutputError, Cancelled.
    """
    from .weights import record_metrics

    if info.kind == "adapter" and base is None:
        raise SAHLoRAError(f"{info.name} is an adapter; its base {info.base_name} is needed to measure it.")
    events = events or Events()
    settings = TrainingConfig()
    whole, adapter = (base, info) if base is not None and info.kind == "adapter" else (info, None)
    if validation is not None and adapter is None and not choose:
        raise SAHLoRAError(
            f"{info.name} is no adapter, so there is no base beside it whose threshold could be chosen; leave the validation table out, or have the "
            "threshold of the model itself chosen on it with --choose-threshold."
        )
    if choose and validation is None:
        raise SAHLoRAError("A threshold is chosen on validation cases; name their table with --validation.")
    segmenters = {"after": load_segmenter(info, base, settings)}
    if adapter is not None:
        segmenters = {"before": load_segmenter(whole, None, settings), **segmenters}
    chosen: dict[str, Segmenter] = {}
    if validation is not None:
        findings = validation.check(events)
        if all(finding.ml == 0 for finding in findings):
            raise no_blood(len(validation))
        if adapter is not None and tables:
            threshold = chosen_threshold(segmenters["before"], validation, events, "choosing the base's threshold")
            chosen = {"chosen": _at(segmenters["before"], threshold)}
        if choose:
            threshold = chosen_threshold(segmenters["after"], validation, events)
            segmenters["after"] = _at(segmenters["after"], threshold)
            info = _with_threshold(info, threshold, chosen_on(validation, findings))
    models = [info] if adapter is None else [info, whole]
    for title, ct in (clean or {}).items():
        _require_unseen(title, {title: scan_digest(ct)[:SCAN_DIGITS]}, "", models)
    held: dict[str, Any] = {}
    for title, whole_table in tables.items():
        learnt, tested = whole_table.parted()
        table = tested if len(tested) else whole_table
        findings = table.check(events, validation)
        require_usable(findings)
        if both := sorted(set(tested.patients) & set(learnt.patients)):
            raise CaseError(f"{title}: patient {', '.join(both)} is in several splits; keep all scans of a patient in one.")
        if len(table) < len(whole_table):
            events.log(f"{title}: measured on the {len(table)} cases of the split test, not on the {len(whole_table) - len(table)} others.")
        digest = {TABLE: table_digest(case_digests(table, findings))}
        _require_unseen(title, scan_digests(table, findings), digest[TABLE], models)
        told = digest if (heads := whole_table.heads(table)) is None else digest | {"heads": heads}
        found = {which: measure(segmenter, table, events, f"{title}: {_WHICH[which]}") for which, segmenter in {**segmenters, **chosen}.items()}
        measured = {which: figures(evaluation) for which, evaluation in found.items()}
        if adapter is not None:
            thresholds = {f"{which}_threshold": segmenter.threshold for which, segmenter in {**segmenters, **chosen}.items() if which != "after"}
            for which in measured.keys() - {"after"}:
                measured[which]["difference"] = _kept(differences(found["after"], found[which], PAIRED), PAIRED)
            held[title] = measured | thresholds | told
        else:
            held[title] = measured["after"] | told
    false_ml = {
        title: {which: round(segmenter.segment(ct, events).report.total_ml, 3) for which, segmenter in segmenters.items()}
        for title, ct in (clean or {}).items()
    }
    if held or false_ml or choose:
        metrics = with_clean_scans(with_held_out(info.metrics, held), false_ml)
        info = record_metrics(info, metrics) if record else replace(info, metrics=metrics)
    write_text(path, card_text(info, commands))
    return info


def _require_unseen(title: str, scans: Mapping[str, str], table: str, models: Sequence[ModelInfo]) -> None:
    """Raise CaseError where a model has learnt from one of these scans (name → digest) or was chosen on it, or on the very table of this digest."""
    for model in models:
        used = used_scans(model.training)
        known = list(scans) if table in used_tables(model.training) else [name for name, scan in scans.items() if scan in used]
        if known:
            shown = ", ".join(known[:5]) + (f" and {len(known) - 5} more" if len(known) > 5 else "")
            raise CaseError(
                f"{title}: {model.name} was trained or chosen on {shown}, so nothing there is held out; name cases that it has never seen."
            )


def _at(segmenter: Segmenter, threshold: float) -> Segmenter:
    return segmenter.with_config(replace(segmenter.config, threshold=threshold))


def _with_threshold(model: ModelInfo, threshold: float, told: dict[str, Any]) -> ModelInfo:
    """The model with the threshold that was chosen, the cases that chose it (`told`) in its header, and no figures of the threshold before."""
    metrics = {key: value for key, value in model.metrics.items() if key not in (HELD_OUT, CLEAN_SCANS)}
    return replace(model, threshold=threshold, training={**model.training, "threshold_chosen": told}, metrics=metrics)


__all__ = ["chosen_threshold", "figures", "make_card", "measure"]
