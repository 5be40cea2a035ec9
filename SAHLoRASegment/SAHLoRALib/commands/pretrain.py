"""``sahlora pretrain``."""

from __future__ import annotations

from dataclasses import dataclass, field
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


def run(arguments: Arguments, events: Events) -> int:
    """Returns 0. Raises SAHLoRAError."""
    if arguments.settings.strategy != "scratch":
        raise ConfigError(f"pretrain trains from scratch; for the strategy {arguments.settings.strategy} use: sahlora train.")
    return train_and_save("pretrain", arguments, arguments.settings, None, events)
