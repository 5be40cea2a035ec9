"""What there is in a mask: pieces with their true volumes, slices, extent; and the removal of specks and the vault's edge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .ct import CTVolume
from .skull import BONE_HU
from .slices import slice_areas_cm2

#: HU below which a voxel is air or fat: outside the skull.
OUTSIDE_HU = -200.0
#: Share of a piece below bone or air from which on it is the vault's edge.
COVERED = 0.85
#: The slices beside a piece that stands on one slice only tell against it where they lie at most so far away.
BESIDE_MM = 8.0


@dataclass(frozen=True)
class Component:
    """One piece of haemorrhage. ml: its volume. slices: first and last, 1 is the lowest. centre_lps_mm: its centre of mass."""

    ml: float
    slices: tuple[int, int]
    centre_lps_mm: tuple[float, float, float]


@dataclass(frozen=True)
class SliceFinding:
    """A slice with haemorrhage. slice: number from below, 1 is the lowest. index: in the file's own order, from 0. z_mm: height of its centre."""

    slice: int
    index: int
    z_mm: float
    area_cm2: float
    ml: float


def tidied(mask: np.ndarray, ct: CTVolume, smallest_ml: float, single_slice_ml: float = 0.0) -> tuple[np.ndarray, tuple[Component, ...]]:
    """The mask (slices, rows, columns) without specks and the vault's edge, and the pieces that stay, the largest first.

    Voxels belong together over faces, edges and corners. Specks are pieces below smallest_ml, by the true slice positions, and those below
    single_slice_ml of which the slices beside their only one, no further than `BESIDE_MM`, show nothing: blood seldom ends so, noise and partial
    volume do. Ours: in the 64 validation cases such pieces below 1 mL held 17 % of all false blood and 0.6 % of the true. The vault's edge are
    pieces nearly all of which (`COVERED`) lies below bone or air of the next slice: where a slice cuts the vault at a slant, bone shares its voxels
    with brain and fluid, which is then as bright as blood. A thin subdural beside the slant has bone above it too, but not above most of it. Ours:
    false pieces of the one real scan at hand lay below bone by 0.91 and more, subdurals of synthetic TBI (training and validation heads) by up to
    0.73.
    """
    from scipy import ndimage

    result = np.zeros_like(mask)
    box = bounding_box(mask)
    if box is None:
        return result, ()
    labels, count = ndimage.label(mask[box], np.ones((3, 3, 3)))
    ml, voxels, covered = np.zeros((3, count + 1))
    moments = np.zeros((3, count + 1))  # mL times slice, row, column
    for k, plane in enumerate(labels, start=box[0].start):  # one at a time: the indices of all voxels would need more memory than the scan
        where = np.nonzero(plane)
        found, place = np.unique(plane[where], return_inverse=True)
        voxel_ml = ct.voxel_volumes_ml[k]
        count_here = np.bincount(place, minlength=len(found))
        voxels[found] += count_here
        ml[found] += count_here * voxel_ml
        moments[0, found] += count_here * voxel_ml * k
        for axis in (0, 1):
            moments[axis + 1, found] += np.bincount(place, where[axis] + box[axis + 1].start, len(found)) * voxel_ml
        if k + 1 < len(mask):
            above = ct.hu[k + 1, box[1], box[2]][where]
            covered[found] += np.bincount(place[(above > BONE_HU) | (above < OUTSIDE_HU)], minlength=len(found))
    ends = ndimage.find_objects(labels)
    lonely = np.array([False, *(place[0].stop - place[0].start == 1 and _has_near_slices(ct, box[0].start + place[0].start) for place in ends)])
    keep = (ml >= np.where(lonely, max(smallest_ml, single_slice_ml), smallest_ml) * (1.0 - 1e-9)) & (covered < COVERED * voxels)
    keep[0] = False
    result[box] = keep[labels]
    pieces = []
    for n in np.flatnonzero(keep):
        at = moments[:, n] / ml[n]
        lps = _position(ct, float(at[0])) + at[1] * ct.spacing[0] * ct.column_direction + at[2] * ct.spacing[1] * ct.row_direction
        extent = ends[n - 1][0]
        first = box[0].start + extent.start + 1
        pieces.append(Component(float(ml[n]), (first, first + extent.stop - extent.start - 1), (float(lps[0]), float(lps[1]), float(lps[2]))))
    return result, tuple(sorted(pieces, key=lambda piece: -piece.ml))


def slice_findings(mask: np.ndarray, ct: CTVolume) -> tuple[SliceFinding, ...]:
    """The slices that hold some of the mask, from below."""
    areas = slice_areas_cm2(mask, ct)
    rows, columns = ct.shape[1:]
    middle = (rows - 1) / 2 * ct.spacing[0] * ct.column_direction + (columns - 1) / 2 * ct.spacing[1] * ct.row_direction
    flipped, last = ct.storage.flips[0], len(mask) - 1
    return tuple(
        SliceFinding(
            slice=int(k) + 1,
            index=int(last - k if flipped else k),
            z_mm=float(ct.positions[k, 2] + middle[2]),
            area_cm2=float(areas[k]),
            ml=float(areas[k] * ct.slice_thicknesses[k] / 10.0),
        )
        for k in np.flatnonzero(areas)
    )


def extent_mm(mask: np.ndarray, ct: CTVolume) -> tuple[float, float, float] | None:
    """Left–right, front–back and bottom–top mm of the mask's box in the slices' own axes, whole voxels; None where it is empty."""
    box = bounding_box(mask)
    if box is None:
        return None
    rows, columns = (b.stop - b.start for b in box[1:])
    return float(columns * ct.spacing[1]), float(rows * ct.spacing[0]), float(ct.slice_thicknesses[box[0]].sum())


def bounding_box(mask: np.ndarray) -> tuple[slice, slice, slice] | None:
    """The smallest box that holds the mask, None where it is empty."""
    held = [np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis))) for axis in range(3)]
    if len(held[0]) == 0:
        return None
    start, stop = [int(h[0]) for h in held], [int(h[-1]) + 1 for h in held]
    return slice(start[0], stop[0]), slice(start[1], stop[1]), slice(start[2], stop[2])


def _has_near_slices(ct: CTVolume, k: int) -> bool:
    """Whether slice k has neighbours, none further than `BESIDE_MM` from it."""
    gaps = ct.gaps_mm[max(0, k - 1) : k + 1]
    return len(gaps) > 0 and float(gaps.max()) <= BESIDE_MM


def _position(ct: CTVolume, k: float) -> np.ndarray:
    """(3,) LPS mm of voxel [k, 0, 0], between two slices too."""
    numbers = np.arange(len(ct.positions))
    return np.array([np.interp(k, numbers, ct.positions[:, axis]) for axis in range(3)])
