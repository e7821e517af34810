"""The clients of Vessages: for a person at a terminal, for a pipe (--plain, --json), and `Client` for scripts.

    python client.py HOST PORT                       a person
    tail -f build.log | python client.py HOST PORT --user bot --to alice
    from client import Client                        a script: see `Client`

Rules of this file
    What may be said when, what is sent again after a lost connection and what counts as shown: protocol.ClientSession
    knows all that. Here are the socket, the clock, the keyboard and the screen, and nothing of it is repeated.

    One loop, one thread. What would block (looking up a name, connecting, reading a pipe) is done by small threads
    that put what they have into a mailbox; the loop wakes up and takes it out. There is one timer for dialling.

    Nothing from the network reaches the terminal as it came: `safe` shows what could move the cursor, colour the
    screen or turn the writing round. The server is not trusted more than the people.

    A password comes from a prompt without echo, the environment or a file. It is never shown, kept in a history or
    taken from the command line of this program.

Reading order
    1. `Mailbox`, `dial`, `Link`: from threads to the loop, from a host name to a socket, from a socket to the session.
    2. `Client`, for scripts.
    3. `words_of`, `json_of`: what happened, as text.
    4. `Plain` and `Terminal`: the two front ends. They show events and give lines.
    5. `COMMANDS` and `Chat`: what the lines mean.
    6. `main`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import random
import selectors
import signal
import socket
import sys
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TextIO

import protocol
from protocol import ClientSession

VERSION = "1.0"

DIAL_SECONDS = 10.0  # for a name look-up and a connection; a LAN needs milliseconds, a far host a second or two
# Between two attempts: 1, 2, 4 … 30 s, each cut by chance to between half and all of it, so that a thousand clients
# do not come back in the same moment.
RETRY_FIRST, RETRY_MOST = 1.0, 30.0
READ_SIZE = 64 * 1024  # a turn
LEAVE_SECONDS = 5.0  # for the fates of the last messages
LOGOUT_SECONDS = 2.0  # for the answer to LOGOUT
LINES_WAITING = 100  # lines of a pipe that are read ahead
LINE_MAX = 65_000  # characters; a longer line would not fit into a frame anyway

# --- The link -------------------------------------------------------------------------------------------------------


class Mailbox:
    """What other threads hand to the loop. `fileno` is readable while something is in it."""

    def __init__(self, most: int = 0) -> None:
        """`most`: how much may wait before `put` blocks; 0 for no limit."""
        self._queue: queue.Queue[Any] = queue.Queue(most)
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)

    def fileno(self) -> int:
        return self._ours.fileno()

    @property
    def waker(self) -> int:
        """A descriptor that wakes the loop when a byte is written to it, for signals."""
        return self._theirs.fileno()

    def put(self, item: object) -> None:
        """Called by a thread."""
        self._queue.put(item)
        self.wake()

    def wake(self) -> None:
        """Let the loop have a look, even if nothing is in here."""
        try:
            self._theirs.send(b"!")
        except OSError:
            pass  # full: then the loop is awake; closed: then nobody wants to know

    def take(self, most: int = 1_000) -> list[Any]:
        """At most `most` items that are there now."""
        items: list[Any] = []
        with contextlib.suppress(queue.Empty):
            while len(items) < most:
                items.append(self._queue.get_nowait())
        return items

    def rest(self) -> None:
        """Forget the wakings so far; called before `take`."""
        with contextlib.suppress(OSError):
            while self._ours.recv(4096):
                pass

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


def dial(host: str, port: int) -> socket.socket:
    """A connected, non-blocking socket, or OSError. Blocks: it is called in a thread."""
    sock = socket.create_connection((host, port), DIAL_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a turn is written in one piece, and should go at once
    sock.setblocking(False)
    return sock


def dial_words(host: str, port: int, error: Exception) -> str:
    """Why there is no connection, and what to try."""
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return f"there is no computer named {host}: check the spelling, or try its address, like 192.168.1.5"
    if isinstance(error, ConnectionRefusedError):
        return f"nobody listens at {host} port {port}: is the server running there, and is that its port?"
    if isinstance(error, TimeoutError):
        return f"no answer from {host} port {port}: is the address right, and does a firewall let this through?"
    return f"{host} port {port} cannot be reached: {getattr(error, 'strerror', None) or error}"


class Dialling(NamedTuple):
    """There is no connection. The next attempt is in `seconds`; `words` says what is wrong."""

    words: str
    seconds: float


class Unreachable(NamedTuple):
    """The first contact failed, so there is nothing to come back to."""

    words: str


Event = protocol.Event | Dialling | Unreachable


class Link:
    """The session's way to the server: dials, reads, writes, and dials again after a growing while.

    A turn: `wait`, then what the person wants, `tick`, `take_events`, show them, `flush`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        session: ClientSession,
        *,
        dial: Callable[[str, int], socket.socket] = dial,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.host, self.port, self.session = host, port, session
        self._dial, self._clock, self._chance = dial, clock, chance
        self._selector = selectors.DefaultSelector()
        self._dialled = Mailbox()
        self._selector.register(self._dialled, selectors.EVENT_READ, self._dialled.rest)
        self._socket: socket.socket | None = None
        self._unsent = bytearray()
        self._events: list[Event] = []
        self._dial_at: float | None = clock()  # the one timer; None while connected, dialling or not wanted
        self._attempts = 0
        self._dialling = self._closed = False
        self.has_met = False  # whether there ever was a connection

    def watch(self, mailbox: Mailbox) -> None:
        """Wake up for this mailbox too."""
        self._selector.register(mailbox, selectors.EVENT_READ, mailbox.rest)

    @property
    def is_up(self) -> bool:
        """Whether there is a connection."""
        return self._socket is not None

    def now(self) -> float:
        """Monotonic seconds, as everything here counts them."""
        return self._clock()

    def wait(self, until: float | None = None) -> None:
        """Sleep until something happens or is due, at the latest `until`, and read what there is."""
        deadlines = [self.session.next_deadline(), self._dial_at, until, self.now() if self._events else None]
        deadline = min((d for d in deadlines if d is not None), default=None)
        timeout = None if deadline is None else max(0.0, deadline - self.now())
        for key, mask in self._selector.select(timeout):
            if key.fileobj is self._socket:
                if mask & selectors.EVENT_READ:
                    self._read(self._socket)
            else:
                key.data()
        for result in self._dialled.take():
            self._take_dialled(result)
        self.session.tick(self.now())  # what is asked for next is asked for now

    def tick(self) -> None:
        """What is due, in the session and here."""
        now = self.now()
        self.session.tick(now)
        if self._socket is not None or self._dialling:
            return
        if self._dial_at is None and self.session.wants_link:
            self._dial_at = now  # it was not wanted until now
        if self._dial_at is not None and now >= self._dial_at:
            self._dial_at, self._dialling = None, True
            threading.Thread(target=self._dial_in_thread, daemon=True).start()

    def take_events(self) -> list[Event]:
        """What happened, in order: first here, then in the session."""
        events: list[Event] = [*self.session.take_events(), *self._events]
        self._events.clear()
        return events

    def flush(self) -> None:
        """All that was taken has been shown. Write what there is to write, in one piece; hang up if it is time."""
        self.session.shown()
        if self._socket is None:
            return
        self._unsent += self.session.take_outbox()
        self._write(self._socket)
        if self.session.hang_up:
            self._lose(self._socket, "")

    def close(self) -> None:
        """Give everything back."""
        if self._socket is not None:
            self._socket.close()
        self._closed = True
        self._drop_dialled()
        self._selector.close()
        self._dialled.close()

    def _dial_in_thread(self) -> None:
        try:
            self._dialled.put(self._dial(self.host, self.port))
        except (OSError, UnicodeError) as error:
            self._dialled.put(error)
        if self._closed:
            self._drop_dialled()

    def _drop_dialled(self) -> None:
        for result in self._dialled.take():
            if isinstance(result, socket.socket):
                result.close()

    def _take_dialled(self, result: socket.socket | Exception) -> None:
        self._dialling = False
        if isinstance(result, Exception):
            words = dial_words(self.host, self.port, result)
            if self.has_met:
                self._dial_later(words)
            else:
                self._events.append(Unreachable(words))
            return
        self.has_met = True
        self._socket = result
        self._selector.register(result, selectors.EVENT_READ)
        self.session.connected(self.now())

    def _dial_later(self, words: str) -> None:
        seconds = min(RETRY_MOST, RETRY_FIRST * 2.0 ** min(self._attempts, 10)) * (0.5 + self._chance() / 2)
        self._attempts += 1
        self._dial_at = self.now() + seconds
        self._events.append(Dialling(words, seconds))

    def _read(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._lose(sock, "connection lost")
            return
        if data:
            self.session.feed(data, self.now())
        else:
            self._lose(sock, "the server closed the connection")

    def _write(self, sock: socket.socket) -> None:
        if self._unsent:
            try:
                del self._unsent[: sock.send(self._unsent)]
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self._unsent.clear()  # the end of the connection is about to be read, behind the server's last words
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        if self._selector.get_key(sock).events != wanted:
            self._selector.modify(sock, wanted)

    def _lose(self, sock: socket.socket, why: str) -> None:
        self._selector.unregister(sock)
        sock.close()
        self._socket = None
        self._unsent.clear()
        if self.session.logged_in:
            self._attempts = 0
        self.session.disconnected(self.now(), why)
        if self.session.wants_link:
            self._dial_later("")


# --- For scripts ----------------------------------------------------------------------------------------------------


class ChatError(Exception):
    """What `Client` raises: `code` is a word of protocol.Code or CLIENT_CODES, or "unreachable"; `words` is text."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(f"{words} ({code})")
        self.code = code
        self.words = words


class Client:
    """A person made of code. One thread; it comes back by itself after a lost connection or a restart of the server.

        with Client("192.168.1.5", 5000) as client:
            client.login("bot", password)
            client.send("alice", "good morning")
            for message in client.messages():
                client.send(message.sender, message.text)

    It lives while you call it: without a call for 45 s the server takes the connection for dead, and 60 s after that
    the session ends. A message counts as shown (its sender is told so) when it has been read into this process; of
    those that nobody asks for with `messages` the newest 10,000 are kept.
    """

    INBOX_MAX = 10_000

    def __init__(self, host: str, port: int, *, timeout: float = 60.0) -> None:
        """`timeout`: seconds after which a call gives up with TimeoutError, lost connections included."""
        self.timeout = timeout
        self._session = ClientSession(int(time.time() * 1_000_000))
        self._link = Link(host, port, self._session)
        self._inbox: deque[protocol.Message] = deque(maxlen=self.INBOX_MAX)
        self._awaited: dict[int, Event | None] = {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str | None:
        """Who this client is logged in as, or None."""
        return self._session.name

    def register(self, name: str, password: str) -> None:
        """Make an account; log in afterwards. ChatError `name-taken`, `bad-password`, …"""
        self._await(self._session.register(name, password), self.timeout)

    def login(self, name: str, password: str, *, takeover: bool = False) -> None:
        """Log in; with `takeover` ending a session that is online under this name. ChatError `bad-login`, …"""
        ask = self._session.takeover if takeover else self._session.login
        self._await(ask(name, password), self.timeout)

    def send(self, recipient: str, text: str, *, timeout: float | None = None) -> None:
        """Send, and return when the recipient has been shown it. ChatError `not-online`, `not-delivered`, …

        TimeoutError if its fate is not known in time; it may still arrive then.
        """
        self._await(self._session.send(recipient, text), self.timeout if timeout is None else timeout)

    def who(self) -> list[str]:
        """Who is online, oneself included; a `~` stands before those whose connection is lost."""
        answer = self._await(self._session.who(), self.timeout)
        return answer.words.split() if isinstance(answer, protocol.Answer) else []

    def messages(self, timeout: float | None = None) -> Iterator[protocol.Message]:
        """The messages, as they come: sender, id, time (Unix seconds), text. It ends after `timeout` seconds without
        one; None: never."""
        while True:
            until = None if timeout is None else self._link.now() + timeout
            while not self._inbox:
                if until is not None and self._link.now() >= until:
                    return
                self._turn(until)
            yield self._inbox.popleft()

    def logout(self) -> None:
        """Log out; others see it at once."""
        self._await(self._session.logout(), self.timeout)

    def close(self) -> None:
        """Log out if logged in, and close the connection. May be called twice."""
        if self._session.logged_in and self._link.is_up:
            with contextlib.suppress(ChatError, TimeoutError):
                self._await(self._session.logout(), LOGOUT_SECONDS)
        self._link.close()

    def _await(self, tag: int, timeout: float) -> Event:
        """Work until the command with this tag is answered."""
        until = self._link.now() + timeout
        self._awaited[tag] = None
        try:
            while (event := self._awaited[tag]) is None:
                if self._link.now() >= until:
                    raise TimeoutError("no answer in time")
                self._turn(until)
        finally:
            del self._awaited[tag]
        if isinstance(event, (protocol.Refused, protocol.Failed)):
            raise ChatError(event.code, event.words)
        return event

    def _turn(self, until: float | None) -> None:
        self._link.tick()
        self._link.flush()
        self._link.wait(until)
        self._link.tick()
        events = self._link.take_events()
        self._link.flush()
        for event in events:
            self._sort(event)

    def _sort(self, event: Event) -> None:
        tag = getattr(event, "tag", None)
        if isinstance(event, protocol.Message):
            self._inbox.append(event)
        elif tag in self._awaited and not isinstance(event, protocol.Waiting):
            self._awaited[tag] = event
        elif isinstance(event, Unreachable):
            self._session.abandon()
            raise ChatError("unreachable", event.words)
        elif isinstance(event, protocol.LoginNeeded):
            raise ChatError(event.code, event.words)
        elif isinstance(event, protocol.LinkLost) and event.bye == protocol.Bye.REPLACED.value:
            raise ChatError("replaced", event.words)


# --- What happened, as text -----------------------------------------------------------------------------------------


class Note(NamedTuple):
    """Words of this program itself: help, or what was wrong with a line that was typed."""

    words: str
    failed: bool = False


Shown = Event | Note


def safe(text: str) -> str:
    """`text` in one line that cannot do anything to a terminal: what has no width of its own is written out."""
    return "".join(SHORT.get(c) or (c if unicodedata.category(c)[0] not in "CZ" or c == " " else f"<U+{ord(c):04X}>")
                   for c in text)  # fmt: skip


SHORT = {"\n": "\\n", "\t": "\\t", "\\": "\\\\"}


def clock_time(wall: float, pattern: str = "%H:%M:%S") -> str:
    """Unix seconds in local time."""
    try:
        return time.strftime(pattern, time.localtime(wall))
    except (OverflowError, OSError, ValueError):
        return "??:??:??"  # a server's nonsense


def names(online: tuple[str, ...], lost: tuple[str, ...] = ()) -> str:
    """A roster in words."""
    return " ".join([*online, *("~" + name for name in lost)]) or "nobody"


def presence_words(changes: protocol.Presence) -> list[str]:
    """A sentence for each change."""
    kinds = zip(changes, ("is online", "has left", "lost the connection", "is back"), strict=True)
    return [f"{name} {what}" for people, what in kinds for name in people]


def login_words(event: protocol.LoggedIn) -> str:
    """Who one is and when one was here before, as ssh tells it."""
    words = f"you are {event.name}"
    if event.last is not None:
        words += f"; last login {clock_time(event.last, '%Y-%m-%d %H:%M')}"
    if event.failed:
        words += f", {event.failed} failed attempt{'s' * (event.failed > 1)} since"
    return words


def answer_words(event: protocol.Answer) -> str:
    """The OK to a command."""
    words = {
        "REGISTER": f"{event.words} is registered",
        "WHO": f"online: {event.words}",
        "PASSWD": "the password is changed",
        "LOGOUT": "logged out",
    }
    return words.get(event.verb, f"{event.verb} {event.words}".rstrip())


def back_words(event: protocol.Back) -> str:
    """What a lost connection has cost."""
    changes = presence_words(event.changes)
    if event.messages:
        changes.insert(0, f"{event.messages} message{'s' * (event.messages > 1)}")
    return f"back as {event.name} after {event.seconds:.0f} s" + ": " * bool(changes) + ", ".join(changes)


# Each event as lines of text. `--` is for information, `!!` for what failed; the others are messages.
WORDS: dict[type, Callable[[Any], list[str]]] = {
    Note: lambda e: [("!! " if e.failed else "-- ") + line for line in e.words.split("\n")],
    Dialling: lambda e: [f"-- {e.words + '; ' if e.words else ''}trying again in {e.seconds:.0f} s"],
    Unreachable: lambda e: [f"!! {e.words}"],
    protocol.Linked: lambda e: ["-- connected"],
    protocol.LoggedIn: lambda e: ["-- " + login_words(e)],
    protocol.Roster: lambda e: ["-- online: " + names(e.online, e.lost)],
    protocol.Presence: lambda e: ["-- " + words for words in presence_words(e)],
    protocol.Message: lambda e: [f"{clock_time(e.time)} {e.sender}: {e.text}"],
    protocol.Delivered: lambda e: [f"{clock_time(time.time())} -> {e.recipient}: {e.text}"],
    protocol.Failed: lambda e: [f"!! not delivered to {e.recipient} ({e.code}: {e.words}): {e.text}"],
    protocol.Waiting: lambda e: [f"-- {e.recipient} has not got this yet: {e.text}"],
    protocol.Answer: lambda e: ["-- " + answer_words(e)],
    protocol.Refused: lambda e: [f"!! {e.verb or 'refused'}: {e.words} ({e.code})"],
    protocol.NotYet: lambda e: [f"-- not back yet: {e.words}; trying again in {e.seconds:.0f} s"],
    protocol.LoginNeeded: lambda e: [f"!! log in again as {e.name}: {e.words} ({e.code})"],
    protocol.LinkLost: lambda e: ["-- " + e.words],
    protocol.NotVessages: lambda e: ["!! " + e.words],
    protocol.Back: lambda e: ["-- " + back_words(e)],
}


def words_of(event: Shown) -> list[str]:
    """An event as lines that are safe to print, each complete in itself."""
    return [safe(line) for line in WORDS[type(event)](event)]


def json_of(event: Shown) -> str:
    """An event as one line of JSON: its kind, then its fields; times on the wire's format. ASCII only."""
    kind = "".join("_" * c.isupper() + c.lower() for c in type(event).__name__).lstrip("_")
    fields: dict[str, object] = {"event": kind}
    for name, value in event._asdict().items():
        if isinstance(event, protocol.Back) and name == "changes":
            fields |= value._asdict()
        elif name in ("time", "last") and value is not None:
            fields[name] = protocol.format_time(value)
        else:
            fields[name] = value
    return json.dumps(fields)


# --- The front ends -------------------------------------------------------------------------------------------------


def read_lines(descriptor: int, mailbox: Mailbox) -> None:
    """In a thread: put each line of a pipe, file or terminal into the mailbox, then None. Of a line that is longer
    than a message can be, no more is kept than is needed to say so."""
    rest = b""
    while data := _read_some(descriptor):
        *lines, rest = (rest + data).split(b"\n")
        rest = rest[: LINE_MAX * 4]
        for line in lines:
            mailbox.put(line.decode("utf-8", "replace").rstrip("\r"))
    if rest:
        mailbox.put(rest.decode("utf-8", "replace").rstrip("\r"))
    mailbox.put(None)


def _read_some(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, READ_SIZE)
    except OSError:
        return b""  # the terminal is gone


class Plain:
    """One event a line, no escapes, no prompt: for pipes, files, scripts and dumb terminals."""

    interactive = False  # whether there is a person, who can be asked and who reads hints
    deadline: float | None = None  # when `lines` wants to be called even if nothing happens

    def __init__(self, out: TextIO, *, as_json: bool = False) -> None:
        self.mailbox = Mailbox(LINES_WAITING)
        self._out = out
        self._as_json = as_json

    def start(self, link: Link) -> None:
        """Begin to read what is typed; the link wakes up for it."""
        link.watch(self.mailbox)
        threading.Thread(target=read_lines, args=(0, self.mailbox), daemon=True).start()

    def show(self, event: Shown) -> None:
        """Print an event; OSError if nobody reads any more."""
        for line in [json_of(event)] if self._as_json else words_of(event):
            self._out.write(line + "\n")

    def flush(self) -> None:
        """Called once a turn, when all was shown."""
        self._out.flush()

    def lines(self, most: int) -> list[str | None]:
        """At most `most` lines that were typed; None is the end of them."""
        return self.mailbox.take(most)

    def ask(self, prompt: str, then: Callable[[str], None]) -> bool:
        """Ask for a password and call `then` with it. False: there is nobody to ask."""
        return False

    def close(self) -> None:
        """Give everything back as it was."""
        self.mailbox.close()


class Terminal(Plain):
    """A person at a terminal: passwords are asked for without echo."""

    interactive = True

    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self._then: deque[tuple[str, Callable[[str], None]]] = deque()

    def lines(self, most: int) -> list[str | None]:
        lines: list[str | None] = []
        for line in super().lines(most):
            if self._then and line is not None:
                _, then = self._then.popleft()
                self._out.write("\n")
                self._prompt()
                then(line)
            else:
                lines.append(line)
        return lines

    def ask(self, prompt: str, then: Callable[[str], None]) -> bool:
        self._then.append((prompt, then))
        self._prompt()
        return True

    def close(self) -> None:
        self._then.clear()
        self._prompt()
        super().close()

    def _prompt(self) -> None:
        """Hide what is typed while a password is asked for."""
        set_echo(not self._then)
        if self._then:
            self._out.write(self._then[0][0])
        self._out.flush()


def set_echo(on: bool) -> None:
    """Whether the terminal shows what is typed."""
    try:
        import termios
    except ImportError:
        return
    settings = termios.tcgetattr(0)
    settings[3] = settings[3] | termios.ECHO if on else settings[3] & ~termios.ECHO
    termios.tcsetattr(0, termios.TCSANOW, settings)


# --- What the lines mean --------------------------------------------------------------------------------------------


class Chat:
    """A front end, a link, and what is typed in the one for the other."""

    def __init__(self, link: Link, front: Plain, *, user: str | None, to: str | None, secret: str | None) -> None:
        """`user` is logged in at the start, `to` gets what is no command, `secret` stands in for a password that was
        left out."""
        self.link, self.front, self.session = link, front, link.session
        self.to = to
        self.failed = False  # whether any command or message failed
        self.status: int | None = None  # the exit status, once it is over
        self._user, self._secret = user, secret
        self._met = False
        self._registering: dict[int, tuple[str, str]] = {}  # tag -> who will log in with what, once registered
        self._attempt = ("", "")  # the last login that was tried
        self._last_sender = ""
        self._leave_at: float | None = None
        self._logging_out = False
        self._interrupts = 0

    def run(self) -> int:
        """Until it is over; the exit status."""
        self.begin()
        while self.status is None:
            self.turn()
        return self.status

    def begin(self) -> None:
        """Once, before the first turn."""
        self.front.start(self.link)
        if self._user is not None:
            self.log_in(self._user)

    def turn(self, until: float | None = None) -> None:
        """Wait until something happens, at the latest `until`, and deal with it."""
        deadlines = [until, self._leave_at, self.front.deadline]
        self.link.wait(min((d for d in deadlines if d is not None), default=None))
        if self._interrupts:
            self._interrupts -= 1
            self.leave(LEAVE_SECONDS if self.link.is_up else 0.0)
        while self.session.has_room and (lines := self.front.lines(1)):
            self._take_line(lines[0])
        self.link.tick()
        self._show_events()
        self.link.flush()
        self._go_on_leaving()

    def _show_events(self) -> None:
        try:
            for event in self.link.take_events():
                self._react(event)
            self.front.flush()
        except BrokenPipeError:  # nobody reads what is shown: `… | head` has seen enough
            self.front.show = lambda event: None  # type: ignore[method-assign]
            self.leave()

    # Lines

    def _take_line(self, line: str | None) -> None:
        if line is None:
            self.leave(PIPE_LEAVE_SECONDS)
        elif self.to is not None and not self.front.interactive:
            if line:  # an empty message is none, and logs are full of empty lines
                self.session.send(self.to, line)
        elif line.strip():
            self.do(line)

    def do(self, line: str) -> None:
        """A line that was typed: a command with a slash, a command as on the wire, or text for whom `to` names."""
        word, _, rest = line.partition(" ")
        name = word[1:].lower() if word[0] == "/" else BARE.get(word, "")
        command = COMMANDS.get(name)
        if word.startswith("//"):
            self._say_to_target(line[1:])
        elif command is None and word[0] == "/":
            self.note(f"there is no {word}: /help lists the commands", failed=True)
        elif command is None:
            self._say_to_target(line)
        elif not command.run(self, rest):
            self.note(f"it is used like this: {command.usage}", failed=True)

    def _say_to_target(self, text: str) -> None:
        if self.to is None:
            self.note("to whom? /msg NAME TEXT, or /to NAME first; /help lists the commands", failed=True)
        else:
            self.session.send(self.to, text)

    def note(self, words: str, *, failed: bool = False) -> None:
        """Words of our own."""
        self._react(Note(words, failed))

    # Commands: each returns False if it cannot be meant like this

    def with_password(self, then: Callable[[str], object], prompt: str = "password: ") -> None:
        """Call `then` with a password that was left out: the secret that was given, or one that is asked for."""
        if self._secret is not None:
            then(self._secret)
        elif not self.front.ask(prompt, lambda password: self._with_typed(password, then)):
            self.note("a password is missing: set VESSAGES_PASSWORD or use --password-file", failed=True)

    def _with_typed(self, password: str, then: Callable[[str], object]) -> None:
        if password:
            then(password)
        else:
            self.note("no password, so nothing was done")

    def log_in(self, arguments: str, *, takeover: bool = False) -> bool:
        """LOGIN or TAKEOVER, NAME [PASSWORD]. A TAKEOVER without anything repeats the login that was refused."""
        name, _, password = arguments.strip(" ").partition(" ") if " " not in arguments else arguments.partition(" ")
        if not name and takeover and self._attempt[0]:
            name, password = self._attempt
        if not name:
            return False
        ask = self.session.takeover if takeover else self.session.login

        def go(password: str) -> None:
            self._attempt = (name, password)
            ask(name, password)

        if password:
            go(password)
        else:
            self.with_password(go, f"password of {safe(name)}: ")
        return True

    def register(self, arguments: str) -> bool:
        """REGISTER NAME [PASSWORD]. A person is then logged in; a script says so itself."""
        name, _, password = arguments.partition(" ")

        def go(password: str) -> None:
            self._registering[self.session.register(name, password)] = (name, password)

        def again(first: str) -> None:
            self.front.ask("the same again: ", lambda second: go(first) if first == second else differ())

        def differ() -> None:
            self.note("the two are not the same, so nothing was done", failed=True)

        if not name:
            return False
        if password:
            go(password)
        elif self._secret is None and self.front.interactive:
            self.with_password(again, f"a password for {safe(name)}, at least 8 characters: ")
        else:
            self.with_password(go)
        return True

    def passwd(self, arguments: str) -> bool:
        """PASSWD [OLD NEW]"""
        old, _, new = arguments.partition(" ")
        if arguments and (not new or " " in new):
            return False
        if arguments:
            self.session.passwd(old, new)
            return True

        def go(old: str, new: str) -> None:
            self.session.passwd(old, new)

        def ask_new(old: str) -> None:
            self.front.ask("the new one: ", lambda new: go(old, new))

        return self.front.ask("the password so far: ", ask_new)

    def message(self, arguments: str) -> bool:
        """SEND NAME TEXT"""
        name, _, text = arguments.partition(" ")
        if not name or not text:
            return False
        self.session.send(name, text)
        return True

    def reply(self, text: str) -> bool:
        """To whoever wrote last."""
        if not text:
            return False
        if self._last_sender:
            self.session.send(self._last_sender, text)
        else:
            self.note("nobody has written yet", failed=True)
        return True

    def aim(self, name: str) -> bool:
        """Whom plain text goes to from now on."""
        if " " in name:
            return False
        self.to = name or None
        self.note(f"what you type goes to {name}" if name else "what you type goes to nobody")
        return True

    def simple(self, ask: Callable[[], object]) -> bool:
        """A command without arguments."""
        ask()
        return True

    def help(self, name: str) -> bool:
        """All commands, or one."""
        commands = [COMMANDS[name.lstrip("/").lower()]] if name.lstrip("/").lower() in COMMANDS else COMMANDS.values()
        self.note("\n".join(f"{command.usage:<28} {command.help}" for command in commands))
        return True

    # Events

    def _react(self, event: Shown) -> None:
        """Show an event, and do what follows from it."""
        if isinstance(event, Unreachable) or (isinstance(event, protocol.NotVessages) and not self._met):
            print(f"{Path(sys.argv[0]).name}: {safe(event.words)}", file=sys.stderr)
            self.status = 2
            return
        self.failed |= isinstance(event, (protocol.Refused, protocol.Failed)) or getattr(event, "failed", False) is True
        self.front.show(event)
        if isinstance(event, protocol.Message):
            self._last_sender = event.sender
        elif isinstance(event, protocol.Answer) and event.tag in self._registering:
            name, password = self._registering.pop(event.tag)
            if self.front.interactive:
                self.log_in(f"{name} {password}")
        elif isinstance(event, protocol.Refused):
            self._explain(event)
        elif isinstance(event, protocol.Linked) and not self._met:
            self._met = True
            if self.front.interactive and self._user is None:
                self.note("/login NAME, or /register NAME if you are new here; /help lists the commands")
        elif isinstance(event, protocol.LoggedIn):
            self._attempt = ("", "")

    def _explain(self, event: protocol.Refused) -> None:
        self._registering.pop(event.tag, None)
        if self.front.interactive and event.code == protocol.Code.ALREADY_ONLINE.word:
            self.note("/takeover ends the other session and logs you in here")

    # Leaving

    def interrupt(self) -> None:
        """Ctrl-C or SIGTERM, in the middle of anything: remember it and wake the loop."""
        self._interrupts += 1
        self.front.mailbox.wake()

    def leave(self, patience: float = LEAVE_SECONDS) -> bool:
        """Log out and go, when all is answered, at most `patience` seconds later. Asked twice: at once."""
        if self._leave_at is not None:
            self.status = int(self.failed)
        self._leave_at = self.link.now() + patience
        return True

    def _go_on_leaving(self) -> None:
        if self._leave_at is None or self.status is not None:
            return
        busy = self.session.unanswered or not self.link.has_met
        if busy and self.link.now() < self._leave_at:
            return
        if self._logging_out or not self.session.logged_in:
            self.session.abandon()
            self._show_events()
            self.status = int(self.failed and not self.front.interactive)
            return
        self.session.abandon()
        self.session.logout()
        self._logging_out, self._leave_at = True, self.link.now() + LOGOUT_SECONDS


class Verb(NamedTuple):
    """A command that can be typed: how it is used, what it does, and who does it."""

    usage: str
    help: str
    run: Callable[[Chat, str], bool]


COMMANDS = {
    "register": Verb("/register NAME", "make an account", Chat.register),
    "login": Verb("/login NAME", "log in", Chat.log_in),
    "takeover": Verb(
        "/takeover NAME", "log in and end your session elsewhere", lambda c, a: c.log_in(a, takeover=True)
    ),
    "logout": Verb("/logout", "log out and stay connected", lambda c, a: c.simple(c.session.logout)),
    "who": Verb("/who", "who is online; ~ means the connection is lost", lambda c, a: c.simple(c.session.who)),
    "msg": Verb("/msg NAME TEXT", "send a message", Chat.message),
    "r": Verb("/r TEXT", "reply to whoever wrote last", Chat.reply),
    "to": Verb("/to NAME", "send what you type to NAME from now on", Chat.aim),
    "passwd": Verb("/passwd", "change your password", Chat.passwd),
    "ping": Verb("/ping", "ask the server for a sign of life", lambda c, a: c.simple(lambda: c.session.ping(a))),
    "help": Verb("/help [COMMAND]", "this list", Chat.help),
    "quit": Verb("/quit", "log out and leave", lambda c, a: c.leave()),
}
# The same as they stand on the wire, in capitals, for scripts and old hands.
BARE = {name.upper(): name for name in COMMANDS if len(name) > 3 and name != "help"} | {"WHO": "who", "SEND": "msg"}
PIPE_LEAVE_SECONDS = 30.0  # at the end of a pipe: a script wants the fates more than it minds the time


# --- The command line -----------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. Use it like this: python client.py 192.168.1.5 5000 (or --help)\n")


def arguments_of(argv: list[str]) -> argparse.Namespace:
    """The command line, understood; what is wrong with it goes to standard error, with status 2."""
    parser = Parser(
        prog="client.py",
        description="Chat on a Vessages server.",
        epilog="Example: python client.py 192.168.1.5 5000. Passwords are asked for; scripts put theirs into the "
        "environment as VESSAGES_PASSWORD or into a file.",
    )
    parser.add_argument("host", metavar="HOST", help="the server's name or address")
    parser.add_argument("port", metavar="PORT", type=port_number, help="its port, like 5000")
    parser.add_argument("--user", metavar="NAME", help="log in as NAME at once")
    parser.add_argument("--password-file", metavar="FILE", type=Path, help="the password is the first line of FILE")
    parser.add_argument("--to", metavar="NAME", help="send what is typed to NAME; from a pipe every line is a message")
    parser.add_argument("--plain", action="store_true", help="one event a line and no prompt, as in a pipe")
    parser.add_argument("--json", action="store_true", help="as --plain, each line a JSON object")
    parser.add_argument("--version", action="version", version=f"Vessages {VERSION}")
    return parser.parse_args(argv)


def port_number(text: str) -> int:
    """A port of the command line."""
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a number from 1 to 65535, like 5000")
    return int(text)


def given_secret(file: Path | None) -> str | None:
    """The password of the file or the environment, or None. OSError if the file cannot be read."""
    if file is not None:
        return file.read_text(encoding="utf-8").split("\n")[0].rstrip("\r")
    return os.environ.pop("VESSAGES_PASSWORD", None)


def main(argv: list[str]) -> int:
    """Run a client; the exit status: 0, 1 if a command of a script failed, 2 if there is no server or no sense."""
    options = arguments_of(argv)
    try:
        secret = given_secret(options.password_file)
    except (OSError, UnicodeError) as error:
        print(f"client.py: the password file cannot be read: {error}", file=sys.stderr)
        return 2
    plain = options.plain or options.json or not (os.isatty(0) and os.isatty(1))
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    front = Plain(sys.stdout, as_json=options.json) if plain else Terminal(sys.stdout)
    link = Link(options.host, options.port, ClientSession(int(time.time() * 1_000_000)))
    chat = Chat(link, front, user=options.user, to=options.to, secret=secret)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: chat.interrupt())
    signal.set_wakeup_fd(front.mailbox.waker, warn_on_full_buffer=False)  # else Windows sleeps on
    try:
        return chat.run()
    finally:
        front.close()
        link.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
