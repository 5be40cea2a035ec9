"""Is an image file all there, and sound? ITK does not ask: of a NIfTI file that was cut short it fills the rest with whatever was in memory, and a
compressed file with a bad bit becomes other voxels, often without a word.

NRRD and MetaImage readers refuse files that were cut short themselves.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, Literal


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


def is_sound(path: Path) -> bool:
    """False for a compressed NIfTI, NRRD or MetaImage file whose voxels do not give the checksum that is stored with them; True for any other file.

    All is decompressed for it, which takes about as long as reading the image. Raises OSError where the file cannot be opened.
    """
    with path.open("rb") as file:
        start = file.read(1 << 16)
        zipped, begin = _compression(start)
        if zipped is None:
            return True
        file.seek(begin)
        try:
            unpacked = gzip.GzipFile(fileobj=file) if zipped == "gzip" else _Inflated(file)
            while unpacked.read(1 << 20):
                pass
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return False
    return True


def _compression(start: bytes) -> tuple[Literal["gzip", "zlib"] | None, int]:
    """How the voxels of a file that begins so are compressed, and where they begin; None where they are not, or lie in another file."""
    if start[:2] == b"\x1f\x8b":
        return "gzip", 0
    if start.startswith(b"NRRD") and (end := re.search(rb"\r?\n\r?\n", start)):
        header = start[: end.end()]
        packed = re.search(rb"^encoding: *(gzip|gz)\s*$", header, re.MULTILINE) and not re.search(rb"^data ?file:", header, re.MULTILINE)
        return ("gzip", end.end()) if packed else (None, 0)
    if local := re.search(rb"^ElementDataFile *= *LOCAL *\r?\n", start, re.MULTILINE):
        return ("zlib", local.end()) if re.search(rb"^CompressedData *= *True", start[: local.end()], re.MULTILINE) else (None, 0)
    return None, 0


class _Inflated:
    """A zlib stream as something to read from, a block at a time however much it holds. Raises zlib.error, EOFError."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._inflate = file, zlib.decompressobj()

    def read(self, size: int) -> bytes:
        while not self._inflate.eof:
            block = self._inflate.unconsumed_tail or self._file.read(size)
            if not block:
                raise EOFError
            if found := self._inflate.decompress(block, size):
                return found
        return b""


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
