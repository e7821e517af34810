"""Vessages: the accounts on disk.

One SQLite file holds every account. The server opens it as a `Store`; the person who runs the server uses this file
as a command: `python storage.py --help`. It imports nothing else of Vessages and works when copied alone into an
empty folder.

The rules:

1.  What was answered is on disk. Changes happen in a transaction, and `Store.transaction()` is left without an error
    only after the commit. The rollback journal and `synchronous=EXTRA` make that true over a power cut as well.
2.  After any error nothing is trusted. The transaction is rolled back, the connection closed, and the next use opens
    and checks the file again. A commit that failed is never tried a second time as if the first had not happened.
3.  A file we do not understand is not touched: foreign, empty, damaged, or written by a newer Vessages. We say what
    to do.
4.  One server per file. The lock is a file of its own beside the database (`vessages.db.lock`), freed by the death of
    its owner and deleted by a clean stop. It is not the database itself, because closing any second descriptor of the
    database would drop SQLite's own locks (POSIX), and because on macOS `flock` excludes SQLite's locks.
5.  A file with a final name is complete. Everything new is written under another name, synced, and renamed into place.
6.  Every failure is a `StorageError` whose text is one line for a person and says what to do. Passwords, hashes and
    tokens never appear in one, nor in a repr. Of a token only its SHA-256 is stored.

The reading order: passwords and tokens; the account and the schema; opening and checking a file; the lock; the
`Store`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

STATUSES = ("online", "offline", "lost")

TOKEN_LIFE = 7 * 24 * 3600.0  # Seconds a token lives unused: over a holiday week, not for ever.
TOKEN_BYTES = 32  # 256 random bits cannot be guessed, so one plain SHA-256 of them needs no salt and no slowness.
SALT_BYTES = 16  # Enough that no two accounts ever share a salt.
HASH_BYTES = 32  # As long as SHA-256, which both functions are built on.

MAX_LOG_N = 20  # 2^20 with r=8 is 1 GiB for one check: more is a typing error, or a hostile file that was imported.
MAX_R = 32
MAX_P = 64
MAX_MEMORY = 2**30  # Bytes for one check, whatever N and r are.

BUSY_SECONDS = 5.0  # How long to wait for another program (a backup, `import`), which holds the file only briefly.

APPLICATION_ID = 0x56455353  # "VESS" in the header of the file: how we tell our files from anybody else's.
HEADER_BYTES = 100  # SQLite's file header, https://www.sqlite.org/fileformat.html
MAGIC = b"SQLite format 3\0"


# --- Errors ----------------------------------------------------------------------------------------------------------


class StorageError(Exception):
    """Something about the accounts went wrong. The text is one line for a person and says what to do next."""


class LockedError(StorageError):
    """Another server has the file, or a command that must have it alone."""


class DamagedError(StorageError):
    """The file is, or was, ours and cannot be read as a whole."""


class ForeignError(StorageError):
    """The file is not a Vessages database, or not one that this version can read."""


# What SQLite says (the texts of sqlite3_errstr, the same in all versions) and what a person can do about it.
ADVICE = (
    ("disk is full", "the disk is full: free some space, the server then goes on by itself"),
    ("readonly", "it cannot be written: give this user the right to write the file and its folder"),
    ("locked", "another program keeps it busy: close that program (an sqlite3 shell, a copy?) and try again"),
    ("unable to open", "it cannot be opened: check that the file is there and may be read and written by this user"),
    ("I/O error", "the disk reports an error: check the disk and the system's log, and make a backup to another disk"),
)
ADVICE_DAMAGED = "is damaged: keep a copy of it, then restore a backup: python storage.py --db PATH restore BACKUP"
DAMAGED = ("not a database", "malformed", "decode")


def _explain(path: Path, error: Exception) -> StorageError:
    """The `StorageError` for what SQLite or the operating system reported about the file at `path`."""
    said = str(error)
    if isinstance(error, OSError):
        return StorageError(f"{path}: {error.strerror or said}: check the name, the folder and the permissions")
    if any(word in said for word in DAMAGED):
        return DamagedError(f"{path} {ADVICE_DAMAGED}")
    for word, advice in ADVICE:
        if word in said:
            return StorageError(f"{path}: {advice}")
    return StorageError(f"{path}: {said}: run python storage.py --db PATH verify")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the operating system inside the block into `StorageError`s about `path`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise _explain(path, error) from error


# --- Passwords and tokens --------------------------------------------------------------------------------------------


class Cost(NamedTuple):
    """What one password check costs: scrypt's N = 2**log_n, r and p. Memory is 128 * N * r bytes.

    Where the platform has no scrypt, PBKDF2-HMAC-SHA-256 takes its place with N * r * p rounds: for the default that is
    655,360, just above the 600,000 which OWASP asks for.
    """

    log_n: int
    r: int = 8
    p: int = 5

    def is_sane(self) -> bool:
        in_range = 1 <= self.log_n <= MAX_LOG_N and 1 <= self.r <= MAX_R and 1 <= self.p <= MAX_P
        return in_range and 128 * self.r << self.log_n <= MAX_MEMORY


DEFAULT_COST = Cost(14)  # 16 MiB and p=5: one of the settings that OWASP calls equivalent.

_scrypt = getattr(hashlib, "scrypt", None)  # Missing where Python was built on a TLS library without it.


def parse_cost(text: str) -> Cost:
    """The `Cost` meant by the option `--hash-cost`: `14` is N=2^14 with r=8 and p=5; `14,8,5` says all three.

    Raises ValueError with a sentence for a person. Costs far too low for real use are allowed: tests need them.
    """
    try:
        cost = Cost(*(int(part) for part in text.split(",")))
    except (ValueError, TypeError):
        raise ValueError("give log2 of N, as in 14, or all three numbers log2(N),r,p as in 14,8,5") from None
    if not cost.is_sane():
        raise ValueError(f"log2(N) is 1 to {MAX_LOG_N}, r 1 to {MAX_R}, p 1 to {MAX_P}, memory at most 1 GiB")
    return cost


class _Hash(NamedTuple):
    """A stored password, taken apart: `scrypt$14$8$5$salt$hash` or `pbkdf2$655360$salt$hash`."""

    scheme: str
    numbers: tuple[int, ...]
    salt: bytes
    digest: bytes

    def text(self) -> str:
        numbers = (str(number) for number in self.numbers)
        return "$".join((self.scheme, *numbers, _to_text(self.salt), _to_text(self.digest)))


def _to_text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _to_bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _parse_hash(stored: str) -> _Hash | None:
    """The parts of a stored password, or None if it is not one of ours or asks for absurd work."""
    scheme, *fields = stored.split("$")
    if (scheme, len(fields)) not in (("scrypt", 5), ("pbkdf2", 3)):
        return None
    try:
        numbers = tuple(int(field) for field in fields[:-2])
        salt, digest = _to_bytes(fields[-2]), _to_bytes(fields[-1])
    except ValueError:
        return None
    sane = Cost(*numbers).is_sane() if scheme == "scrypt" else 1 <= numbers[0] <= MAX_R * MAX_P << MAX_LOG_N
    parsed = _Hash(scheme, numbers, salt, digest)
    # One spelling only: a second text that meant the same would be a different value in comparisons of files.
    return parsed if sane and salt and len(digest) == HASH_BYTES and parsed.text() == stored else None


def _derive(password: str, scheme: str, numbers: tuple[int, ...], salt: bytes) -> bytes:
    data = password.encode("utf-8", "surrogatepass")
    if scheme == "pbkdf2":
        return hashlib.pbkdf2_hmac("sha256", data, salt, numbers[0], HASH_BYTES)
    if _scrypt is None:
        raise StorageError("this Python lacks scrypt, which made the stored password: use another Python")
    log_n, r, p = numbers
    memory = 128 * r * ((1 << log_n) + p + 4)  # What OpenSSL needs; it refuses above maxmem, by default 32 MiB.
    try:
        digest: bytes = _scrypt(data, salt=salt, n=1 << log_n, r=r, p=p, maxmem=memory, dklen=HASH_BYTES)
    except (ValueError, MemoryError) as error:
        raise StorageError("not enough memory to check a password: give a lower --hash-cost") from error
    return digest


def _scheme_for(cost: Cost) -> tuple[str, tuple[int, ...]]:
    if _scrypt is None:
        return "pbkdf2", ((cost.r * cost.p) << cost.log_n,)
    return "scrypt", tuple(cost)


def hash_password(password: str, cost: Cost = DEFAULT_COST) -> str:
    """A new self-describing hash of `password` with a fresh salt. Slow on purpose, without holding the GIL.

    `password` is NFKC already. Raises StorageError if there is not enough memory for `cost`.
    """
    scheme, numbers = _scheme_for(cost)
    salt = secrets.token_bytes(SALT_BYTES)
    return _Hash(scheme, numbers, salt, _derive(password, scheme, numbers, salt)).text()


def check_password(password: str, stored: str | None, cost: Cost = DEFAULT_COST) -> tuple[bool, str | None]:
    """Whether `password` is the one behind the hash `stored`, and its new hash if it is and `cost` has changed.

    `stored` is None for an unknown user. Then, and for a malformed hash, the same work is done and the answer is
    False, so that the time tells nobody which names exist. Raises StorageError if this machine cannot do the work.
    """
    scheme, numbers = _scheme_for(cost)
    known = _parse_hash(stored) if stored is not None else None
    if known is None:
        _derive(password, scheme, numbers, bytes(SALT_BYTES))
        return False, None
    if not hmac.compare_digest(_derive(password, known.scheme, known.numbers, known.salt), known.digest):
        return False, None
    same_cost = (known.scheme, known.numbers) == (scheme, numbers)
    return True, None if same_cost else hash_password(password, cost)


def new_token() -> tuple[str, bytes]:
    """A new token, 256 random bits as URL-safe text, and its SHA-256, which is all that is ever stored."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    return token, _token_hash(token)


