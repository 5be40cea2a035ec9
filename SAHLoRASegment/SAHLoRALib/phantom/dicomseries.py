"""A CTVolume as a DICOM series: every slice with its own position, so that tilt and uneven gaps are kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import OutputError
from ..files import replacing
from ..images import quiet_itk
from ..volume import CTVolume


def write_dicom(ct: CTVolume, folder: Path) -> None:
    """Write the slices as 001.dcm, 002.dcm, … into `folder`; the series is marked as synthetic and names nobody. Raises OutputError.

    Identifiers are made from the pixels, so the same volume gives the same files.
    """
    digest = hashlib.sha256(ct.hu.tobytes() + ct.positions.tobytes()).hexdigest()
    study, series, frame = (f"2.25.{int(digest[i : i + 24], 16)}" for i in (0, 8, 16))
    direction = np.stack((ct.row_direction, ct.column_direction, np.cross(ct.row_direction, ct.column_direction)), axis=1)
    common = {
        "0008|0008": "ORIGINAL\\PRIMARY\\AXIAL",
        "0008|0060": "CT",
        "0008|103e": "SAHLoRA synthetic head",
        "0010|0010": "SAHLoRA^Synthetic",
        "0010|0020": f"SYNTHETIC-{digest[:8]}",
        "0018|0015": "HEAD",
        "0018|0050": f"{float(np.median(ct.slice_thicknesses)):.4f}",
        "0018|1120": f"{ct.header_tilt or 0.0:.4f}",
        "0020|000d": study,
        "0020|000e": series,
        "0020|0052": frame,
        "0020|0011": "2",
        "0028|1052": "-1024",
        "0028|1053": "1",
    }
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, plane in enumerate(ct.hu):
        image = sitk.GetImageFromArray(np.rint(plane)[None].astype(np.int16))
        image.SetSpacing((ct.spacing[1], ct.spacing[0], 1.0))
        image.SetDirection(tuple(direction.ravel()))
        image.SetOrigin(tuple(float(v) for v in ct.positions[k]))
        own = {"0008|0018": f"{series}.{k + 1}", "0020|0013": str(k + 1)}
        for tag, value in (common | own).items():
            image.SetMetaData(tag, value)
        with replacing(folder / f"{k + 1:03d}.dcm") as temporary, quiet_itk():
            try:
                writer.SetFileName(str(temporary))
                writer.Execute(image)
            except RuntimeError as error:
                raise OutputError(f"Cannot write {folder}: no permission, the disk is full, or the folder is gone.") from error
