"""The table of faults: FAULTS.md beside the table of outcomes, written by the run that saw them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

#: (what was done to the run, what the user reads, what is left on disk)
Table = Callable[[str, str, str], None]
HEADING = """# What comes of faults

Written by `make test-robust` from what was seen; … stands for the run's folder.
"""


def table_of_faults(request: pytest.FixtureRequest) -> Iterator[Table]:
    """A module's fixture; its rows go into the part that is called as the module's AREA."""
    rows: list[tuple[str, str, str]] = []
    yield lambda *row: rows.append(row)
    outcomes = request.config.getoption("--outcomes", default=None)
    if outcomes and rows:
        area = str(request.module.AREA)
        _write(Path(outcomes).with_name("FAULTS.md"), area, rows)


def _write(path: Path, area: str, rows: list[tuple[str, str, str]]) -> None:
    """The area's part of the file anew; other areas stay."""
    text = path.read_text(encoding="utf-8") if path.exists() else HEADING
    lead, *parts = text.split("\n## ")
    kept = [part.strip() for part in parts if not part.startswith(f"{area}\n")]
    lines = [area, "", "| what is done to the run | what the user reads | what is left on disk |", "|---|---|---|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    sections = sorted([*kept, "\n".join(lines)], reverse=True)
    path.write_text(lead.strip() + "\n" + "".join(f"\n## {section}\n" for section in sections), encoding="utf-8")
