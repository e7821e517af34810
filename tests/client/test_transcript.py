"""What a person is told, and how it looks, without a terminal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminal import Terminal

import client
import protocol
from client import Bell, Calls, Transcript

MIDNIGHT = next(t for t in (900.0 * n for n in range(96 * 400, 96 * 402)) if client.clock_time(t, "%H:%M") == "00:00")
DAY = 86_400.0


def told(*events: client.Printable, transcript: Transcript | None = None, now: float = 100.0) -> list[str]:
    """The paragraphs of these events, without the time of messages."""
    transcript = transcript or Transcript()
    for event in events:
        transcript.add(event, 100.0)
    rows = ["".join(span.text for span in paragraph.spans) for paragraph in transcript.take(now)]
    return [re.sub(r"^\d\d:\d\d ", "", row) for row in rows]


def test_comings_and_goings_of_a_moment_are_told_together() -> None:
    transcript = Transcript()
    assert told(protocol.Presence(came=("alice", "bob")), transcript=transcript) == []
    changes = protocol.Presence(came=("carol",), left=("bob",), lost=("dave",))
    assert told(changes, transcript=transcript) == []
    assert transcript.due == 100.0 + client.GATHER_SECONDS
    assert told(transcript=transcript, now=transcript.due) == [
        "-- alice and carol are online",
        "-- dave lost the connection",
        "-- bob came and left",
    ]
    assert transcript.due is None
    assert told(transcript=transcript) == []


def test_comings_are_told_before_what_is_said_after_them() -> None:
    told_rows = told(protocol.Presence(came=("alice",)), protocol.Message("alice", 1, 0.0, "hi"))
    assert told_rows == ["-- alice is online", "alice  hi"]


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (["came"], "api is online"),
        (["came", "left"], "api came and left"),
        (["left", "came"], "api left and came back"),
        (["lost", "returned"], "api lost the connection and came back"),
        (["lost", "left", "came"], "api lost the connection and came back"),
        (["left", "came", "lost"], "api left and lost the connection"),
        (["came", "left", "came"], "api is online"),
        (["left", "came", "left"], "api has left"),
    ],
)
def test_nobody_who_comes_and_goes_is_told_of_by_halves(kinds: list[str], words: str) -> None:
    changes = [protocol.Presence(**{kind: ("api",)}) for kind in kinds]
    assert told(*changes, protocol.Message("alice", 1, 0.0, "hi")) == [f"-- {words}", "alice  hi"]


def test_a_restart_tells_nothing_of_those_who_come_back_too() -> None:
    transcript, changed = Transcript(), protocol.Presence
    back = protocol.Back("alice", 3.0, 1, changed(came=("carol",), lost=("bob", "dave")))
    assert told(back, transcript=transcript) == ["-- back as alice after 3 s: 1 message, carol is online"]
    assert told(changed(returned=("bob",)), transcript=transcript) == [] and transcript.due is None
    for change, words in (
        (changed(left=("dave",)), "-- dave has left"),
        (changed(lost=("bob",)), "-- bob lost the connection"),
        (changed(returned=("bob",)), "-- bob is back"),
    ):
        assert told(change, client.Note("hi"), transcript=transcript) == [words, "hi"]
    assert told(back._replace(messages=0), transcript=transcript) == ["-- back as alice after 3 s: carol is online"]
    again = protocol.Back("alice", 4.0, 0, changed(returned=("bob",)))
    assert told(again, transcript=transcript) == ["-- back as alice after 4 s"]


def test_a_lost_link_is_told_once_and_the_prompt_counts_the_seconds() -> None:
    dialled = [client.Dialling("nobody listens", seconds) for seconds in (2.0, 4.0)]
    lost = protocol.LinkLost("connection lost", "", True)
    assert told(protocol.Linked(), lost, client.Dialling("", 1.0), *dialled, protocol.Linked()) == [
        "-- connected",
        "-- connection lost",
        "-- nobody listens",
    ]


def test_a_message_has_its_person_and_its_fate() -> None:
    failed = protocol.Failed(1, "eve", "hi", "not-online", "nobody of that name is online", 0.0)
    waiting = protocol.Waiting(1, "eve", "hi")  # stands above the prompt
    assert told(protocol.Message("eve", 7, 0.0, "a"), protocol.Delivered(1, "eve", "b", 0.0), waiting, failed) == [
        "eve  a",
        "→ eve  b",
        "→ eve  hi  not delivered: nobody of that name is online",
    ]


def test_a_date_does_not_go_back_and_forth() -> None:
    """An own message of just before midnight is delivered after it."""
    transcript = Transcript()
    for wall in (MIDNIGHT - 60, MIDNIGHT + 1, MIDNIGHT + 2, MIDNIGHT + DAY):
        transcript.add(protocol.Message("bob", 0, wall, "hi"), 0.0)
        transcript.add(protocol.Delivered(1, "bob", "own", wall - 30), 0.0)
    rows = told(transcript=transcript)
    assert sum(row.startswith("-- ") for row in rows) == 2, rows


# --- Bell, title and notices ---

HI = protocol.Message("bob", 1, 0.0, "lunch?\nnow")


def called(bell: Bell, *messages: protocol.Message | None, environ: dict[str, str] | None = None) -> Terminal:
    """A terminal that was called for messages, and for comings and goings, in one turn."""
    terminal, calls = Terminal(40, 5), Calls(environ or {})
    for message in messages:
        calls.call(bell, message)
    terminal.feed(calls.write())
    assert calls.write() == ""
    return terminal


@pytest.mark.parametrize("when", client.BELLS)
@pytest.mark.parametrize("desktop", [False, True])
def test_one_bell_one_title_and_one_notice_a_turn(when: str, desktop: bool) -> None:
    terminal = called(Bell(when, desktop), *[HI] * 200)
    assert terminal.bells == (when in ("msg", "all"))
    assert terminal.title == "(200) bob - Vessages" * (when != "off")
    assert terminal.notices == ["(200) bob"] * desktop
    terminal = called(Bell(when, desktop), None, None)  # a coming and a going
    assert (terminal.bells, terminal.title, terminal.notices) == (when == "all", "", [])


def test_the_text_is_seen_only_by_who_asks_for_it() -> None:
    terminal = called(Bell("title", desktop=True, text=True), HI)
    assert terminal.title == "(1) bob: lunch? now - Vessages" and terminal.notices == ["(1) bob: lunch? now"]
    long = called(Bell("title", text=True), HI._replace(text="x" * 60_000)).title
    assert len(long) < 130 and long.endswith("x… - Vessages")


@given(st.text(), st.text(), st.sampled_from([{}, {"TERM_PROGRAM": "iTerm.app"}, {"TMUX": "x"}]))
def test_no_name_and_no_text_does_anything_else(name: str, text: str, environ: dict[str, str]) -> None:
    message = protocol.Message(name, 1, 0.0, text)
    called(Bell("all", desktop=True, text=True), message, environ=environ)  # which refuses all but these sequences


def test_the_title_forgets_what_has_been_seen_and_is_given_back() -> None:
    calls = Calls()
    assert calls.write() == calls.leave() == ""  # it was never set
    calls.call(Bell("title"), HI)
    assert calls.write() == client.title_sequence("(1) bob - Vessages")
    calls.stop()
    assert calls.write() == client.title_sequence("Vessages")
    calls.call(Bell("title"), HI)
    calls.stop()  # in the same turn
    assert calls.write() == ""
    assert calls.leave() == client.title_sequence("")
    assert calls.leave() == ""
