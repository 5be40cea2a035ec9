"""The process that stays for the next press of Segment: real worker processes behind real clicks, and a made-up one where it must misbehave."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import slicer
from fake_process import FakeProcess, finished, process_runs, wait


def press(panel: Any) -> int:
    """Segment, to the end; the number of the process that did it."""
    panel.ui.segmentButton.click()
    wait(finished(panel))
    return int(panel.logic.run.job.pid)


def masks() -> int:
    return len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode"))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_two_presses_use_one_process_and_a_killed_one_is_replaced(ready: Any) -> None:
    first = press(ready)
    folder = ready.logic.run.job.folder
    ready._parameterNode.smallestMl = 1.0
    ready._parameterNode.outputSegmentation = None
    assert press(ready) == first and process_runs(first) and masks() == 2
    assert ready.logic.lastResult().report["smallest_ml"] == 1.0 and ready.logic.run.job.folder != folder
    os.kill(first, signal.SIGKILL)  # Qt is not told before the press
    third = press(ready)
    assert third != first and masks() == 3, ready.ui.logText.plainText
    ready.cleanup()
    wait(lambda: not process_runs(third))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_process_that_dies_at_work_is_told_and_the_next_press_works(ready: Any) -> None:
    ready.ui.segmentButton.click()
    wait(lambda: ready.logic.run.job.pid)
    died = ready.logic.run.job.pid
    os.kill(died, signal.SIGKILL)  # long before torch is loaded
    wait(finished(ready))
    assert "ended with code" in ready.ui.statusLabel.text and ready.ui.segmentButton.enabled and masks() == 0
    assert press(ready) != died and masks() == 1


def test_a_scan_that_cannot_be_segmented_leaves_the_process_to_the_next(ready: Any, sample: Any, tmp_path: Path) -> None:
    from SAHLoRASlicer.runs import SegmentSettings

    settings, told = ready.settings(), []
    ready.logic.segment([sample], SegmentSettings(model=str(tmp_path / "gone.safetensors")), onFinished=told.append)
    wait(finished(ready))
    pid = ready.logic.run.job.pid
    assert told[0].state == "failed" and "There is no weight file" in told[0].message
    ready.logic.segment([sample], settings, onFinished=told.append)
    wait(finished(ready))
    assert told[1].state == "done" and ready.logic.run.job.pid == pid


def test_nothing_is_started_before_the_first_press_and_a_batch_has_its_own(ready: Any, sample: Any) -> None:
    from SAHLoRASlicer import warm

    assert warm._shared is None or not warm._shared._alive
    ready.logic.segment([sample, sample], ready.settings())
    wait(finished(ready))
    assert len(ready.logic.run.results) == 2 and (warm._shared is None or not warm._shared._alive)


class Stage:
    """A warm worker whose processes are made up, and jobs for it."""

    def __init__(self) -> None:
        from SAHLoRASlicer.warm import WarmWorker

        self.processes: list[Any] = []
        self.later: list[Any] = []
        self.outcomes: list[Any] = []
        self.worker = WarmWorker(self._make, lambda ms, call: self.later.append(call))

    def _make(self) -> Any:
        process = FakeProcess()
        process.written = []  # type: ignore[attr-defined]
        process.write = process.written.append  # type: ignore[attr-defined]
        process.errorString = lambda: "no such file"  # type: ignore[attr-defined]
        self.processes.append(process)
        return process

    def start(self) -> Any:
        from SAHLoRASlicer.job import BackgroundJob

        job = BackgroundJob(lambda event: None, self.outcomes.append, self.worker.lease, lambda ms, call: None, program="python")
        job.start({"command": "segment"})
        return job

    def answer(self, *lines: Any, code: int = 0) -> None:
        self.processes[-1].say({"event": "started", "pid": 2**30}, *lines, {"event": "answered", "code": code})


RESULT = {"event": "result", "scans": []}


def test_next_job_is_a_line_to_the_same_process(scene: Any) -> None:
    stage = Stage()
    first = stage.start()
    assert stage.processes[0].arguments[-3:] == ["--stay", "--job", str(first.folder / "job.json")]
    stage.answer(RESULT)
    second = stage.start()
    assert [json.loads(line) for line in stage.processes[0].written] == [{"job": str(second.folder / "job.json")}]
    stage.answer({"event": "error", "message": "The disk is full."}, code=2)
    assert [(outcome.state, outcome.message) for outcome in stage.outcomes] == [("done", ""), ("failed", "The disk is full.")]
    assert len(stage.processes) == 1 and not first.folder.exists() and not second.folder.exists() and stage.worker.free


@pytest.mark.parametrize("how", ["gone before", "gone while it was asked", "deaf"])
def test_job_goes_to_a_new_process_where_the_old_one_hears_nothing(scene: Any, how: str) -> None:
    stage = Stage()
    stage.start()
    stage.answer(RESULT)
    old = stage.processes[0]
    if how == "gone before":
        old.end(0)
    job = stage.start()
    if how == "deaf":
        stage.later[-1]()
        assert old.asked[-1] == "kill"
    if how != "gone before":
        old.end(-9)
    assert len(stage.processes) == 2 and stage.processes[1].arguments[-1] == str(job.folder / "job.json")
    stage.answer(RESULT)
    assert [outcome.state for outcome in stage.outcomes] == ["done", "done"]


def test_cancelled_job_that_was_not_heard_starts_no_other_process(scene: Any) -> None:
    stage = Stage()
    stage.start()
    stage.answer(RESULT)
    job = stage.start()
    job.cancel()
    job._terminate()
    stage.processes[0].end(-15)
    assert stage.outcomes[-1].state == "cancelled" and len(stage.processes) == 1 and not job.folder.exists()


def test_what_is_asked_of_a_job_that_is_over_does_not_reach_the_process(scene: Any) -> None:
    stage = Stage()
    job = stage.start()
    stage.answer(RESULT)
    other = stage.start()
    job._process.kill()
    job.abandon()
    assert "kill" not in stage.processes[0].asked and other.running
    other.abandon()
    assert "kill" in stage.processes[0].asked and len(stage.outcomes) == 1


def test_event_that_cannot_be_shown_does_not_hold_the_answer_back(scene: Any) -> None:
    stage = Stage()
    job = stage.start()
    job._on_event = lambda event: 1 / 0
    stage.answer({"event": "log", "message": "odd"}, RESULT)
    assert [outcome.state for outcome in stage.outcomes] == ["done"] and not job.running


def test_second_run_at_the_same_time_has_a_process_of_its_own(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from SAHLoRASlicer import warm

    stage = Stage()
    monkeypatch.setattr(warm, "_shared", stage.worker)
    stage.start()
    beside = warm.warm_job(print, print)
    stage.answer(RESULT)
    after = warm.warm_job(print, print)
    assert beside._make_process is None and after._make_process == stage.worker.lease
    for job in (beside, after):
        job.abandon()
