"""Property tests take the time they need: a slow or busy machine must not make one fail. And what tests of training and of cases start from."""

from __future__ import annotations

from pathlib import Path
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


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """a and b: scans with masks, c: a scan without haemorrhage."""
    from small_cases import save_cases

    return save_cases(tmp_path)
