"""The accounts against a disk that fails: power cuts, errors of single operations, statements that fail in turn.

`Disk` stands between SQLite and the file system. It is SQLite's own file layer (its "VFS") with the operations that
matter replaced by ours, so it sees, in order, every write, sync, truncation, creation and deletion of the real program,
and with a few patches also the renames and syncs that storage.py does itself. It can make any of them fail. And from
its record a test can compute what a disk may hold if the power fails after any of them: synced data for certain,
everything later perhaps, perhaps not, or half of it.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import functools
import itertools
import operator
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest
from test_backup import older

import storage
from storage import StorageError, open_store

NOW = 1_800_000_000.0
SECTOR = 512  # What a disk writes as a whole; a torn write is torn between sectors.

# --- The disk --------------------------------------------------------------------------------------------------------

SQLITE_OK, SQLITE_FULL, SQLITE_CANTOPEN = 0, 13, 14
IO_ERRORS = {
    "write": 778,
    "sync": 1034,
    "truncate": 1546,
    "delete": 2570,
    "create": SQLITE_CANTOPEN,
    "sync folder": 1290,
}
OPEN_CREATE, OPEN_MAIN_JOURNAL = 0x4, 0x800

POINTER = ctypes.c_void_p
XWRITE = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, POINTER, ctypes.c_int, ctypes.c_int64)
XTRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, ctypes.c_int64)
XSYNC = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, ctypes.c_int)
XOPEN = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, POINTER, POINTER, ctypes.c_int, POINTER)  # Names stay pointers:
XDELETE = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, POINTER, ctypes.c_int)  # SQLite keeps them while a file is open.


class FileMethods(ctypes.Structure):
    """SQLite's sqlite3_io_methods, of version 1."""

    _fields_ = [
        ("iVersion", ctypes.c_int),
        ("xClose", POINTER),
        ("xRead", POINTER),
        ("xWrite", XWRITE),
        ("xTruncate", XTRUNCATE),
        ("xSync", XSYNC),
        ("rest", POINTER * 7),
    ]


class Vfs(ctypes.Structure):
    """SQLite's sqlite3_vfs; `rest` is what nobody here looks at, up to version 3."""

    _fields_ = [
        ("iVersion", ctypes.c_int),
        ("szOsFile", ctypes.c_int),
        ("mxPathname", ctypes.c_int),
        ("pNext", POINTER),
        ("zName", ctypes.c_char_p),
        ("pAppData", POINTER),
        ("xOpen", XOPEN),
        ("xDelete", XDELETE),
        ("rest", POINTER * 14),
    ]


def load_sqlite() -> ctypes.CDLL | None:
    """The SQLite library that the sqlite3 module uses, or None if it cannot be reached from here."""
    try:
        library = ctypes.CDLL("sqlite3.dll" if sys.platform == "win32" else getattr(_sqlite3, "__file__", None))
        library.sqlite3_vfs_find.restype = ctypes.POINTER(Vfs)
        library.sqlite3_vfs_find.argtypes = [ctypes.c_char_p]
        library.sqlite3_vfs_register.argtypes = [ctypes.POINTER(Vfs), ctypes.c_int]
    except (OSError, AttributeError):
        return None
    return library


LIBRARY = load_sqlite()
needs_disk = pytest.mark.skipif(LIBRARY is None, reason="the SQLite library cannot be reached")


class Event(NamedTuple):
    """Something that was done to the disk, or ("ack", path) said to the world."""

    kind: str
    path: str
    offset: int = 0
    data: bytes = b""
    other: str = ""


