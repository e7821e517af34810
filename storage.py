"""Vessages: the accounts on disk.

One SQLite file holds every account. The server opens it as a `Store`; the person who runs the server uses this file
as a command: `python3 storage.py --help`. Of Vessages it needs only `protocol.py` beside it, which has the rules for
names and passwords.

The rules:

1.  No answer before the commit. Changes happen in a transaction, and `Store.transaction()` is left without an error
    only when they are on disk. The rollback journal and `synchronous=EXTRA` make that true over a power cut as well.
2.  After any error nothing in memory is trusted. The transaction is rolled back, the connection closed, and the next
    use opens and checks the file again. A commit that failed is never tried a second time as if it had not happened.
3.  A file that is foreign, empty, damaged, or written by a newer Vessages is not touched. The error says what to do.
4.  One server per file. The lock is a file of its own beside the database (`vessages.db.lock`), freed by the death of
    its owner and deleted by a clean stop. It is not the database itself, because closing any second descriptor of the
    database would drop SQLite's own locks (POSIX), and because on macOS `flock` excludes SQLite's locks.
5.  A file with a final name is complete. A new file is a draft under another name until it is synced and renamed.
6.  Every failure is a `StorageError` whose text is one line for a person and says what to do. Passwords, hashes and
    tokens never appear in one, nor in a repr. Of a token only its SHA-256 is stored.
7.  `--keep` deletes only backups of this very database. Each database has an identity, a random number inside it that
    every backup of it contains: names are not enough, for two servers may share a folder of backups. The identity
    belongs to one place: a copy made with `cp`, or restored elsewhere, gets a new one when a server opens it. A file
    that cannot be read, or has no identity, is never deleted.

The reading order: errors; passwords and tokens; the schema; opening and checking a file; making a file; the lock; the
`Store`, the server's accounts; then the commands: backups; restore; export and import; the command line.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 10):
    words = f"Vessages needs Python 3.10 or newer, and this is {sys.version.split()[0]}: run it with a newer one"
    print(f"{words}, such as python3.12, or install one from python.org.", file=sys.stderr)
    sys.exit(2)

import argparse
import base64
import errno
import getpass
import hashlib
import hmac
import io
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import sqlite3
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path, PurePath
from typing import IO, Any, NamedTuple, NoReturn

try:
    import protocol
    from protocol import Account
except ImportError as error:  # There is none, or one of another version.
    if __name__ != "__main__" or error.name != "protocol":
        raise
    print("storage.py: copy protocol.py of the same version into the folder of storage.py", file=sys.stderr)
    sys.exit(2)

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

PYTHON = "py" if sys.platform == "win32" else "python3"  # The command: a plain Debian has no `python`.

STATUSES = (protocol.ONLINE, protocol.OFFLINE, protocol.LOST)

MAX_FAILURES = 2**53  # The highest count of wrong passwords: above 2^63 SQLite would make it a fraction.
TOKEN_LIFE = 7 * 24 * 3600.0  # The life of an unused token in seconds: over a holiday week, not for ever.
TOKEN_BYTES = 32  # 256 random bits cannot be guessed, so one plain SHA-256 of them needs no salt and no slowness.
SALT_BYTES = 16  # So many that no two accounts ever share a salt.
HASH_BYTES = 32  # As long as SHA-256, which scrypt is built on.

MAX_LOG_N = 20  # 2^20 with r=8 is 1 GiB for one check: more is a typing error, or a hostile file that was imported.
MAX_R = 32
MAX_P = 64
MAX_MEMORY = 2**30  # The memory of one check in bytes, whatever N and r are.

LAST_TIME = 32_503_679_999  # The end of the year 2999 in Unix seconds, the last that every system can show.

BUSY_SECONDS = 5.0  # The wait for another program (a backup, `import`), which holds the file only briefly.

APPLICATION_ID = 0x56455353  # "VESS": this number in the header of a file says that it is ours.
HEADER_BYTES = 100  # SQLite's file header, https://www.sqlite.org/fileformat.html
MAGIC = b"SQLite format 3\0"

# The errors of file systems that cannot sync a folder (SMB, some FUSE). SQLite too ignores them, except in EXTRA.
NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


def time_of_day() -> float:
    """The clock, in Unix seconds. One that was set to a time that cannot be shown counts as the nearest that can."""
    return min(max(0.0, time.time()), LAST_TIME)


# --- Errors ----------------------------------------------------------------------------------------------------------


class StorageError(Exception):
    """Something about the accounts went wrong. The text is one line for a person and says what to do next."""


class LockedError(StorageError):
    """Another server has the file, or a command that must have it alone."""


class DamagedError(StorageError):
    """The file is, or was, ours and cannot be read as a whole."""


class ForeignError(StorageError):
    """The file is not a Vessages database, or not one that this version can read."""


CANNOT_LOCK = "cannot lock files: put the accounts on a local disk"
# Words in the name of SQLite's error, or in its text (the same in all versions), and what a person can do about it.
ADVICE = (
    ("IOERR_LOCK", f"its folder {CANNOT_LOCK}"),
    ("disk is full", "the disk is full: free some space; a server that runs then goes on by itself"),
    ("readonly", "it cannot be written: give this user the right to write the file and its folder"),
    (  # SQLite also says so where a network share refuses a lock with ENOLCK.
        "locked",
        "another program keeps it busy: close that program (an sqlite3 shell, a copy?) and try again; "
        "if there is none and this is a network share, put the accounts on a local disk",
    ),
    ("unable to open", "it cannot be opened: check that the file is there and may be read and written by this user"),
    ("I/O error", "the disk reports an error: check the disk and the system's log, and make a backup to another disk"),
)
ADVICE_DAMAGED = f"is damaged: keep a copy of it, then restore a backup: {PYTHON} storage.py --db PATH restore BACKUP"
DAMAGED = ("not a database", "malformed", "unsupported file format", "decode")
SAID_BY_THE_SYSTEM = {  # The same causes as the operating system reports them.
    errno.ENOSPC: "disk is full",
    errno.EDQUOT: "disk is full",
    errno.EROFS: "readonly",
    errno.EIO: "I/O error",
}
SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)  # The second: an error message that quotes damaged text.


def _explain(path: Path, error: Exception) -> StorageError:
    """The `StorageError` for an error of SQLite or of the operating system about the file at `path`."""
    said = str(error)
    if isinstance(error, OSError) and error.errno in SAID_BY_THE_SYSTEM:
        said = SAID_BY_THE_SYSTEM[error.errno]
    elif isinstance(error, OSError):
        return StorageError(f"{path}: {error.strerror or said}: check the name, the folder and the permissions")
    if isinstance(error, UnicodeDecodeError) or any(word in said for word in DAMAGED):
        return DamagedError(f"{path} {ADVICE_DAMAGED}")
    name = getattr(error, "sqlite_errorname", "")  # From Python 3.11 on, and more exact than the text.
    for word, advice in ADVICE:
        if word in said or word in name:
            return StorageError(f"{path}: {advice}")
    return StorageError(f"{path}: {said}: run {PYTHON} storage.py --db PATH verify")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the operating system inside the block into `StorageError`s about `path`."""
    try:
        yield
    except (*SQLITE_ERRORS, OSError) as error:
        raise _explain(path, error) from error


# --- Passwords and tokens --------------------------------------------------------------------------------------------


class Cost(NamedTuple):
    """The price of one password check: scrypt's N = 2**log_n, r and p. Memory is 128 * N * r bytes."""

    log_n: int
    r: int = 8
    p: int = 5

    def is_sane(self) -> bool:
        in_range = 1 <= self.log_n <= MAX_LOG_N and 1 <= self.r <= MAX_R and 1 <= self.p <= MAX_P
        return in_range and 128 * self.r << self.log_n <= MAX_MEMORY


DEFAULT_COST = Cost(14)  # 16 MiB and p=5: one of the settings that OWASP calls equivalent.


def parse_cost(text: str) -> Cost:
    """The `Cost` meant by the option `--hash-cost`: `14` is N=2^14 with r=8 and p=5; `14,8,5` says all three.

    Raises ArgumentTypeError. Costs far too low for real use are allowed: tests need them.

    >>> parse_cost("14")
    Cost(log_n=14, r=8, p=5)
    """
    try:
        cost = Cost(*(int(part) for part in text.split(",")))
    except (ValueError, TypeError):
        words = "give log2 of N, as in 14, or all three numbers log2(N),r,p as in 14,8,5"
        raise argparse.ArgumentTypeError(words) from None
    if not cost.is_sane():
        words = f"log2(N) is 1 to {MAX_LOG_N}, r 1 to {MAX_R}, p 1 to {MAX_P}, memory at most 1 GiB"
        raise argparse.ArgumentTypeError(words)
    return cost


class _Hash(NamedTuple):
    """A stored password, taken apart: `scrypt$14$8$5$salt$hash`."""

    cost: Cost
    salt: bytes
    digest: bytes

    def text(self) -> str:
        return "$".join(("scrypt", *map(str, self.cost), _to_text(self.salt), _to_text(self.digest)))


