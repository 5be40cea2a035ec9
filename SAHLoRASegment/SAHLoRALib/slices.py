"""The way between a scan and the network's pixel grid, and back.

Slices are resampled in their plane only, so gantry tilt, uneven gaps and thick slices do no harm; thin ones are averaged to slabs first. The head's
window is cropped from the scan, its field of view is laid exactly onto ``round(n · spacing / pixel)`` network pixels, and the result returns
to exactly the same window. All functions take a range of slices, so a large scan passes in chunks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from .errors import ConfigError
from .noise import NOISY_HU, noise_hu, smoothed
from .skull import block_factors, block_mean, head_body, intracranial
from .volume import AIR_HU, CTVolume

__all__ = [
    "HeadWindow",
    "PixelGrid",
    "brain_window",
    "from_network",
    "head_window",
    "interpolated",
    "intracranial",
    "mask_to_network",
    "network_size",
    "normalise",
    "slice_areas_cm2",
    "slices_to_see",
    "to_network",
    "volume_ml",
]

#: Metal reaches 30,000 HU; clipped, it cannot smear over its neighbours when slices are resampled.
METAL_HU = 3071.0
#: Slices nearer to each other than THIN_MM (median) are noisier than any that the models have seen: each becomes the mean of a slab, weighted by
#: a Gaussian of SLAB_MM (σ; 1.9 mm wide at half its height). At 17 HU of noise in slices of 1 mm the base finds nothing without it.
THIN_MM, SLAB_MM = 1.6, 0.8
#: So wide are slabs that the network need not see one for every slice: between two of them, at most STEP_MM apart, its logits are interpolated.
STEP_MM = 1.25

ArrayOrTensor = TypeVar("ArrayOrTensor", np.ndarray, Tensor)
Slices = slice | Sequence[int] | np.ndarray | None


@dataclass(frozen=True)
class PixelGrid:
    """The network's pixels."""

    pixel_mm: float = 1.0
    """Side of a pixel, mm, 0.1 to 10."""
    window: tuple[float, float] = (0.0, 140.0)
    """HU that become 0 and 1; what lies outside is cut off."""
    multiple: int = 16
    """Rows and columns are padded to a multiple of this."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", (float(self.window[0]), float(self.window[1])))
        if not 0.1 <= self.pixel_mm <= 10.0:
            raise ConfigError(f"pixel_mm must be between 0.1 and 10, not {self.pixel_mm}.")
        if self.window[0] >= self.window[1]:
            raise ConfigError(f"The HU window must rise, not go from {self.window[0]} to {self.window[1]}.")
        if not 1 <= self.multiple <= 1024:
            raise ConfigError(f"multiple must be between 1 and 1024, not {self.multiple}.")


@dataclass(frozen=True)
class HeadWindow:
    """Where the head is, and how noisy. rows, columns: start and stop in the scan. slices: indices of the slices that hold some of it. noise_hu: see
    `noise.noise_hu`.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    slices: tuple[int, ...]
    noise_hu: float = 0.0

    @property
    def noisy(self) -> bool:
        """Noisier than what the models have seen; then the slices are smoothed before they are resampled."""
        return self.noise_hu > NOISY_HU

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    def crop(self, array: np.ndarray) -> np.ndarray:
        """A view of (..., rows, columns) on the window."""
        return array[..., self.rows[0] : self.rows[1], self.columns[0] : self.columns[1]]


def normalise(hu: ArrayOrTensor, window: tuple[float, float]) -> ArrayOrTensor:
    """HU → [0, 1]: window[0] becomes 0 and window[1] becomes 1, clipped."""
    return ((hu - window[0]) / (window[1] - window[0])).clip(0.0, 1.0)


