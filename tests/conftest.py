"""Puts the project's folder on the path, and what tests share, so that a test imports them by their plain names."""

import os
import sys
import tempfile
from pathlib import Path

from hypothesis import settings

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS.parent), str(TESTS / "support"), str(TESTS / "tools")]

# In memory where there is such a place: thousands of commits to a shared disk are most of the suite's time.
if os.access("/dev/shm", os.W_OK):
    tempfile.tempdir = "/dev/shm"

# No deadlines: nothing in this suite asserts on time. `short` is what .ci/run uses on the other Python versions.
settings.register_profile("full", deadline=None)
settings.register_profile("short", deadline=None, max_examples=20)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "full"))
