"""What passes as a head CT in HU, what is refused in one sentence, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from SAHLoRALib.ct import ct_from_image, read_ct
from SAHLoRALib.errors import ScanError
from small_heads import head_hu, head_image, noisy


@pytest.fixture(scope="module")
def head() -> sitk.Image:
    return head_image()


def _pixels(change: Callable[[np.ndarray], np.ndarray], spacing: tuple[float, float, float] | None = None) -> Callable[[], sitk.Image]:
    def make() -> sitk.Image:
        head = head_image()
        image = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(head).astype(np.float32)))
        image.CopyInformation(head)
        if spacing:
            image.SetSpacing(spacing)
        return image

    return make


def _with_nan(hu: np.ndarray) -> np.ndarray:
    hu[3, 4, 5] = np.nan
    return hu


def _outside(hu: np.ndarray, value: float) -> np.ndarray:
    """Another value in the corners, where nothing is reconstructed."""
    y, x = np.mgrid[: hu.shape[1], : hu.shape[2]]
    return np.where(np.hypot(y / hu.shape[1] - 0.5, x / hu.shape[2] - 0.5) > 0.5, value, hu)


def _mr(hu: np.ndarray) -> np.ndarray:
    brain = (hu > 0) & (hu < 100)
    return np.where(brain, 600.0 + 5 * hu, 0.0)


def _chest(points: np.ndarray) -> np.ndarray:
    body = ((points[..., :2] / (82.0, 100.0)) ** 2).sum(-1) < 1
    lungs = ((points[..., :2] / (64.0, 80.0)) ** 2).sum(-1) < 1
    spine = ((points[..., :2] - (0.0, 60.0)) ** 2).sum(-1) < 18**2
    return np.where(spine, 500.0, np.where(lungs, -850.0, np.where(body, 40.0, -1000.0)))


def _four_dimensional() -> sitk.Image:
    return sitk.JoinSeries([head_image(), head_image()])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_four_dimensional, "4 dimensions"),
        (lambda: sitk.Compose([head_image()] * 3), "colour"),
        (lambda: head_image()[:, :, 5], "single slice"),
        (lambda: head_image()[:, :, 5:6], "only 1 slice;"),
        (_pixels(lambda hu: hu * 0 - 1000), "empty"),
        (_pixels(_with_nan), "NaN"),
        (_pixels(_mr), "values of brain"),
        (_pixels(lambda hu: np.clip((hu + 20) * 2.55, 0, 255)), "no bone|no air"),
        (_pixels(lambda hu: hu + 1024), "rescale intercept"),
        (_pixels(lambda hu: np.where(hu < -500, 0, hu + 1024)), "rescale intercept"),
        (_pixels(lambda hu: _outside(hu + 1024, -2000)), "rescale intercept"),
        (_pixels(lambda hu: _outside(hu + 1000, 0)), "rescale intercept"),
        (_pixels(lambda hu: np.clip(hu, -1024, 80)), "no bone"),
        (_pixels(lambda hu: (hu > 20) * 1.0), "Hounsfield"),
        (_pixels(lambda hu: hu, (0.4, 0.4, 5.0)), "pixel spacing"),
        (_pixels(lambda hu: hu, (12.0, 12.0, 5.0)), "pixel spacing"),
        (lambda: head_image(hu=_chest), "head CT"),
    ],
    ids=[
        "4D",
        "colour",
        "2D",
        "one slice",
        "empty",
        "NaN",
        "MR",
        "8 bit",
        "no offset",
        "no offset, 0 around",
        "no offset, padding",
        "no offset of 1000",
        "windowed",
        "label",
        "small",
        "large",
        "chest",
    ],
)
def test_what_is_no_head_ct_is_refused_with_one_sentence(make: Callable[[], sitk.Image], words: str) -> None:
    with pytest.raises(ScanError, match=words) as caught:
        ct_from_image(make(), source="scan.nrrd")
    text = str(caught.value)
    assert text.startswith("scan.nrrd: ")
    assert "\n" not in text
    assert text.endswith(".")


def _craniotomy(points: np.ndarray) -> np.ndarray:
    hu = head_hu(points)
    hu[(hu == 1000.0) & (points[..., 0] > 10.0) & (abs(points[..., 1]) < 50.0)] = 20.0
    return hu


@pytest.mark.parametrize(
    "make",
    [
        lambda: head_image(hu=_craniotomy),
        lambda: head_image(hu=noisy, size=(80, 96, 14), spacing=(2.2, 2.2, 10.0)),
        lambda: head_image(size=(40, 48, 4), spacing=(4.5, 4.5, 12.0)),
        lambda: head_image(hu=lambda p: head_hu(p * 1.8), size=(40, 48, 10), spacing=(2.5, 2.5, 8.0)),
        lambda: head_image()[:, :, 8:],
        _pixels(lambda hu: np.where(hu < -500, 0, hu)),
        lambda: sitk.JoinSeries([head_image()]),
        _pixels(lambda hu: np.clip(hu, -1024, 1024)),
        _pixels(lambda hu: np.where(hu == 1000, 1040, hu)),
        _pixels(lambda hu: np.where(hu == 1000, 1024, np.where(hu > 25, hu - 22, hu))),
        lambda: sitk.Cast(head_image(), sitk.sitkFloat64),
    ],
    ids=[
        "craniotomy",
        "noise",
        "thick slices",
        "child",
        "upper half",
        "zeros around",
        "4D of one",
        "clipped at 1024",
        "all bone at 1040",
        "clipped at 1024, brain near 15",
        "float64",
    ],
)
def test_unusual_heads_pass(make: Callable[[], sitk.Image]) -> None:
    assert ct_from_image(make()).hu.dtype == np.float32


def test_metal_is_told_and_padding_is_not(tmp_path: Path, head: sitk.Image) -> None:
    array = sitk.GetArrayFromImage(head).astype(np.int32)
    for value, expected in ((8000, True), (60000, False)):
        array[5, :4, :4] = value
        changed = sitk.GetImageFromArray(array)
        changed.CopyInformation(head)
        sitk.WriteImage(changed, str(tmp_path / "ct.nrrd"))
        told = " ".join(read_ct(tmp_path / "ct.nrrd").warnings)
        assert ("metal in the scan (values up to 8000 HU)" in told) == expected


def test_a_geometry_that_was_lost_is_told(head: sitk.Image) -> None:
    image = sitk.Resample(head, (180, 216, 60), sitk.Transform(), sitk.sitkNearestNeighbor, head.GetOrigin(), (1.0, 1.0, 2.4))
    assert not any("lost the geometry" in w for w in ct_from_image(image).warnings)
    image.SetSpacing((1.0, 1.0, 1.0))
    image.SetOrigin((0.0, 0.0, 0.0))
    assert any("lost the geometry" in w for w in ct_from_image(image).warnings)
