"""Writing files so that nobody ever finds half of one."""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from .errors import OutputError

#: Waits between attempts to replace a file that another process holds, two seconds in all.
_HELD_SECONDS = (0.05, 0.15, 0.3, 0.5, 1.0) if os.name == "nt" else ()


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, remove it when it does not.

    The temporary name starts with a dot and keeps the suffixes, since writers choose the format by them. Parent folders are made.
    Raises OutputError where the system refuses (no permission, disk full).
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name[-100:]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _replace(temporary, path)
    except OSError as error:
        if isinstance(error, PermissionError) and path.is_file() and os.access(path.parent, os.W_OK):
            raise OutputError(f"Cannot replace {path}: perhaps another program has it open; close it there, or choose another folder.") from error
        raise OutputError(f"Cannot write {path}: {error.strerror or error}. Choose another folder or free some space.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _replace(temporary: Path, path: Path) -> None:
    """As os.replace; on Windows a virus scanner or a sync client may hold a file for a moment, during which it cannot be replaced."""
    for wait in _HELD_SECONDS:
        try:
            os.replace(temporary, path)
            return
        except PermissionError:
            time.sleep(wait)
    os.replace(temporary, path)


@contextlib.contextmanager
def alone(folder: Path | str, wanted: bool = True, *, keep_lock: bool = True) -> Iterator[None]:
    """Work in `folder` while no other process does; the lock falls with the process, whatever ends it. wanted=False: no lock.
    keep_lock=False: its file does not stay among the results.

    What a killed process had begun to write there is taken away. Raises OutputError where another process works there, or where the folder cannot
    be made.
    """
    if not wanted:
        yield
        return
    folder = Path(folder)
    busy = f"Another SAHLoRA run works in {folder}; wait until it has ended, or choose another folder."
    with locked(folder / ".lock", busy, keep=keep_lock):
        sweep(folder)
        yield


@contextlib.contextmanager
def locked(path: Path, busy: str, *, seconds: float = 0.0, keep: bool = False) -> Iterator[None]:
    """Hold the lock of the file `path`, which falls with the process. keep: its file stays.

    Raises OutputError, with the sentence `busy` where another holds it for longer than so many seconds, and where the folder cannot be made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=seconds)
    except Timeout as error:
        raise OutputError(busy) from error
    except OSError as error:
        raise OutputError(f"Cannot write in {path.parent}: {error.strerror or error}. Choose another folder.") from error
    try:
        yield
    finally:
        if not keep:
            with contextlib.suppress(OSError):  # Windows removes it only after its release
                path.unlink()
        lock.release()


def sweep(folder: Path) -> None:
    """Take away the temporary files of `replacing` that lie in this very folder: of processes that were killed. No other may be writing there."""
    with contextlib.suppress(OSError):
        for path in folder.glob(".*"):
            if re.match(r"\.[0-9a-f]{8}\.", path.name) and path.is_file():
                path.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text at once or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
