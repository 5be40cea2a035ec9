"""Masks → segments, with name, terminology, colour, 3D surface and a place in the subject hierarchy."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from .volumes import local_matrix, set_grid

SEGMENT_NAME = "Haemorrhage"
COLOR = (0.85, 0.12, 0.12)
_TYPE = "Segmentation category and type - 3D Slicer General Anatomy list~SCT^49755003^Morphologically Altered Structure~SCT^50960005^Hemorrhage~^^"
_REGIONS = "Anatomic codes - DICOM master list"
#: SNOMED CT: haemorrhage; and haemorrhage in the subarachnoid space, for models that were trained on nothing else.
HAEMORRHAGE = f"{_TYPE}~{_REGIONS}~^^~^^"
SUBARACHNOID = f"{_TYPE}~{_REGIONS}~SCT^35951006^Subarachnoid space~^^"

#: Slicer's name for a segment as voxels.
_VOXELS = "Binary labelmap"


def add_segment(
    mask: np.ndarray,
    volume: Any,
    ijk_to_ras: np.ndarray | None = None,
    segmentation: Any = None,
    name: str = SEGMENT_NAME,
    terminology: str = HAEMORRHAGE,
) -> tuple[Any, str]:
    """Put a mask (k, j, i) into the scene as a new segment; returns the segmentation node and the segment's id.

    ijk_to_ras: None where the mask is on the volume's own grid, else its place in the world. segmentation: None makes a new node; an existing node
    keeps its segments, and the new one gets a name of its own ("Haemorrhage 2") where the name is taken. Whatever transforms volume and segmentation
    are under, the mask lies in the world where it lay on the volume. Raises RuntimeError where the mask cannot be put in; nothing new stays then.
    """
    import slicer

    own_grid = ijk_to_ras is None
    new = segmentation is None
    parent = volume.GetParentTransformNode() if own_grid else None
    if segmentation is None:
        segmentation = new_segmentation(volume, parent)
    elif not segmentation.GetDisplayNode():
        segmentation.CreateDefaultDisplayNodes()
    matrix = local_matrix(volume) if ijk_to_ras is None else ijk_to_ras
    label = _label_node(*_moved(mask, matrix, parent, segmentation.GetParentTransformNode()), segmentation)
    try:
        segments = segmentation.GetSegmentation()
        if new:
            segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume if own_grid else label)
            if not own_grid:
                segmentation.SetNodeReferenceID(segmentation.GetReferenceImageGeometryReferenceRole(), volume.GetID())
        segment = slicer.vtkSegment()
        segment.SetName(free_name(segments, name))
        segment.SetColor(*COLOR)
        segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), terminology)
        segment_id = segments.GenerateUniqueSegmentID("SAHLoRA")
        segments.AddSegment(segment, segment_id)
        if mask.any():  # an empty label map is refused; no haemorrhage is a result too, an empty segment
            try:
                _import_label(label, segmentation, segment_id)
            except RuntimeError:
                segments.RemoveSegment(segment_id)
                if new:
                    slicer.mrmlScene.RemoveNode(segmentation)
                raise
    finally:
        slicer.mrmlScene.RemoveNode(label)
    with contextlib.suppress(AttributeError):
        segmentation.GetDisplayNode().SetSegmentOpacity2DFill(segment_id, 0.4)
    segmentation.CreateClosedSurfaceRepresentation()
    return segmentation, segment_id


def why_unusable(segmentation: Any) -> str:
    """A sentence where no mask can be added to this segmentation, else empty; None is a new one."""
    if segmentation is None:
        return ""
    source = segmentation.GetSegmentation().GetSourceRepresentationName()
    if source == _VOXELS:
        return ""
    return (
        f"The output segmentation {segmentation.GetName()} takes no masks, since its source is {source}: choose New segmentation, or make "
        "Binary labelmap its source (module Segmentations, Representations)."
    )


def new_segmentation(volume: Any, parent_transform: Any = None) -> Any:
    """An empty segmentation of this volume, in its study and under its transform."""
    import slicer

    name = slicer.mrmlScene.GenerateUniqueName(f"{volume.GetName()} haemorrhage")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(parent_transform.GetID() if parent_transform else None)
    put_beside(node, volume)
    return node


def put_beside(node: Any, volume: Any) -> None:
    """In the subject hierarchy the node goes where the volume is: the same study of a DICOM patient, the same folder."""
    import slicer

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    if hierarchy is None:
        return
    beside, item = hierarchy.GetItemByDataNode(volume), hierarchy.GetItemByDataNode(node)
    if beside and not item:
        hierarchy.CreateItem(hierarchy.GetItemParent(beside), node)
    elif beside:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(beside))


def free_name(segments: Any, name: str) -> str:
    """The name, or with 2, 3 … after it where a segment has it."""
    candidate, n = name, 1
    while segments.GetSegmentIdBySegmentName(candidate):
        n += 1
        candidate = f"{name} {n}"
    return candidate


def segment_array(segmentation: Any, segment_id: str, volume: Any) -> np.ndarray:
    """(k, j, i) mask of a segment on the volume's grid, transforms of both respected; all zero for an empty segment.

    Surfaces and contours are converted by Slicer. Raises RuntimeError, in words, where the segment is gone or cannot be converted.
    """
    import slicer

    segments = segmentation.GetSegmentation()
    segment, source, voxels = segments.GetSegment(segment_id), segments.GetSourceRepresentationName(), _VOXELS
    if segment is None:
        raise RuntimeError("The segment is not in its segmentation any more: choose another one.")
    if source != voxels and (shape := segment.GetRepresentation(source)) is not None and shape.GetNumberOfPoints():
        return _converted(segments, segment_id, segmentation.GetTransformNodeID(), volume)
    if _is_empty(segment):
        return np.zeros(volume.GetImageData().GetDimensions()[::-1], np.uint8)
    return slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment_id, volume)


def _is_empty(segment: Any) -> bool:
    """Whether there is no label map, or none with voxels."""
    binary = segment.GetRepresentation(_VOXELS)
    return binary is None or binary.GetPointData().GetScalars() is None


def _converted(segments: Any, segment_id: str, transform_id: str | None, volume: Any) -> np.ndarray:
    """The mask of a segment that is a surface or contours, on the volume's grid. A copy is converted, so the user's own stays as it is."""
    import slicer

    copy = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "SAHLoRA copy")
    try:
        copy.SetHideFromEditors(True)
        copy.SetAndObserveTransformNodeID(transform_id)
        own, source = copy.GetSegmentation(), segments.GetSourceRepresentationName()
        own.SetSourceRepresentationName(source)
        own.CopySegmentFromSegmentation(segments, segment_id)
        own.GetSegment(segment_id).RemoveRepresentation(_VOXELS)  # of whatever grid
        copy.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        if not own.CreateRepresentation(_VOXELS) or _is_empty(own.GetSegment(segment_id)):
            raise RuntimeError(
                f"Slicer cannot make voxels of the segment, which is given as {source}: create its Binary labelmap in the module Segmentations "
                "(Representations), make it the source, and try again."
            )
        return slicer.util.arrayFromSegmentBinaryLabelmap(copy, segment_id, volume)
    finally:
        slicer.mrmlScene.RemoveNode(copy.GetDisplayNode())
        slicer.mrmlScene.RemoveNode(copy)


def _moved(mask: np.ndarray, ijk_to_ras: np.ndarray, parent: Any, other: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mask and IJK to RAS in the coordinates of another parent transform. parent, other: transform nodes, None for the world.

    Slicer's own import would apply the transform between the two twice.
    """
    import slicer
    import vtk

    if parent is other:
        return mask, ijk_to_ras
    there, matrix = vtk.vtkGeneralTransform(), vtk.vtkTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(parent, other, there)
    if slicer.vtkMRMLTransformNode.IsGeneralTransformLinear(there, matrix):
        return mask, slicer.util.arrayFromVTKMatrix(matrix.GetMatrix()) @ ijk_to_ras
    back = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(other, parent, back)
    return _bent(mask, ijk_to_ras, there, back) if mask.any() else (mask, ijk_to_ras)


