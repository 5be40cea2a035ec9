"""Where and how exactly the network computes: device, precision, threads, each with the reason said.

"auto" takes CUDA, then MPS, then the CPU. What is asked for by name and is not there is refused; nothing falls back silently.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from .errors import ConfigError

DEVICES = ("auto", "cuda", "mps", "cpu")
PRECISIONS = ("auto", "bf16", "float32")
#: The instruction set with units of its own for products of bfloat16 matrices.
AMX = "amx_bf16"


@dataclass(frozen=True)
class Compute:
    """device: to put tensors on. bf16: convolutions run in bfloat16 (autocast); weights, sums and losses stay float32. reason: a line for the log."""

    device: torch.device
    bf16: bool
    reason: str

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context for a forward pass."""
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def choose_compute(device: str = "auto", precision: str = "auto") -> Compute:
    """device: auto, cuda, cuda:1, mps or cpu. precision: auto, bf16 or float32; auto is bf16 where that is faster.

    Raises ConfigError for names that are unknown and for hardware that is not there.
    """
    chosen, why = _choose_device(device)
    if precision not in PRECISIONS:
        raise ConfigError(f"Unknown precision {precision!r}; known are {', '.join(PRECISIONS)}.")
    has_bf16, unit = bf16_support(chosen)
    if precision == "bf16" and not has_bf16:
        raise ConfigError(f"bf16 was asked for, but {unit}; use precision auto or float32.")
    bf16, why_so = bf16_pays(chosen) if precision == "auto" else (precision == "bf16", "as asked")
    how = f"{'bf16' if bf16 else 'float32'} ({why_so})"
    return Compute(chosen, bf16, f"Computing on {chosen} ({why}) in {how}.")


def bf16_support(device: torch.device) -> tuple[bool, str]:
    """Whether the device multiplies in bfloat16 by itself, and in words why or why not. Emulated bf16 is slower than float32 and does not count."""
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return native, f"{torch.cuda.get_device_name(device)} {'has' if native else 'has no'} bf16 units"
    if device.type == "mps":
        return False, "bf16 is not used on Apple's GPUs"
    found = sorted(_cpu_features() & {"avx512_bf16", AMX})
    if found and torch.backends.mkldnn.is_available():
        return True, f"the processor has {' and '.join(found)}"
    return False, "the processor has neither avx512_bf16 nor amx_bf16"


def bf16_pays(device: torch.device) -> tuple[bool, str]:
    """Whether bfloat16 is the faster choice there, and in words why or why not.

    Intel's avx512_bf16 without AMX, as many virtual machines show it, multiplies at about half of float32's rate (52 and 103 GFLOP/s of a product of
    2048 × 2048 on one core of a Xeon of model 207; a training step took 1.4 times as long); AMD's at twice that rate.
    """
    native, unit = bf16_support(device)
    if native and device.type == "cpu" and AMX not in _cpu_features() and _cpu_maker() == "GenuineIntel":
        return False, "without AMX this processor is slower in bf16"
    return native, unit


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute on this many CPU threads within the block; 0 leaves PyTorch's choice."""
    before = torch.get_num_threads()
    try:
        if count:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def fixed_sizes() -> Iterator[None]:
    """Within the block a CUDA GPU tries its ways to compute each convolution once and keeps the fastest: worth it where sizes stay the same."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def peak_memory_mb(device: torch.device) -> float:
    """The most memory that this process had, in MB: of the GPU's where it computes there, else resident. 0 where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    with contextlib.suppress(OSError, ValueError):  # Linux; getrusage counts there what the parent had when it started this process
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def _choose_device(name: str) -> tuple[torch.device, str]:
    kind, colon, index = name.lower().partition(":")
    if kind not in DEVICES or (colon and not index) or (index and (kind != "cuda" or not index.isdecimal())):
        raise ConfigError(f"Unknown device {name!r}; known are {', '.join(DEVICES)} and cuda:N.")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if kind == "cuda" and not cuda:
        raise ConfigError("The device cuda was asked for, but PyTorch finds no CUDA GPU; use device auto or cpu.")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise ConfigError(f"There is no device {name}; PyTorch finds {torch.cuda.device_count()} CUDA GPU(s), counted from 0.")
    if kind == "mps" and not mps:
        raise ConfigError("The device mps was asked for, but PyTorch finds no Apple GPU; use device auto or cpu.")
    if cuda and kind in ("auto", "cuda") and not index:
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))  # torchrun: one GPU a process
        return own, "as asked" if kind == "cuda" else f"found {torch.cuda.get_device_name(own)}"
    if kind != "auto":
        return torch.device(name.lower()), "as asked"
    if mps:
        return torch.device("mps"), "found Apple's GPU"
    return torch.device("cpu"), "no GPU found"


def _cpu_features() -> set[str]:
    """Names of the processor's instruction sets, as Linux spells them."""
    if flags := _cpuinfo("flags"):
        return set(flags.split())
    # Elsewhere (Windows) PyTorch knows. The names came with PyTorch 2.4 and later.
    asks = {"avx512_bf16": "_is_avx512_bf16_supported", AMX: "_is_amx_tile_supported"}
    return {feature for feature, ask in asks.items() if getattr(torch.cpu, ask, lambda: False)()}


def _cpu_maker() -> str:
    """GenuineIntel, AuthenticAMD, or what else the processor calls its maker."""
    return _cpuinfo("vendor_id") or platform.processor().rpartition(" ")[2]


def _cpuinfo(entry: str) -> str:
    """What Linux says of the first processor; empty elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == entry:
                return value.strip()
    return ""
