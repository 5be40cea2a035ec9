"""Weight files that are damaged, of other programs and versions, or made with ill will."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class OddModel:
    """name: for people. change: the file of a good base → what the user names as --model. says: what the one sentence must say."""

    name: str
    change: Callable[[Path], str]
    says: str


class Trap:
    """Whoever unpickles this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "executed")


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], str]:
    def write(path: Path) -> str:
        path.write_bytes(change(path.read_bytes()))
        return str(path)

    return write


def _at(place: Callable[[bytes], int]) -> Callable[[Path], str]:
    """One byte turned over."""

    def change(raw: bytes) -> bytes:
        n = place(raw)
        return raw[:n] + bytes([raw[n] ^ 0xFF]) + raw[n + 1 :]

    return _bytes(change)


def _length(raw: bytes) -> int:
    return int(struct.unpack("<Q", raw[:8])[0])


def _header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], str]:
    """The JSON of safetensors' header changed; the tensors stay."""

    def rewrite(raw: bytes) -> bytes:
        n = _length(raw)
        header = json.loads(raw[8 : 8 + n])
        change(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + raw[8 + n :]

    return _bytes(rewrite)


def _told(**values: Any) -> Callable[[Path], str]:
    """Entries of SAHLoRA's own part of the header."""

    def change(header: dict[str, Any]) -> None:
        header["__metadata__"]["sahlora"] = json.dumps({**json.loads(header["__metadata__"]["sahlora"]), **values})

    return _header(change)


def _first(header: dict[str, Any]) -> dict[str, Any]:
    return next(value for key, value in sorted(header.items()) if key != "__metadata__")


def _pickled(path: Path) -> str:
    path.write_bytes(pickle.dumps(Trap(path.with_name("executed"))))
    return str(path)


def _torch_archive(path: Path) -> str:
    import torch

    torch.save({"weights": torch.zeros(3)}, path)
    return str(path)


def _other_file(path: Path) -> str:
    path.parent.with_name("secrets.txt").write_text("root:x:0:0\n")
    return f"{path.parent}/../secrets.txt"


def _nan(raw: bytes) -> bytes:
    return raw[:-4] + struct.pack("<f", float("nan"))


MODELS = (
    OddModel("a byte of the header's length", _at(lambda raw: 1), "cut short or damaged"),
    OddModel("a byte of the tensors' names", _at(lambda raw: 8 + _length(raw) - 30), "cut short or damaged"),
    OddModel("a byte in the middle of the header", _at(lambda raw: 8 + _length(raw) // 2), "cut short or damaged"),
    OddModel("the first byte of the weights", _at(lambda raw: 8 + _length(raw)), "do not match their digest"),
    OddModel("a byte in the middle of the weights", _at(lambda raw: (8 + _length(raw) + len(raw)) // 2), "do not match their digest"),
    OddModel("the last byte", _at(lambda raw: len(raw) - 1), "do not match their digest"),
    OddModel("cut short in the weights", _bytes(lambda raw: raw[:-100]), "cut short or damaged"),
    OddModel("cut short in the header", _bytes(lambda raw: raw[:100]), "cut short or damaged"),
    OddModel("bytes behind the end", _bytes(lambda raw: raw + b"more"), "cut short or damaged"),
    OddModel("zero bytes", _bytes(lambda raw: b""), "cut short or damaged"),
    OddModel("a header of 2^62 bytes", _bytes(lambda raw: struct.pack("<Q", 2**62) + raw[8:]), "cut short or damaged"),
    OddModel(
        "a header nested 100,000 deep", _bytes(lambda raw: struct.pack("<Q", 200_000) + b"[" * 100_000 + b"]" * 100_000), "cut short or damaged"
    ),
    OddModel("a tensor that says it holds 10^15 numbers", _header(lambda header: _first(header).update(shape=[10**5] * 3)), "cut short or damaged"),
    OddModel(
        "a tensor whose bytes lie outside of the file", _header(lambda header: _first(header).update(data_offsets=[0, 2**50])), "cut short or damaged"
    ),
    OddModel("a network of 10^6 levels", _told(network={"levels": 10**6, "width": 4}), "levels must be"),
    OddModel("a network of width 10^9", _told(network={"levels": 2, "width": 10**9}), "width must be"),
    OddModel("another network than its weights", _told(network={"levels": 3, "width": 4}), "lacks the tensor"),
    OddModel("a future version", _told(format_version=99), "has the format 99"),
    OddModel("a version that is a word", _told(format_version="new"), "is damaged"),
    OddModel("a kind that nobody knows", _told(kind="oracle"), "kind 'oracle'"),
    OddModel("a threshold of 7", _told(threshold=7), "threshold 7"),
    OddModel("a window of NaN", _told(grid={"pixel_mm": 1.0, "window": [float("nan"), 80], "multiple": 16}), "window nan"),
    OddModel("weights that are not numbers", _bytes(_nan), "do not match their digest"),
    OddModel("safetensors of another program", _header(lambda header: header.update(__metadata__={"format": "pt"})), "not one of SAHLoRA's"),
    OddModel("a pickle with the name of a weight file", _pickled, "cut short or damaged"),
    OddModel("an archive of torch.save", _torch_archive, "cut short or damaged"),
    OddModel("a path that leads out of the model folder to another file", _other_file, "cut short or damaged"),
    OddModel("a path that leads out of the model folder to nothing", lambda path: f"{path.parent}/../../nobody/passwd", "There is no weight file"),
    OddModel("a model that is not there", lambda path: "nobody", "There is no model"),
)
