"""Kept sessions at the server's end: numbers, holding, resuming, fates, restarts, adoption."""

from __future__ import annotations

import pytest
from vocabulary import END, PASSWORD, World, bodies

import protocol

# --- Lost and resumed ---


def test_a_resume_behind_what_was_acked_goes_on_from_there(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    alice.say("SEND bob one", "SEND bob two")
    bob.say("ACK 1")
    bob.leave()
    assert bodies(world.resume(bob.token, 0).hears())[:2] == ["OK RESUME bob 0 1", "@2 MSG alice 0 two"]


def test_a_second_loss_has_a_grace_of_its_own(world: World) -> None:
    bob = world.person("bob", kept=True)
    bob.leave()
    world.wait(50)
    world.resume(bob.token, 0).leave()
    world.wait(50)  # the first loss is 100 s ago
    assert world.resume(bob.token, 0).hears()[0] == "OK RESUME bob 0 0"


def test_after_a_resume_a_command_under_way_is_answered_before_later_ones(world: World) -> None:
    bob = world.person("bob", kept=True)
    world.working = False
    bob.say(f"#5 PASSWD {PASSWORD}\nnew password")
    passwd, world.hub.jobs = world.hub.jobs, []
    bob.leave()
    world.working = True
    bob = world.resume(bob.token, 0)
    assert bob.says("#6 PING", "#7 WHO") == ["OK RESUME bob 5 0"]
    world.hub.jobs += passwd
    assert bob.hears() == ["@1 #5 OK PASSWD", "@2 #6 OK PING", "@3 #7 OK WHO bob"]


def test_a_command_that_waits_for_the_hashing_thread_is_done_after_a_resume_too(world: World) -> None:
    bob = world.person("bob", kept=True)
    world.working = False
    for number in range(protocol.CHECKS_AT_ONCE):
        world.connect("10.0.0.9").say(f"LOGIN other{number} whatever")
    bob.say(f"#5 PASSWD {PASSWORD}\nnew password")
    bob.leave()
    world.working = True
    bob = world.resume(bob.token, 0)
    heard = bob.hears() + bob.says("#6 PING")
    assert heard[0] == "OK RESUME bob 5 0"
    assert [line for line in heard if line.startswith("@")] == ["@1 #5 OK PASSWD", "@2 #6 OK PING"]


# --- Fates ---


def test_an_ack_is_asked_for_when_the_queue_is_half_full(world: World) -> None:
    bob = world.person("bob", kept=True)
    bob.lively = False
    for _ in range(protocol.ASK_FRAMES - 1):
        bob.say("PING")
    assert "PING" not in bob.hears()
    assert "PING" in bob.says("PING", "PING")


def test_a_client_that_never_acks_is_ended_but_its_token_lives(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    alice.say("#1 SEND bob hi")
    for _ in range(protocol.HELD_FRAMES_MAX - 2):
        bob.say("PING")
    assert "BYE slow" not in bob.hears()
    assert bob.says("PING") == [f"@{protocol.HELD_FRAMES_MAX} OK PING", "BYE slow", END]
    assert any(line.startswith("#1 ERROR unconfirmed") for line in alice.hears())
    assert world.resume(bob.token, 7).hears()[0] == "OK RESUME bob 0 7"


def test_a_replay_larger_than_the_limit_of_a_slow_reader(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    bob.leave()
    for number in range(1, 16):
        alice.say(f"#{number} SEND bob {'x' * 60_000}")
    bob = world.resume(bob.token, 0)
    assert [line.split(" ")[0] for line in bob.next(17)] == ["OK", *(f"@{n}" for n in range(1, 16)), "ONLINE"]
    assert bob.hears() == []


def test_a_message_never_given_to_a_stuck_connection_is_not_delivered(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    bob.reading = False
    for number in range(1, 11):
        alice.say(f"#{number} SEND bob {'x' * 60_000}")
    alice.hears()
    bob.leave()
    world.wait(60)
    fates = [line.split(" ")[2] for line in alice.hears() if " ERROR " in line]
    assert fates == sorted(fates, reverse=True)
    assert set(fates) == {"unconfirmed", "not-delivered"}


# --- Tokens and restarts ---


def offline_token(world: World) -> str:
    bob = world.person("bob", kept=True)
    bob.leave()
    world.wait(61)
    assert world.statuses() == {"bob": "offline"}
    return bob.token


def test_online_is_on_disk_before_a_new_session_is_answered(world: World) -> None:
    token = offline_token(world)
    world.working = False
    bob = world.resume(token, 1)
    while not bob.hears():
        world.do_next_job()
    assert world.disk.accounts["bob"].status == "online"


WRITTEN = "ERROR busy 1 s to wait: somebody is logging in or out under this name"


def test_two_resumes_of_one_token_race_for_a_new_session(world: World) -> None:
    token = offline_token(world)
    world.working = False
    one, two = world.resume(token, 3), world.resume(token, 3)
    world.working = True
    assert two.hears() == [WRITTEN]
    assert one.hears() == ["OK RESUME bob 0 3"]
    assert two.says(f"RESUME {token} 3") == ["OK RESUME bob 0 3"]
    assert one.ends() == ["BYE resumed", END]


def test_a_token_that_has_died_on_disk_leads_back_once_at_most(world: World) -> None:
    world.person("bob", kept=True).leave()
    world.disk.accounts["bob"].token = None  # `storage.py passwd`, when it is on disk that bob is lost
    bob = world.resume("token1", 0)
    assert bob.hears()[0] == "OK RESUME bob 0 0"
    world.wait(1)
    assert bob.says("PING") == ["@1 OK PING"]  # it is no logout
    bob.leave()
    assert world.resume("token1", 0).hears()[0].startswith("ERROR unknown-session")


def test_within_the_grace_the_way_back_asks_no_disk_but_once_after_a_restart(world: World) -> None:
    world.person("bob", kept=True).leave()
    world.working = False
    assert world.resume("token1", 0).hears() == ["OK RESUME bob 0 0"]
    after = world.restart()
    after.resume("token1", 7).leave()
    after.working = False
    assert after.resume("token1", 7).hears() == ["OK RESUME bob 0 7"]


def test_a_resume_is_busy_while_a_login_of_its_name_is_being_written(world: World) -> None:
    bob = world.person("bob", kept=True)
    world.working = False
    heir = world.connect().say("KEEP", f"TAKEOVER bob {PASSWORD}")
    world.work_up_to("log_in")
    late = world.resume("token1", 0)
    assert late.hears() == [WRITTEN]
    world.working = True
    world.turn()
    assert late.says("RESUME token1 0")[0].startswith("ERROR unknown-session")
    assert heir.says("WHO")[-1] == "@1 OK WHO bob"
    assert bob.ends()[-2:] == ["BYE replaced", END]


def test_a_login_that_nobody_heard_of_ends_no_session(world: World) -> None:
    world.person("bob", kept=True).leave()
    world.working = False
    heir = world.connect().say("KEEP", f"LOGIN bob {PASSWORD}")
    world.work_up_to("log_in")
    early = world.resume("token1", 0)
    heir.leave()
    world.working = True
    assert early.hears() == [WRITTEN]
    world.turn()
    assert early.says("RESUME token1 0") == ["OK RESUME bob 0 0"]
    early.leave()
    assert world.resume("token1", 0).hears() == ["OK RESUME bob 0 0"]


def test_messages_to_a_resume_that_had_to_wait_a_turn_come_before_its_roster(world: World) -> None:
    alice = world.person("alice")
    world.person("bob", kept=True).leave()
    bob = world.connect()
    both = protocol.frame(b"RESUME wrong 0") + protocol.frame(b"RESUME token1 0")
    world.hub.feed(bob.connection, both)
    for _ in range(3):  # by hand: what others say comes in the turns between
        world.begin_turn()
        world.hub.feed(alice.connection, protocol.frame(b"SEND bob hi"))
        world.tick()
        world.do_jobs()
    assert bodies(bob.next(5))[1:] == [
        "OK RESUME bob 0 0", "@1 MSG alice 0 hi", "@2 MSG alice 0 hi", "ONLINE alice bob",
    ]  # fmt: skip


def test_a_frame_behind_a_resume_is_judged_by_the_limits_of_a_session(world: World) -> None:
    world.person("bob", kept=True).leave()
    bob = world.connect()
    long = b"SEND bob " + b"x" * protocol.STRANGER_FRAME_MAX
    world.hub.feed(bob.connection, protocol.frame(b"RESUME token1 0") + protocol.frame(long))
    assert [line[:17] for line in bob.next(3)] == ["OK RESUME bob 0 0", "ONLINE bob", "@1 MSG bob 0 2026"]


def test_a_resume_whose_answer_was_lost_acks_nothing_unseen(world: World) -> None:
    token = world.person("bob", kept=True).token
    after = world.restart()
    alice = after.person("alice")
    alice.say("#9 SEND bob hi")
    after.resume(token, 17).leave()
    bob = after.resume(token, 17)
    assert bodies(bob.hears())[:2] == ["OK RESUME bob 0 17", "@18 MSG alice 9 hi"]
    assert "#9 OK SEND" not in alice.hears()


def test_after_a_restart_the_grace_is_over_once_too(world: World) -> None:
    token = world.person("bob", kept=True).token
    after = world.restart()
    alice = after.person("alice")
    alice.say("#9 SEND bob hi")
    after.wait(60)
    assert alice.hears()[0].startswith("#9 ERROR not-delivered")
    assert after.resume(token, 17).hears()[0] == "OK RESUME bob 0 17"


# --- Adoption ---


def test_a_message_written_once_stays_unconfirmed_after_an_adoption(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    alice.say("#1 SEND bob one")
    bob.leave()
    alice.say("#2 SEND bob two")
    world.connect().say("KEEP", f"LOGIN bob {PASSWORD}").leave()
    world.wait(60 + protocol.WALK_PAUSE)
    fates = [line for line in alice.hears() if " ERROR " in line]
    assert [fate.split(" ")[2] for fate in fates] == ["unconfirmed", "unconfirmed"]


def test_a_sender_who_logged_in_again_is_not_told_of_old_tags(world: World) -> None:
    alice, bob = world.person("alice", kept=True), world.person("bob", kept=True)
    bob.hears()
    alice.say("#1 SEND bob one")
    alice.leave()
    alice = world.connect().say("KEEP", f"LOGIN alice {PASSWORD}")
    alice.hears()
    bob.say("ACK 1")
    assert alice.hears() == []


def test_the_grace_ends_while_a_login_is_being_written(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    bob.leave()
    alice.say("#1 SEND bob one")
    heir = world.connect()
    heir.say("KEEP")
    world.wait(59)
    world.working = False
    heir.say(f"LOGIN bob {PASSWORD}")
    world.work_up_to("log_in")
    world.now += 4  # less than what would look like a suspended server
    world.turn()
    world.working = True
    assert heir.hears()[-1].startswith("OK LOGIN bob")
    assert heir.roster == {"alice", "bob"}
    assert alice.hears() == ["#1 ERROR not-delivered bob has left"]


def test_logout_and_takeover_cross(world: World) -> None:
    bob = world.person("bob", kept=True)
    world.working = False
    other = world.connect().say("KEEP", f"TAKEOVER bob {PASSWORD}")
    bob.say("LOGOUT")
    world.working = True
    assert any(line.startswith("OK TAKEOVER") for line in other.hears())
    world.wait(1)
    assert world.disk.accounts["bob"].status == "online"
    assert world.disk.accounts["bob"].token == "token2"
    assert other.says("WHO") == ["@1 OK WHO bob"]


@pytest.mark.parametrize("verb", ["LOGIN", "TAKEOVER"])
def test_a_second_login_or_a_logout_is_busy_while_a_login_of_that_name_is_being_written(
    world: World, verb: str
) -> None:
    bob = world.person("bob", kept=True)
    world.working = False
    heir = world.connect().say("KEEP", f"TAKEOVER bob {PASSWORD}")
    world.work_up_to("log_in")
    late = world.connect().say(f"{verb} bob {PASSWORD}")
    while any(job.method != "log_in" for job in world.hub.jobs):
        job = world.hub.jobs.pop()
        world.hub.complete(job, world.disk.perform(job))
    assert late.hears() == [WRITTEN]
    assert bob.says("#1 LOGOUT") == ["@1 #1 " + WRITTEN]
    world.working = True
    assert heir.says("WHO")[-1] == "@1 OK WHO bob"
    world.wait(1)
    assert late.says(f"TAKEOVER bob {PASSWORD}")[0].startswith("OK TAKEOVER bob")


def test_a_logout_finds_the_session_on_its_new_connection(world: World) -> None:
    bob = world.person("bob", kept=True)
    world.working = False
    bob.say("#5 LOGOUT")
    (logout,), world.hub.jobs = world.hub.jobs, []
    world.hub._statuses._claims.clear()  # as if a login that was refused by the disk had let the RESUME pass
    world.working = True
    bob.leave()
    bob = world.resume(bob.token, 0)
    assert bob.hears()[0] == "OK RESUME bob 5 0"
    world.hub.jobs.append(logout)
    assert bob.hears() == ["#5 OK LOGOUT"]
    assert bob.says("PING") == ["OK PING"]
    assert bob.says("WHO")[0].startswith("ERROR not-logged-in")


def test_a_hundred_are_back_without_a_commit_each(world: World) -> None:
    tokens = [world.person(f"user{number}", kept=True).token for number in range(100)]
    after = world.restart()
    writes = after.disk.writes
    after.working = False
    back = [after.resume(token, 0) for token in tokens]
    after.working = True
    after.wait(1)
    assert all("OK RESUME" in person.hears()[0] for person in back)
    assert after.disk.writes <= writes + 2
