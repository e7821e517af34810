"""One port for both: the first byte, the handshake, and the certificate that the server makes for itself."""

from __future__ import annotations

import contextlib
import errno
import functools
import getpass
import hashlib
import os
import re
import selectors
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from unittest import mock

import pytest
from vocabulary import END, PASSWORD, STAMP
from wire import IDLE_TURNS, Peer, Rig, certificate, encode, fault, full, noting_in, running, shared_tls

import protocol
import storage
import vessages

HELLO = b"\x16\x03\x01\x02\x00\x01"  # the beginning of what a TLS client says first
ALERT = b"\x15"  # the first byte of a TLS alert


def plain(rig: Rig) -> Peer:
    """Somebody at the same port, without TLS."""
    before, rig.tls = rig.tls, False
    try:
        return rig.connect()
    finally:
        rig.tls = before


@pytest.fixture(params=[selectors.DefaultSelector])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """A server whose people encrypt."""
    with running(tmp_path, tls=True, selector=request.param) as rig:
        yield rig


SELECTORS = pytest.mark.parametrize("rig", [selectors.DefaultSelector, selectors.SelectSelector], indirect=True)


# --- The first byte ---------------------------------------------------------------------------------------------------


LOGIN = encode("REGISTER bob longenough") + encode("LOGIN alice " + PASSWORD)


@pytest.mark.parametrize("hello", [LOGIN, LOGIN[:1], b"GET / HTTP/1.0\r\n\r\n", bytes(100)])
def test_where_encryption_is_asked_of_all_a_plain_client_is_refused_unheard(tmp_path: Path, hello: bytes) -> None:
    with running(tmp_path, tls=True, serves="only") as rig:
        alice = rig.person("alice")
        said = plain(rig).say_bytes(hello).ends()
        assert said == [protocol.error(protocol.Code.ENCRYPTED_ONLY), END]
        assert alice.says("WHO") == ["OK WHO alice"]
        assert rig.statuses() == {"alice": "online"}
        rig.wait(61)
        assert "refused: 1, the last from 127.0.0.1: not encrypted" in rig.said


def test_where_nothing_is_encrypted_a_tls_client_is_answered_in_a_frame(tmp_path: Path) -> None:
    with running(tmp_path, serves="off") as rig:
        assert rig.connect().say_bytes(HELLO).ends()[0].startswith("ERROR bad-frame ")


@pytest.mark.parametrize("first", [b"\x15", b"\x17", b"G", b"\xff"])
def test_any_other_first_byte_begins_a_frame(rig: Rig, first: bytes) -> None:
    assert plain(rig).say_bytes(first + bytes(3)).ends()[0].startswith("ERROR bad-frame ")


@SELECTORS
def test_plain_and_encrypted_people_are_in_one_chat(rig: Rig) -> None:
    alice = rig.person("alice")
    rig.tls = False
    bob = rig.person("bob")
    assert alice.sees("alice", "bob")
    assert alice.says("#1 SEND bob hi") == ["#1 OK SEND"]
    assert bob.says("SEND alice hello") == [f"MSG alice 1 {STAMP} hi"]
    assert alice.hears() == [f"MSG bob 0 {STAMP} hello"]


