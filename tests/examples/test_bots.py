"""The programs in this folder do what they say, with copies of the two files that they need."""

from __future__ import annotations

import contextlib
import os
import re
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
def running(folder: Path, *command: str, environ: dict[str, str] = ENVIRON) -> Iterator[subprocess.Popen[str]]:
    """A program of this folder, with all that it needs in a folder of its own."""
    home = folder / "bot"
    home.mkdir(parents=True)
    for file in (ROOT / "client.py", ROOT / "protocol.py", Path(__file__).parent / command[1]):
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


WORDLESS = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio itself has a word about Ctrl-C there")


@posix
@pytest.mark.parametrize("name", ["echo", pytest.param("remind", marks=WORDLESS)])
def test_ctrl_c_ends_a_bot_without_a_word(server: ServerThread, tmp_path: Path, name: str) -> None:
    alice = server.person("alice")
    with bot_of(server, tmp_path, name, "alice") as bot:
        alice.say(f"SEND {name} 0 tea")
        heard_by(alice)  # its answer: the login is behind it
        bot.send_signal(signal.SIGINT)
        assert bot.communicate(timeout=PATIENCE) == ("", "")
        assert bot.returncode == 0


@pytest.mark.parametrize("name", ["echo", "remind"])
def test_a_bot_makes_its_account(server: ServerThread, tmp_path: Path, name: str) -> None:
    alice = server.person("alice")
    with running(tmp_path, sys.executable, f"{name}.py", *map(str, server.address)):
        assert alice.sees("alice", name)


def test_a_bot_says_what_it_is_told_where_it_is_told(server: ServerThread, tmp_path: Path) -> None:
    alice, bob = server.person("alice"), server.person("bob")
    with bot_of(server, tmp_path, "echo", "alice", "bob"):
        alice.say("SEND echo hello\nthere")
        assert heard_by(alice) == ["echo", "re: hello\nthere"]
        alice.say("SEND echo,bob echo: to both")
        assert heard_by(bob) == ["alice>echo,bob", "echo: to both"]
        assert heard_by(bob) == heard_by(alice) == ["echo>alice,bob", "re: to both"]
        alice.say("SEND * echo: to all")
        assert heard_by(bob) == ["alice>*", "echo: to all"]
        assert heard_by(bob) == heard_by(alice) == ["echo>*", "re: to all"]


@pytest.mark.parametrize("name", ["echo", "remind"])
def test_a_bot_answers_no_answer_and_nothing_that_others_may_have_been_asked(
    server: ServerThread, tmp_path: Path, name: str
) -> None:
    alice, _ = server.person("alice"), server.person("bob")
    with bot_of(server, tmp_path, name, "alice", "bob"):
        alice.say(f"SEND {name} re: 0 tea", "SEND * hello", f"SEND * re: {name}: 0 tea", f"SEND {name},bob 0 tea")
        alice.say(f"SEND {name} 0 the end")
        assert heard_by(alice)[1] in ("re: 0 the end", "re: the end")


def test_the_bot_of_the_readme_as_it_stands_answers_and_cannot_be_made_to_answer_itself(
    server: ServerThread, tmp_path: Path
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    alice = server.person("alice")
    server.person("echo").says("LOGOUT")
    host, port = server.address
    program = program.replace('"192.168.1.5", 5000', f'"{host}", {port}').replace("password", PASSWORD)
    (tmp_path / "bot.py").write_text(program, encoding="utf-8")
    with subprocess.Popen([sys.executable, "bot.py"], cwd=tmp_path, env=ENVIRON | {"PYTHONPATH": str(ROOT)}) as bot:
        try:
            assert alice.sees("alice", "echo")
            alice.say("SEND * hello", "SEND echo re: hello", "SEND echo the end")
            assert heard_by(alice) == ["echo", "re: the end"]
        finally:
            bot.kill()


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
    server: ServerThread, tmp_path: Path, command: list[str], password: str, said: str
) -> None:
    places = dict(zip(("HOST", "PORT"), map(str, server.address), strict=True))
    words = [places.get(word, word) for word in command]
    with running(tmp_path, sys.executable, *words, environ={"VESSAGES_PASSWORD": password}) as bot:
        out, errors = bot.communicate(timeout=PATIENCE)
    assert (bot.returncode, out, said in errors, errors.count("\n")) == (1, "", True, 1), errors


@pytest.mark.parametrize("program", ["echo.py", "remind.py"])
def test_a_bot_without_the_client_says_what_to_copy(tmp_path: Path, program: str) -> None:
    shutil.copy(Path(__file__).parent / program, tmp_path)
    words = [sys.executable, str(tmp_path / program), "127.0.0.1", "5000"]
    done = subprocess.run(words, env=ENVIRON, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (1, f"{program}: copy client.py into this folder\n")


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


def test_a_bot_answers_everybody_while_one_person_never_confirms(tmp_path: Path) -> None:
    with ServerThread(tmp_path, grace=1.0) as server:
        alice, asleep = server.person("alice"), server.person("asleep", kept=True)
        with bot_of(server, tmp_path, "echo", "alice", "asleep") as bot:
            asleep.says("SEND echo zzz")
            for number in range(3):
                alice.say(f"SEND echo number {number}")
                assert heard_by(alice) == ["echo", f"re: number {number}"]
            asleep.close()  # never having confirmed it
            assert bot.stdout is not None
            assert bot.stdout.readline() == "asleep did not get an answer: asleep left without confirming it\n"
            alice.say("SEND echo are you still there?")
            assert heard_by(alice) == ["echo", "re: are you still there?"]


def test_a_bot_with_asyncio_answers_while_another_answer_waits(server: ServerThread, tmp_path: Path) -> None:
    alice, bob = server.person("alice"), server.person("bob")
    with bot_of(server, tmp_path, "remind", "alice", "bob"):
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
