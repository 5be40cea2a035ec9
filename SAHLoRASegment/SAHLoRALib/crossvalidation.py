"""Cross-validation of one training configuration by patient, and the model for use that is trained on all cases afterwards.

    table, volumes, digests = usable_cases(CaseTable.read("cases"), events)
    result = cross_validate(config, cohort, volumes, digests, "work", 3, ...)
    train_final(config, cohort, result, ...)

The folds are written once (folds.json) and kept when cases are added: no patient changes sides. Within a fold's training part some patients are
held out for early stopping and the threshold, so the fold's test patients decide nothing. The final model learns from all cases for as many epochs as
the folds needed on average, with their median threshold; its header says what the cross-validation measured.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

from .batch import Within
from .case_check import Finding, check_training, patient_volumes, require_usable
from .cases import VALIDATION_SPLITS, CaseTable
from .cohort import Cohort, case_digests, scan_digests
from .continuation import FOLD_RUNS, FOLDS, RUNS, Continuation
from .device import choose_compute
from .errors import CaseError, SAHLoRAError
from .evaluation import ALL, Evaluation, summarise
from .events import Events
from .files import alone
from .folds import Folds, folds_for, split_validation
from .gain import STAGE, Start, name_of_start, runs_before
from .gain import TABLE as BEFORE
from .measured import CROSS_VALIDATION
from .pace import Part
from .parallel import Group, process_group
from .provenance import SCANS, TABLE, programs, table_digest
from .runs import (
    PREDICTIONS,
    Run,
    RunResult,
    copy_file,
    effective,
    execute,
    relabelled,
    run_digest,
    wait_for_all,
)
from .slices import PixelGrid
from .statistics import RESAMPLES
from .training import fit, save_model
from .training_config import TrainingConfig
from .weights import ModelInfo, read_info

#: So many patients without haemorrhage are worth one for validation.
FEW = 5
#: Measures in the header of the final model.
_TOLD = ("dice", "soft_dice", "precision", "recall", "hd95_mm", "surface_dice", "annotated_ml", "predicted_ml", "absolute_error_ml", "relative_error")


@dataclass(frozen=True)
class Usable:
    """Checked cases: table; volumes: patient → annotated mL; digests: case → digest of its voxels; scans: the same of its scan alone, in short."""

    table: CaseTable
    volumes: dict[str, float]
    digests: dict[str, str]
    scans: dict[str, str]


@dataclass(frozen=True)
class CrossValidation:
    """folds; runs with their results, a pair a fold; evaluation of all out-of-fold predictions together; start: what the folds start from, on the
    same patients, None where it was not measured.
    """

    folds: Folds
    runs: tuple[tuple[Run, RunResult], ...]
    evaluation: Evaluation
    start: Start | None = None


def usable_cases(table: CaseTable, events: Events) -> Usable:
    """Read and check everything. Cases of the split "test" are left out: they are for a later test of the finished model.

    Raises one CaseError that names all that is wrong.
    """
    kept, tests = table.parted()
    if len(tests):
        events.log(f"{len(tests)} cases of the split test are left out; they are for testing the finished model.")
    if not len(kept):
        raise CaseError("All cases of the table belong to the split test, so there is nothing to train on.")
    findings = check_training(table, events)
    require_usable(findings)
    if named := sum(case.split in VALIDATION_SPLITS for case in kept):
        events.log(f"Cases of the split validation ({named}) take part in the folds like all others; they are kept apart with --folds 0 only.")
    _tell_warnings(findings, events)
    volumes = patient_volumes(kept, findings)
    if not any(ml > 0 for ml in volumes.values()):
        raise CaseError("No case of the table has haemorrhage, so there is nothing to learn; check the masks and the chosen segment.")
    return Usable(kept, volumes, case_digests(kept, findings), scan_digests(kept, findings))


def hold_out(volumes: Mapping[str, float], share: float, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Training and validation patients of a fold's training part. Patients without haemorrhage are kept for validation from FEW of them on, and never
    alone: judged by them, the network that finds nothing would be the best. Raises CaseError for fewer than two patients with haemorrhage.
    """
    if not share:
        return tuple(volumes), ()
    held = set(split_validation({p: ml for p, ml in volumes.items() if ml > 0}, share, seed)[1])
    without = {p: ml for p, ml in volumes.items() if ml <= 0}
    if len(without) >= FEW:
        held |= set(split_validation(without, share, seed)[1])
    return tuple(p for p in volumes if p not in held), tuple(p for p in volumes if p in held)


