"""Low-rank adapters on the convolutions of a network: attach, train, merge, unmerge.

Six methods (Minoccheri et al., arXiv 2508.01772) are three kernel updates (`kernels.LoRAC`, `ConvLoRA`, `CPLoRA`), each with or without
`kernels.Magnitude`; `loralib` and `tucker` are two more updates. They sit on ``conv.weight`` as parametrizations, so an adapted network is run like
any other, at the cost of making each kernel once a pass.

    attach(network, AdapterConfig(method="cp-lora", rank=8))      # equals the base; only the adapter learns
    merge(network)                                               # a plain network with the adapted kernels
    unmerge(network)                                             # the base, to the bit
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .errors import ConfigError, ModelError
from .kernels import UPDATES, Magnitude, kernel_shape
from .methods import NORMS
from .network import MODULES, MultiViewUnet, NetworkConfig
from .strategies import check_modules, free_norms, hold_norms, named_layers

METHODS = tuple(UPDATES)
SCALINGS = ("standard", "rslora")
MAX_RANK = 4096

_METHOD_SPELLINGS = {re.sub(r"[^a-z0-9]", "", method): method for method in METHODS}
_RECORD = "_sahlora_adapter"


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter is. The convolutions (3×3 and 1×1) of its modules become W₀ + s·ΔW; BatchNorms outside its modules are always frozen."""

    method: str = "cp-lora"
    """lora-c, conv-lora, cp-lora, dora-c, conv-dora or cp-dora; the papers' spellings (LoRA-C, convLoRA, CP-DoRA) are taken too."""
    rank: int = 8
    """r of the factors: the higher, the more numbers learn; it may be higher than the kernels' own."""
    alpha: float | None = None
    """α of s = α/r. Without it α = r, so s = 1."""
    scaling: str = "standard"
    """standard: s = α/r; rslora: s = α/√r."""
    modules: tuple[str, ...] = MODULES
    """Which modules are adapted; the others stay the base's."""
    norm: str = "frozen"
    """BatchNorms of the modules. frozen: the base's statistics, weights and biases; affine: the base's statistics, weights and biases that learn;
    adapt: statistics of the new domain (AdaBN): the batch's in training, the running ones afterwards."""
    full_dora_gradient: bool = False
    """DoRA's norm is no constant in the backward pass: slower."""
    strength: float = 1.0
    """Share of the way from the base to what was learnt, in the merged network: W₀ + strength·(W − W₀), BatchNorms too (WiSE-FT, arXiv 2109.01903).
    It is learnt at full strength. Below 1 the network stays nearer to the base and is steadier on scans unlike those of the training."""

    def __post_init__(self) -> None:
        spelling = re.sub(r"[^a-z0-9]", "", str(self.method).lower())
        if spelling not in _METHOD_SPELLINGS:
            raise ConfigError(f"Unknown adapter method {self.method!r}; known are {', '.join(METHODS)}.")
        object.__setattr__(self, "method", _METHOD_SPELLINGS[spelling])
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or not 1 <= self.rank <= MAX_RANK:
            raise ConfigError(f"The adapter's rank must be a whole number between 1 and {MAX_RANK}, not {self.rank!r}.")
        if self.alpha is not None:
            if isinstance(self.alpha, bool) or not isinstance(self.alpha, (int, float)) or not 0 < self.alpha < math.inf:
                raise ConfigError(f"The adapter's alpha must be a positive number, not {self.alpha!r}; leave it out for alpha = rank.")
            object.__setattr__(self, "alpha", float(self.alpha))
        if self.scaling not in SCALINGS:
            raise ConfigError(f"Unknown adapter scaling {self.scaling!r}; known are {', '.join(SCALINGS)}.")
        if self.norm not in NORMS:
            raise ConfigError(f"Unknown handling of normalisation {self.norm!r}; known are {', '.join(NORMS)}.")
        if not isinstance(self.full_dora_gradient, bool):
            raise ConfigError(f"full_dora_gradient must be true or false, not {self.full_dora_gradient!r}.")
        if isinstance(self.strength, bool) or not isinstance(self.strength, (int, float)) or not 0 < self.strength <= 1:
            raise ConfigError(f"The adapter's strength must be above 0 and at most 1, not {self.strength!r}.")
        object.__setattr__(self, "strength", float(self.strength))
        object.__setattr__(self, "modules", check_modules(self.modules))

    @property
    def scale(self) -> float:
        """s of W₀ + s·ΔW."""
        alpha = self.rank if self.alpha is None else self.alpha
        return alpha / (math.sqrt(self.rank) if self.scaling == "rslora" else self.rank)

    @property
    def described(self) -> str:
        """A few words: cp-lora, rank 8; and its strength where it is not whole."""
        return f"{self.method}, rank {self.rank}" + (f", strength {self.strength:g}" if self.strength < 1 else "")

    @property
    def has_magnitude(self) -> bool:
        return UPDATES[self.method][1]

    def as_dict(self) -> dict[str, object]:
        return asdict(self) | {"modules": list(self.modules)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AdapterConfig:
        """The opposite of `as_dict`. Raises ConfigError for unknown or wrong entries."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"Unknown adapter setting {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
        if not isinstance(values.get("modules", ()), (str, list, tuple)):
            raise ConfigError(f"The adapter's modules must be a list of names, not {values['modules']!r}.")
        return cls(**values)


@dataclass
class _Record:
    """What a network remembers of its adapter.

    base: what merging and learning overwrite, on the CPU: BatchNorm tensors from the start, kernels from the merge. learning: requires_grad of every
    parameter before the adapter came.
    """

    config: AdapterConfig
    layers: tuple[str, ...]
    norms: tuple[str, ...]
    learning: dict[str, bool]
    base: dict[str, Tensor] = field(default_factory=dict)
    merged: bool = False


def adapted_layers(network: nn.Module, modules: str | Iterable[str] = MODULES) -> list[tuple[str, nn.Conv2d]]:
    """The convolutions that an adapter of these modules sits on, as (name in the network, layer)."""
    return named_layers(network, modules, nn.Conv2d)


def is_adapted(network: nn.Module) -> bool:
    """An adapter is attached and not merged."""
    record = getattr(network, _RECORD, None)
    return record is not None and not record.merged


def adapter_config(network: nn.Module) -> AdapterConfig | None:
    """The configuration of the adapter that is attached or merged, if there is one."""
    record = getattr(network, _RECORD, None)
    return None if record is None else record.config


def attach(network: nn.Module, config: AdapterConfig, seed: int = 0) -> None:
    """Freeze the network and put a new adapter on it. The output stays exactly the base's; `trainable_parameters` are the adapter's.

    seed: of the factors that do not start at zero; the global random state is not touched. Raises ConfigError when an adapter is there already.
    """
    if getattr(network, _RECORD, None) is not None:
        raise ConfigError("The network has an adapter already; detach or unmerge it before attaching another.")
    layers = adapted_layers(network, config.modules)
    learning = {name: p.requires_grad for name, p in network.named_parameters()}
    network.requires_grad_(False)
    update, has_magnitude = UPDATES[config.method]
    generator = torch.Generator().manual_seed(seed)
    for _, conv in layers:
        weight = conv.weight.detach()
        parametrize.register_parametrization(conv, "weight", update(weight, config.rank, config.scale, generator))
        if has_magnitude:
            parametrize.register_parametrization(conv, "weight", Magnitude(weight, config.full_dora_gradient))
    record = _Record(config, tuple(name for name, _ in layers), _attach_norms(network, config), learning)
    record.base = {name: tensor.detach().to("cpu", copy=True) for name, tensor in _norm_tensors(network, record).items()}
    setattr(network, _RECORD, record)


def detach(network: nn.Module) -> None:
    """Take the adapter away, merged or not: the network is the base again, to the bit."""
    record = _record(network)
    if record.merged:
        unmerge(network)
        return
    for name in record.layers:
        _remove(network.get_submodule(name), leave_parametrized=False)
    _restore(network, record)


def merge(network: nn.Module, keep_base: bool = True) -> None:
    """Write the adapted kernels into the network, which is plain afterwards (state names, speed, gradients as before `attach`).

    Below a strength of 1 they go only that share of the way from the base's, and the adapter's BatchNorms with them.
    keep_base: keep the base's kernels in memory on the CPU for `unmerge`; without them the network forgets that it was adapted.
    """
    record = _attached(network)
    if keep_base or record.config.strength < 1:
        for name in record.layers:
            original = _updates(network, name).original
            record.base[f"{name}.weight"] = original.detach().to("cpu", copy=True)
    for name in record.layers:
        _remove(network.get_submodule(name), leave_parametrized=True)
    if record.config.strength < 1:
        _weaken(network, record)
    free_norms(network)
    _restore_learning(network, record)
    record.merged = True
    if not keep_base:
        delattr(network, _RECORD)


def unmerge(network: nn.Module) -> None:
    """Undo `merge`: the base is back, to the bit, without the adapter. Raises ConfigError when nothing is merged."""
    record = _record(network)
    if not record.merged:
        raise ConfigError("The network's adapter is not merged; call detach to take it away.")
    _restore(network, record)


def trainable_parameters(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """What learns, as (name, parameter): the adapter's factors, magnitudes and BatchNorm weights, under the names of `adapter_state`.

    Works for standard fine-tuning too (`strategies.select_parameters`).
    """
    return [(_public_name(name), p) for name, p in network.named_parameters() if p.requires_grad]


def count_parameters(config: AdapterConfig, network: NetworkConfig | None = None) -> int:
    """How many numbers learn, by the formulas of `kernels`; nothing of that size is built."""
    shapes = adapter_shapes(config, network or NetworkConfig())
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(statistics))


def adapter_shapes(config: AdapterConfig, network: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of `adapter_state` for an adapter of such a network."""
    with torch.device("meta"):
        skeleton = MultiViewUnet(network)
    update, has_magnitude = UPDATES[config.method]
    shapes: dict[str, tuple[int, ...]] = {}
    for name, conv in adapted_layers(skeleton, config.modules):
        kernel = kernel_shape(conv.weight)
        shapes |= {f"{name}.update.{factor}": shape for factor, shape in update.shapes(kernel, config.rank).items()}
        if has_magnitude:
            shapes[f"{name}.magnitude.m"] = (kernel[0],)
    for name, norm in named_layers(skeleton, config.modules, nn.BatchNorm2d):
        shapes |= {f"{name}.{part}": tuple(getattr(norm, part).shape) for part in _norm_parts(config)}
    return shapes


def adapter_state(network: nn.Module) -> dict[str, Tensor]:
    """All that makes the attached adapter: copies on the CPU of factors, magnitudes, and BatchNorm tensors where the adapter has its own."""
    record = _attached(network)
    state = _factors(network, record) | _norm_tensors(network, record)
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}


