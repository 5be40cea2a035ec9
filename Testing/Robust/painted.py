"""Blood painted into a real scan without haemorrhage: how much of it the bundled models find among real noise, bone and hardening.

    python Testing/Robust/painted.py SCAN --each 4

Prints Dice by kind (in the brain, a subdural film of 4 to 14 mm, in fissures and cisterns, sunk to the back of the ventricles) and the false mL in
the scan as it is. What is painted keeps the scan's noise and the bright rim under its bone. It is a trial of one anatomy, no substitute for annotated
scans; nothing is chosen by it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from SAHLoRALib.catalogue import Catalogue
from SAHLoRALib.ct import read_ct
from SAHLoRALib.discs import within
from SAHLoRALib.errors import SAHLoRAError, ScanError
from SAHLoRALib.metrics import dice
from SAHLoRALib.model_folders import bundled_folders
from SAHLoRALib.segmenter import DEFAULT_MODEL, NONE, Segmenter
from SAHLoRALib.skull import intracranial
from SAHLoRALib.slices import volume_ml
from SAHLoRALib.volume import CTVolume
from scipy import ndimage

KINDS = ("in the brain", "subdural", "subarachnoid", "in the ventricles")
#: HU that hardening adds below the bone, by mm from the first soft pixel: about what ct-ge-tilt has (see `phantom.scanner`).
RIM_MM, RIM_HU = (0.3, 1.0, 2.5, 6.0, 12.0), (20.0, 14.0, 7.0, 3.0, 0.0)


class Canvas:
    """A scan to paint into. inside: soft pixels within the skull. depth: mm from its edge in the slice. tissue: HU without the noise."""

    def __init__(self, ct: CTVolume) -> None:
        self.ct, self.pixel = ct, ct.spacing[0]
        self.inside = intracranial(ct) & (ndimage.uniform_filter(ct.hu, (0, 3, 3)) < 130)
        self.depth = np.stack([ndimage.distance_transform_edt(plane, sampling=ct.spacing) for plane in self.inside])
        self.brain = self.inside & (ct.hu < 100) & (ct.hu > -50)
        sums = (self._blurred(np.where(self.brain, ct.hu, 0.0), 1.0), self._blurred(self.brain, 1.0))
        self.tissue = sums[0] / np.maximum(sums[1], 0.05)
        cm2 = self.inside.sum((1, 2)) * ct.spacing[0] * ct.spacing[1] / 100
        self.wide = (cm2 > 60)[:, None, None]
        if not self.wide.any():
            raise ScanError("No slice shows 60 cm² of brain, so there is no room to paint; name a whole head CT.")

    def painted(self, kind: str, seed: int) -> tuple[CTVolume, np.ndarray]:
        """The scan with blood of 52 to 70 HU, and the mask of it."""
        rng = np.random.default_rng(seed)
        if kind == "in the brain":
            radii = np.exp(rng.uniform(np.log(6), np.log(22))) * rng.uniform(0.7, 1.3, 3)
            distance = self._distance(self.inside & (self.depth > 15), rng, radii) * (1 + 0.15 * np.clip(self._noise(5, rng), -1.8, 1.8))
            fraction = np.clip((1 - distance) * radii.min() + 0.5, 0, 1)
        elif kind == "subdural":
            thick, reach = np.exp(rng.uniform(np.log(4), np.log(14))), rng.uniform(35, 70)
            distance = self._distance(self.inside & (self.depth < 2), rng, np.full(3, reach))
            fraction = np.clip(thick * np.sqrt(np.clip(1 - distance**2, 0, 1)) - self.depth + 0.5, 0, 1)
        elif kind == "in the ventricles":
            near = self.ventricles & (self._distance(self.ventricles, rng, np.full(3, rng.uniform(15, 40))) < 1)
            rows = np.arange(near.shape[1])[:, None] - np.quantile(np.nonzero(near)[1], rng.uniform(0, 0.6))
            fraction = self._blurred(near, 0.6) * np.clip(rows * self.pixel + 0.5, 0, 1)
        else:
            fluid = self.fluid & (self.depth > 0.7)
            distance = self._distance(fluid, rng, np.full(3, rng.uniform(25, 45))) * np.exp(0.25 * self._noise(12, rng))
            fraction = np.clip((1 - distance) / 0.2, 0, 1) * self._blurred(fluid, 0.6)
        fraction = self._blurred(fraction * self.inside, 0.5) * self.inside
        blood = rng.uniform(52, 70) + np.interp(self.depth, RIM_MM, RIM_HU) + 2 * self._noise(6, rng)
        hu = np.where(self.brain, self.ct.hu + fraction * (blood - self.tissue), self.ct.hu)
        return replace(self.ct, hu=hu.astype(np.float32)), fraction > 0.5

    @cached_property
    def fluid(self) -> np.ndarray:
        """CSF, and what is as dark."""
        return self.inside & (self.tissue < 20) & (self.tissue > -10)

    @cached_property
    def ventricles(self) -> np.ndarray:
        """Fluid deep in the head, wider than sulci and near the middle."""
        middle = np.nonzero(self.inside & self.wide)[2].mean()
        aside = np.abs(np.arange(self.inside.shape[2]) - middle) * self.pixel
        deep = self.fluid & (self.depth > 25) & (aside < 32)
        return np.stack([within(~within(~plane, 2.2, self.ct.spacing), 2.2, self.ct.spacing) for plane in deep])

    def _distance(self, where: np.ndarray, rng: np.random.Generator, radii: np.ndarray) -> np.ndarray:
        """From a voxel of `where` drawn evenly in slices with much brain, in radii (slices, rows, columns; mm)."""
        places = np.argwhere(where & self.wide)
        if not len(places):
            raise ScanError("There is no room to paint one of the kinds (no fluid, or no ventricle wider than 4 mm); name another head CT.")
        centre = places[rng.integers(len(places))]
        heights = self.ct.positions[:, 2]
        axes = (heights - heights[centre[0]], *((np.arange(n) - c) * self.pixel for n, c in zip(where.shape[1:], centre[1:], strict=True)))
        z, y, x = (axis / radius for axis, radius in zip(axes, radii, strict=True))
        return np.sqrt(z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2)

    def _noise(self, mm: float, rng: np.random.Generator) -> np.ndarray:
        made = ndimage.gaussian_filter(rng.standard_normal(self.ct.hu.shape, dtype=np.float32), (0.7, mm / self.pixel, mm / self.pixel), truncate=2)
        return made / made.std()

    def _blurred(self, planes: np.ndarray, mm: float) -> np.ndarray:
        return ndimage.gaussian_filter(planes.astype(np.float32), (0, mm / self.pixel, mm / self.pixel))


def main() -> None:
    """Paint, segment with every bundled model, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path, help="a head CT without haemorrhage: DICOM folder or image file")
    parser.add_argument("--each", type=int, default=3, help="paintings of each kind")
    given = parser.parse_args()
    if given.each < 1:
        parser.error(f"--each must be 1 or more, not {given.each}.")
    try:
        canvas = Canvas(read_ct(given.scan))
        cases = [(kind, *canvas.painted(kind, seed)) for kind in KINDS for seed in range(given.each)]
    except SAHLoRAError as error:
        parser.error(str(error))
    print("painted mL:", "; ".join(f"{kind} " + ", ".join(f"{volume_ml(m, ct):.1f}" for k, ct, m in cases if k == kind) for kind in KINDS))
    print(f"| model | {' | '.join(KINDS)} | false mL |\n|{'---|' * (len(KINDS) + 2)}")
    bundled = Catalogue(bundled_folders())
    for adapter in (NONE, *(info.name for info in bundled.models() if info.kind == "adapter")):
        segmenter = Segmenter.load(adapter=adapter, catalogue=bundled)
        found: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for kind, ct, mask in cases:
            found[kind].append(dice(segmenter.segment(ct).mask, mask))
        false_ml = segmenter.segment(canvas.ct).report.total_ml
        print(f"| {DEFAULT_MODEL if adapter == NONE else adapter} |", " | ".join(f"{np.mean(v):.2f}" for v in found.values()), f"| {false_ml:.2f} |")


if __name__ == "__main__":
    main()
