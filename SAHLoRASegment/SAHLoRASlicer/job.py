"""One piece of work in a background process: started, listened to, cancelled, cleaned up after. Slicer's window stays free meanwhile.

The process writes one JSON line per event. It succeeded when it ended with code 0 AND a result event came; with code 1 and a result it
succeeded in part. Cancelling goes in three steps within two seconds: the cancel file (the work stops at its next step), terminate, kill; each of the
latter two for the worker's whole process group, since killing the launcher alone would leave its child alive.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import worker

#: Milliseconds after the cancel file until terminate, and until kill.
TERMINATE_AFTER, KILL_AFTER = 900, 1400
PACKAGES = Path(__file__).resolve().parents[1]
#: Lines kept for the message of a process that died without one.
_LAST_WORDS = 20


@dataclass(frozen=True)
class Outcome:
    """How a job ended. state: done, failed or cancelled. result: the result event. message: a sentence where it failed."""

    state: str
    result: dict[str, Any] | None = None
    message: str = ""


class BackgroundJob:
    """A command of the core in a process of its own.

    on_event: called with each event (a dict). on_finished: called once with the Outcome, while the folder is still there; the folder goes afterwards.
    make_process: gives a QProcess, or what behaves like one. later: calls a function after some milliseconds (QTimer.singleShot). folder: None makes
    one; it belongs to the job. patience: seconds more that a cancelled job may take to stop by itself, for work that writes a checkpoint first.
    """

    def __init__(
        self,
        on_event: Callable[[dict[str, Any]], None],
        on_finished: Callable[[Outcome], None],
        make_process: Callable[[], Any] | None = None,
        later: Callable[[int, Callable[[], None]], Any] | None = None,
        folder: Path | None = None,
        program: str | None = None,
        patience: float = 0.0,
    ) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="SAHLoRA-"))
        self.pid: int | None = None
        self._on_event, self._on_finished = on_event, on_finished
        self._make_process, self._later, self._program = make_process, later, program
        self._patience = patience
        self._process: Any = None
        self._slots: list[Any] = []
        self._buffer = b""
        self._result: dict[str, Any] | None = None
        self._error = ""
        self._last: list[str] = []
        self.cancelled = self._over = self._preparing = False

    @property
    def running(self) -> bool:
        return (self._preparing or self._process is not None) and not self._over

    def prepare(self, step: Callable[[], bool], job: Callable[[], Mapping[str, Any]]) -> None:
        """Call `step` once per turn of the event loop until it returns False, then start on what `job` gives; a cancel is heard in between."""
        self._preparing = True
        self._after(0, lambda: self._prepare(step, job))

    def _prepare(self, step: Callable[[], bool], job: Callable[[], Mapping[str, Any]]) -> None:
        if self._over:
            return
        if self.cancelled:
            self._finish(Outcome("cancelled"))
            return
        try:
            if step():
                self._after(0, lambda: self._prepare(step, job))
            else:
                self.start(job())
        except Exception as error:  # nobody is above an event loop's turn to hear it
            self._finish(Outcome("failed", None, f"The run could not be started: {error}"))

    def start(self, job: Mapping[str, Any]) -> None:
        """job: {"command": "segment", "inputs": […], …}, as ``--job`` takes it."""
        path = self.folder / worker.JOB_FILE
        cancel = self.folder / "cancel"
        path.write_text(json.dumps({**job, "events": "json", "cancel_file": str(cancel)}), encoding="utf-8")
        self._process = self._new_process()
        # String signatures, and the slots held here for versions of PythonQt that do not hold them.
        self._slots = [self._read, self._read_errors, self._ended, self._not_started]
        signals = (
            "readyReadStandardOutput()",
            "readyReadStandardError()",
            "finished(int,QProcess::ExitStatus)",
            "errorOccurred(QProcess::ProcessError)",
        )
        for name, slot in zip(signals, self._slots, strict=True):
            self._process.connect(name, slot)
        self._process.setProcessEnvironment(environment(self.folder, cancel, self._patience))
        self._process.start(self._program or python_program(), ["-u", "-m", f"{worker.__package__}.worker", "--job", str(path)])

    def cancel(self) -> None:
        """Ask the work to stop, and see to it that it has within two seconds and the job's patience. The outcome comes as always."""
        if not self.running or self.cancelled:
            return
        self.cancelled = True
        with contextlib.suppress(OSError):
            (self.folder / "cancel").touch()
        self._after(TERMINATE_AFTER + round(1000 * self._patience), self._terminate)
        self._after(KILL_AFTER + round(1000 * self._patience), self._kill)

    def abandon(self) -> None:
        """End everything at once and tell nobody: Slicer closes, or the module is reloaded."""
        self.cancelled = True
        if self.running:
            self._over = True
            self._kill(always=True)
            if self._process is not None:
                self._process.waitForFinished(1000)
        self._forget()
        self._clean()

    def _after(self, milliseconds: int, call: Callable[[], None]) -> None:
        (self._later or single_shot)(milliseconds, call)

    def _new_process(self) -> Any:
        if self._make_process is not None:
            return self._make_process()
        import qt

        return qt.QProcess()

    # --- what the process says

    def _read(self) -> None:
        self._buffer += to_bytes(self._process.readAllStandardOutput())
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            self._line(line.decode("utf-8", errors="replace").strip())

    def _read_errors(self) -> None:
        for line in to_bytes(self._process.readAllStandardError()).decode("utf-8", errors="replace").splitlines():
            self._remember(line.strip())

    def _line(self, line: str) -> None:
        try:
            event = json.loads(line)
            kind = event["event"]
        except (ValueError, TypeError, KeyError, RecursionError):
            self._remember(line)  # a library's own words
            return
        if kind == "started":
            self.pid = int(event["pid"])
            if self._over:
                self._kill(always=True)
            return
        if kind == "result":
            self._result = event
        elif kind == "error":
            self._error = str(event.get("message", ""))
        if not self._over:
            self._on_event(event)

    def _remember(self, line: str) -> None:
        if line:
            self._last = [*self._last, line][-_LAST_WORDS:]

    # --- how it ends

    def _ended(self, code: int, status: Any = None) -> None:
        if self._over:
            return
        self._read()
        self._read_errors()
        if self.cancelled:
            self._finish(Outcome("cancelled", self._result))
        elif code in (0, 1) and self._result is not None:
            self._finish(Outcome("done", self._result))
        else:
            self._finish(Outcome("failed", self._result, self._error or self._words(code)))

    def _not_started(self, error: Any = None) -> None:
        if not self._over and is_failed_to_start(error):
            self._finish(Outcome("failed", None, f"The background process could not be started: {self._process.errorString()}."))

    def _words(self, code: int) -> str:
        last = self._last[-1] if self._last else "it said nothing"
        return f"The background process ended with code {code} and no result ({last})."

    def _finish(self, outcome: Outcome) -> None:
        self._over = True
        if self.cancelled:
            self._kill(always=True)  # what the worker may have started
        try:
            self._on_finished(outcome)
        finally:
            self._forget()
            self._clean()

    def _forget(self) -> None:
        """Qt's signals hold this job for as long as Slicer runs; it must not hold the run with its volumes."""
        self._on_event = self._on_finished = lambda told: None

    def _clean(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _terminate(self) -> None:
        if self.running and self._process is not None and not end_processes(self.pid, gently=True):
            self._process.terminate()

    def _kill(self, always: bool = False) -> None:
        if self.running or always:
            end_processes(self.pid)
            if self._process is not None:
                self._process.kill()


def end_processes(pid: int | None, gently: bool = False) -> bool:
    """End the worker of this number with all that it started; False where that could not be asked for."""
    if pid is None:
        return False
    if sys.platform == "win32":
        if gently:  # there is no polite way on Windows; the cancel file was it
            return True
        return subprocess.run(["taskkill", "/T", "/F", "/PID", str(pid)], capture_output=True, check=False, creationflags=0x08000000).returncode == 0
    try:
        os.killpg(pid, signal.SIGTERM if gently else signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def python_program() -> str:
    """Slicer's own Python: PythonSlicer beside Slicer, or in the PATH that Slicer gives its children; plain Python runs itself."""
    import slicer

    name = "PythonSlicer.exe" if sys.platform == "win32" else "PythonSlicer"
    home = getattr(slicer.app, "slicerHome", "") if hasattr(slicer, "app") else ""
    beside = Path(str(home)) / "bin" / name
    if home and beside.is_file():
        return str(beside)
    return shutil.which("PythonSlicer") or sys.executable


def environment(folder: Path, cancel: Path, patience: float = 0.0) -> Any:
    """The worker's QProcessEnvironment: Slicer's own, and where the packages are, and whom it belongs to."""
    import qt

    made = qt.QProcessEnvironment.systemEnvironment()
    paths = [str(PACKAGES), *filter(None, [made.value("PYTHONPATH", "")])]
    added = {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONIOENCODING": "utf-8",
        worker.FOLDER: str(folder),
        worker.CANCEL: str(cancel),
        worker.OWNER: str(os.getpid()),
        worker.PATIENCE: str(patience),
    }
    for name, value in added.items():
        made.insert(name, value)
    made.remove("ITK_AUTOLOAD_PATH")  # Slicer's ITK plug-ins, which need Slicer's scene
    return made


def single_shot(milliseconds: int, call: Callable[[], None]) -> None:
    """Call once, from the event loop."""
    import qt

    once = [call]  # Slicer's timers are never deleted, and what they call never freed: the volumes of a run would stay with it
    qt.QTimer.singleShot(milliseconds, lambda: once.pop()())


def is_failed_to_start(error: Any) -> bool:
    """error: what the signal brought. QProcess.error() is not asked: in Qt 5 a signal has the same name, and PythonQt may find that first."""
    import qt

    return error == qt.QProcess.FailedToStart


def to_bytes(array: Any) -> bytes:
    """A QByteArray's bytes; PythonQt's data() has given text in some versions."""
    data = array.data() if hasattr(array, "data") else array
    return data.encode("utf-8", errors="surrogateescape") if isinstance(data, str) else bytes(data)
