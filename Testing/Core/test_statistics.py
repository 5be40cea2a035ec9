"""Agreement and comparison against formulas written out, and on the small cohorts that break libraries."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from SAHLoRALib.errors import ConfigError
from SAHLoRALib.statistics import bland_altman, bootstrap_mean, compare_paired, holm, icc, outer_mean, spearman, spearman_interval

RNG = np.random.default_rng(3)
ANNOTATED = RNG.gamma(2.0, 8.0, 20)
PREDICTED = ANNOTATED * 0.9 + RNG.normal(0, 2, 20)


def icc_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """Shrout & Fleiss 1979, ICC(2,1), from the mean squares of the two-way table."""
    x = np.stack((a, b), axis=1)
    n, k = x.shape
    rows = k * ((x.mean(1) - x.mean()) ** 2).sum() / (n - 1)
    columns = n * ((x.mean(0) - x.mean()) ** 2).sum() / (k - 1)
    rest = ((x - x.mean(1, keepdims=True) - x.mean(0) + x.mean()) ** 2).sum() / ((n - 1) * (k - 1))
    return (rows - rest) / (rows + (k - 1) * rest + k * (columns - rest) / n)


def test_icc_equals_shrout_and_fleiss() -> None:
    found = icc(ANNOTATED, PREDICTED)
    assert found.value == pytest.approx(icc_by_hand(ANNOTATED, PREDICTED), abs=1e-9)
    assert found.low < found.value < found.high <= 1
    assert found.n == 20


def test_icc_interval_is_not_rounded_to_two_digits() -> None:
    found = icc(ANNOTATED, PREDICTED)
    assert abs(found.low * 100 - round(found.low * 100)) > 1e-6


def test_icc_of_published_example() -> None:
    """Judges 1 and 4 of Shrout & Fleiss' six targets; the value follows from their table by hand."""
    a, b = np.array([9.0, 6, 8, 7, 10, 6]), np.array([8.0, 2, 6, 6, 9, 7])
    assert icc(a, b).value == pytest.approx(icc_by_hand(a, b), abs=1e-9)


def test_icc_counts_a_constant_error_as_disagreement() -> None:
    assert icc(ANNOTATED, ANNOTATED + 15).value < 0.8 < icc(ANNOTATED, ANNOTATED + 1).value


def test_icc_of_equal_and_of_too_few_volumes() -> None:
    assert icc(ANNOTATED, ANNOTATED).value == 1.0
    assert math.isnan(icc([1.0, 2.0], [1.0, 2.1]).value)
    assert math.isnan(icc([3.0] * 5, [3.0] * 5).value)


def test_bland_altman_gives_bias_and_limits_of_predicted_minus_annotated() -> None:
    difference = PREDICTED - ANNOTATED
    found = bland_altman(ANNOTATED, PREDICTED)
    assert found.bias.value == pytest.approx(difference.mean())
    assert found.upper - found.lower == pytest.approx(2 * 1.96 * difference.std(ddof=1))
    assert found.bias.low < difference.mean() < found.bias.high
    assert bland_altman([1, 2, 3], [2, 3, 4]).bias.value == 1.0


def test_pairs_with_nan_are_left_out_and_counted() -> None:
    predicted = PREDICTED.copy()
    predicted[[2, 5]] = math.nan
    keep = ~np.isnan(predicted)
    assert icc(ANNOTATED, predicted) == icc(ANNOTATED[keep], predicted[keep])
    assert bland_altman(ANNOTATED, predicted).bias.n == 18
    assert bootstrap_mean(predicted).value == pytest.approx(np.nanmean(predicted))


