"""One line of the table of scans: how an input is made, and what must come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from heads import BLEED_ML


@dataclass(frozen=True)
class OddScan:
    """name: for people. make: writes the input into an empty folder and returns the path that the user names.

    refused: what the one sentence must say (a regular expression); empty where the scan is taken. warned: what a warning must say; empty where the
    scan must be taken without a word about it. ml: the haemorrhage to be found, None where it is not known. slow: takes seconds.
    """

    name: str
    make: Callable[[Path], Path]
    refused: str = ""
    warned: str = ""
    ml: float | None = None
    slow: bool = False


def taken(name: str, make: Callable[[Path], Path], warned: str = "", ml: float | None = BLEED_ML, slow: bool = False) -> OddScan:
    """A scan that is odd and right: it is segmented, and the bleed in it is measured."""
    return OddScan(name, make, warned=warned, ml=ml, slow=slow)


def slowly(scan: OddScan) -> OddScan:
    return replace(scan, slow=True)
