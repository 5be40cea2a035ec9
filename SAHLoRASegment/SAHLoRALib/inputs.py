"""Which scans there are in what a user names: files, DICOM folders, folders of studies. One entry a scan, each with a name of its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from .dicom import is_dicom
from .events import Events
from .images import quiet_itk
from .layouts import holds_dicom, split_name

_STUDY_UID = "0020|000d"
_NO_IMAGE = "no image"
#: Endings of file names that are not scans when a folder is looked through; named by itself, such a file is taken.
_NOT_SCANS = re.compile(r"(^|[_\-. ])(mask|masks|seg|segmentation|label|labels|labelmap|probability|gt|roi)$", re.IGNORECASE)
#: Folders beside those of the scans in public data sets; looked through where there is nothing else.
_FOLDERS_OF_MASKS = re.compile(r"masks?|segmentations?|labels?(tr|ts)?|labelmaps?|ground[_\- ]?truths?|annotations?", re.IGNORECASE)
_FEWEST_SLICES = 3
_LONGEST_NAME = 80
#: Folders below the one that was named; a link that leads back up ends here.
_DEEPEST = 8


@dataclass(frozen=True)
class ScanInput:
    """path: a file or a DICOM folder. name: from the file's or folder's name, never from a DICOM header; no two in a call are alike."""

    path: Path
    name: str


def find_inputs(paths: Iterable[Path | str], events: Events | None = None) -> list[ScanInput]:
    """All scans in files and folders, in the order given; of a folder in the order of its names.

    A folder with DICOM of one study (several series, in subfolders too) is one scan; with several studies, or with image files, it is looked
    through, and masks (a_mask.nrrd, a.seg.nrrd) are left out. What does not exist or holds nothing stays: reading it says what is wrong. Folders
    below that may not be read are left out, and events.log tells them.
    """
    events = events or Events()
    found: list[tuple[Path, str]] = []
    for given in paths:
        path = Path(os.path.expanduser(given))
        inside = _scans(path, events) if path.is_dir() else []
        for scan in inside or [path]:
            parts = scan.relative_to(path).parts if scan != path else ((path if path.name not in ("", "..") else path.resolve()).name,)
            found.append((scan, "_".join(parts)))
    named: list[ScanInput] = []
    taken: set[str] = set()
    seen: set[Path] = set()
    for path, text in found:
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        name = unique_name(scan_name(text), taken)
        taken.add(name.lower())
        named.append(ScanInput(path, name))
    return named


def scan_name(file_name: str) -> str:
    """A file name without its suffix, with nothing in it that some system forbids in a folder's name."""
    split = split_name(Path(file_name))
    name = split[0] if split else file_name
    name = re.sub(r"[^\w.+-]+", "_", name)[:_LONGEST_NAME].strip("._ ")
    return name or "scan"


def unique_name(name: str, taken: Iterable[str]) -> str:
    """The name, or with _2, _3 … where it is taken (lower case)."""
    taken = set(taken)
    candidate, n = name, 1
    while candidate.lower() in taken:
        n += 1
        candidate = f"{name}_{n}"
    return candidate


def _scans(folder: Path, events: Events, depth: int = 0) -> list[Path]:
    """The scans in a folder; [folder] where it is one study itself, nothing where it holds none."""
    try:
        entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except PermissionError:
        if depth:  # a drive's lost+found, another's folder on a share: what may be read is still segmented
            events.log(f"{folder} may not be read, so it is left out.", "warning")
            return []
        raise
    files = [p for p in entries if p.is_file()]
    if depth and result_report(folder) is not None:  # its scan (``--keep-ct``) is not segmented again
        return []
    images = [p for p in files if (split := split_name(p)) and split[1] != ".seg.nrrd" and not _NOT_SCANS.search(split[0])]
    loose = [p for p in files if p not in images and p.name.upper() != "DICOMDIR" and is_dicom(p)]
    folders = [p for p in entries if depth < _DEEPEST and p.is_dir()]
    masks = [p for p in folders if _FOLDERS_OF_MASKS.fullmatch(p.name) and not holds_dicom(p)]
    inside = {p: scans for p in folders if p not in masks and (scans := _scans(p, events, depth + 1))}
    if not (images or loose or inside):  # then they are all that there is
        inside = {p: scans for p in masks if (scans := _scans(p, events, depth + 1))}
    if loose and not images and not any(scan.is_dir() for scans in inside.values() for scan in scans):
        return [folder]
    if not images and inside and all(scans == [p] for p, scans in inside.items()) and _is_one_study([*inside, *loose[:1]]):
        return [folder]
    # Of loose files beside image files or the folders of others a few are a key image or a report; more are a scan, and reading the folder says what
    # is in it.
    stray = [folder] if len(loose) >= _FEWEST_SLICES else []
    return sorted([*images, *stray, *(scan for scans in inside.values() for scan in scans)])


def result_report(folder: Path) -> dict[str, Any] | None:
    """The report of what segmenting left in a folder, None where it left nothing."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        if isinstance(report, dict) and {"total_ml", "model"} <= set(report) and any(folder.glob("mask.*")):
            return report
    return None


def place_digest(path: Path) -> str:
    """16 hexadecimal digits for the place of a file or folder, the same from every working folder: a report names a scan by it, without folders."""
    return hashlib.sha256(os.path.normcase(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _is_one_study(folders: list[Path]) -> bool:
    """Whether the DICOM series in these folders were taken in one examination; reports and presentation states do not count."""
    studies = {_study(folder) for folder in folders} - {_NO_IMAGE}
    return len(studies) == 1 and None not in studies


def _study(place: Path) -> str | None:
    """UID of the examination; None where it is missing. place: a folder, or a file itself."""
    files = [place] if place.is_file() else sorted(place.rglob("*"))
    first = next((p for p in files if p.is_file() and not p.name.startswith(".") and is_dicom(p)), None)
    if first is None:
        return None
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(first))
    reader.SetImageIO("GDCMImageIO")
    try:
        with quiet_itk():
            reader.ReadImageInformation()
        return str(reader.GetMetaData(_STUDY_UID)).strip() or None
    except RuntimeError:
        return _NO_IMAGE
