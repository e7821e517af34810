"""The client at a real socket: a real server that the test turns by hand, people who type and what they see."""

from __future__ import annotations

import errno
import io
import json
import socket
import threading
import time
import typing
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from room import STEP, Room, dial_in_clear
from vocabulary import PASSWORD, examples
from wire import PATIENCE

import client
import protocol
from client import Chat, Line, Link, Plain
from protocol import ClientSession

# --- Conversations ---


def test_register_log_in_talk_and_leave(room: Room) -> None:
    alice_chat, alice = room.desk()
    room.types(alice, see="/register NAME")
    room.types(alice, "/register alice", PASSWORD, PASSWORD, see="-- online: alice")
    assert alice.prompts == ["New password for alice: ", "Repeat password: "]
    assert alice.seen[:2] == ["-- alice is registered", "-- you are alice"]
    _, bob = room.person("bob")
    room.until(lambda: "-- bob is online" in alice.seen)
    room.types(bob, "/msg alice good  morning ", see="-> alice: good  morning ")
    room.until(lambda: any(line.endswith(" bob: good  morning ") for line in alice.seen))
    room.types(alice, "/r hello", "y", see="-> bob: hello")
    assert alice.prompts[-1] == 'send "hello" to bob? y/n '
    room.types(bob, "/to alice", "and now?", "//who is a command", see="-> alice: /who is a command")
    assert any(line.endswith(" -> alice: and now?") for line in bob.seen)
    room.types(alice, "/who", see="-- online: alice bob")
    room.types(alice, "/quit", see="-- logged out")
    room.until(lambda: alice_chat.status == 0)
    room.until(lambda: "-- alice has left" in bob.seen)
    room.types(bob, "still there?", see="!! not delivered to alice (not-online: ")


def test_the_commands_of_the_wire_work_as_typed(room: Room) -> None:
    _, bob = room.desk()
    room.types(bob, "REGISTER bob first-one", see="-- online: bob")
    room.types(bob, "WHO", "SEND bob hi", "PING yo", see="-- PING yo ")
    room.until(lambda: any(line.endswith("-> bob: hi") for line in bob.seen))
    room.types(bob, "PASSWD first-one another-one", see="-- the password is changed")
    room.types(bob, "LOGOUT", see="-- logged out")
    room.types(bob, "LOGIN bob another-one", see="-- you are bob; last login ")
    room.types(bob, "LOGIN bob first-one", see="!! LOGIN: ")
    room.types(bob, "LOGOUT", "LOGIN bob first-one", see="!! LOGIN: wrong name or password (bad-login)")
    room.types(bob, "LOGIN bob another-one", see=", 1 failed attempt since")


def test_a_ping_that_waits_for_the_link_takes_no_longer_for_that(room: Room) -> None:
    _, bob = room.person("bob")
    room.stop()
    room.until(lambda: any("trying again" in line for line in bob.seen))
    bob.typed.append("/ping")
    for _ in range(100):
        room.step()
    room.start()
    room.types(bob, see="-- PING ")
    took = next(float(line.split()[2]) for line in bob.seen if line.startswith("-- PING "))
    assert took < 2_000 * STEP


def test_a_name_that_is_online_can_be_taken_over(room: Room) -> None:
    first_chat, first = room.person("bob")
    _, second = room.desk()
    room.types(second, "/login bob", PASSWORD, "n", see="!! LOGIN: bob is online since")
    assert second.prompts == ["Password for bob: ", "end that session and log in here? y/n (hidden) "]
    room.types(second, f"LOGIN bob {PASSWORD}", see="-- /takeover bob ends the other session and logs you in")
    room.types(second, "/takeover bob", PASSWORD, see="-- you are bob")
    room.until(lambda: "-- " + protocol.BYE_WORDS["replaced"] in first.seen)
    seen = len(first.seen)
    for _ in range(300):
        room.step()
    assert len(first.seen) == seen  # and it does not come back
    assert not first_chat.link.is_up
    room.types(second, "/quit", see="-- logged out")
    room.types(first, f"LOGIN bob {PASSWORD}", see="-- you are bob")


def test_a_new_password_is_asked_for_until_it_can_be_used(room: Room) -> None:
    _, bob = room.desk()
    room.types(bob, "/register bob", "", see="-- no password, so nothing was done")
    room.types(bob, "/register bob", PASSWORD, "something else", see="!! the two are not the same: once more, please")
    room.types(bob, PASSWORD, "", see="-- no password, so nothing was done")
    bob.prompts.clear()
    room.types(bob, "/register bob", "short", see="!! REGISTER: a password has at least 8 characters")
    room.types(bob, PASSWORD, PASSWORD, see="-- online: bob")
    assert bob.prompts == ["New password for bob: ", "New password for bob: ", "Repeat password: "]


def test_a_password_is_changed_by_a_dialogue(room: Room) -> None:
    _, bob = room.person("bob")
    bob.prompts.clear()
    room.types(bob, "/passwd", "wrong one", "another-one", "another-one", see="!! PASSWD: the old password is wrong")
    room.types(bob, PASSWORD, "short", see="!! PASSWD: a password has at least 8 characters")
    room.types(bob, "another-one", "another-two", see="!! the two are not the same: once more, please")
    room.types(bob, "another-one", "another-one", see="-- the password is changed")
    assert bob.prompts == [
        "Old password: ", "New password: ", "Repeat password: ", "Old password: ",
        "New password: ", "New password: ", "Repeat password: ", "New password: ", "Repeat password: ",
    ]  # fmt: skip
    room.types(bob, "/passwd", "", see="-- no password, so nothing was done")


def test_after_too_many_wrong_passwords_the_next_is_asked_for_when_it_may_be_tried(room: Room) -> None:
    room.account("bob")
    _, desk = room.desk()
    room.types(desk, "/login bob", *["wrong one"] * 4, see="!! LOGIN: 1 s to wait after so many wrong passwords")
    asked = len(desk.prompts)
    assert asked == 4
    before = room.clock.now
    room.until(lambda: len(desk.prompts) > asked)
    assert room.clock.now - before >= 0.9
    assert desk.prompts[-1] == "Password for bob (Enter alone gives up): "
    room.types(desk, PASSWORD, see="-- you are bob")


def test_a_password_is_not_asked_for_again_where_none_would_do(room: Room) -> None:
    room.rig.hub.settings = room.rig.hub.settings._replace(registration=False)
    _, desk = room.desk()
    room.types(desk, "/register bob", PASSWORD, PASSWORD, see="!! REGISTER: new accounts are closed on this server")
    room.types(desk, "/who", see="!! WHO: log in first")
    assert desk.prompts == ["New password for bob: ", "Repeat password: "]
    room.rig.hub.settings = room.rig.hub.settings._replace(registration=True)
    (_, bob), (_, elsewhere) = room.person("bob"), room.desk()
    bob.prompts.clear()
    bob.typed += ["/passwd", PASSWORD, "another-one"]
    room.until(lambda: bob.prompts[-1:] == ["Repeat password: "])
    room.types(elsewhere, f"TAKEOVER bob {PASSWORD}", see="-- you are bob")
    room.types(bob, "another-one", see="!! PASSWD: log in first: /login NAME (not-logged-in)")
    room.types(bob, "/who", see="!! WHO: log in first")
    assert bob.prompts == ["Old password: ", "New password: ", "Repeat password: "]


def test_after_too_many_new_accounts_the_password_is_asked_for_when_it_may_be_tried(room: Room) -> None:
    chat, _ = room.desk()
    dialogue = chat.accounts.registering("bob", "")
    steps = [dialogue.send(answer) for answer in (None, PASSWORD, PASSWORD)]
    assert isinstance(steps[-1], client.Await)
    words = "7 s to wait: many new accounts came from your address"
    refused = protocol.Refused(steps[-1].tag, "REGISTER", protocol.Code.TOO_MANY.word, words, 7)
    assert [dialogue.send(refused), next(dialogue)] == [client.Pause(7), client.Ask("New password for bob: ")]


def test_whoever_has_no_account_yet_is_told_how_to_make_one(room: Room) -> None:
    _, desk = room.desk(user="eve")
    room.types(desk, PASSWORD, see="-- if you are new here: /register eve")
    room.types(desk, "wrong one", see="-- if you have forgotten it: whoever runs the server can set a new one")
    room.types(desk, "wrong one", see="!! LOGIN: wrong name or password")
    assert not any("if you " in line for line in desk.seen)  # each is said once
    room.types(desk, "/register eve", PASSWORD, PASSWORD, see="-- you are eve")
    _, other = room.desk()
    room.types(other, "/register eve", PASSWORD, PASSWORD, see="-- if this is your account, log in with its password")
    room.types(other, "wrong one", "", see="-- no password, so nothing was done")
    assert not any("if you are new here" in line for line in other.seen)  # that account is there


def test_a_name_that_looks_like_another_is_no_account_to_log_in_to(room: Room) -> None:
    room.person("bob")
    _, desk = room.desk()
    room.types(desk, "/register b0b", PASSWORD, PASSWORD, see="!! REGISTER: b0b looks like a name that is taken")
    room.types(desk, "/who", see="!! WHO: log in first")
    assert desk.prompts == ["New password for b0b: ", "Repeat password: "]


def test_with_a_user_the_password_is_asked_for_at_once(room: Room) -> None:
    room.account("bob")
    _, desk = room.desk(user="bob")
    assert desk.prompts == ["Password for bob: "]
    room.types(desk, PASSWORD, see="-- you are bob")
    assert not any("/register NAME" in line for line in desk.seen)


