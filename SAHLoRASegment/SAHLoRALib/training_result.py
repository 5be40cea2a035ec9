"""What a training gives: the network with its history, and the model file that is written of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .adapters import is_adapted
from .network import MultiViewUnet
from .provenance import SCANS, program, used_scans
from .training_config import TrainingConfig
from .validation import Score
from .weights import ModelInfo, save_adapter, save_base


@dataclass(frozen=True, eq=False)
class FitResult:
    """network: on the CPU in evaluation mode with the best weights, its adapter attached and not merged.

    config: as it was run (network and grid are the base's). history: one entry an epoch: epoch, step, loss, learning_rate, seconds, and from
    validation dice, soft_dice, threshold, best_dice, false_ml. best: the validation of what was kept; None without validation cases. threshold: for
    the probability. Of an adapter with a strength below 1 both are the merged network's, while the history is of full strength. trainable: how
    many numbers learnt. seconds: of all sittings together. stopped_early: patience ran out. leads: this process is the one that writes files; False
    in all others of a torchrun. start: the model that was gone on from.
    """

    network: MultiViewUnet
    config: TrainingConfig
    base: ModelInfo | None
    history: list[dict[str, Any]]
    best: Score | None
    best_step: int
    threshold: float
    steps: int
    trainable: int
    seconds: float
    peak_memory_mb: float
    stopped_early: bool
    notes: tuple[str, ...] = ()
    leads: bool = True
    start: ModelInfo | None = None


def save_model(
    result: FitResult,
    path: Path | str,
    *,
    metrics: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    description: str = "",
    licence: str = "Apache-2.0",
    half: bool = False,
) -> ModelInfo:
    """Write what was trained: an adapter, a fine-tuned network or a base. metrics and training are added to what the result knows itself; to the
    scans of the training (`provenance.SCANS`) those of the model that was gone on from, and of the base where that is part of what is written.

    half: kernels as float16; what the result measured was measured before they were rounded.
    """
    told = {
        "config": result.config.as_dict(), "steps": result.steps, "best_step": result.best_step, "trainable": result.trainable,
        "seconds": round(result.seconds, 1), "peak_memory_mb": round(result.peak_memory_mb), "notes": list(result.notes), "program": program(),
        **(training or {}),
    }  # fmt: skip
    adapted = is_adapted(result.network)
    before = [model for model in (result.start, None if adapted else result.base) if model is not None]
    if scans := used_scans(told).union(*(used_scans(model.training) for model in before)):
        told[SCANS] = sorted(scans)
    if result.start is not None:
        told["continued_from"] = {"name": result.start.name, "digest": result.start.digest}
    measured = ({"validation": result.best.as_dict()} if result.best else {}) | dict(metrics or {})
    common = {
        "training": told, "metrics": measured, "description": description, "licence": licence, "threshold": result.threshold, "half": half,
    }  # fmt: skip
    if adapted:
        assert result.base is not None
        return save_adapter(result.network, result.config.adapter, path, base=result.base, **common)  # type: ignore[arg-type]
    if result.base is None:
        return save_base(result.network, path, grid=result.config.grid, **common)  # type: ignore[arg-type]
    origin = {"kind": "finetuned", "base_digest": result.base.digest, "base_name": result.base.name}
    return save_base(result.network, path, grid=result.config.grid, **origin, **common)  # type: ignore[arg-type]
