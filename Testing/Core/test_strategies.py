"""Standard fine-tuning: the named modules learn, and nothing else moves."""

import pickle

import pytest
import torch
from SAHLoRALib.errors import ConfigError
from SAHLoRALib.network import MODULES, MultiViewUnet, NetworkConfig
from SAHLoRALib.strategies import STRATEGIES, module_parameters, release, select_parameters, strategy_modules
from torch import nn


@pytest.fixture
def network() -> MultiViewUnet:
    torch.manual_seed(0)
    return MultiViewUnet(NetworkConfig(levels=2, width=4))


@pytest.mark.parametrize(
    ("strategy", "modules"),
    [("all", MODULES), ("encoder", ("stem", "encoder")), ("decoder", ("decoder",)), ("decoder+head", ("decoder", "head")),
     ("head, stem", ("stem", "head")), ("all+head", MODULES), (("head", "stem", "head"), ("stem", "head"))],
)  # fmt: skip
def test_a_strategy_names_modules(strategy, modules):
    assert strategy_modules(strategy) == modules


@pytest.mark.parametrize("strategy", ["", "tail", "head+tail", ("tail",), ()])
def test_an_unknown_strategy_lists_the_known_ones(strategy):
    with pytest.raises(ConfigError, match="head"):
        strategy_modules(strategy)


def test_the_strategies_share_the_network_out(network):
    parts = [module_parameters(network, STRATEGIES[name]) for name in STRATEGIES if name != "all"]
    together = sorted(name for part in parts for name, _ in part)
    assert together == sorted(name for name, _ in network.named_parameters())


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_standard_fine_tuning_moves_the_named_modules_and_nothing_else(network, strategy):
    modules = strategy_modules(strategy)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    chosen = select_parameters(network, modules)
    optimizer = torch.optim.SGD([p for _, p in chosen], lr=0.5)
    network.train()
    network(torch.rand(2, 1, 16, 16)).square().sum().backward()
    optimizer.step()
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert {name.split(".")[0] for name in moved} == set(modules)
    assert any("running_mean" in name for name in moved)
    assert {name for name, p in network.named_parameters() if p.requires_grad} == {name for name, _ in chosen}


def test_choosing_anew_and_releasing_leave_no_trace(network):
    select_parameters(network, "head")
    select_parameters(network, "stem")
    network.train()
    norms = {name: m for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {name.split(".")[0] for name, m in norms.items() if m.training} == {"stem"}
    release(network)
    assert all(p.requires_grad for p in network.parameters())
    assert all(type(m) is nn.BatchNorm2d and m.training for m in norms.values())


def test_a_copy_by_pickle_keeps_its_norms_still(network):
    select_parameters(network, "head")
    twin = pickle.loads(pickle.dumps(network)).train()
    assert not twin.stem[0][1].training
    assert twin.head[0][1].training
