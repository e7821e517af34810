"""The accounts on disk: passwords, tokens, the `Store` against a dict, files that are refused, the lock."""

from __future__ import annotations

import argparse
import errno
import hashlib
import os
import re
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import pytest
from accounts import CHEAP, files_in, kept_busy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from vocabulary import PASSWORD, WALL, examples

import protocol
import storage
from protocol import Account
from storage import Cost, DamagedError, LockedError, StorageError, Store, open_store

DAY = 86_400.0


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = open_store(path)
    yield store
    store.close()


# --- Passwords -------------------------------------------------------------------------------------------------------


@examples(30)
@given(st.text(), st.text())
@example(PASSWORD, PASSWORD + "\0")
def test_only_the_same_password_is_right(password: str, other: str) -> None:
    stored = storage.hash_password(password, CHEAP)
    assert storage.check_password(password, stored, CHEAP) == (True, None)
    assert storage.check_password(other, stored, CHEAP)[0] == (hmac_key(other) == hmac_key(password))


def hmac_key(password: str) -> bytes:
    """A password as HMAC sees it, on which scrypt is built: a short one is filled up with zero bytes."""
    key = password.encode()
    return key.ljust(64, b"\0") if len(key) <= 64 else hashlib.sha256(key).digest()


def test_a_hash_says_how_it_was_made_and_no_two_are_the_same() -> None:
    first, second = (storage.hash_password(PASSWORD, Cost(4, 2, 3)) for _ in range(2))
    assert first.startswith("scrypt$4$2$3$")
    assert first != second


def test_a_changed_cost_gives_a_new_hash_after_a_right_password_only() -> None:
    stored = storage.hash_password(PASSWORD, CHEAP)
    right, renewed = storage.check_password(PASSWORD, stored, Cost(5, 1, 1))
    assert right and renewed is not None and renewed.startswith("scrypt$5$1$1$")
    assert storage.check_password(PASSWORD, renewed, Cost(5, 1, 1)) == (True, None)
    assert storage.check_password("another password", stored, Cost(5, 1, 1)) == (False, None)


def no_memory(*_: object, **__: object) -> bytes:
    raise MemoryError


@pytest.mark.parametrize(("scrypt", "words"), [
    (None, r"no scrypt: use one that is built on OpenSSL 1\.1\.1 or newer"), (no_memory, "--hash-cost"),
])  # fmt: skip
def test_a_machine_that_cannot_hash_is_told(monkeypatch: pytest.MonkeyPatch, scrypt: Any, words: str) -> None:
    monkeypatch.setattr(hashlib, "scrypt", scrypt)
    if scrypt is None:
        monkeypatch.delattr(hashlib, "scrypt")
    with pytest.raises(StorageError, match=words):
        storage.hash_password(PASSWORD, CHEAP)


SALT, DIGEST = "A" * 22, "A" * 43


@pytest.mark.parametrize("stored", [
    None, "", PASSWORD, "scrypt$4$1$1", f"md5$4$1$1${SALT}${DIGEST}", f"scrypt$4$1$1${SALT}$",
    f"scrypt$4$1$1$${DIGEST}", f"scrypt$four$1$1${SALT}${DIGEST}", f"scrypt$04$1$1${SALT}${DIGEST}",
    f"scrypt$4$1$1$é${DIGEST}", f"scrypt$30$8$5${SALT}${DIGEST}", f"scrypt$4$-1$1${SALT}${DIGEST}",
    f"pbkdf2$655360${SALT}${DIGEST}",
])  # fmt: skip
def test_an_unknown_user_and_a_malformed_hash_cost_the_same_work(
    stored: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: list[tuple[int, ...]] = []

    def scrypt(_password: bytes, *, n: int, r: int, p: int, **_: object) -> bytes:
        work.append((n, r, p))
        return bytes(32)

    monkeypatch.setattr(hashlib, "scrypt", scrypt)
    assert storage.check_password(PASSWORD, stored, CHEAP) == (False, None)
    assert work == [(2, 1, 1)]


BASE64 = st.binary(max_size=33).map(storage._to_text)
NUMBERS = st.integers(-1, 20).map(str) | st.just("01")
HASHES = st.tuples(st.just("scrypt"), NUMBERS, NUMBERS, NUMBERS, BASE64, BASE64 | st.just(DIGEST)).map("$".join)


@examples(50)
@given(st.text() | HASHES)
def test_every_stored_text_is_read_exactly_or_refused(stored: str) -> None:
    parsed = storage._parse_hash(stored)
    assert parsed is None or parsed.text() == stored


@pytest.mark.parametrize(("text", "cost"), [("14", Cost(14, 8, 5)), ("4,1,1", Cost(4, 1, 1))])
def test_a_cost_is_read(text: str, cost: Cost) -> None:
    assert storage.parse_cost(text) == cost


@pytest.mark.parametrize("text", ["", "x", "0", "21", "14,8,5,1", "14,0,5", "14,8,65", "20,16,1", "1e1", "-4"])
def test_wrong_costs_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"log2|give"):
        storage.parse_cost(text)


