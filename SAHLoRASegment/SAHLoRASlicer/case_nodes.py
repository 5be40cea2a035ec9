"""Cases of a table ↔ nodes of the scene: a volume with a segment becomes two files, a case's files become a volume with a segmentation.

A volume that stands for a case carries the case's name and folder as attributes, so that a case is opened once only and an annotation finds its way
back. Nothing here knows how a case folder looks; paths come in and go out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import segmentations, volumes

CASE, FOLDER, SEGMENT = "SAHLoRA.case", "SAHLoRA.caseFolder", "SAHLoRA.segment"
#: Marks what is shown of a result and goes when the next one is shown.
RESULT = "SAHLoRA.result"
PREDICTION_COLOR = (0.1, 0.45, 0.9)
#: HU that acute to subacute blood can have; painting is limited to them.
BLOOD_HU = (30.0, 100.0)


@dataclass(frozen=True)
class OpenCase:
    """A case in the scene. segment: the id of the segment that is the haemorrhage."""

    volume: Any
    segmentation: Any
    segment: str


@contextmanager
def case_files(volume: Any, segmentation: Any, segment: str) -> Iterator[tuple[Path, Path]]:
    """The scan and its annotation as NRRD files on one grid, named ct and mask, in a temporary folder that goes with the block.

    Raises OSError or RuntimeError where they cannot be written.
    """
    import slicer

    with tempfile.TemporaryDirectory(prefix="SAHLoRA-case-", ignore_cleanup_errors=True) as folder:
        image, mask = Path(folder) / "ct.nrrd", Path(folder) / "mask.nrrd"
        if volumes.write_volume(volume, image):
            array, matrix = segmentations.segment_array(segmentation, segment, volume), volumes.world_matrix(volume)[0]
        else:  # a bent volume was resampled: the annotation goes onto the grid that was written
            hardened, matrix = volumes.read_array(image)
            reference = volumes.volume_from_array(hardened, matrix, "SAHLoRA hardened copy")
            try:
                array = segmentations.segment_array(segmentation, segment, reference)
            finally:
                slicer.mrmlScene.RemoveNode(reference)
        volumes.write_array(np.ascontiguousarray(array, np.uint8), matrix, mask)
        yield image, mask


def find_open(name: str, folder: Path) -> OpenCase | None:
    """The case's nodes, where it is in the scene already."""
    import slicer

    for volume in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        if (volume.GetAttribute(CASE), volume.GetAttribute(FOLDER)) == (name, str(folder)):
            segmentation = volume.GetNodeReference(SEGMENT)
            if segmentation is not None:
                return OpenCase(volume, segmentation, _segment_of(segmentation))
    return None


def open_case(case: Any, folder: Path) -> OpenCase:
    """Put a case into the scene, or find it there. case: a `cases.Case` of the core. Raises SAHLoRAError, in words."""
    if (there := find_open(case.case, folder)) is not None:
        return there
    volume, ct = _scan_node(case)
    mask = case.read_mask(ct) if case.mask is not None and case.mask.exists() else np.zeros(ct.shape, bool)
    segmentation, segment = segmentations.add_segment(_stored(mask, ct), volume)
    segmentation.SetAttribute(SEGMENT, segment)
    volume.SetAttribute(CASE, case.case)
    volume.SetAttribute(FOLDER, str(folder))
    volume.SetNodeReferenceID(SEGMENT, segmentation.GetID())
    return OpenCase(volume, segmentation, segment)


def show_side_by_side(case: Any, prediction: Path | None) -> tuple[Any, Any, Any]:
    """Load a case for looking: annotation in the left view, prediction in the right, both at the slice with most haemorrhage.

    prediction: a mask file on the scan's grid, or None. What was shown before goes. Returns volume, annotation and prediction (or None).
    Raises SAHLoRAError, in words.
    """
    from SAHLoRALib.cases import read_annotation

    hide_results()
    volume, ct = _scan_node(case)
    volume.SetAttribute(RESULT, case.case)
    mask = case.read_mask(ct) if case.mask is not None else np.zeros(ct.shape, bool)
    annotation, _ = segmentations.add_segment(_stored(mask, ct), volume, name="Annotation")
    annotation.SetName(f"{case.case} annotation")
    annotation.SetAttribute(RESULT, case.case)
    predicted = None
    if prediction is not None and prediction.is_file():
        found = read_annotation(prediction, ct)
        predicted, segment = segmentations.add_segment(_stored(found, ct), volume, name="Out-of-fold prediction")
        predicted.SetName(f"{case.case} prediction")
        predicted.SetAttribute(RESULT, case.case)
        predicted.GetSegmentation().GetSegment(segment).SetColor(*PREDICTION_COLOR)
        mask = mask if mask.any() else found
    _show_in(annotation, "Red")
    _show_in(predicted, "Yellow")
    side_by_side(volume, _most_blood(volume, _stored(mask, ct)))
    return volume, annotation, predicted


