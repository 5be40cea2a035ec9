"""What made a file: this program's version and, in a checkout, its commit, also where several did a part each; and digests of case tables. No names,
so it may stand in any header.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from . import __version__

#: Of the digest of a scan's voxels, where a result or a header tells which scans were used.
SCAN_DIGITS = 8
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
