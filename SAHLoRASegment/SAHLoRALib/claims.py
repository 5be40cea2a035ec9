"""The paper's five claims (Minoccheri et al., arXiv 2508.01772; METHODS.md section 1), decided from the tables of a study.

The unit is the patient with haemorrhage; figures are Dice of out-of-fold predictions. Rules, the same for any cohort:

- Two sides are compared by the differences of the same patients: Wilcoxon's signed-rank test, two-sided, corrected after Holm over the k comparisons
  of a claim, and the interval of the mean difference at 1 − 0.05/k (Bonferroni), so that neither side of a verdict profits from many tries. Each end
  is the outer one of the BCa bootstrap's and Student's t, since in small cohorts the bootstrap's alone excludes too much.
  A is BETTER than B: mean difference > 0, p < 0.05, and the ranks that the test sums run the same way (rank-biserial correlation > 0), so that a few
  great gains do not lend their sign to many small losses. A is NOT better: it is not BETTER and the interval ends below MARGIN (0.02 Dice), so that a
  gain worth having is excluded. Else it is open. With fewer than 6 patients everything is open: no p below 0.05 is possible. With fewer than 20
  nothing that rests on a mean's interval is excluded (NOT better; that CP-LoRA loses more than 0.03), however narrow it is.
- Means over methods or ranks (claims 2 and 5) are formed patient by patient before the test. No best method is picked first: that would favour the
  larger family.

1. Every fine-tuning beats none. Holds: each trained method is BETTER than zero-shot. Does not hold: one is NOT better. Undecided: else.
   Where zero-shot was also run with a threshold chosen on the same validation patients, that one is the measure: no gain is the threshold's alone.
2. Adapters beat standard fine-tuning. Holds: the mean of all adapters is BETTER than each standard strategy. Does not hold: it is NOT better than
   one. Undecided: else.
3. Dice rises with haemorrhage volume, for all methods. Holds: Spearman's rho of Dice and annotated mL is positive with p < 0.05 (Holm) for each.
   Does not hold: for one its interval (at 1 − 0.05/k, after Bonett and Wright) ends below 0.2, so that a rise worth the name is excluded.
   Undecided: else.
4. CP-LoRA is about as good as the others with far fewer parameters. The others: LoRA-C, convLoRA, DoRA-C and convDoRA, as far as they were run, each
   at the ranks that both have; each at each rank is a comparison of its own, since in a mean one rank makes up for another. Holds: in all of them
   the interval of CP-LoRA minus the other starts above −0.03, and CP-LoRA has at most half of its parameters. Does not hold: in one of them CP-LoRA
   is worse by more than 0.03 on average with p < 0.05 (Holm) and rank-biserial < 0, or has more than half of the parameters. Undecided: else; it is
   then said at which ranks a loss of 0.03 is excluded.
5. Higher ranks, even over-parameterised ones, beat strictly low ranks. Holds: (a) an adapter's ranks above its lowest and (b) its over-parameterised
   ranks (more numbers than the kernels it sits on) are BETTER than its lowest rank, mean over adapters; those whose
   lowest rank is itself over-parameterised are left out. Does not hold: (a) or (b) is NOT better. Undecided: else, also where no rank is
   over-parameterised.
   A training step grows about as learning rate × scale × √rank (`kernels`). Where the table of methods tells the first two and the product is not
   the same at all ranks, the verdict says so: it is then as much of the step as of the rank.

Only the paper's six adapters enter claims 2, 4 and 5; networks trained from scratch and variants with a label of their own enter none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .runs import ZERO_SHOT_CHOSEN
from .statistics import RESAMPLES, compare_paired, holm, outer_mean, spearman, spearman_interval

if TYPE_CHECKING:
    import pandas as pd

HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"
ALPHA = 0.05
#: Dice: the smallest gain worth having; how much worse still counts as about as good.
MARGIN, EQUIVALENCE = 0.02, 0.03
#: The weakest correlation that counts as a rise.
LEAST_RHO = 0.2
#: Of the other's parameters: far fewer.
FEWER = 0.5
FEWEST_PATIENTS = 6
#: Below this no interval of a mean excludes anything: those of small samples are too narrow.
FEWEST_TO_EXCLUDE = 20
PAPERS_ADAPTERS = ("lora-c", "conv-lora", "cp-lora", "dora-c", "conv-dora", "cp-dora")
#: What CP-LoRA is held against; CP-DoRA has the same factors.
LARGER_ADAPTERS = ("lora-c", "conv-lora", "dora-c", "conv-dora")

_TEXTS = (
    "Every fine-tuning beats none",
    "Adapters beat standard fine-tuning",
    "Dice rises with haemorrhage volume, for all methods",
    "CP-LoRA is about as good as the other adapters with far fewer parameters",
    "Higher ranks, even over-parameterised ones, beat strictly low ranks",
)


@dataclass(frozen=True)
class Claim:
    """number: as in the paper's list. verdict: HOLDS, FAILS or OPEN. figures: what it rests on. rule: what decided it, in a sentence."""

    number: int
    text: str
    verdict: str
    figures: str
    rule: str


