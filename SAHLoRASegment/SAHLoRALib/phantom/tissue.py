"""The HU of one patient: tissues by label with the variation between people, dura, calcifications, old damage, metal and drains.

Values: data notes of the project (CSF 5–12, white matter 27–32, cortex 36–40, deep grey 35–39, …). The list of look-alikes is what fools a network
that learnt on plain phantoms: bright rims under the bone, falx and tentorium, sinuses at 50–70 HU, calcified plexus and pineal, clips, drains.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from . import anatomy
from .anatomy import Head
from .fields import Rng, box_around, distance_to, offsets, random_rotation, smooth_noise

#: How wide `Head.falx` and `Head.tent` are on the grid, mm.
SHEET_MM = 1.4


def draw_patient(head: Head, rng: Rng, operated: float = 0.08) -> np.ndarray:
    """float32 HU of one patient without haemorrhage, on the head's grid. operated: probability of each of drain, craniotomy and clip."""
    hu = _tissue_values(head, rng)
    _atrophy_or_youth(head, hu, rng)
    hu[head.inside] += (smooth_noise(hu.shape, 25, rng) * rng.uniform(0.5, 1.6) + smooth_noise(hu.shape, 5, rng) * rng.uniform(0.3, 1.0))[head.inside]
    _dura(head, hu, rng)
    _sinuses_and_vessels(head, hu, rng)
    _old_damage(head, hu, rng)
    _calcifications(head, hu, rng)
    if rng.random() < operated:
        _drain(head, hu, rng)
    if rng.random() < operated:
        _craniotomy(head, hu, rng)
    if rng.random() < operated:
        _clip(head, hu, rng)
    return hu


def paint_ball(hu: np.ndarray, centre: np.ndarray, radii: np.ndarray, value: float, rng: Rng, within: np.ndarray | None = None) -> None:
    """Paint a ragged, turned ellipsoid (radii in mm) with `value` HU, inside `within` only."""
    box = box_around(centre, float(max(radii)) * 1.4, hu.shape)
    distance = ragged_ellipsoid(centre, radii, box, rng)
    chosen = distance < 1.0
    if within is not None:
        chosen &= within[box]
    hu[box][chosen] = value


def ragged_ellipsoid(centre: np.ndarray, radii: np.ndarray, box: tuple[slice, slice, slice], rng: Rng, ragged: float = 0.15) -> np.ndarray:
    """float32 over `box`: below 1 inside a turned ellipsoid with a ragged surface."""
    turned = np.tensordot(random_rotation(rng).astype(np.float32), offsets(centre, box), axes=1)
    distance = np.sqrt(sum((axis / np.float32(r)) ** 2 for axis, r in zip(turned, radii, strict=True)))
    return distance * (1.0 + ragged * np.clip(smooth_noise(distance.shape, max(2.5, 0.5 * float(min(radii))), rng), -1.8, 1.8))


def _tissue_values(head: Head, rng: Rng) -> np.ndarray:
    csf = rng.uniform(4, 12)
    white, cortex, deep = rng.uniform(25, 30), rng.uniform(33, 39), rng.uniform(33, 38)
    values = np.full(int(head.labels.max()) + 1, -1000.0, np.float32)
    table: list[tuple[tuple[int, ...], float]] = [
        (tuple(range(1, 500)), (white + cortex) / 2),
        (anatomy.WHITE, white),
        (anatomy.CORTEX, cortex),
        ((7, 46), white + 2),
        ((8, 47), cortex - 0.5),
        ((*anatomy.THALAMI, *anatomy.BASAL_GANGLIA, 17, 18, 26, 53, 54, 58), deep),
        ((28, 60, anatomy.BRAIN_STEM, anatomy.CORD), rng.uniform(29, 34)),
        ((*anatomy.VENTRICLES, anatomy.CSF), csf),
        ((25, 57), rng.uniform(20, white)),
        ((anatomy.EYES,), rng.uniform(8, 20)),
        ((508, 509, 530), rng.uniform(25, 45)),
        ((anatomy.SINUS,), rng.uniform(42, 70)),
        ((anatomy.MARROW,), rng.uniform(250, 650)),
        ((anatomy.COMPACT,), rng.uniform(950, 1500)),
        ((507, 511), 0.0),
    ]
    for labels, value in table:
        for label in labels:
            if label < len(values):
                values[label] = value
    hu = values[head.labels]
    soft = head.where(507, 511)
    eyes = head.where(anatomy.EYES)
    muscle = smooth_noise(hu.shape, 14, rng) + 0.6 * smooth_noise(hu.shape, 5, rng) > rng.uniform(-1.0, -0.2)
    orbit = distance_to(eyes, 20.0) < 14 if eyes.any() else np.zeros_like(soft)
    hu[soft] = np.where(muscle & ~orbit, rng.uniform(45, 60), rng.uniform(-105, -75))[soft]
    bone = head.where(anatomy.COMPACT)
    hu[bone] = np.clip(hu[bone] * (1.0 + 0.12 * smooth_noise(hu.shape, 12, rng)[bone]), 600, 1650)
    _outer_table(head, hu, rng)
    _skull_base(head, hu, rng)
    if rng.random() < 0.2:  # fluid in the paranasal sinuses, mastoids
        hollow = (head.labels == 0) & (ndimage.distance_transform_cdt(head.labels == 0) < 9) & (smooth_noise(hu.shape, 18, rng) > 0.5)
        hollow &= distance_to(head.where(anatomy.COMPACT), 15.0) < 6
        hu[hollow & _enclosed(head)] = rng.uniform(15, 60)
    return hu


