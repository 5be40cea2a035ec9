"""`CaseTable`: which scan belongs to which mask and which patient; from a CSV or from a folder.

cases.csv has a header and one row a case. Paths are relative to the file. Comma, semicolon or tab; UTF-8 or what Excel writes.

| column | |
|---|---|
| case | name of the case, used for file names; the image's name when the column is missing |
| image | CT as NIfTI, NRRD, MetaImage, or a DICOM folder |
| mask | label map or Slicer segmentation (.seg.nrrd) on the scan's grid; may be empty where haemorrhage is `no` |
| patient | scans of one patient stay together in folds; the case's name when the column is missing |
| site | free text |
| segment | which segments or label values are haemorrhage, several separated by a bar: `1\\|2`, `*` for all; not needed when there is one only |
| haemorrhage | `no` for a patient without: then, and only then, the mask may be empty |
| series | number, description or UID of the DICOM series |
| split | `train`, `validation`, `test`: no patient may be in two; `test` is kept for a later test of the finished model |

Other columns are a user's own. Of those that `sahlora phantom` adds, a model card looks at `head`: the anatomy that a synthetic patient is made of.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from .complete import is_complete, is_sound
from .ct import CTVolume, read_ct, read_label
from .errors import CaseError, SAHLoRAError, one_line
from .events import Events
from .files import write_text
from .images import open_image, segment_names
from .layouts import find_cases, split_name
from .nifti import is_nifti, two_places

if TYPE_CHECKING:
    from .case_check import Finding

_COLUMNS = ("case", "image", "mask", "patient", "site", "segment", "haemorrhage", "series", "split")
#: Of synthetic cases: the anatomy that one was made from.
HEAD = "head"
#: Rows of a split that is kept for a later, independent test; what a split of validation cases is called.
TEST_SPLIT, VALIDATION_SPLITS = "test", ("validation", "valid", "val")
#: All that a row's split may say, in small letters; a misspelt test would be trained on.
_SPLITS = ("", "train", "training", *VALIDATION_SPLITS, TEST_SPLIT, "testing")
_YES_NO = {"": None, "yes": True, "y": True, "true": True, "1": True, "no": False, "n": False, "false": False, "0": False, "none": False}
NOT_IN_FILE_NAMES = re.compile(r'[/\\:*?"<>|\x00-\x1f]|^[. ]|[. ]$')
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
#: Longer ones no system takes: of a file's name, in UTF-8, and of a whole path.
_LONGEST_NAME, _LONGEST_PATH = 255, 4000


@dataclass(frozen=True)
class Case:
    """One scan with its annotation. Fields: see the table of columns above; haemorrhage is None where the table does not say."""

    case: str
    image: Path
    mask: Path | None
    patient: str
    site: str = ""
    segment: str | None = None
    haemorrhage: bool | None = None
    series: str | None = None
    split: str = ""

    def read_ct(self, sound: bool = False) -> CTVolume:
        """The scan. sound: its checksum is looked at too. Raises ScanError, CaseError where the file is missing or damaged."""
        if not os.path.exists(self.image):  # unlike Path.exists it takes names that are too long for the system
            raise CaseError(f"{self.image} does not exist. Correct the path of the image in the case table.")
        require_complete(self.image, sound)
        return read_ct(self.image, self.series)

    def read_mask(self, ct: CTVolume) -> np.ndarray:
        """The annotation on the scan's grid: (slices, rows, columns) bool, canonical order. Raises CaseError."""
        if self.mask is None:
            if self.haemorrhage is False:
                return np.zeros(ct.hu.shape, bool)
            raise CaseError("There is no mask. Add one, or write `no` in the column haemorrhage if the patient has none.")
        if not os.path.exists(self.mask):
            raise CaseError(f"{self.mask} does not exist. Correct the path of the mask in the case table.")
        mask = read_annotation(self.mask, ct, self.segment)
        apart = two_places(self.mask) if is_nifti(self.mask) else None
        if apart and not (is_nifti(self.image) and two_places(self.image)):
            raise CaseError(f"{self.mask}: {apart} The scan states one: save the mask again with the program that it was drawn in, or as .nrrd.")
        return mask

    def read(self) -> tuple[CTVolume, np.ndarray]:
        """Scan and annotation; errors name the case."""
        try:
            ct = self.read_ct()
            return ct, self.read_mask(ct)
        except SAHLoRAError as error:
            raise type(error)(f"Case {self.case}: {error}") from error