def load_adapter_state(network: nn.Module, config: AdapterConfig, state: Mapping[str, Tensor]) -> None:
    """Attach an adapter with this state. Raises ModelError when the state is not one of such an adapter, and leaves the network as it was."""
    attach(network, config)
    record = _attached(network)
    try:
        targets = _factors(network, record) | _norm_tensors(network, record)
        check_state(state, {name: tuple(tensor.shape) for name, tensor in targets.items()}, "adapter")
    except ModelError:
        detach(network)
        raise
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(state[name])


def check_state(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Names, shapes and finite values. Raises ModelError that names the first difference."""
    check_shapes({name: tuple(tensor.shape) for name, tensor in state.items()}, shapes, what)
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"The {what} holds values that are not numbers in {name}; its training failed or the file is damaged.")


def check_shapes(given: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Raises ModelError that names the first tensor that is missing, not expected, or of another shape."""
    for name in expected:
        if name not in given:
            raise ModelError(f"The {what} lacks the tensor {name}; it was made for another network or is damaged.")
        if given[name] != expected[name]:
            raise ModelError(f"The {what}'s tensor {name} has the shape {given[name]} where {expected[name]} fits.")
    for name in given:
        if name not in expected:
            raise ModelError(f"The {what} holds the tensor {name} that does not belong to it; it was made for another network.")


def _record(network: nn.Module) -> _Record:
    record = getattr(network, _RECORD, None)
    if record is None:
        raise ConfigError("The network has no adapter.")
    return record


def _attached(network: nn.Module) -> _Record:
    record = _record(network)
    if record.merged:
        raise ConfigError("The network's adapter is merged; unmerge it and load its state to go on with it.")
    return record


def _norm_parts(config: AdapterConfig) -> tuple[str, ...]:
    """The tensors of a BatchNorm that belong to the adapter."""
    return {"frozen": (), "affine": ("weight", "bias"), "adapt": ("running_mean", "running_var", "num_batches_tracked")}[config.norm]


def _attach_norms(network: nn.Module, config: AdapterConfig) -> tuple[str, ...]:
    """Still the BatchNorms that must not move; returns the names of those that are the adapter's own."""
    named = named_layers(network, config.modules, nn.BatchNorm2d)
    following = {id(norm) for _, norm in named} if config.norm == "adapt" else set()
    hold_norms(m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and id(m) not in following)
    if config.norm == "affine":
        for _, norm in named:
            norm.requires_grad_(True)
    return tuple(name for name, _ in named) if config.norm != "frozen" else ()


def _factors(network: nn.Module, record: _Record) -> dict[str, Tensor]:
    """The live factors and magnitudes by their public names."""
    found: dict[str, Tensor] = {}
    for layer in record.layers:
        for update in _updates(network, layer):
            part = "magnitude" if isinstance(update, Magnitude) else "update"
            found |= {f"{layer}.{part}.{name}": p for name, p in update.named_parameters()}
    return found


def _updates(network: nn.Module, layer: str) -> Any:
    """The parametrizations of an adapted layer's kernel: the frozen `original`, then update and magnitude in turn."""
    return network.get_submodule(layer).parametrizations.weight  # type: ignore[union-attr]


def _norm_tensors(network: nn.Module, record: _Record) -> dict[str, Tensor]:
    """The live BatchNorm tensors that are the adapter's own, by their names in the network."""
    parts = _norm_parts(record.config)
    return {f"{name}.{part}": getattr(network.get_submodule(name), part) for name in record.norms for part in parts}


def _remove(conv: nn.Module, leave_parametrized: bool) -> None:
    # A deep copy of a parametrized layer shares the class that torch made for it, and removal takes the property off that class: the copy's
    # twin would lose its weight. So the layer gets a class of its own first.
    cls = conv.__class__
    conv.__class__ = type(cls.__name__, cls.__bases__, dict(cls.__dict__))
    parametrize.remove_parametrizations(conv, "weight", leave_parametrized=leave_parametrized)
    # It also puts the weight behind the bias; names in their old order keep optimizers and files comparable.
    for name in [name for name in conv._parameters if name != "weight"]:
        conv._parameters[name] = conv._parameters.pop(name)


def _weaken(network: nn.Module, record: _Record) -> None:
    """Take the merged kernels and the adapter's BatchNorms back to `strength` of the way from the base."""
    with torch.no_grad():
        for name, before in record.base.items():
            layer, _, part = name.rpartition(".")
            tensor = getattr(network.get_submodule(layer), part)
            if tensor.is_floating_point():
                tensor.copy_(torch.lerp(before.to(tensor.device), tensor, record.config.strength))


def _restore(network: nn.Module, record: _Record) -> None:
    free_norms(network)
    with torch.no_grad():
        for name, tensor in record.base.items():
            layer, _, part = name.rpartition(".")
            getattr(network.get_submodule(layer), part).copy_(tensor)
    _restore_learning(network, record)
    delattr(network, _RECORD)


def _restore_learning(network: nn.Module, record: _Record) -> None:
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(record.learning[name])


def _public_name(name: str) -> str:
    return name.replace(".parametrizations.weight.0.", ".update.").replace(".parametrizations.weight.1.", ".magnitude.")
