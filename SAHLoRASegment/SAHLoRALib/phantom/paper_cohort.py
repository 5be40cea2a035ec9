"""The cohort of the paper's experiment: TBI patients of one hospital, aSAH patients of another, on different heads and different scanners.

The paper had 124 TBI and 30 aSAH patients (arXiv 2508.01772); their data are private. What its transfer learning lives from is made here: blood of
another shape, place and density (`lesions`), and other scanners at the second hospital (`HOSPITALS`). Patients with aSAH are drawn by strata of the
annotated volume, from under 1 mL to over 60 mL (`STRATA`); no head serves both sides. folds.json beside the aSAH cases keeps all patients of one
head in one fold, so that a cross-validation tests on heads that it has not seen.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from .. import __version__
from ..errors import ConfigError
from ..events import Events
from ..files import write_text
from ..folds import Folds
from .case import make_case
from .cohort import PlannedCase, Writing, check_writing, chosen_heads, generator_digest, head_of, in_processes, read_note, volume_ml, write_cases
from .fields import Rng
from .scanner import ScannerConfig, draw_scanner

#: Patients of the paper.
TBI, ASAH = 124, 30
#: Of the heads, how many serve TBI: 11 of 20, the heads that the bundled base was trained on.
_TBI_HEADS = 0.55
#: Upper ends of the volume strata in mL, and the share of the aSAH patients in each; the last is open.
STRATA = ((1.0, 0.14), (4.0, 0.22), (10.0, 0.21), (25.0, 0.2), (60.0, 0.16), (float("inf"), 0.07))
#: A trial scan is coarser in the plane than the case will be, so it must lie this far inside its stratum.
_MARGIN = 1.12
#: Less than this cannot be annotated; such a case is made anew from another seed.
LEAST_ML = 0.1
_TRIALS_A_CASE = 60
_TRIAL_MATRIX = 96


@dataclass(frozen=True)
class Machine:
    """A scanner with its habits. thickness_mm: of slices, one is drawn. tilt_degrees, blur_mm (σ), noise_hu: from, to. offset_hu: its calibration.
    uneven: thinner slices below, as incremental scanners make them.
    """

    name: str
    thickness_mm: tuple[float, ...]
    tilt_degrees: tuple[float, float]
    blur_mm: tuple[float, float]
    noise_hu: tuple[float, float]
    offset_hu: float
    uneven: bool = False


#: A: the trauma centre, thick slices and soft kernels. B: the second hospital, thinner slices, sharper kernels, more noise, brighter by some HU.
HOSPITALS: dict[str, tuple[Machine, ...]] = {
    "A": (
        Machine("A1", (5.0,), (5.0, 25.0), (0.6, 0.9), (2.0, 3.5), 0.0, uneven=True),
        Machine("A2", (5.0, 5.0, 3.0), (0.0, 0.0), (0.5, 0.8), (2.5, 4.5), -1.0),
        Machine("A3", (3.0, 2.0, 5.0), (-3.0, 10.0), (0.45, 0.7), (3.0, 5.0), 1.0),
    ),
    "B": (
        Machine("B1", (1.0, 2.0), (0.0, 0.0), (0.35, 0.5), (4.5, 7.0), 3.0),
        Machine("B2", (3.0,), (0.0, 0.0), (0.4, 0.6), (3.5, 5.5), 1.5),
        Machine("B3", (5.0, 4.0), (-5.0, 20.0), (0.45, 0.6), (3.0, 5.0), 2.0),
    ),
}


@dataclass(frozen=True)
class PaperCohort:
    """heads: folder of at least four label maps. share: of the paper's patients, or tbi and asah: how many instead. The rest as in PhantomConfig."""

    output: Path
    heads: Path | None
    seed: int = 0
    share: float = 1.0
    tbi: int | None = None
    asah: int | None = None
    folds: int = 3
    format: str = "nrrd"
    matrix: int = 512
    slices: int | None = None
    jobs: int = 1

    def __post_init__(self) -> None:
        check_writing(self.format, self.matrix, self.slices, self.jobs)
        if self.heads is None:
            raise ConfigError("The paper's cohort needs several anatomies, so that TBI and aSAH never share one; name their folder with --heads.")
        if not 0 < self.share <= 10:
            raise ConfigError(f"share is a part of the paper's {TBI} and {ASAH} patients above 0, at most 10, not {self.share}.")
        if self.seed < 0 or min(self.counts) < 0 or max(self.counts) < 1:
            raise ConfigError("seed, tbi and asah must be at least 0, and there must be a patient to make.")

    @property
    def counts(self) -> tuple[int, int]:
        """Patients with TBI and with aSAH."""
        return tuple(max(1, round(self.share * n)) if given is None else given for n, given in ((TBI, self.tbi), (ASAH, self.asah)))  # type: ignore[return-value]


