"""``make bench``: how long a scan and a training step take, against the machine's own limit and against what a user would pick instead.

Prints a Markdown table and keeps it with JSON in `results`, with the machine's description and its load at the start: on a busy machine wall-clock
times say little, so compare ratios of one run only. Nothing here is a test, and no test asserts a time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import peers
import torch
from SAHLoRALib import batch as batch_room
from SAHLoRALib import segmenter as segmenter_room
from SAHLoRALib import slices as slices_room
from SAHLoRALib.adapters import AdapterConfig, attach, trainable_parameters
from SAHLoRALib.device import bf16_support
from SAHLoRALib.inputs import find_inputs
from SAHLoRALib.loss import segmentation_loss
from SAHLoRALib.network import MultiViewUnet
from SAHLoRALib.phantom import PhantomConfig, make_cohort

HERE = Path(__file__).parent
METHODS = ("lora-c", "conv-lora", "cp-lora", "dora-c", "conv-dora", "cp-dora")


def timed(work: Callable[[], Any], repeats: int = 3) -> float:
    """Seconds of the fastest of some runs, after one to warm up."""
    work()
    return min(_seconds(work) for _ in range(repeats))


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def machine() -> dict[str, Any]:
    """What the numbers were measured on. load: processes that wanted a core in the minute before; more than 0 means a busy machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "processor": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "python": platform.python_version(), "system": platform.platform(), "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def matmul_peak(dtype: torch.dtype, size: int = 2048) -> float:
    """GFLOP/s of a large square matrix product."""
    a = torch.rand(size, size).to(dtype)
    return 2 * size**3 / timed(lambda: a @ a, 5) / 1e9


def segmentation(folder: Path, slices: int) -> dict[str, float]:
    """Seconds of one synthetic scan of 512 × 512 × slices from file to mask on disk, by part, from a warm segmenter; start_up: a process's own.

    The rest (skull, specks, report) is what the parts leave of the whole. GFLOP: of the convolutions, counted on the tensors that passed.
    """
    make_cohort(PhantomConfig(folder, seed=5, slices=slices))
    scan = next(folder.glob("*/ct.nrrd"))
    command = [sys.executable, "-m", "SAHLoRALib", "segment", str(scan), "--output", str(folder / "cold"), "--device", "cpu"]
    cold = _seconds(lambda: subprocess.run(command, cwd=HERE.parents[1] / "SAHLoRASegment", check=True, capture_output=True))
    segmenter = segmenter_room.Segmenter.load("tbi-base", config=segmenter_room.SegmentConfig(device="cpu"))
    spent = dict.fromkeys(("reading", "skull", "resampling", "network", "way_back", "writing"), 0.0)
    flop = 0.0

    def count(layer: torch.nn.Conv2d, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        nonlocal flop
        flop += 2.0 * out.numel() * layer.weight[0].numel()

    def clocked(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                spent[part] += time.perf_counter() - start

        return run

    places = ((slices_room, "intracranial", "skull"), (slices_room, "to_network", "resampling"), (slices_room, "from_network", "way_back"),
              (segmenter, "_probabilities", "network"), (batch_room, "write_outputs", "writing"))  # fmt: skip
    before = [(place, name, getattr(place, name)) for place, name, _ in places]
    scans, outputs = find_inputs((scan,)), batch_room.Outputs(folder / "warm")
    batch_room.segment_batch(segmenter, scans, outputs)
    hooks = [layer.register_forward_hook(count) for layer in segmenter._network.modules() if isinstance(layer, torch.nn.Conv2d)]
    batch_room.segment_batch(segmenter, scans, outputs)
    for hook in hooks:
        hook.remove()
    try:
        for place, name, part in places:
            setattr(place, name, clocked(part, getattr(place, name)))
        whole = _seconds(lambda: batch_room.segment_batch(segmenter, scans, outputs, read=clocked("reading", batch_room.read_ct)))
    finally:
        for place, name, work in before:
            setattr(place, name, work)
    dtype = torch.bfloat16 if segmenter.compute.bf16 else torch.float32
    return {
        "cold": cold, "start_up": cold - whole, "warm": whole, **spent, "rest": whole - sum(spent.values()),
        "network_gflops": flop / spent["network"] / 1e9, "share_of_peak": flop / spent["network"] / 1e9 / matmul_peak(dtype),
    }  # fmt: skip


def step_of(network: torch.nn.Module, size: tuple[int, ...]) -> Callable[[], None]:
    """A training step of whatever learns in the network, on random slices (n, 1, rows, columns), in bf16 where the processor has it."""
    torch.manual_seed(0)
    x = torch.rand(size).contiguous(memory_format=torch.channels_last)
    target, weight = (torch.rand(size) > 0.95).float(), torch.ones(size[0])
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad])
    has_bf16 = bf16_support(torch.device("cpu"))[0]
    network.train()

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16) if has_bf16 else contextlib.nullcontext():
            logits = network(x)
        optimiser.zero_grad(set_to_none=True)
        segmentation_loss(logits, target, weight).backward()
        optimiser.step()

    return step


