"""Whom the client trusts: what is remembered and compared, what somebody in between can do, and what he never hears."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import itertools
import json
import re
import socket
import ssl
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from between import (
    HELLO,
    NO_TLS,
    Behaviour,
    Between,
    answering,
    fingerprint_of,
    hanging_up,
    pair,
    posing,
    relaying,
    speaking_first,
)  # fmt: skip
from room import Desk, ScreenDesk
from test_programs import run
from vocabulary import PASSWORD
from wire import PATIENCE, ROOT, ServerProcess, encode

import client
import protocol
from client import ChatError, Client, Tls, TrustError

NEVER_SAID = "this is for bob alone"
Hasten = Callable[[], None]
ChatAt = Callable[..., client.Chat]
ChatOf = Callable[..., tuple[client.Chat, Desk]]


def elsewhere(address: str) -> bool:
    """In place of `protocol.is_loopback`: the other end is another machine."""
    return False


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """The file of the servers that were met."""
    return tmp_path / "known"


class Way(Between):
    """The way of a client to a server, with somebody in between, who poses as the server as long as nothing else is
    said. `known` is the client's file of the servers that it has met."""

    def __init__(self, known: Path) -> None:
        super().__init__(posing(*pair("first")))
        self.known = known

    def tls(self, host: str = "127.0.0.1", **options: Any) -> Tls:
        return Tls(host, self.port, **({"known": self.known, "wanted": None, "is_loopback": elsewhere} | options))

    def dial(self, **options: Any) -> client.Encryption | None:
        """Dial, and hang up; what there was to say."""
        connection = self.tls(**options).dial()
        connection.sock.close()
        return connection.said

    def script(self, **options: Any) -> Client:
        return Client("127.0.0.1", self.port, tls=self.tls(**options))


@pytest.fixture
def way(known: Path) -> Iterator[Way]:
    way = Way(known)
    yield way
    way.close()


def blocks(name: str) -> str:
    return client.fingerprint_line(fingerprint_of(name))


# --- The certificate ---


def test_the_first_certificate_is_remembered_and_said_in_one_line(way: Way) -> None:
    said = way.dial()
    assert said == (
        True, f"encrypted; certificate of 127.0.0.1 remembered: {blocks('first')}", fingerprint_of("first")
    )  # fmt: skip
    assert way.known.read_text(encoding="utf-8") == f"127.0.0.1 {way.port} {said.fingerprint}\n"
    if sys.platform != "win32":
        assert stat.S_IMODE(way.known.stat().st_mode) == 0o600
    assert way.dial() == (True, "", said.fingerprint)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", encode("OK PONG"), encode("ERRORS are many")])
def test_the_certificate_of_what_is_no_vessages_server_is_not_remembered(way: Way, answer: bytes) -> None:
    """Else that of the server, which comes there later, would be one that has changed."""
    way.does = posing(*pair("second"), answer)
    with pytest.raises(TrustError, match="is not a Vessages server: check address and port"):
        way.dial()
    assert not way.known.exists()
    way.does = posing(*pair("first"), encode("BYE full"))
    said = way.dial()
    assert said is not None and said.fingerprint == fingerprint_of("first")


