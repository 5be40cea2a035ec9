"""What training minimises: soft Dice pooled over the batch, and cross-entropy.

Pooled (Dice of all slices together, METHODS.md §3) instead of a mean over slices: slices with little blood do not shake the gradient, slices without
blood count as false positives. With all weights 1 the sum of both is MONAI's ``DiceCELoss(sigmoid=True, batch=True)`` (a test holds that).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

LOSSES = ("dice+ce", "dice", "ce")

#: Adds a tensor over all processes; see `parallel.Group.pool`.
Pool = Callable[[Tensor], Tensor]


def segmentation_loss(logits: Tensor, target: Tensor, weight: Tensor, kind: str = "dice+ce", pool: Pool = lambda sums: sums) -> Tensor:
    """logits, target: (n, 1, rows, columns), float32 inside. weight: (n,) of each slice. A scalar.

    Dice term 1 − w̄·2Σwpg / Σw(p + g), w̄ the mean weight (the laboratory's 1 − w·softDice); cross-entropy term Σw·ce / n.
    """
    logits, target = logits.float(), target.float()
    p = torch.sigmoid(logits)
    pixels = float(logits[0].numel())
    entropy = binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1).sum(dim=1) / pixels
    overlap = (p * target).flatten(1).sum(dim=1)
    total = (p + target).flatten(1).sum(dim=1)
    count = torch.ones_like(weight)
    sums = pool(torch.stack([(weight * overlap).sum(), (weight * total).sum(), (weight * entropy).sum(), weight.sum(), count.sum()]))
    dice = 1 - sums[3] / sums[4] * (2 * sums[0] + 1e-5) / (sums[1] + 1e-5)
    entropy = sums[2] / sums[4]
    return {"dice+ce": dice + entropy, "dice": dice, "ce": entropy}[kind]
