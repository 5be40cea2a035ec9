"""A study: methods × ranks × folds on one case table, each a run; then tables, claims, figures and a report.

Runs that are finished are kept and skipped, so a study may be stopped at any point, gone on with, or extended by methods, ranks or cases. A run that
fails does not stop the others: its method is left out of the tables, and the report names it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .cases import CaseTable
from .catalogue import Catalogue
from .cohort import Cohort
from .crashlog import in_words
from .crossvalidation import FOLDS, RUNS, Usable, cross_validated_part, plan_folds, processes, tell_programs, usable_cases
from .errors import Cancelled, ConfigError, OutputError, SAHLoRAError
from .events import Events
from .files import alone, write_text
from .folds import Folds, folds_for
from .pace import within_minutes
from .parallel import Group
from .provenance import EARLIER, program, table_digest
from .runs import ZERO_SHOT, ZERO_SHOT_CHOSEN, Run, RunResult, effective, execute, finished, relabelled, run_digest, tidy
from .study_config import StudyConfig
from .study_tables import Tables, choose_reference, make_tables
from .training_config import TrainingConfig
from .weights import ModelInfo

STAGE = "Study"


@dataclass(frozen=True)
class StudyResult:
    """tables: of the complete methods, None where there is none. failed: runs with the sentence that says why. skipped: finished before."""

    tables: Tables | None
    report: Path | None
    runs: tuple[tuple[Run, RunResult], ...]
    failed: tuple[tuple[Run, str], ...]
    skipped: int


@dataclass(frozen=True)
class Work:
    """All that runs need, and that a machine elsewhere can be told. digest: of the cases' voxels and the base, with the base's threshold."""

    table: CaseTable
    base: ModelInfo | None
    folder: Path
    memory_gb: float
    digest: str


#: Digest of a run → its result, or the sentence that says why it failed.
Outcomes = dict[str, RunResult | str]
#: File with the digests of what a study was made of.
MADE_OF = "made_of.json"
#: Does runs.
Executor = Callable[[Work, Sequence[Run], Events], Outcomes]


def run_study(config: StudyConfig, events: Events, executor: Executor | None = None) -> StudyResult:
    """Do what is missing, then write all tables, figures and the report.

    executor: how the runs are done; by default one after the other in this process (or in torchrun's processes together).
    Raises ConfigError, CaseError, ModelError before any run, OutputError, Cancelled after a checkpoint.
    """
    from .report import write_study_report

    needs_base = any(config_.strategy != "scratch" or method == ZERO_SHOT for method, _, _, config_, _ in config.configurations())
    base = Catalogue().find(config.base, "base") if needs_base else None
    with processes(config.training) as group, alone(config.output, group.leads):
        events = events if group.leads else Events()
        table = CaseTable.read(config.cases, config.segment)
        for warning in table.warnings:
            events.log(warning, "warning")
        usable = usable_cases(table, events)
        take_given_folds(config)
        folds = folds_for(config.output / FOLDS, usable.volumes, config.folds, config.training.seed)
        cohort = Cohort(usable.table, base, config.training.memory_gb)
        if config.minutes is not None:
            config = _within_minutes(config, cohort, events, group)
        runs = plan_study(config, usable, folds, base)
        choose_reference(config.reference, runs)  # says at once what is not there
        if group.leads:
            write_text(config.output / "study.json", _settings(config))
        digest = f"{run_digest(None, base, (usable.digests,), usable.digests)} {base.threshold if base else ''}"
        work = Work(usable.table, base, config.output / RUNS, config.training.memory_gb, digest)
        before = [(run, known) for run in runs if (known := finished(run, work.folder)) is not None]
        if group.leads:
            write_text(config.output / MADE_OF, _made_of(usable, base, runs, before))
        events.log(f"{len(runs)} runs on {len(usable.table)} cases of {len(usable.volumes)} patients; {len(before)} are finished already.")
        expected = [result.program for _, result in before] + [program()] * (len(runs) - len(before))
        tell_programs(expected, events)
        outcomes = (executor or in_this_process(group, cohort))(work, runs, events)
        if not group.leads:
            return StudyResult(None, None, (), (), 0)
    done = tuple((run, relabelled(result, usable.table)) for run in runs if isinstance(result := outcomes[run.digest], RunResult))
    failed = tuple((run, reason) for run in runs if isinstance(reason := outcomes[run.digest], str))
    write_text(config.output / MADE_OF, _made_of(usable, base, runs, done))
    if {result.program for _, result in done} - set(expected):  # machines of a cluster with another one
        tell_programs([result.program for _, result in done], events)
    tables = _tables(config, runs, done, base)
    if tables is None:
        return StudyResult(None, None, done, failed, len(before))
    tables.write(config.output)
    report = write_study_report(config, tables, usable, folds, base, done, failed)
    return StudyResult(tables, report, done, failed, len(before))


def _within_minutes(config: StudyConfig, cohort: Cohort, events: Events, group: Group) -> StudyConfig:
    """The study with so many steps as the minutes hold; the minutes are gone, so that what it says of itself is what it does."""
    kinds = [settings for method, _, _, settings, _ in config.configurations() if method != ZERO_SHOT]
    if not kinds or config.minutes is None:
        return config
    part = cross_validated_part(cohort, config.folds, config.validation, events, final=0)
    part = replace(part, trainings=part.trainings * len(kinds), validated=part.validated * len(kinds))
    limited = within_minutes(config.training, config.minutes, cohort.base, part, config.output, events, group=group, kinds=kinds)
    training = replace(config.training, steps=limited.steps, steps_per_epoch=limited.steps_per_epoch)
    return replace(config, training=training, minutes=None)


def take_given_folds(config: StudyConfig) -> None:
    """Let the study begin with the folds of `folds_file`. Raises CaseError where it cannot be read, ConfigError where the study has other folds."""
    if config.folds_file is None:
        return
    given, own = Folds.read(config.folds_file), config.output / FOLDS
    if not own.exists():
        given.write(own)
        return
    kept = Folds.read(own).folds
    moved = sum(kept.get(patient, fold) != fold for patient, fold in given.folds.items())
    if moved:
        raise ConfigError(f"{own} has {moved} patients in other folds than {config.folds_file}; take another output folder or leave folds_file out.")


def plan_study(config: StudyConfig, usable: Usable, folds: Folds, base: ModelInfo | None) -> list[Run]:
    """All runs; zero-shot as one without folds, and once more by folds with a threshold of its own. Raises ConfigError where two are the same."""
    everything = tuple(case.case for case in usable.table)
    runs: list[Run] = []
    for method, rank, label, settings, variant in config.configurations():
        settings = effective(settings, base)
        if method == ZERO_SHOT:
            digest = run_digest(None, base, ((), (), everything), usable.digests)
            runs.append(Run(method, rank, label, None, settings, (), (), everything, digest, scans=(), fallback=base.threshold if base else None))
            if config.zero_shot_threshold and config.validation:
                runs += _with_chosen_threshold(settings, config, usable, folds, base)
            continue
        planned = plan_folds(
            settings, usable, folds, base, method=method, rank=rank, label=label, validation=config.validation, seed=config.training.seed
        )
        runs += [replace(run, variant=variant) for run in planned]
    seen: dict[str, Run] = {}
    for run in runs:
        if (other := seen.setdefault(run.digest, run)) is not run:
            raise ConfigError(f"{run.label} and {other.label} are the same training; leave one out.")
    return runs


def _with_chosen_threshold(settings: TrainingConfig, config: StudyConfig, usable: Usable, folds: Folds, base: ModelInfo | None) -> list[Run]:
    """Zero-shot on the folds of the others: nothing learns, their validation patients choose the threshold."""
    planned = plan_folds(
        settings, usable, folds, base, method=ZERO_SHOT, rank=0, label=ZERO_SHOT_CHOSEN, validation=config.validation, seed=config.training.seed
    )
    return [
        replace(
            run, training=(), digest=run_digest(None, base, ((), run.validation, run.test), usable.digests),
            scans=tuple(sorted(usable.scans[name] for name in run.validation)), fallback=None,
        )
        for run in planned
    ]  # fmt: skip


def in_this_process(group: Group, cohort: Cohort) -> Executor:
    """One run after the other; slices are read once for all."""

    def do(work: Work, runs: Sequence[Run], events: Events) -> Outcomes:
        outcomes: Outcomes = {run.digest: result for run in runs if (result := finished(run, work.folder)) is not None}
        if group.leads:
            for run in runs:
                if isinstance(known := outcomes.get(run.digest), RunResult):
                    tidy(work.folder / run.name, known)
        # Finished ones first: the estimate of the time left counts from there.
        for run in [run for run in runs if run.digest not in outcomes]:
            outcomes[run.digest] = attempt(run, cohort, work.folder, events, place=(len(outcomes), len(runs)), group=group)
        return outcomes

    return do


def attempt(
    run: Run, cohort: Cohort, folder: Path, events: Events, *, place: tuple[int, int] = (0, 1), group: Group | None = None
) -> RunResult | str:
    """The run's result, or the sentence that says why it failed. Raises Cancelled and OutputError, which concern all runs; of several processes
    any error, since the others would wait for this one.
    """
    try:
        result = execute(run, cohort, folder, events, place=place, stage=STAGE, group=group)
    except (Cancelled, OutputError):
        raise
    except Exception as error:  # also of a library: the other runs are still done
        if group is not None and group.size > 1:
            raise
        reason = _sentence(error)
    else:
        events.progress(STAGE, place[0] + 1, place[1], run.title)
        return result
    events.log(f"{run.title} failed: {reason}", "warning")
    return reason


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, SAHLoRAError) else in_words(error)


def _tables(config: StudyConfig, runs: Sequence[Run], done: Sequence[tuple[Run, RunResult]], base: ModelInfo | None) -> Tables | None:
    """Of the methods all of whose runs are done."""
    have = {run.digest for run, _ in done}
    missing = {run.label for run in runs if run.digest not in have}
    complete = [(run, result) for run, result in done if run.label not in missing]
    if not complete:
        return None
    reference = config.reference
    if reference:
        chosen = choose_reference(reference, runs)
        reference = "" if chosen in missing else chosen
    return make_tables(complete, base, edges=config.edges or None, reference=reference, resamples=config.resamples, seed=config.training.seed)


def _made_of(usable: Usable, base: ModelInfo | None, runs: Sequence[Run], done: Sequence[tuple[Run, RunResult]]) -> str:
    """What the tables come from: the program that makes them and those that did the runs which are done, cases, base, and every run's folder with its
    digest.
    """
    content = {
        "program": program(),
        "programs": {run.name: result.program or EARLIER for run, result in done},
        "cases_digest": table_digest(usable.digests),
        "base": {"name": base.name, "digest": base.digest} if base else None,
        "runs": {run.name: run.digest for run in runs},
        "labels": {run.name: run.label for run in runs},
    }
    return json.dumps(content, indent=1) + "\n"


def _settings(config: StudyConfig) -> str:
    return json.dumps(config.as_dict(), indent=1, ensure_ascii=False, default=str) + "\n"
