"""Files appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from SAHLoRALib import files
from SAHLoRALib.errors import OutputError
from SAHLoRALib.files import alone, replacing, write_text


def test_file_appears_when_the_block_ends_and_keeps_its_suffixes(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.nii.gz"
    with replacing(target) as temporary:
        assert temporary.parent == target.parent and temporary.name.endswith(".nii.gz") and temporary.name.startswith(".")
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole" and list(target.parent.iterdir()) == [target]


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_text(target, "old")
    with pytest.raises(ValueError), replacing(target) as temporary:
        temporary.write_text("half")
        raise ValueError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_text_is_replaced_as_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    write_text(tmp_path / "a.txt", "Blutung · 3 cm²")
    assert (tmp_path / "a.txt").read_bytes().decode("utf-8") == "Blutung · 3 cm²"


def test_path_that_cannot_be_written_is_told_with_advice(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"Cannot write .*a\.txt.*Choose another folder"):
        write_text(tmp_path / "file" / "a.txt", "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="folder"):
        write_text(tmp_path / "folder", "text")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_long_names_do_not_make_longer_temporary_ones(tmp_path: Path) -> None:
    name = "n" * 240 + ".json"
    write_text(tmp_path / name, "text")
    assert (tmp_path / name).read_text() == "text"


def test_a_folder_is_worked_in_by_one_process_only_until_that_ends(tmp_path: Path) -> None:
    hold = "import sys; from SAHLoRALib.files import alone\nwith alone(sys.argv[1]): print('here', flush=True); sys.stdin.read()"
    package = str(Path(files.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": package}
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"here\n"
        with pytest.raises(OutputError, match="Another SAHLoRA run works in"), alone(tmp_path / "run"):
            pass
        other.kill()  # a lock falls with its process
    with alone(tmp_path / "run"):
        pass


def test_the_lock_of_a_results_folder_goes_and_so_does_what_a_killed_process_had_begun(tmp_path: Path) -> None:
    for name in (".0123abcd.mask.nrrd", ".mine", "mask.nrrd"):
        (tmp_path / name).write_text("")
    with alone(tmp_path, keep_lock=False):
        assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", ".mine", "mask.nrrd"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".mine", "mask.nrrd"]
