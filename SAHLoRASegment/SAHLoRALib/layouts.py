"""Finding cases in a folder: which file is a scan, which is its mask.

Understood are, in this order: two folders side by side with files of the same names (nnU-Net's imagesTr and labelsTr, PhysioNet CT-ICH's ct_scans and
masks, images and masks); pairs by name in one folder (a_ct.nii.gz and a_mask.nii.gz); one subfolder a case, the scan a file or DICOM slices.
Nothing is opened but the CSV of CT-ICH and the first bytes of files that may be DICOM.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .dicom import is_dicom
from .errors import CaseError

#: Longest first: a .seg.nrrd is also a .nrrd.
IMAGE_SUFFIXES = (".seg.nrrd", ".nii.gz", ".nrrd", ".nhdr", ".nii", ".mha", ".mhd")
#: Folders that lie side by side: scans and masks.
FOLDER_PAIRS = (
    ("imagesTr", "labelsTr"), ("ct_scans", "masks"), ("images", "masks"), ("images", "labels"), ("images", "segmentations"), ("scans", "masks"),
    ("ct", "masks"), ("ct", "mask"), ("image", "mask"), ("image", "label"), ("images", "ground truths"), ("data", "label"), ("data", "labels"),
)  # fmt: skip
#: Files and folders among which DICOM is looked for.
_LOOKED_THROUGH = 1000
_MASK = re.compile(r"^(?:(.*)[_\-. ])?(mask|masks|seg|segmentation|label|labels|labelmap|gt|roi|annotation)$", re.IGNORECASE)
_IMAGE = re.compile(r"^(?:(.*)[_\-. ])?(ct|image|img|scan|volume|ncct)$", re.IGNORECASE)
_CHANNEL = re.compile(r"^(.+)_(\d{4})$")


@dataclass(frozen=True)
class Found:
    """One case as it lies on disk. haemorrhage: None where nothing but the mask says whether there is one."""

    name: str
    image: Path
    mask: Path | None
    haemorrhage: bool | None = None


@dataclass
class Layout:
    """What a folder holds: cases, what is incomplete (name, what is wrong and what to do), and whether every case is known to be another patient."""

    cases: list[Found] = field(default_factory=list)
    incomplete: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    one_patient_each: bool = False


def find_cases(folder: Path) -> Layout:
    """Cases in `folder`, sorted by name. Raises CaseError where there are none at all."""
    if not folder.is_dir():
        raise CaseError(f"{folder} does not exist or is not a folder. Give a cases.csv or the folder that holds the cases.")
    layout = _side_by_side(folder) or _one_folder(folder)
    inner = _visible(folder)
    if not layout.cases and len(inner) == 1 and inner[0].is_dir():  # the one folder that an archive unpacks to
        deeper = _side_by_side(inner[0]) or _one_folder(inner[0])
        layout = deeper if deeper.cases else layout
    if not layout.cases and not layout.incomplete:
        raise CaseError(
            f"{folder} holds no cases: expected one subfolder a case, pairs such as a_ct.nii.gz and a_mask.nii.gz, imagesTr and labelsTr, "
            "or ct_scans and masks. Otherwise write a cases.csv."
        )
    layout.cases.sort(key=lambda found: found.name)
    return layout


def split_name(path: Path) -> tuple[str, str] | None:
    """Name without suffix, and suffix, of an image file; None for other files."""
    for suffix in IMAGE_SUFFIXES:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[: -len(suffix)], suffix
    return None


def _visible(folder: Path) -> list[Path]:
    """Entries in the order of their names; not those that start with a dot (macOS leaves ._049.nii beside 049.nii)."""
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise CaseError(f"The folder {folder} cannot be read ({error.strerror}): give yourself access to it, or name another folder.") from error


def _side_by_side(folder: Path) -> Layout | None:
    by_name = {p.name.lower(): p for p in _visible(folder) if p.is_dir()}
    for images, masks in FOLDER_PAIRS:
        if images.lower() in by_name and masks.lower() in by_name:
            layout = Layout()
            labels = _keyed(((split[0], p) for p in _visible(by_name[masks.lower()]) if (split := split_name(p))), layout)
            scans = _keyed(_scans(by_name[images.lower()], layout, labels), layout)
            diagnosis = _ct_ich_diagnosis(folder)
            layout.one_patient_each = bool(diagnosis)  # its numbers are patients' numbers, one scan each
            _pair(scans, labels, layout, diagnosis)
            return layout
    return None


def _scans(folder: Path, layout: Layout, labels: Container[str]) -> Iterator[tuple[str, Path]]:
    """Name and path of every scan; of nnU-Net's channels (_0000, _0001 …) the first. A number that the label has too is no channel (Decathlon)."""
    for path in _visible(folder):
        split = split_name(path)
        if path.is_dir() and holds_dicom(path):
            yield path.name, path
        elif split:
            channel = _CHANNEL.match(split[0]) if folder.name.lower() == "imagestr" and split[0] not in labels else None
            if channel and channel[2] != "0000":
                layout.warnings.append(f"{path.name} is a further channel and is left out.")
            else:
                yield (channel[1] if channel else split[0]), path


