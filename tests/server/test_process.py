"""The server as a person starts it: `python vessages.py HOST PORT`, its signals, its exit codes and what it says.

Every process ends with its test. What needs no process is in the other files of this folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from vocabulary import END, PASSWORD
from wire import PATIENCE, PROGRAM, ROOT, ServerProcess, certificate

import protocol
import storage
import vessages

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no such signals")


@pytest.fixture
def server(server_process: ServerProcess) -> ServerProcess:
    """Here it is about the program itself."""
    return server_process


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python vessages.py …` that is expected to end by itself."""
    command = [sys.executable, str(PROGRAM), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)


def statuses(folder: Path) -> dict[str, str]:
    with contextlib.closing(storage.open_store(folder / "vessages.db")) as store:
        return {name: account.status for name in ("alice", "bob") if (account := store.find(name))}


# --- Starting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", vessages.TLS_CHOICES)
def test_it_says_where_it_listens_how_to_join_and_whom_to_trust(tmp_path: Path, mode: str) -> None:
    if mode != "off":
        certificate()
    with ServerProcess(tmp_path, "--tls", mode) as server:
        port = server.address[1]
    elsewhere = f"{vessages.OTHER_SYSTEM}: {vessages.OTHER_PYTHON} instead of {storage.PYTHON}"
    pair = [tmp_path / "vessages-cert.pem", tmp_path / "vessages-key.pem"]
    assert [path.exists() for path in pair] == [mode != "off"] * 2
    words = ["The certificate's fingerprint:"]
    words += protocol.fingerprint_words(vessages.fingerprint(pair[0])).splitlines() if mode != "off" else []
    assert server.greeting.splitlines() == [
        f"Vessages {server.greeting.split()[1]} listens at 127.0.0.1 port {port}.",
        f"Accounts: {(tmp_path / 'vessages.db').resolve()} (new, no accounts yet)",
        f"Others on this machine join with ({elsewhere})",
        f"    {storage.PYTHON} client.py 127.0.0.1 {port}",
        *(words if mode != "off" else []),
        f"Ctrl-C stops the server, {vessages.QUESTION_KEY} logs who is connected.",
    ]


@posix
def test_without_openssl_it_serves_plain_says_so_and_what_to_do(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, before="PATH=/nowhere;") as server:
        assert "\nNothing is encrypted, so the network can read passwords:\nthere is no openssl" in server.greeting
        assert re.search(r"\n    openssl req -x509 .*\n", server.greeting)
        assert server.person("alice").says("WHO") == ["OK WHO alice"]
    assert not list(tmp_path.glob("*.pem*"))


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_it_listens_at_an_ipv6_address(tmp_path: Path) -> None:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        with ServerProcess(tmp_path, host="::1") as server:
            assert server.person("alice").says("WHO") == ["OK WHO alice"]


def test_a_name_stands_for_all_its_addresses(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, host="localhost") as server:
        assert server.person("alice").says("WHO") == ["OK WHO alice"]


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


def test_options_reach_the_server(tmp_path: Path) -> None:
    options = ("--grace", "90", "--password-min", "12", "--connections", "2", "--hash-cost", "2,1,1")
    with ServerProcess(tmp_path, *options) as server:
        first = server.connect()
        assert first.says("KEEP") == ["OK KEEP 90"]
        assert first.says("REGISTER alice elevenchars")[0].startswith("ERROR bad-password")
        assert first.says("REGISTER alice twelve chars") == ["OK REGISTER alice"]
        second, third = server.connect(), server.connect()
        assert third.says("PING") == ["OK PING"]
        assert first.ends() == ["BYE full", END]
        assert second.says("PING") == ["OK PING"]


@posix
def test_the_log_has_a_time_before_each_line(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        alice, bob = server.person("alice", kept=True), server.person("bob")
        assert alice.sees("alice", "bob")
        server.signal()
        assert alice.ends()[-2:] == bob.ends()[-2:] == ["BYE shutdown", END]
        alice.close()
        bob.close()
        assert server.ends() == 0
        lines = server.said().splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d ", "", line) for line in lines] == [
        "started", "alice registered from 127.0.0.1", "alice logged in from 127.0.0.1",
        "bob registered from 127.0.0.1", "bob logged in from 127.0.0.1",
        "stopping: connections to be told: 2", "alice lost: shutdown", "bob left: shutdown", "stopped",
    ]  # fmt: skip


