"""Adapters: the same as the base at the start, the same merged as unmerged, and nothing else of the network touched."""

import copy
import io
import math

import numpy as np
import pytest
import tensorly
import torch
from SAHLoRALib.adapters import (
    METHODS,
    NORMS,
    AdapterConfig,
    adapted_layers,
    adapter_shapes,
    adapter_state,
    attach,
    detach,
    is_adapted,
    load_adapter_state,
    merge,
    trainable_parameters,
    unmerge,
)
from SAHLoRALib.errors import ConfigError, ModelError
from SAHLoRALib.kernels import UPDATES
from SAHLoRALib.network import MODULES, MultiViewUnet
from small_adapters import SMALL, OneConv, assert_same_state, disturb, small_network, state_of
from torch import nn
from torch.nn.utils import parametrize

DORA = [method for method in METHODS if UPDATES[method][1]]


@pytest.fixture
def network() -> MultiViewUnet:
    return small_network()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(5))


# --- the way of an adapter


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", METHODS)
def test_adapted_network_equals_its_base_to_the_bit_at_the_start(network, image, method, norm):
    before = network(image)
    attach(network, AdapterConfig(method=method, rank=3, alpha=7.0, norm=norm))
    assert torch.equal(network.eval()(image), before)


@pytest.mark.parametrize("rank", [1, 4, 60])
@pytest.mark.parametrize("method", METHODS)
def test_merged_network_equals_adapted_network(network, image, method, rank):
    before = network(image)
    names = list(network.state_dict())
    attach(network, AdapterConfig(method=method, rank=rank))
    disturb(network)
    adapted = network(image)
    assert not torch.allclose(adapted, before, atol=1e-4), "the adapter must do something, or this test shows nothing"
    merge(network)
    assert torch.equal(network(image), adapted)
    assert list(network.state_dict()) == names
    assert not any(parametrize.is_parametrized(m) for m in network.modules())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", METHODS)
