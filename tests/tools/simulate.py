"""A whole chat in one process: the real server, real client sessions, and everything between them that goes wrong.

    python tests/tools/simulate.py --minutes 10            as many worlds as fit into that time
    python tests/tools/simulate.py --seed 4711 --trace     one world again, with what happened in it

How it works
    A `World` has a server, people and a clock of its own. Between them are links that deliver in any chunks, stall,
    break at any byte and do not tell; the server is killed, stopped and suspended, its disk fails and is slow;
    programs crash, freeze and log in twice. All of it comes out of one seed, so a failure can be repeated.

    After some hundreds of such steps all goes well again for a few minutes. Then everything must be answered,
    everybody must know who is there, and in the end nothing may be left behind.

What is checked (the numbers are those of the guarantees)
    while it goes on  what was told OK has been shown (6), by each whom a message to several counts as shown (14); such
                      a message is told to those who were here, and to them as the same one (14); nothing is shown or
                      queued twice (7); the messages of one program to another come in order, and so in the same one
                      to all; what was refused is never shown (6); frames are numbered
                      without a hole, and repeated word for word (4); no tag is answered twice (6); answers come in
                      order; a session and its connection know each other, one session a name, and only a TAKEOVER
                      replaces it (2); a kept session lives until it logs out or was lost for the grace time (4);
                      a good token is not refused (5); what is queued is bounded (10); who was there is there after a
                      restart, and so it stands on disk all the time (8); nobody is given up who is well (11)
    in peace          the rosters and the disk follow every change within seconds (8, 12)
    at the end        each tagged SEND has its one fate (6); nothing hangs; all are logged in, with the token on disk
                      (5); when all have left the hub is empty (10)

Reading order
    1. `Link`.   2. `Server` with its workers.   3. `Program`s: `Chat` (a ClientSession), `Script` (simple, plain or
    rude), `Stranger`.   4. `Tap` and `Ledger`, which check.   5. `World`, and the table of what can happen in it.
"""

from __future__ import annotations

import argparse
import random
import re
import selectors
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any, NoReturn
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests" / "support"))

from vocabulary import PASSWORD, WALL, Disk, left_behind

import protocol
import vessages
from protocol import EVERYBODY, ClientSession, Connection, FrameDecoder, Hub, Job, Session, fold, frame

FOREVER = float("inf")
READ_SIZE = 64 * 1024
QUIET = 330.0  # seconds of peace: silence is noticed (45), back-off (30), throttled logins (60), grace (60), all twice
PATIENCE = 4.0  # seconds after which everybody should know what has happened, and the disk too
SCRIPT_PATIENCE = 70.0  # seconds without a frame until a script takes the server for dead
TURNS_MAX = 20_000  # at one moment; more is a loop that feeds itself

# In a tight world the limits are so small that they are reached all the time.
TIGHT: dict[str, Any] = {"QUEUE_FRAMES": 24, "QUEUE_BYTES": 40_000, "ASK_FRAMES": 12, "ASK_BYTES": 20_000,
         "HELD_FRAMES_MAX": 80, "BACKLOG_MAX": 2_000, "FRAMES_A_TURN": 3, "PRESENCE_SLICE": 1,
         "PRESENCE_PAUSE": 0.05, "SENDS_UNDER_WAY": 8, "QUEUE_MAX": 50, "CHECKS_AT_ONCE": 1, "SPREAD_SLICE": 2,
         "SPREAD_BYTES": 20_000, "TO_ALL": (4, 1.0), "LISTED": (20, 0.2)}  # fmt: skip
NAMES = ("alice", "Bob", "Мария", "eve.x", "たろう")
STRANGE = (b"", b"\0\0", b"\0\0\0\0", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\5ab", frame(b"\xff") * 4, frame(b"PING x"),
           frame(b"LOGIN alice wrong"), frame(b"#1 RESUME x 0"))  # fmt: skip
PARSED = re.compile(r"(?:@(\d+) )?(?:#(\d+) )?([A-Z]+)(?: (.*))?", re.DOTALL)


class Violation(AssertionError):  # noqa: N818 (it is what pytest shows)
    """A guarantee was broken."""


# --- Links ----------------------------------------------------------------------------------------------------------


class End:
    """One end of a link: what is on its way to it, and from when on it can know that no more will come."""

    __slots__ = ("inbox", "over_at", "swallowed")

    def __init__(self) -> None:
        self.inbox = bytearray()
        self.over_at = FOREVER
        self.swallowed = 0  # bytes that were written towards it and will never arrive


class Link:
    """A connection with the systems at both ends, and no more reliable than those are."""

    __slots__ = ("address", "broken", "client", "faultless", "room", "server", "stalled_until")

    def __init__(self, address: str, room: int) -> None:
        self.address = address
        self.room = room  # bytes that may be on their way in one direction
        self.server, self.client = End(), End()
        self.stalled_until = 0.0
        self.broken = False
        self.faultless = True

    def write(self, to: End, data: bytes | bytearray) -> int:
        """Hand over bytes; how many were taken."""
        count = max(0, min(len(data), self.room - len(to.inbox) - to.swallowed))
        if self.broken:
            to.swallowed += count
        else:
            to.inbox += data[:count]
        return count

    def read(self, end: End, most: int, now: float) -> bytes | None:
        """What has arrived, b"" at the end of it all, None if there is nothing to read."""
        if self.due(end, now) > now:
            return None
        data = bytes(end.inbox[:most])
        del end.inbox[:most]
        return data

    def due(self, end: End, now: float) -> float:
        """When there will be something to read."""
        return max(self.stalled_until, now if end.inbox else end.over_at)

    def has_room(self, to: End) -> bool:
        return len(to.inbox) + to.swallowed < self.room

    def close(self, by: End, now: float, keep: float = 1.0) -> None:
        """One end is closed; `keep`: how much of what it had written still arrives, 0 to 1."""
        other = self.client if by is self.server else self.server
        del other.inbox[int(len(other.inbox) * keep) :]
        if not self.broken:
            other.over_at = min(other.over_at, now)
        self.broken = True

    def cut(self, chance: random.Random, told: tuple[float, float]) -> None:
        """It breaks, at any byte; `told`: when the server's and the client's end learn of it."""
        self.broken, self.faultless = True, False
        for end, when in zip((self.server, self.client), told, strict=True):
            del end.inbox[chance.randint(0, len(end.inbox)) :]
            end.over_at = min(end.over_at, when)


# --- The server -----------------------------------------------------------------------------------------------------


class WatchedHub(Hub):
    """The hub, with a ledger that is told about every SEND that it judges, and times in which it hands out nothing."""

    ledger: Ledger
    world: World

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._spread = WatchedSpread(self.sessions, self._clock, self._post)
        self._spread.hub = self

    def judge(self, to: str, text: str) -> Message:
        return self.ledger.judged(to, text, {key: session.name for key, session in self.sessions.items()})

    def _send(self, connection: Connection, tag: str, rest: str, sender: Session | None = None) -> Any:
        """The rest of a list that is for one."""
        self.judge(*rest.split(" ", 1))
        return super()._send(connection, tag, rest, sender)

    def _hand_out(self) -> None:
        """Of messages to several; with thousands of people it takes a while."""
        if self.world.now >= self.world.handing_from:
            super()._hand_out()

    def next_deadline(self) -> float | None:
        waiting = self._spread.waiting
        if not waiting or self.world.now >= self.world.handing_from:
            return super().next_deadline()
        self._spread.waiting = []
        due = super().next_deadline()
        self._spread.waiting = waiting
        return min(FOREVER if due is None else due, self.world.handing_from)


class WatchedSpread(protocol.Spread):
    hub: WatchedHub

    def to_list(self, sender: Session, tag: str, listed: dict[str, str], text: str) -> protocol.Steps:
        self.hub.judge(",".join(listed.values()), text)
        return super().to_list(sender, tag, listed, text)


SEND = protocol.METHODS[True]["SEND"]


def watched_send(hub: Hub, connection: Connection, tag: str, rest: str) -> str | protocol.Steps | None:
    """In the hub's table instead of SEND. A list is judged when its names are read, which has to wait for its turn."""
    to, _, text = rest.partition(" ")
    if not isinstance(hub, WatchedHub) or "," in to:
        return SEND(hub, connection, tag, rest)
    message = hub.judge(to, text)
    answer = SEND(hub, connection, tag, rest)  # unless it is refused
    message.is_for_all = message.to == EVERYBODY
    return answer


