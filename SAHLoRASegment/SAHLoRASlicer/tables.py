"""Volumes in mL as a table, areas by slice as a plot."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

COLUMNS = ("Volume", "Segment", "mL", "mL by Segment Statistics", "pieces", "largest mL", "slices with blood", "model", "adapter", "warnings")
#: Slicer's Segment Statistics is said to differ from here on.
_DIFFERS = 0.01
_PLUGIN = "LabelmapSegmentStatisticsPlugin"


def volume_table(table: Any, volume_name: str, segment_name: str, report: Mapping[str, Any], statistics_ml: float | None) -> Any:
    """Add a row to the table of volumes; table: None makes one. report: the core's report.json. statistics_ml: Segment Statistics' figure or None."""
    import slicer
    import vtk

    if table is None:
        table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", slicer.mrmlScene.GenerateUniqueName("SAHLoRA volumes"))
        for name in COLUMNS:
            column = vtk.vtkStringArray()
            column.SetName(name)
            table.AddColumn(column)
    components = report.get("components") or []
    adapter = report.get("adapter") or {}
    cells = (
        volume_name,
        segment_name,
        f"{report['total_ml']:.2f}",
        "" if statistics_ml is None else f"{statistics_ml:.2f}",
        str(len(components)),
        f"{max((c['ml'] for c in components), default=0.0):.2f}",
        f"{len(report.get('slices') or [])} of {report['shape'][0]}",
        report["model"]["name"],
        adapter.get("name", ""),
        " ".join(report.get("warnings") or []),
    )
    row = table.AddEmptyRow()
    for column, text in enumerate(cells):
        table.SetCellText(row, column, text)
    return table


def statistics_ml(segmentation: Any, segment_id: str) -> float | None:
    """mL by Slicer's own Segment Statistics (voxels times the spacing of the grid), None where that module is not there or finds nothing.

    It works on a parameter node of its own, which is never in the scene: the module's is the user's, with settings and results.
    """
    try:
        import SegmentStatistics
    except ImportError:
        return None
    import slicer

    parameters = slicer.vtkMRMLScriptedModuleNode()

    class Logic(SegmentStatistics.SegmentStatisticsLogic):  # type: ignore[name-defined,misc]
        def getParameterNode(self) -> Any:
            if self.parameterNode is None:
                self.setParameterNode(parameters)
            return self.parameterNode

    try:
        logic = Logic()
        parameters.SetParameter("Segmentation", segmentation.GetID())
        parameters.SetParameter("visibleSegmentsOnly", "False")
        for plugin in logic.plugins:
            name = type(plugin).__name__
            parameters.SetParameter(f"{name}.enabled", str(name == _PLUGIN))
        if segmentation.GetParentTransformNode() is None:
            logic.updateStatisticsForSegment(segment_id)
        else:
            logic.computeStatistics()  # of all segments, with the transform
        value = logic.getStatistics().get((segment_id, f"{_PLUGIN}.volume_cm3"))
    except Exception:  # a second opinion, which must not cost the first
        logging.exception("SAHLoRA: Segment Statistics")
        return None
    return None if value is None else float(value)


def difference_in_words(core_ml: float, slicer_ml: float | None) -> str:
    """A sentence where the two volumes differ, else empty."""
    if slicer_ml is None or abs(slicer_ml - core_ml) <= max(_DIFFERS * core_ml, 0.05):
        return ""
    return (
        f"Segment Statistics says {slicer_ml:.2f} mL, SAHLoRA {core_ml:.2f} mL: it counts voxels of the grid's spacing, SAHLoRA takes the true "
        "distance of the slices (gantry tilt, uneven gaps)."
    )


def area_plot(volume_name: str, report: Mapping[str, Any]) -> Any:
    """A chart of the haemorrhage's area (cm²) over all slices, with its table and series."""
    import slicer

    scene = slicer.mrmlScene
    slices = np.arange(1, report["shape"][0] + 1, dtype=float)
    areas = np.zeros(len(slices))
    for found in report.get("slices") or []:
        areas[int(found["slice"]) - 1] = float(found["area_cm2"])
    name = scene.GenerateUniqueName(f"{volume_name} haemorrhage by slice")
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", name)
    slicer.util.updateTableFromArray(table, (slices, areas), ["Slice (from below)", "Area (cm²)"])
    series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", "Haemorrhage area")
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("Slice (from below)")
    series.SetYColumnName("Area (cm²)")
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
    series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
    series.SetColor(0.85, 0.12, 0.12)
    chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", name)
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    chart.SetTitle(f"{report['total_ml']:.1f} mL")
    chart.SetXAxisTitle("Slice (from below)")
    chart.SetYAxisTitle("Area (cm²)")
    chart.SetLegendVisibility(False)
    return chart


def show_chart(chart: Any) -> None:
    """In the plot view, and with the layout that has one; nothing without a window."""
    import slicer

    manager = slicer.app.layoutManager()
    if manager is None:
        return
    logic = slicer.modules.plots.logic()
    logic.ShowChartInLayout(chart)


def show_table(table: Any) -> None:
    """In a table view beside the slice views; nothing without a window."""
    import slicer

    manager = slicer.app.layoutManager()
    if manager is None:
        return
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpTableView)
    logic = slicer.app.applicationLogic()
    logic.GetSelectionNode().SetActiveTableID(table.GetID())
    logic.PropagateTableSelection()
