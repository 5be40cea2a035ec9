"""What the network does in its own way on a processor gives what PyTorch's operations give, forwards and backwards, and is really done so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from SAHLoRALib import operations
from SAHLoRALib.adapters import METHODS, AdapterConfig, attach, trainable_parameters
from SAHLoRALib.device import bf16_support
from SAHLoRALib.folding import folded
from SAHLoRALib.network import MultiViewUnet, NetworkConfig
from SAHLoRALib.operations import Doubled, convolved, convolved_relu
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

SMALL = NetworkConfig(levels=2, width=8)
CPU = torch.device("cpu")
TYPES = [torch.float32, *([torch.bfloat16] if bf16_support(CPU)[0] else [])]
#: How far two ways of summing up may lie apart, relative to the largest number.
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float64: 1e-12}
Step = Callable[..., Tensor]


def plain_relu(x: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int], dilation: tuple[int, int]) -> Tensor:
    return functional.conv2d(x, weight, bias, padding=padding, dilation=dilation).relu()


def plain_convolution(x: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int], dilation: tuple[int, int]) -> Tensor:
    return functional.conv2d(x, weight, bias, padding=padding, dilation=dilation)


def plain_doubling(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, the network takes PyTorch's own operations for the rest of the test."""

    def change() -> None:
        monkeypatch.setattr(operations, "_computed_in", lambda x: None)
        monkeypatch.setattr(Doubled, "forward", lambda self, x: plain_doubling(x))

    return change


@pytest.fixture
def without_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels' gradients are made of matrix products, few rows at a time, whatever processor this is."""
    monkeypatch.setattr(operations, "_lacks_avx512", lambda: True)
    monkeypatch.setattr(operations, "_AT_A_TIME", 4 * 3 * 7 * 10 * 5)


def assert_close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.shape == expected.shape
    assert float((found.double() - expected.double()).abs().max()) <= CLOSE[dtype] * float(expected.double().abs().max())


