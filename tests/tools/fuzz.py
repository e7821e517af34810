"""An attack on the real server process: wrong in every way that comes to mind, while a pair goes on chatting.

    python tests/tools/fuzz.py --minutes 10                 one long attack; it prints its seed
    python tests/tools/fuzz.py --minutes 1 --seed 4711      the same attacks in the same order

How it works
    Half of the connections are plain, half are encrypted, at the one port that serves both; of the pair one each.

    In each round one attack of a table begins, each of them once before any comes again: connections that say
    something wrong, nothing, half of it, too much of it, or do not listen. What they say is made of real commands and
    then mutated, frame by frame and byte by byte, so that it gets past the first check. Then the crowd has a moment,
    and the pair chats.

What is checked
    every round   the process lives and logs no fault; a message of the pair arrives and is confirmed
    now and then  a new user registers and logs in; memory and open descriptors (where there is a /proc)
    at the end    when the crowd has gone the descriptors are as few as before, the pair sees only itself, the memory
                  has not grown since the first half, and the server stops within 6 s

Everything stays on loopback addresses; the server is ended by its process id. It needs the same packages as the tests.

Reading order
    1. What is said: `Author`.   2. Who says it: `Attacker`, `Crowd`.   3. `Target`, what is watched.
    4. `ATTACKS`.   5. `Fuzzer`, the rounds.   6. The command line.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import select
import signal
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests" / "support"))

from vocabulary import PASSWORD
from wire import NOT_NOW, PATIENCE, PROGRAM, Peer, ServerProcess, encode

from protocol import SERVER_FRAME_MAX, FrameDecoder

MIB = 2**20

CROWD_MAX = 400  # connections of attackers that stay; above it some have to go, so that there is always news
MOMENT = 8  # times that each of the crowd may say and hear something in a round
TOKENS_KEPT = 8  # the newest ones: older ones are mostly dead, since ten names are many people's here
GRACE = 2  # seconds a lost session is kept by the server under attack: many come, many go
GONE_WITHIN = 60.0  # seconds until nothing is left of the crowd
LOOK = 0.1  # seconds from one look at what is left of it to the next
STOP_WITHIN = 6.0  # seconds from SIGTERM to the end
ROUND_TRIP_MAX = 10.0  # seconds for a message of the pair: far from good, but more means that it is stuck
GROWTH_MAX = 1.25  # memory at the end, beside the most of the first half; and so many bytes of it do not count:
GROWTH_FREE = 16 * MIB
FEW_SAMPLES = 40  # below that many nothing is concluded about the memory
FAULTS = re.compile(r"Traceback|internal error|Exception")

ANSWER = re.compile(r"(?:@\d+ )?(?:#\d+ )?(OK \S+|ERROR \S+|BYE \S+|[A-Z]+)")
TOKEN = re.compile(r"token=(\S+)")
ACCOUNTS = tuple(f"m{number}" for number in range(10))

clock = time.perf_counter


class FuzzError(AssertionError):
    """The server has not borne it; the text says what was seen."""


# --- What is said -----------------------------------------------------------------------------------------------------

LENGTHS = (0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 2**24, 2**31, 2**32 - 1)


class Author:
    """Writes streams of bytes: real commands, then mutations of them. The same seed writes the same."""

    def __init__(self, rng: random.Random, tokens: Sequence[str] = ()) -> None:
        self.rng = rng
        self.tokens = tokens or ("x",)

    def stream(self) -> bytes:
        """A conversation with one to three mutations."""
        data = b"".join(encode(payload) for payload in self.conversation())
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            data = self.rng.choice(MUTATIONS)(self, data) or b"\0"
        return data

    def conversation(self) -> list[bytes]:
        """Commands as they should be, most of them after a login."""
        commands = [self.rng.choice(("", "KEEP", "PING")), self.login()] if self.rng.random() < 0.7 else []
        commands += [self.command(number) for number in range(1, self.rng.choice((2, 5, 5, 60)))]
        return [command.encode() for command in commands if command]

    def login(self) -> str:
        return f"{self.rng.choice(('LOGIN', 'TAKEOVER', 'TAKEOVER'))} {self.name()} {PASSWORD}"

    def name(self) -> str:
        return self.rng.choice(ACCOUNTS)

    def command(self, tag: int) -> str:
        words = self.rng.choice((
            f"SEND {self.name()} " + "hello " * self.rng.choice((1, 1, 10, 1000)), f"SEND {self.name()} hi",
            f"ACK {self.rng.randrange(20)}", f"RESUME {self.rng.choice(self.tokens)} {self.rng.randrange(20)}",
            "WHO", "PING are you there", "LOGOUT", self.login(), f"REGISTER n{self.rng.randrange(10**6)} {PASSWORD}",
            f"PASSWD {PASSWORD}\n{PASSWORD}", f"LOGIN {self.name()} wrong password", "KEEP",
        ))  # fmt: skip
        return self.rng.choice(("", f"#{tag} ", f"#{tag} ")) + words

    # Mutations

    def lie_about_length(self, data: bytes) -> bytes:
        """A header that is not true, in the place of one that is."""
        return data[: self._frame(data)] + struct.pack(">I", self.rng.choice(LENGTHS)) + data[self._frame(data) + 4 :]

    def flip(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self.rng.choice((1, 1, 8))):
            changed[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        return bytes(changed)

    def drop(self, data: bytes) -> bytes:
        where = self.rng.randrange(len(data))
        return data[:where] + data[where + self.rng.choice((1, 4, 20)) :]

    def repeat(self, data: bytes) -> bytes:
        """The same again and again, to reach the limits of what is counted."""
        return data * self.rng.choice((2, 5, 50)) if len(data) < 10_000 else data

    def stop_halfway(self, data: bytes) -> bytes:
        return data[: self.rng.randrange(len(data) + 1)]

    def noise(self, data: bytes) -> bytes:
        return data + self.rng.randbytes(self.rng.choice((1, 4, 100)))

    def _frame(self, data: bytes) -> int:
        """Where one of its frames begins."""
        begins, where = [0], 0
        while where + 4 <= len(data):
            where += 4 + int.from_bytes(data[where : where + 4], "big")
            begins.append(where)
        return self.rng.choice(begins[:-1] or [0])


Mutation = Callable[[Author, bytes], bytes]
MUTATIONS: tuple[Mutation, ...] = (
    Author.lie_about_length, Author.flip, Author.drop, Author.repeat, Author.stop_halfway, Author.noise,
)  # fmt: skip


# --- Who says it ------------------------------------------------------------------------------------------------------


class Attacker:
    """A connection with something to say. `piece`: bytes at a time; `ends`: what it does when all is said."""

    def __init__(
        self, sock: socket.socket, says: bytes = b"", *, piece: int = 65536, listens: bool = True, ends: str = "stays"
    ) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.left = memoryview(says)
        self.piece = piece
        self.listens = listens
        self.ends = ends
        self._decoder = FrameDecoder(SERVER_FRAME_MAX)

    def say(self) -> None:
        """The next piece, or what is taken of it."""
        with contextlib.suppress(*NOT_NOW):
            self.left = self.left[self.socket.send(self.left[: self.piece]) :]

    def hear(self) -> Iterator[str]:
        """The frames that have come."""
        with contextlib.suppress(*NOT_NOW):
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionResetError
            self._decoder.feed(data)
        for payload in self._decoder.payloads():
            yield payload.decode()

    def leave(self, by: str) -> None:
        if by == "resets":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Crowd:
    """All attackers that are connected at present."""

    def __init__(self) -> None:
        self.members: list[Attacker] = []
        self.answers: Counter[str] = Counter()
        self.tokens: list[str] = []
        self.connections = 0

    def add(self, attacker: Attacker) -> None:
        self.connections += 1
        self.members.append(attacker)

    def moment(self) -> None:
        """Each says and hears what is possible now, some times over."""
        for _ in range(MOMENT):
            for attacker in list(self.members):
                self._serve(attacker)

    def _serve(self, attacker: Attacker) -> None:
        try:
            if attacker.left:
                attacker.say()
            if attacker.listens:
                for frame in attacker.hear():
                    self._note(frame)
        except OSError:
            self.remove(attacker)
        else:
            if not attacker.left and attacker.ends != "stays":
                self.remove(attacker, attacker.ends)

    def _note(self, frame: str) -> None:
        match = ANSWER.match(frame)
        if match is None:
            raise FuzzError(f"no frame of a server: {frame[:200]!r}")
        self.answers[match[1]] += 1
        self.tokens = (self.tokens + TOKEN.findall(frame))[-TOKENS_KEPT:]

    def remove(self, attacker: Attacker, by: str = "finishes") -> None:
        self.members.remove(attacker)
        attacker.leave(by)

    def thin(self, rng: random.Random, most: int) -> None:
        """Some have to go, in one way or the other."""
        for attacker in rng.sample(self.members, max(0, len(self.members) - most)):
            self.remove(attacker, rng.choice(("finishes", "resets")))


# --- The server -------------------------------------------------------------------------------------------------------


class Target(ServerProcess):
    """The server process under attack, and what can be seen of it from outside."""

    def __init__(self, folder: Path, code: Path = PROGRAM) -> None:
        super().__init__(folder, "--grace", str(GRACE), code=code)
        self.offers_tls = "fingerprint" in self.greeting  # where there is an openssl
        self.memory: list[int] = []  # bytes, one figure a sample
        self.descriptors: list[int] = []
        self._read = 0  # bytes of its log

    def dial(self, source: str, secure: bool) -> socket.socket:
        """A connection from this address (where there are many loopback addresses)."""
        address = (source if sys.platform == "linux" else "127.0.0.1", 0)
        sock = socket.create_connection(self.address, timeout=PATIENCE, source_address=address)
        if not secure:
            return sock
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(sock, do_handshake_on_connect=False)

    def honest(self, name: str, secure: bool, kept: bool = False) -> Peer:
        """Somebody who keeps to the protocol, and is logged in."""
        sock = self.dial("127.0.0.1", secure)

        def step() -> None:
            if not select.select([sock], [], [], PATIENCE)[0]:
                raise FuzzError(f"an honest client heard nothing for {PATIENCE:.0f} s")

        peer = Peer(sock, step)
        self.peers.append(peer)
        peer.enter(name, kept)
        return peer

    def visit(self, name: str) -> None:
        """Somebody registers, logs in and leaves."""
        visitor = self.honest(name, self.offers_tls)
        visitor.says("LOGOUT")
        visitor.close()
        self.peers.remove(visitor)

    def check(self) -> None:
        """FuzzError if the process has ended or says that something went wrong in it."""
        if self.process.poll() is not None:
            raise FuzzError(f"the server has ended: {self.process.returncode}\n{self.said()[-3000:]}")
        with self.errors.open(encoding="utf-8") as log:
            log.seek(self._read)
            news = log.read()
        self._read += len(news.encode())
        if FAULTS.search(news):
            raise FuzzError(f"the server's log tells of a fault:\n{news[-3000:]}")

    def sample(self) -> None:
        """Note memory and descriptors, where the system tells."""
        folder = Path("/proc") / str(self.process.pid)
        with contextlib.suppress(OSError):
            resident = re.search(r"VmRSS:\s+(\d+)", (folder / "status").read_text(encoding="ascii"))
            if resident:
                self.memory.append(int(resident[1]) * 1024)
                self.descriptors.append(len(list((folder / "fd").iterdir())))

    def stop(self) -> None:
        """SIGTERM, which on Windows is no question; FuzzError if it is not over soon and well."""
        began = clock()
        self.signal(signal.SIGTERM)
        code = self.ends()
        if (code and sys.platform != "win32") or clock() - began > STOP_WITHIN:
            raise FuzzError(f"stopped with code {code} after {clock() - began:.1f} s")


def check_memory(samples: Sequence[int]) -> None:
    """FuzzError if there was more at the end than ever in the first half, beyond what is allowed for."""
    if len(samples) < FEW_SAMPLES:
        return
    before, after = max(samples[: len(samples) // 2]), statistics.median(samples[-len(samples) // 4 :])
    if after > before * GROWTH_MAX + GROWTH_FREE:
        raise FuzzError(f"the memory grows: first {before / MIB:.0f} MiB at most, then {after / MIB:.0f}")


# --- The attacks ------------------------------------------------------------------------------------------------------


def mutants(fuzzer: Fuzzer, author: Author) -> Iterable[Attacker]:
    """Conversations with mutations, said in pieces of all sizes."""
    for _ in range(20):
        yield Attacker(
            fuzzer.connect(), author.stream(), piece=fuzzer.rng.choice((1, 3, 7, 100, 65536, 65536)),
            ends=fuzzer.rng.choice(("stays", "finishes", "resets")), listens=fuzzer.rng.random() < 0.9,
        )  # fmt: skip


def half_frames(fuzzer: Fuzzer, author: Author) -> Iterable[Attacker]:
    """A frame is begun, and that is all."""
    for _ in range(40):
        frame = encode(author.conversation()[0])
        yield Attacker(fuzzer.connect(), frame[: fuzzer.rng.randrange(1, len(frame))])


def silence(fuzzer: Fuzzer, author: Author) -> Iterable[Attacker]:
    """Connections that say nothing and hear nothing."""
    for _ in range(40):
        yield Attacker(fuzzer.connect(), listens=False)


def storm(fuzzer: Fuzzer, author: Author) -> Iterable[Attacker]:
    """Many come, and are gone at once."""
    for _ in range(200):
        ends = fuzzer.rng.choice(("finishes", "resets"))
        yield Attacker(fuzzer.connect(), fuzzer.rng.choice((b"\0", b"\0\0\x0f", author.stream())), ends=ends)


def deaf(fuzzer: Fuzzer, author: Author) -> Iterable[Attacker]:
    """They ask for much and take nothing of it."""
    for _ in range(5):
        talk = ["KEEP", author.login()] + ["WHO", f"SEND {author.name()} " + "x" * 1000] * 500
        yield Attacker(fuzzer.connect(), b"".join(map(encode, talk)), listens=False)


def flood(fuzzer: Fuzzer, author: Author) -> Iterable[Attacker]:
    """One sends as fast as it can, to somebody who may or may not be there."""
    talk = [author.login()] + [f"#{tag} SEND {author.name()} {tag}" for tag in range(1, 5000)]
    yield Attacker(fuzzer.connect(), b"".join(map(encode, talk)))


def guesses(fuzzer: Fuzzer, author: Author) -> Iterable[Attacker]:
    """Wrong passwords, also for the pair, from many addresses."""
    for _ in range(20):
        talk = [f"LOGIN {name} guess {author.rng.random()}" for name in ("alice", "bob", author.name(), "nobody")]
        yield Attacker(fuzzer.connect(), b"".join(map(encode, talk)), ends=author.rng.choice(("stays", "finishes")))


def returns(fuzzer: Fuzzer, author: Author) -> Iterable[Attacker]:
    """Sessions are taken up again with tokens that were told here, and numbers that were not."""
    for _ in range(10):
        token, number = author.rng.choice(author.tokens), author.rng.choice((0, 1, 2, 9, 2**40))
        talk = [f"RESUME {token} {number}", "#9 WHO", "ACK 3"]
        yield Attacker(fuzzer.connect(), b"".join(map(encode, talk)), ends=author.rng.choice(("stays", "resets")))


def one_name(fuzzer: Fuzzer, author: Author) -> Iterable[Attacker]:
    """Everybody is the same person."""
    name = author.name()
    for _ in range(20):
        verb = author.rng.choice(("LOGIN", "TAKEOVER"))
        talk = ["KEEP"] * author.rng.randrange(2) + [f"{verb} {name} {PASSWORD}", f"#1 SEND {name} me", "LOGOUT"]
        yield Attacker(fuzzer.connect(), b"".join(map(encode, talk[: author.rng.choice((2, 3, 4))])))


def bare(fuzzer: Fuzzer, author: Author) -> Iterable[Attacker]:
    """Beneath TLS: noise, half a handshake, plain frames."""
    for _ in range(20):
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + author.rng.randbytes(100)
        says = author.rng.choice((hello[: author.rng.randrange(1, 100)], author.rng.randbytes(300), author.stream()))
        yield Attacker(fuzzer.connect(bare=True), says)


Attack = Callable[["Fuzzer", Author], Iterable[Attacker]]
ATTACKS: tuple[Attack, ...] = (
    mutants, mutants, mutants, mutants, half_frames, silence, storm, deaf, flood, guesses, returns, one_name, bare,
)  # fmt: skip


# --- The rounds -------------------------------------------------------------------------------------------------------


class Fuzzer:
    """One attack from its beginning to its end. `run` it, then `report`."""

    def __init__(self, folder: Path, seed: int, code: Path = PROGRAM) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.crowd = Crowd()
        self.target = Target(folder, code)
        self.rounds = 0
        self.slowest = 0.0  # seconds that a message of the pair took

    def connect(self, *, bare: bool = False) -> socket.socket:
        """From one of a thousand addresses, so that not all of them share one limit; some of them encrypt."""
        secure = self.target.offers_tls and self.rng.random() < 0.5 and not bare
        return self.target.dial(f"127.0.{self.rng.randrange(1, 5)}.{self.rng.randrange(1, 255)}", secure)

    def run(self, enough: Callable[[], bool]) -> None:
        """Rounds until it is `enough`, then the end. FuzzError if the server has not borne it."""
        self.target.sample()
        for name in ACCOUNTS:
            self.target.visit(name)
        self.alice = self.target.honest("alice", secure=False)
        self.bob = self.target.honest("bob", secure=self.target.offers_tls, kept=True)
        try:
            while not enough():
                self.round()
            self.end()
        except (OSError, AssertionError):
            with contextlib.suppress(subprocess.TimeoutExpired):  # if it is about to end, that is the reason
                self.target.process.wait(1.0)
            self.target.check()
            raise

    def round(self) -> None:
        cycle, number = divmod(self.rounds, len(ATTACKS))
        self.rounds += 1
        self.rng = random.Random(f"{self.seed}/{self.rounds}")
        attack = random.Random(f"{self.seed}/cycle {cycle}").sample(ATTACKS, len(ATTACKS))[number]
        for attacker in attack(self, Author(self.rng, self.crowd.tokens)):
            self.crowd.add(attacker)
        self.crowd.moment()
        self.chat()
        self.crowd.thin(self.rng, CROWD_MAX)
        if number == len(ATTACKS) - 1:
            self.target.visit(f"new{cycle}")
            self.target.sample()
        self.target.check()

    def chat(self) -> None:
        """A message of the pair, and its confirmation."""
        began = clock()
        said = self.alice.says(f"#{self.rounds} SEND bob round {self.rounds}")
        heard = self.bob.hears()
        taken = clock() - began
        mine = [payload for payload in heard if f"MSG alice {self.rounds} " in payload]
        if len(mine) != 1 or taken > ROUND_TRIP_MAX:
            raise FuzzError(f"round {self.rounds}: bob heard {heard} after {taken:.1f} s, alice {said}")
        self.slowest = max(self.slowest, taken)
        self.bob.says("ACK " + mine[0].partition(" ")[0].removeprefix("@"))
        answers = said + self.alice.hears()
        if f"#{self.rounds} OK SEND" not in answers:
            raise FuzzError(f"round {self.rounds}: alice's message was not confirmed: {answers}")

    def end(self) -> None:
        """The crowd goes. What is left of it?"""
        self.crowd.thin(self.rng, 0)
        first = self.target.descriptors[0] + 2 if self.target.descriptors else 0  # and the pair
        deadline = clock() + GONE_WITHIN
        while clock() < deadline:
            time.sleep(LOOK)
            self.target.sample()
            self.alice.hears(), self.bob.hears()
            alone = self.alice.roster == self.bob.roster == {"alice", "bob"}
            if alone and (not first or self.target.descriptors[-1] <= first):
                break
        else:
            there, now = self.alice.roster, self.target.descriptors[-1:]
            raise FuzzError(f"the crowd has gone, but alice sees {there}; descriptors: {first} before, now {now}")
        self.target.check()
        check_memory(self.target.memory)
        self.target.stop()

    def report(self) -> str:
        """What was done and seen."""
        answers = ", ".join(f"{count:,} {answer}" for answer, count in self.crowd.answers.most_common())
        return "\n".join((
            f"seed {self.seed}, {self.rounds:,} rounds, {self.crowd.connections:,} connections",
            f"the slowest of the pair's messages took {self.slowest * 1000:.0f} ms",
            f"memory: at most {max(self.target.memory, default=0) / MIB:.0f} MiB",
            f"descriptors: at most {max(self.target.descriptors, default=0)}",
            f"heard: {answers}",
        ))  # fmt: skip

    def close(self) -> None:
        for attacker in list(self.crowd.members):
            self.crowd.remove(attacker)
        self.target.close()


# --- The command line -------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Attack a server of one's own, while a pair goes on chatting.")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="to see the same attacks again (default: a new one)")
    options = parser.parse_args(arguments)
    seed = random.randrange(10**9) if options.seed is None else options.seed
    end = clock() + options.minutes * 60
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder), seed)
        try:
            fuzzer.run(lambda: clock() >= end)
            verdict = ""
        except (AssertionError, OSError) as error:
            verdict = f"FAILED with seed {seed}: {error}"
        finally:
            fuzzer.close()
    print(fuzzer.report())
    print(verdict or "The server has borne it.")
    return 1 if verdict else 0


if __name__ == "__main__":
    sys.exit(main())
