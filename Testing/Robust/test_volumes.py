"""Known shapes have their known volume on every grid, and one scan gives one result, however it is stored."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from heads import BLEED_ML, HEIGHTS, bleeding, save_seer
from odd_dicom import series
from SAHLoRALib.ct import read_ct
from SAHLoRALib.segmenter import SegmentConfig, Segmenter
from small_heads import ellipsoid, head_hu, points_of, tilted_axes, write_series

Shape = Callable[[np.ndarray], np.ndarray]


def sphere(points: np.ndarray) -> np.ndarray:
    """Radius 25 mm."""
    return ellipsoid(points, (25.0, 25.0, 25.0), (4.0, -3.0, 2.0))


def slab(points: np.ndarray) -> np.ndarray:
    """60 × 50 × 20 mm, upright."""
    return (np.abs(points - np.array([3.0, -4.0, 1.0])) < np.array([30.0, 25.0, 10.0])).all(axis=-1)


def tilted_box(points: np.ndarray) -> np.ndarray:
    """40 × 30 × 50 mm, turned by 27 degrees about the left–right axis and by 15 about the other."""
    a, b = math.radians(27), math.radians(15)
    turn = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    turn = turn @ np.array([[math.cos(b), -math.sin(b), 0], [math.sin(b), math.cos(b), 0], [0, 0, 1]])
    return (np.abs(points @ turn) < np.array([20.0, 15.0, 25.0])).all(axis=-1)


#: Shape → its volume in mL and its surface in mm².
SHAPES: dict[Shape, tuple[float, float]] = {
    sphere: (4 / 3 * math.pi * 25**3 / 1000, 4 * math.pi * 25**2),
    slab: (60.0, 2 * (60 * 50 + 60 * 20 + 50 * 20)),
    tilted_box: (60.0, 2 * (40 * 30 + 40 * 50 + 30 * 50)),
}
GAPS = {
    "2 mm": np.arange(-70.0, 71.0, 2.0),
    "5 mm": np.arange(-70.0, 71.0, 5.0),
    "3 to 9 mm": np.cumsum([-70.0, *([3.0, 4.0, 6.0, 9.0, 5.0] * 5)]),
    "5 mm above, 2.5 below": np.concatenate((np.arange(-70.0, 0.0, 2.5), np.arange(0.0, 71.0, 5.0))),
}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
@pytest.mark.parametrize("gaps", GAPS)
@pytest.mark.parametrize("tilt", [0.0, 12.0, -22.0])
def test_a_known_shape_has_its_volume_within_half_a_voxel_layer(shape: Shape, gaps: str, tilt: float, tmp_path: Path) -> None:
    spacing, size = (1.5, 2.0), (140, 100)
    write_series(tmp_path, GAPS[gaps], tilt=tilt, shape=size, spacing=spacing)
    ct = read_ct(tmp_path)
    rows, columns = tilted_axes(tilt)
    mask = shape(points_of(ct.positions, size, spacing, rows, columns))
    ml = float(mask.sum(axis=(1, 2)) @ ct.voxel_volumes_ml)
    true, surface = SHAPES[shape]
    layer = max(float(ct.gaps_mm.max()), *spacing) / 2
    assert abs(ml - true) < surface * layer / 1000, f"{ml:.2f} mL, {true:.2f} are true"


def test_one_scan_gives_one_result_from_dicom_nifti_and_nrrd_in_every_axis_order_and_again(tmp_path: Path) -> None:
    series(tmp_path / "dicom")
    first = read_ct(tmp_path / "dicom")
    model = save_seer(tmp_path).path
    segmenter = Segmenter.load(str(model), config=SegmentConfig(device="cpu"))
    found = segmenter.segment(first)
    assert found.report.total_ml == pytest.approx(BLEED_ML, rel=0.06)
    image = first.storage.image(first.hu.round().astype(np.int16))
    for n, (order, flips) in enumerate(itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3))):
        path = tmp_path / f"scan.{('nii.gz', 'nrrd', 'nii', 'mha')[n % 4]}"
        sitk.WriteImage(sitk.Flip(sitk.PermuteAxes(image, order), flips, False), str(path))
        again = segmenter.segment(read_ct(path))
        different = np.count_nonzero(again.mask != found.mask)
        assert different <= (2 if ".nii" in path.name else 0), (order, flips, path.name)  # NIfTI keeps its geometry in 32 bits
        assert again.report.total_ml == pytest.approx(found.report.total_ml, rel=1e-3)
        assert [c.ml for c in again.report.components] == pytest.approx([c.ml for c in found.report.components], rel=1e-3)
    repeated = segmenter.segment(first, keep_probability=True)
    other = segmenter.segment(first, keep_probability=True)
    assert repeated.probability is not None and np.array_equal(repeated.probability, other.probability)


def test_the_bleed_of_the_robust_heads_is_what_the_seer_measures_whatever_the_slices(tmp_path: Path) -> None:
    model = save_seer(tmp_path).path
    segmenter = Segmenter.load(str(model), config=SegmentConfig(device="cpu"))
    for step in (2.5, 5.0, 7.5):
        heights = np.arange(HEIGHTS[0], HEIGHTS[-1] + 0.1, step)
        series(tmp_path / str(step), heights=heights, hu=bleeding)
        assert segmenter.segment(read_ct(tmp_path / str(step))).report.total_ml == pytest.approx(BLEED_ML, rel=0.07)
    series(tmp_path / "none", hu=head_hu)
    assert segmenter.segment(read_ct(tmp_path / "none")).report.total_ml == 0.0
