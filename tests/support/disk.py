"""A disk that fails: power cuts, and errors of single operations.

`Disk` stands between SQLite and the file system. It is SQLite's own file layer (its "VFS") with the operations that
matter replaced by ours, so it sees, in order, every write, sync, truncation, creation and deletion of the real program,
and with a few patches also the renames and syncs that storage.py does itself. It can make any of them fail. From its
record `crash` computes the files that a disk may hold if the power fails after any of them: synced data for certain,
later data perhaps, perhaps not, or half of it.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import itertools
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import storage

SECTOR = 512  # Bytes that a disk writes as a whole; a write is torn between sectors.

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
OPEN_CREATE = 0x4

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
        def watch(owner: object, name: str, note: Callable[..., object]) -> None:
            """Before `name` is called, `note` is, with the same arguments."""
            real = getattr(owner, name)

            def watched(*args: Any, **options: Any) -> Any:
                note(*args, **options)
                return real(*args, **options)

            patches.setattr(owner, name, watched)

        def note_file(kind: str, path: Path) -> None:
            if not path.name.endswith(".lock") and (kind == "create" or path.exists()):
                self.add_python(kind, path)

        watch(Path, "replace", lambda path, target: self.add_python("rename", path, str(target)))
        watch(Path, "unlink", lambda path, missing_ok=False: note_file("delete", path))
        watch(storage, "_new_file", lambda path: note_file("create", path))
        watch(shutil, "copyfile", lambda source, target: self.add_python("write", target, data=source.read_bytes()))
        watch(storage, "sync", lambda file: self.add_python("sync", Path(file.name)))
        watch(storage, "sync_folder", lambda folder: self.add_python("sync folder", folder))

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


def files_under(folder: Path) -> Files:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def put_files(files: Files, source: Path, target: Path) -> None:
    """Write these files, which were below `source`, below `target`."""
    for name, data in files.items():
        file = target / Path(name).relative_to(source)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def moments_of(events: list[Event]) -> list[int]:
    """Those before each event; of several writes to one file in turn before the first and the last."""
    keys = [(event.kind, event.path) for event in events]
    in_turn = [key == other and key[0] == "write" for key, other in itertools.pairwise(keys)]
    return [index for index in range(len(keys)) if not all(in_turn[max(0, index - 1) : index + 1]) or index == 0]


def power_cuts(before: Files, events: list[Event], path: Path) -> Iterator[tuple[list[int], Path]]:
    """What may be left of the folder of `path` by a power cut, or a kill (share 1), at any moment of `events`.

    Gives each possible outcome once: the moments that may lead to it (how many events had happened), and `path` in a
    folder in which the files are as the disk then had them.
    """
    outcomes: dict[frozenset[tuple[str, bytes]], list[int]] = {}
    for count in [*moments_of(events), len(events)]:
        chance = random.Random(count)
        files = {frozenset(crash(before, events[:count], chance, share).items()) for share in (0.0, 1.0, 0.5, 0.5)}
        for outcome in files:
            outcomes.setdefault(outcome, []).append(count)
    for number, (outcome, moments) in enumerate(outcomes.items()):
        folder = path.parent.with_name(f"outcome {number}")
        folder.mkdir()
        put_files(dict(outcome), path.parent, folder)
        yield moments, folder / path.name