def test_a_lost_connection_is_mended_and_nothing_typed_is_lost(room: Room) -> None:
    (alice_chat, alice), (_, bob) = room.person("alice"), room.person("bob")
    room.types(bob, "/msg alice one", see="-> alice: one")
    room.stop()
    room.until(lambda: "-- trying again in 1 s" in alice.seen)
    assert not alice_chat.link.is_up
    room.types(bob, "/msg alice two", see="-- nobody listens at lab port 5000")
    assert any(line.endswith("the server to start it; trying again in 2 s") for line in bob.seen)
    room.start()
    room.until(lambda: any(line.endswith("-> alice: two") for line in bob.seen))
    assert sum(line.endswith(" bob: two") for line in alice.seen) == 1
    assert sum(line.endswith(" bob: one") for line in alice.seen) == 1
    assert any(line.startswith("-- back as alice after ") for line in alice.seen)


def test_what_stands_in_a_pipe_is_done_in_order_and_the_fates_are_waited_for(room: Room) -> None:
    chat, pipe = room.desk(interactive=False)
    pipe.typed += [f"REGISTER bot {PASSWORD}", f"LOGIN bot {PASSWORD}", "", "SEND bot one", "SEND bot two", None]
    assert room.ends(chat) == 0
    assert pipe.seen[:4] == ["-- connected", "-- bot is registered", "-- you are bot", "-- online: bot"]
    assert [line[9:] for line in pipe.seen[4:-1]] == ["bot: one", "bot: two", "-> bot: one", "-> bot: two"]
    assert pipe.seen[-1] == "-- logged out"


def test_with_to_every_line_of_a_pipe_is_a_message(room: Room) -> None:
    room.account("bot")
    chat, pipe = room.desk(interactive=False, user="bot", to="bot", secret=PASSWORD)
    pipe.typed += ["LOGOUT", "", "/quit", "SEND eve x", None]
    room.until(lambda: chat.status is not None)
    assert pipe.delivered == [
        "-> bot: LOGOUT",
        "-> bot: /quit",
        "-> bot: SEND eve x",
    ]


def test_a_pipe_names_somebody_before_its_login_is_answered(room: Room) -> None:
    chat, pipe = room.desk(interactive=False)
    pipe.typed += [f"REGISTER bot {PASSWORD}", f"LOGIN bot {PASSWORD}", "bot: one", "two", "/me waves"]
    pipe.typed += ["note: three", None]
    room.until(lambda: chat.status == 1)
    assert pipe.delivered == ["-> bot: one", "-> bot: two", "-> bot: * bot waves"]
    assert "not delivered to note (not-online" in "\n".join(pipe.seen)


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("FOO bar", "to whom? SEND NAME TEXT, or /to NAME first; /help lists the commands"),
        ("SEND bob", "it is used like this: SEND NAME TEXT"),
        ("PASSWD old", "it is used like this: PASSWD OLD NEW"),
        ("/msg bob", "it is used like this: /msg NAME TEXT"),
        ("LOGIN nobody wrong-password", "LOGIN: wrong name or password (bad-login)"),
        ("SEND nobody hi", "not delivered to nobody (not-logged-in: log in first: /login NAME): hi"),
        ("/nonsense", "there is no /nonsense: /help lists the commands; to send that as text: //nonsense"),
    ],
)
def test_a_pipe_in_which_something_failed_says_so_and_ends_with_1(room: Room, line: str, advice: str) -> None:
    chat, pipe = room.desk(interactive=False)
    pipe.typed += [line, None]
    room.until(lambda: chat.status == 1)
    assert f"!! {advice}" in pipe.seen


def test_a_pipe_that_was_replaced_ends(room: Room) -> None:
    chat, _ = room.pipe("bob")
    _, bob = room.desk()
    room.types(bob, f"TAKEOVER bob {PASSWORD}", see="-- you are bob")
    room.until(lambda: chat.status == 1)


def test_a_pipe_that_cannot_come_back_ends(room: Room) -> None:
    chat, pipe = room.pipe("bob")
    room.start_without_accounts()
    room.until(lambda: chat.status == 1)
    assert any(line.startswith("!! log in again, /login bob: ") for line in pipe.seen)


def test_a_prompt_tells_that_one_has_to_log_in_again(room: Room) -> None:
    chat, bob = room.person("bob")
    room.types(bob, "/to bob", see="-- what you type goes to bob")
    room.start_without_accounts()
    room.until(lambda: any(line.startswith("!! log in again, /login bob: ") for line in bob.seen))
    assert [span.text for span in client.link_spans(chat.link, met=True)] == ["not logged in "]
    room.types(bob, f"REGISTER bob {PASSWORD}", see="-- online: bob")
    assert [span.text for span in client.link_spans(chat.link, met=True)] == ["1 online "]


@pytest.mark.parametrize(("code", "command"), [("bad-login", "/login bob"), ("already-online", "/takeover bob")])
def test_the_way_in_again_is_one_that_leads_there(code: str, command: str) -> None:
    (line,) = client.lines_of(protocol.LoginNeeded("bob", code, "why"))
    assert line == f"!! log in again, {command}: why ({code})"


def test_a_message_without_a_fate_is_given_up_in_the_end(room: Room) -> None:
    room.vanished("alice")
    chat, pipe = room.desk(interactive=False)
    pipe.typed += [f"REGISTER bob {PASSWORD}", f"LOGIN bob {PASSWORD}", "SEND alice hi", None]
    room.until(lambda: "-- alice has not got this yet: hi" in pipe.seen)
    room.clock.now += client.PIPE_LEAVE_SECONDS
    assert room.ends(chat) == 1
    assert "-- alice has not got this yet: hi" in pipe.seen
    assert any(line.startswith("!! not confirmed by alice (unknown: ") for line in pipe.seen)


def test_a_goodbye_without_an_answer_is_no_failure(room: Room) -> None:
    chat, pipe = room.pipe("bob")
    room.up = False  # nobody turns the server any more
    pipe.typed.append(None)
    for _ in range(20):
        room.step()
    assert chat.status is None
    room.clock.now += client.PIPE_LOGOUT_SECONDS
    assert room.ends(chat) == 0
    assert not any(line.startswith("!! ") for line in pipe.seen)


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Plain, list[bool]]]:
    """A front end without a line editor at a terminal, and what it has made of the terminal's echo."""
    echo: list[bool] = []
    monkeypatch.setattr(client, "set_echo", lambda on: bool(echo.append(on) or True))  # type: ignore[func-returns-value]
    monkeypatch.setattr(client, "is_terminal", lambda descriptor: True)
    front = Plain(io.StringIO(), interactive=True)
    yield front, echo
    front.close()


def test_behind_a_password_nothing_is_shown_until_its_consequence_is_known(
    asking: tuple[Plain, list[bool]], capsys: Any
) -> None:
    front, echo = asking
    answers: list[str | None] = []
    front._questions.then = answers.append
    assert front.ask("one? ")
    for line in ("a", "typed ahead", "dropped"):
        front.mailbox.put(line)
    assert front.lines() == [] and front.lines() == []
    assert answers == ["a"] and echo == [False]
    assert front.ask("two? ")
    assert front.lines() == []
    assert answers[1] in ("typed ahead", "dropped")
    front.mailbox.put("a secret, perhaps")
    assert front.lines() == [] and echo == [False]
    front.release()
    assert echo == [False, True]
    front.mailbox.put("a line")
    assert front.lines() == [Line("a line")]
    front.flush(None)
    hidden = "one moment; what you type is hidden, and not sent\n"
    assert capsys.readouterr().err == f"one? \n{hidden}two? \n{hidden}"


