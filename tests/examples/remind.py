"""A bot in a program that uses asyncio. Told `600 tea` it says `tea` ten minutes later, to all who were told that.

    VESSAGES_PASSWORD=… python3 remind.py 192.168.1.5 5000

It needs copies of client.py and protocol.py beside it, and an account named remind. A call of `Client` may have to
wait, so each is made in a thread, by `asyncio.to_thread`; what the bot does for one message holds up no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

from client import Client, Failed, Message

SECONDS_MAX = 86_400.0
REMINDERS_MAX = 1_000  # at once: a bot should have limits too


async def remind(bot: Client, message: Message) -> None:
    """Do what the message asks for, whenever that is."""
    number, _, text = message.text.partition(" ")
    try:
        seconds = min(max(0.0, float(number)), SECONDS_MAX)
    except ValueError:
        seconds, text = 0.0, "say so many seconds, a space, and what to remind of: 600 tea"
    await asyncio.sleep(seconds)
    await asyncio.to_thread(bot.send, message.reply_to, text or "now", wait=False)


async def run(host: str, port: int) -> None:
    """Until Ctrl-C, or until the session is ended."""
    reminders: set[asyncio.Task[None]] = set()
    with Client(host, port) as bot:  # its end lets the thread that waits for events go
        await asyncio.to_thread(bot.login, "remind", os.environ["VESSAGES_PASSWORD"])
        events = bot.events()
        while (event := await asyncio.to_thread(next, events, None)) is not None:
            if isinstance(event, Message) and len(reminders) < REMINDERS_MAX:
                task = asyncio.create_task(remind(bot, event))
                reminders.add(task)  # asyncio itself keeps no task alive
                task.add_done_callback(reminders.discard)
            elif isinstance(event, Failed):
                print(event.recipient, "could not be told:", event.words)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(sys.argv[1], int(sys.argv[2])))
