"""DICOM files one by one: headers, and slices stacked at their true positions.

Read with SimpleITK (GDCM): the position of each slice comes from its own header. A plain series reader takes a gantry tilt for a rotation and uneven
gaps for even ones. Of the patient (name, number, dates) nothing is taken from the headers; whether two files are of one
patient is asked of a keyed hash that nobody can turn back, with a key that is forgotten when the program ends.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import ScanError
from .images import quiet_itk
from .volume import AIR_HU, CTVolume, Storage

_KEY = os.urandom(16)
_CT_IMAGE = b"1.2.840.10008.5.1.4.1.1.2"
_TAGS = {
    "modality": "0008|0060",
    "uid": "0020|000e",
    "instance": "0008|0018",
    "number": "0020|0011",
    "description": "0008|103e",
    "protocol": "0018|1030",
    "image_type": "0008|0008",
    "kernel": "0018|1210",
    "thickness": "0018|0050",
    "tilt": "0018|1120",
    "orientation": "0020|0037",
    "position": "0020|0032",
    "pixel_spacing": "0028|0030",
    "rows": "0028|0010",
    "columns": "0028|0011",
    "samples": "0028|0002",
    "frames": "0028|0008",
    "acquisition": "0020|0012",
    "study": "0020|000d",
    "patient": "0010|0020",
    "agent": "0018|0010",
    "photometric": "0028|0004",
    "slope": "0028|1053",
    "intercept": "0028|1052",
}


@dataclass(frozen=True)
class Header:
    """What is needed of one file's header (the names of _TAGS), as text; missing entries are empty."""

    path: Path
    fields: dict[str, str] = field(repr=False)

    def text(self, name: str) -> str:
        return self.fields.get(name, "")

    def numbers(self, name: str, count: int) -> tuple[float, ...] | None:
        """The values of a number field, or None where it is missing or not `count` finite numbers of a size that can be."""
        try:
            values = tuple(float(part) for part in self.text(name).split("\\"))
        except ValueError:
            return None
        return values if len(values) == count and np.isfinite(values).all() and max(map(abs, values)) < 1e6 else None

    def normal(self) -> np.ndarray | None:
        """(3,) unit normal of the slice: row × column direction; None where the orientation is missing or degenerate."""
        orientation = self.numbers("orientation", 6)
        if orientation is None:
            return None
        normal = np.cross(orientation[:3], orientation[3:])
        length = np.linalg.norm(normal)
        return normal / length if length > 0.5 else None

    def is_rectangular(self) -> bool:
        """Whether rows and columns are perpendicular, to half a degree."""
        orientation = self.numbers("orientation", 6)
        if orientation is None:
            return False
        rows, columns = np.array(orientation[:3]), np.array(orientation[3:])
        return bool(abs(rows @ columns) < 0.009 * np.linalg.norm(rows) * np.linalg.norm(columns))

    def orientation_name(self) -> str:
        """axial, coronal, sagittal or unknown."""
        normal = self.normal()
        return "unknown" if normal is None else ("sagittal", "coronal", "axial")[int(np.abs(normal).argmax())]

    def stacks_with(self, other: Header) -> bool:
        """Whether two files agree in series, matrix, orientation and pixel size; one that lacks a number is no reason against it."""
        if any(self.text(name) != other.text(name) for name in ("uid", "rows", "columns")):
            return False
        for name, count, tolerance in (("orientation", 6, 0.01), ("pixel_spacing", 2, 0.002)):
            mine, theirs = self.numbers(name, count), other.numbers(name, count)
            if mine is not None and theirs is not None and not np.allclose(mine, theirs, rtol=0.0, atol=tolerance):
                return False
        return True


def heights(headers: Sequence[Header], normal: np.ndarray) -> list[float]:
    """mm along the normal of the slices whose position is known."""
    return [float(np.array(position) @ normal) for h in headers if (position := h.numbers("position", 3)) is not None]


def is_dicom(path: Path) -> bool:
    """Whether a file starts as DICOM: the DICM mark at byte 128, or a bare data set of group 8 (old scanners)."""
    try:
        with path.open("rb") as stream:
            start = stream.read(132)
    except OSError:
        return False
    bare = len(start) == 132 and start[:2] == b"\x08\x00" and start[3:4] == b"\x00"
    return start[128:132] == b"DICM" or bare


