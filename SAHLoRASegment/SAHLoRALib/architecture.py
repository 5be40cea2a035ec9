"""The shape of the multi-view Unet, without torch: its modules, its settings, its convolutions and their sizes. `network` builds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from .errors import ConfigError

#: The parts of the network that fine-tuning strategies and adapters name, in the order of the data.
MODULES = ("stem", "encoder", "multiview", "bottleneck", "decoder", "head")


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of a multi-view Unet."""

    levels: int = 4
    """Halvings of the resolution, 1 to 6."""
    width: int = 32
    """Channels of the convolutions at full resolution."""
    dilations: tuple[int, ...] = (1, 2, 4)
    """Of the multi-view block's branches."""
    growth: int = 0
    """Channels that each halving adds. The laboratory's network has none; at low resolution they cost little time."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dilations", tuple(int(d) for d in self.dilations))
        for name, least, most in (("levels", 1, 6), ("width", 1, 512), ("growth", 0, 512)):
            value = getattr(self, name)
            if not (isinstance(value, int) and least <= value <= most):
                raise ConfigError(f"{name} must be a whole number between {least} and {most}, not {value}.")
        if not (1 <= len(self.dilations) <= 8 and 1 <= min(self.dilations) <= max(self.dilations) <= 64):
            raise ConfigError(f"dilations must be one to eight whole numbers between 1 and 64, not {str(self.dilations)[:80]}.")

    @property
    def multiple(self) -> int:
        """Rows and columns of the input must be a multiple of this."""
        return 2**self.levels

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each resolution, the finest first and the bottleneck last: levels + 1 numbers."""
        return tuple(self.width + level * self.growth for level in range(self.levels + 1))

    @property
    def described(self) -> str:
        """For people: 4 levels, width 32 to 96."""
        return f"{self.levels} levels, width {self.width}" + (f" to {self.widths[-1]}" if self.growth else "")

    def as_dict(self) -> dict[str, object]:
        return asdict(self) | {"dilations": list(self.dilations)}


@dataclass(frozen=True)
class Convolution:
    """module: of MODULES. outputs, inputs: channels (O, I). side: of the kernel (k). norm: a BatchNorm of O channels follows."""

    module: str
    outputs: int
    inputs: int
    side: int = 3
    norm: bool = True

    @property
    def kernel(self) -> int:
        """Numbers of the kernel: O·I·k²."""
        return self.outputs * self.inputs * self.side**2

    @property
    def parameters(self) -> int:
        """Kernel and bias, and the BatchNorm's weight and bias."""
        return self.kernel + self.outputs * (3 if self.norm else 1)


def convolutions(config: NetworkConfig) -> list[Convolution]:
    """All convolutions of the network, in the order of the data (METHODS.md §2; the network itself is `network.MultiViewUnet`)."""
    return list(_convolutions(config))


def network_parameters(config: NetworkConfig) -> int:
    """How many numbers the whole network has: 399,969 at 4 levels and width 32, 232,737 at 2."""
    return sum(convolution.parameters for convolution in convolutions(config))


def _convolutions(config: NetworkConfig) -> Iterator[Convolution]:
    widths, levels, views = config.widths, config.levels, len(config.dilations)
    yield from _double("stem", 1, widths[0], widths[0])
    for level in range(levels):
        yield from _double("encoder", widths[level], widths[level], widths[level + 1])
    for level in range(levels + 1):
        for _ in range(views):
            yield Convolution("multiview" if level < levels else "bottleneck", widths[level], widths[level])
    for level in range(levels, 0, -1):
        yield from _double("decoder", (2 if level == levels else 3) * widths[level], widths[level - 1], widths[level - 1])
    yield from _double("head", 3 * widths[0], widths[0], widths[0])
    yield Convolution("head", 1, widths[0], side=1, norm=False)


def _double(module: str, inputs: int, between: int, outputs: int) -> Iterator[Convolution]:
    yield Convolution(module, between, inputs)
    yield Convolution(module, outputs, between)
