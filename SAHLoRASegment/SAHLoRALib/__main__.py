"""``python -m SAHLoRALib`` is the command ``sahlora``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
