"""Training cases in a scene: listed, saved with it, read again, forgotten with their nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
import slicer.util
from small_nodes import some_mask, volume_node


def test_scene_bundle_keeps_segmentation_parameters_and_training_cases(panel: Any, tmp_path: Path) -> None:
    from SAHLoRASlicer import cases
    from SAHLoRASlicer.segmentations import add_segment, segment_array

    volume = volume_node("oblique")
    segmentation, segment = add_segment(some_mask(), volume)
    panel._parameterNode.inputVolume = volume
    panel._parameterNode.smallestMl = 0.25
    panel._parameterNode.flips = True
    assert cases.add_case(volume, segmentation, segment)
    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(1)
    assert slicer.mrmlScene.ReadFromMRB(str(tmp_path / "scene.mrb"), False)
    panel.initializeParameterNode()
    volume = slicer.util.getFirstNodeByName("CT")
    assert panel._parameterNode.inputVolume is volume
    assert panel.ui.smallestSpinBox.value == 0.25 and panel.ui.flipsCheckBox.checked
    case = cases.cases()[0]
    assert case.volume is volume
    assert np.array_equal(segment_array(case.segmentation, case.segment, volume), some_mask())


def test_training_cases_are_listed_once_and_forgotten_with_their_nodes(scene: Any) -> None:
    from SAHLoRASlicer import cases
    from SAHLoRASlicer.segmentations import add_segment

    volume = volume_node()
    segmentation, first = add_segment(some_mask(), volume)
    _, second = add_segment(some_mask(), volume, segmentation=segmentation)
    assert cases.cases() == []
    assert cases.add_case(volume, segmentation, first) and cases.add_case(volume, segmentation, second)
    assert not cases.add_case(volume, segmentation, first)
    cases.remove_case(cases.cases()[0])
    assert [case.segment for case in cases.cases()] == [second]
    scene.RemoveNode(segmentation)
    assert cases.cases() == []


def handed(name: str) -> tuple[Any, Any, str]:
    """A volume and its segment with an awkward id, as imported ones may have it, handed over."""
    from SAHLoRASlicer import cases
    from SAHLoRASlicer.segmentations import add_segment

    volume = volume_node()
    volume.SetName(name)
    segmentation, _ = add_segment(some_mask(), volume)
    segment = segmentation.GetSegmentation().AddEmptySegment("a b:c;d")
    assert segment == "a b:c;d" and cases.add_case(volume, segmentation, segment)
    return volume, segmentation, segment


def names_of_cases() -> list[tuple[str, str]]:
    from SAHLoRASlicer import cases

    return [(case.volume.GetName(), case.segmentation.GetName()) for case in cases.cases()]


def save_and_clear(scene: Any, path: Path) -> None:
    assert scene.WriteToMRB(str(path))
    scene.Clear(0)
    assert names_of_cases() == []


def test_training_cases_of_two_scenes_stand_side_by_side(scene: Any, tmp_path: Path) -> None:
    handed("saved")
    save_and_clear(scene, tmp_path / "saved.mrb")
    handed("here")
    handed("here too")
    assert scene.ReadFromMRB(str(tmp_path / "saved.mrb"), False)
    assert sorted(names_of_cases()) == [(name, f"{name} haemorrhage") for name in ("here", "here too", "saved")]
    save_and_clear(scene, tmp_path / "all.mrb")
    assert scene.ReadFromMRB(str(tmp_path / "all.mrb"), True)
    assert sorted(names_of_cases()) == [(name, f"{name} haemorrhage") for name in ("here", "here too", "saved")]


def test_clone_of_a_handed_over_segmentation_is_no_case_of_its_own(scene: Any) -> None:
    _, segmentation, _ = handed("CT")
    clone = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "clone")
    clone.CopyContent(segmentation)  # as the subject hierarchy clones
    assert clone.GetSegmentation().GetNumberOfSegments() == 2
    assert names_of_cases() == [("CT", "CT haemorrhage")]


def test_training_cases_of_an_earlier_versions_scene_are_understood(scene: Any) -> None:
    from SAHLoRASlicer import cases
    from SAHLoRASlicer.segmentations import add_segment

    handed("new")
    volume = volume_node()
    segmentation, segment = add_segment(some_mask(), volume)
    node = scene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
    node.UnRegister(None)
    node.SetSingletonTag("SAHLoRATrainingCases")
    scene.AddNode(node)
    node.SetNodeReferenceID("volume0", volume.GetID())
    node.SetNodeReferenceID("segmentation0", segmentation.GetID())
    node.SetParameter("segment0", segment)
    node.SetParameter("count", "2")  # of the second the nodes are gone
    assert [case.volume for case in cases.cases()][1:] == [volume] and len(cases.cases()) == 2
    assert scene.GetSingletonNode("SAHLoRATrainingCases", "vtkMRMLScriptedModuleNode") is None
    cases.remove_case(cases.cases()[1])
    assert len(cases.cases()) == 1
