"""The reactor under everything that happens to sockets, turned by hand, on both kinds of selector.

First what ends a connection, then readers that do not read, accepting, faults of our own, the workers, stopping, and
the parts of the command line that need no process (those that do are in `test_process.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import getpass
import hashlib
import io
import logging
import os
import queue
import re
import selectors
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import COST, END, KINDS, NOT_NOW, PASSWORD, SELECTORS, STAMP, WALL, Peer, Rig, certificate, encode, running

import protocol
import storage
import vessages
from protocol import Connection, State


@pytest.fixture(params=SELECTORS)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    with running(tmp_path, selector=SELECTORS[request.param]) as rig:
        yield rig


def watched(rig: Rig) -> list[int]:
    """What the selector is asked about for each client."""
    return [key.events for key in rig.selector.get_map().values() if isinstance(key.data, Connection)]


def is_at_rest(rig: Rig) -> bool:
    """Whether the loop waits, as it must when there is nothing to do."""
    rig.turns(4)
    patience = rig.selector.asked[-1]
    return patience is None or patience > 0.1


# --- The turn ---------------------------------------------------------------------------------------------------------


def test_with_nobody_there_the_loop_waits_for_ever(rig: Rig) -> None:
    rig.turns(2)
    assert rig.selector.asked[-1] is None


def test_with_nothing_to_do_the_loop_waits(rig: Rig) -> None:
    bob = rig.people("alice", "bob")[1]
    bob.says("KEEP", "SEND alice hi", "FOO")
    rig.wait(1.5)
    assert is_at_rest(rig)


def test_writability_is_asked_for_only_while_something_is_left_over(rig: Rig) -> None:
    rig.people("alice", "bob")[0].says("SEND bob hi", "WHO")
    assert watched(rig) == [selectors.EVENT_READ] * 2


def test_a_turn_writes_once_to_each(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = rig.people("alice", "bob")[0]
    written: list[bytes] = []
    write = vessages.Server._write

    def count(server: vessages.Server, connection: Connection, data: bytes) -> None:
        written.append(data)
        write(server, connection, data)

    monkeypatch.setattr(vessages.Server, "_write", count)
    alice.say(*["SEND bob hi", "PING"] * 50)
    rig.turn()
    assert len(written) == 2


def test_small_frames_are_not_held_back_by_the_system(rig: Rig) -> None:
    rig.person("alice")
    (connection,) = (key.data for key in rig.selector.get_map().values() if isinstance(key.data, Connection))
    assert connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_flood_does_not_keep_others_waiting(rig: Rig) -> None:
    alice, bob = rig.people("alice", "bob")
    alice.say_bytes(encode("PING") * 9000)
    bob.say("PING bob")
    rig.turns(2)
    bob.take_in()
    assert bob.next() == ["OK PING bob"]
    assert len(alice.next(9000)) == 9000


# --- Ends of connections ----------------------------------------------------------------------------------------------


def leave_politely(peer: Peer) -> None:
    peer.close()


def leave_by_reset(peer: Peer) -> None:
    peer.reset()


def leave_in_the_middle_of_a_frame(peer: Peer) -> None:
    peer.say_bytes(encode("SEND alice half of it")[:9]).close()


def leave_unread(peer: Peer) -> None:
    peer.say(*["WHO"] * 100).reset()


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("leave", [leave_politely, leave_by_reset, leave_in_the_middle_of_a_frame, leave_unread])
def test_whoever_vanishes_is_gone_at_once_or_lost_if_kept(rig: Rig, leave: Callable[[Peer], None], kept: bool) -> None:
    alice = rig.person("alice")
    bob = rig.person("bob", kept=kept)
    assert alice.sees("alice", "bob")
    leave(bob)
    assert alice.sees("alice", "~bob") if kept else alice.sees("alice")
    assert len(rig.hub.connections) == 1
    assert alice.says("WHO") == ["OK WHO alice ~bob" if kept else "OK WHO alice"]


def test_a_lost_session_ends_when_its_grace_is_over(rig: Rig) -> None:
    alice = rig.person("alice")
    bob = rig.person("bob", kept=True)
    bob.reset()
    assert alice.says("#1 SEND bob are you there?", "#2 SEND bob hello?") == []
    rig.wait(59)
    assert alice.sees("alice", "~bob")
    rig.wait(2)
    assert len(alice.hears()) == 2
    assert alice.sees("alice")


def test_messages_to_a_session_that_ends_are_settled(rig: Rig) -> None:
    alice = rig.person("alice")
    bob = rig.person("bob", kept=True)
    alice.says("#1 SEND bob seen")
    bob.hears()
    bob.reset()
    assert alice.sees("alice", "~bob")
    alice.says("#2 SEND bob held")
    rig.wait(61)
    assert [answer.split(" ")[:3] for answer in alice.hears()] == [
        ["#1", "ERROR", "unconfirmed"], ["#2", "ERROR", "not-delivered"],
    ]  # fmt: skip


def test_a_silent_link_is_asked_and_then_closed(rig: Rig) -> None:
    alice, bob = rig.people("alice", "bob")
    bob.lively = False
    rig.wait(19)
    assert bob.next(0) == []
    rig.wait(2)
    assert bob.next() == ["PING"]
    rig.wait(23)
    assert alice.sees("alice", "bob")
    bob.reading = True
    rig.wait(2)
    assert bob.ends() == ["BYE silent", END]
    assert alice.sees("alice")


def test_whoever_answers_the_pings_stays(rig: Rig) -> None:
    rig.people("alice", "bob")
    rig.wait(1000)
    assert rig.peers[0].says("WHO") == ["OK WHO alice bob"]


def test_a_frame_that_was_begun_has_to_end(rig: Rig) -> None:
    alice = rig.person("alice")
    alice.lively = False
    alice.say_bytes(encode("PING of a slow hand")[:-1])
    rig.wait(29)
    assert not alice.ended
    rig.wait(2)
    assert alice.ends() == ["PING", "BYE silent", END]


def test_who_does_not_log_in_has_to_go(rig: Rig) -> None:
    stranger = rig.connect()
    stranger.hears()
    rig.wait(298)
    assert stranger.hears() == []
    rig.wait(3)
    assert stranger.ends() == ["BYE silent", END]


def test_a_ghost_locks_nobody_out(rig: Rig) -> None:
    ghost = rig.person("alice")
    ghost.lively = False
    again = rig.connect()
    rig.wait(1)
    assert again.says(f"LOGIN alice {PASSWORD}")[0].startswith("ERROR already-online")
    rig.wait(3)
    assert again.says(f"LOGIN alice {PASSWORD}")[0].startswith("ERROR already-online")
    rig.wait(2.1)
    assert ghost.ends() == ["PING", "BYE silent", END]
    assert again.says(f"LOGIN alice {PASSWORD}") == [f"OK LOGIN alice last={STAMP}"]


def test_who_is_there_is_not_thrown_out_by_a_second_login(rig: Rig) -> None:
    alice = rig.person("alice")
    again = rig.connect()
    for _ in range(3):
        assert again.says(f"LOGIN alice {PASSWORD}")[0].startswith("ERROR already-online")
        rig.wait(4)
    assert alice.says("WHO") == ["OK WHO alice"]


@pytest.mark.parametrize("after", [0, 300_000])
def test_the_last_frame_arrives_even_if_the_client_goes_on_talking(rig: Rig, after: int) -> None:
    peer = rig.connect()
    peer.say_bytes(encode("PING") + bytes(4) + b"x" * after)
    heard = peer.ends()
    assert heard[0] == "OK PING"
    assert heard[1].startswith("ERROR bad-frame")
    assert heard[2:] == [END]
    assert not peer.was_reset


def test_a_client_that_does_not_close_is_dropped_after_a_moment(rig: Rig) -> None:
    peer = rig.connect()
    peer.say_bytes(bytes(4)).ends()
    assert rig.server.sockets == 1
    rig.wait(2.1)
    assert rig.server.sockets == 0
    assert watched(rig) == []


# --- Readers that do not read -----------------------------------------------------------------------------------------

SMALL = 4096  # bytes the system buffers for a reader who is to be slow


def slow_reader(rig: Rig, name: str, kept: bool = False, buffer: int = SMALL) -> Peer:
    """Somebody who, once logged in, takes nothing."""
    rig.listeners[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    peer = rig.person(name, kept, receive_buffer=buffer)
    peer.reading = False
    return peer


@pytest.mark.parametrize("kept", [False, True])
def test_whoever_sends_to_a_stuck_reader_is_told_busy_and_nothing_is_lost(rig: Rig, kept: bool) -> None:
    bob = slow_reader(rig, "bob", kept)
    alice, carol = rig.person("alice"), rig.person("carol")
    sent = [f"{number} {'x' * 5000}" for number in range(400)]
    answers = alice.says(*[f"#{number} SEND bob {text}" for number, text in enumerate(sent, 1)])
    busy = {int(answer.split(" ")[0][1:]) for answer in answers if "ERROR busy" in answer}
    assert 100 < len(busy) < 300
    assert min(busy) * 5000 < 2**20 + 200_000
    assert carol.says("SEND alice meanwhile") == []
    assert alice.hears() == [f"MSG carol 0 {STAMP} meanwhile"]
    bob.reading = True
    heard = [message.partition("MSG ")[2] for message in bob.hears()]
    assert heard == [f"alice {n} {STAMP} {text}" for n, text in enumerate(sent, 1) if n not in busy]


def test_a_stuck_reader_is_not_read_from(rig: Rig) -> None:
    alice = rig.person("alice")
    bob = slow_reader(rig, "bob")
    alice.says(*[f"SEND bob {'x' * 5000}"] * 40)
    bob.say("PING")
    rig.turns(2)
    assert sorted(watched(rig)) == [selectors.EVENT_READ, selectors.EVENT_WRITE]
    assert is_at_rest(rig)
    bob.reading = True
    assert bob.hears()[40:] == ["OK PING"]
    assert watched(rig) == [selectors.EVENT_READ] * 2


def test_the_answers_of_a_stuck_reader_have_a_limit(rig: Rig) -> None:
    names = [f"person{number}{'x' * 20}" for number in range(30)]
    for name in names:
        rig.person(name)
    bob = slow_reader(rig, "bob")
    bob.socket.setblocking(False)
    data = encode("WHO") * 9000
    sent = 0
    while sent < len(data):  # until the server does not take any more
        try:
            sent += bob.socket.send(data[sent:])
        except BlockingIOError:
            break
        rig.turn()
    rig.turns(20)
    assert rig.hub.figures()["queued bytes"] < 2 * protocol.BACKLOG_MAX
    assert is_at_rest(rig)
    bob.reading = True
    assert len(bob.next(sent // 7)) == sent // 7


def test_a_reader_that_takes_nothing_for_30_seconds_is_closed(rig: Rig) -> None:
    alice = rig.person("alice")
    bob = slow_reader(rig, "bob")
    alice.says(*[f"SEND bob {'x' * 5000}"] * 40)
    rig.wait(29)
    assert alice.sees("alice", "bob")
    rig.wait(1.2 + protocol.WALK_PAUSE)
    bob.reading = True
    assert bob.ends()[-2:] == ["BYE slow", END]
    assert alice.sees("alice")


def test_a_stuck_reader_that_is_closed_is_dropped_after_a_moment(rig: Rig) -> None:
    alice = rig.person("alice")
    slow_reader(rig, "bob")
    alice.says(*[f"SEND bob {'x' * 5000}"] * 40)
    rig.wait(31)
    assert len(watched(rig)) == 2
    rig.wait(2)
    assert len(watched(rig)) == 1


def test_a_reader_that_takes_a_little_stays(rig: Rig) -> None:
    alice = rig.person("alice")
    bob = slow_reader(rig, "bob")
    alice.says(*[f"SEND bob {'x' * 5000}"] * 40)
    for _ in range(6):
        rig.wait(20)
        queued = rig.hub.figures()["queued bytes"]
        bob.reading = True
        while queued and rig.hub.figures()["queued bytes"] == queued:  # the system may want to get rid of more first
            bob.take_in()
            rig.turn()
        bob.reading = False
    bob.reading = True
    assert len(bob.hears()) == 40


def test_over_tls_too_a_reader_that_takes_a_little_stays(tmp_path: Path) -> None:
    with running(tmp_path, tls=True) as rig:
        alice = rig.person("alice")
        bob = slow_reader(rig, "bob")
        alice.says(*[f"SEND bob {'x' * 5000}"] * 40)  # of which the server writes a dozen at once
        for _ in range(8):
            rig.wait(20)
            bob.reading = True
            assert [frame[:9] for frame in bob.next(5)] == ["MSG alice"] * 5  # a record, and some of the next
            bob.reading = False
        bob.reading = True
        assert bob.hears() == []


def test_a_slow_reader_may_take_his_time_over_what_he_was_saying(rig: Rig) -> None:
    alice = rig.person("alice")
    bob = slow_reader(rig, "bob")
    half = encode("PING at last")
    bob.say_bytes(half[:9])
    rig.turns(2)
    alice.says(*[f"SEND bob {'x' * 5000}"] * 40)
    for _ in range(4):  # in which he takes a little, and is not read from
        rig.wait(20)
        queued = rig.hub.figures()["queued bytes"]
        bob.reading = True
        while queued and rig.hub.figures()["queued bytes"] == queued:
            bob.take_in()
            rig.turn()
        bob.reading = False
    bob.reading = True
    bob.say_bytes(half[9:])
    assert bob.hears()[40:] == ["OK PING at last"]


def test_a_logout_comes_after_all_answers_to_a_kept_session(rig: Rig) -> None:
    for number in range(20):
        rig.person(f"person{number}{'x' * 20}")
    alice = rig.connect()
    alice.says(f"REGISTER alice {PASSWORD}", "KEEP", f"LOGIN alice {PASSWORD}")
    heard = alice.say(*["WHO"] * 250, "LOGOUT").hears()
    assert len([answer for answer in heard if "OK WHO" in answer]) == 250
    assert heard[-1] == "OK LOGOUT"


def test_a_slow_reader_gets_a_roster_instead_of_changes(rig: Rig) -> None:
    alice = rig.person("alice")
    bob = slow_reader(rig, "bob")
    alice.says(*[f"SEND bob {'x' * 5000}"] * 40)
    carol = rig.person("carol")
    carol.close()
    rig.person("dave")
    bob.reading = True
    assert len(bob.hears()) == 40
    assert bob.sees("alice", "bob", "dave")
    assert not any("carol" in frame for frame in bob.presence)


def test_held_frames_go_on_when_a_kept_reader_has_caught_up(rig: Rig) -> None:
    alice, carol = rig.people("alice", "carol")
    bob = slow_reader(rig, "bob", kept=True)
    alice.say(f"SEND bob {'x' * 60000}")
    carol.say(f"SEND bob {'x' * 60000}")
    rig.turns(2)
    alice.says("SEND bob the third")  # which finds more on its way than may be, and nothing waiting behind that
    bob.reading = True
    assert [message[-5:] for message in bob.next(3)] == ["xxxxx", "xxxxx", "third"]


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),  # who
        st.sampled_from(["PING", "WHO", "FOO", "SEND p0", "SEND p1", "SEND p2", "read", "stop reading", "wait"]),
        st.sampled_from([1, 500, 30_000, 60_000]),  # how long a text is
        st.sampled_from([1, 2, 5, 40]),  # how often
    ),
    min_size=5,
    max_size=25,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(steps=STEPS, kept=st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_whoever_reads_when_he_likes_is_answered_once_to_each_command_and_in_order(
    kind: str, steps: list[tuple[int, str, int, int]], kept: tuple[bool, bool, bool]
) -> None:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), **KINDS[kind]) as rig:
        people = [Chatter(slow_reader(rig, f"p{number}", kept[number], buffer=2 * SMALL)) for number in range(3)]
        for who, what, length, times in steps:
            people[who].do(what, length, times)
            rig.turn()
        for person in people:
            person.say_the_rest()
        for _ in range(3):  # to hear the messages, to be sure that the ACKs have arrived, and to hear of their fates
            for person in people:
                person.hear_all()
        for person in people:
            person.check(people)


class Chatter:
    """Somebody who says tagged commands and takes notes."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.said: list[str] = []  # the commands; the tag of the first one is 1
        self.unsaid = b""  # what the system did not take yet
        self.answers: dict[int, str] = {}  # by tag, in the order in which they came
        self.messages: set[tuple[str, int]] = set()  # from whom, under which tag

    def do(self, what: str, length: int, times: int) -> None:
        if what in ("read", "stop reading"):
            self.peer.reading = what == "read"
            self.peer.take_in()
        elif what != "wait":
            for _ in range(times):
                self.said.append(what)
                text = " " + "x" * length if what.startswith(("SEND", "PING")) else ""
                self.unsaid += encode(f"#{len(self.said)} {what}{text}")
            with contextlib.suppress(*NOT_NOW):
                self.unsaid = self.unsaid[self.peer.socket.send(self.unsaid) :]

    def say_the_rest(self) -> None:
        self.peer.reading = True
        self.peer.say_bytes(self.unsaid)

    def hear_all(self) -> None:
        number = 0
        for payload in self.peer.hears():
            if payload.startswith("@"):
                number, before, payload = int(payload[1:].partition(" ")[0]), number, payload.partition(" ")[2]
                assert not before or number == before + 1
            mark, _, rest = payload.partition(" ")
            if mark == "MSG":
                message = rest.split(" ")[0], int(rest.split(" ")[1])
                assert message not in self.messages, "shown twice"
                self.messages.add(message)
            else:
                assert int(mark[1:]) not in self.answers, "answered twice"
                self.answers[int(mark[1:])] = rest
        self.peer.say(f"ACK {number}")

    def check(self, people: list[Chatter]) -> None:
        assert set(self.answers) == set(range(1, len(self.said) + 1)), "not answered"
        at_once = [tag for tag in self.answers if not self.said[tag - 1].startswith("SEND")]
        assert at_once == sorted(at_once), "answered out of order"
        own = f"p{people.index(self)}"
        for tag, answer in self.answers.items():
            if self.said[tag - 1].startswith("SEND"):
                recipient = people[int(self.said[tag - 1][-1])]
                assert ((own, tag) in recipient.messages) == (answer == "OK SEND"), "a fate that is not true"


