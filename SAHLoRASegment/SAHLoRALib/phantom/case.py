"""One synthetic case: head + kind + seed → CT with mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..volume import CTVolume
from .anatomy import CORTEX, WHITE, Head
from .lesions import aneurysmal, traumatic
from .scanner import ScannerConfig, acquire, draw_pose, draw_scanner
from .tissue import draw_patient

#: tbi: traumatic brain injury; asah: aneurysmal subarachnoid haemorrhage; none: no haemorrhage.
KINDS = ("tbi", "asah", "none")


@dataclass(frozen=True, eq=False)
class PhantomCase:
    """ct, mask (slices, rows, columns) bool; kind; head; what was painted; the scanner."""

    ct: CTVolume
    mask: np.ndarray
    kind: str
    head: str
    painted: tuple[str, ...]
    scanner: ScannerConfig


def make_case(
    head: Head,
    kind: str,
    seed: int,
    scanner: ScannerConfig | None = None,
    matrix: int = 512,
    slices: int | None = None,
    site: str = "",
    warp: float = 1.0,
) -> PhantomCase:
    """A synthetic head CT with its annotation; the same arguments give the same case.

    kind: one of KINDS. scanner: None draws one of `site` (without it A for tbi and none, B for asah), `matrix` rows and columns, `slices` slices.
    warp: how far the head is made another's, 1 to 3 (`draw_pose`).
    """
    if kind not in KINDS:
        raise ConfigError(f"There is no kind of case called '{kind}'; choose one of {', '.join(KINDS)}.")
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    scanner = scanner or draw_scanner(rng, matrix, slices, site=site or ("B" if kind == "asah" else "A"))
    hu = draw_patient(head, rng, operated=0.03 if kind == "tbi" else 0.06)
    if kind == "none":
        fraction, painted = np.zeros(hu.shape, np.float32), tuple[str, ...]()
    else:
        bleeding = (traumatic if kind == "tbi" else aneurysmal)(head, hu, rng)
        hu, fraction, painted = bleeding.hu, bleeding.fraction, tuple(bleeding.kinds)
    fraction *= head.inside
    brain = head.where(*WHITE, *CORTEX)
    spans = [np.nonzero(brain.any(axis=axes))[0] for axes in ((1, 2), (0, 2), (0, 1))]
    centre = np.array([(s.min() + s.max()) / 2 for s in spans]) + rng.normal(0, 3, 3)
    centre[0] += rng.uniform(-12, 4)
    ct, mask = acquire(hu, fraction, centre, draw_pose(rng, hu.shape, warp), scanner, rng)
    return PhantomCase(ct, mask, kind, head.name, painted, scanner)
