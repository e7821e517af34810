"""The accounts against a disk that fails: power cuts and kills at every moment, and errors of every operation."""

from __future__ import annotations

import functools
import operator
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from accounts import HASH, older
from disk import (
    IO_ERRORS,
    LIBRARY,
    SQLITE_FULL,
    Disk,
    Event,
    Files,
    crash,
    files_under,
    moments_of,
    power_cuts,
    put_files,
)  # fmt: skip
from vocabulary import WALL

import storage
from storage import StorageError, open_store

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="the SQLite library cannot be reached")


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file to be made, in a folder with room for others beside it."""
    (tmp_path / "first").mkdir()
    return tmp_path / "first" / "v.db"


# --- What is done to the accounts, and what they may be afterwards ---------------------------------------------------

State = dict[str, str]  # The password of every key: enough to tell before from after.
OLD, NEW = [f"old{number}" for number in range(20)], [f"new{number}" for number in range(30)]  # Several pages each.


def state_of(path: Path) -> State:
    """What a server finds at `path` when it starts."""
    with closing(open_store(path)) as store:
        return state_of_open(store)


def state_of_open(store: storage.Store) -> State:
    return dict(store._run("SELECT key, password FROM users"))


def state_or_none(path: Path) -> State | None:
    try:
        return state_of(path)
    except StorageError:
        return None


def log_in_all(path: Path, *names: str) -> None:
    with closing(open_store(path)) as store, store.transaction():
        for name in names:
            assert store.add(name.title(), name, f"first {name}", WALL)
            store.record_login(name, WALL, name.encode().ljust(32))


@pytest.fixture
def prepared(path: Path) -> Path:
    """A folder with a server's file and a backup that differs from it."""
    log_in_all(path, "alice", "bob", *OLD)
    log_in_all(path.with_name("b.db"), "alice", "carol", *NEW)
    with closing(open_store(path.with_name("b.db"))) as store, store.transaction():
        store.set_password("alice", "second alice")
    return path


def register(path: Path) -> None:
    with closing(open_store(path)) as store, store.transaction():
        assert store.add("Dave", "dave", "first dave", WALL)
        store.set_password("bob", "second bob")


def restore(path: Path) -> None:
    storage.restore(path, path.with_name("b.db"), now=WALL)


def import_one(path: Path) -> None:
    storage.import_accounts(path, {"users": {"Dave": {"password": HASH}}}, now=WALL)


def remove(path: Path) -> None:
    storage.remove(path, "alice")


def backup(path: Path) -> None:
    storage.backup(path, now=WALL)


CHANGES = [register, restore, import_one, remove, backup]


def upgrade(path: Path) -> None:
    open_store(path).close()


def change_older(path: Path) -> None:
    """What the older server did: every page of the file is changed."""
    with closing(storage._connect(path)) as db:
        db.execute("UPDATE users SET failures = failures + 1, password = password || 'x'")


def killed_in_a_commit(path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None] = register) -> Files:
    """What a server leaves that is killed while it commits, before its journal is deleted."""
    disk, before = Disk(), files_under(path.parent)
    with disk.attached(monkeypatch):
        change(path)
    moment = next(index for index, event in enumerate(disk.events) if event.kind == "delete")
    return crash(before, disk.events[:moment], random.Random(0), 1.0)


# --- Power cuts ------------------------------------------------------------------------------------------------------


