"""NIfTI, NRRD and MetaImage files as they come from other programs, cut short or made with ill will; and other bodies than a usual head."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from heads import BLEED_ML, Body, abdomen, as_mr, bleeding, chest, knee, scaled, turned, upright, water_phantom, with_contrast, with_metal
from odd_scan import OddScan, taken

Change = Callable[[sitk.Image], sitk.Image]
#: Byte offsets in a NIfTI-1 header: dim, datatype, bitpix, scl_slope, scl_inter, qform_code, sform_code, qoffset_x, srow_x.
DIM, DATATYPE, BITPIX, SLOPE, INTERCEPT, QFORM, SFORM, QOFFSET, SROW = 40, 70, 72, 112, 116, 252, 254, 268, 280


def _image(name: str = "ct.nrrd", change: Change = lambda image: image, body: Body = bleeding, compressed: bool = False, **grid: tuple) -> Callable:
    def make(folder: Path) -> Path:
        sitk.WriteImage(change(upright(body, **grid)), str(folder / name), compressed)
        return folder / name

    return make


def _values(change: Callable[[np.ndarray], np.ndarray], name: str = "ct.nrrd") -> Callable[[Path], Path]:
    """The usual head with other values, on the same grid."""

    def changed(image: sitk.Image) -> sitk.Image:
        new = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
        new.CopyInformation(image)
        return new

    return _image(name, changed)


def _bytes(name: str, change: Callable[[bytearray], bytes | bytearray], source: Callable[[Path], Path] | None = None) -> Callable[[Path], Path]:
    """The usual head in a file whose bytes are changed afterwards; a name that ends with .gz is packed after the change."""

    def make(folder: Path) -> Path:
        path = (source or _image(name.removesuffix(".gz")))(folder)
        raw = bytes(change(bytearray(path.read_bytes())))
        path.unlink()
        (folder / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return folder / name

    return make


def _bytes_after(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    """The usual head in a packed file whose bytes are changed as they lie on disk."""

    def make(folder: Path) -> Path:
        path = _image(name)(folder)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def _no_spacing(raw: bytearray) -> bytearray:
    struct.pack_into("<2h", raw, QFORM, 0, 0)
    struct.pack_into("<3f", raw, 80, 0.0, 0.0, 0.0)
    return raw


def _put(kind: str, *fields: tuple[int, tuple[float, ...]]) -> Callable[[bytearray], bytearray]:
    """Numbers of a struct type at places of a header."""

    def change(raw: bytearray) -> bytearray:
        for place, numbers in fields:
            struct.pack_into(f"<{len(numbers)}{kind}", raw, place, *numbers)
        return raw

    return change


def _other_qform(raw: bytearray) -> bytearray:
    """The qform moved by 40 mm against the sform; both say that they are a scanner's."""
    struct.pack_into("<2h", raw, QFORM, 1, 1)
    struct.pack_into("<3f", raw, QOFFSET, *(v + 40 for v in struct.unpack_from("<3f", raw, QOFFSET)))
    return raw


def _sheared_sform(raw: bytearray) -> bytearray:
    struct.pack_into("<2h", raw, QFORM, 0, 1)
    struct.pack_into("<f", raw, SROW + 4, 1.2)
    return raw


def _scaled(image: sitk.Image) -> sitk.Image:
    """Stored as 2 × (HU + 1024); the header's slope and intercept say so."""
    return sitk.Cast((image + 1024) * 2, sitk.sitkUInt16)


def _big_endian(raw: bytearray) -> bytearray:
    """Header and voxels with the other byte order."""
    header, voxels = raw[:352], np.frombuffer(bytes(raw[352:]), "<i2").astype(">i2").tobytes()
    new = bytearray(header)
    for place, kind in (
        (0, "i"), (32, "i"), (36, "h"), (68, "h"), (DATATYPE, "h"), (BITPIX, "h"), (74, "h"), (120, "h"), (140, "i"), (144, "i"),
        *((DIM + 2 * n, "h") for n in range(8)), *((56 + 4 * n, "f") for n in range(3)), *((76 + 4 * n, "f") for n in range(11)),
        *((124 + 4 * n, "f") for n in range(4)),
        (QFORM, "h"), (SFORM, "h"), *((256 + 4 * n, "f") for n in range(18)),
    ):  # fmt: skip
        struct.pack_into(f">{kind}", new, place, *struct.unpack_from(f"<{kind}", header, place))
    return new + voxels


def _series_of(count: int) -> Change:
    return lambda image: sitk.JoinSeries([image] * count)


