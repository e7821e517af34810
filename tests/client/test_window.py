"""The client's real screen in front of a terminal in memory: what a person types, and what then stands there."""

from __future__ import annotations

import os
import re

import pytest
from room import Room, ScreenDesk
from vocabulary import PASSWORD
from wire import Peer

import client

HOSTILE = "\x1b[2J\x1b]0;owned\a\x9b31m\r15:04 alice  I owe you 100\x08\u202e\u200b\n15:05 alice  really"


@pytest.fixture
def bob(room: Room) -> ScreenDesk:
    return room.at_screen("bob")


def texts_to(peer: Peer) -> list[str]:
    """The messages that came from bob since the last time."""
    return [frame.split(" ", 4)[4] for frame in peer.hears() if frame.startswith("MSG bob ")]


def test_a_password_is_not_shown_and_its_line_is_not_had_again(bob: ScreenDesk) -> None:
    bob.types("/logout\r").sees("-- logged out").types("/login bob\r").prompts("Password for bob:")
    bob.types(PASSWORD + "\r").prompts("1 online >")
    bob.screen.written = ""
    bob.types("/logout\r").prompts(">").types(f"LOGIN bob {PASSWORD}\r").prompts("1 online >")
    bob.types("/quiet\r").sees("comings and goings are hidden")
    bob.types("\x1b[A\x1b[A").prompts("1 online > /quiet")  # not the line with the password, which stood above
    assert bob.stays_secret(PASSWORD)


def test_the_prompt_counts_who_is_online_and_tells_when_the_target_is_gone(room: Room, bob: ScreenDesk) -> None:
    alice, carol = room.rig.person("alice", kept=True), room.rig.person("carol")
    bob.prompts("3 online >").types("/to carol\r").prompts("3 online carol>")
    alice.reset()
    bob.prompts("2 online carol>").types("/who\r").sees("-- online: bob carol ~alice")
    carol.says("LOGOUT")
    bob.prompts("1 online carol (not online)>")


def test_a_paste_that_is_too_long_leaves_the_line_as_it_was(bob: ScreenDesk) -> None:
    bob.types("to be ").types("\x1b[200~" + "x" * 61_000 + "\x1b[201~")
    bob.shows("too long for one message, which holds 60,000 bytes").prompts("1 online > to be")


def test_names_are_completed_and_aimed_at(room: Room, bob: ScreenDesk) -> None:
    room.rig.person("alice")
    bob.prompts("2 online >").types("\t\x03").sees("-- Ctrl-C again leaves")  # Tab alone puts in nobody
    bob.types("/to al").prompts("2 online > /to al").types("\t").prompts("2 online > /to alice")
    bob.types("\r").prompts("2 online alice>")
    bob.types("hello\r").sees("→ alice  hello").types("bo").prompts("2 online alice> bo")
    bob.types("\t").prompts("2 online bob>").types("me\r").sees("→ bob  me").prompts("2 online bob>")
    bob.types("/me waves\r").sees("→ bob  * bob waves").sees("bob  * bob waves")


def test_the_prompt_names_the_recipient_while_the_line_is_typed(room: Room, bob: ScreenDesk) -> None:
    alice, carol = room.rig.person("alice"), room.rig.person("carol")
    bob.types("/to alice\r").prompts("3 online alice>").types("carol: ").prompts("3 online carol>")
    bob.types("\x7f").prompts("3 online alice> carol:").types("\x15").prompts("3 online alice>")
    carol.say("SEND bob first")
    bob.sees("carol  first").types("/r ").prompts("3 online alice> /msg carol")
    alice.say("SEND bob second")
    bob.sees("alice  second").types("for you\r").sees("→ carol  for you").prompts("3 online alice>")
    bob.types("@carol ").prompts("3 online alice> /msg carol").types("\x15")
    bob.types("\x1b[200~carol: I think bob is lazy\nbob: I know\x1b[201~").shows("alice> carol: I think bob is lazy")
    bob.types("\r").sees("→ alice  carol: I think bob is lazy").prompts("3 online alice>")
    bob.types("zoe: not for alice\r").prompts(
        'nobody called zoe is known here; send "zoe: not for alice" to alice? y/n'
    )
    bob.types("\r").sees("nothing was sent; the Up arrow brings it back").prompts("3 online alice>")
    bob.types("\x1b[A").prompts("3 online alice> zoe: not for alice")
    assert texts_to(alice) == ["carol: I think bob is lazy\nbob: I know"]
    assert texts_to(carol) == ["for you"]


