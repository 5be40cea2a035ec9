"""Model cards: what a model was trained on, and how it does on cases that it has never seen.

`measure` segments a case table as a user would (`Segmenter`) and evaluates it; `record` writes the figures into the model's header, and
`card_text` says everything in Markdown. After Mitchell et al. 2019, Model Cards for Model Reporting (arXiv 1810.03993).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .case_check import require_usable, scan_digest
from .cases import Case, CaseTable
from .cohort import case_digests, chosen_on, no_blood, scan_digests
from .ct import CTVolume
from .errors import CaseError, SAHLoRAError
from .evaluation import Evaluation, differences, fewer, labels_of, summarise
from .events import Events
from .files import write_text
from .findings import tidied
from .measured import CLEAN_SCANS, HELD_OUT, clean_scans, cross_validated, held_out, with_clean_scans, with_held_out
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

#: Measures of a card: column of the evaluation → heading.
_SHOWN = {
    "dice": "Dice", "soft_dice": "soft Dice", "recall": "recall", "precision": "precision", "absolute_error_ml": "absolute error (mL)",
    "false_positive_ml": "false positive (mL)",
}  # fmt: skip
#: Of these an adapter's differences from its base are shown, patient by patient.
_PAIRED = ("dice", "absolute_error_ml")
#: What is measured, in words: the model itself, the base beside an adapter, the base with a threshold of its own.
_WHICH = {"after": "the model", "before": "base alone", "chosen": "base alone, chosen threshold"}
#: What the header's training → lesion says, in words.
_LESIONS = {"haemorrhage": "intracranial haemorrhage of any kind", "subarachnoid": "subarachnoid haemorrhage"}


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
    strata = _kept(evaluation.summary, _SHOWN)
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


def card_text(info: ModelInfo, commands: str = "") -> str:
    """The card of a model in Markdown, all of it from the file's header. commands: how it was made, shown as they are."""
    training = info.training
    kind = {"adapter": f"adapter ({info.adapter.described}) for the base {info.base_name}" if info.adapter else ""}
    lines = [
        f"# {info.name}", "",
        info.description or "No description was given.", "",
        "**Research use only. Not a medical device. Not for diagnosis or treatment.**", "",
        f"- kind: {kind.get(info.kind, info.kind)}",
        f"- network: multi-view Unet, {info.network.described}; pixels of {info.grid.pixel_mm:g} mm; "
        f"HU {info.grid.window[0]:g} to {info.grid.window[1]:g}",
        *([f"- annotated: {_LESIONS[training['lesion']]}"] if training.get("lesion") in _LESIONS else []),
        f"- threshold on the probability: {info.threshold:g}{_chosen_on(training)}",
        f"- digest: `{info.digest}`",
        *([f"- digest of its base: `{info.base_digest}`"] if info.base_digest else []),
        *_made_of(training),
        f"- licence: {info.licence or 'not stated'}; made {info.date[:10]}", "",
        "## Training", "",
        *_learnt(training),
    ]  # fmt: skip
    if commands:
        lines += ["", "```", commands.strip(), "```"]
    if validated := cross_validated(info.metrics):
        lines += ["", "## Cross-validation on its own cases", "", f"{validated.get('how', '')}.", "", *_validated_table(validated)]
    for title, held in held_out(info.metrics).items():
        digest = f"Cases with the digest `{held['cases_digest']}`." if held.get("cases_digest") else ""
        lines += ["", f"## {title}", "", *([digest, ""] if digest else []), *_few_heads(held), *_table(held.get("after", held))]
        if "before" in held:
            own = f", with its own threshold of {held['before_threshold']:g}" if "before_threshold" in held else ""
            lines += ["", f"The base {info.base_name} alone, on the same cases{own}{_and_paired(held['before'])}:", "", *_table(held["before"])]
        if "chosen" in held:
            lead = f"The base alone with a threshold of {held['chosen_threshold']:g}, chosen on the same validation cases as the adapter's"
            lead += f"{_and_paired(held['chosen'])}:"
            lines += ["", lead, "", *_table(held["chosen"])]
    if not held_out(info.metrics):
        lines += ["", "No figures on held-out cases have been measured."]
    if clean := clean_scans(info.metrics):
        lines += ["", "## Scans without haemorrhage", "", "All that is segmented in them is false.", "", *_clean_table(clean, info)]
    lines += [
        "",
        "Means over patients with 95 % bootstrap intervals; medians in brackets; n where they are of fewer patients than the table says. "
        "Precision leaves out patients in whom nothing was found. Figures on synthetic scans say little about real ones.",
    ]
    return "\n".join(lines) + "\n"


def _learnt(training: dict[str, Any]) -> list[str]:
    """How the training went, or those of the adapters that were added up."""
    parts = training.get("combined") or []
    if parts:
        kept = f"of their sum's squared norm the rank keeps {100 * float(training.get('kept', 1)):.4g} %"
        lines = [f"No training of its own: the changes that {len(parts)} adapters have learnt, each at its share, added up; {kept}.", ""]
        return lines + [f"- {part['share']:g} of {part['name']} (`{str(part['digest'])[:16]}`): {_learnt(part['training'])[0]}" for part in parts]
    config = training.get("config", {})
    augmentation = config.get("augmentation", {})
    return [
        f"{training.get('cases', '?')} cases, {training.get('validation_cases', 'no')} for validation "
        f"({'weights' if 'threshold_chosen' in training else 'weights and threshold'}); "
        f"{training.get('steps', '?')} steps of {config.get('batch', '?')} slices{_drawn(config)}, learning rate {config.get('learning_rate', '?')}, "
        f"loss {config.get('loss', '?')}, augmentation {augmentation.get('kind', '?')} of strength {augmentation.get('strength', '?')}"
        f"{_moved(augmentation)}, "
        f"seed {config.get('seed', '?')}; {training.get('trainable', 0):,} numbers learnt "
        f"in {float(training.get('seconds', 0)) / 60:.0f} minutes."
    ]


