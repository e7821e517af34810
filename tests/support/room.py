"""A `Room`: a server that the test turns by hand, and people at desks whose keyboard and screen are the test's."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from terminal import Onlooker, Terminal
from vocabulary import PASSWORD
from wire import Rig

import client
import protocol
from client import Chat, Front, Line, Link, Plain
from protocol import ClientSession

STEPS_MAX = 500
STEP = 0.05  # seconds that pass, by the clock of the test, from one step to the next


class Desk(Plain):
    """A front end whose keyboard and screen are the test's."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.typed: list[str | Line | None] = []
        self.seen: list[str] = []
        self.prompts: list[str] = []
        self.answers: list[bool] = []  # of the question that is asked: whether its answer is hidden
        self.rung = 0
        self.resizing = False
        self.forgotten = 0  # how often what was typed was forgotten
        self.holds = False  # a password was typed, and its consequence is not known yet

    @property
    def delivered(self) -> list[str]:
        """The own messages among what was seen, without their times."""
        return [line[9:] for line in self.seen if line[8:12] == " -> "]

    @property
    def edits(self) -> bool:  # type: ignore[override]
        return self.interactive

    def settles(self) -> bool:
        return self.resizing

    def call(self, bell: client.Bell, message: protocol.Message | None = None) -> None:
        self.rung += 1

    def forget(self) -> None:
        self.forgotten += 1

    def start(self, link: Link, helper: client.Recipients, answer: Callable[[str | None], object]) -> None:
        self.answer = answer
        link.watch(self.mailbox, self.mailbox.clear_wakeups)

    def lines(self) -> list[Line | None]:
        if self.answers and self.typed and isinstance(self.typed[0], str):
            hidden = self.answers.pop()
            answer = self.typed.pop(0)
            assert isinstance(answer, str)
            self.holds = hidden and answer != ""
            self.answer(answer)
        if self.answers or self.holds:
            return []
        lines, self.typed = self.typed[:1], self.typed[1:]
        return [None if line is None else Line(line) if isinstance(line, str) else line for line in lines]

    def show(self, event: client.Printable) -> None:
        self.seen += client.lines_of(event)

    def ask(self, prompt: str, *, hidden: bool = True) -> bool:
        if self.interactive:
            self.prompts.append(prompt)
            self.answers = [hidden]
        return self.interactive

    def release(self) -> None:
        self.answers, self.holds = [], False


class Keyboard(client.Console):
    """Keys of the test: an escape that stays alone is the Escape key at once, and there is no terminal to take."""

    def __init__(self) -> None:
        super().__init__(lambda: 0.0)

    def start(self, link: Link, moved: Callable[[], None]) -> None:
        self._link = link

    def begin(self) -> None:
        return

    end = suspend = begin

    def take(self, data: bytes) -> None:
        super().take(data)
        self._link.wake()


class Window(Terminal):
    """A terminal in memory that is written to as to a file."""

    written = ""  # all of it

    def write(self, text: str) -> None:
        self.written += text
        self.feed(text)

    def flush(self) -> None:
        return


class ScreenDesk(client.Terminal, Onlooker):
    """A person in front of the client's real screen, whose keyboard and clock are the test's; as `Seat` is one at a
    real terminal. `step` lets everybody do something."""

    screen: Window

    def __init__(self, step: Callable[[], None], width: int = 80, height: int = 24) -> None:
        self.screen = Window(width, height)
        super().__init__(self.screen)
        self._console = Keyboard()
        self._screen = client.Screen(width, height)
        self._step = step

    def start(self, link: Link, helper: client.Recipients, answer: Callable[[str | None], object]) -> None:
        self._link, self._helper, self._questions.then = link, helper, answer
        self._console.start(link, self._mark_moved)

    def types(self, text: str) -> ScreenDesk:
        """Press these keys, all at once."""
        self._console.take(text.encode())
        self._step()
        return self

    def until(self, holds: Callable[[], object]) -> ScreenDesk:
        for _ in range(STEPS_MAX):
            if holds():
                return self
            self._step()
        raise AssertionError(self.screen.history())

    def stays_secret(self, *secrets: str) -> bool:
        """Whether none of these was ever on the screen."""
        return not any(secret in self.screen.written for secret in secrets)