class Socket:
    """The server's end of a link, with the methods that `vessages.Server` calls."""

    def __init__(self, server: Server, link: Link) -> None:
        self.server = server
        self.world = server.world
        self.link = link

    def setblocking(self, flag: bool) -> None: ...

    def setsockopt(self, *option: int) -> None: ...

    def fileno(self) -> int:
        return 0

    def recv(self, size: int) -> bytes:
        data = self.link.read(self.link.server, self.world.chunk(size), self.world.now)
        if data is None:
            raise BlockingIOError
        return data

    def send(self, data: bytes) -> int:
        count = self.link.write(self.link.client, bytes(data))
        if not count:
            raise BlockingIOError
        return count

    def shutdown(self, how: int) -> None:
        self.link.client.over_at = min(self.link.client.over_at, FOREVER if self.link.broken else self.world.now)

    def close(self) -> None:
        self.server.sockets.pop(self, None)
        self.link.close(self.link.server, self.world.now)

    def due(self, events: int, now: float) -> float:
        """When it will be ready for one of these events."""
        if events & EVENT_WRITE and self.link.has_room(self.link.client):
            return now
        return self.link.due(self.link.server, now) if events & EVENT_READ else FOREVER


class Listener:
    """Where links arrive."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def accept(self) -> tuple[Socket, tuple[str, int]]:
        if not self.server.arrivals:
            raise BlockingIOError
        sock = Socket(self.server, self.server.arrivals.popleft())
        self.server.sockets[sock] = None
        return sock, (sock.link.address, 0)

    def close(self) -> None: ...

    def due(self, events: int, now: float) -> float:
        return now if self.server.arrivals else FOREVER


class Waker:
    """It can be heard at once."""

    def __init__(self) -> None:
        self.receiver = self
        self.is_awake = False

    def wake(self) -> None:
        self.is_awake = True

    def clear(self) -> None:
        self.is_awake = False

    def close(self) -> None: ...

    def due(self, events: int, now: float) -> float:
        return now if self.is_awake else FOREVER


class Selector(selectors.BaseSelector):
    """Over sockets, listeners and wakers of these kinds; it tells what is ready in any order, and never waits."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        self.keys[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)
        return self.keys[fileobj]

    modify = register

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self.keys.pop(fileobj)

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        return self.keys

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        now, ready = self.world.now, []
        for key in self.keys.values():
            mask = sum(event for event in (EVENT_READ, EVENT_WRITE) if self._due(key, key.events & event) <= now)
            if mask:
                ready.append((key, mask))
        self.world.chance.shuffle(ready)
        return ready

    def _due(self, key: selectors.SelectorKey, events: int) -> float:
        return float(key.fileobj.due(events, self.world.now)) if events else FOREVER  # type: ignore[union-attr]

    def due(self) -> float:
        """When one of them will be ready."""
        return min((self._due(key, key.events) for key in self.keys.values()), default=FOREVER)


class Worker:
    """A thread of the server: it does its jobs in their order, and takes its time."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.jobs: deque[tuple[float, Job]] = deque()

    def put(self, job: Job) -> None:
        world = self.server.world
        begin = self.jobs[-1][0] if self.jobs else world.now
        self.jobs.append((begin + world.chance.choice(world.work_takes), job))

    def due(self, now: float) -> float:
        return max(self.jobs[0][0], self.server.frozen_until) if self.jobs else FOREVER

    def turn(self, now: float) -> None:
        _, job = self.jobs.popleft()
        self.server.results.append((job, self.server.world.disk.perform(job)))
        self.server.reactor.waker.wake()


class Workers:
    """Both of them, in the place of those of `vessages.Server`."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def put(self, job: Job) -> None:
        (self.server.hasher if isinstance(job, protocol.HashJob) else self.server.disk).put(job)

    def take_results(self) -> Iterator[tuple[Job, object]]:
        while self.server.results:
            job, result = self.server.results.popleft()
            if job.method == "log_in" and job.flow is not None and job.flow.connection.closed:
                self.server.lost_answers.add(job.arguments[0])
            yield job, result

    def finish(self) -> bool:
        """The end of an orderly stop: they do what they were given."""
        for worker in (self.server.hasher, self.server.disk):
            while worker.jobs:
                worker.turn(self.server.world.now)
        return True