# --- Clocks ---------------------------------------------------------------------------------------------------------


def test_a_suspended_server_reads_what_waits_before_anybody_expires(rig: Rig) -> None:
    alice, bob = rig.people("alice", "bob")
    stranger = rig.connect()
    stranger.hears()
    alice.say("PING from before")
    rig.clock.now += 10_000
    rig.turns(2)
    assert alice.next() == ["OK PING from before"]
    assert [peer.hears() for peer in (bob, stranger)] == [[], []]
    bob.lively = False
    rig.wait(46)
    assert bob.ends() == ["PING", "BYE silent", END]


def test_a_server_that_is_suspended_while_it_has_something_to_read_closes_nobody(tmp_path: Path) -> None:
    with running(tmp_path, tls=True) as rig:
        alice = rig.person("alice")
        newcomer = rig.connect()
        while not rig.server._readable:  # its handshake is done, and it may have said something already
            rig.turn()
        rig.clock.now += 10_000
        rig.turns(2)
        assert [peer.hears() for peer in (alice, newcomer)] == [[], []]


def test_a_suspended_server_reads_the_resume_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP and SIGCONT, or a laptop's lid: CPython's poll finds its time over, and looks at nothing."""
    with running(tmp_path, grace=4) as rig:
        alice, bob = rig.people("alice", "bob", kept=True)
        bob.say("#7 WHO").reset()
        assert alice.sees("alice", "~bob")
        alice.say("#1 SEND bob hi")
        alice.hears()
        rig.wait(1.6)
        back = rig.connect().say(f"RESUME {bob.token} 0")
        rig.clock.now += 10
        with monkeypatch.context() as patches:
            patches.setattr(rig.selector, "select", lambda timeout: [])
            rig.turn()
        heard = [payload.partition(" ")[2][:10] for payload in back.hears() if "OK PING" not in payload]
        assert heard == ["RESUME bob", "#7 OK WHO ", "MSG alice "]


@pytest.mark.parametrize("seconds", [-1e9, 1e8])
def test_a_jump_of_the_wall_clock_changes_only_the_stamps(rig: Rig, seconds: float) -> None:
    alice, bob = rig.person("alice"), rig.person("bob", kept=True)
    bob.reset()
    rig.clock.wall += seconds
    rig.wait(50)
    assert alice.sees("alice", "~bob")
    assert alice.says("SEND alice hi")[0].split(" ")[3] == protocol.format_time(rig.clock.wall)
    rig.wait(11)
    assert alice.sees("alice")


YEARS = 54 * 365.25 * 86400


@pytest.mark.parametrize("seconds", [YEARS, -YEARS])
def test_who_has_logged_in_before_the_clock_was_set_comes_back_by_token(tmp_path: Path, seconds: float) -> None:
    with running(tmp_path) as rig:
        tokens = {name: rig.person(name, kept=True).token for name in ("alice", "bob")}
        rig.peers[0].reset()
        rig.wait(70)  # of alice only the token is left
        rig.clock.wall += seconds
        rig.wait(25)
        now = rig.clock.wall
        for name, token in tokens.items():
            account = rig.store.find_token(token, now)
            assert account is not None and account.username == name
            assert rig.store.find_token(token, now + 8 * 86400) is None


# --- TLS ------------------------------------------------------------------------------------------------------------


def test_after_the_handshake_nothing_has_to_be_said_at_once(tmp_path: Path) -> None:
    with running(tmp_path, tls=True) as rig:
        quiet = rig.connect()
        quiet.lively = False
        rig.wait(44)
        assert quiet.next() == ["PING"]
        assert quiet.says("PING me") == ["OK PING me"]


def test_a_handshake_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    with running(tmp_path, tls=True) as rig:
        alice = rig.person("alice")
        for hello in (b"", b"\x16\x03\x01\x02\x00\x01"):
            rig.tls = False
            slow = rig.connect().say_bytes(hello)
            alice.hears()
            assert is_at_rest(rig)
            rig.wait(29)
            assert not slow.ended
            rig.wait(2)
            assert slow.ends() == [END]
        assert alice.says("WHO") == ["OK WHO alice"]


def test_a_handshake_outlives_a_suspended_server(tmp_path: Path) -> None:
    with running(tmp_path, tls=True) as rig:
        rig.tls = False
        slow = rig.connect().say_bytes(b"\x16\x03\x01\x02\x00\x01")
        rig.turns(2)
        rig.clock.now += 3600  # the lid was closed, which does not count
        rig.wait(29)
        assert not slow.ended
        rig.wait(2)
        assert slow.ends() == [END]


@pytest.mark.parametrize("hello", [encode("LOGIN alice " + PASSWORD), b"GET / HTTP/1.0\r\n\r\n", bytes(100)])
def test_who_does_not_speak_tls_is_sent_away(tmp_path: Path, hello: bytes) -> None:
    with running(tmp_path, tls=True) as rig:
        alice = rig.person("alice")
        rig.tls = False
        plain = rig.connect().say_bytes(hello)
        while not plain.ended:  # by a TLS alert, which is no frame
            rig.turn()
            plain.take_in()
        assert alice.says("WHO") == ["OK WHO alice"]


def test_who_speaks_tls_to_a_plain_server_is_told_in_a_frame(rig: Rig) -> None:
    assert rig.connect().say_bytes(b"\x16\x03\x01\x02\x00\x01").ends()[0].startswith("ERROR bad-frame ")


def test_a_certificate_is_made_for_its_owner_only_and_has_a_fingerprint(tmp_path: Path) -> None:
    cert, key = certificate() / "cert.pem", certificate() / "key.pem"
    with running(tmp_path, tls=True) as rig:
        sock = rig.person("alice").socket
        assert isinstance(sock, ssl.SSLSocket)
        digest = hashlib.sha256(sock.getpeercert(binary_form=True) or b"").hexdigest()
        assert sock.version() in ("TLSv1.2", "TLSv1.3")
    assert vessages.fingerprint(cert).replace(":", "").lower() == digest
    assert sys.platform == "win32" or key.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there is no root")
def test_a_certificate_that_root_makes_belongs_to_the_owner_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, handed_over = tmp_path.stat(), []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda *arguments: handed_over.append(arguments[1:]))
    vessages.tls_context(tmp_path / "cert.pem", tmp_path / "key.pem")
    assert handed_over == [(owner.st_uid, owner.st_gid)] * 2


def test_a_certificate_that_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = certificate()
    vessages.tls_context(folder / "cert.pem", folder / "key.pem")
    monkeypatch.setattr(shutil, "which", fault)
    vessages.tls_context(folder / "cert.pem", folder / "key.pem")


@pytest.mark.parametrize("program", [None, sys.executable, "/no/such/program"])
def test_without_openssl_the_command_to_run_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str | None
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: program)
    with pytest.raises(vessages.StartError, match=r"openssl req -x509 .*key\.pem.*cert\.pem"):
        vessages.tls_context(tmp_path / "cert.pem", tmp_path / "key.pem")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Where a certificate and its key are to be made. The test is skipped where there is nothing to make them with."""
    certificate()
    return tmp_path / "vessages-cert.pem", tmp_path / "vessages-key.pem"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other rights")
