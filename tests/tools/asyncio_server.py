"""The peer that tests/tools/bench.py measures Vessages against: what one writes with asyncio streams in an afternoon.

    python tests/tools/asyncio_server.py HOST PORT        port 0 lets the system choose; the port is printed

The wire is that of Vessages, for plain sessions: REGISTER, LOGIN, LOGOUT, WHO, SEND, PING and ACK,
with tags on the answers.
One coroutine a connection reads a frame, obeys it and writes the answer; asyncio sends what it is given at once.
Presence is told by one task that collects changes for a tenth of a second: told one by one, the logins of 10,000
people would take this server ten minutes.

It is kept honest rather than complete. Accounts live in memory and passwords are compared, not hashed; nothing is
logged, throttled or timed out; no session outlives its connection.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from datetime import datetime, timezone
from struct import Struct

HEADER = Struct(">I")
FRAME_MAX = 64 * 1024
# Who does not read is told `busy` for him, instead of the server's memory being filled.
UNSENT_MAX = 1024 * 1024
PRESENCE_INTERVAL = 0.1  # seconds
BACKLOG = 1024  # connections that wait to be accepted: thousands come back at once after a restart


def frame(text: str) -> bytes:
    payload = text.encode()
    return HEADER.pack(len(payload)) + payload


def timestamp() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Client:
    """A connection, and the name that is logged in on it, if any."""

    __slots__ = ("name", "writer")

    def __init__(self, writer: StreamWriter) -> None:
        self.writer = writer
        self.name: str | None = None

    def write(self, text: str) -> None:
        self.writer.write(frame(text))


class ChatServer:
    """Everybody's accounts and sessions, and the handler of each command: (client, arguments, tag) -> answer."""

    def __init__(self) -> None:
        self.passwords: dict[str, str] = {}
        self.online: dict[str, Client] = {}
        self.changes: dict[str, str] = {}  # name -> "+" or "-", not told yet
        self.changed = asyncio.Event()
        self.commands: dict[str, Callable[[Client, str, int], str]] = {
            "REGISTER": self.register,
            "LOGIN": self.log_in,
            "LOGOUT": self.log_out,
            "WHO": self.who,
            "SEND": self.send,
            "PING": self.ping,
            "ACK": self.ack,
        }

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Talk with one client until it goes away."""
        client = Client(writer)
        try:
            while True:
                (length,) = HEADER.unpack(await reader.readexactly(4))
                if not 0 < length <= FRAME_MAX:
                    break
                self.obey(client, (await reader.readexactly(length)).decode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, UnicodeDecodeError):
            pass
        finally:
            self.leave(client)
            writer.close()

    def obey(self, client: Client, line: str) -> None:
        """Do what one frame says and write the answer, if it has one."""
        tag = "0"
        if line.startswith("#"):
            tag, _, line = line[1:].partition(" ")
        verb, _, arguments = line.partition(" ")
        handler = self.commands.get(verb.upper())
        number = int(tag) if tag.isdigit() else 0
        answer = handler(client, arguments, number) if handler else "ERROR bad-command there is no such command"
        if not answer:
            return
        client.write(f"#{number} {answer}" if number or verb.upper() == "SEND" else answer)
        if handler == self.log_in and client.name:
            client.write("ONLINE " + " ".join(self.online))

    def register(self, client: Client, arguments: str, tag: int) -> str:
        name, _, password = arguments.partition(" ")
        if name in self.passwords:
            return "ERROR name-taken that name is taken"
        self.passwords[name] = password
        return f"OK REGISTER {name}"

    def log_in(self, client: Client, arguments: str, tag: int) -> str:
        name, _, password = arguments.partition(" ")
        if client.name:
            return "ERROR logged-in you are logged in"
        if self.passwords.get(name) != password:
            return "ERROR bad-login wrong name or password"
        if name in self.online:
            return "ERROR already-online that name is online"
        client.name = name
        self.online[name] = client
        self.tell(name, "+")
        return f"OK LOGIN {name}"

    def log_out(self, client: Client, arguments: str, tag: int) -> str:
        self.leave(client)
        return "OK LOGOUT"

    def who(self, client: Client, arguments: str, tag: int) -> str:
        return "OK WHO " + " ".join(self.online) if client.name else "ERROR not-logged-in log in first"

    def send(self, client: Client, arguments: str, tag: int) -> str:
        name, _, text = arguments.partition(" ")
        if not client.name:
            return "ERROR not-logged-in log in first"
        recipient = self.online.get(name)
        if recipient is None:
            return "ERROR not-online nobody of that name is online"
        if recipient.writer.transport.get_write_buffer_size() > UNSENT_MAX:
            return "ERROR busy too much is waiting"
        recipient.write(f"MSG {client.name} {tag} {timestamp()} {text}")
        return "OK SEND" if tag else ""

    def ping(self, client: Client, arguments: str, tag: int) -> str:
        return f"OK PING {arguments}" if arguments else "OK PING"

    def ack(self, client: Client, arguments: str, tag: int) -> str:
        return ""

    def leave(self, client: Client) -> None:
        if client.name:
            del self.online[client.name]
            self.tell(client.name, "-")
            client.name = None

    def tell(self, name: str, change: str) -> None:
        self.changes[name] = change
        self.changed.set()

    async def tell_presence(self) -> None:
        """Tell everybody what has changed, in one frame that is encoded once, and then wait a little."""
        while await self.changed.wait():
            self.changed.clear()
            told = frame("PRESENCE " + " ".join(change + name for name, change in self.changes.items()))
            self.changes.clear()
            for client in self.online.values():
                client.writer.write(told)
            await asyncio.sleep(PRESENCE_INTERVAL)


async def main(host: str, port: int) -> None:
    chat = ChatServer()
    server = await asyncio.start_server(chat.serve, host, port, backlog=BACKLOG)
    print(f"listening on {host} port {server.sockets[0].getsockname()[1]}", flush=True)
    presence = asyncio.create_task(chat.tell_presence())
    await asyncio.gather(server.serve_forever(), presence)


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1], int(sys.argv[2])))
    except KeyboardInterrupt:
        pass
