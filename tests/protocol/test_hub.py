"""The server's behaviour, told as dialogues in the order of the protocol: commands, plain sessions, limits, time."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from vocabulary import END, PASSWORD, STAMP, WALL, Disk, Person, StoredAccount, World

import protocol
from protocol import encode, frame

WRONG = "ERROR bad-login wrong name or password"

# --- Frames and words ---


def test_a_command_without_its_argument_is_no_wrong_password(world: World) -> None:
    world.person("alice").leave()
    stranger = world.connect()
    for verb in ("LOGIN", "TAKEOVER", "REGISTER", "RESUME"):
        for arguments in ("", " alice", " alice ", "  alice", f"  alice {PASSWORD}", "  "):
            assert stranger.says(verb + arguments)[0].startswith(f"ERROR bad-command {verb} <")
    assert stranger.says(f"LOGIN alice {PASSWORD}")[0] == f"OK LOGIN alice last={STAMP}"  # no failed=
    for arguments in ("", " ", f" {PASSWORD}", f" {PASSWORD}\n", " \nnew password"):
        assert stranger.says("PASSWD" + arguments)[0].startswith("ERROR bad-command PASSWD <")
    assert stranger.says(f"PASSWD {PASSWORD}\nnew password") == ["OK PASSWD"]


# --- Accounts ---


def change_password(disk: Disk) -> None:
    """As `storage.py passwd` does it."""
    disk.accounts["alice"].password, disk.accounts["alice"].token = "hash:another password", None


def replace_account(disk: Disk) -> None:
    """`storage.py remove`, and somebody else registers the name."""
    disk.accounts["alice"] = StoredAccount("alice", "alice", "hash:somebody else's")


def remove_account(disk: Disk) -> None:
    """As `storage.py remove` does it."""
    del disk.accounts["alice"]


OPERATORS = [change_password, remove_account, replace_account]


@pytest.mark.parametrize("operate", OPERATORS)
@pytest.mark.parametrize("verb", ["LOGIN", "TAKEOVER"])
@pytest.mark.parametrize("kept", [False, True])
def test_a_login_under_way_is_refused_when_the_operator_has_changed_the_account(
    operate: Callable[[Disk], None], verb: str, kept: bool
) -> None:
    world = World()
    bob = world.person("bob")
    world.person("alice", kept=True).says("LOGOUT")
    alice = world.connect().say(*["KEEP"] * kept)
    alice.hears()
    with world.changed_before("log_in", operate):
        alice.say(f"{verb} alice {PASSWORD}")
    assert alice.hears() == [WRONG]
    assert not world.hub._statuses._claims
    assert bob.says("WHO")[-1] == "OK WHO bob"
    assert [account.token for account in world.disk.accounts.values()] == [None] * len(world.disk.accounts)
    if operate is not remove_account:
        assert world.disk.accounts["alice"].failures == 1
        password = world.disk.accounts["alice"].password.removeprefix("hash:")
        assert alice.says(f"LOGIN alice {password}")[0].startswith("OK LOGIN alice")


def test_a_new_hash_of_the_same_password_refuses_no_login(world: World) -> None:
    """As two logins at once after the cost of a check was changed: one of them finds the other's hash."""
    world.person("alice").leave()
    alice = world.connect()
    check, account = world.disk.check_password, world.disk.accounts["alice"]
    world.disk.check_password = (  # type: ignore[method-assign]
        lambda password, stored: (stored == "new hash" or check(password, stored)[0], None)
    )
    with world.changed_before("log_in", lambda disk: setattr(account, "password", "new hash")):
        alice.say(f"LOGIN alice {PASSWORD}")
    assert alice.hears()[0].startswith("OK LOGIN alice")
    assert account.password == "new hash"


@pytest.mark.parametrize("operate", OPERATORS)
def test_passwd_does_not_undo_what_the_operator_did_meanwhile(world: World, operate: Callable[[Disk], None]) -> None:
    alice = world.person("alice")
    with world.changed_before("change_password", operate):
        alice.say(f"PASSWD {PASSWORD}\nnew password")
    assert alice.hears() == [WRONG]
    assert "hash:new password" not in [account.password for account in world.disk.accounts.values()]


@pytest.mark.parametrize("operate", OPERATORS)
def test_a_token_that_the_operator_ends_while_it_is_looked_up_leads_nowhere(operate: Callable[[Disk], None]) -> None:
    before = World()
    before.person("alice", kept=True)
    before.disk.accounts["alice"].status = "offline"
    world = before.restart()
    with world.changed_before("record_statuses", operate):
        alice = world.resume("token1", 0)
    assert alice.hears()[0].startswith("ERROR unknown-session")
    assert not world.hub.sessions
    world.wait(2)
    assert {account.status for account in world.disk.accounts.values()} <= {"offline"}