class Server:
    """A process with the real `vessages.Server`, on simulated links and with workers whose time is the world's."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sockets: dict[Socket, None] = {}  # open ones; in order, so that a story can be repeated
        self.arrivals: deque[Link] = deque()
        self.results: deque[tuple[Job, object]] = deque()
        self.hasher, self.disk = Worker(self), Worker(self)
        self.lost_answers: set[str] = set()  # whose login was on disk when its connection was gone
        self.frozen_until = 0.0
        self.is_stopping = False
        self.hub = WatchedHub(grace=world.grace, connections_max=world.connections_max)
        self.hub.ledger, self.hub.world = world.ledger, world
        self.selector = Selector(world)
        listeners: Any = [Listener(self)]
        with mock.patch.multiple(vessages, Waker=Waker, Workers=lambda *_: Workers(self)):
            self.reactor = vessages.Server(
                self.hub, world.disk, listeners, selector=self.selector,  # type: ignore[arg-type]
                clock=lambda: world.now, wall=lambda: world.wall, log=self._log, verbose=True,
            )  # fmt: skip
        self.hub.restore(world.disk.recover())
        self.deadline = world.now
        world.began = world.now

    def _log(self, *lines: str) -> None:
        if "internal error" in lines[0]:
            raise Violation("\n".join(lines))
        if " disconnected: " in lines[0]:
            self.world.reached["closed: " + lines[0].rpartition(": ")[2]] += 1

    def due(self, now: float) -> float:
        return max(self.frozen_until, min(self.deadline, self.selector.due()))

    def turn(self, now: float) -> None:
        self.reactor.turn()
        self.world.reached["turns that left a message to several under way"] += bool(self.hub._spread.waiting)
        self.deadline = now + self.reactor._patience()
        if self.reactor.finished:
            self.world.server_stopped()

    def links(self) -> list[Link]:
        """Those that it has, and those that it has not accepted yet."""
        return [*(sock.link for sock in self.sockets), *self.arrivals]

    def stop(self) -> None:
        """SIGTERM."""
        self.is_stopping = True
        self.reactor.stop()


# --- Programs -------------------------------------------------------------------------------------------------------


class Person:
    """Somebody with a name, and the programs that run under it."""

    def __init__(self, name: str, mixed: bool) -> None:
        self.name = name
        self.key = fold(name)
        self.mixed = mixed  # also uses scripts, which are plain or never ACK; else only clients that ACK
        self.programs: list[Program] = []
        self.takeovers = 0  # how often TAKEOVER was sent
        self.replaced = 0  # how often BYE replaced was heard


class Program:
    """A process at the other end of a link. It dials again when the link is lost."""

    def __init__(self, world: World, person: Person | None, address: str) -> None:
        self.world = world
        self.person = person
        self.address = address
        self.serial = world.serial = world.serial + 1
        self.link: Link | None = None
        self.unsent = bytearray()
        self.dial_at = world.now
        self.attempts = 0
        self.frozen_until = 0.0
        self.ended = False
        self.logins = 0  # sessions that were begun with the password
        self.last_shown: dict[int, int] = {}  # program -> the number of the last message of its that was shown
        if person is not None:
            person.programs.append(self)
        world.programs.append(self)

    def due(self, now: float) -> float:
        """When it next has something to do."""
        when = self.has_plans()
        if self.link is None:
            when = min(when, self.dial_at)
        else:
            when = min(when, self.link.due(self.link.client, now))
            if self.unsent and self.link.has_room(self.link.server):
                when = now
        return max(self.frozen_until, when)

    def turn(self, now: float) -> None:
        if self.link is not None:
            data = self.link.read(self.link.client, self.world.chunk(READ_SIZE), now)
            if data:
                self.hear(data)
            elif data is not None:
                self.lose()
        elif now >= self.dial_at:
            self._dial()
        self.act(now)
        if self.link is not None and self.unsent:
            del self.unsent[: self.link.write(self.link.server, self.unsent)]

    def _dial(self) -> None:
        self.link = self.world.dial(self.address)
        if self.link is None:
            self._dial_later()
        else:
            self.world.reached["links"] += 1
            self.linked()

    def _dial_later(self) -> None:
        self.attempts += 1
        self.dial_at = self.world.now + min(30.0, 2.0**self.attempts) * self.world.chance.uniform(0.25, 0.5)

    def lose(self) -> None:
        """The link is over, or this program has had enough of it."""
        if self.link is not None:
            self.link.close(self.link.client, self.world.now)
            self.link = None
            self.unsent.clear()
            self._dial_later()
            self.unlinked()

    def end(self, told: bool = True) -> None:
        """The process is gone; `told`: its system tells the other end."""
        if self.ended:
            return
        self.ended = True
        if self.link is not None:
            if told:
                self.link.close(self.link.client, self.world.now, self.world.chance.random())
            else:
                self.link.cut(self.world.chance, (FOREVER, FOREVER))
        self.world.programs.remove(self)
        if self.person is not None:
            self.person.programs.remove(self)

    def __str__(self) -> str:
        return f"program {self.serial} of {self.person.name if self.person else 'a stranger'}"

    def note(self, what: str) -> None:
        self.world.note(f"{self} {what}")

    def fail(self, what: str) -> NoReturn:
        raise Violation(f"{self}: {what}")

    # What the kinds of programs do

    def has_plans(self) -> float:
        """When it wants a turn although nothing happens."""
        return FOREVER

    def linked(self) -> None: ...

    def unlinked(self) -> None: ...

    def hear(self, data: bytes) -> None: ...

    def act(self, now: float) -> None: ...

    def talk(self) -> None:
        """Say something."""


class Member(Program):
    """A program of a person who has, or will have, an account."""

    person: Person

    def __init__(self, world: World, person: Person) -> None:
        super().__init__(world, person, f"10.0.0.{1 + world.people.index(person)}")
        self.login_at = FOREVER
        self.said = 0
        self.leaving = False

    def password(self) -> str:
        """Somebody who has forgotten which password was the last looks it up."""
        account = self.world.disk.accounts.get(self.person.key)
        return account.password.removeprefix("hash:") if account else PASSWORD

    def token_on_disk(self) -> str | None:
        account = self.world.disk.accounts.get(self.person.key)
        return account.token if account else None

    def next_text(self) -> str:
        """A text with a number of its own, of any length."""
        self.said += 1
        padding = self.world.chance.choice(("", "", "", " with a few words", "\nanother line " * 40, "x" * 9_000))
        return f"m{self.serial}.{self.said}{padding and ' '}{padding}"

    def turned_away(self, code: str, wait: float) -> None:
        """A login was refused: what to do next."""
        world = self.world
        world.reached["refused: " + code] += 1
        others_in = [p for p in self.person.programs if p is not self and isinstance(p, Member) and p.is_in]
        if code == "already-online" and (world.calm or world.chance.random() < 0.3) and others_in:
            self.end()
        else:
            self.login_at = world.now + (wait or world.chance.uniform(2.0, 8.0))

    def was_replaced(self) -> None:
        self.person.replaced += 1
        if self.person.replaced > self.person.takeovers:
            self.fail("was replaced, and nobody said TAKEOVER")
        self.end()

    @property
    def is_in(self) -> bool:
        raise NotImplementedError

    def rosters(self) -> list[dict[str, bool]]:
        """Who is here, as far as this program knows, by each way of knowing it: name -> lost."""
        raise NotImplementedError

    def check_roster(self, truth: dict[str, bool]) -> None:
        for roster in self.rosters():
            if roster != truth:
                self.fail(f"believes that {roster} are here, but it is {truth}")

    def log_out(self) -> None:
        """Log out and end."""


class Chat(Member):
    """A client: what the terminal client does with a ClientSession, without the terminal."""

    def __init__(self, world: World, person: Person, takeover: bool = False) -> None:
        super().__init__(world, person)
        # Any clock: two processes of a person never have the same microseconds.
        self.session = ClientSession(world.chance.randrange(1, protocol.TAG_MAX // 2))
        self.session.tick(world.now)
        self.takeover = takeover
        self.tap = Tap(self)
        self.show_at = FOREVER  # what was taken counts as shown from then on
        self.screen: dict[str, bool] = {}  # the roster as somebody would have it who follows the events
        self.last_answered = 0  # the tag of the last OK to a command other than SEND
        self.login_at = world.now

    def has_plans(self) -> float:
        if self.show_at < FOREVER:  # the screen is slow; until then nothing new
            return self.show_at
        due = self.session.next_deadline()
        return min(self.login_at, FOREVER if due is None else due)

    def linked(self) -> None:
        self.tap.linked()
        self.session.connected(self.world.now)

    def unlinked(self) -> None:
        if self.session.logged_in:
            self.attempts = 0
        self.session.disconnected(self.world.now)

    def hear(self, data: bytes) -> None:
        self.tap.feed(data)
        self.session.feed(data, self.world.now)

    def act(self, now: float) -> None:
        if now >= self.login_at:
            self.ask_in()
        self.session.tick(now)
        if self.show_at == FOREVER:
            events = self.session.take_events()
            for event in events:
                self.show(event)
            if self.world.doomed and any(isinstance(event, protocol.Message) for event in events):
                self.world.doomed = False
                self.note("crashes behind what it has shown")
                self.end(told=self.world.chance.random() < 0.7)
            slow = not self.world.calm and self.world.chance.random() < 0.05
            self.show_at = now + self.world.chance.choice((0.001, 0.5, 4.0)) if slow else now
        if now >= self.show_at:
            self.session.shown()
            self.show_at = FOREVER
        if self.link is not None and not self.ended:
            data = self.session.take_output()
            self.person.takeovers += data.count(b" TAKEOVER ")
            self.unsent += data
            if self.session.hang_up:
                self.link.write(self.link.server, self.unsent)
                self.lose()

    def ask_in(self) -> None:
        self.login_at = FOREVER
        if self.session.name is not None and not self.stranded:
            return
        if self.person.key not in self.world.disk.accounts:
            self.session.register(self.person.name, self.password())
        elif self.takeover:
            self.session.takeover(self.person.name, self.password())
        else:
            self.session.login(self.person.name, self.password())

    stranded = False

    @property
    def is_in(self) -> bool:
        return self.session.logged_in

    def rosters(self) -> list[dict[str, bool]]:
        return [self.session.roster, {**self.screen, self.person.name: False}]

    # What is shown

    def show(self, event: protocol.SessionEvent) -> None:
        name = type(event).__name__
        self.world.reached["event " + name] += 1
        self.note(f"shows {str(event)[:150]}")
        handler = getattr(self, "on_" + name, None)
        if handler is not None:
            handler(event)

    def on_LoggedIn(self, event: protocol.LoggedIn) -> None:  # noqa: N802 (each is named like its event)
        self.stranded = False
        self.login_at = FOREVER

    def on_LoginNeeded(self, event: protocol.LoginNeeded) -> None:  # noqa: N802
        self.stranded = True
        self.login_at = self.world.now + 1.0

    def on_Answer(self, event: protocol.Answer) -> None:  # noqa: N802
        if event.verb == "REGISTER":
            if self.person.key not in self.world.disk.accounts:
                self.fail("an account that was answered for is not on disk")
            self.login_at = self.world.now
        elif event.verb == "LOGOUT":
            if self.tap.token == self.token_on_disk():
                self.fail("has logged out, and the token lives")
            self.end()
        elif event.tag < self.last_answered:
            self.fail(f"the answer to #{event.tag} {event.verb} comes after that to #{self.last_answered}")
        self.last_answered = event.tag

    def on_Refused(self, event: protocol.Refused) -> None:  # noqa: N802
        if event.verb in ("REGISTER", "LOGIN", "TAKEOVER"):
            if self.session.name is None or self.stranded:
                self.turned_away(event.code, event.wait)
        elif event.verb == "LOGOUT":
            self.end()

    def on_LinkLost(self, event: protocol.LinkLost) -> None:  # noqa: N802
        if event.bye:
            self.world.reached["bye " + event.bye] += 1
        if event.bye == "replaced":
            if event.come_back:
                self.fail("was replaced and wants to come back")
            self.was_replaced()

    def on_NotVessages(self, event: protocol.NotVessages) -> None:  # noqa: N802
        if "does not answer" not in event.words:  # a server that is suspended
            self.fail(f"the session did not understand the hub: {event.words}")

    def on_Roster(self, event: protocol.Roster) -> None:  # noqa: N802
        self.screen = {**dict.fromkeys(event.online, False), **dict.fromkeys(event.lost, True)}

    def on_Presence(self, event: protocol.Presence) -> None:  # noqa: N802
        self.screen.update(dict.fromkeys(event.came + event.returned, False))
        self.screen.update(dict.fromkeys(event.lost, True))
        for name in event.left:
            self.screen.pop(name, None)

    def on_Back(self, event: protocol.Back) -> None:  # noqa: N802
        self.on_Presence(event.changes)

    def on_Message(self, event: protocol.Message) -> None:  # noqa: N802
        self.world.ledger.shown(self, event.sender, event.to, event.id, event.text)

    def on_Delivered(self, event: protocol.Delivered) -> None:  # noqa: N802
        self.world.ledger.fate(self, event.tag, "OK", str(event.shown_to))

    def on_Failed(self, event: protocol.Failed) -> None:  # noqa: N802
        self.world.ledger.fate(self, event.tag, event.code, event.words)

    # What its person wants

    def talk(self) -> None:
        if self.session.name is None or self.leaving:
            return
        chance = self.world.chance
        self.session.tick(self.world.now)
        what = chance.random()
        if what < 0.86:
            for _ in range(chance.choice((1, 1, 1, 2, 5, 12))):
                to, text = self.world.addressee(), self.next_text()
                self.world.ledger.said(self, to, text, self.session.send(to, text))
        elif what < 0.9:
            self.session.who()
        elif what < 0.93:
            self.session.ping("echo")
        else:
            self.session.passwd(self.password(), chance.choice(("correct horse", "battery staple", "wrong one")))

    def log_out(self) -> None:
        self.leaving = True
        self.login_at = FOREVER
        if self.session.name is None or self.stranded:
            self.end()
        else:
            self.session.logout()


class Script(Member):
    """A simple program: a plain session, or (`rude`) a kept one that never ACKs. It begins anew with every link."""

    def __init__(self, world: World, person: Person, rude: bool) -> None:
        super().__init__(world, person)
        self.rude = rude
        self.decoder = FrameDecoder(protocol.SERVER_FRAME_MAX)
        self.inside = False
        self.last_tag = 0
        self.seen: set[tuple[str, int]] = set()
        self.open: set[int] = set()  # tagged SENDs without a fate
        self.roster: dict[str, bool] = {}
        self.heard = 0.0

    @property
    def is_in(self) -> bool:
        return self.inside

    def rosters(self) -> list[dict[str, bool]]:
        return [self.roster]

    def has_plans(self) -> float:
        return min(self.login_at, self.heard + SCRIPT_PATIENCE) if self.link is not None else FOREVER

    def act(self, now: float) -> None:
        if now >= self.heard + SCRIPT_PATIENCE:
            self.lose()
        elif self.link is not None and now >= self.login_at and not self.inside:
            self.ask_in()

    def say(self, payload: str) -> None:
        self.unsent += frame(payload.encode())

    def linked(self) -> None:
        self.decoder = FrameDecoder(protocol.SERVER_FRAME_MAX)
        self.ask_in()

    def ask_in(self) -> None:
        self.login_at = FOREVER
        self.heard = self.world.now
        if self.person.key not in self.world.disk.accounts:
            self.say(f"REGISTER {self.person.name} {self.password()}")
        if self.rude:
            self.say("KEEP")
        self.say(f"LOGIN {self.person.name} {self.password()}")

    def unlinked(self) -> None:
        self.inside = False
        self.open.clear()
        self.roster = {}
        self.login_at = FOREVER

    def hear(self, data: bytes) -> None:
        self.heard = self.world.now
        self.decoder.feed(data)
        for payload in self.decoder.payloads():
            match = PARSED.fullmatch(payload.decode())
            if match is None:
                self.fail(f"not a frame of a server: {payload!r}")
            _, tag, verb, rest = match.groups(default="")
            self.note(f"hears {payload.decode()[:100]}")
            self._deal(int(tag or 0), verb, rest)
            if self.ended:
                return

    def _deal(self, tag: int, verb: str, rest: str) -> None:
        if verb in ("OK", "ERROR") and tag:
            if tag not in self.open:
                self.fail(f"an answer too many: #{tag} {verb} {rest[:40]}")
            self.open.discard(tag)
            word, _, words = rest.partition(" ")
            self.world.ledger.fate(self, tag, "OK" if verb == "OK" else word, words)
        elif verb == "OK" and rest.startswith("LOGIN "):
            self.inside, self.attempts = True, 0
            self.logins += 1
            self.last_tag = 0
        elif verb == "OK" and rest == "LOGOUT":
            self.end()
        elif verb == "ERROR" and not self.inside:
            code = rest.partition(" ")[0]
            if code not in ("name-taken", "logged-in"):
                wait = re.match(r"\d+", rest.partition(" ")[2])
                self.turned_away(code, float(wait[0]) if wait else 0.0)
        elif verb == "BYE" and rest == "replaced":
            self.was_replaced()
        elif verb == "MSG":
            self._message(rest)
        elif verb == "PING":
            self.say("PING" if self.rude else "ACK 0")
        elif verb == "ONLINE":
            self.roster = {name.removeprefix("~"): name[0] == "~" for name in rest.split(" ")}
        elif verb == "PRESENCE":
            for word in rest.split(" "):
                self.roster[word[1:]] = word[0] == "~"
                if word[0] == "-":
                    del self.roster[word[1:]]

    def _message(self, rest: str) -> None:
        origin, number, _, text = rest.split(" ", 3)
        sender, several, names = origin.partition(">")
        key = (sender, int(number))
        if key not in self.seen:
            if key[1]:
                self.seen.add(key)
            to = (names if names == EVERYBODY else tuple(names.split(","))) if several else None
            self.world.ledger.shown(self, sender, to, key[1], text)

    def talk(self) -> None:
        if not self.inside or self.leaving or len(self.open) >= 64 or len(self.unsent) > 100_000:
            return
        for _ in range(self.world.chance.choice((1, 1, 3, 20))):
            to, text = self.world.addressee(), self.next_text()
            tag = 0
            if self.world.chance.random() < 0.5:
                self.last_tag = max(self.last_tag + 1, self.serial * 10**6 + self.said)
                tag = self.last_tag
                self.open.add(tag)
            self.world.ledger.said(self, to, text, tag)
            self.say(f"#{tag} SEND {to} {text}" if tag else f"SEND {to} {text}")
            if self.world.chance.random() < 0.1:
                self.say("WHO")

    def log_out(self) -> None:
        self.leaving = True
        if self.inside:
            self.say("LOGOUT")
        else:
            self.end()


class Stranger(Program):
    """Somebody who never logs in: says this, and stays or goes."""

    def __init__(self, world: World, words: bytes) -> None:
        super().__init__(world, None, f"10.0.9.{world.chance.randint(1, 3)}")
        self.words = words

    def linked(self) -> None:
        self.unsent += self.words

    def unlinked(self) -> None:
        self.end()


# --- What is checked ------------------------------------------------------------------------------------------------


class Tap:
    """Reads along what one client is told, frame by frame, and knows what it may be told."""

    PLAIN = ("ONLINE", "PRESENCE", "PING", "BYE")

    def __init__(self, program: Chat) -> None:
        self.program = program
        self.frames: dict[int, str] = {}  # of this session, by number
        self.fated: set[str] = set()  # tags that were answered with a number
        self.seen: dict[str, str] = {}  # "<sender> <id>" -> <from>
        self.next = 0  # the number that must come; 0 while not logged in
        self.token = ""
        self.decoder = FrameDecoder(protocol.SERVER_FRAME_MAX)
        self.roster_due = False
        self.adopting = self.missing = False  # between OK LOGIN or OK RESUME and ONLINE

    def linked(self) -> None:
        self.decoder = FrameDecoder(protocol.SERVER_FRAME_MAX)
        self.next = 0

    def feed(self, data: bytes) -> None:
        self.decoder.feed(data)
        for payload in self.decoder.payloads():
            text = payload.decode()
            if text != "PING":
                self.program.note(f"hears {text[:100]}")
            match = PARSED.fullmatch(text)
            if match is None:
                self.program.fail(f"not a frame of a server: {text[:80]!r}")
            number, tag, verb, rest = match.groups(default="")
            if number:
                self._numbered(int(number), tag, verb, text.partition(" ")[2])
            else:
                self._plain(tag, verb, rest)

    def _numbered(self, number: int, tag: str, verb: str, body: str) -> None:
        reached = self.program.world.reached
        if number != self.next:
            self.program.fail(f"frame @{number} where @{self.next} should be")
        self.next += 1
        reached["frames after RESUME"] += self.missing
        if number in self.frames:
            if self.frames[number] != body:
                self.program.fail(f"frame @{number} was {self.frames[number][:60]!r} and now is {body[:60]!r}")
            return
        self.frames[number] = body
        if tag and tag in self.fated:
            self.program.fail(f"a second answer to #{tag}: {body[:60]}")
        if tag and verb != "MSG":
            self.fated.add(tag)
        if verb == "MSG":
            self._message(body)

    def _message(self, body: str) -> None:
        """A message, the first time that it has this number."""
        reached = self.program.world.reached
        _, origin, identity, _, text = body.split(" ", 4)
        sender, several, _ = origin.partition(">")
        count = len(self.seen)
        reached["adopted messages to several" if several else "adopted messages"] += self.adopting
        before = self.seen.setdefault(f"{sender} {identity}", origin)
        if len(self.seen) == count and identity != "0":
            reached["duplicates suppressed"] += 1
            reached["duplicates suppressed, now of other people"] += before != origin
            if self.program.logins == 1 and self.program.world.ledger.find(text).judged == 1:
                self.program.fail(f"queued twice: {text[:60]}")

    def _plain(self, tag: str, verb: str, rest: str) -> None:
        reached = self.program.world.reached
        words = rest.split(" ")
        if verb == "OK" and words[0] in ("LOGIN", "TAKEOVER"):
            self.frames.clear()
            self.program.logins += 1
            self.token = next(word for word in words if word.startswith("token=")).partition("=")[2]
            self.next, self.roster_due, self.adopting = 1, True, True
        elif verb == "OK" and words[0] == "RESUME":
            number = int(words[3])
            reached["resumed" if words[2] != "0" else "resumed, maybe begun anew"] += 1
            if words[2] == "0":
                self.frames = {n: body for n, body in self.frames.items() if n <= number}
            self.next, self.roster_due, self.missing = number + 1, True, True
        elif verb == "OK" and words[0] == "LOGOUT":
            self.next = 0
        elif words[0] == "unknown-session" and self.token == self.program.token_on_disk():
            self.program.fail("a good token was refused")
        elif self.next and verb not in self.PLAIN:
            self.program.fail(f"without a number: {verb} {rest[:60]}")
        elif verb == "ONLINE":
            reached["rosters to readers who were behind"] += not self.roster_due
            self.roster_due = self.adopting = self.missing = False
        elif verb == "BYE":
            self._goodbye(rest)
        elif verb == "PRESENCE" and self.roster_due:
            self.program.fail("PRESENCE before ONLINE")

    def _goodbye(self, reason: str) -> None:
        """Whoever is well is not given up. (Not logged in for five minutes is not well.)"""
        link = self.program.link
        reasons = ("silent",) if "tight" in self.program.world.faults else ("silent", "slow")
        if link is not None and link.faultless and self.next and reason in reasons:
            self.program.fail(f"is well and was given up: BYE {reason}")


Recipients = tuple[str, ...] | str | None  # of a message as it is shown: see `protocol.Message.to`


@dataclass(eq=False)
class Message:
    """What became of one message."""

    sender: Member
    number: int  # the sender's count
    to: str  # a name, names with commas, or EVERYBODY
    text: str
    tag: int
    people: list[str]  # keys of those whom it is for, in order; of EVERYBODY those who were here when it was judged
    judged: int = 0  # how often the hub read it as a new command
    judged_at: float = 0.0  # the last time
    here: frozenset[str] = frozenset()  # keys of those of `people` who were here then
    is_for_all: bool = False  # it was for everybody, and was not refused
    may_show: set[tuple[str, Recipients]] = field(default_factory=set)  # key, and the recipients shown with it
    fate: str = ""
    told: dict[str, str] = field(default_factory=dict)  # key -> OK or a code: what its sender was told
    shown_by: list[Member] = field(default_factory=list)

    def is_shown_to(self, key: str) -> bool:
        return any(program.person.key == key for program in self.shown_by)


class Ledger:
    """Every message, who has shown it and what its sender was told."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.messages: dict[str, Message] = {}  # by the first word of the text
        self.by_tag: dict[tuple[int, int], Message] = {}  # by program and tag

    def find(self, text: str) -> Message:
        return self.messages[text.partition(" ")[0]]

    def said(self, sender: Member, to: str, text: str, tag: int) -> None:
        people = list(dict.fromkeys(map(fold, to.split(",")))) if to != EVERYBODY else []
        if "," in to and sender.person.key in people:
            people.remove(sender.person.key)
        message = Message(sender, sender.said, to, text, tag, people)
        self.messages[text.partition(" ")[0]] = message
        if tag:
            self.by_tag[sender.serial, tag] = message
        sender.note(f"says #{tag} to {to}: {text[:30]}")
        self.world.reached["said"] += 1

    def judged(self, to: str, text: str, here: dict[str, str]) -> Message:
        """The hub reads a SEND; those are here (key -> name)."""
        message = self.find(text)
        message.judged += 1
        message.judged_at = self.world.now
        if to == EVERYBODY:
            message.people = [key for key in here if key != message.sender.person.key]
        names = tuple(here[key] for key in message.people if key in here)
        shown_to = EVERYBODY if to == EVERYBODY else names if len(message.people) > 1 else None
        message.here = frozenset(message.people) & here.keys()
        message.may_show |= {(key, shown_to) for key in message.here}
        return message

    def shown(self, program: Member, sender: str, to: Recipients, identity: int, text: str) -> None:
        self.world.reached["shown" if to is None else "shown, as said to several"] += 1
        message = self.find(text)
        key = program.person.key
        if (message.sender.person.name, message.tag, message.text) != (sender, identity, text):
            program.fail(f"a message that nobody wrote: {sender} {identity} {text[:60]}")
        if (key, to) not in message.may_show:
            program.fail(f"not for this one, or not as said to {to}: {text[:60]}")
        # What has no id cannot be told from its repetition after another LOGIN of the same program.
        repeatable = not identity and program.logins > 1
        if program in message.shown_by and not repeatable:
            program.fail(f"shown twice: {text[:60]}")
        last = program.last_shown.get(message.sender.serial, 0)
        # Sent again in a new session it may come behind others that had been delivered to another program before.
        if message.number <= last and not repeatable and message.judged <= 1:
            program.fail(f"out of order: {text[:60]} after number {last}")
        if message.told.get(key) in REFUSALS and message.judged <= 1:
            program.fail(f"shown although its sender was told {message.told[key]}: {text[:60]}")
        program.last_shown[message.sender.serial] = max(last, message.number)
        message.shown_by.append(program)

    def fate(self, program: Member, tag: int, code: str, words: str) -> None:
        """The one answer to a message; `words`: what it says of several people, `3` or `bob=busy shown to 2 of 3`."""
        self.world.reached["fate " + code] += 1
        message = self.by_tag[program.serial, tag]
        if message.fate:
            program.fail(f"two fates, {message.fate} and {code}: {message.text[:60]}")
        message.fate = code
        if code == "OK" and int(words or 1) != len(message.people):
            program.fail(f"told of {words or 1} people and not of {len(message.people)}: {message.text[:60]}")
        if code == "partly":
            self._partly(program, message, words)
        else:
            message.told = dict.fromkeys(message.people, code)
        for key in message.people:
            self._compare(program, message, key)

    def _partly(self, program: Member, message: Message, words: str) -> None:
        """Who is named with which fate, in which order, and whether the counts are true."""
        self.world.reached["partly after a restart"] += message.judged > 1
        failed = {fold(name): code for name, code in protocol.parse_fates(words)}
        if message.to != EVERYBODY and list(failed) != [key for key in message.people if key in failed]:
            program.fail(f"named in another order than {message.to}: {words}")
        message.told = dict.fromkeys(message.people, "OK") | failed
        count = len(message.people)
        if words.partition(" ")[2] != f"shown to {count - len(failed)} of {count}" or len(message.told) != count:
            program.fail(f"a wrong count, or a stranger, for {message.people}: {words}")

    def _compare(self, program: Member, message: Message, key: str) -> None:
        """What a sender is told of one of the people, with what that one has shown."""
        code, person = message.told[key], self.world.person_of(key)
        is_shown = message.is_shown_to(key)
        if code == "not-online" and self.world.stayed(key, message):
            program.fail(f"told that {key} was not there, who was all the time: {message.text[:60]}")
        if code == "OK" and not is_shown and (person is None or not person.mixed):
            program.fail(f"told OK and not shown to {key}: {message.text[:60]}")
        if code in REFUSALS and is_shown and message.judged <= 1:
            program.fail(f"shown to {key}, and its sender was told {code}: {message.text[:60]}")

    def check_told_to_the_end(self) -> None:
        """What is for everybody is shown to those who stayed, also if its sender has gone and is not told its fate."""
        for message in self.messages.values():
            for key in message.here if message.is_for_all and not message.fate else ():
                person = self.world.person_of(key)
                is_due = person is not None and not person.mixed and self.world.stayed(key, message)
                if is_due and key not in self.world.pressed and not message.is_shown_to(key):
                    raise Violation(f"never shown to {key}, who was there: {message.text[:60]}")


