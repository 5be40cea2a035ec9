"""Processes of the program that are killed, starved or surprised, and what must be true of the folders that they leave.

A fork server holds the imported program, so that a process costs tenths of a second. Every process leads a session of its own: when it is gone and
its group is empty, it left no orphan.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from safetensors.numpy import load_file, safe_open

ROOT = Path(__file__).resolve().parents[2]
PLACES = [str(ROOT / "SAHLoRASegment"), str(ROOT / "Testing" / "Core"), str(ROOT / "Testing" / "Robust")]
_PRELOADED = [
    *("fault_jobs", "torch", "monai", "SimpleITK", "tyro", "filelock", "matplotlib.figure", "matplotlib.backends.backend_agg", "pingouin"),
    *(f"SAHLoRALib.{name}" for name in ("cli", "study", "segmenter", "batch", "training", "report", "figures", "case_report")),
    *(f"SAHLoRALib.commands.{name}" for name in ("train", "segment", "study")),
]
#: No run of these tests takes nearly as long; what takes longer hangs.
HANGS = 240.0


@dataclass(frozen=True)
class Trouble:
    """What happens to the process, each where it is asked for. All are counted from the first line of the command's own work.

    rename, after_rename: it ends as if by kill -9 just before / just after it gives the n-th file its final name (from 1). stop: it stands still
    just before. file_bytes: no file may grow longer. mortal: a process that outgrows it is killed by the system in the middle of the write. memory:
    bytes of address space beyond those of the start. remove: folder that goes when the n-th file gets its final name (n, path). backwards: the wall
    clock runs back an hour at every look. gpu_lost: the n-th step of a training ends as steps on a lost GPU do.
    """

    rename: int = 0
    stop: int = 0
    after_rename: int = 0
    file_bytes: int = 0
    mortal: bool = False
    memory: int = 0
    remove: tuple[int, str] | None = None
    backwards: bool = False
    gpu_lost: int = 0


@dataclass
class Running:
    """A process and the pipe that it speaks into."""

    process: Any
    pipe: int
    place: Path
    heard: bytes = b""
    killed: bool = False
    began: float = field(default_factory=time.monotonic)

    def wait(self) -> int:
        """Its exit code; minus the signal's number where a signal ended it. Asserts that it left no orphan."""
        self.process.join(HANGS)
        if self.process.is_alive():
            self.kill()
            raise AssertionError(f"the process hangs; it said {self.said}")
        self._listen()
        self.assert_alone()
        return int(self.process.exitcode)

    def kill(self) -> bool:
        """kill -9 of this one process; True if it still ran."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(HANGS)
        self.killed = self.process.exitcode == -signal.SIGKILL
        self._listen()
        self.assert_alone()
        return self.killed

    def wait_until_it_stands(self) -> None:
        """Until it has come to where `Trouble.stop` holds it."""
        end = time.monotonic() + HANGS
        while Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert self.process.is_alive() and time.monotonic() < end, self.said
            time.sleep(0.01)

    def go_on(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def assert_alone(self) -> None:
        """The group of the process is empty."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.01)  # a process that is gone and not yet waited for counts
        raise AssertionError("the process left an orphan")

    def _listen(self) -> None:
        """Its last words; then the pipe goes."""
        if self.pipe >= 0:
            _ = self.said
            os.close(self.pipe)
            self.pipe = -1
            shutil.rmtree(self.place)

    @property
    def said(self) -> str:
        with contextlib.suppress(BlockingIOError):
            while self.pipe >= 0 and (more := os.read(self.pipe, 2**16)):
                self.heard += more
        return self.heard.decode("utf-8", "replace")

    @property
    def sentence(self) -> str:
        """The one line that the user reads; asserts that there is one, and no traceback or bug."""
        assert "Traceback" not in self.said and "This is a bug" not in self.said, self.said
        lines = [line for line in self.said.splitlines() if line.startswith("sahlora: ")]
        assert len(lines) == 1, self.said
        return lines[0].removeprefix("sahlora: ").removeprefix("error: ")


def start(work: Callable[..., Any], arguments: tuple[Any, ...], folder: Path, trouble: Trouble | None = None) -> Running:
    """Begin work(*arguments) in a process of its own, in `folder` as its current one."""
    # A named pipe: a full disk and a limit of files do not silence the process. It holds 64 kB, more than any of these runs says.
    said_in = Path(tempfile.mkdtemp(prefix="faults-")) / "said"
    os.mkfifo(said_in)
    pipe = os.open(said_in, os.O_RDWR | os.O_NONBLOCK)
    process = _forks().Process(target=_child, args=(work, arguments, str(folder), str(said_in), trouble or Trouble()))
    process.start()
    return Running(process, pipe, said_in.parent)


def sahlora(arguments: list[str], folder: Path, trouble: Trouble | None = None) -> Running:
    """Begin ``sahlora`` with these arguments."""
    return start(_command, (arguments,), folder, trouble)


def whole(folder: Path) -> list[str]:
    """Names of all files under final names, relative; asserts that every one opens and is complete."""
    names = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.name.startswith(".") or path.parent.name.startswith("slices-"):
            continue
        names.append(path.relative_to(folder).as_posix())
        try:
            _open(path)
        except Exception as error:
            raise AssertionError(f"{path} is not whole: {error}") from error
    return names


