"""ScriptedLoadableModule, parameterNodeWrapper and i18n as far as the modules need them, for when Slicer's own Python files are not at hand."""

from __future__ import annotations

import json
import types
import typing
import unittest
from typing import Any

import qt
import slicer
import slicer.util
import vtk


class ScriptedLoadableModule:
    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__


class ScriptedLoadableModuleWidget:
    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.parent = parent
        self.layout = parent.layout()

    def setup(self) -> None:
        pass

    def resourcePath(self, name: str) -> str:
        from pathlib import Path

        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / name)


class ScriptedLoadableModuleLogic:
    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self) -> Any:
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
            node.UnRegister(None)
            node.SetSingletonTag(self.moduleName)
            node.SetModuleName(self.moduleName)
            node = slicer.mrmlScene.AddNode(node)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    def delayDisplay(self, message: str, msec: int = 0) -> None:
        slicer.app.processEvents()


class WithinRange:
    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum


def parameterNodeWrapper(cls: type) -> type:
    """Fields become properties kept in the MRML node: nodes as references, the rest as JSON text."""
    hints = typing.get_type_hints(cls, include_extras=True)
    defaults = {name: getattr(cls, name, None) for name in hints}

    def make(name: str, hint: Any) -> property:
        limits = next((a for a in getattr(hint, "__metadata__", ()) if isinstance(a, WithinRange)), None)
        is_node = isinstance(hint, type) and issubclass(hint, vtk.vtkObject)

        def read(self: Any) -> Any:
            if is_node:
                return self.parameterNode.GetNodeReference(name)
            text = self.parameterNode.GetParameter(name)
            return json.loads(text) if text else defaults[name]

        def write(self: Any, value: Any) -> None:
            if is_node:
                self.parameterNode.SetNodeReferenceID(name, value.GetID() if value else None)
                return
            if limits and not limits.minimum <= value <= limits.maximum:
                raise ValueError(f"{name} = {value} is not within {limits.minimum} and {limits.maximum}")
            self.parameterNode.SetParameter(name, json.dumps(value))

        return property(read, write)

    members = {name: make(name, hint) for name, hint in hints.items()} | _WRAPPER
    return type(cls.__name__, (), members)


def _init(self: Any, node: Any) -> None:
    self.parameterNode, self._guis, self._updating = node, {}, False


def _connect_gui(self: Any, ui: Any) -> int:
    found = {w.property("SlicerParameterName"): w for w in vars(ui).values() if w.property("SlicerParameterName")}
    tag = len(self._guis) + 1
    undo = []

    def show(*unused: Any) -> None:
        if self._updating:
            return
        self._updating = True
        try:
            for name, widget in found.items():
                _write_widget(widget, getattr(self, name))
        finally:
            self._updating = False

    for name, widget in found.items():
        if not hasattr(type(self), name):
            raise ValueError(f"The parameter node has no parameter {name}")

        def taken(name: str = name, widget: Any = widget) -> None:
            if not self._updating:
                setattr(self, name, _read_widget(widget))

        slot = (lambda f: lambda: f())(taken)
        signal = _widget_signal(widget)
        signal.connect(slot)
        undo.append((signal, slot))
    show()
    self._guis[tag] = (self.AddObserver(vtk.vtkCommand.ModifiedEvent, show), undo)
    return tag


def _disconnect_gui(self: Any, tag: int) -> None:
    observer, undo = self._guis.pop(tag)
    self.RemoveObserver(observer)
    for signal, slot in undo:
        signal.disconnect(slot)


def _widget_signal(widget: Any) -> Any:
    name = {"qMRMLNodeComboBox": "currentNodeChanged", "QCheckBox": "toggled", "QLineEdit": "textChanged"}
    return getattr(widget, name.get(widget.className(), "valueChanged"))


def _read_widget(widget: Any) -> Any:
    kind = widget.className()
    if kind == "qMRMLNodeComboBox":
        return widget.currentNode()
    return widget.checked if kind == "QCheckBox" else widget.text if kind == "QLineEdit" else widget.value


def _write_widget(widget: Any, value: Any) -> None:
    kind = widget.className()
    if kind == "qMRMLNodeComboBox":
        widget.setCurrentNode(value)
    elif kind == "QCheckBox":
        widget.checked = value
    elif kind == "QLineEdit":
        if widget.text != value:
            widget.text = value
    else:
        widget.value = value


_WRAPPER: dict[str, Any] = {
    "__init__": _init,
    "connectGui": _connect_gui,
    "disconnectGui": _disconnect_gui,
    "AddObserver": lambda self, event, slot, priority=0.0: self.parameterNode.AddObserver(event, slot, priority),
    "RemoveObserver": lambda self, tag: self.parameterNode.RemoveObserver(tag),
    "StartModify": lambda self: self.parameterNode.StartModify(),
    "EndModify": lambda self, was: self.parameterNode.EndModify(was),
}


def modules() -> dict[str, types.ModuleType]:
    """slicer.ScriptedLoadableModule, slicer.parameterNodeWrapper, slicer.i18n."""
    base, wrapper, i18n = (types.ModuleType(f"slicer.{name}") for name in ("ScriptedLoadableModule", "parameterNodeWrapper", "i18n"))
    for cls in (ScriptedLoadableModule, ScriptedLoadableModuleWidget, ScriptedLoadableModuleLogic, ScriptedLoadableModuleTest):
        setattr(base, cls.__name__, cls)
    wrapper.parameterNodeWrapper, wrapper.WithinRange = parameterNodeWrapper, WithinRange  # type: ignore[attr-defined]
    i18n.tr, i18n.translate = (lambda text: text), (lambda context, text: text)  # type: ignore[attr-defined]
    assert qt is not None
    return {module.__name__: module for module in (base, wrapper, i18n)}