# Fates that promise that nobody has seen the message, if it was not sent again after a restart.
REFUSALS = frozenset({"not-delivered", "not-online", "busy", "too-many", "not-sent", "bad-command", "not-logged-in"})


# --- The world ------------------------------------------------------------------------------------------------------


class World:
    """A server, people and programs, a clock, and chance."""

    def __init__(self, seed: int, people: int, faults: Collection[str], tracing: bool = False) -> None:
        self.chance = random.Random(seed)
        self.faults = frozenset(faults)
        self.trace: deque[str] = deque(maxlen=None if tracing else 60)
        self.reached: Counter[str] = Counter()
        self.now = 1000.0
        self.wall_offset = WALL - self.now
        self.calm = False
        self.serial = 0
        self.steps = 0
        self.grace = self.chance.choice((5.0, 20.0, 60.0))
        self.connections_max = self.chance.choice((people + 1, 1000, 1000))
        self.work_takes: tuple[float, ...] = (0.0, 0.0, 0.01)
        self.ledger = Ledger(self)
        self.disk = Disk()
        self.people = [Person(name, "scripts" in self.faults and i % 2 == 1) for i, name in enumerate(NAMES[:people])]
        self.programs: list[Program] = []
        self.links: list[Link] = []
        self.appointments: list[tuple[float, Callable[[], None]]] = []
        self.handing_from = 0.0  # when the hub goes on to hand out messages to several
        self.absent: dict[str, float] = {}  # by key: when there was no session the last time, after a turn
        self.pressed: set[str] = set()  # keys of those who may have been `busy`
        self.doomed = False  # whether the next client that shows a message crashes before it says so
        self.there: set[str] = set()  # whose kept sessions there were when the server ended
        self.watched: dict[Session, tuple[float, int]] = {}  # kept sessions: since when lost, how much was held
        self.here: list[tuple[Session, Connection | None]] = []
        self.changed_at = 0.0  # when `here` last changed
        self.began = 0.0  # when this server did
        self.server: Server | None = Server(self)
        for person in self.people:
            Chat(self, person)

    @property
    def wall(self) -> float:
        return self.now + self.wall_offset

    def note(self, what: str) -> None:
        self.trace.append(f"{self.now - 1000:10.4f}  {what}")

    def chunk(self, most: int) -> int:
        """How much is read at once."""
        return most if self.calm else self.chance.choice((1, 3, 30, 1000, most, most, most))

    def dial(self, address: str) -> Link | None:
        """A new link; None if nobody listens."""
        self.links = [link for link in self.links if not link.broken]
        if self.server is None or self.server.is_stopping:
            return None
        link = Link(address, self.chance.choice((600, 5_000, 100_000)))
        self.links.append(link)
        self.server.arrivals.append(link)
        return link

    def stayed(self, key: str, message: Message) -> bool:
        """Whether there was a session of this name ever since the message was judged, by the server that runs."""
        since = max(self.absent.get(key, 0.0), self.began)
        return message.judged_at > since and key in message.here

    def person_of(self, key: str) -> Person | None:
        return next((person for person in self.people if person.key == key), None)

    def addressee(self) -> str:
        """To whom a message goes: mostly to one, else to some, or to everybody."""
        kind = self.chance.random()
        if kind < 0.1:
            return EVERYBODY
        return ",".join(self._addressed() for _ in range(self.chance.randint(2, 5) if kind < 0.3 else 1))

    def _addressed(self) -> str:
        """Mostly somebody, in any spelling; sometimes nobody."""
        if self.chance.random() < 0.03:
            return "nobody"
        name = self.chance.choice(self.people).name
        return name.upper() if self.chance.random() < 0.2 else name

    # Time

    def actors(self) -> list[Actor]:
        actors: list[Actor] = list(self.programs)
        if self.server is not None:
            actors += [self.server, self.server.hasher, self.server.disk]
        return actors

    def take_turn(self, actor: Actor) -> None:
        """One turn, if it has something to do and is still there."""
        if isinstance(actor, Program) and actor.ended:
            return
        if actor.due(self.now) <= self.now and (isinstance(actor, Program) or self.server is not None):
            self.now += 1e-6  # every turn has a time of its own
            actor.turn(self.now)
            if isinstance(actor, Server):
                self.check_always()

    def run_all(self) -> None:
        """Turns for everybody until nobody has anything to do."""
        for _ in range(TURNS_MAX):
            busy = [actor for actor in self.actors() if actor.due(self.now) <= self.now]
            if not busy:
                return
            self.chance.shuffle(busy)
            for actor in busy:
                if actor in self.actors():
                    self.take_turn(actor)
        raise Violation("it goes round and round at one moment")

    def advance(self, seconds: float) -> None:
        """Time passes, and everybody does what they should in it."""
        end = self.now + seconds
        while True:
            self._keep_appointments()
            self.run_all()
            times = [actor.due(self.now) for actor in self.actors()] + [when for when, _ in self.appointments]
            then = min(times, default=FOREVER)
            if then > end:
                break
            self.now = max(self.now, then)
        self.now = max(self.now, end)

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        self.appointments.append((self.now + seconds, action))

    def _keep_appointments(self) -> None:
        due = [entry for entry in self.appointments if entry[0] <= self.now]
        self.appointments = [entry for entry in self.appointments if entry[0] > self.now]
        for _, action in due:
            action()

    # A life

    def run(self, steps: int) -> World:
        """So many things happen; then there is peace, and then everybody leaves."""
        events = [*LIFE.values(), *(TROUBLE[name] for name in TROUBLE if name in self.faults)]
        for _, event in self.chance.choices(events, [weight for weight, _ in events], k=steps):
            self.steps += 1
            self._keep_appointments()
            event(self)
        self.make_peace()
        self.calm_down()
        self.check_quiet()
        for program in list(self.programs):
            if isinstance(program, Member):
                program.log_out()
        self.advance(QUIET)
        self.check_empty()
        return self

    def calm_down(self) -> None:
        """Peace for a long time. Already in it the rosters and the disk are true whenever nothing has just changed."""
        self.advance(15.0)
        for _ in range(int(QUIET / PATIENCE)):
            insiders = [(p, p.link) for p in self.programs if isinstance(p, Member) and p.is_in]
            self.advance(PATIENCE)
            if self.now - self.changed_at >= PATIENCE:
                self.check_disk()
                for program, link in insiders:
                    if program.is_in and program.link is link and link is not None and not link.broken:
                        program.check_roster(self.truth())

    def truth(self) -> dict[str, bool]:
        """Who is here, as the hub knows it: name -> lost."""
        sessions = self.server.hub.sessions.values() if self.server else ()
        return {session.name: session.connection is None for session in sessions}

    def make_peace(self) -> None:
        self.note("peace")
        self.calm, self.doomed = True, False
        self.disk.failing = False
        self.work_takes = (0.0,)
        self.handing_from = 0.0
        if self.server is not None and self.server.is_stopping:
            self.server_stopped()
        for _, action in self.appointments:
            action()
        self.appointments = []
        if self.server is None:
            self.start_server()
        if self.server is not None:
            self.server.frozen_until = 0.0
        for link in self.links:
            link.stalled_until = 0.0
        for program in list(self.programs):
            program.frozen_until = 0.0
            if isinstance(program, Stranger) or (isinstance(program, Script) and program.rude):
                program.end()  # who never ACKs never lets others know

    # What happens: each is an entry of LIFE or TROUBLE

    def turns(self) -> None:
        """Some of them take a turn, in any order, while hardly any time passes."""
        for _ in range(self.chance.randint(1, 12)):
            self.now += self.chance.choice((0.0, 0.0001, 0.01))
            actors = self.actors()
            if actors:
                self.take_turn(self.chance.choice(actors))

    def moment(self) -> None:
        self.advance(self.chance.uniform(0.0, 1.0))

    def while_passes(self) -> None:
        self.advance(self.chance.choice((5.0, 12.0, 30.0, 80.0)))

    def talk(self) -> None:
        awake = [program for program in self.programs if program.frozen_until <= self.now]
        if awake:
            self.chance.choice(awake).talk()

    def _some_link(self) -> Link | None:
        links = [program.link for program in self.programs if program.link is not None and not program.link.broken]
        return self.chance.choice(links) if links else None

    def cut(self) -> None:
        link = self._some_link()
        if link is not None:
            told = [self.now + self.chance.choice((0.0, 0.0, 0.3, 4.0)) for _ in range(2)]
            link.cut(self.chance, (told[0], told[1]))
            self.note(f"the link from {link.address} is cut")
            self.reached["cuts"] += 1

    def half_open(self) -> None:
        link = self._some_link()
        if link is not None:
            told = [FOREVER, self.now + self.chance.choice((0.0, 1.0, FOREVER))]
            self.chance.shuffle(told)
            link.cut(self.chance, (told[0], told[1]))
            self.note(f"the link from {link.address} is dead, and not both ends know")
            self.reached["half-open links"] += 1

    def stall(self) -> None:
        link = self._some_link()
        if link is not None:
            link.stalled_until, link.faultless = self.now + self.chance.choice((0.5, 6.0, 22.0, 50.0)), False
            self.note(f"the link from {link.address} stalls")
            self.reached["stalls"] += 1

    def freeze(self) -> None:
        """A program is stopped, as by Ctrl-Z or a laptop's lid."""
        if self.programs:
            program = self.chance.choice(self.programs)
            program.frozen_until = self.now + self.chance.choice((0.2, 3.0, 33.0, 50.0, 120.0))
            if program.link is not None:
                program.link.faultless = False
            self.note(f"program {program.serial} is frozen")
            self.reached["frozen programs"] += 1

    def crash_program(self) -> None:
        self.doomed = self.chance.random() < 0.5
        if self.programs and not self.doomed:
            program = self.chance.choice(self.programs)
            told = self.chance.random() < 0.7
            self.note(f"program {program.serial} crashes, {'its system says so' if told else 'silently'}")
            program.end(told)
            self.reached["crashed programs"] += 1

    def log_out(self) -> None:
        members = [program for program in self.programs if isinstance(program, Member)]
        if members:
            self.chance.choice(members).log_out()
            self.reached["logouts"] += 1

    def come(self) -> None:
        """Somebody who is not there starts a program."""
        absent = [person for person in self.people if not person.programs]
        if absent:
            person = self.chance.choice(absent)
            for _ in range(self.chance.choice((1, 1, 1, 2))):  # two at the same moment
                self._start(person, False)

    def rival(self) -> None:
        """Somebody starts a program although another one is running."""
        present = [person for person in self.people if len(person.programs) == 1]
        if present:
            self._start(self.chance.choice(present), self.chance.random() < 0.6)
            self.reached["rivals"] += 1

    def _start(self, person: Person, takeover: bool) -> None:
        if person.mixed and not takeover and self.chance.random() < 0.7:
            program: Program = Script(self, person, rude=self.chance.random() < 0.3)
        else:
            program = Chat(self, person, takeover)
        self.note(f"{person.name} starts program {program.serial}, a {type(program).__name__}")

    def stranger(self) -> None:
        Stranger(self, self.chance.choice(STRANGE))
        self.reached["strangers"] += 1

    def kill_server(self) -> None:
        """kill -9, or the power: what was not on disk is gone."""
        server = self.server
        if server is None:
            return
        self.reached["kills"] += 1
        self._remember_who_is_there()
        silent = self.chance.random() < 0.2
        for link in server.links():
            link.cut(self.chance, (FOREVER, FOREVER if silent else self.now))
        self._server_gone("killed")

    def stop_server(self) -> None:
        """SIGTERM."""
        if self.server is not None and not self.server.is_stopping:
            self.reached["stops"] += 1
            self._remember_who_is_there()
            self.note("the server is told to stop")
            self.server.stop()

    def server_stopped(self) -> None:
        if self.server is not None:
            for link in self.server.links():
                link.close(link.server, self.now, self.chance.random())
            self.server.reactor.close()
            self._server_gone("stopped")

    def _server_gone(self, how: str) -> None:
        self.note(f"the server is {how}")
        self.server = None
        self.watched = {}
        self.at(self.chance.choice((0.0, 1.0, 10.0, 90.0)), self.start_server)

    def _remember_who_is_there(self) -> None:
        server = self.server
        if server is not None and not server.is_stopping:
            self.there = {key for key, session in server.hub.sessions.items() if session.kept}

    def start_server(self) -> None:
        if self.server is not None:
            return
        self.note("the server starts")
        with_token = {key for key in self.there if self.disk.accounts[key].token is not None}
        self.server = Server(self)
        lost = {key for key, session in self.server.hub.sessions.items() if session.connection is None}
        if not with_token <= lost:
            raise Violation(f"after a restart nobody waits for {with_token - lost}")
        self.check_always()

    def suspend_server(self) -> None:
        if self.server is not None:
            self.server.frozen_until = self.now + self.chance.choice((2.0, 30.0, 40.0, 100.0))
            self.note(f"the server is suspended until {self.server.frozen_until - 1000:.1f}")
            self.reached["suspensions"] += 1

    def slow_hand_out(self) -> None:
        """Others write to many people, and messages to several have to wait."""
        self.handing_from = self.now + self.chance.choice((0.1, 1.0, 4.0))
        self.reached["slow hand-outs"] += 1

    def jump(self) -> None:
        """Somebody sets the wall clock."""
        self.wall_offset += self.chance.choice((-86400.0, -3.0, 5.0, 7200.0))
        self.reached["wall clock jumps"] += 1

    def fail_disk(self) -> None:
        self.disk.failing = True
        self.note("the disk fails")
        self.at(self.chance.choice((0.1, 3.0, 20.0)), self._mend_disk)
        self.reached["disk failures"] += 1

    def _mend_disk(self) -> None:
        self.disk.failing = False

    def slow_work(self) -> None:
        self.work_takes = self.chance.choice(((0.0,), (0.0, 0.01), (0.2,), (0.0, 2.0)))

    # What must be true at any time

    def check_always(self) -> None:
        server = self.server
        if server is None:
            return
        hub = server.hub
        self.absent.update({person.key: self.now for person in self.people if person.key not in hub.sessions})
        for key, session in hub.sessions.items():
            connection = session.connection
            if session.key != key or (connection is not None and connection.session is not session):
                raise Violation(f"the session of {key} and its connection do not know each other")
            held = session.held
            if held is None:
                continue
            if len(held.frames) > protocol.QUEUE_FRAMES - 320 or held.size > protocol.QUEUE_BYTES - 5 * READ_SIZE:
                self.pressed.add(key)  # from one turn to the next: five senders, FRAMES_A_TURN or READ_SIZE each
            if len(held.frames) > protocol.HELD_FRAMES_MAX + protocol.FRAMES_A_TURN + protocol.QUEUE_FRAMES:
                raise Violation(f"{len(held.frames)} frames are held for {key}")
            if held.size != sum(size for _, size, _, _ in held.frames) or not held.acked <= held.written <= held.last:
                raise Violation(f"what is held for {key} is miscounted")
            if sum(text.startswith(b"MSG ") for text, *_ in held.frames) > protocol.QUEUE_FRAMES:
                raise Violation(f"too many messages are held for {key}")
        for connection in hub.connections:
            owner = connection.session
            if owner is not None and hub.sessions.get(owner.key) is not owner:
                raise Violation(f"{owner.name} is logged in twice, or not at all")
            queued, size = len(connection.outbox or ()), connection.backlog
            if queued > 2 * protocol.QUEUE_FRAMES + 100 or size > 2 * protocol.MIB:
                raise Violation(f"{queued} frames, {size} bytes wait for {connection.address}")
        if len(hub.connections) > self.connections_max + 50:
            raise Violation("connections pile up")
        for fault in hub.faults:
            raise fault
        here = [(session, session.connection) for session in hub.sessions.values()]
        if here != self.here:
            self.here, self.changed_at = here, self.now
        if not server.is_stopping:
            self._check_lives(hub)

    def _check_lives(self, hub: Hub) -> None:
        """A kept session lives, and so it stands on disk, until it logs out or has been lost for the grace time."""
        before, now = self.watched, {s: s.connection for s in hub.sessions.values() if s.kept}
        self.watched = {}
        for session, connection in now.items():
            lost_since = FOREVER if connection else min(before.get(session, (FOREVER, 0))[0], self.now)
            self.watched[session] = lost_since, len(session.held.frames) if session.held else 0
        for session in now:
            account = self.disk.accounts[session.key]
            if account.status == "offline" and account.token is not None:
                raise Violation(f"{session.key} is here, and the disk says {account.status}")
        for session in before.keys() - now.keys():
            logged_out = session.key in hub.sessions or self.disk.accounts[session.key].token is None
            lost_since, held = before[session]
            overfull = held + protocol.FRAMES_A_TURN + protocol.QUEUE_FRAMES >= protocol.HELD_FRAMES_MAX
            if not logged_out and not overfull and self.now - lost_since < self.grace - 0.1:
                raise Violation(f"the session of {session.key} has ended too early")

    # What must be true when all is quiet

    def check_quiet(self) -> None:
        server = self.server
        if server is None:
            raise Violation("there is no server")
        hub = server.hub
        for program in self.programs:
            if isinstance(program, Member):
                if not program.is_in:
                    program.fail("is not logged in, although all is well")
                program.check_roster(self.truth())
            if isinstance(program, Chat):
                self._check_quiet_chat(program)
        for connection in hub.connections:
            if connection.flow is not None or connection.outbox or connection.unsent or connection.decoder.buffered:
                raise Violation(f"something waits at {connection.address}")
        allowed = {"sessions", "_names", "_tokens", "connections"}
        self._check_left_behind(hub, allowed)
        if any(session.held is None or session.held.token != token for token, session in hub._tokens.items()):
            raise Violation("a token leads to a session that is not its own")
        self.check_disk()
        self.ledger.check_told_to_the_end()

    def check_disk(self) -> None:
        truth = self.truth()
        for key, account in self.disk.accounts.items():
            status = {None: "offline", False: "online", True: "lost"}[truth.get(account.username)]
            if account.status != status:
                raise Violation(f"{key} is {status}, the disk says {account.status}")

    def _check_quiet_chat(self, program: Chat) -> None:
        # A login whose connection breaks before its answer leaves the session before it as it is. Its token, which only
        # the hub still knows, leads back to it as long as the server runs.
        stranded = self.server is not None and program.person.key in self.server.lost_answers
        if program.tap.token != program.token_on_disk() and not stranded:
            program.fail("has another token than the disk")
        if program.session.unanswered:
            program.fail(f"{program.session.unanswered} commands have no answer")
        for (serial, _), message in self.ledger.by_tag.items():
            if serial == program.serial and not message.fate:
                program.fail(f"without a fate: {message.text[:60]}")
        session = self.server.hub.sessions[program.person.key] if self.server else None
        if session is None or session.held is None or session.held.frames:
            program.fail("something is still held for it")

    def check_empty(self) -> None:
        if self.server is None or self.programs:
            raise Violation(f"could not log out: {[program.serial for program in self.programs]}")
        self._check_left_behind(self.server.hub, set())
        if self.server.hub._gate._addresses.opened:
            raise Violation("a connection that has ended is still counted")

    def _check_left_behind(self, hub: Hub, allowed: set[str]) -> None:
        for name, value in left_behind(hub).items():
            if name not in allowed:
                raise Violation(f"left behind in the hub's {name}: {str(value)[:100]}")