@dataclass(frozen=True)
class CaseTable:
    """Cases in the order of the table.

    warnings: what a user should know about the table. incomplete: (name, what is missing and what to do) for what was found in a folder but makes
    no case; `check` reports it with everything else. own: case → a user's own columns, which are written back and not used, but for `heads`.
    """

    cases: tuple[Case, ...]
    warnings: tuple[str, ...] = ()
    incomplete: tuple[tuple[str, str], ...] = ()
    own: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def __getitem__(self, name: str) -> Case:
        """The case of that name (CaseError)."""
        for case in self.cases:
            if case.case == name:
                return case
        raise CaseError(f"There is no case {name!r} in the table.")

    @property
    def patients(self) -> tuple[str, ...]:
        """Every patient once, in the order of the table."""
        return tuple(dict.fromkeys(case.patient for case in self.cases))

    def heads(self, among: CaseTable | None = None) -> int | None:
        """From how many heads synthetic cases were made, all or those among others; None where the table does not say it of each."""
        names = {self.own.get(case.case, {}).get(HEAD, "") for case in among or self}
        return len(names) if names and "" not in names else None

    def of_patients(self, patients: Collection[str]) -> CaseTable:
        """The cases of these patients."""
        return self.where(lambda case: case.patient in patients)

    def where(self, wanted: Callable[[Case], bool]) -> CaseTable:
        """The cases for which `wanted` is true; nothing incomplete is carried along."""
        return CaseTable(tuple(case for case in self.cases if wanted(case)), self.warnings)

    def parted(self) -> tuple[CaseTable, CaseTable]:
        """The cases that may be trained on, and those of the split test."""
        return self.where(lambda case: case.split != TEST_SPLIT), self.where(lambda case: case.split == TEST_SPLIT)

    @classmethod
    def read(cls, path: Path | str, segment: str | None = None) -> CaseTable:
        """A CSV file, or a folder (with a cases.csv in it, or a layout that `layouts` knows).

        segment: which segment or label is haemorrhage, for all cases whose row does not say. Raises CaseError.
        """
        path = Path(path)
        if path.is_dir():
            table = cls.from_csv(path / "cases.csv") if (path / "cases.csv").is_file() else cls.from_folder(path)
        else:
            table = cls.from_csv(path)
        if segment is None:
            return table
        return replace(table, cases=tuple(replace(case, segment=case.segment or segment) for case in table.cases))

    @classmethod
    def from_csv(cls, path: Path | str) -> CaseTable:
        """Read a table. Raises one CaseError with all rows that cannot be understood; files are looked at by `check`."""
        path = Path(path)
        header, rows = _csv_rows(path)
        if "image" not in header:
            raise CaseError(
                f"{path} has no column image (it has: {one_line(', '.join(header)) or 'none'}). The first line names them: case, image, mask …"
            )
        warnings = []
        if "patient" not in header:
            warnings.append(f"{path.name} has no column patient: every case counts as another patient. Add it if a patient has several scans.")
        unknown = [name for name in header if name and name not in _COLUMNS]
        if unknown:
            warnings.append(f"{path.name}: columns that are not used: {one_line(', '.join(unknown))}.")
        cases, problems = [], []
        own = {}
        for line, row in rows:
            try:
                cases.append(_case_of_row(row, path.parent, "patient" in header))
                own[cases[-1].case] = {name: row.get(name, "") for name in unknown}
            except ValueError as error:
                problems.append(f"line {line}: {error}")
        problems += _repeated_names(cases)
        if problems:
            shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
            raise CaseError(f"{path} cannot be used: {shown}.")
        if not cases:
            raise CaseError(f"{path} has no cases: add a row for each scan below the header.")
        return cls(tuple(cases), tuple(warnings), own=own if unknown else {})

    @classmethod
    def from_folder(cls, folder: Path | str) -> CaseTable:
        """Find the cases in a folder; see `layouts.find_cases`. Raises CaseError where there are none or two of one name."""
        layout = find_cases(Path(folder))
        cases = [Case(f.name, f.image, f.mask, patient=f.name, haemorrhage=f.haemorrhage) for f in layout.cases]
        repeated = _repeated_names(cases)
        if repeated:
            raise CaseError(f"{folder} cannot be used: {'; '.join(repeated)}.")
        warnings = list(layout.warnings)
        if cases and not layout.one_patient_each:
            warnings.append("Every case counts as another patient. Write a cases.csv with a column patient if a patient has several scans.")
        return cls(tuple(cases), tuple(warnings), tuple(layout.incomplete))

    def write(self, path: Path | str) -> None:
        """Write the table as CSV, paths relative to the file with forward slashes, a user's own columns last (OutputError)."""
        path = Path(path)
        rows = [{**_row_of_case(case, path.parent), **self.own.get(case.case, {})} for case in self.cases]
        columns = [name for name in _COLUMNS if name in _COLUMNS[:5] or any(row[name] for row in rows)]
        columns += dict.fromkeys(name for row in self.own.values() for name in row)
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())

    def check(self, events: Events | None = None, against: CaseTable | None = None) -> list[Finding]:
        """Read everything and say all that is wrong at once; `against`: a table that must not share patients or scans with this one."""
        from .case_check import check_cases

        return check_cases(self, events or Events(), against)


