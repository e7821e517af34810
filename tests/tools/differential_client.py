"""The terminal's part of differential.py: the same random keys and texts for the decoder, the editor and the screen.

A trace is what happens at a terminal without a terminal: bytes arrive in any pieces, they become keys, the keys change
a line, messages come, the window changes its size. After each step both versions must have the same keys, events, line,
cursor and answers, and must write the same string to the screen. In every other trace the texts also have hints that
are not displayed, emoji of several characters, flags and decomposed Korean.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import client

# So small that every limit is reached again and again.
LIMITS = {"TYPED_MAX": 200, "PASTE_MAX": 201, "HISTORY_MAX": 6, "UNDO_MAX": 8, "DISPLAYED_MAX": 400}
NAMES = ("Bob", "bea", "Tuấn", "Straße")
COMMANDS = ("/me", "/msg", "/who")

LETTERS = [*"aabc ABZ_09,.;:/@(\\'\"éßё中あＡ한กשسकếı…→█"]
MARKS = ["\u0301", "\u0302", "\u0336", "\u20dd", "\u093f", "\u094d", "\u0e35", "\u0e48", "\u05b8", "\u3099", "\u0345"]
DROPPED = ["\u00ad", "\u034f", "\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\ufe0f", "\U000e0100", "\u17b4"]
UNSAFE = ["\x00", "\x07", "\x1b", "\x7f", "\x9b", "\u202e", "\u2066", "\u200f", "\u2028", "\ue000", "\ufffe", "\udc80"]
BLANKS = ["\t", "\u00a0", "\u2003", "\u3000", "\u2800", "\u3164", "\u115f", "\U0001d159", "\r\n", "\n"]
PICTURES = ["👍", "🎉", "❤", "☎", "⌚", "1", "#"]
SEQUENCES = [
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f44d\U0001f3fd", "❤\ufe0f", "1\ufe0f\u20e3", "\U0001f3fd",
    "\U0001f1fb\U0001f1f3", "\U0001f1fb", "\U0001f3f4\U000e0067\U000e0062\U000e007f", "\U000e0041", "\U0001f3f4",
    "\u1112\u1161\u11ab", "\u1100", "\u1161", "\u11a8", "\ud7b0", "\ua960", "가\u11a8",
]  # fmt: skip
WORDS = ["hello", "https://example.org/" + "x" * 30, "Bob:", "bea: ", "/r ", "/m", "b", "@b", "one two", "\\", "한국어"]

KEYS = [
    "left", "ctrl-b", "right", "ctrl-f", "home", "ctrl-a", "end", "ctrl-e", "alt-b", "alt-left", "ctrl-left", "alt-f",
    "alt-right", "ctrl-right", "backspace", "delete", "ctrl-d", "ctrl-k", "ctrl-u", "ctrl-w", "alt-backspace", "alt-d",
    "ctrl-delete", "alt-delete", "ctrl-y", "ctrl-_", "up", "ctrl-p", "down", "ctrl-n", "ctrl-r", "tab",
    "shift-tab", "enter", "alt-enter", "ctrl-c", "escape", "ctrl-z", "ctrl-l", "ctrl-g", "page-up", "alt-x",
]  # fmt: skip
BYTES = [
    b"a", b"b ", "é中👍".encode(), b"\x01", b"\x03", b"\x04", b"\x17", b"\x0b", b"\x15", b"\x19", b"\x1f", b"\r", b"\n",
    b"\t", b"\x7f", b"\x08", b"\x1b", b"\x1b[", b"\x1bO", b"\x1b[A", b"\x1b[D", b"\x1bOH", b"\x1b[1;5D", b"\x1b[3~",
    b"\x1b[3;5~", b"\x1b[Z", b"\x1bb", b"\x1b\x7f", b"\x1b\r", b"\x1b[13;2u", b"\x1b[27;3;13~", b"\x1b[97;2u",
    b"\x1b[228u", b"\x1b[99;5u", b"\x1b[91;5u", b"\x1b[9;2u", b"\x1b[127;5u", b"\x1b[99;7u", b"\x1b[99;9u",
    b"\x1b[9999999u", b"\x1b[u", b"\x1b[49;5u", b"\x1b[50;6u", b"\x1b[32;5u", b"\x1b\x1b[D", b"\x1b\x1bOc",
    b"\x1b[200~", b"\x1b[201~", b"\x1b[15~",
    b"\x1b[[A", b"\x1b[?1;2c", b"\x1b[<0;3;4M", b"\x1b[1", b"\xff", b"\xc3", b"\xe4\xbd", b"x" * 40,
    b"\x1b[" + b"1" * 40,
]  # fmt: skip


class TerminalPlayer:
    """A keyboard, a line and a screen, played by a random trace. `log` is all that is to be the same."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.signs = [LETTERS, LETTERS, LETTERS, MARKS, UNSAFE, BLANKS, PICTURES, WORDS]
        self.signs += [DROPPED, SEQUENCES, SEQUENCES] * (seed % 2)
        self.decoder = client.KeyDecoder(self.chance.choice(("utf-8",) * 5 + ("gb18030", "iso8859-1")))
        self.editor = client.LineEditor(lambda before: client.complete_word(before, COMMANDS, NAMES), self.expand)
        self.screen = client.Screen(40, 10, colour=self.chance.random() < 0.5, reflows=self.chance.random() < 0.5)
        self.pinned: tuple[Any, ...] = ()
        self.now = 0.0
        self.log: list[str] = []

    @staticmethod
    def expand(word: str) -> tuple[str, str] | None:
        """As a chat does it: names before a colon, and /r."""
        if word == "/r":
            return "", "/msg bea "
        return (word[:-1], "") if word[:-1] in NAMES and word[-1:] == ":" else None

    def text(self, most: int = 12) -> str:
        signs = self.chance.choice((self.signs, [LETTERS, WORDS]))
        return "".join(self.chance.choice(self.chance.choice(signs)) for _ in range(self.chance.randint(0, most)))

    def step(self) -> None:
        """One thing that happens, and how it looks."""
        steps: tuple[tuple[Callable[[], None], int], ...] = (
            (self.press, 30), (self.type, 20), (self.read, 15), (self.paste, 4), (self.say, 6), (self.pin, 1),
            (self.resize, 2), (self.ask, 4), (self.forget, 1), (self.leave, 1), (self.look, 6),
        )  # fmt: skip
        try:
            self.chance.choices([step for step, _ in steps], [weight for _, weight in steps])[0]()
        except Exception as error:
            self.log.append(f"FAULT {error!r}")
        editor = self.editor
        self.log.append(f"line {editor.line!r} {editor.text!r} {editor.cursor}")
        states = editor.hidden, editor.asks, editor.waits, editor.drains, editor.hears_escape
        self.log.append(f"state {states} {editor.search_prompt!r}")
        self.draw()

    def draw(self, *paragraphs: Any) -> None:
        prompt = (client.Span("bob", "1"), client.Span("> "))
        self.log.append(repr(self.screen.draw(client.Block(prompt, *self.editor.view(), self.pinned), paragraphs)))
        if self.chance.random() < 0.3:
            self.editor.mark_seen()

    def feed(self, key: Any) -> None:
        event = self.editor.feed(key)
        if event is not None:
            line = event.line
            self.log.append(f"event {event.kind} {line.text!r} {line.to!r} {line.block} {line.unseen}")

    def press(self) -> None:
        for _ in range(self.chance.choice((1, 1, 1, 3))):
            self.feed(client.Key(self.chance.choice(KEYS)))

    def type(self) -> None:
        for char in self.text(6):
            if char.isprintable() or char in "".join(DROPPED):
                self.feed(client.Key("char", char))

    def paste(self) -> None:
        self.feed(client.Key("paste", self.text(self.chance.choice((4, 20, 120)))))

    def read(self) -> None:
        data = b"".join(self.chance.choice(BYTES) for _ in range(self.chance.randint(1, 6)))
        data += self.text(2).encode("utf-8", "replace") * (self.chance.random() < 0.3)
        while data:
            size = self.chance.choice((len(data), len(data), 1, 3))
            self.now += self.chance.choice((0.0, 0.2, 0.2, 2.0))
            keys = client.as_one_burst(self.decoder.feed(data[:size], self.now))
            data = data[size:]
            if self.decoder.undecided and self.chance.random() < 0.5:
                keys += self.decoder.settle()
            self.log.append(f"keys {keys} {self.decoder.undecided}")
            for key in keys:
                self.feed(key)

    def say(self) -> None:
        spans = tuple(
            client.Span(self.text(self.chance.choice((3, 10, 60))), self.chance.choice(("", "2", "31")))
            for _ in range(3)
        )
        self.draw(client.Paragraph(spans, self.chance.choice((0, 1, 6, 30))))

    def pin(self) -> None:
        self.pinned = tuple(
            client.Paragraph((client.Span(self.text(8), "2"),), 6) for _ in range(self.chance.randint(0, 3))
        )

    def resize(self) -> None:
        self.screen.resize(self.chance.choice((5, 16, 17, 40, 60)), self.chance.choice((1, 3, 10, 50)))

    def leave(self) -> None:
        self.log.append(repr(self.chance.choice((self.screen.hide, self.screen.clear))()))

    def ask(self) -> None:
        editor = self.editor
        kinds = (lambda: editor.ask(hidden=True), lambda: editor.ask(hidden=False), editor.stop_asking, editor.release)
        done = self.chance.choice(kinds)()
        self.log.append(f"asked {done}")

    def forget(self) -> None:
        self.editor.forget_last()

    def look(self) -> None:
        """The functions for texts, alone."""
        text = self.text(self.chance.choice((5, 40, 300)))
        shown = client.safe_text(text)
        self.log.append(f"shown {shown!r} {client.cell_width(shown)} of {text!r}")
        self.log.append(f"safe again {client.safe_text(shown)!r} {list(client.clusters(shown))}")
        self.log.append(f"clusters {list(client.clusters(text))}")
        self.log.append(f"others {client.one_line(text)!r} {client.spelled(text.replace(chr(10), ''), 'koi8-r')!r}")
        self.log.append(f"offered {client.complete_word(text, COMMANDS, NAMES)}")
        self.log.append(f"style {client.name_style(self.chance.choice(NAMES))}")
