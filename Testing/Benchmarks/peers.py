"""What `bench.py` compares with: nnU-Net's network and DeepMedic (blast-ct) patch by patch, adapters of peft, LyCORIS and loralib.

Both networks have random weights; time does not depend on them. One patch is timed and multiplied by the number of patches, which is said. They
compute in float32, as nnU-Net and blast-ct do on a processor, and on a GPU in half precision, as nnU-Net does there; reading, resampling, pasting
patches together and writing are left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch
from clock import device, seconds
from SAHLoRALib.network import ConvNormReLU
from SAHLoRALib.strategies import hold_norms
from torch import nn

#: nnU-Net's 3d_fullres plan for CT of this kind: patch (z, y, x), six stages, 32 to 320 channels. Half of a patch overlaps the next.
_PATCH, _OVERLAP = (16, 320, 320), 0.5


def segmentation(scan: Path) -> list[dict[str, Any]]:
    """What each peer needs for this scan, reading and resampling not counted (in the peers' favour)."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(scan))
    reader.ReadImageInformation()
    size, spacing = reader.GetSize()[::-1], reader.GetSpacing()[::-1]
    return [*_nnunet(size), _deepmedic(tuple(round(n * s) for n, s in zip(size, spacing, strict=True)))]


def _nnunet(size: tuple[int, ...]) -> list[dict[str, Any]]:
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    kernels = [(1, 3, 3), *[(3, 3, 3)] * 5]
    strides = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2)]
    norm = {"norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"affine": True}}
    widths = (32, 64, 128, 256, 320, 320)
    network = PlainConvUNet(1, 6, widths, nn.Conv3d, kernels, strides, 2, 2, 2, conv_bias=True, nonlin=nn.LeakyReLU, **norm)
    network.eval().to(device())
    each = _one_patch(lambda x: network(x), (1, 1, *_PATCH))
    count = math.prod(max(1, math.ceil((n - p) / (p * _OVERLAP)) + 1) for n, p in zip(size, _PATCH, strict=True))
    note = f"One patch of {_PATCH} timed ({each:.3g} s), times {count}"
    return [
        {"what": "nnU-Net 3d_fullres, without mirroring", "seconds": each * count, "note": f"{note}."},
        {"what": "nnU-Net 3d_fullres, with its default mirroring", "seconds": each * count * 8, "note": f"{note}, times 8."},
    ]


def _deepmedic(size: tuple[int, ...]) -> dict[str, Any]:
    from blast_ct.assets import get_config_path
    from blast_ct.models.deepmedic import DeepMedic

    config = json.loads(Path(get_config_path()).read_text())
    network = DeepMedic(config["data"]["input_channels"], config["data"]["num_classes"]).eval().to(device())
    patch = tuple(config["test"]["input_patch_size"])
    out = network.get_output_size(patch)
    each = _one_patch(lambda x: network(x)[0], (1, 1, *patch))
    count = math.prod(math.ceil(n / p) for n, p in zip(size, out, strict=True))
    note = f"One patch of {patch} timed ({each:.3g} s), times {count} at 1 mm."
    return {"what": "DeepMedic (blast-ct), one network", "seconds": each * count, "note": note}


def _one_patch(run: Callable[[torch.Tensor], Any], shape: tuple[int, ...]) -> float:
    """Seconds of the fastest of three runs."""
    x = torch.rand(shape, device=device())
    with torch.inference_mode(), torch.autocast("cuda", enabled=device().type == "cuda"):
        return min(seconds(lambda: run(x)) for _ in range(3))


def plain_with_held_norms(network: nn.Module) -> nn.Module:
    """The network for a peer's adapter: norms keep the base's statistics, as ours do, behind convolutions whose layers the peer may exchange."""
    hold_norms(layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d))
    for block in network.modules():
        if isinstance(block, ConvNormReLU):
            block.forward = block.layer_by_layer  # type: ignore[method-assign]
    return network


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


def _loralib(network: nn.Module, rank: int) -> nn.Module:
    import loralib

    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Conv2d):
            around, _, own = name.rpartition(".")
            like = {"padding": layer.padding[0], "dilation": layer.dilation[0]}
            wrapped = loralib.Conv2d(
                layer.in_channels, layer.out_channels, layer.kernel_size[0], r=rank, lora_alpha=rank, merge_weights=False, **like
            )
            wrapped.conv.load_state_dict(layer.state_dict())
            setattr(network.get_submodule(around), own, wrapped)
    loralib.mark_only_lora_as_trainable(network)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


#: (name, wrap(network, rank), what is to be known)
ADAPTERS: tuple[tuple[str, Callable[[nn.Module, int], nn.Module], str], ...] = (
    ("peft LoRA", _peft, "without the dilated convolutions: peft forgets the dilation and stops there (peft issue 3697)"),
    ("LyCORIS LoCon", _lycoris, ""),
    ("loralib", _loralib, "rank r times the kernel's rows"),
)