class Called(TorchDispatchMode):
    """Notes the names of PyTorch's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 2), (3, 4)])
def test_convolution_with_relu_and_its_gradients_are_those_of_the_two(
    kernel: int, dilation: int, dtype: torch.dtype, format: torch.memory_format
) -> None:
    """The gradient comes as a slice of a larger map, as after a concatenation."""
    torch.manual_seed(0)
    padding = (dilation * (kernel // 2),) * 2
    given = [torch.randn(3, 5, 12, 10).to(dtype), torch.randn(7, 5, kernel, kernel).to(dtype), torch.randn(7).to(dtype)]
    above = torch.randn(3, 16, 12, 10).to(dtype).contiguous(memory_format=format)[:, 4:11]

    def both(step: Step, kind: torch.dtype) -> list[Tensor]:
        taken = [t.to(kind, memory_format=format if t.ndim == 4 else torch.preserve_format).requires_grad_() for t in given]
        y = step(*taken, padding, (dilation, dilation))
        return [y.detach(), *torch.autograd.grad(y, taken, above.to(kind))]

    for found, expected in zip(both(convolved_relu, dtype), both(plain_relu, torch.float64), strict=True):
        assert found.dtype == dtype
        assert_close(found, expected, dtype)


@pytest.mark.usefixtures("without_avx512")
@pytest.mark.parametrize(("step", "plain"), [(convolved, plain_convolution), (convolved_relu, plain_relu)])
@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize(("kernel", "dilation"), [((1, 1), (1, 1)), ((3, 3), (1, 1)), ((3, 3), (4, 4)), ((3, 3), (12, 11)), ((5, 3), (2, 1))])
def test_a_kernels_gradient_of_matrix_products_is_the_convolutions(
    kernel: tuple[int, int], dilation: tuple[int, int], count: int, step: Step, plain: Step
) -> None:
    """One map, and the same in three parts; dilations that reach beyond the map too."""
    torch.manual_seed(0)
    padding = (dilation[0] * (kernel[0] // 2), dilation[1] * (kernel[1] // 2))
    whole, above = (torch.randn(count, c, 12, 10).contiguous(memory_format=torch.channels_last) for c in (9, 7))
    weight, bias = torch.randn(7, 9, *kernel), torch.randn(7)

    def gradients(step: Step, kind: torch.dtype, parts: tuple[int, ...]) -> list[Tensor]:
        maps = [x.to(kind).contiguous(memory_format=torch.channels_last).requires_grad_() for x in whole.split(parts, dim=1)]
        learning = [t.to(kind).requires_grad_() for t in (weight, bias)]
        y = step(tuple(maps) if len(maps) > 1 else maps[0], *learning, padding, dilation)
        of_kernel, of_bias, *of_maps = torch.autograd.grad(y, [*learning, *maps], above.to(kind))
        return [y.detach(), of_kernel, of_bias, torch.cat(of_maps, dim=1)]

    expected = gradients(plain, torch.float64, (9,))
    for parts in ((9,), (5, 1, 3)):
        with Called() as called:
            found = gradients(step, torch.float32, parts)
        assert "baddbmm_" in called.names or operations._computed_in(whole) is None
        for mine, other in zip(found, expected, strict=True):
            assert_close(mine, other, torch.float32)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("formats", [(torch.contiguous_format,) * 2, (torch.channels_last,) * 2, (torch.channels_last, torch.contiguous_format)])
@pytest.mark.parametrize("learning", ["maps", "kernel", "all"])
def test_maps_side_by_side_are_convolved_as_one(learning: str, formats: tuple[torch.memory_format, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, c, 8, 6).to(dtype).contiguous(memory_format=f) for c, f in zip((4, 12), formats, strict=True)]
    weight, bias, above = torch.randn(5, 16, 3, 3).to(dtype), torch.randn(5).to(dtype), torch.randn(2, 5, 8, 6).to(dtype)

    def both(step: Step, kind: torch.dtype) -> list[Tensor]:
        xs, kernel = [x.to(kind).requires_grad_(learning != "kernel") for x in maps], weight.to(kind).requires_grad_(learning != "maps")
        y = step(tuple(xs), kernel, bias.to(kind), (1, 1), (1, 1))
        return [y.detach(), *torch.autograd.grad(y, [t for t in (*xs, kernel) if t.requires_grad], above.to(kind))]

    expected = both(lambda xs, *others: plain_relu(torch.cat(xs, dim=1), *others), torch.float64)
    found = both(convolved_relu, dtype)
    assert len(found) == len(expected) == {"maps": 3, "kernel": 2, "all": 4}[learning]
    for mine, other in zip(found, expected, strict=True):
        assert_close(mine, other, dtype)


def test_only_asked_gradients_are_made() -> None:
    x, weight, bias = torch.rand(1, 2, 6, 6), torch.rand(3, 2, 3, 3).requires_grad_(), torch.rand(3)
    convolved_relu(x, weight, bias, (1, 1), (1, 1)).sum().backward()
    assert weight.grad is not None and x.grad is None and bias.grad is None
    with torch.no_grad():
        assert not convolved_relu(x, weight, bias, (1, 1), (1, 1)).requires_grad


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [*TYPES, torch.float64])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2), (3, 7), (16, 12)])
def test_doubling_and_its_gradient_are_those_of_upsample(size: tuple[int, int], dtype: torch.dtype, format: torch.memory_format) -> None:
    torch.manual_seed(0)
    small = torch.randn(2, 6, *size).to(dtype).contiguous(memory_format=format)
    above = torch.randn(2, 18, 2 * size[0], 2 * size[1]).to(dtype).contiguous(memory_format=format)[:, 3:9]

    def both(step: Step, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        x = small.to(kind).requires_grad_()
        y = step(x)
        return y.detach(), torch.autograd.grad(y, x, above.to(kind))[0]

    for found, expected in zip(both(Doubled(), dtype), both(plain_doubling, torch.float64), strict=True):
        assert_close(found, expected, dtype)


def stepped(network: MultiViewUnet, dtype: torch.dtype) -> list[Tensor]:
    """Logits and the gradients of all that learns, as training takes them."""
    network.zero_grad()
    image = torch.rand(2, 1, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = network.train()(image)
    logits.float().square().mean().backward()
    return [logits.detach(), *(p.grad.clone() for _, p in trainable_parameters(network) if p.grad is not None)]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("lacks_avx512", [False, True])
@pytest.mark.parametrize("method", ["all", *METHODS])
def test_a_training_step_is_that_of_pytorchs_operations(
    method: str, lacks_avx512: bool, dtype: torch.dtype, plainly: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "_lacks_avx512", lambda: lacks_avx512)
    torch.manual_seed(0)
    network = MultiViewUnet(SMALL)
    if method != "all":
        attach(network, AdapterConfig(method=method, rank=2))
        with torch.no_grad():
            for _, parameter in trainable_parameters(network):
                parameter.add_(0.05 * torch.randn(parameter.shape))
    found = stepped(network, dtype)
    plainly()
    expected = stepped(network, dtype)
    assert len(found) == len(expected) > 10
    largest = max(float(g.abs().max()) for g in expected[1:])
    for mine, plain in zip(found, expected, strict=True):
        assert float((mine.float() - plain.float()).abs().max()) <= CLOSE[dtype] * max(largest, float(plain.abs().max()))


@pytest.mark.parametrize("dtype", TYPES)
def test_a_prediction_is_that_of_pytorchs_operations(dtype: torch.dtype, plainly: Callable[[], None]) -> None:
    torch.manual_seed(0)
    network, image = folded(MultiViewUnet(SMALL)), torch.rand(2, 1, 32, 48)

    def predicted() -> Tensor:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            return network(image)  # type: ignore[no-any-return]

    found = predicted()
    plainly()
    assert_close(found, predicted(), dtype)


@pytest.mark.skipif(operations._computed_in(torch.rand(1)) is None, reason="another processor, or another PyTorch")
def test_a_processor_takes_no_relu_of_its_own_and_no_gradient_of_upsample(plainly: Callable[[], None]) -> None:
    torch.manual_seed(0)
    network = MultiViewUnet(SMALL)
    attach(network, AdapterConfig(rank=2))
    slow = {"relu", "relu_", "clamp_min_", "upsample_bilinear2d_backward"}
    for expected in (set(), {"relu_", "upsample_bilinear2d_backward"}):
        with Called() as called:
            stepped(network, torch.float32)
        assert called.names & slow == expected and "convolution_backward" in called.names
        with torch.no_grad(), Called() as called:
            folded(MultiViewUnet(SMALL))(torch.rand(1, 1, 8, 8))
        assert ("relu_" in called.names) == bool(expected)
        plainly()
