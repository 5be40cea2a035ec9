"""Runs that are cancelled, and scenes, volumes and panels that go away during one: real worker processes, ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slicer
import slicer.util
from fake_process import finished, process_runs, wait


def _start(panel: Any) -> tuple[int, Path]:
    panel.ui.segmentButton.click()
    job = panel.logic.run.job
    wait(lambda: job.pid)
    return job.pid, job.folder


@pytest.fixture
def slow_model(model_folder: Path) -> Iterator[str]:
    """The name of a model that needs seconds for a scan on any machine of these years: it is cancelled long before."""
    import torch
    from SAHLoRALib.network import MultiViewUnet, NetworkConfig
    from SAHLoRALib.slices import PixelGrid
    from SAHLoRALib.weights import save_base

    torch.manual_seed(0)
    path = model_folder / "slow.safetensors"
    save_base(MultiViewUnet(NetworkConfig(levels=4, width=32)), path, grid=PixelGrid(pixel_mm=1.0))
    yield "slow"
    path.unlink()


def _at_the_network(event: dict[str, Any]) -> bool:
    return event["event"] == "progress" and str(event.get("detail", "")).rpartition(": ")[2].startswith("slice ")


@pytest.mark.parametrize("stage", ["the process has begun", "the network has begun"])
def test_cancel_ends_the_process_and_leaves_nothing(ready: Any, slow_model: str, stage: str) -> None:
    ready.initializeParameterNode()
    ready.picker.choose(slow_model, "none")
    ready.onModelChosen()
    ready.ui.flipsCheckBox.checked = True
    events: list[dict[str, Any]] = []
    follow = ready.onEvent
    ready.onEvent = lambda event: (follow(event), events.append(event))
    pid, folder = _start(ready)
    if stage == "the network has begun":
        wait(lambda: any(_at_the_network(event) for event in events) or not ready.logic.running)
    assert ready.logic.running, ready.ui.logText.plainText
    ready.ui.segmentButton.click()
    assert not ready.ui.segmentButton.enabled
    wait(finished(ready))
    wait(lambda: not process_runs(pid))
    assert not folder.exists() and slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []
    assert ready.ui.segmentButton.enabled and "Cancelled" in ready.ui.statusLabel.text


def test_closing_the_scene_during_a_run_ends_it_quietly(ready: Any) -> None:
    pid, folder = _start(ready)
    slicer.mrmlScene.Clear(0)
    wait(finished(ready))
    wait(lambda: not process_runs(pid))
    assert not folder.exists() and slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []


def test_volume_removed_during_a_run_drops_its_result_and_says_so(ready: Any, sample: Any) -> None:
    _start(ready)
    slicer.mrmlScene.RemoveNode(sample)
    wait(finished(ready))
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == [] and "removed" in ready.ui.logText.plainText


def test_run_goes_on_while_another_module_is_shown(ready: Any) -> None:
    _start(ready)
    ready.exit()
    wait(finished(ready))
    ready.enter()
    assert ready.logic.lastResult() is not None


def test_closing_the_panel_during_a_run_ends_the_process(ready: Any) -> None:
    pid, folder = _start(ready)
    ready.cleanup()  # what Slicer calls when it quits, and when the module is reloaded
    wait(lambda: not process_runs(pid))
    assert not folder.exists()
    slicer.app.processEvents()