def test_no_account_that_was_answered_for_is_lost_by_a_power_cut(
    disk: Disk, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the creation of the file on. `answers` are the moments after which each state has been promised."""
    answers: list[tuple[int, State]] = [(0, {})]
    with disk.attached(monkeypatch), closing(open_store(path)) as store:
        for number in range(4):
            with store.transaction():
                store.add(f"User{number}", f"user{number}", "first", WALL)
                store.set_password("user0", f"password {number}")
            answers.append((len(disk.events), state_of_open(store)))
    for moments, file in power_cuts({}, disk.events, path):
        state = state_of(file)
        for count in moments:
            promised = max(index for index, (moment, _) in enumerate(answers) if moment <= count)
            assert state in [state for _, state in answers[promised : promised + 2]]


@pytest.mark.parametrize("change", CHANGES)
def test_a_power_cut_or_a_kill_leaves_the_old_accounts_or_the_new_ones(
    change: Callable[[Path], None], disk: Disk, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, before = state_of(prepared), files_under(prepared.parent)
    with disk.attached(monkeypatch):
        change(prepared)
    new = state_of(prepared)
    seen = set()
    for moments, file in power_cuts(before, disk.events, prepared):
        done = len(disk.events) in moments
        kept = list(file.parent.glob("backups/*.db"))
        assert all(storage.verify(saved).accounts == len(old) for saved in kept)
        assert kept or not done or change not in (backup, restore)
        state = state_of(file)
        assert state in ([new] if done else [old, new])
        seen.add(state == new)
    assert seen == {True, False} or old == new


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed in a commit"])
def test_a_power_cut_while_an_older_file_is_brought_up_to_date_loses_nothing(
    killed: bool, disk: Disk, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older(path, *OLD)
    if killed:
        put_files(killed_in_a_commit(path, monkeypatch, change_older), path.parent, path.parent)
    before = files_under(path.parent)
    with disk.attached(monkeypatch):
        upgrade(path)
    expected = state_of(path)
    assert len(expected) == len(OLD) and len(disk.events) > 10
    for moments, file in power_cuts(before, disk.events, path):
        kept = list(file.parent.glob("backups/*.db"))
        assert all(storage.verify(saved) == (saved, len(OLD), saved.stat().st_size, 1) for saved in kept)
        assert kept or len(disk.events) not in moments
        assert state_of(file) == expected
        with closing(open_store(file)) as store, store.transaction():
            assert not store.add("0ld1", "0ld1", "posing", WALL)


@pytest.mark.parametrize("live", [None, b"", b"half"], ids=["missing", "empty", "damaged"])
def test_a_power_cut_while_a_lost_file_is_replaced_leaves_it_lost_or_restored(
    live: bytes | None, disk: Disk, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside it lies the journal of its last transaction, which would ruin the restored file if it came back."""
    wreck = prepared.read_bytes()[: 4096 * 2] if live else live
    journal = killed_in_a_commit(prepared, monkeypatch)[f"{prepared}-journal"]
    prepared.unlink()
    if wreck is not None:
        prepared.write_bytes(wreck)
    prepared.with_name("v.db-journal").write_bytes(journal)
    before = files_under(prepared.parent)
    with disk.attached(monkeypatch):
        restore(prepared)
    new = state_of(prepared)
    for moments, file in power_cuts(before, disk.events, prepared):
        state = state_or_none(file) if file.exists() else None
        remains = [kept.read_bytes() for kept in file.parent.glob("backups/*")]
        if state is not None and live != b"half":
            assert (wreck is None or wreck in remains) and journal in remains
        if state is None:
            assert len(disk.events) not in moments
            assert live == b"half" or (file.read_bytes() if file.exists() else None) == live
            assert not fails(restore, file)
        assert state_of(file) == new


@pytest.mark.skipif(sys.platform == "win32", reason="no folder is synced there")
def test_on_a_file_system_that_cannot_sync_folders_every_commit_succeeds(
    disk: Disk, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite takes that for an error of the disk in EXTRA, after each commit."""
    add = disk.add

    def refuse(kind: str, *rest: Any) -> int:
        return IO_ERRORS[kind] if kind == "sync folder" else add(kind, *rest)

    monkeypatch.setattr(disk, "add", refuse)
    with disk.attached(monkeypatch), monkeypatch.context() as patches:
        patches.setattr(storage, "sync_folder", lambda _folder: False)
        log_in_all(path, "alice")
        import_one(path)
    assert state_of(path).keys() == {"alice", "dave"}


# --- Failing operations ----------------------------------------------------------------------------------------------

NEED_ROOM = ("create", "write")  # operations that a full disk refuses

faults = pytest.mark.parametrize(
    ("code", "lasting"), [(None, False), (SQLITE_FULL, True)], ids=["EIO once", "full for good"]
)


def failures(
    change: Callable[[Path], None], path: Path, code: int | None, lasting: bool, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, bool]]:
    """Make the change without a fault, then for each operation of the disk with that failing, or all from that one on.

    Gives the file, which is each time as `path` is, and whether the failure was told.
    """
    before = files_under(path.parent)

    def attempt(name: str, fails_at: Callable[[int], bool]) -> tuple[Path, bool, list[Event]]:
        file, disk = path.parent.with_name(name) / path.name, Disk()
        put_files(before, path.parent, file.parent)
        disk.code, disk.fails = code, fails_at
        with disk.attached(monkeypatch):
            told = fails(change, file)
        if "failed delete" not in (event.kind for event in disk.events):
            assert not [left for left in file.parent.rglob("*") if left.suffix in (".part", ".new", ".lock")]
        return file, told, disk.events

    file, told, events = attempt("whole", lambda _index: False)
    assert not told
    yield file, told
    for moment in moments_of(events):
        if not lasting or events[moment].kind in NEED_ROOM:
            compare = operator.le if lasting else operator.eq
            file, told, done = attempt(str(moment), functools.partial(compare, moment))
            assert done[moment].kind == "failed " + events[moment].kind
            yield file, told


def fails(change: Callable[[Path], None], path: Path) -> bool:
    """Make the change; whether it said that it failed, in one line."""
    try:
        change(path)
    except StorageError as error:
        assert str(error) and "\n" not in str(error)
        return True
    return False


@faults
@pytest.mark.parametrize("change", CHANGES)
def test_a_disk_error_at_any_moment_is_reported_and_changes_all_or_nothing(
    change: Callable[[Path], None], code: int | None, lasting: bool, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = state_of(prepared)
    attempts = failures(change, prepared, code, lasting, monkeypatch)
    new = state_of(next(attempts)[0])
    for file, told in attempts:
        state = state_of(file)
        assert state in ([old, new] if told else [new])
        if state != new:
            assert not fails(change, file), "the disk works again, so the change does too"


@faults
def test_a_disk_error_while_an_older_file_is_brought_up_to_date_loses_nothing(
    code: int | None, lasting: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older(path, *OLD)
    attempts = failures(upgrade, path, code, lasting, monkeypatch)
    expected = state_of(next(attempts)[0])
    for file, told in attempts:
        assert told or storage.verify(file).version == len(storage.MIGRATIONS)
        assert state_of(file) == expected