def make_paper_cohort(config: PaperCohort, events: Events | None = None) -> Path:
    """Make the cohort; returns the path of its summary, volumes.md.

    output gets tbi/ and asah/ (cases with cases.csv each), asah/folds.json, volumes.csv with all patients. What is there already is kept.
    Raises ConfigError, ScanError (heads), OutputError, Cancelled.
    """
    events = events or Events()
    trauma, second = split_heads(chosen_heads(config.heads))
    tbi, asah = config.counts
    planned = {
        "tbi": [_planned(config, "tbi", "A", n, trauma[n % len(trauma)]) for n in range(tbi)],
        "asah": _stratified(config, second, asah, events),
    }
    rows = []
    for side, cases in planned.items():
        if not cases:
            continue
        writing = Writing(config.output / side, config.format, config.matrix, config.slices)
        table = write_cases(cases, writing, config.jobs, events)
        while few := [n for n, case in enumerate(cases) if _ml(writing, case) < LEAST_ML]:
            events.log(f"{len(few)} cases show less than {LEAST_ML} mL on their slices; they are made anew from other seeds.")
            cases = [_again(case) if n in few else case for n, case in enumerate(cases)]
            table = write_cases(cases, writing, config.jobs, events)
        rows += [_row(side, case, writing) for case in cases]
        if side == "asah" and len({case.head for case in cases}) >= config.folds:
            folds_by_head({c.name: c.head_name for c in cases}, {c.name: _ml(writing, c) for c in cases}, config.folds, config.seed).write(
                table.with_name("folds.json")
            )
    return _summarise(config, rows)


def split_heads(heads: Sequence[Path | None]) -> tuple[list[Path | None], list[Path | None]]:
    """Heads of the TBI side and of the aSAH side; none on both. Raises ConfigError for fewer than four."""
    if len(heads) < 4:
        raise ConfigError(f"The paper's cohort needs at least four label maps, so that no head serves both sides; there are {len(heads)}.")
    cut = round(len(heads) * _TBI_HEADS)
    return list(heads[:cut]), list(heads[cut:])


