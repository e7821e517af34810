"""The conversation of Vessages, pure: frames, words, the server's state machine and the client's.

Rules of this file
    It touches nothing: no socket, file, clock, thread, random number or log. Time comes in as an argument, slow
    work goes out as a job and comes back as a result, frames to send wait in an outbox. So whatever happens here
    can be repeated in a test: feed, look.

    Both ends read the same bytes the same way, whole or one at a time.

    One table (HANDLERS) says which command is allowed when. All else is refused in one place, and a refused command
    changes nothing.

Reading order
    1. Limits, and the words of the wire: `Code`, `Bye`, `HANDLERS` (the commands), names, passwords, times.
    2. The frame codec: `frame`, `FrameDecoder`.
    3. The server: `Job`s, `Connection` (a wire), `Session` (a person who is logged in) and `Hub` (all of them). Before
       the hub its parts: `Held` and `Post` (what is said to people), `Spread` (to several), `Gate` (limits), `Walk`
       (time-outs), `PresenceBoard` (who is shown how), `CheckQueue` (passwords), `Statuses` (what the disk says).
    4. The client: its events, `ClientSession`, and before it the parts of that: `Requests` (what was asked for),
       `Pace` (the server's limits), `Received` (what was shown), `RosterView` (who is here), `ServerWatch` (is the
       server still there?).
"""

from __future__ import annotations

import enum
import functools
import hashlib
import heapq
import ipaddress
import math
import re
import typing
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from struct import Struct
from typing import NamedTuple

VERSION = "1.0"  # of the four files together

# --- Limits ---------------------------------------------------------------------------------------------------------

KIB, MIB = 1024, 1024 * 1024

# Bytes of a frame from a client: a long paste fits. Before the login only names and passwords have to.
CLIENT_FRAME_MAX = 64 * KIB
STRANGER_FRAME_MAX = 4 * KIB
# Bytes of a frame from a server: a roster of 100,000 names fits.
SERVER_FRAME_MAX = 16 * MIB

NAME_MAX = 32  # characters
TYPED_NAME_MAX = 128  # characters before they are composed: each of 32 with three marks. To compose is slow
NAME_MARKS_MAX = 3  # combining marks on one letter: Devanagari and Thai need two or three, a joker wants thirty
PASSWORD_MIN = 8  # characters; a setting of the server
PASSWORD_MAX = KIB  # bytes of UTF-8, as it is hashed: a keyboard that does not compose needs up to three times as many
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
    PARTLY = "partly", "the message was not shown to everybody it was for"
    UNKNOWN_SESSION = "unknown-session", "that session is over, log in with the password"
    TOO_MANY = "too-many", "too many at once, wait before the next one"
    ENCRYPTED_ONLY = "encrypted-only", "this server talks only over TLS: a newer client.py does so by itself"
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


class Verb(NamedTuple):
    """A command: where it is allowed, the method of `Hub` that obeys it, and its form."""

    allowed: frozenset[bool]  # False: where nobody is logged in; True: where somebody is
    handler: str
    form: str


STRANGERS, MEMBERS, ANYBODY = frozenset({False}), frozenset({True}), frozenset({False, True})
# Every command, in the order in which they are listed for somebody who says another one.
HANDLERS = {
    "REGISTER": Verb(STRANGERS, "_register", "REGISTER <username> <password>"),
    "KEEP": Verb(STRANGERS, "_keep", "KEEP"),
    "LOGIN": Verb(STRANGERS, "_login", "LOGIN <username> <password>"),
    "TAKEOVER": Verb(STRANGERS, "_takeover", "TAKEOVER <username> <password>"),
    "RESUME": Verb(STRANGERS, "_resume", "RESUME <token> <number of the last frame shown>"),
    "PING": Verb(ANYBODY, "_ping", "PING [<text>]"),
    "ACK": Verb(ANYBODY, "_ack", "ACK <number of the last frame shown>"),
    "LOGOUT": Verb(MEMBERS, "_logout", "LOGOUT"),
    "WHO": Verb(MEMBERS, "_who", "WHO"),
    "SEND": Verb(MEMBERS, "_send", "SEND <to> <text>"),
    "PASSWD": Verb(MEMBERS, "_passwd", "PASSWD <password>, a line break, <new password>"),
}


# Combining marks and letters that nobody sees: two names must not look the same because of them.
INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0")
INVISIBLE |= frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))  # variation selectors
# Scripts that are written together: the first word of a character's Unicode name -> the alphabet it counts as.
ALPHABETS = {"CJK": "EAST-ASIAN", "IDEOGRAPHIC": "EAST-ASIAN", "HIRAGANA": "EAST-ASIAN", "KATAKANA": "EAST-ASIAN",
             "KATAKANA-HIRAGANA": "EAST-ASIAN"}  # fmt: skip


# Letters that are hardly told apart, and the one that stands for all of them in a skeleton. A capital is here where it
# looks like something else than its small letter does: I like l, and L like nothing else, so that Lan is not Ian.
# ɪ to ᴢ are letters in the shape of small capitals; from ꓮ on it is Lisu and Cherokee, drawn as Latin capitals are.
LOOK_ALIKES = {
    "a": "ɑаАαΑᴀꓮᎪ", "b": "ƅвВьЬΒʙꓐᏴ", "c": "сСⲥⲤᴄꓚᏟ", "d": "ԁᴅꓓᎠ", "e": "еЕҽΕᴇꓰᎬ", "f": "ẝꜰꓝ",
    "g": "ɡԍԌցɢꓖᏀ", "h": "һнНհΗⲎⲏʜꓧᎻ", "i": "ıɩɪіιꙇ", "j": "ȷјЈյϳͿᴊꓙᎫ", "k": "кКκΚᴋꓗᏦ",
    "l": "I1ІӏӀΙǀꓲⵏו", "ʟ": "LꓡᏞԼ", "m": "мМΜᴍꓟᎷ", "n": "ոΝɴꓠ", "o": "0оОοΟօՕסⲟⲞⵔഠဝ〇ᴏꓳ",
    "p": "рРρΡⲣⲢᴘꓑᏢ", "q": "ԛզ", "r": "гᴦʀꓣᏒ", "s": "ѕЅՏꜱꓢᏚ", "t": "тТτΤᴛꓔᎢ", "u": "υսՍᴜꓴ",
    "v": "νѵѴʋᴠꓦᏙ", "w": "ԝԜᴡꓪᎳ", "x": "хХχΧꓫ", "y": "уУүҮΥʏꓬᎩ", "z": "ΖᴢꓜᏃ",
    "3": "зЗ", "8": "৪੪", "9": "୨੧",
    "ロ": "口", "エ": "工", "カ": "力", "ニ": "二", "タ": "夕", "ト": "卜", "ハ": "八", "ヘ": "へ", "リ": "り",
    "ー": "一",
    "\u0306": "\u030c", "\u0327": "\u0326",  # breve and caron, cedilla and comma below
}  # fmt: skip
PROTOTYPES = {ord(letter): prototype for prototype, letters in LOOK_ALIKES.items() for letter in letters}
DOT_OF_ITS_OWN = re.compile("([iIıj])\u0307+")  # which nobody sees on an i


def fold(name: str) -> str:
    """The form under which a name is looked up. Names of one form are one person.

    >>> fold("Ann") == fold("ann") == fold("ＡＮＮ")
    True
    """
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def skeleton(name: str) -> str:
    """The look of `name`: those that look alike have one skeleton, and only one of them can be registered.

    The pairs are from Unicode's confusables.txt (technical standard 39), as far as a name can have them; every digit
    counts as the ASCII one. It is taken of a name as it is shown, so that its two cases may differ, as in `Ian`:
    under `fold` they are one person anyway. "rn" is not "m": both are frequent, and a terminal tells them apart.

    >>> skeleton("aIice") == skeleton("alıce") == skeleton("a1ice") == skeleton("alice")
    True
    >>> skeleton("НАММО") == skeleton("HAMMO")  # the first one is Cyrillic
    True
    >>> skeleton("Ian") == skeleton("lan"), skeleton("Ian") == skeleton("Lan"), skeleton("ian") == skeleton("lan")
    (True, False, False)
    """
    before = ""
    while name != before:  # it has one look more only where a small letter looks like another one: twice, as a rule
        before = name
        name = DOT_OF_ITS_OWN.sub("i", unicodedata.normalize("NFD", unicodedata.normalize("NFKC", name)))
        name = "".join(str(unicodedata.decimal(c, c)) for c in name.translate(PROTOTYPES)).translate(PROTOTYPES)
        name = unicodedata.normalize("NFD", fold(name))
    return name


# Words that a client writes, or a person says, in place of names: nobody new is called so. A word that only looks like
# one is a name: `a11` is a seat in a lab.
WORDS_FOR_PEOPLE = frozenset({"all", "everybody", "everyone", "you"})
NO_NAME = "that word means several people or anybody: choose a name"


@functools.lru_cache(maxsize=4096)  # half of the time that a list of a hundred names takes
def _alphabet(character: str) -> str:
    """The script of a letter or mark, as far as its Unicode name tells it."""
    word = unicodedata.name(character, "?").partition(" ")[0]
    return ALPHABETS.get(word, word)


ASCII_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")


def clean_name(name: str) -> str | None:
    """`name` as it is registered and shown (NFKC), or None if it is not allowed.

    1 to 32 characters: letters of one script with their combining marks, digits of one kind, `_ . -`; the first is
    a letter or a digit. A Latin name with one Cyrillic letter is somebody posing as somebody else.

    >>> clean_name("Tuấn"), clean_name("Мария"), clean_name("ａｎｎ_2")
    ('Tuấn', 'Мария', 'ann_2')
    >>> clean_name("a b"), clean_name("-ann"), clean_name("аnn"), clean_name("x" * 33)  # the third begins in Cyrillic
    (None, None, None, None)
    """
    if len(name) > TYPED_NAME_MAX:
        return None
    if name.isascii():
        return name if ASCII_NAME.fullmatch(name) else None  # what follows says the same, in 70 times the time
    name = unicodedata.normalize("NFKC", name)
    if not 1 <= len(name) <= NAME_MAX or not INVISIBLE.isdisjoint(name):
        return None
    key = fold(name)
    if fold(key) != key:
        return None
    alphabets, zeros, marks, before = set(), set(), 0, ""
    for character in name:
        category = unicodedata.category(character)
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


EVERYBODY = "*"  # in place of a name: everybody else who is here


def parse_list(names: str) -> dict[str, str]:
    """The names of a list of recipients by their keys, in its order; refused if one is malformed or they are too many.

        >>> parse_list("Bob,eve,bob")
        {'bob': 'Bob', 'eve': 'eve'}
    """
    words, listed = names.split(",", LIST_MAX), dict[str, str]()
    for word in words:
        name = clean_name(word) if len(words) <= LIST_MAX else None
        if name is None:
            form = f"a list of recipients is 2 to {LIST_MAX} names with commas and no spaces"
            raise RefusedError(Code.BAD_COMMAND, form)
        listed.setdefault(fold(name), name)
    return listed


def clean_password(password: str) -> str:
    """`password` as it is hashed: NFKC, so that every keyboard's `é` is the same one; never trimmed.

    One that is longer than a stranger can send stays as it is: to normalize thousands of combining marks takes seconds.
    """
    if len(password.encode()) > STRANGER_FRAME_MAX:
        return password
    return unicodedata.normalize("NFKC", password)


def password_fault(password: str, name: str, minimum: int = PASSWORD_MIN) -> str | None:
    """Why this (clean) password may not be chosen by `name`, in words, or None if it may."""
    if len(password) < minimum:
        return f"a password has at least {minimum} characters"
    if len(password.encode()) > PASSWORD_MAX:
        return f"a password has at most {PASSWORD_MAX} bytes"
    if "\n" in password:
        return "a password has no line break"
    if fold(password) == fold(name):
        return "a password is not the name"
    return None


def parse_number(text: str) -> int | None:
    """A tag or sequence number from the wire: ASCII digits, 0..TAG_MAX; None if it is anything else."""
    if text.isdecimal() and text.isascii() and len(text) <= 16:
        number = int(text)
        return number if number <= TAG_MAX else None
    return None


def ascii_upper(verb: str) -> str:
    """A verb in capitals; nothing if it is not ASCII (`ſend`.upper() would be SEND)."""
    return verb.upper() if verb.isascii() else ""


def format_time(wall: float) -> str:
    """Unix seconds as they stand on the wire: UTC, `2026-11-22T15:04:05.123Z`."""
    second, micros = divmod(round(wall * 1e6), 1_000_000)
    return f"{_format_second(second)}.{micros // 1000:03d}Z"


@functools.lru_cache(maxsize=1)  # the turns of a second share it: to format it takes as long as to pass on a message
def _format_second(second: int) -> str:
    return f"{datetime.fromtimestamp(second, timezone.utc):%Y-%m-%dT%H:%M:%S}"


def parse_time(text: str) -> float:
    """The Unix seconds of a time on the wire; ValueError if it is none."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc).timestamp()


# Codes around the words of an error of OpenSSL, which tell a person nothing: `[X509: CODE] words (_ssl.c:4154)`.
OPENSSL_CODES = re.compile(r"^\[.*?\] | \(_ssl\.c:\d+\)$")


def fingerprint_of(certificate: bytes) -> str:
    """The SHA-256 of a certificate in DER, as it is remembered: `AB:CD:…`."""
    return hashlib.sha256(certificate).digest().hex(":").upper()


def fingerprint_words(fingerprint: str) -> str:
    """A fingerprint for people who compare it, perhaps by voice: two lines of blocks of four, the same at both ends.

    >>> print(fingerprint_words(":".join(["A1", "B2"] * 16)))
        A1B2 A1B2 A1B2 A1B2 A1B2 A1B2 A1B2 A1B2
        A1B2 A1B2 A1B2 A1B2 A1B2 A1B2 A1B2 A1B2
    """
    digits = fingerprint.replace(":", "")
    blocks = [digits[index : index + 4] for index in range(0, len(digits), 4)]
    return "\n".join("    " + " ".join(blocks[index : index + 8]) for index in range(0, len(blocks), 8))


# --- Frames ---------------------------------------------------------------------------------------------------------

HEADER = Struct(">I")
HASH = ord("#")  # begins a tag


def frame(payload: bytes) -> bytes:
    """A payload as it goes over the wire: its length in 4 bytes, then itself."""
    return HEADER.pack(len(payload)) + payload


def encode(words: str) -> bytes:
    """Words as a frame."""
    payload = words.encode()
    return HEADER.pack(len(payload)) + payload


class BadFrameError(Exception):
    """The other side announced a frame that is empty or too long. There is no way to go on after this."""


class FrameDecoder:
    """Cuts a stream of bytes into payloads, however the bytes come in.

    A length of 0 or above `limit` is refused on the header, before any of the body is kept, and there is no way past
    it. `limit` may change between two calls of `payloads` and holds for the headers that are read from then on.

        >>> decoder = FrameDecoder(limit=100)
        >>> decoder.feed(frame(b"one") + frame(b"two")[:5])
        >>> decoder.payloads(), decoder.buffered, decoder.pending
        ([b'one'], 5, False)
        >>> decoder.feed(frame(b"two")[5:])
        >>> decoder.payloads()
        [b'two']
        >>> decoder.feed(b"GET / HTTP/1.1")
        >>> decoder.payloads()
        Traceback (most recent call last):
        protocol.BadFrameError: a length of 1195725856 is not between 1 and 100
    """

    __slots__ = ("_bytes", "_missing", "buffered", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.buffered = 0  # how many bytes wait here, of frames that are incomplete or not yet asked for
        self._bytes: bytes | bytearray = b""  # the last `buffered` of them are unread
        self._missing = 4  # how many bytes are needed before it is worth another look

    @property
    def pending(self) -> bool:
        """Whether there may be a complete frame (or a forbidden header) among them."""
        return self.buffered >= self._missing

    def feed(self, data: bytes) -> None:
        """Add what was read from the wire."""
        if not self.buffered:
            self._bytes = data
        else:
            if len(self._bytes) > self.buffered:
                self._bytes = self._bytes[-self.buffered :]
            if isinstance(self._bytes, bytes):
                self._bytes = bytearray(self._bytes)
            self._bytes += data  # a bytearray grows in place: a frame that trickles in is not copied again and again
        self.buffered += len(data)

    def payloads(self, most: int = 1 << 30) -> list[bytes]:
        """The next complete payloads, at most so many. Give back those that cannot be dealt with now.

        They end before a length that is not allowed; if that comes first, BadFrameError.
        """
        payloads: list[bytes] = []
        if self.buffered < self._missing:
            return payloads
        data = self._bytes = bytes(self._bytes)
        size, limit, unpack = len(data), self.limit, HEADER.unpack_from
        end = size - self.buffered
        self._missing = 4
        for _ in range(most):
            start = end + 4
            if start > size:
                break
            (length,) = unpack(data, end)
            if not 0 < length <= limit:
                if payloads:
                    break
                raise BadFrameError(f"a length of {length} is not between 1 and {limit}")
            if start + length > size:
                self._missing = 4 + length
                break
            end = start + length
            payloads.append(data[start:end])
        self.buffered = size - end
        if end == size:  # else every quiet connection would keep its last read, and the password in it
            self._bytes = b""
        return payloads

    def give_back(self, payloads: Iterable[bytes]) -> None:
        """Put these payloads back in front. All lengths are checked again, by the limit at that time."""
        self._bytes = b"".join(map(frame, payloads)) + self._bytes[len(self._bytes) - self.buffered :]
        self.buffered = len(self._bytes)
        self._missing = 4


EMPTY: typing.Final = FrameDecoder(0)  # stands where nothing waits to be read; it is never fed


# --- The server -----------------------------------------------------------------------------------------------------
#
# A *connection* is between two programs; a *session* is a person who is logged in. A plain session ends with its
# connection. A *kept* one (KEEP before LOGIN) outlives it: each frame for it is numbered, held until it is ACKed, and
# written again to the next connection. While it has no connection it is *lost*: others see `~name`.
#
# Commands come in two kinds. Quick ones are answered where they are read. Those that may need a password checked or
# the disk, and messages to several, are *flows*: generators that yield a job and are resumed with its result, so that
# each reads from top to bottom like the conversation it is. While a connection has a flow, its later frames wait.

GRACE = 60.0  # seconds a lost session is kept: a walk between two access points, a server's restart
# Frames of one person before it is the others' turn, and of all who have more to say: about 2 ms. Everybody has one.
FRAMES_A_TURN, FRAMES_OF_ALL = 64, 640
# Strangers whose frames are obeyed in one turn, and how many of each: a thousand who flood the server take 1 to 10 ms.
STRANGERS_A_TURN, STRANGER_FRAMES_A_TURN = 32, 8
LAST_SHARES = 500  # at a stop: batches of FRAMES_A_TURN received frames that are still obeyed, about 0.2 s
QUEUE_FRAMES, QUEUE_BYTES = 1000, MIB  # what may wait for one person before senders are told `busy`
ASK_FRAMES, ASK_BYTES = QUEUE_FRAMES // 2, QUEUE_BYTES // 2  # un-ACKed, after which a kept client is asked for an ACK
HELD_FRAMES_MAX = 4000  # un-ACKed frames, own answers included; a client with so many never ACKs, and is ended
HELD_BYTES_MAX = SERVER_FRAME_MAX  # the same in bytes: one roster of the largest size still fits
HELD_IN_ALL_MAX = 256 * MIB  # held for all kept sessions together; beyond it a kept recipient is `busy`
HELD_CROWDED = HELD_IN_ALL_MAX // 2  # beyond it, nobody's own answers are held as if there was nobody else:
HELD_BYTES_CROWDED = 2 * QUEUE_BYTES  # what a client then may leave un-ACKed, half of it messages
HELD_LITTLE = 16 * KIB  # may always be held for one, so that a few which never ACK do not make everybody `busy`
BACKLOG_MAX = 64 * KIB  # unsent bytes of a connection, beyond which it is not read from
PING_AFTER, ANSWER_WITHIN = 20.0, 25.0  # seconds without a frame, then without an answer to PING
SILENT_AFTER = PING_AFTER + ANSWER_WITHIN  # seconds; home routers forget a link after 60
SLOW_AFTER = 30.0  # seconds without one byte taken of a backlog
# Seconds, and bytes: within that time an unfinished frame must grow by so much or be complete. This allows slow
# uplinks (64 KiB may take minutes) and stops clients that send a byte now and then.
HALF_FRAME_AFTER, HALF_FRAME_STEP = 30.0, 4096
STRANGER_AFTER = 300.0  # seconds to log in: long enough for a person who looks for a password
PROBE_AFTER = 5.0  # seconds a connection has to show life when somebody else knows its password
CLOCK_STEP = 60.0  # seconds that a clock never drifts from one turn to the next: somebody has set it
LATE = 5.0  # seconds that a turn is never late by load alone: the machine or the process was suspended
ENCODING_FAULTS_MAX = 3  # one may be an accident, three are another protocol
CONNECTIONS_MAX = 15_000  # a default; the reactor lowers it to what the system's open files allow
PRESENCE_PAUSE = 30e-6  # seconds for each person online between two PRESENCE frames: about 1/4 of the CPU they cost
PRESENCE_SLICE = 100  # people told of a change in one turn: about 1 ms, so that messages do not wait for it
LIST_MAX = 100  # names in the recipients of one message
SPREAD_SLICE = 100  # people who are handed a message to several in one turn, of all such messages together: about 1 ms
SPREAD_BYTES = 256 * KIB  # the same in bytes
# People whom messages to several still have to be handed to, all together: 32 MB, and so much to do for 40 s. It is
# reached when 2,000 people say good morning to everybody in the same moment.
SPREAD_MAX, SPREAD_AGAIN = 4_000_000, 10  # and the seconds after which one may try again
PARTLY_MAX = 20  # names of those who were not shown a message that its answer tells
LISTED = 1000, 0.01  # people in lists that one name may write to at once, and the seconds until one more
TO_ALL = 10, 3.0  # messages to everybody that one name may send at once, and the seconds until one more
# Messages to several that a client may have unanswered, and sends again after a restart. A client can make its session
# end, and come back to a new one, as often as it likes: seconds until there is one more of them.
SENT_AGAIN_MAX, SENT_AGAIN_PAUSE = 64, 60.0
# A list with names that are not ASCII is read when it has a share as of a text of so many bytes: a hundred of them may
# take 6 ms.
LIST_READING = SPREAD_BYTES // 2
WALK_PAUSE = 1.0  # seconds between two looks at every connection, so what is due is late by this at most
LOOKS_A_TURN = 200  # connections looked at in one turn: about 1 ms if all of them are sent a PING
RECORD_PAUSE = 1.0  # seconds between two commits of who is online: changes in between share the next one
RECORD_AGAIN = 5.0  # seconds after the disk has refused to record who is online
RECORD_USE = 12 * 3600.0  # seconds after which the tokens of all who are there count as used again
CHECKS_AT_ONCE = 2  # slots at the hashing thread: one in work, one ready
CHECKS_A_SECOND = 6  # what one core hashes at the default cost
CHECKS_MAX, CHECKS_AN_ADDRESS = 1000, 250  # that may wait: a class behind one address is through in 40 s
REMEMBERED_MAX = 10_000  # entries of a map that strangers can fill; the oldest is forgotten first
REGISTRATIONS, REGISTRATION_PAUSE = 60, 10.0  # new accounts from one address at once, then one every so many seconds
CONNECTIONS_AN_ADDRESS = 1000  # open at once: a whole school behind one address, but never the whole server
NEWCOMERS, NEWCOMER_PAUSE = 1000, 0.1  # new ones at once (that school, after a restart), then seconds between them
WIDER = 5  # times as much may come from an IPv6 network: one machine can have all its addresses, or a LAN shares them

ONLINE, OFFLINE, LOST = "online", "offline", "lost"  # the status of an account on disk
NEVER, FOREVER = float("-inf"), float("inf")  # times


def error(code: Code, explanation: str = "") -> str:
    """The ERROR of this code; `explanation` says it better than the code's own sentence."""
    return f"ERROR {code.word} {explanation or code.explanation}"


