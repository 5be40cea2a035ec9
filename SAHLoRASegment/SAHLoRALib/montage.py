"""A picture of the result: the bleeding slices with the outline of the mask, or, where there is none, a few slices and a note that says so.

Shown as radiologists are used to: the patient's right on the left, the front on top, from below to above.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .files import replacing

if TYPE_CHECKING:
    from .ct import CTVolume

WINDOW_HU = (0.0, 80.0)
MOST_SLICES = 24
SLICES_WITHOUT = 12
_OUTLINE = "#ff4040"
_PANEL_INCHES = 2.1
#: Pixels along a side of a panel; the scan is thinned to about that.
_DPI = 110


def write_montage(
    path: Path | str, ct: CTVolume, mask: np.ndarray, title: str = "", note: str = "", reference: np.ndarray | None = None
) -> tuple[int, ...]:
    """Write a PNG. mask: (slices, rows, columns) bool, outlined in red; reference: an annotation, outlined in green.

    Returns the slices that are shown, from 0. Raises OutputError.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = slices_to_show(mask if reference is None else mask | reference, ct)
    columns = min((6, 5, 4), key=lambda n: (-len(shown) % n, -n))  # as few empty panels as can be
    rows = math.ceil(len(shown) / columns)
    window = _window(ct)
    aspect = ct.spacing[0] / ct.spacing[1]
    height = (window[0].stop - window[0].start) * ct.spacing[0]
    width = (window[1].stop - window[1].start) * ct.spacing[1]
    size = (columns * _PANEL_INCHES, rows * _PANEL_INCHES * height / width + 0.75)
    figure = Figure(figsize=size, dpi=_DPI, facecolor="black")
    FigureCanvasAgg(figure)
    bottom, top = 0.28 / size[1], 1.0 - 0.47 / size[1]
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.02})
    figure.subplots_adjust(left=0.0, right=1.0, bottom=bottom, top=top)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, k in zip(axes.flat, shown, strict=False):
        axis.imshow(ct.hu[k][window], cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], aspect=aspect, interpolation="antialiased")
        if reference is not None:
            _outline(axis, reference[k][window], "#40ff60")
        _outline(axis, mask[k][window], _OUTLINE)
        area = np.count_nonzero(mask[k]) * ct.spacing[0] * ct.spacing[1] / 100.0
        text = f"{k + 1}" + (f"  {area:.1f} cm²" if area else "")
        axis.text(0.02, 0.98, text, color="white", fontsize=7, va="top", ha="left", transform=axis.transAxes)
    axes[0][0].text(0.02, 0.02, "R", color="#a0a0a0", fontsize=7, va="bottom", ha="left", transform=axes[0][0].transAxes)
    said = note or ("" if mask.any() else "No haemorrhage was segmented; the slices are evenly spaced.")
    figure.text(0.01, 1.0 - 0.06 / size[1], title, color="white", fontsize=9, va="top", ha="left")
    figure.text(0.01, 1.0 - 0.25 / size[1], said, color="#ffd060", fontsize=8, va="top", ha="left")
    figure.text(0.01, 0.06 / size[1], "SAHLoRA: research use only, not a medical device.", color="#909090", fontsize=7, va="bottom", ha="left")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, facecolor="black")
    return shown


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


def _outline(axis: object, mask: np.ndarray, color: str) -> None:
    """The border of the mask's pixels, drawn along their edges."""
    if not mask.any():
        return
    from matplotlib.collections import LineCollection

    padded = np.pad(mask, 1)
    lines: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for y, x in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1]):  # between row y - 1 and y
        lines.append(((x - 0.5, y - 0.5), (x + 0.5, y - 0.5)))
    for y, x in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1]):
        lines.append(((x - 0.5, y - 0.5), (x - 0.5, y + 0.5)))
    axis.add_collection(LineCollection(lines, colors=color, linewidths=0.8))  # type: ignore[attr-defined]
