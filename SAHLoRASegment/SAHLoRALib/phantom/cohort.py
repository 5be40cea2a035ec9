"""Many synthetic cases in a folder, with a case table; what is there already is kept, so that a stopped run goes on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import ConfigError
from ..events import Events
from ..files import write_text
from ..images import mask_image, write_image
from .anatomy import Head, heads_in, icbm_head, load_head
from .case import KINDS, PhantomCase, make_case
from .dicomseries import write_dicom

FORMATS = ("nrrd", "nii.gz", "dicom")


@dataclass(frozen=True)
class PhantomConfig:
    """Settings of `sahlora phantom`.

    output: folder for the cases and cases.csv. kind: tbi, asah or none. count: cases. seed: of the first case; each case has its own from there.
    heads: folder of label maps with FreeSurfer labels; left out, the built-in ICBM152 anatomy serves. use: which of its label maps, counted from 1,
    such as 1-11 or 1,4,7-9; left out, all in turn. without: share of cases without haemorrhage. format: nrrd, nii.gz or dicom (a series a case, the
    only one that keeps uneven gaps). matrix: rows and columns. slices: left out, drawn by the scanner.
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

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"There is no kind of case called '{self.kind}'; choose one of {', '.join(KINDS)}.")
        if self.format not in FORMATS:
            raise ConfigError(f"Cases are written as {', '.join(FORMATS)}, not as '{self.format}'.")
        if self.count < 1 or self.seed < 0:
            raise ConfigError("count must be at least 1 and seed at least 0.")
        if not 0 <= self.without <= 1:
            raise ConfigError(f"without is a share between 0 and 1, not {self.without}.")
        if self.slices is not None and not 3 <= self.slices <= 2000:
            raise ConfigError(f"A scan has 3 to 2000 slices, not {self.slices}.")
        if not 64 <= self.matrix <= 1024:
            raise ConfigError(f"matrix must be between 64 and 1024, not {self.matrix}.")
        if self.use and self.heads is None:
            raise ConfigError("use chooses among the label maps of a folder; name the folder with heads.")


def make_cohort(config: PhantomConfig, events: Events | None = None) -> Path:
    """Make the cases; returns the path of cases.csv.

    A folder per case holds ct, mask and case.json (kind, seed, head, scanner). A case that is there already, made with the same settings, is kept.
    Raises ConfigError, ScanError (heads), OutputError, Cancelled.
    """
    events = events or Events()
    paths = chosen_heads(config)
    rows = []
    for index, (name, kind, seed, path) in enumerate(_plan(config, paths)):
        events.progress("synthetic cases", index, config.count, name)
        events.check_cancel()
        rows.append(_one(config, name, kind, seed, path, events))
    events.progress("synthetic cases", config.count, config.count)
    table = config.output / "cases.csv"
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(table, text.getvalue())
    return table


def chosen_heads(config: PhantomConfig) -> list[Path | None]:
    """The label maps in use; [None] is the built-in anatomy."""
    if config.heads is None:
        return [None]
    found = heads_in(config.heads)
    if not config.use:
        return list(found)
    numbers: list[int] = []
    for part in config.use.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise ConfigError(f"use is written like 1-11 or 1,4,7-9, not '{config.use}'.")
        numbers.extend(range(int(first), int(last or first) + 1))
    if not numbers or min(numbers) < 1 or max(numbers) > len(found):
        raise ConfigError(f"use names label maps 1 to {len(found)} of {config.heads}, not '{config.use}'.")
    return [found[n - 1] for n in numbers]


def _plan(config: PhantomConfig, heads: list[Path | None]) -> Iterator[tuple[str, str, int, Path | None]]:
    """name, kind, seed, head of every case. Cases without haemorrhage are spread evenly; heads take turns."""
    for index in range(config.count):
        plain = int((index + 1) * config.without) > int(index * config.without)
        kind = "none" if plain else config.kind
        seed = config.seed + index
        yield f"{config.kind}-{seed:05d}", kind, seed, heads[index % len(heads)]


@lru_cache(maxsize=2)
def _head(path: Path | None) -> Head:
    return icbm_head() if path is None else load_head(path)


def _one(config: PhantomConfig, name: str, kind: str, seed: int, path: Path | None, events: Events) -> dict[str, str]:
    """Make one case unless it is there; its row of the case table."""
    folder = config.output / name
    suffix = "nrrd" if config.format == "dicom" else config.format
    ct_path = folder / ("dicom" if config.format == "dicom" else f"ct.{config.format}")
    mask_path, note = folder / f"mask.{suffix}", folder / "case.json"
    asked = {"kind": kind, "seed": seed, "head": path.name.split(".")[0] if path else "icbm152", "matrix": config.matrix, "slices": config.slices}
    done = _read(note)
    if not (done.get("asked") == asked and ct_path.exists() and mask_path.exists()):
        case = make_case(_head(path), kind, seed, matrix=config.matrix, slices=config.slices)
        _write(case, ct_path, mask_path, config.format)
        done = {"asked": asked, "painted": case.painted, "ml": _volume(case), "site": "B" if kind == "asah" else "A", "scanner": asdict(case.scanner)}
        write_text(note, json.dumps(done, indent=1))  # last: its presence says that the case is whole
        events.log(f"{name}: {done['ml']:.1f} mL, {', '.join(case.painted) or 'no haemorrhage'}")
    return {
        "case": name,
        "image": ct_path.relative_to(config.output).as_posix(),
        "mask": mask_path.relative_to(config.output).as_posix(),
        "patient": name,
        "site": str(done["site"]),
        "haemorrhage": "no" if kind == "none" else "yes",
        "head": str(asked["head"]),
        "kind": kind,
        "ml": f"{float(str(done['ml'])):.3f}",
    }


def _read(note: Path) -> dict[str, object]:
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _volume(case: PhantomCase) -> float:
    return float(case.mask.sum(axis=(1, 2)) @ case.ct.voxel_volumes_ml)


def _write(case: PhantomCase, ct_path: Path, mask_path: Path, form: str) -> None:
    if form == "dicom":
        write_dicom(case.ct, ct_path)
    else:
        write_image(mask_image(case.ct.hu.astype("int16"), case.ct), ct_path)
    write_image(mask_image(case.mask, case.ct), mask_path)
