"""Smooth random fields, distances and warps on a 1 mm grid: what several floors of the phantom are built from."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch
from torch.nn import functional

from ..findings import bounding_box

Rng = np.random.Generator

#: Up to here squares and their sums fit into a byte, and steps of one voxel are faster than a distance transform.
_NEAR_MM = 11.0


def smooth_noise(shape: tuple[int, ...], scale_mm: float, rng: Rng) -> np.ndarray:
    """float32 of `shape` (three axes, 1 mm), mean 0, standard deviation about 1, correlated over `scale_mm`."""
    coarse = [max(2, int(np.ceil(n / scale_mm)) + 2) for n in shape]
    values = torch.from_numpy(rng.standard_normal(coarse).astype(np.float32))[None, None]
    grown = functional.interpolate(values, size=shape, mode="trilinear", align_corners=True)[0, 0].numpy()
    return grown / max(float(grown[::4, ::4, ::4].std()), 1e-6)


def distance_to(mask: np.ndarray, limit_mm: float = 100.0) -> np.ndarray:
    """float32 mm from every voxel to the nearest voxel of `mask` (0 inside it), cut at `limit_mm`; far everywhere where the mask is empty.

    It is exact and computed where there is something to compute only: beside the mask, not beyond the limit.
    """
    distance = np.where(mask, np.float32(0), np.float32(limit_mm))
    held, gap, reach = bounding_box(mask), bounding_box(~mask), int(np.ceil(limit_mm))
    if held is None or gap is None:
        return distance
    box = tuple(slice(max(0, h.start - reach, g.start - 1), min(h.stop + reach, g.stop + 1)) for h, g in zip(held, gap, strict=True))
    distance[box] = (_near if limit_mm <= _NEAR_MM else _maurer)(mask[box], limit_mm)
    return distance


def _near(mask: np.ndarray, limit_mm: float) -> np.ndarray:
    """`distance_to` for a limit of at most `_NEAR_MM`: squared distances in bytes, an axis after the other, a step after the other."""
    cut = int(limit_mm**2) + 1
    squared = np.where(mask, np.uint8(0), np.uint8(cut))
    for axis in range(mask.ndim):
        before = np.moveaxis(squared, axis, 0)
        squared = squared.copy()
        after = np.moveaxis(squared, axis, 0)
        for step in range(1, min(int(limit_mm) + 1, len(before))):
            further = before + np.uint8(step * step)
            np.minimum(after[step:], further[:-step], out=after[step:])
            np.minimum(after[:-step], further[step:], out=after[:-step])
    return np.minimum(np.sqrt(np.arange(cut + 1)), limit_mm).astype(np.float32)[squared]


def _maurer(mask: np.ndarray, limit_mm: float) -> np.ndarray:
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    distance = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False, useImageSpacing=False)
    return np.clip(sitk.GetArrayFromImage(distance), 0.0, limit_mm).astype(np.float32)


def box_around(centre: np.ndarray, radius: float, shape: tuple[int, ...]) -> tuple[slice, slice, slice]:
    """The part of a grid within `radius` of `centre` (axes z, y, x)."""
    low = [int(max(0, np.floor(c - radius))) for c in centre]
    high = [int(min(n, np.ceil(c + radius) + 1)) for c, n in zip(centre, shape, strict=True)]
    return slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])


def offsets(centre: np.ndarray, box: tuple[slice, slice, slice]) -> np.ndarray:
    """(3, …) float32: position relative to `centre` of every voxel of `box`."""
    axes = [np.arange(s.start, s.stop, dtype=np.float32) - np.float32(c) for s, c in zip(box, centre, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def random_rotation(rng: Rng) -> np.ndarray:
    """(3, 3) a rotation drawn evenly."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    return q * np.sign(np.diag(r))


def warp(volume: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """`volume` (z, y, x) read at x + shift(x); shift (3, z, y, x) in voxels."""
    size = volume.shape
    axes = [torch.arange(n, dtype=torch.float32) for n in size]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")) + torch.from_numpy(shift)
    scale = torch.tensor([2.0 / (n - 1) for n in size]).view(3, 1, 1, 1)
    grid = (grid * scale - 1.0).permute(1, 2, 3, 0).flip(-1)[None]
    out = functional.grid_sample(torch.from_numpy(volume)[None, None], grid, mode="bilinear", padding_mode="border", align_corners=True)
    return out[0, 0].numpy()


def smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)
