"""Case tables: how they are read and written, and every way in which they make no sense."""

from __future__ import annotations

from pathlib import Path

import pytest
from SAHLoRALib.cases import CaseTable
from SAHLoRALib.errors import CaseError
from small_cases import problems, table_of


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


def test_segment_for_all_cases_does_not_override_a_row(cohort: Path) -> None:
    table_of(cohort, "case,image,mask,patient,segment\na,i,m,p,1\nb,i,m,p,\n")
    table = CaseTable.read(cohort / "cases.csv", segment="2")
    assert [c.segment for c in table] == ["1", "2"]


def test_a_split_that_is_misspelt_is_refused_and_never_trained_on(cohort: Path) -> None:
    rows = "case,image,mask,patient,split\na,ct/a.nii.gz,mask/a.nii.gz,p1,{}\nb,ct/b.nii.gz,mask/b.nii.gz,p2,\n"
    for word in ("tset", "Test set", "holdout", "1"):
        with pytest.raises(CaseError, match=f"line 2: split is '{word.lower()}'; write train, validation or test"):
            table_of(cohort, rows.format(word))
    for word in ("Test", "testing"):
        training, tests = table_of(cohort, rows.format(word)).parted()
        assert [case.case for case in tests] == ["a"] and [case.case for case in training] == ["b"]
