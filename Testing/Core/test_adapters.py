"""Adapters: the same as the base at the start, the same merged as unmerged, the formulas of the papers, and nothing else of the network touched."""

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
    count_parameters,
    detach,
    is_adapted,
    load_adapter_state,
    merge,
    trainable_parameters,
    unmerge,
)
from SAHLoRALib.errors import ConfigError, ModelError
from SAHLoRALib.kernels import UPDATES, ConvLoRA, CPLoRA, KernelUpdate, LoRAC, LoralibConv, Magnitude, TuckerLoRA
from SAHLoRALib.network import MODULES, MultiViewUnet, NetworkConfig
from torch import nn
from torch.nn.functional import conv2d
from torch.nn.utils import parametrize

SMALL = NetworkConfig(levels=2, width=4)
DORA = [method for method in METHODS if UPDATES[method][1]]


@pytest.fixture
def network() -> MultiViewUnet:
    """A small network with BatchNorm statistics that are not those of a fresh one."""
    torch.manual_seed(1)
    network = MultiViewUnet(SMALL).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(2, 1, 16, 16))
    return network.eval()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(5))


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


# --- configuration


@pytest.mark.parametrize(
    ("spelling", "method"),
    [("LoRA-C", "lora-c"), ("convLoRA", "conv-lora"), ("CP-LoRA", "cp-lora"), ("DoRA-C", "dora-c"), ("convDoRA", "conv-dora"),
     ("CP-DoRA", "cp-dora"), ("cp_lora", "cp-lora"), ("Tucker", "tucker"), ("LORALIB", "loralib")],
)  # fmt: skip
def test_methods_may_be_spelt_as_in_the_papers(spelling, method):
    assert AdapterConfig(method=spelling).method == method


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"method": "lora"}, "lora-c, conv-lora, cp-lora"), ({"rank": 0}, "rank"), ({"rank": 2.0}, "rank"), ({"rank": True}, "rank"),
     ({"alpha": 0}, "alpha"), ({"alpha": math.nan}, "alpha"), ({"alpha": "8"}, "alpha"), ({"strength": 0}, "strength"),
     ({"strength": 1.5}, "strength"), ({"strength": True}, "strength"), ({"scaling": "root"}, "standard, rslora"),
     ({"norm": "group"}, "frozen, affine, adapt"), ({"modules": ("tail",)}, "stem, encoder"), ({"modules": ()}, "No module"),
     ({"full_dora_gradient": 1}, "full_dora_gradient")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        AdapterConfig(**settings)


def test_the_configuration_survives_a_file():
    config = AdapterConfig(method="DoRA-C", rank=5, alpha=2, scaling="rslora", modules=("head", "stem"), norm="affine", full_dora_gradient=True)
    assert AdapterConfig.from_dict(config.as_dict()) == config
    assert config.modules == ("stem", "head")
    with pytest.raises(ConfigError, match="ranks"):
        AdapterConfig.from_dict({"ranks": 3})


def test_the_scale_is_alpha_over_the_rank_or_its_root():
    assert AdapterConfig(rank=16).scale == 1
    assert AdapterConfig(rank=16, alpha=8).scale == 0.5
    assert AdapterConfig(rank=16, alpha=8, scaling="rslora").scale == 2
    assert AdapterConfig(rank=16, scaling="rslora").scale == 4


# --- the formulas

#: trainable numbers in a layer, METHODS.md section 4
FORMULAS = {
    "lora-c": lambda o, i, k, r: r * k * (o + i),
    "conv-lora": lambda o, i, k, r: r * (i * k * k + o),
    "cp-lora": lambda o, i, k, r: r * (o + i + 2 * k),
    "dora-c": lambda o, i, k, r: r * k * (o + i) + o,
    "conv-dora": lambda o, i, k, r: r * (i * k * k + o) + o,
    "cp-dora": lambda o, i, k, r: r * (o + i + 2 * k) + o,
    "loralib": lambda o, i, k, r: r * k * k * (o + i),
    "tucker": lambda o, i, k, r: r * (o + i) + r * r * k * k,
}


@pytest.mark.parametrize("rank", [1, 4, 7])
@pytest.mark.parametrize("method", METHODS)
def test_counts_follow_the_formulas_layer_by_layer(network, method, rank):
    attach(network, AdapterConfig(method=method, rank=rank))
    total = 0
    for name, conv in adapted_layers(network):
        o, i, k, _ = conv.weight.shape
        counted = sum(p.numel() for n, p in trainable_parameters(network) if n.startswith(f"{name}."))
        assert counted == FORMULAS[method](o, i, k, rank), name
        total += counted
    assert count_parameters(AdapterConfig(method=method, rank=rank), SMALL) == total == sum(p.numel() for _, p in trainable_parameters(network))


