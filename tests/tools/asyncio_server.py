"""The peers of tests/tools/bench.py in Python: a relay that is as lean as asyncio lets it be.

    python tests/tools/asyncio_server.py protocol|streams HOST PORT [CERTIFICATE KEY]

Port 0 lets the system choose; the port is printed. `protocol` cuts what comes in into frames in `data_received`;
`streams` has a coroutine a connection with two `readexactly` a frame. Both share the rest: one look-up in a dictionary
and one write a message, nothing decoded, nothing made twice.

The wire is that of Vessages for plain sessions, as far as the benchmark speaks it: LOGIN, SEND to one or to everybody,
ACK. Presence is told by one task that collects changes for a tenth of a second: told one by one, the logins of 10,000
people would take ten minutes. Everything else is left out: accounts and passwords (anybody is let in), limits,
answers to messages, slow readers.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from struct import Struct

HEADER = Struct(">I")
PRESENCE_INTERVAL = 0.1  # seconds
BACKLOG = 1024  # connections that wait to be accepted: thousands come back at once after a restart


def frame(payload: bytes) -> bytes:
    return HEADER.pack(len(payload)) + payload


class Stamp:
    """The time as it goes over the wire, of which a second has the most part in common."""

    def __init__(self) -> None:
        self._second, self._text = 0, b""

    def now(self) -> bytes:
        second, millis = divmod(time.time_ns() // 1_000_000, 1000)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        return b"%b.%03dZ" % (self._text, millis)


class Client(asyncio.Protocol):
    """A connection, the name that is logged in on it, and what is written to it."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.name = b""
        self.write: Callable[[bytes], None]
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        data, start = self._rest + data, 0
        while len(data) >= start + 4:
            end = start + 4 + HEADER.unpack_from(data, start)[0]
            if end > len(data):
                break
            self.chat.obey(self, data[start + 4 : end])
            start = end
        self._rest = data[start:]

    def connection_lost(self, exc: Exception | None) -> None:
        self.chat.leave(self)


class Chat:
    """Everybody who is online, and what they say."""

    def __init__(self) -> None:
        self.online: dict[bytes, Client] = {}
        self.changes: dict[bytes, bytes] = {}  # name -> "+" or "-", not told yet
        self.changed = asyncio.Event()
        self.stamp = Stamp()

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Talk with one client until it goes away: the variant with streams."""
        client = Client(self)
        client.write = writer.write
        try:
            while True:
                (length,) = HEADER.unpack(await reader.readexactly(4))
                self.obey(client, await reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.leave(client)
            writer.close()

    def obey(self, client: Client, payload: bytes) -> None:
        """Do what one frame says."""
        verb, _, rest = payload.partition(b" ")
        if verb == b"SEND":
            name, _, text = rest.partition(b" ")
            recipient = self.online.get(name)
            if recipient is not None:
                recipient.write(frame(b"MSG %b 0 %b %b" % (client.name, self.stamp.now(), text)))
            elif name == b"*":
                whole = frame(b"MSG %b>* 0 %b %b" % (client.name, self.stamp.now(), text))
                for each in self.online.values():
                    if each is not client:
                        each.write(whole)
            else:
                client.write(frame(b"#0 ERROR not-online nobody of that name is online"))
        elif verb == b"LOGIN":
            client.name = rest.partition(b" ")[0]
            self.online[client.name] = client
            self.tell(client.name, b"+")
            client.write(frame(b"OK LOGIN " + client.name) + frame(b"ONLINE " + b" ".join(self.online)))
        elif verb != b"ACK":
            client.write(frame(b"ERROR bad-command there is no such command"))

    def leave(self, client: Client) -> None:
        if self.online.get(client.name) is client:
            del self.online[client.name]
            self.tell(client.name, b"-")

    def tell(self, name: bytes, change: bytes) -> None:
        self.changes[name] = change
        self.changed.set()

    async def tell_presence(self) -> None:
        """Tell everybody what has changed, in one frame that is encoded once, and then wait a little."""
        while await self.changed.wait():
            self.changed.clear()
            told = frame(b"PRESENCE " + b" ".join(change + name for name, change in self.changes.items()))
            self.changes.clear()
            for client in self.online.values():
                client.write(told)
            await asyncio.sleep(PRESENCE_INTERVAL)


async def main(variant: str, host: str, port: int, *certificate: str) -> None:
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # as the server's own
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.num_tickets = 0
        context.load_cert_chain(*certificate)
    chat = Chat()
    server: asyncio.Server
    if variant == "protocol":
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Client(chat), host, port, backlog=BACKLOG, ssl=context)
    else:
        server = await asyncio.start_server(chat.serve, host, port, backlog=BACKLOG, ssl=context)
    print(f"listening on {host} port {server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.gather(server.serve_forever(), chat.tell_presence())


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:]))
    except KeyboardInterrupt:
        pass
