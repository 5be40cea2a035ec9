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
from tiny_scans import BLEED, GRID, VOXEL_ML, box, random_network, save_models, save_scan

from SAHLoRALib.weights import read_info, save_base  # isort: skip

ROOT = Path(__file__).resolve().parents[2]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's model folder, with tbi-base and soft in it; no others."""
    folder = tmp_path / "models"
    save_models(folder)
    monkeypatch.setenv("SAHLORA_MODELS", str(folder))
    monkeypatch.setattr("SAHLoRALib.catalogue.bundled_folders", list)
    return folder


def json_lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def of_kind(events: list[dict[str, object]], kind: str) -> list[dict[str, object]]:
    return [event for event in events if event["event"] == kind]


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


# ── the other commands ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_models_lists_and_describes(models: Path, capsys: Capture) -> None:
    (models / "broken.safetensors").write_bytes(b"short")
    assert main(["models"]) == 0
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()[2:]] == ["tbi-base", "soft"] and "cp-lora, rank 1" in captured.out
    assert "warning: " in captured.err and "broken.safetensors" in captured.err
    assert main(["models", "soft", "--events", "json"]) == 0
    [result] = of_kind(json_lines(capsys.readouterr().out), "result")
    [described] = result["models"]  # type: ignore[misc]
    assert described["kind"] == "adapter" and described["base_name"] == "tbi-base" and described["adapter"]["method"] == "cp-lora"


