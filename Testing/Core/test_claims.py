"""The paper's five claims, decided on constructed tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from SAHLoRALib.claims import FAILS, HOLDS, OPEN, Claim, decide_claims
from SAHLoRALib.runs import ZERO_SHOT_CHOSEN
from SAHLoRALib.statistics import bootstrap_mean, outer_mean

PUBLISHED = Path(__file__).resolve().parents[2] / "Resources" / "Study"
PATIENTS = 24
VOLUMES = np.geomspace(1, 60, PATIENTS)
#: label → method, kind, rank, trainable, numbers of the kernels.
METHODS: dict[str, tuple[str, str, int, int, int]] = {
    "zero-shot": ("zero-shot", "none", 0, 0, 0),
    "fine-tuning all": ("all", "standard", 0, 4000, 0),
    "fine-tuning head": ("head", "standard", 0, 400, 0),
    "lora-c, rank 2": ("lora-c", "adapter", 2, 1200, 4000),
    "lora-c, rank 64": ("lora-c", "adapter", 64, 38400, 4000),
    "cp-lora, rank 2": ("cp-lora", "adapter", 2, 400, 4000),
    "cp-lora, rank 64": ("cp-lora", "adapter", 64, 12800, 4000),
}
GOOD = {
    "zero-shot": 0.40, "fine-tuning all": 0.55, "fine-tuning head": 0.50, "lora-c, rank 2": 0.58, "lora-c, rank 64": 0.68,
    "cp-lora, rank 2": 0.58, "cp-lora, rank 64": 0.68,
}  # fmt: skip


def claims(
    means: Mapping[str, float],
    patients: int = PATIENTS,
    noise: float = 0.01,
    slope: float = 0.1,
    methods: Mapping[str, tuple[str, str, int, int, int]] = METHODS,
) -> dict[int, Claim]:
    """Claims on patients whose Dice is the method's mean, a rise with volume (slope, over the whole range) and noise."""
    rng = np.random.default_rng(1)
    rise = slope * np.linspace(-0.5, 0.5, PATIENTS)
    chosen = rng.permutation(PATIENTS)[:patients]
    rows = [
        {"label": label, "patient": f"p{k}", "dice": mean + rise[k] + rng.normal(0, noise), "annotated_ml": VOLUMES[k]}
        for label, mean in means.items()
        for k in chosen
    ]
    table = [
        {"label": label, "method": m, "kind": kind, "rank": rank, "trainable": trainable, "kernel_numbers": kernels}
        for label, (m, kind, rank, trainable, kernels) in methods.items()
    ]
    return {claim.number: claim for claim in decide_claims(pd.DataFrame(rows), pd.DataFrame(table), resamples=300)}


def test_all_claims_hold_where_they_were_built_in() -> None:
    found = claims(GOOD)
    assert {number: claim.verdict for number, claim in found.items()} == dict.fromkeys(range(1, 6), HOLDS)
    assert all(claim.figures and claim.rule and claim.text for claim in found.values())


@pytest.mark.parametrize(
    ("number", "changes", "told"),
    [
        (1, {"fine-tuning head": 0.40}, "fine-tuning head over zero-shot"),
        (1, {"fine-tuning head": 0.30}, "fine-tuning head over zero-shot"),
        (2, {"fine-tuning all": 0.63}, "mean of adapters over fine-tuning all"),
        (2, {"fine-tuning all": 0.80}, "mean of adapters over fine-tuning all"),
        (4, {"cp-lora, rank 2": 0.50, "cp-lora, rank 64": 0.60}, "clearly worse than lora-c"),
        (5, {"lora-c, rank 64": 0.58, "cp-lora, rank 64": 0.58}, "higher ranks and the over-parameterised ranks"),
    ],
)
def test_a_claim_does_not_hold_where_the_figures_exclude_it(number: int, changes: dict[str, float], told: str) -> None:
    claim = claims(GOOD | changes)[number]
    assert claim.verdict == FAILS and told in claim.rule


