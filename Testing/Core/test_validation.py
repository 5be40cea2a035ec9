"""What validation measures and chooses, and the loss that training minimises."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from SAHLoRALib.adapters import AdapterConfig
from SAHLoRALib.ct import ct_from_image
from SAHLoRALib.device import choose_compute
from SAHLoRALib.loss import LOSSES, SMOOTH_PIXELS, segmentation_loss
from SAHLoRALib.metrics import dice, soft_dice
from SAHLoRALib.network import MultiViewUnet
from SAHLoRALib.samples import SliceCache
from SAHLoRALib.slices import PixelGrid, from_network, head_window, normalise, to_network, volume_ml
from SAHLoRALib.training import fit, save_model
from SAHLoRALib.validation import FLAT, MOST_FINE, THRESHOLDS, CaseScore, summary, validate
from SAHLoRALib.weights import load_network
from small_heads import head_hu, head_image
from small_training import NETWORK, SMALL


def finer(planes):
    """(n, H, W) tensor → array on the pixels that validation measures on: those of the tests' networks, of 4 or 5 mm, are divided by four."""
    size = [MOST_FINE * n for n in planes.shape[1:]]
    return torch.nn.functional.interpolate(planes[:, None], size=size, mode="bilinear", align_corners=False)[:, 0].numpy()


def test_validation_gives_the_dice_of_whole_cases(validation):
    torch.manual_seed(1)
    network = MultiViewUnet(NETWORK).eval()
    score, cases = validate(network, validation, choose_compute("cpu", "float32"), batch=3)
    for case, told in zip(validation.cases, cases, strict=True):
        image = torch.nn.functional.pad(case.hu[:, None].float() / 140, (0, 0, 0, 0)).clamp(0, 1)
        with torch.no_grad():
            p = finer(torch.sigmoid(network(image))[:, 0])
        mask = finer(case.blood / 255) >= 0.5
        assert told.soft_dice == pytest.approx(soft_dice(p, mask), abs=1e-5)
        assert told.dice == pytest.approx([dice(p > t, mask) for t in THRESHOLDS], abs=1e-5)
        assert told.error_ml == pytest.approx(
            [0.08 / MOST_FINE**2 * abs(np.count_nonzero(p > t) - np.count_nonzero(mask)) for t in THRESHOLDS], rel=1e-4
        )
        assert told.false_ml == pytest.approx(0.08 / MOST_FINE**2 * np.count_nonzero((p > 0.5) & ~mask), rel=1e-5)
    assert score.dice == pytest.approx(np.mean([c.dice[THRESHOLDS.index(0.5)] for c in cases[:2]]))
    assert score.false_ml == pytest.approx(cases[2].false_ml)


class Bright(torch.nn.Module):
    """Finds what is brighter than 45 HU, in a window of 140."""

    def forward(self, image):
        return (image * 140 - 45) / 2


def test_volumes_at_every_threshold_are_those_that_segmenting_gives_on_the_scan():
    """A film of 2.2 mm across the brain, on pixels of 0.5 mm: on the network's own it would be just as large at every threshold."""

    def bleeding(points):
        hu = np.minimum(head_hu(points), 30)
        hu[(np.abs(points[..., 1] - 0.6 * points[..., 0]) < 1.3) & (np.abs(points[..., 2]) < 40) & (hu > 0)] = 60.0
        return hu

    ct = ct_from_image(head_image((320, 400, 14), (0.5, 0.5, 10.0), bleeding), check=False)
    mask = ct.hu > 50
    grid = PixelGrid(1.0)
    cache = SliceCache.read([(ct, mask)], grid)
    told = validate(Bright(), cache, choose_compute("cpu", "float32"))[1][0]
    head = head_window(ct)
    p = from_network(torch.sigmoid(Bright()(normalise(to_network(ct, grid, head.slices, head), grid.window))), ct, grid, head)
    true_ml = volume_ml(mask, ct)
    assert told.true_ml == pytest.approx(true_ml, rel=0.03) and true_ml > 10
    found = np.zeros(ct.shape, bool)
    errors = []
    for threshold in THRESHOLDS:
        found[list(head.slices)] = p > threshold
        errors.append(abs(volume_ml(found, ct) - true_ml))
    assert told.error_ml == pytest.approx(errors, abs=0.04 * true_ml)


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


def test_false_blood_in_cases_without_any_raises_the_threshold():
    def case(error_at, true_ml):
        return CaseScore("c", (0.8 if true_ml else 0.0,) * len(THRESHOLDS), tuple(error_at(t) for t in THRESHOLDS), 0.5, true_ml, 0.0)

    bleeding = [case(lambda t: 2 + abs(t - 0.4), 5.0), case(lambda t: 2 + abs(t - 0.4), 9.0)]
    assert summary(bleeding).threshold == 0.4
    assert summary([*bleeding, case(lambda t: 2 - 2 * t if t < 0.6 else 0.8, 0.0)]).threshold == 0.6
    assert summary([*bleeding, case(lambda t: 1 - t / 2, 0.0)]).threshold == 0.4  # less is gained than lost


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
