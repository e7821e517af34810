"""The conversation of Vessages, pure: frames, words, the server's state machine and the client's.

Rules of this file
    It touches nothing: no socket, file, clock, thread, random number or log. Time comes in as an argument, slow
    work goes out as a job and comes back as a result, frames to send wait in an outbox. So whatever happens here
    can be repeated in a test: feed, look.

    Both ends read the same bytes the same way, whole or one at a time.

    What is allowed when is one table (COMMANDS). What is not in it is refused in one place, and a refused command
    changes nothing.

Reading order
    1. Limits, and the words of the wire: `Code`, `Bye`, names, passwords, times.
    2. The frame codec: `frame`, `FrameDecoder`.
    3. The server: `Job`s, `Connection` (a wire), `Session` (a person who is logged in), `Hub` (all of them).
    4. The client: `ClientSession`.
"""

from __future__ import annotations

import enum
import unicodedata
from collections.abc import Iterator
from datetime import datetime, timezone
from struct import Struct

# --- Limits ---------------------------------------------------------------------------------------------------------

KIB, MIB = 1024, 1024 * 1024

# What a client may send: a long paste fits. Before the login only names and passwords have to.
CLIENT_FRAME_MAX = 64 * KIB
STRANGER_FRAME_MAX = 4 * KIB
# What a server may send: a roster of 100,000 names fits.
SERVER_FRAME_MAX = 16 * MIB

NAME_MAX = 32  # characters
NAME_MARKS_MAX = 3  # combining marks on one letter: Devanagari and Thai need two or three, a joker wants thirty
PASSWORD_MIN = 8  # characters; a setting of the server
PASSWORD_MAX = KIB  # bytes of UTF-8
TAG_MAX = 2**53 - 1  # the largest integer that every language's numbers hold exactly

# --- Words ----------------------------------------------------------------------------------------------------------


class Code(enum.Enum):
    """Every error that a server answers with, and its one sentence for a person."""

    BAD_FRAME = "bad-frame", "a frame is 4 bytes of length and then the text, and that length is not allowed here"
    BAD_ENCODING = "bad-encoding", "the text is not valid UTF-8"
    BAD_COMMAND = "bad-command", "there is no such command, or something is missing from it"
    BAD_USERNAME = "bad-username", "a name is 1 to 32 letters of one alphabet, digits and _ . - after a letter or digit"
    BAD_PASSWORD = "bad-password", "a password has at least 8 characters and no line break, and is not the name"
    NAME_TAKEN = "name-taken", "that name is taken, choose another one"
    BAD_LOGIN = "bad-login", "wrong name or password"
    THROTTLED = "throttled", "too many wrong passwords, wait before the next one"
    ALREADY_ONLINE = "already-online", "that name is already online; TAKEOVER ends the other session"
    LOGGED_IN = "logged-in", "you are logged in, LOGOUT first"
    NOT_LOGGED_IN = "not-logged-in", "log in first"
    NOT_ONLINE = "not-online", "nobody of that name is online"
    BUSY = "busy", "too much is waiting, try again soon"
    NOT_DELIVERED = "not-delivered", "the message was not delivered, the recipient has left"
    UNCONFIRMED = "unconfirmed", "the message was sent, but the recipient left without confirming it"
    UNKNOWN_SESSION = "unknown-session", "that session is over, log in with the password"
    TOO_MANY = "too-many", "too many new accounts from your address, wait before the next one"
    CLOSED = "closed", "new accounts are closed on this server, ask whoever runs it"
    STORAGE = "storage", "the server could not save that, tell whoever runs it and try again later"

    def __init__(self, word: str, explanation: str) -> None:
        self.word = word
        self.explanation = explanation


class Bye(enum.Enum):
    """Why a server closes a connection, and what the client does then."""

    SHUTDOWN = "shutdown"  # come back
    SLOW = "slow"  # come back
    SILENT = "silent"  # come back
    FULL = "full"  # come back
    REPLACED = "replaced"  # do not come back: somebody logged in here with TAKEOVER
    RESUMED = "resumed"  # ignore: this client's own newer connection has the session


# Combining marks and letters that nobody sees: two names must not look the same because of them.
INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0")
# Scripts that are written together: the first word of a character's Unicode name -> the alphabet it counts as.
ALPHABETS = {"CJK": "EAST-ASIAN", "IDEOGRAPHIC": "EAST-ASIAN", "HIRAGANA": "EAST-ASIAN", "KATAKANA": "EAST-ASIAN",
             "KATAKANA-HIRAGANA": "EAST-ASIAN"}  # fmt: skip


