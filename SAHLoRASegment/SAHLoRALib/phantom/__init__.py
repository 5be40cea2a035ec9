"""Synthetic head CT with traumatic and aneurysmal haemorrhage, made from label maps of real anatomies.

From head to scan: `anatomy` (label map → `Head` with distances and dura), `tissue` (HU of one patient), `lesions` (bleeding with its mass effect),
`scanner` (pose, slices, partial volume, blur, noise), `hardening` (what bone does to a slice), `case` (all of it by one seed), `cohort` (many, with
a case table).
"""

from .anatomy import Head, heads_in, icbm_head, load_head
from .case import KINDS, PhantomCase, make_case
from .cohort import PhantomConfig, make_cohort
from .scanner import ScannerConfig, draw_scanner

__all__ = [
    "KINDS",
    "Head",
    "PhantomCase",
    "PhantomConfig",
    "ScannerConfig",
    "draw_scanner",
    "heads_in",
    "icbm_head",
    "load_head",
    "make_case",
    "make_cohort",
]
