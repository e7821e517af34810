"""Messages to several people and to everybody, at the server's end: limits, slices, and people who come and go.

`test_contract.py` has what is promised about them, for every kind of server.
"""

from __future__ import annotations

from unittest import mock

import pytest
from vocabulary import PASSWORD, Person, World, bodies

import protocol
from protocol import LIST_MAX, LISTED, QUEUE_FRAMES, SENT_AGAIN_MAX, SPREAD_SLICE, TO_ALL


def hears(*people: Person) -> list[list[str]]:
    return [bodies(person.hears()) for person in people]


def test_the_answer_names_twenty_and_counts_all(world: World) -> None:
    alice, _ = world.people("alice", "bob")
    absent = [f"zoe{number}" for number in range(30)]
    (answer,) = alice.says(f"#1 SEND bob,{','.join(absent)} hi")
    told = ",".join(f"{name}=not-online" for name in absent[:20])
    assert answer == f"#1 ERROR partly {told} shown to 1 of 31"


def test_somebody_for_whom_too_much_waits_is_busy_and_named_to_the_others(world: World) -> None:
    alice, bob = world.people("alice", "bob")
    eve = world.person("eve", kept=True)
    world.person("dora").say(*["SEND eve x"] * QUEUE_FRAMES)
    alice.hears(), bob.hears()
    assert alice.says("#1 SEND bob,eve hi") == ["#1 ERROR partly eve=busy shown to 1 of 2"]
    assert hears(bob) == [["MSG alice>bob,eve 1 hi"]]
    assert len(eve.hears()) >= QUEUE_FRAMES


def test_a_sender_who_comes_back_has_the_answer(world: World) -> None:
    eve = world.person("eve", kept=True)
    bob = world.person("bob", kept=True)
    alice = world.person("alice", kept=True)
    alice.say("#1 SEND eve,bob hi")
    alice.leave()
    eve.say("ACK 1")
    bob.say("ACK 1")
    assert world.resume(alice.token, 0).hears()[:2] == ["OK RESUME alice 1 0", "@1 #1 OK SEND 2"]


# --- Handed out in slices ---


def crowd(world: World, count: int) -> list[Person]:
    names = [f"p{number}" for number in range(count)]
    return world.people(*names)


def have_heard(people: list[Person]) -> int:
    return sum(bool(person._frames) for person in people)


@pytest.fixture
def half_way(world: World, monkeypatch: pytest.MonkeyPatch) -> list[Person]:
    """Of these people the first one writes to everybody, and half of them have heard it."""
    people = crowd(world, 9)
    monkeypatch.setattr(protocol, "SPREAD_SLICE", 4)
    world.hub.feed(people[0].connection, protocol.frame(b"#1 SEND * hi"))
    world.by_one_turn()
    assert have_heard(people[1:]) == 4
    return people


def answer_to(sender: Person) -> list[str]:
    return [line for line in sender.hears() if line[0] == "#"]


def test_so_many_people_a_turn_and_the_senders_in_turn(world: World) -> None:
    alice, bob, *people = crowd(world, SPREAD_SLICE + 52)
    for each in (alice, bob):
        world.hub.feed(each.connection, protocol.frame(b"#1 SEND * hi"))
    world.by_one_turn()
    counts = [len(person._frames) for person in people]
    assert sum(counts) <= SPREAD_SLICE and counts.count(2) >= SPREAD_SLICE // 2 - 1  # both senders' first half
    world.turn()
    assert all(len(person._frames) == 2 for person in people)
    assert answer_to(alice) == [f"#1 OK SEND {len(people) + 1}"]


def test_long_texts_go_to_fewer_people_a_turn(world: World) -> None:
    people = crowd(world, 20)
    world.hub.feed(people[0].connection, protocol.frame(b"#1 SEND * " + b"x" * 50_000))
    world.by_one_turn()
    assert have_heard(people[1:]) == 5
    world.turn()
    assert have_heard(people[1:]) == 19