def _bent(mask: np.ndarray, ijk_to_ras: np.ndarray, there: Any, back: Any) -> tuple[np.ndarray, np.ndarray]:
    """The mask resampled (nearest voxel) where a transform bends it, on a grid of the same steps around what is in it. back: the inverse of there."""
    import slicer
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

    from_ras = np.linalg.inv(ijk_to_ras)
    inside = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in (2, 1, 0)]
    steps = [np.linspace(found[0] - 0.5, found[-1] + 0.5, 9) for found in inside]
    box = np.stack(np.meshgrid(*steps, [1.0], indexing="ij"), -1).reshape(-1, 4)
    ras = [(*there.TransformPoint(*point[:3]), 1.0) for point in box @ ijk_to_ras.T]
    reached = (np.array(ras) @ from_ras.T)[:, :3]
    first, last = np.floor(reached.min(0)).astype(int) - 1, np.ceil(reached.max(0)).astype(int) + 1

    image = vtk.vtkImageData()
    image.SetDimensions(mask.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(mask, np.uint8).ravel(), deep=True))
    to_voxel = vtk.vtkGeneralTransform()
    for part in (slicer.util.vtkMatrixFromArray(from_ras), back, slicer.util.vtkMatrixFromArray(ijk_to_ras)):
        to_voxel.Concatenate(part)
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(image)
    reslice.SetResliceTransform(to_voxel)
    reslice.SetInterpolationModeToNearestNeighbor()
    reslice.SetOutputOrigin(0.0, 0.0, 0.0)
    reslice.SetOutputSpacing(1.0, 1.0, 1.0)
    reslice.SetOutputExtent(*np.stack((first, last), -1).ravel().tolist())
    reslice.Update()
    matrix = ijk_to_ras.copy()
    matrix[:3, 3] += ijk_to_ras[:3, :3] @ first
    return vtk_to_numpy(reslice.GetOutput().GetPointData().GetScalars()).reshape((last - first + 1)[::-1]).copy(), matrix


def _label_node(mask: np.ndarray, ijk_to_ras: np.ndarray, segmentation: Any) -> Any:
    """A label map under the segmentation's own transform."""
    import slicer

    label = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "SAHLoRA mask")
    label.SetHideFromEditors(True)
    set_grid(label, np.ascontiguousarray(mask, dtype=np.uint8), ijk_to_ras)
    label.SetAndObserveTransformNodeID(segmentation.GetTransformNodeID())
    return label


def _import_label(label: Any, segmentation: Any, segment_id: str) -> None:
    import slicer
    import vtk

    ids = vtk.vtkStringArray()
    ids.InsertNextValue(segment_id)
    if not slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(label, segmentation, ids):
        raise RuntimeError("The mask could not be put into the segmentation.")
