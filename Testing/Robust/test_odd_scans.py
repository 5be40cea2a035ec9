"""Every broken or odd scan through `sahlora segment`: it is measured rightly, or refused with one sentence that leaves nothing behind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import Record
from heads import save_seer
from odd_dicom import DICOM
from odd_images import IMAGES
from odd_scan import OddScan
from SAHLoRALib.cli import main

#: One in six runs with every `make test`; the others with `make test-robust`.
SCANS = [pytest.param(odd, id=odd.name, marks=[] if n % 6 == 0 and not odd.slow else [pytest.mark.robust]) for n, odd in enumerate((*DICOM, *IMAGES))]


@pytest.fixture(scope="module")
def seer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_seer(tmp_path_factory.mktemp("models")).path


@pytest.mark.parametrize("odd", SCANS)
def test_a_scan_is_measured_rightly_or_refused_in_one_sentence(
    odd: OddScan, seer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], outcome: Record
) -> None:
    (tmp_path / "in").mkdir()
    path, output = odd.make(tmp_path / "in"), tmp_path / "out"
    capsys.readouterr()
    code = main(["segment", str(path), "--output", str(output), "--model", str(seer), "--device", "cpu"])
    said = capsys.readouterr()
    left = sorted(p.relative_to(output).as_posix() for p in output.rglob("*") if p.is_file())
    assert "Traceback" not in said.out + said.err and "bug" not in said.err
    if odd.refused:
        [sentence] = [line for line in said.err.splitlines() if line.startswith("sahlora: error: ")]
        assert code == 2 and re.search(odd.refused, sentence)
        assert left == ["summary.csv"], "a refused scan leaves the line that says why, and no result"
        told = sentence.removeprefix("sahlora: error: ")
    else:
        assert code == 0, said.err
        [report] = [json.loads(p.read_text(encoding="utf-8")) for p in output.rglob("report.json")]
        if odd.ml is not None:
            assert report["total_ml"] == pytest.approx(odd.ml, rel=0.06, abs=0.3)
        warnings = " ".join(report["warnings"])
        assert re.search(odd.warned, warnings) if odd.warned else not report["warnings"]
        told = f"{report['total_ml']:.1f} mL. {warnings}".strip()
    names = [Path(name).name for name in left]
    outcome("Scans", odd.name, told.replace(str(tmp_path / "in"), "…"), ", ".join(sorted(set(names))))
