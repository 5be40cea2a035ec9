"""A case folder that several people and programs change: nobody's rows and columns are lost."""

from __future__ import annotations

import csv
import threading
from pathlib import Path

import pytest
from filelock import FileLock
from SAHLoRALib import case_folder
from SAHLoRALib.case_folder import CaseFolder
from SAHLoRALib.cases import CaseTable
from SAHLoRALib.errors import OutputError
from tiny_cohort import save_cohort


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "cases.csv").open(newline="", encoding="utf-8") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def test_a_users_own_columns_stay_in_the_table_that_is_edited(tmp_path: Path) -> None:
    table = save_cohort(tmp_path, (2, 3))
    lines = table.read_text().splitlines()
    table.write_text("\n".join([f"{lines[0]},Age,mRS", f"{lines[1]},71,2", f"{lines[2]},58,"]) + "\n")
    folder = CaseFolder(tmp_path)
    folder.edit("a01", patient="another")
    after = rows(tmp_path)
    assert (after["a00"]["Age"], after["a00"]["mRS"], after["a01"]["Age"], after["a01"]["mRS"]) == ("71", "2", "58", "")
    assert after["a01"]["patient"] == "another"
    folder.add(tmp_path / "a00" / "ct.nrrd", tmp_path / "a00" / "mask.nrrd", case="new", patient="p9", copy=False)
    folder.remove("a01")
    after = rows(tmp_path)
    assert after["a00"]["Age"] == "71" and after["new"]["Age"] == "" and "a01" not in after


def test_a_row_that_another_person_adds_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one stores a scan, which takes seconds, another adds a case and edits one."""
    source, shared = save_cohort(tmp_path / "source", (2, 3, 4)).parent, tmp_path / "shared"
    mine, theirs = CaseFolder(shared), CaseFolder(shared)
    mine.add(source / "a00" / "ct.nrrd", source / "a00" / "mask.nrrd", patient="p0")
    store, other = case_folder.store_case, []

    def meanwhile() -> None:
        theirs.edit("case-001", site="B")
        theirs.add(source / "a02" / "ct.nrrd", source / "a02" / "mask.nrrd", patient="p2", copy=False)

    def slowly(*given: object) -> object:
        if not other:
            other.append(threading.Thread(target=meanwhile))
            other[0].start()
            other[0].join(0.5)  # it waits for us
        return store(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(case_folder, "store_case", slowly)
    mine.add(source / "a01" / "ct.nrrd", source / "a01" / "mask.nrrd", patient="p1")
    other[0].join()
    after = rows(shared)
    assert {row["patient"] for row in after.values()} == {"p0", "p1", "p2"} and after["case-001"]["site"] == "B"
    assert not (shared / ".cases.lock").exists()


def test_a_folder_that_another_program_changes_for_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_cohort(tmp_path, (2, 3))
    monkeypatch.setattr(case_folder, "_WAIT_SECONDS", 0.1)
    with FileLock(tmp_path / ".cases.lock"), pytest.raises(OutputError, match=r"cases\.csv is being changed by another program"):
        CaseFolder(tmp_path).edit("a00", site="B")
    assert rows(tmp_path)["a00"]["site"] == "here"


def test_all_cases_of_a_table_are_added_once_with_names_of_their_own(tmp_path: Path) -> None:
    source = save_cohort(tmp_path / "source", (2, 3))
    folder = CaseFolder(save_cohort(tmp_path / "mine", (4, 5)).parent)
    added = folder.add_table(source)
    assert [row.case for row in added] == ["a00_2", "a01_2"] and len(CaseTable.read(folder.table_path)) == 4
    copied = CaseFolder(tmp_path / "copies")
    assert [row.case for row in copied.add_table(source, copy=True)] == ["a00", "a01"] and (tmp_path / "copies" / "a01" / "ct.nrrd").is_file()
