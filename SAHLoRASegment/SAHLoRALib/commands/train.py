"""``sahlora train``."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ..errors import ConfigError
from ..events import Events
from ..training_config import TrainingConfig, check_minutes
from .fitting import DEFAULT_SHARE, TrainingArguments, free_settings, train_and_save

if TYPE_CHECKING:
    from ..crossvalidation import CrossValidation
    from ..weights import ModelInfo


#: Of a cross-validation, where nobody says otherwise.
DEFAULT_FOLDS = 3


@dataclass(frozen=True, kw_only=True)
class Arguments(TrainingArguments):
    """Adapt a base to your own annotated cases, with an adapter or by standard fine-tuning: cross-validation by patient, then one model that is
    trained on all cases. Stopped, the same command goes on; finished folds are not done again.

    The model lies in your model folder, ready for: sahlora segment; its header holds what the cross-validation measured. The run folder holds
    report.md, the evaluation's tables, the folds, and in predictions the mask of every case by the network that had not seen it. With --folds 0 there
    is no cross-validation, and the validation cases choose the weights.

    On several GPUs: torchrun --nproc-per-node 4 -m -- SAHLoRALib train ...
    """

    base: str = ""
    """Name or file of the base; without it the default model."""
    continue_from: str = ""
    """Name or file of an adapter to go on from, one that came along or, for instance with more cases, one of your own: its base and settings (method,
    rank, modules, normalisation, strength) are taken. From one that came along, which has seen no patient, every fold goes on; of your own each fold
    takes the adapter of the same fold of the former run, which has not seen the fold's patients."""
    former_run: Path | None = None
    """Run folder of that adapter, runs/ITS-NAME without it. Where it is gone, the folds start from the base."""
    folds: int | None = None
    """Of the cross-validation; kept in the run folder when cases are added. 0 for none. Without it 3, or those of the adapter to go on from."""
    baseline: bool = True
    """Let what the training starts from (the base, or the adapter to go on from) segment the same patients, so that the report tells what was gained.
    Not with --folds 0."""
    edges: tuple[float, ...] = ()
    """mL between the volume strata of the evaluation; without them the tertiles of the annotated volumes."""
    settings: Annotated[TrainingConfig, tyro.conf.arg(name="")] = field(default_factory=TrainingConfig)
    """How it is trained."""


def run(arguments: Arguments, events: Events) -> int:
    """Returns 0. Raises SAHLoRAError."""
    config = arguments.settings
    if config.strategy == "scratch":
        raise ConfigError("train adapts a base; to train one from scratch use: sahlora pretrain.")
    if arguments.folds is not None and (arguments.folds < 0 or arguments.folds == 1):
        raise ConfigError(f"folds must be 0 (no cross-validation) or at least 2, not {arguments.folds}.")
    from ..catalogue import Catalogue
    from ..segmenter import DEFAULT_MODEL

    catalogue = Catalogue()
    start = None
    if arguments.continue_from:
        start = catalogue.find(arguments.continue_from, "adapter")
        base = catalogue.find(arguments.base, "base") if arguments.base else catalogue.base_of(start)
        config = _going_on(arguments, config, base, start, events)
    else:
        base = catalogue.find(arguments.base or DEFAULT_MODEL, "base")
    if arguments.folds == 0:
        events.log("Without cross-validation (--folds 0) nothing tells how good the model is on patients it has not seen.", "warning")
        return train_and_save("train", arguments, config, base, events, start)
    return _cross_validated(arguments, config, base, events, start)


def _going_on(arguments: Arguments, config: TrainingConfig, base: ModelInfo, start: ModelInfo, events: Events) -> TrainingConfig:
    """The settings with the adapter's own configuration. Raises ConfigError, ModelError (another base's adapter)."""
    from ..model_folders import model_path, user_folder
    from ..weights import check_belongs

    if config.strategy != "adapter":
        raise ConfigError(f"Only an adapter goes on from an adapter, and the strategy is {config.strategy}; leave --strategy or --continue-from out.")
    check_belongs(start, base)
    target = model_path(arguments.folder or user_folder(), arguments.name)
    if target.exists() and target.samefile(start.path):
        raise ConfigError(f"The new adapter cannot have the name {arguments.name} of the one that it goes on from; choose another name.")
    assert start.adapter is not None  # an adapter has a configuration
    given, own, usual = (adapter.as_dict() for adapter in (config.adapter, start.adapter, type(start.adapter)()))
    if other := [name for name, value in given.items() if value not in (own[name], usual[name])]:
        shown = ", ".join(f"{name} {own[name]}, not {given[name]}" for name in other)
        events.log(
            f"An adapter that goes on from {start.name} is of its kind ({shown}); a setting of the adapter that is given is not used.", "warning"
        )
    return replace(config, adapter=start.adapter)


