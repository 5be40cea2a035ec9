"""Gantry tilt in NIfTI files.

A tilted stack is sheared: its rows, columns and stacking direction are not perpendicular. NIfTI's sform can state that, its qform cannot. ITK reads
the nearest rotation instead (wrong by degrees), or nothing at all where a file has no qform, and writes the nearest rotation. Here the sform is
read and written as it stands. Other programs that trust the sform (nibabel, FSL, FreeSurfer) then see the true slices; ITK itself, and so Slicer,
takes the rotation: for Slicer choose NRRD.
"""

from __future__ import annotations

import gzip
import shutil
import struct
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import SimpleITK as sitk

from .complete import is_complete
from .errors import ScanError

_HEADER = 348
_PIXDIM, _CODES, _SFORM = slice(80, 92), slice(252, 256), slice(280, 328)
#: ITK refuses more where there is no qform.
_SKEW = 5e-5
_FLIP = np.diag([-1.0, -1.0, 1.0])  # NIfTI is RAS, DICOM and ITK are LPS


def is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _open(path: Path, mode: str) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, mode, compresslevel=6) if path.name.lower().endswith(".gz") else path.open(mode))  # type: ignore[call-overload]


def _header(path: Path) -> tuple[bytes, str] | None:
    """The NIfTI-1 header and its byte order; None for anything else."""
    try:
        with _open(path, "rb") as stream:
            header = stream.read(_HEADER)
    except (OSError, EOFError):
        return None
    for order in "<>":
        if len(header) == _HEADER and struct.unpack(order + "i", header[:4])[0] == _HEADER:
            return header, order
    return None


def _sform(header: bytes, order: str) -> np.ndarray:
    """(3, 4) LPS affine of the sform."""
    return _FLIP @ np.array(struct.unpack(order + "12f", header[_SFORM])).reshape(3, 4)  # type: ignore[no-any-return]


def _sheared_affine(header: bytes, order: str) -> np.ndarray | None:
    """(3, 4) LPS affine of the sform where it is sheared by more than rounding, else None."""
    _, sform_code = struct.unpack(order + "2h", header[_CODES])
    affine = _sform(header, order)
    lengths = np.linalg.norm(affine[:, :3], axis=0)
    if sform_code <= 0 or not np.isfinite(affine).all() or lengths.min() <= 0:
        return None
    units = affine[:, :3] / lengths
    skew = np.abs(units.T @ units - np.eye(3)).max()
    return affine if skew > _SKEW and abs(np.linalg.det(units)) > 0.2 else None


def two_places(path: Path) -> str | None:
    """A warning where a file states two geometries, a qform and an sform, that lie apart; the qform is taken then, as Slicer does."""
    found = _header(path)
    if found is None or _sheared_affine(*found) is not None:
        return None
    header, order = found
    qform_code, sform_code = struct.unpack(order + "2h", header[_CODES])
    if qform_code <= 0 or sform_code <= 0 or _has_unpacked_twin(path):
        return None
    image = sitk.ImageFileReader()
    image.SetFileName(str(path))
    image.ReadImageInformation()
    if image.GetDimension() != 3:
        return None
    size = np.array(image.GetSize()) - 1.0
    corners = np.stack(np.meshgrid(*([0.0, n] for n in size), indexing="ij"), axis=-1).reshape(-1, 3)
    affine = _sform(header, order)
    taken = (np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()) @ corners.T + np.array(image.GetOrigin())[:, None]
    apart = float(np.linalg.norm(affine[:, :3] @ corners.T + affine[:, 3:] - taken, axis=0).max())
    if not apart > 0.5:
        return None
    return (
        f"The file states two geometries that lie up to {apart:.1f} mm apart, a qform and an sform: the qform is used, as Slicer does. "
        "Programs that go by the sform (nibabel, FSL, SPM) show scan and mask apart."
    )


def _says_no_size(header: bytes, order: str) -> bool:
    """ITK takes 1 mm for a size that is 0."""
    sizes = np.array(struct.unpack(order + "3f", header[_PIXDIM]))
    return bool(struct.unpack(order + "2h", header[_CODES])[1] <= 0 and not (np.isfinite(sizes) & (sizes != 0)).all())


def read_nifti(path: Path) -> sitk.Image:
    """Read a NIfTI file; a sheared sform is kept. RuntimeError where ITK cannot read it or the file is cut short (ITK fills up with
    zeros), ScanError for voxels without a size.
    """
    found = _header(path)
    if not is_complete(path):
        raise RuntimeError(f"{path} is cut short")
    if found is not None and _says_no_size(*found):
        raise ScanError(f"{path}: the header tells no size of a voxel (pixdim is 0 or not a number); convert the scan again from DICOM.")
    affine = _sheared_affine(*found) if found else None
    if found is None or affine is None:
        return _read(path)
    header, order = found
    qform_code = struct.unpack(order + "2h", header[_CODES])[0]
    if qform_code > 0:
        image = _read(path)
    else:
        # ITK refuses a file whose only transform is sheared: it gets a copy with an upright qform.
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "upright.nii"
            upright = bytearray(header)
            upright[_CODES] = struct.pack(order + "2h", 1, 0)
            upright[256:280] = bytes(24)
            _copy_with_header(path, copy, bytes(upright))
            image = sitk.ReadImage(str(copy))
    if image.GetDimension() != 3:
        return image
    lengths = np.linalg.norm(affine[:, :3], axis=0)
    image.SetSpacing(tuple(float(v) for v in lengths))
    image.SetDirection(tuple(float(v) for v in (affine[:, :3] / lengths).ravel()))
    image.SetOrigin(tuple(float(v) for v in affine[:, 3]))
    return image


def _read(path: Path) -> sitk.Image:
    """With ITK. Asked for scan.nii.gz it takes the voxels of a scan.nii beside it: such a file is read from a folder of its own."""
    if not _has_unpacked_twin(path):
        return sitk.ReadImage(str(path))
    with tempfile.TemporaryDirectory() as folder:
        return sitk.ReadImage(shutil.copyfile(path, str(Path(folder) / "alone.nii.gz")))


def _has_unpacked_twin(path: Path) -> bool:
    return path.name.lower().endswith(".nii.gz") and path.with_name(path.name[:-3]).exists()


def write_shear(path: Path, image: sitk.Image) -> None:
    """Put the true affine of a sheared image into the sform of the file that ITK has just written for it; nothing to do for others."""
    units = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)
    if image.GetDimension() != 3 or np.abs(units.T @ units - np.eye(3)).max() < 1e-4:
        return
    found = _header(path)
    if found is None:
        return
    header, order = bytearray(found[0]), found[1]
    affine = _FLIP @ np.column_stack((units * np.array(image.GetSpacing()), image.GetOrigin()))
    header[_CODES] = struct.pack(order + "2h", 1, 1)
    header[_SFORM] = struct.pack(order + "12f", *affine.ravel())
    copy = path.with_name("shear." + path.name.lstrip("."))
    try:
        _copy_with_header(path, copy, bytes(header))
        copy.replace(path)
    finally:
        copy.unlink(missing_ok=True)


def _copy_with_header(source: Path, target: Path, header: bytes) -> None:
    with _open(source, "rb") as old, _open(target, "wb") as new:
        old.read(_HEADER)
        new.write(header)
        shutil.copyfileobj(old, new, 1 << 20)
