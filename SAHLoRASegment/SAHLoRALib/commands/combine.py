"""``sahlora combine``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from ..errors import ConfigError
from ..events import Events
from .common import Common, validation_cases

if TYPE_CHECKING:
    from ..catalogue import Catalogue
    from ..combining import Part


@dataclass(frozen=True, kw_only=True)
class Arguments(Common):
    """Add adapters of one base up to a single one: what each has learnt, at its share. It is used like any other adapter and costs no more time.

    For instance half of the way to your hospital's adapter and half to another's: sahlora combine my-hospital=0.5 asah-cp-lora=0.5 --name both
    """

    adapters: tyro.conf.Positional[tuple[str, ...]]
    """NAME=SHARE or FILE=SHARE of each. A share lies above 0, all together at most at 1; it counts instead of the adapter's own strength."""
    name: str
    """Of the adapter that comes out."""
    rank: int | None = None
    """Of the adapter that comes out, a convLoRA; without it the smallest that loses nothing. A lower one makes a smaller file."""
    validation: Path | None = None
    """Case table that chooses the threshold; without it the parts' own thresholds' mean is taken, by their shares."""
    segment: str | None = None
    """Which segment or label is haemorrhage, where a row of the table does not say."""
    folder: Path | None = None
    """Folder of the adapter; without it your own model folder, where sahlora segment finds it and the names of bundled models are refused."""
    description: str = ""
    """A sentence about the adapter, for its header."""
    licence: str = ""
    """Of the adapter, for its header; without it the parts', where they are of one."""
    lesion: Literal["haemorrhage", "subarachnoid"] | None = None
    """What is segmented, for the header: bleeding of any kind, or subarachnoid only; without it the parts', where they are of one."""


def run(arguments: Arguments, events: Events) -> int:
    """Returns 0. Raises SAHLoRAError."""
    from ..adapters import MAX_RANK
    from ..catalogue import Catalogue
    from ..combining import combine
    from ..provenance import program
    from ..targets import check_free, model_target
    from ..weights import save_adapter

    if arguments.rank is not None and not 1 <= arguments.rank <= MAX_RANK:
        raise ConfigError(f"The rank must be a whole number between 1 and {MAX_RANK}, not {arguments.rank}.")
    if not arguments.adapters:
        raise ConfigError("No adapter was named; name each with its share, such as asah-cp-lora=0.5.")
    path = model_target(arguments.folder, arguments.name)
    check_free(path)
    catalogue = Catalogue()
    parts = [_part(given, catalogue) for given in arguments.adapters]
    base = catalogue.base_of(parts[0].adapter)
    found = combine(base, parts, arguments.rank)
    threshold = sum(part.share * part.adapter.threshold for part in parts) / sum(part.share for part in parts)
    training: dict[str, Any] = {
        "program": program(),
        "combined": [{"name": p.adapter.name, "digest": p.adapter.digest, "share": p.share, "training": p.adapter.training} for p in parts],
        "kept": found.kept,
    }
    metrics: dict[str, Any] = {}
    if arguments.validation is not None:
        from ..combining import judge

        cases = validation_cases(arguments.validation, events, arguments.segment)
        score, training["threshold_chosen"] = judge(found, base, cases, events)
        threshold, metrics["validation"] = score.threshold, score.as_dict()
    lesions = {str(part.adapter.training.get("lesion")) for part in parts}
    lesion = arguments.lesion or (lesions.pop() if len(lesions) == 1 else None)
    licences = {part.adapter.licence for part in parts}
    info = save_adapter(
        found.network, found.config, path, base=base, threshold=threshold, metrics=metrics,
        training=training | ({"lesion": lesion} if lesion in ("haemorrhage", "subarachnoid") else {}),
        description=arguments.description, licence=arguments.licence or (licences.pop() if len(licences) == 1 else ""),
    )  # fmt: skip
    judged_as = f", validation Dice {metrics['validation']['best_dice']:.3f} at threshold {threshold:g}" if metrics else f", threshold {threshold:g}"
    arguments.say(f"{info.name}: {found.config.described}, {100 * found.kept:.2f} % of the change kept{judged_as}\n{path}")
    events.result(
        command="combine", model=str(path), name=info.name, digest=info.digest, rank=found.config.rank, kept=found.kept, threshold=threshold,
        validation=metrics.get("validation"),
    )  # fmt: skip
    return 0


def _part(given: str, catalogue: Catalogue) -> Part:
    """NAME=SHARE. Raises ConfigError, ModelError."""
    from ..combining import Part

    name, _, number = given.rpartition("=")
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if not name or not share > 0:
        raise ConfigError(f"{given!r} is no adapter with a share above 0; write it as NAME=SHARE, such as asah-cp-lora=0.5.")
    return Part(catalogue.find(name, "adapter"), share)
