"""Odd case tables through `sahlora cases check`, odd weight files through `sahlora segment`: used rightly, or refused in one sentence."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import pytest
import SimpleITK as sitk
from conftest import Record
from heads import save_seer, upright
from odd_models import MODELS, OddModel
from odd_tables import TABLES, OddTable, three_cases
from SAHLoRALib.adapters import AdapterConfig, attach
from SAHLoRALib.cli import main
from SAHLoRALib.slices import PixelGrid
from SAHLoRALib.weights import load_network, read_info, save_adapter, save_base
from tiny_scans import bright_network

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("odd", TABLES, ids=lambda odd: odd.name)
def test_a_case_table_is_used_rightly_or_what_is_wrong_is_said(odd: OddTable, tmp_path: Path, capsys: Capture, outcome: Record) -> None:
    path = odd.change(three_cases(tmp_path / "cases"))
    before = sorted(p for p in tmp_path.rglob("*"))
    code = main(["cases", "check", str(path)])
    said = capsys.readouterr()
    told = said.out + said.err
    assert "Traceback" not in told and re.search(odd.says, told)
    assert (code == 0) == odd.good and sorted(p for p in tmp_path.rglob("*")) == before
    line = next(" ".join(line.split()) for line in told.splitlines() if re.search(odd.says, line))
    outcome("Masks and case tables", odd.name, line.removeprefix("sahlora: error: ").replace(str(tmp_path / "cases"), "…"), "nothing new")


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, capsys: Capture, outcome: Record) -> None:
    scan, bases = tmp_path / "ct.nrrd", [tmp_path / f"{n}.safetensors" for n in range(2)]
    sitk.WriteImage(upright(), str(scan))
    for path, threshold in zip(bases, (49.0, 60.0), strict=True):
        save_base(bright_network(threshold), path, grid=PixelGrid(pixel_mm=2.5, multiple=4))
    network, config = load_network(bases[0])[0], AdapterConfig(rank=1)
    attach(network, config)
    adapter = save_adapter(network, config, tmp_path / "adapter.safetensors", base=read_info(bases[0]))
    command = ["segment", str(scan), "--output", str(tmp_path / "out"), "--model", str(bases[1]), "--adapter", str(adapter.path), "--device", "cpu"]
    assert main(command) == 2
    [sentence] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sahlora: error: ")]
    assert "belongs to the base 0" in sentence and not (tmp_path / "out").exists()
    outcome("Weight files", "an adapter of another base", sentence.removeprefix("sahlora: error: "), "nothing new")


@pytest.mark.parametrize("odd", MODELS, ids=lambda odd: odd.name)
def test_a_weight_file_that_cannot_be_trusted_is_refused(odd: OddModel, tmp_path: Path, capsys: Capture, outcome: Record) -> None:
    scan = tmp_path / "ct.nrrd"
    sitk.WriteImage(upright(), str(scan))
    model = odd.change(save_seer(tmp_path / "models").path)
    before, memory = sorted(tmp_path.rglob("*")), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main(["segment", str(scan), "--output", str(tmp_path / "out"), "--model", model, "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    [sentence] = [line for line in said.splitlines() if line.startswith("sahlora: error: ")]
    assert "Traceback" not in said and re.search(odd.says, sentence)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written, and nothing was executed"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 300_000, "kB; no memory for what a header only claims"
    outcome("Weight files", odd.name, sentence.removeprefix("sahlora: error: ").replace(str(tmp_path / "models"), "…"), "nothing new")
