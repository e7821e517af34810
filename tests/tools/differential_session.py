"""The client's half of differential.py: a ClientSession, its server and its person, played by a random trace.

The server is no hub but something that knows the protocol and does whatever it allows, in any order, and now and then
what it does not allow: numbers with a hole, answers to nothing, half a frame, another program's words.
"""

from __future__ import annotations

import random
import types
from typing import Any

FIRST = 1_795_359_845_000_000
WALL = 1_795_359_845.0
NAMES = ("bob", "eve", "Ann", "dan", "ёж")
PASSWORD = "correct horse"
ERRORS = (
    "bad-login wrong", "already-online since 12:00", "throttled 4 seconds", "busy 3 seconds", "busy",
    "storage the disk", "not-online nobody", "unconfirmed", "logged-in", "not-logged-in", "bad-command",
    "not-delivered", "no-such-code x",
)  # fmt: skip
NONSENSE = (
    b"", b"\xff\xfe", b"HELLO", b"MSG eve", b"@0 OK PING", b"#99999999999999999 OK PING", b"OK KEEP soon",
    b"OK", b"ERROR", b"MSG eve 1 noon hi", b"MSG eve 1 1969-12-31T23:59:59.000Z hi", b"#0 ERROR busy x", b"ERROR b x",
    b"ONLINE", b"PRESENCE +a +b +c +d +e +f", b"OK PING",
)  # fmt: skip
# So small that every limit is reached again and again.
LIMITS = {"SENDS_UNDER_WAY": 4, "QUEUE_MAX": 12, "QUEUE_BYTES_MAX": 3000, "SHOWN_MAX": 6, "ROSTER_MAX": 9}


