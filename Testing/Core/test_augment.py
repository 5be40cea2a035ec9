"""Random variation of training slices."""

from __future__ import annotations

import pytest
import torch
from SAHLoRALib.augment import Augmentation, augment, gaussian
from SAHLoRALib.errors import ConfigError
from SAHLoRALib.slices import normalise

WINDOW = (0.0, 140.0)
CROP = (32, 32)


def slices(n=6, rows=32, columns=32):
    """Brain of 30 HU with a block of blood, off the middle, in air."""
    hu = torch.full((n, 1, rows, columns), -1000.0)
    hu[:, :, 4:-4, 4:-4] = 30.0
    blood = torch.zeros_like(hu)
    blood[:, :, 8:16, 9:15] = 1.0
    hu[blood > 0] = 70.0
    return hu, blood, torch.tensor([[rows, columns]] * n)


def run(what, n=6, seed=0, crop=CROP, inputs=None):
    hu, blood, sizes = inputs or slices(n)
    return augment(hu, blood, sizes, [(seed, i) for i in range(len(hu))], crop, WINDOW, what)


def test_without_augmentation_the_slice_passes_unchanged():
    hu, blood, _ = slices()
    batch = run(Augmentation("none"))
    assert torch.allclose(batch.image, normalise(hu, WINDOW), atol=1e-4)
    assert torch.allclose(batch.target, blood, atol=1e-5)
    assert (batch.weight == 1).all()


@pytest.mark.parametrize("size", [(31, 45), (40, 24), (64, 64), (20, 33)])
def test_crops_of_any_slice_are_whole_pixels_of_it_and_air(size):
    hu = torch.randint(0, 140, (4, 1, *size)).float()
    batch = run(Augmentation("none"), inputs=(hu, torch.zeros_like(hu), torch.tensor([size] * 4)))
    assert batch.image.shape == (4, 1, *CROP)
    values = batch.image * 140
    assert (values - values.round()).abs().max() < 0.01


def test_a_slice_larger_than_the_crop_is_cut_in_different_places():
    hu = torch.arange(64.0)[None, None, :, None].repeat(8, 1, 1, 64)
    batch = run(Augmentation("none"), inputs=(hu, torch.zeros_like(hu), torch.tensor([[64, 64]] * 8)))
    assert len({round(float(v) * 140) for v in batch.image[:, 0, 0, 0]}) > 2


@pytest.mark.parametrize("kind", ["laboratory", "scanner", "both"])
def test_image_and_mask_move_together(kind):
    batch = run(Augmentation(kind, weigh_contrast=False), n=12)
    inside, brain = batch.target > 0.9, (batch.target < 0.1) & (batch.image > 0)
    for i in range(12):
        assert batch.image[i][inside[i]].mean() > batch.image[i][brain[i]].mean() + 0.1
    assert batch.target.min() >= 0 and batch.target.max() <= 1
    assert batch.image.min() >= 0 and batch.image.max() <= 1


def test_a_slices_variation_depends_on_its_own_seed_only():
    whole = run(Augmentation("both"))
    hu, blood, sizes = slices()
    part = augment(hu[2:4], blood[2:4], sizes[2:4], [(0, 2), (0, 3)], CROP, WINDOW, Augmentation("both"))
    assert torch.allclose(part.image, whole.image[2:4], atol=1e-6)
    other = run(Augmentation("both"), seed=1)
    assert not torch.allclose(other.image, whole.image, atol=1e-2)


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    run(Augmentation("both"))
    assert torch.equal(before, torch.get_rng_state())