class RefusedError(Exception):
    """A command that is refused: with which code, and why in words."""

    def __init__(self, code: Code, explanation: str = "") -> None:
        super().__init__(code.word)
        self.answer = error(code, explanation)


def count_tag(session: Session | None, tag: str) -> bool:
    """Whether the command with this tag is to be obeyed: not if it was read before. Refused if it is no tag."""
    number = parse_number(tag)
    if not number:
        raise RefusedError(Code.BAD_COMMAND, f"a tag is # and a number from 1 to {TAG_MAX}")
    if session is not None:
        if number <= session.last_tag:
            return False
        session.last_tag = number
    return True


def expect_alone(rest: str) -> None:
    """Refuse what follows a command without arguments."""
    if rest:
        raise RefusedError(Code.BAD_COMMAND, "this command stands alone")


def two_words(verb: str, rest: str) -> tuple[str, str]:
    """The first word of `rest` and what follows it; refused if either is missing."""
    first, _, second = rest.partition(" ")
    if not (first and second):
        raise RefusedError(Code.BAD_COMMAND, HANDLERS[verb].form)
    return first, second


def failure_tag(verb: str) -> str:
    """The tag of a failed command that has none of its own: an untagged SEND has no other answer, so it is marked."""
    return "0" if ascii_upper(verb) == "SEND" else ""


def refuse_password(password: str, name: str, minimum: int) -> None:
    """Refuse a (clean) password that may not be chosen by `name`."""
    fault = password_fault(password, name, minimum)
    if fault:
        raise RefusedError(Code.BAD_PASSWORD, fault)


def key_of(name: str) -> str:
    """The key of a name that somebody typed; one that nobody has, if it cannot be a name."""
    return fold(name) if len(name) <= TYPED_NAME_MAX else ""


class StorageFailedError(Exception):
    """The result of a job that the disk refused."""


class Account(NamedTuple):
    """An account as it is on disk. Times are Unix seconds. The repr does not show the hash."""

    username: str  # as registered, and as it is displayed
    key: str  # fold(username), unique
    password: str  # the self-describing hash
    status: str  # ONLINE, OFFLINE or LOST
    last_login: float | None  # the last one that succeeded
    failures: int  # wrong passwords since then

    def __repr__(self) -> str:
        return f"<Account {self.username!r} {self.status}>"


class Job:
    """A call that a worker makes: `method` with these arguments. `Hub.complete` takes its result.

    The repr does not show the arguments, since some are secret.
    """

    __slots__ = ("arguments", "flow", "method")

    def __init__(self, method: str, *arguments: typing.Any) -> None:
        self.method = method
        self.arguments = arguments
        self.flow: Flow | None = None  # the flow that waits for the result

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.method}>"


class HashJob(Job):
    """A function of storage.py that hashes or checks a password; the cost is added to its arguments."""


class DiskJob(Job):
    """A method of `storage.Store`. The disk's thread makes these calls in the order in which they were given."""


# The steps of a flow. It yields a job and goes on with its result; or A_SLOT, to wait for a slot at the hashing thread;
# or a Share. It returns the answer to its command, or None if there is none. In `Hub` a flow reads like this:
#     account = yield DiskJob("find", key)
#     return f"OK FOUND {account.username}"
Steps = Generator["Job | Share | None", typing.Any, str | None]
A_SLOT: typing.Final = None


class Share(NamedTuple):
    """Wait for a share of what is handed out in a turn: the step goes on with the number of people it may serve."""

    size: int  # bytes for each of them


PING: typing.Final = encode("PING")


class Flow:
    """A command that takes more than one turn: its steps, and where its answer goes."""

    __slots__ = ("connection", "has_slot", "session", "steps", "tag")

    def __init__(self, connection: Connection, tag: str, steps: Steps) -> None:
        self.connection = connection
        self.session = connection.session
        self.tag = tag
        self.steps = steps
        self.has_slot = False  # whether it occupies one of the CHECKS_AT_ONCE slots

    @property
    def is_wanted(self) -> bool:
        """Whether anybody waits for the answer: the session that has asked, or else the connection."""
        return not self.connection.closed if self.session is None else not self.session.over


class Connection:
    """A client's connection: bytes that came in and are not yet read, frames to go out, and the times of both.

    The hub makes it, and alone changes it, but for `socket`.
    """

    __slots__ = (
        "_hub", "address", "closed", "decoder", "flow", "heard", "outbox", "outbox_bytes", "pinged",
        "rare", "session", "socket", "unsent", "version",
    )  # fmt: skip

    def __init__(self, hub: Hub, address: str, now: float) -> None:
        self._hub = hub
        self.address = address
        self.socket: typing.Any = None  # the reactor's object; the hub does not look at it
        self.session: Session | None = None
        self.decoder = EMPTY  # a decoder of its own only while bytes wait in it: idle connections stay small
        self.flow: Flow | None = None
        self.closed = ""  # the reason for closing it; empty while it is open
        # Going out: frames in the outbox wait for `Hub.take`; of unsent bytes the reactor has had, and not got rid.
        self.outbox: list[bytes] | None = None  # None while empty: idle connections stay small
        self.outbox_bytes = 0
        self.unsent = 0  # bytes
        self.version = 0  # version of the roster that was last written here, or STALE
        self.heard = now  # time of the last sign of life
        self.pinged = NEVER  # time of the last question for one
        self.rare = ORDINARY

    def write(self, whole: bytes) -> None:
        """Put a frame into the outbox. The same bytes may go to many connections."""
        if self.outbox is None:
            self.outbox = []
            self._hub.ready.append(self)
        self.outbox.append(whole)
        self.outbox_bytes += len(whole)

    def offer(self, whole: bytes) -> bool:
        """Write a message for a plain session; False if too much waits for it already.

        The outbox is filled here as `write` does it: to call that costs 5 % of a streamed message.
        """
        outbox, size = self.outbox or [], self.outbox_bytes + len(whole)
        frames, waiting = len(outbox), size + self.unsent
        if self.unsent and self.rare.clog is not None:
            frames += self.rare.clog.frames
        if frames >= QUEUE_FRAMES or waiting > QUEUE_BYTES:
            return False
        if not outbox:
            self.outbox = outbox
            self._hub.ready.append(self)
        outbox.append(whole)
        self.outbox_bytes = size
        return True

    @property
    def facts(self) -> Rare:
        """Its rare facts, to be changed."""
        if self.rare is ORDINARY:
            self.rare = Rare()
        return self.rare

    def forget_keep(self) -> None:
        """KEEP holds for one login. Nearly always that was the only rare fact."""
        if self.rare.keep:
            self.rare.keep = False
            if self.rare.clog is None and not self.rare.encoding_faults:
                self.rare = ORDINARY

    @property
    def backlog(self) -> int:
        """Bytes that were written for this connection and that the system has not taken."""
        return self.outbox_bytes + self.unsent

    @property
    def behind(self) -> bool:
        """Whether so much waits for it that nothing more is read from it until it has taken some."""
        if self.outbox_bytes + self.unsent > BACKLOG_MAX:
            return True
        held = self.session.held if self.session is not None else None
        return held is not None and held.sent < held.last

    @property
    def wants_reading(self) -> bool:
        """Whether the reactor should read from it: not while it does not read itself, nor while frames wait.

        A closed one is read from too, and what it says is thrown away.
        """
        if self.closed:
            return True
        if self.behind:
            return False
        if self.flow is not None:  # frames wait, but an end of the connection should be noticed
            return self.decoder.buffered < CLIENT_FRAME_MAX
        return not self.decoder.pending

    def overdue(self, now: float, stranger_since: float) -> Bye | None:
        """Why it is to be closed, if a time is over in which it had to do something.

        Somebody who has been silent is asked for life here, and has the time that is meant for the answer from then on.
        """
        if self.closed:
            return None
        if self.flow is not None:  # the client waits for us, and its frames for the end of the flow
            self.heard = now
        rare = self.rare
        if rare.clog is not None and now - rare.clog.since >= SLOW_AFTER:
            return Bye.SLOW
        unfinished = rare.begun is not None and now - rare.begun[0] >= HALF_FRAME_AFTER
        ghost = rare.probed >= self.heard and now - rare.probed >= PROBE_AFTER
        silent = self.pinged > self.heard and now - self.pinged >= ANSWER_WITHIN
        if unfinished or ghost or silent or now - stranger_since >= STRANGER_AFTER:
            return Bye.SILENT
        if now - self.heard >= PING_AFTER and self.pinged <= self.heard:
            self.pinged = now
            self.write(PING)
        return None


class Rare:
    """Facts about a connection that few of them have, so that the others stay small. They go with the connection."""

    __slots__ = ("begun", "clog", "encoding_faults", "keep", "probed")

    def __init__(self) -> None:
        self.keep = False  # KEEP was said: the next login begins a kept session
        self.begun: tuple[float, int] | None = None  # time of the last growth of an unfinished frame; bytes it had then
        self.encoding_faults = 0  # frames so far that were not UTF-8
        self.probed = NEVER  # time of the last PING because somebody else logs in under its name
        self.clog: Clog | None = None  # facts of its unsent bytes, if it has any


class Clog(NamedTuple):
    """A connection for which the system has not taken all that was written."""

    frames: int  # number of frames in the piece that is being written
    since: float  # time at which the system last took some of it


ORDINARY: typing.Final = Rare()  # the facts of a connection that has no rare ones; they are never changed


class Session:
    """A person who is logged in."""

    __slots__ = ("began", "connection", "flow", "held", "key", "last_tag", "lost_at", "name", "over", "sent_again")

    def __init__(self, name: str, key: str, held: Held | None, wall: float) -> None:
        self.name = name
        self.key = key
        self.connection: Connection | None = None
        self.held = held  # None: a plain session
        self.began = wall
        self.lost_at = NEVER  # time at which its connection was lost, if it has none
        self.last_tag = 0
        self.flow: Flow | None = None  # its command, or that of a session before it, for which its next frames wait
        self.over = False  # it has ended, or another session has taken its place
        self.sent_again = 0  # messages to several that it may send beyond the limits, after a restart

    @property
    def kept(self) -> bool:
        """Whether it outlives its connection."""
        return self.held is not None

    @property
    def unsaid(self) -> bool:
        """Whether frames are held that the present connection was not given."""
        return self.held is not None and self.held.unsaid


class Held:
    """The queue of a kept session: frames that are held until the client has ACKed them.

    A frame's number is its position: `acked` + 1 is the first one, `last` the newest. `sent` is the last one that was
    given to the present connection. A frame up to `written` may have been shown, also by an earlier connection.
    At every moment acked <= sent <= written <= last == acked + len(frames).

        >>> held = Held()
        >>> held.hold(b"OK PING", None, ""), held.hold(b"OK WHO ann", None, "")
        (b'\\x00\\x00\\x00\\n@1 OK PING', b'\\x00\\x00\\x00\\r@2 OK WHO ann')
        >>> held.sent = 2  # both were written
        >>> [text for text, *_ in held.acknowledge(1)], held.acked, held.written
        ([b'OK PING'], 1, 2)
        >>> held.rewind()  # the connection broke, and the client came back
        >>> held.unsaid, held.say_next(), held.unsaid
        (True, b'\\x00\\x00\\x00\\r@2 OK WHO ann', False)
    """

    __slots__ = ("_sent_before", "acked", "asked", "frames", "last", "numbered", "sent", "size", "token")

    def __init__(self, numbered: bool = True) -> None:
        self.frames: list[HeldFrame] = []
        self.size = 0  # bytes of all of them
        self.acked = self.sent = self.last = 0
        self._sent_before = 0  # the last frame that was given to any connection before the present one
        self.numbered = numbered  # whether the numbers are known: after a restart the client has to tell its last one
        self.asked = False  # whether an ACK was asked for since the last one
        self.token = ""  # for a RESUME; empty if only the disk knows it, or if there is none any more

    @property
    def unsaid(self) -> bool:
        """Whether frames are held that the present connection was not given."""
        return self.sent < self.last

    @property
    def written(self) -> int:
        """The number of the newest frame that was ever given to a connection."""
        return max(self.sent, self._sent_before)

    def hold(self, text: bytes, sender: Session | Group | None, tag: str) -> bytes:
        """Hold one more frame, and return it as it goes over the wire. `sender` is told its fate under `tag`."""
        self.last = number = self.last + 1
        payload = b"@%d %b" % (number, text)
        whole = HEADER.pack(len(payload)) + payload  # `frame` written out: a call costs a streamed message 2 %
        self.frames.append((text, len(whole), sender, tag))
        self.size += len(whole)
        return whole

    def say_next(self) -> bytes:
        """The next frame for the present connection, which counts as given from now on."""
        text = self.frames[self.sent - self.acked][0]
        self.sent += 1
        return frame(b"@%d %b" % (self.sent, text))

    def acknowledge(self, number: int) -> list[HeldFrame]:
        """The client has shown everything up to this number, at most `written`: hold it no longer, and return it."""
        count = number - self.acked
        shown = self.frames[:count]
        del self.frames[:count]
        self.size -= sum([size for _, size, _, _ in shown])
        self.acked = number
        self.sent = max(self.sent, number)
        self.asked = False
        return shown

    def rewind(self) -> None:
        """Another connection takes over: it is given everything that was not ACKed once more."""
        self._sent_before, self.sent = self.written, self.acked

    def count_as_written(self) -> None:
        """These frames are adopted from another session, whose client may have shown all of them."""
        self._sent_before = self.last

    def number_from(self, number: int) -> None:
        """After a restart the numbers go on from the last one that the client has shown."""
        self.numbered = True
        self.acked = self.sent = self._sent_before = number
        self.last = number + len(self.frames)

    def let_go(self) -> list[HeldFrame]:
        """Hold nothing any more; the frames that were held."""
        frames, self.frames = self.frames, []
        self.size, self.last = 0, self.acked
        return frames


# A frame of a kept session: its payload without the number (as bytes: a text takes up to four times as much), its size
# on the wire, and whom its fate is told under which tag; of a message to several it is told to the group, under the
# recipient's name.
HeldFrame = tuple[bytes, int, "Session | Group | None", str]