def test_secrets_are_in_no_repr_and_no_note(world: World) -> None:
    world.working = False
    world.connect().say(f"REGISTER alice {PASSWORD}")
    shown = []
    while world.hub.jobs:
        shown.append(repr(world.do_next_job()))
    assert shown == ["<DiskJob find>", "<HashJob hash_password>", "<DiskJob add>"]
    assert not [note for note in world.hub.notes if PASSWORD in note]
    assert repr(protocol.Account("Alice", "alice", PASSWORD, "online", None, 0)) == "<Account 'Alice' online>"


# --- One session a name ---


def test_a_coarse_clock_makes_nobody_a_ghost(world: World) -> None:
    alice = world.person("alice")
    other = world.connect()
    for after, happens in (
        (1.0, lambda: world.hub.feed(alice.connection, frame(b"PING"))),
        (0.0, lambda: world.hub._probe(alice.connection)),  # a clock that stands still for 15 ms, as on Windows
        (0.0, lambda: world.hub.feed(alice.connection, frame(b"ACK 0"))),
    ):
        world.begin_turn(after)
        happens()
        world.tick()
    alice.lively = False
    world.wait(protocol.PROBE_AFTER + 1)
    assert not alice.ended
    assert other.says("PING") == ["OK PING"]


@pytest.mark.parametrize("command", ["REGISTER bob", "LOGIN alice", "TAKEOVER alice"])
def test_of_two_who_want_one_name_at_once_one_has_it(world: World, command: str) -> None:
    world.person("alice").leave()
    two = [world.connect(), world.connect("10.0.0.2")]
    world.working = False
    for each, spelled in zip(two, (command, command.upper()), strict=True):
        each.say(f"{spelled} {PASSWORD}")
    world.working = True
    answers = [each.hears()[0] for each in two]
    assert sorted(answer.split(" ")[0] for answer in answers) == ["ERROR", "OK"]
    assert len(world.hub.sessions) == (0 if "REGISTER" in command else 1)


# --- Messages and presence ---


def test_changes_within_the_pause_are_told_together_as_they_are_then(world: World) -> None:
    people = world.people(*(f"user{i}" for i in range(40)))
    people[1].leave()  # told at once
    people[2].leave()  # within the pause
    people[3].leave()
    world.person("user2")
    world.wait(1)
    assert people[0].news()[-2:] == ["PRESENCE -user1", "PRESENCE +user2 -user3"]


def test_a_roster_between_two_changes_that_cancel_each_other_misleads_nobody(world: World) -> None:
    people = world.people(*(f"user{i}" for i in range(40)))
    people[1].leave()  # told at once
    people[2].leave()  # within the pause
    late = world.person("late")
    assert late.says("PING") == ["OK PING"]  # its roster had no user2
    world.person("user2")
    world.wait(1)
    assert "+user2" in late.news()[-1]


def test_a_broadcast_is_spread_over_turns(world: World) -> None:
    people = world.people(*(f"user{i}" for i in range(protocol.PRESENCE_SLICE + 50)))
    world.hub.disconnect(people[-1].connection)
    world.begin_turn(after=1.0)
    world.tick()
    assert 0 < len(world.hub.ready) <= protocol.PRESENCE_SLICE
    assert world.hub.next_deadline() is not None
    world.wait(2)
    assert all(person.news()[-1] == "PRESENCE -user149" for person in people[:-1])


# --- Bounds ---


def test_a_stuck_reader_makes_his_senders_busy_by_the_number_of_frames_too(world: World) -> None:
    alice, bob = world.people("alice", "bob")
    bob.reading = False
    alice.say("SEND bob first")
    answers: list[str] = []
    for number in range(protocol.QUEUE_FRAMES + 5):
        answers += alice.says(f"#{number + 1} SEND bob hi")
    assert answers[0] == "#1 OK SEND"
    assert answers[-1].startswith(f"#{protocol.QUEUE_FRAMES + 5} ERROR busy ")
    assert sum("busy" in answer for answer in answers) == 6


def test_a_stuck_reader_is_not_read_from(world: World) -> None:
    alice = world.person("alice")
    alice.reading = False
    assert alice.connection.wants_reading
    alice.say("PING " + "x" * 65_000, "PING x")
    alice.say("PING " + "x" * 1_000)
    assert not alice.connection.wants_reading


