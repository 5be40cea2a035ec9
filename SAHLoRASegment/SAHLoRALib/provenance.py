"""What made a file: this program's version and, in a checkout, its commit, also where several did a part each; and digests of case tables
and of scans. No names, so it may stand in any header.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from . import __version__

#: Of the digest of a scan's voxels, where a result or a header tells which scans were used.
SCAN_DIGITS = 8
#: In the training of a header, and beside the cases that chose a threshold: the digests of their scans, and that of the table.
SCANS, TABLE = "scans", "cases_digest"
#: The program of a run whose result does not tell it.
EARLIER = "an earlier version"
_ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def program(root: Path = _ROOT) -> str:
    """For instance "SAHLoRA 0.1.0 (commit 5b85c1e3a2f1, changed)"; without the commit where the program was installed, not checked out."""
    name = f"SAHLoRA {__version__}"
    if not ((root / ".git").exists() and (root / "SAHLoRASegment").is_dir()):
        return name
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        commit, changed, _ = told.partition("-dirty")
        if commit:
            return f"{name} (commit {commit}{', changed' if changed else ''})"
    return name


def programs(names: Iterable[str]) -> str:
    """The programs that did some runs, in words: one as it is, several as "runs of 2 programs: …". names: a program for each run, empty of an earlier
    version.
    """
    runs = Counter(name or EARLIER for name in names)
    told = ", ".join(f"{name} did {count}" for name, count in runs.most_common())
    return f"runs of {len(runs)} programs: {told}" if len(runs) > 1 else next(iter(runs), EARLIER)


def table_digest(digests: Mapping[str, str]) -> str:
    """16 hexadecimal digits over what the cases hold, scans and masks; not over their names and their order. digests: see `cohort.case_digests`."""
    return hashlib.sha256("\n".join(sorted(digests.values())).encode()).hexdigest()[:16]


def used_scans(training: Mapping[str, Any]) -> frozenset[str]:
    """Digests of the scans that a model has learnt from or was chosen on, as far as its header's `training` tells them: those of adapters that were
    added up to it too.
    """
    lists = (told.get(SCANS) for told in _tellings(training))
    return frozenset(str(scan) for scans in lists if isinstance(scans, (list, tuple)) for scan in scans)


def used_tables(training: Mapping[str, Any]) -> frozenset[str]:
    """`table_digest` of the tables that these scans stood in, which headers of earlier versions tell too."""
    return frozenset(str(told[TABLE]) for told in _tellings(training) if told.get(TABLE))


def _tellings(training: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """All places of a header's training that tell of cases."""
    parts = training.get("combined")
    of_parts = [part.get("training") for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []
    yield training
    if isinstance(chosen := training.get("threshold_chosen"), Mapping):
        yield chosen
    for part in of_parts:
        if isinstance(part, Mapping):
            yield from _tellings(part)