class Group:
    """A message to several, and what has become of it so far, for its one answer.

        >>> group = Group(Session("ann", "ann", None, 0.0), "7", 3, ["bob", "Eve", "carl"])
        >>> group.settle("Eve", Code.BUSY), group.settle("carl", None), group.settle("bob", Code.NOT_ONLINE)
        (False, False, True)
        >>> group.answer
        'ERROR partly bob=not-online,Eve=busy shown to 1 of 3'
    """

    __slots__ = ("_listed", "_open", "_told", "count", "failed", "sender", "tag")

    def __init__(self, sender: Session, tag: str, count: int, listed: list[str]) -> None:
        self.sender = sender
        self.tag = tag
        self.count = count  # people whom it is for
        self._listed = listed  # their names as the sender listed them; empty if it is for everybody
        self._open = count  # of them, those whose fate is not known
        self.failed = 0  # of them, those who are not shown it
        self._told: dict[str, Code] = {}  # the failed ones whom the answer may name

    def settle(self, name: str, code: Code | None) -> bool:
        """The fate of one of them, None if shown. Whether the fate of all is known now."""
        self._open -= 1
        if code is not None:
            self.failed += 1
            if self._listed or len(self._told) < PARTLY_MAX:
                self._told[name] = code
        return not self._open

    def count_shown(self, count: int) -> bool:
        """So many of them are shown it. Whether the fate of all is known now."""
        self._open -= count
        return not self._open

    @property
    def answer(self) -> str:
        """The answer when all is known; before that, those who have no fate yet count as shown."""
        if not self.failed:
            return f"OK SEND {self.count}"
        names = [name for name in self._listed if name in self._told] or list(self._told)
        told = ",".join(f"{name}={self._told[name].word}" for name in names[:PARTLY_MAX])
        return error(Code.PARTLY, f"{told} shown to {self.count - self.failed} of {self.count}")


class Throttle:
    """Counts failures and says how long to wait: nothing for the first `free`, then 1, 2, 4 … seconds, at most `most`.

    It forgets whoever has not failed for FORGET_AFTER, and the oldest when there are more than REMEMBERED_MAX.
    """

    FORGET_AFTER = 900.0  # seconds

    def __init__(self, free: int, most: float) -> None:
        self.free = free
        self.most = most
        self._failures: dict[object, tuple[int, float]] = {}  # who -> how often, when last; oldest first

    def wait(self, who: object, now: float) -> float:
        """Seconds until `who` may try again; 0 if at once."""
        count, last = self._failures.get(who, (0, now))
        if count < self.free or now - last > self.FORGET_AFTER:
            return 0.0
        return max(0.0, last + min(self.most, 2.0 ** min(count - self.free, 30)) - now)

    def fail(self, who: object, now: float) -> bool:
        """`who` has failed once more. Whether that was one of the first `free` times."""
        count, last = self._failures.pop(who, (0, now))
        count = 1 if now - last > self.FORGET_AFTER else count + 1
        self._failures[who] = count, now
        if len(self._failures) > REMEMBERED_MAX:
            del self._failures[next(iter(self._failures))]
        return count <= self.free

    def forgive(self, who: object) -> int:
        """`who` has shown that it was an honest mistake. How many there were."""
        return self._failures.pop(who, (0, 0.0))[0]

    def take_off(self, who: object, count: int) -> None:
        """So many of the failures of `who` were honest mistakes."""
        failures, last = self._failures.get(who, (0, 0.0))
        if failures > count:
            self._failures[who] = failures - count, last
        else:
            self._failures.pop(who, None)


class Allowance:
    """So many at once for everyone, then one every `pause` seconds. It forgets the oldest of REMEMBERED_MAX.

        >>> allowance = Allowance(burst=3, pause=10.0)
        >>> [allowance.take("ann", now=0.0) for _ in range(4)], allowance.take("ann", now=9.0)
        ([0.0, 0.0, 0.0, 10.0], 1.0)
    """

    def __init__(self, burst: int, pause: float) -> None:
        self.burst = burst
        self.pause = pause
        self._spent: dict[object, float] = {}  # who -> when all that was taken will be given back; longest unused first

    def take(self, who: object, now: float, count: int = 1) -> float:
        """0 if `who` has taken so many, at most `burst`, else the seconds until there are as many."""
        spent = max(self._spent.pop(who, now), now)
        wait = max(0.0, round(spent - now - (self.burst - count) * self.pause, 6))
        self._spent[who] = spent if wait else spent + count * self.pause
        if len(self._spent) > REMEMBERED_MAX:
            del self._spent[next(iter(self._spent))]
        return wait


class Refusals:
    """Counts for the log who was refused: of each kind a line at once, then a line a minute as long as there are more.

    The kinds are a few sentences of ours, so that a storm of strangers costs neither lines nor memory.
    """

    PAUSE = 60.0  # seconds

    def __init__(self) -> None:
        self.due = FOREVER  # when `lines` has something to do
        self._silent: dict[str, tuple[float, int, str]] = {}  # kind -> until when, how many meanwhile, the last address

    def count(self, kind: str, address: str, now: float) -> None:
        until, number, _ = self._silent.get(kind, (now, 0, ""))
        self._silent[kind] = until, number + 1, address
        self.due = min(self.due, until)

    def lines(self, now: float) -> list[str]:
        """The lines that are due for the log."""
        said: list[str] = []
        for kind, (until, number, address) in list(self._silent.items()):
            if until <= now:
                del self._silent[kind]
                if number:
                    said.append(f"refused: {number:,}, the last from {address}: {kind}")
                    self._silent[kind] = now + self.PAUSE, 0, ""
        self.due = min((until for until, _, _ in self._silent.values()), default=FOREVER)
        return said


class Row(NamedTuple):
    """Somebody who is connected, or lost, as the person who runs the server may see it."""

    address: str  # "" of one who is lost
    name: str  # "" of one who is not logged in
    since: float  # in Unix seconds: when the connection was made, or the login
    idle: float  # seconds without a frame, or since the connection was lost
    unsent: tuple[int, int]  # bytes that were written and that the system has not taken, and frames
    held: tuple[int, int]  # bytes that were not ACKed, and frames


