"""What Vessages costs, measured beside a plain asyncio-streams server in the same minutes.

    python tests/tools/bench.py [--quick] [--only ROW] [--json]

How it measures
    Each server (vessages.py, tests/tools/asyncio_server.py) is a fresh process on one core; this process is the load
    generator, on another core. The main figure is the server's CPU time, user and system, all threads, divided by the
    messages that were delivered. The server's own wall time would say little: it depends on who else is on the machine.

    A machine drifts, by half within minutes. So the two servers take turns, and what counts is the ratio of two runs
    that were neighbours; every figure is the median of the repetitions, with the least and the most of them.

    The generator must not be the bottleneck: its frames are made beforehand, and what comes back is counted by its
    bytes, not read. Its share of a core is printed beside the server's; where it spins to be on time it says so.
    Messages that do not arrive, or arrive twice, end the run with an error.

Reading order
    1. Servers as processes: `Kind`, `Server`, `Meter`.   2. Clients: `Crowd`.
    3. Load: `Flow`, `KeptReceiver`, `KeptSender` (as fast as it goes), `pace` (at a given rate).
    4. `make_rows`, the table of what is measured, and above it one function a row.   5. Running and reporting.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import platform
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple, Protocol

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import storage
from protocol import SERVER_FRAME_MAX, FrameDecoder, frame

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None  # type: ignore[assignment]

HOST = "127.0.0.1"
PASSWORD = "bench password"
CHEAP_HASH = "1,1,1"  # the least scrypt there is: the price of passwords is the same for every server
REAL_HASH = "14"  # what a server has by default, where a row is about it

TEXT = b"x" * 64
OUTSTANDING = 32  # messages on their way, a pair
READ_MAX = 64 * 1024
REGISTERED_AT_ONCE = 1024  # people
WARM_UP = 0.3  # seconds of load before the meter starts
LOGINS_AT_ONCE = 32  # less than any server's queue of password checks
RETURNS_AT_ONCE = 500  # after a restart, by token
TALK_AFTER = 12.0  # seconds: a connection that says nothing for 20 would be asked whether it is still there
# Seconds without a byte, after which what was to be told has been told: twice the presence interval of the asyncio
# server, and twice that of Vessages, which grows with the people online.
QUIET, QUIET_A_PERSON = 0.2, 60e-6
STUCK = 20.0  # seconds without a byte that was expected: something is wrong

HEADER = Struct(">I")
clock = time.perf_counter


class BenchError(Exception):
    """A server did something that makes the figure worthless; the text says what."""


def name_of(number: int) -> str:
    """Names of one length, so that frames have one size."""
    return f"u{number:05}"


def token_of(number: int) -> str:
    return f"{number:064x}"


# --- Servers as processes --------------------------------------------------------------------------------------------


class Kind(Protocol):
    """A server to be measured: how it is started, and how its clients log in."""

    name: str
    keeps: bool  # whether it has kept sessions

    def start(self, folder: Path, accounts: int, status: str, hash_cost: str) -> Server: ...

    def plain(self, number: int) -> bytes: ...

    def kept(self, number: int) -> bytes: ...

    def token(self, number: int) -> bytes: ...


def log_in_frame(number: int) -> bytes:
    return frame(f"LOGIN {name_of(number)} {PASSWORD}".encode())


class Vessages:
    name = "vessages"
    keeps = True

    def start(self, folder: Path, accounts: int, status: str, hash_cost: str) -> Server:
        prepare_accounts(folder / "bench.db", accounts, status)
        return Server(folder, [str(ROOT / "vessages.py"), HOST, "0", "--db", str(folder / "bench.db"),
                               "--hash-cost", hash_cost])  # fmt: skip

    def plain(self, number: int) -> bytes:
        return log_in_frame(number)

    def kept(self, number: int) -> bytes:
        return frame(b"KEEP") + log_in_frame(number)

    def token(self, number: int) -> bytes:
        return frame(f"RESUME {token_of(number)} 0".encode())


class AsyncioStreams:
    """It has neither kept sessions nor tokens, so it does what comes nearest: a plain login."""

    name = "asyncio"
    keeps = False

    def start(self, folder: Path, accounts: int, status: str, hash_cost: str) -> Server:
        server = Server(folder, [str(ROOT / "tests" / "tools" / "asyncio_server.py"), HOST, "0"])
        register(server, accounts)
        return server

    plain = kept = token = staticmethod(log_in_frame)


KINDS: tuple[Kind, ...] = (Vessages(), AsyncioStreams())


def prepare_accounts(path: Path, count: int, status: str) -> None:
    """A database of `count` people with one cheap password and a token each, as a server left it: `status`."""
    password = storage.hash_password(PASSWORD, storage.parse_cost(CHEAP_HASH))
    now = time.time()
    store = storage.open_store(path)
    with store.transaction():
        for name, token in ((name_of(number), token_of(number)) for number in range(count)):
            store.add(name, name, password, now)
            store.record_login(name, now, hashlib.sha256(token.encode()).digest())
        store.record_statuses({name_of(number): status for number in range(count)}, now)
    store.close()


def register(server: Server, count: int) -> None:
    """The same people, over the wire."""
    with socket.create_connection((HOST, server.port)) as sock:
        for first in range(0, count, REGISTERED_AT_ONCE):
            numbers = range(first, min(first + REGISTERED_AT_ONCE, count))
            sock.sendall(b"".join(frame(f"REGISTER {name_of(number)} {PASSWORD}".encode()) for number in numbers))
            missing = len(numbers) * len(frame(f"OK REGISTER {name_of(0)}".encode()))
            while missing > 0:
                missing -= len(receive(sock))


@contextmanager
def on_core(index: int) -> Iterator[None]:
    """Run the block, and what it starts, on this process's first (0) or last (-1) core, where that can be said."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cores)[index]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


