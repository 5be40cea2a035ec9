"""Nothing of a DICOM header's patient gets into what is written: results, log, temporary files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from heads import save_seer
from odd_dicom import series
from SAHLoRALib.cli import main

PLANTED = {
    "PatientName": "Quxenberg^Zoltana", "PatientID": "XK-90817263", "PatientBirthDate": "19410203", "AccessionNumber": "ACC5553331",
    "InstitutionName": "Klinikum Wurzelbach", "ReferringPhysicianName": "Dr^Hobbelstedt", "StudyDate": "20190807",
}  # fmt: skip


@pytest.mark.parametrize("form", ["console", "json"])
def test_planted_names_are_in_no_output_log_or_temporary_file(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = series(tmp_path / "scan", **PLANTED)
    (tmp_path / "broken").mkdir()
    for path in files[:12]:
        (tmp_path / "broken" / path.name).write_bytes(path.read_bytes()[:-500])
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    model = save_seer(tmp_path).path
    command = [
        "segment",
        str(tmp_path / "scan"),
        str(tmp_path / "broken"),
        "--output",
        str(tmp_path / "out"),
        "--model",
        str(model),
        "--device",
        "cpu",
    ]
    assert main([*command, "--device", "cpu", "--probability", "--keep-ct", "--format", "nii.gz", "--events", form]) == 1
    said = capsys.readouterr()
    written = [p for folder in ("out", "tmp") for p in (tmp_path / folder).rglob("*") if p.is_file()]
    texts = {str(p): gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes() for p in written}
    texts |= {"standard output": said.out.encode(), "standard error": said.err.encode()}
    assert len(texts) > 5
    words = [word.encode() for value in PLANTED.values() for word in value.split("^")]
    assert [(place, word) for place, text in texts.items() for word in words if word in text] == []