def test_one_turn_takes_only_a_share_of_what_one_connection_says(world: World) -> None:
    alice = world.person("alice")
    world.hub.feed(alice.connection, frame(b"PING") * 1000)
    assert len(alice.connection.outbox or ()) == protocol.FRAMES_A_TURN
    assert not alice.connection.wants_reading
    assert alice.hears() == ["OK PING"] * 1000
    assert alice.connection.wants_reading


def test_people_who_flood_the_server_make_no_turn_long_and_each_of_them_is_heard(world: World) -> None:
    people = [world.person(f"p{number}") for number in range(100)]
    for person in people:
        world.hub.feed(person.connection, encode("PING") * 200)
    world.by_one_turn()
    for _ in range(5):
        before = [connection.decoder.buffered for connection in world.everybody]
        world.by_one_turn()
        read = [(had - connection.decoder.buffered) // len(encode("PING"))
                for had, connection in zip(before, world.everybody, strict=True)]  # fmt: skip
        assert min(read) > 0
        assert sum(read) <= protocol.FRAMES_OF_ALL
    for person in people:
        assert [line for line in person.hears() if line == "OK PING"] == ["OK PING"] * 200


@pytest.mark.parametrize("words", ["LOGIN p{} {}", "TAKEOVER p{} {}", "REGISTER new{} {}", "PASSWD {}\n{}"])
def test_a_password_is_made_clean_only_when_it_has_a_slot(
    world: World, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    """That may take a millisecond, and hundreds may say one in the same turn."""
    password = "a" + "\u0316\u0301" * 200
    cleaned: list[str] = []

    def note_and_clean(text: str) -> str:
        cleaned.append(text)
        return text

    monkeypatch.setattr(protocol, "clean_password", note_and_clean)
    people = [world.person(f"p{number}") if "PASSWD" in words else world.connect() for number in range(20)]
    cleaned.clear()
    world.working = False
    for number, person in enumerate(people):
        world.hub.feed(person.connection, encode(words.format(number, password)))
        world.by_one_turn()
    while any(job.method == "find" for job in world.hub.jobs) and words.startswith("REGISTER"):
        world.do_next_job()
    assert len(cleaned) <= protocol.CHECKS_AT_ONCE


@pytest.mark.parametrize(("name", "password"), [
    ("bob", "seven77"), ("bob", "ééééééé"), ("passwords", "Passwords"), ("Ångström", "\u212bngström"),
])  # fmt: skip
def test_what_may_be_no_password_is_refused_in_whatever_letters(world: World, name: str, password: str) -> None:
    assert world.connect().says(f"REGISTER {name} {password}")[0].startswith("ERROR bad-password ")
    assert world.person(name).says(f"PASSWD {PASSWORD}\n{password}")[0].startswith("ERROR bad-password ")


def test_one_address_cannot_come_in_too_often(world: World) -> None:
    for _ in range(protocol.NEWCOMERS):
        world.connect("10.0.0.5").leave()
    assert world.connect("10.0.0.5").ends() == ["BYE full", END]
    assert world.connect("127.0.0.1").hears() == []
    world.wait(1)
    assert world.connect("10.0.0.5").hears() == []


def test_all_that_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HELD_IN_ALL_MAX", 1000)
    monkeypatch.setattr(protocol, "HELD_LITTLE", 200)
    world = World()
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    world.person("carol", kept=True).leave()
    alice.says("SEND bob " + "x" * 900)
    assert alice.says("SEND carol " + "x" * 100) == []  # who holds little is not silenced by those who hold much
    assert alice.says("SEND carol " + "x" * 100)[0].startswith("#0 ERROR busy")
    bob.say("ACK 1")
    assert alice.says("SEND carol " + "x" * 500) == []
    world.wait(60 + protocol.WALK_PAUSE)  # carol does not come back
    assert world.hub._post.held_bytes == 0


def test_those_who_fill_the_memory_with_their_own_answers_are_ended_and_others_have_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, limit in {"HELD_IN_ALL_MAX": 4000, "HELD_CROWDED": 2000, "HELD_BYTES_CROWDED": 600}.items():
        monkeypatch.setattr(protocol, name, limit)
    world = World()
    alice = world.person("alice")
    bob, _, eve, mallory = (world.person(name, kept=True) for name in ("bob", "carol", "eve", "mallory"))
    alice.say("SEND bob " + "x" * 300, "SEND carol " + "x" * 300)
    for each in (eve, mallory):
        for _ in range(3):
            each.say("PING " + "x" * 400)
    eve.leave()
    world.wait(protocol.WALK_PAUSE)
    assert mallory.ends()[-2:] == ["BYE slow", END]
    assert world.hub.sessions.keys() == {"alice", "bob", "carol"}
    assert not any("busy" in answer for answer in alice.says("SEND bob " + "x" * 300))
    assert bob.says("PING")[-1].endswith("OK PING")
    assert world.resume(mallory.token, 0).hears()[0] == "OK RESUME mallory 0 0"


@pytest.mark.parametrize("to", ["bob", "bob,carol", "*"])
def test_what_is_held_takes_no_more_memory_than_it_counts(world: World, to: str) -> None:
    alice = world.person("alice")
    for name in ("bob", "carol"):
        world.person(name, kept=True)
    alice.say(f"SEND {to} \N{PARTY POPPER}" + "x" * 50_000)  # as a text: four bytes for each letter
    held = world.hub.sessions["bob"].held
    assert held is not None
    assert [sys.getsizeof(text) - 100 < size for text, size, _, _ in held.frames] == [True]


def test_the_figures_add_up(world: World) -> None:
    alice, bob = world.people("alice", "bob", kept=True)
    alice.say("SEND bob hi")
    bob.leave()
    written = world.hub.frames
    assert alice.says("PING") == ["@1 OK PING"]
    figures = world.hub.figures()
    assert (figures["connections"], figures["online"], figures["lost"]) == (1, 1, 1)
    assert figures["frames written"] == written + 1


def test_only_a_connection_with_unread_bytes_has_a_decoder() -> None:
    alice, bob = World().people("alice", "bob")
    for person in (alice, bob):
        person.say_bytes(frame(b"PING one") + frame(b"PING two")[:7])
        assert person.hears() == ["OK PING one"]
    assert alice.connection.decoder is not bob.connection.decoder
    for person in (bob, alice):
        person.say_bytes(frame(b"PING two")[7:])
        assert person.hears() == ["OK PING two"]
        assert person.connection.decoder is protocol.EMPTY


# --- Time ---


def test_an_answer_to_ping_postpones_the_next_one(world: World) -> None:
    alice = world.person("alice")
    alice.lively = False
    for _ in range(5):
        world.wait(19)
        assert alice.hears() == []
        world.wait(1)
        assert alice.hears() == ["PING"]
        assert alice.says("ACK 0") == []


def test_a_crowd_that_is_due_at_once_is_looked_at_over_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LOOKS_A_TURN", 3)
    world = World()
    crowd = [world.connect() for _ in range(10)]
    for stranger in crowd:
        stranger.lively = False
    world.wait(19)
    world.begin_turn(after=1 + protocol.WALK_PAUSE)
    world.tick()
    assert len(world.hub.ready) == 3
    world.wait(0)
    assert [stranger.hears() for stranger in crowd] == [["PING"]] * 10


def test_slow_turns_keep_nobody_of_a_crowd_from_being_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LOOKS_A_TURN", 3)
    world = World()
    crowd = [world.connect() for _ in range(10)]
    for stranger in crowd:
        stranger.lively = False
    for _ in range(60):  # each turn takes longer than the pause between two walks
        world.begin_turn(after=protocol.WALK_PAUSE + 0.1)
        world.tick()
    world.turn()
    assert [stranger.ends() for stranger in crowd] == [["PING", "BYE silent", END]] * 10


def test_bytes_taken_for_a_closed_connection_leave_nothing_behind(world: World) -> None:
    alice = world.person("alice")
    hub, connection = world.hub, alice.connection
    hub.feed(connection, frame(b"PING"))
    hub.take(connection)
    hub.sent(connection, 5)
    assert connection.rare.clog is not None
    hub.disconnect(connection)
    hub.sent(connection, 4)
    assert connection.rare.clog is None


@pytest.mark.parametrize(("step", "arrives"), [(protocol.HALF_FRAME_STEP, True), (protocol.HALF_FRAME_STEP - 1, False)])
def test_a_long_frame_over_a_slow_link_may_take_minutes_as_long_as_it_grows(
    world: World, step: int, arrives: bool
) -> None:
    alice, bob = world.people("alice", "bob")
    alice.lively = False
    rest = frame(b"SEND bob " + b"x" * 40_000)
    while rest and not alice.ended:
        world.hub.feed(alice.connection, rest[:step])
        rest = rest[step:]
        world.wait(29)
    assert [len(message) > 40_000 for message in bob.hears() if message.startswith("MSG ")] == [True] * arrives
    assert ("BYE silent" in alice.hears()) is not arrives


def test_a_suspended_server_reads_before_it_expires_anybody(world: World) -> None:
    alice = world.person("alice")
    world.hub.next_deadline()
    world.begin_turn(after=3600)  # the lid was closed
    assert alice.says("PING") == ["OK PING"]
    world.wait(30)
    assert not alice.ended


@pytest.mark.parametrize(("seconds", "answer"), [
    (0.0, "OK RESUME bob 0 0"),  # the wait that a suspension interrupts returns without the RESUME that waits
    (1.9, "OK RESUME bob 0 0"),
    (2.1 + protocol.WALK_PAUSE, "OK RESUME bob 0 7"),  # it is a new one
])  # fmt: skip
def test_a_lost_session_has_as_much_time_after_a_suspension_as_before(seconds: float, answer: str) -> None:
    world = World(grace=4)
    alice, bob = world.people("alice", "bob", kept=True)
    bob.leave()
    alice.says("#1 SEND bob hi")
    world.wait(2)
    world.begin_turn(after=300)
    world.tick()
    world.wait(seconds)
    assert world.resume(bob.token, int(answer[-1])).hears()[0] == answer


@pytest.mark.parametrize(("seconds", "noted"), [
    (-protocol.CLOCK_STEP + 1, False), (0, False), (protocol.CLOCK_STEP - 1, False),  # put right by little, often
    (-protocol.CLOCK_STEP - 1, True), (10 * 365 * 86400, True), (-WALL, True),
])  # fmt: skip
def test_only_a_clock_that_is_set_by_much_costs_a_commit(world: World, seconds: float, noted: bool) -> None:
    alice = world.person("alice")
    for _ in range(1 if noted else 10):
        world.wall += seconds
        world.wait(60)
        assert alice.says("PING") == ["OK PING"]  # nothing is over by that
    assert world.disk.clock_steps == [pytest.approx(WALL, abs=1)] * noted


def test_a_suspension_is_no_step_of_the_clock(world: World) -> None:
    world.person("alice")
    world.wall += 3600
    world.begin_turn(after=3600)
    assert world.disk.clock_steps == []


# --- Passwords cost the attacker ---


def test_guessing_is_slowed_but_only_from_there(world: World) -> None:
    world.person("alice").leave()
    guesser = world.connect("10.6.6.6")
    codes = [guesser.says(f"LOGIN alice guess{n}")[0].split(" ")[1] for n in range(5)]
    assert codes == ["bad-login"] * 3 + ["throttled"] * 2
    assert guesser.says(f"LOGIN alice {PASSWORD}")[0].startswith("ERROR throttled 1 ")
    assert world.connect("10.0.0.1").says(f"LOGIN alice {PASSWORD}")[0].startswith("OK LOGIN")


def test_a_class_behind_one_address_gets_in_although_each_of_them_slips_once(world: World) -> None:
    names = [f"pupil{number}" for number in range(30)]
    for name in names:
        world.person(name).leave()
    world = world.restart()
    began = world.now
    waiting = {name: world.connect("10.7.7.7") for name in names}
    slipped: set[str] = set()
    while waiting:
        for name, pupil in list(waiting.items()):
            password = PASSWORD if name in slipped else "a slip"
            code = pupil.says(f"LOGIN {name} {password}")[0].split(" ")
            if code[0] == "OK":
                del waiting[name]
            elif code[1] == "bad-login":
                slipped.add(name)
        world.wait(10 / 30)
    assert world.now - began < 15


def test_slips_that_were_put_right_are_not_counted_at_their_address(world: World) -> None:
    world.person("alice").leave()
    alice = world.connect("10.7.7.7")
    for _ in range(25):
        assert alice.says("LOGIN alice a slip")[0].startswith("ERROR bad-login")
        world.wait(1)
        assert alice.says(f"LOGIN alice {PASSWORD}", "LOGOUT")[0].startswith("OK LOGIN")
        world.wait(9)
    assert world.connect("10.7.7.7").says("LOGIN bob a slip")[0].startswith("ERROR bad-login")


@pytest.mark.parametrize("known_by", ["LOGIN", "RESUME", "REGISTER"])
def test_somebody_who_guesses_does_not_keep_out_who_has_been_in_from_there(world: World, known_by: str) -> None:
    alice = world.person("alice", kept=True, address="10.7.7.7")
    if known_by == "RESUME":
        world = world.restart()
        alice = world.connect("10.7.7.7").say("RESUME token1 0")
    elif known_by == "REGISTER":
        world.connect("10.7.7.7").say("REGISTER carol longenough")
    alice.say("LOGOUT")
    guesser = world.connect("10.7.7.7")
    for number in range(200):
        answer = guesser.says(f"LOGIN user{number} guess")[0].split(" ")
        if answer[1] == "throttled":
            world.wait(int(answer[2]))
            guesser = world.connect("10.7.7.7").say(f"LOGIN user{number} guess")
    assert guesser.says("LOGIN alix guess")[0].startswith("ERROR throttled")
    name, password = ("carol", "longenough") if known_by == "REGISTER" else ("alice", PASSWORD)
    assert world.connect("10.7.7.7").says(f"LOGIN {name} {password}")[0].startswith("OK LOGIN")


def test_a_failure_subjects_one_to_the_wait_of_his_address_again(world: World) -> None:
    world.person("alice", address="10.7.7.7").leave()
    guesser = world.connect("10.7.7.7")
    for number in range(21):
        guesser.say(f"LOGIN user{number} guess")
    assert guesser.says("LOGIN alice a slip")[0].startswith("ERROR bad-login")
    assert guesser.says(f"LOGIN alice {PASSWORD}")[0].startswith("ERROR throttled")


@pytest.mark.parametrize(
    ("address", "network"),
    [("10.0.0.1", None), ("::ffff:10.0.0.1", None), ("2001:db8:1:2:3:4:5:6", 0x20010DB800010002), ("no address:", None)]
    + [("2001:db8:1:2::", 0x20010DB800010002), ("fe80::1%eth0", 0xFE80 << 48), ("fe80::2%7", 0xFE80 << 48)],
)
def test_the_network_of_an_address(address: str, network: int | None) -> None:
    assert protocol.network_of(address) == network


def test_many_addresses_of_one_network_guess_no_faster(world: World) -> None:
    world.person("alice", address="2001:db8:1:2::1").leave()
    codes = [world.connect(f"2001:db8:1:2::{n:x}").says("LOGIN alice guess")[0].split(" ")[1] for n in range(2, 62)]
    assert codes == ["bad-login"] * 3 * protocol.WIDER + ["throttled"] * (60 - 3 * protocol.WIDER)
    assert world.connect("2001:db8:1:3::1").says("LOGIN alice guess")[0].startswith("ERROR bad-login")
    known = world.connect("2001:db8:1:2::1")  # who has been in from there
    assert known.says(f"LOGIN alice {PASSWORD}")[0].startswith("OK LOGIN")


def test_one_who_guesses_does_not_hold_up_his_network(world: World) -> None:
    world.person("alice").leave()
    guesser = world.connect("fe80::6")
    for _ in range(100):
        answer = guesser.says("LOGIN alice guess")[0].split(" ")
        if answer[1] == "throttled":
            world.wait(int(answer[2]))
            guesser = world.connect("fe80::6")
    assert world.connect("fe80::7").says(f"LOGIN alice {PASSWORD}")[0].startswith("OK LOGIN")


def test_a_success_takes_no_more_off_the_network_than_was_counted_there() -> None:
    gate = protocol.Gate(60)
    for number in range(50):
        gate.fail(f"user{number}", f"fe80::{number:x}", 0.0)
    for second in range(30):
        gate.fail("mallory", "fe80::ffff", second)
    gate.succeed("mallory", "fe80::ffff")
    assert gate._networks.guessers._failures[0xFE80 << 48][0] >= 50
    assert not gate._addresses.guessers._failures.get("fe80::ffff")


def test_a_network_may_register_and_connect_more_than_an_address_but_not_without_end() -> None:
    world = World(registrations=2)
    for host in range(protocol.WIDER):
        person = world.connect(f"2001:db8::{host:x}")
        answers = [person.says(f"REGISTER user{host}.{number} longenough")[0] for number in range(9)]
        assert [answer.split(" ")[0] for answer in answers] == ["OK"] * 2 + ["ERROR"] * 7
    assert world.connect("2001:db8::99").says("REGISTER onemore longenough")[0].startswith("ERROR too-many 2 ")
    assert world.connect("2001:db8:0:1::99").says("REGISTER onemore longenough") == ["OK REGISTER onemore"]


@pytest.mark.parametrize(("addresses", "most"), [
    (["10.0.0.5"] * 3, 2), ([f"2001:db8::{number:x}" for number in range(50)], 2 * protocol.WIDER),
])  # fmt: skip
def test_an_address_and_a_network_have_a_bounded_number_of_connections(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str], most: int
) -> None:
    monkeypatch.setattr(protocol, "CONNECTIONS_AN_ADDRESS", 2)
    world = World()
    people = [world.connect(address) for address in addresses[: most + 1]]
    assert [person.hears() for person in people] == [[]] * most + [["BYE full", END]]
    people[0].leave()
    assert world.connect(addresses[-1]).hears() == []
    for address in ("::1", "127.0.0.1"):
        assert [world.connect(address).hears() for _ in range(20)] == [[]] * 20


