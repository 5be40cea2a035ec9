"""The process that stays for the next request: one load for many, a sentence for a wrong one, an end of its own."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import SAHLoRALib
from SAHLoRALib import warm, weights
from SAHLoRALib.ct import CTVolume
from SAHLoRALib.errors import ConfigError
from SAHLoRALib.segmenter import SegmentConfig, Segmenter
from tiny_scans import BLEED, save_models, save_scan


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_models(folder)
    return folder


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_scan(tmp_path_factory.mktemp("scan") / "scan.nrrd", BLEED)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was read from weight files, in this order."""
    read: list[Any] = []
    real = weights.load_network
    monkeypatch.setattr(weights, "load_network", lambda base, adapter: (read.append((base.name, adapter and adapter.name)), real(base, adapter))[1])
    return read


def job(folder: Path, scan: Path, models: Path, **more: Any) -> Path:
    """A job file in a folder of its own."""
    folder.mkdir()
    told = {"command": "segment", "inputs": [str(scan)], "output": str(folder / "out"), "device": "cpu", "adapter": "none"}
    told |= {"model": str(models / "tbi-base.safetensors"), **more}
    (folder / "job.json").write_text(json.dumps(told))
    return folder / "job.json"


def request(path: Path) -> bytes:
    return json.dumps({"job": str(path)}).encode() + b"\n"


def told(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def codes(events: list[dict[str, Any]]) -> list[int]:
    return [event["code"] for event in events if event["event"] == "answered"]


def test_second_request_takes_the_network_of_the_first(tmp_path: Path, models: Path, scan: Path, loads: list[Any], capsys: Any) -> None:
    asked = [job(tmp_path / "a", scan, models), job(tmp_path / "b", scan, models, threshold=0.9, smallest_ml=0.0)]
    assert warm.serve(io.BytesIO(request(asked[1])).readline, first=asked[0]) == 0
    events = told(capsys.readouterr().out)
    assert codes(events) == [0, 0] and loads == [("tbi-base", None)]
    assert [event["scans"][0]["ok"] for event in events if event["event"] == "result"] == [True, True]
    reports = [json.loads((path.parent / "out" / "scan" / "report.json").read_text()) for path in asked]
    assert [report["threshold"] for report in reports] == [0.5, 0.9] and reports[1]["smallest_ml"] == 0.0


def test_what_is_asked_for_is_loaded_when_it_is_another_or_its_file_was_changed(models: Path, loads: list[Any]) -> None:
    kept, base = warm.KeptSegmenter(), models / "tbi-base.safetensors"
    config = SegmentConfig(device="cpu")
    for adapter, setting in (("none", config), ("none", config), (str(models / "soft.safetensors"), config), ("none", config)):
        found = kept.load(str(base), adapter, setting)
        assert found.adapter is None if adapter == "none" else found.adapter is not None and found.adapter.name == "soft"
    assert len(loads) == 3
    kept.load(str(base), "none", SegmentConfig(device="cpu", precision="float32"))
    assert len(loads) == 4
    state = base.stat()
    os.utime(base, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000_000))
    kept.load(str(base), "none", SegmentConfig(device="cpu", precision="float32"))
    assert len(loads) == 5


def test_a_network_made_for_another_device_or_precision_is_not_taken(models: Path) -> None:
    segmenter = Segmenter.load(str(models / "tbi-base.safetensors"), "none", SegmentConfig(device="cpu"))
    with pytest.raises(ConfigError, match="load it anew"):
        segmenter.with_config(SegmentConfig(device="cpu", precision="float32"))


