"""Charts in the plot view: points and lines, each with a table of its own, filled again and again while a training goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .tables import show_chart

#: Told apart also by people who see red and green alike (Okabe and Ito).
COLORS = ((0.0, 0.45, 0.7), (0.84, 0.37, 0.0), (0.0, 0.62, 0.45), (0.8, 0.47, 0.65), (0.94, 0.89, 0.26), (0.34, 0.71, 0.91))
GREY = (0.45, 0.45, 0.45)
#: A curve is thinned to so many points.
MOST_POINTS = 600


class Chart:
    """One chart node with its series. Nodes are made when they are first needed, and again where the scene has lost them."""

    def __init__(self, name: str, x_title: str, y_title: str) -> None:
        self.name, self._x, self._y = name, x_title, y_title
        self._chart: Any = None
        self._series: dict[str, tuple[Any, Any]] = {}

    @property
    def node(self) -> Any:
        """The vtkMRMLPlotChartNode."""
        import slicer

        if self._chart is None or not slicer.mrmlScene.IsNodePresent(self._chart):
            self._series = {}
            chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", slicer.mrmlScene.GenerateUniqueName(self.name))
            chart.SetTitle(self.name)
            chart.SetXAxisTitle(self._x)
            chart.SetYAxisTitle(self._y)
            self._chart = chart
        return self._chart

    def put(
        self,
        name: str,
        x: Sequence[float],
        y: Sequence[float],
        *,
        color: tuple[float, float, float] = COLORS[0],
        points: bool = True,
        line: bool = False,
        dashed: bool = False,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Make a series, or give it new values. x, y: numbers of equal count, those that are not a number left out. labels: shown over a point."""
        import slicer

        chart = self.node
        table, series = self._series.get(name) or (None, None)
        if table is None or not (slicer.mrmlScene.IsNodePresent(table) and slicer.mrmlScene.IsNodePresent(series)):
            table, series = self._new_series(name)
            series.SetColor(*color)
            series.SetMarkerStyle(series.MarkerStyleCircle if points else series.MarkerStyleNone)
            series.SetLineStyle(series.LineStyleNone if not line else series.LineStyleDash if dashed else series.LineStyleSolid)
        across, up = np.asarray(x, float), np.asarray(y, float)
        kept = thinned(np.flatnonzero(np.isfinite(across) & np.isfinite(up)))
        with slicer.util.NodeModify(table):  # a plot view must not see the table without its columns
            slicer.util.updateTableFromArray(table, (across[kept], up[kept]), [self._x, self._y])
            if labels is not None:
                _add_text(table, "label", [labels[n] for n in kept])
        if labels is not None:
            series.SetLabelColumnName("label")
        if not chart.HasPlotSeriesNodeID(series.GetID()):
            chart.AddAndObservePlotSeriesNodeID(series.GetID())

    def values(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """x and y of a series, as they stand in its table."""
        import slicer

        table = self._series[name][0]
        return slicer.util.arrayFromTableColumn(table, self._x), slicer.util.arrayFromTableColumn(table, self._y)

    def clear(self) -> None:
        """Take all series with their tables out of the scene; the chart stays."""
        import slicer

        for nodes in self._series.values():
            for node in nodes:
                if slicer.mrmlScene.IsNodePresent(node):
                    slicer.mrmlScene.RemoveNode(node)
        self._series = {}

    def forget(self) -> None:
        """The scene closes and takes the nodes with it."""
        self._chart, self._series = None, {}

    def show(self) -> None:
        """In the plot view, with a layout that has one; nothing without a window."""
        show_chart(self.node)

    def _new_series(self, name: str) -> tuple[Any, Any]:
        import slicer

        table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", slicer.mrmlScene.GenerateUniqueName(f"{self.name}: {name}"))
        series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", name)
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetPlotType(series.PlotTypeScatter)
        series.SetXColumnName(self._x)
        series.SetYColumnName(self._y)
        self._series[name] = (table, series)
        return table, series


def thinned(places: np.ndarray) -> np.ndarray:
    """At most MOST_POINTS of these places, evenly, the last among them."""
    if len(places) <= MOST_POINTS:
        return places
    return places[np.unique(np.linspace(0, len(places) - 1, MOST_POINTS).round().astype(int))]


def _add_text(table: Any, name: str, texts: Sequence[str]) -> None:
    import vtk

    column = vtk.vtkStringArray()
    column.SetName(name)
    for text in texts:
        column.InsertNextValue(text)
    table.AddColumn(column)
