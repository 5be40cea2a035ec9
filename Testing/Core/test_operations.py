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
from SAHLoRALib.operations import Doubled, convolved_relu
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


def plain_doubling(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, the network takes PyTorch's own operations for the rest of the test."""

    def change() -> None:
        monkeypatch.setattr(operations, "_computed_in", lambda x: None)
        monkeypatch.setattr(Doubled, "forward", lambda self, x: plain_doubling(x))

    return change


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
@pytest.mark.parametrize("method", ["all", *METHODS])
def test_a_training_step_is_that_of_pytorchs_operations(method: str, dtype: torch.dtype, plainly: Callable[[], None]) -> None:
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
