"""Where a file holds no measurement, around the field of view of the scanner: there it is made air.

Programs that turn, resample or pad a scan write 0 there, and 0 HU is water: the search for the head would take that frame for it. Others write NaN,
with which no network can compute.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .volume import AIR_HU, CTVolume

#: Pixels of a piece of exact zeros at the edge of a slice: those of noise, where a head reaches the edge, are far smaller.
_FEWEST_ZEROS = 50


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
