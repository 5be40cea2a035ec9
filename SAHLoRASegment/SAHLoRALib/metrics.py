"""How well a mask agrees with the annotation: overlap, distance of the surfaces, volume.

All functions take arrays of one shape (slices, rows, columns); `spacing` is (slices, rows, columns) in mm, as the arrays lie. Surfaces are the masks'
border voxels (those with a neighbour across a face that is not of the mask), and their distances are as MONAI defines them, but between the true
positions of the voxels: a scan's gaps may differ, slices may be missing and a gantry tilt shears the grid, for which one spacing an axis is wrong.

Empty masks, in one place:

| | both empty | annotation empty, prediction not | prediction empty, annotation not |
|---|---|---|---|
| `dice`, `soft_dice` | 1 | 0 | 0 |
| `precision` | NaN | 0 | NaN |
| `recall` | NaN | NaN | 0 |
| `hd95_mm` | NaN | NaN | NaN |
| `surface_dice` | NaN | 0 | 0 |

A Hausdorff distance to nothing does not exist; a missed haemorrhage shows in Dice, recall and surface Dice, which are 0 there, and in the number of
patients with a distance, which stands beside its mean wherever it is not that of all. Patients without haemorrhage are judged by false-positive mL
instead (see evaluation.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import CaseError

if TYPE_CHECKING:
    from .ct import CTVolume

Spacing = tuple[float, float, float]
#: (n, 3) slices, rows, columns → (n, 3) mm.
_Positions = Callable[[np.ndarray], np.ndarray]
SURFACE_TOLERANCE_MM = 2.0
#: What sums of steps may be off: a voxel at just the tolerance lies within it.
_ROUNDING_MM = 1e-6


def dice(mask: np.ndarray, reference: np.ndarray) -> float:
    """2|A∩B| / (|A| + |B|) of two boolean arrays; 1.0 when both are empty (nothing was to be found and nothing was)."""
    _same_shape(mask, reference)
    mask, reference = mask.astype(bool, copy=False), reference.astype(bool, copy=False)
    total = np.count_nonzero(mask) + np.count_nonzero(reference)
    return 2 * np.count_nonzero(mask & reference) / total if total else 1.0


def soft_dice(probability: np.ndarray, reference: np.ndarray) -> float:
    """2Σpg / (Σp + Σg): Dice on un-thresholded probabilities in [0, 1], the figure that the laboratory's TBI network was reported with.

    It is lower than the thresholded Dice where the network is unsure, and is summed in float64. 1.0 when both sums are 0.
    """
    _same_shape(probability, reference)
    overlap, total = (float(sums.sum()) for sums in _soft_sums(probability, reference))
    return 2 * overlap / total if total else 1.0


def precision(mask: np.ndarray, reference: np.ndarray) -> float:
    """|A∩B| / |A|: the part of the predicted voxels that is annotated. NaN when nothing is predicted."""
    _same_shape(mask, reference)
    return _ratio(int(np.count_nonzero(mask.astype(bool) & reference.astype(bool))), int(np.count_nonzero(mask)))


def recall(mask: np.ndarray, reference: np.ndarray) -> float:
    """|A∩B| / |B|: the part of the annotated voxels that is found. NaN when nothing is annotated."""
    return precision(reference, mask)


def hd95_mm(mask: np.ndarray, reference: np.ndarray, spacing: Spacing) -> float:
    """95th percentile of the Hausdorff distance in mm: the larger of both directions' percentiles. NaN when a mask is empty."""
    return _hd95(*_surface_distances(mask, reference, _even(spacing)))


def surface_dice(mask: np.ndarray, reference: np.ndarray, spacing: Spacing, tolerance_mm: float = SURFACE_TOLERANCE_MM) -> float:
    """The part of both surfaces' border voxels that lies within `tolerance_mm` of the other surface (normalised surface Dice).

    NaN when both masks are empty, 0.0 when one is.
    """
    return _surface_dice(*_surface_distances(mask, reference, _even(spacing)), tolerance_mm)


def mask_ml(mask: np.ndarray, voxel_volumes_ml: np.ndarray) -> float:
    """Volume in mL: voxels of every slice times that slice's voxel volume (slices,), which follows the true slice positions."""
    return float(np.count_nonzero(mask, axis=(1, 2)) @ np.asarray(voxel_volumes_ml, dtype=np.float64))


