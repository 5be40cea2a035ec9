"""Volumes and segmentations ↔ files and arrays, on slicer-core's real nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from small_nodes import GRIDS, SHAPE, some_mask, volume_node


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.float32])
def test_file_of_a_volume_has_its_voxels_and_its_place(scene: Any, tmp_path: Path, grid: str, kind: Any) -> None:
    from SAHLoRASlicer.volumes import read_array, write_volume

    volume = volume_node(grid, kind)
    assert write_volume(volume, tmp_path / "ct.nrrd")
    array, place = read_array(tmp_path / "ct.nrrd")
    assert array.dtype == kind
    assert np.array_equal(array, slicer.util.arrayFromVolume(volume))
    assert np.allclose(place, GRIDS[grid], atol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
def test_mask_comes_back_voxel_by_voxel_from_the_segment(scene: Any, grid: str) -> None:
    from SAHLoRASlicer.segmentations import add_segment, segment_array

    volume = volume_node(grid)
    segmentation, segment = add_segment(some_mask(), volume)
    assert np.array_equal(segment_array(segmentation, segment, volume), some_mask())
    assert segmentation.GetNodeReference(segmentation.GetReferenceImageGeometryReferenceRole()) is volume


def test_existing_segmentation_keeps_its_segments_and_gets_a_new_one(scene: Any) -> None:
    from SAHLoRASlicer.segmentations import add_segment, segment_array

    volume = volume_node()
    segmentation, first = add_segment(some_mask(), volume)
    overlapping = np.zeros(SHAPE, np.uint8)
    overlapping[2:5, 5:12, 2:10] = 1
    again, second = add_segment(overlapping, volume, segmentation=segmentation)
    assert again is segmentation and segmentation.GetSegmentation().GetNumberOfSegments() == 2
    assert np.array_equal(segment_array(segmentation, first, volume), some_mask())
    assert np.array_equal(segment_array(segmentation, second, volume), overlapping)
    names = [segmentation.GetSegmentation().GetSegment(s).GetName() for s in (first, second)]
    assert names == ["Haemorrhage", "Haemorrhage 2"]


def test_no_haemorrhage_is_an_empty_segment(scene: Any) -> None:
    from SAHLoRASlicer.segmentations import add_segment, segment_array

    volume = volume_node()
    segmentation, segment = add_segment(np.zeros(SHAPE, np.uint8), volume)
    assert segmentation.GetSegmentation().GetSegment(segment) is not None
    assert not segment_array(segmentation, segment, volume).any()


def test_segment_bears_snomed_codes_colour_and_surface(scene: Any) -> None:
    from SAHLoRALib.images import HAEMORRHAGE_TAG
    from SAHLoRASlicer.segmentations import HAEMORRHAGE, SUBARACHNOID, add_segment
    from SAHLoRASlicer.selftest import _tag

    assert HAEMORRHAGE == HAEMORRHAGE_TAG, "files of the core and nodes of Slicer say the same"
    volume = volume_node()
    segmentation, segment = add_segment(some_mask(), volume, terminology=SUBARACHNOID)
    node = segmentation.GetSegmentation().GetSegment(segment)
    assert "SCT^50960005^Hemorrhage" in _tag(node) and "SCT^35951006^Subarachnoid space" in _tag(node)
    assert node.GetColor() == pytest.approx((0.85, 0.12, 0.12))
    surface = vtk.vtkPolyData()
    segmentation.GetClosedSurfaceRepresentation(segment, surface)
    assert surface.GetNumberOfPoints() > 0


def test_segmentation_goes_into_the_study_of_its_volume(scene: Any) -> None:
    from SAHLoRASlicer.segmentations import add_segment

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
    study = hierarchy.CreateStudyItem(patient, "Study")
    volume = volume_node()
    item = hierarchy.GetItemByDataNode(volume) or hierarchy.CreateItem(study, volume)
    hierarchy.SetItemParent(item, study)
    segmentation, _ = add_segment(some_mask(), volume)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(segmentation)) == study


def test_segmentation_survives_seg_nrrd(scene: Any, tmp_path: Path) -> None:
    from SAHLoRASlicer.segmentations import HAEMORRHAGE, add_segment, segment_array
    from SAHLoRASlicer.selftest import _tag

    volume = volume_node("oblique")
    segmentation, _ = add_segment(some_mask(), volume)
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "s.seg.nrrd"))
    assert storage.WriteData(segmentation)
    again = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "again")
    assert storage.ReadData(again)
    segment = again.GetSegmentation().GetNthSegmentID(0)
    assert _tag(again.GetSegmentation().GetSegment(segment)) == HAEMORRHAGE
    assert np.array_equal(segment_array(again, segment, volume), some_mask())


@pytest.mark.parametrize("shape, word", [((1, 16, 16), "single slice"), (None, "empty")])
def test_unusable_volumes_are_refused_in_words(scene: Any, shape: Any, word: str) -> None:
    from SAHLoRASlicer.volumes import volume_from_array, why_unusable

    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "V") if shape is None else volume_from_array(np.zeros(shape, np.int16), np.eye(4), "V")
    assert word in why_unusable(node)


def test_scan_and_probability_are_shown_where_they_lie(slice_view: Any) -> None:
    from SAHLoRASlicer.volumes import show_probability, volume_from_array

    place = GRIDS["axial"].copy()
    place[2, 3] = 700.0
    volume = volume_from_array(np.zeros(SHAPE, np.int16), place, "far off")
    probability = show_probability(np.full(SHAPE, 0.5), volume, None)
    shown = slice_view.GetSliceCompositeNode()
    assert (shown.GetBackgroundVolumeID(), shown.GetForegroundVolumeID()) == (volume.GetID(), probability.GetID())
    assert 700.0 <= slice_view.GetSliceOffset() <= 725.0


def test_scan_is_shown_without_a_window_too(scene: Any) -> None:
    from SAHLoRASlicer.volumes import show_scan

    view = scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    show_scan(volume := volume_node())
    assert view.GetBackgroundVolumeID() == volume.GetID()
