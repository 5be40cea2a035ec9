"""A widened network computes what the narrow one did, and its channels do not stay equal."""

import pytest
import torch
from SAHLoRALib.errors import ConfigError
from SAHLoRALib.network import MultiViewUnet, NetworkConfig
from SAHLoRALib.training_config import TrainingConfig
from SAHLoRALib.widening import widened

NARROW = NetworkConfig(levels=2, width=3, dilations=(1, 2))


def trained(config: NetworkConfig) -> MultiViewUnet:
    """A network whose BatchNorms have seen something."""
    torch.manual_seed(3)
    network = MultiViewUnet(config).train()
    for _ in range(3):
        network(torch.rand(2, 1, 16, 24))
    return network.eval()


@pytest.mark.parametrize(
    "wide",
    [
        NetworkConfig(levels=2, width=3, dilations=(1, 2), growth=2),
        NetworkConfig(levels=2, width=5, dilations=(1, 2)),
        NetworkConfig(levels=2, width=8, dilations=(1, 2), growth=5),
        NARROW,
    ],
    ids=lambda config: f"width {config.width}, growth {config.growth}",
)
def test_a_widened_network_computes_the_same(wide):
    network, x = trained(NARROW), torch.rand(2, 1, 16, 24)
    result = widened(network, wide)
    assert result.config == wide
    with torch.no_grad():
        assert torch.allclose(result(x), network(x), atol=1e-5)


def test_channels_that_begin_as_equals_drift_apart_in_training():
    wide = widened(trained(NARROW), NetworkConfig(levels=2, width=6, dilations=(1, 2))).train()
    first = wide.stem[0][0].weight
    assert torch.equal(first[0], first[3])
    wide(torch.rand(2, 1, 16, 24)).square().mean().backward()
    assert not torch.allclose(first.grad[0], first.grad[3])


@pytest.mark.parametrize(
    "other",
    [NetworkConfig(levels=2, width=2, dilations=(1, 2)), NetworkConfig(levels=3, width=4, dilations=(1, 2)), NetworkConfig(levels=2, width=4)],
    ids=["narrower", "deeper", "other dilations"],
)
def test_another_shape_is_refused(other):
    with pytest.raises(ConfigError, match="can only be made wider"):
        widened(trained(NARROW), other)


def test_a_training_from_before_there_was_growth_can_go_on():
    assert TrainingConfig().identity()["network"] == {"levels": 4, "width": 32, "dilations": [1, 2, 4]}
    assert TrainingConfig(network=NetworkConfig(growth=16)).identity()["network"]["growth"] == 16
