"""The real client on a pseudo-terminal: what a person types and what then stands on the screen."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from seat import Seat
from terminal import Terminal
from vocabulary import PASSWORD
from wire import PATIENCE, RunningServer, ServerProcess, ServerThread

import client

HOSTILE = "\x1b[2J\x1b]0;owned\a\x9b31m\r15:04 alice  I owe you 100\x08\u202e\u200b\n15:05 alice  really"


@pytest.fixture
def seats() -> Iterator[list[Seat]]:
    seats: list[Seat] = []
    yield seats
    for seat in seats:
        seat.close()


def sit(seats: list[Seat], server: RunningServer, name: str = "bob", **options: int) -> Seat:
    """Somebody who sits down, makes an account and is logged in."""
    seat = Seat(server.address[0], str(server.address[1]), **options)  # type: ignore[arg-type]
    seats.append(seat)
    seat.until(lambda: any("/register NAME" in row for row in seat.screen.lines()))
    seat.types(f"/register {name}\r").prompts(f"New password for {name}:")
    seat.types(PASSWORD + "\r").prompts("Repeat password:").types(PASSWORD + "\r")
    return seat.sees(f"-- you are {name}").until(lambda: seat.screen.lines()[0] and online(seat))


def online(seat: Seat) -> bool:
    return any(re.match(r"\d+ online ", row) for row in seat.screen.lines())


def test_a_message_does_not_disturb_what_is_typed(server: ServerThread, seats: list[Seat]) -> None:
    bob = sit(seats, server)
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


def test_a_password_is_never_shown(server: ServerThread, seats: list[Seat]) -> None:
    bob = sit(seats, server)
    bob.types("/logout\r").sees("-- logged out").types("/login bob\r").prompts("Password for bob:")
    bob.types(PASSWORD + "\r").prompts("1 online >")
    assert PASSWORD.encode() not in bob.raw
    bob.types("/logout\r").prompts(">").types(f"LOGIN bob {PASSWORD}\r").prompts("1 online >")
    bob.types("/quiet\r").sees("comings and goings are hidden")
    bob.types("\x1b[A\x1b[A").prompts("1 online > /quiet")  # not the line with the password, which stood above
    bob.types("\x15\x04")
    assert bob.leaves() == 0


def test_the_prompt_counts_who_is_online_and_not_who_is_lost(server: ServerThread, seats: list[Seat]) -> None:
    bob = sit(seats, server)
    alice = server.person("alice", kept=True)
    bob.prompts("2 online >")
    alice.reset()
    bob.prompts("1 online >").types("/who\r").sees("-- online: bob ~alice")


def test_a_paste_that_is_too_long_leaves_the_line_as_it_was(server: ServerThread, seats: list[Seat]) -> None:
    bob = sit(seats, server)
    bob.types("to be ").types("\x1b[200~" + "x" * 61_000 + "\x1b[201~")
    bob.until(lambda: any("too long for one message, which holds 60,000 bytes" in row for row in bob.screen.lines()))
    bob.prompts("1 online > to be")


def test_names_are_completed_and_aimed_at(server: ServerThread, seats: list[Seat]) -> None:
    bob = sit(seats, server)
    server.person("alice")
    bob.prompts("2 online >").types("\t\x03").sees("-- Ctrl-C again leaves")  # Tab alone puts in nobody
    bob.types("/to al").prompts("2 online > /to al").types("\t").prompts("2 online > /to alice")
    bob.types("\r").prompts("2 online alice>")
    bob.types("hello\r").sees("→ alice  hello").types("bo").prompts("2 online alice> bo")
    bob.types("\t").prompts("2 online bob>").types("me\r").sees("→ bob  me").prompts("2 online bob>")
    bob.types("/me waves\r").sees("→ bob  * bob waves").sees("bob  * bob waves")
    bob.types("/quit\r")
    assert bob.leaves() == 0


def test_the_prompt_names_the_recipient_while_the_line_is_typed(server: ServerThread, seats: list[Seat]) -> None:
    bob = sit(seats, server)
    alice, carol = server.person("alice"), server.person("carol")
    bob.types("/to alice\r").prompts("3 online alice>").types("carol: ").prompts("3 online carol>")
    bob.types("\x7f").prompts("3 online alice> carol:").types("\x15").prompts("3 online alice>")
    carol.say("SEND bob first")
    bob.sees("carol  first").types("/r ").prompts("3 online alice> /msg carol")
    alice.say("SEND bob second")
    bob.sees("alice  second").types("for you\r").sees("→ carol  for you").prompts("3 online alice>")
    bob.types("@carol ").prompts("3 online alice> /msg carol").types("\x15")
    bob.types("\x1b[200~carol: I think bob is lazy\nbob: I know\x1b[201~")
    bob.until(lambda: any(row == "3 online alice> carol: I think bob is lazy" for row in bob.screen.lines()))
    bob.types("\r").sees("→ alice  carol: I think bob is lazy").prompts("3 online alice>")
    bob.types("zoe: not for alice\r").prompts(
        'nobody called zoe is known here; send "zoe: not for alice" to alice? y/n'
    )
    bob.types("\r").sees("nothing was sent; the Up arrow brings it back").prompts("3 online alice>")
    bob.types("\x1b[A").prompts("3 online alice> zoe: not for alice")
    assert [frame.split(" ", 4)[4] for frame in alice.hears() if frame.startswith("MSG bob ")] == [
        "carol: I think bob is lazy\nbob: I know"
    ]
    assert [frame.split(" ", 4)[4] for frame in carol.hears() if frame.startswith("MSG bob ")] == ["for you"]


@pytest.mark.parametrize("keys", ["\x15", "\x01\x0b", "\x17", "\x7f" * 4])
@pytest.mark.parametrize("at_once", [False, True])
def test_a_line_that_is_emptied_is_as_new(server: ServerThread, seats: list[Seat], keys: str, at_once: bool) -> None:
    bob = sit(seats, server)
    alice = server.person("alice")
    bob.types("/to bob\r").prompts("2 online bob>")
    if at_once:
        bob.types(f"alice: oops{keys}/who\r")
    else:
        bob.types("alice: oops").prompts("2 online alice> oops").types(keys).prompts("2 online bob>").types("/who\r")
    bob.sees("-- online: alice bob").prompts("2 online bob>").types("alice: hm").prompts("2 online alice> hm")
    bob.types(f"{keys if keys[0] != chr(127) else keys[:2]}bob: hi").prompts("2 online bob> hi").types("\r")
    bob.until(lambda: any(row.endswith("→ bob  hi") for row in bob.screen.lines()))
    assert not any(frame.startswith("MSG bob ") for frame in alice.hears())


def test_a_text_that_was_refused_is_not_in_the_line_that_follows(server: ServerThread, seats: list[Seat]) -> None:
    alice, dan = server.person("alice"), server.person("dan")
    bob = Seat(server.address[0], str(server.address[1]))
    seats.append(bob)
    bob.until(lambda: any("/register NAME" in row for row in bob.screen.lines()))
    bob.types("hello\r").sees("nothing was sent; the Up arrow brings it back").prompts(">")
    bob.types("\x1b[A").prompts("> hello").types("\x15").prompts(">").types("/register bob\r")
    bob.prompts("New password for bob:").types(PASSWORD + "\r").prompts("Repeat password:").types(PASSWORD + "\r")
    bob.until(lambda: online(bob)).types("fish2\r").prompts('to whom is "fish2"? (here: alice and dan; * is everybody)')
    bob.types("\x1b").prompts("3 online >")
    bob.types("/msg dan only for dan\r").sees("→ dan  only for dan").prompts("3 online >")
    bob.types("\x1b[A\x1b[A").prompts("3 online > fish2").types("\r").prompts(
        'to whom is "fish2"? (here: alice and dan; * is everybody)'
    )
    bob.types("alice\r").sees("→ alice  fish2").prompts("3 online alice>")
    assert [frame.rpartition("Z ")[2] for frame in alice.hears() if frame.startswith("MSG bob ")] == ["fish2"]
    assert [frame.rpartition("Z ")[2] for frame in dan.hears() if frame.startswith("MSG bob ")] == ["only for dan"]


def test_a_question_stands_in_a_small_window_whatever_is_asked_for_meanwhile(
    server: ServerThread, seats: list[Seat]
) -> None:
    bob = sit(seats, server, width=50, height=15)
    bob.types("zoe: the key is under the mat\r")
    rows = ['nobody called zoe is known here; to whom is "zoe:', 'the key is under the mat"? (nobody else is here)']
    told = ("/help COMMAND tells more", "  where the terminal tells", "-- online: bob")
    for command, words in zip(("", "/help\r", "/help bell\r", "/who\r"), ("", *told), strict=True):
        bob.types(command).until(lambda: [row for row in bob.screen.lines() if row][-2:] == rows)
        bob.until(lambda words=words: words in bob.screen.lines())  # type: ignore[misc]
        assert [row for row in bob.screen.lines() if row][-2:] == rows


def test_a_paste_without_marks_is_one_block(server: ServerThread, seats: list[Seat]) -> None:
    bob = sit(seats, server)
    carol = server.person("carol")
    bob.types("/to bob\r").prompts("2 online bob>")
    carol.say("SEND bob hi")
    bob.sees("carol  hi").types("def f(x):\r\tif x:\r\t\treturn\rcarol: no\r")
    bob.until(lambda: bob.screen.lines()[-1:] and any(row.strip() == "carol: no" for row in bob.screen.lines()))
    bob.types("\r").sees("→ bob  def f(x):").prompts("2 online bob>")
    assert not any(frame.startswith("MSG bob ") for frame in carol.hears())


def test_commands_that_were_typed_ahead_are_done_one_by_one(server: ServerThread, seats: list[Seat]) -> None:
    bob = sit(seats, server)
    bob.types(f"/logout\r/login bob\r{PASSWORD}\r").sees("-- logged out").prompts("1 online >")
    assert PASSWORD.encode() not in bob.raw
    bob.types("/to bob\rhi\r").sees("→ bob  hi")


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_half_a_password_that_is_typed_when_the_login_is_answered_goes_nowhere(
    server_process: ServerProcess, seats: list[Seat], term: str
) -> None:
    server_process.person("alice").says("LOGOUT")
    seat = Seat(*map(str, server_process.address), "--user", "alice", "--to", "alice", TERM=term)
    seats.append(seat)
    seat.until(lambda: b"Password for alice: " in seat.raw)
    server_process.signal(signal.SIGSTOP)
    seat.types(PASSWORD + "\r").until(lambda: b"one moment; what you type is hidden" in seat.raw)
    seat.types("half-a-")
    server_process.signal(signal.SIGCONT)
    words = b"hidden up to Enter" if term != "dumb" else b"finish the hidden line with Enter; it is not sent"
    seat.until(lambda: b"you are alice" in seat.raw).until(lambda: words in seat.raw)
    if term != "dumb":
        seat.types("\x15")  # an empty line is hidden too, and says so
        server_process.person("carol").say("SEND alice hi")
        seat.sees("carol  hi").prompts("2 online hidden up to Enter, and not sent")
    seat.types("secret\r").types("/who\r" if term != "dumb" else "")
    seat.types("hello\r").until(lambda: b"hello" in seat.raw.split(b"you are alice")[1])
    seat.types("\x04")
    seat.leaves()
    assert b"secret" not in seat.raw and b"half-a" not in seat.raw


def test_a_line_that_comes_with_the_dropped_one_is_had_at_once() -> None:
    with contextlib.closing(client.Plain(io.StringIO(), interactive=True)) as plain:
        plain._drops = True
        for line in ("half-a-secret", "hello"):
            plain.mailbox.put(line)
        assert plain.lines() == [client.Line("hello")]


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
@pytest.mark.parametrize("late", [False, True])
def test_the_password_behind_a_refused_login_is_hidden(
    server: ServerThread, seats: list[Seat], term: str, late: bool
) -> None:
    seat = Seat(*map(str, server.address), TERM=term)
    seats.append(seat)
    seat.until(lambda: b"/register NAME" in seat.raw).types("/register bob\r")
    seat.until(lambda: b"New password" in seat.raw).types(PASSWORD + "\r")
    seat.until(lambda: b"Repeat" in seat.raw).types(PASSWORD + "\r").until(lambda: b"online: bob" in seat.raw)
    seat.types("/to bob\r").until(lambda: b"what you type goes to bob" in seat.raw)
    for line in ("/login bob", "/lgoin bob", "/loginmaximilian", "/signin", "login bob"):
        before = len(seat.raw)
        seat.types(line + "\r")
        if late:  # however late
            seat.until(lambda before=before: b"goes on:" in seat.raw[before:])  # type: ignore[misc]
        if late or term != "dumb":
            seat.types("secret-7\rsecret-7\r")
            seat.until(lambda before=before: seat.raw[before:].count(b"was dropped") == 2)  # type: ignore[misc]
        else:
            seat.until(lambda before=before: b"goes on:" in seat.raw[before:])  # type: ignore[misc]
        seat.types("\r")
    seat.types("hello\r").until(lambda: b"bob: hello" in seat.raw or b"bob\x1b[0m  hello" in seat.raw)
    seat.types("\x1b[A\x1b[A" if term != "dumb" else "").types("\x15\x04")
    seat.leaves()
    assert b"secret" not in seat.raw


def test_what_came_at_once_with_its_recipient_is_asked_about(server: ServerThread, seats: list[Seat]) -> None:
    bob = sit(seats, server)
    carol = server.person("carol")
    bob.prompts("2 online >").types("/to bob\r").prompts("2 online bob>")
    bob.types("carol: a line of a log\r").prompts('send "a line of a log" to carol? y/n').types("\r")
    bob.sees("nothing was sent; the Up arrow brings it back")
    bob.types("/msg bob one\rcarol: private\r").sees("→ bob  one").prompts('send "private" to carol? y/n')
    bob.types("n\r").prompts("2 online bob>").types("\x1b[A").prompts("2 online carol> private")
    bob.types("\x03").prompts("2 online bob>")
    assert not any(frame.startswith("MSG bob ") for frame in carol.hears())
    bob.types("carol: gossip").prompts("2 online carol> gossip").types("\r").sees("→ carol  gossip")
    bob.types("/to bob\r").prompts("2 online bob>").types("\x12gos")
    bob.prompts("search 'gos': carol> gossip").types("\x07").prompts("2 online bob>")


def test_what_is_typed_while_a_password_is_checked_is_never_seen_or_sent(
    server_process: ServerProcess, seats: list[Seat]
) -> None:
    server_process.person("alice").says("LOGOUT")
    seat = Seat(*map(str, server_process.address), "--user", "alice", "--to", "alice")
    seats.append(seat)
    seat.prompts("Password for alice:")
    server_process.signal(signal.SIGSTOP)
    try:
        seat.types("wrong-secret\r")  # the server may have been stopped before its first word
        seat.until(lambda: any(row.endswith("hidden, and not sent") for row in seat.screen.lines()))
        seat.types(PASSWORD + "\r").types("half-a-secret")
    finally:
        server_process.signal(signal.SIGCONT)
    seat.until(lambda: any("-- you are alice" in row for row in seat.screen.history())).prompts("1 online alice>")
    seat.types("\x1b[A").types("\x19").types("hello\r").sees("→ alice  hello").types("\x1b[A")
    seat.prompts("1 online alice> hello")
    assert b"secret" not in seat.raw and PASSWORD.encode() not in seat.raw


def test_nothing_from_the_network_does_anything_to_the_terminal(server: ServerThread, seats: list[Seat]) -> None:
    bob = sit(seats, server, width=60)
    server.person("alice").say("SEND bob " + HOSTILE)
    bob.until(lambda: any("really" in row for row in bob.screen.lines()))
    rows = bob.screen.lines()
    first = next(n for n, row in enumerate(rows) if "alice" in row and "<U+001B>[2J" in row)
    assert all(row.startswith(" " * 13) for row in rows[first + 1 :] if "I owe you" in row or "really" in row)
    for bad in (b"\x1b[2J", b"\x1b]0;owned", b"\xc2\x9b", "\u202e".encode(), "\u200b".encode()):
        assert bad not in bob.raw


def test_comings_and_goings_can_be_hidden_and_the_bell_rings(server: ServerThread, seats: list[Seat]) -> None:
    bob = sit(seats, server)
    alice = server.person("alice")
    bob.sees("-- alice is online").types("/quiet\r").sees("comings and goings are hidden")
    alice.says("LOGOUT", f"LOGIN alice {PASSWORD}", "SEND bob one")
    bob.sees("alice  one")
    assert sum("alice is online" in row for row in bob.screen.history()) == 1
    assert bob.screen.bells == 1
    assert bob.screen.title == "(1) alice - Vessages"
    bob.types("/bell\r").sees("the bell rings for messages, and the title of the window counts them")
    assert bob.screen.title == "Vessages"
    bob.types("/bell off\r").sees("the bell never rings, and the title of the window is left alone")
    alice.say("SEND bob two")
    bob.sees("alice  two")
    assert bob.screen.bells == 1
    bob.types("/clear\r").until(lambda: bob.screen.lines()[0] == "2 online >")


def test_focus_is_heard_and_never_typed(server: ServerProcess, seats: list[Seat]) -> None:
    bob = sit(seats, server)
    alice = server.person("alice")
    bob.prompts("2 online >").types("ab\x1b[I").types("c").prompts("2 online > abc")
    alice.say("SEND bob one")
    bob.sees("alice  one").types("\x1b[200~d\x1b[I\x1b[201~e").prompts("2 online > abcde")
    assert bob.screen.bells == 0 and bob.screen.title == ""
    bob.types("\x1b[O").types("f").prompts("2 online > abcdef")
    alice.say("SEND bob two")
    bob.sees("alice  two").until(lambda: bob.screen.title == "(1) alice - Vessages")
    assert bob.screen.bells == 1
    bob.types("\x1b[I").until(lambda: bob.screen.title == "Vessages")
    bob.types("\x15/passwd\r").prompts("Old password:").types(f"correct\x1b[O\x1b[I{PASSWORD[7:]}\r")
    bob.prompts("New password:").types("\x1b").sees("no password, so nothing was done").types("\x04")
    assert bob.leaves() == 0


def test_a_stop_turns_off_what_the_terminal_was_asked_for(server: ServerProcess, seats: list[Seat]) -> None:
    """Where no shell could bring it back, the system does not stop it; so it is in front again at once."""
    bob = sit(seats, server)
    begin, end = (text.encode() for text in (client.TERMINAL_BEGIN, client.TERMINAL_END))
    bob.types("\x1a").until(lambda: bob.raw.count(begin) == 2)
    bob.process.send_signal(signal.SIGTSTP)
    bob.until(lambda: bob.raw.count(begin) == 3)
    assert bob.raw.count(end) == 2 and bob.raw.rindex(end) < bob.raw.rindex(begin)
    bob.prompts("1 online >").types("\x04")
    assert bob.leaves() == 0


def test_a_lost_server_is_counted_down_and_nothing_is_lost(
    server_process: ServerProcess, seats: list[Seat], tmp_path: Path
) -> None:
    bob = sit(seats, server_process)
    server_process.signal(signal.SIGKILL)
    server_process.ends()
    bob.until(lambda: any(re.match(r"… \d s >$", row) for row in bob.screen.lines()))
    bob.types("/msg bob to myself\r").until(lambda: any("…     → bob  to myself" in row for row in bob.screen.lines()))
    with ServerProcess(tmp_path, port=server_process.address[1]):
        bob.sees("bob  to myself").sees("→ bob  to myself").prompts("1 online >")
        assert not any(row.startswith("…") for row in bob.screen.lines())
        assert any(row.startswith("-- back as bob after ") for row in bob.screen.history())
        bob.types("\x04")
        assert bob.leaves() == 0


def test_the_prompt_tells_that_nobody_is_connected(
    server_process: ServerProcess, seats: list[Seat], tmp_path: Path
) -> None:
    seat = Seat(*map(str, server_process.address))
    seats.append(seat)
    seat.prompts(">")
    server_process.signal(signal.SIGTERM)
    server_process.ends()
    seat.prompts("not connected >")
    with ServerProcess(tmp_path, port=server_process.address[1]):
        seat.types(f"REGISTER bob {PASSWORD}\r").prompts("1 online >")


def test_the_window_becomes_narrow_and_wide_again(server: ServerThread, seats: list[Seat]) -> None:
    bob = sit(seats, server)
    bob.types("/to bob\r").prompts("1 online bob>").types("a line with 世界 and 😀 in it")
    bob.prompts("1 online bob> a line with 世界 and 😀 in it")
    bob.resize(40, 20)
    bob.prompts(" it")
    bob.resize(100, 20)
    bob.prompts("1 online bob> a line with 世界 and 😀 in it").types("\r")
    bob.sees("→ bob  a line with 世界 and 😀 in it")


@pytest.mark.parametrize(
    ("window", "environ", "size"),
    [
        ((0, 0), {}, (80, 24)),
        ((0, 0), {"COLUMNS": "100", "LINES": "30"}, (100, 30)),
        ((0, 0), {"COLUMNS": "x", "LINES": "-1"}, (80, 24)),
        ((90, 20), {"COLUMNS": "100", "LINES": "30"}, (90, 20)),
        (None, {"COLUMNS": "100"}, (100, 24)),
    ],
)
def test_the_size_of_a_window_that_does_not_know_it(
    window: tuple[int, int] | None, environ: dict[str, str], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(descriptor: int = 1) -> os.terminal_size:
        if window is None:
            raise OSError
        return os.terminal_size(window)

    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.get_terminal_size", ask)
    assert client.window_size() == size


def test_a_terminal_that_is_not_utf_8(server: ServerThread, seats: list[Seat]) -> None:
    seat = Seat(*map(str, server.address), width=60, PYTHONIOENCODING="iso8859-1")
    seats.append(seat)
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


@pytest.mark.parametrize("arguments", [("--plain",), ()])
def test_plain_lines_on_a_terminal_that_is_not_utf_8(
    server: ServerThread, seats: list[Seat], arguments: tuple[str]
) -> None:
    seat = Seat(*map(str, server.address), *arguments, TERM="dumb", PYTHONIOENCODING="iso8859-1")
    seats.append(seat)
    seat.encoded("iso8859-1")
    seat.sees("-- connected")
    os.write(seat.master, "PING café\n".encode("iso8859-1"))
    seat.until(lambda: "-- PING café ".encode("iso8859-1") in seat.raw).types("\x04")
    assert seat.leaves() == 0


def test_a_window_without_a_size(server: ServerThread, seats: list[Seat]) -> None:
    seat = Seat(*map(str, server.address), width=0, height=0, COLUMNS="", LINES="")
    seats.append(seat)
    seat.screen = Terminal(80, 24)
    seat.until(lambda: any("/register NAME" in row for row in seat.screen.lines()))
    seat.types("all of this is seen").prompts("> all of this is seen").types("\x15\x04\x04")
    assert seat.leaves() == 0


def test_a_first_contact_that_fails_leaves_one_line(seats: list[Seat]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        seat = Seat("127.0.0.1", str(free.getsockname()[1]))
        seats.append(seat)
        assert seat.leaves() == 2
    text = "".join(seat.screen.history())
    assert re.fullmatch(
        r"client\.py: nobody listens at 127\.0\.0\.1 port \d+: check address and port, or ask whoever runs "
        "the server to start it",
        text,
    )


def test_a_dumb_terminal_gets_plain_lines(server: ServerThread, seats: list[Seat]) -> None:
    seat = Seat(*map(str, server.address), TERM="dumb")
    seats.append(seat)
    seat.sees("-- connected").types(f"REGISTER bob {PASSWORD}\n").sees("-- bob is registered").types("\x04")
    assert seat.leaves() == 0
    assert b"\x1b" not in seat.raw


def test_a_dumb_terminal_does_not_show_a_password(server: ServerThread, seats: list[Seat]) -> None:
    server.person("bob").close()
    seat = Seat(*map(str, server.address), TERM="dumb")
    seats.append(seat)
    seat.sees("-- /login NAME, or /register NAME if you are new here; /help lists the commands")
    seat.types("/login bob\n").until(lambda: b"Password for bob: " in seat.raw)
    seat.types(f"{PASSWORD}\n").until(lambda: b"-- you are bob" in seat.raw)
    seat.types("/passwd\n").until(lambda: b"Old password: " in seat.raw).types("\x03")
    assert seat.leaves() == 0
    assert PASSWORD.encode() not in seat.raw


def test_a_terminal_that_another_program_has_made_non_blocking(server: ServerThread, seats: list[Seat]) -> None:
    bob = sit(seats, server)
    os.set_blocking(bob.slave, False)
    lines = [f"{number:03} " + "x" * 60 for number in range(200)]  # more than a terminal takes at once
    server.person("alice").says(*[f"SEND bob {line}" for line in lines])
    bob.until(lambda: any(lines[-1] in row for row in bob.screen.history()))
    assert all(any(line in row for row in bob.screen.history()) for line in lines)
    bob.types("still here").prompts("2 online > still here").types("\x15\x04")
    assert bob.leaves() == 0
    assert not os.get_blocking(bob.slave)  # made so after the start, so it is not ours to change


def test_a_dumb_terminal_that_another_program_has_made_non_blocking(server: ServerThread, seats: list[Seat]) -> None:
    seat = Seat(*map(str, server.address), TERM="dumb")
    seats.append(seat)
    seat.sees("-- connected")
    os.set_blocking(seat.slave, False)
    for word in ("one", "two"):
        seat.types(f"PING {word}\n").until(lambda word=word: f"-- PING {word} ".encode() in seat.raw)  # type: ignore[misc]
    seat.types("\x04")
    assert seat.leaves() == 0


def test_a_terminal_that_is_closed_logs_out(server: ServerThread, seats: list[Seat]) -> None:
    alice = server.person("alice")
    seat = sit(seats, server)
    assert alice.sees("alice", "bob")
    seat.types("half a li")
    seat.hang_up()
    assert alice.sees("alice")
    assert seat.process.wait(PATIENCE) == 0


def test_a_dumb_terminal_that_is_closed_while_it_asks_logs_out(server: ServerThread, seats: list[Seat]) -> None:
    alice = server.person("alice")
    seat = Seat(*map(str, server.address), TERM="dumb")
    seats.append(seat)
    seat.sees("-- connected").types(f"REGISTER bob {PASSWORD}\n").until(lambda: b"-- you are bob" in seat.raw)
    assert alice.sees("alice", "bob")
    seat.types("/passwd\n").until(lambda: b"Old password: " in seat.raw)
    seat.hang_up()
    assert alice.sees("alice")
    assert seat.process.wait(PATIENCE) == 0


def test_ctrl_c_drops_what_is_being_typed_and_then_leaves(server: ServerThread, seats: list[Seat]) -> None:
    seat = sit(seats, server)
    seat.prompts("1 online >").types("not this").prompts("1 online > not this").types("\x03").prompts("1 online >")
    seat.types("/passwd\r").prompts("Old password:").types("old\x03\x03")
    seat.sees("no password, so nothing was done").prompts("1 online >")
    seat.types("\x03").sees("-- Ctrl-C again leaves").types("x\x7f\x03").prompts("1 online >")
    assert seat.process.poll() is None
    seat.types("\x03")
    assert seat.leaves() == 0
    assert "logged out" in seat.raw.decode()


def test_ctrl_c_while_a_tls_server_is_met_leaves_without_a_traceback(seats: list[Seat], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        seat = Seat("127.0.0.1", str(silent.getsockname()[1]), "--tls", HOME=str(tmp_path))
        seats.append(seat)
        with silent.accept()[0] as link:
            link.recv(1)  # its hello: it waits for ours
            seat.types("\x03").sees("-- Ctrl-C again leaves").types("\x03")
            assert seat.leaves() == 0
    assert [row for row in seat.screen.history() if row] == ["-- Ctrl-C again leaves"]


def test_a_long_message_that_waits_leaves_room_for_others(server: ServerThread, seats: list[Seat]) -> None:
    alice = server.person("alice", kept=True)
    alice.lively = False
    bob = sit(seats, server)
    bob.types("/to alice\r").sees("what you type goes to alice").types(f"\x1b[200~{'words ' * 500}\x1b[201~\r")
    bob.until(lambda: any(row.endswith("…") for row in bob.screen.lines()))
    assert sum("words" in row for row in bob.screen.lines()) == 2
    for word in ("two", "three", "four"):
        bob.types(word + "\r").sees(f"…     → alice  {word}")
    bob.sees("…     1 more").prompts("2 online alice>")


def test_the_prompt_tells_when_the_target_is_gone(server: ServerThread, seats: list[Seat]) -> None:
    alice = server.person("alice")
    bob = sit(seats, server)
    bob.types("/to alice\r").prompts("2 online alice>")
    alice.says("LOGOUT")
    bob.prompts("1 online alice (not online)>")


def test_what_is_shown_is_logged(server: ServerThread, seats: list[Seat], tmp_path: Path) -> None:
    log = tmp_path / "chat.log"
    seat = Seat(*map(str, server.address), "--log", str(log))
    seats.append(seat)
    seat.types(f"REGISTER bob {PASSWORD}\r").prompts("1 online >").types("SEND bob hi\r").sees("→ bob  hi").types(
        "\x04"
    )
    assert seat.leaves() == 0
    text = log.read_text(encoding="utf-8")
    stamp = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "
    for line in ("-- you are bob", "bob: hi", "-> bob: hi"):
        assert re.search(f"{stamp}{line}$", text, re.MULTILINE), text
    assert log.stat().st_mode & 0o777 == 0o600  # private messages are in it
    assert text.count(" -> bob: hi") == 1
    assert PASSWORD not in text
    seat = Seat(*map(str, server.address), "--log", str(log))
    seats.append(seat)
    seat.sees("-- the last 2 messages in the log:").sees("bob  hi").sees("→ bob  hi").prompts(">")
    seat.types("/history 1\r").sees("-- the last 1 of 2 messages:").types("\x04")
    assert seat.leaves() == 0
    assert log.read_text(encoding="utf-8").startswith(text)


@pytest.mark.parametrize(
    "line", ["LOGIN bob secret", "/login bob secret", "REGISTER a b", "/takeover a b c", "PASSWD a b"]
)
def test_lines_with_passwords_are_known(line: str) -> None:
    assert client.holds_secret(client.Line(line))
    assert not client.holds_secret(client.Line("/login bob"))
    assert client.holds_secret(client.Line(f"/msg bob {line}")) and client.holds_secret(client.Line(f"/all {line}"))
    assert not client.holds_secret(client.Line("/msg bob log x y z"))