Actor = Server | Worker | Program

# What happens in every world: how often, and how.
LIFE: dict[str, tuple[float, Callable[[World], None]]] = {
    "turns": (40, World.turns),
    "moment": (10, World.moment),
    "talk": (40, World.talk),
    "while": (2, World.while_passes),
    "come": (3, World.come),
}
# What goes wrong, where it does.
TROUBLE: dict[str, tuple[float, Callable[[World], None]]] = {
    "cut": (3, World.cut),
    "half-open": (1, World.half_open),
    "stall": (1, World.stall),
    "freeze": (1, World.freeze),
    "crash": (1, World.crash_program),
    "log out": (0.5, World.log_out),
    "rival": (1, World.rival),
    "stranger": (0.5, World.stranger),
    "kill": (0.5, World.kill_server),
    "stop": (0.5, World.stop_server),
    "suspend": (0.5, World.suspend_server),
    "jump": (0.3, World.jump),
    "disk": (0.5, World.fail_disk),
    "slow work": (0.5, World.slow_work),
    "slow hand-out": (3, World.slow_hand_out),
}
FAULTS = (*TROUBLE, "scripts", "tight")  # some people use scripts; the limits are small


@contextmanager
def watched(tight: bool) -> Iterator[None]:
    """The product with a watch on SEND and, if `tight`, with limits so small that they are reached all the time."""
    small = mock.patch.multiple(protocol, **TIGHT) if tight else nullcontext()
    with small, mock.patch.dict(protocol.METHODS[True], SEND=watched_send):
        yield