@dataclass(frozen=True)
class Difference:
    """Dice of `name` minus Dice of `other`: mean with the outer ends of its intervals at 1 − 0.05/k; p after Holm; patients.

    rank_biserial: −1 … 1, which way the test's ranks run; the mean can run the other way.
    """

    name: str
    other: str
    mean: float
    low: float
    high: float
    p: float
    n: int
    rank_biserial: float

    @property
    def better(self) -> bool:
        return self.n >= FEWEST_PATIENTS and self.mean > 0 and self.rank_biserial > 0 and self.p < ALPHA

    @property
    def worse(self) -> bool:
        """By more than EQUIVALENCE."""
        return self.n >= FEWEST_PATIENTS and self.mean < -EQUIVALENCE and self.rank_biserial < 0 and self.p < ALPHA

    @property
    def not_better(self) -> bool:
        return self.n >= FEWEST_TO_EXCLUDE and not self.better and self.high < MARGIN

    @property
    def as_good(self) -> bool:
        """A loss of EQUIVALENCE is excluded."""
        return self.n >= FEWEST_TO_EXCLUDE and self.low > -EQUIVALENCE

    def __str__(self) -> str:
        p = "" if math.isnan(self.p) else f", p {self.p:.2g}"
        p += f", rank-biserial {self.rank_biserial:.2f}" if self.mean * self.rank_biserial < 0 else ""  # it runs against the mean
        return f"{self.name} − {self.other} {self.mean:+.3f} ({self.low:.3f} to {self.high:.3f}{p}, n = {self.n})"