def test_a_question_is_printed_behind_what_is_shown(
    asking: tuple[Plain, list[bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emacs, and others that read along, know a password prompt only if it comes last."""
    front, _ = asking
    printed = front._out
    assert isinstance(printed, io.StringIO)
    monkeypatch.setattr("sys.stderr", printed)  # one terminal

    def refuse(answer: str | None) -> None:
        assert front.ask("Again: ")
        front.show(client.Note("wrong"))

    front._questions.then = refuse
    assert front.ask("Password: ")
    front.flush(None)
    front.mailbox.put("a secret")
    assert front.lines() == []
    front.show(client.Note("meanwhile"))
    front.flush(None)
    assert printed.getvalue() == "Password: \n-- wrong\n-- meanwhile\nAgain: \n"


def test_a_visible_question_shows_its_answer(asking: tuple[Plain, list[bool]]) -> None:
    front, echo = asking
    answers: list[str | None] = []
    front._questions.then = answers.append
    assert front.ask("password? ")
    front.mailbox.put("secret")
    assert front.lines() == []
    assert front.ask("y/n ", hidden=False)
    assert echo == [False, True]
    front.mailbox.put("y")
    front.mailbox.put("next")
    assert front.lines() == [Line("next")]
    front.mailbox.put("typed before it could be read")
    assert front.ask("y/n ", hidden=False)
    assert front.lines() == [] and answers == ["secret", "y"]


def test_a_question_that_cannot_be_hidden_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "set_echo", lambda on: False)
    front = Plain(io.StringIO(), interactive=True)
    assert not front.ask("password: ")
    front.mailbox.put("a line")
    assert front.lines() == [Line("a line")]
    front.close()


def test_a_script_waits_for_the_ghost_of_the_one_before(room: Room) -> None:
    before, _ = room.person("bot")
    before.status = 0  # it is turned no more: a machine that was switched off
    _, pipe = room.desk(interactive=False, user="bot", secret=PASSWORD, to="bot")
    pipe.typed.append("is anybody there?")
    room.until(lambda: any(line.endswith("-> bot: is anybody there?") for line in pipe.seen))
    assert sum(line.startswith("-- not back yet: bot is online since ") for line in pipe.seen) in (1, 2)


def test_whoever_types_need_not_wait_for_the_countdown(room: Room) -> None:
    chat, bob = room.person("bob")
    room.stop()
    room.until(lambda: sum("trying again in" in line for line in bob.seen) >= 4)
    assert (chat.link.redial_in or 0) > 3
    room.start()
    bob.typed.append("")
    asked = room.clock.now
    room.until(lambda: any(line.startswith("-- back as bob") for line in bob.seen))
    assert room.clock.now - asked < 2


def test_enter_dials_at_once_where_nobody_waits_to_come_back(room: Room) -> None:
    chat, desk = room.desk()
    room.until(lambda: "-- connected" in desk.seen)
    room.stop()
    room.until(lambda: not chat.link.is_up)
    room.start()
    for _ in range(100):
        room.step()
    assert not chat.link.is_up and chat.link.redial_in is None
    asked = room.clock.now
    room.types(desk, "", see="-- connected")
    assert room.clock.now - asked < 2


def test_ctrl_c_logs_out_and_twice_leaves_at_once(room: Room) -> None:
    chat, bob = room.person("bob")
    room.types(bob, None, see="-- logged out")
    room.until(lambda: chat.status == 0)
    chat, _ = room.desk()
    room.up = False
    chat.interrupt()
    chat.interrupt()
    room.until(lambda: chat.status == 0)


def test_leaving_with_something_unanswered_says_so_and_twice_leaves_at_once(room: Room) -> None:
    room.vanished("alice")
    chat, bob = room.person("bob")
    room.types(bob, "/msg alice hi", "/quit", see="-- leaving when all is answered, 5 s at the most; once more")
    assert chat.status is None
    bob.typed.append("/quit")
    room.until(lambda: chat.status == 0)


class Way:
    """A link that somebody leaves who is logged in, with a command without an answer."""

    def __init__(self) -> None:
        self.clock, self.has_met, self.logged_in, self.unanswered = 0.0, True, True, 1
        self.session = self

    def now(self) -> float:
        return self.clock

    def abandon(self) -> None:
        self.unanswered = 0

    def logout(self) -> int:
        self.unanswered = 1
        return 7


@pytest.mark.parametrize(
    ("happens", "stages"),  # and the stage after it, from each stage on
    [("insists", ["SETTLING", "GONE", "GONE", "GONE"]), ("ends", ["SETTLING", "SETTLING", "LOGGING_OUT", "GONE"])]
    + [("answered", ["HERE", "LOGGING_OUT", "GONE", "GONE"]), ("impatient", ["HERE", "LOGGING_OUT", "GONE", "GONE"])]
    + [("waits", ["HERE", "SETTLING", "LOGGING_OUT", "GONE"]), ("out", ["HERE", "GONE", "GONE", "GONE"])],
)
def test_the_way_out_is_as_its_table_says(happens: str, stages: list[str]) -> None:
    for stage, after in zip(client.LeavingStage, stages, strict=True):
        way = Way()
        leaving = client.Leaving(typing.cast(Link, way), interactive=True)
        for steps in range([*client.LeavingStage].index(stage)):
            if steps == 0:
                assert leaving.begin(None, insists=True)
            else:
                way.unanswered = 0
                leaving.tick()
        assert leaving.stage is stage
        if happens in ("insists", "ends"):
            assert leaving.begin(None, insists=happens == "insists") == (stage is client.LeavingStage.HERE)
        way.unanswered = int(happens not in ("answered", "out"))
        way.logged_in = happens != "out"
        way.clock += client.LEAVE_SECONDS if happens == "impatient" else 1.0
        leaving.tick()
        assert leaving.stage.name == after


def test_a_terminal_that_is_closed_tells_so_in_several_ways_and_logs_out_all_the_same(room: Room) -> None:
    room.vanished("alice")
    _, eve = room.person("eve")
    chat, bob = room.person("bob")
    room.types(bob, "/msg alice hi", see="-- alice has not got this yet")

    def flush(to: str | None) -> None:
        raise OSError(errno.EIO, "the terminal is gone")

    bob.flush = flush  # type: ignore[method-assign]
    chat.hang_up()
    chat.hang_up()
    room.step()
    chat.hang_up()
    room.until(lambda: chat.status == 0)
    room.until(lambda: "-- bob has left" in eve.seen)
    assert "-- bob lost the connection" not in eve.seen


# --- Lines that are wrong, and help ---


@pytest.mark.parametrize(
    ("line", "words"),
    [("/nonsense x", "there is no /nonsense: /help lists the commands; to send that as text: //nonsense")]
    + [("hello", "log in first: /login NAME")]
    + [("/msg bob", "it is used like this: /msg NAME TEXT"), ("SEND", "it is used like this: SEND NAME TEXT")]
    + [("/login", "it is used like this: /login NAME"), ("/register", "it is used like this: /register NAME")]
    + [("/takeover", "it is used like this: /takeover NAME"), ("/r", "it is used like this: /r TEXT")]
    + [("/xyz hi", "there is no /xyz: /help"), ("/mgs bob hi", "there is no /mgs: did you mean /msg? /help lists")]
    + [("/r hi", "nobody has written yet"), ("/to two words", "it is used like this: /to [NAME]")]
    + [("PASSWD one", "it is used like this: PASSWD OLD NEW"), ("//hi", "log in first")]
    + [("send bob hi", "log in first"), ("WHO are you", "log in first"), ("/who me", "it is used like this: /who")]
    + [("/bell loud", "it is used like this: /bell [off|title|msg|all]"), ("/me", "it is used like this: /me TEXT")]
    + [("/\x1b[2J", "there is no /<U+001B>[2J"), (" hello", "log in first"), ("  /nonsense", "there is no /nonsense")]
    + [("/login b@b", "that cannot be anybody's name: a name is 1 to 32 letters")]
    + [("/register no-%", "that cannot be anybody's name"), ("/login bob hunter22", "a password is asked for without")]
    + [("/register Mary Magdalena", "a password is asked for without showing it, and a name has no spaces")]
    + [("/passwd one two", "a password is asked for without showing it"), ("/passwd", "log in first: ")]
    + [("login bob hunter22", "this was not sent: it looks like a command with a password, such as /login")]
    + [("login bob", "this was not sent: it is taken for /login; Enter"), ("register", "this was not sent: it is")]
    + [("/lgoin bob", "there is no /lgoin: it is taken for /login;"), ("/join #lab", "there are no rooms; /to NAME")]
    + [
        ("/login bob\nold-secret", "a password is asked for without"),
        ("/loginhunter22", "there is no such command: it is used like this: /login NAME"),
    ]
    + [("quit", "this was not sent; the command is /quit;"), ("exit", "this was not sent; the command is /quit;")],
)
def test_a_wrong_line_is_answered_here(room: Room, line: str, words: str) -> None:
    chat, desk = room.desk()
    room.types(desk, line, see="!! " + words)
    assert chat.session.unanswered == 0 and not any("secret" in text for text in desk.seen)


@pytest.mark.parametrize("line", ["/msg bob hi", "/who", "PASSWD one-secret another-secret", "/all hi"])
def test_a_server_that_wants_a_login_first_is_told_with_the_command(room: Room, line: str) -> None:
    _, desk = room.desk()
    room.types(desk, line, see="log in first: /login NAME")
    failed = protocol.Failed(1, "bob", "hi", "not-logged-in", "log in first")
    assert client.said_look(failed, None).spans[-1].text == "  not delivered: log in first: /login NAME"


def test_a_recipient_in_the_prompt_is_the_target_from_then_on(room: Room) -> None:
    _, bob = room.person("bob")
    room.types(bob, Line("hi", to="bob"), see="-> bob: hi")
    room.types(bob, "this goes there too", "/me waves", see="-> bob: * bob waves")
    assert any(line.endswith("-> bob: this goes there too") for line in bob.seen)
    room.types(bob, "/to", Line("", to="bob"), see="-- what you type goes to bob")
    room.types(bob, "bob:", "bob:no space", see="-> bob: bob:no space")
    room.types(bob, Line("/quit", to="bob"), see="-> bob: /quit")


def test_the_words_that_stand_for_a_recipient(room: Room) -> None:
    chat, bob = room.person("bob")
    assert chat.recipients.expand("/r") is None
    room.types(bob, "/msg bob hi", see=" bob: hi")
    assert chat.recipients.expand("/r") == ("", "/msg bob ")
    assert chat.recipients.expand("BOB:") == ("bob", "")
    assert chat.recipients.expand("@BOB") == ("", "/msg bob ")
    assert chat.recipients.expand("@zoe") == ("", "/msg zoe ")
    assert [chat.recipients.expand(word) for word in ("zoe:", "bob", "@", ":", "hi bob:", "/msg")] == [None] * 6


def test_what_is_meant_for_somebody_else_does_not_reach_the_target(room: Room) -> None:
    """The other one has an account, but has not been here since we came."""
    room.account("bob")
    carol, alice = room.people("carol", "alice")
    question = 'nobody called bob is known here; send "bob: I think carol is wrong" to carol? y/n '
    room.types(alice, "/to carol", "bob: I think carol is wrong", see="-- what you type goes to carol")
    room.until(lambda: alice.prompts == [question])
    room.types(alice, "n", see="-- nothing was sent")
    room.types(alice, "@bob carol must not know", "", see="-- nothing was sent")
    room.types(alice, "PS: bring the key", "y", see="-> carol: PS: bring the key")
    room.types(alice, "ps: bring the light", see="-> carol: ps: bring the light")  # the word is no name, as we know now
    room.types(alice, "http://x.y/z", "12:30 is fine", "carol: literally", "so: x", "n", see="carol: carol: literally")
    assert [line.split(": ", 1)[1] for line in alice.seen if " -> " in line] == [
        "http://x.y/z", "12:30 is fine", "carol: literally",
    ]  # fmt: skip
    room.person("ps")
    room.until(lambda: "-- ps is online" in alice.seen)
    room.types(alice, "ps: for whom?", "", see="-- nothing was sent")
    assert alice.prompts[-1] == 'to whom is "ps: for whom?", ps or carol? '
    assert not any("wrong" in line or "know" in line for line in carol.seen)


def test_a_line_that_names_another_is_asked_about(room: Room) -> None:
    carol, bob, alice = room.people("carol", "bob", "alice")
    room.types(alice, "/to carol", "bob: hello", see="-- what you type goes to carol")
    room.until(lambda: alice.prompts == ['to whom is "bob: hello", bob or carol? '])
    room.types(alice, "bob", see="-> bob: hello")
    room.types(alice, "carol: and you", "", see="-- nothing was sent")
    room.types(alice, "carol: and you", "@bob", see="-> bob: carol: and you")
    assert not any("hello" in line for line in carol.seen)
    assert sum(" alice: " in line for line in bob.seen) == 2


def test_a_block_goes_to_the_letter_to_whom_the_prompt_names(room: Room) -> None:
    chat, carol = room.person("carol")
    _, bob = room.person("bob")
    room.types(bob, "/to bob", see="-- what you type goes to bob")
    for text in ("carol: I think bob is lazy\nbob: I know", "/etc/passwd\n/etc/group", "WHO\nare you"):
        told = text.replace("\n", "\\n")
        room.types(bob, Line(text, block=True), see="-> bob: " + told)
    assert chat.recipients.to is None and not any("lazy" in line for line in carol.seen)
    assert not bob.prompts


@pytest.mark.parametrize(
    "line",
    [Line("login alice secret-1", to="bob"), Line("/login alice\nsecret-1", block=True), "lgoin alice secret-1"]
    + ["password secret-1 secret-2", "-login alice secret-1", "login alice:secret-1", "\uff4cogin alice secret-1"]
    + ["Login: alice secret-1", "passwd: secret-1 secret-2", '"/login alice secret-1'],
)
def test_what_looks_like_a_secret_is_sent_to_nobody(room: Room, line: str | Line) -> None:
    _, bob = room.person("bob")
    room.types(bob, "/to bob", see="-- what you type goes to bob")
    room.types(bob, line, "n", see="-- nothing was sent")
    assert bob.prompts == ["this looks like a command with a password; send it to bob? y/n (hidden) "]
    room.types(bob, "the end", see="-> bob: the end")
    assert not any("secret" in text for text in bob.seen)
    assert client.holds_secret(line if isinstance(line, Line) else Line(line))


@pytest.mark.parametrize(
    "line",
    ["LOGIN bob secret", "/login bob secret", "REGISTER a b", "/takeover a b c", "PASSWD a b", "/login b\nsecret"],
)
def test_lines_with_passwords_are_known(line: str) -> None:
    for words in (line, f"/msg bob {line}", f"/all {line}"):
        assert client.holds_secret(Line(words))
    for words in ("/login bob", "/msg bob log x y z"):
        assert not client.holds_secret(Line(words))


def test_one_word_as_long_as_a_message_is_looked_at_at_once() -> None:
    """Every letter left out in turn took minutes of it: nobody would wait for this test."""
    word = "x" * protocol.CLIENT_FRAME_MAX
    assert not client.looks_secret(f"{word} {word}") and not client.looks_secret(f"/{word}")


@pytest.mark.parametrize(
    "line",
    [f"{command} /login bob hunter22" for command in
     ("/msg alice", "SEND alice", "/w alice", "/r", "/all", "/me", "@alice", "/msg alice,bob", "alice:")]
    + ["/all login bob hunter22", "alice: login bob hunter22"]
    + [f"/msg alice {text}" for text in ("lgoin bob hunter22", "/passwd hunter22 hunter33")]
    + [Line("/login bob hunter22", to="alice"), Line("/register bob", to="alice", unseen=True)],
)  # fmt: skip
def test_a_login_behind_a_recipient_is_asked_about_and_not_kept(room: Room, line: str | Line) -> None:
    alice, bob = room.people("alice", "bob")
    room.types(alice, "/all hi", see="-> *: hi")
    room.types(bob, "/to alice", line, see="-- what you type goes to alice")
    room.until(lambda: bob.prompts)
    assert bob.prompts[-1].startswith("this looks like a command with a password; send it to ")
    assert bob.answers[0], "hidden"
    room.types(bob, "n", see="-- nothing was sent")
    assert bob.seen == ["-- nothing was sent"]  # and it cannot be had again
    room.types(bob, "/msg alice the end", see="-> alice: the end")
    assert not any("hunter" in seen for seen in alice.seen)
    assert client.holds_secret(line if isinstance(line, Line) else Line(line))
    bob.typed += [line, "y"]
    room.until(lambda: any("hunter" in seen or "/register" in seen for seen in alice.seen))


@pytest.mark.parametrize(
    "line",
    ["the login works now", "long live the login", "password please", "long time no see you", "passed all tests"]
    + ["passed the exam", "logic board broken", "logging in now", "passwords are hashed", "registered two people"],
)
def test_what_only_sounds_like_a_secret_is_none(line: str) -> None:
    assert not client.holds_secret(Line(line))


def test_a_recipient_that_was_not_seen_is_asked_about(room: Room) -> None:
    _, carol = room.person("carol")
    chat, bob = room.person("bob")
    room.types(bob, "/to bob", see="-- what you type goes to bob")
    room.types(bob, Line("at once", to="carol", unseen=True), "n", see="-- nothing was sent")
    room.types(bob, Line("/msg carol at once", unseen=True), "n", see="-- nothing was sent")
    assert bob.prompts == ['send "at once" to carol? y/n '] * 2
    assert chat.recipients.to == "bob" and not any("at once" in line for line in carol.seen)
    room.types(bob, Line("at once", to="bob", unseen=True), see="-> bob: at once")
    room.types(bob, Line("/msg carol after all", unseen=True), "y", see="-> carol: after all")


def test_text_behind_a_recipient_that_was_deleted_is_asked_about(room: Room) -> None:
    """`carol: x`, the x deleted and written anew: the prompt is bob's again, and the person may not have looked."""
    _, bob = room.people("carol", "bob")
    room.types(bob, "/to bob", Line("for whom?", dropped="carol"), "n", see="-- nothing was sent")
    assert bob.prompts == ['send "for whom?" to bob? y/n ']
    room.types(bob, Line("/who", dropped="carol"), see="-- online: bob carol")
    room.types(bob, Line("to me", dropped="BOB"), see="-> bob: to me")
    room.types(bob, Line("to her", to="carol", dropped="bob"), see="-> carol: to her")
    room.types(bob, Line("//me", dropped="bob"), "n", see="-- nothing was sent")
    assert bob.prompts[1:] == ['send "/me" to carol? y/n ']


def test_a_person_called_yes_gets_nothing_by_an_answer(room: Room) -> None:
    y, _, _, alice = room.people("y", "carol", "bob", "alice")
    room.types(alice, "/to bob", "carol: gossip", "y", see="!! nobody called y is known here; Enter alone")
    room.types(alice, "", see="-- nothing was sent")
    room.types(alice, "/to", "gossip", "y", see="!! nobody called y is known here")
    assert not any("gossip" in line for line in y.seen)


def test_a_question_is_judged_again_when_it_is_answered(room: Room) -> None:
    _, alice = room.people("carol", "alice")
    room.types(alice, "/to carol", "bob: I think", see="-- what you type goes to carol")
    room.until(lambda: alice.prompts)
    room.person("bob")
    room.until(lambda: "-- bob is online" in alice.seen)
    room.types(alice, "y", "bob", see="-> bob: I think")
    assert alice.prompts[1:] == ['to whom is "bob: I think", bob or carol? ']
    room.types(alice, "/to zed", "carol:hi", "zed", see="!! not delivered to zed")


def test_nothing_is_queued_for_a_recipient_before_the_login_is_answered(room: Room) -> None:
    room.account("bob")
    chat, desk = room.desk(to="bob")
    room.until(lambda: chat.link.is_up)
    desk.typed += [f"LOGIN bob {PASSWORD}", "not yet"]
    room.until(lambda: not desk.typed and "!! the login is not answered yet" in desk.seen)
    room.until(lambda: chat.session.logged_in)
    assert not any("not yet" in line for line in desk.seen if " -> " in line)


def test_many_lines_are_asked_about(room: Room) -> None:
    _, bob = room.person("bob")
    lines = "x\n" * client.LINES_ASKED + "x"
    room.types(bob, "/to bob", Line(lines, block=True), "n", see="-- nothing was sent")
    assert bob.prompts == [f"send {client.LINES_ASKED + 1} lines to bob? y/n "]
    room.types(bob, Line(lines, block=True), "y", see="-> bob: x")
    room.types(bob, Line("x\n" * (client.LINES_ASKED - 1) + "y", block=True), see="x\\ny")


def test_who_left_while_one_was_logged_out_is_still_known(room: Room) -> None:
    bob_chat, bob = room.person("bob")
    _, carol = room.person("carol")
    chat, alice = room.person("alice")
    room.types(alice, "/to carol", see="-- what you type goes to carol")
    room.types(alice, "/logout", see="-- logged out")
    bob.typed.append("/quit")
    room.until(lambda: bob_chat.status == 0)
    room.types(alice, f"LOGIN alice {PASSWORD}", see="-- online: alice carol")
    assert chat.recipients.expand("bob:") == ("bob", "")
    room.types(alice, Line("carol must not know", to="bob"), see="!! not delivered to bob (not-online: ")
    assert not any("must not know" in line for line in carol.seen)


def test_in_a_pipe_a_name_and_a_colon_set_the_target(room: Room) -> None:
    chat, pipe = room.pipe("bob")
    pipe.typed += ["hello", "BOB: hi", "and this", "@bob at", "@bob: once", "zoe: not to bob", None]
    room.until(lambda: chat.status is not None)
    assert pipe.delivered == [
        "-> bob: hi", "-> bob: and this", "-> bob: at", "-> bob: once",
    ]  # fmt: skip
    assert "!! to whom? SEND NAME TEXT, or /to NAME first; /help lists the commands" in pipe.seen
    assert "!! nobody called zoe is known here; for bob: SEND bob zoe: …" in pipe.seen


@pytest.mark.parametrize("line", [" PASSWD old-secret new-secret", " LOGIN bob old-secret", "  /passwd old-secret x"])
def test_a_password_behind_a_space_is_no_message(room: Room, line: str) -> None:
    _, bob = room.person("bob")
    room.types(bob, "/to bob", line, see="!! ")
    bob.typed.append("")  # gives a question up, if there is one
    room.types(bob, "the end", see="-> bob: the end")
    assert not any("secret" in text for text in bob.seen)
    assert client.holds_secret(Line(line))


def test_what_the_server_refuses_without_a_tag_is_shown(room: Room) -> None:
    chat, bob = room.person("bob")
    chat.session._outbox.append(protocol.frame(b"PING \xff"))
    room.until(lambda: any(line.startswith("!! refused: ") for line in bob.seen))
    assert chat.failed


def test_the_target_is_written_as_the_server_writes_it(room: Room) -> None:
    _, alice = room.people("Bob", "alice")
    room.types(alice, "/to bOB", see="-- what you type goes to Bob")
    room.types(alice, "/to nobody.here", see="-- what you type goes to nobody.here, who is not online")
    _, carol = room.desk(to="BOB")
    room.types(carol, "REGISTER carol " + PASSWORD, see="-- online: ")
    room.types(carol, "hi", see="-> Bob: hi")


def test_a_crowd_is_one_sentence() -> None:
    crowd = tuple(f"u{number}" for number in range(12))
    words = client.presence_words(protocol.Presence(came=crowd, left=("eve",), returned=("al", "bo")))
    assert words[0] == "u0, u1, u2, u3, u4, u5, u6, u7, u8, u9 and 2 others are online"
    assert words[1:] == ["eve has left", "al and bo are back"]


def test_text_without_a_target_is_asked_for_one(room: Room) -> None:
    chat, bob = room.person("bob")
    room.types(bob, "hello", "", see="-- nothing was sent")
    assert bob.prompts == ['to whom is "hello"? (nobody else is here) ']
    room.person("carol")
    room.until(lambda: "-- carol is online" in bob.seen)
    room.types(bob, "hello", "/nobody", see="!! nobody called /nobody is known here; Enter alone")
    room.types(bob, "/quit it", see="!! it is used like this: /quit")
    room.types(bob, "/who", see="-- online: bob carol")
    assert bob.prompts[1:] == ['to whom is "hello"? (here: carol; * is everybody) '] * 4
    room.types(bob, "/to BOB", see="-> bob: hello")
    assert chat.recipients.to == "bob"
    room.types(bob, "/to", "bob: hi", "bob:", see="-> bob: hi")


def test_the_question_to_whom_says_why_and_what_and_takes_commands(room: Room) -> None:
    alice, bob = room.people("alice", "bob")
    room.types(
        bob, "zoe: the key is under the mat", "alice my secret plan", see="!! that is no name: type the name alone"
    )
    why = "nobody called zoe is known here; "
    question = why + 'to whom is "zoe: the key is under the mat"? (here: alice; * is everybody) '
    room.types(bob, "alice: another text", see="!! that is no name: type the name alone")
    room.types(bob, "/msg alice my secret plan", see="-> alice: my secret plan")
    room.types(bob, "@alice and this", see="-> alice: and this")
    assert bob.prompts == [question] * 5
    room.types(bob, "@alice", see="-> alice: zoe: the key is under the mat")
    room.types(bob, "/to", "x" * 100 + "\x1b[2J\n", "", see="-- nothing was sent")
    assert bob.prompts[-1] == f'to whom is "{"x" * client.QUOTED_MAX}…"? (here: alice; * is everybody) '
    room.types(bob, "\x1b]0;x\na", "/msg alice", see="-> alice: ")
    assert bob.prompts[-1] == 'to whom is "<U+001B>]0;x\\na"? (here: alice; * is everybody) '
    room.types(bob, "/to", "1. login bob hunter22", "", see="-- nothing was sent")
    assert bob.prompts[-1] == "to whom is this? (here: alice; * is everybody) "
    assert not any("hunter22" in line for line in alice.seen)


@pytest.mark.parametrize("answer", ["*", "all", "Everyone", "everybody", "/to *", "@all"])
def test_everybody_is_an_answer_to_the_question_to_whom(room: Room, answer: str) -> None:
    (_, alice), (chat, bob) = room.person("alice"), room.person("bob")
    room.types(bob, "hi all", answer, see="-> *: hi all")
    assert chat.recipients.to == client.EVERYONE
    room.until(lambda: any(line.endswith("bob -> *: hi all") for line in alice.seen))


def test_somebody_whose_name_is_a_word_for_everybody_is_meant_by_it(room: Room) -> None:
    """Accounts that are older than the rule that nobody is called so keep their names."""
    chat, bob = room.person("bob")
    chat.recipients.meet(["all"])
    room.types(bob, "hi all", "all", see="!! not delivered to all (not-online")
    assert chat.recipients.to == "all"


@pytest.mark.parametrize("name", ["everyone", "ALL", "you"])
def test_nobody_is_called_by_a_word_for_people(room: Room, name: str) -> None:
    """`→ everyone` would not tell who gets a message."""
    _, desk = room.desk()
    room.types(desk, f"/register {name}", see=f"!! {protocol.NO_NAME}")
    assert not any("password" in prompt.removeprefix("hidden, in case a password") for prompt in desk.prompts)
    room.types(desk, "", f"REGISTER {name} {PASSWORD}", see=f"!! REGISTER: {protocol.NO_NAME} (bad-username)")
    desk.typed.append(f"/login {name}")
    room.until(lambda: desk.prompts[-1] == f"Password for {name}: ")


def test_a_space_before_a_text_is_a_part_of_it(room: Room) -> None:
    _, bob = room.person("bob")
    room.types(bob, "/to bob", "  indented", see="-> bob:   indented")


def test_after_a_wrong_password_the_next_one_is_asked_for(room: Room) -> None:
    room.account("bob")
    _, desk = room.desk()
    room.types(desk, "/login bob", "wrong one", see="!! LOGIN: wrong name or password")
    room.types(desk, PASSWORD, see="-- you are bob")
    assert desk.prompts == ["Password for bob: ", "Password for bob (Enter alone gives up): "]
    room.types(desk, "/logout", see="-- logged out")
    room.types(desk, "/takeover bob", "wrong two", see="!! TAKEOVER: wrong name or password")
    room.types(desk, "", see="-- no password, so nothing was done")
    room.types(desk, "LOGIN bob wrong-three", see="!! LOGIN: ")  # typed into the line: nobody was asked
    room.types(desk, "/who", see="!! WHO: log in first")


def test_a_person_may_stop_waiting_for_the_answer_to_a_password(room: Room) -> None:
    room.account("bob")
    chat, desk = room.desk()
    room.types(desk, "/login bob", see="")
    desk.typed.append("wrong one")
    room.until(lambda: not desk.typed)
    chat.dialogues.answer("")  # Ctrl-C while the server has not answered yet
    room.until(lambda: any("wrong name or password" in line for line in desk.seen))
    assert desk.prompts == ["Password for bob: "]


def test_the_given_password_is_for_the_first_login_of_a_person_and_no_other(room: Room) -> None:
    room.account("bob")
    room.account("carol")
    _, desk = room.desk(user="bob", secret=PASSWORD)
    room.types(desk, see="-- you are bob")
    room.types(desk, "/logout", see="-- logged out")
    room.types(desk, "/login carol", PASSWORD, see="-- you are carol")
    assert desk.prompts == ["Password for carol: "]


def test_comings_and_goings_can_be_hidden(room: Room) -> None:
    _, bob = room.person("bob")
    room.types(bob, "/quiet", "/bell all", see="-- the bell rings for messages, comings and goings; ")
    alice_chat, alice = room.person("alice")
    alice.typed += ["/msg bob hi", "/quit"]
    room.until(lambda: alice_chat.status == 0)
    room.types(bob, "/quiet", "/who", see="-- online: bob")
    assert not any("alice" in line for line in bob.seen if line.startswith("-- "))
    assert bob.rung >= 3


def test_a_log_that_cannot_be_written_is_told_once_and_goes_on_when_there_is_room(room: Room) -> None:
    class Disk(io.StringIO):
        full = True

        def write(self, text: str) -> int:
            if self.full:
                raise OSError(28, "No space left on device")
            return super().write(text)

    log = Disk()
    _, bob = room.desk(log=log)
    told = "!! the log cannot be written: No space left on device; it goes on as soon as it can"
    room.until(lambda: told in bob.seen)
    missing = len(bob.seen)
    room.types(bob, "/help", see="-- /help COMMAND")
    missing += len(bob.seen)
    assert not any(line.startswith("!! ") for line in bob.seen)
    log.full = False
    room.types(bob, "PING x", see="-- PING x")
    lines = [line[len("2026-11-22 15:04:05 ") :] for line in log.getvalue().splitlines()]
    assert lines == ["", f"-- lines that could not be written here: {missing}", *bob.seen]


def test_a_log_has_one_clock_that_of_the_server(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    chat, bob = room.desk(log=log)
    chat.link._wall = lambda: room.clock.now + 1_000_000_000.0  # some years off
    monkeypatch.setattr("time.time", chat.link._wall)
    room.types(bob, f"REGISTER bob {PASSWORD}", see="-- online: bob")
    room.types(bob, "SEND bob hi", see=" bob: hi")
    start = log.tell()
    room.types(bob, "/who", "SEND bob again", see=" bob: again")
    room.types(bob, "/nonsense", see="!! ")
    lines = log.getvalue()[start:].splitlines()
    assert len(lines) >= 3
    assert len({line[:4] for line in lines}) == 1, lines


def test_what_is_said_before_the_first_turn_has_a_time_in_the_log(room: Room) -> None:
    log = io.StringIO()
    _, pipe = room.desk(interactive=False, user="bot", log=log)
    today = client.clock_time(time.time(), "%Y-%m-")
    assert pipe.seen and log.getvalue().startswith(today) and log.getvalue().endswith(f" {pipe.seen[0]}\n")


def test_help_names_no_key_where_no_line_is_edited(room: Room) -> None:
    """In a pipe it told of Tab, and of a backslash at the end, which means nothing there."""
    _, pipe = room.desk(interactive=False)
    room.types(pipe, "/help", see="-- /help COMMAND")
    assert "-- //TEXT  send a text that begins with a slash" in pipe.seen
    assert not any(word in line for line in pipe.seen for word in ("Tab", "Ctrl", "\\"))


def test_help_lists_every_command_and_fits_a_small_window(room: Room) -> None:
    _, desk = room.desk()
    room.types(desk, "/help", see="-- /help COMMAND")
    rows = [row.removeprefix("-- ") for row in desk.seen]
    assert {word for row in rows for word in row.split()} >= {"/" + name for name in client.TYPED}
    assert len(rows) <= 14 and max(map(len, rows)) <= 50, rows
    room.types(desk, "/help who", see="-- also")
    assert desk.seen[0].startswith("-- /who  ") and desk.seen[1:] == ["-- also /names /users /list /whois"]
    for name in (*client.TYPED, *client.ALIASES):
        room.types(desk, f"/help {name}", see=f"-- {client.TYPED[client.command_name(name)].usage}  ")
        assert sum(len(line) // 40 + 1 for line in desk.seen) <= 14, "it fits a small window"
    assert set(client.MORE_HELP) <= set(client.TYPED)
    assert all(f"{when}:" in client.MORE_HELP["bell"] for when in client.BELLS)
    room.types(desk, "/help nonsense", see="!! there is no /nonsense; /help lists the commands")
    for name, command in client.TYPED.items():
        assert command.usage.startswith("/" + name) and command.help and callable(getattr(Chat, f"do_{name}"))


@pytest.mark.parametrize(
    ("typed", "bell", "words"),
    [
        ("", client.Bell("msg"), "rings for messages, and the title of the window counts them"),
        ("off", client.Bell("off"), "never rings, and the title of the window is left alone"),
        ("desktop", client.Bell("msg", desktop=True), "rings for messages, and the title of the window counts them; "),
        ("text title", client.Bell("title", text=True), f"{client.BELLS['title']}; with the text of the message"),
        ("all desktop text", client.Bell("all", True, True), "rings for messages, comings and goings; "),
    ],
)
def test_what_calls_is_said_in_any_order_of_words(room: Room, typed: str, bell: client.Bell, words: str) -> None:
    chat, desk = room.desk()
    room.types(desk, f"/bell {typed}", see=f"-- the bell {words}")
    assert chat.bell == bell
    room.types(desk, "/bell msg off", "/bell loud", see=f"!! it is used like this: {client.TYPED['bell'].usage}")
    assert chat.bell == bell


def test_text_goes_to_nobody_again(room: Room) -> None:
    _, desk = room.person("bob")
    room.types(desk, "/to bob", "/to", "hi", "", see="-- nothing was sent")
    assert desk.seen[:2] == ["-- what you type goes to bob", "-- what you type goes to nobody"]


def test_without_a_password_a_script_is_told_where_it_could_be(room: Room) -> None:
    _, pipe = room.desk(interactive=False, user="bot")
    assert pipe.seen == ["!! a password is missing: set VESSAGES_PASSWORD or use --password-file"]


# --- First contact ---


@pytest.mark.parametrize(
    ("error", "words"),
    [(ConnectionRefusedError(), "nobody listens at lab port 5000"), (TimeoutError(), "no answer from lab port 5000")]
    + [(socket.gaierror(-2, "x"), "there is no computer named lab"), (UnicodeError(), "there is no computer named lab")]
    + [(OSError(number, "x"), "whether a firewall lets this") for number in (errno.EHOSTUNREACH, errno.EHOSTDOWN)]
    + [(OSError(5, "Input/output error"), "lab port 5000 cannot be reached: Input/output error")]
    + [(OSError(errno.ENETUNREACH, "x"), "cannot be reached: x; look whether this computer is on the network")],
)
def test_a_first_contact_that_fails_is_explained(room: Room, error: Exception, words: str) -> None:
    def dial() -> client.Dialled:
        raise error

    room.dial = dial  # type: ignore[method-assign]
    chat, _ = room.desk()
    room.until(lambda: chat.status == 2)
    assert words in chat.last_words
    assert len(chat.last_words.splitlines()) == 1


def test_a_server_of_no_name_is_none_also_where_the_system_takes_that_for_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: resolve(host or "127.0.0.1", *rest, **more))
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(socket.gaierror) as refused:
        client.connect("", server.getsockname()[1])
    assert client.dial_words("", 5000, refused.value).startswith("there is no computer named ")


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/1.0 400 Bad Request\r\n\r\n", b""])
def test_something_that_is_not_vessages_is_told_from_a_server(room: Room, greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        room.dial = lambda: dial_in_clear(*server.getsockname())  # type: ignore[method-assign]
        chat, _ = room.desk(user="bob", secret=PASSWORD)
        room.until(lambda: chat.link.is_up)
        other, _ = server.accept()
        with other:
            other.sendall(greeting)
            room.until(lambda: chat.status == 2)
            assert PASSWORD.encode() not in other.recv(10_000)
    assert len(chat.last_words.splitlines()) == 1


@pytest.mark.parametrize("interactive", [True, False])
def test_a_server_that_hangs_up_without_a_word_is_no_server_for_a_pipe(room: Room, interactive: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        room.dial = lambda: dial_in_clear(*server.getsockname())  # type: ignore[method-assign]
        chat, desk = room.desk(user="bob", secret=PASSWORD, interactive=interactive)
        room.until(lambda: chat.link.is_up)
        server.accept()[0].close()
        room.until(lambda: chat.status == 2 or "-- trying again in 1 s" in desk.seen)
    if not interactive:
        assert chat.status == 2 and not desk.seen
        assert chat.last_words.endswith(" before it said a word")


def test_a_pipe_whose_input_has_ended_is_told_that_nothing_answers(room: Room) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        room.dial = lambda: dial_in_clear(*server.getsockname())  # type: ignore[method-assign]
        chat, pipe = room.desk(interactive=False)
        pipe.typed.append(None)
        room.until(lambda: chat.link.is_up)
        assert chat.status is None
        at_once(room, 60)
        assert chat.status == 2 and chat.last_words == f"something is there, {protocol.MUTE}"


@pytest.mark.parametrize("wanted", [None, True, False])
def test_a_port_at_which_nothing_is_said_is_no_server(monkeypatch: pytest.MonkeyPatch, wanted: bool | None) -> None:
    monkeypatch.setattr(client, "DIAL_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(OSError) as caught:
            client.Tls(*server.getsockname(), wanted=wanted).dial()
        words = client.dial_words("lab", 5000, caught.value)
        assert words == f"something is at lab port 5000, {protocol.MUTE}"
        assert "ask whoever runs the server" in words


def test_a_person_sees_for_how_long_nothing_was_heard(room: Room) -> None:
    gate = threading.Event()

    def dial() -> client.Dialled:
        gate.wait(PATIENCE)
        raise TimeoutError

    room.dial = dial  # type: ignore[method-assign]
    chat, _ = room.desk()
    room.step()
    for seconds, heard in ((0.0, ""), (2.5, ""), (1.5, "nothing heard for 4 s ")):
        room.clock.now += seconds
        assert client.link_spans(chat.link, met=False)[0].text == f"connecting to lab port 5000 … {heard}"
    gate.set()


TRYING = "; trying until the server is there, Ctrl-C ends it"


def at_once(room: Room, steps: int) -> None:
    """So many steps, the clock jumping ahead: what is waited for takes long."""
    for _ in range(steps):
        room.clock.now += 1.0
        room.step()


@pytest.mark.parametrize("interactive", [True, False])
def test_a_server_is_waited_for_and_that_is_told_once(room: Room, interactive: bool) -> None:
    room.up = False
    chat, desk = room.desk(wait=True, interactive=interactive)
    at_once(room, 120)
    assert chat.status is None
    assert len(desk.seen) == 1 and desk.seen[0].startswith("-- nobody listens at lab port 5000: ")
    assert desk.seen[0].endswith(TRYING.replace("Ctrl-C", "Ctrl-C twice") if desk.edits else TRYING)
    room.up = True
    before = room.clock.now
    room.until(lambda: "-- connected" in desk.seen)
    assert room.clock.now - before <= client.WAIT_MOST + 1
    room.types(desk, f"REGISTER bob {PASSWORD}", *[f"LOGIN bob {PASSWORD}"] * (not interactive), see="-- online: bob")
    room.up = False  # and from now on it is lost, as ever
    chat.link._link_down(chat.link._socket, "connection lost")  # type: ignore[arg-type]
    room.until(lambda: any(line.startswith("-- trying again in 1 s") for line in desk.seen))


def test_a_pipe_that_has_ended_waits_with_its_messages(room: Room) -> None:
    room.account("bot")
    room.up = False
    chat, pipe = room.desk(wait=True, interactive=False, user="bot", to="bot", secret=PASSWORD)
    pipe.typed += ["the build is green", None]
    at_once(room, 10 * round(client.PIPE_LEAVE_SECONDS))
    assert chat.status is None and len(pipe.seen) == 1
    room.up = True
    assert room.ends(chat) == 0
    assert any(line.endswith("-> bot: the build is green") for line in pipe.seen)


@pytest.mark.parametrize("interactive", [True, False])
def test_ctrl_c_ends_the_waiting(room: Room, interactive: bool) -> None:
    room.up = False
    chat, desk = room.desk(wait=True, interactive=interactive, user="bob", secret=PASSWORD)
    desk.typed += [None] * (not interactive)
    at_once(room, 20)
    assert chat.status is None
    chat.interrupt()
    room.step()
    assert chat.status == (0 if interactive else 1)


def test_a_door_behind_which_there_is_no_server_yet_is_tried_again(room: Room) -> None:
    """As of `ssh -L`, which listens all the time and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        places = [door.getsockname()[:2]]
        room.dial = lambda: dial_in_clear(*places[-1])  # type: ignore[method-assign]
        chat, desk = room.desk(wait=True, interactive=False)
        for _ in range(3):
            room.until(lambda: chat.link.is_up)
            door.accept()[0].close()
            room.until(lambda: not chat.link.is_up)
        assert len(desk.seen) == 1 and desk.seen[0].endswith(TRYING)
        places.append(room.rig.listeners[0].getsockname()[:2])
        room.until(lambda: "-- connected" in desk.seen)


# --- What cannot be shown ---


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EAGAIN])
def test_a_message_that_cannot_be_written_is_not_delivered(room: Room, number: int) -> None:
    (_, alice), (bob_chat, bob) = room.person("alice"), room.person("bob")
    room.types(alice, "/msg bob one", see="-> bob: one")

    def flush(to: str | None) -> None:
        raise OSError(number, "it cannot be written")

    bob.flush = flush  # type: ignore[method-assign]
    room.types(alice, "/msg bob two", see="!! not confirmed by bob")
    assert not any("-> bob: two" in line for line in alice.seen)
    room.until(lambda: bob_chat.status is not None)
    assert bob_chat.failed == (number in (errno.ENOSPC, errno.EAGAIN))


# --- The link ---


def test_when_the_first_contact_fails_it_is_not_dialled_again_before_that_is_told() -> None:
    calls: list[None] = []

    def dial() -> client.Dialled:
        calls.append(None)
        raise ConnectionRefusedError

    link = Link("lab", 5000, ClientSession(1), dial=dial)
    link.session.login("bot", PASSWORD)  # as a pipe with commands that wait
    events: list[client.ChatEvent] = []
    while not events:
        link.tick()
        link.flush()
        link.wait()
        link.tick()
        events = link.take_events()
    link.close()
    assert [type(event) for event in events] == [client.Unreachable]
    assert len(calls) == 1


def refuse() -> client.Dialled:
    raise ConnectionRefusedError


def test_attempts_become_rarer_up_to_a_limit_and_are_spread_by_chance() -> None:
    now = [0.0]
    for chance, first, last in ((0.0, 0.5, 15.0), (1.0, 1.0, 30.0)):
        by_chance: Any = lambda chance=chance: chance  # noqa: E731
        link = Link("lab", 5000, ClientSession(1), dial=refuse, clock=lambda: now[0], chance=by_chance)
        for _ in range(50):
            link._dial_later("")
        seconds = [event.seconds for event in link.take_events() if isinstance(event, client.Dialling)]
        assert (seconds[0], seconds[-1], max(seconds)) == (first, last, last)
        assert seconds == sorted(seconds)
        link.close()


def test_a_large_backlog_is_written_as_the_other_side_reads(room: Room) -> None:
    chat, bob = room.person("bob")
    text = "x" * 60_000
    for _ in range(60):
        chat.session.send("bob", text)
    room.until(lambda: chat.session.unanswered == 0)
    delivered = sum("-> bob: " in line for line in bob.seen)
    assert delivered == sum(" bob: " in line for line in bob.seen) / 2 >= 10  # the server took 1 MiB at a time


# --- As text ---

SAMPLES: list[client.Printable] = [
    client.Note("all is well"),
    client.Recalled("the last 2 messages", (protocol.Delivered(1, "eve", "hi"), protocol.Waiting(1, "eve", "hi"))),
    client.Dialling("no answer", 2.0),
    client.Unreachable("nobody listens"),
    client.Untrusted("the certificate has CHANGED", "AB", "CD"),
    client.Encryption(False, "lab does not encrypt", ""),
    protocol.Linked(),
    protocol.LoggedIn(1, "bob", 1795359845.0, 2),
    protocol.Roster(("ann", "bob"), ("eve",)),
    protocol.Presence(("ann",), ("bob",), ("eve",), ("dan",)),
    protocol.Message("eve", 7, 1795359845.0, "hi"),
    protocol.Delivered(1, "eve", "hi"),
    protocol.Failed(1, "eve", "hi", "not-online", "nobody of that name is online"),
    protocol.Waiting(1, "eve", "hi"),
    protocol.Answer(1, "WHO", "~eve bob ~Carl ann"),
    protocol.Refused(1, "LOGIN", "bad-login", "wrong name or password"),
    protocol.NotYet("busy", "too much is waiting", 3.0),
    protocol.LoginNeeded("bob", "bad-login", "wrong name or password"),
    protocol.LinkLost("connection lost", "", True),
    protocol.NotVessages("what answers there is not a Vessages server"),
    protocol.Back("bob", 12.3, 2, protocol.Presence(("ann",), ("eve",))),
]


def test_every_event_has_words_and_json() -> None:
    kinds = set(typing.get_args(client.Printable))
    assert {type(event) for event in SAMPLES} == kinds == set(client.WORDS)
    for event in SAMPLES:
        for line in client.lines_of(event):
            assert line.startswith(("-- ", "!! ")) or line[2] == line[5] == ":"
        assert json.loads(client.json_of(event))["event"]


def test_words_and_json_are_what_the_readme_says() -> None:
    words = {type(event): client.lines_of(event) for event in SAMPLES}
    assert words[protocol.Presence] == [
        "-- ann is online",
        "-- bob has left",
        "-- eve lost the connection",
        "-- dan is back",
    ]
    assert words[protocol.Answer] == ["-- online: ann bob ~Carl ~eve"]
    assert client.lines_of(protocol.LoggedIn(1, "bob", None, 2)) == ["-- you are bob, 2 failed attempts before"]
    assert words[protocol.Back] == ["-- back as bob after 12 s: 2 messages, ann is online, eve has left"]
    assert words[protocol.Failed] == ["!! not delivered to eve (not-online: nobody of that name is online): hi"]
    assert json.loads(client.json_of(protocol.Message("eve", 7, 1795359845.0, "hi\n"))) == {
        "event": "message", "sender": "eve", "id": 7, "time": "2026-11-22T15:04:05.000Z", "text": "hi\n", "to": None,
    }  # fmt: skip
    several = protocol.Failed(1, "bob,eve", "hi", "partly", "", 0.0, (("eve", "busy"),))
    assert json.loads(client.json_of(several))["fates"] == {"eve": "busy"}
    assert json.loads(client.json_of(protocol.Message("eve", 7, 0.0, "hi", ("bob", "ann"))))["to"] == ["bob", "ann"]
    assert json.loads(client.json_of(SAMPLES[-1]))["left"] == ["eve"]


@examples(40)
@given(st.text())
def test_text_from_others_is_one_line_that_does_nothing(text: str) -> None:
    for event in (
        protocol.Message("eve", 7, 0.0, text),
        protocol.Message(text, 7, 0.0, ""),
        protocol.Refused(1, "LOGIN", text, text),
        protocol.Answer(1, "WHO", text),
        protocol.LinkLost(text, text, True),
        protocol.Roster((text,), ()),
        client.Note(text),
    ):
        for line in client.lines_of(event):
            assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in line)
            assert not set(line) & set("\n\r\x1b\x07\x9b\u202e\u2066\u2028")
        assert client.json_of(event).isascii()


def test_a_time_that_cannot_be_shown_is_no_reason_to_fall_over() -> None:
    assert client.clock_time(1e300) == "??:??:??"


def test_a_servers_times_are_told_in_local_time() -> None:
    told = client.local_times("bob is online since 2026-11-22T15:04:05.123Z from 10.0.0.1")
    assert "T15:04:05" not in told
    assert client.clock_time(1795359845.0, "%Y-%m-%d %H:%M") in told
    assert client.local_times("since 2026-11-99T15:04:05.123Z") == "since 2026-11-99T15:04:05.123Z"


@pytest.mark.parametrize(
    "line",
    ["/login alice", "/login b@b", "/login", "/signin bob", "/lgoin bob", "/login bob hunter22", "/loginmaximilian"]
    + ["/login\N{NO-BREAK SPACE}bob", "/nick bob", "/identify", "/passwd x", "/connect bob", "login bob", "passwd"]
    + ["lgoin bob", "lgoin alice multi word pw", "1. login alice PW", "log alice PW", "/login alice/PW", "/ login bob"]
    + ["sign in alice PW", "//login bob PW", "TAKEOVER bob", "\N{FULLWIDTH SOLIDUS}login bob", "log in bob"]
    + ["/user bob", "///login bob"],
)
def test_a_password_that_follows_is_hidden_and_goes_nowhere(room: Room, line: str) -> None:
    chat, alice = room.person("alice")
    room.types(alice, "/to alice", line, see="")
    room.until(lambda: alice.answers)
    assert alice.answers[0]
    alice.typed += ["secret-7", "secret-7", ""]
    room.until(lambda: not (alice.typed or alice.answers or alice.holds or chat.session.unanswered))
    if not chat.session.logged_in:  # it was the password of somebody who is not here
        room.types(alice, f"LOGIN alice {PASSWORD}", see="-- online: ")
    room.types(alice, "/to alice", "the end", see="-> alice: the end")
    assert not any("secret" in seen or seen.startswith("-> alice: l") for seen in alice.seen)


@pytest.mark.parametrize(
    "line",
    ["login is broken again", "the login is broken", "PS: the login works", "logo files attached"]
    + ["/etc/passwd is gone", "/shrug who knows that", "/who", "/hlep", "/join #lab"],
)
def test_what_is_no_login_hides_nothing_that_follows(room: Room, line: str) -> None:
    _, alice = room.person("alice")
    room.types(alice, "/to alice", line, see="")
    alice.typed.append("y")
    room.types(alice, "the end", see="-> alice: the end")
    assert not any(alice.answers)


HIDING = ("/register alice", "/login", "/nick danny", "/lgoin carol", "/connect bob", "/login b@b")


OBEYED = [
    ("/logout", "-- logged out"), ("/who", "-- online: carol"), ("/help who", "-- what you typed was dropped"),
    ("/register dan", "!! you are carol already; /logout first"), ("/HELP", "-- /help COMMAND tells more"),
    ("/login dan", ""), ("/quit", "-- logged out"), ("/ quit", "-- logged out"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "command", "does"), [(HIDING[0], *row) for row in OBEYED] + [(line, *OBEYED[1]) for line in HIDING[1:]]
)
def test_a_command_that_is_typed_where_all_is_hidden_is_obeyed(room: Room, line: str, command: str, does: str) -> None:
    _, carol = room.person("carol")
    room.types(carol, line, see="!! ")
    assert carol.answers[0], "hidden"
    assert carol.prompts == ["hidden, in case a password follows; Enter alone, or a command, goes on: "]
    carol.prompts.clear()
    if command == "/login dan":
        carol.typed.append(command)
        room.until(lambda: carol.prompts == ["Password for dan (logs carol out; Enter alone does not): "])
        return
    room.types(carol, command, see=does)
    if command not in ("/register dan", "/help who"):
        assert not carol.prompts and not carol.holds and not carol.answers


@pytest.mark.parametrize(
    ("line", "secret"),
    [(line, "hunter22") for line in HIDING]
    + [("/login", secret) for secret in ("/hunter22", "/login carol hunter22", "/passwd hunter22", "/msg carol x")],
)
def test_where_all_is_hidden_a_password_goes_nowhere_and_the_line_is_had_again(
    room: Room, line: str, secret: str
) -> None:
    chat, carol = room.person("carol")
    room.types(carol, "/to carol", line, see="!! ")
    for _ in range(client.DROPPED_MAX):
        room.types(carol, secret, see="-- what you typed was dropped")
        assert carol.seen == ["-- what you typed was dropped"] and not chat.session.unanswered
    room.types(carol, "the end", see="-> carol: the end")


def test_a_question_whose_answer_is_hidden_is_not_asked_for_ever(room: Room) -> None:
    _, bob = room.person("bob")
    room.types(bob, "/to bob", "login bob hunter22", see="-- what you type goes to bob")
    room.types(bob, "hunter22", "y no", "n n", see="-- nothing was sent")
    assert bob.seen[0] == "-- what you typed was dropped: y for yes, Enter alone for no"
    assert bob.prompts == ["this looks like a command with a password; send it to bob? y/n (hidden) "] * 3
    room.types(bob, "login bob hunter22", "/who", see="-- online: bob")
    assert bob.seen[0] == "-- nothing was sent"


def test_a_command_is_obeyed_where_a_password_is_asked_for(room: Room) -> None:
    _, bob = room.person("bob")
    room.types(bob, "/passwd", PASSWORD, "/logout", see="-- logged out")
    assert "-- no password, so nothing was done" in bob.seen
    bob.typed += ["/login bob", "/login eve"]
    room.until(lambda: bob.prompts[-1] == "Password for eve: ")
    room.types(bob, "/who", see="!! WHO: log in first")
    room.types(bob, "/passwd", "hunter22", "/login eve", see="-- what you typed was dropped")  # logged out
    room.until(lambda: bob.prompts[-1] == "Password for eve: ")
    assert bob.prompts[:4] == ["Old password: ", "New password: ", "Password for bob: ", "Password for eve: "]


def test_a_login_while_one_is_logged_in_logs_out_once_the_password_is_there(room: Room) -> None:
    bob_chat, bob = room.person("bob")
    room.types(bob, "/logout", see="-- logged out")
    chat, alice = room.person("alice")
    room.types(alice, "/login bob", "", see="-- no password, so nothing was done")
    assert alice.prompts[-1] == "Password for bob (logs alice out; Enter alone does not): "
    assert chat.session.name == "alice"
    room.types(alice, "/login bob", "wrong one", see="!! LOGIN: wrong name or password")
    assert "-- logged out" in alice.seen
    room.types(alice, PASSWORD, see="-- you are bob")
    assert bob_chat.status is None


def test_a_name_that_is_taken_may_be_the_own(room: Room) -> None:
    room.account("bob")
    _, desk = room.desk()
    room.types(desk, "/register bob", PASSWORD, PASSWORD, see="-- if this is your account, log in with its password;")
    room.types(desk, "wrong one", see="!! LOGIN: wrong name or password")
    room.types(desk, PASSWORD, see="-- you are bob")


def test_a_session_elsewhere_is_ended_when_the_password_is_typed_again(room: Room) -> None:
    room.person("bob")
    for answer in (PASSWORD, "y"):
        _, desk = room.desk()
        room.types(desk, "/login bob", PASSWORD, see="!! LOGIN: bob is online since")
        assert desk.answers[0]
        room.types(desk, answer, see="-- you are bob")
        assert not any(" ends the other session" in line for line in desk.seen)


def test_a_pipe_is_told_what_was_not_sent(room: Room) -> None:
    chat, pipe = room.desk(interactive=False)
    pipe.typed += [f"REGISTER bob {PASSWORD}", f"LOGIN bob {PASSWORD}", "/to bob"]
    room.until(lambda: "-- online: bob" in pipe.seen)
    pipe.typed += ["/lgoin bob", "lgoin bob secret-1", "bob: login bob secret-1", "/connect bob"]
    pipe.typed += ["SEND bob login bob PW", None]
    room.until(lambda: chat.status is not None)
    assert [line for line in pipe.seen if line.startswith("!! ")] == [
        "!! there is no /lgoin: did you mean /login? /help lists the commands; to send that as text: //lgoin",
        f"!! {client.UNSENT}",
        f"!! {client.UNSENT}",
        "!! there is no /connect: /help lists the commands; to send that as text: //connect",
    ]
    assert pipe.delivered == ["-> bob: login bob PW"]


def test_own_messages_are_stamped_by_the_clock_of_the_server(room: Room) -> None:
    alice_chat, alice = room.person("alice")
    bob_chat, bob = room.person("bob")
    alice_chat.link._wall = lambda: room.clock.now + 1_000_000_000.0  # some years and hours off
    bob_chat.link._wall = alice_chat.link._wall
    room.types(bob, "/msg alice hi", see="-> alice: hi")
    room.until(lambda: any(" bob: hi" in line for line in alice.seen))
    room.types(alice, "/msg bob and you", see="-> bob: and you")
    room.until(lambda: any(" alice: and you" in line for line in bob.seen))
    stamps = [line[:8] for desk in (alice, bob) for line in desk.seen if "and you" in line]
    assert len(stamps) == 2
    seconds = [sum(int(part) * unit for part, unit in zip(s.split(":"), (3600, 60, 1), strict=True)) for s in stamps]
    assert (seconds[1] - seconds[0]) % 86_400 <= 2
