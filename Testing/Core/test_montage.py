"""The picture of a result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from SAHLoRALib.ct import CTVolume, ct_from_image
from SAHLoRALib.errors import OutputError
from SAHLoRALib.montage import MOST_SLICES, SLICES_WITHOUT, slices_to_show, write_montage
from tiny_scans import BLEED, SHAPE, box, head, image


@pytest.fixture(scope="module")
def ct() -> CTVolume:
    return ct_from_image(image(head(BLEED)))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)) / 255.0


def coloured(picture: np.ndarray, channel: int) -> int:
    """Pixels in which one channel stands far above the others."""
    others = np.delete(picture, channel, axis=-1).max(axis=-1)
    return int(((picture[..., channel] - others) > 0.4).sum())


def test_montage_shows_the_bleeding_slices_with_a_red_outline(tmp_path: Path, ct: CTVolume) -> None:
    assert write_montage(tmp_path / "m.png", ct, box(BLEED), "a: 4.5 mL") == (8, 9, 10)
    picture = pixels(tmp_path / "m.png")
    assert picture.shape[0] > 100 and picture.shape[1] > 300
    assert coloured(picture, 0) > 50 and coloured(picture, 1) == 0


def test_montage_without_blood_shows_evenly_spaced_slices_and_no_outline(tmp_path: Path, ct: CTVolume) -> None:
    shown = write_montage(tmp_path / "m.png", ct, np.zeros(SHAPE, bool), "a: 0 mL")
    assert len(shown) == SLICES_WITHOUT and shown[0] <= 1 and shown[-1] >= len(ct.hu) - 2 and max(np.diff(shown)) <= 2
    assert coloured(pixels(tmp_path / "m.png"), 0) == 0


def test_annotation_is_outlined_in_green_beside_the_mask(tmp_path: Path, ct: CTVolume) -> None:
    reference = box(((12, 40, 30), (1, 4, 4)))
    assert write_montage(tmp_path / "m.png", ct, box(BLEED), reference=reference) == (8, 9, 10, 12)
    assert coloured(pixels(tmp_path / "m.png"), 1) > 20


def test_of_many_slices_the_largest_is_always_shown() -> None:
    tall = np.zeros((200, 4, 4), bool)
    tall[10:190, 0, 0] = True
    tall[101, :, :] = True
    shown = slices_to_show(tall, None)  # type: ignore[arg-type]  # the scan is asked only where the mask is empty
    assert len(shown) == MOST_SLICES and 101 in shown and shown[0] == 10 and shown[-1] == 189 and list(shown) == sorted(set(shown))


def test_mask_at_the_border_of_the_picture_is_outlined_too(tmp_path: Path, ct: CTVolume) -> None:
    assert write_montage(tmp_path / "m.png", ct, box(((5, 0, 0), (1, 80, 64)))) == (5,)


def test_montage_that_cannot_be_written_is_told(tmp_path: Path, ct: CTVolume) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"):
        write_montage(tmp_path / "file" / "m.png", ct, box(BLEED))
