"""``sahlora study``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ..errors import ConfigError
from ..events import Events
from ..study_config import StudyConfig
from .common import Common, table

if TYPE_CHECKING:
    from ..study import StudyResult


@dataclass(frozen=True, kw_only=True)
class Arguments(Common):
    """Compare fine-tuning strategies on your own cases: methods × ranks × folds, with paired tests, the paper's claims, figures and a report.

    Finished runs are kept: the same command goes on after a cancel or a crash, and a study can be extended by methods, ranks and cases.
    Exit code: 0 all runs are done, 1 some failed (the report says why), 2 all failed or the call is wrong, 130 cancelled.
    """

    file: Path | None = None
    """YAML or JSON file with the settings below by their names; flags beside it count before the file's."""
    dask: str = ""
    """Address of a dask scheduler (tcp://host:8786) whose workers do the runs; they must see the same folders."""
    study: Annotated[StudyConfig, tyro.conf.arg(name="")] = field(default_factory=StudyConfig)
    """What is compared."""


def from_file(rest: Sequence[str]) -> Arguments | None:
    """The arguments that the file asks for, which the other flags then change; None without a file."""
    for place, text in enumerate(rest):
        if text.startswith("--file="):
            path = Path(text.partition("=")[2])
        elif text == "--file" and place + 1 < len(rest):
            path = Path(rest[place + 1])
        else:
            continue
        return Arguments(file=path, study=StudyConfig.read(path))
    return None


def run(arguments: Arguments, events: Events) -> int:
    """Returns the exit code. Raises SAHLoRAError."""
    from ..pretraining import with_base
    from ..study import run_study

    executor = None
    if arguments.dask:
        from ..distribute import on_cluster

        executor = on_cluster(arguments.dask)
    result = run_study(with_base(arguments.study, events), events, executor)
    if result.tables is None:
        if not result.failed:  # not the leading one of torchrun's processes
            return 0
        raise ConfigError(f"No method of the study could be finished; the first failure: {result.failed[0][0].title}: {result.failed[0][1]}")
    arguments.say(_told(result))
    events.result(
        command="study",
        output=str(arguments.study.output),
        report=str(result.report),
        runs=len(result.runs),
        skipped=result.skipped,
        failed=[{"run": run.title, "error": reason} for run, reason in result.failed],
        claims=[{"number": c.number, "text": c.text, "verdict": c.verdict, "figures": c.figures} for c in result.tables.claims],
        methods=[{"label": r["label"], "trainable": r["trainable"], "dice": r["dice"]} for r in result.tables.methods.to_dict(orient="records")],
    )
    return 1 if result.failed else 0


def _told(result: StudyResult) -> str:
    assert result.tables is not None
    rows = [
        (r["label"], f"{r['trainable']:,}", f"{r['file_kb']:.0f}", f"{r['dice']:.3f}", f"{r['absolute_error_ml']:.2f}", f"{r['train_seconds']:.0f}")
        for r in result.tables.methods.to_dict(orient="records")
    ]
    lines = [table(("method", "parameters", "file (kB)", "Dice", "error (mL)", "time (s)"), rows, right=(1, 2, 3, 4, 5)), ""]
    lines += [f"Claim {c.number}, {c.text}: {c.verdict}. {c.rule}" for c in result.tables.claims]
    lines += [f"Failed: {run.title}: {reason}" for run, reason in result.failed]
    return "\n".join([*lines, "", f"Report: {result.report}"])
