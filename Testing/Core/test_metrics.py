"""Metrics against brute force on small shapes."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from SAHLoRALib.errors import CaseError
from SAHLoRALib.metrics import case_metrics, dice, hd95_mm, mask_ml, precision, recall, soft_dice, surface_dice
from SAHLoRALib.volume import CTVolume, Storage
from scipy import ndimage
from scipy.spatial import distance

SPACING = (5.0, 0.5, 0.7)


def blob(center: tuple[float, float, float], radius: float, shape: tuple[int, int, int] = (10, 24, 20)) -> np.ndarray:
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    return sum(((axis - c) ** 2) * w for axis, c, w in zip(axes, center, (4.0, 1.0, 1.0), strict=True)) <= radius**2


def brute_distances(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances in mm of each border voxel of a to the border of b, and the other way, by scipy's distance transform on the whole grid."""
    a, b = np.pad(a, 1), np.pad(b, 1)
    border_a, border_b = a & ~ndimage.binary_erosion(a), b & ~ndimage.binary_erosion(b)
    to_b = ndimage.distance_transform_edt(~border_b, sampling=SPACING)
    to_a = ndimage.distance_transform_edt(~border_a, sampling=SPACING)
    return to_b[border_a], to_a[border_b]


def scan(shape: tuple[int, ...], thicknesses: np.ndarray | None = None) -> SimpleNamespace:
    """What `case_metrics` asks of a CTVolume."""
    thick = np.full(shape[0], SPACING[0]) if thicknesses is None else thicknesses
    heights = np.cumsum(thick) - thick / 2
    return SimpleNamespace(
        hu=np.zeros(shape, np.float32), spacing=SPACING[1:], positions=np.outer(heights, (0, 0, 1)), source="scan.nii.gz",
        row_direction=np.array([1.0, 0, 0]), column_direction=np.array([0, 1.0, 0]), voxel_volumes_ml=thick * SPACING[1] * SPACING[2] / 1000,
    )  # fmt: skip


def stack(heights: np.ndarray, tilt: float = 0.0, turned: float = 0.0) -> CTVolume:
    """A scan of 24 × 20 pixels with slices at these mm, tilted by some degrees; the whole turned about its axis by others."""
    image = sitk.Image(20, 24, len(heights), sitk.sitkInt16)
    turn = np.radians(turned)
    right, back = np.array([np.cos(turn), np.sin(turn), 0]), np.array([-np.sin(turn), np.cos(turn), 0])
    positions = np.outer(heights, (0, 0, 1)) + np.outer(heights * np.tan(np.radians(tilt)), back) + [3.0, -80.0, 41.0]
    return CTVolume(np.zeros((len(heights), 24, 20), np.float32), positions, (0.5, 0.7), right, back, Storage.of(image))


def all_distances(a: np.ndarray, b: np.ndarray, ct: CTVolume) -> tuple[np.ndarray, np.ndarray]:
    """mm from every border voxel of a to the nearest of b, and the other way, by the table of all pairs."""
    points = []
    for mask in (a, b):
        padded = np.pad(mask, 1)
        k, r, c = np.nonzero((padded & ~ndimage.binary_erosion(padded))[1:-1, 1:-1, 1:-1])
        points.append(ct.positions[k] + 0.5 * r[:, None] * ct.column_direction + 0.7 * c[:, None] * ct.row_direction)
    table = distance.cdist(*points)
    return table.min(axis=1), table.min(axis=0)


PAIRS = [
    (blob((4, 10, 9), 6), blob((5, 12, 10), 5)),
    (blob((0, 0, 0), 7), blob((9, 23, 19), 4)),  # both at the border of the grid, far apart
    (blob((4, 10, 9), 6), blob((4, 10, 9), 6)),
    (blob((4, 10, 9), 0), blob((5, 12, 10), 5)),  # a single voxel
    (np.ones((10, 24, 20), bool), blob((5, 12, 10), 5)),
]


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_hd95_in_mm_equals_the_distance_transform_on_the_whole_grid(a: np.ndarray, b: np.ndarray) -> None:
    forth, back = brute_distances(a, b)
    assert hd95_mm(a, b, SPACING) == pytest.approx(max(np.percentile(forth, 95), np.percentile(back, 95)), abs=1e-4)


