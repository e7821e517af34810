"""Backup, restore, verify, export and import: round trips, refusals, statements that fail, files that are not whole."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from accounts import CHEAP, HASH, OTHER_HASH, files_in, fill, kept_busy, new_folder, older, users_in
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from vocabulary import PASSWORD, WALL, examples

import protocol
import storage
from storage import DamagedError, ForeignError, LockedError, StorageError, open_store

# --- Backups ---------------------------------------------------------------------------------------------------------


def test_a_backup_is_named_by_its_time_and_never_overwrites(path: Path) -> None:
    fill(path, "Alice", "Bob")
    reports = [storage.backup(path, now=WALL) for _ in range(3)]
    names = ["vessages-2026-11-22T150405Z.db", "vessages-2026-11-22T150405Z-2.db", "vessages-2026-11-22T150405Z-3.db"]
    assert [report.path for report in reports] == [path.parent / "backups" / name for name in names]
    assert all(report.accounts == 2 and report.size == report.path.stat().st_size for report in reports)
    if sys.platform != "win32":
        assert all(report.path.stat().st_mode & 0o777 == 0o600 for report in reports)
        assert (path.parent / "backups").stat().st_mode & 0o777 == 0o700
    assert sorted(files_in(path.parent / "backups")) == sorted(names)


def test_a_backup_goes_where_it_is_told(path: Path, tmp_path: Path) -> None:
    fill(path, "Alice")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    assert storage.backup(path, folder, now=WALL).path == folder / "vessages-2026-11-22T150405Z.db"
    assert storage.backup(path, tmp_path / "one.db").path == tmp_path / "one.db"
    with pytest.raises(StorageError, match="there already"):
        storage.backup(path, tmp_path / "one.db")
    with pytest.raises(StorageError, match="--keep"):
        storage.backup(path, tmp_path / "two.db", keep=1)
    with pytest.raises(StorageError, match=re.escape(f"{tmp_path / 'missing' / 'two.db'}: No such file")):
        storage.backup(path, tmp_path / "missing" / "two.db")  # it is not the file of the accounts that is missing


def test_keep_deletes_the_oldest(path: Path) -> None:
    fill(path, "Alice")
    folder = path.parent / "backups"
    for second in (5, 3, 3, 3, 4):
        storage.backup(path, now=WALL + second)
    report = storage.backup(path, now=WALL, keep=3)  # The clock was set back: the newest is not the latest by name.
    kept = ["vessages-2026-11-22T150405Z.db", "vessages-2026-11-22T150409Z.db", "vessages-2026-11-22T150410Z.db"]
    assert sorted(files_in(folder)) == kept
    assert [file.name for file in report.removed] == [
        "vessages-2026-11-22T150408Z-3.db",
        "vessages-2026-11-22T150408Z-2.db",
        "vessages-2026-11-22T150408Z.db",
    ]


@pytest.mark.parametrize("other", ["B/vessages.db", "vessages.sqlite", "vessages", "vessages-replaced.db", "chat.db"])
def test_keep_counts_and_deletes_only_backups_of_this_very_file(path: Path, other: str) -> None:
    folder = path.parent / "shared"
    folder.mkdir()
    beside = path.parent / other
    beside.parent.mkdir(exist_ok=True)
    fill(path, "Alice")
    fill(beside, "Bob")
    for second in range(3):
        storage.backup(path, folder, now=WALL + second)
    theirs = files_in(folder)
    reports = [storage.backup(beside, folder, keep=2, now=WALL + second) for second in range(10, 14)]
    assert theirs.items() <= files_in(folder).items()
    assert [report.path.exists() for report in reports] == [False, False, True, True]
    storage.backup(path, folder, keep=1, now=WALL + 20)
    assert [report.path.exists() for report in reports] == [False, False, True, True]
    assert len(files_in(folder)) == 3


def test_keep_never_deletes_what_it_cannot_read_or_has_no_identity(path: Path, whole: bytes) -> None:
    fill(path, "Alice")
    folder = path.parent / "backups"
    ours = storage.backup(path, now=WALL).path.read_bytes()
    names = [f"vessages-2020-01-{day:02}T000000Z.db" for day in range(1, 7)]
    older(folder / names[0], "Alice")
    (folder / names[1]).write_bytes(ours[:-4096])
    (folder / names[2]).write_bytes(b"")
    (folder / names[3]).write_text("mine")
    (folder / names[4]).mkdir()
    (folder / names[5]).write_bytes(whole)
    (folder / "vessages-2020-01-99T000000Z.db").write_bytes(ours)
    (folder / "vessages-replaced-2020-01-01T000000Z.db").write_bytes(ours)
    (folder / "vessages-2020-01-08T000000Z.db.part").write_bytes(ours)
    before = set(folder.iterdir())
    report = storage.backup(path, keep=1, now=WALL + 1)
    assert before - set(folder.iterdir()) == set(report.removed)
    may_go = {"vessages-2026-11-22T150405Z.db", names[1]}  # The second is cut off behind its identity.
    assert {file.name for file in report.removed} <= may_go
    assert report.removed[0].name == "vessages-2026-11-22T150405Z.db"


def test_a_file_of_an_older_version_is_backed_up_and_nothing_is_deleted(path: Path) -> None:
    older(path, "Alice")
    storage.backup(path, now=WALL)
    report = storage.backup(path, now=WALL + 1, keep=1)
    assert report.removed == [] and "start the server once" in report.notes[0]
    assert len(files_in(path.parent / "backups")) == 2
    fill(path, "Bob")
    assert storage.backup(path, now=WALL + 2, keep=1).removed == []


def test_a_folder_that_cannot_be_listed_is_told_and_the_backup_stays(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(path, "Alice")

    def refuse(_folder: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patches:
        patches.setattr(Path, "iterdir", refuse)
        report = storage.backup(path, keep=1)
        assert storage.newest_backup(path, WALL) is None
    assert report.path.exists() and "cannot be listed" in report.notes[0]


def test_the_newest_backup_is_known_by_its_stamp_and_its_identity(path: Path) -> None:
    fill(path, "Alice")
    assert storage.newest_backup(path, WALL) is None
    for second in (3, 5, 5, 90):
        storage.backup(path, now=WALL + second)
    other = path.parent / "other" / "vessages.db"
    other.parent.mkdir()
    fill(other, "Bob")
    storage.backup(other, path.parent / "backups", now=WALL + 7)
    assert storage.newest_backup(path, WALL + 10) == WALL + 5  # The one from the future was made by a wrong clock.
    assert storage.newest_backup(path, WALL + 90) == WALL + 90
    assert storage.newest_backup(path, WALL + 2) is None


def identity_of(path: Path) -> str | None:
    return storage._identity_of(path, wait=0.0)


def served(path: Path) -> Path:
    """That file, after a server has opened it."""
    open_store(path).close()
    return path


def test_a_database_keeps_its_identity_and_hands_it_to_its_backups(path: Path) -> None:
    fill(path, "Alice")
    saved = storage.backup(path).path
    other = path.with_name("other.db")
    fill(other, "Bob")
    identities = identity_of(path), identity_of(other)
    assert len(set(identities)) == 2 and None not in identities
    assert identity_of(saved) == identities[0]
    storage.restore(other, saved)
    assert (identity_of(path), identity_of(other)) == identities


@pytest.mark.parametrize("remains", [None, b"", b"damaged"])
def test_a_lost_file_is_restored_its_remains_are_kept_and_its_identity_if_it_was_there(
    remains: bytes | None, path: Path
) -> None:
    fill(path, "Alice")
    identity, saved = identity_of(path), storage.backup(path).path
    other = path.with_name("other.db")
    for file in (path, other):
        file.unlink(missing_ok=True)
        if remains is not None:
            file.write_bytes(saved.read_bytes()[: len(remains) * 1000])
        wreck = file.read_bytes() if file.exists() else None
        report = storage.restore(file, saved)
        assert (report.replaced.read_bytes() if report.replaced else None) == wreck
        assert users_in(file).keys() == {"alice"} and report[:3] == (1, 0, 0)
    assert identity_of(served(path)) == identity != identity_of(served(other))


def test_a_moved_file_keeps_its_identity_and_so_does_one_that_was_put_back_by_hand(path: Path) -> None:
    fill(path, "Alice")
    identity = identity_of(path)
    moved = served(path.rename(path.with_name("moved.db")))
    copy = moved.read_bytes()
    moved.unlink()
    path.write_bytes(b"so that the next file has another number")
    moved.write_bytes(copy)
    assert identity_of(served(moved)) == identity


@pytest.mark.parametrize("opened", [True, False], ids=["served", "never served"])
def test_a_copy_by_hand_and_its_origin_delete_no_backups_of_each_other(opened: bool, path: Path) -> None:
    folder, copy = path.parent / "shared", path.parent / "copy" / path.name
    folder.mkdir()
    copy.parent.mkdir()
    fill(path, "Alice")
    shutil.copy(path, copy)
    if opened:
        served(copy)
    first = [storage.backup(file, folder, now=WALL + second).path for second, file in enumerate([path, copy])]
    reports = [storage.backup(file, folder, keep=1, now=WALL + 2 + second) for second, file in enumerate([copy, path])]
    assert [report.removed for report in reports] == [[first[1]] if opened else [], [first[0]]]
    assert reports[0].notes == () if opened else "start the server once" in reports[0].notes[0]


def test_a_backup_of_an_older_version_is_verified_and_restored(path: Path) -> None:
    saved, live = path.with_name("saved.db"), path.with_name("live.db")
    older(saved, "alice", "aIice")
    fill(live, "Bob")
    identity = identity_of(live)
    assert storage.verify(saved).version == 1 and identity_of(saved) is None
    for file in (live, path):
        storage.restore(file, saved)
        assert set(users_in(file)) == {"alice", "aiice"}
    assert identity_of(live) == identity
    assert identity_of(path) not in (None, identity)


@pytest.mark.parametrize("target", ["", "T", "T/"], ids=["backups", "a link", "with a slash"])
def test_a_folder_that_leads_nowhere_is_refused_and_its_link_stays(target: str, path: Path) -> None:
    """Its disk is not mounted: a file in its place would be in the way of every later backup."""
    fill(path, "Alice")
    given = f"{path.parent}/{target}" if target else None
    link = Path(given or path.parent / "backups")
    if target != "T/":
        link_to(link, path.parent / "mounted")
    for _ in range(2):
        with pytest.raises(StorageError, match="mount the disk"):
            storage.backup(path, given, now=WALL)
    assert link.is_symlink() == (target != "T/")
    assert list(files_in(path.parent)) == [path.name]
    (path.parent / "mounted" if link.is_symlink() else link).mkdir()
    assert storage.backup(path, given, now=WALL).path.exists()


def test_a_file_in_the_place_of_the_folder_is_told(path: Path) -> None:
    fill(path, "Alice")
    (path.parent / "backups").write_text("mine")
    with pytest.raises(StorageError, match=r"backups is not a folder: .*move it away"):
        storage.backup(path)
    assert (path.parent / "backups").read_text() == "mine"


def link_to(name: Path, target: Path) -> None:
    try:
        name.symlink_to(target)
    except OSError:
        pytest.skip("this user may not make links")


def fail_folder_syncs(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """As a file system does that cannot sync a folder, or a disk that is broken."""
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)


@pytest.mark.skipif(sys.platform == "win32", reason="no folder is synced there")
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_folder_that_cannot_be_synced_is_no_failure(path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    fail_folder_syncs(monkeypatch, code)
    fill(path, "Alice")
    for second in range(4):
        storage.backup(path, now=WALL + second, keep=2)
    assert len(files_in(path.parent / "backups")) == 2
    saved = path.parent / "backups" / "vessages-2026-11-22T150408Z.db"
    storage.restore(path, saved, now=WALL)
    path.unlink()
    storage.restore(path, saved, now=WALL)
    assert set(users_in(path)) == {"alice"}


@pytest.mark.skipif(sys.platform == "win32", reason="no folder is synced there")
def test_an_error_of_the_disk_at_a_folder_is_told_and_no_backup_is_left(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(path, "Alice")
    storage.backup(path, now=WALL)
    before = files_in(path.parent)
    fail_folder_syncs(monkeypatch, errno.EIO)
    with pytest.raises(StorageError, match="the disk reports an error"):
        storage.backup(path, now=WALL + 1)
    assert files_in(path.parent) == before


def test_backups_beside_a_server_that_never_pauses_are_whole_and_have_what_was_answered_before(path: Path) -> None:
    names = [f"user{number}" for number in range(150)]
    fill(path, "first")
    answered: list[str] = []
    done = threading.Event()

    def storm() -> None:
        for name in names:
            with store.transaction():
                store.add(name, name, HASH, WALL)
            answered.append(name)
        done.set()

    with closing(open_store(path)) as store:
        thread = threading.Thread(target=storm)
        thread.start()
        backups: list[tuple[int, storage.BackupReport]] = []
        while not done.is_set() or not backups:
            before = len(answered)
            backups.append((before, storage.backup(path, now=WALL)))
        thread.join()
    for before, report in backups:
        keys = set(users_in(report.path)) - {"first"}
        assert keys == set(names[: len(keys)]) and len(keys) >= before
    assert len(users_in(path)) == 151


def test_nobody_changes_a_file_while_it_is_copied(path: Path) -> None:
    """SQLite would begin again after each change, so somebody who never rests would keep the copy from its end."""
    fill(path, "Alice")
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
        with closing(storage._open_still(path)):
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("UPDATE users SET failures = failures + 1")
            assert other.execute("SELECT failures FROM users").fetchone() == (0,)
        other.execute("UPDATE users SET failures = failures + 1")


def test_a_busy_file_is_backed_up_as_soon_as_it_is_free(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(path, "Alice")
    looks: list[float] = []
    with kept_busy(path, "BEGIN EXCLUSIVE") as other:

        def sleep(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 3:
                other.execute("ROLLBACK")

        monkeypatch.setattr(time, "sleep", sleep)
        assert storage.backup(path).accounts == 1 and len(looks) == 3


def test_a_file_that_stays_busy_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(path, "Alice")
    monkeypatch.setattr(storage, "BUSY_SECONDS", 0.01)
    told = pytest.raises(StorageError, match=r"another program keeps it busy: .* network share")
    with kept_busy(path, "BEGIN EXCLUSIVE"), told:
        storage.backup(path)
    fill(path.with_name("b.db"), "Bob")
    before = path.read_bytes()
    with kept_busy(path, "BEGIN", "SELECT * FROM users"), told:
        storage.restore(path, path.with_name("b.db"))
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.new*"))


# --- Round trips -----------------------------------------------------------------------------------------------------


def nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


LETTERS = st.characters(categories=["Ll", "Lu", "Lo", "Nd"])
ANY_NAMES = st.text(LETTERS, min_size=1, max_size=8).map(nfkc).filter(storage._is_name)
NAMES = ANY_NAMES | st.sampled_from(["alice", "Alice", "Мария"])  # Some that meet each other in two files.
TIMES = st.none() | st.floats(0, storage.LAST_TIME)


@st.composite
def exports(draw: st.DrawFn) -> dict[str, Any]:
    """What an export may look like: any names, any history."""
    users = {}
    for name in draw(st.lists(NAMES, max_size=6, unique_by=protocol.fold)):
        users[protocol.fold(name)] = {
            "username": name,
            "password": draw(st.sampled_from([HASH, OTHER_HASH])),
            "status": draw(st.sampled_from(storage.STATUSES)),
            "created": draw(st.floats(0, storage.LAST_TIME)),
            "last_login": draw(TIMES),
            "failures": draw(st.integers(0, storage.MAX_FAILURES)),
            "last_failure": draw(TIMES),
        }
    return {"users": users}


def offline(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {key: {**user, "status": "offline"} for key, user in data["users"].items()}


@examples(20)
@given(exports(), exports(), st.booleans())
def test_what_is_imported_is_exported_the_same_but_offline_and_overwrites_only_when_told_to(
    first: dict[str, Any], second: dict[str, Any], overwrite: bool
) -> None:
    with new_folder() as folder:
        path = folder / "v.db"
        assert storage.import_accounts(path, json.loads(json.dumps(first))).added == len(first["users"])
        assert users_in(path) == offline(first)
        new = second["users"].keys() - first["users"].keys()
        assert storage.import_accounts(path, second, overwrite).added == len(new)
        both = {**offline(first), **offline(second)} if overwrite else {**offline(second), **offline(first)}
        assert users_in(path) == both


User = dict[str, object]  # as an export has it


class Accounts(RuleBasedStateMachine):
    """Everything a person does to the accounts, in any order, beside a dict; a backup is a copy of that dict."""

    backups: Any = Bundle("backups")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "v.db"
        open_store(self.path).close()
        self.model: dict[str, User] = {}
        self.tokens: list[str] = []
        self.now = WALL

    @rule(name=st.sampled_from(["alice", "Alice", "мария"]), hashed=st.sampled_from([HASH, OTHER_HASH]))
    def register(self, name: str, hashed: str) -> None:
        key = name.casefold()
        with closing(open_store(self.path)) as store, store.transaction():
            assert store.add(name, key, hashed, WALL) == (key not in self.model)
            token, digest = storage.new_token()
            store.record_login(key, WALL, digest)
        self.tokens.append(token)
        history = {"created": WALL, "last_login": WALL, "failures": 0, "last_failure": None}
        self.model.setdefault(key, {"username": name, "password": hashed, "status": "offline", **history})
        self.model[key]["last_login"] = WALL

    @rule(name=st.sampled_from(["ALICE", "Bob", "Мария", "nobody"]))
    def remove(self, name: str) -> None:
        key = name.casefold()
        if key in self.model:
            assert storage.remove(self.path, name) == self.model.pop(key)["username"]
        else:
            with pytest.raises(StorageError, match="list"):
                storage.remove(self.path, name)

    @rule(name=st.sampled_from(["alice", "МАРИЯ"]))
    def passwd(self, name: str) -> None:
        key = name.casefold()
        if key in self.model:
            storage.set_password(self.path, name, "new secret", CHEAP)
            password = str(users_in(self.path)[key]["password"])
            self.model[key] = self.model[key] | {"password": password}
            assert storage.check_password("new secret", password, CHEAP)[0]

    @rule(target=backups)
    def backup(self) -> tuple[Path, dict[str, User]]:
        return storage.backup(self.path, now=self.now).path, dict(self.model)

    @rule(saved=backups)
    def restore(self, saved: tuple[Path, dict[str, User]]) -> None:
        old, (path, new) = self.model, saved
        looks = [{key: (user["username"], user["password"]) for key, user in users.items()} for users in (old, new)]
        changed = sum(looks[0][key] != looks[1][key] for key in old.keys() & new.keys())
        numbers = (len(new.keys() - old.keys()), len(old.keys() - new.keys()), changed)
        live = self.path.read_bytes()
        assert storage.restore(self.path, path, dry_run=True)[:3] == numbers
        assert self.path.read_bytes() == live
        report = storage.restore(self.path, path, now=self.now)
        assert report[:4] == (*numbers, len(new))
        assert report.replaced is not None and users_in(report.replaced) == old
        self.model = dict(new)
        with closing(open_store(self.path)) as store:
            assert [store.find_token(token, WALL) for token in self.tokens] == [None] * len(self.tokens)

    @rule(saved=backups, overwrite=st.booleans())
    def import_from(self, saved: tuple[Path, dict[str, User]], overwrite: bool) -> None:
        storage.import_accounts(self.path, storage.export(saved[0]), overwrite)
        self.model = {**self.model, **saved[1]} if overwrite else {**saved[1], **self.model}

    @rule(saved=backups)
    def a_refused_restore(self, saved: tuple[Path, dict[str, User]]) -> None:
        torn = self.folder / "torn.db"
        torn.write_bytes(saved[0].read_bytes()[:-1])
        live = self.path.read_bytes()
        with pytest.raises(StorageError):
            storage.restore(self.path, torn)
        assert self.path.read_bytes() == live

    @invariant()
    def the_file_holds_what_the_model_holds(self) -> None:
        assert users_in(self.path) == self.model
        assert {file.suffix for file in self.folder.rglob("*") if file.is_file()} == {".db"}

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


Accounts.TestCase.settings = settings(examples(10), stateful_step_count=15)
TestAccounts = Accounts.TestCase


# --- Statements that fail --------------------------------------------------------------------------------------------


USUAL = {f"PRAGMA {setting}" for setting in storage.SETTINGS[:-1]}


class Failing(sqlite3.Connection):
    """A connection whose n-th statement, of all such connections together, fails. Of SETTINGS only the last does."""

    left = 0

    def fail_in_turn(self, statement: str = "") -> None:
        Failing.left -= statement not in USUAL
        if Failing.left == 0:
            raise sqlite3.OperationalError("disk I/O error")

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        self.fail_in_turn(arguments[0])
        return super().execute(*arguments)

    def executemany(self, *arguments: Any) -> sqlite3.Cursor:
        self.fail_in_turn()
        return super().executemany(*arguments)

    def backup(self, *arguments: Any, **options: Any) -> None:
        self.fail_in_turn()
        super().backup(*arguments, **options)


def use_as_a_server(path: Path) -> None:
    with closing(open_store(path)) as store:
        store.recover(WALL)
        with store.transaction():
            store.add("Dave", "dave", HASH, WALL)
            store.record_login("dave", WALL, b"t" * 32)
            store.record_failure("alice", WALL)
            store.record_statuses({"dave": "lost", "alice": "online"}, WALL)
            store.record_logout("alice", WALL)
            store.set_password("alice", OTHER_HASH)
            assert store.find("dave") is not None
            assert store.find_token("unknown", WALL) is None


OPERATIONS: dict[str, Callable[[Path], object]] = {
    "server": use_as_a_server,
    "backup": lambda path: storage.backup(path, now=WALL),
    "restore": lambda path: storage.restore(path, path.with_name("b.db"), now=WALL),
    "import": lambda path: storage.import_accounts(path, {"users": {"Dave": {"password": HASH}}}, now=WALL),
    "passwd": lambda path: storage.set_password(path, "alice", "another secret", CHEAP),
    "remove": lambda path: storage.remove(path, "alice"),
    "export": storage.export,
    "verify": storage.verify,
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_every_statement_failing_in_turn_is_reported_and_changes_all_or_nothing(
    operation: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "0"
    first.mkdir()
    fill(first / "v.db", "Alice", "Bob")
    fill(first / "b.db", "Alice", "Carol", password=OTHER_HASH)
    old = set(users_in(first / "v.db"))
    connect = sqlite3.connect
    Failing.left = turn = 0
    while Failing.left <= 0:
        turn += 1
        folder = tmp_path / str(turn)
        shutil.copytree(first, folder)
        Failing.left = turn
        with monkeypatch.context() as patches:
            patches.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, factory=Failing, **k))
            try:
                operation(folder / "v.db")
                assert Failing.left > 0, "the failing statement was not reported"
            except StorageError as error:
                assert Failing.left <= 0 and str(error)
        if Failing.left <= 0:
            assert set(users_in(folder / "v.db")) == old
            assert [name for name in files_in(folder) if name.endswith((".part", ".new", ".lock"))] == []
    assert turn > 10


# --- Files that are not whole, or not ours ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database of several pages."""
    path = tmp_path_factory.mktemp("whole") / "v.db"
    fill(path, *(f"user{number}" for number in range(60)))
    return path.read_bytes()


