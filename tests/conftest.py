"""Puts the project's folder on the path, and what tests share, so that a test imports them by their plain names."""

import atexit
import compileall
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

# Of Hypothesis, too, pytest would rewrite every assert: a second and a half at the first start in a new environment.
others = [finder for finder in sys.meta_path if type(finder).__name__ != "AssertionRewritingHook"]
with mock.patch.object(sys, "meta_path", others):
    import hypothesis.strategies  # noqa: F401
    from hypothesis import settings

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS.parent), str(TESTS / "support"), str(TESTS / "tools")]

# Behind `nohup` and `&` these are ignored, and so they would be in every program under test, which is as it should be.
for name in ("SIGINT", "SIGHUP", "SIGQUIT"):
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)

# Compiled once, also where the environment forbids Python to write that down: hundreds of programs are started.
compileall.compile_dir(TESTS.parent, maxlevels=0, quiet=2)
sys.dont_write_bytecode = False  # so are the tests, for the processes that run them

from parallel import pytest_addoption, pytest_runtestloop  # noqa: E402, F401
from room import Room  # noqa: E402
from vocabulary import World  # noqa: E402
from wire import KINDS, Rig, ServerProcess, ServerThread, running  # noqa: E402

# In memory where there is such a place: thousands of commits to a shared disk are most of the suite's time.
if os.access("/dev/shm", os.W_OK):
    tempfile.tempdir = "/dev/shm"

# Servers under test are not remembered in the home of whoever runs the tests.
home = tempfile.TemporaryDirectory()
atexit.register(home.cleanup)
os.environ["HOME"] = os.environ["USERPROFILE"] = home.name

# No deadlines: nothing in this suite asserts on time. `short` is what .ci/run uses on the other Python versions.
settings.register_profile("full", deadline=None)
settings.register_profile("short", deadline=None, max_examples=10)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "full"))


@pytest.fixture(params=KINDS)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """A real server, with the best selector of this system, with `select`, which every system has, and over TLS."""
    with running(tmp_path, **KINDS[request.param]) as rig:
        yield rig


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of accounts that is not there yet, alone in its folder."""
    return tmp_path / "vessages.db"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerThread]:
    """A server that runs while the test is about what connects to it."""
    with ServerThread(tmp_path) as server:
        yield server


@pytest.fixture
def server_process(tmp_path: Path) -> Iterator[ServerProcess]:
    """The server as a person starts it: for tests that stop it, or are about the program itself."""
    with ServerProcess(tmp_path) as server:
        yield server


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    room = Room(tmp_path)
    yield room
    room.close()
