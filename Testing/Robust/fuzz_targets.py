"""What is fuzzed: every reader of a file or a line that comes from outside, with a valid seed for each.

A target takes bytes and reads them as the program would. It may return, or raise a SAHLoRAError of one line; anything else is a finding.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch
from hypothesis import strategies as st
from SAHLoRALib import cli
from SAHLoRALib.cases import CaseTable, label_values, read_annotation
from SAHLoRALib.checkpoint import read_checkpoint, write_checkpoint
from SAHLoRALib.ct import ct_from_image, list_series, read_ct
from SAHLoRALib.errors import SAHLoRAError
from SAHLoRALib.folds import Folds
from SAHLoRALib.runs import Run, finished
from SAHLoRALib.study_config import StudyConfig
from SAHLoRALib.weights import load_network, read_info
from SAHLoRASlicer.job import BackgroundJob
from SAHLoRASlicer.models import read_card
from small_heads import head_image, write_series
from tiny_cohort import quick
from tiny_scans import save_models

from damage import damaged_bytes, damaged_json, damaged_text  # isort: skip

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Target:
    """name; inputs: bytes to be read; read: reads them in a folder of its own."""

    name: str
    inputs: Callable[[], st.SearchStrategy[bytes]]
    read: Callable[[bytes, Path], Any]


def one_line(target: Target, data: bytes) -> str:
    """Read the input; the sentence that it is refused with, "" where it is taken. Raises whatever else comes, AssertionError for two lines."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        try:
            target.read(data, Path(name))
        except SAHLoRAError as error:
            text = str(error)
            assert text.strip(), "the message is empty"
            assert "\n" not in text and "Traceback" not in text, f"the message is not one line: {text!r}"
            return text
    return ""


# ── seeds ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def seeds() -> dict[str, bytes]:
    """Valid files by the name of their target, made once."""
    with tempfile.TemporaryDirectory(prefix="fuzz-seeds-") as name:
        folder = Path(name)
        head = head_image(size=(20, 24, 8), spacing=(9.0, 9.0, 18.0))
        found: dict[str, bytes] = {}
        for suffix in ("nii", "nrrd", "mha", "nii.gz"):
            sitk.WriteImage(head, str(folder / f"head.{suffix}"), useCompression=False)
            found[suffix] = (folder / f"head.{suffix}").read_bytes()
        label = sitk.Cast(head > 30, sitk.sitkUInt8)
        for key, value in {"Segment0_ID": "S", "Segment0_Name": "Blood", "Segment0_LabelValue": "1", "Segment0_Layer": "0"}.items():
            label.SetMetaData(key, value)
        sitk.WriteImage(label, str(folder / "label.nrrd"), useCompression=False)
        found["seg.nrrd"] = (folder / "label.nrrd").read_bytes()
        for n, path in enumerate(write_series(folder / "dicom", [0.0, 18.0, 36.0, 54.0], shape=(24, 20), spacing=(9.0, 9.0), shuffle=False)):
            found[f"dicom {n}"] = path.read_bytes()
        base, adapter = save_models(folder / "models")
        found["base"], found["adapter"] = base.path.read_bytes(), adapter.path.read_bytes()
        checkpoint = write_checkpoint(
            folder / "run", {"weights.a": torch.ones(3), "optimiser.0.step": torch.ones(())}, {"identity": {"a": [1]}, "step": 3}
        )
        found["checkpoint"] = checkpoint.read_bytes()
    return found


TABLE = """case,image,mask,patient,site,segment,haemorrhage,series,split
a,a/ct.nrrd,a/mask.nrrd,p1,north,,yes,,train
b,b/ct.nii.gz,,p2,"a, b",1|2,no,Head,test
"""
STUDY = """methods: [all, cp-lora, zero-shot]
ranks: [2, 8]
folds: 3
cases: cases.csv
output: out
training:
  steps: 10
  crop: [40, 32]
  adapter:
    method: cp-lora
variants:
  - label: wide
    learning_rate: 0.01
"""
JOB = {
    "command": "segment",
    "inputs": ["ct.nrrd"],
    "output": "out",
    "flips": True,
    "threshold": 0.5,
    "events": "json",
    "cancel_file": "cancel",
    "batch": 4,
}
TRAIN_JOB = {
    "command": "train",
    "cases": "cases.csv",
    "name": "x",
    "folds": 3,
    "edges": [1.0, 5.0],
    "steps": 3,
    "crop": [64, 64],
    "adapter": {"rank": 4},
}
EVENT = {"event": "progress", "stage": "Training", "done": 1, "total": 3, "fraction": 0.3, "seconds_left": None, "detail": "x", "time": 1.0, "pid": 1}
FOLDS = {"format": 1, "count": 2, "seed": 0, "edges_ml": [1.5], "folds": {"a": 0, "b": 1}}
RESULT = {"format": 1, "complete": True, "digest": "d", "label": "x", "fold": 0, "rows": [{"dice": None, "case": "a"}], "seconds": 1.0}


# ── readers ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _image(suffix: str) -> Target:
    def read(data: bytes, folder: Path) -> None:
        path = folder / f"scan.{suffix}"
        path.write_bytes(data)
        with contextlib.suppress(SAHLoRAError):
            read_ct(path)
        with contextlib.suppress(SAHLoRAError):
            ct_from_image(sitk.Image(2, 2, 4, sitk.sitkInt16), check=False)
        read_annotation(path, ct_from_image(head_image(size=(20, 24, 8), spacing=(9.0, 9.0, 18.0)), check=False))

    return Target(suffix, lambda: damaged_bytes(seeds()[suffix]), read)


