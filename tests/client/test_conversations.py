"""Messages to several and to everybody as a person types and sees them: to whom, and where it was said."""

from __future__ import annotations

import pytest
from room import Desk, Room
from vocabulary import PASSWORD

import client
import protocol
from client import EVERYONE, Line


def three(room: Room) -> tuple[Desk, Desk, Desk]:
    alice, bob, carol = (room.person(name)[1] for name in ("alice", "Bob", "carol"))
    room.until(lambda: any("carol is online" in line for line in alice.seen))
    return alice, bob, carol


def asked(room: Room, desk: Desk, line: str | Line) -> str:
    """The question that a line leads to."""
    desk.prompts.clear()
    desk.typed.append(line)
    room.until(lambda: desk.prompts)
    return desk.prompts[-1]


def texts(desk: Desk) -> list[str]:
    """The messages among what was seen, without their times."""
    return [line[9:] for line in desk.seen if line[2:3] == ":"]


def test_a_list_of_names_works_everywhere_a_name_does(room: Room) -> None:
    alice, bob, carol = three(room)
    room.types(alice, "/msg bob,carol one", see="-> Bob,carol: one")
    room.types(alice, Line("two", "Bob,carol"), see="-> Bob,carol: two")  # as the editor makes of `bob,carol: two`
    room.types(alice, "three", see="-> Bob,carol: three")  # they are the recipients from now on
    room.types(alice, "/to carol,bob", see="-- what you type goes to carol, Bob")
    room.types(alice, "four", see="-> carol,Bob: four")
    assert texts(bob) == texts(carol)
    assert texts(bob) == [f"alice -> Bob,carol: {word}" for word in ("one", "two", "three")] + [
        "alice -> carol,Bob: four"
    ]


def test_everybody_is_written_to_with_all_or_a_star(room: Room) -> None:
    alice, bob, carol = three(room)
    room.types(alice, "/all one", see="-> *: one")
    room.types(alice, "/msg * two", see="-> *: two")
    room.types(alice, "/to *", see="-- what you type goes to everyone")
    room.types(alice, "three", see="-> *: three")
    assert texts(bob) == texts(carol) == ["alice -> *: one", "alice -> *: two", "alice -> *: three"]


def test_a_word_for_everybody_is_no_name_that_a_message_goes_to_in_vain(room: Room) -> None:
    """`→ everyone  hi  not delivered: everyone is not online` was the answer to `@everyone hi`."""
    alice, bob, carol = three(room)
    recipients = room.desks[0][0].recipients
    assert [recipients.expand(word) for word in ("@everyone", "@All:")] == [("", "/all ")] * 2
    room.types(alice, "/msg everyone one", see="-> *: one")
    room.types(alice, "/to all", see="-- what you type goes to everyone")
    room.types(alice, "two", see="-> *: two")
    room.types(alice, "/history everybody", see="-- the last 2 messages to everyone")
    assert texts(bob) == texts(carol) == ["alice -> *: one", "alice -> *: two"]
    assert recipients.expand("all:") is None  # as `*:`: it may be a word of the text
    recipients.meet(["all"])  # an account that is older than the rule that nobody is called so
    room.types(alice, "/msg all three", see="!! not delivered to all (not-online")


def test_a_name_may_be_written_as_at_the_start_of_a_line(room: Room) -> None:
    alice, bob, _ = three(room)
    expand = room.desks[0][0].recipients.expand
    assert (expand("@bob:"), expand("@bob,CAROL:")) == (("", "/msg Bob "), ("", "/msg Bob,carol "))
    for line in ("/msg bob: hi", "/msg @bob hi", "/msg @Bob: hi"):
        room.types(alice, line, see="-> Bob: hi")
    assert asked(room, alice, Line("/msg @bob: hi", unseen=True)) == 'send "hi" to Bob? y/n '
    room.types(alice, "n", "/to @bob:", see="-- what you type goes to Bob")
    room.types(alice, "/history bob:", see="-- the last 3 messages with Bob")
    room.types(alice, "/msg : hi", see="!! it is used like this: /msg NAME TEXT")
    assert texts(bob) == ["alice: hi"] * 3


