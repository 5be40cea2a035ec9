"""What the robustness tests share: the path to the helpers of Testing/Core, and the table of outcomes.

`pytest Testing/Robust -m "robust or not slow" --outcomes Testing/Robust/OUTCOMES.md` writes the table from what was seen in that very run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "Core")]

Record = Callable[[str, str, str, str], None]
_ROWS = pytest.StashKey[list[tuple[str, str, str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", metavar="FILE", help="write the table of outcomes: input, what the user reads, what is left on disk")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS] = []


@pytest.fixture
def outcome(request: pytest.FixtureRequest) -> Record:
    """outcome(area, input, what the user reads, what is left on disk)"""
    rows = request.config.stash[_ROWS]
    return lambda area, given, said, left: rows.append((area, given, said, left))


def pytest_sessionfinish(session: pytest.Session) -> None:
    target = session.config.getoption("--outcomes", default=None)
    rows = session.config.stash[_ROWS]
    if not target or not rows:
        return
    lines = ["# What comes of broken and odd input", "", "Written by `make test-robust` from what was seen; … stands for the input's folder."]
    for area in dict.fromkeys(row[0] for row in rows):
        mine = [row for row in rows if row[0] == area]
        lines += ["", f"## {area} ({len(mine)})", "", "| input | what the user reads | what is left on disk |", "|---|---|---|"]
        lines += ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row[1:]) + " |" for row in mine]
    Path(target).write_text("\n".join(lines) + "\n", encoding="utf-8")
