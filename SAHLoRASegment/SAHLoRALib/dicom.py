"""DICOM folders: which series there are, which one is the head CT, and every slice at its true position.

Read with SimpleITK (GDCM), one file at a time: the position of each slice comes from its own header. A plain series reader takes a gantry tilt for
a rotation and uneven gaps for even ones. Nothing of the patient (name, number, dates) is taken from the headers.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import ScanError
from .images import quiet_itk
from .volume import AIR_HU, CTVolume, Storage

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
    "intercept": "0028|1052",
}

#: Words in description, protocol or image type that are never a diagnostic head series: refused unless the user names the series.
_REFUSED = ("localizer", "scout", "topogram", "scanogram", "surview", "dose", "bolus", "monitoring", "spine", "cervical", "wirbel", "hws", "screen save")
#: Words that make a series a second choice, with the points that they cost.
_PENALTIES = {
    "bone": 60, "knochen": 60, "sharp": 40, "lung": 60, "face": 60, "facial": 60, "sinus": 50, "orbit": 50, "neck": 50, "thorax": 60, "chest": 60,
    "mpr": 30, "reformat": 30, "derived": 10, "secondary": 10, "mip": 60, "3d": 30, "perfusion": 60, "ctp": 60, "angio": 40, "cta": 40, "contrast": 20,
}  # fmt: skip
_HINTS = ("brain", "head", "soft", "std", "standard", "routine", "cerebr", "crane", "cran", "hirn", "kopf", "schaedel", "schädel", "native", "plain")
#: Reconstruction kernels. Sharp: GE by name, Siemens B/H/J/Hr with 50 and more, Canon FC30 and FC8x, Philips D, YB, YC, YD, L.
_SHARP_KERNEL = re.compile(r"bone|edge|lung|sharp|detail|^[bhj][a-z]?[5-9]\d|^fc(3\d|5[0-9]|8\d)|^(d|l|y[b-e]|e)$", re.IGNORECASE)


@dataclass(frozen=True)
class Header:
    """What is needed of one file's header, as text; missing entries are empty."""

    path: Path
    fields: dict[str, str] = field(repr=False)

    def __getattr__(self, name: str) -> str:
        if name.startswith("_") or name not in _TAGS:
            raise AttributeError(name)
        return self.fields.get(name, "")

    def numbers(self, name: str, count: int) -> tuple[float, ...] | None:
        """The values of a multi-valued number, or None where it is missing or not `count` finite numbers."""
        try:
            values = tuple(float(part) for part in self.fields.get(name, "").split("\\"))
        except ValueError:
            return None
        return values if len(values) == count and np.isfinite(values).all() else None


@dataclass(frozen=True)
class SeriesInfo:
    """One series (of one orientation and matrix) in a DICOM folder.

    thickness: mm of the header, nan where it is not given. orientation: axial, coronal, sagittal or unknown. score: higher is a better head CT.
    usable: may be chosen without being named. reason: why it scores so, or why it is refused, in words. damaged: files that cannot be read.
    """

    uid: str
    number: int | None
    description: str
    modality: str
    slices: int
    thickness: float
    orientation: str
    image_type: str
    kernel: str
    score: float
    usable: bool
    reason: str
    headers: tuple[Header, ...] = field(repr=False, default=())
    damaged: tuple[Path, ...] = field(repr=False, default=())

    @property
    def title(self) -> str:
        """How messages name the series."""
        name = f"series {self.number}" if self.number is not None else f"series …{self.uid[-8:]}"
        return f"{name} “{self.description}”" if self.description else name


def is_dicom(path: Path) -> bool:
    """Whether a file starts as DICOM: the DICM mark at byte 128, or a bare data set of group 8 (old scanners)."""
    try:
        with path.open("rb") as stream:
            start = stream.read(132)
    except OSError:
        return False
    return start[128:132] == b"DICM" or (start[:2] == b"\x08\x00" and start[3:4] == b"\x00" and len(start) == 132)


