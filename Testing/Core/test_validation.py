"""What validation measures and chooses, and the loss that training minimises."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from SAHLoRALib.adapters import AdapterConfig
from SAHLoRALib.device import choose_compute
from SAHLoRALib.loss import LOSSES, SMOOTH_PIXELS, segmentation_loss
from SAHLoRALib.metrics import dice, soft_dice
from SAHLoRALib.network import MultiViewUnet
from SAHLoRALib.training import fit, save_model
from SAHLoRALib.validation import FLAT, THRESHOLDS, CaseScore, summary, validate
from SAHLoRALib.weights import load_network
from small_training import NETWORK, SMALL


def test_validation_gives_the_dice_of_whole_cases(validation):
    torch.manual_seed(1)
    network = MultiViewUnet(NETWORK).eval()
    score, cases = validate(network, validation, choose_compute("cpu", "float32"), batch=3)
    for case, told in zip(validation.cases, cases, strict=True):
        image = torch.nn.functional.pad(case.hu[:, None].float() / 140, (0, 0, 0, 0)).clamp(0, 1)
        with torch.no_grad():
            p = torch.sigmoid(network(image))[:, 0].numpy()
        mask = case.target.numpy()
        assert told.soft_dice == pytest.approx(soft_dice(p, mask), abs=1e-5)
        assert told.dice == pytest.approx([dice(p > t, mask) for t in THRESHOLDS], abs=1e-5)
        assert told.error_ml == pytest.approx([0.08 * abs(np.count_nonzero(p > t) - np.count_nonzero(mask)) for t in THRESHOLDS], rel=1e-4)
        assert told.false_ml == pytest.approx(0.08 * np.count_nonzero((p > 0.5) & ~mask), rel=1e-5)
    assert score.dice == pytest.approx(np.mean([c.dice[THRESHOLDS.index(0.5)] for c in cases[:2]]))
    assert score.false_ml == pytest.approx(cases[2].false_ml)


def test_the_threshold_is_the_one_with_the_best_mean_dice_and_rather_in_the_middle():
    def case(*best, true_ml=5.0):
        return CaseScore("c", tuple(0.8 if t in best else 0.4 for t in THRESHOLDS), (1.0,) * len(THRESHOLDS), 0.5, true_ml, 1.0)

    assert summary([case(0.35), case(0.35, 0.7)]).threshold == 0.35
    assert summary([case(0.3, 0.55, 0.7)]).threshold == 0.55
    assert summary([case(), case()]).threshold == 0.5
    clean = summary([case(0.3, true_ml=0.0)])
    assert clean.threshold == 0.5 and math.isnan(clean.dice) and clean.false_ml == 1.0


def test_where_dice_is_flat_the_threshold_is_the_one_that_measures_volumes_best():
    def case(dice_at, exact):
        return CaseScore("c", tuple(dice_at(t) for t in THRESHOLDS), tuple(abs(t - exact) for t in THRESHOLDS), 0.5, 5.0, 0.0)

    flat = summary([case(lambda t: 0.8 - FLAT * t, 0.3), case(lambda t: 0.8, 0.3)])
    assert flat.threshold == 0.3 and flat.best_dice == pytest.approx(0.8 - FLAT * 0.3 / 2)
    assert summary([case(lambda t: 0.8 - abs(t - 0.7), 0.3)]).threshold == 0.7  # volumes do not outweigh Dice


def test_an_adapter_of_half_strength_is_judged_as_it_is_merged(tmp_path, train, validation, base):
    """The same training as at full strength, whose checkpoint it goes on from; figures and threshold are those of the merged file."""
    adapter = AdapterConfig(rank=2, norm="adapt")
    config = replace(SMALL, strategy="adapter", adapter=adapter)
    whole = fit(config, train, validation, base, tmp_path / "run")
    half = fit(replace(config, adapter=replace(adapter, strength=0.5)), train, validation, base, tmp_path / "run")
    assert half.seconds >= whole.seconds and half.history == whole.history
    for result, name in ((whole, "whole"), (half, "half")):
        info = save_model(result, tmp_path / f"{name}.safetensors")
        score = validate(load_network(base, info)[0], validation, choose_compute("cpu", "auto"), batch=config.batch)[0]
        assert result.best is not None and score.soft_dice == pytest.approx(result.best.soft_dice, abs=1e-3)
        assert info.threshold == result.best.threshold
    assert half.best != whole.best


@pytest.mark.parametrize(
    ("kind", "settings"), [("dice+ce", {"batch": True}), ("slices+ce", {"smooth_nr": SMOOTH_PIXELS, "smooth_dr": SMOOTH_PIXELS})]
)
def test_the_loss_equals_monais_for_equal_weights(kind, settings):
    from monai.losses import DiceCELoss

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, 9, 7, generator=generator)
    target = (torch.rand(3, 1, 9, 7, generator=generator) < 0.2).float()
    target[2] = 0
    expected = DiceCELoss(sigmoid=True, **settings)(logits, target)
    assert segmentation_loss(logits, target, torch.ones(3), kind) == pytest.approx(float(expected), abs=1e-5)


def test_missing_little_blood_costs_as_much_as_missing_much_by_slices_but_not_by_the_batch():
    target = torch.zeros(2, 1, 64, 64)
    target[0, 0, :40, :40], target[1, 0, :8, :8] = 1, 1
    batch, slices = [], []
    for missed in (0, 1):
        logits = 20.0 * (2 * target - 1)
        logits[missed] = -20.0
        loss = {kind: float(segmentation_loss(logits, target, torch.ones(2), kind)) for kind in LOSSES}
        batch.append(loss["dice"])
        slices.append(loss["slices+ce"] - loss["ce"])
    assert batch[1] < 0.03 * batch[0]
    assert 0.7 * slices[0] < slices[1] < slices[0]


@pytest.mark.parametrize("kind", ["dice+ce", "slices+ce"])
def test_a_slice_of_weight_zero_has_no_gradient(kind):
    logits = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    segmentation_loss(logits, torch.ones(2, 1, 8, 8), torch.tensor([1.0, 0.0]), kind).backward()
    assert logits.grad is not None and logits.grad[0].abs().max() > 0 and logits.grad[1].abs().max() == 0
