"""Training: pre-train a base, fine-tune named modules, or train an adapter, with one configuration and one loop.

result = fit(TrainingConfig(strategy="adapter"), train_cases, validation_cases, base, folder)
save_model(result, "asah-cp-lora.safetensors")
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .device import choose_compute, fixed_sizes, threads
from .errors import CaseError, ConfigError
from .events import Events
from .files import alone
from .parallel import Group, process_group
from .samples import Readable, SliceCache
from .training_config import TrainingConfig
from .training_loop import TrainingLoop
from .training_result import FitResult, save_model
from .weights import ModelInfo

__all__ = ["FitResult", "TrainingConfig", "fit", "save_model"]


def fit(
    config: TrainingConfig,
    train_cases: SliceCache | Iterable[Readable],
    validation_cases: SliceCache | Iterable[Readable] = (),
    base: ModelInfo | None = None,
    folder: Path | str = "run",
    events: Events | None = None,
    *,
    resume: bool = True,
    context: Mapping[str, Any] | None = None,
    start: ModelInfo | None = None,
    limit: Callable[[TrainingConfig, SliceCache, SliceCache, Group], TrainingConfig] | None = None,
) -> FitResult:
    """Train; the state lies in `folder`, and the same call goes on from there (resume=False starts anew).

    train_cases, validation_cases: cases as `samples.SliceCache.read` takes them, or caches on the base's grid. base: needed for every strategy but
    "scratch". context: goes with the metric events (run, fold). start: what the training goes on from, an adapter of the same
    configuration on the same base, or for "scratch" a whole network, made wider where the configuration asks for more channels. limit: changes the
    number of steps once the cases are read (`pace.within_minutes`).
    Under torchrun every process calls this with the same cases.

    Raises ConfigError, CaseError, ModelError; SAHLoRAError when the loss is not a number; Cancelled after a checkpoint.
    """
    events = events or Events()
    config = replace(config, learning_rate=config.rate)  # as it is told in checkpoint and header
    if config.strategy == "scratch":
        base = None
    elif base is None:
        raise ConfigError(f"The strategy {config.strategy} fine-tunes a base, but none was given; name one, or use the strategy scratch.")
    else:
        config = replace(config, network=base.network, grid=base.grid)
    if start is not None and config.strategy == "scratch" and start.stands_alone:
        config = replace(config, grid=start.grid)
    elif start is not None and (config.strategy != "adapter" or start.adapter != config.adapter):
        raise ConfigError(f"Only {start.adapter or 'another network'} can go on from {start.name}, not {config.what}.")
    compute = choose_compute(config.device, config.precision)
    backend = "nccl" if compute.device.type == "cuda" else "gloo"
    with threads(config.threads), fixed_sizes(), process_group(backend) as group, alone(folder, group.leads):
        if config.batch % group.size:
            raise ConfigError(f"The batch of {config.batch} slices cannot be spread over {group.size} processes; use a multiple.")
        if not group.leads:
            events = Events()
        events.log(compute.reason + (f" {group.size} processes share the batch." if group.size > 1 else ""))
        spill = Path(folder) / f"slices-{group.rank}"
        try:
            train = _cached(train_cases, config, spill, events, "reading training cases")
            validation = _cached(validation_cases, config, spill, events, "reading validation cases")
            train.require_blood()
            if limit is not None:
                config = limit(config, train, validation, group)
            loop = TrainingLoop(config, train, validation, base, Path(folder), events, compute, group, dict(context or {}), start)
            if resume:
                loop.restore()
            return loop.train_all()
        finally:
            shutil.rmtree(spill, ignore_errors=True)


def _cached(cases: SliceCache | Iterable[Readable], config: TrainingConfig, spill: Path, events: Events, stage: str) -> SliceCache:
    if not isinstance(cases, SliceCache):
        return SliceCache.read(cases, config.grid, memory_gb=config.memory_gb, spill=spill, events=events, stage=stage)
    if cases.grid != config.grid:
        raise CaseError(f"The slices are on the grid {cases.grid}, the network works on {config.grid}; read the cases again.")
    return cases
