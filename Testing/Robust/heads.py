"""The heads and other bodies that the robustness tests write: functions from LPS millimetres to HU, and one head with a bleed of known volume."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from SAHLoRALib.slices import PixelGrid
from SAHLoRALib.weights import ModelInfo, save_base
from small_heads import BRAIN, ellipsoid, head_hu, points_of
from tiny_scans import bright_network

Body = Callable[[np.ndarray], np.ndarray]

#: (x, y, z) voxels of the usual image, and mm between them.
SIZE, SPACING = (64, 76, 30), (2.5, 2.5, 5.0)
#: mm of the slices of the usual DICOM series.
HEIGHTS = (np.arange(SIZE[2]) - (SIZE[2] - 1) / 2) * SPACING[2]
BLEED_MM, BLEED_CENTRE, BLEED_HU = 18.0, (20.0, 10.0, 5.0), 65.0
BLEED_ML = 4 / 3 * math.pi * BLEED_MM**3 / 1000.0


def bleeding(points: np.ndarray) -> np.ndarray:
    """HU at points (..., 3), LPS mm: the small head with a round bleed of BLEED_ML in the left half of its brain."""
    hu = head_hu(points)
    hu[ellipsoid(points, (BLEED_MM,) * 3, BLEED_CENTRE)] = BLEED_HU
    return hu


def scaled(body: Body, factor: float) -> Body:
    """The same body, that many times as large."""
    return lambda points: body(points / factor)


def turned(body: Body, degrees: float, axis: int) -> Body:
    """The body turned about an axis (0 left–right, 1 front–back, 2 along the body)."""
    a, (i, j) = math.radians(degrees), [k for k in range(3) if k != axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = math.cos(a)
    matrix[i, j], matrix[j, i] = -math.sin(a), math.sin(a)
    return lambda points: body(points @ matrix)


def with_metal(points: np.ndarray) -> np.ndarray:
    """A clip of 20,000 HU and dark and bright streaks from it through the brain."""
    hu = bleeding(points)
    away = points - np.array([-25.0, -10.0, 5.0])
    distance = np.linalg.norm(away, axis=-1)
    angle = np.arctan2(away[..., 1], away[..., 0])
    streak = np.where(np.abs(away[..., 2]) < 12, 400 * np.cos(9 * angle) ** 9 * np.exp(-distance / 15.0), 0.0)
    hu = np.where(ellipsoid(points, BRAIN), hu + streak, hu)
    hu[distance < 4.0] = 20_000.0
    return hu.astype(np.float32)


def with_contrast(points: np.ndarray) -> np.ndarray:
    """Vessels of 350 HU at the base and along the midline, brain a little brighter."""
    hu = bleeding(points)
    brain = ellipsoid(points, BRAIN)
    hu[brain & (hu < 60)] += 4.0
    hu[brain & (np.abs(points[..., 0]) < 2.5) & (points[..., 1] > 40)] = 350.0
    hu[ellipsoid(points, (3.0, 3.0, 30.0), (-8.0, -5.0, -25.0))] = 350.0
    return hu


def chest(points: np.ndarray) -> np.ndarray:
    """Lungs, heart, spine and ribs."""
    hu = np.full(points.shape[:-1], -1000.0, np.float32)
    hu[ellipsoid(points, (78.0, 92.0, 400.0))] = -90.0
    hu[ellipsoid(points, (72.0, 86.0, 400.0))] = 45.0
    ring = ellipsoid(points, (70.0, 84.0, 400.0)) & ~ellipsoid(points, (66.0, 80.0, 400.0)) & (np.sin(points[..., 2] / 6.0) > 0.0)
    for side in (-1, 1):
        hu[ellipsoid(points, (28.0, 60.0, 300.0), (side * 36.0, 0.0, 0.0))] = -820.0
    hu[ring] = 500.0
    hu[ellipsoid(points, (16.0, 16.0, 400.0), (0.0, 64.0, 0.0))] = 600.0
    hu[ellipsoid(points, (14.0, 20.0, 60.0), (6.0, -20.0, 0.0))] = 45.0
    return hu


def abdomen(points: np.ndarray) -> np.ndarray:
    """Fat around soft tissue, and the spine."""
    hu = np.full(points.shape[:-1], -1000.0, np.float32)
    hu[ellipsoid(points, (78.0, 92.0, 400.0))] = -95.0
    hu[ellipsoid(points, (60.0, 72.0, 400.0))] = 50.0
    hu[ellipsoid(points, (15.0, 15.0, 400.0), (0.0, 50.0, 0.0))] = 500.0
    return hu


def knee(points: np.ndarray) -> np.ndarray:
    """Muscle around one bone of 36 mm with marrow of fat."""
    hu = np.full(points.shape[:-1], -1000.0, np.float32)
    hu[ellipsoid(points, (60.0, 60.0, 400.0))] = 55.0
    hu[ellipsoid(points, (18.0, 18.0, 400.0))] = 1200.0
    hu[ellipsoid(points, (13.0, 13.0, 400.0))] = -60.0
    return hu


def water_phantom(points: np.ndarray) -> np.ndarray:
    """A cylinder of water in a wall of acrylic, as the daily calibration scans it."""
    radius = np.linalg.norm(points[..., :2], axis=-1)
    return np.where(radius < 70, 0.0, np.where(radius < 76, 120.0, -1000.0)).astype(np.float32)


def as_mr(points: np.ndarray) -> np.ndarray:
    """The head as a T1 image: air and bone dark, fat bright, everything positive."""
    hu = bleeding(points)
    return np.select([hu < -500, hu > 500, hu > 60, hu > 25], [4.0, 20.0, 300.0, 500.0 + hu], 900.0).astype(np.float32)


def grid_points(size: tuple[int, int, int] = SIZE, spacing: tuple[float, float, float] = SPACING) -> tuple[np.ndarray, np.ndarray]:
    """(slices, rows, columns, 3) LPS mm of an upright grid with the head in its middle, and its first corner."""
    origin = -(np.array(size) - 1) * np.array(spacing) / 2
    positions = np.stack([np.array([origin[0], origin[1], origin[2] + k * spacing[2]]) for k in range(size[2])])
    return points_of(positions, (size[1], size[0]), (spacing[1], spacing[0]), np.array([1.0, 0, 0]), np.array([0, 1.0, 0])), origin


def upright(body: Body = bleeding, size: tuple[int, int, int] = SIZE, spacing: tuple[float, float, float] = SPACING) -> sitk.Image:
    """A body as an int16 image, x to the left, y to the back, z up."""
    points, origin = grid_points(size, spacing)
    image = sitk.GetImageFromArray(np.stack([body(plane) for plane in points]).clip(-32768, 32767).astype(np.int16))
    image.SetSpacing(spacing)
    image.SetOrigin(tuple(float(v) for v in origin))
    return image


def save_seer(folder: Path) -> ModelInfo:
    """A base that takes for blood what is brighter than 49 HU, on pixels of 2.5 mm; the bleed of `bleeding` is all that it finds in that head."""
    return save_base(bright_network(), folder / "seer.safetensors", grid=PixelGrid(pixel_mm=2.5, multiple=4))
