"""Where a file holds no measurement, around the field of view of the scanner: there it is made air.

Programs that turn, resample or pad a scan write 0 there, and 0 HU is water: the search for the head would take that frame for it. Others write NaN,
with which no network can compute. And where a scan was clipped from below, what lies at the lowest value is mostly air.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .volume import AIR_HU, CTVolume

#: Pixels of a piece of exact zeros at the edge of a slice: those of noise, where a head reaches the edge, are far smaller.
_FEWEST_ZEROS = 50
#: HU between which the lower end of a clipped scan may lie (below it is known to be air, above it fat and water are lost), the least that its upper
#: end must be, for the edge of bone to be there, and the least share of voxels that lie at the lower end.
_CLIPPED_HU, _LEAST_HIGH_HU, _LEAST_AIR = (-300.0, -90.0), 500.0, 0.1


def clipped_as_air(ct: CTVolume) -> CTVolume:
    """The scan with air where it lies at the value below which it was clipped, and a warning; ct.hu itself is changed.

    Scans that reach lower, as nearly all do, stay as they are, and so do narrow windows and what has little at its lowest value.
    """
    low, high = (float(ends.reduce(ct.hu, axis=None, initial=np.nan)) for ends in (np.fmin, np.fmax))  # NaN does not count
    if not _CLIPPED_HU[0] <= low <= _CLIPPED_HU[1] or high < _LEAST_HIGH_HU or np.mean(ct.hu == low) < _LEAST_AIR:
        return ct
    ct.hu[ct.hu == low] = AIR_HU
    told = f"The values of the scan were clipped at {low:.0f} HU: what lies there is taken for air."
    return replace(ct, warnings=(*ct.warnings, told))


def zeros_as_air(ct: CTVolume) -> CTVolume:
    """The scan with air for exact zeros that reach the edge of their slice; ct.hu itself is changed. Scans without such zeros stay as they are."""
    for k in np.flatnonzero((_edges(ct.hu) == 0.0).any(axis=1)):
        ct.hu[k][_from_the_edge(ct.hu[k] == 0.0, _FEWEST_ZEROS)] = AIR_HU
    return ct


def nan_as_air(ct: CTVolume) -> CTVolume:
    """The scan with air for NaN that reaches the edge of its slice, and a warning; ct.hu itself is changed. NaN elsewhere stays, and so does a slice
    of nothing else that lies between others: what was measured there is lost.
    """
    at_edge = np.isnan(_edges(ct.hu)).any(axis=1)
    held = [k for k in range(len(ct.hu)) if not (at_edge[k] and np.isnan(ct.hu[k]).all())]
    if not at_edge.any() or not held:
        return ct
    for k in np.flatnonzero(at_edge):
        if k in held or not held[0] < k < held[-1]:
            ct.hu[k][_from_the_edge(np.isnan(ct.hu[k]))] = AIR_HU
    return replace(ct, warnings=(*ct.warnings, "The scan holds NaN around its field of view: it is taken for air."))


def _edges(hu: np.ndarray) -> np.ndarray:
    """(slices, n): the outermost pixels of every slice."""
    parts = (hu[:, :1], hu[:, -1:], hu[:, :, :1], hu[:, :, -1:])
    return np.concatenate([part.reshape(len(hu), part.shape[1] * part.shape[2]) for part in parts], axis=1)


def _from_the_edge(mask: np.ndarray, fewest: int = 1) -> np.ndarray:
    """Of a 2D mask the pieces that touch the border and have at least that many pixels."""
    from scipy.ndimage import label

    pieces, count = label(mask)
    touching = np.zeros(count + 1, bool)
    touching[pieces[[0, -1]]] = touching[pieces[:, [0, -1]]] = True
    touching[0] = False
    return (touching & (np.bincount(pieces.ravel(), minlength=count + 1) >= fewest))[pieces]
