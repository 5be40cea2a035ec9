"""``sahlora segment``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from ..errors import ConfigError, SAHLoRAError
from ..events import Events
from ..segmenter import SegmentConfig
from ..startup import uncollected
from .common import Common, table

if TYPE_CHECKING:
    from ..batch import ScanResult
    from ..segmenter import Segmenter
    from ..weights import ModelInfo


@dataclass(frozen=True, kw_only=True)
class Arguments(Common):
    """Segment haemorrhage on head CT: for each scan a mask on the scan's own grid, a report, a picture; and a table of all volumes.

    Exit code: 0 all scans went well, 1 some failed, 2 all failed or the call is wrong, 130 cancelled.
    """

    inputs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Scans: NIfTI or NRRD files, DICOM folders, folders of studies."""
    output: Path
    """Folder for the results, a subfolder for each scan and summary.csv."""
    model: str = ""
    """Name or file of the model (see: sahlora models); without it the default model with its default adapter, or the base of the adapter."""
    adapter: str = ""
    """Name or file of the adapter, or none; where a model is named, none without it."""
    format: Literal["nrrd", "nii.gz", "seg.nrrd"] = "nrrd"
    """Of the mask; seg.nrrd is Slicer's segmentation."""
    probability: bool = False
    """Write the map of probabilities too."""
    keep_ct: bool = False
    """Write the scan too, on the mask's grid."""
    series: str | None = None
    """Of a DICOM folder: number, description or UID of the series; without it the axial soft-tissue head series is chosen."""
    dask: str = ""
    """Address of a dask scheduler (tcp://host:8786) whose workers segment the scans; they must see the same folders."""
    settings: tyro.conf.OmitArgPrefixes[SegmentConfig] = field(default_factory=SegmentConfig)
    """How scans are segmented."""


def run(arguments: Arguments, events: Events, load: Callable[..., Segmenter] | None = None) -> int:
    """Returns the exit code. load: in the place of `Segmenter.load`. Raises SAHLoRAError."""
    with uncollected():
        from ..batch import SUMMARY, Outputs, exit_code, segment_batch
        from ..files import alone
        from ..inputs import find_inputs
        from ..segmenter import Segmenter, choose_models

    if not arguments.inputs:
        raise ConfigError("No scan is named; give a NIfTI or NRRD file, a DICOM folder, or a folder of studies.")
    scans = find_inputs(arguments.inputs, events)
    outputs = Outputs(arguments.output, arguments.format, arguments.probability, arguments.keep_ct)
    if arguments.dask:
        from ..distribute import segment_on_cluster

        base, adapter = choose_models(arguments.model, arguments.adapter)
        events.log(f"{_models(base, adapter)}.")
        with alone(arguments.output, keep_lock=False):
            results = segment_on_cluster(arguments.dask, base, adapter, arguments.settings, scans, outputs, events, arguments.series)
    else:
        with uncollected():
            import scipy.ndimage
            import scipy.spatial  # noqa: F401  what the skull search needs, loaded with the network

            segmenter = (load or Segmenter.load)(arguments.model, arguments.adapter, arguments.settings)
        events.log(f"{_models(segmenter.base, segmenter.adapter)}. {segmenter.compute.reason}")
        with alone(arguments.output, keep_lock=False):
            results = segment_batch(segmenter, scans, outputs, events, arguments.series)
    code = exit_code(results)
    if code == 2 and len(results) == 1:
        raise SAHLoRAError(results[0].error)
    if code != 2:
        arguments.say(_told(results, arguments.output))
    events.result(
        command="segment",
        output=str(arguments.output),
        summary=str(arguments.output / SUMMARY),
        failed=sum(not r.ok for r in results),
        scans=[_fields(r, arguments.format) for r in results],
    )
    if code == 2:
        raise SAHLoRAError(f"None of the {len(results)} scans could be segmented; {arguments.output / SUMMARY} says why.")
    return code


def _models(base: ModelInfo, adapter: ModelInfo | None) -> str:
    return f"Model {base.name}" + (f" with the adapter {adapter.name}" if adapter else ", no adapter")


def _told(results: list[ScanResult], output: Path) -> str:
    rows = []
    for r in results:
        if r.report is None:
            rows.append((r.scan.name, "failed", "", "", r.error))
        else:
            pieces = str(len(r.report.components))
            rows.append((r.scan.name, f"{r.report.total_ml:.2f}", pieces, f"{len(r.report.slices)} of {r.report.shape[0]}", str(r.folder)))
    return table(("scan", "mL", "pieces", "slices", "results"), rows, right=(1, 2, 3)) + f"\nAll volumes: {output / 'summary.csv'}"


def _fields(r: ScanResult, ending: str) -> dict[str, object]:
    """One scan in the result event."""
    if r.report is None or r.folder is None:
        return {"name": r.scan.name, "input": str(r.scan.path), "ok": False, "error": r.error}
    files = {"mask": f"mask.{ending}", "report": "report.json", "montage": "montage.png"}
    return {
        "name": r.scan.name,
        "input": str(r.scan.path),
        "ok": True,
        "total_ml": r.report.total_ml,
        "components": len(r.report.components),
        "warnings": list(r.report.warnings),
        **{key: str(r.folder / file) for key, file in files.items()},
    }