@pytest.mark.parametrize("method", METHODS)
def test_the_full_networks_count_is_the_sum_over_its_36_convolutions(method):
    # at 4 levels and width 32: the first convolution, those from 32, 64 and 96 channels, and the last, 1×1
    layers = [(32, 1, 3)] + [(32, 32, 3)] * 29 + [(32, 64, 3)] + [(32, 96, 3)] * 4 + [(1, 32, 1)]
    network = MultiViewUnet()
    assert sorted((*conv.weight.shape[:2], conv.kernel_size[0]) for _, conv in adapted_layers(network)) == sorted(layers)
    config = AdapterConfig(method=method, rank=8)
    assert count_parameters(config, NetworkConfig()) == sum(FORMULAS[method](o, i, k, 8) for o, i, k in layers)


def test_affine_normalisation_counts_and_adapted_statistics_do_not():
    plain = count_parameters(AdapterConfig(), SMALL)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in MultiViewUnet(SMALL).modules())
    assert count_parameters(AdapterConfig(norm="affine"), SMALL) == plain + norms * 2 * SMALL.width
    assert count_parameters(AdapterConfig(norm="adapt"), SMALL) == plain


@pytest.mark.parametrize(("method", "rank"), [("lora-c", 49), ("conv-lora", 29), ("cp-lora", 132)])
def test_ranks_beyond_these_are_over_parameterised_and_reach_any_kernel(method, rank):
    kernel = 32 * 32 * 9
    assert FORMULAS[method](32, 32, 3, rank) > kernel >= FORMULAS[method](32, 32, 3, rank - 1)


def update_of(kind: type[KernelUpdate], rank: int, shape=(5, 3, 3, 3), scale: float = 1.0) -> KernelUpdate:
    """A kernel update in float64 with no factor at zero."""
    update = kind(torch.zeros(shape, dtype=torch.float64), rank, scale, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for p in update.parameters():
            p.add_(torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(p.numel())))
    return update


def test_lora_c_entry_ou_iv_of_the_matrix_is_the_kernels_o_i_u_v():
    update = update_of(LoRAC, 2, (4, 5, 2, 3))
    matrix, delta = update.B @ update.A, update.delta()
    assert matrix.shape == (4 * 2, 3 * 5)
    for o, i, u, v in np.ndindex(4, 5, 2, 3):
        assert delta[o, i, u, v] == matrix[o * 2 + u, i * 3 + v]


@pytest.mark.parametrize(
    ("kind", "formula", "factors"),
    [(ConvLoRA, "or,riuv->oiuv", "BA"), (CPLoRA, "or,ir,ur,vr->oiuv", "abcd"), (TuckerLoRA, "op,pquv,iq->oiuv", "UGV")],
)
def test_delta_is_the_sum_that_the_paper_writes(kind, formula, factors):
    update = update_of(kind, 4, (4, 5, 2, 3))
    expected = np.einsum(formula, *(getattr(update, name).detach().numpy() for name in factors))
    np.testing.assert_allclose(update.delta().detach().numpy(), expected, rtol=1e-12)


def test_the_loralib_form_is_the_plain_view_and_not_lora_c():
    update = update_of(LoralibConv, 2)
    product = update.B @ update.A
    assert torch.equal(update.delta().flatten(), product.flatten())
    assert not torch.allclose(product.view(5, 3, 3, 3).permute(0, 2, 1, 3), update.delta())


