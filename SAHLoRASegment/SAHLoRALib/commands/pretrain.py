"""``sahlora pretrain``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from ..errors import ConfigError
from ..events import Events
from ..training_config import TrainingConfig
from .fitting import TrainingArguments, train_and_save


@dataclass(frozen=True, kw_only=True)
class Arguments(TrainingArguments):
    """Train a base network from scratch on annotated head CT. Stopped, the same command goes on; it ends with a model in your model folder.

    On several GPUs: torchrun --nproc-per-node 4 -m -- SAHLoRALib pretrain ...
    """

    settings: Annotated[TrainingConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: TrainingConfig(strategy="scratch"))
    """How it is trained."""
    start: str | None = None
    """Go on from this base (a name or a file) instead of from scratch; where --network.width or --network.growth ask for more channels than it has,
    it is widened first and computes the same until it learns."""


def run(arguments: Arguments, events: Events) -> int:
    """Returns 0. Raises SAHLoRAError."""
    if arguments.settings.strategy != "scratch":
        raise ConfigError(f"pretrain trains from scratch; for the strategy {arguments.settings.strategy} use: sahlora train.")
    settings, start = arguments.settings, None
    if arguments.start:
        from ..catalogue import Catalogue

        start = Catalogue().find(arguments.start, "base")
        settings = replace(settings, grid=start.grid)
    return train_and_save("pretrain", arguments, settings, None, events, start)
