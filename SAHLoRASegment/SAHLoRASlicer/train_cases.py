"""The table of training cases: rows from a case folder of the core, filled from the scene, from files or by dropping, opened and corrected in Slicer.

The table on disk is the truth; the widget shows what it says. Scans are read one at a time between events of the window, so that a long list never
blocks Slicer for longer than one scan does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from SAHLoRALib.case_folder import CaseFolder, CaseFolderReport
from SAHLoRALib.errors import CaseError, SAHLoRAError

from . import case_nodes, cases
from .job import single_shot

COLUMNS = ("Case", "Patient", "Slices", "Spacing", "mL", "State")
PATIENT = COLUMNS.index("Patient")
_STATE = COLUMNS.index("State")
#: Milliseconds between the checks of two cases.
_PAUSE = 10


class CasesTable:
    """The widget and the case folder behind it.

    table: a QTableWidget. changed: called when the rows may be others, also after each check. told: gets a sentence for the log, and whether it is a
    failure. later: calls a function after some milliseconds.
    """

    def __init__(
        self,
        table: Any,
        changed: Callable[[], None],
        told: Callable[[str, bool], None],
        later: Callable[[int, Callable[[], None]], Any] | None = None,
    ) -> None:
        import qt

        self._qt, self._table, self._changed, self._told = qt, table, changed, told
        self._later = later or single_shot
        self._waiting = self._closed = False
        self.paused = False
        self.in_use: Callable[[], bool] = lambda: False  # by a training
        self.folder: CaseFolder | None = None
        self.report = CaseFolderReport(())
        table.setColumnCount(len(COLUMNS))
        table.setHorizontalHeaderLabels(list(COLUMNS))
        table.horizontalHeader().setStretchLastSection(True)
        table.verticalHeader().setVisible(False)
        self.drop = drop_filter(self.add_files)
        table.setAcceptDrops(True)
        table.viewport().setAcceptDrops(True)
        table.viewport().installEventFilter(self.drop)
        self._filling = False
        table.connect("itemChanged(QTableWidgetItem*)", self._on_edited)

    # --- showing

    def open(self, folder: str) -> None:
        """Show another case folder; empty text for none. It need not exist yet."""
        path = Path(folder) if folder else None
        if path != (self.folder.folder if self.folder else None):
            self.folder = CaseFolder(path) if path else None
        self.refresh()

    def close(self) -> None:
        """The panel goes: no check comes any more."""
        self._closed = True

    def refresh(self) -> None:
        """Rows from the table on disk; cases that have not been read yet are read one after the other from now on."""
        selected = self.selected()
        try:
            self.report = self.folder.peek() if self.folder else CaseFolderReport(())
        except (SAHLoRAError, OSError) as error:  # OSError: a folder that may not be read
            self.report = CaseFolderReport(())
            self._told(str(error), True)
        self._filling = True
        self._table.setRowCount(len(self.report.rows))
        for n, row in enumerate(self.report.rows):
            ml = "" if row.ml is None else f"{row.ml:.2f}"
            note = " ".join((row.state, *row.notes))
            for column, text in enumerate((row.case, row.patient, "" if row.slices is None else str(row.slices), row.spacing, ml, row.state)):
                item = self._qt.QTableWidgetItem(text)
                item.setToolTip(f"{note} Double-click to give another patient." if column == PATIENT else note)
                if column != PATIENT:
                    item.setFlags(item.flags() & ~self._qt.Qt.ItemIsEditable)
                self._table.setItem(n, column, item)
        self._filling = False
        for column in range(_STATE):
            self._table.resizeColumnToContents(column)
        self.select(selected)
        self._check_later()
        self._changed()

    def selected(self) -> str:
        """Name of the case in the current row, or empty."""
        row = self._table.currentRow()
        return self._table.item(row, 0).text() if 0 <= row < self._table.rowCount else ""

    def select(self, name: str) -> None:
        """Make a case's row the current one; nothing where there is no such case."""
        for row in range(self._table.rowCount):
            if self._table.item(row, 0).text() == name:
                self._table.setCurrentCell(row, 0)

    def patients(self) -> list[str]:
        """Every patient once, in the order of the table."""
        return list(dict.fromkeys(row.patient for row in self.report.rows if row.patient))

    def new_patient(self) -> str:
        """A pseudonym that nobody has yet: patient-001."""
        taken, n = set(self.patients()), 1
        while f"patient-{n:03}" in taken:
            n += 1
        return f"patient-{n:03}"

    def check_again(self) -> None:
        """Go on with the checks, for instance after a training that had stopped them."""
        self.paused = False
        self.refresh()

    def _check_later(self) -> None:
        if self.report.unchecked and not (self._waiting or self.paused or self._closed):
            self._waiting = True
            self._later(_PAUSE, self._check_one)

    def _check_one(self) -> None:
        self._waiting = False
        if self._closed or self.paused or self.folder is None:
            return
        try:
            self.folder.check_next()
        except (SAHLoRAError, OSError) as error:
            self.paused = True
            self._told(str(error), True)
        except ImportError as error:
            self.paused = True
            self._told(f"The cases cannot be checked before {error.name} is installed; Train asks for it.", True)
        self.refresh()

    # --- changing

    def add_node(self, volume: Any, segmentation: Any, segment: str, patient: str, without: bool = False) -> str:
        """Store a volume of the scene with a segment; returns the case's name. Raises SAHLoRAError, OSError, RuntimeError."""
        folder = self._need_folder()
        with case_nodes.case_files(volume, segmentation, segment) as (image, mask):
            row = folder.add(image, mask, patient=patient, haemorrhage=False if without else None)
        self.refresh()
        self.select(row.case)
        return row.case

    def add_handed(self) -> tuple[int, list[str]]:
        """Store what SAHLoRA Segment handed over, each as another patient; returns how many, and a sentence for each that could not be stored.

        Stored ones leave the list, so that they are not added twice.
        """
        done, problems = 0, []
        for case in cases.cases():
            try:
                self.add_node(case.volume, case.segmentation, case.segment, self.new_patient())
            except (SAHLoRAError, OSError, RuntimeError) as error:
                problems.append(f"{case.volume.GetName()}: {error}")
            else:
                cases.remove_case(case)
                done += 1
        return done, problems

    def _on_edited(self, item: Any) -> None:
        """The user gave another patient; the cell shows afterwards what the table on disk says."""
        if self._filling or self.paused or item.column() != PATIENT:
            return
        name, patient = self._table.item(item.row(), 0).text(), item.text().strip()
        try:
            self._need_folder().edit(name, patient=patient)
        except (SAHLoRAError, OSError) as error:
            self._told(str(error), True)
        # Not from within the editing: the items would be exchanged under Qt's hands.
        self._later(0, self.refresh)

    def add_table(self, path: Path) -> int:
        """Add all cases of a CSV file or a folder; the files stay where they are. Returns how many. Raises SAHLoRAError."""
        added = self._need_folder().add_table(path)
        self.refresh()
        return len(added)

    def add_files(self, paths: Sequence[Path]) -> None:
        """What was dropped or chosen: folders and CSV files as they are, single scans with the masks beside them, and scans alone to be annotated."""
        if self.in_use():  # files may be dropped at any time
            self._told("Not while a training reads these cases.", True)
            return
        try:
            count = 0
            for path in [p for p in paths if p.is_dir() or p.suffix.lower() == ".csv"]:
                count += self.add_table(path)
            count += self._add_scans([p for p in paths if p.is_file() and p.suffix.lower() != ".csv"])
            self._told(f"{count} {'case' if count == 1 else 'cases'} added.", False)
        except (SAHLoRAError, OSError) as error:
            self._told(str(error), True)
        self.refresh()

    def _add_scans(self, files: Sequence[Path]) -> int:
        from SAHLoRALib.layouts import find_cases, split_name

        folder, count, left = self._need_folder(), 0, list(files)
        for parent in dict.fromkeys(path.parent for path in files):
            for found in find_cases(parent).cases:
                if found.image in left or found.mask in left:
                    folder.add(found.image, found.mask, patient=found.name, copy=False)
                    left = [path for path in left if path not in (found.image, found.mask)]
                    count += 1
        for path in left:
            if (name := split_name(path)) is None:
                raise CaseError(f"{path.name} is no scan that can be read: give NIfTI, NRRD, MetaImage, a DICOM folder or a CSV.")
            folder.add(path, None, patient=name[0], copy=False)
            count += 1
        return count

    def remove(self, name: str) -> str:
        """Take a case off the table; returns the sentence that says what became of its files."""
        told = self._need_folder().remove(name)
        self.refresh()
        return told

    # --- in the scene

    def open_case(self, name: str) -> case_nodes.OpenCase:
        """The case's nodes, loaded where they are not in the scene. Raises SAHLoRAError."""
        folder = self._need_folder()
        return case_nodes.open_case(self.case(name), folder.folder)

    def find_open(self, name: str) -> case_nodes.OpenCase | None:
        """The case's nodes where it is in the scene."""
        return case_nodes.find_open(name, self.folder.folder) if self.folder and name else None

    def keep_annotation(self, name: str) -> None:
        """The segment of an open case becomes the case's mask. Raises SAHLoRAError, OSError, RuntimeError; the old mask stays then."""
        opened = self.find_open(name)
        if opened is None:
            raise CaseError(f"Case {name} is not in the scene: open it, correct its segment and keep it then.")
        with case_nodes.annotation_file(opened) as mask:
            self._need_folder().replace_mask(name, mask)
        self.refresh()

    def next_to_review(self) -> str:
        """The case below the current one, at the end the first again; cases with problems come before all others."""
        names = [row.case for row in self.report.rows if row.problems] or [row.case for row in self.report.rows]
        current = self.selected()
        return names[(names.index(current) + 1) % len(names)] if current in names else (names[0] if names else "")

    def case(self, name: str) -> Any:
        """The core's Case of this name. Raises CaseError."""
        from SAHLoRALib.cases import CaseTable

        folder = self._need_folder()
        return CaseTable.read(folder.table_path if folder.table_path.is_file() else folder.folder)[name]

    def _need_folder(self) -> CaseFolder:
        if self.folder is None:
            raise CaseError("Choose a case folder first: scans and annotations are kept there.")
        return self.folder


def drop_filter(dropped: Callable[[list[Path]], None]) -> Any:
    """A Qt event filter that hands dropped files on. Made by a function, since a class of Qt's can be defined only where qt is there."""
    import qt

    class Filter(qt.QObject):
        def eventFilter(self, watched: Any, event: Any) -> bool:
            kind = event.type()
            if kind not in (qt.QEvent.DragEnter, qt.QEvent.DragMove, qt.QEvent.Drop):
                return False
            paths = [Path(text) for url in event.mimeData().urls() if (text := url.toLocalFile())]
            if not paths:
                return False
            event.acceptProposedAction()
            if kind == qt.QEvent.Drop:
                dropped(paths)
            return True

    return Filter()
