"""Is a NIfTI file all there? ITK does not ask: it reads a file that was cut short without a word and fills the rest with whatever was in memory.

NRRD and MetaImage readers refuse such files themselves.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path


def is_complete(path: Path) -> bool:
    """False for a NIfTI file (.nii, .nii.gz) whose voxels or header are cut short or whose compression is damaged; True for any other file.

    A .nii takes a look at its header; a .nii.gz is compared with the length that gzip keeps in its last four bytes, and decompressed only where
    the two differ. Raises OSError where the file cannot be opened.
    """
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        return True
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"  # some .nii are gzip all the same, and the other way round
    if not zipped:
        with path.open("rb") as file:
            needed = _needed_bytes(file.read(540))
        return needed is not None and path.stat().st_size >= needed
    try:
        with gzip.open(path) as file:
            needed = _needed_bytes(file.read(540))
        return needed is not None and (_stated_length(path) == needed % 2**32 or _length(path) >= needed)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return False


def _needed_bytes(header: bytes) -> int | None:
    """Bytes of header and voxels together, from a NIfTI-1 or NIfTI-2 header of either byte order; None where it is no such header.

    Fields and offsets: nifti1.h and nifti2.h (sizeof_hdr, dim, bitpix, vox_offset).
    """
    for order in "<>":
        size = struct.unpack_from(order + "i", header)[0] if len(header) >= 4 else 0
        if size == 348 and len(header) >= 348:
            dim = struct.unpack_from(order + "8h", header, 40)
            (bits,), (offset,) = struct.unpack_from(order + "h", header, 72), struct.unpack_from(order + "f", header, 108)
        elif size == 540 and len(header) >= 540:
            dim = struct.unpack_from(order + "8q", header, 16)
            (bits,), (offset,) = struct.unpack_from(order + "h", header, 14), struct.unpack_from(order + "q", header, 168)
        else:
            continue
        if 1 <= dim[0] <= 7 and math.isfinite(offset):
            return max(int(offset), size) + math.prod(max(1, n) for n in dim[1 : dim[0] + 1]) * bits // 8
    return None


def _stated_length(path: Path) -> int:
    """Length of the contents modulo 2³², as gzip's last member states it (RFC 1952, ISIZE)."""
    with path.open("rb") as file:
        file.seek(-4, 2)
        return int(struct.unpack("<I", file.read(4))[0])


def _length(path: Path) -> int:
    """Length of the contents by decompressing them. Raises EOFError or zlib.error where they break off."""
    total = 0
    with gzip.open(path) as file:
        while block := file.read(1 << 20):
            total += len(block)
    return total
