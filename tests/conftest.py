"""Tests run in one process a core, so each keeps to one thread: threads that compete make everything slower."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