def test_volume_does_not_count_where_dice_falls_with_it() -> None:
    assert claims(GOOD, slope=-0.1)[3].verdict == FAILS
    assert "excluded for" in claims(GOOD, slope=-0.1)[3].rule


def test_a_small_gain_in_every_patient_still_counts_as_better() -> None:
    assert claims(GOOD | {"fine-tuning head": 0.41}, noise=0.0005)[1].verdict == HOLDS


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_few_patients_and_much_noise_leave_a_claim_undecided(number: int) -> None:
    assert claims(GOOD, patients=5)[number].verdict == OPEN
    near = {"zero-shot": 0.50, "fine-tuning all": 0.52, "fine-tuning head": 0.52} | {label: 0.54 for label in GOOD if "rank" in label}
    assert claims(near, noise=0.2, slope=0.02)[number].verdict == OPEN


@pytest.mark.parametrize(
    ("number", "without", "told"),
    [
        (1, ["zero-shot"], "needs zero-shot"),
        (2, ["fine-tuning all", "fine-tuning head"], "one standard fine-tuning"),
        (4, ["cp-lora, rank 2", "cp-lora, rank 64"], "needs CP-LoRA"),
        (4, ["cp-lora, rank 2", "lora-c, rank 64"], "at the same rank"),
        (5, ["cp-lora, rank 64", "lora-c, rank 64"], "at least two ranks"),
    ],
)
def test_a_claim_without_its_methods_is_undecided_and_says_what_is_missing(number: int, without: list[str], told: str) -> None:
    claim = claims({label: mean for label, mean in GOOD.items() if label not in without})[number]
    assert claim.verdict == OPEN and told in claim.rule


def test_claim_on_ranks_needs_an_over_parameterised_one() -> None:
    methods = {label: (*row[:4], 10**6) for label, row in METHODS.items()}
    claim = claims(GOOD, methods=methods)[5]
    assert claim.verdict == OPEN and "over-parameterised" in claim.rule


def test_cp_lora_with_many_parameters_does_not_hold() -> None:
    methods = METHODS | {"cp-lora, rank 2": ("cp-lora", "adapter", 2, 1100, 4000)}
    claim = claims(GOOD, methods=methods)[4]
    assert claim.verdict == FAILS and "more than 50% of the parameters of lora-c" in claim.rule


def test_a_gain_that_is_the_thresholds_alone_does_not_count_as_fine_tunings() -> None:
    methods = METHODS | {ZERO_SHOT_CHOSEN: ("zero-shot", "none", 0, 0, 0)}
    assert claims(GOOD | {ZERO_SHOT_CHOSEN: 0.42}, methods=methods)[1].verdict == HOLDS
    claim = claims(GOOD | {ZERO_SHOT_CHOSEN: 0.50}, methods=methods)[1]
    assert claim.verdict == FAILS and f"fine-tuning head over {ZERO_SHOT_CHOSEN}" in claim.rule and "Dice of zero-shot 0." in claim.figures


def test_scratch_and_variants_enter_no_claim() -> None:
    methods = METHODS | {"from scratch": ("scratch", "scratch", 0, 9000, 0), "mine": ("cp-lora", "variant", 2, 10, 4000)}
    with_them = claims(GOOD | {"from scratch": 0.1, "mine": 0.1}, methods=methods)
    assert {n: c.verdict for n, c in with_them.items()} == dict.fromkeys(range(1, 6), HOLDS)


def test_patients_without_haemorrhage_do_not_count() -> None:
    frame = pd.DataFrame(
        [{"label": label, "patient": f"p{k}", "dice": np.nan if k == 0 else mean + 0.01 * k, "annotated_ml": float(k)}
         for label, mean in GOOD.items() for k in range(10)]
    )  # fmt: skip
    table = pd.DataFrame(
        [{"label": n, "method": m, "kind": k, "rank": r, "trainable": t, "kernel_numbers": c} for n, (m, k, r, t, c) in METHODS.items()]
    )
    first = decide_claims(frame, table, resamples=50)[0]
    assert "n = 9" in first.figures


