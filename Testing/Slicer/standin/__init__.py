"""A stand-in for Slicer's Qt layer outside Slicer: PySide6 speaks as PythonQt does, slicer-core is Slicer's real MRML.

It is as strict as PythonQt, and stricter where PythonQt only returns False: a property called like a method, an attribute that is not there, a signal
that is misspelt raise. `install()` puts qt, ctk and what slicer-core lacks of slicer into sys.modules.
"""