@pytest.mark.parametrize("mask", [0, 0o077])
def test_the_key_is_its_owners_whatever_the_umask(pair: tuple[Path, Path], mask: int) -> None:
    before = os.umask(mask)
    try:
        vessages.tls_context(*pair)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in pair] == [0o644, 0o600]


@pytest.mark.parametrize("empty", [(0, 1), (0,), (1,)])
def test_a_pair_that_was_never_whole_is_made_anew(pair: tuple[Path, Path], empty: tuple[int, ...]) -> None:
    for index in empty:
        pair[index].touch()
    vessages.tls_context(*pair)
    assert [path.stat().st_size > 0 for path in pair] == [True, True]
    assert sorted(pair[0].parent.iterdir()) == sorted(pair)


@pytest.mark.parametrize("alone", [0, 1])
def test_a_file_that_was_alone_is_set_aside(
    pair: tuple[Path, Path], alone: int, caplog: pytest.LogCaptureFixture
) -> None:
    vessages.tls_context(*pair)
    before = pair[alone].read_bytes()
    pair[1 - alone].unlink()
    vessages.tls_context(*pair)
    aside = pair[alone].with_name(pair[alone].name + ".old")
    assert aside.read_bytes() == before
    assert pair[alone].read_bytes() != before
    assert f"{pair[alone]} was alone: it is {aside} now" in caplog.text


@pytest.mark.parametrize("broken", [0, 1])
def test_a_certificate_that_cannot_be_loaded_is_never_replaced(pair: tuple[Path, Path], broken: int) -> None:
    vessages.tls_context(*pair)
    pair[broken].write_text("no PEM")
    before = [path.read_bytes() for path in pair]
    with pytest.raises(vessages.StartError, match="cannot use"):
        vessages.tls_context(*pair)
    assert [path.read_bytes() for path in pair] == before


