"""What the background process runs: ``PythonSlicer -u -m SAHLoRASlicer.worker ARGUMENTS`` is the command ``sahlora ARGUMENTS``, watched.

PythonSlicer is a launcher: whoever kills it leaves its child, this process, alive. So this process tells its own number first ({"event": "started"}),
leads a process group of its own, and looks after itself: it ends when Slicer is gone, when the launcher is gone, when the job's folder is gone,
or when the cancel file has been there for longer than a polite stop may take. It imports neither slicer nor qt.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

#: Environment: the folder of the job, the cancel file in it, Slicer's process number, seconds that a polite stop may take longer.
FOLDER, CANCEL, OWNER, PATIENCE = "SAHLORA_JOB_FOLDER", "SAHLORA_CANCEL_FILE", "SAHLORA_OWNER", "SAHLORA_PATIENCE"
CANCELLED_EXIT_CODE = 130
_POLITE_SECONDS = 1.0
_EVERY_SECONDS = 0.1


def main() -> int:
    """The exit code of the command."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # one signal then reaches everything that this process starts
    print(json.dumps({"event": "started", "pid": os.getpid()}), flush=True)
    threading.Thread(target=watch, args=(reasons_to_end(), end_group), daemon=True).start()
    from SAHLoRALib.cli import main as command

    return command(sys.argv[1:])


def reasons_to_end() -> Callable[[], bool]:
    """A question to ask again and again: must this process end?"""
    folder, cancel, owner = os.environ.get(FOLDER), os.environ.get(CANCEL), os.environ.get(OWNER)
    polite = _POLITE_SECONDS + float(os.environ.get(PATIENCE) or 0.0)
    launcher = os.getppid()
    cancelled_at: list[float] = []

    def must_end() -> bool:
        if cancel and Path(cancel).exists():
            cancelled_at.append(time.monotonic())
        late = bool(cancelled_at) and time.monotonic() - cancelled_at[0] > polite
        left = owner is not None and not alive(int(owner))
        if left and folder:
            shutil.rmtree(folder, ignore_errors=True)  # Slicer is gone and cannot
        orphan = left or os.getppid() != launcher
        return late or orphan or (folder is not None and not Path(folder).is_dir())

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