def refused_untouched(path: Path) -> str:
    """Every way in refuses the file at `path` in one line, and leaves it alone."""
    before = path.read_bytes()
    live = path.with_name("live.db")
    fill(live, "Alice")
    expected = live.read_bytes()
    for operation in (open_store, storage.verify, storage.export, lambda file: storage.restore(live, file)):
        with pytest.raises(StorageError) as refusal:
            operation(path)
        assert "\n" not in str(refusal.value)
    assert path.read_bytes() == before and live.read_bytes() == expected
    assert sorted(files_in(path.parent)) == sorted([path.name, live.name])
    return str(refusal.value)


@examples(40)
@given(length=st.integers(0, 20_000) | st.sampled_from([0, 1, 15, 16, 99, 100, 4095, 4096, 4097, 8192, 12288, 16384]),
       tail=st.just(b"") | st.binary(min_size=1, max_size=5000))  # fmt: skip
def test_a_file_that_is_cut_off_at_any_byte_or_too_long_is_refused(whole: bytes, length: int, tail: bytes) -> None:
    with new_folder() as folder:
        (folder / "v.db").write_bytes(whole + tail if tail else whole[: length % len(whole)])
        refused_untouched(folder / "v.db")


def test_damage_that_no_error_message_can_quote_is_told(whole: bytes, path: Path) -> None:
    """SQLite puts the broken word of the schema into its message, which is not UTF-8 any more."""
    place = whole.index(b"CREATE TABLE")
    path.write_bytes(whole[:place] + b"\xc3" + whole[place + 1 :])
    assert "damaged" in refused_untouched(path)


