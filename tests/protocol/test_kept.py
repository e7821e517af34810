"""Kept sessions at the server's end: numbers, holding, resuming, fates, restarts, adoption (guarantees 4 to 9)."""

from __future__ import annotations

import pytest
from vocabulary import PASSWORD, Disk, Person, World

import protocol


def bodies(heard: list[str]) -> list[str]:
    """Messages without their stamps, so that a test can name them."""
    return [" ".join(w for w in line.split(" ") if not w.startswith("20")) for line in heard]


def token_of(world: World, name: str) -> str:
    return str(world.disk.accounts[name].token)


@pytest.fixture
def world() -> World:
    return World()


# --- Numbers (guarantee 4) ---


def test_from_the_frame_after_the_login_on_everything_said_is_numbered(world: World) -> None:
    bob = world.connect()
    bob.says("REGISTER bob longenough")
    assert bob.says("KEEP") == ["OK KEEP 60"]
    assert bob.says("LOGIN bob wrongwrong")[0].startswith("ERROR bad-login")  # KEEP stays in force
    assert bob.says("LOGIN bob longenough") == ["OK LOGIN bob token=token1 failed=1", "ONLINE bob"]
    alice = world.person("alice")
    alice.say("SEND bob hi")
    assert bodies(bob.says("PING", "#4 WHO", "NONSENSE", b"\xff"))[:4] == [
        "@2 OK PING", "@3 #4 OK WHO bob alice", bob_error(4), "@5 ERROR bad-encoding the text is not valid UTF-8",
    ]  # fmt: skip


def bob_error(seq: int) -> str:
    return f"@{seq} ERROR bad-command there is no such command; there are {' '.join(protocol.VERBS)}"


def test_presence_ping_and_bye_are_not_numbered(world: World) -> None:
    bob = world.people("bob", kept=True)[0]
    world.person("alice")
    world.wait(1)
    assert bob.hears() == ["PRESENCE +alice"]
    assert bob.says("LOGOUT") == ["OK LOGOUT"]


def test_keep_is_for_one_login(world: World) -> None:
    bob = world.person("bob", kept=True)
    bob.says("LOGOUT")
    assert bob.says(f"LOGIN bob {PASSWORD}")[0].startswith("OK LOGIN bob last=")
    assert bob.says("PING") == ["OK PING"]
    assert world.disk.accounts["bob"].token is None


# --- Lost and resumed ---


