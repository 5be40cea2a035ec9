"""What lies near to a mask in a slice, by growing it with discs: the skull search's question to a distance transform, at a tenth of its time.

The search only ever asks whether a pixel is nearer than a few millimetres, never how near. Dilation by a disc answers that with the very comparison
of `scipy.ndimage.distance_transform_edt`, so the two agree to the last pixel; the tests hold them together.
"""

from __future__ import annotations

import functools

import numpy as np


def within(mask: np.ndarray, radius_mm: float, spacing: tuple[float, float], open_disc: bool = False) -> np.ndarray:
    """Bool (rows, columns): pixels whose centre lies at most radius_mm from that of a pixel of a 2D mask; nearer than that if open_disc.

    spacing: mm between rows, between columns. What lies beyond the border counts as empty. The complement of a mask grown so is that mask eroded:
    ``~within(~mask, r, spacing)``.
    """
    rows, columns = mask.shape
    reach = _reach(float(radius_mm), (float(spacing[0]), float(spacing[1])), open_disc)[:columns]
    result = np.zeros_like(mask)
    tall, height = mask, 0
    # Column by column of the disc, the lowest first: the mask grows upwards and downwards as it goes, and is laid down to the left and the right.
    for aside in range(len(reach) - 1, -1, -1):
        while height < min(reach[aside], rows):
            grown = tall.copy()
            grown[1:] |= tall[:-1]
            grown[:-1] |= tall[1:]
            tall = grown
            height += 1
        result[:, aside:] |= tall[:, : columns - aside]
        if aside:
            result[:, :-aside] |= tall[:, aside:]
    return result


@functools.lru_cache(maxsize=256)
def _reach(radius: float, spacing: tuple[float, float], open_disc: bool) -> tuple[int, ...]:
    """Of a disc, by columns away from its centre, how many rows it reaches up; the columns that it does not reach at all are left out."""
    down = np.arange(int(radius / spacing[0]) + 2) * spacing[0]
    aside = np.arange(int(radius / spacing[1]) + 2) * spacing[1]
    away = np.sqrt((down * down)[:, None] + aside * aside)
    inside = away < radius if open_disc else away <= radius
    return tuple(int(n) - 1 for n in inside.sum(axis=0) if n)


def filled(mask: np.ndarray) -> np.ndarray:
    """A 2D mask with what it encloses: all but the background that is connected, by sides, to the border."""
    from scipy.ndimage import label

    pieces, _ = label(np.pad(~mask, 1, constant_values=True))
    return (pieces != pieces[0, 0])[1:-1, 1:-1]