def test_a_name_that_differs_between_table_and_index_is_noticed(whole: bytes, tmp_path: Path) -> None:
    """The name stands in the file as shown, as key and as skeleton in the table, and in the index of each of these."""
    refused = []
    places = [match.start() for match in re.finditer(b"user37", whole)]
    for place in places:
        path = tmp_path / f"{place}.db"
        path.write_bytes(whole[:place] + b"usfr37" + whole[place + 6 :])
        try:
            open_store(path).close()
        except DamagedError:
            refused.append(place)
    assert len(places) == 5 and len(refused) == 4


def found_or_told(store: storage.Store, key: str) -> protocol.Account | None:
    """None also for an account whose text is told to be damaged."""
    with suppress(DamagedError):
        return store.find(key)
    return None


@examples(50)
@given(data=st.data())
def test_a_flipped_bit_is_refused_or_harms_what_it_hit_only(whole: bytes, data: st.DataObject) -> None:
    """SQLite keeps no checksums, so a flip inside a name or a hash may pass; nothing else may, and nothing breaks."""
    hash_at = whole.index(HASH.encode())
    place = data.draw(st.integers(0, len(whole) - 1) | st.integers(0, 200) | st.integers(hash_at, hash_at + 50))
    bit = data.draw(st.integers(0, 7))
    damaged = bytearray(whole)
    damaged[place] ^= 1 << bit
    with new_folder() as folder:
        path = folder / "v.db"
        path.write_bytes(damaged)
        try:
            store = open_store(path)
        except StorageError:
            assert path.read_bytes() == damaged
            return
        with closing(store):
            found = [found_or_told(store, f"user{number}") for number in range(60)]
        assert sum(account is None for account in found) <= 1
        assert all(storage.check_password("x", a.password, CHEAP) == (False, None) for a in found if a)


