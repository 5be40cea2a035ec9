"""What nobody foresaw: the traceback goes into a file, people read one line."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
import traceback

from . import __version__


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
