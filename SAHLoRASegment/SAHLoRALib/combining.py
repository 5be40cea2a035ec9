"""Several adapters of one base as one: the changes that they have learnt, each at its share, added up and written as one convLoRA adapter.

    W = W₀ + Σ share·(W_i − W₀),

kernels and BatchNorms alike. Networks that were trained from one start lie near enough to each other for their weights to be averaged (model soups,
Wortsman et al. 2022, arXiv 2203.05482; task arithmetic, Ilharco et al. 2023, arXiv 2212.04089): an ensemble at the cost of one network. Whatever the
method that made it, a sum of such changes is a convLoRA of the rank of the sum; a lower rank keeps the largest singular values.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from .adapters import AdapterConfig, adapted_layers, adapter_shapes, load_adapter_state, merge
from .case_check import require_usable
from .cases import CaseTable
from .cohort import chosen_on, no_blood
from .device import choose_compute
from .errors import ConfigError
from .events import Events
from .network import MODULES, MultiViewUnet
from .samples import SliceCache
from .validation import Score, validate
from .weights import ModelInfo, check_belongs, load_network


@dataclass(frozen=True)
class Part:
    """An adapter and its share: of the way from the base to what it learnt, above 0 and at most 1. It takes the place of the adapter's strength."""

    adapter: ModelInfo
    share: float

    @property
    def config(self) -> AdapterConfig:
        """Raises ConfigError for a whole network."""
        if self.adapter.adapter is None:
            raise ConfigError(f"{self.adapter.name} is a whole network; only adapters are combined.")
        return self.adapter.adapter


@dataclass(frozen=True, eq=False)
class Combination:
    """network: the base with the adapter `config` attached and not merged. kept: share of the sum's squared norm, over all kernels, that the
    rank keeps; 1 where there is no change at all.
    """

    network: MultiViewUnet
    config: AdapterConfig
    kept: float


def combine(base: ModelInfo, parts: Sequence[Part], rank: int | None = None) -> Combination:
    """Add the parts up. rank: None for the smallest that keeps all but rounding.

    Raises ConfigError (a part named twice, shares that add up to more than 1, BatchNorms that no adapter can hold together), ModelError (an
    adapter of another base, a damaged file).
    """
    norm = _check(base, parts)
    network, _ = load_network(base)
    before = {name: tensor.double() for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    change = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    for part in parts:
        at_share = replace(part.adapter, adapter=replace(part.config, strength=part.share))
        after = load_network(base, at_share)[0].state_dict()
        for name, tensor in change.items():
            tensor += after[name].double() - before[name]
    adapted = {module for part in parts for module in part.config.modules}
    modules = tuple(module for module in MODULES if module in adapted)
    layers = [name for name, _ in adapted_layers(network, modules)]
    factors = {layer: torch.linalg.svd(change[f"{layer}.weight"].flatten(1), full_matrices=False) for layer in layers}
    rank = rank or max(1, *(_numerical_rank(values) for _, values, _ in factors.values()))
    config = AdapterConfig("conv-lora", rank, modules=modules, norm=norm)
    state: dict[str, Tensor] = {}
    for layer, (left, values, right) in factors.items():
        half = values[:rank].sqrt()
        more = rank - len(half)  # of a rank above the kernel's own: zeros
        state[f"{layer}.update.A"] = pad(half[:, None] * right[:rank], (0, 0, 0, more)).reshape(rank, *change[f"{layer}.weight"].shape[1:]).float()
        state[f"{layer}.update.B"] = pad(left[:, :rank] * half, (0, more)).float()
    for name in adapter_shapes(config, base.network).keys() - state.keys():  # the BatchNorms' tensors
        state[name] = (before[name] + change[name]).float() if name in change else network.state_dict()[name]
    load_adapter_state(network, config, state)
    lost, whole_norm = (sum(float((values[start:] ** 2).sum()) for _, values, _ in factors.values()) for start in (rank, 0))
    return Combination(network, config, 1 - lost / whole_norm if whole_norm else 1.0)


def judge(found: Combination, base: ModelInfo, cases: CaseTable, events: Events | None = None) -> tuple[Score, dict[str, Any]]:
    """How it does on validation cases, with the threshold that they choose, just as a training chooses its own; and which cases those were, for the
    header. Raises CaseError that names every case with a problem, Cancelled.
    """
    events = events or Events()
    findings = cases.check(events)
    require_usable(findings)
    cache = SliceCache.read(cases, base.grid, events=events, stage="reading validation cases")
    if not cache.positives:
        raise no_blood(len(cases))
    compute = choose_compute()
    merged = copy.deepcopy(found.network)
    merge(merged, keep_base=False)
    score = validate(merged.eval().to(compute.device), cache, compute, events=events)[0]
    return score, chosen_on(cases, findings)


def _check(base: ModelInfo, parts: Sequence[Part]) -> str:
    """The sum's handling of BatchNorms."""
    digests = [part.adapter.digest for part in parts]
    norms = set()
    for part in parts:
        norms.add(part.config.norm)
        if not 0 < part.share <= 1:
            raise ConfigError(f"The share of {part.adapter.name} must be above 0 and at most 1, not {part.share:g}.")
        if digests.count(part.adapter.digest) > 1:
            raise ConfigError(f"{part.adapter.name} is named twice; name each adapter once, with its whole share.")
        check_belongs(part.adapter, base)
    total = sum(part.share for part in parts)
    if total > 1 + 1e-9:
        raise ConfigError(
            f"The shares add up to {total:g}; give shares that add up to at most 1, so that the sum lies between the base and its parts."
        )
    norms -= {"frozen"}
    if len(norms) > 1:
        names = {part.config.norm: part.adapter.name for part in parts}
        raise ConfigError(
            f"{names['adapt']} has its own BatchNorm statistics and {names['affine']} its own BatchNorm weights; no adapter holds both."
        )
    return norms.pop() if norms else "frozen"


def _numerical_rank(values: Tensor) -> int:
    """Singular values that are more than float32's rounding of the largest."""
    return int((values > values[0] * len(values) * torch.finfo(torch.float32).eps).sum()) if values[0] > 0 else 0
