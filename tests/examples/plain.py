"""A client of the protocol alone, in a few lines: python3 plain.py HOST PORT NAME PASSWORD RECIPIENT TEXT

It logs in, sends one message and waits for its fate. It is a plain session: README, "The protocol on one page".
"""

import socket
import sys
import time

host, port, name, password, recipient, text = sys.argv[1:]
wire = socket.create_connection((host, int(port))).makefile("rwb")


def say(line: str) -> None:
    wire.write(len(line.encode()).to_bytes(4, "big") + line.encode())
    wire.flush()


def hear(*words: str) -> str:
    """Print what comes, up to a frame that begins with one of the words. "": the connection has ended."""
    for heard in iter(lambda: wire.read(int.from_bytes(wire.read(4), "big")).decode(), ""):
        print(heard)
        if heard.startswith(words):
            return heard
    return ""


say(f"LOGIN {name} {password}")
if hear("OK", "ERROR").startswith("OK"):
    hear("ONLINE")  # messages that were held may come before it
    tag = time.time_ns() // 1000  # one that was used before would be taken for the same message, and not shown again
    say(f"#{tag} SEND {recipient} {text}")
    hear(f"#{tag}")  # OK SEND, or why not; comings and goings may come before it