def _one_folder(folder: Path) -> Layout:
    """Pairs by name in the folder itself, and its subfolders as cases."""
    layout = Layout()
    files = [(path, split) for path in _visible(folder) if path.is_file() and (split := split_name(path))]
    labels = _keyed(((split[0], path) for path, split in files if _is_mask(split)), layout)
    scans = _keyed(((split[0], path) for path, split in files if not _is_mask(split)), layout)
    for sub in (p for p in _visible(folder) if p.is_dir()):
        if sub.name in labels and sub.name not in scans and holds_dicom(sub):
            scans[sub.name] = sub
        else:
            _subfolder(sub, layout)
    _pair(scans, labels, layout, {})
    return layout


def _subfolder(folder: Path, layout: Layout) -> None:
    """One case: a mask that its name tells (mask.nrrd, a_label.nii.gz, a.seg.nrrd), and a scan, file or DICOM."""
    files = [(path, split) for path in _visible(folder) if path.is_file() and (split := split_name(path))]
    masks = [path for path, split in files if _is_mask(split)]
    scans = [path for path, split in files if not _is_mask(split)]
    if not scans:
        dicom = [sub for sub in _visible(folder) if sub.is_dir() and holds_dicom(sub)]
        scans = dicom or ([folder] if holds_dicom(folder) else [])
    if not scans and not masks:
        return  # not a case: figures, notes
    if len(scans) == 1 and len(masks) == 1:
        layout.cases.append(Found(folder.name, scans[0], masks[0]))
    elif len(scans) > 1:
        # With images only, a file called a.nrrd beside b.nrrd, nobody can tell the mask.
        kind = "no name that says which is the mask" if not masks else "more than one scan"
        layout.incomplete.append((folder.name, f"{folder} has {kind} ({_names(scans)}): name them ct and mask, or write a cases.csv."))
    elif len(masks) > 1:
        layout.incomplete.append((folder.name, f"{folder} has {len(masks)} masks ({_names(masks)}): keep one or write a cases.csv."))
    else:
        _unpaired(folder.name, scans[0] if scans else masks[0], bool(scans), layout)


def _pair(scans: dict[str, Path], labels: dict[str, Path], layout: Layout, diagnosis: dict[int, bool]) -> None:
    for name in sorted(scans.keys() | labels.keys()):
        known = diagnosis.get(int(name)) if name.isdecimal() else None
        if name in scans and (name in labels or known is False):
            layout.cases.append(Found(name, scans[name], labels.get(name), known))
        else:
            _unpaired(name, scans.get(name) or labels[name], name in scans, layout)


def _unpaired(name: str, path: Path, is_scan: bool, layout: Layout) -> None:
    if is_scan:
        advice = "add one, or write a cases.csv with haemorrhage = no if the patient has none"
        layout.incomplete.append((name, f"There is no mask for {path}: {advice}."))
    else:
        layout.incomplete.append((name, f"There is no scan for the mask {path}: add it or remove the mask."))


def _keyed(named: Iterable[tuple[str, Path]], layout: Layout) -> dict[str, Path]:
    """Paths by case name: the file's name without the word that says what it is (a_ct and a_mask are both case a)."""
    result: dict[str, Path] = {}
    for name, path in named:
        word = _MASK.match(name) or _IMAGE.match(name)
        key = (word[1] or name) if word else name
        if key in result:
            layout.incomplete.append((key, f"{result[key].name} and {path.name} in {path.parent} are both case {key}: rename one."))
        else:
            result[key] = path
    return result


def _is_mask(split: tuple[str, str]) -> bool:
    return split[1] == ".seg.nrrd" or _MASK.match(split[0]) is not None


def holds_dicom(folder: Path) -> bool:
    """Whether one of the first files in the folder or below it is DICOM; a large tree without any is not gone through to its end."""
    files = (path for path, _ in zip(_files_below(folder), range(_LOOKED_THROUGH), strict=False) if path is not None and split_name(path) is None)
    return any(is_dicom(path) for path, _ in zip(files, range(5), strict=False))


def _files_below(folder: Path) -> Iterator[Path | None]:
    """Files in the order of their names, those of the folder itself first; None for each folder that was entered."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield None
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def _names(paths: list[Path]) -> str:
    return ", ".join(p.name for p in paths)


def _ct_ich_diagnosis(folder: Path) -> dict[int, bool]:
    """Patient number → haemorrhage, from PhysioNet CT-ICH's hemorrhage_diagnosis_raw_ct.csv (a row a slice); empty where there is none.

    The files are named after the patient numbers with leading zeros, 049.nii to 130.nii (Hssayeni 2020, doi 10.13026/4nae-zg36).
    """
    result: dict[int, bool] = {}
    for path in folder.glob("hemorrhage_diagnosis*.csv"):
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            for row in csv.DictReader(file):
                patient, none = (row.get("PatientNumber") or "").strip(), (row.get("No_Hemorrhage") or "").strip()
                if patient.isdecimal() and none in ("0", "1"):
                    result[int(patient)] = result.get(int(patient), False) or none == "0"
    return result
