"""``sahlora phantom``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..events import Events
from .common import Common


@dataclass(frozen=True, kw_only=True)
class Arguments(Common):
    """Make synthetic head CT with annotated haemorrhage: TBI, aneurysmal SAH, or none. The same seed gives the same case."""

    output: Path
    """Folder for the cases and their table, cases.csv. Cases that are there already are kept."""
    kind: Literal["tbi", "asah", "none"] = "asah"
    """Traumatic brain injury, aneurysmal subarachnoid haemorrhage, or no haemorrhage."""
    count: int = 1
    """How many cases."""
    seed: int = 0
    """Seed of the first case; the others count up from it."""
    heads: Path | None = None
    """Folder of label maps with FreeSurfer labels (*.nii.gz). Left out, the built-in ICBM152 anatomy serves."""
    use: str | None = None
    """Which label maps of the folder, counted from 1: 1-11 or 1,4,7-9. Left out, all in turn."""
    without: float = 0.0
    """Share of cases without haemorrhage."""
    format: Literal["nrrd", "nii.gz", "dicom"] = "nrrd"
    """File type of the scans; a DICOM series keeps uneven slice gaps too."""
    matrix: int = 512
    """Rows and columns."""
    slices: int | None = None
    """Slices of a scan. Left out, each case's scanner decides."""


def run(arguments: Arguments, events: Events) -> int:
    """Returns 0. Raises ConfigError, ScanError, OutputError, Cancelled."""
    from ..phantom import PhantomConfig, make_cohort

    names = ("output", "kind", "count", "seed", "heads", "use", "without", "format", "matrix", "slices")
    table = make_cohort(PhantomConfig(**{name: getattr(arguments, name) for name in names}), events)
    arguments.say(f"{arguments.count} cases: {table}")
    events.result(command="phantom", cases=str(table), count=arguments.count)
    return 0
