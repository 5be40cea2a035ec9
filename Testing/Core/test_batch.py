"""Several scans in one call."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from SAHLoRALib.batch import Outputs, ScanResult, exit_code, segment_batch
from SAHLoRALib.catalogue import Catalogue
from SAHLoRALib.ct import CTVolume, read_ct, read_label
from SAHLoRALib.errors import Cancelled, OutputError
from SAHLoRALib.evaluation import read_probability
from SAHLoRALib.events import Events
from SAHLoRALib.inputs import ScanInput, find_inputs, scan_name
from SAHLoRALib.segmenter import SegmentConfig, Segmenter
from tiny_scans import BLEED, VOXEL_ML, box, head, image, save_dicom, save_models, save_scan


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    folder = tmp_path_factory.mktemp("models")
    save_models(folder)
    return Segmenter.load("tbi-base", "none", SegmentConfig(precision="float32", device="cpu"), Catalogue([folder]))


class Watch(Events):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, object]] = []

    def _emit(self, event: str, **fields: object) -> None:
        self.seen.append({"event": event, **fields})


def summary(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def names(*paths: Path) -> list[str]:
    return [scan.name for scan in find_inputs(paths)]


def test_each_scan_gets_a_folder_and_a_line_and_a_bad_one_stops_nobody(segmenter: Segmenter, tmp_path: Path) -> None:
    save_scan(tmp_path / "in" / "a.nii.gz", BLEED)
    (tmp_path / "in" / "b.nrrd").write_bytes(b"NRRD0004\nnothing")
    save_scan(tmp_path / "in" / "c.nrrd")
    events = Watch()
    results = segment_batch(segmenter, find_inputs([tmp_path / "in"]), Outputs(tmp_path / "out"), events)
    assert [(r.scan.name, r.ok) for r in results] == [("a", True), ("b", False), ("c", True)] and exit_code(results) == 1
    rows = summary(tmp_path / "out")
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert float(rows[0]["total_ml"]) == pytest.approx(90 * VOXEL_ML) and float(rows[2]["total_ml"]) == 0
    assert "b.nrrd" in rows[1]["error"] and rows[1]["total_ml"] == "" and rows[0]["model_digest"] == segmenter.base.digest
    ct = read_ct(tmp_path / "in" / "a.nii.gz")
    assert np.array_equal(read_label(tmp_path / "out" / "a" / "mask.nrrd", ct), box(BLEED))
    assert {p.name for p in (tmp_path / "out" / "a").iterdir()} == {"mask.nrrd", "report.json", "montage.png"}
    assert not (tmp_path / "out" / "b").exists()
    assert any(e["event"] == "log" and "b.nrrd" in str(e["message"]) for e in events.seen)
    done = [float(str(e["done"])) for e in events.seen if e["event"] == "progress"]
    assert done == sorted(done) and done[-1] == 3 and {e["total"] for e in events.seen if e["event"] == "progress"} == {3}


@pytest.mark.parametrize("ending", ["nrrd", "nii.gz", "seg.nrrd"])
def test_mask_probability_and_scan_lie_on_one_grid_in_every_format(segmenter: Segmenter, tmp_path: Path, ending: str) -> None:
    path = save_scan(tmp_path / "a.nrrd", BLEED)
    outputs = Outputs(tmp_path / "out", ending, probability=True, keep_ct=True)  # type: ignore[arg-type]
    segment_batch(segmenter, find_inputs([path]), outputs)
    plain = "nii.gz" if ending == "nii.gz" else "nrrd"
    folder = tmp_path / "out" / "a"
    ct = read_ct(path)
    kept = sitk.ReadImage(str(folder / f"ct.{plain}"))
    assert np.array_equal(sitk.GetArrayFromImage(kept), sitk.GetArrayFromImage(sitk.ReadImage(str(path)))) and kept.GetPixelID() == sitk.sitkInt16
    assert np.array_equal(read_label(folder / f"mask.{ending}", ct), box(BLEED))
    assert np.array_equal(read_probability(folder / f"probability.{plain}", ct) >= 0.5, box(BLEED))
    if ending == "seg.nrrd":
        assert sitk.ReadImage(str(folder / "mask.seg.nrrd")).GetMetaData("Segment0_Name") == "Haemorrhage"


def test_results_of_an_earlier_call_do_not_stay_beside_the_new(segmenter: Segmenter, tmp_path: Path) -> None:
    path = save_scan(tmp_path / "a.nrrd", BLEED)
    segment_batch(segmenter, find_inputs([path]), Outputs(tmp_path / "out", probability=True, keep_ct=True))
    (tmp_path / "out" / "a" / "notes.txt").write_text("mine")
    segment_batch(segmenter, find_inputs([path]), Outputs(tmp_path / "out", "nii.gz"))
    assert {p.name for p in (tmp_path / "out" / "a").iterdir()} == {"mask.nii.gz", "report.json", "montage.png", "notes.txt"}
    path.write_bytes(b"NRRD0004\nnothing")
    segment_batch(segmenter, find_inputs([path]), Outputs(tmp_path / "out"))
    assert {p.name for p in (tmp_path / "out" / "a").iterdir()} == {"notes.txt"} and summary(tmp_path / "out")[0]["status"] == "failed"


def test_another_scan_of_the_same_name_keeps_its_results(segmenter: Segmenter, tmp_path: Path) -> None:
    first, second = save_scan(tmp_path / "p1" / "ct.nrrd", BLEED), save_scan(tmp_path / "p2" / "ct.nrrd")
    for path in (first, second, first):
        segment_batch(segmenter, find_inputs([path]), Outputs(tmp_path / "out"))
    sources = {p.parent.name: json.loads(p.read_text())["source"] for p in (tmp_path / "out").glob("*/report.json")}
    assert sources == {"ct": str(first), "ct_2": str(second)}


def test_a_scan_is_known_from_any_folder_and_another_by_the_same_words_is_not(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cd p1; sahlora segment ct.nrrd --output ../out`, and the same in p2."""
    for n, patient in enumerate(("p1", "p2")):
        save_scan(tmp_path / patient / "ct.nrrd", *([BLEED] if n else []))
        monkeypatch.chdir(tmp_path / patient)
        segment_batch(segmenter, find_inputs(["ct.nrrd"]), Outputs(Path("../out")))
    found = {p.parent.name: json.loads(p.read_text())["total_ml"] for p in (tmp_path / "out").glob("*/report.json")}
    assert found == {"ct": 0.0, "ct_2": pytest.approx(90 * VOXEL_ML)}
    assert not any(str(tmp_path) in p.read_text() for p in (tmp_path / "out").glob("*/report.json")), "the report tells folders of the user's"
    monkeypatch.chdir(tmp_path)
    segment_batch(segmenter, find_inputs([tmp_path / "p1" / "ct.nrrd"]), Outputs(tmp_path / "out"))
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir()) == ["ct", "ct_2"]


