"""What pretrain and train share: cases and their check, validation patients, the training itself, and the model that comes out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from ..errors import CaseError, ConfigError
from ..events import Events
from .common import Common, validation_cases

if TYPE_CHECKING:
    from ..cases import CaseTable
    from ..parallel import Group
    from ..samples import SliceCache
    from ..training_config import TrainingConfig
    from ..weights import ModelInfo

#: What is kept for validation where nothing is said, and from how many patients on.
DEFAULT_SHARE, FEWEST_PATIENTS = 0.2, 5


@dataclass(frozen=True, kw_only=True)
class TrainingArguments(Common):
    """Which cases are learnt from, and where the model goes."""

    cases: tyro.conf.Positional[Path]
    """cases.csv (case, image, mask, patient, site), or a folder of cases; a column split keeps test cases out and names validation cases."""
    name: str
    """Of the model that comes out."""
    validation: Path | None = None
    """Case table that chooses the best weights and the threshold, other patients than those trained on."""
    validation_share: float | None = None
    """Share of the patients kept for validation instead, stratified by volume, the same at every call; without it a fifth of five and more."""
    segment: str | None = None
    """Which segment or label is haemorrhage, where a row does not say."""
    folder: Path | None = None
    """Folder of the model; without it your own model folder, where sahlora segment finds it and the names of bundled models are refused."""
    run: Path | None = None
    """Folder of the unfinished training, runs/NAME without it."""
    minutes: float | None = None
    """Time for all trainings together, their validations included, reading and segmenting the cases not: fewer steps than epochs or steps say where
    they would take longer on this machine. How many is measured once, kept in the run folder (pace.json) and the same for all folds."""
    fresh: bool = False
    """Start anew where an unfinished training lies in the run folder."""
    description: str = ""
    """A sentence about the model, for its header."""
    licence: str = ""
    """Of the model, for its header."""
    lesion: Literal["haemorrhage", "subarachnoid"] | None = None
    """What is annotated in the cases, for the header: bleeding of any kind, or subarachnoid only. 3D Slicer names the segments after it."""
    half: bool = False
    """Store the kernels in half precision (float16, three digits): the file takes half the space."""

    def told(self) -> dict[str, str]:
        """What goes into the header's training as it was given."""
        return {"lesion": self.lesion} if self.lesion else {}


def train_and_save(
    command: str, arguments: TrainingArguments, settings: TrainingConfig, base: ModelInfo | None, events: Events, start: ModelInfo | None = None
) -> int:
    """Check the cases, train, write the model; returns 0. start: the adapter that is gone on from. Raises SAHLoRAError."""
    from ..checkpoint import FILE_NAME
    from ..pace import Part, within_minutes
    from ..runs import effective
    from ..targets import check_free, check_own, model_target
    from ..training import fit, save_model
    from ..training_config import check_minutes

    leads = int(os.environ.get("RANK", "0")) == 0  # of torchrun's processes the one that speaks and writes
    if not leads:
        events = Events(cancel_file=arguments.cancel_file)
    check_minutes(arguments.minutes)
    path = model_target(arguments.folder, arguments.name)
    run = arguments.run or Path("runs") / arguments.name
    if not (run / FILE_NAME).exists():
        check_free(path)
    check_own(path, effective(settings, base), base, free=free_settings(arguments), start=start)
    training, validation, told_of_them = chosen_cases(arguments, events)
    events.log(f"{len(training)} training cases, {len(validation)} validation cases; {f'base {base.name}' if base else 'from scratch'}.")

    def limited(config: TrainingConfig, learnt: SliceCache, judging: SliceCache, group: Group) -> TrainingConfig:
        part = Part(1, int(bool(len(judging))), len(learnt.positives), len(judging))
        assert arguments.minutes is not None
        return within_minutes(config, arguments.minutes, base, part, run, events, group=group, start=start, fresh=arguments.fresh)

    limit = limited if arguments.minutes is not None else None
    result = fit(settings, training, validation, base, run, events, resume=not arguments.fresh, start=start, limit=limit)
    if not leads:
        return 0
    told = {
        "cases": len(training),
        "validation_cases": len(validation),
        "patients": len(training.patients),
        **told_of_them,
        **arguments.told(),
    }
    info = save_model(result, path, training=told, description=arguments.description, licence=arguments.licence, half=arguments.half)
    best = f", validation Dice {result.best.best_dice:.3f} at threshold {result.threshold:g}" if result.best else ""
    arguments.say(f"{info.name}: {result.config.what}, {result.trainable:,} numbers, {result.steps} steps{best}\n{path}")
    events.result(
        command=command,
        model=str(path),
        name=info.name,
        digest=info.digest,
        steps=result.steps,
        trainable=result.trainable,
        seconds=result.seconds,
        validation=result.best.as_dict() if result.best else None,
        threshold=result.threshold,
        stopped_early=result.stopped_early,
    )
    return 0


