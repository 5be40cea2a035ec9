"""Events of long work: progress, log, metric, result, error.

The core tells what it does through an `Events` object that it is handed. `ConsoleEvents` draws a progress bar for people, `JsonEvents` prints one
JSON object a line for machines (Slicer's widgets read those), `Events` itself is silent. Cancellation travels the other way: `Events.check_cancel`
raises `Cancelled` once a request has come (Ctrl-C, a file, or a call of `cancel`).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from .errors import Cancelled


class Events:
    """Silent events; the base of the two that speak.

    cancel_file: a path whose existence means "stop at the next step".
    """

    def __init__(self, cancel_file: Path | None = None) -> None:
        self._cancelled = False
        self._cancel_file = cancel_file
        self._stage = ""
        self._stage_start = 0.0
        self._first_done = 0.0

    def progress(self, stage: str, done: float, total: float, detail: str = "") -> None:
        """`done` of `total` units of `stage` are finished; the estimate of the time left is made here."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._stage_start = stage, now
            self._first_done = done
        fraction = min(1.0, done / total) if total else 0.0
        worked = done - self._first_done
        seconds_left = (now - self._stage_start) * (total - done) / worked if worked > 0 else None
        self._emit("progress", stage=stage, done=done, total=total, fraction=fraction, seconds_left=seconds_left, detail=detail)

    def log(self, message: str, level: str = "info") -> None:
        """One line of text for the log; level is info or warning."""
        self._emit("log", message=message, level=level)

    def metric(self, name: str, value: float, step: int, **context: Any) -> None:
        """One point of a curve (loss, validation Dice); `context` says of which run and fold."""
        self._emit("metric", name=name, value=float(value), step=int(step), **context)

    def result(self, **fields: Any) -> None:
        """The outcome. A run without a result event did not succeed, whatever its exit code."""
        self._emit("result", **fields)

    def error(self, message: str) -> None:
        """What went wrong, in the words of a SAHLoRAError."""
        self._emit("error", message=message)

    def cancel(self) -> None:
        """Ask the work to stop at its next step."""
        self._cancelled = True

    @property
    def cancel_requested(self) -> bool:
        return self._cancelled or (self._cancel_file is not None and self._cancel_file.exists())

    def check_cancel(self) -> None:
        """Raise `Cancelled` if the user asked to stop."""
        if self.cancel_requested:
            raise Cancelled("Cancelled. What was finished before is kept; the same command goes on from there.")

    def _emit(self, event: str, **fields: Any) -> None:
        pass


class JsonEvents(Events):
    """One JSON object a line on `stream` (standard output), flushed at once."""

    def __init__(self, stream: TextIO | None = None, cancel_file: Path | None = None) -> None:
        super().__init__(cancel_file)
        self._stream = stream or sys.stdout

    def _emit(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event, "time": round(time.time(), 3), **fields}, default=str, allow_nan=True)
        self._stream.write(line + "\n")
        self._stream.flush()


class ConsoleEvents(Events):
    """A progress bar with an estimate on standard error, log lines above it. Without a terminal: a line every ten seconds."""

    def __init__(self, stream: TextIO | None = None, cancel_file: Path | None = None) -> None:
        super().__init__(cancel_file)
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._bar_shown = False
        self._last_line = 0.0
        self._metrics: dict[str, float] = {}

    def _emit(self, event: str, **fields: Any) -> None:
        if event == "progress":
            self._draw(fields)
        elif event == "metric":
            self._metrics[fields["name"]] = fields["value"]
        elif event == "log":
            self._line(("warning: " if fields["level"] == "warning" else "") + fields["message"])
        elif event == "error":
            self._line("error: " + fields["message"])

    def _draw(self, p: dict[str, Any]) -> None:
        now = time.monotonic()
        finished = p["fraction"] >= 1.0
        if now - self._last_line < (0.1 if self._is_terminal else 10.0) and not finished:
            return
        self._last_line = now
        left = p["seconds_left"]
        eta = "" if left is None or finished else f", {duration(left)} left"
        curves = "".join(f"  {name} {value:.3f}" for name, value in self._metrics.items())
        text = f"{p['stage']} {p['fraction']:4.0%}{eta}{curves}  {p['detail']}".rstrip()
        if self._is_terminal:
            filled = round(24 * p["fraction"])
            self._stream.write(f"\r\x1b[K[{'#' * filled}{'.' * (24 - filled)}] {text}")
            self._bar_shown = True
            if finished:
                self._stream.write("\n")
                self._bar_shown = False
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def _line(self, text: str) -> None:
        if self._bar_shown:
            self._stream.write("\r\x1b[K")
            self._bar_shown = False
        self._stream.write(text + "\n")
        self._stream.flush()


def duration(seconds: float) -> str:
    """Seconds as a person says them: 8 s, 3 min 20 s, 2 h 5 min."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60} s"
    return f"{s // 3600} h {s % 3600 // 60} min"
