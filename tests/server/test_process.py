"""The server as a person starts it: `python vessages.py HOST PORT`, its signals, its exit codes and what it says.

Every process ends with its test. What needs no process is in the other files of this folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from vocabulary import END, PASSWORD
from wire import ENVIRON, PATIENCE, ROOT, SERVER, ServerProcess

import storage
import vessages

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no such signals")


@pytest.fixture
def server(server_process: ServerProcess) -> ServerProcess:
    """Here it is about the program itself."""
    return server_process


def run(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """A command that is expected to end by itself."""
    return subprocess.run(
        command, cwd=folder, env=ENVIRON, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def statuses(folder: Path) -> dict[str, str]:
    with contextlib.closing(storage.open_store(folder / "vessages.db")) as store:
        return {name: account.status for name in ("alice", "bob") if (account := store.find(name))}


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line that says what to do, and the exit code for it."""
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in ("vessages.py: ", *words):
        assert word in done.stderr


PLANTED = """
import os, signal, sys, threading
sys.path[0] = {folder!r}
import protocol, storage, vessages
{before}
code = vessages.main(sys.argv[1:])
{after}
sys.exit(code)
"""


def planted(folder: Path, before: str, after: str = "") -> Path:
    """A program that is the server, but that does something before it, and behind it."""
    program = folder / "planted.py"
    program.write_text(PLANTED.format(folder=str(ROOT), before=before, after=after))
    return program


# --- Starting, or not -------------------------------------------------------------------------------------------------


