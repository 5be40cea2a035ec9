"""Parts of a panel that both modules have: the choice of a model, the log, the progress line, the table of a batch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from SAHLoRALib.segmenter import DEFAULT_ADAPTER, DEFAULT_MODEL, NONE

from .models import ModelCard, import_model, list_models, user_folder
from .segmentations import HAEMORRHAGE, SUBARACHNOID


class ModelPicker:
    """Two combo boxes for model and adapter, and a label that says what the choice is. `changed` is called after each choice of the user.

    with_default: where nothing has been chosen, the default model and its default adapter are, as on the command line.
    """

    def __init__(self, model_box: Any, adapter_box: Any, label: Any, changed: Callable[[], None], with_default: bool = False) -> None:
        self._model_box, self._adapter_box, self._label, self._changed = model_box, adapter_box, label, changed
        self._with_default = with_default
        self._cards: list[ModelCard] = []
        self._filling = False
        model_box.connect("currentIndexChanged(int)", self._on_model)
        adapter_box.connect("currentIndexChanged(int)", self._on_adapter)

    def refresh(self, model: str = "", adapter: str = "") -> None:
        """Look through the folders again; keep the choice, or take what is named."""
        model, adapter = model or self.model_name, adapter or self.adapter_name
        self._cards, problems = list_models()
        for problem in problems:
            logging.warning("SAHLoRA: %s", problem)
        self._filling = True
        self._model_box.clear()
        for card in self._cards:
            if card.kind != "adapter":
                self._model_box.addItem(card.name, card.name)
        if not model and self._with_default:
            model, adapter = DEFAULT_MODEL, adapter or DEFAULT_ADAPTER
        if model:
            self._model_box.setCurrentIndex(max(0, self._model_box.findData(model)))
        self._fill_adapters(adapter)
        self._filling = False
        self._tell()

    @property
    def model(self) -> ModelCard | None:
        return self._card(self.model_name)

    @property
    def adapter(self) -> ModelCard | None:
        return self._card(self.adapter_name)

    @property
    def model_name(self) -> str:
        return str(self._model_box.currentData or "")

    @property
    def adapter_name(self) -> str:
        return str(self._adapter_box.currentData or "")

    @property
    def threshold(self) -> float:
        chosen = self.adapter or self.model
        return chosen.threshold if chosen else 0.5

    @property
    def terminology(self) -> str:
        """What the chosen model's header says that it was trained on (training → lesion); without a word there, haemorrhage of any kind."""
        chosen = self.adapter or self.model
        return SUBARACHNOID if chosen and chosen.training.get("lesion") == "subarachnoid" else HAEMORRHAGE

    def choose(self, model: str, adapter: str) -> None:
        """Set the boxes without telling anybody; what is not there is left."""
        self._filling = True
        at = self._model_box.findData(model)
        if at >= 0:
            self._model_box.setCurrentIndex(at)
        self._fill_adapters(adapter)
        self._filling = False
        self._tell()

    def take_file(self, path: Path) -> ModelCard:
        """Import a weight file and choose it. Raises ValueError in words, of an adapter also where its base is not there."""
        card = import_model(path)
        if card.kind == "adapter":
            base = next((c.name for c in list_models()[0] if c.digest == card.base_digest), "")
            if not base:
                raise ValueError(f"{card.name} is imported, but it is an adapter of {card.base_name or 'a base'} that is not here; import that too.")
            self.refresh(base, card.name)
        else:
            self.refresh(card.name)
        self._changed()
        return card

    def _card(self, name: str) -> ModelCard | None:
        return next((card for card in self._cards if card.name == name), None)

    def _fill_adapters(self, wanted: str) -> None:
        base = self.model
        self._adapter_box.clear()
        self._adapter_box.addItem("None (the model as it is)", NONE)
        for card in self._cards:
            if card.kind == "adapter" and base is not None and card.base_digest == base.digest:
                self._adapter_box.addItem(card.name, card.name)
        self._adapter_box.setCurrentIndex(max(0, self._adapter_box.findData(wanted)))

    def _on_model(self, index: int) -> None:
        if not self._filling:
            self._filling = True
            self._fill_adapters(self.adapter_name)
            self._filling = False
            self._tell()
            self._changed()

    def _on_adapter(self, index: int) -> None:
        if not self._filling:
            self._tell()
            self._changed()

    def _tell(self) -> None:
        if self.model is None:
            self._label.setText(f"No model is there. Import a weight file, or put one into {user_folder()}.")
            return
        self._label.setText("\n".join(card.in_words() for card in (self.model, self.adapter) if card))