def test_the_first_byte_is_looked_at_once_a_connection(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[bytes] = []
    recv = socket.socket.recv

    def recv_and_note(sock: socket.socket, size: int, flags: int = 0) -> bytes:
        data = recv(sock, size, flags)
        if flags and not isinstance(sock, ssl.SSLSocket):
            looks.append(data)
        return data

    monkeypatch.setattr(socket.socket, "recv", recv_and_note)
    alice, bob = rig.person("alice"), plain(rig)
    for _ in range(5):
        alice.says("SEND alice hi")
        bob.says("PING")
    assert looks == [HELLO[:1], b"\0"]


def test_until_its_first_byte_a_connection_counts_as_plain(rig: Rig) -> None:
    rig.person("alice")
    quiet, late = plain(rig), rig.connect()
    quiet.lively = False
    rig.wait(19)
    assert late.says("PING over TLS") == ["OK PING over TLS"]
    rig.wait(10)
    assert quiet.next() == ["PING"]
    rig.wait(20)
    assert quiet.ends() == ["BYE silent", END]


@SELECTORS
def test_somebody_who_has_gone_before_a_first_byte_is_nobody(rig: Rig) -> None:
    for leave in (Peer.finish, Peer.reset):
        leave(plain(rig))
        rig.turns(3)
    assert (rig.server.sockets, rig.server.encryption.unsettled) == (0, set())


# --- Handshakes -------------------------------------------------------------------------------------------------------


class Slowly:
    """A TLS client that sends its bytes only when it is told to."""

    def __init__(self, rig: Rig, version: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = version
        self.rig = rig
        self.peer = plain(rig)
        self.peer.reading = False  # what comes is read here
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.library = context.wrap_bio(self.incoming, self.outgoing)
        self.unsent = b""
        self.do(self.library.do_handshake)

    def do(self, what: Callable[[], object]) -> object:
        """One step in the library; what it wants to send is kept."""
        result: object = None
        with contextlib.suppress(ssl.SSLWantReadError):
            result = what()
        self.unsent += self.outgoing.read()
        return result

    def send(self, size: int) -> None:
        """So many bytes of what is to be sent; the server has a turn."""
        self.peer.socket.sendall(self.unsent[:size])
        self.unsent = self.unsent[size:]
        self.rig.turn()

    def shake_hands(self, size: int) -> None:
        """To the end of the handshake, with so many bytes at a time."""
        for _ in range(IDLE_TURNS):
            if self.unsent:
                self.send(size)
            elif self.library.version() is not None:
                return
            else:
                self.take_in()
                self.do(self.library.do_handshake)
        raise AssertionError("the handshake does not end")

    def take_in(self) -> bytes:
        """What the server has sent, as it is."""
        self.rig.turn()
        data = b""
        with contextlib.suppress(BlockingIOError):
            data = self.peer.socket.recv(65536)
        self.incoming.write(data)
        return data

    def says(self, payload: str) -> bytes:
        """A command over TLS, and what is answered."""
        self.library.write(encode(payload))
        self.unsent += self.outgoing.read()
        self.send(len(self.unsent))
        return self.hears()

    def hears(self) -> bytes:
        """The next that comes over TLS."""
        for _ in range(IDLE_TURNS):
            self.take_in()
            heard = self.do(lambda: self.library.read(65536))
            if isinstance(heard, bytes):
                return heard
        raise AssertionError("nothing came")


def shaken(rig: Rig, version: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED) -> Slowly:
    """One whose handshake is over."""
    slow = Slowly(rig, version)
    slow.shake_hands(10_000)
    return slow


@SELECTORS
@pytest.mark.parametrize("size", [1, 100])
def test_a_handshake_may_come_in_pieces(rig: Rig, size: int) -> None:
    alice = rig.person("alice")
    slow = Slowly(rig)
    slow.shake_hands(size)
    assert slow.says("PING at last") == encode("OK PING at last")
    assert alice.says("WHO") == ["OK WHO alice"]
    assert rig.is_at_rest()


def test_after_the_handshake_nothing_has_to_be_said_at_once(rig: Rig) -> None:
    quiet = rig.connect()
    quiet.lively = False
    quiet.hears()
    rig.wait(44)
    assert quiet.next() == ["PING"]
    assert quiet.says("PING me") == ["OK PING me"]


@SELECTORS
@pytest.mark.parametrize("hello", [HELLO[:1], HELLO])
def test_a_handshake_that_does_not_end_is_given_up_without_a_word(rig: Rig, hello: bytes) -> None:
    alice = rig.person("alice")
    slow = plain(rig).say_bytes(hello)
    slow.lively = False
    alice.hears()
    assert rig.is_at_rest()
    rig.wait(29)
    assert not slow.ended
    rig.wait(2)
    assert slow.ends() == [END]
    assert alice.says("WHO") == ["OK WHO alice"]


@pytest.mark.parametrize("rest", [b"\n" * 100, bytes(100), b"\x03\x01\0\0", b"\x03\x01\xff\xff" + b"x" * 20_000])
def test_garbage_behind_the_first_byte_of_tls_is_not_answered_in_clear(rig: Rig, rest: bytes) -> None:
    alice = rig.person("alice")
    peer = plain(rig)
    peer.say_bytes(HELLO[:1] + rest)
    rig.wait(31)
    heard = b""
    with contextlib.suppress(OSError):
        while data := peer.socket.recv(65536):
            heard += data
    assert heard[:1] in (b"", ALERT)
    assert rig.server.sockets == 1
    assert alice.says("WHO") == ["OK WHO alice"]


@SELECTORS
@pytest.mark.parametrize("leave", [Peer.finish, Peer.reset, Peer.close])
@pytest.mark.parametrize("turns", [0, 1])
def test_somebody_who_leaves_in_a_handshake_is_nobody(rig: Rig, leave: Callable[[Peer], object], turns: int) -> None:
    """Also between the look at his first byte and the first step."""
    alice = rig.person("alice")
    peer = plain(rig)
    rig.turns(2)
    peer.say_bytes(HELLO)
    rig.turns(turns)
    leave(peer)
    rig.turns(3)
    assert (rig.server.sockets, rig.server.encryption.handshaking, rig.hub.faults) == (1, {}, [])
    assert alice.says("WHO") == ["OK WHO alice"]
    assert rig.is_at_rest()


@SELECTORS
def test_somebody_who_is_reset_before_his_handshake_begins_is_nobody(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = rig.person("alice")
    monkeypatch.setattr(vessages, "HANDSHAKE_STEPS_A_TURN", 0)
    peer = plain(rig).say_bytes(HELLO)
    rig.turns(3)
    assert len(rig.server.encryption.due) == 1
    peer.reset()
    monkeypatch.undo()
    rig.turns(3)
    assert rig.server.sockets == 1
    assert alice.says("WHO") == ["OK WHO alice"]


@SELECTORS
def test_a_crowd_that_shakes_hands_takes_turns_and_the_chat_goes_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    do_handshake = vessages.RecordSocket.do_handshake

    def note_and_do(sock: vessages.RecordSocket) -> None:
        steps.append(sock.fileno())
        do_handshake(sock)

    alice = rig.person("alice")
    monkeypatch.setattr(vessages.RecordSocket, "do_handshake", note_and_do)
    crowd = [plain(rig).say_bytes(HELLO) for _ in range(30)]
    rig.turns(2)
    most = 0
    for _ in range(10):
        done = len(steps)
        alice.say("PING")
        rig.turn()
        assert alice.next() == ["OK PING"]
        most = max(most, len(steps) - done)
    assert most <= vessages.HANDSHAKE_STEPS_A_TURN
    assert len(set(steps)) == len(crowd)
    assert rig.is_at_rest()


def test_who_begins_again_and_again_does_not_keep_others_from_a_handshake(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vessages, "HANDSHAKE_STEPS_A_TURN", 0)
    good = rig.connect()
    good.take_in()  # says its hello
    rig.turns(2)
    pests = [Slowly(rig) for _ in range(6)]
    for pest in pests:
        pest.send(1)
    rig.turns(2)
    monkeypatch.setattr(vessages, "HANDSHAKE_STEPS_A_TURN", 1)
    for _ in range(30):
        for pest in pests:
            pest.peer.socket.sendall(pest.unsent[:1])
            pest.unsent = pest.unsent[1:]
        rig.turns(2)
        good.take_in()
    assert isinstance(good.socket, ssl.SSLSocket) and good.socket.version() is not None
    assert good.says("PING") == ["OK PING"]


def test_a_wait_for_our_turn_is_not_a_handshake_that_takes_too_long(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vessages, "HANDSHAKE_STEPS_A_TURN", 0)
    slow = Slowly(rig)
    slow.send(10_000)
    for _ in range(10):
        rig.clock.now += 1.9
        rig.turn()
    monkeypatch.undo()
    rig.wait(15)
    slow.shake_hands(10_000)
    heard = slow.says("PING")
    while heard != encode("PING") + encode("OK PING"):
        heard += slow.hears()


def test_a_handshake_goes_on_when_there_is_room_for_its_answer(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_no_room(sock: ssl.SSLSocket) -> None:
        monkeypatch.undo()
        raise ssl.SSLWantWriteError

    monkeypatch.setattr(vessages.RecordSocket, "do_handshake", find_no_room)
    plain(rig).say_bytes(HELLO)
    rig.turn()
    assert rig.interest() == [selectors.EVENT_READ | selectors.EVENT_WRITE]
    rig.turn()
    assert rig.interest() == [selectors.EVENT_READ]


def test_a_handshake_outlives_a_suspended_server(rig: Rig) -> None:
    slow = plain(rig).say_bytes(HELLO)
    rig.turns(2)
    rig.clock.now += 3600  # the lid was closed, which does not count
    rig.wait(29)
    assert not slow.ended
    rig.wait(2)
    assert slow.ends() == [END]


# --- What is said to somebody whose handshake is going on -------------------------------------------------------------


def test_a_full_server_says_so_over_tls_or_not_at_all(tmp_path: Path) -> None:
    with running(tmp_path, tls=True, connections_max=3) as rig:
        alice = rig.person("alice")
        half = plain(rig).say_bytes(HELLO)
        rig.turns(2)
        whole, silent = rig.connect(), plain(rig)
        assert whole.says("PING") == ["OK PING"]  # half has had to go for it
        rig.connect().says("PING")
        rig.connect().says("PING")
        assert whole.ends() == ["BYE full", END]
        assert silent.ends() == ["BYE full", END]  # it counts as plain
        rig.wait(3)
        assert half.ends() == [END]
        assert alice.says("WHO") == ["OK WHO alice"]


def test_a_newcomer_to_a_full_server_whose_first_byte_has_come_is_told_over_tls(tmp_path: Path) -> None:
    with running(tmp_path, tls=True, connections_max=1) as rig:
        rig.person("alice")
        slow = Slowly(rig)
        slow.send(10_000)
        slow.shake_hands(10_000)
        assert slow.hears() == encode("BYE full")


def test_a_storm_of_handshakes_takes_only_so_many_sockets(tmp_path: Path) -> None:
    with running(tmp_path, tls=True, connections_max=3, spare_files=9) as rig:
        alice = rig.person("alice")
        most = 0
        for number in range(40):
            plain(rig).say_bytes(HELLO[: 1 + number % 6])
            rig.turn()
            most = max(most, rig.server.sockets)
        rig.turns(40)
        assert most <= 3 + 3
        assert rig.is_at_rest()
        assert alice.says("WHO") == ["OK WHO alice"]
        rig.wait(31)
        assert rig.server.sockets == 1
        assert rig.connect().says("PING") == ["OK PING"]


def test_a_stop_is_told_over_tls_in_clear_to_the_undecided_and_not_to_half_a_handshake(rig: Rig) -> None:
    alice, half, silent = rig.person("alice"), plain(rig).say_bytes(HELLO), plain(rig)
    begun = rig.connect()
    rig.turns(3)
    begun.take_in()  # its hello is on its way when the server stops
    began = rig.clock.now
    rig.stop()
    assert rig.clock.now - began < vessages.STOP_WITHIN - 1
    assert alice.ends() == ["BYE shutdown", END]
    assert silent.ends() == ["BYE shutdown", END]
    assert half.ends() == [END]
    assert begun.take_in() and begun.ended


def test_a_first_byte_that_comes_between_reading_and_writing_is_seen_in_time(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick = protocol.Hub.tick
    late = plain(rig)
    rig.turns(2)

    def say_and_tick(hub: protocol.Hub) -> None:
        monkeypatch.undo()
        late.say_bytes(HELLO)
        tick(hub)

    monkeypatch.setattr(protocol.Hub, "tick", say_and_tick)
    rig.stop()
    assert late.ends() == [END]


# --- The connection ---------------------------------------------------------------------------------------------------


def test_no_frame_waits_in_the_tls_library_for_the_next_event(rig: Rig) -> None:
    alice = rig.person("alice")
    alice.say(*[f"PING {number} {'x' * 5000}" for number in range(12)])  # one send, several records
    assert [answer.split(" ")[2] for answer in alice.next(12)] == [str(number) for number in range(12)]
    assert rig.is_at_rest()


def test_somebody_who_says_much_in_little_records_is_heard_at_once(rig: Rig) -> None:
    most = 2 * protocol.STRANGER_FRAMES_A_TURN  # where they are read, and at the end of the turn
    bob = shaken(rig)
    for number in range(most):
        bob.library.write(encode(f"PING {number}"))
    bob.unsent += bob.outgoing.read()
    bob.send(len(bob.unsent))
    assert bob.hears() == b"".join(encode(f"OK PING {number}") for number in range(most))


def test_a_flood_of_tiny_records_does_not_keep_others_waiting(rig: Rig) -> None:
    alice, bob = rig.people("alice", "bob")
    data = encode("PING") * 100
    for index in range(len(data)):
        alice.socket.send(data[index : index + 1])
    bob.say("PING bob")
    rig.turn()
    assert bob.next() == ["OK PING bob"]
    assert len(alice.next(100)) == 100


class Mute:
    """In the place of OpenSSL: every record is one that brings nothing, such as an order to change the keys."""

    def read(self, size: int) -> bytes:
        raise ssl.SSLWantReadError

    def unwrap(self) -> None: ...


def test_records_that_bring_nothing_are_given_to_openssl_one_by_one_and_end_at_a_limit(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL, which looks for the next one itself, goes through millions of them before it returns."""
    given: list[bytes] = []

    class Noted:
        pending = 0

        def write(self, data: bytes) -> None:
            given.append(data)

    alice, pest = rig.person("alice"), shaken(rig)
    (connection,) = (each for each in rig.hub.connections if each.session is None)
    monkeypatch.setattr(connection.socket, "_library", Mute())
    monkeypatch.setattr(connection.socket, "_incoming", Noted())
    record = b"\x17\x03\x03\x00\x13" + b"x" * 19
    before = connection.socket._silent
    pest.unsent = record * vessages.SILENT_RECORDS_MAX + record[:7]
    pest.send(len(record) * (vessages.SILENT_RECORDS_MAX - before) + 7)
    assert given == [record] * (vessages.SILENT_RECORDS_MAX - before)
    assert connection.closed == ""
    pest.unsent = record[7:]
    pest.send(len(record))
    assert connection.closed == "too many TLS records that say nothing"
    assert alice.says("WHO") == ["OK WHO alice"]


@pytest.mark.parametrize("length", [0xFFFF, vessages.TLS_READ])
def test_a_record_longer_than_any_is_not_waited_for(rig: Rig, length: int) -> None:
    alice, pest = rig.person("alice"), shaken(rig)
    pest.unsent = b"\x17\x03\x03" + length.to_bytes(2, "big") + b"x"
    pest.send(100)
    rig.turns(2)
    assert rig.server.sockets == 1
    assert alice.says("WHO") == ["OK WHO alice"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("size", [1, 30, 17_000])
def test_what_comes_and_goes_in_pieces_is_whole(rig: Rig, version: ssl.TLSVersion, size: int) -> None:
    text = "x" * (60_000 if size > 100 else 300)
    rig.listeners[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    rig.person("alice").close()
    bob = shaken(rig, version)
    heard = bob.says("LOGIN alice " + PASSWORD)
    while b"ONLINE" not in heard:
        heard += bob.hears()
    bob.library.write(encode("PING " + text))
    bob.unsent += bob.outgoing.read()
    while bob.unsent:
        bob.send(size)
    heard = b""
    while len(heard) < len(encode("OK PING " + text)):
        heard += bob.hears()
    assert heard == encode("OK PING " + text)


def test_a_farewell_of_tls_ends_a_connection_and_is_returned(rig: Rig) -> None:
    alice, bob = rig.person("alice"), shaken(rig)
    with contextlib.suppress(ssl.SSLWantReadError):
        bob.library.unwrap()  # says that no more will come, and leaves the connection open
    bob.unsent += bob.outgoing.read()
    bob.send(len(bob.unsent))
    rig.turn()
    bob.take_in()
    bob.library.unwrap()  # SSLWantReadError if it has not come
    assert alice.says("WHO") == ["OK WHO alice"]
    rig.wait(3)
    assert rig.server.sockets == 1


@pytest.mark.parametrize("end", [Rig.stop, lambda rig: rig.wait(46)], ids=["BYE", "silence"])
def test_an_end_can_be_told_from_a_cut(rig: Rig, end: Callable[[Rig], None]) -> None:
    bob = shaken(rig)
    end(rig)
    with contextlib.suppress(BlockingIOError, ConnectionError):
        while data := bob.peer.socket.recv(65536):
            bob.incoming.write(data)
    bob.incoming.write_eof()
    heard = b""
    while data := bob.library.read(65536):  # b"" is a farewell, a cut an SSLEOFError
        heard += data
    assert b"BYE " in heard


def test_a_farewell_waits_for_nobody(tmp_path: Path) -> None:
    with running(tmp_path, tls=True, connections_max=3) as rig:
        alice = rig.person("alice")
        rig.slow_reader("bob")  # there is no room for one to him
        alice.says(*[f"SEND bob {'x' * 5000}"] * 40)
        rig.wait(40)
        assert rig.server.sockets == 1
        assert alice.says("WHO") == ["OK WHO alice"]


BAD_RECORD = b"\x17\x03\x03\x00\x30" + bytes(48)  # as of application data, but nothing that can be decrypted


@pytest.mark.skipif(sys.platform == "win32", reason="its select need not tell of that: a PING without an answer does")
@SELECTORS
@pytest.mark.parametrize("end", ["farewell", "fault"])
def test_an_end_that_is_read_together_with_a_frame_is_not_forgotten(rig: Rig, end: str) -> None:
    """The connection stays open below, and nothing is answered: the system has no reason to report it again."""
    rig.person("alice")
    leaver = shaken(rig)
    leaver.library.write(encode("ACK 0"))
    if end == "farewell":
        leaver.do(leaver.library.unwrap)
    leaver.unsent += leaver.outgoing.read() + BAD_RECORD * (end == "fault")
    leaver.send(len(leaver.unsent))
    rig.turns(3)
    assert rig.server.sockets == 1
    assert rig.is_at_rest()


def test_what_comes_with_the_end_of_the_connection_is_still_obeyed(rig: Rig) -> None:
    alice, bob = rig.people("alice", "bob")
    for number in range(3):
        bob.say(f"SEND alice {number}")
    bob.close()
    assert alice.next(3) == [f"MSG bob 0 {STAMP} {number}" for number in range(3)]
    assert alice.sees("alice")


# --- The certificate --------------------------------------------------------------------------------------------------


Pair = tuple[Path, Path]  # the files of a certificate and of its key


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """Where they are to be made. The test is skipped where there is nothing to make them with."""
    certificate()
    return tmp_path / "vessages-cert.pem", tmp_path / "vessages-key.pem"


def put_into(pair: Pair) -> None:
    """A certificate and its key that were made once for all tests."""
    shared_tls()
    for name, file in zip(("cert.pem", "key.pem"), pair, strict=True):
        shutil.copy(certificate() / name, file)


@pytest.fixture
def made(pair: Pair) -> Pair:
    put_into(pair)
    return pair


def vouches(pair: Pair, name: str) -> bool:
    """Whether a client that trusts this certificate, and only that, takes a server that has it for `name`."""
    context = ssl.create_default_context(cafile=pair[0])
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 does by itself
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = vessages.tls_context(*pair).wrap_bio(to_server, to_client, server_side=True)
    client = context.wrap_bio(to_client, to_server, server_hostname=name)
    try:
        for end in (client, server, client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    except ssl.SSLCertVerificationError:
        return False
    return client.version() is not None


def openssl(*words: str) -> bytes:
    return subprocess.run(["openssl", *words], check=True, capture_output=True).stdout


def test_a_certificate_is_for_twenty_years(made: Pair) -> None:
    end = openssl("x509", "-in", str(made[0]), "-noout", "-enddate").decode().strip().partition("=")[2]
    days = (ssl.cert_time_to_seconds(end) - made[0].stat().st_mtime) / 86400
    assert round(days) == 7300


NAMES = ["IP:192.0.2.7", "IP:2001:db8::7", "DNS:chat.lab.example", "DNS:lab-3"]


@pytest.mark.parametrize(
    ("host", "bound", "names"),
    [
        ("127.0.0.1", ["127.0.0.1"], ["IP:127.0.0.1", "DNS:lab-3", "DNS:localhost"]),
        ("::1", ["::1"], ["IP:::1", "DNS:lab-3", "DNS:localhost"]),
        ("192.0.2.7", ["192.0.2.7"], ["IP:192.0.2.7", "DNS:lab-3"]),
        ("chat.lab.example", ["192.0.2.7", "2001:db8::7"], NAMES),
        ("fe80::77%eth0", ["fe80::77%eth0"], ["IP:fe80::77", "DNS:lab-3"]),
        ("0.0.0.0", ["0.0.0.0"], ["IP:10.1.2.3", "IP:127.0.0.1", "IP:::1", "DNS:lab-3", "DNS:localhost"]),
        (
            "::", ["::"],
            ["IP:10.1.2.3", "IP:2001:db8::9", "IP:127.0.0.1", "IP:::1", "DNS:lab-3", "DNS:localhost"],
        ),
    ],
)  # fmt: skip
def test_a_certificate_is_for_the_names_and_addresses_of_its_server(
    monkeypatch: pytest.MonkeyPatch, host: str, bound: list[str], names: list[str]
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "lab-3")
    monkeypatch.setattr(vessages, "route_addresses", lambda: ["10.1.2.3"])
    monkeypatch.setattr(vessages, "interface_addresses", lambda: ["10.1.2.3", "2001:db8::9", "127.0.0.1", "fe80::1"])
    monkeypatch.setattr(vessages, "named_addresses", list)
    assert vessages.own_names(host, bound) == names


def test_a_certificate_vouches_for_its_names_and_addresses_and_for_nothing_else(pair: Pair) -> None:
    vessages.tls_context(*pair, names=lambda: NAMES)
    good = [name.partition(":")[2] for name in NAMES]
    assert [name for name in [*good, "10.9.9.9", "elsewhere"] if vouches(pair, name)] == good


@pytest.mark.parametrize("name", ["a b", "a,DNS:b", "a\nkeyUsage = x", "$ENV::HOME", "größe", "", "x" * 300])
def test_a_name_of_this_machine_that_no_certificate_can_have_is_left_out(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert vessages.own_names("192.0.2.7", ["192.0.2.7"]) == ["IP:192.0.2.7"]


def test_a_machine_of_many_networks_has_a_certificate_with_some(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [f"10.{index // 250}.{index % 250}.1" for index in range(5000)]
    monkeypatch.setattr(vessages, "interface_addresses", lambda: many)
    vessages.tls_context(*pair, names=functools.partial(vessages.own_names, "0.0.0.0", ["0.0.0.0"]))
    assert pair[0].stat().st_size < vessages.PAIR_SIZE


def test_a_certificate_survives_a_power_cut_before_anybody_has_seen_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[object] = []
    sync, sync_folder = storage.sync, storage.sync_folder

    def note_and_sync(file: IO[bytes]) -> None:
        synced.append(Path(file.name).name)
        sync(file)

    def note_and_sync_folder(folder: Path) -> bool:
        synced.append((folder, *(path.exists() for path in pair)))
        return sync_folder(folder)

    monkeypatch.setattr(storage, "sync", note_and_sync)
    monkeypatch.setattr(storage, "sync_folder", note_and_sync_folder)
    vessages.tls_context(*pair)
    assert synced == [*(path.name for path in pair), (pair[0].parent, True, True)]


@pytest.mark.parametrize("moves", [0, 1])
def test_a_start_that_fails_between_the_files_leaves_no_half_pair_for_the_next(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    done: list[Path] = []
    replace = Path.replace

    def fail_in_time(path: Path, target: Path) -> Path:
        if len(done) == moves:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        done.append(target)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail_in_time)
    with pytest.raises(vessages.NoCertificateError, match="no certificate can be made in"):
        vessages.tls_context(*pair)
    monkeypatch.undo()
    vessages.tls_context(*pair)
    assert vouches(pair, "127.0.0.1")


def test_a_certificate_has_the_fingerprint_that_clients_see(rig: Rig) -> None:
    sock = rig.person("alice").socket
    assert isinstance(sock, ssl.SSLSocket)
    digest = hashlib.sha256(sock.getpeercert(binary_form=True) or b"").hexdigest()
    assert sock.version() in ("TLSv1.2", "TLSv1.3")
    assert vessages.fingerprint(certificate() / "cert.pem").replace(":", "").lower() == digest


@pytest.mark.skipif(sys.platform == "win32", reason="there is no root")
def test_a_certificate_that_root_makes_belongs_to_the_owner_of_the_folder(
    tmp_path: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, handed_over = tmp_path.stat(), []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda *arguments: handed_over.append(arguments[1:]))
    vessages.tls_context(*pair)
    assert handed_over == [(owner.st_uid, owner.st_gid)] * 3  # both, and the lock while they are made


def test_a_certificate_that_is_there_is_not_made_again(made: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vessages, "openssl_programs", fault)
    vessages.tls_context(*made)


@pytest.mark.parametrize("program", [None, sys.executable, "/no/such/program"], ids=["none", "another", "gone"])
def test_without_openssl_the_command_to_run_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str | None
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: program)
    there = re.escape(str(tmp_path))
    command = rf"copy both files to {there}:\n    openssl req -x509 .*IP:127\.0\.0\.1,.*key\.pem .*cert\.pem$"
    with pytest.raises(vessages.NoCertificateError, match=command):
        vessages.tls_context(tmp_path / "cert.pem", tmp_path / "key.pem")
    assert list(tmp_path.iterdir()) == []


def test_what_is_told_to_be_run_elsewhere_makes_what_can_be_copied_here(
    tmp_path: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as here, pytest.raises(vessages.NoCertificateError) as told:
        here.setattr(shutil, "which", lambda name: None)
        vessages.tls_context(*pair)
    subprocess.run(str(told.value).rpartition("\n    ")[2].split(), cwd=tmp_path, check=True, capture_output=True)
    before = pair[0].read_bytes()
    vessages.tls_context(*pair)
    assert pair[0].read_bytes() == before
    assert vouches(pair, "127.0.0.1")


@pytest.mark.skipif(sys.platform == "win32", reason="a program of another kind")
def test_an_openssl_that_hangs_is_not_waited_for(tmp_path: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vessages, "CERTIFICATE_WITHIN", 0.2)
    hanging = tmp_path / "openssl"
    hanging.write_text("#!/bin/sh\nexec sleep 600\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(hanging))
    with pytest.raises(vessages.NoCertificateError, match="could not make a certificate"):
        vessages.tls_context(*pair)
    assert list(tmp_path.iterdir()) == [hanging]


@pytest.mark.parametrize("variable", vessages.GIT_FOLDERS)
@pytest.mark.parametrize("program", vessages.GIT_PROGRAMS)
def test_the_openssl_of_git_for_windows_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, program: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for each in vessages.GIT_FOLDERS:
        monkeypatch.delenv(each, raising=False)
    assert list(vessages.openssl_programs()) == []
    monkeypatch.setenv(variable, str(tmp_path))
    path = tmp_path / vessages.GIT_FOLDERS[variable] / program
    path.parent.mkdir(parents=True)
    path.touch()
    assert list(vessages.openssl_programs()) == [str(path)]


def test_where_the_first_openssl_cannot_do_it_another_one_does(
    tmp_path: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("openssl") or ""
    monkeypatch.setattr(vessages, "openssl_programs", lambda: iter([sys.executable, str(tmp_path / "none"), real]))
    vessages.tls_context(*pair)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other rights")
@pytest.mark.parametrize("mask", [0, 0o077])
def test_the_key_is_its_owners_whatever_the_umask(pair: Pair, mask: int) -> None:
    before = os.umask(mask)
    try:
        vessages.tls_context(*pair)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in pair] == [0o644, 0o600]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other rights")
@pytest.mark.parametrize(("mode", "told"), [(0o600, False), (0o640, False), (0o604, True), (0o644, True)])
def test_a_key_that_everybody_may_read_is_told_of(made: Pair, mode: int, told: bool) -> None:
    said: list[str] = []
    made[1].chmod(mode)
    vessages.tls_context(*made, log=noting_in(said))
    words = f"everybody on this machine can read {made[1]}, and so pose as this server: chmod 600 {made[1]}"
    assert said == [words] * told


@pytest.mark.parametrize("remains", ["cert.pem key.pem", "cert.pem", "key.pem", "cert.pem.new/key.pem"])
def test_what_a_start_that_failed_or_was_killed_has_left_is_in_nobodys_way(pair: Pair, remains: str) -> None:
    for name in remains.split():
        file = pair[0].parent / f"vessages-{name}"
        file.parent.mkdir(exist_ok=True)
        file.touch()
    vessages.tls_context(*pair)
    assert all(path.stat().st_size > 0 for path in pair)
    assert sorted(pair[0].parent.iterdir()) == sorted(pair)


@pytest.mark.parametrize("alone", [0, 1])
def test_a_file_that_was_alone_is_set_aside(made: Pair, alone: int) -> None:
    said: list[str] = []
    before = made[alone].read_bytes()
    made[1 - alone].unlink()
    vessages.tls_context(*made, log=noting_in(said))
    aside = made[alone].with_name(made[alone].name + ".old")
    assert aside.read_bytes() == before
    assert made[alone].read_bytes() != before
    assert said == [f"{made[alone]} was alone: it is {aside} now, and a new certificate and its key were made"]


@pytest.mark.parametrize(("broken", "by", "words"), [
    (0, b"no PEM", "cannot use .* one of them is not PEM"), (1, b"no PEM", "cannot use"),
    (1, b"", "the key is that of another certificate; give others"),
])  # fmt: skip
def test_a_certificate_that_cannot_be_loaded_is_told_and_never_replaced(
    made: Pair, broken: int, by: bytes, words: str
) -> None:
    made[broken].write_bytes(by or openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"))
    before = [path.read_bytes() for path in made]
    with pytest.raises(vessages.StartError, match=words):
        vessages.tls_context(*made)
    assert [path.read_bytes() for path in made] == before


@pytest.mark.skipif(sys.platform == "win32", reason="links are for few there")
def test_a_link_whose_disk_is_not_mounted_stays(pair: Pair, tmp_path: Path) -> None:
    for path in pair:
        path.symlink_to(tmp_path / "not mounted" / path.name)
    with pytest.raises(vessages.StartError, match="No such file"):
        vessages.tls_context(*pair)
    assert all(path.is_symlink() for path in pair)


def test_a_certificate_that_was_chosen_is_never_made(made: Pair) -> None:
    made[1].unlink()
    with pytest.raises(vessages.StartError, match="No such file"):
        vessages.tls_context(*made, ours=False)
    assert not made[1].exists()


@pytest.mark.parametrize("written", [[], ["key.pem"], ["key.pem", "cert.pem"]])
def test_a_full_disk_is_told_as_that_and_nothing_is_left(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, written: list[str]
) -> None:
    def run(words: list[str], **_: object) -> None:  # ends well, though what it wrote did not get to the disk
        for name in written:
            (pair[0].parent / "vessages-cert.pem.new" / f"vessages-{name}").touch()

    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(vessages.StartError, match=re.escape(os.strerror(errno.ENOSPC))):
        vessages.tls_context(*pair)
    assert list(pair[0].parent.iterdir()) == []
    monkeypatch.undo()
    vessages.tls_context(*pair)


def test_servers_that_start_in_one_folder_at_once_share_the_pair_of_the_first(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = storage.FileLock(pair[0])

    def make_it(_: float) -> None:
        put_into(pair)
        first.release()

    monkeypatch.setattr(time, "sleep", make_it)
    monkeypatch.setattr(vessages, "openssl_programs", fault)
    vessages.tls_context(*pair)
    assert vessages.fingerprint(pair[0]) == vessages.fingerprint(certificate() / "cert.pem")
    assert sorted(pair[0].parent.iterdir()) == sorted(pair)


def test_a_server_that_does_not_finish_its_pair_is_not_waited_for(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    first = storage.FileLock(pair[0])
    monkeypatch.setattr(vessages, "CERTIFICATE_WITHIN", 0.0)
    with pytest.raises(vessages.NoCertificateError, match=r"another server is still making .*: start this one again"):
        vessages.tls_context(*pair)
    first.release()


def test_a_folder_in_which_nothing_can_be_locked_has_no_certificate_made(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "FileLock", full)
    with pytest.raises(vessages.NoCertificateError, match=r"no certificate can be made: .* the disk is full: free"):
        vessages.tls_context(*pair)


@pytest.mark.parametrize(("terminal", "word", "said"), [
    (False, "the passphrase", r"key\.pem has a passphrase.*openssl pkey"), (True, "the passphrase", ""),
    (True, "another", "cannot use"),
])  # fmt: skip
def test_the_passphrase_of_a_key_is_asked_for_at_a_terminal_and_refused_without_one(
    made: Pair, monkeypatch: pytest.MonkeyPatch, terminal: bool, word: str, said: str
) -> None:
    made[1].write_bytes(openssl("pkey", "-in", str(made[1]), "-aes128", "-passout", "pass:the passphrase"))
    monkeypatch.setattr(sys, "stdin", mock.Mock(isatty=lambda: terminal))
    monkeypatch.setattr(getpass, "getpass", lambda prompt: word)
    with pytest.raises(vessages.StartError, match=said) if said else contextlib.nullcontext():
        vessages.tls_context(*made)
