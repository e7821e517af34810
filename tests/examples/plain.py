"""A client of the protocol alone, in a few lines: python3 plain.py HOST PORT NAME PASSWORD RECIPIENT TEXT

It logs in, sends one message and waits for its fate; the exit status is 1 if that is a bad one. The account NAME is
made with /register NAME in client.py. It is a plain session: README, "The protocol on one page".
"""

import socket
import sys
import time

if len(sys.argv) != 7 or not sys.argv[2].isdecimal():
    sys.exit("Start it like this: python3 plain.py 192.168.1.5 5000 NAME PASSWORD RECIPIENT TEXT")
host, port, name, password, recipient, text = sys.argv[1:]
try:
    wire = socket.create_connection((host, int(port))).makefile("rwb")
except OSError as error:
    sys.exit(f"plain.py: there is no server at {host} port {port}: {error.strerror}")


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


sent = False
say(f"LOGIN {name} {password}")
if hear("OK", "ERROR").startswith("OK"):
    hear("ONLINE")  # messages that were held may come before it
    tag = time.time_ns() // 1000  # one that was used before would be taken for the same message, and not shown again
    say(f"#{tag} SEND {recipient} {text}")
    sent = hear(f"#{tag}").startswith(f"#{tag} OK")  # OK SEND, or why not; comings and goings may come before it
sys.exit(not sent)
