"""Figures about many patients: means with bootstrap intervals, agreement of volumes, paired comparison of methods.

SciPy and pingouin do the arithmetic; here stand the choices (which interval, which ICC, which correction) and what happens where a figure is not
defined: it becomes NaN and `n` says how many patients went into it. Nothing here raises or warns because a cohort is small.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

Values = Sequence[float] | np.ndarray
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A figure with the two ends of its confidence interval and the number of patients that it rests on."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """0.71 (0.65 to 0.77); the interval is left out where it is not defined."""
        if math.isnan(self.value):
            return "–"
        return f"{self.value:.3g}" if math.isnan(self.low) else f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class BlandAltman:
    """Agreement of two measurements of a volume, in mL: differences predicted − annotated.

    bias: mean difference with its 95 % interval (Student's t); lower, upper: limits of agreement, bias ± 1.96 standard deviations.
    """

    bias: Estimate
    sd: float
    lower: float
    upper: float


def bootstrap_mean(values: Values, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Mean of the values that are not NaN, with a BCa bootstrap interval over patients (`scipy.stats.bootstrap`), the same for the same seed.

    No value: NaN. One value: no interval. All values equal: an interval of no width.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise ConfigError(f"A bootstrap interval needs a confidence between 0 and 1 and resamples, not {confidence} and {resamples}.")
    given = _defined(values)
    if len(given) < 2:
        return Estimate(float(given[0]) if len(given) else math.nan, math.nan, math.nan, len(given))
    mean = float(given.mean())
    if np.ptp(given) <= 1e-12 * max(1.0, abs(mean)):
        return Estimate(mean, mean, mean, len(given))
    from scipy import stats

    generator: Any = np.random.default_rng(seed)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        result = stats.bootstrap((given,), np.mean, confidence_level=confidence, n_resamples=resamples, method="BCa", random_state=generator)
        low, high = result.confidence_interval
        if not (math.isfinite(low) and math.isfinite(high)):  # BCa breaks down on a few near-equal values
            low, high = np.quantile(result.bootstrap_distribution, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(mean, float(low), float(high), len(given))


def outer_mean(values: Values, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """`bootstrap_mean`, each end moved out to that of Student's t where this lies farther: for what an interval is to exclude.

    The bootstrap's is too narrow in small samples (it rests on the spread of the values that were drawn), the other where values are skewed.
    """
    found = bootstrap_mean(values, confidence, resamples, seed)
    if found.n < 2:
        return found
    half = _student_half(_defined(values), confidence)
    return Estimate(found.value, min(found.low, found.value - half), max(found.high, found.value + half), found.n)


def icc(annotated: Values, predicted: Values) -> Estimate:
    """ICC(2,1), two-way random effects, absolute agreement, single measurement (pingouin's ICC(A,1)), with its 95 % interval.

    annotated, predicted: (patients,) mL; pairs with a NaN are left out. NaN with fewer than three pairs or where all volumes are equal.
    """
    a, b = _pairs(annotated, predicted)
    if len(a) < 3 or np.ptp(np.concatenate((a, b))) == 0:
        return Estimate(math.nan, math.nan, math.nan, len(a))
    if np.array_equal(a, b):
        return Estimate(1.0, 1.0, 1.0, len(a))  # the formulas divide by the residual, which is 0
    import pandas as pd

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        import pingouin

        rows = range(len(a))
        data = pd.DataFrame({"patient": [*rows, *rows], "by": ["a"] * len(a) + ["b"] * len(b), "ml": np.concatenate((a, b))})
        rounding = {key: pingouin.options[key] for key in pingouin.options if key.startswith("round.column.CI95")}
        try:
            pingouin.options.update(dict.fromkeys(rounding))  # it shows two digits otherwise
            table = pingouin.intraclass_corr(data, targets="patient", raters="by", ratings="ml")
        finally:
            pingouin.options.update(rounding)
    row = table.iloc[1]  # ICC2, in newer versions ICC(A,1): the order of the rows is the same
    low, high = next(row[name] for name in table.columns if name.startswith("CI95"))
    return Estimate(float(row["ICC"]), float(low), float(high), len(a))


def bland_altman(annotated: Values, predicted: Values) -> BlandAltman:
    """Bias and limits of agreement of the differences predicted − annotated (patients,) in mL; pairs with a NaN are left out."""
    a, b = _pairs(annotated, predicted)
    difference = b - a
    n = len(difference)
    if n < 2:
        return BlandAltman(Estimate(float(difference[0]) if n else math.nan, math.nan, math.nan, n), math.nan, math.nan, math.nan)
    bias, sd = float(difference.mean()), float(difference.std(ddof=1))
    half = _student_half(difference, 0.95)
    return BlandAltman(Estimate(bias, bias - half, bias + half, n), sd, bias - 1.96 * sd, bias + 1.96 * sd)


def spearman(x: Values, y: Values) -> tuple[Estimate, float]:
    """Rank correlation with its 95 % interval, and its two-sided p-value; NaN with fewer than four pairs or a constant side."""
    a, b = _pairs(x, y)
    if len(a) < 4 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Estimate(math.nan, math.nan, math.nan, len(a)), math.nan
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        from scipy import stats

        r, p = (float(part) for part in stats.spearmanr(a, b))
    return Estimate(r, *spearman_interval(r, len(a)), len(a)), p


def spearman_interval(rho: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a rank correlation of n pairs after Bonett and Wright 2000: Fisher's z with a standard error of √((1 + ρ²/2) / (n − 3)).

    Fisher's own 1/√(n − 3) is that of Pearson's correlation and too narrow for ranks. NaN with fewer than four pairs; of no width at −1 and 1.
    """
    if math.isnan(rho) or n < 4:
        return math.nan, math.nan
    if abs(rho) >= 1:
        return rho, rho
    from scipy import stats

    half = float(stats.norm.ppf((1 + confidence) / 2)) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half)


def holm(p_values: Values) -> np.ndarray:
    """p-values corrected for their number after Holm (pingouin); NaN stays NaN and does not count."""
    p = np.asarray(p_values, dtype=float)
    corrected = np.full(p.shape, math.nan)
    known = ~np.isnan(p)
    if known.any():
        import pingouin

        corrected[known] = pingouin.multicomp(p[known], method="holm")[1]
    return corrected


def compare_paired(table: pd.DataFrame, reference: str, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """Every method against the reference on the same patients: two-sided Wilcoxon signed-rank tests with Holm's correction over the methods.

    table: one row a patient, one column a method (Dice, say). Patients for whom one of the two is NaN are left out of that comparison.
    Returns one row a method: method, reference, n, mean_difference (method − reference) with low and high (bootstrap), median_difference,
    rank_biserial (−1 … 1; 1: better in every patient), p, p_holm. With n = 5 no p below 0.06 is possible, with n = 6 none below 0.03.
    Raises ConfigError where the reference is not among the columns.
    """
    import pandas as pd

    if reference not in table.columns:
        raise ConfigError(f"The reference {reference!r} is not among the runs: choose one of {', '.join(map(str, table.columns))}.")
    rows = []
    for method in (name for name in table.columns if name != reference):
        a, b = _pairs(table[reference].to_numpy(float), table[method].to_numpy(float))
        difference = b - a
        mean = bootstrap_mean(difference, resamples=resamples, seed=seed)
        p, effect = _wilcoxon(difference)
        median = float(np.median(difference)) if len(difference) else math.nan
        rows.append((method, reference, mean.n, mean.value, mean.low, mean.high, median, effect, p))
    columns = ["method", "reference", "n", "mean_difference", "low", "high", "median_difference", "rank_biserial", "p"]
    result = pd.DataFrame(rows, columns=columns)
    result["p_holm"] = holm(result["p"].to_numpy(float))
    return result


def _wilcoxon(difference: np.ndarray) -> tuple[float, float]:
    """p of the signed-rank test and the matched-pairs rank-biserial correlation; no difference anywhere: p = 1 and 0."""
    if len(difference) == 0:
        return math.nan, math.nan
    nonzero = difference[difference != 0]
    if len(nonzero) == 0:
        return 1.0, 0.0
    from scipy import stats

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        p = float(stats.wilcoxon(nonzero).pvalue)
    ranks = stats.rankdata(np.abs(nonzero))
    return p, float((ranks * np.sign(nonzero)).sum() / ranks.sum())


def _student_half(values: np.ndarray, confidence: float) -> float:
    """Half the width of Student's interval of a mean; of two values or more."""
    from scipy import stats

    return float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))


def _defined(values: Values) -> np.ndarray:
    array = np.asarray(values, dtype=float).ravel()
    return array[~np.isnan(array)]


def _pairs(a: Values, b: Values) -> tuple[np.ndarray, np.ndarray]:
    """Both as float arrays without the pairs that hold a NaN. Raises ConfigError where they differ in length."""
    x, y = np.asarray(a, dtype=float).ravel(), np.asarray(b, dtype=float).ravel()
    if len(x) != len(y):
        raise ConfigError(f"Paired figures need the same patients on both sides, not {len(x)} and {len(y)}.")
    both = ~(np.isnan(x) | np.isnan(y))
    return x[both], y[both]
