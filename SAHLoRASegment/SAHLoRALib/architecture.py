"""The shape of the multi-view Unet, without torch: its modules, its settings, its convolutions and their sizes. `network` builds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from .errors import ConfigError

#: The parts of the network that fine-tuning strategies and adapters name, in the order of the data.
MODULES = ("stem", "encoder", "multiview", "bottleneck", "decoder", "head")


@dataclass(frozen=True)
class NetworkConfig:
    """levels: halvings of the resolution. width: channels of every convolution. dilations: of the multi-view branch."""

    levels: int = 4
    width: int = 32
    dilations: tuple[int, ...] = (1, 2, 4)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dilations", tuple(int(d) for d in self.dilations))
        for name, most in (("levels", 6), ("width", 512)):
            value = getattr(self, name)
            if not (isinstance(value, int) and 1 <= value <= most):
                raise ConfigError(f"{name} must be a whole number between 1 and {most}, not {value}.")
        if not self.dilations or min(self.dilations) < 1:
            raise ConfigError(f"dilations must be positive whole numbers, not {self.dilations}.")

    @property
    def multiple(self) -> int:
        """Rows and columns of the input must be a multiple of this."""
        return 2**self.levels

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
    width, levels, views = config.width, config.levels, len(config.dilations)
    yield from _double("stem", 1, width)
    for _ in range(levels):
        yield from _double("encoder", width, width)
    for module, blocks in (("multiview", levels), ("bottleneck", 1)):
        for _ in range(blocks * views):
            yield Convolution(module, width, width)
    for level in range(levels):
        yield from _double("decoder", (2 if level == 0 else 3) * width, width)
    yield from _double("head", 3 * width, width)
    yield Convolution("head", 1, width, side=1, norm=False)


def _double(module: str, inputs: int, width: int) -> Iterator[Convolution]:
    yield Convolution(module, width, inputs)
    yield Convolution(module, width, width)