def test_laboratory_contrast_moves_the_window_and_lowers_the_weight():
    """w = 1 − (|lo| + |hi|)/60 for ends that move by lo and hi: both are read from a ramp of HU."""
    hu = torch.linspace(-60, 200, 64)[None, None, None, :].repeat(40, 1, 64, 1)
    batch = augment(
        hu, torch.zeros_like(hu), torch.tensor([[64, 64]] * 40), [(5, i) for i in range(40)], (64, 64), WINDOW, Augmentation("laboratory")
    )
    assert batch.weight.min() >= 0 and batch.weight.max() < 1 and batch.weight.std() > 0.1
    for image, weight in zip(batch.image, batch.weight, strict=True):
        row = image[0, 4:-4].mean(dim=0)
        row = (row if row[48] > row[16] else row.flip(0))[4:-4]
        inner = (row > 0.1) & (row < 0.9)
        x = torch.linspace(-60, 200, 64)[4:-4][inner]
        slope = (row[inner][-1] - row[inner][0]) / (x[-1] - x[0])
        low = float(x[0] - row[inner][0] / slope)
        high = low + float(1 / slope)
        assert weight == pytest.approx(1 - (abs(low) + abs(high - 140)) / 60, abs=0.06)


def test_half_of_the_slices_are_mirrored():
    batch = run(Augmentation("laboratory", strength=0.0), n=64)
    left = batch.target[:, 0, :, :16].sum(dim=(1, 2)) > batch.target[:, 0, :, 16:].sum(dim=(1, 2))
    assert 20 <= int(left.sum()) <= 44


def test_strength_zero_changes_no_hu():
    batch = run(Augmentation("both", strength=0.0))
    hu, _, _ = slices()
    expected = normalise(hu, WINDOW)
    for image in batch.image:
        assert torch.allclose(image, expected[0], atol=1e-4) or torch.allclose(image, expected[0].flip(-1), atol=1e-4)


def test_more_strength_means_more_change():
    plain = run(Augmentation("none")).image
    change = [float((run(Augmentation("scanner", strength=s), seed=3).image - plain).abs().mean()) for s in (0.2, 1.0, 2.0)]
    assert change[0] < change[1] < change[2]


def test_geometry_moves_more_or_less_than_the_strength():
    blood = slices()[1]
    still, both = run(Augmentation("scanner", geometry=0.0)), run(Augmentation("scanner", strength=0.0, geometry=1.0))
    for target in still.target:
        assert torch.allclose(target, blood[0], atol=1e-5) or torch.allclose(target, blood[0].flip(-1), atol=1e-5)
    assert not torch.equal(still.image, run(Augmentation("none")).image)  # noise and kernels still vary
    assert torch.equal(both.target, run(Augmentation("scanner", strength=1.0)).target)
    assert torch.equal(run(Augmentation("scanner", 0.6)).image, run(Augmentation("scanner", 0.6, geometry=0.6)).image)


def test_gaussian_keeps_the_mean_and_lowers_the_spread():
    x = torch.randn(2, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    smooth = gaussian(x, 2.0)
    assert smooth.std() < 0.3 * x.std()
    assert torch.allclose(gaussian(torch.full((1, 1, 8, 8), 5.0), 2.0), torch.full((1, 1, 8, 8), 5.0))


@pytest.mark.parametrize("wrong", [{"kind": "elastic"}, {"strength": -1.0}, {"strength": float("nan")}, {"geometry": 6.0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        Augmentation(**wrong)


def test_a_bright_rim_lies_under_the_bone_and_not_far_from_it(monkeypatch):
    """Bone on the left edge, brain of 30 HU: with the rim's Gaussian left out, only the brain beside the bone changes."""
    hu = torch.full((64, 1, 32, 64), 30.0)
    hu[..., :8] = 900.0
    inputs = (hu, torch.zeros_like(hu), torch.tensor([[32, 64]] * 64), [(1, i) for i in range(64)], (32, 64), (0.0, 140.0), Augmentation("scanner"))
    with_rim = augment(*inputs).image
    monkeypatch.setattr("SAHLoRALib.augment.gaussian", lambda x, sigma: torch.zeros_like(x) if sigma == 4.0 else gaussian(x, sigma))
    added = with_rim - augment(*inputs).image
    bone = (with_rim > 0.99).float()
    near = torch.nn.functional.max_pool2d(bone, 11, 1, 5) > torch.nn.functional.max_pool2d(bone, 7, 1, 3)
    far = torch.nn.functional.max_pool2d(bone, 45, 1, 22) == 0
    assert near.any() and far.any()
    assert added[near].mean() > 0.005
    assert added[far].abs().max() < 1e-3
