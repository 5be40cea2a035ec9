"""The tables of a study, made from the rows of its runs: patients × runs, methods, paired tests, claims."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from .adapters import adapted_layers
from .claims import Claim, decide_claims
from .errors import ConfigError
from .evaluation import ALL, WITHOUT, Evaluation, summarise, tertiles
from .files import replacing
from .network import MultiViewUnet, NetworkConfig
from .runs import ZERO_SHOT, Run, RunResult
from .statistics import RESAMPLES, compare_paired
from .weights import ModelInfo

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Tables:
    """patients: a row for each patient and method. methods: a row a method. comparison: paired tests against `reference`. claims: the paper's five.
    evaluations: label → Evaluation. edges: mL between the strata.
    """

    patients: pd.DataFrame
    methods: pd.DataFrame
    comparison: pd.DataFrame
    claims: tuple[Claim, ...]
    evaluations: Mapping[str, Evaluation]
    edges: tuple[float, ...]
    reference: str

    def write(self, folder: Path) -> list[Path]:
        """results.csv, methods.csv, comparison.csv, claims.csv (OutputError)."""
        import pandas as pd

        claims = pd.DataFrame([asdict(claim) for claim in self.claims])
        written = []
        for name, frame in (("results", self.patients), ("methods", self.methods), ("comparison", self.comparison), ("claims", claims)):
            path = folder / f"{name}.csv"
            with replacing(path) as temporary:
                frame.to_csv(temporary, index=False, float_format="%.6g", encoding="utf-8")
            written.append(path)
        return written

    def strata(self) -> list[str]:
        """Names of the volume strata, from small to large."""
        first = next(iter(self.evaluations.values()))
        return [s for s in dict.fromkeys(first.summary["stratum"]) if s not in (ALL, WITHOUT)]


def make_tables(
    results: Sequence[tuple[Run, RunResult]],
    base: ModelInfo | None,
    *,
    edges: Sequence[float] | None = None,
    reference: str = "",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Tables:
    """results: all runs of the complete methods, the folds of one label together. reference: a label or a method; see `choose_reference`.

    Raises ConfigError where the reference is not among the runs.
    """
    import pandas as pd

    runs: dict[str, list[tuple[Run, RunResult]]] = {}
    for run, result in results:
        runs.setdefault(run.label, []).append((run, result))
    fold_of = {str(row["case"]): run.fold for run, result in results if run.fold is not None for row in result.rows}
    chosen = choose_reference(reference, [group[0][0] for group in runs.values()])
    evaluations: dict[str, Evaluation] = {}
    patients, methods = [], []
    for label, group in runs.items():
        rows = [row for _, result in group for row in result.rows]
        if edges is None:  # the annotated volumes are the same for all methods
            edges = tertiles(summarise(rows, edges=(), resamples=1).patients["annotated_ml"])
        evaluation = evaluations[label] = summarise(rows, edges=edges, resamples=resamples, seed=seed)
        run = group[0][0]
        part = evaluation.patients.copy()
        folds = {str(row["patient"]): fold_of.get(str(row["case"])) for row in rows}
        part.insert(0, "fold", [None if (fold := folds[p]) is None else fold + 1 for p in part["patient"]])
        for name, value in (("rank", run.rank), ("method", run.method), ("label", label)):
            part.insert(0, name, value)
        patients.append(part)
        methods.append(_method(run, [result for _, result in group], evaluation, base))
    table = pd.concat(patients, ignore_index=True)
    told = pd.DataFrame(methods)
    dice = table.pivot(index="patient", columns="label", values="dice")[list(runs)]
    comparison = compare_paired(dice, chosen, resamples, seed)
    claims = tuple(decide_claims(table, told, resamples, seed))
    return Tables(table, told, comparison, claims, evaluations, tuple(float(e) for e in edges or ()), chosen)


def choose_reference(wanted: str, runs: Sequence[Run]) -> str:
    """The label of that name, or of that method at its lowest rank; by default fine-tuning of all, else zero-shot, else the first.

    Variants are meant by their label only, never by their method.
    """
    labels = [run.label for run in runs]
    if wanted in labels:
        return wanted
    methods: dict[str, str] = {}
    for run in sorted((r for r in runs if not r.variant), key=lambda r: r.rank):
        methods.setdefault(run.method, run.label)
    if wanted in methods:
        return methods[wanted]
    if wanted:
        raise ConfigError(f"The reference {wanted!r} is not among the runs; choose one of {', '.join(labels)}.")
    return next((methods[name] for name in ("all", ZERO_SHOT) if name in methods), labels[0])


def kind_of(run: Run) -> str:
    """none, scratch, adapter, standard, or variant (a run of the file with settings and a label of its own)."""
    if run.method in (ZERO_SHOT, "scratch"):
        return {ZERO_SHOT: "none"}.get(run.method, "scratch")
    if run.variant:
        return "variant"
    return "adapter" if run.config.strategy == "adapter" else "standard"


def _method(run: Run, results: Sequence[RunResult], evaluation: Evaluation, base: ModelInfo | None) -> dict[str, Any]:
    """One row of the table of methods."""
    network = base.network if base is not None and run.config.strategy != "scratch" else run.config.network
    trained = [r for r in results if run.trains]
    row: dict[str, Any] = {
        "label": run.label, "method": run.method, "kind": kind_of(run), "rank": run.rank,
        "trainable": trained[0].trainable if trained else 0,
        "kernel_numbers": kernel_numbers(run, network),
        "learning_rate": run.config.rate if run.trains else math.nan,
        "scale": run.config.adapter.scale if run.trains and run.config.strategy == "adapter" else math.nan,
        "file_kb": sum(r.file_bytes for r in trained) / len(trained) / 1000 if trained else 0.0,
        "threshold_low": min(r.threshold for r in results), "threshold_high": max(r.threshold for r in results),
        "patients": len(evaluation.patients),
    }  # fmt: skip
    summary = evaluation.summary.set_index(["stratum", "measure"])
    overall = summary.loc[(ALL, "dice")]
    row |= {"dice": overall["mean"], "dice_low": overall["low"], "dice_high": overall["high"], "dice_sd": overall["sd"], "dice_n": overall["n"]}
    for stratum in dict.fromkeys(evaluation.summary["stratum"]):
        if stratum not in (ALL, WITHOUT):
            row[f"dice {stratum}"] = summary.loc[(stratum, "dice")]["mean"]
    names = ("soft_dice", "precision", "recall", "hd95_mm", "surface_dice", "error_ml", "absolute_error_ml", "relative_error")
    row |= {name: summary.loc[(ALL, name)]["mean"] for name in names}
    row |= {f"{short}_n": summary.loc[(ALL, name)]["n"] for short, name in (("precision", "precision"), ("hd95", "hd95_mm"))}
    if (WITHOUT, "false_positive_ml") in summary.index:
        row["false_ml_without_haemorrhage"] = summary.loc[(WITHOUT, "false_positive_ml")]["mean"]
    agreement = evaluation.agreement.iloc[0]
    row |= {name: agreement[name] for name in ("icc", "icc_low", "icc_high", "bias_ml", "limit_low", "limit_high")}
    return row | {
        "train_seconds": sum(r.seconds for r in trained) / len(trained) if trained else 0.0,
        "steps": sum(r.steps for r in trained) / len(trained) if trained else 0.0,
        "predict_seconds_per_case": sum(r.predict_seconds for r in results) / max(1, sum(len(r.rows) for r in results)),
        "peak_memory_mb": max((r.peak_memory_mb for r in trained), default=math.nan),
        "runs": len(results),
    }


def kernel_numbers(run: Run, network: NetworkConfig) -> int:
    """Numbers of the kernels that an adapter sits on; 0 for other methods. An adapter with more of its own is over-parameterised."""
    if run.config.strategy != "adapter" or not run.trains:
        return 0
    layers: list[tuple[str, nn.Conv2d]] = adapted_layers(MultiViewUnet(network), run.config.adapter.modules)
    return sum(layer.weight.numel() for _, layer in layers)
