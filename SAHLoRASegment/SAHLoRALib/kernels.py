"""The kernel updates: what each adapter adds to a convolution's kernel.

Every update is a parametrization (torch.nn.utils.parametrize) of ``conv.weight``: it takes the frozen kernel W₀ and returns the adapted one,

    W' = W₀ + s·ΔW,   s = α/r (LoRA) or α/√r (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732),

of the same shape (O, I, kh, kw), I being in_channels / groups. One convolution is then run with W', so stride, padding, dilation, groups and padding
mode stay the layer's own. The classes differ in ΔW only; each gives its factors' shapes, so that sizes are known without building anything.
`Magnitude` after an update makes a DoRA of it.

All factors but the one that starts at zero are drawn so that an entry of the part of ΔW that stands beside the zero factor has the variance
1/(3·fan_in) of PyTorch's own Kaiming-uniform start (a = √5). fan_in is I·kh·kw for convLoRA and CP-LoRA, I·kw for LoRA-C, whose first step is thereby
√3 times theirs for kh = 3 at the same rank, learning rate and scale. ΔW is a sum over the rank: a step is about learning rate × s × √r in size. With
α left out s is 1, so a step grows with the rank: after Adam's first at 1e-3, all kernels of the base that comes along had changed by 0.03, 0.09 and
0.29 % of their norm with CP-LoRA of rank 2, 16 and 160. rsLoRA with one α for all ranks keeps its size.
"""

from __future__ import annotations

import contextlib
import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

#: Shape of a convolution's kernel: (O, I, kh, kw), outputs, inputs of one group, rows, columns.
KernelShape = tuple[int, int, int, int]