def test_a_line_for_somebody_who_is_here_is_clear_without_a_prompt_too(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dumb terminal asked to whom `bob: hi` is."""
    monkeypatch.setattr(Desk, "edits", False)
    alice, bob, carol = three(room)
    room.types(alice, "bob: hi", see="-> Bob: hi")
    room.types(alice, "and more", see="-> Bob: and more")
    assert alice.prompts == []
    assert asked(room, alice, "carol: hi") == 'to whom is "carol: hi", carol or Bob? '
    room.types(alice, "", see="-- nothing was sent")
    room.types(alice, "/to", see="-- what you type goes to nobody")
    assert asked(room, alice, "zoe: hi").startswith("nobody called zoe is known here; to whom is ")
    assert (texts(bob), texts(carol)) == (["alice: hi", "alice: and more"], [])


def test_a_star_before_a_colon_is_no_recipient(room: Room) -> None:
    alice, bob, carol = three(room)
    room.types(alice, "/to bob", see="-- what you type goes to Bob")
    room.types(alice, "*: a note", see="-> Bob: *: a note")
    assert texts(carol) == [] and texts(bob) == ["alice: *: a note"]


def test_a_list_with_somebody_unknown_is_asked_about(room: Room) -> None:
    alice, _, carol = three(room)
    room.types(alice, "/to carol", see="-- what you type goes to carol")
    assert asked(room, alice, "bob,zoe: a secret of three") == (
        'nobody called bob,zoe is known here; send "bob,zoe: a secret of three" to carol? y/n '
    )
    room.types(alice, "n", see="-- nothing was sent")
    assert texts(carol) == []


def test_an_answer_goes_to_all_who_had_the_message(room: Room) -> None:
    alice, bob, carol = three(room)
    room.types(alice, "/msg bob,carol who has the key?", see="-> Bob,carol: ")
    assert asked(room, bob, "/r I have") == 'send "I have" to alice, carol? y/n '
    room.types(bob, "y", see="-> alice,carol: I have")
    assert texts(carol)[-1] == texts(alice)[-1] == "Bob -> alice,carol: I have"
    room.types(carol, "/all me too", see="-> *: me too")
    (chat,) = (chat for chat, desk in room.desks if desk is alice)
    assert chat.recipients.expand("/r") == ("", "/all ")
    room.types(bob, "/msg alice only you", see="-> alice: only you")
    assert chat.recipients.expand("/r") == ("", "/msg Bob ")
    room.types(carol, "/msg alice,bob and you", see="-> alice,Bob: and you")
    assert chat.recipients.expand("/r") == ("", "/msg carol,Bob ")


def test_those_who_were_not_shown_it_are_named(room: Room) -> None:
    alice, _, _ = three(room)
    room.types(
        alice,
        "/msg bob,zoe hi",
        see="!! not shown to all of Bob,zoe (partly: shown to 1 of 2; not to zoe (not online)): hi",
    )


def test_a_pipe_writes_to_several_and_to_everybody(room: Room) -> None:
    _, bob, carol = three(room)
    for me, to in (("eve", "bob,carol"), ("dan", EVERYONE)):
        chat, pipe = room.desk(interactive=False, user=None, to=None, secret=PASSWORD)
        pipe.typed += [f"REGISTER {me} {PASSWORD}", f"LOGIN {me} {PASSWORD}", f"SEND {to} x", None]
        room.ends(chat)
        assert texts(bob)[-1] == texts(carol)[-1] == f"{me} -> {to.replace('bob', 'Bob')}: x"


@pytest.mark.parametrize("to", ["bob", "bob,eve", "*"])
def test_the_option_to_takes_what_a_message_takes(to: str) -> None:
    assert client.arguments_of(["lab", "5000", "--to", to]).to == to


@pytest.mark.parametrize("to", ["bob,", ",", "bob,*", "a b", ""])
def test_the_option_to_refuses_what_cannot_be_one(to: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        client.arguments_of(["lab", "5000", "--to", to])
    assert "nor names with commas" in capsys.readouterr().err


def look(event: client.Printable) -> str:
    transcript = client.Transcript()
    transcript.add(protocol.LoggedIn(1, "bob", None, 0), 0.0)
    transcript.take(0.0)
    transcript.add(event, 0.0)
    return "".join(span.text for paragraph in transcript.take(0.0) for span in paragraph.spans)[6:]


def test_a_message_shows_where_it_was_said() -> None:
    for to, seen in (
        (None, "ann  hi"), (("bob",), "ann  hi"), ("*", "ann → everyone  hi"), (("eve", "bob"), "ann → you, eve  hi"),
        (tuple(f"p{number}" for number in range(13)), "ann → p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, 3 others  hi"),
    ):  # fmt: skip
        assert look(protocol.Message("ann", 1, 0.0, "hi", to)) == seen
    assert look(protocol.Delivered(1, "*", "hi", 0.0, 3)) == "→ everyone  hi"
    assert look(protocol.Delivered(1, "ann,eve", "hi", 0.0, 2)) == "→ ann, eve  hi"
    failed = protocol.Failed(1, "*", "hi", "partly", "eve=busy,zoe=unconfirmed shown to 26 of 28", 0.0,
                             (("eve", "busy"), ("zoe", "unconfirmed")))  # fmt: skip
    assert (
        look(failed)
        == "→ everyone  hi  shown to 26 of 28; not to eve (too much waits for them), zoe (left, perhaps shown)"
    )


def test_the_prompt_says_who_of_several_is_not_here() -> None:
    session = protocol.ClientSession(1)
    session.name = "bob"
    assert [span.text for span in client.recipient_spans(session, "ann,eve")] == ["ann, eve"]
    assert [span.text for span in client.recipient_spans(session, EVERYONE)] == ["everyone"]
    assert Line("hi", "ann,eve").to == "ann,eve"


def test_a_burst_that_answers_everybody_is_for_everybody(room: Room) -> None:
    alice, bob, carol = three(room)
    assert asked(room, alice, Line("/all hello everybody", unseen=True)) == 'send "hello everybody" to everyone? y/n '
    room.types(alice, "y", see="-> *: hello everybody")
    assert texts(bob) == texts(carol) == ["alice -> *: hello everybody"]


def test_the_recipients_of_the_command_line_are_spelled_as_far_as_they_are_known(room: Room) -> None:
    three(room)
    chat, pipe = room.desk(to="BOB,zoe")
    room.types(pipe, "REGISTER dan " + PASSWORD, see="-- online: ")
    assert chat.recipients.to == "Bob,zoe"


def test_tab_in_a_list_makes_it_the_recipient() -> None:
    editor = client.LineEditor(lambda before: client.complete_word(before, [], ["Bob", "eve"]))
    for key in [*(client.Key("char", letter) for letter in "bob,e"), client.Key("tab"), client.Key("char", "x")]:
        editor.feed(key)
    assert (editor.to, editor.text) == ("Bob,eve", "x")
    assert client.complete_word("@bob,e", [], ["Bob", "eve"]) == (0, ["/msg Bob,eve "])