def test_unmerging_gives_the_base_back_to_the_bit(network, image, method, norm):
    base = state_of(network)
    attach(network, AdapterConfig(method=method, norm=norm))
    disturb(network)
    network.train()(image)
    network.eval()
    merge(network)
    assert any(not torch.equal(tensor, base[name]) for name, tensor in network.state_dict().items())
    unmerge(network)
    assert_same_state(network, base)
    assert all(p.requires_grad for p in network.parameters())
    assert {type(m) for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {nn.BatchNorm2d}


@pytest.mark.parametrize("norm", NORMS)
def test_detaching_gives_the_base_back_to_the_bit(network, image, norm):
    base = state_of(network)
    attach(network, AdapterConfig(method="dora-c", norm=norm))
    disturb(network)
    network.train()(image)
    detach(network)
    assert_same_state(network, base)
    attach(network, AdapterConfig())
    assert is_adapted(network)


def test_detaching_a_merged_adapter_gives_the_base_back_too(network):
    base = state_of(network)
    attach(network, AdapterConfig())
    disturb(network)
    merge(network)
    detach(network)
    assert_same_state(network, base)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_state_makes_the_same_network_of_the_same_base(network, image, method, norm):
    config = AdapterConfig(method=method, rank=2, norm=norm)
    other = copy.deepcopy(network)
    attach(network, config)
    disturb(network)
    network.train()(image)
    network.eval()
    buffer = io.BytesIO()
    torch.save(adapter_state(network), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    assert {name: tuple(t.shape) for name, t in state.items()} == adapter_shapes(config, SMALL)
    load_adapter_state(other, config, state)
    assert torch.equal(other.eval()(image), network(image))


def test_merging_a_copy_leaves_the_original_adapted(network, image):
    attach(network, AdapterConfig(method="cp-dora"))
    disturb(network)
    adapted = network(image)
    twin = copy.deepcopy(network)
    merge(twin)
    assert torch.equal(twin(image), adapted)
    assert torch.equal(network(image), adapted), "torch's copies share the class that holds the parametrized weight"
    detach(network)
    assert torch.equal(twin(image), adapted)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("keep_base", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_at_a_strength_below_one_the_merged_network_lies_between_base_and_adapter(network, method, keep_base, norm):
    """Kernels and the adapter's own BatchNorms, whatever the method; what is attached and learns is at full strength."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    merged = {}
    for strength in (1.0, 0.25):
        copied = copy.deepcopy(network)
        attach(copied, AdapterConfig(method, rank=2, norm=norm, strength=strength))
        disturb(copied)
        copied.train()(torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(7)))
        merge(copied.eval(), keep_base=keep_base)
        merged[strength] = {name: tensor.clone() for name, tensor in copied.state_dict().items()}
        if keep_base:
            unmerge(copied)
            assert all(torch.equal(tensor, before[name]) for name, tensor in copied.state_dict().items())
    moved = 0
    for name, tensor in before.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(merged[0.25][name], tensor + 0.25 * (merged[1.0][name] - tensor), rtol=1e-5, atol=1e-6)
            moved += not torch.equal(merged[0.25][name], tensor)
    assert moved > 10


def test_a_merged_network_can_forget_its_base(network):
    attach(network, AdapterConfig())
    merge(network, keep_base=False)
    with pytest.raises(ConfigError, match="no adapter"):
        unmerge(network)
    attach(network, AdapterConfig())


def test_only_the_adapter_learns(network, image):
    base = state_of(network)
    attach(network, AdapterConfig(method="conv-dora"))
    parameters = trainable_parameters(network)
    assert {name for name, _ in parameters} == set(adapter_state(network))
    optimizer = torch.optim.SGD([p for _, p in parameters], lr=0.1)
    network.train()
    for _ in range(2):
        optimizer.zero_grad()
        network(image).square().sum().backward()
        optimizer.step()
    start = adapter_shapes(AdapterConfig(method="conv-dora"), SMALL)
    assert set(start) == {name for name, _ in parameters}
    detach(network)
    assert_same_state(network, base)


def test_every_factor_learns_from_the_second_step_on(network, image):
    for block in [m for m in network.modules() if isinstance(m, nn.Sequential) and len(m) > 2 and isinstance(m[2], nn.ReLU)]:
        block[2] = nn.Tanh()  # of four channels all may be dead behind a ReLU, and what is before them cannot learn
    for method in METHODS:
        attach(network, AdapterConfig(method=method, rank=2))
        disturb(network)
        network(image).square().sum().backward()
        still = [name for name, p in trainable_parameters(network) if p.grad is None or not p.grad.any()]
        assert still == [], method
        detach(network)


def test_the_same_seed_gives_the_same_start_and_leaves_torchs_own_alone(network):
    torch.manual_seed(0)
    undisturbed = torch.rand(1)
    torch.manual_seed(0)
    starts = []
    for seed in (4, 4, 5):
        attach(network, AdapterConfig(), seed=seed)
        starts.append(adapter_state(network))
        detach(network)
    assert torch.equal(torch.rand(1), undisturbed)
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    assert not all(torch.equal(starts[0][name], starts[2][name]) for name in starts[0])


def test_modules_choose_the_convolutions(network):
    attach(network, AdapterConfig(modules=("head", "stem")))
    adapted = {name for name, m in network.named_modules() if isinstance(m, nn.Conv2d) and parametrize.is_parametrized(m)}
    assert adapted == {"stem.0.0", "stem.1.0", "head.0.0", "head.1.0", "head.2"}
    assert adapted == {name for name, _ in adapted_layers(network, ("stem", "head"))}


def test_autocast_does_not_coarsen_the_kernel(network, image):
    attach(network, AdapterConfig(method="dora-c"))
    disturb(network)
    exact = network.stem[0][0].weight.detach().clone()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network.stem[0][0].weight, exact)
        assert network(image).dtype == torch.bfloat16


def test_tensorlys_backend_is_left_as_it_was(network, image):
    before = tensorly.get_backend()
    attach(network, AdapterConfig(method="cp-lora"))
    network(image)
    assert tensorly.get_backend() == before == "numpy"
    assert isinstance(tensorly.ones((2,)), np.ndarray)


# --- what must not happen


def test_a_second_adapter_is_refused(network):
    attach(network, AdapterConfig())
    with pytest.raises(ConfigError, match="already"):
        attach(network, AdapterConfig())
    merge(network)
    with pytest.raises(ConfigError, match="already"):
        attach(network, AdapterConfig())


@pytest.mark.parametrize("action", [merge, unmerge, detach, adapter_state])
def test_without_an_adapter_nothing_can_be_done_to_it(network, action):
    with pytest.raises(ConfigError, match="no adapter"):
        action(network)


def test_an_attached_adapter_cannot_be_unmerged_nor_a_merged_one_merged_again(network):
    attach(network, AdapterConfig())
    with pytest.raises(ConfigError, match="not merged"):
        unmerge(network)
    merge(network)
    with pytest.raises(ConfigError, match="is merged"):
        merge(network)


def spoil(state, how):
    name = "stem.0.0.update.a"
    if how == "lacks":
        del state[name]
    elif how == "shape":
        state[name] = state[name][:, :1]
    elif how == "does not belong":
        state["stem.7.0.update.a"] = state[name]
    else:
        state[name][0, 0] = math.nan


@pytest.mark.parametrize("how", ["lacks", "shape", "does not belong", "not numbers"])
def test_a_state_that_does_not_fit_is_refused_and_leaves_the_network_alone(network, how):
    base = state_of(network)
    config = AdapterConfig(rank=2)
    attach(network, config)
    state = adapter_state(network)
    detach(network)
    spoil(state, how)
    with pytest.raises(ModelError, match=how):
        load_adapter_state(network, config, state)
    assert not is_adapted(network)
    assert_same_state(network, base)


# --- everything else about the convolution stays

LAYERS = [
    {"dilation": 4, "padding": 4},
    {"stride": 2, "padding": 1},
    {"groups": 2},
    {"padding": 2, "padding_mode": "reflect"},
    {"padding": (1, 0), "padding_mode": "circular", "kernel_size": (3, 2)},
    {"bias": False, "kernel_size": 1},
    {"padding": "same", "dilation": 2},
]


@pytest.mark.parametrize("settings", LAYERS, ids=lambda s: "-".join(s))
@pytest.mark.parametrize("method", METHODS)
def test_dilation_stride_groups_and_padding_are_kept(method, settings):
    network = OneConv(4, 6, **({"kernel_size": 3} | settings))
    reference = copy.deepcopy(network.stem)
    x = torch.rand(1, 4, 12, 12)
    before = network(x)
    attach(network, AdapterConfig(method, 3, modules=("stem",)))
    assert torch.equal(network(x), before)
    disturb(network)
    kernel = reference.weight
    for update in network.stem.parametrizations.weight:
        kernel = update(kernel)
    assert kernel.shape == reference.weight.shape
    assert not torch.allclose(kernel, reference.weight)
    reference.weight.data.copy_(kernel)
    assert torch.equal(network(x), reference(x))
    merge(network)
    assert torch.equal(network(x), reference(x))
    assert repr(network.stem) == repr(reference)


def test_the_multi_view_branches_keep_their_dilations(network):
    attach(network, AdapterConfig())
    assert [network.bottleneck.branch[i][0].dilation for i in range(3)] == [(1, 1), (2, 2), (4, 4)]


# --- normalisation


def running(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in network.state_dict().items() if "running" in name or "num_batches" in name}


def test_frozen_norms_stay_on_the_bases_statistics_in_training(network, image):
    attach(network, AdapterConfig(norm="frozen"))
    before, statistics = network.eval()(image), running(network)
    network.train()
    assert torch.allclose(network(image), before, rtol=1e-5, atol=1e-6)  # the held norms work inside the kernels: rounding
    assert all(torch.equal(t, statistics[name]) for name, t in running(network).items())
    assert not [name for name, _ in trainable_parameters(network) if ".update." not in name]


def test_affine_norms_learn_their_weights_on_the_bases_statistics(network, image):
    attach(network, AdapterConfig(norm="affine", modules=("stem", "head")))
    before, statistics = network.eval()(image), running(network)
    network.train()
    assert torch.allclose(network(image), before, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(t, statistics[name]) for name, t in running(network).items())
    learns = {name for name, _ in trainable_parameters(network) if ".update." not in name}
    assert learns == {f"{layer}.1.{part}" for layer in ("stem.0", "stem.1", "head.0", "head.1") for part in ("weight", "bias")}
    assert learns < set(adapter_state(network))


def test_adapted_norms_take_the_new_domains_statistics_and_learn_nothing(network, image):
    attach(network, AdapterConfig(norm="adapt", modules=("stem",)))
    statistics = running(network)
    new_domain = 5 * image + 3
    network.train()
    for _ in range(200):
        network(new_domain)
    network.eval()
    changed = {name for name, t in running(network).items() if not torch.equal(t, statistics[name])}
    assert changed == {f"stem.{i}.1.{part}" for i in (0, 1) for part in ("running_mean", "running_var", "num_batches_tracked")}
    first = network.stem[0][0](new_domain)
    torch.testing.assert_close(network.stem[0][1].running_mean, first.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
    assert changed < set(adapter_state(network))
    assert not [name for name, _ in trainable_parameters(network) if ".update." not in name]


@pytest.mark.parametrize("norm", ["affine", "adapt"])
def test_merging_keeps_the_adapters_normalisation(network, image, norm):
    attach(network, AdapterConfig(norm=norm))
    disturb(network)
    network.train()(3 * image)
    adapted = network.eval()(image)
    merge(network)
    assert torch.equal(network(image), adapted)
    network.train()
    assert all(m.training for m in network.modules() if isinstance(m, nn.BatchNorm2d))


def test_frozen_norms_survive_copies(network):
    attach(network, AdapterConfig(norm="frozen"))
    twin = copy.deepcopy(network).train()
    assert not any(m.training for m in twin.modules() if isinstance(m, nn.BatchNorm2d))
    assert set(MODULES) == {name.split(".")[0] for name, _ in adapted_layers(twin)}
