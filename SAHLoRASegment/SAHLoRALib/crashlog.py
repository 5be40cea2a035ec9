"""Errors of the computer and of libraries as one line for people: what the machine refused with advice, a bug with its traceback in a file."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
import traceback

from . import __version__
from .errors import one_line

#: How PyTorch and oneDNN say that the network's maps find no room, on Linux, macOS and Windows: fewer slices at once may.
NO_MEMORY_FOR_MAPS = ("out of memory", "can't allocate memory", "not enough memory", "could not create a primitive", "could not create a memory")
#: How PyTorch, oneDNN, NumPy, SimpleITK and the system's loader say that memory ran out.
_NO_MEMORY = (
    *NO_MEMORY_FOR_MAPS,
    "allocate memory",
    "bad_alloc",
    "failed to allocate",
    "unable to allocate",
    "can't start new thread",
    "failed to map segment",
)
#: How PyTorch says that the GPU, its driver or the way to it is gone.
_NO_GPU = ("cuda error", "cuda driver", "cudnn error", "cudnn_status", "cublas_status", "nccl error")


def in_words(error: BaseException, bug: bool = True) -> str:
    """One line for people about an error that is no SAHLoRAError. bug=False: "" instead of a crash log where the machine is not to blame."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
        gpu = "cuda" in text or "mps backend" in text
        whose, other = ("GPU's memory", "or the device cpu") if gpu else ("memory", "or use a larger machine")
        return f"The {whose} does not suffice; close other programs, choose a smaller batch or crop, {other}."
    if isinstance(error, RuntimeError) and any(words in text for words in _NO_GPU):
        reason = one_line(str(error).splitlines()[0], 120).rstrip(".")
        return f"The GPU failed ({reason}); the same command goes on from the last checkpoint once it is back, or choose the device cpu."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'A file'} cannot be read or written: {one_line(error.strerror)}. Free some space or choose another folder."
    return write_crash_log(error) if bug else ""


def write_crash_log(error: BaseException) -> str:
    """One line for people: that this is a bug, what kind, and where the traceback lies (a new file in the system's temporary folder)."""
    text = "".join(traceback.format_exception(error))
    about = f"SAHLoRA {__version__}, Python {platform.python_version()}, {platform.platform()}\n{' '.join(sys.argv)}\n\n"
    place = "the traceback could not be written anywhere"
    with contextlib.suppress(OSError):
        handle, path = tempfile.mkstemp(prefix="sahlora-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(about + text)
        place = f"the details are in {path}"
    first = (str(error).strip().splitlines() or [""])[0][:200]
    return f"This is a bug in SAHLoRA ({type(error).__name__}{': ' if first else ''}{first}); {place}. Please report it."
