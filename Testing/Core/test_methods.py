"""The sizes that lists and labels tell without torch are those of the networks."""

from __future__ import annotations

import itertools

import pytest
from SAHLoRALib.adapters import AdapterConfig, attach, trainable_parameters
from SAHLoRALib.architecture import MODULES
from SAHLoRALib.errors import ConfigError
from SAHLoRALib.methods import ADAPTERS, CHOICES, FINE_TUNE, NORMS, SCRATCH, method_sentence, strategy_modules, trainable_numbers
from SAHLoRALib.network import MultiViewUnet, NetworkConfig
from SAHLoRALib.strategies import STRATEGIES, select_parameters

SMALL = NetworkConfig(levels=2, width=8)


@pytest.mark.parametrize(("method", "norm"), list(itertools.product(ADAPTERS, NORMS)))
@pytest.mark.parametrize("modules", [MODULES, ("decoder", "head")])
def test_an_adapters_told_size_is_what_learns(method: str, norm: str, modules: tuple[str, ...]) -> None:
    network = MultiViewUnet(SMALL)
    attach(network, AdapterConfig(method=method, rank=3, modules=modules, norm=norm))
    learning = sum(p.numel() for _, p in trainable_parameters(network))
    whole = sum(p.numel() for p in MultiViewUnet(SMALL).parameters())
    assert trainable_numbers(method, SMALL, 3, modules, norm) == (learning, whole)


@pytest.mark.parametrize("strategy", [*STRATEGIES, "decoder+head"])
def test_standard_fine_tunings_told_size_is_what_learns(strategy: str) -> None:
    learning = sum(p.numel() for _, p in select_parameters(MultiViewUnet(SMALL), strategy_modules(strategy)))
    assert trainable_numbers(FINE_TUNE + strategy, SMALL)[0] == learning


def test_from_scratch_everything_learns_and_every_choice_has_its_sentence() -> None:
    learning, whole = trainable_numbers(SCRATCH, SMALL)
    assert learning == whole
    assert all(method_sentence(method).endswith(".") for method in CHOICES)
    with pytest.raises(ConfigError, match="Unknown method"):
        trainable_numbers("lora-z", SMALL)