@pytest.mark.parametrize("kind", [LoRAC, ConvLoRA, CPLoRA, TuckerLoRA, LoralibConv])
def test_the_kernel_is_base_plus_scale_times_delta(kind):
    update = update_of(kind, 2, scale=0.25)
    base = torch.rand(5, 3, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(update(base), base + 0.25 * update.delta())


@pytest.mark.parametrize("kind", [LoRAC, ConvLoRA, CPLoRA, TuckerLoRA])
def test_the_rank_bounds_the_rank_of_the_kernel_over_its_outputs(kind):
    delta = update_of(kind, 2, (12, 12, 3, 3)).delta().detach().flatten(1)
    assert torch.linalg.matrix_rank(delta) == (2 * 3 if kind is LoRAC else 2)


def test_magnitude_gives_every_output_channel_the_norm_m():
    direction = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    magnitude = Magnitude(direction)
    with torch.no_grad():
        magnitude.m.copy_(torch.tensor([1.0, 2.0, 3.0, -4.0]))
    out = magnitude(3 * direction)
    torch.testing.assert_close(torch.linalg.vector_norm(out, dim=(1, 2, 3)), magnitude.m.abs())
    torch.testing.assert_close(out[0] / out[0].norm(), direction[0] / direction[0].norm())
    torch.testing.assert_close(out[3] / out[3].norm(), -direction[3] / direction[3].norm())


@pytest.mark.parametrize("full_gradient", [False, True])
def test_a_dead_channel_does_no_harm(full_gradient):
    base = torch.randn(3, 2, 3, 3)
    base[1] = 0
    direction = base.clone().requires_grad_()
    magnitude = Magnitude(base, full_gradient)
    out = magnitude(direction)
    assert torch.equal(out, base)
    out.sum().backward()
    assert torch.isfinite(direction.grad).all()
    assert torch.isfinite(magnitude.m.grad).all()


# --- held against other libraries


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("rslora", [False, True])
def test_conv_lora_equals_huggingface_pefts(use_dora, rslora):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(2)
    ours = OneConv(6, 5, 3, padding=1, stride=2)
    theirs = get_peft_model(copy.deepcopy(ours), LoraConfig(r=4, lora_alpha=10, target_modules=["stem"], use_dora=use_dora, use_rslora=rslora)).eval()
    layer = theirs.base_model.model.stem
    scaling = "rslora" if rslora else "standard"
    attach(ours, AdapterConfig("convDoRA" if use_dora else "convLoRA", 4, alpha=10, scaling=scaling, modules=("stem",)))
    if use_dora:
        torch.testing.assert_close(layer.lora_magnitude_vector["default"].weight.flatten(), ours.stem.parametrizations.weight[1].m)
    disturb(ours)
    parameters = dict(trainable_parameters(ours))
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(parameters["stem.update.A"])
        layer.lora_B["default"].weight.copy_(parameters["stem.update.B"][:, :, None, None])
        if use_dora:
            layer.lora_magnitude_vector["default"].weight.copy_(parameters["stem.magnitude.m"].view(1, -1, 1, 1))
    x = torch.rand(2, 6, 9, 9)
    a, b = ours(x), theirs(x)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    a.square().sum().backward()
    b.square().sum().backward()
    torch.testing.assert_close(parameters["stem.update.A"].grad, layer.lora_A["default"].weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(parameters["stem.update.B"].grad, layer.lora_B["default"].weight.grad.flatten(1), rtol=1e-4, atol=1e-4)
    if use_dora:
        gradient = layer.lora_magnitude_vector["default"].weight.grad.flatten()
        torch.testing.assert_close(parameters["stem.magnitude.m"].grad, gradient, rtol=1e-4, atol=1e-4)
    merge(ours)
    theirs.merge_adapter()
    torch.testing.assert_close(ours.stem.weight, layer.base_layer.weight, rtol=1e-5, atol=1e-6)


def test_the_loralib_form_equals_microsofts_conv_lora():
    import loralib

    torch.manual_seed(2)
    ours = OneConv(6, 5, 3, padding=1)
    theirs = loralib.Conv2d(6, 5, 3, padding=1, r=4, lora_alpha=10, merge_weights=False)
    with torch.no_grad():
        theirs.conv.weight.copy_(ours.stem.weight)
        theirs.conv.bias.copy_(ours.stem.bias)
    attach(ours, AdapterConfig("loralib", 4, alpha=10, modules=("stem",)))
    disturb(ours)
    parameters = dict(trainable_parameters(ours))
    with torch.no_grad():
        theirs.lora_A.copy_(parameters["stem.update.A"])
        theirs.lora_B.copy_(parameters["stem.update.B"])
    x = torch.rand(2, 6, 9, 9)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    torch.testing.assert_close(parameters["stem.update.A"].grad, theirs.lora_A.grad)
    torch.testing.assert_close(parameters["stem.update.B"].grad, theirs.lora_B.grad)


# --- gradients


@pytest.mark.parametrize("method", METHODS)
def test_gradients_agree_with_finite_differences(method):
    kind, has_magnitude = UPDATES[method]
    base = torch.randn(3, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    update = update_of(kind, 2, (3, 2, 3, 3), scale=0.5)
    layers = [update] + ([Magnitude(1.5 * base, full_gradient=True)] if has_magnitude else [])
    names = [(layer, name) for layer in layers for name, _ in layer.named_parameters()]
    x = torch.randn(1, 2, 7, 7, dtype=torch.float64)

    def adapted_convolution(*values):
        for (layer, name), value in zip(names, values, strict=True):
            layer._parameters.pop(name, None)
            setattr(layer, name, value)
        kernel = base
        for layer in layers:
            kernel = layer(kernel)
        return conv2d(x, kernel, dilation=2)

    values = tuple(p.detach().clone().requires_grad_() for layer in layers for p in layer.parameters())
    assert torch.autograd.gradcheck(adapted_convolution, values)


def test_doras_norm_is_a_constant_in_the_backward_pass_unless_asked_otherwise():
    base = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    weights = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    gradients = {}
    for full in (False, True):
        direction = (2 * base).requires_grad_()
        magnitude = Magnitude(base, full)
        (weights * magnitude(direction)).sum().backward()
        gradients[full] = direction.grad
        norm = (2 * base).flatten(1).norm(dim=1)
        torch.testing.assert_close(magnitude.m.grad, (weights * 2 * base).flatten(1).sum(1) / norm)
    # m/‖V‖ = 1/2; the full gradient is that of the paper's equation 6, the part across V only
    unit = base / base.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    across = weights - unit * (weights * unit).flatten(1).sum(1).view(-1, 1, 1, 1)
    torch.testing.assert_close(gradients[False], weights / 2)
    torch.testing.assert_close(gradients[True], across / 2)


def test_the_configuration_hands_the_full_gradient_on(network):
    for full in (False, True):
        attach(network, AdapterConfig("cp-dora", full_dora_gradient=full))
        assert network.head[2].parametrizations.weight[1].full_gradient is full
        detach(network)


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
