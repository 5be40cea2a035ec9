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
    keeps its segments, and the new one gets a name of its own ("Haemorrhage 2") where the name is taken.
    """
    import slicer

    own_grid = ijk_to_ras is None
    new = segmentation is None
    if segmentation is None:
        segmentation = new_segmentation(volume, volume.GetParentTransformNode() if own_grid else None)
    elif not segmentation.GetDisplayNode():
        segmentation.CreateDefaultDisplayNodes()
    label = _label_node(mask, volume, ijk_to_ras)
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
            _import_label(label, segmentation, segment_id)
    finally:
        slicer.mrmlScene.RemoveNode(label)
    with contextlib.suppress(AttributeError):
        segmentation.GetDisplayNode().SetSegmentOpacity2DFill(segment_id, 0.4)
    segmentation.CreateClosedSurfaceRepresentation()
    return segmentation, segment_id


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
    """(k, j, i) mask of a segment on the volume's grid, transforms of both respected; all zero for an empty segment."""
    import slicer

    segment = segmentation.GetSegmentation().GetSegment(segment_id)
    binary = segment.GetRepresentation("Binary labelmap") if segment else None
    if binary is None or binary.GetPointData().GetScalars() is None:
        return np.zeros(volume.GetImageData().GetDimensions()[::-1], np.uint8)
    return slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment_id, volume)


def _label_node(mask: np.ndarray, volume: Any, ijk_to_ras: np.ndarray | None) -> Any:
    import slicer

    label = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "SAHLoRA mask")
    label.SetHideFromEditors(True)
    set_grid(label, np.ascontiguousarray(mask, dtype=np.uint8), local_matrix(volume) if ijk_to_ras is None else ijk_to_ras)
    if ijk_to_ras is None:
        label.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    return label


def _import_label(label: Any, segmentation: Any, segment_id: str) -> None:
    import slicer
    import vtk

    ids = vtk.vtkStringArray()
    ids.InsertNextValue(segment_id)
    if not slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(label, segmentation, ids):
        raise RuntimeError(f"The mask could not be put into the segmentation {segmentation.GetName()}.")
