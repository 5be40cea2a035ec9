"""The results' part of the panel: which training, its patients worst first, plots and tables, and what may be done with the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from SAHLoRALib.model_folders import model_path, user_folder

from . import case_nodes, tables, train_run
from .train_panel import data_folder
from .train_plan import FINISHED, TrainingPlan, load, trainings
from .train_results import SHOWN, ResultNodes, Results, compare, number, read_results

_NUMBERS = ("dice", "annotated_ml", "predicted_ml")


class OutcomePanel:
    """panel: the TrainPanel."""

    def __init__(self, panel: Any) -> None:
        from .train_widget import _guarded

        self._panel, self.ui = panel, panel.ui
        self.trainings: list[tuple[TrainingPlan, str]] = []
        self.results: Results | None = None
        self.nodes = ResultNodes()
        self._filling = False
        ui = self.ui
        ui.patientsTable.setColumnCount(len(SHOWN))
        ui.patientsTable.setHorizontalHeaderLabels([words for _, words in SHOWN])
        ui.patientsTable.horizontalHeader().setStretchLastSection(True)
        for n, chart in enumerate((panel.curves.chart, *self.nodes.charts)):
            ui.plotComboBox.addItem(chart.name, n)
        ui.runComboBox.connect("currentIndexChanged(int)", self._on_run)
        ui.plotComboBox.connect("activated(int)", self._on_plot)
        ui.patientsTable.connect("cellClicked(int,int)", _guarded(self.show_patient, panel.tell))
        for name, slot in (
            ("tablesButton", self.show_tables), ("useButton", self.use), ("exportButton", self.export), ("reportButton", self.open_report),
            ("deleteButton", self.delete),
        ):  # fmt: skip
            getattr(ui, name).connect("clicked(bool)", _guarded(slot, panel.tell))

    @property
    def plan(self) -> TrainingPlan | None:
        """The training that is chosen in the list."""
        folder = self.ui.runComboBox.currentData
        return next((plan for plan, _ in self.trainings if plan.output == folder), None)

    @property
    def model(self) -> Path | None:
        """The weight file of the chosen training, where there is one."""
        plan = self.plan
        path = model_path(user_folder(), plan.name) if plan and plan.name and not plan.study else None
        return path if path and path.is_file() else None

    def list_trainings(self) -> None:
        """Fill the list from the disk, the chosen one kept as long as it is on the disk."""
        chosen = self.ui.runComboBox.currentData
        if not self._fill(chosen) and self.trainings:
            self._fill(self.trainings[0][0].output)
        self._read()

    def choose(self, output: str) -> None:
        """Show this training, its nodes in the scene too; none where it is not on the disk, and the log says so."""
        if not self._fill(output):
            self._panel.tell(f"There is no training in {output} that can be read.", True)
        self._read()
        if self.results:
            self.nodes.show(self.results)

    def _fill(self, chosen: str | None) -> bool:
        """The list from the disk with this training as the current one; False, and none is, where it is nowhere."""
        node, box = self._panel.node, self.ui.runComboBox
        places = [data_folder() / "trainings", *([Path(node.outputFolder).parent] if node and node.outputFolder else [])]
        found = [training for place in places for training in trainings(place)]
        if chosen and (own := load(Path(chosen))):  # it may lie elsewhere by now: the output folder is another, or a resumed one's was
            found.append(own)
        folders = {Path(plan.output): (plan, state) for plan, state in found}  # one folder can be written in several ways
        self.trainings = list(folders.values())
        self._filling = True
        box.clear()
        for plan, state in self.trainings:
            box.addItem(Path(plan.output).name + ("" if state == FINISHED else " (unfinished)"), plan.output)
        at = list(folders).index(Path(chosen)) if chosen and Path(chosen) in folders else -1
        box.setCurrentIndex(at)
        self._filling = False
        return at >= 0

    def earlier(self, adapter: str) -> TrainingPlan | None:
        """The training that made an adapter."""
        return next((plan for plan, state in self.trainings if plan.name == adapter and state == FINISHED and not plan.study), None)

    def forget(self) -> None:
        """The scene closes."""
        self.nodes.forget()

    def refresh(self) -> None:
        """Buttons with the reason why they cannot be pressed."""
        nothing = "" if self.results else "There are no results of a cross-validation yet."
        no_model = "" if self.model else "This training has made no model."
        running = "Not while a training goes on." if self._panel.running else ""
        for name, why, tip in (
            ("tablesButton", nothing, "Per patient, per volume stratum, per method, as tables of the scene"),
            ("useButton", no_model, "Choose this adapter in SAHLoRA Segment"),
            ("exportButton", nothing and no_model, "Model, card, report and tables into a folder for a colleague"),
            ("reportButton", "" if self._report() else "There is no report yet.", "In the program for text files"),
            ("deleteButton", running or ("" if self.plan else "There is no training to delete."), "Remove model and results; cases stay"),
        ):  # fmt: skip
            self._panel._show(name, why, tip)

    def _on_run(self, index: int) -> None:
        if not self._filling:
            self._read()
            if self.results:
                self.nodes.show(self.results)
            self.refresh()

    def _read(self) -> None:
        plan = self.plan
        self.results = read_results(Path(plan.output)) if plan else None
        self.ui.resultLabel.text = self._in_words(plan)
        table, rows = self.ui.patientsTable, self.results.patients if self.results else ()
        import qt

        table.setRowCount(len(rows))
        for n, row in enumerate(rows):
            for column, (name, _) in enumerate(SHOWN):
                value = number(row, name)
                text = ("" if value != value else f"{value:.2f}") if name in _NUMBERS else row.get(name, "")
                table.setItem(n, column, qt.QTableWidgetItem(text))

    def _in_words(self, plan: TrainingPlan | None) -> str:
        if plan is None:
            return "No training is chosen." if self.trainings else "Nothing is trained yet."
        if self.results is None:
            return "No cross-validation of this training is finished."
        told = [self.results.in_words()]
        node = self._panel.node
        before = self.earlier(node.earlier) if node else None
        old = read_results(Path(before.output)) if before and Path(before.output) != Path(plan.output) else None
        if old is not None:
            told.append(compare(self.results, old))
        return " ".join(told)

    # --- the user

    def show_patient(self) -> None:
        """The scan of the clicked patient with annotation and out-of-fold prediction, side by side."""
        from SAHLoRALib.cases import CaseTable

        plan, row = self.plan, self.ui.patientsTable.currentRow()
        if plan is None or self.results is None or row < 0:
            return
        patient = self.results.patients[row]["patient"]
        case = next((case for case in CaseTable.read(plan.cases) if case.patient == patient), None)
        if case is None:
            self._panel.tell(f"{patient} is not in {plan.cases} any more.", True)
            return
        _, _, predicted = case_nodes.show_side_by_side(case, self.results.prediction(case.case))
        if predicted is None:
            self._panel.tell(f"There is no prediction of {case.case} in {plan.output}.", True)

    def _on_plot(self, index: int) -> None:
        (self._panel.curves.chart, *self.nodes.charts)[index].show()

    def show_tables(self) -> None:
        assert self.results
        self.nodes.show(self.results)
        tables.show_table(self.nodes.tables[0])

    def use(self) -> None:
        """Make the model the current one in SAHLoRA Segment, whose parameter node names it."""
        import slicer

        assert self.model and self.plan
        slicer.util.selectModule("SAHLoRASegment")
        widget = slicer.modules.sahlorasegment.widgetRepresentation().self()
        widget.picker.refresh()
        if self.plan.method.startswith("fine-tune"):
            widget.picker.choose(self.plan.name, "none")
        else:
            widget.picker.choose(Path(self.plan.base).name.removesuffix(".safetensors"), self.plan.name)
        widget.onModelChosen()

    def export(self) -> None:
        import qt

        if self.plan and (folder := qt.QFileDialog.getExistingDirectory(self._panel.parent, "Folder for a colleague")):
            written = train_run.export(self.plan, Path(folder) / Path(self.plan.output).name)
            self._panel.tell(f"{len(written)} files are in {Path(folder) / Path(self.plan.output).name}.")

    def delete(self) -> None:
        import slicer

        plan = self.plan
        if plan is None:
            return
        question = f"Delete the model, checkpoints and results of {Path(plan.output).name}?\n\n{plan.output}\n\nThe cases stay."
        if slicer.util.confirmOkCancelDisplay(question, "SAHLoRA Train"):
            gone = train_run.delete(plan)
            self._panel.tell(f"Deleted: {', '.join(gone)}.")
            self._panel.plans.picker.refresh()
            self.list_trainings()
            self._panel.refresh()

    def open_report(self) -> None:
        import qt

        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self._report())))

    def _report(self) -> Path | None:
        path = Path(self.plan.output) / "report.md" if self.plan else None
        return path if path and path.is_file() else None