class Server:
    """A running server process. `cpu` in seconds, `memory` in bytes."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self._log = folder / "server.log"
        with on_core(0), self._log.open("wb") as log:
            command, environment = [sys.executable, *arguments], {**os.environ, "PYTHONUNBUFFERED": "1"}
            self._process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            self.port = self._read_port()
        except BaseException:
            self.stop()
            raise

    def _read_port(self) -> int:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            found = re.search(rf"{re.escape(HOST)}\D+(\d+)", line)
            if found:
                return int(found[1])
        raise BenchError(f"the server did not start: {self._log.read_text()[-500:]}")

    def cpu(self) -> float:
        tasks = Path(f"/proc/{self._process.pid}/task")
        if tasks.is_dir():  # nanoseconds of each thread
            return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9
        return parse_clock(self._ask_ps("time"))

    def memory(self) -> int:
        status = Path(f"/proc/{self._process.pid}/status")
        if status.exists():
            return int(re.findall(r"VmRSS:\s+(\d+)", status.read_text())[0]) * 1024
        return int(self._ask_ps("rss")) * 1024

    def _ask_ps(self, column: str) -> str:
        try:
            command = ["ps", "-o", f"{column}=", "-p", str(self._process.pid)]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except FileNotFoundError:
            raise BenchError("this system tells nothing about other processes: it has neither /proc nor ps") from None

    def stop(self) -> None:
        self._process.kill()  # nothing of it is needed any more, a clean end would only take time
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def parse_clock(text: str) -> float:
    """Seconds from what `ps` prints as CPU time: `1:02.50`, `01:02:03`, `2-01:02:03`."""
    days, _, rest = text.rpartition("-")
    seconds = 0.0
    for part in rest.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds + int(days or 0) * 86400


@contextmanager
def running(kind: Kind, accounts: int, status: str = "offline", hash_cost: str = CHEAP_HASH) -> Iterator[Server]:
    """A fresh server that knows `accounts` people."""
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        server = kind.start(Path(folder), accounts, status, hash_cost)
        try:
            with on_core(-1):
                yield server
        finally:
            server.stop()


class Reading(NamedTuple):
    """One measurement of one server: the row's figure, and what stands beside it."""

    figure: float
    server_share: float  # of one core
    generator_share: float
    notes: dict[str, float]


class Meter:
    """CPU time of a server and of this process since `__init__`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before = self._now()

    def _now(self) -> tuple[float, float, float]:
        return self._server.cpu(), time.process_time(), clock()

    def reading(self, count: int, notes: dict[str, float] | None = None) -> Reading:
        """The server's microseconds for each of `count`."""
        server, generator, wall = (after - before for after, before in zip(self._now(), self._before, strict=True))
        return Reading(server / count * 1e6, server / wall, generator / wall, notes or {})


# --- Clients ---------------------------------------------------------------------------------------------------------


def receive(sock: socket.socket) -> bytes:
    data = sock.recv(READ_MAX)
    if not data:
        raise BenchError("the server closed a connection")
    return data


