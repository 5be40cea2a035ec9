"""Runs and scans on a cluster of dask workers; one that dies takes nothing with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from SAHLoRALib.cli import main
from SAHLoRALib.distribute import hand_out, on_cluster
from SAHLoRALib.errors import Cancelled, OutputError, SAHLoRAError
from SAHLoRALib.events import Events
from SAHLoRALib.study import run_study
from SAHLoRALib.study_config import StudyConfig
from tiny_cohort import CancelAfter, quick, save_cohort, save_tiny_base

distributed = pytest.importorskip("distributed")
Capture = pytest.CaptureFixture[str]


@contextlib.contextmanager
def cluster(processes: bool = False, workers: int = 2) -> Iterator[Any]:
    """A scheduler with workers, in this process's threads or in processes of their own."""
    import logging

    started = distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=processes, dashboard_address=":0", silence_logs=logging.CRITICAL, memory_limit=0,
        host="127.0.0.1", protocol="tcp",
    )  # fmt: skip
    try:
        yield started
    finally:
        started.close(timeout=10)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with cluster() as started:
        yield started.scheduler_address


def small(tmp_path: Path, **changes: Any) -> StudyConfig:
    cases, base = save_cohort(tmp_path / "cases", (3, 4, 5, 6)), save_tiny_base(tmp_path)
    config = StudyConfig(cases, tmp_path / "study", str(base.path), ("zero-shot", "cp-lora"), (2,), 2, resamples=50, training=quick())
    return replace(config, **changes)


def test_study_on_a_cluster_gives_the_tables_of_one_process(tmp_path: Path, address: str) -> None:
    config = small(tmp_path)
    alone = run_study(replace(config, output=tmp_path / "alone"), Events())
    together = run_study(config, events := CancelAfter(), on_cluster(address))
    assert alone.tables is not None and together.tables is not None and not together.failed
    pd.testing.assert_frame_equal(alone.tables.patients, together.tables.patients)
    assert {(e["fold"], e["step"]) for e in events.of("metric") if e["name"] == "loss"} == {(f, s) for f in (0, 1) for s in (1, 2)}
    assert any("2 dask workers" in e["message"] for e in events.of("log"))
    assert events.of("progress")[-1]["fraction"] == 1.0
    again = run_study(config, Events(), on_cluster(address))
    assert again.skipped == 5


