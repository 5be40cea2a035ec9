"""Is this a head CT in HU? Asked of every scan before it reaches the network."""

from __future__ import annotations

import numpy as np

from .errors import ScanError
from .volume import CTVolume


def check_head_ct(ct: CTVolume) -> tuple[str, ...]:
    """Warnings about the geometry. Raises ScanError, one sentence, for what is not a head CT in HU."""
    where = f"{ct.source}: " if ct.source else ""
    if ct.hu.size == 0:
        raise ScanError(f"{where}the scan is empty.")
    if len(ct.hu) < 3:
        raise ScanError(f"{where}the scan has {len(ct.hu)} slice(s); a volume is needed.")
    low, high = float(ct.hu.min()), float(ct.hu.max())  # both are NaN where one voxel is
    if not np.isfinite(low + high):
        raise ScanError(f"{where}the scan holds NaN or infinite values; write it again without them.")
    if low == high:
        raise ScanError(f"{where}the scan is empty: every voxel is {low:g}.")
    return geometry_warnings(ct)


def geometry_warnings(ct: CTVolume) -> tuple[str, ...]:
    """Tilt, uneven gaps and thick slices in words."""
    told: list[str] = []
    if abs(ct.tilt_degrees) >= 0.5:
        told.append(f"Gantry tilt of {ct.tilt_degrees:+.1f}°: slices are used as they lie, volumes are computed perpendicular to them.")
    gaps = ct.gaps_mm
    if ct.uneven:
        told.append(
            f"Slice gaps run from {gaps.min():.2f} to {gaps.max():.2f} mm: no single step fits all slices; "
            "volumes use the true positions, a mask file can only hold their mean step."
        )
    if len(gaps) and float(np.median(gaps)) > 6.0:
        told.append(f"Slices lie {np.median(gaps):.1f} mm apart: small bleeds between them are not seen.")
    return tuple(told)
