"""Volumes and segmentations ↔ files and arrays, on slicer-core's real nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
import vtk

SHAPE = (6, 16, 20)  # k, j, i


def rotation(degrees: float, axis: int) -> np.ndarray:
    a, (i, j) = np.radians(degrees), [n for n in range(3) if n != axis]
    r = np.eye(3)
    r[i, i] = r[j, j] = np.cos(a)
    r[i, j], r[j, i] = -np.sin(a), np.sin(a)
    return r


def matrix(directions: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    m = np.eye(4)
    m[:3, :3] = directions * np.array(spacing)
    m[:3, 3] = (12.0, -34.0, 56.0)
    return m


GRIDS = {
    "axial": matrix(np.diag([-1.0, -1.0, 1.0]), (0.5, 0.5, 5.0)),
    "anisotropic": matrix(np.diag([-1.0, -1.0, 1.0]), (0.4, 0.7, 3.0)),
    "oblique": matrix(rotation(17, 0) @ rotation(9, 2) @ np.diag([-1.0, -1.0, 1.0]), (0.5, 0.5, 5.0)),
    "permuted": matrix(np.array([[0.0, 0, -1], [-1, 0, 0], [0, 1, 0]]), (0.5, 2.0, 0.8)),
    "left-handed": matrix(np.diag([1.0, -1.0, 1.0]), (0.5, 0.5, 5.0)),
}


def volume_node(grid: str = "axial", kind: Any = np.int16) -> Any:
    from SAHLoRASlicer.volumes import volume_from_array

    values = np.random.default_rng(0).integers(0, 2000, SHAPE).astype(kind)
    return volume_from_array(values, GRIDS[grid], "CT")


def some_mask() -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:4, 3:9, 5:15] = 1
    mask[2, 4, 6] = 0
    return mask


def tilt(volume: Any, degrees: float = 20.0) -> Any:
    """An acquisition transform that shears the slices along the patient's front, as DICOM reading makes one for a tilted gantry."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Acquisition transform")
    shear = np.eye(4)
    shear[1, 2] = np.tan(np.radians(degrees))
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(shear))
    volume.SetAndObserveTransformNodeID(node.GetID())
    return shear


def bend(volume: Any) -> None:
    """A transform that no affine map follows: slices unevenly apart."""
    points = [vtk.vtkPoints(), vtk.vtkPoints()]
    for k in range(6):
        for x, y in ((0, 0), (10, 0), (0, -10), (10, -10)):
            points[0].InsertNextPoint(12 - x, -34 + y, 56 + 5 * k)
            points[1].InsertNextPoint(12 - x, -34 + y, 56 + 5 * k + (4.0 if k > 2 else 0.0))
    put_under_spline(volume, *points)


def put_under_spline(node: Any, source: Any, target: Any) -> None:
    """A transform above the node that brings one set of points to the other."""
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetBasisToR()
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    made = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "spline")
    made.SetAndObserveTransformToParent(spline)
    node.SetAndObserveTransformNodeID(made.GetID())


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


def test_tilt_by_a_transform_reaches_the_core_as_true_slice_positions(scene: Any, tmp_path: Path) -> None:
    import SimpleITK as sitk
    from SAHLoRALib.volume import volume_from_image
    from SAHLoRASlicer.volumes import write_volume

    volume = volume_node()
    tilt(volume, 20.0)
    assert write_volume(volume, tmp_path / "ct.nrrd")
    ct = volume_from_image(sitk.ReadImage(str(tmp_path / "ct.nrrd")))
    assert abs(ct.tilt_degrees) == pytest.approx(20.0, abs=0.01)
    assert ct.gaps_mm == pytest.approx(np.full(5, 5.0), abs=1e-6)


