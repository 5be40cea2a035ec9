"""The multi-view Unet: size, shapes, field of view, and settings that make no sense."""

import pytest
import torch
from SAHLoRALib.architecture import network_parameters
from SAHLoRALib.errors import ConfigError
from SAHLoRALib.network import MODULES, MultiViewUnet, NetworkConfig
from torch import nn


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("levels", "expected"), [(2, 232_737), (4, 399_969)])
def test_the_network_has_as_many_parameters_as_the_laboratorys(levels, expected):
    assert parameters(MultiViewUnet(NetworkConfig(levels=levels))) == expected


@pytest.mark.parametrize(("levels", "rows", "columns"), [(1, 6, 10), (2, 8, 12), (4, 16, 48)])
def test_logits_have_the_shape_of_the_input(levels, rows, columns):
    config = NetworkConfig(levels=levels, width=4)
    assert rows % config.multiple == columns % config.multiple == 0
    logits = MultiViewUnet(config).eval()(torch.rand(2, 1, rows, columns))
    assert logits.shape == (2, 1, rows, columns)


@pytest.mark.parametrize("config", [NetworkConfig(levels=2, width=4, growth=3), NetworkConfig(levels=3, width=5, dilations=(1, 3)), NetworkConfig()])
def test_the_list_of_convolutions_tells_the_networks_size(config):
    assert network_parameters(config) == parameters(MultiViewUnet(config))


def test_growth_adds_channels_at_each_halving():
    network = MultiViewUnet(NetworkConfig(levels=2, width=4, growth=3)).eval()
    assert network.config.widths == (4, 7, 10) and network.config.described == "2 levels, width 4 to 10"
    assert [view.branch[0][0].out_channels for view in (*network.multiview, network.bottleneck)] == [4, 7, 10]
    assert network(torch.rand(1, 1, 8, 12)).shape == (1, 1, 8, 12)


def test_every_parameter_belongs_to_a_named_module():
    network = MultiViewUnet(NetworkConfig(levels=2, width=4))
    assert {name.split(".")[0] for name, _ in network.named_parameters()} == set(MODULES)


def test_the_branches_are_dilated_and_nothing_else_is():
    network = MultiViewUnet(NetworkConfig(levels=3, width=4, dilations=(1, 2, 4)))
    dilations = {name: layer.dilation[0] for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    branches = [f"multiview.{level}.branch" for level in range(3)] + ["bottleneck.branch"]
    for branch in branches:
        assert [dilations[f"{branch}.{i}.0"] for i in range(3)] == [1, 2, 4]
    assert all(d == 1 for name, d in dilations.items() if "branch" not in name)


@pytest.mark.parametrize(("dilations", "reach"), [((1, 2, 4), 7), ((1, 1, 1), 3), ((3,), 3)])
def test_a_multi_view_branch_sees_as_far_as_its_dilations_add_up_to(dilations, reach):
    # Positive kernels and inputs keep every ReLU open, so a gradient is zero only where nothing is seen.
    block = MultiViewUnet(NetworkConfig(levels=1, width=2, dilations=dilations)).eval().bottleneck
    for parameter in block.parameters():
        nn.init.constant_(parameter, 0.1)
    x = torch.ones(1, 2, 33, 33, requires_grad=True)
    block(x)[0, 2:, 16, 16].sum().backward()
    seen = x.grad[0].sum(0).nonzero()
    assert seen.min().item() == 16 - reach
    assert seen.max().item() == 16 + reach


def test_a_multi_view_block_hands_its_input_on():
    block = MultiViewUnet(NetworkConfig(levels=1, width=3)).eval().bottleneck
    x = torch.rand(1, 3, 8, 8)
    out = block(x)
    assert out.shape == (1, 6, 8, 8)
    assert torch.equal(out[:, :3], x)


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"levels": 0}, "levels"), ({"levels": 7}, "levels"), ({"width": 0}, "width"), ({"width": 1000}, "width"),
     ({"dilations": ()}, "dilations"), ({"dilations": (1, 0)}, "dilations")],
)  # fmt: skip
def test_settings_out_of_range_are_named(settings, word):
    with pytest.raises(ConfigError, match=word):
        NetworkConfig(**settings)


def test_the_configuration_survives_a_file():
    config = NetworkConfig(levels=3, width=8, dilations=(1, 3))
    assert NetworkConfig(**config.as_dict()) == config