def _token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


# --- The account and the schema --------------------------------------------------------------------------------------


class Account(NamedTuple):
    """One account as it is on disk. Times are Unix seconds."""

    username: str  # As registered, for showing.
    key: str  # The form that is looked up and unique: NFKC of the case-fold.
    password: str  # The self-describing hash.
    status: str  # One of STATUSES.
    last_login: float | None  # The last login that succeeded.
    failures: int  # Wrong passwords since then.

    def __repr__(self) -> str:
        return f"<Account {self.username!r} {self.status}>"


SELECT_ACCOUNT = "SELECT username, key, password, status, last_login, failures FROM users"

# MIGRATIONS[n] takes a file from version n to n + 1, one statement after the other, in one transaction; a new file
# begins at version 0 and goes through all of them. To change the schema, append; never edit what has been released.
MIGRATIONS: list[tuple[str, ...]] = [
    (
        f"PRAGMA application_id = {APPLICATION_ID}",
        """CREATE TABLE users (
            username     TEXT NOT NULL,
            password     TEXT NOT NULL,
            status       TEXT NOT NULL CHECK (status IN ('online', 'offline', 'lost')),
            key          TEXT NOT NULL PRIMARY KEY,
            created      REAL NOT NULL,
            last_login   REAL,
            failures     INTEGER NOT NULL DEFAULT 0,
            last_failure REAL,
            token        BLOB,
            token_used   REAL
        )""",
        "CREATE UNIQUE INDEX users_token ON users (token) WHERE token IS NOT NULL",
    ),
]