def test_bent_volume_is_written_as_a_hardened_copy_and_stays_as_it_is(scene: Any, tmp_path: Path) -> None:
    from SAHLoRASlicer.volumes import write_volume

    volume = volume_node()
    bend(volume)
    before, nodes = slicer.util.arrayFromVolume(volume).copy(), scene.GetNumberOfNodes()
    assert not write_volume(volume, tmp_path / "ct.nrrd")
    assert np.array_equal(slicer.util.arrayFromVolume(volume), before)
    assert volume.GetParentTransformNode() is not None
    assert scene.GetNumberOfNodes() == nodes


@pytest.mark.parametrize("grid", GRIDS)
def test_mask_comes_back_voxel_by_voxel_from_the_segment(scene: Any, grid: str) -> None:
    from SAHLoRASlicer.segmentations import add_segment, segment_array

    volume = volume_node(grid)
    segmentation, segment = add_segment(some_mask(), volume)
    assert np.array_equal(segment_array(segmentation, segment, volume), some_mask())
    assert segmentation.GetNodeReference(segmentation.GetReferenceImageGeometryReferenceRole()) is volume


def test_segment_of_a_tilted_volume_lies_under_its_transform(scene: Any) -> None:
    from SAHLoRASlicer.segmentations import add_segment, segment_array

    volume = volume_node()
    tilt(volume)
    segmentation, segment = add_segment(some_mask(), volume)
    assert segmentation.GetParentTransformNode() is volume.GetParentTransformNode()
    assert np.array_equal(segment_array(segmentation, segment, volume), some_mask())


def test_segment_of_a_bent_volume_lies_in_the_world(scene: Any, tmp_path: Path) -> None:
    from SAHLoRASlicer.segmentations import add_segment, segment_array
    from SAHLoRASlicer.volumes import read_array, volume_from_array, write_volume

    volume = volume_node()
    bend(volume)
    write_volume(volume, tmp_path / "ct.nrrd")
    array, place = read_array(tmp_path / "ct.nrrd")
    mask = np.zeros(array.shape, np.uint8)
    mask[1:3, 4:9, 4:9] = 1
    segmentation, segment = add_segment(mask, volume, place)
    assert segmentation.GetParentTransformNode() is None
    grid = volume_from_array(array, place, "grid")
    assert np.array_equal(segment_array(segmentation, segment, grid), mask)


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