def _chosen_on(training: dict[str, Any]) -> str:
    """On what the threshold was chosen, where that was not done in the training."""
    told = training.get("threshold_chosen")
    anew = "" if training.get("combined") else " anew"
    return f", chosen{anew} on {told['cases']} validation cases with the digest `{told['cases_digest']}`" if told else ""


def _moved(augmentation: dict[str, Any]) -> str:
    """How strong rotation, zoom and deformation were, where that was set."""
    geometry = augmentation.get("geometry")
    return "" if geometry is None else f" (rotation, zoom and deformation {geometry:g})"


def _drawn(config: dict[str, Any]) -> str:
    """How slices with blood were drawn, where it was not each as often as any other."""
    return " (those with blood drawn by case)" if config.get("draw_by") == "case" else ""


def _made_of(training: dict[str, Any]) -> list[str]:
    """The program and the digest of the cases, as far as the header tells them."""
    cases = f"from cases with the digest `{training['cases_digest']}`" if training.get("cases_digest") else ""
    before = training.get("continued_from") or {}
    parts = [f"by {training['program']}" if training.get("program") else "", cases]
    parts += [f"going on from {before.get('name')} (`{str(before.get('digest'))[:16]}`)"] if before else []
    told = ", ".join(part for part in parts if part)
    return [f"- {'combined' if training.get('combined') else 'trained'} {told}"] if told else []


def _few_heads(held: dict[str, Any]) -> list[str]:
    """What the intervals leave out where several patients were made from one head, as a paragraph."""
    heads = held.get("heads")
    if heads is None or heads >= (patients := held.get("after", held)["patients"]):
        return []
    shared = f"one head was made into all {patients} patients" if heads == 1 else f"{heads} heads were made into {patients} patients"
    told = "Intervals take patients as independent of each other, which those of one head are not: for new heads they are likely too narrow."
    return [f"By the case table {shared}. {told}", ""]


def _and_paired(base: dict[str, Any]) -> str:
    return "; last, each patient's own difference" if "difference" in base else ""


def _table(held: dict[str, Any]) -> list[str]:
    strata = held["strata"]
    rows = ["| measure | " + " | ".join(strata) + " |", "|---" * (len(strata) + 1) + "|"]
    counts = [max((m["n"] for m in measures.values()), default=0) for measures in strata.values()]
    rows.append("| patients | " + " | ".join(map(str, counts)) + " |")
    for key, heading in _SHOWN.items():
        cells = [_cell(measures.get(key), count) for measures, count in zip(strata.values(), counts, strict=True)]
        if any(cells):
            rows.append(f"| {heading} | " + " | ".join(cells) + " |")
    for key in _PAIRED if "difference" in held else ():
        cells = [_cell(held["difference"].get(stratum, {}).get(key), count, "+") for stratum, count in zip(strata, counts, strict=True)]
        rows.append(f"| {_SHOWN[key]}, adapter − base | " + " | ".join(cells) + " |")
    return rows


def _clean_table(clean: dict[str, Any], info: ModelInfo) -> list[str]:
    """False mL in each scan, an adapter's beside its base's."""
    two = info.kind == "adapter"
    rows = ["| scan | false positive (mL) |" + (f" {info.base_name} alone |" if two else ""), "|---|---|" + ("---|" if two else "")]
    return rows + [f"| {title} | {ml['after']:.2f} |" + (f" {ml['before']:.2f} |" if two else "") for title, ml in clean.items()]


def _validated_table(validated: dict[str, Any]) -> list[str]:
    """Measures of a cross-validation, and its Dice by volume."""
    rows = ["| measure | mean (95 % interval) [median] |", "|---|---|"]
    shown = {heading: validated[key] for key, heading in _SHOWN.items() if isinstance(validated.get(key), dict)}
    rows += [f"| {heading} | {_cell(value, validated.get('patients'))} |" for heading, value in shown.items()]
    by_volume = validated.get("dice_by_volume", {})
    return rows + [f"| Dice, {name} (n = {part['n']}) | {part['mean']:.2f} |" for name, part in by_volume.items() if part["mean"] is not None]


def _cell(value: dict[str, Any] | None, patients: int | None, sign: str = "") -> str:
    """Mean (interval) [median], and n where it is not that of the column's patients; empty where nothing was measured. sign: + to show it always."""
    if value is None or value["mean"] is None:
        return ""
    between = f" ({value['low']:.2f} to {value['high']:.2f})" if value["low"] is not None else ""
    return f"{value['mean']:{sign}.2f}{between} [{value['median']:{sign}.2f}]{fewer(value.get('n'), patients)}"


def commands_in(card: Path) -> str:
    """The commands that an earlier card shows; nothing where there is none."""
    try:
        parts = card.read_text(encoding="utf-8").split("\n```\n")
    except (OSError, UnicodeDecodeError):
        return ""
    return parts[1] if len(parts) > 2 else ""


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
                measured[which]["difference"] = _kept(differences(found["after"], found[which], _PAIRED), _PAIRED)
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


__all__ = ["card_text", "chosen_threshold", "commands_in", "figures", "make_card", "measure"]
