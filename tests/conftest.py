"""Puts the project's folder on the path, so that a test imports what it tests by its plain name."""

import os
import sys
import tempfile
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent.parent))

# In memory where there is such a place: thousands of commits to a shared disk are most of the suite's time.
if os.access("/dev/shm", os.W_OK):
    tempfile.tempdir = "/dev/shm"

# No deadlines: nothing in this suite asserts on time. `short` is what .ci/run uses on the other Python versions.
settings.register_profile("full", deadline=None)
settings.register_profile("short", deadline=None, max_examples=20)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "full"))
