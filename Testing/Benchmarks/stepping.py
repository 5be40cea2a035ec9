"""Parts 2, 4 and 5 of the benchmark: a training step, the pipeline that feeds it, and how reading grows with the training cases."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import torch
from clock import device, in_own_process, seconds, taking_turns, timed
from SAHLoRALib.adapters import AdapterConfig, attach, trainable_parameters
from SAHLoRALib.ahead import Feed
from SAHLoRALib.augment import Batch, augment
from SAHLoRALib.cases import CaseTable
from SAHLoRALib.device import bf16_support, fixed_sizes, peak_memory_mb
from SAHLoRALib.loss import segmentation_loss
from SAHLoRALib.network import MultiViewUnet
from SAHLoRALib.phantom import ScannerConfig, icbm_head, make_case
from SAHLoRALib.samples import SliceCache
from SAHLoRALib.slices import PixelGrid
from SAHLoRALib.training_config import TrainingConfig

METHODS = ("lora-c", "conv-lora", "cp-lora", "dora-c", "conv-dora", "cp-dora")
Size = tuple[int, int, int, int]


def step_of(network: torch.nn.Module, size: Size) -> Callable[[], None]:
    """A training step of whatever learns in the network, on random slices (n, 1, rows, columns), in bf16 where the processor has it."""
    torch.manual_seed(0)
    given = Batch(torch.rand(size).to(device()), (torch.rand(size) > 0.95).float().to(device()), torch.ones(size[0], device=device()))
    step = step_on(network)
    return lambda: step(given)


def step_on(network: torch.nn.Module) -> Callable[[Batch], None]:
    """A training step of whatever learns in the network, in bf16 where the device has it."""
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad])
    network.train()

    def step(batch: Batch) -> None:
        with _precision():
            logits = network(batch.image.contiguous(memory_format=torch.channels_last))
        optimiser.zero_grad(set_to_none=True)
        segmentation_loss(logits, batch.target, batch.weight).backward()
        optimiser.step()

    return step


def _precision() -> contextlib.AbstractContextManager[object]:
    return torch.autocast(device().type, dtype=torch.bfloat16) if bf16_support(device())[0] else contextlib.nullcontext()


def kept_mb(network: torch.nn.Module, size: Size) -> float:
    """MB of maps, kernels and numbers that the forward pass keeps for the backward pass: most of a step's memory, and the same on every machine."""
    storages: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _precision():
        network.train()(torch.rand(size).to(device()).contiguous(memory_format=torch.channels_last))
    kept = sum(tensor.untyped_storage().nbytes() for tensor in storages.values()) / 1e6
    storages.clear()  # as `detach` above: a graph that holds an output of its own is never freed
    return kept


@fixed_sizes()  # as `fit` computes
def training(rank: int, size: Size) -> list[dict[str, Any]]:
    """A step of standard fine-tuning, of our adapters and of the peers' on the same network and batch, in turns; the fastest of four each."""
    networks: dict[str, tuple[torch.nn.Module, str]] = {"standard fine-tuning": (_network(), "")}
    for method in METHODS:
        network = _network()
        attach(network, AdapterConfig(method=method, rank=rank))
        network.to(device())
        networks[f"SAHLoRA {method}"] = (network, "")
    for name, wrap, note in peers.ADAPTERS:
        networks[name] = (wrap(peers.plain_with_held_norms(_network()), rank).to(device()), note)
    found = taking_turns({name: step_of(network, size) for name, (network, _) in networks.items()}, 4)
    fastest = min(found[name] for name, _, _ in peers.ADAPTERS)
    return [
        {
            "what": name, "rank": rank, "seconds": found[name], "to_standard": found[name] / found["standard fine-tuning"],
            "to_fastest_peer": found[name] / fastest, "kept_mb": kept_mb(network, size),
            "numbers": sum(p.numel() for _, p in trainable_parameters(network)), "note": note,
        }
        for name, (network, note) in networks.items()
    ]  # fmt: skip


def _network() -> MultiViewUnet:
    torch.manual_seed(0)
    return MultiViewUnet().to(device(), memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


@fixed_sizes()
def feeding(batch: int) -> dict[str, float]:
    """Seconds that a training step waits for its slices (gathered and augmented), and of the step with CP-LoRA itself; reading_a_case: once.

    On a GPU the slices are made while it computes: fed_step is the whole step as training takes it, busy the share in which the GPU computes the
    network.
    """
    config = TrainingConfig()
    cases = _cases(2)
    reading = seconds(lambda: SliceCache.read(cases, config.grid)) / len(cases)
    cache = SliceCache.read(cases, config.grid)
    network = _network()
    attach(network, AdapterConfig(rank=4))
    network.to(device())
    numbers = iter(range(10**6))

    def slices(number: int) -> Batch:
        hu, blood, sizes = cache.gather(cache.draw(0, number, batch, config.positive_share))
        seeds = [(0, 2, number, k) for k in range(batch)]
        return augment(hu.to(device()), blood.to(device()), sizes, seeds, config.crop, config.grid.window, config.augmentation)

    step = step_of(network, (batch, 1, *config.crop))
    found = taking_turns({"slices": lambda: slices(next(numbers)), "step": step})
    if device().type == "cpu":
        return {"reading_a_case": reading, **found, "share": found["slices"] / (found["slices"] + found["step"])}
    count = 20
    learn = step_on(network)

    def fed() -> None:
        feed = Feed(slices, device(), count)
        for number in range(count):
            learn(feed.batch(number))
        feed.close()

    alone = timed(lambda: [step() for _ in range(count)]) / count
    together = timed(fed) / count
    return {"reading_a_case": reading, **found, "step_in_a_row": alone, "fed_step": together, "busy": alone / together}


def _cases(count: int) -> list[Any]:
    """(scan, mask) of some phantoms of 28 slices, in memory: reading them is bringing them onto the network's pixels."""
    head = icbm_head()
    made = [make_case(head, "asah", 7 + n, ScannerConfig(matrix=512, gaps_mm=(5.0,) * 27)) for n in range(min(count, 2))]
    return [(made[n % len(made)].ct, made[n % len(made)].mask) for n in range(count)]


def by_cases(table: Path, counts: tuple[int, ...], memory_gb: float = 0.1) -> list[dict[str, float]]:
    """Seconds of reading training cases from files once, and peak memory of the process: all in memory, and at most memory_gb of it.

    table: of the one case that stands for all of them.
    """
    return [{"cases": n, "memory_gb": limit, **in_own_process(_read_cases, str(table), n, limit)} for n in counts for limit in (4.0, memory_gb)]


def _read_cases(table: str, count: int, memory_gb: float) -> dict[str, float]:
    cases = list(CaseTable.read(table)) * count
    before = peak_memory_mb(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        held: list[SliceCache] = []
        spent = seconds(lambda: held.append(SliceCache.read(cases, PixelGrid(), memory_gb=memory_gb, spill=Path(folder))))
        size = sum(case.hu.nbytes + case.blood.nbytes for case in held[0].cases)
        return {"seconds": spent, "cached_mb": size / 1e6, "peak_mb": peak_memory_mb(torch.device("cpu")), "before_mb": before}