def altered(statement: str) -> Callable[[Path], object]:
    """A file of accounts in which somebody else has done this."""

    def make(path: Path) -> None:
        fill(path, "Alice")
        with closing(sqlite3.connect(path)) as db:
            db.execute(statement)

    return make


def foreign_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE users (username TEXT, password TEXT)")


newer = altered(f"PRAGMA user_version = {len(storage.MIGRATIONS) + 1}")
other_schema = altered("CREATE TRIGGER evil AFTER UPDATE ON users BEGIN DELETE FROM users; END")
other_journal = altered("PRAGMA journal_mode = WAL")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("Dear diary"), "not a Vessages database"),
        (lambda path: path.write_bytes(bytes(100_000)), "not a Vessages database"),
        (foreign_database, "not a Vessages database"), (newer, "newer Vessages"), (other_schema, "damaged"),
        (other_journal, "journal"),
    ],
    ids=["empty", "text", "zeros", "foreign", "newer", "schema", "wal"],
)  # fmt: skip
def test_a_file_that_is_not_ours_is_refused_untouched(
    make: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    make(tmp_path / "v.db")
    assert words in refused_untouched(tmp_path / "v.db")


def test_a_file_that_is_not_ours_is_not_backed_up(path: Path) -> None:
    foreign_database(path)
    before = files_in(path.parent)
    with pytest.raises(ForeignError, match=r"vessages\.db is not"):
        storage.backup(path)
    assert files_in(path.parent) == before


def test_a_restore_never_replaces_a_file_that_is_not_ours(path: Path) -> None:
    fill(path, "Alice")
    foreign = path.with_name("other.db")
    for make in (foreign_database, newer, lambda file: file.write_text("Dear diary")):
        foreign.unlink(missing_ok=True)
        make(foreign)
        before = files_in(path.parent)
        with pytest.raises(ForeignError, match="move it away"):
            storage.restore(foreign, path)
        with pytest.raises(ForeignError, match=r"give the right file|use that one, or give another file$"):
            storage.restore(path, foreign)
        assert files_in(path.parent) == before


def test_a_missing_folder_or_file_is_told(path: Path) -> None:
    with pytest.raises(StorageError, match="there is no folder"):
        open_store(path.parent / "missing" / "v.db")
    for operation in (storage.backup, storage.verify, storage.export):
        with pytest.raises(StorageError, match="does not exist"):
            operation(path)
    with pytest.raises(StorageError, match="check the name"):
        open_store(path.parent)
    assert files_in(path.parent) == {}


def test_a_journal_without_its_database_is_not_overlooked(path: Path) -> None:
    """A new database under that name would be "rolled back" to the remains of the old one."""
    path.with_name("vessages.db-journal").write_bytes(b"journal")
    with pytest.raises(DamagedError, match="move the journal away"):
        open_store(path)
    assert files_in(path.parent) == {"vessages.db-journal": b"journal"}


def test_a_backup_of_a_damaged_file_is_not_made(path: Path) -> None:
    fill(path, *(f"user{number}" for number in range(60)))
    damaged = bytearray(path.read_bytes())
    damaged[4096:4200] = bytes(104)
    path.write_bytes(damaged)
    with pytest.raises(DamagedError, match="restore a backup"):
        storage.backup(path)
    assert files_in(path.parent) == {"vessages.db": bytes(damaged)}


# --- Migrations ------------------------------------------------------------------------------------------------------


def test_an_older_file_is_brought_up_to_date_and_its_old_form_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(path, "Alice")
    saved = storage.backup(path, now=WALL).path
    old = users_in(path)
    added = ("ALTER TABLE users ADD COLUMN note TEXT", "UPDATE users SET note = 'new'")
    monkeypatch.setattr(storage, "MIGRATIONS", [*storage.MIGRATIONS, added])
    for operation in (storage.export, lambda file: storage.remove(file, "alice")):
        with pytest.raises(StorageError, match="start the server once"):
            operation(path)
    assert storage.verify(path).version == 3
    with closing(open_store(path)) as store:
        assert store._run("SELECT key, note FROM users") == [("alice", "new")]
    kept = [file for file in path.parent.glob("backups/*.db") if "version-3" in file.name]
    assert storage.verify(path).version == 4 and [storage.verify(file).version for file in kept] == [3]
    storage.restore(path, saved, now=WALL)
    assert users_in(path) == old and storage.verify(path).version == 4


def test_accounts_that_look_alike_stay_and_nobody_else_may_look_like_them(path: Path) -> None:
    older(path, "alice", "aIice", "Bob", "dave")
    expected = users_in_older(path)
    with closing(open_store(path)) as store:
        with store.transaction():
            assert not store.add("a1ice", "a1ice", HASH, WALL)
            assert not store.add("dаve", "dаve", HASH, WALL)  # The second one in Cyrillic.
            assert store.add("Carol", "carol", HASH, WALL)
            store.set_password("aiice", OTHER_HASH)
            store.record_login("alice", WALL, None)
        assert identity_of(path) is not None
    assert {key: user["username"] for key, user in users_in(path).items()} == {**expected, "carol": "Carol"}


def users_in_older(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as db:
        return dict(db.execute("SELECT key, username FROM users"))


def test_an_import_takes_names_that_look_alike(path: Path) -> None:
    fill(path, "alice")
    names = ["aIice", "аlісе", "dave", "dаve"]
    storage.import_accounts(path, {"users": {name: {"password": HASH} for name in names}})
    assert set(users_in(path)) == {"alice", *map(protocol.fold, names)}
    storage.import_accounts(path, {"users": {"AIice": {"password": HASH}}}, overwrite=True)
    assert users_in(path)["aiice"]["username"] == "AIice"
    storage.remove(path, "alice")
    with closing(open_store(path)) as store, store.transaction():
        assert not store.add("a1ice", "a1ice", HASH, WALL)


def test_a_migration_that_fails_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(path, "Alice")
    before = path.read_bytes()
    broken = ("ALTER TABLE users ADD COLUMN note TEXT", "UPDATE nothing SET note = 'new'")
    with monkeypatch.context() as patches:
        patches.setattr(storage, "MIGRATIONS", [*storage.MIGRATIONS, broken])
        with pytest.raises(StorageError):
            open_store(path)
    assert path.read_bytes() == before
    assert set(users_in(path)) == {"alice"}


# --- Imports that are refused ----------------------------------------------------------------------------------------


NOT_ACCOUNTS: list[Any] = [[], {"users": []}]
WRONG_ENTRIES: list[tuple[dict[str, Any], str]] = [  # what an account says beside its hash, and why it is refused
    ({"status": "away"}, "not a status"), ({"failures": -1}, "not a count"), ({"failures": True}, "not a count"),
    ({"failures": storage.MAX_FAILURES + 1}, "not a count"), ({"created": "today"}, "number of seconds"),
    ({"last_login": float("nan")}, "number of seconds"), ({"last_login": False}, "number of seconds"),
    ({"username": 5}, "not a user name"), ({"password": PASSWORD}, "not a hash"), ({"password": None}, "not a hash"),
]  # fmt: skip
WRONG_NAMES = ["", "a b", "a\x1b[2J", "~alice", "a" * 33, "\ud800"]


@pytest.mark.parametrize(
    ("data", "words"),
    [(data, "no accounts") for data in NOT_ACCOUNTS]
    + [({"users": {"alice": {"password": HASH} | entry}}, words) for entry, words in WRONG_ENTRIES]
    + [({"users": {name: {"password": HASH}}}, "not a user name") for name in WRONG_NAMES]
    + [({"users": {"alice": PASSWORD}}, "'alice': not an object")]
    + [({"users": {"Alice": {"password": HASH}, "ALICE": {"password": HASH}}}, "same name")],
)
def test_wrong_imports_are_refused_and_change_nothing(data: Any, words: str, path: Path) -> None:
    fill(path, "Bob")
    before = path.read_bytes()
    if isinstance(data, dict) and isinstance(data["users"], dict):
        data = {"users": {"Good": {"password": HASH}, **data["users"]}}
    with pytest.raises(StorageError, match=words) as refusal:
        storage.import_accounts(path, data)
    assert PASSWORD not in str(refusal.value)
    assert path.read_bytes() == before


# --- With a server running, and after one was killed -----------------------------------------------------------------


def test_a_restore_of_a_served_file_is_refused_with_its_name(path: Path) -> None:
    fill(path, "Alice")
    saved = storage.backup(path, now=WALL).path
    with closing(open_store(path)) as store:
        before = path.read_bytes()
        with pytest.raises(LockedError, match=r"vessages\.db is in use by a running server"):
            storage.restore(path, saved)
        assert path.read_bytes() == before
        assert store.find("alice") is not None


def test_only_a_server_that_runs_keeps_those_who_are_online_or_lost_from_being_removed(path: Path) -> None:
    fill(path, "Alice")
    with closing(open_store(path)) as store:
        with store.transaction():
            store.record_login("alice", WALL, None)
        with pytest.raises(StorageError, match="Alice is online: remove the account after they left"):
            storage.remove(path, "Alice")
        with store.transaction():
            store.record_statuses({"alice": "lost"}, WALL)
        with pytest.raises(StorageError, match="Alice is lost: the connection broke and may come back"):
            storage.remove(path, "Alice")
        with store.transaction():
            store.record_logout("alice", WALL)
        assert storage.remove(path, "Alice") == "Alice"
        assert store.find("alice") is None
    fill(path, "Alice")
    with closing(open_store(path)) as store, store.transaction():
        store.record_login("alice", WALL, None)
    assert storage.remove(path, "alice") == "Alice"


def test_a_new_password_by_the_operator_kills_the_token(path: Path) -> None:
    token, digest = storage.new_token()
    fill(path, "Alice")
    with closing(open_store(path)) as store:
        with store.transaction():
            store.record_login("alice", WALL, digest)
        storage.set_password(path, "Alice", "new secret", CHEAP)
        assert store.find_token(token, WALL) is None
        account = store.find("alice")
        assert account is not None and storage.check_password("new secret", account.password, CHEAP)[0]


def test_a_file_that_was_replaced_under_a_running_server_is_noticed(path: Path) -> None:
    fill(path, "Alice")
    other = path.with_name("other.db")
    fill(other, "Bob")
    with closing(open_store(path)) as store:
        if sys.platform != "win32":  # There it cannot be done.
            shutil.move(other, path)
            for block in (store.transaction, store.reading):
                with pytest.raises(StorageError, match="was replaced"), block():
                    raise AssertionError("the block must not begin")
            path.unlink()
            with pytest.raises(StorageError, match="No such file"), store.transaction():
                raise AssertionError("the block must not begin")


CHILD = """
import sys, storage
store = storage.open_store(sys.argv[1])
for number in range(1000):
    with store.transaction():
        store.add(f"user{number}", f"user{number}", "hash", 0.0)
        store.record_statuses({"first": ("online", "lost")[number % 2]}, 0.0)
    print(number, flush=True)
"""


def test_every_registration_that_was_answered_survives_a_kill(path: Path) -> None:
    fill(path, "first")
    command = [sys.executable, "-c", CHILD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(storage.__file__).parent) as child:
        assert child.stdout is not None
        last = [child.stdout.readline() for _ in range(7)][-1]
        child.kill()
        rest = child.stdout.read().split()
    answered = int(rest[-1] if rest else last) + 1
    users = users_in(path)
    assert {f"user{number}" for number in range(answered)} <= users.keys()
    assert len(users) - 1 in (answered, answered + 1)
    open_store(path).close()
    assert sorted(files_in(path.parent)) == ["vessages.db"]