def connect(port: int, greeting: bytes) -> socket.socket:
    sock = socket.create_connection((HOST, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    sock.sendall(greeting)
    return sock


class Roster:
    """Whether ONLINE has come to a client and, if `kept`, who is online as ONLINE and PRESENCE tell it."""

    def __init__(self, kept: bool) -> None:
        self.has_come = False
        self.online: set[str] = set()
        self._kept = kept
        self._decoder = FrameDecoder(SERVER_FRAME_MAX)

    def feed(self, data: bytes) -> None:
        self._decoder.feed(data)
        for payload in self._decoder.payloads():
            verb = payload.partition(b" ")[0]
            if verb in (b"ERROR", b"BYE"):
                raise BenchError(f"the server said {payload.decode()}")
            self.has_come |= verb == b"ONLINE"
            if self._kept and verb in (b"ONLINE", b"PRESENCE"):
                self._keep(verb == b"ONLINE", payload.decode().split(" ")[1:])

    def _keep(self, all_of_them: bool, words: list[str]) -> None:
        if all_of_them:
            self.online = {word for word in words if word[0] != "~"}
        else:
            self.online |= {word[1:] for word in words if word[0] == "+"}
            self.online -= {word[1:] for word in words if word[0] != "+"}


class Crowd:
    """Connections that are logged in. What they are sent is read, so that no server has to hold it for them.

    The first `watching` of them keep their `rosters`.
    """

    def __init__(self, server: Server, watching: int = 0) -> None:
        self.sockets: list[socket.socket] = []
        self.rosters: dict[socket.socket, Roster] = {}
        self._watching = watching
        self._talked = clock()
        self._port = server.port
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for sock in self.sockets:
            sock.close()

    def _connect(self, greeting: bytes) -> socket.socket:
        sock = connect(self._port, greeting)
        self.rosters[sock] = Roster(kept=len(self.sockets) < self._watching)
        self.sockets.append(sock)
        self._selector.register(sock, selectors.EVENT_READ)
        return sock

    def log_in(self, greetings: Iterable[bytes], at_once: int = LOGINS_AT_ONCE) -> list[socket.socket]:
        """Connect once for each greeting, `at_once` at a time; back when all have their rosters."""
        first, queue = len(self.sockets), iter(greetings)
        waiting: list[socket.socket] = []
        while True:
            waiting += map(self._connect, itertools.islice(queue, at_once - len(waiting)))
            if not waiting:
                break
            if clock() - self._talked > TALK_AFTER:
                self.talk()
            self.read(STUCK)
            waiting = [sock for sock in waiting if not self.rosters[sock].has_come]
        self.rosters = {sock: self.rosters[sock] for sock in self.sockets[: self._watching]}
        return self.sockets[first:]

    def read(self, patience: float) -> int:
        """Read what has come; returns how many bytes. BenchError if that is nothing for `patience` seconds."""
        ready = self._selector.select(patience)
        if not ready:
            raise BenchError(f"the server has said nothing for {patience:g} s")
        size = 0
        for key, _ in ready:
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            data = receive(sock)
            size += len(data)
            if sock in self.rosters:
                self.rosters[sock].feed(data)
        return size

    def talk(self) -> None:
        """Everybody shows life, without an answer."""
        self._talked = clock()
        for sock in self.sockets:
            sock.sendall(frame(b"ACK 0"))

    def expect(self, size: int) -> None:
        """Read `size` bytes, whoever gets them."""
        while size > 0:
            size -= self.read(STUCK)

    def settle(self) -> None:
        """Read until nobody is told anything any more: after this every byte belongs to the load, for 20 seconds."""
        self.talk()
        while self._selector.select(QUIET + QUIET_A_PERSON * len(self.sockets)):
            self.read(STUCK)


# --- Load as fast as it goes -----------------------------------------------------------------------------------------


class Load(Protocol):
    """One socket's part in a load."""

    receiver: socket.socket
    sent: int  # messages, since it began

    def pump(self) -> int:
        """Read, send what that calls for, and say how many messages were delivered."""

    def stop(self) -> None:
        """Send nothing more."""


def send_frame(recipient: int) -> bytes:
    return frame(f"SEND {name_of(recipient)} ".encode() + TEXT)


# What a plain session receives for it.
MESSAGE_SIZE = len(frame(f"MSG {name_of(0)} 0 2026-11-22T15:04:05.123Z ".encode() + TEXT))


class Flow:
    """Messages that keep themselves going: for each that arrives at `receiver`, `sender` sends the next one.

    They are counted by their size, which is always the same. `window` are sent at the start. The time that a message
    takes is sampled: the last one sent is the next to be timed.
    """

    __slots__ = ("_ahead", "_frame", "_rest", "_sent_at", "_window", "receiver", "sender", "sent", "times")

    def __init__(self, receiver: socket.socket, sender: socket.socket, recipient: int, window: int) -> None:
        self.receiver = receiver
        self.sender: socket.socket | None = sender
        self.sent = 0
        self.times: list[float] = []  # seconds
        self._frame = send_frame(recipient)
        self._window = self._ahead = window  # messages on their way, up to the one that is timed
        self._rest = 0
        self._sent_at = clock()
        self._send(window)

    def _send(self, count: int) -> None:
        if self.sender is not None:
            self.sent += count
            self.sender.sendall(self._frame * count)

    def pump(self) -> int:
        delivered, self._rest = divmod(self._rest + len(receive(self.receiver)), MESSAGE_SIZE)
        if delivered:
            now = clock()
            self._ahead -= delivered
            if self._ahead <= 0:
                self.times.append(now - self._sent_at)
                self._ahead, self._sent_at = self._window, now
            self._send(delivered)
        return delivered

    def stop(self) -> None:
        self.sender = None


class Numbered:
    """Reads the `@seq` frames of a kept session by the number of the last one, not one by one."""

    def __init__(self, sock: socket.socket) -> None:
        self.receiver = sock
        self.sent = 0
        self.last = 0
        self._rest = b""

    def read(self, data: bytes) -> int:
        """How many new frames there are, now that `data` has come."""
        if b"ERROR" in data:
            raise BenchError(f"the server answered {data!r}")
        data = self._rest + data
        before, end, at = self.last, 0, data.rfind(b"@")
        while at >= 4 and not end:
            (length,) = HEADER.unpack_from(data, at - 4)
            if at + length <= len(data):
                self.last, end = int(data[at + 1 : data.index(b" ", at)]), at + length
            else:
                at = data.rfind(b"@", 0, at)
        self._rest = data[end:]
        return self.last - before

    def ack(self) -> bytes:
        return frame(b"ACK %d" % self.last)


class KeptReceiver(Numbered):
    """Acknowledges what it gets, once a read, as a client does that has shown it."""

    def pump(self) -> int:
        delivered = self.read(receive(self.receiver))
        if delivered:
            self.receiver.sendall(self.ack())
        return delivered

    def stop(self) -> None:
        """It only answers."""


class KeptSender(Numbered):
    """Sends a tagged message for each that was answered, and acknowledges the answers."""

    def __init__(self, sock: socket.socket, recipient: int, window: int) -> None:
        super().__init__(sock)
        self._text = f" SEND {name_of(recipient)} ".encode() + TEXT
        self._tags = itertools.count(time.time_ns() // 1000)
        self._stopped = False
        sock.sendall(self._sends(window))

    def _sends(self, count: int) -> bytes:
        text = self._text
        self.sent += count
        return b"".join([frame(b"#%d" % tag + text) for tag in itertools.islice(self._tags, count)])

    def pump(self) -> int:
        answered = self.read(receive(self.receiver))
        if answered:
            self.receiver.sendall(self.ack() + self._sends(0 if self._stopped else answered))
        return 0

    def stop(self) -> None:
        self._stopped = True


def pump_all(selector: selectors.BaseSelector, seconds: float, enough: float = float("inf")) -> int:
    """Keep the load going for `seconds`, or until `enough` messages were delivered; returns how many were."""
    delivered, end = 0, clock() + seconds
    while delivered < enough and clock() < end:
        for key, _ in selector.select(0.1):
            delivered += key.data.pump()
    return delivered


def burst(server: Server, loads: Sequence[Load], seconds: float, legs: int = 1) -> Reading:
    """The server's microseconds a message under these loads; each must have been delivered, once."""
    with selectors.DefaultSelector() as selector:
        for load in loads:
            selector.register(load.receiver, selectors.EVENT_READ, load)
        before = pump_all(selector, WARM_UP)
        for load in loads:
            if isinstance(load, Flow):
                load.times.clear()
        meter = Meter(server)
        delivered = pump_all(selector, seconds)
        reading = meter.reading(max(1, delivered), {"messages/s": delivered / seconds})
        for load in loads:
            load.stop()
        missing = sum(load.sent for load in loads) - before - delivered
        missing -= pump_all(selector, STUCK, missing) + pump_all(selector, QUIET)
    if missing or not delivered:
        raise BenchError(f"{delivered} messages were delivered, {missing} are missing")
    times = [passed / legs for load in loads if isinstance(load, Flow) for passed in load.times]
    reading.notes.update(latency(times))
    return reading


# --- Load at a given rate --------------------------------------------------------------------------------------------


class Pair:
    """One sends, one receives, and every message is timed from the moment when it was due."""

    def __init__(self, sender: socket.socket, receiver: socket.socket, recipient: int) -> None:
        self.receiver = receiver
        self.due: deque[float] = deque()
        self._sender = sender
        self._frame = send_frame(recipient)
        self._decoder = FrameDecoder(SERVER_FRAME_MAX)

    def send(self, due: float) -> None:
        self.due.append(due)
        self._sender.sendall(self._frame)

    def arrived(self) -> list[float]:
        """The seconds that each message took which is here now."""
        now = clock()
        self._decoder.feed(receive(self.receiver))
        return [now - self.due.popleft() for payload in self._decoder.payloads() if payload.startswith(b"MSG")]


Step = Callable[[float], None]


def pace(pairs: Sequence[Pair], rate: float, seconds: float, step: Step | None = None) -> list[float]:
    """Send `rate` messages a second, on time whatever comes back, and return what each took.

    It spins: a sleep would be late by more than a message takes. `step` is called with the time, all the while.
    """
    times: list[float] = []
    with selectors.DefaultSelector() as selector:
        for pair in pairs:
            selector.register(pair.receiver, selectors.EVENT_READ, pair)
        start, sent = clock(), 0
        while (passed := clock() - start) < seconds + STUCK and (passed < seconds or any(pair.due for pair in pairs)):
            while sent < min(passed, seconds) * rate:
                pairs[sent % len(pairs)].send(start + sent / rate)
                sent += 1
            for key, _ in selector.select(0):
                times += key.data.arrived()
            if step is not None:
                step(passed)
    if len(times) < sent:
        raise BenchError(f"{sent - len(times)} of {sent} messages did not arrive")
    return times


class Visitors:
    """Somebody else logs in every so often, and whoever was there leaves."""

    def __init__(self, server: Server, greetings: Iterable[bytes], every: float) -> None:
        self._port = server.port
        self._greetings = iter(greetings)
        self._every = every
        self._next = 0.0
        self._guest: socket.socket | None = None

    def step(self, passed: float) -> None:
        if passed >= self._next:
            self._next += self._every
            self.close()
            self._guest = connect(self._port, next(self._greetings))

    def close(self) -> None:
        if self._guest is not None:
            self._guest.close()


# --- What is measured ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """How much of everything: the sizes that issue figures are stated for, or smaller ones."""

    seconds: float = 2.0  # of load
    repeats: int = 3
    pairs: int = 100
    many: int = 10_000
    logins: int = 2_048
    broadcasts: int = 10


QUICK = Scale(seconds=0.4, repeats=1, many=1_000, logins=512, broadcasts=3)


def percentile(times: Sequence[float], share: float) -> float:
    """The least of `times` that `share` of them do not exceed."""
    ordered = sorted(times)
    return ordered[max(0, -int(-len(ordered) * share // 1) - 1)]


def latency(times: Sequence[float]) -> dict[str, float]:
    return {f"p{share:.0%}"[:-1] + " ms": percentile(times, share) * 1000 for share in (0.5, 0.99)} if times else {}


def streaming(kind: Kind, pairs: int, seconds: float) -> Reading:
    with running(kind, 2 * pairs) as server, Crowd(server) as crowd:
        sockets = crowd.log_in(map(kind.plain, range(2 * pairs)))
        crowd.settle()
        flows = [Flow(sockets[b], sockets[b - 1], b, OUTSTANDING) for b in range(1, 2 * pairs, 2)]
        return burst(server, flows, seconds)


def ping_pong(kind: Kind, pairs: int, seconds: float) -> Reading:
    """One message a pair, to and fro; its time is half of the round trip."""
    with running(kind, 2 * pairs) as server, Crowd(server) as crowd:
        sockets = crowd.log_in(map(kind.plain, range(2 * pairs)))
        crowd.settle()
        flows = [Flow(sock, sock, number ^ 1, number % 2) for number, sock in enumerate(sockets)]
        return burst(server, flows, seconds, legs=2)


def kept(kind: Kind, pairs: int, seconds: float) -> Reading:
    """Kept sessions with tags; a server that has none is measured with plain ones."""
    if not kind.keeps:
        return streaming(kind, pairs, seconds)
    with running(kind, 2 * pairs) as server, Crowd(server) as crowd:
        sockets = crowd.log_in(map(kind.kept, range(2 * pairs)))
        crowd.settle()
        loads: list[Load] = []
        for number in range(0, 2 * pairs, 2):
            loads += [KeptSender(sockets[number], number + 1, OUTSTANDING), KeptReceiver(sockets[number + 1])]
        return burst(server, loads, seconds)


def memory(kind: Kind, count: int) -> Reading:
    """KiB of the server's memory for an idle connection that is logged in."""
    with running(kind, count) as server, Crowd(server) as crowd:
        first = min(50, count // 2)  # what a server takes once and for all is taken by then
        crowd.log_in(map(kind.plain, range(first)))
        crowd.settle()
        before, meter = server.memory(), Meter(server)
        crowd.log_in(map(kind.plain, range(first, count)))
        crowd.settle()
        grown = (server.memory() - before) / (count - first)
        return meter.reading(count)._replace(figure=grown / 1024)


def log_ins(kind: Kind, count: int) -> Reading:
    """Connect, log in by token, get the roster, leave, one at a time: the same few again and again, in their grace."""
    with running(kind, LOGINS_AT_ONCE, "lost") as server:
        come_and_go(kind, server, range(LOGINS_AT_ONCE))  # since its start the server has seen everybody once
        meter = Meter(server)
        come_and_go(kind, server, [number % LOGINS_AT_ONCE for number in range(count)])
        return meter.reading(count)


def come_and_go(kind: Kind, server: Server, guests: Iterable[int]) -> None:
    """These people connect, log in by token, get the roster and leave, one after the other."""
    for guest in guests:
        with Crowd(server) as crowd:
            crowd.log_in([kind.token(guest)])


def presence(kind: Kind, watchers: int, broadcasts: int) -> Reading:
    """Somebody comes and goes, and all others are told. What the same visits cost while nobody is there is left out."""
    with running(kind, watchers + 1) as server, Crowd(server) as crowd:
        alone = visits(kind, server, crowd, watchers, broadcasts)
        crowd.log_in(map(kind.token, range(watchers)))
        crowd.settle()
        told = visits(kind, server, crowd, watchers, broadcasts)
        return told._replace(figure=told.figure - alone.figure)


def visits(kind: Kind, server: Server, crowd: Crowd, guest: int, times: int) -> Reading:
    """Somebody logs in and leaves; all in the crowd have heard of both. The cost is divided by `guest` people."""
    size = len(frame(f"PRESENCE +{name_of(0)}".encode())) * len(crowd.sockets)
    meter = Meter(server)
    for _ in range(times):
        with Crowd(server) as visitor:
            visitor.log_in([kind.plain(guest)])
            crowd.expect(size)
        crowd.expect(size)
    return meter.reading(2 * times * guest)


def make_pairs(sockets: Sequence[socket.socket]) -> list[Pair]:
    return [Pair(sockets[number - 1], sockets[number], number) for number in range(1, len(sockets), 2)]


def presence_latency(kind: Kind, watchers: int, seconds: float) -> Reading:
    """How long messages take while people come and go among `watchers`. Nobody reads the news: the kernel holds it."""
    guests = range(watchers, watchers + int(seconds / 0.4) + 2)
    with running(kind, guests.stop) as server, Crowd(server) as crowd:
        talkers = crowd.log_in(map(kind.plain, range(10)))
        crowd.log_in(map(kind.token, range(10, watchers)))
        crowd.settle()
        meter = Meter(server)
        with closing(Visitors(server, map(kind.plain, guests), 0.4)) as visitors:
            times = latency(pace(make_pairs(talkers), 1000, seconds, visitors.step))
        return meter.reading(1)._replace(figure=times["p99 ms"], generator_share=1, notes=times)


def restart(kind: Kind, count: int) -> Reading:
    """Seconds until all who were online when the server crashed are back, and ten of them know it of everybody."""
    with running(kind, count, status="online") as server, Crowd(server, watching=10) as crowd:
        meter, start = Meter(server), clock()
        crowd.log_in(map(kind.token, range(count)), RETURNS_AT_ONCE)
        all_in = clock() - start
        while any(len(roster.online) < count for roster in crowd.rosters.values()):
            crowd.read(STUCK)
        reading = meter.reading(count)
        return reading._replace(figure=clock() - start, notes={"logged in after s": all_in, "µs each": reading.figure})


def while_checking(kind: Kind, rate: float, every: float, seconds: float) -> Reading:
    """How many times the p99 of messages at a given rate grows while passwords are checked at their real cost."""
    guests = range(10, 10 + int(seconds / every) + 2)
    with running(kind, guests.stop, hash_cost=REAL_HASH) as server, Crowd(server) as crowd:
        pairs = make_pairs(crowd.log_in(map(kind.plain, range(10))))
        crowd.settle()
        before = pace(pairs, rate, seconds)
        meter = Meter(server)
        with closing(Visitors(server, map(kind.plain, guests), every)) as visitors:
            meanwhile = pace(pairs, rate, seconds, visitors.step)
        p99 = [latency(times)["p99 ms"] for times in (before, meanwhile)]
        notes = {"p99 ms undisturbed": p99[0], "p99 ms meanwhile": p99[1]}
        return meter.reading(1)._replace(figure=p99[1] / p99[0], generator_share=1, notes=notes)


@dataclass(frozen=True)
class Row:
    """A figure, how it is measured, and the most that it may be: itself, or as a ratio to the asyncio server's."""

    key: str
    title: str
    unit: str
    measure: Callable[[Kind], Reading]
    most: float | None = None
    of: str = "ratio"  # or "figure"
    alone: bool = False  # the asyncio server has nothing like it


def make_rows(scale: Scale) -> list[Row]:
    s, pairs, many = scale.seconds, scale.pairs, scale.many
    stream, to_and_fro = f"streaming, {OUTSTANDING} outstanding", "ping-pong"
    return [
        Row("streaming", f"message, {stream}, {pairs} pairs, plain", "µs",
            partial(streaming, pairs=pairs, seconds=s), 0.11),
        Row("kept", f"message, {stream}, {pairs} pairs, kept and tagged (asyncio: plain)", "µs",
            partial(kept, pairs=pairs, seconds=s), 0.30),
        Row("ping-pong", f"message, {to_and_fro}, {pairs} pairs, plain", "µs",
            partial(ping_pong, pairs=pairs, seconds=s), 0.57),
        Row("ping-pong-1", f"message, {to_and_fro}, 1 pair, plain", "µs",
            partial(ping_pong, pairs=1, seconds=s)),
        Row("memory", f"memory of an idle connection, {many:,} logged in, plain", "KiB",
            partial(memory, count=many), 0.13),
        Row("login", "connect, come back by token, leave (asyncio: log in, password unhashed)", "µs",
            partial(log_ins, count=scale.logins), 0.8),
        Row("presence", f"presence: one person told to {many:,}, each", "µs",
            partial(presence, watchers=many, broadcasts=scale.broadcasts), 0.75),
        Row("presence-p99", f"p99 of 1,000 messages/s while presence is told to {many:,}", "ms",
            partial(presence_latency, watchers=many, seconds=3 * s), 30, "figure"),
        Row("restart", f"{many:,} back by token after a crash, all rosters right", "s",
            partial(restart, count=many), 20, "figure"),
        Row("checking", "p99 of 5,000 messages/s with 5 password checks/s, times the undisturbed", "x",
            partial(while_checking, rate=5000, every=0.2, seconds=3 * s), 3, "figure", alone=True),
    ]  # fmt: skip


# --- Running and reporting -------------------------------------------------------------------------------------------


class Spread(NamedTuple):
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        return cls(statistics.median(figures), min(figures), max(figures))

    def __str__(self) -> str:
        return f"{short(self.median):>7}  ({short(self.least)} to {short(self.most)})"


def short(figure: float) -> str:
    """Three digits that matter, and no exponents."""
    if figure >= 100:
        return f"{figure:,.0f}"
    return f"{figure:.3g}" if figure >= 1 else f"{figure:.3f}"


@dataclass
class Result:
    """A row's readings of each server, in the order they were taken."""

    row: Row
    readings: dict[str, list[Reading]]

    def spread(self, kind: str) -> Spread:
        return Spread.of([reading.figure for reading in self.readings[kind]])

    def ratio(self) -> Spread | None:
        """Ours to theirs: of neighbouring runs, so that the machine was the same."""
        if self.row.alone:
            return None
        ours, theirs = (self.readings[kind.name] for kind in KINDS)
        pairs = zip(ours, theirs, strict=True)
        return Spread.of([our.figure / (their.figure or math.nan) for our, their in pairs])  # 0: too short to be seen

    def verdict(self) -> str:
        if self.row.most is None:
            return ""
        reached = self.ratio() if self.row.of == "ratio" else self.spread(KINDS[0].name)
        assert reached is not None
        return f"at most {self.row.most:g}: " + ("yes" if reached.median <= self.row.most else "NO")

    def as_json(self) -> dict[str, Any]:
        ratio = self.ratio()
        servers = {name: {**self.spread(name)._asdict(), "runs": [reading._asdict() for reading in readings]}
                   for name, readings in self.readings.items()}  # fmt: skip
        row = {"key": self.row.key, "title": self.row.title, "unit": self.row.unit, "goal": self.verdict()}
        return {**row, **servers, "ratio": ratio._asdict() if ratio else None}


def measure_row(row: Row, repeats: int) -> Result:
    """Measure one row, the servers in turns."""
    kinds = KINDS[:1] if row.alone else KINDS
    readings: dict[str, list[Reading]] = {kind.name: [] for kind in kinds}
    for _ in range(repeats):
        for kind in kinds:
            readings[kind.name].append(row.measure(kind))
    return Result(row, readings)


def describe(result: Result) -> str:
    """A row in full: each server's figure and spread, who was how busy, and what else was seen."""
    lines = [f"{result.row.key}: {result.row.title}, {result.row.unit}"]
    for name, readings in result.readings.items():
        middle = sorted(readings, key=lambda reading: reading.figure)[len(readings) // 2]
        notes = "".join(f", {what} {short(figure)}" for what, figure in middle.notes.items())
        spins = "spins" if middle.generator_share == 1 else f"{middle.generator_share:.0%}"
        lines.append(f"  {name:10}{result.spread(name)!s:28}server {middle.server_share:.0%}, generator {spins}{notes}")
    if ratio := result.ratio():
        lines.append(f"  {'ratio':10}{ratio!s:28}")
    if verdict := result.verdict():
        lines.append(f"  {result.row.of} {verdict}")
    return "\n".join(lines)


def table(results: Sequence[Result]) -> str:
    """All rows in short, as Markdown."""
    lines = ["| | vessages | asyncio | ratio | goal |", "|---|---:|---:|---:|---|"]
    for result in results:
        cells = [f"{short(result.spread(name).median)} {result.row.unit}" for name in result.readings]
        ratio = result.ratio()
        cells += ["–"] * (2 - len(cells)) + [short(ratio.median) if ratio else "–"]
        goal = f"{result.row.of} {result.verdict()}" if result.verdict() else ""
        lines.append(f"| {result.row.title} | " + " | ".join([*cells, goal]) + " |")
    return "\n".join(lines)


def machine() -> str:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return f"{python}, {system}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}"


def raise_file_limit() -> int:
    """Allow as many open files as the system lets us; the servers inherit it. Returns how many."""
    if resource is None:
        return 1 << 20
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    keys = [row.key for row in make_rows(Scale())]
    parser = argparse.ArgumentParser(description="Measure Vessages beside a plain asyncio-streams server.")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, one run each: under a minute, and rougher")
    parser.add_argument("--only", action="append", choices=keys, metavar="ROW",
                        help="measure this row only; may be repeated: " + ", ".join(keys))  # fmt: skip
    parser.add_argument("--repeats", type=int, metavar="N", help="runs of each figure instead of 3, or 1 with --quick")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, when all is done")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    scale = QUICK if options.quick else Scale()
    scale = replace(scale, many=min(scale.many, raise_file_limit() - 200), repeats=options.repeats or scale.repeats)

    def say(text: str) -> None:
        if not options.json:
            print(text, flush=True)

    say(f"{machine()}, median (least to most) of {scale.repeats}\n")
    results, failed = [], False
    for row in make_rows(scale):
        if options.only and row.key not in options.only:
            continue
        try:
            results.append(measure_row(row, scale.repeats))
            say(describe(results[-1]) + "\n")
        except (BenchError, OSError) as error:
            failed = True
            print(f"{row.key}: no figure, {error}\n", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({"machine": machine(), "rows": [result.as_json() for result in results]}, indent=1))
    say(table(results))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
