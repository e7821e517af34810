"""The programs in this folder do what they say: as processes, with copies of the two files that they need, where that
makes a difference, else the same code in a thread of the test."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vocabulary import PASSWORD
from wire import PATIENCE, ROOT, Peer, RunningServer, ServerThread

import client

FOLDER = Path(__file__).parent
ENVIRON = os.environ | {"VESSAGES_PASSWORD": PASSWORD, "PYTHON": sys.executable, "PYTHONPATH": ""}
ENVIRON |= {"PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1"}
posix = pytest.mark.skipif(sys.platform == "win32", reason="there is no shell, and no such signal")


@contextlib.contextmanager
def running(folder: Path, *command: str, environ: dict[str, str] = ENVIRON) -> Iterator[subprocess.Popen[str]]:
    """A program of this folder, with all that it needs in a folder of its own."""
    home = folder / "bot"
    home.mkdir(parents=True)
    for file in (ROOT / "client.py", ROOT / "protocol.py", FOLDER / command[1]):
        shutil.copy2(file, home)
    if (ROOT / "__pycache__").is_dir():  # then they are not compiled once more
        shutil.copytree(ROOT / "__pycache__", home / "__pycache__")
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environ = ENVIRON | environ
    with subprocess.Popen(command, cwd=home, env=environ, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def heard_by(peer: Peer) -> list[str]:
    """The next message: from whom, and its text."""
    while not (heard := peer.without_presence(peer.next())):
        pass
    assert heard[0].startswith("MSG ")
    return heard[0].split(" ", 4)[1::3]


@contextlib.contextmanager
def online(server: RunningServer, name: str, *others: str, run: Callable[..., object] | None = None) -> Iterator[None]:
    """A bot of this folder, or what `run` does, online beside these others."""
    run = run or runpy.run_path(str(FOLDER / f"{name}.py"))["run"]

    def be_a_bot() -> None:
        with contextlib.suppress(client.ChatError):  # that it was replaced
            done = run(*server.address, PASSWORD)
            if inspect.iscoroutine(done):
                asyncio.run(done)

    server.person(name).says("LOGOUT")
    watch, bot = server.person("watch"), threading.Thread(target=be_a_bot)
    bot.start()
    try:
        assert watch.sees(name, "watch", *others)
        yield
    finally:
        server.connect().says(f"TAKEOVER {name} {PASSWORD}")
        bot.join(PATIENCE)


WORDLESS = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio itself has a word about Ctrl-C there")


@posix
@pytest.mark.parametrize("name", ["echo", pytest.param("remind", marks=WORDLESS)])
def test_a_bot_makes_its_account_and_ctrl_c_ends_it_without_a_word(
    server: ServerThread, tmp_path: Path, name: str
) -> None:
    alice = server.person("alice")
    with running(tmp_path, sys.executable, f"{name}.py", *map(str, server.address)) as bot:
        assert alice.sees("alice", name)
        alice.say(f"SEND {name} 0 tea")
        heard_by(alice)  # its answer: the login is behind it
        bot.send_signal(signal.SIGINT)
        assert bot.communicate(timeout=PATIENCE) == ("", "")
        assert bot.returncode == 0


def test_a_bot_says_what_it_is_told_where_it_is_told(server: ServerThread) -> None:
    alice, bob = server.person("alice"), server.person("bob")
    with online(server, "echo", "alice", "bob"):
        alice.say("SEND echo hello\nthere")
        assert heard_by(alice) == ["echo", "re: hello\nthere"]
        alice.say("SEND echo,bob echo: to both")
        assert heard_by(bob) == ["alice>echo,bob", "echo: to both"]
        assert heard_by(bob) == heard_by(alice) == ["echo>alice,bob", "re: to both"]
        alice.say("SEND * echo: to all")
        assert heard_by(bob) == ["alice>*", "echo: to all"]
        assert heard_by(bob) == heard_by(alice) == ["echo>*", "re: to all"]


@pytest.mark.parametrize("name", ["echo", "remind"])
def test_a_bot_answers_no_answer_and_nothing_that_others_may_have_been_asked(server: ServerThread, name: str) -> None:
    alice, _ = server.person("alice"), server.person("bob")
    with online(server, name, "alice", "bob"):
        alice.say(f"SEND {name} re: 0 tea", "SEND * hello", "SEND * bob: 0 tea", f"SEND * re: {name}: 0 tea")
        alice.say(f"SEND {name},bob 0 tea", f"SEND {name} 0 the end")
        assert heard_by(alice)[1] in ("re: 0 the end", "re: the end")


def test_the_bot_of_the_readme_as_it_stands_answers_and_cannot_be_made_to_answer_itself(server: ServerThread) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    host, port = server.address
    program = program.replace('"192.168.1.5", 5000', f'"{host}", {port}').replace("password", PASSWORD)
    alice = server.person("alice")
    with online(server, "echo", "alice", run=lambda *_: exec(program, {})):
        alice.say("SEND * hello", "SEND echo re: hello", "SEND echo the end")
        assert heard_by(alice) == ["echo", "re: the end"]


@pytest.mark.parametrize(
    ("command", "password", "said"),
    [
        (["echo.py"], PASSWORD, "Start it like this: "),
        (["echo.py", "HOST", "five"], PASSWORD, "Start it like this: "),
        (["echo.py", "HOST", "PORT"], "", "Start it like this: "),
        (["echo.py", "HOST", "PORT"], "short", "(bad-password)"),
        (["echo.py", "HOST", "1"], PASSWORD, "(unreachable)"),
        (["remind.py"], PASSWORD, "Start it like this: "),
        (["remind.py", "HOST", "PORT"], "", "Start it like this: "),
        (["remind.py", "HOST", "PORT"], "short", "(bad-password)"),
        (["remind.py", "HOST", "1"], PASSWORD, "(unreachable)"),
        (["plain.py", "HOST", "PORT"], "", "Start it like this: "),
        (["plain.py", "HOST", "1", "ann", PASSWORD, "bob", "hi"], "", "there is no server at "),
    ],
)
def test_a_bot_that_cannot_run_says_in_one_line_what_to_do(
    server: ServerThread, monkeypatch: pytest.MonkeyPatch, command: list[str], password: str, said: str
) -> None:
    places = dict(zip(("HOST", "PORT"), map(str, server.address), strict=True))
    monkeypatch.setattr(sys, "argv", [places.get(word, word) for word in command])
    monkeypatch.setenv("VESSAGES_PASSWORD", password)
    words = words_at_the_end_of(command[0])
    assert said in words and "\n" not in words


def words_at_the_end_of(program: str) -> str:
    """With which it exits; Python writes such words on standard error, and the status is 1."""
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FOLDER / program), run_name="__main__")
    assert isinstance(ended.value.code, str)
    return ended.value.code


@pytest.mark.parametrize("program", ["echo.py", "remind.py"])
def test_a_bot_without_the_client_says_what_to_copy(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setitem(sys.modules, "client", None)
    assert words_at_the_end_of(program) == f"{program}: copy client.py into this folder"


def test_a_plain_client_whose_message_fails_ends_with_1(server: ServerThread, tmp_path: Path) -> None:
    server.person("ann").says("LOGOUT")
    for password, to in ((PASSWORD, "nobody"), ("a wrong one", "ann")):
        words = (sys.executable, "plain.py", *map(str, server.address), "ann", password, to, "OK hi")
        with running(tmp_path / to, *words) as plain:
            assert "ERROR" in plain.communicate(timeout=PATIENCE)[0]
        assert plain.returncode == 1


@posix
def test_a_pipe_without_a_command_or_a_password_says_what_to_do(tmp_path: Path) -> None:
    for number, (words, status, said) in enumerate([
        ([], 2, "Start it like this: "),
        (["127.0.0.1", "1", "alice", "true"], 0, "tell.sh: nobody is told: "),
    ]):  # fmt: skip
        with running(tmp_path / str(number), "sh", "tell.sh", *words, environ={"VESSAGES_PASSWORD": ""}) as pipe:
            out, errors = pipe.communicate(timeout=PATIENCE)
        assert (pipe.returncode, out, errors.startswith(said), errors.count("\n")) == (status, "", True, 1)


def test_a_bot_answers_everybody_while_one_person_never_confirms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ServerThread(tmp_path, grace=1.0) as server:
        alice, asleep = server.person("alice"), server.person("asleep", kept=True)
        with online(server, "echo", "alice", "asleep"):
            asleep.says("SEND echo zzz")
            for number in range(3):
                alice.say(f"SEND echo number {number}")
                assert heard_by(alice) == ["echo", f"re: number {number}"]
            asleep.close()  # never having confirmed it
            assert alice.sees("alice", "echo", "watch")  # the grace time of 1 s is over
            alice.say("SEND echo are you still there?")
            assert heard_by(alice) == ["echo", "re: are you still there?"]
        told = capsys.readouterr().out
        assert told == "asleep did not get an answer: asleep left without confirming it\n"


def test_a_bot_with_asyncio_answers_while_another_answer_waits(server: ServerThread) -> None:
    alice, bob = server.person("alice"), server.person("bob")
    with online(server, "remind", "alice", "bob"):
        alice.say("SEND remind 3600 much later", "SEND remind,bob remind: 0 tea", "SEND remind what is that?")
        assert heard_by(bob) == ["alice>remind,bob", "remind: 0 tea"]
        assert heard_by(bob) == ["remind>alice,bob", "re: tea"]
        assert sorted(heard_by(alice)[1] for _ in range(2))[0].startswith("re: say so many seconds")


@posix
@pytest.mark.parametrize("there", [True, False])
def test_a_pipe_tells_how_a_command_ended(server: ServerThread, tmp_path: Path, there: bool) -> None:
    server.person("ci").says("LOGOUT")
    alice = server.person("alice")
    if not there:
        alice.says("LOGOUT")
    command = ["sh", "-c", "echo '*compiling*'; echo '/it failed'; exit 3"]
    with running(tmp_path, "sh", "tell.sh", *map(str, server.address), "alice", *command) as pipe:
        heard = [heard_by(alice) for _ in range(3)] if there else []
        out, errors = pipe.communicate(timeout=PATIENCE)
    assert (pipe.returncode, out) == (3, "*compiling*\n/it failed\n")
    if there:
        assert [text for _, text in heard] == [f"{' '.join(command)}: exit status 3", "*compiling*", "/it failed"]
        assert {sender for sender, _ in heard} == {"ci"}
    else:
        assert "not delivered to alice (not-online" in errors
