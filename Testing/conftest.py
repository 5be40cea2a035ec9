"""Tests side by side (pytest -n): each process takes its share of the processor's cores, and so do the processes that its tests start.

Two processes of two threads each on two cores take several times as long as two of one thread. To be settled before torch is loaded.
"""

import os

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
