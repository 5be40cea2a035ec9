"""Small synthetic heads with known geometry, as SimpleITK images and as DICOM series: helpers of the tests of CT reading and slices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from SAHLoRALib.ct import CTVolume, Storage

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
#: Heights of slices, mm: of a head of 130 mm, and of one with its air above and below.
EVEN, WHOLE = np.arange(-65.0, 66.0, 10.0), np.arange(-70.0, 71.0, 10.0)
SCALP, SKULL, BRAIN = (74.0, 92.0, 72.0), (69.0, 87.0, 67.0), (60.0, 78.0, 58.0)


def ellipsoid(points: np.ndarray, radii: tuple[float, float, float], centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """Bool: which points (..., 3) lie within."""
    return (((points - np.array(centre)) / np.array(radii)) ** 2).sum(axis=-1) <= 1.0


def head_hu(points: np.ndarray) -> np.ndarray:
    """HU at points (..., 3) in LPS mm: air, scalp, skull, brain around the origin; the left half of the brain is a little denser."""
    hu = np.full(points.shape[:-1], -1000.0, np.float32)
    hu[ellipsoid(points, SCALP)] = 20.0
    hu[ellipsoid(points, SKULL)] = 1000.0
    brain = ellipsoid(points, BRAIN)
    hu[brain] = 32.0 + 6.0 * (points[brain][:, 0] > 0) + 3.0 * (points[brain][:, 1] > 0)
    return hu


def noisy(points: np.ndarray) -> np.ndarray:
    """The same with noise."""
    return head_hu(points) + np.random.default_rng(0).normal(0, 25, points.shape[:-1])


def points_of(positions: np.ndarray, shape: tuple[int, int], spacing: tuple[float, float], rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(slices, rows, columns, 3) LPS mm of all pixels; rows, columns: DICOM's row and column directions, spacing between rows and columns."""
    y = np.arange(shape[0])[:, None, None] * spacing[0] * columns
    x = np.arange(shape[1])[None, :, None] * spacing[1] * rows
    return positions[:, None, None, :] + y + x


def head_image(
    size: tuple[int, int, int] = (40, 48, 14),
    spacing: tuple[float, float, float] = (4.5, 4.5, 10.0),
    hu: Callable[[np.ndarray], np.ndarray] = head_hu,
) -> sitk.Image:
    """An upright image (x, y, z) with the head in its middle; int16."""
    origin = -(np.array(size) - 1) * np.array(spacing) / 2
    z = origin[2] + np.arange(size[2]) * spacing[2]
    positions = np.stack((np.full(size[2], origin[0]), np.full(size[2], origin[1]), z), axis=1)
    points = points_of(positions, (size[1], size[0]), (spacing[1], spacing[0]), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]))
    image = sitk.GetImageFromArray(hu(points).astype(np.int16))
    image.SetSpacing(spacing)
    image.SetOrigin(tuple(origin))
    return image


