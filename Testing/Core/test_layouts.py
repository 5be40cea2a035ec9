"""Case folders: cases are found in every usual layout, and what is incomplete is told."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from SAHLoRALib.cases import CaseTable
from SAHLoRALib.errors import CaseError
from SAHLoRALib.layouts import find_cases
from small_cases import SPACING, bleed, head, problems, save


def save_dicom(array: np.ndarray, folder: Path) -> None:
    """A plain axial CT series, one file a slice."""
    folder.mkdir(parents=True)
    uid = "1.2.826.0.1.3680043.2.1125.1"
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, plane in enumerate(array):
        image = sitk.GetImageFromArray(plane)
        image.SetSpacing(SPACING[:2])
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2", "0008|0018": f"{uid}.2.{k + 1}", "0008|0008": "ORIGINAL\\PRIMARY\\AXIAL", "0008|0060": "CT",
            "0010|0010": "NOBODY^AT ALL", "0020|000d": f"{uid}.3", "0020|000e": f"{uid}.4", "0020|0052": f"{uid}.5", "0020|0013": str(k + 1),
            "0018|0050": "5", "0020|0032": f"-100\\-100\\{5 * k}", "0020|0037": "1\\0\\0\\0\\1\\0", "0028|1052": "0", "0028|1053": "1",
            "0008|103e": "Head 5 mm", "0020|0011": "2",
        }  # fmt: skip
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"IM{k:04}"))
        writer.SetImageIO("GDCMImageIO")
        writer.Execute(image)


def test_subfolders_with_files_and_dicom_are_cases(tmp_path: Path) -> None:
    save(head(0), tmp_path / "one/ct.nii.gz")
    save(bleed(), tmp_path / "one/mask.nii.gz")
    save(head(1), tmp_path / "two/whatever.nrrd")
    save(bleed(), tmp_path / "two/whatever.seg.nrrd")
    save_dicom(head(2), tmp_path / "three/DICOM")
    save(bleed(), tmp_path / "three/label.nrrd")
    save_dicom(head(3), tmp_path / "four")
    save(bleed(), tmp_path / "four/mask.nrrd")
    (tmp_path / "figures").mkdir()
    table = CaseTable.read(tmp_path)
    assert [c.case for c in table] == ["four", "one", "three", "two"]
    assert problems(table) == {}
    assert np.array_equal(table["three"].read()[0].hu, head(2).astype(np.float32))
    assert all("NOBODY" not in str(f) for f in table.check())
    assert "patient" in table.warnings[-1]


def test_pairs_by_name_are_cases(tmp_path: Path) -> None:
    for name in ("a_ct.nii.gz", "b.nrrd", "c-image.nii", "._a_ct.nii.gz"):
        save(head(ord(name[0])), tmp_path / name)
    for name in ("a_mask.nii.gz", "b.seg.nrrd", "c-label.nii", "d_seg.nii.gz"):
        save(bleed(), tmp_path / name)
    save_dicom(head(9), tmp_path / "d")
    table = CaseTable.read(tmp_path)
    assert [(c.case, c.image.name, c.mask.name) for c in table if c.mask] == [
        ("a", "a_ct.nii.gz", "a_mask.nii.gz"), ("b", "b.nrrd", "b.seg.nrrd"), ("c", "c-image.nii", "c-label.nii"), ("d", "d", "d_seg.nii.gz"),
    ]  # fmt: skip
    assert problems(table) == {}


def test_nnunet_folder_takes_the_first_channel(tmp_path: Path) -> None:
    for name in ("ICH_001", "ICH_002"):
        save(head(int(name[-1])), tmp_path / f"imagesTr/{name}_0000.nii.gz")
        save(bleed(), tmp_path / f"labelsTr/{name}.nii.gz")
    save(head(), tmp_path / "imagesTr/ICH_002_0001.nii.gz")
    table = CaseTable.read(tmp_path)
    assert [(c.case, c.image.name) for c in table] == [("ICH_001", "ICH_001_0000.nii.gz"), ("ICH_002", "ICH_002_0000.nii.gz")]
    assert any("ICH_002_0001" in w for w in table.warnings) and problems(table) == {}


def test_physionet_ct_ich_folder_knows_patients_and_who_has_no_haemorrhage(tmp_path: Path) -> None:
    folder = tmp_path / "computed-tomography-images-1.3.1"
    for n in (49, 50, 51):
        save(head(n), folder / f"ct_scans/0{n}.nii")
        save(bleed() * np.uint8(255) * (n == 49), folder / f"masks/0{n}.nii")
    rows = ["PatientNumber,SliceNumber,Subarachnoid,No_Hemorrhage,Fracture_Yes_No", "49,1,0,1,0", "49,2,1,0,0", "50,1,0,1,1", "51,1,1,0,0"]
    (folder / "hemorrhage_diagnosis_raw_ct.csv").write_text("\n".join(rows))
    table = CaseTable.read(tmp_path)
    assert [(c.case, c.patient, c.haemorrhage) for c in table] == [("049", "049", True), ("050", "050", False), ("051", "051", True)]
    assert table.warnings == ()
    assert list(problems(table)) == ["051"]


def test_incomplete_cases_of_a_folder_are_reported_with_what_to_do(tmp_path: Path) -> None:
    save(head(0), tmp_path / "good/ct.nii.gz")
    save(bleed(), tmp_path / "good/mask.nii.gz")
    save(head(1), tmp_path / "no_mask/ct.nii.gz")
    save(bleed(), tmp_path / "no_scan/mask.nii.gz")
    save(head(2), tmp_path / "which/a.nii.gz")
    save(bleed(), tmp_path / "which/b.nii.gz")
    save(head(3), tmp_path / "raters/ct.nii.gz")
    save(bleed(), tmp_path / "raters/one_mask.nii.gz")
    save(bleed(), tmp_path / "raters/two_mask.nii.gz")
    found = problems(CaseTable.read(tmp_path))
    assert "no mask" in found["no_mask"] and "no scan" in found["no_scan"]
    assert "which is the mask" in found["which"] and "2 masks" in found["raters"] and "good" not in found


def test_folder_without_cases_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="imagesTr"):
        CaseTable.read(tmp_path)
    with pytest.raises(CaseError, match="does not exist"):
        CaseTable.from_folder(tmp_path / "absent")


def test_a_folder_that_may_not_be_read_is_told_in_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    real = Path.iterdir

    def refused(self):
        if self.name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(self)

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(CaseError, match=r"locked cannot be read \(Permission denied\): give yourself access"):
        find_cases(tmp_path)


def test_dicom_is_not_looked_for_through_a_whole_disk(tmp_path, monkeypatch):
    from SAHLoRALib import layouts

    monkeypatch.setattr(layouts, "_LOOKED_THROUGH", 30)
    for n in range(20):
        (tmp_path / "a" / f"{n:02}").mkdir(parents=True)
        (tmp_path / "a" / f"{n:02}" / "notes.txt").write_text("nothing")
    seen = []
    monkeypatch.setattr(layouts, "is_dicom", lambda path: seen.append(path) or False)
    walked = []
    real = os.walk
    monkeypatch.setattr(layouts.os, "walk", lambda folder: (walked.append(step[0]) or step for step in real(folder)))
    assert not layouts.holds_dicom(tmp_path / "a")
    assert len(seen) == 5 and len(walked) < 8  # five files that may be DICOM are enough
    monkeypatch.setattr(layouts, "split_name", lambda path: ("a", ".nrrd"))
    walked.clear()
    assert not layouts.holds_dicom(tmp_path / "a") and len(walked) <= 30


@pytest.mark.parametrize(("images", "masks"), [("data", "label"), ("images", "ground truths"), ("imagesTr", "labelsTr")])
def test_folders_of_public_data_sets_are_paired(tmp_path, images, masks):
    for folder, suffix in ((images, ".nii.gz"), (masks, ".nii.gz")):
        for name in ("head_0001", "head_0002"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{name}{suffix}").write_bytes(b"")
    layout = find_cases(tmp_path)
    assert [found.name for found in layout.cases] == ["head_0001", "head_0002"] and not layout.incomplete and not layout.warnings