def bytes_waiting(person: tuple[Connection | None, Session | None]) -> int:
    """How much waits for somebody: the backlog of the connection, and what the session has not ACKed."""
    connection, session = person
    held = session.held if session else None
    return (connection.backlog if connection else 0) + (held.size if held else 0)


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own: scripts and tests are not held to the limits meant for strangers."""
    return address.startswith(("127.", "::ffff:127.")) or address == "::1"


def bare_host(text: str) -> str:
    """A host without the brackets in which an address of IPv6 is often written.

    >>> bare_host("[::1]"), bare_host("lab.local")
    ('::1', 'lab.local')
    """
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def network_of(address: str) -> int | None:
    """The first 64 bits of an IPv6 address; None of any other, also of an IPv4 address that is written as IPv6."""
    if ":" not in address:
        return None
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        return None
    return None if parsed.ipv4_mapped else int(parsed) >> 64


class Limits:
    """The limits of one address or, `times` as high, of one network."""

    def __init__(self, registrations: int, times: int = 1) -> None:
        self.guesses = Throttle(free=3 * times, most=60.0)  # by (account, where): somebody guesses one password
        self.guessers = Throttle(free=20 * times, most=30.0)  # by where: somebody guesses many people's
        self.registrations = Allowance(registrations * times, REGISTRATION_PAUSE / times)
        self.newcomers = Allowance(NEWCOMERS * times, NEWCOMER_PAUSE / times)
        self.open_max = CONNECTIONS_AN_ADDRESS * times
        self.opened: dict[object, int] = {}  # where -> how many connections are open


class Gate:
    """The limits for strangers: of each address, and each IPv6 network as well.

    Wrong passwords are counted by (account, address) and by address. A success takes its own mistakes off the counts,
    and a name that has succeeded from an address, and not failed there since, does not wait for what others do there:
    a class behind one address does not pay for each other's slips, nor for somebody among them who guesses.
    """

    def __init__(self, registrations: int) -> None:
        self.connections = 0  # open at the moment
        self.refusals = Refusals()
        self._addresses = Limits(registrations)
        self._networks = Limits(registrations, WIDER)
        self._known: dict[str, str] = {}  # the one copy of each address that has connections
        self._proven: dict[tuple[str, str], None] = {}  # (account, address), the longest unused first
        self._to_be_heard = STRANGERS_A_TURN  # strangers who may still be read from in this turn
        self.frames = FRAMES_A_TURN  # of each person in this turn

    def _limits_of(self, address: str) -> list[tuple[Limits, object]]:
        """The limits that this address counts under, and its key in each."""
        network = network_of(address)
        return [(self._addresses, address), *([] if network is None else [(self._networks, network)])]

    def begin_turn(self, waiting: int) -> None:
        """From now on as much is read as belongs into one turn; so many connections have more to say than that."""
        self._to_be_heard = STRANGERS_A_TURN
        crowd = waiting > FRAMES_OF_ALL // FRAMES_A_TURN
        self.frames = max(1, FRAMES_OF_ALL // waiting) if crowd else FRAMES_A_TURN

    def share(self, pending: bool) -> tuple[int, int]:
        """The longest frame of a stranger, and how many of his are obeyed now; of one with no share they have to wait.

        Those who wait come first in the next turn, so everybody is heard.
        """
        self._to_be_heard -= pending
        return STRANGER_FRAME_MAX, STRANGER_FRAMES_A_TURN if self._to_be_heard >= 0 else 0

    def enter(self, address: str, now: float) -> tuple[str, bool]:
        """A connection from this address: the one copy of the address, and whether it may stay."""
        self.connections += 1
        address = self._known.setdefault(address, address)
        admitted = True
        for limits, where in self._limits_of(address):
            count = limits.opened.get(where, 0)
            limits.opened[where] = count + 1
            if admitted and not is_loopback(address):
                admitted = count < limits.open_max and not limits.newcomers.take(where, now)
        return address, admitted

    def leave(self, address: str) -> None:
        """A connection from this address has ended."""
        self.connections -= 1
        for limits, where in self._limits_of(address):
            limits.opened[where] -= 1
            if not limits.opened[where]:
                del limits.opened[where]
        if address not in self._addresses.opened:
            del self._known[address]

    def refuse_registration(self, address: str, now: float) -> None:
        """Refuse another account while too many came from this address; else it counts as one."""
        if is_loopback(address):
            return
        for limits, where in self._limits_of(address):
            wait = limits.registrations.take(where, now)
            if wait:  # then nothing is taken from the network's allowance
                self.refusals.count("too many new accounts from one address", address, now)
                words = f"{math.ceil(wait)} s to wait: many new accounts came from your address"
                raise RefusedError(Code.TOO_MANY, words)

    def refuse_guess(self, key: str, address: str, now: float) -> None:
        """Refuse a password for this account while somebody has to wait after wrong ones."""
        if (key, address) in self._proven:
            return
        waits = [
            max(limits.guesses.wait((key, where), now), limits.guessers.wait(where, now))
            for limits, where in self._limits_of(address)
        ]
        seconds = math.ceil(max(waits))
        if seconds:
            raise RefusedError(Code.THROTTLED, f"{seconds} s to wait after so many wrong passwords")

    def fail(self, key: str, address: str, now: float) -> None:
        """A wrong password. A network counts it only while its address need not wait: one does not hold up the rest."""
        self._proven.pop((key, address), None)
        one, many = True, True
        for limits, where in self._limits_of(address):
            one = one and limits.guesses.fail((key, where), now)
            many = many and limits.guessers.fail(where, now)

    def succeed(self, key: str, address: str) -> None:
        """Somebody has shown from this address to be who this account belongs to."""
        self._proven.pop((key, address), None)
        self._proven[key, address] = None
        if len(self._proven) > REMEMBERED_MAX:
            del self._proven[next(iter(self._proven))]
        mistakes = self._addresses.guesses.forgive((key, address))
        if mistakes:
            for limits, where in self._limits_of(address):
                limits.guesses.take_off((key, where), mistakes)
                limits.guessers.take_off(where, mistakes)
                mistakes = min(mistakes, self._addresses.guesses.free)  # the network has counted no more


class Settings(NamedTuple):
    """The choices of the person who runs the server: see its command line."""

    grace: float
    password_min: int
    connections_max: int
    registration: bool


class Clock:
    """The time of a turn by both clocks.

    now: monotonic seconds, less those for which the server was suspended. Whatever has a time counts by it, also in the
    reactor: so a lost session, an unfinished frame, a handshake have as much time after a suspension as before it, and
    what waits is read before anything is due. wall: Unix time.
    """

    __slots__ = ("_expected", "_forgiven", "_offset", "now", "stamp", "wall")

    def __init__(self) -> None:
        self.now = self.wall = 0.0
        self.stamp = ""  # the wall time as text, made at most once a turn
        self._offset = math.nan  # of the wall clock from the monotonic one; not known before the first turn
        self._forgiven = 0.0  # seconds for which the server was suspended so far
        self._expected = FOREVER  # latest time of the next turn

    def begin(self, now: float, wall: float) -> tuple[float, float]:
        """A turn begins. Seconds by which somebody has set the clock since the last one, and seconds of suspension."""
        offset = wall - now
        step, self._offset = offset - self._offset, offset
        now -= self._forgiven
        late = now - self._expected
        if late > LATE:  # nobody knows since when: since the last turn, so that nobody has less time than before it
            self._forgiven += now - self.now
            now = self.now
        self._expected = FOREVER
        self.now = max(now, self.now + 1e-6)
        self.wall = wall
        self.stamp = ""
        return step if abs(step) > CLOCK_STEP else 0.0, late if late > LATE else 0.0

    def expect(self, when: float) -> float | None:
        """The next turn is needed at `when`, by this clock: the monotonic time of that; None for FOREVER."""
        self._expected = when
        return None if when == FOREVER else when + self._forgiven

    def make_stamp(self) -> str:
        """The wall time as it goes over the wire."""
        self.stamp = format_time(self.wall)
        return self.stamp


class Walk:
    """All connections are looked at once every WALK_PAUSE, so many a turn."""

    def __init__(self) -> None:
        self.left: list[Connection] = []  # connections that are still to be looked at
        self._next = 0.0  # time at which the next walk begins
        self.due = 0.0  # time at which the next connections are to be looked at; NEVER if at once

    def begins(self, now: float) -> bool:
        """Whether it is time for the next walk; if so, the one after it begins a pause later.

        Not before the last one is through: turns may be so slow that a crowd takes longer than a pause.
        """
        if self.left or now < self._next:
            return False
        self._next = now + WALK_PAUSE
        return True

    def some(self) -> list[Connection]:
        """The next connections to look at, as many as belong into one turn."""
        some = self.left[-LOOKS_A_TURN:]
        del self.left[-LOOKS_A_TURN:]
        self.due = NEVER if self.left else self._next
        return some


# In place of a version: a connection that missed changes, and gets a whole ONLINE when it has taken its backlog.
STALE = -1


class PresenceBoard:
    """The people as others see them, and the readers that must still be told.

    Changes are collected and told in one frame, encoded once, to some people a turn; a reader that is behind gets a
    whole roster instead, once it has caught up.
    """

    def __init__(self) -> None:
        self.due = FOREVER  # time at which `tell` has something to do; NEVER if at once
        self._names: dict[str, str] = {}  # key -> name as it is displayed: `bob` or `~bob`
        self._text = ""  # all of them, joined once a change
        self._frame = b""  # the same as a frame, made once a change
        self._version = 0  # number of changes so far
        self._changes: dict[str, str] = {}  # key -> name of everybody of whom there is something to tell
        self._not_before = 0.0  # earliest time of the next news
        self._news = b""  # the last PRESENCE frame
        self._news_version = 0
        self._audience: list[Session] = []  # people who are still to be told the news
        self._owed: dict[Session, None] = {}  # people who get a roster at the end of the turn

    def show(self, session: Session, displayed: str | None) -> None:
        """Others see this person as `name`, as `~name`, or not at all."""
        if displayed == self._names.get(session.key):
            return
        self._changes[session.key] = session.name
        if displayed is None:
            del self._names[session.key]
        else:
            self._names[session.key] = displayed
        self._text, self._frame = "", b""
        self._version += 1
        self.due = min(self.due, self._not_before)

    def owe_roster(self, session: Session) -> None:
        """This person gets ONLINE at the end of the turn."""
        self._owed[session] = None
        self.due = NEVER

    def roster(self) -> str:
        """The names of all who are online or lost."""
        if not self._text:
            self._text = " ".join(self._names.values())
        return self._text

    def send_rosters(self) -> None:
        """ONLINE for everybody to whom it is owed and who has caught up."""
        owed, self._owed = self._owed, {}
        if owed and not self._frame:
            self._frame = encode("ONLINE " + self.roster())
        for session in owed:
            self._write(session, self._frame, self._version)

    def tell(self, now: float, sessions: dict[str, Session]) -> None:
        """The rosters that are owed; and PRESENCE for all who have not seen the last changes, some people a turn."""
        self.send_rosters()
        if self._changes and not self._audience and now >= self._not_before:
            self._not_before = now + len(sessions) * PRESENCE_PAUSE
            words = [self._word(key, name) for key, name in self._changes.items()]
            self._changes = {}
            self._news = encode("PRESENCE " + " ".join(words))
            self._news_version = self._version
            self._audience = list(sessions.values())
        people = self._audience[-PRESENCE_SLICE:]
        del self._audience[-PRESENCE_SLICE:]
        for session in people:
            if session.connection is not None and session.connection.version < self._news_version:
                self._write(session, self._news, self._news_version)
        self.due = NEVER if self._audience else self._not_before if self._changes else FOREVER

    @staticmethod
    def _write(session: Session, whole: bytes, version: int) -> None:
        """Tell this person. One whose connection is behind gets a roster instead, when it has caught up."""
        connection = session.connection
        if connection is None:
            return
        if session.unsaid or connection.unsent:
            connection.version = STALE
        else:
            connection.version = version
            connection.write(whole)

    def _word(self, key: str, name: str) -> str:
        """The word for `name` as it is now: `+name`, `-name` or `~name`.

        It is told even if it is what was last told: somebody may have got a roster in between.
        """
        displayed = self._names.get(key)
        if displayed is None:
            return "-" + name
        return displayed if displayed[0] == "~" else "+" + displayed


class CheckQueue:
    """Commands that wait for the hashing thread, at most CHECKS_MAX.

    Networks take turns, and so do the addresses of each; an IPv4 address is a network by itself. Many guesses from one
    delay only that one, and fill the queue for that one only: where most wait, the newest makes room for others.
    """

    def __init__(self) -> None:
        self._waiting: dict[object, dict[str, deque[Flow]]] = {}  # by network and address, the next one first
        self._counts: Counter[object] = Counter()  # by network
        self._running = 0

    def __len__(self) -> int:
        return self._counts.total() + self._running

    @property
    def seconds(self) -> int:
        """The time after which one that has found no place may try again."""
        return 1 + self._counts.total() // CHECKS_A_SECOND

    def put(self, flow: Flow) -> Flow | None:
        """This flow waits now. Returned is the one for which there is no place then, this or another, or None."""
        address = flow.connection.address
        network = network_of(address)
        where: object = address if network is None else network
        queue = self._waiting.setdefault(where, {}).setdefault(address, deque())
        queue.append(flow)
        self._counts[where] += 1
        if len(queue) <= CHECKS_AN_ADDRESS:
            if self._counts.total() <= CHECKS_MAX:
                return None
            where = max(reversed(self._waiting), key=self._counts.__getitem__)
            addresses = self._waiting[where]
            address = max(reversed(addresses), key=lambda each: len(addresses[each]))
        return self._take(where, address, newest=True)

    def next(self) -> Flow | None:
        """The flow whose turn it is, if a slot is free. It has no slot yet: see `begin`."""
        if not self._waiting or self._running >= CHECKS_AT_ONCE:
            return None
        where, addresses = next(iter(self._waiting.items()))
        address = next(iter(addresses))
        flow = self._take(where, address)
        if address in addresses:
            addresses[address] = addresses.pop(address)  # behind the other addresses
        if addresses:
            self._waiting[where] = self._waiting.pop(where)  # behind the other networks
        return flow

    def _take(self, where: object, address: str, newest: bool = False) -> Flow:
        """The oldest or newest flow of this address, which waits no longer."""
        addresses = self._waiting[where]
        flow = addresses[address].pop() if newest else addresses[address].popleft()
        self._counts[where] -= 1
        if not addresses[address]:
            del addresses[address]
        if not addresses:
            del self._waiting[where], self._counts[where]
        return flow

    def begin(self, flow: Flow) -> None:
        """This flow takes a slot."""
        flow.has_slot = True
        self._running += 1

    def end(self, flow: Flow) -> None:
        """This flow is over, and so is its use of a slot, if it has one."""
        self._running -= flow.has_slot


class Statuses:
    """Which accounts have a status on disk that is no longer true, and the one job at a time that mends it.

    A login or logout that is being written claims its name: another one is refused, and its status waits.
    """

    def __init__(self) -> None:
        self._changed: dict[str, None] = {}  # keys of the accounts
        self._claims: set[str] = set()  # names of which a login or logout is being written
        self._job: DiskJob | None = None  # the one under way
        self._not_before = NEVER  # earliest time of the next job
        self._use_at = NEVER  # time at which all tokens in use are next recorded as such
        self.due = FOREVER  # time at which `work` has something to do; FOREVER while all that is left has to wait

    @contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """In the block a login or logout of this name is written; refused if another one is."""
        self.refuse_claimed(key)
        self._claims.add(key)
        try:
            yield
        finally:
            self._claims.discard(key)
            self._plan()

    def refuse_claimed(self, key: str) -> None:
        """Refuse to go on while a login or logout of this name is being written."""
        if key in self._claims:
            raise RefusedError(Code.BUSY, "1 s to wait: somebody is logging in or out under this name")

    def mark(self, key: str) -> None:
        """The status of this account has changed, or may have."""
        self._changed[key] = None
        self._plan()

    def mark_use(self, now: float, sessions: dict[str, Session]) -> None:
        """Now and then the tokens of all who are there count as used again."""
        if now >= self._use_at:
            self._use_at = now + RECORD_USE
            self._changed.update((key, None) for key, session in sessions.items() if session.kept)
            self._plan()

    def _plan(self) -> None:
        self.due = self._not_before if self._changed and self._job is None else FOREVER

    def work(self, now: float, wall: float, sessions: dict[str, Session]) -> list[Job]:
        """The job that is due, if there is one; claimed names have to wait."""
        self.due = FOREVER
        statuses = {key: status_of(sessions.get(key)) for key in self._changed if key not in self._claims}
        self._changed = {key: None for key in self._changed if key in self._claims}
        if not statuses:
            return []
        self._not_before = now + RECORD_PAUSE
        self._job = DiskJob("record_statuses", statuses, wall)
        return [self._job]

    def done(self, job: Job, result: object, now: float) -> list[str]:
        """The result of a job, if it is ours: keys of the accounts that have no token on disk any more."""
        if job is not self._job or self._job is None:
            return []
        statuses, self._job = self._job.arguments[0], None
        failed = isinstance(result, StorageFailedError)
        if failed:
            self._changed.update(dict.fromkeys(statuses))
            self._not_before = max(self._not_before, now + RECORD_AGAIN)  # FOREVER stays so
        self._plan()
        return [] if failed else typing.cast("list[str]", result)

    def at_a_stop(self, sessions: dict[str, Session]) -> dict[str, str]:
        """The status of everybody after the restart; from now on there is no other work."""
        self._not_before = self.due = FOREVER
        statuses = dict.fromkeys((*self._changed, *self._claims), OFFLINE)
        statuses.update((key, LOST if session.kept else OFFLINE) for key, session in sessions.items())
        return statuses


def status_of(session: Session | None) -> str:
    """The status on disk of an account that has this session, or none."""
    if session is None:
        return OFFLINE
    return ONLINE if session.connection is not None else LOST


class Post:
    """Frames for people: written at once, or held until they are ACKed; and the fate of every message.

    A fate is told to `sender`, the session that the message is from, under `tag`, its tag. Of a message to several,
    `sender` is the group, and `tag` the name of one of its people.
    """

    __slots__ = ("_presence", "held_bytes", "overfull")

    def __init__(self, presence: PresenceBoard) -> None:
        self._presence = presence
        self.held_bytes = 0  # for all kept sessions together
        self.overfull: list[Session] = []  # people who never ACK: their sessions are to be ended

    def deliver(
        self, session: Session, words: str | bytes, sender: Session | Group | None = None, tag: str = ""
    ) -> None:
        """The next frame for this person; `sender` is told its fate under `tag`.

        If the session is kept, the frame is numbered and held until it is ACKed, and said now if it is its turn.
        """
        connection, held = session.connection, session.held
        text = words.encode() if isinstance(words, str) else words
        if held is None:
            if connection is not None:
                connection.write(frame(text))
            return
        caught_up = held.sent == held.last
        whole = held.hold(text, sender, tag)
        self.held_bytes += len(whole)
        if caught_up and connection is not None and connection.outbox_bytes + connection.unsent < BACKLOG_MAX:
            held.sent += 1
            connection.write(whole)
        if len(held.frames) > ASK_FRAMES or held.size > ASK_BYTES:
            self._ask_for_ack(session, held)

    def may_hold(self, held: Held, size: int) -> bool:
        """Whether a message of so many bytes may be held for this person."""
        if len(held.frames) >= QUEUE_FRAMES or held.size + size > QUEUE_BYTES:
            return False
        return self.held_bytes + size <= HELD_IN_ALL_MAX or held.size + size <= HELD_LITTLE

    def _ask_for_ack(self, session: Session, held: Held) -> None:
        """The queue is half full, or more: ask the client for an ACK, and end a session that never gives one."""
        if session.connection is not None and not held.asked:
            held.asked = True
            session.connection.write(PING)
        if self._never_acks(held):
            self.overfull.append(session)

    def _never_acks(self, held: Held) -> bool:
        """Whether so much is un-ACKed that the client never ACKs."""
        most = HELD_BYTES_MAX if self.held_bytes <= HELD_CROWDED else HELD_BYTES_CROWDED
        return len(held.frames) >= HELD_FRAMES_MAX or (held.size > most and len(held.frames) > 2)

    def find_overfull(self, sessions: Iterable[Session]) -> None:
        """If it is crowded, those who fill it are ended, also while they say nothing, or are lost."""
        if self.held_bytes > HELD_CROWDED:
            self.overfull += [each for each in sessions if each.held is not None and self._never_acks(each.held)]

    def catch_up(self, session: Session, all_of_it: bool = False) -> None:
        """Go on with the held frames that this connection has not had, as long as it takes them.

        One that has had all is sent the roster, if it was behind with that.
        """
        connection, held = session.connection, session.held
        if connection is None:
            return
        if held is not None:
            while held.unsaid:
                if connection.backlog >= BACKLOG_MAX and not all_of_it:
                    return
                connection.write(held.say_next())
        if connection.version == STALE:
            self._presence.owe_roster(session)

    def acknowledge(self, held: Held, number: int) -> None:
        """The client has shown everything up to this number: the senders are told."""
        size = held.size
        shown = held.acknowledge(number)
        self.held_bytes -= size - held.size
        for _, _, sender, tag in shown:
            if isinstance(sender, Session) and not sender.over:
                self.deliver(sender, f"#{tag} OK SEND")  # as `settle` does it: a call less for every message
            elif sender is not None:  # else it is an answer, or the message had no tag
                self.settle(sender, tag, None)

    def settle(self, sender: Session | Group, tag: str, code: Code | None, why: str = "") -> None:
        """The fate of a message, None if it was shown. Nobody is told if the sender is not there any more.

        A group tells it when the fate of all its people is known.
        """
        if isinstance(sender, Group):
            if sender.settle(tag, code):
                self.answer_for(sender)
        elif not sender.over:
            self.deliver(sender, f"#{tag} {'OK SEND' if code is None else error(code, why)}")

    def answer_for(self, group: Group) -> None:
        """The fate of all people of a group is known: its sender is told."""
        if group.tag and not group.sender.over:
            self.deliver(group.sender, f"#{group.tag} {group.answer}")

    def settle_all(self, session: Session, tell: bool) -> None:
        """Nobody will ACK what is held for this person any more; if `tell`, its senders are told what is known."""
        held, name = session.held, session.name
        if held is None:
            return
        for number, (_, _, sender, tag) in enumerate(self._let_go(held), held.acked + 1):
            if sender is None or not tell:
                continue
            if number <= held.written:
                self.settle(sender, tag, Code.UNCONFIRMED, f"{name} left without confirming it")
            else:
                self.settle(sender, tag, Code.NOT_DELIVERED, f"{name} has left")

    def adopt(self, session: Session, old: Held) -> None:
        """The messages held for the session before, not its answers, are said to this one."""
        for number, (text, _, sender, tag) in enumerate(self._let_go(old), old.acked + 1):
            if not text.startswith(b"MSG "):
                continue
            self.deliver(session, text, sender, tag)
            if session.held is None:
                if sender is not None:
                    self.settle(sender, tag, None)
            elif number <= old.written:
                session.held.count_as_written()

    def _let_go(self, held: Held) -> list[HeldFrame]:
        """Hold and count none of it any more, and return it."""
        self.held_bytes -= held.size
        return held.let_go()


class Spread:
    """Messages to several: the limits for them, and handing them out to so many people a turn.

    The senders take turns. Until a message is handed out, its sender's later frames wait, also those of a new session
    of that name: so everybody has them in the same order.
    """

    def __init__(self, sessions: dict[str, Session], clock: Clock, post: Post) -> None:
        self._sessions = sessions
        self._clock = clock
        self._post = post
        self._listed = Allowance(*LISTED)  # by account: people in lists
        self._to_all = Allowance(*TO_ALL)  # by account: messages to everybody
        self._again = Allowance(SENT_AGAIN_MAX, SENT_AGAIN_PAUSE)  # by account: those sent again after a restart
        # Messages under way, with their bytes for each person; each sender has one at the most.
        self.waiting: list[tuple[Flow, int]] = []
        self._left = 0  # people whom they still have to be handed to

    def put(self, flow: Flow, size: int) -> None:
        """This one waits for its next share."""
        self.waiting.append((flow, size))

    def under_way(self, key: str) -> Flow | None:
        """The message that somebody with this key, in whatever session, has not finished to hand out."""
        return next((flow for flow, _ in self.waiting if flow.session is not None and flow.session.key == key), None)

    def shares(self) -> Iterator[tuple[Flow, int]]:
        """Those that go on in this turn, and how many people each may serve. One that is not done is `put` again."""
        people, room = SPREAD_SLICE, SPREAD_BYTES
        waiting, self.waiting = self.waiting, []
        for place, (flow, size) in enumerate(waiting):
            if people <= 0 or room <= 0:
                self.waiting[:0] = waiting[place:]  # they come first in the next turn
                return
            share = max(1, min(people, room // size) // (len(waiting) - place))
            people -= share
            room -= share * size
            yield flow, share

    def to_all(self, sender: Session, tag: str, text: str) -> Steps:
        """To everybody else who is here now."""
        if len(self._sessions) == 1:
            raise RefusedError(Code.NOT_ONLINE, "nobody else is online")
        self._limit(sender, self._to_all, 1)
        people = [session for session in self._sessions.values() if session is not sender]
        return self._hand_out(Group(sender, tag, len(people), []), people, EVERYBODY, text)

    def to_list(self, sender: Session, tag: str, listed: dict[str, str], text: str) -> Steps:
        """To those of the listed names who are here, once to each."""
        here = [self._sessions[key] for key in listed if key in self._sessions]
        if not here:
            raise RefusedError(Code.NOT_ONLINE, "none of them is online" if listed else "that is only you")
        self._limit(sender, self._listed, len(here))
        listed.update({session.key: session.name for session in here})
        group = Group(sender, tag, len(listed), list(listed.values()))
        for key, name in listed.items():
            if key not in self._sessions:
                group.settle(name, Code.NOT_ONLINE)
        return self._hand_out(group, here, ",".join(session.name for session in here), text)

    def _limit(self, sender: Session, limit: Allowance, count: int) -> None:
        """Refuse a message beyond the limits, unless it may be one that is sent again after a restart."""
        if self._left + len(self._sessions) > SPREAD_MAX:
            raise RefusedError(Code.TOO_MANY, f"{SPREAD_AGAIN} s to wait: too many people write to everybody now")
        if sender.sent_again and not self._again.take(sender.key, self._clock.now):
            sender.sent_again -= 1
        elif wait := limit.take(sender.key, self._clock.now, count):
            raise RefusedError(Code.TOO_MANY, f"{math.ceil(wait)} s to wait: you wrote to many people")

    def _hand_out(self, group: Group, people: list[Session], to: str, text: str) -> Steps:
        """Queue a message for these people; a later session of the same name gets it in place of an earlier one."""
        sender, tag = group.sender, group.tag
        words = f"MSG {sender.name}>{to} {tag or '0'} {self._clock.stamp or self._clock.make_stamp()} {text}"
        payload = words.encode()  # once for all
        whole = frame(payload)
        self._left += len(people)
        try:
            while people:
                share = yield Share(len(whole))
                shown = sum([self._hand(group, session, payload, whole) for session in people[:share]])
                if shown and group.count_shown(shown):
                    self._post.answer_for(group)
                self._left -= len(people[:share])
                del people[:share]
        finally:
            self._left -= len(people)  # none, unless a fault of ours has ended it
        return group.answer if group.failed and not tag else None

    def _hand(self, group: Group, session: Session, payload: bytes, whole: bytes) -> bool:
        """Queue the message of a group for one of its people. Whether it counts as shown by that."""
        recipient = self._sessions.get(session.key)
        if recipient is None:
            self._post.settle(group, session.name, Code.NOT_ONLINE)
        elif recipient.held is None:
            if recipient.connection is not None and recipient.connection.offer(whole):
                return True
            self._post.settle(group, session.name, Code.BUSY)
        elif self._post.may_hold(recipient.held, len(whole)):
            self._post.deliver(recipient, payload, group if group.tag else None, session.name)
        else:
            self._post.settle(group, session.name, Code.BUSY)
        return False


class Hub:
    """The whole behaviour of the server, without a socket, a file, a clock or a thread.

    A turn is: `wake` with the time; `connect`, `feed`, `sent`, `disconnect` and `complete` for all that has happened;
    `tick`. Then the caller empties these lists, and waits until `next_deadline` or until something happens:

        `ready`    connections with frames to write: `take` each once
        `closing`  connections to flush, to shut down for writing and to close: `disconnect` each when that is done
        `jobs`     work for two workers, one for each kind: `complete` each, those of one worker in their order
        `notes`    lines for the log
        `faults`   exceptions that should not have been; each has cost one connection

    Nothing that a client says, or a worker answers, raises. All times are seconds.

        >>> hub = Hub()
        >>> hub.wake(now=0.0, wall=0.0)
        >>> ann = hub.connect("10.0.0.1")
        >>> hub.feed(ann, encode("PING hi"))
        True
        >>> hub.tick()
        >>> [(connection is ann, hub.take(connection)) for connection in hub.ready]
        [(True, b'\\x00\\x00\\x00\\nOK PING hi')]
    """

    # Slots are for what there are many of, and here, in Post and in Clock for speed: 7 % of a streamed message.
    __slots__ = (
        "_checks", "_clock", "_gate", "_post", "_presence", "_spare", "_spread", "_statuses", "_stopping", "_strangers",
        "_taken", "_tokens", "_unread", "_walk", "closing", "faults", "frames",
        "jobs", "notes", "ready", "sessions", "settings",
    )  # fmt: skip

    def __init__(
        self, *, grace: float = GRACE, password_min: int = PASSWORD_MIN, connections_max: int = CONNECTIONS_MAX,
        registration: bool = True, registrations: int = REGISTRATIONS,
    ) -> None:  # fmt: skip
        self.settings = Settings(grace, password_min, connections_max, registration)
        self.ready: list[Connection] = []
        self.jobs: list[Job] = []
        self.closing: list[Connection] = []
        self.notes: list[str] = []
        self.faults: list[Exception] = []
        self.frames = 0  # number of frames that were written, for the statistics
        self.sessions: dict[str, Session] = {}  # by key: fold(name)
        self._tokens: dict[str, Session] = {}  # token -> kept session; the disk is asked about others
        self._strangers: dict[Connection, float] = {}  # connections on which nobody is logged in -> since when
        self._taken = 0  # number of frames in the piece that `take` gave last, for `sent`
        self._spare: FrameDecoder | None = None  # an empty decoder, for the next connection that bytes come from
        self._stopping = False
        self._unread: dict[Connection, None] = {}  # connections whose next frames are read in the next `tick`
        # Parts, each with a state of its own
        self._clock = Clock()
        self._walk = Walk()
        self._presence = PresenceBoard()
        self._statuses = Statuses()
        self._checks = CheckQueue()
        self._gate = Gate(registrations)
        self._post = Post(self._presence)
        self._spread = Spread(self.sessions, self._clock, self._post)

    # --- Time ---

    def wake(self, now: float, wall: float) -> None:
        """A turn begins at `now` (monotonic, as a deadline) and `wall` (Unix time, for stamps and the disk).

        If a turn that was due comes over LATE seconds late, the server was suspended: `Hub.now` leaves that time out.
        """
        before = self._clock.wall
        step, late = self._clock.begin(now, wall)
        if step and not self._stopping:
            self.jobs.append(DiskJob("record_clock_step", before, wall))
            self.notes.append(f"the clock was set by {step:+.0f} s")
        if late:
            self.notes.append(f"suspended for {late:.0f} s: no deadline counts them")

    def tick(self) -> None:
        """The end of a turn, after all that has happened was told: do what is due, then what was put off."""
        if self._walk.due <= self._clock.now:
            self._expire()
        if self._post.overfull:
            self._end_overfull()
        if self._presence.due <= self._clock.now:
            self._presence.tell(self._clock.now, self.sessions)
        self._gate.begin_turn(len(self._unread))
        if self._unread:
            unread, self._unread = self._unread, {}
            for connection in unread:
                self._read(connection)
            self._presence.send_rosters()  # before anything else is said to those who came back just now
        if self._spread.waiting:
            self._hand_out()
        if self._statuses.due <= self._clock.now:
            self.jobs += self._statuses.work(self._clock.now, self._clock.wall, self.sessions)
        if self._gate.refusals.due <= self._clock.now:
            self.notes += self._gate.refusals.lines(self._clock.now)

    def _expire(self) -> None:
        """Once a second: end the sessions that were lost for the grace time. Each turn: look at some connections."""
        if self._walk.begins(self._clock.now):
            since = self._clock.now - self.settings.grace
            lost = [each for each in self.sessions.values() if each.connection is None and each.lost_at <= since]
            for session in sorted(lost, key=lambda each: each.lost_at):
                self._end(session, "did not come back")
            self._walk.left = self.connections
            self._post.find_overfull(self.sessions.values())
            self._statuses.mark_use(self._clock.now, self.sessions)
        for connection in self._walk.some():
            why = connection.overdue(self._clock.now, self._strangers.get(connection, FOREVER))
            if why is not None:
                self._close(connection, why)

    def next_deadline(self) -> float | None:
        """The monotonic time at which the next turn is needed; None if that is when something happens.

        To be asked before every wait, when the lists are empty: by its answer `wake` sees that there was a suspension.
        """
        now = self._clock.now
        if self._unread or self._spread.waiting or self._post.overfull or self.ready or self.closing or self.jobs:
            when = now
        else:
            walk = self._walk.due if self._strangers or self.sessions else FOREVER
            when = max(now, min(walk, self._presence.due, self._statuses.due, self._gate.refusals.due))
        return self._clock.expect(when)

    @property
    def now(self) -> float:
        """The time of this turn as the hub counts it: monotonic, less the seconds in which it was suspended."""
        return self._clock.now

    # --- The server as a whole ---

    def restore(self, accounts: Iterable[Account]) -> None:
        """At a start, after the first `wake`: the sessions of these accounts are lost, for the grace time."""
        for account in accounts:
            self._mark_lost(self._bring_back(account))

    def shutdown(self) -> None:
        """The server stops: frames that were received are obeyed, everybody is told, and a last job is given.

        All of it is in the lists then. The job records the statuses after the restart. From now on no session begins
        and nobody's fate is told.
        """
        shares = 0
        while (self._unread or self._spread.waiting) and shares < LAST_SHARES:
            unread, self._unread = self._unread, {}
            shares += 1 + len(unread)
            self._hand_out()
            self._gate.begin_turn(len(unread))
            for connection in unread:
                self._read(connection)
        self._stopping = True
        self.notes += self._gate.refusals.lines(FOREVER)
        self.jobs.append(DiskJob("record_statuses", self._statuses.at_a_stop(self.sessions), self._clock.wall))
        for connection in self.connections:
            self._close(connection, Bye.SHUTDOWN)

    def figures(self) -> dict[str, int]:
        """The numbers that the operator may ask for, by what they count."""
        online = sum(session.connection is not None for session in self.sessions.values())
        return {
            "connections": self._gate.connections,
            "online": online,
            "lost": len(self.sessions) - online,
            "queued bytes": sum(connection.backlog for connection in self.connections),
            "held bytes": self._post.held_bytes,
            "passwords waiting": len(self._checks),
            "frames written": self.frames,
        }

    def rows(self, most: int, mark: Callable[[Connection], str]) -> list[Row]:
        """The connected and the lost, for the operator: at most so many, those first for whom the most bytes wait.
        `mark` says what to put behind the address of a connection."""
        people: list[tuple[Connection | None, Session | None]] = [(connection, None) for connection in self._strangers]
        people += [(session.connection, session) for session in self.sessions.values()]
        return [self._row(*person, mark) for person in heapq.nlargest(most, people, key=bytes_waiting)]

    def _row(
        self, connection: Connection | None, session: Session | None, mark: Callable[[Connection], str]
    ) -> Row:
        address, name, began, heard, unsent, held = "", "", self._clock.now, self._clock.now, (0, 0), (0, 0)
        if connection is not None:
            clog = connection.rare.clog
            frames = len(connection.outbox or ()) + (clog.frames if clog else 0)
            address, heard = connection.address + mark(connection), connection.heard
            unsent = connection.backlog, frames
            began = self._strangers.get(connection, self._clock.now)
        since = self._clock.wall - (self._clock.now - began)
        if session is not None:
            name, since = session.name, session.began
            heard = session.lost_at if connection is None else heard
            held = (session.held.size, len(session.held.frames)) if session.held else held
        return Row(address, name, since, self._clock.now - heard, unsent, held)

    # --- Connections ---

    def connect(self, address: str) -> Connection:
        """A new connection from this address, the IP address as text. It may be closed already: see `closed`.

        If the server is full, the oldest connection that is not logged in is closed; this one if there is no other, or
        if its address has too many.
        """
        address, admitted = self._gate.enter(address, self._clock.now)
        connection = Connection(self, address, self._clock.now)
        self._strangers[connection] = self._clock.now
        if not admitted:
            self._turn_away(connection, "too many connections from one address")
        elif self._gate.connections > self.settings.connections_max:
            self._turn_away(next(iter(self._strangers)), "the server is full")
        return connection

    def refuse_plain(self, connection: Connection) -> None:
        """It is not encrypted, and has to be: close it. Nothing that it says is obeyed."""
        if not connection.closed:
            self._gate.refusals.count("not encrypted", connection.address, self._clock.now)
            connection.write(encode(error(Code.ENCRYPTED_ONLY)))
            self._close(connection, "not encrypted")

    def _turn_away(self, connection: Connection, why: str) -> None:
        self._gate.refusals.count(why, connection.address, self._clock.now)
        self._close(connection, Bye.FULL)

    @property
    def connections(self) -> list[Connection]:
        """All connections but those that are being closed: the strangers' and the sessions'."""
        theirs = [session.connection for session in self.sessions.values() if session.connection is not None]
        return [*self._strangers, *theirs]

    def disconnect(self, connection: Connection, why: str = "connection lost") -> None:
        """This connection has ended; `why` is for the log. A kept session is lost by it, a plain one is over.

        To be called for every connection in the end, also for one that the hub has closed. A second call does nothing.
        """
        self._leave(connection, why)
        connection.outbox = None
        connection.decoder = EMPTY  # frees the bytes of its own: a flow may still hold the connection

    def _close(self, connection: Connection, why: Bye | str) -> None:
        """Mark a connection for closing, with BYE if `why` is one. Nothing that it says from now on is read."""
        if connection.closed:
            return
        if isinstance(why, Bye):
            connection.write(encode(f"BYE {why.value}"))
            why = why.value
        self.closing.append(connection)
        self._leave(connection, why)

    def _leave(self, connection: Connection, why: str) -> None:
        """Take a connection out of all tables; its last frames may still be unsent. Its session is lost, or over."""
        if connection.closed:
            return
        connection.closed = why
        connection.rare = ORDINARY
        self._gate.leave(connection.address)
        self._strangers.pop(connection, None)
        session = connection.session
        if session is None:
            return
        self._unplug(session)
        if session.kept and not self._stopping:
            self._mark_lost(session)
            self._statuses.mark(session.key)
            self.notes.append(f"{session.name} lost: {why}")
        else:
            self._end(session, why)

    def _unplug(self, session: Session) -> Connection | None:
        """Separate a session from its connection, and return that, if it has one."""
        connection, session.connection = session.connection, None
        if connection is not None:
            connection.session = None
        return connection

    def _cut_off(self, session: Session, why: Bye) -> bool:
        """Close the connection of a session that goes on, or ends, without it; whether it had one."""
        connection = self._unplug(session)
        if connection is not None:
            self._close(connection, why)
        return connection is not None

    def _mark_lost(self, session: Session) -> None:
        """This session has no connection any more; somebody may come back to it within the grace time."""
        session.lost_at = self._clock.now
        self._presence.show(session, "~" + session.name)

    def take(self, connection: Connection) -> bytes:
        """Everything in the outbox of this connection, in one piece, for the caller to write now.

        Only while `connection.unsent` is 0. If the system does not take all of it, `sent` is to be called before the
        next `take`: else the frames on their way are miscounted, and a recipient is `busy` too early or too late.
        """
        outbox, connection.outbox = connection.outbox or [], None
        data = outbox[0] if len(outbox) == 1 else b"".join(outbox)
        connection.outbox_bytes = 0
        self._taken = len(outbox)
        self.frames += self._taken
        session = connection.session
        if session is not None and session.held is not None and session.held.unsaid:
            self._post.catch_up(session)
        if connection.decoder is not EMPTY:
            self._read_on(connection)
        return data

    def sent(self, connection: Connection, unsent: int) -> None:
        """`unsent` bytes of the last piece are left: the system did not take all of it, or took some more of it.

        Not to be called if it took all at once. At 0 the caller puts a connection with an outbox into `ready` again.
        """
        if connection.closed:
            return
        facts = connection.facts
        clog = facts.clog
        if clog is not None:
            connection.heard = self._clock.now  # it made room: somebody reads at the other end
            if facts.begun is not None:  # an unfinished frame could not grow meanwhile: its time begins again
                facts.begun = self._clock.now, facts.begun[1]
        connection.unsent = unsent
        facts.clog = Clog(clog.frames if clog else self._taken, self._clock.now) if unsent else None
        if not unsent and connection.session is not None:
            self._post.catch_up(connection.session)
        if connection.decoder.buffered:
            self._read_on(connection)

    # --- Reading ---

    def feed(self, connection: Connection, data: bytes) -> bool:
        """Bytes that were read from this connection. False if frames of it wait, and nothing is to be read meanwhile.

        Then, and after each write that left something over, `connection.wants_reading` says when to read again.
        """
        if connection.closed:
            return True
        if connection.decoder is EMPTY:
            connection.decoder, self._spare = self._spare or FrameDecoder(0), None
        connection.decoder.feed(data)
        self._read(connection)
        return not connection.decoder.buffered or connection.wants_reading

    def _read(self, connection: Connection) -> None:
        """Obey the complete frames of a connection, as many as belong into one turn, while it takes the answers."""
        decoder = connection.decoder
        before = decoder.buffered
        if not before or connection.closed or connection.flow is not None:
            return
        member = connection.session is not None
        decoder.limit, most = (CLIENT_FRAME_MAX, self._gate.frames) if member else self._gate.share(decoder.pending)
        try:
            if not connection.behind:
                payloads = iter(decoder.payloads(most))
                if not self._obey(connection, payloads):
                    decoder.give_back(payloads)  # those that were not obeyed
        except BadFrameError as fault:
            connection.write(encode(error(Code.BAD_FRAME, str(fault))))
            self._close(connection, "bad frame")
        except Exception as fault:
            self._fail(connection, fault)
        left = decoder.buffered
        if left < before:
            connection.heard = self._clock.now
        if left and not (decoder.pending or connection.flow is not None or connection.closed):
            self._watch_half_frame(connection, left, progress=left < before)
        elif connection.rare is not ORDINARY:
            connection.rare.begun = None
        if left:
            self._read_on(connection)
        else:
            connection.decoder, self._spare = EMPTY, decoder

    def _watch_half_frame(self, connection: Connection, size: int, progress: bool) -> None:
        """An unfinished frame has `size` bytes: its time begins when it is new, and again with each HALF_FRAME_STEP.

        progress: other frames were finished just now, so this one is new.
        """
        facts = connection.facts
        if facts.begun is None or progress:
            facts.begun = self._clock.now, size
        elif size >= facts.begun[1] + HALF_FRAME_STEP:
            facts.begun = self._clock.now, size
            connection.heard = self._clock.now

    def _read_on(self, connection: Connection) -> None:
        """Frames that wait in the decoder are read in the next `tick`, unless a flow or a backlog has to end first.

        At the end of either this is called again.
        """
        if connection.decoder.pending and connection.flow is None and not connection.closed and not connection.behind:
            self._unread[connection] = None

    def _fail(self, connection: Connection, fault: Exception) -> None:
        """An exception that is our mistake, while this connection was served: close this one, and no other."""
        self.faults.append(fault)
        self._close(connection, "internal error")

    def _obey(self, connection: Connection, payloads: Iterator[bytes]) -> bool:
        """Obey these frames in order. False: one was obeyed behind which the others have to wait."""
        methods = METHODS[connection.session is not None]
        for payload in payloads:
            tag = verb = ""
            try:
                text = payload.decode()
                if payload[0] == HASH:
                    word, _, text = text[1:].partition(" ")
                    if not count_tag(connection.session, word):
                        continue
                    tag = word
                verb, _, rest = text.partition(" ")
                handler = methods.get(verb) or self._find_handler(connection, verb)
                answer = handler(self, connection, tag, rest)
            except RefusedError as refusal:
                answer, tag = refusal.answer, tag or failure_tag(verb)
            except UnicodeDecodeError:
                self._refuse_encoding(connection)
                if connection.closed:
                    return False
                continue
            if answer is None:
                continue
            if isinstance(answer, str):
                self._reply(connection, connection.session, tag, answer)
            else:
                connection.flow = flow = Flow(connection, tag or failure_tag(verb), answer)
                if connection.session is not None:
                    connection.session.flow = flow
                self._advance(flow, None)
                return False  # even if the flow is over already: the roster after a RESUME goes before later answers
            if connection.behind or connection.closed:
                return False
        return True

    def _find_handler(self, connection: Connection, verb: str) -> Handler:
        """The handler of a verb in any case; refused if it is not allowed here."""
        verb, logged_in = ascii_upper(verb), connection.session is not None
        if verb in METHODS[logged_in]:
            return METHODS[logged_in][verb]
        if verb in HANDLERS:
            raise RefusedError(Code.LOGGED_IN if logged_in else Code.NOT_LOGGED_IN)
        raise RefusedError(Code.BAD_COMMAND, "there is no such command; there are " + " ".join(HANDLERS))

    def _refuse_encoding(self, connection: Connection) -> None:
        connection.facts.encoding_faults += 1
        self._reply(connection, connection.session, "", error(Code.BAD_ENCODING))
        if connection.facts.encoding_faults >= ENCODING_FAULTS_MAX:
            self._close(connection, "not UTF-8")

    def _reply(self, connection: Connection, session: Session | None, tag: str, answer: str) -> None:
        """The one answer to a command: to the session, also a lost one, or to a stranger's connection."""
        words = f"#{tag} {answer}" if tag else answer
        if session is not None:
            self._post.deliver(session, words)
        elif not connection.closed:
            connection.write(encode(words))

    # --- Flows ---

    def _advance(self, flow: Flow, result: object) -> None:
        """Let a flow go on with the result of its job, up to its next job or to its answer."""
        try:
            steps = flow.steps
            job = steps.throw(result) if isinstance(result, StorageFailedError) else steps.send(result)
        except StopIteration as stop:
            answer = stop.value
        except RefusedError as refusal:
            answer = refusal.answer
        except StorageFailedError:
            answer = error(Code.STORAGE)
        except Exception as fault:
            answer = None
            self._fail(flow.connection, fault)
        else:
            if job is None:
                self._await_slot(flow)
            elif isinstance(job, Share):
                self._spread.put(flow, job.size)
            else:
                job.flow = flow
                self.jobs.append(job)
            return
        self._finish(flow, answer)

    def _finish(self, flow: Flow, answer: str | None) -> None:
        """A flow is over: it is answered, its slot is free, and its connection is read again."""
        session = flow.session
        if answer is not None and flow.is_wanted:
            self._reply(flow.connection, session, flow.tag, answer)
        if session is not None:
            for each in (session, self.sessions.get(session.key, session)):  # a later session may wait for it, too
                if each.flow is flow:
                    each.flow = None
        connection = flow.connection
        connection.flow = connection.session.flow if connection.session else None
        if connection.flow is not None:  # a flow of the session that was resumed here: it goes on before new frames
            connection.flow.connection = connection
        self._read_on(connection)
        self._checks.end(flow)

    def complete(self, job: Job, result: object) -> None:
        """A worker has done this job. `result` is what the method returned, or a StorageFailedError if it failed.

        Results of one worker come in the order of its jobs, also those of connections that have ended meanwhile.
        """
        if job.flow is not None:
            self._advance(job.flow, result)
            self._next_checks()
        else:  # a token that the operator has ended with `storage.py passwd` is no way back any more
            for session in filter(None, map(self.sessions.get, self._statuses.done(job, result, self._clock.now))):
                self._forget_token(session)

    def _await_slot(self, flow: Flow) -> None:
        """Queue for the hashing thread."""
        left_out = self._checks.put(flow)
        if left_out is not None:
            left_out.steps.close()
            words = f"{self._checks.seconds} s to wait: many passwords are being checked"
            self._finish(left_out, error(Code.BUSY, words))
        self._next_checks()

    def _next_checks(self) -> None:
        while (flow := self._checks.next()) is not None:
            if flow.is_wanted:
                self._checks.begin(flow)
                self._advance(flow, None)
            else:
                flow.steps.close()
                self._finish(flow, None)

    # --- Accounts ---

    def _register(self, connection: Connection, tag: str, rest: str) -> Steps:
        """REGISTER <username> <password>"""
        name, password = two_words("REGISTER", rest)
        username = clean_name(name)
        if not self.settings.registration:
            self._gate.refusals.count("new accounts are closed", connection.address, self._clock.now)
            raise RefusedError(Code.CLOSED)
        if username is None:
            raise RefusedError(Code.BAD_USERNAME)
        if fold(username) in WORDS_FOR_PEOPLE:
            raise RefusedError(Code.BAD_USERNAME, NO_NAME)
        if password.isascii():  # any other one is looked at when it has a slot
            refuse_password(password, username, self.settings.password_min)
        key = fold(username)
        if (yield DiskJob("find", key)) is not None:
            raise RefusedError(Code.NAME_TAKEN)
        self._gate.refuse_registration(connection.address, self._clock.now)
        yield A_SLOT
        password_hash = yield from self._hash_new(password, username)
        if not (yield DiskJob("add", username, key, password_hash, self._clock.wall)):
            taken = (yield DiskJob("find", key)) is not None
            words = "" if taken else f"{username} looks like a name that is taken: choose another one"
            raise RefusedError(Code.NAME_TAKEN, words)
        self._gate.succeed(key, connection.address)
        self.notes.append(f"{username} registered from {connection.address}")
        return f"OK REGISTER {username}"

    def _hash_new(self, password: str, name: str) -> Generator[Job, typing.Any, str]:
        """The hash of the password that this person chooses, for a flow that has a slot; refused if it may not be."""
        password = clean_password(password)
        refuse_password(password, name, self.settings.password_min)
        return typing.cast("str", (yield HashJob("hash_password", password)))

    def _check_password(self, key: str, password: str, address: str) -> Generator[Job | None, typing.Any, typing.Any]:
        """The account and a better hash for it, after its password was found right; refused otherwise.

        An unknown name and a wrong password cost the same work and get the same answer. The failure is recorded
        without waiting for it: that takes longer for a known name, and would tell that it is one.
        """
        self._gate.refuse_guess(key, address, self._clock.now)
        yield A_SLOT
        self._gate.refuse_guess(key, address, self._clock.now)  # others may have failed while this one waited
        return (yield from self._compare_password(key, password, address))

    def _compare_password(self, key: str, password: str, address: str) -> Generator[Job, typing.Any, typing.Any]:
        """As `_check_password`, for a flow that has a slot: to make a password clean may take a millisecond."""
        password = clean_password(password)
        account: Account | None = yield DiskJob("find", key)
        right, better = yield HashJob("check_password", password, account.password if account else None)
        if account is not None and right:
            self._gate.succeed(account.key, address)
            return account, better
        self._gate.fail(key, address, self._clock.now)
        self.jobs.append(DiskJob("record_failure", key, self._clock.wall))
        self.notes.append(f"wrong name or password from {address}")
        raise RefusedError(Code.BAD_LOGIN)

    def _passwd(self, connection: Connection, tag: str, rest: str) -> Steps:
        """PASSWD <password>\\n<new password>"""
        old, _, new = rest.partition("\n")
        session = connection.session
        if session is None or not (old and new):
            raise RefusedError(Code.BAD_COMMAND, HANDLERS["PASSWD"].form)
        if new.isascii():
            refuse_password(new, session.name, self.settings.password_min)
        key, address = session.key, connection.address
        account, _ = yield from self._check_password(key, old, address)
        password_hash = yield from self._hash_new(new, session.name)
        while not (yield DiskJob("change_password", key, account.password, password_hash)):
            account, _ = yield from self._compare_password(key, old, address)
        self.notes.append(f"{session.name} changed the password")
        return "OK PASSWD"

    # --- Logging in and out ---

    def _keep(self, connection: Connection, tag: str, rest: str) -> str:
        """KEEP: the next login on this connection begins a kept session."""
        expect_alone(rest)
        connection.facts.keep = True
        return f"OK KEEP {self.settings.grace:.0f}"

    def _login(self, connection: Connection, tag: str, rest: str) -> Steps:
        """LOGIN <username> <password>"""
        return self._log_in(connection, "LOGIN", tag, rest)

    def _takeover(self, connection: Connection, tag: str, rest: str) -> Steps:
        """TAKEOVER <username> <password>"""
        return self._log_in(connection, "TAKEOVER", tag, rest)

    def _log_in(self, connection: Connection, verb: str, tag: str, rest: str) -> Steps:
        name, password = two_words(verb, rest)
        key, address = key_of(name), connection.address
        account, better = yield from self._check_password(key, password, address)
        if connection.closed:
            return None
        self._statuses.refuse_claimed(key)
        session = self.sessions.get(key)
        if session is not None and session.connection is not None and verb == "LOGIN":
            self._probe(session.connection)
            since = f"since {format_time(session.began)} from {session.connection.address}"
            raise RefusedError(Code.ALREADY_ONLINE, f"{session.name} is online {since}; TAKEOVER ends that session")
        kept = connection.rare.keep
        with self._statuses.claim(key):
            while (token := (yield DiskJob("log_in", key, account.password, better, kept, self._clock.wall))) is None:
                # Meanwhile the operator has changed the password or removed the account, or another login the hash.
                account, better = yield from self._compare_password(key, password, address)
        if connection.closed:
            self._statuses.mark(key)
            return None
        answer = f"OK {verb} {account.username}"
        answer += f" token={token}" if token else ""
        answer += f" last={format_time(account.last_login)}" if account.last_login else ""
        answer += f" failed={account.failures}" if account.failures else ""
        self._reply(connection, None, tag, answer)
        self._begin(connection, account, token)
        return None

    def _probe(self, connection: Connection) -> None:
        """Somebody else logs in with the right password: PING this connection, since it may be dead."""
        facts = connection.facts
        if facts.probed < connection.heard:
            facts.probed = self._clock.now
            connection.write(PING)

    def _begin(self, connection: Connection, account: Account, token: str) -> None:
        """A session begins here, kept if it has a token. Messages held for a lost or replaced one come first."""
        old = self.sessions.get(account.key)
        session = Session(account.username, account.key, Held() if token else None, self._clock.wall)
        session.flow = self._spread.under_way(session.key)
        self.sessions[session.key] = session
        if token:
            self._know_token(session, token)
        if old is not None:
            self._retire(old)
            if self._cut_off(old, Bye.REPLACED):
                self.notes.append(f"{old.name} left: taken over from {connection.address}")
        self._attach(connection, session, "logged in")
        if old is not None and old.held is not None:
            self._post.adopt(session, old.held)

    def _attach(self, connection: Connection, session: Session, how: str) -> None:
        """This connection is this session's from now on; the roster follows at the end of the turn."""
        session.connection = connection
        connection.session = session
        self._strangers.pop(connection, None)
        connection.forget_keep()
        self._presence.owe_roster(session)
        self._presence.show(session, session.name)
        self.notes.append(f"{session.name} {how} from {connection.address}")

    def _resume(self, connection: Connection, tag: str, rest: str) -> Steps:
        """RESUME <token> <seq>"""
        token, number = two_words("RESUME", rest)
        seq = parse_number(number)
        if seq is None:
            raise RefusedError(Code.BAD_COMMAND, HANDLERS["RESUME"].form)
        session = self._tokens.get(token)
        if session is None:
            session = yield from self._find_session(connection, token)
        else:
            self._statuses.refuse_claimed(session.key)
        if connection.closed:
            return None
        if session is None:
            raise RefusedError(Code.UNKNOWN_SESSION)
        held = session.held
        if held is not None and not held.numbered:
            held.number_from(seq)
        if held is None or seq > held.written:
            raise RefusedError(Code.UNKNOWN_SESSION)
        self._post.acknowledge(held, max(seq, held.acked))
        self._cut_off(session, Bye.RESUMED)
        self._reply(connection, None, tag, f"OK RESUME {session.name} {session.last_tag} {held.acked}")
        held.rewind()
        self._attach(connection, session, "resumed")
        self._gate.succeed(session.key, connection.address)
        self._statuses.mark(session.key)
        self._post.catch_up(session)
        return None

    def _find_session(self, connection: Connection, token: str) -> Generator[Job, typing.Any, Session | None]:
        """The session of the account that has this token on disk, a new one if it is gone; None without an account."""
        account: Account | None = yield DiskJob("find_token", token, self._clock.wall)
        if account is None or connection.closed:
            return None
        self._statuses.refuse_claimed(account.key)
        session = self.sessions.get(account.key) or (yield from self._restart(connection, account))
        if session is not None:
            self._know_token(session, token)
        return session

    def _restart(self, connection: Connection, account: Account) -> Generator[Job, typing.Any, Session | None]:
        """A new kept session under an old token. Before it begins the disk has recorded that its user is online."""
        with self._statuses.claim(account.key):
            ended = yield DiskJob("record_statuses", {account.key: ONLINE}, self._clock.wall)
        if ended or connection.closed:  # the operator has ended the token, or the client has left
            self._statuses.mark(account.key)
            return None
        return self._bring_back(account)

    def _bring_back(self, account: Account) -> Session:
        """A new, empty kept session for a token whose session is gone."""
        session = Session(account.username, account.key, Held(numbered=False), self._clock.wall)
        session.sent_again = SENT_AGAIN_MAX
        session.flow = self._spread.under_way(session.key)
        self.sessions[session.key] = session
        return session

    def _logout(self, connection: Connection, tag: str, rest: str) -> Steps:
        """LOGOUT"""
        expect_alone(rest)
        session = connection.session
        if session is None:
            return None
        with self._statuses.claim(session.key):
            yield DiskJob("record_logout", session.key, self._clock.wall)
        self._post.catch_up(session, all_of_it=True)  # every command has its answer, also before a logout
        here = self._unplug(session)  # None if the connection was lost meanwhile
        self._end(session, "logged out")
        if here is not None:
            self._strangers[here] = self._clock.now
            self._reply(here, None, tag, "OK LOGOUT")
        return None

    # --- Talking ---

    def _send(self, connection: Connection, tag: str, rest: str, sender: Session | None = None) -> str | Steps | None:
        """SEND <to> <text>"""
        name, _, text = rest.partition(" ")
        sender = sender or connection.session
        if not (name and text) or sender is None:
            raise RefusedError(Code.BAD_COMMAND, HANDLERS["SEND"].form)
        recipient = self.sessions.get(name) or self.sessions.get(key_of(name))
        if recipient is None:
            if name == EVERYBODY:
                return self._spread.to_all(sender, tag, text)
            if "," in name:
                return self._send_to_list(connection, sender, tag, rest)
            raise RefusedError(Code.NOT_ONLINE, f"{name} is not online" if 0 < len(name) <= NAME_MAX else "")
        words = f"MSG {sender.name} {tag or '0'} {self._clock.stamp or self._clock.make_stamp()} {text}"
        held = recipient.held
        if held is not None:
            if self._post.may_hold(held, len(rest.encode())):  # and a little more, for the sender's name and the time
                self._post.deliver(recipient, words, sender if tag else None, tag)
                return None
        elif recipient.connection is not None and recipient.connection.offer(encode(words)):
            return "OK SEND" if tag else None
        raise RefusedError(Code.BUSY, f"too much is waiting for {recipient.name}, try again soon")

    def _send_to_list(self, connection: Connection, sender: Session, tag: str, rest: str) -> Steps:
        """SEND <username>,<username> <text>: a message to one if only one is left besides the sender.

        A flow from the start, so that a connection has one list a turn.
        """
        names, _, text = rest.partition(" ")
        if not names.isascii():
            yield Share(LIST_READING)
        listed = parse_list(names)
        listed.pop(sender.key, None)
        if len(listed) == 1:
            answer = self._send(connection, tag, f"{next(iter(listed.values()))} {text}", sender)
            return answer if isinstance(answer, str) else None
        return (yield from self._spread.to_list(sender, tag, listed, text))

    def _hand_out(self) -> None:
        """The messages to several go on, each to some people a turn."""
        for flow, share in self._spread.shares():
            self._advance(flow, share)

    def _ack(self, connection: Connection, tag: str, rest: str) -> None:
        """ACK <seq>: it has no answer, whatever is wrong with it."""
        held = connection.session.held if connection.session is not None else None
        seq = parse_number(rest)
        if held is not None and seq is not None and held.acked < seq <= held.written:
            self._post.acknowledge(held, seq)

    def _end(self, session: Session, why: str) -> None:
        """A session is over, and so is what was held for it."""
        if session.over:
            return
        self._retire(session)
        del self.sessions[session.key]
        self._presence.show(session, None)
        self._statuses.mark(session.key)
        comes_back = session.kept and self._stopping
        self.notes.append(f"{session.name} {'lost' if comes_back else 'left'}: {why}")
        self._post.settle_all(session, tell=not self._stopping)  # after a restart its senders ask again

    def _retire(self, session: Session) -> None:
        """This session has ended, or another one has taken its place: nobody comes back to it."""
        session.over = True
        self._forget_token(session)

    def _know_token(self, session: Session, token: str) -> None:
        """From now on this token, and no other, leads back to the session, if it is kept."""
        self._forget_token(session)
        if session.held is not None:
            session.held.token = token
            self._tokens[token] = session

    def _forget_token(self, session: Session) -> None:
        """From now on only the disk knows the token of this session."""
        if session.held is not None:
            self._tokens.pop(session.held.token, None)
            session.held.token = ""

    def _end_overfull(self) -> None:
        """End the sessions of clients that never ACK. With their tokens they may begin new ones."""
        overfull, self._post.overfull = self._post.overfull, []
        for session in overfull:
            self._cut_off(session, Bye.SLOW)
            self._end(session, "never ACKs")

    def _ping(self, connection: Connection, tag: str, rest: str) -> str:
        """PING [<text>]"""
        return f"OK PING {rest}" if rest else "OK PING"

    def _who(self, connection: Connection, tag: str, rest: str) -> str:
        """WHO"""
        expect_alone(rest)
        return "OK WHO " + self._presence.roster()


