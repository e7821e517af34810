"""The words in which the socket tests are written: a `Rig` (a real server that the test turns by hand), `ServerProcess`
(the program as a person starts it), `ServerThread` (a server that just runs, for tests of what connects to it), and
`Peer`, somebody at the other end of a real connection.

    alice, bob = rig.people("alice", "bob")
    alice.says("SEND bob hi")
    assert bob.hears() == [f"MSG alice 0 {STAMP} hi"]

`Peer` is written from the README's page on the protocol and shares no code with `protocol.py`, so that a mistake in
the codec cannot hide by being made at both ends. That everything has arrived is known from the answer to a PING, never
from waiting. In a rig time is what the test says it is: `rig.wait(20)` is over at once.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import select
import selectors
import shutil
import signal
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import pytest
from vocabulary import END, WALL, Somebody, World, acquainted

import protocol
import storage
import vessages

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "vessages.py"
# The programs as modules, which are not compiled at each start, and the environment that they need for that.
SERVER, STORAGE, CLIENT = ((sys.executable, "-m", name) for name in ("vessages", "storage", "client"))
ENVIRON = os.environ | {"PYTHONPATH": str(ROOT)}
COST = storage.Cost(1, 1, 1)

NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
# What a rig can be made with: its connections should be the same to those who talk over them.
KINDS: dict[str, dict[str, Any]] = {
    "default": {}, "via_select": {"selector": selectors.SelectSelector}, "via_tls": {"tls": True},
}  # fmt: skip
# For what lies behind the connections, or before them, and is the same whatever they are.
in_one_place = pytest.mark.parametrize("rig", ["default"], indirect=True)

QUESTIONS = itertools.count(1)  # one count for everybody: whoever resumes a session hears what another asked there

IDLE = 0.005  # seconds that an idle turn lasts: only how often a rig looks around, nothing is concluded from it
IDLE_TURNS = 6000  # a rig in which nothing happens for so long has failed
PATIENCE = 30.0  # seconds after which a process has failed
SMALL = 4096  # bytes the system buffers for a reader who is to be slow


@functools.cache
def shared_tls() -> ssl.SSLContext:
    """The settings of TLS of every server that is turned by hand: to load them takes as long as a short test."""
    return vessages.tls_context(certificate() / "cert.pem", certificate() / "key.pem")


@functools.cache
def certificate() -> Path:
    """A folder with a certificate for TLS, made once. The test is skipped where there is nothing to make one with."""
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl here to make a certificate")
    return Path(tempfile.mkdtemp(dir=Path.home()))  # which is removed in the end


def fault(*_: object) -> Any:
    """In the place of a function: a fault of our own."""
    raise RuntimeError("planted")


def full(*_: object) -> Any:
    """In the place of what writes to the disk."""
    raise storage.StorageError("vessages.db: the disk is full: free some space, the server then goes on by itself")


def encode(payload: str | bytes) -> bytes:
    """A frame: four bytes of length, most significant first, then the text."""
    body = payload.encode() if isinstance(payload, str) else payload
    return struct.pack("!I", len(body)) + body


def noting_in(said: list[str]) -> vessages.WriteLog:
    """A log that is kept in a list."""
    return lambda *lines: said.extend(lines)


class Peer(Somebody):
    """Somebody at the other end of a socket. `step` lets the server do something, or waits for it."""

    def __init__(self, sock: socket.socket, step: Callable[[], None]) -> None:
        super().__init__()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a test has many small things to say
        self.socket = sock
        self.was_reset = False  # ended, but not properly: something may have been lost
        self._step = step
        self._bytes = b""
        self._unsaid = b""

    # Saying

    def say(self, *payloads: str | bytes) -> Peer:
        """These frames, in one piece."""
        return self.say_bytes(b"".join(encode(payload) for payload in payloads))

    def say_bytes(self, data: bytes) -> Peer:
        self._unsaid += data
        if len(self._unsaid) > len(data):
            return self  # in the middle of something else, which goes first
        listened = False
        while self._unsaid:
            try:
                self._unsaid = self._unsaid[self.socket.send(self._unsaid) :]
            except NOT_NOW:
                self.take_in()  # whoever does not listen is not listened to
                if listened:
                    self._step()
                listened = not listened  # that may have ended a TLS handshake: before waiting, it is said again
        return self

    # Hearing

    def hears(self) -> list[str]:
        """What has come, up to the answer to a PING that is said now. Presence goes to `roster` and `presence`."""
        word = f"is that all? {next(QUESTIONS)}"
        try:
            self.say("PING " + word)
        except (BrokenPipeError, ConnectionResetError):
            return self.ends()
        heard: list[str] = []
        while True:
            (payload,) = self.next()
            if payload == END or re.fullmatch(rf"(@\d+ )?OK PING {re.escape(word)}", payload):
                return self.without_presence(heard) + [END] * (payload == END)
            heard.append(payload)

    # The connection

    def take_in(self) -> bool:
        """Read what is there; whether anything was."""
        if self.ended or not self.reading:
            return False
        try:
            data = self.socket.recv(65536)
        except NOT_NOW:
            return False
        except (BrokenPipeError, ConnectionResetError):  # the first from OpenSSL in the middle of a handshake
            self.was_reset, data = True, b""
        self.ended = not data
        self._bytes += data
        while len(self._bytes) >= 4:
            (length,) = struct.unpack_from("!I", self._bytes)
            if len(self._bytes) < 4 + length:
                break
            payload, self._bytes = self._bytes[4 : 4 + length].decode(), self._bytes[4 + length :]
            if payload == "PING" and self.lively:
                with contextlib.suppress(OSError):
                    self.say("ACK 0")
            else:
                self._frames.append(payload)
        return True

    def _wait(self) -> None:
        for _ in range(IDLE_TURNS):
            if self.take_in():
                return
            self._step()
        raise AssertionError("nothing came")

    def finish(self) -> None:
        """FIN: nothing more will be said."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """RST: the connection breaks, what was on its way is lost."""
        at_once = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.close()

    def close(self) -> None:
        self.ended = True
        self.socket.close()


def hasty_store(path: Path) -> storage.Store:
    """A store that trusts the disk: what survives a power cut is tested elsewhere."""
    hasty = ("synchronous = OFF", "journal_mode = MEMORY")
    with mock.patch.object(storage, "SETTINGS", (*storage.SETTINGS, *hasty)):
        return storage.open_store(path)


class PatientPeer(Peer):
    """Somebody at a server that runs by itself: between two looks at what it tells there is a little pause."""

    def _linger(self) -> None:
        select.select([self.socket], [], [], 0.0 if self._frames else 0.02)


class Clock:
    """The time in a rig. Each look at it takes a tenth of a millisecond; all else is the test's doing."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wall = WALL

    def __call__(self) -> float:
        self.now += 1e-4
        return self.now

    def tell_wall(self) -> float:
        return self.wall