def _outer_table(head: Head, hu: np.ndarray, rng: Rng) -> None:
    """The vault thicker or thinner than in the label map, at its outer side: twenty maps do not show how much skulls differ."""
    thicker = rng.uniform(-2.0, 4.0) + 0.5 * smooth_noise(hu.shape, 25, rng)
    bone, soft = head.where(anatomy.COMPACT, anatomy.MARROW), head.where(507, 511)
    from_inner = distance_to(head.inside, 25.0)
    vault = (axes_from(head, head.willis)[0] > 8.0) & (from_inner < 20)
    hu[soft & vault & (distance_to(bone, 8.0) <= thicker)] = rng.uniform(800, 1400)
    thinned = bone & vault & (distance_to(soft, 8.0) <= -thicker) & (from_inner > 3.5)
    hu[thinned] = rng.uniform(-90, 40)


def _skull_base(head: Head, hu: np.ndarray, rng: Rng) -> None:
    """Below the cisterns bone is compact in its outer 2 mm only; behind and beside the sella it is full of air cells, more or less.

    The label maps have solid bone there: on a ray through the posterior fossa half as much again as in the one real scan at hand.
    """
    z, y, x = axes_from(head, head.willis)
    bone = head.where(anatomy.COMPACT, anatomy.MARROW) & (z < 4.0)
    core = bone & (distance_to(~bone, 10.0) > 1.8)
    hu[core] = (rng.uniform(250, 650) * (1.0 + 0.3 * smooth_noise(hu.shape, 6, rng)))[core]
    temporal = core & (y > -12.0) & (y < 40.0) & (np.abs(x) > 20.0)
    cells = temporal & (smooth_noise(hu.shape, 4, rng) > rng.uniform(-0.8, 0.8))
    hu[cells] = rng.uniform(-800, -100)


def _enclosed(head: Head) -> np.ndarray:
    """Air within the outline of the head."""
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in head.labels > 0])
    return filled & (head.labels == 0)


def _atrophy_or_youth(head: Head, hu: np.ndarray, rng: Rng) -> None:
    """Sulci closed by cortex (young, swollen) or widened by CSF (old): negative mm close, positive widen."""
    amount = rng.uniform(-3.0, 1.6)
    local = amount + 0.5 * smooth_noise(hu.shape, 30, rng)
    csf = (head.labels == anatomy.CSF) & head.inside
    cisterns = distance_to_point(head, head.willis) < 28
    if amount < 0:
        closed = csf & ~cisterns & (head.brain_distance <= -local) & ~head.falx
        hu[closed] = rng.uniform(33, 39)
    else:
        fluid = float(np.median(hu[csf])) if csf.any() else 8.0
        to_csf = distance_to(csf, 5.0)
        widened = head.where(*anatomy.CORTEX) & (to_csf <= local)
        hu[widened] = 0.35 * hu[widened] + 0.65 * fluid


def distance_to_point(head: Head, point: np.ndarray) -> np.ndarray:
    """float32 mm from `point` (z, y, x) for every voxel of the head."""
    z, y, x = axes_from(head, point)
    return np.sqrt(z**2 + y**2 + x**2)


