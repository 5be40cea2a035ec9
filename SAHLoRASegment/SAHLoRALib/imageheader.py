"""What the header of an image file claims, held against the file before ITK believes it.

ITK takes memory for as many voxels as a header names and only then looks for them, and it opens any path that a header names as their place.
So a file of some hundred bytes could ask for the whole memory, or for another file of the computer.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import SimpleITK as sitk

from .errors import one_line

#: DEFLATE (gzip, zlib) makes a file at most 1032 times smaller (zlib's technical details); bzip2's and others' voxels are refused beyond it too.
_MOST_COMPRESSION = 1100
#: More than any CT has: 2,000 slices of 1024 × 1024.
MOST_VOXELS = 2_000 * 1024 * 1024
_TEXT_HEADERS = (".nrrd", ".nhdr", ".mha", ".mhd")
#: The entry that says where the voxels are: NRRD's and MetaImage's.
_DATA_FILE = re.compile(rb"^\s*(?:data ?file\s*:\s*|ElementDataFile\s*=\s*)(.*?)\s*$", re.IGNORECASE | re.MULTILINE)
_IN_THE_FILE = ("local", "list", "")


def wrong_claim(path: Path) -> str | None:
    """Why a file cannot be what its header says, as the end of a sentence; None where it can, or where no header is understood (the reader says why).

    Raises OSError where the file cannot be opened.
    """
    if path.is_dir():
        return None
    outside = _voxels_elsewhere(path)
    if outside is not None:
        return outside
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        reader.ReadImageInformation()
        voxels = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
        size = voxels * _bytes_of_a_voxel(reader.GetPixelID())
    except (RuntimeError, MemoryError, OverflowError):
        return None
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
    if voxels > MOST_VOXELS:
        return f"claims {voxels:,} voxels, more than any CT has; its header is damaged, or it is not a CT"
    held = _bytes_on_disk(path)
    if size > held * _MOST_COMPRESSION:
        return f"claims {size:,} bytes of voxels and holds {held:,}: it is cut short or damaged; copy it again"
    return None


def _voxels_elsewhere(path: Path) -> str | None:
    """Why the file that a text header names for its voxels is not opened; None where there is no such thing or it lies beside the header."""
    if not path.name.lower().endswith(_TEXT_HEADERS):
        return None
    with path.open("rb") as stream:
        start = stream.read(65536)
    if start[:4] == b"NRRD":
        start = start.partition(b"\n\n")[0].partition(b"\r\n\r\n")[0]
    for found in _DATA_FILE.finditer(start):
        name = found.group(1).decode("utf-8", "replace").strip().strip('"')
        first = name.split(" ")[0]
        if first.lower() in _IN_THE_FILE:
            continue
        if re.match(r"^([/\\~]|[A-Za-z]:)", name) or ".." in re.split(r"[/\\]", name):
            return f"says that its voxels lie in {one_line(name, 80)}, outside of its own folder; put them beside the header, or save it as one file"
        if "%" not in name and not (path.parent / name).is_file():
            return f"says that its voxels lie in {one_line(name, 80)}, which is not there; copy that file too"
    return None


def _bytes_on_disk(path: Path) -> int:
    """Of the file; where its voxels may lie in others, of all files beside it."""
    if path.name.lower().endswith((".nhdr", ".mhd", ".hdr", ".img")):
        return sum(other.stat().st_size for other in path.parent.iterdir() if other.is_file())
    return path.stat().st_size


def _bytes_of_a_voxel(pixel: int) -> int:
    """Of one component."""
    if pixel in (sitk.sitkUInt8, sitk.sitkInt8, sitk.sitkVectorUInt8, sitk.sitkVectorInt8):
        return 1
    if pixel in (sitk.sitkUInt16, sitk.sitkInt16, sitk.sitkVectorUInt16, sitk.sitkVectorInt16):
        return 2
    if pixel in (sitk.sitkUInt32, sitk.sitkInt32, sitk.sitkFloat32, sitk.sitkVectorUInt32, sitk.sitkVectorInt32, sitk.sitkVectorFloat32):
        return 4
    return 8