def simulate(seed: int, steps: int, people: int, faults: Collection[str], tracing: bool = False) -> World:
    """One world from its beginning to its end. Violation, with the end of its story, if a guarantee is broken."""
    world: World | None = None
    with watched("tight" in faults):
        try:
            world = World(seed, people, faults, tracing)
            return world.run(steps)
        except Exception as error:
            story = "\n".join(world.trace) if world else ""
            words = f"{type(error).__name__}: {error}\n{seed=} {steps=} {people=} faults={sorted(faults)}"
            raise Violation(f"{words}\n{story}") from error


def choose(seed: int) -> dict[str, Any]:
    """The world of a seed: how many people, how long, and what goes wrong in it."""
    chance = random.Random(seed)
    faults = FAULTS if chance.random() < 0.3 else [fault for fault in FAULTS if chance.random() < 0.4]
    return {"seed": seed, "steps": chance.choice((50, 200, 400)), "people": chance.randint(2, 5), "faults": faults}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: 1)")
    parser.add_argument("--seed", type=int, help="only the world of this seed")
    parser.add_argument("--first", type=int, default=random.SystemRandom().randrange(10**9), help="the first seed")
    parser.add_argument("--trace", action="store_true", help="with --seed: tell the whole story")
    options = parser.parse_args()
    reached: Counter[str] = Counter()
    began, worlds, steps = time.monotonic(), 0, 0
    seed = options.first if options.seed is None else options.seed
    while True:
        try:
            world = simulate(**choose(seed), tracing=options.trace)
        except Violation as violation:
            print(violation)
            print(f"\nto repeat it: python tests/tools/simulate.py --seed {seed} --trace")
            return 1
        worlds, steps, reached = worlds + 1, steps + world.steps, reached + world.reached
        if options.trace:
            print("\n".join(world.trace))
        if options.seed is not None or time.monotonic() - began > options.minutes * 60:
            break
        seed += 1
    took = time.monotonic() - began
    print(f"{worlds} worlds, {steps} steps in {took:.0f} s, seeds {seed - worlds + 1} to {seed}: nothing broken.")
    print("What was reached:")
    print("\n".join(f"{count:12,}  {what}" for what, count in sorted(reached.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