class WatchedSelector(selectors.BaseSelector):
    """A selector that never waits long, and passes the rig's time instead of real time while `until` is set."""

    def __init__(self, inner: selectors.BaseSelector, clock: Clock) -> None:
        self.inner = inner
        self.clock = clock
        self.until = 0.0
        self.asked: list[float | None] = []  # how long the server wanted to wait, each turn
        self.stale: list[tuple[selectors.SelectorKey, int]] = []  # events to be reported once, whatever is true now

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.asked.append(timeout)
        planted, self.stale = self.stale, []
        events = planted + self.inner.select(0)
        if events:
            return events
        if self.clock.now < self.until:
            step = self.until - self.clock.now if timeout is None else min(timeout, self.until - self.clock.now)
            self.clock.now += step
            self.clock.wall += step
            return self.inner.select(0)
        return self.inner.select(IDLE if timeout is None else min(timeout, IDLE))

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self.inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self.inner.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self.inner.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self.inner.get_map()

    def close(self) -> None:
        self.inner.close()


class Rig:
    """A server with real sockets, a real database and workers, whose loop and clock are the test's."""

    address = "127.0.0.1"  # of everybody

    def __init__(
        self, folder: Path, selector: type[selectors.BaseSelector] = selectors.DefaultSelector, listeners: int = 1,
        host: str = "127.0.0.1", tls: bool = False, serves: str = "offered", spare_files: int = vessages.SPARE_FILES,
        **settings: Any,
    ) -> None:  # fmt: skip
        """`tls`: whether the people encrypt; the port serves both, unless the server `serves` encrypted ones "only"."""
        self.folder = folder
        self.make_selector = selector
        self.ports = listeners
        self.host = host
        self.tls = tls
        self.serves = serves
        self.spare_files = spare_files
        self.settings = settings
        self.cost = COST
        self.clock = Clock()
        self.log: list[tuple[float, str]] = []  # its lines, and when they were written, in Unix seconds
        self.peers: list[Peer] = []
        self.start()

    def start(self) -> None:
        tls = shared_tls() if self.offers_tls else None  # skips the test where there is none, before anything is open
        self.hub = protocol.Hub(**self.settings)
        self.selector = WatchedSelector(self.make_selector(), self.clock)
        self.listeners = [sock for _ in range(self.ports) for sock in vessages.bind(self.host, 0)]
        self.store = hasty_store(self.folder / "vessages.db")
        self.server = vessages.Server(
            self.hub, self.store, self.listeners, cost=self.cost,
            selector=self.selector, clock=self.clock, wall=self.clock.tell_wall,
            tls=tls, encrypted_only=self.serves == "only",
            spare_files=self.spare_files,
            log=lambda *lines: self.log.extend((self.clock.wall, line) for line in lines),
        )  # fmt: skip
        self.hub.restore(self.store.recover(self.clock.wall))
        self.running = True

    @property
    def offers_tls(self) -> bool:
        return self.serves != "off" and (shutil.which("openssl") is not None or self.tls or self.serves == "only")

    @property
    def said(self) -> list[str]:
        """The lines of the log."""
        return [line for _, line in self.log]

    # People

    def connect(self, listener: int = 0, receive_buffer: int = 0) -> Peer:
        sock = socket.socket(self.listeners[listener].family)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(self.listeners[listener].getsockname())
        peer = Peer(self._encrypt(sock) if self.tls else sock, self.turn)
        self.peers.append(peer)
        return peer

    def _encrypt(self, plain: socket.socket) -> socket.socket:
        """The handshake is had when something is said or heard there."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        plain.setblocking(False)
        return context.wrap_socket(plain, do_handshake_on_connect=False)

    def person(self, name: str, kept: bool = False, receive_buffer: int = 0) -> Peer:
        """Somebody who has an account and has logged in, and has heard all that belongs to it."""
        peer = self.connect(receive_buffer=receive_buffer)
        peer.enter(name, kept)
        return peer

    def people(self, *names: str, kept: bool = False) -> list[Peer]:
        """Several of them, who see each other."""
        return acquainted([self.person(name, kept) for name in names], *names)

    def slow_reader(self, name: str, kept: bool = False, buffer: int = SMALL) -> Peer:
        """Somebody who, once logged in, takes nothing."""
        self.listeners[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        peer = self.person(name, kept, receive_buffer=buffer)
        peer.reading = False
        return peer

    # The loop

    def interest(self) -> list[int]:
        """What the selector is asked about for each client."""
        return [key.events for key in self.selector.get_map().values() if isinstance(key.data, protocol.Connection)]

    def is_at_rest(self) -> bool:
        """Whether the loop waits, as it must when there is nothing to do."""
        self.turns(4)
        return (self.selector.asked[-1] or 0.0) > 0.1

    # Time

    def turn(self) -> None:
        self.server.turn()

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.server.turn()

    def wait(self, seconds: float) -> None:
        """Time passes, with a turn for whatever is due on the way; lively peers answer a PING."""
        self.selector.until = self.clock.now + seconds
        while self.clock.now < self.selector.until:
            self.turn()
            for peer in self.peers:
                while peer.take_in():
                    pass
        self.selector.until = 0.0
        self.turns(2)

    @property
    def wall(self) -> float:
        return self.clock.wall

    def set_clock(self, seconds: float) -> None:
        """Somebody sets the clock on the wall."""
        self.clock.wall += seconds

    # The end

    def stop(self) -> None:
        """The server is told to stop, and runs to its end."""
        self.running = False
        self.server.stop()
        self.selector.until = self.clock.now + 60
        while not self.server.finished:
            self.turn()
        self.server.close()
        self.store.close()

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        if self.running:
            self.stop()

    def restart(self) -> Rig:
        """The server is stopped and started again."""
        self.stop()
        self.start()
        return self

    def statuses(self) -> dict[str, str]:
        """What is on disk once it has done what it was given: a RESUME is answered from there, behind all that."""
        if self.running:
            peer = self.connect()
            peer.says("RESUME nobody 0")
            peer.close()
        with contextlib.closing(sqlite3.connect(self.store.path)) as db:
            return dict(db.execute("SELECT username, status FROM users").fetchall())


Running = TypeVar("Running", bound="RunningServer")


class RunningServer:
    """A server that runs by itself, in real time. Leaves nothing behind."""

    def __init__(self) -> None:
        self.address = ("", 0)
        self.peers: list[Peer] = []

    def connect(self) -> Peer:
        sock = socket.create_connection(self.address, timeout=PATIENCE)

        def step() -> None:
            assert select.select([sock], [], [], PATIENCE)[0], "nothing came"

        peer = PatientPeer(sock, step)
        self.peers.append(peer)
        return peer

    def person(self, name: str, kept: bool = False) -> Peer:
        peer = self.connect()
        peer.enter(name, kept)
        return peer

    def close(self) -> None:
        for peer in self.peers:
            peer.close()

    def __enter__(self: Running) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ServerThread(RunningServer):
    """A server in a thread: it costs a tenth of a process, and is the same to all who connect."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__()
        self._store = hasty_store(folder / "vessages.db")
        (listener,) = vessages.bind("127.0.0.1", 0)
        self.address = listener.getsockname()
        self._server = vessages.Server(protocol.Hub(**settings), self._store, [listener], cost=COST)
        self._server.hub.restore(self._store.recover(time.time()))
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()

    def close(self) -> None:
        super().close()
        self._server.stop()
        self._thread.join(PATIENCE)
        self._server.close()
        self._store.close()


