"""Steps of the network that PyTorch takes slowly on a processor, with the same results: convolution with ReLU and of maps that stand side by side,
the gradient of a kernel, doubling a map's size.

Beside its multiplications a processor spends its time on carrying maps to memory and back. A ReLU of its own reads and writes each map once more than
oneDNN's convolution does that ends with it; and the gradient of bilinear doubling takes PyTorch ten times as long as the depthwise convolution that
it is. Without AVX-512 oneDNN takes for the gradient of a kernel three times what the convolution takes (on one core up to six times), where matrix
products of the same numbers take half as long or less. On a GPU, and for other numbers than float32 and bfloat16, PyTorch's own operations are taken.
"""

from __future__ import annotations

import functools
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
#: Bytes of a gradient's rows that `_kernel_gradient` lays side by side at a time: few enough to stay in a core's cache.
_AT_A_TIME = 2**21
#: Inputs of a convolution from which on its kernel's gradient is made of matrix products.
_FEWEST_INPUTS = 8


#: A map (n, channels, rows, columns), or several that stand for one with their channels after one another.
Maps = Tensor | tuple[Tensor, ...]


def convolved(x: Maps, weight: Tensor, bias: Tensor, padding: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    """conv2d(x, weight, bias) with stride 1, under autocast too. x: (n, in, rows, columns). weight: (out, in, kh, kw). bias: (out,)."""
    maps = _several(x)
    if torch.is_grad_enabled() and _computed_in(maps[0]) == torch.float32 and _lacks_avx512():
        maps = tuple(one.float() for one in maps)
        return _Convolved.apply(weight.float(), bias.float(), padding, dilation, "none", *maps)  # type: ignore[no-any-return,no-untyped-call]
    return functional.conv2d(joined(maps), weight, bias, padding=padding, dilation=dilation)


def convolved_relu(x: Maps, weight: Tensor, bias: Tensor, padding: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    """relu(conv2d(x, weight, bias)) with stride 1, under autocast too. x: (n, in, rows, columns). weight: (out, in, kh, kw). bias: (out,).

    Several maps are never put together in float32: each is convolved with its own part of the kernel and added to the sum. In bfloat16 the sum would
    be rounded after each.
    """
    maps = _several(x)
    kind = _computed_in(maps[0])
    if kind is None:
        return functional.relu(functional.conv2d(joined(maps), weight, bias, padding=padding, dilation=dilation), inplace=True)
    maps = tuple(one.to(kind) for one in (maps if kind == torch.float32 else (joined(maps),)))
    step = _Convolved.apply if torch.is_grad_enabled() else _convolved
    return step(weight.to(kind), bias.to(kind), padding, dilation, "relu", *maps)  # type: ignore[no-any-return,no-untyped-call]


def joined(x: Maps) -> Tensor:
    """(n, channels, rows, columns)"""
    maps = _several(x)
    return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)


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


@functools.cache
def _lacks_avx512() -> bool:
    """Whether PyTorch computes in AVX2 at most: then oneDNN has no fast gradient of a kernel."""
    return "AVX512" not in torch.backends.cpu.get_cpu_capability()


def _several(x: Maps) -> tuple[Tensor, ...]:
    return (x,) if isinstance(x, Tensor) else tuple(x)


def _kernels(weight: Tensor, maps: tuple[Tensor, ...]) -> list[Tensor]:
    """Each map's part of the kernel, in the kernel's own memory format."""
    if len(maps) == 1:
        return [weight]
    last = weight.is_contiguous(memory_format=torch.channels_last)
    parts = weight.split([one.shape[1] for one in maps], dim=1)
    return [part.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format) for part in parts]


def _convolved(weight: Tensor, bias: Tensor, padding: tuple[int, ...], dilation: tuple[int, ...], ending: str, *maps: Tensor) -> Tensor:
    """ending: relu or none."""
    first, *others = zip(maps, _kernels(weight, maps), strict=True)
    once = torch.ops.mkldnn._convolution_pointwise
    y: Tensor = once(*first, bias, padding, (1, 1), dilation, 1, "none" if others else ending, [], "")
    for number, (x, kernel) in enumerate(others, start=2):
        end = ending if ending != "none" and number == len(maps) else None
        y = torch.ops.mkldnn._convolution_pointwise_.binary(y, x, kernel, None, padding, (1, 1), dilation, 1, "add", 1.0, end, [], None)
    return y


