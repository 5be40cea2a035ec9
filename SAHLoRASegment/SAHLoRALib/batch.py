"""Several scans in one call: each into a folder of its own, a line of CSV for each, and one bad scan does not stop the others."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from .crashlog import in_words
from .ct import CTVolume, format_warnings, mask_image, read_ct, write_image, write_segmentation
from .errors import Cancelled, OutputError, SAHLoRAError
from .events import Events
from .files import sweep, write_text
from .inputs import ScanInput, place_digest, result_report, unique_name
from .montage import write_montage

if TYPE_CHECKING:
    from .segmenter import Segmentation, SegmentationReport, Segmenter

SUMMARY = "summary.csv"
REPORT = "report.json"
#: In the report: `place_digest` of the scan, which tells it from another of the same name without telling the user's folders.
PLACE = "source_digest"
#: In the report: SHA-256 of the mask's file as it was written; one that a user has corrected since is never written over.
MASK_DIGEST = "mask_digest"
#: Lies in a folder of results while they are being written: what is there is this program's.
_UNFINISHED = ".unfinished"
MONTAGE = "montage.png"
Format = Literal["nrrd", "nii.gz", "seg.nrrd"]

_COLUMNS = (
    "name", "input", "status", "total_ml", "largest_ml", "components", "slices_with_blood", "left_right_mm", "front_back_mm", "bottom_top_mm",
    "slices", "tilt_degrees", "model", "model_digest", "adapter", "adapter_digest", "threshold", "seconds", "folder", "warnings", "error",
)  # fmt: skip
#: What is written into the folder of a scan.
_OURS = (REPORT, MONTAGE, *(f"{what}.{ending}" for what in ("mask", "probability", "ct") for ending in get_args(Format)))
#: Share of a scan's time that reading takes, and that writing begins at; for the progress only.
_READ, _WRITE = 0.1, 0.85


@dataclass(frozen=True)
class Outputs:
    """Where and what is written for each scan. format: of the mask. probability: the map too. keep_ct: the scan itself on the mask's grid."""

    folder: Path
    format: Format = "nrrd"
    probability: bool = False
    keep_ct: bool = False


@dataclass(frozen=True)
class ScanResult:
    """One scan of a batch: its report, or the sentence that says what is wrong. folder: where its files are, None where nothing was written."""

    scan: ScanInput
    report: SegmentationReport | None = None
    folder: Path | None = None
    error: str = ""

    @property
    def ok(self) -> bool:
        return self.report is not None

    def row(self) -> dict[str, Any]:
        """The line of the summary."""
        row: dict[str, Any] = {"name": self.scan.name, "input": str(self.scan.path), "status": "ok" if self.ok else "failed", "error": self.error}
        r = self.report
        if r is None:
            return row
        extent = r.extent_mm or ("", "", "")
        numbers = {"total_ml": r.total_ml, "largest_ml": r.largest_ml, "tilt_degrees": r.tilt_degrees, "seconds": r.seconds}
        across = dict(zip(("left_right_mm", "front_back_mm", "bottom_top_mm"), extent, strict=True))
        row |= {key: f"{value:.3f}" for key, value in numbers.items()} | {k: v if v == "" else f"{v:.1f}" for k, v in across.items()}
        return row | {
            "components": len(r.components),
            "slices_with_blood": len(r.slices),
            "slices": r.shape[0],
            "model": r.model["name"],
            "model_digest": r.model["digest"],
            "adapter": r.adapter["name"] if r.adapter else "",
            "adapter_digest": r.adapter["digest"] if r.adapter else "",
            "threshold": f"{r.threshold:g}",
            "folder": self.folder.name if self.folder else "",
            "warnings": " ".join(r.warnings),
        }


class Within(Events):
    """The events of one of several pieces of work: its progress becomes a part of the whole's, everything else passes through."""

    def __init__(self, outer: Events, stage: str, start: float, length: float, total: float, name: str) -> None:
        super().__init__()
        self._outer, self._whole = outer, stage
        self._start, self._length, self._total, self._name = start, length, total, name

    def progress(self, stage: str, done: float, total: float, detail: str = "") -> None:
        share = done / total if total else 1.0
        told = f"{self._name}: {detail}" if detail else self._name
        self._outer.progress(self._whole, self._start + share * self._length, self._total, told)

    def cancel(self) -> None:
        self._outer.cancel()

    @property
    def cancel_requested(self) -> bool:
        return self._outer.cancel_requested

    def _emit(self, event: str, **fields: Any) -> None:
        self._outer._emit(event, **fields)


