"""Newcomers: how many come in, where descriptors end, and what may be wrong with one."""

from __future__ import annotations

import errno
import selectors
import socket
from pathlib import Path
from typing import Any

import pytest
from vocabulary import END, STAMP
from wire import Rig, in_one_place, running

import protocol
import vessages
from protocol import Connection


def test_a_crowd_comes_in_at_each_listener(tmp_path: Path) -> None:
    with running(tmp_path, listeners=2) as rig:
        for number in range(2 * 60):
            rig.connect(number % 2)
        rig.turn()
        assert rig.server.sockets == 2  # there might have been nobody else
        rig.turn()
        assert rig.server.sockets == 120
        rig.turns(2)
        rig.connect()
        rig.turn()
        assert rig.server.sockets == 121


def test_a_storm_of_newcomers_leaves_no_more_sockets_to_the_selector_than_are_counted_on(tmp_path: Path) -> None:
    with running(tmp_path, listeners=3, connections_max=5, spare_files=18) as rig:
        most = 0
        for number in range(120):
            rig.connect(number % 3)
            if number % 15 == 14:
                for _ in range(4):
                    rig.turn()
                    most = max(most, len(rig.selector.get_map()))
        half_of_the_closing = int(18 * vessages.CLOSING_SHARE) // 2
        assert most == 5 + half_of_the_closing + len(rig.listeners) + len(["the bell"])


def run_out_of_descriptors(monkeypatch: pytest.MonkeyPatch, number: int = errno.EMFILE) -> list[int]:
    """From now on nothing can be accepted; each try is counted."""
    tries: list[int] = []

    def accept(listener: socket.socket) -> None:
        tries.append(1)
        raise OSError(number, "Too many open files")

    monkeypatch.setattr(socket.socket, "accept", accept)
    return tries


def test_without_descriptors_the_listener_rests(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = rig.people("alice", "bob")
    tries = run_out_of_descriptors(monkeypatch)
    newcomer = rig.connect()
    rig.turns(10)
    assert len(tries) == 1
    assert rig.is_at_rest()
    assert alice.says("SEND bob all as ever") == []
    assert bob.hears() == [f"MSG alice 0 {STAMP} all as ever"]
    rig.wait(3.5)
    assert 3 <= len(tries) <= 5
    monkeypatch.undo()
    rig.wait(1.1)
    assert newcomer.says("PING") == ["OK PING"]


def test_without_descriptors_all_listeners_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path, listeners=2) as rig:
        run_out_of_descriptors(monkeypatch)
        newcomers = [rig.connect(0), rig.connect(1)]
        rig.turns(4)
        assert rig.is_at_rest()
        monkeypatch.undo()
        rig.wait(1.1)
        assert [newcomer.says("PING") for newcomer in newcomers] == [["OK PING"]] * 2


@in_one_place
def test_the_server_can_stop_while_the_listener_rests(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    run_out_of_descriptors(monkeypatch)
    rig.connect()
    rig.turns(2)
    rig.stop()


GONE = [errno.ECONNABORTED, errno.ECONNRESET, errno.ENOTCONN, errno.EPERM, errno.EAGAIN, errno.EINTR]


@in_one_place
@pytest.mark.parametrize("number", GONE)
def test_a_newcomer_that_has_gone_again_is_nobody(rig: Rig, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def accept(listener: socket.socket) -> None:
        monkeypatch.undo()
        raise OSError(number, "gone")

    monkeypatch.setattr(socket.socket, "accept", accept)
    assert rig.connect().says("PING") == ["OK PING"]


def test_many_newcomers_that_have_gone_again_hold_nobody_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    accept, gone = socket.socket.accept, [ConnectionResetError(errno.ECONNRESET, "reset")] * 200

    def accept_or_fail(listener: socket.socket) -> Any:
        if gone:
            raise gone.pop()
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", accept_or_fail)
    assert rig.connect().says("PING") == ["OK PING"]
    assert not gone
    assert rig.said == []


@in_one_place
@pytest.mark.parametrize("address", [None, "", b""])
def test_a_newcomer_whose_address_is_not_known_any_more_is_nobody(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, address: Any
) -> None:
    accept = socket.socket.accept

    def accept_nameless(listener: socket.socket) -> Any:
        monkeypatch.undo()
        return accept(listener)[0], address

    monkeypatch.setattr(socket.socket, "accept", accept_nameless)
    assert rig.connect().ends() == [END]
    assert rig.connect().says("PING") == ["OK PING"]


@in_one_place
@pytest.mark.parametrize("number", sorted(vessages.EXHAUSTED))
def test_the_listener_rests_after_an_error_that_another_try_would_meet_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    tries = run_out_of_descriptors(monkeypatch, number)
    rig.connect()
    rig.turns(10)
    assert len(tries) == 1


@in_one_place
def test_a_newcomer_whose_socket_is_broken_is_nobody(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def setblocking(sock: socket.socket, flag: bool) -> None:
        monkeypatch.undo()
        raise OSError(errno.EINVAL, "gone")

    broken = rig.connect()
    monkeypatch.setattr(socket.socket, "setblocking", setblocking)
    rig.turn()
    assert broken.ends() == [END]
    assert rig.connect().says("PING") == ["OK PING"]


def test_a_storm_of_strangers_who_hang_on_takes_only_so_many_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path, connections_max=3, spare_files=9) as rig:
        alice = rig.person("alice")
        storm = [rig.connect() for _ in range(40)]
        open_before: list[int] = []
        connect = protocol.Hub.connect

        def count_and_connect(hub: protocol.Hub, address: str) -> protocol.Connection:
            open_before.append(rig.server.sockets)
            return connect(hub, address)

        monkeypatch.setattr(protocol.Hub, "connect", count_and_connect)
        rig.turns(40)
        assert len(open_before) == 40
        assert max(open_before) < 3 + 3
        assert rig.is_at_rest()
        assert alice.says("WHO") == ["OK WHO alice"]
        assert [stranger.says("PING") for stranger in storm[-2:]] == [["OK PING"]] * 2
        assert storm[0].ends()[-1] == END


def test_a_stale_event_does_not_reach_whoever_has_the_descriptor_now(rig: Rig) -> None:
    alice = rig.person("alice")
    old = rig.connect()
    old.hears()
    (key,) = [
        key for key in rig.selector.get_map().values()
        if isinstance(key.data, Connection) and key.data.session is None
    ]  # fmt: skip
    old.close()
    alice.hears()
    new = rig.connect()
    new.hears()
    new.say("PING new")
    rig.selector.stale.append((key, selectors.EVENT_READ | selectors.EVENT_WRITE))
    rig.turns(2)
    assert new.next() == ["OK PING new"]
    assert alice.says("WHO") == ["OK WHO alice"]
