"""Volume nodes → files for the worker, and arrays on a volume's grid back into the scene.

Slicer's coordinates are RAS, files are LPS. A file gets the volume's place in the world, parent transforms included: a gantry tilt, which Slicer's
DICOM reader puts into an acquisition transform, thus reaches the core as true slice positions. Voxels are never resampled unless the transform bends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

#: A transform that leaves straight lines this straight (mm) over the whole volume counts as affine.
STRAIGHT_MM = 0.1
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def why_unusable(volume: Any) -> str:
    """A sentence where this node cannot be segmented, else empty. It looks at the node only, not at its voxels."""
    if volume is None:
        return "Select a head CT as input volume."
    image = volume.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None:
        return f"The volume {volume.GetName()} is empty; load its data."
    if image.GetNumberOfScalarComponents() != 1:
        return f"The volume {volume.GetName()} has several components a voxel, so it is no CT."
    if min(image.GetDimensions()) < 2:
        return f"The volume {volume.GetName()} has a single slice only."
    return ""


def world_matrix(volume: Any) -> tuple[np.ndarray, float]:
    """IJK to world RAS (4, 4) with all parent transforms, as the affine map that fits best, and the largest miss in mm (0 for affine transforms)."""
    import slicer
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    local = slicer.util.arrayFromVTKMatrix(matrix)
    if volume.GetParentTransformNode() is None:
        return local, 0.0
    to_world = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(volume.GetParentTransformNode(), None, to_world)
    last = np.array(volume.GetImageData().GetDimensions()) - 1
    steps = np.stack(np.meshgrid(*(np.linspace(0, n, 5) for n in last), indexing="ij"), -1).reshape(-1, 3)
    ijk = np.concatenate((steps, np.ones((len(steps), 1))), axis=1)
    world = np.array([to_world.TransformPoint(*point[:3]) for point in ijk @ local.T])
    fit, *_ = np.linalg.lstsq(ijk, world, rcond=None)
    miss = float(np.abs(ijk @ fit - world).max())
    return np.vstack((fit.T, [0.0, 0.0, 0.0, 1.0])), miss


def write_volume(volume: Any, path: Path) -> bool:
    """Write the voxels as NRRD in world coordinates. Returns whether the file has the volume's own grid.

    It has not where a parent transform bends the volume (an acquisition transform of unevenly spaced slices, a deformation): then a hardened copy is
    resampled and written, and masks come back on that copy's grid. The volume itself is never changed.
    """
    import slicer

    matrix, miss = world_matrix(volume)
    if miss <= STRAIGHT_MM:
        write_array(slicer.util.arrayFromVolume(volume), matrix, path)
        return True
    copy = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "SAHLoRA hardened copy")
    try:
        copy.SetHideFromEditors(True)
        copy.CopyContent(volume, True)
        copy.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        copy.HardenTransform()
        write_array(slicer.util.arrayFromVolume(copy), world_matrix(copy)[0], path)
    finally:
        slicer.mrmlScene.RemoveNode(copy)
    return False


def write_array(array: np.ndarray, ijk_to_ras: np.ndarray, path: Path) -> None:
    """array: (k, j, i) as Slicer gives it. Shear, which stands for gantry tilt, is kept: NRRD stores the three steps as they are."""
    import SimpleITK as sitk

    ijk_to_lps = _RAS_TO_LPS @ ijk_to_ras
    lengths = np.linalg.norm(ijk_to_lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(lengths.tolist())
    image.SetDirection((ijk_to_lps[:3, :3] / lengths).ravel().tolist())
    image.SetOrigin(ijk_to_lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path))


def read_array(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(k, j, i) array and IJK to RAS of an image file that the core wrote."""
    import SimpleITK as sitk

    return image_array(sitk.ReadImage(str(path)))


def image_array(image: Any) -> tuple[np.ndarray, np.ndarray]:
    """(k, j, i) array and IJK to RAS of a SimpleITK image."""
    import SimpleITK as sitk

    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image), _RAS_TO_LPS @ matrix


def volume_from_array(array: np.ndarray, ijk_to_ras: np.ndarray, name: str, parent_transform: Any = None) -> Any:
    """A new scalar volume node in the scene, with display nodes."""
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", slicer.mrmlScene.GenerateUniqueName(name))
    set_grid(node, array, ijk_to_ras)
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(parent_transform.GetID() if parent_transform else None)
    return node


def set_grid(node: Any, array: np.ndarray, ijk_to_ras: np.ndarray) -> None:
    """Voxels and place of a volume node."""
    import slicer

    slicer.util.updateVolumeFromArray(node, array)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.asarray(ijk_to_ras, float)))


def local_matrix(volume: Any) -> np.ndarray:
    """IJK to RAS without parent transforms."""
    import slicer
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def show_scan(volume: Any) -> None:
    """The volume behind the slice views. Where one showed another, all turn to its planes and move to where it lies; else they stay as they are."""
    import slicer

    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    # Without a window there is no layout manager, and turning the views would ask it all the same.
    fit = slicer.app.layoutManager() is not None and any(view.GetBackgroundVolumeID() != volume.GetID() for view in views)
    slicer.util.setSliceViewerLayers(background=volume, fit=fit, rotateToVolumePlane=fit)


def show_probability(array: np.ndarray, volume: Any, ijk_to_ras: np.ndarray | None) -> Any:
    """The map of probabilities as a volume in warm colours, nothing drawn below 5 %. ijk_to_ras: None for the volume's own grid."""
    import slicer

    own = ijk_to_ras is None
    name = f"{volume.GetName()} haemorrhage probability"
    node = volume_from_array(
        array.astype(np.float32), local_matrix(volume) if own else ijk_to_ras, name, volume.GetParentTransformNode() if own else None
    )
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeWarm1")
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(0.0, 1.0)
    display.ApplyThresholdOn()
    display.SetLowerThreshold(0.05)
    show_scan(volume)
    slicer.util.setSliceViewerLayers(foreground=node, foregroundOpacity=0.4)
    return node
