"""A scan in, a haemorrhage mask and a report out.

The network is merged with its adapter once. Slices pass through it in chunks, only the brain's window of slices with brain, so a scan of
512 × 512 × 600 needs little more memory than itself. probability → threshold → inside of the skull → specks removed by their true volume.
"""

from __future__ import annotations

import copy
import datetime
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import __version__
from .crashlog import NO_MEMORY_FOR_MAPS
from .errors import ConfigError, ModelError
from .events import Events

if TYPE_CHECKING:
    import torch

    from .catalogue import Catalogue
    from .ct import CTVolume
    from .findings import Component, SliceFinding
    from .network import MultiViewUnet
    from .weights import ModelInfo

#: What segments where nothing else is asked for. DEFAULT_ADAPTER: a name, or NONE for the model as it is.
NONE = "none"
DEFAULT_MODEL = "tbi-base"
DEFAULT_ADAPTER = "all-conv-lora"

#: Share of the time that finding the skull takes before the first slice passes the network; for the progress only.
_SKULL_SHARE = 0.12


@dataclass(frozen=True)
class SegmentConfig:
    """How a scan is segmented; the same for the command line, Slicer's job and the report."""

    threshold: float | None = None
    """Probability from which a voxel is haemorrhage; without it the model's own, chosen in its training."""
    # On the validation heads 0.3 mL would draw a third less false blood into heads without any, at the same Dice of the base; but an aSAH adapter
    # would lose the smallest of 32 haemorrhages, which it finds.
    smallest_ml: float = 0.1
    """Pieces smaller than this many mL are removed."""
    single_slice_ml: float = 1.0
    """Pieces on one slice only are removed when smaller than this many mL, where the slices beside it lie within 8 mm; 0 keeps them."""
    flips: bool = False
    """Mean of the slices as they are and mirrored left to right: twice the time, a little steadier."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Of the network's arithmetic; auto takes bf16 where the processor computes in it."""
    batch: int = 8
    """Slices that pass the network together: fewer need less memory."""

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0.0 < self.threshold < 1.0:
            raise ConfigError(f"The threshold must lie between 0 and 1, not at {self.threshold:g}.")
        if not (math.isfinite(self.smallest_ml) and self.smallest_ml >= 0.0):
            raise ConfigError(f"smallest_ml must be 0 mL or more, not {self.smallest_ml:g}.")
        if not (math.isfinite(self.single_slice_ml) and self.single_slice_ml >= 0.0):
            raise ConfigError(f"single_slice_ml must be 0 mL or more, not {self.single_slice_ml:g}.")
        if self.precision not in ("auto", "bf16", "float32"):
            raise ConfigError(f"precision must be auto, bf16 or float32, not {self.precision!r}.")
        if self.batch < 1:
            raise ConfigError(f"batch must be 1 slice or more, not {self.batch}.")