def test_the_waits_grow_and_end(world: World) -> None:
    guesser = world.connect("10.6.6.6")
    waits = []
    for _ in range(12):
        answer = guesser.says("LOGIN alice guess")[0].split(" ")
        if answer[1] == "throttled":
            waits.append(int(answer[2]))
            world.wait(waits[-1])
            assert guesser.says("LOGIN alice guess")[0].startswith("ERROR bad-login")
    assert waits[:4] == [1, 2, 4, 8]
    assert max(waits) <= 60


def test_many_guesses_at_once_are_not_all_tried(world: World) -> None:
    world.working = False
    guessers = [world.connect("10.6.6.6") for _ in range(50)]
    for guesser in guessers:
        guesser.say("LOGIN alice guess")
    world.working = True
    codes = [guesser.hears()[0].split(" ")[1] for guesser in guessers]
    assert codes.count("bad-login") <= 3 + protocol.CHECKS_AT_ONCE
    assert set(codes) == {"bad-login", "throttled"}


def hashed_before_the_answer(world: World, person: Person, answer: str) -> int:
    """How many passwords were hashed before somebody, who waits, was told this."""
    hashed = 0
    while not (heard := person.hears()):
        hashed += isinstance(world.do_next_job(), protocol.HashJob)
    assert heard == [answer]
    return hashed