def segment_batch(
    segmenter: Segmenter,
    scans: Sequence[ScanInput],
    outputs: Outputs,
    events: Events | None = None,
    series: str | None = None,
    read: Callable[..., CTVolume] = read_ct,
) -> list[ScanResult]:
    """Segment all scans; `summary.csv` in the output folder is written anew after each. series: of DICOM folders, as `read_ct` takes it.

    The table keeps the lines of earlier calls whose results lie in the folder. A scan that cannot be used becomes a result with its error. What
    cannot be written raises OutputError, since the next scan could not be either; a cancel raises Cancelled. Both leave the summary of what was
    finished.
    """
    events = events or Events()
    names = folder_names(scans, outputs.folder, events)
    earlier = earlier_rows(outputs.folder, names)
    results: list[ScanResult] = []
    write_summary(results, outputs.folder, earlier)  # says at once where nothing can be written
    for n, scan in enumerate(scans):
        events.check_cancel()
        result = segment_scan(segmenter, ScanInput(scan.path, names[n]), outputs, events, (n, len(scans)), series, read)
        if result.error and len(scans) > 1:
            events.log(f"{names[n]}: {result.error}", "warning")
        results.append(result)
        keep_summary(results, outputs.folder, earlier, events, last=n + 1 == len(scans))
        events.progress("Segmenting", n + 1, len(scans), names[n])
    return results


def keep_summary(results: Sequence[ScanResult], folder: Path, earlier: Sequence[dict[str, Any]], events: Events, last: bool) -> None:
    """`write_summary` during a batch. One that cannot be replaced, perhaps since a spreadsheet shows it, is told and stops nothing but the last."""
    try:
        write_summary(results, folder, earlier)
    except OutputError as error:
        if last:
            raise
        events.log(f"{error} The work goes on.", "warning")


def segment_scan(
    segmenter: Segmenter,
    scan: ScanInput,
    outputs: Outputs,
    events: Events,
    place: tuple[int, int] = (0, 1),
    series: str | None = None,
    read: Callable[..., CTVolume] = read_ct,
) -> ScanResult:
    """One scan of a batch into the folder of its name. place: its number and how many there are. Raises OutputError and Cancelled only."""
    folder = outputs.folder / scan.name
    try:
        return ScanResult(scan, _segment_one(segmenter, scan, folder, outputs, events, place, series, read), folder)
    except (OutputError, Cancelled):
        raise
    except Exception as error:  # of a library, on a file that nobody foresaw: the others are still segmented
        _clear(folder)
        return ScanResult(scan, error=_sentence(error, scan))


def exit_code(results: Sequence[ScanResult]) -> int:
    """0: all scans went well, 1: some failed, 2: all did."""
    good = sum(result.ok for result in results)
    return 0 if good == len(results) and results else (1 if good else 2)


