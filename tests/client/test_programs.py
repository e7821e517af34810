"""The client's programs as people start them, `Client` in real scripts, and links that are cut at any byte."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import functools
import itertools
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import IO, Any

import pytest
from between import Between, Meeting, relaying
from vocabulary import PASSWORD
from wire import CLIENT, ENVIRON, PATIENCE, ROOT, RunningServer, ServerProcess, ServerThread

import client
import protocol
from client import ChatError, Client

posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no such descriptors and signals")


def start(*arguments: str, program: Sequence[str] = CLIENT, **options: Any) -> subprocess.Popen[str]:
    """A client, with pipes for everything."""
    environ = dict(ENVIRON, PYTHONWARNINGS="error", **options.pop("environ", {}))
    return subprocess.Popen(
        [*program, *arguments],
        stdin=subprocess.PIPE, stdout=options.pop("stdout", subprocess.PIPE), stderr=subprocess.PIPE,
        text=True, env=environ, encoding="utf-8", **options,
    )  # fmt: skip


def run(*arguments: str, typed: str = "", **options: Any) -> tuple[int, list[str], str]:
    """A client from start to end: exit status, lines, errors."""
    with start(*arguments, **options) as process:
        out, errors = process.communicate(typed, timeout=PATIENCE)
    assert "Traceback" not in errors
    return process.returncode, out.splitlines(), errors


def become_bob(process: subprocess.Popen[str]) -> IO[str]:
    """A client registers and logs in as bob, and sees alice; its output from then on."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"REGISTER bob {PASSWORD}\nLOGIN bob {PASSWORD}\n")
    process.stdin.flush()
    while (line := process.stdout.readline()) != "-- online: alice bob\n":
        assert line, process.stderr.read() if process.stderr else ""
    return process.stdout


def place(server: RunningServer) -> tuple[str, str]:
    return server.address[0], str(server.address[1])


# --- Pipes ---


def test_a_pipe_with_a_whole_conversation_in_utf_8_whatever_the_locale_says(server: ServerThread) -> None:
    typed = f"REGISTER bob {PASSWORD}\nLOGIN bob {PASSWORD}\nWHO\nSEND bob Grüße, 世界\nQUIT\n"
    latin = {"PYTHONIOENCODING": "iso8859-1"}
    status, lines, errors = run(*place(server), typed=typed, environ=latin)
    assert (status, errors) == (0, "")
    assert lines[:5] == ["-- connected", "-- bob is registered", "-- you are bob", "-- online: bob", "-- online: bob"]
    assert [line[9:] for line in lines[5:7]] == ["bob: Grüße, 世界", "-> bob: Grüße, 世界"]
    assert lines[7:] == ["-- logged out"]
    assert "--password-file 中: " in run(*place(server), "--password-file", "中", environ=latin)[2]


def test_json_is_one_object_a_line_and_failures_are_counted(server: ServerThread) -> None:
    status, lines, _ = run(*place(server), "--json", typed=f"LOGIN bob {PASSWORD}\nSEND eve hi\n")
    assert status == 1
    events = [json.loads(line) for line in lines]
    assert [(e["event"], e.get("code")) for e in events] == [
        ("linked", None), ("refused", "bad-login"), ("failed", "not-logged-in"),
    ]  # fmt: skip
    assert events[1]["verb"] == "LOGIN"


