"""Where a file holds no measurement, around the field of view of the scanner: there it is made air.

Programs that turn, resample or pad a scan write 0 there, and 0 HU is water: the search for the head would take that frame for it.
"""

from __future__ import annotations

import numpy as np

from .volume import AIR_HU, CTVolume

#: Pixels of a piece of exact zeros at the edge of a slice: those of noise, where a head reaches the edge, are far smaller.
_FEWEST_ZEROS = 50


def zeros_as_air(ct: CTVolume) -> CTVolume:
    """The scan with air for exact zeros that reach the edge of their slice; ct.hu itself is changed. Scans without such zeros stay as they are."""
    edges = np.concatenate((ct.hu[:, [0, -1]], ct.hu[:, :, [0, -1]].swapaxes(1, 2)), axis=2)
    for k in np.flatnonzero((edges == 0.0).any(axis=(1, 2))):
        ct.hu[k][_from_the_edge(ct.hu[k] == 0.0, _FEWEST_ZEROS)] = AIR_HU
    return ct


def _from_the_edge(mask: np.ndarray, fewest: int) -> np.ndarray:
    """Of a 2D mask the pieces that touch the border and have that many pixels."""
    from scipy.ndimage import label

    pieces, count = label(mask)
    touching = np.zeros(count + 1, bool)
    touching[pieces[[0, -1]]] = touching[pieces[:, [0, -1]]] = True
    touching[0] = False
    return (touching & (np.bincount(pieces.ravel(), minlength=count + 1) >= fewest))[pieces]
