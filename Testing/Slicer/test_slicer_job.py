"""The background job alone: a made-up process that misbehaves, and real ones that are ended."""

from __future__ import annotations

import json
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
from fake_process import FakeProcess, fake_job, process_runs, wait


@pytest.mark.parametrize(
    "lines, code, state, word",
    [
        ([{"event": "result", "ok": True}], 0, "done", ""),
        ([{"event": "result", "ok": True}], 1, "done", ""),
        ([], 0, "failed", "no result"),
        ([{"event": "result"}], 3, "failed", "code 3"),
        ([{"event": "error", "message": "The disk is full."}], 2, "failed", "The disk is full."),
        ([b"Segmentation fault \xff\xfe"], -11, "failed", "Segmentation fault"),
    ],
)
def test_job_succeeds_with_a_good_code_and_a_result_only(scene: Any, lines: list[Any], code: int, state: str, word: str) -> None:
    process, outcomes = FakeProcess(), []
    job = fake_job(process, outcomes=outcomes)
    job.start({"command": "segment"})
    process.say(*lines)
    process.end(code)
    assert [outcome.state for outcome in outcomes] == [state] and word in outcomes[0].message
    assert not job.running and not job.folder.exists()


class Run:
    """What a job's callbacks belong to: in Slicer it holds volumes."""

    def hear(self, told: Any) -> None:
        self.heard = told


@pytest.mark.parametrize("ended", [True, False])
def test_a_job_that_is_over_does_not_hold_the_run(scene: Any, ended: bool) -> None:
    from SAHLoRASlicer.job import BackgroundJob

    process, run = FakeProcess(), Run()
    job = BackgroundJob(run.hear, run.hear, lambda: process, lambda ms, call: None)
    job.start({"command": "segment"})
    gone = weakref.ref(run)
    if ended:
        process.say({"event": "result"})
        process.end(0)
        assert run.heard.state == "done"
    else:
        job.abandon()
    del run
    assert gone() is None and job is not None


def test_a_timer_that_is_never_deleted_frees_what_it_called(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import qt
    from SAHLoRASlicer.job import single_shot

    kept: list[Any] = []  # as Slicer keeps them
    monkeypatch.setattr(qt.QTimer, "singleShot", lambda ms, call: kept.append(call))
    run = Run()
    gone = weakref.ref(run)
    single_shot(0, lambda run=run: run.hear(1))
    kept[0]()
    assert run.heard == 1
    del run
    assert gone() is None


def test_half_a_line_waits_for_its_other_half(scene: Any) -> None:
    process, events = FakeProcess(), []
    job = fake_job(process, events=events)
    job.start({"command": "segment"})
    text = json.dumps({"event": "log", "message": "Größe"}, ensure_ascii=False).encode() + b"\n"
    for n in range(len(text)):
        process.output += text[n : n + 1]
        process.slots["readyReadStandardOutput"]()
    assert [event["message"] for event in events] == ["Größe"]
    job.abandon()


def test_cancel_asks_politely_then_firmly_then_kills(scene: Any) -> None:
    process, later, outcomes = FakeProcess(), [], []
    job = fake_job(process, later, outcomes)
    job.start({"command": "segment"})
    job.cancel()
    assert (job.folder / "cancel").exists() and process.asked == ["start"]
    assert [ms for ms, _ in later] == sorted(ms for ms, _ in later) and later[-1][0] < 2000
    for _, ask in later:
        ask()
    assert process.asked == ["start", "terminate", "kill"]
    process.say({"event": "result"})
    process.end(130)
    assert [outcome.state for outcome in outcomes] == ["cancelled"] and not job.folder.exists()
    for _, ask in later:
        ask()  # late timers of a job that is over harm nobody
    assert len(outcomes) == 1


def test_abandoned_job_tells_nobody(scene: Any) -> None:
    process, outcomes, events = FakeProcess(), [], []
    job = fake_job(process, outcomes=outcomes, events=events)
    job.start({"command": "segment"})
    job.abandon()
    process.say({"event": "log", "message": "late"})
    process.end(0)
    assert outcomes == [] and events == [] and "kill" in process.asked and not job.folder.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the launcher is a shell script")
def test_child_of_a_launcher_ends_too(module: Any, scene: Any, tmp_path: Path) -> None:
    """PythonSlicer is a launcher whose child outlives it when only the launcher is killed."""
    from SAHLoRASlicer.job import BackgroundJob

    launcher = tmp_path / "PythonSlicer"
    launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n')
    launcher.chmod(0o755)
    outcomes: list[Any] = []
    job = BackgroundJob(lambda event: None, outcomes.append, program=str(launcher))
    job.start({"command": "segment", "inputs": ["missing.nrrd"], "output": str(tmp_path / "out")})
    wait(lambda: job.pid)
    assert job.pid != job._process.processId()
    job.cancel()
    wait(lambda: outcomes)
    assert outcomes[0].state == "cancelled"
    wait(lambda: not process_runs(job.pid))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_worker_that_hears_nothing_is_killed(module: Any, scene: Any, tmp_path: Path) -> None:
    """It looks at no cancel file and ignores SIGTERM, as code that hangs does. That the kill comes within two seconds is held by the timers above."""
    from SAHLoRASlicer.job import BackgroundJob

    deaf = tmp_path / "PythonSlicer"
    hangs = "import json, os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.setpgid(0, 0)"
    says = "print(json.dumps({'event': 'started', 'pid': os.getpid()}), flush=True); time.sleep(100000)"
    deaf.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{hangs}; {says}"\n')
    deaf.chmod(0o755)
    outcomes: list[Any] = []
    job = BackgroundJob(lambda event: None, outcomes.append, program=str(deaf))
    job.start({"command": "segment"})
    wait(lambda: job.pid)
    job.cancel()
    wait(lambda: outcomes)
    assert outcomes[0].state == "cancelled" and not job.folder.exists()
    wait(lambda: not process_runs(job.pid))


def test_program_that_is_not_there_is_said(module: Any, scene: Any) -> None:
    from SAHLoRASlicer.job import BackgroundJob

    outcomes: list[Any] = []
    job = BackgroundJob(lambda event: None, outcomes.append, program="/no/such/python")
    job.start({"command": "segment"})
    wait(lambda: outcomes)
    assert outcomes[0].state == "failed" and "could not be started" in outcomes[0].message
    assert not job.folder.exists()
