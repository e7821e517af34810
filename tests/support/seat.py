"""Somebody in front of the real client, on a pseudo-terminal with an in-memory `Terminal` at its other end."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from terminal import Onlooker, Terminal
from wire import CLIENT, ENVIRON, PATIENCE

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals", allow_module_level=True)

import fcntl
import pty
import struct
import termios

HALF_A_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;?]*|\][^\x07\x1b]*\x1b?)?$")


class Seat(Onlooker):
    """Somebody at a terminal of so many columns and rows, in front of a client."""

    def __init__(
        self, *arguments: str, width: int = 80, height: int = 24, code: Path | None = None, **environ: str
    ) -> None:
        self.master, slave = pty.openpty()
        self.screen = Terminal(width, height)
        self._resize_pty(width, height)
        self.before = termios.tcgetattr(slave)
        self.raw = b""
        self.encoded("utf-8")
        self._rest = ""
        self.process = subprocess.Popen(
            [*((sys.executable, str(code)) if code else CLIENT), *arguments],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env=ENVIRON | {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", "TZ": "UTC"} | environ,
        )  # fmt: skip
        self.slave = slave

    def encoded(self, encoding: str) -> None:
        self._decode: codecs.IncrementalDecoder = codecs.getincrementaldecoder(encoding)()

    def _resize_pty(self, width: int, height: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def resize(self, width: int, height: int) -> None:
        self.screen.resize(width, height)
        self._resize_pty(width, height)
        self.process.send_signal(signal.SIGWINCH)

    def types(self, text: str) -> Seat:
        os.write(self.master, text.encode())
        return self

    def read(self, patience: float = PATIENCE) -> bool:
        """What has been written to the terminal; False if there is nothing (more)."""
        if not select.select([self.master], [], [], patience)[0]:
            return False
        try:
            data = os.read(self.master, 65_536)
        except OSError:
            return False
        self.raw += data
        text = self._rest + self._decode.decode(data)
        half = HALF_A_SEQUENCE.search(text)
        self._rest = half[0] if half else ""
        self.screen.feed(text[: half.start()] if half else text)
        return bool(data)

    def until(self, holds: Callable[[], object]) -> Seat:
        while not holds():
            assert self.read(), self.screen.history()
        return self

    def leaves(self) -> int:
        """The exit status; and the terminal is as it was."""
        while self.process.poll() is None:
            self.read(0.05)
        while self.read(0):
            pass
        assert termios.tcgetattr(self.slave) == self.before
        assert self.screen.modes <= {"7"}
        return self.process.returncode

    def hang_up(self) -> None:
        """The window is closed. May be done twice."""
        for descriptor in (self.master, self.slave):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self.master = self.slave = -1  # the numbers may soon be those of other files

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        self.hang_up()
