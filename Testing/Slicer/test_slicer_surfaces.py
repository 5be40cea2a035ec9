"""Segmentations that hold surfaces or contours in the place of voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from small_nodes import GRIDS, rotation, some_mask, turned, volume_node, voxels_of_volume


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
