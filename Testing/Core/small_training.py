"""A small network, cached cases and listeners for tests of training."""

from __future__ import annotations

import numpy as np
import torch
from SAHLoRALib.adapters import AdapterConfig
from SAHLoRALib.events import Events
from SAHLoRALib.network import MultiViewUnet, NetworkConfig
from SAHLoRALib.samples import CachedCase, SliceCache
from SAHLoRALib.slices import PixelGrid
from SAHLoRALib.training import TrainingConfig
from SAHLoRALib.weights import save_base

NETWORK = NetworkConfig(levels=1, width=4, dilations=(1, 2))
GRID = PixelGrid(pixel_mm=4.0, multiple=2)
SMALL = TrainingConfig(
    strategy="scratch", network=NETWORK, grid=GRID, adapter=AdapterConfig(rank=2), steps=7, steps_per_epoch=3, batch=4, crop=(32, 32),
    precision="float32", device="cpu", threads=1, patience=0, learning_rate=3e-3,
)  # fmt: skip

#: One of every way in which weights move: all with batch statistics, adapters with each handling of BatchNorm, one module.
WAYS = {
    "scratch": {},
    "cp-lora": {"strategy": "adapter"},
    "dora-c affine": {"strategy": "adapter", "adapter": AdapterConfig("dora-c", rank=2, norm="affine")},
    "conv-lora adapt": {"strategy": "adapter", "adapter": AdapterConfig("conv-lora", rank=2, norm="adapt", modules=("encoder", "head"))},
    "decoder": {"strategy": "decoder"},
}


def made(name, seed, blood=True, count=8, rows=36, columns=30):
    """A cached head in which every other slice has a bright square."""
    rng = np.random.default_rng(seed)
    hu = rng.normal(30, 4, (count, rows, columns))
    mask = np.zeros(hu.shape, np.uint8)
    for k in range(0, count if blood else 0, 2):
        y, x = rng.integers(4, 20, 2)
        mask[k, y : y + 8, x : x + 7] = 255
    hu[mask > 0] += 40
    hu[:, :3] = -1000
    return CachedCase(name, torch.from_numpy(hu).to(torch.int16), torch.from_numpy(mask), torch.full((count,), 0.08, dtype=torch.float64))


def based(config, base):
    return None if config.strategy == "scratch" else base


class CancelAt(Events):
    """Asks to stop once the loss of a step has been told; or fails there, as a crash would."""

    def __init__(self, step, crash=False):
        super().__init__()
        self.step, self.crash = step, crash

    def metric(self, name, value, step, **context):
        if name == "loss" and step == self.step:
            if self.crash:
                raise RuntimeError("power cut")
            self.cancel()


class Recorder(Events):
    def __init__(self):
        super().__init__()
        self.events = []

    def _emit(self, event, **fields):
        self.events.append({"event": event, **fields})


def state(result):
    return result.network.state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def training_cases():
    return SliceCache([made(f"t{i}", i) for i in range(3)], GRID)


def validation_cases():
    return SliceCache([made("v0", 10), made("v1", 11), made("clean", 12, blood=False)], GRID)


def base_model(folder):
    torch.manual_seed(0)
    return save_base(MultiViewUnet(NETWORK), folder / "base.safetensors", grid=GRID)
