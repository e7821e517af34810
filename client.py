"""The clients of Vessages: for a person at a terminal, for a pipe (--plain, --json), and `Client` for scripts.

    python3 client.py HOST PORT                      a person
    tail -f build.log | python3 client.py HOST PORT --user bot --to alice
    from client import Client                        a script: see `Client`

Rules of this file
    protocol.ClientSession knows what may be said when, what is sent again after a lost connection and what counts as
    shown. Here are the socket, the clock, the keyboard and the screen, and nothing of it is repeated.

    One loop, one thread. Anything that would block (looking up a name, connecting, reading a pipe) is done by small
    threads that put what they have into a mailbox; the loop wakes up and takes it out. There is one timer for dialling.

    Nothing from the network reaches the terminal as it came: `safe_text` writes out what could move the cursor,
    colour the screen or turn the writing round. The server is not trusted more than the people.

    A password comes from a prompt without echo, the environment or a file. It is never shown, kept in a history or
    taken from the command line of this program.

    The parts of the terminal are pure: text becomes safe text, bytes become keys, keys become a line with a cursor,
    and all that is to be seen becomes one string to write. Only the front end asks the terminal anything.

Reading order
    1. `Mailbox`, `Tls`, `Link`: from threads to the loop, from a host name to a connection, from that to the session.
    2. `Client`, for scripts.
    3. `safe_text`, `KeyDecoder`, `LineEditor`, `Screen`: a terminal without a terminal. To be skipped at first.
    4. `lines_of`, `json_of`, `Said`, `Transcript`: what happened, as text, to be printed again, and as paragraphs.
    5. `Plain` and `Terminal`: the two front ends. They show events and give lines.
    6. `TYPED`, `Dialogues`, `Accounts`, `Recipients`, `Leaving` and `Chat`: what the lines mean.
    7. `main`.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 10):
    words = f"Vessages needs Python 3.10 or newer, and this is {sys.version.split()[0]}: run it with a newer one"
    print(f"{words}, such as python3.12, or install one from python.org.", file=sys.stderr)
    sys.exit(2)

import argparse
import atexit
import codecs
import contextlib
import difflib
import enum
import errno
import functools
import itertools
import json
import math
import os
import queue
import random
import re
import select
import selectors
import shutil
import signal
import socket
import ssl
import string
import struct
import threading
import time
import unicodedata
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, NoReturn, Protocol, TextIO

try:
    import protocol
    from protocol import (
        Back,
        ClientSession,
        Delivered,
        Failed,
        Linked,
        LinkLost,
        LoggedIn,
        Message,
        NotYet,
        Presence,
        Roster,
        Waiting,
        fold,
    )
except ImportError as error:  # there is none, or one of another version
    if __name__ != "__main__" or error.name != "protocol":
        raise
    print("client.py: copy protocol.py of the same version into the folder of client.py", file=sys.stderr)
    sys.exit(2)

if sys.platform == "win32":
    import ctypes
    import msvcrt
else:
    import termios

# For scripts: `Client`, what it raises, and what its `events` are.
__all__ = (
    "EVERYONE", "Back", "ChatError", "Client", "Delivered", "Dialling", "Encryption", "Failed", "LinkLost", "Linked",
    "LoggedIn", "Message", "NotYet", "Presence", "Roster", "Tls", "TrustError", "Waiting",
)  # fmt: skip

PYTHON = "py" if sys.platform == "win32" else "python3"  # how it is called: a plain Debian has no `python`

# For each step of a dial: a connection, a handshake, a first answer. A LAN needs milliseconds, a far host a second or
# two. A server that is late with each keeps a dial for eight: a connection and what comes over it, to this machine
# itself in clear, with TLS, with a hello alone to see how that is refused, and in clear then.
DIAL_SECONDS = 10.0
ANSWER_MAX = 4096  # bytes of a server's first frame that are waited for: it is a word or a sentence
# Between two attempts: 1, 2, 4 … 30 s, each cut by chance to between half and all of it, so that a thousand clients
# do not come back in the same moment.
RETRY_FIRST, RETRY_MOST = 1.0, 30.0
WAIT_MOST = 5.0  # the same for a server that is waited for: it has been started for us
# After a silent failure of the network Linux sends again what was not confirmed at intervals that double, up to two
# minutes: a connection would stay dead that long when the network is back. The option (Linux 6.15), and milliseconds.
TCP_RTO_MAX_MS, SEND_AGAIN_WITHIN = 44, 4000
READ_SIZE = 64 * 1024  # a turn
UNHEARD_SECONDS = 3.0  # after which a person is told that nothing was heard yet; a far server takes a second
LEAVE_SECONDS = 5.0  # for the fates of the last messages
PIPE_LEAVE_SECONDS = 30.0  # the same at the end of a pipe: a script wants the fates more than it minds the time
LOGOUT_SECONDS, PIPE_LOGOUT_SECONDS = 2.0, 10.0  # for the answer to LOGOUT, which a script waits for on any network
LINES_WAITING = 100  # lines of a pipe that are read ahead
LINE_MAX = 65_000  # characters; a longer line would not fit into a frame anyway
PORTS = range(1, 65536)
NO_PORT = "is not a port: a number from 1 to 65535, like 5000"
KNOWN_SERVERS = Path("~/.vessages-servers")  # the certificates of the servers that were met
KNOWN_BYTES_MAX = 1 << 20  # of that file: ten thousand servers, and a device in its place is not read for ever

# Raised by a socket that has nothing or no room now.
NOT_NOW = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

# --- The link ---------------------------------------------------------------------------------------------------------


class Mailbox:
    """A queue from other threads to the loop, with a socket that is readable when the loop is to look into it."""

    def __init__(self, most: int = 0) -> None:
        """`most`: items that may wait before `put` blocks; 0 for no limit."""
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()  # of which Ctrl-C leaves no lock taken
        self._room = threading.Semaphore(most) if most else None
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)

    def fileno(self) -> int:
        return self._ours.fileno()

    @property
    def waker(self) -> int:
        """A descriptor that wakes the loop when a byte is written to it: for `signal.set_wakeup_fd`."""
        return self._theirs.fileno()

    def put(self, item: object) -> None:
        """Hand over an item, from any thread. Blocks while the mailbox is full."""
        if self._room is not None:
            self._room.acquire()
        self._queue.put(item)
        self.wake()

    def wake(self) -> None:
        """Wake the loop, from any thread, even if there is no item."""
        try:
            self._theirs.send(b"!")
        except OSError:
            pass  # a full socket has woken the loop already, a closed one has no loop

    def take(self, most: int = 1_000) -> list[Any]:
        """The items that are there now, at most so many. Never blocks."""
        items: list[Any] = []
        with contextlib.suppress(queue.Empty):
            while len(items) < most:
                items.append(self._queue.get_nowait())
        if self._room is not None and items:
            self._room.release(len(items))
        return items

    def clear_wakeups(self) -> None:
        """Make the socket unreadable again. To be called before `take`, so that no item is overlooked."""
        with contextlib.suppress(OSError):
            while self._ours.recv(4096):
                pass

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


def connect(host: str, port: int) -> socket.socket:
    """A connected socket over which nothing was sent, or OSError. Blocks: it is called in a thread."""
    if not host:  # Windows would take it for this machine
        raise socket.gaierror(socket.EAI_NONAME, "no name was given")
    sock = socket.create_connection((host, port), DIAL_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a turn is written in one piece, and should go at once
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # an older Linux
            sock.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS, SEND_AGAIN_WITHIN)
    return sock


def first_answer(sock: socket.socket) -> bytes:
    """The first frame that comes, with its length; less if it is cut, late or long. SilentError if nothing comes."""
    until = time.monotonic() + DIAL_SECONDS
    data, size = b"", 4
    try:
        while len(data) < size <= 4 + ANSWER_MAX:
            sock.settimeout(max(0.001, until - time.monotonic()))
            piece = sock.recv(size - len(data))
            if not piece:
                break
            data += piece
            if len(data) == 4:
                size += int.from_bytes(data, "big")
    except TimeoutError:
        if not data:
            raise SilentError from None
    return data


def refusal(answer: bytes) -> str:
    """The code of a frame that is an ERROR, the reason of one that is a BYE; "" of all else.

    >>> refusal(protocol.frame(b"ERROR bad-frame the length is 0 or over the limit"))
    'bad-frame'
    >>> refusal(protocol.frame(b"BYE full"))
    'full'
    >>> refusal(b"ERROR bad-frame")
    ''
    """
    match = re.fullmatch(rb"(?:ERROR|BYE) ([a-z-]+)(?: .*)?", answer[4:], re.DOTALL)
    whole = int.from_bytes(answer[:4], "big") == len(answer) - 4
    return match[1].decode() if match is not None and whole else ""


OFF_THE_NETWORK = (errno.ENETUNREACH, errno.ENETDOWN)  # no way leads there: the cable or the Wi-Fi is off


def dial_words(host: str, port: int, error: Exception) -> str:
    """Why there is no connection, and what to try."""
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return f"there is no computer named {host}: check the spelling, or try its address, like 192.168.1.5"
    if isinstance(error, ConnectionRefusedError):
        return (
            f"nobody listens at {host} port {port}: check address and port, or ask whoever runs the server to start it"
        )
    if isinstance(error, TrustError):
        return str(error)
    if isinstance(error, SilentError):
        return f"something is at {host} port {port}, {protocol.MUTE}"
    if host.lower().startswith("fe80:") and "%" not in host:
        return f"{host} is an address of one network only: add %INTERFACE, such as {host}%eth0"
    if isinstance(error, TimeoutError) or getattr(error, "errno", None) in (errno.EHOSTUNREACH, errno.EHOSTDOWN):
        return f"no answer from {host} port {port}: check address and port, and whether a firewall lets this through"
    off = "; look whether this computer is on the network" * (getattr(error, "errno", None) in OFF_THE_NETWORK)
    return f"{host} port {port} cannot be reached: {getattr(error, 'strerror', None) or error}{off}"


class SilentError(TimeoutError):
    """There is a connection, over which nothing comes."""


class TrustError(OSError):
    """There is no encryption where there should be, or not with somebody whom we know. The text is one line.

    old, new: fingerprints, if a certificate is the reason; `old` is "" if there was none before. Both are "" if a
    person has refused that certificate already.
    """

    def __init__(self, words: str, old: str = "", new: str = "") -> None:
        super().__init__(words)
        self.old, self.new = old, new


class NotVouchedError(TrustError):
    """The CA of --ca does not vouch for the certificate, and there is no fingerprint to ask about."""


class TlsNeededError(TrustError):
    """The server does not want to talk in clear."""


class KnownServers:
    """The certificates of the servers that were met with TLS: a file with a line `HOST PORT SHA-256` for each.

    A line is appended in one piece, so that several clients may write at once, and the last one of a server counts. One
    that was cut short, as by a full disk, still says that its server was met.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def recall(self, server: str) -> str | None:
        """The fingerprint of `HOST PORT`, "" if its line is broken, None if there is no line. OSError."""
        try:
            with self._path.expanduser().open("rb") as file:
                data = file.read(KNOWN_BYTES_MAX + 1)
        except (FileNotFoundError, NotADirectoryError, RuntimeError):  # RuntimeError: there is no home
            return None
        if len(data) > KNOWN_BYTES_MAX:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # by an editor: none would be found
            raise OSError(errno.EILSEQ, "it is UTF-16: save it as UTF-8")
        found = None
        for line in data.decode("utf-8-sig", "replace").split("\n"):
            host, port, fingerprint = [*line.split(), "", "", ""][:3]
            if f"{host.lower()} {port}" == server:
                found = fingerprint if FINGERPRINT.fullmatch(fingerprint) else ""
        return found

    def remember(self, server: str, fingerprint: str) -> None:
        """From now on this is the fingerprint of `HOST PORT`. OSError if the file cannot be read or written."""
        try:
            path = self._path.expanduser()
        except RuntimeError as error:
            raise OSError(errno.ENOENT, str(error)) from None
        with open(path, "a+b", 0, opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            if sys.platform == "win32":  # where two clients may append at the same place
                file.seek(KNOWN_BYTES_MAX)  # a place that nobody reads or writes
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)  # until the file is closed
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            begin = "\n" if end and file.read(1) != b"\n" else ""  # the line before was cut short
            line = f"{begin}{server} {fingerprint}\n".encode()
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


FINGERPRINT: Final = re.compile("[0-9A-F]{2}(:[0-9A-F]{2}){31}")


@contextlib.contextmanager
def closed_on_failure(sock: socket.socket) -> Iterator[None]:
    """Close the socket if this comes to nothing."""
    try:
        yield
    except BaseException:
        sock.close()
        raise


def fingerprint_line(fingerprint: str) -> str:
    """A fingerprint as the server prints it, in one line."""
    return " ".join(protocol.fingerprint_words(fingerprint).split())


def doubt_words(server: str, old: str, new: str) -> str:
    """Why a certificate is not trusted, for a script: one line."""
    if not old:
        return (
            f"the certificate of {server} is new here, and with --tls a person has to say that it is right: connect "
            f"once in a terminal. It is {fingerprint_line(new)}"
        )
    return (
        f"the certificate of {server} has CHANGED: somebody may be posing as the server, so {NOTHING_TOLD}. "
        f"It was {fingerprint_line(old)} and is now {fingerprint_line(new)}. If whoever runs the server says that this "
        "is right, connect once in a terminal, which asks whether to trust the new one"
    )


class Encryption(NamedTuple):
    """A connection has been made: encrypted, with whose certificate; or in clear, if a person should be warned of that.

    words: "" if there is nothing new. fingerprint: "" of a connection in clear.
    """

    encrypted: bool
    words: str
    fingerprint: str


class Dialled(NamedTuple):
    """A connection, what was read from it already, and what there is to say about it."""

    sock: socket.socket
    data: bytes = b""
    said: Encryption | None = None


READABLE: Final = "your password and messages can be read on this network"
NOTHING_TOLD: Final = "neither a password nor a message was sent"


def file_fault(error: OSError | UnicodeError) -> str:
    """Why a file of the command line cannot be used, without the codes of the system and of OpenSSL."""
    if isinstance(error, UnicodeError):
        return "it is no text in UTF-8"
    return protocol.OPENSSL_CODES.sub("", error.strerror or str(error))


def encryption(ca: Path | None) -> ssl.SSLContext:
    """How to encrypt with those for whom a CA vouches, or with anybody: `Tls` compares the fingerprint then. TrustError
    if the file of the CA is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        context.load_verify_locations(ca)
    except OSError as error:
        words = f"--ca {ca}: {file_fault(error)}: give a file with the certificate of a CA, in PEM"
        raise TrustError(words) from None
    return context


class Tls:
    """The way to one server: encrypted, unless that cannot be.

    Its certificate is compared as a whole with the one that it showed when it was met, see `KnownServers`: clocks in a
    lab are wrong, and addresses move. With `ca` that one vouches for it, and for its name.

    A server that was met with TLS is never spoken to without, whatever somebody in between cuts, strips or answers. One
    that was not counts as speaking no TLS only if it answers a hello as a server without TLS does: `ERROR bad-frame`.
    On the way to this machine itself there is nobody in between: plain, until the server wants it otherwise.

    A script can say beforehand which certificate is the right one, as the server has printed it:

        tls = Tls("lab.local", 5000)
        tls.trust("C685 0B60 …")
        with Client("lab.local", 5000, tls=tls) as client: …
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        ca: Path | None = None,
        wanted: bool | None = True,
        known: Path = KNOWN_SERVERS,
        is_loopback: Callable[[str], bool] = protocol.is_loopback,
    ) -> None:
        """wanted: True as with --tls: a new certificate is a TrustError; False as with --no-tls; None as without both.

        TrustError if `ca` cannot be read or is no certificate, ValueError if the port is none.
        """
        if port not in PORTS:
            raise ValueError(f"{port} {NO_PORT}")
        host = protocol.bare_host(host)
        self._host, self._port, self._name = host, port, f"{host} port {port}"
        # The name that the certificate must be for, with `ca`. It is not said where it does not count.
        self._certified = None if ca is None else host.partition("%")[0]
        self._server = f"{'_'.join(host.lower().split())} {port}"
        self._wanted = True if ca else wanted
        self._path, self._known, self._is_loopback = known, KnownServers(known), is_loopback
        self._accepted = ""  # fingerprint that was right for this process
        self._is_kept = True  # whether that one, if any, is in the file
        self._refused = ""  # fingerprint that a person has refused
        self._warned = ""  # last warning about a connection in clear
        self._context = encryption(ca)

    def dial(self) -> Dialled:
        """A connection; not a byte is sent in clear before it is settled that this may be. Blocks; OSError.

        TrustError if the server is not who it was or does not encrypt as it did; then nothing has been told to it.
        """
        expected, doubt = self._expected()
        sock = connect(self._host, self._port)
        with closed_on_failure(sock):
            is_here = self._is_loopback(sock.getpeername()[0])
        if self._wanted is False:
            warning = f"{self._name} has encrypted before; with --no-tls {READABLE}"
            return self._in_clear(sock, "" if expected is None else warning)
        if self._wanted is None and expected is None and is_here:
            try:
                return self._in_clear(sock, "")
            except TlsNeededError:
                sock = connect(self._host, self._port)
        secure = self._encrypt(sock, doubt)
        if secure is not None:
            return self._check(secure, expected)
        return self._in_clear(connect(self._host, self._port), f"{self._name} does not encrypt: {READABLE}")

    def trust(self, fingerprint: str) -> str:
        """The certificate with this fingerprint, however it is written, is the server's from now on. Words for a
        person. ValueError if that is no fingerprint."""
        fingerprint = ":".join(re.findall("..?", re.sub(r"[\s:]", "", fingerprint.upper())))
        if not FINGERPRINT.fullmatch(fingerprint):
            raise ValueError("a fingerprint has 64 digits, 0 to 9 and A to F")
        self._accepted, self._is_kept, self._refused = fingerprint, False, ""
        blocks = fingerprint_line(fingerprint)
        try:
            self._known.recall(self._server)  # if that cannot be read, it is of no use to write there
            self._known.remember(self._server, fingerprint)
        except OSError as error:
            why = f"{self._path} cannot be used: {error.strerror or error}"
            return f"encrypted for this time, as {why}; certificate of {self._host}: {blocks}"
        self._is_kept = True
        return f"encrypted; certificate of {self._host} remembered: {blocks}"

    def refuse(self, fingerprint: str) -> None:
        """A person has refused this certificate: it is not asked about again. With "" it is."""
        self._refused = fingerprint

    def _expected(self) -> tuple[str | None, str]:
        """The fingerprint that the server should have; "" if it was met and that is not known, None if it was not met.
        And what is wrong if it does not encrypt; "" if it was not met.

        A certificate that another client has accepted meanwhile counts here too.
        """
        try:
            known = self._known.recall(self._server) if self._is_kept else None
            doubt = "has encrypted before and does not now"
        except OSError as error:
            known = ""  # perhaps it was met, so it has to encrypt
            doubt = f"does not encrypt, and {self._path} does not tell whether it has before ({error.strerror})"
        expected = known or self._accepted or known
        return expected, "" if expected is None else doubt

    def _in_clear(self, sock: socket.socket, warning: str) -> Dialled:
        """A connection in clear, on which a PING was answered. TlsNeededError if the server does not want it so."""
        with closed_on_failure(sock):
            sock.sendall(protocol.frame(b"PING"))
            answer = first_answer(sock)
            if refusal(answer) == protocol.Code.ENCRYPTED_ONLY.word:
                hint = ": leave out --no-tls" if self._wanted is False else ", and does not offer it"
                raise TlsNeededError(f"{self._name} talks only over TLS{hint}")
        said = Encryption(False, warning, "") if warning != self._warned else None  # told once
        self._warned = warning
        return Dialled(sock, answer, said)

    def _refusal_of_hello(self) -> str:
        """How a hello is refused: by a server without TLS as a frame that is too long. It is seen on a connection of
        its own, since the library does not tell what it has read in place of an answer."""
        hello = ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            self._context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname=self._certified).do_handshake()
        with connect(self._host, self._port) as sock:
            sock.sendall(hello.read())
            return refusal(first_answer(sock))

    def _encrypt(self, sock: socket.socket, doubt: str) -> ssl.SSLSocket | None:
        """The connection encrypted, with whomever it is. None if the server surely speaks no TLS and never has: then
        there is no `doubt`, the words for one that has."""
        try:
            with closed_on_failure(sock):
                return self._context.wrap_socket(sock, server_hostname=self._certified)
        except TimeoutError:
            raise SilentError from None
        except (ssl.SSLEOFError, ConnectionError):
            raise TrustError(f"{self._name} hung up before the connection was encrypted: {NOTHING_TOLD}") from None
        except ssl.SSLCertVerificationError as error:
            why = error.verify_message.rstrip(".")
            raise NotVouchedError(
                f"--ca does not vouch for the certificate of {self._host}: {why}; {NOTHING_TOLD}. Give the file of the "
                "CA that signed it, or leave --ca out: then it is known by its fingerprint"
            ) from None
        except ssl.SSLError:
            code = self._refusal_of_hello()
            if code in protocol.BYE_WORDS:  # as a full server says before anything else
                words = f"{self._name}: {protocol.BYE_WORDS[code]}; {NOTHING_TOLD}"
            elif code != protocol.Code.BAD_FRAME.word:
                words = f"what answers at {self._name} is not a Vessages server: check the port; {NOTHING_TOLD}"
            elif doubt:
                words = (
                    f"{self._name} {doubt}. Somebody may be in between, so {NOTHING_TOLD}. If whoever runs the "
                    "server says that it does not encrypt any more, --no-tls goes without"
                )
            elif self._wanted:
                words = f"{self._name} does not encrypt, and --tls is given: {NOTHING_TOLD}"
            else:
                return None
            raise TrustError(words) from None

    def _check(self, sock: ssl.SSLSocket, expected: str | None) -> Dialled:
        """An encrypted connection, if its certificate is the right one."""
        with closed_on_failure(sock):
            seen = protocol.fingerprint_of(sock.getpeercert(binary_form=True) or b"")
            if seen == self._refused:  # whatever was said in another window
                raise TrustError(f"{self._name} still shows the certificate that you have refused; Enter asks again")
            if seen == expected:
                return Dialled(sock, b"", Encryption(True, "", seen))
            if self._certified is None and (expected or self._wanted):
                raise TrustError(doubt_words(self._name, expected or "", seen), expected or "", seen)
            answer = b"" if self._certified is not None else self._introduced(sock)
        return Dialled(sock, answer, Encryption(True, self.trust(seen), seen))

    def _introduced(self, sock: ssl.SSLSocket) -> bytes:
        """The answer to a PING. The certificate of something else, as of the page that asks for the password of a
        Wi-Fi, is not remembered: that of the server, once it is reached, would be one that has changed."""
        ping = protocol.frame(b"PING")
        sock.sendall(ping)
        answer = first_answer(sock)
        if answer != protocol.frame(b"OK PING") and not refusal(answer):
            raise TrustError(f"what answers at {self._name} is not a Vessages server: check address and port")
        return answer


class Dialling(NamedTuple):
    """There is no connection. The next attempt is in `seconds`; `words` says what is wrong."""

    words: str
    seconds: float


class Unreachable(NamedTuple):
    """The first contact failed, so there is nothing to come back to."""

    words: str


class Untrusted(NamedTuple):
    """The server shows a certificate that is not the `old` one, with --tls a first one ("" as `old`), with --ca one for
    which that does not vouch ("" as both): there is no connection, and no next attempt before somebody wants one.
    `words` is one line for a script."""

    words: str
    old: str
    new: str


ChatEvent = protocol.SessionEvent | Dialling | Unreachable | Encryption | Untrusted
Ready = list[tuple[selectors.SelectorKey, int]]


def earliest(*times: float | None) -> float | None:
    """The first of these times; None stands for never."""
    return min((each for each in times if each is not None), default=None)