def _packed_nifti() -> Target:
    def inputs() -> st.SearchStrategy[bytes]:
        return damaged_bytes(seeds()["nii"]).map(lambda data: gzip.compress(data, 1))

    return Target("nii packed", inputs, _image("nii.gz").read)


def _dicom() -> Target:
    def read(data: bytes, folder: Path) -> None:
        for n in (0, 1, 3):
            (folder / f"{n}.dcm").write_bytes(seeds()[f"dicom {n}"])
        (folder / "2.dcm").write_bytes(data)
        list_series(folder)
        read_ct(folder)

    return Target("dicom", lambda: damaged_bytes(seeds()["dicom 2"]), read)


def _weights(name: str) -> Target:
    def read(data: bytes, folder: Path) -> None:
        path = folder / WEIGHTS
        path.write_bytes(data)
        read_card(path)
        other = folder / "base.safetensors"
        other.write_bytes(seeds()["base"])
        load_network(other if name == "adapter" else path, path if name == "adapter" else None)

    return Target(name, lambda: damaged_bytes(seeds()[name]), read)


def _weights_header(name: str) -> Target:
    """The header exchanged for another one of the right length: the tensors stay where they are."""
    bytes_target = _weights(name)

    def inputs() -> st.SearchStrategy[bytes]:
        seed = seeds()[name]
        length = struct.unpack("<Q", seed[:8])[0]
        outer = json.loads(seed[8 : 8 + length])
        inner = json.loads(outer["__metadata__"]["sahlora"])
        changed_inner = damaged_json(inner).map(lambda text: json.dumps(outer | {"__metadata__": {"sahlora": text}}))
        return st.one_of(changed_inner, changed_inner, damaged_json(outer)).map(
            lambda text: struct.pack("<Q", len(text.encode("utf-8", "replace"))) + text.encode("utf-8", "replace") + seed[8 + length :]
        )

    return Target(f"{name} header", inputs, bytes_target.read)


def _read_info(data: bytes, folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(data)
    read_info(folder / WEIGHTS)


def _checkpoint(data: bytes, folder: Path) -> None:
    (folder / "checkpoint.safetensors").write_bytes(data)
    read_checkpoint(folder)


def _table(data: bytes, folder: Path) -> None:
    (folder / "cases.csv").write_bytes(data)
    table = CaseTable.read(folder)
    table.write(folder / "again.csv")
    assert len(CaseTable.from_csv(folder / "again.csv")) == len(table)
    for case in table:
        with contextlib.suppress(SAHLoRAError):
            if case.image.name in ("ct.nrrd", "ct.nii.gz"):  # what a hostile table names elsewhere is not opened here
                case.read()


def _study(data: bytes, folder: Path) -> None:
    (folder / "study.yaml").write_bytes(data)
    StudyConfig.read(folder / "study.yaml").configurations()


def _job(data: bytes, folder: Path) -> None:
    """The job's arguments are made and understood; nothing is run."""
    path = folder / "job.json"
    path.write_bytes(data)
    arguments = cli._with_job(["--job", str(path)])
    name, rest = cli._command(arguments)
    module = __import__(f"SAHLoRALib.commands.{cli.COMMANDS[name][0]}", fromlist=["x"])
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        cli._parse(module, name, rest, cli.Events())


def _event(data: bytes, folder: Path) -> None:
    """What Slicer does with a line of its worker."""
    job = BackgroundJob(lambda event: None, lambda outcome: None, folder=folder)
    for line in data.split(b"\n"):
        job._line(line.decode("utf-8", errors="replace").strip())
    job._words(1)


def _folds(data: bytes, folder: Path) -> None:
    (folder / "folds.json").write_bytes(data)
    Folds.read(folder / "folds.json").with_patients({"c": 1.0})


def _result(data: bytes, folder: Path) -> None:
    run = Run("all", 0, "x", 0, quick(), (), (), (), "d")
    (folder / run.name).mkdir()
    (folder / run.name / "run.json").write_bytes(data)
    finished(run, folder)


def _mask(data: bytes, folder: Path) -> None:
    path = folder / "mask.seg.nrrd"
    path.write_bytes(data)
    label_values(path)
    read_annotation(path, ct_from_image(head_image(size=(20, 24, 8), spacing=(9.0, 9.0, 18.0)), check=False), "Blood")


def _json(value: Any) -> Callable[[], st.SearchStrategy[bytes]]:
    return lambda: st.one_of(damaged_json(value).map(lambda t: t.encode("utf-8", "replace")), damaged_text(json.dumps(value, indent=0)))


TARGETS: tuple[Target, ...] = (
    _image("nii"),
    _packed_nifti(),
    _image("nii.gz"),
    _image("nrrd"),
    _image("mha"),
    Target("seg.nrrd", lambda: damaged_bytes(seeds()["seg.nrrd"]), _mask),
    _dicom(),
    _weights("base"),
    _weights("adapter"),
    _weights_header("base"),
    _weights_header("adapter"),
    Target("any bytes as weights", lambda: st.binary(max_size=300), _read_info),
    Target("checkpoint", lambda: damaged_bytes(seeds()["checkpoint"]), _checkpoint),
    Target("case table", lambda: damaged_text(TABLE), _table),
    Target("study file", lambda: damaged_text(STUDY), _study),
    Target("job file", _json(JOB), _job),
    Target("job file of a training", _json(TRAIN_JOB), _job),
    Target("event line", _json(EVENT), _event),
    Target("folds", _json(FOLDS), _folds),
    Target("run result", _json(RESULT), _result),
)