def fold(name: str) -> str:
    """The form under which a name is looked up: `Ann`, `ann` and `ＡＮＮ` are one person."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _alphabet(character: str) -> str:
    """The script of a letter or mark, as far as its Unicode name tells it."""
    word = unicodedata.name(character, "?").partition(" ")[0]
    return ALPHABETS.get(word, word)


def clean_name(name: str) -> str | None:
    """`name` as it is registered and shown (NFKC), or None if it is not allowed.

    1 to 32 characters: letters of one script with their combining marks, digits of one kind, `_ . -`; the first is
    a letter or a digit. A Latin name with one Cyrillic letter is somebody posing as somebody else.
    """
    name = unicodedata.normalize("NFKC", name)
    if not 1 <= len(name) <= NAME_MAX or fold(fold(name)) != fold(name):
        return None
    alphabets, zeros, marks, before = set(), set(), 0, ""
    for character in name:
        category = unicodedata.category(character)
        if character in INVISIBLE or "VARIATION SELECTOR" in unicodedata.name(character, ""):
            return None
        if category in ("Mn", "Mc"):
            marks += 1
            if before == "" or before in "_.-" or before.isdecimal() or marks > NAME_MARKS_MAX:
                return None
            if _alphabet(character) != "COMBINING":
                alphabets.add(_alphabet(character))
            continue
        if category[0] == "L":
            alphabets.add(_alphabet(character))
        elif category == "Nd":
            zeros.add(ord(character) - unicodedata.decimal(character))
        elif character not in "_.-" or not before:
            return None
        before, marks = character, 0
    return name if len(alphabets) <= 1 and len(zeros) <= 1 else None


def clean_password(password: str) -> str:
    """`password` as it is hashed: NFKC, so that every keyboard's `é` is the same one; never trimmed."""
    return unicodedata.normalize("NFKC", password)


def password_fault(password: str, name: str, minimum: int = PASSWORD_MIN) -> str | None:
    """Why this (clean) password may not be chosen by `name`, in words, or None if it may."""
    if len(password) < minimum:
        return f"a password has at least {minimum} characters"
    if len(password.encode()) > PASSWORD_MAX:
        return f"a password has at most {PASSWORD_MAX} bytes"
    if "\n" in password or "\r" in password:
        return "a password has no line break"
    if fold(password) == fold(name):
        return "a password is not the name"
    return None


def format_time(wall: float) -> str:
    """Unix seconds as they stand on the wire: UTC, `2026-11-22T15:04:05.123Z`."""
    stamp = datetime.fromtimestamp(wall, timezone.utc)
    return f"{stamp:%Y-%m-%dT%H:%M:%S}.{stamp.microsecond // 1000:03d}Z"


def parse_time(text: str) -> float:
    """The Unix seconds of a time on the wire; ValueError if it is none."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc).timestamp()


# --- Frames ---------------------------------------------------------------------------------------------------------

HEADER = Struct(">I")


def frame(payload: bytes) -> bytes:
    """A payload as it goes over the wire: its length in 4 bytes, then itself."""
    return HEADER.pack(len(payload)) + payload


class BadFrameError(Exception):
    """The other side announced a frame that is empty or too long. There is no way to go on after this."""


class FrameDecoder:
    """Cuts a stream of bytes into payloads, however the bytes come in.

    A length of 0 or above `limit` is refused on the header, before any of the body is kept; after that the decoder
    is shut for good. `limit` may change between two frames and holds for the headers read from then on.
    """

    __slots__ = ("_bytes", "_missing", "_start", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._bytes: bytes | bytearray = b""
        self._start = 0  # what comes before has been given out
        self._missing = 4  # how many bytes are needed before it is worth another look

    @property
    def buffered(self) -> int:
        """How many bytes wait here, of frames that are incomplete or not yet asked for."""
        return len(self._bytes) - self._start

    def feed(self, data: bytes) -> None:
        """Add what was read from the wire."""
        if self._start:
            self._bytes, self._start = self._bytes[self._start :], 0
        if not self._bytes:
            self._bytes = data
        else:
            if isinstance(self._bytes, bytes):
                self._bytes = bytearray(self._bytes)
            self._bytes += data  # a bytearray grows in place: a frame that trickles in is not copied again and again

    def payloads(self) -> Iterator[bytes]:
        """The complete payloads, one by one. It may be left at any time: the rest is kept for the next call.

        BadFrameError on a length that is not allowed.
        """
        if self.buffered < self._missing:
            return
        data = self._bytes = bytes(self._bytes)
        start, size, unpack = self._start, len(data), HEADER.unpack_from
        self._missing = 4
        while size - start >= 4:
            (length,) = unpack(data, start)
            if not 0 < length <= self.limit:
                raise BadFrameError(f"a length of {length} is not between 1 and {self.limit}")
            end = start + 4 + length
            if end > size:
                self._missing = 4 + length
                return
            self._start = end
            yield data[start + 4 : end]
            start = end


# --- The server -----------------------------------------------------------------------------------------------------


# --- The client -----------------------------------------------------------------------------------------------------