def test_addresses_take_turns_at_the_hashing_thread(world: World) -> None:
    world.working = False
    for number in range(30):
        world.connect("10.6.6.6").say(f"REGISTER user{number} longenough")
    honest = world.connect("10.0.0.1").say("REGISTER bob longenough")
    assert hashed_before_the_answer(world, honest, "OK REGISTER bob") <= protocol.CHECKS_AT_ONCE + 2


def test_the_queue_of_checks_is_bounded(world: World) -> None:
    world.working = False
    people = [world.connect("127.0.0.1") for _ in range(protocol.CHECKS_AN_ADDRESS + 10)]
    for number, person in enumerate(people):
        person.say(f"LOGIN user{number} whatever")
    refused = [answer for person in people for answer in person.hears()]
    assert len(refused) == 10 - protocol.CHECKS_AT_ONCE
    assert all(answer.startswith("ERROR busy ") and answer.split(" ")[2].isdecimal() for answer in refused)


@pytest.mark.parametrize("addresses", [
    [f"10.6.6.{number}" for number in range(5)],
    [f"2001:db8::{number:x}" for number in range(1, protocol.CHECKS_MAX)],  # one machine can have them all
])  # fmt: skip
def test_a_queue_of_checks_that_a_few_have_filled_has_a_place_for_others(world: World, addresses: list[str]) -> None:
    world.working = False
    few = [world.connect(addresses[number % len(addresses)]) for number in range(protocol.CHECKS_MAX + 10)]
    for number, guesser in enumerate(few):
        guesser.say(f"LOGIN user{number} whatever")
    honest = world.connect("10.0.0.1").say("LOGIN alice whatever")
    assert len(world.hub._checks) == protocol.CHECKS_MAX + protocol.CHECKS_AT_ONCE
    refused = [answer for guesser in few for answer in guesser.hears()]
    assert len(refused) == 10 + 1 - protocol.CHECKS_AT_ONCE
    assert all(answer.startswith("ERROR busy ") for answer in refused)
    assert hashed_before_the_answer(world, honest, WRONG) <= protocol.CHECKS_AT_ONCE + 5 + 1