class SessionPlayer:
    """A session, its clock, its link and its server, played by a random trace. What it does goes into `log`."""

    def __init__(self, module: types.ModuleType, seed: int) -> None:
        self.module, self.chance = module, random.Random(seed)
        self.session = module.ClientSession(FIRST)
        self.now = 1000.0
        self.session.tick(self.now)
        self.session.wall = WALL if self.chance.random() < 0.9 else 0.0
        self.showing = True  # False: the screen is stopped
        self.events: list[Any] | None = None  # taken and not yet shown
        self.log: list[str] = []
        # The server, as far as it is one.
        self.up = False
        self.decoder: Any = None
        self.asked: list[tuple[str, str, str]] = []  # unanswered on this link: tag, verb, rest
        self.number: int | None = None  # of the last numbered frame of the session; None: not kept
        self.held: list[str] = []  # numbered frames of the session, for a RESUME
        self.ended: list[str] = []  # tags that the session had read when the last link was lost
        self.is_in = False
        self.id = 0

    def step(self) -> None:
        """One thing that happens, and a turn."""
        kind = self.chance.choices(
            ("ask", "answer", "speak", "link", "cut", "wait", "suspend", "nonsense", "look", "stall"),
            (22, 40, 25, 4 if self.up else 60, 2.5, 8, 0.7, 0.7, 4, 1 if self.showing else 8),
        )[0]
        getattr(self, "_" + kind)()
        self._turn()

    def _turn(self) -> None:
        session, chance = self.session, self.chance
        self.log.append(f"deadline {self._due()}")
        session.tick(self.now)
        if self.events is None and self.showing and chance.random() < 0.9:
            self.events = session.take_events()
            self.log += [f"{type(event).__name__}{tuple(event)}" for event in self.events]
        if self.events is not None and self.showing and chance.random() < 0.9:
            self.events = None
            session.shown()
        if self.up and (chance.random() < 0.95 or session.hang_up):
            self._hear(self.session.take_output())
            if session.hang_up:
                self._lose("hung up")
        facts = (session.hang_up, session.unanswered, session.has_room, session.logged_in, session.wants_link)
        undelivered = [(command.tag, command.name, command.text[:5]) for command in session.undelivered]
        here = f"{session.name} {session.grace} {session.online} {sorted(session.roster.items())}"
        self.log.append(f"{facts} {here} {undelivered}")

    def _due(self) -> float | None:
        due = self.session.next_deadline()
        return None if due is None else round(due, 6)

    # The client's end

    def _ask(self) -> None:
        session, chance, text = self.session, self.chance, self.chance.choice(("hi", "x" * 200, "y" * 900, "ё\nz"))
        name = chance.choice((*NAMES, "bob", "bob", "two words", ""))
        asks = (
            (lambda: session.send(name, text), 30),
            (lambda: session.login(name, PASSWORD, patient=chance.random() < 0.3), 8),
            (lambda: session.takeover(name, PASSWORD), 3),
            (lambda: session.register(name, PASSWORD), 2),
            (session.who, 4),
            (lambda: session.ping("x"), 3),
            (lambda: session.passwd(PASSWORD, "battery staple"), 4),
            (session.logout, 2),
            (session.abandon, 0.3),
            (lambda: session.send("eve", "x" * 70_000), 0.2),
        )
        for _ in range(chance.choice((1, 1, 1, 3, 8))):
            self.log.append(f"asks {chance.choices([ask for ask, _ in asks], [weight for _, weight in asks])[0]()}")

    def _link(self) -> None:
        if not self.up and self.chance.random() < 0.9:
            self.up, self.is_in, self.asked = True, False, []
            self.decoder = self.module.FrameDecoder(self.module.CLIENT_FRAME_MAX)
            self.session.connected(self.now)

    def _cut(self) -> None:
        if self.up:
            self._lose("connection lost")

    def _lose(self, why: str) -> None:
        self.up = False
        self.session.disconnected(self.now, why)

    def _wait(self) -> None:
        end = self.now + self.chance.choice((0.01, 1.0, 3.0, 5.0, 16.0, 26.0, 46.0, 70.0))
        for _ in range(99):
            due = self._due()
            if due is None or due >= end:
                break
            self.now = max(due, self.now + 1.0 * (due <= self.now))  # a screen that is stopped is waited for
            if self.session.wall:
                self.session.wall = WALL + self.now
            self._turn()
        self.now = max(self.now, end)

    def _suspend(self) -> None:
        self.log.append(f"deadline {self._due()}")
        self.now += self.chance.choice((6.0, 20.0, 50.0, 200.0))

    def _stall(self) -> None:
        self.showing = not self.showing

    def _look(self) -> None:
        self.session.tick(self.now)

    # The server's end

    def _say(self, *payloads: str) -> None:
        data = b"".join(self.module.frame(payload.encode()) for payload in payloads)
        while data and self.up:
            size = self.chance.choice((len(data), len(data), len(data), 3, 30))
            self.session.feed(data[:size], self.now)
            data = data[size:]

    def _say_numbered(self, words: str) -> None:
        if not self.is_in:
            return
        if self.number is not None:
            self.number += 1
            words = f"@{self.number} {words}"
            self.held.append(words)
        self._say(words)

    def _hear(self, data: bytes) -> None:
        self.decoder.feed(data)
        for payload in self.decoder.payloads():
            self.log.append(f"<- {payload!r}")
            tag, _, words = payload.decode().rpartition("#")[2].partition(" ") if payload[:1] == b"#" else ("", "", "")
            verb, _, rest = (words or payload.decode()).partition(" ")
            if verb == "KEEP":
                self.keep = self.chance.random() < 0.9
                self.asked.append(("", "KEEP", ""))
            elif verb != "ACK":
                self.asked.append((tag, verb, rest))
                if self.is_in and tag:
                    self.ended.append(tag)

    def _answer(self) -> None:
        for _ in range(self.chance.choice((1, 1, 2, 5))):
            if self.asked and self.up:
                late = [index for index, (_, verb, _) in enumerate(self.asked) if verb == "SEND"]
                early = bool(late) and self.chance.random() < 0.2  # only the fate of a message may overtake
                self._answer_one(*self.asked.pop(late[-1] if early else 0))

    def _answer_one(self, tag: str, verb: str, rest: str) -> None:
        mark, chance = f"#{tag} " * bool(tag), self.chance
        numbered = self._say_numbered if self.is_in else self._say
        if verb == "KEEP":
            self._say("OK KEEP 60" if self.keep else "ERROR bad-command no KEEP")
        elif verb == "PING" and not tag:
            self._say("OK PING")
        elif verb == "RESUME":
            self._resume(mark, rest)
        elif chance.random() < 0.25:
            numbered(f"{mark}ERROR {chance.choice(ERRORS)}")
        elif verb in ("LOGIN", "TAKEOVER"):
            self._log_in(mark, verb, rest.partition(" ")[0])
        elif verb == "LOGOUT":
            self.is_in, self.number, self.held, self.ended = False, None, [], []
            self._say(f"{mark}OK LOGOUT")
        else:
            numbered(f"{mark}OK {verb} x".rstrip("x "[verb not in ("WHO", "PING") :]))

    def _log_in(self, mark: str, verb: str, name: str) -> None:
        self.is_in, self.number, self.held, self.ended = True, 0 if self.keep else None, [], []
        facts = " last=2026-11-22T12:00:00.000Z failed=2" * (self.chance.random() < 0.3)
        self._say(f"{mark}OK {verb} {name}{' token=t' * self.keep}{facts}")
        if self.chance.random() < 0.9:
            self._say(self._roster())

    def _resume(self, mark: str, rest: str) -> None:
        chance, seq = self.chance, int(rest.rpartition(" ")[2])
        if chance.random() < 0.4:
            refusals = ("unknown-session over", "unknown-session over", "busy 2 x", "storage x", "throttled 9")
            self._say(f"{mark}ERROR {chance.choice(refusals)}")
            return
        last = chance.choice((*self.ended[-6:], "0"))
        held = [words for words in self.held if int(words[1:].partition(" ")[0]) > seq]
        if last == "0" and chance.random() < 0.7:
            held, self.number = [], seq
        wrong = chance.random() < 0.03
        self.is_in, self.number = True, max(self.number or 0, seq) if self.number is not None else seq
        self._say(f"{mark}OK RESUME bob {last} {seq + wrong}", *held)
        if chance.random() < 0.9:
            self._say(self._roster())

    def _roster(self) -> str:
        chance = self.chance
        return "ONLINE " + " ".join(f"{chance.choice(('', '', '~'))}{name}" for name in NAMES if chance.random() < 0.7)

    def _speak(self) -> None:
        chance = self.chance
        kinds = ("msg", "presence", "roster", "ping", "bye", "hole", "again")
        kind = chance.choices(kinds, (50, 15, 4, 8, 2, 0.5, 3))[0]
        if kind == "msg" and self.is_in:
            self.id += 1
            number = chance.choice((self.id, self.id, 0, max(1, self.id - chance.randint(1, 9))))
            stamp = self.module.format_time(WALL + self.now + chance.choice((0.0, 100.0, -0.5, -30.0)))
            self._say_numbered(f"MSG {chance.choice(NAMES)} {number} {stamp} {chance.choice(('hi', 'x' * 50, ''))}")
        elif kind == "presence" and self.is_in:
            words = [chance.choice("+-~") + chance.choice(NAMES) for _ in range(chance.randint(1, 3))]
            self._say("PRESENCE " + " ".join(words))
        elif kind == "roster" and self.is_in:
            self._say(self._roster())
        elif kind == "ping":
            self._say("PING")
        elif kind == "bye" and self.up:
            self._say("BYE " + chance.choice(("shutdown", "slow", "silent", "full", "resumed", "replaced", "why")))
        elif kind == "hole" and self.number is not None:
            self._say(f"@{self.number + 2} MSG eve 0 2026-11-22T12:00:00.000Z hole")
        elif kind == "again" and self.held:
            self._say(chance.choice(self.held))

    def _nonsense(self) -> None:
        if self.up:
            self._say(self.chance.choice(NONSENSE).decode("latin-1") or "x")
            if self.chance.random() < 0.3:
                self.session.feed(self.chance.randbytes(9), self.now)
