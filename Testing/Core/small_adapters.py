"""A small network and what tests of adapters do to it."""

import torch
from SAHLoRALib.adapters import trainable_parameters
from SAHLoRALib.network import MultiViewUnet, NetworkConfig
from torch import nn

SMALL = NetworkConfig(levels=2, width=4)


def small_network() -> MultiViewUnet:
    """A small network with BatchNorm statistics that are not those of a fresh one."""
    torch.manual_seed(1)
    network = MultiViewUnet(SMALL).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(2, 1, 16, 16))
    return network.eval()


def disturb(network: nn.Module, size: float = 0.2) -> None:
    """Random values for all that learns, as if training had been there."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, parameter in trainable_parameters(network):
            parameter.add_(size * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def state_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_same_state(network: nn.Module, state: dict[str, torch.Tensor]) -> None:
    assert list(network.state_dict()) == list(state)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name]), name


class OneConv(nn.Module):
    """A network whose only module is one convolution."""

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.stem = nn.Conv2d(*args, **kwargs)

    def forward(self, x):
        return self.stem(x)
