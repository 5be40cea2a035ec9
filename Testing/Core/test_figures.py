"""What the pictures of a study join and name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from SAHLoRALib import figures

ROWS = [
    ("zero-shot", "zero-shot", "none", 0, 0), ("from scratch", "scratch", "scratch", 0, 4000), ("fine-tuning all", "all", "standard", 0, 4000),
    ("cp-lora, rank 2", "cp-lora", "adapter", 2, 50), ("cp-lora, rank 16", "cp-lora", "adapter", 16, 400),
    ("cp-lora, norm adapt", "cp-lora", "variant", 16, 400), ("half the rate", "all", "variant", 0, 4000),
]  # fmt: skip


@pytest.fixture
def axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of Dice against parameters."""
    drawn: list[Any] = []
    save = figures._save
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure) or save(figure, path))
    table = pd.DataFrame(ROWS, columns=["label", "method", "kind", "rank", "trainable"])
    table = table.assign(kernel_numbers=300, dice=0.5 + table.index / 100, dice_low=0.4, dice_high=0.7)
    assert figures.dice_against_parameters(table, tmp_path / "figure.png").stat().st_size > 0
    return drawn[0].axes[0]


def test_variants_are_no_ranks_of_the_method_that_they_vary(axis: Any) -> None:
    joined = [list(line.get_xdata()) for line in axis.get_lines() if line.get_linestyle() == "-" and len(line.get_xdata()) > 1]
    assert joined == [[50, 400]]
    assert [text.get_text() for text in axis.texts] == ["r2", "r16"]


def test_every_variant_and_training_from_scratch_has_a_name_and_a_marker_of_its_own(axis: Any) -> None:
    handles, labels = axis.get_legend_handles_labels()
    points = {label: handle for handle, label in zip(handles, labels, strict=True) if hasattr(handle, "get_paths")}
    assert list(points) == ["from scratch", "all", "cp-lora", "cp-lora, norm adapt", "half the rate"]
    assert len({handle.get_paths()[0].vertices.tobytes() for handle in points.values()}) == 5