def test_strangers_who_flood_the_server_make_no_turn_long_and_each_of_them_is_heard(world: World) -> None:
    strangers = [world.connect(f"10.6.{number % 9}.{number % 7}") for number in range(300)]
    world.begin_turn()
    for stranger in strangers:
        world.hub.feed(stranger.connection, encode("PING") * 50)
    world.tick()
    assert 0 < len(world.hub.ready) <= 2 * protocol.STRANGERS_A_TURN  # those read at once, and those who waited
    world.turn()
    assert all(stranger.hears() == ["OK PING"] * 50 for stranger in strangers)


def test_newcomers_do_not_overtake_a_stranger_who_waits(world: World) -> None:
    crowd = [world.connect() for _ in range(2 * protocol.STRANGERS_A_TURN)]
    for stranger in crowd:
        world.hub.feed(stranger.connection, encode("PING"))
    honest = crowd[-1]
    for _ in range(2):  # turns
        world.begin_turn(after=1.0)
        for _ in range(2 * protocol.STRANGERS_A_TURN):
            world.hub.feed(world.hub.connect("10.6.6.6"), encode("PING"))
        world.tick()
    assert honest.connection in world.hub.ready


def test_one_address_of_a_network_delays_its_neighbours_no_more_than_others(world: World) -> None:
    world.working = False
    for number in range(protocol.CHECKS_AN_ADDRESS):
        world.connect("fe80::6%2").say(f"LOGIN user{number} whatever")
    neighbour = world.connect("fe80::7%2").say("LOGIN alice whatever")
    assert hashed_before_the_answer(world, neighbour, WRONG) <= protocol.CHECKS_AT_ONCE + 2


