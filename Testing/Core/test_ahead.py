"""Work that is begun before it is asked for gives the same, in the same order, and ends when nobody listens."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import pytest
import torch
from SAHLoRALib.ahead import Feed, in_order


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    def slow_for_the_first(n: int) -> int:
        time.sleep(0.02 if n == 0 else 0)
        return n * n

    assert list(in_order(slow_for_the_first, range(10), workers)) == [n * n for n in range(10)]


def test_several_are_in_work_at_a_time_but_no_more_than_were_allowed() -> None:
    now, most, lock = 0, 0, threading.Lock()

    def work(n: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        return n

    list(in_order(work, range(12), 3))
    assert most == 3


def test_an_error_comes_where_its_result_would_and_the_rest_is_given_up() -> None:
    begun = []

    def work(n: int) -> int:
        begun.append(n)
        if n == 2:
            raise ValueError("the third")
        return n

    results = in_order(work, range(100), 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(results)
    assert len(begun) < 10


@dataclass
class Made:
    values: torch.Tensor


@pytest.mark.parametrize("workers", [0, 2])
def test_a_feed_gives_each_step_its_own_batch(workers: int) -> None:
    asked = []

    def make(step: int) -> Made:
        asked.append(step)
        return Made(torch.full((2,), float(step)))

    feed = Feed(make, torch.device("cpu"), 9, workers)
    found = [feed.batch(step).values[0].item() for step in range(3, 9)]
    feed.close()
    assert found == [3, 4, 5, 6, 7, 8]
    assert sorted(asked) == [3, 4, 5, 6, 7, 8]  # none twice, none after the last


def test_a_feed_makes_batches_before_they_are_asked_for() -> None:
    made = threading.Semaphore(0)

    def make(step: int) -> Made:
        made.release()
        return Made(torch.zeros(1))

    feed = Feed(make, torch.device("cpu"), 100, 1)
    feed.batch(0)
    assert made.acquire(timeout=5)
    assert made.acquire(timeout=5)  # the second, which nobody has asked for yet
    feed.close()
