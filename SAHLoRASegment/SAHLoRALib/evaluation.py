"""Predicted masks against a case table: by scan, by patient, by volume stratum.

The unit is the patient. Several scans of one patient are pooled: their mL are added up before Dice, soft Dice, precision and recall are formed, so
that a scan does not count more for having smaller voxels; HD95, surface Dice and all volumes are means over the patient's scans (a haemorrhage is not
larger for being scanned twice). Patients without haemorrhage have no Dice; they are a stratum of their own and count with the mL that were drawn
there by mistake.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .cases import Case, CaseTable, label_values, read_annotation, require_complete
from .ct import CTVolume
from .errors import CaseError, ConfigError, SAHLoRAError, ScanError
from .events import Events
from .files import replacing
from .images import open_image
from .metrics import case_metrics
from .predictions import find_predictions, ways
from .statistics import RESAMPLES, bland_altman, bootstrap_mean, icc
from .volume import volume_from_image

if TYPE_CHECKING:
    import pandas as pd

ALL = "all"
WITHOUT = "without haemorrhage"
#: Measures of overlap and distance: not defined for a patient without haemorrhage.
AGREEMENT = ("dice", "soft_dice", "precision", "recall", "hd95_mm", "surface_dice", "relative_error")
VOLUMES = ("annotated_ml", "predicted_ml", "error_ml", "absolute_error_ml", "false_positive_ml", "false_negative_ml")
#: Sums of a scan in voxels → the same in mL.
_SUMS = {"annotated_voxels": "annotated_ml", "predicted_voxels": "predicted_ml", "overlap_voxels": "overlap_ml"}
_SOFT_SUMS = {"soft_overlap": "soft_overlap_ml", "soft_total": "soft_total_ml"}


@dataclass(frozen=True)
class Evaluation:
    """What came out. cases: a row a scan; patients: a row a patient with its stratum; summary: a row for each stratum and measure (mean with
    bootstrap interval); agreement: a row a stratum, ICC and Bland–Altman of the volumes. edges: mL between the strata.
    """

    cases: pd.DataFrame
    patients: pd.DataFrame
    summary: pd.DataFrame
    agreement: pd.DataFrame
    edges: tuple[float, ...]

    def write(self, folder: Path | str) -> list[Path]:
        """Write cases.csv, patients.csv, summary.csv and agreement.csv, prefixed evaluation_, each at once or not at all (OutputError)."""
        written = []
        for name in ("cases", "patients", "summary", "agreement"):
            path = Path(folder) / f"evaluation_{name}.csv"
            with replacing(path) as temporary:
                getattr(self, name).to_csv(temporary, index=False, float_format="%.6g", encoding="utf-8")
            written.append(path)
        return written

    @property
    def counts(self) -> dict[str, int]:
        """Stratum → its patients, in the summary's order."""
        numbers = self.patients["stratum"].value_counts()
        return {name: len(self.patients) if name == ALL else int(numbers.get(name, 0)) for name in dict.fromkeys(self.summary["stratum"])}

    def value(self, measure: str, stratum: str = ALL) -> float:
        """Mean of a measure over a stratum's patients, NaN where there is none."""
        row = self.summary[(self.summary["measure"] == measure) & (self.summary["stratum"] == stratum)]
        return float(row["mean"].iloc[0]) if len(row) else math.nan


