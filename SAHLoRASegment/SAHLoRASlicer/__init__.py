"""What both modules need from Slicer: volumes and segmentations ↔ files, the background job, dependencies, tables and plots.

Nothing heavy is imported with this package: torch, SimpleITK and the like come at the moment of use, or in the background process only.
"""

import sys


def forget_packages() -> None:
    """Have both packages imported anew when a module is reloaded; a developer's button."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("SAHLoRASlicer", "SAHLoRALib")]:
        del sys.modules[name]
