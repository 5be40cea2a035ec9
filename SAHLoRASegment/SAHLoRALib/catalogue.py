"""The models at hand: those that come with SAHLoRA, and those in the user's folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from .errors import ModelError
from .model_folders import SUFFIX, bundled_folders, model_files, user_folder
from .weights import ModelInfo, check_belongs, read_info

__all__ = ["Catalogue", "bundled_folders", "user_folder"]


class Catalogue:
    """All readable models in some folders; by default the bundled ones and the user's.

    Folders are looked through anew at every call (headers only), so a model that was just trained is there at once. Where two folders hold models of
    one name, the earlier folder's counts, and the other is named among the problems; its path finds it.
    """

    def __init__(self, folders: Iterable[Path | str] | None = None) -> None:
        self.folders = [*bundled_folders(), user_folder()] if folders is None else [Path(folder) for folder in folders]

    def models(self) -> list[ModelInfo]:
        """Bases, then fine-tuned networks, then adapters, by name."""
        return self._read()[0]

    def problems(self) -> list[str]:
        """A sentence for each file that is there and cannot be used."""
        return self._read()[1]

    def find(self, name_or_path: str | Path, kind: str | None = None) -> ModelInfo:
        """A model by name, or any weight file by its path.

        kind: "adapter", "base" (a whole network, also a fine-tuned one) or None for either. Raises ModelError, naming the models that there are.
        """
        info = self._find(name_or_path)
        if kind == "adapter" and info.stands_alone:
            raise ModelError(f"{info.name} is not an adapter but a whole network ({info.kind}). {self._known(kind)}")
        if kind == "base" and not info.stands_alone:
            raise ModelError(f"{info.name} is an adapter, not a base. {self._known(kind)}")
        return info

    def base_of(self, adapter: ModelInfo) -> ModelInfo:
        """The base that an adapter was trained on, beside the adapter's file or else in the catalogue. Raises ModelError when it is not at hand."""
        beside = Catalogue([adapter.path.parent]).models()
        for model in [*beside, *self.models()]:
            if model.stands_alone and model.digest == adapter.base_digest:
                return model
        named = next((m for m in [*self.models(), *beside] if m.stands_alone and m.name == adapter.base_name), None)
        if named is not None:
            check_belongs(adapter, named)
        raise ModelError(
            f"The base {adapter.base_name or 'with the digest'} ({(adapter.base_digest or '')[:12]}) of the adapter {adapter.name} is not at hand; "
            f"put its weight file into {self.folders[-1] if self.folders else adapter.path.parent}."
        )

    def _find(self, name_or_path: str | Path) -> ModelInfo:
        text = os.fspath(name_or_path)
        if text.endswith(SUFFIX) or any(mark in text for mark in {"/", os.sep}):
            return read_info(Path(os.path.expanduser(text)))
        for model in self.models():
            if model.name == text:
                return model
        for path in self._files():
            if path.name == f"{text}{SUFFIX}":
                read_info(path)  # raises, with what is wrong with it
        raise ModelError(f"There is no model {text!r}. {self._known(None)}")

    def _known(self, kind: str | None) -> str:
        fitting = [m.name for m in self.models() if kind is None or m.stands_alone == (kind == "base")]
        what = {"adapter": "adapters", "base": "bases"}.get(kind or "", "models")
        places = ", ".join(str(folder) for folder in self.folders)
        return f"Known {what}: {', '.join(fitting)}." if fitting else f"No {what} lie in {places or 'any folder'}."

    def _read(self) -> tuple[list[ModelInfo], list[str]]:
        found: dict[str, ModelInfo] = {}
        problems = []
        for path in self._files():
            try:
                info = read_info(path)
            except ModelError as error:
                problems.append(str(error))
                continue
            if info.name in found:
                problems.append(f"{path} has the name of {found[info.name].path}, which is used; rename the one or give its path.")
            else:
                found[info.name] = info
        order = ("base", "finetuned", "adapter")
        return sorted(found.values(), key=lambda m: (order.index(m.kind), m.name.lower(), m.name)), problems

    def _files(self) -> Iterable[Path]:
        return model_files(self.folders)
