"""What the background process runs: ``PythonSlicer -u -m SAHLoRASlicer.worker ARGUMENTS`` is the command ``sahlora ARGUMENTS``, watched.

``--stay --job FILE`` segments and stays for more of the same, which come as lines on standard input (see SAHLoRALib.warm).

PythonSlicer is a launcher: whoever kills it leaves its child, this process, alive. So this process tells its own number first ({"event": "started"}),
leads a process group of its own, and looks after itself: it ends when Slicer is gone, when the launcher is gone, when the job's folder is gone,
or when the cancel file has been there for longer than a polite stop may take. It imports neither slicer nor qt.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

#: Environment: the folder of the job, the cancel file in it, Slicer's process number, seconds that a polite stop may take longer.
FOLDER, CANCEL, OWNER, PATIENCE = "SAHLORA_JOB_FOLDER", "SAHLORA_CANCEL_FILE", "SAHLORA_OWNER", "SAHLORA_PATIENCE"
CANCELLED_EXIT_CODE = 130
_POLITE_SECONDS = 1.0
_EVERY_SECONDS = 0.1
STAY = "--stay"
#: The job's name in its folder.
JOB_FILE = "job.json"


@dataclass(eq=False)
class Errand:
    """What is worked on. folder, cancel: of the job, None while nothing is. cancelled_at: when the cancel file was seen first, in seconds."""

    folder: str | None = None
    cancel: str | None = None
    cancelled_at: float | None = None


class Watched:
    """The errand of this process: one for its whole life, or one after the other in a process that stays. latest: the folder of the last one."""

    def __init__(self) -> None:
        self.errand = Errand(os.environ.get(FOLDER), os.environ.get(CANCEL))
        self.latest = self.errand.folder

    @contextlib.contextmanager
    def around(self, job: Path) -> Iterator[None]:
        """The work on one job file, whose folder has the cancel file beside it."""
        self.errand = Errand(str(job.parent), str(job.parent / "cancel"))
        self.latest = self.errand.folder
        _started()
        try:
            yield
        finally:
            self.errand = Errand()


def main() -> int:
    """The exit code of the command."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # one signal then reaches everything that this process starts
    _started()
    watched = Watched()
    threading.Thread(target=watch, args=(reasons_to_end(watched), end_group), daemon=True).start()
    from SAHLoRALib.startup import own_process

    own_process()
    arguments = _arguments()
    if arguments[:1] == [STAY]:
        from SAHLoRALib.warm import patient, serve

        return serve(patient(sys.stdin.buffer), Path(arguments[2]), watched.around)
    from SAHLoRALib.cli import main as command

    return command(arguments)


def _arguments() -> list[str]:
    """This process's own. Where the job file's path is none any more, it is looked for in the job's folder: a launcher on Windows may pass on letters
    such as ä in another code page, which the environment keeps.
    """
    arguments, folder = sys.argv[1:], os.environ.get(FOLDER)
    if folder and arguments[-2:-1] == ["--job"] and not Path(arguments[-1]).exists():
        arguments[-1] = str(Path(folder) / JOB_FILE)
    return arguments


def _started() -> None:
    print(json.dumps({"event": "started", "pid": os.getpid()}), flush=True)


def reasons_to_end(watched: Watched | None = None) -> Callable[[], bool]:
    """A question to ask again and again: must this process end?"""
    watched = watched or Watched()
    owner = os.environ.get(OWNER)
    polite = _POLITE_SECONDS + float(os.environ.get(PATIENCE) or 0.0)
    launcher = os.getppid()

    def must_end() -> bool:
        errand = watched.errand
        folder, now = errand.folder, time.monotonic()
        if errand.cancel and errand.cancelled_at is None and Path(errand.cancel).exists():
            errand.cancelled_at = now
        late = errand.cancelled_at is not None and now - errand.cancelled_at > polite
        left = owner is not None and not alive(int(owner))
        if left and watched.latest:
            shutil.rmtree(watched.latest, ignore_errors=True)  # Slicer is gone and cannot, perhaps while it took the results
        if left or os.getppid() != launcher:
            return True
        gone = folder is not None and not Path(folder).is_dir()
        return (late or gone) and watched.errand is errand  # else it was done meanwhile, and its folder is rightly gone

    return must_end


def watch(must_end: Callable[[], bool], end: Callable[[], None]) -> None:
    """Ask until the answer is yes."""
    while not must_end():
        time.sleep(_EVERY_SECONDS)
    end()


def end_group() -> None:
    """End this process and all that it started, at once."""
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        import signal

        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(CANCELLED_EXIT_CODE)


def alive(pid: int) -> bool:
    """Whether a process of this number runs."""
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.windll.kernel32
        handle = kernel.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
        if not handle:
            return False
        code = ctypes.c_ulong()
        kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return code.value == 259  # STILL_ACTIVE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    sys.exit(main())
