"""Property tests take the time they need: a slow or busy machine must not make one fail. And what several tests of training start from."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("any speed", deadline=None)
settings.load_profile("any speed")


@pytest.fixture(scope="module")
def train() -> Any:
    """Cached cases to learn from."""
    from small_training import training_cases

    return training_cases()


@pytest.fixture(scope="module")
def validation() -> Any:
    """Cached cases to judge by, one of them without blood."""
    from small_training import validation_cases

    return validation_cases()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The header of a small base."""
    from small_training import base_model

    return base_model(tmp_path_factory.mktemp("models"))