def decide_claims(patients: pd.DataFrame, methods: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> list[Claim]:
    """The five claims.

    patients: a row for each patient and method: label, patient, dice, annotated_ml. methods: a row a method: label, method, kind ("none", "standard",
    "adapter", "scratch" or "variant"), rank, trainable, kernel_numbers; where known, learning_rate and scale. Rows without Dice (patients without
    haemorrhage) are left out.
    """
    known = patients.dropna(subset=["dice"])
    dice = known.pivot(index="patient", columns="label", values="dice")
    volumes = known.groupby("patient")["annotated_ml"].first()
    told = methods.set_index("label")
    told = told[told.index.isin(dice.columns) & ~told["kind"].isin(("scratch", "variant"))]
    study = _Study(dice, volumes, told, resamples, seed)
    return [study.tuning_helps(), study.adapters_win(), study.volume_counts(), study.cp_is_enough(), study.rank_helps()]


class _Study:
    """The tables and how they are compared. dice: patients × labels. volumes: patient → mL. methods: by label."""

    def __init__(self, dice: pd.DataFrame, volumes: pd.Series, methods: pd.DataFrame, resamples: int, seed: int) -> None:
        self.dice, self.volumes, self.methods, self.resamples, self.seed = dice, volumes, methods, resamples, seed

    def labels(self, kind: str, names: Sequence[str] | None = None) -> list[str]:
        chosen = self.methods[self.methods["kind"] == kind]
        return [label for label, row in chosen.iterrows() if names is None or row["method"] in names]

    def mean(self, labels: Sequence[str]) -> pd.Series:
        """Patient by patient; NaN where one is missing."""
        return self.dice[list(labels)].mean(axis=1, skipna=False)

    def against(self, columns: Mapping[str, pd.Series], other: str, reference: pd.Series, sign: int = 1) -> list[Difference]:
        """Each column minus the reference (sign −1: the reference minus each), as one family of comparisons."""
        import pandas as pd

        if not columns:
            return []
        frame = pd.DataFrame({**columns, "\x00reference": reference})
        tested = compare_paired(frame, "\x00reference", resamples=1, seed=self.seed).set_index("method")
        found = []
        for name, values in columns.items():
            gaps = (sign * (values - reference)).dropna().to_numpy(float)
            interval = outer_mean(gaps, 1 - ALPHA / len(columns), self.resamples, self.seed)
            names = (name, other) if sign > 0 else (other, name)
            p, ranks = float(tested.loc[name, "p_holm"]), sign * float(tested.loc[name, "rank_biserial"])
            found.append(Difference(*names, interval.value, interval.low, interval.high, p, interval.n, ranks))
        return found

    def tuning_helps(self) -> Claim:
        zero, trained = self.labels("none"), self.labels("standard") + self.labels("adapter")
        if not zero or not trained:
            return _claim(1, OPEN, "", "The study needs zero-shot and at least one fine-tuning.")
        none = ZERO_SHOT_CHOSEN if ZERO_SHOT_CHOSEN in zero else zero[0]
        found = self.against({label: self.dice[label] for label in trained}, none, self.dice[none])
        lead = ", ".join(f"Dice of {label} {self.dice[label].mean():.3f}" for label in zero)
        return _decide(1, found, "fine-tunings better than none", lead)

    def adapters_win(self) -> Claim:
        adapters, standard = self.labels("adapter", PAPERS_ADAPTERS), self.labels("standard")
        if not adapters or not standard:
            return _claim(2, OPEN, "", "The study needs at least one of the paper's adapters and one standard fine-tuning.")
        found = self.against({label: self.dice[label] for label in standard}, "mean of adapters", self.mean(adapters), sign=-1)
        return _decide(
            2,
            found,
            "standard strategies are beaten by the mean of the adapters",
            f"mean of {len(adapters)} adapters {self.mean(adapters).mean():.3f}",
        )

    def volume_counts(self) -> Claim:
        labels = list(self.methods.index)
        if not labels:
            return _claim(3, OPEN, "", "The study needs zero-shot, a standard fine-tuning or an adapter, and patients with haemorrhage.")
        found = []
        for label in labels:
            both = self.dice[label].dropna()
            correlation, p = spearman(self.volumes[both.index].to_numpy(float), both.to_numpy(float))
            found.append((label, correlation, p, spearman_interval(correlation.value, correlation.n, 1 - ALPHA / len(labels))[1]))
        corrected = holm([p for _, _, p, _ in found])
        enough = [correlation.n >= FEWEST_PATIENTS for _, correlation, _, _ in found]
        rises = [ok and c.value > 0 and p < ALPHA for ok, (_, c, _, _), p in zip(enough, found, corrected, strict=True)]
        flat = [ok and not up and high < LEAST_RHO for ok, up, (_, _, _, high) in zip(enough, rises, found, strict=True)]
        weakest = min(found, key=lambda row: math.inf if math.isnan(row[1].value) else row[1].value)
        figures = f"rho > 0 with p < {ALPHA} in {sum(rises)} of {len(found)} methods; weakest {weakest[0]}: rho {weakest[1]}, n = {weakest[1].n}"
        if all(rises):
            return _claim(3, HOLDS, figures, "The correlation is positive and significant after Holm in every method.")
        if any(flat):
            named = ", ".join(label for (label, *_), no in zip(found, flat, strict=True) if no)
            return _claim(3, FAILS, figures, f"A correlation of {LEAST_RHO} or more is excluded for {named}.")
        return _claim(3, OPEN, figures, "Some methods show neither a significant rise nor its absence.")

    def cp_is_enough(self) -> Claim:
        ranks = {m: {int(self.methods.loc[label, "rank"]): label for label in self.labels("adapter", (m,))} for m in ("cp-lora", *LARGER_ADAPTERS)}
        ours = ranks["cp-lora"]
        sides = [(rank, ours[rank], ranks[m][rank]) for rank in sorted(ours) for m in LARGER_ADAPTERS if rank in ranks[m]]
        if not sides:
            return _claim(4, OPEN, "", "The study needs CP-LoRA and another of the paper's adapters at the same rank.")
        found = self.pairs([(cp, self.dice[cp], other, self.dice[other]) for _, cp, other in sides])
        by_rank: dict[int, list[Difference]] = {}
        for (rank, *_), difference in zip(sides, found, strict=True):
            by_rank.setdefault(rank, []).append(difference)
        shares = {other: self.methods.loc[cp, "trainable"] / self.methods.loc[other, "trainable"] for _, cp, other in sides}
        lowest = "; ".join(str(min(at, key=lambda d: math.inf if math.isnan(d.low) else d.low)) for at in by_rank.values())
        shown = f"{len(found)} comparisons, at each rank the one whose interval starts lowest: {lowest}; "
        shown += f"CP-LoRA has {min(shares.values()):.0%} to {max(shares.values()):.0%} of their parameters"
        many = [other for other, share in shares.items() if share > FEWER]
        worse = [d for d in found if d.worse]
        if many or worse:
            why = f"It has more than {FEWER:.0%} of the parameters of {', '.join(many)}." if many else f"It is clearly worse than {worse[0].other}."
            return _claim(4, FAILS, shown, why)
        as_good = [rank for rank, at in by_rank.items() if all(d.as_good for d in at)]
        if len(as_good) == len(by_rank):
            why = f"At every rank a loss of {EQUIVALENCE} Dice is excluded against each, with at most {FEWER:.0%} of the parameters."
            return _claim(4, HOLDS, shown, why)
        left = _ranks([rank for rank in by_rank if rank not in as_good])
        why = f"A loss of {EQUIVALENCE} Dice is neither excluded against each nor shown at {left}."
        if as_good:
            why = f"A loss of {EQUIVALENCE} Dice is excluded against each at {_ranks(as_good)}; at {left} it is neither excluded nor shown."
        return _claim(4, OPEN, shown, why + _too_few(found))

    def rank_helps(self) -> Claim:
        higher, over, used = [], [], []
        for method in PAPERS_ADAPTERS:
            rows = self.methods.loc[self.labels("adapter", (method,))].sort_values("rank")
            large = list(rows.index[rows["trainable"] > rows["kernel_numbers"]])
            if len(rows) < 2 or rows.index[0] in large:  # no rank above the lowest, or no low one
                continue
            low, rest = rows.index[0], rows.iloc[1:]
            used.append(rows)
            higher.append((list(rest.index), low))
            if large:
                over.append((large, low))
        if not higher:
            return _claim(5, OPEN, "", "The study needs an adapter with at least two ranks, the lowest not over-parameterised.")
        sides = [("higher ranks", higher), *([("over-parameterised ranks", over)] if over else [])]
        compared = []
        for name, groups in sides:
            raised = sum(self.mean(rest) for rest, _ in groups) / len(groups)
            lowest = sum(self.dice[low] for _, low in groups) / len(groups)
            compared.append((name, raised, "lowest rank", lowest))
        found = self.pairs(compared)
        shown = "; ".join(str(d) for d in found)
        steps = _steps(used)
        bad = [d.name for d in found if d.not_better]
        if bad:
            return _claim(5, FAILS, shown, f"A gain of {MARGIN} Dice over the lowest rank is excluded for the {' and the '.join(bad)}.{steps}")
        if not over:
            return _claim(5, OPEN, shown, "No rank of the study is over-parameterised (more numbers than the kernels); add a larger one.")
        if all(d.better for d in found):
            return _claim(5, HOLDS, shown, f"Higher and over-parameterised ranks are both significantly better than the lowest.{steps}")
        return _claim(5, OPEN, shown, f"The gain over the lowest rank is neither significant nor excluded.{_too_few(found)}{steps}")

    def pairs(self, sides: Sequence[tuple[str, pd.Series, str, pd.Series]]) -> list[Difference]:
        """(name, values, other's name, its values): each pair compared, all together one family."""
        single = [self.against({name: values}, other, reference)[0] for name, values, other, reference in sides]
        corrected = holm([d.p for d in single])
        found = []
        for d, p, (_, values, _, reference) in zip(single, corrected, sides, strict=True):
            interval = outer_mean((values - reference).dropna().to_numpy(float), 1 - ALPHA / len(sides), self.resamples, self.seed)
            found.append(Difference(d.name, d.other, interval.value, interval.low, interval.high, float(p), d.n, d.rank_biserial))
        return found


def _decide(number: int, found: Sequence[Difference], what: str, lead: str) -> Claim:
    """All BETTER: holds; one NOT better: does not hold; else undecided."""
    better, refused = [d for d in found if d.better], [d for d in found if d.not_better]
    least = min(found, key=lambda d: math.inf if math.isnan(d.mean) else d.mean)
    figures = f"{lead}; {len(better)} of {len(found)} {what}; least gain: {least}"
    if len(better) == len(found):
        return _claim(number, HOLDS, figures, "Every comparison is significant after Holm's correction.")
    if refused:
        excluded = ", ".join(f"{d.name} over {d.other}" for d in refused)
        return _claim(number, FAILS, figures, f"A gain of {MARGIN} Dice is excluded for {excluded}.")
    return _claim(number, OPEN, figures, f"Some comparisons are neither significantly better nor is a gain excluded.{_too_few(found)}")


def _steps(adapters: Sequence[pd.DataFrame]) -> str:
    """What else than the rank went up, as a sentence to add. adapters: each one's rows of the table of methods, by rank.

    Empty where a training step is about as large at all ranks (within a tenth), or where learning rates and scales are not in the table.
    """
    if any(name not in rows for rows in adapters for name in ("learning_rate", "scale")):
        return ""
    steps = [rows["learning_rate"] * rows["scale"] * rows["rank"] ** 0.5 for rows in adapters]
    if all(step.max() <= 1.1 * step.min() for step in steps):
        return ""
    scales = {float(scale) for rows in adapters for scale in rows["scale"]}
    if len(scales) == 1 and all(rows["learning_rate"].nunique() == 1 for rows in adapters):
        how = f"This is at one learning rate of each adapter and scale {scales.pop():g} for all ranks, so that a training step grows about as √rank"
    else:
        how = "Learning rates and scales were such that a training step is not of one size at all ranks (about learning rate × scale × √rank)"
    return f" {how}: what the rank does is not told apart from what the step does."


def _ranks(ranks: Sequence[int]) -> str:
    """rank 2; ranks 2 and 16; ranks 2, 16 and 160."""
    *first, last = map(str, ranks)
    return f"ranks {', '.join(first)} and {last}" if first else f"rank {last}"


def _too_few(found: Sequence[Difference]) -> str:
    """What small cohorts leave open, as a sentence to add; empty where there are patients enough."""
    fewest = min(d.n for d in found)
    if fewest < FEWEST_PATIENTS:
        return f" No test says anything with fewer than {FEWEST_PATIENTS} patients."
    return f" No interval excludes anything with fewer than {FEWEST_TO_EXCLUDE} patients." if fewest < FEWEST_TO_EXCLUDE else ""


def _claim(number: int, verdict: str, figures: str, rule: str) -> Claim:
    return Claim(number, _TEXTS[number - 1], verdict, figures, rule)
