"""`TrainingConfig`: all settings of a training, checked. The command line's flags, Slicer's job file and the model's header are made from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from .adapters import AdapterConfig
from .augment import Augmentation
from .device import DEVICES, PRECISIONS
from .errors import ConfigError
from .loss import LOSSES
from .methods import FINE_TUNE, SCRATCH, default_rate
from .network import NetworkConfig
from .samples import DRAWN_BY
from .slices import PixelGrid
from .strategies import strategy_modules

SCHEDULES = ("cosine", "constant")

#: Settings that say how, not what: a checkpoint goes on when they differ.
_FREE = ("device", "threads", "memory_gb", "checkpoint_seconds")


def check_minutes(minutes: float | None) -> None:
    """Raise ConfigError for a time that is none; see `pace`."""
    if minutes is not None and (isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or not 0 < minutes < math.inf):
        raise ConfigError(f"minutes must be a number above 0, not {minutes!r}.")


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of `training.fit`."""

    strategy: str = "adapter"
    """adapter; scratch; or standard fine-tuning of all, encoder, multiview, bottleneck, decoder, head or a set such as decoder+head. Only the
    BatchNorms of fine-tuned modules follow the batches; all others keep the base's statistics."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """For the strategy adapter."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """For the strategy scratch; otherwise it is the base's."""
    grid: PixelGrid = field(default_factory=PixelGrid)
    """For the strategy scratch; otherwise it is the base's."""
    learning_rate: float | None = None
    """Adam's. Without it the method's own (`methods.default_rate`): more for adapters of few numbers (CP) than for fine-tuning."""
    schedule: str = "cosine"
    """cosine: rises over the first part warm_up of the steps and falls to a hundredth; constant: stays."""
    warm_up: float = 0.05
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.0
    """AdamW's."""
    clip: float = 1.0
    """Largest norm of the gradient, 0 for none."""
    ema: float = 0.999
    """Decay of the running average of the weights that is validated and kept, 0 for none."""
    epochs: int = 40
    """Passes over the slices with blood."""
    steps: int | None = None
    """Overrides epochs."""
    steps_per_epoch: int | None = None
    """Steps between validations, instead of one pass over the slices with blood."""
    batch: int = 8
    """Slices of a step, over all processes."""
    positive_share: float = 0.5
    """Share of them with blood."""
    draw_by: str = "slice"
    """How slices with blood are drawn: slice, each as often as any other; case, each case as often as any other, so that cases of little blood,
    which stands on few slices, count as much as in the mean over patients."""
    crop: tuple[int, int] = (208, 176)
    """Rows and columns of a training slice, network pixels."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random variation of the slices."""
    loss: str = "dice+ce"
    """dice+ce, dice or ce: soft Dice pooled over the batch, cross-entropy, or both. slices+ce: each slice's own soft Dice instead of the batch's, so
    that little blood counts as much as much, and false blood where there is none as much as either."""
    seed: int = 0
    """Of everything that is drawn."""
    precision: str = "auto"
    """auto, bf16 or float32; auto is bf16 where the hardware is faster in it."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), cuda, cuda:N, mps or cpu."""
    threads: int = 0
    """Of the CPU; 0 leaves PyTorch's choice."""
    patience: int = 10
    """Validations without a better Dice until the training stops, 0 for never."""
    validate_every: int = 1
    """Epochs from validation to validation."""
    memory_gb: float = 4.0
    """For cached slices; more than that is mapped from files."""
    checkpoint_seconds: float = 60.0
    """Between checkpoints, beside those at every epoch's end."""

    def __post_init__(self) -> None:
        if self.strategy not in ("scratch", "adapter"):
            strategy_modules(self.strategy)
        for name, known in (("schedule", SCHEDULES), ("draw_by", DRAWN_BY), ("loss", LOSSES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"Unknown {name} {getattr(self, name)!r}; known are {', '.join(known)}.")
        if self.device.partition(":")[0] not in DEVICES:
            raise ConfigError(f"Unknown device {self.device!r}; known are {', '.join(DEVICES)} and cuda:N.")
        ranges: dict[str, tuple[float, float]] = {
            "learning_rate": (1e-9, 10), "warm_up": (0, 0.9), "weight_decay": (0, 10), "clip": (0, 1e9), "ema": (0, 0.99999),
            "positive_share": (0, 1), "memory_gb": (0, 1e6), "checkpoint_seconds": (0, 1e9),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if name == "learning_rate" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise ConfigError(f"{name} must be a number between {low:g} and {high:g}, not {value!r}.")
        counts = {"epochs": 1, "batch": 1, "validate_every": 1, "seed": 0, "patience": 0, "threads": 0, "steps": 1, "steps_per_epoch": 1}
        for name, low in counts.items():
            value = getattr(self, name)
            if value is None and name in ("steps", "steps_per_epoch"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ConfigError(f"{name} must be a whole number of at least {low}, not {value!r}.")
        if len(self.crop) != 2 or not all(isinstance(n, int) and n >= 16 for n in self.crop):
            raise ConfigError(f"crop must be two whole numbers of at least 16, rows and columns, not {self.crop!r}.")
        object.__setattr__(self, "crop", tuple(self.crop))
        multiple = self.network.multiple
        if any(n % multiple for n in self.crop):
            raise ConfigError(f"crop must be a multiple of {multiple} for a network of {self.network.levels} levels, not {self.crop}.")
        if self.grid.multiple % multiple:
            object.__setattr__(self, "grid", replace(self.grid, multiple=math.lcm(self.grid.multiple, multiple)))

    def epoch_steps(self, positives: int) -> int:
        """Steps in an epoch: as they are set, else so many that each of the slices with blood is drawn once."""
        return self.steps_per_epoch or max(1, math.ceil(positives / (self.batch * self.positive_share or 1.0)))

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that learn or are adapted."""
        if self.strategy == "adapter":
            return self.adapter.modules
        return strategy_modules("all" if self.strategy == "scratch" else self.strategy)

    @property
    def what(self) -> str:
        """A few words for logs and tables."""
        if self.strategy == "adapter":
            return self.adapter.described
        return "from scratch" if self.strategy == "scratch" else f"fine-tuning {self.strategy}"

    @property
    def rate(self) -> float:
        """The learning rate that counts: the one that was given, else the method's own."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.strategy == "adapter":
            return default_rate(self.adapter.method)
        return default_rate(SCRATCH if self.strategy == SCRATCH else FINE_TUNE + self.strategy)

    def rate_at(self, step: int, total: int) -> float:
        """The learning rate of a step, counted from 0."""
        if self.schedule == "constant":
            return self.rate
        rise = max(1, round(self.warm_up * total))
        if step < rise:
            return self.rate * (step + 1) / rise
        fall = (step - rise) / max(1, total - rise)
        return self.rate * (0.01 + 0.99 * (1 + math.cos(math.pi * fall)) / 2)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON; see `from_dict`."""
        values = asdict(self)
        values |= {"adapter": self.adapter.as_dict(), "network": self.network.as_dict(), "crop": list(self.crop)}
        values["grid"] = asdict(self.grid) | {"window": list(self.grid.window)}
        return values

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with: all but the settings that say how."""
        values = {name: value for name, value in self.as_dict().items() if name not in _FREE} | {"learning_rate": self.rate}
        if self.draw_by == "slice":  # trainings from before there was a choice go on
            values.pop("draw_by")
        if self.strategy != "adapter":
            values.pop("adapter")
        elif self.adapter.strength == 1:  # trainings from before it could be another go on
            values["adapter"] = {name: value for name, value in values["adapter"].items() if name != "strength"}
        if self.augmentation.geometry is None:  # trainings from before it could be set go on
            values["augmentation"] = {name: value for name, value in values["augmentation"].items() if name != "geometry"}
        if not self.network.growth:  # trainings from before there was any go on
            values["network"] = {name: value for name, value in values["network"].items() if name != "growth"}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """The opposite of `as_dict`; what is left out keeps its default. Raises ConfigError for unknown or wrong entries."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"Unknown training setting {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
        given = dict(values)
        try:
            for name, kind in (("network", NetworkConfig), ("grid", PixelGrid), ("augmentation", Augmentation)):
                if isinstance(given.get(name), Mapping):
                    given[name] = kind(**given[name])
            if isinstance(given.get("adapter"), Mapping):
                given["adapter"] = AdapterConfig.from_dict(given["adapter"])
            if "crop" in given:
                given["crop"] = tuple(given["crop"])
            return cls(**given)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"A training setting is of the wrong kind: {error}.") from error
