"""Case tables and folders on real image files; every way in which they are wrong."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from SAHLoRALib.case_check import findings_table, patient_volumes, require_usable
from SAHLoRALib.cases import Case, CaseTable, read_annotation
from SAHLoRALib.cohort import case_digests
from SAHLoRALib.complete import is_complete
from SAHLoRALib.ct import ct_from_image, write_segmentation
from SAHLoRALib.errors import Cancelled, CaseError, ScanError
from SAHLoRALib.events import Events
from SAHLoRALib.layouts import find_cases

SPACING = (5.0, 5.0, 5.0)  # x, y, z
SHAPE = (12, 40, 40)


def head(seed: int = 0) -> np.ndarray:
    """A skull with brain in it, 200 mm wide: (slices, rows, columns) HU."""
    y, x = np.mgrid[-1:1:40j, -1:1:40j]
    r = np.hypot(y, x)
    plane = np.where(r < 0.72, 32.0, np.where(r < 0.82, 1100.0, np.where(r < 0.88, 10.0, -1000.0)))
    noise = np.random.default_rng(seed).normal(0, 3, SHAPE)
    return (plane + noise).round().astype(np.int16)


def bleed(size: int = 4) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:7, 18 : 18 + size, 18 : 18 + size] = 1
    return mask


def save(array: np.ndarray, path: Path, origin: tuple[float, float, float] = (-100.0, -100.0, 0.0)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))
    return path


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


def table_of(folder: Path, text: str) -> CaseTable:
    path = folder / "cases.csv"
    path.write_text(text, encoding="utf-8")
    return CaseTable.from_csv(path)


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """a and b: scans with masks, c: a scan without haemorrhage."""
    for n, name in enumerate("abc"):
        save(head(n), tmp_path / f"ct/{name}.nii.gz")
        save(bleed(3 + n) * (name != "c"), tmp_path / f"mask/{name}.nii.gz")
    return tmp_path


def problems(table: CaseTable) -> dict[str, str]:
    return {f.case: " ".join(f.problems) for f in table.check() if not f.ok}


# --- tables


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_table_is_read_as_excel_writes_it(cohort: Path, delimiter: str, encoding: str) -> None:
    rows = [("Case", "Image", "Mask", "Patient", "Site"), ("a", "ct/a.nii.gz", "mask/a.nii.gz", "p1", "Zürich"), (), ("b", "ct\\b.nii.gz", "mask/b.nii.gz", "p1", "")]  # fmt: skip  # noqa: E501
    path = cohort / "cases.csv"
    path.write_bytes("\r\n".join(delimiter.join(row) for row in rows).encode(encoding))
    table = CaseTable.read(path)
    assert [c.case for c in table] == ["a", "b"] and table.patients == ("p1",)
    assert table["a"].site == "Zürich" and table["b"].image.resolve() == (cohort / "ct/b.nii.gz").resolve()
    assert problems(table) == {} and table.warnings == ()


def test_table_without_patients_takes_each_case_for_one_and_says_so(cohort: Path) -> None:
    table = table_of(cohort, "image,mask\nct/a.nii.gz,mask/a.nii.gz\nct/b.nii.gz,mask/b.nii.gz\n")
    assert table.patients == ("a", "b")
    assert "patient" in table.warnings[0]


def test_written_table_is_the_same_table_wherever_it_lies(cohort: Path) -> None:
    table = table_of(cohort, "case,image,mask,patient,haemorrhage\na,ct/a.nii.gz,mask/a.nii.gz,p1,\nc,ct/c.nii.gz,,p2,no\n")
    table.write(cohort / "elsewhere" / "table.csv")
    assert "../ct/a.nii.gz" in (cohort / "elsewhere/table.csv").read_text()
    again = CaseTable.read(cohort / "elsewhere" / "table.csv")
    assert [(c.case, c.patient, c.haemorrhage, c.image.resolve()) for c in again] == [(c.case, c.patient, c.haemorrhage, c.image.resolve()) for c in table]  # fmt: skip  # noqa: E501
    assert problems(again) == {}


def test_all_rows_that_make_no_sense_are_named_at_once(cohort: Path) -> None:
    text = "case,image,mask,patient,haemorrhage\na,,m,p,\nb,i,m,,\nc/d,i,m,p,\ne,i,m,p,perhaps\nf,i,m,p,yes,surplus\ng,i,m,p,\nG,i,m,p,\n"
    with pytest.raises(CaseError) as caught:
        table_of(cohort, text)
    for part in ("line 2: no image", "line 3: case b has no patient", "'c/d'", "'perhaps'", "'surplus'", "two cases G"):
        assert part in str(caught.value)


@pytest.mark.parametrize(("text", "said"), [("", "no column image"), ("a,b\n1,2\n", "no column image"), ("case,image\n", "no cases"), ("\0", "not a text file")])  # fmt: skip  # noqa: E501
def test_file_that_is_no_table_is_refused_in_words(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(CaseError, match=said):
        table_of(tmp_path, text)
    with pytest.raises(CaseError, match="cannot be read"):
        CaseTable.read(tmp_path / "absent.csv")


# --- reading a case


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


def test_segment_for_all_cases_does_not_override_a_row(cohort: Path) -> None:
    table_of(cohort, "case,image,mask,patient,segment\na,i,m,p,1\nb,i,m,p,\n")
    table = CaseTable.read(cohort / "cases.csv", segment="2")
    assert [c.segment for c in table] == ["1", "2"]


def test_mask_of_0_and_255_is_a_mask_and_a_probability_map_is_not(cohort: Path) -> None:
    save(bleed() * np.uint8(255), cohort / "m255.nii.gz")
    save(bleed().astype(np.float32) * np.random.default_rng(0).random(SHAPE, np.float32), cohort / "soft.nii.gz")
    text = "case,image,mask,patient\na,ct/a.nii.gz,m255.nii.gz,p\nb,ct/b.nii.gz,soft.nii.gz,q\n"
    assert list(problems(table_of(cohort, text))) == ["b"]


# --- the check


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


def test_same_scan_is_found_behind_another_format(cohort: Path) -> None:
    flipped = sitk.Flip(sitk.ReadImage(str(cohort / "ct/a.nii.gz")), (False, False, True))
    sitk.WriteImage(flipped, str(cohort / "other.nrrd"))
    text = "case,image,mask,patient\na,ct/a.nii.gz,mask/a.nii.gz,p\nz,other.nrrd,mask/a.nii.gz,q\n"
    assert "same scan as case a" in problems(table_of(cohort, text))["z"]


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


def test_a_split_that_is_misspelt_is_refused_and_never_trained_on(cohort: Path) -> None:
    rows = "case,image,mask,patient,split\na,ct/a.nii.gz,mask/a.nii.gz,p1,{}\nb,ct/b.nii.gz,mask/b.nii.gz,p2,\n"
    for word in ("tset", "Test set", "holdout", "1"):
        with pytest.raises(CaseError, match=f"line 2: split is '{word.lower()}'; write train, validation or test"):
            table_of(cohort, rows.format(word))
    for word in ("Test", "testing"):
        training, tests = table_of(cohort, rows.format(word)).parted()
        assert [case.case for case in tests] == ["a"] and [case.case for case in training] == ["b"]


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


def test_errors_while_reading_name_the_case(cohort: Path) -> None:
    save(np.zeros(SHAPE, np.int16), cohort / "ct/a.nii.gz")
    with pytest.raises(ScanError, match="Case a: "):
        CaseTable.read(cohort)["a"].read()


# --- folders


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