@dataclass(frozen=True)
class SegmentationReport:
    """What was found, in what, with what.

    total_ml: from the true slice positions. extent_mm: left–right, front–back, bottom–top of all haemorrhage together, None without any.
    components: the largest first. shape: slices, rows, columns; spacing_mm: rows, columns; gaps_mm: smallest and largest. model, adapter: name,
    kind, digest. computing: why this device and precision. seconds: for this scan without reading and writing.
    """

    source: str
    series: str
    total_ml: float
    components: tuple[Component, ...]
    slices: tuple[SliceFinding, ...]
    extent_mm: tuple[float, float, float] | None
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float]
    gaps_mm: tuple[float, float]
    tilt_degrees: float
    model: dict[str, Any]
    adapter: dict[str, Any] | None
    threshold: float
    smallest_ml: float
    single_slice_ml: float
    flips: bool
    pixel_mm: float
    device: str
    precision: str
    computing: str
    seconds: float
    warnings: tuple[str, ...]
    date: str
    version: str = __version__

    @property
    def largest_ml(self) -> float:
        return self.components[0].ml if self.components else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON; floats to six digits."""
        return _rounded(asdict(self))


@dataclass(frozen=True, eq=False)
class Segmentation:
    """mask: (slices, rows, columns) bool, canonical order. probability: the same shape, float16 in [0, 1], 0 outside the skull, where it was kept."""

    mask: np.ndarray
    probability: np.ndarray | None
    report: SegmentationReport


class Segmenter:
    """A network with its adapter merged, ready for any number of scans."""

    def __init__(self, network: MultiViewUnet, base: ModelInfo, adapter: ModelInfo | None = None, config: SegmentConfig | None = None) -> None:
        """network: merged. base, adapter: the headers of what it was made of. Raises ConfigError where the device is not there."""
        import torch

        from .device import choose_compute
        from .folding import folded

        self.config = config or SegmentConfig()
        self.base, self.adapter = base, adapter
        self.threshold = (adapter or base).threshold if self.config.threshold is None else self.config.threshold
        self.grid = replace(base.grid, multiple=math.lcm(base.grid.multiple, network.config.multiple))
        self.compute = choose_compute(self.config.device, self.config.precision)
        self._batch = self.config.batch
        network = folded(network).requires_grad_(False)
        if not all(torch.isfinite(tensor).all() for tensor in network.state_dict().values()):
            name = adapter.name if adapter else base.name
            raise ModelError(f"The network of {name} has kernels that are not numbers, so the file is damaged or was changed; get it again.")
        self._network = network.to(self.compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def load(cls, model: str = "", adapter: str = "", config: SegmentConfig | None = None, catalogue: Catalogue | None = None) -> Segmenter:
        """By names or paths. model: empty takes the adapter's base, or DEFAULT_MODEL; an adapter's name stands for the adapter with its base.

        adapter: empty takes DEFAULT_ADAPTER where no model is named and none where one is; NONE takes none. Raises ModelError, ConfigError.
        """
        from .weights import load_network

        base_info, adapter_info = choose_models(model, adapter, catalogue)
        network, _ = load_network(base_info, adapter_info)
        return cls(network, base_info, adapter_info, config)

    def with_config(self, config: SegmentConfig) -> Segmenter:
        """The same network under other settings. Raises ConfigError where the device or the precision is another, for which it was not made."""
        if (config.device, config.precision) != (self.config.device, self.config.precision):
            raise ConfigError(f"This network was made for {self.config.device} and {self.config.precision}; load it anew for others.")
        other = copy.copy(self)
        other.config, other._batch = config, config.batch
        other.threshold = (self.adapter or self.base).threshold if config.threshold is None else config.threshold
        return other

    def segment(self, ct: CTVolume, events: Events | None = None, keep_probability: bool = False) -> Segmentation:
        """Segment one scan. Raises Cancelled between chunks, ConfigError where the device's memory does not suffice for one slice."""
        from .findings import tidied
        from .headcheck import inside_warnings
        from .slices import brain_window, head_window, intracranial, slices_to_see, volume_ml
        from .stripped import brain_alone, is_brain_alone

        start = time.monotonic()
        events = events or Events()
        events.progress("Segmenting", 0.0, 1.0, "finding the skull")
        warnings = list(ct.warnings)
        head = head_window(ct)
        if head.noisy:
            warnings.append(
                f"The slices are noisier ({head.noise_hu:.0f} HU) than what the models have seen, so they were smoothed: small bleeds may be missed. "
                "Take a reconstruction with thicker slices or a softer kernel if there is one."
            )
        inside = brain_alone(ct) if is_brain_alone(ct) else intracranial(ct)
        if inside.any():
            warnings += inside_warnings(ct, inside)
        else:
            inside = np.ones(ct.shape, bool)
            warnings.append("No skull was found, so the mask is not limited to its inside: look at it with care.")
        events.check_cancel()
        head = brain_window(ct, inside, head)
        held = list(head.slices)
        mask = np.zeros(ct.shape, bool)
        probability = np.zeros(ct.shape, np.float16) if keep_probability else None
        done = 0
        while done < len(held):
            chunk, shown = slices_to_see(ct, held[done:], self._batch)
            events.progress("Segmenting", _SKULL_SHARE + (1.0 - _SKULL_SHARE) * done / len(held), 1.0, f"slice {done + 1} of {len(held)}")
            values = self._chunk(ct, head, chunk, shown, events)
            if values is None:
                continue  # the memory did not suffice; the batch is smaller now
            values *= inside[chunk]
            mask[chunk] = values >= self.threshold
            if probability is not None:
                probability[chunk] = values
            done += len(chunk)
            events.check_cancel()
        del inside
        mask, pieces = tidied(mask, ct, self.config.smallest_ml, self.config.single_slice_ml)
        events.progress("Segmenting", 1.0, 1.0)
        report = self._report(ct, mask, pieces, volume_ml(mask, ct), tuple(warnings), time.monotonic() - start)
        return Segmentation(mask, probability, report)

    def _chunk(self, ct: CTVolume, head: Any, chunk: Sequence[int], shown: Sequence[int], events: Events) -> np.ndarray | None:
        """Probabilities (n, rows, columns) of some slices from those `shown` to the network, or None where the batch had to be made smaller."""
        import torch

        from .slices import from_network, interpolated, normalise, to_network

        try:
            x = normalise(to_network(ct, self.grid, shown, head), self.grid.window)
            x = x.to(self.compute.device, memory_format=torch.channels_last)
            return from_network(interpolated(self._probabilities(x), ct, shown, chunk), ct, self.grid, head)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
        if self.compute.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(shown) == 1:
            advice = "close other programs that use it" + ("" if self.compute.device.type == "cpu" else ", or choose the device cpu")
            raise ConfigError(f"{ct.source or 'The scan'}: the memory of {self.compute.device} does not suffice for a single slice; {advice}.")
        self._batch = max(1, len(shown) // 2)
        events.log(f"The memory of {self.compute.device} does not suffice for {len(shown)} slices at once; going on with {self._batch}.", "warning")
        return None

    def _probabilities(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 1, H, W) in [0, 1] → the same shape, float32."""
        import torch

        with torch.inference_mode(), self.compute.autocast():
            p = self._network(x).float().sigmoid()
            if self.config.flips:
                p = (p + self._network(x.flip(-1)).float().sigmoid().flip(-1)) / 2
        return p

    def _report(
        self, ct: CTVolume, mask: np.ndarray, pieces: tuple[Component, ...], total_ml: float, warnings: tuple[str, ...], seconds: float
    ) -> SegmentationReport:
        from .findings import extent_mm, slice_findings

        gaps = ct.gaps_mm if len(ct.gaps_mm) else np.array([ct.slice_thicknesses[0]])
        return SegmentationReport(
            source=ct.source,
            series=ct.series,
            total_ml=total_ml,
            components=pieces,
            slices=slice_findings(mask, ct),
            extent_mm=extent_mm(mask, ct),
            shape=ct.shape,
            spacing_mm=(float(ct.spacing[0]), float(ct.spacing[1])),
            gaps_mm=(float(gaps.min()), float(gaps.max())),
            tilt_degrees=float(ct.tilt_degrees),
            model=_described(self.base),
            adapter=_described(self.adapter) if self.adapter else None,
            threshold=self.threshold,
            smallest_ml=self.config.smallest_ml,
            single_slice_ml=self.config.single_slice_ml,
            flips=self.config.flips,
            pixel_mm=self.grid.pixel_mm,
            device=str(self.compute.device),
            precision="bf16" if self.compute.bf16 else "float32",
            computing=self.compute.reason,
            seconds=seconds,
            warnings=warnings,
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )


def choose_models(model: str = "", adapter: str = "", catalogue: Catalogue | None = None) -> tuple[ModelInfo, ModelInfo | None]:
    """Base and adapter by names or paths; see `Segmenter.load`. Raises ModelError."""
    from .catalogue import Catalogue
    from .weights import check_belongs

    catalogue = catalogue or Catalogue()
    if model and catalogue.find(model).kind == "adapter":
        if adapter not in ("", NONE, model):
            raise ConfigError(f"{model} is an adapter, and {adapter} another; one of the two is used at a time.")
        model, adapter = "", model
    adapter = adapter or (NONE if model else DEFAULT_ADAPTER)
    adapter_info = None if adapter.lower() == NONE else catalogue.find(adapter, "adapter")
    base = catalogue.base_of(adapter_info) if adapter_info and not model else catalogue.find(model or DEFAULT_MODEL, "base")
    if adapter_info:
        check_belongs(adapter_info, base)
    return base, adapter_info


def _described(info: ModelInfo) -> dict[str, Any]:
    """What a report says of a model: no path, since that would tell folders of the user's."""
    told: dict[str, Any] = {"name": info.name, "kind": info.kind, "digest": info.digest}
    if info.adapter is not None:
        told |= {"method": info.adapter.method, "rank": info.adapter.rank, "strength": info.adapter.strength}
    return told


def _out_of_memory(error: Exception) -> bool:
    import torch

    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in text for words in NO_MEMORY_FOR_MAPS)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
