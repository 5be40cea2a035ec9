"""Where models lie, and what the header of a weight file says; all of it without torch, so that Slicer has its lists before anything is installed.

`weights` reads and checks a whole file, `catalogue` has the models as objects; both take folders and names from here.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import DAMAGED, ConfigError, ModelError

SUFFIX = ".safetensors"
KINDS = ("base", "finetuned", "adapter")
#: The one key of the file's metadata: JSON with everything about the model.
METADATA_KEY = "sahlora"

#: Bytes; safetensors itself refuses longer headers.
_LONGEST_HEADER = 100_000_000
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def bundled_folders() -> list[Path]:
    """Where the bundled models lie, of the places that exist: in the wheel, in a Slicer extension, in the source tree."""
    here = Path(__file__).resolve()
    places = [here.parent / "Models", here.parents[1] / "Resources" / "Models", here.parents[2] / "Resources" / "Models"]
    return [place for place in places if place.is_dir()]


def user_folder(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """The user's model folder, which need not exist yet: SAHLORA_MODELS if it is set, else the platform's place for an application's data."""
    if chosen := environment.get("SAHLORA_MODELS"):
        return Path(os.path.expanduser(chosen))
    if platform == "win32":
        data = Path(environment.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif platform == "darwin":
        data = Path.home() / "Library" / "Application Support"
    else:
        data = Path(environment.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "SAHLoRA" / "models"


def model_folders() -> list[Path]:
    """The bundled models' folders, then the user's: of two models of one name the first counts."""
    return [*bundled_folders(), user_folder()]


def model_path(folder: Path | str, name: str) -> Path:
    """Where a model of this name lies in a folder. Raises ConfigError for names that are no plain file names."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or name.endswith(".") or _WINDOWS_DEVICES.fullmatch(name):
        raise ConfigError(f"{name!r} cannot be a model's name; use letters, digits, dots, dashes and underscores, at most 100.")
    return Path(folder) / f"{name}{SUFFIX}"


def model_name(path: Path | str) -> str:
    """The name of a model: its file's name without the suffix."""
    return Path(path).name.removesuffix(SUFFIX)


def model_files(folders: Sequence[Path] | None = None) -> list[Path]:
    """All weight files, folder by folder, by name. Files that are being written start with a dot (`files.replacing`) and are left out."""
    seen: dict[Path, Path] = {}
    for folder in model_folders() if folders is None else folders:
        for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else ():
            if not path.name.startswith("."):
                seen.setdefault(path.resolve(), path)
    return list(seen.values())


def read_header(path: Path | str) -> dict[str, Any]:
    """What a weight file says about itself: kind, digest, network, adapter, base_digest, base_name, training, metrics … The tensors are not read.

    safetensors begins with the length of its header (8 bytes, little endian) and the header as JSON. Raises ModelError for whatever is no weight file
    of SAHLoRA; whether the rest of the file is whole, `weights.read_info` knows.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_LONGEST_HEADER, path.stat().st_size):
                raise ValueError("no header")
            header = json.loads(json.loads(file.read(length))["__metadata__"][METADATA_KEY])
        if header["kind"] not in KINDS or not isinstance(header["digest"], str):
            raise ValueError(f"kind {header['kind']!r}")
        return dict(header)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
    except DAMAGED as error:
        raise ModelError(f"{path.name} is not a weight file of SAHLoRA, or it is damaged ({type(error).__name__}); copy it again.") from error


def is_bundled(path: Path | str) -> bool:
    """Whether a weight file came along with SAHLoRA."""
    return Path(path).resolve().parent in [folder.resolve() for folder in bundled_folders()]
