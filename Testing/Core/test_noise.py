"""Noise of a scan: measured as it is, and smoothed where it is more than what the models have seen, there only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from SAHLoRALib.ct import read_ct
from SAHLoRALib.noise import LEFT_HU, NOISY_HU, noise_hu, smoothed
from SAHLoRALib.samples import cache_case
from SAHLoRALib.segmenter import SegmentConfig, Segmenter
from SAHLoRALib.slices import PixelGrid, brain_window, head_window, to_network
from SAHLoRALib.volume import CTVolume
from tiny_cohort import save_tiny_base

SYNTHETIC = Path(__file__).resolve().parents[2] / "Resources" / "Phantom" / "SyntheticASAH.nrrd"


@pytest.fixture(scope="module")
def plain() -> CTVolume:
    ct = read_ct(SYNTHETIC)
    middle = slice(len(ct.hu) // 3, len(ct.hu) // 3 + 7)
    return replace(ct, hu=ct.hu[middle], positions=ct.positions[middle])


def noisier(ct: CTVolume, hu: float) -> CTVolume:
    return replace(ct, hu=ct.hu + np.random.default_rng(0).normal(0.0, hu, ct.hu.shape).astype(np.float32))


@pytest.mark.parametrize("sigma", [2.0, 8.0, 15.0])
def test_the_noise_of_tissue_is_measured_whatever_lies_beside_it(sigma: float) -> None:
    rows, columns = np.mgrid[:80, :80]
    head = np.where(np.hypot(rows - 40, columns - 40) < 34, 30.0 + 0.1 * rows, 1200.0)
    head[:, :3] = -1000.0
    planes = head + np.random.default_rng(1).normal(0.0, sigma, (4, 80, 80))
    assert noise_hu(planes) == pytest.approx(sigma, rel=0.12)
    assert noise_hu(planes[:, :10, :10]) == 0.0 == noise_hu(np.full((2, 90, 90), np.nan))


def test_smoothing_leaves_the_mean_and_as_much_noise_as_is_said() -> None:
    hu = np.random.default_rng(1).normal(30.0, 12.0, (2, 90, 90))
    soft = smoothed(hu, (1.0, 1.0), 12.0)
    assert soft.mean() == pytest.approx(hu.mean(), abs=0.1) and soft.std() == pytest.approx(LEFT_HU, rel=0.1)
    assert smoothed(hu, (1.0, 1.0), 8.0).std() > soft.std() + 1
    step = smoothed(np.repeat((np.arange(90) > 44)[None, None] * 100.0, 90, axis=1), (1.0, 0.5), 12.0)[0, 45]
    assert 4 <= np.count_nonzero((step > 16) & (step < 84)) <= 5  # 2 σ of 1.13 mm in pixels of half a millimetre
    assert np.array_equal(soft[:1], smoothed(hu[:1], (1.0, 1.0), 12.0)), "slices are mixed"


def test_a_quiet_scan_is_shown_as_it_is_and_a_noisy_one_smoothed(plain: CTVolume) -> None:
    grid = PixelGrid()
    quiet = head_window(plain)
    assert 0 < quiet.noise_hu < NOISY_HU and not quiet.noisy
    loud = noisier(plain, 30.0)
    window = head_window(loud)
    assert window.noisy and brain_window(loud, np.ones(loud.shape, bool), window).noisy
    rough = to_network(loud, grid, None, replace(window, noise_hu=0.0)).numpy()[:, 0]
    soft = to_network(loud, grid, None, window)
    assert noise_hu(soft.numpy()[:, 0]) < 0.3 * noise_hu(rough)
    assert np.array_equal(to_network(loud, grid, [4, 1], window), soft[[4, 1]])
    assert np.array_equal(to_network(plain, grid, None, quiet), to_network(plain, grid, None, replace(quiet, noise_hu=0.0)))


def test_trainings_see_noisy_scans_as_segmenting_does_and_users_are_told(plain: CTVolume, tmp_path: Path) -> None:
    loud = noisier(plain, 30.0)
    window = head_window(loud)
    cached = cache_case((loud, np.zeros(loud.shape, bool)), PixelGrid())
    rows, columns = cached.hu.shape[1:]
    there = to_network(loud, PixelGrid(), list(window.slices), window)[:, 0, :rows, :columns].round()
    assert np.array_equal(cached.hu.numpy(), there.numpy())
    base = save_tiny_base(tmp_path)
    segmenter = Segmenter.load(str(base.path), "none", SegmentConfig(device="cpu", precision="float32"))
    assert any("noisier" in warning for warning in segmenter.segment(loud).report.warnings)
    assert not any("noisier" in warning for warning in segmenter.segment(plain).report.warnings)