def head_window(ct: CTVolume, margin_mm: float = 10.0) -> HeadWindow:
    """The box of the head in the plane, over all slices, with a margin; the head holder is dropped.

    Found on pixels of about 3 mm: opened by 6 mm, the thin shell of the holder vanishes; the largest piece is the head. A scan in which nothing
    is found (a phantom) keeps its full window.
    """
    rows, columns = ct.shape[1:]
    row_step, column_step = block_factors(ct, 3.0)
    body = ct.hu[:, ::row_step, ::column_step] > -300.0
    head = head_body(body, (row_step * ct.spacing[0], column_step * ct.spacing[1]))
    if not head.any():
        return HeadWindow((0, rows), (0, columns), tuple(range(len(ct.hu))))
    area_cm2 = head.sum(axis=(1, 2)) * row_step * column_step * ct.spacing[0] * ct.spacing[1] / 100.0
    box = []
    for axis, (n, step, s) in enumerate(zip((rows, columns), (row_step, column_step), ct.spacing, strict=True)):
        hit = np.flatnonzero(head.any(axis=(0, 2 - axis)))
        margin = round(margin_mm / s)
        box.append((max(0, int(hit[0]) * step - margin), min(n, (int(hit[-1]) + 1) * step + margin)))
    held = np.flatnonzero(area_cm2 > 3.0)
    window = HeadWindow(box[0], box[1], tuple(int(k) for k in (held if len(held) else range(len(ct.hu)))))
    return replace(window, noise_hu=_noise(ct, window))


def _noise(ct: CTVolume, head: HeadWindow) -> float:
    """Of some slices in the middle of the head, as the network sees them but for the last fraction of a pixel."""
    middle = sorted({head.slices[int(share * len(head.slices))] for share in (0.3, 0.4, 0.5, 0.6, 0.7)})
    hu = _slabs(ct, middle, head) if _is_thin(ct) else head.crop(ct.hu[middle])
    return noise_hu(np.stack([block_mean(plane, block_factors(ct, 1.0)) for plane in hu]))


def brain_window(ct: CTVolume, inside: np.ndarray, head: HeadWindow, margin_mm: float = 28.0) -> HeadWindow:
    """The part of the head's window around the inside of the skull (slices, rows, columns), with the bone and some scalp; its slices hold inside.

    Nothing outside the skull is ever segmented, so a network need not see the face and the ears: a fifth to a third of the head's pixels.
    """
    box = []
    for bounds, axes, step in ((head.rows, (0, 2), ct.spacing[0]), (head.columns, (0, 1), ct.spacing[1])):
        hit = np.flatnonzero(inside.any(axis=axes))
        if not len(hit):
            return head
        margin = math.ceil(margin_mm / step)
        box.append((max(bounds[0], int(hit[0]) - margin), min(bounds[1], int(hit[-1]) + 1 + margin)))
    if any(start >= stop for start, stop in box):
        return head
    return HeadWindow(box[0], box[1], tuple(k for k in head.slices if inside[k].any()), head.noise_hu)


def network_size(ct: CTVolume, grid: PixelGrid, head: HeadWindow) -> tuple[int, int]:
    """Network pixels that the head's window covers, rows and columns, before padding."""
    rows, columns = (max(1, round(n * s / grid.pixel_mm)) for n, s in zip(head.shape, ct.spacing, strict=True))
    return rows, columns


def to_network(ct: CTVolume, grid: PixelGrid, slices: Slices = None, head: HeadWindow | None = None) -> Tensor:
    """Slices of a scan on the network's pixels: (n, 1, H, W) float32, HU between -1024 and 3071.

    In-plane, anti-aliased; padded with air on the right and at the bottom to `grid.multiple`; of thin slices the mean of a slab around each, and
    noisy ones smoothed. head: `head_window(ct)`, made here if not given.
    """
    head = head or head_window(ct)
    hu = _slabs(ct, slices, head) if _is_thin(ct) else head.crop(ct.hu[_index(slices)])
    if head.noisy:
        hu = smoothed(hu.clip(AIR_HU, METAL_HU), ct.spacing, head.noise_hu)
    return _resample_in(hu, ct, grid, head, low=AIR_HU, high=METAL_HU)


def mask_to_network(mask: np.ndarray, ct: CTVolume, grid: PixelGrid, head: HeadWindow | None = None, slices: Slices = None) -> Tensor:
    """A mask on the network's pixels: (n, 1, H, W) float32 in [0, 1], the share of each pixel that it covers."""
    head = head or head_window(ct)
    return _resample_in(head.crop(mask[_index(slices)]), ct, grid, head, low=0.0, high=1.0)


