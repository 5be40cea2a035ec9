"""Predicted masks of cases, in whatever way a folder holds them.

folder/CASE.nrrd                  (.nii.gz, .seg.nrrd …) and CASE_probability.nrrd: `sahlora train` and nnU-Net's output
folder/CASE/mask.nrrd             and probability.nrrd in it
folder/ANYTHING/mask.nrrd         with a report.json that names the case's scan: what `sahlora segment` writes for several inputs
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .batch import PLACE, REPORT
from .cases import Case, CaseTable
from .errors import CaseError
from .inputs import place_digest, result_report
from .layouts import IMAGE_SUFFIXES

MASK, PROBABILITY = "mask", "probability"


@dataclass(frozen=True)
class Prediction:
    """mask: the file. probability: the map of probabilities beside it, None where there is none."""

    mask: Path
    probability: Path | None = None


def find_predictions(folder: Path, cases: CaseTable) -> dict[str, Prediction]:
    """Case → its files. Raises one CaseError that names all cases without a mask, or with several, or with their annotation for one."""
    if not folder.is_dir():
        raise CaseError(f"{folder} is not a folder. Give the folder that holds the predicted masks.")
    segmented, claimed = _by_source(folder)
    found: dict[str, Prediction] = {}
    missing, doubtful = [], []
    for case in cases:
        candidates = _candidates(folder, case, segmented, claimed)
        if len(candidates) == 1:
            found[case.case] = candidates[0]
        elif candidates:
            doubtful.append(f"{case.case} ({', '.join(str(c.mask.relative_to(folder)) for c in candidates)})")
        else:
            missing.append(case.case)
    annotations = [case.case for case in cases if case.mask and case.case in found and found[case.case].mask.resolve() == case.mask.resolve()]
    if annotations:
        raise CaseError(f"The masks in {folder} are the annotations themselves ({_shown(annotations)}). Give the folder of the predicted masks.")
    if doubtful:
        raise CaseError(f"{folder} has several masks for {_shown(doubtful)}: keep one of them.")
    if missing:
        count = f"{len(missing)} of {len(missing) + len(found)} cases ({_shown(missing)})"
        name = missing[0]
        raise CaseError(f"{folder} has no mask for {count}: name them after the case, such as {name}.nii.gz or {name}/{MASK}.nrrd.")
    return found


def ways(found: Mapping[str, Prediction]) -> list[str]:
    """How the masks were made, as the reports beside them tell it: one entry for each model, adapter and threshold."""
    told = []
    for prediction in found.values():
        report = result_report(prediction.mask.parent)
        if report is not None and isinstance(model := report.get("model"), dict):
            names = [str(part["name"]) for part in (model, report.get("adapter")) if isinstance(part, dict) and "name" in part]
            told.append(f"{' with '.join(names)} at {report.get('threshold')}")
    return list(dict.fromkeys(told))


def _candidates(folder: Path, case: Case, segmented: Mapping[str, list[Path]], claimed: set[Path]) -> list[Prediction]:
    """All masks that could be this case's; of one place the first of the known file types."""
    found = []
    if mask := _image(folder, case.case):
        found.append(Prediction(mask, _image(folder, f"{case.case}_{PROBABILITY}")))
    inside = segmented.get(place_digest(case.image), [])
    if not inside and (folder / case.case) not in claimed:
        inside = [folder / case.case]  # a folder of that name which no report claims for another scan
    return found + [Prediction(mask, _image(place, PROBABILITY)) for place in inside if (mask := _image(place, MASK))]


def _by_source(folder: Path) -> tuple[Mapping[str, list[Path]], set[Path]]:
    """`place_digest` of a scan → the subfolders whose report.json says that it was segmented there; and the subfolders whose scans are there."""
    found: dict[str, list[Path]] = defaultdict(list)
    claimed = set()
    for report in sorted(folder.glob(f"*/{REPORT}")):
        try:
            told = json.loads(report.read_text(encoding="utf-8"))
            source = Path(str(told["source"]))
            found[str(told.get(PLACE) or place_digest(source))].append(report.parent)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if source.exists():
            claimed.add(report.parent)
    return found, claimed


def _image(folder: Path, name: str) -> Path | None:
    return next((path for suffix in IMAGE_SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def _shown(names: list[str]) -> str:
    return ", ".join(names[:10]) + (" …" if len(names) > 10 else "")