def turned(degrees: float, axis: int, shift: tuple[float, float, float]) -> Any:
    """A linear transform node."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "turned")
    moved = np.eye(4)
    moved[:3, :3], moved[:3, 3] = rotation(degrees, axis), shift
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(moved))
    return node


def in_the_world(ijk: np.ndarray, ijk_to_ras: Any, parent: Any) -> np.ndarray:
    """World positions (n, 3) of voxels (n, 3) on a grid under a transform node."""
    to_world = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(parent, None, to_world)
    ras = np.c_[ijk, np.ones(len(ijk))] @ slicer.util.arrayFromVTKMatrix(ijk_to_ras).T
    return np.array([to_world.TransformPoint(*point[:3]) for point in ras])


def voxels_of_volume(mask: np.ndarray, volume: Any) -> np.ndarray:
    place = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(place)
    return in_the_world(np.argwhere(mask)[:, ::-1], place, volume.GetParentTransformNode())


def voxels_of_segment(segmentation: Any, segment: str) -> np.ndarray:
    """From the segment's own label map, without Slicer's resampling."""
    from vtk.util.numpy_support import vtk_to_numpy

    image, place = segmentation.GetBinaryLabelmapInternalRepresentation(segment), vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(place)
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    ijk = np.argwhere(array)[:, ::-1] + np.array(image.GetExtent())[::2]
    return in_the_world(ijk, place, segmentation.GetParentTransformNode())


@pytest.mark.parametrize("grid", ["axial", "oblique"])
@pytest.mark.parametrize(
    "volume_under, segmentation_under",
    [
        (None, (0.0, 2, (10.0, 0.0, 0.0))),
        ((0.0, 2, (10.0, 0.0, 0.0)), None),
        ((20.0, 2, (5.0, -3.0, 8.0)), None),
        (None, (20.0, 0, (5.0, -3.0, 8.0))),
        ((20.0, 2, (5.0, -3.0, 8.0)), (-35.0, 1, (-7.0, 2.0, 1.0))),
        ("tilt", (15.0, 0, (1.0, 2.0, 3.0))),
    ],
)
def test_mask_lies_in_the_world_where_it_lay_on_the_volume_whatever_the_transforms(
    scene: Any, grid: str, volume_under: Any, segmentation_under: Any
) -> None:
    from SAHLoRASlicer.segmentations import add_segment

    other, volume = volume_node(grid), volume_node(grid)
    chosen, first = add_segment(some_mask(), other)
    if volume_under == "tilt":
        tilt(volume)
    elif volume_under:
        volume.SetAndObserveTransformNodeID(turned(*volume_under).GetID())
    if segmentation_under:
        chosen.SetAndObserveTransformNodeID(turned(*segmentation_under).GetID())
    parents, before = (chosen.GetTransformNodeID(), volume.GetTransformNodeID()), voxels_of_segment(chosen, first)
    _, segment = add_segment(some_mask(), volume, segmentation=chosen)
    assert np.allclose(voxels_of_segment(chosen, segment), voxels_of_volume(some_mask(), volume), atol=1e-3)
    assert parents == (chosen.GetTransformNodeID(), volume.GetTransformNodeID())
    assert np.allclose(voxels_of_segment(chosen, first), before), "the segment that was there stays"


def bow(node: Any) -> None:
    """A transform that pushes slices to the right, the more the higher they lie (4 mm at 20 mm)."""
    points = [vtk.vtkPoints(), vtk.vtkPoints()]
    for z in range(-20, 41, 5):
        for x, y in ((-20, -60), (40, -60), (-20, -10), (40, -10)):
            points[0].InsertNextPoint(x, y, 56 + z)
            points[1].InsertNextPoint(x + 0.01 * max(z, 0) ** 2, y, 56 + z)
    put_under_spline(node, *points)


@pytest.mark.parametrize("grid, turn", [("axial", 0.0), ("oblique", 0.0), ("axial", 45.0)])
@pytest.mark.parametrize("way", ["volume", "segmentation", "both"])
def test_mask_is_bent_once_where_a_transform_between_volume_and_segmentation_bends(scene: Any, grid: str, turn: float, way: str) -> None:
    from SAHLoRASlicer.segmentations import add_segment

    volume, mask = volume_node(grid), np.zeros(SHAPE, np.uint8)
    mask[1:5, 3:13, 3:17] = 1
    place = GRIDS[grid].copy()
    place[:3, :3] = rotation(turn, 2) @ place[:3, :3]
    volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(place))
    chosen, _ = add_segment(mask, volume_node())
    if way != "segmentation":
        bow(volume)
    if way != "volume":
        bow(chosen)
        if way == "both":
            chosen.GetParentTransformNode().SetAndObserveTransformNodeID(turned(10.0, 2, (3.0, 2.0, 0.0)).GetID())
    _, segment = add_segment(mask, volume, segmentation=chosen)
    meant, found = voxels_of_volume(mask, volume), voxels_of_segment(chosen, segment)
    apart = np.linalg.norm(meant[:, None] - found[None], axis=2)
    half_a_slice = 2.7
    assert apart.min(0).max() < half_a_slice and apart.min(1).max() < half_a_slice
    assert np.abs(meant.mean(0) - found.mean(0)).max() < 1.0 and 0.85 < len(found) / len(meant) < 1.2


def surfaces(centre: tuple[float, float, float], radius: float = 6.0) -> tuple[Any, str]:
    """A segmentation of closed surfaces, as from STL files or RTSTRUCT: one ball."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "surfaces")
    node.CreateDefaultDisplayNodes()
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    ball = vtk.vtkSphereSource()
    ball.SetCenter(*centre)
    ball.SetRadius(radius)
    ball.SetThetaResolution(32)
    ball.SetPhiResolution(32)
    ball.Update()
    return node, node.AddSegmentFromClosedSurfaceRepresentation(ball.GetOutput(), "ball", [1.0, 0.0, 0.0])