def test_scans_on_a_cluster_give_the_files_of_one_process(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    config = small(tmp_path)
    monkeypatch.chdir(tmp_path)  # relative paths mean the same on the workers
    (tmp_path / "bad.nrrd").write_bytes(b"NRRD")
    scans = [f"cases/a0{n}/ct.nrrd" for n in range(4)] + ["bad.nrrd"]
    words = ["segment", *scans, "--model", config.base, "--device", "cpu"]
    assert main([*words, "--output", "one"]) == 1
    capsys.readouterr()
    assert main([*words, "--output", "many", "--dask", address, "--events", "json"]) == 1
    [result] = [e for line in capsys.readouterr().out.splitlines() if (e := json.loads(line))["event"] == "result"]
    assert [scan["ok"] for scan in result["scans"]] == [True] * 4 + [False]
    summaries = [pd.read_csv(tmp_path / folder / "summary.csv").drop(columns=["seconds", "input", "error"]) for folder in ("one", "many")]
    pd.testing.assert_frame_equal(*summaries)
    for name in summaries[0]["folder"].dropna():
        masks = [(tmp_path / folder / name / "mask.nrrd").read_bytes() for folder in ("one", "many")]
        assert masks[0] == masks[1]


def test_cancel_reaches_the_workers_and_the_study_goes_on_afterwards(tmp_path: Path, address: str) -> None:
    config = small(tmp_path, training=quick(steps=3000, steps_per_epoch=3000))
    with pytest.raises(Cancelled):
        run_study(config, CancelAfter(1), on_cluster(address))
    assert list((config.output / "runs").glob("*/checkpoint.safetensors")) and not list((config.output / "runs").glob(".cancel*"))


def test_a_failing_run_is_a_sentence_and_what_concerns_all_is_raised(tmp_path: Path, address: str) -> None:
    def work(what: str, told: object) -> str:
        if what == "bad":
            raise SAHLoRAError("The loss is not a number.")
        if what == "bug":
            raise ZeroDivisionError("division by zero")
        if what == "full":
            raise OutputError("Cannot write: disk full.")
        return what

    jobs = {name: (name,) for name in ("good", "bad", "bug")}
    found = dict(hand_out(address, work, jobs, {n: n for n in jobs}, Events(), "stage", tmp_path))
    assert found == {"good": "good", "bad": "The loss is not a number.", "bug": "A worker failed: ZeroDivisionError: division by zero"}
    with pytest.raises(OutputError, match="disk full"):
        list(hand_out(address, work, {"full": ("full",)}, {"full": "full"}, Events(), "stage", tmp_path))


def test_scheduler_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("SAHLoRALib.distribute.CONNECT_SECONDS", 0.3)
    for address in ("tcp://127.0.0.1:9", "nonsense://x", "127.0.0.1"):
        with pytest.raises(SAHLoRAError, match="No dask scheduler answers"):
            list(hand_out(address, print, {}, {}, Events(), "stage", tmp_path))


def worker_pid(started: Any, address: str) -> int:
    return int(next(nanny for nanny in started.workers.values() if nanny.worker_address == address).pid)


def test_work_of_a_killed_worker_goes_to_another_and_every_job_ends_once(tmp_path: Path) -> None:
    def work(name: str, folder: str, told: object) -> str:
        import time
        import uuid
        from pathlib import Path

        (Path(folder) / f"{name}-{uuid.uuid4().hex}").touch()
        while not (Path(folder) / "go").exists():  # until the kill has been
            time.sleep(0.02)
        return name

    with cluster(processes=True) as started:

        class Kills(Events):
            killed = ""

            def _emit(self, event: str, **fields: Any) -> None:
                busy = [address for address, state in list(started.scheduler.workers.items()) if state.processing]
                if not self.killed and len(list(tmp_path.glob("job*"))) == 2:
                    self.killed = busy[0]
                    os.kill(worker_pid(started, self.killed), signal.SIGKILL)
                    (tmp_path / "go").touch()

        jobs = {f"job{n}": (f"job{n}", str(tmp_path)) for n in range(6)}
        found = list(hand_out(started.scheduler_address, work, jobs, {n: n for n in jobs}, events := Kills(), "stage", tmp_path))
    assert events.killed and sorted(found) == [(name, name) for name in jobs]
    assert len(list(tmp_path.glob("job*"))) == 7  # one was begun twice


class KillsAWorker(Events):
    """As soon as a run has a checkpoint, the worker that is at it is killed."""

    def __init__(self, started: Any, runs: Path) -> None:
        super().__init__()
        self._cluster, self._runs = started, runs
        self.killed, self.messages = "", list[str]()

    def _emit(self, event: str, **fields: Any) -> None:
        if event == "log":
            self.messages.append(fields["message"])
        begun = {path.parent.name[-10:] for path in self._runs.glob("*/checkpoint.safetensors")}
        if self.killed or not begun:
            return
        for address, state in list(self._cluster.scheduler.workers.items()):
            if any(task.key.split("-")[-1][:10] in begun for task in list(state.processing)):
                self.killed = address
                os.kill(worker_pid(self._cluster, address), signal.SIGKILL)
                return


@pytest.mark.slow
def test_a_worker_that_is_killed_half_way_loses_nothing(tmp_path: Path) -> None:
    # Long enough for a kill in the middle; checkpoints all the time, so the run goes on from where it was.
    training = quick(steps=60, steps_per_epoch=60, checkpoint_seconds=0.0)
    config = small(tmp_path, training=training)
    with cluster(processes=True) as started:
        result = run_study(config, events := KillsAWorker(started, config.output / "runs"), on_cluster(started.scheduler_address))
        assert events.killed
    assert not result.failed and len(result.runs) == 5 and result.tables is not None
    assert any("Going on from the checkpoint" in message for message in events.messages)
    alone = run_study(replace(config, output=tmp_path / "alone"), Events())
    assert alone.tables is not None
    pd.testing.assert_frame_equal(alone.tables.patients, result.tables.patients)