def hide_results() -> None:
    """Take what is shown of a result out of the scene."""
    import slicer

    for kind in ("vtkMRMLSegmentationNode", "vtkMRMLScalarVolumeNode"):
        for node in slicer.util.getNodesByClass(kind):
            if node.GetAttribute(RESULT):
                slicer.mrmlScene.RemoveNode(node)


def side_by_side(volume: Any, ras: tuple[float, float, float]) -> None:
    """Two axial views that move together, at this place; nothing without a window."""
    import slicer

    volumes.show_scan(volume)
    manager = slicer.app.layoutManager()
    if manager is None:
        return
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView)
    for name in ("Red", "Yellow"):
        widget = manager.sliceWidget(name)
        if widget is None:
            continue
        widget.mrmlSliceNode().SetOrientation("Axial")
        widget.mrmlSliceCompositeNode().SetLinkedControl(True)
        widget.sliceLogic().FitSliceToAll()
        widget.mrmlSliceNode().JumpSliceByCentering(*ras)


def edit(opened: OpenCase) -> None:
    """Segment Editor on a case: its scan as source volume, its segment chosen, painting limited to what blood can measure."""
    import slicer

    volumes.show_scan(opened.volume)
    slicer.util.selectModule("SegmentEditor")
    editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
    editor.setSegmentationNode(opened.segmentation)
    editor.setSourceVolumeNode(opened.volume)
    editor.setCurrentSegmentID(opened.segment)
    node = editor.mrmlSegmentEditorNode()
    node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere)
    node.SetSourceVolumeIntensityMaskRange(*BLOOD_HU)
    node.SetSourceVolumeIntensityMask(True)


@contextmanager
def annotation_file(opened: OpenCase) -> Iterator[Path]:
    """The segment on the scan's own grid as a NRRD file, in a temporary folder that goes with the block."""
    with tempfile.TemporaryDirectory(prefix="SAHLoRA-case-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "mask.nrrd"
        array = segmentations.segment_array(opened.segmentation, opened.segment, opened.volume)
        volumes.write_array(np.ascontiguousarray(array, np.uint8), volumes.local_matrix(opened.volume), path)
        yield path


def _scan_node(case: Any) -> tuple[Any, Any]:
    """The scan as a volume node on its file's own grid, and the core's CTVolume."""
    ct = case.read_ct()
    array, matrix = volumes.image_array(ct.storage.image(np.rint(ct.hu).astype(np.int16)))
    node = volumes.volume_from_array(array, matrix, case.case)
    display = node.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(0.0, 80.0)  # the brain window
    return node, ct


def _stored(canonical: np.ndarray, ct: Any) -> np.ndarray:
    """(k, j, i) as the volume node has it."""
    return np.ascontiguousarray(ct.storage.to_stored(canonical))


def _segment_of(segmentation: Any) -> str:
    """The segment that was opened, or the first where a user replaced it."""
    segments = segmentation.GetSegmentation()
    known = segmentation.GetAttribute(SEGMENT) or ""
    return known if segments.GetSegment(known) else segments.GetNthSegmentID(0) if segments.GetNumberOfSegments() else ""


def _show_in(segmentation: Any, view: str) -> None:
    if segmentation is not None:
        segmentation.GetDisplayNode().AddViewNodeID(f"vtkMRMLSliceNode{view}")


def _most_blood(volume: Any, mask: np.ndarray) -> tuple[float, float, float]:
    """RAS of the middle of the slice where the mask is largest; the scan's middle for an empty mask."""
    counts = mask.sum(axis=(1, 2))
    k = int(counts.argmax()) if counts.any() else len(mask) // 2
    ijk = np.array([mask.shape[2] / 2, mask.shape[1] / 2, k, 1.0])
    ras = volumes.world_matrix(volume)[0] @ ijk
    return float(ras[0]), float(ras[1]), float(ras[2])
