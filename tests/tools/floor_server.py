"""The floor that tests/tools/bench.py measures as `--peer floor`: the least that a relay in Python can cost.

    python tests/tools/floor_server.py HOST PORT

Port 0 lets the system choose; the port is printed. What comes in is cut into frames, a SEND takes one look-up and one
constant time, and each connection gets all that a turn has for it in one `send`. Nothing else is done: no accounts, no
answers, no presence, no limits, no faults. A goal below what this costs is out of reach for any server in Python.
"""

from __future__ import annotations

import selectors
import socket
import sys
from struct import Struct

HEADER = Struct(">I")
SEND = ord("S")  # how it begins
READ_SIZE = 64 * 1024
STAMP = b"2026-11-22T15:04:05.123Z"


def frame(payload: bytes) -> bytes:
    return HEADER.pack(len(payload)) + payload


class Client:
    __slots__ = ("begins", "name", "out", "rest", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.name = self.begins = self.rest = b""
        self.out: list[bytes] = []


class Floor:
    """Everybody who is online, and those for whom this turn has something."""

    def __init__(self, host: str, port: int) -> None:
        self.online: dict[bytes, Client] = {}
        self.ready: list[Client] = []
        self.selector = selectors.DefaultSelector()
        self.listener = socket.create_server((host, port), backlog=1024)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ, None)
        print(f"listening on {host} port {self.listener.getsockname()[1]}", flush=True)

    def run(self) -> None:
        while True:
            for key, _ in self.selector.select():
                if key.data is None:
                    self.accept()
                else:
                    self.read(key.data)
            for client in self.ready:
                client.sock.send(client.out[0] if len(client.out) == 1 else b"".join(client.out))
                client.out = []
            self.ready.clear()

    def accept(self) -> None:
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.selector.register(sock, selectors.EVENT_READ, Client(sock))

    def read(self, client: Client) -> None:
        data = client.sock.recv(READ_SIZE)
        if not data:
            self.selector.unregister(client.sock)
            client.sock.close()
            return
        if client.rest:
            data = client.rest + data
        start, size, online, unpack, pack = 0, len(data), self.online, HEADER.unpack_from, HEADER.pack
        while start + 4 <= size:
            end = start + 4 + unpack(data, start)[0]
            if end > size:
                break
            payload = data[start + 4 : end]
            start = end
            _, _, rest = payload.partition(b" ")
            name, _, text = rest.partition(b" ")
            recipient = online.get(name)
            if recipient is None or payload[0] != SEND:
                self.obey(client, payload, name, text)
                continue
            payload = client.begins + text
            if not recipient.out:
                self.ready.append(recipient)
            recipient.out.append(pack(len(payload)) + payload)
        client.rest = data[start:]

    def obey(self, client: Client, payload: bytes, name: bytes, text: bytes) -> None:
        """Do what comes seldom: a login, or a message to everybody. An ACK is passed over."""
        if payload.startswith(b"LOGIN"):
            client.name, client.begins = name, b"MSG %b 0 %b " % (name, STAMP)
            self.online[name] = client
            self.write(client, frame(b"OK LOGIN " + name) + frame(b"ONLINE " + name))
        elif payload[0] == SEND:
            whole = frame(b"MSG %b>* 0 %b %b" % (client.name, STAMP, text))
            for each in self.online.values():
                if each is not client:
                    self.write(each, whole)

    def write(self, client: Client, whole: bytes) -> None:
        if not client.out:
            self.ready.append(client)
        client.out.append(whole)


if __name__ == "__main__":
    Floor(sys.argv[1], int(sys.argv[2])).run()