def test_a_lost_session_is_shown_holds_messages_and_is_resumed(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    alice.hears()
    alice.say("#1 SEND bob one")
    assert bodies(bob.hears()) == ["@1 MSG alice 1 one"]
    bob.leave()
    assert alice.hears() == ["PRESENCE ~bob"]
    assert world.disk.accounts["bob"].status == "lost"
    assert alice.says("#2 SEND bob two", "WHO") == ["OK WHO alice ~bob"]
    bob = world.resume(token_of(world, "bob"), 0)
    assert bodies(bob.hears()) == ["OK RESUME bob 0 0", "@1 MSG alice 1 one", "@2 MSG alice 2 two", "ONLINE alice bob"]
    assert alice.hears() == ["PRESENCE +bob"]
    world.wait(1)
    assert world.disk.accounts["bob"].status == "online"
    bob.say("ACK 2")
    assert alice.hears() == ["#1 OK SEND", "#2 OK SEND"]


def test_resume_is_an_ack_and_the_replay_is_verbatim(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    for number in range(1, 6):
        alice.say(f"#{number} SEND bob m{number}")
    first = bob.hears()
    bob.leave()
    bob = world.resume(token_of(world, "bob"), 2)
    assert bob.hears()[:4] == ["OK RESUME bob 0 2", *first[2:]]
    assert alice.hears()[-3:] == ["#1 OK SEND", "#2 OK SEND", "PRESENCE +bob"]


def test_resume_tells_the_last_tag_read(world: World) -> None:
    bob = world.person("bob", kept=True)
    bob.say("#41 PING", "#42 NONSENSE")
    bob.leave()
    bob = world.resume(token_of(world, "bob"), 0)
    assert bob.hears()[0] == "OK RESUME bob 42 0"
    assert bob.says("#42 PING", "#43 PING") == ["@3 #43 OK PING"]


def test_resume_while_the_old_connection_is_still_open(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    world.wait(1)
    alice.hears()
    new = world.resume(token_of(world, "bob"), 0)
    assert bob.hears()[-1] == "BYE resumed"
    assert bob.gone
    world.hub.disconnect(bob.connection)  # its late death
    world.wait(120)
    assert new.says("PING")[-1] == "@1 OK PING"
    assert alice.hears() == []  # bob never left


def test_a_resume_beyond_what_was_sent_leaves_the_session_alone(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    alice.say("SEND bob hi")
    assert world.resume(token_of(world, "bob"), 2).hears()[0].startswith("ERROR unknown-session")
    assert bodies(bob.says("PING")) == ["@2 OK PING"]


def test_a_resume_behind_what_was_acked_goes_on_from_there(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    alice.say("SEND bob one", "SEND bob two")
    bob.say("ACK 1")
    bob.leave()
    assert bodies(world.resume(token_of(world, "bob"), 0).hears())[:2] == ["OK RESUME bob 0 1", "@2 MSG alice 0 two"]


def test_an_ack_beyond_what_was_sent_is_ignored(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    alice.say("#1 SEND bob hi")
    assert bob.says("ACK 99", "ACK -1", "ACK", "ACK x")[1:] == []
    assert "#1 OK SEND" not in alice.hears()
    bob.say("ACK 1")
    assert alice.hears() == ["#1 OK SEND"]


def test_a_second_loss_has_a_grace_of_its_own(world: World) -> None:
    bob = world.person("bob", kept=True)
    bob.leave()
    world.wait(50)
    bob = world.resume(token_of(world, "bob"), 0)
    bob.leave()
    world.wait(50)  # the first loss is 100 s ago
    assert world.resume(token_of(world, "bob"), 0).hears()[0] == "OK RESUME bob 0 0"


def test_the_answer_to_a_password_check_finds_the_session_on_its_new_connection(world: World) -> None:
    bob = world.person("bob", kept=True)
    world.working = False
    bob.say(f"#5 PASSWD {PASSWORD}\nnew password")
    passwd = world.hub.jobs
    world.hub.jobs = []
    bob.leave()
    world.working = True
    bob = world.resume(token_of(world, "bob"), 0)
    assert bob.hears()[0] == "OK RESUME bob 5 0"
    world.hub.jobs += passwd
    assert bob.hears() == ["@1 #5 OK PASSWD"]


def test_after_a_resume_a_command_under_way_is_answered_before_later_ones(world: World) -> None:
    bob = world.person("bob", kept=True)
    world.working = False
    bob.say(f"#5 PASSWD {PASSWORD}\nnew password")
    passwd, world.hub.jobs = world.hub.jobs, []
    bob.leave()
    world.working = True
    bob = world.resume(token_of(world, "bob"), 0)
    assert bob.says("#6 PING", "#7 WHO") == []
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
    bob = world.resume(token_of(world, "bob"), 0)
    heard = bob.hears() + bob.says("#6 PING")
    assert heard[0] == "OK RESUME bob 5 0"
    assert [line for line in heard if line.startswith("@")] == ["@1 #5 OK PASSWD", "@2 #6 OK PING"]


# --- Fates (guarantee 6) ---


def test_a_session_that_ends_settles_what_it_holds(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    world.wait(1)
    alice.say("#1 SEND bob seen", "#2 SEND bob written", "SEND bob nobody is told of this one")
    bob.says("ACK 1")
    bob.leave()
    alice.say("#3 SEND bob held")
    alice.hears()
    world.wait(60)
    told = alice.hears()
    assert told[0].startswith("#2 ERROR unconfirmed bob ")
    assert told[1].startswith("#3 ERROR not-delivered bob ")
    assert told[2:] == ["PRESENCE -bob"]
    assert world.disk.accounts["bob"].status == "offline"


def test_logout_settles_too(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    alice.say("#1 SEND bob hi")
    bob.say("LOGOUT")
    assert any(line.startswith("#1 ERROR unconfirmed") for line in alice.hears())
    assert world.connect().says("RESUME token1 1")[0].startswith("ERROR unknown-session")


def test_a_full_queue_is_busy_and_nothing_is_thrown_away(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    bob.leave()
    for number in range(1, protocol.QUEUE_FRAMES + 1):
        alice.say(f"#{number} SEND bob {number}")
    alice.hears()
    assert alice.says("#2000 SEND bob more")[0].startswith("#2000 ERROR busy")
    bob = world.resume(token_of(world, "bob"), 0)
    heard = bob.hears()
    assert heard[1].endswith(" 1")
    assert heard[1000].endswith(" 1000")
    bob.say("ACK 1000")
    assert len([line for line in alice.hears() if line.endswith("OK SEND")]) == protocol.QUEUE_FRAMES


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
    assert bob.says("PING")[-2:] == [f"@{protocol.HELD_FRAMES_MAX} OK PING", "BYE slow"]
    assert any(line.startswith("#1 ERROR unconfirmed") for line in alice.hears())
    assert world.resume(token_of(world, "bob"), 7).hears()[0] == "OK RESUME bob 0 7"


def test_a_replay_larger_than_the_limit_of_a_slow_reader(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    bob.leave()
    for number in range(1, 16):
        alice.say(f"#{number} SEND bob {'x' * 60_000}")
    bob = world.resume(token_of(world, "bob"), 0)
    heard = bob.hears()
    assert [line.split(" ")[0] for line in heard] == ["OK", *(f"@{n}" for n in range(1, 16)), "ONLINE"]
    assert not bob.gone


def test_what_was_never_given_to_a_stuck_connection_is_not_delivered(world: World) -> None:
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


# --- Tokens and restarts (guarantees 5 and 8) ---


def test_after_the_grace_a_token_begins_a_new_kept_session(world: World) -> None:
    bob = world.person("bob", kept=True)
    bob.say("#5 PING")
    token = token_of(world, "bob")
    bob.leave()
    world.wait(61)
    bob = world.resume(token, 1)
    assert bob.hears() == ["OK RESUME bob 0 1", "ONLINE bob"]
    assert bob.says("#5 PING") == ["@2 #5 OK PING"]
    assert world.disk.accounts["bob"].status == "online"


def test_online_is_on_disk_before_a_new_session_is_answered(world: World) -> None:
    token = _offline_token(world)
    world.working = False
    bob = world.resume(token, 1)
    while not bob.hears():
        (job,) = world.hub.jobs
        world.hub.jobs = []
        world.hub.complete(job, world.disk.perform(job))
    assert world.disk.accounts["bob"].status == "online"


def _offline_token(world: World) -> str:
    world.person("bob", kept=True).leave()
    world.wait(61)
    assert world.disk.accounts["bob"].status == "offline"
    return token_of(world, "bob")


def test_two_resumes_of_one_token_race_for_a_new_session(world: World) -> None:
    token = _offline_token(world)
    world.working = False
    one, two = world.resume(token, 3), world.resume(token, 3)
    world.working = True
    assert two.hears() == ["OK RESUME bob 0 3", "ONLINE bob"]
    assert one.hears() == ["OK RESUME bob 0 3", "BYE resumed"]


def test_a_login_ends_the_old_token(world: World) -> None:
    bob = world.person("bob", kept=True)
    token = token_of(world, "bob")
    bob.leave()
    world.person("bob", kept=True)
    assert world.resume(token, 0).hears()[0].startswith("ERROR unknown-session")


def _work_up_to(world: World, method: str) -> None:
    """The workers stop before the first call of this method."""
    while world.hub.jobs[0].method != method:
        job = world.hub.jobs.pop(0)
        world.hub.complete(job, world.disk.perform(job))


def test_within_the_grace_the_way_back_asks_no_disk(world: World) -> None:
    world.person("bob", kept=True).leave()
    world.working = False
    assert world.resume("token1", 0).hears() == ["OK RESUME bob 0 0", "ONLINE bob"]


def test_a_token_that_has_died_on_disk_leads_back_once_at_most(world: World) -> None:
    world.person("bob", kept=True).leave()
    world.disk.accounts["bob"].token = None  # `storage.py passwd`, when it is on disk that bob is lost
    bob = world.resume("token1", 0)
    assert bob.hears()[0] == "OK RESUME bob 0 0"
    world.wait(1)
    assert bob.says("PING") == ["@1 OK PING"]  # it is no logout
    bob.leave()
    assert world.resume("token1", 0).hears()[0].startswith("ERROR unknown-session")


def test_after_a_restart_the_disk_is_asked_once(world: World) -> None:
    world.person("bob", kept=True)
    after = world.restart()
    after.resume("token1", 7).leave()
    after.working = False
    assert after.resume("token1", 7).hears() == ["OK RESUME bob 0 7", "ONLINE bob"]


def test_a_resume_waits_for_a_login_that_is_being_written(world: World) -> None:
    bob = world.person("bob", kept=True)
    world.working = False
    heir = world.connect().say("KEEP", f"TAKEOVER bob {PASSWORD}")
    _work_up_to(world, "log_in")
    late = world.resume("token1", 0)
    assert late.hears() == []
    world.working = True
    assert late.hears()[0].startswith("ERROR unknown-session")
    assert heir.says("WHO") == ["@1 OK WHO bob"]
    assert bob.hears()[-1] == "BYE replaced"


def test_a_login_that_nobody_heard_of_ends_no_session(world: World) -> None:
    world.person("bob", kept=True).leave()
    world.working = False
    heir = world.connect().say("KEEP", f"LOGIN bob {PASSWORD}")
    _work_up_to(world, "log_in")
    early = world.resume("token1", 0)
    heir.leave()
    world.working = True
    assert early.hears() == ["OK RESUME bob 0 0", "ONLINE bob"]
    early.leave()
    assert world.resume("token1", 0).hears() == ["OK RESUME bob 0 0", "ONLINE bob"]


def test_what_follows_a_resume_is_answered_behind_the_roster(world: World) -> None:
    world.person("bob", kept=True).leave()
    bob = world.connect()
    world.hub.feed(bob.connection, protocol.frame(b"RESUME token1 0") + protocol.frame(b"WHO"))
    assert bob.hears() == ["OK RESUME bob 0 0", "ONLINE bob", "@1 OK WHO bob"]


def test_what_others_say_comes_behind_the_roster_of_a_resume_that_had_to_wait_a_turn(world: World) -> None:
    alice = world.person("alice")
    world.person("bob", kept=True).leave()
    bob = world.connect()
    both = protocol.frame(b"RESUME wrong 0") + protocol.frame(b"RESUME token1 0")
    world.hub.feed(bob.connection, both)
    for _ in range(3):  # by hand: what others say comes in the turns between
        world.now += 1e-3
        world.hub.wake(world.now, world.wall)
        world.hub.feed(alice.connection, protocol.frame(b"SEND bob hi"))
        world.tick()
        jobs, world.hub.jobs = world.hub.jobs, []
        for job in jobs:
            world.hub.complete(job, world.disk.perform(job))
    heard = [line for line in bodies(bob.hears()) if not line.startswith(("ERROR", "PRESENCE"))]
    assert heard[: heard.index("ONLINE alice bob")] == ["OK RESUME bob 0 0", "@1 MSG alice 0 hi", "@2 MSG alice 0 hi"]


def test_a_frame_behind_a_resume_is_judged_by_the_limits_of_a_session(world: World) -> None:
    world.person("bob", kept=True).leave()
    bob = world.connect()
    long = b"SEND bob " + b"x" * protocol.STRANGER_FRAME_MAX
    world.hub.feed(bob.connection, protocol.frame(b"RESUME token1 0") + protocol.frame(long))
    assert [line[:20] for line in bob.hears()] == ["OK RESUME bob 0 0", "ONLINE bob", "@1 MSG bob 0 2026-11"]


def test_a_restart_is_a_lost_connection(world: World) -> None:
    world.person("bob", kept=True)
    world.person("eve")
    token = token_of(world, "bob")
    after = world.restart()
    alice = after.person("alice")
    assert alice.says("WHO") == ["OK WHO ~bob alice"]  # a plain session has no way back
    assert alice.says("#9 SEND bob while you were away") == []
    bob = after.resume(token, 17)
    assert bodies(bob.hears()) == ["OK RESUME bob 0 17", "@18 MSG alice 9 while you were away", "ONLINE bob alice"]
    bob.say("ACK 18")
    assert alice.hears() == ["PRESENCE +bob", "#9 OK SEND"]


def test_a_resume_whose_answer_was_lost_acks_nothing_unseen(world: World) -> None:
    world.person("bob", kept=True)
    after = world.restart()
    alice = after.person("alice")
    alice.say("#9 SEND bob hi")
    token = token_of(world, "bob")
    after.resume(token, 17).leave()
    bob = after.resume(token, 17)
    assert bodies(bob.hears())[:2] == ["OK RESUME bob 0 17", "@18 MSG alice 9 hi"]
    assert "#9 OK SEND" not in alice.hears()


def test_after_a_restart_the_grace_is_over_once_too(world: World) -> None:
    world.person("bob", kept=True)
    after = world.restart()
    alice = after.person("alice")
    alice.say("#9 SEND bob hi")
    after.wait(60)
    assert alice.hears()[0].startswith("#9 ERROR not-delivered")
    assert after.resume(token_of(world, "bob"), 17).hears()[0] == "OK RESUME bob 0 17"


def test_a_stop_answers_no_unanswered_send(world: World) -> None:
    alice, bob = world.person("alice", kept=True), world.person("bob", kept=True)
    alice.say("#1 SEND bob hi")
    alice.hears()
    bob.hears()
    world.hub.shutdown()
    assert alice.hears() == ["BYE shutdown"]
    assert world.disk.accounts["bob"].status == "lost"


# --- Adoption (guarantee 9) ---


def test_a_login_adopts_the_messages_but_not_the_answers_of_a_lost_session(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    alice.say("#1 SEND bob one")
    bob.say("#8 PING")
    bob.leave()
    alice.say("#2 SEND bob two")
    alice.hears()
    bob = world.connect().say("KEEP", f"LOGIN bob {PASSWORD}")
    heard = bodies(bob.hears())
    assert heard[1].startswith("OK LOGIN bob token=token2 ")
    assert heard[2:] == ["@1 MSG alice 1 one", "@2 MSG alice 2 two", "ONLINE alice bob"]
    assert bob.says("#1 PING") == ["@3 #1 OK PING"]  # tags start afresh
    bob.says("ACK 1")
    bob.leave()
    world.wait(60 + protocol.WALK_PAUSE)
    told = [line for line in alice.hears() if line.startswith("#")]
    assert told == ["#1 OK SEND", "#2 ERROR unconfirmed bob left without confirming it"]


def test_what_was_written_once_stays_unconfirmed_after_an_adoption(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    alice.say("#1 SEND bob one")
    bob.leave()
    alice.say("#2 SEND bob two")
    heir = _silent_heir(world)
    heir.leave()
    world.wait(60 + protocol.WALK_PAUSE)
    fates = [line for line in alice.hears() if " ERROR " in line]
    assert [fate.split(" ")[2] for fate in fates] == ["unconfirmed", "unconfirmed"]


def _silent_heir(world: World) -> Person:
    return world.connect().say("KEEP", f"LOGIN bob {PASSWORD}")


def test_a_plain_login_adopts_too_and_the_senders_are_told_ok(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    bob.leave()
    alice.say("#2 SEND bob two")
    alice.hears()
    bob = world.connect().say(f"LOGIN bob {PASSWORD}")
    assert bodies(bob.hears())[1:] == ["MSG alice 2 two", "ONLINE alice bob"]
    assert alice.hears() == ["#2 OK SEND", "PRESENCE +bob"]


def test_takeover_of_a_kept_session_adopts(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob", kept=True)
    alice.say("#1 SEND bob one")
    other = world.connect().say("KEEP", f"TAKEOVER bob {PASSWORD}")
    assert bob.hears()[-1] == "BYE replaced"
    assert bodies(other.hears())[2:] == ["@1 MSG alice 1 one", "ONLINE alice bob"]
    other.say("ACK 1")
    assert alice.hears()[-1] == "#1 OK SEND"


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
    _work_up_to(world, "log_in")
    world.now += 4  # less than what would look like a suspended server
    world.turn()
    world.working = True
    assert "ONLINE alice bob" in heir.hears()
    assert [line for line in alice.hears() if "#1" in line] == ["#1 ERROR not-delivered bob has left"]


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


def test_a_logout_finds_the_session_on_its_new_connection(world: World) -> None:
    bob = world.person("bob", kept=True)
    world.working = False
    bob.say("#5 LOGOUT")
    (logout,), world.hub.jobs = world.hub.jobs, []
    world.hub._statuses._claims.clear()  # as if a login that was refused by the disk had let the RESUME pass
    world.working = True
    bob.leave()
    bob = world.resume(token_of(world, "bob"), 0)
    assert bob.hears()[0] == "OK RESUME bob 5 0"
    world.hub.jobs.append(logout)
    assert bob.hears() == ["#5 OK LOGOUT"]
    assert bob.says("PING") == ["OK PING"]
    assert bob.says("WHO")[0].startswith("ERROR not-logged-in")


def test_a_hundred_are_back_without_a_commit_each(world: World) -> None:
    disk = Disk()
    before = World(disk)
    for number in range(100):
        before.person(f"user{number}", kept=True)
    after = before.restart()
    disk.writes = 0
    after.working = False
    back = [after.resume(str(account.token), 0) for account in disk.accounts.values()]
    after.working = True
    after.wait(1)
    assert all("OK RESUME" in person.hears()[0] for person in back)
    assert disk.writes <= 2
