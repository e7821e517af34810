"""The words in which the tests are written: a `World` with a hub, a disk and a clock in it, and its `Person`s.

    world = World()
    alice, bob = world.people("alice", "bob")
    alice.say("SEND bob hi")
    assert bob.hears() == ["MSG alice 0 2026-11-22T15:04:05.000Z hi"]

Nothing here waits: `says` and `hears` let the hub's turn happen at once, as the reactor would, and time passes only
by `world.wait(seconds)`. The disk is a dict that can be told to fail or to take its time.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings

import protocol
from protocol import Account, Connection, DiskJob, FrameDecoder, Hub, Job, StorageFailedError, fold, frame, skeleton

WALL = 1795359845.0  # 2026-11-22T15:04:05.000Z
STAMP = "2026-11-22T15:04:05.000Z"
PASSWORD = "correct horse"
END = "(end)"  # what is heard when the connection has ended
IDLE = 0.1  # seconds between the turns of a hub whose workers do nothing
AT_ONCE = 0.001  # seconds: what is due so soon (presence among a few people) does not have to be waited for


def examples(number: int) -> settings:
    """So many examples of a costly property; a tenth of them in the short form (see `tests/conftest.py`).

    On a busy machine they may be drawn slowly, which is no fault of theirs.
    """
    default = settings.default
    assert default is not None
    return settings(
        max_examples=max(1, number * default.max_examples // 100), suppress_health_check=[HealthCheck.too_slow]
    )


def bodies(heard: list[str]) -> list[str]:
    """Messages without their stamps, so that a test can name them."""
    return [re.sub(r" 20[\d-]+T[\d:.]+Z", "", line) for line in heard]


@dataclass
class StoredAccount:
    """A row of the table `users`, as far as the hub looks at it."""

    username: str
    key: str
    password: str
    status: str = "offline"
    last_login: float | None = None
    failures: int = 0
    token: str | None = None

    def read(self) -> Account:
        return Account(self.username, self.key, self.password, self.status, self.last_login, self.failures)


class Disk:
    """What the workers do, done at once: the methods of `storage.Store` on a dict, and the two functions that hash.

    `failing` makes every job of the disk fail.
    """

    def __init__(self) -> None:
        self.accounts: dict[str, StoredAccount] = {}
        self.failing = False
        self.tokens = 0
        self.clock_steps: list[float] = []  # the times that it was before each
        self.writes = 0  # how often the statuses of some people were recorded

    def perform(self, job: Job) -> object:
        if self.failing and isinstance(job, DiskJob):
            return StorageFailedError()
        return getattr(self, job.method)(*job.arguments)

    def hash_password(self, password: str) -> str:
        return "hash:" + password

    def check_password(self, password: str, stored: str | None) -> tuple[bool, str | None]:
        return stored == "hash:" + password, None

    def find(self, key: str) -> Account | None:
        account = self.accounts.get(key)
        return account.read() if account else None

    def find_token(self, token: str, now: float) -> Account | None:
        return next((account.read() for account in self.accounts.values() if account.token == token), None)

    def add(self, username: str, key: str, password_hash: str, now: float) -> bool:
        if skeleton(username) in {skeleton(account.username) for account in self.accounts.values()}:
            return False
        self.accounts[key] = StoredAccount(username, key, password_hash)
        return True

    def log_in(self, key: str, checked: str, better: str | None, kept: bool, now: float) -> str | None:
        if not self.change_password(key, checked, better or checked):
            return None
        account = self.accounts[key]
        self.tokens += kept
        account.token = f"token{self.tokens}" if kept else None
        account.status, account.failures, account.last_login = "online", 0, now
        return account.token or ""

    def record_failure(self, key: str, now: float) -> None:
        if key in self.accounts:
            self.accounts[key].failures += 1

    def record_logout(self, key: str, now: float) -> None:
        if key in self.accounts:
            self.accounts[key].status, self.accounts[key].token = "offline", None

    def record_statuses(self, statuses: dict[str, str], now: float) -> list[str]:
        self.writes += 1
        known = [self.accounts[key] for key in statuses if key in self.accounts]
        for account in known:
            account.status = statuses[account.key]
        return [key for key in statuses if key not in self.accounts or self.accounts[key].token is None]

    def record_clock_step(self, before: float, now: float) -> None:
        self.clock_steps.append(before)

    def change_password(self, key: str, checked: str, password_hash: str) -> bool:
        account = self.accounts.get(key)
        if account is None or account.password != checked:
            return False
        account.password = password_hash
        return True

    def recover(self) -> list[Account]:
        """What a start finds: those who were there and have a token are lost, everybody else is offline."""
        for account in self.accounts.values():
            if account.status != "offline":
                account.status = "lost" if account.token else "offline"
        return [account.read() for account in self.accounts.values() if account.status == "lost"]


class Somebody:
    """Somebody at the other end of a connection, who keeps the roster that he was told, as a client would.

    A `Person` is connected to the hub of a `World`, a `Peer` (in `wire`) to a server by a socket. They have the same
    words, so that a dialogue can be had with either.
    """

    def __init__(self) -> None:
        self.lively = True  # answers PING with ACK; else it is heard like any other frame
        self.reading = True  # False: takes nothing from the connection, as a client that hangs
        self.roster: set[str] | None = None
        self.presence: list[str] = []  # the ONLINE and PRESENCE frames, as they came
        self.token = ""
        self.ended = False
        self._frames: list[str] = []  # that have come, and were not heard yet

    # Saying

    def say(self, *payloads: str | bytes) -> Somebody:
        raise NotImplementedError

    def say_bytes(self, data: bytes) -> Somebody:
        raise NotImplementedError

    def says(self, *payloads: str | bytes) -> list[str]:
        """Say this; what is heard then."""
        return self.say(*payloads).hears()

    def enter(self, name: str, kept: bool = False) -> None:
        """Register, unless there is such an account, and log in; all that belongs to it is heard."""
        answers = self.says(f"REGISTER {name} {PASSWORD}", *["KEEP"] * kept, f"LOGIN {name} {PASSWORD}")
        assert answers[-1].startswith(f"OK LOGIN {name}"), answers
        self.token = answers[-1].partition("token=")[2].partition(" ")[0]

    # Leaving

    def close(self) -> None:
        """The connection is closed as it should be."""
        raise NotImplementedError

    def finish(self) -> None:
        """Nothing more will be said."""
        raise NotImplementedError

    def reset(self) -> None:
        """The connection breaks, what was on its way is lost."""
        raise NotImplementedError

    # Hearing

    def hears(self) -> list[str]:
        """What has come since the last time. Presence goes to `roster` and `presence`."""
        raise NotImplementedError

    def _wait(self) -> None:
        """Until something has come."""
        raise NotImplementedError

    def _linger(self) -> None:
        """Give the server a moment."""

    def next(self, count: int = 1) -> list[str]:
        """The next frames, all of them and verbatim; fewer if the connection ends before."""
        while len(self._frames) < count and not self.ended:
            self._wait()
        heard, self._frames = self._frames[:count], self._frames[count:]
        return heard + [END] * (self.ended and len(heard) < count)

    def ends(self) -> list[str]:
        """What comes until the connection ends."""
        heard: list[str] = []
        while END not in heard:
            heard += self.without_presence(self.next())
        return heard

    def sees(self, *names: str) -> bool:
        """Whether the roster becomes this one: `bob`, `~bob`."""
        for _ in range(5_000):  # presence is collected and spread, and a client may take a second to leave
            if self.roster == set(names):
                return True
            assert self.hears() == [], "presence was asked for, something else came"
            self._linger()
        return False

    def news(self) -> list[str]:
        """The ONLINE and PRESENCE frames since the last time, as they came."""
        self._frames[:0] = [payload for payload in self.hears() if payload != END]
        news, self.presence = self.presence, []
        return news

    def without_presence(self, payloads: list[str]) -> list[str]:
        return [payload for payload in payloads if not self._note_presence(payload)]

    def _note_presence(self, payload: str) -> bool:
        verb, _, rest = payload.partition(" ")
        if verb == "ONLINE":
            self.roster = set(rest.split(" "))
        elif verb == "PRESENCE":
            assert self.roster is not None, "PRESENCE came before ONLINE"
            for word in rest.split(" "):
                name = word[1:]
                self.roster -= {name, "~" + name}
                self.roster |= {"+": {name}, "~": {word}, "-": set()}[word[0]]
        else:
            return False
        self.presence.append(payload)
        return True


Anybody = TypeVar("Anybody", bound=Somebody)


def acquainted(people: list[Anybody], *names: str) -> list[Anybody]:
    """These people, once each of them sees who is here."""
    for person in people:
        assert person.sees(*names)
    return people


class Person(Somebody):
    """Somebody who is connected to the hub of a world."""

    def __init__(self, world: World, connection: Connection) -> None:
        super().__init__()
        self.world = world
        self.connection = connection
        self.left_over = b""  # written for somebody who does not read
        self.is_closed = False  # at the hub's end
        self._decoder = FrameDecoder(protocol.SERVER_FRAME_MAX)

    def say(self, *payloads: str | bytes) -> Person:
        """Send these frames, each in its own read."""
        for payload in payloads:
            self.say_bytes(frame(payload.encode() if isinstance(payload, str) else payload))
        return self

    def say_bytes(self, data: bytes) -> Person:
        self.world.hub.feed(self.connection, data)
        self.world.turn()
        return self

    def hears(self) -> list[str]:
        self.world.turn()
        heard, self._frames = self._frames, []
        return self.without_presence(heard) + [END] * self.ended

    def _wait(self) -> None:
        before = len(self._frames)
        self.world.turn()
        assert self.ended or len(self._frames) > before, "nothing came"

    def _linger(self) -> None:
        self.world.now += 0.01  # too little to be seen on the wall clock

    def leave(self) -> None:
        """The connection breaks."""
        self.ended = self.is_closed = True
        self.left_over = b""
        self.world.stuck.pop(self, None)
        self.world.hub.disconnect(self.connection)
        self.world.turn()

    close = finish = reset = leave  # the hub is told the same of all of them

    def take_in(self, data: bytes) -> None:
        self._decoder.feed(data)
        for payload in self._decoder.payloads():
            if payload == b"PING" and self.lively:
                self.world.replies.append(self)  # in a turn of its own, as over any wire
            else:
                self._frames.append(payload.decode())


def left_behind(hub: Hub) -> dict[str, object]:
    """Every list, table and queue of the hub and of its parts that has something in it. Limits may remember people."""
    tables: dict[str, object] = {}
    for part in (hub, hub._presence, hub._statuses, hub._checks, hub._walk, hub._post):
        for name in (*getattr(part, "__slots__", ()), *getattr(part, "__dict__", ())):
            value = getattr(part, name)
            if isinstance(value, (list, dict, set, deque)) and value:
                tables[name] = value
    counts = {"held_bytes": hub._post.held_bytes, "checks": len(hub._checks), "connections": hub.connections}
    counts |= {"statuses": hub._statuses._job is not None, "spread": bool(hub._spread.waiting)}
    return tables | {name: value for name, value in counts.items() if value}


class World:
    """A hub, its disk, its clock, and everybody who is connected."""

    address = "10.0.0.1"  # of everybody, if nothing else is said

    def __init__(self, disk: Disk | None = None, **settings: Any) -> None:
        self.disk = disk or Disk()
        self.hub = Hub(**settings)
        self.now = 1000.0
        self.wall = WALL
        self.everybody: dict[Connection, Person] = {}
        self.working = True  # False: jobs wait in `hub.jobs`
        self.replies: list[Person] = []  # those who will answer a PING in the next turn
        self.stuck: dict[Person, None] = {}  # those for whom something is left over
        self.hub.wake(self.now, self.wall)
        self.hub.restore(self.disk.recover())
        self.turn()

    def connect(self, address: str = address) -> Person:
        connection = self.hub.connect(address)
        person = self.everybody[connection] = Person(self, connection)
        self.turn()
        return person

    def person(self, name: str, kept: bool = False, address: str = address) -> Person:
        """Somebody who has registered and logged in, and has heard everything so far."""
        key = fold(name)
        self.disk.accounts.setdefault(key, StoredAccount(name, key, "hash:" + PASSWORD))
        person = self.connect(address)
        answers = person.says(*["KEEP"] * kept, f"LOGIN {name} {PASSWORD}")
        person.token = answers[-1].partition("token=")[2].partition(" ")[0] if answers else ""
        return person

    def slow_reader(self, name: str, kept: bool = False) -> Person:
        """Somebody who, once logged in, takes nothing."""
        person = self.person(name, kept)
        person.reading = False
        return person

    def people(self, *names: str, kept: bool = False) -> list[Person]:
        """Several of them, who know of each other."""
        return acquainted([self.person(name, kept) for name in names], *names)

    def resume(self, token: str, seq: int) -> Person:
        return self.connect().say(f"RESUME {token} {seq}")

    def wait(self, seconds: float) -> None:
        """Time passes, with a turn for whatever becomes due on the way."""
        end = self.now + seconds
        while True:
            due = self.hub.next_deadline()
            if due is not None and not self.working:
                due = max(due, self.now + IDLE)  # for jobs that wait another turn is due at once
            if due is None or due > end:
                break
            self.wall += max(0.0, due - self.now)
            self.now = max(self.now, due)
            self.turn()
        self.wall += end - self.now
        self.now = end
        self.turn()

    def turn(self) -> None:
        """Turns of the loop until nothing more happens by itself."""
        hub = self.hub
        while True:
            self.begin_turn()
            for person in [person for person in self.stuck if person.reading]:
                self.drain(person)
            replies, self.replies = self.replies, []
            for person in replies:
                hub.feed(person.connection, frame(b"ACK 0"))
            self.tick()
            jobs = self.do_jobs() if self.working else []
            ready = self.write_ready()
            closing, hub.closing = hub.closing, []
            for connection in closing:
                self._close(connection)
            due = hub.next_deadline()
            if due is not None and due < self.now + AT_ONCE:
                self.now = max(self.now, due)
            if not (jobs or ready or closing or self.replies) and (due is None or due > self.now or not self.working):
                return

    # A turn by hand, for what is about a single one

    def begin_turn(self, after: float = 1e-6) -> None:
        """On a real clock, too, no two turns are at the same time."""
        self.now += after
        self.hub.wake(self.now, self.wall)

    def by_one_turn(self) -> None:
        """One turn of the loop and no more; jobs wait."""
        self.begin_turn()
        self.tick()
        self.write_ready()

    def write_ready(self) -> list[Connection]:
        ready, self.hub.ready = self.hub.ready, []
        for connection in ready:
            self._write(connection)
        return ready

    def do_jobs(self) -> list[Job]:
        """The workers do what they were given so far."""
        jobs, self.hub.jobs = self.hub.jobs, []
        for job in jobs:
            self.hub.complete(job, self.disk.perform(job))
        return jobs

    def do_next_job(self) -> Job:
        job = self.hub.jobs.pop(0)
        self.hub.complete(job, self.disk.perform(job))
        return job

    @contextmanager
    def changed_before(self, method: str, change: Callable[[Disk], object]) -> Iterator[None]:
        """While the command that is said in here is under way, somebody changes the disk, before a call of `method`."""
        self.working = False
        yield
        self.work_up_to(method)
        change(self.disk)
        self.working = True

    def work_up_to(self, method: str) -> None:
        """The workers do what they were given, and stop before the first call of this method."""
        while self.hub.jobs[0].method != method:
            self.do_next_job()

    def tick(self) -> None:
        self.hub.tick()

    def _write(self, connection: Connection) -> None:
        """Somebody who reads takes all that is written for him, any other nothing."""
        person = self.everybody.get(connection)
        if person is None or person.ended or person.left_over:
            return
        data = self.hub.take(connection)
        if person.reading:
            person.take_in(data)
        elif data:
            person.left_over = data
            self.stuck[person] = None
            self.hub.sent(connection, len(data))

    def drain(self, person: Person, share: float = 1.0) -> None:
        """Somebody takes so much of what was left over."""
        count = len(person.left_over) - int(len(person.left_over) * (1 - share))
        data, person.left_over = person.left_over[:count], person.left_over[count:]
        if not person.left_over:
            self.stuck.pop(person, None)  # not there if it was closed meanwhile
        person.take_in(data)
        if person.is_closed:
            person.ended = not person.left_over
        else:
            self.hub.sent(person.connection, len(person.left_over))
            if not person.left_over and person.connection.outbox:
                self.hub.ready.append(person.connection)

    def _close(self, connection: Connection) -> None:
        person = self.everybody.get(connection)
        if person is not None and not person.ended:
            self._write(connection)
            person.left_over += self.hub.take(connection)
            person.is_closed, person.ended = True, not person.left_over
        self.hub.disconnect(connection)

    def stop(self) -> None:
        """The server is told to stop, and runs to its end."""
        self.hub.shutdown()
        self.turn()

    def set_clock(self, seconds: float) -> None:
        """Somebody sets the clock on the wall."""
        self.wall += seconds

    def statuses(self) -> dict[str, str]:
        """What is on disk."""
        return {account.username: account.status for account in self.disk.accounts.values()}

    def restart(self, **settings: Any) -> World:
        """The server is killed and started again: only the disk remains."""
        return World(self.disk, **settings)