class Link:
    """The session's way to the server: dials, reads, writes, and dials again after a growing while.

    A turn: `wait`, then what the person wants, `tick`, `take_events`, show them, `flush`. Only `wake` and `waker` are
    for other threads; who needs the session meanwhile does the steps of `wait` apart, and holds no lock in `select`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        session: ClientSession,
        *,
        dial: Callable[[], Dialled],
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`dial` is called in a thread and gives a connection to HOST, or an OSError: see `Tls.dial`."""
        self.host, self.port, self.session = host, port, session
        self._dial, self._clock, self._chance, self._wall = dial, clock, chance, wall
        session.wall = wall()
        self._selector = selectors.DefaultSelector()
        self._dialled = Mailbox()  # connections and errors from the thread that dials
        self._selector.register(self._dialled, selectors.EVENT_READ, self._dialled.clear_wakeups)
        self._socket: socket.socket | None = None
        self._unsent = bytearray()  # bytes that the socket had no room for
        self._events: list[ChatEvent] = []  # behind those of the session
        self._encryptions: list[ChatEvent] = []  # before those: each of a connection on which nothing was said yet
        self._dial_at: float | None = clock()  # time of the next attempt; None while connected, dialling or not wanted
        self._attempts = 0  # in vain, since somebody was logged in
        self.tried_at = 0.0  # time at which the last attempt was begun or has failed, or the link was lost
        self._dialling = self._closed = False
        self.has_met = False  # whether there ever was a connection
        self.awaits_server = False  # whether the first contact is tried until it succeeds
        self.asks_trust = False  # whether a person is being asked about a certificate, and nothing is dialled meanwhile
        self.shows = True  # whether the events that are taken are still displayed: only then are they acknowledged

    def watch(self, source: int | Mailbox, read: Callable[[], None]) -> None:
        """End the sleep also when this descriptor or mailbox is readable, and call `read` then."""
        self._selector.register(source, selectors.EVENT_READ, read)

    @property
    def is_up(self) -> bool:
        """Whether there is a connection."""
        return self._socket is not None

    @property
    def encrypts(self) -> bool:
        """Whether there is a connection, and it is encrypted."""
        return isinstance(self._socket, ssl.SSLSocket)

    @property
    def redial_in(self) -> float | None:
        """Seconds until the next attempt, 0 while one is made; None if there is a connection or none is wanted."""
        if self._dialling:
            return 0.0
        return None if self._dial_at is None or self.is_up else max(0.0, self._dial_at - self.now())

    def now(self) -> float:
        """Monotonic seconds, as everything here counts them."""
        return self._clock()

    def wait(self, until: float | None = None) -> None:
        """Sleep until something happens or is due, at the latest `until`, and read what there is."""
        self.take_in(self.select(self.patience(until)))

    def patience(self, until: float | None = None) -> float | None:
        """Seconds until something is due, at the latest `until`; None for ever."""
        tells = self.now() if self._events or self._encryptions else None
        deadline = earliest(self.session.next_deadline(), self._dial_at, until, tells)
        return None if deadline is None else max(0.0, deadline - self.now())

    def select(self, patience: float | None) -> Ready:
        """Sleep until something happens. Other threads may ask the session for something meanwhile, and `wake`."""
        return self._selector.select(patience)

    def wake(self) -> None:
        """End the sleep; from any thread, and from a signal handler."""
        self._dialled.wake()

    @property
    def waker(self) -> int:
        """A descriptor that ends the sleep when a byte is written to it, for signals."""
        return self._dialled.waker

    def take_in(self, ready: Ready) -> None:
        """Read what there is."""
        self.session.wall = self._wall()
        for key, mask in ready:
            if key.fileobj is self._socket:
                if mask & selectors.EVENT_READ:
                    self._read(self._socket)
            else:
                key.data()
        for result in self._dialled.take():
            self._take_dialled(result)
        self.session.tick(self.now())  # what is asked for next is asked for now

    def dial_soon(self) -> None:
        """Somebody is waiting for the link: dial now, or a moment after the last attempt."""
        soon = max(self.now(), self.tried_at + RETRY_FIRST)
        if self._socket is None and not self._dialling and not self.asks_trust:
            self._dial_at = soon if self._dial_at is None else min(self._dial_at, soon)

    def go_on(self, *, soon: bool, words: str = "") -> None:
        """The person has answered about the certificate: dial now, or after a while, since `words`."""
        self.asks_trust = False
        if soon:
            self._dial_at = self.now()
        else:
            self._dial_later(words)

    def tick(self) -> None:
        """Do what is due, in the session and here."""
        now = self.now()
        self.session.tick(now)
        if self._socket is not None or self._dialling or self.asks_trust:
            return
        if any(isinstance(event, (Unreachable, Untrusted)) for event in self._events):
            return  # what follows from that is decided when it is told
        if self._dial_at is None and self.session.wants_link:
            self._dial_at = now  # it was not wanted until now
        if self._dial_at is not None and now >= self._dial_at:
            self._dial_at, self.tried_at, self._dialling = None, now, True
            threading.Thread(target=self._dial_in_thread, daemon=True).start()

    def take_events(self) -> list[ChatEvent]:
        """The events since the last call, in order."""
        events = [*self._encryptions, *self.session.take_events(), *self._events]
        self._encryptions.clear()
        self._events.clear()
        return events

    def flush(self) -> None:
        """All that was taken has been shown. Write what there is to write, in one piece; hang up if it is time."""
        if self.shows:
            self.session.shown()
        if self._socket is None:
            return
        self._unsent += self.session.take_output()
        self._write(self._socket)
        if self.session.hang_up:
            self._link_down(self._socket, "")  # the session has a reason of its own

    def close(self) -> None:
        """Close the connection and all descriptors, also that of an attempt under way. Nothing else may follow."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._closed = True
        self._drop_dialled()
        self._selector.close()
        self._dialled.close()

    def _dial_in_thread(self) -> None:
        try:
            self._dialled.put(self._dial())
        except (OSError, UnicodeError) as error:
            self._dialled.put(error)
        if self._closed:  # while it was dialled
            self._drop_dialled()

    def _drop_dialled(self) -> None:
        for result in self._dialled.take():
            if isinstance(result, Dialled):
                result.sock.close()

    def _take_dialled(self, result: Dialled | Exception) -> None:
        self._dialling = False
        if isinstance(result, Exception):
            words = dial_words(self.host, self.port, result)
            if isinstance(result, TrustError) and (result.new or isinstance(result, NotVouchedError)):
                self._events.append(Untrusted(words, result.old, result.new))
            elif self.has_met or self.awaits_server:
                self._dial_later(words)
            else:
                self._events.append(Unreachable(words))
            return
        self.has_met = True
        self._socket = result.sock
        self._socket.setblocking(False)
        self._selector.register(self._socket, selectors.EVENT_READ)
        if result.said is not None:
            self._encryptions.append(result.said)
        self.session.connected(self.now())
        if result.data:
            self.session.feed(result.data, self.now())

    def _dial_later(self, words: str) -> None:
        most = WAIT_MOST if self.awaits_server else RETRY_MOST
        seconds = min(most, RETRY_FIRST * 2.0 ** min(self._attempts, 10)) * (0.5 + self._chance() / 2)
        self._attempts += 1
        self.tried_at = self.now()
        self._dial_at = self.tried_at + seconds
        self._events.append(Dialling(words, seconds))

    def _read(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(READ_SIZE)
            while data and isinstance(sock, ssl.SSLSocket) and sock.pending():  # the selector knows nothing of these
                data += sock.recv(READ_SIZE)
        except NOT_NOW:
            return
        except OSError:
            self._link_down(sock, "connection lost")
            return
        if data:
            self.session.feed(data, self.now())
        else:
            self._link_down(sock, "the server closed the connection")

    def _write(self, sock: socket.socket) -> None:
        if self._unsent:
            try:
                del self._unsent[: sock.send(self._unsent)]
            except NOT_NOW:
                pass
            except OSError:
                self._unsent.clear()  # the end of the connection is about to be read, behind the server's last words
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        if self._selector.get_key(sock).events != wanted:
            self._selector.modify(sock, wanted)

    def _link_down(self, sock: socket.socket, why: str) -> None:
        self._selector.unregister(sock)
        sock.close()
        self._socket = None
        self._unsent.clear()
        if self.session.logged_in:
            self._attempts = 0
        self.session.disconnected(self.now(), why)
        if self.session.wants_link or self.awaits_server:
            self._dial_later("")


# --- For scripts ------------------------------------------------------------------------------------------------------


EVERYONE = protocol.EVERYBODY  # in place of a name: everybody else who is here


class ChatError(Exception):
    """Raised by `Client` when something is refused.

    code: a word such as "bad-login", of protocol.Code or protocol.CLIENT_CODES, or one of "unreachable", "untrusted",
        "replaced".
    words: a sentence for a person.
    fates: of a message to several with the code `partly`: the names of those who were not shown it, each with its code.
    """

    def __init__(self, code: str, words: str, fates: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{words} ({code})")
        self.code = code
        self.words = words
        self.fates = dict(fates or {})


class Client:
    """A person made of code; it comes back by itself after a lost connection or a restart of the server.

        >>> with Client(HOST, PORT) as client:
        ...     client.register("bot", "correct horse")
        ...     client.login("bot", "correct horse")
        ...     client.send("bot", "good morning")
        ...     [(message.sender, message.text) for message in client.messages(timeout=0)]
        1
        [('bot', 'good morning')]

    Every call that waits gives up with TimeoutError after `timeout` seconds, lost connections included, and raises
    ChatError for a refusal: `unreachable` if there is no server at the first contact, `untrusted` if the server shows
    another certificate than before, then or at a return (nothing was told to it), `replaced` after a TAKEOVER
    elsewhere, and if it cannot come back without a login the reason for that (`bad-login`, `unknown-session`).

    It lives while it is called: without a call for 45 s the server takes the connection for dead, and 60 s after that
    the session ends. A message counts as shown (its sender is told so) when it has been read into this process. Of
    those that nobody asks for with `messages` or `events` the newest 10,000 are kept, and as many other events.

    Several threads may use it: while one waits for messages another may send. One of those that wait does so at the
    link, for all of them. After `close` the loops over messages and events end; every other call is a RuntimeError.
    """

    INBOX_MAX = 10_000

    def __init__(self, host: str, port: int, *, timeout: float = 60.0, tls: Tls | bool | None = None) -> None:
        """Nothing is dialled before the first call. ValueError if the port is none.

        timeout: seconds after which a call gives up.
        tls: None encrypts as the terminal client does: a new server's certificate is remembered, and an Encryption is
        among the `events`; only to this machine itself, and to a server without TLS, it talks in clear. True never does
        so, and takes only a certificate that is known already (from a terminal, say). False does not encrypt.
        `Tls(host, port, ca=Path("ca.pem"))` takes what that CA vouches for.
        """
        self.timeout = timeout
        host = protocol.bare_host(host)
        session = ClientSession(int(time.time() * 1_000_000))
        dialler = tls if isinstance(tls, Tls) else Tls(host, port, wanted=tls)
        self._link = Link(host, port, session, dial=dialler.dial)
        self._inbox: deque[tuple[int, Message]] = deque(maxlen=self.INBOX_MAX)
        self._others: deque[tuple[int, ChatEvent]] = deque(maxlen=self.INBOX_MAX)  # neither messages nor awaited
        self._serial = itertools.count()  # of both, so that they come in order
        self._awaited: dict[int, ChatEvent | None] = {}  # by tag: the answers that calls wait for
        self._trouble: tuple[str, str] | None = None  # code and words of why nothing comes before the next login
        # The lock is held by every thread that is in here, but for the one that sleeps at the link (`_waiter`), and
        # those that wait for what that one reads. The same thread may have it twice: see `__exit__`.
        self._lock = threading.Condition()
        self._holder: int | None = None  # thread that has the lock
        self._waiter: int | None = None  # thread whose turn of the link is under way
        self._closed = False
        _open_clients.add(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        if self._holder == threading.get_ident():  # Ctrl-C has ended a call in the moment in which it took the lock
            self._holder = None
        self.close()

    @property
    def name(self) -> str | None:
        """The name that is logged in here, as registered; None before the login and after a logout."""
        return self._session.name

    @property
    def _session(self) -> ClientSession:
        return self._link.session

    def register(self, name: str, password: str) -> None:
        """Make an account; log in afterwards.

        ChatError `name-taken`, `bad-username`, `bad-password`; `throttled` and `too-many`: see `ChatError.words`.
        """
        with self._alone():
            self._trouble = None
            self._await(self._session.register(name, password), self.timeout)

    def login(self, name: str, password: str, *, takeover: bool = False) -> None:
        """Log in. It is kept logged in from then on: `name` stays, whatever the network does.

        takeover: end the session that is online under this name.
        ChatError `bad-login`; `already-online`, if without `takeover`; `throttled`; `logged-in`.
        """
        with self._alone():
            self._trouble = None
            ask = self._session.takeover if takeover else self._session.login
            self._await(ask(name, password), self.timeout)

    def send(self, to: str | Iterable[str], text: str, *, timeout: float | None = None, wait: bool = True) -> int:
        """Send a message, and return when it is shown to all it is for: the number of people who were shown it.

        to: a name, several, EVERYONE (else who is here), or `Message.reply_to`, to answer in the same conversation.
        timeout: instead of the client's. After a TimeoutError the message may still arrive.
        wait: False returns at once, the tag of the message; among the `events` a Delivered or a Failed with that tag
        tells its fate. 64 messages are under way at once, 1,000 more (or 4 MiB) wait here, and what is beyond that
        has failed with `busy`. Messages to several wait here while the server's limits would refuse them.
        ChatError `partly` (some of several were not shown it: see `ChatError.fates`), `not-online`, `busy`,
        `not-delivered`, `unconfirmed` (perhaps shown), `unknown` (the same, as the server was restarted), `too-long`
        (over 64 KiB), `bad-username`, `not-logged-in`.
        """
        with self._alone():
            tag = self._session.send(to if isinstance(to, str) else ",".join(to), text)
            if wait:
                event = self._await(tag, self.timeout if timeout is None else timeout)
                return event.shown_to if isinstance(event, Delivered) else 1
            if self._waiter is None:
                self._turn(self._link.now())
            else:
                self._link.wake()
            return tag

    def who(self) -> list[str]:
        """The names that are online, oneself included; a `~` stands before those whose connection is lost."""
        with self._alone():
            answer = self._await(self._session.who(), self.timeout)
        return answer.words.split() if isinstance(answer, protocol.Answer) else []

    def messages(self, timeout: float | None = None) -> Iterator[Message]:
        """The messages, as they come: sender, id, time (Unix seconds), text.

        timeout: seconds without one after which the loop ends; None: never, 0: when all that is here has been read.
        """
        begun = False
        while self._wait_for(lambda: self._inbox, timeout, begun):
            begun = True
            with contextlib.suppress(IndexError):  # another thread has taken it
                yield self._inbox.popleft()[1]

    def events(self, timeout: float | None = None) -> Iterator[ChatEvent]:
        """As `messages`, and in between all else that happens: Delivered and Failed (the fates of what was sent without
        waiting), Waiting, Roster, Presence, and what becomes of the link: LinkLost, Dialling, Back, …"""
        begun = False
        while self._wait_for(lambda: self._inbox or self._others, timeout, begun):
            begun = True
            with self._lock:
                queues: list[deque[Any]] = [queue for queue in (self._inbox, self._others) if queue]
                event = min(queues, key=lambda queue: queue[0][0]).popleft()[1] if queues else None
            if event is not None:
                yield event

    def logout(self) -> None:
        """Log out; others see it at once. Messages without a fate are Failed with `unknown` among the events."""
        with self._alone():
            self._await(self._session.logout(), self.timeout)

    def close(self) -> None:
        """Log out if logged in, or if a login is being answered, and close the connection: 2 s at the most. May be
        called twice. A program that ends without it does it then."""
        with self._alone(even_closed=True):
            if not self._closed and self._session.may_be_in and self._link.is_up:
                with contextlib.suppress(ChatError, TimeoutError):
                    self._await(self._session.logout(), LOGOUT_SECONDS)
        with self._lock:
            if not self._closed:
                self._closed = True
                self._link.wake()
                self._lock.wait_for(lambda: self._waiter is None)
                self._lock.notify_all()
                self._link.close()

    @contextlib.contextmanager
    def _alone(self, even_closed: bool = False) -> Iterator[None]:
        """Have the lock. RuntimeError if the client is closed, or if this very thread is in here already."""
        me = threading.get_ident()
        if me in (self._holder, self._waiter):
            raise RuntimeError("a signal handler cannot use the Client that it has interrupted: let it set a flag")
        with self._lock:
            if self._closed and not even_closed:
                raise RuntimeError("this Client is closed: make another one")
            self._holder = me
            try:
                yield
            finally:
                self._holder = None

    def _wait_for(self, done: Callable[[], object], timeout: float | None, begun: bool) -> bool:
        """Work until `done`; False if that takes longer than `timeout`, or if the loop had begun before `close`."""
        with self._alone(even_closed=begun):
            return self._work_until(done, None if timeout is None else self._link.now() + timeout)

    def _await(self, tag: int, timeout: float) -> ChatEvent:
        """Work until the command with this tag is answered."""
        self._awaited[tag] = None
        if self._waiter is not None:
            self._link.wake()
        try:
            if not self._work_until(lambda: self._awaited[tag] is not None, self._link.now() + timeout):
                if self._closed:
                    raise RuntimeError("this Client was closed by another thread")
                raise TimeoutError("no answer in time")
        finally:
            event = self._awaited.pop(tag)
        assert event is not None  # noqa: S101 (for the type checker: `_work_until` has said so)
        if isinstance(event, Failed):
            raise ChatError(event.code, event.words, dict(event.fates))
        if isinstance(event, protocol.Refused):
            raise ChatError(event.code, event.words)
        return event

    def _work_until(self, done: Callable[[], object], until: float | None) -> bool:
        """Turn until `done`. False if it is not after the turn that ends behind `until`, or when closed."""
        over = False
        while not done():
            if self._trouble is not None:
                raise ChatError(*self._trouble)
            if over or self._closed:
                return False
            over = until is not None and self._link.now() >= until  # what waits to be read is read first
            self._turn(until)
        return True

    def _turn(self, until: float | None) -> None:
        """A turn of the link. If another thread is in one, wait for the end of that."""
        me = threading.get_ident()
        if self._waiter is not None:
            self._holder = None
            self._lock.wait(None if until is None else max(0.0, until - self._link.now()))
            self._holder = me
            return
        self._waiter = me
        try:
            self._link.tick()
            self._link.flush()  # what was asked for
            self._link.take_in(self._sleep(self._link.patience(until)))
            self._link.tick()
            for event in self._link.take_events():
                self._sort(event)
            self._link.flush()
        finally:
            self._waiter = None
            self._lock.notify_all()

    def _sleep(self, patience: float | None) -> Ready:
        """Wait at the link, and let other threads have the lock meanwhile."""
        me, self._holder = self._holder, None
        try:
            self._lock.release()  # in here: Ctrl-C may come as soon as it is released
            return self._link.select(patience)
        finally:
            self._lock.acquire()
            self._holder = me

    def _sort(self, event: ChatEvent) -> None:
        """An event is an answer that a call waits for, trouble for all of them, or for the loops."""
        tag = getattr(event, "tag", None)
        if isinstance(event, Message):
            self._inbox.append((next(self._serial), event))
        elif tag in self._awaited and not isinstance(event, Waiting):
            self._awaited[tag] = event
        elif isinstance(event, (Unreachable, Untrusted)):
            self._session.abandon()
            self._trouble = type(event).__name__.lower(), event.words
        elif isinstance(event, protocol.LoginNeeded):
            self._trouble = event.code, event.words
        elif isinstance(event, LinkLost) and event.bye == protocol.Bye.REPLACED.value:
            self._trouble = "replaced", event.words
        elif not isinstance(event, (protocol.Answer, protocol.Refused)):  # to calls that have given up
            self._others.append((next(self._serial), event))


_open_clients: weakref.WeakSet[Client] = weakref.WeakSet()  # those that were made, and perhaps not closed


@atexit.register
def _close_clients() -> None:
    """The program ends: others need not see a lost connection for each session that it has left open."""
    until = time.monotonic() + LOGOUT_SECONDS
    for client in [*_open_clients]:
        if time.monotonic() < until:
            client.close()


# --- Safe text --------------------------------------------------------------------------------------------------------

# A message of the protocol is at most 65,536 bytes; a hostile server may send a frame of 16 MiB, which nobody reads.
DISPLAYED_MAX: Final = 65_536
# Vietnamese needs two marks on a letter, Hebrew and Thai up to four; more would be drawn over other lines.
MARKS_MAX: Final = 4
# Characters of a cluster that are read; the rest is dropped. Honest text has few hints between the marks of a letter.
_CLUSTER_MAX: Final = 32
# A tab is not a width but a movement of the cursor, so it is displayed as a fixed number of spaces.
_TAB: Final = "    "

# Controls, formats (bidi among them), unassigned, private, surrogates, and the two separators that break lines.
_UNSAFE: Final = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
_MARKS: Final = frozenset({"Mn", "Mc", "Me"})
# Hints for typesetting that honest text is full of. They have no width of their own, or none that terminals agree on:
# soft hyphen, grapheme joiner, Khmer inherent vowels, zero-width space and (non-)joiner, word joiner, byte order mark,
# variation selectors, the skin tones of emoji, and the tags behind a black flag.
_HINTS: Final = frozenset("\u00ad\u034f\u17b4\u17b5\u180b\u180c\u180d\u180f\u200b\u200c\u200d\u2060\ufeff").union(
    *(map(chr, codes) for codes in (range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0), range(0x1F3FB, 0x1F400))),
    map(chr, range(0xE0020, 0xE0080)),
)
_NON_JOINER: Final = "\u200c"
# Korean vowels and final consonants: they are drawn into the syllable before them, and alone have no agreed width.
_JAMO_TAILS: Final = frozenset(map(chr, (*range(0x1160, 0x1200), *range(0xD7B0, 0xD7FC))))
# Letters by category, empty to the eye: a name or a message made of them would look like nothing at all.
_BLANK_LETTERS: Final = frozenset("\u115f\u3164\uffa0")
_NUMBERED: Final = _JAMO_TAILS | _BLANK_LETTERS
# Characters that are displayed and look like nothing: newline, space, a Braille pattern without dots, a headless note.
_BLANKS: Final = frozenset("\n \u2800\U0001d159")
# The text in place of a character. Half a flag is a letter: terminals that draw no flags make it one or two
# cells wide. Of the spaces only the ideographic one has a width of its own.
_INSTEAD: Final[Mapping[int, str]] = {
    **dict.fromkeys(map(ord, _HINTS), ""),
    **dict.fromkeys((0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F), " "),
    **{0x1F1E6 + index: letter for index, letter in enumerate(string.ascii_uppercase)},
    ord("\t"): _TAB,
}
_INSTEAD_IN_ARABIC: Final = {code: text for code, text in _INSTEAD.items() if code != ord(_NON_JOINER)}


def clusters(text: str) -> Iterator[str]:
    """Cut `text` into what a person takes for one character: a letter with its marks, and the hints behind it.

    Joined together again the pieces are `text`. A newline, and every other control, is a piece of its own; an emoji
    that is made of several is as many pieces as pictures are displayed of it.

    >>> [len(cluster) for cluster in clusters("nga\\u0300y")]
    [1, 1, 2, 1]
    """
    if text.isascii():
        yield from text
        return
    start = 0
    for index in range(1, len(text)):
        if not _continues(text[index], text[start]):
            yield text[start:index]
            start = index
    if text:
        yield text[start:]


def _continues(char: str, base: str) -> bool:
    """Whether `char` belongs to the cluster that `base` has begun."""
    if char < "\u00ad" or unicodedata.category(base) in _UNSAFE:
        return False
    return char in _HINTS or char in _JAMO_TAILS or unicodedata.category(char) in _MARKS


def _code_point(char: str) -> str:
    return f"<U+{ord(char):04X}>"


@functools.lru_cache(maxsize=4096)
def _safe_cluster(cluster: str) -> str:
    """The text in place of one cluster."""
    # A non-joiner keeps two Arabic letters apart that would be drawn as one shape: Persian is misspelt without it.
    instead = _INSTEAD_IN_ARABIC if "\u0620" <= cluster[0] <= "\u06ff" else _INSTEAD
    text = cluster[:_CLUSTER_MAX].translate(instead)
    category = unicodedata.category(text[0]) if text else ""
    if category in _UNSAFE or category in _MARKS or text[:1] in _NUMBERED:
        return _code_point(text[0])  # a mark without a letter would sit on whatever was written before it
    text = unicodedata.normalize("NFC", text)[: 1 + MARKS_MAX]
    return "".join(_code_point(char) if char in _JAMO_TAILS else char for char in text)


def cut(text: str, most: int) -> str:
    """`text`, of which an ellipsis stands for what is beyond so many characters."""
    return text[:most] + "…" if len(text) > most else text


def safe_text(text: str) -> str:
    """Make `text`, from the network or from a paste, safe to write to a terminal on one line.

    Control, escape, bidi, private and unassigned characters, and marks without a letter, are displayed by their number
    as `<U+202E>`, a newline too (split first where lines are wanted); invisible hints are dropped; at most `MARKS_MAX`
    marks stay on a letter. Emoji are taken apart (a family is displayed as its members, a thumb without its skin tone,
    a flag as two letters), because terminals disagree about the width of the joined ones and a wrong width puts the
    cursor in the wrong place. Text longer than `DISPLAYED_MAX` characters is cut, which an ellipsis shows.

    The result contains only characters of one or two cells and their marks; applying this twice changes nothing.

    >>> safe_text("red \\x1b[31malert")
    'red <U+001B>[31malert'
    """
    text = cut(text, DISPLAYED_MAX)
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_safe_cluster, clusters(text)))


# Substitutes for signs that a terminal lacks: those of this program, and usual ones of others.
_SPELLED: Final[Mapping[str, str]] = {
    "→": "->", "…": "...", "–": "--", "—": "--", "‘": "'", "’": "'", "“": '"', "”": '"', "„": '"', "•": "*", "€": "EUR",
    _NON_JOINER: "",
}  # fmt: skip


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Characters that an encoding lacks, by others: the handler "spelled" of `str.encode`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_SPELLED.get(c, _code_point(c)) for c in error.object[error.start : error.end]), error.end


codecs.register_error("spelled", _spell)


def spelled(text: str, encoding: str) -> str:
    """`safe_text`, with nothing in it that `encoding` lacks, so that its width is known.

    >>> spelled("→ 中", "koi8-r")
    '-> <U+4E2D>'
    """
    safe = safe_text(text)
    return safe if encoding == "utf-8" else safe.encode(encoding, "spelled").decode(encoding)


def cell_width(text: str) -> int:
    """How many cells of the terminal `text` takes; `text` must have passed `safe_text`.

    East Asian wide characters and emoji take two; characters of ambiguous width count as one.

    >>> cell_width("你好, Tuấn")
    10
    """
    if text.isascii():
        return len(text)
    return sum(_char_width(char) for char in text)


def _char_width(char: str) -> int:
    if char == _NON_JOINER or unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


# --- Keys -------------------------------------------------------------------------------------------------------------


class Key(NamedTuple):
    """One thing a person did at the keyboard; never log it, it may be part of a password.

    `name` is "char" (typed text is in `text`), "paste" (a pasted block is in `text`), or the name of a key such as
    "left", "ctrl-a", "alt-b", "enter", "shift-tab". Names without a binding are ignored by the editor.
    `more`: text came together with this key, behind it: a paste that the terminal did not mark, or keys typed while
    the client was busy. See `as_one_burst`.
    """

    name: str
    text: str = ""
    more: bool = False


# A line of a chat fits a frame of 65,536 bytes with room for the verb, the tag and the longest name.
TYPED_MAX: Final = 60_000
# One byte more than fits a line, so that a longer paste is refused as too long and not sent cut in the middle.
PASTE_MAX: Final = TYPED_MAX + 1
# How long, in seconds, the caller waits after an escape byte before it calls `KeyDecoder.settle`: where the Escape key
# means something, longer than most gaps inside a sequence and shorter than a person notices; elsewhere as long as a bad
# network may take for the rest of a sequence.
ESCAPE_DELAY: Final = 0.05
SEQUENCE_DELAY: Final = 0.5
# Seconds without a byte after which a key ends a paste whose end has got lost: longer than the stutter of a network.
PASTE_PAUSE: Final = 1.0
# Sequences that terminals send are under 20 bytes; what does not end by then is noise.
_SEQUENCE_MAX: Final = 32

_ESCAPE: Final = 0x1B
_PASTE_BEGIN: Final = "paste-begin"  # never leaves the decoder
_PASTE_END: Final = b"\x1b[201~"
_IGNORED: Final = "ignored"
# Sent by a terminal that was asked to tell whether its window has the focus. No keys: the editor never gets them.
FOCUS: Final[Mapping[str, str]] = {"I": "focus-in", "O": "focus-out"}
_FOCUS_SEQUENCE: Final = re.compile(rb"\x1b\[[IO]")
# Escape, [, arguments (a second [ is of the Linux console), and the byte that ends the sequence.
_SEQUENCE: Final = re.compile(rb"\x1b\[(\[?[0-?]*[ -/]*)(.?)", re.DOTALL)
# The keys that a lone escape, or Alt with [ or O, leaves behind; each is also how a longer sequence begins.
_UNDECIDED: Final[Mapping[bytes, tuple[Key, ...]]] = {
    b"\x1b": (Key("escape"),), b"\x1b[": (Key("alt-["),), b"\x1bO": (Key("alt-O"),),
    b"\x1b\x1b": (Key("escape"), Key("escape")), b"\x1b\x1b[": (Key("escape"), Key("alt-[")),
    b"\x1b\x1bO": (Key("escape"), Key("alt-O")),
}  # fmt: skip
_CONTROL_KEYS: Final[Mapping[int, str]] = {
    **{code: f"ctrl-{chr(code + 96)}" for code in range(1, 27)},
    0: "ctrl-space", 8: "backspace", 9: "tab", 10: "enter", 13: "enter", _ESCAPE: "escape", 28: "ctrl-\\",
    29: "ctrl-]", 30: "ctrl-^", 31: "ctrl-_", 127: "backspace",
}  # fmt: skip
# Characters that with Ctrl are another control character than their own.
_WITH_CTRL: Final[Mapping[str, str]] = {"/": "_", "-": "_", "7": "_", " ": "@", "2": "@"}
# Keys by the last byte of their sequence, behind a number where that tells them apart; O begins those of ESC O that
# are none of ESC [: Enter of the keypad, and rxvt's arrows with Ctrl.
_SEQUENCE_KEYS: Final[Mapping[str, str]] = {
    "A": "up", "B": "down", "C": "right", "D": "left", "F": "end", "H": "home", "Z": "shift-tab",
    "1~": "home", "2~": "insert", "3~": "delete", "4~": "end", "5~": "page-up", "6~": "page-down", "7~": "home",
    "8~": "end", "200~": _PASTE_BEGIN, "OM": "enter", "Oc": "ctrl-right", "Od": "ctrl-left",
}  # fmt: skip
_SHIFT, _ALT, _CTRL, _SUPER = 1, 2, 4, 8 | 16 | 32  # bits of a modifier; the higher ones are Caps Lock and Num Lock


def _modified(name: str, bits: int) -> str:
    """Put Alt and Ctrl before the name of a key (Shift makes no difference)."""
    return ("ctrl-" if bits & _CTRL else "") + ("alt-" if bits & _ALT else "") + name


def _sequence_key(arguments: str, final: str) -> Key:
    """The key that sent ESC [ `arguments` `final`."""
    fields = [*arguments.split(";"), "", ""]
    bits = max(0, int(fields[1]) - 1) if fields[1].isdigit() else 0  # xterm's number is 1 + them
    if arguments[:1] in tuple("[<=>?"):  # the Linux console's function keys; answers of the terminal
        return Key(_IGNORED)
    if not arguments and final in FOCUS:
        return Key(FOCUS[final])
    if final == "u":
        return _coded_key(fields[0], bits)
    if final == "~" and fields[0] == "27":
        return _coded_key(fields[2], bits)
    name = _SEQUENCE_KEYS.get(fields[0] + final if final == "~" else final)
    return Key(_IGNORED if name is None else _modified(name, bits))


def _coded_key(number: str, bits: int) -> Key:
    """A key that came as its code point: CSI u, as a console of Windows sends it here, or xterm's modifyOtherKeys."""
    code = int(number) if number.isdigit() and len(number) < 8 else 0
    if not 0 < code <= sys.maxunicode or bits & _SUPER:
        return Key(_IGNORED)
    char = chr(code)
    if code in _CONTROL_KEYS:
        return Key(_named_key(_CONTROL_KEYS[code], bits))
    if bits & _CTRL:  # Ctrl-I is Tab, as terminals have always sent it
        control = _WITH_CTRL.get(char, char.upper())
        is_one = char.isascii() and "@" <= control <= "_"
        return Key(_modified(_CONTROL_KEYS[ord(control) & 0x1F], bits & _ALT) if is_one else _IGNORED)
    if bits & _SHIFT and len(char.upper()) == 1:
        char = char.upper()
    if not char.isprintable():
        return Key(_IGNORED)
    return Key(f"alt-{char}") if bits & _ALT else Key("char", char)


def _named_key(name: str, bits: int) -> str:
    """A key that has a name, with modifiers, as it is meant here."""
    if name == "enter":
        return "alt-enter" if bits & (_SHIFT | _ALT | _CTRL) else name
    if name == "tab" and bits & _SHIFT:
        return "shift-tab"
    if name == "backspace" and bits & _CTRL:
        return "alt-backspace"
    return name if name.startswith("ctrl-") else _modified(name, bits)


def _next_sequence(arguments: bytes, final: bytes) -> tuple[int, Key] | None:
    """As `_next_key`, for data that begins with ESC [, these arguments, and `final` (empty: it has not come yet)."""
    end = 2 + len(arguments)
    if not final:
        return (end, Key(_IGNORED)) if end >= _SEQUENCE_MAX else None
    if not b"@" <= final <= b"~":
        return end, Key(_IGNORED)  # cut short by a byte that is read again: it may be Ctrl-C
    return end + 1, _sequence_key(arguments.decode("ascii"), final.decode("ascii"))


def _next_character(data: bytes, encoding: str) -> tuple[int, Key] | None:
    """As `_next_key`, for data that begins with a byte over 0x7F. Malformed bytes become U+FFFD."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    for index in range(len(data)):
        if text := decoder.decode(data[index : index + 1]):
            return index + 2 - len(text), Key("char", text[0])  # a byte that cut it short is read again
    return None


def _after_escape(data: bytes, encoding: str) -> tuple[int, Key] | None:
    """As `_next_key`, for data that begins with ESC."""
    if data in _UNDECIDED:
        return None
    if found := _SEQUENCE.match(data):
        return _next_sequence(*found.groups())
    if data[1:2] == b"O" and data[2] >= 0x20:
        char = chr(data[2])
        return 3, Key(_SEQUENCE_KEYS.get(f"O{char}") or _SEQUENCE_KEYS.get(char) or _IGNORED)
    if data[1] == _ESCAPE and data[2:3] not in (b"[", b"O"):
        return 1, Key("escape")
    rest = _next_key(data[1:], encoding)
    if rest is None:
        return None
    length, key = rest
    if key.name in (_PASTE_BEGIN, *FOCUS.values()):
        return 1, Key("escape")
    return length + 1, Key(f"alt-{key.text or key.name}" if key.name != _IGNORED else _IGNORED)


def _next_key(data: bytes, encoding: str) -> tuple[int, Key] | None:
    """Take the first key off `data`: how many bytes it has, and the key; None if it needs bytes still to come."""
    if not data:
        return None
    if data[0] == _ESCAPE:
        return _after_escape(data, encoding)
    if data[0] > 0x7F:
        return _next_character(data, encoding)
    name = _CONTROL_KEYS.get(data[0])
    return 1, Key("char", chr(data[0])) if name is None else Key(name)


class KeyDecoder:
    """Bytes from a terminal, split anywhere, to keys. The same bytes in other pieces give the same keys.

    >>> decoder = KeyDecoder()
    >>> [key.name for key in decoder.feed(b"\\x1b[1;5") + decoder.feed(b"Dx\\r")]
    ['ctrl-left', 'char', 'enter']
    """

    def __init__(self, encoding: str = "utf-8") -> None:
        """encoding: the terminal's."""
        self._buffer = bytearray()
        self._encoding = encoding
        self._pasting = False
        self._fed_at = 0.0  # when a paste last went on
        self._interrupted_at = -math.inf  # the last Ctrl-C of those that have ended a paste

    @property
    def undecided(self) -> bool:
        """Whether the last bytes may be the Escape key or begin a sequence: call `settle` after `ESCAPE_DELAY`."""
        return not self._pasting and bytes(self._buffer[:4]) in _UNDECIDED

    def feed(self, data: bytes, now: float = 0.0) -> list[Key]:
        """Take in `data`, read at the time `now`, and return the keys that are complete. A paste is one key, at its
        end; if that has got lost, it ends at the first key that is pressed after `PASTE_PAUSE`. If that is a Ctrl-C
        that is held, it counts once: the next ones would leave the program."""
        keys: list[Key] = []
        interrupts = data != b"" and data.strip(b"\x03") == b""
        if interrupts and now - self._interrupted_at < PASTE_PAUSE:
            self._interrupted_at = now
            return keys
        if self._pasting and now - self._fed_at >= PASTE_PAUSE and (interrupts or self._is_one_key(data)):
            keys.append(self._end_paste(len(self._buffer)))
            self._buffer.clear()
            if interrupts:
                self._interrupted_at, data = now, b"\x03"
        if not interrupts:  # pressed again and again, it must not put off the end of a paste
            self._fed_at = now
        self._buffer += data
        while taken := self._take():
            length, key = taken
            del self._buffer[:length]
            if key.name == _PASTE_BEGIN:
                self._pasting = True
            elif key.name != _IGNORED:
                keys.append(key)
        return keys

    def _is_one_key(self, data: bytes) -> bool:
        """Whether `data` comes from a finger, not from a paste that goes on or ends."""
        if _PASTE_END in self._buffer[-len(_PASTE_END) :] + data:
            return False
        taken = _next_key(data[:_SEQUENCE_MAX], self._encoding)
        return data == b"\x1b" or (taken is not None and taken[0] == len(data))

    def _end_paste(self, end: int) -> Key:
        self._pasting = False
        pasted = _FOCUS_SEQUENCE.sub(b"", self._buffer[: min(end, PASTE_MAX)])
        return Key("paste", pasted.decode(self._encoding, "replace"))

    def settle(self) -> list[Key]:
        """Nothing came after an escape: it was the Escape key. Longer sequences go on waiting for their end."""
        if not self.undecided:
            return []
        keys = list(_UNDECIDED[bytes(self._buffer)])
        self._buffer.clear()
        return keys

    def _take(self) -> tuple[int, Key] | None:
        if not self._pasting:
            return _next_key(bytes(self._buffer[:_SEQUENCE_MAX]), self._encoding)
        end = self._buffer.find(_PASTE_END)
        if end < 0:
            del self._buffer[PASTE_MAX : -len(_PASTE_END)]  # too long for a line: only the end of the paste matters now
            return None
        return end + len(_PASTE_END), self._end_paste(end)


# A record of a console of Windows: its kind, and of a key whether it is pressed, how many times, its number, its place,
# its character (a unit of UTF-16) and which keys are held.
_RECORD: Final = struct.Struct("<HxxiHHHHI")
_KEY_RECORD, _SIZE_RECORD = 1, 4
_HELD: Final[Mapping[int, int]] = {0x10: _SHIFT, 0x03: _ALT, 0x0C: _CTRL}  # left and right together
# Let go, this key has the character whose number was typed with it. So a paste has what is on no key.
_ALT_KEY: Final = 0x12
# The sequences of a terminal for the keys by their number, {} for xterm's number of the modifiers.
_CONSOLE_KEYS: Final[Mapping[int, str]] = {
    0x08: "127;{}u", 0x09: "9;{}u", 0x0D: "13;{}u", 0x21: "5;{}~", 0x22: "6;{}~", 0x23: "1;{}F", 0x24: "1;{}H",
    0x25: "1;{}D", 0x26: "1;{}A", 0x27: "1;{}C", 0x28: "1;{}B", 0x2D: "2;{}~", 0x2E: "3;{}~",
}  # fmt: skip


def _record_text(number: int, char: int, held: int) -> str:
    """The characters that a terminal would send for a key."""
    bits = sum(bit for keys, bit in _HELD.items() if held & keys)
    if number in _CONSOLE_KEYS and (bits or not char):
        return "\x1b[" + _CONSOLE_KEYS[number].format(1 + bits)
    if not char:
        return ""
    meta = bits & (_ALT | _CTRL) == _ALT and number not in (0, _ALT_KEY)  # AltGr is Alt with Ctrl
    return "\x1b" * meta + chr(char)


class ConsoleReader:
    """In a thread: what is typed and pasted into a console of Windows, as the bytes that a terminal would send.

    A console that was asked for a terminal's sequences gives them itself, each character as that of a key without a
    number; one that cannot do that names its keys.
    """

    def __init__(
        self, read: Callable[[], bytes], follows: Callable[[], bool], bursts: Mailbox, resized: Callable[[], object]
    ) -> None:
        """read: waits for records; empty at the end. follows: whether more of them come at once. bursts: for what was
        read, b"" at the end. resized: called when the window may have another size."""
        self._read, self._follows, self._bursts, self._resized = read, follows, bursts, resized
        self._decoder = codecs.getincrementaldecoder("utf-16-le")("replace")  # a pair may come in two halves

    def run(self) -> None:
        """Read to the end."""
        burst: bytes | None = None
        while burst != b"":
            burst = read_burst(self._read_text, self._follows)
            if burst is not None:
                self._bursts.put(burst)

    def _read_text(self) -> bytes | None:
        """The bytes for the next records; empty at the end, None if these have none."""
        records = self._read()
        if not records:
            return b""
        text = ""
        for kind, pressed, times, number, _, char, held in _RECORD.iter_unpack(records):
            if kind == _SIZE_RECORD:
                self._resized()
            elif kind == _KEY_RECORD and (pressed or number == _ALT_KEY):
                text += _record_text(number, char, held) * (times if pressed else 1)
        if text == "\n":  # alone it is Ctrl-Enter; the window itself takes Alt-Enter
            text = "\x1b\r"
        return self._decoder.decode(text.encode("utf-16-le", "surrogatepass")).encode() or None


def as_one_burst(keys: list[Key]) -> list[Key]:
    """Mark keys that were read at once: each that has text behind it gets `more`."""
    last = max((index for index, key in enumerate(keys) if key.text), default=0)
    return [key._replace(more=True) for key in keys[:last]] + keys[last:]


# --- The line editor --------------------------------------------------------------------------------------------------

# Enough for days of chatting; the oldest line goes when a new one comes.
HISTORY_MAX: Final = 1_000
# Steps back; each holds a line, which may be long.
UNDO_MAX: Final = 100

EventKind = Literal["line", "answer", "give-up", "interrupt", "leave", "end", "suspend", "clear", "full"]
# Text before the cursor -> where the word to be completed begins, and what may stand there, best first.
Completer = Callable[[str], tuple[int, Sequence[str]]]
# First word of a line, once a space is typed behind it -> the recipient that it names ("" for none) and the text that
# takes its place; None if it is a word like any other.
Expander = Callable[[str], tuple[str, str] | None]


class Line(NamedTuple):
    """A line that is typed. Its text is not in its repr: it may hold a password.

    to: the recipient that was typed in front of the text and now stands in the prompt; "" if there is none.
    block: whether the text begins with a pasted block of several lines. A block is text to the letter: it is never a
    command and never names a recipient, whatever its first line looks like.
    unseen: whether the line was finished before the person could see which recipient its first word has become.
    dropped: the recipient that the line had before all of its text was deleted, and it with that; "" if there was none.
    """

    text: str = ""
    to: str = ""
    block: bool = False
    unseen: bool = False
    dropped: str = ""

    def __repr__(self) -> str:
        return f"Line(to={self.to!r}, block={self.block}, unseen={self.unseen}, dropped={self.dropped!r})"


class EditorEvent(NamedTuple):
    """A message of the editor to its caller.

    kind: "line" (a finished line), "answer" (to `LineEditor.ask`, in `line.text`), "give-up" (no answer to it),
    "interrupt" (Ctrl-C on an empty line), "leave" (the same at once again), "end" (Ctrl-D on an empty line), "suspend"
    (Ctrl-Z), "clear" (Ctrl-L), "full" (what was typed or pasted does not fit).
    """

    kind: EventKind
    line: Line = Line()


BEFORE_NAMES: Final = "@([{<\"'"  # signs that may stand right before a name that is completed


def complete_word(before: str, commands: Iterable[str], names: Iterable[str]) -> tuple[int, list[str]]:
    """Complete the word that ends at the cursor: the usual body of a `Completer`.

    before: the line up to the cursor. commands: as typed, `/msg`. names: best first, those online before the others.

    >>> complete_word("/m", ["/me", "/msg", "/who"], ["Bob"])
    (0, ['/me ', '/msg '])
    >>> complete_word("b", [], ["Bob"]), complete_word("ask (b", [], ["Bob"])  # at the start it is the recipient
    ((0, ['Bob: ']), (5, ['Bob ']))
    >>> complete_word("bob,e", [], ["Bob", "eve"]), complete_word("/msg bob,e", [], ["Bob", "eve"])
    ((0, ['Bob,eve: ']), (9, ['eve ']))
    """
    start = len(before) - len(before.split()[-1]) if before and not before[-1].isspace() else len(before)
    word = before[start:]
    if start == 0 and word.startswith("/"):
        return start, [command + " " for command in commands if command.startswith(word.lower())]
    bare = word.lstrip(BEFORE_NAMES)
    listed, comma, last = bare.rpartition(",")  # of a list of names the last one is completed
    by_key = {fold(name): name for name in names}
    head = [by_key.pop(fold(name), name) for name in listed.split(",")] if comma else []
    found = [name for key, name in by_key.items() if key.startswith(fold(last))]
    if start == 0 and word.startswith("@"):  # it becomes what it stands for at once, as if it had been typed
        return 0, [f"/msg {','.join([*head, name])} " for name in found]
    if start == 0 and bare == word:  # it becomes the recipient
        return 0, [f"{','.join([*head, name])}: " for name in found]
    return len(before) - len(last), [name + " " for name in found]


# Motions: from a text and an index in it to the index where the cursor goes.

Motion = Callable[[str, int], int]


def row_start(text: str, cursor: int) -> int:
    """The start of the cursor's own row."""
    return text.rfind("\n", 0, cursor) + 1


def row_end(text: str, cursor: int) -> int:
    """The end of the cursor's own row."""
    end = text.find("\n", cursor)
    return len(text) if end < 0 else end


def _places(text: str, cursor: int) -> list[int]:
    """All places in the cursor's own row where the cursor may stand, ends included."""
    start = row_start(text, cursor)
    return [*itertools.accumulate(map(len, clusters(text[start : row_end(text, cursor)])), initial=start)]


def left(text: str, cursor: int) -> int:
    """One cluster to the left; over a newline at the start of a row.

    >>> left("ab", 2), left("ab\\n", 3), left("", 0)
    (1, 2, 0)
    """
    return max((place for place in _places(text, cursor) if place < cursor), default=max(cursor - 1, 0))


def right(text: str, cursor: int) -> int:
    """One cluster to the right; over a newline at the end of a row."""
    return next((place for place in _places(text, cursor) if place > cursor), min(cursor + 1, len(text)))


def row_start_or_left(text: str, cursor: int) -> int:
    """The start of the row; from there over the newline."""
    return min(row_start(text, cursor), left(text, cursor))


def row_end_or_right(text: str, cursor: int) -> int:
    """The end of the row; from there over the newline."""
    return max(row_end(text, cursor), right(text, cursor))


def _to_word_end(pieces: Iterable[str], inside: Callable[[str], bool]) -> int:
    """The length of the first word in `pieces`, with all that comes before it."""
    length, begun = 0, False
    for piece in pieces:
        if begun and not inside(piece):
            break
        begun = begun or inside(piece)
        length += len(piece)
    return length


def _is_word(cluster: str) -> bool:
    return cluster[0].isalnum() or cluster[0] == "_"


def _is_ink(cluster: str) -> bool:
    return not cluster[0].isspace()


def word_left(text: str, cursor: int) -> int:
    """The beginning of the word before the cursor."""
    return cursor - _to_word_end([*clusters(text[:cursor])][::-1], _is_word)


def ink_left(text: str, cursor: int) -> int:
    """The beginning of what is written without a space before the cursor."""
    return cursor - _to_word_end([*clusters(text[:cursor])][::-1], _is_ink)


def word_right(text: str, cursor: int) -> int:
    """The end of the word after the cursor."""
    return cursor + _to_word_end(clusters(text[cursor:]), _is_word)


def typed_left(text: str, cursor: int) -> int:
    """The beginning of what was typed last: of a cluster, or of its last mark if people type the marks of that script
    one by one, as in Thai and Devanagari. Marks of no script (accents, the keycap) are one with their letter."""
    start = left(text, cursor)
    cluster = text[start:cursor].rstrip("\u200c\u200d")
    mark = cluster[1:][-1:]
    named = unicodedata.name(mark, "COMBINING") if mark and unicodedata.category(mark) in _MARKS else "COMBINING"
    return start if named.startswith(("COMBINING", "VARIATION")) else start + len(cluster) - 1


def in_row(text: str, cursor: int, inner: int) -> int:
    """In the row that holds the index `inner`: as many clusters from its start as the cursor, or its end."""
    column = sum(place < cursor for place in _places(text, cursor))
    return _places(text, inner)[: column + 1][-1]


class _Undo:
    """The line as it was before each of its last changes. A word that was typed is one change."""

    def __init__(self) -> None:
        self._states: deque[tuple[Line, int]] = deque(maxlen=UNDO_MAX)
        self._typing = False  # the last change was a character that was typed

    def note(self, before: tuple[Line, int], typed: str) -> None:
        """before: the line and the cursor as they were. typed: the character that changed the line, "" for a key."""
        text, cursor = before[0].text, before[1]
        begins_a_word = not typed.isspace() and text[:cursor][-1:].isspace()
        if not (self._typing and typed) or begins_a_word:
            self._states.append(before)
        self._typing = bool(typed)

    def end_word(self) -> None:
        """The next character is another change."""
        self._typing = False

    def take(self) -> tuple[Line, int] | None:
        """The line before the last change, if it is known."""
        self._typing = False
        return self._states.pop() if self._states else None

    def clear(self) -> None:
        """Another line is being edited from now on."""
        self._states.clear()
        self._typing = False


class _History:
    """The finished lines, the place among them that is shown, and the lines that were left unfinished by moving on."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.place = 0  # index of the line that is shown; len(lines) is that of the new line
        self._drafts: dict[int, Line] = {}  # by place

    def add(self, line: Line) -> None:
        """A line is finished, and the next one begins."""
        if line.text.strip() and self.lines[-1:] != [line]:
            self.lines = [*self.lines[-HISTORY_MAX + 1 :], line]
        self.leave()

    def leave(self) -> None:
        """Forget the lines that were left unfinished, and go to the new line."""
        self._drafts.clear()
        self.place = len(self.lines)

    def forget_last(self) -> None:
        """Drop the newest line."""
        del self.lines[-1:]
        self.place = len(self.lines)

    def move(self, step: int, line: Line) -> Line | None:
        """The older (-1) or newer (1) line; `line`, which is left for it, waits at its place, changed or not."""
        place = self.place + step
        if not 0 <= place <= len(self.lines):
            return None
        self._drafts[self.place], self.place = line, place
        return self._drafts.get(place, self.lines[place] if place < len(self.lines) else Line())

    def find(self, query: str, before: int) -> int | None:
        """The place of the newest line before the place `before` that holds `query`."""
        places = range(before - 1, -1, -1)
        return next((p for p in places if query.casefold() in self.lines[p].text.casefold()), None)


class _Search(NamedTuple):
    """A Ctrl-R search under way: the text looked for, where it was found, and the line and the cursor before it."""

    query: str
    found: int
    before: tuple[Line, int]
    missed: bool


class _Cycle(NamedTuple):
    """A completion under way: where the word begins, all that may stand there (last what was typed), which one does,
    and the line's recipient before it."""

    start: int
    choices: tuple[str, ...]
    chosen: int
    to: str


class LineEditor:
    """The line being typed: keys in, line and cursor out. It never draws and never asks the terminal anything.

    `text` is the line, newlines included; `cursor` is an index into it, between two clusters (or inside one, while a
    letter is typed before its mark). `to` is the line's own recipient, see `Line`: it is fixed while the line is typed,
    by a key that the person presses, and shown in the prompt from then on. A line that is emptied has none any more.

    A key is a verb and a motion: see `EDITOR_KEYS`.

    `hidden` is true while a password is typed: then nothing may be drawn (see `view`) and no key but the simplest
    works. It stays true after Enter, until the caller asks again or calls `stop_asking`: a person who goes on typing
    believes that the question still stands. `waits` is true from that Enter on; the text that is typed meanwhile is the
    answer if the question comes again. If it does not (see `release`), `drains` is true: the text is dropped at the
    next Enter.
    """

    def __init__(
        self,
        candidates: Completer = lambda before: (len(before), ()),
        expand: Expander = lambda word: None,
    ) -> None:
        """candidates: what Tab offers; called only when Tab is pressed. expand: see `Expander`."""
        self.text = ""
        self.cursor = 0
        self.to = ""
        self.hidden = self.waits = self.drains = False
        self._block = False  # the text begins with a pasted block
        self._dropped = ""  # the recipient that went when the line was emptied
        self._candidates = candidates
        self._expand = expand
        self._expanded = False  # the first word has become a recipient since the line was last drawn
        self._history = _History()
        self._undo = _Undo()
        self._killed = ""
        self._kills = False  # the last key killed text, so that the next kill adds to it
        self._warned = False  # the last key was a Ctrl-C on an empty line
        self._cycle: _Cycle | None = None
        self._search: _Search | None = None
        self._aside: tuple[Line, int] | None = None  # the line and its cursor, while a question is asked
        self._early = ""  # the next hidden answer, finished before it was asked for

    # -- for the caller ------------------------------------------------------------------------------------------------

    def feed(self, key: Key) -> EditorEvent | None:
        """Do what `key` means. Returns an event when the caller has something to do.

        >>> editor = LineEditor()
        >>> for key in (Key("char", "h"), Key("char", "o"), Key("backspace"), Key("char", "i")):
        ...     editor.feed(key)
        >>> editor.view()
        ('hi', 2)
        >>> event = editor.feed(Key("enter"))
        >>> event.kind, event.line.text, editor.view()
        ('line', 'hi', ('', 0))
        """
        before, asked, place = self._state(), self._aside, self._history.place
        event = self._do(key)
        another = place != self._history.place or (event is not None and event.kind == "line")
        if asked or self._aside or self._search or another:
            self._undo.clear()
        elif self.line != before[0] and key.name != "ctrl-_":
            self._undo.note(before, key.text if key.name == "char" else "")
        else:
            self._undo.end_word()
        return event

    def _do(self, key: Key) -> EditorEvent | None:
        if key.name != "ctrl-c":
            self._warned = False
        if self._search is not None and self._search_key(self._search, key):
            return None
        if key.name in ("char", "paste"):
            self._cycle, self._kills = None, False
            return self._type(key.text) if key.name == "char" else self._paste(key.text)
        binding = (HIDDEN_KEYS if self.hidden else EDITOR_KEYS).get(key.name)
        if binding is None:
            return None
        verb, arguments = binding
        event: EditorEvent | None = verb(self, *arguments)
        self._kills = verb in KILLS
        if verb is not LineEditor._complete:
            self._cycle = None
        return event

    def view(self) -> tuple[str, int]:
        """The text to draw and the cursor in it; nothing at all while hidden."""
        return ("", 0) if self.hidden else (self.text, self.cursor)

    @property
    def line(self) -> Line:
        """The line as it is."""
        return Line(self.text, self.to, self._block and "\n" in self.text, dropped=self._dropped)

    @property
    def asks(self) -> bool:
        """Whether a question stands, or a hidden answer waits for its consequence."""
        return self._aside is not None

    @property
    def hears_escape(self) -> bool:
        """Whether the Escape key means something, so that it is not waited for long: not in a password, which a key in
        two pieces must not end."""
        return self._search is not None or (self._aside is not None and not self.hidden)

    @property
    def search_prompt(self) -> str | None:
        """The words in place of the prompt during a Ctrl-R search; None when there is no search."""
        if self._search is None:
            return None
        return f"{'not found' if self._search.missed else 'search'} '{self._search.query}': "

    def ask(self, *, hidden: bool) -> bool:
        """Begin an answer to a question: the line is put aside, and Enter gives an "answer" event and the line back.

        Answers are kept out of the history; with `hidden` they are neither drawn nor kept for Ctrl-Y, and the line
        comes back only with `stop_asking`. True if the answer was typed already, Enter included: it stands in the line.
        """
        self._search = None
        typed = (self._early or self.text) if (self.waits or self.drains) and hidden else ""
        finished = bool(typed) and typed == self._early
        if self._aside is None:
            self._aside = self._state()
        self.hidden = hidden
        self.waits, self.drains, self._early = False, False, ""
        self._put(Line(typed))
        return finished

    def release(self) -> None:
        """The consequence of a hidden answer is known. Hidden text that is half typed stays so, and is dropped."""
        if self.waits and self.text:
            self.waits, self.drains, self._early = False, True, ""
        else:
            self.stop_asking()

    def stop_asking(self) -> None:
        """Withdraw the question, if there is one, and take the line up again."""
        if self._aside is not None:
            self._put(*self._aside)
            self._aside = None
        self.hidden = self.waits = self.drains = False
        self._early = ""

    def mark_seen(self) -> None:
        """The line was drawn, and so was its recipient."""
        self._expanded = False

    def forget_last(self) -> None:
        """Take the newest line out of the history: it may hold a secret."""
        self._history.forget_last()

    def forget(self) -> None:
        """Forget all that was typed, but for the line as it is."""
        self._history, self._undo, self._killed = _History(), _Undo(), ""

    # -- changing the text ---------------------------------------------------------------------------------------------

    def _state(self) -> tuple[Line, int]:
        return self.line, self.cursor

    def _put(self, line: Line, cursor: int | None = None) -> None:
        """Put `line` in the line's place, cursor at its end if it is not told."""
        self.text, self.to, self._block, self._dropped = line.text, line.to, line.block, line.dropped
        self.cursor = len(line.text) if cursor is None else cursor
        self._cycle = None
        self._kills = False

    def _swap(self, start: int, end: int, text: str) -> EditorEvent | None:
        """Put `text` in the place of text[start:end], if it fits, and the cursor after it."""
        before, after = self.text[:start] + text, self.text[end:]
        if len((before + after).encode("utf-8", "replace")) > TYPED_MAX:
            return EditorEvent("full")
        self.text, self.cursor = before + after, len(before)
        return None

    def _insert(self, text: str) -> EditorEvent | None:
        return self._swap(self.cursor, self.cursor, text)

    def _type(self, text: str) -> EditorEvent | None:
        found = self._expand(self.text[: self.cursor]) if text == " " and not self.to and self._aside is None else None
        if found is None:
            return self._insert(text)
        to, instead = found
        event = self._swap(0, self.cursor, instead)
        if event is None:
            self.to, self._expanded = to, True
        return event

    def _paste(self, text: str) -> EditorEvent | None:
        """A block is put into the line as it is, less the newlines at its end: nobody means to send these."""
        text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
        self._block |= self.cursor == 0 and "\n" in text and not self.hidden
        return self._insert(text)

    def _cut(self, start: int, end: int) -> str:
        """Take text[start:end] out; the cursor stays where it was cut (or goes on to where it may stand)."""
        cut = self.text[start:end]
        self.text = self.text[:start] + self.text[end:]
        self._block = self._block and bool(self.text)
        self.cursor = next(place for place in _places(self.text, start) if place >= start)
        if cut:
            self._untie_if_empty()
        return cut

    def _untie_if_empty(self) -> None:
        """An emptied line is as new: a command or another recipient may be typed."""
        if self.to and not self.text:
            self._dropped, self.to, self._expanded = self.to, "", False

    # -- verbs: what a key does, to the text between the cursor and the end of a motion --------------------------------

    def _move(self, motion: Motion) -> None:
        self.cursor = motion(self.text, self.cursor)

    def _delete(self, motion: Motion) -> None:
        self._cut(*sorted((self.cursor, motion(self.text, self.cursor))))

    def _kill(self, motion: Motion) -> None:
        self._keep(*sorted((self.cursor, motion(self.text, self.cursor))))

    def _keep(self, start: int, end: int) -> None:
        """Cut, and keep it for Ctrl-Y; kills in a row are kept as one, and a recipient that goes is kept as text."""
        backwards, to = start < self.cursor, self.to
        cut, kept = self._cut(start, end), self._killed if self._kills else ""
        self._untie_if_empty()
        self._killed = f"{to}: " * (to != self.to) + (cut + kept if backwards else kept + cut)

    def _kill_to_start(self) -> None:
        """At the start of the text also a recipient of its own is killed."""
        if self.cursor == 0 and self.to:
            self._killed, self.to = f"{self.to}: {self._killed if self._kills else ''}", ""
        else:
            self._kill(row_start_or_left)

    def _delete_back(self) -> None:
        """At the start of the text a recipient of its own becomes text again, less the space behind it."""
        if self.cursor == 0 and self.to:
            self.text, self.cursor = f"{self.to}:{self.text}", len(self.to) + 1
            self.to, self._block, self._expanded = "", False, False
        else:
            self._delete(typed_left)

    def _delete_or_end(self) -> EditorEvent | None:
        if not self.text and not self.to:
            return EditorEvent("end") if self._aside is None or self.waits else self._give_up_answer()
        self._delete(right)
        return None

    def _undo_last(self) -> None:
        """Back to the line before the last change; what was undone cannot be redone."""
        if (before := self._undo.take()) is not None:
            self._put(*before)
            self._untie_if_empty()

    def _discard(self) -> None:
        self._put(Line())
        self._early, self._expanded = "", False

    def _tell(self, kind: EventKind) -> EditorEvent:
        return EditorEvent(kind)

    # -- finishing and giving up ---------------------------------------------------------------------------------------

    def _finish(self) -> EditorEvent | None:
        if self._aside is not None:
            return self._finish_answer()
        line = self.line
        if (len(line.text) - len(line.text.rstrip("\\"))) % 2:  # two backslashes at the end are meant as they are
            return self._swap(len(line.text) - 1, len(line.text), "\n")
        self._history.add(line._replace(dropped=""))
        self._put(Line())
        unseen, self._expanded = self._expanded, False
        return EditorEvent("line", line._replace(unseen=unseen))

    def _finish_answer(self) -> EditorEvent | None:
        """Only the first of the answers that come before their question is kept: one question can come again."""
        text = self.text
        if self.drains:
            self.stop_asking()
            return None
        if self.waits:
            self._early = self._early or text
            self._put(Line())
            return None
        if self.hidden and text:
            self.waits = True
            self._put(Line())
        else:
            self.stop_asking()
        return EditorEvent("answer", Line(text))

    def _give_up_answer(self) -> EditorEvent | None:
        """Withdraw the question. Of a password that is half typed only the text is dropped, and the question stands."""
        if self._aside is None:
            return None
        if self.hidden and self.text:
            self._discard()
            return None
        event = None if self.drains else EditorEvent("give-up")
        self.stop_asking()
        return event

    def _interrupt(self) -> EditorEvent | None:
        """As in a shell, Ctrl-C drops what is being typed, if anything is; Ctrl-Y brings it back."""
        if self._aside is not None:
            return self._give_up_answer()
        if not self.text and not self.to:
            kind: EventKind = "leave" if self._warned else "interrupt"
            self._warned = True
            return EditorEvent(kind)
        self._keep(0, len(self.text))
        self._put(Line())
        self._expanded = False
        self._history.leave()
        return None

    # -- history, search, completion -----------------------------------------------------------------------------------

    def _vertical(self, step: int) -> None:
        """To the row above (-1) or below (1); from the first or last one to another line of the history."""
        edge = self.text.rfind("\n", 0, self.cursor) if step < 0 else self.text.find("\n", self.cursor)
        if edge >= 0:
            self.cursor = in_row(self.text, self.cursor, edge + (step > 0))
        elif self._aside is None and (line := self._history.move(step, self.line)) is not None:
            self._put(line)
            self._expanded = bool(self.to)

    def _begin_search(self) -> None:
        if self._aside is None:
            self._search = _Search("", len(self._history.lines), self._state(), missed=False)

    def _search_key(self, search: _Search, key: Key) -> bool:
        """Deal with a key while searching; False if it ended the search and is to be dealt with as usual."""
        queries = {"char": search.query + key.text, "backspace": search.query[:-1], "ctrl-r": search.query}
        if key.name not in queries:
            self._search = None
            if key.name in ("ctrl-g", "ctrl-c"):
                self._put(*search.before)
            return key.name in ("ctrl-g", "ctrl-c", "escape")
        query, end = queries[key.name], len(self._history.lines)
        found = self._history.find(query, search.found if key.name == "ctrl-r" else end) if query else end
        self._search = search._replace(query=query, missed=found is None)
        if found is not None:  # else the last one that was found stays
            self._search = self._search._replace(found=found)
            self._put(*(search.before if found == end else (self._history.lines[found],)))
        return True

    def _complete(self, step: int) -> EditorEvent | None:
        """Put the next (1) or previous (-1) candidate in the word's place; after the last comes what was typed."""
        if self._cycle is None:
            start, found = self._candidates(self.text[: self.cursor])
            if not found:
                return None
            typed = self.text[start : self.cursor]
            self._cycle = _Cycle(start, (*found, typed), len(found), self.to)
        start, choices, chosen, to = self._cycle
        chosen = (chosen + step) % len(choices)
        instead = choices[chosen]
        if start == 0 and instead.endswith(": ") and chosen < len(choices) - 1:
            to, instead = (to, instead[:-2] + " ") if to else (instead[:-2], "")
        if (event := self._swap(start, self.cursor, instead)) is not None:
            return event
        self.to = to
        self._cycle = self._cycle._replace(chosen=chosen) if len(choices) > 2 else None
        return None


# Keys, their verb, and its argument: a motion, a direction, a text or a kind of event.
_BINDINGS: Final[Sequence[tuple[Any, ...]]] = (
    ("left ctrl-b", LineEditor._move, left),
    ("right ctrl-f", LineEditor._move, right),
    ("home ctrl-a", LineEditor._move, row_start),
    ("end ctrl-e", LineEditor._move, row_end),
    ("alt-b alt-left ctrl-left", LineEditor._move, word_left),
    ("alt-f alt-right ctrl-right", LineEditor._move, word_right),
    ("up ctrl-p", LineEditor._vertical, -1),
    ("down ctrl-n", LineEditor._vertical, 1),
    ("backspace", LineEditor._delete_back),
    ("delete", LineEditor._delete, right),
    ("ctrl-d", LineEditor._delete_or_end),
    ("ctrl-k", LineEditor._kill, row_end_or_right),
    ("ctrl-u", LineEditor._kill_to_start),
    ("ctrl-w", LineEditor._kill, ink_left),
    ("alt-backspace", LineEditor._kill, word_left),
    ("alt-d alt-delete ctrl-delete", LineEditor._kill, word_right),
    ("ctrl-y", lambda editor: editor._insert(editor._killed)),
    ("ctrl-_", LineEditor._undo_last),
    ("tab", LineEditor._complete, 1),
    ("shift-tab", LineEditor._complete, -1),
    ("alt-enter", LineEditor._insert, "\n"),
    ("enter", LineEditor._finish),
    ("ctrl-r", LineEditor._begin_search),
    ("ctrl-c", LineEditor._interrupt),
    ("escape", LineEditor._give_up_answer),
    ("ctrl-z", LineEditor._tell, "suspend"),
    ("ctrl-l", LineEditor._tell, "clear"),
)
EDITOR_KEYS: Final[Mapping[str, tuple[Any, list[Any]]]] = {
    key: (verb, arguments) for keys, verb, *arguments in _BINDINGS for key in keys.split()
}
# A password is typed blind, so there is nothing to move in; and it must not reach the text that Ctrl-Y brings back.
HIDDEN_KEYS: Final[Mapping[str, tuple[Any, list[Any]]]] = {
    **{key: EDITOR_KEYS[key] for key in ("backspace", "ctrl-d", "enter", "ctrl-c", "escape", "ctrl-z", "ctrl-l")},
    "ctrl-u": (LineEditor._discard, []),
    "ctrl-g": EDITOR_KEYS["escape"],
}
KILLS: Final = (LineEditor._kill, LineEditor._kill_to_start)


# --- The screen -------------------------------------------------------------------------------------------------------

# Styles are the numbers of the terminal's "select graphic rendition".
NO_STYLE: Final = ""
DIM: Final = "2"
RED: Final = "31"
# Readable on black and on white: the contrast is at least 2.5 in the palettes of xterm, VGA, GNOME, macOS and Windows
# (of the others, but for the red of errors, it is down to 2.2 on one of the two); and bold, alone and with each.
_NAME_STYLES: Final = ("94", "35", "95", "1", "1;94", "1;35", "1;95")

# Empty lines of a message that are shown as such: 60,000 of them would push all else out of the terminal's scrollback.
# Lines with something in them are all shown, since their sender is told that they were.
EMPTY_LINES: Final = 20
_EMPTY_LINES: Final = re.compile(rf"\n(?:[ \t]*\n){{{EMPTY_LINES + 1},}}")
# In a narrower window a continued row would have no room for its margin, a split word and a wide character.
NARROWEST: Final = 8
# Erases all from the first cell of a row on. In two steps, because tmux takes one erase from the upper left corner for
# clearing the screen, and keeps a copy of what was there in its scrollback.
_ERASE: Final = "\x1b[K\x1b[C\x1b[J\r"
BELL: Final = "\a"


def name_style(name: str) -> str:
    """The colour of a name: the same in every client, on every day."""
    return _NAME_STYLES[zlib.crc32(fold(name).encode("utf-8", "replace")) % len(_NAME_STYLES)]


def is_dumb(environ: Mapping[str, str], *, windows: bool) -> bool:
    """Whether the terminal cannot move its cursor, so that only plain lines make sense."""
    return environ.get("TERM", "" if not windows else "windows") in ("", "dumb", "unknown")


def wants_colour(environ: Mapping[str, str]) -> bool:
    """Whether styles may be used: not if NO_COLOR is set to anything (see no-color.org)."""
    return not environ.get("NO_COLOR")


# Terminals that do not wrap their old rows anew, by the TERM they set; tried in tmux, xterm, rxvt, st, mlterm and VTE.
_KEEPS_ROWS: Final = re.compile(r"xterm|linux|vt\d+|(screen|st|rxvt|mlterm|putty)([-.].*)?")


def terminal_reflows(environ: Mapping[str, str]) -> bool:
    """Whether the terminal wraps its old rows anew when the window becomes narrower, as nearly all do.

    A wrong no leaves parts of a long line behind; a wrong yes erases messages from the window.
    """
    if "TMUX" in environ:
        return True
    return "XTERM_VERSION" not in environ and not _KEEPS_ROWS.fullmatch(environ.get("TERM", ""))


def settling_time(environ: Mapping[str, str]) -> float:
    """Seconds without a word of the terminal after which a window surely has the size that it has told.

    Of a window that is dragged tmux tells a step every 0.25 s at the most, and wraps its rows at each of them.
    """
    return 0.3 if "TMUX" in environ else 0.0


class Span(NamedTuple):
    """A stretch of text in one style. The text may come from anywhere: it is made safe when it is laid out."""

    text: str
    style: str = NO_STYLE


class Paragraph(NamedTuple):
    """Something to print above the line. Rows after the first, by wrapping or by a newline, begin with `indent` spaces.

    The indent (at least one) is what keeps a long message, or one with newlines, from posing as another's message.
    """

    spans: tuple[Span, ...]
    indent: int = 1


class Verbatim(NamedTuple):
    """A message to be printed above the line with nothing put into its text, no margin and no break, so that it can be
    copied as it was written: the terminal wraps its lines.

    A row of it may look like the beginning of another message. So it stands alone between a row that names a mark and
    the mark, which is not in the text. A message that fits a row of the window is printed as a paragraph is.
    """

    head: tuple[Span, ...]
    text: Span
    tail: tuple[Span, ...] = ()

    @property
    def spans(self) -> tuple[Span, ...]:
        """All of it, to be printed as a paragraph is."""
        return *self.head, Span("  " + self.text.text, self.text.style), *self.tail


class Block(NamedTuple):
    """The bottom of the window: paragraphs that may still change, the prompt, and the line with its cursor."""

    prompt: tuple[Span, ...]
    text: str = ""
    cursor: int = 0
    pinned: tuple[Paragraph, ...] = ()


class _Unit(NamedTuple):
    """A piece that is never split between rows: a safe cluster, one or two cells wide; or a newline, of no width."""

    text: str
    width: int
    style: str


_Row = list[_Unit]
_NEWLINE: Final = _Unit("\n", 0, NO_STYLE)


class _Drawing(NamedTuple):
    """Rows of units, and the row and column of the cursor."""

    rows: list[_Row]
    row: int
    column: int


_NOTHING: Final = _Drawing([[]], 0, 0)  # what is on the screen while the block is hidden


@functools.lru_cache(maxsize=4096)
def _unit(text: str, style: str) -> _Unit:
    return _Unit(text, cell_width(text), style)


def _line_units(text: str, style: str, encoding: str) -> Iterator[_Unit]:
    for cluster in clusters(spelled(text, encoding)):
        yield _unit(cluster, style)


@functools.lru_cache(maxsize=4096)  # a line of 60,000 letters is laid out with each key
def _typed_units(cluster: str, encoding: str) -> tuple[_Unit, ...]:
    """The units of a cluster of the line that is typed."""
    return (_NEWLINE,) if cluster == "\n" else tuple(_line_units(cluster, NO_STYLE, encoding))


def _width(row: Iterable[_Unit]) -> int:
    return sum(unit.width for unit in row)


def _displayed(text: str) -> str:
    """As much of `text` as is displayed, with our newlines in place of those of other systems."""
    return cut(text, DISPLAYED_MAX).replace("\r\n", "\n")


def _units_of(spans: Iterable[Span], encoding: str) -> Iterator[_Unit]:
    """The units of `spans`, with newlines as such."""
    for text, style in spans:
        for number, line in enumerate(_EMPTY_LINES.sub(_count_empty_lines, _displayed(text)).split("\n")):
            if number:
                yield _NEWLINE
            yield from _line_units(line, style, encoding)


def _count_empty_lines(found: re.Match[str]) -> str:
    return f"\n… {found[0].count(chr(10)) - 1:,} empty lines\n"


def _stands_alone(unit: _Unit) -> bool:
    """Whether a row may be broken on both sides of `unit`: a newline, a space, what looks like one, or a character of a
    script that is written without spaces (the ranges are Thai to Burmese, and Khmer)."""
    first = unit.text[0]
    if first < "\u0e00":
        return first in _BLANKS
    spaceless = first <= "\u109f" or "\u1780" <= first <= "\u17ff" or unicodedata.east_asian_width(first) in ("W", "F")
    return spaceless or first in _BLANKS


def _words(units: Iterable[_Unit]) -> Iterator[_Row]:
    """The units of a text in pieces between which a row may be broken."""
    for alone, run in itertools.groupby(units, _stands_alone):
        word = list(run)
        yield from ([unit] for unit in word) if alone else [word]


def _wrap(paragraph: Paragraph, width: int, encoding: str, *, flowing: bool = False) -> list[_Row]:
    """Lay out a paragraph in rows of at most `width` cells, broken between words.

    A word that is longer than a row is broken too, or, if `flowing`, left whole in a row that the terminal wraps, so
    that an address can be clicked and copied. Nothing else follows in that row: a blank in it would let the word pose
    as the beginning of another message, since its second half stands at the left edge.
    """
    margin = [_unit(" ", NO_STYLE)] * max(1, min(paragraph.indent, width // 4))
    rows: list[_Row] = []
    row: _Row = []
    used = 0

    def end_row() -> None:
        nonlocal row, used
        while row and row[-1].text == " ":
            row.pop()
        rows.append(row)
        row, used = [*margin], len(margin)

    for word in _words(_units_of(paragraph.spans, encoding)):
        wanted = _width(word)
        fits = used + wanted <= width
        if word[0] is _NEWLINE or (word[0].text == " " and not fits):
            end_row()
            continue
        if not fits and (len(margin) + wanted <= width or (flowing and used > max(width // 2, len(margin)))):
            end_row()
        for piece in [word] if flowing else [[unit] for unit in word]:
            if used + _width(piece) > width and not flowing:
                end_row()
            row += piece
            used += _width(piece)
    return [*rows, row]


def _wrap_verbatim(message: Verbatim, width: int, encoding: str) -> list[_Row]:
    """Lay out a message whose lines the terminal wraps."""
    text = message.text.text
    if "\n" not in text and len(text) <= 4 * width:  # to lay out a long text in vain would take as long as to show it
        rows = _wrap(Paragraph(message.spans), width, encoding, flowing=True)
        if len(rows) == 1 and _width(rows[0]) <= width:
            return rows
    lines = [spelled(line, encoding) for line in _displayed(text).split("\n")]
    used = set(re.findall("--(?=([0-9]+)--)", "\n".join(lines)))
    mark = f"--{next(number for number in itertools.count(1) if str(number) not in used)}--"
    count = f"  {len(lines):,} lines, up to {mark}" if len(lines) > 1 else f"  a long line, up to {mark}"
    return [
        *_wrap(Paragraph((*message.head, Span(count, DIM))), width, encoding),
        *([_Unit(line, 0, message.text.style)] for line in lines),
        *_wrap(Paragraph((Span(mark, DIM), *message.tail)), width, encoding),
    ]


def _break_rows(units: Iterable[_Unit], width: int, marked: int) -> _Drawing:
    """Lay out units in rows exactly as they come, the cursor on the unit number `marked`, or after the last.

    A row that is full is followed by another, so that the cursor always has a cell to stand on.
    """
    rows: list[_Row] = [[]]
    used = 0
    spot: tuple[int, int] | None = None
    for number, unit in enumerate(units):
        if used + unit.width > width:
            rows.append([])
            used = 0
        if number == marked:
            spot = (len(rows) - 1, used)
        if unit is not _NEWLINE:
            rows[-1].append(unit)
            used += unit.width
        if unit is _NEWLINE or used == width:
            rows.append([])
            used = 0
    return _Drawing(rows, *(spot or (len(rows) - 1, used)))


class Screen:
    """Keeps the block at the bottom and prints above it; makes the string for each change and never writes it.

    The block's rows are ended by the program, not by the terminal's own wrapping, so it is known where they are. Rows
    that are printed above it are never touched again, so a long word there may be left to the terminal.
    No scrolling region, no second screen: what is printed goes up into the terminal's own scrollback.
    """

    def __init__(
        self, width: int, height: int, *, colour: bool = True, reflows: bool = True, encoding: str = "utf-8"
    ) -> None:
        """width, height: of the window in cells. colour: whether styles are used. reflows: see `terminal_reflows`.
        encoding: the terminal's; signs that it lacks are spelled."""
        self._width = max(width, NARROWEST)
        self._height = max(height, 2)
        self._colour = colour
        self._reflows = reflows
        self._encoding = encoding
        self._drawn = _NOTHING  # the block as it was last drawn
        self._stale = False  # the terminal may have moved it since
        self._above = 0  # rows of the terminal between its first cell and the cursor
        self._top = 0  # first row of the line that is shown, when it has more rows than the window

    def draw(self, block: Block, paragraphs: Iterable[Paragraph | Verbatim] = ()) -> str:
        """Print `paragraphs` above the block and show the block: one string, empty if nothing changes."""
        printed = [row for each in paragraphs for row in self._printed(each)]
        drawing = self._lay_out(block)
        if not printed and drawing == self._drawn and not self._stale:
            return ""
        shown = self.hide() + "\r\n".join(map(self._paint, printed + drawing.rows))
        self._drawn, self._above, self._stale = drawing, drawing.row, False
        return shown + "\r" + _move(len(drawing.rows) - 1 - drawing.row, "A") + _move(drawing.column, "C")

    def hide(self) -> str:
        """Take the block off the screen, as before leaving or suspending; `draw` brings it back."""
        to_start = "\r" + _move(self._above, "A")
        self._drawn, self._above = _NOTHING, 0
        return to_start + _ERASE

    def clear(self) -> str:
        """Push all that is on the screen up into the scrollback; `draw` must follow."""
        return f"{self.hide()}\x1b[{self._height};1H" + "\r\n" * self._height + "\x1b[H"

    def resize(self, width: int, height: int) -> None:
        """The window has become `width` by `height` cells; `draw` must follow."""
        self._width, self._height = max(width, NARROWEST), max(height, 2)
        self._stale = True
        if self._reflows:
            rows, row, column = self._drawn
            starts = itertools.accumulate((unit.width for unit in rows[row]), initial=0)
            up_to_cursor = [unit for unit, start in zip(rows[row], starts, strict=False) if start <= column]
            self._above = sum(_reflowed_rows(each, self._width) for each in (*rows[:row], up_to_cursor)) - 1

    def _printed(self, each: Paragraph | Verbatim) -> list[_Row]:
        if isinstance(each, Verbatim):
            return _wrap_verbatim(each, self._width, self._encoding)
        return _wrap(each, self._width, self._encoding, flowing=True)

    def _lay_out(self, block: Block) -> _Drawing:
        """The rows of `block` that fit the window, with the cursor among them."""
        units = [unit for span in block.prompt for unit in _line_units(*span, self._encoding)]
        marked = None
        index = 0
        for cluster in clusters(block.text):
            if marked is None and index >= block.cursor:
                marked = len(units)
            units += _typed_units(cluster, self._encoding)
            index += len(cluster)
        rows, row, column = _break_rows(units, self._width, len(units) if marked is None else marked)
        room = self._height - 1
        self._top = max(row - room + 1, min(self._top, row, len(rows) - room), 0)
        rows = rows[self._top : self._top + room]
        pinned = [pinned_row for each in block.pinned for pinned_row in _wrap(each, self._width, self._encoding)]
        pinned = pinned[max(0, len(pinned) - (room - len(rows))) :]  # the newest, if there is room at all
        return _Drawing(pinned + rows, len(pinned) + row - self._top, column)

    def _paint(self, row: _Row) -> str:
        """A row as text with its styles."""
        parts = []
        style = NO_STYLE
        for unit in row:
            wanted = unit.style if self._colour else NO_STYLE
            if wanted != style:
                parts.append(f"\x1b[0;{wanted}m" if wanted else "\x1b[0m")
                style = wanted
            parts.append(unit.text)
        if style:
            parts.append("\x1b[0m")
        return "".join(parts)


def _move(count: int, direction: str) -> str:
    """The sequence that moves the cursor `count` cells; none for 0, which terminals take for 1."""
    return f"\x1b[{count}{direction}" if count > 0 else ""


def _reflowed_rows(row: _Row, width: int) -> int:
    """How many rows the terminal makes of a row in a narrower window; a full one is not followed by an empty one."""
    rows = _break_rows(row, width, 0).rows
    return len(rows) - (len(rows) > 1 and not rows[-1])


TITLE_MAX = 100  # characters of a message in a title or a notice


def title_sequence(text: str) -> str:
    """The sequence that sets the title of the window; `text` may come from anywhere."""
    return f"\x1b]0;{safe_text(text)}\x1b\\"


def notice_sequence(text: str, environ: Mapping[str, str]) -> str:
    """The sequence that makes the desktop show a notice; `text` may come from anywhere.

    iTerm2 has a form of its own, nearly all others read the one that rxvt began. tmux hands a sequence on if it is
    packed, and if it was told so: `set -g allow-passthrough on`.
    """
    safe = safe_text(text).replace(";", ",")  # which ends a part
    iterm = "iTerm" in environ.get("LC_TERMINAL", "") + environ.get("TERM_PROGRAM", "")
    sequence = f"\x1b]9;Vessages: {safe}\a" if iterm else f"\x1b]777;notify;Vessages;{safe}\a"
    return f"\x1bPtmux;\x1b{sequence}\x1b\\" if "TMUX" in environ else sequence


# --- What happened, as text -------------------------------------------------------------------------------------------


class Note(NamedTuple):
    """Words of this program itself: help, or what was wrong with a line that was typed."""

    words: str
    failed: bool = False


Saying = protocol.Message | protocol.Delivered | protocol.Failed  # what was said, own messages with their fate


class Recalled(NamedTuple):
    """Messages that are printed again; `words` says which. faint: as a reminder, laid out as any other message. names:
    for each the person's own name at that time, if it is known."""

    words: str
    said: tuple[Saying | protocol.Waiting, ...]
    faint: bool = False
    names: tuple[str | None, ...] = ()


Printable = ChatEvent | Note | Recalled


# Characters that do something to a terminal, to the end of a line or to the direction of writing: by category, and
# by direction.
_ACTS: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TURNS: Final = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


def one_line(text: str) -> str:
    """`text` in one line that does nothing to a terminal; a backslash is doubled, so that `\\n` can only mean one.

    All else is left as it is, joiners and skin tones too: it is for pipes, where a width is nobody's concern.
    """
    line = cut(text, 2 * DISPLAYED_MAX).replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
    return line if line.isprintable() else "".join(_code_point(char) if _acts(char) else char for char in line)


def unescaped(line: str) -> str:
    """The text of which `one_line` has made this line; what could do something stays written out."""
    return re.sub(r"\\[nt\\]", lambda escape: {"n": "\n", "t": "\t"}.get(escape[0][1], "\\"), line)


def _acts(char: str) -> bool:
    return unicodedata.category(char) in _ACTS or unicodedata.bidirectional(char) in _TURNS


def clock_time(wall: float, pattern: str = "%H:%M:%S") -> str:
    """Unix seconds in local time."""
    try:
        return time.strftime(pattern, time.localtime(wall))
    except (OverflowError, OSError, ValueError):
        return "??:??:??"  # a server's nonsense


def local_times(words: str) -> str:
    """A server's explanation with its times as a person reads them."""
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,6}Z", lambda found: _local_time(found[0]), words)


def _local_time(stamp: str) -> str:
    try:
        return clock_time(protocol.parse_time(stamp), "%Y-%m-%d %H:%M")
    except ValueError:
        return stamp  # the 32nd of a month: a server's nonsense


def format_names(words: Iterable[str]) -> str:
    """Names in their order, those with a `~` last: their connection is lost."""
    return " ".join(sorted(words, key=lambda word: (word.startswith("~"), fold(word)))) or "nobody"


CHANGES = (  # what one person did, and several, in the order of `protocol.Presence`
    ("is online", "are online"), ("has left", "have left"), ("lost the connection", "lost the connection"),
    ("is back", "are back"),
)  # fmt: skip
PEOPLE_NAMED = 10  # in one sentence; of a crowd the others are counted


def presence_lines(changes: protocol.Presence) -> list[str]:
    """A line for each person."""
    return [f"-- {name} {one}" for people, (one, _) in zip(changes, CHANGES, strict=True) for name in people]


def presence_words(changes: protocol.Presence) -> list[str]:
    """A sentence for each kind of change: `alice, bob and carol are online`."""
    kinds = [(people, words) for people, words in zip(changes, CHANGES, strict=True) if people]
    return [f"{people_words(people)} {words[len(people) > 1]}" for people, words in kinds]


# The first and the last of several changes of one person in a moment, by fields of `protocol.Presence`.
FIRST_CHANGE = {"came": "came", "left": "left", "lost": "lost the connection", "returned": "came back"}
LAST_CHANGE = FIRST_CHANGE | {"came": "came back"}


def moment_words(changes: Mapping[str, tuple[str, str]]) -> list[str]:
    """As `presence_words`, for names with the first and the last change of a moment: none is told by halves."""
    kinds = {
        kind: tuple(n for n, both in changes.items() if both == (kind, kind)) for kind in protocol.Presence._fields
    }
    twice: dict[str, list[str]] = {}
    for name, (first, last) in changes.items():
        if first != last:
            twice.setdefault(f"{FIRST_CHANGE[first]} and {LAST_CHANGE[last]}", []).append(name)
    words = [f"{people_words(people)} {what}" for what, people in twice.items()]
    return [*presence_words(protocol.Presence(**kinds)), *words]


def cut_crowd(people: Sequence[str]) -> list[str]:
    """These names, or of a crowd the first and how many others there are."""
    more = len(people) - PEOPLE_NAMED
    return [*people[:PEOPLE_NAMED], f"{more:,} others"] if more > 1 else [*people]


def people_words(people: Sequence[str]) -> str:
    """`alice`, `alice and bob`, or ten names `and 20 others`."""
    *first, last = cut_crowd(people)
    return f"{', '.join(first)} and {last}" if first else last


def is_recipient(to: str) -> bool:
    """Whether a message can be for this: a name, names with commas, or EVERYONE."""
    return to == EVERYONE or all(protocol.clean_name(name) is not None for name in to.split(","))


def bare_name(word: str) -> str:
    """A name that was typed as in a line that begins with it: `@bob`, `bob:`. No name has such a character."""
    return word.removeprefix("@").removesuffix(":")


def to_words(to: str, me: str | None = None) -> str:
    """A recipient as a person reads it, oneself first and called `you`.

    >>> to_words("bob"), to_words("ann,bob,eve", me="bob"), to_words(EVERYONE)
    ('bob', 'you, ann, eve', 'everyone')
    """
    if to == EVERYONE:
        return "everyone"
    names = to.split(",")
    return ", ".join(cut_crowd(["you"] * (me in names) + [name for name in names if name != me]))


def absent_names(session: ClientSession, to: str) -> list[str]:
    """The recipients who are not here, as far as that is known."""
    roster = session.roster
    return [name for name in to.split(",") if name not in roster] if session.logged_in and to != EVERYONE else []


def wire_words(event: protocol.Message) -> str:
    """The sender, and of a message to several whom it was for, as in a pipe: `ann`, `ann -> bob,eve`, `ann -> *`."""
    return event.sender if event.to is None else f"{event.sender} -> {','.join(event.to)}"


# Codes of those who were not shown a message to several.
FATES = {
    "not-online": "not online", "busy": "too much waits for them", "not-delivered": "has left",
    "unconfirmed": "left, perhaps shown",
}  # fmt: skip


def advised(words: str) -> str:
    """A server's explanation, with the command that helps."""
    return f"{words}: /login NAME" if words == protocol.Code.NOT_LOGGED_IN.explanation else words


def fate_words(event: protocol.Failed) -> str:
    """Why a message failed; of one to several how many were shown it, and who was not."""
    if not event.fates:
        return advised(event.words)
    shown = event.words.partition(" ")[2]
    return f"{shown}; not to " + ", ".join(f"{name} ({FATES.get(code, code)})" for name, code in event.fates)


def certificate_words(server: str, event: Untrusted) -> str:
    """The words before a certificate is trusted, with the fingerprints as the server prints them."""
    new = protocol.fingerprint_words(event.new)
    if not event.old:
        return f"{server} is new here. Its certificate is\n{new}\nIs that what the server printed when it was started?"
    return (
        f"The certificate of {server} has CHANGED: somebody may be posing as the server. It was\n"
        f"{protocol.fingerprint_words(event.old)}\nand is now\n{new}\n"
        "The server prints it when it is started: ask whoever runs it. Until you say yes, it is told nothing."
    )


def login_words(event: protocol.LoggedIn) -> str:
    """The own name, and when one was here before, as ssh tells it."""
    words = f"you are {event.name}"
    if event.last is not None:
        words += f"; last login {clock_time(event.last, '%Y-%m-%d %H:%M')}"
    if event.failed:
        words += f", {event.failed} failed attempt{'s' * (event.failed > 1)} {'since' if event.last else 'before'}"
    return words


def answer_words(event: protocol.Answer) -> str:
    """The OK to a command."""
    words = {
        "REGISTER": f"{event.words} is registered",
        "WHO": "online: " + format_names(event.words.split()),
        "PASSWD": "the password is changed",
        "LOGOUT": "logged out",
    }
    return words.get(event.verb, f"{event.verb} {event.words}".rstrip())


def recalled_title(count: int, of: int) -> str:
    """How many messages are printed again, if that is not all."""
    words = f"the last {count:,} of {of:,}" if count < of else f"the last {count:,}" if count > 1 else "the last"
    return f"{words} message{'s' * (of > 1)}"


def recalled_words(event: Recalled) -> list[str]:
    """A line for each message, with its date."""
    return [event.words, *(dated(each, WORDS[type(each)](each)[0].removeprefix("-- ")) for each in event.said)]


def failed_words(event: protocol.Failed) -> tuple[str, str]:
    """Whether a message has not arrived or nobody knows, and the word before the recipient."""
    if event.code == protocol.Code.PARTLY.word:
        return "not shown", "to all of"
    return ("not confirmed", "by") if event.code in UNSURE else ("not delivered", "to")


def refused_words(event: protocol.Refused) -> str:
    """The ERROR to a command, as the person meant it."""
    words = advised(local_times(event.words))
    if event.verb == "PASSWD" and event.code == protocol.Code.BAD_LOGIN.word:
        words = "the old password is wrong"
    return f"{event.verb or 'refused'}: {words} ({event.code})"


def way_in(event: protocol.LoginNeeded) -> str:
    """The command that brings somebody in again."""
    return f"/{'takeover' if event.code == protocol.Code.ALREADY_ONLINE.word else 'login'} {event.name}"


def back_words(event: protocol.Back) -> str:
    """The cost of a lost connection, in words."""
    changes = presence_words(event.changes)
    if event.messages:
        changes.insert(0, f"{event.messages} message{'s' * (event.messages > 1)}")
    if event.ended:
        changes.append("you may have missed messages")
    return f"back as {event.name} after {event.seconds:.0f} s" + ": " * bool(changes) + ", ".join(changes)


UNSURE = (protocol.Code.UNCONFIRMED.word, protocol.UNKNOWN)  # codes of messages that may have been shown


# Each event as lines of text. `--` is for information, `!!` for what failed; the others are messages.
WORDS: dict[type, Callable[[Any], list[str]]] = {
    Note: lambda e: [("!! " if e.failed else "-- ") + line for line in e.words.split("\n")],
    Dialling: lambda e: [f"-- {e.words + '; ' if e.words else ''}trying again in {e.seconds:.0f} s"],
    Unreachable: lambda e: [f"!! {e.words}"],
    Untrusted: lambda e: [f"!! {e.words}"],
    Encryption: lambda e: [f"{'--' if e.encrypted else '!!'} {e.words}"] * bool(e.words),
    protocol.Linked: lambda e: ["-- connected"],
    protocol.LoggedIn: lambda e: ["-- " + login_words(e)],
    protocol.Roster: lambda e: ["-- online: " + format_names([*e.online, *("~" + name for name in e.lost)])],
    protocol.Presence: presence_lines,
    protocol.Message: lambda e: [f"{clock_time(e.time)} {wire_words(e)}: {e.text}"],
    protocol.Delivered: lambda e: [f"{clock_time(e.time)} -> {e.recipient}: {e.text}"],
    protocol.Failed: lambda e: [f"!! {' '.join(failed_words(e))} {e.recipient} ({e.code}: {fate_words(e)}): {e.text}"],
    protocol.Waiting: lambda e: [f"-- {e.recipient} has not got this yet: {e.text}"],
    protocol.Answer: lambda e: ["-- " + answer_words(e)],
    protocol.Refused: lambda e: [f"!! {refused_words(e)}"],
    protocol.NotYet: lambda e: [f"-- not back yet: {local_times(e.words)}; trying again in {e.seconds:.0f} s"],
    protocol.LoginNeeded: lambda e: [f"!! log in again, {way_in(e)}: {local_times(e.words)} ({e.code})"],
    protocol.LinkLost: lambda e: ["-- " + e.words],
    protocol.NotVessages: lambda e: ["!! " + e.words],
    protocol.Back: lambda e: ["-- " + back_words(e)],
    Recalled: lambda e: ["-- " + line for line in recalled_words(e)],
}


TIMED = (protocol.Message, protocol.Delivered)  # their lines begin with a time


def lines_of(event: Printable) -> list[str]:
    """An event as lines that are safe to print, each complete in itself."""
    return [one_line(line) for line in WORDS[type(event)](event)]


LOG_TIME = "%Y-%m-%d %H:%M:%S"


def dated(event: Printable, line: str, now: float = 0.0) -> str:
    """A line of an event with its date and time, or those of `now`, if that is known."""
    wall, timed = getattr(event, "time", None) or now, isinstance(event, TIMED)
    return f"{clock_time(wall, LOG_TIME)} {line[timed * len('HH:MM:SS ') :]}" if wall else line


def log_lines(event: Printable, now: float) -> str:
    """The lines of an event for the log: as they are printed, with a date."""
    return "".join(dated(event, line, now) + "\n" for line in lines_of(event))


def json_of(event: Printable) -> str:
    """An event as one line of JSON: its kind, then its fields; times on the wire's format. ASCII only."""
    kind = "".join("_" * c.isupper() + c.lower() for c in type(event).__name__).lstrip("_")
    fields: dict[str, object] = {"event": kind}
    for name, value in event._asdict().items():
        if isinstance(event, protocol.Back) and name == "changes":
            fields |= value._asdict()
        elif name in ("time", "last") and value is not None:
            fields[name] = protocol.format_time(value)
        else:
            fields[name] = dict(value) if name == "fates" else value
    return json.dumps(fields)


# --- What was said ----------------------------------------------------------------------------------------------------

SAID_MAX = 1_000  # messages that can be printed again: days of chatting
SAID_BYTES = 16 * protocol.MIB  # memory of their texts; the newest message is kept whatever it takes
LOG_READ = 2 * protocol.MIB  # bytes of a log that are looked through, from its end: a moment's work for any file
SAID_AGAIN = 20  # messages that /history prints if it is not told how many, and that a log shows at the start


def parties(event: Saying | protocol.Waiting, me: str | None) -> frozenset[str]:
    """The conversation in which something was said: the others who take part, or EVERYONE."""
    people = event.reply_to if isinstance(event, protocol.Message) else event.recipient
    return conversation(people, me)


def conversation(people: str, me: str | None) -> frozenset[str]:
    """The conversation with these people, however they are written: with oneself only if nobody else takes part."""
    names = frozenset(map(fold, people.split(",")))
    return names - {fold(me or "")} or names


# A message among the lines of a log, as `log_lines` writes it, on a day that there may be; or the own name since then.
_LOGGED: Final = re.compile(
    "^([12][0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01]) (?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-6][0-9]) "
    r"(?:-- (?:you are|back as) (?P<me>[^\s:;,]+).*"
    r"|(?:!! not (?:delivered to|confirmed by|shown to all of) (?P<failed>\S+) \((?P<code>[a-z-]+): (?P<why>.*?)\)"
    r"|-> (?P<to>[^\s:]+)|(?P<sender>[^\s:]+)(?: -> (?P<several>[^\s:]+))?): (?P<text>.*))$",
    re.MULTILINE,
)


def logged(found: re.Match[str]) -> Saying | None:
    """The message of a log; None if its time is none here."""
    year, month, day, hour, minute, second = map(int, re.split("[-: ]", found[1]))
    try:
        wall = time.mktime((year, month, day, hour, minute, second, 0, 0, -1))
    except (ValueError, OverflowError):
        return None
    text, several = unescaped(found["text"].removesuffix("\r")), found["several"]
    if found["failed"]:
        return protocol.Failed(0, found["failed"], text, found["code"], unescaped(found["why"]), wall)
    if found["to"]:
        return protocol.Delivered(0, found["to"], text, wall)
    to = several if several in (None, EVERYONE) else tuple(several.split(","))
    return protocol.Message(found["sender"], 0, wall, text, to)


def end_of_file(file: Path, most: int) -> bytes:
    """The last bytes of a file, at most so many; of a line that would be cut nothing. Empty if it cannot be read."""
    with contextlib.suppress(OSError):
        if file.is_file():  # not a pipe, which would be waited for
            with file.open("rb") as opened:
                start = max(0, opened.seek(0, os.SEEK_END) - most)
                opened.seek(start)
                data = opened.read(most)
                return data[data.find(b"\n") + 1 :] if start else data
    return b""


def said_before(log: Path) -> list[tuple[Saying, str | None]]:
    """The last messages of a log, however large it is and whoever has written it, each with the own name of then."""
    text = end_of_file(log, LOG_READ).decode("utf-8", "replace")
    me: str | None = None
    said: deque[tuple[Saying, str | None]] = deque(maxlen=SAID_MAX)
    for found in _LOGGED.finditer(text):
        event = None if found["me"] else logged(found)
        if found["me"]:
            me = found["me"]
        elif event is not None:
            said.append((event, me))
    return [*said]


class Said:
    """The last messages, own ones with their fate. The oldest are forgotten first."""

    def __init__(self, before: Iterable[tuple[Saying, str | None]] = ()) -> None:
        """before: what the log has of earlier sessions, see `said_before`."""
        self._kept: deque[tuple[Saying, str | None]] = deque()  # each with one's own name at that time, if it is known
        self._bytes = 0  # memory of their texts
        for event, me in before:
            self.add(event, me)

    def add(self, event: Saying, me: str | None) -> None:
        """Something was said, while the person was called `me`."""
        self._kept.append((event, me))
        self._bytes += sys.getsizeof(event.text)
        while len(self._kept) > SAID_MAX or (self._bytes > SAID_BYTES and len(self._kept) > 1):
            self._bytes -= sys.getsizeof(self._kept.popleft()[0].text)

    def of(self, people: str | None, me: str | None) -> list[tuple[Saying, str | None]]:
        """Everything that was said in the conversation with these people, or all, each with the own name of then.

        me: the person's name now.
        """
        if people is None:
            return [*self._kept]
        wanted = conversation(people, me)
        return [(event, name) for event, name in self._kept if parties(event, name or me) == wanted]


# --- What happened, as paragraphs -------------------------------------------------------------------------------------

NO_TIME = "…     "  # in place of the time of an own message whose fate is not known
GATHER_SECONDS = 0.5  # for which comings and goings wait to be told together; any other news ends it
LATE_SECONDS = 3600.0  # by which an own message may be older than what stands above it, without a date line of its own


class Transcript:
    """Events as paragraphs, to be printed above the prompt.

    Comings and goings wait a moment for more of them: a class that comes in is a line or two, not thirty. The seconds
    to the next attempt, and messages that wait, stand in and above the prompt and have no paragraph.
    """

    def __init__(self) -> None:
        self.due: float | None = None  # when the comings and goings are to be told
        self.met = False  # whether a server has answered
        self._paragraphs: list[Paragraph | Verbatim] = []  # not taken yet
        self._changes: dict[str, tuple[str, str]] = {}  # by name: the first and the last change, fields of `Presence`
        self._latest = -math.inf  # the time of the newest message, but for those that come late
        self._trouble = ""  # the last words about a link that is lost
        self._me: str | None = None  # the person's own name
        self._untold: set[str] = set()  # people whose connection is lost, which was not told

    def add(self, event: Printable, now: float) -> None:
        """An event, and when it came in monotonic seconds."""
        if isinstance(event, protocol.Presence):
            self._gather(event, now)
            return
        self._tell_changes()
        look = LOOKS.get(type(event))
        if look is not None:
            look(self, event)
        else:
            self.tell(*WORDS[type(event)](event))

    def tell(self, *lines: str) -> None:
        """Lines of information, and in red those that begin with `!!`."""
        for line in lines:
            self._paragraphs.append(Paragraph((Span(line, RED if line.startswith("!!") else DIM),), 3))

    def take(self, now: float) -> list[Paragraph | Verbatim]:
        """The paragraphs to be printed now."""
        if self.due is not None and now >= self.due:
            self._tell_changes()
        paragraphs, self._paragraphs = self._paragraphs, []
        return paragraphs

    def _gather(self, event: protocol.Presence, now: float) -> None:
        for kind, people in self._news(event)._asdict().items():
            for name in people:
                first, _ = self._changes.pop(name, (kind, kind))
                self._changes[name] = first, kind
        if self.due is None and self._changes:
            self.due = now + GATHER_SECONDS

    def _news(self, changes: protocol.Presence) -> protocol.Presence:
        """These changes, but for the return of those whose loss was not told."""
        returned = tuple(name for name in changes.returned if name not in self._untold)
        self._untold.difference_update(*changes)
        return changes._replace(returned=returned)

    def _back(self, event: protocol.Back) -> None:
        """The connections of others that are lost now are not told of: a restart cuts off all, who come back too."""
        changes = self._news(event.changes)
        self._untold.update(changes.lost)
        self.tell("-- " + back_words(event._replace(changes=changes._replace(lost=()))))

    def _tell_changes(self) -> None:
        self.tell(*(f"-- {words}" for words in moment_words(self._changes)))
        self._changes.clear()
        self.due = None

    def _note(self, event: Note) -> None:
        style = RED if event.failed else NO_STYLE
        self._paragraphs += [Paragraph((Span(line, style),), 2) for line in event.words.split("\n")]

    def _linked(self, event: protocol.Linked) -> None:
        if not self._trouble:
            self.tell("-- connected")
        self.met, self._trouble = True, ""

    def _lost(self, event: protocol.LinkLost) -> None:
        self.tell(f"-- {event.words}")
        self._trouble = event.words

    def _dialling(self, event: Dialling) -> None:
        if event.words and event.words != self._trouble:
            self.tell(f"-- {event.words}")
            self._trouble = event.words

    def _logged_in(self, event: protocol.LoggedIn) -> None:
        self._me = event.name
        self.tell("-- " + login_words(event))

    def _say(self, event: Saying) -> None:
        """A message, below a line with the day if that is another one."""
        wall = event.time
        if not self._latest - LATE_SECONDS < wall < self._latest:
            if math.isfinite(self._latest) and day_of(wall) != day_of(self._latest):
                self.tell(f"-- {day_of(wall)}")
            self._latest = wall
        self._paragraphs.append(said_paragraph(event, self._me))

    def _recall(self, event: Recalled) -> None:
        """Messages again, below a line with the day where it is another one."""
        self.tell(f"-- {event.words}:")
        day = day_of(self._latest) if math.isfinite(self._latest) else ""
        for each, name in itertools.zip_longest(event.said, event.names):
            me = name or self._me
            if not isinstance(each, protocol.Waiting):
                if day_of(each.time) != day:
                    day = day_of(each.time)
                    self.tell(f"-- {day}")
                if event.faint:
                    self._latest = each.time
            self._paragraphs.append(said_paragraph(each, me, DIM) if event.faint else said_look(each, me))
        self.tell("-- the end of what was said before")


def day_of(wall: float) -> str:
    """The day as a person writes it."""
    return clock_time(wall, "%A, %d %B %Y")


def said_look(event: Saying | protocol.Waiting, me: str | None) -> Verbatim:
    """A message with its time, its people, and what became of it. me: the person's own name."""
    if isinstance(event, protocol.Message):
        to = ",".join(event.to or ())  # of EVERYONE, which is one sign, itself
        name, who = event.sender, event.sender + (f" → {to_words(to, me)}" if to and to != me else "")
    else:
        name, who = event.recipient, f"→ {to_words(event.recipient)}"
    if isinstance(event, protocol.Waiting):
        return Verbatim((Span(NO_TIME), Span(who)), Span(event.text, DIM))
    fate: tuple[Span, ...] = ()
    if isinstance(event, protocol.Failed):
        partly = event.fates or event.code == protocol.Code.PARTLY.word
        why = fate_words(event) if partly else f"{failed_words(event)[0]}: {fate_words(event)}"
        fate = (Span(f"  {why}", RED),)
    head = Span(clock_time(event.time, "%H:%M "), DIM), Span(who, name_style(name))
    return Verbatim(head, Span(event.text, RED if fate else NO_STYLE), fate)


def said_paragraph(event: Saying | protocol.Waiting, me: str | None, style: str | None = None) -> Paragraph:
    """The same with a margin: what is below the first row begins where the text does. style: of all of it."""
    look = said_look(event, me)
    spans = look.spans if style is None else tuple(span._replace(style=style) for span in look.spans)
    return Paragraph(spans, sum(len(span.text) for span in look.head) + 2)


# Events that look otherwise above a prompt than in a pipe, where `WORDS` has their lines.
LOOKS: dict[type, Callable[[Transcript, Any], object]] = {
    Note: Transcript._note,
    Dialling: Transcript._dialling,
    protocol.Linked: Transcript._linked,
    protocol.LinkLost: Transcript._lost,
    protocol.LoggedIn: Transcript._logged_in,
    protocol.Back: Transcript._back,
    protocol.Message: Transcript._say,
    protocol.Delivered: Transcript._say,
    protocol.Failed: Transcript._say,
    protocol.Waiting: lambda t, e: None,
    Recalled: Transcript._recall,
}


# --- The front ends ---------------------------------------------------------------------------------------------------


class LineReader:
    """In a thread: puts each line of a pipe, file or terminal into a mailbox, then None. Of a line that is longer than
    a message can be, no more is kept than is needed to say so."""

    def __init__(self, descriptor: int, mailbox: Mailbox, encoding: str = "utf-8") -> None:
        self.half = b""  # the beginning of a line that is not finished
        self._descriptor, self._mailbox, self._encoding = descriptor, mailbox, encoding

    def run(self) -> None:
        """Read to the end."""
        while data := _read_some(self._descriptor):
            *lines, rest = (self.half + data).split(b"\n")
            self.half = rest[: LINE_MAX * 4]
            for line in lines:
                self._put(line)
        if self.half:
            self._put(self.half)
        self._mailbox.put(None)

    def _put(self, line: bytes) -> None:
        self._mailbox.put(line.decode(self._encoding, "replace").rstrip("\r"))


def _read_some(descriptor: int) -> bytes:
    """Wait for something to read; empty at the end.

    The wait is not a read: a read that began while a terminal handed on half lines would not see a Ctrl-D later."""
    data = None
    while data is None:
        if sys.platform != "win32":
            select.select([descriptor], [], [])
        data = _read_now(descriptor)
    return data


def _read_now(descriptor: int) -> bytes | None:
    """The bytes there are; empty at the end, None if nothing is there and the descriptor does not wait."""
    try:
        if sys.platform == "win32" and is_terminal(descriptor):  # os.read gives bytes of the console's code page
            return sys.stdin.buffer.raw.read(READ_SIZE)
        return os.read(descriptor, READ_SIZE)
    except BlockingIOError:
        return None  # another program has made it so meanwhile: see `proper_descriptors`
    except OSError:
        return b""  # the terminal is gone


def read_burst(read: Callable[[], bytes | None], follows: Callable[[], object]) -> bytes | None:
    """The next bytes of a terminal. After more than a key (it gives 4 KiB at once) with those that follow directly."""
    burst = data = read()
    while data is not None and burst is not None and len(data) > 1 and data[0] != _ESCAPE and len(burst) < READ_SIZE:
        if not follows():
            break
        data = read()
        burst += data or b""
    return burst


ONE_MOMENT = "one moment; what you type is hidden, and not sent"  # while a hidden answer has no consequence


class Questions:
    """The question to the person, and the hidden answer before it as long as its consequence is not known."""

    def __init__(self) -> None:
        self.then: Callable[[str | None], object] = lambda text: None  # gets each answer
        self.prompt: str | None = None  # of the question that is not answered yet
        self.waits = False  # whether a hidden answer has no consequence yet
        self._hidden = False

    def ask(self, prompt: str | None, *, hidden: bool = False) -> None:
        """The one question from now on; None for none. A hidden answer before it has had its consequence."""
        self.prompt, self._hidden, self.waits = prompt, hidden, False

    def answer(self, text: str | None) -> None:
        """Hand the answer on, None if it was given up, or if nobody waits for the consequence of a hidden one."""
        asked, waited = self.prompt is not None, self.waits
        self.prompt, self.waits = None, asked and self._hidden and bool(text)
        if asked or waited:
            self.then(text)


class Front(Protocol):
    """The side of the person or the script: all that a chat needs of a front end. Some have nothing for some methods.

    OSError from any method means that nobody sees any more what is shown.
    """

    interactive: bool = False  # whether there is a person, who can be asked and who reads hints
    edits: bool = False  # whether a line that was finished can be had again, and its recipient stands in a prompt

    def deadline(self) -> float | None:
        """When `lines` wants to be called even if nothing happens."""
        return None

    def settles(self) -> bool:
        """Whether the window changes its size right now, so that nothing should be shown."""
        return False

    def start(self, link: Link, helper: Recipients, answer: Callable[[str | None], object]) -> None:
        """Begin to read what is typed; the link wakes up for it. answer: gets the answers to what is asked."""

    def lines(self) -> list[Line | None]:
        """The next line that was typed, if there is one; None is the end of them."""

    def ask(self, prompt: str, *, hidden: bool = True) -> bool:
        """Ask the person; the answer is None if it is given up. False: there is nobody to ask, or no way to hide the
        answer.

        Behind a hidden answer what is typed stays hidden, until `ask` is called again or `release`. A line that is
        typed meanwhile is the next answer, or is dropped. The answer is None once more if the person no longer waits.
        """

    def release(self) -> None:
        """Show what is typed again: no hidden answer waits for its consequence any more."""

    def show(self, event: Printable) -> None:
        """Show an event, at the latest with `flush`."""

    def flush(self, to: str | None) -> None:
        """Called once a turn, when all was shown. `to`: whom plain text goes to."""

    def call(self, bell: Bell, message: protocol.Message | None = None) -> None:
        """Call the person, where that can be: for a message, or for somebody who came or went."""
        return

    def clear(self) -> None:
        """Clear the screen, where there is one."""
        return

    def forget(self) -> None:
        """Forget what was typed, where that can be had again."""
        return

    def close(self) -> None:
        """Give everything back as it was."""


class Writer(Protocol):
    """Where the front ends write: `Output`, or memory."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...


def terminal_encoding(stream: TextIO) -> str:
    """How a standard stream is encoded: a terminal as the locale says; pipes and files in UTF-8 on every system."""
    return codecs.lookup(stream.encoding).name if stream is not None and stream.isatty() else "utf-8"


# Errors that mean that nobody reads any more: `… | head` has seen enough, or the terminal was closed. EINVAL is what
# Windows has for a closed pipe.
READER_GONE = (errno.EPIPE, errno.EINVAL, errno.EIO)


class Output:
    """Text to a descriptor: all of it has been written when `flush` returns, else it raises OSError.

    Python's own text layer drops what a descriptor that does not wait has no room for, without a word. Then a message
    would be acknowledged, and its sender told that it was delivered, though nobody saw it.
    """

    def __init__(self, stream: TextIOWrapper) -> None:
        """stream: standard output or a file, of which only the lowest layer and the encoding are used."""
        self._stream = stream  # else it would be closed as soon as nobody has it
        self._raw: Any = getattr(stream.buffer, "raw", stream.buffer)
        self._encoding = terminal_encoding(stream)
        self._pieces: list[str] = []

    def write(self, text: str) -> None:
        self._pieces.append(text if os.linesep == "\n" else text.replace("\n", os.linesep))

    def flush(self) -> None:
        rest = memoryview("".join(self._pieces).encode(self._encoding, "spelled"))
        self._pieces.clear()
        while rest:
            written: int | None = self._raw.write(rest)
            if written is None:  # there is no room, and the descriptor does not wait: see `proper_descriptors`
                select.select([], [self._raw], [])
            rest = rest[written or 0 :]

    def close(self) -> None:
        """Close the file; OSError as with `flush`."""
        self._stream.close()


class Log:
    """The log of all that is shown. Lines for which its disk has no room are lost, and counted in it afterwards."""

    def __init__(self, file: Writer) -> None:
        self._file = file
        self._lost = 0  # lines since the last that was written
        self._told = False  # whether somebody knows that it could not be written

    def write(self, event: Printable, now: float) -> None:
        """Append an event. OSError if that cannot be done, the first time; the next event is tried all the same."""
        lines, before = log_lines(event, now), ""
        if self._lost:  # the last line may be cut
            before = "\n" + log_lines(Note(f"lines that could not be written here: {self._lost}"), now)
        self._lost += lines.count("\n")
        try:
            self._file.write(before + lines)
            self._file.flush()
            self._lost = 0
        except OSError:
            told, self._told = self._told, True
            if not told:
                raise


@contextlib.contextmanager
def proper_descriptors() -> Iterator[frozenset[int]]:
    """Make descriptors 0, 1 and 2 what every program expects, and give the numbers of those that were closed.

    In place of a closed one the null device is opened: else the next socket would get its number, and be read from as
    the keyboard. One that another program has left non-blocking is made blocking, and left as it was found: it is
    shared with the shell.
    """
    closed = frozenset(number for number in range(3) if not _is_open(number))
    for _ in closed:
        os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 (else print takes standard output)
    found = [] if sys.platform == "win32" else [number for number in range(3) if not os.get_blocking(number)]
    for number in found:
        os.set_blocking(number, True)
    try:
        yield closed
    finally:
        for number in found:
            with contextlib.suppress(OSError):
                os.set_blocking(number, False)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


class Plain(Front):
    """One event a line, no escapes, no prompt but for a password: for pipes, files, scripts and dumb terminals."""

    def __init__(self, out: Writer, *, as_json: bool = False, interactive: bool = False) -> None:
        self.mailbox = Mailbox(LINES_WAITING)  # lines that were typed
        self.interactive = interactive
        self._out = out
        self._as_json = as_json
        self._questions = Questions()
        self._early = ""  # the next hidden answer, typed before its question
        self._hides = False  # whether the terminal was told not to show what is typed
        self._drops = False  # whether the next line is dropped: half of it was typed hidden
        self._reader: LineReader | None = None
        self._asides: list[str] = []  # lines for standard error, to be printed behind what is shown

    def start(self, link: Link, helper: Recipients, answer: Callable[[str | None], object]) -> None:
        self._questions.then = answer
        link.watch(self.mailbox, self.mailbox.clear_wakeups)
        self._reader = LineReader(0, self.mailbox, terminal_encoding(sys.stdin))
        threading.Thread(target=self._reader.run, daemon=True).start()
        if self.interactive and sys.platform != "win32":
            signal.signal(signal.SIGCONT, lambda *_: self._hides and set_echo(False))  # the shell has shown it again

    def show(self, event: Printable) -> None:
        for line in [json_of(event)] if self._as_json else lines_of(event):
            self._out.write(line + "\n")

    def flush(self, to: str | None) -> None:
        """A question is printed last: programs that read along, such as Emacs, know a password prompt only there."""
        self._out.flush()
        asides, self._asides = self._asides, []
        for words in asides:
            print(words, file=sys.stderr, flush=True)

    def lines(self) -> list[Line | None]:
        if self._drops and (line := self.mailbox.take(1)):
            self._show_typing()
            if line[0] is None:
                return [None]
        while self._questions.prompt is not None or self._questions.waits:
            typed = [self._early] if self._early and not self._questions.waits else self.mailbox.take(1)
            if not typed:
                return []
            self._early = ""
            if typed[0] is None:
                return [None]
            if self._questions.waits:
                self._early = typed[0]  # hidden, as the answer before it
            else:
                self._questions.answer(typed[0])
                if self._questions.waits:
                    self._asides.append(ONE_MOMENT)
        return [None if line is None else Line(line) for line in self.mailbox.take(1)]

    def ask(self, prompt: str, *, hidden: bool = True) -> bool:
        if not self.interactive:
            return False
        if not hidden:
            self.release()
            self._drop_lines()  # nobody has read the question before them
        elif not self._hides:
            self._hides = is_terminal(2) and set_echo(False)
            if not self._hides:
                return False
        self._questions.ask(prompt, hidden=hidden)
        self._asides.append(prompt)
        return True

    def release(self) -> None:
        waited, self._early = self._questions.waits, ""
        self._questions.ask(None)
        if self._hides and not self._drops:
            if waited:
                self._drop_lines()
            self._drops = self._reader is not None and half_a_line_is_typed(self._reader)
            if self._drops:
                self._asides.append("finish the hidden line with Enter; it is not sent")
            else:
                self._show_typing()

    def close(self) -> None:
        if self._hides:
            set_echo(True)
        self.mailbox.close()

    def _show_typing(self) -> None:
        self._drops = False
        self._hides = not set_echo(True)

    def _drop_lines(self) -> None:
        """Drop the lines that have come, but not the end of them."""
        lines = self.mailbox.take()
        if None in lines:
            self.mailbox.put(None)
        dropped = len(lines) - lines.count(None)
        if dropped:
            self._asides.append(f"lines that were typed before this and are dropped: {dropped}")


# Asks the terminal to wrap long words (as it does, unless a program left that off), to mark pastes, to tell whether it
# has the focus, and to remember its title; and the way back.
TERMINAL_BEGIN = "\x1b[?7h\x1b[?2004h\x1b[?1004h\x1b[22;0t"
TERMINAL_END = "\x1b[?1004l\x1b[?2004l\x1b[23;0t"
# Events of a console of Windows: the window is closed, the person logs off, the machine is shut down.
CLOSING = (2, 5, 6)
# Seconds between two pieces of one paste; a finger that follows another within that is rare, and harmless.
BURST_GAP = 0.01
BURSTS_WAITING = 100  # bursts that are read ahead from a console of Windows
HANDED_ON = 0.05  # seconds in which a thread surely gets what a terminal has for it
PINNED_MAX = 3  # own messages without a fate that are shown above the prompt,
PINNED_TEXT = 120  # and characters of each: /history has all of it, and it is printed when its fate is known


def leaves_at(event: int, leave: Callable[[], object], wait: Callable[[float], None] = time.sleep) -> bool:
    """In a thread of Windows: leave if this event of the console says so, and stay until the program has ended."""
    if event in CLOSING:
        leave()
        wait(LEAVE_SECONDS + LOGOUT_SECONDS)
    return event in CLOSING


if sys.platform == "win32":
    KERNEL = ctypes.WinDLL("kernel32")
    # Bits of the modes. Of the keyboard: Ctrl-C as a signal, lines and echo, the mouse; sizes of the window, and a
    # terminal's sequences. Of the screen: control characters and wrapping, a terminal's sequences; and a row that is
    # full wraps with the next character only, as in a terminal.
    LINE_BITS, SIZE_BIT, SEQUENCES_BIT, SCREEN_BITS, LATE_WRAP_BIT = 0x17, 0x08, 0x200, 0x07, 0x08
    OPTIONAL_BITS = {0: SEQUENCES_BIT, 1: LATE_WRAP_BIT}  # by descriptor: what an older Windows does not know
    RECORDS = 1_000  # that are read at once
    _closing_handlers: list[Any] = []  # as long as the program runs

    def _mode(descriptor: int) -> int | None:
        mode = ctypes.c_uint32()
        try:
            handle = msvcrt.get_osfhandle(descriptor)
        except OSError:
            return None
        return mode.value if KERNEL.GetConsoleMode(ctypes.c_void_p(handle), ctypes.byref(mode)) else None

    def _set_mode(descriptor: int, mode: int) -> bool:
        handle = ctypes.c_void_p(msvcrt.get_osfhandle(descriptor))
        return any(KERNEL.SetConsoleMode(handle, each) for each in (mode, mode & ~OPTIONAL_BITS[descriptor]))

    def is_terminal(descriptor: int) -> bool:
        """Whether it is a console. `os.isatty` says so of the null device too."""
        return _mode(descriptor) is not None

    def console_mode() -> Any:
        """The modes of the keyboard and of the screen; None if they are gone."""
        modes = [_mode(0), _mode(1)]
        return None if None in modes else modes

    def raw_mode() -> Any:
        """The modes in which the keyboard tells of each key and the screen understands a terminal's sequences."""
        modes = console_mode()
        if modes is not None:
            modes = [modes[0] & ~LINE_BITS | SIZE_BIT | SEQUENCES_BIT, modes[1] | SCREEN_BITS | LATE_WRAP_BIT]
        return modes

    def set_console_mode(mode: Any) -> bool:
        """Whether that was possible."""
        return mode is not None and all(_set_mode(number, each) for number, each in enumerate(mode))

    def set_echo(on: bool) -> bool:
        """A line that is being read shows what is typed, whatever is told to the console meanwhile."""
        return False

    def half_a_line_is_typed(reader: LineReader) -> bool:
        """A console keeps that to itself."""
        return False

    def understands_sequences() -> bool:
        """Whether the console does what a terminal does; one that is set to be as it was long ago does not."""
        found = console_mode()
        able = set_console_mode(raw_mode())
        set_console_mode(found)
        return able

    def read_console(bursts: Mailbox, resized: Callable[[], object]) -> None:
        """In a thread, because a console cannot be waited for with sockets: see `ConsoleReader`."""
        keyboard = ctypes.c_void_p(msvcrt.get_osfhandle(0))
        records = ctypes.create_string_buffer(RECORDS * _RECORD.size)
        count = ctypes.c_uint32()

        def read() -> bytes:
            read = KERNEL.ReadConsoleInputW(keyboard, records, RECORDS, ctypes.byref(count))
            return records.raw[: count.value * _RECORD.size] if read else b""

        def follows() -> bool:
            return bool(KERNEL.WaitForSingleObject(keyboard, int(BURST_GAP * 1000)) == 0)

        ConsoleReader(read, follows, bursts, resized).run()

    def heed_closing(leave: Callable[[], object]) -> None:
        """Call `leave` when the window is closed. Windows ends the program as soon as the handler is done, or after
        5 s."""

        handler = ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint32)(lambda event: leaves_at(event, leave))
        _closing_handlers.append(handler)
        KERNEL.SetConsoleCtrlHandler(handler, 1)

else:
    is_terminal = os.isatty

    def console_mode() -> Any:
        """The mode of the terminal; None if it is gone: its end is about to be read then."""
        try:
            return termios.tcgetattr(0)
        except termios.error:
            return None

    def raw_mode() -> Any:
        """The mode in which it hands on each key and shows none."""
        mode = console_mode()
        if mode is not None:
            mode[0] &= ~(termios.BRKINT | termios.ICRNL | termios.INPCK | termios.ISTRIP | termios.IXON)
            mode[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
            mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        return mode

    def set_console_mode(mode: Any) -> bool:
        """Whether that was possible. DRAIN keeps what was typed ahead. In the background this stops us until `fg`."""
        while mode is not None:
            try:
                termios.tcsetattr(0, termios.TCSADRAIN, mode)
                return True
            except termios.error as error:
                if error.args[0] != errno.EINTR:
                    break
        return False

    def set_echo(on: bool) -> bool:
        """Whether the terminal shows what is typed, from now on. False if it cannot be told."""
        mode = console_mode()
        if mode is None:
            return False
        mode[3] = mode[3] | termios.ECHO if on else mode[3] & ~termios.ECHO
        return set_console_mode(mode)

    def half_a_line_is_typed(reader: LineReader) -> bool:
        """Whether the terminal holds the beginning of a line, which it hands on only when the line is finished.

        For a moment it is made to hand on everything at once, so that the reader gets what there is.
        """
        mode = console_mode()
        if mode is None:
            return False
        mode[3] &= ~termios.ICANON
        set_console_mode(mode)
        until = time.monotonic() + HANDED_ON
        while not reader.half and time.monotonic() < until:
            time.sleep(HANDED_ON / 20)
        mode[3] |= termios.ICANON
        set_console_mode(mode)
        return bool(reader.half)

    def understands_sequences() -> bool:
        """Whether a terminal does: see `is_dumb`."""
        return True

    def heed_closing(leave: Callable[[], object]) -> None:
        """Call `leave` when the terminal is closed."""
        heed("SIGHUP", leave)


def heed(name: str, answer: Callable[[], object]) -> None:
    """Call `answer` at this signal, where the system has it.

    One that was ignored before stays so: SIGHUP under nohup, SIGINT of a script's background job, SIGTSTP where no
    shell could bring us back.
    """
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, lambda *_: answer())


class Console:
    """The terminal: in a mode of our own while we are in front, else as it was found; and what it sends, as keys."""

    def __init__(self, escape_delay: Callable[[], float]) -> None:
        """escape_delay: seconds after which an escape that has stayed alone is the Escape key."""
        self._found = console_mode()
        self._decoder = KeyDecoder(terminal_encoding(sys.stdin))
        self._keys: list[Key] = []
        self._escape_delay = escape_delay
        self._escape_at: float | None = None  # when such an escape came
        self.has_focus = False  # whether the terminal has told that its window has the focus

    @property
    def deadline(self) -> float | None:
        """When `keys` has to be called though nothing came."""
        return None if self._escape_at is None else self._escape_at + self._escape_delay()

    def start(self, link: Link, moved: Callable[[], None]) -> None:
        """Begin to read. moved: called when the window may have another size, or we are back in front."""
        if sys.platform == "win32":
            bursts = Mailbox(BURSTS_WAITING)

            def take_bursts() -> None:
                bursts.clear_wakeups()
                for burst in bursts.take():
                    self.take(burst)

            link.watch(bursts, take_bursts)
            threading.Thread(target=read_console, args=(bursts, moved), daemon=True).start()
        else:
            link.watch(0, self.read)
            for name in ("SIGWINCH", "SIGCONT"):
                heed(name, moved)

    def begin(self) -> None:
        """Take the terminal."""
        set_console_mode(raw_mode())

    def end(self) -> None:
        """Give it back."""
        set_console_mode(self._found)

    def read(self) -> None:
        """There is something to read."""
        data = read_burst(lambda: _read_now(0), lambda: select.select([0], [], [], BURST_GAP)[0])
        if data is not None:
            self.take(data)

    def take(self, data: bytes) -> None:
        """These bytes have come; none are the end."""
        now = time.monotonic()
        keys = self._decoder.feed(data, now) if data else [Key("hang-up")]
        for key in keys:
            if key.name in FOCUS.values():
                self.has_focus = key.name == "focus-in"
        self._keys += as_one_burst([key for key in keys if key.name not in FOCUS.values()])
        self._escape_at = now if self._decoder.undecided else None

    def keys(self) -> list[Key]:
        """The keys that have come."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            self._keys += self._decoder.settle()
            self._escape_at = None
        keys, self._keys = self._keys, []
        return keys

    def suspend(self) -> None:
        """Stop here, like every program at Ctrl-Z, and go on here after `fg`. There is no such thing on Windows, and
        none where SIGTSTP is ignored: see `heed`."""
        if sys.platform != "win32" and signal.getsignal(signal.SIGTSTP) != signal.SIG_IGN:
            handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(0, signal.SIGTSTP)
            signal.signal(signal.SIGTSTP, handler)
            self.has_focus = False  # what changed meanwhile was not told


class Bell(NamedTuple):
    """The ways to call the person. when: one of BELLS. desktop: a notice of the desktop too. text: with the message."""

    when: str = "msg"
    desktop: bool = False
    text: bool = False


class Calls:
    """The bell, a count of messages in the title of the window, and notices of the desktop: they call a person who
    looks elsewhere."""

    def __init__(self, environ: Mapping[str, str] = MappingProxyType({})) -> None:
        """environ: tells which terminal this is."""
        self._environ = environ
        self._rings = self._notifies = False  # whether the bell is rung, and a notice shown, with the next write
        self._unread = 0  # messages since the last key
        self._newest = ""  # the last message, as far as it may be seen
        self._title = ""  # the sequence that set it last, "" if it was left alone
        self._counts = False  # whether the title counts messages

    def call(self, bell: Bell, message: protocol.Message | None) -> None:
        """Call for a message, or for somebody who came or went, with the next write."""
        self._rings |= bell.when == "all" or (bell.when == "msg" and message is not None)
        if message is not None:
            self._unread += 1
            self._newest = f"{message.sender}: {message.text}" if bell.text else message.sender
            self._counts, self._notifies = bell.when != "off", bell.desktop

    def stop(self) -> None:
        """The person is here: a key was pressed, or the window has the focus."""
        self._unread = 0

    def write(self) -> str:
        """The sequences for all, each at most once a turn."""
        calls = BELL * self._rings
        words = cut(f"({self._unread:,}) {self._newest}", TITLE_MAX).replace("\n", " ")
        if self._notifies and self._unread:
            calls += notice_sequence(words, self._environ)
        self._rings = self._notifies = False
        counts = self._unread and self._counts
        if self._title or counts:
            before, self._title = self._title, title_sequence(f"{words} - Vessages" if counts else "Vessages")
            calls += self._title * (self._title != before)
        return calls

    def leave(self) -> str:
        """Clear the title, for terminals that do not remember the one before."""
        before, self._title = self._title, ""
        return title_sequence("") * bool(before)


class Terminal(Front):
    """A person at a terminal: a line to edit at the bottom, and above it what happens."""

    interactive = edits = True

    def __init__(self, out: Writer) -> None:
        self._out = out
        self._console = Console(lambda: ESCAPE_DELAY if self._editor.hears_escape else SEQUENCE_DELAY)
        self._editor = LineEditor(self._complete, lambda word: self._helper.expand(word))
        self._questions = Questions()
        self._transcript = Transcript()
        self._calls = Calls(os.environ)
        self._screen = Screen(
            *window_size(),
            colour=wants_colour(os.environ),
            reflows=terminal_reflows(os.environ),
            encoding=terminal_encoding(sys.stdout),
        )
        self._keys: deque[Key] = deque()  # typed, and not given to the editor yet
        self._drop_until = -math.inf  # end of the time in which the rest of a text may come that was refused
        self._stops = False  # whether somebody else has told us to stop here, as Ctrl-Z would
        self._moved = False  # whether the window may have another size, or we are back in front
        self._settled_at = -math.inf  # when it will have kept its size for long enough

    def start(self, link: Link, helper: Recipients, answer: Callable[[str | None], object]) -> None:
        self._link, self._helper, self._questions.then = link, helper, answer
        self._console.start(link, self._mark_moved)
        self._console.begin()
        self._out.write(TERMINAL_BEGIN)
        heed("SIGTSTP", self._mark_stop)

    def _mark_stop(self) -> None:
        self._stops = True
        self._link.wake()

    def _mark_moved(self) -> None:
        self._moved = True
        self._link.wake()

    def deadline(self) -> float | None:
        """A lonely escape, the next second of a countdown, or comings and goings to be told."""
        wait, counts = self._link.redial_in, not self._transcript.met
        next_second = self._link.now() + ((wait or 0.0) % 1 or 1) if wait or counts else None
        settled = self._settled_at if self.settles() else None
        return earliest(self._console.deadline, next_second, self._transcript.due, settled)

    def settles(self) -> bool:
        return self._moved or self._link.now() < self._settled_at

    # Keys

    def _complete(self, before: str) -> tuple[int, Sequence[str]]:
        return self._helper.complete(before, person=self._editor.asks)

    def lines(self) -> list[Line | None]:
        """Do what was typed, up to a finished line."""
        self._keys.extend(self._console.keys())
        if self._console.has_focus:
            self._calls.stop()
        if self._stops:
            self._stops = False
            self._suspend()
        now = self._link.now()
        if now < self._drop_until:
            self._drop_rest(now)
        self._join_block()
        while self._keys:
            key = self._keys.popleft()
            self._calls.stop()
            if key.name == "tab" and key.more:  # nobody looks at what Tab offers in the middle of a burst
                key = Key("char", "\t")
            event = self._editor.feed(key)
            if key.name == "hang-up" or (event is not None and event.kind == "end"):
                return [None]
            if event is not None and event.kind == "line":
                if holds_secret(event.line):
                    self._editor.forget_last()
                return [event.line._replace(text=event.line.text.rstrip("\n"))]
            if event is not None:
                self._obey(event)
                if event.kind == "full" and key.more:
                    self._drop_until = now + PASTE_PAUSE
                    self._drop_rest(now)
                self._join_block()
        return []

    def _join_block(self) -> None:
        """Text of several lines that came in one burst was pasted, though the terminal does not mark it: make it one
        paste. A command or an answer that was typed ahead is dealt with line by line."""
        text = burst_text(self._keys)
        pasted, count = pasted_part(text, by_line=False)
        if count and (self._editor.asks or (not self._editor.to and is_command(self._editor.text + text))):
            pasted, count = pasted_part(text, by_line=True)
        if count:
            for _ in range(count):
                self._keys.popleft()
            self._keys.appendleft(Key("paste", pasted, more=True))

    def _drop_rest(self, now: float) -> None:
        """Drop what comes at once behind a text that was refused, with the Enter at its end: it is one paste."""
        while self._keys and self._keys[0].name in _BURST_TEXT:
            if self._keys.popleft().more:
                self._drop_until = now + PASTE_PAUSE

    def _obey(self, event: EditorEvent) -> None:
        if event.kind == "answer":
            self._questions.answer(event.line.text)
        elif event.kind == "give-up":
            self._questions.answer(None)
        elif event.kind == "interrupt":
            self._transcript.tell("-- Ctrl-C again leaves")
        elif event.kind == "leave":
            signal.raise_signal(signal.SIGINT)  # the same way out as from outside
        elif event.kind == "suspend":
            self._suspend()
        elif event.kind == "clear":
            self.clear()
        elif event.kind == "full":
            words = f"that is too long for one message, which holds {TYPED_MAX:,} bytes: send it in parts"
            self._transcript.tell(f"!! {words}")

    def ask(self, prompt: str, *, hidden: bool = True) -> bool:
        self._questions.ask(prompt, hidden=hidden)
        if not hidden:
            self._keys.clear()  # they were typed before the question could be read
        if self._editor.ask(hidden=hidden):
            self._keys.appendleft(Key("enter"))
            self._link.wake()
        return True

    def release(self) -> None:
        self._questions.ask(None)
        self._editor.release()

    # Screen

    def show(self, event: Printable) -> None:
        self._transcript.add(event, self._link.now())

    def call(self, bell: Bell, message: protocol.Message | None = None) -> None:
        if not self._console.has_focus:
            self._calls.call(bell, message)

    def clear(self) -> None:
        self._out.write(self._screen.clear())

    def forget(self) -> None:
        self._editor.forget()

    def flush(self, to: str | None) -> None:
        """Everything in one write: what arrived, what waits, the prompt and the line. While the window changes its
        size nothing, since it is not known where the prompt is."""
        if self._moved:
            self._moved = False
            self._console.begin()
            self._screen.resize(*window_size())
            self._settled_at = self._link.now() + settling_time(os.environ)
        if self.settles():
            return
        block = Block(self._prompt(to), *self._editor.view(), pinned_paragraphs(self._link.session.undelivered))
        self._editor.mark_seen()
        paragraphs = self._transcript.take(self._link.now())
        self._out.write(self._screen.draw(block, paragraphs) + self._calls.write())
        self._out.flush()

    def close(self) -> None:
        try:
            with contextlib.suppress(OSError):
                self._leave()
        finally:
            self._console.end()

    def _suspend(self) -> None:
        self._leave()
        self._console.end()
        self._console.suspend()
        self._console.begin()
        self._out.write(TERMINAL_BEGIN)
        self._moved = True

    def _leave(self) -> None:
        """Print all paragraphs, take the block off the screen, and end what the terminal was asked for."""
        try:
            self._out.write(self._screen.draw(Block(()), self._transcript.take(math.inf)) + self._screen.hide())
        finally:  # also if that is what has failed
            self._out.write(self._calls.leave() + TERMINAL_END)
            self._out.flush()

    def _prompt(self, to: str | None) -> tuple[Span, ...]:
        if self._questions.prompt is not None:
            return (Span(self._questions.prompt),)
        search, to = self._editor.search_prompt, self._editor.to or to
        spans = [Span(search, DIM)] if search is not None else link_spans(self._link, self._transcript.met)
        if self._editor.waits:
            return (*spans, Span(f"{ONE_MOMENT} ", DIM))
        if self._editor.drains:
            return (*spans, Span("hidden up to Enter, and not sent ", DIM))
        return (*spans, *recipient_spans(self._link.session, to), Span("> "))


def link_spans(link: Link, met: bool) -> list[Span]:
    """The link in a prompt. met: whether the server has answered yet."""
    wait, session = link.redial_in, link.session
    if not met and not wait:
        silent = link.now() - link.tried_at
        heard = f"nothing heard for {silent:.0f} s " * (silent >= UNHEARD_SECONDS)
        return [Span(f"connecting to {link.host} port {link.port} … {heard}", DIM)]
    if wait is not None:
        return [Span(f"… {math.ceil(wait)} s " if wait else "… ", RED)]
    if session.logged_in and session.online:
        return [Span(f"{session.online} online ", DIM)]
    if link.is_up and session.is_stranded:  # else a password might be typed as a message, which waits for the login
        return [Span("not logged in ", RED)]
    return [] if link.is_up else [Span("not connected ", RED)]


def recipient_spans(session: ClientSession, to: str | None) -> list[Span]:
    """The recipient in a prompt."""
    if to is None or session.name is None:
        return []
    absent = absent_names(session, to)
    who = f"{', '.join(cut_crowd(absent))} " if "," in to else ""
    return [Span(to_words(to), name_style(to)), *[Span(f" ({who}not online)", RED)] * bool(absent)]


def pinned_paragraphs(waiting: Sequence[protocol.Command]) -> tuple[Paragraph, ...]:
    """The last own messages whose fate is not known."""
    more = len(waiting) - PINNED_MAX
    lines = [f"{NO_TIME}{more} more"] if more > 0 else []
    for command in waiting[-PINNED_MAX:]:
        text = " ".join(cut(command.text, PINNED_TEXT).split())
        lines.append(f"{NO_TIME}→ {to_words(command.name)}  {text}")
    return tuple(Paragraph((Span(line, DIM),), len(NO_TIME)) for line in lines)


def window_size() -> tuple[int, int]:
    """Columns and rows of the window. Where the terminal does not know (0), COLUMNS and LINES tell, or it is usual."""
    try:
        size = os.get_terminal_size(1)
    except OSError:
        size = os.terminal_size((0, 0))
    if 0 in size:
        size = shutil.get_terminal_size()
    return size.columns or 80, size.lines or 24  # Python 3.10 hands on the 0


TYPED_AHEAD_MAX = 1_000  # characters of a line that a person may have typed while the client was busy
# The keys of which a paste consists that the terminal does not mark, and the text of those that have none.
_BURST_TEXT: Final[Mapping[str, str]] = {"char": "", "tab": "\t", "enter": "\n"}


def burst_text(keys: Iterable[Key]) -> str:
    """The text that a burst of keys begins with, a character for each key, the Enters behind it included."""
    text, more = [], True
    for key in itertools.takewhile(lambda key: key.name in _BURST_TEXT, keys):
        if not more and key.name != "enter":
            break
        text.append(key.text or _BURST_TEXT[key.name])
        more = key.more
    return "".join(text)


def pasted_part(text: str, by_line: bool) -> tuple[str, int]:
    """The part of a burst's text that was surely pasted, and how many characters that takes; ("", 0) if there is none.

    A paste is a text of several lines (the newlines behind it belong to it: nobody means to send these), one with a tab
    in it, or a line that is too long to have been typed ahead. by_line: only such a line.

    >>> pasted_part("one\\ntwo\\n", by_line=False)
    ('one\\ntwo', 8)
    >>> pasted_part("/who\\n/quit\\n", by_line=True)
    ('', 0)
    """
    first, lines = text.split("\n")[0], text.rstrip("\n")
    if not by_line and "\n" in lines:
        return lines, len(text)
    pasted = len(first) > TYPED_AHEAD_MAX or (not by_line and "\t" in first.rstrip("\t"))
    return (first, len(first)) if pasted else ("", 0)


# --- The words of a line ----------------------------------------------------------------------------------------------


class TypedCommand(NamedTuple):
    """A command that can be typed: its row of /help, how it is used, and what it does.

    `Chat.do_NAME` does it: it gets what stands behind the command, and returns False if it cannot be meant so.
    """

    group: str
    usage: str
    help: str

    @property
    def typed(self) -> str:
        """The usage for a person; behind it may stand that of a script."""
        return self.usage.partition(" or ")[0]

    def fits(self, rest: str) -> bool:
        """Whether there are as many words as it needs, which are in capitals and not in brackets, and none in vain.

        >>> TYPED["msg"].fits("bob hi"), TYPED["msg"].fits("bob"), TYPED["to"].fits(""), TYPED["who"].fits("bob")
        (True, False, True, False)
        """
        needed = len(re.findall(" [A-Z]+", self.typed))
        return len(rest.split()) >= needed and (" " in self.usage or not rest.strip())


TYPED = {  # in the order of /help, which fits a window of 50 x 15
    "register": TypedCommand("you", "/register NAME", "make an account"),
    "login": TypedCommand("you", "/login NAME", "log in"),
    "takeover": TypedCommand("you", "/takeover NAME", "log in and end your session elsewhere"),
    "logout": TypedCommand("you", "/logout", "log out and stay connected"),
    "passwd": TypedCommand("you", "/passwd or PASSWD OLD NEW", "change your password"),
    "msg": TypedCommand("talk", "/msg NAME TEXT", "send a message"),
    "all": TypedCommand("talk", "/all TEXT", "send a message to everybody who is here"),
    "r": TypedCommand("talk", "/r TEXT", "answer all who had the newest message"),
    "to": TypedCommand("talk", "/to [NAME]", "send what you type to NAME from now on, or to nobody"),
    "me": TypedCommand("talk", "/me TEXT", "say what you do: /me waves"),
    "who": TypedCommand("here", "/who", "who is online; ~ means the connection is lost"),
    "quiet": TypedCommand("here", "/quiet", "hide comings and goings, or show them again"),
    "history": TypedCommand("show", "/history [NAME] [N]", "print the last messages again, all or those with NAME"),
    "bell": TypedCommand("show", "/bell [off|title|msg|all] [desktop] [text]", "what calls you"),
    "clear": TypedCommand("show", "/clear", "clear the screen"),
    "ping": TypedCommand("else", "/ping [TEXT]", "how long an answer takes, and whether it is encrypted"),
    "help": TypedCommand("else", "/help [COMMAND]", "this list"),
    "quit": TypedCommand("else", "/quit", "log out and leave"),
}
# The same as they stand on the wire, in capitals, for scripts and old hands.
BARE = {name.upper(): name for name in ("register", "login", "takeover", "logout", "who", "passwd", "ping", "quit")}
BARE["SEND"] = "msg"
# Commands as people know them from other programs.
ALIASES = {
    "exit": "quit", "q": "quit", "bye": "quit", "query": "to", "?": "help", "h": "help", "w": "msg",
    "signin": "login", "logon": "login", "signup": "register", "password": "passwd", "pass": "passwd", "pw": "passwd",
    "tell": "msg", "whisper": "msg", "names": "who", "users": "who", "list": "who", "whois": "who", "reply": "r",
}  # fmt: skip
NEW_LINE_KEY = "Ctrl-Enter" if sys.platform == "win32" else "Alt-Enter"  # there Alt-Enter is for the window
# More that is good to know about a line, for /help.
HELP_LINES = (
    ("NAME: TEXT", "send to NAME, now and from now on"),
    ("BOB,EVE: TEXT", "send to both; /to * is everybody"),
    ("@NAME TEXT", "send to NAME this time"),
    ("//TEXT", "send a text that begins with a slash"),
)
HELP_KEYS = (  # where a line is edited
    ("Tab", "complete a name or a command"),
    (f"{NEW_LINE_KEY}, or \\ at the end", "begin a new line"),
    ("Ctrl-C", "drop the line; twice when empty: leave"),
)
BELLS = {
    "off": "never rings, and the title of the window is left alone",
    "title": "never rings; the title of the window counts messages",
    "msg": "rings for messages, and the title of the window counts them",
    "all": "rings for messages, comings and goings; the title of the window counts messages",
}  # fmt: skip


# Words of /help COMMAND about some commands, beside their line.
MORE_HELP: Final[Mapping[str, str]] = {
    "register": "the password is asked for without showing it, and you are logged in",
    "login": "the password is asked for without showing it",
    "msg": "NAME is also several with commas, /msg bob,eve hi, or *, everybody",
    "r": "at the space it becomes /msg NAME, so that you see who that is",
    "to": "NAME is also several with commas, /to bob,eve, or *, everybody; /to alone: nobody",
    "history": f"the last {SAID_AGAIN}, or the last N; NAME is also bob,eve or *, everybody\n"
    "a long text is printed as it was written, up to a mark, so that it can be copied",
    "bell": "off: nothing; title: a count in the window's title; msg: a bell too\n"
    "all: the bell also for comings and goings\n"
    "desktop: a notice of the desktop; text: it and the title say what was said\n"
    "notices need `set -g allow-passthrough on` in tmux\n"
    "nothing calls while the window has the focus, where the terminal tells",
    "quit": "as Ctrl-D, or Ctrl-C twice, on an empty line",
}


def bell_words(bell: Bell) -> str:
    """The present ways to call the person."""
    desktop = "; each message is a notice of the desktop" * bell.desktop
    return f"the bell {BELLS[bell.when]}{desktop}" + "; with the text of the message" * bell.text


def command_name(word: str) -> str:
    """The command that a word without its slash is, by whatever name people know it: `exit` is `quit`."""
    return ALIASES.get(word.lower(), word.lower())


def help_words(name: str, *, edits: bool) -> str:
    """The words of /help, about one command if it is named; "" if there is no such command. edits: with the keys."""
    if name and name not in TYPED:
        return ""
    if name:
        aliases = " ".join("/" + alias for alias, command in ALIASES.items() if command == name)
        lines = [f"{TYPED[name].usage}  {TYPED[name].help}", MORE_HELP.get(name, ""), aliases and f"also {aliases}"]
        return "\n".join(filter(None, lines))
    groups = itertools.groupby(TYPED, lambda word: TYPED[word].group)
    rows = [f"{group:<5} {' '.join('/' + word for word in words)}" for group, words in groups]
    keys = [f"{usage}  {words}" for usage, words in HELP_LINES + HELP_KEYS * edits]
    return "\n".join([*rows, *keys, "/help COMMAND tells more"])


def expected_words(before: str, names: list[str]) -> list[str]:
    """The words that Tab may put at the cursor: names, but for the words of a command whose usage says otherwise."""
    verb, *words = before.split(" ")
    if not words or not verb.startswith("/") or verb[1:] not in TYPED:
        return names
    _, *places = TYPED[verb[1:]].usage.split()
    if len(words) <= len(places):
        place = places[len(words) - 1]
    else:
        place = places[-1] if places and "TEXT" in places[-1] else ""  # a text may have many words
    offers = {"NAME": names, "[NAME]": names, "TEXT": names, "[TEXT]": names, "[COMMAND]": list(TYPED)}
    return offers.get(place, place.strip("[]").split("|") if place.startswith("[") and place.islower() else [])


class Reading(NamedTuple):
    """A line read as a command: its name in TYPED ("" if it is none), the rest of the line, and whether the word is
    written as it has to be; else it is only taken for that command."""

    name: str
    rest: str
    exact: bool = True


# Commands behind which a password may come. The rest of these tables tells a password from a sentence.
SECRETS = ("register", "login", "takeover", "passwd")
SECRET_PHRASES = {("log", "in"), ("log", "on"), ("sign", "in"), ("sign", "on"), ("sign", "up"), ("take", "over")}
SECRET_NOUNS = ("password", "pass", "pw")  # commands only with a slash: people talk about these
ORDINARY = ("logic", "logins", "logan", "loin", "passed", "makeover", "registers", "takeovers")  # though they are alike
LOGINS = ("user", "nick", "identify", "auth", "su", "account", "id", "oper")  # commands of other programs
NO_ROOMS = ("join", "part", "topic", "room", "channel")  # commands of other programs, without a password
# Advice for some commands of other programs.
INSTEAD = dict.fromkeys(NO_ROOMS, "there are no rooms; /to NAME sends what you type to NAME") | {
    "nick": "a name is an account: /login NAME, or /register NAME for a new one",
    "identify": "the password is asked for: /login NAME",
}
ALIKE = 0.6  # how alike an unknown command is to one that may have been meant, as difflib counts


def first_word(text: str) -> tuple[str, str]:
    """The first word, and what follows the space or newline behind it."""
    word, *rest = re.split(r"\s", text, maxsplit=1)
    return word, "".join(rest)


def read_command(text: str) -> Reading:
    """The command that a line begins with: with a slash, or in capitals as on the wire.

    Taken for a command with a password are also `/lgoin`, and `login bob` without the slash.

    >>> read_command("/exit")
    Reading(name='quit', rest='', exact=True)
    >>> read_command("lunch?").name
    ''
    """
    word, rest = first_word(re.sub(r"^/\s+", "/", text.lstrip()))
    word = unicodedata.normalize("NFKC", word)
    if word.startswith("/"):
        name = command_name(word[1:])
        if name in TYPED:
            return Reading(name, rest)
        return Reading(next((secret for secret in SECRETS if is_slip(name, secret)), ""), rest, exact=False)
    if word in BARE:  # `WHO are you` is no WHO
        return Reading(BARE[word] if not rest or " " in TYPED[BARE[word]].usage else "", rest)
    name = command_name(word.strip(string.punctuation))
    begins = name in SECRETS and word.lower() not in SECRET_NOUNS and not has_password(name, rest)
    return Reading(name if begins else "", rest, exact=False)


def similar_command(word: str) -> str:
    """The command that an unknown one may have been meant to be; "" if there is none."""
    found = difflib.get_close_matches(word[1:].lower(), [*TYPED, *ALIASES], 1, ALIKE) if word.count("/") == 1 else []
    return command_name(found[0]) if found else ""


def is_unknown(word: str) -> bool:
    """Whether a word is like a command, and which one is meant is unclear: perhaps the login of another program."""
    if not word.startswith("/") or read_command(word).name or word[1:].lower() in NO_ROOMS:
        return False
    return word[1:].lower() in LOGINS or similar_command(word) in ("", *SECRETS)


def unknown_words(word: str) -> str:
    """Advice about a command that does not exist."""
    name, alike = word[1:].lower(), similar_command(word)
    if name in INSTEAD:
        return INSTEAD[name]
    if name.startswith(SECRETS):  # what stands behind it may be a password
        return "there is no such command: it is used like this: /login NAME"
    advice = f"did you mean /{alike}? " if alike else ""
    return f"there is no {one_line(word)}: {advice}/help lists the commands; to send that as text: /{one_line(word)}"


def has_password(name: str, rest: str) -> bool:
    """Whether what stands behind a command of SECRETS is more than it should be: at most a name."""
    return rest.strip() != "" and (name == "passwd" or protocol.clean_name(rest.strip()) is None)


def is_bare_command(text: str) -> bool:
    """Whether a text that was typed hidden is a command to the letter, and nothing behind it can be a password.

    >>> [is_bare_command(text) for text in ("/logout", "/login bob", "/login bob pw", "/passwd pw", "/to pw", "WHO")]
    [True, True, False, False, False, False]
    """
    typed = read_command(text)
    is_name = typed.name in SECRETS and not has_password(typed.name, typed.rest)
    return text.startswith("/") and typed.name != "" and typed.exact and (not typed.rest.strip() or is_name)


def looks_secret(text: str) -> bool:
    """Whether a text may be a command with a password whose slash was forgotten or whose word is misspelt, also behind
    a name (`bob: login ann pw`). It may also be a sentence, so that a person has to say what it is.

    >>> [looks_secret(text) for text in ("lgoin ann pw", "1. login ann pw", "login is broken again", "the login works")]
    [True, True, True, False]
    """
    name = named_by(text)
    behind = text.removeprefix("@").removeprefix(name).removeprefix(":") if name else ""
    acted = re.sub(r"^\* \S+ ", "", text)  # what /me makes of a text
    return any(map(begins_secret, (text, behind, acted)))


def begins_secret(text: str) -> bool:
    """As `looks_secret`, of the words with which the text begins."""
    letters = re.sub(r"^[\W\d_]+", "", unicodedata.normalize("NFKC", text)).lower()
    name, *words = [word for word in re.split(r"[\s:/,;=]+", letters) if word] or [""]
    if words and (name, words[0]) in SECRET_PHRASES:
        return True
    name = name.replace("-", "").strip(string.punctuation)
    if command_name(name) == "passwd":
        return bool(words) and (name == "passwd" or len(words) >= 2 or not words[0].isalpha())
    if command_name(name) in SECRETS:
        return len(words) >= 2 or text.lstrip().startswith("/")
    slips = name not in ORDINARY and any(is_slip(name, secret) for secret in SECRETS)
    return (name == "log" and len(words) == 2) or (bool(words) and slips)


def is_slip(one: str, other: str) -> bool:
    """Whether two words differ by one letter, or by two that changed places."""
    shorter, longer = sorted((one, other), key=len)
    if len(longer) - len(shorter) > 1:  # a word may be a million letters long
        return False
    if len(shorter) == len(longer):
        differ = [at for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
        return len(differ) == 1 or (len(differ) == 2 and sorted(one) == sorted(other))
    return shorter in (longer[:at] + longer[at + 1 :] for at in range(len(longer)))


def holds_secret(line: Line) -> bool:
    """Whether a line that was typed may have a password in it, so that it does not come back from the history."""
    if line.to or line.block:
        return looks_secret(line.text)
    typed = read_command(line.text)
    if typed.name in SECRETS:
        return has_password(typed.name, typed.rest)
    if typed.name in ("msg", "all", "r", "me"):
        return looks_secret(first_word(typed.rest.lstrip())[1] if typed.name == "msg" else typed.rest)
    return looks_secret(line.text) or (not typed.name and is_unknown(first_word(line.text.lstrip())[0]))


def is_command(text: str) -> bool:
    """Whether what begins like this is dealt with line by line, also if all of it came at once."""
    line = text.lstrip().split("\n")[0]
    word, rest = first_word(line)
    hides = is_unknown(word) and "/" not in word[1:] and len(rest.split()) < 2
    return bool(read_command(line).name) or looks_secret(text) or hides


def named_by(text: str) -> str:
    """The name that a text seems to be for by its first word, known or not: bob in `bob: hi` and `@bob hi`; else ""."""
    found = re.match(r"@?([^\s:@]+)(:?)\s", text)
    if found is None or not (text[0] == "@" or found[2]) or not is_recipient(found[1]) or found[1] == EVERYONE:
        return ""
    return found[1]


# --- Dialogues --------------------------------------------------------------------------------------------------------


class Ask(NamedTuple):
    """A step of a dialogue: a question to the person. Its outcome is the answer, `given_up` if there is none.

    hidden: whether the answer may be a password. strict: whether it is not asked where nothing can be hidden.
    obeys: the commands that are done when they are typed there; a question whose answer is hidden is then given up.
    """

    prompt: str
    hidden: bool = True
    strict: bool = True
    obeys: Collection[str] = TYPED
    given_up: str = ""


class Await(NamedTuple):
    """A step of a dialogue: the answer to the command of this tag. Its outcome is the event."""

    tag: int


class Pause(NamedTuple):
    """A step of a dialogue: so many seconds pass."""

    seconds: float


# Questions to a person and to a server, one after the other: written as a generator, so that it reads like a dialogue.
Dialogue = Generator[Ask | Await | Pause, Any, None]

YES, NO = ("y", "yes"), ("", "n", "no")
NOT_TRUSTED = "not connected: ask whoever runs the server for the fingerprint that it prints when it is started"
UNASKED = "a password is missing: set VESSAGES_PASSWORD or use --password-file"
NOTHING_DONE = "no password, so nothing was done"
FORGOTTEN = "if you have forgotten it: whoever runs the server can set a new one"
NOTHING_SENT = "nothing was sent"
# Lines that are dropped before what is typed is shown again: an old password and a new one, twice.
DROPPED_MAX = 3


class Tell(Protocol):
    """How the parts of a chat speak: `Chat.note`."""

    def __call__(self, words: str, /, *, failed: bool = False) -> None: ...


def is_meant(question: str, note: Tell, *yes: str) -> Generator[Ask, str, bool]:
    """Ask for a yes or no where a password may be typed instead. `yes`: other answers that mean yes."""
    for _ in range(DROPPED_MAX):
        answer = yield Ask(f"{question} y/n (hidden) ", strict=False)
        if answer.strip().lower() in (*YES, *NO) or answer in yes:
            return answer.strip().lower() not in NO
        note("what you typed was dropped: y for yes, Enter alone for no")
    return False


def agrees(question: str) -> Generator[Ask, str, bool]:
    """Ask for a yes or no; anything else is a no."""
    return (yield Ask(f"{question} y/n ", hidden=False)).strip().lower() in YES


def trusting(question: str, note: Tell) -> Generator[Ask, str, bool]:
    """Ask whether a certificate is trusted. It interrupts what is being typed, so that nothing short is a yes, and
    Enter alone, which somebody may have pressed for another reason, is no answer."""
    ask = Ask(f"{question} yes/no (hidden) ", strict=False, obeys=("quit",), given_up="no")
    while (answer := (yield ask).strip().lower()) not in ("yes", "n", "no"):
        if answer:
            note("yes or no, as a whole word; Esc is a no too")
    return answer == "yes"


def hiding(note: Tell) -> Dialogue:
    """Drop what is typed, up to a line with nothing in it or a command."""
    ask = Ask("hidden, in case a password follows; Enter alone, or a command, goes on: ", strict=False)
    for _ in range(DROPPED_MAX):
        if not (yield ask):
            return
        note("what you typed was dropped")


class Dialogues:
    """Takes the one dialogue that is under way from step to step. A script's dialogue ends where it would wait."""

    def __init__(self, front: Front, now: Callable[[], float], note: Tell, obey: Callable[[str, Ask], bool]) -> None:
        """`obey` does an answer that is a command which the question obeys; False if it is none."""
        self._front, self._now, self._note, self._obey = front, now, note, obey
        self._dialogue: Dialogue | None = None  # the one under way
        self._step: Ask | Await | Pause | None = None  # its last step
        self.deadline: float | None = None  # end of its pause
        self._aside: tuple[Dialogue, Ask | Await | Pause | None, float | None] | None = None  # an interrupted one

    @property
    def under_way(self) -> bool:
        """Whether there is a dialogue."""
        return self._dialogue is not None

    def begin(self, dialogue: Dialogue) -> None:
        """Begin a dialogue, up to its first question or wait; one that is under way ends."""
        self._end()
        self._dialogue = dialogue
        self._proceed(None)

    def interrupt(self, dialogue: Dialogue) -> None:
        """Begin a dialogue that cannot wait. The one under way goes on behind it, where it was."""
        if self._dialogue is not None and self._aside is None:
            self._aside = self._dialogue, self._step, self.deadline
            self._dialogue = None
        self.begin(dialogue)

    def tick(self) -> None:
        """Go on when a pause is over."""
        if self.deadline is not None and self._now() >= self.deadline:
            self._proceed(None)

    def hear(self, event: Printable) -> None:
        """Go on if this event answers the command that is waited for."""
        if isinstance(self._step, Await) and self._step.tag == getattr(event, "tag", 0):
            self._proceed(event)

    def answer(self, text: str | None) -> None:
        """The person's answer, None if it is given up; while there is no question nobody wants to wait any longer."""
        step = self._step
        if not isinstance(step, Ask):
            self._end()
            self._note("not waited for any more; its outcome will be told here")
        elif text is None:
            self._proceed(step.given_up)
        elif not self._obey(text, step):
            self._proceed(text)
        elif self._step is step and step.hidden:  # else the command has begun another dialogue
            self._proceed("")
        elif self._step is step:
            self._ask(step)

    def _proceed(self, outcome: object) -> None:
        """Go on behind the step that had this outcome."""
        self._step, self.deadline = None, None
        with contextlib.suppress(StopIteration):
            self._step = self._dialogue.send(outcome) if self._dialogue is not None else None
        if isinstance(self._step, Ask):
            if not self._ask(self._step):
                self._end()
                self._note(UNASKED, failed=True)
        elif isinstance(self._step, Pause):
            self.deadline = self._now() + self._step.seconds
        elif self._step is None or not self._front.interactive:
            self._end()

    def _ask(self, step: Ask) -> bool:
        asked = self._front.ask(step.prompt, hidden=step.hidden)
        return asked or (not step.strict and self._front.ask(step.prompt, hidden=False))

    def _end(self) -> None:
        if self._dialogue is None:
            return
        self._dialogue, self._step, self.deadline = None, None, None
        if self._aside is None:
            self._front.release()
            return
        (self._dialogue, self._step, self.deadline), self._aside = self._aside, None
        if isinstance(self._step, Ask):
            self._ask(self._step)


# Refusals behind which a password can be tried again a known moment later.
_WAITED_FOR = (protocol.Code.BAD_LOGIN, protocol.Code.THROTTLED, protocol.Code.TOO_MANY, protocol.Code.BUSY)
LATER = frozenset(code.word for code in _WAITED_FOR)
# Refusals behind which a password is asked for: another one may do, or the same one later. Behind others none would.
ASKS_AGAIN = LATER | {protocol.Code.BAD_PASSWORD.word, protocol.Code.STORAGE.word}


class Accounts:
    """The dialogues with a person who registers, logs in or changes a password.

    A password that stands in the line is used once. Else it is asked for until it is right or given up: after a refusal
    a person types it again, and must not do so where it is shown.
    """

    def __init__(self, session: ClientSession, note: Tell, secret: str | None, *, interactive: bool) -> None:
        """`secret` stands in for a password that is left out."""
        self._session, self._note, self._secret, self._interactive = session, note, secret, interactive
        self.name = ""  # name of the last login that was tried

    def fault(self, name: str, *, new: bool) -> str:
        """Why a password for `name` would be asked for in vain; "" if it would not. new: the account is to be made."""
        own = self._logged_in_as()
        if own and (new or fold(own) == fold(name)):
            return f"you are {own} already; /logout first"
        clean = protocol.clean_name(name)
        if clean is None:
            return f"that cannot be anybody's name: {protocol.Code.BAD_USERNAME.explanation}"
        return protocol.NO_NAME if new and fold(clean) in protocol.WORDS_FOR_PEOPLE else ""

    def logging_in(
        self, name: str, password: str, *, takeover: bool = False, patient: bool = False, known: bool = False
    ) -> Dialogue:
        """Log in. Somebody who is logged in already is logged out once there is a password. known: whether there is
        surely such an account."""
        once, before = bool(password), "" if password else self._logged_in_as()
        logs_out = f" (logs {before} out; Enter alone does not)" if before else ""
        prompt = f"Password for {one_line(name)}{logs_out}: "
        hints = [*[f"if you are new here: /register {one_line(name)}"] * (not known), FORGOTTEN]
        while password or (password := (yield from self._given_or_asked(prompt))):
            if before and before == self._logged_in_as():
                yield Await(self._session.logout())
            self.name = name
            reply = yield Await(
                self._session.takeover(name, password)
                if takeover
                else self._session.login(name, password, patient=patient)
            )
            online = isinstance(reply, protocol.Refused) and reply.code == protocol.Code.ALREADY_ONLINE.word
            if once and online:
                words = "ends the other session and logs you in here; a dead one ends after 5 s"
                self._note(f"/takeover {one_line(name)} {words}")
            if once or isinstance(reply, protocol.LoggedIn):
                return
            if online:
                takeover = yield from is_meant("end that session and log in here?", self._note, password)
                if not takeover:
                    return
                continue
            if reply.code not in ASKS_AGAIN:
                return
            if reply.code == protocol.Code.BAD_LOGIN.word and hints:  # each is said once
                self._note(hints.pop(0))
            if reply.code in LATER:
                yield Pause(reply.wait)
            password, prompt = "", f"Password for {one_line(name)} (Enter alone gives up): "

    def registering(self, name: str, password: str) -> Dialogue:
        """Make an account and log in."""
        once, prompt = bool(password), f"New password for {one_line(name)}: "
        while True:
            if not once and self._secret is None and self._interactive:
                password = yield from self._new_password(prompt, name)
            elif not once:
                password = yield from self._given_or_asked(prompt)
            if not password:
                return
            reply = yield Await(self._session.register(name, password))
            if isinstance(reply, protocol.Answer):
                break
            if once:
                return
            if reply.words == protocol.Code.NAME_TAKEN.explanation:  # else it only looks like one: nobody can log in
                self._note("if this is your account, log in with its password; Enter alone gives up")
                password = ""
                break
            if reply.code not in ASKS_AGAIN:
                return
            if reply.code in LATER:
                yield Pause(reply.wait)
        yield from self.logging_in(name, password, known=True)

    def changing_password(self, name: str) -> Dialogue:
        """Change the password; the old one is asked for again only if that was wrong."""
        old = ""
        while True:
            old = old or (yield Ask("Old password: "))
            if not old:
                self._note(NOTHING_DONE)
                return
            new = yield from self._new_password("New password: ", name)
            if not new:
                return
            reply = yield Await(self._session.passwd(old, new))
            if isinstance(reply, protocol.Answer):
                return
            if reply.code not in ASKS_AGAIN:
                return
            if reply.code != protocol.Code.BAD_PASSWORD.word:
                old = ""
            if reply.code in LATER:
                yield Pause(reply.wait)

    def _given_or_asked(self, prompt: str) -> Generator[Ask, str, str]:
        """The secret that was given, or one that is asked for; "" if that is given up.

        For a person the secret is that of the first login, and no other: a later one may be somebody else's.
        """
        secret = self._secret
        if self._interactive:
            self._secret = None
        password = secret if secret is not None else (yield Ask(prompt))
        if not password:
            self._note(NOTHING_DONE)
        return password

    def _new_password(self, prompt: str, name: str) -> Generator[Ask, str, str]:
        """A password that was typed twice alike, once if it is too short or the name; "" if that is given up."""
        while first := (yield Ask(prompt)):
            if protocol.password_fault(first, name):
                return first
            again = yield Ask("Repeat password: ")
            if again == first:
                return first
            if not again:
                break
            self._note("the two are not the same: once more, please", failed=True)
        self._note(NOTHING_DONE)
        return ""

    def _logged_in_as(self) -> str:
        """The own name, if a login would be refused because of it; "" too while a LOGOUT may be on its way."""
        others = self._session.unanswered - len(self._session.undelivered)
        return (self._session.name or "") if self._session.logged_in and not others else ""


# --- Who gets what is typed -------------------------------------------------------------------------------------------

KNOWN_MAX = 1_000  # people whose name before a colon tells whom a line is meant for, also when they have left
LINES_ASKED = 10  # lines of one message above which a person is asked: a block may have been pasted by mistake
UNSENT = "this was not sent: it looks like a command with a password, such as /login NAME"
WORDS_FOR_EVERYONE = protocol.WORDS_FOR_PEOPLE - {"you"}  # answers that mean EVERYONE, if nobody is called so
ONLY_A_NAME = "that is no name: type the name alone, or a command"
QUOTED_MAX = 60  # characters of a text that stand in a question about it


def quoted(text: str) -> str:
    """The beginning of a text, for a question about it; not of one that may hold a password."""
    return "this" if looks_secret(text) else f'"{one_line(cut(text, QUOTED_MAX))}"'


def sending_question(text: str, to: str) -> str:
    """The question whether a text is for this recipient."""
    return f"send {quoted(text)} to {to_words(to)}?"


def nobody(name: str) -> str:
    """The refusal of a name that cannot be one."""
    return f"nobody called {one_line(name)} is known here"


class Recipients:
    """The recipient of each text: the one in the prompt, or the one that the text names, or the one that is asked for.

    Nothing is sent before the person has seen to whom; a doubt is a question.
    """

    def __init__(self, session: ClientSession, front: Front, note: Tell, to: str | None) -> None:
        """`to` gets what names nobody; from a pipe it gets every line."""
        self._session, self._front, self._note = session, front, note
        self.to = to
        self.takes_all = to is not None and not front.interactive  # whether every line is a text for `to`
        self.newest: Message | None = None  # the last message from somebody
        self._known: deque[str] = deque(maxlen=KNOWN_MAX)  # people who are or were here lately
        self._words: set[str] = set()  # words before a colon that are no names, as the person has said

    def forget(self) -> None:
        """Forget whom the person writes to. The names of others who are or were here are no secret, and keep a line for
        one of them from going to somebody else."""
        self.to, self.newest = None, None
        self._words.clear()

    # Names

    def meet(self, names: Iterable[str]) -> None:
        """These are or were here. The recipient that --to named may be written otherwise."""
        self._known.extend(names)
        self.to = self.to and self.resolved(self.to)

    @property
    def answer_to(self) -> str:
        """The recipients of an answer to the newest message, all who had it; "" if there is none."""
        if self.newest is None:
            return ""
        others = [name for name in self.newest.reply_to.split(",") if name != self._session.name]
        return ",".join(others) or self.newest.sender

    def known(self, name: str) -> str | None:
        """Somebody who is here, or was a moment ago, as the server writes the name; None if there is nobody.

        Also several with commas, of whom all must be known, and EVERYONE.
        """
        if name == EVERYONE:
            return EVERYONE
        if "," in name:
            names = [None if each == EVERYONE else self.known(each) for each in name.split(",")]
            return None if None in names else ",".join(filter(None, names))
        if protocol.clean_name(name) is None:
            return None
        here = (known for known in (*self._session.roster, *self._known) if fold(known) == fold(name))
        return next(here, None)

    def expand(self, word: str) -> tuple[str, str] | None:
        """The text and recipient that the first word of a line stands for, see `Expander`. So the person whom `/r`
        means stands in the line before anything more is typed, whoever writes meanwhile."""
        if word == "/r" and self.answer_to:
            return "", "/all " if self.answer_to == EVERYONE else f"/msg {self.answer_to} "
        if word.startswith("@") and is_recipient(bare_name(word)):
            to = self.resolved(bare_name(word))
            return "", "/all " if to == EVERYONE else f"/msg {to} "
        known = self.known(word[:-1]) if word.endswith(":") and word != f"{EVERYONE}:" else None
        return (known, "") if known is not None else None

    def complete(self, before: str, *, person: bool) -> tuple[int, Sequence[str]]:
        """Candidates for Tab behind `before`. person: only names, as an answer. Nobody is offered without a letter."""
        roster = self._session.roster if before else {}
        last_sender = self.newest.sender if self.newest else ""

        def place(name: str) -> tuple[bool, bool, bool, str]:
            """The last sender comes first, then those who are online, and oneself at the end."""
            return name != last_sender, name == self._session.name, roster[name], fold(name)

        names = sorted(roster, key=place)
        if person:
            return 0, [name for name in names if fold(name).startswith(fold(before))]
        return complete_word(before, [f"/{word}" for word in TYPED] if before else [], expected_words(before, names))

    def aim(self, name: str) -> None:
        """Plain text goes to `name` from now on; to nobody if that is empty."""
        self.to = self.resolved(name) or None
        gone, absent = "", absent_names(self._session, self.to) if self.to else []
        if absent:
            who = f"of whom {people_words(absent)}" if "," in name else "who"
            gone = f", {who} {'is' if len(absent) == 1 else 'are'} not online"
        self._note(f"what you type goes to {to_words(self.to) if self.to else 'nobody'}{gone}")

    def resolved(self, to: str) -> str:
        """A recipient with each known name as the server writes it. A person who says `all` means EVERYONE, if nobody
        known is called so."""
        if self._front.interactive and fold(to) in WORDS_FOR_EVERYONE and self.known(to) is None:
            return EVERYONE
        return ",".join(self.known(name) or name for name in to.split(","))

    # Texts

    def say_from_pipe(self, text: str) -> None:
        """`bob: hi` goes to bob and makes him the recipient, if there is somebody of that name; else to nobody."""
        name, colon, rest = text.partition(":")
        known = self.known(name) if colon and name != EVERYONE else None
        if known is None and colon and not self._session.roster and named_by(text) == name:
            known = name  # nobody is known before the login is answered
        if looks_secret(text):
            self._note(UNSENT, failed=True)
        elif known is not None and not rest.strip():
            self.aim(known)
        elif known is not None:
            self.to = known
            self._session.send(known, rest.removeprefix(" "))
        elif self.to is None:
            self._note("to whom? SEND NAME TEXT, or /to NAME first; /help lists the commands", failed=True)
        elif name := named_by(text):
            self._note(f"{nobody(name)}; for {self.to}: SEND {self.to} {name}: …", failed=True)
        else:
            self._session.send(self.to, text)

    def saying(self, typed: Line) -> Dialogue:
        """Send what a person has typed, as soon as it is clear to whom, and that it is meant."""
        line, to = typed, typed.to or self.to
        known, rest = self._addressee(line)
        if known is not None and not rest.strip():
            self.aim(known)
            return
        if to is None and known is not None and not self._front.edits:  # there is no prompt that could tell it before
            line, to = Line(rest.removeprefix(" "), known), known
        elif to is None or (known is not None and fold(known) != fold(to)):
            to = yield from self._whom(line, [name for name in (known, to) if name is not None])
            named = to is not None and known is not None and fold(to) == fold(known)
            line = Line(rest.removeprefix(" ") if named else line.text, to or "", line.block)
        doubt = self._doubt(line, to) if to is not None else ""
        if to is None or not (yield from self._is_sure(line, to, doubt)):
            self.tell_unsent(typed)
            return
        if self._doubt(line, to) not in ("", doubt):  # somebody has come or gone meanwhile
            yield from self.saying(line)
            return
        if line.to and not typed.text.startswith("@"):
            self.to = to
        self._session.send(to, line.text)

    def confirming(self, to: str, text: str) -> Dialogue:
        """Send text whose recipient the person has not seen before Enter, if that is right."""
        line = Line(text, to)
        if (yield from self._is_sure(line, to, "" if looks_secret(text) else sending_question(text, to))):
            self._session.send(self.resolved(to), text)
        else:
            self.tell_unsent(line)

    def tell_unsent(self, line: Line) -> None:
        """Say that a line was not sent, and how to have it again: what is typed next must not be added to it."""
        again = "; the Up arrow brings it back" if self._front.edits and not holds_secret(line) else ""
        self._note(NOTHING_SENT + again)

    def _addressee(self, line: Line) -> tuple[str | None, str]:
        """Somebody known here whom the text itself names, `bob: hi` or `@bob hi`, and what stands behind the name."""
        found = re.match(r"@([^\s:@]+):?(?!\S)|([^\s:@]+):", line.text)
        if found is None or line.to or line.block or EVERYONE in (found[1], found[2]):
            return None, ""
        return self.known(found[1] or found[2]), line.text[found.end() :]

    def _whom(self, line: Line, offered: list[str]) -> Generator[Ask, str, str | None]:
        """Ask for a recipient, however it is written; None if that is given up. `offered` may be chosen in any case."""
        others = sorted((name for name in self._session.roster if name != self._session.name), key=fold)
        here = f"here: {people_words(others)}; * is everybody" if others else "nobody else is here"
        stranger = "" if offered or line.block else named_by(line.text)
        why = f"{nobody(stranger)}; " if stranger else ""
        either = f", {' or '.join(map(to_words, offered))}? " if len(offered) == 2 else f"? ({here}) "
        question = f"{why}to whom is {quoted(line.text)}{either}"
        while answer := (yield Ask(question, hidden=False)).strip():
            name = bare_name(re.sub(r"^/(to|msg)\s+", "", answer))
            choices = [choice for choice in offered if fold(name) in (fold(choice), fold(to_words(choice)))]
            if len(offered) < 2 and not choices and name.lower() not in (*YES, *NO):
                known = self.known(self.resolved(name))
                choices = [known] if known is not None else []
            if choices:
                return choices[0]
            is_more = re.search(r"[\s:]", name)
            self._note(f"{ONLY_A_NAME if is_more else nobody(name)}; Enter alone sends nothing", failed=True)
        return None

    def _is_sure(self, line: Line, to: str, doubt: str) -> Generator[Ask, str, bool]:
        """Whether the person means this text, and for `to`. A word that is no name is asked about once."""
        secret = f"this looks like a command with a password; send it to {to_words(to)}?"
        if looks_secret(line.text) and not (yield from is_meant(secret, self._note)):
            return False
        if doubt and not (yield from agrees(doubt)):
            return False
        name = named_by(line.text)
        if doubt.startswith(nobody(name)):
            self._words.add(fold(name))
        return True

    def _doubt(self, line: Line, to: str) -> str:
        """A question, if a text may not be meant for `to` as it is."""
        lines = line.text.count("\n") + 1
        if lines > LINES_ASKED:
            return f"send {lines} lines to {to_words(to)}?"
        elsewhere = line.dropped and not line.to and fold(to) != fold(line.dropped)
        question = sending_question(line.text, to)
        if elsewhere or (line.unseen and fold(to) != fold(self.to or "")):
            return question
        name = "" if line.to or line.block else named_by(line.text)
        known = self.known(name)
        if not name or fold(name) == fold(to) or (not known and fold(name) in self._words):
            return ""
        return question if known else f"{nobody(name)}; {question}"


# --- What the lines mean ----------------------------------------------------------------------------------------------

FIRST_HINT = "/login NAME, or /register NAME if you are new here; /help lists the commands"


class LeavingStage(enum.Enum):
    """How far somebody has left."""

    HERE = "nobody wants to leave"
    SETTLING = "what was asked is being answered"
    LOGGING_OUT = "a LOGOUT is being answered"
    GONE = "it is over"


class Leaving:
    """The way out, in stages; each has its patience.

    what happens                          HERE            SETTLING                            LOGGING_OUT
    /quit, Ctrl-C, SIGTERM,
      or a script is logged in no more    SETTLING        GONE                                GONE
    end of the input, closed terminal,
      output that cannot be written       SETTLING        stays                               stays
    all is answered, or patience ends     stays           LOGGING_OUT; GONE if not logged in  GONE
    """

    def __init__(self, link: Link, *, interactive: bool) -> None:
        self._link, self._interactive = link, interactive
        self.stage = LeavingStage.HERE
        self.deadline: float | None = None  # end of the patience of this stage
        self.signals: deque[bool] = deque()  # signals that were not dealt with yet, each with whether it insists
        self._logout = 0  # tag of our own LOGOUT: that it has no answer is no failure
        self._stays = False  # whether a first contact that is waited for is needed before leaving: a pipe has ended

    def begin(self, patience: float | None, *, insists: bool) -> bool:
        """Somebody wants to leave; when all is answered, at most `patience` seconds later. True if that is new.

        insists: at once, if it was said before."""
        new = self.stage is LeavingStage.HERE
        if new:
            usual = LEAVE_SECONDS if self._interactive else PIPE_LEAVE_SECONDS
            self._stays = patience is None and not self._interactive
            self._enter(LeavingStage.SETTLING, usual if patience is None else patience)
        elif insists:
            self._link.session.abandon()  # what has no answer yet has failed
            self._enter(LeavingStage.GONE, 0.0)
        return new

    def tick(self) -> None:
        """Go on when all is answered or the patience has ended. A command without an answer has then failed."""
        session = self._link.session
        if self.stage not in (LeavingStage.SETTLING, LeavingStage.LOGGING_OUT):
            return
        if self._stays and self._link.awaits_server:
            self._enter(LeavingStage.SETTLING, PIPE_LEAVE_SECONDS)  # which begin when it is there
        is_new = not self._link.has_met or (not self._interactive and session.greets)  # a script wants to know the end
        waits = session.unanswered or is_new
        if waits and self.deadline is not None and self._link.now() < self.deadline:
            return
        session.abandon()
        if self.stage is LeavingStage.SETTLING and session.logged_in:
            self._logout = session.logout()
            self._enter(LeavingStage.LOGGING_OUT, LOGOUT_SECONDS if self._interactive else PIPE_LOGOUT_SECONDS)
        else:
            self._enter(LeavingStage.GONE, 0.0)

    def owns(self, event: Printable) -> bool:
        """Whether an event is about our own LOGOUT, which nobody has asked for."""
        return isinstance(event, protocol.Refused) and event.tag != 0 and event.tag == self._logout

    def _enter(self, stage: LeavingStage, patience: float) -> None:
        self.stage, self.deadline = stage, self._link.now() + patience


class Chat:
    """Joins a front end and a link: lines that were typed become commands, and events are shown.

    The person's side is in parts: `Dialogues` asks, `Accounts` and `Recipients` know what to ask, `Leaving` ends it.
    """

    def __init__(
        self,
        link: Link,
        front: Front,
        *,
        to: str | None,
        secret: str | None,
        tls: Tls,
        log: Writer | None = None,
        before: Iterable[tuple[Saying, str | None]] = (),
    ) -> None:
        """`to` gets what is no command, `secret` stands in for a password that was left out, `tls` hears what a person
        says about a certificate, `log` gets a copy of what is shown; `before` is what it has already."""
        self.link, self.front, self.session, self.tls = link, front, link.session, tls
        self.dialogues = Dialogues(front, link.now, self.note, self._obey_aside)
        self.accounts = Accounts(self.session, self.note, secret, interactive=front.interactive)
        self.recipients = Recipients(self.session, front, self.note, to)
        self.leaving = Leaving(link, interactive=front.interactive)
        self.failed = False  # whether any command or message failed
        self.status: int | None = None  # the exit status, once it is over
        self.last_words = ""  # why there was not even a first contact
        self.quiet = False  # whether comings and goings are hidden
        self.bell = Bell()
        self._said = Said(before)
        self._log = None if log is None else Log(log)
        self._met = False  # whether a server has answered
        self._told = False  # whether the person knows that the server is waited for
        self._distrusts = False  # whether the server has shown a certificate that a script cannot ask about
        self._person = ""  # name under which something was said and typed here; "" if there is none

    def run(self, user: str | None) -> int:
        """Until it is over; the exit status. `user` is logged in at the start."""
        self.begin(user)
        while self.status is None:
            self.turn()
        return self.status

    def begin(self, user: str | None) -> None:
        """Once, before the first turn."""
        self.front.start(self.link, self.recipients, self.dialogues.answer)
        if self.front.interactive and not self.front.edits:  # where a prompt is drawn, it says so
            self.note(f"connecting to {self.link.host} port {self.link.port} …")
        before = self._said.of(None, None)
        if before and self.front.interactive:
            last, names = zip(*before[-SAID_AGAIN:], strict=True)
            self.front.show(Recalled(f"{recalled_title(len(last), len(before))} in the log", last, True, names))
        if user is not None:
            with self._while_showing():
                self.do_login(user, patient=not self.front.interactive)  # a script was perhaps here a moment ago

    def turn(self, until: float | None = None) -> None:
        """Wait until something happens, at the latest `until`, and deal with it."""
        self.link.wait(earliest(until, self.leaving.deadline, self.dialogues.deadline, self.front.deadline()))
        while self.leaving.signals:
            insists = self.leaving.signals.popleft()
            self.leave(LEAVE_SECONDS if self.link.is_up else 0.0, insists=insists)
        with self._while_showing():
            self.dialogues.tick()
            while (self.session.has_room or self.front.interactive) and (lines := self.front.lines()):
                self._take_line(lines[0])
        self.link.tick()
        self._show_events()
        self.link.flush()
        self.leaving.tick()
        if self.leaving.stage is LeavingStage.GONE and self.status is None:
            self._show_events()
            self.status = 2 if self._distrusts else int(self.failed and not self.front.interactive)

    def _show_events(self) -> None:
        with self._while_showing():
            ready = not self.front.settles() or self.leaving.stage is not LeavingStage.HERE
            for event in self.link.take_events() if ready else ():  # those that wait are not acknowledged
                if self.status is None:  # after the end nothing is shown that only follows from it
                    self._react(event)
            if self.link.shows:
                self.front.flush(self.recipients.to)

    @contextlib.contextmanager
    def _while_showing(self) -> Iterator[None]:
        """Leave if the output cannot be written: from then on nothing is shown, and no message counts as shown."""
        try:
            yield
        except OSError as error:
            if error.errno not in READER_GONE:
                self.failed, self.last_words = True, f"what happens cannot be written: {error.strerror}"
            self.link.shows = False
            self.leave(insists=False)

    # Lines

    def _take_line(self, line: Line | None) -> None:
        if self.front.interactive:
            self.link.dial_soon()
            if line is not None and not line.text.strip() and not line.to:
                self.tls.refuse("")
        if line is None:
            self.leave(insists=False)  # QUIT may have been the last line
        elif self.recipients.takes_all and self.recipients.to is not None:
            if line.text:  # an empty message is none, and logs are full of empty lines
                self.session.send(self.recipients.to, line.text)
        elif line.text.strip() or line.to:
            self.do(line)

    def do(self, line: Line) -> None:
        """A line that was typed: a command with a slash, a command as on the wire, or text.

        A block, and a line that has its recipient already, is text whatever it looks like."""
        text = line.text.lstrip()  # a space before a command was not meant, and a password may follow
        word, rest = first_word(text)
        typed = read_command(text)
        if line.to or line.block:
            self._say(line)
        elif word.startswith("//"):
            self._say(line._replace(text=text[1:]))
        elif typed.name and (typed.exact or self.front.interactive):
            self._do_command(word, typed, line)
        elif word.startswith("/"):
            self._refuse(unknown_words(word), hide=len(rest.split()) < 2 and is_unknown(word))
        elif self.front.interactive and command_name(word) in ("quit", "help", "logout") and not rest.strip():
            usage = TYPED[command_name(word)].usage
            self.note(f"this was not sent; the command is {usage}; as a message: /msg NAME {word}", failed=True)
        elif word[:1] == "@" and rest and not self.front.edits:
            self.do_msg(f"{bare_name(word)} {rest}")
        else:
            self._say(line)

    def _do_command(self, word: str, typed: Reading, line: Line) -> None:
        """Do what a command says, or say how it is used."""
        usage, rest, secret = TYPED[typed.name].usage, typed.rest.lstrip(), typed.name in SECRETS
        if not typed.exact:
            start = f"there is no {one_line(word)}" if word.startswith("/") else "this was not sent"
            self.note(f"{start}: it is taken for /{typed.name}; Enter alone does nothing", failed=True)
        names, most = rest.split(), 0 if typed.name == "passwd" else 1
        if secret and self.front.interactive and word not in BARE and len(names) > most:
            right = TYPED[typed.name].typed
            self.note(f"a password is asked for without showing it, and a name has no spaces: {right}", failed=True)
            rest = " ".join(names[:most])  # in BARE commands, those of the wire, a password may stand
        to, text = (EVERYONE, rest) if typed.name == "all" else first_word(rest)
        if line.unseen and typed.name in ("msg", "all") and text:
            self.dialogues.begin(self.recipients.confirming(self.recipients.resolved(bare_name(to)), text))
        elif not TYPED[typed.name].fits(rest) or getattr(self, f"do_{typed.name}")(rest) is False:
            if word in BARE:  # as it was written
                usage = re.sub(r"^/\S+", word, usage.split(" or ")[-1])
            self._refuse(f"it is used like this: {usage}", hide=secret)

    def _obey_aside(self, answer: str, question: Ask) -> bool:
        """Do an answer that is a command, such as /who; False if it is none. `/to bob` and `@bob` are answers like bob,
        `/msg bob hi` and `@bob hi` are not."""
        answer = re.sub(r"^\s*@(?=\S+\s+\S)", "/msg ", answer) if not question.hidden else answer
        typed = read_command(answer)
        has_text = typed.name == "msg" and len(typed.rest.split()) > 1
        is_answer = typed.name in ("to", "msg") and not has_text and not question.hidden
        if typed.name not in question.obeys or not typed.exact or is_answer:
            return False
        if question.hidden and not is_bare_command(answer):
            return False
        self.do(Line(answer))
        return True

    def _refuse(self, words: str, *, hide: bool = True) -> None:
        """Say why something is not done. `hide`: a password may follow all the same, which nobody has asked for."""
        self.note(words, failed=True)
        if hide and self.front.interactive:
            self.dialogues.begin(hiding(self.note))

    def _say(self, line: Line) -> None:
        """Send a text to the recipient in the prompt. Without a recipient one is asked for."""
        if not self.front.interactive:
            self.recipients.say_from_pipe(line.text)
        elif self.session.name is None and looks_secret(line.text):
            self._refuse(UNSENT)
        elif self.session.name is None:
            waits = "the login is not answered yet" if self.session.unanswered else f"log in first: {FIRST_HINT}"
            self.note(waits, failed=True)
            self.recipients.tell_unsent(line)
        elif line.to and not line.text.strip():
            self.recipients.aim(line.to)
        else:
            self.dialogues.begin(self.recipients.saying(line))

    def note(self, words: str, *, failed: bool = False) -> None:
        """Words of our own."""
        self._react(Note(words, failed))

    # Commands, see TypedCommand

    def do_login(self, rest: str, *, patient: bool = False) -> None:
        name, password = first_word(rest)
        self._account(name, password, self.accounts.logging_in(name, password, patient=patient))

    def do_takeover(self, rest: str) -> None:
        name, password = first_word(rest)
        self._account(name, password, self.accounts.logging_in(name, password, takeover=True))

    def do_register(self, rest: str) -> None:
        """A person is then logged in; a script says so itself."""
        name, password = first_word(rest)
        self._account(name, password, self.accounts.registering(name, password), new=True)

    def _account(self, name: str, password: str, dialogue: Dialogue, *, new: bool = False) -> None:
        fault = "" if password or not self.front.interactive else self.accounts.fault(name, new=new)
        if fault:
            self._refuse(fault)
        else:
            self.dialogues.begin(dialogue)

    def do_passwd(self, rest: str) -> bool:
        old, _, new = rest.partition(" ")
        if rest and new and " " not in new:
            self.session.passwd(old, new)
        elif rest or not self.front.interactive:
            return False
        elif self.session.name is None:
            self._refuse(f"log in first: {FIRST_HINT}")
        else:
            self.dialogues.begin(self.accounts.changing_password(self.session.name))
        return True

    def do_logout(self, rest: str) -> None:
        self.session.logout()

    def do_who(self, rest: str) -> None:
        self.session.who()

    def do_ping(self, rest: str) -> None:
        self.session.ping(rest)

    def do_msg(self, rest: str) -> bool:
        to, text = first_word(rest)
        if name := bare_name(to):
            self._send(name, text, asks=looks_secret(text))
        return name != ""

    def _send(self, to: str, text: str, *, asks: bool) -> None:
        """Send a text that stood behind a command. asks: whether a person is asked before."""
        if asks and self.front.interactive:
            self.dialogues.begin(self.recipients.confirming(to, text))
        else:
            self.session.send(self.recipients.resolved(to), text)

    def do_all(self, rest: str) -> None:
        self._send(EVERYONE, rest, asks=looks_secret(rest))

    def do_r(self, rest: str) -> None:
        """To all who had the newest message. It is asked about: `/r` that is typed key by key becomes `/msg NAME`."""
        if to := self.recipients.answer_to:
            self._send(to, rest, asks=True)
        else:
            self.note("nobody has written yet", failed=True)

    def do_to(self, rest: str) -> bool:
        name = bare_name(rest.strip())  # a completed name has a space behind it
        if name and not is_recipient(name):
            return False
        self.recipients.aim(name)
        return True

    def do_me(self, rest: str) -> None:
        """A message that says what one does."""
        name = self.session.name or self.accounts.name or "somebody"  # in a pipe the LOGIN may be on its way
        self._say(Line(f"* {name} {rest}"))

    def do_quiet(self, rest: str) -> None:
        self.quiet = not self.quiet
        self.note("comings and goings are hidden" if self.quiet else "comings and goings are shown")

    def do_bell(self, rest: str) -> bool:
        """The ways to be called: one of BELLS, else as before; `desktop` and `text` only if they are named."""
        words = set(rest.split())
        when = words & BELLS.keys()
        if len(when) > 1 or words - when - {"desktop", "text"}:
            return False
        if words:
            self.bell = Bell(when.pop() if when else self.bell.when, "desktop" in words, "text" in words)
        self.note(bell_words(self.bell))
        return True

    def do_history(self, rest: str) -> bool:
        """Print the last messages again: so many, and of one conversation if it is named."""
        words = rest.split()
        count = int(words.pop()[:9]) if words and re.fullmatch("[0-9]+", words[-1]) else SAID_AGAIN
        to = self.recipients.resolved(bare_name(words[0])) if words else None
        if len(words) > 1 or not count or (to is not None and not is_recipient(to)):
            return False
        if not self.front.interactive:
            self.note("/history is for a person at a terminal: a pipe has had every line", failed=True)
            return True
        me = self.session.name
        waiting = [protocol.Waiting(each.tag, each.name, each.text) for each in self.session.undelivered]
        wanted = [w for w in waiting if to is None or parties(w, me) == conversation(to, me)]
        said = [*self._said.of(to, me), *((w, me) for w in wanted)]
        last = tuple(said[-count:])
        where = f" {'to' if to == EVERYONE else 'with'} {to_words(to, me)}" if to else ""
        if last and self.link.shows:
            events, names = zip(*last, strict=True)
            self.front.show(Recalled(recalled_title(len(last), len(said)) + where, events, names=names))
        elif not last:
            self.note(f"no messages{where} yet")
        return True

    def do_clear(self, rest: str) -> None:
        self.front.clear()

    def do_help(self, rest: str) -> None:
        name = rest.strip().lstrip("/")
        words = help_words(command_name(name), edits=self.front.edits)
        self.note(words or f"there is no /{name}; /help lists the commands", failed=not words)

    def do_quit(self, rest: str) -> None:
        self.leave()

    # Events

    def _react(self, event: Printable) -> None:
        """Show an event, and do what follows from it."""
        if self.leaving.owns(event):
            return
        if self.link.awaits_server and isinstance(event, (Dialling, protocol.LinkLost, protocol.Waiting)):
            self._tell_once(getattr(event, "words", ""))
            return
        fault = "" if self._met else self._first_contact_fault(event)
        if fault:
            self.last_words, self.status = "\n".join(map(one_line, fault.split("\n"))), 2
            return
        self.failed |= isinstance(event, (protocol.Refused, protocol.Failed)) or getattr(event, "failed", False) is True
        event = self._timed(event)
        self._write_log(event)
        hides = isinstance(event, Untrusted) or (self.quiet and isinstance(event, protocol.Presence))
        if self.link.shows and not hides:
            self.front.show(event)
        follow = REACTIONS.get(type(event))
        if follow is not None:
            follow(self, event)
        self.dialogues.hear(event)

    def _tell_once(self, trouble: str) -> None:
        """Say that the server is waited for, and why: one line, however often it is tried."""
        if trouble and not self._told:
            self._told = True
            self.note(f"{trouble}; trying until the server is there, Ctrl-C{' twice' * self.front.edits} ends it")

    def _first_contact_fault(self, event: Printable) -> str:
        """Why there is no server, if this ends a first contact. A person waits for one that hangs up without a word."""
        if isinstance(event, (Unreachable, protocol.NotVessages)) or (
            isinstance(event, Untrusted) and not (self.front.interactive and event.new)
        ):
            return event.words
        if isinstance(event, protocol.LinkLost) and not event.bye and not self.front.interactive:
            return event.words
        return ""

    def _timed(self, event: Printable) -> Printable:
        """A person is told with the answer to a PING how long it took, and whether the connection is encrypted. A
        script may wait for the words that it has sent, and no others."""
        if not isinstance(event, protocol.Answer) or event.verb != "PING" or not self.front.interactive:
            return event
        how = "encrypted" if self.link.encrypts else "not encrypted"
        return event._replace(words=f"{event.words} {1000 * self.session.echo:.1f} ms, {how}".lstrip())

    def _distrust(self, event: Untrusted) -> None:
        """The server does not show the right certificate. A person is asked, or waits for it; a script is over."""
        if self.front.interactive and not event.new:
            self.link.go_on(soon=False, words=event.words)
        elif self.front.interactive:
            self.link.asks_trust = True
            self.dialogues.interrupt(self._trusting(event))
        else:
            self.last_words, self._distrusts = one_line(event.words), True
            self.session.abandon()  # each message has its fate, also when somebody was leaving already
            self.leave(0.0)

    def _trusting(self, event: Untrusted) -> Dialogue:
        self.note(certificate_words(f"{self.link.host} port {self.link.port}", event), failed=bool(event.old))
        if (yield from trusting("trust the new certificate?" if event.old else "trust it?", self.note)):
            self.note(self.tls.trust(event.new))
            self.link.go_on(soon=True)
        elif self._met:
            self.tls.refuse(event.new)
            self.note("not trusted: the server has to show its old certificate; Enter alone asks again, /quit leaves")
            self.link.go_on(soon=False)
        else:
            self.last_words, self.status = NOT_TRUSTED, 2

    def _linked(self, event: protocol.Linked) -> None:
        if not self._met and self.front.interactive and not self.dialogues.under_way:
            self.note(FIRST_HINT)
        self._met, self.link.awaits_server = True, False

    def _logged_in(self, event: protocol.LoggedIn) -> None:
        if self._person not in ("", event.name):
            self._forget_person()
        self._person = event.name

    def _answered(self, event: protocol.Answer) -> None:
        if event.verb == "LOGOUT":
            self._forget_person()

    def _forget_person(self) -> None:
        """Somebody else may sit here from now on: forget all that was said and typed under the name before.

        A script stays the same, and its next lines may have been read before the answer to its LOGOUT came.
        """
        self._person = ""
        if self.front.interactive:
            self._said = Said()
            self.recipients.forget()
            self.front.forget()

    def _changed(self, event: protocol.Presence) -> None:
        self.recipients.meet((*event.came, *event.left))
        if self.bell.when == "all":
            self.front.call(self.bell)

    def _remember(self, event: Saying) -> None:
        if self.front.interactive:
            self._said.add(event, self.session.name)

    def _heard(self, event: protocol.Message) -> None:
        self._remember(event)
        self.recipients.newest = event
        self.front.call(self.bell, event)

    def _lost(self, event: protocol.LinkLost) -> None:
        if event.bye == protocol.Bye.REPLACED.value:
            self._is_out(event)
            if self.front.interactive:
                self.note(f"/takeover {self._person} brings the session back here")

    def _is_out(self, event: protocol.LoginNeeded | protocol.LinkLost) -> None:
        """Nobody is logged in any more. A person can do something about it; a pipe is at its end."""
        if not self.front.interactive:
            self.failed = True
            self.leave(0.0)

    def _write_log(self, event: Printable) -> None:
        try:
            if self._log is not None:
                self._log.write(event, self.session.wall + self.session.lead)
        except OSError as error:
            self.note(f"the log cannot be written: {error.strerror}; it goes on as soon as it can", failed=True)

    # Leaving

    def interrupt(self) -> None:
        """Ctrl-C or SIGTERM, in the middle of anything: remember it and wake the loop."""
        self.leaving.signals.append(True)
        self.link.wake()

    def hang_up(self) -> None:
        """The terminal was closed. The system and the shell both say so, which does not mean that it is urgent."""
        self.leaving.signals.append(False)
        self.link.wake()

    def leave(self, patience: float | None = None, *, insists: bool = True) -> None:
        """Log out and go: see `Leaving`."""
        waits = self.front.interactive and self.session.unanswered
        if self.leaving.begin(patience, insists=insists) and waits and patience != 0:
            seconds = LEAVE_SECONDS if patience is None else patience
            self.note(f"leaving when all is answered, {seconds:.0f} s at the most; once more leaves at once")


# The consequences of an event, beside its being shown.
REACTIONS: dict[type, Callable[[Chat, Any], None]] = {
    protocol.Linked: Chat._linked,
    protocol.LoggedIn: Chat._logged_in,
    protocol.Roster: lambda chat, e: chat.recipients.meet((*e.online, *e.lost)),
    protocol.Presence: Chat._changed,
    protocol.Back: lambda chat, e: chat.recipients.meet(e.changes.left),
    protocol.Message: Chat._heard,
    protocol.Delivered: Chat._remember,
    protocol.Failed: Chat._remember,
    protocol.Answer: Chat._answered,
    protocol.LoginNeeded: Chat._is_out,
    protocol.LinkLost: Chat._lost,
    Untrusted: Chat._distrust,
}


# --- The command line -------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        complain(f"{self.prog}: {message}. Use it like this: {PYTHON} client.py 192.168.1.5 5000 (or --help)")
        self.exit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        with contextlib.suppress(OSError):  # nobody reads: argparse itself does so from Python 3.11 on
            super()._print_message(message, file)


def arguments_of(argv: list[str]) -> argparse.Namespace:
    """The command line, understood; what is wrong with it goes to standard error, with status 2."""
    parser = Parser(
        prog="client.py",
        allow_abbrev=False,
        description="Chat on a Vessages server.",
        epilog=f"Example: {PYTHON} client.py 192.168.1.5 5000. Passwords are asked for; scripts put theirs into the "
        "environment as VESSAGES_PASSWORD or into a file.",
    )
    parser.add_argument("host", metavar="HOST", type=host_name, help="the server's name or address")
    parser.add_argument("port", metavar="PORT", type=port_number, help="its port, like 5000")
    parser.add_argument("--user", metavar="NAME", help="log in as NAME at once")
    parser.add_argument("--password-file", metavar="FILE", type=Path, help="the password is the first line of FILE")
    to = "send what is typed to NAME, to BOB,EVE or to *, everybody; from a pipe every line is a message"
    parser.add_argument("--to", metavar="NAME", help=to)
    tls = parser.add_mutually_exclusive_group()
    always = "encrypt or fail, and ask about every certificate that is new (else: encrypt if the server can)"
    tls.add_argument("--tls", action="store_true", default=None, help=always)
    tls.add_argument("--no-tls", dest="tls", action="store_false", help="do not encrypt")
    parser.add_argument("--ca", metavar="FILE", type=Path, help="encrypt, and trust what this CA has signed, only that")
    parser.add_argument("--wait", action="store_true", help="try until the server is there")
    parser.add_argument("--plain", action="store_true", help="one event a line, as in a pipe")
    parser.add_argument("--json", action="store_true", help="as --plain, each line a JSON object")
    parser.add_argument("--log", metavar="FILE", type=Path, help="append all that is shown to FILE")
    parser.add_argument("--version", action="version", version=f"Vessages {protocol.VERSION}")
    options = parser.parse_args(argv)
    if options.ca and options.tls is False:
        parser.error("--ca is for encryption, which --no-tls forbids")
    if options.user is not None and protocol.clean_name(options.user) is None:
        parser.error(f"{options.user!r} cannot be anybody's name")
    if options.to is not None and not is_recipient(options.to):
        parser.error(f"{options.to!r} cannot be anybody's name, nor names with commas and no spaces, nor *")
    return options


def host_name(text: str) -> str:
    """A host of the command line, which is not an address and a port in one word."""
    found = re.fullmatch(r"([^:]+|\[.*\]):([0-9]+)", text)
    if found:
        raise argparse.ArgumentTypeError(f"{text!r} has the port in it: a space parts them, {found[1]} {found[2]}")
    return protocol.bare_host(text)


def port_number(text: str) -> int:
    """A port of the command line."""
    if not (text.isascii() and text.isdecimal() and int(text) in PORTS):
        raise argparse.ArgumentTypeError(f"{text!r} {NO_PORT}")
    return int(text)


def given_secret(file: Path | None) -> str | None:
    """The password of the file or the environment, or None. OSError if the file cannot be read."""
    if file is not None:
        with file.open(encoding="utf-8-sig") as lines:  # Notepad begins with a mark
            return lines.readline(protocol.PASSWORD_MAX + 1).rstrip("\n")
    return os.environ.pop("VESSAGES_PASSWORD", None)


def open_log(file: Path) -> Output:
    """The log, to be appended to. A new one is for its owner only: there will be private messages in it. OSError."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    log = Output(os.fdopen(descriptor, "a", encoding="utf-8"))
    if end_of_file(file, 1) not in (b"", b"\n"):
        log.write("\n")  # behind a line that was cut, by a full disk or a crash
    return log


def close_log(log: Output) -> None:
    """Close it. A file system on a network may say only now that it has not got everything: so is the person told."""
    try:
        log.close()
    except OSError as error:
        complain(f"client.py: the log is not complete: {error.strerror}")


def main(argv: list[str]) -> int:
    """Run a client; the exit status: 0, 1 if a command of a script failed, 2 if there is no server or no sense."""
    with proper_descriptors() as closed:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(encoding=terminal_encoding(stream), errors="backslashreplace")
        try:
            options = arguments_of(argv)
            if 1 in closed:
                complain("client.py: standard output is closed: say >/dev/null if nothing is to be shown")
                return 2
            return run_client(options)
        finally:
            write_the_rest()


def complain(words: str) -> None:
    """A line on standard error, if it can be written there."""
    with contextlib.suppress(OSError):
        print(words, file=sys.stderr)


def write_the_rest() -> None:
    """Write what Python has kept, such as the text of --help. Else Python would try at its very end, and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # takes what is left
            if error.errno not in READER_GONE and stream is sys.stdout:
                complain(f"client.py: standard output cannot be written: {error.strerror}")
                sys.exit(1)


def wants_plain(options: argparse.Namespace) -> bool:
    """Whether there is one event a line: because it was asked for, or nobody could draw a screen."""
    if options.plain or options.json or not (is_terminal(0) and is_terminal(1)):
        return True
    return is_dumb(os.environ, windows=sys.platform == "win32") or not understands_sequences()


def run_client(options: argparse.Namespace) -> int:
    """Chat as the command line says; the exit status."""
    try:
        secret = given_secret(options.password_file)
    except (OSError, UnicodeError) as error:
        advice = "give a file whose first line is the password"
        complain(f"client.py: --password-file {options.password_file}: {file_fault(error)}: {advice}")
        return 2
    try:
        before = said_before(options.log) if options.log else []
        log = open_log(options.log) if options.log else None
    except OSError as error:
        advice = "give a file in a folder that is there, and that you may write to"
        complain(f"client.py: --log {options.log}: {file_fault(error)}: {advice}")
        return 2
    try:
        tls = Tls(options.host, options.port, ca=options.ca, wanted=options.tls)
    except TrustError as error:
        complain(f"client.py: {error}")
        return 2
    out = Output(sys.stdout) if isinstance(sys.stdout, TextIOWrapper) else sys.stdout
    person = is_terminal(0) and not options.json
    if options.to is not None and options.user is None and not person:
        complain("client.py: with --to every line of a pipe is a message: say with --user NAME whose")
        return 2
    front = Plain(out, as_json=options.json, interactive=person) if wants_plain(options) else Terminal(out)
    link = Link(options.host, options.port, ClientSession(int(time.time() * 1_000_000)), dial=tls.dial)
    link.awaits_server = options.wait
    try:
        chat = Chat(link, front, to=options.to, secret=secret, tls=tls, log=log, before=before)
        return chat_to_the_end(chat, options.user)
    finally:
        if log is not None:
            close_log(log)


def chat_to_the_end(chat: Chat, user: str | None) -> int:
    """Run it, and give the terminal back as it was, whatever happens."""
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):  # the last is Ctrl-Break, on Windows only
        heed(name, chat.interrupt)
    heed_closing(chat.hang_up)
    signal.set_wakeup_fd(chat.link.waker, warn_on_full_buffer=False)  # else Windows sleeps on
    try:
        return chat.run(user)
    except RuntimeError as error:  # Python says it so, and of nothing else here
        if "thread" not in str(error):
            raise
        chat.last_words = "the system starts no more threads: end other programs, or raise its limit (ulimit -u)"
        return 2
    finally:
        signal.set_wakeup_fd(-1)
        chat.front.close()
        chat.link.close()
        if chat.last_words:
            complain(f"client.py: {chat.last_words}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
