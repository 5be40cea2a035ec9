"""Seconds, bytes, the machine: what all parts of the benchmark measure with."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from SAHLoRALib.device import peak_memory_mb


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock seconds of one run."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def timed(work: Callable[[], Any], repeats: int = 3) -> float:
    """Seconds of the fastest of some runs, after one to warm up."""
    work()
    return min(seconds(work) for _ in range(repeats))


def taking_turns(works: dict[str, Callable[[], Any]], repeats: int = 3) -> dict[str, float]:
    """`timed` for several that are compared: one run of each in turn, so that what else the machine does meets all alike."""
    for work in works.values():
        work()
    best = dict.fromkeys(works, float("inf"))
    for _ in range(repeats):
        for name, work in works.items():
            best[name] = min(best[name], seconds(work))
    return best


def in_own_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function of a module, from a fresh process: its peak of memory is that work's alone."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def peak_mb() -> float:
    """MB that this process has had at most; on Linux from the kernel's status, since getrusage counts what the parent had when it began this one."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1e3
    return peak_memory_mb(torch.device("cpu"))


def load() -> float | None:
    """Processes that wanted a core in the minute before; where it is more than 0 before a measurement, the machine was busy with something else."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return {
        "processor": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "python": platform.python_version(), "system": platform.platform(), "load": load(), "commit": commit.stdout.strip(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def matmul_peak(dtype: torch.dtype, size: int = 2048) -> float:
    """GFLOP/s of a large square matrix product."""
    a = torch.rand(size, size).to(dtype)
    return 2 * size**3 / timed(lambda: a @ a, 5) / 1e9
