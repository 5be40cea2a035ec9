"""What the machine refuses is told with advice; only what nobody foresaw is a bug."""

from __future__ import annotations

from pathlib import Path

import pytest
from SAHLoRALib.crashlog import in_words


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "The memory does not suffice; close other programs, choose a smaller batch or crop, or use a larger machine."),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), "The memory does not suffice"),
        (RuntimeError("could not create a primitive"), "The memory does not suffice"),
        (ImportError("x.so: failed to map segment from shared object"), "The memory does not suffice"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "The GPU's memory does not suffice"),
        (RuntimeError("CUDA error: unspecified launch failure\nmore lines"), "The GPU failed (CUDA error: unspecified launch failure)"),
        (OSError(28, "No space left on device", "a.bin"), "a.bin cannot be read or written: No space left on device. Free some space"),
    ],
)
def test_what_the_machine_refuses_is_one_line_with_advice(error: Exception, words: str) -> None:
    told = in_words(error, bug=False)
    assert words in told and "bug" not in told and "\n" not in told


def test_what_nobody_foresaw_is_a_bug_with_its_details_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    wrong = RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!")
    assert in_words(wrong, bug=False) == "" and list(tmp_path.iterdir()) == []
    assert "This is a bug" in in_words(wrong) and len(list(tmp_path.iterdir())) == 1
