"""A bot that says what it is told, in the conversation in which it was told.

    VESSAGES_PASSWORD=… python3 echo.py 192.168.1.5 5000

It needs copies of client.py and protocol.py beside it. Its account is made at the first start.

Two bots that answer all that they hear would answer each other for ever. So an answer begins with `re: `, no bot
answers an answer, and among several it answers only what begins with its name: `echo: hello`.
"""

import contextlib
import os
import sys

try:
    from client import ChatError, Client, Failed, Message
except ImportError as error:
    sys.exit(f"echo.py: copy {error.name}.py into this folder")

NAME, ANSWER = "echo", "re: "


def asked(message: Message) -> str:
    """What is to be answered; "" if nothing is."""
    if message.text.startswith(ANSWER):
        return ""
    if message.to is None:  # for this bot alone
        return message.text
    called, _, text = message.text.partition(": ")
    return text if called == NAME else ""


def run(host: str, port: int, password: str) -> None:
    with Client(host, port) as bot:
        try:
            bot.register(NAME, password)
        except ChatError as error:
            if error.code not in ("name-taken", "closed"):  # it was made before
                raise
        bot.login(NAME, password)
        for event in bot.events():
            if isinstance(event, Message):
                if text := asked(event):
                    bot.send(event.reply_to, ANSWER + text, wait=False)
            elif isinstance(event, Failed):  # they have left, for example
                print(event.recipient, "did not get an answer:", event.words)


if __name__ == "__main__":
    if len(sys.argv) != 3 or not sys.argv[2].isdecimal() or not os.environ.get("VESSAGES_PASSWORD"):
        sys.exit("Start it like this: VESSAGES_PASSWORD=… python3 echo.py 192.168.1.5 5000")
    try:
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C ends it
            run(sys.argv[1], int(sys.argv[2]), os.environ["VESSAGES_PASSWORD"])
    except (ChatError, TimeoutError) as error:
        sys.exit(f"echo.py: {error}")
