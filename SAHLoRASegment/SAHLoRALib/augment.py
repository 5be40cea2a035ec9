"""Random variation of the training slices, in Hounsfield units and on the network's pixels.

Two sets, alone or together:

- `laboratory` (METHODS.md §3): elastic deformation (α = 5, σ = 4) with p = 0.5, horizontal flip with p = 0.5, and random contrast: both ends of the
  HU window move by U(−30, 30), and the slice's loss counts w = 1 − (|lo| + |hi|)/60. With σ = 4 the smoothed field moves pixels by about 0.2.
- `scanner` (ours): what differs from scanner to scanner and from head to head: rotation, zoom, smooth deformation, flip; a bright rim under the bone,
  noise, smooth and sharp reconstruction kernels, gain and offset, a slowly varying field and cupping.

Crop, rotation, zoom, flip and both deformations are one resampling. All random numbers of a slice come from the slice's own seed, so a batch does not
depend on how it is spread over processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample, interpolate, pad

from .errors import ConfigError
from .samples import seeded
from .slices import normalise
from .volume import AIR_HU

AUGMENTATIONS = ("none", "laboratory", "scanner", "both")


@dataclass(frozen=True)
class Augmentation:
    """How training slices are varied."""

    kind: str = "scanner"
    """Of the augmentation: none, laboratory, scanner or both."""
    strength: float = 1.0
    """Of the augmentation: scales every range; 0 leaves crop and flip."""
    geometry: float | None = None
    """Of rotation, zoom and deformation, where heads are to differ more, or less, than scanners; without it the strength."""
    weigh_contrast: bool = True
    """Let a slice of which the laboratory's augmentation moves the HU window count less in the loss."""

    def __post_init__(self) -> None:
        if self.kind not in AUGMENTATIONS:
            raise ConfigError(f"Unknown augmentation {self.kind!r}; known are {', '.join(AUGMENTATIONS)}.")
        for name in ("strength", "geometry"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 5:
                raise ConfigError(f"The augmentation's {name} must be between 0 and 5, not {value}.")

    @property
    def laboratory(self) -> bool:
        return self.kind in ("laboratory", "both")

    @property
    def scanner(self) -> bool:
        return self.kind in ("scanner", "both")

    @property
    def moving(self) -> float:
        """Strength of rotation, zoom and deformation."""
        return self.strength if self.geometry is None else self.geometry


@dataclass(frozen=True)
class Batch:
    """image: (n, 1, rows, columns) in [0, 1]. target: the same shape, in [0, 1]. weight: (n,) of each slice in the loss."""

    image: Tensor
    target: Tensor
    weight: Tensor


def augment(
    hu: Tensor,
    blood: Tensor,
    sizes: Tensor,
    seeds: Sequence[tuple[int, ...]],
    crop: tuple[int, int],
    window: tuple[float, float],
    what: Augmentation,
) -> Batch:
    """hu (n, 1, H, W) in HU, blood (n, 1, H, W) in [0, 1], sizes (n, 2) of the slices within → a batch of crops, on the device of `hu`."""
    device = hu.device
    draws = [_Draws(seed, device) for seed in seeds]
    hu, target = _resample(hu, blood, sizes, draws, crop, what)
    weight = torch.ones(len(hu), device=device)
    if what.scanner and what.strength > 0:
        hu = _scanner(hu, draws, what.strength)
    if what.laboratory and what.strength > 0:
        ends = _column(draws, 2, -30, 30).clamp(-30, 30) * min(1.0, what.strength)
        low, high = (window[k] + ends[:, k].view(-1, 1, 1, 1) for k in range(2))
        image = ((hu - low) / (high - low).clamp_min(20.0)).clamp_(0, 1)
        if what.weigh_contrast:
            weight = 1 - ends.abs().sum(dim=1) / 60
    else:
        image = normalise(hu, window)
    return Batch(image, target, weight)


class _Draws:
    """A slice's random numbers: small ones from a CPU generator, so that they are the same everywhere; noise from the device's own."""

    def __init__(self, seed: tuple[int, ...], device: torch.device) -> None:
        self._cpu = seeded(*seed, 0)
        self._device = self._cpu if device.type == "cpu" else seeded(*seed, 1, device=device)
        self.device = device

    def uniform(self, count: int) -> Tensor:
        return torch.rand(count, generator=self._cpu)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._cpu)

    def noise(self, *shape: int) -> Tensor:
        """Standard normal, on the device."""
        return torch.randn(shape, generator=self._device, device=self.device)


def _column(draws: list[_Draws], count: int, low: float, high: float) -> Tensor:
    """(n, count) uniform numbers between low and high, on the device."""
    return torch.stack([d.uniform(count) for d in draws]).to(draws[0].device) * (high - low) + low


