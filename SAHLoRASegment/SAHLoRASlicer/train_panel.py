"""The choices of what is trained: boxes filled from the core's lists, kept in the parameter node, handed on as a TrainingPlan."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from SAHLoRALib.architecture import MODULES, NetworkConfig
from SAHLoRALib.errors import SAHLoRAError
from SAHLoRALib.methods import ADAPTERS, CHOICES, FINE_TUNE, NORMS, SCRATCH, default_rate, method_sentence, trainable_numbers
from SAHLoRALib.model_folders import is_bundled, read_header, user_folder

from .models import ModelCard
from .panel import ModelPicker, on_paths
from .train_plan import TrainingPlan

ONE, STUDY = "one", "study"
PRESETS = ((ONE, "One model"), (STUDY, "Compare the six methods"))
DEVICES = (("auto", "Automatic"), ("cuda", "GPU (CUDA)"), ("mps", "GPU (Apple)"), ("cpu", "CPU"))
NORM_WORDS = {"frozen": "Frozen: as in the base", "affine": "Affine: weights and biases learn", "adapt": "Adapt: statistics of your scans"}
#: Modules of which a set is chosen by check marks.
NAMED = "fine-tune:named"
#: Parameters that no connector of Slicer keeps: the box, and what it offers.
_BOXES = {"preset": "presetComboBox", "method": "methodComboBox", "norm": "normComboBox", "device": "deviceComboBox"}


class PlanPanel:
    """`changed` is called after each choice of the user. ui: the widgets of the panel by name."""

    def __init__(self, ui: Any, changed: Callable[[], None]) -> None:
        self.ui, self._changed = ui, changed
        self._node: Any = None
        self._showing = False
        offered = {
            "preset": PRESETS,
            "method": [
                *((method, method_title(method)) for method in CHOICES if method != SCRATCH),
                (NAMED, "Fine-tuning of the modules chosen below"),
            ],
            "norm": [(norm, NORM_WORDS[norm]) for norm in NORMS],
            "device": DEVICES,
        }
        for parameter, box in _BOXES.items():
            for value, words in offered[parameter]:
                getattr(ui, box).addItem(words, value)
            getattr(ui, box).connect("currentIndexChanged(int)", self._on_box)
        self.picker = ModelPicker(ui.baseComboBox, ui.startComboBox, ui.baseLabel, self._on_model)
        for check in self._module_boxes().values():
            check.connect("toggled(bool)", self._on_modules)
        on_paths(ui.outputEdit, self._on_output)

    def attach(self, node: Any) -> None:
        """Follow another parameter node; None for none."""
        self._node = node
        if node is not None:
            self.picker.refresh(node.base, node.earlier)
            self.show()

    def show(self) -> None:
        """Widgets from the parameter node."""
        node, ui = self._node, self.ui
        if node is None or self._showing:
            return
        self._showing = True
        try:
            for parameter, name in _BOXES.items():
                box = getattr(ui, name)
                box.setCurrentIndex(max(0, box.findData(getattr(node, parameter))))
            if node.base and (node.base, node.earlier) != (self.picker.model_name, self.picker.adapter_name):
                self.picker.choose(node.base, node.earlier)
            chosen = node.modules.split(",")
            for module, check in self._module_boxes().items():
                check.checked = module in chosen
            if ui.outputEdit.currentPath != node.outputFolder:
                ui.outputEdit.currentPath = node.outputFolder
            self._describe()
        finally:
            self._showing = False

    def _describe(self) -> None:
        """The sentence on the method, the live number of what learns, and what has no meaning for this method greyed out."""
        node, ui = self._node, self.ui
        study, method = node.preset == STUDY, self.method
        adapter = method in ADAPTERS
        free = self.start is None  # else the adapter that is gone on from decides
        ui.methodComboBox.enabled = free and not study
        ui.startComboBox.enabled = not study
        ui.outputEdit.toolTip = f"Folds, checkpoints, predictions, tables and report. Left empty: {self.output}"
        ui.nameEdit.enabled = not study
        ui.rankSpinBox.enabled = ui.normComboBox.enabled = ui.strengthSpinBox.enabled = free and (adapter or study)
        for check in self._module_boxes().values():
            check.enabled = free and (adapter or study or node.method == NAMED)
        ui.methodLabel.text = (
            "The base as it is, standard fine-tuning and the six adapters, on the same folds, with the paper's claims tested."
            if study
            else f"Goes on from {self.start.name}, as the same kind of adapter{'' if is_bundled(self.start.path) else ' and with the same folds'}."
            if self.start
            else method_sentence(method)
        )
        ui.sizeLabel.text = "" if study else self.size_in_words()

    def size_in_words(self) -> str:
        """How many numbers learn, and the share of the network."""
        if self.picker.model is None:
            return ""
        with contextlib.suppress(SAHLoRAError, KeyError, TypeError):
            network = NetworkConfig(**read_header(self.picker.model.path)["network"])
            learning, whole = trainable_numbers(self.method, network, self._node.rank, self.modules, self._node.norm)
            return f"{learning:,} numbers learn, {learning / whole:.1%} of the network"
        return "No module is chosen"

    @property
    def start(self) -> ModelCard | None:
        """The adapter that training goes on from; None where it starts from the base."""
        return None if self._node is None or self._node.preset == STUDY else self.picker.adapter

    @property
    def method(self) -> str:
        """As the core names it; for named modules fine-tune:encoder+decoder."""
        return self._node.method if self._node.method != NAMED else FINE_TUNE + ("+".join(self.modules) or "all")

    @property
    def modules(self) -> tuple[str, ...]:
        return tuple(module for module in MODULES if module in self._node.modules.split(","))

    def plan(self, cases: str, former_run: str = "") -> TrainingPlan:
        """What Train would start. cases: folder or table, empty for none. former_run: of the adapter to go on from."""
        node = self._node
        return TrainingPlan(
            cases=cases,
            base=str(self.picker.model.path) if self.picker.model else "",
            method=self.method,
            rank=node.rank,
            modules=self.modules,
            norm=node.norm,
            strength=round(node.strength, 2),
            epochs=node.epochs,
            minutes=node.minutes,
            learning_rate=round(node.learningRate, 7),
            folds=node.folds,
            device=node.device,
            name=node.name.strip(),
            output=self.output,
            study=node.preset == STUDY,
            continue_from=str(self.start.path) if self.start else "",
            former_run=former_run if self.start else "",
        )

    @property
    def output(self) -> str:
        """The chosen output folder, written as the disk's list of trainings writes it, else one of the name's own beside the user's models."""
        if chosen := self._node.outputFolder:
            return str(Path(chosen))
        return str(data_folder() / "trainings" / ("study" if self._node.preset == STUDY else self._node.name.strip() or "unnamed"))

    # --- the user chooses

    def _module_boxes(self) -> dict[str, Any]:
        return {module: getattr(self.ui, f"{module}CheckBox") for module in MODULES}

    def _on_box(self, index: int) -> None:
        if self._showing or self._node is None:
            return
        before = self.method
        for parameter, name in _BOXES.items():
            value = getattr(self.ui, name).currentData
            if value is not None and getattr(self._node, parameter) != value:
                setattr(self._node, parameter, value)
        if self.method != before and abs(self._node.learningRate - default_rate(before)) < 1e-9:
            self._node.learningRate = default_rate(self.method)  # a rate that the user chose stays
        self._tell()

    def _on_model(self) -> None:
        if not self._showing and self._node is not None:
            self._node.base, self._node.earlier = self.picker.model_name, self.picker.adapter_name
            self._take_adapter()
            self._tell()

    def _take_adapter(self) -> None:
        """The choices become those of the adapter that training goes on from; the new one gets a name of its own."""
        node, start = self._node, self.start
        if start is None or start.adapter is None:
            return
        node.method, node.rank, node.norm = str(start.adapter["method"]), int(start.adapter["rank"]), str(start.adapter["norm"])
        node.modules, node.strength = ",".join(start.adapter["modules"]), float(start.adapter.get("strength", 1.0))
        node.learningRate = default_rate(node.method)
        if node.name.strip() == start.name:
            stem, _, number = start.name.rpartition("-")
            stem, number = (stem, int(number)) if stem and number.isdigit() else (start.name, 1)
            taken = {path.stem for path in start.path.parent.iterdir()}
            node.name = next(name for n in itertools.count(number + 1) if (name := f"{stem}-{n}") not in taken)

    def _on_modules(self, on: bool) -> None:
        if not self._showing and self._node is not None:
            self._node.modules = ",".join(module for module, check in self._module_boxes().items() if check.checked)
            self._tell()

    def _on_output(self, path: str) -> None:
        if not self._showing and self._node is not None and self._node.outputFolder != path:
            self._node.outputFolder = path
            self._tell()

    def _tell(self) -> None:
        self.show()
        self._changed()


def method_title(method: str) -> str:
    """The line of a method in a list."""
    if method in ADAPTERS:
        return f"{ADAPTERS[method].title} adapter"
    return f"Fine-tuning: {method.removeprefix(FINE_TUNE)}"


def data_folder() -> Path:
    """Beside the user's model folder: where cases and trainings lie unless the user says otherwise."""
    return user_folder().parent
