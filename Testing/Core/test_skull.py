"""The inside of the skull: all of the brain with its blood, nothing of bone and scalp, whatever is open or cut off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from SAHLoRALib import skull
from SAHLoRALib.ct import ct_from_image
from SAHLoRALib.skull import close, convex_hull
from SAHLoRALib.slices import (
    intracranial,
)
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.spatial import ConvexHull
from small_heads import BRAIN, SCALP, SKULL, WHOLE, ellipsoid, head_hu, head_image, head_volume, on_holder, points_in


def _share(mask: np.ndarray, of: np.ndarray) -> float:
    return float(mask[of].mean())


@pytest.mark.parametrize("tilt", [0.0, 18.5])
def test_the_inside_is_all_of_the_brain_and_nothing_of_bone_and_scalp(tilt: float) -> None:
    ct = head_volume(np.arange(-66.0, 67.0, 6.0), tilt, shape=(130, 110), values=on_holder)
    inside = intracranial(ct)
    points = points_in(ct)
    assert _share(inside, ellipsoid(points, BRAIN) & (abs(points[..., 2]) < 48)) > 0.995
    assert not inside[~ellipsoid(points, BRAIN)].any()
    assert inside.dtype == bool


def _with_blood(points: np.ndarray) -> np.ndarray:
    """A thin crescent of 70 HU along the inner table, and a scalp haematoma outside."""
    hu = head_hu(points)
    hu[_crescent(points)] = 70.0
    hu[_scalp_blood(points)] = 70.0
    return hu


def _crescent(points: np.ndarray) -> np.ndarray:
    return ellipsoid(points, BRAIN) & ~ellipsoid(points, (55.0, 73.0, 55.0)) & (points[..., 0] > 20)


def _scalp_blood(points: np.ndarray) -> np.ndarray:
    return ellipsoid(points, (12.0, 30.0, 40.0), (-74.0, 0.0, 0.0)) & ~ellipsoid(points, SKULL)


def _opened(points: np.ndarray) -> np.ndarray:
    """The same with a piece of skull of 8 by 8 cm taken out on the side of the crescent."""
    hu = _with_blood(points)
    hole = (points[..., 0] > 0) & (abs(points[..., 1]) < 40) & (abs(points[..., 2] - 10) < 40) & (hu == 1000.0)
    hu[hole] = 20.0
    return hu


@pytest.mark.parametrize("values", [_with_blood, _opened], ids=["closed", "craniotomy"])
def test_blood_at_the_inner_table_stays_and_scalp_blood_goes(values: object) -> None:
    ct = head_volume(np.arange(-66.0, 67.0, 6.0), shape=(130, 110), spacing=(1.6, 1.6), values=values)
    inside = intracranial(ct)
    points = points_in(ct)
    middle = abs(points[..., 2]) < 45
    assert _share(inside, _crescent(points) & middle) > 0.97
    assert _share(inside, ellipsoid(points, BRAIN) & middle) > 0.99
    assert not inside[_scalp_blood(points)].any()
    assert _share(inside, ellipsoid(points, SCALP) & ~ellipsoid(points, SKULL)) < 0.01


def test_of_thin_slices_only_some_are_outlined_and_the_inside_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    ct = head_volume(np.arange(-66.0, 66.5, 0.5), tilt=12.0, shape=(65, 55), spacing=(3.2, 3.2), values=_with_blood)
    counted: list[int] = []
    outlines = skull._outlines
    monkeypatch.setattr(skull, "_outlines", lambda hu, spacing: counted.append(1) or outlines(hu, spacing))
    found, few = intracranial(ct), len(counted)
    monkeypatch.setattr(skull, "_APART_MM", 0.0)
    plain = intracranial(ct)
    assert few < 0.55 * (len(counted) - few)
    assert (found != plain).sum() < 0.005 * plain.sum()
    assert _share(found, _crescent(points_in(ct)) & (abs(points_in(ct)[..., 2]) < 45)) > 0.97


def _with_face(points: np.ndarray) -> np.ndarray:
    """Below the brain: a skull base of bone, under it soft tissue with jaws."""
    hu = head_hu(points)
    base = points[..., 2] < -30.0
    column = ((points[..., :2] / (60.0, 80.0)) ** 2).sum(-1) < 1
    hu[base] = np.where(column[base], 45.0, -1000.0)
    hu[base & column & (points[..., 2] > -38.0)] = 900.0
    ring = ((points[..., :2] / (45.0, 65.0)) ** 2).sum(-1)
    hu[base & (points[..., 2] < -70.0) & (ring < 1) & (ring > 0.7) & (points[..., 1] < 0)] = 1200.0
    return hu


def test_the_face_is_not_inside() -> None:
    ct = head_volume(np.arange(-110.0, 67.0, 4.0), shape=(100, 90), values=_with_face)
    inside = intracranial(ct)
    points = points_in(ct)
    assert not inside[points[..., 2] < -32].any()
    assert _share(inside, ellipsoid(points, BRAIN) & (abs(points[..., 2]) < 28)) > 0.99


def test_an_opening_across_the_whole_front_of_two_slices_does_not_lose_the_brain_below() -> None:
    def values(points: np.ndarray) -> np.ndarray:
        hu = head_hu(points)
        front = (abs(points[..., 0]) < 35) & (points[..., 1] < 0) & (points[..., 2] > -47) & (points[..., 2] < -35)
        hu[front & (hu == 1000.0)] = -80.0
        return hu

    ct = head_volume(np.arange(-66.0, 67.0, 6.0), shape=(130, 110), spacing=(1.6, 1.6), values=values)
    points = points_in(ct)
    brain = ellipsoid(points, BRAIN)
    assert _share(intracranial(ct), brain & (points[..., 2] < -35) & (points[..., 2] > -53)) > 0.95


def _half_open(points: np.ndarray) -> np.ndarray:
    """A large hemicraniectomy: of the left side's bone only the skull base, the forehead and a strip along the midline are left."""
    hu = head_hu(points)
    hu[(hu == 1000.0) & (points[..., 0] > 15.0) & (abs(points[..., 1]) < 60.0) & (points[..., 2] > -40.0)] = 45.0
    return hu


