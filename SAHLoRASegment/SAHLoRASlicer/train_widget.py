"""The panel of SAHLoRA Train: cases, what to train, the run, and its buttons. It computes nothing; results are `train_outcome`'s."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from SAHLoRALib.errors import SAHLoRAError

from . import case_nodes, cases, dependencies, train_samples, volumes
from .curves import Curves
from .job import Outcome, python_program, single_shot
from .panel import ProgressLine, on_paths
from .train_cases import PATIENT, CasesTable
from .train_outcome import OutcomePanel
from .train_panel import PlanPanel, data_folder
from .train_plan import FINISHED, TrainingPlan, load
from .train_run import SAMPLE_EPOCHS, SampleRun, TrainRun

#: Milliseconds without another letter after which a path that is being typed is taken: each of its beginnings may be a large folder.
TYPED_AFTER = 700
_EXPECTED = (SAHLoRAError, OSError, RuntimeError, ValueError)


class TrainPanel:
    """ui: the widgets by name. parent: for dialogs."""

    def __init__(self, ui: Any, parent: Any, later: Callable[[int, Callable[[], None]], Any] = single_shot) -> None:
        self.ui, self.parent, self._later = ui, parent, later
        self.node: Any = None
        self.run: Any = None
        self.cancelling = self.starting = self._busy = False
        self._said: set[str] = set()
        self._typed = 0
        self.requirements = Path(__file__).resolve().parents[1] / "Resources" / "requirements.txt"
        self.curves = Curves()
        self.line = ProgressLine(ui.progressBar, ui.statusLabel)
        self.plans = PlanPanel(ui, self.refresh)
        self.cases = CasesTable(ui.casesTable, self.refresh, self.tell)
        self.outcome = OutcomePanel(self)
        for name, slot in (
            ("addFolderButton", self.add_folder), ("addTableButton", self.add_file), ("removeButton", self.remove), ("openButton", self.open_case),
            ("annotateButton", self.annotate), ("keepButton", self.keep), ("reviewButton", self.review), ("checkButton", self.check),
            ("sampleButton", self.make_samples), ("addSceneButton", self.add_scene), ("addHandedButton", self.add_handed),
            ("trainButton", self.train), ("resumeButton", self.resume), ("copyCommandButton", self.copy_command), ("copyLogButton", self.copy_log),
        ):  # fmt: skip
            getattr(ui, name).connect("clicked(bool)", self._clicked(slot))
        ui.casesTable.connect("itemSelectionChanged()", self.refresh)
        opens = self._clicked(self.open_case)
        ui.casesTable.connect("cellDoubleClicked(int,int)", lambda row, column: None if column == PATIENT else opens())
        on_paths(ui.caseFolderEdit, self._on_case_folder)
        ui.segmentSelector.connect("currentSegmentChanged(QString)", self.refresh)
        ui.segmentSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.refresh)
        train_samples.makers.append(self.make_samples)
        self.cases.in_use = lambda: self.running

    # --- life

    def attach(self, node: Any) -> None:
        """Follow this parameter node; None while a scene closes."""
        self.node = node
        self.plans.attach(node)
        if node is not None:
            if not node.caseFolder:
                node.caseFolder = str(data_folder() / "cases")
            self.ui.caseFolderEdit.currentPath = node.caseFolder
            self._open_cases(node.caseFolder)
            self.outcome.list_trainings()
            self.refresh()

    def close(self) -> None:
        """Slicer quits, or the module is reloaded."""
        self.cases.close()
        if self.make_samples in train_samples.makers:
            train_samples.makers.remove(self.make_samples)
        if self.run is not None:
            self.run.job.abandon()

    def leaveScene(self) -> None:
        """The scene closes; a training goes on, since it works on files."""
        self.curves.forget()
        self.outcome.forget()

    @property
    def running(self) -> bool:
        return self.run is not None and self.run.job.running

    def tell(self, text: str, failed: bool = False) -> None:
        """A line for the log; a failure is shown below the Train button too."""
        self.ui.logText.appendPlainText(text)
        if failed:
            if not self.running:
                self.line.idle(text)
            self.ui.logCollapsibleButton.collapsed = False

    # --- showing

    def refresh(self, *unused: Any) -> None:
        """Labels, buttons and tool tips follow the state."""
        if self.node is None or self._busy:
            return
        self._busy = True
        try:
            self.plans.show()
            report, folds = self.cases.report, self.node.folds
            self.ui.totalsLabel.text = report.totals if report.rows else "No cases yet. Add them here, or drop files on the table."
            self.ui.caseWarningLabel.text = " ".join(report.warnings(folds)) if report.rows else ""
            self._show_patients()
            self._show_case_buttons()
            self._show_run_buttons()
            self.outcome.refresh()
        finally:
            self._busy = False

    def plan(self) -> TrainingPlan:
        """What Train would start."""
        earlier = self.outcome.earlier(self.node.earlier)
        return self.plans.plan(self.node.caseFolder, earlier.output if earlier else "")

    def _show_patients(self) -> None:
        box, wanted = self.ui.patientComboBox, [self.cases.new_patient(), *self.cases.patients()]
        before = [box.itemText(n) for n in range(box.count)]
        if before != wanted:
            text = box.currentText
            box.clear()
            for patient in wanted:
                box.addItem(patient)
            if before and text != before[0]:
                box.setEditText(text)  # the user's own word

    def _show_case_buttons(self) -> None:
        busy = "Not while a training reads these cases." if self.running else ""
        chosen = "" if self.cases.selected() else "Select a case in the table."
        opened = chosen or ("" if self.cases.find_open(self.cases.selected()) else "Open or annotate this case first.")
        handed = len(cases.cases())
        for name, why, tip in (
            ("addFolderButton", busy, "Cases in a folder; the files stay where they are"),
            ("addTableButton", busy, "A CSV table of cases, or a single scan; the files stay where they are"),
            ("removeButton", busy or chosen, "Take the case off the table; only copies in the case folder are deleted"),
            ("openButton", chosen, "Load scan and annotation into the scene"),
            ("annotateButton", chosen, "Segment Editor on this case, painting limited to 30-100 HU (Masking)"),
            ("keepButton", busy or opened, "The segment in the scene becomes the case's annotation on disk"),
            ("reviewButton", "" if self.cases.report.rows else "There are no cases yet.", "Open the next case; those with problems first"),
            ("checkButton", busy, "Read the table again, and all that changed"),
            ("sampleButton", busy, "Six small synthetic cases, made on this computer in a few minutes; no network is needed"),
            ("addSceneButton", busy or self._why_no_scene(), "Store scan and segment in the case folder, without names from DICOM headers"),
            ("addHandedButton", busy or ("" if handed else "SAHLoRA Segment has handed nothing over."), f"Store all {handed}, each as a new patient"),
        ):  # fmt: skip
            self._show(name, why, tip)

    def _why_no_scene(self) -> str:
        why, selector = volumes.why_unusable(self.node.volume), self.ui.segmentSelector
        chosen = selector.currentNode()
        # The selector goes on naming a segment that was deleted.
        if why or (chosen is not None and chosen.GetSegmentation().GetSegment(selector.currentSegmentID() or "") is not None):
            return why
        return "Choose the segment that is the haemorrhage; for a patient without one, an empty segment."

    def _show_run_buttons(self) -> None:
        plan, running = self.plan(), self.running
        problems = [] if running else plan.problems(self.cases.report)
        left = None if running else self._unfinished(plan)
        missing = dependencies.missing_in_words(self.requirements)
        self.ui.trainButton.text = "Cancel" if running else "Compare methods" if plan.study else "Train"
        self._show("trainButton", " ".join(problems), f"Missing packages are asked for first: {missing}." if missing else "Start in the background.")
        if running:
            self._show(
                "trainButton", "It is being cancelled." if self.cancelling else "", "Stop; the last checkpoint is kept, and Resume goes on from it."
            )
        elif not self.ui.statusLabel.text or self.ui.statusLabel.text in self._said:
            self._said = {" ".join(problems)}
            self.ui.statusLabel.text = " ".join(problems)
        why = "A training is going on." if running else "" if left else "No training was left unfinished."
        self._show("resumeButton", why, f"Go on with {left.name or 'the study'} in {left.output}, with its own settings" if left else "")
        self.ui.commandText.setPlainText(plan.command_line(python_program()))
        self.ui.whatCollapsibleButton.enabled = not running

    def _show(self, name: str, why: str, tip: str) -> None:
        button = getattr(self.ui, name)
        button.enabled = not why
        button.toolTip = why or tip

    def _unfinished(self, plan: TrainingPlan) -> TrainingPlan | None:
        """The chosen folder's training where it is unfinished, else the latest that is."""
        here = load(Path(plan.output))
        if here and here[1] != FINISHED:
            return here[0]
        return next((found for found, state in self.outcome.trainings if state != FINISHED), None)

    def _on_case_folder(self, path: str) -> None:
        self._typed += 1
        last = self._typed
        self._later(TYPED_AFTER, lambda: self._take_case_folder() if last == self._typed else None)

    def _take_case_folder(self) -> None:
        """What stands in the field is the case folder from now on."""
        if self.node is None:
            return
        path = self.ui.caseFolderEdit.currentPath
        if self.node.caseFolder != path:
            self.node.caseFolder = path
            self._open_cases(path)

    def _open_cases(self, folder: str) -> None:
        """Another folder has other patients, whose pseudonyms may be the same."""
        before = self.cases.folder
        self.cases.open(folder)
        if self.cases.folder is not before:  # Slicer comes by here each time that the module is shown again: what was typed stays
            self.ui.patientComboBox.setEditText(self.cases.new_patient())

    def _clicked(self, slot: Callable[[], Any]) -> Callable[..., None]:
        def act() -> None:
            self._take_case_folder()  # typed a moment ago
            slot()

        return _guarded(act, self.tell)

    # --- cases

    def add_folder(self) -> None:
        import qt

        if folder := qt.QFileDialog.getExistingDirectory(self.parent, "Folder with cases"):
            self.cases.add_files([Path(folder)])

    def add_file(self) -> None:
        import qt

        path = qt.QFileDialog.getOpenFileName(self.parent, "Table of cases or scan", "", "Cases (*.csv *.nrrd *.nii *.nii.gz *.mha *.mhd)")
        path = path[0] if isinstance(path, tuple) else path
        if path:
            self.cases.add_files([Path(path)])

    def add_scene(self) -> None:
        selector, patient = self.ui.segmentSelector, self.ui.patientComboBox.currentText
        name = self.cases.add_node(
            self.node.volume, selector.currentNode(), selector.currentSegmentID(), patient, self.ui.withoutCheckBox.checked
        )  # fmt: skip
        self.ui.patientComboBox.setEditText(self.cases.new_patient())
        self.tell(f"{name} is stored in {self.node.caseFolder}.")

    def add_handed(self) -> None:
        done, problems = self.cases.add_handed()
        self.tell(f"{done} cases from SAHLoRA Segment are stored.")
        for problem in problems:
            self.tell(problem, True)

    def remove(self) -> None:
        self.tell(self.cases.remove(self.cases.selected()))

    def open_case(self) -> case_nodes.OpenCase:
        opened = self.cases.open_case(self.cases.selected())
        volumes.show_scan(opened.volume)
        self.refresh()
        return opened

    def annotate(self) -> None:
        case_nodes.edit(self.open_case())
        self.tell("Correct the segment, come back, and click Keep annotation.")

    def keep(self) -> None:
        name = self.cases.selected()
        self.cases.keep_annotation(name)
        self.tell(f"The annotation of {name} is kept.")

    def review(self) -> None:
        self.cases.select(self.cases.next_to_review())
        self.open_case()

    def check(self) -> None:
        self.cases.check_again()

    # --- runs

    def make_samples(self) -> None:
        """Synthetic cases in a folder of their own, which becomes the case folder; and settings that take minutes."""
        if self.running or self.node is None:
            return
        folder = data_folder() / "sample-cases"
        self.node.caseFolder = str(folder)
        self.ui.caseFolderEdit.currentPath = str(folder)
        self._open_cases(str(folder))
        self.cases.paused = True
        self._begin(SampleRun(folder, self.on_event, self.on_finished))

    def train(self) -> None:
        if self.running:
            self.cancelling = True
            self.run.job.cancel()
            self.line.wait("Cancelling; the checkpoint is written first")
            self.refresh()
            return
        self._start(self.plan())

    def resume(self) -> None:
        left = self._unfinished(self.plan())
        if left is not None:
            self._start(left)

    def _start(self, plan: TrainingPlan) -> None:
        self.curves.start()
        self.cases.paused = True
        self._begin(TrainRun(plan, self.on_event, self.on_finished))

    def _begin(self, run: Any) -> None:
        if self.starting:  # a second click while pip installs, which lets Slicer go on
            run.job.abandon()
            return
        self.cancelling, self.starting, before = False, True, self.run
        try:
            self.line.wait("Starting the background process")
            dependencies.ensure(self.requirements, self.tell)
            self.run = run
            run.start()
        except Exception as error:
            self.run = before
            run.job.abandon()
            self.cases.paused = False
            said = str(error) if isinstance(error, (dependencies.Missing, SAHLoRAError)) else f"The run could not be started: {error}"
            self.line.idle(said)
            self.tell(said, True)
        else:
            if run.plan is not None:
                self.curves.chart.show()
        finally:
            self.starting = False
        self.refresh()

    def on_event(self, event: dict[str, Any]) -> None:
        if event["event"] == "progress" and not self.cancelling:
            self.line.follow(event)
        elif event["event"] == "metric":
            self.curves.follow(event)
        elif event["event"] == "log":
            self.tell(event["message"])

    def on_finished(self, outcome: Outcome) -> None:
        run, self.cancelling = self.run, False
        words = {"done": "Finished.", "cancelled": "Cancelled; Resume goes on from the last checkpoint.", "failed": outcome.message}[outcome.state]
        self.tell(words, outcome.state == "failed")
        self.line.idle(words)
        self.curves.draw()
        self.cases.check_again()
        if isinstance(run, SampleRun):
            if outcome.state == "done" and self.node is not None:
                self.node.epochs = SAMPLE_EPOCHS
                self.tell(f"Epochs are set to {SAMPLE_EPOCHS}, so that the sample cases are learnt in minutes.")
        else:
            self.plans.picker.refresh()
            self.outcome.list_trainings()
            if outcome.state == "done":
                self.outcome.choose(run.plan.output)
        self.refresh()

    # --- texts

    def copy_command(self) -> None:
        import slicer

        slicer.app.clipboard().setText(self.plan().command_line(python_program()))

    def copy_log(self) -> None:
        import slicer

        slicer.app.clipboard().setText(self.ui.logText.plainText)


def _guarded(slot: Callable[[], Any], tell: Callable[[str, bool], None]) -> Callable[..., None]:
    """What goes wrong at a click becomes a sentence in the panel."""

    def clicked(*unused: Any) -> None:
        try:
            slot()
        except _EXPECTED as error:
            tell(str(error), True)
        except ImportError as error:
            tell(f"The package {error.name} is missing; Train asks for what is needed.", True)
        except Exception as error:  # a fault of the program: nothing is lost in the panel, and whoever mends it finds it in the log
            logging.exception("SAHLoRA Train")
            tell(f"That did not work ({type(error).__name__}: {error}); the details are in Slicer's error log.", True)

    return clicked
