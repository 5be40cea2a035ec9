"""What made a file: this program's version and, in a checkout, its commit; and digests of case tables. No names, so it may stand in any header."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path

from . import __version__

#: Of the digest of a scan's voxels, where a result or a header tells which scans were used.
SCAN_DIGITS = 8
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


def table_digest(digests: Mapping[str, str]) -> str:
    """16 hexadecimal digits over what the cases hold, scans and masks; not over their names and their order. digests: see `cohort.case_digests`."""
    return hashlib.sha256("\n".join(sorted(digests.values())).encode()).hexdigest()[:16]
