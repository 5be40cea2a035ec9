"""`StudyConfig`: which methods, ranks and folds a study compares, on which cases; from flags or from a small YAML or JSON file.

    cases: cases.csv
    base: tbi-base
    methods: [zero-shot, all, decoder, lora-c, cp-lora]
    ranks: [2, 8, 32]
    learning_rates: {cp-lora: 0.005, all: 0.0003}
    training: {epochs: 20, batch: 8, augmentation: {kind: laboratory}}
    variants:
      - {label: cp-lora of the decoder, strategy: adapter, adapter: {method: cp-lora, rank: 8, modules: [decoder]}}

Paths are relative to the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import tyro

from .adapters import METHODS, AdapterConfig
from .errors import DAMAGED, ConfigError, one_line
from .evaluation import check_edges
from .runs import ZERO_SHOT
from .segmenter import DEFAULT_MODEL
from .statistics import RESAMPLES
from .strategies import STRATEGIES, strategy_modules
from .training_config import TrainingConfig, check_minutes

#: The paper's comparison.
PAPER = (ZERO_SHOT, *STRATEGIES, "lora-c", "conv-lora", "cp-lora", "dora-c", "conv-dora", "cp-dora")


@dataclass(frozen=True)
class Pretraining:
    """Of the study's own base, from scratch. cases: table or folder. validation: share of the patients that choose weights and threshold."""

    cases: Path
    validation: float = 0.1
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(strategy="scratch"))

    def __post_init__(self) -> None:
        if isinstance(self.validation, bool) or not isinstance(self.validation, (int, float)) or not 0 <= self.validation <= 0.5:
            raise ConfigError(f"The validation share of the pretraining must lie between 0 and 0.5, not {self.validation!r}.")
        if self.training.strategy != "scratch":
            raise ConfigError(f"A pretraining trains from scratch, not {self.training.what}; leave its strategy out.")

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"cases": str(self.cases), "validation": self.validation, "training": self.training.as_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], folder: Path | None = None) -> Pretraining:
        """folder: what the path of the cases is relative to. Raises ConfigError."""
        unknown = sorted(str(key) for key in set(values) - {f.name for f in fields(cls)})
        if unknown or "cases" not in values:
            what = f"Unknown setting {one_line(', '.join(unknown))}" if unknown else "No cases are named"
            raise ConfigError(f"{what} in the study's pretraining; it has cases, validation and training.")
        given = dict(values)
        given["cases"] = (folder or Path()) / os.path.expanduser(str(given["cases"]))
        given["training"] = TrainingConfig.from_dict(_merged(TrainingConfig(strategy="scratch").as_dict(), given.get("training") or {}))
        return cls(**given)


