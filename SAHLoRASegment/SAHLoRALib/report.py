"""Markdown reports that put the tables, figures and claims of a study, or of one cross-validated training, together. All links are relative."""

from __future__ import annotations

import datetime
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from . import __version__
from .claims import ALPHA
from .evaluation import Evaluation, differences, fewer
from .figures import curves, draw_study
from .files import write_text
from .gain import TABLE as BEFORE
from .gain import gain_in_words
from .provenance import program, programs, table_digest
from .runs import PREDICTIONS, ZERO_SHOT, ZERO_SHOT_CHOSEN, Run, RunResult
from .study_tables import Tables
from .weights import ModelInfo

if TYPE_CHECKING:
    from .crossvalidation import CrossValidation, Usable
    from .folds import Folds
    from .study_config import StudyConfig

REPORT = "report.md"
FIGURES = "figures"
_MEASURES = {
    "dice": "Dice", "soft_dice": "soft Dice", "precision": "precision", "recall": "recall", "hd95_mm": "HD95 (mm)",
    "surface_dice": "surface Dice at 2 mm", "annotated_ml": "annotated (mL)", "predicted_ml": "predicted (mL)", "error_ml": "error (mL)",
    "absolute_error_ml": "absolute error (mL)", "relative_error": "relative error", "false_positive_ml": "false positive (mL)",
}  # fmt: skip
#: Of these a training's report shows what was gained.
_GAINED = ("dice", "absolute_error_ml", "false_positive_ml")
_NOTICE = "Research use only, not a medical device."


def write_study_report(
    config: StudyConfig,
    tables: Tables,
    usable: Usable,
    folds: Folds,
    base: ModelInfo | None,
    done: Sequence[tuple[Run, RunResult]],
    failed: Sequence[tuple[Run, str]],
) -> Path:
    """Draw the figures and write report.md into the study's folder (OutputError). The tables' CSV files lie there already."""
    folder = config.output
    drawn = draw_study(tables.patients, tables.methods, folder / FIGURES)
    runs = folder / "runs"
    bleeding = sum(ml > 0 for ml in usable.volumes.values())
    lines = [
        "# Study of fine-tuning strategies",
        "",
        f"{_NOTICE} Made by SAHLoRA {__version__} on {_today()}.",
        "",
        f"- Cases: {len(usable.table)} scans of {len(usable.volumes)} patients, {bleeding} of them with haemorrhage ({_volumes(usable.volumes)}).",
        f"- Base: {_base(base)}.",
        f"- {_made_of(usable, [result for _, result in done])}; digests of base and runs: [made_of.json](made_of.json).",
        f"- {folds.count} folds by patient, stratified by volume ([folds.json](folds.json)); {config.validation:.0%} of each fold's training "
        f"patients are held out for early stopping and the threshold. {_zero_shot(tables)}"
        "All figures are of out-of-fold predictions, made as `sahlora segment` makes them.",
        f"- Training: {_training(config.training.as_dict())}. All settings: [study.json](study.json).",
        f"- Computing: {_computing(done)}",
        "",
        "## Claims of the paper",
        "",
        *_table(("claim", "verdict", "figures", "why"), [(f"{c.number}. {c.text}", f"**{c.verdict}**", c.figures, c.rule) for c in tables.claims]),
        "",
        "The rules stand in `SAHLoRALib/claims.py`; as a table: [claims.csv](claims.csv).",
        "",
        "## Methods",
        "",
        *_methods(tables),
        "",
        "Dice: mean over patients with its 95 % bootstrap interval. Time: training of one fold. Memory: peak of the process, libraries and cached "
        "slices included. More columns: [methods.csv](methods.csv); every patient and run: [results.csv](results.csv).",
        "",
        f"## Against {tables.reference}",
        "",
        *_comparison(tables),
        "",
        "Paired Wilcoxon signed-rank tests of the patients' Dice, p after Holm's correction; differences are method − reference. "
        f"{_uncorrected(tables)} [comparison.csv](comparison.csv)",
        "",
        "## Figures",
        "",
        *_pictures(drawn, folder),
        *_failures(failed),
        "## Runs",
        "",
        *_table(
            ("run", "Dice", "steps", "kept", "threshold", "time", "masks"),
            [_run_row(run, result, runs, folder) for run, result in done],
        ),
        "",
    ]
    path = folder / REPORT
    write_text(path, "\n".join(lines))
    return path


