"""Slow work beside the chat: hashing and the disk, what may happen meanwhile, and when they fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from vocabulary import END, PASSWORD, STAMP
from wire import Peer, Rig, encode, fault, full, in_one_place

import protocol
import storage
import vessages


@pytest.mark.parametrize("frames_before", [0, 600])
def test_a_fault_in_a_command_costs_one_connection(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, frames_before: int
) -> None:
    alice, bob = rig.people("alice", "bob")
    monkeypatch.setitem(protocol.METHODS[True], "WHO", fault)
    heard = alice.say(*["PING"] * frames_before, "WHO", "PING").ends()
    assert heard == ["OK PING"] * frames_before + [END]
    assert bob.sees("bob")
    assert rig.said.count("an internal error ended one connection") == 1
    assert rig.said[-1] == "RuntimeError: planted"


def test_a_fault_in_slow_work_costs_one_connection_and_no_place_at_the_hasher(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = rig.person("bob")
    monkeypatch.setattr(protocol.Throttle, "forgive", fault)
    for _ in range(5):
        assert rig.connect().say(f"LOGIN bob {PASSWORD}").ends() == [END]
    monkeypatch.undo()
    assert bob.hears() == []
    rig.person("alice")
    assert rig.said.count("an internal error ended one connection") == 5


def test_a_fault_leaves_a_kept_session_to_come_back_to(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    bob = rig.person("bob", kept=True)
    monkeypatch.setitem(protocol.METHODS[True], "WHO", fault)
    bob.say("WHO").ends()
    assert rig.connect().says(f"RESUME {bob.token} 0")[0].startswith("OK RESUME bob")


CHECK, HASH, RECORD = (storage, "check_password"), (storage, "hash_password"), (storage.Store, "record_login")


class HeldBack:
    """Slow work that does not end before it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._begun = threading.Event()
        self._let_go = threading.Event()

    def begin(self, rig: Rig, *commands: str, at: tuple[Any, str] = CHECK) -> Peer:
        """Somebody whose last command has come to this piece of work."""
        self.work = work = getattr(*at)

        def wait_and_work(*arguments: Any) -> Any:
            self._begun.set()
            assert self._let_go.wait(30)
            return work(*arguments)

        self._monkeypatch.setattr(*at, wait_and_work)
        peer = rig.connect().say(*commands)
        while not self._begun.is_set():
            rig.turn()
        return peer

    def let_go(self) -> None:
        self._let_go.set()


@pytest.fixture
def held_back(monkeypatch: pytest.MonkeyPatch, rig: Rig) -> Iterator[HeldBack]:
    held_back = HeldBack(monkeypatch)
    yield held_back
    held_back.let_go()  # or the rig could not stop


def test_the_chat_goes_on_while_a_password_is_checked(rig: Rig, held_back: HeldBack) -> None:
    alice, bob = rig.people("alice", "bob")
    rig.connect().says(f"REGISTER carol {PASSWORD}")
    carol = held_back.begin(rig, f"LOGIN carol {PASSWORD}")
    for number in range(20):
        assert alice.says(f"SEND bob {number}") == []
        assert bob.hears() == [f"MSG alice 0 {STAMP} {number}"]
    assert rig.is_at_rest()
    held_back.let_go()
    assert carol.next() == ["OK LOGIN carol"]


def test_commands_wait_while_a_password_is_checked(rig: Rig, held_back: HeldBack) -> None:
    rig.connect().says(f"REGISTER alice {PASSWORD}")
    alice = held_back.begin(rig, f"LOGIN alice {PASSWORD}")
    for payload in ["PING 1", "PING 2", "PING 3 " + "x" * 50000, "PING 4"]:
        for piece in (encode(payload)[:3], encode(payload)[3:7], encode(payload)[7:]):
            alice.say_bytes(piece)
            rig.turn()
    held_back.let_go()
    assert [frame[:9] for frame in alice.next(6)] == [
        "OK LOGIN ", "ONLINE al", "OK PING 1", "OK PING 2", "OK PING 3", "OK PING 4",
    ]  # fmt: skip


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("work", [CHECK, RECORD], ids=["checking", "recording"])
def test_a_client_that_leaves_during_its_login_begins_no_session(
    rig: Rig, held_back: HeldBack, work: tuple[Any, str], kept: bool
) -> None:
    bob = rig.person("bob")
    rig.connect().says(f"REGISTER alice {PASSWORD}")
    alice = held_back.begin(rig, *["KEEP"] * kept, f"LOGIN alice {PASSWORD}", at=work)
    alice.reset()
    bob.hears()
    held_back.let_go()
    assert rig.person("carol").says("WHO") == ["OK WHO bob carol"]
    rig.wait(3)
    bob.hears()
    assert "alice" not in " ".join(bob.presence)
    rig.stop()
    assert rig.statuses()["alice"] == "offline"


@in_one_place
def test_of_a_disk_that_hangs_only_so_many_jobs_are_waited_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, held_back: HeldBack
) -> None:
    monkeypatch.setattr(vessages, "JOBS_MAX", 1)
    first = held_back.begin(rig, f"REGISTER alice {PASSWORD}", at=(storage.Store, "find"))
    second = rig.connect().say(f"REGISTER bob {PASSWORD}")
    rig.turns(3)
    assert rig.connect().says(f"REGISTER carol {PASSWORD}")[0].startswith("ERROR storage ")
    monkeypatch.undo()
    held_back.let_go()
    assert first.next() + second.next() == ["OK REGISTER alice", "OK REGISTER bob"]


