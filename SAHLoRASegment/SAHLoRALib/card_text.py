"""The text of a model card: all that a model's header tells, in Markdown.

After Mitchell et al. 2019, Model Cards for Model Reporting (arXiv 1810.03993).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .evaluation import fewer
from .measured import clean_scans, cross_validated, held_out
from .weights import ModelInfo

#: Measures of a card: column of the evaluation → heading.
SHOWN = {
    "dice": "Dice", "soft_dice": "soft Dice", "recall": "recall", "precision": "precision", "absolute_error_ml": "absolute error (mL)",
    "false_positive_ml": "false positive (mL)",
}  # fmt: skip
#: Of these an adapter's differences from its base are shown, patient by patient.
PAIRED = ("dice", "absolute_error_ml")
#: What the header's training → lesion says, in words.
_LESIONS = {"haemorrhage": "intracranial haemorrhage of any kind", "subarachnoid": "subarachnoid haemorrhage"}


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
    for key, heading in SHOWN.items():
        cells = [_cell(measures.get(key), count) for measures, count in zip(strata.values(), counts, strict=True)]
        if any(cells):
            rows.append(f"| {heading} | " + " | ".join(cells) + " |")
    for key in PAIRED if "difference" in held else ():
        cells = [_cell(held["difference"].get(stratum, {}).get(key), count, "+") for stratum, count in zip(strata, counts, strict=True)]
        rows.append(f"| {SHOWN[key]}, adapter − base | " + " | ".join(cells) + " |")
    return rows


def _clean_table(clean: dict[str, Any], info: ModelInfo) -> list[str]:
    """False mL in each scan, an adapter's beside its base's."""
    two = info.kind == "adapter"
    rows = ["| scan | false positive (mL) |" + (f" {info.base_name} alone |" if two else ""), "|---|---|" + ("---|" if two else "")]
    return rows + [f"| {title} | {ml['after']:.2f} |" + (f" {ml['before']:.2f} |" if two else "") for title, ml in clean.items()]


def _validated_table(validated: dict[str, Any]) -> list[str]:
    """Measures of a cross-validation, and its Dice by volume."""
    rows = ["| measure | mean (95 % interval) [median] |", "|---|---|"]
    shown = {heading: validated[key] for key, heading in SHOWN.items() if isinstance(validated.get(key), dict)}
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
