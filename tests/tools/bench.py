"""What Vessages costs, measured beside other servers in the same minutes.

    python tests/tools/bench.py [--peer NAME] [--old COMMIT] [--only ROW] [--quick] [--repeats N] [--readme]

Peers are two relays of our own (tests/tools/asyncio_server.py); the least that a relay in Python can cost
(tests/tools/floor_server.py); and ngIRCd, InspIRCd and miniircd if they are found, started with a configuration without
limits on floods: private messages between registered nicks. `--old` adds an older Vessages; `--readme` measures the
rows that README.md has, and ends with its table.

How it measures
    Each server is a fresh process on one core; this process is the load generator, on another core. The main figure is
    the server's CPU time, user and system, all its threads and children, divided by the messages that were delivered.
    The server's own wall time would say little: it depends on who else is on the machine.

    A machine drifts, by half within minutes. So the servers take turns, and what counts is the ratio of two runs that
    were neighbours; every figure is the median of the repetitions, with the least and the most of them.

    The generator must not be the bottleneck: its frames are made beforehand, and what comes back is counted by its
    bytes, not read. Its share of a core is printed beside the server's: a server that is asked for all it can do has
    nearly a core, and the generator less. Where it spins to be on time it says so. Messages that do not arrive, or
    arrive twice, end the run with an error.

Reading order
    1. `Wire` and `Kind`: the servers, and how their clients speak. `Server`, `Meter`: their processes.
    2. Clients: `Crowd`.   3. Load: `Flow`, `KeptReceiver`, `KeptSender` (as fast as it goes), `pace` (at a given rate).
    4. `make_rows`, the table of what is measured, and above it one function a row.   5. Running and reporting.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import hashlib
import itertools
import math
import os
import platform
import re
import selectors
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from struct import Struct
from typing import NamedTuple

ROOT, TOOLS = Path(__file__).resolve().parents[2], Path(__file__).resolve().parent
if "storage" not in sys.modules:  # else an older one prepares its accounts: see `prepare_elsewhere`
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

# Where there is a file system in memory, the accounts are there: ten thousand logins on a disk take longer than a row.
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

TEXT = b"x" * 64
OUTSTANDING = 32  # messages on their way, a pair
READ_MAX = 64 * 1024
WARM_UP = 0.3  # seconds of load before the meter starts
LOGINS_AT_ONCE = 200  # less than any server's queue of password checks from one address
GUESTS = 32  # who come and go in turn: a small roster
RETURNS_AT_ONCE = 500  # after a restart, by token
SENDS_TO_ALL = 8  # messages to everybody from one person: fewer than one may send at once
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


# --- The servers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wire:
    """How the clients of a server speak."""

    log_in: Callable[[int], bytes]
    send: Callable[[int], bytes]  # TEXT to the person of this number
    ready: re.Pattern[bytes]  # what a login ends with
    life: bytes = b""  # a sign of life that has no answer, where silence would be asked about


OURS = Wire(
    log_in=lambda number: frame(f"LOGIN {name_of(number)} {PASSWORD}".encode()),
    send=lambda number: frame(f"SEND {name_of(number)} ".encode() + TEXT),
    ready=re.compile(rb"ONLINE "),
    life=frame(b"ACK 0"),
)
IRC = Wire(
    log_in=lambda number: "NICK {0}\r\nUSER {0} 0 * :bench\r\n".format(name_of(number)).encode(),
    send=lambda number: f"PRIVMSG {name_of(number)} :".encode() + TEXT + b"\r\n",
    ready=re.compile(rb" (376|422) "),  # the end of the message of the day, or that there is none
)
# Behind the length of a frame, or at the beginning of a line: a token may end with BYE.
REFUSED = re.compile(rb"(?:\0\0..|^|\n)(?:ERROR|BYE) ", re.DOTALL)


def keep_and_log_in(number: int) -> bytes:
    return frame(b"KEEP") + OURS.log_in(number)


def come_back(number: int) -> bytes:
    return frame(f"RESUME {token_of(number)} 0".encode())


class Setup(NamedTuple):
    """The wishes of a row for a server."""

    folder: Path  # for its files
    port: int  # a free one, for those that cannot choose
    accounts: int
    status: str  # of these accounts, as a server left them
    hash_cost: str
    certificate: tuple[str, ...]  # and its key: with TLS


@dataclass(frozen=True)
class Kind:
    """A server to be measured. `command` writes what it needs, and returns its command line."""

    name: str
    wire: Wire
    command: Callable[[Setup], list[str]]
    is_ours: bool = False  # it has kept sessions and tokens; of the others a plain login is what comes nearest
    tells_port: bool = False
    install: str = ""

    def kept(self, number: int) -> bytes:
        return (keep_and_log_in if self.is_ours else self.wire.log_in)(number)

    def token(self, number: int) -> bytes:
        return (come_back if self.is_ours else self.wire.log_in)(number)


def start_vessages(setup: Setup, root: Path) -> list[str]:
    database = setup.folder / "bench.db"
    if root == ROOT:
        prepare_accounts(database, setup.accounts, setup.status)
    else:
        prepare_elsewhere(root, database, setup.accounts, setup.status)
    compileall.compile_dir(root, maxlevels=0, quiet=2)  # as a second start finds it: what compiling frees looks unused
    command = [sys.executable, str(root / "vessages.py"), HOST, "0", "--db", str(database)]
    command += ["--hash-cost", setup.hash_cost]
    if setup.certificate:
        command += ["--cert", setup.certificate[0], "--key", setup.certificate[1]]
        if '"--tls", action="store_true"' in (root / "vessages.py").read_text():
            command += ["--tls"]  # it was offered only if one asked for it
    return command


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


def prepare_elsewhere(root: Path, path: Path, count: int, status: str) -> None:
    """The same by the storage.py of another folder: an older server cannot read the file of a newer one."""
    program = f"import sys; sys.path[:0] = {[str(root), str(TOOLS)]}; import storage, bench; from pathlib import Path; "
    program += f"bench.prepare_accounts(Path({str(path)!r}), {count}, {status!r})"
    run([sys.executable, "-c", program])


def run(command: list[str]) -> bytes:
    """What a program prints; BenchError if it fails."""
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        raise BenchError(f"{command[0]} failed: {done.stderr.decode()[-500:]}")
    return done.stdout


def start_asyncio(setup: Setup, variant: str) -> list[str]:
    return [sys.executable, str(TOOLS / "asyncio_server.py"), variant, HOST, "0", *setup.certificate]


NGIRCD = """
[Global]
Name = bench.local
Info = bench
Listen = {host}
Ports = {port}
[Limits]
MaxConnections = 0
MaxConnectionsIP = 0
MaxPenaltyTime = 0
PingTimeout = 3600
[Options]
DNS = no
Ident = no
PAM = no
"""
INSPIRCD = """
<server name="bench.local" description="bench" network="bench" id="0BE">
<bind address="{host}" port="{port}" type="clients">
<connect allow="*" timeout="60" pingfreq="3600" useident="no" resolvehostnames="no" maxconnwarn="no" limit="100000"
    localmax="100000" globalmax="100000" threshold="1000000" commandrate="1000000000" fakelag="no"
    recvq="1M" softsendq="1M" hardsendq="8M">
