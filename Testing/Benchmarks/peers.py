"""What `bench.py` compares with: nnU-Net's network and DeepMedic (blast-ct) patch by patch, adapters of peft and LyCORIS.

Both networks have random weights; time does not depend on them. One patch is timed and multiplied by the number of patches, which is said.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch
from torch import nn

#: nnU-Net's 3d_fullres plan for CT of this kind: patch (z, y, x), six stages, 32 to 320 channels. Half of a patch overlaps the next.
_PATCH, _OVERLAP = (16, 320, 320), 0.5


def segmentation(scan: Path) -> list[dict[str, Any]]:
    """What each peer needs for this scan, reading and resampling not counted (in the peers' favour)."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(scan))
    reader.ReadImageInformation()
    size, spacing = reader.GetSize()[::-1], reader.GetSpacing()[::-1]
    return [_nnunet(size), _deepmedic(tuple(round(n * s) for n, s in zip(size, spacing, strict=True)))]


def _nnunet(size: tuple[int, ...]) -> dict[str, Any]:
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    kernels = [(1, 3, 3), *[(3, 3, 3)] * 5]
    strides = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2)]
    norm = {"norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"affine": True}}
    widths = (32, 64, 128, 256, 320, 320)
    network = PlainConvUNet(1, 6, widths, nn.Conv3d, kernels, strides, 2, 2, 2, conv_bias=True, nonlin=nn.LeakyReLU, **norm)
    network.eval()
    seconds = _one_patch(lambda x: network(x), (1, 1, *_PATCH))
    count = math.prod(max(1, math.ceil((n - p) / (p * _OVERLAP)) + 1) for n, p in zip(size, _PATCH, strict=True))
    return {
        "what": "nnU-Net 3d_fullres, without mirroring",
        "seconds": seconds * count,
        "note": f"One patch of {_PATCH} timed ({seconds:.1f} s), times {count}.",
    }


def _deepmedic(size: tuple[int, ...]) -> dict[str, Any]:
    from blast_ct.assets import get_config_path
    from blast_ct.models.deepmedic import DeepMedic

    config = json.loads(Path(get_config_path()).read_text())
    network = DeepMedic(config["data"]["input_channels"], config["data"]["num_classes"]).eval()
    patch = tuple(config["test"]["input_patch_size"])
    out = network.get_output_size(patch)
    seconds = _one_patch(lambda x: network(x)[0], (1, 1, *patch))
    count = math.prod(math.ceil(n / p) for n, p in zip(size, out, strict=True))
    note = f"One patch of {patch} timed ({seconds:.1f} s), times {count} at 1 mm."
    return {"what": "DeepMedic (blast-ct), one network", "seconds": seconds * count, "note": note}


def _one_patch(run: Callable[[torch.Tensor], Any], shape: tuple[int, ...]) -> float:
    x = torch.rand(shape)
    with torch.inference_mode():
        start = time.perf_counter()
        run(x)
        return time.perf_counter() - start


def _peft(network: nn.Module, rank: int) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    plain = [name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d) and layer.dilation == (1, 1)]
    return get_peft_model(network, LoraConfig(r=rank, lora_alpha=rank, target_modules=plain))


def _lycoris(network: nn.Module, rank: int) -> nn.Module:
    from lycoris import LycorisNetwork, create_lycoris

    network.requires_grad_(False)
    LycorisNetwork.apply_preset({"enable_conv": True, "target_name": [".*"]})
    wrapped = create_lycoris(network, 1.0, linear_dim=rank, linear_alpha=rank, conv_dim=rank, conv_alpha=rank, algo="lora")
    wrapped.apply_to()
    network.add_module("lycoris", wrapped)
    return network


#: (name, wrap(network, rank), what is to be known)
ADAPTERS: tuple[tuple[str, Callable[[nn.Module, int], nn.Module], str], ...] = (
    ("peft LoRA", _peft, "without the dilated convolutions: peft forgets the dilation and stops there (peft issue 3697)"),
    ("LyCORIS LoCon", _lycoris, ""),
)
