"""The README tells the truth: its options, codes, verbs, commands and programs are the ones that exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from vocabulary import PASSWORD
from wire import CLIENT, ENVIRON, ServerThread

import client
import protocol
import vessages

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_option_of_the_server_is_explained_in_help_and_readme() -> None:
    for action in vessages.make_parser()._actions:
        assert action.help, action
        assert any(f"`{name}" in README or f", `{name}`" in README for name in [*action.option_strings, action.metavar])


def test_every_option_and_command_of_the_client_is_in_the_readme() -> None:
    words = [sys.executable, "client.py", "--help"]
    helped = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
    for option in set(re.findall(r"--[a-z-]+", helped)):
        assert f"`{option}" in README or f", `{option}`" in README, option
    for name in client.TYPED:
        assert f"`/{name}" in README, name


def test_every_error_code_command_and_reason_of_bye_is_explained() -> None:
    for word in [code.word for code in protocol.Code] + [bye.value for bye in protocol.Bye]:
        assert f"`{word}`" in README, word
    for verb in protocol.HANDLERS:
        assert re.search(rf"^\| `{verb}\b", README, re.MULTILINE), verb


def test_the_numbers_in_the_readme_are_those_of_the_code() -> None:
    for text in (
        f"{protocol.QUEUE_FRAMES:,} frames, own answers included, or {protocol.QUEUE_BYTES // protocol.MIB} MiB",
        f"| {protocol.HELD_FRAMES_MAX:,} or {protocol.HELD_BYTES_MAX // protocol.MIB} MiB, then `BYE slow` "
        f"({protocol.HELD_BYTES_CROWDED // protocol.MIB} MiB while more than "
        f"{protocol.HELD_CROWDED // protocol.MIB} MiB is held for all)",
        f"{protocol.HALF_FRAME_AFTER:.0f} s, a frame {protocol.HALF_FRAME_AFTER:.0f} s more for every "
        f"{protocol.HALF_FRAME_STEP // protocol.KIB} KiB; "
        f"{vessages.SILENT_RECORDS_MAX} TLS records that bring nothing |",
        f"beyond {protocol.BACKLOG_MAX // protocol.KIB} KiB, after {protocol.SLOW_AFTER:.0f} s, then `BYE slow`",
        f"asked after {protocol.PING_AFTER:.0f} s, closed after {protocol.SILENT_AFTER:.0f} s",
        f"{protocol.STRANGER_AFTER / 60:.0f} minutes, {protocol.STRANGER_FRAME_MAX // protocol.KIB} KiB a frame",
        f"{protocol.GRACE:.0f} s (`--grace`)",
        f"| {protocol.CONNECTIONS_AN_ADDRESS:,}, of which {protocol.NEWCOMERS:,} at once and then "
        f"{1 / protocol.NEWCOMER_PAUSE:.0f} a second",
        f"{protocol.HELD_IN_ALL_MAX // protocol.MIB} MiB, then `busy` for whom more than "
        f"{protocol.HELD_LITTLE // protocol.KIB} KiB is held",
        f"allows {vessages.SELECT_MAX} clients at once",
        f"(at most {vessages.ROWS_MAX} rows)",
        f"{protocol.TO_ALL[0]} at once, then one in {protocol.TO_ALL[1]:.0f} s",
        f"{protocol.LISTED[0]:,} at once, then {1 / protocol.LISTED[1]:.0f} a second; {protocol.LIST_MAX} in a list",
        f"{protocol.REGISTRATIONS} at once from one address, then one in {protocol.REGISTRATION_PAUSE:.0f} s",
    ):
        assert text in " ".join(README.split()), text


@pytest.mark.parametrize("program", ["vessages", "client", "storage"])
def test_an_older_python_is_told_in_words(program: str) -> None:
    words = f"import sys; sys.version_info, sys.version = (3, 9, 18), '3.9.18 (old)'; import {program}"
    done = subprocess.run([sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2  # as of every other start that is refused
    assert done.stderr == (
        "Vessages needs Python 3.10 or newer, and this is 3.9.18: run it with a newer one, such as python3.12, "
        "or install one from python.org.\n"
    )


def test_ci_runs_the_readmes_test_command() -> None:
    pattern = re.search(r"sed -n 's(.*)p' README.md", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert pattern is not None
    assert re.search(r"^    python3 -m venv .*pytest$", README, re.MULTILINE)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no shell")
def test_a_pipe_shows_what_the_readme_shows(server: ServerThread) -> None:
    ((command, shown),) = re.findall(r"    \$ (printf .*)\n((?:    .*\n)+)", README)
    assert command.endswith(" | python3 client.py 127.0.0.1 5000")
    command = command.replace("python3 client.py", shlex.join(CLIENT)).replace("5000", str(server.address[1]))
    done = subprocess.run(["sh", "-c", command], env=ENVIRON, capture_output=True, text=True, timeout=60)
    times = re.compile(r"\d\d:\d\d:\d\d")
    assert times.sub("", done.stdout) == times.sub("", textwrap.dedent(shown))
    assert (done.returncode, done.stderr) == (0, "")


def test_the_client_in_a_few_lines_works_also_a_second_time(tmp_path: Path) -> None:
    with ServerThread(tmp_path) as server:
        alice, bob = server.person("alice", kept=True), server.person("bob")
        alice.close()
        assert bob.sees("~alice", "bob")
        bob.says("SEND alice held")
        port = bob.socket.getpeername()[1]
        program = str(ROOT / "tests" / "examples" / "plain.py")
        words = [sys.executable, program, "127.0.0.1", str(port), "alice", PASSWORD, "bob", "hi there"]
        ids = set()
        for before in (["OK LOGIN", "MSG bob", "ONLINE"], ["OK LOGIN", "ONLINE"]):
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            heard = done.stdout.splitlines()
            assert all(line.startswith(word) for line, word in zip(heard, before, strict=False)), heard
            assert re.fullmatch(r"#\d+ OK SEND", heard[-1])
            (message,) = [heard for heard in bob.hears() if heard.startswith("MSG alice ")]
            assert message.endswith("Z hi there")
            ids.add(message.split(" ")[2])
        assert len(ids) == 2  # else a recipient would take them for one message


def test_what_a_successor_is_told_to_read_exists() -> None:
    section = README[README.index("## Continuing the code") : README.index("## The protocol on one page")]
    files = ("protocol.py", "vessages.py", "storage.py", "client.py")
    code = "".join((ROOT / name).read_text(encoding="utf-8") for name in files)
    names = re.findall(r"`(?:[A-Z]\w+\.)?(_?[A-Za-z_]+)`", section)
    assert len(names) > 30
    known = set(re.findall(r"(?:class|def) (\w+)|^(\w+)", code, re.MULTILINE))
    assert set(names) - {name for pair in known for name in pair} == {"World", "TIME"}
