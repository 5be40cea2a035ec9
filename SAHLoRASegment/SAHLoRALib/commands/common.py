"""Flags that every command has."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..events import ConsoleEvents, Events, JsonEvents

if TYPE_CHECKING:
    from ..cases import CaseTable


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every command takes."""

    events: Literal["console", "json"] = "console"
    """How the work is told: a progress bar for people, or one JSON object a line for programs."""
    cancel_file: Path | None = None
    """The work stops at its next step when this file appears."""

    def make_events(self) -> Events:
        """The events that these flags ask for."""
        return JsonEvents(cancel_file=self.cancel_file) if self.events == "json" else ConsoleEvents(cancel_file=self.cancel_file)

    def say(self, text: str) -> None:
        """A result for people, on standard output; programs read the result event instead."""
        if self.events == "console":
            print(text)
            sys.stdout.flush()


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """Text in columns; those of `right` are aligned to the right."""
    widths = [max(len(row[c]) for row in [header, *rows]) for c in range(len(header))]

    def line(cells: tuple[str, ...]) -> str:
        return "  ".join(t.rjust(w) if c in right else t.ljust(w) for c, (t, w) in enumerate(zip(cells, widths, strict=True))).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *(line(row) for row in rows)])


def validation_cases(path: Path, events: Events, segment: str | None = None) -> CaseTable:
    """The cases of a validation table that may choose: those of the split validation where it names any, else all but those of the split test, and
    what is left out is told. Raises CaseError, also where all are test cases.
    """
    from ..cases import VALIDATION_SPLITS, CaseTable
    from ..errors import CaseError

    table, tests = CaseTable.read(path, segment).parted()
    if len(table) == 0:
        raise CaseError(f"All cases of {path} are test cases; there is none to choose weights and threshold on.")
    if len(tests):
        events.log(f"{path}: {len(tests)} cases of the split test choose nothing and are left out.", "warning")
    named = table.where(lambda case: case.split in VALIDATION_SPLITS)
    if 0 < len(named) < len(table):
        events.log(f"{path}: {len(table) - len(named)} cases that are not of the split validation choose nothing and are left out.", "warning")
        return named
    return table