def test_a_users_own_masks_are_never_taken_away(segmenter: Segmenter, tmp_path: Path) -> None:
    """The folder for the results is the one of the scans, where annotations lie beside them."""
    save_dicom(tmp_path / "dicom" / "p01", "1", "2")
    save_scan(tmp_path / "files" / "p02.nii.gz")
    own = [tmp_path / "dicom" / "p01" / "mask.nrrd", tmp_path / "files" / "p02" / "mask.nii.gz"]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"drawn by hand")
    for scan in (tmp_path / "dicom" / "p01", tmp_path / "files" / "p02.nii.gz"):
        scans = find_inputs([scan])
        assert all(result.ok for result in segment_batch(segmenter, scans, Outputs(scan.parent)))
    assert all(path.read_bytes() == b"drawn by hand" for path in own)
    assert (tmp_path / "dicom" / "p01_2" / "report.json").is_file() and (tmp_path / "files" / "p02_2" / "report.json").is_file()
    segment_batch(segmenter, scans, Outputs(tmp_path / "files"))
    assert not (tmp_path / "files" / "p02_3").exists(), "its own results are replaced"


def test_a_corrected_mask_stays_and_that_is_told(segmenter: Segmenter, tmp_path: Path) -> None:
    scan = save_scan(tmp_path / "a.nrrd", BLEED)
    segment_batch(segmenter, find_inputs([scan]), Outputs(tmp_path / "out"))
    mask = tmp_path / "out" / "a" / "mask.nrrd"
    corrected = sitk.ReadImage(str(mask))
    corrected[0, 0, 0] = 1
    sitk.WriteImage(corrected, str(mask), True)
    bytes_ = mask.read_bytes()
    for _ in range(2):
        events = Watch()
        segment_batch(segmenter, find_inputs([scan]), Outputs(tmp_path / "out", "nii.gz"), events)
        assert any("was changed after it had been written" in str(e.get("message")) and "goes to a_2" in str(e["message"]) for e in events.seen)
    assert mask.read_bytes() == bytes_ and (tmp_path / "out" / "a_2" / "mask.nii.gz").is_file()
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir()) == ["a", "a_2"]
    assert [row["folder"] for row in summary(tmp_path / "out")] == ["a", "a_2"]
    another = save_scan(tmp_path / "another" / "a.nrrd", BLEED)
    events = Watch()
    segment_batch(segmenter, find_inputs([another]), Outputs(tmp_path / "out", "nii.gz"), events)
    assert mask.read_bytes() == bytes_ and (tmp_path / "out" / "a_3" / "mask.nii.gz").is_file()
    assert not any("was changed" in str(e.get("message")) for e in events.seen), "the mask of another scan is spoken of as this one's"


