"""What made a model or a study stands in its header, its card and beside its tables, without names."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from SAHLoRALib import __version__
from SAHLoRALib.card_text import card_text
from SAHLoRALib.cli import main
from SAHLoRALib.commands.fitting import chosen_cases
from SAHLoRALib.commands.train import Arguments
from SAHLoRALib.events import Events
from SAHLoRALib.provenance import program, table_digest
from SAHLoRALib.study import StudyResult, run_study
from SAHLoRALib.study_config import StudyConfig
from SAHLoRALib.training import fit, save_model
from SAHLoRALib.weights import read_info
from small_training import SMALL, WAYS
from tiny_cohort import CancelAfter, flags, quick, save_cohort, save_tiny_base

Capture = pytest.CaptureFixture[str]


def test_the_program_names_its_commit_in_a_checkout_and_only_there(tmp_path: Path) -> None:
    assert program(tmp_path) == f"SAHLoRA {__version__}"
    checkout = tmp_path / "checkout"
    (checkout / "SAHLoRASegment").mkdir(parents=True)
    git = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout[:12]
    assert program(checkout) == f"SAHLoRA {__version__} (commit {commit})"


def test_the_digest_of_a_table_follows_what_it_holds_and_not_its_names() -> None:
    assert table_digest({"a": "1", "b": "2"}) == table_digest({"x": "2", "y": "1"}) != table_digest({"a": "1", "b": "3"})


def test_header_and_card_tell_program_and_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("SAHLORA_MODELS", str(tmp_path / "models"))
    save_tiny_base(tmp_path / "models")
    told = {}
    for name, more in (("folds", ["--folds", "2"]), ("one", ["--folds", "0"]), ("other", ["--folds", "0"])):
        cases = save_cohort(tmp_path / name, (3, 5, 7, 4) if name != "other" else (3, 5, 7, 6))
        assert main(["train", str(cases), "--name", name, "--run", str(tmp_path / f"run-{name}"), "--base", "tiny", *flags(), *more]) == 0
        info = read_info(tmp_path / "models" / f"{name}.safetensors")
        told[name] = info.training["cases_digest"]
        assert info.training["program"] == program()
        assert f"trained by {program()}, from cases with the digest `{told[name]}`" in card_text(info)
        assert len(info.training["scans"]) == 4 and all(re.fullmatch("[0-9a-f]{8}", scan) for scan in info.training["scans"])
        capsys.readouterr()
        assert main(["card", name, "--cases", str(cases)]) == 2 and f"{name} was trained or chosen on a00, a01, a02, a03," in capsys.readouterr().err
    assert told["folds"] == told["one"] != told["other"]


def test_a_header_tells_the_scans_of_the_validation_table_too(tmp_path: Path) -> None:
    cases, other = save_cohort(tmp_path / "cases", (3, 4, 5)), save_cohort(tmp_path / "other", (7, 8), ("v0", "v1"))
    _, _, told = chosen_cases(Arguments(cases=cases, name="x", validation=other), Events())
    alone = [chosen_cases(Arguments(cases=table, name="x"), Events())[2] for table in (cases, other)]
    assert set(told["scans"]) == {scan for part in alone for scan in part["scans"]} and len(told["scans"]) == 5
    assert told["cases_digest"] == alone[0]["cases_digest"]


def test_a_fine_tuned_network_tells_the_scans_of_its_base_and_an_adapter_those_of_its_own(tmp_path: Path, train: Any, base: Any) -> None:
    known = replace(base, training={"scans": ["0123abcd"]})
    for way, scans in (("decoder", ["0123abcd", "89abcdef"]), ("cp-lora", ["89abcdef"])):
        result = fit(replace(SMALL, steps=1, **WAYS[way]), train, (), known, tmp_path / way)
        path = tmp_path / f"{way}.safetensors"
        assert save_model(result, path, training={"scans": ["89abcdef"]}).training["scans"] == scans
        more = fit(replace(result.config, steps=1), train, (), known, tmp_path / f"{way}-2", start=read_info(path)) if way == "cp-lora" else result
        assert save_model(more, tmp_path / "more.safetensors", training={"scans": ["44556677"]}).training["scans"] == sorted(["44556677", *scans[:1]])


def test_one_file_holds_pretraining_and_study(tmp_path: Path, capsys: Capture) -> None:
    trauma = save_cohort(tmp_path / "tbi", (3, 4, 5, 6, 7))
    save_cohort(tmp_path / "asah", (2, 4, 6, 8))
    quick = {"steps": 2, "steps_per_epoch": 2, "batch": 4, "crop": [48, 32], "threads": 1, "device": "cpu", "precision": "float32"}
    small = {**quick, "network": {"levels": 2, "width": 4}, "grid": {"pixel_mm": 5.0, "multiple": 4}}
    settings = {
        "cases": "asah/cases.csv", "output": "study", "methods": ["zero-shot", "cp-lora"], "ranks": [1], "folds": 2, "resamples": 50,
        "training": quick, "pretraining": {"cases": "tbi/cases.csv", "validation": 0.2, "training": small},
    }  # fmt: skip
    file = tmp_path / "study.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    study = StudyConfig.read(file)
    assert study.pretraining and study.pretraining.cases == trauma
    assert StudyConfig.from_dict(json.loads(json.dumps(study.as_dict()))) == study
    assert main(["study", "--file", str(file)]) == 0
    base = read_info(tmp_path / "study" / "base.safetensors")
    assert (base.kind, base.training["cases"], base.training["validation_cases"]) == ("base", 4, 1)
    made = json.loads((tmp_path / "study" / "made_of.json").read_text(encoding="utf-8"))
    assert made["program"] == program() and made["base"]["digest"] == base.digest and len(made["runs"]) >= 3
    assert all((tmp_path / "study" / "runs" / name).is_dir() for name in made["runs"])
    assert made["cases_digest"] in (tmp_path / "study" / "report.md").read_text(encoding="utf-8")
    # Again: nothing is trained; with other settings the base that lies there is not taken.
    capsys.readouterr()
    assert main(["study", "--file", str(file)]) == 0 and "is finished already" in capsys.readouterr().err
    settings["pretraining"]["training"]["learning_rate"] = 0.5  # type: ignore[index]
    file.write_text(json.dumps(settings), encoding="utf-8")
    assert main(["study", "--file", str(file)]) == 2 and "another pre-training" in capsys.readouterr().err


def test_a_study_whose_runs_are_of_several_programs_says_so(tmp_path: Path) -> None:
    base = save_tiny_base(tmp_path)
    config = StudyConfig(
        save_cohort(tmp_path / "cases", (3, 5, 7, 4)), tmp_path / "study", str(base.path), ("zero-shot",), folds=2, resamples=50, training=quick()
    )

    def done() -> tuple[StudyResult, dict[str, Any], str, list[str]]:
        result = run_study(config, events := CancelAfter())
        made = json.loads((config.output / "made_of.json").read_text(encoding="utf-8"))
        told = [e["message"] for e in events.of("log") if "programs" in e["message"]]
        return result, made, (config.output / "report.md").read_text(encoding="utf-8"), told

    result, made, report, told = done()
    names = [run.name for run, _ in result.runs]
    assert made["programs"] == dict.fromkeys(names, program()) and not told and f"`, by {program()}; digests" in report
    for name, other in zip(names[:2], ("SAHLoRA 0.0.1 (commit 5b85c1e3a2f1)", None), strict=True):
        path = config.output / "runs" / name / "run.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        del content["program"]  # as an earlier version left it
        path.write_text(json.dumps(content | ({"program": other} if other else {})), encoding="utf-8")
    result, made, report, told = done()
    assert result.skipped == 3 and list(made["programs"].values()) == ["SAHLoRA 0.0.1 (commit 5b85c1e3a2f1)", "an earlier version", program()]
    line = f"runs of 3 programs: SAHLoRA 0.0.1 (commit 5b85c1e3a2f1) did 1, an earlier version did 1, {program()} did 1"
    assert line in report and len(told) == 1 and line in told[0]
    # What is still to be done counts as this program's, before it is done.
    (config.output / "runs" / names[1] / "run.json").unlink()
    result, made, _, told = done()
    assert result.skipped == 2 and made["programs"][names[1]] == program() and len(told) == 1 and f"{program()} did 2" in told[0]


def test_a_training_whose_folds_are_of_several_programs_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("SAHLORA_MODELS", str(tmp_path / "models"))
    save_tiny_base(tmp_path / "models")
    cases, work = save_cohort(tmp_path / "cases", (3, 5, 7, 4)), tmp_path / "work"
    given = ["train", str(cases), "--name", "mine", "--run", str(work), "--base", "tiny", "--folds", "2", *flags()]
    assert main(given) == 0 and "programs" not in capsys.readouterr().err
    assert f"`, by {program()}." in (work / "report.md").read_text(encoding="utf-8")
    path = next(iter(work.glob("runs/*/run.json")))
    path.write_text(path.read_text(encoding="utf-8").replace(program(), "SAHLoRA 0.0.1"), encoding="utf-8")
    assert main(given) == 0
    told = capsys.readouterr().err
    assert "runs of 2 programs: " in told and "finished already" in told
    assert "SAHLoRA 0.0.1 did 1" in (work / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("pretraining", "told"),
    [
        ({"cases": "a.csv", "epochs": 3}, "Unknown setting epochs in the study's pretraining"),
        ({"validation": 0.1}, "No cases are named"),
        ({"cases": "a.csv", "validation": 0.9}, "between 0 and 0.5"),
        ({"cases": "a.csv", "training": {"strategy": "all"}}, "trains from scratch"),
        ({"cases": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_wrong_pretraining_is_told_in_a_sentence(pretraining: dict[str, object], told: str, tmp_path: Path, capsys: Capture) -> None:
    save_cohort(tmp_path / "asah", (2, 4, 6))
    (tmp_path / "study.json").write_text(json.dumps({"cases": "asah/cases.csv", "output": "study", "pretraining": pretraining}), encoding="utf-8")
    assert main(["study", "--file", str(tmp_path / "study.json")]) == 2
    said = capsys.readouterr().err
    assert told in said and "Traceback" not in said