@pytest.mark.skipif(sys.platform == "win32", reason="links are for few there")
def test_a_link_whose_disk_is_not_mounted_stays(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for path in pair:
        path.symlink_to(tmp_path / "not mounted" / path.name)
    with pytest.raises(vessages.StartError, match="No such file"):
        vessages.tls_context(*pair)
    assert all(path.is_symlink() for path in pair)


def test_a_certificate_that_was_chosen_is_never_made(pair: tuple[Path, Path]) -> None:
    vessages.tls_context(*pair)
    pair[1].unlink()
    with pytest.raises(vessages.StartError, match="No such file"):
        vessages.tls_context(*pair, ours=False)
    assert not pair[1].exists()


@pytest.mark.parametrize("written", [[], ["key.pem"], ["key.pem", "cert.pem"]])
def test_a_full_disk_is_told_as_that_and_nothing_is_left(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, written: list[str]
) -> None:
    def run(words: list[str], **_: object) -> None:  # ends well, though what it wrote did not get to the disk
        for name in written:
            (pair[0].parent / "vessages-cert.pem.new" / name).touch()

    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(vessages.StartError, match=re.escape(os.strerror(errno.ENOSPC))):
        vessages.tls_context(*pair)
    assert list(pair[0].parent.iterdir()) == []
    monkeypatch.undo()
    vessages.tls_context(*pair)


def test_a_start_that_was_killed_leaves_nothing_in_the_way(pair: tuple[Path, Path]) -> None:
    drafts = pair[0].with_name("vessages-cert.pem.new")
    drafts.mkdir()
    (drafts / "key.pem").write_text("half a k")
    vessages.tls_context(*pair)
    assert sorted(pair[0].parent.iterdir()) == sorted(pair)


def encrypt(key: Path) -> None:
    words = ["openssl", "pkey", "-in", str(key), "-aes128", "-passout", "pass:the passphrase"]
    key.write_bytes(subprocess.run(words, check=True, capture_output=True).stdout)


def test_without_a_terminal_a_key_with_a_passphrase_is_refused_as_that(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    vessages.tls_context(*pair)
    encrypt(pair[1])
    monkeypatch.setattr(sys, "stdin", io.StringIO("the passphrase"))
    with pytest.raises(vessages.StartError, match=r"key\.pem has a passphrase.*openssl pkey"):
        vessages.tls_context(*pair)


@pytest.mark.parametrize(("word", "said"), [("the passphrase", ""), ("another", "cannot use")])
def test_at_a_terminal_the_passphrase_is_asked_for(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, word: str, said: str
) -> None:
    vessages.tls_context(*pair)
    encrypt(pair[1])
    monkeypatch.setattr(sys, "stdin", mock.Mock(isatty=lambda: True))
    monkeypatch.setattr(getpass, "getpass", lambda prompt: word)
    with pytest.raises(vessages.StartError, match=said) if said else contextlib.nullcontext():
        vessages.tls_context(*pair)


# --- Accepting --------------------------------------------------------------------------------------------------------


def test_a_crowd_comes_in_at_each_listener(tmp_path: Path) -> None:
    with running(tmp_path, listeners=2) as rig:
        for number in range(2 * 60):
            rig.connect(number % 2)
        rig.turn()
        assert rig.server.sockets == 2  # there might have been nobody else
        rig.turn()
        assert rig.server.sockets == 120
        rig.turns(2)
        rig.connect()
        rig.turn()
        assert rig.server.sockets == 121


def test_a_storm_of_newcomers_leaves_no_more_sockets_to_the_selector_than_are_counted_on(tmp_path: Path) -> None:
    with running(tmp_path, listeners=3, connections_max=5, spare_files=18) as rig:
        most = 0
        for number in range(120):
            rig.connect(number % 3)
            if number % 15 == 14:
                for _ in range(4):
                    rig.turn()
                    most = max(most, len(rig.selector.get_map()))
        half_of_the_lingering = int(18 * vessages.LINGERING) // 2
        assert most == 5 + half_of_the_lingering + len(rig.listeners) + len(["the bell"])


@pytest.mark.parametrize("count", [1, 3])
def test_where_there_is_only_select_its_sockets_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    listeners = [sock for _ in range(count) for sock in vessages.bind("127.0.0.1", 0)]
    allowed: list[int] = []
    monkeypatch.setattr(vessages, "bind", lambda host, port: listeners)
    monkeypatch.setattr(selectors, "DefaultSelector", selectors.SelectSelector)
    run = vessages.Server.run

    def note_and_run(server: vessages.Server) -> None:
        allowed.append(server.hub.settings.connections_max)
        run(server)

    monkeypatch.setattr(vessages.Server, "run", note_and_run)
    assert run_main(tmp_path, monkeypatch) == 0
    said = f"at most {allowed[0]} clients at once, not 15000: the select of this system allows no more"
    assert said in caplog.messages
    half_of_the_lingering = int(vessages.SPARE_FILES * vessages.LINGERING) // 2
    assert allowed[0] + half_of_the_lingering + count + len(["the bell"]) <= 512  # FD_SETSIZE of Python on Windows


def run_out_of_descriptors(monkeypatch: pytest.MonkeyPatch, number: int = errno.EMFILE) -> list[int]:
    """From now on nothing can be accepted; each try is counted."""
    tries: list[int] = []

    def accept(listener: socket.socket) -> None:
        tries.append(1)
        raise OSError(number, "Too many open files")

    monkeypatch.setattr(socket.socket, "accept", accept)
    return tries


def test_without_descriptors_the_listener_rests(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = rig.people("alice", "bob")
    tries = run_out_of_descriptors(monkeypatch)
    newcomer = rig.connect()
    rig.turns(10)
    assert len(tries) == 1
    assert is_at_rest(rig)
    assert alice.says("SEND bob all as ever") == []
    assert bob.hears() == [f"MSG alice 0 {STAMP} all as ever"]
    rig.wait(3.5)
    assert 3 <= len(tries) <= 5
    monkeypatch.undo()
    rig.wait(1.1)
    assert newcomer.says("PING") == ["OK PING"]


def test_without_descriptors_all_listeners_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path, listeners=2) as rig:
        run_out_of_descriptors(monkeypatch)
        newcomers = [rig.connect(0), rig.connect(1)]
        rig.turns(4)
        assert is_at_rest(rig)
        monkeypatch.undo()
        rig.wait(1.1)
        assert [newcomer.says("PING") for newcomer in newcomers] == [["OK PING"]] * 2


def test_the_server_can_stop_while_the_listener_rests(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    run_out_of_descriptors(monkeypatch)
    rig.connect()
    rig.turns(2)
    rig.stop()


GONE = [errno.ECONNABORTED, errno.ECONNRESET, errno.ENOTCONN, errno.EPERM, errno.EAGAIN, errno.EINTR]


@pytest.mark.parametrize("number", GONE)
def test_a_newcomer_that_has_gone_again_is_nobody(rig: Rig, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def accept(listener: socket.socket) -> None:
        monkeypatch.undo()
        raise OSError(number, "gone")

    monkeypatch.setattr(socket.socket, "accept", accept)
    assert rig.connect().says("PING") == ["OK PING"]


def test_many_newcomers_that_have_gone_again_hold_nobody_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accept, gone = socket.socket.accept, [ConnectionResetError(errno.ECONNRESET, "reset")] * 200

    def accept_or_fail(listener: socket.socket) -> Any:
        if gone:
            raise gone.pop()
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", accept_or_fail)
    assert rig.connect().says("PING") == ["OK PING"]
    assert not gone
    assert caplog.messages == []


@pytest.mark.parametrize("address", [None, "", b""])
def test_a_newcomer_whose_address_is_not_known_any_more_is_nobody(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, address: Any
) -> None:
    accept = socket.socket.accept

    def accept_nameless(listener: socket.socket) -> Any:
        monkeypatch.undo()
        return accept(listener)[0], address

    monkeypatch.setattr(socket.socket, "accept", accept_nameless)
    assert rig.connect().ends() == [END]
    assert rig.connect().says("PING") == ["OK PING"]


@pytest.mark.parametrize("number", sorted(vessages.EXHAUSTED))
def test_what_another_try_would_meet_again_makes_the_listener_rest(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    tries = run_out_of_descriptors(monkeypatch, number)
    rig.connect()
    rig.turns(10)
    assert len(tries) == 1


def test_a_newcomer_whose_socket_is_broken_is_nobody(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def setblocking(sock: socket.socket, flag: bool) -> None:
        monkeypatch.undo()
        raise OSError(errno.EINVAL, "gone")

    broken = rig.connect()
    monkeypatch.setattr(socket.socket, "setblocking", setblocking)
    rig.turn()
    assert broken.ends() == [END]
    assert rig.connect().says("PING") == ["OK PING"]


def test_a_full_server_sends_the_oldest_stranger_away(tmp_path: Path) -> None:
    with running(tmp_path, connections_max=3) as rig:
        alice = rig.person("alice")
        strangers = [rig.connect(), rig.connect()]
        for stranger in strangers:
            stranger.hears()
        newcomer = rig.connect()
        assert newcomer.hears() == []
        assert strangers[0].ends() == ["BYE full", END]
        assert strangers[1].hears() == []
        assert alice.hears() == []


def test_a_storm_of_strangers_who_hang_on_takes_only_so_many_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path, connections_max=3, spare_files=9) as rig:
        alice = rig.person("alice")
        storm = [rig.connect() for _ in range(40)]
        open_before: list[int] = []
        connect = protocol.Hub.connect

        def count_and_connect(hub: protocol.Hub, address: str) -> protocol.Connection:
            open_before.append(rig.server.sockets)
            return connect(hub, address)

        monkeypatch.setattr(protocol.Hub, "connect", count_and_connect)
        rig.turns(40)
        assert len(open_before) == 40
        assert max(open_before) < 3 + 3
        assert is_at_rest(rig)
        assert alice.says("WHO") == ["OK WHO alice"]
        assert [stranger.says("PING") for stranger in storm[-2:]] == [["OK PING"]] * 2
        assert storm[0].ends()[-1] == END


def test_a_server_full_of_people_sends_the_newcomer_away(tmp_path: Path) -> None:
    with running(tmp_path, connections_max=2) as rig:
        alice, bob = rig.people("alice", "bob")
        assert rig.connect().ends() == ["BYE full", END]
        alice.close()
        assert bob.sees("bob")
        assert rig.connect().says("PING") == ["OK PING"]


def test_a_stale_event_does_not_reach_whoever_has_the_descriptor_now(rig: Rig) -> None:
    alice = rig.person("alice")
    old = rig.connect()
    old.hears()
    (key,) = [
        key for key in rig.selector.get_map().values()
        if isinstance(key.data, Connection) and key.data.session is None
    ]  # fmt: skip
    old.close()
    alice.hears()
    new = rig.connect()
    new.hears()
    new.say("PING new")
    rig.selector.stale.append((key, selectors.EVENT_READ | selectors.EVENT_WRITE))
    rig.turns(2)
    assert new.next() == ["OK PING new"]
    assert alice.says("WHO") == ["OK WHO alice"]


# --- Faults of our own ------------------------------------------------------------------------------------------------


def fault(*_: object) -> Any:
    raise RuntimeError("planted")


@pytest.mark.parametrize("frames_before", [0, 600])
def test_a_fault_in_a_command_costs_one_connection(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, frames_before: int
) -> None:
    alice, bob = rig.people("alice", "bob")
    monkeypatch.setitem(protocol.COMMANDS_BY_STATE[State.LOGGED_IN], "WHO", fault)
    heard = alice.say(*["PING"] * frames_before, "WHO", "PING").ends()
    assert heard == ["OK PING"] * frames_before + [END]
    assert bob.sees("bob")
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_a_fault_in_slow_work_costs_one_connection_and_no_place_at_the_hasher(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bob = rig.person("bob")
    monkeypatch.setattr(protocol.Throttle, "forgive", fault)
    for _ in range(5):
        assert rig.connect().say(f"LOGIN bob {PASSWORD}").ends() == [END]
    monkeypatch.undo()
    assert bob.hears() == []
    rig.person("alice")
    assert len([record for record in caplog.records if record.exc_info]) == 5


def test_a_fault_leaves_a_kept_session_to_come_back_to(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    bob = rig.person("bob", kept=True)
    monkeypatch.setitem(protocol.COMMANDS_BY_STATE[State.LOGGED_IN], "WHO", fault)
    bob.say("WHO").ends()
    assert rig.connect().says(f"RESUME {bob.token} 0")[0].startswith("OK RESUME bob")


# --- The workers ------------------------------------------------------------------------------------------------------


CHECK, HASH, RECORD = (storage, "check_password"), (storage, "hash_password"), (storage.Store, "record_login")


class HeldBack:
    """Slow work that does not end before it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._begun = threading.Event()
        self._let_go = threading.Event()

    def begin(self, rig: Rig, *commands: str, at: tuple[Any, str] = CHECK) -> Peer:
        """Somebody whose last command has come to this piece of work."""
        self.work = work = getattr(*at)

        def wait_and_work(*arguments: Any) -> Any:
            self._begun.set()
            assert self._let_go.wait(30)
            return work(*arguments)

        self._monkeypatch.setattr(*at, wait_and_work)
        peer = rig.connect().say(*commands)
        while not self._begun.is_set():
            rig.turn()
        return peer

    def let_go(self) -> None:
        self._let_go.set()


@pytest.fixture
def held_back(monkeypatch: pytest.MonkeyPatch, rig: Rig) -> Iterator[HeldBack]:
    held_back = HeldBack(monkeypatch)
    yield held_back
    held_back.let_go()  # or the rig could not stop


def test_the_chat_goes_on_while_a_password_is_checked(rig: Rig, held_back: HeldBack) -> None:
    alice, bob = rig.people("alice", "bob")
    rig.connect().says(f"REGISTER carol {PASSWORD}")
    carol = held_back.begin(rig, f"LOGIN carol {PASSWORD}")
    for number in range(20):
        assert alice.says(f"SEND bob {number}") == []
        assert bob.hears() == [f"MSG alice 0 {STAMP} {number}"]
    assert is_at_rest(rig)
    held_back.let_go()
    assert carol.next() == ["OK LOGIN carol"]


def test_what_is_said_meanwhile_waits_its_turn(rig: Rig, held_back: HeldBack) -> None:
    rig.connect().says(f"REGISTER alice {PASSWORD}")
    alice = held_back.begin(rig, f"LOGIN alice {PASSWORD}")
    for payload in ["PING 1", "PING 2", "PING 3 " + "x" * 50000, "PING 4"]:
        for piece in (encode(payload)[:3], encode(payload)[3:7], encode(payload)[7:]):
            alice.say_bytes(piece)
            rig.turn()
    held_back.let_go()
    assert [frame[:9] for frame in alice.next(6)] == [
        "OK LOGIN ", "ONLINE al", "OK PING 1", "OK PING 2", "OK PING 3", "OK PING 4",
    ]  # fmt: skip


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("work", [CHECK, RECORD], ids=["checking", "recording"])
def test_who_is_gone_when_the_password_has_been_checked_begins_no_session(
    rig: Rig, held_back: HeldBack, work: tuple[Any, str], kept: bool
) -> None:
    bob = rig.person("bob")
    rig.connect().says(f"REGISTER alice {PASSWORD}")
    alice = held_back.begin(rig, *["KEEP"] * kept, f"LOGIN alice {PASSWORD}", at=work)
    alice.reset()
    bob.hears()
    held_back.let_go()
    assert rig.person("carol").says("WHO") == ["OK WHO bob carol"]
    rig.wait(3)
    bob.hears()
    assert "alice" not in " ".join(bob.presence)
    rig.stop()
    assert rig.statuses()["alice"] == "offline"


@pytest.mark.parametrize("operate", ["passwd", "remove"])
@pytest.mark.parametrize("command", ["LOGIN", "TAKEOVER"])
def test_what_the_operator_changes_while_a_password_is_checked_holds_at_once(
    rig: Rig, held_back: HeldBack, operate: str, command: str
) -> None:
    rig.connect().says(f"REGISTER ann {PASSWORD}")
    ann = held_back.begin(rig, "KEEP", f"{command} ann {PASSWORD}")
    if operate == "passwd":
        storage.set_password(rig.store.path, "ann", "another password", COST)
    else:
        storage.remove(rig.store.path, "ann")
    held_back.let_go()
    assert ann.hears() == ["OK KEEP 60", "ERROR bad-login wrong name or password"]
    if operate == "passwd":
        assert ann.says(f"{command} ann another password")[0].startswith(f"OK {command} ann token=")
    rig.stop()


def test_what_the_operator_changes_while_a_user_does_is_not_undone(rig: Rig, held_back: HeldBack) -> None:
    rig.person("ann").close()
    ann = held_back.begin(rig, f"TAKEOVER ann {PASSWORD}", f"PASSWD {PASSWORD}\nher own choice", at=HASH)
    storage_hash = held_back.work
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(*HASH, storage_hash)
        storage.set_password(rig.store.path, "ann", "another password", COST)
    held_back.let_go()
    assert ann.hears()[-1] == "ERROR bad-login wrong name or password"
    assert ann.says("LOGOUT", "LOGIN ann another password")[1].startswith("OK LOGIN ann")


@pytest.mark.parametrize("before", [0, 3])
def test_a_command_that_waits_goes_on_when_its_session_is_resumed(rig: Rig, held_back: HeldBack, before: int) -> None:
    bob = rig.person("bob", kept=True)
    for number in range(4):
        rig.connect().says(f"REGISTER p{number} {PASSWORD}")
    first = held_back.begin(rig, f"LOGIN p3 {PASSWORD}")
    others = [rig.connect().say(f"LOGIN p{number} {PASSWORD}") for number in range(before)]
    rig.turns(2)
    bob.say(f"#5 PASSWD {PASSWORD}\nanother password")
    rig.turns(2)
    bob.reset()
    back = rig.connect().say(f"RESUME {bob.token} 0", "#6 WHO")
    rig.turns(2)
    held_back.let_go()
    heard = [payload for payload in back.hears() if "PING" not in payload]
    assert [payload.partition(" ")[2][:9] for payload in heard] == ["RESUME bo", "#5 OK PAS", "#6 OK WHO"]
    for peer, name in zip([first, *others], ["p3", "p0", "p1", "p2"], strict=False):
        assert peer.next() == [f"OK LOGIN {name}"]


def test_many_at_once_are_all_answered(rig: Rig) -> None:
    rig.connect().says(*[f"REGISTER p{number} {PASSWORD}" for number in range(40)])
    crowd = [rig.connect().say(f"LOGIN p{number} {PASSWORD}") for number in range(40)]
    for number, person in enumerate(crowd):
        assert person.next() == [f"OK LOGIN p{number}"]


def full(*_: object) -> Any:
    raise storage.StorageError("vessages.db: the disk is full: free some space, the server then goes on by itself")


DISK_USES = {
    "find": "REGISTER zoe " + PASSWORD, "add": "REGISTER zoe " + PASSWORD, "record_login": "LOGIN bob " + PASSWORD,
    "transaction": "LOGIN bob " + PASSWORD, "find_token": "RESUME token 0",
}  # fmt: skip


@pytest.mark.parametrize("failure", [full, fault])
@pytest.mark.parametrize("method", DISK_USES)
def test_when_the_disk_fails_it_is_said_and_the_chat_goes_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str, failure: Any
) -> None:
    alice, carol = rig.people("alice", "carol")
    rig.connect().says(f"REGISTER bob {PASSWORD}")
    rig.wait(2)
    monkeypatch.setattr(storage.Store, method, failure)
    peer = rig.connect()
    (answer,) = peer.says(DISK_USES[method])
    assert answer.startswith("ERROR storage ")
    assert alice.says("SEND carol hi") == []
    assert [message[-3:] for message in carol.hears()] == [" hi"]
    assert any(record.levelname == "ERROR" for record in caplog.records)
    monkeypatch.undo()
    assert peer.says(DISK_USES[method])[0].startswith(("OK", "ERROR unknown-session"))


def test_an_internal_error_in_one_job_of_the_disk_fails_no_other(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    add = storage.Store.add

    def add_all_but_eve(store: storage.Store, username: str, *rest: Any) -> bool:
        return fault() if username == "eve" else add(store, username, *rest)

    monkeypatch.setattr(storage.Store, "add", add_all_but_eve)
    names = ("alice", "eve", "bob", "carol")
    results = rig.server.disk.perform([protocol.AddAccount(name, name, "no hash") for name in names])
    assert [type(result) for result in results] == [bool, protocol.StorageFailedError, bool, bool]
    assert [name for name in names if rig.store.find(name)] == ["alice", "bob", "carol"]


CHANGES = {"set_password": f"PASSWD {PASSWORD}\nanother one", "record_logout": "LOGOUT"}


@pytest.mark.parametrize(("method", "command"), CHANGES.items())
def test_when_the_disk_fails_who_is_logged_in_stays_so(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, method: str, command: str
) -> None:
    alice = rig.person("alice")
    rig.wait(2)
    monkeypatch.setattr(storage.Store, method, full)
    assert alice.says(command)[0].startswith("ERROR storage ")
    monkeypatch.undo()
    assert alice.says("WHO", command) == ["OK WHO alice", "OK " + command.split(" ")[0]]


def test_a_status_that_could_not_be_saved_is_saved_later(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = rig.people("alice", "bob")
    rig.wait(2)
    monkeypatch.setattr(storage.Store, "record_statuses", full)
    bob.close()
    assert alice.sees("alice")
    rig.wait(3)
    monkeypatch.undo()
    rig.wait(10)
    alice.hears()
    assert rig.statuses() == {"alice": "online", "bob": "offline"}


@pytest.mark.parametrize("failure", [full, fault])
@pytest.mark.parametrize(("function", "command"), [
    ("hash_password", f"REGISTER zoe {PASSWORD}"), ("check_password", f"LOGIN bob {PASSWORD}"),
])  # fmt: skip
def test_when_hashing_fails_it_is_said_and_the_chat_goes_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, function: str, command: str, failure: Any
) -> None:
    alice = rig.person("alice")
    rig.connect().says(f"REGISTER bob {PASSWORD}")
    monkeypatch.setattr(storage, function, failure)
    peer = rig.connect()
    assert [answer.split(" ")[:2] for answer in peer.says(*[command] * 3)] == [["ERROR", "storage"]] * 3
    assert alice.says("PING") == ["OK PING"]
    monkeypatch.undo()
    assert peer.says(command)[0].startswith("OK")


def test_a_higher_cost_reaches_the_disk_with_the_next_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path) as rig:
        rig.person("alice")
        rig.server.hasher._cost = storage.Cost(2, 1, 1)
        rig.person("bob").close()
        again = rig.connect()
        again.says(f"TAKEOVER alice {PASSWORD}")
        account = rig.store.find("alice")
        assert account is not None
        assert account.password.startswith(("scrypt$2$1$1$", "pbkdf2$"))
        assert again.says("LOGOUT", f"LOGIN alice {PASSWORD}")[1].startswith("OK LOGIN alice")


# --- Stopping ---------------------------------------------------------------------------------------------------------


def test_everybody_is_told_and_the_statuses_are_on_disk(rig: Rig) -> None:
    alice, bob, stranger = rig.person("alice"), rig.person("bob", kept=True), rig.connect()
    stranger.hears()
    rig.connect().says(f"REGISTER carol {PASSWORD}")
    rig.stop()
    for peer in (alice, bob, stranger):
        assert peer.ends()[-2:] == ["BYE shutdown", END]
    assert rig.statuses() == {"alice": "offline", "bob": "lost", "carol": "offline"}


def test_what_was_said_before_the_stop_arrives(rig: Rig) -> None:
    alice, bob = rig.people("alice", "bob")
    alice.say(*[f"SEND bob {number}" for number in range(100)])
    rig.turn()
    rig.stop()
    assert bob.ends() == [*[f"MSG alice 0 {STAMP} {number}" for number in range(100)], "BYE shutdown", END]


def test_a_reader_that_is_stuck_does_not_hold_the_stop_up(rig: Rig) -> None:
    alice = rig.person("alice")
    bob = slow_reader(rig, "bob")
    alice.says(*[f"SEND bob {'x' * 5000}"] * 40)
    alice.close()
    began = rig.clock.now
    rig.stop()
    assert 4.9 < rig.clock.now - began < 6
    bob.close()


def test_the_log_is_told_who_comes_and_goes_and_when(rig: Rig) -> None:
    rig.person("alice").close()
    rig.clock.wall += 7
    rig.turns(3)
    said = ["alice registered from 127.0.0.1", "alice logged in from 127.0.0.1", "alice left: closed by the client"]
    assert rig.log == [*zip((WALL, WALL, WALL + 7), said, strict=True)]


def test_newcomers_at_the_moment_of_the_stop_do_no_harm(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.server.stop()
    newcomer = rig.connect()
    rig.stop()
    assert newcomer.ends()[-1] == END
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


@pytest.mark.parametrize("kept", [False, True])
def test_a_login_that_the_stop_overtakes_leaves_nobody_online(
    rig: Rig, held_back: HeldBack, kept: bool
) -> None:
    rig.connect().says(f"REGISTER alice {PASSWORD}")
    alice = held_back.begin(rig, *["KEEP"] * kept, f"LOGIN alice {PASSWORD}", at=RECORD)
    rig.server.stop()
    rig.turns(2)
    held_back.let_go()
    rig.stop()
    assert alice.ends()[-2:] == ["BYE shutdown", END]
    assert rig.statuses() == {"alice": "offline"}


def test_a_stop_does_not_wait_for_passwords(rig: Rig, held_back: HeldBack) -> None:
    rig.connect().says(f"REGISTER alice {PASSWORD}")
    alice = held_back.begin(rig, f"LOGIN alice {PASSWORD}")
    rig.server.stop()
    rig.turns(2)
    assert alice.ends() == ["BYE shutdown", END]
    held_back.let_go()
    rig.stop()
    assert rig.statuses() == {"alice": "offline"}


def test_a_restart_is_a_lost_connection(tmp_path: Path) -> None:
    with running(tmp_path) as rig:
        bob = rig.person("bob", kept=True)
        rig.person("alice")
        rig.stop()
    with running(tmp_path) as rig:
        carol = rig.person("carol")
        assert carol.sees("~bob", "carol")
        assert carol.says("SEND bob welcome back") == []
        back = rig.connect()
        assert back.says(f"RESUME {bob.token} 7") == ["OK RESUME bob 0 7", f"@8 MSG carol 0 {STAMP} welcome back"]
        assert carol.sees("bob", "carol")


def test_the_store_may_be_used_again_after_the_stop(rig: Rig, tmp_path: Path) -> None:
    rig.person("alice")
    rig.stop()
    store = storage.open_store(tmp_path / "vessages.db")
    account = store.find("alice")
    store.close()
    assert account is not None
    assert (account.status, account.last_login) == ("offline", WALL)


def test_a_password_that_the_operator_has_changed_ends_the_way_back(rig: Rig) -> None:
    alice, bob = rig.person("alice"), rig.person("bob", kept=True)
    storage.set_password(rig.store.path, "bob", "another password", storage.Cost(1, 1, 1))
    assert bob.says("WHO")[0].endswith(" OK WHO alice bob")
    bob.reset()
    assert alice.sees("alice", "~bob")
    rig.wait(1.5)
    rig.person("eve")  # behind it in the disk's queue
    assert rig.connect().says(f"RESUME {bob.token} 0")[0].startswith("ERROR unknown-session ")


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The codes with which the process would have ended at once."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


def test_a_second_signal_counts_from_half_a_second_on(rig: Rig, exits: list[int]) -> None:
    rig.server._on_signal(2, None)
    for wait in (0.0, 0.002, 0.4):
        rig.clock.now += wait
        rig.server._on_signal(2, None)
    assert exits == []
    rig.clock.now += 0.1
    rig.server._on_signal(15, None)
    assert exits == [128 + 15]


def test_a_signal_ends_a_server_that_stops_for_another_reason(rig: Rig, exits: list[int]) -> None:
    rig.server.stop()
    rig.server._on_signal(15, None)
    assert exits == [128 + 15]


def test_a_signal_after_the_end_is_no_fault(rig: Rig, exits: list[int]) -> None:
    rig.server._on_signal(15, None)
    rig.stop()
    rig.server._on_signal(15, None)
    rig.server._on_question(10, None)


def asked(rig: Rig) -> list[str]:
    """The table that a question at the server is answered with, with single spaces."""
    del rig.log[:]
    rig.server._on_question(10, None)
    rig.turns(2)
    assert " connections, " in rig.log[0][1]
    return [" ".join(line.split()) for _, line in rig.log[1:]]


def hour(wall: float) -> str:
    """The local time in hours and minutes."""
    return datetime.fromtimestamp(wall).strftime("%H:%M")


def test_a_table_says_who_is_connected_and_what_waits(rig: Rig) -> None:
    came, just_before = hour(WALL), hour(WALL - 1)  # the rig's clock gains a little on its wall clock
    assert asked(rig) == []
    rig.person("alice")
    bob = rig.person("bob", kept=True)
    bob.say("ACK 1")  # the answer to the PING with which it was heard that all had come
    rig.connect().hears()
    rig.wait(7)
    rig.peers[0].says("SEND bob one", "SEND bob two")
    two = 2 * len(encode(f"@2 MSG alice 0 {STAMP} one"))
    assert asked(rig) == [
        "since idle unsent held address name",
        f"{came} 7 s 0 {two} B/2 127.0.0.1 bob",
        f"{just_before} 7 s 0 0 127.0.0.1 not logged in",
        f"{came} 0 s 0 0 127.0.0.1 alice",
    ]
    bob.reset()
    rig.wait(3)
    assert asked(rig)[1] == f"{came} 3 s 0 {two} B/2 (lost) bob"


ROW = protocol.Row("192.168.1.23", "", WALL, 44.0, (0, 0), (0, 0))


def test_a_row_of_the_table_fits_80_columns_with_its_time() -> None:
    rows = [ROW, ROW._replace(name="bartholomew"), ROW._replace(held=(61 * 1024, 12))]
    for line in vessages.table(rows, WALL):
        assert len(f"{vessages.local_time(WALL)} {line}") <= 80


def test_a_name_in_wide_letters_moves_no_column_of_the_table() -> None:
    lines = vessages.table([ROW, ROW._replace(name="張偉"), ROW._replace(name="e\u0301ve")], WALL)
    assert len({line.index("192.") for line in lines[1:]}) == 1
    assert [line.partition(ROW.address + " ")[2] for line in lines[1:]] == ["not logged in", "張偉", "e\u0301ve"]


def test_somebody_who_came_on_another_day_has_it_in_the_table() -> None:
    assert vessages.clock_or_day(WALL, WALL + 60) == hour(WALL)
    assert vessages.clock_or_day(WALL, WALL + 86_400) == datetime.fromtimestamp(WALL).strftime("%d %b")


def test_the_table_shows_what_a_stuck_reader_has_not_taken(rig: Rig) -> None:
    alice = rig.person("alice")
    slow_reader(rig, "bob")
    while not any("busy" in answer for answer in alice.says(*[f"SEND bob {'x' * 60000}"] * 20)):
        pass
    (row,) = [row for row in asked(rig) if row.endswith(" bob")]
    unsent = re.search(r" (\d+) KiB/(\d+) ", row)
    assert unsent is not None
    assert int(unsent[1]) > 60
    assert int(unsent[2]) > 1


def test_the_table_has_an_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vessages, "ROWS_MAX", 2)
    rig.people("alice", "bob", "carol")
    rig.person("dave", kept=True).reset()
    rig.turns(2)
    rows = asked(rig)
    assert len(rows) == 1 + 2 + 1
    assert rows[-1] == "… and 2 more"


# --- What the log says ------------------------------------------------------------------------------------------------


ENDINGS: list[tuple[str, Callable[[Peer], object]]] = [
    ("closed by the client", Peer.finish),
    *([("Connection reset by peer", Peer.reset)] if sys.platform != "win32" else []),  # there in other words
    ("bad frame", lambda peer: peer.say_bytes(bytes(4))),
    ("not UTF-8", lambda peer: peer.say(*[b"\xff"] * protocol.ENCODING_FAULTS_MAX)),
]


@pytest.mark.parametrize(("reason", "end"), ENDINGS)
def test_the_verbose_log_says_why_a_connection_ended(
    rig: Rig, caplog: pytest.LogCaptureFixture, reason: str, end: Callable[[Peer], object]
) -> None:
    caplog.set_level("DEBUG")
    stranger = rig.connect()
    assert stranger.says("PING") == ["OK PING"]
    end(stranger)
    rig.turns(3)
    rig.wait(vessages.LINGER)
    assert [line.rpartition(": ")[2] for line in caplog.messages if "disconnected" in line] == [reason]


def test_the_verbose_log_says_in_words_why_there_is_no_tls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with running(tmp_path, tls=True) as rig:
        rig.tls = False
        rig.connect().say_bytes(b"GET / HTTP/1.0\r\n\r\n")
        rig.turns(3)
    assert any(line.endswith(": no TLS: http request") for line in caplog.messages)


# --- Backups ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vessages.db"


class Clock:
    """The wall clock that a test moves."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


HOUR, DAY = 3600.0, 86_400.0
NOON = 1_795_359_600.0  # 2026-11-22T15:00:00Z


def backups_at(path: Path, clock: Clock, every: float = DAY, keep: int | None = None) -> vessages.Backups:
    """As a server that was started now."""
    storage.open_store(path).close()
    return vessages.Backups(path, every, keep, clock)


def stamps(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.glob("backups/*.db"))


def test_a_server_that_is_restarted_more_often_than_backed_up_makes_its_backups(path: Path) -> None:
    """Eight hours a day in use, one backup a day: each is made at the start of the next morning, at the latest."""
    clock = Clock(NOON)
    for _ in range(5):
        backups = backups_at(path, clock)
        for _ in range(8):
            backups.look()
            clock.now += HOUR
        clock.now += 16 * HOUR
    days = ["22", "23", "24", "25", "26"]
    assert stamps(path) == [f"vessages-2026-11-{day}T150000Z.db" for day in days]


def test_a_backup_is_due_an_interval_after_the_newest_one_of_this_database(path: Path) -> None:
    clock = Clock(NOON)
    backups = backups_at(path, clock)
    assert backups.due() == NOON  # There is none.
    other = path.with_name("other.db")
    storage.open_store(other).close()
    storage.backup(other, now=NOON)
    assert backups.due() == NOON
    storage.backup(path, now=NOON - 28 * DAY)
    assert backups.due() == NOON - 27 * DAY
    storage.backup(path, now=NOON - HOUR)  # By hand, perhaps.
    assert backups.due() == NOON + 23 * HOUR and backups.look() == vessages.BACKUP_LOOK
    clock.now = NOON + 23 * HOUR - 5
    assert backups.look() == 5
    clock.now += 5
    backups.look()
    assert backups.due() == clock.now + DAY and "vessages-2026-11-23T140000Z.db" in stamps(path)


def test_a_clock_that_was_wrong_for_a_while_does_not_put_backups_off(path: Path) -> None:
    clock = Clock(NOON + 1000 * DAY)
    backups = backups_at(path, clock)
    backups.look()
    clock.now = NOON
    assert backups.due() == backups_at(path, clock).due() == NOON
    backups.look()
    assert backups.due() == NOON + DAY and len(stamps(path)) == 2


def test_a_folder_that_cannot_be_listed_is_not_filled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(NOON)
    backups = backups_at(path, clock)
    monkeypatch.setattr(storage, "newest_backup", lambda path, now: None)
    for _ in range(48):
        backups.look()
        clock.now += HOUR
    assert len(stamps(path)) == 2


def test_backups_go_on_after_one_that_failed(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    report = storage.BackupReport(path.parent / "the backup", 3, 4096, [], ("1 of the older backups cannot …",))
    outcomes: list[Callable[[], Any]] = [full, lambda: report, full]

    def back_up(path: Path, keep: int | None, now: float) -> storage.BackupReport:
        assert (path, keep) == (path, 5)
        made: storage.BackupReport = outcomes.pop(0)()
        return made

    clock = Clock(NOON)
    backups = backups_at(path, clock, keep=5)
    monkeypatch.setattr(storage, "backup", back_up)
    waits = []
    for _ in range(3):
        waits.append(backups.look())
        clock.now = max(clock.now + waits[-1], backups.due())
    assert waits == [vessages.BACKUP_AGAIN, vessages.BACKUP_LOOK, vessages.BACKUP_AGAIN]
    said = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in said] == ["backup failed", "backup", "backup", "backup failed"]
    assert "the backup, 3 accounts, 4096 bytes" in said[1] and "cannot" in said[2] and "next try at" in said[0]


def test_a_backup_that_is_being_made_is_finished_before_the_server_ends(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, may_end, make = threading.Event(), threading.Event(), storage.backup

    def slow_backup(*arguments: Any, **options: Any) -> storage.BackupReport:
        made.set()
        assert may_end.wait(30)
        return make(*arguments, **options)

    monkeypatch.setattr(storage, "backup", slow_backup)
    backups = backups_at(path, Clock(NOON))
    backups.begin()
    assert made.wait(30) and stamps(path) == []
    join = backups._thread.join

    def wait(seconds: float) -> None:
        may_end.set()
        join(seconds)

    monkeypatch.setattr(backups._thread, "join", wait)
    backups.end()
    assert stamps(path) == ["vessages-2026-11-22T150000Z.db"]


def test_the_start_says_when_the_next_backup_is_due(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(vessages, "start", lambda thread: None)
    clock = Clock(NOON)
    backups_at(path, clock).begin()
    storage.backup(path, now=NOON)
    backups_at(path, clock).begin()
    said = [record.getMessage() for record in caplog.records]
    assert said == ["backup: one is due now", f"backup: the next one is due at {vessages.local_time(NOON + DAY)}"]


# --- The command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["-1", "65536", "five", "", "5000.0"])
def test_a_port_that_is_none(text: str) -> None:
    with pytest.raises(SystemExit) as caught:
        vessages.make_parser().parse_args(["127.0.0.1", text])
    assert caught.value.code == 2


@pytest.mark.parametrize("text", ["nan", "inf", "0", "86401", "long"])
def test_a_grace_that_is_none(text: str) -> None:
    with pytest.raises(SystemExit):
        vessages.make_parser().parse_args(["127.0.0.1", "0", "--grace", text])


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("30m", 1800.0), ("6h", 21600.0), ("30d", 2592000.0)])
def test_a_duration(text: str, seconds: float) -> None:
    assert vessages.make_parser().parse_args(["h", "0", "--backup-every", text]).backup_every == seconds


@pytest.mark.parametrize("text", ["", "5", "h", "0h", "-1h", "1.5h", "1y", "²h", "31d", "721h", "9" * 99 + "s"])
def test_a_duration_that_is_none(text: str) -> None:
    with pytest.raises(SystemExit):
        vessages.make_parser().parse_args(["h", "0", "--backup-every", text])


def test_what_a_wrong_cost_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        vessages.make_parser().parse_args(["h", "0", "--hash-cost", "99"])
    assert "log2(N)" in capsys.readouterr().err


def test_every_option_has_its_help() -> None:
    options = [action for action in vessages.make_parser()._actions if action.help is not argparse.SUPPRESS]
    assert all(action.help for action in options)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "999.1.1.1", "x" * 300])
def test_a_host_that_is_none(host: str) -> None:
    with pytest.raises(vessages.StartError, match="there is no address"):
        vessages.bind(host, 0)


def test_an_address_of_another_machine() -> None:
    with pytest.raises(vessages.StartError, match=r"no address 192\.0\.2\.1"):
        vessages.bind("192.0.2.1", 0)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of Linux")
def test_after_an_outage_the_system_soon_tries_again(rig: Rig) -> None:
    (listener,) = rig.listeners
    try:
        listener.getsockopt(socket.IPPROTO_TCP, vessages.TCP_RTO_MAX_MS)
    except OSError:
        pytest.skip("this Linux is older than 6.15")
    rig.person("alice")
    (accepted,) = (connection.socket for connection in rig.hub.connections)
    assert accepted.getsockopt(socket.IPPROTO_TCP, vessages.TCP_RTO_MAX_MS) == vessages.SEND_AGAIN_WITHIN


def test_an_older_system_tries_again_when_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vessages, "TCP_RTO_MAX_MS", 9999)  # which no system knows
    (listener,) = vessages.bind("127.0.0.1", 0)
    listener.close()


def test_a_port_in_use() -> None:
    (listener,) = vessages.bind("127.0.0.1", 0)
    with listener, pytest.raises(vessages.StartError, match="is in use"):
        vessages.bind("127.0.0.1", listener.getsockname()[1])


def test_lan_addresses_of_a_listener_on_loopback() -> None:
    assert vessages.lan_addresses(["127.0.0.1"]) == ["127.0.0.1"]


def no_interface(*_: object) -> str:
    raise OSError(errno.ENXIO, "No such device or address")


class Listener(socket.socket):
    """As far as it is asked where it is bound."""

    def getsockname(self) -> tuple[str, int, int, int]:
        return "fe80::77", 5000, 0, 1


@pytest.mark.skipif(sys.platform == "win32", reason="there zones are numbers")
def test_a_link_local_address_has_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "if_indextoname", {1: "lab0"}.__getitem__)
    with Listener() as listener:
        assert vessages.bound_address(listener) == "fe80::77%lab0"
        monkeypatch.setattr(socket, "if_indextoname", no_interface)
        assert vessages.bound_address(listener) == "fe80::77%1"


def test_a_line_to_join_with_says_which_part_is_this_machines() -> None:
    text = vessages.Greeting(["fe80::77%lab0"], 5000, "").text(["fe80::77%lab0"])
    assert " client.py fe80::77%lab0 5000\nwhere the word behind % is this machine's " in text


def test_an_address_that_needs_a_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::77", 0, 0, 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [found])
    with pytest.raises(vessages.StartError, match=r"add %INTERFACE, such as fe80::77%eth0"):
        vessages.bind("fe80::77", 0)


def test_a_port_that_windows_keeps_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise PermissionError(errno.EACCES, "forbidden")

    monkeypatch.setattr(vessages, "_listen_at", refuse)
    cases = [("win32", 50000, "netsh interface"), ("win32", 80, "above 1023"), ("linux", 80, "above 1023")]
    for platform, port, said in cases:
        monkeypatch.setattr(sys, "platform", platform)
        with pytest.raises(vessages.StartError, match=said):
            vessages.bind("127.0.0.1", port)


EVERYWHERE = ["0.0.0.0"]
LOOPBACK = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 0))
NAMED = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.7.7.7", 0))


class WithoutRoute(socket.socket):
    def connect(self, address: Any) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has no default route, its interfaces are loopback, and its name stands for that only."""
    monkeypatch.setattr(socket, "socket", WithoutRoute)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [LOOPBACK])
    monkeypatch.setattr(vessages, "interface_addresses", lambda: ["127.0.0.1", "::1", "fe80::1"])


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> queue.SimpleQueue[str]:
    """The greetings that were printed."""
    texts: queue.SimpleQueue[str] = queue.SimpleQueue()
    monkeypatch.setattr(vessages, "tell", texts.put)
    return texts


def test_without_a_default_route_the_interfaces_are_asked(isolated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vessages, "interface_addresses", lambda: ["127.0.0.1", "10.1.2.3", "10.4.5.6", "fd00::5"])
    assert vessages.lan_addresses(EVERYWHERE) == ["10.1.2.3", "10.4.5.6"]
    assert vessages.lan_addresses(["::"]) == ["10.1.2.3", "10.4.5.6", "fd00::5"]


@pytest.mark.skipif(sys.platform != "linux", reason="asked on Linux only")
def test_the_interfaces_tell_their_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "127.0.0.1" in vessages.interface_addresses()
    (tmp_path / "if_inet6").write_text("fd000001000000000000000000000005 03 40 00 80     eth0\n")
    monkeypatch.setattr(vessages, "IF_INET6", tmp_path / "if_inet6")
    assert vessages.interface_addresses()[-1] == "fd00:1::5"


def test_if_nothing_tells_an_address_the_greeting_does_not_say_loopback(
    isolated: None, told: queue.SimpleQueue[str]
) -> None:
    vessages.greet(vessages.Greeting(EVERYWHERE, 5000, "Accounts: here"))
    assert told.get(timeout=60).splitlines() == [
        f"Vessages {vessages.VERSION} listens at 0.0.0.0 port 5000.",
        "Accounts: here",
        f"Others join with ({vessages.OTHER_SYSTEM}: {vessages.OTHER_PYTHON} instead of {storage.PYTHON})",
        f"    {storage.PYTHON} client.py ADDRESS 5000",
        "where ADDRESS is that of this machine in the network.",
        f"Ctrl-C stops the server, {vessages.QUESTION_KEY} logs who is connected.",
    ]


def test_a_name_server_that_does_not_answer_holds_nothing_up(
    isolated: None, told: queue.SimpleQueue[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()

    def getaddrinfo(*_: object, **__: object) -> list[Any]:
        answer.wait(60)
        return [NAMED]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(vessages, "NAME_WITHIN", 0.01)
    vessages.greet(vessages.Greeting(EVERYWHERE, 5000, ""))  # comes back
    assert " client.py ADDRESS 5000" in told.get(timeout=60)
    answer.set()


def test_the_name_is_asked_for_where_nothing_else_tells_an_address(
    isolated: None, told: queue.SimpleQueue[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [NAMED])
    vessages.greet(vessages.Greeting(EVERYWHERE, 5000, ""))
    assert " client.py 10.7.7.7 5000" in told.get(timeout=60)


@pytest.mark.parametrize("tells", [True, False])
def test_the_name_is_asked_for_where_the_interfaces_cannot_be(
    isolated: None, told: queue.SimpleQueue[str], monkeypatch: pytest.MonkeyPatch, tells: bool
) -> None:
    monkeypatch.setattr(vessages, "INTERFACES_TELL", tells)
    monkeypatch.setattr(vessages, "interface_addresses", lambda: ["10.1.2.3"])
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [NAMED])
    vessages.greet(vessages.Greeting(EVERYWHERE, 5000, ""))
    assert re.findall(r"client\.py (\S+)", told.get(timeout=60)) == ["10.1.2.3"] + ["10.7.7.7"] * (not tells)


def test_the_name_server_is_not_asked_about_an_address_that_was_given(
    told: queue.SimpleQueue[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", fault)
    vessages.greet(vessages.Greeting(["10.1.2.3"], 5000, ""))
    assert told.qsize() == 1


def run_main(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    """`python vessages.py …` in this process, stopped as soon as it runs."""
    run = vessages.Server.run

    def stop_and_run(server: vessages.Server) -> None:
        server.stop()
        run(server)

    monkeypatch.setattr(vessages.Server, "heed_signals", lambda server: None)
    monkeypatch.setattr(vessages.Server, "run", stop_and_run)
    return vessages.main(["127.0.0.1", "0", "--db", str(folder / "vessages.db"), *options])


def test_it_starts_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(tmp_path, monkeypatch) == 0
    assert capsys.readouterr().out.startswith("Vessages ")


def test_it_runs_though_nobody_reads_its_greeting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        try:
            assert run_main(tmp_path, monkeypatch) == 0
        finally:
            with contextlib.suppress(OSError):
                nobody.close()


def test_it_runs_though_its_output_cannot_show_where_the_accounts_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "Мария"
    folder.mkdir()
    output = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", output)
    assert run_main(folder, monkeypatch) == 0
    assert rb"\u041c\u0430" in output.buffer.getvalue()


def test_ctrl_c_while_it_starts_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vessages, "bind", interrupt)
    try:
        assert run_main(tmp_path, monkeypatch) == 130
    except KeyboardInterrupt:
        pytest.fail("a traceback for somebody who has changed his mind")


def test_a_stop_has_room_in_the_log_for_everybody() -> None:
    assert vessages.LOG_LINES >= 2 * protocol.CONNECTIONS_MAX


def test_a_log_that_nobody_reads_does_not_stop_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    read_on, written = threading.Event(), bytearray()

    def write(descriptor: int, data: bytes) -> int:
        read_on.wait(60)
        written.extend(data[:1000])
        return len(data[:1000])

    monkeypatch.setattr(os, "write", write)
    writer = vessages.LogWriter()
    # More than it keeps, in its queue and in its hands: it must drop some, and not wait.
    for number in range(2 * vessages.LOG_LINES + 100):
        writer.handle(logging.makeLogRecord({"msg": "line %d", "args": (number,)}))
    read_on.set()
    monkeypatch.setattr(vessages, "LOG_PATIENCE", 60.0)
    writer.finish()
    lines = written.splitlines()
    assert lines[0].endswith(b" line 0")
    assert vessages.LOG_LINES <= len(lines) <= 2 * vessages.LOG_LINES


class Disk:
    """A file whose disk has room for so many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 10**9
        self.fault = errno.ENOSPC
        self.written = bytearray()
        monkeypatch.setattr(os, "write", self.write)

    def write(self, descriptor: int, data: bytes) -> int:
        assert descriptor == 2
        taken = data[: self.room]
        if not taken:
            raise OSError(self.fault, os.strerror(self.fault))
        self.room -= len(taken)
        self.written += taken
        return len(taken)

    def lines(self) -> list[str]:
        """What stands there, without the times."""
        assert bytes(self.written[-1:]) in (b"", b"\n")
        return [line.split(" ", 2)[2] for line in self.written.decode().splitlines()]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def log_lines(writer: vessages.LogWriter, *lines: str) -> None:
    writer._append([(WALL, line) for line in lines])


def test_a_line_of_the_log_begins_with_its_time(disk: Disk) -> None:
    writer = vessages.LogWriter()
    writer.write(WALL, ["bob left", "eve left"])
    writer.finish()
    stamp = datetime.fromtimestamp(WALL).astimezone().isoformat(" ", "seconds")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d", stamp)
    assert disk.written.decode() == f"{stamp} bob left\n{stamp} eve left\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows takes its time zone from elsewhere")
