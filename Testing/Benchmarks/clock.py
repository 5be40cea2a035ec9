"""Seconds, bytes, the machine: what all parts of the benchmark measure with."""

from __future__ import annotations

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

_now = time.perf_counter
_device = torch.device("cpu")


def use_device(name: str) -> None:
    """From now on compute there: cpu or cuda."""
    global _device
    _device = torch.device(name)


def device() -> torch.device:
    """Where the benchmark computes."""
    return _device


def wait() -> None:
    """Until a GPU has done what it was given."""
    if _device.type == "cuda":
        torch.cuda.synchronize(_device)


def use_processor_time() -> None:
    """From now on compute on one thread and count what this process has computed, which others on a busy machine change little."""
    global _now
    torch.set_num_threads(1)
    _now = time.process_time


def seconds(work: Callable[[], Any]) -> float:
    """Seconds of one run, by the clock on the wall if not told otherwise."""
    wait()
    start = _now()
    work()
    wait()
    return _now() - start


def timed(work: Callable[[], Any], repeats: int = 3) -> float:
    """Seconds of the fastest of some runs, after one to warm up."""
    work()
    return min(seconds(work) for _ in range(repeats))


def taking_turns(works: dict[str, Callable[[], Any]], repeats: int = 3) -> dict[str, float]:
    """`timed` for several that are compared: one run of each in turn, so that what else the machine does meets all alike."""
    for name, work in works.items():
        print(f"    {name}: {seconds(work):.2f} s to warm up", flush=True)
    best = dict.fromkeys(works, float("inf"))
    for _ in range(repeats):
        for name, work in works.items():
            best[name] = min(best[name], seconds(work))
    return best


def in_own_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function of a module, from a fresh process: its peak of memory is that work's alone."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def load() -> float | None:
    """Processes that wanted a core in the minute before; where it is more than 0 before a measurement, the machine was busy with something else."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    gpu = {"gpu": torch.cuda.get_device_name(_device)} if _device.type == "cuda" else {}
    return {
        **gpu, "processor": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "python": platform.python_version(), "system": platform.platform(), "load": load(), "commit": commit.stdout.strip(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def matmul_peak(dtype: torch.dtype) -> float:
    """GFLOP/s of a large square matrix product, of ten on a GPU."""
    size, count = (2048, 1) if _device.type == "cpu" else (8192, 10)
    a = torch.rand(size, size).to(_device, dtype)
    return count * 2 * size**3 / timed(lambda: [a @ a for _ in range(count)], 5) / 1e9
