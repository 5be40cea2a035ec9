"""Resources/Study/make_models.sh: its order, what it skips, and that every flag in it exists; a recorder stands for the hours of training."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from SAHLoRALib.cli import main

SCRIPT = Path(__file__).resolve().parents[2] / "Resources" / "Study" / "make_models.sh"
#: Writes down how it was called, and makes the model or card that the real command would make.
RECORDER = """#!/bin/sh
line=$(printf '%s\\t' "$@")
printf '%s\\n' "$line" >> "$CALLS"  # in one write: two of them run side by side
mkdir -p models
case $1 in
card) touch "${2%.safetensors}.md" ;;
phantom) for table in tbi asah; do for part in train validation test more; do
    mkdir -p $table-$part; printf 'case,image,mask\\na,a/ct.nrrd,a/mask.nrrd\\n' > $table-$part/cases.csv; done; done ;;
pretrain|train|combine)
    while [ "$1" != --name ]; do shift; done
    name=$2
    while [ "$1" != --folder ]; do shift; done; touch "$2/$name.safetensors" ;;
esac
"""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the script is for a POSIX shell")


def make(folder: Path, heads: str | None, script: str = RECORDER, base: str = "new") -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """The script's outcome, and the words of each call of sahlora so far."""
    recorder, calls = folder / "recorder", folder / "calls"
    recorder.write_text(script, encoding="utf-8")
    recorder.chmod(0o755)
    world = {k: v for k, v in os.environ.items() if k != "HEADS"} | {"SAHLORA": str(recorder), "CALLS": str(calls), "OUTPUT": str(folder / "out")}
    world["BASE"] = base
    done = subprocess.run(["sh", str(SCRIPT)], env=world | ({"HEADS": heads} if heads else {}), capture_output=True, text=True, check=False)
    lines = calls.read_text(encoding="utf-8").splitlines() if calls.exists() else []
    return done, [line.rstrip("\t").split("\t") for line in lines]


def heads(folder: Path) -> str:
    (folder / "heads").mkdir()
    (folder / "heads" / "training_seg_01.nii.gz").touch()
    return str(folder / "heads")


def test_models_are_made_in_order_and_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    where = heads(tmp_path)
    done, calls = make(tmp_path, where)
    assert done.returncode == 0, done.stderr
    assert [call[0] for call in calls] == ["phantom", "pretrain", *["train"] * 3, *["card"] * 3]
    for part in ("train", "validation", "more"):
        merged = (tmp_path / "out" / f"both-{part}.csv").read_text(encoding="utf-8").splitlines()
        assert merged == ["case,image,mask", *(f"a,{kind}-{part}/a/ct.nrrd,{kind}-{part}/a/mask.nrrd" for kind in ("tbi", "asah"))]
    (tmp_path / "out" / "models" / "asah-cp-lora.safetensors").unlink()
    again = make(tmp_path, where)[1][len(calls) :]
    assert [call[0] for call in again] == ["phantom", "train", "card"]
    assert all("asah-cp-lora" in " ".join(call) for call in again[1:])
    # The default adapter's second stage goes on from its first, which is kept beside the models.
    stages = [call for call in calls if call[0] == "train" and call[call.index("--name") + 1] == "all-conv-lora"]
    assert [call[call.index("--folder") + 1] for call in stages] == ["stages", "models"] and "--continue-from" not in stages[0]
    assert stages[1][stages[1].index("--continue-from") + 1] == "stages/all-conv-lora.safetensors"
    (tmp_path / "out" / "models" / "all-conv-lora.safetensors").unlink()
    again = make(tmp_path, where)[1][len(calls) + len(again) :]
    assert [call[0] for call in again] == ["phantom", "train", "card"] and again[1] == stages[1]


def test_without_more_the_adapters_start_from_the_base_that_comes_along(tmp_path: Path) -> None:
    done, calls = make(tmp_path, heads(tmp_path), base="")
    assert done.returncode == 0, done.stderr
    assert [call[0] for call in calls] == ["phantom", *["train"] * 3, *["card"] * 3]
    bundled = SCRIPT.parents[1] / "Models" / "tbi-base.safetensors"
    assert (tmp_path / "out" / "models" / "tbi-base.safetensors").read_bytes() == bundled.read_bytes()
    commands = [call[call.index("--commands") + 1] for call in calls if call[0] == "card"]
    assert commands == ["base-commands.txt", *["commands.txt"] * 2]
    told = (tmp_path / "out" / "base-commands.txt").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("sahlora pretrain") for line in told) and not any("```" in line for line in told)  # the base's own card tells them


def test_a_base_that_is_not_known_is_refused(tmp_path: Path) -> None:
    done, calls = make(tmp_path, heads(tmp_path), base="old")
    assert (done.returncode, calls) == (2, []) and done.stderr == "BASE: it is new, or left out, but not old.\n"


def test_a_new_base_takes_new_adapters_and_new_cards(tmp_path: Path) -> None:
    where = heads(tmp_path)
    calls = make(tmp_path, where)[1]
    (tmp_path / "out" / "models" / "tbi-base.safetensors").unlink()
    again = make(tmp_path, where)[1][len(calls) :]
    assert [call[0] for call in again] == ["phantom", "pretrain", *["train"] * 3, *["card"] * 3]


@pytest.mark.parametrize("number", range(8))
def test_every_command_of_the_script_is_understood(number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With one flag more that does not exist, that flag is all that the parser complains about."""
    call = make(tmp_path, heads(tmp_path))[1][number]
    assert main([*call, "--no-such-flag"]) == 2
    told = capsys.readouterr().err
    assert "no-such-flag" in told and [word for word in call if word.startswith("--") and word in told.split()] == []


def test_without_heads_one_sentence_says_what_to_name(tmp_path: Path) -> None:
    for given, told in ((None, "HEADS is not set"), (str(tmp_path), "no label map")):
        done, calls = make(tmp_path, given)
        assert (done.returncode, calls) == (2, []) and told in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_scan_without_haemorrhage_is_measured_for_every_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = heads(tmp_path)
    (tmp_path / "healthy scan").mkdir()
    monkeypatch.setenv("CLEAN", str(tmp_path / "healthy scan"))
    calls = make(tmp_path, where)[1]
    assert all(call[call.index("--clean") + 1] == str(tmp_path / "healthy scan") for call in calls if call[0] == "card")
    monkeypatch.setenv("CLEAN", str(tmp_path / "nothing"))
    assert "CLEAN: there is no scan" in make(tmp_path, where)[0].stderr


def test_a_training_that_fails_beside_another_ends_the_whole(tmp_path: Path) -> None:
    """Two adapters are trained side by side; the one in the background must not fail unseen."""
    where = heads(tmp_path)
    failing = RECORDER.replace("case $1 in", 'case "$*" in train*all-conv-lora*) exit 1 ;; esac\ncase $1 in')
    done, calls = make(tmp_path, where, failing)
    assert done.returncode != 0 and "card" not in [call[0] for call in calls]
