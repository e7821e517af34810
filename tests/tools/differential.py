"""Plays the same random traces on the hub of an older commit and on the one in this folder, and compares all they say.

    python tests/tools/differential.py HEAD~1 --seeds 500
    python tests/tools/differential.py HEAD~1 --seeds 500 --part session      the same with the client's end
    python tests/tools/differential.py HEAD~1 --seeds 500 --part terminal     with its keys, its editor and its screen

A trace is what happens to a hub: connections come and go, bytes arrive in any pieces, readers stop and go on, workers
take their time, the clock moves. After each step both hubs must have written the same bytes to the same connections,
given the same jobs, closed the same connections and noted the same words. It is the net under a change that is to
change nothing: the first difference is printed with its seed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import differential_session
import vocabulary
from differential_client import TerminalPlayer, client_at, module_at
from differential_session import SessionPlayer
from vocabulary import PASSWORD, WALL

NAMES = ("ann", "bob", "Carl", "dora", "ёж")
# So small that every limit is reached again and again.
LIMITS = {
    "BACKLOG_MAX": 600, "FRAMES_A_TURN": 3, "QUEUE_FRAMES": 6, "QUEUE_BYTES": 1500, "ASK_FRAMES": 3, "ASK_BYTES": 750,
    "HELD_FRAMES_MAX": 20, "HELD_BYTES_MAX": 6000, "HELD_IN_ALL_MAX": 4000, "PRESENCE_SLICE": 2, "HALF_FRAME_STEP": 8,
    "SPREAD_SLICE": 2,
}  # fmt: skip


def protocol_at(commit: str | None) -> types.ModuleType:
    """The module `protocol` of a commit, with small limits."""
    module = module_at("protocol", commit)
    for name, value in (LIMITS | differential_session.LIMITS).items():
        setattr(module, name, value)
    return module


class Disk(vocabulary.Disk):
    """What the workers would do, with the accounts of NAMES; it fails as that version expects it."""

    def __init__(self, module: types.ModuleType) -> None:
        super().__init__()
        self.module = module
        for name in NAMES:
            self.add(name, module.fold(name), "hash:" + PASSWORD, WALL)

    def perform(self, job: Any) -> object:
        if self.failing and isinstance(job, self.module.DiskJob):
            return self.module.StorageFailedError()
        return getattr(self, job.method)(*job.arguments)


class Player:
    """A hub, its clock and its workers, played by a random trace. What it does goes into `log`."""

    def __init__(self, module: types.ModuleType, seed: int) -> None:
        self.module, self.chance = module, random.Random(seed)
        self.disk = Disk(module)
        self.hub = module.Hub(grace=30.0, connections_max=9)
        self.now, self.wall = 1000.0, WALL
        self.wires: list[Any] = []
        self.numbers: dict[Any, int] = {}  # connection -> which one it is
        self.stuck: set[Any] = set()  # connections from which nothing is taken
        self.given: list[Any] = []
        self.tag = 0
        self.log: list[str] = []

    def step(self) -> None:
        """One thing that happens, and a turn."""
        self.hub.wake(self.now, self.wall)
        kind = self.chance.choices(
            ("say", "come", "go", "stick", "drain", "wait", "fail", "jump"), (40, 8, 4, 3, 4, 12, 1, 1)
        )[0]
        getattr(self, "_" + kind)()
        self._turn()

    def _turn(self) -> None:
        for _ in range(40):
            self.hub.wake(self.now, self.wall)
            self.hub.tick(*(self.now, self.wall)[: self.module.Hub.tick.__code__.co_argcount - 1])  # none of late
            self.given += self.hub.jobs
            self.hub.jobs = []
            busy = self.given and self.chance.random() < 0.8
            if busy:
                job = self.given.pop(0)
                self.log.append(f"{job.method}{job.arguments}")
                self.hub.complete(job, self.disk.perform(job))
            ready, self.hub.ready = self.hub.ready, []
            for wire in ready:
                self._write(wire)
            closing, self.hub.closing = self.hub.closing, []
            for wire in closing:
                self.log.append(f"{self.numbers[wire]} closes: {wire.closed}")
                self.wires = [each for each in self.wires if each is not wire]
                self.hub.disconnect(wire)
            self.log += [f"note {note}" for note in self.hub.notes]
            self.log += [f"FAULT {fault!r}" for fault in self.hub.faults]
            self.hub.notes, self.hub.faults = [], []
            due = self.hub.next_deadline()
            if not (busy or ready or closing) and (due is None or due > self.now):
                return
            self.now += 1e-6

    def _write(self, wire: Any) -> None:
        if wire.unsent:
            return
        data = self.hub.take(wire)
        if data:
            self.log.append(f"{self.numbers[wire]} <- {data!r}")
        if wire in self.stuck and data:
            self.hub.sent(wire, len(data))

    def _one(self) -> Any:
        return self.chance.choice(self.wires) if self.wires else None

    def _come(self) -> None:
        wire = self.hub.connect(self.chance.choice(("10.0.0.2", "10.0.0.3", "127.0.0.1", "fe80::1")))
        self.numbers[wire] = len(self.numbers)
        self.wires.append(wire)
        if self.chance.random() < 0.8:
            first = self.chance.choice(("KEEP", "KEEP", "PING"))
            self._feed(wire, [first, f"LOGIN {self.chance.choice(NAMES)} {PASSWORD}"])

    def _go(self) -> None:
        wire = self._one()
        if wire is not None:
            self.wires.remove(wire)
            self.hub.disconnect(wire)

    def _stick(self) -> None:
        wire = self._one()
        if wire is not None:
            self.stuck ^= {wire}

    def _drain(self) -> None:
        wire = self._one()
        if wire is not None and wire.unsent:
            self.hub.sent(wire, int(wire.unsent * self.chance.choice((0.0, 0.5))))
            if wire.outbox and not wire.unsent:
                self.hub.ready.append(wire)

    def _wait(self) -> None:
        end = self.now + self.chance.choice((0.01, 0.1, 1.0, 3.0, 6.0, 21.0, 31.0, 46.0))
        while self.now < end:
            due = self.hub.next_deadline()
            step = end if due is None else min(max(due, self.now + 1e-6), end)
            self.wall += step - self.now
            self.now = step
            self.hub.wake(self.now, self.wall)
            for wire in self.wires:
                if self.chance.random() < 0.9 and wire.wants_reading:
                    self.hub.feed(wire, self.module.frame(b"ACK 0"))
            self._turn()

    def _fail(self) -> None:
        self.disk.failing = self.chance.random() < 0.3

    def _jump(self) -> None:
        self.wall += self.chance.choice((-3600.0, 3600.0))

    def _say(self) -> None:
        wire = self._one()
        if wire is not None and wire.wants_reading:
            self._feed(wire, [self._command() for _ in range(self.chance.choice((1, 1, 2, 5)))])

    def _feed(self, wire: Any, commands: list[str]) -> None:
        data = b"".join(self.module.frame(command.encode()) for command in commands)
        while data and wire.wants_reading:
            size = self.chance.choice((len(data), len(data), 3, 10, 50))
            self.hub.feed(wire, data[:size])
            data = data[size:]

    def _command(self) -> str:
        chance = self.chance
        self.tag += 1
        tag = f"#{self.tag} " if chance.random() < 0.6 else ""
        name, token = chance.choice(NAMES), f"token{chance.randint(1, max(1, self.disk.tokens))}"
        text = chance.choice(("hi", "x" * 100, "y" * 500, "ё\nz"))
        return tag + chance.choices(
            (
                f"SEND {name} {text}", f"SEND {name},{chance.choice(NAMES)} {text}", f"SEND * {text}",
                f"ACK {chance.randint(0, 40)}", "WHO", "PING x", "LOGOUT", "KEEP",
                f"LOGIN {name} {PASSWORD}", f"TAKEOVER {name} {PASSWORD}", f"RESUME {token} {chance.randint(0, 9)}",
                f"LOGIN {name} wrong", f"PASSWD {PASSWORD}\n{PASSWORD}", f"REGISTER u{self.tag} {PASSWORD}", "NONSENSE",
            ),
            (50, 5, 3, 25, 3, 3, 2, 2, 4, 3, 8, 1, 1, 1, 1),
        )[0]  # fmt: skip


Loader = Callable[[str | None], types.ModuleType]
PARTS: dict[str, tuple[Loader, type[Player] | type[SessionPlayer] | type[TerminalPlayer]]] = {
    "hub": (protocol_at, Player), "session": (protocol_at, SessionPlayer), "terminal": (client_at, TerminalPlayer),
}  # fmt: skip


def play(part: str, module: types.ModuleType, seed: int, steps: int) -> list[list[str]]:
    """What this part of a module did in each step of a trace."""
    player = PARTS[part][1](module, seed)
    logs: list[list[str]] = []
    for _ in range(steps):
        player.step()
        logs.append(player.log)
        player.log = []
    return logs


def first_difference(before: list[list[str]], after: list[list[str]]) -> tuple[int, str, str] | None:
    """The step in which the two logs begin to differ, and the lines that do."""
    for step, (was, now) in enumerate(zip(before, after, strict=True)):
        for one, other in itertools.zip_longest(was, now, fillvalue=""):
            if one != other:
                return step, one, other
    return None


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("commit", help="the older version, such as HEAD~1")
    parser.add_argument("--part", choices=tuple(PARTS), default="hub", help="what is played")
    parser.add_argument("--seeds", type=int, default=200, help="traces that are played")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first")
    parser.add_argument("--steps", type=int, default=300, help="steps of a trace")
    parser.add_argument("--meant", action="append", default=[], help="words of a difference that is meant to be: "
                        "the rest of that trace is not compared")  # fmt: skip
    options = parser.parse_args(argv)
    old, new = (PARTS[options.part][0](commit) for commit in (options.commit, None))
    lines, meant = 0, 0
    for seed in range(options.first, options.first + options.seeds):
        before, after = (play(options.part, module, seed, options.steps) for module in (old, new))
        lines += sum(map(len, before))
        difference = first_difference(before, after)
        if difference is None:
            continue
        step, was, now = difference
        if not any(words in was + now for words in options.meant):
            print(f"seed {seed}, step {step}:\n  was {was[:300]}\n  is  {now[:300]}")
            return 1
        meant += 1
    print(f"{options.seeds} traces, {lines:,} lines: {f'{meant} differ as meant' if meant else 'no difference'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
