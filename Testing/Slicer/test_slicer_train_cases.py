"""The cases of SAHLoRA Train, as a user goes: stored, checked, opened, corrected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
from train_scenes import add, far_off, scene_case, wait


def test_case_from_the_scene_is_stored_checked_opened_and_corrected(train: Any) -> None:
    volume, segmentation, segment = scene_case(1)
    train._parameterNode.volume = volume
    train.ui.segmentSelector.setCurrentNode(segmentation)
    train.ui.segmentSelector.setCurrentSegmentID(segment)
    train.panel.refresh()
    assert train.ui.addSceneButton.enabled, train.ui.addSceneButton.toolTip
    train.ui.addSceneButton.click()
    wait(lambda: train.panel.cases.report.rows and not train.panel.cases.report.unchecked)
    row = train.panel.cases.report.rows[0]
    assert (row.patient, row.slices, row.state) == ("patient-001", 8, "good") and row.ml > 1
    assert "1 case" in train.ui.totalsLabel.text and "one case only" in train.ui.trainButton.toolTip
    train.ui.openButton.click()
    opened = train.panel.cases.find_open(row.case)
    assert opened is not None and train.ui.keepButton.enabled
    array = np.zeros(slicer.util.arrayFromVolume(opened.volume).shape, np.uint8)
    array[3, 10:20, 10:20] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(array, opened.segmentation, opened.segment, opened.volume)
    train.ui.keepButton.click()
    wait(lambda: not train.panel.cases.report.unchecked)
    assert train.panel.cases.report.rows[0].ml == pytest.approx(100 * 0.08), train.ui.logText.plainText
    train.ui.removeButton.click()
    assert train.panel.cases.report.rows == () and not list(Path(train._parameterNode.caseFolder).glob("case-*"))


def test_opened_case_is_seen_wherever_it_lies_and_a_view_that_shows_it_stays(train: Any, slice_view: Any) -> None:
    train.panel.cases.add_node(*far_off(1), "patient-1")
    wait(lambda: not train.panel.cases.report.unchecked)
    train.ui.openButton.click()
    opened = train.panel.cases.find_open("case-001")
    assert slice_view.GetSliceCompositeNode().GetBackgroundVolumeID() == opened.volume.GetID()
    assert -900.0 <= slice_view.GetSliceOffset() <= -865.0
    assert min(slice_view.GetSliceNode().GetFieldOfView()[:2]) > 8 * 4.0
    slice_view.SetSliceOffset(-890.0)  # the user scrolls
    train.ui.openButton.click()
    assert slice_view.GetSliceOffset() == -890.0, train.ui.logText.plainText


def test_empty_segmentation_is_told_in_one_sentence_and_not_stored(train: Any) -> None:
    volume, segmentation, segment = scene_case(1)
    slicer.util.updateSegmentBinaryLabelmapFromArray(np.zeros((8, 48, 48), np.uint8), segmentation, segment, volume)
    train.panel.cases.add_node(volume, segmentation, segment, "p")
    wait(lambda: not train.panel.cases.report.unchecked)
    assert "empty" in train.panel.cases.report.rows[0].state and not train.ui.trainButton.enabled


def test_a_path_that_is_being_typed_is_taken_when_it_rests_or_at_a_click(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later: list[Any] = []
    monkeypatch.setattr(train.panel, "_later", lambda ms, call: later.append(call))
    before = train._parameterNode.caseFolder
    for path in (tmp_path / "o", tmp_path / "ot", tmp_path / "oth"):
        train.ui.caseFolderEdit.currentPath = str(path)
    later[0]()
    later[1]()
    assert train._parameterNode.caseFolder == before
    later[2]()
    assert train._parameterNode.caseFolder == str(tmp_path / "oth") == str(train.panel.cases.folder.folder)
    train.ui.caseFolderEdit.currentPath = str(tmp_path / "pressed")
    train.ui.checkButton.click()
    assert train.panel.cases.folder.folder == tmp_path / "pressed"


def test_a_folder_that_may_not_be_read_is_told_in_the_log(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Any) -> None:
        raise PermissionError(13, "Permission denied", "/somewhere")

    monkeypatch.setattr(type(train.panel.cases.folder), "peek", refused)
    train.panel.cases.refresh()
    assert train.panel.cases.report.rows == () and "Permission denied" in train.ui.logText.plainText


def test_a_scene_that_comes_in_brings_its_own_case_folder(train: Any, tmp_path: Path) -> None:
    scene, node = slicer.mrmlScene, train._parameterNode
    node.caseFolder = str(tmp_path / "of-the-scene")
    scene.SetSaveToXMLString(1)
    scene.Commit()
    saved = scene.GetSceneXMLString()
    node.caseFolder = str(tmp_path / "here")
    train.initializeParameterNode()
    scene.SetLoadFromXMLString(1)
    scene.SetSceneXMLString(saved)
    scene.Import()
    assert train._parameterNode.caseFolder == str(tmp_path / "of-the-scene")
    assert train.panel.cases.folder.folder == tmp_path / "of-the-scene" == Path(train.ui.caseFolderEdit.currentPath)


def test_the_patient_that_was_typed_stays_until_the_case_is_stored(train: Any) -> None:
    add(train, 1)
    box = train.ui.patientComboBox
    assert box.currentText == "patient-001"
    box.setEditText("second-of-patient-0")
    train.panel.cases.add_node(*scene_case(1), "patient-001")  # the list of patients is another now
    train.panel.refresh()
    assert box.currentText == "second-of-patient-0" and box.itemText(0) == "patient-002"
    volume, segmentation, segment = scene_case(2)
    train._parameterNode.volume = volume
    train.ui.segmentSelector.setCurrentNode(segmentation)
    train.ui.segmentSelector.setCurrentSegmentID(segment)
    train.panel.refresh()
    train.ui.addSceneButton.click()
    assert train.panel.cases.patients()[-1] == "second-of-patient-0" and box.currentText == "patient-002"
    assert box.insertPolicy == type(box).InsertPolicy.NoInsert


def test_the_patient_of_another_case_folder_is_not_taken_along(train: Any, tmp_path: Path) -> None:
    add(train, 2)
    train.ui.patientComboBox.setEditText("patient-1")
    train.ui.caseFolderEdit.currentPath = str(tmp_path / "other")
    train.ui.checkButton.click()
    assert train.panel.cases.folder.folder == tmp_path / "other" and train.ui.patientComboBox.currentText == "patient-001"


def test_the_patient_that_was_typed_stays_when_the_module_is_shown_again(train: Any) -> None:
    add(train, 1)
    train.ui.patientComboBox.setEditText("second-of-patient-1")
    train.enter()  # back from the Segment Editor
    assert train.ui.patientComboBox.currentText == "second-of-patient-1"


def test_files_that_are_dropped_while_a_training_reads_the_cases_are_refused(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(train, 1)
    before = (train.panel.cases.folder.folder / "cases.csv").read_bytes()
    monkeypatch.setattr(type(train.panel), "running", property(lambda panel: True))
    train.panel.cases.add_files([tmp_path])
    assert "Not while a training reads" in train.ui.logText.plainText
    assert (train.panel.cases.folder.folder / "cases.csv").read_bytes() == before


def test_a_segment_that_is_gone_cannot_be_stored(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    volume, segmentation, segment = scene_case(1)
    train._parameterNode.volume = volume
    train.ui.segmentSelector.setCurrentNode(segmentation)
    train.ui.segmentSelector.setCurrentSegmentID(segment)
    monkeypatch.setattr(type(train.ui.segmentSelector), "currentSegmentID", lambda self: segment)  # as Slicer's goes on saying
    train.panel.refresh()
    assert train.ui.addSceneButton.enabled
    segmentation.GetSegmentation().RemoveSegment(segment)
    train.panel.refresh()
    assert not train.ui.addSceneButton.enabled and "Choose the segment" in train.ui.addSceneButton.toolTip


def test_two_scans_of_one_patient_are_told_in_the_patient_cell(train: Any) -> None:
    from SAHLoRASlicer.train_cases import PATIENT

    add(train, 2)
    train.ui.casesTable.item(1, PATIENT).setText("patient-0")
    wait(lambda: train.panel.cases.patients() == ["patient-0"])
    assert [row.patient for row in train.panel.cases.folder.rows()] == ["patient-0", "patient-0"]
    train.ui.casesTable.item(1, PATIENT).setText(" ")
    wait(lambda: train.ui.casesTable.item(1, PATIENT).text() == "patient-0")
    assert "patient" in train.ui.logText.plainText


def test_blood_window_and_case_are_set_in_the_segment_editor(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    asked: dict[str, Any] = {}
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    names = ("setSegmentationNode", "setSourceVolumeNode", "setCurrentSegmentID")
    editor = types.SimpleNamespace(
        mrmlSegmentEditorNode=lambda: node, **{name: lambda value, name=name: asked.update({name: value}) for name in names}
    )
    shown = types.SimpleNamespace(self=lambda: types.SimpleNamespace(editor=editor))
    monkeypatch.setattr(slicer.util, "selectModule", lambda name: asked.update(module=name))
    monkeypatch.setattr(slicer.modules, "segmenteditor", types.SimpleNamespace(widgetRepresentation=lambda: shown), raising=False)
    add(train, 1)
    train.ui.annotateButton.click()
    opened = train.panel.cases.find_open("case-001")
    assert asked["module"] == "SegmentEditor" and asked["setSourceVolumeNode"] is opened.volume and asked["setCurrentSegmentID"] == opened.segment
    assert node.GetSourceVolumeIntensityMask() and tuple(node.GetSourceVolumeIntensityMaskRange()) == (30.0, 100.0)
    # The node is one for all: what SAHLoRA Segment hands to the editor is not limited by what was annotated before.
    from SAHLoRASlicer.logic import SAHLoRASegmentLogic

    last = types.SimpleNamespace(segmentation=opened.segmentation, volume=opened.volume, segment=opened.segment)
    SAHLoRASegmentLogic.editLast(types.SimpleNamespace(lastResult=lambda: last))
    assert not node.GetSourceVolumeIntensityMask()


@pytest.mark.slow
def test_sample_cases_are_made_and_stand_in_the_table(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from SAHLoRASlicer import train_run

    monkeypatch.setattr(train_run, "SAMPLE", {**train_run.SAMPLE, "count": 2, "matrix": 96, "slices": 8})
    train.ui.sampleButton.click()
    wait(lambda: not train.panel.running, seconds=120.0)
    assert "Finished" in train.ui.statusLabel.text, train.ui.logText.plainText
    wait(lambda: train.panel.cases.report.rows and not train.panel.cases.report.unchecked)
    assert len(train.panel.cases.report.rows) == train.ui.casesTable.rowCount == 2 and "2 cases" in train.ui.totalsLabel.text
    assert Path(train._parameterNode.caseFolder).name == "sample-cases" and train._parameterNode.epochs == train_run.SAMPLE_EPOCHS