def read_annotation(path: Path, ct: CTVolume, segment: str | None = None, where: str = "in the column segment") -> np.ndarray:
    """A mask file on the scan's grid: (slices, rows, columns) bool, canonical order; more careful than `read_label`.

    segment: names or label values that are haemorrhage, several separated by a bar, * for all. Raises CaseError, for a file that is cut short and
    for a mask with several labels of which none is chosen too; where: the place to choose them.
    """
    require_complete(path, sound=True)
    wanted = [part.strip() for part in (segment or "").split("|") if part.strip()]
    if wanted == ["*"]:
        names = segment_names(path)
        if names is None:
            _check_labels(path, where, several=True)
            return read_label(path, ct)
        wanted = names
    if wanted:
        return np.logical_or.reduce([read_label(path, ct, part) for part in wanted])
    _check_labels(path, where)
    return read_label(path, ct)


def label_values(path: Path) -> tuple[float, ...] | None:
    """Values other than 0 in a label map, rising; None for a Slicer segmentation with named segments. Raises CaseError."""
    image = open_image(path, CaseError)
    if any(key.startswith("Segment0_") for key in image.GetMetaDataKeys()):
        return None
    values = sitk.GetArrayViewFromImage(image)
    return tuple(float(v) for v in np.unique(values[values != 0]))


def require_complete(path: Path, sound: bool = False) -> None:
    """Raise CaseError for a file that breaks off, which ITK would read as if nothing were wrong. sound: for one whose checksum is wrong too."""
    try:
        complete = path.is_dir() or (is_complete(path) and (not sound or is_sound(path)))
    except OSError as error:
        raise CaseError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error
    if not complete:
        raise CaseError(f"{path} is cut short or damaged. Copy or export it again.")


def _check_labels(path: Path, where: str, several: bool = False) -> None:
    """Raise CaseError where a mask is not plainly 0 and one other label, or several where they may be."""
    values = label_values(path)
    labels = values is not None and len(values) <= 64 and all(v >= 1 and v == int(v) for v in values)
    if values is None or (several and labels) or values == () or (len(values) == 1 and values[0] >= 1):
        return
    shown = ", ".join(f"{v:g}" for v in values[:8]) + (" …" if len(values) > 8 else "")
    if labels:
        example = "|".join(f"{v:g}" for v in values[:2])
        raise CaseError(f"{path} holds several labels ({shown}). Say which are haemorrhage {where}, for example {example}, or * for all.")
    raise CaseError(f"{path} is not a mask of 0 and 1; it holds {shown}. Export the segmentation as a label map.")


