"""``sahlora card``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from ..events import Events
from .common import Common, validation_cases


@dataclass(frozen=True, kw_only=True)
class Arguments(Common):
    """Measure a model on cases that it has never seen, an adapter against its base; write the figures into its file and into its model card.

    The file of a model that came along stays as it is: its card alone is written, into the working folder.
    """

    model: tyro.conf.Positional[str]
    """Name or file of the model."""
    cases: tuple[Path, ...] = ()
    """Case tables of held-out patients; what the model or an adapter's base was trained or chosen on is refused, as far as their files tell it.
    Without any, the card is written from what the file says already."""
    validation: Path | None = None
    """Case table that chose an adapter's threshold: the base is then measured with a threshold chosen on it too."""
    choose_threshold: bool = False
    """Choose the model's threshold anew on the validation cases before it is measured: by a training's rule, on masks as segmenting gives them."""
    title: tuple[str, ...] = ()
    """What the case tables are, one for each; without them the tables' folders."""
    clean: tuple[Path, ...] = ()
    """Scans without haemorrhage: DICOM folders or image files, in which all that is segmented is false. The card names them by folder or file."""
    commands: Path | None = None
    """Text file with the commands that made the model, to be shown in the card; without it those of its card until now."""
    output: Path | None = None
    """The card; without it a .md beside the model, or in the working folder for a model that came along."""


def run(arguments: Arguments, events: Events) -> int:
    """Returns 0. Raises SAHLoRAError."""
    from ..card import make_card
    from ..card_text import commands_in
    from ..cases import CaseTable
    from ..catalogue import Catalogue
    from ..ct import read_ct
    from ..errors import ConfigError
    from ..model_folders import is_bundled

    if arguments.title and len(arguments.title) != len(arguments.cases):
        raise ConfigError(f"{len(arguments.title)} titles were given for {len(arguments.cases)} case tables; give one for each, or none.")
    titles = arguments.title or tuple(path.resolve().parent.name if path.suffix else path.name for path in arguments.cases)
    if len(set(titles)) < len(titles):
        raise ConfigError("Two case tables have the same title; give each its own with title.")
    try:
        commands = arguments.commands.read_text(encoding="utf-8") if arguments.commands else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The commands cannot be read from {arguments.commands}; give a text file.") from error
    catalogue = Catalogue()
    info = catalogue.find(arguments.model)
    base = catalogue.base_of(info) if info.kind == "adapter" else None
    tables = {title: CaseTable.read(path) for title, path in zip(titles, arguments.cases, strict=True)}
    beside = info.path.with_suffix(".md")
    own = not is_bundled(info.path)
    path = arguments.output or (beside if own else Path(beside.name))
    if not own:
        if arguments.choose_threshold:
            raise ConfigError(
                f"The threshold of {info.name} stays, as the model came along: copy {info.path} into a folder of yours and name the copy."
            )
        events.log(f"{info.name} came along, so its file stays as it is; the card goes to {path}.")
    validation = validation_cases(arguments.validation, events) if arguments.validation else None
    clean = {_title(scan): read_ct(scan) for scan in arguments.clean}
    if len(clean) < len(arguments.clean):
        raise ConfigError("Two of the clean scans have the same name; put one into a folder or a file of another name.")
    info = make_card(info, base, tables, path, events, commands or commands_in(beside), validation, clean, arguments.choose_threshold, record=own)
    arguments.say(path.read_text(encoding="utf-8"))
    events.result(command="card", model=str(info.path), card=str(path), metrics=info.metrics)
    return 0


def _title(scan: Path) -> str:
    """A scan's file name without its suffixes, or its folder's; of a folder that is called dicom the folder's around it."""
    name = scan.resolve().name.split(".")[0] if scan.is_file() else scan.resolve().name
    return scan.resolve().parent.name if name.lower() == "dicom" else name
