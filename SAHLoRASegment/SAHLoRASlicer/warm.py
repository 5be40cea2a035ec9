"""The process that stays: the first press of Segment starts it, the next finds torch and the network loaded.

At most one lives at a time, in the whole of Slicer. It is started as every background process is, with its first job, and gets the next ones on its
standard input; SAHLoRALib.warm says what is asked and answered. A job sees a `Lease`, which behaves like a QProcess of its own: the answer to the job
is its end. What is asked of the lease after that does not reach the process any more.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from typing import Any

from . import worker
from .job import BackgroundJob, Outcome, end_processes, is_failed_to_start, single_shot, to_bytes

#: Milliseconds until a process that said nothing to a request is given up for a new one: far longer than hearing a line takes.
UNHEARD_AFTER = 15000
_NORMAL_EXIT = 0


class WarmWorker:
    """The one process, and the lease that has it now. make_process, later: as BackgroundJob takes them."""

    def __init__(self, make_process: Callable[[], Any] | None = None, later: Callable[[int, Callable[[], None]], Any] = single_shot) -> None:
        self.pid: int | None = None
        self._make_process, self._later = make_process, later
        self._process: Any = None
        # Qt must not delete a process while its own signal is being heard.
        self._before: Any = None
        self._slots: list[Any] = []
        self._lease: Lease | None = None
        self._alive = False
        self._buffer = b""

    @property
    def free(self) -> bool:
        """Whether nobody has it."""
        return self._lease is None

    def lease(self) -> Lease:
        """For one job."""
        return Lease(self)

    def stop(self) -> None:
        """End the process, with what it does: Slicer closes, or the module is reloaded."""
        self._lease = None
        if self._alive:
            self._end_process()
            self._process.waitForFinished(1000)
        self._alive = False

    # --- what a lease asks

    def begin(self, lease: Lease) -> None:
        """Send the lease's job to the process, or start one with it."""
        self._lease = lease
        if not self._alive:
            self._start(lease)
            return
        # Bytes: PythonQt takes them for a QByteArray.
        self._process.write(json.dumps({"job": lease.arguments[-1]}).encode() + b"\n")
        self._later(UNHEARD_AFTER, lambda: self._give_up(lease))

    def kill(self, lease: Lease, gently: bool = False) -> None:
        """The process of this lease, if it still has it."""
        if self._lease is lease and self._alive:
            if gently:
                self._process.terminate()
            else:
                self._end_process()

    def wait(self, lease: Lease, milliseconds: int) -> bool:
        """Until the process of this lease is gone."""
        return self._process.waitForFinished(milliseconds) if self._lease is lease and self._alive else True

    def _start(self, lease: Lease) -> None:
        self._before, self._process = self._process, self._new_process()
        self._buffer, self.pid, self._alive = b"", None, True
        process = self._process
        self._slots = [
            lambda: self._read(process),
            lambda: self._read_errors(process),
            lambda code, status=None: self._ended(process, code, status),
            lambda error=None: self._failed(process, error),
        ]
        signals = (
            "readyReadStandardOutput()",
            "readyReadStandardError()",
            "finished(int,QProcess::ExitStatus)",
            "errorOccurred(QProcess::ProcessError)",
        )
        for name, slot in zip(signals, self._slots, strict=True):
            process.connect(name, slot)
        process.setProcessEnvironment(lease.environment)
        lease.heard = True  # it is not on standard input that it gets its job
        *before, flag, path = lease.arguments
        process.start(lease.program, [*before, worker.STAY, flag, path])

    def _new_process(self) -> Any:
        if self._make_process is not None:
            return self._make_process()
        import qt

        return qt.QProcess()

    def _end_process(self) -> None:
        end_processes(self.pid)
        self._process.kill()

    def _give_up(self, lease: Lease) -> None:
        if self._lease is lease and not lease.heard and self._alive:
            self._end_process()  # its end, when it is told, starts another

    # --- what the process says

    def _read(self, process: Any) -> None:
        if process is not self._process:
            return
        self._buffer += to_bytes(process.readAllStandardOutput())
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            self._line(line + b"\n")

    def _line(self, line: bytes) -> None:
        event = _event(line)
        kind = event.get("event")
        if kind == "started":
            self.pid = int(event["pid"])
        lease = self._lease
        if lease is None:
            return
        if kind == "answered":
            self._lease = None
            lease.tell("finished", int(event["code"]), _NORMAL_EXIT)
            return
        lease.heard = True
        try:
            lease.say(line)
        except Exception:  # a panel that cannot show an event must not keep the answer from coming
            logging.exception("SAHLoRA: an event could not be shown")

    def _read_errors(self, process: Any) -> None:
        if process is self._process:
            said = to_bytes(process.readAllStandardError())
            if self._lease is not None:
                self._lease.say_error(said)

    def _ended(self, process: Any, code: int, status: Any) -> None:
        if process is not self._process or not self._alive:
            return
        self._read(process)
        self._read_errors(process)
        self._alive, self.pid = False, None
        lease = self._lease
        if lease is None:
            return  # it had waited long enough, or somebody ended it; the next job starts another
        if lease.heard or lease.given_up:
            self._lease = None
            lease.tell("finished", code, status)
        else:
            self._start(lease)  # it was gone, or going, when the job came

    def _failed(self, process: Any, error: Any) -> None:
        if process is not self._process or not is_failed_to_start(error):
            return
        self._alive, lease, self._lease = False, self._lease, None
        if lease is not None:
            lease.failure = process.errorString()
            lease.tell("errorOccurred", error)


