"""Training cases handed over from one module to the other, within the scene.

A case is a volume with a segment. The list lives in a hidden singleton node as pairs of node references, so it is saved with the scene, follows the
nodes when a scene is imported, and forgets nodes that are gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TAG = "SAHLoRATrainingCases"
_VOLUME, _SEGMENTATION, _SEGMENT = "volume", "segmentation", "segment"


@dataclass(frozen=True)
class TrainingCase:
    """volume, segmentation: nodes. segment: the segment's id."""

    volume: Any
    segmentation: Any
    segment: str


def add_case(volume: Any, segmentation: Any, segment_id: str) -> bool:
    """Add a case; False where it is in the list already."""
    if any((c.volume, c.segmentation, c.segment) == (volume, segmentation, segment_id) for c in cases()):
        return False
    node = _node()
    n = int(node.GetParameter("count") or 0)
    node.SetNodeReferenceID(f"{_VOLUME}{n}", volume.GetID())
    node.SetNodeReferenceID(f"{_SEGMENTATION}{n}", segmentation.GetID())
    node.SetParameter(f"{_SEGMENT}{n}", segment_id)
    node.SetParameter("count", str(n + 1))
    return True


def cases() -> list[TrainingCase]:
    """All cases whose nodes and segments are still there."""
    node = _node(make=False)
    found = []
    for n in range(int(node.GetParameter("count") or 0) if node else 0):
        volume, segmentation = node.GetNodeReference(f"{_VOLUME}{n}"), node.GetNodeReference(f"{_SEGMENTATION}{n}")
        segment = node.GetParameter(f"{_SEGMENT}{n}")
        if volume and segmentation and segmentation.GetSegmentation().GetSegment(segment):
            found.append(TrainingCase(volume, segmentation, segment))
    return found


def remove_case(case: TrainingCase) -> None:
    """Take a case off the list; its nodes stay."""
    keep = [c for c in cases() if c != case]
    node = _node()
    for n in range(int(node.GetParameter("count") or 0)):
        node.RemoveNodeReferenceIDs(f"{_VOLUME}{n}")
        node.RemoveNodeReferenceIDs(f"{_SEGMENTATION}{n}")
        node.UnsetParameter(f"{_SEGMENT}{n}")
    node.SetParameter("count", "0")
    for kept in keep:
        add_case(kept.volume, kept.segmentation, kept.segment)


def _node(make: bool = True) -> Any:
    import slicer

    node = slicer.mrmlScene.GetSingletonNode(TAG, "vtkMRMLScriptedModuleNode")
    if node is None and make:
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        node.SetSingletonTag(TAG)
        node.SetName(TAG)
        node.SetHideFromEditors(True)
        node = slicer.mrmlScene.AddNode(node)
    return node