def frames(values: Mapping[str, np.ndarray], methods: Mapping[str, tuple[str, str, int, int, int]] = METHODS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of patients and methods from the Dice of every patient: label → (patients,)."""
    rows = [
        {"label": label, "patient": f"p{k}", "dice": value, "annotated_ml": 1.0 + k} for label, dice in values.items() for k, value in enumerate(dice)
    ]
    table = [
        {"label": label, "method": m, "kind": kind, "rank": rank, "trainable": trainable, "kernel_numbers": kernels}
        for label, (m, kind, rank, trainable, kernels) in methods.items()
    ]
    return pd.DataFrame(rows), pd.DataFrame(table)


#: Thirty patients: most lose 0.01, three gain 0.4, so that the mean rises while the signed ranks fall.
FEW_GAIN = np.r_[-0.01 - 1e-4 * np.arange(27), 0.40, 0.41, 0.42]


def test_three_great_gains_do_not_make_a_method_better_that_loses_in_all_others() -> None:
    start = np.linspace(0.3, 0.5, 30)
    claim = decide_claims(*frames({"zero-shot": start, "fine-tuning all": start + FEW_GAIN}), resamples=300)[0]
    assert claim.verdict == OPEN and "+0.03" in claim.figures and "rank-biserial -0.63" in claim.figures


def test_three_great_losses_do_not_make_cp_lora_worse_that_gains_in_all_others() -> None:
    start = np.linspace(0.5, 0.6, 30)
    claim = decide_claims(*frames({"lora-c, rank 2": start, "cp-lora, rank 2": start - FEW_GAIN - 0.001}), resamples=300)[3]
    assert claim.verdict == OPEN and "-0.03" in claim.figures


def by_rank(low: np.ndarray, high: np.ndarray) -> Claim:
    """Claim 4 of thirty patients, in whom CP-LoRA gains so much over LoRA-C at rank 2 and at rank 64."""
    start = np.linspace(0.4, 0.6, 30)
    values = {"lora-c, rank 2": start, "lora-c, rank 64": start, "cp-lora, rank 2": start + low, "cp-lora, rank 64": start + high}
    return decide_claims(*frames(values), resamples=300)[3]


def test_cp_lora_must_be_as_good_at_every_rank_whatever_it_gains_at_others() -> None:
    steady, wide = 0.05 + np.tile([-0.01, 0.01], 15), np.tile([-0.1, 0.1], 15)
    assert outer_mean((steady + wide) / 2, resamples=300).low > 0  # the mean over ranks excludes a loss
    claim = by_rank(steady, wide)
    assert claim.verdict == OPEN and "excluded against each at rank 2; at rank 64" in claim.rule
    assert "cp-lora, rank 64 − lora-c, rank 64" in claim.figures
    assert by_rank(steady, steady).verdict == HOLDS
    claim = by_rank(steady, steady - 0.12)
    assert claim.verdict == FAILS and "clearly worse than lora-c, rank 64" in claim.rule


@pytest.mark.parametrize("kind", ["scratch", "variant"])
def test_a_study_of_networks_that_enter_no_claim_leaves_all_undecided(kind: str) -> None:
    found = decide_claims(*frames({"mine": np.linspace(0.2, 0.8, 9)}, {"mine": ("scratch", kind, 0, 9000, 0)}), resamples=50)
    assert [claim.verdict for claim in found] == [OPEN] * 5 and all("needs" in claim.rule for claim in found)


def test_a_study_without_haemorrhage_leaves_all_undecided() -> None:
    found = decide_claims(*frames({label: np.full(9, np.nan) for label in GOOD}), resamples=50)
    assert [claim.verdict for claim in found] == [OPEN] * 5


@pytest.mark.parametrize(
    ("number", "changes", "verdict"),
    [
        (1, {"fine-tuning head": 0.40}, FAILS),
        (2, {"fine-tuning all": 0.80}, FAILS),
        (4, {}, HOLDS),
        (5, {"lora-c, rank 64": 0.58, "cp-lora, rank 64": 0.58}, FAILS),
    ],
)
def test_fewer_than_twenty_patients_exclude_nothing(number: int, changes: dict[str, float], verdict: str) -> None:
    assert claims(GOOD | changes, patients=20)[number].verdict == verdict
    claim = claims(GOOD | changes, patients=19)[number]
    assert claim.verdict == OPEN and "fewer than 20 patients" in claim.rule


def test_a_gain_is_excluded_by_students_interval_too() -> None:
    """The bootstrap's interval ends below 0.02, Student's above it."""
    start, gaps = np.linspace(0.3, 0.5, 20), np.tile([-1.0, 1.0], 10)
    gaps *= 0.04 / (bootstrap_mean(gaps, resamples=300).high + outer_mean(gaps, resamples=300).high)
    assert bootstrap_mean(gaps, resamples=300).high < 0.02 < outer_mean(gaps, resamples=300).high
    claim = decide_claims(*frames({"zero-shot": start, "fine-tuning all": start + gaps}), resamples=300)[0]
    assert claim.verdict == OPEN and "patients" not in claim.rule


def test_ranks_of_an_adapter_that_is_over_parameterised_from_its_lowest_rank_on_do_not_count() -> None:
    """It has no low rank to be held against; what it gains from large to larger says nothing."""
    all_large = METHODS | {label: (*METHODS[label][:4], 300) for label in METHODS if "cp-lora" in label}
    claim = claims(GOOD | {"cp-lora, rank 64": 0.40}, methods=all_large)[5]
    assert claim.verdict == HOLDS and "higher ranks − lowest rank +0.099" in claim.figures
    without = {label: mean for label, mean in GOOD.items() if "lora-c" not in label}
    claim = claims(without, methods=all_large)[5]
    assert claim.verdict == OPEN and "lowest not over-parameterised" in claim.rule


@pytest.mark.parametrize(
    ("scales", "told"),
    [
        ((1.0, 1.0), "one learning rate of each adapter and scale 1 for all ranks"),
        ((1.0, 0.5), "not of one size at all ranks"),
        ((4 / 2**0.5, 4 / 64**0.5), ""),  # rsLoRA, one alpha
        ((), ""),  # an older table does not tell
    ],
)
def test_claim_on_ranks_says_where_higher_ranks_also_made_larger_steps(scales: tuple[float, ...], told: str) -> None:
    rng = np.random.default_rng(0)
    patients, methods = frames({label: mean + rng.normal(0, 0.01, 30) for label, mean in GOOD.items()})
    if scales:
        methods["learning_rate"] = methods["rank"].map({2: 1e-3, 64: 1e-3})
        methods["scale"] = methods["rank"].map(dict(zip((2, 64), scales, strict=True)))
    claim = decide_claims(patients, methods, resamples=300)[4]
    assert claim.verdict == HOLDS and told in claim.rule and ("not told apart" in claim.rule) == bool(told)


@pytest.mark.parametrize("part", ["", "longer"])
def test_published_claims_are_what_the_published_tables_give(part: str) -> None:
    """Resources/Study: verdicts of claims.csv from results.csv and methods.csv beside it; on the page the same rows."""
    folder = PUBLISHED / part
    told = pd.read_csv(folder / "claims.csv").fillna("").to_dict(orient="records")
    found = decide_claims(pd.read_csv(folder / "results.csv"), pd.read_csv(folder / "methods.csv"), seed=1)
    assert [(claim.verdict, claim.rule) for claim in found] == [(row["verdict"], row["rule"]) for row in told]
    page = (PUBLISHED / "README.md").read_text(encoding="utf-8")
    rows = ["| {number}. {text} | **{verdict}** | {figures} | {rule} |".format_map(row) for row in told]
    assert all(row in page for row in rows) or part  # the longer part's are shortened there