def test_a_skull_that_is_open_in_all_slices_of_the_vault_does_not_lose_the_brain() -> None:
    ct = head_volume(np.arange(-66.0, 67.0, 6.0), shape=(130, 110), spacing=(1.6, 1.6), values=_half_open)
    inside, points = intracranial(ct), points_in(ct)
    brain = ellipsoid(points, BRAIN)
    assert _share(inside, brain & (abs(points[..., 2]) < 45)) > 0.9
    assert _share(inside, ~brain) < 0.02


@pytest.mark.parametrize("side", [slice(None, 62), slice(48, None)], ids=["right", "left"])
def test_a_field_that_ends_in_the_brain_does_not_lose_what_it_holds(side: slice) -> None:
    """The rest of its skull is open on one side in every slice."""
    ct = head_volume(np.arange(-66.0, 67.0, 6.0), shape=(130, 110), spacing=(1.6, 1.6))
    points = points_in(ct)[:, :, side]
    inside = intracranial(replace(ct, hu=ct.hu[:, :, side].copy()))
    assert _share(inside, ellipsoid(points, BRAIN) & (abs(points[..., 2]) < 45)) > 0.9
    assert not inside[~ellipsoid(points, SKULL)].any()


def test_a_calcification_leaves_no_hole_beyond_itself() -> None:
    def values(points: np.ndarray) -> np.ndarray:
        hu = head_hu(points)
        hu[ellipsoid(points, (5.0, 5.0, 8.0), (10.0, 20.0, 0.0))] = 600.0
        return hu

    ct = head_volume(WHOLE, values=values)
    points = points_in(ct)
    assert _share(intracranial(ct), ellipsoid(points, BRAIN) & (abs(points[..., 2]) < 45) & (ct.hu < 200)) > 0.995


def test_a_read_image_and_its_inside_have_one_shape() -> None:
    ct = ct_from_image(head_image())
    assert intracranial(ct).shape == ct.shape


def _random_masks() -> list[np.ndarray]:
    """Spots of all sizes, at the border too; and a full, an empty and a one-pixel mask."""
    masks = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        masks.append(gaussian_filter(rng.normal(size=(40, 52)), 1 + seed / 3) > rng.uniform(0.0, 0.06))
    single = np.zeros((40, 52), bool)
    single[7, 51] = True
    return [*masks, np.ones((40, 52), bool), np.zeros((40, 52), bool), single]


def test_hull_and_closing_are_those_of_the_plain_definitions() -> None:
    spacing, radius = (1.5, 1.8), 7.0
    for mask in _random_masks():
        wide = np.pad(mask, 12)
        grown = distance_transform_edt(~wide, sampling=spacing) <= radius if wide.any() else wide
        plain = (distance_transform_edt(grown, sampling=spacing) > radius)[12:-12, 12:-12] | mask
        assert np.array_equal(close(mask, radius, spacing), plain)
        hull = mask
        if mask.sum() > 2:
            y, x = np.indices(mask.shape)
            hull = (
                (ConvexHull(np.argwhere(mask)).equations @ np.stack((y.ravel(), x.ravel(), np.ones(y.size))) <= 1e-6).all(axis=0).reshape(mask.shape)
            )
        assert np.array_equal(convex_hull(mask), hull)