def write_training_report(output: Path, info: ModelInfo, base: ModelInfo | None, usable: Usable, validated: CrossValidation) -> Path:
    """report.md of `sahlora train`: the finished model and what the cross-validation measured (OutputError)."""
    bleeding = sum(ml > 0 for ml in usable.volumes.values())
    lines = [
        f"# {info.name}",
        "",
        f"{_NOTICE} Made by SAHLoRA {__version__} on {_today()}.",
        "",
        f"- Model: `{info.path.name}` ({info.kind}), digest {info.digest[:16]}, threshold {info.threshold:g}. {info.description}".rstrip(),
        f"- Base: {_base(base)}.",
        f"- Cases: {len(usable.table)} scans of {len(usable.volumes)} patients, {bleeding} with haemorrhage ({_volumes(usable.volumes)}).",
        f"- {_made_of(usable, [*(validated.start.results if validated.start else ()), *(result for _, result in validated.runs)])}.",
        f"- Training of a fold: {_training(validated.runs[0][0].config.as_dict())}. On all cases: {info.training.get('steps')} steps, as many passes "
        "over the cases as the folds' best weights had seen on average.",
        "",
    ]
    patients = validated.evaluation.patients.assign(label=info.name)
    results = [result for _, result in validated.runs]
    drawn = draw_training(patients, validated, output / FIGURES)
    lines += [
        "## Cross-validation",
        "",
        f"{validated.folds.count} folds by patient ([folds.json](folds.json)); figures of out-of-fold predictions, made as `sahlora segment` "
        f"makes them ([masks]({PREDICTIONS}/)). Means over patients with 95 % bootstrap intervals; n where they are of fewer patients than the "
        "column. Precision leaves out patients in whom nothing was found.",
        "",
        *evaluation_table(validated.evaluation),
        "",
        "Tables: [patients](evaluation_patients.csv), [cases](evaluation_cases.csv), [summary](evaluation_summary.csv), "
        "[agreement of volumes](evaluation_agreement.csv).",
        "",
        *_gained(validated),
        *_pictures(drawn, output),
        *_table(
            ("fold", "patients tested", "Dice", "kept step", "steps", "threshold", "time"),
            [
                (str(n + 1), str(len({row["patient"] for row in r.rows})), _number(_mean_dice(r)), str(r.best_step), str(r.steps),
                 f"{r.threshold:g}", _time(r.seconds))
                for n, r in enumerate(results)
            ],
        ),
        "",
    ]  # fmt: skip
    path = output / REPORT
    write_text(path, "\n".join(lines))
    return path


def _gained(validated: CrossValidation) -> list[str]:
    """What the training starts from, beside what came out."""
    if validated.start is None:
        return []
    before, after = validated.start.evaluation, validated.evaluation
    changed = {(row["stratum"], row["measure"]): row for row in differences(after, before, _GAINED).to_dict(orient="records")}
    header = ("", *(f"{name} (n = {n})" for name, n in after.counts.items()))
    rows = []
    for measure in _GAINED:
        rows.append((f"{_MEASURES[measure]}, before", *(_number(before.value(measure, stratum)) for stratum in after.counts)))
        own = (_estimate(changed[s, measure], "mean", "low", "high", fewer(changed[s, measure]["n"], n)) for s, n in after.counts.items())
        rows.append((f"{_MEASURES[measure]}, after − before", *own))
    return [
        "## What was gained",
        "",
        gain_in_words(after, validated.start),
        "",
        *_table(header, rows),
        "",
        f"Before: {validated.start.name} as it is, with its own threshold. Differences: each patient's own, means with 95 % bootstrap intervals. "
        f"Table: [{BEFORE}]({BEFORE}).",
        "",
    ]


