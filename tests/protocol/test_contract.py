"""The contract: what anybody may rely on who speaks the protocol, written from the README's page on the protocol alone.

Each dialogue is had with nothing but a hub, and by real sockets with a real server. Where it may matter how the bytes
travel (many at once, cut anywhere, a connection that ends, stalls or is silent), it is had in every place: also over
`select` and over TLS. What only a hub can be asked (its workers stopped, its tables looked into) is in `test_hub.py`
and `test_kept.py`; what only sockets can do is in `tests/server`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vocabulary import END, PASSWORD, STAMP, Somebody, examples
from wire import PLACES, Place, encode, place_of

import protocol

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
TOKEN = r"\S+"


HUB_AND_SERVER = PLACES[:2]


@pytest.fixture(params=HUB_AND_SERVER)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with place_of(request.param, tmp_path) as place:
        yield place


@pytest.fixture(params=PLACES)
def every_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with place_of(request.param, tmp_path) as place:
        yield place


def like(pattern: str, payload: str) -> bool:
    return re.fullmatch(pattern, payload, re.DOTALL) is not None


def codes(answers: list[str]) -> list[str]:
    """`#5 ERROR busy the words` as `#5 ERROR busy`: the words are for a person."""
    return [re.sub(r"(ERROR [a-z-]+) .+", r"\1", answer, flags=re.DOTALL) for answer in answers]


# --- Frames -----------------------------------------------------------------------------------------------------------


def test_a_length_of_nothing_is_refused(every_place: Place) -> None:
    assert codes(every_place.connect().say_bytes(bytes(4)).ends()) == ["ERROR bad-frame", END]


def check_frame_of(size: int, fine: bool, peer: Somebody) -> None:
    """A frame of this size is answered, or refused on its header alone."""
    peer.say_bytes(size.to_bytes(4, "big"))
    if fine:
        peer.say_bytes(b"PING " + b"x" * (size - 5))
        assert peer.next() == ["OK PING " + "x" * (size - 5)]
    else:
        assert codes(peer.ends()) == ["ERROR bad-frame", END]


def test_a_frame_that_is_too_long_is_refused_on_its_header(every_place: Place) -> None:
    """A stranger may say 4096 bytes, somebody who is logged in 65536."""
    for size, fine in ((4096, True), (4097, False), (65536, False), (2**32 - 1, False)):
        check_frame_of(size, fine, every_place.connect())
    for name, size, fine in (("alice", 65536, True), ("bob", 65537, False)):
        check_frame_of(size, fine, every_place.person(name))


def test_answers_before_a_bad_frame_come_first_and_nothing_after_it_is_read(every_place: Place) -> None:
    peer = every_place.connect()
    peer.say_bytes(encode("PING 1") + encode("PING 2") + bytes(4) + encode("PING 3"))
    assert codes(peer.ends()) == ["OK PING 1", "OK PING 2", "ERROR bad-frame", END]


def test_bad_utf8_is_refused_and_the_third_time_is_the_last(every_place: Place) -> None:
    peer = every_place.connect()
    assert codes(peer.says(b"PING \xff", b"\xc0\x80", "PING")) == ["ERROR bad-encoding"] * 2 + ["OK PING"]
    assert codes(peer.say(b"PING \xed\xa0\x80").ends()) == ["ERROR bad-encoding", END]


def test_a_refusal_of_what_is_not_utf8_is_numbered_in_a_kept_session(place: Place) -> None:
    peer = place.person("alice", kept=True)
    assert like(r"@\d+ ERROR bad-encoding .+", peer.says(b"#3 \xff")[0])


DIALOGUE = [
    "PING", "#7 PING a b", "REGISTER {name} " + PASSWORD, "LOGIN {name} " + PASSWORD, "PING {long}", "WHO",
    "#9 WHO", "SEND {name} to myself\nin two lines", "#10 SEND nobody hi", "PING", "LOGOUT", "WHO", "#2 PING",
    "#1 PING",
]  # fmt: skip
HEARD = [
    "OK PING", "#7 OK PING a b", "OK REGISTER {name}", "OK LOGIN {name}", "ONLINE {name}", "OK PING {long}",
    "OK WHO {name}", "#9 OK WHO {name}", f"MSG {{name}} 0 {STAMP} to myself\nin two lines", "#10 ERROR not-online",
    "OK PING", "OK LOGOUT", "ERROR not-logged-in", "#2 OK PING", "#1 OK PING",
]  # fmt: skip


LONG = "x" * 5000  # more than a stranger may say


def filled_in(lines: list[str], name: str, long: str) -> list[str]:
    return [line.replace("{name}", name).replace("{long}", long) for line in lines]


def dialogue(name: str, long: str = LONG) -> bytes:
    return b"".join(map(encode, filled_in(DIALOGUE, name, long)))


def test_the_same_bytes_one_at_a_time_give_the_same_answers(every_place: Place) -> None:
    peer = every_place.connect()
    for byte in dialogue("alice", "x"):
        peer.say_bytes(bytes([byte]))
        every_place.turn()
    assert codes(peer.next(len(HEARD))) == filled_in(HEARD, "alice", "x")


def test_the_same_bytes_cut_anywhere_give_the_same_answers(every_place: Place) -> None:
    numbers = iter(range(10**6))

    @examples(15)
    @given(st.lists(st.integers(0, len(dialogue("p000000"))), max_size=12))
    def check(cuts: list[int]) -> None:
        name = f"p{next(numbers):06d}"
        data, peer = dialogue(name), every_place.connect()
        for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
            peer.say_bytes(data[start:end])
            every_place.turn()
        assert codes(peer.next(len(HEARD))) == filled_in(HEARD, name, LONG)
        peer.close()

    check()


def test_a_frame_that_is_said_during_the_login_is_judged_after_it(every_place: Place) -> None:
    every_place.connect().says(f"REGISTER alice {PASSWORD}")
    long = encode("PING " + "x" * 60000)
    peer = every_place.connect().say_bytes(encode(f"LOGIN alice {PASSWORD}") + long)
    assert [payload[:12] for payload in peer.next(3)] == ["OK LOGIN ali", "ONLINE alice", "OK PING xxxx"]
    peer = every_place.connect().say_bytes(encode("LOGIN alice wrong password") + long)
    assert codes(peer.ends()) == ["ERROR bad-login", "ERROR bad-frame", END]


def test_a_frame_that_is_begun_behind_a_logout_is_judged_after_it(every_place: Place) -> None:
    alice = every_place.person("alice")
    alice.say_bytes(encode("LOGOUT") + encode("PING " + "x" * 60_000)[:100])
    assert codes(alice.ends()) == ["OK LOGOUT", "ERROR bad-frame", END]


def test_a_half_close_is_a_close(every_place: Place) -> None:
    alice, bob = every_place.people("alice", "bob")
    alice.finish()
    assert alice.ends() == [END]
    assert bob.sees("bob")


def test_commands_before_a_half_close_are_done(every_place: Place) -> None:
    alice, bob = every_place.people("alice", "bob")
    alice.say(*[f"SEND bob {number}" for number in range(300)])
    alice.finish()
    alice.ends()
    assert bob.hears() == [f"MSG alice 0 {STAMP} {number}" for number in range(300)]


# --- Verbs and states -------------------------------------------------------------------------------------------------

ANYWHERE = {"PING": "OK PING", "PING a  b ": "OK PING a  b ", "pInG x": "OK PING x"}
STRANGERS = {
    f"REGISTER zoe {PASSWORD}": "OK REGISTER zoe", "KEEP": "OK KEEP 60", f"LOGIN nobody {PASSWORD}": "ERROR bad-login",
    f"TAKEOVER nobody {PASSWORD}": "ERROR bad-login", "RESUME token 0": "ERROR unknown-session",
}  # fmt: skip
LOGGED_IN = {
    "WHO": "OK WHO alice", "SEND nobody hi": "#0 ERROR not-online",
    f"PASSWD {PASSWORD}\nanother password": "OK PASSWD", "LOGOUT": "OK LOGOUT",
}  # fmt: skip
COMMANDS = [*ANYWHERE, *STRANGERS, *LOGGED_IN]


def test_a_stranger_is_told_to_log_in_first_and_may_use_tags_and_small_letters(place: Place) -> None:
    stranger = place.connect()
    for command in COMMANDS:
        verb, space, rest = command.partition(" ")
        expected = (ANYWHERE | STRANGERS).get(command, "ERROR not-logged-in")
        assert codes(stranger.says(f"#12 {verb.lower()}{space}{rest}")) == ["#12 " + expected]
    assert codes(stranger.says("WHO", "SEND nobody hi")) == ["ERROR not-logged-in", "#0 ERROR not-logged-in"]


def test_somebody_who_is_logged_in_cannot_log_in(place: Place) -> None:
    alice = place.person("alice")
    for tag, command in enumerate(COMMANDS, 1):
        expected = (ANYWHERE | LOGGED_IN).get(command, "ERROR logged-in")
        assert codes(alice.says(f"#{tag} {command}")) == [f"#{tag} " + expected.removeprefix("#0 ")]


def test_ack_is_never_answered(place: Place) -> None:
    acks = ["ACK 0", "ACK 7", "ACK", "ACK x", "#3 ACK 1", "ack -1", "ACK 99999999999999999999"]
    for peer in (place.connect(), place.person("alice"), place.person("bob", kept=True)):
        assert peer.says(*acks) == []


def test_bad_commands_are_refused(place: Place) -> None:
    alice = place.person("alice")
    wrong = ["", "PINGS", "PIN", "#5", "HELLO world", " PING", "SEND", "SEND alice", "SEND alice ", "SEND  alice"]
    wrong += ["WHO me", "LOGOUT now", f"PASSWD {PASSWORD}"]
    for tag, command in enumerate(wrong, 1):
        (answer,) = alice.says(f"#{tag} {command}")
        assert answer.startswith(f"#{tag} ERROR bad-command "), command
        assert "SEND <to> <text>" in answer or not command.startswith("SEND")
        assert "LOGOUT WHO SEND" in answer or command != "HELLO world"  # all that there are
    assert codes(alice.says("SEND alice")) == ["#0 ERROR bad-command"]
    assert alice.says("WHO") == ["OK WHO alice"]
    assert codes(place.connect().says("KEEP x")) == ["ERROR bad-command"]


def test_verbs_are_ascii(place: Place) -> None:
    alice = place.person("alice")
    for verb in ("pıng", "\uff30\uff29\uff2e\uff27", "ſEND"):
        assert codes(alice.says(f"{verb} alice x")) == ["ERROR bad-command"]


def test_the_explanation_is_for_a_person(place: Place) -> None:
    for answer in place.person("alice").says("FOO", "WHO x", "SEND bob hi", "#4 SEND bob hi", "KEEP"):
        assert like(r"(#\d )?ERROR [a-z-]+ \S+ \S+ \S.*", answer), answer


# --- Tags -------------------------------------------------------------------------------------------------------------


def test_the_answer_repeats_the_tag(place: Place) -> None:
    peer = place.connect()
    assert codes(peer.says(
        f"#1 REGISTER alice {PASSWORD}", "#9007199254740991 PING", "#5 KEEP", "#5 FOO", f"#3 LOGIN alice {PASSWORD}",
    ))[:-1] == [
        "#1 OK REGISTER alice", "#9007199254740991 OK PING", "#5 OK KEEP 60", "#5 ERROR bad-command",
    ]  # fmt: skip


def test_a_malformed_tag_is_a_bad_command_without_a_tag(place: Place) -> None:
    tags = ["#", "#0", "#x", "#-1", "#1.0", "#9007199254740992", "#" + "1" * 30, "#١", "#1\n", "##1", "#1_0", "#+1"]
    commands = [command for tag in tags for command in (f"{tag} PING", f"{tag} SEND alice hi")]
    for peer in (place.connect(), place.person("alice")):
        assert codes(peer.says(*commands, "#1 PING")) == ["ERROR bad-command"] * len(commands) + ["#1 OK PING"]


def test_in_a_session_tags_grow_and_what_was_had_before_is_ignored(place: Place) -> None:
    alice, bob = place.people("alice", "bob")
    assert alice.says("#5 PING a", "#5 PING b", "#4 PING c", "#1 LOGOUT", "#6 SEND bob hi", "#6 SEND bob hi") == [
        "#5 OK PING a", "#6 OK SEND",
    ]  # fmt: skip
    assert len(bob.hears()) == 1


def test_every_tag_that_was_read_counts(place: Place) -> None:
    alice = place.person("alice")
    for tag, command in enumerate(("FOO", "KEEP", "SEND nobody hi", "ACK 0", "SEND alice", "WHO x"), 1):
        alice.says(f"#{tag}0 {command}")
        assert alice.says(f"#{tag}0 PING", f"#{tag - 1}9 PING", f"#{tag}1 PING") == [f"#{tag}1 OK PING"]


def test_counting_starts_after_the_login_and_again_after_the_next(place: Place) -> None:
    peer = place.connect()
    peer.says(f"#1 REGISTER alice {PASSWORD}")
    login = f"#100 LOGIN alice {PASSWORD}"
    assert peer.says(login, "#1 PING", "#2 LOGOUT", "#1 PING", "#1 PING", login, "#1 WHO") == [
        "#100 OK LOGIN alice", "#1 OK PING", "#2 OK LOGOUT", "#1 OK PING", "#1 OK PING",
        f"#100 OK LOGIN alice last={STAMP}", "#1 OK WHO alice",
    ]  # fmt: skip


# --- Accounts ---------------------------------------------------------------------------------------------------------


def test_good_names_are_taken_as_they_are(place: Place) -> None:
    for name in ("Tuấn", "Мария", "田中さん", "スーパーマン", "a", "7up", "a11", "o_o.-", "x" * 32):
        peer = place.connect()
        assert peer.says(f"REGISTER {name} {PASSWORD}") == [f"OK REGISTER {name}"]
        assert peer.says(f"LOGIN {name} {PASSWORD}", "WHO", "LOGOUT")[:2] == [f"OK LOGIN {name}", f"OK WHO {name}"]


def test_bad_names_are_refused(place: Place) -> None:
    names = ["x" * 33, "pаypal", "~bob", "_bob", "-bob", "+bob", "@bob", "bo\nb", "bo\tb", "bo\u200bb", "bob!", "😀"]
    for name in [*names, "a/b", "\u0301a", "you", "All", "Everyone"]:
        assert codes(place.connect().says(f"REGISTER {name} {PASSWORD}")) == ["ERROR bad-username"], name


def test_a_name_is_taken_in_every_spelling_and_shown_as_registered(place: Place) -> None:
    peer = place.connect()
    assert codes(peer.says(f"REGISTER Ann {PASSWORD}", f"REGISTER ann {PASSWORD}", f"REGISTER ＡＮＮ {PASSWORD}")) == [
        "OK REGISTER Ann", "ERROR name-taken", "ERROR name-taken",
    ]  # fmt: skip
    assert peer.says(f"LOGIN aNN {PASSWORD}", "SEND ANN hi") == ["OK LOGIN Ann", f"MSG Ann 0 {STAMP} hi"]
    assert peer.roster == {"Ann"}


def test_a_name_that_looks_like_a_taken_one_is_refused_with_what_to_do(place: Place) -> None:
    peer = place.connect()
    assert peer.says("REGISTER Alice longenough") == ["OK REGISTER Alice"]
    for name in ("AIice", "Alıce", "A1ice"):
        assert peer.says(f"REGISTER {name} longenough") == [
            f"ERROR name-taken {name} looks like a name that is taken: choose another one"
        ]
    assert peer.says("REGISTER ALICE longenough") == ["ERROR name-taken that name is taken, choose another one"]


def test_bad_passwords_are_refused(place: Place) -> None:
    peer = place.connect()
    for password in ("short77", "alice99", "ALICE123", "x" * 1025, "é" * 513, "two\nlines more"):
        assert codes(peer.says(f"REGISTER alice123 {password}")) == ["ERROR bad-password"], password


def test_good_passwords_are_taken_as_they_are_on_every_keyboard(place: Place) -> None:
    passwords = ("x" * 8, " leads and trails ", "x" * 1024, "пароль с пробелами", "\t" * 8, "#1 @2 +3 ~")
    for name, password in (*zip("abcdef", passwords, strict=True), ("g", "cafe\u0301 caf\u00e9")):
        peer = place.connect()
        peer.says(f"REGISTER {name} {password}")
        typed = unicodedata.normalize("NFC", password)
        assert codes(peer.says(f"LOGIN {name} {password.strip()}x", f"LOGIN {name} {typed}")) == [
            "ERROR bad-login", f"OK LOGIN {name} failed=1",
        ]  # fmt: skip


def test_unknown_names_malformed_names_and_wrong_passwords_get_the_same_answer(place: Place) -> None:
    place.connect().says(f"REGISTER alice {PASSWORD}")
    answers = [
        place.connect().says(f"{verb} {name} wrong password")[0]
        for verb, name in (("LOGIN", "alice"), ("TAKEOVER", "alice"), ("LOGIN", "nobody"), ("LOGIN", "~~~"))
    ]
    assert len(set(answers)) == 1
    assert codes(answers[:1]) == ["ERROR bad-login"]


def test_a_login_tells_the_last_one_and_the_failures_since(place: Place) -> None:
    alice = place.person("alice")
    assert alice.says("LOGOUT") == ["OK LOGOUT"]
    place.wait(1)
    assert codes(alice.says("LOGIN alice wrong", "LOGIN alice wronger")) == ["ERROR bad-login"] * 2
    assert alice.says(f"LOGIN alice {PASSWORD}") == [f"OK LOGIN alice last={STAMP} failed=2"]


def test_a_password_can_be_changed(place: Place) -> None:
    alice = place.person("alice")
    assert codes(alice.says(
        f"#1 PASSWD {PASSWORD}\nthe new one ", "#2 PASSWD wrong\nanother one", "#3 PASSWD the new one \nshort",
        "#4 PASSWD no second line",
    )) == [
        "#1 OK PASSWD", "#2 ERROR bad-login", "#3 ERROR bad-password", "#4 ERROR bad-command",
    ]  # fmt: skip
    assert codes(alice.says("LOGOUT", f"LOGIN alice {PASSWORD}", "LOGIN alice the new one ")) == [
        "OK LOGOUT", "ERROR bad-login", f"OK LOGIN alice last={STAMP} failed=2",
    ]  # fmt: skip


def test_after_a_logout_the_connection_stays(place: Place) -> None:
    alice, bob = place.people("alice", "bob")
    assert alice.says("LOGOUT", f"REGISTER carol {PASSWORD}", f"LOGIN carol {PASSWORD}") == [
        "OK LOGOUT", "OK REGISTER carol", "OK LOGIN carol",
    ]  # fmt: skip
    assert bob.sees("bob", "carol")


@pytest.mark.parametrize("kind", HUB_AND_SERVER)
def test_registration_can_be_closed(kind: str, tmp_path: Path) -> None:
    with place_of(kind, tmp_path, registration=False) as place:
        assert codes(place.connect().says(f"REGISTER alice {PASSWORD}")) == ["ERROR closed"]


# --- Messages ---------------------------------------------------------------------------------------------------------


def test_a_message_is_what_was_written(place: Place) -> None:
    alice, bob = place.people("Alice", "bob")
    assert alice.says("SEND bob hi  there \n", "send BOB #1 @2") == []
    assert bob.hears() == [f"MSG Alice 0 {STAMP} hi  there \n", f"MSG Alice 0 {STAMP} #1 @2"]


def test_a_tagged_message_to_a_plain_recipient_is_delivered_at_once(place: Place) -> None:
    alice, bob = place.people("alice", "bob")
    assert alice.says("#7 SEND bob hi", "#8 SEND nobody hi", "SEND nobody hi") == [
        "#7 OK SEND", "#8 ERROR not-online nobody is not online", "#0 ERROR not-online nobody is not online",
    ]  # fmt: skip
    assert bob.hears() == [f"MSG alice 7 {STAMP} hi"]


def test_a_message_may_go_to_oneself(place: Place) -> None:
    alice = place.person("alice")
    assert sorted(alice.says("#3 SEND alice hi")) == ["#3 OK SEND", f"MSG alice 3 {STAMP} hi"]


def test_a_message_as_long_as_can_be_arrives(every_place: Place) -> None:
    alice, bob = every_place.people("alice", "bob")
    text = "é" * ((65536 - len("SEND bob ")) // 2)
    assert alice.says(f"SEND bob {text}") == []
    assert bob.hears() == [f"MSG alice 0 {STAMP} {text}"]


def test_messages_stay_in_order(every_place: Place) -> None:
    alice, bob = every_place.people("alice", "bob")
    alice.say(*[f"SEND bob {number} {'x' * (number * 7 % 700)}" for number in range(300)])
    alice.hears()
    assert [int(message.split(" ")[4]) for message in bob.hears()] == list(range(300))


# --- Who is there -----------------------------------------------------------------------------------------------------


def test_the_roster_comes_after_the_login_and_before_all_else(place: Place) -> None:
    place.person("bob")
    alice = place.connect().say(f"REGISTER alice {PASSWORD}", f"LOGIN alice {PASSWORD}", "WHO", "SEND alice hi")
    assert alice.next(5) == [
        "OK REGISTER alice", "OK LOGIN alice", "ONLINE bob alice", "OK WHO bob alice", f"MSG alice 0 {STAMP} hi",
    ]  # fmt: skip


def test_presence_tells_what_changed_and_so_does_the_disk(place: Place) -> None:
    alice = place.person("alice", kept=True)
    bob = place.person("bob", kept=True)
    assert alice.sees("alice", "bob")
    bob.close()
    assert alice.sees("alice", "~bob")
    place.wait(2)
    assert place.statuses() == {"alice": "online", "bob": "lost"}
    back = place.connect()
    assert back.says(f"RESUME {bob.token} 0")[0].startswith("OK RESUME bob 0 ")
    assert alice.sees("alice", "bob")
    place.wait(2)
    assert place.statuses() == {"alice": "online", "bob": "online"}
    back.says("#1 LOGOUT")
    assert alice.sees("alice")
    assert place.statuses() == {"alice": "online", "bob": "offline"}
    assert alice.presence[1:] == ["PRESENCE +bob", "PRESENCE ~bob", "PRESENCE +bob", "PRESENCE -bob"]


def test_strangers_are_told_nothing(place: Place) -> None:
    stranger = place.connect()
    place.people("alice", "bob")
    assert stranger.hears() == []
    assert stranger.presence == []


def test_a_reader_who_was_behind_gets_a_roster_instead_of_changes(every_place: Place) -> None:
    alice = every_place.person("alice")
    bob = every_place.slow_reader("bob")
    alice.says(*[f"SEND bob {'x' * 5000}"] * 40)
    every_place.person("carol").close()
    every_place.person("dave")
    bob.reading = True
    assert len(bob.hears()) == 40
    assert bob.sees("alice", "bob", "dave")
    assert not any("carol" in frame for frame in bob.presence)


# --- Kept sessions ----------------------------------------------------------------------------------------------------


def test_keep_names_the_grace_and_the_login_a_token_and_lasts_for_one_login(place: Place) -> None:
    peer = place.connect()
    answers = peer.says(f"REGISTER alice {PASSWORD}", "KEEP", "LOGIN alice wrong", f"LOGIN alice {PASSWORD}")
    assert answers[1] == "OK KEEP 60"
    assert like(f"OK LOGIN alice token={TOKEN} failed=1", answers[3])
    assert peer.says("LOGOUT", f"LOGIN alice {PASSWORD}", "PING x")[-2:] == [
        f"OK LOGIN alice last={STAMP}", "OK PING x",
    ]  # fmt: skip


def test_a_plain_login_has_neither_token_nor_numbers(place: Place) -> None:
    alice = place.person("alice")
    assert alice.token == ""
    assert alice.says("PING") == ["OK PING"]


def test_answers_and_messages_are_numbered_from_one_on(place: Place) -> None:
    peer = place.connect()
    peer.says(f"REGISTER bob {PASSWORD}", "KEEP")
    peer.say(f"LOGIN bob {PASSWORD}", "#1 PING", "#2 FOO", "#3 SEND bob hi", "#4 LOGOUT", "PING")
    heard = peer.next(7)
    assert like(f"OK LOGIN bob token={TOKEN}", heard.pop(0))
    assert codes(heard) == [
        "ONLINE bob", "@1 #1 OK PING", "@2 #2 ERROR bad-command", f"@3 MSG bob 3 {STAMP} hi", "#4 OK LOGOUT", "OK PING",
    ]  # fmt: skip


def kept_bob(place: Place, name: str = "bob") -> Somebody:
    """Somebody who has heard nothing that is numbered yet."""
    bob = place.connect()
    bob.says(f"REGISTER {name} {PASSWORD}", "KEEP")
    bob.token = bob.say(f"LOGIN {name} {PASSWORD}").next(2)[0].partition("token=")[2]
    return bob


def test_a_message_to_a_kept_recipient_is_delivered_when_it_is_acked(place: Place) -> None:
    alice, bob = place.person("alice"), kept_bob(place)
    assert alice.says("#1 SEND bob one", "#2 SEND bob two", "#3 SEND bob three") == []
    assert bob.next(3) == [f"@{n} MSG alice {n} {STAMP} {word}" for n, word in enumerate(("one", "two", "three"), 1)]
    bob.says("ACK 2", "ACK 1", "ACK 1000", "ACK -1", "ACK x", "ACK")
    assert alice.hears() == ["#1 OK SEND", "#2 OK SEND"]
    bob.says("ACK 3")
    assert alice.hears() == ["#3 OK SEND"]


def test_a_session_is_resumed_where_it_was(every_place: Place) -> None:
    alice, bob = every_place.person("alice"), kept_bob(every_place)
    bob.say("#17 PING", "#30 ACK 0").next()
    alice.says("#1 SEND bob one", "SEND bob two")
    bob.reset()
    assert alice.sees("alice", "~bob")
    assert alice.says("SEND bob three", "#4 SEND bob four", "WHO") == ["OK WHO alice ~bob"]
    back = every_place.connect().say(f"#5 RESUME {bob.token} 2", "#30 PING", "#31 PING")
    assert back.next(6) == [
        "#5 OK RESUME bob 30 2", f"@3 MSG alice 0 {STAMP} two", f"@4 MSG alice 0 {STAMP} three",
        f"@5 MSG alice 4 {STAMP} four", "ONLINE alice bob", "@6 #31 OK PING",
    ]  # fmt: skip
    assert alice.hears() == ["#1 OK SEND"]
    back.says("ACK 5")
    assert alice.hears() == ["#4 OK SEND"]


def test_commands_behind_a_resume_and_before_a_half_close_are_done(every_place: Place) -> None:
    alice, bob = every_place.person("alice"), every_place.person("bob", kept=True)
    bob.reset()
    assert alice.sees("alice", "~bob")
    back = every_place.connect()
    back.say_bytes(b"".join(map(encode, [f"RESUME {bob.token} 0", *(f"SEND alice {number}" for number in range(200))])))
    back.finish()
    said: list[str] = []
    while len(said) < 200:
        said += [text.rpartition(" ")[2] for text in alice.next() if text.startswith("MSG bob ")]
    assert said == [str(number) for number in range(200)]


def test_a_malformed_resume_is_refused(place: Place) -> None:
    bob = place.person("bob", kept=True)
    for seq in ("", " x", " -1", " 1 2"):
        assert codes(place.connect().says(f"RESUME {bob.token}{seq}")) == ["ERROR bad-command"]


def test_a_resume_above_the_last_number_leaves_the_session_alone(place: Place) -> None:
    bob = place.person("bob", kept=True)
    assert codes(place.connect().says(f"RESUME {bob.token} 1000")) == ["ERROR unknown-session"]
    assert like(r"@\d+ OK PING", bob.says("PING")[0])


def test_the_old_connection_hears_that_the_session_is_resumed(every_place: Place) -> None:
    alice, bob = every_place.person("alice"), every_place.person("bob", kept=True)
    assert alice.sees("alice", "bob")
    back = every_place.connect()
    assert back.says(f"RESUME {bob.token} 0")[0].startswith("OK RESUME bob 0 ")
    assert bob.ends()[-2:] == ["BYE resumed", END]
    bob.close()  # the late death of the old connection ends nothing
    every_place.wait(120)
    assert like(r"@\d+ OK WHO alice bob", back.says("WHO")[-1])
    assert alice.hears() == []
    assert alice.presence == ["ONLINE alice", "PRESENCE +bob"]


def test_a_second_login_does_not_disturb_and_tells_since_when_and_from_where(place: Place) -> None:
    alice, bob = place.people("alice", "bob")
    (answer,) = place.connect().says(f"LOGIN alice {PASSWORD}")
    assert answer.startswith(f"ERROR already-online alice is online since {STAMP} from {place.address}")
    for _ in range(3):
        assert place.connect().says(f"LOGIN alice {PASSWORD}")[0].startswith("ERROR already-online")
        place.wait(4)
    assert alice.says("WHO") == ["OK WHO alice bob"]
    assert bob.hears() == []


def test_a_ghost_locks_nobody_out(place: Place) -> None:
    ghost = place.person("alice")
    ghost.lively = False
    again = place.connect()
    place.wait(1)
    assert again.says(f"LOGIN alice {PASSWORD}")[0].startswith("ERROR already-online")
    place.wait(3)
    assert again.says(f"LOGIN alice {PASSWORD}")[0].startswith("ERROR already-online")  # does not start it again
    place.wait(2.1 + protocol.WALK_PAUSE)
    assert ghost.ends() == ["PING", "BYE silent", END]
    assert again.says(f"LOGIN alice {PASSWORD}") == [f"OK LOGIN alice last={STAMP}"]


def test_a_takeover_ends_the_other_session(place: Place) -> None:
    alice, bob = place.people("alice", "bob")
    second = place.connect()
    assert second.says(f"#4 TAKEOVER alice {PASSWORD}", "WHO") == [
        f"#4 OK TAKEOVER alice last={STAMP}", "OK WHO alice bob",
    ]  # fmt: skip
    assert alice.ends() == ["BYE replaced", END]
    alice.close()
    assert bob.says("SEND alice hi", "WHO") == ["OK WHO alice bob"]
    assert bob.presence == ["ONLINE alice bob"]
    assert second.hears() == [f"MSG bob 0 {STAMP} hi"]


def test_a_token_is_dead_after_the_logout(place: Place) -> None:
    bob = place.person("bob", kept=True)
    assert bob.says("LOGOUT")[-1] == "OK LOGOUT"
    assert codes(place.connect().says(f"RESUME {bob.token} 0")) == ["ERROR unknown-session"]


def test_a_token_is_dead_after_the_next_login(place: Place) -> None:
    bob = place.person("bob", kept=True)
    bob.reset()
    again = place.person("bob", kept=True)
    assert again.token != bob.token
    assert codes(place.connect().says(f"RESUME {bob.token} 0")) == ["ERROR unknown-session"]


def test_after_the_grace_a_token_begins_a_new_kept_session(place: Place) -> None:
    alice, bob = place.person("alice"), kept_bob(place)
    bob.say("#5 PING").next()
    bob.reset()
    place.wait(59)
    assert alice.sees("alice", "~bob")
    place.wait(2 + protocol.WALK_PAUSE)
    assert alice.sees("alice")
    assert place.statuses() == {"alice": "online", "bob": "offline"}
    back = place.connect().say(f"RESUME {bob.token} 1", "#5 PING")
    assert back.next(3) == ["OK RESUME bob 0 1", "ONLINE alice bob", "@2 #5 OK PING"]
    assert place.statuses() == {"alice": "online", "bob": "online"}


def test_a_session_that_ends_settles_what_it_holds(place: Place) -> None:
    alice, bob = place.person("alice"), kept_bob(place)
    alice.says("#1 SEND bob seen", "#2 SEND bob written", "SEND bob nobody is told of this one")
    bob.next(3)
    bob.says("ACK 1")
    bob.reset()
    assert alice.hears() == ["#1 OK SEND"]
    assert alice.sees("alice", "~bob")
    assert alice.says("#3 SEND bob held") == []
    place.wait(61 + protocol.WALK_PAUSE)
    assert alice.hears() == [
        "#2 ERROR unconfirmed bob left without confirming it", "#3 ERROR not-delivered bob has left",
    ]  # fmt: skip
    assert alice.sees("alice")


def test_a_logout_settles_too_and_comes_after_all_answers(every_place: Place) -> None:
    alice, bob = every_place.person("alice"), kept_bob(every_place)
    alice.says("#1 SEND bob hi")
    heard = bob.says(*["WHO"] * 250, "LOGOUT")
    assert len([answer for answer in heard if "OK WHO" in answer]) == 250
    assert heard[-1] == "OK LOGOUT"
    assert codes(alice.hears()) == ["#1 ERROR unconfirmed"]


@pytest.mark.parametrize("kept", [False, True])
def test_a_login_onto_a_lost_session_adopts_its_messages_not_its_answers(place: Place, kept: bool) -> None:
    alice, bob = place.person("alice"), place.person("bob", kept=True)
    bob.says("#50 WHO")
    bob.reset()
    alice.says("#1 SEND bob while you were out")
    again = place.connect().say(*["KEEP"] * kept, f"LOGIN bob {PASSWORD}")
    heard = again.next(3 + kept)[kept:]
    assert like(f"OK LOGIN bob {f'token={TOKEN} ' * kept}last={STAMP}", heard.pop(0))
    assert heard == ["@1 " * kept + f"MSG alice 1 {STAMP} while you were out", "ONLINE alice bob"]
    assert again.says("#1 PING") == ["@2 " * kept + "#1 OK PING"]  # tags start afresh, and numbers
    assert alice.hears() == ["#1 OK SEND"] * (not kept)
    again.says("ACK 1")
    assert alice.hears() == ["#1 OK SEND"] * kept


# --- To several -------------------------------------------------------------------------------------------------------


def messages(heard: list[str]) -> list[str]:
    """The messages among this, without their numbers and times."""
    return [re.sub(rf"^(?:@\d+ )?(MSG \S+ \d+) (?:{TIME})", r"\1", line) for line in heard if "MSG " in line]


def next_with(word: str, somebody: Somebody) -> str:
    """The next frame with this word in it; others are passed over."""
    while word not in (payload := somebody.next()[0]):
        assert payload != END
    return payload


def confirm(somebody: Somebody) -> list[str]:
    """Somebody shows what has come, and says so; the messages."""
    heard = somebody.hears()
    somebody.says("ACK " + heard[-1].split(" ")[0][1:])
    return messages(heard)


def test_a_list_and_a_star_name_everybody_who_is_told(place: Place) -> None:
    alice, bob, eve, dan = place.people("alice", "bob", "Eve", "dan")
    assert alice.says("#1 SEND EVE,bob,bob,alice one", "#2 SEND * two", "SEND bob,eve three", "SEND * four") == [
        "#1 OK SEND 2", "#2 OK SEND 3",
    ]  # fmt: skip
    told = ["MSG alice>Eve,bob 1 one", "MSG alice>* 2 two", "MSG alice>bob,Eve 0 three", "MSG alice>* 0 four"]
    assert messages(bob.next(4)) == messages(eve.next(4)) == told
    assert messages(dan.hears()) == told[1::2]
    assert bob.says("#9 SEND alice,eve it is here") == ["#9 OK SEND 2"]
    assert messages(alice.hears()) == messages(eve.hears()) == ["MSG bob>alice,Eve 9 it is here"]


def test_a_list_of_which_one_is_left_is_a_plain_message(place: Place) -> None:
    alice, bob = place.people("alice", "bob")
    assert alice.says("#1 SEND alice,bob hi", "#2 SEND zoe,ZOE hi", "#3 SEND alice,ALICE hi") == [
        "#1 OK SEND", "#2 ERROR not-online zoe is not online", "#3 ERROR not-online that is only you",
    ]  # fmt: skip
    assert messages(bob.hears()) == ["MSG alice 1 hi"]


def test_a_list_that_is_wrong_is_refused_as_a_whole(place: Place) -> None:
    alice, bob = place.people("alice", "bob")
    for tag, to in enumerate(["bob,", ",bob", "bob,,bob", ",", "bob,*", "*,*", "bob,a/b", ",".join(["bob"] * 101)], 1):
        words = "ERROR bad-command a list of recipients is 2 to 100 names with commas and no spaces"
        assert alice.says(f"#{tag} SEND {to} hi", f"SEND {to} hi") == [f"#{tag} {words}", f"#0 {words}"], to
    assert bob.hears() == []
    most = ",".join(["bob", "zoe"] * 50)  # as they are written
    assert alice.says(f"#9 SEND {most} hi") == ["#9 ERROR partly zoe=not-online shown to 1 of 2"]


def test_nobody_of_a_list_and_nobody_else_is_here(place: Place) -> None:
    alice = place.person("alice")
    for tag, to, words in ((1, "zoe,dan", "none of them is online"), (2, "*", "nobody else is online")):
        refusal = f"ERROR not-online {words}"
        assert alice.says(f"#{tag} SEND {to} hi", f"SEND {to} hi") == [f"#{tag} {refusal}", f"#0 {refusal}"]


def test_one_answer_when_the_fate_of_all_is_known(place: Place) -> None:
    alice, bob = place.people("alice", "bob")
    eve, dan = place.person("eve", kept=True), place.person("dan", kept=True)
    assert alice.says("#1 SEND bob,eve,dan,Zoe hi", "#2 SEND bob,eve hi") == []
    assert messages(bob.hears()) == confirm(eve) == ["MSG alice>bob,eve,dan 1 hi", "MSG alice>bob,eve 2 hi"]
    assert alice.hears() == ["#2 OK SEND 2"]
    assert confirm(dan) == ["MSG alice>bob,eve,dan 1 hi"]
    assert alice.hears() == ["#1 ERROR partly Zoe=not-online shown to 3 of 4"]
    assert alice.says("SEND zoe,bob hi") == ["#0 ERROR partly zoe=not-online shown to 1 of 2"]


def test_the_answer_says_who_was_not_shown_it_and_why(place: Place) -> None:
    alice, _ = place.people("alice", "bob")
    eve, dan = place.person("eve", kept=True), place.person("dan", kept=True)
    dan.reset()
    assert alice.sees("alice", "bob", "eve", "~dan")
    assert alice.says("#1 SEND EVE,dan,bob hi", "#2 SEND * hi") == []
    assert len(messages(eve.hears())) == 2
    eve.reset()
    assert alice.sees("alice", "bob", "~eve", "~dan")
    place.wait(61 + protocol.WALK_PAUSE)
    one, two = alice.hears()
    assert one == "#1 ERROR partly eve=unconfirmed,dan=not-delivered shown to 1 of 3"  # in the order of the list
    assert like(r"#2 ERROR partly \S+,\S+ shown to 1 of 3", two) and "dan=not-delivered" in two


def test_a_message_to_several_goes_over_to_the_next_session(place: Place) -> None:
    alice, bob = place.people("alice", "bob")
    eve = kept_bob(place, "eve")
    eve.reset()
    assert alice.sees("alice", "bob", "~eve")
    assert alice.says("#1 SEND bob,eve hi", "#2 SEND * hi") == []
    told = ["MSG alice>bob,eve 1 hi", "MSG alice>* 2 hi"]
    back = place.connect().say(f"RESUME {eve.token} 0")
    assert messages(back.next(3)) == told
    again = place.connect().say(f"TAKEOVER eve {PASSWORD}")
    assert messages(again.next(3)) == told
    assert alice.hears() == ["#1 OK SEND 2", "#2 OK SEND 2"]
    assert messages(bob.hears()) == told


def test_the_frames_of_a_sender_have_one_order_for_everybody(place: Place) -> None:
    alice, *others = place.people("alice", *[f"p{number}" for number in range(8)])
    to = ["*", "p0", "p7,p0", "p1,p2,p3", "p7", "*", "p7,p6,p5,p4,p3,p2,p1,p0", "*"]
    with mock.patch.object(protocol, "SPREAD_SLICE", 1):
        alice.say_bytes(b"".join(encode(f"#{tag} SEND {to} x") for tag, to in enumerate(to, 1)))
        counts = [8, 0, 2, 3, 0, 8, 8, 8]
        assert alice.next(8) == [f"#{n} OK SEND" + f" {count}" * (count > 0) for n, count in enumerate(counts, 1)]
    for name, somebody in zip([f"p{number}" for number in range(8)], others, strict=True):
        due = [tag for tag, names in enumerate(to, 1) if names == "*" or name in names.split(",")]
        assert [int(line.split(" ")[2]) for line in somebody.hears()] == due


def test_after_a_restart_a_message_to_several_is_sent_again_with_its_tag(place: Place) -> None:
    alice, bob = place.person("alice", kept=True), place.person("bob", kept=True)
    assert messages(alice.says("#1 SEND * hi")) == []
    assert messages(bob.hears()) == ["MSG alice>* 1 hi"]
    place = place.restart()
    bob = place.connect().say(f"RESUME {bob.token} 9")
    assert bob.next() == ["OK RESUME bob 0 9"]
    alice = place.connect().say(f"RESUME {alice.token} 9", "#1 SEND * hi")
    assert messages([next_with("MSG ", bob)]) == ["MSG alice>* 1 hi"]  # the same sender and id: it was shown before
    bob.say("ACK 10")
    assert next_with("SEND", alice) == "@10 #1 OK SEND 1"


def test_so_many_messages_to_everybody_at_once(place: Place) -> None:
    alice, bob = place.people("alice", "bob")
    most, pause = protocol.TO_ALL
    answers = alice.says(*[f"#{tag} SEND * x" for tag in range(1, most + 2)])
    assert answers[:-1] == [f"#{tag} OK SEND 1" for tag in range(1, most + 1)]
    assert like(rf"#{most + 1} ERROR too-many {pause:.0f} \S+ .+", answers[-1])
    alice.says("LOGOUT", f"LOGIN alice {PASSWORD}")  # by name, over all sessions
    assert codes(alice.says("#1 SEND * x")) == ["#1 ERROR too-many"]
    place.wait(pause)
    assert alice.says("#2 SEND * x") == ["#2 OK SEND 1"]
    assert len(bob.hears()) == most + 1


# --- Order and waiting ------------------------------------------------------------------------------------------------


def test_answers_come_in_the_order_of_the_commands(place: Place) -> None:
    peer = place.connect()
    assert codes(peer.says(
        "PING 1", f"REGISTER alice {PASSWORD}", "PING 2", f"REGISTER alice {PASSWORD}", "LOGIN alice wrong", "FOO",
        f"LOGIN alice {PASSWORD}", "PING 3", f"PASSWD {PASSWORD}\nanother one", "PING 4", "LOGOUT", "PING 5",
        "LOGIN alice another one", "WHO",
    )) == [
        "OK PING 1", "OK REGISTER alice", "OK PING 2", "ERROR name-taken", "ERROR bad-login", "ERROR bad-command",
        "OK LOGIN alice failed=1", "OK PING 3", "OK PASSWD", "OK PING 4", "OK LOGOUT", "OK PING 5",
        f"OK LOGIN alice last={STAMP}", "OK WHO alice",
    ]  # fmt: skip


def test_every_command_is_answered_once_however_many_are_said_at_once(every_place: Place) -> None:
    alice = every_place.person("alice")
    commands = [f"#{number} {('PING', 'WHO', 'FOO', 'SEND nobody x')[number % 4]}" for number in range(1, 1001)]
    answers = alice.say_bytes(b"".join(map(encode, commands))).hears()
    assert [int(answer.split(" ")[0][1:]) for answer in answers] == list(range(1, 1001))


def test_a_whole_beginning_may_come_in_one_packet(every_place: Place) -> None:
    packet = b"".join(map(encode, (f"REGISTER zoe {PASSWORD}", "KEEP", f"LOGIN zoe {PASSWORD}")))
    heard = every_place.connect().say_bytes(packet).next(4)
    assert heard[:2] == ["OK REGISTER zoe", "OK KEEP 60"]
    assert like(f"OK LOGIN zoe token={TOKEN}", heard[2])
    assert heard[3] == "ONLINE zoe"


# --- Time -------------------------------------------------------------------------------------------------------------


def test_a_silent_link_is_asked_and_then_closed(every_place: Place) -> None:
    alice, bob = every_place.people("alice", "bob")
    bob.lively = False
    every_place.wait(19)
    assert bob.next(0) == []
    every_place.wait(1 + protocol.WALK_PAUSE)
    assert bob.next() == ["PING"]
    every_place.wait(23)
    assert alice.sees("alice", "bob")
    every_place.wait(2 + protocol.WALK_PAUSE)
    assert bob.ends() == ["BYE silent", END]
    assert alice.sees("alice")


def test_somebody_who_answers_the_pings_stays(place: Place) -> None:
    alice, _ = place.people("alice", "bob")
    place.wait(200)
    assert alice.says("WHO") == ["OK WHO alice bob"]


def test_a_frame_that_was_begun_has_to_end(every_place: Place) -> None:
    alice = every_place.person("alice")
    alice.lively = False
    alice.say_bytes(encode("PING of a slow hand")[:-1])
    every_place.wait(29)
    assert not alice.ended
    every_place.wait(1 + protocol.WALK_PAUSE)
    assert alice.ends() == ["PING", "BYE silent", END]


def test_a_stranger_who_does_not_log_in_has_to_go(place: Place) -> None:
    stranger = place.connect()
    stranger.hears()
    place.wait(298)
    assert stranger.hears() == []
    place.wait(2 + protocol.WALK_PAUSE)
    assert stranger.ends() == ["BYE silent", END]


@pytest.mark.parametrize("seconds", [-1e9, 1e8])
def test_a_jump_of_the_wall_clock_changes_only_the_stamps(place: Place, seconds: float) -> None:
    alice, bob = place.person("alice"), place.person("bob", kept=True)
    bob.reset()
    place.set_clock(seconds)
    place.wait(50)
    assert alice.sees("alice", "~bob")
    assert alice.says("SEND alice hi")[0].split(" ")[3] == protocol.format_time(place.wall)
    place.wait(10 + protocol.WALK_PAUSE)
    assert alice.sees("alice")


# --- Limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [False, True])
def test_a_stuck_reader_makes_his_senders_busy_and_nothing_is_lost(every_place: Place, kept: bool) -> None:
    bob = every_place.slow_reader("bob", kept)
    alice, carol = every_place.person("alice"), every_place.person("carol")
    sent = [f"{number} {'x' * 20_000}" for number in range(100)]
    answers = alice.says(*[f"#{number} SEND bob {text}" for number, text in enumerate(sent, 1)])
    busy = {int(answer.split(" ")[0][1:]) for answer in answers if "ERROR busy" in answer}
    assert 25 < len(busy) < 75
    assert min(busy) * 20_000 < 2**20 + 200_000
    assert carol.says("SEND alice meanwhile") == []
    assert alice.hears() == [f"MSG carol 0 {STAMP} meanwhile"]
    bob.reading = True
    heard = [message.partition("MSG ")[2] for message in bob.hears()]
    assert heard == [f"alice {n} {STAMP} {text}" for n, text in enumerate(sent, 1) if n not in busy]


def test_a_reader_that_takes_nothing_for_30_seconds_is_closed(every_place: Place) -> None:
    alice = every_place.person("alice")
    bob = every_place.slow_reader("bob")
    alice.says(*[f"SEND bob {'x' * 5000}"] * 40)
    every_place.wait(29)
    assert alice.sees("alice", "bob")
    for _ in range(31):  # seconds: a system may have taken a little more in the first 29
        every_place.wait(protocol.WALK_PAUSE)
        alice.hears()
        if alice.roster == {"alice"}:
            break
    bob.reading = True
    assert bob.ends()[-2:] == ["BYE slow", END]
    assert alice.roster == {"alice"}


@pytest.mark.parametrize("kind", PLACES)
def test_a_full_server_sends_the_oldest_stranger_away(kind: str, tmp_path: Path) -> None:
    with place_of(kind, tmp_path, connections_max=3) as place:
        alice = place.person("alice")
        strangers = [place.connect(), place.connect()]
        for stranger in strangers:
            stranger.hears()
        newcomer = place.connect()
        assert newcomer.hears() == []
        assert strangers[0].ends() == ["BYE full", END]
        assert strangers[1].hears() == []
        assert alice.hears() == []


@pytest.mark.parametrize("kind", PLACES)
def test_a_server_full_of_people_sends_the_newcomer_away(kind: str, tmp_path: Path) -> None:
    with place_of(kind, tmp_path, connections_max=2) as place:
        alice, bob = place.people("alice", "bob")
        assert place.connect().ends() == ["BYE full", END]
        alice.close()
        assert bob.sees("bob")
        assert place.connect().says("PING") == ["OK PING"]


# --- The end, and the next beginning ----------------------------------------------------------------------------------


def test_at_a_stop_everybody_is_told_and_the_statuses_are_on_disk(every_place: Place) -> None:
    bob, alice, stranger = every_place.person("bob", kept=True), every_place.person("alice"), every_place.connect()
    every_place.connect().says(f"REGISTER carol {PASSWORD}")
    assert alice.says("#1 SEND bob hi") == stranger.hears() == []
    every_place.stop()
    assert bob.ends()[-2:] == alice.ends() == stranger.ends() == ["BYE shutdown", END]  # no fate: it is asked again
    assert every_place.statuses() == {"alice": "offline", "bob": "lost", "carol": "offline"}


def test_a_restart_is_a_lost_connection(every_place: Place) -> None:
    bob = every_place.person("bob", kept=True)
    every_place.person("eve")
    place = every_place.restart()
    alice = place.person("alice")
    assert alice.says("WHO") == ["OK WHO ~bob alice"]  # a plain session has no way back
    assert alice.says("#9 SEND bob while you were away") == []
    back = place.connect().say(f"RESUME {bob.token} 17")
    assert back.next(3) == [
        "OK RESUME bob 0 17", f"@18 MSG alice 9 {protocol.format_time(place.wall)} while you were away",
        "ONLINE bob alice",
    ]  # fmt: skip
    back.says("ACK 18")
    assert alice.hears() == ["#9 OK SEND"]
    assert alice.sees("bob", "alice")
