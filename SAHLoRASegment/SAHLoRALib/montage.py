"""A picture of the result: the bleeding slices with the outline of the mask, or, where there is none, a few slices and a note that says so.

Shown as radiologists are used to: the patient's right on the left, the front on top, from below to above.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .files import replacing

if TYPE_CHECKING:
    from PIL import ImageFont

    from .ct import CTVolume

WINDOW_HU = (0.0, 80.0)
MOST_SLICES = 24
SLICES_WITHOUT = 12
#: Pixels: the width of a panel, the gap between panels, the rooms above and below them, the sizes of letters.
_PANEL, _GAP, _ABOVE, _BELOW = 231, 4, 52, 31
_LARGE, _MIDDLE, _SMALL = 14, 12, 11
_RED, _GREEN = (255, 64, 64), (64, 255, 96)


def write_montage(
    path: Path | str, ct: CTVolume, mask: np.ndarray, title: str = "", note: str = "", reference: np.ndarray | None = None
) -> tuple[int, ...]:
    """Write a PNG. mask: (slices, rows, columns) bool, outlined in red; reference: an annotation, outlined in green.

    Returns the slices that are shown, from 0. Raises OutputError.
    """
    from PIL import Image, ImageDraw

    shown = slices_to_show(mask if reference is None else mask | reference, ct)
    columns = min((6, 5, 4), key=lambda n: (-len(shown) % n, -n))  # as few empty panels as can be
    rows = math.ceil(len(shown) / columns)
    window = _window(ct)
    height = (window[0].stop - window[0].start) * ct.spacing[0]
    width = (window[1].stop - window[1].start) * ct.spacing[1]
    panel = (_PANEL, max(1, round(_PANEL * height / width)))
    size = (columns * (_PANEL + _GAP) - _GAP, _ABOVE + rows * (panel[1] + _GAP) - _GAP + _BELOW)
    large, middle, small = (_letters(pixels) for pixels in (_LARGE, _MIDDLE, _SMALL))
    picture = Image.new("RGB", size)
    pen = ImageDraw.Draw(picture)
    for number, k in enumerate(shown):
        x, y = (number % columns) * (_PANEL + _GAP), _ABOVE + (number // columns) * (panel[1] + _GAP)
        grey = (ct.hu[k][window] - WINDOW_HU[0]) / (WINDOW_HU[1] - WINDOW_HU[0])
        plane = Image.fromarray((np.clip(grey, 0.0, 1.0) * 255).round().astype(np.uint8))
        plane = plane.resize(panel, Image.Resampling.BOX if plane.width > _PANEL else Image.Resampling.BILINEAR)
        pixels = np.asarray(plane.convert("RGB")).copy()
        if reference is not None:
            pixels[_outline(reference[k][window], panel)] = _GREEN
        pixels[_outline(mask[k][window], panel)] = _RED
        picture.paste(Image.fromarray(pixels), (x, y))
        area = np.count_nonzero(mask[k]) * ct.spacing[0] * ct.spacing[1] / 100.0
        pen.text((x + 4, y + 3), f"{k + 1}" + (f"  {area:.1f} cm²" if area else ""), fill="white", font=small)
    pen.text((4, _ABOVE + panel[1] - 4), "R", fill="#a0a0a0", font=small, anchor="ls")
    said = note or ("" if mask.any() else "No haemorrhage was segmented; the slices are evenly spaced.")
    pen.text((5, 6), title, fill="white", font=large)
    pen.text((5, 29), said, fill="#ffd060", font=middle)
    pen.text((5, size[1] - 8), "SAHLoRA: research use only, not a medical device.", fill="#909090", font=small, anchor="ls")
    with replacing(path) as temporary:
        picture.save(temporary, format="png", compress_level=1)  # noise packs no better with more effort
    return shown


def _letters(pixels: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """matplotlib's DejaVu Sans, which knows most alphabets and the superscript two, without importing matplotlib; else Pillow's own letters."""
    from PIL import ImageFont

    found = find_spec("matplotlib")
    folders = found.submodule_search_locations if found else None
    try:
        return ImageFont.truetype(Path((folders or [""])[0]) / "mpl-data/fonts/ttf/DejaVuSans.ttf", pixels)
    except OSError:
        return ImageFont.load_default(pixels)


def slices_to_show(mask: np.ndarray, ct: CTVolume) -> tuple[int, ...]:
    """Slices with some of the mask; of more than MOST_SLICES the largest and evenly chosen others. Without any, some of the head, evenly spaced."""
    areas = np.count_nonzero(mask, axis=(1, 2))
    bleeding = np.flatnonzero(areas)
    if len(bleeding) == 0:
        from .slices import head_window

        return _evenly(np.array(head_window(ct).slices), SLICES_WITHOUT)
    chosen = _evenly(bleeding, MOST_SLICES)
    largest = int(areas.argmax())
    if largest not in chosen:
        nearest = min(chosen, key=lambda k: abs(k - largest))
        chosen = tuple(sorted({largest, *chosen} - {nearest}))
    return chosen


def _evenly(numbers: np.ndarray, most: int) -> tuple[int, ...]:
    if len(numbers) <= most:
        return tuple(int(k) for k in numbers)
    return tuple(int(k) for k in numbers[np.linspace(0, len(numbers) - 1, most).round().astype(int)])


def _window(ct: CTVolume) -> tuple[slice, slice]:
    from .slices import head_window

    head = head_window(ct, margin_mm=3.0)
    return slice(*head.rows), slice(*head.columns)


def _outline(mask: np.ndarray, panel: tuple[int, int]) -> np.ndarray:
    """Bool (rows, columns) of a panel (width, height): the pixels of the mask that touch what is not of it, or the panel's edge."""
    from PIL import Image

    large = np.pad(np.asarray(Image.fromarray(mask).resize(panel, Image.Resampling.NEAREST)), 1)
    within = large[:-2, 1:-1] & large[2:, 1:-1] & large[1:-1, :-2] & large[1:-1, 2:]
    return large[1:-1, 1:-1] & ~within