def draw_training(patients: Any, validated: CrossValidation, folder: Path) -> dict[str, Path]:
    """Figures of one cross-validation: title → file."""
    from .figures import TRAINING, draw_volumes

    histories = {f"fold {n + 1}": result.history or [] for n, (_, result) in enumerate(validated.runs)}
    return {"Training": curves(histories, folder / TRAINING)} | draw_volumes(patients, folder)


def evaluation_table(evaluation: Evaluation) -> list[str]:
    """Measures × strata as Markdown: means with their intervals, and n where fewer patients have the measure; ICC and Bland–Altman below."""
    patients = evaluation.counts
    header = ("", *(f"{name} (n = {n})" for name, n in patients.items()))
    found = {(row["stratum"], row["measure"]): row for row in evaluation.summary.to_dict(orient="records")}
    rows = [
        (title, *(_estimate(found[s, measure], "mean", "low", "high", fewer(found[s, measure]["n"], n)) for s, n in patients.items()))
        for measure, title in _MEASURES.items()
    ]
    agreement = {row["stratum"]: row for row in evaluation.agreement.to_dict(orient="records")}
    rows.append(("ICC of the volumes", *(_estimate(agreement[s], "icc", "icc_low", "icc_high") for s in patients)))
    rows.append(("bias and limits of agreement (mL)", *(_estimate(agreement[s], "bias_ml", "limit_low", "limit_high") for s in patients)))
    return _table(header, rows)


def _methods(tables: Tables) -> list[str]:
    strata = tables.strata()
    header = ("method", "parameters", "file", "threshold", "Dice", *(f"Dice {s}" for s in strata), "error", "ICC", "time", "memory")
    rows = []
    for row in tables.methods.to_dict(orient="records"):
        trained = row["trainable"] > 0
        over = " (over-parameterised)" if row["kernel_numbers"] and row["trainable"] > row["kernel_numbers"] else ""
        rows.append(
            (
                row["label"] + over,
                f"{row['trainable']:,}" if trained else "–",
                f"{row['file_kb']:,.0f} kB" if trained else "–",
                _thresholds(row),
                _estimate(row, "dice", "dice_low", "dice_high"),
                *(_number(row[f"dice {s}"]) for s in strata),
                f"{_number(row['absolute_error_ml'])} mL",
                _number(row["icc"]),
                _time(row["train_seconds"]) if trained else "–",
                f"{row['peak_memory_mb']:,.0f} MB" if trained else "–",
            )
        )
    return _table(header, rows)


def _thresholds(row: Mapping[str, Any]) -> str:
    """On the probability: one, or from the lowest to the highest of the folds."""
    low, high = f"{row['threshold_low']:g}", f"{row['threshold_high']:g}"
    return low if low == high else f"{low} to {high}"


def _zero_shot(tables: Tables) -> str:
    """Which thresholds the rows without fine-tuning have."""
    labels = set(tables.methods["label"])
    both = (
        f" {ZERO_SHOT_CHOSEN.capitalize()} on these same patients: what fine-tuning gains over it is not the threshold's."
        if ZERO_SHOT_CHOSEN in labels
        else ""
    )
    return f"Zero-shot keeps the base's threshold.{both} " if ZERO_SHOT in labels else ""


def _comparison(tables: Tables) -> list[str]:
    rows = [
        (r["method"], str(r["n"]), _estimate(r, "mean_difference", "low", "high"), _number(r["median_difference"]), _number(r["rank_biserial"]),
         _p(r["p"]), _p(r["p_holm"]))
        for r in tables.comparison.to_dict(orient="records")
    ]  # fmt: skip
    return _table(("method", "patients", "mean difference of Dice", "median", "rank-biserial", "p", "p (Holm)"), rows)


