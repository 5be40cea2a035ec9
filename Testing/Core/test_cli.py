"""The command line: flags, job files, events, exit codes."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk
from SAHLoRALib import __version__, cli
from SAHLoRALib.cli import COMMANDS, main
from SAHLoRALib.commands.common import Common
from SAHLoRALib.errors import ScanError
from SAHLoRALib.events import Events
from small_cli import json_lines, of_kind, own_models
from tiny_scans import BLEED, GRID, VOXEL_ML, box, random_network, save_scan

from SAHLoRALib.weights import read_info, save_base  # isort: skip

ROOT = Path(__file__).resolve().parents[2]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return own_models(tmp_path, monkeypatch)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Common, Events], int]], None]:
    """Makes `sahlora trial` of a function."""

    def make(run: Callable[[Common, Events], int]) -> None:
        @dataclass(frozen=True, kw_only=True)
        class Arguments(Common):
            """A trial."""

        module = ModuleType("SAHLoRALib.commands.trial")
        module.Arguments, module.run = Arguments, run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "SAHLoRALib.commands.trial", module)
        monkeypatch.setitem(COMMANDS, "trial", ("trial", "a trial"))

    return make


# ── the frame ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_help_names_all_commands(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in COMMANDS) and "not a medical device" in told
    assert main([]) == 2 and "usage: sahlora" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help(name: str, capsys: Capture) -> None:
    assert main([*name.split(), "--help"]) == 0
    told = capsys.readouterr().out
    assert f"usage: sahlora {name}" in told and "--events" in told
    words: dict[str, str] = {}
    flag = ""
    for line in (line.strip("│| ") for line in re.sub(r",[│|\s]+--[\w.]*no-[\w.-]+", "", told).splitlines()):
        flag = line.split(" ")[0] if re.match(r"--?\w", line) else flag
        words[flag] = f"{words.get(flag, '')} {line}"
    bare = [flag for flag, text in words.items() if flag and not re.search(r"[a-z]{2}", re.sub(r"\((default|required).*|--\S+|{.*?}", "", text))]
    assert len(words) > 2 and bare == []  # each flag says what it does


def test_help_of_segmenting_does_not_load_torch() -> None:
    code = "import sys; from SAHLoRALib.cli import main; main(['segment', '--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True).returncode == 0


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0 and capsys.readouterr().out.strip() == f"sahlora {__version__}"


def test_unknown_command_is_told_with_the_nearest(capsys: Capture) -> None:
    assert main(["segmnt"]) == 2 and capsys.readouterr().err == "sahlora: error: There is no command 'segmnt'; did you mean segment?\n"
    assert main(["cases"]) == 2 and "did you mean cases check?" in capsys.readouterr().err


def test_wrong_flag_ends_with_2_and_is_an_event_for_programs(capsys: Capture) -> None:
    assert main(["segment", "a.nrrd", "--output", "out", "--treshold", "0.5"]) == 2
    assert "--treshold" in capsys.readouterr().err
    assert main(["segment", "a.nrrd", "--output", "out", "--treshold", "0.5", "--events", "json"]) == 2
    captured = capsys.readouterr()
    [event] = json_lines(captured.out)
    assert event["event"] == "error" and "--treshold" in str(event["message"]) and "│" not in str(event["message"])


def test_setting_out_of_range_is_one_line(capsys: Capture) -> None:
    assert main(["segment", "a.nrrd", "--output", "out", "--threshold", "2"]) == 2
    assert capsys.readouterr().err == "sahlora: error: The threshold must lie between 0 and 1, not at 2.\n"


@pytest.mark.parametrize("form", ["console", "json"])
def test_error_of_a_command_is_one_line_and_an_event(form: str, capsys: Capture, command: Callable[..., None]) -> None:
    def run(arguments: Common, events: Events) -> int:
        raise ScanError("a.nrrd is not a head CT.")

    command(run)
    assert main(["trial", "--events", form]) == 2
    captured = capsys.readouterr()
    assert captured.err == "sahlora: error: a.nrrd is not a head CT.\n"
    assert [e["message"] for e in json_lines(captured.out)] == (["a.nrrd is not a head CT."] if form == "json" else [])


def test_bug_is_one_line_with_the_traceback_in_a_file(capsys: Capture, command: Callable[..., None]) -> None:
    def run(arguments: Common, events: Events) -> int:
        raise KeyError("no such key")

    command(run)
    assert main(["trial"]) == 3
    told = capsys.readouterr().err
    assert told.startswith("sahlora: error: This is a bug in SAHLoRA (KeyError: 'no such key'); the details are in ") and told.count("\n") == 1
    log = Path(told.split("details are in ")[1].split(". Please")[0])
    assert "Traceback" in log.read_text() and "no such key" in log.read_text() and __version__ in log.read_text()
    log.unlink()


def test_missing_package_is_told_with_how_to_get_it(capsys: Capture, command: Callable[..., None]) -> None:
    def run(arguments: Common, events: Events) -> int:
        raise ModuleNotFoundError("No module named 'monai'", name="monai")

    command(run)
    assert main(["trial"]) == 2
    assert capsys.readouterr().err.startswith("sahlora: error: The Python package monai is missing; install")


def test_interrupt_asks_the_work_to_stop_and_ends_with_130(capsys: Capture, command: Callable[..., None]) -> None:
    before = signal.getsignal(signal.SIGINT)

    def run(arguments: Common, events: Events) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        events.check_cancel()
        raise AssertionError("was not cancelled")

    command(run)
    assert main(["trial"]) == 130
    told = capsys.readouterr().err
    assert "Stopping at the next step" in told and "sahlora: Cancelled" in told and "error" not in told
    assert signal.getsignal(signal.SIGINT) is before


def test_second_interrupt_stops_at_once(capsys: Capture, command: Callable[..., None]) -> None:
    def run(arguments: Common, events: Events) -> int:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("went on")

    command(run)
    assert main(["trial"]) == 130


def test_cancel_file_stops_the_work(tmp_path: Path, command: Callable[..., None], capsys: Capture) -> None:
    def run(arguments: Common, events: Events) -> int:
        events.check_cancel()
        return 0

    command(run)
    flags = ["trial", "--cancel-file", str(tmp_path / "stop")]
    assert main(flags) == 0
    (tmp_path / "stop").touch()
    assert main(flags) == 130


# ── segment ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_segment_writes_masks_and_tells_volumes(tmp_path: Path, capsys: Capture) -> None:
    scan = save_scan(tmp_path / "a.nii.gz", BLEED)
    out = tmp_path / "out"
    assert main(["segment", str(scan), "--output", str(out), "--format", "seg.nrrd", "--probability", "--flips", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert "4.50" in captured.out and str(out / "summary.csv") in captured.out and "Model tbi-base, no adapter" in captured.err
    assert {p.name for p in (out / "a").iterdir()} == {"mask.seg.nrrd", "probability.nrrd", "report.json", "montage.png"}
    report = json.loads((out / "a" / "report.json").read_text(encoding="utf-8"))
    assert report["total_ml"] == pytest.approx(90 * VOXEL_ML) and report["flips"] is True
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(out / "a" / "mask.seg.nrrd"))), box(BLEED))


def test_segment_with_an_adapter_names_both_models(tmp_path: Path, models: Path) -> None:
    scan = save_scan(tmp_path / "a.nrrd", BLEED)
    assert main(["segment", str(scan), "--output", str(tmp_path / "out"), "--adapter", "soft"]) == 0
    report = json.loads((tmp_path / "out" / "a" / "report.json").read_text(encoding="utf-8"))
    assert report["adapter"]["digest"] == read_info(models / "soft.safetensors").digest and report["model"]["name"] == "tbi-base"


def test_segment_of_good_and_bad_scans_ends_with_1_and_json_tells_which(tmp_path: Path, capsys: Capture) -> None:
    scan = save_scan(tmp_path / "a.nrrd", BLEED)
    assert main(["segment", str(scan), str(tmp_path / "missing.nrrd"), "--output", str(tmp_path / "out"), "--events", "json"]) == 1
    captured = capsys.readouterr()
    events = json_lines(captured.out)
    [result] = of_kind(events, "result")
    scans = result["scans"]
    assert isinstance(scans, list) and [(s["name"], s["ok"]) for s in scans] == [("a", True), ("missing", False)] and result["failed"] == 1
    assert Path(scans[0]["mask"]).is_file() and Path(scans[0]["montage"]).is_file() and "does not exist" in scans[1]["error"]
    assert of_kind(events, "progress")[-1]["fraction"] == 1.0 and captured.err == ""


def test_segment_of_bad_scans_only_ends_with_2_and_no_result(tmp_path: Path, capsys: Capture) -> None:
    missing = [str(tmp_path / name) for name in ("x.nrrd", "y.nrrd")]
    assert main(["segment", missing[0], "--output", str(tmp_path / "out"), "--events", "json"]) == 2
    captured = capsys.readouterr()
    assert not of_kind(json_lines(captured.out), "result") and captured.err == f"sahlora: error: {missing[0]} does not exist.\n"
    assert main(["segment", *missing, "--output", str(tmp_path / "out")]) == 2
    assert "None of the 2 scans" in capsys.readouterr().err
    with (tmp_path / "out" / "summary.csv").open(encoding="utf-8") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["failed", "failed"]


def test_segment_needs_a_scan_and_a_known_model(tmp_path: Path, capsys: Capture) -> None:
    assert main(["segment", "--output", str(tmp_path)]) == 2 and "No scan is named" in capsys.readouterr().err
    assert main(["segment", "a.nrrd", "--output", str(tmp_path), "--model", "nope"]) == 2
    assert "There is no model 'nope'. Known models: tbi-base, soft." in capsys.readouterr().err


# ── job files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def job(tmp_path: Path, **fields: object) -> str:
    (tmp_path / "job.json").write_text(json.dumps(fields), encoding="utf-8")
    return str(tmp_path / "job.json")


def test_job_file_takes_the_names_of_the_flags(tmp_path: Path, capsys: Capture) -> None:
    scan = save_scan(tmp_path / "a b.nrrd", BLEED)
    path = job(
        tmp_path,
        command="segment",
        inputs=[str(scan)],
        output=str(tmp_path / "out"),
        keep_ct=True,
        probability=False,
        flips=True,
        threshold=0.6,
        series=None,
    )
    assert main(["--job", path]) == 0
    [result] = of_kind(json_lines(capsys.readouterr().out), "result")
    assert result["command"] == "segment"
    report = json.loads((tmp_path / "out" / "a_b" / "report.json").read_text(encoding="utf-8"))
    assert (report["threshold"], report["flips"]) == (0.6, True)
    assert (tmp_path / "out" / "a_b" / "ct.nrrd").exists() and not (tmp_path / "out" / "a_b" / "probability.nrrd").exists()
    assert main(["segment", "--job", path, "--events", "console", "--threshold", "0.7"]) == 0
    assert "4.50" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "a_b" / "report.json").read_text(encoding="utf-8"))["threshold"] == 0.7


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        (
            {"cases": "c", "name": "m", "adapter": {"rank": 4, "full_dora_gradient": False}},
            ["c", "--name=m", "--adapter.rank=4", "--adapter.no-full-dora-gradient"],
        ),
        ({"cases": "c", "crop": [32, 48], "run": None}, ["c", "--crop", "32", "48"]),
        ({"cases": "-c"}, [os.path.join(".", "-c")]),
    ],
)
def test_job_fields_become_flags(fields: dict[str, object], flags: list[str]) -> None:
    assert cli._job_arguments(fields, cli._positionals("train")) == flags


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not JSON"),
        ("[1]", "must hold an object"),
        ('{"inputs": ["a"]}', "names no command"),
        ('{"command": "models", "x": 1}', "is for the command models, not for segment"),
    ],
)
def test_damaged_job_file_is_told(content: str, told: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "job.json").write_text(content)
    arguments = ["segment"] if "not for" in told else []
    assert main([*arguments, "--job", str(tmp_path / "job.json")]) == 2 and told in capsys.readouterr().err


def test_job_file_that_is_not_there_and_unknown_fields_are_told(tmp_path: Path, capsys: Capture) -> None:
    assert main(["--job", str(tmp_path / "none.json")]) == 2 and "cannot be read" in capsys.readouterr().err
    assert main(["--job"]) == 2 and "needs a JSON file" in capsys.readouterr().err
    assert main(["--job", job(tmp_path, command="models", colour="red")]) == 2
    [error] = json_lines(capsys.readouterr().out)
    assert error["event"] == "error" and "--colour" in str(error["message"])


# ── as a process ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "SAHLoRASegment"), "OMP_NUM_THREADS": "1"}


def test_script_for_slicer_runs_under_plain_python_and_ends_with_the_exit_code(tmp_path: Path) -> None:
    scan = save_scan(tmp_path / "a.nrrd", BLEED)
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    script = ROOT / "SAHLoRASegment" / "Scripts" / "segment.py"
    arguments = ["--", str(scan), str(tmp_path / "b.nrrd"), "--output", str(tmp_path / "out"), "--events", "json"]
    done = subprocess.run([sys.executable, str(script), *arguments], env=plain, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert of_kind(json_lines(done.stdout), "result")


@pytest.mark.parametrize("name", ["SAHLoRASegment/Scripts/segment.py", "SAHLoRATrain/Scripts/train.py"])
def test_script_inside_slicer_leaves_it_once_with_the_code_even_when_all_goes_wrong(name: str, tmp_path: Path) -> None:
    """A stand-in for Slicer's two names; the script lies where no SAHLoRALib is, so its import fails."""
    lonely = tmp_path / "a" / "b" / "script.py"
    lonely.parent.mkdir(parents=True)
    lonely.write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    code = f"""
import sys, types, runpy
slicer = types.ModuleType("slicer"); slicer.app = object(); left = []
slicer.util = types.SimpleNamespace(exit=left.append)
sys.modules["slicer"] = slicer; sys.modules["SAHLoRALib"] = None
sys.argv = ["script.py", "--help"]
runpy.run_path({str(lonely)!r}, run_name="__main__")
sys.exit(0 if left == [3] else 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "sahlora: error" in done.stdout, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_of_a_running_batch_ends_with_130_and_keeps_what_was_finished(tmp_path: Path) -> None:
    scans = [str(save_scan(tmp_path / "in" / f"s{n:03}.nrrd", BLEED)) for n in range(60)]
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "SAHLoRALib", "segment", *scans, "--output", str(out)], env=environment(), stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and len(list(out.glob("*/report.json"))) < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130 and "Traceback" not in told and "Cancelled" in told
    with (out / "summary.csv").open(encoding="utf-8") as file:
        finished = [row["name"] for row in csv.DictReader(file)]
    assert 2 <= len(finished) < 60 and not list(out.rglob(".*"))


def test_model_file_outside_the_catalogue_is_taken_by_its_path(tmp_path: Path) -> None:
    other = save_base(random_network(), tmp_path / "elsewhere" / "other.safetensors", grid=GRID)
    assert main(["segment", str(save_scan(tmp_path / "a.nrrd")), "--output", str(tmp_path / "out"), "--model", str(other.path)]) == 0
    assert json.loads((tmp_path / "out" / "a" / "report.json").read_text(encoding="utf-8"))["model"]["digest"] == other.digest