def from_network(values: Tensor, ct: CTVolume, grid: PixelGrid, head: HeadWindow) -> np.ndarray:
    """(n, 1, H, W) on the network's pixels → (n, rows, columns) float32 on the scan's, bilinear; zeros outside the head's window."""
    rows, columns = network_size(ct, grid, head)
    inner = values[:, :, :rows, :columns].float()
    back = interpolate(inner, size=head.shape, mode="bilinear", align_corners=False, antialias=True)
    result = np.zeros((len(values), *ct.shape[1:]), np.float32)
    head.crop(result)[...] = back[:, 0].detach().cpu().numpy()
    return result


def slices_to_see(ct: CTVolume, slices: Sequence[int], most: int) -> tuple[list[int], list[int]]:
    """The first of `slices` (rising) that `most` slices shown to the network suffice for, and the slices to show.

    Thick slices are all shown; of thin ones the first and the last, and as few between as lie no more than `STEP_MM` apart.
    """
    shown = ct.spaced(slices, STEP_MM, most) if _is_thin(ct) else list(slices[:most])
    return [k for k in slices if k <= shown[-1]], shown


def interpolated(values: Tensor, ct: CTVolume, shown: Sequence[int], slices: Sequence[int]) -> Tensor:
    """Probabilities (shown, 1, H, W) → (slices, 1, H, W) of slices that lie between those shown: their logits are linear in the height.

    Between a sure slice and an unsure one more stays than with the probabilities themselves: of the volume 2 % are lost, not 4 %.
    """
    if len(shown) == len(slices):
        return values
    heights = ct.heights_mm
    weights = [np.interp(heights[list(slices)], heights[list(shown)], one) for one in np.eye(len(shown))]
    return torch.tensordot(torch.from_numpy(np.stack(weights, axis=1)).to(values), torch.logit(values, 1e-4), dims=1).sigmoid_()


def _is_thin(ct: CTVolume) -> bool:
    return len(ct.gaps_mm) > 1 and float(np.median(ct.gaps_mm)) < THIN_MM


def _slabs(ct: CTVolume, slices: Slices, head: HeadWindow) -> np.ndarray:
    """(n, rows, columns) float32 HU of the head's window, each slice with its neighbours within three σ."""
    away = np.abs(ct.heights_mm[_index(slices)][:, None] - ct.heights_mm)
    weights = np.where(away <= 3 * SLAB_MM, np.exp(-0.5 * (away / SLAB_MM) ** 2), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    used = np.flatnonzero(weights.any(axis=0))
    part = slice(int(used[0]), int(used[-1]) + 1)
    near = np.clip(head.crop(ct.hu[part]), AIR_HU, METAL_HU).astype(np.float32)
    return np.tensordot(weights[:, part].astype(np.float32), near, axes=1)


def _resample_in(array: np.ndarray, ct: CTVolume, grid: PixelGrid, head: HeadWindow, low: float, high: float) -> Tensor:
    tensor = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))[:, None].clamp_(low, high)
    rows, columns = network_size(ct, grid, head)
    tensor = interpolate(tensor, size=(rows, columns), mode="bilinear", align_corners=False, antialias=True)
    return pad(tensor, (0, -columns % grid.multiple, 0, -rows % grid.multiple), value=low)


def _index(slices: Slices) -> slice | np.ndarray:
    if slices is None:
        return slice(None)
    return slices if isinstance(slices, slice) else np.asarray(slices, dtype=int)


def volume_ml(mask: np.ndarray, ct: CTVolume) -> float:
    """mL of a mask (slices, rows, columns), from the true slice positions."""
    return float(np.count_nonzero(mask, axis=(1, 2)) @ ct.voxel_volumes_ml)


def slice_areas_cm2(mask: np.ndarray, ct: CTVolume) -> np.ndarray:
    """(slices,) cm² of a mask in each slice's plane."""
    return np.count_nonzero(mask, axis=(1, 2)) * (ct.spacing[0] * ct.spacing[1] / 100.0)