def _resample(hu: Tensor, blood: Tensor, sizes: Tensor, draws: list[_Draws], crop: tuple[int, int], what: Augmentation) -> tuple[Tensor, Tensor]:
    """Crop, flip, rotation, zoom and deformation in one go; outside the slice there is air."""
    device = hu.device
    n, strength = len(hu), what.moving
    random = _column(draws, 7, -1, 1)  # flip, angle, zoom, shift of rows and of columns, which deformation
    size = torch.tensor(crop, device=device)
    sizes = sizes.to(device)
    # A slice larger than the crop is cut anywhere, a smaller one lies in the middle. Whole pixels: without variation nothing is interpolated.
    slack = (sizes - size).clamp_min(0) / 2
    shift = random[:, 3:5] * slack
    matrix = torch.eye(2, device=device).repeat(n, 1, 1)
    if what.scanner and strength > 0:
        shift = shift + random[:, 5:7] * 6 * strength
        angle = random[:, 1] * math.radians(15) * strength
        zoom = 1.15 ** (random[:, 2] * strength)
        cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
        matrix = torch.stack((torch.stack((cos, -sin), 1), torch.stack((sin, cos), 1)), 1)
    else:
        shift = shift.round()
    if what.kind != "none":
        mirror = torch.where(random[:, 0] < 0, -1.0, 1.0)
        matrix = matrix * torch.stack((torch.ones_like(mirror), mirror), 1)[:, None, :]
    centre = ((sizes - size) / 2).floor() + (size - 1) / 2 + shift
    rows = torch.arange(crop[0], device=device) - (crop[0] - 1) / 2
    columns = torch.arange(crop[1], device=device) - (crop[1] - 1) / 2
    place = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)  # row and column from the crop's centre
    source = torch.einsum("nij,hwj->nhwi", matrix, place) + centre[:, None, None]
    if strength > 0 and what.kind != "none":
        source = source + _deformation(draws, crop, what)
    extent = torch.tensor(hu.shape[2:], device=device)
    coordinates = ((2 * source + 1) / extent - 1).flip(-1)
    both = torch.cat((hu - AIR_HU, blood), dim=1)
    both = grid_sample(both, coordinates, mode="bilinear", padding_mode="zeros", align_corners=False)
    return both[:, :1] + AIR_HU, both[:, 1:].clamp(0, 1)


def _deformation(draws: list[_Draws], crop: tuple[int, int], what: Augmentation) -> Tensor:
    """(n, rows, columns, 2) displacement in pixels."""
    device = draws[0].device
    chosen = _column(draws, 2, 0, 1) < 0.5
    field = torch.zeros((len(draws), 2, *crop), device=device)
    if what.scanner:
        coarse = torch.stack([d.normal(2, 7, 6) for d in draws]).to(device).clamp_(-2, 2)
        smooth = interpolate(coarse, size=crop, mode="bicubic", align_corners=True)
        field += smooth * (1.5 * what.moving * chosen[:, 0]).view(-1, 1, 1, 1)
    if what.laboratory:
        for i, d in enumerate(draws):
            if chosen[i, 1]:
                white = torch.rand((1, 2, *crop), generator=d._device, device=device) * 2 - 1
                field[i] += 5.0 * what.moving * gaussian(white, 4.0)[0]
    return field.permute(0, 2, 3, 1)


def _scanner(hu: Tensor, draws: list[_Draws], strength: float) -> Tensor:
    """Bright rim under the bone, noise, reconstruction kernel, gain, offset, slow field and cupping.

    The rim (scatter and what beam-hardening correction leaves) reaches 16 HU at 2.5 mm and 7 HU at 4.5 mm from the inner table in the one real scan
    at hand; a Gaussian of 4 pixels over the bone times 60 HU gives that at pixels of 1 mm. Where a thick slice cuts the vault at a slant, bone shares
    its voxels with the brain over a centimetre: the square of a wider Gaussian. Without both, networks draw subdurals there.
    """
    n, _, rows, columns = hu.shape
    device = hu.device
    random = _column(draws, 10, -1, 1).T.reshape(10, n, 1, 1, 1)
    noisy, kernelled, uneven = random[0] < 0, random[1] < 0, random[2] < 0
    soft = (hu > -50) & (hu < 200)
    bone = (hu > 250).to(hu.dtype)
    slant = (random[9] - 0.6).clamp_min(0) * 1500 * strength  # a fifth of the slices
    hu = hu + soft * (gaussian(bone, 4.0) * ((random[8] + 0.6).clamp_min(0) * 45 * strength) + gaussian(bone, 8.0).square() * slant)
    noise = torch.stack([d.noise(1, rows, columns) for d in draws])
    hu = hu + noise * ((random[3] + 1) * 3 * strength * noisy)
    amount = random[4] * min(1.0, 0.8 * strength) * kernelled  # -1: the smooth image, +1: sharpened
    hu = hu + amount * (hu - gaussian(hu, 0.8))
    coarse = torch.stack([d.normal(1, 4, 4) for d in draws]).to(device).clamp_(-2, 2)
    slow = interpolate(coarse, size=(rows, columns), mode="bicubic", align_corners=True) * 3
    y = torch.linspace(-1, 1, rows, device=device)[:, None]
    x = torch.linspace(-1, 1, columns, device=device)[None]
    cupping = (x**2 + y**2 - 0.5) * 6 * random[5]
    return hu * (1 + 0.05 * strength * random[6]) + 4 * strength * random[7] + (slow + cupping) * strength * uneven


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """(n, c, rows, columns) smoothed in the plane, sigma in pixels; the edge is repeated."""
    radius = max(1, math.ceil(2.5 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype) / sigma) ** 2)
    taps = taps / taps.sum()
    n, c, rows, columns = x.shape
    flat = pad(x.reshape(n * c, 1, rows, columns), (radius,) * 4, mode="replicate")
    return conv2d(conv2d(flat, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1)).view(n, c, rows, columns)
