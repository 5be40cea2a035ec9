"""`Cohort`: the cases of a table as trainings need them, read once and shared by all folds and methods; and digests of what they hold."""

from __future__ import annotations

import hashlib
import tempfile
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .case_check import Finding
from .cases import CaseTable
from .ct import CTVolume
from .errors import CaseError
from .events import Events
from .provenance import SCAN_DIGITS, SCANS, TABLE, table_digest
from .samples import CachedCase, SliceCache
from .slices import PixelGrid
from .weights import ModelInfo

#: Volumes that are kept in memory between runs, GB.
_VOLUMES_GB = 1.0


class Cohort:
    """The cases of a table as runs need them: read once, and shared by all folds and methods.

    base: what is fine-tuned; None for training from scratch. memory_gb: for slices on the network's pixels; more than that is mapped from files.
    """

    def __init__(self, table: CaseTable, base: ModelInfo | None, memory_gb: float = 4.0) -> None:
        self.table, self.base, self._memory_gb = table, base, memory_gb
        self._slices: dict[PixelGrid, dict[str, CachedCase]] = {}
        self._volumes: OrderedDict[str, tuple[CTVolume, np.ndarray]] = OrderedDict()
        self._spill: tempfile.TemporaryDirectory[str] | None = None

    def slices(self, names: Iterable[str], grid: PixelGrid, events: Events) -> SliceCache:
        """These cases' slices on a grid; the first call reads all cases of the table."""
        if grid not in self._slices:
            if self._spill is None:
                self._spill = tempfile.TemporaryDirectory(prefix="sahlora-slices-", ignore_cleanup_errors=True)
            folder = Path(self._spill.name) / str(len(self._slices))
            cached = SliceCache.read(self.table, grid, memory_gb=self._memory_gb, spill=folder, events=events, stage="Reading cases")
            self._slices[grid] = {case.name: case for case in cached.cases}
        return SliceCache([self._slices[grid][name] for name in names], grid)

    def read(self, name: str) -> tuple[CTVolume, np.ndarray]:
        """Scan and annotation; the latest stay in memory."""
        if name not in self._volumes:
            self._volumes[name] = self.table[name].read()
            while len(self._volumes) > 1 and sum(ct.hu.nbytes + mask.nbytes for ct, mask in self._volumes.values()) > _VOLUMES_GB * 1e9:
                self._volumes.popitem(last=False)
        self._volumes.move_to_end(name)
        return self._volumes[name]


def case_digests(table: CaseTable, findings: Iterable[Finding]) -> dict[str, str]:
    """Case → digest of its scan's voxels and of its mask's as they lie on the scan. findings: of a check that found no problem with these cases."""
    told = {finding.case: f"{finding.digest} {finding.ml:.6g} {finding.mask_digest}" for finding in findings if finding.ml is not None}
    return {case.case: hashlib.sha256(str(told.get(case.case)).encode()).hexdigest() for case in table}


def scan_digests(table: CaseTable, findings: Iterable[Finding]) -> dict[str, str]:
    """Case → the first digits of the digest of its scan's voxels, whatever its mask: by them a scan is known again under other names."""
    told = {finding.case: finding.digest[:SCAN_DIGITS] for finding in findings}
    return {case.case: told[case.case] for case in table}


def chosen_on(table: CaseTable, findings: Iterable[Finding]) -> dict[str, Any]:
    """For a header: the cases that chose a threshold, their number and digests."""
    return {"cases": len(table), **told_cases(table, findings)}


def told_cases(table: CaseTable, findings: Iterable[Finding]) -> dict[str, Any]:
    """For a header: what a table holds, scans and masks together, and its scans one by one."""
    findings = list(findings)
    return {TABLE: table_digest(case_digests(table, findings)), SCANS: sorted(scan_digests(table, findings).values())}


def no_blood(cases: int) -> CaseError:
    """That these validation cases choose no threshold."""
    return CaseError(f"None of the {cases} validation cases has blood in its mask, so no threshold can be chosen; name other cases.")
