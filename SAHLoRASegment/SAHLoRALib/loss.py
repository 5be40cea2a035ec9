"""What training minimises: soft Dice, of the batch or of its slices, and cross-entropy.

Pooled (Dice of all slices together, METHODS.md §3): slices with little blood do not shake the gradient, slices without blood count as false
positives. With all weights 1 dice+ce is MONAI's ``DiceCELoss(sigmoid=True, batch=True)``.
Of the slices (slices+ce): a slice with little blood counts as much as one with much, and false blood on a slice without any as much as blood that is
missed. With all weights 1 it is MONAI's ``DiceCELoss(sigmoid=True, smooth_nr=SMOOTH_PIXELS, smooth_dr=SMOOTH_PIXELS)``. Tests hold both.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

LOSSES = ("dice+ce", "dice", "ce", "slices+ce")

#: Added to both parts of a slice's own Dice: without it a slice without blood would have none, and single pixels would make all of a small one's.
SMOOTH_PIXELS = 20.0

#: Adds a tensor over all processes; see `parallel.Group.pool`.
Pool = Callable[[Tensor], Tensor]


def segmentation_loss(logits: Tensor, target: Tensor, weight: Tensor, kind: str = "dice+ce", pool: Pool = lambda sums: sums) -> Tensor:
    """logits, target: (n, 1, rows, columns), float32 inside. weight: (n,) of each slice. A scalar.

    Dice term of the batch 1 − w̄·2Σwpg / Σw(p + g), w̄ the mean weight (the laboratory's 1 − w·softDice), of the slices
    Σw(1 − (2pg + s) / (p + g + s)) / n, s SMOOTH_PIXELS; cross-entropy term Σw·ce / n.
    """
    logits, target = logits.float(), target.float()
    p = torch.sigmoid(logits)
    pixels = float(logits[0].numel())
    entropy = binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1).sum(dim=1) / pixels
    overlap = (p * target).flatten(1).sum(dim=1)
    total = (p + target).flatten(1).sum(dim=1)
    count = torch.ones_like(weight)
    own = 1 - (2 * overlap + SMOOTH_PIXELS) / (total + SMOOTH_PIXELS)
    parts = (weight * overlap, weight * total, weight * entropy, weight, count, weight * own)
    sums = pool(torch.stack([part.sum() for part in parts]))
    dice = 1 - sums[3] / sums[4] * (2 * sums[0] + 1e-5) / (sums[1] + 1e-5)
    entropy = sums[2] / sums[4]
    return {"dice+ce": dice + entropy, "dice": dice, "ce": entropy, "slices+ce": sums[5] / sums[4] + entropy}[kind]
