"""Training cases handed over from one module to the other, within the scene.

A case is a volume with a segment. Its mark is a node reference from the segmentation to the volume, whose role names the segment: so it is saved with
the scene, follows the nodes when a scene is imported beside another, goes with its nodes, and is not copied with a clone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

_ROLE = "SAHLoRA.trainingVolume."
#: Until November 2026 the list lived in a singleton node of this tag, which an imported scene's own overwrote.
FORMER_LIST = "SAHLoRATrainingCases"


@dataclass(frozen=True)
class TrainingCase:
    """volume, segmentation: nodes. segment: the segment's id."""

    volume: Any
    segmentation: Any
    segment: str


def add_case(volume: Any, segmentation: Any, segment_id: str) -> bool:
    """Add a case; False where it is in the list already."""
    if TrainingCase(volume, segmentation, segment_id) in cases():
        return False
    segmentation.SetNodeReferenceID(_role(segment_id), volume.GetID())
    return True


def cases() -> list[TrainingCase]:
    """All cases whose nodes and segments are still there."""
    import slicer

    _take_over_former_list()
    found = []
    for segmentation in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        segments = segmentation.GetSegmentation()
        for segment in [segments.GetNthSegmentID(n) for n in range(segments.GetNumberOfSegments())]:
            volume = segmentation.GetNodeReference(_role(segment))
            if volume is not None:
                found.append(TrainingCase(volume, segmentation, segment))
    return found


def remove_case(case: TrainingCase) -> None:
    """Take a case off the list; its nodes stay."""
    case.segmentation.RemoveNodeReferenceIDs(_role(case.segment))


def _role(segment: str) -> str:
    # The scene's file separates roles by ; and : and spaces, which ids may have.
    return _ROLE + quote(segment, safe="")


def _take_over_former_list() -> None:
    """The cases of a scene that an earlier version saved; its list goes."""
    import slicer

    scene = slicer.mrmlScene
    node = None if scene.IsBatchProcessing() else scene.GetSingletonNode(FORMER_LIST, "vtkMRMLScriptedModuleNode")
    if node is None:
        return
    for n in range(int(node.GetParameter("count") or 0)):
        volume, segmentation, segment = (
            node.GetNodeReference(f"volume{n}"),
            node.GetNodeReference(f"segmentation{n}"),
            node.GetParameter(f"segment{n}"),
        )
        if volume and segmentation and segmentation.GetSegmentation().GetSegment(segment):
            segmentation.SetNodeReferenceID(_role(segment), volume.GetID())
    scene.RemoveNode(node)
