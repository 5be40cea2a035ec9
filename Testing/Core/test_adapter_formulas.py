"""Adapters: their configuration, the formulas of the papers, other libraries that compute the same, gradients."""

import copy
import math

import numpy as np
import pytest
import torch
from SAHLoRALib.adapters import (
    METHODS,
    AdapterConfig,
    adapted_layers,
    attach,
    count_parameters,
    detach,
    merge,
    trainable_parameters,
)
from SAHLoRALib.errors import ConfigError
from SAHLoRALib.kernels import UPDATES, ConvLoRA, CPLoRA, KernelUpdate, LoRAC, LoralibConv, Magnitude, TuckerLoRA
from SAHLoRALib.network import MultiViewUnet, NetworkConfig
from small_adapters import SMALL, OneConv, disturb, small_network
from torch import nn
from torch.nn.functional import conv2d

DORA = [method for method in METHODS if UPDATES[method][1]]


@pytest.fixture
def network() -> MultiViewUnet:
    return small_network()


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
