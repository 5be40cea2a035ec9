"""Tables of a study from the rows of its runs, and what its methods are held against."""

from __future__ import annotations

import math
from typing import Any

import pytest
from SAHLoRALib.claims import OPEN
from SAHLoRALib.errors import ConfigError
from SAHLoRALib.runs import Run, RunResult
from SAHLoRALib.study_tables import choose_reference, make_tables
from SAHLoRALib.training_config import TrainingConfig


def run(method: str, label: str, rank: int = 0, variant: bool = False) -> Run:
    return Run(method, rank, label, None, TrainingConfig(strategy="scratch"), (), (), (), "0" * 64, variant)


RUNS = [
    run("cp-lora", "cp-lora, rank 8", 8),
    run("cp-lora", "cp-lora, rank 4", 4),
    run("cp-lora", "norm adapt", 2, variant=True),
    run("all", "all, half the rate", variant=True),
]


def test_a_method_as_reference_means_its_lowest_rank_and_no_variant() -> None:
    assert choose_reference("cp-lora", RUNS) == "cp-lora, rank 4"
    assert choose_reference("norm adapt", RUNS) == "norm adapt"
    with pytest.raises(ConfigError, match="'all' is not among the runs"):
        choose_reference("all", RUNS)


def test_no_variant_stands_in_for_fine_tuning_of_all() -> None:
    assert choose_reference("", RUNS) == "cp-lora, rank 8"
    assert choose_reference("", [*RUNS, run("zero-shot", "zero-shot")]) == "zero-shot"


def rows(count: int = 8, missed: int = 0) -> list[dict[str, Any]]:
    """What `case_metrics` gives of so many patients; nothing is found in the last `missed`."""
    made = []
    for n in range(1, count + 1):
        annotated, predicted, overlap = (1000 * n, 900 * n, 800 * n) if n <= count - missed else (1000 * n, 0, 0)
        ml = {f"{name}_ml": value / 1000 for name, value in (("annotated", annotated), ("predicted", predicted), ("overlap", overlap))}
        made.append({
            "case": f"c{n}", "patient": f"p{n}", "site": "", "hd95_mm": 1.0 if predicted else math.nan, "surface_dice": 0.5, **ml,
            "false_positive_ml": ml["predicted_ml"] - ml["overlap_ml"], "false_negative_ml": ml["annotated_ml"] - ml["overlap_ml"],
            "error_ml": ml["predicted_ml"] - ml["annotated_ml"], "absolute_error_ml": ml["annotated_ml"] - ml["predicted_ml"],
            "annotated_voxels": annotated, "predicted_voxels": predicted, "overlap_voxels": overlap,
            "soft_overlap": math.nan, "soft_total": math.nan,
        })  # fmt: skip
    return made


def test_a_study_of_training_from_scratch_alone_gives_its_tables() -> None:
    only = run("scratch", "from scratch")
    tables = make_tables([(only, RunResult("0" * 64, only.label, None, rows(), trainable=10))], None, resamples=20)
    assert tables.reference == "from scratch" and len(tables.comparison) == 0
    assert [claim.verdict for claim in tables.claims] == [OPEN] * 5


def test_the_table_of_methods_says_how_many_patients_precision_and_distance_rest_on() -> None:
    only = run("scratch", "from scratch")
    clean = rows(1)[0] | {"case": "clean", "patient": "clean", "annotated_ml": 0.0, "annotated_voxels": 0, "overlap_voxels": 0, "overlap_ml": 0.0}
    tables = make_tables([(only, RunResult("0" * 64, only.label, None, [*rows(8, missed=2), clean], trainable=10))], None, resamples=20)
    row = tables.methods.iloc[0]
    assert (row["patients"], row["dice_n"], row["precision_n"], row["hd95_n"]) == (9, 8, 6, 6)