def _cross_validated(arguments: Arguments, config: TrainingConfig, base: ModelInfo, events: Events, start: ModelInfo | None) -> int:
    from ..cases import CaseTable
    from ..cohort import Cohort
    from ..continuation import continue_from
    from ..crossvalidation import RUNS, cross_validate, cross_validated_part, processes, train_final, usable_cases
    from ..evaluation import check_edges
    from ..files import alone
    from ..gain import gain
    from ..pace import within_minutes
    from ..report import write_training_report
    from ..runs import effective
    from ..targets import check_own, model_target

    count = arguments.folds
    share = DEFAULT_SHARE if arguments.validation_share is None else arguments.validation_share
    if arguments.validation is not None:
        raise ConfigError("A validation table goes with --folds 0; in cross-validation every fold keeps some of its own patients (validation_share).")
    if not 0.0 <= share <= 0.5:
        raise ConfigError(f"validation_share must lie between 0 and 0.5, not at {share:g}.")
    check_edges(arguments.edges or None)
    check_minutes(arguments.minutes)
    target = model_target(arguments.folder, arguments.name)
    check_own(target, effective(config, base), base, free=("steps", *free_settings(arguments)), start=start)
    output = arguments.run or Path("runs") / arguments.name
    going_on = None
    if start is not None:
        former = arguments.former_run or Path("runs") / start.name
        going_on = continue_from(start, former, events, named=arguments.former_run is not None)
        count = going_on.count(count)
        if share and going_on.starts and not going_on.held:
            events.log(
                f"Weights and threshold are chosen on patients of whom {start.name} may have learnt some, so its own habits are favoured there; the "
                "folds' figures are of patients that it has not seen."
            )
    table = CaseTable.read(arguments.cases, arguments.segment)
    with processes(config) as group:
        events = events if group.leads else Events(arguments.cancel_file)
        for warning in table.warnings:
            events.log(warning, "warning")
        usable = usable_cases(table, events)
        if arguments.fresh and group.leads:
            with alone(output):  # not under another run's hands
                shutil.rmtree(output / RUNS, ignore_errors=True)
        cohort = Cohort(usable.table, base, config.memory_gb)
        if arguments.minutes is not None:
            part = cross_validated_part(cohort, count or DEFAULT_FOLDS, share, events)
            config = within_minutes(config, arguments.minutes, base, part, output, events, group=group, start=start, fresh=arguments.fresh)
        validated = cross_validate(
            config, cohort, usable, output, events, count=count or DEFAULT_FOLDS, validation=share, seed=config.seed, edges=arguments.edges or None,
            more=1, group=group, going_on=going_on, baseline=arguments.baseline,
        )  # fmt: skip
        info = train_final(
            config, cohort, usable, validated, output, target, events, description=arguments.description, licence=arguments.licence,
            told=arguments.told(), group=group, start=start, half=arguments.half,
        )  # fmt: skip
        if not group.leads:
            return 0
    report = write_training_report(output, info, base, usable, validated)
    arguments.say(_told(info, validated, report))
    events.result(
        command="train",
        model=str(info.path),
        name=info.name,
        digest=info.digest,
        steps=info.training["steps"],
        trainable=info.training["trainable"],
        seconds=info.training["seconds"] + sum(result.seconds for _, result in validated.runs),
        threshold=info.threshold,
        folds=validated.folds.count,
        metrics=info.metrics,
        gain=gain(validated.evaluation, validated.start) if validated.start else None,
        run=str(output),
        report=str(report),
        predictions=str(output / "predictions"),
    )
    return 0


def _told(info: ModelInfo, validated: CrossValidation, report: Path) -> str:
    from ..gain import gain_in_words
    from .evaluate import told

    gained = [gain_in_words(validated.evaluation, validated.start), ""] if validated.start else []
    lead = f"Out-of-fold predictions of {len(validated.evaluation.patients)} patients in {validated.folds.count} folds:"
    return "\n".join([lead, told(validated.evaluation), "", *gained, f"{info.name}: {info.path}", f"Report: {report}"])
