"""Networks that only predict: batch normalisation folded into the convolutions before it, and pooling that notes no places.

In evaluation mode a BatchNorm multiplies each channel by gamma / sqrt(variance + eps) and adds a number; both can be done by the convolution's own
kernel and bias: one pass over every map less. The same numbers come out but for rounding, a test holds the two together. torch's pooling writes down
where each maximum lay, eight bytes for every two that it keeps, though only a training asks. Files and trainings know nothing of all this.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .network import ConvNormReLU, MultiViewUnet


class LargestOfFour(nn.Module):
    """What MaxPool2d(2) gives for an even number of rows and columns."""

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.maximum(x[..., 0::2, :], x[..., 1::2, :])
        return torch.maximum(rows[..., 0::2], rows[..., 1::2])


def folded(network: MultiViewUnet) -> MultiViewUnet:
    """A copy in evaluation mode without BatchNorms; `network`, whose adapter must be merged, stays as it is."""
    copied = copy.deepcopy(network).eval()
    for block in copied.modules():
        if isinstance(block, ConvNormReLU):
            convolution, norm = block[0], block[1]
            assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            dtype = convolution.weight.dtype
            block[0], block[1] = fuse_conv_bn_eval(convolution.double(), norm.double()).to(dtype), nn.Identity()  # rounded once
    copied.pool = LargestOfFour()
    return copied
