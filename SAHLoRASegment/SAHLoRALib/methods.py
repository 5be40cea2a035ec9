"""What can be trained, by name and without torch: adapters, standard fine-tuning, from scratch; a sentence on each, and how many numbers learn.

The formulas of `kernels` stand here once more, as sizes: lists and labels need them before torch is installed. A test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .architecture import MODULES, Convolution, NetworkConfig, convolutions, network_parameters
from .errors import ConfigError

#: How BatchNorms are handled under an adapter; see `adapters.AdapterConfig`.
NORMS = ("frozen", "affine", "adapt")

#: Standard fine-tuning's strategies (METHODS.md §2). Any other set is written with a plus sign, for instance "decoder+head".
STRATEGIES: dict[str, tuple[str, ...]] = {
    "all": MODULES,
    "encoder": ("stem", "encoder"),
    "multiview": ("multiview",),
    "bottleneck": ("bottleneck",),
    "decoder": ("decoder",),
    "head": ("head",),
}
SCRATCH = "scratch"
#: In front of the modules of standard fine-tuning, where methods of all kinds stand in one list: fine-tune:encoder+decoder.
FINE_TUNE = "fine-tune:"


@dataclass(frozen=True)
class Method:
    """An adapter. title: as its paper spells it. sentence: what it is, for people. numbers: kernel (O, I, k) and rank → how many numbers learn.
    magnitude: one more number an output channel (DoRA). learning_rate: a good one to start with.
    """

    title: str
    sentence: str
    numbers: Callable[[int, int, int, int], int]
    magnitude: bool = False
    learning_rate: float = 1e-3


def _lora_c(o: int, i: int, k: int, r: int) -> int:
    return r * k * (o + i)


def _conv_lora(o: int, i: int, k: int, r: int) -> int:
    return r * (i * k * k + o)


def _cp(o: int, i: int, k: int, r: int) -> int:
    return r * (o + i + 2 * k)


_DORA = "whose size is learnt apart from its direction, one more number an output channel"
#: The adapters, in the order of lists: the six of the paper (Minoccheri et al., arXiv 2508.01772), then two more. METHODS.md §4.
ADAPTERS: dict[str, Method] = {
    "cp-lora": Method(
        "CP-LoRA", "The change of each kernel is a sum of products of four vectors: the fewest numbers for a rank, the paper's own method.",
        _cp, learning_rate=5e-3,
    ),
    "lora-c": Method("LoRA-C", "The change of each kernel, written as one matrix, is a product of two thin matrices.", _lora_c),
    "conv-lora": Method("convLoRA", "A narrow convolution followed by a 1×1 convolution makes the change of each kernel.", _conv_lora),
    "cp-dora": Method("CP-DoRA", f"CP-LoRA for a kernel {_DORA}; the paper's own method.", _cp, True, 5e-3),
    "dora-c": Method("DoRA-C", f"LoRA-C for a kernel {_DORA}.", _lora_c, True),
    "conv-dora": Method("convDoRA", f"convLoRA for a kernel {_DORA}.", _conv_lora, True),
    "tucker": Method(
        "Tucker", "A 1×1 convolution to few channels, a small one within them, and a 1×1 back; its core grows with the square of the rank.",
        lambda o, i, k, r: r * (o + i) + r * r * k * k,
    ),
    "loralib": Method(
        "loralib", "LoRA-C as microsoft/LoRA writes it, with mixed-up kernel positions; only to compare with published code.",
        lambda o, i, k, r: r * k * k * (o + i),
    ),
}  # fmt: skip
#: The six that the paper compares.
PAPERS_SIX = ("lora-c", "conv-lora", "cp-lora", "dora-c", "conv-dora", "cp-dora")
#: What lists offer: the adapters, then standard fine-tuning, then from scratch.
CHOICES = (*ADAPTERS, *(f"{FINE_TUNE}{strategy}" for strategy in STRATEGIES), SCRATCH)
#: A good learning rate where all of a network's numbers learn, or some modules'.
FINE_TUNING_RATE, SCRATCH_RATE = 3e-4, 1e-3


def check_modules(names: str | Iterable[str]) -> tuple[str, ...]:
    """The named modules in the network's order, each once. One name or "all" may be given as a string. Raises ConfigError."""
    given = (names,) if isinstance(names, str) else tuple(names)
    wanted = {module for name in given for module in (MODULES if name == "all" else (name,))}
    unknown = [str(name) for name in given if name != "all" and name not in MODULES]
    if unknown or not wanted:
        what = f"Unknown module {', '.join(unknown)}" if unknown else "No module is named"
        raise ConfigError(f"{what}; the network's modules are {', '.join(MODULES)}, or all.")
    return tuple(module for module in MODULES if module in wanted)