def test_the_hour_that_comes_twice_is_told_apart_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        told = [vessages.local_time(1792886400.0 + hours * 3600) for hours in (0, 1, 2)]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert told == ["2026-10-25 02:00:00+02:00", "2026-10-25 02:00:00+01:00", "2026-10-25 03:00:00+01:00"]


FULL = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO]


@pytest.mark.parametrize("number", FULL)
def test_the_log_goes_on_when_its_disk_has_room_again(disk: Disk, number: int) -> None:
    writer = vessages.LogWriter()
    log_lines(writer, "before")
    disk.room, disk.fault = 0, number
    log_lines(writer, "one", "two")
    log_lines(writer, "three")
    disk.room = 10**9
    log_lines(writer, "after")
    log_lines(writer, "and on")
    why = "disk full" if number == errno.ENOSPC else os.strerror(number)
    assert disk.lines() == ["before", f"3 lines of the log were lost: {why}", "after", "and on"]
    writer.finish()


@given(turns=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 4)), max_size=12))
def test_each_line_of_the_log_is_written_whole_or_counted(turns: list[tuple[int, int]]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        disk, writer = Disk(monkeypatch), vessages.LogWriter()
        said: list[str] = []
        for room, count in [*turns, (10**9, 1), (10**9, 1)]:
            disk.room = room
            lines = [f"line {len(said) + number} of them" for number in range(count)]
            said += lines
            log_lines(writer, *lines)
        written = disk.lines()
        lost = sum(int(line.split(" ")[0]) for line in written if line.endswith("disk full"))
        there = [line for line in written if not line.endswith("disk full")]
        assert [line for line in said if line in there] == there
        assert len(there) + lost == len(said)
        writer.finish()


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EBADF])
def test_a_log_that_nobody_can_read_any_more_ends(disk: Disk, number: int) -> None:
    writer = vessages.LogWriter()
    disk.room, disk.fault = 0, number
    writer.write(WALL, ["who reads this?"])
    writer._thread.join(30)
    assert not writer._thread.is_alive()


def test_a_console_of_windows_gets_text(disk: Disk) -> None:
    console = io.StringIO()
    writer = vessages.LogWriter(console)
    log_lines(writer, "Zoé registered", "Мария registered")
    writer.finish()
    assert [line.split(" ", 2)[2] for line in console.getvalue().splitlines()] == ["Zoé registered", "Мария registered"]
    assert not disk.written