def _holes(value: float, share: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(hu: np.ndarray) -> np.ndarray:
        hu = hu.astype(np.float32)
        hu[np.random.default_rng(0).random(hu.shape) < share] = value
        return hu

    return change


def _outside(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """Float voxels outside the circle of reconstruction."""

    def change(hu: np.ndarray) -> np.ndarray:
        j, i = (np.linspace(-1, 1, n) for n in hu.shape[1:])
        hu = hu.astype(np.float32)
        hu[:, np.hypot(j[:, None], i[None, :]) > 1.0] = value
        return hu

    return change


def _nrrd(header: str, voxels: bytes | None = None, name: str = "ct.nrrd") -> Callable[[Path], Path]:
    """A header as it is written here, with its data behind or none at all."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(header.encode() + b"\n\n" + (voxels or b"") if name.endswith(".nrrd") else header.encode())
        return folder / name

    return make


def _header(sizes: str = "64 76 30", encoding: str = "raw", kind: str = "short", more: str = "") -> str:
    space = "space: left-posterior-superior\nspace directions: (2.5,0,0) (0,2.5,0) (0,0,5)\nspace origin: (0,0,0)\nkinds: domain domain domain"
    return f"NRRD0004\ntype: {kind}\ndimension: 3\n{space}\nsizes: {sizes}\nendian: little\nencoding: {encoding}{more}"


def _detached(folder: Path) -> Path:
    sitk.WriteImage(upright(), str(folder / "ct.nhdr"))
    return folder / "ct.nhdr"


def _detached_without_data(folder: Path) -> Path:
    path = _detached(folder)
    for other in folder.iterdir():
        if other != path:
            other.unlink()
    return path


def _file(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _folder_with_a_files_name(folder: Path) -> Path:
    (folder / "ct.nrrd").mkdir()
    return folder / "ct.nrrd"


def _oriented(code: str) -> Change:
    return lambda image: sitk.DICOMOrient(image, code)


def _mirrored(image: sitk.Image) -> sitk.Image:
    """Columns from the other side, the direction too: a left-handed grid at the same place."""
    return sitk.Flip(image, [True, False, False])


def _left_half(image: sitk.Image) -> sitk.Image:
    return image[: image.GetSize()[0] // 2 + 4, :, :]


def _vector(image: sitk.Image) -> sitk.Image:
    return sitk.Compose([sitk.Cast(image, sitk.sitkInt16)] * 3)


THIN = {"size": (64, 76, 1500), "spacing": (2.5, 2.5, 0.1)}
FINE = {"size": (1024, 1024, 30), "spacing": (0.16, 0.2, 5.0)}
FLAT = _header() + "\ndata file: /etc/hostname"

IMAGES = (
    taken("NIfTI", _image("ct.nii")),
    taken("NIfTI, packed", _image("ct.nii.gz")),
    taken("NRRD, packed", _image("ct.nrrd", compressed=True)),
    taken("MetaImage", _image("ct.mha")),
    taken("slices along the first axis", _image("ct.nii.gz", _oriented("SAR"))),
    taken("slices along the second axis, from above", _image("ct.nrrd", _oriented("RIP"))),
    taken("a left-handed grid (negative determinant)", _image("ct.nii", _mirrored)),
    taken("qform and sform that differ by 40 mm", _bytes("ct.nii", _other_qform)),
    OddScan("an sform that is sheared", _bytes("ct.nii", _sheared_sform), refused="not perpendicular"),
    OddScan("4D with three volumes", _image("ct.nii.gz", _series_of(3)), refused="give a single 3D volume"),
    taken("4D with one volume", _image("ct.nii.gz", _series_of(1))),
    taken("scaled integers", _bytes("ct.nii.gz", _put("f", (SLOPE, (0.5, -1024.0))), _image("ct.nii", _scaled))),
    OddScan("scaled integers whose scale was lost", _image("ct.nii", _scaled), refused="no air near -1000"),
    taken("float64", _image("ct.nii", lambda image: sitk.Cast(image, sitk.sitkFloat64))),
    taken("int32", _image("ct.nrrd", lambda image: sitk.Cast(image, sitk.sitkInt32))),
    taken("big-endian NIfTI", _bytes("ct.nii", _big_endian)),
    OddScan("RGB", _image("ct.nrrd", _vector), refused="colour or vectors"),
    OddScan("gz cut short", _bytes_after("ct.nii.gz", lambda raw: raw[: len(raw) // 2]), refused="cut short, damaged, or not a NIfTI"),
    OddScan("NIfTI cut short", _bytes("ct.nii", lambda raw: raw[: len(raw) // 2]), refused="cut short, damaged, or not a NIfTI"),
    OddScan("NIfTI header cut short", _bytes("ct.nii", lambda raw: raw[:200]), refused="cut short, damaged, or not a NIfTI"),
    OddScan("NIfTI that claims 30,000 slices", _bytes("ct.nii", _put("h", (DIM + 6, (30000,)))), refused="cut short, damaged, or not a NIfTI"),
    OddScan("NIfTI of a negative size", _bytes("ct.nii", _put("h", (DIM + 2, (-64,)))), refused="cut short, damaged, or not a NIfTI"),
    OddScan("NIfTI of an unknown type", _bytes("ct.nii", _put("h", (DATATYPE, (77,)))), refused="cut short, damaged, or not a NIfTI"),
    OddScan("NIfTI with spacing of 0", _bytes("ct.nii", _no_spacing), refused="no size of a voxel"),
    taken("not packed, though the name says so", _bytes_after("ct.nii.gz", gzip.decompress)),
    taken("NRRD with detached data", _detached),
    OddScan("NRRD whose detached data are missing", _detached_without_data, refused="copy that file too"),
    OddScan("NRRD that points to another file of the machine", _nrrd(FLAT, name="ct.nhdr"), refused="outside of its own folder"),
    OddScan("NRRD with fewer voxels than it says", _nrrd(_header(), b"\0" * 1000), refused="cut short, damaged, or not a NIfTI"),
    OddScan("NRRD of absurd sizes", _nrrd(_header("99999999 99999999 99999"), b"\0" * 1000), refused="cut short, damaged, or not a NIfTI"),
    OddScan("NRRD of negative sizes", _nrrd(_header("-64 76 30"), b"\0" * 1000), refused="cut short, damaged, or not a NIfTI"),
    OddScan("NRRD of an unknown encoding", _nrrd(_header(encoding="zip9"), b"\0" * 1000), refused="cut short, damaged, or not a NIfTI"),
    OddScan("NRRD of an unknown type", _nrrd(_header(kind="block"), b"\0" * 1000), refused="cut short, damaged, or not a NIfTI"),
    OddScan("NRRD with a line of a megabyte", _nrrd(_header(more="\ncontent: " + "x" * 10**6), b"\0" * 1000), refused="cut short, damaged"),
    OddScan("a text with the name of an image", _file("ct.nrrd", b"404 not found\n"), refused="cut short, damaged, or not a NIfTI"),
    OddScan("a file of zero bytes", _file("ct.nii.gz", b""), refused="is empty"),
    OddScan("an unknown kind of file", _file("ct.docx", b"PK"), refused="cut short, damaged, or not a NIfTI"),
    OddScan("a folder with the name of an image", _folder_with_a_files_name, refused="holds no DICOM files"),
    OddScan("one slice", _image(change=lambda image: image[:, :, 12:13]), refused="only 1 slice"),
    OddScan("two slices", _image(change=lambda image: image[:, :, 12:14]), refused="only 2 slices"),
    taken("64 by 64", _image(size=(64, 64, 30), spacing=(2.5, 3.2, 5.0)), warned="no axial reconstruction", ml=None),
    taken("1024 by 1024", _image(**FINE), ml=None, slow=True),
    # Slices this thin become slabs, in which bone shines into the brain beside it: more than 49 HU, which is all that this network looks at.
    taken("1,500 slices of 0.1 mm", _image(**THIN), ml=None, slow=True),
    OddScan("all voxels 0", _values(lambda hu: hu * 0), refused="every voxel is 0"),
    OddScan("all voxels air", _values(lambda hu: hu * 0 - 1000), refused="every voxel is -1000"),
    OddScan("all voxels 40 HU", _values(lambda hu: hu * 0 + 40), refused="every voxel is 40"),
    taken("NaN outside the circle of reconstruction", _values(_outside(np.nan)), warned="NaN around its field of view"),
    taken("infinities outside the circle of reconstruction", _values(_outside(-np.inf))),
    OddScan("NaN in a tenth of the voxels", _values(_holes(np.nan, 0.1)), refused="NaN or infinite"),
    OddScan("nothing but NaN", _values(_holes(np.nan, 2.0)), refused="NaN or infinite"),
    OddScan("HU from 0 to 1", _values(lambda hu: ((hu.clip(-1000, 1000) + 1000) / 2000).astype(np.float32)), refused="no bone above 300"),
    OddScan("HU as grey levels of a window", _values(lambda hu: (hu.clip(0, 80) * 255 / 80).astype(np.uint8)), refused="no bone above 300"),
    taken("a head with a metal clip", _image(body=with_metal), warned="There is metal", ml=None),
    taken("a head with contrast agent", _image(body=with_contrast)),
    OddScan("a chest", _image(body=chest), refused="no slice shows brain"),
    OddScan("an abdomen", _image(body=abdomen), refused="no slice shows brain"),
    OddScan("a knee", _image(body=knee), refused="no slice shows brain"),
    OddScan("a phantom of water", _image(body=water_phantom), refused="no bone above 300"),
    OddScan("MR as NIfTI", _image("ct.nii.gz", body=as_mr), refused="windowed picture, MR"),
    taken("a child's small head", _image(body=scaled(bleeding, 0.68)), ml=BLEED_ML * 0.68**3),
    OddScan("a head of 50 mm", _image(body=scaled(bleeding, 0.3)), refused="ring of bone is 5 cm"),
    taken("a head turned by 30 degrees to the side", _image(body=turned(bleeding, 30.0, 1))),
    taken("a head on its face", _image(body=turned(bleeding, 180.0, 2))),
    taken("a head upside down", _image(body=turned(bleeding, 180.0, 0))),
    taken("the upper half of a head", _image(change=lambda image: image[:, :, image.GetSize()[2] // 2 :]), ml=None),
    taken("the left half of a head", _image(change=_left_half), ml=None),
    taken("a frame of zeros, as resampling fills", _image(change=lambda image: sitk.ConstantPad(image, (24, 24, 2), (24, 24, 2), 0))),
    taken("HU clipped to -200 and 1000", _values(lambda hu: hu.clip(-200, 1000)), warned="clipped at -200 HU"),
)  # fmt: skip
