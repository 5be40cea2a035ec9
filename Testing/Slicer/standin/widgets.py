"""The modules' ctk and qMRML widgets: what they look like from Python, drawn plainly."""

from __future__ import annotations

from typing import Any

import slicer
import slicer.util
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Signal

from . import pythonqt


def _value(name: str, kind: Any, default: Any, notify: str = "") -> Any:
    """A Qt property that is kept in the object and tells of changes."""
    key = f"_p_{name}"

    def get(self: Any) -> Any:
        return self.__dict__.get(key, default)

    def put(self: Any, value: Any) -> None:
        if get(self) != value:
            self.__dict__[key] = value
            self._changed()
            if notify:
                QtCore.QObject.__getattribute__(self, notify).emit(value)

    return Property(kind, get, put)


class _Widget(QtWidgets.QWidget):
    def _changed(self) -> None:
        pass


class ctkCollapsibleButton(_Widget):
    contentsCollapsed = Signal(bool)
    text = _value("text", str, "")
    collapsed = _value("collapsed", bool, False, "contentsCollapsed")
    _BAR = 22

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.setContentsMargins(0, self._BAR, 0, 0)

    def _changed(self) -> None:
        closed = bool(self.__dict__.get("_p_collapsed", False))
        for child in QtCore.QObject.children(self):
            if isinstance(child, QtWidgets.QWidget):
                child.setVisible(not closed)
        self.setMaximumHeight(self._BAR + 4 if closed else 16777215)
        self.update()

    def showEvent(self, event: Any) -> None:
        self._changed()
        super().showEvent(event)

    def paintEvent(self, event: Any) -> None:
        from PySide6.QtGui import QColor, QPainter

        painter = QPainter(self)
        width, height = QtWidgets.QWidget.size(self).width(), QtWidgets.QWidget.size(self).height()
        painter.setPen(QColor(190, 190, 190))
        painter.drawRect(0, 0, width - 1, height - 1)
        painter.fillRect(1, 1, width - 2, self._BAR - 4, QColor(226, 230, 236))
        painter.setPen(QColor(40, 40, 40))
        mark = "▸" if self.__dict__.get("_p_collapsed", False) else "▾"
        painter.drawText(8, 14, f"{mark}  {self.__dict__.get('_p_text', '')}")
        painter.end()


class ctkSliderWidget(_Widget):
    valueChanged = Signal(float)
    value = _value("value", float, 0.0, "valueChanged")
    minimum = _value("minimum", float, 0.0)
    maximum = _value("maximum", float, 100.0)
    singleStep = _value("singleStep", float, 1.0)
    decimals = _value("decimals", int, 2)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._bar, self._text = QtWidgets.QSlider(QtCore.Qt.Horizontal), QtWidgets.QLabel()
        row.addWidget(self._bar)
        row.addWidget(self._text)

    def _changed(self) -> None:
        low, high = self.__dict__.get("_p_minimum", 0.0), self.__dict__.get("_p_maximum", 100.0)
        value = self.__dict__.get("_p_value", 0.0)
        self._bar.setValue(int(99 * (value - low) / max(high - low, 1e-9)))
        self._text.setText(f"{value:.2f}")


class ctkPathLineEdit(_Widget):
    """As CTK's: a path that becomes empty is not told by currentPathChanged."""

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    currentPath = _value("currentPath", str, "")
    filters = _value("filters", int, 0)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._line = QtWidgets.QLineEdit()
        row.addWidget(self._line)
        row.addWidget(QtWidgets.QPushButton("…"))

    def _changed(self) -> None:
        path, valid = self.__dict__.get("_p_currentPath", ""), self.__dict__.get("_valid", False)
        self._line.setText(path)
        self.__dict__["_valid"] = bool(path)
        if path:
            QtCore.QObject.__getattribute__(self, "currentPathChanged").emit(path)
        if bool(path) != valid:
            QtCore.QObject.__getattribute__(self, "validInputChanged").emit(bool(path))


class qMRMLWidget(_Widget):
    mrmlSceneChanged = Signal(object)

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        QtCore.QObject.__getattribute__(self, "mrmlSceneChanged").emit(scene)