SETTINGS = (
    "journal_mode = DELETE",  # One file at rest; the journal exists only during a transaction.
    "synchronous = EXTRA",  # Also syncs the folder after the journal is deleted: only then is the commit on disk.
    "fullfsync = ON",  # macOS: fsync alone leaves the data in the drive's cache. Nothing elsewhere.
    "temp_store = MEMORY",
    "secure_delete = ON",  # A removed account's hash does not stay in a free page.
    "trusted_schema = OFF",  # What a doctored file could do in its schema is refused.
    "cell_size_check = ON",
)


def _migrate(db: sqlite3.Connection, version: int) -> None:
    """Take the open file `db` from schema `version` to the newest, in one transaction."""
    db.execute("BEGIN IMMEDIATE")
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    db.execute("COMMIT")


def _schema(db: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Every table and index of ours as SQLite wrote it down; `sqlite_%` are its own (ANALYZE leaves some)."""
    question = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
    return db.execute(question).fetchall()


def _expected_schema(version: int) -> list[tuple[str, str, str]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        for statements in MIGRATIONS[:version]:
            for statement in statements:
                db.execute(statement)
        return _schema(db)


# --- Opening and checking a file -------------------------------------------------------------------------------------


def _connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    """Open the existing file at `path` with our settings; `mode` is SQLite's: rw, or ro to leave it alone."""
    uri = f"{path.as_uri()}?mode={mode}"
    db = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        for setting in SETTINGS:
            db.execute(f"PRAGMA {setting}")
    except BaseException:
        db.close()
        raise
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
    if not header.startswith(MAGIC) or len(header) < HEADER_BYTES or application != APPLICATION_ID:
        raise ForeignError(f"{path} is not a Vessages database: give the right file, or another one with --db")
    if version > len(MIGRATIONS):
        raise ForeignError(f"{path} was written by a newer Vessages: use that one, or give another file with --db")
    if header[18:20] != b"\1\1":
        raise ForeignError(f"{path} was switched to another journal: run sqlite3 FILE 'PRAGMA journal_mode = DELETE'")


def _check(db: sqlite3.Connection, path: Path) -> int:
    """Check everything about an open file: whose it is, its version, length, schema and integrity. Returns its version.

    It takes about 1.5 seconds per million accounts. Raises StorageError (damaged, foreign or newer).
    """
    with _explained(path):
        db.execute("BEGIN")  # One moment for all the questions: nobody can change the file's length in between.
        try:
            version = _check_parts(db, path)
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
    return version


def _check_parts(db: sqlite3.Connection, path: Path) -> int:
    application, version, pages, page_size = (
        int(db.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("application_id", "user_version", "page_count", "page_size")
    )
    if application != APPLICATION_ID:
        raise ForeignError(f"{path} is not a Vessages database: give the right file, or another one with --db")
    if version > len(MIGRATIONS):
        raise ForeignError(f"{path} was written by a newer Vessages: use that one, or give another file with --db")
    whole = path.stat().st_size == pages * page_size and version >= 1 and _schema(db) == _expected_schema(version)
    if not whole or db.execute("PRAGMA integrity_check(1)").fetchall() != [("ok",)]:
        raise DamagedError(f"{path} {ADVICE_DAMAGED}")
    return version


def _sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut. Windows has no such call and needs none."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _new_file(path: Path) -> None:
    """An empty file that only its owner may read; there must be none of that name."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _create(path: Path) -> None:
    """A new database without accounts at `path`, complete from the moment it has that name."""
    journal = _beside(path, "-journal")
    if journal.exists():
        raise DamagedError(f"{path} is missing, but not {journal}: put the database back, or move the journal away")
    draft = _beside(path, ".new")
    for leftover in (draft, _beside(draft, "-journal")):
        leftover.unlink(missing_ok=True)
    _new_file(draft)
    with closing(_connect(draft)) as db:
        _migrate(db, 0)
    draft.replace(path)
    _sync_folder(path.parent)


# --- One server per file ---------------------------------------------------------------------------------------------


class FileLock:
    """The right to be the only server of the database at `path`: held from creation until `release` or death.

    Raises LockedError if another process has it, StorageError if the lock file cannot be made.
    """

    __slots__ = ("_descriptor", "_name")

    def __init__(self, path: Path) -> None:
        self._name = _beside(path, ".lock")
        with _explained(self._name):
            while True:
                self._descriptor = os.open(self._name, os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    self._take(path)
                    if self._is_current():
                        return
                except BaseException:
                    os.close(self._descriptor)
                    raise
                os.close(self._descriptor)  # Its owner deleted it between our opening and locking: take the next one.

    def _take(self, path: Path) -> None:
        try:
            if sys.platform == "win32":
                msvcrt.locking(self._descriptor, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise LockedError(f"{path} is in use by a running server: stop that first, or give another file") from None

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._name.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Free the database for others and leave no lock file behind."""
        with suppress(OSError):  # A lock file that cannot be deleted does no harm: it is not locked any more.
            if sys.platform == "win32":  # An open file cannot be deleted there, so this spares the next owner's.
                os.close(self._descriptor)
                self._name.unlink()
            else:  # While it is still ours.
                self._name.unlink()
        if sys.platform != "win32":
            os.close(self._descriptor)


# --- The store -------------------------------------------------------------------------------------------------------


class Store:
    """The accounts of a running server: one SQLite connection, used by one thread at a time.

    `path` is the absolute path of the file. Keys are the looked-up form of a name, `now` is Unix seconds. Every method
    raises StorageError when the disk or the file fails; the next call opens and checks the file anew, so that the store
    works again as soon as the cause is gone.
    """

    __slots__ = ("_db", "_file", "_in_transaction", "_lock", "path")

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self._lock: FileLock | None = lock
        self._in_transaction = False
        self._db: sqlite3.Connection | None = None
        self._db = self._open()
        self._file = path.stat()

    def _open(self) -> sqlite3.Connection:
        with _explained(self.path):
            db = _connect(self.path)
        try:
            version = _check(db, self.path)
            if version < len(MIGRATIONS):
                with _explained(self.path):
                    _migrate(db, version)
        except BaseException:
            db.close()
            raise
        return db

    def _run(self, sql: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        """Execute one statement. After an error the connection is gone, and with it the transaction."""
        if self._db is None:
            if self._in_transaction:
                raise StorageError(f"{self.path}: this transaction has failed already: begin a new one")
            self._db = self._open()
        try:
            return self._db.execute(sql, values)
        except sqlite3.Error as error:
            self._drop()
            raise _explain(self.path, error) from error

    def _drop(self) -> None:
        """Roll back what is open and close the connection, whatever state it is in."""
        db, self._db = self._db, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.rollback()
            with suppress(sqlite3.Error):
                db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything in the block reaches the disk together, or not at all. It is there when the block has been left.

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

    def _check_in_place(self) -> None:
        """Refuse to write into a file that somebody has deleted or replaced: the accounts would go with it."""
        with _explained(self.path):
            in_place = os.path.samestat(self.path.stat(), self._file)
        if not in_place:
            raise StorageError(f"{self.path} was replaced while the server runs: stop the server and start it again")

    def find(self, key: str) -> Account | None:
        """The account of that key, or None."""
        row = self._run(SELECT_ACCOUNT + " WHERE key = ?", (key,)).fetchone()
        return Account(*row) if row else None

    def add(self, username: str, key: str, password_hash: str, now: float) -> bool:
        """Add an account, offline. False, and nothing changes, if the key is taken."""
        sql = (
            "INSERT INTO users (username, key, password, status, created) VALUES (?, ?, ?, 'offline', ?) "
            "ON CONFLICT (key) DO NOTHING"
        )
        return self._run(sql, (username, key, password_hash, now)).rowcount == 1

    def record_login(self, key: str, now: float, token_hash: bytes | None) -> None:
        """A right password: online, no failures any more, `token_hash` (None: no token) for the old token."""
        sql = (
            "UPDATE users SET status = 'online', last_login = ?, failures = 0, token = ?, token_used = ? WHERE key = ?"
        )
        self._run(sql, (now, token_hash, now, key))

    def record_failure(self, key: str, now: float) -> None:
        """A wrong password: one more failure since the last login."""
        self._run("UPDATE users SET failures = failures + 1, last_failure = ? WHERE key = ?", (now, key))

    def record_statuses(self, statuses: Mapping[str, str], now: float) -> None:
        """Set the status of many accounts, {key: status}; who has a token has used it now."""
        for key, status in statuses.items():
            self._run("UPDATE users SET status = ?, token_used = ? WHERE key = ?", (status, now, key))

    def record_logout(self, key: str, now: float) -> None:
        """Offline, and the token is dead."""
        self._run("UPDATE users SET status = 'offline', token = NULL, token_used = ? WHERE key = ?", (now, key))

    def find_token(self, token: str, now: float) -> Account | None:
        """The account whose living token this is, or None. Costs one SHA-256 and one look into an index."""
        digest = _token_hash(token)
        row = self._run("SELECT key, token, token_used FROM users WHERE token = ?", (digest,)).fetchone()
        if row is None or not hmac.compare_digest(row[1], digest) or now - row[2] > TOKEN_LIFE:
            return None
        return self.find(row[0])

    def set_password(self, key: str, password_hash: str) -> None:
        """Replace the password's hash; status, token and failures stay."""
        self._run("UPDATE users SET password = ? WHERE key = ?", (password_hash, key))

    def recover(self, now: float) -> list[Account]:
        """At the start of a server: who may come back is 'lost' and returned, everybody else is 'offline'.

        That is who was online or lost when the last server ended, and has a living token. One transaction.
        """
        with self.transaction():
            self._run(
                "UPDATE users SET status = CASE WHEN token IS NOT NULL AND ? - token_used <= ? "
                "THEN 'lost' ELSE 'offline' END WHERE status <> 'offline'",
                (now, TOKEN_LIFE),
            )
            rows = self._run(SELECT_ACCOUNT + " WHERE status = 'lost' ORDER BY key").fetchall()
        return [Account(*row) for row in rows]

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
    """
    path = Path(path).resolve()
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