def test_a_mask_that_was_saved_in_another_format_beside_the_first_stays_too(segmenter: Segmenter, tmp_path: Path) -> None:
    scan = save_scan(tmp_path / "a.nrrd", BLEED)
    segment_batch(segmenter, find_inputs([scan]), Outputs(tmp_path / "out"))
    own = tmp_path / "out" / "a" / "mask.seg.nrrd"
    own.write_bytes(b"drawn by hand")
    segment_batch(segmenter, find_inputs([scan]), Outputs(tmp_path / "out"))
    assert own.read_bytes() == b"drawn by hand" and (tmp_path / "out" / "a_2" / "mask.nrrd").is_file()


def test_the_table_keeps_the_lines_of_earlier_calls_whose_results_are_there(segmenter: Segmenter, tmp_path: Path) -> None:
    a, b, c = (save_scan(tmp_path / f"{name}.nrrd", *([BLEED] if name == "a" else [])) for name in "abc")
    segment_batch(segmenter, find_inputs([a, b]), Outputs(tmp_path / "out"))
    shutil.rmtree(tmp_path / "out" / "b")
    segment_batch(segmenter, find_inputs([c]), Outputs(tmp_path / "out"))
    assert [row["name"] for row in summary(tmp_path / "out")] == ["a", "c"]
    assert float(summary(tmp_path / "out")[0]["total_ml"]) == pytest.approx(90 * VOXEL_ML)
    segment_batch(segmenter, find_inputs([a]), Outputs(tmp_path / "out"))
    assert [row["name"] for row in summary(tmp_path / "out")] == ["c", "a"], "a scan that is segmented again has one line"
    (tmp_path / "out" / "summary.csv").write_bytes(b"\xff somebody's own table")
    segment_batch(segmenter, find_inputs([a]), Outputs(tmp_path / "out"))
    assert [row["name"] for row in summary(tmp_path / "out")] == ["a"]