def chosen_cases(arguments: TrainingArguments, events: Events) -> tuple[CaseTable, CaseTable, dict[str, Any]]:
    """Training and validation cases, all checked, no patient in both; and what the header tells of them: the digest of what the training table holds,
    and those of all scans.

    Raises CaseError that names every case with a problem.
    """
    from ..case_check import check_training, patient_volumes, require_usable
    from ..cases import VALIDATION_SPLITS, CaseTable
    from ..cohort import no_blood, scan_digests, told_cases
    from ..folds import split_validation
    from ..provenance import SCANS

    table = CaseTable.read(arguments.cases, arguments.segment)
    share = arguments.validation_share
    if share is not None and not 0.0 <= share <= 0.5:
        raise ConfigError(f"validation_share must lie between 0 and 0.5, not at {share:g}.")
    if arguments.validation is not None and share:
        raise ConfigError("Give either a validation table or a validation_share, not both.")
    for warning in table.warnings:
        events.log(warning, "warning")
    other = validation_cases(arguments.validation, events, arguments.segment) if arguments.validation else None
    judged = other.check(events) if other is not None else []
    findings = check_training(table, events, judged)
    require_usable([*findings, *judged])
    usable, _ = table.parted()
    if len(usable) == 0:
        raise CaseError(f"All cases of {arguments.cases} are test cases; there is none to train on.")
    told = told_cases(usable, findings)
    if other is not None:
        if not any(finding.ml for finding in judged):
            raise no_blood(len(other))
        return usable, other, told | {SCANS: sorted({*told[SCANS], *scan_digests(other, judged).values()})}
    named = usable.where(lambda case: case.split in VALIDATION_SPLITS)
    if len(named) and not share:
        if not any(finding.ml for finding in findings if finding.case in {case.case for case in named}):
            raise no_blood(len(named))
        return usable.where(lambda case: case.split not in VALIDATION_SPLITS), named, told
    if share is None:
        share = DEFAULT_SHARE if len(usable.patients) >= FEWEST_PATIENTS else 0.0
    if share == 0.0:
        return usable, usable.where(lambda case: False), told
    volumes = patient_volumes(usable, findings)
    judge: list[str] = []
    # Patients with and without haemorrhage apart: judged by patients without any, the network that sees nothing would be the best.
    for with_blood in (True, False):
        part = {patient: ml for patient, ml in volumes.items() if (ml > 0) == with_blood}
        if with_blood or len(part) >= FEWEST_PATIENTS:
            judge += split_validation(part, share, settings_seed(arguments))[1]
    return usable.of_patients([p for p in usable.patients if p not in judge]), usable.of_patients(judge), told


def free_settings(arguments: TrainingArguments) -> tuple[str, ...]:
    """Settings that follow from the minutes that are given."""
    return ("steps", "steps_per_epoch") if arguments.minutes is not None else ()


def settings_seed(arguments: TrainingArguments) -> int:
    """The training's seed decides about the validation patients too."""
    return int(getattr(getattr(arguments, "settings", None), "seed", 0))
