"""Brains whose skull a program has taken away are segmented with a warning; pictures and other things that have no skull are refused as before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from SAHLoRALib.ct import CTVolume, ct_from_image
from SAHLoRALib.errors import ScanError
from SAHLoRALib.segmenter import SegmentConfig, Segmenter
from SAHLoRALib.weights import save_base
from scipy.ndimage import binary_dilation
from tiny_scans import BLEED, GRID, VOXEL_ML, box, bright_network, head, image

HEAD = head(BLEED).astype(np.float32)
#: A ring of bone is around it, and scalp around that.
BRAIN = (HEAD > 0) & (HEAD < 100) & (np.cumsum(HEAD > 500, axis=2) > 0) & (np.cumsum((HEAD > 500)[:, :, ::-1], axis=2)[:, :, ::-1] > 0)


def _stripped(background: float, rest: bool) -> CTVolume:
    """The brain on that background. rest: with scattered voxels of bone of up to 480 HU at its edge."""
    around = binary_dilation(BRAIN, np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]])) & ~BRAIN
    kept = BRAIN | (around & rest & (np.random.default_rng(0).random(BRAIN.shape) < 0.4))
    return ct_from_image(image(np.where(kept, HEAD.clip(None, 480), background).astype(np.float32)), "brain.nrrd")


@pytest.mark.parametrize("rest", [False, True], ids=["clean", "rest of bone"])
@pytest.mark.parametrize("background", [0, -1000, -1024])
def test_a_brain_alone_is_segmented_with_a_warning(background: float, rest: bool, tmp_path: Path) -> None:
    ct = _stripped(background, rest)
    base = save_base(bright_network(), tmp_path / "bright.safetensors", grid=GRID)
    found = Segmenter(bright_network(), base, None, SegmentConfig(precision="float32", device="cpu")).segment(ct, keep_probability=True)
    assert found.mask[box(BLEED)].all()
    [told] = [w for w in found.report.warnings if "Slices lie" not in w]
    assert "skull was taken away" in told
    if not rest:
        assert found.report.total_ml == pytest.approx(90 * VOXEL_ML)


def _mr() -> np.ndarray:
    return np.where(BRAIN, 600.0 + 5.0 * HEAD, 0.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: HEAD.clip(0, 80),
        lambda: HEAD.clip(-1024, 80),
        lambda: HEAD.clip(-15, 100),
        lambda: HEAD.clip(0, 80) * 255 / 80,
        lambda: np.where(BRAIN, HEAD.clip(0, 80) * 255 / 80, 0.0),
        lambda: BRAIN * 1.0,
        lambda: BRAIN * 30.0,
        _mr,
        lambda: _mr() / 10,
    ],
    ids=["0 to 80", "up to 80", "-15 to 100", "8 bit", "8 bit, brain alone", "label", "label 30", "MR", "dark MR"],
)
def test_pictures_and_label_maps_are_refused(make: Callable[[], np.ndarray]) -> None:
    with pytest.raises(ScanError, match="Hounsfield"):
        ct_from_image(image(make().astype(np.float32)), "picture.nrrd")


def test_a_head_with_its_skull_is_not_taken_for_a_brain_alone_even_on_an_even_background() -> None:
    ct = ct_from_image(image(np.where(HEAD < -500, -1000, HEAD).astype(np.float32)))
    assert not any("skull was taken away" in w for w in ct.warnings)
