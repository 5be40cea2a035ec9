"""The module `qt`: Qt classes whose properties are Python attributes and whose `connect` takes a signal's C++ signature."""

from __future__ import annotations

import functools
import inspect
import re
import types
from typing import Any

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

#: Qt classes that the modules use; anything else is missing on purpose, so that its use is noticed.
WIDGETS = [
    "QWidget",
    "QLabel",
    "QPushButton",
    "QCheckBox",
    "QComboBox",
    "QProgressBar",
    "QPlainTextEdit",
    "QTableWidget",
    "QHeaderView",
    "QDoubleSpinBox",
    "QSpinBox",
    "QLineEdit",
    "QToolButton",
    "QMenu",
    "QMessageBox",
    "QFileDialog",
    "QFrame",
    "QGroupBox",
    "QSlider",
    "QTabWidget",
    "QListWidget",
    "QTextEdit",
    "QSplitter",
]
LAYOUTS = ["QVBoxLayout", "QHBoxLayout", "QFormLayout", "QGridLayout"]
OBJECTS = ["QProcess", "QTimer"]
PLAIN_CORE = ["QProcessEnvironment", "QUrl", "QSettings", "QSize", "Qt", "QFile", "QDir", "QFileInfo", "QEvent", "QByteArray", "QObject"]
PLAIN_GUI = ["QIcon", "QDesktopServices", "QPixmap", "QColor", "QPainter", "QFont"]
PLAIN_WIDGETS = ["QTableWidgetItem", "QSizePolicy", "QApplication", "QStyleFactory"]

#: Properties that Qt reads through a virtual method: PySide6 takes a Python property of that name for an override, and recursion is endless.
VIRTUAL = ("sizeHint", "minimumSizeHint")

_get, _set = QtCore.QObject.property, QtCore.QObject.setProperty
made: dict[str, type] = {}
kept: list[Any] = []
#: Not empty while a .ui file is read: PySide6 puts every child into an attribute of the root then.
loading: list[str] = []


def _signal(sender: Any, signature: str) -> Any:
    """The bound signal of a C++ signature; raises where there is none, as no click would ever come."""
    name, _, arguments = signature.rstrip(")").partition("(")
    meta = sender.metaObject()
    wanted = bytes(QtCore.QMetaObject.normalizedSignature(signature).data()).decode()
    known = [
        bytes(meta.method(n).methodSignature().data()).decode()
        for n in range(meta.methodCount())
        if meta.method(n).methodType() == QtCore.QMetaMethod.Signal
    ]
    loose = [text.replace("PyObject", "*") for text in known]
    if wanted not in known and not any(
        text.partition("(")[0] == name and "PyObject" in original for text, original in zip(loose, known, strict=True)
    ):
        raise AttributeError(
            f"{type(sender).__name__} has no signal {signature}; it has {', '.join(k for k in known if k.startswith(name)) or known}"
        )
    signal = QtCore.QObject.__getattribute__(sender, name)
    try:
        return signal[arguments] if arguments else signal
    except (KeyError, IndexError, TypeError):
        return signal


def _fewer(slot: Any) -> Any:
    """PythonQt calls a slot with as many arguments as it takes."""
    try:
        parameters = inspect.signature(slot).parameters.values()
    except (TypeError, ValueError):
        return slot
    if any(p.kind == p.VAR_POSITIONAL for p in parameters):
        return slot
    count = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    return lambda *arguments: slot(*arguments[:count])


class _Signal:
    """`widget.clicked.connect(f)`."""

    def __init__(self, sender: Any, name: str) -> None:
        self._sender, self._name = sender, name

    def connect(self, slot: Any) -> bool:
        wrapped = _fewer(slot)
        _table(self._sender).setdefault((self._name, slot), []).append(wrapped)
        QtCore.QObject.__getattribute__(self._sender, self._name).connect(wrapped)
        return True

    def disconnect(self, slot: Any) -> bool:
        wrapped = _table(self._sender).get((self._name, slot))
        if not wrapped:
            return False
        QtCore.QObject.__getattribute__(self._sender, self._name).disconnect(wrapped.pop())
        return True


def _table(sender: Any) -> dict[Any, list[Any]]:
    found = sender.__dict__.get("_connections")
    if found is None:
        found = sender.__dict__["_connections"] = {}
    return found


def _connect(sender: Any, signature: str, slot: Any) -> bool:
    wrapped = _fewer(slot)
    _table(sender).setdefault((signature, slot), []).append(wrapped)
    _signal(sender, signature).connect(wrapped)
    return True


def _disconnect(sender: Any, signature: str, slot: Any) -> bool:
    wrapped = _table(sender).get((signature, slot))
    if not wrapped:
        return False
    _signal(sender, signature).disconnect(wrapped.pop())
    return True


