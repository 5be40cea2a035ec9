"""The slices that training draws from: read once, resampled to the network's pixels, kept small, drawn in a fixed order.

A slice is kept as int16 HU and as uint8 share of blood (255 = all of the pixel), 3 bytes a pixel: about 0.1 MB. What does not fit the memory that is
allowed lies in files and is mapped. `draw` gives the slices of a step as a pure function of seed and step, so a resumed training goes on
exactly where it stopped.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from .ahead import READERS, in_order
from .device import threads
from .errors import CaseError, SAHLoRAError
from .events import Events
from .slices import PixelGrid, head_window, mask_to_network, network_size, to_network
from .volume import AIR_HU, CTVolume

#: What training takes as a case: an object with `read() -> (CTVolume, mask)` such as `cases.Case`, a function like that, or the pair itself.
Readable = Any

#: What a pass over the slices with blood has once: every slice, or every case that bleeds; see `SliceCache.draw`.
DRAWN_BY = ("slice", "case")


@dataclass(frozen=True, eq=False)
class CachedCase:
    """One scan on the network's pixels; only slices that hold head or blood.

    hu: (n, H, W) int16, HU. blood: (n, H, W) uint8, share of the pixel that the mask covers, 255 = all. pixel_ml: (n,) mL of one pixel.
    """

    name: str
    hu: Tensor
    blood: Tensor
    pixel_ml: Tensor

    @property
    def target(self) -> Tensor:
        """(n, H, W) bool: the mask, where it covers at least half of the pixel."""
        return self.blood >= 128

    @property
    def positive(self) -> Tensor:
        """(n,) bool: slices with blood on at least one pixel."""
        return self.target.flatten(1).any(dim=1)


class SliceCache:
    """Cases on one network grid. `positives` and `negatives` are (case, slice) pairs in the order of the cases.

    bleeding: the positives again, a list for each case that has any.
    """

    def __init__(self, cases: Iterable[CachedCase], grid: PixelGrid) -> None:
        self.cases = tuple(cases)
        self.grid = grid
        index = [(c, k, bool(positive)) for c, case in enumerate(self.cases) for k, positive in enumerate(case.positive)]
        self.positives = [(c, k) for c, k, positive in index if positive]
        self.negatives = [(c, k) for c, k, positive in index if not positive]
        self.bleeding = [list(slices) for _, slices in groupby(self.positives, key=itemgetter(0))]

    @classmethod
    def read(
        cls,
        cases: Iterable[Readable],
        grid: PixelGrid,
        *,
        memory_gb: float = 4.0,
        spill: Path | None = None,
        events: Events | None = None,
        stage: str = "reading cases",
    ) -> SliceCache:
        """Read every case once. memory_gb: what may lie in memory; the rest is mapped from files in the folder `spill` (kept in memory without one).

        Raises the cases' own errors, named by case.
        """
        events = events or Events()
        cases = list(cases)
        held: list[CachedCase] = []
        used = 0
        workers = min(READERS, torch.get_num_threads())
        with threads(torch.get_num_threads() // workers):
            read = in_order(lambda numbered: cache_case(numbered[1], grid, numbered[0]), enumerate(cases), workers)
            for number, cached in enumerate(read):
                events.check_cancel()
                events.progress(stage, number, len(cases), case_name(cases[number], number))
                size = cached.hu.nbytes + cached.blood.nbytes
                if spill is not None and used + size > memory_gb * 1e9:
                    cached = _mapped(cached, spill / f"{stage.replace(' ', '-')}-{number:05}")
                else:
                    used += size
                held.append(cached)
        events.progress(stage, len(cases), len(cases))
        return cls(held, grid)

    def __len__(self) -> int:
        return len(self.positives) + len(self.negatives)

    def fingerprint(self) -> str:
        """16 hexadecimal digits over names, slices and masks: a checkpoint is not continued on other cases."""
        sha = hashlib.sha256()
        for case in self.cases:
            sha.update(f"{case.name} {tuple(case.hu.shape)}".encode())
            sha.update(case.blood.flatten(1).sum(dim=1, dtype=torch.int64).numpy().tobytes())
            sha.update(case.hu.flatten(1).sum(dim=1, dtype=torch.int64).numpy().tobytes())
        return sha.hexdigest()[:16]

    @functools.cached_property
    def masks(self) -> str:
        """16 hexadecimal digits over every pixel of the masks: `fingerprint` adds up slices, whether or not one was mirrored or moved within."""
        sha = hashlib.sha256()
        for case in self.cases:
            sha.update(case.blood.contiguous().numpy().tobytes())
        return sha.hexdigest()[:16]

    def draw(self, seed: int, step: int, batch: int, positive_share: float, by: str = "slice") -> list[tuple[int, int]]:
        """The (case, slice) pairs of a step, positive and negative alternating; a pure function of its arguments.

        Positives come round in shuffled passes, negatives in passes of their own. Where there are no slices of a kind, the other fills the batch.
        by: a pass of positives has every slice once (slice), or one slice of every case that bleeds (case), a case's slices taking turns.
        """
        wanted = float(batch) if not self.negatives else batch * positive_share if self.positives else 0.0
        # Counted over all steps: a batch of one has blood in every second step where the share is a half.
        begin, end = (int(n * wanted + 1e-9) for n in (step, step + 1))
        first, rest = range(begin, end), range(step * batch - begin, (step + 1) * batch - end)
        drawn = [
            [self._of_next_case(i, seed) if by == "case" else self.positives[_shuffled(len(self.positives), i, seed, 0)] for i in first],
            [self.negatives[_shuffled(len(self.negatives), i, seed, 1)] for i in rest],
        ]
        # Spread evenly, so that any part of the batch (a process's share) has both kinds.
        places = sorted(((i + 0.5) / len(group), kind, pair) for kind, group in enumerate(drawn) for i, pair in enumerate(group))
        return [pair for _, _, pair in places]

    def _of_next_case(self, i: int, seed: int) -> tuple[int, int]:
        """Element i of an endless sequence of passes over the cases that bleed."""
        slices = self.bleeding[_shuffled(len(self.bleeding), i, seed, 0)]
        return slices[_shuffled(len(slices), i // len(self.bleeding), seed, 2 + slices[0][0])]

    def gather(self, pairs: list[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
        """hu (n, 1, H, W) float32, HU; blood (n, 1, H, W) float32 in [0, 1]; sizes (n, 2) rows and columns of each before padding with air."""
        sizes = torch.tensor([self.cases[c].hu.shape[1:] for c, _ in pairs])
        rows, columns = (int(v) for v in sizes.max(dim=0).values)
        hu = torch.full((len(pairs), 1, rows, columns), AIR_HU)
        blood = torch.zeros((len(pairs), 1, rows, columns))
        for i, (c, k) in enumerate(pairs):
            h, w = self.cases[c].hu.shape[1:]
            hu[i, 0, :h, :w] = self.cases[c].hu[k]
            blood[i, 0, :h, :w] = self.cases[c].blood[k]
        return hu, blood.div_(255.0), sizes

    def require_blood(self) -> None:
        """Raise CaseError where there is nothing to learn from."""
        if not self.cases:
            raise CaseError("There are no cases to train on.")
        if not self.positives:
            raise CaseError(f"None of the {len(self.cases)} training cases has blood in its mask; check the masks and the chosen segment.")


def case_name(case: Readable, number: int) -> str:
    """The case's own name, or its number from 1."""
    return str(getattr(case, "case", None) or getattr(case, "name", None) or f"case {number + 1}")