def list_series(folder: Path | str) -> list[SeriesInfo]:
    """All image series in a folder and its subfolders, the best head CT first. Raises ScanError where there is no DICOM at all."""
    folder = Path(folder)
    files = sorted(p for p in folder.rglob("*") if not p.name.startswith(".") and p.name.upper() != "DICOMDIR" and p.is_file() and is_dicom(p))
    if not files:
        raise ScanError(f"{folder} holds no DICOM files; give the folder of a head CT, or a .nii.gz or .nrrd file itself.")
    groups: dict[tuple, list[Header]] = defaultdict(list)
    damaged: dict[str, list[Path]] = defaultdict(list)
    with quiet_itk():
        for path in files:
            header = _read_header(path)
            if header is not None:
                groups[_group_key(header)].append(header)
            elif (uid := _damaged_ct(path)) is not None:
                damaged[uid].append(path)
    if not groups:
        broken = sum(map(len, damaged.values()))
        why = f"{broken} CT files that are damaged or cut short" if broken else "DICOM files but no images"
        raise ScanError(f"{folder} holds {why}; copy the scan again.")
    found = [_describe(headers, tuple(damaged.get(headers[0].uid, []) + damaged.get("", []))) for headers in groups.values()]
    return sorted(found, key=lambda s: (-s.usable, -s.score, s.number if s.number is not None else 10**9, s.uid))


def choose_series(folder: Path | str, wanted: str | None = None) -> tuple[SeriesInfo, tuple[str, ...]]:
    """The series to segment and the warnings that tell what was chosen and why.

    wanted: series number, description (or an unmistakable part of it) or UID. Raises ScanError where nothing fits.
    """
    found = list_series(folder)
    if wanted is not None:
        return _named(found, str(wanted).strip(), folder), ()
    best = found[0]
    if not best.usable:
        reasons = "; ".join(f"{s.title}: {s.reason}" for s in found[:4])
        raise ScanError(f"{folder} holds no axial head CT series that can be used ({reasons}).")
    if len(found) == 1:
        return best, ()
    others = "; ".join(f"{s.title} ({s.slices} slices: {s.reason})" for s in found[1:5])
    more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
    return best, (f"{len(found)} series found, {best.title} chosen ({best.slices} slices: {best.reason}); not {others}{more}.",)


def _named(found: list[SeriesInfo], wanted: str, folder: Path | str) -> SeriesInfo:
    text = wanted.lower()
    tests = (
        lambda s: s.uid == wanted,
        lambda s: s.number is not None and str(s.number) == wanted,
        lambda s: s.description.lower() == text,
        lambda s: bool(text) and text in s.description.lower(),
    )
    for test in tests:
        fits = [s for s in found if test(s)]
        if len(fits) == 1 or (fits and len({s.uid for s in fits}) == 1):
            return fits[0]
        if fits:
            names = ", ".join(f"{s.title} (UID {s.uid})" for s in fits)
            raise ScanError(f"{folder}: {wanted!r} fits {len(fits)} series: {names}; name one by its UID.")
    raise ScanError(f"{folder} has no series {wanted!r}; it holds {', '.join(s.title for s in found)}.")


def _read_header(path: Path) -> Header | None:
    reader = sitk.ImageFileReader()
    reader.SetFileName(os.fspath(path))
    reader.SetImageIO("GDCMImageIO")
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    keys = set(reader.GetMetaDataKeys())
    return Header(path, {name: _clean(reader.GetMetaData(tag)) for name, tag in _TAGS.items() if tag in keys})


def _clean(text: str) -> str:
    """DICOM text without padding; bytes of an old character set become Latin letters."""
    raw = text.encode("utf-8", "surrogateescape")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.strip(" \0\n\r\t")


def _damaged_ct(path: Path) -> str | None:
    """The series UID ("" where it is lost) if an unreadable file says that it is a CT image; None for reports, presentation states and the like."""
    with path.open("rb") as stream:
        start = stream.read(16384)
    if not re.search(re.escape(_CT_IMAGE) + rb"(\.\d)?\0?[^.\d]", start[:1024] + b"\0"):
        return None
    uid = re.search(rb"\x20\x00\x0e\x00(?:UI..|....)([\d.]+)", start, re.DOTALL)
    return uid.group(1).decode() if uid else ""


def _group_key(header: Header) -> tuple:
    orientation = header.numbers("orientation", 6)
    rounded = tuple(round(v, 2) + 0.0 for v in orientation) if orientation else None
    return header.uid, rounded, header.rows, header.columns, header.numbers("pixel_spacing", 2)


def _normal(header: Header) -> np.ndarray | None:
    orientation = header.numbers("orientation", 6)
    if orientation is None:
        return None
    normal = np.cross(orientation[:3], orientation[3:])
    length = np.linalg.norm(normal)
    return normal / length if length > 0.5 else None