# A handler returns its answer (a str, such as `Hub._who`), None if there is none or it comes by itself (`Hub._ack`), or
# the steps of a flow (`Hub._register`). It raises RefusedError to refuse the command, in a flow as well.
Handler = Callable[[Hub, Connection, str, str], str | Steps | None]
# By whether somebody is logged in.
METHODS: dict[bool, dict[str, Handler]] = {
    logged_in: {verb: getattr(Hub, row.handler) for verb, row in HANDLERS.items() if logged_in in row.allowed}
    for logged_in in (False, True)
}


# --- The client -----------------------------------------------------------------------------------------------------

HELLO_SECONDS = 15.0  # for the first frame: whoever says nothing for so long is no Vessages server
QUIET_SECONDS = PING_AFTER + 5.0  # without a frame, after which the server, which should have asked, is asked
LOOK_SECONDS = 1.0  # after a suspension: the server's words may already wait to be read, or be on their way
# A login that must wait (the server is busy, or still holds our own dead connection, which takes it 5 s to find out).
RETRY_SECONDS = 3.0
GHOST_RETRIES = 4
WAITING_SECONDS = 3.0  # a message without a fate for so long is worth a word to its author

SENDS_UNDER_WAY = 64  # SENDs without a fate that a server expects of one client at most; the rest waits here
QUEUE_MAX = 1_000  # commands that wait here: a pasted file fits, a runaway script is told `busy`
QUEUE_BYTES_MAX = 4 * MIB
SHOWN_MAX = 10_000  # remembered (from, id): 64 unanswered messages of each of 150 people
ROSTER_MAX = 1_000_000  # names; ten times what a frame of the server holds