def read_header(path: Path) -> Header | None:
    """The header of an image file; None where GDCM finds no image in it."""
    reader = _reader(path)
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError:
        return None
    keys = set(reader.GetMetaDataKeys())
    fields = {name: _clean(reader.GetMetaData(tag)) for name, tag in _TAGS.items() if tag in keys}
    if fields.get("patient"):
        fields["patient"] = hashlib.blake2b(" ".join(fields["patient"].split()).casefold().encode(), key=_KEY, digest_size=8).hexdigest()
    return Header(path, fields)


def damaged_ct(path: Path) -> str | None:
    """The series UID ("" where it is lost) if an unreadable file says that it is a CT image; None for reports, presentation states and the like."""
    with path.open("rb") as stream:
        start = stream.read(16384)
    if not re.search(re.escape(_CT_IMAGE) + rb"(\.\d)?\0?[^.\d]", start[:1024] + b"\xff"):
        return None
    uid = re.search(rb"\x20\x00\x0e\x00(?:UI..|....)([\d.]+)", start, re.DOTALL)
    return uid.group(1).decode() if uid else ""


def unsuited_because(headers: Sequence[Header]) -> str | None:
    """Why a series cannot be read at all, even when the user names it; None where it can."""
    first = headers[0]
    if first.text("modality") != "CT":
        return f"not CT but {first.text('modality') or 'without a modality'}"
    if first.text("samples") not in ("", "1"):
        return "colour pictures, not HU"
    if first.text("photometric").upper() == "MONOCHROME1":
        return "stored with black and white exchanged (MONOCHROME1); export or convert it as MONOCHROME2"
    if first.text("frames") not in ("", "0", "1"):
        return "an enhanced multi-frame file; convert it to single slices or to NIfTI (for instance with dcm2niix)"
    for name, tag, count in (
        ("pixel_spacing", "PixelSpacing", 2),
        ("orientation", "ImageOrientationPatient", 6),
        ("position", "ImagePositionPatient", 3),
    ):
        missing = [h.path.name for h in headers if h.numbers(name, count) is None]
        if missing:
            return f"{tag} is missing in {len(missing)} of {len(headers)} files (for instance {missing[0]})"
    if min(first.numbers("pixel_spacing", 2) or (0.0,)) <= 0 or first.normal() is None:
        return "PixelSpacing or ImageOrientationPatient has impossible values"
    if not first.is_rectangular():
        return "the rows and columns in ImageOrientationPatient are not perpendicular"
    for h in headers:
        rescale = [numbers[0] if (numbers := h.numbers(name, 1)) else None for name in ("slope", "intercept") if h.text(name)]
        if None in rescale or (h.text("slope") and rescale[0] == 0):
            return f"RescaleSlope or RescaleIntercept is 0 or no number in {h.path.name}"
    if first.orientation_name() != "axial":
        return f"{first.orientation_name()}, not axial"
    if len(headers) < 3:
        return f"only {len(headers)} slice{'s' if len(headers) > 1 else ''}, and a volume is needed"
    return None


def read_slices(headers: Sequence[Header], source: str, series: str) -> CTVolume:
    """Stack files of one group in HU, sorted by their position along the normal; the rescale is applied by GDCM.

    The storage states the best single grid: first position, true row and column directions, mean step from slice to slice. With tilt that step is
    not perpendicular to the slices. source, series: for messages and the CTVolume. Raises ScanError for damaged files, two slices at one place, or
    what `unsuited_because` names.
    """
    if (why := unsuited_because(headers)) is not None:
        raise ScanError(f"{source}: {series} cannot be used: {why}.")
    first = headers[0]
    normal = first.normal()
    assert normal is not None
    headers = [headers[n] for n in np.argsort(heights(headers, normal), kind="stable")]
    headers, copies = _without_copies(headers, normal, source, series)
    positions = np.array([h.numbers("position", 3) for h in headers])
    if (both := _mixed_acquisitions(headers, positions @ normal)) is not None:
        raise ScanError(f"{source}: {series} mixes two acquisitions (AcquisitionNumber {both[0]} and {both[1]}); keep the files of one.")
    storage = _storage(first, positions)
    hu = np.empty(storage.shape, np.float32)
    stored = storage.to_stored(hu)  # a view: slices land in their canonical place at once
    with quiet_itk():
        for k, header in enumerate(headers):
            np.maximum(_pixels(header, stored.shape[1:], source), AIR_HU, out=stored[k])
    steps = storage.steps
    lengths = storage.lengths
    # The files' positions are those of their own first pixel; a flipped slice starts at another corner.
    corner = -sum((steps[axis] * (storage.shape[axis] - 1) for axis in (1, 2) if storage.flips[axis]), np.zeros(3))
    tilt = first.numbers("tilt", 1)
    return CTVolume(
        hu=hu,
        positions=(positions[::-1] if storage.flips[0] else positions) + corner,
        spacing=lengths[1:],
        row_direction=steps[2] / lengths[2],
        column_direction=steps[1] / lengths[1],
        storage=storage,
        source=source,
        series=series,
        header_tilt=tilt[0] if tilt else None,
        warnings=(f"{copies} slices lie there twice under different names; the copies are left out.",) if copies else (),
    )


