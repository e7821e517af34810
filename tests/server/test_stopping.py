"""The end of a server, signals, and what it tells when it is asked who is connected."""

from __future__ import annotations

import os
import re
import signal
from datetime import datetime
from pathlib import Path

import pytest
from vocabulary import END, STAMP, WALL
from wire import Rig, encode, in_one_place, running

import protocol
import storage
import vessages


def test_messages_from_before_the_stop_arrive(rig: Rig) -> None:
    alice, bob = rig.people("alice", "bob")
    alice.say(*[f"SEND bob {number}" for number in range(100)])
    rig.turn()
    rig.stop()
    assert bob.ends() == [*[f"MSG alice 0 {STAMP} {number}" for number in range(100)], "BYE shutdown", END]


def test_a_reader_that_is_stuck_does_not_hold_the_stop_up(rig: Rig) -> None:
    alice = rig.person("alice")
    bob = rig.slow_reader("bob")
    alice.says(*[f"SEND bob {'x' * 5000}"] * 40)
    alice.close()
    began = rig.clock.now
    rig.stop()
    assert 4.9 < rig.clock.now - began < 6
    bob.close()


@in_one_place
@pytest.mark.parametrize(("event", "stops"), [(0, False), (1, False), (2, True), (5, True), (6, True)])
def test_a_window_of_windows_that_is_closed_stops_it_politely(rig: Rig, event: int, stops: bool) -> None:
    alice, waited = rig.person("alice"), list[float]()
    assert rig.server.signals.stops_at(event, waited.append) is stops
    rig.turns(2)
    assert alice.says("WHO") == (["BYE shutdown", END] if stops else ["OK WHO alice"])
    assert waited == [vessages.STOP_WITHIN] * stops


@in_one_place
def test_the_log_is_told_who_comes_and_goes_and_when(rig: Rig) -> None:
    rig.person("alice").close()
    rig.clock.wall += 7
    rig.turns(3)
    said = ["alice registered from 127.0.0.1", "alice logged in from 127.0.0.1", "alice left: closed by the client"]
    assert rig.log == [*zip((WALL, WALL, WALL + 7), said, strict=True)]


def test_newcomers_at_the_moment_of_the_stop_do_no_harm(rig: Rig) -> None:
    rig.server.stop()
    rig.tls = False  # a newcomer has said nothing yet: it may be accepted, and is then told in clear
    newcomer = rig.connect()
    rig.stop()
    assert newcomer.ends()[-1] == END
    assert [line.rpartition(": ")[0] for line in rig.said] == ["stopping: connections to be told"]


@in_one_place
def test_the_store_may_be_used_again_after_the_stop(rig: Rig, tmp_path: Path) -> None:
    rig.person("alice")
    rig.stop()
    store = storage.open_store(tmp_path / "vessages.db")
    account = store.find("alice")
    store.close()
    assert account is not None
    assert (account.status, account.last_login) == ("offline", WALL)


@in_one_place
def test_a_password_that_the_operator_has_changed_ends_the_way_back(rig: Rig) -> None:
    alice, bob = rig.person("alice"), rig.person("bob", kept=True)
    storage.set_password(rig.store.path, "bob", "another password", storage.Cost(1, 1, 1))
    assert bob.says("WHO")[0].endswith(" OK WHO alice bob")
    bob.reset()
    assert alice.sees("alice", "~bob")
    rig.wait(1.5)
    rig.person("eve")  # behind it in the disk's queue
    assert rig.connect().says(f"RESUME {bob.token} 0")[0].startswith("ERROR unknown-session ")


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The codes with which the process would have ended at once."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


SIGNALS = [name for name in vessages.STOP_SIGNALS + vessages.QUESTION_SIGNALS if hasattr(signal, name)]


@in_one_place
@pytest.mark.parametrize("name", SIGNALS)
def test_every_signal_that_stops_or_asks_is_heeded(rig: Rig, name: str) -> None:
    before = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in SIGNALS}
    try:
        rig.server.signals.heed()
        signal.raise_signal(getattr(signal, name))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    signals, stops = rig.server.signals, name in vessages.STOP_SIGNALS
    assert (signals.stop_wanted, signals.figures_wanted) == (stops, not stops)
    rig.turns(2)
    assert rig.said[0].startswith("stopping" if stops else "0 connections, ")


@in_one_place
def test_a_second_signal_counts_from_half_a_second_on(rig: Rig, exits: list[int]) -> None:
    rig.server.signals._on_stop(2, None)
    for wait in (0.0, 0.002, 0.4):
        rig.clock.now += wait
        rig.server.signals._on_stop(2, None)
    assert exits == []
    rig.clock.now += 0.1
    rig.server.signals._on_stop(15, None)
    assert exits == [128 + 15]


@in_one_place
def test_a_signal_ends_a_server_that_stops_for_another_reason(rig: Rig, exits: list[int]) -> None:
    rig.server.stop()
    rig.server.signals._on_stop(15, None)
    assert exits == [128 + 15]


