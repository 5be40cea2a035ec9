"""`CTVolume`: Hounsfield units with the true position of every slice.

Coordinates are LPS millimetres (DICOM's and SimpleITK's: +x patient's left, +y posterior, +z superior). Arrays are (slices, rows, columns) in
the canonical axial order: slices from inferior to superior, rows from anterior to posterior, columns from the patient's right to left. `Storage`
remembers how the array lay in the input, so that a mask returns to exactly that grid. Axes are only permuted and flipped, never resampled.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import SimpleITK as sitk

from .errors import CaseError, ScanError

#: Below this there is nothing in HU: padding values (GE writes -1500, -2000 or -3024) are raised to it.
AIR_HU = -1024.0
#: Old protocols leave up to 10 mm between two slices of the vault.
_WIDEST_GAP_MM = 15.0
#: A head is higher than this many mm.
_FEWEST_SLICES_OF_1_MM = 100


@dataclass(frozen=True)
class Storage:
    """How an array lies in its file.

    size, origin, spacing, direction: the file's own grid as SimpleITK states it (x, y, z; direction row by row).
    axes: for the canonical axes (slices, rows, columns) the axis of the stored array (SimpleITK's z, y, x order) that holds it.
    flips: whether that axis runs against the canonical direction.
    """

    size: tuple[int, int, int]
    origin: tuple[float, float, float]
    spacing: tuple[float, float, float]
    direction: tuple[float, ...]
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def of(cls, image: sitk.Image) -> Storage:
        """The storage of a 3D image: the axes that lie closest to superior, posterior and left become slices, rows and columns."""
        return cls.of_grid(image.GetSize(), image.GetOrigin(), image.GetSpacing(), image.GetDirection())

    @classmethod
    def of_grid(cls, size: tuple, origin: tuple, spacing: tuple, direction: tuple, slice_axis: int | None = None) -> Storage:
        """The same from the four parts of a grid, in SimpleITK's order. slice_axis: the axis of the stored array that holds the slices, if known."""
        units = np.array(direction, float).reshape(3, 3).T[::-1]  # units[a]: the direction of axis a of the stored array
        cosines = units[:, ::-1]  # columns: superior, posterior, left
        orders = [order for order in itertools.permutations(range(3)) if slice_axis in (None, order[0])]
        axes = max(orders, key=lambda order: sum(abs(cosines[order[c], c]) for c in range(3)))
        flips = tuple(bool(cosines[axes[c], c] < 0) for c in range(3))
        return cls(
            (int(size[0]), int(size[1]), int(size[2])),
            (float(origin[0]), float(origin[1]), float(origin[2])),
            (float(spacing[0]), float(spacing[1]), float(spacing[2])),
            tuple(float(d) for d in direction),
            (axes[0], axes[1], axes[2]),
            (flips[0], flips[1], flips[2]),
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Canonical shape: slices, rows, columns."""
        stored = self.size[::-1]
        return stored[self.axes[0]], stored[self.axes[1]], stored[self.axes[2]]

    @property
    def steps(self) -> np.ndarray:
        """(3, 3): LPS mm of one step along the canonical slices, rows and columns."""
        stored = np.array(self.direction).reshape(3, 3).T[::-1] * np.array(self.spacing)[::-1, None]
        return stored[list(self.axes)] * np.where(self.flips, -1.0, 1.0)[:, None]

    @property
    def lengths(self) -> tuple[float, float, float]:
        """mm of one step along the canonical slices, rows and columns."""
        stored = self.spacing[::-1]
        return stored[self.axes[0]], stored[self.axes[1]], stored[self.axes[2]]

    @property
    def first(self) -> np.ndarray:
        """(3,): LPS mm of the canonical voxel [0, 0, 0]."""
        last = (np.array(self.shape) - 1) * np.array(self.flips)
        return np.array(self.origin) - last @ self.steps

    def to_canonical(self, stored: np.ndarray) -> np.ndarray:
        """A view of the stored array (z, y, x) in canonical order."""
        return self._flip(np.transpose(stored, self.axes))

    def to_stored(self, canonical: np.ndarray) -> np.ndarray:
        """A view of the canonical array in the file's order (z, y, x)."""
        return np.transpose(self._flip(canonical), np.argsort(self.axes))

    def _flip(self, array: np.ndarray) -> np.ndarray:
        return array[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]

    def image(self, canonical: np.ndarray) -> sitk.Image:
        """The canonical array as an image on exactly the file's own grid."""
        image = sitk.GetImageFromArray(np.ascontiguousarray(self.to_stored(canonical)))
        image.SetOrigin(self.origin)
        image.SetSpacing(self.spacing)
        image.SetDirection(self.direction)
        return image


@dataclass(frozen=True, eq=False)
class CTVolume:
    """A head CT.

    hu: (slices, rows, columns) float32, HU, canonical axial order.
    positions: (slices, 3) float64, LPS mm of voxel [k, 0, 0] of every slice: with gantry tilt they drift within the plane, and gaps may differ.
    spacing: mm between rows and between columns.
    row_direction, column_direction: (3,) unit vectors of an increasing column index and of an increasing row index (DICOM's names).
    storage: how the array lies in the input. source: the path that was given. series: description of the chosen series, without names.
    warnings: what a user should know, in words. header_tilt: GantryDetectorTilt of the DICOM header, degrees, where there is one.
    """

    hu: np.ndarray
    positions: np.ndarray
    spacing: tuple[float, float]
    row_direction: np.ndarray
    column_direction: np.ndarray
    storage: Storage
    source: str = ""
    series: str = ""
    warnings: tuple[str, ...] = ()
    header_tilt: float | None = None

    def __post_init__(self) -> None:
        if self.hu.ndim != 3 or self.positions.shape != (len(self.hu), 3):
            raise ValueError(f"hu {self.hu.shape} and positions {self.positions.shape} do not belong together")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        return self.hu.shape[0], self.hu.shape[1], self.hu.shape[2]

    @cached_property
    def normal(self) -> np.ndarray:
        """(3,) unit vector perpendicular to the slices, pointing up."""
        normal = np.cross(self.row_direction, self.column_direction)
        return normal / np.linalg.norm(normal) * (1.0 if normal[2] >= 0 else -1.0)

    @cached_property
    def gaps_mm(self) -> np.ndarray:
        """(slices - 1,) mm between neighbouring slices, perpendicular to them."""
        return np.diff(self.positions @ self.normal)

    @cached_property
    def heights_mm(self) -> np.ndarray:
        """(slices,) mm above the first slice, perpendicular to them."""
        return np.concatenate(([0.0], np.cumsum(self.gaps_mm)))

    def spaced(self, slices: Sequence[int], apart_mm: float, most: int | None = None) -> list[int]:
        """Of slices (rising) the first, the last and as few between as lie no more than apart_mm apart where they can; at most `most`, the lowest."""
        chosen, last = [slices[0]], 0
        while last + 1 < len(slices) and (most is None or len(chosen) < most):
            last += 1
            while last + 1 < len(slices) and self.heights_mm[slices[last + 1]] - self.heights_mm[chosen[-1]] <= apart_mm:
                last += 1
            chosen.append(slices[last])
        return chosen

    @cached_property
    def slice_thicknesses(self) -> np.ndarray:
        """(slices,) mm, perpendicular: half way to the slice below plus half way to the one above; an end slice has its one gap on both sides."""
        if len(self.gaps_mm) == 0:
            return np.full(len(self.hu), self.storage.lengths[0])
        gaps = np.where(self.missing, np.median(self.gaps_mm), self.gaps_mm)
        sides = np.concatenate((gaps[:1], gaps, gaps[-1:]))
        return (sides[:-1] + sides[1:]) / 2

    @cached_property
    def missing(self) -> np.ndarray:
        """(slices - 1,) bool: wide gaps that no second one resembles, so that slices are missing in them; they count as thick as the median."""
        gaps = self.gaps_mm
        if len(gaps) == 0:
            return np.zeros(0, bool)
        alone = (np.abs(gaps[:, None] - gaps) < 0.1 * gaps[:, None]).sum(axis=1) == 1
        return alone & (gaps > max(3.0 * float(np.median(gaps)), _WIDEST_GAP_MM))

    @cached_property
    def geometry_lost(self) -> bool:
        """Whether the file states what stands where nothing was stated: voxels of 1 mm from 0 on, and fewer slices than a head is high."""
        grid = self.storage
        return bool(np.allclose(grid.lengths, 1.0) and not np.any(grid.origin) and np.allclose(np.abs(grid.direction), np.eye(3).ravel())) and (
            len(self.hu) < _FEWEST_SLICES_OF_1_MM
        )

    @cached_property
    def voxel_volumes_ml(self) -> np.ndarray:
        """(slices,) mL of one voxel of each slice."""
        return self.slice_thicknesses * self.spacing[0] * self.spacing[1] / 1000.0

    @cached_property
    def tilt_degrees(self) -> float:
        """Degrees between the slices' normal and the direction in which they are stacked; 0 for a plain stack.

        The sign is that of the header's GantryDetectorTilt where the header agrees with the positions within one degree, else it is positive.
        """
        if len(self.positions) < 2:
            return 0.0
        stacking = self.positions[-1] - self.positions[0]
        drift = np.linalg.norm(stacking - (stacking @ self.normal) * self.normal)
        angle = float(np.degrees(np.arctan2(drift, abs(stacking @ self.normal))))
        if angle < 0.05:
            return 0.0
        agrees = self.header_tilt is not None and abs(abs(self.header_tilt) - angle) < 1.0
        return -angle if agrees and self.header_tilt is not None and self.header_tilt < 0 else angle

    @cached_property
    def uneven(self) -> bool:
        """Whether no single step leads from slice to slice: some slice lies more than 0.1 mm off the even grid of the first and last."""
        even = np.linspace(self.positions[0], self.positions[-1], len(self.positions))
        return bool(np.abs(even - self.positions).max() > 0.1)


def volume_from_image(image: sitk.Image, source: str = "", warnings: tuple[str, ...] = ()) -> CTVolume:
    """A 3D scalar image as a CTVolume, without asking whether it is a head CT. Raises ScanError for other dimensions."""
    image = three_dimensional(image, source)
    storage = Storage.of(image)
    if not np.isfinite([*storage.origin, *storage.spacing, *storage.direction]).all() or abs(np.linalg.det(storage.steps)) < 1e-9:
        where = f"{source}: " if source else ""
        raise ScanError(f"{where}the geometry in the header makes no sense (spacing {_listed(storage.spacing)} mm); convert the scan again.")
    hu = canonical_hu(sitk.GetArrayViewFromImage(image), storage)
    steps = storage.steps
    positions = storage.first + np.arange(len(hu))[:, None] * steps[0]
    lengths = storage.lengths
    return CTVolume(
        hu=hu,
        positions=positions,
        spacing=lengths[1:],
        row_direction=steps[2] / lengths[2],
        column_direction=steps[1] / lengths[1],
        storage=storage,
        source=source,
        warnings=warnings,
    )


def _listed(numbers: tuple[float, ...]) -> str:
    return " × ".join(f"{n:g}" for n in numbers)


def three_dimensional(image: sitk.Image, source: str, kind: type[ScanError] | type[CaseError] = ScanError) -> sitk.Image:
    """The image if it is 3D with one component (a fourth dimension of one is dropped), else ScanError or CaseError."""
    while image.GetDimension() > 3 and image.GetSize()[-1] == 1:
        size = list(image.GetSize())
        image = sitk.Extract(image, [*size[:-1], 0], [0] * len(size))
    where = f"{source}: " if source else ""
    if image.GetDimension() > 3:
        raise kind(f"{where}the image has {image.GetDimension()} dimensions {image.GetSize()}; give a single 3D volume.")
    if image.GetDimension() < 3:
        raise kind(f"{where}the image is a single slice; a volume is needed.")
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise kind(f"{where}the image has {image.GetNumberOfComponentsPerPixel()} values a pixel (colour or vectors); give a scalar volume.")
    if image.GetPixelID() in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
        raise kind(f"{where}the image holds complex numbers; give a scalar volume.")
    return image


def canonical_hu(stored: np.ndarray, storage: Storage) -> np.ndarray:
    """(slices, rows, columns) float32 of a stored array, padding raised to air. One slice at a time: a second copy of the volume never exists."""
    view = storage.to_canonical(stored)
    hu = np.empty(view.shape, np.float32)
    for k in range(len(hu)):
        hu[k] = view[k]
        np.maximum(hu[k], AIR_HU, out=hu[k])  # NaN stays NaN: around the head it becomes air, in it it is refused
    return hu