def strategy_modules(strategy: str | Sequence[str]) -> tuple[str, ...]:
    """The modules that a strategy trains: "encoder" → ("stem", "encoder"); "decoder+head" → both; a sequence of module names is checked only."""
    if not isinstance(strategy, str):
        return check_modules(strategy)
    parts = [part.strip().lower() for part in strategy.replace(",", "+").split("+")]
    unknown = [part for part in parts if part not in STRATEGIES and part not in MODULES]
    if unknown:
        known = ", ".join(STRATEGIES)
        raise ConfigError(f"Unknown fine-tuning strategy {strategy!r}; known are {known}, and sets of them such as decoder+head.")
    return check_modules([module for part in parts for module in STRATEGIES.get(part, (part,))])


def strategy_of(method: str) -> str:
    """What `TrainingConfig.strategy` is for a method of a list: adapter, scratch, or the modules of standard fine-tuning. Raises ConfigError."""
    if method in ADAPTERS:
        return "adapter"
    if method == SCRATCH:
        return SCRATCH
    strategy = method.removeprefix(FINE_TUNE)
    if strategy == method and strategy not in STRATEGIES:
        raise ConfigError(f"Unknown method {method!r}; known are {', '.join(CHOICES)}, and sets such as {FINE_TUNE}decoder+head.")
    strategy_modules(strategy)
    return strategy


def method_sentence(method: str) -> str:
    """One plain sentence on a method of a list. Raises ConfigError."""
    if method in ADAPTERS:
        return ADAPTERS[method].sentence
    strategy = strategy_of(method)
    if strategy == SCRATCH:
        return "A new network of its own learns everything from your cases alone; it needs many of them and no base."
    if strategy == "all":
        return "Standard fine-tuning: every number of the base goes on learning; the result is a whole network."
    modules = ", ".join(strategy_modules(strategy))
    return f"Standard fine-tuning of a part: the numbers of {modules} go on learning, all others stay; the result is a whole network."


def default_rate(method: str) -> float:
    """A learning rate to start with. Raises ConfigError for a method that is not known."""
    if method in ADAPTERS:
        return ADAPTERS[method].learning_rate
    return SCRATCH_RATE if strategy_of(method) == SCRATCH else FINE_TUNING_RATE


def trainable_numbers(method: str, network: NetworkConfig, rank: int = 8, modules: Sequence[str] = MODULES, norm: str = "frozen") -> tuple[int, int]:
    """(numbers that learn, numbers of the whole network). rank, modules and norm count for adapters. Raises ConfigError."""
    whole = network_parameters(network)
    if method not in ADAPTERS:
        strategy = strategy_of(method)
        learning = MODULES if strategy == SCRATCH else strategy_modules(strategy)
        return sum(c.parameters for c in convolutions(network) if c.module in learning), whole
    chosen = check_modules(modules)
    return sum(_of_layer(ADAPTERS[method], c, rank, norm) for c in convolutions(network) if c.module in chosen), whole


def _of_layer(method: Method, layer: Convolution, rank: int, norm: str) -> int:
    learning = method.numbers(layer.outputs, layer.inputs, layer.side, rank)
    learning += layer.outputs if method.magnitude else 0
    return learning + (2 * layer.outputs if norm == "affine" and layer.norm else 0)
