"""Trainings and sample cases in the background process, and what they leave on disk."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from SAHLoRALib.figures import FILES as FIGURES
from SAHLoRALib.model_folders import is_bundled, model_path, user_folder

from . import train_plan
from .job import BackgroundJob, Outcome
from .runs import Told
from .train_plan import FOLDS, TrainingPlan

#: Seconds that a cancelled training may take to write its checkpoint.
PATIENCE = 10.0
#: The sample cases: enough for three folds, small enough for two cores.
SAMPLE = {"kind": "asah", "count": 6, "matrix": 192, "slices": 16, "seed": 40}
#: What ends the name of a run's folder: the first digits of its digest.
_A_RUN = re.compile(r"-[0-9a-f]{10}$")
#: What the core writes into the output folder of a training or a study, beside folders.
_WRITTEN = (".lock", "study.json", "made_of.json", "report.md", "pace.json", "results.csv", "methods.csv", "comparison.csv", "claims.csv")
#: Passes over the sample cases that take minutes and not an hour.
SAMPLE_EPOCHS = 8


class TrainRun:
    """A plan in a background job. plan.json goes into the output folder first, so that the training can be gone on with later."""

    def __init__(
        self, plan: TrainingPlan, on_event: Told, on_finished: Callable[[Outcome], None], make_job: Callable[..., BackgroundJob] = BackgroundJob
    ) -> None:
        self.plan = plan
        self._on_finished = on_finished
        self.job = make_job(on_event, self._finished, patience=PATIENCE)

    def start(self) -> None:
        """Start, or go on. Raises OSError, SAHLoRAError."""
        try:
            self.plan.save()
            self.job.start(self.plan.job())
        except Exception:
            self.job.abandon()
            raise

    def _finished(self, outcome: Outcome) -> None:
        if outcome.state == "done":
            self.plan.save(train_plan.FINISHED)
        self._on_finished(outcome)


class SampleRun:
    """A handful of small synthetic cases with haemorrhage, made on this machine."""

    def __init__(
        self, folder: Path, on_event: Told, on_finished: Callable[[Outcome], None], make_job: Callable[..., BackgroundJob] = BackgroundJob
    ) -> None:
        self.folder = folder
        self.plan: TrainingPlan | None = None
        self.job = make_job(on_event, on_finished)

    def start(self) -> None:
        """Start; cases that are there already are kept."""
        try:
            self.job.start({"command": "phantom", "output": str(self.folder), **SAMPLE})
        except Exception:
            self.job.abandon()
            raise


def export(plan: TrainingPlan, folder: Path) -> list[Path]:
    """Copy model, card and report into a folder for a colleague; returns what was written. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    output, model = Path(plan.output), model_path(user_folder(), plan.name or "unnamed")
    found = [model, model.with_suffix(".md"), output / "report.md", *output.glob("evaluation_*.csv"), *output.glob("methods.csv")]
    written = [Path(shutil.copyfile(path, folder / path.name)) for path in found if path.is_file()]
    if (output / "figures").is_dir():
        written.append(Path(shutil.copytree(output / "figures", folder / "figures", dirs_exist_ok=True)))
    return written


def delete(plan: TrainingPlan) -> list[str]:
    """Remove the model and the output folder; returns where they were. Cases stay. Raises OSError."""
    output, gone = Path(plan.output), []
    model = model_path(user_folder(), plan.name or "unnamed")
    for path in (model, model.with_suffix(".md")):
        if not plan.study and path.is_file() and not is_bundled(path):
            path.unlink()
            gone.append(str(path))
    # Only what a training wrote: the folder may hold a user's own files too.
    if (output / train_plan.PLAN).is_file():
        runs = [path for path in output.glob("runs/*") if _A_RUN.search(path.name)]
        masks = {path.name for run in runs for path in run.glob("predictions/*.nrrd")}
        for run in runs:
            shutil.rmtree(run, ignore_errors=True)
        files = [output / name for name in (*_WRITTEN, train_plan.PLAN, FOLDS)] + list(output.glob("evaluation_*.csv"))
        files += [output / "predictions" / name for name in masks] + [output / "figures" / name for name in FIGURES]
        for path in files:
            path.unlink(missing_ok=True)
        for folder in (*(output / name for name in ("runs", "predictions", "figures")), output):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        gone.append(str(output))
    return gone
