"""Cross-validation by patient: folds stratified by haemorrhage volume, written once and kept.

A patient never changes folds: what a network has been trained on must not turn up in its test set when cases are added later. `folds_for` reads the
file, places the new patients only, and writes it again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DAMAGED, CaseError, ConfigError, one_line
from .files import write_text

FORMAT = 1
STRATA = 3
#: More than there are patients in any cohort; a damaged file could ask for more than the memory holds.
MOST_FOLDS = 10_000


@dataclass(frozen=True)
class Folds:
    """Which patient is tested in which fold.

    count: number of folds. seed: decides between equally good folds. edges: mL, rising, between the volume strata of the patients with haemorrhage
    (patients without any are a stratum of their own). folds: patient → fold, 0 … count − 1.
    """

    count: int
    seed: int = 0
    edges: tuple[float, ...] = ()
    folds: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 2 <= self.count <= MOST_FOLDS:
            raise ConfigError(f"Cross-validation needs at least 2 folds and at most {MOST_FOLDS}, not {self.count}.")
        wrong = [patient for patient, fold in self.folds.items() if not 0 <= fold < self.count]
        if wrong:
            raise CaseError(f"Patient {wrong[0]!r} is in fold {self.folds[wrong[0]]}, but there are folds 0 to {self.count - 1} only.")

    def test_patients(self, fold: int, patients: Collection[str] | None = None) -> tuple[str, ...]:
        """Patients of `fold`, sorted; with `patients` only those of them (a table may hold fewer than the file knows)."""
        if not 0 <= fold < self.count:
            raise ConfigError(f"There is no fold {fold}: the folds are 0 to {self.count - 1}.")
        return tuple(sorted(p for p, f in self.folds.items() if f == fold and (patients is None or p in patients)))

    def training_patients(self, fold: int, patients: Collection[str] | None = None) -> tuple[str, ...]:
        """All the others, sorted."""
        held = set(self.test_patients(fold, patients))
        return tuple(sorted(p for p in self.folds if p not in held and (patients is None or p in patients)))

    def stratum(self, ml: float) -> int:
        """0 without haemorrhage, then 1, 2, … by the edges."""
        return 0 if ml <= 0 else 1 + int(np.searchsorted(self.edges, ml, side="right"))

    def with_patients(self, volumes: Mapping[str, float]) -> Folds:
        """These folds with the patients of `volumes` (patient → annotated mL) that are not in them yet.

        Each goes to the fold with the fewest patients of its stratum, then to the smallest, then to one drawn from the seed and its name; so
        new folds differ by at most one patient, overall and in every stratum, and the order of the table does not matter. Only patients that are
        in `volumes` count: of one that left the table the fold is remembered, but it takes no seat.
        """
        placed = dict(self.folds)
        per_stratum: dict[int, list[int]] = {}
        total = [0] * self.count
        for patient, fold in self.folds.items():
            if patient in volumes:
                per_stratum.setdefault(self.stratum(volumes[patient]), [0] * self.count)[fold] += 1
                total[fold] += 1
        for patient in sorted((p for p in volumes if p not in placed), key=lambda p: (volumes[p], p)):
            here = per_stratum.setdefault(self.stratum(volumes[patient]), [0] * self.count)
            draw = random.Random(f"{self.seed}:{patient}").sample(range(self.count), self.count)
            fold = min(range(self.count), key=lambda f: (here[f], total[f], draw[f]))
            placed[patient] = fold
            here[fold] += 1
            total[fold] += 1
        return Folds(self.count, self.seed, self.edges, placed)

    def write(self, path: Path | str) -> None:
        """Write folds.json at once or not at all (OutputError)."""
        content = {"format": FORMAT, "count": self.count, "seed": self.seed, "edges_ml": list(self.edges), "folds": dict(sorted(self.folds.items()))}
        write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path | str) -> Folds:
        """Read folds.json. Raises CaseError where it cannot be trusted; making new folds silently would let patients change sides."""
        path = Path(path)
        advice = "Restore it from a copy; if you delete it, patients change folds and finished runs no longer belong together."
        try:
            content: Any = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise CaseError(f"{path} has format {one_line(content['format'])}, this version reads {FORMAT}. Use the version that wrote it.")
            folds = {str(patient): int(fold) for patient, fold in content["folds"].items()}
            return cls(int(content["count"]), int(content["seed"]), tuple(float(e) for e in content["edges_ml"]), folds)
        except OSError as error:
            raise CaseError(f"{path} cannot be read: {error.strerror or error}. {advice}") from error
        except DAMAGED as error:
            raise CaseError(f"{path} is damaged. {advice}") from error


def make_folds(volumes: Mapping[str, float], count: int = 3, seed: int = 0) -> Folds:
    """New folds for patients with their annotated volumes in mL, stratified by tertiles of the volumes (fewer strata when patients are few).

    Raises ConfigError for fewer than 2 folds or more folds than patients, CaseError for a volume that is not a number.
    """
    if count < 2:
        raise ConfigError(f"Cross-validation needs at least 2 folds, not {count}.")
    _check_count(volumes, count)
    bleeding = sorted(ml for ml in volumes.values() if ml > 0)
    strata = max(1, min(STRATA, len(bleeding) // count))
    edges = tuple(float(e) for e in np.unique(np.quantile(bleeding, np.arange(1, strata) / strata))) if strata > 1 else ()
    return Folds(count, seed, edges).with_patients(volumes)


def folds_for(path: Path | str, volumes: Mapping[str, float], count: int = 3, seed: int = 0) -> Folds:
    """The folds of a cohort: those in `path` with new patients added, or new ones; written to `path` when something changed.

    The file's seed and strata stay as they are. Raises ConfigError when the file was made for another number of folds or a fold has no patient
    in the table, CaseError when the file is damaged.
    """
    path = Path(path)
    if not path.exists():
        made = make_folds(volumes, count, seed)
        made.write(path)
        return made
    kept = Folds.read(path)
    if kept.count != count:
        raise ConfigError(
            f"{path} was made for {kept.count} folds, not {count}: use {kept.count} folds or another output folder; patients would change folds."
        )
    _check_count(volumes, count)
    extended = kept.with_patients(volumes)
    empty = [fold for fold in range(count) if not extended.test_patients(fold, volumes)]
    if empty:
        raise ConfigError(f"Fold {empty[0]} of {path} has no patient in this table any more: put its cases back or use another output folder.")
    if extended != kept:
        extended.write(path)
    return extended


def split_validation(volumes: Mapping[str, float], fraction: float = 0.2, seed: int = 0) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Training and validation patients (both sorted) out of a fold's training part, for early stopping.

    volumes: patient → annotated mL. Ordered by volume they are cut into as many equal parts as validation patients are wanted, and one is drawn
    from each, so small and large haemorrhages are both validated on. At least one patient stays on either side.
    Raises ConfigError for a fraction outside 0 … 1, CaseError for fewer than two patients.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"The validation part must lie between 0 and 1, not {fraction}.")
    if len(volumes) < 2:
        raise CaseError("Early stopping needs at least 2 training patients, one of them to validate on: add patients or switch early stopping off.")
    ordered: Sequence[str] = sorted(volumes, key=lambda p: (volumes[p], p))
    wanted = min(max(1, round(fraction * len(ordered))), len(ordered) - 1)
    generator = random.Random(f"validation:{seed}")
    parts = np.array_split(np.arange(len(ordered)), wanted)
    validation = {ordered[int(generator.choice(part.tolist()))] for part in parts}
    return tuple(sorted(p for p in ordered if p not in validation)), tuple(sorted(validation))


def _check_count(volumes: Mapping[str, float], count: int) -> None:
    if count > len(volumes):
        raise ConfigError(f"{count} folds need at least {count} patients, and the table has {len(volumes)}: add patients or use fewer folds.")
    wrong = [patient for patient, ml in volumes.items() if not np.isfinite(ml) or ml < 0]
    if wrong:
        raise CaseError(f"Patient {wrong[0]!r} has a haemorrhage volume of {volumes[wrong[0]]} mL: check the mask with `sahlora cases check`.")