def test_every_line_of_a_log_goes_to_somebody(server: ServerThread, tmp_path: Path) -> None:
    """With the first line of a password file, which may begin with the mark of an editor and have no end."""
    alice = server.person("alice", kept=True)
    server.person("bot").close()
    secret = tmp_path / "secret"
    secret.write_bytes(codecs.BOM_UTF8 + f"{PASSWORD}\r\n".encode() + b"x" * 100_000 + b"\xff")
    log = [f"/dev/sda line {n}" for n in range(300)]
    options = ["--user", "bot", "--to", "alice", "--password-file", str(secret)]
    with start(*place(server), *options, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        process.stdin.write("\n".join(log))
        process.stdin.close()
        heard: list[str] = []
        while len(heard) < len(log):
            (payload,) = alice.next()
            if " MSG bot " in payload:
                heard.append(payload.split(" ", 5)[5])
                alice.say("ACK " + payload.split(" ")[0][1:])
        assert process.wait(PATIENCE) == 0
    assert heard == log


def test_the_password_is_in_the_environment_and_on_no_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VESSAGES_PASSWORD", PASSWORD)
    assert client.given_secret(None) == PASSWORD
    actions = client.arguments_of(["lab", "5000"])
    assert not {name for name in vars(actions) if "password" in name} - {"password_file"}


@posix
def test_ctrl_c_logs_out(server: ServerThread) -> None:
    alice = server.person("alice")
    with start(*place(server)) as process:
        output = become_bob(process)
        assert alice.sees("alice", "bob")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        assert output.read() == "-- logged out\n"
    assert alice.sees("alice")


@posix
def test_signals_ignored_at_the_start_stay_ignored(server: ServerThread) -> None:
    alice = server.person("alice")
    ignored = signal.SIGHUP, signal.SIGINT  # by nohup; in a background job of a script

    def ignore() -> None:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    with start(*place(server), preexec_fn=ignore) as process:
        output = become_bob(process)
        for number in ignored:
            process.send_signal(number)
        assert process.stdin is not None
        process.stdin.write("PING still here\n")
        process.stdin.flush()
        assert output.readline() == "-- PING still here\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert alice.sees("alice")


@posix
@pytest.mark.parametrize("ignored", [True, False])
def test_ctrl_z_does_nothing_where_no_shell_could_bring_us_back(monkeypatch: pytest.MonkeyPatch, ignored: bool) -> None:
    stops: list[int] = []
    monkeypatch.setattr(os, "kill", lambda process, number: stops.append(number))
    before = signal.signal(signal.SIGTSTP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        client.Console(lambda: 0.0).suspend()
    finally:
        signal.signal(signal.SIGTSTP, before)
    assert stops == [signal.SIGTSTP] * (not ignored)


def test_a_reader_that_has_seen_enough(server: ServerThread) -> None:
    alice = server.person("alice")
    with start(*place(server)) as process:
        assert process.stderr is not None
        become_bob(process).close()
        alice.say("SEND bob hi")
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""
    assert alice.sees("alice")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk here")
def test_a_full_disk_behind_the_log_is_told_once(server: ServerThread) -> None:
    status, lines, errors = run(*place(server), "--log", "/dev/full", typed="PING x\n")
    told = "!! the log cannot be written: No space left on device; it goes on as soon as it can"
    assert (status, lines, errors) == (1, [told, "-- connected", "-- PING x"], "")


def test_a_log_on_a_network_that_is_not_complete_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Some file systems say only at the end that they have not got everything."""

    def close() -> None:
        raise OSError(122, "Disk quota exceeded")

    client.close_log(SimpleNamespace(close=close))  # type: ignore[arg-type]
    assert capsys.readouterr().err == "client.py: the log is not complete: Disk quota exceeded\n"


@posix
def test_help_for_a_reader_that_has_seen_enough() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [*CLIENT, "--help"]
    environ = {key: value for key, value in ENVIRON.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, env=environ)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


# --- Descriptors as other programs leave them ---


@posix
def test_output_is_written_to_the_end_though_the_descriptor_does_not_wait() -> None:
    reader, writer = os.pipe()
    text = "".join(f"{number} … " + "x" * 100 + "\n" for number in range(5_000))  # many times what a pipe holds
    heard = bytearray()

    def listen() -> None:
        while data := os.read(reader, 1_000):
            heard.extend(data)

    thread = threading.Thread(target=listen)
    with open(writer, "w", encoding="utf-8") as stream:  # noqa: PTH123
        os.set_blocking(writer, False)
        out = client.Output(stream)
        out.write(text)
        thread.start()
        out.flush()
    thread.join(PATIENCE)
    os.close(reader)
    assert heard.decode() == text


@posix
def test_output_that_nobody_reads_is_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:  # noqa: PTH123
        out = client.Output(stream)
        out.write("a line\n")
        with pytest.raises(BrokenPipeError):
            out.flush()
        out.flush()  # which was all of it


@posix
def test_a_pipe_that_does_not_wait_is_not_at_its_end(server: ServerThread) -> None:
    """Neither one that was so before the start, nor one that another program makes so meanwhile."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    command = [*CLIENT, *place(server)]
    with subprocess.Popen(command, env=ENVIRON, stdin=reader, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "-- connected\n"
        for word in ("one", "two", "three"):
            os.write(writer, b"PING %s\n" % word.encode())
            assert process.stdout.readline() == f"-- PING {word}\n"
            os.set_blocking(reader, False)
        os.close(writer)
        assert process.wait(PATIENCE) == 0
    assert os.get_blocking(reader) is False  # as it was found
    os.close(reader)


FULL = "client.py: {} cannot be written: No space left on device\n"


@posix
@pytest.mark.parametrize(
    ("redirected", "arguments", "status", "errors"),
    [
        ("2>&-", [], 0, ""),
        ("<&- 2>&-", [], 0, ""),
        (">&-", [], 2, "client.py: standard output is closed: say >/dev/null if nothing is to be shown\n"),
        ("<&- >&- 2>&-", [], 2, ""),
        (">/dev/full", [], 1, FULL.format("what happens")),
        (">/dev/full", ["--help"], 1, FULL.format("standard output")),
        ("2>/dev/full", ["127.0.0.1", "1"], 2, ""),
    ],
)
def test_descriptors_that_are_closed_or_full_are_no_reason_to_fall_over(
    server: ServerThread, redirected: str, arguments: list[str], status: int, errors: str
) -> None:
    if "/dev/full" in redirected and not Path("/dev/full").exists():
        pytest.skip("there is no full disk here")
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirected}', "sh", *CLIENT, *(arguments or place(server))],
        env={key: value for key, value in ENVIRON.items() if key != "PYTHONUNBUFFERED"},
        input="PING x\n", capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (status, errors)
    assert ("-- PING x\n" in done.stdout) == (redirected == "2>&-")


@posix
def test_the_null_device_takes_the_place_of_what_is_closed() -> None:
    code = "import client, os\nwith client.proper_descriptors() as closed: print(sorted(closed), os.fstat(0).st_rdev)"
    done = subprocess.run(
        ["sh", "-c", '"$@" <&- 2>&-', "sh", sys.executable, "-c", code],
        capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout == f"[0, 2] {Path(os.devnull).stat().st_rdev}\n"


def test_a_line_that_is_far_too_long(server: ServerThread) -> None:
    typed = f"REGISTER bob {PASSWORD}\nLOGIN bob {PASSWORD}\nSEND bob {'x' * 1_000_000}\nSEND bob ok\n"
    status, lines, _ = run(*place(server), typed=typed)
    assert status == 1
    assert any("too-long" in line for line in lines)
    assert lines[-2].endswith(" -> bob: ok")


# --- First contact ---


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(arguments, f"{client.PYTHON} client.py 192.168.1.5 5000") for arguments in ([], ["lab"])]
    + [(["lab", port], "is not a port: a number from 1 to 65535") for port in ("0", "65536", "x", "٣")]
    + [
        (["127.0.0.1", "5000", "--password-file", "no-such-file"], "a file whose first line is the password"),
        (["127.0.0.1", "5000", "--password-file", sys.executable], "it is no text in UTF-8: give a file"),
        (["192.168.1.5:5000"], "a space parts them, 192.168.1.5 5000. Use it like this"),
        (["fe80::1:5000"], "the following arguments are required: PORT"),  # may be an address
        (["127.0.0.1", "5000", "--to", "bob", "--json"], "say with --user NAME whose"),
        (["127.0.0.1", "5000", "--log", "no-such-folder/log"], "a folder that is there"),
        (["127.0.0.1", "5000", "--ca", str(ROOT / "README.md")], ": give a file with the certificate of a CA, in PEM"),
        (["127.0.0.1", "5000", "--ca", "no-such-file"], ": give a file with the certificate of a CA, in PEM"),
    ],
)
def test_a_wrong_command_line_is_answered_in_one(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        sys.exit(client.main(arguments))
    assert ended.value.code == 2
    out, errors = capsys.readouterr()
    assert (out, words in errors, len(errors.splitlines())) == ("", True, 1)
    assert not re.search(r"[\[(](?!or --help)", errors), "codes of the system and of OpenSSL"


@pytest.mark.parametrize(
    ("program", "there", "lacks"),
    [
        ("client.py", [], "protocol.py"), ("storage.py", [], "protocol.py"),
        ("vessages.py", ["protocol.py"], "storage.py"), ("vessages.py", ["storage.py"], "protocol.py"),
    ],
)  # fmt: skip
def test_a_program_says_which_file_it_lacks(tmp_path: Path, program: str, there: list[str], lacks: str) -> None:
    for name in (program, *there):
        shutil.copy(ROOT / name, tmp_path)
    command = (sys.executable, str(tmp_path / program))
    if program == "client.py":
        (tmp_path / lacks).write_text("# of another version\n")
    said = f"{program}: copy {lacks} of the same version into the folder of {program}\n"
    assert run(program=command, environ={"PYTHONPATH": ""}) == (2, [], said)


def test_an_address_in_brackets_is_that_address() -> None:
    assert client.arguments_of(["[::1]", "5000"]).host == "::1"
    with Client("[::1]", 5000) as bot:
        assert bot._link.host == "::1"
    with pytest.raises(argparse.ArgumentTypeError, match=r"a space parts them, \[::1\] 5000$"):
        client.host_name("[::1]:5000")


def test_the_client_starts_without_what_takes_long_to_import() -> None:
    """dataclasses brings inspect along, for a tenth of the time of a start."""
    code = "import sys, client; sys.exit('dataclasses' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=PATIENCE).returncode == 0


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines, _ = run("--version", program=(sys.executable, str(ROOT / "client.py")))  # as a person starts it
    assert (status, lines) == (0, [f"Vessages {protocol.VERSION}"])
    with pytest.raises(SystemExit, match="0"):
        client.main(["--help"])
    assert "VESSAGES_PASSWORD" in capsys.readouterr().out


# --- Scripts ---


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RETRY_FIRST", 0.01)
    monkeypatch.setattr(client, "RETRY_MOST", 0.05)


def entered(server: RunningServer, name: str = "bot") -> Client:
    """A script that has made an account and is logged in."""
    script = Client(*server.address)
    script.register(name, PASSWORD)
    script.login(name, PASSWORD)
    return script


@contextlib.contextmanager
def refused(code: str) -> Iterator[None]:
    with pytest.raises(ChatError) as caught:
        yield
    assert caught.value.code == code


def together(*actions: Callable[[], object]) -> None:
    """Do these in threads of their own, to the end."""
    threads = [threading.Thread(target=action) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)


def test_a_script_talks_to_itself(server: ServerThread) -> None:
    with entered(server) as bot:
        assert (bot.name, bot.who()) == ("bot", ["bot"])
        bot.send("bot", "one")
        bot.send("bot", "two")
        assert [message.text for message in bot.messages(timeout=0)] == ["one", "two"]
        bot.logout()
        assert bot.name is None
        bot.close()  # and once more at the end


def test_what_goes_wrong_is_raised(server: ServerThread) -> None:
    with Client(*server.address) as bot, Client(*server.address) as other:
        with pytest.raises(ChatError, match="wrong name or password") as caught:
            bot.login("bot", PASSWORD)
        assert caught.value.code == "bad-login"
        bot.register("bot", PASSWORD)
        bot.login("bot", PASSWORD)
        with refused("not-online"):
            bot.send("nobody", "hi")
        with refused("already-online"):
            other.login("bot", PASSWORD)
        other.login("bot", PASSWORD, takeover=True)
        with refused("replaced"):
            next(bot.messages())


def test_a_script_without_a_server() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with Client(*free.getsockname()) as bot, pytest.raises(ChatError) as caught:
            bot.login("bot", PASSWORD)
    assert caught.value.code == "unreachable"


def test_a_client_may_be_closed_twice(server: ServerThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LOGOUT_SECONDS", 0.0)  # the answer to the first LOGOUT comes too late
    with entered(server) as bot:
        bot.close()
        monkeypatch.setattr(client, "LOGOUT_SECONDS", 1.0)  # and the second time there is nobody to say it to


def test_a_call_gives_up_in_time(server: ServerThread) -> None:
    server.person("alice", kept=True).lively = False  # she reads nothing and acknowledges nothing
    with entered(server) as bot:
        with pytest.raises(TimeoutError):
            bot.send("alice", "hi", timeout=0)
        assert list(bot.messages(timeout=0)) == []


def test_what_was_sent_without_waiting_has_its_fate_among_the_events(server: ServerThread) -> None:
    with entered(server) as bot:
        tags = [bot.send("bot", "one", wait=False), bot.send("nobody", "two", wait=False)]
        events: list[client.ChatEvent] = []
        while not {client.Delivered, client.Failed, client.Roster} <= set(map(type, events)):
            events += bot.events(timeout=0)
        (message,) = [event for event in events if isinstance(event, client.Message)]
        (delivered,) = [event for event in events if isinstance(event, client.Delivered)]
        (failed,) = [event for event in events if isinstance(event, client.Failed)]
        assert (message.text, message.id, delivered.tag) == ("one", tags[0], tags[0])
        assert (failed.tag, failed.code, failed.text) == (tags[1], "not-online", "two")
        assert list(bot.events(timeout=0)) == []


def test_who_asks_only_for_messages_keeps_the_other_events(server: ServerThread) -> None:
    with entered(server) as bot:
        bot.send("bot", "hi", wait=False)
        assert next(bot.messages()).text == "hi"
        kinds = [type(event) for event in bot.events(timeout=0)]
        assert kinds[-2:] == [client.Roster, client.Delivered] or client.Delivered not in kinds


def test_a_client_is_used_by_many_threads(server: ServerThread) -> None:
    heard: list[str] = []
    with entered(server) as bot:
        listener = threading.Thread(target=lambda: heard.extend(message.text for message in bot.messages()))
        listener.start()
        texts = [[f"{number}.{n}" for n in range(30)] for number in range(4)]

        def talk(mine: list[str]) -> None:
            for text in mine:
                assert bot.send("bot", text) == 1
                assert bot.who() == ["bot"]

        together(*(functools.partial(talk, mine) for mine in texts))
        while len(heard) < 120:
            bot.who()
    listener.join(PATIENCE)  # the loop ends when the client is closed
    assert not listener.is_alive()
    assert sorted(heard) == sorted(itertools.chain(*texts))
    for mine in texts:
        assert [text for text in heard if text in mine] == mine


def test_all_threads_are_told_that_somebody_logged_in_elsewhere(server: ServerThread) -> None:
    codes: list[str] = []
    with entered(server) as bot, Client(*server.address) as other:

        def listen() -> None:
            with pytest.raises(ChatError) as caught:
                next(bot.messages())
            codes.append(caught.value.code)

        threads = [threading.Thread(target=listen) for _ in range(3)]
        for thread in threads:
            thread.start()
        other.login("bot", PASSWORD, takeover=True)
        for thread in threads:
            thread.join(PATIENCE)
        assert codes == ["replaced"] * 3
        with pytest.raises(ChatError, match="replaced"):
            bot.send("bot", "hi", timeout=PATIENCE)
        bot.login("bot", PASSWORD, takeover=True)
        bot.send("bot", "hi")


def test_a_closed_client_says_so(server: ServerThread) -> None:
    bot = entered(server)
    bot.close()
    calls: list[Callable[[], object]] = [bot.who, bot.logout, lambda: next(bot.messages()), lambda: next(bot.events())]
    calls += [lambda: bot.login("bot", "x"), lambda: bot.send("bot", "hi"), lambda: bot.send("bot", "hi", wait=False)]
    for call in calls:
        with pytest.raises(RuntimeError, match="this Client is closed: make another one"):
            call()
    bot.close()


@pytest.mark.parametrize("verb", ["LOGIN", "RESUME"])
def test_ctrl_c_in_the_middle_of_a_login_leaves_nobody_behind(
    server: ServerThread, monkeypatch: pytest.MonkeyPatch, quick: None, verb: str
) -> None:
    with pytest.raises(KeyboardInterrupt), Client(*server.address) as bot:
        bot.register("bot", PASSWORD)
        select, verbs = bot._link.select, [verb]

        def interrupted(patience: float | None) -> client.Ready:
            asked = bot._session._requests.barrier
            if asked is not None and asked.verb in verbs:
                raise KeyboardInterrupt(verbs.pop())
            return select(patience)

        monkeypatch.setattr(bot._link, "select", interrupted)
        bot.login("bot", PASSWORD)
        sock = bot._link._socket
        assert sock is not None
        sock.shutdown(socket.SHUT_RDWR)
        bot.who()
    with entered(server, "eve") as eve:
        assert eve.who() == ["eve"]


def test_a_script_that_ends_without_closing_its_client_is_logged_out(server: ServerThread) -> None:
    code = f"""from client import Client
bot = Client(*{server.address!r})
bot.register("bot", {PASSWORD!r})
bot.login("bot", {PASSWORD!r})
1 / 0"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE)
    assert (done.returncode, "Zero" in done.stderr) == (1, True)
    with entered(server, "eve") as eve:
        assert eve.who() == ["eve"]


def test_a_loop_that_had_begun_ends_when_the_client_is_closed(server: ServerThread) -> None:
    bot = entered(server)
    for number in range(3):
        bot.send("bot", str(number))
    heard = []
    for message in bot.messages():
        heard.append(message.text)  # its sender was told that it was shown
        together(bot.close, bot.close)
    assert heard == ["0", "1", "2"]


def test_a_signal_handler_is_told_that_it_may_not(server: ServerThread, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(*server.address) as bot:
        monkeypatch.setattr(bot._link, "select", lambda patience: bot.who())
        with pytest.raises(RuntimeError, match="signal handler"):
            bot.login("nobody", PASSWORD)
        monkeypatch.undo()
        bot.register("bot", PASSWORD)


def test_what_waits_to_be_read_is_read_before_a_call_gives_up(
    server: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a program that was suspended for longer than it meant to wait."""
    now = time.monotonic()
    with entered(server) as bot:
        monkeypatch.setattr(bot._link, "_clock", lambda: now)
        select, looks = bot._link.select, []

        def suspended(patience: float | None) -> client.Ready:
            nonlocal now
            looks.append(patience)
            if len(looks) > 1:
                return select(PATIENCE)
            now += 100
            return []

        monkeypatch.setattr(bot._link, "select", suspended)
        assert bot.who() == ["bot"]


def test_ctrl_c_ends_a_script_at_whatever_moment_it_comes(server: ServerThread) -> None:
    """Python looks for it where a function begins, and behind a call."""
    alice = server.person("alice")
    with Client(*server.address) as bot:
        bot.register("bot", PASSWORD)
    for moment in itertools.count():
        left = moment

        def interrupt(frame: FrameType, event: str, function: object) -> None:
            nonlocal left
            if event in ("call", "c_return"):
                left -= 1
                if left < 0:
                    sys.setprofile(None)
                    raise KeyboardInterrupt

        try:
            with Client(*server.address) as bot:
                bot.login("bot", PASSWORD)
                sys.setprofile(interrupt)
                list(bot.events(timeout=0))
                sys.setprofile(None)
                break
        except KeyboardInterrupt:
            assert alice.sees("alice"), moment
        finally:
            sys.setprofile(None)
    assert moment > 20


def test_what_is_said_to_everybody_is_shown_once_to_each_though_the_server_is_killed(
    server_process: ServerProcess, tmp_path: Path, quick: None
) -> None:
    heard: dict[str, list[str]] = {name: [] for name in ("ann", "bob", "cat")}
    is_half_way = {name: threading.Event() for name in heard}

    def listen(name: str) -> None:
        """To 6 messages of each of the two others, and to the fates of the own ones."""
        for event in people[name].events(timeout=PATIENCE):
            if isinstance(event, protocol.Message):
                heard[name].append(f"{event.sender}, to {event.to}: {event.text}")
            elif isinstance(event, protocol.Delivered):
                heard[name].append(f"{event.text} is shown to {event.shown_to}")
            if len(heard[name]) == 3:
                is_half_way[name].set()
            if len(heard[name]) == 18:
                break

    def say(names: Iterable[str], numbers: range) -> None:
        for number in numbers:
            for name in names:
                people[name].send(client.EVERYONE, str(number), wait=False)

    with contextlib.ExitStack() as stack:
        people = {name: stack.enter_context(Client(*server_process.address)) for name in heard}
        for name, person in people.items():
            person.register(name, PASSWORD)
            person.login(name, PASSWORD)
        threads = {name: threading.Thread(target=listen, args=(name,)) for name in heard}
        threads["ann"].start()
        threads["cat"].start()
        say(("ann", "cat"), range(3))
        assert is_half_way["ann"].wait(PATIENCE) and is_half_way["cat"].wait(PATIENCE)  # and bob confirms none
        server_process.process.kill()
        server_process.ends()
        threads["bob"].start()
        say(["bob"], range(3))
        stack.enter_context(ServerProcess(tmp_path, port=server_process.address[1]))
        say(heard, range(3, 6))
        for thread in threads.values():
            thread.join(PATIENCE)
        assert not [event for person in people.values() for event in person.messages(timeout=0)]
    for name, lines in heard.items():
        assert [line for line in lines if "shown" in line] == [f"{number} is shown to 2" for number in range(6)]
        for other in heard.keys() - {name}:
            assert [line for line in lines if other in line] == [f"{other}, to *: {number}" for number in range(6)]


def test_everything_is_shown_once_and_in_order_over_links_that_are_cut(server: ServerThread, quick: None) -> None:
    texts = [f"message {n} " + "x" * (n % 50) for n in range(100)]
    heard: list[str] = []
    relay = relaying(server.address, most=1_500, asked=1_500)

    def cut(meeting: Meeting) -> None:
        """After so many bytes, in turn by FIN and by RST."""
        relay(meeting)
        if len(proxy.meetings) % 2:
            meeting.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    proxy = Between(cut)
    try:
        with Client("127.0.0.1", proxy.port) as alice, Client("127.0.0.1", proxy.port) as bob:
            for name, who in (("alice", alice), ("bob", bob)):
                who.register(name, PASSWORD)
                who.login(name, PASSWORD)

            def listen() -> None:
                heard.extend(message.text for _, message in zip(texts, bob.messages(timeout=PATIENCE), strict=False))

            thread = threading.Thread(target=listen)
            thread.start()
            for text in texts:
                alice.send("bob", text)
            thread.join(PATIENCE)
    finally:
        proxy.close()
    assert heard == texts
    assert len(proxy.meetings) > 10


def test_the_errors_of_a_script_are_words_and_codes() -> None:
    error = ChatError("not-online", "nobody of that name is online")
    assert str(error) == "nobody of that name is online (not-online)"
    assert {code.word for code in protocol.Code}.isdisjoint(protocol.CLIENT_CODES)
