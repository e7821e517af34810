"""Backups that the server makes by itself: when one is due, and what a failed one costs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wire import full, noting_in

import storage
import vessages


class Clock:
    """The wall clock that a test moves."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


HOUR, DAY = 3600.0, 86_400.0
NOON = 1_795_359_600.0  # 2026-11-22T15:00:00Z


def backups_at(
    path: Path, clock: Clock, every: float = DAY, keep: int | None = None,
    log: vessages.WriteLog = vessages.write_nowhere,
) -> vessages.Backups:  # fmt: skip
    """As a server that was started now."""
    storage.open_store(path).close()
    return vessages.Backups(path, every, keep, log, clock)


def stamps(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.glob("backups/*.db"))


def test_a_server_that_is_restarted_more_often_than_backed_up_makes_its_backups(path: Path) -> None:
    """Eight hours a day in use, one backup a day: each is made at the start of the next morning, at the latest."""
    clock = Clock(NOON)
    for _ in range(5):
        backups = backups_at(path, clock)
        for _ in range(8):
            backups.look()
            clock.now += HOUR
        clock.now += 16 * HOUR
    days = ["22", "23", "24", "25", "26"]
    assert stamps(path) == [f"vessages-2026-11-{day}T150000Z.db" for day in days]


def test_a_backup_is_due_an_interval_after_the_newest_one_of_this_database(path: Path) -> None:
    clock = Clock(NOON)
    backups = backups_at(path, clock)
    assert backups.due() == NOON  # There is none.
    other = path.with_name("other.db")
    storage.open_store(other).close()
    storage.backup(other, now=NOON)
    assert backups.due() == NOON
    storage.backup(path, now=NOON - 28 * DAY)
    assert backups.due() == NOON - 27 * DAY
    storage.backup(path, now=NOON - HOUR)  # By hand, perhaps.
    assert backups.due() == NOON + 23 * HOUR and backups.look() == vessages.BACKUP_LOOK
    clock.now = NOON + 23 * HOUR - 5
    assert backups.look() == 5
    clock.now += 5
    backups.look()
    assert backups.due() == clock.now + DAY and "vessages-2026-11-23T140000Z.db" in stamps(path)


def test_a_clock_that_was_wrong_for_a_while_does_not_put_backups_off(path: Path) -> None:
    clock = Clock(NOON + 1000 * DAY)
    backups = backups_at(path, clock)
    backups.look()
    clock.now = NOON
    assert backups.due() == backups_at(path, clock).due() == NOON
    backups.look()
    assert backups.due() == NOON + DAY and len(stamps(path)) == 2


def test_a_folder_that_cannot_be_listed_is_not_filled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(NOON)
    backups = backups_at(path, clock)
    monkeypatch.setattr(storage, "newest_backup", lambda path, now: None)
    for _ in range(48):
        backups.look()
        clock.now += HOUR
    assert len(stamps(path)) == 2


def test_backups_go_on_after_one_that_failed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = storage.BackupReport(path.parent / "the backup", 3, 4096, [], ("1 of the older backups cannot …",))
    outcomes: list[Callable[[], Any]] = [full, lambda: report, full]

    def back_up(path: Path, keep: int | None, now: float) -> storage.BackupReport:
        assert (path, keep) == (path, 5)
        made: storage.BackupReport = outcomes.pop(0)()
        return made

    clock = Clock(NOON)
    said: list[str] = []
    backups = backups_at(path, clock, keep=5, log=noting_in(said))
    monkeypatch.setattr(storage, "backup", back_up)
    waits: list[float] = []
    for _ in range(3):
        waits.append(backups.look())
        clock.now = max(clock.now + waits[-1], backups.due())
    assert waits == [vessages.BACKUP_AGAIN, vessages.BACKUP_LOOK, vessages.BACKUP_AGAIN]
    assert [line.partition(":")[0] for line in said] == ["backup failed", "backup", "backup", "backup failed"]
    assert "the backup, 3 accounts, 4096 bytes" in said[1] and "cannot" in said[2] and "next try at" in said[0]


def test_a_backup_that_is_being_made_is_finished_before_the_server_ends(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, may_end, make = threading.Event(), threading.Event(), storage.backup

    def slow_backup(*arguments: Any, **options: Any) -> storage.BackupReport:
        made.set()
        assert may_end.wait(30)
        return make(*arguments, **options)

    monkeypatch.setattr(storage, "backup", slow_backup)
    backups = backups_at(path, Clock(NOON))
    backups.begin()
    assert made.wait(30) and stamps(path) == []
    join = backups._thread.join

    def wait(seconds: float) -> None:
        may_end.set()
        join(seconds)

    monkeypatch.setattr(backups._thread, "join", wait)
    backups.end()
    assert stamps(path) == ["vessages-2026-11-22T150000Z.db"]


def test_the_start_says_when_the_next_backup_is_due(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vessages, "start", lambda thread: None)
    clock, said = Clock(NOON), list[str]()
    backups_at(path, clock, log=noting_in(said)).begin()
    storage.backup(path, now=NOON)
    backups_at(path, clock, log=noting_in(said)).begin()
    assert said == ["backup: one is due now", f"backup: the next one is due at {vessages.local_time(NOON + DAY)}"]


def test_a_backup_without_an_end_is_told_as_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end, said = threading.Event(), list[str]()
    monkeypatch.setattr(storage, "backup", lambda *arguments, **options: may_end.wait(30) and full())
    monkeypatch.setattr(vessages, "BACKUP_PATIENCE", 0.01)
    backups = backups_at(path, Clock(NOON), log=noting_in(said))
    backups.begin()
    backups.end()
    assert said[-1] == "backup: given up, it was not finished within 0 s"
    may_end.set()
    backups._thread.join(30)