def test_registration_can_be_closed(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--no-register") as server:
        assert server.connect().says(f"REGISTER alice {PASSWORD}")[0].startswith("ERROR closed ")


# --- Not starting -----------------------------------------------------------------------------------------------------


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk here")
@pytest.mark.parametrize("program", ["vessages.py", "storage.py"])
@pytest.mark.parametrize(
    ("shell", "status", "words"),
    [
        ("--help", 0, ""), ("--help >&-", 0, "usage: "), ("2>/dev/full", 2, ""),
        ("--help >/dev/full", 2, "PROGRAM: standard output: No space left on device\n"),
        ("--db /nowhere/x.db REFUSED 2>/dev/full", 2, ""),
    ],
)  # fmt: skip
def test_last_words_that_nobody_reads_are_no_failure(program: str, shell: str, status: int, words: str) -> None:
    shell = shell.replace("REFUSED", {"vessages.py": "127.0.0.1 0", "storage.py": "list"}[program])
    command = ["sh", "-c", f'exec "$0" "$1" {shell}', sys.executable, str(ROOT / program)]
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    reading, writing = os.pipe()
    os.close(reading)  # as `| true` does
    with os.fdopen(writing, "wb") as nobody:
        done = subprocess.run(
            command, env=environ, stdout=nobody, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False
        )
    assert (done.returncode, done.stderr[:7] if words == "usage: " else done.stderr) == (
        status, words.replace("PROGRAM", program)
    )  # fmt: skip


@posix
@pytest.mark.parametrize("program", ["vessages.py", "storage.py", "client.py"])
def test_help_that_nobody_reads_is_no_failure_where_it_is_written_at_once(program: str) -> None:
    """Python 3.10 minded; many an image of a container has set this variable."""
    reading, writing = os.pipe()
    os.close(reading)
    command, environ = [sys.executable, str(ROOT / program), "--help"], os.environ | {"PYTHONUNBUFFERED": "1"}
    with os.fdopen(writing, "wb") as nobody:
        done = subprocess.run(command, env=environ, stdout=nobody, stderr=subprocess.PIPE, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, b"")


def test_version(tmp_path: Path) -> None:
    done = run(tmp_path, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"Vessages \d+\.\d+\n", done.stdout)


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line that says what to do, and the exit code for it."""
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in ("vessages.py: ", *words):
        assert word in done.stderr


def test_a_second_server_on_the_same_accounts_is_refused(server: ServerProcess, tmp_path: Path) -> None:
    assert_refused(run(tmp_path, "127.0.0.1", "0", "--db", "vessages.db"), "in use by a running server")
    assert server.person("alice").says("WHO") == ["OK WHO alice"]


PLANTED = """
import os, signal, sys, tempfile, threading
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


HOMELESS = """
os.chdir(tempfile.mkdtemp())
os.rmdir(os.getcwd())
"""


@posix
def test_a_deleted_current_folder_is_refused_without_db(tmp_path: Path) -> None:
    program = planted(tmp_path, HOMELESS)
    command = [sys.executable, str(program), "127.0.0.1", "0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert_refused(done, "folder was deleted", "--db")
    with ServerProcess(tmp_path, code=program) as server:  # which says where the accounts are
        assert server.person("alice").says("WHO") == ["OK WHO alice"]


THREADLESS = """
start, left = threading.Thread.start, [None] * {count}
def start_some(thread):
    if not left:
        raise RuntimeError("can't start new thread")
    left.pop()
    start(thread)
threading.Thread.start = start_some
"""


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_threads_are_told(tmp_path: Path, count: int) -> None:
    program = planted(tmp_path, THREADLESS.format(count=count))
    command = [sys.executable, str(program), "127.0.0.1", "0", "--backup-every", "1d"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert_refused(done, "no more threads", "ulimit -u")


@posix
def test_too_few_open_files_are_told(tmp_path: Path) -> None:
    command = f"ulimit -n 7; exec {sys.executable} {PROGRAM} 127.0.0.1 0"
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert_refused(done)


# --- Stopping ---------------------------------------------------------------------------------------------------------

ASKS = [getattr(signal, name) for name in vessages.QUESTION_SIGNALS if hasattr(signal, name)]
STOPS = [getattr(signal, name) for name in vessages.STOP_SIGNALS if hasattr(signal, name)]


@posix
@pytest.mark.parametrize("number", STOPS)
def test_a_signal_stops_it_politely(server: ServerProcess, tmp_path: Path, number: int) -> None:
    alice, bob = server.person("alice"), server.person("bob", kept=True)
    server.signal(number)
    assert alice.ends()[-2:] == ["BYE shutdown", END]
    assert bob.ends()[-2:] == ["BYE shutdown", END]
    alice.close()
    bob.close()
    assert server.ends() == 0
    assert "Traceback" not in server.said()
    assert not (tmp_path / "vessages.db.lock").exists()
    assert statuses(tmp_path) == {"alice": "offline", "bob": "lost"}


@posix
def test_a_second_signal_ends_it_at_once(server: ServerProcess) -> None:
    alice = server.person("alice")  # who will not close, so that the first signal waits for her
    server.signal(signal.SIGINT)
    assert alice.ends() == ["BYE shutdown", END]
    code = None
    while code is None:
        server.signal(signal.SIGINT)  # those of the first half second are taken for the first one
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = server.process.wait(0.05)
    assert code == 128 + signal.SIGINT
    assert "Traceback" not in server.said()


@posix
def test_a_signal_that_comes_twice_is_one(server: ServerProcess, tmp_path: Path) -> None:
    alice = server.person("alice", kept=True)
    server.signal()
    server.signal()
    assert alice.ends()[-2:] == ["BYE shutdown", END]
    alice.close()
    assert server.ends() == 0
    assert statuses(tmp_path) == {"alice": "lost"}


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
            server.signal()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(0.1)
        assert server.ends() == 128 + signal.SIGTERM


HANGS = "lambda *arguments, **options: threading.Event().wait()"


@posix
@pytest.mark.parametrize("method", ["storage.Store.record_statuses", "storage.Store.close"])
def test_a_disk_that_hangs_does_not_hold_the_stop_up(tmp_path: Path, method: str) -> None:
    with ServerProcess(tmp_path, code=planted(tmp_path, f"vessages.STOP_WITHIN = 0.5; {method} = {HANGS}")) as server:
        server.person("alice").close()
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
    done = subprocess.run(
        [sys.executable, "vessages.py", "127.0.0.1", "0"], cwd=tmp_path, capture_output=True, timeout=PATIENCE,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


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
def test_killed_it_has_lost_no_account(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
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
@pytest.mark.parametrize("number", ASKS)
def test_a_signal_asks_for_figures_and_for_who_is_connected(server: ServerProcess, number: int) -> None:
    server.person("alice").says("SEND alice hi")
    server.signal(number)
    server.signal(signal.SIGTERM)
    for peer in server.peers:
        peer.ends()
        peer.close()
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


# --- What it says -----------------------------------------------------------------------------------------------------


@posix
def test_no_secret_is_ever_said(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--verbose") as server:
        alice, bob = server.person("alice", kept=True), server.person("bob")
        bob.says("SEND alice the text of a message", f"PASSWD {PASSWORD}\nthe new password", "PASSWD typo-1\nas it is")
        server.connect().says("LOGIN bob typo-2-instead", "LOGIN typo-3-as-a-name x", f"REGISTER carol {PASSWORD}")
        server.connect().says(f"RESUME {alice.token} 0", "RESUME typo-4-token 0")
        server.connect().say(b"PING \xff typo-5", b"SEND typo-6 x").say_bytes(b"\0\1\0\0typo-7").ends()
        server.signal()
        for peer in server.peers:
            peer.close()
        assert server.ends() == 0
    said = server.said()
    for secret in (PASSWORD, "the new password", "typo", "the text of a message", alice.token, "scrypt$"):
        assert secret not in said
    assert "alice registered" in said
    assert "wrong name or password" in said
    assert "Traceback" not in said


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
