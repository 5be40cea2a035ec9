"""The multi-view Unet.

Source: Yao et al. 2020 (doi 10.1016/j.artmed.2020.101910), used by Minoccheri et al. (arXiv 2508.01772). "Multi-view" means several fields of
view: at every resolution a branch of dilated convolutions sees further than the plain double convolution beside it, and is handed to the decoder
as the skip connection. The input is one axial slice; there are no orthogonal planes.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from .architecture import MODULES, NetworkConfig
from .operations import Doubled, Maps, convolved, convolved_relu, joined

__all__ = ["MODULES", "MultiViewUnet", "NetworkConfig"]


class ConvNormReLU(nn.Sequential):
    """Conv 3×3 (same size) → BatchNorm → ReLU."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Maps) -> Tensor:
        """A BatchNorm that is held still while the rest trains works inside the kernel: the same result but for rounding, one map less to keep."""
        convolution, norm, relu = self
        if not isinstance(convolution, nn.Conv2d):
            return self.layer_by_layer(x)
        weight, bias = convolution.weight, convolution.bias
        assert bias is not None and isinstance(convolution.padding, tuple)
        if isinstance(norm, nn.BatchNorm2d):
            if not self.training or norm.training:
                return relu(norm(convolved(x, weight, bias, convolution.padding, convolution.dilation)))  # type: ignore[no-any-return]
            assert norm.running_mean is not None and norm.running_var is not None
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            weight, bias = weight * scale.view(-1, 1, 1, 1), (bias - norm.running_mean) * scale + norm.bias
        return convolved_relu(x, weight, bias, convolution.padding, convolution.dilation)

    def layer_by_layer(self, x: Maps) -> Tensor:
        """Convolution, norm and ReLU one after the other, for layers that were exchanged."""
        return super().forward(joined(x))


class DoubleConv(nn.Sequential):
    """Two ConvNormReLU, in_channels → between → out_channels."""

    def __init__(self, in_channels: int, between: int, out_channels: int) -> None:
        super().__init__(ConvNormReLU(in_channels, between), ConvNormReLU(between, out_channels))


class MultiViewBlock(nn.Module):
    """A chain of dilated ConvNormReLU; output = concat(input, chain), so c + width channels."""

    def __init__(self, in_channels: int, width: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        channels = [in_channels] + [width] * len(dilations)
        self.branch = nn.Sequential(*(ConvNormReLU(i, o, d) for i, o, d in zip(channels, channels[1:], dilations, strict=False)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.parts(x), dim=1)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` puts together, for whom a convolution follows, which takes them as they are."""
        return x, self.branch(x)


class MultiViewUnet(nn.Module):
    """(batch, 1, rows, columns) in [0, 1] → (batch, 1, rows, columns) logits.

    Rows and columns must be multiples of ``2 ** levels``. With width 32 and dilations 1, 2, 4 it has 232,737 parameters at 2 levels and
    399,969 at 4. With growth the encoder's second convolution brings the channels of the next resolution, the decoder's first takes them away.
    """

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NetworkConfig()
        widths, levels = config.widths, config.levels
        deepest, finest = widths[-1], widths[0]
        self.stem = DoubleConv(1, finest, finest)
        self.encoder = nn.ModuleList(DoubleConv(fine, fine, coarse) for fine, coarse in pairwise(widths))
        self.multiview = nn.ModuleList(MultiViewBlock(width, width, config.dilations) for width in widths[:-1])
        self.bottleneck = MultiViewBlock(deepest, deepest, config.dilations)
        self.decoder = nn.ModuleList(
            DoubleConv((2 if level == levels else 3) * widths[level], widths[level - 1], widths[level - 1]) for level in range(levels, 0, -1)
        )
        self.head = nn.Sequential(ConvNormReLU(3 * finest, finest), ConvNormReLU(finest, finest), nn.Conv2d(finest, 1, kernel_size=1))
        self.pool: nn.Module = nn.MaxPool2d(2)
        self.up = Doubled()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        skips = []
        for down, view in zip(self.encoder, self.multiview, strict=True):
            assert isinstance(view, MultiViewBlock)
            skips.append(view.parts(x))
            x = self.pool(down(x))
        assert isinstance(self.bottleneck, MultiViewBlock)
        maps: tuple[Tensor, ...] = self.bottleneck.parts(x)
        for up, skip in zip(self.decoder, reversed(skips), strict=True):
            maps = (self.up(up(maps)), *skip)
        return self.head(maps)
