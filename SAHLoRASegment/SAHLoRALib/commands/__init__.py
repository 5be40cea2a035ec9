"""The commands of ``sahlora``, one module each: `Arguments`, a frozen dataclass from which the flags are made, and `run`.

Modules are imported when their command is called. They keep heavy imports inside `run`, so that ``--help`` answers at once.
"""