def test_models_of_an_empty_folder_says_where_to_put_them(models: Path, capsys: Capture) -> None:
    for path in models.iterdir():
        path.unlink()
    assert main(["models"]) == 0 and f"put weight files into {models}" in capsys.readouterr().out


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Six cases with a bleed each, the last without."""
    rows = ["case,image,mask,patient,site,haemorrhage"]
    for n in range(6):
        bleeds = () if n == 5 else (((6 + n, 36, 28), (3, 5 + n, 5)),)
        save_scan(tmp_path / "cases" / f"c{n}.nrrd", *bleeds, seed=n)
        mask = sitk.GetImageFromArray((box(bleeds[0]) if bleeds else np.zeros((18, 80, 64), bool)).astype(np.uint8))
        mask.CopyInformation(sitk.ReadImage(str(tmp_path / "cases" / f"c{n}.nrrd")))
        sitk.WriteImage(mask, str(tmp_path / "cases" / f"m{n}.nrrd"))
        rows.append(f"c{n},c{n}.nrrd,m{n}.nrrd,p{n},x,{'yes' if bleeds else 'no'}")
    (tmp_path / "cases" / "cases.csv").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path / "cases"


def test_cases_check_tells_all_problems_and_its_exit_code_how_many(cohort: Path, capsys: Capture) -> None:
    assert main(["cases", "check", str(cohort)]) == 0 and "6 cases, no problems" in capsys.readouterr().out
    (cohort / "m1.nrrd").unlink()
    assert main(["cases", "check", str(cohort), "--events", "json"]) == 1
    [result] = of_kind(json_lines(capsys.readouterr().out), "result")
    assert result["problems"] == 1
    assert main(["cases", "check", str(cohort / "nothing.csv")]) == 2 and "cannot be read" in capsys.readouterr().err


def test_evaluate_tells_dice_by_stratum_and_writes_tables(cohort: Path, tmp_path: Path, capsys: Capture) -> None:
    scans = [str(cohort / f"c{n}.nrrd") for n in range(6)]
    assert main(["segment", *scans, "--output", str(tmp_path / "out")]) == 0
    for n in range(6):
        (tmp_path / f"predicted/c{n}.nrrd").parent.mkdir(exist_ok=True)
        (tmp_path / "out" / f"c{n}" / "mask.nrrd").rename(tmp_path / "predicted" / f"c{n}.nrrd")
    capsys.readouterr()
    arguments = ["evaluate", str(tmp_path / "predicted"), str(cohort), "--edges", "4", "--resamples", "50", "--output", str(tmp_path / "tables")]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "all (n = 6)" in told and "< 4 mL" in told and "ICC of volumes" in told and "without haemorrhage (n = 1)" in told
    assert (tmp_path / "tables" / "evaluation_patients.csv").is_file()
    assert main([*arguments, "--events", "json"]) == 0
    [result] = of_kind(json_lines(capsys.readouterr().out), "result")
    found = {(row["stratum"], row["measure"]): row["mean"] for row in result["summary"]}  # type: ignore[attr-defined]
    assert found["all", "dice"] == pytest.approx(1.0) and found["without haemorrhage", "predicted_ml"] == 0


TINY = ["--network.levels", "2", "--network.width", "4", "--grid.pixel-mm", "2.5", "--crop", "32", "32", "--batch", "2", "--device", "cpu"]


def test_pretrain_then_train_then_segment(cohort: Path, tmp_path: Path, models: Path, capsys: Capture) -> None:
    for path in models.iterdir():
        path.unlink()
    common = ["--crop", "32", "32", "--batch", "2", "--device", "cpu", "--steps", "4", "--steps-per-epoch", "2"]
    train = ["train", str(cohort), "--base", "own-base", "--name", "mine", "--folds", "0", "--adapter.rank", "2"]
    run = tmp_path / "run"
    assert main(["pretrain", str(cohort), "--name", "own-base", "--run", str(run / "a"), *TINY, "--steps", "4", "--steps-per-epoch", "2"]) == 0
    base = read_info(models / "own-base.safetensors")
    assert base.kind == "base" and base.network.width == 4 and base.training["cases"] == 5 and base.training["validation_cases"] == 1
    capsys.readouterr()
    assert main([*train, "--run", str(run / "b"), "--events", "json", *common]) == 0
    events = json_lines(capsys.readouterr().out)
    [result] = of_kind(events, "result")
    adapter = read_info(models / "mine.safetensors")
    assert adapter.base_digest == base.digest and adapter.adapter is not None and adapter.adapter.rank == 2
    assert result["digest"] == adapter.digest and result["steps"] == 4 and {"loss", "val_dice"} <= {e["name"] for e in of_kind(events, "metric")}
    assert main(["segment", str(cohort / "c0.nrrd"), "--output", str(tmp_path / "out"), "--adapter", "mine"]) == 0
    capsys.readouterr()
    # Finished, the same command ends at once with the same model; another training does not take its name.
    assert main([*train, "--run", str(run / "b"), *common]) == 0
    assert read_info(models / "mine.safetensors").digest == adapter.digest
    assert main([*train, "--run", str(run / "c"), *common]) == 2 and "already" in capsys.readouterr().err


def test_pretrain_goes_on_from_a_base_and_widens_it(cohort: Path, tmp_path: Path, models: Path, capsys: Capture) -> None:
    run = ["--run", str(tmp_path / "run"), "--crop", "32", "32", "--batch", "2", "--device", "cpu", "--steps", "2", "--steps-per-epoch", "2"]
    wide = ["--network.levels", "2", "--network.width", "4", "--network.growth", "2"]
    first = next(read_info(path) for path in models.iterdir() if read_info(path).kind == "base")
    assert main(["pretrain", str(cohort), "--name", "wide", "--start", first.name, *run, *wide, "--learning-rate", "1e-9"]) == 0
    base = read_info(models / "wide.safetensors")
    assert base.kind == "base" and base.network.widths == (4, 6, 8) and base.grid == first.grid and base.base_digest is None
    assert base.training["continued_from"] == {"name": first.name, "digest": first.digest}
    capsys.readouterr()
    again = ["pretrain", str(cohort), "--name", "deep", "--start", first.name, *run[2:], "--run", str(tmp_path / "other")]
    assert main([*again, "--network.levels", "3", "--network.width", "4"]) == 2
    assert "can only be made wider" in capsys.readouterr().err


def test_training_stops_before_it_begins_where_cases_are_wrong(cohort: Path, tmp_path: Path, capsys: Capture) -> None:
    (cohort / "m1.nrrd").unlink()
    (cohort / "c3.nrrd").write_bytes(b"NRRD")
    assert main(["train", str(cohort), "--name", "mine", "--run", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert "2 of 6 cases cannot be used" in told and "c1" in told and "c3" in told and not (tmp_path / "run").exists()


def test_pretrain_and_train_know_their_strategies(cohort: Path, capsys: Capture) -> None:
    assert main(["pretrain", str(cohort), "--name", "x", "--strategy", "adapter"]) == 2 and "use: sahlora train" in capsys.readouterr().err
    assert main(["train", str(cohort), "--name", "x", "--strategy", "scratch"]) == 2 and "use: sahlora pretrain" in capsys.readouterr().err


def test_test_cases_are_kept_out_and_validation_cases_follow_the_table(cohort: Path) -> None:
    from SAHLoRALib.commands.fitting import chosen_cases
    from SAHLoRALib.commands.train import Arguments

    table = (cohort / "cases.csv").read_text(encoding="utf-8").splitlines()
    marks = ["split", "train", "train", "val", "test", "train", "train"]
    (cohort / "cases.csv").write_text("\n".join(f"{line},{mark}" for line, mark in zip(table, marks, strict=True)), encoding="utf-8")
    training, validation, _ = chosen_cases(Arguments(cases=cohort, name="x"), Events())
    assert [c.case for c in training] == ["c0", "c1", "c4", "c5"] and [c.case for c in validation] == ["c2"]
    training, validation, _ = chosen_cases(Arguments(cases=cohort, name="x", validation_share=0.4), Events())
    assert len(validation) == 2 and not set(training.patients) & set(validation.patients) and "c3" not in {c.case for c in [*training, *validation]}


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
