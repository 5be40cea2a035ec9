"""``sahlora models``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import tyro

from ..events import Events
from ..measured import headline
from .common import Common, table

if TYPE_CHECKING:
    from ..weights import ModelInfo


@dataclass(frozen=True, kw_only=True)
class Arguments(Common):
    """List the models at hand, those that come with SAHLoRA and those in your own folder; or all that one of them says about itself."""

    name: tyro.conf.Positional[str] = ""
    """Name or file of one model."""


def run(arguments: Arguments, events: Events) -> int:
    """Returns the exit code. Raises ModelError for a name that is not known."""
    from ..catalogue import Catalogue
    from ..segmenter import DEFAULT_ADAPTER, DEFAULT_MODEL

    catalogue = Catalogue()
    if arguments.name:
        described = describe(catalogue.find(arguments.name))
        arguments.say(json.dumps(described, indent=2, ensure_ascii=False))
        events.result(command="models", models=[described])
        return 0
    models = catalogue.models()
    for problem in catalogue.problems():
        events.log(problem, "warning")
    rows = [(m.name, m.kind, _what(m), m.base_name or "", _dice(m), m.date[:10], str(m.path.parent)) for m in models]
    if rows:
        arguments.say(table(("name", "kind", "what", "base", "Dice", "date", "folder"), rows))
        if {DEFAULT_MODEL, DEFAULT_ADAPTER} <= {m.name for m in models}:
            arguments.say(f"\nWhere none is named, {DEFAULT_MODEL} with {DEFAULT_ADAPTER} segments.")
    else:
        arguments.say(f"No models are there; put weight files into {catalogue.folders[-1]}.")
    events.result(command="models", models=[describe(m) for m in models], folders=[str(folder) for folder in catalogue.folders])
    return 0


def describe(info: ModelInfo) -> dict[str, Any]:
    """All that a weight file says about itself, for JSON."""
    return {
        "name": info.name,
        "kind": info.kind,
        "path": str(info.path),
        "description": info.description,
        "licence": info.licence,
        "date": info.date,
        "digest": info.digest,
        "base_name": info.base_name or None,
        "base_digest": info.base_digest,
        "threshold": info.threshold,
        "half": info.half,
        "network": info.network.as_dict(),
        "grid": asdict(info.grid),
        "adapter": info.adapter.as_dict() if info.adapter else None,
        "metrics": info.metrics,
        "training": info.training,
    }


def _what(info: ModelInfo) -> str:
    if info.adapter is not None:
        return info.adapter.described
    return f"{info.network.described}, {info.grid.pixel_mm:g} mm"


def _dice(info: ModelInfo) -> str:
    """The mean that says most, and on what it was measured."""
    found = headline(info.metrics)
    return f"{found[0]:.3f} {found[1]}".strip() if found else ""