def test_registrations_from_one_address_are_limited_but_a_class_gets_in(world: World) -> None:
    person = world.connect("10.0.0.7")
    answers = [person.says(f"REGISTER user{n} longenough")[0] for n in range(protocol.REGISTRATIONS + 1)]
    assert answers[:-1] == [f"OK REGISTER user{n}" for n in range(protocol.REGISTRATIONS)]
    assert answers[-1].startswith("ERROR too-many 10 ")
    assert world.connect("10.0.0.8").says("REGISTER another longenough") == ["OK REGISTER another"]
    world.wait(10)
    assert person.says("REGISTER onemore longenough") == ["OK REGISTER onemore"]


# --- Refusals in the log ---


def refusals(world: World) -> list[str]:
    """The lines about refusals since the last time."""
    notes = [note for note in world.hub.notes if note.startswith("refused: ")]
    world.hub.notes.clear()
    return notes


def test_a_full_server_says_so_once_and_then_once_a_minute() -> None:
    world = World(connections_max=2)
    world.people("alice", "bob")
    for number in range(34):
        assert world.connect(f"10.0.1.{number}").ended
    assert refusals(world) == ["refused: 1, the last from 10.0.1.0: the server is full"]
    world.wait(protocol.Refusals.PAUSE - 1)
    assert refusals(world) == []
    world.wait(2)
    assert refusals(world) == ["refused: 33, the last from 10.0.1.33: the server is full"]
    world.wait(10)
    world.connect("10.0.2.1")
    assert refusals(world) == []
    world.hub.shutdown()
    assert refusals(world) == ["refused: 1, the last from 10.0.2.1: the server is full"]


