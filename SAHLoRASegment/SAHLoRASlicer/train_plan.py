"""`TrainingPlan`: what a training or a study is about to do, as a job for the worker, as a command line, and as plan.json in its output folder.

The plan lies beside the checkpoints, so that a training can be gone on with after Slicer was closed. Light: neither torch nor Slicer is needed.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from SAHLoRALib.architecture import MODULES
from SAHLoRALib.case_folder import CaseFolderReport
from SAHLoRALib.errors import SAHLoRAError
from SAHLoRALib.files import write_text
from SAHLoRALib.folds import Folds
from SAHLoRALib.methods import ADAPTERS, PAPERS_SIX, default_rate, strategy_of
from SAHLoRALib.model_folders import bundled_folders, model_name, model_path, user_folder

PLAN = "plan.json"
FOLDS = "folds.json"
PACKAGES = Path(__file__).resolve().parents[1]
STARTED, FINISHED = "started", "finished"
#: Seconds of work that a crash may cost at most.
_CHECKPOINT_SECONDS = 20
#: Checkpoints, predictions and models of a training fit into this. Bytes.
_NEEDED = 300_000_000


@dataclass(frozen=True)
class TrainingPlan:
    """cases: case folder or table. base: weight file. method: of `methods.CHOICES`. modules, norm, rank, strength: of an
    adapter. output: run folder.

    continue_from: weight file of an adapter of the same base, whose kind and folds are kept; former_run: output folder of its training, where it is
    known. minutes: for all trainings together, 0 without a limit. study: compare no fine-tuning, standard fine-tuning and the six
    adapters; method and name have no meaning then.
    """

    cases: str = ""
    base: str = ""
    method: str = "cp-lora"
    rank: int = 8
    modules: tuple[str, ...] = MODULES
    norm: str = "frozen"
    strength: float = 1.0
    epochs: int = 40
    minutes: int = 0
    learning_rate: float = 5e-3
    folds: int = 3
    device: str = "auto"
    name: str = ""
    output: str = ""
    study: bool = False
    continue_from: str = ""
    former_run: str = ""

    def problems(self, report: CaseFolderReport | None = None) -> list[str]:
        """Why this cannot be started, a sentence each; report: of the cases, where they are known."""
        told = []
        if not self.base or not Path(self.base).is_file():
            told.append("The base model is missing: import a weight file in SAHLoRA Segment, or choose another base.")
        if not self.cases:
            told.append("Choose a case folder first.")
        elif report is not None:
            told += report.blockers(self.folds)
        if self.folds == 1 or (self.study and self.folds < 2):
            told.append("One fold leaves nothing to learn from: choose at least 2 folds" + ("." if self.study else ", or 0 for no cross-validation."))
        if not self.modules and (self.study or self.method in ADAPTERS):
            told.append("Choose at least one module of the network.")
        told += self._folds_problems()
        if not self.study:
            told += self._name_problems()
        if not self.output:
            told.append("Choose an output folder: checkpoints, predictions and tables go there.")
        elif why := why_not_writable(Path(self.output)):
            told.append(why)
        return told

    def _folds_problems(self) -> list[str]:
        """Going on keeps the folds of the training before."""
        path = Path(self.former_run) / FOLDS
        if not self.continue_from or not self.folds or not self.former_run or not path.is_file():
            return []
        try:
            count = Folds.read(path).count
        except SAHLoRAError as error:
            return [str(error)]
        name = model_name(Path(self.continue_from))
        return [] if count == self.folds else [f"{name} was trained with {count} folds, and no patient may change sides: choose {count} folds."]

    def _name_problems(self) -> list[str]:
        try:
            path = model_path(user_folder(), self.name)
        except SAHLoRAError as error:
            return [str(error)] if self.name else ["Give the new model a name."]
        if any(model_path(folder, self.name).exists() for folder in bundled_folders()):
            return [f"A model {self.name} comes with SAHLoRA: choose another name."]
        if self.continue_from and self.name == model_name(Path(self.continue_from)):
            return [f"{self.name} is the adapter to go on from, which is kept: choose another name."]
        if path.exists() and not (Path(self.output) / PLAN).is_file():
            return [f"There is a model {self.name} already: choose another name, or delete that model first."]
        return []

    def job(self) -> dict[str, Any]:
        """The job file's fields: what the worker gets."""
        adapter = {"modules": list(self.modules), "norm": self.norm, "strength": self.strength}
        if self.study:
            methods = ["zero-shot", "all", *PAPERS_SIX]
            rates = [text for method in methods[1:] for text in (method, f"{default_rate(method):g}")]
            training = {"epochs": self.epochs, "device": self.device, "checkpoint_seconds": _CHECKPOINT_SECONDS, "adapter": adapter}
            job = {
                "command": "study", "cases": self.cases, "base": self.base, "methods": methods, "ranks": [self.rank], "folds": self.folds,
                "learning_rates": rates, "output": self.output, "training": training,
            }  # fmt: skip
            return job | ({"minutes": self.minutes} if self.minutes else {})
        job = {
            "command": "train", "cases": self.cases, "name": self.name, "base": self.base, "folds": self.folds, "run": self.output,
            "strategy": strategy_of(self.method), "epochs": self.epochs, "learning_rate": self.learning_rate, "device": self.device,
            "checkpoint_seconds": _CHECKPOINT_SECONDS,
        }  # fmt: skip
        if self.minutes:
            job["minutes"] = self.minutes
        if self.continue_from:
            job["continue_from"] = self.continue_from
            if self.former_run:
                job["former_run"] = self.former_run
        elif self.method in ADAPTERS:
            job["adapter"] = {"method": self.method, "rank": self.rank, **adapter}
        return job

    def arguments(self) -> list[str]:
        """What follows ``sahlora`` on the command line; the same flags as the job's."""
        job = self.job()
        first = [job.pop("command")]
        if not self.study:
            first.append(job.pop("cases"))
        return first + _flags(job)

    def command_line(self, python: str, windows: bool = sys.platform == "win32") -> str:
        """A line for a shell that does the same without Slicer's window."""
        words = [python, "-m", "SAHLoRALib", *self.arguments()]
        if windows:
            return f'cd /d "{PACKAGES}" && {subprocess.list2cmdline(words)}'
        return f"cd {shlex.quote(str(PACKAGES))} && {shlex.join(words)}"

    def save(self, state: str = STARTED) -> None:
        """Write plan.json into the output folder. Raises OutputError."""
        write_text(Path(self.output) / PLAN, json.dumps({"state": state, **asdict(self)}, indent=1) + "\n")