def training(ranks: tuple[int, ...], size: tuple[int, ...]) -> list[dict[str, Any]]:
    """Seconds of a step: standard fine-tuning, our adapters, and the peers' on the same network and batch."""
    base = timed(step_of(MultiViewUnet().to(memory_format=torch.channels_last), size), 2)
    rows: list[dict[str, Any]] = [{"what": "standard fine-tuning", "rank": "", "seconds": base, "ratio": 1.0, "note": ""}]
    for rank in ranks:
        for method in METHODS:
            network = MultiViewUnet().to(memory_format=torch.channels_last)
            attach(network, AdapterConfig(method=method, rank=rank))
            seconds = timed(step_of(network, size), 2)
            count = sum(p.numel() for _, p in trainable_parameters(network))
            rows.append({"what": f"SAHLoRA {method}", "rank": rank, "seconds": seconds, "ratio": seconds / base, "note": f"{count:,} numbers"})
        for name, wrap, note in peers.ADAPTERS:
            seconds = timed(step_of(wrap(MultiViewUnet().to(memory_format=torch.channels_last), rank), size), 2)
            rows.append({"what": name, "rank": rank, "seconds": seconds, "ratio": seconds / base, "note": note})
    return rows


def markdown(result: dict[str, Any]) -> str:
    """The tables."""
    told = result["machine"]
    lines = [
        f"# Measured {told['date']}", "",
        f"{told['processor']}, {told['cores']} cores, {told['threads']} threads, torch {told['torch']}, load at the start {told['load']:.1f}.",
        f"Peak of a matrix product: {result['peak']['bf16']:.0f} GFLOP/s bf16, {result['peak']['float32']:.0f} float32.", "",
    ]  # fmt: skip
    for slices, split in result["segmentation"].items():
        lines += [f"## A scan of 512 × 512 × {slices}, seconds", "", "| part | s |", "|---|---|"]
        lines += [f"| {part} | {value:.2f} |" for part, value in split.items()] + [""]
        lines += [
            f"{p['what']}: {p['seconds']:.0f} s, {p['seconds'] / split['cold']:.1f} times ours with start-up. {p['note']}"
            for p in result["peers"][slices]
        ]
        lines.append("")
    lines += ["## A training step", "", "| what | rank | s | ratio | note |", "|---|---|---|---|---|"]
    lines += [f"| {r['what']} | {r['rank']} | {r['seconds']:.3f} | {r['ratio']:.2f} | {r['note']} |" for r in result["training"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one scan of 30 slices, one rank, small slices")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="folder for the scans and masks")
    given = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "quick": given.quick}
    result["peak"] = {"bf16": matmul_peak(torch.bfloat16), "float32": matmul_peak(torch.float32)}
    counts = (30,) if given.quick else (30, 300)
    result["segmentation"] = {str(n): segmentation(given.work / f"scan-{n}", n) for n in counts}
    scans = {str(n): next((given.work / f"scan-{n}").glob("*/ct.nrrd")) for n in counts}
    result["peers"] = {n: peers.segmentation(scan) for n, scan in scans.items()}
    result["training"] = training((4,) if given.quick else (4, 16, 64), (2, 1, 96, 80) if given.quick else (8, 1, 208, 176))
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    name = f"{datetime.now(UTC):%Y%m%d-%H%M}{'-quick' if given.quick else ''}"
    (folder / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    (folder / f"{name}.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
