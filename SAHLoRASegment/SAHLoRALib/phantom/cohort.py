"""Many synthetic cases in a folder, with a case table; what is there already is kept, so that a stopped run goes on.

`make_cohort` makes a cohort of one kind; `write_cases` makes any list of `PlannedCase`, in several processes if asked for: a case depends on its
plan and on this package's source alone (`generator_digest`), never on the order of the work.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError, SAHLoRAError
from ..events import Events
from ..files import write_text
from ..images import mask_image, write_image
from .anatomy import Head, heads_in, icbm_head, load_head
from .case import KINDS, PhantomCase, make_case
from .dicomseries import write_dicom
from .scanner import ScannerConfig

Item = TypeVar("Item")
Done = TypeVar("Done")

FORMATS = ("nrrd", "nii.gz", "dicom")
STAGE = "synthetic cases"
#: Cases of one head that a process makes at a time: reading a head takes as long as a case, and a cancel waits for one such chunk.
_CHUNK = 4
#: Source files that decide nothing about the voxels of a case.
_AROUND = ("__init__", "cohort", "paper_cohort", "dicomseries")


@dataclass(frozen=True)
class PhantomConfig:
    """Settings of `sahlora phantom`.

    output: folder for the cases and cases.csv. kind: tbi, asah or none. count: cases. seed: of the first case; each case has its own from there.
    heads: folder of label maps with FreeSurfer labels; left out, the built-in ICBM152 anatomy serves. use: which of its label maps, counted from 1,
    such as 1-11 or 1,4,7-9; left out, all in turn. without: share of cases without haemorrhage. format: nrrd, nii.gz or dicom (a series a case, the
    only one that keeps uneven gaps). matrix: rows and columns. slices: left out, drawn by the scanner. warp: 1 leaves the heads as they are, more (at
    most 3) makes other people's of them. jobs: processes.
    """

    output: Path
    kind: str = "asah"
    count: int = 1
    seed: int = 0
    heads: Path | None = None
    use: str | None = None
    without: float = 0.0
    format: str = "nrrd"
    matrix: int = 512
    slices: int | None = None
    warp: float = 1.0
    jobs: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"There is no kind of case called '{self.kind}'; choose one of {', '.join(KINDS)}.")
        if self.count < 1 or self.seed < 0:
            raise ConfigError("count must be at least 1 and seed at least 0.")
        if not 0 <= self.without <= 1:
            raise ConfigError(f"without is a share between 0 and 1, not {self.without}.")
        if not 1 <= self.warp <= 3:
            raise ConfigError(f"warp is a number from 1 (heads as they are) to 3, not {self.warp}.")
        if self.use and self.heads is None:
            raise ConfigError("use chooses among the label maps of a folder; name the folder with heads.")
        check_writing(self.format, self.matrix, self.slices, self.jobs)


def check_writing(form: str, matrix: int, slices: int | None, jobs: int) -> None:
    """Raises ConfigError for a file type, a matrix, a number of slices or of processes that there is not."""
    if form not in FORMATS:
        raise ConfigError(f"Cases are written as {', '.join(FORMATS)}, not as '{form}'.")
    if slices is not None and not 3 <= slices <= 2000:
        raise ConfigError(f"A scan has 3 to 2000 slices, not {slices}.")
    if not 64 <= matrix <= 1024:
        raise ConfigError(f"matrix must be between 64 and 1024, not {matrix}.")
    if not 1 <= jobs <= 256:
        raise ConfigError(f"jobs must be between 1 and 256 processes, not {jobs}.")


@dataclass(frozen=True)
class PlannedCase:
    """One case to be made. head: its label map, None for the built-in anatomy. site: of the case table. scanner: None draws one by the kind.
    machine: the scanner's name, where it has one. warp: of the head.
    """

    name: str
    kind: str
    seed: int
    head: Path | None
    site: str
    scanner: ScannerConfig | None = None
    machine: str = ""
    warp: float = 1.0

    @property
    def head_name(self) -> str:
        return self.head.name.split(".")[0] if self.head else "icbm152"


@dataclass(frozen=True)
class Writing:
    """How cases are written; see PhantomConfig."""

    output: Path
    format: str = "nrrd"
    matrix: int = 512
    slices: int | None = None


def make_cohort(config: PhantomConfig, events: Events | None = None) -> Path:
    """Make the cases; returns the path of cases.csv.

    A folder per case holds ct, mask and case.json (kind, seed, head, scanner). A case that is there already, made with the same settings, is kept.
    Raises ConfigError, ScanError (heads), OutputError, Cancelled.
    """
    writing = Writing(config.output, config.format, config.matrix, config.slices)
    return write_cases(list(_plan(config, chosen_heads(config.heads, config.use))), writing, config.jobs, events)


def write_cases(planned: Sequence[PlannedCase], writing: Writing, jobs: int = 1, events: Events | None = None) -> Path:
    """Make what is not there yet; returns the path of the case table. Raises ConfigError, ScanError (heads), OutputError, Cancelled."""
    made = in_processes(_one, planned, lambda case: case.head, (writing,), jobs, events or Events(), STAGE)
    table = writing.output / "cases.csv"
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(made[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(made)
    write_text(table, text.getvalue())
    return table


def in_processes(
    do: Callable[..., Done], items: Sequence[Item], group: Callable[[Item], object], extra: tuple[Any, ...], jobs: int, events: Events, stage: str
) -> list[Done]:
    """do(item, *extra) of every item, in the items' order; items of one group go to one process together, `_CHUNK` at a time.

    Raises what `do` raises, and Cancelled between two chunks. With one job all is done in this process.
    """
    ordered = sorted(range(len(items)), key=lambda n: (str(group(items[n])), n))
    together = [list(part) for _, part in groupby(ordered, lambda n: group(items[n]))]
    chunks = [part[at : at + _CHUNK] for part in together for at in range(0, len(part), _CHUNK)]
    done: dict[int, Done] = {}
    if jobs == 1 or len(chunks) < 2:
        for number in ordered:
            events.progress(stage, len(done), len(items))
            events.check_cancel()
            done[number] = do(items[number], *extra)
    else:
        with ProcessPoolExecutor(min(jobs, len(chunks)), multiprocessing.get_context("spawn"), initializer=_alone) as pool:
            waiting = {pool.submit(_chunk, do, [items[n] for n in chunk], extra): chunk for chunk in chunks}
            try:
                while waiting:
                    events.progress(stage, len(done), len(items))
                    events.check_cancel()
                    for ready in wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED).done:
                        done.update(zip(waiting.pop(ready), ready.result(), strict=True))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    events.progress(stage, len(items), len(items))
    return [done[n] for n in range(len(items))]


def _alone() -> None:
    """Each process computes on one thread: the processes share the cores."""
    import torch

    torch.set_num_threads(1)


def _chunk(do: Callable[..., Done], items: Sequence[Any], extra: tuple[Any, ...]) -> list[Done]:
    return [do(item, *extra) for item in items]


def chosen_heads(folder: Path | None, use: str | None = None) -> list[Path | None]:
    """The label maps in use; [None] is the built-in anatomy. Raises ConfigError, ScanError."""
    if folder is None:
        return [None]
    found = heads_in(folder)
    if not use:
        return list(found)
    numbers: list[int] = []
    for part in use.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise ConfigError(f"use is written like 1-11 or 1,4,7-9, not '{use}'.")
        numbers.extend(range(int(first), int(last or first) + 1))
    if not numbers or min(numbers) < 1 or max(numbers) > len(found):
        raise ConfigError(f"use names label maps 1 to {len(found)} of {folder}, not '{use}'.")
    return [found[n - 1] for n in numbers]


def _plan(config: PhantomConfig, heads: list[Path | None]) -> Iterator[PlannedCase]:
    """Every case. Cases without haemorrhage are spread evenly; heads take turns."""
    for index in range(config.count):
        plain = int((index + 1) * config.without) > int(index * config.without)
        kind = "none" if plain else config.kind
        seed = config.seed + index
        site = "B" if config.kind == "asah" else "A"
        yield PlannedCase(f"{config.kind}-{seed:05d}", kind, seed, heads[index % len(heads)], site, warp=config.warp)


@lru_cache(maxsize=2)
def head_of(path: Path | None) -> Head:
    """A label map as a Head, or the built-in anatomy; the latest stay in memory."""
    return icbm_head() if path is None else load_head(path)


@lru_cache(maxsize=1)
def generator_digest() -> str:
    """16 hexadecimal digits over the source that decides the voxels of a case: another digest, other cases from the same seeds."""
    content = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in _AROUND:
            content.update(path.name.encode() + path.read_bytes().replace(b"\r\n", b"\n"))
    return content.hexdigest()[:16]


def _one(planned: PlannedCase, writing: Writing) -> dict[str, str]:
    """Make one case unless it is there; its row of the case table."""
    folder = writing.output / planned.name
    suffix = "nrrd" if writing.format == "dicom" else writing.format
    ct_path = folder / ("dicom" if writing.format == "dicom" else f"ct.{writing.format}")
    mask_path, note = folder / f"mask.{suffix}", folder / "case.json"
    asked: dict[str, Any] = {"kind": planned.kind, "seed": planned.seed, "head": planned.head_name, "matrix": writing.matrix}
    asked |= {"slices": writing.slices, "generator": generator_digest()}
    if planned.scanner is not None:
        asked["scanner"] = planned.machine or "given"
        asked["acquisition"] = hashlib.sha256(repr(planned.scanner).encode()).hexdigest()[:16]
    if planned.warp != 1.0:
        asked["warp"] = planned.warp
    done = read_note(note)
    if not (done.get("asked") == asked and ct_path.exists() and mask_path.exists()):
        try:
            head = head_of(planned.head)
            case = make_case(head, planned.kind, planned.seed, planned.scanner, writing.matrix, writing.slices, planned.site, planned.warp)
        except SAHLoRAError as error:
            raise type(error)(f"Case {planned.name}: {error}") from error
        _write(case, ct_path, mask_path, writing.format)
        done = {"asked": asked, "painted": case.painted, "ml": volume_ml(case), "site": planned.site, "scanner": asdict(case.scanner)}
        write_text(note, json.dumps(done, indent=1))  # last: its presence says that the case is whole
    return {
        "case": planned.name,
        "image": ct_path.relative_to(writing.output).as_posix(),
        "mask": mask_path.relative_to(writing.output).as_posix(),
        "patient": planned.name,
        "site": planned.site,
        "haemorrhage": "yes" if float(done["ml"]) > 0 else "no",  # a small bleed can lie outside the slices
        "head": planned.head_name,
        "kind": planned.kind,
        "ml": f"{float(done['ml']):.3f}",
    }


def read_note(note: Path) -> Mapping[str, Any]:
    """case.json; empty where there is none that can be read."""
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def volume_ml(case: PhantomCase) -> float:
    """Annotated mL of a case, from its true slice positions."""
    return float(case.mask.sum(axis=(1, 2)) @ case.ct.voxel_volumes_ml)


def _write(case: PhantomCase, ct_path: Path, mask_path: Path, form: str) -> None:
    if form == "dicom":
        write_dicom(case.ct, ct_path)
    else:
        write_image(mask_image(case.ct.hu.astype("int16"), case.ct), ct_path)
    write_image(mask_image(case.mask, case.ct), mask_path)