def case_metrics(mask: np.ndarray, probability: np.ndarray | None, reference: np.ndarray, ct: CTVolume) -> dict[str, Any]:
    """Everything that is measured on one scan; one row of an evaluation (evaluation.py pools the rows of a patient).

    mask, reference: (slices, rows, columns) bool; probability: the same shape, float in [0, 1], or None (soft Dice is NaN then).
    Keys: dice, soft_dice, precision, recall, hd95_mm, surface_dice; annotated_ml, predicted_ml, overlap_ml, false_positive_ml, false_negative_ml;
    error_ml (predicted − annotated), absolute_error_ml, relative_error (|error| / annotated, NaN without annotation); and the sums that pooling
    needs: annotated_voxels, predicted_voxels, overlap_voxels, soft_overlap, soft_total (in voxels), soft_overlap_ml, soft_total_ml. Empty masks: see
    the table on top of this file.
    Raises CaseError when the shapes differ.
    """
    for array in (mask, reference) if probability is None else (mask, reference, probability):
        if array.shape != ct.hu.shape:
            raise CaseError(
                f"A mask of {array.shape} voxels does not lie on the scan of {ct.hu.shape}: {ct.source}. Make masks on the scan's own grid."
            )
    mask, reference = mask.astype(bool, copy=False), reference.astype(bool, copy=False)
    voxel_ml = np.asarray(ct.voxel_volumes_ml, dtype=np.float64)
    per_slice = [np.count_nonzero(part, axis=(1, 2)) for part in (reference, mask, mask & reference)]
    annotated, predicted, overlap = (int(counts.sum()) for counts in per_slice)
    annotated_ml, predicted_ml, overlap_ml = (float(counts @ voxel_ml) for counts in per_slice)
    soft = [np.full(len(mask), math.nan)] * 2 if probability is None else _soft_sums(probability, reference)
    soft_overlap, soft_total = (float(sums.sum()) for sums in soft)
    soft_overlap_ml, soft_total_ml = (float(sums @ voxel_ml) for sums in soft)
    forth, back = _surface_distances(mask, reference, lambda voxels: _positions_mm(voxels, ct))
    error = predicted_ml - annotated_ml
    return {
        "dice": _ratio(2 * overlap, annotated + predicted, empty=1.0),
        "soft_dice": _ratio(2 * soft_overlap, soft_total, empty=1.0),
        "precision": _ratio(overlap, predicted),
        "recall": _ratio(overlap, annotated),
        "hd95_mm": _hd95(forth, back),
        "surface_dice": _surface_dice(forth, back, SURFACE_TOLERANCE_MM),
        "annotated_ml": annotated_ml,
        "predicted_ml": predicted_ml,
        "overlap_ml": overlap_ml,
        "false_positive_ml": predicted_ml - overlap_ml,
        "false_negative_ml": annotated_ml - overlap_ml,
        "error_ml": error,
        "absolute_error_ml": abs(error),
        "relative_error": _ratio(abs(error), annotated_ml),
        "annotated_voxels": annotated,
        "predicted_voxels": predicted,
        "overlap_voxels": overlap,
        "soft_overlap": soft_overlap,
        "soft_total": soft_total,
        "soft_overlap_ml": soft_overlap_ml,
        "soft_total_ml": soft_total_ml,
    }


def _positions_mm(voxels: np.ndarray, ct: CTVolume) -> np.ndarray:
    """(n, 3) slices, rows, columns → (n, 3) LPS mm from the scan's first voxel."""
    slices, rows, columns = voxels.T
    in_plane = np.outer(rows * ct.spacing[0], ct.column_direction) + np.outer(columns * ct.spacing[1], ct.row_direction)
    return (ct.positions - ct.positions[0])[slices] + in_plane


def _even(spacing: Spacing) -> _Positions:
    return lambda voxels: voxels * np.asarray(spacing, dtype=np.float64)


def _surface_distances(mask: np.ndarray, reference: np.ndarray, positions: _Positions) -> tuple[np.ndarray, np.ndarray]:
    """mm from each border voxel of the mask to the nearest of the reference, and from each of the reference to the nearest of the mask.

    Infinite where the other one is empty. Raises CaseError when the shapes differ.
    """
    _same_shape(mask, reference)
    borders = [positions(_border(part.astype(bool, copy=False))) for part in (mask, reference)]
    if not all(len(border) for border in borders):
        return np.full(len(borders[0]), math.inf), np.full(len(borders[1]), math.inf)
    from scipy.spatial import cKDTree

    # Unbalanced trees are built far faster on the many equal coordinates of a grid.
    trees = [cKDTree(border, leafsize=32, balanced_tree=False, compact_nodes=False) for border in borders]
    return trees[1].query(borders[0])[0], trees[0].query(borders[1])[0]


def _border(mask: np.ndarray) -> np.ndarray:
    """(n, 3) slices, rows, columns of the voxels of a mask that have a neighbour across a face outside it; the grid's outside is outside."""
    from scipy.ndimage import binary_erosion

    from .findings import bounding_box

    place = bounding_box(mask)
    if place is None:
        return np.zeros((0, 3), int)
    box = mask[place]
    return np.argwhere(box & ~binary_erosion(box)) + [along.start for along in place]


def _hd95(forth: np.ndarray, back: np.ndarray) -> float:
    if not len(forth) or not len(back):
        return math.nan
    return float(max(np.percentile(forth, 95), np.percentile(back, 95)))


def _surface_dice(forth: np.ndarray, back: np.ndarray, tolerance_mm: float) -> float:
    within = tolerance_mm + _ROUNDING_MM
    near = int(np.count_nonzero(forth <= within)) + int(np.count_nonzero(back <= within))
    return _ratio(near, len(forth) + len(back))


def _soft_sums(probability: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(slices,) Σpg and Σp + Σg of every slice in float64."""
    reference = reference.astype(bool, copy=False)
    overlap = [p[g].sum(dtype=np.float64) for p, g in zip(probability, reference, strict=True)]
    total = [p.sum(dtype=np.float64) + np.count_nonzero(g) for p, g in zip(probability, reference, strict=True)]
    return np.array(overlap), np.array(total)


def _ratio(part: float, whole: float, empty: float = math.nan) -> float:
    return part / whole if whole else empty


def _same_shape(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise CaseError(f"Two masks of different size cannot be compared: {a.shape} and {b.shape}. Make both on the scan's own grid.")