def _csv_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Column names (known ones in lower case), and (line, column → text) of every row that is not blank."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CaseError(f"{path} cannot be read: {error.strerror or error}. Give a cases.csv or a folder of cases.") from error
    utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))  # Excel's "Unicode text"
    try:
        text = raw.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", errors="replace")  # Excel's "CSV" in western Europe
    if "\x00" in text:
        raise CaseError(f"{path} is not a text file. Save the table as CSV.")
    lines = text.lstrip("\r\n").splitlines()
    if lines and re.fullmatch(r"sep=.", lines[0].strip().lower()):
        lines = lines[1:]
    first = lines[0] if lines else ""
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter)
    try:
        table = [(reader.line_num, [_CONTROL.sub(" ", cell).strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise CaseError(f"{path} cannot be understood near line {reader.line_num}: {one_line(error)}. Save the table as CSV again.") from error
    header = [_column(name) for name in table[0][1]] if table else []
    rows = []
    for line, cells in table[1:]:
        if any(cells):
            row = dict(zip(header, cells, strict=False))
            if any(cells[len(header) :]):
                row["\x00surplus"] = cells[len(header)]
            rows.append((line, row))
    return header, rows


def _column(name: str) -> str:
    """A column's name in the header; those that are not known keep their spelling, since they are written back."""
    known = {"hemorrhage": "haemorrhage"}.get(name.lower(), name.lower())
    return known if known in _COLUMNS else name


def _case_of_row(row: dict[str, str], folder: Path, has_patient: bool) -> Case:
    """A row as a Case; ValueError with what is wrong in it."""
    if "\x00surplus" in row:
        raise ValueError(f"more cells than columns ({one_line(row[chr(0) + 'surplus'], 40)!r}); put quotes around text that holds the separator")
    image = row.get("image", "")
    if not image:
        raise ValueError("no image")
    name = row.get("case", "") or (split_name(Path(image.replace("\\", "/"))) or (Path(image.replace("\\", "/")).name,))[0]
    if NOT_IN_FILE_NAMES.search(name):
        raise ValueError(
            f'{one_line(name, 60)!r} cannot be the name of a case, since files are named after it; leave out / \\ : * ? " < > | and dots at the ends'
        )
    if has_patient and not row.get("patient"):
        raise ValueError(f"case {name} has no patient")
    split = row.get("split", "").strip().lower()
    if split not in _SPLITS:
        raise ValueError(f"split is {one_line(split, 40)!r}; write train, validation or test, or leave it empty")
    haemorrhage = row.get("haemorrhage", "").lower()
    if haemorrhage not in _YES_NO:
        raise ValueError(f"haemorrhage is {one_line(haemorrhage, 40)!r}; write yes or no")
    mask = row.get("mask", "")
    return Case(
        case=name,
        image=_path(image, folder),
        mask=_path(mask, folder) if mask else None,
        patient=row.get("patient") or name,
        site=row.get("site", ""),
        segment=row.get("segment") or None,
        haemorrhage=_YES_NO[haemorrhage],
        series=row.get("series") or None,
        split=TEST_SPLIT if split == "testing" else split,
    )


def _path(text: str, folder: Path) -> Path:
    """A path of the table, relative to its folder; written on Windows it is found elsewhere too."""
    if len(text.encode()) > _LONGEST_PATH or max(len(part.encode()) for part in re.split(r"[/\\]", text)) > _LONGEST_NAME:
        raise ValueError(f"the path {one_line(text, 40)} is longer than any system takes")
    path = folder / os.path.expanduser(text)
    if "\\" in text and os.sep == "/" and not path.exists():
        path = folder / text.replace("\\", "/")
    return path


def _row_of_case(case: Case, folder: Path) -> dict[str, str]:
    def relative(path: Path | None) -> str:
        if path is None:
            return ""
        try:
            return Path(os.path.relpath(path, folder)).as_posix()
        except ValueError:  # another drive on Windows
            return path.absolute().as_posix()

    says = {None: "", True: "yes", False: "no"}[case.haemorrhage]
    return {
        "case": case.case, "image": relative(case.image), "mask": relative(case.mask), "patient": case.patient, "site": case.site,
        "segment": case.segment or "", "haemorrhage": says, "series": case.series or "", "split": case.split,
    }  # fmt: skip


def _repeated_names(cases: Iterable[Case]) -> list[str]:
    """Names that occur twice; on some systems files differ by more than capital letters only."""
    seen: dict[str, str] = {}
    problems = []
    for case in cases:
        if case.case.lower() in seen:
            problems.append(f"there are two cases {case.case}; give each a name of its own")
        seen[case.case.lower()] = case.case
    return problems