class Disk:
    """Records what is done to the disk, and fails when told to."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.fails: Callable[[int], bool] = lambda _index: False
        self.code: int | None = None
        self._files: dict[int, tuple[str, FileMethods]] = {}
        self._keep: list[Any] = []

    def add(self, kind: str, path: str, offset: int = 0, data: bytes = b"", other: str = "") -> int:
        """Record an event; the code with which it fails, or SQLITE_OK."""
        if self.fails(len(self.events)):
            self.events.append(Event("failed " + kind, path))
            return self.code if self.code is not None else IO_ERRORS[kind]
        self.events.append(Event(kind, path, offset, data, other))
        return SQLITE_OK

    def add_python(self, kind: str, path: Path, other: str = "", data: bytes = b"") -> None:
        """Record an event of storage.py itself, which sees a failure as an OSError."""
        if self.fails(len(self.events)):
            self.events.append(Event("failed " + kind, str(path)))
            raise OSError(5, "Input/output error")
        self.events.append(Event(kind, str(path), data=data, other=other))

    @contextmanager
    def attached(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
        """Let everything inside the block go through this disk."""
        assert LIBRARY is not None
        real = LIBRARY.sqlite3_vfs_find(None)
        vfs = Vfs()
        ctypes.memmove(ctypes.byref(vfs), real, ctypes.sizeof(Vfs))
        vfs.zName = b"disk"
        vfs.xOpen, vfs.xDelete = XOPEN(self._open(real)), XDELETE(self._delete(real))
        LIBRARY.sqlite3_vfs_register(ctypes.byref(vfs), 1)
        try:
            with monkeypatch.context() as patches:
                self._patch(patches)
                yield self
        finally:
            LIBRARY.sqlite3_vfs_unregister(ctypes.byref(vfs))

    def _patch(self, patches: pytest.MonkeyPatch) -> None:
        replace, unlink = Path.replace, Path.unlink
        new_file, copy_file = storage._new_file, shutil.copyfile
        sync, sync_folder = storage.sync, storage._sync_folder

        def patched_replace(path: Path, target: Path) -> Path:
            self.add_python("rename", path, str(target))
            return replace(path, target)

        def patched_unlink(path: Path, missing_ok: bool = False) -> None:
            if path.exists() and not path.name.endswith(".lock"):
                self.add_python("delete", path)
            unlink(path, missing_ok=missing_ok)

        def patched_new_file(path: Path) -> None:
            if not path.name.endswith(".lock"):
                self.add_python("create", path)
            new_file(path)

        def patched_copy_file(source: Path, target: Path) -> None:
            self.add_python("write", target, data=source.read_bytes())
            copy_file(source, target)

        def patched_sync(file: IO[bytes]) -> None:
            self.add_python("sync", Path(file.name))
            sync(file)

        def patched_sync_folder(folder: Path) -> bool:
            self.add_python("sync folder", folder)
            return sync_folder(folder)

        patches.setattr(Path, "replace", patched_replace)
        patches.setattr(Path, "unlink", patched_unlink)
        patches.setattr(storage, "_new_file", patched_new_file)
        patches.setattr(shutil, "copyfile", patched_copy_file)
        patches.setattr(storage, "sync", patched_sync)
        patches.setattr(storage, "_sync_folder", patched_sync_folder)

    def _open(self, real: Any) -> Callable[..., int]:
        def x_open(vfs: int, name: int | None, file: int, flags: int, out: int) -> int:
            path = ctypes.string_at(name).decode() if name else ""
            if flags & OPEN_CREATE and not Path(path).exists() and (code := self.add("create", path)):
                return code
            code = int(real.contents.xOpen(ctypes.cast(real, POINTER), name, file, flags, out))
            place = ctypes.cast(file, ctypes.POINTER(ctypes.POINTER(FileMethods)))
            if code == SQLITE_OK and place[0]:
                place[0] = ctypes.pointer(self._methods(path, place[0].contents))
            return code

        return x_open

    def _methods(self, path: str, real: FileMethods) -> FileMethods:
        """The methods of one open file: the real ones, but each that changes the disk recorded first."""

        def x_write(file: int, data: int, count: int, offset: int) -> int:
            return self.add("write", path, offset, ctypes.string_at(data, count)) or real.xWrite(
                file, data, count, offset
            )

        def x_truncate(file: int, size: int) -> int:
            return self.add("truncate", path, size) or real.xTruncate(file, size)

        def x_sync(file: int, flags: int) -> int:
            return self.add("sync", path) or real.xSync(file, flags)

        ours = FileMethods()
        ctypes.memmove(ctypes.byref(ours), ctypes.byref(real), ctypes.sizeof(FileMethods))
        ours.iVersion = 1
        ours.xWrite, ours.xTruncate, ours.xSync = XWRITE(x_write), XTRUNCATE(x_truncate), XSYNC(x_sync)
        self._keep.append(ours)
        return ours

    def _delete(self, real: Any) -> Callable[..., int]:
        def x_delete(vfs: int, name: int, sync: int) -> int:
            path = ctypes.string_at(name).decode()
            if Path(path).exists():
                if code := self.add("delete", path):
                    return code
                if sync and (code := self.add("sync folder", str(Path(path).parent))):
                    real.contents.xDelete(ctypes.cast(real, POINTER), name, 0)
                    return code
            return int(real.contents.xDelete(ctypes.cast(real, POINTER), name, sync))

        return x_delete


@pytest.fixture
def disk() -> Disk:
    return Disk()


# --- What a disk may hold after a power cut --------------------------------------------------------------------------


Files = dict[str, bytes]  # The content of each path.


class Inode:
    """One file: what is on the disk for certain, and what was written since."""

    def __init__(self, synced: bytes = b"") -> None:
        self.synced = synced
        self.later: list[Event] = []

    def image(self, chance: random.Random, share: float) -> bytes:
        """The content after a power cut: of what came after the last sync, each sector arrives with chance `share`."""
        data = bytearray(self.synced)
        for event in self.later:
            if event.kind == "truncate":
                if chance.random() < share:
                    del data[event.offset :]
                continue
            for start in range(0, len(event.data), SECTOR):
                if chance.random() < share:
                    piece, place = event.data[start : start + SECTOR], event.offset + start
                    data.extend(bytes(max(0, place - len(data))))
                    data[place : place + len(piece)] = piece
        return bytes(data)


def apply(names: dict[str, Inode], changes: dict[str, Inode | None]) -> None:
    for path, inode in changes.items():
        if inode is None:
            names.pop(path, None)
        else:
            names[path] = inode


def crash(before: Files, events: list[Event], chance: random.Random, share: float) -> Files:
    """The files that a disk holds if the power fails after `events`; `share` of what was not synced has arrived."""
    names = {path: Inode(data) for path, data in before.items()}  # As the program sees them.
    synced = dict(names)  # As the disk has them for certain.
    pending: list[dict[str, Inode | None]] = []  # Changes of names since then; each arrives whole or not at all.

    def rename(changes: dict[str, Inode | None]) -> None:
        pending.append(changes)
        apply(names, changes)

    def sync_names() -> None:
        for changes in pending:
            apply(synced, changes)
        pending.clear()

    for event in events:
        if event.kind == "create":
            rename({event.path: Inode()})
        elif event.kind == "delete":
            rename({event.path: None})
        elif event.kind == "rename":
            rename({event.other: names[event.path], event.path: None})
        elif event.kind in ("write", "truncate"):
            names[event.path].later.append(event)
        elif event.kind == "sync":
            names[event.path].synced = names[event.path].image(chance, 1)
            names[event.path].later.clear()
            if event.path.endswith("-journal"):  # Then SQLite has synced the folder too.
                sync_names()
        elif event.kind == "sync folder":
            sync_names()
    for changes in pending:
        if chance.random() < share:
            apply(synced, changes)
    return {path: inode.image(chance, share) for path, inode in synced.items()}


# --- What is done to the accounts, and what they may be afterwards ---------------------------------------------------

State = dict[str, str]  # The password of every key: enough to tell before from after.


def state_of(path: Path) -> State:
    """What a server finds at `path` when it starts."""
    with closing(open_store(path)) as store:
        return state_of_open(store)


def state_of_open(store: storage.Store) -> State:
    return dict(store._run("SELECT key, password FROM users"))


def files_in(folder: Path) -> Files:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def put_files(files: Files, source: Path, target: Path) -> None:
    for name, data in files.items():
        file = target / Path(name).relative_to(source)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def fill(path: Path, *names: str) -> None:
    with closing(open_store(path)) as store, store.transaction():
        for name in names:
            assert store.add(name.title(), name, f"first {name}", NOW)
            store.record_login(name, NOW, name.encode().ljust(32))


def prepare(folder: Path) -> Path:
    """A folder with a server's file and a backup that differs from it; many pages, so that tearing shows."""
    path = folder / "v.db"
    fill(path, "alice", "bob", *(f"old{number}" for number in range(20)))
    backup = folder / "b.db"
    fill(backup, "alice", "carol", *(f"new{number}" for number in range(30)))
    with closing(open_store(backup)) as store, store.transaction():
        store.set_password("alice", "second alice")
    return path


