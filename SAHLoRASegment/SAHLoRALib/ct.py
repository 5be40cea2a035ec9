"""CT in, mask out: `read_ct` for a DICOM folder, NIfTI, NRRD or MetaImage; labels and segmentations on the scan's own grid.

The parts: `volume` (CTVolume, geometry), `headcheck` (is this a head CT in HU), `surroundings` (air around it), `dicom` (series), `images` (labels
and writing).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import SimpleITK as sitk

from .dicom import SeriesInfo, choose_series, is_dicom, list_series, read_series
from .errors import ScanError
from .headcheck import check_head_ct
from .images import format_warnings, mask_image, open_image, read_label, write_image, write_segmentation
from .nifti import is_nifti, two_places
from .surroundings import clipped_as_air, nan_as_air, zeros_as_air
from .volume import AIR_HU, CTVolume, Storage, volume_from_image

__all__ = [
    "AIR_HU",
    "CTVolume",
    "SeriesInfo",
    "Storage",
    "choose_series",
    "ct_from_image",
    "format_warnings",
    "list_series",
    "mask_image",
    "read_ct",
    "read_label",
    "write_image",
    "write_segmentation",
]


def read_ct(path: Path | str, series: str | None = None) -> CTVolume:
    """Read a head CT from a file or a DICOM folder and check it.

    path: a folder with DICOM slices (nested, several series), or a NIfTI, NRRD or MetaImage file in HU, any orientation.
    series: number, description or UID of the DICOM series to take; without it the axial soft-tissue head series is chosen.
    Raises ScanError, one sentence, for whatever is not a head CT in HU.
    """
    try:
        return _read(Path(path), series)
    except OSError as error:
        raise ScanError(f"{path} cannot be read: {error.strerror or error}.") from error
    except MemoryError as error:
        raise ScanError(f"{path} is too large for the memory of this computer.") from error


def _read(path: Path, series: str | None) -> CTVolume:
    if not path.exists():
        raise ScanError(f"{path} does not exist.")
    if path.is_dir():
        chosen, told = choose_series(path, series)
        return _checked(read_series(chosen, source=str(path), warnings=told))
    if is_dicom(path):
        raise ScanError(f"{path} is a single DICOM file; give the folder that holds all slices of the scan.")
    if series is not None:
        raise ScanError(f"{path} is a file and has no series to choose from; leave out the series or give a DICOM folder.")
    ct = ct_from_image(open_image(path, ScanError), source=str(path))
    apart = two_places(path) if is_nifti(path) else None
    return replace(ct, warnings=(*ct.warnings, apart)) if apart else ct


def ct_from_image(image: sitk.Image, source: str = "", check: bool = True) -> CTVolume:
    """A SimpleITK image in HU as a CTVolume; with `check` it must be a head CT (ScanError)."""
    ct = volume_from_image(image, source)
    return _checked(ct) if check else ct


def _checked(ct: CTVolume) -> CTVolume:
    """A scan that is a head CT, with air around it."""
    ct = nan_as_air(clipped_as_air(ct))
    return zeros_as_air(replace(ct, warnings=(*ct.warnings, *check_head_ct(ct))))