def test_a_token_is_256_random_bits_and_its_hash() -> None:
    token, digest = storage.new_token()
    assert len(token) == 43 and len(digest) == 32
    assert storage.new_token()[0] != token


# --- The store -------------------------------------------------------------------------------------------------------


def test_an_account_is_found_as_it_was_added_and_a_name_that_is_its_own_key_is_one_string(store: Store) -> None:
    assert store.find("alice") is None
    with store.transaction():
        assert store.add("Alice", "alice", "hash", WALL) and store.add("bob", "bob", "hash", WALL)
        assert not store.add("ALICE", "alice", "other", WALL)
    assert store.find("alice") == Account("Alice", "alice", "hash", "offline", None, 0)
    bob = store.find("bob")
    assert bob and bob.username is bob.key


@pytest.mark.parametrize(
    ("name", "posing"), [("georg", "ɡeorg"), ("alice", "aIice"), ("coco", "сосо"), ("HAMMO", "НАММО"), ("Ian", "lan")]
)
def test_a_name_that_looks_like_another_is_taken_until_that_one_is_removed(
    store: Store, name: str, posing: str
) -> None:
    with store.transaction():
        assert store.add(name, protocol.fold(name), "hash", WALL)
        assert not store.add(posing, protocol.fold(posing), "other", WALL)
    assert store.find(protocol.fold(posing)) is None
    storage.remove(store.path, name)
    with store.transaction():
        assert store.add(posing, protocol.fold(posing), "other", WALL)
        assert not store.add(name, protocol.fold(name), "hash", WALL)


def test_no_repr_shows_a_password() -> None:
    account = Account("Alice", "alice", "scrypt$secret", "offline", None, 0)
    assert "secret" not in repr(account) + str(account) + f"{account}" + repr([account])


def test_accounts_outlive_the_store_and_one_private_file_remains(path: Path) -> None:
    with closing(open_store(path)) as store, store.transaction():
        store.add("Alice", "alice", "hash", WALL)
    assert sorted(files_in(path.parent)) == ["vessages.db"]
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with closing(open_store(path)) as store:
        assert store.find("alice") is not None
        assert store.path == path.resolve()


def a_token(store: Store, name: str, used: float = WALL) -> str:
    """That of a new account, last used then."""
    token, digest = storage.new_token()
    with store.transaction():
        store.add(name, name, "hash", WALL)
        store.record_login(name, used, digest)
    return token


def last_day(store: Store, token: str) -> float | None:
    """The last day on which this token leads to its account."""
    return max((day for day in range(-10, 1100) if store.find_token(token, WALL + day * DAY)), default=None)


def test_a_token_lives_seven_days_from_its_last_use(store: Store) -> None:
    token = a_token(store, "alice")
    assert last_day(store, token) == 7
    assert store.find_token(token, WALL + 7 * DAY + 1) is None
    with store.transaction():
        store.record_statuses({"alice": "lost"}, WALL + 6 * DAY)
    assert last_day(store, token) == 13
    assert store.find_token(token + "x", WALL) is None


def test_a_token_used_by_a_wrong_clock_lives_no_longer_than_others(store: Store) -> None:
    """The clock was years ahead, and the server was stopped when it was put right."""
    token = a_token(store, "alice", WALL + 1000 * DAY)
    assert [account.key for account in store.recover(WALL)] == ["alice"]
    assert last_day(store, token) == 7


def test_when_the_clock_is_set_living_tokens_count_as_used_and_dead_ones_stay_dead(store: Store) -> None:
    living, dead = a_token(store, "living"), a_token(store, "dead", WALL - 8 * DAY)
    with store.transaction():
        store.record_clock_step(WALL + 1, WALL + 1000 * DAY)
    assert last_day(store, living) == 1007
    assert store.find_token(dead, WALL + 1000 * DAY) is None


