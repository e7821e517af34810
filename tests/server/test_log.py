"""The lines of the log: whole, with their time, and never a reason to wait."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vocabulary import PASSWORD, WALL
from wire import Peer, Rig, certificate, in_one_place, running

import protocol
import storage
import vessages

ENDINGS: list[tuple[str, Callable[[Peer], object]]] = [
    ("closed by the client", Peer.finish),
    *([("Connection reset by peer", Peer.reset)] if sys.platform != "win32" else []),  # there in other words
    ("bad frame", lambda peer: peer.say_bytes(bytes(4))),
    ("not UTF-8", lambda peer: peer.say(*[b"\xff"] * protocol.ENCODING_FAULTS_MAX)),
]


@pytest.mark.parametrize(("reason", "end"), ENDINGS)
def test_the_verbose_log_says_why_a_connection_ended(rig: Rig, reason: str, end: Callable[[Peer], object]) -> None:
    rig.server.verbose = True
    stranger = rig.connect()
    assert stranger.says("PING") == ["OK PING"]
    end(stranger)
    rig.turns(3)
    rig.wait(vessages.LINGER)
    assert [line.rpartition(": ")[2] for line in rig.said if "disconnected" in line] == [reason]


def test_the_verbose_log_says_who_encrypts(rig: Rig) -> None:
    certificate()  # or the test is skipped
    rig.server.verbose = True
    rig.person("alice")
    assert [line.partition(":")[0] for line in rig.said if "encrypt" in line] == [
        "127.0.0.1 encrypts" if rig.tls else "127.0.0.1 does not encrypt"
    ]


def test_the_verbose_log_says_in_words_why_there_is_no_tls(tmp_path: Path) -> None:
    with running(tmp_path, tls=True) as rig:
        rig.server.verbose = True
        rig.tls = False
        rig.connect().say_bytes(b"\x16GET / HTTP/1.0\r\n\r\n")
        rig.turns(3)
        stranger = rig.connect()
        stranger.say_bytes(b"\x16\x03\x01\x02\x00")  # the beginning of a hello
        stranger.finish()
        rig.turns(3)
    for reason in ("wrong version number", vessages.CLIENT_CLOSED):
        assert any(line.endswith(f": no TLS: {reason}") for line in rig.said), rig.said


@in_one_place
def test_no_secret_is_ever_said(rig: Rig) -> None:
    rig.server.verbose = True
    alice, bob = rig.person("alice", kept=True), rig.person("bob")
    bob.says("SEND alice the text of a message", f"PASSWD {PASSWORD}\nthe new password", "PASSWD typo-1\nas it is")
    rig.connect().says("LOGIN bob typo-2-instead", "LOGIN typo-3-as-a-name x", f"REGISTER carol {PASSWORD}")
    rig.connect().says(f"RESUME {alice.token} 0", "RESUME typo-4-token 0")
    rig.connect().say(b"PING \xff typo-5", b"SEND typo-6 x").say_bytes(b"\0\1\0\0typo-7").ends()
    rig.stop()
    said = "\n".join(rig.said)
    for secret in (PASSWORD, "the new password", "typo", "the text of a message", alice.token, "scrypt$"):
        assert secret not in said
    assert "alice registered" in said
    assert "wrong name or password" in said


def test_a_stop_has_room_in_the_log_for_everybody() -> None:
    assert vessages.LOG_LINES >= 2 * protocol.CONNECTIONS_MAX


def test_a_log_that_nobody_reads_does_not_stop_anybody_and_says_what_it_has_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read_on, written = threading.Event(), bytearray()

    def write(descriptor: int, data: bytes) -> int:
        read_on.wait(60)
        written.extend(data[:5_000])
        return len(data[:5_000])

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(vessages, "LOG_LINES", 2_000)
    log = vessages.Log()
    count = 2 * vessages.LOG_LINES + 100  # more than it keeps, in its queue and in its hands
    for number in range(0, count, 2):
        log.write(f"line {number}", f"line {number + 1}")
    read_on.set()
    monkeypatch.setattr(vessages, "LOG_PATIENCE", 60.0)
    log.finish()
    lines = [line.split(" ", 2)[2] for line in written.decode().splitlines()]
    lost = re.fullmatch(r"([\d,]+) lines of the log were lost: nobody read it", lines[-1])
    assert lost is not None
    assert lines[:-1] == [f"line {number}" for number in range(len(lines) - 1)]
    assert len(lines) - 1 + int(lost[1].replace(",", "")) == count


class Disk:
    """A file whose disk has room for so many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 10**9
        self.fault = errno.ENOSPC
        self.written = bytearray()
        monkeypatch.setattr(os, "write", self.write)

    def write(self, descriptor: int, data: bytes) -> int:
        assert descriptor == 2
        taken = data[: self.room]
        if not taken:
            raise OSError(self.fault, os.strerror(self.fault))
        self.room -= len(taken)
        self.written += taken
        return len(taken)

    def lines(self) -> list[str]:
        """What stands there, without the times."""
        assert bytes(self.written[-1:]) in (b"", b"\n")
        return [line.split(" ", 2)[2] for line in self.written.decode().splitlines()]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def log_lines(writer: vessages.Log, *lines: str) -> None:
    writer._append([(WALL, line) for line in lines])