def _uncorrected(tables: Tables) -> str:
    """That the intervals of the comparison are not corrected as p (Holm) is, and in how many rows they say more than it does."""
    rows = tables.comparison
    more = int((((rows["low"] > 0) | (rows["high"] < 0)) & ~(rows["p_holm"] < ALPHA)).sum())
    told = f", as in {more} of the {len(rows)} rows here" if more else ""
    return (
        "Each interval is a 95 % bootstrap interval by itself, not corrected for the number of comparisons as p (Holm) is: where it leaves 0 out "
        f"while p (Holm) is {ALPHA:g} or more{told}, that is no evidence of a difference."
    )


def _run_row(run: Run, result: RunResult, runs: Path, folder: Path) -> tuple[str, ...]:
    masks = runs / run.name / PREDICTIONS
    link = f"[{len(result.rows)} masks]({_link(masks, folder)}/)" if masks.is_dir() else "–"
    if not run.trains:
        return run.title, _number(_mean_dice(result)), "–", "–", f"{result.threshold:g}", "–", link
    return run.title, _number(_mean_dice(result)), str(result.steps), str(result.best_step), f"{result.threshold:g}", _time(result.seconds), link


def _failures(failed: Sequence[tuple[Run, str]]) -> list[str]:
    if not failed:
        return []
    rows = [(run.title, reason) for run, reason in failed]
    return ["## Not finished", "", "Their methods are left out above; the same command tries them again.", "", *_table(("run", "why"), rows), ""]


def _pictures(drawn: Mapping[str, Path], folder: Path) -> list[str]:
    return [line for title, path in drawn.items() for line in (f"![{title}]({_link(path, folder)})", "", f"*{title}.*", "")]


def _link(path: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(path, folder)).as_posix())


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in cells) + " |"

    return [line(header), "|" + " --- |" * len(header), *(line(row) for row in rows)]


def _made_of(usable: Usable, results: Sequence[RunResult]) -> str:
    """The digest of the cases, and the programs that did the runs; what made the report where that is another."""
    did = {result.program for result in results}
    told = ("; " if len(did) > 1 else ", by ") + programs(result.program for result in results)
    return f"Made of: cases with the digest `{table_digest(usable.digests)}`{told}" + (f"; this report by {program()}" if did != {program()} else "")


def _base(base: ModelInfo | None) -> str:
    return f"{base.name} (digest {base.digest[:16]})" if base else "none, trained from scratch"


def _training(values: Mapping[str, Any]) -> str:
    """The settings that matter most, in words."""
    names = ("learning_rate", "steps" if values.get("steps") else "epochs", "batch", "loss", "augmentation", "seed")
    shown = [(name, values[name]["kind"] if isinstance(values.get(name), Mapping) else values.get(name)) for name in names]
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown if value is not None) or "–"


def _computing(done: Sequence[tuple[Run, RunResult]]) -> str:
    reasons = list(dict.fromkeys(result.computing for _, result in done if result.computing))
    return " ".join(reasons) + f" Report made on {platform.system()}, Python {platform.python_version()}."


def _volumes(volumes: Mapping[str, float]) -> str:
    bleeding = [ml for ml in volumes.values() if ml > 0]
    if not bleeding:
        return "no haemorrhage"
    return f"{_number(min(bleeding))} to {_number(max(bleeding))} mL, median {_number(median(bleeding))} mL"


def _mean_dice(result: RunResult) -> float:
    values = [row["dice"] for row in result.rows if row["annotated_ml"] > 0]
    return sum(values) / len(values) if values else math.nan


def _estimate(row: Mapping[str, Any], value: str, low: str, high: str, behind: str = "") -> str:
    if not math.isfinite(row[value]):
        return "–"
    interval = f" ({_number(row[low])} to {_number(row[high])})" if math.isfinite(row[low]) and math.isfinite(row[high]) else ""
    return _number(row[value]) + interval + behind


def _number(value: float) -> str:
    """Three digits; three decimals below 1."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.3g}"


def _p(value: float) -> str:
    return "–" if not math.isfinite(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def _today() -> str:
    return datetime.date.today().isoformat()