def evaluate(
    predictions: Path | str,
    cases: CaseTable,
    output: Path | str | None = None,
    *,
    edges: Sequence[float] | None = None,
    segment: str | None = None,
    events: Events | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Compare a folder of masks with the annotations of a case table.

    predictions: a folder with a mask for every case, as `predictions` finds it, and, where soft Dice is wanted, with maps of probabilities.
    segment: which segment or label of the predicted masks counts, where they hold several. output: folder for the CSV files.
    edges: mL between the strata; tertiles of the annotated volumes without it.
    All missing and unreadable files are named in one CaseError before anything is written. Raises Cancelled between two cases.
    """
    predictions, events = Path(predictions), events or Events()
    check_edges(edges)
    found = find_predictions(predictions, cases)
    if len(made := ways(found)) > 1:
        events.log(f"The masks in {predictions} were not all made in one way ({'; '.join(made)}): the figures are of no single model.", "warning")
    rows, problems = [], []
    for done, case in enumerate(cases):
        events.check_cancel()
        events.progress("Evaluating", done, len(cases), case.case)
        try:
            rows.append(evaluate_case(case, found[case.case].mask, found[case.case].probability, segment))
        except SAHLoRAError as error:
            problems.append(str(error))
    events.progress("Evaluating", len(cases), len(cases))
    if problems:
        raise CaseError(f"{len(problems)} of {len(cases)} cases cannot be evaluated:\n" + "\n".join(f"  {p}" for p in problems))
    if segment and not any(row["predicted_voxels"] for row in rows):
        _require_label(segment, predictions, [prediction.mask for prediction in found.values()])
    result = summarise(rows, edges=edges, resamples=resamples, seed=seed)
    if output is not None:
        result.write(output)
    return result


def _require_label(segment: str, folder: Path, masks: Sequence[Path]) -> None:
    """Raise CaseError where masks hold labels but none of them the one that was asked for: a wrong label, not a network that finds nothing."""
    there = sorted({value for mask in masks for value in label_values(mask) or ()})
    if there and not any(f"{value:g}" in segment.split("|") for value in there):
        shown = ", ".join(f"{value:g}" for value in there[:8])
        raise CaseError(f"No mask in {folder} has a voxel of {segment}, but of {shown}: give one of these with --prediction-segment.")


def evaluate_case(case: Case, prediction: Path, probability: Path | None = None, segment: str | None = None) -> dict[str, Any]:
    """`case_metrics` of one mask file (and probability file), with case, patient and site. Errors name the case."""
    ct, reference = case.read()
    try:
        mask = read_annotation(prediction, ct, segment, "with --prediction-segment")
        values = None if probability is None else read_probability(probability, ct)
        return {**labels_of(case), **case_metrics(mask, values, reference, ct)}
    except SAHLoRAError as error:
        raise type(error)(f"Case {case.case}: {error}") from error


def labels_of(case: Case) -> dict[str, str]:
    """The columns that tell rows apart."""
    return {"case": case.case, "patient": case.patient, "site": case.site}


def read_probability(path: Path, ct: CTVolume) -> np.ndarray:
    """A probability map on the scan's grid: (slices, rows, columns) float32 in [0, 1], canonical order. Raises CaseError."""
    require_complete(path)
    try:
        found = volume_from_image(open_image(path, CaseError), str(path)).hu
    except ScanError as error:
        raise CaseError(str(error)) from error
    if found.shape != ct.hu.shape:
        raise CaseError(f"{path} does not lie on the grid of the scan {ct.source}: give the probabilities of this very scan.")
    if not np.isfinite(found).all() or found.min() < -1e-3 or found.max() > 1 + 1e-3:
        raise CaseError(f"{path} does not hold probabilities from 0 to 1.")
    return found.clip(0.0, 1.0)


def summarise(
    rows: Sequence[Mapping[str, Any]],
    *,
    edges: Sequence[float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """An Evaluation from rows of `case_metrics`, each with case and patient. Raises CaseError without rows, ConfigError for edges."""
    import pandas as pd

    if not rows:
        raise CaseError("There is nothing to evaluate: the case table is empty.")
    cases = pd.DataFrame([dict(row) for row in rows])
    patients = pool_patients(cases)
    bounds = tuple(float(e) for e in edges) if edges is not None else tertiles(patients["annotated_ml"])
    check_edges(bounds)
    patients.insert(1, "stratum", [stratum_name(ml, bounds) for ml in patients["annotated_ml"]])
    means, agreement = [], []
    for name in strata_names(bounds, bool((patients["stratum"] == WITHOUT).any())):
        part = patients if name == ALL else patients[patients["stratum"] == name]
        for measure in (*AGREEMENT, *VOLUMES):
            values = part[measure].to_numpy(float)
            known = values[~np.isnan(values)]
            mean = bootstrap_mean(values, resamples=resamples, seed=seed)
            sd = float(known.std(ddof=1)) if len(known) > 1 else math.nan
            median = float(np.median(known)) if len(known) else math.nan
            means.append((name, measure, mean.n, mean.value, mean.low, mean.high, sd, median))
        agreement.append((name, *_agreement(part)))
    return Evaluation(
        cases,
        patients,
        pd.DataFrame(means, columns=["stratum", "measure", "n", "mean", "low", "high", "sd", "median"]),
        pd.DataFrame(
            agreement, columns=["stratum", "n", "icc", "icc_low", "icc_high", "bias_ml", "bias_low", "bias_high", "limit_low", "limit_high"]
        ),
        bounds,
    )


def differences(
    after: Evaluation, before: Evaluation, measures: Sequence[str] = ("dice",), resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """after − before, each patient against himself: a row for each stratum and measure, with n, mean with its bootstrap interval, and median.

    Both are of the same cases. Patients in whom a measure is not defined on one of the two sides are left out of it.
    """
    import pandas as pd

    a, b = after.patients.set_index("patient"), before.patients.set_index("patient")
    rows = []
    for name in after.counts:
        part = a if name == ALL else a[a["stratum"] == name]
        for measure in measures:
            gaps = (part[measure] - b[measure].reindex(part.index)).dropna().to_numpy(float)
            mean = bootstrap_mean(gaps, resamples=resamples, seed=seed)
            rows.append((name, measure, mean.n, mean.value, mean.low, mean.high, float(np.median(gaps)) if mean.n else math.nan))
    return pd.DataFrame(rows, columns=["stratum", "measure", "n", "mean", "low", "high", "median"])


def pool_patients(cases: pd.DataFrame) -> pd.DataFrame:
    """One row a patient from one row a scan, in the order in which patients first appear; how is said on top of this file.

    Soft Dice needs probabilities for all scans of the patient, else it is NaN. Rows of an older version lack its sums in mL: those of its voxels are
    taken. Columns: patient, scans, then AGREEMENT and VOLUMES.
    """
    import pandas as pd

    grouped = cases.groupby("patient", sort=False)
    scans = grouped.size()
    sums = _summed(cases, _SUMS).join(_summed(cases, _SOFT_SUMS))
    sums.loc[grouped["soft_total"].count() < scans, list(_SOFT_SUMS)] = math.nan
    means = grouped[["hd95_mm", "surface_dice", *VOLUMES]].mean()  # of the scans where they are defined
    none = sums["annotated_voxels"] == 0
    pooled = pd.DataFrame(index=sums.index)
    pooled["scans"] = scans
    pooled["dice"] = _quotient(2 * sums["overlap_voxels"], sums["annotated_voxels"] + sums["predicted_voxels"])
    pooled["soft_dice"] = _quotient(2 * sums["soft_overlap"], sums["soft_total"])
    pooled["precision"] = _quotient(sums["overlap_voxels"], sums["predicted_voxels"])
    pooled["recall"] = _quotient(sums["overlap_voxels"], sums["annotated_voxels"])
    pooled["hd95_mm"], pooled["surface_dice"] = means["hd95_mm"], means["surface_dice"]
    pooled["relative_error"] = _quotient(means["absolute_error_ml"], means["annotated_ml"])
    pooled.loc[none, list(AGREEMENT)] = math.nan
    return pooled.join(means[list(VOLUMES)]).reset_index()


def _summed(cases: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """(patients, names): sums over the scans of each patient, in mL where there are several scans and all rows have them, else in voxels.

    One patient's sums are all of one unit, so that their quotients are right either way.
    """
    voxels = cases.groupby("patient", sort=False)[list(names)].sum(min_count=1).astype(float)
    measured = cases.reindex(columns=list(names.values())).set_axis(list(names), axis=1).groupby(cases["patient"], sort=False)
    several = (measured.size() > 1) & measured.count().eq(measured.size(), axis=0).all(axis=1)
    voxels.loc[several] = measured.sum().loc[several]
    return voxels


def fewer(n: int | None, of: int | None) -> str:
    """What stands behind a figure of another number of patients than its column says: ", n 24"; empty where it is the same or not known."""
    return "" if n is None or of is None or n == of else f", n {n}"


def tertiles(volumes: Sequence[float] | pd.Series) -> tuple[float, ...]:
    """mL that cut the volumes above 0 into thirds; fewer edges where volumes are equal or fewer than three."""
    bleeding = sorted({float(ml) for ml in volumes if ml > 0})
    if len(bleeding) < 3:
        return ()
    return tuple(sorted({float(edge) for edge in np.quantile([float(ml) for ml in volumes if ml > 0], [1 / 3, 2 / 3])}))


def check_edges(edges: Sequence[float] | None) -> None:
    """Raise ConfigError unless the edges are positive mL that rise."""
    if edges is not None and any(not math.isfinite(b) or b <= a for a, b in zip((0.0, *edges), edges, strict=False)):
        raise ConfigError(f"The edges of volume strata must be positive and rise, not {', '.join(f'{e:g}' for e in edges)} mL.")


def stratum_name(ml: float, edges: Sequence[float]) -> str:
    """The stratum of a patient with `ml` annotated: an edge belongs to the stratum above it."""
    if ml <= 0:
        return WITHOUT
    return _names(edges)[int(np.searchsorted(edges, ml, side="right"))]


def strata_names(edges: Sequence[float], without: bool = False) -> list[str]:
    """all, the volume strata from small to large (only where there are edges), and at the end, where wanted, without haemorrhage."""
    return [ALL, *(_names(edges) if len(edges) else ()), *([WITHOUT] if without else ())]


def _names(edges: Sequence[float]) -> list[str]:
    shown = [f"{edge:.3g}" for edge in edges]
    if len(set(shown)) < len(shown):
        shown = [repr(float(edge)) for edge in edges]
    if not shown:
        return ["> 0 mL"]
    between = [f"{a}–{b} mL" for a, b in itertools.pairwise(shown)]
    return [f"< {shown[0]} mL", *between, f"≥ {shown[-1]} mL"]


def _agreement(part: pd.DataFrame) -> tuple[float, ...]:
    """n, ICC with interval, bias with interval, limits, of predicted against annotated mL."""
    annotated, predicted = part["annotated_ml"].to_numpy(float), part["predicted_ml"].to_numpy(float)
    same, apart = icc(annotated, predicted), bland_altman(annotated, predicted)
    return same.n, same.value, same.low, same.high, apart.bias.value, apart.bias.low, apart.bias.high, apart.lower, apart.upper


def _quotient(part: pd.Series, whole: pd.Series) -> pd.Series:
    """part / whole, NaN where whole is 0."""
    return (part / whole.where(whole != 0)).astype(float)