def test_many_at_once_are_all_answered(rig: Rig) -> None:
    rig.connect().says(*[f"REGISTER p{number} {PASSWORD}" for number in range(40)])
    crowd = [rig.connect().say(f"LOGIN p{number} {PASSWORD}") for number in range(40)]
    for number, person in enumerate(crowd):
        assert person.next() == [f"OK LOGIN p{number}"]


SLOW_WORK = [
    (storage.Store, "find", f"REGISTER zoe {PASSWORD}"), (storage.Store, "add", f"REGISTER zoe {PASSWORD}"),
    (storage.Store, "record_login", f"LOGIN bob {PASSWORD}"), (storage.Store, "transaction", f"LOGIN bob {PASSWORD}"),
    (storage.Store, "find_token", "RESUME token 0"), (storage, "hash_password", f"REGISTER zoe {PASSWORD}"),
    (storage, "check_password", f"LOGIN bob {PASSWORD}"),
]  # fmt: skip


@in_one_place
@pytest.mark.parametrize("failure", [full, fault])
@pytest.mark.parametrize(("where", "method", "command"), SLOW_WORK)
def test_slow_work_that_fails_is_told_and_the_chat_goes_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, where: Any, method: str, command: str, failure: Any
) -> None:
    alice, carol = rig.people("alice", "carol")
    rig.connect().says(f"REGISTER bob {PASSWORD}")
    rig.wait(2)
    monkeypatch.setattr(where, method, failure)
    peer = rig.connect()
    assert [answer.split(" ")[:2] for answer in peer.says(*[command] * 3)] == [["ERROR", "storage"]] * 3
    assert alice.says("SEND carol hi") == []
    assert [message[-3:] for message in carol.hears()] == [" hi"]
    assert any("the disk is full" in line or "RuntimeError: planted" in line for line in rig.said)
    monkeypatch.undo()
    assert peer.says(command)[0].startswith(("OK", "ERROR unknown-session"))


@in_one_place
def test_an_internal_error_in_one_job_of_the_disk_fails_no_other(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    add = storage.Store.add

    def add_all_but_eve(store: storage.Store, username: str, *rest: Any) -> bool:
        return fault() if username == "eve" else add(store, username, *rest)

    monkeypatch.setattr(storage.Store, "add", add_all_but_eve)
    names = ("alice", "eve", "bob", "carol")
    results = rig.server.workers.perform([protocol.DiskJob("add", name, name, "no hash", 0.0) for name in names])
    assert [type(result) for result in results] == [bool, protocol.StorageFailedError, bool, bool]
    assert [name for name in names if rig.store.find(name)] == ["alice", "bob", "carol"]


CHANGES = {"set_password": f"PASSWD {PASSWORD}\nanother one", "record_logout": "LOGOUT"}


@in_one_place
@pytest.mark.parametrize(("method", "command"), CHANGES.items())
def test_a_failing_disk_logs_nobody_out(rig: Rig, monkeypatch: pytest.MonkeyPatch, method: str, command: str) -> None:
    alice = rig.person("alice")
    rig.wait(2)
    monkeypatch.setattr(storage.Store, method, full)
    assert alice.says(command)[0].startswith("ERROR storage ")
    monkeypatch.undo()
    assert alice.says("WHO", command) == ["OK WHO alice", "OK " + command.split(" ")[0]]


@in_one_place
def test_a_status_that_could_not_be_saved_is_saved_later(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = rig.people("alice", "bob")
    rig.wait(2)
    monkeypatch.setattr(storage.Store, "record_statuses", full)
    bob.close()
    assert alice.sees("alice")
    rig.wait(3)
    monkeypatch.undo()
    for _ in range(100):  # the disk's thread needs real time, of which it gets little on a busy machine
        rig.wait(1)
        alice.hears()
        if rig.statuses()["bob"] == "offline":
            break
    assert rig.statuses() == {"alice": "online", "bob": "offline"}


@in_one_place
def test_a_higher_cost_reaches_the_disk_with_the_next_login(rig: Rig) -> None:
    rig.person("alice")
    rig.cost = storage.Cost(2, 1, 1)
    rig.restart()
    alice = rig.person("alice")
    account = rig.store.find("alice")
    assert account is not None
    assert account.password.startswith("scrypt$2$1$1$")
    assert alice.says("LOGOUT", f"LOGIN alice {PASSWORD}")[1].startswith("OK LOGIN alice")


@pytest.mark.parametrize("kept", [False, True])
def test_a_login_that_the_stop_overtakes_leaves_nobody_online(rig: Rig, held_back: HeldBack, kept: bool) -> None:
    rig.connect().says(f"REGISTER alice {PASSWORD}")
    alice = held_back.begin(rig, *["KEEP"] * kept, f"LOGIN alice {PASSWORD}", at=RECORD)
    rig.server.stop()
    rig.turns(2)
    held_back.let_go()
    rig.stop()
    assert alice.ends()[-2:] == ["BYE shutdown", END]
    assert rig.statuses() == {"alice": "offline"}


def test_a_stop_does_not_wait_for_passwords(rig: Rig, held_back: HeldBack) -> None:
    rig.connect().says(f"REGISTER alice {PASSWORD}")
    alice = held_back.begin(rig, f"LOGIN alice {PASSWORD}")
    rig.server.stop()
    rig.turns(2)
    assert alice.ends() == ["BYE shutdown", END]
    held_back.let_go()
    rig.stop()
    assert rig.statuses() == {"alice": "offline"}