def only_node_of_its_kind(node: Any) -> bool:
    return bool(node.GetScene().GetNumberOfNodesByClass(node.GetClassName()) == 1)


def test_mask_that_a_segmentation_of_surfaces_does_not_take_leaves_nothing_in_it(scene: Any) -> None:
    from SAHLoRASlicer.segmentations import add_segment

    chosen, ball = surfaces((7.0, -38.0, 66.0))
    with pytest.raises(RuntimeError, match="could not be put into"):
        add_segment(some_mask(), volume_node(), segmentation=chosen)
    segments = chosen.GetSegmentation()
    assert [segments.GetNthSegmentID(n) for n in range(segments.GetNumberOfSegments())] == [ball]
    assert scene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode") == 0


@pytest.mark.parametrize("under", [None, (25.0, 2, (4.0, -2.0, 3.0))])
@pytest.mark.parametrize("coarse_voxels_too", [False, True])
def test_annotation_that_is_a_surface_becomes_a_mask_on_the_scans_grid(scene: Any, under: Any, coarse_voxels_too: bool) -> None:
    from SAHLoRASlicer.segmentations import segment_array
    from SAHLoRASlicer.volumes import volume_from_array

    place = GRIDS["axial"].copy()
    place[:3, :3] = np.diag([-0.5, -0.5, 1.0])
    volume = volume_from_array(np.zeros((24, 60, 60), np.int16), place, "CT")
    centre = np.array((-2.0, -48.0, 68.0))
    chosen, ball = surfaces(tuple(centre))
    if coarse_voxels_too:
        assert chosen.GetSegmentation().CreateRepresentation("Binary labelmap")
    if under:
        chosen.SetAndObserveTransformNodeID(turned(*under).GetID())
        centre = rotation(under[0], under[1]) @ centre + np.array(under[2])
        volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.block([[place[:3, :3], (centre - (-15, -15, 12))[:, None]], [np.eye(4)[3:]]])))
    mask = segment_array(chosen, ball, volume)
    inside = np.linalg.norm(voxels_of_volume(np.ones(mask.shape), volume) - centre, axis=1).reshape(mask.shape) < 6.0
    assert 2 * (mask & inside).sum() / (mask.sum() + inside.sum()) > 0.97
    assert only_node_of_its_kind(chosen) and only_node_of_its_kind(chosen.GetDisplayNode())
    assert (chosen.GetSegmentation().GetSegment(ball).GetRepresentation("Binary labelmap") is not None) == coarse_voxels_too


def test_annotation_that_slicer_cannot_convert_is_told_and_not_stored_as_empty(scene: Any) -> None:
    from SAHLoRASlicer.segmentations import segment_array

    chosen, ball = surfaces((7.0, -38.0, 66.0))
    segments = chosen.GetSegmentation()
    contours = vtk.vtkPolyData()
    contours.DeepCopy(segments.GetSegment(ball).GetRepresentation("Closed surface"))
    segments.GetSegment(ball).RemoveRepresentation("Closed surface")
    segments.SetSourceRepresentationName("Planar contour")  # without the extension SlicerRT nothing converts them
    segments.GetSegment(ball).AddRepresentation("Planar contour", contours)
    with pytest.raises(RuntimeError, match="cannot make voxels of the segment, which is given as Planar contour"):
        segment_array(chosen, ball, volume_node())
    with pytest.raises(RuntimeError, match="not in its segmentation any more"):
        segment_array(chosen, "gone", volume_node())
    assert only_node_of_its_kind(chosen) and only_node_of_its_kind(chosen.GetDisplayNode())


def test_surface_without_a_point_is_an_empty_mask(scene: Any) -> None:
    from SAHLoRASlicer.segmentations import segment_array

    chosen, _ = surfaces((7.0, -38.0, 66.0))
    assert not segment_array(chosen, chosen.GetSegmentation().AddEmptySegment("none"), volume_node()).any()


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
