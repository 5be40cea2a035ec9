"""Several volumes, or a folder of studies, segmented by one click: each row says what came of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import slicer.util
from fake_process import FakeProcess, fake_job, finished, wait


def test_batch_goes_on_after_a_bad_volume_and_fills_its_rows(ready: Any, sample: Any) -> None:
    from SAHLoRASlicer.volumes import local_matrix, volume_from_array

    bad = volume_from_array(np.zeros((30, 64, 64), np.int16), local_matrix(sample), "no head")
    import qt

    for row in range(2):
        ready.ui.batchTable.item(row, 0).setCheckState(qt.Qt.Checked)
    ready.refresh()
    assert len(ready.batch.checked()) == 2 and ready.ui.batchButton.enabled
    ready.ui.batchButton.click()
    wait(finished(ready))
    rows = {name: (state, ml) for name, state, ml in ready.batch.rows()}
    assert rows[sample.GetName()][0] == "segmented" and float(rows[sample.GetName()][1]) > 100
    assert rows[bad.GetName()][0].startswith("failed:") and "scan_002" not in rows[bad.GetName()][0]
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1


def test_where_no_volume_can_be_segmented_each_row_says_why(ready: Any, sample: Any) -> None:
    import qt
    from SAHLoRASlicer.volumes import local_matrix, volume_from_array

    bad = [volume_from_array(np.zeros((30, 64, 64), np.int16), local_matrix(sample), f"no head {n}") for n in (1, 2)]
    ready.refresh()
    for row in range(3):
        ready.ui.batchTable.item(row, 0).setCheckState(qt.Qt.Checked if row else qt.Qt.Unchecked)
    ready.refresh()
    assert ready.batch.checked() == bad
    ready.ui.batchButton.click()
    wait(finished(ready))
    rows = {name: state for name, state, _ in ready.batch.rows()}
    assert all(rows[node.GetName()].startswith("failed: ") and len(rows[node.GetName()]) > 20 for node in bad)
    assert "None of the 2 volumes could be segmented" in ready.ui.logText.plainText and "summary.csv" not in ready.ui.logText.plainText


def test_volumes_are_written_one_per_turn_and_a_cancel_between_ends_it(scene: Any, sample: Any) -> None:
    from SAHLoRASlicer.runs import SegmentRun, SegmentSettings

    process, later, outcomes = FakeProcess(), [], []

    def make_job(on_event: Any, on_finished: Any) -> Any:
        job = fake_job(process, later)
        job._on_finished = on_finished
        return job

    run = SegmentRun([sample] * 3, SegmentSettings(), lambda event: None, outcomes.append, make_job=make_job)
    run.start()
    written = lambda: len(list(run.job.folder.glob("scan_*.nrrd")))  # noqa: E731
    assert written() == 1 and run.job.running and "start" not in process.asked
    later.pop(0)[1]()
    assert written() == 2 and run.job.running
    run.job.cancel()
    later.pop(0)[1]()
    assert [outcome.state for outcome in outcomes] == ["cancelled"] and "start" not in process.asked
    assert not run.job.folder.exists() and not run.job.running


def test_folder_of_studies_ends_with_a_csv(ready: Any, sample: Any, tmp_path: Path) -> None:
    from SAHLoRASlicer.samples import sample_file

    source = tmp_path / "studies"
    source.mkdir()
    (source / "good.nrrd").write_bytes(sample_file().read_bytes())
    (source / "bad.nrrd").write_bytes(b"no scan")
    ready.ui.batchInputEdit.currentPath = str(source)
    assert "folder for the results" in ready.ui.batchButton.toolTip
    ready.ui.batchOutputEdit.currentPath = str(tmp_path / "results")
    ready.ui.batchButton.click()
    wait(finished(ready))
    rows = {row["name"]: row for row in csv.DictReader((tmp_path / "results" / "summary.csv").open())}
    assert rows["good"]["status"] == "ok" and rows["bad"]["status"] == "failed"
    shown = {name: state for name, state, _ in ready.batch.rows()}
    assert shown["good"] == "segmented" and shown["bad"].startswith("failed")
    assert "summary.csv" in ready.ui.logText.plainText
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []
    # Reports of an earlier run say nothing of what a later one has done.
    report = tmp_path / "results" / "good" / "report.json"
    assert ready.logic.run.report("good")["total_ml"] > 100
    report.write_text(json.dumps(json.loads(report.read_text()) | {"date": "2026-01-01T00:00:00+00:00"}))
    assert ready.logic.run.report("good") is None
    # The table shows studies now; a single volume is segmented all the same.
    ready.ui.segmentButton.click()
    wait(finished(ready))
    assert ready.logic.lastResult() is not None and "Traceback" not in ready.ui.logText.plainText


def test_an_emptied_folder_of_studies_brings_the_volumes_back(ready: Any, tmp_path: Path) -> None:
    ready.ui.batchInputEdit.currentPath = str(tmp_path)
    assert not ready.ui.batchButton.enabled and "folder for the results" in ready.ui.batchButton.toolTip
    ready.ui.batchInputEdit.currentPath = ""
    assert "folder for the results" not in ready.ui.batchButton.toolTip
