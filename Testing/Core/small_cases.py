"""Three small cases as files, tables of them, and what the check says of a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from SAHLoRALib.cases import CaseTable

SPACING = (5.0, 5.0, 5.0)  # x, y, z
SHAPE = (12, 40, 40)


def head(seed: int = 0) -> np.ndarray:
    """A skull with brain in it, 200 mm wide: (slices, rows, columns) HU."""
    y, x = np.mgrid[-1:1:40j, -1:1:40j]
    r = np.hypot(y, x)
    plane = np.where(r < 0.72, 32.0, np.where(r < 0.82, 1100.0, np.where(r < 0.88, 10.0, -1000.0)))
    noise = np.random.default_rng(seed).normal(0, 3, SHAPE)
    return (plane + noise).round().astype(np.int16)


def bleed(size: int = 4) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:7, 18 : 18 + size, 18 : 18 + size] = 1
    return mask


def save(array: np.ndarray, path: Path, origin: tuple[float, float, float] = (-100.0, -100.0, 0.0)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))
    return path


def save_cases(folder: Path) -> Path:
    """a and b: scans with masks, c: a scan without haemorrhage."""
    for n, name in enumerate("abc"):
        save(head(n), folder / f"ct/{name}.nii.gz")
        save(bleed(3 + n) * (name != "c"), folder / f"mask/{name}.nii.gz")
    return folder


def table_of(folder: Path, text: str) -> CaseTable:
    path = folder / "cases.csv"
    path.write_text(text, encoding="utf-8")
    return CaseTable.from_csv(path)


def problems(table: CaseTable) -> dict[str, str]:
    return {f.case: " ".join(f.problems) for f in table.check() if not f.ok}