def axes_from(head: Head, point: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float32 mm from `point` along z, y and x: (planes, 1, 1), (1, rows, 1) and (1, 1, columns)."""
    z, y, x = (np.arange(n, dtype=np.float32) - np.float32(p) for n, p in zip(head.labels.shape, point, strict=True))
    return z[:, None, None], y[None, :, None], x[None, None, :]


def _dura(head: Head, hu: np.ndarray, rng: Rng) -> None:
    """The thin bright sheets: dura under the bone, falx (0.7 to 2.2 mm), tentorium (0.3 to 1 mm), which fill only a part of their voxels."""
    thick = rng.uniform(0.5, 2.2) + 0.5 * smooth_noise(hu.shape, 20, rng)
    rim = head.inside & (head.depth <= thick) & (head.depth > 0)
    hu[rim] = np.maximum(hu[rim], rng.uniform(32, 62))
    for sheet, thickest in ((head.falx, 2.2), (head.tent, 1.0)):
        dense = rng.uniform(38, 66)
        shown = sheet & (smooth_noise(hu.shape, 15, rng) > rng.uniform(-2.0, 0.2))
        mm, wide = thickest * rng.uniform(0.3, 1.0), SHEET_MM
        if mm > wide:
            shown = ndimage.binary_dilation(shown) & head.inside & head.where(anatomy.CSF, anatomy.SINUS, *anatomy.CORTEX)
            wide += 2.0
        hu[shown] += mm / wide * (dense - hu[shown])
        if rng.random() < 0.2:  # calcified plaques
            hu[shown & (smooth_noise(hu.shape, 5, rng) > 2.2)] = rng.uniform(100, 500)


def _sinuses_and_vessels(head: Head, hu: np.ndarray, rng: Rng) -> None:
    dense = rng.uniform(44, 72)
    hu[head.where(anatomy.SINUS) & head.inside] = dense
    fluid = head.where(anatomy.CSF, anatomy.SINUS, *anatomy.CORTEX) & head.inside
    near_falx, near_tent = distance_to(head.falx, 8.0), distance_to(head.tent, 8.0)
    width = rng.uniform(2.0, 5.0)
    behind = np.arange(hu.shape[1])[None, :, None] > head.willis[1] + 15
    sagittal = fluid & (head.depth < width + 2) & (near_falx < width * 0.7)
    transverse = fluid & (head.depth < width + 2) & (near_tent < width) & behind
    straight = fluid & (near_falx < 2.0) & (near_tent < 2.5) & behind
    drawn = sagittal | transverse | straight
    drawn &= smooth_noise(hu.shape, 25, rng) > rng.uniform(-2.5, -0.3)
    hu[drawn] = dense
    # arteries of the base: basilar, carotid ends, middle cerebrals
    blood, csf = rng.uniform(38, 60), head.where(anatomy.CSF) & head.inside
    w = head.willis
    arteries = head.where(anatomy.ARTERY)
    hu[arteries] = blood
    if arteries.any() and rng.random() < 0.8:  # the cavernous sinuses, around the carotids beside the sella
        beside = (distance_to(arteries, 8.0) < rng.uniform(1.5, 4.0)) & (distance_to_point(head, w - np.array([9.0, 6.0, 0.0])) < 20)
        hu[beside & head.where(anatomy.CSF, 507)] = np.clip(dense - rng.uniform(5, 20), 38, 60)
    calcified = rng.random() < 0.25
    for side in (-1.0, 1.0):
        path = [w + np.array([0.0, -2.0, 4.0 * side]) + t * np.array([4.0, 3.0, 36.0 * side]) for t in np.linspace(0, 1, 30)]
        _tube(hu, path, rng.uniform(0.9, 1.8), blood, csf, rng)
        if calcified:
            paint_ball(hu, w + np.array([-3.0, -4.0, 7.0 * side]), rng.uniform(1.0, 2.2, 3), rng.uniform(150, 600), rng)
    _tube(hu, [w + np.array([-40.0 * t, 7.0 + 3.0 * t, 0.0]) for t in np.linspace(0, 1, 30)], rng.uniform(1.3, 2.3), blood, csf, rng)


def _tube(hu: np.ndarray, path: list[np.ndarray], radius: float, value: float, within: np.ndarray | None, rng: Rng, wander: float = 0.5) -> None:
    drift = np.zeros(3)
    for point in path:
        drift = 0.9 * drift + rng.normal(0, 1, 3) * wander
        if (point + drift < 0).any() or (point + drift >= np.array(hu.shape)).any():
            continue
        box = box_around(point + drift, radius + 1, hu.shape)
        chosen = np.square(offsets(point + drift, box)).sum(0) <= radius**2
        hu[box][chosen if within is None else chosen & within[box]] = value


def _old_damage(head: Head, hu: np.ndarray, rng: Rng) -> None:
    """Leukoaraiosis and old infarcts."""
    if rng.random() < 0.35:
        reach = rng.uniform(3, 12)
        pale = head.where(*anatomy.WHITE) & (head.ventricle_distance < reach + 2 * smooth_noise(hu.shape, 12, rng))
        hu[pale] -= rng.uniform(3, 10)
    brain = head.inside & ~head.where(anatomy.CSF, anatomy.ARTERY, anatomy.SINUS, *anatomy.VENTRICLES)
    for _ in range(int(rng.choice([0, 1, 2], p=[0.8, 0.14, 0.06]))):
        centre = random_voxel(brain, rng)
        paint_ball(hu, centre, rng.uniform(4, 24, 3), rng.uniform(8, 24), rng, brain)


def random_voxel(mask: np.ndarray, rng: Rng) -> np.ndarray:
    """(3,) float: a voxel of `mask` drawn evenly. `mask` must not be empty."""
    flat = np.flatnonzero(mask)
    return np.array(np.unravel_index(int(flat[rng.integers(len(flat))]), mask.shape), float)


def _calcifications(head: Head, hu: np.ndarray, rng: Rng) -> None:
    z, y, x = (c.astype(float) for c in np.nonzero(head.where(*anatomy.THALAMI)))
    if len(z) and rng.random() < 0.65:  # pineal gland
        paint_ball(hu, np.array([z.mean() - 3, y.max() + 2, x.mean()]), rng.uniform(1.2, 4.0, 3), rng.uniform(70, 300), rng)
    for side_labels in ((4, 5), (43, 44)):  # choroid plexus in the trigones
        ventricle = head.where(*side_labels)
        if ventricle.sum() < 50 or rng.random() > 0.75:
            continue
        rows = np.nonzero(ventricle)[1]
        back = ventricle & (np.arange(hu.shape[1])[None, :, None] > np.quantile(rows, 0.7))
        value = rng.uniform(33, 46) if rng.random() < 0.35 else rng.uniform(70, 350)
        centre = random_voxel(back, rng)
        for _ in range(int(rng.integers(1, 4))):
            paint_ball(hu, centre + rng.normal(0, 2, 3), rng.uniform(1.5, 4.5, 3), value, rng, ndimage.binary_dilation(ventricle))
    if rng.random() < 0.12:
        for labels in ((13,), (52,)):
            nucleus = head.where(*labels)
            if nucleus.any():
                for _ in range(3):
                    paint_ball(hu, random_voxel(nucleus, rng), rng.uniform(1, 3, 3), rng.uniform(45, 130), rng, nucleus)


def _drain(head: Head, hu: np.ndarray, rng: Rng) -> None:
    """A ventricular drain from a frontal burr hole, with its track."""
    horn = head.where(*((4,) if rng.random() < 0.5 else (43,)))
    if not horn.any():
        return
    end = random_voxel(horn, rng)
    start = end + np.array([rng.uniform(45, 65), rng.uniform(-45, -25), np.sign(end[2] - head.willis[2] + 1e-3) * rng.uniform(0, 15)])
    path = [end + (start - end) * t for t in np.linspace(0, 1.0, 120)]
    _tube(hu, path, rng.uniform(1.0, 1.8), rng.uniform(80, 600), None, rng, wander=0.0)


def _craniotomy(head: Head, hu: np.ndarray, rng: Rng) -> None:
    """Bone missing or replaced by a thin flap, with swollen scalp, on the convexity; sometimes air below."""
    edge = head.inside & (head.depth > 0) & (head.depth < 1.5)
    edge &= np.arange(hu.shape[0])[:, None, None] > head.willis[0] + 15
    centre = random_voxel(edge, rng)
    near = distance_to_point(head, centre) < rng.uniform(20, 45)
    bone = head.where(anatomy.COMPACT, anatomy.MARROW)
    if rng.random() < 0.5:
        hu[bone & near] = rng.uniform(10, 50)
    else:
        ring = near & ~(distance_to_point(head, centre) < rng.uniform(17, 22))
        hu[bone & ring & (smooth_noise(hu.shape, 6, rng) > 0)] = rng.uniform(0, 60)
    hu[near & head.where(507, 511)] = rng.uniform(20, 60)
    if rng.random() < 0.5:
        hu[near & head.inside & (head.depth < rng.uniform(1, 5)) & (smooth_noise(hu.shape, 8, rng) > 0.6)] = -1000.0


def _clip(head: Head, hu: np.ndarray, rng: Rng) -> None:
    centre = head.willis + np.array([rng.uniform(0, 8), rng.uniform(-12, 4), rng.uniform(-28, 28)])
    paint_ball(hu, centre, rng.uniform(1.2, 4.5, 3), rng.uniform(2200, 3071), rng)