<performance softlimit="100000" somaxconn="1024" netbuffersize="65534" nouserdns="yes" quietbursts="yes">
"""


def start_irc(setup: Setup, program: str) -> list[str]:
    found = find(program)
    if found is None:
        raise BenchError(f"{program} is not here")
    if program == "miniircd":
        return [found, "--listen", HOST, "--ports", str(setup.port), *["--setuid=root"] * is_root()]
    file = setup.folder / "bench.conf"
    file.write_text((NGIRCD if program == "ngircd" else INSPIRCD).format(host=HOST, port=setup.port))
    if program == "ngircd":
        return [found, "--nodaemon", "--config", str(file)]
    return [found, "--nofork", "--nolog", "--nopid", *["--runasroot"] * is_root(), "--config", str(file)]


def is_root() -> bool:
    return sys.platform != "win32" and os.geteuid() == 0


def find(program: str) -> str | None:
    """Where a program is: on PATH, where Debian has servers, or beside this Python."""
    places = [os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", str(Path(sys.executable).parent)]
    return shutil.which(program, path=os.pathsep.join(places))


def vessages(name: str, root: Path) -> Kind:
    return Kind(name, OURS, partial(start_vessages, root=root), is_ours=True, tells_port=True)


def start_floor(setup: Setup) -> list[str]:
    return [sys.executable, str(TOOLS / "floor_server.py"), HOST, "0"]


OWN, OLD, FIGURE, FLOOR = "vessages", "old", "figure", "floor"
ASYNCIO, IRC_SERVERS = ("asyncio-protocol", "asyncio-streams"), ("ngircd", "inspircd", "miniircd")
PEERS: dict[str, Kind] = {
    **{name: Kind(name, OURS, partial(start_asyncio, variant=name[8:]), tells_port=True) for name in ASYNCIO},
    FLOOR: Kind(FLOOR, OURS, start_floor, tells_port=True),
    **{
        name: Kind(name, IRC, partial(start_irc, program=name), install=install)
        for name, install in zip(
            IRC_SERVERS, ("apt-get install ngircd", "apt-get install inspircd", "pip install miniircd"), strict=True
        )
    },
}


# --- Their processes -------------------------------------------------------------------------------------------------


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
    """A running server process. `cpu` in seconds, `memory` in bytes, both with its children.

    port: where it listens; None: it says so itself, on its standard output.
    """

    def __init__(self, folder: Path, command: list[str], wire: Wire = OURS, port: int | None = None) -> None:
        self.wire = wire
        self.tls: ssl.SSLContext | None = None  # with which its clients encrypt
        self._log = folder / "server.log"
        with on_core(0), self._log.open("wb") as log:
            environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
            out = subprocess.PIPE if port is None else log
            self._process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=log)
        try:
            self.port = self._read_port() if port is None else self._await_port(port)
        except BaseException:
            self.stop()
            raise

    def _read_port(self) -> int:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            found = re.search(rf"{re.escape(HOST)}\D+(\d+)", line.decode())
            if found:
                return int(found[1])
        raise BenchError(f"the server did not start: {self._log.read_text()[-500:]}")

    def _await_port(self, port: int) -> int:
        end = clock() + STUCK
        while clock() < end and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection((HOST, port)):
                return port
            time.sleep(0.02)
        raise BenchError(f"the server did not start: {self._log.read_text(errors='replace')[-500:]}")

    def _tree(self) -> list[int]:
        """The processes of the server: itself and all that it has started."""
        tree = [self._process.pid]
        for pid in tree:  # it grows meanwhile
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                tree += map(int, children.read_text().split())
        return tree

    def cpu(self) -> float:
        if Path("/proc/self/schedstat").exists():  # nanoseconds of each thread
            tasks = [task for pid in self._tree() for task in Path(f"/proc/{pid}/task").iterdir()]
            return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
        return parse_clock(self._ask_ps("time"))

    def ticks(self) -> tuple[int, int]:
        """The same in user space and in the system, in the hundredths of a second in which they are told apart."""
        if not Path("/proc/self/stat").exists():
            return 0, 0
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self._tree()]
        return sum(int(stat[11]) for stat in stats), sum(int(stat[12]) for stat in stats)

    def memory(self) -> int:
        if Path("/proc/self/status").exists():
            statuses = [Path(f"/proc/{pid}/status").read_text() for pid in self._tree()]
            return sum(int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) for status in statuses) * 1024
        return int(self._ask_ps("rss")) * 1024

    def _ask_ps(self, column: str) -> str:
        try:
            return run(["ps", "-o", f"{column}=", "-p", str(self._process.pid)]).decode().strip()
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
def running(
    kind: Kind, accounts: int, status: str = "offline", hash_cost: str = CHEAP_HASH, tls: bool = False
) -> Iterator[Server]:
    """A fresh server that knows `accounts` people."""
    with tempfile.TemporaryDirectory(prefix="bench", dir=IN_MEMORY) as name, socket.create_server((HOST, 0)) as free:
        folder, port = Path(name), free.getsockname()[1]
        certificate: tuple[str, ...] = make_certificate(folder) if tls else ()
        command = kind.command(Setup(folder, port, accounts, status, hash_cost, certificate))
        free.close()
        server = Server(folder, command, kind.wire, None if kind.tells_port else port)
        if tls:
            server.tls = ssl.create_default_context(cafile=certificate[0])
        try:
            with on_core(-1):
                yield server
        finally:
            server.stop()


def make_certificate(folder: Path) -> tuple[str, str]:
    """A certificate for HOST, and its key."""
    certificate, key = str(folder / "bench-cert.pem"), str(folder / "bench-key.pem")
    run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=b",
         "-addext", f"subjectAltName=IP:{HOST}", "-out", certificate, "-keyout", key])  # fmt: skip
    return certificate, key


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

    def _now(self) -> tuple[float, ...]:
        return self._server.cpu(), time.process_time(), clock(), *self._server.ticks()

    def reading(self, count: int, notes: dict[str, float] | None = None) -> Reading:
        """The server's microseconds for each of `count`, and how many of them the system takes for its own."""
        differences = (after - before for after, before in zip(self._now(), self._before, strict=True))
        server, generator, wall, user, system = differences
        figure = server / count * 1e6
        told = {"of it the system": figure * system / (user + system)} if user + system else {}
        return Reading(figure, server / wall, generator / wall, (notes or {}) | told)