class qMRMLNodeComboBox(_Widget):
    currentNodeChanged = Signal(object)
    nodeTypes = _value("nodeTypes", "QStringList", [])
    noneEnabled = _value("noneEnabled", bool, False)
    noneDisplay = _value("noneDisplay", str, "None")
    addEnabled = _value("addEnabled", bool, True)
    removeEnabled = _value("removeEnabled", bool, True)
    renameEnabled = _value("renameEnabled", bool, False)
    showChildNodeTypes = _value("showChildNodeTypes", bool, True)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._box = QtWidgets.QComboBox()
        row.addWidget(self._box)
        self._nodes: list[Any] = []
        self._scene = self._current = None
        self._box.currentIndexChanged.connect(lambda n: self.setCurrentNode(self._nodes[n]) if 0 <= n < len(self._nodes) else None)

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent) if scene else ():
            scene.AddObserver(event, lambda *unused: self._fill())
        self._fill()

    def _fill(self) -> None:
        exact = not self.__dict__.get("_p_showChildNodeTypes", True)
        nodes: list[Any] = [None] if self.__dict__.get("_p_noneEnabled", False) else []
        for kind in self.__dict__.get("_p_nodeTypes", []):
            found = slicer.util.getNodesByClass(kind, self._scene)
            nodes += [n for n in found if not n.GetHideFromEditors() and (not exact or n.GetClassName() == kind)]
        self._nodes = nodes
        self._box.blockSignals(True)
        self._box.clear()
        self._box.addItems([n.GetName() if n else self.__dict__.get("_p_noneDisplay", "None") for n in nodes])
        self._box.blockSignals(False)
        self.setCurrentNode(self._current if self._current in nodes else None)

    def _changed(self) -> None:
        if self._scene:
            self._fill()

    def currentNode(self) -> Any:
        return self._current

    def setCurrentNode(self, node: Any) -> None:
        self._box.blockSignals(True)
        self._box.setCurrentIndex(self._nodes.index(node) if node in self._nodes else -1)
        self._box.blockSignals(False)
        if node is not self._current:
            self._current = node
            QtCore.QObject.__getattribute__(self, "currentNodeChanged").emit(node)


class qMRMLSegmentSelectorWidget(_Widget):
    currentNodeChanged = Signal(object)
    currentSegmentChanged = Signal(str)
    noneEnabled = _value("noneEnabled", bool, False)
    segmentationNodeSelectorVisible = _value("segmentationNodeSelectorVisible", bool, True)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._nodes, self._segments = qMRMLNodeComboBox(), QtWidgets.QComboBox()
        self._nodes.nodeTypes, self._nodes.noneEnabled = ["vtkMRMLSegmentationNode"], True
        row.addWidget(self._nodes)
        row.addWidget(self._segments)
        self._nodes.currentNodeChanged.connect(self._fill)
        self._segments.currentIndexChanged.connect(
            lambda n: QtCore.QObject.__getattribute__(self, "currentSegmentChanged").emit(self.currentSegmentID())
        )

    def setMRMLScene(self, scene: Any) -> None:
        self._nodes.setMRMLScene(scene)

    def _fill(self, node: Any) -> None:
        self._segments.clear()
        segmentation = node.GetSegmentation() if node else None
        for n in range(segmentation.GetNumberOfSegments() if segmentation else 0):
            self._segments.addItem(segmentation.GetNthSegment(n).GetName(), segmentation.GetNthSegmentID(n))
        QtCore.QObject.__getattribute__(self, "currentNodeChanged").emit(node)

    def currentNode(self) -> Any:
        return self._nodes.currentNode()

    def currentSegmentID(self) -> str:
        return str(self._segments.currentData() or "")

    def setCurrentNode(self, node: Any) -> None:
        self._nodes.setCurrentNode(node)

    def setCurrentSegmentID(self, segment: str) -> None:
        self._segments.setCurrentIndex(self._segments.findData(segment))


CTK = [pythonqt.adapt(cls) for cls in (ctkCollapsibleButton, ctkSliderWidget, ctkPathLineEdit)]
QMRML = [pythonqt.adapt(cls) for cls in (qMRMLWidget, qMRMLNodeComboBox, qMRMLSegmentSelectorWidget)]