def earlier_rows(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Lines of the folder's summary, of scans whose results still lie there; not of those that are to be segmented (again) under `names`."""
    try:
        with (folder / SUMMARY).open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            if tuple(rows.fieldnames or ()) != _COLUMNS:
                return []
            return [row for row in rows if row["folder"] and row["folder"] not in names and result_report(folder / row["folder"]) is not None]
    except (OSError, ValueError, csv.Error):
        return []


def write_summary(results: Sequence[ScanResult], folder: Path, earlier: Sequence[dict[str, Any]] = ()) -> Path:
    """One line a scan, after those of earlier calls (`earlier_rows`). Raises OutputError."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*earlier, *(result.row() for result in results)])
    write_text(folder / SUMMARY, text.getvalue())
    return folder / SUMMARY


def write_outputs(found: Segmentation, ct: CTVolume, folder: Path, outputs: Outputs, scan: ScanInput) -> None:
    """Mask, report, montage and what else was asked for. What an earlier call left in the folder goes. Raises OutputError."""
    _clear(folder)
    write_text(folder / _UNFINISHED, "")
    report = found.report
    write_segmentation(found.mask, ct, folder / f"mask.{outputs.format}")
    plain = "nii.gz" if outputs.format == "nii.gz" else "nrrd"
    if found.probability is not None:
        write_image(mask_image(found.probability.astype("float32"), ct), folder / f"probability.{plain}")
    if outputs.keep_ct:
        write_image(mask_image(_storable(ct), ct), folder / f"ct.{plain}")
    with_adapter = f" + {report.adapter['name']}" if report.adapter else ""
    title = f"{scan.name}: {report.total_ml:.1f} mL, {len(report.slices)} of {report.shape[0]} slices ({report.model['name']}{with_adapter})"
    write_montage(folder / MONTAGE, ct, found.mask, title)
    told = report.as_dict() | {PLACE: place_digest(scan.path), MASK_DIGEST: _file_digest(folder / f"mask.{outputs.format}")}
    write_text(folder / REPORT, json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    (folder / _UNFINISHED).unlink(missing_ok=True)


def _segment_one(
    segmenter: Segmenter,
    scan: ScanInput,
    folder: Path,
    outputs: Outputs,
    events: Events,
    place: tuple[int, int],
    series: str | None,
    read: Callable[..., CTVolume],
) -> SegmentationReport:
    n, total = place
    events.progress("Segmenting", n, total, f"{scan.name}: reading")
    # A series belongs to DICOM folders; files among the inputs have none.
    ct = read(scan.path, series if scan.path.is_dir() else None)
    ct = replace(ct, warnings=(*ct.warnings, *format_warnings(ct, f"mask.{outputs.format}")))
    for warning in ct.warnings:
        events.log(f"{scan.name}: {warning}", "warning")
    events.check_cancel()
    found = segmenter.segment(ct, Within(events, "Segmenting", n + _READ, _WRITE - _READ, total, scan.name), outputs.probability)
    for warning in found.report.warnings[len(ct.warnings) :]:
        events.log(f"{scan.name}: {warning}", "warning")
    events.progress("Segmenting", n + _WRITE, total, f"{scan.name}: writing")
    write_outputs(found, ct, folder, outputs, scan)
    return found.report


def _sentence(error: Exception, scan: ScanInput) -> str:
    if isinstance(error, SAHLoRAError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{scan.path}: the memory does not suffice for this scan; close other programs or use a larger machine."
    return f"{scan.path}: {in_words(error)}"


def _storable(ct: CTVolume) -> Any:
    """HU as whole numbers where the scan has none but such."""
    import numpy as np

    whole = all(np.array_equal(plane, np.rint(plane)) for plane in ct.hu) and ct.hu.min() >= -32768 and ct.hu.max() <= 32767
    return ct.hu.astype(np.int16) if whole else ct.hu


def folder_names(scans: Sequence[ScanInput], output: Path, events: Events) -> list[str]:
    """The scans' names; where a folder of that name holds another scan's results, a user's own or corrected mask, or the scan itself, one with a
    number.
    """
    taken: set[str] = set()
    names = []
    for scan in scans:
        name = unique_name(scan.name, taken)
        corrected = []
        while not _is_free(output / name, scan.path):
            report = result_report(output / name) or {}
            corrected += [name] if report.get(PLACE) == place_digest(scan.path) and _is_corrected(output / name, report) else []
            taken.add(name.lower())
            name = unique_name(scan.name, taken)
        if corrected:
            events.log(
                f"The mask in {output / corrected[-1]} was changed after it had been written, so it stays; the new one goes to {name}.", "warning"
            )
        taken.add(name.lower())
        names.append(name)
    return names


def _is_free(folder: Path, scan: Path) -> bool:
    """Whether results of the scan may go into the folder: nothing that somebody else wrote is in the way."""
    if not folder.is_dir():
        return True
    if folder.resolve() == scan.resolve():  # the results would lie among the slices, and the folder count as one of results
        return False
    if (folder / _UNFINISHED).exists():
        return True
    report = result_report(folder)
    if report is None:
        return not any((folder / name).exists() for name in _OURS)
    if PLACE in report:
        return bool(report[PLACE] == place_digest(scan)) and not _is_corrected(folder, report)
    # Of an older version, which wrote the path as it was typed: from another folder it means another scan.
    source = Path(str(report.get("source", "")))
    return source.is_absolute() and source.resolve() == scan.resolve()


def _is_corrected(folder: Path, report: Mapping[str, Any]) -> bool:
    """Whether a mask in a folder of results is not the one that its report was written with."""
    written = report.get(MASK_DIGEST)
    masks = [folder / name for name in _OURS if name.startswith("mask.")]
    return written is not None and any(_file_digest(mask) != written for mask in masks if mask.is_file())


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _clear(folder: Path) -> None:
    """Remove what this program wrote into the folder before; `folder_names` sees to it that there is nothing else of these names."""
    sweep(folder)
    try:
        for name in (*_OURS, _UNFINISHED):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot replace the old results in {folder}: {error.strerror or error}. Choose another output folder.") from error
