"""The real client on a pseudo-terminal: its modes, signals, sizes and encodings, and what needs no screen.

What a person types and what then stands on the screen is tried in memory, in `test_window.py`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from seat import Seat
from vocabulary import PASSWORD
from wire import PATIENCE, ServerProcess, ServerThread

import client

SitDown = Callable[..., Seat]


@pytest.fixture
def sit_down() -> Iterator[SitDown]:
    """Somebody sits down, and starts the client for this address."""
    with contextlib.ExitStack() as stack:

        def sit_down(address: tuple[str, int], *arguments: str, **options: Any) -> Seat:
            return stack.enter_context(contextlib.closing(Seat(*map(str, address), *arguments, **options)))

        yield sit_down


@pytest.fixture
def bob(server: ServerThread, sit_down: SitDown) -> Seat:
    """Somebody who has made an account and is logged in."""
    seat = sit_down(server.address).shows("/register NAME")
    seat.types("/register bob\r").prompts("New password for bob:")
    seat.types(PASSWORD + "\r").prompts("Repeat password:").types(PASSWORD + "\r")
    return seat.sees("-- you are bob").until(lambda: seat.screen.lines()[0] and online(seat))


def online(seat: Seat) -> bool:
    return any(re.match(r"\d+ online ", row) for row in seat.screen.lines())


def test_a_message_does_not_disturb_what_is_typed(server: ServerThread, bob: Seat) -> None:
    alice = server.person("alice")
    bob.prompts("2 online >").types("/msg alice half a ").prompts("2 online > /msg alice half a")
    alice.say("SEND bob excuse me")
    bob.sees("alice  excuse me").prompts("2 online > /msg alice half a")
    bob.types("line\r").sees("→ alice  half a line").prompts("2 online >")
    assert alice.hears()[-1].endswith(" half a line")
    bob.types("\x03\x03")
    assert bob.leaves() == 0
    assert "-- logged out" in bob.screen.history()
    assert alice.sees("alice")
    assert PASSWORD.encode() not in bob.raw


def test_a_stop_turns_off_what_the_terminal_was_asked_for(bob: Seat) -> None:
    """Where no shell could bring it back, the system does not stop it; so it is in front again at once."""
    begin, end = (text.encode() for text in (client.TERMINAL_BEGIN, client.TERMINAL_END))
    bob.types("\x1a").until(lambda: bob.raw.count(begin) == 2)
    bob.process.send_signal(signal.SIGTSTP)
    bob.until(lambda: bob.raw.count(begin) == 3)
    assert bob.raw.count(end) == 2 and bob.raw.rindex(end) < bob.raw.rindex(begin)
    bob.prompts("1 online >").types("\x04")
    assert bob.leaves() == 0


def test_the_window_becomes_narrow_and_wide_again(bob: Seat) -> None:
    bob.types("/to bob\r").prompts("1 online bob>").types("a line with 世界 and 😀 in it")
    bob.prompts("1 online bob> a line with 世界 and 😀 in it")
    before = len(bob.raw)
    bob.resize(40, 20)
    bob.until(lambda: len(bob.raw) > before).prompts(" it")  # the client draws it anew, not the terminal alone
    bob.resize(100, 20)
    bob.prompts("1 online bob> a line with 世界 and 😀 in it").types("\r")
    bob.sees("→ bob  a line with 世界 and 😀 in it")


def test_half_a_password_at_a_dumb_terminal_goes_nowhere(server_process: ServerProcess, sit_down: SitDown) -> None:
    server_process.person("alice").says("LOGOUT")
    seat = sit_down(server_process.address, "--user", "alice", "--to", "alice", TERM="dumb")
    seat.until(lambda: b"Password for alice: " in seat.raw)
    server_process.signal(signal.SIGSTOP)
    seat.types(PASSWORD + "\r").until(lambda: b"one moment; what you type is hidden" in seat.raw)
    seat.types("half-a-")
    server_process.signal(signal.SIGCONT)
    seat.until(lambda: b"finish the hidden line with Enter; it is not sent" in seat.raw)
    seat.types("secret\r").types("hello\r").until(lambda: b"hello" in seat.raw.split(b"you are alice")[1])
    seat.types("\x04")
    seat.leaves()
    assert b"secret" not in seat.raw and b"half-a" not in seat.raw


def test_a_line_that_comes_with_the_dropped_one_is_had_at_once() -> None:
    with contextlib.closing(client.Plain(io.StringIO(), interactive=True)) as plain:
        plain._drops = True
        for line in ("half-a-secret", "hello"):
            plain.mailbox.put(line)
        assert plain.lines() == [client.Line("hello")]


def test_the_password_behind_a_refused_login_is_hidden_at_a_dumb_terminal(
    server: ServerThread, sit_down: SitDown
) -> None:
    seat = sit_down(server.address, TERM="dumb")
    seat.until(lambda: b"/register NAME" in seat.raw).types("/register bob\r")
    seat.until(lambda: b"New password" in seat.raw).types(PASSWORD + "\r")
    seat.until(lambda: b"Repeat" in seat.raw).types(PASSWORD + "\r").until(lambda: b"online: bob" in seat.raw)
    for line in ("/login bob", "/loginmaximilian", "login bob"):
        before = len(seat.raw)
        seat.types(line + "\r").until(lambda before=before: b"goes on:" in seat.raw[before:])  # type: ignore[misc]
        seat.types("secret-7\rsecret-7\r")
        seat.until(lambda before=before: seat.raw[before:].count(b"was dropped") == 2).types("\r")  # type: ignore[misc]
    seat.types("/msg bob hello\r").until(lambda: b"bob: hello" in seat.raw).types("\x04")
    seat.leaves()
    assert b"secret" not in seat.raw


def test_a_terminal_that_is_not_utf_8(server: ServerThread, sit_down: SitDown) -> None:
    seat = sit_down(server.address, width=60, PYTHONIOENCODING="iso8859-1")
    seat.encoded("iso8859-1")
    seat.until(lambda: any("/register NAME" in row for row in seat.screen.lines()))
    seat.types(f"REGISTER bob {PASSWORD}\r").prompts("1 online >")
    alice = server.person("alice")
    os.write(seat.master, "/msg alice café".encode("iso8859-1"))
    seat.prompts("2 online > /msg alice café").types("\r").sees("-> alice  café")
    assert alice.hears()[-1].endswith(" café")
    alice.say("SEND bob … 中 é")
    seat.sees("alice  ... <U+4E2D> é").types("\x04\x04")
    assert seat.leaves() == 0


def test_a_dumb_terminal_gets_plain_lines_in_its_encoding_though_another_program_has_made_it_non_blocking(
    server: ServerThread, sit_down: SitDown
) -> None:
    seat = sit_down(server.address, TERM="dumb", PYTHONIOENCODING="iso8859-1")
    seat.encoded("iso8859-1")
    seat.sees("-- connected")
    for word in ("café", "two"):
        os.write(seat.master, f"PING {word}\n".encode("iso8859-1"))
        seat.until(lambda word=word: f"-- PING {word} ".encode("iso8859-1") in seat.raw)  # type: ignore[misc]
        os.set_blocking(seat.slave, False)
    seat.types("\x04")
    assert seat.leaves() == 0
    assert b"\x1b" not in seat.raw


def test_a_first_contact_that_fails_leaves_one_line(sit_down: SitDown) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        seat = sit_down(free.getsockname())
        assert seat.leaves() == 2
    text = "".join(seat.screen.history())
    assert re.fullmatch(
        r"client\.py: nobody listens at 127\.0\.0\.1 port \d+: check address and port, or ask whoever runs "
        "the server to start it",
        text,
    )


def test_a_dumb_terminal_does_not_show_a_password(server: ServerThread, sit_down: SitDown) -> None:
    server.person("bob").close()
    seat = sit_down(server.address, TERM="dumb")
    seat.sees("-- /login NAME, or /register NAME if you are new here; /help lists the commands")
    seat.types("/login bob\n").until(lambda: b"Password for bob: " in seat.raw)
    seat.types(f"{PASSWORD}\n").until(lambda: b"-- you are bob" in seat.raw)
    seat.types("/passwd\n").until(lambda: b"Old password: " in seat.raw).types("\x03")
    assert seat.leaves() == 0
    assert PASSWORD.encode() not in seat.raw


def test_a_terminal_that_another_program_has_made_non_blocking(server: ServerThread, bob: Seat) -> None:
    os.set_blocking(bob.slave, False)
    lines = [f"{number:03} " + "x" * 60 for number in range(200)]  # more than a terminal takes at once
    server.person("alice").says(*[f"SEND bob {line}" for line in lines])
    bob.until(lambda: any(lines[-1] in row for row in bob.screen.history()))
    assert all(any(line in row for row in bob.screen.history()) for line in lines)
    bob.types("still here").prompts("2 online > still here").types("\x15\x04")
    assert bob.leaves() == 0
    assert not os.get_blocking(bob.slave)  # made so after the start, so it is not ours to change


def test_a_terminal_that_is_closed_logs_out(server: ServerThread, bob: Seat) -> None:
    alice = server.person("alice")
    assert alice.sees("alice", "bob")
    bob.types("half a li")
    bob.hang_up()
    assert alice.sees("alice")
    assert bob.process.wait(PATIENCE) == 0


def test_a_dumb_terminal_that_is_closed_while_it_asks_logs_out(server: ServerThread, sit_down: SitDown) -> None:
    alice = server.person("alice")
    seat = sit_down(server.address, TERM="dumb")
    seat.sees("-- connected").types(f"REGISTER bob {PASSWORD}\n").until(lambda: b"-- you are bob" in seat.raw)
    assert alice.sees("alice", "bob")
    seat.types("/passwd\n").until(lambda: b"Old password: " in seat.raw)
    seat.hang_up()
    assert alice.sees("alice")
    assert seat.process.wait(PATIENCE) == 0


def test_ctrl_c_drops_what_is_being_typed_and_then_leaves(bob: Seat) -> None:
    bob.prompts("1 online >").types("not this").prompts("1 online > not this").types("\x03").prompts("1 online >")
    bob.types("/passwd\r").prompts("Old password:").types("old\x03\x03")
    bob.sees("no password, so nothing was done").prompts("1 online >")
    bob.types("\x03").sees("-- Ctrl-C again leaves").types("x\x7f\x03").prompts("1 online >")
    assert bob.process.poll() is None
    bob.types("\x03")
    assert bob.leaves() == 0
    assert "logged out" in bob.raw.decode()


def test_ctrl_c_while_a_tls_server_is_met_leaves_without_a_traceback(sit_down: SitDown, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        seat = sit_down(silent.getsockname(), "--tls", HOME=str(tmp_path))
        with silent.accept()[0] as link:
            link.recv(1)  # its hello: it waits for ours
            seat.types("\x03").sees("-- Ctrl-C again leaves").types("\x03")
            assert seat.leaves() == 0
    assert [row for row in seat.screen.history() if row] == ["-- Ctrl-C again leaves"]


def test_what_is_shown_is_logged_and_shown_again_at_the_next_start(
    server: ServerThread, sit_down: SitDown, tmp_path: Path
) -> None:
    log = tmp_path / "chat.log"
    log.write_text("2026-11-22 15:04:05 ann: before\n", encoding="utf-8")
    seat = sit_down(server.address, "--log", str(log))
    seat.sees("-- the last message in the log:").sees("ann  before").types(f"REGISTER bob {PASSWORD}\r")
    seat.prompts("1 online >").types("SEND bob hi\r").sees("→ bob  hi").types("\x04")
    assert seat.leaves() == 0
    text = log.read_text(encoding="utf-8")
    for line in ("-- you are bob", "bob: hi", "-> bob: hi"):
        assert len(re.findall(rf"(?m)^\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d {line}$", text)) == 1, text
    assert text.count("before") == 1 and PASSWORD not in text