# Codes that only a client gives, beside those of `Code`, with their sentences.
TOO_LONG = "too-long"
UNKNOWN = "unknown"
NOT_SENT = "not-sent"
CLIENT_CODES = {
    TOO_LONG: "that is too long: 64 KiB are the most, 4 KiB before the login",
    UNKNOWN: "the connection was lost before the answer came, so it is not known whether this arrived",
    NOT_SENT: "this was not sent",
}
BYE_WORDS = {
    Bye.SHUTDOWN.value: "the server is being stopped",
    Bye.SLOW.value: "the server gave up on this connection, it was too slow",
    Bye.SILENT.value: "the server heard nothing from here for too long",
    Bye.FULL.value: "the server is full",
    Bye.REPLACED.value: "somebody logged in elsewhere under this name (TAKEOVER)",
}
MUTE = "but it does not answer: check the port, or ask whoever runs the server"  # or a server that hangs
NOBODY_CAME = "nobody has logged in here for too long, so the server hung up; the next command connects again"


class Linked(NamedTuple):
    """There is a Vessages server at the other end. Nobody is logged in yet."""

    def __bool__(self) -> bool:
        return True  # As every event, so that `while event := next(events, None)` does not end at this one.


class LoggedIn(NamedTuple):
    """The answer to LOGIN or TAKEOVER: who one is, the login before (Unix seconds) and how many failed since."""

    tag: int
    name: str
    last: float | None
    failed: int


class Roster(NamedTuple):
    """The people here, at the login: names that are online and names whose connection is lost."""

    online: tuple[str, ...]
    lost: tuple[str, ...]


class Presence(NamedTuple):
    """The changes: who came, left, lost the connection, and came back after losing it."""

    came: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    returned: tuple[str, ...] = ()


class Message(NamedTuple):
    """A message from somebody. `time` is Unix seconds by the server's clock; `id` is the sender's tag, 0 if none.

    to: None if it is for this person alone, "*" if for everybody, or the names of those here whom the sender listed.
    """

    sender: str
    id: int
    time: float
    text: str
    to: tuple[str, ...] | str | None = None

    @property
    def reply_to(self) -> str:
        """The recipients of an answer in the same conversation, as `send` takes them.

        >>> Message("ann", 1, 0.0, "hi", ("bob", "eve")).reply_to, Message("ann", 1, 0.0, "hi", "*").reply_to
        ('ann,bob,eve', '*')
        """
        if isinstance(self.to, str):
            return self.to
        return ",".join((self.sender, *(self.to or ())))


class Delivered(NamedTuple):
    """The good fate of an own message. `time` is when it was written, or when one was logged in if that was later, in
    Unix seconds by the server's clock."""

    tag: int
    recipient: str  # a name, names with commas, or "*"
    text: str
    time: float = 0.0
    shown_to: int = 1  # people


class Failed(NamedTuple):
    """The bad fate of an own message: a `Code` word or one of CLIENT_CODES, and words for a person."""

    tag: int
    recipient: str
    text: str
    code: str
    words: str
    time: float = 0.0  # as in Delivered
    fates: tuple[tuple[str, str], ...] = ()  # with the code `partly`: names of those not shown it, each with its code


class Waiting(NamedTuple):
    """An own message has had no fate for some seconds. Told once; the fate still comes."""

    tag: int
    recipient: str
    text: str


class Answer(NamedTuple):
    """The OK to any other command, with what came with it."""

    tag: int
    verb: str
    words: str


class Refused(NamedTuple):
    """The ERROR to any other command. `wait`: seconds after which it may be tried again, 0 if unknown."""

    tag: int
    verb: str
    code: str
    words: str
    wait: int = 0


class NotYet(NamedTuple):
    """Coming back has to wait `seconds`; it is tried again by itself."""

    code: str
    words: str
    seconds: float


class LoginNeeded(NamedTuple):
    """Coming back as `name` is not possible without the person. All that was typed waits for the next login."""

    name: str
    code: str
    words: str


class LinkLost(NamedTuple):
    """The connection is over. `bye`: the server's reason, "" if it gave none. `come_back`: whether to dial again."""

    words: str
    bye: str
    come_back: bool


class NotVessages(NamedTuple):
    """Another program answers there, which does not speak this protocol. A LinkLost follows."""

    words: str


class Back(NamedTuple):
    """One is back: for how many seconds the link was lost, how many messages were missed, who changed.

    `ended`: the session was over meanwhile, and this is a new one: others may have been told that one had left.
    """

    name: str
    seconds: float
    messages: int
    changes: Presence
    ended: bool = False


SessionEvent = (
    Linked | LoggedIn | Roster | Presence | Message | Delivered | Failed | Waiting | Answer | Refused | NotYet
    | LoginNeeded | LinkLost | NotVessages | Back
)  # fmt: skip


class Command:
    """One command on its way, from being asked for until its answer. No NamedTuple: its repr must show no password."""

    __slots__ = (
        "asked", "by_itself", "doubtful", "name", "sent", "settled", "tag", "text", "transmitted", "verb", "written",
    )  # fmt: skip

    def __init__(self, tag: int, verb: str, name: str, text: str, asked: float, written: float) -> None:
        self.tag = tag
        self.verb = verb
        self.name = name  # of the person that it is about, "" if it is about nobody
        self.text = text  # the rest: a message, a password
        self.asked = asked  # monotonic seconds
        self.written = written  # the same in Unix seconds by the clock here; 0 if nobody told the time
        self.by_itself = False  # whether it is the session's own attempt to come back, whose answer is no event
        self.settled = False  # whether it has its answer
        self.transmitted = False  # whether it was ever sent, even if it waits to be sent again
        self.sent = 0.0  # when it was sent last, in monotonic seconds
        self.doubtful = False  # whether it was sent to a session that has ended: then it may have been obeyed there

    @property
    def wire_tag(self) -> int:
        """Its tag on the wire; 0: none.

        A LOGOUT has none: after a lost answer it is asked for again, its old tag would be one that was read before, and
        a new one would be greater than those of the commands that wait behind it.
        """
        return 0 if self.verb == "LOGOUT" else self.tag

    @property
    def size(self) -> int:
        """Bytes of the payload."""
        return len(self.frame()) - HEADER.size

    @property
    def fault(self) -> str:
        """The code with which it is refused before it is sent; "" if it can be sent."""
        if self.verb in NAMED and (not self.name or " " in self.name):  # it would be read as something else
            return Code.BAD_USERNAME.word
        return TOO_LONG if self.size > (STRANGER_FRAME_MAX if self.verb in STRANGERS_ONLY else CLIENT_FRAME_MAX) else ""

    def frame(self) -> bytes:
        """It as it goes over the wire. Half a surrogate pair (from a file name), which is no Unicode, becomes `?`."""
        words = [f"#{self.wire_tag}" * (self.wire_tag > 0), self.verb, self.name, self.text]
        return frame(" ".join(word for word in words if word).encode("utf-8", "replace"))

    def failed(self, code: str, words: str, wait: int, lead: float) -> Failed | Refused:
        """The event that it has failed. `words`: "" for the sentence of the code. `lead`: see `ClientSession`."""
        if self.doubtful and self.verb in ("SEND", "PASSWD") and code != Code.PARTLY.word:
            code, words = UNKNOWN, ""
        words = words or CLIENT_CODES.get(code) or next((each.explanation for each in Code if each.word == code), code)
        if self.verb == "SEND":
            fates = parse_fates(words) if code == Code.PARTLY.word else ()
            return Failed(self.tag, self.name, self.text, code, words, self.written + lead, fates)
        return Refused(self.tag, self.verb, code, words, wait)


