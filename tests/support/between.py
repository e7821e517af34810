"""Somebody between a client and its server, who relays, cuts, strips or poses, and keeps all that he hears."""

from __future__ import annotations

import contextlib
import functools
import selectors
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from wire import PATIENCE, certificate, encode

import vessages

HELLO = 22  # first byte of a connection that begins with TLS
NO_TLS = encode("ERROR bad-frame the length is 0 or over the limit")


@functools.cache
def pair(name: str) -> tuple[Path, Path]:
    """A certificate and its key, made once; those of another `name` are others."""
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl here to make a certificate")
    cert, key = certificate() / f"{name}-cert.pem", certificate() / f"{name}-key.pem"
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=vessages"
    words += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {cert}"
    subprocess.run(words.split(), check=True, capture_output=True, timeout=60)
    return cert, key


@functools.cache
def fingerprint_of(name: str) -> str:
    """The fingerprint of the certificate of a pair; read once, since a test may take the disk away."""
    return vessages.fingerprint(pair(name)[0])


class Meeting:
    """A connection of the client to the one in between."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        self.socket = sock
        self.heard = bytearray()  # as it came, or what was inside the TLS of an impostor

    def hear(self) -> bytes:
        """What comes next; empty at the end."""
        data = self.socket.recv(65_536)
        self.heard += data
        return data

    def hear_out(self) -> None:
        """Listen to the end and say nothing."""
        while self.hear():
            pass


Behaviour = Callable[[Meeting], None]


class Between:
    """Listens at `port`; `does` is what a client meets there."""

    def __init__(self, does: Behaviour) -> None:
        self.does = does
        self.meetings: list[Meeting] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._closing = False
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            meeting = Meeting(self._listener.accept()[0])
            self.meetings.append(meeting)
            if self._closing:
                meeting.socket.close()
                return
            self._threads.append(threading.Thread(target=self._meet, args=(meeting,)))
            self._threads[-1].start()

    def _meet(self, meeting: Meeting) -> None:
        with contextlib.suppress(OSError):
            self.does(meeting)
        meeting.socket.close()

    def cut(self, does: Behaviour) -> None:
        """Break all connections; those that come again meet something else."""
        self.does = does
        for meeting in self.meetings:
            with contextlib.suppress(OSError):
                meeting.socket.shutdown(socket.SHUT_RDWR)

    def first_bytes(self) -> set[int]:
        """How the connections began that said anything."""
        return {meeting.heard[0] for meeting in self.meetings if meeting.heard}

    def close(self) -> None:
        self._closing = True
        self.cut(Meeting.hear_out)
        socket.create_connection(("127.0.0.1", self.port)).close()
        for thread in self._threads:
            thread.join(PATIENCE)
        self._listener.close()


# --- What somebody in between may do ---


def relaying(address: tuple[str, int], most: float = float("inf"), asked: float = float("inf")) -> Behaviour:
    """Hand on everything, but of the server's bytes no more than `most`, of the client's `asked`: then all is cut."""

    def relay(meeting: Meeting) -> None:
        left = {"server": asked, "client": most}
        with socket.create_connection(address) as server, selectors.DefaultSelector() as selector:
            selector.register(server, selectors.EVENT_READ, "client")
            selector.register(meeting.socket, selectors.EVENT_READ, "server")
            while min(left.values()) > 0:
                for key, _ in selector.select():
                    to = key.data
                    data = meeting.hear() if to == "server" else server.recv(65_536)
                    if not data:
                        return
                    (server if to == "server" else meeting.socket).sendall(data[: int(min(left[to], len(data)))])
                    left[to] -= len(data)

    return relay


def posing(cert: Path, key: Path, answer: bytes = encode("OK PING")) -> Behaviour:
    """Speak TLS with a certificate of one's own, and answer a PING."""

    def pose(meeting: Meeting) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        meeting.socket.getpeername()  # an error if the client has gone: to wrap would then lose the socket open
        with context.wrap_socket(meeting.socket, server_side=True) as secure:
            meeting.socket = secure
            if (first := secure.recv(65_536)) == encode("PING"):  # which tells nothing, so it does not count as heard
                secure.sendall(answer)
            else:
                meeting.heard += first
            meeting.hear_out()

    return pose


def answering(*answers: bytes) -> Behaviour:
    """Answer each piece that is heard, and then listen."""

    def answer(meeting: Meeting) -> None:
        for words in answers:
            if not meeting.hear():
                return
            meeting.socket.sendall(words)
        meeting.hear_out()

    return answer


def hanging_up(meeting: Meeting) -> None:
    """Close as soon as something was said."""
    meeting.hear()


def speaking_first(words: bytes, does: Behaviour) -> Behaviour:
    """Say these words before anything was heard, and then do something else."""

    def answer(meeting: Meeting) -> None:
        meeting.socket.sendall(words)
        does(meeting)

    return answer
