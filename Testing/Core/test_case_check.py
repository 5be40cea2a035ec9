"""What the check of a case table finds: damaged files, empty masks, one scan or one patient twice."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from SAHLoRALib.case_check import findings_table, require_usable
from SAHLoRALib.cases import Case, CaseTable
from SAHLoRALib.complete import is_complete
from SAHLoRALib.errors import Cancelled, CaseError
from SAHLoRALib.events import Events
from small_cases import SHAPE, bleed, head, problems, save, table_of


def test_check_says_slices_spacing_and_volume(cohort: Path) -> None:
    findings = CaseTable.read(cohort).check()
    first = findings[0]
    assert (first.slices, first.gap_mm, first.spacing) == (12, 5.0, (5.0, 5.0))
    assert first.ml == pytest.approx(2 * 3 * 3 * 0.125)
    assert [f.ok for f in findings] == [True, True, False]
    shown = findings_table(findings)
    assert "5.00 × 5.00 × 5.00" in shown and "2.25" in shown and "3 cases, 1 with problems" in shown


def test_check_finds_everything_at_once(cohort: Path) -> None:
    save(bleed(), cohort / "shifted.nii.gz", origin=(-92.5, -100.0, 0.0))
    (cohort / "cut.nii.gz").write_bytes((cohort / "ct/a.nii.gz").read_bytes()[:-400])
    text = "case,image,mask,patient,haemorrhage,split\n" + "\n".join([
        "good,ct/a.nii.gz,mask/a.nii.gz,p0,,train",
        "no_image,ct/absent.nii.gz,mask/a.nii.gz,p1,,",
        "no_mask,ct/b.nii.gz,mask/absent.nii.gz,p2,,",
        "cut,cut.nii.gz,mask/b.nii.gz,p3,,",
        "grid,ct/b.nii.gz,shifted.nii.gz,p4,,",
        "empty,ct/c.nii.gz,mask/c.nii.gz,p5,,",
        "twice,ct/a.nii.gz,mask/a.nii.gz,p0,,test",
        "none,ct/c.nii.gz,mask/a.nii.gz,p7,no,",
        "unannounced,ct/c.nii.gz,,p8,,",
    ])  # fmt: skip
    found = problems(table_of(cohort, text))
    expected = {
        "good": "several splits (test, train)", "no_image": "absent.nii.gz does not exist", "no_mask": "absent.nii.gz does not exist",
        "cut": "cut.nii.gz is cut short", "grid": "does not lie on the grid", "empty": "mask is empty", "twice": "same scan as case good",
        "none": "says that there is no haemorrhage", "unannounced": "There is no mask",
    }  # fmt: skip
    assert set(found) == set(expected)
    for case, said in expected.items():
        assert said in found[case], (case, found[case])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.999])
def test_file_that_breaks_off_is_never_taken_for_a_scan_or_a_mask(cohort: Path, suffix: str, part: float) -> None:
    """ITK reads a NIfTI that was cut short without a word."""
    for name, array in (("scan", head(0)), ("mask", np.random.default_rng(0).integers(0, 2, SHAPE).astype(np.uint8))):
        path = save(array, cohort / (name + suffix))
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    text = f"case,image,mask,patient\ns,scan{suffix},mask/a.nii.gz,p\nm,ct/b.nii.gz,mask{suffix},q\n"
    assert set(problems(table_of(cohort, text))) == {"s", "m"}


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_compressed_file_with_a_wrong_bit_is_never_taken(cohort: Path, suffix: str) -> None:
    """ITK reads most of them without a word, as other voxels."""
    noise = np.random.default_rng(0)
    for name, array in (("scan", head(0)), ("mask", (noise.random(SHAPE) < 0.1).astype(np.uint8))):
        image = sitk.ReadImage(str(cohort / "ct/a.nii.gz"))
        written = sitk.GetImageFromArray(array)
        written.CopyInformation(image)
        sitk.WriteImage(written, str(cohort / (name + suffix)), True)
    text = f"case,image,mask,patient\ns,scan{suffix},mask/a.nii.gz,p\nm,ct/b.nii.gz,mask{suffix},q\n"
    assert problems(table_of(cohort, text)) == {}
    for place in (0.6, 0.9):
        for name in ("scan", "mask"):
            path = cohort / (name + suffix)
            content = bytearray(path.read_bytes())
            content[int(len(content) * place)] ^= 4
            path.write_bytes(content)
        assert set(problems(table_of(cohort, text))) == {"s", "m"}


def test_complete_nifti_of_any_make_is_taken(cohort: Path) -> None:
    """Several gzip members (bgzip), gzip under the name .nii, NIfTI-2 and the other byte order."""
    plain = save(head(0), cohort / "plain.nii").read_bytes()
    (cohort / "members.nii.gz").write_bytes(gzip.compress(plain[:9000]) + gzip.compress(plain[9000:]))
    image = nibabel.load(cohort / "plain.nii")
    nibabel.save(nibabel.Nifti2Image(np.asarray(image.dataobj), image.affine), cohort / "two.nii.gz")
    big = nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header.as_byteswapped(">"))
    nibabel.save(big, cohort / "big.nii")
    assert all(is_complete(cohort / name) for name in ("plain.nii", "members.nii.gz", "two.nii.gz", "big.nii"))
    (cohort / "members.nii.gz").write_bytes((cohort / "members.nii.gz").read_bytes()[:-300])
    (cohort / "big.nii").write_bytes((cohort / "big.nii").read_bytes()[:-3])
    assert not is_complete(cohort / "members.nii.gz") and not is_complete(cohort / "big.nii")


def test_same_scan_is_found_behind_another_format(cohort: Path) -> None:
    flipped = sitk.Flip(sitk.ReadImage(str(cohort / "ct/a.nii.gz")), (False, False, True))
    sitk.WriteImage(flipped, str(cohort / "other.nrrd"))
    text = "case,image,mask,patient\na,ct/a.nii.gz,mask/a.nii.gz,p\nz,other.nrrd,mask/a.nii.gz,q\n"
    assert "same scan as case a" in problems(table_of(cohort, text))["z"]


def test_patients_and_scans_of_another_table_are_found(cohort: Path) -> None:
    training = table_of(cohort, "case,image,mask,patient\na,ct/a.nii.gz,mask/a.nii.gz,p1\nb,ct/b.nii.gz,mask/b.nii.gz,p2\n")
    text = "case,image,mask,patient,haemorrhage\nx,ct/a.nii.gz,mask/a.nii.gz,q1,\ny,ct/c.nii.gz,mask/c.nii.gz,p2,no\n"
    testing = table_of(cohort, text)
    found = {f.case: " ".join(f.problems) for f in testing.check(against=training)}
    assert "same scan as case a of the other table" in found["x"] and "Patient p2 is also in the other table" in found["y"]


@pytest.mark.parametrize(("first", "second", "alike"), [("P-01", "p_1", True), ("007", "7", True), ("p 2", "P.2", True), ("10", "1", False), ("1-12", "11-2", False), ("a1", "a2", False)])  # fmt: skip  # noqa: E501
def test_one_patient_in_two_spellings_is_told_and_found_on_both_sides(cohort: Path, first: str, second: str, alike: bool) -> None:
    rows = f"case,image,mask,patient\na,ct/a.nii.gz,mask/a.nii.gz,{first}\n", f"b,ct/b.nii.gz,mask/b.nii.gz,{second}\n"
    found = problems(table_of(cohort, "".join(rows)))
    assert found == ({"b": found["b"]} if alike else {})
    assert not alike or f"Patient {second} seems to be {first}, written in another way" in found["b"]
    training, testing = table_of(cohort, rows[0]), table_of(cohort, rows[0].splitlines()[0] + "\n" + rows[1])
    said = " ".join(" ".join(f.problems) for f in testing.check(against=training))
    assert (f"Patient {second} is also in the other table" in said) == alike


def test_unusable_cases_are_refused_all_in_one_error(cohort: Path) -> None:
    table = table_of(cohort, "case,image,mask,patient\na,x.nii.gz,m.nii.gz,p\nb,ct/b.nii.gz,mask/b.nii.gz,q\nc,ct/c.nii.gz,mask/c.nii.gz,r\n")
    with pytest.raises(CaseError) as caught:
        require_usable(table.check())
    assert "2 of 3" in str(caught.value) and "x.nii.gz" in str(caught.value) and "empty" in str(caught.value)
    require_usable(table.of_patients({"q"}).check())


def test_check_stops_when_asked(cohort: Path) -> None:
    events = Events()
    events.cancel()
    with pytest.raises(Cancelled):
        CaseTable.read(cohort).check(events)


def test_a_file_that_could_not_be_read_is_checked_again_when_it_can(tmp_path, monkeypatch):
    from SAHLoRALib import case_memory
    from SAHLoRALib.case_check import Finding

    (tmp_path / "ct.nrrd").write_bytes(b"scan")
    case = Case("a", tmp_path / "ct.nrrd", None, "p")
    for readable, said in ((False, "Permission denied"), (True, "")):
        monkeypatch.setattr(case_memory.os, "access", lambda path, mode, readable=readable: readable)
        memory = case_memory.CheckMemory(tmp_path / "checks.json", lambda case, said=said: Finding("a", "p", problems=(said,) if said else ()))
        assert not memory.knows(case)
        assert memory.find(case).problems == ((said,) if said else ())
        memory.save()
        assert case_memory.CheckMemory(tmp_path / "checks.json").knows(case)