def _getattribute(self: Any, name: str) -> Any:
    if name == "connect":
        return functools.partial(_connect, self)
    if name == "disconnect":
        return functools.partial(_disconnect, self)
    found = QtCore.QObject.__getattribute__(self, name)
    return _Signal(self, name) if isinstance(found, QtCore.SignalInstance) else found


def _setattr(base: type, self: Any, name: str, value: Any) -> None:
    if not name.startswith("_") and not loading and not isinstance(getattr(type(self), name, None), (property, QtCore.Property)):
        raise AttributeError(f"{type(self).__name__} has no property {name}, and PythonQt makes no attributes on Qt's objects")
    base.__setattr__(self, name, value)


def _property(name: str) -> property:
    def write(self: Any, value: Any) -> None:
        if not _set(self, name, value):
            raise ValueError(f"{type(self).__name__}.{name} cannot be {value!r}")

    return property(lambda self: _get(self, name), write)


def _int_property(name: str, setter: str) -> property:
    return property(lambda self: _get(self, name), lambda self, value: getattr(self, setter)(value))


def adapt(base: type) -> type:
    """A subclass of a Qt class that speaks as PythonQt does."""
    members: dict[str, Any] = {
        "__getattribute__": _getattribute,
        "__setattr__": lambda self, name, value: _setattr(base, self, name, value),
        "className": lambda self: base.__name__,
    }
    meta = base.staticMetaObject
    for n in range(meta.propertyCount()):
        name = meta.property(n).name()
        own = isinstance(getattr(base, name, None), QtCore.Property)  # written in Python: an attribute already
        if name not in ("parent", "objectName", "singleShot", *VIRTUAL) and not own:
            members[name] = _property(name)
    members["name"] = members["objectName"] = property(lambda self: _get(self, "objectName"), lambda self, value: _set(self, "objectName", value))
    made[base.__name__] = type(base.__name__, (base,), members)
    return made[base.__name__]


def module() -> types.ModuleType:
    """The module qt."""
    qt = types.ModuleType("qt")
    for names, where, change in (
        (WIDGETS + LAYOUTS, QtWidgets, adapt), (OBJECTS, QtCore, adapt),
        (PLAIN_CORE, QtCore, None), (PLAIN_GUI, QtGui, None), (PLAIN_WIDGETS, QtWidgets, None),
    ):  # fmt: skip
        for name in names:
            base = getattr(where, name)
            setattr(qt, name, change(base) if change else base)
    table = qt.QTableWidget  # type: ignore[attr-defined]
    table.rowCount, table.columnCount = _int_property("rowCount", "setRowCount"), _int_property("columnCount", "setColumnCount")
    qt.QUiLoader = UiLoader  # type: ignore[attr-defined]
    return qt


class UiLoader(QtUiTools.QUiLoader):
    """Makes our classes, and connects the signals of a .ui file that carry a scene."""

    def createWidget(self, name: str, parent: Any = None, object_name: str = "") -> Any:
        if name not in made:
            raise AttributeError(f"The stand-in has no widget {name}")
        widget = made[name](parent)
        widget.setObjectName(object_name)
        kept.append(widget)
        return widget

    def load(self, file: Any, parent: Any = None) -> Any:
        import xml.etree.ElementTree

        path = file.fileName()
        loading.append(path)
        before = QtCore.qInstallMessageHandler(lambda *unused: None)  # signals with a vtkMRMLScene are connected below
        try:
            root = super().load(file, parent)
        finally:
            QtCore.qInstallMessageHandler(before)
            loading.pop()
        tree = xml.etree.ElementTree.parse(path).getroot()
        self._check_properties(tree)
        for connection in tree.iter("connection"):
            sender, receiver = (_named(root, connection.findtext(end)) for end in ("sender", "receiver"))
            signal, slot = connection.findtext("signal"), connection.findtext("slot")
            getattr(sender, re.sub(r"\(.*", "", signal)).connect(getattr(receiver, re.sub(r"\(.*", "", slot)))
        return root

    @staticmethod
    def _check_properties(tree: Any) -> None:
        """Slicer says nothing of a property that a widget does not have; here it raises."""
        for widget in tree.iter("widget"):
            for given in widget.findall("property"):
                cls, name = made[widget.get("class")], given.get("name")
                if given.get("stdset") != "0" and cls.staticMetaObject.indexOfProperty(name) < 0:
                    raise AttributeError(f"{widget.get('name')}: {widget.get('class')} has no property {name}")


def _named(root: Any, name: str) -> Any:
    return root if root.objectName == name else next(child for child in root.findChildren(QtCore.QObject) if child.objectName == name)