def test_a_text_that_was_refused_is_not_in_the_line_that_follows(room: Room) -> None:
    alice, dan = room.rig.person("alice"), room.rig.person("dan")
    bob = room.at_screen()
    bob.types("hello\r").sees("nothing was sent; the Up arrow brings it back").prompts(">")
    bob.types("\x1b[A").prompts("> hello").types("\x15").prompts(">").types(f"REGISTER bob {PASSWORD}\r")
    question = 'to whom is "fish2"? (here: alice and dan; * is everybody)'
    bob.shows("3 online").types("fish2\r").prompts(question).types("\x1b").prompts("3 online >")
    bob.types("/msg dan only for dan\r").sees("→ dan  only for dan").prompts("3 online >")
    bob.types("\x1b[A\x1b[A").prompts("3 online > fish2").types("\r").prompts(question)
    bob.types("alice\r").sees("→ alice  fish2").prompts("3 online alice>")
    assert (texts_to(alice), texts_to(dan)) == (["fish2"], ["only for dan"])


def test_a_question_stands_in_a_small_window_whatever_is_asked_for_meanwhile(room: Room) -> None:
    bob = room.at_screen("bob", width=50, height=15).types("zoe: the key is under the mat\r")
    rows = ['nobody called zoe is known here; to whom is "zoe:', 'the key is under the mat"? (nobody else is here)']
    told = ("/help COMMAND tells more", "  where the terminal tells", "-- online: bob")
    for command, words in zip(("/help\r", "/help bell\r", "/who\r"), told, strict=True):
        bob.until(lambda: [row for row in bob.screen.lines() if row][-2:] == rows)
        bob.types(command).until(lambda words=words: words in bob.screen.lines())  # type: ignore[misc]
        assert [row for row in bob.screen.lines() if row][-2:] == rows


def test_a_paste_without_marks_is_one_block(room: Room, bob: ScreenDesk) -> None:
    carol = room.rig.person("carol")
    bob.types("/to bob\r").prompts("2 online bob>")
    carol.say("SEND bob hi")
    bob.sees("carol  hi").types("def f(x):\r\tif x:\r\t\treturn\rcarol: no\r").shows("carol: no")
    bob.types("\r").sees("→ bob  def f(x):").prompts("2 online bob>")
    assert texts_to(carol) == []


def test_commands_that_were_typed_ahead_are_done_one_by_one(bob: ScreenDesk) -> None:
    bob.screen.written = ""
    bob.types(f"/logout\r/login bob\r{PASSWORD}\r").sees("-- logged out").prompts("1 online >")
    assert bob.stays_secret(PASSWORD)
    bob.types("/to bob\rhi\r").sees("→ bob  hi")


@pytest.mark.parametrize("late", [False, True])
def test_the_password_behind_a_refused_login_is_hidden(bob: ScreenDesk, late: bool) -> None:
    bob.types("/to bob\r").prompts("1 online bob>")
    for line in ("/login bob", "/lgoin bob", "/loginmaximilian", "/signin", "login bob"):
        bob.screen.written = ""
        bob.types(line + "\r")
        if late:
            bob.until(lambda: "goes on:" in bob.screen.written)
        bob.types("secret-7\rsecret-7\r").until(lambda: bob.screen.written.count("was dropped") == 2).types("\r")
        assert bob.stays_secret("secret")
    bob.types("hello\r").sees("→ bob  hello").types("\x1b[A\x1b[A")
    assert bob.stays_secret("secret")


def test_half_a_password_that_is_typed_when_the_login_is_answered_goes_nowhere(room: Room) -> None:
    room.rig.person("alice").says("LOGOUT")
    desk = room.at_screen(user="alice", to="alice").prompts("Password for alice:")
    room.up = False  # the server takes its time
    desk.types(PASSWORD + "\r").shows("one moment; what you type is hidden").types("half-a-")
    room.up = True
    desk.shows("-- you are alice").shows("hidden up to Enter").types("\x15")  # an empty line is hidden too, and says so
    room.rig.person("carol").say("SEND alice hi")
    desk.sees("carol  hi").prompts("2 online hidden up to Enter, and not sent")
    desk.types("secret\r").types("/who\r").types("hello\r").sees("→ alice  hello")
    assert desk.stays_secret("secret", "half-a")


def test_what_is_typed_while_a_password_is_checked_is_never_seen_or_sent(room: Room) -> None:
    room.rig.person("alice").says("LOGOUT")
    desk = room.at_screen(user="alice", to="alice").prompts("Password for alice:")
    room.up = False  # the server takes its time
    desk.types("wrong-secret\r").shows("one moment; what you type is hidden")
    desk.types(PASSWORD + "\r").types("half-a-secret")
    room.up = True
    desk.shows("-- you are alice").prompts("1 online alice>")
    desk.types("\x1b[A").types("\x19").types("hello\r").sees("→ alice  hello").types("\x1b[A")
    desk.prompts("1 online alice> hello")
    assert desk.stays_secret("secret", PASSWORD)


