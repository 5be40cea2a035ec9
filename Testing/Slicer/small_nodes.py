"""Small volumes on grids of every kind, a mask on them, and where their voxels lie in the world."""

from __future__ import annotations

from typing import Any

import numpy as np
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
