"""The state of an unfinished training in one file: tensors as safetensors, everything else as JSON in its header. Nothing is pickled.

The file is replaced as a whole, so a kill at any moment leaves the one before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .errors import DAMAGED, ConfigError, ModelError, one_line
from .files import replacing

FORMAT_VERSION = 1
FILE_NAME = "checkpoint.safetensors"
_KEY = "sahlora_checkpoint"


def write_checkpoint(folder: Path | str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write the file into the run's folder. state: plain JSON. Raises OutputError."""
    import safetensors.torch

    path = Path(folder) / FILE_NAME
    header = json.dumps({"format_version": FORMAT_VERSION, **state})
    content = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata={_KEY: header})
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def read_checkpoint(folder: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors on the CPU and state; None where the folder has no checkpoint. Raises ModelError where the file cannot be used."""
    from safetensors import SafetensorError, safe_open

    path = Path(folder) / FILE_NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})[_KEY])
            # Copies: what still points into the file keeps it open, and Windows then lets nobody replace it.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        version = state["format_version"]
    except (SafetensorError, OSError, *DAMAGED) as error:
        raise ModelError(f"The checkpoint {path} is damaged ({one_line(error)}); delete it to start the training anew.") from error
    if version != FORMAT_VERSION:
        raise ModelError(f"The checkpoint {path} is of another version of SAHLoRA; delete it to start the training anew.")
    return tensors, state


def check_same_training(folder: Path | str, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ConfigError, naming the first difference, when a checkpoint belongs to another training. Both: plain JSON, nested."""
    difference = _difference(saved, json.loads(json.dumps(now)), "")
    if difference:
        name, before, after = difference
        raise ConfigError(
            f"The checkpoint in {folder} belongs to another training: {name} was {before}, and is {after} now. Choose another folder, or "
            f"delete {FILE_NAME} there to start anew."
        )


def _difference(saved: Any, now: Any, name: str) -> tuple[str, Any, Any] | None:
    if isinstance(saved, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*now, *saved]):
            found = _difference(saved.get(key), now.get(key), key if name in ("", "config") else f"{name}.{key}")
            if found:
                return found
        return None
    return None if saved == now else (name, saved, now)
