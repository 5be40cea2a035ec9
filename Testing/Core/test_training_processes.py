"""Training spread over several processes, as torchrun starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from SAHLoRALib import training
from SAHLoRALib.adapters import merge
from SAHLoRALib.augment import Augmentation
from SAHLoRALib.errors import ConfigError
from SAHLoRALib.training import fit
from SAHLoRALib.weights import digest, load_network, read_info, save_base
from small_training import GRID, SMALL, WAYS, base_model, based, state, training_cases, validation_cases

PARALLEL = {way: {**WAYS[way], "ema": 0.9, "augmentation": Augmentation("both")} for way in ("scratch", "conv-lora adapt", "cp-lora")}


def _train_in_parallel(folder: Path) -> None:
    """Run by every process of the test below."""
    torch.set_num_threads(1)
    train, validation = training_cases(), validation_cases()
    from SAHLoRALib.parallel import process_group

    with process_group("gloo"):
        for way, settings in PARALLEL.items():
            config = replace(SMALL, **settings)
            result = fit(config, train, validation, based(config, read_info(folder / "base.safetensors")), folder / way)
            if result.leads:
                merge(result.network) if config.strategy == "adapter" else None
                save_base(result.network, folder / f"{way.replace(' ', '-')}.safetensors", grid=GRID, training={"history": result.history})


@pytest.mark.slow
def test_two_processes_reach_the_losses_and_weights_of_one_with_the_whole_batch(tmp_path, train, validation):
    base = base_model(tmp_path)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    paths = os.pathsep.join([str(Path(training.__file__).parents[1]), str(Path(__file__).parent)])
    code = f"import pathlib, test_training_processes as t; t._train_in_parallel(pathlib.Path({str(tmp_path)!r}))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": paths, "WORLD_SIZE": "2", "RANK": str(r), "LOCAL_RANK": str(r), "MASTER_ADDR": "127.0.0.1",
                              "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"},
        )
        for r in range(2)
    ]  # fmt: skip
    assert [p.wait(timeout=240) for p in processes] == [0, 0]
    for way, settings in PARALLEL.items():
        config = replace(SMALL, **settings)
        alone = fit(config, train, validation, based(config, base), tmp_path / f"alone {way}")
        if config.strategy == "adapter":
            merge(alone.network)
        network, info = load_network(tmp_path / f"{way.replace(' ', '-')}.safetensors")
        for mine, theirs in zip(alone.history, info.training["history"], strict=True):
            assert theirs["loss"] == pytest.approx(mine["loss"], abs=1e-4)
            assert theirs["soft_dice"] == pytest.approx(mine["soft_dice"], abs=1e-3)
        for name, tensor in state(alone).items():
            if "running_" in name or name == "head.2.weight":
                assert torch.allclose(network.state_dict()[name], tensor, rtol=2e-2, atol=2e-3), (way, name)


def test_a_batch_that_cannot_be_spread_is_refused(tmp_path, train, monkeypatch):
    import contextlib

    from SAHLoRALib.parallel import Group

    monkeypatch.setattr(training, "process_group", lambda backend: contextlib.nullcontext(Group(0, 3)))
    with pytest.raises(ConfigError, match="cannot be spread over 3"):
        fit(SMALL, train, folder=tmp_path)


def test_torchruns_environment_must_be_complete(tmp_path, train, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="torchrun"):
        fit(SMALL, train, folder=tmp_path)


def test_the_digest_of_a_training_is_that_of_its_seed(tmp_path, train):
    digests = [digest(fit(replace(SMALL, seed=seed), train, folder=tmp_path / str(i)).network) for i, seed in enumerate((0, 0, 1))]
    assert digests[0] == digests[1] != digests[2]
