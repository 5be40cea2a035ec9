"""Batch normalisation folded into the convolutions before it, for networks that only predict: one pass over every map less.

In evaluation mode a BatchNorm multiplies each channel by gamma / sqrt(variance + eps) and adds a number; both can be done by the convolution's own
kernel and bias. The same numbers come out but for rounding, a test holds the two together. Files and trainings know nothing of it.
"""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .network import ConvNormReLU, MultiViewUnet


def folded(network: MultiViewUnet) -> MultiViewUnet:
    """A copy in evaluation mode without BatchNorms; `network`, whose adapter must be merged, stays as it is."""
    copied = copy.deepcopy(network).eval()
    for block in copied.modules():
        if isinstance(block, ConvNormReLU):
            convolution, norm = block[0], block[1]
            assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            dtype = convolution.weight.dtype
            block[0], block[1] = fuse_conv_bn_eval(convolution.double(), norm.double()).to(dtype), nn.Identity()  # rounded once
    return copied