class Lease:
    """The part of QProcess that BackgroundJob uses, for one job in the process that stays.

    heard: whether the process has said anything to this job. given_up: whether somebody has asked for its end.
    """

    def __init__(self, owner: WarmWorker) -> None:
        self.heard = self.given_up = False
        self.failure = ""
        self.environment: Any = None
        self.program, self.arguments = "", [""]
        self._owner = owner
        self._slots: dict[str, Callable[..., None]] = {}
        self._output = self._errors = b""

    def connect(self, signal: str, slot: Callable[..., None]) -> None:
        self._slots[signal.partition("(")[0]] = slot

    def setProcessEnvironment(self, environment: Any) -> None:
        self.environment = environment

    def start(self, program: str, arguments: list[str]) -> None:
        self.program, self.arguments = program, arguments
        self._owner.begin(self)

    def terminate(self) -> None:
        self.given_up = True
        self._owner.kill(self, gently=True)

    def kill(self) -> None:
        self.given_up = True
        self._owner.kill(self)

    def waitForFinished(self, milliseconds: int) -> bool:
        return self._owner.wait(self, milliseconds)

    def errorString(self) -> str:
        return self.failure

    def readAllStandardOutput(self) -> bytes:
        said, self._output = self._output, b""
        return said

    def readAllStandardError(self) -> bytes:
        said, self._errors = self._errors, b""
        return said

    # --- what the worker tells it

    def say(self, line: bytes) -> None:
        """A line of standard output."""
        self._output += line
        self.tell("readyReadStandardOutput")

    def say_error(self, said: bytes) -> None:
        """Of standard error."""
        self._errors += said
        self.tell("readyReadStandardError")

    def tell(self, signal: str, *arguments: Any) -> None:
        """What a QProcess would emit."""
        self._slots[signal](*arguments)


_shared: WarmWorker | None = None


def shared() -> WarmWorker:
    """Slicer's one warm worker; making it starts no process."""
    global _shared
    if _shared is None:
        _shared = WarmWorker()
    return _shared


def warm_job(on_event: Callable[[dict[str, Any]], None], on_finished: Callable[[Outcome], None]) -> BackgroundJob:
    """A job for the warm worker; in a process of its own where somebody else has that one."""
    return BackgroundJob(on_event, on_finished, shared().lease if shared().free else None)


def stop() -> None:
    """End the warm worker, if there is one."""
    if _shared is not None:
        _shared.stop()


def _event(line: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        event = json.loads(line)
        if isinstance(event, dict):
            return event
    return {}