class _Convolved(torch.autograd.Function):
    """A convolution with stride 1 of one map or several that ends with relu, or with none."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, padding: tuple[int, ...], dilation: tuple[int, ...], ending: str, *maps: Tensor) -> Tensor:
        y = _convolved(weight, bias, padding, dilation, ending, *maps)
        ctx.save_for_backward(weight, *maps, *([y] if ending == "relu" else []))
        ctx.padding, ctx.dilation, ctx.maps = padding, dilation, len(maps)
        return y

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, *kept = ctx.saved_tensors
        maps, ended = tuple(kept[: ctx.maps]), kept[ctx.maps :]
        if ended:
            gradient = torch.ops.aten.threshold_backward(gradient, *ended, 0)
        of_weight, of_bias = ctx.needs_input_grad[:2]
        by_products = of_weight and _by_products(maps, weight, ctx.padding, ctx.dilation)
        of_kernels = of_weight and not by_products
        of_maps: list[Tensor | None] = []
        found: list[Tensor] = []
        bias: Tensor | None = None
        for x, kernel, of_map in zip(maps, _kernels(weight, maps), ctx.needs_input_grad[5:], strict=True):
            wanted = (of_map, of_kernels, of_kernels and of_bias and not found)
            given: tuple[Tensor | None, ...] = (None, None, None)
            if of_map or of_kernels:
                conv = (ctx.padding, ctx.dilation, False, (0, 0), 1, wanted)
                given = torch.ops.aten.convolution_backward(gradient, x, kernel, [weight.shape[0]], (1, 1), *conv)
            of_maps.append(given[0])
            if given[1] is not None:
                found.append(given[1])
            bias = given[2] if wanted[2] else bias
        if by_products:
            found = [_kernel_gradient(gradient, maps, weight, ctx.dilation)]
        if of_bias and bias is None:
            bias = gradient.sum((0, 2, 3))
        return torch.cat(found, dim=1) if found else None, bias, None, None, None, *of_maps


def _by_products(maps: tuple[Tensor, ...], weight: Tensor, padding: tuple[int, ...], dilation: tuple[int, ...]) -> bool:
    """Whether `_kernel_gradient` is the faster way: measured with AVX2, in float32, and unless there are very few inputs."""
    same_size = all(2 * p == d * (side - 1) for p, d, side in zip(padding, dilation, weight.shape[2:], strict=True))
    large = weight.shape[1] >= _FEWEST_INPUTS and all(x.is_contiguous(memory_format=torch.channels_last) for x in maps)
    return same_size and large and weight.dtype == torch.float32 and _lacks_avx512()


def _kernel_gradient(gradient: Tensor, maps: tuple[Tensor, ...], weight: Tensor, dilation: tuple[int, ...]) -> Tensor:
    """(out, in, kh, kw): the gradient of the kernel of a convolution that keeps its maps' size, of matrix products over pixels.

    gradient: (n, out, rows, columns). maps: (n, part of in, rows, columns) each, channels last. An entry is Σ gradient[o, p]·x[i, p + shift] over
    all pixels p whose neighbour lies in the map. Some rows of the gradient are laid side by side, shifted by each column of the kernel; shifted by a
    row of the kernel they stand beside whole rows of x, which need no copy. As many images as there are threads go at once, a product each.
    """
    count, _, rows, columns = gradient.shape
    outputs, _, high, wide = weight.shape
    together = min(count, torch.get_num_threads())
    tall = max(1, min(rows, _AT_A_TIME // (gradient.element_size() * wide * outputs * columns)))
    above, pixels = gradient.permute(0, 2, 3, 1), [x.permute(0, 2, 3, 1).flatten(1, 2) for x in maps]
    beside = gradient.new_zeros(together, tall, columns, wide * outputs)
    found = [gradient.new_zeros(high, together, wide * outputs, x.shape[1]) for x in maps]
    for first in range(0, count, together):
        images = slice(first, min(first + together, count))
        here = images.stop - first
        for top in range(0, rows, tall):
            bottom = min(top + tall, rows)
            for column in range(wide):
                shift = (column - wide // 2) * dilation[1]
                left, right = max(0, shift), min(columns, columns + shift)
                if left < right:
                    part = beside[:here, : bottom - top, left:right, column * outputs : (column + 1) * outputs]
                    part.copy_(above[images, top:bottom, left - shift : right - shift])
            flat = beside[:here].flatten(1, 2)
            for row in range(high):
                shift = (row - high // 2) * dilation[0]
                low, end = max(top, -shift), min(bottom, rows - shift)
                if low < end:
                    taken = flat[:, (low - top) * columns : (end - top) * columns].transpose(1, 2)
                    for sums, x in zip(found, pixels, strict=True):
                        sums[row, :here].baddbmm_(taken, x[images, (low + shift) * columns : (end + shift) * columns])
    return torch.cat([sums.sum(1) for sums in found], dim=2).view(high, wide, outputs, -1).permute(2, 3, 0, 1)


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