def test_what_came_at_once_with_its_recipient_is_asked_about(room: Room, bob: ScreenDesk) -> None:
    carol = room.rig.person("carol")
    bob.prompts("2 online >").types("/to bob\r").prompts("2 online bob>")
    bob.types("carol: a line of a log\r").prompts('send "a line of a log" to carol? y/n').types("\r")
    bob.sees("nothing was sent; the Up arrow brings it back")
    bob.types("/msg bob one\rcarol: private\r").sees("→ bob  one").prompts('send "private" to carol? y/n')
    bob.types("n\r").prompts("2 online bob>").types("\x1b[A").prompts("2 online carol> private")
    bob.types("\x03").prompts("2 online bob>")
    assert texts_to(carol) == []
    bob.types("carol: gossip").prompts("2 online carol> gossip").types("\r").sees("→ carol  gossip")
    bob.types("/to bob\r").prompts("2 online bob>").types("\x12gos")
    bob.prompts("search 'gos': carol> gossip").types("\x07").prompts("2 online bob>")


def test_nothing_from_the_network_does_anything_to_the_terminal(room: Room) -> None:
    bob = room.at_screen("bob", width=60)
    room.rig.person("alice").say("SEND bob " + HOSTILE)
    rows = bob.shows("really").screen.lines()
    first = next(n for n, row in enumerate(rows) if "alice" in row and "<U+001B>[2J" in row)
    assert all(row.startswith(" " * 13) for row in rows[first + 1 :] if "I owe you" in row or "really" in row)
    assert bob.stays_secret("\x1b[2J", "\x1b]0;owned", "\x9b", "\u202e", "\u200b")


def test_comings_and_goings_can_be_hidden_and_the_bell_rings(room: Room, bob: ScreenDesk) -> None:
    alice = room.rig.person("alice")
    bob.sees("-- alice is online").types("/quiet\r").sees("comings and goings are hidden")
    alice.says("LOGOUT", f"LOGIN alice {PASSWORD}", "SEND bob one")
    bob.sees("alice  one")
    assert sum("alice is online" in row for row in bob.screen.history()) == 1
    assert (bob.screen.bells, bob.screen.title) == (1, "(1) alice - Vessages")
    bob.types("/bell\r").sees("the bell rings for messages, and the title of the window counts them")
    assert bob.screen.title == "Vessages"
    bob.types("/bell off\r").sees("the bell never rings, and the title of the window is left alone")
    alice.say("SEND bob two")
    bob.sees("alice  two")
    assert bob.screen.bells == 1
    bob.types("/clear\r").until(lambda: bob.screen.lines()[0] == "2 online >")


def test_focus_is_heard_and_never_typed(room: Room, bob: ScreenDesk) -> None:
    alice = room.rig.person("alice")
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
    bob.prompts("New password:").types("\x1b").sees("no password, so nothing was done")


def test_a_lost_server_is_counted_down_and_nothing_is_lost(room: Room, bob: ScreenDesk) -> None:
    room.stop()
    bob.until(lambda: any(re.match(r"… \d s >$", row) for row in bob.screen.lines()))
    bob.types("/msg bob to myself\r").shows("…     → bob  to myself")
    room.start()
    bob.sees("bob  to myself").sees("→ bob  to myself").prompts("1 online >")
    assert not any(row.startswith("…") for row in bob.screen.lines())
    assert any(row.startswith("-- back as bob after ") for row in bob.screen.history())


def test_the_prompt_tells_that_nobody_is_connected(room: Room) -> None:
    desk = room.at_screen().prompts(">")
    room.stop()
    desk.prompts("not connected >")
    room.start()
    desk.types(f"REGISTER bob {PASSWORD}\r").prompts("1 online >")


def test_a_long_message_that_waits_leaves_room_for_others(room: Room, bob: ScreenDesk) -> None:
    room.rig.person("alice", kept=True).lively = False
    bob.types("/to alice\r").sees("what you type goes to alice").types(f"\x1b[200~{'words ' * 500}\x1b[201~\r")
    bob.until(lambda: any(row.endswith("…") for row in bob.screen.lines()))
    assert sum("words" in row for row in bob.screen.lines()) == 2
    for word in ("two", "three", "four"):
        bob.types(word + "\r").sees(f"…     → alice  {word}")
    bob.sees("…     1 more").prompts("2 online alice>")


@pytest.mark.parametrize(
    ("window", "environ", "size"),
    [
        ((0, 0), {}, (80, 24)),
        ((0, 0), {"COLUMNS": "", "LINES": ""}, (80, 24)),
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
