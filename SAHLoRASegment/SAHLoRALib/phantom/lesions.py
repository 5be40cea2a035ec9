"""Haemorrhage: traumatic (subdural, epidural, contusion, patches of subarachnoid blood, ventricular) and aneurysmal subarachnoid.

Each kind is a function that paints into a `Bleeding`: `hu` and `fraction` (how much of a voxel is blood, 0 to 1) on the head's grid. Extra-axial and
large parenchymal blood pushes the tissue beside it aside. Densities after the medians of real scans (HU): parenchymal 54–56, subarachnoid 48,
epidural 55–62, subdural 31–58, ventricular 41–51.

Traumatic blood lies below the tentorium and at the base of the skull more often than in patients (where 3 to 10 % of it does): a network that never
saw any there learns the place instead of the density, and misses a plain bleed in the cerebellum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import anatomy
from .anatomy import Head
from .fields import Rng, box_around, distance_to, smooth_noise, smoothstep, warp
from .tissue import axes_from, distance_to_point, ragged_ellipsoid, random_voxel


@dataclass
class Bleeding:
    """hu: float32 on the head's grid. fraction: how much of a voxel is blood, 0 to 1, less where it is thinned to the brain's density.

    kinds: what was painted, for the case's record.
    """

    head: Head
    hu: np.ndarray
    fraction: np.ndarray
    kinds: list[str]

    def paint(self, fraction: np.ndarray, value: np.ndarray | float, kind: str, thinned: bool = False) -> None:
        """Mix `fraction` of blood of `value` HU into the tissue. thinned: by CSF, so that a lower value is less blood."""
        fraction = fraction.astype(np.float32)
        self.hu += fraction * (value - self.hu)
        np.maximum(self.fraction, fraction * np.clip((value - 30) / 16, 0, 1) if thinned else fraction, out=self.fraction)
        if kind not in self.kinds:
            self.kinds.append(kind)

    def push(self, amount: np.ndarray, direction: np.ndarray) -> None:
        """Move tissue by `amount` mm (field) along `direction` (unit vector): each voxel takes what lay before it."""
        shift = -amount[None] * direction.astype(np.float32)[:, None, None, None]
        moved = warp(self.hu, shift)
        self.hu[self.head.inside] = moved[self.head.inside]
        if self.fraction.any():
            self.fraction = np.where(self.head.inside, warp(self.fraction, shift), self.fraction)


def traumatic(head: Head, hu: np.ndarray, rng: Rng) -> Bleeding:
    """One to three kinds of traumatic bleeding."""
    bleeding = Bleeding(head, hu, np.zeros(hu.shape, np.float32), [])
    kinds = [subdural, epidural, contusion, traumatic_subarachnoid, traumatic_ventricular, parenchymal, tentorial]
    shares = np.array([0.24, 0.12, 0.17, 0.17, 0.09, 0.16, 0.05])
    count = int(rng.choice([1, 2, 3], p=[0.45, 0.35, 0.2]))
    for index in sorted(rng.choice(len(kinds), size=count, replace=False, p=shares)):
        kinds[int(index)](bleeding, rng)
    if rng.random() < 0.4:
        scalp_swelling(bleeding, rng)
    return bleeding


def aneurysmal(head: Head, hu: np.ndarray, rng: Rng) -> Bleeding:
    """Subarachnoid blood from the basal cisterns outwards; in nearly half of the cases ventricular blood, in some a clot in the brain."""
    bleeding = Bleeding(head, hu, np.zeros(hu.shape, np.float32), [])
    subarachnoid(bleeding, rng)
    if rng.random() < 0.45:
        ventricular(bleeding, rng)
    if rng.random() < 0.15:
        clot(bleeding, rng)
    return bleeding


def subdural(b: Bleeding, rng: Rng) -> None:
    """A crescent under the convexity of one side, 2 to 18 mm thick."""
    thick = float(np.exp(rng.uniform(np.log(2.0), np.log(18.0))))
    _extra_axial(b, rng, thick, radius=rng.uniform(30, 85), power=0.5, one_side=True, dense=_age(rng), kind="subdural")


def epidural(b: Bleeding, rng: Rng) -> None:
    """A lens under the bone, 6 to 28 mm thick."""
    _extra_axial(b, rng, rng.uniform(5, 28), radius=rng.uniform(16, 36), power=1.0, one_side=False, dense=rng.uniform(52, 72), kind="epidural")


def _age(rng: Rng) -> float:
    """HU of blood: mostly acute, at times of mixed age and nearly as bright as cortex."""
    return float(rng.uniform(50, 72) if rng.random() < 0.7 else rng.uniform(36, 54))


def _extra_axial(b: Bleeding, rng: Rng, thick: float, radius: float, power: float, one_side: bool, dense: float, kind: str) -> None:
    head = b.head
    edge = head.inside & (head.depth > 0.5) & (head.depth < 2)
    heights = np.arange(b.hu.shape[0])[:, None, None]
    low, below = heights <= head.willis[0] - 5, _below_tentorium(head)
    place = rng.choice(3, p=[0.68, 0.16, 0.16])  # the convexity, the posterior fossa, the floor of the middle and anterior fossae
    base = low & ~below & (distance_to(head.where(*anatomy.LEFT, *anatomy.RIGHT), 8.0) < 8)
    sites = edge & [~low, below & (heights < head.willis[0]) & ~_near_spine(head), base][place] & (np.abs(head.side) > 8)
    edge = sites if sites.any() else edge & ~low & ~below
    centre = random_voxel(edge, rng)
    in_fossa = bool(below[tuple(centre.astype(int))])
    side = np.sign(head.side[tuple(centre.astype(int))])
    distance = distance_to_point(head, centre)
    profile = np.clip(1.0 - (distance / radius) ** 2, 0.0, 1.0) ** power
    thickness = thick * profile * (1.0 + 0.2 * smooth_noise(b.hu.shape, 18, rng))
    same_side = (head.side * side > 1.0) | (not one_side) | in_fossa
    allowed = head.inside & same_side & (below if in_fossa else head.cerebellum_distance > 3)
    target = np.array(b.hu.shape) / 2.0
    target[0] = centre[0] if in_fossa else max(head.willis[0] + 25, centre[0] - 40)
    target[1:] = head.willis[1] + 12, head.willis[2]
    inward = (target - centre) / np.linalg.norm(target - centre)
    beyond = np.clip(head.depth - thickness, 0.0, None)
    b.push(np.clip(thickness, 0, 30) * np.exp(-beyond / 28.0) * rng.uniform(0.6, 1.0), inward)
    fraction = np.where(allowed, np.clip(thickness - head.depth + 0.5, 0.0, 1.0), 0.0)
    _paint_layered(b, fraction, dense, rng, kind)


def _below_tentorium(head: Head) -> np.ndarray:
    """Where the cerebellum is the nearest brain."""
    return head.inside & (head.cerebellum_distance - head.brain_distance <= 1.0)


def _near_spine(head: Head) -> np.ndarray:
    """(slices, 1, 1): the slices of the foramen magnum and below, where bone makes bright streaks and blood is rare."""
    return (np.arange(head.labels.shape[0]) < head.willis[0] - 30)[:, None, None]


def _paint_layered(b: Bleeding, fraction: np.ndarray, dense: float, rng: Rng, kind: str) -> None:
    """Blood with slow unevenness and, where it is old, a denser part that has sunk to the back."""
    value = dense + rng.uniform(0.5, 5.0) * smooth_noise(b.hu.shape, 8, rng)
    if dense < 54 and rng.random() < 0.6:
        rows = np.nonzero(fraction > 0.5)[1]
        if len(rows):
            level = np.quantile(rows, rng.uniform(0.2, 0.8))
            value = value + rng.uniform(4, 16) * (np.arange(b.hu.shape[1], dtype=np.float32)[None, :, None] > level)
    b.paint(fraction, value.astype(np.float32), kind)


def tentorial(b: Bleeding, rng: Rng) -> None:
    """A film of blood along falx or tentorium."""
    head = b.head
    on_falx = rng.random() < 0.5
    sheet = head.falx if on_falx else head.tent
    if not sheet.any():
        return
    centre = random_voxel(sheet, rng)
    half = np.abs(head.side) / 2 if on_falx else np.abs(np.minimum(np.abs(head.cerebellum_distance - 1), 20))
    thickness = rng.uniform(1.5, 6.0) * np.clip(1 - (distance_to_point(head, centre) / rng.uniform(18, 45)) ** 2, 0, 1) ** 0.5
    allowed = head.inside & (head.labels != anatomy.BRAIN_STEM) & ((head.cerebellum_distance > 6) if on_falx else (head.cerebellum_distance > 0))
    if on_falx:
        allowed &= head.depth + head.brain_distance < 60
        allowed &= head.ventricle_distance > 6
    fraction = np.where(allowed, np.clip(thickness - half + 0.5, 0, 1), 0.0)
    _paint_layered(b, fraction, rng.uniform(48, 68), rng, "falx" if on_falx else "tentorium")


def contusion(b: Bleeding, rng: Rng) -> None:
    """Some ragged bleeds near the surface, frontal and temporal first, at times cerebellar, with a dark rim."""
    head = b.head
    cerebellar = rng.random() < 0.15 and head.where(8, 47).any()
    cortex = head.where(*((8, 47) if cerebellar else (3, 42))) & (head.depth < 16) & ~(_near_spine(head) & cerebellar)
    low_front = np.arange(b.hu.shape[0])[:, None, None] < head.willis[0] + 35
    sites = cortex & low_front if rng.random() < 0.7 and (cortex & low_front).any() else cortex
    centre = random_voxel(sites, rng)
    for _ in range(int(rng.integers(1, 6))):
        near = cortex & (distance_to_point(head, centre) < 30)
        spot = random_voxel(near if near.any() else sites, rng)
        radius = float(np.exp(rng.uniform(np.log(2.0), np.log(14.0))))
        _bleed_in_brain(b, spot, radius * rng.uniform(0.6, 1.4, 3), rng, "contusion")


def parenchymal(b: Bleeding, rng: Rng) -> None:
    """A larger bleed in white matter or deep grey matter, or one in the cerebellum or the brain stem."""
    head = b.head
    if rng.random() < 0.3:
        stem = rng.random() < 0.3
        fossa = (head.where(anatomy.BRAIN_STEM) if stem else head.where(*anatomy.CEREBELLUM) & (head.depth > 4)) & ~_near_spine(head)
        if fossa.any():
            radius = float(np.exp(rng.uniform(np.log(2.5), np.log(10.0 if stem else 20.0))))
            _bleed_in_brain(b, random_voxel(fossa, rng), radius * rng.uniform(0.65, 1.35, 3), rng, "parenchymal")
            return
    deep = head.where(*anatomy.BASAL_GANGLIA, *anatomy.THALAMI) if rng.random() < 0.5 else head.where(*anatomy.WHITE) & (head.depth > 12)
    if not deep.any():
        deep = head.where(*anatomy.WHITE)
    radius = float(np.exp(rng.uniform(np.log(3.0), np.log(24.0))))
    _bleed_in_brain(b, random_voxel(deep, rng), radius * rng.uniform(0.65, 1.35, 3), rng, "parenchymal")


def clot(b: Bleeding, rng: Rng) -> None:
    """A clot in the brain beside subarachnoid blood (frontal base or temporal lobe)."""
    head = b.head
    brain = head.where(*anatomy.WHITE, *anatomy.CORTEX) & (distance_to_point(head, head.willis) < 45) & (head.cerebellum_distance > 8)
    if brain.any():
        _bleed_in_brain(b, random_voxel(brain, rng), rng.uniform(6, 18) * rng.uniform(0.7, 1.3, 3), rng, "clot")


def _bleed_in_brain(b: Bleeding, centre: np.ndarray, radii: np.ndarray, rng: Rng, kind: str) -> None:
    head = b.head
    box = box_around(centre, float(max(radii)) * 2.6 + 6, b.hu.shape)
    distance = ragged_ellipsoid(centre, radii, box, rng, ragged=rng.uniform(0.1, 0.26))
    brain = head.inside[box] & (head.depth[box] > 0.5)
    tissue = brain & ~np.isin(head.labels[box], (anatomy.CSF, anatomy.ARTERY, anatomy.SINUS, *anatomy.VENTRICLES))
    rim = 1.0 + rng.uniform(0.15, 0.9)
    oedema = np.clip((rim - distance) / 0.3, 0, 1) * tissue * rng.uniform(4, 15)
    b.hu[box] -= np.where(np.isin(head.labels[box], anatomy.WHITE), oedema, 0.6 * oedema).astype(np.float32)
    soft = 1.0 / max(float(min(radii)), 2.0)
    fraction = np.zeros_like(b.hu)
    fraction[box] = np.where(brain if max(radii) > 8 else tissue, np.clip((1.0 - distance) / soft + 0.5, 0.0, 1.0), 0.0)
    if kind == "contusion" and rng.random() < 0.5:  # salt and pepper
        fraction *= smoothstep(smooth_noise(b.hu.shape, 4, rng), -1.2, 0.2)
    _paint_layered(b, fraction, float(rng.uniform(50, 74)), rng, kind)


def traumatic_subarachnoid(b: Bleeding, rng: Rng) -> None:
    """Blood in some sulci of the convexity or a Sylvian fissure, at times around cerebellum and brain stem."""
    head = b.head
    anywhere = head.where(anatomy.CSF) & head.inside & (head.brain_distance < 6) & ~head.tent & ~_near_spine(head)
    above = anywhere & (head.cerebellum_distance > 5)
    for _ in range(int(rng.integers(1, 5))):
        csf = above if rng.random() < 0.75 else anywhere
        centre = random_voxel(csf if csf is above else anywhere & ~above, rng)
        reach = rng.uniform(9, 32)
        _blood_in_csf(b, csf & (head.depth > 0.7), distance_to_point(head, centre) / reach, rng, "traumatic subarachnoid")


def subarachnoid(b: Bleeding, rng: Rng) -> None:
    """Aneurysmal: from a point near the circle of Willis through cisterns and fissures until a drawn volume is reached (0.5 to 75 mL)."""
    head = b.head
    csf = head.where(anatomy.CSF) & head.inside & (head.depth > 0.7)
    lateral = 0.0 if rng.random() < 0.45 else rng.uniform(-28, 28)
    start = head.willis + np.array([rng.uniform(-8, 8), rng.uniform(-18, 4), lateral])
    one_sided = rng.uniform(0.0, 0.5) * np.sign(lateral)
    metric = distance_to_point(head, start)
    x = axes_from(head, head.willis)[2]
    up = np.clip(axes_from(head, start)[0], 0, None)
    metric = metric * (1.0 - one_sided * np.tanh(x / 15.0)) + rng.uniform(0.1, 0.7) * up
    metric = metric * np.exp(0.28 * smooth_noise(b.hu.shape, 14, rng)) + 3 * smooth_noise(b.hu.shape, 5, rng)
    wanted_ml = float(np.exp(rng.uniform(np.log(0.5), np.log(75.0))))
    values = np.sort(metric[csf])
    edge = float(values[min(len(values) - 1, int(wanted_ml * 1000))])
    _blood_in_csf(b, csf, metric / max(edge, 4.0), rng, "aneurysmal subarachnoid", width=rng.uniform(0.05, 0.3))


def _blood_in_csf(b: Bleeding, where: np.ndarray, reach: np.ndarray, rng: Rng, kind: str, width: float = 0.25) -> None:
    """Fill `where` with blood up to reach 1, thinner and more diluted towards it; where it is dense it distends cisterns and sulci."""
    amount = 1.0 - reach + 0.1 * smooth_noise(b.hu.shape, 7, rng)
    swelling = rng.uniform(0.0, 1.5) * np.clip(0.4 + amount, 0, 1)
    room = b.head.inside & (b.head.depth > 0.7) & (distance_to(where & (amount > -width), 3.0) <= swelling)
    fraction = np.where(where | room, smoothstep(amount, -width / 2, width / 2), 0.0)
    dense = rng.uniform(50, 74)
    dilution = np.clip(rng.uniform(0.72, 1.0) + 0.8 * np.clip(amount, 0, 1), 0.6, 1.0)
    value = 10.0 + (dense - 10.0) * dilution + 2.5 * smooth_noise(b.hu.shape, 6, rng)
    b.paint(fraction, value.astype(np.float32), kind, thinned=True)


def traumatic_ventricular(b: Bleeding, rng: Rng) -> None:
    """As `ventricular`, the third and the fourth ventricle more often."""
    ventricular(b, rng, narrow=0.5)


def ventricular(b: Bleeding, rng: Rng, narrow: float = 0.35) -> None:
    """Blood in the backmost parts of the lateral ventricles, or filling some. narrow: how often the third is full, and how often the fourth."""
    head = b.head
    ventricles = head.where(*anatomy.LATERAL_VENTRICLES) & head.inside
    if not ventricles.any():
        return
    rows = np.nonzero(ventricles)[1]
    y = np.arange(b.hu.shape[1], dtype=np.float32)[None, :, None]
    fraction = np.zeros_like(b.hu)
    for labels in ((4, 5), (43, 44)):
        level = float(np.quantile(rows, rng.uniform(0.55, 0.97))) if rng.random() < 0.85 else -10.0
        fraction = np.maximum(fraction, np.where(head.where(*labels), np.clip(y - level + 0.5, 0, 1), 0.0))
    for label in (14, 15):
        if rng.random() < narrow:
            fraction = np.maximum(fraction, head.where(label).astype(np.float32))
    if rng.random() < 0.3:
        fraction *= smoothstep(smooth_noise(b.hu.shape, 10, rng), -1.0, 0.0)
    value = rng.uniform(44, 72) + 2.0 * smooth_noise(b.hu.shape, 6, rng)
    b.paint(fraction, value.astype(np.float32), "ventricular")


def scalp_swelling(b: Bleeding, rng: Rng) -> None:
    """A scalp haematoma: bright, outside the skull, and so no part of the annotation."""
    head = b.head
    scalp = head.where(507, 511) & (np.arange(b.hu.shape[0])[:, None, None] > head.willis[0])
    if scalp.any():
        near = scalp & (distance_to_point(head, random_voxel(scalp, rng)) < rng.uniform(15, 50))
        b.hu[near] = rng.uniform(40, 75)