def test_wrong_requests_get_a_sentence_and_the_next_is_answered(tmp_path: Path, models: Path, scan: Path, capsys: Any) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"command": "train"}')
    wrong = [b"nonsense \xff\n", b"[1]\n", b'{"job": 7}\n', request(tmp_path / "missing.json"), request(other)]
    bad = job(tmp_path / "bad", tmp_path / "no scan.nrrd", models)
    good = job(tmp_path / "good", scan, models)
    warm.serve(io.BytesIO(b"".join([*wrong, request(bad), request(good)])).readline)
    events = told(capsys.readouterr().out)
    assert codes(events) == [2] * 6 + [0]
    sentences = [event["message"] for event in events if event["event"] == "error"]
    assert len(sentences) == 6 and all(text.endswith(".") and "\n" not in text for text in sentences)


def test_a_request_that_is_cancelled_leaves_the_next_alone(tmp_path: Path, models: Path, scan: Path, capsys: Any) -> None:
    (tmp_path / "cancel").touch()
    stopped = job(tmp_path / "a", scan, models, cancel_file=str(tmp_path / "cancel"))
    warm.serve(io.BytesIO(request(job(tmp_path / "b", scan, models))).readline, first=stopped)
    assert codes(told(capsys.readouterr().out)) == [130, 0]


def test_nothing_of_a_scan_is_kept_between_requests(tmp_path: Path, models: Path, scan: Path, capsys: Any) -> None:
    asked = iter([request(job(tmp_path / "a", scan, models, probability=True))])
    held: list[int] = []

    def read_line() -> bytes:
        held.append(sum(type(thing) is CTVolume for thing in gc.get_objects()))
        return next(asked, b"")

    before = sum(type(thing) is CTVolume for thing in gc.get_objects())
    warm.serve(read_line)
    assert held == [before, before] and codes(told(capsys.readouterr().out)) == [0]


def test_after_a_bug_the_process_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(warm, "main", lambda *args, **more: warm.BUG_EXIT_CODE)
    assert warm.serve(io.BytesIO(request(tmp_path) * 3).readline) == warm.BUG_EXIT_CODE
    assert codes(told(capsys.readouterr().out)) == [warm.BUG_EXIT_CODE]


def test_each_request_has_what_it_is_wrapped_in_around_it_and_its_answer_comes_after(tmp_path: Path, capsys: Any) -> None:
    @contextlib.contextmanager
    def around(path: Path) -> Iterator[None]:
        print(json.dumps({"event": "begun", "name": path.name}))
        yield
        print(json.dumps({"event": "ended"}))

    warm.serve(io.BytesIO(request(tmp_path / "1.json") + request(tmp_path / "2.json")).readline, around=around)
    events = [event["event"] for event in told(capsys.readouterr().out)]
    assert events == ["begun", "error", "ended", "answered"] * 2


def test_a_reader_that_nobody_writes_to_ends_the_process() -> None:
    ended = threading.Event()
    out, into = os.pipe()
    with os.fdopen(out, "rb") as stream, os.fdopen(into, "wb") as writer:

        def end() -> None:
            ended.set()
            writer.close()  # the process would be gone

        assert warm.patient(stream, 0.01, end)() == b"" and ended.is_set()


def test_a_reader_that_hears_something_in_time_does_not_end() -> None:
    ended = threading.Event()
    read_line = warm.patient(io.BytesIO(b"one\ntwo\n"), 3600.0, ended.set)
    assert [read_line(), read_line(), read_line()] == [b"one\n", b"two\n", b""] and not ended.is_set()
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer) and not thread.finished.is_set()]


def test_process_answers_two_requests_and_ends_with_its_input(tmp_path: Path, models: Path, scan: Path) -> None:
    asked = b"".join(request(job(tmp_path / name, scan, models)) for name in "ab")
    environment = {**os.environ, "PYTHONPATH": str(Path(SAHLoRALib.__file__).parents[1])}
    ran = subprocess.run([sys.executable, "-m", "SAHLoRALib.warm"], input=asked, capture_output=True, check=True, env=environment)
    assert codes(told(ran.stdout.decode())) == [0, 0]
    masks = [(tmp_path / name / "out" / "scan" / "mask.nrrd").read_bytes() for name in "ab"]
    assert masks[0] == masks[1]