class ServerProcess(RunningServer):
    """`python vessages.py` as a person starts it."""

    def __init__(
        self, folder: Path, *options: str, host: str = "127.0.0.1", port: int = 0, code: Path | None = None,
        open_files: int = 0, before: str = "",
    ) -> None:  # fmt: skip
        """`before` is what the shell that starts it does first."""
        super().__init__()
        self.errors = folder / "stderr"
        program = SERVER if code is None else (sys.executable, str(code))
        command = [*program, host, str(port), "--db", str(folder / "vessages.db")]
        if open_files:
            before += f"ulimit -n {open_files};"
        if before:
            command = ["sh", "-c", before + 'exec "$@"', "sh", *command]
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [*command, "--hash-cost", "1,1,1", *options],
                cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        assert self.process.stdout is not None
        self.greeting = self._read_greeting(self.process.stdout)
        found = re.search(r"listens at (\S+) port (\d+)\.", self.greeting)
        if found:
            self.address = found[1], int(found[2])

    def _read_greeting(self, stdout: Any) -> str:
        lines = []
        for line in stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        return "".join(lines)

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def ends(self) -> int:
        """The exit code, when it has ended."""
        return self.process.wait(PATIENCE)

    def said(self) -> str:
        """What is on stderr so far."""
        return self.errors.read_text(encoding="utf-8")

    def close(self) -> None:
        super().close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextlib.contextmanager
def running(folder: Path, **settings: Any) -> Iterator[Rig]:
    """A rig that is closed afterwards, whatever happens."""
    rig = Rig(folder, **settings)
    try:
        yield rig
    finally:
        rig.close()


Place = World | Rig
PLACES = ("hub", *KINDS)


@contextlib.contextmanager
def place_of(kind: str, folder: Path, **settings: Any) -> Iterator[Place]:
    """Where people talk: in a world, with nothing but a hub, or by sockets of some kind with a real server."""
    if kind == "hub":
        yield World(**settings)
    else:
        with running(folder, **KINDS[kind], **settings) as rig:
            yield rig
