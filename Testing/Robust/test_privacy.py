"""Nothing of a DICOM header's patient gets into what is written: results, log, temporary files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from heads import bleeding, save_seer, scaled
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
    command = ["segment", str(tmp_path / "scan"), str(tmp_path / "broken"), "--output", str(tmp_path / "out"), "--model", str(model)]
    assert main([*command, "--device", "cpu", "--probability", "--keep-ct", "--format", "nii.gz", "--events", form]) == 1
    said = capsys.readouterr()
    assert nothing_planted_in([tmp_path / "out", tmp_path / "tmp"], said.out + said.err) > 5


def nothing_planted_in(folders: list[Path], said: str) -> int:
    """Search every file, and every path, for the planted words; returns how many were searched."""
    written = [p for folder in folders for p in folder.rglob("*") if p.is_file()]
    texts = {str(p): gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes() for p in written}
    texts |= {"the paths": "\n".join(texts).encode(), "what was said": said.encode()}
    words = [word.encode() for value in PLANTED.values() for word in value.split("^") if len(word) > 4]  # "Dr" turns up by chance
    assert [(place, word) for place, text in texts.items() for word in words if word in text] == []
    return len(texts)


def test_trainings_studies_and_cards_hold_no_planted_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("SAHLORA_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    model = save_seer(tmp_path / "models").path
    for n in range(6):
        series(tmp_path / "cases" / f"scan{n}", hu=scaled(bleeding, 1 + 0.02 * n), **PLANTED)
    scans = [str(tmp_path / "cases" / f"scan{n}") for n in range(6)]
    assert main(["segment", *scans, "--output", "out", "--model", str(model), "--device", "cpu"]) == 0
    rows = [f"case{n},scan{n},{next((tmp_path / 'out').glob(f'*{n}/mask.nrrd'))},patient{n},here" for n in range(6)]
    for name, part in (("cases", rows[:4]), ("held-out", rows[4:])):
        Path(f"cases/{name}.csv").write_text("\n".join(["case,image,mask,patient,site", *part]) + "\n", encoding="utf-8")
    quick = {"steps": 2, "steps-per-epoch": 2, "batch": 2, "threads": 1, "device": "cpu", "memory-gb": 0}
    flags = [f"--{name}={value}" for name, value in quick.items()]
    small = ["--crop", "48", "48"]
    assert main(["cases", "check", "cases/cases.csv"]) == 0
    assert main(["train", "cases/cases.csv", "--name", "mine", "--base", "seer", "--folds", "2", *flags, *small]) == 0
    assert main(["card", "models/mine.safetensors", "--cases", "cases/held-out.csv"]) == 0
    assert main(["evaluate", "runs/mine/predictions", "cases/cases.csv"]) == 0
    of_study = [*(flag.replace("--", "--training.") for flag in flags), "--training.crop", "48", "48"]
    study = ["study", "--cases", "cases/cases.csv", "--output", "study", "--base", "seer", "--methods", "zero-shot", "cp-lora", "--ranks", "1"]
    assert main([*study, "--folds", "2", "--resamples", "20", *of_study]) == 0
    said = capsys.readouterr()
    searched = [tmp_path / name for name in ("models", "runs", "study", "out", "tmp")]
    assert nothing_planted_in(searched, said.out + said.err) > 40
