"""The peak of memory that headers and tables tell is this process's own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from SAHLoRALib.device import peak_memory_mb

CPU = torch.device("cpu")
CHILD = f"import sys; sys.path[:0] = {sys.path!r}; from SAHLoRALib.device import *; print(peak_memory_mb(torch.device('cpu')))"


def test_what_was_taken_counts_also_after_it_was_given_back() -> None:
    size = int(peak_memory_mb(CPU)) + 50
    taken = np.ones((size, 1_000_000), np.uint8)
    assert peak_memory_mb(CPU) >= size
    del taken
    assert peak_memory_mb(CPU) >= size


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have it right by themselves")
def test_a_process_does_not_count_what_the_one_that_started_it_had() -> None:
    taken = np.ones((1000, 1_000_000), np.uint8)
    ran = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert 10 < float(ran.stdout) < taken.nbytes / 1e6
