"""Draws README's views.png anew, off screen, with Slicer's own views: the sample and its segmentation, axial, sagittal and in 3D.

    sahlora segment Resources/Phantom/SyntheticASAH.nrrd --adapter asah-cp-lora --format seg.nrrd --output out
    python Testing/Slicer/views.py Resources/Phantom/SyntheticASAH.nrrd out/SyntheticASAH/mask.seg.nrrd Resources/Screenshots/views.png

Needs an environment of its own with trame-slicer[standalone] (it pins another slicer-core than the tests), EGL, and no display.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

SIZE = (460, 460)
#: HU shown.
WINDOW = (0.0, 100.0)


def main(scan: Path, mask: Path, picture: Path) -> None:
    """Three views side by side, through the middle of the slice with most blood."""
    import slicer
    import vtk
    from trame_slicer.core import SlicerApp
    from trame_slicer.views import DirectViewFactory, ViewLayoutDefinition, ViewProps, ViewType
    from vtk.util.numpy_support import vtk_to_numpy

    app = SlicerApp()
    slicer.mrmlScene = app.scene
    app.view_manager.register_factory(DirectViewFactory(do_render_offscreen=True))

    def view(tag: str, kind: Any, **properties: str) -> Any:
        made = app.view_manager.create_view(ViewLayoutDefinition(singleton_tag=tag, view_type=kind, properties=ViewProps(**properties)))
        made.interactor().UpdateSize(*SIZE)
        return made

    axial = view("Red", ViewType.SLICE_VIEW, orientation="Axial")
    sagittal = view("Yellow", ViewType.SLICE_VIEW, orientation="Sagittal")
    space = view("1", ViewType.THREE_D_VIEW)
    volume = app.io_manager.load_volumes([str(scan)])[0]
    segmentation = app.io_manager.load_segmentation(str(mask))
    display = volume.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(*WINDOW)
    segmentation.CreateClosedSurfaceRepresentation()
    shown = segmentation.GetDisplayNode()
    shown.SetOpacity2DFill(0.4)
    app.display_manager.show_volume_in_slice_background(volume)

    labels = segmentation.GetBinaryLabelmapInternalRepresentation(segmentation.GetSegmentation().GetNthSegmentID(0))
    blood = vtk_to_numpy(labels.GetPointData().GetScalars()).reshape(labels.GetDimensions()[::-1]) > 0
    k = int(blood.sum(axis=(1, 2)).argmax())
    j, i = (int(np.median(axis)) for axis in np.nonzero(blood[k]))
    to_world = vtk.vtkMatrix4x4()
    labels.GetImageToWorldMatrix(to_world)
    extent = labels.GetExtent()
    ras = to_world.MultiplyPoint((i + extent[0], j + extent[2], k + extent[4], 1.0))
    for each, height in ((axial, ras[2]), (sagittal, ras[0])):
        each.fit_view_to_content()
        each.set_slice_value(height)
    space.reset_view()
    images = [_grab(each) for each in (axial, sagittal, space)]
    beside = vtk.vtkImageAppend()
    for image in images:
        beside.AddInputData(image)
    writer = vtk.vtkPNGWriter()
    writer.SetFileName(str(picture))
    writer.SetInputConnection(beside.GetOutputPort())
    writer.Write()


def _grab(view: Any) -> Any:
    import vtk

    view.render()
    grabbed = vtk.vtkWindowToImageFilter()
    grabbed.SetInput(view.render_window())
    grabbed.ReadFrontBufferOff()
    grabbed.Update()
    return grabbed.GetOutput()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit("Name the scan, its mask (.seg.nrrd) and the picture to write.")
    main(*(Path(word) for word in sys.argv[1:]))