def _describe(headers: list[Header], damaged: tuple[Path, ...]) -> SeriesInfo:
    """Score one series: METHODS.md §3 (axial, at least 20 slices, thickness of 2 mm and more, no bone, spine, bolus or face series)."""
    unique = {h.instance or str(h.path): h for h in headers}
    headers = list(unique.values())  # the same slice copied into two subfolders counts once
    first = headers[0]
    normal = _normal(first)
    orientation = "unknown" if normal is None else ("sagittal", "coronal", "axial")[int(np.abs(normal).argmax())]
    thickness = (first.numbers("thickness", 1) or (float("nan"),))[0]
    text = f"{first.description} {first.protocol} {first.image_type}".lower().replace("_", " ")
    good: list[str] = []
    bad: list[str] = []
    refused = _refusal(headers, orientation, text, damaged)
    score = 0.0
    if len(headers) >= 20:
        score += 20
        good.append("at least 20 slices")
    if thickness >= 2:
        score += 10
        good.append(f"{thickness:g} mm thick")
    elif thickness > 0:
        bad.append(f"only {thickness:g} mm thick")
    if any(word in text for word in _HINTS):
        score += 15
    for word, cost in _PENALTIES.items():
        if re.search(rf"\b{word}", text):
            score -= cost
            bad.append(f"“{word}”")
    if _SHARP_KERNEL.search(first.kernel.split("\\")[0]):
        score -= 50
        bad.append(f"sharp kernel {first.kernel}")
    elif first.kernel:
        score += 5
        good.append(f"kernel {first.kernel}")
    if "original" in text:
        score += 5
    span = _span(headers, normal)
    if span < 80 or span > 350:
        score -= 15
        bad.append(f"covers {span:.0f} mm")
    number = first.numbers("number", 1)
    return SeriesInfo(
        uid=first.uid,
        number=int(number[0]) if number else None,
        description=first.description,
        modality=first.modality,
        slices=len(headers),
        thickness=thickness,
        orientation=orientation,
        image_type=first.image_type.replace("\\", "/"),
        kernel=first.kernel,
        score=score,
        usable=refused is None,
        reason=refused or ", ".join([orientation, *good, *(f"but {b}" for b in bad[:2])]),
        headers=tuple(headers),
        damaged=damaged,
    )


def _refusal(headers: list[Header], orientation: str, text: str, damaged: tuple[Path, ...]) -> str | None:
    first = headers[0]
    if first.modality != "CT":
        return f"not CT but {first.modality or 'without a modality'}"
    word = next((w for w in _REFUSED if re.search(rf"\b{w}", text)), None)
    if word:
        return f"a “{word}” series"
    unsuited = unsuited_because(headers, orientation)
    return unsuited


def unsuited_because(headers: list[Header] | tuple[Header, ...], orientation: str) -> str | None:
    """Why a series cannot be read at all, even when the user names it; None where it can."""
    first = headers[0]
    if first.modality != "CT":
        return f"it is not CT but {first.modality or 'without a modality'}"
    if first.samples not in ("", "1"):
        return "it holds colour pictures, not HU"
    if first.frames not in ("", "1", "0"):
        return "it is an enhanced multi-frame file; convert it to single slices or to NIfTI (for instance with dcm2niix)"
    for name, label in (("pixel_spacing", "PixelSpacing"), ("orientation", "ImageOrientationPatient"), ("position", "ImagePositionPatient")):
        count = {"pixel_spacing": 2, "orientation": 6, "position": 3}[name]
        missing = [h.path.name for h in headers if h.numbers(name, count) is None]
        if missing:
            return f"{label} is missing in {len(missing)} of {len(headers)} files ({missing[0]})"
    if min(first.numbers("pixel_spacing", 2) or (0.0,)) <= 0 or _normal(first) is None:
        return "PixelSpacing or ImageOrientationPatient has impossible values"
    if orientation != "axial":
        return f"{orientation}, not axial"
    if len(headers) < 3:
        return f"only {len(headers)} slice{'s' if len(headers) > 1 else ''}; a volume is needed"
    return None


def _span(headers: list[Header], normal: np.ndarray | None) -> float:
    """mm between the first and the last slice."""
    positions = [p for h in headers if (p := h.numbers("position", 3)) is not None]
    return float(np.ptp(np.array(positions) @ normal)) if normal is not None and positions else 0.0


