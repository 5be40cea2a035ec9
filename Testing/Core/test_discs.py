"""Growing by discs agrees with a distance transform to the last pixel, and so does the skull search that is built on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from SAHLoRALib import skull
from SAHLoRALib.ct import read_ct
from SAHLoRALib.discs import filled, within
from scipy.ndimage import binary_fill_holes, distance_transform_edt

SYNTHETIC = Path(__file__).resolve().parents[2] / "Resources" / "Phantom" / "SyntheticASAH.nrrd"
MASKS = arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24)))
#: Radii and spacings whose quotient is a whole number too, where ≤ and < differ.
SPACINGS = st.tuples(st.sampled_from([0.5, 1.0, 1.3671875, 1.5]), st.sampled_from([0.5, 1.0, 1.3671875, 1.5]))


def by_distances(mask: np.ndarray, radius_mm: float, spacing: tuple[float, float], open_disc: bool = False) -> np.ndarray:
    if not mask.any():
        return np.zeros_like(mask)
    distance = distance_transform_edt(~mask, sampling=spacing)
    return distance < radius_mm if open_disc else distance <= radius_mm


@settings(max_examples=300, deadline=None)
@given(MASKS, st.sampled_from([0.25, 1.0, 1.5, 3.0, 4.5, 20.0]), SPACINGS, st.booleans())
def test_within_is_what_a_distance_transform_says(mask, radius, spacing, open_disc):
    before = mask.copy()
    assert np.array_equal(within(mask, radius, spacing, open_disc), by_distances(mask, radius, spacing, open_disc))
    assert np.array_equal(mask, before)


@settings(max_examples=300, deadline=None)
@given(MASKS)
def test_filled_is_what_scipy_fills(mask):
    assert np.array_equal(filled(mask), binary_fill_holes(mask))


def test_block_means_are_those_of_the_blocks():
    hu = np.random.default_rng(0).normal(0.0, 500.0, (31, 44)).astype(np.float32)
    means = skull.block_mean(hu, (3, 4))
    assert means.shape == (11, 11)
    np.testing.assert_allclose(means[:10], hu[:30].reshape(10, 3, 11, 4).mean(axis=(1, 3), dtype=np.float64), atol=1e-3)
    np.testing.assert_allclose(means[10], hu[30].reshape(11, 4).mean(axis=1, dtype=np.float64), atol=1e-3)
    whole = np.random.default_rng(0).integers(-1024, 3072, (30, 44)).astype(np.int16)
    assert np.array_equal(skull.block_mean(whole, (3, 4)), whole.reshape(10, 3, 11, 4).mean(axis=(1, 3)).astype(np.float32))


def test_the_skull_search_finds_what_it_finds_by_distance_transforms(monkeypatch):
    ct = read_ct(SYNTHETIC)
    fast = skull.intracranial(ct)
    monkeypatch.setattr(skull, "within", by_distances)
    monkeypatch.setattr(skull, "filled", binary_fill_holes)
    assert fast.any()
    assert np.array_equal(fast, skull.intracranial(ct))
