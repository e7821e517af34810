"""The programs in this folder do what they say, with copies of the two files that they need."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from vocabulary import PASSWORD
from wire import PATIENCE, ROOT, Peer, ServerThread

ENVIRON = os.environ | {"VESSAGES_PASSWORD": PASSWORD, "PYTHON": sys.executable, "PYTHONPATH": ""}
ENVIRON |= {"PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1"}
posix = pytest.mark.skipif(sys.platform == "win32", reason="there is no shell, and no such signal")


@contextlib.contextmanager
def running(folder: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A program of this folder, with all that it needs in a folder of its own."""
    home = folder / "bot"
    home.mkdir()
    for file in (ROOT / "client.py", ROOT / "protocol.py", Path(__file__).parent / command[1]):
        shutil.copy(file, home)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=home, env=ENVIRON, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def heard_by(peer: Peer) -> list[str]:
    """The next message: from whom, and its text."""
    while not (frame := peer.next()[0]).startswith("MSG "):
        assert not frame.startswith("ERROR ")
    return frame.split(" ", 4)[1::3]


@contextlib.contextmanager
def bot_of(server: ServerThread, folder: Path, name: str, *others: str) -> Iterator[subprocess.Popen[str]]:
    """A bot of this folder, online."""
    server.person(name).says("LOGOUT")
    watch = server.person("watch")
    with running(folder, sys.executable, f"{name}.py", *map(str, server.address)) as bot:
        assert watch.sees(name, "watch", *others)
        yield bot


@posix
@pytest.mark.parametrize("name", ["echo", "remind"])
def test_ctrl_c_ends_a_bot_without_a_word(server: ServerThread, tmp_path: Path, name: str) -> None:
    alice = server.person("alice")
    with bot_of(server, tmp_path, name, "alice") as bot:
        alice.say(f"SEND {name} 0 tea")
        heard_by(alice)  # its answer: the login is behind it
        bot.send_signal(signal.SIGINT)
        assert bot.communicate(timeout=PATIENCE) == ("", "")
        assert bot.returncode == 0


def test_a_bot_makes_its_account(server: ServerThread, tmp_path: Path) -> None:
    alice = server.person("alice")
    with running(tmp_path, sys.executable, "echo.py", *map(str, server.address)):
        assert alice.sees("alice", "echo")


def test_a_bot_says_what_it_is_told_where_it_is_told(server: ServerThread, tmp_path: Path) -> None:
    alice, bob = server.person("alice"), server.person("bob")
    with bot_of(server, tmp_path, "echo", "alice", "bob"):
        alice.say("SEND echo hello\nthere")
        assert heard_by(alice) == ["echo", "hello\nthere"]
        alice.say("SEND echo,bob to both")
        assert heard_by(bob) == ["alice>echo,bob", "to both"]
        assert heard_by(bob) == heard_by(alice) == ["echo>alice,bob", "to both"]
        alice.say("SEND * to all")
        assert heard_by(bob) == ["alice>*", "to all"]
        assert heard_by(bob) == heard_by(alice) == ["echo>*", "to all"]


def test_a_bot_answers_everybody_while_one_person_never_confirms(tmp_path: Path) -> None:
    with ServerThread(tmp_path, grace=1.0) as server:
        alice, asleep = server.person("alice"), server.person("asleep", kept=True)
        with bot_of(server, tmp_path, "echo", "alice", "asleep") as bot:
            asleep.says("SEND echo zzz")
            for number in range(3):
                alice.say(f"SEND echo number {number}")
                assert heard_by(alice) == ["echo", f"number {number}"]
            asleep.close()  # never having confirmed it
            assert bot.stdout is not None
            assert bot.stdout.readline() == "asleep did not get an answer: asleep left without confirming it\n"
            alice.say("SEND echo are you still there?")
            assert heard_by(alice) == ["echo", "are you still there?"]


def test_a_bot_with_asyncio_answers_while_another_answer_waits(server: ServerThread, tmp_path: Path) -> None:
    alice, bob = server.person("alice"), server.person("bob")
    with bot_of(server, tmp_path, "remind", "alice", "bob"):
        alice.say("SEND remind 3600 much later", "SEND remind,bob 0 tea", "SEND remind what is that?")
        assert heard_by(bob) == ["alice>remind,bob", "0 tea"]
        assert heard_by(bob) == ["remind>alice,bob", "tea"]
        assert sorted(heard_by(alice)[1] for _ in range(2))[0].startswith("say so many seconds")


@posix
@pytest.mark.parametrize("there", [True, False])
def test_a_pipe_tells_how_a_command_ended(server: ServerThread, tmp_path: Path, there: bool) -> None:
    server.person("ci").says("LOGOUT")
    alice = server.person("alice")
    if not there:
        alice.says("LOGOUT")
    command = ["python3", "-c", "print('*compiling*'); print('/it failed'); exit(3)"]
    with running(tmp_path, "sh", "tell.sh", *map(str, server.address), "alice", *command) as pipe:
        heard = [heard_by(alice) for _ in range(3)] if there else []
        out, errors = pipe.communicate(timeout=PATIENCE)
    assert (pipe.returncode, out) == (3, "*compiling*\n/it failed\n")
    if there:
        assert [text for _, text in heard] == [f"{' '.join(command)}: exit status 3", "*compiling*", "/it failed"]
        assert {sender for sender, _ in heard} == {"ci"}
    else:
        assert "not delivered to alice (not-online" in errors
