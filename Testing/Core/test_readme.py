"""The commands of the README are such as the program takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from SAHLoRALib.cli import main

README = Path(__file__).resolve().parents[2] / "README.md"


def commands() -> list[list[str]]:
    """The arguments of every `sahlora …` line and of every script in Slicer, without comments."""
    found = []
    for line in README.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"    \.venv/bin/sahlora (.+)", line):
            found.append(shlex.split(match[1], comments=True))
        elif match := re.search(r"Scripts/(segment|train)\.py -- (.+)", line):
            found.append([match[1], *shlex.split(match[2], comments=True)])
    return found


def test_the_readme_shows_the_main_commands() -> None:
    assert {"segment", "models", "cases", "train", "study", "phantom"} <= {words[0] for words in commands()}


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_command_is_taken_as_it_stands(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one flag more that does not exist, that flag is all that the parser complains about."""
    monkeypatch.chdir(tmp_path)
    for name in ("study.yaml", "Resources/Study/paper.yaml"):  # a study's file is read before its flags
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("cases: cases.csv\nmethods: [cp-lora]\n", encoding="utf-8")
    assert main([*words, "--no-such-flag"]) == 2
    told = capsys.readouterr().err
    assert "no-such-flag" in told and "Missing" not in told
    assert [word for word in words if word.startswith("--") and word in told.split()] == []