def cache_case(case: Readable, grid: PixelGrid, number: int = 0) -> CachedCase:
    """Read one case onto the network's pixels. Raises the case's own errors, CaseError for a mask of another shape."""
    name = case_name(case, number)
    ct, mask = _read(case)
    if mask.shape != ct.shape:
        raise CaseError(f"Case {name}: the mask has the shape {mask.shape}, the scan {ct.shape}; they must lie on one grid.")
    head = head_window(ct)
    slices = np.union1d(np.asarray(head.slices, dtype=int), np.flatnonzero(mask.any(axis=(1, 2))))
    rows, columns = network_size(ct, grid, head)
    hu = to_network(ct, grid, slices, head)[:, 0, :rows, :columns]
    blood = mask_to_network(mask, ct, grid, head, slices)[:, 0, :rows, :columns]
    pixel_ml = torch.from_numpy(ct.slice_thicknesses[slices] * grid.pixel_mm**2 / 1000.0)
    return CachedCase(name, hu.round().to(torch.int16), (blood * 255).round().to(torch.uint8), pixel_ml)


def seeded(seed: int, *parts: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one place of the work, for instance (seed, step, slice); places do not overlap."""
    state = int(np.random.SeedSequence((seed, *parts)).generate_state(1, np.uint64)[0]) >> 1
    return torch.Generator(device).manual_seed(state)


def _shuffled(count: int, i: int, seed: int, kind: int) -> int:
    """Element i of an endless sequence of passes over range(count), each pass in an order of its own."""
    turn, place = divmod(i, count)
    key = (count, seed, kind, turn)
    order = _orders.get(key)
    if order is None:
        if len(_orders) > 8:
            _orders.clear()
        order = _orders[key] = torch.randperm(count, generator=seeded(seed, 1, kind, turn)).tolist()
    return order[place]


_orders: dict[tuple[int, int, int, int], list[int]] = {}


def _read(case: Readable) -> tuple[CTVolume, np.ndarray]:
    if isinstance(case, tuple):
        return case[0], case[1]
    reader: Callable[[], tuple[CTVolume, np.ndarray]] = case.read if hasattr(case, "read") else case
    return reader()


def _mapped(case: CachedCase, path: Path) -> CachedCase:
    """The same case with its arrays in files."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = []
        for tensor, suffix in ((case.hu, ".hu"), (case.blood, ".blood")):
            file = path.with_suffix(suffix)
            tensor.numpy().tofile(file)
            arrays.append(torch.from_file(str(file), shared=False, size=tensor.numel(), dtype=tensor.dtype).view(tensor.shape))
    except OSError as error:
        raise SAHLoRAError(f"Slices cannot be kept in {path.parent}: {error.strerror or error}. Free some space or allow more memory.") from error
    return CachedCase(case.name, arrays[0], arrays[1], case.pixel_ml)


def padded(hu: Tensor, multiple: int) -> Tensor:
    """(n, H, W) HU → (n, 1, H', W') float32, padded with air on the right and at the bottom to a multiple."""
    rows, columns = hu.shape[1:]
    return pad(hu[:, None].float(), (0, -columns % multiple, 0, -rows % multiple), value=AIR_HU)