def test_another_certificate_is_refused_before_anything_is_said(way: Way) -> None:
    way.dial()
    way.does = posing(*pair("second"))
    with pytest.raises(TrustError) as caught:
        way.dial()
    assert (caught.value.old, caught.value.new) == tuple(fingerprint_of(name) for name in ("first", "second"))
    compared = f"It was {blocks('first')} and is now {blocks('second')}. "
    for words in ("has CHANGED", compared, "connect once in a terminal"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not way.meetings[-1].heard


def test_a_certificate_is_compared_as_a_whole_and_its_names_and_dates_are_not_looked_at(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = client.connect
    monkeypatch.setattr(client, "connect", lambda host, port: connect("127.0.0.1", port))
    for name in ("localhost", "LocalHost"):  # it is for 127.0.0.1
        way.tls(host=name).dial().sock.close()
    assert len(way.known.read_text(encoding="utf-8").splitlines()) == 1


def test_clients_that_remember_in_the_same_moment_lose_no_line(known: Path) -> None:
    begin = threading.Barrier(4)

    def meet(number: int) -> None:
        begin.wait(PATIENCE)
        for port in range(50):
            client.KnownServers(known).remember(f"lab{number} {port}", "AB:" * 31 + "CD")

    threads = [threading.Thread(target=meet, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    # An empty line between is harmless: the system may show half of a line that is just being written by another.
    lines = known.read_text(encoding="utf-8").split("\n")
    lines = [line for line in lines if line]
    assert len(lines) == len(set(lines)) == 200 and all(len(line.split()) == 3 for line in lines)
    assert client.KnownServers(known).recall("lab3 49") == "AB:" * 31 + "CD"


@pytest.mark.parametrize("port", [0, -1, 65_536, 70_000])
def test_a_port_that_cannot_be_is_refused_in_a_script_too(port: int) -> None:
    with pytest.raises(ValueError, match=f"^{port} is not a port: a number from 1 to 65535"):
        Client("127.0.0.1", port)


def test_what_is_known_of_one_port_says_nothing_of_another(way: Way) -> None:
    client.KnownServers(way.known).remember(f"127.0.0.1 {way.port}0", "AB:" * 31 + "CD")
    said = way.dial()
    assert said is not None and "remembered" in said.words


def test_a_person_accepts_a_changed_certificate_and_the_old_one_is_right_no_more(way: Way) -> None:
    way.dial()
    tls, second = way.tls(), fingerprint_of("second")
    assert tls.trust(second) == f"encrypted; certificate of 127.0.0.1 remembered: {blocks('second')}"
    with pytest.raises(TrustError, match="CHANGED"):  # it is played again by somebody who has its key
        tls.dial()
    way.does = posing(*pair("second"))
    tls.dial().sock.close()
    assert way.dial() == (True, "", second)  # in another client too


def windows_words(fingerprint: str) -> str:
    """As it is copied out of a file of Windows."""
    return protocol.fingerprint_words(fingerprint).replace("\n", "\r\n\t") + "\r\n"


@pytest.mark.parametrize("write", [str, str.lower, protocol.fingerprint_words, client.fingerprint_line, windows_words])
def test_a_script_says_beforehand_which_certificate_is_right(way: Way, write: Callable[[str], str]) -> None:
    tls = way.tls(wanted=True)
    tls.trust(write(fingerprint_of("first")))
    tls.dial().sock.close()
    for wrong in ("", "AB:CD", "AB:" * 31 + "XY", "AB" * 33):
        with pytest.raises(ValueError, match="64 digits"):
            tls.trust(wrong)


def test_a_client_that_is_running_learns_what_another_one_has_accepted(way: Way) -> None:
    tls = way.tls()
    tls.dial().sock.close()
    way.tls().trust(fingerprint_of("second"))
    way.does = posing(*pair("second"))
    tls.dial().sock.close()


def test_a_refused_certificate_is_not_asked_about_again(way: Way) -> None:
    way.dial()
    tls = way.tls()
    tls.refuse(fingerprint_of("second"))
    way.does = posing(*pair("second"))
    with pytest.raises(TrustError, match="still shows the certificate that you have refused") as caught:
        tls.dial()
    assert caught.value.new == ""
    way.does = posing(*pair("first"))
    tls.dial().sock.close()
    way.does = posing(*pair("second"))
    way.tls().trust(fingerprint_of("second"))  # somebody says yes in another window
    with pytest.raises(TrustError, match="still shows the certificate that you have refused"):
        tls.dial()


def test_with_tls_a_new_certificate_is_not_trusted_by_itself(way: Way) -> None:
    with pytest.raises(TrustError, match="is new here, and with --tls a person") as caught:
        way.dial(wanted=True)
    assert caught.value.old == "" and caught.value.new == fingerprint_of("first")
    assert not way.known.exists()
    way.dial()
    assert way.dial(wanted=True) == (True, "", caught.value.new)


def test_a_ca_is_trusted_for_its_names_only_and_its_server_is_remembered(way: Way) -> None:
    cert = pair("first")[0]
    way.dial(ca=cert)
    with pytest.raises(TrustError, match=r"^--ca does not vouch for the certificate of localhost: Hostname mismatch"):
        way.tls(ca=cert, host="localhost").dial()
    way.does = posing(*pair("second"))
    with pytest.raises(TrustError, match=r"self.signed certificate.* Give the file of the CA that signed it"):
        way.dial(ca=cert)
    way.does = answering(NO_TLS)
    with pytest.raises(TrustError, match="has encrypted before"):
        way.dial()


# --- Somebody in between ---


@functools.cache
def recording() -> bytes:
    """What a server with the first certificate has once answered to a hello."""
    context, said = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.MemoryBIO()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), said).do_handshake()
    between = Between(posing(*pair("first")))
    with socket.create_connection(("127.0.0.1", between.port), PATIENCE) as sock:
        sock.sendall(said.read())
        heard = sock.recv(65_536)
    between.close()
    return heard


# What is done to a hello. The first is what a server without TLS does.
EVIL: dict[str, Behaviour] = {
    "strips": answering(NO_TLS),
    "hangs up": hanging_up,
    "is silent": answering(),
    "answers a frame": answering(encode("OK PING")),
    "answers another error": answering(encode("ERROR busy 3 come back later")),
    "wants encryption in clear": answering(encode("ERROR encrypted-only use TLS")),
    "answers half a frame": answering(NO_TLS[:20]),
    "speaks plain first": speaking_first(encode("OK PING"), answering()),
    "answers a frame and then TLS": speaking_first(encode("OK PING"), lambda meeting: posing(*pair("first"))(meeting)),
    "is something else": answering(b"HTTP/1.0 400 Bad Request\r\n\r\n"),
    "sends an alert": answering(b"\x15\x03\x01\x00\x02\x02\x28"),
    "plays a recording": lambda meeting: answering(recording())(meeting),
}


@pytest.fixture
def hasten(monkeypatch: pytest.MonkeyPatch) -> Hasten:
    """From when it is called, nobody waits long for an answer, or for the next attempt."""

    def hasten() -> None:
        monkeypatch.setattr(client, "DIAL_SECONDS", 0.2)
        monkeypatch.setattr(client, "RETRY_FIRST", 0.01)

    return hasten


@pytest.mark.parametrize("wanted", [None, True])
@pytest.mark.parametrize("evil", EVIL)
def test_a_server_that_was_met_with_tls_is_never_spoken_to_without(
    way: Way, hasten: Hasten, evil: str, wanted: bool | None
) -> None:
    way.dial()
    hasten()
    way.does = EVIL[evil]
    with pytest.raises(OSError) as caught:
        way.dial(wanted=wanted)
    words = client.dial_words("127.0.0.1", way.port, caught.value)
    assert ("has encrypted before and does not now" in words) == (evil == "strips")
    assert "\n" not in words
    assert way.first_bytes() <= {HELLO}


@pytest.mark.parametrize("evil", EVIL)
def test_an_unknown_server_is_spoken_to_in_clear_only_if_it_takes_a_hello_for_a_frame(
    way: Way, hasten: Hasten, evil: str
) -> None:
    hasten()
    way.does = EVIL[evil]
    if evil == "strips":
        words = f"127.0.0.1 port {way.port} does not encrypt: {client.READABLE}"
        assert way.dial() == (False, words, "")
        assert way.meetings[-1].heard == encode("PING")
        del way.meetings[-1]
    else:
        with pytest.raises(OSError) as caught:
            way.dial()
        words = client.dial_words("127.0.0.1", way.port, caught.value)
        assert re.search(r"hung up before|does not answer: check|not a Vessages server", words)
    assert way.first_bytes() <= {HELLO}
    assert not way.known.exists()


def test_a_handshake_is_cut_at_every_point(way: Way) -> None:
    server = Between(posing(*pair("first")))
    flight = len(recording()) - 8  # a signature is some bytes longer or shorter each time
    try:
        for count in [*range(0, flight, 29), flight]:
            way.does = relaying(("127.0.0.1", server.port), most=count)
            with pytest.raises(OSError) as caught:
                way.dial()
            assert "hung up" in str(caught.value)
        assert not way.known.exists()
        assert way.first_bytes() == {HELLO}
    finally:
        server.close()


@pytest.mark.parametrize("met", [True, False])
def test_a_server_that_is_full_is_not_taken_for_one_that_does_not_encrypt(way: Way, met: bool) -> None:
    if met:
        way.dial()
    way.does = speaking_first(encode("BYE full"), answering())
    with pytest.raises(TrustError, match="the server is full; neither a password nor a message was sent"):
        way.dial()
    assert way.first_bytes() <= {HELLO}


@pytest.mark.parametrize(
    ("does", "options", "words", "begins"),
    [
        (EVIL["strips"], {"wanted": True}, "does not encrypt, and --tls is given", HELLO),
        (EVIL["wants encryption in clear"], {"wanted": False}, "talks only over TLS: leave out --no-tls", 0),
        (None, {"wanted": True, "is_loopback": protocol.is_loopback}, "is new here", HELLO),  # encrypted here too
    ],
    ids=["no TLS with --tls", "only TLS with --no-tls", "this machine with --tls"],
)
def test_what_was_asked_for_is_kept_to(
    way: Way, does: Behaviour | None, options: dict[str, Any], words: str, begins: int
) -> None:
    way.does = does or way.does
    with pytest.raises(TrustError, match=words):
        way.dial(**options)
    assert way.first_bytes() <= {begins}


def test_without_tls_nothing_is_encrypted_and_for_a_known_server_there_is_a_warning(way: Way) -> None:
    way.does = answering(encode("OK PING"))
    assert way.dial(wanted=False) is None
    tls = way.tls(wanted=False)
    client.KnownServers(way.known).remember(f"127.0.0.1 {way.port}", fingerprint_of("first"))
    words = f"127.0.0.1 port {way.port} has encrypted before; with --no-tls {client.READABLE}"
    for said in ((False, words, ""), None):
        connection = tls.dial()
        connection.sock.close()
        assert (connection.data, connection.said) == (encode("OK PING"), said)  # it is warned of once


def by_turns(*behaviours: Behaviour) -> Behaviour:
    """Each connection meets the next of these, the last one for ever."""
    turns = iter(behaviours)
    return lambda meeting: next(turns, behaviours[-1])(meeting)


def test_on_this_machine_itself_it_is_plain_until_the_server_wants_tls(way: Way) -> None:
    here: dict[str, Any] = {"is_loopback": protocol.is_loopback}
    way.does = answering(encode("OK PING"))
    assert way.dial(**here) is None
    way.does = hanging_up
    way.tls(**here).dial().sock.close()  # the session says why it is none
    way.does = by_turns(answering(encode("ERROR encrypted-only use TLS")), posing(*pair("first")))
    said = way.dial(**here)
    assert said is not None and "remembered" in said.words
    before = len(way.meetings)
    assert way.dial(**here) == (True, "", said.fingerprint)  # now it is known: not a byte in clear
    way.does = EVIL["strips"]
    with pytest.raises(TrustError, match="has encrypted before"):
        way.dial(**here)
    assert {meeting.heard[0] for meeting in way.meetings[before:] if meeting.heard} == {HELLO}


@pytest.mark.parametrize(
    ("address", "here"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True), ("::ffff:127.0.0.2", True)]
    + [("192.168.1.5", False), ("::ffff:10.0.0.1", False), ("fe80::1%eth0", False), ("1.127.0.0", False)],
)
def test_addresses_of_this_machine(address: str, here: bool) -> None:
    assert protocol.is_loopback(address) == here


# --- The file ---


def test_servers_are_found_among_others_whatever_their_lines_look_like(known: Path) -> None:
    first, second = ("AB:" * 31 + end for end in ("01", "02"))
    lines = f"Lab 5000 {first}\r\n\nlab 5001\n\xff\xfe junk\n::1 5000 {first} \nlab 5000 {second}\n"
    known.write_bytes(lines.encode("latin-1"))
    servers = client.KnownServers(known)
    assert [servers.recall(name) for name in ("lab 5000", "lab 5001", "::1 5000", "lab 500", "lab")] == [
        second, "", first, None, None,
    ]  # fmt: skip


def test_servers_are_found_where_an_editor_has_saved_the_file_in_its_own_way(way: Way) -> None:
    line = f"127.0.0.1 {way.port} {fingerprint_of('first')}\r\n"
    way.does = posing(*pair("second"))
    way.known.write_text(line, encoding="utf-8-sig", newline="")
    with pytest.raises(TrustError, match="CHANGED"):
        way.dial()
    way.known.write_text(line, encoding="utf-16", newline="")
    said, before = way.dial(), way.known.read_bytes()
    assert said is not None and "cannot be used: it is UTF-16: save it as UTF-8" in said.words
    assert way.known.read_bytes() == before


def test_a_broken_line_says_that_the_server_was_met_and_not_with_what(way: Way) -> None:
    way.known.write_text(f"127.0.0.1 {way.port} AB:CD", encoding="utf-8")
    way.does = EVIL["strips"]
    with pytest.raises(TrustError, match="has encrypted before"):
        way.dial()
    way.does = posing(*pair("first"))
    said = way.dial()
    assert said is not None and "remembered" in said.words
    assert way.known.read_text(encoding="utf-8").splitlines()[1:] == [f"127.0.0.1 {way.port} {said.fingerprint}"]
    assert way.dial() == (True, "", said.fingerprint)


def unusable(kind: str, known: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of known servers that cannot be used, each for another reason."""
    if kind == "a folder":
        known.mkdir()
    elif kind == "in no folder":
        return known / "of" / "a folder that is not there"
    elif kind == "in a file":
        known.write_bytes(b"")
        return known / "known"
    elif kind == "no home":

        def homeless(path: Path) -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "expanduser", homeless)
    elif kind == "endless":
        known.symlink_to("/dev/zero")
    elif kind == "on a full disk":
        monkeypatch.setattr("builtins.open", full_disk(0))
    else:
        fingerprint_of("first")

        def refuse(*_: object) -> Any:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
    return known


def full_disk(room: int) -> Callable[..., io.FileIO]:
    """In place of `open`: a file on a disk that has room for so many bytes."""

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if room == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data[:room])

    return lambda path, mode, buffering, opener: Full(path, mode.replace("b", ""), opener=opener)


KINDS = ["a folder", "in no folder", "in a file", "no home", "on a full disk", "endless", "unreadable"]


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_can_be_remembered_it_is_encrypted_for_this_time(
    way: Way, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "endless" and sys.platform == "win32":
        pytest.skip("there is no such device")
    tls = way.tls(known=unusable(kind, way.known, monkeypatch))
    connection = tls.dial()
    connection.sock.close()
    assert connection.said is not None
    words, shown = connection.said.words, f"; certificate of 127.0.0.1: {blocks('first')}"
    assert re.fullmatch(rf"encrypted for this time, as .* cannot be used: [^;\n]+{shown}", words)
    assert not way.known.is_file() or way.known.stat().st_size == 0
    again = tls.dial()
    again.sock.close()
    assert again.said == (True, "", connection.said.fingerprint)  # this client still knows
    way.does = EVIL["strips"]
    with pytest.raises(TrustError, match="so neither a password nor a message was sent"):
        tls.dial()
    way.does = posing(*pair("second"))
    with pytest.raises(TrustError, match="CHANGED"):
        tls.dial()


def test_a_file_that_cannot_be_read_may_have_the_server_in_it(way: Way) -> None:
    way.known.mkdir()
    way.does = EVIL["strips"]
    with pytest.raises(TrustError, match=r"does not encrypt, and .* does not tell whether it has before"):
        way.dial()


def test_half_a_line_on_a_full_disk_is_no_line(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint = "AB:" * 31 + "CD"
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", full_disk(20))
        with pytest.raises(OSError, match="No space"):
            client.KnownServers(known).remember("lab 5000", fingerprint)
    assert known.stat().st_size == 20
    client.KnownServers(known).remember("lab 5001", fingerprint)
    assert [client.KnownServers(known).recall(f"lab {port}") for port in (5000, 5001)] == ["", fingerprint]


# --- Persons, pipes and scripts, at the first contact and at a return ---

NAMES = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that encrypts, with a certificate of its own making."""
    with ServerProcess(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def honest(server: ServerProcess, way: Way) -> Behaviour:
    """Hand everything on to the server. That is what a client meets first."""
    way.does = relaying(server.address)
    return way.does


@pytest.fixture
def name() -> str:
    """Of somebody who has no account yet."""
    return f"bob{next(NAMES)}"


def until(chat: client.Chat, holds: Callable[[], object]) -> None:
    """Turn the chat until this holds."""
    for _ in range(int(PATIENCE / 0.05)):
        if holds():
            return
        chat.turn(until=chat.link.now() + 0.05)
    raise AssertionError(chat.front.seen)  # type: ignore[attr-defined]


@pytest.fixture
def chat_at(way: Way) -> Iterator[ChatAt]:
    """Begins a chat at a front end."""
    chats: list[client.Chat] = []

    def begin(front: client.Front, user: str | None = None, secret: str | None = None, **options: Any) -> client.Chat:
        tls = way.tls(**options)
        link = client.Link("127.0.0.1", way.port, protocol.ClientSession(1), dial=tls.dial, chance=lambda: 0.0)
        chats.append(client.Chat(link, front, to=None, secret=secret, tls=tls))
        chats[-1].begin(user)
        return chats[-1]

    yield begin
    for chat in chats:
        chat.link.close()
        chat.front.close()


@pytest.fixture
def chat_of(chat_at: ChatAt) -> ChatOf:
    """Begins one of somebody at a desk, who has the password of `user`: a person or a pipe."""

    def begin(interactive: bool, user: str | None = None, secret: str | None = PASSWORD, **options: Any) -> Any:
        desk = Desk()
        desk.interactive = interactive
        return chat_at(desk, user, secret, **options), desk

    return begin


def has_account(way: Way, name: str, honest: Behaviour) -> None:
    """Make an account, through the one in between, who is honest that time."""
    way.does, before = honest, way.does
    with way.script() as bot:
        bot.register(name, PASSWORD)
    way.does = before
    way.meetings.clear()


def nothing_was_told(way: Way) -> bool:
    """Whether nobody has heard a secret, and nobody was spoken to in clear."""
    heard = b"".join(bytes(meeting.heard) for meeting in way.meetings)
    return way.first_bytes() <= {HELLO} and PASSWORD.encode() not in heard and NEVER_SAID.encode() not in heard


CHANGED = "has CHANGED: somebody may be posing as the server"
# One of each kind for those in front of a link: refused for ever, silent for now, somebody else. What of all that is
# EVIL is never spoken to is tried above.
POSES: dict[str, Behaviour] = {name: EVIL[name] for name in ("strips", "is silent", "plays a recording")}
POSES |= {"poses": lambda meeting: posing(*pair("second"))(meeting)}


@pytest.mark.parametrize("evil", POSES)
@pytest.mark.parametrize("front", ["person", "pipe", "script"])
def test_at_a_first_contact_with_a_known_server_nobody_in_between_hears_anything(
    way: Way, name: str, honest: Behaviour, chat_of: ChatOf, hasten: Hasten, front: str, evil: str
) -> None:
    has_account(way, name, honest)
    hasten()
    way.does = POSES[evil]
    if front == "script":
        with way.script() as bot:
            with pytest.raises(ChatError) as caught:
                bot.login(name, PASSWORD)
            assert caught.value.code == ("untrusted" if evil == "poses" else "unreachable")
            words = caught.value.words
    else:
        chat, desk = chat_of(front == "person", name)
        if front == "person" and evil == "poses":
            until(chat, lambda: desk.answers)
            assert desk.prompts == ["trust the new certificate? yes/no (hidden) "]
            desk.typed += ["y", "sure", "", "no"]  # only a whole yes is one
        until(chat, lambda: chat.status is not None)
        assert chat.status == 2
        words = chat.last_words
    assert "\n" not in words
    if evil == "poses":
        assert ("not connected: ask whoever" if front == "person" else CHANGED) in words
    assert nothing_was_told(way)


@pytest.mark.parametrize("evil", POSES)
@pytest.mark.parametrize("front", ["person", "pipe", "script"])
def test_at_a_return_nobody_in_between_hears_anything(
    way: Way, name: str, honest: Behaviour, chat_of: ChatOf, hasten: Hasten, front: str, evil: str
) -> None:
    has_account(way, name, honest)
    way.does = honest
    if front == "script":
        with way.script() as bot:
            bot.login(name, PASSWORD)
            hasten()
            way.cut(POSES[evil])
            bot.send(name, NEVER_SAID, wait=False)
            if evil == "poses":
                with pytest.raises(ChatError, match=CHANGED) as caught:
                    list(bot.events(timeout=PATIENCE))
                assert caught.value.code == "untrusted"
            else:
                assert any(isinstance(event, client.Dialling) and event.words for event in bot.events(PATIENCE))
    else:
        chat, desk = chat_of(front == "person", name)
        until(chat, lambda: chat.session.online)
        hasten()
        way.cut(POSES[evil])
        desk.typed.append(f"SEND {name} {NEVER_SAID}")
        if evil != "poses":
            until(chat, lambda: any("; trying again in" in line for line in desk.seen))
            assert chat.status is None  # it may pass
        elif front == "pipe":
            desk.typed.append(None)  # its end: the client waits for the fates
            until(chat, lambda: chat.status is not None)
            assert chat.status == 2 and CHANGED in chat.last_words and "\n" not in chat.last_words
            assert any(NEVER_SAID in line for line in desk.seen if line.startswith("!! "))
        else:
            until(chat, lambda: desk.answers)
            assert any(CHANGED in line for line in desk.seen)
    assert nothing_was_told(way)


@pytest.mark.parametrize("front", ["person", "pipe", "script"])
@pytest.mark.parametrize("met", [False, True])
def test_a_script_is_over_when_the_ca_does_not_vouch_for_the_server(
    server: ServerProcess, way: Way, name: str, honest: Behaviour, chat_of: ChatOf,
    hasten: Hasten, front: str, met: bool,
) -> None:  # fmt: skip
    """A person waits for the right one at a return, and has nothing to be asked about."""
    ca = server.errors.with_name("vessages-cert.pem")
    has_account(way, name, honest)
    way.does = honest if met else POSES["poses"]
    said = "--ca does not vouch for the certificate of 127.0.0.1: "
    if front == "script":
        with way.script(ca=ca) as bot:
            if met:
                bot.login(name, PASSWORD)
                hasten()
                way.cut(POSES["poses"])
            with pytest.raises(ChatError, match=said) as caught:
                list(bot.events(timeout=PATIENCE)) if met else bot.login(name, PASSWORD)
            assert caught.value.code == "untrusted"
        return
    chat, desk = chat_of(front == "person", name, ca=ca)
    if met:
        until(chat, lambda: chat.session.online)
        hasten()
        way.cut(POSES["poses"])
    if met and front == "person":
        until(chat, lambda: any(said in line and "; trying again in" in line for line in desk.seen))
        assert desk.prompts == []
        way.cut(honest)
        until(chat, lambda: any("-- back as" in line for line in desk.seen))
    else:
        until(chat, lambda: chat.status is not None)
        assert chat.status == 2 and said in chat.last_words and "\n" not in chat.last_words
    assert nothing_was_told(way)


def test_a_person_who_says_yes_goes_on_where_it_was_interrupted(
    way: Way, name: str, honest: Behaviour, chat_of: ChatOf
) -> None:
    has_account(way, name, honest)
    way.known.write_text(f"127.0.0.1 {way.port} {fingerprint_of('second')}\n", encoding="utf-8")
    way.does = honest
    chat, desk = chat_of(True, secret=None)
    desk.typed.append(f"/login {name}")  # which asks for the password before there is a connection
    until(chat, lambda: len(desk.prompts) == 2)
    desk.typed.append("yes")
    until(chat, lambda: len(desk.prompts) == 3)
    password, trust = f"Password for {name}: ", "trust the new certificate? yes/no (hidden) "
    assert desk.prompts == [password, trust, password]
    desk.typed.append(PASSWORD)
    until(chat, lambda: f"-- you are {name}" in desk.seen)
    assert any("certificate of 127.0.0.1 remembered: " in line for line in desk.seen)


def test_a_person_is_asked_about_a_new_certificate_with_tls_alone(way: Way, honest: Behaviour, chat_of: ChatOf) -> None:
    chat, desk = chat_of(True, wanted=True)
    until(chat, lambda: desk.answers)
    assert desk.prompts == ["trust it? yes/no (hidden) "]
    assert desk.seen[-1] == "-- Is that what the server printed when it was started?"
    desk.typed.append("yes")
    until(chat, lambda: "-- connected" in desk.seen)
    chat, desk = chat_of(False, wanted=True)
    until(chat, lambda: "-- connected" in desk.seen)


def test_a_person_is_asked_in_the_chat_itself_and_goes_on_with_the_line_and_with_the_right_server(
    way: Way, name: str, honest: Behaviour, chat_at: ChatAt, server: ServerProcess, hasten: Hasten
) -> None:
    desk = ScreenDesk(lambda: chat.turn(until=chat.link.now() + 0.05), width=120)
    chat = chat_at(desk)
    desk.sees("-- connected").types(f"REGISTER {name} {PASSWORD}\r").shows("1 online >").types("half a line")
    desk.screen.written = ""
    hasten()
    way.cut(posing(*pair("second")))
    desk.prompts("trust the new certificate? yes/no (hidden)")
    shown = "\n".join(desk.screen.lines())
    for fingerprint in (greeted(server), blocks("second")):
        assert fingerprint[:39] in shown and fingerprint[40:] in shown
    meetings = len(way.meetings)
    desk.types(f"{PASSWORD}\r").sees("yes or no, as a whole word; Esc is a no too")
    desk.types("\r").types("\r").prompts("trust the new certificate? yes/no (hidden)")
    assert len(way.meetings) == meetings  # nothing is dialled while somebody thinks
    desk.types("\x1b").shows("Enter alone asks again").shows("> half a line")
    desk.types(f"\x15SEND {name} {NEVER_SAID}\r\r").prompts("trust the new certificate? yes/no (hidden)")
    desk.types("no\r").types("half a line").shows("> half a line")
    assert desk.stays_secret(PASSWORD) and nothing_was_told(way)
    way.cut(honest)  # the right one is back, and so are we
    desk.shows("-- back as").sees(f"→ {name}  {NEVER_SAID}").shows("> half a line")
    assert nothing_was_told(way)


def test_ping_tells_a_person_how_long_it_took_and_whether_it_was_encrypted(
    way: Way, honest: Behaviour, chat_of: ChatOf
) -> None:
    chat, desk = chat_of(True)
    desk.typed += ["/ping", "/ping hi"]
    until(chat, lambda: any("-- PING hi" in line for line in desk.seen))
    for line, words in zip([line for line in desk.seen if "PING" in line], ("", "hi "), strict=True):
        assert re.fullmatch(rf"-- PING {words}\d+\.\d ms, encrypted", line)
    way.does = answering(encode("OK PING"), encode("#2 OK PING"))
    chat, desk = chat_of(True, wanted=False)
    desk.typed.append("/ping")
    until(chat, lambda: any(line.endswith(" ms, not encrypted") for line in desk.seen))


def test_a_warning_comes_before_the_first_word_of_the_server(way: Way, chat_of: ChatOf) -> None:
    way.does = by_turns(EVIL["strips"], EVIL["strips"], answering(encode("OK PING")))
    chat, desk = chat_of(False)
    until(chat, lambda: "-- connected" in desk.seen)
    assert desk.seen == [f"!! 127.0.0.1 port {way.port} does not encrypt: {client.READABLE}", "-- connected"]


def test_a_script_talks_through_tls(way: Way, name: str, honest: Behaviour) -> None:
    with way.script() as bot:
        bot.register(name, PASSWORD)
        bot.login(name, PASSWORD)
        text = "x" * 60_000  # several TLS records
        bot.send(name, text)
        assert next(bot.messages(timeout=PATIENCE)).text == text
        said = next(event for event in bot.events() if isinstance(event, client.Encryption))
        assert (
            said.encrypted and "remembered" in said.words and said.fingerprint in way.known.read_text(encoding="utf-8")
        )
    assert nothing_was_told(way)


@pytest.mark.parametrize(("tls", "begins"), [(None, 0), (True, HELLO), (False, 0)])
def test_how_a_script_says_what_it_wants(way: Way, tls: bool | None, begins: int) -> None:
    way.does = hanging_up
    with Client("127.0.0.1", way.port, tls=tls, timeout=0.1) as bot, pytest.raises((ChatError, TimeoutError)):
        bot.login("bob", PASSWORD)
    assert way.first_bytes() == {begins}


# --- The programs ---

ELSEWHERE = """
import runpy, sys
sys.path.insert(0, {root!r})
import protocol
protocol.is_loopback = lambda address: False
runpy.run_path({program!r}, run_name="__main__")
"""


@pytest.fixture
def elsewhere_client(tmp_path: Path) -> Path:
    """The client, for which no server is on its own machine."""
    code = tmp_path / "elsewhere.py"
    code.write_text(ELSEWHERE.format(root=str(ROOT), program=str(ROOT / "client.py")), encoding="utf-8")
    return code


def greeted(server: ServerProcess) -> str:
    """The fingerprint that a server shows in its greeting."""
    found = re.search(r"fingerprint:\n((?: +[0-9A-F ]+\n)+)", server.greeting)
    assert found is not None
    return " ".join(found[1].split())


def test_a_pipe_needs_no_option_and_shows_what_the_server_has_printed(
    server: ServerProcess, way: Way, honest: Behaviour, name: str, elsewhere_client: Path, tmp_path: Path
) -> None:
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "VESSAGES_PASSWORD": PASSWORD}
    options: dict[str, Any] = {"program": (sys.executable, str(elsewhere_client)), "environ": home}
    place = "127.0.0.1", str(way.port)
    typed = f"REGISTER {name} {PASSWORD}\nLOGIN {name} {PASSWORD}\nSEND {name} {NEVER_SAID}\n"
    status, lines, errors = run(*place, typed=typed, **options)
    assert (status, errors) == (0, "")
    assert lines[:2] == [f"-- encrypted; certificate of 127.0.0.1 remembered: {greeted(server)}", "-- connected"]
    assert any(line.endswith(f"-> {name}: {NEVER_SAID}") for line in lines)
    status, lines, _ = run(*place, "--json", typed=f"LOGIN {name} {PASSWORD}\n", **options)
    first = json.loads(lines[0])
    assert (status, first["event"], first["encrypted"], first["words"]) == (0, "encryption", True, "")
    assert nothing_was_told(way)
    way.does = posing(*pair("second"))
    status, lines, errors = run(*place, "--user", name, "--json", "--tls", typed="", **options)
    assert (status, lines) == (2, [])
    assert errors.startswith("client.py: the certificate of 127.0.0.1") and errors.count("\n") == 1
    assert nothing_was_told(way)
