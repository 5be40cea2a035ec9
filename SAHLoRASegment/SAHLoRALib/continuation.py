"""Going on from an adapter with more cases: where the training of each fold starts, so that nothing is measured on patients whom it has learnt from.

The adapter itself has learnt from all cases of its training. So each fold of the new cross-validation starts from the adapter that the former
cross-validation made for that very fold, and the folds are kept: no patient changes sides. The patients who chose a fold's weights and threshold
choose them again, with some of the new ones, as the fold's adapter has learnt from all others. Only the last training, on all cases, starts from the
adapter itself. An adapter that came along has learnt from synthetic scans alone, so every fold starts from it too. Where the former run's folder of
another is not at hand the folds start from the base, and the user is told so. The same goes for a fold whose adapter has used a scan that is to be
tested, as it may when cases or patients were given other names or were put together in between.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .cases import CaseTable
from .errors import DAMAGED, ConfigError, ModelError
from .events import Events
from .folds import Folds
from .model_folders import is_bundled
from .runs import MODEL, RESULT
from .weights import ModelInfo, read_info

FOLDS = "folds.json"
RUNS = "runs"
#: In the header of an adapter's training: the digests of the runs of its cross-validation, in the order of the folds.
FOLD_RUNS = "fold_runs"


@dataclass(frozen=True)
class Continuation:
    """adapter: what the training on all cases starts from. starts: fold → adapter that has not seen the fold's patients; empty where the folds start
    from the base. folds: of the former run, None where it is not known. held: fold → validation cases of its adapter; empty where one is not known.
    scans: fold → digests of the scans that its adapter has used; a fold is missing where an older version made it. synthetic: the adapter has seen no
    patient at all, so every fold starts from it.
    """

    adapter: ModelInfo
    starts: Mapping[int, ModelInfo] = field(default_factory=dict)
    folds: Folds | None = None
    held: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    scans: Mapping[int, frozenset[str]] = field(default_factory=dict)
    synthetic: bool = False

    def for_folds(self, count: int) -> Continuation:
        """The same for so many folds: of an adapter that has seen no patient each fold gets its start."""
        if not self.synthetic:
            return self
        return replace(self, starts=dict.fromkeys(range(count), self.adapter), scans=dict.fromkeys(range(count), frozenset()))

    def keep_folds(self, path: Path) -> None:
        """Write the former folds to `path`, or hold the folds that are there against them. Raises ConfigError where a patient would change sides."""
        if self.folds is None:
            return
        if not path.exists():
            self.folds.write(path)
            return
        here = Folds.read(path)
        moved = [patient for patient, fold in self.folds.folds.items() if here.folds.get(patient, fold) != fold]
        if moved or here.count != self.folds.count:
            what = f"puts {len(moved)} patients into other folds" if moved else f"has {here.count} folds, not {self.folds.count},"
            raise ConfigError(f"{path} {what} than the training of {self.adapter.name} did; choose another run folder.")

    def count(self, asked: int | None) -> int | None:
        """The number of folds: that of the former run where none is asked for or it is known. Raises ConfigError where another is asked for."""
        if self.folds is None or asked is None or asked == self.folds.count:
            return self.folds.count if self.folds else asked
        raise ConfigError(
            f"The training of {self.adapter.name} was made for {self.folds.count} folds, not {asked}, and no patient may change sides: "
            "leave --folds out."
        )

    def without_known(self, folds: Folds, table: CaseTable, scans: Mapping[str, str], events: Events) -> Continuation:
        """The same, but from the base for each fold whose adapter has used a scan that the fold tests, which is told. scans: case → digest."""
        if self.starts.keys() - self.scans.keys():
            events.log(
                f"The former run of {self.adapter.name}, of an earlier version, does not tell which scans it has used: whether a fold's adapter "
                "knows a case that is to be tested can be looked at by name only, not by scan.",
                "warning",
            )
        tested = {fold: {scans[case.case] for case in table.of_patients(folds.test_patients(fold))} for fold in self.scans}
        known = {fold: both for fold, used in self.scans.items() if (both := used & tested[fold])}
        if not known:
            return self
        shown, count = ", ".join(str(fold + 1) for fold in sorted(known)), sum(len(both) for both in known.values())
        events.log(
            f"{count} cases are to be tested whose scans the training of {self.adapter.name} has used in the same fold, under other names of cases "
            f"or patients, so these folds start from the base: {shown}.",
            "warning",
        )
        starts = {fold: start for fold, start in self.starts.items() if fold not in known}
        return replace(self, starts=starts, held={fold: names for fold, names in self.held.items() if fold not in known})


def continue_from(adapter: ModelInfo, folder: Path, events: Events, *, named: bool = False) -> Continuation:
    """Look for the adapters of the former folds in `folder`, the run folder of the adapter's training.

    named: the user named this folder, so it is an error when it is another run's. Raises ConfigError, ModelError (damaged files), CaseError (folds).
    """
    starts, why = _fold_adapters(adapter, folder)
    if not why and (folder / FOLDS).is_file():
        told = {fold: _result(info) for fold, info in starts.items()}
        return Continuation(adapter, starts, Folds.read(folder / FOLDS), _validation_cases(told), _scans(told))
    why = why or f"{folder} holds no {FOLDS}"
    if named:
        raise ConfigError(f"The folds cannot go on from the training of {adapter.name}: {why}. Name its run folder, or leave it out.")
    if is_bundled(adapter.path):
        events.log(f"All folds start from {adapter.name}, which came along and has learnt from synthetic scans alone, from none of these patients.")
        return Continuation(adapter, synthetic=True)
    events.log(
        f"The folds start from the base and only the final adapter from {adapter.name}: {why}. So the figures of the cross-validation are those of "
        "adapters that begin anew.",
        "warning",
    )
    return Continuation(adapter)


def _fold_adapters(adapter: ModelInfo, folder: Path) -> tuple[dict[int, ModelInfo], str]:
    """fold → adapter, or why there are none."""
    digests = adapter.training.get(FOLD_RUNS)
    if not isinstance(digests, list) or not digests or not all(re.fullmatch("[0-9a-f]{64}", str(digest)) for digest in digests):
        return {}, "its header names no folds, as it was trained without cross-validation"
    starts = {}
    for fold, digest in enumerate(digests):
        found = sorted((folder / RUNS).glob(f"*-{digest[:10]}/{MODEL}"))
        if not found:
            return {}, f"fold {fold + 1} of its training is not in {folder}"
        info = read_info(found[0])
        if (info.adapter, info.base_digest) != (adapter.adapter, adapter.base_digest):
            raise ModelError(f"{found[0]} is not the adapter of a fold of {adapter.name}; restore {folder} from a copy, or leave it out.")
        starts[fold] = info
    return starts, ""


def _result(adapter: ModelInfo) -> dict[str, Any]:
    """What the result beside a fold's adapter says; nothing where it cannot be read."""
    try:
        return dict(json.loads(adapter.path.with_name(RESULT).read_text(encoding="utf-8")))
    except (OSError, *DAMAGED):
        return {}


def _validation_cases(results: Mapping[int, Mapping[str, Any]]) -> dict[int, tuple[str, ...]]:
    """fold → validation cases; nothing where one result does not tell them."""
    told = {fold: result.get("validated_on") for fold, result in results.items()}
    held = {fold: tuple(str(name) for name in names) for fold, names in told.items() if isinstance(names, list)}
    return held if len(held) == len(told) else {}


def _scans(results: Mapping[int, Mapping[str, Any]]) -> dict[int, frozenset[str]]:
    """fold → digests of the scans that were used, of the folds whose results tell them."""
    told = {fold: result.get("scans") for fold, result in results.items()}
    return {fold: frozenset(str(scan) for scan in scans) for fold, scans in told.items() if isinstance(scans, list)}
