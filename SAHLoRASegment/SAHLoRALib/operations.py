"""Two steps of the network that PyTorch takes slowly on a processor, with the same results: convolution with ReLU, and doubling a map's size.

Beside its multiplications a processor spends its time on carrying maps to memory and back. A ReLU of its own reads and writes each map once more than
oneDNN's convolution does that ends with it; and the gradient of bilinear doubling takes PyTorch ten times as long as the depthwise convolution that
it is. On a GPU, and for other numbers than float32 and bfloat16, PyTorch's own operations are taken.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

#: What a pixel of the small map gives to the four rows of the large one that are nearest; columns alike.
_SHARES = (0.25, 0.75, 0.75, 0.25)
_TYPES = (torch.bfloat16, torch.float32)
#: Where convolutions that end with ReLU were tried; elsewhere oneDNN hands convolutions on to other libraries.
_TRIED = platform.machine().lower() in ("x86_64", "amd64")


def convolved_relu(x: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    """relu(conv2d(x, weight, bias)) with stride 1, under autocast too. x: (n, in, rows, columns). weight: (out, in, kh, kw). bias: (out,)."""
    kind = _computed_in(x)
    if kind is None:
        return functional.relu(functional.conv2d(x, weight, bias, padding=padding, dilation=dilation), inplace=True)
    step = _ConvolvedReLU.apply if torch.is_grad_enabled() else _convolved_relu
    return step(x.to(kind), weight.to(kind), bias.to(kind), padding, dilation)  # type: ignore[no-any-return,no-untyped-call]


class Doubled(nn.Module):
    """(n, c, rows, columns) → (n, c, 2·rows, 2·columns), bilinear between pixel centres: ``nn.Upsample(scale_factor=2, mode="bilinear")``."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.dtype in _TYPES and torch.is_grad_enabled():
            return _Doubled.apply(x)  # type: ignore[no-any-return,no-untyped-call]
        return _doubled(x)


def _computed_in(x: Tensor) -> torch.dtype | None:
    """The type that a convolution of x is computed in where oneDNN does it and can end it with ReLU (x86, PyTorch 2.4 and later); None elsewhere."""
    if x.device.type != "cpu" or not _TRIED or not hasattr(torch, "get_autocast_dtype") or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return None
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    return kind if kind in _TYPES and torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled else None


def _convolved_relu(x: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, (1, 1), dilation, 1, "relu", [], "")  # type: ignore[no-any-return]


class _ConvolvedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
        y = _convolved_relu(x, weight, bias, padding, dilation)
        ctx.save_for_backward(x, weight, y)
        ctx.padding, ctx.dilation = padding, dilation
        return y

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
        wanted = ctx.needs_input_grad[:3]
        sizes = [weight.shape[0]]
        given = torch.ops.aten.convolution_backward(gradient, x, weight, sizes, (1, 1), ctx.padding, ctx.dilation, False, (0, 0), 1, wanted)
        return *given, None, None


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _doubled(x)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """A pixel gets back from 4×4 pixels by what it gave them; beyond an edge they are the edge's own, which stood in there."""
        channels = gradient.shape[1]
        shares = gradient.new_tensor(_SHARES)
        padded = functional.pad(gradient, (1, 1, 1, 1), mode="replicate")
        return functional.conv2d(padded, torch.outer(shares, shares).expand(channels, 1, 4, 4), stride=2, groups=channels)


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
