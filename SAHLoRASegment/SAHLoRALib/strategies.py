"""Which parts of the network learn: modules by name, standard fine-tuning of them, and normalisation that stays put.

A module is one of `network.MODULES`. Standard fine-tuning trains every parameter of the named modules, their BatchNorms included, and leaves all
others exactly as they were, running statistics too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from torch import nn

from .methods import STRATEGIES, check_modules, strategy_modules

__all__ = [
    "STRATEGIES", "StillBatchNorm2d", "check_modules", "free_norms", "hold_norms", "module_parameters", "named_layers", "release",
    "select_parameters", "strategy_modules",
]  # fmt: skip

Layer = TypeVar("Layer", bound=nn.Module)


class StillBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm that uses its running statistics and never updates them, also after ``network.train()``."""

    def train(self, mode: bool = True) -> StillBatchNorm2d:
        super().train(False)
        return self


def named_layers(network: nn.Module, modules: str | Iterable[str], kind: type[Layer]) -> list[tuple[str, Layer]]:
    """Layers of one kind in the named modules, as (name in the network, layer), in the network's order."""
    found = []
    for module in check_modules(modules):
        for name, layer in network.get_submodule(module).named_modules(prefix=module):
            if isinstance(layer, kind):
                found.append((name, layer))
    return found


def module_parameters(network: nn.Module, modules: str | Iterable[str]) -> list[tuple[str, nn.Parameter]]:
    """All parameters of the named modules, weights and biases of convolutions and BatchNorms, as (name in the network, parameter)."""
    return [(name, p) for module in check_modules(modules) for name, p in network.get_submodule(module).named_parameters(prefix=module)]


def select_parameters(network: nn.Module, modules: str | Iterable[str]) -> list[tuple[str, nn.Parameter]]:
    """Prepare standard fine-tuning: the named modules learn, everything else is frozen, its BatchNorm statistics too. Returns what learns.

    `release` undoes it. Call again with other modules to choose anew.
    """
    release(network)
    chosen = module_parameters(network, modules)
    network.requires_grad_(False)
    for _, parameter in chosen:
        parameter.requires_grad_(True)
    learning = {id(layer) for _, layer in named_layers(network, modules, nn.BatchNorm2d)}
    hold_norms(layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d) and id(layer) not in learning)
    return chosen


def release(network: nn.Module) -> None:
    """Everything may learn again: gradients on, BatchNorms follow the network's training mode."""
    network.requires_grad_(True)
    free_norms(network)


def hold_norms(norms: Iterable[nn.BatchNorm2d]) -> None:
    """Keep these BatchNorms on their running statistics.

    The class is exchanged, not a method of the instance: copies and pickles of the network keep the behaviour, names and state stay the same.
    """
    for norm in norms:
        norm.__class__ = StillBatchNorm2d
        norm.train(False)


def free_norms(network: nn.Module) -> None:
    """Undo `hold_norms` for the whole network."""
    for layer in network.modules():
        if isinstance(layer, StillBatchNorm2d):
            layer.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
            layer.train(network.training)
