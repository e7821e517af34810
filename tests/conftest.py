"""Puts the project's folder on the path, so that a test imports what it tests by its plain name."""

import os
import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent.parent))

# No deadlines: nothing in this suite asserts on time. `short` is what .ci/run uses on the other Python versions.
settings.register_profile("full", deadline=None)
settings.register_profile("short", deadline=None, max_examples=20)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "full"))
