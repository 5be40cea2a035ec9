"""Fuzz the readers for as long as is wanted: python Testing/Robust/fuzz.py --minutes 30

Every target runs in a process of its own for a slice of the time, with 6 GB of memory, so that a crash, a hang or a bomb ends that process only; the
input that was being read lies in the folder of findings. The last line says how many inputs were read. `make test-robust` runs it for a minute;
pytest (test_fuzz.py) reads a few inputs of each target.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import subprocess
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
for _place in (HERE, HERE.parent / "Core", HERE.parents[1] / "SAHLoRASegment"):
    sys.path.insert(0, str(_place))

SLICE_SECONDS = 20.0
#: A single input may take this long before it counts as a hang.
HANG_SECONDS = 30.0
MEMORY = 6 * 2**30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--output", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--worker", nargs=2, metavar=("TARGET", "SECONDS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments.worker[0], float(arguments.worker[1]), arguments.output, arguments.seed)
    return watch(arguments.minutes, arguments.output, arguments.seed, arguments.only)


def watch(minutes: float, output: Path, seed: int, only: list[str]) -> int:
    """Give each target its turn until the time is over; returns 1 where anything was found."""
    from fuzz_targets import TARGETS

    output.mkdir(parents=True, exist_ok=True)
    names = [target.name for target in TARGETS if not only or target.name in only]
    end, turn = time.monotonic() + 60 * minutes, 0
    read: collections.Counter[str] = collections.Counter()
    seconds = min(SLICE_SECONDS, 60 * minutes / len(names))
    while (left := end - time.monotonic()) > 0.5:
        name = names[turn % len(names)]
        turn += 1
        command = [sys.executable, __file__, "--output", str(output), "--seed", str(seed + turn), "--worker", name, str(min(seconds, left))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + HANG_SECONDS + 30)
            told, words, code = done.stdout, done.stderr, done.returncode
        except subprocess.TimeoutExpired as late:
            told, words, code = (late.stdout or b"").decode(errors="replace"), "", "hang"
        counts = [line for line in told.splitlines() if line.startswith("read ")]
        read[name] += int(counts[-1].split()[1]) if counts else 0
        if code != 0:
            _keep_current(name, output, code, words)
            print(f"{name}: the process ended with {code}", flush=True)
    findings = sorted(p.name for p in output.iterdir() if p.suffix == ".txt")
    print("\n".join(f"{count:8,} {name}" for name, count in read.items()))
    print(f"{sum(read.values()):,} inputs in {minutes:g} minutes, {len(findings)} findings {findings}")
    return 1 if findings else 0


def work(name: str, seconds: float, output: Path, seed: int) -> int:
    """One target for some seconds; inputs that are findings are written down, and reading goes on."""
    import resource

    import torch
    from fuzz_targets import TARGETS, one_line, seeds
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    target = next(t for t in TARGETS if t.name == name)
    seeds()
    current = _current(name, output)
    end = time.monotonic() + seconds
    count = 0

    def once(data: bytes) -> None:
        nonlocal count
        if time.monotonic() > end:
            return
        current.write_bytes(data)
        try:
            one_line(target, data)
        except Exception as error:
            _keep(name, output, data, error)
        count += 1
        if count % 50 == 0:
            print(f"read {count}", flush=True)

    generator = random.Random(seed)
    while time.monotonic() < end:
        quiet = settings(max_examples=400, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        seeded(generator.getrandbits(64))(quiet(given(target.inputs())(once)))()
    print(f"read {count}", flush=True)
    current.unlink(missing_ok=True)
    return 0


def _current(name: str, output: Path) -> Path:
    return output / f"{name.replace(' ', '-')}.current"


def _keep(name: str, output: Path, data: bytes, error: BaseException) -> None:
    """One file a kind of finding: the target, the exception and where in our code it came up."""
    ours = [f for f in traceback.extract_tb(error.__traceback__) if "SAHLoRA" in f.filename]
    place = f"{Path(ours[-1].filename).stem}-{ours[-1].lineno}" if ours else "elsewhere"
    stem = f"{name.replace(' ', '-')}-{type(error).__name__}-{place}"
    if not (output / f"{stem}.txt").exists():
        (output / f"{stem}.bin").write_bytes(data)
        (output / f"{stem}.txt").write_text("".join(traceback.format_exception(error))[-6000:], encoding="utf-8", errors="backslashreplace")


def _keep_current(name: str, output: Path, code: object, words: str) -> None:
    current = _current(name, output)
    stem = f"{name.replace(' ', '-')}-process-{code}-{int(time.time())}"
    if current.exists():
        os.replace(current, output / f"{stem}.bin")
    (output / f"{stem}.txt").write_text(json.dumps({"target": name, "code": str(code)}) + "\n" + words[-6000:], encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
