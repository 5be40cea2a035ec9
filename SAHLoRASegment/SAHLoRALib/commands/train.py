"""``sahlora train``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from ..errors import ConfigError
from ..events import Events
from ..training_config import TrainingConfig
from .fitting import TrainingArguments, train_and_save

DETAILS = (TrainingConfig.__doc__ or "",)


@dataclass(frozen=True, kw_only=True)
class Arguments(TrainingArguments):
    """Adapt a base to your own annotated cases, with an adapter or by standard fine-tuning. Stopped, the same command goes on; it ends with a model
    in your model folder, ready for: sahlora segment.

    On several GPUs: torchrun --nproc-per-node 4 -m SAHLoRALib train ...
    """

    base: str = ""
    """Name or file of the base; without it the default model."""
    settings: Annotated[TrainingConfig, tyro.conf.arg(name="")] = field(default_factory=TrainingConfig)
    """How it is trained."""


def run(arguments: Arguments, events: Events) -> int:
    """Returns 0. Raises SAHLoRAError."""
    if arguments.settings.strategy == "scratch":
        raise ConfigError("train adapts a base; to train one from scratch use: sahlora pretrain.")
    from ..catalogue import Catalogue
    from ..segmenter import DEFAULT_MODEL

    base = Catalogue().find(arguments.base or DEFAULT_MODEL, "base")
    return train_and_save("train", arguments, arguments.settings, base, events)