def draw_machine(rng: Rng, hospital: str, matrix: int, slices: int | None = None) -> tuple[str, ScannerConfig]:
    """One of a hospital's machines and an acquisition on it: the machine's habits, everything else as `draw_scanner` draws it."""
    drawn = draw_scanner(rng, matrix, slices, hospital)
    machine = HOSPITALS[hospital][int(rng.integers(len(HOSPITALS[hospital])))]
    thickness = float(rng.choice(machine.thickness_mm))
    covered = sum(drawn.gaps_mm) * drawn.slices / (drawn.slices - 1)
    count = slices or max(12, int(covered / max(thickness, 2.0)))
    gaps = np.full(count - 1, covered / count)
    if machine.uneven:
        gaps[: count // 3] *= rng.uniform(0.6, 0.8)
        gaps[count // 3 :] *= rng.uniform(1.05, 1.25)
    return machine.name, replace(
        drawn,
        thickness_mm=thickness,
        gaps_mm=tuple(float(g) for g in gaps),
        tilt_degrees=float(rng.uniform(*machine.tilt_degrees)),
        blur_mm=float(rng.uniform(*machine.blur_mm)),
        noise_hu=float(rng.uniform(*machine.noise_hu)),
        offset_hu=machine.offset_hu + float(rng.normal(0, 0.7)),
    )


def _planned(config: PaperCohort, kind: str, hospital: str, number: int, head: Path | None, name: str | None = None) -> PlannedCase:
    """The case of that number: its seed, scanner and lesions follow from the cohort's seed, the kind and the number alone."""
    seed = config.seed * 1_000_000 + (0 if kind == "tbi" else 500_000) + number
    machine, scanner = draw_machine(np.random.default_rng([seed, 1]), hospital, config.matrix, config.slices)
    return PlannedCase(name or f"{kind}-{number + 1:03d}", kind, seed, head, hospital, scanner, machine)


def _again(case: PlannedCase) -> PlannedCase:
    """The same patient from another seed."""
    return replace(case, seed=case.seed + 100_000_000)


def _stratified(config: PaperCohort, heads: Sequence[Path | None], count: int, events: Events) -> list[PlannedCase]:
    """aSAH patients whose volumes fill the strata: candidates are tried in turn on a coarse scan, and taken while their stratum and head have room.

    Trials are kept in asah/trials.json. Raises ConfigError where the strata cannot be filled.
    """
    wanted = apportion(count)
    room = -(-count // len(heads)) + 1
    rounds = min(4, -(-2 * count // len(heads)))
    path = config.output / "asah" / "trials.json"
    key = f"{generator_digest()} {config.seed} {config.slices} {[str(h and h.name) for h in heads]}"
    kept = read_note(path)
    known: dict[str, float] = dict(kept["ml"]) if kept.get("key") == key else {}
    taken: list[tuple[int, PlannedCase]] = []
    on_head: dict[Path | None, int] = {}
    number = 0
    while len(taken) < count:
        if number >= _TRIALS_A_CASE * count:
            raise ConfigError(f"{number} trials gave {len(taken)} of {count} aSAH patients with the wanted volumes; use other or more label maps.")
        batch = [_planned(config, "asah", "B", n, heads[n % len(heads)]) for n in range(number, number + rounds * len(heads))]
        missing = [case for case in batch if str(case.seed) not in known]
        if missing:
            events.progress("trial scans for the volumes", len(taken), count)
            found = in_processes(_trial, missing, lambda case: case.head, (), config.jobs, events, "trial scans")
            known |= {str(case.seed): ml for case, ml in zip(missing, found, strict=True)}
            write_text(path, json.dumps({"key": key, "ml": known}))
        for case in batch:
            place = stratum_of(known[str(case.seed)])
            if place is not None and wanted[place] > 0 and on_head.get(case.head, 0) < room:
                wanted[place] -= 1
                on_head[case.head] = on_head.get(case.head, 0) + 1
                taken.append((place, replace(case, name=f"asah-{len(taken) + 1:03d}")))
        number += len(batch)
    return [case for _, case in taken[:count]]


def _trial(case: PlannedCase) -> float:
    """mL of a case on a coarse pixel grid: same patient, lesions and slices."""
    assert case.scanner is not None
    return volume_ml(make_case(head_of(case.head), case.kind, case.seed, replace(case.scanner, matrix=_TRIAL_MATRIX)))


def apportion(count: int) -> list[int]:
    """Patients of each stratum (largest remainders)."""
    exact = [share * count for _, share in STRATA]
    whole = [int(n) for n in exact]
    for place in sorted(range(len(exact)), key=lambda n: (whole[n] - exact[n], n))[: count - sum(whole)]:
        whole[place] += 1
    return whole


def stratum_of(ml: float) -> int | None:
    """Which stratum a trial scan belongs to; None near an edge, where the finished case might fall into the next."""
    low = LEAST_ML
    for place, (high, _) in enumerate(STRATA):
        if low * _MARGIN <= ml < high / _MARGIN:
            return place
        low = high
    return None


def folds_by_head(heads: Mapping[str, str], volumes: Mapping[str, float], count: int, seed: int) -> Folds:
    """Folds in which all patients of one head (patient → head) stay together, alike in size and in volumes (patient → mL).

    Of many random ways to deal the heads the most even one is taken.
    """
    names = sorted(set(heads.values()))
    edges = [high for high, _ in STRATA[:-1]]
    strata = {patient: int(np.searchsorted(edges, ml, side="right")) for patient, ml in volumes.items()}
    tables = np.zeros((len(names), len(STRATA) + 1))
    for patient, head in heads.items():
        tables[names.index(head), strata[patient]] += 1
        tables[names.index(head), -1] += 1.5  # the size of a fold weighs more than one stratum
    generator = random.Random(f"folds by head:{seed}")
    best, least = list(range(len(names))), float("inf")
    for _ in range(4000):
        dealt = [place % count for place in range(len(names))]
        generator.shuffle(dealt)
        sums = np.array([tables[[place for place, fold in enumerate(dealt) if fold == f]].sum(0) for f in range(count)])
        if (uneven := float(sums.var(axis=0).sum())) < least:
            best, least = dealt, uneven
    placed = {patient: best[names.index(head)] for patient, head in heads.items()}
    return Folds(count, seed, tuple(edges), placed)


def _ml(writing: Writing, case: PlannedCase) -> float:
    return float(read_note(writing.output / case.name / "case.json").get("ml", 0.0))


def _row(side: str, case: PlannedCase, writing: Writing) -> dict[str, str]:
    assert case.scanner is not None
    painted = read_note(writing.output / case.name / "case.json").get("painted", ())
    return {
        "side": side, "case": case.name, "hospital": case.site, "scanner": case.machine, "head": case.head_name, "ml": f"{_ml(writing, case):.3f}",
        "slices": str(case.scanner.slices), "thickness_mm": f"{case.scanner.thickness_mm:g}", "tilt_degrees": f"{case.scanner.tilt_degrees:.1f}",
        "noise_hu": f"{case.scanner.noise_hu:.1f}", "painted": "; ".join(painted),
    }  # fmt: skip


def _summarise(config: PaperCohort, rows: Sequence[Mapping[str, str]]) -> Path:
    """volumes.csv and volumes.md."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(config.output / "volumes.csv", text.getvalue())
    edges = [0.0, *(high for high, _ in STRATA)]
    names = [f"< {edges[1]:g}", *(f"{a:g}–{b:g}" for a, b in pairwise(edges[1:-1])), f"> {edges[-2]:g}"]
    lines = ["# Synthetic cohort after the paper", "", "| | patients | heads | " + " | ".join(f"{n} mL" for n in names) + " | median | range |"]
    lines.append("|" + " --- |" * (len(names) + 5))
    for side in ("tbi", "asah"):
        here = [row for row in rows if row["side"] == side]
        ml = np.array(sorted(float(row["ml"]) for row in here))
        if len(ml):
            counts = np.histogram(ml, edges)[0]
            heads = len({row["head"] for row in here})
            lines.append(
                f"| {side} | {len(ml)} | {heads} | " + " | ".join(map(str, counts)) + f" | {np.median(ml):.1f} mL | {ml[0]:.2f} to {ml[-1]:.1f} mL |"
            )
    lines += ["", "| scanner | patients | slice thickness (mm) | slices | tilted | noise (HU) |", "|" + " --- |" * 6]
    for name in sorted({row["scanner"] for row in rows}):
        here = [row for row in rows if row["scanner"] == name]
        thick = sorted({float(row["thickness_mm"]) for row in here})
        slices, noise = [int(row["slices"]) for row in here], [float(row["noise_hu"]) for row in here]
        tilted = sum(abs(float(row["tilt_degrees"])) > 1 for row in here)
        lines.append(
            f"| {name} | {len(here)} | {', '.join(f'{t:g}' for t in thick)} | {min(slices)} to {max(slices)} | {tilted} | "
            f"{min(noise):.1f} to {max(noise):.1f} |"
        )
    digest = hashlib.sha256(text.getvalue().encode()).hexdigest()[:16]
    lines += ["", f"Seed {config.seed}, matrix {config.matrix}. Made by SAHLoRA {__version__}, generator {generator_digest()}; this table {digest}."]
    path = config.output / "volumes.md"
    write_text(path, "\n".join(lines) + "\n")
    return path