def test_after_a_quiet_minute_a_refusal_is_told_at_once_again() -> None:
    world = World(connections_max=1)
    world.person("alice")
    for _ in range(2):
        world.connect()
        assert len(refusals(world)) == 1
        world.wait(protocol.Refusals.PAUSE + 1)
        assert refusals(world) == []


def test_each_kind_of_refusal_has_its_own_line() -> None:
    world = World(registration=False)
    stranger = world.connect()
    stranger.says(f"REGISTER alice {PASSWORD}", f"REGISTER bob {PASSWORD}")
    assert refusals(world) == ["refused: 1, the last from 10.0.0.1: new accounts are closed"]
    world = World(registrations=1)
    world.connect().says(f"REGISTER alice {PASSWORD}", f"REGISTER bob {PASSWORD}", f"REGISTER carol {PASSWORD}")
    assert refusals(world) == ["refused: 1, the last from 10.0.0.1: too many new accounts from one address"]
    for _ in range(protocol.CONNECTIONS_AN_ADDRESS):
        world.connect()
    assert refusals(world) == ["refused: 1, the last from 10.0.0.1: too many connections from one address"]


def test_a_job_that_fails_after_the_stop_does_not_undo_what_the_stop_has_recorded(world: World) -> None:
    alice = world.person("alice", kept=True)
    world.working = False
    alice.leave()
    world.wait(2 * protocol.RECORD_PAUSE)
    (lost,) = world.hub.jobs
    world.hub.shutdown()
    world.hub.complete(lost, protocol.StorageFailedError())
    world.wait(2 * protocol.RECORD_AGAIN)
    assert world.hub.jobs[1:] == world.hub.jobs[-1:]  # nothing after what the stop has recorded
