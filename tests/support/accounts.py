"""Files of accounts, as the tests of storage.py make them and look into them."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from vocabulary import PASSWORD, WALL

import protocol
import storage
from storage import Cost, open_store

CHEAP = Cost(1, 1, 1)
HASH, OTHER_HASH = (storage.hash_password(password, CHEAP) for password in (PASSWORD, "another password"))


def fill(path: Path, *names: str, password: str = HASH) -> Path:
    """Add accounts of these names to the file at `path`, which is made if there is none."""
    with closing(open_store(path)) as store, store.transaction():
        for name in names:
            assert store.add(name, protocol.fold(name), password, WALL)
    return path


def older(path: Path, *names: str) -> Path:
    """A file as the first version made it, without an identity and without skeletons."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in storage.MIGRATIONS[0]:
            db.execute(statement)
        db.execute("PRAGMA user_version = 1")
        insert = "INSERT INTO users (username, key, password, status, created) VALUES (?, ?, ?, 'offline', ?)"
        db.executemany(insert, [(name, protocol.fold(name), HASH, WALL) for name in names])
    return path


def users_in(path: Path) -> dict[str, dict[str, object]]:
    return storage.export(path)["users"]


def files_in(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@contextmanager
def kept_busy(path: Path, *statements: str) -> Iterator[sqlite3.Connection]:
    """While another program has done this with the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in statements:
            other.execute(statement).fetchone()
        yield other
        if other.in_transaction:
            other.execute("ROLLBACK")


@contextmanager
def new_folder() -> Iterator[Path]:
    """For properties, where pytest's tmp_path would be the same in every example."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
