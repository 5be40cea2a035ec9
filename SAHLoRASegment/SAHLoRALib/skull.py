"""The inside of the skull: where a haemorrhage can be.

Outlined slice by slice, of thin ones no more than one a millimetre, on pixels of about 1.5 mm. In most slices the bone is a ring once gaps of a
centimetre are closed. Where it is not (craniotomy, skull base), wider closings add what continues the brain of the neighbouring slice and, above
the skull base, so does the convex hull of the bone. What the outlines hold besides the brain (orbits, temporal fossa, nose) hangs on it by narrow
necks: eroded by 4 mm, the largest piece in 3D is the brain; it grows back to the bone, so blood along the inner table stays. The fine edge is cut
by the scan's own pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from .discs import filled, within
from .volume import AIR_HU, CTVolume

#: HU above which a pixel is bone (or metal); a thin plate that shares a pixel with brain stays a barrier down to BARRIER_HU, blood stays below it.
BONE_HU = 250.0
BARRIER_HU = 130.0
#: Where blood of 60 HU meets bone of 1,000 HU and more, the scanner's blur puts half-way values: the true edge of the inner table lies at about
#: this HU. At 250 HU a thin subdural film would lose a sixth of its volume.
EDGE_HU = 500.0
_COARSE_MM = 1.5
#: Where a scan is only looked at: no more slices than this.
_MOST_SLICES = 48
#: Slices nearer than this to one that is outlined take its outline, the nearest one's.
_APART_MM = 1.25
_CLOSINGS_MM = (5.0, 10.0, 20.0)
#: The vault is open where no ring holds this share of the soft tissue that the largest convex hull of its bone holds.
_OPEN = 0.75
#: mm below the top of the skull to which the convex hull may stand in for an open ring; the orbits lie lower.
_VAULT_MM = 95.0
_ERODE_MM = 4.0
_THREADS = min(4, os.cpu_count() or 1)


def intracranial(ct: CTVolume) -> np.ndarray:
    """Bool (slices, rows, columns): inside the skull's outline, without bone. All false where no skull is found.

    Scalp, face, orbits and head holder are outside; what is denser than 500 HU counts as bone.
    """
    outlined = ct.spaced(range(len(ct.hu)), _APART_MM)
    factors = block_factors(ct, _COARSE_MM)
    coarse = _coarse(ct, factors, outlined)
    coarse.hu[~head_body(coarse.hu > -300.0, coarse.spacing)] = AIR_HU
    inside = _brain_piece(coarse, _regions(coarse))
    nearest = np.abs(ct.heights_mm[:, None] - ct.heights_mm[outlined]).argmin(axis=1)
    return _fine(inside, nearest, ct, factors)


def head_body(body: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """The head in a mask (slices, rows, columns) of what is not air: opened by 6 mm in the plane, the largest piece, grown back.

    The head holder is a thin shell or bars, so it vanishes or comes apart from the head. All false where nothing is left. spacing: mm.
    """
    from scipy.ndimage import label

    radius = 6.0

    def core_of(k: int) -> np.ndarray:
        # The edge is repeated outwards: a head that the field of view cuts off is not eaten from there.
        return ~within(~np.pad(body[k], 8, mode="edge"), radius, spacing)[8:-8, 8:-8]

    def grown(k: int) -> np.ndarray:
        return within(head[k], radius + max(spacing), spacing) & body[k]

    cores = np.zeros(body.shape, bool)
    _in_threads(core_of, np.flatnonzero(body.any(axis=(1, 2))), cores)
    labels, count = label(cores)
    if count == 0:
        return cores
    head = labels == 1 + int(np.bincount(labels.ravel())[1:].argmax())
    _in_threads(grown, np.flatnonzero(head.any(axis=(1, 2))), head)
    return head


def _in_threads(do: Callable[[int], Any], slices: Iterable[int], into: Any) -> None:
    """into[k] = do(k) for slices, on a few threads: scipy's transforms let others compute meanwhile, and no slice looks at another."""
    numbers = [int(k) for k in slices]
    with ThreadPoolExecutor(_THREADS) as pool:
        for k, made in zip(numbers, list(pool.map(do, numbers)), strict=True):
            into[k] = made


