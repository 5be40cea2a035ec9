"""Where a file holds no measurement, around the field of view, air is read."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from SAHLoRALib.case_check import scan_digest
from SAHLoRALib.ct import CTVolume, ct_from_image
from SAHLoRALib.errors import ScanError
from SAHLoRALib.slices import head_window, intracranial
from small_heads import head_image

SPACING = (2.5, 2.5, 10.0)
#: Around the head, in voxels: slices, rows, columns.
MARGIN = ((1, 1), (20, 20), (20, 20))


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    return sitk.GetArrayFromImage(head_image((64, 76, 14), SPACING)).astype(np.float32)


def _read(hu: np.ndarray) -> CTVolume:
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(SPACING)
    return ct_from_image(image, "scan.nrrd")


def test_a_frame_of_zeros_is_air_and_not_taken_for_the_head(head: np.ndarray) -> None:
    plain = _read(np.pad(head, MARGIN, constant_values=-1024))
    framed = _read(np.pad(head, MARGIN, constant_values=0))
    assert scan_digest(framed) == scan_digest(plain) and framed.warnings == plain.warnings
    assert head_window(framed) == head_window(plain) and head_window(framed).shape < plain.shape[1:]
    assert intracranial(framed).any() and np.array_equal(intracranial(framed), intracranial(plain))


def test_the_zeros_of_a_turned_scan_are_air(head: np.ndarray) -> None:
    image = sitk.GetImageFromArray(head)
    image.SetSpacing(SPACING)
    turn = sitk.Euler3DTransform(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]), 0.0, 0.0, 0.5)
    turned, plain = (ct_from_image(sitk.Resample(image, image, turn, sitk.sitkLinear, fill)) for fill in (0.0, -1024.0))
    assert (plain.hu == -1024).sum() > 500 and np.array_equal(turned.hu, plain.hu)


def test_zeros_in_the_head_and_few_at_the_edge_stay(head: np.ndarray) -> None:
    hu = head.copy()
    hu[4:8, 30:45, 30:45] = 0.0
    hu[5, :4, :4] = 0.0  # what a head that reaches the edge may have by chance
    assert np.array_equal(_read(hu).hu, hu)


def _with_nan(head: np.ndarray) -> np.ndarray:
    """NaN outside the circle of reconstruction and in the outer slices."""
    y, x = (np.linspace(-1, 1, n) for n in head.shape[1:])
    hu = np.where(np.hypot(y[:, None], x) > 1.0, np.nan, head)
    hu[[0, -1]] = np.nan
    return hu


def test_nan_around_the_field_is_air_and_told(head: np.ndarray) -> None:
    hu = _with_nan(head)
    ct = _read(hu)
    assert np.array_equal(ct.hu, np.where(np.isnan(hu), -1024, hu)) and intracranial(ct).any()
    assert [w for w in ct.warnings if "NaN around its field of view" in w] == list(ct.warnings[:1])


@pytest.mark.parametrize("place", [(slice(6, 7), slice(30, 32), slice(30, 32)), 7, slice(None)], ids=["in the head", "a slice of the head", "all"])
def test_nan_in_the_head_is_refused(head: np.ndarray, place: object) -> None:
    hu = _with_nan(head)
    hu[place] = np.nan
    with pytest.raises(ScanError, match="NaN"):
        _read(hu)


@pytest.mark.parametrize(("low", "high"), [(-250, 3000), (-200, 1000), (-95, 600)])
def test_the_lower_end_of_a_clipped_scan_is_air_and_told(head: np.ndarray, low: int, high: int) -> None:
    plain, ct = _read(head), _read(head.clip(low, high))
    assert np.array_equal(ct.hu, np.where(head <= low, -1024, head.clip(low, high)))
    assert [w for w in ct.warnings if f"clipped at {low} HU" in w] == list(ct.warnings[:1])
    assert np.array_equal(intracranial(ct), intracranial(plain)) and head_window(ct) == head_window(plain)


@pytest.mark.parametrize(("low", "high"), [(0, 80), (-15, 100), (-160, 240), (-100, 400), (-50, 1000)])
def test_windowed_pictures_are_refused(head: np.ndarray, low: int, high: int) -> None:
    with pytest.raises(ScanError, match=f"they run from {low} to {high}"):
        _read(head.clip(low, high))


def test_scans_that_are_clipped_where_air_is_known_stay_as_they_are(head: np.ndarray) -> None:
    hu = head.clip(-500, 1300)
    assert np.array_equal(_read(hu).hu, hu)
