"""The masks of cases: which labels are meant, where they lie on the scan, and what makes a case another one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from SAHLoRALib.case_check import patient_volumes
from SAHLoRALib.cases import Case, CaseTable, read_annotation
from SAHLoRALib.cohort import case_digests
from SAHLoRALib.ct import ct_from_image, write_segmentation
from SAHLoRALib.errors import CaseError, ScanError
from small_cases import SHAPE, SPACING, bleed, head, problems, save, table_of


def test_case_gives_scan_and_mask_on_one_grid(cohort: Path) -> None:
    ct, mask = CaseTable.read(cohort)["b"].read()
    assert mask.shape == ct.hu.shape and mask.dtype == bool
    assert np.array_equal(mask, bleed(4).astype(bool)) and np.array_equal(ct.hu, head(1).astype(np.float32))


def test_segment_is_chosen_by_name(cohort: Path) -> None:
    ct = ct_from_image(sitk.ReadImage(str(cohort / "ct/a.nii.gz")))
    write_segmentation(bleed(5).astype(bool), ct, cohort / "a.seg.nrrd", name="Clot")
    table = table_of(cohort, "case,image,mask,patient,segment\na,ct/a.nii.gz,a.seg.nrrd,p,clot\n")
    assert np.array_equal(table["a"].read()[1], bleed(5).astype(bool))
    with pytest.raises(CaseError, match=r"Case a: .*Clot"):
        CaseTable((Case("a", cohort / "ct/a.nii.gz", cohort / "a.seg.nrrd", "p", segment="Oedema"),))["a"].read()


def test_labels_of_a_mask_are_chosen_by_value(cohort: Path) -> None:
    labels = bleed(2) + 2 * np.roll(bleed(3), 8, axis=2) + 3 * np.roll(bleed(4), -8, axis=2)
    save(labels, cohort / "three.nii.gz")
    row = "case,image,mask,patient,segment\na,ct/a.nii.gz,three.nii.gz,p,{}\n"
    assert "several labels (1, 2, 3)" in problems(table_of(cohort, row.format("")))["a"]
    assert np.array_equal(table_of(cohort, row.format("1|3"))["a"].read()[1], np.isin(labels, (1, 3)))
    assert "no voxel of 7" in problems(table_of(cohort, row.format("7")))["a"]
    table_of(cohort, row.format(""))
    assert np.array_equal(CaseTable.read(cohort / "cases.csv", segment="2")["a"].read()[1], labels == 2)


def test_a_star_takes_all_labels_and_all_segments(tmp_path):
    image = sitk.GetImageFromArray(head())
    image.SetSpacing(SPACING)
    ct = ct_from_image(image, check=False)
    array = np.zeros(SHAPE, np.uint8)
    array[3, 10:14, 10:14], array[4, 10:14, 10:14] = 1, 5
    several = sitk.GetImageFromArray(array)
    several.CopyInformation(image)
    sitk.WriteImage(several, str(tmp_path / "several.nii.gz"))
    with pytest.raises(CaseError, match=r"for example 1\|5, or \* for all"):
        read_annotation(tmp_path / "several.nii.gz", ct)
    assert read_annotation(tmp_path / "several.nii.gz", ct, "*").sum() == 32
    for n, value in enumerate((1, 5)):
        several.SetMetaData(f"Segment{n}_ID", f"s{n}")
        several.SetMetaData(f"Segment{n}_Name", f"part {n}")
        several.SetMetaData(f"Segment{n}_LabelValue", str(value))
        several.SetMetaData(f"Segment{n}_Layer", "0")
    sitk.WriteImage(several, str(tmp_path / "several.seg.nrrd"))
    assert read_annotation(tmp_path / "several.seg.nrrd", ct, "*").sum() == 32


def test_mask_of_0_and_255_is_a_mask_and_a_probability_map_is_not(cohort: Path) -> None:
    save(bleed() * np.uint8(255), cohort / "m255.nii.gz")
    save(bleed().astype(np.float32) * np.random.default_rng(0).random(SHAPE, np.float32), cohort / "soft.nii.gz")
    text = "case,image,mask,patient\na,ct/a.nii.gz,m255.nii.gz,p\nb,ct/b.nii.gz,soft.nii.gz,q\n"
    assert list(problems(table_of(cohort, text))) == ["b"]


def test_empty_mask_is_fine_where_it_is_announced(cohort: Path) -> None:
    text = "case,image,mask,patient,hemorrhage\nb,ct/b.nii.gz,mask/b.nii.gz,p,yes\nc,ct/c.nii.gz,mask/c.nii.gz,q,no\n"
    table = table_of(cohort, text)
    findings = table.check()
    assert all(f.ok for f in findings) and findings[1].ml == 0
    assert not table["c"].read()[1].any()
    assert patient_volumes(table, findings) == {"p": pytest.approx(4.0), "q": 0.0}


def test_mask_that_differs_by_rounding_is_accepted(cohort: Path) -> None:
    save(bleed(), cohort / "mask/a.nii.gz", origin=(-100.0004, -99.9997, 0.0002))
    assert "a" not in problems(CaseTable.read(cohort))


def test_a_mask_with_two_geometries_is_refused_where_its_scan_has_one(cohort: Path) -> None:
    table = table_of(cohort, "case,image,mask,patient\na,ct/a.nii.gz,mask/a.nii.gz,p\n")
    for file, wrong in (("mask/a.nii.gz", True), ("ct/a.nii.gz", False)):
        image = nibabel.load(cohort / file)
        moved = image.affine.copy()
        moved[:3, 3] -= moved[:3, 2]
        both = nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
        both.set_qform(image.affine, 1)
        both.set_sform(moved, 2)
        nibabel.save(both, cohort / file)
        found = problems(table)
        assert ("two geometries" in found.get("a", "")) == wrong, found


def digest_of_a(table: CaseTable) -> str:
    return case_digests(table, table.check())["a"]


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz"])
def test_digest_of_a_case_follows_where_its_mask_lies_on_the_scan(cohort: Path, suffix: str) -> None:
    """A mask that was repaired by its header alone makes another case: what was trained with it before is not handed out again."""
    save(head(0), cohort / f"a{suffix}")
    table = table_of(cohort, f"case,image,mask,patient\na,a{suffix},a_mask{suffix},p\n")
    mask = sitk.ReadImage(str(save(np.roll(bleed(), 3, axis=2), cohort / f"a_mask{suffix}")))
    low = mask[:, :, :-1]  # so that it lies within the scan one slice higher, too
    high = sitk.Image(low)
    high.SetOrigin((-100.0, -100.0, 5.0))
    mirrored = sitk.Image(mask)
    mirrored.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1))
    mirrored.SetOrigin((95.0, -100.0, 0.0))
    digests = []
    for image in (mask, mirrored, low, high):
        sitk.WriteImage(image, str(cohort / f"a_mask{suffix}"))
        digests.append(digest_of_a(table))
    assert len(set(digests)) == 4


def test_digest_of_a_mask_on_the_scans_own_grid_is_what_it_was(cohort: Path) -> None:
    """Runs that were finished with an earlier version are found by it, and model cards name it."""
    labels = bleed() + 2 * np.roll(bleed(), 6, axis=1)
    save(labels, cohort / "labels.nrrd")
    for image, mask, segment in (("ct/a.nii.gz", "mask/a.nii.gz", ""), ("ct/a.nii.gz", "labels.nrrd", "2"), ("ct/a.nii.gz", "labels.nrrd", "*")):
        table = table_of(cohort, f"case,image,mask,patient,segment\na,{image},{mask},p,{segment}\n")
        (found,) = table.check()
        values = sitk.GetArrayFromImage(sitk.ReadImage(str(cohort / mask))).astype(np.int32)
        before = hashlib.sha256(f"{segment or None} {values.shape}".encode() + values.tobytes()).hexdigest()
        expected = hashlib.sha256(f"{found.digest} {found.ml:.6g} {before}".encode()).hexdigest()
        assert digest_of_a(table) == expected, (mask, segment)


def test_errors_while_reading_name_the_case(cohort: Path) -> None:
    save(np.zeros(SHAPE, np.int16), cohort / "ct/a.nii.gz")
    with pytest.raises(ScanError, match="Case a: "):
        CaseTable.read(cohort)["a"].read()
