"""One process for many requests: ``sahlora segment`` again and again, without starting Python and loading the network anew.

A request is a line of JSON on standard input, {"job": "/folder/job.json"}, with a job file as ``sahlora segment --job`` takes it. What is answered
on standard output are that command's own events, a line each, and at the end {"event": "answered", "code": exit code}. A request that is wrong is
answered with a sentence, and the next is waited for. The process ends with its standard input, and by itself where nothing was asked for a while.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .cli import BUG_EXIT_CODE, main
from .errors import ConfigError, one_line
from .events import JsonEvents
from .startup import own_process

if TYPE_CHECKING:
    from .segmenter import SegmentConfig, Segmenter
    from .weights import ModelInfo

#: A process that waits costs memory: after so long it is more likely that nobody comes.
IDLE_SECONDS = 600.0

#: Around each request, from its job file on.
Around = Callable[[Path], contextlib.AbstractContextManager[Any]]


class KeptSegmenter:
    """The segmenter of the request before, as long as the same is asked for: weight files unchanged, device and precision the same."""

    def __init__(self) -> None:
        self._kept: Segmenter | None = None
        self._key: tuple[Any, ...] = ()

    def load(self, model: str = "", adapter: str = "", config: SegmentConfig | None = None) -> Segmenter:
        """As `Segmenter.load`. Raises ModelError, ConfigError."""
        from .segmenter import SegmentConfig, Segmenter, choose_models
        from .weights import load_network

        config = config or SegmentConfig()
        base, adapter_info = choose_models(model, adapter)
        key = (config.device, config.precision, _identity(base), _identity(adapter_info))
        if self._kept is None or key != self._key:
            self._kept, self._key = None, ()  # two networks at once would need the memory of both
            self._kept, self._key = Segmenter(load_network(base, adapter_info)[0], base, adapter_info, config), key
        return self._kept.with_config(config)


def serve(read_line: Callable[[], bytes], first: Path | None = None, around: Around = contextlib.nullcontext) -> int:
    """Answer one request after the other until `read_line` gives nothing; returns 0, or the exit code of a request that spoilt the process.

    first: the job file of a request that is there already.
    """
    kept = KeptSegmenter()
    job = first
    while True:
        if job is None:
            line = read_line()
            if not line:
                return 0
            try:
                job = _job_file(line)
            except ConfigError as error:
                JsonEvents().error(str(error))
                _answered(2)
                continue
        with around(job):
            code = main(["segment", "--events=json", "--job", str(job)], load=kept.load)
            good = _give_back()
        _answered(code)
        if code == BUG_EXIT_CODE or not good:
            return code
        job = None


def patient(stream: IO[bytes], seconds: float = IDLE_SECONDS, end: Callable[[], None] = lambda: os._exit(0)) -> Callable[[], bytes]:
    """A reader of lines of `stream` that calls `end` when none came for so long.

    The stream is read between requests only: on Windows a library that is loaded while another thread reads standard input hangs.
    """

    def read_line() -> bytes:
        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            return stream.readline()
        finally:
            timer.cancel()

    return read_line


def _job_file(line: bytes) -> Path:
    """Raises ConfigError."""
    try:
        return Path(json.loads(line)["job"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        text = one_line(line.decode("utf-8", errors="replace"), 80)
        raise ConfigError(f'The request {text} is not a line such as {{"job": "/folder/job.json"}}.') from error


def _answered(code: int) -> None:
    print(json.dumps({"event": "answered", "code": code}), flush=True)


def _identity(info: ModelInfo | None) -> tuple[Any, ...]:
    """What tells a weight file from another, and from what it was before."""
    if info is None:
        return ()
    state = info.path.stat()
    return (str(info.path.resolve()), info.digest, state.st_mtime_ns, state.st_size, state.st_ino)


def _give_back() -> bool:
    """Give the memory of a request back to the system; False where the GPU has failed, which stays so until the process ends."""
    gc.collect()
    torch = sys.modules.get("torch")
    try:
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
    except RuntimeError:
        return False
    with contextlib.suppress(OSError, AttributeError):  # another system's C library
        if sys.platform == "linux":
            ctypes.CDLL("libc.so.6").malloc_trim(0)
    return True


if __name__ == "__main__":
    own_process()
    sys.exit(serve(patient(sys.stdin.buffer)))
