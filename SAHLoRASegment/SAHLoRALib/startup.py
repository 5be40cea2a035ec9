"""Start and end of a process without Python's collector of cycles: it would look again and again at the million objects of torch, which all stay.

Of a process that imports torch and ends, looking takes a third of the time: an eighth in loading, the rest in the collections before the end.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Within, no cycles are collected: for imports and for loading a network, whose objects stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def quick_end() -> None:
    """When this process ends, its objects are left to the system instead of being searched for cycles. Files are closed as ever, by reference."""
    atexit.register(gc.freeze)
