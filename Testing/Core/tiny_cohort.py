"""A cohort of tiny head CT with haemorrhage and a base that finds some of it: whole studies in seconds."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from SAHLoRALib.events import Events
from SAHLoRALib.slices import PixelGrid
from SAHLoRALib.study import StudyResult, run_study
from SAHLoRALib.study_config import PAPER, StudyConfig
from SAHLoRALib.training_config import TrainingConfig
from SAHLoRALib.weights import ModelInfo, save_base
from tiny_scans import CONFIG, bright_network

#: Slices, rows, columns and mm between them: a head of 130 × 175 × 145 mm.
SHAPE = (8, 40, 34)
SPACING = (16.0, 5.0, 5.0)
GRID = PixelGrid(pixel_mm=5.0, multiple=4)
#: What every training of these tests needs to be short.
QUICK: dict[str, Any] = {"steps": 2, "steps_per_epoch": 2, "batch": 4, "crop": (40, 32), "threads": 1, "device": "cpu", "precision": "float32"}


def blood(size: int) -> np.ndarray:
    """A box of size³ voxels at most, in the middle of the brain."""
    mask = np.zeros(SHAPE, bool)
    deep = min(size, 4)
    mask[4 - deep // 2 : 4 + (deep + 1) // 2, 18 : 18 + size, 14 : 14 + size] = True
    return mask


def head(mask: np.ndarray, seed: int, hu: float = 52.0) -> np.ndarray:
    """(slices, rows, columns) int16 HU: brain of 32 HU in a closed skull, scalp around it, blood about as bright as the base's threshold."""
    z, y, x = (np.linspace(-1, 1, n).reshape([-1 if a == axis else 1 for a in range(3)]) for axis, n in enumerate(SHAPE))
    r = np.sqrt((z / 1.05) ** 2 + (y / 0.88) ** 2 + (x / 0.88) ** 2)
    values = np.where(r < 0.80, 32.0, np.where(r < 0.93, 1100.0, np.where(r < 1.0, 20.0, -1000.0)))
    values[mask] = hu
    return (values + np.random.default_rng(seed).normal(0, 3, SHAPE)).round().astype(np.int16)


def save_case(folder: Path, name: str, size: int, seed: int) -> None:
    """ct.nrrd and mask.nrrd in a folder of that name; size 0: without haemorrhage."""
    mask = blood(size)
    (folder / name).mkdir(parents=True, exist_ok=True)
    for file, array in (("ct", head(mask, seed, 46 + seed % 5 * 3)), ("mask", mask.astype(np.uint8))):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(SPACING[::-1])
        sitk.WriteImage(image, str(folder / name / f"{file}.nrrd"), True)


def save_cohort(folder: Path, sizes: Sequence[int] = (2, 3, 3, 4, 4, 5, 6, 7, 8), patients: Sequence[str] | None = None) -> Path:
    """Cases a00, a01 …, one patient each unless said otherwise; returns cases.csv."""
    rows = ["case,image,mask,patient,site,haemorrhage"]
    for n, size in enumerate(sizes):
        name = f"a{n:02}"
        save_case(folder, name, size, n)
        patient = patients[n] if patients else f"p{n:02}"
        rows.append(f"{name},{name}/ct.nrrd,{name}/mask.nrrd,{patient},here,{'yes' if size else 'no'}")
    path = folder / "cases.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def save_tiny_base(folder: Path, name: str = "tiny", threshold_hu: float = 52.0) -> ModelInfo:
    """A base that takes for blood what is brighter than threshold_hu."""
    return save_base(bright_network(threshold_hu), folder / f"{name}.safetensors", grid=GRID)


def user_models(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's model folder, with a base in it."""
    monkeypatch.setenv("SAHLORA_MODELS", str(folder / "models"))
    save_tiny_base(folder / "models")
    return folder / "models"


class CancelAfter(Events):
    """Cancels when the given number of events of a kind has come; keeps all events as (kind, fields)."""

    def __init__(self, count: int | None = None, kind: str = "metric") -> None:
        super().__init__()
        self.told: list[tuple[str, dict[str, Any]]] = []
        self._count, self._kind = count, kind

    def _emit(self, event: str, **fields: Any) -> None:
        self.told.append((event, fields))
        if self._count is not None and sum(kind == self._kind for kind, _ in self.told) >= self._count:
            self.cancel()

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [fields for event, fields in self.told if event == kind]


def quick(**changes: Any) -> TrainingConfig:
    """A training of two steps."""
    return TrainingConfig(**{**QUICK, "network": CONFIG, "grid": GRID, **changes})


def flags(prefix: str = "") -> list[str]:
    """QUICK for the command line. The base's network decides, so its own settings need not be told."""
    words = []
    for name, value in (QUICK | {"network.levels": 2, "network.width": 4}).items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{prefix}{name.replace('_', '-')}", *(str(v) for v in values)]
    return words


@functools.cache
def whole_study() -> tuple[StudyConfig, StudyResult]:
    """A study of all strategies and methods with 3 folds on 9 cases, done once for all tests that look at it."""
    folder = Path(tempfile.mkdtemp(prefix="sahlora-study-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    base = save_tiny_base(folder)
    methods = (*PAPER, "loralib", "tucker")
    config = StudyConfig(save_cohort(folder / "cases"), folder / "study", str(base.path), methods, resamples=200, training=quick())
    return config, run_study(config, Events())