def test_bootstrap_interval_resembles_the_normal_one_and_repeats_by_seed() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.1, 100)
    found = bootstrap_mean(values, seed=1)
    half = 1.96 * values.std(ddof=1) / 10
    assert found.low == pytest.approx(values.mean() - half, abs=0.006)
    assert found.high == pytest.approx(values.mean() + half, abs=0.006)
    assert bootstrap_mean(values, seed=1) == found != bootstrap_mean(values, seed=2)


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.5, 0.5], [0.0, 1.0], [math.nan, 0.3], [1.0, 1.0, 1.0 - 1e-9], [0, 0, 0, 1]])
def test_small_cohorts_neither_raise_nor_warn(values: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bootstrap_mean(values, resamples=200)
    known = [v for v in values if not math.isnan(v)]
    assert found.n == len(known)
    if len(known) > 1:
        assert found.low <= found.value <= found.high
    else:
        assert math.isnan(found.low)


def test_holm_multiplies_by_the_tests_that_are_left() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    corrected = holm([0.01, math.nan, 0.03])
    assert corrected[[0, 2]] == pytest.approx([0.02, 0.03]) and math.isnan(corrected[1])
    assert len(holm([])) == 0


def test_paired_test_equals_all_sign_flips() -> None:
    """The exact two-sided signed-rank p-value by counting every assignment of signs."""
    d = np.array([0.05, 0.02, -0.01, 0.08, 0.11, 0.04, 0.03])
    ranks = np.argsort(np.argsort(np.abs(d))) + 1
    observed = min(ranks[d > 0].sum(), ranks[d < 0].sum())
    below = [min(sum(r for r, s in zip(ranks, signs, strict=True) if s), sum(r for r, s in zip(ranks, signs, strict=True) if not s)) <= observed
             for signs in itertools.product((0, 1), repeat=len(d))]  # fmt: skip
    table = pd.DataFrame({"none": np.full(7, 0.5), "cp-lora": 0.5 + d})
    row = compare_paired(table, "none", resamples=200).iloc[0]
    assert row["p"] == pytest.approx(np.mean(below))
    assert row["mean_difference"] == pytest.approx(d.mean())
    assert row["rank_biserial"] == pytest.approx((ranks[d > 0].sum() - ranks[d < 0].sum()) / ranks.sum())


def test_comparison_has_one_row_a_method_with_holm_over_all() -> None:
    base = RNG.uniform(0.3, 0.8, 12)
    table = pd.DataFrame({"all": base, "none": base - RNG.uniform(0.1, 0.2, 12), "same": base, "noise": base + RNG.normal(0, 0.01, 12)})
    result = compare_paired(table, "all", resamples=200).set_index("method")
    assert list(result.index) == ["none", "same", "noise"]
    assert result.loc["none", "p_holm"] == pytest.approx(3 * result.loc["none", "p"]) and result.loc["none", "rank_biserial"] == -1
    assert result.loc["same", "p"] == 1.0 and result.loc["same", "mean_difference"] == 0


def test_comparison_uses_the_patients_that_both_have() -> None:
    table = pd.DataFrame({"a": [0.1, 0.2, math.nan, 0.4], "b": [0.2, math.nan, 0.3, 0.6], "c": [math.nan] * 4})
    result = compare_paired(table, "a", resamples=100).set_index("method")
    assert result.loc["b", "n"] == 2 and result.loc["b", "mean_difference"] == pytest.approx(0.15)
    assert result.loc["c", "n"] == 0 and math.isnan(result.loc["c", "p_holm"])


def test_unknown_reference_names_the_choices() -> None:
    with pytest.raises(ConfigError, match="a, b"):
        compare_paired(pd.DataFrame({"a": [1.0], "b": [2.0]}), "zero-shot")


def test_rank_correlation_of_dice_with_volume() -> None:
    estimate, p = spearman(ANNOTATED, np.sqrt(ANNOTATED))
    assert estimate.value == pytest.approx(1.0) and p < 1e-6
    estimate, p = spearman(ANNOTATED, RNG.normal(size=20))
    assert estimate.low < estimate.value < estimate.high and p > 0
    assert math.isnan(spearman([1, 2, 3, 4], [5, 5, 5, 5])[0].value)


def test_different_numbers_of_patients_are_refused() -> None:
    with pytest.raises(ConfigError, match="same patients"):
        icc([1, 2, 3], [1, 2])


def test_outer_interval_reaches_as_far_as_bootstrap_and_student() -> None:
    from scipy import stats

    for values in (np.random.default_rng(0).normal(0, 1, 8), np.r_[np.zeros(25), 1.0, 2.0]):
        near, far = bootstrap_mean(values, 0.99), outer_mean(values, 0.99)
        low, high = stats.t.interval(0.99, len(values) - 1, values.mean(), stats.sem(values))
        assert (far.low, far.high) == pytest.approx((min(near.low, low), max(near.high, high))) and far.value == near.value
    assert outer_mean([0.5, math.nan]).n == 1 and math.isnan(outer_mean([0.5]).low) and outer_mean([0.5, 0.5]).low == 0.5


def test_interval_of_a_rank_correlation_holds_the_true_one_as_often_as_it_says() -> None:
    """Normal pairs with Pearson's 0.9, whose true rank correlation is 6/π · asin(0.45); Fisher's interval holds it in 91 % only."""
    rng, n, tries = np.random.default_rng(0), 30, 2000
    x = rng.normal(size=(tries, n))
    y = 0.9 * x + math.sqrt(1 - 0.9**2) * rng.normal(size=(tries, n))
    ranks = [np.argsort(np.argsort(side, axis=1), axis=1) - (n - 1) / 2 for side in (x, y)]
    rho = (ranks[0] * ranks[1]).sum(1) / (ranks[0] ** 2).sum(1)
    ends = np.array([spearman_interval(float(r), n) for r in rho])
    held = (ends[:, 0] <= 6 / math.pi * math.asin(0.45)) & (6 / math.pi * math.asin(0.45) <= ends[:, 1])
    assert held.mean() == pytest.approx(0.95, abs=0.015)


def test_interval_of_a_rank_correlation_is_the_one_that_goes_with_it() -> None:
    estimate, _ = spearman([1, 2, 3, 4, 5, 6, 7, 8], [2, 1, 4, 3, 6, 5, 8, 7])
    half = 1.959964 * math.sqrt((1 + estimate.value**2 / 2) / 5)
    assert (estimate.low, estimate.high) == pytest.approx((np.tanh(np.arctanh(estimate.value) - half), np.tanh(np.arctanh(estimate.value) + half)))
    assert spearman_interval(0.5, 30, 0.99)[0] < spearman_interval(0.5, 30)[0] and spearman_interval(1.0, 8) == (1.0, 1.0)
    assert all(math.isnan(end) for end in (*spearman_interval(0.5, 3), *spearman_interval(math.nan, 9)))