class KernelUpdate(nn.Module):
    """W₀ (O, I, kh, kw) → W₀ + s·ΔW; ΔW is zero at the start, so the output equals W₀ to the bit.

    weight: the kernel to be adapted; gives shape, dtype and device. generator: a CPU generator; the start does not depend on the device.
    """

    #: the factor that is zero at the start
    zero: ClassVar[str]

    def __init__(self, weight: Tensor, rank: int, scale: float, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.scale = scale
        self.kernel_shape: KernelShape = kernel_shape(weight)
        for name, shape in self.shapes(self.kernel_shape, rank).items():
            values = torch.empty(shape, dtype=weight.dtype, device="cpu")
            values = values.zero_() if name == self.zero else self._start(name, values, rank, generator)
            setattr(self, name, nn.Parameter(values.to(weight.device)))

    @staticmethod
    @abstractmethod
    def shapes(kernel: KernelShape, rank: int) -> dict[str, tuple[int, ...]]:
        """The factors' names and shapes for a kernel (O, I, kh, kw)."""

    @abstractmethod
    def delta(self) -> Tensor:
        """ΔW, (O, I, kh, kw), without the scale."""

    def _start(self, name: str, values: Tensor, rank: int, generator: torch.Generator | None) -> Tensor:
        """Fill a factor that does not start at zero. Kaiming-uniform with a = √5, which is ±1/√fan_in; fan_in: numbers in one row."""
        bound = 1 / math.sqrt(values[0].numel())
        return values.uniform_(-bound, bound, generator=generator)

    def forward(self, weight: Tensor) -> Tensor:
        with full_precision(weight.device):
            return weight + self.scale * self.delta()


class LoRAC(KernelUpdate):
    """LoRA-C (Ding et al. 2024, arXiv 2410.16954): the layer's kernel as one matrix of shape (O·kh, kw·I) = B·A, entry ((o,u),(i,v)) = ΔW[o,i,u,v].

    B (O·kh, r), A (r, kw·I): r·(kh·O + kw·I) numbers.
    """

    zero = "B"
    A: Tensor
    B: Tensor

    @staticmethod
    def shapes(kernel: KernelShape, rank: int) -> dict[str, tuple[int, ...]]:
        o, i, kh, kw = kernel
        return {"A": (rank, i * kw), "B": (o * kh, rank)}

    def delta(self) -> Tensor:
        o, i, kh, kw = self.kernel_shape
        # (o,u),(i,v) → o,u,i,v → o,i,u,v: a plain view would mix inputs with kernel positions
        return (self.B @ self.A).view(o, kh, i, kw).permute(0, 2, 1, 3)


class ConvLoRA(KernelUpdate):
    """convLoRA (Aleem et al. 2024, arXiv 2402.04964): a kh×kw convolution to r channels, then a 1×1: ΔW[o,i,u,v] = Σ_ρ B[o,ρ]·A[ρ,i,u,v].

    A (r, I, kh, kw), B (O, r): r·(I·kh·kw + O) numbers.
    """

    zero = "B"
    A: Tensor
    B: Tensor

    @staticmethod
    def shapes(kernel: KernelShape, rank: int) -> dict[str, tuple[int, ...]]:
        o, i, kh, kw = kernel
        return {"A": (rank, i, kh, kw), "B": (o, rank)}

    def delta(self) -> Tensor:
        return (self.B @ self.A.flatten(1)).view(self.kernel_shape)


class CPLoRA(KernelUpdate):
    """CP-LoRA (Minoccheri et al., arXiv 2508.01772): canonical polyadic form, ΔW[o,i,u,v] = Σ_ρ a[o,ρ]·b[i,ρ]·c[u,ρ]·d[v,ρ], by tensorly.

    a (O, r), b (I, r), c (kh, r), d (kw, r): r·(O + I + kh + kw) numbers. a is zero at the start; the others are normal, with the standard deviations
    1/√(3I), 1/√kh and 1/√kw. (Where all factors start non-zero, as in public code, the network is disturbed before training begins.)
    """

    zero = "a"
    a: Tensor
    b: Tensor
    c: Tensor
    d: Tensor

    @staticmethod
    def shapes(kernel: KernelShape, rank: int) -> dict[str, tuple[int, ...]]:
        o, i, kh, kw = kernel
        return {"a": (o, rank), "b": (i, rank), "c": (kh, rank), "d": (kw, rank)}

    def _start(self, name: str, values: Tensor, rank: int, generator: torch.Generator | None) -> Tensor:
        rows = values.shape[0] * (3 if name == "b" else 1)
        return values.normal_(0, 1 / math.sqrt(rows), generator=generator)

    def delta(self) -> Tensor:
        from tensorly.cp_tensor import cp_to_tensor  # takes half a second to import; only CP needs it

        with _tensorly_on_torch():
            return cp_to_tensor((None, [self.a, self.b, self.c, self.d]))


class LoralibConv(KernelUpdate):
    """The form of microsoft/LoRA's ConvLoRA and of the authors' repositories, for comparison: ΔW = view(B·A).

    B (O·kh, r·kh), A (r·kh, kw·I): r·kh·(kh·O + kw·I) numbers. The rank of the product is up to r·kh, and the plain view does not keep an input and
    a column of the kernel together: entry (o, n) of the product lands wherever row-major order puts it. For grouped convolutions I is that of one
    group (loralib's A has the columns of all groups).
    """

    zero = "B"
    A: Tensor
    B: Tensor

    @staticmethod
    def shapes(kernel: KernelShape, rank: int) -> dict[str, tuple[int, ...]]:
        o, i, kh, kw = kernel
        return {"A": (rank * kh, i * kw), "B": (o * kh, rank * kh)}

    def delta(self) -> Tensor:
        return (self.B @ self.A).view(self.kernel_shape)


class TuckerLoRA(KernelUpdate):
    """Tucker-2 form with a core over the kernel (LoCon of LyCORIS; FLoRA, arXiv 2405.14739): ΔW[o,i,u,v] = Σ_pq U[o,p]·G[p,q,u,v]·V[i,q].

    A 1×1 convolution to r channels, kh×kw within them, 1×1 back. U (O, r), G (r, r, kh, kw), V (I, r): r·(O + I) + r²·kh·kw numbers. U is zero at the
    start; G and V are normal with the standard deviations 1/√(r·kh·kw) and 1/√(3I).
    """

    zero = "U"
    U: Tensor
    G: Tensor
    V: Tensor

    @staticmethod
    def shapes(kernel: KernelShape, rank: int) -> dict[str, tuple[int, ...]]:
        o, i, kh, kw = kernel
        return {"U": (o, rank), "G": (rank, rank, kh, kw), "V": (i, rank)}

    def _start(self, name: str, values: Tensor, rank: int, generator: torch.Generator | None) -> Tensor:
        variance = 1 / values[0].numel() if name == "G" else 1 / (3 * values.shape[0])
        return values.normal_(0, math.sqrt(variance), generator=generator)

    def delta(self) -> Tensor:
        return torch.einsum("op,pquv,iq->oiuv", self.U, self.G, self.V)


class Magnitude(nn.Module):
    """DoRA (Liu et al. 2024, arXiv 2402.09353): V (O, I, kh, kw) → m ⊙ V / ‖V‖, the norm per output channel over (I, kh, kw).

    m: (O,), starts at ‖W₀‖. The ratio m/‖V‖ is formed first: at the start it is x/x, which is 1 exactly, so the adapted kernel equals W₀ to the bit
    on the device where the adapter was attached (another device may sum a norm in another order: one unit in the last place). In the backward pass
    the norm is a constant (§4.3 of the paper, as in huggingface/peft) unless `full_gradient`. A channel whose norm is zero passes unscaled.
    """

    def __init__(self, weight: Tensor, full_gradient: bool = False) -> None:
        super().__init__()
        self.full_gradient = full_gradient
        self.m = nn.Parameter(_channel_norms(weight.detach().contiguous()))

    def forward(self, direction: Tensor) -> Tensor:
        with full_precision(direction.device):
            norm = _channel_norms(direction.contiguous())
            if not self.full_gradient:
                norm = norm.detach()
            is_zero = norm == 0
            ratio = torch.where(is_zero, torch.ones_like(norm), self.m / torch.where(is_zero, torch.ones_like(norm), norm))
            return ratio.view(-1, 1, 1, 1) * direction


#: The kernel update of each method, and whether a Magnitude follows it.
UPDATES: dict[str, tuple[type[KernelUpdate], bool]] = {
    "lora-c": (LoRAC, False),
    "conv-lora": (ConvLoRA, False),
    "cp-lora": (CPLoRA, False),
    "dora-c": (LoRAC, True),
    "conv-dora": (ConvLoRA, True),
    "cp-dora": (CPLoRA, True),
    "loralib": (LoralibConv, False),
    "tucker": (TuckerLoRA, False),
}


def kernel_shape(weight: Tensor) -> KernelShape:
    """The shape of a 2D convolution's kernel."""
    o, i, kh, kw = weight.shape
    return o, i, kh, kw


def _channel_norms(kernel: Tensor) -> Tensor:
    """(O, I, kh, kw) → (O,)"""
    return torch.linalg.vector_norm(kernel, dim=(1, 2, 3))


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Kernels are made in their own precision even under autocast: merged and unmerged networks would differ otherwise."""
    # Torch before 2.5 has no autocast on MPS and refuses to switch it off there.
    has_autocast = getattr(torch.amp, "is_autocast_available", lambda kind: kind in ("cpu", "cuda"))
    if has_autocast(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


@contextlib.contextmanager
def _tensorly_on_torch() -> Iterator[None]:
    """tensorly computes with torch inside, for this thread alone: its own context would set the backend of all threads on the way out."""
    import tensorly

    before = tensorly.get_backend()
    tensorly.set_backend("pytorch", local_threadsafe=True)
    try:
        yield
    finally:
        tensorly.set_backend(before, local_threadsafe=True)
