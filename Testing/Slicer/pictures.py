"""Takes the README's pictures of a module anew, with today's models and the stand-in for Qt: python Testing/Slicer/pictures.py segment

segment: panel-empty.png, panel-running.png and panel-results.png; train: train-empty.png, train-running.png and train-results.png, for which the six
sample cases are made and trained on (some ten minutes). They go to Resources/Screenshots. Needs slicer-core and PySide6, no display.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
PICTURES = TOP / "Resources" / "Screenshots"
ADAPTER = "asah-cp-lora"
SIZES = {"panel-results": (470, 900), "train-empty": (520, 1320), "train-running": (520, 1400), "train-results": (520, 700)}
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("SAHLORA_MODELS", str(HERE / "no-models-of-a-user"))
sys.path[:0] = [str(HERE), str(TOP / "SAHLoRASegment")]


def main() -> None:
    """The module that is named on the command line."""
    shown = {"segment": segment, "train": train}
    if sys.argv[1:] not in ([name] for name in shown):
        raise SystemExit("Name the module whose pictures are to be taken: segment or train.")
    from standin import application

    application.install()
    shown[sys.argv[1]]()


def segment() -> None:
    """The panel as a user goes: empty, the sample with the adapter, Segment."""
    import slicer
    from standin import application

    module = application.load_module(TOP / "SAHLoRASegment" / "SAHLoRASegment.py")
    panel = application.make_widget(module)
    _grab(panel, "panel-empty")
    module.registerSampleData()
    import SampleData

    SampleData.downloadSample("SAHLoRA: synthetic aSAH head CT")
    panel.initializeParameterNode()
    panel.ui.adapterComboBox.setCurrentIndex(panel.ui.adapterComboBox.findData(ADAPTER))
    panel.ui.segmentButton.click()
    _wait(slicer, lambda: "slice" in panel.ui.statusLabel.text or not panel.logic.running)
    _grab(panel, "panel-running")
    _wait(slicer, lambda: not panel.logic.running)
    panel.ui.logCollapsibleButton.collapsed = False
    _grab(panel, "panel-results")
    panel.cleanup()


def train() -> None:
    """The panel as a user goes: empty, sample cases, Train, results."""
    import slicer
    from SAHLoRASlicer import train_outcome, train_widget
    from standin import application

    with tempfile.TemporaryDirectory() as folder:
        os.environ["SAHLORA_MODELS"] = str(Path(folder) / "models")
        for room in (train_widget, train_outcome):
            room.data_folder = lambda: Path(folder)  # type: ignore[attr-defined]
        widget = application.make_widget(application.load_module(TOP / "SAHLoRATrain" / "SAHLoRATrain.py"))
        widget.initializeParameterNode()
        _grab(widget, "train-empty")
        ui = widget.ui
        ui.sampleButton.click()
        _wait(slicer, lambda: not widget.panel.running, 600)
        _wait(slicer, lambda: widget.panel.cases.report.rows and not widget.panel.cases.report.unchecked)
        node = widget._parameterNode
        node.name, node.device, node.outputFolder = "sample-adapter", "cpu", str(Path(folder) / "trainings" / "sample-adapter")
        ui.trainButton.click()
        _wait(slicer, lambda: "fold 2" in ui.statusLabel.text.lower() or not widget.panel.running, 3600)
        _grab(widget, "train-running")
        _wait(slicer, lambda: not widget.panel.running, 3600)
        print(ui.statusLabel.text, ui.resultLabel.text)
        for button in (ui.casesCollapsibleButton, ui.whatCollapsibleButton):
            button.collapsed = True
        _grab(widget, "train-results")
        widget.cleanup()


def _wait(slicer: Any, condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("The work did not come to its end.")
        slicer.app.processEvents()
        time.sleep(0.005)


def _grab(panel: Any, name: str) -> None:
    import slicer

    panel.parent.show()
    for _ in range(2):  # what was folded up makes room only after its turn
        panel.parent.resize(*SIZES.get(name, (470, 760)))
        for _ in range(20):
            slicer.app.processEvents()
    panel.parent.grab().save(str(PICTURES / f"{name}.png"))


if __name__ == "__main__":
    main()