@in_one_place
def test_a_signal_after_the_end_is_no_fault(rig: Rig, exits: list[int]) -> None:
    rig.server.signals._on_stop(15, None)
    rig.stop()
    rig.server.signals._on_stop(15, None)
    rig.server.signals._on_question(10, None)


def asked(rig: Rig) -> list[str]:
    """The table that a question at the server is answered with, with single spaces."""
    del rig.log[:]
    rig.server.signals._on_question(10, None)
    rig.turns(2)
    assert " connections, " in rig.log[0][1]
    return [" ".join(line.split()) for _, line in rig.log[1:]]


def hour(wall: float) -> str:
    """The local time in hours and minutes."""
    return datetime.fromtimestamp(wall).strftime("%H:%M")


@in_one_place
def test_a_table_says_who_is_connected_and_what_waits(rig: Rig) -> None:
    came, just_before = hour(WALL), hour(WALL - 1)  # the rig's clock gains a little on its wall clock
    assert asked(rig) == []
    rig.person("alice")
    bob = rig.person("bob", kept=True)
    bob.say("ACK 1")  # the answer to the PING with which it was heard that all had come
    rig.connect().hears()
    rig.wait(7)
    rig.peers[0].says("SEND bob one", "SEND bob two")
    two = 2 * len(encode(f"@2 MSG alice 0 {STAMP} one"))
    assert asked(rig) == [
        "since idle unsent held address name",
        f"{came} 7 s 0 {two} B/2 127.0.0.1 bob",
        f"{just_before} 7 s 0 0 127.0.0.1 no login yet",
        f"{came} 0 s 0 0 127.0.0.1 alice",
    ]
    bob.reset()
    rig.wait(3)
    assert asked(rig)[1] == f"{came} 3 s 0 {two} B/2 (lost) bob"


@pytest.mark.parametrize(("serves", "in_clear"), [("offered", ["alice"]), ("off", ["alice", "bob", "yet"])])
def test_a_question_is_answered_with_who_can_be_read_on_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serves: str, in_clear: list[str]
) -> None:
    with running(tmp_path, serves=serves) as rig:
        rig.person("local")
        connect = protocol.Hub.connect
        monkeypatch.setattr(protocol.Hub, "connect", lambda hub, address: connect(hub, "192.168.1.23"))
        rig.person("alice")
        rig.tls = serves == "offered"
        rig.person("bob")
        rig.connect()  # "no login yet": nothing has come, so it may still encrypt
        rig.turns(2)
        rows = asked(rig)[1:]
        assert f", {len(in_clear)} in clear (!)" in rig.said[0]
    assert len(rows) == 4
    assert sorted(row.split()[-1] for row in rows if "192.168.1.23! " in row) == in_clear


ROW = protocol.Row("192.168.1.23!", "", WALL, 44.0, (0, 0), (0, 0))


def test_a_row_of_the_table_fits_80_columns_with_its_time() -> None:
    rows = [ROW, ROW._replace(name="bartholomew"), ROW._replace(held=(61 * 1024, 12))]
    for line in vessages.table(rows, WALL):
        assert len(f"{vessages.local_time(WALL)} {line}") <= 80


def test_a_name_in_wide_letters_moves_no_column_of_the_table() -> None:
    lines = vessages.table([ROW, ROW._replace(name="張偉"), ROW._replace(name="e\u0301ve")], WALL)
    assert len({line.index("192.") for line in lines[1:]}) == 1
    assert [line.partition(ROW.address + " ")[2] for line in lines[1:]] == ["no login yet", "張偉", "e\u0301ve"]


def test_somebody_who_came_on_another_day_has_it_in_the_table() -> None:
    assert vessages.clock_or_day(WALL, WALL + 60) == hour(WALL)
    assert vessages.clock_or_day(WALL, WALL + 86_400) == datetime.fromtimestamp(WALL).strftime("%d %b")


def test_the_table_shows_what_a_stuck_reader_has_not_taken(rig: Rig) -> None:
    alice = rig.person("alice")
    rig.slow_reader("bob")
    while not any("busy" in answer for answer in alice.says(*[f"SEND bob {'x' * 60000}"] * 20)):
        pass
    (row,) = [row for row in asked(rig) if row.endswith(" bob")]
    unsent = re.search(r" (\d+) KiB/(\d+) ", row)
    assert unsent is not None
    assert int(unsent[1]) > 60
    assert int(unsent[2]) > 1


@in_one_place
def test_the_table_has_an_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vessages, "ROWS_MAX", 2)
    rig.people("alice", "bob", "carol")
    rig.person("dave", kept=True).reset()
    rig.turns(2)
    rows = asked(rig)
    assert len(rows) == 1 + 2 + 1
    assert rows[-1] == "… and 2 more"
