"""What the tests of SAHLoRA Train put into the scene: small heads with a bleed, and cases of them in the panel."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from fake_process import wait as wait_for

wait = partial(wait_for, seconds=150.0)


def head(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(slices, rows, columns) HU of a skull with brain, and the mask of a bleed in it."""
    k, j, i = np.ogrid[0:8, 0:48, 0:48]
    r = np.hypot(j - 24, i - 24)
    hu = np.where(r < 20, np.where(r < 17, 32, 1000), -1000) + np.zeros((8, 48, 48))
    hu = (hu + np.random.default_rng(seed).normal(0, 3, hu.shape)).astype(np.int16)
    mask = (np.hypot(j - 20 - seed % 5, i - 26) < 5) & (k >= 2) & (k < 6)
    hu[mask] = 65
    return hu, mask.astype(np.uint8)


def scene_case(seed: int) -> tuple[Any, Any, str]:
    from SAHLoRASlicer import segmentations, volumes

    hu, mask = head(seed)
    volume = volumes.volume_from_array(hu, np.diag([-4.0, -4.0, 5.0, 1.0]), f"CT {seed}")
    return volume, *segmentations.add_segment(mask, volume)


def far_off(seed: int) -> tuple[Any, Any, str]:
    """A case at a table position of -900 mm."""
    from SAHLoRASlicer import segmentations, volumes

    hu, mask = head(seed)
    place = np.diag([-4.0, -4.0, 5.0, 1.0])
    place[:3, 3] = (100.0, 100.0, -900.0)
    volume = volumes.volume_from_array(hu, place, "far off")
    return volume, *segmentations.add_segment(mask, volume)


def add(train: Any, count: int) -> None:
    for seed in range(count):
        train.panel.cases.add_node(*scene_case(seed), f"patient-{seed}")
    wait(lambda: not train.panel.cases.report.unchecked)
