"""What is disturbed: four commands on a tiny cohort, each done once without disturbance to compare with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults import Running, Trouble, contents, differences, sahlora, start
from tiny_cohort import QUICK, save_cohort, save_tiny_base

#: An epoch of three steps, a checkpoint at every step.
SHORT: dict[str, Any] = QUICK | {"network.levels": 2, "network.width": 4, "steps": 9, "steps_per_epoch": 3, "checkpoint_seconds": 0.0}


@dataclass(frozen=True)
class Job:
    """A command whose results lie in the current folder. reference: those of an uninterrupted run, which took so many seconds."""

    name: str
    arguments: list[str]
    reference: dict[str, Any]
    seconds: float

    def start(self, folder: Path, trouble: Trouble | None = None) -> Running:
        folder.mkdir(exist_ok=True)
        return sahlora(self.arguments, folder, trouble)

    def finish(self, folder: Path) -> Running:
        """The same once more; what is there then is what an uninterrupted run leaves."""
        again = self.start(folder)
        assert again.wait() == 0, again.said
        assert differences(contents(folder), self.reference) == []
        return again


def save_inputs(folder: Path) -> Path:
    """cases/ and tiny.safetensors; the processes that follow need not import anything."""
    save_cohort(folder / "cases", (3, 4, 5, 6, 3, 5))
    save_tiny_base(folder)
    start(print, ("ready",), folder).wait()
    return folder


def commands(inputs: Path) -> dict[str, list[str]]:
    """Name → arguments."""
    cases, base = str(inputs / "cases" / "cases.csv"), str(inputs / "tiny.safetensors")
    fitting = ["train", cases, "--base", base, "--name", "mine", "--folder", "models", "--run", "run", *_flags("")]
    compared = ["--methods", "zero-shot", "cp-lora", "head", "--ranks", "2", "--folds", "2", "--resamples", "100"]
    return {
        "training": [*fitting, "--folds", "0"],
        "cross-validation": [*fitting, "--folds", "2"],
        "study": ["study", "--cases", cases, "--base", base, "--output", "study", *compared, *_flags("training.")],
        "batch": ["segment", *scans(inputs), "--model", base, "--device", "cpu", "--output", "out", "--probability"],
    }


def scans(inputs: Path) -> list[str]:
    """The four that the batch segments."""
    return [str(inputs / "cases" / f"a0{n}" / "ct.nrrd") for n in range(4)]


def make_jobs(inputs: Path, new_folder: Callable[[str], Path]) -> Callable[[str], Job]:
    """The job of a name, run once without interruption when it is first asked for."""
    made: dict[str, Job] = {}

    def make(name: str) -> Job:
        if name not in made:
            folder = new_folder(name.replace(" ", "-"))
            arguments = commands(inputs)[name]
            began = time.monotonic()
            run = sahlora(arguments, folder)
            assert run.wait() == 0, run.said
            seconds = time.monotonic() - began
            made[name] = Job(name, arguments, contents(folder), seconds)
        return made[name]

    return make


def write_adapters(base: str, path: str) -> None:
    """Write an adapter over and over, its threshold in turn 0.25 and 0.75; for a process that is killed."""
    from SAHLoRALib.adapters import AdapterConfig, attach
    from SAHLoRALib.weights import load_network, read_info, save_adapter

    info, config = read_info(base), AdapterConfig(method="cp-lora", rank=2)
    network = load_network(info)[0]
    attach(network, config)
    for turn in range(10**9):
        save_adapter(network, config, path, base=info, threshold=(0.25, 0.75)[turn % 2])
        if turn == 0:
            print("writing")


def _flags(prefix: str) -> list[str]:
    words = []
    for name, value in SHORT.items():
        words += [f"--{prefix}{name.replace('_', '-')}", *(str(v) for v in (value if isinstance(value, tuple) else (value,)))]
    return words
