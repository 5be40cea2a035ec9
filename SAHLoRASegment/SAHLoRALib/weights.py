"""Weight files: one model a file, safetensors with everything about it in the header. Nothing is ever unpickled.

The header's metadata has one key, "sahlora": JSON with the format version, the kind of model, network configuration, pixel grid, the adapter's
configuration and its base, training configuration, metrics, date, licence and the digest of the tensors. The digest is checked on loading; an adapter
carries the digest of the base that it was trained on and goes with no other.

Numbers are float32; where the header says half, those of kernels and of their factors are float16, and float32 again once they are read.

Kinds: "base" (trained from scratch), "finetuned" (a whole network that was fine-tuned from a base; used like a base) and "adapter".
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import (
    AdapterConfig,
    adapter_config,
    adapter_shapes,
    adapter_state,
    check_shapes,
    is_adapted,
    load_adapter_state,
    merge,
)
from .errors import DAMAGED, ConfigError, ModelError, SAHLoRAError, one_line, printable
from .files import replacing
from .model_folders import KINDS, METADATA_KEY, SUFFIX, model_path
from .network import MultiViewUnet, NetworkConfig
from .slices import PixelGrid

FORMAT_VERSION = 2


@dataclass(frozen=True)
class ModelInfo:
    """What a weight file's header says.

    name: the file's name without its suffix. kind: of KINDS. digest: of the tensors in this file. base_digest, base_name: of the model that an
    adapter or a fine-tuned network comes from. threshold: on the probability, chosen in training. training, metrics: as the training wrote them.
    half: kernels are stored in half precision.
    """

    name: str
    kind: str
    path: Path
    network: NetworkConfig
    grid: PixelGrid
    digest: str
    adapter: AdapterConfig | None = None
    base_digest: str | None = None
    base_name: str = ""
    threshold: float = 0.5
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    date: str = ""
    licence: str = ""
    description: str = ""
    half: bool = False

    @property
    def stands_alone(self) -> bool:
        """A base or a fine-tuned network, which segments without another file."""
        return self.kind != "adapter"


def digest(network_or_state: nn.Module | Mapping[str, Tensor]) -> str:
    """SHA-256 (64 hexadecimal digits) over the sorted names with their types, shapes and bytes.

    A network with an adapter attached has no digest of its own: merge or detach first (ConfigError).
    """
    if isinstance(network_or_state, nn.Module):
        if is_adapted(network_or_state):
            raise ConfigError("A network with an adapter on it has no digest; merge or detach the adapter first.")
        network_or_state = network_or_state.state_dict()
    sha = hashlib.sha256()
    for name in sorted(network_or_state):
        tensor = network_or_state[name].detach().cpu().contiguous()
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def save_base(
    network: MultiViewUnet,
    path: Path | str,
    *,
    grid: PixelGrid,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    description: str = "",
    licence: str = "Apache-2.0",
    threshold: float = 0.5,
    kind: str = "base",
    base_digest: str | None = None,
    base_name: str = "",
    half: bool = False,
) -> ModelInfo:
    """Write a whole network; its adapter, if it has one, must be merged.

    kind: "base", or "finetuned" with the digest and the name of the model that it started from. half: kernels as float16, half the size.

    Raises ConfigError (adapter attached, bad name), ModelError (weights that are not numbers), OutputError.
    """
    if kind not in ("base", "finetuned"):
        raise ConfigError(f"A whole network is saved as base or finetuned, not as {kind!r}.")
    if is_adapted(network):
        raise ConfigError("The network has an adapter on it; merge it before saving the whole network, or save the adapter alone.")
    info = ModelInfo(
        "", kind, Path(path), network.config, grid, "", None, base_digest, base_name,
        threshold, dict(training or {}), dict(metrics or {}), licence=licence, description=description, half=half,
    )  # fmt: skip
    return _write(network.state_dict(), info)


def save_adapter(
    network: MultiViewUnet,
    config: AdapterConfig,
    path: Path | str,
    *,
    base: ModelInfo,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    description: str = "",
    licence: str = "Apache-2.0",
    threshold: float | None = None,
    half: bool = False,
) -> ModelInfo:
    """Write the adapter that is attached to `network`, which was loaded from `base`. threshold: None takes the base's. half: as in `save_base`.

    Raises ConfigError (no such adapter attached, bad name), ModelError (weights that are not numbers), OutputError.
    """
    if not is_adapted(network) or adapter_config(network) != config:
        raise ConfigError("The network does not have an adapter of this configuration on it, so there is none to save.")
    info = ModelInfo(
        "", "adapter", Path(path), network.config, base.grid, "", config, base.digest, base.name,
        base.threshold if threshold is None else threshold, dict(training or {}), dict(metrics or {}), licence=licence, description=description,
        half=half,
    )  # fmt: skip
    return _write(adapter_state(network), info)


def record_metrics(info: ModelInfo, metrics: Mapping[str, Any]) -> ModelInfo:
    """Write the file of `info` anew with these metrics in its header; the tensors, their digest and the rest stay. Raises ModelError, OutputError."""
    with _opened(info.path) as file:
        state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (copies, or Windows lets nobody replace the file)
    if digest(state) != info.digest:
        raise ModelError(f"The weights in {info.path} do not match their digest: the file is damaged or was changed; copy it again.")
    return _write(state, replace(info, metrics=dict(metrics)))


def read_info(path: Path | str) -> ModelInfo:
    """The header of a weight file; its tensors are not read. Raises ModelError."""
    path = Path(path)
    with _opened(path) as file:
        metadata = (file.metadata() or {}).get(METADATA_KEY)
    if metadata is None:
        raise ModelError(f"{path} is a safetensors file, but not one of SAHLoRA's: its header says nothing about the model.")
    try:
        return _parse(json.loads(metadata), path)
    except DAMAGED as error:
        raise ModelError(f"The header of {path} is damaged ({type(error).__name__}: {one_line(error)}); copy the file again.") from error
    except ConfigError as error:
        raise ModelError(f"The header of {path} holds a setting that this version does not know: {one_line(error)}") from error


def load_network(base: ModelInfo | Path | str, adapter: ModelInfo | Path | str | None = None) -> tuple[MultiViewUnet, ModelInfo]:
    """The network on the CPU in evaluation mode, the adapter merged, and the header of the last file that went into it. Raises ModelError."""
    if adapter is None:
        base = _info(base, adapter=False)
        return _load_whole(base), base
    adapter = _info(adapter, adapter=True)
    network = load_adapted(base, adapter)
    merge(network)
    return network, adapter


def load_adapted(base: ModelInfo | Path | str, adapter: ModelInfo | Path | str) -> MultiViewUnet:
    """The base with the adapter attached and not merged, to go on training. Raises ModelError."""
    base, adapter = _info(base, adapter=False), _info(adapter, adapter=True)
    check_belongs(adapter, base)
    assert adapter.adapter is not None  # _parse saw to it
    shapes = adapter_shapes(adapter.adapter, base.network)
    state = _read_state(adapter, shapes)
    network = _load_whole(base)
    load_adapter_state(network, adapter.adapter, state)
    return network


def check_belongs(adapter: ModelInfo, base: ModelInfo) -> None:
    """Raises ModelError when the adapter was trained on another base."""
    if adapter.base_digest != base.digest:
        raise ModelError(
            f"The adapter {adapter.name} belongs to the base {adapter.base_name or 'with the digest'} ({(adapter.base_digest or '')[:12]}), not to "
            f"{base.name} ({base.digest[:12]}); choose its own base, or train an adapter on this one."
        )


def _write(state: Mapping[str, Tensor], info: ModelInfo) -> ModelInfo:
    import safetensors.torch

    path = info.path
    if path.suffix != SUFFIX:
        raise ConfigError(f"A weight file's name must end with {SUFFIX}, unlike {path}.")
    model_path(path.parent, path.stem)
    if not 0 < info.threshold < 1:
        raise ConfigError(f"A model's threshold must lie between 0 and 1, not at {info.threshold}.")
    tensors = {name: _storable(name, tensor, info.half) for name, tensor in state.items()}
    bad = next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), None)
    if bad:
        raise ModelError(f"The model {path.stem} is not saved: {bad} holds values that are not numbers, so its training failed.")
    header = {
        "format_version": FORMAT_VERSION if info.half else 1,  # what older readers can read they go on reading
        "kind": info.kind,
        "network": info.network.as_dict(),
        "grid": asdict(info.grid),
        "adapter": info.adapter.as_dict() if info.adapter else None,
        "base_digest": info.base_digest,
        "base_name": info.base_name,
        "digest": digest(tensors),
        "threshold": float(info.threshold),
        "training": _plain(info.training),
        "metrics": _plain(info.metrics),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "licence": info.licence,
        "description": info.description,
        "half": info.half,
    }
    content = safetensors.torch.save(tensors, metadata={METADATA_KEY: json.dumps(header)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return _parse(header, path)


def _parse(header: dict[str, Any], path: Path) -> ModelInfo:
    """Header → ModelInfo. Raises ModelError, ConfigError, or what wrong types raise."""
    version = header["format_version"]
    if not isinstance(version, int) or version < 1:
        raise ValueError(f"format version {version!r}")
    if version > FORMAT_VERSION:
        raise ModelError(f"{path} has the format {version}; this SAHLoRA reads up to {FORMAT_VERSION}. Update SAHLoRA to use it.")
    kind, adapter, base_digest = header["kind"], header["adapter"], header["base_digest"]
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}")
    if (kind == "adapter") != (adapter is not None) or (kind == "adapter" and not base_digest):
        raise ValueError(f"a model of the kind {kind} with adapter {adapter!r} and base {base_digest!r}")
    grid = header["grid"]
    threshold = float(header["threshold"])
    low, high = (float(edge) for edge in grid["window"])
    if not (0 < threshold < 1 and -math.inf < low < high < math.inf):
        raise ValueError(f"threshold {threshold} or window {low}, {high}")
    for name, digits in (("digest", header["digest"]), ("base_digest", base_digest)):
        if not (re.fullmatch("[0-9a-f]{64}", digits) if isinstance(digits, str) else name == "base_digest" and digits is None):
            raise ValueError(f"{name} {digits!r}")
    return ModelInfo(
        name=path.name.removesuffix(SUFFIX),
        kind=kind,
        path=path,
        network=NetworkConfig(**header["network"]),
        grid=PixelGrid(pixel_mm=float(grid["pixel_mm"]), window=(low, high), multiple=int(grid["multiple"])),
        digest=header["digest"],
        adapter=None if adapter is None else AdapterConfig.from_dict(adapter),
        base_digest=base_digest,
        base_name=printable(header.get("base_name", "")),
        threshold=threshold,
        training=dict(header.get("training", {})),
        metrics=dict(header.get("metrics", {})),
        date=printable(header.get("date", "")),
        licence=printable(header.get("licence", "")),
        description=printable(header.get("description", ""), 2000),
        half=bool(header.get("half", False)),
    )


def _info(model: ModelInfo | Path | str, *, adapter: bool) -> ModelInfo:
    """The header, held to be that of an adapter or of a whole network."""
    info = model if isinstance(model, ModelInfo) else read_info(model)
    if adapter and info.stands_alone:
        raise ModelError(f"{info.name} is not an adapter but a whole network ({info.kind}); use it as the base.")
    if not adapter and not info.stands_alone:
        raise ModelError(f"{info.name} is an adapter and needs its base{' ' + info.base_name if info.base_name else ''}; it cannot be one itself.")
    return info


def _load_whole(info: ModelInfo) -> MultiViewUnet:
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in MultiViewUnet(info.network).state_dict().items()}
    state = _read_state(info, expected)
    network = MultiViewUnet(info.network)
    network.load_state_dict(state)
    return network.eval()


def _read_state(info: ModelInfo, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of a file. Shapes are held against the header's configuration before anything is read."""
    what = f"file {info.path}"
    with _opened(info.path) as file:
        check_shapes({name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}, shapes, what)  # noqa: SIM118
        state = {name: file.get_tensor(name) for name in shapes}
    for name, tensor in state.items():
        if tensor.dtype != (stored := _stored_type(name, tensor, info.half)):
            raise ModelError(f"The {what} holds {name} as {tensor.dtype}, not as {stored}; it was not written by SAHLoRA.")
    if digest(state) != info.digest:
        raise ModelError(f"The weights in {info.path} do not match their digest: the file is damaged or was changed; copy it again.")
    bad = next((name for name, tensor in state.items() if not torch.isfinite(tensor).all()), None)
    if bad:
        raise ModelError(f"The {what} holds values that are not numbers in {bad}; train the model again.")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """safetensors' reader, which checks the header against the length of the file first. Raises ModelError."""
    from safetensors import SafetensorError, safe_open

    try:
        if not path.is_file():
            raise ModelError(f"{path} is a folder, not a weight file." if path.is_dir() else f"There is no weight file {path}.")
        with safe_open(path, framework="pt") as file:
            yield file
    except SAHLoRAError:
        raise
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a complete safetensors file ({one_line(error)}): cut short or damaged; copy it again.") from error


def _stored_type(name: str, tensor: Tensor, half: bool) -> torch.dtype:
    if name.endswith("num_batches_tracked"):
        return torch.int64
    return torch.float16 if half and tensor.ndim > 1 else torch.float32


def _storable(name: str, tensor: Tensor, half: bool) -> Tensor:
    return tensor.detach().cpu().contiguous().to(_stored_type(name, tensor, half))


def _plain(value: Any) -> Any:
    """JSON that every reader takes: paths become text, numpy numbers Python's, and numbers that JSON has no word for null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
