"""Scans from which a program has taken the skull away: the brain alone, perhaps with a rest of bone at its edge, on an even background.

There is no ring of bone to look for in them, or one that is a pixel thin and full of gaps: what is not background is the inside of the skull. On a
real scan that was stripped in seven ways the default model's Dice was 0.89 to 0.91 so, 0.91 with the skull; but on a synthetic one with blood along
the surface of the brain 0.46 instead of 0.72, so a warning goes with it.
"""

from __future__ import annotations

import numpy as np

from .discs import filled, within
from .skull import BARRIER_HU, EDGE_HU, sampled
from .volume import CTVolume

#: The largest brain with a rest of bone, and the smallest, mm in any slice.
_BRAIN_MM = (60.0, 210.0)
#: Median HU of a brain; an MR or a grey picture lies there by chance only. Most of it lies near: 80 % within this many HU.
_MEDIAN_HU, _SPREAD_HU = (20.0, 45.0), 45.0
#: Shares of what is not background. Measured on a real head: soft 0.89 and bone 0.08 with a pixel of bone all around, 0.63 and 0.19 with skull and
#: scalp. At the highest value 0.01 where a brain was windowed to 0 to 80 HU, 0.07 and more where a whole head was windowed.
_LEAST_SOFT, _MOST_BONE, _MOST_HIGHEST = 0.8, 0.12, 0.03
#: Deeper than this the brain holds hardly any bone, as a spine or a limb does: at most this share of all.
_EDGE_MM, _MOST_INNER_BONE = 6.0, 0.02


def is_brain_alone(ct: CTVolume) -> bool:
    """Whether a scan shows a brain and nothing around it: never where the edge of the field is not one value all around, as scanners write it."""
    background = ct.hu[0, 0, 0]
    if any((part != background).any() for part in (ct.hu[:, 0], ct.hu[:, -1], ct.hu[:, :, 0], ct.hu[:, :, -1])):
        return False
    _, pixels, spacing = sampled(ct, ct.hu)
    there = (pixels > -200.0) & (pixels != background)
    values = pixels[there]
    soft = values[(values > -20.0) & (values < BARRIER_HU)]
    if len(soft) == 0 or len(soft) < _LEAST_SOFT * len(values):
        return False
    highest = float(ct.hu.max())
    # In a whole head that was windowed, all bone lies at the highest value.
    dense, most = (values > 200.0, _MOST_BONE) if highest > 200.0 else (values >= highest - 0.5, _MOST_HIGHEST)
    if dense.mean() > most:
        return False
    inner = sum(int(((hu > 200.0) & ~within(~tissue, _EDGE_MM, spacing)).sum()) for hu, tissue in zip(pixels, there, strict=True))
    if inner > _MOST_INNER_BONE * len(values):
        return False
    low, median, high = np.percentile(soft, (10, 50, 90))
    if not _MEDIAN_HU[0] <= median <= _MEDIAN_HU[1] or high - low > _SPREAD_HU:
        return False
    sizes = [float(np.ptp(np.flatnonzero(there.any(axis=(0, 2 - axis)))) + 1) * spacing[axis] for axis in (0, 1)]
    return _BRAIN_MM[0] <= max(sizes) <= _BRAIN_MM[1]


def brain_alone(ct: CTVolume) -> np.ndarray:
    """Bool (slices, rows, columns): what is not background, with what it encloses, without the rest of bone."""
    background = ct.hu[0, 0, 0]
    inside = np.zeros(ct.shape, bool)
    for k, plane in enumerate(ct.hu):
        inside[k] = filled((plane != background) & (plane > -200.0)) & (plane <= EDGE_HU)
    return inside