def test_a_line_of_the_log_begins_with_its_time(monkeypatch: pytest.MonkeyPatch, disk: Disk) -> None:
    monkeypatch.setattr(time, "time", lambda: WALL)
    writer = vessages.Log()
    writer.write("bob left", "eve left")
    writer.finish()
    stamp = datetime.fromtimestamp(WALL).astimezone().isoformat(" ", "seconds")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d", stamp)
    assert disk.written.decode() == f"{stamp} bob left\n{stamp} eve left\n"


@pytest.mark.parametrize("seconds", [-1e9, 4e10, 3e11, 1e18])
def test_a_clock_that_cannot_be_shown_ends_nothing(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    monkeypatch.setattr(time, "time", lambda: seconds)
    log = vessages.Log()
    store = storage.open_store(tmp_path / "vessages.db")
    server = vessages.Server(protocol.Hub(), store, vessages.bind("127.0.0.1", 0), log=log.write)
    said = protocol.format_time(server.wall())
    log.write(*vessages.report(server.hub, 1, server.wall(), bool))
    assert storage.backup(store.path).path.exists()
    assert server.close()
    log.finish()
    year = "1970" if seconds < 0 else "2999"
    assert said.startswith(year) and b" 0 connections" in disk.written


@pytest.mark.skipif(sys.platform == "win32", reason="Windows takes its time zone from elsewhere")
def test_the_hour_that_comes_twice_is_told_apart_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        told = [vessages.local_time(1792886400.0 + hours * 3600) for hours in (0, 1, 2)]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert told == ["2026-10-25 02:00:00+02:00", "2026-10-25 02:00:00+01:00", "2026-10-25 03:00:00+01:00"]


FULL = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO]


@pytest.mark.parametrize("number", FULL)
def test_the_log_goes_on_when_its_disk_has_room_again(disk: Disk, number: int) -> None:
    writer = vessages.Log()
    log_lines(writer, "before")
    disk.room, disk.fault = 0, number
    log_lines(writer, "one", "two")
    log_lines(writer, "three")
    disk.room = 10**9
    log_lines(writer, "after")
    log_lines(writer, "and on")
    why = "disk full" if number == errno.ENOSPC else os.strerror(number)
    assert disk.lines() == ["before", f"3 lines of the log were lost: {why}", "after", "and on"]
    writer.finish()


def test_lines_that_come_after_lost_ones_stand_behind_them(monkeypatch: pytest.MonkeyPatch, disk: Disk) -> None:
    monkeypatch.setattr(vessages, "LOG_LINES", 2)
    monkeypatch.setattr(vessages, "start", lambda thread: None)
    log = vessages.Log()
    log.write("one", "two", "three")
    log.write("four")
    log._write_waiting()
    log.write("five")
    log._write_waiting()
    assert disk.lines() == ["one", "two", "2 lines of the log were lost: nobody read it", "five"]


@given(turns=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 4)), max_size=12))
def test_each_line_of_the_log_is_written_whole_or_counted(turns: list[tuple[int, int]]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        disk, writer = Disk(monkeypatch), vessages.Log()
        said: list[str] = []
        for room, count in [*turns, (10**9, 1), (10**9, 1)]:
            disk.room = room
            lines = [f"line {len(said) + number} of them" for number in range(count)]
            said += lines
            log_lines(writer, *lines)
        written = disk.lines()
        lost = sum(int(line.split(" ")[0]) for line in written if line.endswith("disk full"))
        there = [line for line in written if not line.endswith("disk full")]
        assert [line for line in said if line in there] == there
        assert len(there) + lost == len(said)
        writer.finish()


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EBADF])
def test_a_log_that_nobody_can_read_any_more_ends(disk: Disk, number: int) -> None:
    writer = vessages.Log()
    disk.room, disk.fault = 0, number
    writer.write("who reads this?")
    writer._thread.join(30)
    assert not writer._thread.is_alive()


def test_a_console_of_windows_gets_text(disk: Disk) -> None:
    console = io.StringIO()
    writer = vessages.Log(console)
    log_lines(writer, "Zoé registered", "Мария registered")
    writer.finish()
    assert [line.split(" ", 2)[2] for line in console.getvalue().splitlines()] == ["Zoé registered", "Мария registered"]
    assert not disk.written
