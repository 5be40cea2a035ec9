"""A BatchNorm that is held still in training works inside the kernel, and nothing but the memory tells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from SAHLoRALib.adapters import METHODS, AdapterConfig, attach, trainable_parameters
from SAHLoRALib.network import ConvNormReLU, MultiViewUnet, NetworkConfig
from SAHLoRALib.strategies import select_parameters
from torch import Tensor, nn

SMALL = NetworkConfig(levels=2, width=8)
IMAGE = (2, 1, 32, 48)


def pretrained() -> MultiViewUnet:
    """A network in float64 whose BatchNorms hold statistics and weights that are far from those of a new one."""
    torch.manual_seed(0)
    network = MultiViewUnet(SMALL).double()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            nn.init.uniform_(layer.running_mean, -2, 2)
            nn.init.uniform_(layer.running_var, 0.01, 9)
            nn.init.uniform_(layer.weight, -1.5, 1.5)
            nn.init.uniform_(layer.bias, -1, 1)
    return network


@contextmanager
def norms_after_the_convolution() -> Iterator[None]:
    """The plain way: convolution, norm, ReLU one after the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConvNormReLU, "forward", ConvNormReLU.layer_by_layer)
        yield


def one_step(network: MultiViewUnet, dtype: torch.dtype = torch.float64) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradient of everything that learns."""
    network.train()
    logits = network(torch.rand(IMAGE, dtype=dtype, generator=torch.Generator().manual_seed(1)))
    network.zero_grad()
    logits.square().mean().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in trainable_parameters(network) if p.grad is not None}


def assert_same(network: MultiViewUnet) -> None:
    logits, gradients = one_step(network)
    with norms_after_the_convolution():
        plain_logits, plain_gradients = one_step(network)
    assert torch.allclose(logits, plain_logits, rtol=1e-10, atol=1e-10 * float(plain_logits.abs().max()))
    assert gradients.keys() == plain_gradients.keys() == {name for name, _ in trainable_parameters(network)}
    largest = max(float(g.abs().max()) for g in plain_gradients.values())
    for name, plain in plain_gradients.items():
        assert torch.allclose(gradients[name], plain, rtol=1e-9, atol=1e-10 * largest), name


@pytest.mark.parametrize("norm", ["frozen", "affine", "adapt"])
@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_gets_the_gradients_of_the_plain_way(method: str, norm: str) -> None:
    network = pretrained()
    attach(network, AdapterConfig(method=method, rank=2, norm=norm, full_dora_gradient=True))
    with torch.no_grad():
        for _, parameter in trainable_parameters(network):
            parameter.add_(0.05 * torch.randn(parameter.shape))
    assert_same(network)


def test_fine_tuning_of_some_modules_gets_the_gradients_of_the_plain_way() -> None:
    network = pretrained()
    select_parameters(network, ("head",))
    assert_same(network)


def test_held_norms_do_not_move() -> None:
    network = pretrained()
    attach(network, AdapterConfig(rank=2))
    before = {name: tensor.clone() for name, tensor in network.named_buffers()}
    one_step(network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.named_buffers())


def test_less_is_kept_for_the_backward_pass() -> None:
    def kept(network: MultiViewUnet) -> int:
        """Bytes of all maps and kernels that autograd keeps, each once."""
        storages: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network.train()(torch.rand(IMAGE, dtype=torch.float64))
        return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())

    network = pretrained()
    attach(network, AdapterConfig(rank=2))
    inside = kept(network)
    with norms_after_the_convolution():
        assert inside < 0.75 * kept(network)
