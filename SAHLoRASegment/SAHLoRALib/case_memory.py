"""What the check of a case's files said, remembered beside the table, so that a folder of hundreds of cases is drawn at once.

A file counts as unchanged while its path, its size and its time of change are the same, and whether it may be read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import OutputError
from .files import write_text

if TYPE_CHECKING:
    from .case_check import Finding
    from .cases import Case

#: Changes with `case_check.Finding` and with what the check looks at.
_FORMAT = 4


class CheckMemory:
    """Findings by the signature of a case's files. path: of the file that holds them. check: reads a case (`case_check.check_case`)."""

    def __init__(self, path: Path, check: Callable[[Case], Finding] | None = None) -> None:
        self.path = path
        self._check = check
        self._known = self._read()
        self._saved = dict(self._known)

    def knows(self, case: Case) -> bool:
        """Whether these very files have been checked."""
        return signature(case) in self._known

    def find(self, case: Case) -> Finding:
        """What the check says, from memory or by reading the files."""
        from .case_check import check_case

        key = signature(case)
        if key not in self._known:
            self._known[key] = (self._check or check_case)(case)
        return replace(self._known[key], case=case.case, patient=case.patient)

    def save(self, keep: Iterable[Case] | None = None) -> None:
        """Write what is new, without the files of others than `keep`. A folder that cannot be written only makes the next check slower."""
        wanted = None if keep is None else {signature(case) for case in keep}
        kept = {key: found for key, found in self._known.items() if wanted is None or key in wanted}
        if kept != self._saved:
            with contextlib.suppress(OutputError):
                write_text(self.path, json.dumps({"format": _FORMAT, "checks": {key: asdict(found) for key, found in kept.items()}}, indent=1))
                self._saved = kept

    def _read(self) -> dict[str, Finding]:
        from .case_check import Finding

        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["format"] == _FORMAT:
                return {key: Finding(**_as_saved(found)) for key, found in content["checks"].items()}
        return {}


def _as_saved(found: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def signature(case: Case) -> str:
    """Over the paths, sizes and times of a case's files, and what the table says of them."""
    files = [_stamp(path) for path in (case.image, case.mask)]
    content = json.dumps([files, case.segment, case.haemorrhage, case.series])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _stamp(path: Path | None) -> list[object]:
    """Path, number of files, bytes and latest change of a file or of a folder of DICOM; zeros where it is gone."""
    if path is None:
        return []
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    stats = []
    for file in files:
        with contextlib.suppress(OSError):
            stats.append(file.stat())
    readable = all(os.access(file, os.R_OK) for file in files)
    return [str(path), len(stats), sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0), readable]
