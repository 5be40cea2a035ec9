"""A trained network made wider, without forgetting anything: the start for training on with more channels.

Each new channel repeats an old one, and what follows takes its part from each of the equal channels in random shares that add up to one, so the wider
network computes the same as the narrow one but for rounding, and its channels drift apart in training because their shares differ.
Source: Chen, Goodfellow, Shlens, Net2Net (arXiv 1511.05641), section 3.1, with random shares in place of equal ones and of noise.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .errors import ConfigError
from .network import ConvNormReLU, MultiViewUnet, NetworkConfig

#: Standard deviation of the shares' logarithms.
_SPREAD = 0.5


def widened(network: MultiViewUnet, config: NetworkConfig, seed: int = 0) -> MultiViewUnet:
    """A network of `config` that computes what `network` does, on the CPU in evaluation mode; `network` stays as it is.

    Raises ConfigError where levels or dilations differ, or where `config` is narrower somewhere.
    """
    old = network.config
    narrower = any(new < now for new, now in zip(config.widths, old.widths, strict=False))
    if (config.levels, config.dilations) != (old.levels, old.dilations) or narrower:
        raise ConfigError(f"A network of {_told(old)} can only be made wider, not into one of {_told(config)}.")
    wide = MultiViewUnet(config).eval()
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for (name, outputs, inputs), source in zip(_channels(old, config), _convolutions(network), strict=True):
            target = wide.get_submodule(name)
            if isinstance(source, ConvNormReLU):
                assert isinstance(target, ConvNormReLU)
                for key, values in source[1].state_dict().items():
                    target[1].state_dict()[key].copy_(values[outputs] if values.ndim else values)
                target, source = target[0], source[0]
            assert isinstance(source, nn.Conv2d) and isinstance(target, nn.Conv2d) and source.bias is not None and target.bias is not None
            target.weight.copy_(source.weight[outputs][:, inputs] * _shares(len(outputs), inputs, chance)[:, :, None, None])
            target.bias.copy_(source.bias[outputs])
    return wide


def _told(config: NetworkConfig) -> str:
    return f"{config.levels} levels, width {config.width}, growth {config.growth} and dilations {', '.join(map(str, config.dilations))}"


def _convolutions(network: MultiViewUnet) -> Iterator[nn.Module]:
    return (network.get_submodule(name) for name, _, _ in _channels(network.config, network.config))


def _channels(old: NetworkConfig, new: NetworkConfig) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Every convolution's name, and for each of its new outputs and inputs (int64) the old channel that it repeats."""
    maps = [torch.arange(wide) % narrow for wide, narrow in zip(new.widths, old.widths, strict=True)]
    levels, views = old.levels, len(old.dilations)

    def side_by_side(level: int, count: int) -> Tensor:
        return torch.cat([maps[level] + k * old.widths[level] for k in range(count)])

    def double(name: str, inputs: Tensor, between: Tensor, outputs: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        yield f"{name}.0", between, inputs
        yield f"{name}.1", outputs, between

    yield from double("stem", torch.zeros(1, dtype=torch.int64), maps[0], maps[0])
    for level in range(levels):
        yield from double(f"encoder.{level}", maps[level], maps[level], maps[level + 1])
        for view in range(views):
            yield f"multiview.{level}.branch.{view}", maps[level], maps[level]
    for view in range(views):
        yield f"bottleneck.branch.{view}", maps[levels], maps[levels]
    for step, level in enumerate(range(levels, 0, -1)):
        yield from double(f"decoder.{step}", side_by_side(level, 2 if step == 0 else 3), maps[level - 1], maps[level - 1])
    yield from double("head", side_by_side(0, 3), maps[0], maps[0])
    yield "head.2", torch.zeros(1, dtype=torch.int64), maps[0]


def _shares(outputs: int, inputs: Tensor, chance: torch.Generator) -> Tensor:
    """(outputs, inputs): of each equal input a random share, together 1; exactly 1 where an old channel has one heir."""
    weights = torch.exp(_SPREAD * torch.randn(outputs, len(inputs), generator=chance))
    sums = torch.zeros(outputs, int(inputs.max()) + 1).index_add_(1, inputs, weights)
    return weights / sums[:, inputs]
