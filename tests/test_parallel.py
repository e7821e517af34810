"""Several processes that run the tests are as one, and none is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import parallel
import pytest
from wire import PATIENCE

CONFTEST = "from parallel import pytest_addoption, pytest_runtestloop\n"

ALL_KINDS = """
import os, pytest

@pytest.mark.parametrize("number", range(60))
def test_number(number, request):
    request.node.user_properties.append(("process", os.getpid()))
    print("said", number)
    assert number not in (20, 50)

@pytest.fixture
def broken():
    yield
    raise ValueError("in teardown")

def test_broken(broken): pass

@pytest.mark.skip(reason="not today")
def test_skipped(): pass

@pytest.mark.xfail(strict=True)
def test_expected(): assert False
"""

DYING = """
import os, pytest

@pytest.mark.parametrize("number", range(60))
def test_number(number):
    if number == 40:
        os._exit(0)
"""

WAITING = """
import os, socket, pytest

@pytest.fixture
def watch():
    with socket.create_connection(("127.0.0.1", int(os.environ["PORT"]))) as watch:
        yield watch
        watch.sendall(b"cleared up")

@pytest.mark.parametrize("number", range(60))
def test_number(number, watch):
    watch.sendall(b"running ")
    watch.recv(1)
"""


forks = pytest.mark.skipif(sys.platform != "linux", reason="such a system runs all in one process")


def start(folder: Path, source: str, *args: str, **environ: str) -> subprocess.Popen[str]:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(source)
    support = str(Path(parallel.__file__).parent)
    environ = {**os.environ, "PYTHONPATH": support, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environ}
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args)
    out, errors = subprocess.PIPE, subprocess.STDOUT
    return subprocess.Popen(command, cwd=folder, env=environ, text=True, stdout=out, stderr=errors)


def run(folder: Path, source: str, *args: str) -> tuple[int, str]:
    with start(folder, source, *args) as process:
        said, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, said


@forks
def test_the_reports_are_those_of_one_process(tmp_path: Path) -> None:
    seen = []
    for number in (1, 2):
        code, said = run(tmp_path, ALL_KINDS, "--junitxml=results.xml", f"--processes={number}")
        assert "2 failed, 59 passed, 1 skipped, 1 xfailed, 1 error" in said
        assert "[100%]" in said
        results = ET.parse(tmp_path / "results.xml")
        assert len({found.attrib["value"] for found in results.iter("property")}) == number
        cases = [
            (case.attrib["name"], [(part.tag, part.attrib, part.text) for part in case if part.tag != "properties"])
            for case in results.iter("testcase")
        ]
        sections, _, summary = said.partition(" short test summary info ")
        shown = sorted(line for line in sections.splitlines() if not line.endswith("%]"))
        seen.append((code, sorted(cases, key=str), shown, sorted(summary.splitlines()[1:-1])))
    assert seen[0] == seen[1]


@forks
def test_a_process_that_dies_is_a_failure_of_the_test_that_it_ran_and_the_first_ends_the_run(tmp_path: Path) -> None:
    code, said = run(tmp_path, DYING, "-x", "--processes=2")
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "a process that ran tests has died (exit code 0)" in said
    assert "stopping after 1 failures" in said
    assert said.count("FAILED test_it.py::") == said.count("FAILED test_it.py::test_number[40] - ") == 1
    assert "Traceback" not in said


@forks
def test_ctrl_c_ends_all_and_what_they_have_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        with start(tmp_path, WAITING, "--processes=2", PORT=str(listener.getsockname()[1])) as process:
            watches = [listener.accept()[0] for _ in range(2)]
            for watch in watches:
                watch.settimeout(PATIENCE)
                assert watch.recv(100) == b"running "
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == pytest.ExitCode.INTERRUPTED
            assert "KeyboardInterrupt" in said
            assert [watch.recv(100) for watch in watches] == [b"cleared up"] * 2
            for watch in watches:
                watch.close()


SEVERAL = {"capture": "fd", "usepdb": False, "trace": False, "setupshow": False, "collectonly": False, "processes": 2}


@pytest.mark.parametrize(
    ("option", "items", "forks"),
    [
        ({"capture": "no"}, 60, True),
        ({"usepdb": True}, 60, True),
        ({"collectonly": True}, 60, True),
        ({"processes": 1}, 60, True),
        ({}, 49, True),
        ({}, 60, False),
    ],
)
def test_one_process_where_somebody_looks_on_or_tests_are_few_or_the_system_is_another(
    monkeypatch: pytest.MonkeyPatch, option: dict[str, object], items: int, forks: bool
) -> None:
    if not forks:
        monkeypatch.setattr(sys, "platform", "darwin")
    config = SimpleNamespace(option=SimpleNamespace(**(SEVERAL | option)))
    session = SimpleNamespace(config=config, items=[None] * items, testsfailed=0)
    assert parallel.pytest_runtestloop(session) is None  # type: ignore[arg-type]