@dataclass(frozen=True)
class StudyConfig:
    """What is compared."""

    cases: Path = Path("cases.csv")
    """cases.csv (case, image, mask, patient, site), or a folder of cases. Rows with the split test are left out."""
    output: Path = Path("study")
    """Folder for runs, tables, figures and report.md."""
    base: str = DEFAULT_MODEL
    """Name or file of the model that is fine-tuned."""
    methods: tuple[str, ...] = PAPER
    """zero-shot; adapters; modules for standard fine-tuning, such as decoder or decoder+head; scratch."""
    ranks: tuple[int, ...] = (8,)
    """Of every adapter."""
    folds: int = 3
    """Of the cross-validation, by patient."""
    folds_file: Path | None = None
    """folds.json that says which patient is in which fold, such as the paper cohort's, which keeps all patients of a head together; without it
    the folds are stratified by volume."""
    validation: float = 0.2
    """Share of a fold's training patients held out for early stopping and the threshold; 0 for none."""
    reference: str = ""
    """What all others are tested against: a label or a method; without it fine-tuning of all, else zero-shot."""
    edges: tuple[float, ...] = ()
    """mL between the volume strata; without them the tertiles of the annotated volumes."""
    learning_rates: dict[str, float] = field(default_factory=dict)
    """For single methods, such as: cp-lora 0.005 all 0.0003; the others take the learning rate of the training, or without it each its own."""
    zero_shot_threshold: bool = True
    """Show zero-shot a second time with a threshold chosen on each fold's validation patients, as the fine-tuned networks choose theirs: what they
    gain over that is not the threshold's."""
    minutes: float | None = None
    """Time for all trainings together, as of sahlora train: fewer steps than the training says where they would take longer on this machine, the
    same for all methods. How many is measured once and kept in the output folder (pace.json), also when the study is extended. Pre-training comes on
    top."""
    segment: str | None = None
    """Which segment or label is haemorrhage, where a row does not say."""
    resamples: int = RESAMPLES
    """Of the bootstrap."""
    variants: tyro.conf.Suppress[tuple[dict[str, Any], ...]] = ()
    """From a file only: runs with settings and a label of their own."""
    pretraining: tyro.conf.Suppress[Pretraining | None] = None
    """From a file only: the base is trained from scratch on these cases first, and takes the place of `base`."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How all are trained."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "methods", tuple(dict.fromkeys(_method(name) for name in self.methods)))
        object.__setattr__(self, "learning_rates", {_method(name): rate for name, rate in self.learning_rates.items()})
        if not self.methods and not self.variants:
            raise ConfigError("A study needs at least one method.")
        if not self.ranks or any(isinstance(r, bool) or not isinstance(r, int) for r in self.ranks):
            raise ConfigError(f"ranks must be whole numbers of at least 1, not {self.ranks!r}.")
        for rank in self.ranks:
            AdapterConfig(rank=rank)
        object.__setattr__(self, "ranks", tuple(sorted(set(self.ranks))))
        if isinstance(self.folds, bool) or not isinstance(self.folds, int) or self.folds < 2:
            raise ConfigError(f"A study needs at least 2 folds, not {self.folds!r}.")
        if not isinstance(self.validation, (int, float)) or not 0 <= self.validation < 1:
            raise ConfigError(f"validation must be 0 (none) or a share below 1, not {self.validation!r}.")
        if not isinstance(self.resamples, int) or self.resamples < 1:
            raise ConfigError(f"resamples must be a whole number of at least 1, not {self.resamples!r}.")
        check_edges(self.edges or None)
        check_minutes(self.minutes)
        stray = sorted(set(self.learning_rates) - set(self.methods))
        if stray:
            raise ConfigError(f"learning_rates names {', '.join(stray)}, which is not among the methods.")
        default = AdapterConfig()
        if (self.training.strategy, self.training.adapter.method, self.training.adapter.rank) != ("adapter", default.method, default.rank):
            raise ConfigError("A study takes strategy, method and rank from methods and ranks; leave them out of the training.")
        self.configurations()

    def configurations(self) -> list[tuple[str, int, str, TrainingConfig, bool]]:
        """(method, rank, label, settings, whether it is a variant), in the order of the study. Raises ConfigError."""
        found: list[tuple[str, int, str, TrainingConfig, bool]] = []
        for method in self.methods:
            shared = replace(self.training, learning_rate=self.learning_rates.get(method, self.training.learning_rate))
            if method in METHODS:
                for rank in self.ranks:
                    config = replace(shared, strategy="adapter", adapter=replace(self.training.adapter, method=method, rank=rank))
                    found.append((method, rank, f"{method}, rank {rank}", config, False))
            elif method == ZERO_SHOT:
                found.append((method, 0, ZERO_SHOT, self.training, False))
            else:
                label = "from scratch" if method == "scratch" else f"fine-tuning {method}"
                found.append((method, 0, label, replace(shared, strategy=method), False))
        for entry in self.variants:
            values = dict(entry)
            label = str(values.pop("label", ""))
            if not label:
                raise ConfigError(f"Every variant of a study needs a label, unlike {json.dumps(entry)}.")
            config = TrainingConfig.from_dict(_merged(self.training.as_dict(), values))
            adapted = config.strategy == "adapter"
            found.append((config.adapter.method if adapted else config.strategy, config.adapter.rank if adapted else 0, label, config, True))
        labels = [label for _, _, label, _, _ in found]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice:
            raise ConfigError(f"Two runs of the study are called {twice!r}; give the variant another label.")
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON; `from_dict` reads it."""
        values = asdict(self) | {"training": self.training.as_dict(), "cases": str(self.cases), "output": str(self.output)}
        values["pretraining"] = self.pretraining.as_dict() if self.pretraining else None
        values["folds_file"] = str(self.folds_file) if self.folds_file else None
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], folder: Path | None = None) -> StudyConfig:
        """Settings by name, what is left out keeps its default. folder: what paths are relative to. Raises ConfigError."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(str(key) for key in set(values) - known)
        if unknown:
            raise ConfigError(f"Unknown study setting {one_line(', '.join(unknown))}; known are {', '.join(sorted(known))}.")
        given = {key: value for key, value in values.items() if value is not None}
        try:
            for name in ("cases", "output", "folds_file"):
                if name in given:
                    given[name] = (folder or Path()) / os.path.expanduser(str(given[name]))
            if folder is not None and any(mark in str(given.get("base", "")) for mark in {"/", os.sep}):
                given["base"] = str(folder / os.path.expanduser(str(given["base"])))
            for name in ("methods", "ranks", "edges", "variants"):
                if name in given:
                    items = given[name]
                    given[name] = tuple(items) if isinstance(items, (list, tuple)) else (items,)
            if "edges" in given:
                given["edges"] = tuple(float(e) for e in given["edges"])
            if "learning_rates" in given:
                given["learning_rates"] = {str(k): float(v) for k, v in given["learning_rates"].items()}
            if isinstance(given.get("pretraining"), Mapping):
                given["pretraining"] = Pretraining.from_dict(given["pretraining"], folder)
            if isinstance(given.get("training"), Mapping):
                given["training"] = TrainingConfig.from_dict(_merged(TrainingConfig().as_dict(), given["training"]))
            return cls(**given)
        except DAMAGED as error:
            raise ConfigError(f"A setting of the study is of the wrong kind: {one_line(error)}.") from error

    @classmethod
    def read(cls, path: Path) -> StudyConfig:
        """A YAML or JSON file. Raises ConfigError."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"The study's file {path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
        try:
            if path.suffix.lower() == ".json":
                content = json.loads(text)
            else:
                import yaml

                content = yaml.safe_load(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"The study's file {path} is neither YAML nor JSON: {one_line(error)}.") from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] != "yaml":
                raise
            raise ConfigError(f"The study's file {path} is not YAML: {' '.join(str(error).split())}.") from error
        if not isinstance(content, dict):
            raise ConfigError(f"The study's file {path} must hold settings by name, such as methods: [all, cp-lora].")
        return cls.from_dict(content, path.parent)


def _method(name: str) -> str:
    """The spelling of this program: LoRA-C becomes lora-c. Raises ConfigError for what is no method."""
    text = str(name).strip().lower()
    if text in (ZERO_SHOT, "zeroshot", "none"):
        return ZERO_SHOT
    if text == "scratch":
        return text
    try:
        return AdapterConfig(method=text).method
    except ConfigError:
        pass
    try:
        strategy_modules(text)
    except ConfigError as error:
        known = ", ".join((ZERO_SHOT, *METHODS, *STRATEGIES, "scratch"))
        raise ConfigError(f"Unknown method {name!r}; known are {known}, and sets of modules such as decoder+head.") from error
    return text.replace(",", "+").replace(" ", "")


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """values with changes, also of what lies deeper."""
    merged = dict(values)
    for key, value in changes.items():
        deeper = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if deeper else value
    return merged
