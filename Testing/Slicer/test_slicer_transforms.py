"""Volumes and segmentations under transforms: a mask lies in the world where it lay on its scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from small_nodes import GRIDS, SHAPE, in_the_world, rotation, some_mask, turned, volume_node, voxels_of_volume


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


def bow(node: Any) -> None:
    """A transform that pushes slices to the right, the more the higher they lie (4 mm at 20 mm)."""
    points = [vtk.vtkPoints(), vtk.vtkPoints()]
    for z in range(-20, 41, 5):
        for x, y in ((-20, -60), (40, -60), (-20, -10), (40, -10)):
            points[0].InsertNextPoint(x, y, 56 + z)
            points[1].InsertNextPoint(x + 0.01 * max(z, 0) ** 2, y, 56 + z)
    put_under_spline(node, *points)


def put_under_spline(node: Any, source: Any, target: Any) -> None:
    """A transform above the node that brings one set of points to the other."""
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetBasisToR()
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    made = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "spline")
    made.SetAndObserveTransformToParent(spline)
    node.SetAndObserveTransformNodeID(made.GetID())


def voxels_of_segment(segmentation: Any, segment: str) -> np.ndarray:
    """From the segment's own label map, without Slicer's resampling."""
    from vtk.util.numpy_support import vtk_to_numpy

    image, place = segmentation.GetBinaryLabelmapInternalRepresentation(segment), vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(place)
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    ijk = np.argwhere(array)[:, ::-1] + np.array(image.GetExtent())[::2]
    return in_the_world(ijk, place, segmentation.GetParentTransformNode())


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