class ProgressLine:
    """A progress bar and a line of text that follow events."""

    def __init__(self, bar: Any, label: Any) -> None:
        self._bar, self._label = bar, label
        self.idle()

    def idle(self, text: str = "") -> None:
        self._bar.setRange(0, 100)
        self._bar.setValue(0)
        self._bar.setVisible(False)
        self._label.setText(text)

    def wait(self, text: str) -> None:
        """Something goes on, and nobody knows how long."""
        self._bar.setRange(0, 0)
        self._bar.setVisible(True)
        self._label.setText(text)

    def follow(self, event: dict[str, Any]) -> None:
        """A progress event: stage, share, estimate, detail."""
        self._bar.setVisible(True)
        self._bar.setRange(0, 100)
        self._bar.setValue(round(100 * float(event.get("fraction", 0.0))))
        left = event.get("seconds_left")
        estimate = f", about {duration(left)} left" if left and left >= 1 else ""
        detail = str(event.get("detail", "")).removeprefix("scan_001: ")
        self._label.setText(f"{event.get('stage', '')}{estimate}{f' ({detail})' if detail and detail != 'scan_001' else ''}")


class BatchTable:
    """A QTableWidget with a row for each scan: name (with a check mark for volumes of the scene), state, mL."""

    COLUMNS = ("Scan", "State", "mL")

    def __init__(self, table: Any) -> None:
        import qt

        self._qt = qt
        self._table = table
        self._nodes: list[Any] = []
        table.setColumnCount(len(self.COLUMNS))
        table.setHorizontalHeaderLabels(list(self.COLUMNS))
        table.horizontalHeader().setStretchLastSection(True)

    def show_volumes(self, nodes: list[Any]) -> None:
        """Rows for loaded volumes; what was checked stays checked, and what was said stays said."""
        shown = self.rows()
        if nodes == self._nodes and [node.GetName() for node in nodes] == [row[0] for row in shown]:
            return
        checked, said = self.checked(), {node: row[1:] for node, row in zip(self._nodes, shown, strict=False)}
        self.clear()
        for node in nodes:
            self._nodes.append(node)
            item = self._add(node.GetName(), *said.get(node, ("", "")))
            item.setCheckState(self._qt.Qt.Checked if node in checked else self._qt.Qt.Unchecked)

    def checked(self) -> list[Any]:
        """The nodes with a check mark."""
        return [node for row, node in enumerate(self._nodes) if self._table.item(row, 0).checkState() == self._qt.Qt.Checked]

    @property
    def nodes(self) -> tuple[Any, ...]:
        """The volumes that have a row."""
        return tuple(self._nodes)

    def row_of(self, node: Any) -> int:
        return self._nodes.index(node)

    def clear(self) -> None:
        self._nodes = []
        self._table.setRowCount(0)

    def row_named(self, name: str) -> int:
        """The row of this name, added where there is none."""
        for row in range(self._table.rowCount):
            if self._table.item(row, 0).text() == name:
                return row
        self._add(name)
        return self._table.rowCount - 1

    def say(self, row: int, state: str, ml: float | None = None) -> None:
        if row < self._table.rowCount:
            self._table.item(row, 1).setText(state)
            self._table.item(row, 1).setToolTip(state)
            self._table.item(row, 2).setText("" if ml is None else f"{ml:.2f}")

    def rows(self) -> list[tuple[str, str, str]]:
        """What stands in the table."""
        return [tuple(self._table.item(row, column).text() for column in range(3)) for row in range(self._table.rowCount)]  # type: ignore[misc]

    def _add(self, name: str, state: str = "", ml: str = "") -> Any:
        row = self._table.rowCount
        self._table.setRowCount(row + 1)
        for column, text in enumerate((name, state, ml)):
            self._table.setItem(row, column, self._qt.QTableWidgetItem(text))
        return self._table.item(row, 0)


def duration(seconds: float) -> str:
    """8 s, 3 min, 2 h 5 min."""
    s = round(seconds)
    return f"{s} s" if s < 60 else f"{s // 60} min" if s < 3600 else f"{s // 3600} h {s % 3600 // 60} min"


def on_paths(edit: Any, slot: Callable[[str], Any]) -> None:
    """Call slot with the path of a ctkPathLineEdit after each change. One that becomes empty is told by another signal than all others."""
    edit.connect("currentPathChanged(QString)", slot)
    edit.connect("validInputChanged(bool)", lambda valid: slot(edit.currentPath))
