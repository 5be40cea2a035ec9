"""What tests of background jobs share: waiting for a panel, and a process that does what the test says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
import slicer.util

#: Longer than anything here takes on the slowest machine; only a test that fails waits for it.
LONGEST_SECONDS = 240.0


def wait(condition: Callable[[], Any], seconds: float = LONGEST_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing came"
        slicer.app.processEvents()
        time.sleep(0.01)


def finished(panel: Any) -> Callable[[], bool]:
    return lambda: not panel.logic.running


def process_runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


class FakeProcess:
    """A QProcess that does what the test says. A list of all that was asked of it."""

    def __init__(self) -> None:
        self.slots: dict[str, Any] = {}
        self.asked: list[str] = []
        self.output = b""

    def connect(self, signal: str, slot: Any) -> None:
        self.slots[signal.partition("(")[0]] = slot

    def setProcessEnvironment(self, environment: Any) -> None:
        self.environment = environment

    def start(self, program: str, arguments: list[str]) -> None:
        self.asked.append("start")
        self.arguments = arguments

    def say(self, *lines: Any) -> None:
        self.output += b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
        self.slots["readyReadStandardOutput"]()

    def end(self, code: int) -> None:
        self.slots["finished"](code, 0)

    def readAllStandardOutput(self) -> bytes:
        output, self.output = self.output, b""
        return output

    def readAllStandardError(self) -> bytes:
        return b""

    def terminate(self) -> None:
        self.asked.append("terminate")

    def kill(self) -> None:
        self.asked.append("kill")

    def waitForFinished(self, milliseconds: int) -> bool:
        return True


def fake_job(process: FakeProcess, later: list[Any] | None = None, outcomes: list[Any] | None = None, events: list[Any] | None = None) -> Any:
    from SAHLoRASlicer.job import BackgroundJob

    events, outcomes, later = [] if events is None else events, [] if outcomes is None else outcomes, [] if later is None else later
    return BackgroundJob(events.append, outcomes.append, lambda: process, lambda ms, f: later.append((ms, f)), program="python")
