"""Takes the README's pictures of SAHLoRASegment anew, with today's models and the stand-in for Qt: python Testing/Slicer/pictures.py

panel-empty.png, panel-running.png and panel-results.png go to Resources/Screenshots. Needs slicer-core and PySide6, no display.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
PICTURES = TOP / "Resources" / "Screenshots"
ADAPTER = "asah-cp-lora"
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("SAHLORA_MODELS", str(HERE / "no-models-of-a-user"))
sys.path[:0] = [str(HERE), str(TOP / "SAHLoRASegment")]


def main() -> None:
    """The panel as a user goes: empty, the sample with the adapter, Segment."""
    from standin import application

    application.install()
    import slicer

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


def _wait(slicer: Any, condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("The segmentation did not come to its end.")
        slicer.app.processEvents()
        time.sleep(0.005)


def _grab(panel: Any, name: str) -> None:
    import slicer

    panel.parent.show()
    panel.parent.resize(470, 760 if name != "panel-results" else 900)
    for _ in range(20):
        slicer.app.processEvents()
    panel.parent.grab().save(str(PICTURES / f"{name}.png"))


if __name__ == "__main__":
    main()