@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("tolerance", [0.6, 2.0, 6.0])
def test_surface_dice_equals_the_distance_transform_on_the_whole_grid(a: np.ndarray, b: np.ndarray, tolerance: float) -> None:
    forth, back = brute_distances(a, b)
    expected = ((forth <= tolerance).sum() + (back <= tolerance).sum()) / (len(forth) + len(back))
    assert surface_dice(a, b, SPACING, tolerance) == pytest.approx(expected, abs=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_distances_on_an_even_scan_are_monais(a: np.ndarray, b: np.ndarray) -> None:
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    masks = [torch.from_numpy(np.pad(mask, 1))[None, None] for mask in (a, b)]
    kept = {"include_background": True, "spacing": list(SPACING)}
    row = case_metrics(a, None, b, stack(np.arange(10) * SPACING[0]))
    assert row["hd95_mm"] == pytest.approx(float(compute_hausdorff_distance(*masks, percentile=95, **kept)), rel=1e-6)
    assert row["surface_dice"] == pytest.approx(float(compute_surface_dice(*masks, class_thresholds=[2.0], **kept)), abs=1e-6)


UNEVEN = {
    "3 mm below, 10 mm above": stack(np.r_[np.arange(5) * 3.0, 12 + np.arange(1, 6) * 10.0]),
    "missing slices": stack(np.r_[np.arange(5) * 5.0, 60 + np.arange(5) * 5.0]),
    "tilted": stack(np.arange(10) * 5.0, tilt=20),
    "tilted the other way, turned, uneven": stack(np.r_[np.arange(5) * 3.0, 12 + np.arange(1, 6) * 10.0], tilt=-15, turned=30),
}


@pytest.mark.parametrize("name", UNEVEN)
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_distances_are_those_between_the_true_positions(a: np.ndarray, b: np.ndarray, name: str) -> None:
    forth, back = all_distances(a, b, UNEVEN[name])
    row = case_metrics(a, None, b, UNEVEN[name])
    assert row["hd95_mm"] == pytest.approx(max(np.percentile(forth, 95), np.percentile(back, 95)))
    near = (forth < 2 + 1e-6).sum() + (back < 2 + 1e-6).sum()
    assert row["surface_dice"] == pytest.approx(near / (len(forth) + len(back)))


def test_a_missing_stretch_and_a_tilt_count_in_full() -> None:
    a, b = np.zeros((10, 24, 20), bool), np.zeros((10, 24, 20), bool)
    a[4, 4, 4] = b[5, 4, 4] = True
    assert case_metrics(a, None, b, UNEVEN["missing slices"])["hd95_mm"] == pytest.approx(40.0)
    assert case_metrics(a, None, b, UNEVEN["tilted"])["hd95_mm"] == pytest.approx(5 / np.cos(np.radians(20)))


def test_a_voxel_at_just_the_tolerance_lies_within_it() -> None:
    a, b = np.zeros((3, 24, 20), bool), np.zeros((3, 24, 20), bool)
    a[1, 3:7, 4], b[1, 7:11, 4] = True, True  # each 4 rows of 0.5 mm on
    for scan_at in (stack(np.arange(3) * 5.0), stack(np.arange(3) * 5.0, turned=33)):
        assert case_metrics(a, None, b, scan_at)["surface_dice"] == 1.0


def test_hd95_follows_the_anisotropic_spacing() -> None:
    a, b = np.zeros((8, 16, 16), bool), np.zeros((8, 16, 16), bool)
    a[2, 4, 4] = b[4, 4, 4] = True
    assert hd95_mm(a, b, SPACING) == pytest.approx(10.0)
    assert hd95_mm(np.swapaxes(a, 0, 1), np.swapaxes(b, 0, 1), SPACING) == pytest.approx(1.0)


def test_dice_precision_and_recall_count_voxels() -> None:
    a, b = PAIRS[0]
    both = (a & b).sum()
    assert dice(a, b) == pytest.approx(2 * both / (a.sum() + b.sum()))
    assert precision(a, b) == pytest.approx(both / a.sum())
    assert recall(a, b) == pytest.approx(both / b.sum())


def test_soft_dice_of_a_hard_mask_is_its_dice_and_falls_with_doubt() -> None:
    a, b = PAIRS[0]
    assert soft_dice(a.astype(np.float32), b) == pytest.approx(dice(a, b))
    p = np.where(b, 0.6, 0.1).astype(np.float32)
    assert soft_dice(p, b) == pytest.approx(2 * (p * b).sum() / (p.sum() + b.sum()), rel=1e-5)
    assert soft_dice(p, b) < dice(p >= 0.5, b) == 1.0


def test_empty_masks_follow_the_written_convention() -> None:
    none, some = np.zeros((4, 6, 6), bool), np.zeros((4, 6, 6), bool)
    some[1, 2:4, 2:4] = True
    assert dice(none, none) == soft_dice(none.astype(float), none) == 1.0
    assert dice(none, some) == dice(some, none) == 0.0
    assert math.isnan(hd95_mm(none, some, SPACING)) and math.isnan(hd95_mm(some, none, SPACING))
    assert surface_dice(none, some, SPACING) == surface_dice(some, none, SPACING) == 0.0
    assert math.isnan(surface_dice(none, none, SPACING))
    assert math.isnan(precision(none, some)) and recall(none, some) == 0.0
    assert math.isnan(recall(some, none)) and precision(some, none) == 0.0


def test_volumes_follow_the_true_extent_of_every_slice() -> None:
    mask = np.ones((3, 10, 10), bool)
    thick = np.array([2.0, 5.0, 8.0])
    ct = scan(mask.shape, thick)
    assert mask_ml(mask, ct.voxel_volumes_ml) == pytest.approx(100 * 0.5 * 0.7 * 15 / 1000)


def test_case_metrics_hold_together() -> None:
    a, b = PAIRS[0]
    probability = np.where(a, 0.8, 0.05).astype(np.float32)
    row = case_metrics(a, probability, b, scan(a.shape))
    assert row["dice"] == pytest.approx(dice(a, b))
    assert row["soft_dice"] == pytest.approx(soft_dice(probability, b))
    assert row["hd95_mm"] == pytest.approx(hd95_mm(a, b, SPACING))
    assert row["surface_dice"] == pytest.approx(surface_dice(a, b, SPACING, 2.0))
    assert row["annotated_ml"] == pytest.approx(b.sum() * 5 * 0.5 * 0.7 / 1000)
    assert row["error_ml"] == pytest.approx(row["predicted_ml"] - row["annotated_ml"])
    assert row["error_ml"] == pytest.approx(row["false_positive_ml"] - row["false_negative_ml"])
    assert row["relative_error"] == pytest.approx(row["absolute_error_ml"] / row["annotated_ml"])
    assert row["predicted_voxels"] == a.sum()
    assert math.isnan(case_metrics(a, None, b, scan(a.shape))["soft_dice"])


def test_distances_use_the_gap_where_the_masks_are() -> None:
    a, b = np.zeros((8, 8, 8), bool), np.zeros((8, 8, 8), bool)
    a[1, 4, 4] = b[2, 4, 4] = True
    thick = np.array([4.0, 4, 4, 4, 7, 7, 7, 7])
    assert case_metrics(a, None, b, scan(a.shape, thick))["hd95_mm"] == pytest.approx(4.0)


def test_case_without_haemorrhage_gives_false_positive_volume() -> None:
    none, some = np.zeros((4, 6, 6), bool), np.zeros((4, 6, 6), bool)
    some[1, 2:4, 2:4] = True
    row = case_metrics(some, None, none, scan(none.shape))
    assert row["false_positive_ml"] == row["predicted_ml"] > 0 == row["annotated_ml"]
    assert math.isnan(row["relative_error"])


def test_masks_of_different_size_are_refused_in_words() -> None:
    with pytest.raises(CaseError, match="own grid"):
        dice(np.zeros((2, 3, 3), bool), np.zeros((2, 3, 4), bool))
    with pytest.raises(CaseError, match=r"scan\.nii\.gz"):
        case_metrics(np.zeros((2, 3, 3), bool), None, np.zeros((2, 3, 3), bool), scan((2, 4, 4)))


def test_sums_of_probabilities_are_weighed_by_the_extent_of_every_slice() -> None:
    a, b = PAIRS[0]
    probability = np.where(a, 0.8, 0.05).astype(np.float32)
    thick = np.linspace(2.0, 8.0, len(a))
    row = case_metrics(a, probability, b, scan(a.shape, thick))
    ml = (thick * SPACING[1] * SPACING[2] / 1000)[:, None, None]
    assert row["soft_overlap_ml"] == pytest.approx((probability * b * ml).sum(), rel=1e-6)
    assert row["soft_total_ml"] == pytest.approx(((probability + b) * ml).sum(), rel=1e-6)
    assert row["soft_total"] == pytest.approx((probability.astype(float) + b).sum())
    assert math.isnan(case_metrics(a, None, b, scan(a.shape, thick))["soft_total_ml"])