@pytest.mark.parametrize(
    ("way", "kept"),
    [("LOGIN", False), ("LOGIN", True), ("TAKEOVER", False), ("TAKEOVER", True), ("RESUME", True)],
)
def test_what_the_sender_says_on_another_connection_waits_too(world: World, way: str, kept: bool) -> None:
    people = crowd(world, 12)
    sender, other = world.person("sender", kept), world.connect()
    back = f"RESUME {sender.token} 0" if way == "RESUME" else f"{way} sender {PASSWORD}"
    with mock.patch.object(protocol, "SPREAD_SLICE", 1):
        world.hub.feed(sender.connection, protocol.frame(b"#1 SEND * first"))
        world.by_one_turn()
        if way == "LOGIN":
            world.hub.disconnect(sender.connection)
        commands = [back, "#5 SEND p11 second", "#6 PING"]
        world.hub.feed(other.connection, b"".join(protocol.frame(command.encode()) for command in commands))
        while world.hub._spread.waiting:
            world.by_one_turn()
            world.do_jobs()
    assert bodies(people[-1].hears()) == ["MSG sender>* 1 first", "MSG sender 5 second"]
    assert "#6 OK PING" in other.hears()[-1]


def test_it_is_handed_out_to_the_end_also_when_the_sender_has_gone(world: World, half_way: list[Person]) -> None:
    half_way[0].leave()
    assert hears(*half_way[1:]) == [["MSG p0>* 1 hi"]] * 8


def test_a_person_who_leaves_before_the_slice_is_not_online(half_way: list[Person]) -> None:
    half_way[-1].leave()
    assert answer_to(half_way[0]) == ["#1 ERROR partly p8=not-online shown to 7 of 8"]


def test_a_person_who_comes_later_does_not_get_it(world: World, half_way: list[Person]) -> None:
    late = world.person("late")
    assert late.hears() == []
    assert answer_to(half_way[0]) == ["#1 OK SEND 8"]


def test_a_new_session_of_the_same_name_gets_it(world: World) -> None:
    people, late = crowd(world, 3), world.connect()
    world.hub.feed(late.connection, protocol.frame(f"TAKEOVER p2 {PASSWORD}".encode()))
    while not world.hub.jobs or world.hub.jobs[0].method != "log_in":
        world.do_jobs()
    with mock.patch.object(protocol, "SPREAD_SLICE", 1):
        world.hub.feed(people[0].connection, protocol.frame(b"#1 SEND * hi"))
        world.by_one_turn()
        assert not people[-1]._frames
        world.do_jobs()
    assert [bodies(late.hears())[-1], people[-1].hears()[0]] == ["MSG p0>* 1 hi", "BYE replaced"]
    assert answer_to(people[0]) == ["#1 OK SEND 2"]


def test_what_was_read_is_handed_out_before_a_stop(world: World, half_way: list[Person]) -> None:
    world.hub.shutdown()
    world.turn()
    assert [bodies(person.hears())[0] for person in half_way[1:]] == ["MSG p0>* 1 hi"] * 8


# --- Limits ---


def test_so_many_people_in_lists_who_are_here(world: World) -> None:
    alice, *_ = world.people("alice", "bob", "eve")
    times = LISTED[0] // 2
    answers = alice.says(*[f"#{tag} SEND bob,eve,zoe x" for tag in range(1, times + 1)])
    assert len(answers) == times and not any("too-many" in answer for answer in answers)
    assert alice.says("#1000 SEND bob,eve x") == ["#1000 ERROR too-many 1 s to wait: you wrote to many people"]
    assert alice.says("#1001 SEND bob x") == ["#1001 OK SEND"]
    world.wait(0.03)
    assert alice.says("#1002 SEND bob,eve x") == ["#1002 OK SEND 2"]