def _without_copies(headers: Sequence[Header], normal: np.ndarray, source: str, series: str) -> tuple[list[Header], int]:
    """Sorted headers without those that repeat the pixels of another one at its position, and how many went. Raises ScanError where they differ."""
    found = heights(headers, normal)
    if max(found) - min(found) < 0.01:
        raise ScanError(f"{source}: all slices of {series} state the same position, so the true ones are lost; export the scan again.")
    kept: list[Header] = []
    below = -np.inf
    for height, header in zip(found, headers, strict=True):
        if height - below >= 0.01:
            kept.append(header)
            below = height
            continue
        shape = tuple(int(header.text(name) or 0) for name in ("rows", "columns"))
        with quiet_itk():
            same = np.array_equal(_pixels(kept[-1], shape, source), _pixels(header, shape, source))
        if not same or header.numbers("position", 3) != kept[-1].numbers("position", 3):
            raise ScanError(
                f"{source}: {series} has two slices at one position ({kept[-1].path.name} and {header.path.name}); "
                "it mixes two acquisitions: keep the files of one."
            )
    return kept, len(headers) - len(kept)


def _mixed_acquisitions(headers: Sequence[Header], heights: np.ndarray) -> tuple[str, str] | None:
    """Two acquisition numbers that each stand in slices all over one part of the body; a table that moves on between them is no mixture."""
    spans: dict[str, list[float]] = {}
    for header, height in zip(headers, heights, strict=True):
        spans.setdefault(header.text("acquisition"), []).append(float(height))
    parts = [(name, min(held), max(held)) for name, held in spans.items() if len(held) >= 3]
    for n, (name, low, high) in enumerate(parts):
        for other, bottom, top in parts[:n]:
            if min(high, top) - max(low, bottom) > 0.5 * min(high - low, top - bottom):
                return other, name
    return None


def _storage(first: Header, positions: np.ndarray) -> Storage:
    orientation = np.array(first.numbers("orientation", 6))
    row_mm, column_mm = first.numbers("pixel_spacing", 2) or (1.0, 1.0)
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    length = float(np.linalg.norm(step))
    rows = orientation[:3] / np.linalg.norm(orientation[:3])
    columns = orientation[3:] / np.linalg.norm(orientation[3:])
    return Storage.of_grid(
        (int(first.text("columns")), int(first.text("rows")), len(positions)),
        tuple(positions[0]),
        (column_mm, row_mm, length),
        tuple(np.stack((rows, columns, step / length), axis=1).ravel()),
        slice_axis=0,
    )


def _reader(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(os.fspath(path))
    reader.SetImageIO("GDCMImageIO")
    return reader


def _pixels(header: Header, shape: tuple[int, ...], source: str) -> np.ndarray:
    """(rows, columns) of one file, in HU."""
    try:
        pixels = sitk.GetArrayFromImage(_reader(header.path).Execute())
    except (RuntimeError, MemoryError) as error:
        raise ScanError(f"{source}: the DICOM file {header.path.name} is damaged or cut short; copy the scan again.") from error
    if pixels.ndim == 3 and len(pixels) == 1:
        pixels = pixels[0]
    if pixels.shape != tuple(shape):
        raise ScanError(f"{source}: the DICOM file {header.path.name} is {pixels.shape}, the other slices are {tuple(shape)}.")
    return pixels


def _clean(text: str) -> str:
    """DICOM text without padding; bytes of an old character set are read as Latin letters."""
    raw = text.encode("utf-8", "surrogateescape")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return "".join(c if c.isprintable() else " " for c in text).strip()