def load(folder: Path) -> tuple[TrainingPlan, str] | None:
    """Plan and state of an output folder; None where there is no plan that can be read."""
    try:
        content = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        known = {field.name for field in fields(TrainingPlan)}
        values = {key: value for key, value in content.items() if key in known}
        return TrainingPlan(**{**values, "modules": tuple(values.get("modules", MODULES)), "output": str(folder)}), str(content["state"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def trainings(folder: Path) -> list[tuple[TrainingPlan, str]]:
    """All plans in the subfolders of a folder, the latest first, with their states."""
    places = sorted(folder.glob(f"*/{PLAN}"), key=lambda path: path.stat().st_mtime, reverse=True) if folder.is_dir() else []
    return [found for path in places if (found := load(path.parent)) is not None]


def why_not_writable(folder: Path) -> str:
    """A sentence where nothing, or too little, can be written into a folder (which need not exist yet), else empty."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return f"{folder} cannot be written to: choose another output folder."
    free = shutil.disk_usage(place).free
    if free < _NEEDED:
        return f"The disk of {folder} has {free / 1e6:.0f} MB left, a training may need {_NEEDED / 1e6:.0f}: free some space or use another folder."
    return ""


def _flags(values: Mapping[str, Any], before: str = "") -> list[str]:
    """--learning-rate=0.005 --adapter.modules stem head …, as `SAHLoRALib.cli` takes them from a job file."""
    flags: list[str] = []
    for key, value in values.items():
        flag = f"--{before}{key.replace('_', '-')}"
        if isinstance(value, Mapping):
            flags += _flags(value, f"{before}{key}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            flags += [flag, *map(str, value)]
        else:
            flags.append(f"{flag}={value}")
    return flags