# --- Clients ---------------------------------------------------------------------------------------------------------


def receive(sock: socket.socket) -> bytes:
    """The bytes that have come; none if TLS has had only something for itself."""
    try:
        data = sock.recv(READ_MAX)
    except ssl.SSLWantReadError:
        return b""
    if not data:
        raise BenchError("the server closed a connection")
    return data


def connect(server: Server, greeting: bytes) -> socket.socket:
    sock = socket.create_connection((HOST, server.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if server.tls is not None:
        sock = server.tls.wrap_socket(sock, server_hostname=HOST)
    sock.setblocking(False)
    sock.sendall(greeting)
    return sock


class Roster:
    """Who is online, as ONLINE and PRESENCE tell it to one client."""

    def __init__(self) -> None:
        self.online: set[str] = set()
        self._decoder = FrameDecoder(SERVER_FRAME_MAX)

    def feed(self, data: bytes) -> None:
        self._decoder.feed(data)
        for payload in self._decoder.payloads():
            verb, *words = payload.decode().split(" ")
            if verb == "ONLINE":
                self.online = {word for word in words if word[0] != "~"}
            elif verb == "PRESENCE":
                self.online |= {word[1:] for word in words if word[0] == "+"}
                self.online -= {word[1:] for word in words if word[0] != "+"}


class Crowd:
    """Connections that are logged in. What they are sent is read, so that no server has to hold it for them.

    The first `watching` of them have `rosters`.
    """

    def __init__(self, server: Server, watching: int = 0) -> None:
        self.sockets: list[socket.socket] = []
        self.rosters: dict[socket.socket, Roster] = {}
        self._logging_in: dict[socket.socket, bytes] = {}  # -> all that has come so far
        self._watching = watching
        self._talked = clock()
        self._server = server
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for sock in self.sockets:
            sock.close()

    def _connect(self, greeting: bytes) -> None:
        sock = connect(self._server, greeting)
        if len(self.sockets) < self._watching:
            self.rosters[sock] = Roster()
        self._logging_in[sock] = b""
        self.sockets.append(sock)
        self._selector.register(sock, selectors.EVENT_READ)

    def log_in(self, greetings: Iterable[bytes], at_once: int = LOGINS_AT_ONCE) -> list[socket.socket]:
        """Connect once for each greeting, `at_once` at a time; back when all are in."""
        first, queue = len(self.sockets), iter(greetings)
        while True:
            for greeting in itertools.islice(queue, at_once - len(self._logging_in)):
                self._connect(greeting)
            if not self._logging_in:
                return self.sockets[first:]
            if clock() - self._talked > TALK_AFTER:
                self.talk()
            self.read(STUCK)

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
            if sock in self._logging_in:
                self._logging_in[sock] += data
                self._look_for_end(sock)
        return size

    def _look_for_end(self, sock: socket.socket) -> None:
        said = self._logging_in[sock]
        if REFUSED.search(said):
            raise BenchError(f"the server said {said[-200:]!r}")
        if self._server.wire.ready.search(said):
            del self._logging_in[sock]

    def talk(self) -> None:
        """Everybody shows life, without an answer."""
        self._talked = clock()
        for sock in self.sockets:
            sock.sendall(self._server.wire.life)

    def expect(self, size: int) -> None:
        """Read `size` bytes, whoever gets them."""
        while size > 0:
            size -= self.read(STUCK)

    def settle(self) -> int:
        """Read until nobody is told anything any more: after this every byte belongs to the load, for 20 seconds."""
        self.talk()
        size = 0
        while self._selector.select(QUIET + QUIET_A_PERSON * len(self.sockets)):
            size += self.read(STUCK)
        return size

    def delivered_size(self, sender: socket.socket, message: bytes) -> int:
        """The bytes that all together receive for a message."""
        sender.sendall(message)
        return self.read(STUCK) + self.settle()


def people(kind: Kind, crowd: Crowd, count: int) -> list[socket.socket]:
    """So many people have logged in, and have heard of each other."""
    sockets = crowd.log_in(map(kind.wire.log_in, range(count)))
    crowd.settle()
    return sockets


# --- Load as fast as it goes -----------------------------------------------------------------------------------------


class Load:
    """One socket's part in a load: how many messages it has `sent`, and how long some took that arrived there."""

    def __init__(self, receiver: socket.socket) -> None:
        self.receiver = receiver
        self.sent = 0
        self.times: list[float] = []  # seconds
        self.stopped = False  # nothing more is to be sent

    def pump(self) -> int:
        """Read, send what that calls for, and say how many messages were delivered."""
        raise NotImplementedError


class Flow(Load):
    """Messages that keep themselves going: for each that arrives at `receiver`, `sender` sends the next one.

    They are counted by their `size`, which is always the same. `window` are sent at the start. The time that a message
    takes is sampled: the last one sent is the next to be timed.
    """

    def __init__(self, receiver: socket.socket, sender: socket.socket, message: bytes, size: int, window: int) -> None:
        super().__init__(receiver)
        self._sender = sender
        self._message = message
        self._size = size
        self._window = self._ahead = window  # messages on their way, up to the one that is timed
        self._rest = 0
        self._sent_at = clock()
        self._send(window)

    def _send(self, count: int) -> None:
        if not self.stopped:
            self.sent += count
            self._sender.sendall(self._message * count)

    def pump(self) -> int:
        delivered, self._rest = divmod(self._rest + len(receive(self.receiver)), self._size)
        if delivered:
            now = clock()
            self._ahead -= delivered
            if self._ahead <= 0:
                self.times.append(now - self._sent_at)
                self._ahead, self._sent_at = self._window, now
            self._send(delivered)
        return delivered


class Numbered(Load):
    """Reads the `@seq` frames of a kept session by the number of the last one, not one by one."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
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


class KeptSender(Numbered):
    """Sends a tagged message for each that was answered, and acknowledges the answers."""

    def __init__(self, sock: socket.socket, recipient: int, window: int) -> None:
        super().__init__(sock)
        self._text = f" SEND {name_of(recipient)} ".encode() + TEXT
        self._tags = itertools.count(time.time_ns() // 1000)
        sock.sendall(self._sends(window))

    def _sends(self, count: int) -> bytes:
        text = self._text
        self.sent += count
        return b"".join([frame(b"#%d" % tag + text) for tag in itertools.islice(self._tags, count)])

    def pump(self) -> int:
        answered = self.read(receive(self.receiver))
        if answered:
            self.receiver.sendall(self.ack() + self._sends(0 if self.stopped else answered))
        return 0


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
            load.times.clear()
        meter = Meter(server)
        delivered = pump_all(selector, seconds)
        reading = meter.reading(max(1, delivered), {"messages/s": delivered / seconds})
        for load in loads:
            load.stopped = True
        missing = sum(load.sent for load in loads) - before - delivered
        missing -= pump_all(selector, STUCK, missing) + pump_all(selector, QUIET)
    if missing or not delivered:
        raise BenchError(f"{delivered} messages were delivered, {missing} are missing")
    reading.notes.update(latency([passed / legs for load in loads for passed in load.times]))
    return reading


# --- Load at a given rate --------------------------------------------------------------------------------------------


class Pair:
    """One sends, one receives, and every message is timed from the moment when it was due."""

    def __init__(self, sockets: Sequence[socket.socket], sender: int, recipient: int) -> None:
        self.receiver = sockets[recipient]
        self.due: deque[float] = deque()
        self._sender = sockets[sender]
        self._message = OURS.send(recipient)
        self._begins = f"MSG {name_of(sender)} ".encode()  # else it is from somebody who writes to everybody
        self._decoder = FrameDecoder(SERVER_FRAME_MAX)

    def send(self, due: float) -> None:
        self.due.append(due)
        self._sender.sendall(self._message)

    def arrived(self) -> list[float]:
        """The seconds that each message took which is here now."""
        now = clock()
        self._decoder.feed(receive(self.receiver))
        return [now - self.due.popleft() for payload in self._decoder.payloads() if payload.startswith(self._begins)]


def make_pairs(sockets: Sequence[socket.socket]) -> list[Pair]:
    return [Pair(sockets, number - 1, number) for number in range(1, len(sockets), 2)]


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


class Every:
    """A step that does something every so many seconds, so often."""

    def __init__(self, pause: float, deeds: Iterable[Callable[[], object]]) -> None:
        self._pause = pause
        self._deeds = iter(deeds)
        self._next = 0.0

    def __call__(self, passed: float) -> None:
        if passed >= self._next:
            self._next += self._pause
            next(self._deeds)()


class Visitors:
    """Somebody else logs in each time, and whoever was there leaves."""

    def __init__(self, server: Server, greetings: Iterable[bytes]) -> None:
        self._server = server
        self._greetings = iter(greetings)
        self._guest: socket.socket | None = None

    def change(self) -> None:
        self.close()
        self._guest = connect(self._server, next(self._greetings))

    def close(self) -> None:
        if self._guest is not None:
            self._guest.close()


# --- What is measured ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """How much of everything: the sizes that issue figures are stated for, or smaller ones."""

    seconds: float = 1.0  # of load
    repeats: int = 3
    pairs: int = 100
    some: int = 1_000
    many: int = 10_000
    logins: int = 2_048
    broadcasts: int = 10


QUICK = Scale(seconds=0.3, repeats=1, some=200, many=1_000, logins=512, broadcasts=3)


def percentile(times: Sequence[float], share: float) -> float:
    """The least of `times` that `share` of them do not exceed."""
    ordered = sorted(times)
    return ordered[max(0, -int(-len(ordered) * share // 1) - 1)]


def latency(times: Sequence[float]) -> dict[str, float]:
    return {f"p{share:.0%}"[:-1] + " ms": percentile(times, share) * 1000 for share in (0.5, 0.99)} if times else {}


def streaming(kind: Kind, pairs: int, seconds: float, tls: bool = False) -> Reading:
    """Each pair has so many messages on their way, in one direction."""
    with running(kind, 2 * pairs, tls=tls) as server, Crowd(server) as crowd:
        sockets = people(kind, crowd, 2 * pairs)
        size = crowd.delivered_size(sockets[0], kind.wire.send(1))
        flows = [Flow(sockets[b], sockets[b - 1], kind.wire.send(b), size, OUTSTANDING) for b in range(1, 2 * pairs, 2)]
        return burst(server, flows, seconds)


def ping_pong(kind: Kind, pairs: int, seconds: float, tls: bool = False) -> Reading:
    """One message a pair, to and fro; its time is half of the round trip."""
    with running(kind, 2 * pairs, tls=tls) as server, Crowd(server) as crowd:
        return to_and_fro(kind, server, crowd, people(kind, crowd, 2 * pairs), seconds)


def to_and_fro(kind: Kind, server: Server, crowd: Crowd, sockets: list[socket.socket], seconds: float) -> Reading:
    size = crowd.delivered_size(sockets[0], kind.wire.send(1))
    flows = [Flow(each, each, kind.wire.send(number ^ 1), size, number % 2) for number, each in enumerate(sockets)]
    return burst(server, flows, seconds, legs=2)


def growth(kind: Kind, few: int, many: int, seconds: float) -> Reading:
    """How many times a message costs what it did among a few, when many others are connected."""
    with running(kind, many) as server, Crowd(server) as crowd:
        talkers = people(kind, crowd, few)
        before = to_and_fro(kind, server, crowd, talkers, seconds)
        crowd.log_in(map(kind.token, range(few, many)), RETURNS_AT_ONCE)
        crowd.settle()
        after = to_and_fro(kind, server, crowd, talkers, seconds)
        notes = {f"µs among {few}": before.figure, f"µs among {many:,}": after.figure}
        return after._replace(figure=after.figure / before.figure, notes=notes)


def kept(kind: Kind, pairs: int, seconds: float) -> Reading:
    """Kept sessions with tags; a server that has none is measured with plain ones."""
    if not kind.is_ours:
        return streaming(kind, pairs, seconds)
    with running(kind, 2 * pairs) as server, Crowd(server) as crowd:
        sockets = crowd.log_in(map(kind.kept, range(2 * pairs)))
        crowd.settle()
        loads: list[Load] = []
        for number in range(0, 2 * pairs, 2):
            loads += [KeptSender(sockets[number], number + 1, OUTSTANDING), KeptReceiver(sockets[number + 1])]
        return burst(server, loads, seconds)


def memory(kind: Kind, count: int, keep: bool = False, tls: bool = False) -> Reading:
    """KiB of the server's memory for an idle connection that is logged in."""
    greet = kind.kept if keep else kind.wire.log_in
    with running(kind, count, tls=tls) as server, Crowd(server) as crowd:
        first = count // 2  # what a server takes once, and what the end of its start frees, is behind it then
        crowd.log_in(map(greet, range(first)))
        crowd.settle()
        before, meter = server.memory(), Meter(server)
        crowd.log_in(map(greet, range(first, count)))
        crowd.settle()
        grown = (server.memory() - before) / (count - first)
        return meter.reading(count)._replace(figure=grown / 1024, notes={})


def log_ins(kind: Kind, count: int) -> Reading:
    """Connect, log in by token, get the roster, leave, one at a time: the same few again and again, in their grace."""
    with running(kind, GUESTS, "lost") as server:
        come_and_go(kind, server, range(GUESTS))  # since its start the server has seen everybody once
        meter = Meter(server)
        come_and_go(kind, server, [number % GUESTS for number in range(count)])
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
        crowd.log_in(map(kind.token, range(watchers)), RETURNS_AT_ONCE)
        crowd.settle()
        told = visits(kind, server, crowd, watchers, broadcasts)
        return told._replace(figure=told.figure - alone.figure, notes={})


def visits(kind: Kind, server: Server, crowd: Crowd, guest: int, times: int) -> Reading:
    """Somebody logs in and leaves; all in the crowd have heard of both. The cost is divided by `guest` people."""
    size = len(frame(f"PRESENCE +{name_of(0)}".encode())) * len(crowd.sockets)
    meter = Meter(server)
    for _ in range(times):
        with Crowd(server) as visitor:
            visitor.log_in([kind.wire.log_in(guest)])
            crowd.expect(size)
        crowd.expect(size)
    return meter.reading(2 * times * guest)


def presence_latency(kind: Kind, watchers: int, seconds: float) -> Reading:
    """How long messages take while people come and go among `watchers`. Nobody reads the news: the kernel holds it."""
    guests = range(watchers, watchers + int(seconds / 0.4) + 2)
    with running(kind, guests.stop) as server, Crowd(server) as crowd:
        talkers = crowd.log_in(map(kind.wire.log_in, range(10)))
        crowd.log_in(map(kind.token, range(10, watchers)), RETURNS_AT_ONCE)
        crowd.settle()
        with closing(Visitors(server, map(kind.wire.log_in, guests))) as visitors:
            return disturbed(server, talkers, seconds, Every(0.4, itertools.repeat(visitors.change)))


def disturbed(server: Server, talkers: Sequence[socket.socket], seconds: float, step: Step) -> Reading:
    """The p99 of 1,000 messages a second while `step` is done."""
    meter = Meter(server)
    times = latency(pace(make_pairs(talkers), 1000, seconds, step))
    return meter.reading(1)._replace(figure=times["p99 ms"], generator_share=1, notes=times)


TO_ALL = frame(b"SEND * " + TEXT)


def to_everybody(kind: Kind, count: int, times: int) -> Reading:
    """One of `count` people writes to all others, again and again; the cost is divided by those."""
    with running(kind, count) as server, Crowd(server) as crowd:
        sockets = people(kind, crowd, count)
        size = crowd.delivered_size(sockets[-1], TO_ALL)
        meter = Meter(server)
        for number in range(times):
            sockets[number // SENDS_TO_ALL].sendall(TO_ALL)
            crowd.expect(size)
        return meter.reading(times * (count - 1))


def to_everybody_latency(kind: Kind, count: int, seconds: float) -> Reading:
    """How long messages take while somebody writes to everybody. Nobody reads it: the kernel holds it."""
    with running(kind, count) as server, Crowd(server) as crowd:
        sockets = people(kind, crowd, count)
        deeds = [partial(sock.sendall, TO_ALL) for sock in sockets[10:] for _ in range(SENDS_TO_ALL)]
        return disturbed(server, sockets[:10], seconds, Every(0.25, deeds))


def restart(kind: Kind, count: int, tls: bool = False) -> Reading:
    """Seconds until all who were online when the server crashed are back, and ten of them know it of everybody."""
    with running(kind, count, "online", tls=tls) as server, Crowd(server, watching=10) as crowd:
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
        pairs = make_pairs(people(kind, crowd, 10))
        before = pace(pairs, rate, seconds)
        meter = Meter(server)
        with closing(Visitors(server, map(kind.wire.log_in, guests))) as visitors:
            meanwhile = pace(pairs, rate, seconds, Every(every, itertools.repeat(visitors.change)))
        p99 = [latency(times)["p99 ms"] for times in (before, meanwhile)]
        notes = {"p99 ms undisturbed": p99[0], "p99 ms meanwhile": p99[1]}
        return meter.reading(1)._replace(figure=p99[1] / p99[0], generator_share=1, notes=notes)


@dataclass(frozen=True)
class Row:
    """A figure, how it is measured, beside which peers, and its goals: the most that it may be.

    A goal is for the ratio to a peer, `asyncio` being the leaner of the two, or for the FIGURE itself.
    """

    key: str
    title: str
    unit: str
    measure: Callable[[Kind], Reading]
    peers: tuple[str, ...] = ()
    goals: dict[str, float] = field(default_factory=dict)
    once: bool = False  # not repeated: it takes long to get so many in, or depends little on the machine
    readme: str = ""  # its title there, if it has a place there


def make_rows(scale: Scale) -> list[Row]:
    s, pairs, some, many = scale.seconds, scale.pairs, scale.some, scale.many
    stream, told = f"streaming, {pairs} pairs, {OUTSTANDING} outstanding", max(1, scale.broadcasts // 3)
    everyone, lean = (*ASYNCIO, *IRC_SERVERS), ASYNCIO[:1]
    relays = (*everyone, FLOOR)
    return [
        Row("streaming", f"message, {stream}", "µs", partial(streaming, pairs=pairs, seconds=s), relays,
            {"inspircd": 1.0, "ngircd": 0.7}, readme=f"a delivered message, {stream}"),
        Row("kept", "the same, kept and tagged (others: plain)", "µs", partial(kept, pairs=pairs, seconds=s), lean,
            {"asyncio": 0.40}, readme="the same in kept sessions, with tags, ACKs and OKs"),
        Row("ping-pong", f"message, ping-pong, {pairs} pairs", "µs", partial(ping_pong, pairs=pairs, seconds=s),
            relays, {"ngircd": 1.2, "asyncio": 0.52}, readme=f"a delivered message, ping-pong, {pairs} pairs"),
        Row("ping-pong-1", "message, ping-pong, 1 pair", "µs", partial(ping_pong, pairs=1, seconds=s),
            relays, {"asyncio": 0.95}),
        Row("growth", f"message, ping-pong, 5 pairs: among {many:,} connections to among 10", "x",
            partial(growth, few=10, many=many, seconds=s), lean, {FIGURE: 1.10}),
        Row("presence", f"one person's coming told to {many:,}, each", "µs",
            partial(presence, watchers=many, broadcasts=scale.broadcasts), lean, {"asyncio": 1.0}),
        Row("presence-p99", f"p99 of 1,000 messages/s while presence is told to {many:,}", "ms",
            partial(presence_latency, watchers=many, seconds=3 * s), goals={FIGURE: 30}),
        Row("everybody-some", f"message to {some:,}, each", "µs",
            partial(to_everybody, count=some, times=8 * told), (*lean, FLOOR), {"asyncio": 0.6},
            readme=f"a message to {some:,} people, for each"),
        Row("everybody", f"message to {many:,}, each", "µs",
            partial(to_everybody, count=many, times=told), lean, {"asyncio": 0.6}, once=True),
        Row("everybody-some-p99", f"p99 of 1,000 messages/s while 4 a second go to {some:,}", "ms",
            partial(to_everybody_latency, count=some, seconds=3 * s), goals={FIGURE: 30}),
        Row("everybody-p99", f"p99 of 1,000 messages/s while 4 a second go to {many:,}", "ms",
            partial(to_everybody_latency, count=many, seconds=3 * s), goals={FIGURE: 30}, once=True),
        Row("memory", f"memory of an idle connection, {many:,} logged in", "KiB", partial(memory, count=many),
            ASYNCIO, {FIGURE: 0.6}, once=True, readme=f"memory of an idle connection, {many:,} logged in"),
        Row("memory-kept", "the same, kept", "KiB", partial(memory, count=many, keep=True),
            goals={FIGURE: 0.8}, once=True),
        Row("tls-streaming", f"message, {stream}, TLS", "µs",
            partial(streaming, pairs=pairs, seconds=s, tls=True), ASYNCIO[1:], {"asyncio": 0.6}),
        Row("tls-ping-pong", f"message, ping-pong, {pairs} pairs, TLS", "µs",
            partial(ping_pong, pairs=pairs, seconds=s, tls=True), ASYNCIO[1:], {"asyncio": 0.6}),
        Row("tls-memory", f"memory of an idle connection, {some:,} logged in, TLS", "KiB",
            partial(memory, count=some, tls=True), ASYNCIO[1:], {"asyncio": 1.0}, once=True),
        Row("login", "connect, come back by token, leave (asyncio: log in, no password)", "µs",
            partial(log_ins, count=scale.logins), lean),
        Row("restart", f"{many:,} back by token after a crash, all rosters right", "s",
            partial(restart, count=many), lean, {FIGURE: 20}),
        Row("tls-restart", f"{some:,} back by token after a crash, TLS, all rosters right", "s",
            partial(restart, count=some, tls=True), ASYNCIO[1:], {FIGURE: 10}),
        Row("checking", "p99 of 5,000 messages/s with 5 password checks/s, times the undisturbed", "x",
            partial(while_checking, rate=5000, every=0.2, seconds=3 * s), goals={FIGURE: 3}),
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
    """A row's readings of each server, in the order they were taken. The first one is ours."""

    row: Row
    readings: dict[str, list[Reading]]

    def spread(self, name: str) -> Spread:
        return Spread.of([reading.figure for reading in self.readings[name]])

    def ratio(self, name: str) -> Spread:
        """Ours to theirs: of neighbouring runs, so that the machine was the same."""
        pairs = zip(self.readings[OWN], self.readings[name], strict=True)
        return Spread.of([our.figure / (their.figure or math.nan) for our, their in pairs])  # 0: too short to be seen

    def leanest(self, name: str) -> str | None:
        """The one of the servers whose name begins so that needs the least."""
        names = [each for each in self.readings if each.startswith(name)]
        return min(names, key=lambda each: self.spread(each).median, default=None)

    def verdicts(self) -> Iterator[str]:
        """Of each goal for which there is a figure, whether it is reached."""
        for goal, most in self.row.goals.items():
            peer = self.leanest(goal)
            if goal == FIGURE or peer is not None:
                reached = (self.spread(OWN) if peer is None else self.ratio(peer)).median
                yield f"{goal} at most {most:g}: {short(reached)}, {'yes' if reached <= most else 'NO'}"


def measure_row(row: Row, kinds: Sequence[Kind], repeats: int) -> Result:
    """Measure one row, the servers in turns. One that cannot be measured is said so, and left out."""
    readings: dict[str, list[Reading]] = {kind.name: [] for kind in kinds}
    for _ in range(1 if row.once else repeats):
        for kind in kinds:
            if kind.name not in readings:
                continue
            try:
                readings[kind.name].append(row.measure(kind))
            except (BenchError, OSError) as error:
                del readings[kind.name]
                print(f"{row.key}: no figure of {kind.name}, {error}", file=sys.stderr, flush=True)
    return Result(row, readings)


def describe(result: Result) -> str:
    """A row in full: each server's figure and spread, who was how busy, and what else was seen."""
    lines = [f"{result.row.key}: {result.row.title}, {result.row.unit}"]
    for name, readings in result.readings.items():
        middle = sorted(readings, key=lambda reading: reading.figure)[len(readings) // 2]
        notes = "".join(f", {what} {short(figure)}" for what, figure in middle.notes.items())
        spins = "spins" if middle.generator_share == 1 else f"{middle.generator_share:.0%}"
        lines.append(f"  {name:17}{result.spread(name)!s:26}server {middle.server_share:.0%}, generator {spins}{notes}")
        if name != OWN:
            lines.append(f"  {'  ours to it':17}{result.ratio(name)}")
    return "\n".join([*lines, *(f"  {verdict}" for verdict in result.verdicts())])


def table(results: Sequence[Result]) -> str:
    """All rows in short, as Markdown."""
    names = list(dict.fromkeys(name for result in results for name in result.readings))
    rows = [[result.row.title, *(cell(result, name) for name in names), "; ".join(result.verdicts())]
            for result in results]  # fmt: skip
    return markdown(["", *names, "goal"], rows)


def readme_table(results: Sequence[Result]) -> str:
    """The table of README.md."""
    rows = [[result.row.readme, *(cell(result, name) for name in (OWN, "asyncio", "ngircd", "inspircd"))]
            for result in results if result.row.readme]  # fmt: skip
    return markdown(["", "Vessages", "asyncio", "ngIRCd", "InspIRCd"], rows)


def cell(result: Result, name: str) -> str:
    """The figure of a server; of the leaner one if several are called so."""
    found = result.leanest(name)
    if found is None:
        return ""
    plain = " (plain)" if result.row.key == "kept" and found not in (OWN, OLD) else ""
    return f"{short(result.spread(found).median)} {result.row.unit}{plain}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> str:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return f"{python}, {system}, {processor()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}"


def processor() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        if found:
            return found[1]
    return platform.processor() or "some processor"


def raise_file_limit() -> int:
    """Allow as many open files as the system lets us; the servers inherit it. Returns how many."""
    if resource is None:
        return 1 << 20
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20


@contextmanager
def older(commit: str | None) -> Iterator[list[Kind]]:
    """Vessages as it was at a commit, if one is given."""
    if commit is None:
        yield []
        return
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        files = run(["git", "-C", str(ROOT), "archive", commit, "vessages.py", "protocol.py", "storage.py"])
        subprocess.run(["tar", "-x", "-C", folder], input=files, check=True)
        yield [vessages(OLD, Path(folder))]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    keys = [row.key for row in make_rows(Scale())]
    parser = argparse.ArgumentParser(description="Measure Vessages beside other servers.")
    parser.add_argument("--peer", action="append", choices=[*PEERS, "none"], metavar="NAME",
                        help="measure beside this one only, may be repeated: none, " + ", ".join(PEERS))  # fmt: skip
    parser.add_argument("--old", metavar="COMMIT", help="and beside Vessages as it was at this commit")
    parser.add_argument("--only", action="append", choices=keys, metavar="ROW",
                        help="measure this row only; may be repeated: " + ", ".join(keys))  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="smaller sizes, one run each: a minute, and rougher")
    parser.add_argument("--repeats", type=int, metavar="N", help="runs of each figure instead of 3, or 1 with --quick")
    parser.add_argument("--readme", action="store_true", help="measure the rows of README.md, and print its table")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    scale = QUICK if options.quick else Scale()
    scale = replace(scale, many=min(scale.many, raise_file_limit() - 200), repeats=options.repeats or scale.repeats)
    say = partial(print, flush=True)
    say(f"{machine()}, median (least to most) of {scale.repeats}")
    peers = [kind for name, kind in PEERS.items() if name in (options.peer or PEERS)]
    for kind in [kind for kind in peers if kind.install and find(kind.name) is None]:
        say(f"{kind.name} is not here: {kind.install}")
        peers.remove(kind)
    results, failed = [], False
    with older(options.old) as olds:
        for row in make_rows(scale):
            if (options.only and row.key not in options.only) or (options.readme and not row.readme):
                continue
            kinds = [vessages(OWN, ROOT), *olds, *(kind for kind in peers if kind.name in row.peers)]
            result = measure_row(row, kinds, scale.repeats)
            failed |= len(result.readings) < len(kinds)
            if OWN in result.readings:
                results.append(result)
                say("\n" + describe(result))
    say("\n" + (readme_table if options.readme else table)(results))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
