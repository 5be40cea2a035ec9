"""The inside of the skull."""

from __future__ import annotations

import numpy as np

from .volume import CTVolume


def intracranial(ct: CTVolume) -> np.ndarray:
    """Bool (slices, rows, columns): what a closed ring of bone encloses in its slice."""
    from scipy import ndimage

    disc = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), 3)
    inside = np.empty(ct.shape, bool)
    for k, hu in enumerate(ct.hu):
        bone = hu > 250.0
        inside[k] = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(bone, 4), disc)[4:-4, 4:-4]) & ~bone
    return inside