def register(path: Path) -> None:
    with closing(open_store(path)) as store, store.transaction():
        assert store.add("Dave", "dave", "first dave", NOW)
        store.set_password("bob", "second bob")


def restore(path: Path) -> None:
    storage.restore(path, path.with_name("b.db"), now=NOW)


IMPORTED = storage.hash_password("secret99", storage.Cost(1, 1, 1))


def import_one(path: Path) -> None:
    storage.import_accounts(path, {"users": {"Dave": {"password": IMPORTED}}}, now=NOW)


def remove(path: Path) -> None:
    storage.remove(path, "alice")


def backup(path: Path) -> None:
    storage.backup(path, now=NOW)


CHANGES = [register, restore, import_one, remove, backup]


def power_cuts(before: Files, events: list[Event]) -> Iterator[tuple[int, Files]]:
    """What the disk may hold after a power cut, or a kill (share 1), at each moment: (events that were done, files)."""
    for count in range(len(events) + 1):
        chance = random.Random(count)
        images = [crash(before, events[:count], chance, share) for share in (0.0, 1.0, 0.5, 0.5)]
        for number, files in enumerate(images):
            if files not in images[:number]:
                yield count, files


# --- Power cuts ------------------------------------------------------------------------------------------------------


@needs_disk
def test_no_account_that_was_answered_for_is_lost_by_a_power_cut(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the creation of the file on. `answers` are the moments after which each state has been promised."""
    path = tmp_path / "first" / "v.db"
    path.parent.mkdir()
    answers: list[tuple[int, State]] = [(0, {})]
    with disk.attached(monkeypatch), closing(open_store(path)) as store:
        for number in range(4):
            with store.transaction():
                store.add(f"User{number}", f"user{number}", "first", NOW)
                store.set_password("user0", f"password {number}")
            answers.append((len(disk.events), state_of_open(store)))
    for number, (count, files) in enumerate(power_cuts({}, disk.events)):
        folder = tmp_path / str(number)
        folder.mkdir()
        put_files(files, path.parent, folder)
        promised = max(index for index, (moment, _) in enumerate(answers) if moment <= count)
        assert state_of(folder / "v.db") in [state for _, state in answers[promised : promised + 2]]


@needs_disk
@pytest.mark.parametrize("change", CHANGES)
def test_a_power_cut_or_a_kill_leaves_the_old_accounts_or_the_new_ones(
    change: Callable[[Path], None], disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = prepare_in(tmp_path / "first")
    old, before = state_of(path), files_in(path.parent)
    with disk.attached(monkeypatch):
        change(path)
    new = state_of(path)
    seen = set()
    for number, (count, files) in enumerate(power_cuts(before, disk.events)):
        folder = tmp_path / str(number)
        put_files(files, path.parent, folder)
        kept = list(folder.glob("backups/*.db"))
        assert all(storage.verify(file).accounts == len(old) for file in kept)
        assert kept or count < len(disk.events) or change not in (backup, restore)
        state = state_of(folder / "v.db")
        assert state in ([new] if count == len(disk.events) else [old, new])
        seen.add(state == new)
    assert seen == {True, False} or old == new


def upgrade(path: Path) -> None:
    open_store(path).close()


@needs_disk
@pytest.mark.parametrize("left", [False, True], ids=["stopped", "killed in a commit"])
def test_a_power_cut_while_an_older_file_is_brought_up_to_date_loses_nothing(
    left: bool, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = older_in(tmp_path / "first")
    if left:
        put_files(left_in_the_middle(path, monkeypatch, change_older), path.parent, path.parent)
    before = files_in(path.parent)
    with disk.attached(monkeypatch):
        upgrade(path)
    expected = state_of(path)
    assert len(expected) == 20 and len(disk.events) > 10
    for number, (count, files) in enumerate(power_cuts(before, disk.events)):
        folder = tmp_path / str(number)
        put_files(files, path.parent, folder)
        kept = list(folder.glob("backups/*.db"))
        assert all(storage.verify(file) == (file, 20, file.stat().st_size, 1) for file in kept)
        assert kept or count < len(disk.events)
        assert state_of(folder / "v.db") == expected
        with closing(open_store(folder / "v.db")) as store, store.transaction():
            assert not store.add("0ld1", "0ld1", "posing", NOW)


def older_in(folder: Path) -> Path:
    folder.mkdir()
    older(folder / "v.db", *(f"old{number}" for number in range(20)))
    return folder / "v.db"


def change_older(path: Path) -> None:
    """What the older server did: every page of the file is changed."""
    with closing(storage._connect(path)) as db:
        db.execute("UPDATE users SET failures = failures + 1, password = password || 'x'")


def left_in_the_middle(path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None] = register) -> Files:
    """What a server leaves that is killed while it commits, before its journal is deleted."""
    disk, before = Disk(), files_in(path.parent)
    with disk.attached(monkeypatch):
        change(path)
    moment = next(index for index, event in enumerate(disk.events) if event.kind == "delete")
    return crash(before, disk.events[:moment], random.Random(0), 1.0)


@needs_disk
@pytest.mark.parametrize("live", [None, b"", b"half"], ids=["missing", "empty", "damaged"])
def test_a_power_cut_while_a_lost_file_is_replaced_leaves_it_lost_or_restored(
    live: bytes | None, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside it lies the journal of its last transaction, which would ruin the restored file if it came back."""
    path = prepare_in(tmp_path / "first")
    wreck = path.read_bytes()[: 4096 * 2] if live else live
    journal = left_in_the_middle(path, monkeypatch)[f"{path}-journal"]
    path.unlink()
    if wreck is not None:
        path.write_bytes(wreck)
    path.with_name("v.db-journal").write_bytes(journal)
    before = files_in(path.parent)
    with disk.attached(monkeypatch):
        restore(path)
    new = state_of(path)
    for number, (count, files) in enumerate(power_cuts(before, disk.events)):
        folder = tmp_path / str(number)
        put_files(files, path.parent, folder)
        file = folder / "v.db"
        state = attempt_state(file) if file.exists() else None
        remains = [kept.read_bytes() for kept in folder.glob("backups/*")]
        if state is not None and live != b"half":
            assert (wreck is None or wreck in remains) and journal in remains
        if state is None:
            assert count < len(disk.events)
            assert live == b"half" or (file.read_bytes() if file.exists() else None) == live
            assert not attempt(restore, file)
        assert state_of(file) == new


def attempt_state(path: Path) -> State | None:
    try:
        return state_of(path)
    except StorageError:
        return None


def prepare_in(folder: Path) -> Path:
    folder.mkdir()
    return prepare(folder)


@needs_disk
@pytest.mark.skipif(sys.platform == "win32", reason="no folder is synced there")
def test_on_a_file_system_that_cannot_sync_folders_every_commit_succeeds(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite takes that for an error of the disk in EXTRA, after each commit."""
    add = disk.add

    def refuse(kind: str, *rest: Any) -> int:
        return IO_ERRORS[kind] if kind == "sync folder" else add(kind, *rest)

    monkeypatch.setattr(disk, "add", refuse)
    path = tmp_path / "v.db"
    with disk.attached(monkeypatch), monkeypatch.context() as patches:
        patches.setattr(storage, "_sync_folder", lambda _folder: False)
        fill(path, "alice")
        import_one(path)
    assert state_of(path).keys() == {"alice", "dave"}


# --- Failing operations ----------------------------------------------------------------------------------------------


@needs_disk
@pytest.mark.parametrize(("code", "lasting"), [(None, False), (SQLITE_FULL, True)], ids=["EIO once", "full for good"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_disk_error_at_any_moment_is_reported_and_changes_all_or_nothing(
    change: Callable[[Path], None],
    code: int | None,
    lasting: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = prepare_in(tmp_path / "first")
    old, before = state_of(path), files_in(path.parent)
    change(path)
    new = state_of(path)
    for moment in itertools.count():
        folder = tmp_path / str(moment)
        put_files(before, path.parent, folder)
        disk = Disk()
        disk.code = code
        disk.fails = functools.partial(operator.le if lasting else operator.eq, moment)
        with disk.attached(monkeypatch):
            told = attempt(change, folder / "v.db")
        failed = [event.kind for event in disk.events if event.kind.startswith("failed")]
        if failed and "failed delete" not in failed:
            assert not [file.name for file in folder.rglob("*") if file.suffix in (".part", ".new", ".lock")]
        state = state_of(folder / "v.db")
        assert state in ([old, new] if told else [new])
        if state != new:
            assert not attempt(change, folder / "v.db"), "the disk works again, so the change does too"
        if not failed:
            assert moment > 10
            break


@needs_disk
@pytest.mark.parametrize(("code", "lasting"), [(None, False), (SQLITE_FULL, True)], ids=["EIO once", "full for good"])
def test_a_disk_error_while_an_older_file_is_brought_up_to_date_loses_nothing(
    code: int | None, lasting: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = older_in(tmp_path / "first")
    before = files_in(path.parent)
    upgrade(path)
    expected = state_of(path)
    for moment in itertools.count():
        folder = tmp_path / str(moment)
        put_files(before, path.parent, folder)
        disk = Disk()
        disk.code = code
        disk.fails = functools.partial(operator.le if lasting else operator.eq, moment)
        with disk.attached(monkeypatch):
            told = attempt(upgrade, folder / "v.db")
        failed = [event.kind for event in disk.events if event.kind.startswith("failed")]
        if failed and "failed delete" not in failed:
            assert not [file.name for file in folder.rglob("*") if file.suffix in (".part", ".new", ".lock")]
        assert told or storage.verify(folder / "v.db").version == len(storage.MIGRATIONS)
        assert state_of(folder / "v.db") == expected
        if not failed:
            assert moment > 10
            break


def attempt(change: Callable[[Path], None], path: Path) -> bool:
    """Make the change; whether it said that it failed, in one line."""
    try:
        change(path)
    except StorageError as error:
        assert str(error) and "\n" not in str(error)
        return True
    return False
