"""``make bench``: how long a scan and a training step take, against the machine's own limit and against what a user would pick instead.

Prints Markdown tables and keeps them with JSON in `results`, after each part, with the machine's description and its load before each part: on a
busy machine wall-clock times say little, so compare ratios of one run only. Nothing here is a test, and no test asserts a time.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import peers
import segmenting
import stepping
from clock import device, load, machine, matmul_peak, use_device, use_processor_time
from SAHLoRALib.startup import large_pages

HERE = Path(__file__).parent
Row = dict[str, Any]


def parts(work: Path, quick: bool) -> dict[str, Callable[[], Any]]:
    """What is measured, in this order: what comes first is kept where the rest is interrupted."""
    counts = (30,) if quick else (30, 300)
    on_gpu = device().type == "cuda"
    size = (4, 1, 208, 176) if quick else (64, 1, 208, 176) if on_gpu else (8, 1, 208, 176)
    scans = {n: segmenting.scan_of(work, n) for n in counts}
    found: dict[str, Callable[[], Any]] = {
        "peak": lambda: {name: matmul_peak(segmenting.TYPES[name]) for name in segmenting.precisions()},
        **{f"segmentation {n}": lambda n=n: segmenting.segmentation(scans[n], work / f"masks-{n}") for n in counts},
        "merged": lambda: segmenting.merged(stepping.METHODS, size),
        **{f"training {r}": lambda r=r: stepping.training(r, size) for r in ((4,) if quick else (4, 16, 64))},
        "feeding": lambda: stepping.feeding(size[0]),
        **{f"peers {n}": lambda n=n: peers.segmentation(scans[n]) for n in counts},
    }
    if on_gpu:  # what grows with slices, cases and scans is the processor's work
        return found
    return found | {
        "by slices": lambda: segmenting.by_slices(work, (30, 60) if quick else (30, 150, 300, 600)),
        "by cases": lambda: stepping.by_cases(work / "phantom" / "cases.csv", (5, 20) if quick else (5, 50, 100, 200)),
        "by scans": lambda: segmenting.by_scans(scans[30], work, (1, 4) if quick else (1, 10, 30, 100)),
    }


def markdown(result: dict[str, Any]) -> str:
    """The tables of what was measured so far."""
    told, found = result["machine"], result["found"]
    loads = ", ".join(f"{part} {value:.1f}" for part, value in result["load"].items() if value is not None)
    gpu = told["gpu"] + ", " if "gpu" in told else ""
    lines = [
        f"# Measured {told['date']}", "",
        f"{gpu}{told['processor']}, {told['cores']} cores, {told['threads']} threads, torch {told['torch']}, {told['commit']}, time {told['time']}.",
        f"Load (processes that wanted a core in the minute before; the part before leaves its own): {loads}.", "",
    ]  # fmt: skip
    if result["missing"]:
        lines += ["Not measured: " + "; ".join(f"{part} ({why})" for part, why in result["missing"].items()) + ".", ""]
    for part, rows in found.items():
        kind = part.rstrip("0123456789 ")
        lines += [f"## {_TITLES[kind].format(part[len(kind) :].strip())}", "", *_table(_as_rows(part, rows, found)), ""]
    return "\n".join(lines)


_TITLES = {
    "peak": "GFLOP/s of a large matrix product",
    "segmentation": "A scan of 512 × 512 × {}, from file to mask on disk, seconds",
    "merged": "A forward pass with an adapter merged",
    "training": "A training step at rank {}",
    "feeding": "What feeds a training step, seconds",
    "peers": "What others take for the scan of {} slices, seconds, beside ours with start-up, and by a worker that has answered before",
    "by slices": "Slices of 512 × 512, warm",
    "by scans": "Scans of 512 × 512 × 30 in one call",
    "by cases": "Reading training cases of 28 slices",
}


def _as_rows(part: str, found: Any, others: dict[str, Any]) -> list[Row]:
    if part.startswith("segmentation"):
        names = list(next(iter(found.values())))
        return [{"part": name, **{precision: values[name] for precision, values in found.items()}} for name in names]
    if part.startswith("peers"):
        ours = others.get(part.replace("peers", "segmentation"), {})
        measures = (("times ours in {}", "cold"), ("times ours in {} by a warm worker", "second_to_worker"))
        times = {name.format(precision): values[key] for name, key in measures for precision, values in ours.items()}
        return [{**row, **{name: row["seconds"] / own for name, own in times.items()}, "note": row["note"]} for row in found]
    if part == "merged":
        return [{"what": name, "seconds": value, "ratio": value / found["base"]} for name, value in found.items()]
    return [{"what": name, "value": value} for name, value in found.items()] if isinstance(found, dict) else found


def _table(rows: list[Row]) -> list[str]:
    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
        return f"{value:,}" if isinstance(value, int) else str(value)

    names = [name for name in rows[0] if name != "note"] + (["note"] if "note" in rows[0] else [])
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names), *("| " + " | ".join(cell(row[n]) for n in names) + " |" for row in rows)]


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one scan of 30 slices, one rank, few cases: some minutes")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="such as segmentation, training, peers")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="folder for the scans and masks")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the network computes")
    parser.add_argument("--processor-time", action="store_true", help="for a busy machine: one thread, its own time; passes, steps and peers only")
    given = parser.parse_args()
    large_pages()  # as the command does
    use_device(given.device)
    if given.processor_time:
        use_processor_time()
        given.only = given.only or ["peak", "merged", "training", "feeding", "peers"]
    given.work.mkdir(parents=True, exist_ok=True)
    work = given.work.resolve()
    wanted = {name: part for name, part in parts(work, given.quick).items() if not given.only or name.startswith(tuple(given.only))}
    told = {**machine(), "time": "of the processor, by one thread" if given.processor_time else "by the clock"}
    result: dict[str, Any] = {"machine": told, "quick": given.quick, "load": {}, "found": {}, "missing": {}}
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    name = f"{datetime.now(UTC):%Y%m%d-%H%M}{'-quick' if given.quick else ''}{'-cuda' if given.device == 'cuda' else ''}"
    for part, measure in wanted.items():
        result["load"][part] = load()
        print(f"{datetime.now(UTC):%H:%M:%S} {part}", flush=True)
        try:
            result["found"][part] = measure()
        except Exception as error:  # a peer that is not installed, say: the other parts are still worth having
            result["missing"][part] = f"{type(error).__name__}: {error}"
        for suffix, text in ((".json", json.dumps(result, indent=2) + "\n"), (".md", markdown(result))):
            temporary = folder / f"{name}{suffix}.new"
            temporary.write_text(text)
            os.replace(temporary, folder / f"{name}{suffix}")
    print(markdown(result))


if __name__ == "__main__":
    main()