def test_what_a_killed_run_left_half_written_is_replaced(segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = save_scan(tmp_path / "a.nrrd", BLEED)
    monkeypatch.setattr("SAHLoRALib.batch.write_montage", killed)
    with pytest.raises(KeyboardInterrupt):
        segment_batch(segmenter, find_inputs([scan]), Outputs(tmp_path / "out"))
    assert (tmp_path / "out" / "a" / "mask.nrrd").is_file() and not (tmp_path / "out" / "a" / "report.json").exists()
    monkeypatch.undo()
    assert segment_batch(segmenter, find_inputs([scan]), Outputs(tmp_path / "out"))[0].ok
    assert [p.name for p in (tmp_path / "out").iterdir() if p.is_dir()] == ["a"]
    assert sorted(p.name for p in (tmp_path / "out" / "a").iterdir()) == ["mask.nrrd", "montage.png", "report.json"]


def killed(*given: object) -> None:
    raise KeyboardInterrupt


def test_a_summary_that_a_spreadsheet_holds_stops_nobody(segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to replace a file that another program has open."""
    scans = [save_scan(tmp_path / f"{name}.nrrd") for name in "abc"]
    replace, tried = os.replace, []

    def refuse(source: Path, target: Path) -> None:
        tried.append(Path(target).name)
        if Path(target).name == "summary.csv" and tried.count("summary.csv") in (2, 3):
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    events = Watch()
    results = segment_batch(segmenter, find_inputs(scans), Outputs(tmp_path / "out"), events)
    assert all(r.ok for r in results) and len(summary(tmp_path / "out")) == 3
    told = [str(event["message"]) for event in events.seen if event["event"] == "log"]
    assert len([text for text in told if "perhaps another program has it open" in text]) == 2


def test_a_folder_that_may_not_be_read_is_left_out_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_scan(tmp_path / "studies" / "p1" / "ct.nrrd")
    (tmp_path / "studies" / "lost+found").mkdir()
    iterdir = Path.iterdir

    def forbidden(folder: Path) -> object:
        if folder.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(folder))
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", forbidden)
    events = Watch()
    assert [scan.name for scan in find_inputs([tmp_path / "studies"], events)] == ["p1_ct"]
    assert "lost+found may not be read" in str(events.seen[0]["message"])


def test_an_error_that_nobody_foresaw_stops_nobody_either(segmenter: Segmenter, tmp_path: Path) -> None:
    good, bad = save_scan(tmp_path / "a.nrrd"), save_scan(tmp_path / "b.nrrd")

    def read(path: Path, series: str | None) -> CTVolume:
        if path == bad:
            raise ZeroDivisionError("inside a library")
        return read_ct(path)

    results = segment_batch(segmenter, find_inputs([bad, good]), Outputs(tmp_path / "out"), read=read)
    assert [r.ok for r in results] == [False, True] and "bug" in results[0].error and "ZeroDivisionError" in results[0].error
    log = Path(results[0].error.split("details are in ")[1].split(". Please")[0])
    assert "Traceback" in log.read_text()
    log.unlink()


def test_cancel_keeps_what_was_finished(segmenter: Segmenter, tmp_path: Path) -> None:
    paths = [save_scan(tmp_path / f"{n}.nrrd") for n in "abc"]

    class StopInSecond(Events):
        def _emit(self, event: str, **fields: object) -> None:
            if event == "progress" and str(fields["detail"]).startswith("b: slice"):
                self.cancel()

    with pytest.raises(Cancelled):
        segment_batch(segmenter, find_inputs(paths), Outputs(tmp_path / "out"), StopInSecond())
    assert [row["name"] for row in summary(tmp_path / "out")] == ["a"] and not (tmp_path / "out" / "b").exists()


def test_output_folder_that_cannot_be_written_is_told_before_any_work(segmenter: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")

    def read(path: Path, series: str | None) -> CTVolume:
        raise AssertionError("nothing should be read")

    with pytest.raises(OutputError, match="Cannot write"):
        segment_batch(segmenter, [ScanInput(tmp_path / "a.nrrd", "a")], Outputs(tmp_path / "out"), read=read)


def test_exit_code_tells_all_some_or_none() -> None:
    bad = ScanResult(ScanInput(Path("a"), "a"), error="x")
    good = ScanResult(bad.scan, report=object())  # type: ignore[arg-type]
    assert [exit_code(r) for r in ([good, good], [good, bad], [bad, bad], [])] == [0, 1, 2, 2]


def test_dicom_is_segmented_without_anything_of_the_header_in_the_results(segmenter: Segmenter, tmp_path: Path) -> None:
    folder = save_dicom(tmp_path / "study", "1", "2", BLEED, name="Doe^Jane")
    results = segment_batch(segmenter, find_inputs([folder]), Outputs(tmp_path / "out", "seg.nrrd", keep_ct=True), series="2")
    assert results[0].report is not None and results[0].report.total_ml == pytest.approx(90 * VOXEL_ML)
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"Doe" not in content and b"4711" not in content


def test_study_with_several_series_is_one_scan_and_several_studies_are_several(tmp_path: Path) -> None:
    one = tmp_path / "one"
    save_dicom(one / "soft", "1", "2")
    save_dicom(one / "bone", "1", "3", description="bone")
    assert names(one) == ["one"] and names(one / "soft") == ["soft"]
    save_dicom(tmp_path / "two" / "day1" / "s", "4", "5")
    save_dicom(tmp_path / "two" / "day2" / "s", "6", "7")
    found = find_inputs([tmp_path])
    assert [(scan.name, scan.path) for scan in found] == [
        ("one", tmp_path / "one"),
        ("two_day1", tmp_path / "two" / "day1"),
        ("two_day2", tmp_path / "two" / "day2"),
    ]


def test_slices_beside_image_files_are_a_scan_of_their_own(tmp_path: Path) -> None:
    save_dicom(tmp_path / "mix", "1", "2")
    save_scan(tmp_path / "mix" / "other.nrrd")
    assert {scan.path for scan in find_inputs([tmp_path / "mix"])} == {tmp_path / "mix", tmp_path / "mix" / "other.nrrd"}


def test_folder_of_files_is_looked_through_without_masks(tmp_path: Path) -> None:
    for name in ("p1/ct.nrrd", "p1/mask.nrrd", "p2/ct.nrrd", "p2/a.seg.nrrd", "b.nii.gz", "b_label.nii.gz", "notes.txt", ".hidden.nrrd"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert names(tmp_path) == ["b", "p1_ct", "p2_ct"]
    assert names(tmp_path / "p1" / "ct.nrrd", tmp_path / "p2" / "ct.nrrd") == ["ct", "ct_2"]
    assert names(tmp_path / "p1" / "mask.nrrd") == ["mask"]
    assert names(tmp_path / "p1", tmp_path / "p1" / "ct.nrrd") == ["ct"]


def test_what_is_not_there_stays_in_the_list(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert names(tmp_path / "missing.nrrd", tmp_path / "empty") == ["missing", "empty"]


@pytest.mark.parametrize(
    ("file", "name"),
    [("a b.nii.gz", "a_b"), ("x.seg.nrrd", "x"), ("Müller.nrrd", "Müller"), ("..", "scan"), ("a:b?.mha", "a_b"), ("v1.2.nrrd", "v1.2")],
)
def test_names_of_folders_are_plain(file: str, name: str) -> None:
    assert scan_name(file) == name


def test_masks_beside_the_scans_and_results_of_an_earlier_call_are_no_scans(tmp_path: Path) -> None:
    for name in ("ct_scans/049.nii", "masks/049.nii", "ground truths/049.nii.gz", "labelsTr/a.nii.gz", "out/049/ct.nrrd", "out/049/mask.nrrd"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    for name in ("p1/ct.nii.gz", "p1/mask.nii.gz", "to_seg/b.nii.gz", "Pat_GT/c.nii.gz"):
        (tmp_path / "more" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "more" / name).write_text("")
    (tmp_path / "more" / "p1" / "report.json").write_text('{"finding": "a radiologist\'s"}')
    assert names(tmp_path / "more") == ["Pat_GT_c", "p1_ct", "to_seg_b"]
    shutil.rmtree(tmp_path / "more")
    (tmp_path / "out" / "049" / "report.json").write_text('{"total_ml": 1.0, "model": {}}')
    assert names(tmp_path) == ["ct_scans_049"]
    assert names(tmp_path / "out" / "049") == ["ct"]
    assert names(tmp_path / "masks") == ["049"]  # who names it gets it


def test_slices_with_a_converted_file_below_them_are_one_scan_and_a_folder_of_masks_may_hold_slices(tmp_path: Path) -> None:
    save_dicom(tmp_path / "study", "1", "2")
    save_scan(tmp_path / "study" / "nii" / "ct.nii.gz")
    assert names(tmp_path / "study") == ["study"]
    save_dicom(tmp_path / "labels", "3", "4")
    assert names(tmp_path) == ["labels", "study"]


def test_a_stray_file_beside_the_folders_of_patients_does_not_make_them_one(tmp_path: Path) -> None:
    save_dicom(tmp_path / "p1", "1", "2")
    save_dicom(tmp_path / "p2", "3", "4")
    [first, *more] = sorted((tmp_path / "p1").iterdir())
    shutil.copy(first, tmp_path / "keyimage.dcm")
    assert names(tmp_path) == ["p1", "p2"]
    for path in more:
        shutil.copy(path, tmp_path / path.name)
    assert names(tmp_path) == [tmp_path.name, "p1", "p2"]  # a whole scan is not left out


def test_a_study_with_loose_files_beside_its_series_is_one_scan(tmp_path: Path) -> None:
    save_dicom(tmp_path, "1", "2")
    save_dicom(tmp_path / "bone", "1", "3", description="bone")
    assert names(tmp_path) == [tmp_path.name]


def test_what_a_nifti_mask_cannot_say_to_slicer_stands_in_the_report(segmenter: Segmenter, tmp_path: Path) -> None:
    scan = image(head(BLEED))
    angle = np.radians(12.0)
    scan.SetDirection((1, 0, 0, 0, np.cos(angle), 0, 0, -np.sin(angle), 1))
    sitk.WriteImage(scan, str(tmp_path / "tilted.nrrd"))
    for ending, told in (("nii.gz", True), ("nrrd", False)):
        events = Watch()
        [result] = segment_batch(segmenter, find_inputs([tmp_path / "tilted.nrrd"]), Outputs(tmp_path / ending, ending), events)
        assert result.report is not None and any("sform" in w for w in result.report.warnings) is told
        assert any("sform" in str(seen.get("message")) for seen in events.seen) is told


def test_reports_beside_the_series_of_a_study_do_not_split_it(tmp_path: Path) -> None:
    save_dicom(tmp_path / "soft", "1", "2")
    save_dicom(tmp_path / "bone", "1", "3", description="bone")
    (tmp_path / "SR").mkdir()
    for report in (tmp_path / "SR" / "report.dcm", tmp_path / "loose.dcm"):
        report.write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 64)
    assert names(tmp_path) == [tmp_path.name]