def test_at_a_start_those_with_a_living_token_are_lost_and_all_others_offline(store: Store) -> None:
    for name in ("kept", "lost", "plain", "stale", "away"):
        a_token(store, name, WALL - 8 * DAY * (name == "stale"))
    with store.transaction():
        store.record_statuses({"lost": "lost"}, WALL)
        store.record_login("plain", WALL, None)
        store.record_logout("away", WALL)
    assert [account.key for account in store.recover(WALL + 1)] == ["kept", "lost"]
    assert [store.find(name).status for name in ("plain", "stale", "away")] == ["offline"] * 3  # type: ignore[union-attr]
    assert len(store.recover(WALL + 2)) == 2


def test_the_settings_that_durability_needs_are_in_force(store: Store) -> None:
    values = [store._run(f"PRAGMA {name}")[0][0] for name in ("journal_mode", "synchronous", "fullfsync")]
    assert values == ["delete", 3, 1]


@pytest.mark.parametrize("failures", [storage.MAX_FAILURES, 2**63 - 1])  # the second: as an older version imported it
def test_failures_are_counted_up_to_a_limit(store: Store, failures: int) -> None:
    with store.transaction():
        store.add("alice", "alice", "hash", WALL)
        store._run(f"UPDATE users SET failures = {failures}")
    with store.transaction():
        store.record_failure("alice", WALL)
    account = store.find("alice")
    assert account is not None and account.failures == storage.MAX_FAILURES


@pytest.mark.parametrize(("supported", "calls"), [(True, ["full"]), (False, ["full", "fsync"])])
def test_on_macos_files_are_synced_as_far_as_the_file_system_can(
    path: Path, monkeypatch: pytest.MonkeyPatch, supported: bool, calls: list[str]
) -> None:
    called: list[str] = []

    def full_sync(file: object, command: str) -> None:
        called.append(command)
        if not supported:
            raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(storage, "fcntl", SimpleNamespace(fcntl=full_sync, F_FULLFSYNC="full"), raising=False)
    monkeypatch.setattr(os, "fsync", lambda descriptor: called.append("fsync"))
    with path.open("wb") as file:
        monkeypatch.setattr(sys, "platform", "darwin")
        storage.sync(file)
        monkeypatch.undo()
    assert called == calls


def test_a_login_or_a_new_password_counts_only_if_the_checked_hash_is_still_the_accounts(store: Store) -> None:
    with store.transaction():
        store.add("Alice", "alice", "hash", WALL)
        assert store.log_in("alice", "another", "better", True, WALL) is None
        assert store.log_in("nobody", "hash", None, True, WALL) is None
        assert not store.change_password("alice", "another", "new")
    assert store.find("alice") == Account("Alice", "alice", "hash", "offline", None, 0)
    with store.transaction():
        token = store.log_in("alice", "hash", "better", True, WALL)
    assert token and store.find_token(token, WALL) == Account("Alice", "alice", "better", "online", WALL, 0)
    with store.transaction():
        assert store.log_in("alice", "better", None, False, WALL + 1) == ""
        assert store.change_password("alice", "better", "new")
    assert store.find_token(token, WALL) is None
    assert store.find("alice") == Account("Alice", "alice", "new", "online", WALL + 1, 0)


@pytest.mark.parametrize("seconds", [-1.0, 1e300, -1e300, 99_999_999_999.0])
def test_impossible_login_times_are_not_handed_out(store: Store, seconds: float) -> None:
    """From a damaged file; telling it at the next login would fail, or would on Windows."""
    with store.transaction():
        store.add("alice", "alice", "hash", WALL)
        store.record_login("alice", seconds, None)
    account = store.find("alice")
    assert account is not None and account.last_login is None


@pytest.mark.filterwarnings("ignore:pathlib.PurePath.as_uri")  # from Python 3.14 on; a path of this system may do it
@pytest.mark.parametrize(("path", "uri"), [
    (PureWindowsPath(r"\\nas\backups\v é#.db"), "file:////nas/backups/v%20%C3%A9%23.db"),
    (PureWindowsPath(r"C:\chat\v.db"), "file:///C:/chat/v.db"), (PurePosixPath("/chat/v?.db"), "file:///chat/v%3F.db"),
])  # fmt: skip
def test_sqlite_gets_paths_without_a_host(path: PurePath, uri: str) -> None:
    assert storage._uri(path) == uri