def unfinished(folder: Path) -> list[Path]:
    """Files under temporary names."""
    return sorted(p for p in folder.rglob(".*") if p.is_file() and re.match(r"\.[0-9a-f]{8}\.", p.name))


def contents(folder: Path) -> dict[str, Any]:
    """What counts of all results in a folder, to be held against another's: no dates, times and memory; tensors and voxels to the bit.

    Checkpoints are left out, as a finished run needs none.
    """
    found: dict[str, Any] = {}
    for name in whole(folder):
        path = folder / name
        if path.name in ("checkpoint.safetensors", "made_of.json"):
            continue
        if name.endswith(".safetensors"):
            found[name] = {key: (value.dtype.str, value.shape, value.tobytes()) for key, value in load_file(path).items()}
        elif name.endswith(".csv"):
            table = pd.read_csv(path)
            found[name] = table[[c for c in table.columns if not _passing(str(c))]].to_csv(index=False)
        elif name.endswith(".json"):
            found[name] = _lasting(json.loads(path.read_text(encoding="utf-8")))
        elif name.endswith((".nrrd", ".nii.gz")):
            image = sitk.ReadImage(str(path))
            found[name] = (image.GetSize(), image.GetSpacing(), image.GetOrigin(), sitk.GetArrayFromImage(image).tobytes())
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of files that are in one only or hold something else."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


@contextlib.contextmanager
def small_disk(place: Path, size: str = "100m") -> Iterator[Callable[[str], None]]:
    """A disk of its own of `size` at `place`; yields what changes its mount options (size=1m, ro, rw). PermissionError where none is allowed."""
    place.mkdir(parents=True, exist_ok=True)
    if (
        not shutil.which("mount")
        or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True).returncode
    ):
        raise PermissionError("mounting a tmpfs is not allowed here")

    def change(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True, capture_output=True)

    try:
        yield change
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


# ── in the process ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _command(arguments: list[str]) -> int:
    from SAHLoRALib.cli import main

    return main(arguments)


def _child(work: Callable[..., Any], arguments: tuple[Any, ...], folder: str, said_in: str, trouble: Trouble) -> None:
    os.setsid()
    os.chdir(folder)
    said = os.open(said_in, os.O_WRONLY)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", closefd=False)
    _bring(trouble)
    code = work(*arguments)
    sys.stdout.flush()
    sys.exit(code or 0)


def _bring(trouble: Trouble) -> None:
    if trouble.rename or trouble.after_rename or trouble.stop or trouble.remove:
        renames = 0
        doomed = False

        def hook(event: str, details: tuple[Any, ...]) -> None:
            nonlocal renames, doomed
            if doomed:
                doomed = False  # a kill is told to the hook too
                os.kill(os.getpid(), signal.SIGKILL)
            if event != "os.rename":
                return
            renames += 1
            if renames == trouble.rename:
                os.kill(os.getpid(), signal.SIGKILL)
            if renames == trouble.stop:
                os.kill(os.getpid(), signal.SIGSTOP)
            doomed = renames == trouble.after_rename
            if trouble.remove and renames == trouble.remove[0]:
                shutil.rmtree(trouble.remove[1])

        sys.addaudithook(hook)
    if trouble.file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (trouble.file_bytes, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if trouble.mortal:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    if trouble.memory:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + trouble.memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    if trouble.backwards:
        real, looks = time.time, iter(range(10**9))
        time.time = lambda: real() - 3600.0 * next(looks)  # type: ignore[assignment]
    if trouble.gpu_lost:
        _lose_gpu(trouble.gpu_lost)


def _lose_gpu(step: int) -> None:
    """As PyTorch tells it when the driver, the cable or the container is gone."""
    from SAHLoRALib import training_loop

    real, steps = training_loop.segmentation_loss, iter(range(1, 10**9))

    def loss(*given: Any, **named: Any) -> Any:
        if next(steps) == step:
            raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported at some other API call")
        return real(*given, **named)

    training_loop.segmentation_loss = loss


def _forks() -> Any:
    context = multiprocessing.get_context("forkserver")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*PLACES, *([before] if before else [])])
    try:
        context.set_forkserver_preload(_PRELOADED)
        multiprocessing.forkserver.ensure_running()  # type: ignore[attr-defined]
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.__setitem__("PYTHONPATH", before)
    return context


# ── of files ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _open(path: Path) -> None:
    if path.name.endswith(".safetensors"):
        with safe_open(path, "np") as file:
            assert all(np.isfinite(file.get_tensor(name)).all() for name in file.keys())  # noqa: SIM118
    elif path.name.endswith((".nrrd", ".nii.gz")):
        sitk.ReadImage(str(path))
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".csv":
        text = path.read_text(encoding="utf-8-sig")
        assert text.endswith("\n") and len({len(row) for row in csv.reader(io.StringIO(text))}) == 1
    elif path.suffix == ".png":
        assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    elif path.suffix == ".md":
        assert path.read_text(encoding="utf-8").strip()


def _passing(name: str) -> bool:
    """Of what differs between two runs of the same work."""
    return bool(re.search(r"seconds|date|memory|time|^computing$|^output$|^cases$|^folder$|^input$|^source$|^file_", name))


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(item) for key, item in value.items() if not _passing(key)}
    return [_lasting(item) for item in value] if isinstance(value, list) else value
