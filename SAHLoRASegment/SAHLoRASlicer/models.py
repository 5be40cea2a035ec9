"""The models at hand, read without torch, so that the list is there before anything is installed. `SAHLoRALib.catalogue` is the whole of it.

Only the headers of the weight files are read: safetensors begins with the length of its header (8 bytes, little endian) and the header as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from SAHLoRALib.measured import headline

SUFFIX = ".safetensors"
_LONGEST_HEADER = 100_000_000
_ORDER = ("base", "finetuned", "adapter")


@dataclass(frozen=True)
class ModelCard:
    """What a weight file's header says; problem: why it cannot be used, else empty."""

    path: Path
    kind: str = ""
    digest: str = ""
    base_digest: str = ""
    base_name: str = ""
    threshold: float = 0.5
    description: str = ""
    licence: str = ""
    date: str = ""
    adapter: Mapping[str, Any] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(SUFFIX)

    def in_words(self) -> str:
        """A line: what it is, what it was trained on, what was measured."""
        what = {"base": "A whole network", "finetuned": "A fine-tuned network"}.get(self.kind, "")
        if self.adapter:
            method, rank = self.adapter.get("method", "?"), self.adapter.get("rank", "?")
            what = f"An adapter ({method}, rank {rank}) of {self.base_name or 'its base'}"
        cases = self.training.get("cases")
        number = len(cases) if isinstance(cases, (list, tuple)) else cases
        trained = f"trained on {number} cases" if number else ""
        measured = self._measured()
        first = ", ".join(part for part in (what, trained, measured, self.date[:10]) if part)
        return f"{first}. {self.description}".strip()

    def _measured(self) -> str:
        """Dice on cases that training never saw where there is such a figure, else on those that it was chosen by."""
        found = headline(self.metrics)
        return f"Dice {found[0]:.2f} {found[1]}".strip() if found else "not measured"


def model_folders() -> list[Path]:
    """The bundled models' folders that exist, then the user's; as in `SAHLoRALib.catalogue`, which needs torch."""
    packages = Path(__file__).resolve().parents[1]
    bundled = [packages / "Resources" / "Models", packages.parent / "Resources" / "Models"]
    return [*(folder for folder in bundled if folder.is_dir()), user_folder()]


def user_folder(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Where a user's own models lie; need not exist yet."""
    if chosen := environment.get("SAHLORA_MODELS"):
        return Path(chosen).expanduser()
    if platform == "win32":
        data = Path(environment.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif platform == "darwin":
        data = Path.home() / "Library" / "Application Support"
    else:
        data = Path(environment.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "SAHLoRA" / "models"


def read_card(path: Path) -> ModelCard:
    """The card of one file; with a problem in words where it cannot be used."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_LONGEST_HEADER, path.stat().st_size):
                raise ValueError("no header")
            header = json.loads(json.loads(file.read(length))["__metadata__"]["sahlora"])
        if header["kind"] not in _ORDER:
            raise ValueError(f"kind {header['kind']!r}")
        return ModelCard(
            path=path,
            kind=header["kind"],
            digest=header["digest"],
            base_digest=header.get("base_digest") or "",
            base_name=header.get("base_name") or "",
            threshold=float(header["threshold"]),
            description=str(header.get("description", "")),
            licence=str(header.get("licence", "")),
            date=str(header.get("date", "")),
            adapter=header.get("adapter"),
            training=dict(header.get("training") or {}),
            metrics=dict(header.get("metrics") or {}),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return ModelCard(path, problem=f"{path.name} is not a weight file of SAHLoRA, or it is damaged ({type(error).__name__}).")


def list_models(folders: Sequence[Path] | None = None) -> tuple[list[ModelCard], list[str]]:
    """Usable models (bases, fine-tuned networks, adapters, by name), and a sentence for each file that is not."""
    found: dict[str, ModelCard] = {}
    problems = []
    for folder in model_folders() if folders is None else folders:
        for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []:
            if path.name.startswith("."):
                continue
            card = read_card(path)
            if card.problem:
                problems.append(card.problem)
            else:
                found.setdefault(card.name, card)
    return sorted(found.values(), key=lambda card: (_ORDER.index(card.kind), card.name.lower())), problems


def import_model(path: Path, folder: Path | None = None) -> ModelCard:
    """Copy a weight file into the user's folder. Raises ValueError, in words, where it is none or the name is taken by another."""
    card = read_card(path)
    if card.problem:
        raise ValueError(card.problem)
    folder = folder or user_folder()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / path.name
    if target.exists() and target.resolve() != path.resolve() and read_card(target).digest != card.digest:
        raise ValueError(f"Another model with the name {card.name} is in {folder} already; rename the file and import it again.")
    if not target.exists():
        partial = folder / f".{path.name}"
        shutil.copyfile(path, partial)
        os.replace(partial, target)
    return read_card(target)