def read_series(series: SeriesInfo, source: str = "", warnings: tuple[str, ...] = ()) -> CTVolume:
    """Read one series in HU, slices sorted by their position along the normal.

    The rescale is applied by GDCM. Raises ScanError for damaged files, two slices at one position, or what `unsuited_because` names.
    """
    if (why := unsuited_because(series.headers, series.orientation)) is not None:
        raise ScanError(f"{source}: {series.title} cannot be used: {why}.")
    if series.damaged:
        names = ", ".join(p.name for p in series.damaged[:3])
        raise ScanError(f"{source}: {len(series.damaged)} DICOM file(s) are damaged or cut short ({names}); copy the scan again.")
    first = series.headers[0]
    orientation = np.array(first.numbers("orientation", 6))
    row_direction = orientation[:3] / np.linalg.norm(orientation[:3])
    column_direction = orientation[3:] / np.linalg.norm(orientation[3:])
    normal = _normal(first)
    assert normal is not None
    headers = sorted(series.headers, key=lambda h: float(np.array(h.numbers("position", 3)) @ normal))
    positions = np.array([h.numbers("position", 3) for h in headers])
    gaps = np.diff(positions @ normal)
    if gaps.min() < 0.01:
        k = int(gaps.argmin())
        raise ScanError(
            f"{source}: {series.title} has two slices at one position ({headers[k].path.name} and {headers[k + 1].path.name}); "
            "it mixes two acquisitions: keep one of them."
        )
    row_mm, column_mm = first.numbers("pixel_spacing", 2) or (1.0, 1.0)
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    length = float(np.linalg.norm(step))
    direction = np.stack((row_direction, column_direction, step / length), axis=1)
    shape = (len(headers), int(first.rows), int(first.columns))
    storage = Storage.of_grid(shape[::-1], tuple(positions[0]), (column_mm, row_mm, length), tuple(direction.ravel()))
    if storage.axes[0] != 0:
        raise ScanError(f"{source}: {series.title} is stacked along its own slices; its positions cannot be right.")
    stored = np.empty(shape, np.float32)
    with quiet_itk():
        for k, header in enumerate(headers):
            stored[k] = _pixels(header, shape[1:], source)
    np.maximum(stored, AIR_HU, out=stored)
    ordered = storage.to_canonical(stored)
    steps = storage.steps
    # `positions` is where each file's first voxel lies; flipped or transposed slices start at another corner.
    corner = np.zeros(3)
    for axis in (1, 2):
        if storage.flips[axis]:
            corner -= steps[axis] * (storage.shape[axis] - 1)
    tilt = first.numbers("tilt", 1)
    lengths = np.linalg.norm(steps, axis=1)
    ct = CTVolume(
        hu=np.ascontiguousarray(ordered),
        positions=(positions[::-1] if storage.flips[0] else positions) + corner,
        spacing=(float(lengths[1]), float(lengths[2])),
        row_direction=steps[2] / lengths[2],
        column_direction=steps[1] / lengths[1],
        storage=storage,
        source=source,
        series=series.description,
        header_tilt=tilt[0] if tilt else None,
    )
    return replace(ct, warnings=(*warnings, *_second_thoughts(series)))


def _second_thoughts(series: SeriesInfo) -> tuple[str, ...]:
    if series.usable and series.score >= 0:
        return ()
    return (f"{series.title} is not a typical soft-tissue head series ({series.reason}): look at the result with care.",)


def _pixels(header: Header, shape: tuple[int, ...], source: str) -> np.ndarray:
    """(rows, columns) of one file, in HU."""
    try:
        reader = sitk.ImageFileReader()
        reader.SetFileName(os.fspath(header.path))
        reader.SetImageIO("GDCMImageIO")
        pixels = sitk.GetArrayFromImage(reader.Execute())
    except (RuntimeError, MemoryError) as error:
        raise ScanError(f"{source}: the DICOM file {header.path.name} is damaged or cut short; copy the scan again.") from error
    pixels = pixels.reshape(pixels.shape[-2:]) if pixels.ndim == 3 and len(pixels) == 1 else pixels
    if pixels.shape != tuple(shape):
        raise ScanError(f"{source}: the DICOM file {header.path.name} is {pixels.shape}, the series {tuple(shape)}; its slices do not belong together.")
    return pixels
