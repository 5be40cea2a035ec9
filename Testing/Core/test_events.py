"""What long work tells, and how it is asked to stop."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from SAHLoRALib import events as module
from SAHLoRALib.errors import Cancelled
from SAHLoRALib.events import ConsoleEvents, Events, JsonEvents, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands where its only entry says."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_event_is_one_json_object_a_line(tmp_path: Path) -> None:
    stream = io.StringIO()
    events = JsonEvents(stream)
    events.progress("Segmenting", 1, 4, "scan\na")
    events.log("tilt of 18.5°", "warning")
    events.metric("dice", 0.5, 3, fold=1)
    events.result(output=tmp_path)
    events.error("wrong")
    found = lines(stream)
    assert [line["event"] for line in found] == ["progress", "log", "metric", "result", "error"]
    assert found[0]["fraction"] == 0.25 and found[0]["detail"] == "scan\na" and found[1]["message"] == "tilt of 18.5°"
    assert found[2] == found[2] | {"name": "dice", "value": 0.5, "step": 3, "fold": 1} and found[3]["output"] == str(tmp_path)
    assert stream.getvalue().isascii()


def test_time_left_follows_from_what_was_done_since_the_stage_began(clock: list[float]) -> None:
    stream = io.StringIO()
    events = JsonEvents(stream)
    events.progress("Training", 10, 100)  # resumed: ten were done before
    clock[0] += 20.0
    events.progress("Training", 20, 100)
    events.progress("Checking", 0, 5)
    found = lines(stream)
    assert found[0]["seconds_left"] is None and found[1]["seconds_left"] == pytest.approx(160.0) and found[2]["seconds_left"] is None


def test_nothing_to_do_is_no_division_by_zero() -> None:
    stream = io.StringIO()
    JsonEvents(stream).progress("Checking", 0, 0)
    assert lines(stream)[0]["fraction"] == 0.0


def test_bar_of_the_terminal_gives_way_to_log_lines_and_ends_with_a_newline(clock: list[float]) -> None:
    stream = Terminal()
    events = ConsoleEvents(stream)
    events.progress("Segmenting", 1, 4, "a")
    events.log("thick slices", "warning")
    clock[0] += 30.0
    events.progress("Segmenting", 2, 4, "b")
    events.progress("Segmenting", 4, 4)
    text = stream.getvalue()
    assert "[######" in text and "warning: thick slices\n" in text and "1 min 0 s left" in text and text.endswith("100%\n")
    assert text.index("\r\x1b[K", 5) < text.index("warning")


def test_without_a_terminal_a_line_comes_every_ten_seconds_and_at_the_end(clock: list[float]) -> None:
    stream = io.StringIO()
    events = ConsoleEvents(stream)
    for step in range(41):
        clock[0] += 1.0
        events.progress("Training", step, 40)
    found = stream.getvalue().splitlines()
    assert len(found) == 5 and found[-1].startswith("Training 100%") and "\r" not in stream.getvalue()


def test_curves_stand_beside_the_bar(clock: list[float]) -> None:
    stream = Terminal()
    events = ConsoleEvents(stream)
    events.metric("loss", 0.25, 1)
    events.progress("Training", 1, 4)
    assert "loss 0.250" in stream.getvalue()


def test_cancel_by_call_or_by_file_raises_at_the_next_check(tmp_path: Path) -> None:
    events = Events(cancel_file=tmp_path / "stop")
    events.check_cancel()
    (tmp_path / "stop").touch()
    with pytest.raises(Cancelled):
        events.check_cancel()
    other = Events()
    other.cancel()
    assert other.cancel_requested
    with pytest.raises(Cancelled):
        other.check_cancel()


def test_silent_events_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    events = Events()
    events.progress("Segmenting", 1, 2)
    events.log("x")
    events.metric("loss", 1.0, 1)
    events.result(a=1)
    events.error("x")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("seconds", "said"), [(8.4, "8 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations_as_a_person_says_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said
