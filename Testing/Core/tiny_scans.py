"""Small heads and models for the tests: real files, seconds not minutes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from SAHLoRALib.adapters import AdapterConfig, attach
from SAHLoRALib.network import MultiViewUnet, NetworkConfig
from SAHLoRALib.slices import PixelGrid
from SAHLoRALib.weights import ModelInfo, save_adapter, save_base

#: Slices, rows, columns, and their spacing: a head of 135 × 170 × 135 mm.
SHAPE = (18, 80, 64)
SPACING = (8.0, 2.5, 2.5)
BLOOD_HU = 65.0
CONFIG = NetworkConfig(levels=2, width=4)
GRID = PixelGrid(pixel_mm=2.5, multiple=4)

Blob = tuple[tuple[int, int, int], tuple[int, int, int]]
#: A bleed of 3 × 6 × 5 voxels, start and size.
BLEED: Blob = ((8, 36, 34), (3, 6, 5))
VOXEL_ML = SPACING[0] * SPACING[1] * SPACING[2] / 1000.0


def box(blob: Blob, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """A mask with one box in it."""
    mask = np.zeros(shape, bool)
    start, size = blob
    mask[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))] = True
    return mask


def head(*bleeds: Blob, seed: int = 0, noise: float = 2.0) -> np.ndarray:
    """(slices, rows, columns) int16 HU: brain of 32 HU in a closed skull, scalp around it, boxes of blood."""
    z, y, x = (np.linspace(-1, 1, n).reshape([-1 if a == axis else 1 for a in range(3)]) for axis, n in enumerate(SHAPE))
    r = np.sqrt((z / 0.98) ** 2 + (y / 0.86) ** 2 + (x / 0.86) ** 2)
    hu = np.where(r < 0.82, 32.0, np.where(r < 0.93, 1100.0, np.where(r < 1.0, 20.0, -1000.0)))
    for bleed in bleeds:
        hu[box(bleed)] = BLOOD_HU
    hu += np.random.default_rng(seed).normal(0, noise, SHAPE)
    return hu.round().astype(np.int16)


def image(array: np.ndarray, origin: tuple[float, float, float] = (-80.0, -100.0, 30.0)) -> sitk.Image:
    """(slices, rows, columns) as an axial image."""
    result = sitk.GetImageFromArray(array)
    result.SetSpacing(SPACING[::-1])
    result.SetOrigin(origin)
    return result


def save_scan(path: Path, *bleeds: Blob, seed: int = 0) -> Path:
    """A head as a file, by suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image(head(*bleeds, seed=seed)), str(path), useCompression=True)
    return path


def save_dicom(folder: Path, study: str, series: str, *bleeds: Blob, description: str = "head", name: str = "Doe^Jane") -> Path:
    """A head as a DICOM series, one file a slice. study, series: the last part of their UIDs."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, plane in enumerate(head(*bleeds)):
        slice_image = sitk.GetImageFromArray(plane[None])
        slice_image.SetSpacing(SPACING[::-1])
        fields = {
            "0008|0008": "ORIGINAL\\PRIMARY\\AXIAL",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"1.2.826.0.1.{series}.{k + 1}",
            "0008|0060": "CT",
            "0008|103e": description,
            "0010|0010": name,
            "0010|0020": "4711",
            "0018|0050": "8",
            "0020|000d": f"1.2.826.0.2.{study}",
            "0020|000e": f"1.2.826.0.1.{series}",
            "0020|0011": series,
            "0020|0013": str(k + 1),
            "0020|0032": f"-80\\-100\\{30 + 8 * k}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|1052": "0",
            "0028|1053": "1",
        }
        for key, value in fields.items():
            slice_image.SetMetaData(key, value)
        slice_image.SetOrigin((-80.0, -100.0, 30.0 + 8 * k))
        writer.SetFileName(str(folder / f"{k:03d}.dcm"))
        writer.Execute(slice_image)
    return folder


def bright_network(threshold_hu: float = 49.0) -> MultiViewUnet:
    """A multi-view Unet whose only working path is the first skip: the logit is 0 at threshold_hu and rises with HU, pixel by pixel."""
    network = MultiViewUnet(CONFIG)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for norm in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.weight.fill_(1.0)
        for conv, source in ((network.stem[0][0], 0), (network.stem[1][0], 0), (network.head[0][0], CONFIG.width), (network.head[1][0], 0)):
            conv.weight[0, source, 1, 1] = 1.0
        network.head[2].weight[0, 0] = 60.0
        network.head[2].bias[0] = -60.0 * threshold_hu / 140.0
    return network.eval()


def random_network(seed: int = 0) -> MultiViewUnet:
    torch.manual_seed(seed)
    return MultiViewUnet(CONFIG).eval()


def save_models(folder: Path) -> tuple[ModelInfo, ModelInfo]:
    """tbi-base, which sees voxels above 49 HU, and soft, an adapter of it that sees somewhat darker ones too."""
    base = save_base(bright_network(), folder / "tbi-base.safetensors", grid=GRID, description="Sees what is brighter than 49 HU.")
    network = bright_network()
    config = AdapterConfig(method="cp-lora", rank=1, modules=("head",))
    attach(network, config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                parameter.fill_(0.05)
                assert "head" in name
    return base, save_adapter(network, config, folder / "soft.safetensors", base=base)
