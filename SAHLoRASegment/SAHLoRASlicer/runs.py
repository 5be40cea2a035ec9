"""Segmenting volumes of the scene, or a folder of studies, in a background job; and putting what it found into the scene."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from SAHLoRALib.segmenter import SegmentConfig

from . import segmentations, tables, volumes
from .job import BackgroundJob, Outcome

Told = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class SegmentSettings:
    """The choices of the panel. model, adapter: names or paths, as the core takes them. threshold: None takes the model's."""

    model: str = ""
    adapter: str = ""
    device: str = "auto"
    threshold: float | None = None
    smallest_ml: float = SegmentConfig.smallest_ml
    flips: bool = False
    keep_probability: bool = False
    terminology: str = segmentations.HAEMORRHAGE

    def job(self, inputs: Sequence[Path], output: Path) -> dict[str, Any]:
        """The job file's fields."""
        return {
            "command": "segment",
            "inputs": [str(path) for path in inputs],
            "output": str(output),
            "model": self.model,
            "adapter": self.adapter,
            "device": self.device,
            "threshold": self.threshold,
            "smallest_ml": self.smallest_ml,
            "flips": self.flips,
            "probability": self.keep_probability,
        }


@dataclass(frozen=True)
class Segmented:
    """One volume's result in the scene. report: the core's report.json; montage: its picture, PNG; slicer_ml: by Segment Statistics or None.

    note: a sentence where the mask is not where the user wanted it.
    """

    volume: Any
    segmentation: Any
    segment: str
    probability: Any
    report: Mapping[str, Any]
    montage: bytes = field(repr=False)
    slicer_ml: float | None = None
    note: str = ""

    @property
    def ml(self) -> float:
        return float(self.report["total_ml"])

    def save(self, folder: Path) -> tuple[Path, Path]:
        """The core's report and montage, for people to keep, beside those of others in the folder; returns where they are. Raises OSError.

        Files are numbered and the scan is called "scan", since a volume's name may come from a DICOM header or a patient's file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        told = {**self.report, "source": "scan"}
        number = next(n for n in itertools.count(1) if not any(path.exists() for path in _kept_as(folder, n)))
        paths = _kept_as(folder, number)
        paths[0].write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        paths[1].write_bytes(self.montage)
        return paths


def _kept_as(folder: Path, number: int) -> tuple[Path, Path]:
    end = f"_{number}" if number > 1 else ""
    return folder / f"report{end}.json", folder / f"montage{end}.png"


class SegmentRun:
    """Volumes of the scene → segments. `on_finished` gets the outcome, `results` and `errors` hold one entry a volume.

    segmentation: an existing one for the segments, or None for a new one each. make_job: BackgroundJob or a stand-in with its signature.
    """

    def __init__(
        self,
        scans: Sequence[Any],
        settings: SegmentSettings,
        on_event: Told,
        on_finished: Callable[[Outcome], None],
        segmentation: Any = None,
        make_job: Callable[..., BackgroundJob] = BackgroundJob,
    ) -> None:
        self.scans = list(scans)
        self.results: dict[int, Segmented] = {}
        self.errors: dict[int, str] = {}
        self._settings, self._segmentation = settings, segmentation
        self._on_finished = on_finished
        self._own_grid: dict[int, bool] = {}
        self._scene_left = False
        self.job = make_job(on_event, self._finished)

    def start(self) -> None:
        """Write the first volume, then one more per turn of the event loop, so that the window stays free; then start.

        Raises what writing the first raises, the folder gone again; a later one that cannot be written is an entry of `errors`.
        """
        try:
            self._write(0)
            waiting = iter(range(1, len(self.scans)))
            if len(self.scans) == 1:
                self.job.start(self._job())
            else:
                self.job.prepare(lambda: self._write_next(waiting), self._job)
        except Exception:
            self.job.abandon()
            raise

    def _write(self, n: int) -> None:
        # Names of nodes may come from DICOM headers; files are numbered instead.
        self._own_grid[n] = volumes.write_volume(self.scans[n], self._file(n))

    def _write_next(self, waiting: Iterator[int]) -> bool:
        """Write one; False when none was left."""
        import slicer

        n = next(waiting, None)
        if n is None:
            return False
        try:
            if not slicer.mrmlScene.IsNodePresent(self.scans[n]):
                raise LookupError("The volume was removed from the scene meanwhile.")
            self._write(n)
        except Exception as error:  # one volume that cannot be written must not take the others with it
            self.errors[n] = str(error)
        return True

    def _job(self) -> dict[str, Any]:
        return self._settings.job([self._file(n) for n in sorted(self._own_grid)], self._output)

    def leave_scene(self) -> None:
        """The scene closes: what comes back belongs nowhere any more."""
        self._scene_left = True
        self.job.cancel()

    def row_of(self, name: str) -> int | None:
        """Which of the scans an event's name means."""
        return int(name.removeprefix("scan_")) - 1 if name.startswith("scan_") and name[5:].isdigit() else None

    def report(self, row: int) -> Mapping[str, Any] | None:
        """The report of a scan that is finished, also while others are not."""
        return _read_report(self._output / self._file(row).stem)

    @property
    def _output(self) -> Path:
        return self.job.folder / "output"

    def _file(self, n: int) -> Path:
        return self.job.folder / f"scan_{n + 1:03d}.nrrd"

    def _finished(self, outcome: Outcome) -> None:
        for scan in (outcome.result or {}).get("scans", []):
            row = self.row_of(scan["name"])
            if row is not None and not scan["ok"]:
                self.errors[row] = self._without_paths(scan["error"])
        if not self._scene_left:
            for row in range(len(self.scans)):
                self._take(row)
        if outcome.message:
            outcome = Outcome(outcome.state, outcome.result, self._without_paths(outcome.message))
        if outcome.state == "failed" and len(self.scans) == 1:
            self.errors[0] = outcome.message
        elif outcome.state == "failed" and len(self.errors) == len(self.scans):  # the summary that the core names is gone with the job's folder
            outcome = Outcome("failed", outcome.result, f"None of the {len(self.scans)} volumes could be segmented. The first: {self.errors[0]}")
        self._on_finished(outcome)

    def _take(self, row: int) -> None:
        """Put one scan's result into the scene."""
        report = self.report(row)
        if report is None:
            return
        try:
            self.results[row] = self._show(row, report, self._output / self._file(row).stem)
        except LookupError as error:
            self.errors[row] = str(error)
        except Exception as error:  # one result that cannot be shown must not take the others with it
            logging.exception("SAHLoRA: a result could not be shown")
            self.errors[row] = f"The result could not be shown: {error}"

    def _show(self, row: int, report: Mapping[str, Any], folder: Path) -> Segmented:
        import slicer

        scan = self.scans[row]
        if not slicer.mrmlScene.IsNodePresent(scan):
            raise LookupError("The volume was removed from the scene meanwhile; its result is dropped.")
        mask, place = volumes.read_array(folder / "mask.nrrd")
        grid = None if self._own_grid[row] else place
        if grid is None and mask.shape != slicer.util.arrayFromVolume(scan).shape:
            raise LookupError("The volume was changed meanwhile; its result is dropped.")
        segmentation, segment, note = self._add_segment(mask, scan, grid)
        probability = None
        if (folder / "probability.nrrd").is_file():
            probability = volumes.show_probability(volumes.read_array(folder / "probability.nrrd")[0], scan, grid)
            segmentations.put_beside(probability, scan)
        slicer_ml = tables.statistics_ml(segmentation, segment)
        return Segmented(scan, segmentation, segment, probability, report, (folder / "montage.png").read_bytes(), slicer_ml, note)

    def _add_segment(self, mask: np.ndarray, scan: Any, grid: np.ndarray | None) -> tuple[Any, str, str]:
        """Segmentation, segment and note. Where the chosen segmentation is gone or takes no mask any more, a new one is better than none."""
        import slicer

        chosen, terminology = self._segmentation, self._settings.terminology
        if chosen is not None and slicer.mrmlScene.IsNodePresent(chosen):
            with contextlib.suppress(RuntimeError):
                return *segmentations.add_segment(mask, scan, grid, chosen, terminology=terminology), ""
        note = "" if chosen is None else "The chosen output segmentation could not take the mask; it is in a new one."
        return *segmentations.add_segment(mask, scan, grid, terminology=terminology), note

    def _without_paths(self, text: str) -> str:
        """The temporary files' names say nothing to a user; the volumes' do."""
        for n, scan in enumerate(self.scans):
            name = scan.GetName() if not self._scene_left else f"Scan {n + 1}"
            text = text.replace(str(self._file(n)), name)
        return text


class FolderRun:
    """A folder of DICOM or NIfTI studies → a folder of results with summary.csv; nothing of it enters the scene."""

    def __init__(
        self,
        source: Path,
        output: Path,
        settings: SegmentSettings,
        on_event: Told,
        on_finished: Callable[[Outcome], None],
        make_job: Callable[..., BackgroundJob] = BackgroundJob,
    ) -> None:
        self.source, self.output = source, output
        self.results: dict[int, Segmented] = {}
        self._started = math.inf
        self._settings = settings
        self.job = make_job(on_event, on_finished)

    def start(self) -> None:
        """Start; the results' folder is made by the core."""
        self._started = time.time()
        self.job.start(self._settings.job([self.source], self.output))

    def leave_scene(self) -> None:
        """The scene has no part in it; the run goes on."""

    def report(self, name: str) -> Mapping[str, Any] | None:
        """The report of a study that this run has finished; one of an earlier run says nothing."""
        told = _read_report(self.output / name)
        with contextlib.suppress(KeyError, TypeError, ValueError):
            if told and datetime.datetime.fromisoformat(told["date"]).timestamp() >= math.floor(self._started):
                return told
        return None


def _read_report(folder: Path) -> Mapping[str, Any] | None:
    try:
        return json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