def tilted_axes(degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Row and column direction of slices tilted about the left-right axis."""
    angle = np.radians(degrees)
    return np.array([1.0, 0.0, 0.0]), np.array([0.0, np.cos(angle), -np.sin(angle)])


def write_series(
    folder: Path,
    heights: np.ndarray | list[float],
    tilt: float = 0.0,
    shape: tuple[int, int] = (48, 40),
    spacing: tuple[float, float] = (4.5, 4.5),
    axes: tuple[np.ndarray, np.ndarray] | None = None,
    hu: Callable[[np.ndarray], np.ndarray] = head_hu,
    shuffle: bool = True,
    change: Callable[[Dataset, int], Any] | None = None,
    **tags: Any,
) -> list[Path]:
    """Write a CT series with slices at these heights (mm along z, as a tilted gantry moves its table). Files are named in a shuffled order.

    change: called with each data set and its index before it is written. tags: DICOM attributes by keyword; None takes one out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = axes or tilted_axes(tilt)
    start = -rows * spacing[1] * (shape[1] - 1) / 2 - columns * spacing[0] * (shape[0] - 1) / 2
    normal = np.cross(rows, columns)
    along = np.array([0.0, 0.0, 1.0]) if abs(normal[2]) > 0.5 else normal
    positions = np.array([start + along * z for z in heights])
    values = hu(points_of(positions, shape, spacing, rows, columns))
    uid = generate_uid()
    names = np.random.default_rng(3).permutation(len(heights)) if shuffle else np.arange(len(heights))
    paths = []
    for k, (position, pixels) in enumerate(zip(positions, values, strict=True)):
        data = Dataset()
        data.SOPClassUID = CT_STORAGE
        data.SOPInstanceUID = generate_uid()
        data.SeriesInstanceUID = uid
        data.StudyInstanceUID = "1.2.3"
        data.Modality = "CT"
        data.PatientName = "Doe^Jane"
        data.PatientID = "P-4711"
        data.SeriesNumber = 2
        data.SeriesDescription = "Head 5mm"
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.SliceThickness = 5.0
        data.InstanceNumber = k + 1
        data.ImagePositionPatient = [f"{v:.6f}" for v in position]
        data.ImageOrientationPatient = [f"{v:.7f}" for v in (*rows, *columns)]
        data.PixelSpacing = list(spacing)
        data.Rows, data.Columns = shape
        data.SamplesPerPixel = 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit = 15
        data.PixelRepresentation = 0
        data.RescaleIntercept, data.RescaleSlope = -1024, 1
        if tilt:
            data.GantryDetectorTilt = tilt
        data.PixelData = np.clip(pixels + 1024, 0, 65535).astype("<u2").tobytes()
        for keyword, value in tags.items():
            if value is None:
                delattr(data, keyword)
            else:
                setattr(data, keyword, value)
        if change is not None:
            change(data, k)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = data.SOPClassUID
        meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta = meta
        path = folder / f"{names[k]:03d}.dcm"
        pydicom.dcmwrite(path, data, enforce_file_format=True)
        paths.append(path)
    return paths


def head_volume(
    heights: np.ndarray, tilt: float = 0.0, shape: tuple[int, int] = (100, 80), spacing: tuple[float, float] = (2.0, 2.25), values: object = head_hu
) -> CTVolume:
    """A CTVolume with slices at these heights, made from a function of LPS points."""
    rows, columns = tilted_axes(tilt)
    start = -rows * spacing[1] * (shape[1] - 1) / 2 - columns * spacing[0] * (shape[0] - 1) / 2
    positions = start + np.asarray(heights, float)[:, None] * np.array([0.0, 0.0, 1.0])
    hu = values(points_of(positions, shape, spacing, rows, columns)).astype(np.float32)
    step = (heights[-1] - heights[0]) / (len(heights) - 1)
    direction = np.stack((rows, columns, [0, 0, 1.0]), axis=1).ravel()
    storage = Storage.of_grid((shape[1], shape[0], len(heights)), tuple(positions[0]), (spacing[1], spacing[0], step), tuple(direction), slice_axis=0)
    return CTVolume(hu, positions, spacing, rows, columns, storage)


def points_in(ct: CTVolume) -> np.ndarray:
    return points_of(ct.positions, ct.shape[1:], ct.spacing, ct.row_direction, ct.column_direction)


def on_holder(points: np.ndarray) -> np.ndarray:
    """The head on a curved shell of 4 mm that touches it, with two bars of dense plastic beside it."""
    hu = head_hu(points)
    radius = np.hypot(points[..., 0], points[..., 1] + 20)
    shell = (abs(radius - 114.0) < 2.0) & (points[..., 1] > 20)
    bars = (abs(abs(points[..., 0]) - 95.0) < 2.5) & (abs(points[..., 1]) < 40)
    hu[shell & (hu < -500)] = 40.0
    hu[bars] = 600.0
    return hu
