"""Where a trained model goes, decided before any work is done: never over another training's model, and never in the way of one that comes with
SAHLoRA unless the folder is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .errors import ConfigError, SAHLoRAError
from .model_folders import bundled_folders, model_path, user_folder
from .training_config import TrainingConfig
from .weights import ModelInfo, read_info


def model_target(folder: Path | None, name: str) -> Path:
    """The file of the model. folder: None for the user's own model folder.

    Raises ConfigError for a name that is no file name, and for the name of a bundled model: in the user's folder it would never be found, since the
    bundled one of that name counts first. In any other folder that is named (so that the bundled models themselves can be made) every name is good.
    """
    path = model_path(folder or user_folder(), name)
    apart = folder is not None and folder.resolve() != user_folder().resolve()
    if not apart and any(model_path(place, name).exists() for place in bundled_folders() if place.resolve() != path.parent.resolve()):
        raise ConfigError(f"A model {name} comes with SAHLoRA and would be found instead; choose another name, or name another folder with --folder.")
    return path


def check_free(path: Path) -> None:
    """Raise ConfigError where a model lies at `path`."""
    if path.exists():
        raise ConfigError(f"There is a model {path} already; choose another name or remove it.")


def check_own(path: Path, config: TrainingConfig, base: ModelInfo | None, *, free: Sequence[str] = (), start: ModelInfo | None = None) -> None:
    """Raise ConfigError where another training's model lies at `path`: one of other settings, of another base, or gone on from another adapter.

    config: as `fit` runs it, with the base's network and grid. free: settings that may differ, as the number of steps that follows from a
    cross-validation or from the minutes that it was given.
    """
    if not path.exists():
        return
    taken = f"There is a model {path} already, of another training; choose another name or remove it."
    try:
        kept = read_info(path)
        theirs = TrainingConfig.from_dict(kept.training["config"])
    except (SAHLoRAError, KeyError, TypeError) as error:
        raise ConfigError(taken) from error
    theirs = replace(theirs, **{name: getattr(config, name) for name in free})
    before = (kept.training.get("continued_from") or {}).get("digest")
    if before != (start.digest if start else None) or kept.base_digest != (base.digest if base else None) or theirs.identity() != config.identity():
        raise ConfigError(taken)
