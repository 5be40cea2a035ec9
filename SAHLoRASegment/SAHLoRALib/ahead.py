"""Work that is begun before its result is asked for: reading files while others are read, making batches while the network computes."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Done = TypeVar("Done")

#: Files that are read side by side: each holds a whole scan in memory meanwhile.
READERS = min(4, os.cpu_count() or 1)


def in_order(work: Callable[[Item], Done], items: Iterable[Item], workers: int = READERS) -> Iterator[Done]:
    """work(item) of every item, in the items' order, computed in threads at most `workers` ahead; each error comes where its result would.

    Ends its threads when the caller stops listening, after what they have in hand.
    """
    if workers < 2:
        yield from map(work, items)
        return
    waiting: deque[Future[Done]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class Feed(Generic[Done]):
    """Batches by their step, made by threads while the network computes on those before; on a GPU on streams of their own.

    make(step): a pure function that gives an object with tensors as attributes, on `device`. last: the step that is not made any more. workers: 0
    makes each batch when it is asked for, as is best where the network needs the processor itself.
    """

    def __init__(self, make: Callable[[int], Done], device: torch.device, last: int, workers: int | None = None) -> None:
        self._make, self._device, self._last = make, device, last
        self._workers = (2 if device.type == "cuda" else 0) if workers is None else workers
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="feed") if self._workers else None
        self._waiting: dict[int, Future[tuple[Done, Any]]] = {}
        self._own = threading.local()

    def batch(self, step: int) -> Done:
        """The batch of a step; the following ones are begun."""
        if self._pool is None:
            return self._make(step)
        for number in range(step, min(step + 2 * self._workers, self._last)):
            if number not in self._waiting:
                self._waiting[number] = self._pool.submit(self._prepared, number)
        made, ready = self._waiting.pop(step).result()
        if ready is not None:
            import torch

            now = torch.cuda.current_stream(self._device)
            now.wait_event(ready)
            for tensor in vars(made).values():
                tensor.record_stream(now)  # its memory is not given away while the network reads it
        return made

    def close(self) -> None:
        """Give up what nobody will ask for."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _prepared(self, step: int) -> tuple[Done, Any]:
        if self._device.type != "cuda":
            return self._make(step), None
        import torch

        if not hasattr(self._own, "stream"):  # one a thread, so that each goes on in the memory it had
            self._own.stream = torch.cuda.Stream(self._device)
        with torch.cuda.stream(self._own.stream):
            made = self._make(step)
            return made, self._own.stream.record_event()
