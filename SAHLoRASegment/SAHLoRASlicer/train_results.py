"""What a finished training measured, from its output folder into tables and plots of the scene.

Read are the tables that the core writes: evaluation_*.csv of a training, results.csv and methods.csv of a study. Patients come worst first.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from SAHLoRALib.errors import DAMAGED

from .charts import COLORS, GREY, Chart

Row = Mapping[str, str]
#: A smaller change of Dice is none.
_SAME = 0.005
#: Columns of the patients' table: in the file, and in words.
SHOWN = (("patient", "Patient"), ("dice", "Dice"), ("annotated_ml", "Annotated mL"), ("predicted_ml", "Predicted mL"), ("stratum", "Volume stratum"))


@dataclass(frozen=True)
class Results:
    """patients: worst first. strata, methods: rows of their tables. label: of whom the patients' figures are (a study's best method). before: the
    patients as segmented by what the training started from; empty where that was not measured.
    """

    folder: Path
    patients: tuple[Row, ...]
    strata: tuple[Row, ...]
    methods: tuple[Row, ...] = ()
    label: str = ""
    before: tuple[Row, ...] = ()

    @property
    def dice(self) -> float:
        """Mean over the patients that have one."""
        values = [value for row in self.patients if not math.isnan(value := number(row, "dice"))]
        return float(np.mean(values)) if values else math.nan

    def prediction(self, case: str) -> Path | None:
        """The out-of-fold mask of a case; of a study the one by the method whose figures are shown."""
        folders = [self.folder, *(self.folder / "runs" / name for name in self._runs())]
        return next((path for folder in folders if (path := folder / "predictions" / f"{case}.nrrd").is_file()), None)

    def _runs(self) -> list[str]:
        """Names of the runs of the study that these are: its folder keeps those of former ones too."""
        try:
            labels = json.loads((self.folder / "made_of.json").read_text(encoding="utf-8"))["labels"]
            return sorted(name for name, label in labels.items() if label == self.label)
        except (OSError, *DAMAGED):
            return []

    def in_words(self) -> str:
        """A sentence, and one on what was gained."""
        who = f"{self.label}: mean" if self.label else "Mean"
        told = f"{who} Dice {self.dice:.3f} on {len(self.patients)} patients, each predicted by a network that had not seen the patient."
        changes = _changes(self.patients, self.before)
        return f"{told} It is {_against(changes, 'what it started from')}." if changes else told


def read_results(folder: Path) -> Results | None:
    """None where the folder holds no finished cross-validation."""
    methods = _table(folder / "methods.csv")
    if methods:
        best = max(methods, key=lambda row: number(row, "dice", -1.0))["label"]
        patients = [row for row in _table(folder / "results.csv") if row["label"] == best]
        strata = [
            {"stratum": key.removeprefix("dice "), "measure": f"dice, {row['label']}", "mean": row[key], "n": row.get("patients", "")}
            for row in methods
            for key in row
            if key.startswith("dice ")
        ]
        return Results(folder, _worst_first(patients), tuple(strata), tuple(methods), best)
    patients = _table(folder / "evaluation_patients.csv")
    if not patients:
        return None
    before = tuple(_table(folder / "before_patients.csv"))
    return Results(folder, _worst_first(patients), tuple(_table(folder / "evaluation_summary.csv")), before=before)


def compare(new: Results, old: Results) -> str:
    """Whether the new model is better than the last on the same patients, in a sentence."""
    changes = _changes(new.patients, old.patients)
    if not changes:
        return f"{old.folder.name} was measured on other patients, so the two cannot be compared."
    return f"On the {len(changes)} patients that both were measured on it is {_against(changes, old.folder.name)}."


def _changes(new: Sequence[Row], old: Sequence[Row]) -> list[float]:
    """Each patient's own difference in Dice, of those that have one in both tables."""
    before = {row["patient"]: number(row, "dice") for row in old}
    pairs = [(number(row, "dice"), before[row["patient"]]) for row in new if row["patient"] in before]
    return [a - b for a, b in pairs if not math.isnan(a - b)]


def _against(changes: Sequence[float], old: str) -> str:
    mean, better, worse = float(np.mean(changes)), sum(c > _SAME for c in changes), sum(c < -_SAME for c in changes)
    word = "better than" if mean > _SAME else "worse than" if mean < -_SAME else "about as good as"
    return f"{word} {old} (mean Dice {mean:+.3f}; {better} better, {worse} worse)"


class ResultNodes:
    """Tables and charts of one training in the scene; those of the training before are taken out when another is shown."""

    def __init__(self) -> None:
        self.tables: list[Any] = []
        self.charts = (
            Chart("Dice against volume", "Annotated mL", "Dice"),
            Chart("Predicted against annotated volume", "Annotated mL", "Predicted mL"),
            Chart("Bland-Altman", "Mean of both, mL", "Predicted minus annotated, mL"),
        )

    def show(self, results: Results) -> None:
        """Fill the scene."""
        self._remove_tables()
        for name, rows in (("patients", results.patients), ("volume strata", results.strata), ("methods", results.methods)):
            if rows:
                self.tables.append(_table_node(f"{results.folder.name}: {name}", rows))
        true = [number(row, "annotated_ml") for row in results.patients]
        found = [number(row, "predicted_ml") for row in results.patients]
        names = [row["patient"] for row in results.patients]
        dice_chart, agreement, difference = self.charts
        dice_chart.put("patients", true, [number(row, "dice") for row in results.patients], labels=names)
        agreement.put("patients", true, found, labels=names)
        most = max([v for v in (*true, *found) if not math.isnan(v)], default=1.0)
        agreement.put("equal", [0.0, most], [0.0, most], color=GREY, points=False, line=True)
        means, differences = (np.add(true, found) / 2).tolist(), np.subtract(found, true)
        difference.put("patients", means, differences.tolist(), labels=names)
        known = differences[~np.isnan(differences)]
        bias, spread = (float(known.mean()), 1.96 * float(known.std(ddof=1)) if len(known) > 1 else 0.0) if len(known) else (0.0, 0.0)
        for name, level, dashed in (("bias", bias, False), ("upper limit", bias + spread, True), ("lower limit", bias - spread, True)):
            difference.put(name, [0.0, most], [level, level], color=COLORS[1], points=False, line=True, dashed=dashed)

    def forget(self) -> None:
        """The scene closes."""
        self.tables = []
        for chart in self.charts:
            chart.forget()

    def _remove_tables(self) -> None:
        import slicer

        for node in self.tables:
            if slicer.mrmlScene.IsNodePresent(node):
                slicer.mrmlScene.RemoveNode(node)
        self.tables = []


def number(row: Row, name: str, missing: float = math.nan) -> float:
    """A cell as a number; `missing` for an empty one."""
    try:
        return float(row.get(name) or "nan") if row.get(name) else missing
    except ValueError:
        return missing


def _worst_first(rows: Sequence[Row]) -> tuple[Row, ...]:
    """By Dice; patients without haemorrhage, who have none, after the others by the false mL."""
    return tuple(sorted(rows, key=lambda row: (math.isnan(d := number(row, "dice")), d if not math.isnan(d) else -number(row, "predicted_ml", 0.0))))


def _table(path: Path) -> list[Row]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError:
        return []


def _table_node(name: str, rows: Sequence[Row]) -> Any:
    import slicer
    import vtk

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", slicer.mrmlScene.GenerateUniqueName(name))
    with slicer.util.NodeModify(node):
        for key in rows[0]:
            column = vtk.vtkStringArray()
            column.SetName(key)
            for row in rows:
                column.InsertNextValue(row.get(key) or "")
            node.AddColumn(column)
    return node