@posix
def test_the_files_work_alone_in_an_empty_folder(tmp_path: Path) -> None:
    for name in ("vessages.py", "protocol.py", "storage.py"):
        shutil.copy(ROOT / name, tmp_path)
    with ServerProcess(tmp_path, code=tmp_path / "vessages.py") as server:
        alice = server.person("alice")
        assert alice.says("WHO") == ["OK WHO alice"]
        alice.close()
        server.signal()
        assert server.ends() == 0
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__", "vessages-cert.pem", "vessages-key.pem"} == {
        "vessages.py", "protocol.py", "storage.py", "vessages.db", "stderr",
    }  # fmt: skip


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk here")
@pytest.mark.parametrize(
    ("shell", "status", "words"),
    [
        ("vessages --help", 0, ""), ("storage --help", 0, ""), ("storage --help >&-", 0, "usage: "),
        ("vessages --help >/dev/full", 2, "vessages.py: standard output: No space left on device\n"),
        ("storage --help >/dev/full", 2, "storage.py: standard output: No space left on device\n"),
        ("vessages --db /nowhere/x.db 127.0.0.1 0 2>/dev/full", 2, ""), ("storage 2>/dev/full", 2, ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("unbuffered", [False])
def test_last_words_that_nobody_reads_are_no_failure(shell: str, status: int, words: str, unbuffered: bool) -> None:
    command = ["sh", "-c", f'exec "$0" -m {shell}', sys.executable]
    environ = {key: value for key, value in ENVIRON.items() if key != "PYTHONUNBUFFERED"}
    environ |= {"PYTHONUNBUFFERED": "1"} if unbuffered else {}
    reading, writing = os.pipe()
    os.close(reading)  # as `| true` does
    with os.fdopen(writing, "wb") as nobody:
        done = subprocess.run(
            command, env=environ, stdout=nobody, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False
        )
    assert (done.returncode, done.stderr[:7] if words == "usage: " else done.stderr) == (status, words)


@posix
@pytest.mark.parametrize("shell", ["storage --help", "client --help"])
def test_help_that_nobody_reads_is_no_failure_where_it_is_written_at_once(shell: str) -> None:
    """Python 3.10 minded; many an image of a container has set this variable."""
    test_last_words_that_nobody_reads_are_no_failure(shell, 0, "", unbuffered=True)


def test_a_second_server_on_the_same_accounts_is_refused(server: ServerProcess, tmp_path: Path) -> None:
    assert_refused(run(tmp_path, *SERVER, "127.0.0.1", "0", "--db", "vessages.db"), "in use by a running server")
    assert server.person("alice").says("WHO") == ["OK WHO alice"]


THREADLESS = """
start, left = threading.Thread.start, [None] * 3
def start_some(thread):
    if not left:
        raise RuntimeError("can't start new thread")
    left.pop()
    start(thread)
threading.Thread.start = start_some
"""


def test_too_few_threads_are_told(tmp_path: Path) -> None:
    program = planted(tmp_path, THREADLESS)
    done = run(tmp_path, sys.executable, program, "127.0.0.1", "0", "--backup-every", "1d")
    assert_refused(done, "no more threads", "ulimit -u")


@posix
def test_too_few_open_files_are_told(tmp_path: Path) -> None:
    assert_refused(run(tmp_path, "sh", "-c", 'ulimit -n 7; exec "$@"', "sh", *SERVER, "127.0.0.1", "0"))


@posix
def test_with_few_descriptors_those_online_notice_nothing_and_a_newcomer_gets_in(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, open_files=64) as server:
        alice, bob = server.person("alice"), server.person("bob")
        crowd = [server.connect() for _ in range(200)]
        assert alice.says("SEND bob hi") == []
        assert [message.split(" ")[-1] for message in bob.hears()] == ["hi"]
        assert server.person("carol").says("SEND alice hello") == []
        assert [message.split(" ")[-1] for message in alice.hears()] == ["hello"]
        assert crowd[0].ends() == ["BYE full", END]
        for peer in server.peers:
            peer.close()
        server.signal()
        assert server.ends() == 0
        said = server.said()
    assert "cannot accept" not in said
    assert said.count("at most 40 clients at once, not 15000: the limit of open files (ulimit -n) allows no more") == 1
    assert said.count("the server is full") == 2  # the first one, and at the stop how many more


# --- Stopping ---------------------------------------------------------------------------------------------------------


@posix
def test_a_signal_stops_it_politely_and_each_line_of_its_log_has_a_time(server: ServerProcess, tmp_path: Path) -> None:
    alice, bob = server.person("alice"), server.person("bob", kept=True)
    assert bob.sees("alice", "bob")
    server.signal()
    assert alice.ends()[-2:] == bob.ends()[-2:] == ["BYE shutdown", END]
    alice.close()
    bob.close()
    assert server.ends() == 0
    assert not (tmp_path / "vessages.db.lock").exists()
    assert statuses(tmp_path) == {"alice": "offline", "bob": "lost"}
    lines = server.said().splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d ", "", line) for line in lines] == [
        "started", "alice registered from 127.0.0.1", "alice logged in from 127.0.0.1",
        "bob registered from 127.0.0.1", "bob logged in from 127.0.0.1",
        "stopping: connections to be told: 2", "alice left: shutdown", "bob lost: shutdown", "stopped",
    ]  # fmt: skip


LATE_SIGNALS = """
for name in vessages.STOP_SIGNALS + vessages.QUESTION_SIGNALS:
    if hasattr(signal, name):
        os.kill(os.getpid(), getattr(signal, name))
"""


@posix
def test_a_signal_while_python_ends_does_not_change_the_exit_code(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, code=planted(tmp_path, "", LATE_SIGNALS)) as server:
        server.signal()
        assert server.ends() == 0
        assert "Traceback" not in server.said()


@posix
def test_a_second_signal_ends_a_server_that_waits_for_its_backup(tmp_path: Path) -> None:
    program = planted(tmp_path, f"storage.backup = {HANGS}")
    with ServerProcess(tmp_path, "--backup-every", "1s", code=program) as server:
        while server.process.poll() is None:
            server.signal()  # those of the first half second are taken for the first one
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(0.1)
        assert server.ends() == 128 + signal.SIGTERM
        assert "Traceback" not in server.said()


HANGS = "lambda *arguments, **options: threading.Event().wait()"


@posix
def test_a_disk_that_hangs_does_not_hold_the_stop_up(tmp_path: Path) -> None:
    hanging = planted(tmp_path, f"vessages.STOP_WITHIN = 0.5; storage.Store.close = {HANGS}")
    with ServerProcess(tmp_path, code=hanging) as server:
        server.signal()
        assert server.ends() == vessages.FAULT
        last = [line.split(" ", 2)[2] for line in server.said().splitlines()[-2:]]
        assert last[0].startswith("the disk does not answer")
        assert last[1] == "stopped"


@posix
def test_ctrl_c_while_the_program_is_read_is_no_fault(tmp_path: Path) -> None:
    for name in ("vessages.py", "storage.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "protocol.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    done = run(tmp_path, sys.executable, "vessages.py", "127.0.0.1", "0")
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


@posix
def test_signals_ignored_at_the_start_stay_ignored(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, before="trap '' HUP INT QUIT;") as server:  # nohup; a background job of a script
        alice = server.person("alice")
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            server.signal(number)
        assert alice.says("WHO") == ["OK WHO alice"]
        server.signal()
        assert alice.ends() == ["BYE shutdown", END]
        alice.close()
        assert server.ends() == 0
        assert "connections," not in server.said()


@posix
def test_killed_it_has_lost_no_account(server: ServerProcess, tmp_path: Path) -> None:
    token = server.person("alice", kept=True).token
    assert server.connect().says(f"REGISTER bob {PASSWORD}") == ["OK REGISTER bob"]
    server.signal(signal.SIGKILL)
    assert server.ends() == -signal.SIGKILL
    with ServerProcess(tmp_path) as server:
        bob = server.connect()
        assert bob.says(f"LOGIN bob {PASSWORD}", "SEND alice hi") == ["OK LOGIN bob"]
        assert bob.roster == {"~alice", "bob"}
        alice = server.connect()
        (answer, message) = alice.says(f"RESUME {token} 5")
        assert answer == "OK RESUME alice 0 5"
        assert message.startswith("@6 MSG bob 0 ")


@posix
def test_a_signal_asks_for_figures_and_for_who_is_connected(server: ServerProcess) -> None:
    alice = server.person("alice")
    server.signal(signal.SIGQUIT)
    server.signal()
    alice.ends()
    alice.close()
    assert server.ends() == 0
    assert re.search(r"1 connections, 1 online, .*[1-9] frames written, .*\d turns", server.said())
    assert re.search(r" since +idle +unsent +held +address +name\n.*\d\d:\d\d .* 127\.0\.0\.1 alice\n", server.said())


FAULT = """
def fault(hub, connection, tag, rest):
    protocol.Hub.tick = lambda hub: 1 / 0
    return "OK KEEP 0"
protocol.METHODS[False]["KEEP"] = fault
"""


def test_a_fault_in_the_loop_itself_is_logged_and_ends_it(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, code=planted(tmp_path, FAULT)) as server:
        alice = server.person("alice")
        server.connect().say("KEEP")
        assert alice.ends()[-1] == END
        assert server.ends() == 3
        assert server.said().count("Traceback") == 1
        assert "ZeroDivisionError" in server.said()
        assert "an internal error: the server stops" in server.said()
    assert statuses(tmp_path) == {"alice": "offline"}
