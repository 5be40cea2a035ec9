"""Data-parallel training over several processes (torchrun): one `Group` a training, also when it has one member only.

The global batch is spread over the processes; everything that is pooled over a batch (Dice sums, BatchNorm statistics) is pooled over all of them,
so the result equals that of one process with the whole batch, within rounding.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .errors import ConfigError
from .strategies import StillBatchNorm2d


class Group:
    """The processes of a training. rank: number of this one. size: how many."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def leads(self) -> bool:
        """The one process that writes files and speaks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of `count` things (a multiple of `size`)."""
        part = count // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def pool(self, sums: Tensor) -> Tensor:
        """Sums over all processes. Gradients reach the own part only; `add_gradients` adds up the parts of all."""
        if self.size == 1:
            return sums
        total = sums.detach().clone()
        dist.all_reduce(total)
        return sums + (total - sums.detach())

    def add(self, values: Tensor) -> Tensor:
        """The sum over all processes, without gradients."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        return bool(self.add(torch.tensor([float(flag)], device=device)).item())

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Each process has the gradient of its own slices; afterwards all have the whole batch's."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


@contextlib.contextmanager
def process_group(backend: str) -> Iterator[Group]:
    """The group that torchrun's environment describes, or one that was set up before; a group of one without either. backend: nccl or gloo."""
    if dist.is_available() and dist.is_initialized():
        yield Group(dist.get_rank(), dist.get_world_size())
        return
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set; start several processes with torchrun.")
    dist.init_process_group(backend)
    try:
        yield Group(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


class PooledBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm whose batch is that of all processes (PyTorch's SyncBatchNorm runs on CUDA only)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        from torch.distributed.nn.functional import all_reduce

        wide = x.float()
        count = torch.full((1,), float(x.numel() // x.shape[1]), device=x.device)
        sums = all_reduce(torch.cat((wide.sum(dim=(0, 2, 3)), (wide * wide).sum(dim=(0, 2, 3)), count)))
        mean, square = (part / sums[-1] for part in sums[:-1].chunk(2))
        variance = (square - mean**2).clamp_min(0)
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
            momentum = 0.1 if self.momentum is None else self.momentum
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (sums[-1] / (sums[-1] - 1)), momentum)
        scale = (self.weight if self.affine else 1.0) * torch.rsqrt(variance + self.eps)
        shift = (self.bias if self.affine else 0.0) - mean * scale
        return (wide * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).to(x.dtype)


def pool_norms(network: nn.Module, group: Group) -> None:
    """Let the BatchNorms that learn pool over the processes; `unpool_norms` undoes it."""
    if group.size > 1:
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d) and not isinstance(layer, StillBatchNorm2d):
                layer.__class__ = PooledBatchNorm2d


def unpool_norms(network: nn.Module) -> None:
    """Plain BatchNorms again."""
    for layer in network.modules():
        if isinstance(layer, PooledBatchNorm2d):
            layer.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
