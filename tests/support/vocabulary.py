"""The words in which the tests are written: a `World` with a hub, a disk and a clock in it, and its `People`.

    world = World()
    alice, bob = world.people("alice", "bob")
    alice.say("SEND bob hi")
    assert bob.hears() == ["MSG alice 0 2026-11-22T15:04:05.000Z hi"]

Nothing here waits: `says` and `hears` let the hub's turn happen at once, as the reactor would, and time passes only
by `world.wait(seconds)`. The disk is a dict that can be told to fail or to take its time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import protocol
from protocol import Account, Connection, DiskJob, FrameDecoder, Hub, Job, StorageFailedError, fold, frame, skeleton

WALL = 1795359845.0  # 2026-11-22T15:04:05.000Z
STAMP = "2026-11-22T15:04:05.000Z"
PASSWORD = "correct horse"
AT_ONCE = 0.001  # seconds: what is due so soon (presence among a few people) does not have to be waited for


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


class Person:
    """Somebody at the other end of a connection."""

    def __init__(self, world: World, connection: Connection) -> None:
        self.world = world
        self.connection = connection
        self.decoder = FrameDecoder(protocol.SERVER_FRAME_MAX)
        self.reading = True  # False: nothing is taken from the wire, as by a client that hangs
        self.lively = True  # answers a PING, and does not mention it; False: hears it and is silent
        self.gone = False  # whether the connection has ended, by whichever side
        self._heard: list[str] = []

    def say(self, *payloads: str | bytes) -> Person:
        """Send these frames, each in its own read."""
        for payload in payloads:
            data = payload.encode() if isinstance(payload, str) else payload
            self.world.hub.feed(self.connection, frame(data))
            self.world.turn()
        return self

    def hears(self) -> list[str]:
        """What has arrived since the last time."""
        self.world.turn()
        heard, self._heard = self._heard, []
        return heard

    def says(self, *payloads: str | bytes) -> list[str]:
        """Say this, and what is heard then."""
        self.hears()
        return self.say(*payloads).hears()

    def leave(self) -> None:
        """The connection breaks."""
        self.gone = True
        self.world.hub.disconnect(self.connection)
        self.world.turn()

    def take_in(self, data: bytes) -> None:
        self.decoder.feed(data)
        for payload in self.decoder.payloads():
            if payload == b"PING" and self.lively:
                self.world.replies.append(self)  # in a turn of its own, as over any wire
            else:
                self._heard.append(payload.decode())


def left_behind(hub: Hub) -> dict[str, object]:
    """Every list, table and queue of the hub and of its parts that has something in it. Limits may remember people."""
    tables: dict[str, object] = {}
    for part in (hub, hub._presence, hub._statuses, hub._checks, hub._walk):
        for name in type(part).__slots__:
            value = getattr(part, name)
            if isinstance(value, (list, dict, set, deque)) and value:
                tables[name] = value
    counts = {"held_bytes": hub.held_bytes, "checks": len(hub._checks), "connections": hub.connections}
    counts["statuses"] = not hub._statuses.is_empty
    return tables | {name: value for name, value in counts.items() if value}


class World:
    """A hub, its disk, its clock, and everybody who is connected."""

    def __init__(self, disk: Disk | None = None, **settings: Any) -> None:
        self.disk = disk or Disk()
        self.hub = Hub(**settings)
        self.now = 1000.0
        self.wall = WALL
        self.everybody: dict[Connection, Person] = {}
        self.working = True  # False: jobs wait in `hub.jobs`
        self.replies: list[Person] = []  # who will answer a PING in the next turn
        self.hub.wake(self.now, self.wall)
        self.hub.restore(self.disk.recover())
        self.turn()

    def connect(self, address: str = "10.0.0.1") -> Person:
        connection = self.hub.connect(address)
        person = self.everybody[connection] = Person(self, connection)
        self.turn()
        return person

    def person(self, name: str, kept: bool = False, address: str = "10.0.0.1") -> Person:
        """Somebody who has registered and logged in, and has heard everything so far."""
        key = fold(name)
        self.disk.accounts.setdefault(key, StoredAccount(name, key, "hash:" + PASSWORD))
        person = self.connect(address)
        person.say(*(["KEEP"] if kept else []), f"LOGIN {name} {PASSWORD}")
        person.hears()
        return person

    def people(self, *names: str, kept: bool = False) -> list[Person]:
        """Several of them, who know of each other."""
        people = [self.person(name, kept) for name in names]
        self.wait(1.0)
        for person in people:
            person.hears()
        return people

    def resume(self, token: str, seq: int) -> Person:
        return self.connect().say(f"RESUME {token} {seq}")

    def wait(self, seconds: float) -> None:
        """Time passes, with a turn for whatever becomes due on the way."""
        end = self.now + seconds
        while True:
            due = self.hub.next_deadline()
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
            self.now += 1e-6  # on a real clock, too, no two turns are at the same time
            hub.wake(self.now, self.wall)
            replies, self.replies = self.replies, []
            for person in replies:
                hub.feed(person.connection, frame(b"ACK 0"))
            self.tick()
            jobs, hub.jobs = (hub.jobs, []) if self.working else ([], hub.jobs)
            for job in jobs:
                hub.complete(job, self.disk.perform(job))
            ready, hub.ready = hub.ready, []
            for connection in ready:
                self._write(connection)
            closing, hub.closing = hub.closing, []
            for connection in closing:
                self._close(connection)
            due = hub.next_deadline()
            if due is not None and due < self.now + AT_ONCE:
                self.now = max(self.now, due)
            if not (jobs or ready or closing or self.replies) and (due is None or due > self.now or not self.working):
                return

    def tick(self) -> None:
        self.hub.tick(self.now, self.wall)

    def _write(self, connection: Connection) -> None:
        person = self.everybody.get(connection)
        if person is None or person.gone:
            return
        if person.reading:
            person.take_in(self.hub.take(connection))
        elif not connection.unsent:
            self.hub.sent(connection, len(self.hub.take(connection)))

    def _close(self, connection: Connection) -> None:
        person = self.everybody.get(connection)
        if person is not None and not person.gone:
            self._write(connection)
            person.gone = True
        self.hub.disconnect(connection)

    def restart(self, **settings: Any) -> World:
        """The server is killed and started again: only the disk remains."""
        return World(self.disk, **settings)