def _to_text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _to_bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _parse_hash(stored: str) -> _Hash | None:
    """The parts of a stored password, or None if it is not one of ours or asks for absurd work."""
    scheme, *fields = stored.split("$")
    if scheme != "scrypt" or len(fields) != 5:
        return None
    try:
        parsed = _Hash(Cost(*map(int, fields[:3])), _to_bytes(fields[3]), _to_bytes(fields[4]))
    except ValueError:
        return None
    whole = parsed.cost.is_sane() and parsed.salt and len(parsed.digest) == HASH_BYTES
    # One spelling only: a second text for the same hash would look like a changed password when files are compared.
    return parsed if whole and parsed.text() == stored else None


def _derive(password: str, cost: Cost, salt: bytes) -> bytes:
    data = password.encode("utf-8", "surrogatepass")
    n = 1 << cost.log_n
    memory = 128 * cost.r * (n + cost.p + 4)  # The need of OpenSSL; it refuses above maxmem, by default 32 MiB.
    try:
        return hashlib.scrypt(data, salt=salt, n=n, r=cost.r, p=cost.p, maxmem=memory, dklen=HASH_BYTES)
    except AttributeError:
        raise StorageError("this Python has no scrypt: use one that is built on OpenSSL 1.1.1 or newer") from None
    except (ValueError, MemoryError) as error:
        raise StorageError("not enough memory to check a password: give a lower --hash-cost") from error


def hash_password(password: str, cost: Cost = DEFAULT_COST) -> str:
    """A new self-describing hash of `password` with a fresh salt. Slow on purpose, without holding the GIL.

    `password` is NFKC already; zero bytes at the end of a short one do not count, as with every HMAC. Raises
    StorageError if there is not enough memory for `cost`.

    >>> hash_password("correct horse", Cost(4, 1, 1))  # doctest: +ELLIPSIS
    'scrypt$4$1$1$...$...'
    """
    salt = secrets.token_bytes(SALT_BYTES)
    return _Hash(cost, salt, _derive(password, cost, salt)).text()


def check_password(password: str, stored: str | None, cost: Cost = DEFAULT_COST) -> tuple[bool, str | None]:
    """Whether `password` is the one behind the hash `stored`, and its new hash if it is and `cost` has changed.

    `stored` is None for an unknown user. Then, and for a malformed hash, the same work is done and the answer is
    False, so that the time tells nobody which names exist. Raises StorageError if this machine cannot do the work.

    >>> cheap = Cost(4, 1, 1)
    >>> stored = hash_password("correct horse", cheap)
    >>> check_password("correct horse", stored, cheap), check_password("wrong horse", stored, cheap)
    ((True, None), (False, None))
    """
    known = _parse_hash(stored) if stored is not None else None
    if known is None:
        _derive(password, cost, bytes(SALT_BYTES))
        return False, None
    if not hmac.compare_digest(_derive(password, known.cost, known.salt), known.digest):
        return False, None
    return True, None if known.cost == cost else hash_password(password, cost)


def new_token() -> tuple[str, bytes]:
    """A new token, 256 random bits as URL-safe text, and its SHA-256, which is all that is ever stored."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    return token, _token_hash(token)


def _token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


# --- The schema ------------------------------------------------------------------------------------------------------

SELECT_ACCOUNT = (
    "SELECT username, key, password, status, "
    # To LAST_TIME; another time is damage.
    "CASE WHEN last_login BETWEEN 0 AND 32503679999 THEN last_login END, failures FROM users"
)


def _account(username: str, key: str, *others: Any) -> Account:
    """The account of a row. Where the key is the name, one string is both: it stays as long as its user is there."""
    return Account(username, username if username == key else key, *others)


# MIGRATIONS[n] takes a file from version n to n + 1, one statement after the other, in one transaction; a new file
# begins at version 0 and goes through all of them. To change the schema, append; never edit what has been released.
MIGRATIONS: list[tuple[str, ...]] = [
    (
        f"PRAGMA application_id = {APPLICATION_ID}",
        # SQLite itself checks no types: it would keep a value that a flipped bit has turned into another type.
        """CREATE TABLE users (
            username     TEXT NOT NULL CHECK (typeof(username) = 'text'),
            password     TEXT NOT NULL CHECK (typeof(password) = 'text'),
            status       TEXT NOT NULL CHECK (status IN ('online', 'offline', 'lost')),
            key          TEXT NOT NULL PRIMARY KEY CHECK (typeof(key) = 'text'),
            created      REAL NOT NULL CHECK (typeof(created) = 'real'),
            last_login   REAL CHECK (typeof(last_login) IN ('real', 'null')),
            failures     INTEGER NOT NULL DEFAULT 0 CHECK (typeof(failures) = 'integer' AND failures >= 0),
            last_failure REAL CHECK (typeof(last_failure) IN ('real', 'null')),
            token        BLOB CHECK (token IS NULL OR typeof(token) = 'blob'),
            token_used   REAL CHECK (typeof(token_used) IN ('real', 'null'))
        )""",
        "CREATE UNIQUE INDEX users_token ON users (token) WHERE token IS NOT NULL",
    ),
    (
        # The identity of this database: rule 7.
        """CREATE TABLE origin (
            one          INTEGER PRIMARY KEY CHECK (one = 1),
            identity     TEXT NOT NULL CHECK (typeof(identity) = 'text' AND length(identity) = 32)
        )""",
        "INSERT INTO origin VALUES (1, lower(hex(randomblob(16))))",
        # The look of a name. Not unique: accounts that look alike and were there before stay.
        "ALTER TABLE users ADD COLUMN skeleton TEXT NOT NULL DEFAULT '' CHECK (typeof(skeleton) = 'text')",
        "UPDATE users SET skeleton = skeleton(username)",  # To be done again by a migration if `protocol` changes it.
        "CREATE INDEX users_skeleton ON users (skeleton)",
    ),
    (
        # The place at which the identity holds: the path, and the number of the file, which stays when it is moved.
        "ALTER TABLE origin ADD COLUMN path BLOB CHECK (typeof(path) IN ('blob', 'null'))",
        "ALTER TABLE origin ADD COLUMN inode TEXT CHECK (typeof(inode) IN ('text', 'null'))",
    ),
]
FIRST_WITH_IDENTITY, FIRST_WITH_PLACE = 2, 3  # The versions of the schema.
NEW_IDENTITY = "UPDATE origin SET identity = lower(hex(randomblob(16)))"  # Random: no two servers have the same one.
SELECT_IDENTITY_HERE = "SELECT identity FROM origin WHERE path IS NULL OR path = ? OR inode = ?"

SETTINGS = (
    "journal_mode = DELETE",  # One file at rest; the journal exists only during a transaction.
    "synchronous = EXTRA",  # Also syncs the folder after the journal is deleted: only then is the commit on disk.
    "fullfsync = ON",  # macOS: fsync alone leaves the data in the drive's cache. Nothing elsewhere.
    "temp_store = MEMORY",
    "secure_delete = ON",  # A removed account's hash does not stay in a free page.
    "trusted_schema = OFF",  # Functions that a doctored schema calls are refused.
    "cell_size_check = ON",
)


def _migrate(db: sqlite3.Connection) -> None:
    """Take the open file `db` from its schema version to the newest, in one transaction."""
    db.create_function("skeleton", 1, protocol.skeleton)
    db.execute("BEGIN IMMEDIATE")
    for statement in itertools.chain(*MIGRATIONS[_version(db) :]):
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    db.execute("COMMIT")


def _schema(db: sqlite3.Connection) -> list[tuple[str, ...]]:
    """Every table and index as SQLite wrote it down, without its own, `sqlite_%` (ANALYZE leaves some)."""
    question = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
    return db.execute(question).fetchall()


@lru_cache(maxsize=8)  # One entry a version; making a database in memory takes as long as checking a small file.
def _schema_after(*migrations: tuple[str, ...]) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.create_function("skeleton", 1, protocol.skeleton)
        for statement in itertools.chain(*migrations):
            db.execute(statement)
        return _schema(db)


# --- Opening and checking a file -------------------------------------------------------------------------------------


def _uri(path: PurePath) -> str:
    """A path as SQLite wants it. It knows no hosts: a share of Windows is a path that begins with two slashes."""
    return re.sub("^file://(?!/)", "file:////", path.as_uri())


@contextmanager
def _closed_on_error(db: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        db.close()
        raise


def _connect(path: Path, mode: str = "rw", wait: float | None = None) -> sqlite3.Connection:
    """Open the existing file at `path` with our settings.

    `mode` is SQLite's: rw, or ro to leave the file alone. `wait` is how many seconds to wait for others (None: the
    usual BUSY_SECONDS).
    """
    uri = f"{_uri(path)}?mode={mode}"
    timeout = BUSY_SECONDS if wait is None else wait
    db = sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)
    with _closed_on_error(db):
        for setting in SETTINGS:
            db.execute(f"PRAGMA {setting}")
        if mode == "rw" and not _folder_syncs(path.parent):
            db.execute("PRAGMA synchronous = FULL")  # EXTRA would call each commit a failure; see NO_FOLDER_SYNC.
    return db


def _check_header(path: Path) -> None:
    """Refuse a file that is not ours by its first bytes, before SQLite opens it (and may roll back a foreign journal).

    Not for a file that is open in this process: closing the descriptor would drop SQLite's locks on it.
    """
    with _explained(path), path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    application, version = (int.from_bytes(header[place : place + 4], "big") for place in (68, 60))
    if not header:
        raise DamagedError(
            f"{path} is empty, it has lost its accounts: restore a backup, or delete the file to begin without accounts"
        )
    _check_origin(path, application if header.startswith(MAGIC) and len(header) == HEADER_BYTES else 0, version)
    if header[18:20] != b"\1\1":
        raise ForeignError(f"{path} was switched to another journal: run sqlite3 FILE 'PRAGMA journal_mode = DELETE'")


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Check everything about an open file: whose it is, its version, length, schema and integrity.

    Takes about 1.5 seconds per million accounts. Raises DamagedError, ForeignError, or StorageError.
    """
    with _explained(path):
        db.execute("BEGIN")  # One moment for all the questions: nobody can change the file's length in between.
        try:
            _check_origin(path, _pragma(db, "application_id"), _version(db))
            length = _pragma(db, "page_count") * _pragma(db, "page_size")
            whole = path.stat().st_size == length and _schema(db) == _schema_after(*MIGRATIONS[: _version(db)])
            if not whole or db.execute("PRAGMA integrity_check(1)").fetchall() != [("ok",)]:
                raise DamagedError(f"{path} {ADVICE_DAMAGED}")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")


