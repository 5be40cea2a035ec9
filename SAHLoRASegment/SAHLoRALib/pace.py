"""Training for so many minutes at most: how long a step takes on this machine, and how many steps the minutes hold.

    limited = within_minutes(config, 30.0, base, Part(...), "runs/mine", events)

Steps are counted once, before the first training, so that all folds and the final model have the same, and kept beside the run (pace.json), so that a
training that is gone on with, here or on a faster machine, ends where it was going to end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from .batch import Within
from .device import Compute, choose_compute, fixed_sizes, threads
from .errors import DAMAGED, ConfigError
from .events import Events
from .files import write_text
from .methods import SCRATCH
from .parallel import Group
from .runs import effective
from .samples import CachedCase, SliceCache, seeded
from .training_config import TrainingConfig, check_minutes
from .training_loop import TrainingLoop
from .validation import validate
from .weights import ModelInfo

FILE = "pace.json"
#: Validations of a training that is cut short, and the share of its time that they may take; one there always is.
VALIDATIONS, SHARE = 4, 0.2
#: Fewer steps than this teach nothing; fewer than the other little, which is told.
FEWEST_STEPS, FEW_STEPS = 20, 100
#: Steps of the probe: the first are slower, since memory is taken and ways to compute are chosen.
_WARMING, _TIMED = 2, 3


@dataclass(frozen=True)
class Part:
    """What the minutes are for. trainings: how many follow each other. validated: how many of them choose their weights on validation cases.
    positives: slices with blood that one of them learns from. validation_slices: of the validation cases of one of them.
    """

    trainings: int
    validated: int
    positives: int
    validation_slices: int


@dataclass(frozen=True)
class Pace:
    """step_s: seconds of a training step. slice_s: seconds of a slice in validation."""

    step_s: float
    slice_s: float


def within_minutes(
    config: TrainingConfig, minutes: float, base: ModelInfo | None, part: Part, folder: Path, events: Events, *, group: Group | None = None,
    start: ModelInfo | None = None, fresh: bool = False, kinds: Sequence[TrainingConfig] = (),
) -> TrainingConfig:  # fmt: skip
    """The settings with so many steps that the trainings take `minutes` together, their validations included; as they are where they take less.

    Reading the scans and segmenting the test cases come on top. folder: of the run; its pace.json is used again unless `fresh`, or made. start: what
    is gone on from. kinds: of trainings that share the minutes, equally many of each, where they are several; all get the same steps, and a study
    that is extended by more of them keeps its steps. Raises ConfigError where the minutes are too few to learn anything.
    """
    group = group or Group()
    config = effective(config, base)
    check_minutes(minutes)
    whole = config.steps or config.epochs * config.epoch_steps(part.positives)
    asked: dict[str, Any] = {"minutes": minutes, "whole": whole, "settings": _settings(config, base)}
    if not kinds:  # a study that is extended keeps its steps
        asked["trainings"] = part.trainings
    known = None if fresh else _read(folder, asked)
    if group.any(known is None, choose_compute(config.device, "float32").device):
        pace = _mean_pace(kinds or (config,), base, events, group, start)
        steps, validations = steps_within(minutes, pace, part)
        if steps >= whole:
            events.log(f"A step takes {pace.step_s:.2g} s here: all {whole} steps of a training fit into the {minutes:g} minutes.")
            steps = 0
        elif steps < FEWEST_STEPS:
            needed = math.ceil(_minutes_for(FEWEST_STEPS, pace, part))
            several = f"each of {part.trainings} trainings" if part.trainings > 1 else "a training"
            raise ConfigError(
                f"In {minutes:g} minutes this machine makes {steps} steps of {several}, which teach nothing; give at least {needed} minutes"
                + (", or train without cross-validation (0 folds)." if part.trainings > 1 else ".")
            )
        known = {**asked, "steps": steps, "steps_per_epoch": math.ceil(steps / validations), **asdict(pace)}
        if group.leads:
            write_text(folder / FILE, json.dumps(known, indent=1) + "\n")
    assert known is not None
    if not known["steps"]:
        return config
    several = f"for each of {part.trainings} trainings" if part.trainings > 1 else "for the training"
    events.log(f"A step takes {known['step_s']:.2g} s: {known['steps']} steps {several} instead of {whole}, to take {minutes:g} minutes in all.")
    if known["steps"] < FEW_STEPS:
        needed = math.ceil(_minutes_for(FEW_STEPS, Pace(known["step_s"], known["slice_s"]), part))
        events.log(f"{known['steps']} steps teach little; {FEW_STEPS} would take {needed} minutes.", "warning")
    return replace(config, steps=known["steps"], steps_per_epoch=known["steps_per_epoch"])


def steps_within(minutes: float, pace: Pace, part: Part) -> tuple[int, int]:
    """Steps of each training, and its validations: as many as take SHARE of the time, one to VALIDATIONS."""
    seconds = 60.0 * minutes / part.trainings
    each = part.validation_slices * pace.slice_s * part.validated / part.trainings  # the final training has none
    validations = max(1, min(VALIDATIONS, int(SHARE * seconds / each))) if each else VALIDATIONS
    return max(0, int((seconds - validations * each) / pace.step_s)), validations


def _minutes_for(steps: int, pace: Pace, part: Part) -> float:
    """So many that `steps_within` finds no fewer steps in them."""
    training, validation = part.trainings * steps * pace.step_s, part.validated * part.validation_slices * pace.slice_s
    return max(training / (1 - SHARE), training + validation) / 60.0


def _mean_pace(kinds: Sequence[TrainingConfig], base: ModelInfo | None, events: Events, group: Group, start: ModelInfo | None) -> Pace:
    stage = "measuring the pace"
    told = [Within(events, stage, number, 1, len(kinds), kind.what) for number, kind in enumerate(kinds)]
    paces = [
        measured_pace(effective(kind, base), None if kind.strategy == SCRATCH else base, one, group=group, start=start)
        for kind, one in zip(kinds, told, strict=True)
    ]
    return Pace(mean(pace.step_s for pace in paces), mean(pace.slice_s for pace in paces))


def measured_pace(
    config: TrainingConfig, base: ModelInfo | None, events: Events, *, group: Group | None = None, start: ModelInfo | None = None
) -> Pace:
    """Some steps and a validation on made-up slices: how long they take does not depend on what is in them. Every process of a group calls this, and
    all get what the slowest measured. config: as `runs.effective` makes it.
    """
    compute = choose_compute(config.device, config.precision)
    group = group or Group()
    with threads(config.threads), fixed_sizes(), tempfile.TemporaryDirectory(prefix="sahlora-pace-") as folder:
        cache = _made_up(config)
        nothing = SliceCache((), config.grid)
        loop = TrainingLoop(replace(config, steps=_WARMING + _TIMED), cache, nothing, base, Path(folder), Events(), compute, group, {}, start)
        loop.network.train()
        events.progress("pace", 0, _WARMING + _TIMED)
        for step in range(_WARMING + _TIMED):
            if step == _WARMING:
                began = _now(compute)
            if group.size == 1:
                events.check_cancel()
            loop.one_step(loop.batch(step))
            loop.step += 1
            events.progress("pace", step + 1, _WARMING + _TIMED)
        step_s = (_now(compute) - began) / _TIMED
        loop.network.eval()
        began = _now(compute)
        validate(loop.network, cache, compute, batch=config.batch)
        slice_s = (_now(compute) - began) / len(cache) / group.size
    slowest = torch.tensor([step_s, slice_s])
    if group.size > 1:
        slowest = torch.stack([group.add((slowest if group.rank == n else slowest * 0).to(compute.device)).cpu() for n in range(group.size)]).amax(0)
    return Pace(*(float(seconds) for seconds in slowest))


def _made_up(config: TrainingConfig) -> SliceCache:
    """A batch of slices of noise, each with some blood."""
    shape = (config.batch, *config.crop)
    hu = torch.randint(-20, 90, shape, generator=seeded(0), dtype=torch.int16)
    blood = torch.zeros(shape, dtype=torch.uint8)
    blood[:, : shape[1] // 2, : shape[2] // 8] = 255
    return SliceCache([CachedCase("made up", hu, blood, torch.full((len(hu),), 0.005))], config.grid)


def _now(compute: Compute) -> float:
    """Seconds, after all that was given to the device is done."""
    if compute.device.type == "cuda":
        torch.cuda.synchronize(compute.device)
    elif compute.device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def _settings(config: TrainingConfig, base: ModelInfo | None) -> str:
    """16 hexadecimal digits: a pace is of these settings and this base."""
    told = json.dumps([config.identity(), base.digest if base else None], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _read(folder: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was measured before for just this; None where nothing was, or for something else."""
    with contextlib.suppress(OSError, *DAMAGED):
        told = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if {name: told[name] for name in asked} == asked and all(told[name] >= 0 for name in ("steps", "steps_per_epoch", "step_s", "slice_s")):
            return dict(told)
    return None
