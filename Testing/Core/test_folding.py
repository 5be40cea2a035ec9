"""Prediction without BatchNorms gives what the network gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from SAHLoRALib.adapters import METHODS, AdapterConfig, attach, merge, trainable_parameters
from SAHLoRALib.device import bf16_support
from SAHLoRALib.folding import LargestOfFour, folded
from SAHLoRALib.network import MultiViewUnet, NetworkConfig
from SAHLoRALib.phantom import ScannerConfig, icbm_head, make_case
from SAHLoRALib.segmenter import SegmentConfig, Segmenter
from SAHLoRALib.weights import digest
from torch import nn

SMALL = NetworkConfig(levels=2, width=8)


def trained_looking(seed: int = 0) -> MultiViewUnet:
    """A network whose BatchNorms hold statistics and weights that are far from those of a new one."""
    torch.manual_seed(seed)
    network = MultiViewUnet(SMALL)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            nn.init.uniform_(layer.running_mean, -2, 2)
            nn.init.uniform_(layer.running_var, 0.01, 9)
            nn.init.uniform_(layer.weight, -1.5, 1.5)
            nn.init.uniform_(layer.bias, -1, 1)
    return network.eval()


def adapted(method: str, norm: str) -> MultiViewUnet:
    """With a merged adapter that changes every kernel, and the norms where it may."""
    network = trained_looking()
    attach(network, AdapterConfig(method=method, rank=2, norm=norm))
    with torch.no_grad():
        for _, parameter in trainable_parameters(network):
            parameter.add_(0.05 * torch.randn(parameter.shape))
    merge(network)
    return network.eval()


@pytest.mark.parametrize("norm", ["frozen", "affine", "adapt"])
@pytest.mark.parametrize("method", ["none", *METHODS])
def test_folded_network_equals_the_plain_one(method: str, norm: str) -> None:
    network = trained_looking() if method == "none" else adapted(method, norm)
    before, image = digest(network), torch.rand(2, 1, 32, 48)
    with torch.no_grad():
        plain, fast = network(image), folded(network)(image)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded(network).modules())
    assert torch.allclose(plain, fast, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))
    assert digest(network) == before and any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooling_without_places_keeps_the_same_numbers(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 8, 12).to(dtype).contiguous(memory_format=torch.channels_last)
    x[0, 0, 3, 5] = torch.nan
    pooled = LargestOfFour()(x)
    torch.testing.assert_close(pooled, nn.MaxPool2d(2)(x), rtol=0, atol=0, equal_nan=True)
    assert pooled.isnan().sum() == 1
    assert isinstance(folded(trained_looking()).pool, LargestOfFour)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [7, 12])
def test_bf16_and_folding_change_the_volume_by_less_than_half_a_percent(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """The bundled model on phantoms of 2 and 18 mL: float32 with BatchNorms against what users run. In 2 mL half a percent is three voxels, so
    0.05 mL are allowed there."""
    ct = make_case(icbm_head(), "asah", seed, ScannerConfig(matrix=256, gaps_mm=(5.0,) * 27)).ct
    monkeypatch.setattr("SAHLoRALib.folding.folded", lambda network: network.eval())
    plain = Segmenter.load(config=SegmentConfig(device="cpu", precision="float32")).segment(ct)
    monkeypatch.undo()
    for precision in ("float32", "bf16") if bf16_support(torch.device("cpu"))[0] else ("float32",):
        fast = Segmenter.load(config=SegmentConfig(device="cpu", precision=precision)).segment(ct)  # type: ignore[arg-type]
        assert fast.report.total_ml == pytest.approx(plain.report.total_ml, rel=0.005, abs=0.05)
        assert np.mean(fast.mask != plain.mask) < 1e-4
    assert plain.report.total_ml > 1


def test_the_segmenter_predicts_without_norms_and_leaves_its_network_alone(tmp_path: Path) -> None:
    from SAHLoRALib.slices import PixelGrid
    from SAHLoRALib.weights import save_base

    network = trained_looking()
    info = save_base(network, tmp_path / "base.safetensors", grid=PixelGrid())
    segmenter = Segmenter(network, info, None, SegmentConfig(device="cpu"))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in segmenter._network.modules())
    assert digest(network) == info.digest
