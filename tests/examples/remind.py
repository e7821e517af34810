"""A bot in a program that uses asyncio. Told `600 tea` it says `re: tea` ten minutes later, to all who were told that.

    VESSAGES_PASSWORD=… python3 remind.py 192.168.1.5 5000

It needs copies of client.py and protocol.py beside it. Its account is made at the first start. A call of `Client` may
have to wait, so each is made in a thread, by `asyncio.to_thread`; what the bot does for one message holds up no other.

As echo.py, which says why, it answers no answer (`re: …`), and among several only what begins with its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

try:
    from client import ChatError, Client, Failed, Message
except ImportError as error:
    sys.exit(f"remind.py: copy {error.name}.py into this folder")

NAME, ANSWER = "remind", "re: "
SECONDS_MAX = 86_400.0
REMINDERS_MAX = 1_000  # at once: a bot should have limits too


def asked(message: Message) -> str:
    """What is to be answered; "" if nothing is."""
    if message.text.startswith(ANSWER):
        return ""
    if message.to is None:  # for this bot alone
        return message.text
    called, _, text = message.text.partition(": ")
    return text if called == NAME else ""


async def remind(bot: Client, to: str, text: str) -> None:
    """Do what the text asks for, whenever that is."""
    number, _, what = text.partition(" ")
    try:
        seconds = min(max(0.0, float(number)), SECONDS_MAX)
    except ValueError:
        seconds, what = 0.0, "say so many seconds, a space, and what to remind of: 600 tea"
    await asyncio.sleep(seconds)
    await asyncio.to_thread(bot.send, to, ANSWER + (what or "now"), wait=False)


def log_in(bot: Client, password: str) -> None:
    try:
        bot.register(NAME, password)
    except ChatError as error:
        if error.code not in ("name-taken", "closed"):  # it was made before
            raise
    bot.login(NAME, password)


async def run(host: str, port: int, password: str) -> None:
    """Until Ctrl-C, or until the session is ended."""
    reminders: set[asyncio.Task[None]] = set()
    with Client(host, port) as bot:  # its end lets the thread that waits for events go
        await asyncio.to_thread(log_in, bot, password)
        events = bot.events()
        while (event := await asyncio.to_thread(next, events, None)) is not None:
            if isinstance(event, Message):
                if len(reminders) < REMINDERS_MAX and (text := asked(event)):
                    task = asyncio.create_task(remind(bot, event.reply_to, text))
                    reminders.add(task)  # asyncio itself keeps no task alive
                    task.add_done_callback(reminders.discard)
            elif isinstance(event, Failed):
                print(event.recipient, "could not be told:", event.words)


if __name__ == "__main__":
    if len(sys.argv) != 3 or not sys.argv[2].isdecimal() or not os.environ.get("VESSAGES_PASSWORD"):
        sys.exit("Start it like this: VESSAGES_PASSWORD=… python3 remind.py 192.168.1.5 5000")
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run(sys.argv[1], int(sys.argv[2]), os.environ["VESSAGES_PASSWORD"]))
    except (ChatError, TimeoutError) as error:
        sys.exit(f"remind.py: {error}")