def _hold_out_again(
    volumes: Mapping[str, float], table: CaseTable, going_on: Continuation, fold: int, share: float, seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """As `hold_out`, for a fold that goes on from an adapter: who chose it before, and some of the new patients where enough of them bleed.

    None where it is not known who did, or no patient with haemorrhage is left of them.
    """
    names = set(going_on.held.get(fold, ()))
    held = {case.patient for case in table if case.case in names} & set(volumes)
    if not any(volumes[p] > 0 for p in held):
        return None
    known = going_on.folds.folds if going_on.folds else {}
    new = {p: ml for p, ml in volumes.items() if p not in known}
    if sum(ml > 0 for ml in new.values()) >= FEW:
        held |= set(hold_out(new, share, seed)[1])
    return tuple(p for p in volumes if p not in held), tuple(p for p in volumes if p in held)


def plan_folds(
    config: TrainingConfig, usable: Usable, folds: Folds, base: ModelInfo | None, *, method: str, rank: int, label: str, validation: float, seed: int,
    going_on: Continuation | None = None,
) -> list[Run]:  # fmt: skip
    """A run for each fold. validation: share of a fold's training patients that is held out for early stopping; 0 for none. going_on: what the folds
    start from.
    """
    starts = going_on.starts if going_on else {}
    before = going_on.scans if going_on else {}
    runs = []
    patients = set(usable.volumes)
    for fold in range(folds.count):
        volumes = {p: usable.volumes[p] for p in folds.training_patients(fold, patients)}
        again = _hold_out_again(volumes, usable.table, going_on, fold, validation, seed) if validation and going_on else None
        learning, held = again or hold_out(volumes, validation, seed)
        sides = (learning, held, folds.test_patients(fold, patients))
        parts = [tuple(case.case for case in usable.table.of_patients(side)) for side in sides]
        digest = run_digest(config, base, parts, usable.digests, starts.get(fold))
        scans = None
        if fold not in starts or fold in before:
            scans = tuple(sorted({usable.scans[name] for name in parts[0] + parts[1]} | (before[fold] if fold in starts else set())))
        start = starts.get(fold) or (None if config.strategy == "scratch" else base)
        fallback = start.threshold if start else 0.5
        runs.append(Run(method, rank, label, fold, config, parts[0], parts[1], parts[2], digest, scans=scans, fallback=fallback))
    return runs


def method_of(config: TrainingConfig) -> tuple[str, int, str]:
    """method, rank and label of a configuration."""
    if config.strategy == "adapter":
        return config.adapter.method, config.adapter.rank, f"{config.adapter.method}, rank {config.adapter.rank}"
    return config.strategy, 0, config.what


def cross_validate(
    config: TrainingConfig,
    cohort: Cohort,
    usable: Usable,
    output: Path,
    events: Events,
    *,
    count: int = 3,
    validation: float = 0.2,
    seed: int = 0,
    edges: Sequence[float] | None = None,
    resamples: int = RESAMPLES,
    more: int = 0,
    group: Group | None = None,
    going_on: Continuation | None = None,
    baseline: bool = False,
) -> CrossValidation:
    """Train and predict fold by fold; finished folds are not done again.

    output gets folds.json, runs/, predictions/ (out-of-fold masks, named after their cases) and the evaluation's tables. more: trainings that
    follow, for the progress. going_on: adapters that the folds start from. baseline: let what each fold starts from segment its test patients too.
    Raises ConfigError (more folds than patients), SAHLoRAError, Cancelled.
    """
    group = group or Group()
    config = effective(config, cohort.base)
    if going_on:
        going_on.keep_folds(output / FOLDS)
    folds = folds_for(output / FOLDS, usable.volumes, count, seed)
    going_on = going_on.for_folds(folds.count).without_known(folds, usable.table, usable.scans, events) if going_on else None
    starts = going_on.starts if going_on else {}
    method, rank, label = method_of(config)
    runs = plan_folds(config, usable, folds, cohort.base, method=method, rank=rank, label=label, validation=validation, seed=seed, going_on=going_on)
    results, before = [], []
    with alone(output, group.leads):
        if baseline and cohort.base is not None:
            for number, run in enumerate(runs_before(runs, cohort.base, usable.digests, starts)):
                place = (number, len(runs))
                before.append(execute(run, cohort, output / RUNS, events, place=place, stage=STAGE, group=group, start=starts.get(number)))
        for number, run in enumerate(runs):
            place = (number, len(runs) + more)
            results.append(execute(run, cohort, output / RUNS, events, place=place, group=group, start=starts.get(number)))
    results = [relabelled(result, usable.table) for result in results]
    tell_programs([result.program for result in (*before, *results)], events)
    evaluation = summarise([row for result in results for row in result.rows], edges=edges, resamples=resamples, seed=seed)
    start = None
    if before and cohort.base is not None:
        rows = [row for result in before for row in relabelled(result, usable.table).rows]
        name = name_of_start(cohort.base, going_on.adapter if going_on else None, starts, folds.count)
        start = Start(name, summarise(rows, edges=evaluation.edges, resamples=resamples, seed=seed), tuple(before))
    if group.leads:
        evaluation.write(output)
        (output / BEFORE).unlink(missing_ok=True)  # of an earlier call, of other cases perhaps
        if start:
            start.write(output)
        for run in runs:
            for name in run.test:
                source = output / RUNS / run.name / PREDICTIONS / f"{name}.nrrd"
                if source.is_file():
                    copy_file(source, output / PREDICTIONS / source.name)
    wait_for_all(group, config)
    return CrossValidation(folds, tuple(zip(runs, results, strict=True)), evaluation, start)


def train_final(
    config: TrainingConfig,
    cohort: Cohort,
    usable: Usable,
    validated: CrossValidation,
    output: Path,
    target: Path,
    events: Events,
    *,
    description: str = "",
    licence: str = "Apache-2.0",
    told: Mapping[str, Any] | None = None,
    group: Group | None = None,
    start: ModelInfo | None = None,
    half: bool = False,
) -> ModelInfo:
    """Train on all cases and write the model to `target`; a model that this very training wrote there before is left as it is.

    It is trained for as many epochs as the folds needed on average, and takes their median threshold.
    told: more for the header's training. start: the adapter that is gone on from. half: see `save_model`. Raises SAHLoRAError, Cancelled.
    """
    group = group or Group()
    names = tuple(case.case for case in usable.table)
    config = effective(config, cohort.base)
    cache = cohort.slices(names, config.grid, events)
    per_epoch = config.epoch_steps(len(cache.positives))
    config = replace(config, steps=max(1, round(mean(result.best_epoch for _, result in validated.runs) * per_epoch)))
    measured = header_figures(validated)
    digest = run_digest(config, cohort.base, (names, (), ()), usable.digests, start)
    method, rank, label = method_of(config)
    run = Run(method, rank, f"{label}, all cases", None, config, names, (), (), digest)
    header = {"description": description, "licence": licence, "told": dict(told or {})}
    if (info := _already(target, digest, measured, half, header)) is not None:
        events.log(f"{target} is finished already.")
        return info
    before = len(validated.runs)
    part = Within(events, "Training", before, 1, before + 1, "all cases")
    trained = fit(
        config, cohort.slices(names, config.grid, events), cohort.slices((), config.grid, events), cohort.base, output / RUNS / run.name, part,
        context={"run": run.label, "method": method, "rank": rank, "fold": None}, start=start,
    )  # fmt: skip
    trained = replace(trained, threshold=median(result.threshold for _, result in validated.runs))
    folds = [run.digest for run, _ in validated.runs]
    about = {
        "run": digest,
        FOLD_RUNS: folds,
        "cases": len(names),
        "patients": len(usable.volumes),
        "figures": _fingerprint(measured),
        TABLE: table_digest(usable.digests),
        SCANS: sorted(usable.scans.values()),
        **(told or {}),
    }
    if group.leads:
        save_model(trained, target, metrics={CROSS_VALIDATION: measured}, training=about, description=description, licence=licence, half=half)
    wait_for_all(group, config)
    return read_info(target)


def header_figures(validated: CrossValidation) -> dict[str, Any]:
    """What the cross-validation measured, for a model's header: no names of cases or patients."""
    evaluation = validated.evaluation
    rows = evaluation.summary.to_dict(orient="records")
    figures: dict[str, Any] = {}
    for row in rows:
        if row["measure"] in _TOLD and row["stratum"] == ALL:
            figures[row["measure"]] = {key: _short(row[key]) for key in ("mean", "low", "high", "sd", "median", "n")}
    strata = {row["stratum"]: {"mean": _short(row["mean"]), "n": row["n"]} for row in rows if row["measure"] == "dice" and row["stratum"] != ALL}
    agreement = evaluation.agreement.to_dict(orient="records")[0]
    names = ("icc", "icc_low", "icc_high", "bias_ml", "limit_low", "limit_high")
    return {
        "how": f"cross-validation by patient in {validated.folds.count} folds, out-of-fold predictions of {len(evaluation.patients)} patients; "
        "the model itself was then trained on all cases",
        **figures,
        "dice_by_volume": strata,
        "volume_agreement": {name: _short(agreement[name]) for name in names},
        "folds": validated.folds.count,
        "patients": len(evaluation.patients),
    }


def cross_validated_part(cohort: Cohort, count: int, share: float, events: Events, *, final: int = 1) -> Part:
    """What minutes are for: so many folds and final trainings, each of about so many slices. share: of a fold's training patients that are held out
    for validation.
    """
    grid = cohort.base.grid if cohort.base else PixelGrid()
    cache = cohort.slices((case.case for case in cohort.table), grid, events)
    learning = (count - 1) / count
    return Part(count + final, count if share else 0, round(len(cache.positives) * learning * (1 - share)), round(len(cache) * learning * share))


@contextmanager
def processes(config: TrainingConfig) -> Iterator[Group]:
    """torchrun's processes for the whole of a command, so that they stay together between trainings."""
    backend = "nccl" if choose_compute(config.device, "float32").device.type == "cuda" else "gloo"
    with process_group(backend) as group:
        yield group


def tell_programs(names: Sequence[str], events: Events) -> None:
    """That runs which are evaluated together are not of one program, where that is so. names: a program for each run."""
    if len(set(names)) > 1:
        events.log(f"The figures come from {programs(names)}; to have them of one, do the runs again in another folder.", "warning")


def _tell_warnings(findings: Sequence[Finding], events: Events) -> None:
    """Each warning once, with the cases that it is about."""
    cases: dict[str, list[str]] = {}
    for finding in findings:
        for warning in finding.warnings:
            cases.setdefault(warning, []).append(finding.case)
    for warning, names in cases.items():
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        events.log(f"{shown}: {warning}", "warning")


def _already(target: Path, digest: str, measured: Mapping[str, Any], half: bool, header: Mapping[str, Any]) -> ModelInfo | None:
    """The model, if this training with these figures wrote it, in this precision and with these words (description, licence, told)."""
    try:
        info = read_info(target) if target.is_file() else None
    except SAHLoRAError:
        return None
    if info is None or info.training.get("run") != digest or info.training.get("figures") != _fingerprint(measured) or info.half != half:
        return None
    words = (info.description, info.licence, {name: info.training.get(name) for name in header["told"]})
    return info if words == (header["description"], header["licence"], header["told"]) else None


def _fingerprint(figures: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest()[:16]


def _short(value: Any) -> float | int | None:
    """Six digits; NaN becomes None."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return int(value)