def test_what_waits_to_be_handed_out_has_a_limit_for_all_together(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each of 15,000 who write to everybody in one moment would have a list of 15,000 people here."""
    people = crowd(world, 4)
    monkeypatch.setattr(protocol, "SPREAD_MAX", 9)
    for person in people[:3]:
        world.hub.feed(person.connection, protocol.frame(b"#1 SEND * good morning"))  # in one turn
    refused = "#1 ERROR too-many 10 s to wait: too many people write to everybody now"
    assert [answer_to(person) for person in people[:3]] == [["#1 OK SEND 3"], ["#1 OK SEND 3"], [refused]]
    assert people[2].says("#2 SEND * good morning") == ["#2 OK SEND 3"]


def test_what_is_sent_again_after_a_restart_is_not_limited(world: World) -> None:
    token = world.person("alice", kept=True).token
    world.stop()
    again = world.restart()
    bob = again.person("bob")
    alice = again.resume(token, 0)
    alice.hears()
    answers = alice.says(*[f"#{tag} SEND * x" for tag in range(1, SENT_AGAIN_MAX + 12)])
    assert ["OK SEND 1" in answer for answer in answers] == [True] * (SENT_AGAIN_MAX + 10) + [False]
    assert sum(line.startswith("MSG alice>* ") for line in bob.hears()) == SENT_AGAIN_MAX + 10


def test_a_session_that_its_client_has_ended_is_no_restart_that_frees_more_messages(world: World) -> None:
    """Whoever never ACKs is ended, and comes back with the token: as often as he likes."""
    bob = world.person("bob")
    alice = world.person("alice", kept=True)
    alice.lively = False
    sent = 0
    for _ in range(4):
        alice.says(*["PING"] * protocol.HELD_FRAMES_MAX)
        world.turn()
        assert alice.ended
        alice = world.resume(str(world.disk.accounts["alice"].token), 0)
        alice.lively = False
        assert alice.hears()[0].startswith("OK RESUME alice 0 ")
        answers = alice.says(*[f"#{tag} SEND * x" for tag in range(1, SENT_AGAIN_MAX + 12)])
        sent += sum("OK SEND 1" in answer for answer in answers)
    assert sent == SENT_AGAIN_MAX + TO_ALL[0]
    assert sum(line.startswith("MSG alice>* ") for line in bob.hears()) == sent


def test_long_names_take_their_share_of_a_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """To read a list of a hundred names of many letters with marks takes some milliseconds."""
    read: list[str] = []
    parse_list = protocol.parse_list

    def note_and_parse(names: str) -> dict[str, str]:
        read.append(names)
        return parse_list(names)

    monkeypatch.setattr(protocol, "parse_list", note_and_parse)
    people = crowd(world, 12)
    names = ",".join(f"{'ệ' * 20}{number}" for number in range(LIST_MAX - 1))
    for number, person in enumerate(people):
        world.hub.feed(person.connection, protocol.frame(f"#1 SEND {names},p{number - 1} x".encode()))
    assert read == []
    done = 0
    while len(read) < len(people):
        world.by_one_turn()
        assert 0 < len(read) - done <= protocol.SPREAD_BYTES // protocol.LIST_READING
        done = len(read)
    world.turn()
    answers = [[line for line in person.hears() if "ERROR" in line] for person in people]
    assert ["shown to 1 of 100" in answer for (answer,) in answers[1:]] == [True] * (len(people) - 1)


@pytest.mark.parametrize("names", ["bob,Ann", "bob,älva"])
def test_a_list_of_which_one_is_left_arrives_also_when_its_sender_is_lost_meanwhile(world: World, names: str) -> None:
    bob = world.person("bob")
    sender = world.person(names.partition(",")[2], kept=True)
    bob.hears()
    world.hub.feed(sender.connection, protocol.frame(f"#1 SEND {names} hi".encode()))
    sender.leave()
    assert bodies(bob.hears()) == [f"MSG {names.partition(',')[2]} 1 hi"]
    assert "#1 OK SEND" in world.resume(sender.token, 0).hears()[1]


def test_a_connection_has_one_list_a_turn(world: World) -> None:
    alice, bob = world.people("alice", "bob")
    lists = [f"#{tag} SEND {','.join(['zoe'] * 99)},bob x".encode() for tag in range(1, 6)]
    world.hub.feed(alice.connection, b"".join(map(protocol.frame, lists)))
    world.by_one_turn()
    assert len(bob._frames) == 1
    world.turn()
    assert [line.split(" ")[2] for line in bob.hears()] == ["1", "2", "3", "4", "5"]