def dial_in_clear(host: str, port: int) -> client.Dialled:
    """A connection over which nothing was said yet."""
    return client.Dialled(client.connect(host, port))


class Room:
    """A server and the people at their desks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rig = Rig(folder)
        self.clock = self.rig.clock
        self.up = True
        self.chats: list[Chat] = []
        self.desks: list[tuple[Chat, Desk]] = []

    def dial(self) -> client.Dialled:
        if not self.up:
            raise ConnectionRefusedError
        return dial_in_clear(*self.rig.listeners[0].getsockname()[:2])

    def chat(self, front: Front, user: str | None = None, wait: bool = False, **options: Any) -> Chat:
        link = Link("lab", 5000, ClientSession(1), dial=self.dial, clock=self.clock, chance=lambda: 1.0)
        link.awaits_server = wait
        chat = Chat(link, front, **({"to": None, "secret": None, "tls": client.Tls("lab", 5000)} | options))
        chat.begin(user)
        self.chats.append(chat)
        return chat

    def desk(self, interactive: bool = True, **options: Any) -> tuple[Chat, Desk]:
        desk = Desk()
        desk.interactive = interactive
        chat = self.chat(desk, **options)
        self.desks.append((chat, desk))
        return chat, desk

    def at_screen(self, name: str = "", width: int = 80, height: int = 24, **options: Any) -> ScreenDesk:
        """Somebody who looks at the screen; has registered and logged in, if there is a name."""
        desk = ScreenDesk(self.step, width, height)
        chat = self.chat(desk, **options)
        desk.until(lambda: chat.link.is_up)
        return desk.types(f"REGISTER {name} {PASSWORD}\r").shows(" online ") if name else desk

    def person(self, name: str) -> tuple[Chat, Desk]:
        chat, desk = self.desk()
        self.types(desk, f"REGISTER {name} {PASSWORD}", see="-- online: ")
        return chat, desk

    def people(self, *names: str) -> list[Desk]:
        """Several of them."""
        return [self.person(name)[1] for name in names]

    def account(self, name: str) -> None:
        """Somebody who has an account, and is not here."""
        self.rig.person(name).says("LOGOUT")

    def pipe(self, name: str) -> tuple[Chat, Desk]:
        """A script that has registered and logged in, and whose input goes on."""
        chat, pipe = self.desk(interactive=False)
        self.types(pipe, f"REGISTER {name} {PASSWORD}", f"LOGIN {name} {PASSWORD}", see="-- online: ")
        return chat, pipe

    def vanished(self, name: str) -> None:
        """Somebody who is gone without a word: the session is kept for a while."""
        chat, _ = self.person(name)
        chat.link.close()
        chat.status = 0

    def step(self) -> None:
        self.clock.now += STEP
        for chat in self.chats:
            if chat.status is None:
                chat.turn(until=self.clock.now)
        if self.up:
            self.rig.turn()

    def until(self, holds: Callable[[], object]) -> None:
        """Turn everybody until this holds."""
        for _ in range(STEPS_MAX):
            if holds():
                return
            self.step()
        raise AssertionError([line[:200] for _, desk in self.desks for line in desk.seen[-10:]])

    def types(self, desk: Desk, *lines: str | Line | None, see: str) -> None:
        """Type this; until a line that begins like this is seen."""
        desk.seen.clear()
        desk.typed += lines
        self.until(lambda: any(see in line for line in desk.seen))

    def ends(self, chat: Chat) -> int:
        """The exit status, when it has ended."""
        self.until(lambda: chat.status is not None)
        assert chat.status is not None
        return chat.status

    def stop(self) -> None:
        self.up = False
        self.rig.stop()

    def start(self) -> None:
        self.rig = Rig(self.folder)
        self.rig.clock = self.clock
        self.up = True

    def start_without_accounts(self) -> None:
        """The server is killed, and started anew with nothing on its disk."""
        self.rig.close()
        (self.folder / "vessages.db").unlink()
        self.start()

    def close(self) -> None:
        for chat in self.chats:
            chat.link.close()
            chat.front.close()
        self.rig.close()
