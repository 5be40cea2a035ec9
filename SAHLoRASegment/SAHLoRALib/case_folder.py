"""`CaseFolder`: a case table on disk that a person edits, row by row, in Slicer or with an editor.

    folder = CaseFolder(Path("cases"))
    folder.add(Path("ct.nrrd"), Path("mask.seg.nrrd"), patient="p01", site="A")
    folder.check().warnings(folds=3)

In the folder lie cases.csv (the table of `cases`, so `sahlora train FOLDER` works on it), a folder CASE with ct.nrrd and the mask of each case that
was copied here (`case_store`), and .checks.json (`case_memory`). A file that was here before, or lies elsewhere, is never changed or deleted.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .case_memory import CheckMemory
from .case_report import CaseFolderReport, RowReport, row_report
from .case_store import drop, store_case, store_mask, stored_files
from .errors import CaseError, OutputError, SAHLoRAError
from .files import locked

if TYPE_CHECKING:
    from .case_check import Finding
    from .cases import Case, CaseTable
    from .events import Events

__all__ = ["CaseFolder", "CaseFolderReport", "CaseRow", "RowReport"]

TABLE = "cases.csv"
CHECKS = ".checks.json"
#: How long a change waits for one by somebody else.
_WAIT_SECONDS = 10.0
_KEEP: Any = object()
_NO_PATIENT = "A case needs the patient's number or pseudonym, so that scans of one patient stay on one side of the folds."


@dataclass(frozen=True)
class CaseRow:
    """A row of the table. image, mask: absolute paths (mask None for a patient without haemorrhage and without a mask). relative_image,
    relative_mask: as a table shows them. haemorrhage: None where the table does not say. stored: scan or mask are copies in the folder.
    """

    case: str
    image: Path
    mask: Path | None
    patient: str
    site: str = ""
    relative_image: str = ""
    relative_mask: str = ""
    segment: str | None = None
    haemorrhage: bool | None = None
    stored: bool = False


class CaseFolder:
    """A folder with a case table. It need not exist yet; every change is written at once, and the table is read anew at every call."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder).expanduser().resolve()

    @property
    def table_path(self) -> Path:
        """cases.csv of the folder, which `sahlora train` reads."""
        return self.folder / TABLE

    def rows(self) -> list[CaseRow]:
        """All cases, in the table's order. Nothing is opened but the table. Raises CaseError where it cannot be understood."""
        return [self._row(case) for case in self._table()]

    def __getitem__(self, case: str) -> CaseRow:
        """The row of that name (CaseError)."""
        return self._row(self._table()[case])

    # ── changes ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def add(
        self, image: Path | str, mask: Path | str | None, *, case: str | None = None, patient: str, site: str = "", segment: str | None = None,
        haemorrhage: bool | None = None, copy: bool = True,
    ) -> CaseRow:  # fmt: skip
        """Add a case; with `copy` its scan and its mask are stored in the folder as NRRD without a header that could name anybody.

        case: a name of its own; without it case-001, case-002 … patient: scans of one patient stay together in folds. segment: which segment or label
        of the mask is haemorrhage, where it holds several. haemorrhage: False for a patient without (an empty mask, or none, is right then).

        Raises CaseError (no patient, name taken, mask on another grid), ScanError (no head CT), OutputError; nothing is left behind then.
        """
        with self._changing():
            return self._add(Path(image), None if mask is None else Path(mask), case, patient, site, segment, haemorrhage, copy)

    def _add(
        self, image: Path, mask: Path | None, case: str | None, patient: str, site: str, segment: str | None, haemorrhage: bool | None, copy: bool
    ) -> CaseRow:
        from .cases import Case

        table = self._table()
        name = self._new_name(table) if case is None else self._free_name(case, table)
        if not patient.strip():
            raise CaseError(_NO_PATIENT)
        made = Case(name, image.absolute(), mask and mask.absolute(), patient.strip(), site.strip(), segment, haemorrhage)
        if not copy:
            self._write(table, (*table, made))
            return self._row(made)
        made = store_case(made, self.folder)
        try:
            self._write(table, (*table, made))
        except SAHLoRAError:
            drop(self.folder / name)
            raise
        return self._row(made)

    def add_table(self, path: Path | str, *, copy: bool = False, segment: str | None = None, events: Events | None = None) -> list[CaseRow]:
        """Add all cases of a CSV file or of a folder in a layout that `layouts` knows; returns the new rows.

        copy: store the files here, as `add` does; without it they stay where they are. A case whose name is taken gets another; what is in the table
        already, or cannot be used, is left out, and events.log says why. Raises CaseError where nothing is left to add, Cancelled, OutputError; cases
        that were copied before stay in the table.
        """
        from .cases import CaseTable
        from .events import Events
        from .inputs import unique_name

        told = events or Events()
        found = CaseTable.read(path, segment)
        have = {_place(case) for case in self._table()}
        for name, reason in found.incomplete:
            told.log(f"{name} is left out: {reason}", "warning")
        added = []
        for done, case in enumerate(found):
            told.check_cancel()
            told.progress("Adding cases", done, len(found), case.case)
            case = replace(case, image=case.image.absolute(), mask=case.mask and case.mask.absolute())
            if _place(case) in have:
                told.log(f"{case.case} is left out: its scan and mask are in the table already.", "warning")
                continue
            have.add(_place(case))
            if not copy:
                added.append(case)
                continue
            try:
                with self._changing():
                    table = self._table()
                    taken = {other.case.lower() for other in table} | {p.name.lower() for p in self.folder.glob("*")}
                    case = store_case(replace(case, case=unique_name(case.case, taken)), self.folder)
                    self._write(table, (*table, case))
            except OutputError:
                raise
            except SAHLoRAError as error:
                told.log(f"{case.case} is left out: {error}", "warning")
                continue
            added.append(case)
        told.progress("Adding cases", len(found), len(found))
        if not added:
            raise CaseError(f"Nothing was added from {path}: its cases are in the table already, or cannot be used.")
        if not copy:
            added = self._add_as_they_are(added)
        return [self._row(case) for case in added]

    def _add_as_they_are(self, cases: Sequence[Case]) -> list[Case]:
        """Rows for cases whose files stay where they are, all at once."""
        from .inputs import unique_name

        with self._changing():
            table = self._table()
            named: list[Case] = []
            for case in cases:
                named.append(replace(case, case=unique_name(case.case, {other.case.lower() for other in (*table, *named)})))
            self._write(table, (*table, *named))
        return named

    def edit(
        self, case: str, *, patient: str = _KEEP, site: str = _KEEP, haemorrhage: bool | None = _KEEP, segment: str | None = _KEEP
    ) -> CaseRow:  # fmt: skip
        """Change what the table says of a case; what is not given stays. Raises CaseError, OutputError."""
        given = {"patient": patient, "site": site, "haemorrhage": haemorrhage, "segment": segment}
        changes = {name: value.strip() if isinstance(value, str) else value for name, value in given.items() if value is not _KEEP}
        if not changes.get("patient", "x"):
            raise CaseError(_NO_PATIENT)
        with self._changing():
            table = self._table()
            new = replace(table[case], **changes)  # type: ignore[arg-type]
            self._exchange(table, new)
        return self._row(new)

    def remove(self, case: str) -> str:
        """Take a case out of the table. Copies in the folder are deleted, all other files stay; the sentence that comes back says which are where."""
        with self._changing():
            table = self._table()
            old = table[case]
            self._write(table, [other for other in table if other.case != old.case])
            deleted = drop(self.folder / old.case)
        left = [str(path) for path in (old.image, old.mask) if path is not None and path.exists()]
        said = [f"Case {old.case} is removed from {self.table_path}."]
        said += [f"Its copies in {self.folder / old.case} are deleted."] if deleted else []
        said += [f"Its files stay where they are: {', '.join(left)}."] if left else []
        return " ".join(said)

    def replace_mask(self, case: str, mask: Path | str, segment: str | None = None) -> CaseRow:
        """Give a case a corrected mask, which is stored in the folder. A former mask that was not stored here stays as it is, and counts no more.

        Haemorrhage in the new mask lifts the word `no` of the table. Raises CaseError (another grid, several segments), ScanError, OutputError.
        """
        with self._changing():
            table = self._table()
            old = table[case]
            place, source = self.folder / old.case, Path(mask).absolute()
            ct = old.read_ct()
            array = replace(old, mask=source, segment=segment).read_mask(ct)
            target = store_mask(array, ct, source, place)
            new = replace(old, mask=target, segment=None, haemorrhage=None if array.any() else old.haemorrhage)
            self._exchange(table, new)
            drop(place, stored_files(place) - {target, old.image})
        return self._row(new)

    # ── checks ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def check(self, events: Events | None = None) -> CaseFolderReport:
        """Read what was not read before, and say all that is wrong. About a second for a new case; known files are not opened. Raises Cancelled."""
        return self._report(True, events)

    def peek(self) -> CaseFolderReport:
        """The same without opening a scan: cases that were never checked, or changed since, stand as not checked yet."""
        return self._report(False)

    def check_next(self) -> str:
        """Check one case that has not been checked yet and return its name; empty where all have. For a window that must not be blocked for long."""
        memory = CheckMemory(self.folder / CHECKS)
        for case in self._table():
            if not memory.knows(case):
                memory.find(case)
                memory.save()
                return case.case
        return ""

    def _report(self, read: bool, events: Events | None = None) -> CaseFolderReport:
        from .case_check import Finding, check_cases
        from .events import Events

        table, memory = self._table(), CheckMemory(self.folder / CHECKS)
        unread = set() if read else {case.case for case in table if not memory.knows(case)}

        def one(case: Case) -> Finding:
            return Finding(case.case, case.patient) if case.case in unread else memory.find(case)

        try:
            findings = check_cases(table, events or Events(), one=one)
        finally:
            memory.save(table)
        told = {case.case: (case.site, case.split) for case in table}
        return CaseFolderReport(tuple(row_report(found, *told.get(found.case, ("", "")), found.case not in unread) for found in findings))

    # ── the table ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _table(self) -> CaseTable:
        from .cases import CaseTable

        if self.table_path.is_file():
            return CaseTable(()) if _has_no_rows(self.table_path) else _tidy(CaseTable.read(self.table_path))
        try:
            return CaseTable.from_folder(self.folder) if self.folder.is_dir() else CaseTable(())
        except CaseError:  # a folder with something else in it, or nothing
            return CaseTable(())

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """From reading the table to writing it: nobody else changes it meanwhile, so that no row of theirs is lost. Raises OutputError."""
        # Slicer has no filelock before the first installation.
        if not self.folder.is_dir() or importlib.util.find_spec("filelock") is None:
            yield
            return
        busy = f"{self.table_path} is being changed by another program or person; try again in a moment."
        with locked(self.folder / ".cases.lock", busy, seconds=_WAIT_SECONDS):
            yield

    def _write(self, table: CaseTable, cases: Sequence[Case]) -> None:
        replace(table, cases=tuple(cases)).write(self.table_path)

    def _exchange(self, table: CaseTable, new: Case) -> None:
        self._write(table, [new if case.case == new.case else case for case in table])

    def _row(self, case: Case) -> CaseRow:
        stored = stored_files(self.folder / case.case)
        return CaseRow(
            case.case, case.image, case.mask, case.patient, case.site, self._relative(case.image), self._relative(case.mask), case.segment,
            case.haemorrhage, case.image in stored or case.mask in stored,
        )  # fmt: skip

    def _relative(self, path: Path | None) -> str:
        if path is None:
            return ""
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else str(path)

    def _new_name(self, table: CaseTable) -> str:
        taken = {case.case.lower() for case in table}
        n = 1
        while f"case-{n:03}" in taken or (self.folder / f"case-{n:03}").exists():
            n += 1
        return f"case-{n:03}"

    def _free_name(self, case: str, table: CaseTable) -> str:
        from .cases import NOT_IN_FILE_NAMES

        name = case.strip()
        if not re.search(r"\w", name) or NOT_IN_FILE_NAMES.search(name):
            raise CaseError(
                f'{case!r} cannot be the name of a case, since files are named after it; leave out / \\ : * ? " < > | and dots at the ends.'
            )
        if name.lower() in {other.case.lower() for other in table} or (self.folder / name).exists():
            raise CaseError(f"There is a case or a file {name} in {self.folder} already; give the case another name.")
        return name


def _place(case: Case) -> tuple[Path, Path | None]:
    return case.image.resolve(), case.mask and case.mask.resolve()


def _tidy(table: CaseTable) -> CaseTable:
    """Paths without `..`: safe, since the folder that they start from is free of links."""
    cases = [replace(c, image=Path(os.path.normpath(c.image)), mask=c.mask and Path(os.path.normpath(c.mask))) for c in table]
    return replace(table, cases=tuple(cases))


def _has_no_rows(path: Path) -> bool:
    """Nothing below the header: all cases were removed."""
    try:
        return len(path.read_bytes().split()) <= 1 and len(path.read_bytes().splitlines()) <= 1
    except OSError as error:
        raise CaseError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error
