"""A bot that says what it is told, in the conversation in which it was told.

    VESSAGES_PASSWORD=… python3 echo.py 192.168.1.5 5000

It needs copies of client.py and protocol.py beside it. Its account is made at the first start.
"""

import contextlib
import os
import sys

from client import ChatError, Client, Failed, Message

password = os.environ["VESSAGES_PASSWORD"]
with contextlib.suppress(KeyboardInterrupt), Client(sys.argv[1], int(sys.argv[2])) as bot:  # Ctrl-C ends it
    try:
        bot.register("echo", password)
    except ChatError as error:
        if error.code != "name-taken":
            raise
    bot.login("echo", password)
    for event in bot.events():
        if isinstance(event, Message):
            bot.send(event.reply_to, event.text, wait=False)
        elif isinstance(event, Failed):  # they have left, for example
            print(event.recipient, "did not get an answer:", event.words)
