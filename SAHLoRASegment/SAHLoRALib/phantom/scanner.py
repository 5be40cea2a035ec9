"""The scanner: where the slices lie, how thick they are, and what the machine adds (blur, beam hardening, streaks, noise, motion, head holder)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from ..errors import ConfigError
from ..volume import CTVolume, Storage
from .fields import Rng
from .hardening import bone_error, bone_layers

#: What an annotator outlines is brighter than the brain beside it by so many HU (before noise), its outline runs where it is by so many, ...
VISIBLE_HU, EDGE_HU = 8.0, 5.0
#: ... and it is so many times brighter than noise leaves a spot of its size (Rose's criterion for what is seen, J Opt Soc Am 1948).
VISIBLE_TIMES = 5.0
#: Brain is what has these HU, and the brain beside a pixel what lies within about this many mm (σ), or where none does, this many.
BRAIN_HU, BESIDE_MM = (20.0, 45.0), (3.0, 12.0)
#: Of the head's own voxels those above this are bone.
BONY_HU = 160.0
#: No blood is brighter (a clot has 60 to 90 HU): where a voxel is, bone shares it, and in the window that brain is read in it looks like bone.
BRIGHTEST_HU = 100.0
#: What stands beside blood where the bone is left out: CSF.
BESIDE_BONE_HU = 10.0
#: A collection that is nearly all blood is outlined by its shape down to this HU, as dense as brain (blood of mixed age).
COLLECTION_HU, COLLECTION = 34.0, 0.8
#: ... where there is so much of it in a slice, mm².
COLLECTION_MM2 = 100.0
#: Thin slices are noisier, as the square root of the thickness has it, but dose and kernel are chosen so that they stay below this.
NOISIEST_HU = 9.0
#: Smaller spots in a slice are not outlined, mm².
SMALLEST_SPOT_MM2 = 8.0
#: For each HU of `hardening_hu`: HU · dm of hardening (see `hardening`), HU of the rim where all is bone, HU that calibration takes out.
_HARDENING, _RIM, _CALIBRATED = 15.0, 2.5, 0.5


@dataclass(frozen=True)
class ScannerConfig:
    """One acquisition.

    matrix: rows and columns. field_mm: width of the field of view. gaps_mm: table steps between slices, from below (one less than slices).
    thickness_mm: of a slice. tilt_degrees: gantry. blur_mm: in-plane point spread (σ). noise_hu: standard deviation in the brain.
    noise_grain_mm: correlation of the noise (kernel). offset_hu, gain: calibration. hardening_hu: how strongly bone brightens and darkens what lies
    around it (see `_bone_artefact`). motion_mm: double contours. holder: a head holder in the picture. padding_hu: outside the round field of view.
    """

    matrix: int = 512
    field_mm: float = 240.0
    gaps_mm: tuple[float, ...] = (5.0,) * 29
    thickness_mm: float = 5.0
    tilt_degrees: float = 0.0
    blur_mm: float = 0.5
    noise_hu: float = 3.5
    noise_grain_mm: float = 0.5
    offset_hu: float = 0.0
    gain: float = 1.0
    hardening_hu: float = 6.0
    motion_mm: float = 0.0
    holder: bool = True
    padding_hu: float = -1024.0

    def __post_init__(self) -> None:
        if self.matrix < 16 or self.field_mm <= 0 or self.thickness_mm <= 0 or not self.gaps_mm or min(self.gaps_mm) <= 0:
            raise ConfigError("A scanner needs a matrix of at least 16, and a field, gaps and a slice thickness above 0 mm.")
        if abs(self.tilt_degrees) > 40:
            raise ConfigError(f"The gantry tilts by at most 40 degrees, not {self.tilt_degrees}.")

    @property
    def slices(self) -> int:
        return len(self.gaps_mm) + 1

    @property
    def pixel_mm(self) -> float:
        return self.field_mm / self.matrix


def draw_scanner(rng: Rng, matrix: int = 512, slices: int | None = None, site: str = "A") -> ScannerConfig:
    """A scanner of site A (the trauma hospital) or B (the second hospital: thinner slices, other kernel, noise and calibration)."""
    second = site == "B"
    thickness = float(rng.choice([1.0, 2.0, 3.0, 5.0, 7.0], p=[0.1, 0.25, 0.3, 0.25, 0.1] if second else [0.05, 0.1, 0.15, 0.55, 0.15]))
    covered = rng.uniform(138, 155)
    count = slices or max(12, int(covered / max(thickness, 2.0)))
    step = covered / count
    gaps = np.full(count - 1, step)
    if rng.random() < 0.15:  # thin below, thick above, as incremental scanners do
        gaps[: count // 3] *= rng.uniform(0.6, 0.8)
        gaps[count // 3 :] *= rng.uniform(1.05, 1.25)
    usual = 3.0 if second else 5.0
    return ScannerConfig(
        matrix=matrix,
        field_mm=float(rng.uniform(205, 260)),
        gaps_mm=tuple(float(g) for g in gaps),
        thickness_mm=thickness,
        tilt_degrees=float(rng.uniform(-5, 25)) if rng.random() < (0.2 if second else 0.45) else 0.0,
        blur_mm=float(rng.uniform(0.35, 0.6) if second else rng.uniform(0.45, 0.9)),
        noise_hu=min(NOISIEST_HU, float(rng.uniform(3.0, 7.0) if second else rng.uniform(2.0, 5.0)) * (usual / thickness) ** 0.5),
        noise_grain_mm=float(rng.uniform(0.3, 0.5) if second else rng.uniform(0.4, 0.8)),
        offset_hu=float(rng.normal(2.0 if second else 0.0, 1.5)),
        gain=float(rng.normal(1.0, 0.015)),
        hardening_hu=float(rng.uniform(0, 12)),
        motion_mm=float(rng.uniform(0.5, 3.0)) if rng.random() < 0.08 else 0.0,
        holder=bool(rng.random() < 0.8),
        padding_hu=float(rng.choice([-1024.0, -1500.0, -2000.0, -3024.0])),
    )


@dataclass(frozen=True)
class Pose:
    """How the head lies: a linear map and a smooth displacement (both from scanner mm to head voxels, z y x)."""

    matrix: np.ndarray  # (3, 3)
    displacement: Tensor  # (1, 3, D, H, W) voxels, on a coarse grid over the head


def draw_pose(rng: Rng, shape: tuple[int, ...], warp: float = 1.0) -> Pose:
    """Rotation of some degrees, size 0.93 to 1.08 in each direction, mirror, 2 mm (σ) of displacement over 30 mm.

    warp: above 1 another person's head is made of this one, as twenty label maps show few: at 2 size 0.86 to 1.17 in each direction, and 4 mm (σ) of
    displacement over 60 mm besides.
    """
    angles = np.deg2rad(rng.normal(0, 4.0, 3))
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    scale = np.diag(1.0 / rng.uniform(0.93, 1.08, 3) ** warp)
    if rng.random() < 0.5:
        scale[2] *= -1.0
    size = [4 * n for n in _knots(shape, 30)]
    moved = _displaced(rng, shape, 30, 2.2, size)
    if warp > 1.0:
        moved += _displaced(rng, shape, 60, 4.0 * (warp - 1.0), size)
    return Pose(rotation @ scale, moved)


def _knots(shape: tuple[int, ...], mm: float) -> list[int]:
    return [max(3, round(n / mm)) for n in shape]


def _displaced(rng: Rng, shape: tuple[int, ...], mm: float, sigma: float, size: list[int]) -> Tensor:
    """(1, 3, *size): a smooth random displacement with knots `mm` apart."""
    values = torch.from_numpy(rng.normal(0, sigma, (1, 3, *_knots(shape, mm))).astype(np.float32))
    return functional.interpolate(values, size=size, mode="trilinear", align_corners=True)


def acquire(hu: np.ndarray, fraction: np.ndarray, centre: np.ndarray, pose: Pose, config: ScannerConfig, rng: Rng) -> tuple[CTVolume, np.ndarray]:
    """Scan a head.

    hu, fraction: (z, y, x) on the head's 1 mm grid. centre: voxel that lies in the middle of the stack.
    Returns the CTVolume (HU rounded to whole numbers, as scanners store them) and the mask: what an annotator would outline (`_outlined`).
    """
    tilt = np.deg2rad(config.tilt_degrees)
    column_direction = np.array([0.0, np.cos(tilt), -np.sin(tilt)])
    row_direction = np.array([1.0, 0.0, 0.0])
    normal = np.array([0.0, np.sin(tilt), np.cos(tilt)])
    heights = np.concatenate(([0.0], np.cumsum(config.gaps_mm)))
    heights -= heights.mean()
    corner = -(config.matrix - 1) / 2 * config.pixel_mm * (row_direction + column_direction)
    positions = corner + heights[:, None] * np.array([0.0, 0.0, 1.0])

    unboned = np.where(hu > BONY_HU, np.float32(BESIDE_BONE_HU), hu)
    volume = torch.from_numpy(np.stack((hu + 1000.0, fraction, unboned + 1000.0)))[None]  # so that outside the grid there is air
    size = torch.tensor(hu.shape, dtype=torch.float32)
    steps = torch.arange(config.matrix, dtype=torch.float32) * config.pixel_mm
    layers = max(1, round(config.thickness_mm))
    offsets = (np.arange(layers) - (layers - 1) / 2) * (config.thickness_mm / layers)
    to_head = torch.from_numpy(pose.matrix.astype(np.float32))
    out = np.empty((config.slices, config.matrix, config.matrix), np.float32)
    blood, soft = np.empty_like(out), np.empty_like(out)
    bones = []
    for k in range(config.slices):
        origins = torch.from_numpy((positions[k] + offsets[:, None] * normal).astype(np.float32))
        points = (
            origins[:, None, None, :]
            + steps[None, :, None, None] * torch.from_numpy(column_direction.astype(np.float32))
            + steps[None, None, :, None] * torch.from_numpy(row_direction.astype(np.float32))
        )  # (layers, rows, columns, xyz) in scanner mm
        voxels = points.flip(-1) @ to_head.T + torch.from_numpy(centre.astype(np.float32))
        grid = (voxels / (size - 1) * 2 - 1).flip(-1)[None]
        shift = functional.grid_sample(pose.displacement, grid, mode="bilinear", padding_mode="border", align_corners=True)
        grid = grid + (shift[0].permute(1, 2, 3, 0) / (size - 1) * 2).flip(-1)[None]
        seen = functional.grid_sample(volume, grid, align_corners=True)
        bones.append(bone_layers(seen[0, 0] - 1000.0))
        plane = seen.mean(dim=2)[0].numpy()
        out[k], blood[k], soft[k] = plane[0] - 1000.0, plane[1], plane[2] - 1000.0
    for plane in (*out, *soft):
        ndimage.gaussian_filter(plane, config.blur_mm / config.pixel_mm, output=plane, truncate=3)
    mask = _outlined(out, soft, blood, config)
    _physics(out, bones, config, rng)
    hu_out = np.clip(np.rint(out), -1024, 3071).astype(np.float32)
    spacing = (config.pixel_mm, config.pixel_mm)
    step = (positions[-1] - positions[0]) / max(1, config.slices - 1)
    direction = np.stack((row_direction, column_direction, step / np.linalg.norm(step)), axis=1)
    storage = Storage.of_grid(
        (config.matrix, config.matrix, config.slices), tuple(positions[0]), (*spacing[::-1], float(np.linalg.norm(step))), tuple(direction.ravel())
    )
    ct = CTVolume(hu_out, positions, spacing, row_direction, column_direction, storage, header_tilt=config.tilt_degrees)
    return ct, mask


def _outlined(planes: np.ndarray, soft: np.ndarray, blood: np.ndarray, config: ScannerConfig) -> np.ndarray:
    """bool (slices, rows, columns): what an annotator outlines of the blood.

    planes: HU before artefacts and noise. soft: the same without the bone, whose point spread lifts thin films along it above the brain and would
    lift them just as far without blood. blood: share of each voxel that is blood. Thin or thinned blood that does not by itself stand out from the
    patient's own brain beside it cannot be outlined, nor can what is lost in the noise, what bone makes brighter than any blood, or single pixels;
    outlines are smooth over most of a millimetre.
    """
    pixel = config.pixel_mm
    grain_mm2 = 4.0 * np.pi * config.noise_grain_mm**2 + pixel**2  # over which the noise is one and the same
    mask = np.zeros(planes.shape, bool)
    for k in np.nonzero((blood > 0.3).any(axis=(1, 2)))[0]:
        above = soft[k] - _brain_beside(soft[k], blood[k], pixel)
        collected = (soft[k] > COLLECTION_HU) & (blood[k] >= COLLECTION)
        seen = (blood[k] >= 0.4) & ((above > EDGE_HU) | collected) & (planes[k] < BRIGHTEST_HU)
        smooth = ndimage.gaussian_filter(seen.astype(np.float32), 0.7 / pixel, truncate=3) > 0.45
        smooth &= (planes[k] < BRIGHTEST_HU) & (blood[k] > 0.1)
        spots, count = ndimage.label(smooth, structure=np.ones((3, 3), bool))
        if count:
            area = np.bincount(spots.ravel()) * pixel**2
            contrast = np.bincount(spots.ravel(), weights=above.ravel()) * pixel**2 / area
            needed = np.maximum(VISIBLE_HU, VISIBLE_TIMES * config.noise_hu / np.sqrt(area / grain_mm2))
            shaped = np.bincount(spots.ravel(), weights=collected.ravel()) * pixel**2 >= COLLECTION_MM2
            shown = (area >= SMALLEST_SPOT_MM2) & ((contrast >= needed) | shaped)
            shown[0] = False
            mask[k] = shown[spots]
    return mask


def _brain_beside(soft: np.ndarray, blood: np.ndarray, pixel: float) -> np.ndarray:
    """HU (rows, columns) of the brain around each pixel of a slice that is no blood; of all of it where a pixel lies deep in blood."""
    low, high = BRAIN_HU
    brain = ((soft > low) & (soft < high) & (blood < 0.05)).astype(np.float32)
    if not brain.any():
        return np.full(soft.shape, (low + high) / 2, np.float32)
    beside = np.full(soft.shape, np.average(soft, weights=brain), np.float32)
    for reach in reversed(BESIDE_MM):
        near, value = (ndimage.gaussian_filter(a, reach / pixel, truncate=3) for a in (brain, brain * soft))
        np.divide(value, near, out=beside, where=near > 0.02)
    return beside


def _physics(planes: np.ndarray, bones: list[Tensor], config: ScannerConfig, rng: Rng) -> None:
    """Beam hardening, streaks, motion, calibration, holder, noise: in place, slice by slice. bones: `bone_layers` of each."""
    pixel = config.pixel_mm
    size = config.matrix
    rows, columns = np.ogrid[:size, :size]
    outside = (rows - size / 2) ** 2 + (columns - size / 2) ** 2 > (size / 2 - 1) ** 2
    cupping = rng.normal(0, 0.25) * config.hardening_hu
    radius2 = ((rows - size / 2) ** 2 + (columns - size / 2) ** 2) * np.float32((pixel / 90.0) ** 2)
    moved = tuple(rng.normal(0, config.motion_mm / pixel, 2)) if config.motion_mm else None
    for plane, bone in zip(planes, bones, strict=True):
        if moved is not None and rng.random() < 0.5:
            plane += rng.uniform(0.2, 0.5) * (ndimage.shift(plane, moved, order=1, mode="nearest") - plane)
        soft = (plane > -200) & (plane < 250)
        plane += soft * (_bone_artefact(bone, plane, config) + cupping * radius2)
        _metal_streaks(plane, config, rng)
    planes *= config.gain
    planes += config.offset_hu
    if config.holder:
        _holder(planes, config, rng)
    for plane in planes:
        plane += _noise(plane, config, rng)
        plane[outside] = config.padding_hu


def _bone_artefact(bone: Tensor, plane: np.ndarray, config: ScannerConfig) -> np.ndarray:
    """HU (rows, columns) that bone adds to the soft tissue of a slice: hardening and partial volume, and a rim of scatter under the bone.

    Fitted to slices 6 to 20 of the one real scan at hand (ct-ge-tilt), which comes out at a `hardening_hu` of about 10: hardening leaves 5.6 HU of
    its soft tissue unexplained, a rim alone 6.1 HU. In the middle of a head the scanner's calibration takes out what hardening adds.
    """
    size, pixel = plane.shape[0], config.pixel_mm
    coarse = max(1, round(1.0 / pixel))
    rim = ndimage.gaussian_filter((plane > 250)[::coarse, ::coarse].astype(np.float32), 4.5 / (pixel * coarse), truncate=2.5)
    error = bone_error(bone, config.field_mm, _HARDENING * config.hardening_hu)
    fine, under = (
        functional.interpolate(picture[None, None], size=(size, size), mode="bilinear", align_corners=False)[0, 0].numpy()
        for picture in (error, torch.from_numpy(rim))
    )
    return fine + config.hardening_hu * (_RIM * under - _CALIBRATED)


def _metal_streaks(plane: np.ndarray, config: ScannerConfig, rng: Rng) -> None:
    metal = np.argwhere(plane > 1900)
    if len(metal) < 3:
        return
    centre = metal.mean(0)
    rows, columns = np.ogrid[: plane.shape[0], : plane.shape[1]]
    dy, dx = (rows - centre[0]) * config.pixel_mm, (columns - centre[1]) * config.pixel_mm
    angle = np.arctan2(dy, dx)
    spokes = sum(rng.normal(0, 1) * np.cos(n * angle + rng.uniform(0, 6.3)) for n in range(3, 17))
    plane += (spokes * rng.uniform(2, 14) * np.exp(-np.hypot(dy, dx) / 25.0)).astype(np.float32) * (plane > -500)


def _holder(planes: np.ndarray, config: ScannerConfig, rng: Rng) -> None:
    """A curved shell below the head, the same in all slices."""
    size, pixel = config.matrix, config.pixel_mm
    head = np.argwhere(planes.max(axis=0) > -300)
    if not len(head):
        return
    (top, left), (bottom, right) = head.min(0), head.max(0)
    middle, centre = (left + right) / 2, (top + bottom) / 2
    gap, wall = rng.uniform(4, 12) / pixel, rng.uniform(2, 5) / pixel
    rows, columns = np.ogrid[:size, :size]
    across = (columns - middle) / ((right - left) / 2 + gap)
    down = (rows - centre) / ((bottom - top) / 2 + gap)
    radius = np.hypot(across, down)
    width = wall / ((right - left) / 2 + gap)
    shell = (np.abs(radius - 1 - width / 2) < width / 2) & (down > rng.uniform(-0.2, 0.6))
    planes[:, shell & (planes.max(axis=0) < -300)] = rng.uniform(-250, 250)


def _noise(plane: np.ndarray, config: ScannerConfig, rng: Rng) -> np.ndarray:
    """Correlated noise, stronger in the middle of the head than in the air."""
    white = rng.standard_normal(plane.shape, dtype=np.float32)
    grain = config.noise_grain_mm / config.pixel_mm
    smooth = ndimage.gaussian_filter(white, grain, truncate=3)
    smooth *= config.noise_hu / max(float(smooth.std()), 1e-6)
    return smooth * np.where(plane > -500, 1.0, 0.4)
