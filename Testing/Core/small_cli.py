"""What tests of the command line share: a model folder of its own, and what `--events json` told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_scans import save_models


def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's model folder, with tbi-base and soft in it; no others, so the default is tbi-base alone."""
    folder = tmp_path / "models"
    save_models(folder)
    monkeypatch.setenv("SAHLORA_MODELS", str(folder))
    monkeypatch.setattr("SAHLoRALib.catalogue.bundled_folders", list)
    monkeypatch.setattr("SAHLoRALib.segmenter.DEFAULT_ADAPTER", "none")
    return folder


def json_lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def of_kind(events: list[dict[str, object]], kind: str) -> list[dict[str, object]]:
    return [event for event in events if event["event"] == kind]