def parse_fates(words: str) -> tuple[tuple[str, str], ...]:
    """Names and codes out of what the server says with `partly`.

    >>> parse_fates("bob=busy,eve=not-online shown to 1 of 3")
    (('bob', 'busy'), ('eve', 'not-online'))
    """
    pairs = [word.partition("=") for word in words.partition(" ")[0].split(",")]
    return tuple((name, code) for name, equals, code in pairs if equals)


class Stage(enum.Enum):
    """How far a client has come on its connection."""

    DOWN = "there is none"
    GREETING = "no frame yet"  # no secret is sent before there was one
    STRANGER = "not logged in"
    LOGGED_IN = "logged in"


class _NotVessagesError(Exception):
    """The other side broke the protocol."""


# Commands of strangers only, by the server's table: KEEP, REGISTER, LOGIN, TAKEOVER, RESUME.
STRANGERS_ONLY = frozenset(verb for verb, row in HANDLERS.items() if row.allowed == STRANGERS)
# Of the commands of a person those that say a name first, which must be one word.
NAMED = STRANGERS_ONLY | {"SEND"}
# While one of these is unanswered nothing else is sent: what may be said next depends on the answer.
BARRIERS = STRANGERS_ONLY | {"LOGOUT"}

SERVER_FRAME = re.compile(
    r"(?:@([1-9][0-9]{0,15}) )?(?:#([0-9]{1,16}) )?(OK|ERROR|MSG|ONLINE|PRESENCE|PING|BYE)(?: (.*))?", re.DOTALL
)


