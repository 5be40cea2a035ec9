"""The models at hand as cards for a panel, read without torch, so that the list is there before anything is installed.

Folders and headers are read by `SAHLoRALib.model_folders`; `SAHLoRALib.catalogue`, which needs torch, is the whole of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from SAHLoRALib.errors import DAMAGED, ModelError, OutputError
from SAHLoRALib.files import replacing
from SAHLoRALib.measured import headline
from SAHLoRALib.model_folders import KINDS, bundled_folders, model_files, model_folders, model_name, read_header, user_folder


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
        return model_name(self.path)

    def in_words(self) -> str:
        """A line: what it is, what it was trained on, what was measured."""
        what = {"base": "A whole network", "finetuned": "A fine-tuned network"}.get(self.kind, "")
        if self.adapter:
            method, rank, strength = self.adapter.get("method", "?"), self.adapter.get("rank", "?"), self.adapter.get("strength", 1.0)
            kind = f"{method}, rank {rank}" + ("" if strength == 1.0 else f", strength {strength}")
            what = f"An adapter ({kind}) of {self.base_name or 'its base'}"
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


def read_card(path: Path) -> ModelCard:
    """The card of one file; with a problem in words where it cannot be used."""
    try:
        header = read_header(path)
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
    except ModelError as error:
        return ModelCard(path, problem=str(error))
    except DAMAGED as error:
        return ModelCard(path, problem=f"{path.name} is not a weight file of SAHLoRA, or it is damaged ({type(error).__name__}); copy it again.")


def list_models(folders: Sequence[Path] | None = None) -> tuple[list[ModelCard], list[str]]:
    """Usable models (bases, fine-tuned networks, adapters, by name), and a sentence for each file that is not."""
    found: dict[str, ModelCard] = {}
    problems = []
    for path in model_files(model_folders() if folders is None else folders):
        card = read_card(path)
        if card.problem:
            problems.append(card.problem)
        else:
            found.setdefault(card.name, card)
    return sorted(found.values(), key=lambda card: (KINDS.index(card.kind), card.name.lower())), problems


def import_model(path: Path, folder: Path | None = None) -> ModelCard:
    """Copy a weight file into the user's folder. Raises ValueError, in words, where it is none or the name is taken by another."""
    card = read_card(path)
    if card.problem:
        raise ValueError(card.problem)
    namesake = next((read_card(other) for other in model_files(bundled_folders()) if model_name(other) == card.name), None)
    if namesake is not None and namesake.digest != card.digest:
        raise ValueError(f"A model with the name {card.name} comes with SAHLoRA and would be taken instead; rename the file and import it again.")
    folder = folder or user_folder()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / path.name
    if target.exists() and target.resolve() != path.resolve() and read_card(target).digest != card.digest:
        raise ValueError(f"Another model with the name {card.name} is in {folder} already; rename the file and import it again.")
    if not target.exists():
        try:
            with replacing(target) as partial:
                shutil.copyfile(path, partial)
        except OutputError as error:
            raise ValueError(str(error)) from error
    return read_card(target)
