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
def reminding(server: ServerThread, folder: Path, *others: str) -> Iterator[subprocess.Popen[str]]:
    """The bot `remind`, online."""
    server.person("remind").says("LOGOUT")
    watch = server.person("watch")
    with running(folder, sys.executable, "remind.py", *map(str, server.address)) as bot:
        while not watch.sees("remind", "watch", *others):
            assert bot.poll() is None
        yield bot


def test_a_bot_with_asyncio_answers_in_the_conversation_while_another_reminder_waits(
    server: ServerThread, tmp_path: Path
) -> None:
    alice, bob = server.person("alice"), server.person("bob")
    with reminding(server, tmp_path, "alice", "bob"):
        alice.say("SEND remind 3600 much later", "SEND remind,bob 0 tea", "SEND remind what is that?")
        assert heard_by(bob) == ["alice>remind,bob", "0 tea"]
        assert heard_by(bob) == ["remind>alice,bob", "tea"]
        assert sorted(heard_by(alice)[1] for _ in range(2))[0].startswith("say so many seconds")


@posix
def test_ctrl_c_ends_a_bot_with_asyncio_without_a_word(server: ServerThread, tmp_path: Path) -> None:
    with reminding(server, tmp_path) as bot:
        bot.send_signal(signal.SIGINT)
        assert bot.communicate(timeout=PATIENCE) == ("", "")
        assert bot.returncode == 0


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
