"""How well a mask agrees with the annotation: overlap, distance of the surfaces, volume.

All functions take arrays of one shape (slices, rows, columns); `spacing` is (slices, rows, columns) in mm, as the arrays lie. Distances come from
MONAI, on the bounding box of both masks: the full grid of a head CT is slow and hungry there.

Empty masks, in one place:

| | both empty | annotation empty, prediction not | prediction empty, annotation not |
|---|---|---|---|
| `dice`, `soft_dice` | 1 | 0 | 0 |
| `precision` | NaN | 0 | NaN |
| `recall` | NaN | NaN | 0 |
| `hd95_mm` | NaN | NaN | NaN |
| `surface_dice` | NaN | 0 | 0 |

A Hausdorff distance to nothing does not exist; a missed haemorrhage shows in Dice, recall and surface Dice, which are 0 there, and in the count of
defined distances that every summary gives. Patients without haemorrhage are judged by false-positive mL instead (see evaluation.py).
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import CaseError

if TYPE_CHECKING:
    from .ct import CTVolume

Spacing = tuple[float, float, float]
SURFACE_TOLERANCE_MM = 2.0


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
    overlap, total = _soft_sums(probability, reference)
    return 2 * overlap / total if total else 1.0


def precision(mask: np.ndarray, reference: np.ndarray) -> float:
    """|A∩B| / |A|: the part of the predicted voxels that is annotated. NaN when nothing is predicted."""
    _same_shape(mask, reference)
    return _ratio(int(np.count_nonzero(mask.astype(bool) & reference.astype(bool))), int(np.count_nonzero(mask)))


def recall(mask: np.ndarray, reference: np.ndarray) -> float:
    """|A∩B| / |B|: the part of the annotated voxels that is found. NaN when nothing is annotated."""
    return precision(reference, mask)


def hd95_mm(mask: np.ndarray, reference: np.ndarray, spacing: Spacing) -> float:
    """95th percentile of the Hausdorff distance in mm: the larger of both directions' percentiles. NaN when a mask is empty.

    Surfaces are the masks' border voxels (MONAI). MONAI knows one spacing an axis: between slices whose gaps differ, `case_metrics` gives the mean
    gap where the masks are, and a gantry tilt is left out, since it shears both masks alike.
    """
    _same_shape(mask, reference)
    if not mask.any() or not reference.any():
        return math.nan
    from monai.metrics import compute_hausdorff_distance

    a, b = _cropped(mask, reference)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.5 warns of its own defaults
        distance = compute_hausdorff_distance(_batch(a), _batch(b), include_background=True, percentile=95, spacing=list(spacing))
    return float(distance[0, 0])


def surface_dice(mask: np.ndarray, reference: np.ndarray, spacing: Spacing, tolerance_mm: float = SURFACE_TOLERANCE_MM) -> float:
    """The part of both surfaces' border voxels that lies within `tolerance_mm` of the other surface (normalised surface Dice, MONAI).

    NaN when both masks are empty, 0.0 when one is.
    """
    _same_shape(mask, reference)
    found, annotated = bool(mask.any()), bool(reference.any())
    if not found and not annotated:
        return math.nan
    if not found or not annotated:
        return 0.0
    from monai.metrics import compute_surface_dice

    a, b = _cropped(mask, reference)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        value = compute_surface_dice(_batch(a), _batch(b), class_thresholds=[tolerance_mm], include_background=True, spacing=list(spacing))
    return float(value[0, 0])


def mask_ml(mask: np.ndarray, voxel_volumes_ml: np.ndarray) -> float:
    """Volume in mL: voxels of every slice times that slice's voxel volume (slices,), which follows the true slice positions."""
    return float(np.count_nonzero(mask, axis=(1, 2)) @ np.asarray(voxel_volumes_ml, dtype=np.float64))


def case_metrics(mask: np.ndarray, probability: np.ndarray | None, reference: np.ndarray, ct: CTVolume) -> dict[str, Any]:
    """Everything that is measured on one scan; one row of an evaluation (evaluation.py pools the rows of a patient).

    mask, reference: (slices, rows, columns) bool; probability: the same shape, float in [0, 1], or None (soft Dice is NaN then).
    Keys: dice, soft_dice, precision, recall, hd95_mm, surface_dice; annotated_ml, predicted_ml, overlap_ml, false_positive_ml, false_negative_ml;
    error_ml (predicted − annotated), absolute_error_ml, relative_error (|error| / annotated, NaN without annotation); and the sums that pooling
    needs: annotated_voxels, predicted_voxels, overlap_voxels, soft_overlap, soft_total. Empty masks: see the table on top of this file.
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
    soft_overlap, soft_total = (math.nan, math.nan) if probability is None else _soft_sums(probability, reference)
    spacing = _spacing_at(mask, reference, ct)
    error = predicted_ml - annotated_ml
    return {
        "dice": _ratio(2 * overlap, annotated + predicted, empty=1.0),
        "soft_dice": _ratio(2 * soft_overlap, soft_total, empty=1.0),
        "precision": _ratio(overlap, predicted),
        "recall": _ratio(overlap, annotated),
        "hd95_mm": hd95_mm(mask, reference, spacing),
        "surface_dice": surface_dice(mask, reference, spacing),
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
    }


def _spacing_at(mask: np.ndarray, reference: np.ndarray, ct: CTVolume) -> Spacing:
    """(slices, rows, columns) in mm; between slices the mean extent of those that either mask touches, since gaps may differ within a scan."""
    used = (mask | reference).any(axis=(1, 2))
    extents = np.asarray(ct.slice_thicknesses, dtype=np.float64)
    extent = float(extents[used].mean() if used.any() else extents.mean())
    return extent, float(ct.spacing[0]), float(ct.spacing[1])


def _cropped(mask: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays in the bounding box of their union, one voxel larger where the grid has one (the border must see its outside)."""
    union = mask.astype(bool, copy=False) | reference.astype(bool, copy=False)
    box = []
    for axis in range(3):
        held = np.flatnonzero(union.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(0, int(held[0]) - 1), int(held[-1]) + 2))
    return mask[tuple(box)], reference[tuple(box)]


def _batch(mask: np.ndarray) -> Any:
    """(slices, rows, columns) bool as MONAI wants it: a batch of one with one class, (1, 1, slices, rows, columns)."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(mask, dtype=np.uint8))[None, None]


def _soft_sums(probability: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Σpg and Σp + Σg in float64."""
    reference = reference.astype(bool, copy=False)
    return float(probability[reference].sum(dtype=np.float64)), float(probability.sum(dtype=np.float64)) + int(np.count_nonzero(reference))


def _ratio(part: float, whole: float, empty: float = math.nan) -> float:
    return part / whole if whole else empty


def _same_shape(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise CaseError(f"Two masks of different size cannot be compared: {a.shape} and {b.shape}. Make both on the scan's own grid.")
