"""Parts 1, 3 and 5 of the benchmark: a scan from file to mask, merged inference, and how time and memory grow with slices and scans."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch
from clock import device, in_own_process, matmul_peak, seconds, taking_turns, wait
from SAHLoRALib import batch as batch_room
from SAHLoRALib import slices as slices_room
from SAHLoRALib.adapters import AdapterConfig, attach, merge
from SAHLoRALib.device import bf16_support, peak_memory_mb
from SAHLoRALib.folding import folded
from SAHLoRALib.inputs import ScanInput, find_inputs
from SAHLoRALib.network import ConvNormReLU, MultiViewUnet
from SAHLoRALib.phantom import PhantomConfig, make_cohort
from SAHLoRALib.segmenter import SegmentConfig, Segmenter

CORE = Path(__file__).parents[2] / "SAHLoRASegment"


def scan_of(folder: Path, slices: int) -> Path:
    """A synthetic scan of 512 × 512 × slices, as a file; more than 30 slices are drawn between the 30 of one that is made."""
    path = folder / f"scan-{slices}.nrrd"
    if not path.exists():
        made = folder / "phantom"
        make_cohort(PhantomConfig(made, seed=5, slices=30, matrix=512))
        thick = sitk.ReadImage(str(next(made.glob("*/ct.nrrd"))))
        spacing, count = thick.GetSpacing(), thick.GetSize()
        thin = (spacing[0], spacing[1], spacing[2] * (count[2] - 1) / (slices - 1))
        drawn = sitk.Resample(thick, (count[0], count[1], slices), sitk.Transform(), sitk.sitkLinear, thick.GetOrigin(), thin, thick.GetDirection())
        sitk.WriteImage(drawn, str(path), True)
    return path


#: The precisions of `SegmentConfig` as torch's types.
TYPES = {"bf16": torch.bfloat16, "float32": torch.float32}


def precisions() -> list[str]:
    """What this device computes in by itself."""
    return ["bf16", "float32"] if bf16_support(device())[0] else ["float32"]


def segmenter_of(precision: str = "auto") -> Segmenter:
    return Segmenter.load("tbi-base", config=SegmentConfig(device=device().type, precision=precision))  # type: ignore[arg-type]


def segmentation(scan: Path, folder: Path) -> dict[str, dict[str, float]]:
    """By precision, seconds of a scan from file to mask on disk: cold (a process of its own, the better of two), then by part.

    second_to_worker: the same scan asked of the process that answered one before, as 3D Slicer's module asks (`warm`).
    """
    command = [sys.executable, "-m", "SAHLoRALib", "segment", str(scan), "--output", str(folder / "cold"), "--device", device().type]
    results = {}
    for precision in precisions():
        given = [*command, "--precision", precision]
        cold = min(seconds(lambda: subprocess.run(given, cwd=CORE, check=True, capture_output=True)) for _ in range(2))  # noqa: B023
        worker = _second_to_worker(scan, folder / "worker", precision)
        results[precision] = {"cold": cold, "second_to_worker": worker, **_parts(scan, folder / "warm", precision, cold)}
    return results


def _second_to_worker(scan: Path, folder: Path, precision: str) -> float:
    """Seconds from a request to its answer, the better of two that follow on one."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"command": "segment", "inputs": [str(scan)], "output": str(folder / "out"), "device": device().type, "precision": precision}
    (folder / "job.json").write_text(json.dumps(told))
    with subprocess.Popen([sys.executable, "-m", "SAHLoRALib.warm"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=CORE, text=True) as worker:
        assert worker.stdin is not None and worker.stdout is not None

        def ask() -> None:
            worker.stdin.write(json.dumps({"job": str(folder / "job.json")}) + "\n")  # type: ignore[union-attr]
            worker.stdin.flush()  # type: ignore[union-attr]
            for line in worker.stdout:  # type: ignore[union-attr]
                event = json.loads(line)
                if event["event"] == "answered":
                    if event["code"] != 0:
                        raise RuntimeError(f"The warm worker answered with the code {event['code']}.")
                    return
            raise RuntimeError("The warm worker has ended without an answer.")

        ask()
        best = min(seconds(ask) for _ in range(2))
        worker.stdin.close()
    return best


def _parts(scan: Path, folder: Path, precision: str, cold: float) -> dict[str, float]:
    """From a warm segmenter. start_up: what a process of its own takes longer. rest (specks, report, checks): what the parts leave of the whole.

    network_gflops: of the convolutions, counted on the tensors that passed.
    """
    segmenter = segmenter_of(precision)
    spent = dict.fromkeys(("reading", "skull", "resampling", "network", "way_back", "writing"), 0.0)
    scans, outputs = find_inputs((scan,)), batch_room.Outputs(folder)
    batch_room.segment_batch(segmenter, scans, outputs)
    flop = _flop(segmenter, lambda: batch_room.segment_batch(segmenter, scans, outputs))
    with _clocked(segmenter, spent) as read:
        whole = seconds(lambda: batch_room.segment_batch(segmenter, scans, outputs, read=read))
    gflops = flop / spent["network"] / 1e9
    share = gflops / matmul_peak(TYPES["bf16" if segmenter.compute.bf16 else "float32"])
    rest = whole - sum(spent.values())
    around = (whole - spent["network"]) / spent["network"]
    return {
        "start_up": cold - whole, "warm": whole, **spent, "rest": rest, "all_but_network_to_network": around,
        "network_gflops": gflops, "share_of_peak": share,
    }  # fmt: skip


def _flop(segmenter: Segmenter, work: Callable[[], Any]) -> float:
    flop = 0.0

    def count(layer: torch.nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        nonlocal flop
        convolution = layer[0] if isinstance(layer, ConvNormReLU) else layer
        assert isinstance(convolution, torch.nn.Conv2d)
        flop += 2.0 * out.numel() * convolution.weight[0].numel()

    blocks = [layer for layer in segmenter._network.modules() if isinstance(layer, ConvNormReLU)]  # which call no convolution's forward
    hooks = [layer.register_forward_hook(count) for layer in (*blocks, segmenter._network.head[-1])]
    work()
    for hook in hooks:
        hook.remove()
    return flop


@contextlib.contextmanager
def _clocked(segmenter: Segmenter, spent: dict[str, float]) -> Iterator[Callable[..., Any]]:
    """Within, the parts of a segmentation add their seconds to `spent`; gives the reader that does so too."""

    def clocked(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            wait()
            start = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                wait()
                spent[part] += time.perf_counter() - start

        return run

    places = ((slices_room, "intracranial", "skull"), (slices_room, "to_network", "resampling"), (slices_room, "from_network", "way_back"),
              (segmenter, "_probabilities", "network"), (batch_room, "write_outputs", "writing"))  # fmt: skip
    before = [(place, name, getattr(place, name)) for place, name, _ in places]
    try:
        for place, name, part in places:
            setattr(place, name, clocked(part, getattr(place, name)))
        yield clocked("reading", batch_room.read_ct)
    finally:
        for place, name, work in before:
            setattr(place, name, work)


def merged(methods: tuple[str, ...], size: tuple[int, ...]) -> dict[str, float]:
    """Seconds of a forward pass of slices (n, 1, rows, columns) with the base, and with each kind of adapter merged into it."""
    x = torch.rand(size).to(device()).contiguous(memory_format=torch.channels_last)
    works: dict[str, Callable[[], Any]] = {}
    for method in ("base", *methods):
        network = MultiViewUnet()
        if method != "base":
            attach(network, AdapterConfig(method=method, rank=8))
            merge(network)
        ready = folded(network.eval()).to(device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
        works[method] = lambda ready=ready: _pass(ready, x)
    return taking_turns(works, 7)


def _pass(network: torch.nn.Module, x: torch.Tensor) -> None:
    with torch.inference_mode(), torch.autocast(device().type, dtype=torch.bfloat16, enabled="bf16" in precisions()):
        network(x)


def by_slices(folder: Path, counts: tuple[int, ...]) -> list[dict[str, float]]:
    """Seconds from a warm segmenter and peak memory of the process, against slices of 512 × 512."""
    return [{"slices": n, **in_own_process(_repeated, str(scan_of(folder, n)), str(folder / "scale"), 1)} for n in counts]


def by_scans(scan: Path, folder: Path, counts: tuple[int, ...]) -> list[dict[str, float]]:
    """The same against scans in one call; the same file again and again."""
    return [{"scans": n, **in_own_process(_repeated, str(scan), str(folder / "scale"), n)} for n in counts]


def _repeated(scan: str, folder: str, count: int) -> dict[str, float]:
    segmenter = segmenter_of()
    before = peak_memory_mb(torch.device("cpu"))
    scans = [ScanInput(Path(scan), f"scan-{n:03}") for n in range(count)]
    spent = seconds(lambda: batch_room.segment_batch(segmenter, scans, batch_room.Outputs(Path(folder) / f"{count}")))
    return {"seconds": spent, "peak_mb": peak_memory_mb(torch.device("cpu")), "before_mb": before}