class Requests:
    """The commands that have no answer yet: those that were sent, and behind them those that wait to be sent."""

    def __init__(self, first_tag: int) -> None:
        self._last_tag = min(max(first_tag, 1), TAG_MAX // 2)  # a clock gone mad must not leave us without tags
        self._queue: deque[Command] = deque()  # not sent on this link yet, in order
        self._queue_bytes = 0
        self._sent: dict[int, Command] = {}  # by tag on the wire, in order
        self._untold: deque[Command] = deque()  # SENDs whose author was not told that they wait, oldest first

    def __len__(self) -> int:
        return len(self._sent) + len(self._queue)

    @property
    def has_room(self) -> bool:
        """Whether another command may be asked for."""
        return len(self._queue) < QUEUE_MAX and self._queue_bytes < QUEUE_BYTES_MAX

    @property
    def sends(self) -> list[Command]:
        """The messages among them, oldest first."""
        return [command for command in (*self._sent.values(), *self._queue) if command.verb == "SEND"]

    @property
    def first_waiting(self) -> Command | None:
        """The first of those that wait to be sent."""
        return self._queue[0] if self._queue else None

    @property
    def barrier(self) -> Command | None:
        """The command whose answer decides what may be said next. Nothing is sent behind it before that."""
        last = next(reversed(self._sent.values()), None)
        return last if last is not None and last.verb in BARRIERS else None

    def make(self, verb: str, name: str, text: str, now: float, written: float) -> Command:
        """A command with a tag of its own."""
        self._last_tag += 1
        return Command(self._last_tag, verb, name, text, now, written)

    def enqueue(self, command: Command, first: bool) -> bool:
        """Let it wait to be sent; False if there is no room. `first`: all that waits is waiting for this login."""
        frees_the_queue = first and bool(self._queue) and self._queue[0].verb not in STRANGERS_ONLY
        if not self.has_room and not frees_the_queue:
            return False
        if command.verb == "SEND":
            self._untold.append(command)
        if first:
            self.put_back(command)
        else:
            self._queue.append(command)
            self._queue_bytes += command.size
        return True

    def next(self) -> Command | None:
        """The command to be sent next; None if there is none, or if it has to wait for an answer."""
        if not self._queue or self.barrier is not None:
            return None
        most = SENDS_UNDER_WAY if self._queue[0].verb == "SEND" else QUEUE_MAX
        return self._queue[0] if len(self._sent) < most else None

    def take(self) -> Command:
        """Take the first that waits out of the queue, to be transmitted or refused."""
        command = self._queue.popleft()
        self._queue_bytes -= command.size
        return command

    def transmit(self, command: Command) -> None:
        """It is being sent."""
        self._sent[command.wire_tag] = command
        command.transmitted = True

    def answered(self, wire_tag: int) -> Command | None:
        """Take out the command that was sent with this tag; None if there is none."""
        return self._sent.pop(wire_tag, None)

    def put_back(self, command: Command) -> None:
        """It is the next to be sent."""
        self._queue.appendleft(command)
        self._queue_bytes += command.size

    def put_back_barrier(self) -> bool:
        """The link is lost: a barrier is asked for again behind the next one. False if there was none."""
        barrier = self.barrier
        if barrier is None:
            return False
        del self._sent[barrier.wire_tag]
        if not barrier.by_itself:
            self.put_back(barrier)
        return True

    def put_back_unread(self, last_tag: int) -> None:
        """The session has read the commands up to this tag, and answers them; those behind it are sent again.

        0 is another session, one after a restart, or one that has read nothing: they look alike.
        """
        for command in [each for each in reversed(self._sent.values()) if each.tag > last_tag]:
            del self._sent[command.wire_tag]
            command.doubtful |= last_tag == 0
            self.put_back(command)

    def take_unanswered_logout(self) -> Command | None:
        """Take out the LOGOUT that was sent on a link before this one and had no answer; None if there was none."""
        if self._queue and self._queue[0].verb == "LOGOUT" and self._queue[0].transmitted:
            return self.take()
        return None

    def give_up(self, before: int) -> list[Command]:
        """Take out all that was sent, and what waits with a tag below this one: commands that will have no answer.

        An attempt to come back that is under way stays: its answer tells whether somebody is logged in.
        """
        sent = [command for command in self._sent.values() if not command.by_itself]
        queued = [command for command in self._queue if command.tag < before]
        for command in sent:
            del self._sent[command.wire_tag]
        self._queue = deque(command for command in self._queue if command.tag >= before)
        self._queue_bytes = sum(command.size for command in self._queue)
        return sent + queued

    @property
    def next_untold(self) -> float:
        """When the author of a message is to be told that it waits."""
        return self._untold[0].asked + WAITING_SECONDS if self._untold else FOREVER

    def take_untold(self, now: float) -> list[Command]:
        """The messages whose authors are to be told now, once, that they have no fate yet."""
        late = []
        while self._untold and (self._untold[0].settled or now >= self.next_untold):
            command = self._untold.popleft()
            if not command.settled:
                late.append(command)
        return late


class Pace:
    """The server's limits for messages to several, so that they wait here and none of this session is refused for them.

    The server counts them when it reads them, and a network that stalls gives it many at once. So behind them there is
    a PING, and the time up to its answer does not count. One that is sent again counts again: the server may have
    counted it.

    >>> pace, message = Pace(), Command(1, "SEND", EVERYBODY, "hi", 0.0, 0.0)
    >>> [pace.holds_back(message, "ann", now=3.0 * number) for number in range(11)].index(True)
    10
    >>> pace.go_on(now=60.0)
    >>> pace.holds_back(message, "ann", now=60.0), pace.due > 63.0
    (True, True)
    """

    MARGIN = 1.05  # times the server's pause: its clock may be a little slower than ours

    def __init__(self) -> None:
        self._listed, self._to_all = [Allowance(burst, pause * self.MARGIN) for burst, pause in (LISTED, TO_ALL)]
        self.due = NEVER  # when the message that is held back may be sent
        self.unread = 0  # tag of the last message to several, if the server may not have read it yet; else 0
        self._stopped_at = 0.0  # time at which the first of these was sent
        self._uncounted = 0.0  # seconds that did not count

    def holds_back(self, command: Command, name: str | None, now: float) -> bool:
        """Whether this command has to wait. It counts as sent if not. `name`: the person who is logged in."""
        people = command.name.count(",") + 1
        if command.verb != "SEND" or (people == 1 and command.name != EVERYBODY):
            return False
        limit = self._to_all if command.name == EVERYBODY else self._listed
        start = self._stopped_at if self.unread else now
        wait = limit.take(name, start - self._uncounted, min(people, LIST_MAX))
        if wait:
            self.due = FOREVER if self.unread else now + wait
        else:
            self.unread, self._stopped_at = command.tag, start
        return wait > 0

    def go_on(self, now: float) -> None:
        """The server has read all that was sent."""
        if self.unread:
            self.unread, self.due = 0, NEVER
            self._uncounted += now - self._stopped_at


class RosterView:
    """The names that are here, as far as this client was told: it makes the events from what ONLINE and PRESENCE say.

    >>> view = RosterView()
    >>> view.take_online("bob eve ~ann", me="bob")
    Roster(online=('bob', 'eve'), lost=('ann',))
    >>> view.take_presence("+ann -eve +dan", me="bob")
    Presence(came=('dan',), left=('eve',), lost=(), returned=('ann',))
    """

    def __init__(self) -> None:
        self._lost: dict[str, bool] | None = None  # name -> is the connection lost? None: no ONLINE yet

    @property
    def is_known(self) -> bool:
        """Whether there was an ONLINE since the person has logged in."""
        return self._lost is not None

    @property
    def names(self) -> dict[str, bool]:
        """Name -> whether the connection is lost. A copy."""
        return dict(self._lost or {})

    @property
    def online(self) -> int:
        """How many are here whose connection is not lost."""
        return list((self._lost or {}).values()).count(False)

    def clear(self) -> None:
        """Nobody is logged in: nothing is known."""
        self._lost = None

    def take_online(self, words: str, me: str | None) -> Roster | Presence:
        """ONLINE, a whole roster: the first one of a login, or else what has changed."""
        before, self._lost = self._lost, {name.removeprefix("~"): name[0] == "~" for name in words.split()}
        if before is not None:
            return self._changes(before, self._lost, me)
        names = sorted(self._lost, key=fold)
        return Roster(tuple(n for n in names if not self._lost[n]), tuple(n for n in names if self._lost[n]))

    def take_presence(self, words: str, me: str | None) -> Presence:
        """PRESENCE: what has really changed, without ourselves."""
        if self._lost is None:
            return Presence()  # the ONLINE that is to come knows it all
        marks = {word[1:]: word[0] for word in words.split()}  # the last one of a name counts
        before = {name: self._lost[name] for name in marks if name in self._lost}
        for name, mark in marks.items():
            if mark == "-":
                self._lost.pop(name, None)
            else:
                self._lost[name] = mark == "~"
        if len(self._lost) > ROSTER_MAX:
            raise _NotVessagesError
        return self._changes(before, {name: self._lost[name] for name in marks if name in self._lost}, me)

    @staticmethod
    def _changes(before: dict[str, bool], after: dict[str, bool], me: str | None) -> Presence:
        here = sorted((name for name in after if name != me), key=fold)
        came = tuple(n for n in here if n not in before and not after[n])
        left = tuple(sorted((n for n in before if n not in after and n != me), key=fold))
        lost = tuple(n for n in here if after[n] and not before.get(n, False))
        returned = tuple(n for n in here if not after[n] and before.get(n, False))
        return Presence(came, left, lost, returned)


class Received:
    """A record of what the server has sent: its numbered frames, and which messages were had before.

    read >= taken >= shown >= acknowledged: a frame is read from the wire, taken by the caller as an event, shown to the
    person, and only then acknowledged.

    >>> received = Received()
    >>> received.count(1), received.count(2), received.count(2)
    (True, True, False)
    >>> received.take(), received.count(3), received.show(), received.all_shown
    (None, True, None, False)
    >>> received.ack(logged_in=True), received.ack(logged_in=True)
    (2, None)
    """

    def __init__(self) -> None:
        # (own name, sender, id) of the last SHOWN_MAX messages: another person here has not had them
        self._messages: dict[tuple[str, str, int], None] = {}
        self.ping_is_due = False  # whether a PING of the server waits for its ACK
        self.restart()

    def restart(self) -> None:
        """A new session begins, which counts from 1."""
        self._read = self._taken = self._acknowledged = 0
        self.shown = 0  # number of the last frame that was shown

    @property
    def all_shown(self) -> bool:
        """Whether the person has seen everything that was read."""
        return self.shown == self._read

    def count(self, number: int) -> bool:
        """A frame with this number was read. False if it was had before."""
        if number > self._read + 1:
            raise _NotVessagesError  # a frame is missing, and would never be asked for again
        new = number > self._read
        self._read = max(self._read, number)
        return new

    def is_new(self, me: str, sender: str, number: int) -> bool:
        """Whether a message was not had yet; it is from now on. One without a number is always new."""
        if not number:
            return True
        new = (me, sender, number) not in self._messages
        self._messages[me, sender, number] = None
        if len(self._messages) > SHOWN_MAX:
            del self._messages[next(iter(self._messages))]
        return new

    def take(self) -> None:
        """All that was read is being shown."""
        self._taken = self._read

    def show(self) -> None:
        """All that was taken has been shown."""
        self.shown = self._taken

    def ack(self, logged_in: bool) -> int | None:
        """The number that is to be acknowledged now, 0 by a stranger; None if there is nothing to say."""
        number = self.shown if logged_in else 0
        if number <= self._acknowledged and not self.ping_is_due:
            return None
        self._acknowledged, self.ping_is_due = max(self._acknowledged, number), False
        return number

    def resume(self) -> None:
        """A RESUME was answered, which said what was shown."""
        self._acknowledged = self.shown


class ServerWatch:
    """The time of a client, and whether the server is still there.

    After QUIET_SECONDS without a frame it is asked for life, after SILENT_AFTER it is given up. A program that was
    suspended (Ctrl-Z, a laptop's lid) has missed both, and its wait returned without what waits to be read: then the
    server is asked, and has LOOK_SECONDS more.
    """

    def __init__(self) -> None:
        self.now = 0.0  # monotonic seconds
        self.suspended_from: float | None = None  # time before a suspension that the link is not known to have outlived
        self._heard = 0.0  # time of the last sign of life
        self.asked = False  # whether the server was asked for another one
        self._patience = HELLO_SECONDS  # seconds after the last sign of life, after which it is given up
        self._expected = FOREVER  # latest time of the next thing that happens

    def begin(self, now: float) -> None:
        """There is a new connection, and the server is greeted."""
        self.now = self._heard = now
        self.suspended_from, self.asked, self._patience, self._expected = None, True, HELLO_SECONDS, FOREVER

    def advance(self, now: float) -> bool:
        """Something happens. Whether the program was suspended until now."""
        late = now - self._expected > LATE
        if late:
            self.suspended_from = self.now if self.suspended_from is None else self.suspended_from
            self._heard = max(self._heard, now - self._patience + LOOK_SECONDS)
        self.now = self._expected = now  # until somebody waits, the next thing is expected at once
        return late

    def hear(self) -> None:
        """The server has said something."""
        self._heard, self.asked, self._patience = self.now, False, SILENT_AFTER

    @property
    def due(self) -> float:
        """When the server is to be asked, or given up."""
        return self._heard + (self._patience if self.asked else QUIET_SECONDS)

    @property
    def is_silent(self) -> bool:
        """Whether the server is to be given up."""
        return self.now >= self._heard + self._patience

    @property
    def lost_from(self) -> float:
        """Since when there is no link, if it is known to be lost now."""
        if self.suspended_from is not None:
            return self.suspended_from
        return self._heard if self.is_silent else self.now

    def wait(self, deadline: float) -> None:
        """The next thing happens at this time at the latest."""
        self._expected = max(deadline, self.now)


class Absence:
    """The time from the loss of the link until the roster that follows the return."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.messages = 0  # messages that were missed
        self.ended = False  # whether the session was over, and another one was begun


# Messages by which the server's clock is compared with ours: enough that one that was late does not matter, few enough
# that a clock that drifts is soon followed.
CLOCKS_COMPARED = 8


class ClientSession:
    """The client's end of a conversation, over as many connections as it takes.

    A turn is always this, and each step may be left out when there is nothing for it:

        next_deadline, and wait             until then at the longest
        connected / feed / disconnected     what happened to the link
        login, send, ...                    what the person wants; each returns the tag that its event will carry
        tick                                what is due
        take_events, show them, shown       an ACK says "shown" and nothing less
        take_output                         the bytes of this turn, in one piece
        hang_up                             if set: close the link, and say `disconnected` in the next turn

    Each command is kept until it is answered, over lost connections and restarts of the server: it is sent
    again with its old tag, in order, and the other end shows nothing twice. No call raises or blocks: what is refused
    here is an event as well. Times are monotonic seconds.

    >>> session = ClientSession(first_tag=1000)
    >>> session.login("bob", "correct horse")
    1001
    >>> session.connected(now=0.0)
    >>> session.take_output()
    b'\\x00\\x00\\x00\\x04PING'
    >>> session.feed(frame(b"OK PING"), now=0.1)
    >>> session.tick(now=0.1)
    >>> session.take_output()
    b'\\x00\\x00\\x00\\x04KEEP\\x00\\x00\\x00\\x1d#1001 LOGIN bob correct horse'
    >>> session.feed(frame(b"OK KEEP 60") + frame(b"#1001 OK LOGIN Bob token=t") + frame(b"ONLINE Bob ~eve"), now=0.2)
    >>> for event in session.take_events():
    ...     print(event)
    Linked()
    LoggedIn(tag=1001, name='Bob', last=None, failed=0)
    Roster(online=('Bob',), lost=('eve',))
    """

    def __init__(self, first_tag: int) -> None:
        """`first_tag`: the clock in microseconds, so that another process of the same person does not repeat tags."""
        self.name: str | None = None  # who we are, also while the link is lost
        self.grace = 0.0  # how long the server holds a session without a connection, in seconds
        self.echo = 0.0  # seconds from the last PING that was answered to its answer
        self.wall = 0.0  # the time of day here in Unix seconds, as far as the caller tells it
        # Seconds by which the server's clock was ahead of ours, as the last messages that came at once have told.
        self._ahead: deque[float] = deque(maxlen=CLOCKS_COMPARED)
        # The parts, each with its own state.
        self._requests = Requests(first_tag)
        self._pace = Pace()
        self._received = Received()
        self._roster = RosterView()
        self._watch = ServerWatch()
        # The connection.
        self._stage = Stage.DOWN
        self._decoder = FrameDecoder(SERVER_FRAME_MAX)
        self._outbox: list[bytes] = []
        self._events: list[SessionEvent] = []
        self._why = ""  # the reason to hang up, for the person; "" if there is none
        self._bye = ""  # the server's reason
        # The way back.
        self._token: str | None = None
        self._password: str | None = None
        self._ghosts = 0  # times that `already-online` may still mean our own dead connection
        self._retry_at = 0.0  # time before which no login is tried
        self._absence: Absence | None = None

    # The person's wishes

    def register(self, name: str, password: str) -> int:
        """Ask for an account. Answer; or Refused `name-taken`, `bad-username`, `bad-password`, `too-many`, …"""
        return self._enqueue("REGISTER", name, password)

    def login(self, name: str, password: str, *, patient: bool = False) -> int:
        """Log in. LoggedIn, then Roster; or Refused `bad-login`, `already-online`, `throttled`, `logged-in`, …

        patient: `already-online` may mean ourselves, on a connection that is dead: NotYet, and it is tried again.
        """
        self._ghosts = GHOST_RETRIES if patient else 0
        return self._enqueue("LOGIN", name, password)

    def takeover(self, name: str, password: str) -> int:
        """Log in, ending the session that is online under this name. Events as of `login`, but `already-online`."""
        return self._enqueue("TAKEOVER", name, password)

    def logout(self) -> int:
        """Log out once all before it was sent. Answer; messages without a fate by then fail with `unknown`."""
        return self._enqueue("LOGOUT")

    def who(self) -> int:
        """Ask who is online. Answer, its words the names, `~` before those whose connection is lost; or Refused."""
        return self._enqueue("WHO")

    def send(self, to: str, text: str) -> int:
        """Send a message to a name, to names with commas (at most LIST_MAX), or to EVERYBODY.

        Delivered or Failed, exactly one of them; Waiting before it if that takes over 3 s. At most SENDS_UNDER_WAY are
        sent without a fate, those to several as fast as the server's limits allow (`Pace`); the others wait here. See
        `has_room` for how many may.
        """
        me = None if self.name is None else fold(self.name)
        others = ",".join(name for name in to.split(",") if key_of(name) != me)  # the server leaves the sender out too
        return self._enqueue("SEND", others or to, text)

    def passwd(self, password: str, new: str) -> int:
        """Change the password. Answer; or Refused `bad-login` (the old one is wrong), `bad-password`, …

        After a restart of the server, which may have come in between, it may be `unknown` which one is right.
        """
        return self._enqueue("PASSWD", text=f"{password}\n{new}")

    def ping(self, text: str) -> int:
        """Ask for an echo. Answer or Refused."""
        return self._enqueue("PING", text=text)

    def abandon(self) -> None:
        """Give up what is unanswered: each command gets its event, `unknown` if it was ever sent, else `not-sent`."""
        self._give_up(TAG_MAX)

    def _enqueue(self, verb: str, name: str = "", text: str = "") -> int:
        command = self._requests.make(verb, name, text, self._watch.now, self.wall)
        if command.fault:
            self._fail(command, command.fault)
        elif not self._requests.enqueue(command, first=self.is_stranded and verb in STRANGERS_ONLY):
            self._fail(command, Code.BUSY.word)
        return command.tag

    # For the caller to look at

    @property
    def hang_up(self) -> bool:
        """Whether the link is to be closed, after the last bytes were written."""
        return bool(self._why)

    @property
    def has_room(self) -> bool:
        """Whether another command may be asked for now. If not, it is refused with `busy`."""
        return self._requests.has_room

    @property
    def unanswered(self) -> int:
        """How many commands have no answer yet."""
        return len(self._requests)

    @property
    def greets(self) -> bool:
        """Whether there is a connection on which the server has said nothing yet."""
        return self._stage is Stage.GREETING

    @property
    def logged_in(self) -> bool:
        """Whether commands go to a session right now."""
        return self._stage is Stage.LOGGED_IN

    @property
    def may_be_in(self) -> bool:
        """Whether the server may have a session of ours: somebody is logged in, or a login is being answered."""
        asked = self._requests.barrier
        return self.name is not None or (asked is not None and asked.verb in ("LOGIN", "TAKEOVER"))

    @property
    def wants_link(self) -> bool:
        """Whether a lost link is worth dialling again: somebody is logged in, or a command waits to be sent."""
        waiting = self._requests.first_waiting
        if self.name is None or self.is_stranded:
            return waiting is not None and (self.name is None or waiting.verb in STRANGERS_ONLY)
        return True

    @property
    def undelivered(self) -> list[Command]:
        """The own messages that have no fate yet, oldest first."""
        return self._requests.sends

    @property
    def lead(self) -> float:
        """Seconds by which the server's clock is ahead. Delays of messages make it seem less: the greatest is true."""
        return max(self._ahead, default=0.0)

    @property
    def online(self) -> int:
        """How many are online, oneself included, without those whose connection is lost; 0 if nobody is logged in."""
        return self._roster.online

    @property
    def roster(self) -> dict[str, bool]:
        """Everybody who is here: name -> whether the connection is lost. A copy; {} while nobody is logged in."""
        return self._roster.names

    def next_deadline(self) -> float | None:
        """When `tick` has to be called at the latest, even if nothing happens; None for never. Asked before waiting."""
        deadline = self._requests.next_untold
        if self._is_linked:
            deadline = min(deadline, self._watch.due)
            if self._pace.due > self._watch.now:
                deadline = min(deadline, self._pace.due)
            if self._stage is Stage.STRANGER and self._requests.barrier is None and self.wants_link:
                deadline = min(deadline, max(self._retry_at, self._watch.now))
        if self._events or self._outbox or self._next_command() is not None:
            deadline = min(deadline, self._watch.now)
        self._watch.wait(deadline)
        return None if deadline == FOREVER else deadline

    @property
    def _is_linked(self) -> bool:
        return self._stage is not Stage.DOWN and not self.hang_up

    @property
    def is_stranded(self) -> bool:
        """Whether the session is over and only the person can begin a new one."""
        return self.name is not None and self._token is None and self._password is None

    # Events of the link

    def connected(self, now: float) -> None:
        """There is a new connection. Linked when the server has said something."""
        self._watch.begin(now)
        self._received.ping_is_due = False
        self._stage = Stage.GREETING
        self._decoder = FrameDecoder(SERVER_FRAME_MAX)
        self._outbox = [frame(b"PING")]
        self._bye = self._why = ""
        self._retry_at = now

    def feed(self, data: bytes, now: float) -> None:
        """These bytes were read: any part of a frame, or many. If they break the protocol, it hangs up."""
        self._advance(now)
        if not self._is_linked:
            return
        if self._stage is not Stage.GREETING:  # else it may be somebody who drips bytes that never make a frame
            self._watch.hear()
        self._decoder.feed(data)
        try:
            while payloads := self._decoder.payloads():
                for payload in payloads:
                    self._receive(payload)
                    if self.hang_up:
                        return
        except (BadFrameError, _NotVessagesError, ValueError) as error:  # ValueError: text, numbers and times
            words = "what answers there is not a Vessages server"
            if self._stage is not Stage.GREETING:
                words = f"the server sent something that is not allowed ({type(error).__name__})"
            self._events.append(NotVessages(words))
            self._why = words

    def disconnected(self, now: float, why: str = "connection lost") -> None:
        """The connection is over. LinkLost, with `why` for the person unless the session has hung up for a reason."""
        self._advance(now)
        asleep = self._watch.suspended_from
        if asleep is not None and self._bye in ("", Bye.SILENT.value) and self._stage is not Stage.GREETING:
            self._why = f"this client was suspended for {now - asleep:.0f} s"
        if self._stage is Stage.LOGGED_IN:
            self._absence = Absence(self._watch.lost_from)
        if self._requests.put_back_barrier() or self._stage is Stage.LOGGED_IN:
            self._ghosts = GHOST_RETRIES  # the server may not have noticed yet
        if self._token is None:  # a session that is not kept ends with its connection
            self._was_logged_out()
        if self.name is None:
            self._requests.put_back_unread(0)  # no session to go on with: what was asked is asked again
            if self._stage is Stage.GREETING:
                why += " before it said a word"
        self._events.append(LinkLost(self._why or why, self._bye, self.wants_link))
        self._stage, self._why, self._outbox = Stage.DOWN, "", []

    def tick(self, now: float) -> None:
        """Do what is due: say that we are there, hang up on a dead server, come back, send what waits."""
        self._advance(now)
        if self._is_linked:
            self._watch_the_server()
            if self._stage is Stage.STRANGER and self._requests.barrier is None and now >= self._retry_at:
                self._come_back()
            self._send_what_waits()
        for command in self._requests.take_untold(now):
            self._events.append(Waiting(command.tag, command.name, command.text))

    def take_events(self) -> list[SessionEvent]:
        """The events to be shown, in order. Call `shown` when that has been done."""
        events, self._events = self._events, []
        self._received.take()
        return events

    def shown(self) -> None:
        """Everything that was taken has been shown."""
        self._received.show()

    def take_output(self) -> bytes:
        """The bytes to write, all of them. The ACK comes first: after a LOGOUT it would be too late."""
        number = self._received.ack(self.logged_in)
        if number is not None:
            self._outbox.insert(0, frame(b"ACK %d" % number))
        data = b"".join(self._outbox)
        self._outbox.clear()
        return data

    # Time

    def _advance(self, now: float) -> None:
        """Time goes on. If we were suspended, the server is asked whether it has outlived that."""
        if self._watch.advance(now) and self._is_linked and self._stage is not Stage.GREETING:
            self._ask_for_life()

    def _ask_for_life(self) -> None:
        self._watch.asked = True
        self._outbox.append(frame(b"PING"))

    def _watch_the_server(self) -> None:
        if not self._watch.is_silent:
            if self._watch.now >= self._watch.due:
                self._ask_for_life()
        elif self._stage is Stage.GREETING:
            self._events.append(NotVessages(f"something is there, {MUTE}"))
            self._why = "no answer"
        else:
            self._why = f"the server was silent for {SILENT_AFTER:.0f} s"

    def _come_back(self) -> None:
        """Continue the session, or begin a new one with the password.

        Not before all that was read was shown: RESUME tells the last number that was shown, and the server goes on
        behind that. A frame that is on the screen only afterwards would be shown a second time.
        """
        if self.name is None or self.is_stranded or not self._received.all_shown:
            return
        if self._token is not None:
            words = "RESUME", self._token, str(self._received.shown)
        else:
            words = "LOGIN", self.name, self._password or ""
        command = self._requests.make(*words, self._watch.now, 0.0)
        command.by_itself = True
        self._transmit(command)

    def _send_what_waits(self) -> None:
        """Send from the queue, in order, as far as it may be said now; behind messages to several a PING: `Pace`."""
        before = self._pace.unread
        while (command := self._next_command()) is not None:
            if self.logged_in and self._pace.holds_back(command, self.name, self._watch.now):
                break
            self._requests.take()
            if self.logged_in in HANDLERS[command.verb].allowed:
                self._transmit(command)
            else:  # a frame that is too large for a stranger would end the connection
                self._fail(command, (Code.LOGGED_IN if self.logged_in else Code.NOT_LOGGED_IN).word)
        if self._pace.unread != before:
            self._outbox.append(frame(b"PING %d" % self._pace.unread))

    def _next_command(self) -> Command | None:
        """The command to be sent, or to be refused, now; None if there is none or its time has not come."""
        command = self._requests.next()
        if command is None or not self._is_linked or self._stage is Stage.GREETING:
            return None
        if self.logged_in:
            return command if self._watch.now >= self._pace.due else None
        if self._watch.now < self._retry_at:
            return None
        if self.name is None or (self.is_stranded and command.verb in STRANGERS_ONLY):
            return command
        return None  # the session will go on

    def _transmit(self, command: Command) -> None:
        if command.verb in ("LOGIN", "TAKEOVER"):
            self._outbox.append(frame(b"KEEP"))  # first: what is said right after the login is already kept
        self._requests.transmit(command)
        command.sent = self._watch.now
        self._outbox.append(command.frame())

    # Frames from the server

    def _receive(self, payload: bytes) -> None:
        match = SERVER_FRAME.fullmatch(payload.decode())
        if match is None:
            raise _NotVessagesError
        number, tag, verb, rest = match.groups(default="")
        if self._stage is Stage.GREETING:
            self._stage = Stage.STRANGER
            self._watch.hear()
            self._events.append(Linked())
        if number and not self.logged_in:
            raise _NotVessagesError
        if number and not self._received.count(int(number)):
            return
        if verb not in ("OK", "ERROR"):
            TIDINGS[verb](self, rest)
            return
        word, _, words = rest.partition(" ")
        command = self._requests.answered(int(tag or 0)) if tag or word not in ("KEEP", "PING") else None
        (self._ok if verb == "OK" else self._error)(command, word, words)

    def _ok(self, command: Command | None, word: str, words: str) -> None:
        if word == "KEEP":
            self.grace = float(words)
        elif word == "PING" and command is None:
            self._watch.suspended_from = None
            if words == str(self._pace.unread):
                self._pace.go_on(self._watch.now)
        elif command is not None:
            command.settled = True
            OKS.get(command.verb, ClientSession._ok_plain)(self, command, words)

    def _ok_plain(self, command: Command, words: str) -> None:
        if command.verb == "PASSWD":
            self._password = command.text.partition("\n")[2]
        if command.verb == "PING":
            self.echo = self._watch.now - command.sent
        self._events.append(Answer(command.tag, command.verb, words))

    def _ok_send(self, command: Command, words: str) -> None:
        count = int(words or 1)
        self._events.append(Delivered(command.tag, command.name, command.text, command.written + self.lead, count))

    def _ok_login(self, command: Command, words: str) -> None:
        name, *rest = words.split(" ")
        facts = {fact.partition("=")[0]: fact.partition("=")[2] for fact in rest}
        if self.name is not None and fold(self.name) != fold(name):
            self._give_up(command.tag)  # another person: the session of the commands before is over
        self.name, self._password, self._token = name, command.text, facts.get("token")
        self._received.restart()
        if not command.by_itself:
            for waiting in self._requests.sends:  # of a script that did not wait for its login: they are said now
                waiting.written = waiting.written if waiting.transmitted else self.wall
            last = _parse_wall(facts["last"]) if "last" in facts else None
            self._events.append(LoggedIn(command.tag, name, last, int(facts.get("failed", 0))))
            self._roster.clear()
            self._absence = None
        self._enter(0)

    def _ok_resume(self, command: Command, words: str) -> None:
        name, last_tag, number = words.split(" ")
        if int(number) != self._received.shown:
            raise _NotVessagesError
        self.name = name
        self._received.resume()
        self._enter(int(last_tag))

    def _enter(self, last_tag: int) -> None:
        """We are in. Commands that the server has not read go out again before all else; the rest it will answer."""
        self._stage, self._ghosts = Stage.LOGGED_IN, 0
        self._pace.go_on(self._watch.now)  # it reads no more of what was sent before
        if self._absence is not None and last_tag == 0:
            # It has read none of our commands: a session that is new, or the old one if the grace time is not over.
            self._absence.ended = self._watch.now > self._absence.since + self.grace
        self._requests.put_back_unread(last_tag)

    def _ok_logout(self, command: Command, words: str) -> None:
        self._give_up(0)
        self._clear_identity()
        self._events.append(Answer(command.tag, "LOGOUT", ""))

    def _clear_identity(self) -> None:
        """Nobody is logged in any more, and nobody comes back."""
        self.name = self._password = self._token = self._absence = None
        self._roster.clear()
        if self.logged_in:
            self._stage = Stage.STRANGER

    def _error(self, command: Command | None, word: str, words: str) -> None:
        first = words.partition(" ")[0]
        wait = int(first) if first.isascii() and first.isdecimal() and len(first) < 6 else 0
        if command is None:
            self._events.append(Refused(0, "", word, words, wait))
        elif command.verb == "RESUME":
            self._resume_refused(word, words, wait)
        elif word == Code.ALREADY_ONLINE.word and self._ghosts:
            self._ghosts -= 1
            self._wait_and_retry(word, words, 0)
            if not command.by_itself:
                self._requests.put_back(command)
        elif command.by_itself and word in (Code.BUSY.word, Code.THROTTLED.word, Code.STORAGE.word):
            self._wait_and_retry(word, words, wait)
        elif command.by_itself:
            self._strand(word, words)
        else:
            self._fail(command, word, words, wait)

    def _resume_refused(self, word: str, words: str, wait: int) -> None:
        if word != Code.UNKNOWN_SESSION.word:
            self._wait_and_retry(word, words, wait)
            return
        self._token, self._ghosts = None, 0  # a session of ours would have known it: who is online now is no ghost
        if not self._was_logged_out() and self._password is None:
            self._strand(word, words)

    def _was_logged_out(self) -> bool:
        """The session is over. Whether a LOGOUT was on its way to it, of which only the answer was lost."""
        logout = self._requests.take_unanswered_logout()
        if logout is not None:
            self._ok_logout(logout, "")
        return logout is not None

    def _wait_and_retry(self, word: str, words: str, wait: int) -> None:
        seconds = wait or RETRY_SECONDS
        self._retry_at = self._watch.now + seconds
        self._events.append(NotYet(word, words, seconds))

    def _strand(self, word: str, words: str) -> None:
        self._password = self._token = None
        self._events.append(LoginNeeded(self.name or "", word, words))

    def _fail(self, command: Command, code: str, words: str = "", wait: int = 0) -> None:
        """A command has failed, by the server's word or by ours."""
        command.settled = True
        self._events.append(command.failed(code, words, wait, self.lead))

    def _give_up(self, before: int) -> None:
        """Fail the commands that were sent, and those that wait with a tag below `before`: no answer will come."""
        self._pace.due = NEVER  # nothing is held back any more
        for command in self._requests.give_up(before):
            self._fail(command, UNKNOWN if command.transmitted else NOT_SENT)

    def _message(self, rest: str) -> None:
        origin, number, time, text = rest.split(" ", 3)
        sender, several, names = origin.partition(">")
        to = (names if names == EVERYBODY else tuple(names.split(","))) if several else None
        if not self._received.is_new(self.name or "", sender, int(number)):
            return  # shown already, before a crash of the server. Its number counts: it is ACKed once more
        wall = _parse_wall(time)
        if self._absence is not None:
            self._absence.messages += 1
        elif self.wall and self._roster.is_known:  # before the roster it may be an old one, which tells no time
            self._compare_clocks(wall - self.wall)
        self._events.append(Message(sender, int(number), wall, text, to))

    def _compare_clocks(self, ahead: float) -> None:
        """Note a difference of the clocks. If it has jumped, somebody has set one, and the older ones are wrong."""
        if self._ahead and abs(ahead - self._ahead[-1]) > CLOCK_STEP:
            self._ahead.clear()
        self._ahead.append(ahead)

    def _online(self, rest: str) -> None:
        event = self._roster.take_online(rest, self.name)
        if isinstance(event, Roster):
            self._events.append(event)
            event = Presence()
        away, self._absence = self._absence, None
        if away is not None:
            seconds = self._watch.now - away.since
            self._events.append(Back(self.name or "", seconds, away.messages, event, away.ended))
        elif any(event):
            self._events.append(event)

    def _presence(self, rest: str) -> None:
        changes = self._roster.take_presence(rest, self.name)
        if any(changes):
            self._events.append(changes)

    def _ping(self, rest: str) -> None:
        self._received.ping_is_due = True

    def _goodbye(self, rest: str) -> None:
        self._bye = rest
        idle = rest == Bye.SILENT.value and self.name is None
        self._why = NOBODY_CAME if idle else BYE_WORDS.get(rest, "the server closed the connection")
        if rest == Bye.REPLACED.value:
            self._clear_identity()
            self.abandon()


def _parse_wall(text: str) -> float:
    """As `parse_time`. A time before 1970 is refused: not every system could show it."""
    wall = parse_time(text)
    if wall < 0:
        raise ValueError(text)
    return wall


# The methods for what is no answer, and for the OK to those commands that need more than an Answer.
TIDINGS: dict[str, Callable[[ClientSession, str], None]] = {
    "MSG": ClientSession._message, "ONLINE": ClientSession._online, "PRESENCE": ClientSession._presence,
    "PING": ClientSession._ping, "BYE": ClientSession._goodbye,
}  # fmt: skip
OKS: dict[str, Callable[[ClientSession, Command, str], None]] = {
    "SEND": ClientSession._ok_send, "LOGIN": ClientSession._ok_login, "TAKEOVER": ClientSession._ok_login,
    "RESUME": ClientSession._ok_resume, "LOGOUT": ClientSession._ok_logout,
}  # fmt: skip
