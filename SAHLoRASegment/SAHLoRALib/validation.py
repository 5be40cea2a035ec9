"""How good a network is on whole cases, without going back to the scans: quick enough to be asked after every epoch.

The figures in a model's card come from `evaluation` on the scan's pixels; these here choose weights, threshold and the end of training. They are
measured on pixels about as fine as a scan's (`FINE_MM`), to which probabilities and annotation are interpolated as in segmenting: on the network's
pixels blood ends sharply, so that a high threshold costs nothing; interpolated it takes a third of a pixel off every edge and empties thin films.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.utils import parametrize

from .device import Compute
from .events import Events
from .parallel import Group
from .samples import SliceCache, padded
from .slices import normalise

#: Thresholds that are tried, in hundredths.
THRESHOLDS = tuple(round(0.20 + 0.05 * i, 2) for i in range(15))
#: Pixel of a head CT, mm (230 mm in 512 pixels), and the most pixels to which one of the network's is divided in a row.
FINE_MM, MOST_FINE = 0.45, 4
#: Mean Dice that a threshold may lose to the best one when it measures volumes better: over some thresholds Dice is flat, volume is not.
FLAT = 0.005


@dataclass(frozen=True)
class CaseScore:
    """dice, error_ml (absolute, of the volume): thresholded, one for each of THRESHOLDS; soft_dice: on probabilities. false_ml: at 0.5, outside the
    mask. true_ml: the mask's.
    """

    name: str
    dice: tuple[float, ...]
    error_ml: tuple[float, ...]
    soft_dice: float
    true_ml: float
    false_ml: float


@dataclass(frozen=True)
class Score:
    """Means over the cases with blood (NaN when there are none). dice: at 0.5. best_dice: at `threshold`, see `summary`.

    false_ml: mean over the cases without blood, NaN when there are none.
    """

    dice: float
    soft_dice: float
    threshold: float
    best_dice: float
    false_ml: float
    cases: int

    def as_dict(self) -> dict[str, float]:
        """JSON: NaN becomes None."""
        return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in asdict(self).items()}  # type: ignore[misc]


def validate(
    network: nn.Module,
    cache: SliceCache,
    compute: Compute,
    *,
    batch: int = 8,
    group: Group | None = None,
    events: Events | None = None,
) -> tuple[Score, list[CaseScore]]:
    """Dice of every case; `network` is in evaluation mode. Several processes share the cases."""
    group = group or Group()
    events = events or Events()
    sums = torch.zeros(len(cache.cases), 5 + 3 * len(THRESHOLDS), dtype=torch.float64)
    with torch.inference_mode(), parametrize.cached():
        for number in range(group.rank, len(cache.cases), group.size):
            if group.size == 1:
                events.check_cancel()
            sums[number] = _case_sums(network, cache, number, compute, batch)
    if group.size > 1:
        sums = group.add(sums.to(compute.device)).cpu()
    scores = [_case_score(case.name, row) for case, row in zip(cache.cases, sums, strict=True)]
    return summary(scores), scores


def summary(scores: list[CaseScore]) -> Score:
    """The means; threshold: see `best_threshold`."""
    bleeding = [s for s in scores if s.true_ml > 0]
    clean = [s.false_ml for s in scores if s.true_ml == 0]
    best = best_threshold([s.dice for s in scores], [s.error_ml for s in scores], [s.true_ml for s in scores])
    means = [_mean([s.dice[t] for s in bleeding]) for t in (THRESHOLDS.index(0.5), THRESHOLDS.index(best))]
    return Score(means[0], _mean([s.soft_dice for s in bleeding]), best, means[1], _mean(clean), len(scores))


def best_threshold(dice: Sequence[Sequence[float]], error_ml: Sequence[Sequence[float]], true_ml: Sequence[float]) -> float:
    """dice, error_ml: of each case, at each of THRESHOLDS; true_ml: of each case. Of the thresholds whose mean Dice over the cases with blood comes
    within FLAT of the best the one that measures volumes best: with the least sum of the median errors over the cases with blood and over those
    without, where all is false; among equally good ones the nearest to 0.5, which it is too where no case has blood.
    """
    bleeding = [d for d, ml in zip(dice, true_ml, strict=True) if ml > 0]
    if not bleeding:
        return 0.5
    means = [_mean(at) for at in zip(*bleeding, strict=True)]
    groups = ([e for e, ml in zip(error_ml, true_ml, strict=True) if (ml > 0) == bleeds] for bleeds in (True, False))
    medians = [[median(at) for at in zip(*group, strict=True)] for group in groups if group]
    errors = [sum(at) for at in zip(*medians, strict=True)]
    good = [t for t in range(len(THRESHOLDS)) if means[t] >= max(means) - FLAT]
    return THRESHOLDS[min(good, key=lambda t: (errors[t], abs(t - THRESHOLDS.index(0.5))))]


def _case_sums(network: nn.Module, cache: SliceCache, number: int, compute: Compute, batch: int) -> Tensor:
    """[true mL, false mL, Σpg, Σp, Σg, then for each threshold overlap, predicted pixels, predicted mL]."""
    case = cache.cases[number]
    half = THRESHOLDS.index(0.5)
    result = torch.zeros(5 + 3 * len(THRESHOLDS), dtype=torch.float64)
    rows, columns = case.hu.shape[1:]
    finer = min(MOST_FINE, max(1, round(cache.grid.pixel_mm / FINE_MM)))
    for start in range(0, len(case.hu), batch):
        part = slice(start, start + batch)
        image = normalise(padded(case.hu[part], cache.grid.multiple), cache.grid.window).to(compute.device)
        with compute.autocast():
            logits = network(image.contiguous(memory_format=torch.channels_last))
        p = _finer(torch.sigmoid(logits[:, 0, :rows, :columns].float()), finer)
        g = _finer(case.blood[part].to(compute.device).float() / 255, finer) >= 0.5
        ml = case.pixel_ml[part].float().to(compute.device) / finer**2
        sums = [(g.sum(dim=(1, 2)) * ml).sum(), ((p > THRESHOLDS[half]) & ~g).sum(dim=(1, 2)).mul(ml).sum(), p[g].sum(), p.sum(), g.sum()]
        for threshold in THRESHOLDS:
            m = p > threshold
            sums += [(m & g).sum(), m.sum(), (m.sum(dim=(1, 2)) * ml).sum()]
        result += torch.stack([s.float() for s in sums]).cpu().double()
    return result


def _finer(planes: Tensor, times: int) -> Tensor:
    """(n, H, W) → (n, times · H, times · W), bilinear as `slices.from_network`."""
    return planes if times == 1 else interpolate(planes[:, None], scale_factor=times, mode="bilinear", align_corners=False)[:, 0]


def _case_score(name: str, sums: Tensor) -> CaseScore:
    true_ml, false_ml, overlap, predicted, annotated, *counts = sums.tolist()
    by_threshold = list(zip(counts[::3], counts[1::3], counts[2::3], strict=True))
    dice = tuple(_dice(overlap_at, predicted_at, annotated) for overlap_at, predicted_at, _ in by_threshold)
    error_ml = tuple(abs(ml - true_ml) for *_, ml in by_threshold)
    return CaseScore(name, dice, error_ml, _dice(overlap, predicted, annotated), true_ml, false_ml)


def _dice(overlap: float, predicted: float, annotated: float) -> float:
    return 2 * overlap / (predicted + annotated) if predicted + annotated else 1.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