def _check_origin(path: Path, application: int, version: int) -> None:
    if application != APPLICATION_ID or version < 1:
        raise ForeignError(f"{path} is not a Vessages database: give the right file (--db is that of the accounts)")
    if version > len(MIGRATIONS):
        raise ForeignError(f"{path} was written by a newer Vessages: use that one, or give another file")


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def _version(db: sqlite3.Connection) -> int:
    return _pragma(db, "user_version")


def _count(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT count(*) FROM users").fetchone()[0])


def _place(path: Path) -> tuple[bytes, str]:
    """The path of a file and its number on its disk: a copy has another of both, a moved or restored file of one."""
    return os.fsencode(path), str(path.stat().st_ino)


def _identity(db: sqlite3.Connection, live: Path | None = None) -> str | None:
    """The number that tells the backups of this file from those of any other; None in a file of an older version.

    `live` is the path of a file that is no backup: None if its identity holds at another place only.
    """
    version = _version(db)
    if version < FIRST_WITH_IDENTITY:
        return None
    if live is None or version < FIRST_WITH_PLACE:
        row = db.execute("SELECT identity FROM origin").fetchone()
    else:
        row = db.execute(SELECT_IDENTITY_HERE, _place(live)).fetchone()
    return str(row[0]) if row else None


def _refuse_other_name(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a file that a server has under another name (a hard link), which has another lock."""
    for (name,) in db.execute("SELECT path FROM origin WHERE path <> ?", (os.fsencode(path),)):
        other = Path(os.fsdecode(name))
        with suppress(OSError, ValueError):  # Nothing is there now, or nothing that this user may see.
            if other.samefile(path) and _is_served(other):
                raise LockedError(f"{path} is also {other}, in use by a running server: stop that first")


def _identity_of(path: Path, wait: float, live: Path | None = None) -> str | None:
    """The identity of the file at `path`; None if it has none, is not ours, or cannot be read."""
    try:
        with closing(_connect(path, "ro", wait)) as db:
            return _identity(db, live) if _pragma(db, "application_id") == APPLICATION_ID else None
    except (*SQLITE_ERRORS, OSError):
        return None


def _open_checked(path: Path, mode: str = "rw") -> sqlite3.Connection:
    """Open and check the existing file at `path`. Accounts are read only from files that have passed this check."""
    with _explained(path):
        db = _connect(path, mode)
    with _closed_on_error(db):
        _check(db, path)
    return db


# --- Making a file ---------------------------------------------------------------------------------------------------


def sync(file: IO[bytes]) -> None:
    """Bring what was written to an open file to the disk itself."""
    file.flush()
    if sys.platform == "darwin":  # There fsync leaves the data in the drive's cache.
        with suppress(OSError):  # Some file systems, such as network shares, cannot do it; SQLite goes on likewise.
            fcntl.fcntl(file, fcntl.F_FULLFSYNC)
            return
    os.fsync(file.fileno())


def _sync_file(path: Path) -> None:
    with path.open("r+b") as file:
        sync(file)


def sync_folder(folder: Path) -> bool:
    """Make the names in `folder` survive a power cut. False if this file system cannot do that, which is no failure.

    Windows has no such call and needs none.
    """
    if sys.platform == "win32":
        return True
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # A folder that may be written and not read cannot be synced either.
        return False
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
        return False
    finally:
        os.close(descriptor)
    return True


@lru_cache(maxsize=64)  # One try a folder: a backup of a busy file connects many times.
def _folder_syncs(folder: Path) -> bool:
    try:
        return sync_folder(folder)
    except OSError:
        return True  # A fault of the disk does not stop a command that only reads; one that writes will tell it.


def _absolute(path: str | Path) -> Path:
    """The real path of a file: the same lock whatever links lead to it, and not changed by `chdir`."""
    try:
        return Path(os.path.realpath(path))
    except FileNotFoundError:
        raise StorageError(
            f"{path}: the current folder was deleted: change to another one, or give the whole path"
        ) from None


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def give_to_owner_of(folder: Path, descriptor: int) -> None:
    """Hand over an open file that root has made: a server that runs without being root can then use it."""
    if sys.platform != "win32" and os.geteuid() == 0:
        owner = folder.stat()
        with suppress(OSError):  # Some file systems know no owners, or let not even root change them.
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _new_file(path: Path) -> None:
    """An empty file that only its owner may read; there must be none of that name."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        give_to_owner_of(path.parent, descriptor)
    finally:
        os.close(descriptor)


def _discard(draft: Path) -> None:
    """Delete a file that is no use any more, and its journal. If that fails they do no harm."""
    for file in (draft, _beside(draft, "-journal")):
        with suppress(OSError):
            file.unlink()


def _make_folder(folder: Path) -> None:
    """Make `folder` if there is none. A link that leads nowhere stays: its disk may be mounted again."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        if sys.platform != "win32":
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                give_to_owner_of(folder.parent, descriptor)
            finally:
                os.close(descriptor)
        sync_folder(folder.parent)
    if not folder.is_dir():
        raise StorageError(f"{folder} is not a folder: mount the disk to which it leads, or move it away")


STAMP = "%Y-%m-%dT%H%M%SZ"  # UTC. No colons: Windows allows none in names.


def _utc(seconds: float, form: str) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime(form)


def _stamped(folder: Path, stem: str, now: float) -> Iterator[Path]:
    """Names of files in `folder` with the time in them: `stem-TIME.db`, then `-2`, `-3` for several in a second."""
    name = f"{stem}-{_utc(now, STAMP)}"
    yield folder / f"{name}.db"
    for number in itertools.count(2):
        yield folder / f"{name}-{number}.db"


def _reserve(names: Iterable[Path]) -> tuple[Path, Path]:
    """Take the first of `names` that is free: its draft, which is made and empty, and the final name.

    Not free is also one with a draft, or with a journal: SQLite would take that for the journal of the new file.
    """
    for final in names:
        draft = _beside(final, ".part")
        with _explained(final), suppress(FileExistsError):
            _new_file(draft)
            if not final.exists() and not _beside(final, "-journal").exists():
                return draft, final
            draft.unlink()
    raise StorageError(f"{final}, its .part or its -journal is there already: give another name")


@contextmanager
def _becoming(draft: Path, final: Path) -> Iterator[None]:
    """Sync `draft` and give it its final name when the block has filled it; delete it when any of this has failed."""
    renamed = False
    try:
        yield
        _sync_file(draft)
        draft.replace(final)
        renamed = True
        sync_folder(final.parent)
    except BaseException:
        _discard(draft)
        if renamed:
            with suppress(OSError):
                final.unlink()
        raise


def _create(path: Path) -> None:
    """A new database without accounts at `path`, complete from the moment it has that name."""
    journal = _beside(path, "-journal")
    if journal.exists():
        raise DamagedError(f"{path} is missing, but not {journal}: put the database back, or move the journal away")
    draft = _beside(path, ".new")
    _discard(draft)
    with _becoming(draft, path):
        _new_file(draft)
        with closing(_connect(draft)) as db:
            _migrate(db)


# --- One server per file ---------------------------------------------------------------------------------------------


# The errors of a file system that has no locks, such as a share without a service for them.
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL})


def _lock(descriptor: int, shared: bool = False) -> None:
    """Lock an open file until it is closed. On Windows no lock is shared, and a held one is a PermissionError."""
    if sys.platform == "win32":
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def _is_served(path: Path) -> bool:
    """Whether a server has the accounts at `path`; also True where that cannot be told."""
    try:
        descriptor = os.open(_beside(path, ".lock"), os.O_RDONLY)
    except OSError as error:
        return not isinstance(error, FileNotFoundError)
    try:
        _lock(descriptor, shared=True)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


class FileLock:
    """The right to serve the database at `path` alone, or to make that file: held until `release` or death.

    Raises LockedError if another process has it, StorageError if the lock file cannot be made or locked.
    """

    def __init__(self, path: Path) -> None:
        self._name = _beside(path, ".lock")
        with _explained(self._name):
            while not self._take(path):
                pass  # The lock file was deleted by its owner, between our opening and locking: take the next one.

    def _take(self, path: Path) -> bool:
        """Open and lock the lock file; False if it is not the one of that name any more."""
        made = False
        with suppress(FileExistsError):
            _new_file(self._name)
            made = True
        try:
            self._descriptor = os.open(self._name, os.O_RDWR | os.O_CREAT, 0o600)
        except PermissionError:  # Only an open file can be asked whether it is locked.
            raise StorageError(
                f"{self._name} may not be opened by this user: if no server of another user runs, delete it"
            ) from None
        with ExitStack() as unless_taken:
            unless_taken.callback(os.close, self._descriptor)
            try:
                _lock(self._descriptor)
            except (BlockingIOError, PermissionError):
                text = f"{path} is in use by a running server: stop that first, or give another file"
                raise LockedError(text) from None
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                if made:
                    unless_taken.close()  # An open file cannot be deleted on Windows.
                    _discard(self._name)
                raise StorageError(f"{path.parent} {CANNOT_LOCK}") from None
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._descriptor), self._name.stat()):
                    unless_taken.pop_all()
                    return True
        return False

    def release(self) -> None:
        """Free the database for others and leave no lock file behind."""
        at_once = sys.platform == "win32"  # An open file cannot be deleted there. Elsewhere: while it is still ours.
        if at_once:
            os.close(self._descriptor)
        with suppress(OSError):  # A lock file that cannot be deleted does no harm: it is not locked any more.
            self._name.unlink()
        if not at_once:
            os.close(self._descriptor)


# --- The store -------------------------------------------------------------------------------------------------------


class Store:
    """The accounts of a running server: one SQLite connection, used by one thread at a time.

    `path` is the absolute path of the file. Keys are the looked-up form of a name, `now` is Unix seconds. Every method
    raises StorageError when the disk or the file fails; the next call opens and checks the file anew, so that the store
    works again as soon as the cause is gone.
    """

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self._lock: FileLock | None = lock
        self._in_transaction = False
        self._db: sqlite3.Connection | None = None
        self._db = self._open()
        self._file = path.stat()
        place = _place(path)
        if not self._run(SELECT_IDENTITY_HERE, place):
            self._run(NEW_IDENTITY)
        self._run("UPDATE origin SET path = ?, inode = ? WHERE path IS NOT ? OR inode IS NOT ?", place * 2)

    def _open(self) -> sqlite3.Connection:
        db = _open_checked(self.path)
        with _closed_on_error(db), _explained(self.path):
            if _version(db) < len(MIGRATIONS):
                _keep(self.path, db, f"version-{_version(db)}", time_of_day())
                _migrate(db)
            _refuse_other_name(db, self.path)
            if _beside(self.path, "-journal").exists():
                # A journal from a kill before anything was changed: SQLite did not need it, and any write removes it.
                db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        return db

    def _run(self, sql: str, values: tuple[object, ...] = ()) -> list[Any]:
        """Execute one statement and return its rows. After an error the connection is gone, and the transaction."""
        if self._db is None:
            if self._in_transaction:
                raise StorageError(f"{self.path}: this transaction has failed already: begin a new one")
            self._db = self._open()
        try:
            return self._db.execute(sql, values).fetchall()
        except SQLITE_ERRORS as error:
            self._drop()
            raise _explain(self.path, error) from error

    def _drop(self) -> None:
        """Close the connection, whatever state it is in; a transaction in it is rolled back."""
        db, self._db = self._db, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.rollback()
            with suppress(sqlite3.Error):
                db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything in the block reaches the disk together, or not at all; when the block has been left, it is there.

        After any error, of the disk or of the block itself, nothing of it is kept and the error is raised. Not nested.
        """
        self._check_in_place()
        self._run("BEGIN IMMEDIATE")
        self._in_transaction = True
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            self._drop()
            raise
        finally:
            self._in_transaction = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A block that only reads: no writer waits for it, and it costs no commit."""
        self._check_in_place()
        yield

    def _check_in_place(self) -> None:
        """Refuse a file that was deleted or replaced: writes to it would be lost, and reads would be old."""
        with _explained(self.path):
            in_place = os.path.samestat(self.path.stat(), self._file)
        if not in_place:
            raise StorageError(f"{self.path} was replaced while the server runs: stop the server and start it again")

    def find(self, key: str) -> Account | None:
        """The account of that key, or None."""
        rows = self._run(SELECT_ACCOUNT + " WHERE key = ?", (key,))
        return _account(*rows[0]) if rows else None

    def add(self, username: str, key: str, password_hash: str, now: float) -> bool:
        """Add an account, offline. False, and nothing changes, if the name is taken, or one that looks like it."""
        sql = (
            "INSERT INTO users (username, key, password, status, created, skeleton) SELECT ?, ?, ?, 'offline', ?, ? "
            "WHERE NOT EXISTS (SELECT 1 FROM users WHERE key = ? OR skeleton = ?)"
        )
        skeleton = protocol.skeleton(username)
        self._run(sql, (username, key, password_hash, now, skeleton, key, skeleton))
        return bool(self._run("SELECT changes()")[0][0])

    def log_in(self, key: str, checked: str, better: str | None, kept: bool, now: float) -> str | None:
        """`record_login`, with `better` (if there is one) for the hash `checked`: the new token, "" if not `kept`.

        None, and nothing changes, if `checked` is not this account's hash any more: `storage.py` may run meanwhile.
        """
        if not self.change_password(key, checked, better or checked):
            return None
        token, token_hash = new_token() if kept else ("", None)
        self.record_login(key, now, token_hash)
        return token

    def record_login(self, key: str, now: float, token_hash: bytes | None) -> None:
        """Record a login: online, no failures any more, `token_hash` (None: no token) instead of the old token."""
        sql = (
            "UPDATE users SET status = 'online', last_login = ?, failures = 0, token = ?, token_used = ? WHERE key = ?"
        )
        self._run(sql, (now, token_hash, now, key))

    def record_failure(self, key: str, now: float) -> None:
        """Record a wrong password: one more failure since the last login."""
        sql = "UPDATE users SET failures = min(failures + 1, ?), last_failure = ? WHERE key = ?"
        self._run(sql, (MAX_FAILURES, now, key))

    def record_statuses(self, statuses: Mapping[str, str], now: float) -> list[str]:
        """Set the status of many accounts, {key: status}; their tokens count as used now.

        Returns the keys without a token, or without an account.
        """
        without = []
        for key, status in statuses.items():
            self._run("UPDATE users SET status = ?, token_used = ? WHERE key = ?", (status, now, key))
            if not self._run("SELECT 1 FROM users WHERE key = ? AND token IS NOT NULL", (key,)):
                without.append(key)
        return without

    def record_clock_step(self, before: float, now: float) -> None:
        """The clock was set from `before` to `now`: every token that was alive at `before` counts as used now."""
        sql = "UPDATE users SET token_used = ? WHERE token IS NOT NULL AND ? - token_used <= ?"
        self._run(sql, (now, before, TOKEN_LIFE))

    def record_logout(self, key: str, now: float) -> None:
        """Record a logout: offline, and the token is deleted."""
        self._run("UPDATE users SET status = 'offline', token = NULL, token_used = ? WHERE key = ?", (now, key))

    def find_token(self, token: str, now: float) -> Account | None:
        """The account whose living token this is, or None. Costs one SHA-256 and one look into an index."""
        sql = SELECT_ACCOUNT + " WHERE token = ? AND ? - token_used <= ?"
        rows = self._run(sql, (_token_hash(token), now, TOKEN_LIFE))
        return _account(*rows[0]) if rows else None

    def change_password(self, key: str, checked: str, password_hash: str) -> bool:
        """`set_password`; False, and nothing changes, if `checked` is not this account's hash any more."""
        account = self.find(key)
        if account is None or account.password != checked:
            return False
        if password_hash != checked:
            self.set_password(key, password_hash)
        return True

    def set_password(self, key: str, password_hash: str) -> None:
        """Replace the password's hash; status, token and failures stay."""
        self._run("UPDATE users SET password = ? WHERE key = ?", (password_hash, key))

    def recover(self, now: float) -> list[Account]:
        """At the start of a server: those who may come back become lost and are returned, all others are offline.

        The former were online or lost when the last server ended, and have a living token. One transaction. A token
        that was used in the future, by a clock that was wrong, counts as used now: it lives no longer than any other.
        """
        with self.transaction():
            self._run("UPDATE users SET token_used = ? WHERE token_used > ?", (now, now))
            self._run(
                "UPDATE users SET status = CASE WHEN token IS NOT NULL AND ? - token_used <= ? "
                "THEN 'lost' ELSE 'offline' END WHERE status <> 'offline'",
                (now, TOKEN_LIFE),
            )
            rows = self._run(SELECT_ACCOUNT + " WHERE status = 'lost' ORDER BY key")
        return [_account(*row) for row in rows]

    def close(self) -> None:
        """Close the file and free it for another server. May be called twice."""
        self._drop()
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def open_store(path: str | Path) -> Store:
    """Open the accounts at `path` for a server, alone; a missing file is created (mode 0600).

    Checks the whole file (about 0.15 s for 100,000 accounts). Raises LockedError if a server has it, DamagedError or
    ForeignError for a file that is not a readable Vessages database, which then stays as it was, else StorageError.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, closing(open_store(Path(folder) / "vessages.db")) as store:
    ...     with store.transaction():
    ...         store.add("Alice", "alice", hash_password("correct horse", Cost(4, 1, 1)), now=0.0)
    ...     store.find("alice")
    True
    <Account 'Alice' offline>
    """
    path = _absolute(path)
    if not path.parent.is_dir():
        raise StorageError(f"{path}: there is no folder {path.parent}: create it, or give another file with --db")
    lock = FileLock(path)
    try:
        with _explained(path):
            if not path.exists():
                _create(path)
        _check_header(path)
        return Store(path, lock)
    except BaseException:
        lock.release()
        raise


# --- Copies and backups ----------------------------------------------------------------------------------------------

KEEP_MAX = 10_000  # The highest `--keep`: more backups are not a choice, they are kept without it.
POLL_SECONDS = 0.001  # The pause between two looks whether a busy file is free.
SQLITE_BUSY = 5  # The sqlite3 module names it from Python 3.11 on.

SEPARATORS = tuple(filter(None, (os.sep, os.altsep)))  # Characters at the end of a name that make it a folder's.


class BackupReport(NamedTuple):
    """A backup that is complete, checked and on disk."""

    path: Path
    accounts: int
    size: int  # Bytes.
    removed: list[Path]  # The older backups that `keep` has deleted.
    notes: tuple[str, ...] = ()  # Reasons why `keep` has not deleted more.


def _open_still(path: Path) -> sqlite3.Connection:
    """Open the database at `path` for a copy: until its transaction ends, others may read, but their commits wait.

    SQLite looks more and more rarely whether a busy file is free, at last ten times a second. It would miss the short
    gaps between the commits of a busy server (8 of 20 backups failed), so we look ourselves, and often.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    db = None
    while True:
        try:
            if db is None:
                db = _connect(path, wait=0.0)
                db.execute("BEGIN")
            db.execute("SELECT count(*) FROM sqlite_master")
            return db
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                if db is not None:
                    db.close()
                raise
        time.sleep(POLL_SECONDS)


def _copy(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """Make `target` the same as `source`, in one transaction of `target`, and end the transaction of `source`.

    Page by page and not by `VACUUM INTO`, which writes the indexes anew: a damaged file came out as a whole backup.
    """

    def give_up(status: int, _remaining: int, _total: int) -> None:
        if status == SQLITE_BUSY:  # SQLite has waited for BUSY_SECONDS; the sqlite3 module would wait for ever.
            raise sqlite3.OperationalError("database is locked")

    try:
        source.backup(target, progress=give_up)
    finally:
        if source.in_transaction:
            source.execute("ROLLBACK")


def _snapshot(
    source: sqlite3.Connection, draft: Path, change: Callable[[sqlite3.Connection], object] | None = None
) -> int:
    """Copy the open database `source` into the empty file `draft`, `change` the copy, and check it.

    Returns the number of accounts. The draft is not synced.
    """
    with closing(_connect(draft)) as copy:
        copy.execute("PRAGMA synchronous = OFF")  # Synced as a whole later, when no commit waits any more.
        _copy(source, copy)
        if change:
            change(copy)
        _check(copy, draft)
        return _count(copy)


def _keep(path: Path, db: sqlite3.Connection | None, word: str, now: float) -> Path:
    """Keep the database at `path` among the backups, under a name that `--keep` never deletes.

    `db` is that file, opened. If SQLite cannot open it, None: it is kept byte for byte, and its journal with it.
    """
    folder = path.parent / "backups"
    with _explained(folder):
        _make_folder(folder)
        draft, final = _reserve(_stamped(folder, f"{path.stem}-{word}", now))
    with _explained(final), _becoming(draft, final):
        if db is not None:
            _snapshot(db, draft)
            return final
        if path.exists():
            shutil.copyfile(path, draft)
        journal = _beside(path, "-journal")
        if journal.exists():
            kept_journal = _beside(final, "-journal")
            _new_file(kept_journal)
            shutil.copyfile(journal, kept_journal)
            _sync_file(kept_journal)
    return final


def backup(
    path: str | Path,
    target: str | Path | None = None,
    keep: int | None = None,
    *,
    now: float | None = None,
) -> BackupReport:
    """Copy the accounts at `path`, while a server may be using them, and check the copy.

    `target` is a new file or an existing folder; None is the folder `backups` beside the database. In a folder the name
    is made from the time `now` (Unix seconds; None: the clock), and with `keep` only that many backups made from this
    file stay there, this one among them; what cannot be deleted is in the notes. May be called from any thread: it uses
    a connection of its own and makes the server's commits wait while it copies, 0.1 s for 100,000 accounts. Raises
    StorageError; then no file is left behind.
    """
    path = _absolute(path)
    _check_exists(path)
    with _explained(path), closing(_open_still(path)) as source:
        _check_origin(path, _pragma(source, "application_id"), _version(source))  # The rest is checked in the copy.
        identity = _identity(source, path)
        draft, final = _reserve(_backup_names(path, target, keep, time_of_day() if now is None else now))
        try:
            with _explained(final), _becoming(draft, final):
                accounts = _snapshot(source, draft, _disown if identity is None else None)
        except DamagedError:
            raise DamagedError(f"{path} {ADVICE_DAMAGED}") from None
    removed, notes = ([], ()) if keep is None else _prune(final, path, identity, keep)
    return BackupReport(final, accounts, final.stat().st_size, removed, notes)


def _disown(backup_file: sqlite3.Connection) -> None:
    """Make it a backup that no `--keep` counts or deletes."""
    if _version(backup_file) >= FIRST_WITH_IDENTITY:
        backup_file.execute(NEW_IDENTITY)


def _backup_names(path: Path, target: str | Path | None, keep: int | None, now: float) -> Iterable[Path]:
    """The names that a backup of `path` may get: see `backup`."""
    final = path.parent / "backups" if target is None else _absolute(target)
    # A folder whose disk is not mounted: a file of that name would be in the way of every later backup.
    if target is not None and not final.exists() and (str(target).endswith(SEPARATORS) or Path(target).is_symlink()):
        raise StorageError(f"{target} leads to no folder: mount the disk to which it leads, or create the folder")
    if target is None:
        with _explained(final):
            _make_folder(final)
    if final.is_dir():
        return _stamped(final, path.stem, now)
    if keep is not None:
        raise StorageError(f"{final} is not a folder: --keep counts the backups in a folder, leave out one of them")
    return [final]


def _own_backups(folder: Path, stem: str, identity: str | None) -> Iterator[tuple[float, Path]]:
    """The stamped backups in `folder` of the file of that name and identity: their times and paths, newest first."""
    pattern = re.compile(re.escape(stem) + r"-(\d{4}-\d\d-\d\dT\d{6}Z)(?:-(\d+))?\.db", re.ASCII)
    stamped = []
    for file in folder.iterdir():
        if match := pattern.fullmatch(file.name):
            with suppress(ValueError):  # No such day: the file is somebody else's.
                made = datetime.strptime(match[1], STAMP).replace(tzinfo=timezone.utc).timestamp()
                stamped.append((made, int(match[2] or 1), file))
    for made, _, file in sorted(stamped, reverse=True):
        if identity is not None and file.is_file() and _identity_of(file, wait=0.0) == identity:
            yield made, file


def _prune(newest: Path, path: Path, identity: str | None, keep: int) -> tuple[list[Path], tuple[str, ...]]:
    """Delete the oldest backups of the file at `path` beside `newest` until `keep` are left; never `newest` itself.

    Returns what was deleted, and why something was not: the backup is made, so that is no failure.
    """
    if identity is None:
        return [], (f"no older backup is deleted: {path} has no identity of its own yet, start the server once",)
    removed, refused = [], []
    try:
        others = [file for _, file in _own_backups(newest.parent, path.stem, identity) if file != newest]
    except OSError as error:
        return [], (f"no older backup is deleted: {newest.parent} cannot be listed ({error.strerror})",)
    for file in others[max(keep, 1) - 1 :]:
        try:
            file.unlink(missing_ok=True)
            removed.append(file)
        except OSError as error:
            refused.append(f"{file} ({error.strerror})")
    if not refused:
        return removed, ()
    return removed, (f"{len(refused)} of the older backups cannot be deleted, such as {refused[0]}: do it by hand",)


def newest_backup(path: str | Path, now: float) -> float | None:
    """When the newest backup in the folder `backups` of the accounts at `path` was made; None if there is none.

    One from the future is left out: the clock was wrong then, or is now.
    """
    path = _absolute(path)
    with suppress(OSError):  # There is no folder yet; any other reason is told by the next backup.
        backups = _own_backups(path.parent / "backups", path.stem, _identity_of(path, BUSY_SECONDS, live=path))
        return next((made for made, _ in backups if made <= now), None)
    return None


def _check_exists(path: Path, advice: str = "give the file of the accounts with --db") -> None:
    if not path.exists():
        raise StorageError(f"{path} does not exist: {advice}")


class VerifyReport(NamedTuple):
    """A file that was found whole."""

    path: Path
    accounts: int
    size: int  # Bytes.
    version: int  # Of the schema.


def verify(path: str | Path) -> VerifyReport:
    """Check the database or backup at `path` completely. Raises StorageError if anything is wrong with it."""
    path = _absolute(path)
    with closing(_open_alone(path)) as db, _explained(path):
        return VerifyReport(path, _count(db), path.stat().st_size, _version(db))


def _open_alone(path: Path) -> sqlite3.Connection:
    """Open a database in a process that has it open nowhere else, so that its header can be looked at first."""
    _check_exists(path)
    _check_header(path)
    return _open_checked(path)


# --- Restore ---------------------------------------------------------------------------------------------------------


LOST_NAMED = 20  # Accounts that a restore takes away and names.


class RestoreReport(NamedTuple):
    """The result of a restore, done or tried."""

    added: int  # Accounts in the backup only.
    removed: int  # Accounts in the live file only.
    changed: int  # Accounts in both, with another spelling of the name or another password.
    accounts: int
    replaced: Path | None  # The place of the replaced file; None if there was none, or nothing was done.
    lost: list[str]  # The names of the accounts in the live file only, at most LOST_NAMED.


def restore(
    path: str | Path,
    candidate: str | Path,
    dry_run: bool = False,
    *,
    now: float | None = None,
) -> RestoreReport:
    """Make the accounts at `path` those of the backup `candidate`; afterwards everybody is offline and without a token.

    The server must be stopped. A live file that is missing, empty or damaged is replaced too; a foreign one never is.
    The live file keeps its identity; where there is none, it has that of the backup if that was made here.
    Interrupted at any moment, `path` holds either all the old accounts or all the new ones. Raises StorageError, and
    then the live file is as it was.
    """
    path, candidate = _absolute(path), _absolute(candidate)
    if path == candidate:
        raise StorageError(f"{candidate} is the live file itself: give a backup")
    draft = _beside(path, ".new")
    with ExitStack() as at_the_end, _explained(path):
        at_the_end.callback(FileLock(path).release)
        at_the_end.callback(_discard, draft)
        backup_file = at_the_end.enter_context(closing(_open_candidate(candidate)))
        live = _open_live(path)
        if live is not None:
            at_the_end.enter_context(closing(live))
        identity = None if live is None else _identity(live, path)

        def make_offline(copy: sqlite3.Connection) -> None:
            """Bring it to the newest schema, with the identity of the live file, as it is when no server runs."""
            _migrate(copy)
            copy.execute("UPDATE users SET status = 'offline', token = NULL WHERE status <> 'offline' OR token NOTNULL")
            if identity is not None:
                copy.execute("UPDATE origin SET identity = ?, path = ?, inode = ?", (identity, *_place(path)))

        _discard(draft)
        _new_file(draft)
        accounts = _snapshot(backup_file, draft, make_offline)
        difference, lost = ((accounts, 0, 0), []) if live is None else _difference(draft, path)
        replaced = None if dry_run else _put_in_place(draft, path, live, time_of_day() if now is None else now)
        return RestoreReport(*difference, accounts, replaced, lost)


def _open_candidate(candidate: Path) -> sqlite3.Connection:
    _check_exists(candidate, "give one of the files in the folder of the backups")
    _check_header(candidate)
    journal = _beside(candidate, "-journal")
    if journal.exists():
        raise StorageError(f"{candidate} is in use or was left in the middle of a change ({journal}): give a backup")
    return _open_checked(candidate, "ro")


def _open_live(path: Path) -> sqlite3.Connection | None:
    """The live file, a hot journal rolled back; None if there is nothing in it to compare with or to write into."""
    try:
        return _open_alone(path) if path.exists() else None
    except DamagedError:
        return None
    except ForeignError as error:
        raise ForeignError(f"{path} was not written by this Vessages: move it away, then restore again") from error


def _put_in_place(draft: Path, path: Path, live: sqlite3.Connection | None, now: float) -> Path | None:
    """Make the accounts at `path`, opened as `live`, those of `draft`. Returns where the replaced file is kept.

    None for `live`: the file is missing, or SQLite cannot read it.
    """
    if live is not None:
        kept = _keep(path, live, "replaced", now)
        with closing(_connect(draft)) as new:
            _copy(new, live)  # One transaction: SQLite rolls it back if we die in it.
        return kept
    journal = _beside(path, "-journal")
    lost = path.exists() or journal.exists()
    kept_or_none = _keep(path, None, "replaced", now) if lost else None
    journal.unlink(missing_ok=True)  # It must not meet the new file.
    sync_folder(path.parent)
    _sync_file(draft)
    draft.replace(path)
    sync_folder(path.parent)
    return kept_or_none


def _difference(draft: Path, path: Path) -> tuple[tuple[int, int, int], list[str]]:
    """How many accounts of the file `draft` the file at `path` has not, has more, and has otherwise; the first names of
    those that it has more."""
    questions = (
        "SELECT count(*) FROM users WHERE key NOT IN (SELECT key FROM live.users)",
        "SELECT count(*) FROM live.users WHERE key NOT IN (SELECT key FROM main.users)",
        "SELECT count(*) FROM users JOIN live.users AS old USING (key) "
        "WHERE (users.username, users.password) <> (old.username, old.password)",
    )
    names = "SELECT username FROM live.users WHERE key NOT IN (SELECT key FROM main.users) ORDER BY key LIMIT ?"
    with closing(_connect(draft)) as new:
        new.execute("ATTACH DATABASE ? AS live", (f"{_uri(path)}?mode=ro",))
        added, removed, changed = (int(new.execute(question).fetchone()[0]) for question in questions)
        lost = [str(name) for (name,) in new.execute(names, (LOST_NAMED,))]
    return (added, removed, changed), lost


# --- Export and import -----------------------------------------------------------------------------------------------

SELECT_EXPORT = (
    "SELECT key, username, password, status, created, last_login, failures, last_failure FROM users ORDER BY key"
)


class ImportReport(NamedTuple):
    """The result of an import."""

    added: int
    changed: int  # Accounts that were there and have been overwritten.
    kept: int  # Accounts that were there and have been left as they were.


def _is_name(name: str) -> bool:
    """Whether `name` may be imported. REGISTER is stricter today than it once was, and those accounts are kept."""
    allowed = all(c.isalnum() or c in "_.-" or unicodedata.category(c).startswith("M") for c in name)
    return allowed and 1 <= len(name) <= protocol.NAME_MAX and name[0].isalnum()


def export(path: str | Path) -> dict[str, dict[str, dict[str, object]]]:
    """All accounts as `{"users": {KEY: {"username": …, "password": "scrypt$…", "status": …, …}}}`.

    Times are Unix seconds. If no server runs, nobody is online. Tokens are not exported: after an import elsewhere
    everybody logs in with the password.
    """
    path = _absolute(path)
    with closing(_open_current(path)) as db, _explained(path):
        rows = db.execute(SELECT_EXPORT)
        _, *columns = (column[0] for column in rows.description)
        users = {key: dict(zip(columns, values, strict=True)) for key, *values in rows}
    if not _is_served(path):  # The statuses are those that a killed server has left.
        for user in users.values():
            user["status"] = "offline"
    return {"users": users}


def import_accounts(
    path: str | Path, data: object, overwrite: bool = False, *, now: float | None = None
) -> ImportReport:
    """Add the accounts of `data`, which is what `export` returns, to the file at `path`; a missing file is created.

    An account whose name is there already is left as it is, or with `overwrite`, if it differs, gets the imported name,
    password and history and loses its token. Added accounts are offline. All of it happens or nothing: raises
    StorageError naming the first account that is wrong.
    """
    path = _absolute(path)
    rows = _parse_import(data, time_of_day() if now is None else now)
    if not path.exists():
        open_store(path).close()
    with closing(_open_current(path)) as db, _changing(db, path):
        before = _count(db)
        sql = (
            "INSERT INTO users (key, username, skeleton, password, status, created, last_login, failures, last_failure)"
            " VALUES (?, ?, ?, ?, 'offline', ?, ?, ?, ?) ON CONFLICT (key) DO "
        )
        update = (
            "UPDATE SET username = excluded.username, skeleton = excluded.skeleton, password = excluded.password, "
            "created = excluded.created, last_login = excluded.last_login, failures = excluded.failures, "
            "last_failure = excluded.last_failure, token = NULL"
            " WHERE (username, password, created, last_login, failures, last_failure) IS NOT (excluded.username,"
            " excluded.password, excluded.created, excluded.last_login, excluded.failures, excluded.last_failure)"
        )
        changed = db.executemany(sql + (update if overwrite else "NOTHING"), rows).rowcount
        added = _count(db) - before
    return ImportReport(added, changed - added, len(rows) - changed)


def _parse_import(data: object, now: float) -> list[tuple[object, ...]]:
    users = data.get("users") if isinstance(data, dict) else None
    if not isinstance(users, dict):
        raise StorageError('no accounts in the import: it must be an object {"users": {NAME: {"password": …}, …}}')
    rows: dict[str, tuple[object, ...]] = {}
    for name, entry in users.items():
        try:
            key, row = _parse_account(name, entry, now)
            if key in rows:
                raise ValueError("the same name as another account of the import")
        except ValueError as error:
            raise StorageError(f"import: account {name!r}: {error}: correct it and import again") from None
        rows[key] = (key, *row)
    return list(rows.values())


def _parse_account(name: str, entry: object, now: float) -> tuple[str, tuple[object, ...]]:
    """The key and the row of one imported account. Raises ValueError saying what is wrong, never with its values."""
    if not isinstance(entry, dict):
        raise ValueError("not an object")
    username, password = entry.get("username", name), entry.get("password")
    if not isinstance(username, str) or not _is_name(username := unicodedata.normalize("NFKC", username)):
        raise ValueError("not a user name")
    if not isinstance(password, str) or _parse_hash(password) is None:
        raise ValueError("its password is not a hash as export writes it")
    if entry.get("status", "offline") not in STATUSES:
        raise ValueError("not a status")
    failures = entry.get("failures", 0)
    if type(failures) is not int or not 0 <= failures <= MAX_FAILURES:
        raise ValueError("failures is not a count")
    times = (_parse_time(entry.get(field)) for field in ("created", "last_login", "last_failure"))
    created, last_login, last_failure = times
    history = (now if created is None else created, last_login, failures, last_failure)
    return protocol.fold(username), (username, protocol.skeleton(username), password, *history)


def _parse_time(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LAST_TIME:
        raise ValueError("a time is not a number of seconds")
    return float(value)


def _open_current(path: Path) -> sqlite3.Connection:
    """Open a database to read or change accounts; one of an older version is the server's to bring up to date."""
    db = _open_alone(path)
    with _closed_on_error(db), _explained(path):
        if _version(db) < len(MIGRATIONS):
            raise StorageError(f"{path} was written by an older Vessages: start the server once, it updates the file")
    return db


@contextmanager
def _changing(db: sqlite3.Connection, path: Path) -> Iterator[None]:
    """One transaction on a connection that is thrown away afterwards."""
    with _explained(path):
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("COMMIT")


def set_password(path: str | Path, name: str, password: str, cost: Cost = DEFAULT_COST) -> str:
    """Give the account of `name` another password and kill its token. Returns its name as registered.

    Unlike PASSWD by the user, who may stay logged in elsewhere: the operator does this for somebody who has lost the
    password, or whose password is known to others. A session on a running server goes on until its connection
    breaks for the second time at the latest; TAKEOVER with the new password ends that session at once.
    """
    path = _absolute(path)
    with closing(_open_current(path)) as db, _explained(path):
        username, _ = _find_user(db, name)
        hashed = hash_password(_clean_new_password(username, password), cost)
        with _changing(db, path):
            db.execute("UPDATE users SET password = ?, token = NULL WHERE key = ?", (hashed, protocol.fold(name)))
    return username


def _find_user(db: sqlite3.Connection, name: str) -> tuple[str, str]:
    """The name as registered, and the status, of the user whom a person calls `name`."""
    key = protocol.fold(name).encode("utf-8", "replace").decode()  # A name from a terminal may not be UTF-8.
    row = db.execute("SELECT username, status FROM users WHERE key = ?", (key,)).fetchone()
    if row is None:
        raise StorageError(f"there is no account {name!r}: {PYTHON} storage.py list shows them all")
    return str(row[0]), str(row[1])


def _clean_new_password(username: str, password: str) -> str:
    try:
        password = protocol.clean_password(password)
        fault = protocol.password_fault(password, username)
    except UnicodeEncodeError:
        raise StorageError("the password is not UTF-8: check the settings of the terminal") from None
    if fault:
        raise StorageError(f"{fault}: choose another")
    return password


REMOVAL_REFUSED = {
    "online": "online: remove the account after they left",
    "lost": "lost: the connection broke and may come back, remove the account when list says offline",
}


def remove(path: str | Path, name: str) -> str:
    """Delete the account of `name` and return its name as registered. Refused while that user is online or lost."""
    path = _absolute(path)
    with closing(_open_current(path)) as db, _changing(db, path):
        username, status = _find_user(db, name)
        if status != "offline" and _is_served(path):  # Without a server it is left from one that was killed.
            raise StorageError(f"{username} is {REMOVAL_REFUSED[status]}, or stop the server")
        db.execute("DELETE FROM users WHERE key = ?", (protocol.fold(name),))
    return username


# --- The command line ------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """The answer of a command: for scripts (`--json`) and for a person."""

    data: Mapping[str, object]
    lines: Iterable[str]
    done: str = ""  # The change that was made, told if the answer cannot be printed; empty if nothing was changed.


def _short(path: Path) -> str:
    """The path as a person in this folder would type it."""
    with suppress(OSError, ValueError):  # The current folder may have been deleted, or be elsewhere.
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _accounts(count: int) -> str:
    return f"{count} account{'' if count == 1 else 's'}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _printable(text: str) -> str:
    """A name from a file, harmless on a terminal."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _time(seconds: object) -> str | None:
    """Unix seconds as ISO 8601, which people and programs can read; None for none, and for damage."""
    if not isinstance(seconds, float) or not 0 <= seconds <= LAST_TIME:
        return None
    return _utc(seconds, "%Y-%m-%dT%H:%M:%SZ")


def _run_backup(options: argparse.Namespace) -> Answer:
    path = _absolute(options.db)
    _check_exists(path)
    _check_header(path)
    report = backup(path, options.target, options.keep)
    removed = [_short(file) for file in report.removed]
    lines = [f"{_short(report.path)}: {_accounts(report.accounts)}, {_size(report.size)}"]
    lines += [*(f"removed {name}" for name in removed), *report.notes]
    return Answer({**report._asdict(), "removed": removed}, lines, "the backup was made")


def _run_restore(options: argparse.Namespace) -> Answer:
    report = restore(options.db, options.file, options.dry_run)
    lines = [f"+{_accounts(report.added)}, -{report.removed}, {report.changed} changed"]
    if report.lost:
        gone = "they would be gone" if options.dry_run else "gone"
        more = f" and {report.removed - LOST_NAMED} others" if report.removed > LOST_NAMED else ""
        lines.append(f"not in the backup, so {gone}: {', '.join(map(_printable, report.lost))}{more}")
    if options.dry_run:
        lines.append("nothing was changed (--dry-run)")
    else:
        kept = [f"the replaced file is kept as {_short(report.replaced)}"] if report.replaced else []
        lines += kept + [
            f"{_short(_absolute(options.db))} restored: {_accounts(report.accounts)}, everybody is offline"
        ]
    done = "" if options.dry_run else "the accounts were restored"
    return Answer({**report._asdict(), "dry_run": options.dry_run}, lines, done)


def _run_verify(options: argparse.Namespace) -> Answer:
    report = verify(options.file or options.db)
    line = f"{_short(report.path)}: whole, {_accounts(report.accounts)}, {_size(report.size)}, version {report.version}"
    return Answer(report._asdict(), [line])


def _run_list(options: argparse.Namespace) -> Answer:
    users = export(options.db)["users"]
    # The name stands last, so that its width moves nothing; with one of 32 letters a line fits 80 columns.
    lines = [f"{'status':7} {'created':10} {'last login':20} failed name"]
    for user in users.values():
        created, login = (_time(user[field]) or "unknown" for field in ("created", "last_login"))
        login = "never" if user["last_login"] is None else login
        name = _printable(str(user["username"]))
        lines.append(f"{user['status']:7} {created[:10]:10} {login:20} {user['failures']:6} {name}")
        del user["password"]
        user.update({field: _time(user[field]) for field in ("created", "last_login", "last_failure")})
    return Answer({"users": users}, lines)


def _run_export(options: argparse.Namespace) -> Answer:
    data = export(options.db)
    if options.file is None:
        return Answer(data, _export_lines(data, ascii_only=True))
    file = _absolute(options.file)
    _write_export(data, file)
    accounts = len(data["users"])
    line = f"{_short(file)}: {_accounts(accounts)}, with their password hashes"
    return Answer({"path": file, "accounts": accounts}, [line], "the export was made")


def _export_lines(data: dict[str, dict[str, dict[str, object]]], ascii_only: bool = False) -> Iterator[str]:
    """The JSON text, one line for each account, so that two exports can be compared line by line.

    In ASCII only for standard output: a redirection of it, and PowerShell's twice, is in whatever encoding.
    """
    last = len(data["users"])
    yield '{"users": {'
    for number, (key, user) in enumerate(data["users"].items(), 1):
        pair = f"{json.dumps(key, ensure_ascii=ascii_only)}: {json.dumps(user, ensure_ascii=ascii_only)}"
        yield pair if number == last else pair + ","
    yield "}}"


def _write_export(data: dict[str, dict[str, dict[str, object]]], file: Path) -> None:
    with _explained(file):
        draft, _ = _reserve([file])
        with _becoming(draft, file), draft.open("w", encoding="utf-8") as writer:
            writer.writelines(line + "\n" for line in _export_lines(data))


def _run_import(options: argparse.Namespace) -> Answer:
    file = Path(options.file)
    with _explained(file):
        text = file.read_bytes()
    try:
        data = json.loads(text, object_pairs_hook=_object_without_twins)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{file} is not JSON ({error}): give a file that export has written") from None
    report = import_accounts(options.db, data, options.overwrite)
    line = f"+{_accounts(report.added)}, {report.changed} changed, {report.kept} were there already and are as before"
    line += " (--overwrite changes them)" * (report.kept > 0 and not options.overwrite)
    return Answer(report._asdict(), [line], "the accounts were imported")


def _object_without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; the json module would silently keep only the last of two accounts of one name."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("one name twice in an object")
    return dict(pairs)


def _run_passwd(options: argparse.Namespace) -> Answer:
    path = _absolute(options.db)
    with closing(_open_current(path)) as db, _explained(path):
        username, status = _find_user(db, options.user)  # A wrong name is told before the password is asked for.
        is_in = status != "offline" and _is_served(path)
    set_password(path, options.user, _ask_password(username))
    line = f"{_printable(username)} has a new password"
    line += "; the session that is there goes on, /takeover with the new password ends it" * is_in
    return Answer({"username": username}, [line], line)


def _ask_password(username: str) -> str:
    """The new password: typed twice without echo on a terminal, else one line of standard input."""
    if sys.stdin is None:
        raise StorageError("there is no standard input to read the password from: nothing was changed")
    if not sys.stdin.isatty():
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = getpass.getpass(f"New password for {_printable(username)}: ")
        if getpass.getpass("Again: ") != password:
            raise StorageError("the two passwords differ: nothing was changed, try again")
    return password


def _run_remove(options: argparse.Namespace) -> Answer:
    username = remove(options.db, options.user)
    return Answer({"username": username}, [line := f"{_printable(username)} is removed"], line)


def number_type(least: float, most: float, kind: type[int] | type[float] = int) -> Callable[[str], Any]:
    """An option's type: a number from `least` to `most`."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least:,} to {most:,}")
        return value

    return parse


def complain(words: str) -> None:
    """A line on standard error. If nobody can read it, or its disk is full, it is let go."""
    if sys.stderr is None:
        return
    try:
        print(words, file=sys.stderr)
    except OSError:
        drop_output(sys.stderr)


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        complain(f"storage.py: {message}: {PYTHON} {self.prog} --help says more")
        self.exit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        with suppress(OSError):  # nobody reads: argparse itself does so from Python 3.11 on
            super()._print_message(message, file)


def _parser() -> Parser:
    # Each option is accepted before and after the command; SUPPRESS keeps the second parser's default from winning.
    common = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--db", metavar="PATH", help="the file of the accounts (default: vessages.db)")
    common.add_argument("--json", action="store_true", help="answer with one JSON object, for scripts")
    parser = Parser(
        prog="storage.py",
        description="The accounts of a Vessages server: backup, restore and upkeep.",
        epilog="Exit code 0 when it was done; 2, with one line on standard error, when it was not.",
        parents=[common],
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable[[argparse.Namespace], Answer], text: str) -> Callable[..., argparse.Action]:
        """A command, named like the function that runs it; the result adds arguments to it."""
        description = text[0].upper() + text[1:] + "."
        made = commands.add_parser(run.__name__[len("_run_") :], help=text, description=description, parents=[common])
        made.set_defaults(run=run)
        return made.add_argument

    add = command(_run_backup, "copy the accounts, also while the server runs, and check the copy")
    add("target", nargs="?", help="a new file or a folder (default: the folder backups beside the database)")
    add("--keep", type=number_type(1, KEEP_MAX), metavar="N", help="keep only the newest N backups in the folder")
    add = command(_run_restore, "replace the accounts by those of a backup; the server must be stopped")
    add("file", help="the backup")
    add("--dry-run", action="store_true", help="only say what would change")
    add = command(_run_verify, "check a database or backup completely")
    add("file", nargs="?", help="the file (default: the database)")
    command(_run_list, "show all accounts")
    add = command(_run_export, "write all accounts as JSON, with their password hashes")
    add("file", nargs="?", help="a new file (default: standard output)")
    add = command(_run_import, "add the accounts of a JSON file")
    add("file", help="a file as export writes it")
    add("--overwrite", action="store_true", help="also replace accounts that are there already")
    add = command(_run_passwd, "give a user a new password; asks for it without echo")
    add("user", help="the user's name")
    add = command(_run_remove, "delete the account of a user who is offline")
    add("user", help="the user's name")
    return parser


def _reader_has_gone(error: OSError) -> bool:
    return isinstance(error, BrokenPipeError) or (sys.platform == "win32" and error.errno == errno.EINVAL)


def drop_output(stream: IO[str]) -> None:
    """Let all that is still to be written here go nowhere: else Python complains again at its end."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123 (a device, not a path)
        os.dup2(nowhere.fileno(), stream.fileno())


def write_the_rest(program: str) -> None:
    """Write what Python has kept, such as the text of --help. Else Python would try at its very end, and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            drop_output(stream)
            if stream is sys.stdout and not _reader_has_gone(error):
                complain(f"{program}: standard output: {error.strerror}")
                sys.exit(2)


def _show(answer: Answer, as_json: bool) -> int:
    """Print the answer of a command and return the exit code. A reader that closes the pipe (`| head`) is no error.

    Once a change is made, an answer that cannot be printed is no failure: trying again would make the change twice.
    """
    if sys.stdout is None:
        return 0
    try:
        for line in [json.dumps(answer.data, default=str)] if as_json else answer.lines:
            print(line)
        sys.stdout.flush()
    except OSError as error:
        drop_output(sys.stdout)
        if _reader_has_gone(error):
            return 0
        done = f"{answer.done}, but this could not be printed" if answer.done else "the answer is not complete"
        complain(f"storage.py: {done}: standard output: {error.strerror}")
        return 0 if answer.done else 2
    return 0


@contextmanager
def _waiting_descriptors() -> Iterator[None]:
    """Make the standard streams wait for room and for input; at the end they are as they were found.

    Another program may have left them non-blocking. Python then drops output without a word: an export lacked accounts.
    """
    found: list[int] = []
    if sys.platform != "win32":
        for number in range(3):
            with suppress(OSError):  # The descriptor is closed.
                found += [] if os.get_blocking(number) else [number]
        for number in found:
            os.set_blocking(number, True)
    try:
        yield
    finally:
        for number in found:
            os.set_blocking(number, False)


def set_encodings() -> None:
    """A terminal has its own encoding; a pipe or a file has UTF-8 on every system, which Windows would not do.

    Characters that a terminal cannot show, or sends broken, cause no traceback.
    """
    streams = (sys.stdin, "utf-8-sig", "surrogateescape"), (sys.stdout, "utf-8", "backslashreplace")
    for stream, encoding, errors in (*streams, (sys.stderr, "utf-8", "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else encoding, errors=errors)


def main(arguments: list[str] | None = None) -> int:
    """Run one command of the command line and return the exit code: 0 done, 2 refused, 130 interrupted."""
    with _waiting_descriptors():
        try:
            return _run(arguments)
        finally:
            write_the_rest("storage.py")


def _run(arguments: list[str] | None) -> int:
    set_encodings()
    options = _parser().parse_args(arguments, argparse.Namespace(db="vessages.db", json=False))
    try:
        return _show(options.run(options), options.json)
    except (StorageError, OSError) as error:
        complain(f"storage.py: {error}")
        return 2
    except (KeyboardInterrupt, EOFError):
        complain("interrupted: nothing was left half done")
        return 130


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(19)  # These commands can wait; the people who chat on a server beside them cannot.
    for name in ("SIGTERM", "SIGHUP"):  # As Ctrl-C: they interrupt, so that nothing is left half done.
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    sys.exit(main())