NAMES = st.sampled_from(["alice", "мария"])  # Few, so that many things happen to the same account.


class Model:
    """One account of the obvious model."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.status = "offline"
        self.last_login: float | None = None
        self.failures = 0
        self.token: str | None = None
        self.used = 0.0


class StoreAgainstDict(RuleBasedStateMachine):
    """Every method of the store in any order, in transactions that are kept or fail, compared with a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = open_store(self.folder / "v.db")
        self.model: dict[str, Model] = {}
        self.tokens: list[str] = ["never issued"]
        self.now = WALL

    @rule(seconds=st.sampled_from([0.0, 1.0, DAY, 4 * DAY]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=NAMES, password=st.text())
    def add(self, name: str, password: str) -> None:
        with self.store.transaction():
            assert self.store.add(name.title(), name, clean(password), self.now) == (name not in self.model)
        self.model.setdefault(name, Model(clean(password)))

    @rule(name=NAMES, kept=st.booleans())
    def login(self, name: str, kept: bool) -> None:
        token, digest = storage.new_token()
        with self.store.transaction():
            self.store.record_login(name, self.now, digest if kept else None)
        self.tokens.append(token)
        if user := self.model.get(name):
            user.status, user.last_login, user.failures, user.used = "online", self.now, 0, self.now
            user.token = token if kept else None

    @rule(name=NAMES)
    def failure(self, name: str) -> None:
        with self.store.transaction():
            self.store.record_failure(name, self.now)
        if user := self.model.get(name):
            user.failures += 1

    @rule(statuses=st.dictionaries(NAMES, st.sampled_from(storage.STATUSES)))
    def statuses(self, statuses: dict[str, str]) -> None:
        with self.store.transaction():
            without = self.store.record_statuses(statuses, self.now)
        for name, status in statuses.items():
            if user := self.model.get(name):
                user.status, user.used = status, self.now
        assert without == [name for name in statuses if name not in self.model or self.model[name].token is None]

    @rule(name=NAMES)
    def logout(self, name: str) -> None:
        with self.store.transaction():
            self.store.record_logout(name, self.now)
        if user := self.model.get(name):
            user.status, user.token = "offline", None

    @rule(name=NAMES, password=st.text())
    def set_password(self, name: str, password: str) -> None:
        with self.store.transaction():
            self.store.set_password(name, clean(password))
        if user := self.model.get(name):
            user.password = clean(password)

    @rule(name=NAMES)
    def a_batch_that_fails(self, name: str) -> None:
        with pytest.raises(ZeroDivisionError), self.store.transaction():
            self.store.add(name, name, "never", self.now)
            self.store.record_login(name, self.now, None)
            self.store.set_password(name, "never")
            raise ZeroDivisionError

    @rule(data=st.data())
    def find_token(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(self.tokens))
        found = self.store.find_token(token, self.now)
        owners = [name for name, user in self.model.items() if user.token == token and self.now - user.used <= 7 * DAY]
        assert ([found.key] if found else []) == owners

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = open_store(self.folder / "v.db")

    @rule(seconds=st.sampled_from([-9e8, -DAY, DAY, 9e8]))
    def clock_step(self, seconds: float) -> None:
        before, self.now = self.now, min(max(self.now + seconds, 0.0), 1e10)  # A year that every system can show.
        with self.store.transaction():
            self.store.record_clock_step(before, self.now)
        for user in self.model.values():
            if before - user.used <= 7 * DAY:
                user.used = self.now

    @precondition(lambda self: self.model)
    @rule()
    def recover(self) -> None:
        for user in self.model.values():
            user.used = min(user.used, self.now)
        back = [account.key for account in self.store.recover(self.now)]
        for user in self.model.values():
            alive = user.token is not None and self.now - user.used <= 7 * DAY
            user.status = "lost" if user.status != "offline" and alive else "offline"
        assert back == sorted(name for name, user in self.model.items() if user.status == "lost")

    @invariant()
    def the_store_holds_what_the_model_holds(self) -> None:
        for name in ("alice", "мария"):
            user, account = self.model.get(name), self.store.find(name)
            expected = user and (user.password, user.status, user.last_login, user.failures)
            assert (account and (account.password, account.status, account.last_login, account.failures)) == expected

    def teardown(self) -> None:
        self.store.close()
        assert sorted(files_in(self.folder)) == ["v.db"]
        (self.folder / "v.db").unlink()
        self.folder.rmdir()


def clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


StoreAgainstDict.TestCase.settings = settings(examples(12), stateful_step_count=40)
TestStoreAgainstDict = StoreAgainstDict.TestCase


# --- The lock --------------------------------------------------------------------------------------------------------


def test_a_second_server_is_refused_with_the_name_of_the_file(store: Store, path: Path) -> None:
    with pytest.raises(LockedError, match=r"vessages\.db is in use"):
        open_store(path)
    with store.transaction():
        assert store.add("Alice", "alice", "hash", WALL)


def test_a_file_with_two_names_has_one_server(store: Store, path: Path) -> None:
    link = path.parent / "elsewhere" / "linked.db"
    link.parent.mkdir()
    os.link(path, link)
    with pytest.raises(LockedError, match=re.escape(f"{link} is also {path}, in use by a running server")):
        open_store(link)
    assert files_in(link.parent) == {"linked.db": path.read_bytes()}
    store.close()
    with closing(open_store(link)), pytest.raises(LockedError, match=re.escape(f"{path} is also {link}")):
        open_store(path)


def test_a_file_is_served_that_was_where_this_user_may_not_look(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    open_store(path).close()
    moved = path.rename(path.with_name("moved.db"))
    monkeypatch.setattr(Path, "samefile", refuse)
    open_store(moved).close()


def test_the_lock_is_freed_by_closing_also_twice_and_by_death(path: Path) -> None:
    store = open_store(path)
    store.close()
    store.close()
    code = f"import storage, os; store = storage.open_store({str(path)!r}); os._exit(0)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(storage.__file__).parent)
    assert "vessages.db.lock" in sorted(files_in(path.parent))
    open_store(path).close()
    assert sorted(files_in(path.parent)) == ["vessages.db"]


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted there")
def test_a_lock_file_that_its_owner_has_deleted_is_not_taken_for_the_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two servers would run otherwise: one with the deleted file locked, one with its successor."""
    lock = storage._lock
    locked: list[int] = []

    def slow_lock(descriptor: int) -> None:
        if not locked:
            path.with_name("vessages.db.lock").unlink()
        locked.append(descriptor)
        lock(descriptor)

    monkeypatch.setattr(storage, "_lock", slow_lock)
    with closing(open_store(path)):
        assert len(locked) == 2
        with pytest.raises(LockedError):
            open_store(path)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
@pytest.mark.parametrize("left", [False, True])
def test_a_folder_without_locks_is_told_and_no_lock_file_is_left(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int, left: bool
) -> None:
    def refuse(_descriptor: int, shared: bool = False) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(storage, "_lock", refuse)
    if left:
        path.with_name("vessages.db.lock").touch()
    with pytest.raises(StorageError, match=r"cannot lock files: put the accounts on a local disk") as refusal:
        open_store(path)
    assert not isinstance(refusal.value, LockedError)
    assert sorted(files_in(path.parent)) == ["vessages.db.lock"] * left


class LockFailedError(sqlite3.OperationalError):
    """What Python 3.11 and later make of an fcntl that fails with ENOSYS or EOPNOTSUPP."""

    sqlite_errorname = "SQLITE_IOERR_LOCK"


def test_a_share_without_locks_for_sqlite_is_told(path: Path) -> None:
    advice = "cannot lock files: put the accounts on a local disk"
    with pytest.raises(StorageError, match=advice), storage._explained(path):
        raise LockFailedError("disk I/O error")


def test_a_lock_file_of_another_user_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left by a server that was killed; or not left at all."""
    open_store(path).close()
    lock = path.with_name("vessages.db.lock")
    lock.touch()
    real_open = os.open

    def refuse(name: Any, *rest: Any) -> int:
        if Path(name) == lock and not rest[0] & os.O_EXCL:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real_open(name, *rest)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match=r"vessages\.db\.lock may not be opened by this user: if .* delete it"):
        open_store(path)
    assert storage.export(path) == {"users": {}}


def test_a_first_start_that_failed_leaves_no_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(db: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(storage, "_migrate", fail)
    with pytest.raises(StorageError):
        open_store(path)
    assert list(path.parent.iterdir()) == []


# --- Run by root -----------------------------------------------------------------------------------------------------


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> set[str]:
    """As root, whose new files go to the owner of their folder: the names of those that went."""
    if sys.platform == "win32":
        pytest.skip("there is no root")
    names = set()

    def note(descriptor: int, user: int, group: int) -> None:
        status = os.fstat(descriptor)
        files = [file for file in tmp_path.rglob("*") if os.path.samestat(file.stat(), status)]
        owner = files[0].parent.stat()
        assert (user, group) == (owner.st_uid, owner.st_gid)
        names.add(re.sub(r"\d{4}-.*Z", "TIME", str(files[0].relative_to(tmp_path))))

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", note)
    return names


def test_what_root_makes_belongs_to_the_owner_of_the_folder(path: Path, handed_over: set[str]) -> None:
    with closing(open_store(path)):
        pass
    assert handed_over == {"vessages.db.lock", "vessages.db.new"}
    handed_over.clear()
    saved = storage.backup(path).path
    assert handed_over == {"backups", "backups/vessages-TIME.db.part"}
    handed_over.clear()
    path.unlink()
    storage.restore(path, saved)
    assert "vessages.db.new" in handed_over
    handed_over.clear()
    path.write_bytes(b"")
    path.with_name("vessages.db-journal").write_bytes(b"journal")
    storage.restore(path, saved)
    kept = {"backups/vessages-replaced-TIME.db.part", "backups/vessages-replaced-TIME.db-journal"}
    assert handed_over == {"vessages.db.lock", "vessages.db.new"} | kept
    handed_over.clear()
    assert storage.main(["--db", str(path), "export", str(path.with_name("all.json"))]) == 0
    assert handed_over == {"all.json.part"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_a_server_of_another_user_can_use_what_root_has_made(path: Path) -> None:
    os.chown(path.parent, 12345, 12346)
    open_store(path).close()
    made = storage.backup(path).path
    assert {(file.stat().st_uid, file.stat().st_gid) for file in (path, made, made.parent)} == {(12345, 12346)}
    link = path.with_name("other.db.lock")
    precious = path.with_name("precious")
    precious.touch()
    os.chown(precious, 0, 0)
    link.symlink_to(precious)
    open_store(path.with_name("other.db")).close()
    assert precious.stat().st_uid == 0, "what a link leads to is not given away"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no modes")
def test_the_folder_of_the_backups_is_private_whatever_the_umask(path: Path) -> None:
    old = os.umask(0)
    try:
        open_store(path).close()
        folder = storage.backup(path).path.parent
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


# --- Faults of a running store ---------------------------------------------------------------------------------------


def make_full(store: Store) -> None:
    store._run("PRAGMA max_page_count = 1")


def make_read_only(store: Store) -> None:
    store._run("PRAGMA query_only = ON")


@pytest.mark.parametrize(("fault", "words"), [
    (make_full, "free some space; a server that runs then goes on by itself"),  # it may be one that cannot start
    (make_read_only, "cannot be written"),
])  # fmt: skip
def test_a_store_that_failed_says_what_to_do_keeps_what_was_promised_and_works_again(
    fault: Callable[[Store], None], words: str, store: Store
) -> None:
    with store.transaction():
        store.add("Alice", "alice", "hash", WALL)
    fault(store)
    with pytest.raises(StorageError, match=words), store.transaction():
        for number in range(100):
            store.add(f"Bob{number}", f"bob{number}", "hash" * 100, WALL)
    assert store.find("alice") is not None and store.find("bob0") is None
    with store.transaction():
        assert store.add("Bob", "bob0", "hash", WALL)
    assert store.find("bob0") is not None


def test_a_failed_transaction_takes_nothing_more(store: Store) -> None:
    make_full(store)
    with pytest.raises(StorageError, match="failed already"), store.transaction():
        with pytest.raises(StorageError, match="free some space"):
            store.add("Alice", "alice", "hash" * 10_000, WALL)
        store.add("Bob", "bob", "hash", WALL)
    assert store.find("bob") is None


def test_a_store_that_others_keep_busy_gives_up_and_works_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "BUSY_SECONDS", 0.0)
    with closing(open_store(path)) as store:
        told = pytest.raises(StorageError, match="another program keeps it busy")
        with kept_busy(path, "BEGIN IMMEDIATE"), told, store.transaction():
            raise AssertionError("the block must not begin")
        with store.transaction():
            assert store.add("Alice", "alice", "hash", WALL)


def test_text_damaged_under_a_running_store_is_told(store: Store) -> None:
    with store.transaction():
        store.add("Alice", "alice", "hash", WALL)
        store._run("UPDATE users SET username = CAST(x'ff' AS TEXT)")
    with pytest.raises(DamagedError, match="restore a backup"):
        store.find("alice")