def block_mean(hu: np.ndarray, factors: tuple[int, int]) -> np.ndarray:
    """(rows, columns) → float32 means of blocks of factors pixels; the last block repeats the edge."""
    rows, columns = factors
    padded = np.pad(hu, ((0, -hu.shape[0] % rows), (0, -hu.shape[1] % columns)), mode="edge")
    # Whole rows first and then strided columns: an eighth of the time of a mean over two axes of the blocks.
    strips = padded.reshape(padded.shape[0] // rows, rows, -1).sum(axis=1, dtype=np.float32)
    total = strips[:, ::columns].copy()
    for n in range(1, columns):
        total += strips[:, n::columns]
    return total / np.float32(rows * columns)


def block_factors(ct: CTVolume, pixel_mm: float) -> tuple[int, int]:
    """Pixels of the scan, along rows and columns, in a block of about pixel_mm."""
    return max(1, round(pixel_mm / ct.spacing[0])), max(1, round(pixel_mm / ct.spacing[1]))


def sampled(ct: CTVolume, array: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Of an array (slices, rows, columns) on the scan's grid: numbers of slices from all its height, their means of blocks of 2 mm, mm of a block."""
    chosen = np.unique(np.linspace(0, len(ct.hu) - 1, min(_MOST_SLICES, len(ct.hu))).round().astype(int))
    factors = block_factors(ct, 2.0)
    spacing = (ct.spacing[0] * factors[0], ct.spacing[1] * factors[1])
    return chosen, np.stack([block_mean(array[k], factors) for k in chosen]), spacing


def _coarse(ct: CTVolume, factors: tuple[int, int], slices: list[int]) -> CTVolume:
    """Some slices as means of blocks of factors pixels."""
    hu = np.stack([block_mean(ct.hu[k], factors) for k in slices])
    return replace(ct, hu=hu, positions=ct.positions[slices], spacing=(ct.spacing[0] * factors[0], ct.spacing[1] * factors[1]))


def close(mask: np.ndarray, radius_mm: float, spacing: tuple[float, float]) -> np.ndarray:
    """Morphological closing of a 2D mask with a disc, by distances; nothing grows in from the border."""
    if not mask.any():
        return mask
    window = _box(mask)
    margin = [int(np.ceil(radius_mm / s)) + 1 for s in spacing]
    wide = np.pad(mask[window], ((margin[0], margin[0]), (margin[1], margin[1])))
    closed = _eroded(within(wide, radius_mm, spacing), radius_mm, spacing)
    result = np.zeros_like(mask)  # a closing stays within the box of what is closed
    result[window] = (closed | wide)[margin[0] : -margin[0], margin[1] : -margin[1]]
    return result


def _eroded(mask: np.ndarray, radius_mm: float, spacing: tuple[float, float]) -> np.ndarray:
    """A 2D mask without what lies within radius_mm of its outside; beyond the border is outside."""
    return ~within(~np.pad(mask, 1), radius_mm, spacing)[1:-1, 1:-1]


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """The smallest rectangle that holds a 2D mask, which is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def ring_inside(bone: np.ndarray, radius_mm: float, spacing: tuple[float, float]) -> np.ndarray:
    """What a 2D mask of bone encloses once gaps of twice radius_mm are closed, bone included."""
    return filled(close(bone, radius_mm, spacing))


def convex_hull(mask: np.ndarray) -> np.ndarray:
    """The convex hull of a 2D mask, as a mask."""
    from scipy.spatial import ConvexHull, QhullError

    points = np.argwhere(mask)
    try:
        equations = ConvexHull(points).equations
    except (QhullError, ValueError):  # fewer than three points, or all on one line
        return mask.copy()
    # Row by row between the farthest left and right that every side of the hull, a·y + b·x + c ≤ 0, allows.
    y, x = np.arange(mask.shape[0], dtype=float), np.arange(mask.shape[1])
    left, right = np.zeros(len(y)), np.full(len(y), float(mask.shape[1]))
    for a, b, c in equations:
        room = 1e-6 - c - a * y
        if b > 1e-12:
            np.minimum(right, room / b, out=right)
        elif b < -1e-12:
            np.maximum(left, room / b, out=left)
        else:
            right[room < 0] = -1.0
    return (x >= left[:, None]) & (x <= right[:, None])


def bone_hull(bone: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """The convex hull of a 2D mask of bone, of its pieces of more than 1 cm²."""
    from scipy import ndimage

    labels, count = ndimage.label(bone, np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=count + 1) * spacing[0] * spacing[1]
    areas[0] = 0.0
    return convex_hull((areas > 100.0)[labels])


def _outlines(hu: np.ndarray, spacing: tuple[float, float]) -> list[np.ndarray]:
    """Candidate outlines of one slice, the most cautious first, the convex hull of the bone last."""
    bone = hu > BONE_HU - 50.0
    return [*(ring_inside(bone, radius, spacing) for radius in _CLOSINGS_MM), bone_hull(bone, spacing)]


def _soft(hu: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Brain, blood and water in a region: no fat, no air, nothing of the bone's edge."""
    return region & (hu > -60.0) & (hu < BARRIER_HU)


def _regions(ct: CTVolume) -> np.ndarray:
    """Bool like ct.hu, which is coarse: the outline of every slice. Begins in the slice with the largest inside, goes up and down from there."""
    coarse, spacing = ct.hu, ct.spacing
    regions = np.zeros(coarse.shape, bool)
    heights = ct.heights_mm
    with_bone = np.flatnonzero((coarse > BONE_HU).sum(axis=(1, 2)) * spacing[0] * spacing[1] > 200.0)
    if len(with_bone) == 0:
        return regions
    top = heights[with_bone[-1]]
    vault = heights >= top - _VAULT_MM
    outlines: dict[int, list[np.ndarray]] = {}
    _in_threads(lambda k: _outlines(coarse[k], spacing), range(len(coarse)), outlines)
    probes = with_bone[np.unique(np.linspace(0, len(with_bone) - 1, 24).round().astype(int))]
    inside = {int(k): _soft(coarse[k], outlines[int(k)][len(_CLOSINGS_MM) - 1]) for k in probes}
    # Where an opening or the edge of the field breaks every ring of the vault, a low slice would be the largest, and lead to nothing above it.
    hulls = {int(k): _soft(coarse[k], outlines[int(k)][-1]) for k in probes if vault[k]}
    if max(int(soft.sum()) for soft in inside.values()) < _OPEN * max((int(soft.sum()) for soft in hulls.values()), default=0):
        inside |= hulls
    start = max(inside, key=lambda k: (int(inside[k].sum()) * (1.0 if vault[k] else 0.5), k))
    if not inside[start].any():
        return regions
    regions[start] = _continued(coarse[start], outlines[start], inside[start], spacing, bool(vault[start]))
    for path in (range(start + 1, len(coarse)), range(start - 1, -1, -1)):
        before = _soft(coarse[start], regions[start])
        for k in path:
            regions[k] = _continued(coarse[k], outlines[k], before, spacing, bool(vault[k]))
            now = _soft(coarse[k], regions[k])
            before = now if now.sum() > 0.3 * before.sum() else before & now
    return regions


def _continued(hu: np.ndarray, outlines: Iterable[np.ndarray], before: np.ndarray, spacing: tuple[float, float], vault: bool) -> np.ndarray:
    """The outline that continues the neighbouring slice, `before` being the soft tissue inside that one.

    It is the most cautious outline, and of the wider ones those pieces of soft tissue that lie over `before` by 80 %. Below the vault a piece from
    across a large opening must also have bone around half of its edge: that tells the floor of the skull from the muscles under it. The hull holds
    the orbits there; it serves only where all else has lost the brain, and only as far as the neighbouring slice's inside reaches.
    """
    from scipy.ndimage import label

    pixel_cm2 = spacing[0] * spacing[1] / 100.0
    result: np.ndarray | None = None
    for step, outline in enumerate(outlines):
        if result is None:
            result = outline
            continue
        if step > 1 and not vault and before.sum() * pixel_cm2 < 25.0:
            break
        if step == len(_CLOSINGS_MM) and not vault:
            if _soft(hu, result).sum() > 0.3 * before.sum():
                break
            outline = outline & within(before, 6.5, spacing, open_disc=True)
        extra = _soft(hu, outline) & ~result
        if extra.sum() * pixel_cm2 < 0.5:
            continue
        pieces, count = label(_eroded(extra, 3.0, spacing))
        for n in range(1, count + 1):
            piece = pieces == n
            if piece.sum() * pixel_cm2 < 0.5 or (piece & before).sum() < 0.8 * piece.sum():
                continue
            around = within(piece, 6.5, spacing, open_disc=True)
            edge = around & ~within(piece, 3.0, spacing)
            if step > 1 and not vault and (hu[edge] > BARRIER_HU).mean() < 0.5:
                continue
            result = result | (around & outline)
    assert result is not None
    return result


def _brain_piece(ct: CTVolume, regions: np.ndarray) -> np.ndarray:
    """Bool like ct.hu, which is coarse: the largest piece of soft tissue in the outlines, grown by a pixel into the bone around it."""
    from scipy import ndimage

    coarse, spacing = ct.hu, ct.spacing
    soft = np.zeros(coarse.shape, bool)
    seeds = np.zeros(coarse.shape, bool)
    there = np.flatnonzero(regions.any(axis=(1, 2)))
    soft[there] = _soft(coarse[there], regions[there])

    def seed(k: int) -> np.ndarray:
        return _eroded(soft[k] | _small_holes(soft[k], spacing), _ERODE_MM, spacing)

    _in_threads(seed, there, seeds)
    structure = ndimage.generate_binary_structure(3, 1)
    structure[1] = True
    labels, count = ndimage.label(seeds, structure)
    if count == 0:
        return seeds
    weights = np.repeat(ct.voxel_volumes_ml, coarse[0].size)
    volumes = np.bincount(labels.ravel(), weights=weights, minlength=count + 1)
    volumes[0] = 0.0
    piece = labels == int(volumes.argmax())
    steps = int(np.ceil((_ERODE_MM + 3.0) / min(spacing)))

    def grown(k: int) -> np.ndarray:
        whole = ndimage.binary_dilation(piece[k], iterations=steps, mask=soft[k] | piece[k])
        whole = filled(whole)
        return whole | (ndimage.binary_dilation(whole, np.ones((3, 3))) & (coarse[k] >= BARRIER_HU))

    _in_threads(grown, np.flatnonzero(piece.any(axis=(1, 2))), piece)
    return piece


def _small_holes(mask: np.ndarray, spacing: tuple[float, float], largest_cm2: float = 4.0) -> np.ndarray:
    """Holes of a 2D mask up to a size: calcifications, clips, bubbles of air."""
    from scipy import ndimage

    holes = filled(mask) & ~mask
    labels, count = ndimage.label(holes)
    small = np.bincount(labels.ravel(), minlength=count + 1) * spacing[0] * spacing[1] <= 100.0 * largest_cm2
    small[0] = False
    return small[labels]


def _fine(inside: np.ndarray, nearest: np.ndarray, ct: CTVolume, factors: tuple[int, int]) -> np.ndarray:
    """The coarse mask on the scan's pixels, without bone. nearest: of every slice of the scan the coarse one.

    Slice by slice: memory stays that of the result.
    """
    import torch
    from torch.nn.functional import interpolate

    result = np.zeros(ct.shape, bool)
    rows, columns = ct.shape[1:]
    for coarse_slice in np.flatnonzero(inside.any(axis=(1, 2))):
        coarse = torch.from_numpy(inside[coarse_slice].astype(np.float32))[None, None]
        size = (coarse.shape[2] * factors[0], coarse.shape[3] * factors[1])
        outline = interpolate(coarse, size=size, mode="bilinear", align_corners=False)[0, 0, :rows, :columns].numpy() > 0.5
        for k in np.flatnonzero(nearest == coarse_slice):
            np.logical_and(outline, ct.hu[k] <= EDGE_HU, out=result[k])
    return result
