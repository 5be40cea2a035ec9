"""A few damaged inputs for every reader; `python Testing/Robust/fuzz.py --minutes 30` reads as many as one likes."""

from __future__ import annotations

import pytest
from fuzz_targets import TARGETS, Target, one_line
from hypothesis import HealthCheck, given, settings


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_whatever_is_read_is_taken_or_refused_in_one_line(target: Target) -> None:
    @settings(max_examples=5, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(target.inputs())
    def read(data: bytes) -> None:
        one_line(target, data)

    read()
