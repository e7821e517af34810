"""The client's end of a conversation, with the server played by the test: what is sent, shown and kept, and when."""

from __future__ import annotations

from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vocabulary import examples

import protocol
from protocol import (
    Answer,
    Back,
    ClientSession,
    Delivered,
    Failed,
    FrameDecoder,
    LinkLost,
    LoggedIn,
    LoginNeeded,
    Message,
    NotVessages,
    NotYet,
    Presence,
    Refused,
    Roster,
    SessionEvent,
    Waiting,
    frame,
)

FIRST = 1_795_359_845_000_000  # microseconds
NOON = "2026-11-22T12:00:00.000Z"
WALL = 1_795_359_845.0  # Unix seconds
SECRET = "correct horse"
OVER = "ERROR unknown-session that session is over"
Kind = TypeVar("Kind")


class Talk:
    """A ClientSession and the other end of its link."""

    def __init__(self) -> None:
        self.session = ClientSession(FIRST)
        self.now = 100.0
        self.events: list[SessionEvent] = []
        self.showing = True  # False: what arrives is not shown for now
        self.stalls = False  # whether the questions behind messages to several have no answer for now
        self.asked: list[str] = []  # these questions
        self.session.tick(self.now)

    def turn(self) -> list[str]:
        """One turn of a client; what it sends."""
        self.session.tick(self.now)
        self.events += self.session.take_events()
        if self.showing:
            self.session.shown()
        decoder = FrameDecoder(protocol.CLIENT_FRAME_MAX)
        decoder.feed(self.session.take_output())
        said = [payload.decode() for payload in decoder.payloads()]
        self.asked += [words for words in said if words.startswith("PING ")]
        if not self.stalls:
            self.answers()
        return [words for words in said if not words.startswith("PING ")]

    def answers(self) -> None:
        """The server has read what was sent."""
        for words in self.asked:
            self.session.feed(frame(f"OK {words}".encode()), self.now)
        self.asked.clear()

    def hears(self, *payloads: str) -> list[str]:
        """These frames arrive together; what is sent then."""
        self.session.feed(b"".join(frame(payload.encode()) for payload in payloads), self.now)
        return self.turn()

    def sends(self, text: str, to: str = "eve") -> int:
        """A message goes out; its tag."""
        tag = self.session.send(to, text)
        self.turn()
        return tag

    def wait(self, seconds: float) -> list[str]:
        """Time passes, with a turn for everything that is due; what is sent."""
        end, said = self.now + seconds, self.turn()
        while (due := self.session.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            said += self.turn()
        self.now = end
        return said + self.turn()

    # What was shown since the last time

    def shows(self) -> list[SessionEvent]:
        self.turn()
        events, self.events = self.events, []
        return events

    def shows_only(self, kind: type[Kind]) -> list[Kind]:
        """The events of this kind."""
        return [event for event in self.shows() if isinstance(event, kind)]

    def texts(self) -> list[str]:
        """What others have written."""
        return [message.text for message in self.shows_only(Message)]

    def failures(self) -> list[tuple[int, str]]:
        """Tags and codes of what has failed or was refused."""
        return [(event.tag, event.code) for event in self.shows() if isinstance(event, (Failed, Refused))]

    # The link

    def link(self) -> list[str]:
        """A connection to a Vessages server; what is sent once it has said something."""
        self.session.connected(self.now)
        assert self.turn() == ["PING"]
        return self.hears("OK PING")

    def breaks(self) -> LinkLost:
        """The link breaks."""
        self.session.disconnected(self.now)
        *_, lost = self.shows()
        assert isinstance(lost, LinkLost)
        return lost

    def mends(self, answer: str, *more: str) -> list[str]:
        """There is a link again, and the RESUME has this answer; what is sent then."""
        (command,) = self.link()
        tag, verb, token, seq = command.split(" ")
        assert (verb, token) == ("RESUME", "t1")
        assert answer.startswith("ERROR ") or answer.endswith(" " + seq)
        return self.hears(f"{tag} {answer}", *more)

    def resumes(self, last_tag: int = 0, seq: int = 0) -> list[str]:
        """The link breaks and is mended; what is sent then."""
        self.breaks()
        return self.mends(f"OK RESUME bob {last_tag} {seq}", "ONLINE bob")

    # Logging in

    def asks(self) -> int:
        """Bob asks to be logged in, over a new link; the tag."""
        tag = self.session.login("bob", SECRET)
        assert self.link() == ["KEEP", f"#{tag} LOGIN bob {SECRET}"]
        return tag

    def enter(self, *roster: str) -> Talk:
        """Bob logs in, and sees who is there."""
        self.hears("OK KEEP 60", f"#{self.asks()} OK LOGIN bob token=t1", f"ONLINE {' '.join(roster) or 'bob'}")
        self.shows()
        return self

    def enter_plainly(self) -> Talk:
        """The server keeps no sessions."""
        self.hears("ERROR bad-command no KEEP here", f"#{self.asks()} OK LOGIN bob", "ONLINE bob")
        return self

    def is_stranded(self) -> Talk:
        """The session is over, and another one cannot be begun with the password."""
        self.breaks()
        keep, login = self.mends(OVER)
        assert (keep, login.split(" ", 1)[1]) == ("KEEP", f"LOGIN bob {SECRET}")
        self.hears(f"{login.split()[0]} ERROR bad-login no")
        return self


@pytest.fixture
def talk() -> Talk:
    """Bob is logged in, and alone."""
    return Talk().enter()


# --- Coming in ---


@pytest.mark.parametrize("verb", ["login", "takeover"])
def test_nothing_secret_is_said_before_the_other_side_has_shown_what_it_is(verb: str) -> None:
    talk = Talk()
    tag = getattr(talk.session, verb)("bob", SECRET)
    talk.session.connected(talk.now)
    assert talk.turn() == ["PING"]
    assert talk.wait(10.0) == []
    # KEEP first: else a message could be answered OK before it, and be lost.
    assert talk.hears("OK PING") == ["KEEP", f"#{tag} {verb.upper()} bob {SECRET}"]


def test_a_login_tells_who_is_there_and_who_has_tried() -> None:
    talk = Talk()
    tag = talk.asks()
    talk.hears("OK KEEP 60", f"#{tag} OK LOGIN Bob token=t1 last={NOON} failed=2 more=x", "ONLINE eve Bob ~ann")
    events = talk.shows()
    assert all(events)  # an event is true, also one without fields
    linked, logged_in, roster = events
    assert isinstance(linked, protocol.Linked)
    assert logged_in == LoggedIn(tag, "Bob", protocol.parse_time(NOON), 2)
    assert roster == Roster(("Bob", "eve"), ("ann",))
    assert (talk.session.name, talk.session.grace, talk.session.logged_in) == ("Bob", 60.0, True)


def test_commands_before_there_is_a_link_wait_in_order() -> None:
    talk = Talk()
    register = talk.session.register("bob", SECRET)
    login = talk.session.login("bob", SECRET)
    send = talk.session.send("eve", "x" * 50_000)  # more than a stranger may say
    talk.session.logout()
    assert talk.link() == [f"#{register} REGISTER bob {SECRET}"]
    assert talk.hears(f"#{register} OK REGISTER bob") == ["KEEP", f"#{login} LOGIN bob {SECRET}"]
    assert talk.hears(f"#{login} OK LOGIN bob token=t") == [f"#{send} SEND eve {'x' * 50_000}", "LOGOUT"]


@pytest.mark.parametrize(("logged_in", "code", "verb", "words"), [
    (False, "not-logged-in", "who", ()),
    (False, "not-logged-in", "send", ("eve", "x" * 5_000)),
    (False, "not-logged-in", "logout", ()),
    (True, "logged-in", "register", ("eve", SECRET)),
    (True, "logged-in", "login", ("eve", SECRET)),
    (True, "logged-in", "takeover", ("eve", SECRET)),
    (True, "bad-username", "login", ("", SECRET)),
    (True, "bad-username", "login", ("two words", SECRET)),  # else one would be sent as a part of the password
    (True, "bad-username", "send", ("", "text")),
    (True, "bad-username", "send", ("two words", "text")),
    (False, "too-long", "login", ("bob", "x" * 5_000)),
])  # fmt: skip
def test_what_no_server_would_obey_is_refused_here(
    logged_in: bool, code: str, verb: str, words: tuple[str, ...]
) -> None:
    talk = Talk()
    talk.enter() if logged_in else talk.link()
    tag = getattr(talk.session, verb)(*words)
    assert talk.turn() == []
    refused = talk.shows()[-1]
    assert isinstance(refused, Failed if verb == "send" else Refused)
    assert (refused.tag, refused.code) == (tag, code)


@pytest.mark.parametrize(("size", "fits"), [(65_536, True), (65_537, False)])
def test_a_message_that_fits_into_no_frame_is_refused_here(talk: Talk, size: int, fits: bool) -> None:
    tag = talk.session.send("eve", "x" * (size - len(f"#{FIRST} SEND eve ")))
    assert [len(payload) for payload in talk.turn()] == [size] * fits
    assert talk.failures() == [(tag, "too-long")] * (not fits)


def test_a_refusal_tells_how_long_to_wait() -> None:
    talk = Talk()
    tag = talk.asks()
    talk.hears(f"#{tag} ERROR throttled 4 seconds to wait")
    assert talk.shows()[-1] == Refused(tag, "LOGIN", "throttled", "4 seconds to wait", 4)
    assert talk.wait(60.0).count(f"#{tag} LOGIN bob {SECRET}") == 0  # a person decides


def test_no_password_in_a_repr(talk: Talk) -> None:
    talk.session.passwd(SECRET, "new " + SECRET)
    command = talk.session._requests.first_waiting
    assert command is not None and SECRET in command.text
    assert SECRET not in repr([talk.session, talk.session._requests, command, talk.session.take_events()])


# --- Tags, and how much is under way ---


def test_tags_come_from_the_clock_and_only_grow(talk: Talk) -> None:
    tags = [talk.session.who(), talk.session.send("eve", "hi"), talk.session.who()]
    assert tags == sorted(set(tags))
    assert tags[0] > FIRST


@pytest.mark.parametrize("clock", [-5, 0, 2**53, 2**70])
def test_tags_are_allowed_ones_even_if_the_clock_is_mad(clock: int) -> None:
    assert 1 <= ClientSession(clock).who() <= protocol.TAG_MAX - 10**12


def test_at_most_64_sends_are_under_way_and_the_rest_follows(talk: Talk) -> None:
    tags = [talk.session.send("eve", str(n)) for n in range(100)]
    assert len(talk.turn()) == 64
    assert talk.hears(f"@1 #{tags[0]} OK SEND", f"@2 #{tags[5]} ERROR busy too much") == [
        "ACK 2", f"#{tags[64]} SEND eve 64", f"#{tags[65]} SEND eve 65",
    ]  # fmt: skip
    assert talk.session.unanswered == 98
    assert len(talk.resumes(tags[9], seq=2)) == 64 - 8  # also those that are sent again: eight of the ten were read


def test_other_commands_under_way_have_a_limit_too(talk: Talk) -> None:  # a script may ask faster than it is answered
    tags = [talk.session.ping("x") for _ in range(protocol.QUEUE_MAX)]
    assert len(talk.turn()) == protocol.QUEUE_MAX
    tags.append(talk.session.ping("one more"))
    assert talk.turn() == []
    assert talk.hears(f"@1 #{tags[0]} OK PING x") == ["ACK 1", f"#{tags[-1]} PING one more"]


def test_the_queue_has_an_end(talk: Talk) -> None:
    number = 0
    for size, most in ((1, protocol.QUEUE_MAX), *[(60_000, 1 + protocol.QUEUE_BYTES_MAX // 60_000)] * 2):
        tags = []
        while talk.session.has_room:
            tags.append(talk.session.send("eve", "x" * size))
        assert len(tags) == most
        refused = talk.session.send("eve", "x")
        assert talk.failures() == [(refused, "busy")]
        for tag in tags:  # all the room is there again
            number += 1
            talk.hears(f"@{number} #{tag} OK SEND")
        assert talk.session.unanswered == 0


def test_half_a_surrogate_pair_is_sent_as_a_question_mark(talk: Talk) -> None:
    tag = talk.session.send("eve", "caf\udce9")
    assert talk.turn() == [f"#{tag} SEND eve caf?"]


# --- Showing and acknowledging ---


def test_one_ack_after_showing_for_all_that_came_together(talk: Talk) -> None:
    assert talk.hears(*(f"@{n} MSG eve {n} {NOON} text {n}" for n in (1, 2, 3))) == ["ACK 3"]
    assert talk.texts() == ["text 1", "text 2", "text 3"]
    assert talk.turn() == []


def test_no_ack_before_showing(talk: Talk) -> None:
    talk.showing = False
    assert talk.hears(f"@1 MSG eve 7 {NOON} hi", "PING") == ["ACK 0"]
    assert talk.wait(5.0) == []
    talk.showing = True
    assert talk.turn() == ["ACK 1"]


def test_frames_that_arrive_while_others_are_shown_are_not_acknowledged_with_them(talk: Talk) -> None:
    talk.session.feed(frame(f"@1 MSG eve 7 {NOON} hi".encode()), talk.now)
    assert len(talk.session.take_events()) == 1
    talk.session.feed(frame(f"@2 MSG eve 8 {NOON} ho".encode()), talk.now)
    talk.session.shown()
    assert talk.session.take_output() == frame(b"ACK 1")


def test_own_answers_are_acknowledged_too(talk: Talk) -> None:  # else the server would hold them until it gives up
    tag = talk.session.who()
    talk.turn()
    assert talk.hears(f"@1 #{tag} OK WHO bob ~eve") == ["ACK 1"]
    assert talk.shows() == [Answer(tag, "WHO", "bob ~eve")]


def test_the_ack_goes_before_the_logout(talk: Talk) -> None:  # after it, it would come too late
    talk.session.feed(frame(f"@1 MSG eve 7 {NOON} hi".encode()), talk.now)
    talk.session.logout()
    assert talk.turn() == ["ACK 1", "LOGOUT"]


def test_a_ping_is_answered_even_if_there_is_nothing_new() -> None:
    talk = Talk()
    talk.link()
    assert talk.hears("PING") == ["ACK 0"]
    talk.enter()
    assert talk.hears(f"@1 MSG eve 7 {NOON} hi") == ["ACK 1"]
    assert talk.hears("PING") == ["ACK 1"]


def test_a_message_is_known_again_by_its_sender_and_id_and_acknowledged_each_time(talk: Talk) -> None:
    assert talk.hears(f"@1 MSG eve>bob,ann 7 {NOON} hi") == ["ACK 1"]
    again = [f"@{n} MSG {eve} 7 {NOON} hi" for n, eve in enumerate(("eve", "eve>*", "eve>bob"), 2)]
    assert talk.hears(*again, f"@5 MSG ann 7 {NOON} ho") == ["ACK 5"]
    assert talk.texts() == ["hi", "ho"]


def test_messages_without_an_id_are_all_shown(talk: Talk) -> None:
    talk.hears(f"@1 MSG eve 0 {NOON} hi", *[f"@2 MSG eve 0 {NOON} hi"] * 2)  # a frame that was had before is not one
    assert talk.texts() == ["hi", "hi"]


def test_the_memory_of_messages_that_were_shown_is_bounded(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "SHOWN_MAX", 10)
    talk.hears(*(f"@{n} MSG eve {n} {NOON} hi" for n in range(1, 100)))
    assert len(talk.session._received._messages) == 10


# --- The fate of a message ---


def test_every_send_has_one_fate(talk: Talk) -> None:
    good, bad = talk.sends("a"), talk.sends("b", to="ann")
    talk.hears(f"@1 #{bad} ERROR not-online nobody", f"@2 #{good} OK SEND", f"@3 #{good} OK SEND")
    assert talk.shows() == [Failed(bad, "ann", "b", "not-online", "nobody"), Delivered(good, "eve", "a")]
    assert talk.session.unanswered == 0


def test_an_error_without_words_is_explained_here(talk: Talk) -> None:
    tag = talk.sends("a")
    talk.hears(f"@1 #{tag} ERROR not-online")
    assert talk.shows() == [Failed(tag, "eve", "a", "not-online", protocol.Code.NOT_ONLINE.explanation)]


def test_a_message_that_waits_is_mentioned_once(talk: Talk) -> None:
    tag = talk.session.send("eve", "a")
    talk.wait(2.9)
    assert talk.shows() == []
    talk.wait(5.0)
    assert talk.shows() == [Waiting(tag, "eve", "a")]
    talk.hears(f"@1 #{tag} OK SEND")
    talk.wait(10.0)
    assert talk.shows() == [Delivered(tag, "eve", "a")]


def stamp(seconds: float) -> str:
    return protocol.format_time(WALL + seconds)


def written(talk: Talk, number: int) -> float:
    """When a message was written that is sent now, in seconds after WALL."""
    talk.hears(f"@{number} #{talk.sends('hi')} OK SEND")
    (delivered,) = talk.shows_only(Delivered)
    return delivered.time - WALL


def test_own_messages_have_the_time_of_the_server(talk: Talk) -> None:
    talk.session.wall = WALL
    assert written(talk, 1) == 0.0  # as far as is known
    talk.hears(f"@2 MSG eve 1 {stamp(500.0)} hi", f"@3 MSG eve 2 {stamp(499.0)} this one was under way for a second")
    assert written(talk, 4) == 500.0
    talk.breaks()
    talk.mends("OK RESUME bob 0 4", f"@5 MSG eve 3 {stamp(-9000.0)} held for long", "ONLINE bob")
    assert written(talk, 6) == 500.0


def test_what_was_asked_for_before_the_login_has_the_time_at_which_it_could_be_said() -> None:
    talk = Talk()
    talk.session.wall = WALL
    login = talk.asks()
    send = talk.sends("hi")
    talk.session.wall = WALL + 2.0  # so long takes the check of a password on a busy server
    talk.hears("OK KEEP 60", f"#{login} OK LOGIN bob token=t", "ONLINE bob eve")
    talk.hears(f"@1 #{send} OK SEND")
    assert [event.time - WALL for event in talk.shows_only(Delivered)] == [2.0]


@pytest.mark.parametrize("step", [-500.0, 500.0])
def test_a_clock_that_is_set_is_followed_with_the_next_message(talk: Talk, step: float) -> None:
    talk.session.wall = WALL
    talk.hears(*(f"@{n} MSG eve {n} {stamp(0.0)} hi" for n in range(1, 10)))
    talk.session.wall += step
    talk.hears(f"@10 MSG eve 10 {stamp(0.0)} hi")
    assert written(talk, 11) == 0.0


# --- The roster ---


def test_only_real_changes_of_others_are_told() -> None:
    talk = Talk().enter("bob", "eve", "~ann")
    talk.hears("PRESENCE +eve ~ann +bob -nobody", "ONLINE bob eve ~ann")
    assert talk.shows() == []
    talk.hears("PRESENCE ~eve +ann +dan -bob +bob")
    assert talk.shows() == [Presence(came=("dan",), lost=("eve",), returned=("ann",))]
    talk.hears("PRESENCE -eve -dan")
    assert talk.shows() == [Presence(left=("dan", "eve"))]
    assert talk.session.roster == {"bob": False, "ann": False}
    talk.hears("ONLINE bob ~ann zoe")  # a fresh roster
    assert talk.shows() == [Presence(came=("zoe",), lost=("ann",))]


@examples(40)
@given(st.lists(st.tuples(st.sampled_from("+-~"), st.sampled_from(["ann", "dan", "eve", "bob"])), max_size=12))
def test_the_changes_that_were_told_lead_to_the_roster(changes: list[tuple[str, str]]) -> None:
    talk = Talk().enter("bob", "eve", "~ann")
    told = {"eve": False, "ann": True}
    for mark, name in changes:
        talk.hears(f"PRESENCE {mark}{name}")
    for event in talk.shows():
        assert isinstance(event, Presence)
        assert any(event)
        told.update(dict.fromkeys((*event.came, *event.returned), False))
        told.update(dict.fromkeys(event.lost, True))
        for name in event.left:
            del told[name]
    roster = {name: lost for name, lost in talk.session.roster.items() if name != "bob"}
    assert roster == told


# --- Coming back ---


def test_a_lost_link_is_resumed_where_it_was_and_the_count_goes_on() -> None:
    talk = Talk().enter("bob", "eve")
    talk.hears(f"@1 MSG eve 7 {NOON} a", f"@2 MSG eve 8 {NOON} b")
    assert talk.breaks().come_back
    assert talk.session.wants_link
    talk.now += 12.0
    assert talk.mends("OK RESUME bob 0 2", f"@3 MSG eve 9 {NOON} c", "ONLINE bob dan") == ["ACK 3"]
    _, message, back = talk.shows()
    assert isinstance(message, Message)
    assert back == Back("bob", 12.0, 1, Presence(came=("dan",), left=("eve",)))
    assert talk.hears(f"@4 MSG eve 10 {NOON} d") == ["ACK 4"]


def test_commands_that_the_server_has_not_read_are_sent_again_with_their_tags_in_order(talk: Talk) -> None:
    one, two, three = (talk.sends(text) for text in "123")
    four = talk.session.who()
    assert talk.resumes(one) == [f"#{two} SEND eve 2", f"#{three} SEND eve 3", f"#{four} WHO"]
    talk.hears(f"@1 #{one} OK SEND", f"@2 #{two} OK SEND", f"@3 #{three} OK SEND")
    assert [event.tag for event in talk.shows_only(Delivered)] == [one, two, three]


def test_after_a_restart_of_the_server_all_is_sent_again_and_the_count_goes_on(talk: Talk) -> None:
    tag = talk.sends("1")
    talk.hears(f"@1 MSG eve 7 {NOON} a")
    assert talk.texts() == ["a"]
    assert talk.resumes(0, seq=1) == [f"#{tag} SEND eve 1"]
    assert talk.hears(f"@2 MSG eve 7 {NOON} a", f"@3 #{tag} OK SEND") == ["ACK 3"]
    assert talk.texts() == []


def test_no_resume_before_all_that_was_read_is_shown(talk: Talk) -> None:  # its number is where the count goes on
    talk.showing = False
    talk.hears(f"@1 MSG eve 0 {NOON} a")
    talk.session.disconnected(talk.now)
    assert talk.link() == []
    talk.showing = True
    talk.turn()
    assert [line.split(" ", 1)[1] for line in talk.turn()] == ["RESUME t1 1"]


def test_a_second_lost_link_during_the_resume_changes_nothing(talk: Talk) -> None:
    tag = talk.sends("1")
    talk.breaks()
    (first,) = talk.link()
    talk.breaks()
    (second,) = talk.link()
    assert first.split()[1:] == second.split()[1:] == ["RESUME", "t1", "0"]
    late = first.split()[0]
    assert talk.hears(f"{late} OK RESUME bob 0 0") == []  # no answer to anything that was asked on this link
    assert not talk.session.logged_in
    assert talk.hears(f"{second.split()[0]} OK RESUME bob 0 0") == [f"#{tag} SEND eve 1"]


def test_a_session_that_is_over_is_begun_anew_with_the_password(talk: Talk) -> None:
    tag = talk.sends("1")
    talk.hears(f"@1 MSG eve 7 {NOON} a")
    talk.breaks()
    keep, login = talk.mends(OVER)
    assert (keep, login.split(" ", 1)[1]) == ("KEEP", f"LOGIN bob {SECRET}")
    sent = talk.hears(f"{login.split()[0]} OK LOGIN bob token=t2", f"@1 MSG eve 7 {NOON} a", "ONLINE bob")
    assert sent == ["ACK 1", f"#{tag} SEND eve 1"]
    talk.breaks()
    assert talk.link()[0].endswith("RESUME t2 1")


def test_a_password_that_was_changed_meanwhile_has_to_be_typed(talk: Talk) -> None:
    waiting = talk.session.send("eve", "1")
    talk.is_stranded()
    assert talk.shows()[-1] == LoginNeeded("bob", "bad-login", "no")
    assert talk.wait(30.0) == ["PING"]  # nothing is tried, nothing is lost
    tag = talk.session.login("BOB", "another one")
    assert talk.turn() == ["KEEP", f"#{tag} LOGIN BOB another one"]
    assert talk.hears(f"#{tag} OK LOGIN bob token=t3", "ONLINE bob") == [f"#{waiting} SEND eve 1"]
    assert Roster(("bob",), ()) in talk.shows()


def test_a_full_queue_does_not_keep_out_the_login_that_it_waits_for(talk: Talk) -> None:
    talk.breaks()
    while talk.session.has_room:
        talk.session.who()
    talk.is_stranded()
    tags = [talk.session.login("bob", "another one") for _ in range(2)]
    assert talk.turn() == ["KEEP", f"#{tags[0]} LOGIN bob another one"]
    assert talk.failures() == [(tags[1], "busy")]
    assert len(talk.hears(f"#{tags[0]} OK LOGIN bob token=t3")) == protocol.QUEUE_MAX


def test_commands_of_one_person_are_not_sent_in_the_name_of_another(talk: Talk) -> None:
    sent, queued = talk.sends("1"), talk.session.who()
    talk.is_stranded()
    tag = talk.session.login("eve", "another one")
    later = talk.session.who()
    talk.turn()
    assert talk.hears(f"#{tag} OK LOGIN eve token=t3", "ONLINE eve") == [f"#{later} WHO"]
    assert talk.failures() == [(sent, "unknown"), (queued, "not-sent")]


def test_a_message_that_one_person_was_shown_is_new_to_another_at_the_same_place(talk: Talk) -> None:
    for person, new in (("ann", True), ("bob", True), ("", False)):
        talk.hears(f"@1 MSG eve>* 7 {NOON} to all of you")
        assert (talk.texts() != []) is new
        talk.session.logout()
        tag = talk.session.takeover(person, SECRET)
        talk.turn()
        talk.hears("OK LOGOUT")
        talk.hears(f"#{tag} OK TAKEOVER {person} token=t", f"ONLINE {person}")


@pytest.mark.parametrize(("code", "seconds"), [("busy 7 seconds to wait", 7), ("storage sorry", 3)])
def test_coming_back_is_tried_again_when_the_server_cannot(talk: Talk, code: str, seconds: int) -> None:
    talk.breaks()
    talk.mends(f"ERROR {code}")
    assert [event.seconds for event in talk.shows_only(NotYet)] == [seconds]
    assert talk.wait(seconds - 0.1) == []
    assert talk.wait(0.2)[0].endswith("RESUME t1 0")
    talk.breaks()
    _, login = talk.mends(OVER)
    talk.hears(f"{login.split()[0]} ERROR {code}")
    assert [event.seconds for event in talk.shows_only(NotYet)] == [seconds]
    assert talk.wait(seconds - 0.1) == []
    assert talk.wait(0.2)[-1].endswith(f"LOGIN bob {SECRET}")


def test_a_new_link_does_not_wait_for_the_timer_of_the_old_one(talk: Talk) -> None:
    talk.breaks()
    talk.mends("ERROR busy 60 seconds to wait")
    talk.breaks()
    assert talk.link()[0].endswith("RESUME t1 0")


def test_the_own_dead_connection_does_not_lock_out() -> None:
    """A LOGIN whose answer is lost has taken the name, and the token with it."""
    talk = Talk()
    tag = talk.asks()
    assert talk.breaks().come_back
    again = ["KEEP", f"#{tag} LOGIN bob {SECRET}"]
    assert talk.link() == again
    for _ in range(protocol.GHOST_RETRIES):
        talk.hears(f"#{tag} ERROR already-online since 12:00 from here")
        assert isinstance(talk.shows()[-1], NotYet)
        assert talk.wait(3.0) == again
    talk.hears(f"#{tag} ERROR already-online since")  # a name that stays online is told
    assert talk.shows() == [Refused(tag, "LOGIN", "already-online", "since")]


def test_a_session_that_somebody_else_has_taken_over_meanwhile_is_not_tried_for() -> None:
    """A laptop was closed, and the person logged in elsewhere. A ghost of our own would know the token."""
    talk = Talk().enter()
    talk.breaks()
    (command,) = talk.link()
    _, login = talk.hears(f"{command.split()[0]} ERROR unknown-session")
    talk.hears(f"{login.split()[0]} ERROR already-online since")
    assert talk.shows()[-1] == LoginNeeded("bob", "already-online", "since")


def test_a_first_login_elsewhere_is_told_at_once() -> None:
    talk = Talk()
    tag = talk.asks()
    talk.hears(f"#{tag} ERROR already-online since")
    assert talk.shows()[-1] == Refused(tag, "LOGIN", "already-online", "since")


def test_patience_ends_with_its_login() -> None:
    talk = Talk()
    talk.session.login("bob", SECRET, patient=True)
    (_, login) = talk.link()
    talk.hears(f"{login.split()[0]} ERROR already-online x")
    assert isinstance(talk.shows()[-1], NotYet)
    (_, login) = talk.wait(protocol.RETRY_SECONDS)
    talk.hears(f"{login.split()[0]} ERROR bad-login no")
    talk.shows()
    tag = talk.session.login("bob", "another one")
    talk.turn()
    talk.hears(f"#{tag} ERROR already-online x")
    assert isinstance(talk.shows()[-1], Refused)


def test_the_new_password_is_the_one_to_come_back_with(talk: Talk) -> None:
    tag = talk.session.passwd(SECRET, "battery staple")
    assert talk.turn() == [f"#{tag} PASSWD {SECRET}\nbattery staple"]
    talk.hears(f"@1 #{tag} OK PASSWD")
    talk.breaks()
    assert talk.mends(OVER)[1].endswith(" LOGIN bob battery staple")


def test_a_password_that_was_perhaps_changed_before_a_crash_is_not_called_wrong(talk: Talk) -> None:
    tag = talk.session.passwd(SECRET, "another one")
    talk.turn()
    assert talk.resumes(0) == [f"#{tag} PASSWD {SECRET}\nanother one"]
    talk.hears(f"@1 #{tag} ERROR bad-login wrong name or password")
    assert talk.failures() == [(tag, "unknown")]
    talk.is_stranded()  # which password, nobody knows: it was tried with the old one
    assert isinstance(talk.shows()[-1], LoginNeeded)


def test_a_session_that_is_not_kept_is_begun_anew() -> None:
    talk = Talk().enter_plainly()
    assert talk.hears(f"MSG eve 7 {NOON} hi") == []
    talk.breaks()
    _, login = talk.link()
    assert login.endswith(f" LOGIN bob {SECRET}")


# --- Going ---


def test_after_a_logout_nobody_comes_back(talk: Talk) -> None:
    one = talk.session.send("eve", "1")
    tag = talk.session.logout()
    talk.turn()
    talk.hears("OK LOGOUT")
    failed, answer = talk.shows()
    assert isinstance(failed, Failed)
    assert (failed.tag, failed.code) == (one, "unknown")
    assert answer == Answer(tag, "LOGOUT", "")
    assert (talk.session.name, talk.session.roster, talk.session.wants_link) == (None, {}, False)
    assert not talk.breaks().come_back


def test_a_logout_whose_answer_is_lost_was_one(talk: Talk) -> None:
    talk.session.logout()
    talk.turn()
    talk.breaks()
    assert talk.mends(OVER) == []
    assert [answer.verb for answer in talk.shows_only(Answer)] == ["LOGOUT"]
    assert not talk.session.wants_link


def test_a_session_that_is_not_kept_is_over_when_the_link_breaks_behind_its_logout() -> None:
    talk = Talk().enter_plainly()
    logout = talk.session.logout()
    talk.turn()
    talk.session.disconnected(talk.now)
    answer, lost = talk.shows()[-2:]
    assert answer == Answer(logout, "LOGOUT", "")
    assert isinstance(lost, LinkLost) and not lost.come_back


def test_a_logout_that_was_not_heard_is_asked_for_again(talk: Talk) -> None:
    tag = talk.session.logout()
    talk.turn()
    assert talk.resumes(tag) == ["LOGOUT"]  # even if it was read: its answer is not held
    talk.hears("OK LOGOUT")
    assert talk.shows()[-1] == Answer(tag, "LOGOUT", "")


def test_commands_behind_a_refused_logout_keep_tags_that_the_server_has_not_read(talk: Talk) -> None:
    logout = talk.session.logout()
    talk.turn()
    send = talk.session.send("eve", "still here")
    assert talk.resumes(0) == ["LOGOUT"]
    talk.session.ping("me")
    said = talk.hears("@1 ERROR storage the disk is full")
    assert said[-2:] == [f"#{send} SEND eve still here", f"#{send + 2} PING me"]
    (refused,) = talk.shows_only(Refused)
    assert (refused.tag, refused.verb, refused.code) == (logout, "LOGOUT", "storage")


def test_a_message_that_an_ended_session_may_have_had_is_told_as_unknown(talk: Talk) -> None:
    had = talk.sends("one")
    talk.breaks()
    not_had = talk.session.send("eve", "two")
    _, login = talk.mends(OVER)
    again = talk.hears(f"{login.split()[0]} OK LOGIN bob token=t2", "ONLINE bob")
    assert again == [f"#{had} SEND eve one", f"#{not_had} SEND eve two"]
    talk.hears(f"@1 #{had} ERROR not-online eve is not online", f"@2 #{not_had} ERROR not-online eve is not online")
    assert talk.failures() == [(had, "unknown"), (not_had, "not-online")]


def test_giving_up_what_was_asked_for_does_not_give_up_coming_back(talk: Talk) -> None:
    tag = talk.session.send("eve", "1")
    talk.breaks()
    (command,) = talk.link()
    talk.session.abandon()
    assert talk.turn() == []
    assert [failed.tag for failed in talk.shows_only(Failed)] == [tag]
    talk.hears(f"{command.split()[0]} OK RESUME bob 0 0", "ONLINE bob")
    assert talk.session.logged_in
    assert talk.session.logout() and talk.turn() == ["LOGOUT"]


def test_giving_up_settles_everything(talk: Talk) -> None:
    tags = [talk.session.send("eve", "x") for _ in range(65)]
    talk.turn()
    talk.session.abandon()
    assert talk.failures() == [(tag, "unknown") for tag in tags[:64]] + [(tags[64], "not-sent")]
    assert talk.session.unanswered == 0
    talk.wait(10.0)
    assert talk.shows() == []


@pytest.mark.parametrize("reason", ["shutdown", "slow", "silent", "full", "resumed", "what-is-this"])
def test_after_most_goodbyes_one_comes_back(talk: Talk, reason: str) -> None:
    talk.hears(f"BYE {reason}", f"@1 MSG eve 7 {NOON} nothing is believed after it")
    talk.hears(f"@1 MSG eve 7 {NOON} nor now")
    assert talk.shows() == []
    assert talk.session.hang_up
    lost = talk.breaks()
    assert (lost.bye, lost.come_back) == (reason, True)
    assert talk.link()[0].endswith("RESUME t1 0")


def test_a_replaced_client_does_not_come_back(talk: Talk) -> None:
    tag = talk.sends("1")
    talk.hears("BYE replaced")
    assert talk.failures() == [(tag, "unknown")]
    lost = talk.breaks()
    assert (lost.bye, lost.come_back) == ("replaced", False)
    assert lost.words == protocol.BYE_WORDS["replaced"]
    assert talk.link() == []  # until the person says so
    again = talk.session.login("bob", SECRET)
    assert talk.turn() == ["KEEP", f"#{again} LOGIN bob {SECRET}"]


def test_every_goodbye_of_the_server_has_words() -> None:
    assert set(protocol.BYE_WORDS) == {bye.value for bye in protocol.Bye} - {"resumed"}


def test_a_client_at_which_nobody_has_logged_in_is_told_so_and_not_that_it_was_silent() -> None:
    talk = Talk()
    talk.link()
    talk.hears("BYE silent")
    assert talk.breaks().words == protocol.NOBODY_CAME
    assert talk.link() == []
    tag = talk.session.login("bob", SECRET)  # as it says, this connects again
    assert talk.session.wants_link
    assert talk.turn() == ["KEEP", f"#{tag} LOGIN bob {SECRET}"]
    assert talk.hears(f"#{tag} OK LOGIN bob token=t1", "ONLINE bob", "BYE silent") == []
    assert talk.breaks().words == protocol.BYE_WORDS["silent"]


# --- A server that is silent, or none ---


def test_a_silent_server_is_asked_and_then_left(talk: Talk) -> None:
    for _ in range(10):  # one that answers is not left
        assert talk.wait(25.0) == ["PING"]
        talk.hears("OK PING")
    assert talk.wait(24.0) == []
    assert talk.wait(1.0) == ["PING"]
    assert talk.wait(19.0) == []
    assert not talk.session.hang_up
    talk.wait(1.0)
    assert talk.session.hang_up
    assert "silent for 45 s" in talk.breaks().words


def test_the_silence_of_an_old_link_does_not_count_on_a_new_one(talk: Talk) -> None:
    talk.wait(44.0)
    talk.resumes(0)
    talk.wait(20.0)
    assert not talk.session.hang_up


def test_a_silent_server_was_lost_when_it_was_last_heard(talk: Talk) -> None:
    talk.wait(45.0)
    assert talk.session.hang_up
    talk.resumes(0)
    assert [back.seconds for back in talk.shows_only(Back)] == [45.0]
    talk.wait(7.0)  # the next time it breaks at once
    talk.resumes(0)
    assert [back.seconds for back in talk.shows_only(Back)] == [0.0]


def suspend(talk: Talk, seconds: float) -> list[str]:
    """Ctrl-Z, and `fg` so much later: the wait returns without what waits. What is sent before the next wait."""
    talk.session.next_deadline()
    talk.now += seconds
    said = talk.turn()
    assert talk.turn() == []  # a second look before the next wait: still nothing was read
    assert not talk.session.hang_up
    deadline = talk.session.next_deadline()
    assert deadline is not None and talk.now < deadline <= talk.now + max(1.0, 45.0 - seconds)
    return said


def test_a_suspended_client_shows_what_waits_before_it_judges_the_server() -> None:
    talk = Talk().enter("bob", "eve")
    talk.wait(10.0)
    assert suspend(talk, 167.0) == ["PING"]
    talk.hears("PING", f"@1 MSG eve 7 {NOON} sent while your lid was closed", "BYE silent")
    message = talk.shows()[0]
    assert isinstance(message, Message) and message.text.startswith("sent while")
    assert talk.breaks().words == "this client was suspended for 167 s"
    assert talk.mends("OK RESUME bob 0 1", "ONLINE bob eve") == []
    (back,) = talk.shows()[1:]
    assert back == Back("bob", 167.0, 0, Presence(), ended=True)


@pytest.mark.parametrize("why", ["cut", "silent"])
def test_a_suspended_client_with_nothing_to_read_was_not_left_by_a_silent_server(talk: Talk, why: str) -> None:
    suspend(talk, 80.0)
    seconds = 80.0
    if why == "silent":
        seconds += 1.0
        talk.wait(1.0)
        assert talk.session.hang_up
    assert talk.breaks().words == f"this client was suspended for {seconds:.0f} s"
    talk.mends("OK RESUME bob 0 0", "ONLINE bob")
    assert talk.shows()[-1] == Back("bob", seconds, 0, Presence(), ended=True)


def test_a_link_that_outlives_the_suspension_is_as_before_it(talk: Talk) -> None:
    assert suspend(talk, 35.0) == ["PING"]
    talk.hears("PING", "OK PING")
    assert talk.wait(24.0) == []
    assert talk.wait(21.0) == ["PING"]
    assert "silent for 45 s" in talk.breaks().words


def test_a_session_that_was_there_all_the_time_has_missed_nothing(talk: Talk) -> None:
    suspend(talk, 80.0)
    tag = talk.session.send("eve", "hi")
    talk.resumes(tag)
    assert talk.shows()[-1] == Back("bob", 80.0, 0, Presence())


def test_a_server_that_says_goodbye_has_its_own_reason(talk: Talk) -> None:
    suspend(talk, 80.0)
    talk.hears("BYE shutdown")
    assert "being stopped" in talk.breaks().words


def test_a_link_that_is_lost_in_the_turn_after_a_suspension_was_lost_by_it(talk: Talk) -> None:
    talk.session.next_deadline()
    talk.now += 50.0
    assert talk.breaks().words == "this client was suspended for 50 s"


def test_a_server_gets_a_second_after_a_suspension_although_it_was_silent_for_long(talk: Talk) -> None:
    suspend(talk, 80.0)
    talk.wait(0.9)
    assert not talk.session.hang_up
    talk.hears("OK PING")
    talk.wait(20.0)
    assert not talk.session.hang_up


def test_a_client_that_is_stopped_within_a_turn_was_suspended_too(talk: Talk) -> None:
    """As by Ctrl-Z, which stops it while it deals with keys and not while it waits."""
    talk.session.tick(talk.now)
    talk.now += 90.0
    talk.session.tick(talk.now)
    assert not talk.session.hang_up
    talk.hears(f"@1 MSG eve 7 {NOON} sent while it was stopped")
    assert isinstance(talk.shows()[0], Message)


def test_a_dialled_server_is_given_its_time_after_a_suspension() -> None:
    talk = Talk()
    talk.session.connected(talk.now)
    suspend(talk, 100.0)
    assert talk.hears("OK PING") == []
    assert not talk.session.hang_up


@pytest.mark.parametrize("drips", [b"", b"\0\0\1" + b"A" * 12])  # silent, or never a whole frame
def test_something_that_does_not_answer_is_left(drips: bytes) -> None:
    talk = Talk()
    talk.session.connected(talk.now)
    for byte in drips:
        talk.session.feed(bytes([byte]), talk.now)
        talk.wait(1.0)
    talk.wait(protocol.HELLO_SECONDS - len(drips))
    assert talk.session.hang_up
    assert isinstance(talk.shows()[-1], NotVessages)


@pytest.mark.parametrize(
    "data",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", b"\x15\x03\x01\x00\x02\x02\x16", b"\0\0\0\0"]
    + [frame(b"hello"), frame(b"\xff\xfe"), frame(b"@0 OK PING"), frame(b"@5 OK PING"), frame(b"OK KEEP soon")]
    + [frame(b"MSG eve"), frame(b"MSG eve 1 noon hi"), frame(b"MSG eve 1 1969-12-31T23:59:59.000Z hi")]
    + [frame(b"#99999999999999999 OK PING")],
)
def test_something_that_is_not_vessages_is_left(data: bytes) -> None:
    talk = Talk()
    talk.session.connected(talk.now)
    talk.turn()
    talk.session.feed(data, talk.now)
    assert talk.session.hang_up
    assert NotVessages in map(type, talk.shows())
    assert not talk.breaks().come_back


@pytest.mark.parametrize("payload", ["@2 OK PING", f"@1 MSG eve 7 {NOON}", "NONSENSE", "ONLINE bob\n@"])
def test_a_broken_server_is_left_and_tried_again(talk: Talk, payload: str) -> None:
    talk.hears(payload)
    assert talk.session.hang_up == (payload != "ONLINE bob\n@")
    talk.session.disconnected(talk.now)
    assert talk.session.wants_link


def test_a_resume_that_counts_differently_ends_the_link(talk: Talk) -> None:
    talk.breaks()
    (command,) = talk.link()
    talk.hears(f"{command.split()[0]} OK RESUME bob 0 5")
    assert talk.session.hang_up


def test_a_roster_without_end_is_refused(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "ROSTER_MAX", 3)
    talk.hears("PRESENCE +a +b")
    assert not talk.session.hang_up
    talk.hears("PRESENCE +c")
    assert talk.session.hang_up


def test_an_untagged_error_is_shown(talk: Talk) -> None:
    talk.hears("ERROR bad-encoding the text is not valid UTF-8")
    assert talk.shows() == [Refused(0, "", "bad-encoding", "the text is not valid UTF-8")]


TAGS = st.integers(FIRST, FIRST + 5)
SERVER_WORDS = st.one_of(
    st.builds("@{} MSG eve {} {} {}".format, st.integers(1, 4), st.integers(0, 3), st.just(NOON), st.text(max_size=5)),
    st.builds("#{} OK {}".format, TAGS, st.sampled_from(["SEND", "LOGIN", "WHO x"])),
    st.builds("#{} ERROR {}".format, TAGS, st.sampled_from(["busy 3", "x"])),
    st.builds("@{} #{} OK SEND".format, st.integers(1, 4), TAGS),
    st.sampled_from(["PING", "BYE slow", "BYE replaced", "ONLINE", "ONLINE bob ~eve", "PRESENCE +eve -x ~bob"]),
    st.text(max_size=8),
)


def play(chunks: list[bytes]) -> tuple[list[SessionEvent], bytes, bool]:
    """What a session with things to say makes of this, shown at the very end."""
    session = ClientSession(FIRST)
    session.login("bob", SECRET)
    session.send("eve", "hi")
    session.who()
    session.connected(1.0)
    session.feed(frame(b"OK PING"), 1.0)
    session.tick(1.0)
    for chunk in chunks:
        session.feed(chunk, 1.0)
    session.tick(1.0)
    events = session.take_events()
    session.shown()
    return events, session.take_output(), session.hang_up


@examples(40)
@given(st.lists(SERVER_WORDS, max_size=8), st.booleans(), st.integers(1, 9))
def test_any_server_in_any_chunks_is_the_same_server(payloads: list[str], honest: bool, size: int) -> None:
    words = [f"#{FIRST + 1} OK LOGIN bob token=t"] * honest + payloads
    stream = b"".join(frame(payload.encode("utf-8", "replace")) for payload in words)
    whole = play([stream])
    assert play([stream[i : i + size] for i in range(0, len(stream), size)]) == whole
    assert play([stream[i : i + 1] for i in range(len(stream))]) == whole


@examples(40)
@given(st.binary(max_size=60), st.booleans())
def test_no_bytes_raise(data: bytes, framed: bool) -> None:
    play([frame(data) if framed and data else data])


# --- Messages to several ---


def test_a_message_to_several_says_whom_it_was_for(talk: Talk) -> None:
    talk.hears(f"@1 MSG ann>bob,eve 7 {NOON} hi", f"@2 MSG ann>* 8 {NOON} all", f"@3 MSG ann 9 {NOON} you")
    told = [(message.sender, message.to, message.reply_to) for message in talk.shows_only(Message)]
    assert told == [("ann", ("bob", "eve"), "ann,bob,eve"), ("ann", "*", "*"), ("ann", None, "ann")]


def test_the_fate_of_a_message_to_several_counts_and_names(talk: Talk) -> None:
    first, second = talk.session.send("ann,eve", "hi"), talk.session.send("*", "all")
    assert talk.turn() == [f"#{first} SEND ann,eve hi", f"#{second} SEND * all"]
    talk.hears(f"@1 #{first} OK SEND 2", f"@2 #{second} ERROR partly eve=busy,zoe=unconfirmed shown to 5 of 7")
    shown, failed = talk.shows()
    assert isinstance(shown, Delivered) and (shown.recipient, shown.shown_to) == ("ann,eve", 2)
    assert isinstance(failed, Failed) and failed.fates == (("eve", "busy"), ("zoe", "unconfirmed"))


def test_partly_is_told_as_it_is_also_after_a_restart(talk: Talk) -> None:
    tag = talk.sends("hi", to="ann,eve")
    assert talk.resumes(0) == [f"#{tag} SEND ann,eve hi"]
    talk.hears(f"@1 #{tag} ERROR partly eve=not-online shown to 1 of 2")
    assert talk.failures() == [(tag, "partly")]


def test_messages_to_everybody_wait_here_while_the_server_would_refuse_them(talk: Talk) -> None:
    for number in range(13):
        talk.session.send("*", f"{number}")
    last = talk.session.send("ann", "behind them, in order")
    assert len(talk.turn()) == protocol.TO_ALL[0]
    assert talk.wait(3.0) == []
    assert [said.partition(" ")[2] for said in talk.wait(0.2)] == ["SEND * 10"]
    said = [said.partition(" ")[2] for said in talk.wait(6.5)]
    assert said == ["SEND * 11", "SEND * 12", "SEND ann behind them, in order"]
    assert last == talk.session.undelivered[-1].tag


def too_many_to_all(talk: Talk) -> Talk:
    """As many messages to everybody as a server takes at once are on their way, and two more wait."""
    for number in range(protocol.TO_ALL[0] + 2):
        talk.session.send("*", f"{number}")
    assert len(talk.turn()) == protocol.TO_ALL[0]
    return talk


def test_what_is_sent_again_counts_again(talk: Talk) -> None:
    assert too_many_to_all(talk).resumes(0) == []  # the server may have counted them
    assert len(talk.wait(3.2)) == 1


def test_a_message_that_is_given_up_holds_nothing_back(talk: Talk) -> None:
    too_many_to_all(talk).session.abandon()
    talk.session.logout()
    assert talk.turn() == ["LOGOUT"]


def test_oneself_is_left_out_of_a_list(talk: Talk) -> None:
    talk.session.send(Message("ann", 1, 0.0, "hi", ("bob", "eve")).reply_to, "x")
    for to in ("bob", "BOB,ann,bob", "BOB,bob"):  # the last one the server refuses
        talk.session.send(to, "y")
    assert [said.partition(" SEND ")[2] for said in talk.turn()] == ["ann,eve x", "bob y", "ann y", "BOB,bob y"]


@examples(40)
@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 20), st.booleans()), max_size=40))
def test_no_server_refuses_what_a_session_sends(steps: list[tuple[int, int, bool]]) -> None:
    """The network lets what was sent through in bursts, and the answers after a while, in which more is sent."""
    talk, limit = Talk().enter(), protocol.Allowance(*protocol.TO_ALL)
    talk.stalls = True
    under_way: list[str] = []

    def sent(tenths: int) -> list[str]:
        return [said for said in talk.wait(tenths / 10) if said != "PING"]

    for pause, back, arrives in steps:
        talk.session.send("*", "x")
        under_way += sent(pause)
        if arrives:
            assert [limit.take("bob", talk.now) for _ in under_way] == [0.0] * len(under_way)
            answers, talk.asked = talk.asked, []
            under_way = sent(back)
            talk.asked, later = answers, talk.asked
            talk.answers()
            talk.asked = later


def test_a_burst_behind_a_link_that_stalls_is_not_refused_and_waits_no_longer_than_it_has_to(talk: Talk) -> None:
    limit = protocol.Allowance(*protocol.TO_ALL)
    talk.stalls = True
    sent: list[str] = []
    for number in range(16):
        talk.session.send("*", f"{number}")
        sent += talk.wait(1.0)
    assert len(sent) == protocol.TO_ALL[0]  # all that a server takes at once
    assert {limit.take("bob", talk.now) for _ in sent} == {0.0}
    talk.answers()
    talk.stalls = False
    assert talk.wait(3.1) == []
    assert len(talk.wait(0.1)) == 1
    assert len(talk.wait(3.15 * 5)) == 5
