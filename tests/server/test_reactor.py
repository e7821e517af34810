"""The reactor, turned by hand: how connections are accepted, read, written to, paused, closed and swept."""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vocabulary import END, examples
from wire import KINDS, NOT_NOW, SMALL, Peer, Rig, encode, in_one_place, running

import protocol
import vessages
from protocol import Connection

# --- The turn ---------------------------------------------------------------------------------------------------------


@in_one_place
def test_with_nobody_there_the_loop_waits_until_it_looks_at_the_clock(rig: Rig) -> None:
    rig.turns(2)
    assert rig.selector.asked[-1] == pytest.approx(vessages.CLOCK_LOOK)


def test_with_nothing_to_do_the_loop_waits(rig: Rig) -> None:
    bob = rig.people("alice", "bob")[1]
    bob.says("KEEP", "SEND alice hi", "FOO")
    rig.wait(1.5)
    assert rig.is_at_rest()


def test_writability_is_asked_for_only_while_something_is_left_over(rig: Rig) -> None:
    rig.people("alice", "bob")[0].says("SEND bob hi", "WHO")
    assert rig.interest() == [selectors.EVENT_READ] * 2


def test_a_turn_writes_once_to_each(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = rig.people("alice", "bob")[0]
    alice.say(*["SEND bob hi", "PING"] * 50)
    sizes: list[int] = []
    kind = vessages.RecordSocket if rig.tls else socket.socket
    send = kind.send

    def send_and_count(sock: Any, data: bytes, flags: int = 0) -> int:
        sizes.append(send(sock, data, flags))
        return sizes[-1]

    monkeypatch.setattr(kind, "send", send_and_count)
    rig.turn()
    assert len(sizes) == 2


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


def test_of_strangers_who_flood_the_server_little_is_kept(rig: Rig) -> None:
    pests = [rig.connect() for _ in range(2 * protocol.STRANGERS_A_TURN)]
    alice = rig.person("alice")
    for pest in pests:
        pest.reading = False
        pest.say_bytes(encode("PING") * 6000)
    rig.turns(3)
    waiting = [each.decoder.buffered for each in rig.hub.connections if each.session is None]
    assert 0 < max(waiting) <= (vessages.TLS_READ if rig.tls else vessages.STRANGER_READ)
    assert alice.says("WHO") == ["OK WHO alice"]


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
def test_a_person_who_vanishes_is_gone_or_lost_if_kept(rig: Rig, leave: Callable[[Peer], None], kept: bool) -> None:
    alice = rig.person("alice")
    bob = rig.person("bob", kept=kept)
    assert alice.sees("alice", "bob")
    leave(bob)
    assert alice.sees("alice", "~bob") if kept else alice.sees("alice")
    assert len(rig.hub.connections) == 1
    assert alice.says("WHO") == ["OK WHO alice ~bob" if kept else "OK WHO alice"]


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
    assert rig.interest() == []


# --- Readers that do not read -----------------------------------------------------------------------------------------


def test_a_stuck_reader_is_not_read_from(rig: Rig) -> None:
    alice = rig.person("alice")
    bob = rig.slow_reader("bob")
    alice.says(*[f"SEND bob {'x' * 5000}"] * 40)
    bob.say("PING")
    rig.turns(2)
    assert sorted(rig.interest()) == [selectors.EVENT_READ, selectors.EVENT_WRITE]
    assert rig.is_at_rest()
    bob.reading = True
    assert bob.hears()[40:] == ["OK PING"]
    assert rig.interest() == [selectors.EVENT_READ] * 2


def test_the_answers_of_a_stuck_reader_have_a_limit(rig: Rig) -> None:
    names = [f"person{number}{'x' * 20}" for number in range(10)]
    for name in names:
        rig.person(name)
    bob = rig.slow_reader("bob")
    bob.socket.setblocking(False)
    data = encode("WHO") * 3000  # of which each has an answer of 300 bytes
    sent = 0
    while sent < len(data):  # until the server does not take any more
        try:
            sent += bob.socket.send(data[sent:])
        except BlockingIOError:
            break
        rig.turn()
    rig.turns(20)
    assert rig.hub.figures()["queued bytes"] < 2 * protocol.BACKLOG_MAX
    assert rig.is_at_rest()
    bob.reading = True
    assert len(bob.next(sent // 7)) == sent // 7


def test_a_stuck_reader_that_is_closed_is_dropped_after_a_moment(rig: Rig) -> None:
    alice = rig.person("alice")
    rig.slow_reader("bob")
    alice.says(*[f"SEND bob {'x' * 5000}"] * 40)
    rig.wait(31)
    assert len(rig.interest()) == 2
    rig.wait(2)
    assert len(rig.interest()) == 1


def take_a_little(rig: Rig, peer: Peer) -> None:
    """Until the server gets rid of some more, which the system may have to do before."""
    queued = rig.hub.figures()["queued bytes"]
    peer.reading = True
    while queued and rig.hub.figures()["queued bytes"] == queued:
        peer.take_in()
        rig.turn()
    peer.reading = False


@pytest.mark.parametrize("rig", ["default", "via_select"], indirect=True)
def test_a_reader_that_takes_a_little_stays(rig: Rig) -> None:
    alice = rig.person("alice")
    bob = rig.slow_reader("bob")
    alice.says(*[f"SEND bob {'x' * 5000}"] * 40)
    for _ in range(6):
        rig.wait(20)
        take_a_little(rig, bob)
    bob.reading = True
    assert len(bob.hears()) == 40


def test_over_tls_too_a_reader_that_takes_a_little_stays(tmp_path: Path) -> None:
    with running(tmp_path, tls=True) as rig:
        alice = rig.person("alice")
        bob = rig.slow_reader("bob")
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
    bob = rig.slow_reader("bob")
    half = encode("PING at last")
    bob.say_bytes(half[:9])
    rig.turns(2)
    alice.says(*[f"SEND bob {'x' * 5000}"] * 40)
    for _ in range(4):  # in which he is not read from
        rig.wait(20)
        take_a_little(rig, bob)
    bob.reading = True
    bob.say_bytes(half[9:])
    assert bob.hears()[40:] == ["OK PING at last"]


def test_held_frames_go_on_when_a_kept_reader_has_caught_up(rig: Rig) -> None:
    alice, carol = rig.people("alice", "carol")
    bob = rig.slow_reader("bob", kept=True)
    alice.say(f"SEND bob {'x' * 60000}")
    carol.say(f"SEND bob {'x' * 60000}")
    rig.turns(9)  # over TLS it comes in pieces
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
@examples(8)
@given(steps=STEPS, kept=st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_a_reader_with_pauses_is_answered_once_to_each_command_and_in_order(
    kind: str, steps: list[tuple[int, str, int, int]], kept: tuple[bool, bool, bool]
) -> None:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), **KINDS[kind]) as rig:
        people = [Chatter(rig.slow_reader(f"p{number}", kept[number], buffer=2 * SMALL)) for number in range(3)]
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
        while rig.server.encryption.unsettled:
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


@in_one_place
def test_of_a_machine_that_slept_for_a_night_nobody_says_that_its_clock_was_set(rig: Rig) -> None:
    rig.person("alice")
    rig.wait(2)
    rig.clock.now, rig.clock.wall = rig.clock.now + 28_800, rig.clock.wall + 28_800
    rig.turns(2)
    assert [line.partition(" 28")[0] for line in rig.said[2:]] == ["suspended for"]


@pytest.mark.skipif(sys.platform == "win32", reason="`time.monotonic` is such a clock there")
def test_the_server_goes_by_a_clock_that_goes_on_while_the_machine_sleeps() -> None:
    clock = time.CLOCK_MONOTONIC if sys.platform == "darwin" else time.CLOCK_BOOTTIME
    before, now, after = time.clock_gettime(clock), vessages.uptime(), time.clock_gettime(clock)
    assert before <= now <= after


YEARS = 54 * 365.25 * 86400


@pytest.mark.parametrize("seconds", [YEARS, -YEARS])
def test_a_token_from_before_the_clock_was_set_still_leads_back(tmp_path: Path, seconds: float) -> None:
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
