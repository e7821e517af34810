"""Does the server speak the protocol of the design, section 2, over real sockets? Written from that text alone.

A dialogue is said and what is heard is compared, on both kinds of selector.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire import END, KINDS, PASSWORD, STAMP, Peer, Rig, encode, running

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
TOKEN = r"\S{40,}"


@pytest.fixture(params=KINDS)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    with running(tmp_path, **KINDS[request.param]) as rig:
        yield rig


def like(pattern: str, payload: str) -> bool:
    return re.fullmatch(pattern, payload, re.DOTALL) is not None


def codes(answers: list[str]) -> list[str]:
    """`#5 ERROR busy the words` as `#5 ERROR busy`: the words are for a person."""
    return [re.sub(r"(ERROR [a-z-]+) .+", r"\1", answer, flags=re.DOTALL) for answer in answers]


# --- Frames -----------------------------------------------------------------------------------------------------------


def test_a_length_of_nothing_is_refused(rig: Rig) -> None:
    peer = rig.connect()
    peer.say_bytes(bytes(4))
    assert codes(peer.ends()) == ["ERROR bad-frame", END]


def check_frame_of(size: int, fine: bool, peer: Peer) -> None:
    """A frame of this size is answered, or refused on its header alone."""
    peer.say_bytes(size.to_bytes(4, "big"))
    if fine:
        peer.say_bytes(b"PING " + b"x" * (size - 5))
        assert peer.next() == ["OK PING " + "x" * (size - 5)]
    else:
        assert codes(peer.ends()) == ["ERROR bad-frame", END]


@pytest.mark.parametrize(("size", "fine"), [(4096, True), (4097, False), (65536, False), (2**32 - 1, False)])
def test_a_stranger_may_say_4096_bytes_and_is_refused_on_the_header(rig: Rig, size: int, fine: bool) -> None:
    check_frame_of(size, fine, rig.connect())


@pytest.mark.parametrize(("size", "fine"), [(65536, True), (65537, False)])
def test_who_is_logged_in_may_say_65536_bytes(rig: Rig, size: int, fine: bool) -> None:
    check_frame_of(size, fine, rig.person("alice"))


def test_answers_before_a_bad_frame_come_first_and_nothing_after_it_is_read(rig: Rig) -> None:
    peer = rig.connect()
    peer.say_bytes(encode("PING 1") + encode("PING 2") + bytes(4) + encode("PING 3"))
    assert codes(peer.ends()) == ["OK PING 1", "OK PING 2", "ERROR bad-frame", END]


def test_what_is_not_utf8_is_refused_and_the_third_time_is_the_last(rig: Rig) -> None:
    peer = rig.connect()
    assert codes(peer.says(b"PING \xff", b"\xc0\x80")) == ["ERROR bad-encoding"] * 2
    assert codes(peer.say(b"PING \xed\xa0\x80", "PING").ends()) == ["ERROR bad-encoding", END]


def test_not_utf8_is_numbered_in_a_kept_session(rig: Rig) -> None:
    peer = rig.person("alice", kept=True)
    assert like(r"@\d+ ERROR bad-encoding .+", peer.says(b"#3 \xff")[0])


DIALOGUE = [
    "PING", "#7 PING a b", "REGISTER {name} " + PASSWORD, "LOGIN {name} " + PASSWORD, "PING " + "x" * 5000, "WHO",
    "#9 WHO", "SEND {name} to myself\nin two lines", "#10 SEND nobody hi", "PING", "LOGOUT", "WHO", "#2 PING",
    "#1 PING",
]  # fmt: skip
HEARD = [
    "OK PING", "#7 OK PING a b", "OK REGISTER {name}", "OK LOGIN {name}", "ONLINE {name}", "OK PING " + "x" * 5000,
    "OK WHO {name}", "#9 OK WHO {name}", f"MSG {{name}} 0 {STAMP} to myself\nin two lines", "#10 ERROR not-online",
    "OK PING", "OK LOGOUT", "ERROR not-logged-in", "#2 OK PING", "#1 OK PING",
]  # fmt: skip


def dialogue(name: str) -> bytes:
    return b"".join(encode(line.replace("{name}", name)) for line in DIALOGUE)


def heard(name: str) -> list[str]:
    return [line.replace("{name}", name) for line in HEARD]


def test_the_same_bytes_one_at_a_time_give_the_same_answers(rig: Rig) -> None:
    peer = rig.connect()
    for byte in dialogue("alice"):
        peer.say_bytes(bytes([byte]))
        rig.turn()
    assert codes(peer.next(len(HEARD))) == heard("alice")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bytes_cut_anywhere_give_the_same_answers(tmp_path: Path, kind: str) -> None:
    with running(tmp_path, **KINDS[kind]) as rig:
        numbers = iter(range(10**6))

        @settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(st.integers(0, len(dialogue("p000000"))), max_size=12))
        def check(cuts: list[int]) -> None:
            name = f"p{next(numbers):06d}"
            data, peer = dialogue(name), rig.connect()
            for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
                peer.say_bytes(data[start:end])
                rig.turn()
            assert codes(peer.next(len(HEARD))) == heard(name)
            peer.close()

        check()


def test_a_frame_that_is_said_during_the_login_is_judged_after_it(rig: Rig) -> None:
    rig.person("alice").close()
    rig.turns(3)
    long = "PING " + "x" * 60000
    assert rig.connect().says(f"LOGIN alice {PASSWORD}", long)[1:] == ["OK " + long]
    assert codes(rig.connect().says("LOGIN alice wrong password", long)) == ["ERROR bad-login", "ERROR bad-frame", END]


def test_after_the_logout_the_short_limit_is_back(rig: Rig) -> None:
    assert codes(rig.person("alice").says("LOGOUT", "PING " + "x" * 5000)) == ["OK LOGOUT", "ERROR bad-frame", END]


def test_a_half_close_is_a_close(rig: Rig) -> None:
    alice, bob = rig.people("alice", "bob")
    alice.finish()
    assert alice.ends() == [END]
    assert bob.sees("bob")


def test_what_was_said_before_a_half_close_is_done(rig: Rig) -> None:
    alice, bob = rig.people("alice", "bob")
    alice.say(*[f"SEND bob {number}" for number in range(1000)])
    alice.finish()
    alice.ends()
    assert bob.hears() == [f"MSG alice 0 {STAMP} {number}" for number in range(1000)]


# --- Verbs and states -------------------------------------------------------------------------------------------------

ANYWHERE = {"PING": "OK PING", "PING a  b": "OK PING a  b", "pInG x": "OK PING x"}
STRANGERS = {
    f"REGISTER zoe {PASSWORD}": "OK REGISTER zoe", "KEEP": "OK KEEP 60", f"LOGIN nobody {PASSWORD}": "ERROR bad-login",
    f"TAKEOVER nobody {PASSWORD}": "ERROR bad-login", "RESUME token 0": "ERROR unknown-session",
}  # fmt: skip
LOGGED_IN = {
    "LOGOUT": "OK LOGOUT", "WHO": "OK WHO alice", "SEND nobody hi": "#0 ERROR not-online",
    f"PASSWD {PASSWORD}\nanother password": "OK PASSWD",
}  # fmt: skip


@pytest.mark.parametrize("command", [*ANYWHERE, *STRANGERS, *LOGGED_IN])
def test_what_a_stranger_may_say(rig: Rig, command: str) -> None:
    refused = "#0 ERROR not-logged-in" if command.startswith("SEND") else "ERROR not-logged-in"
    expected = (ANYWHERE | STRANGERS).get(command, refused)
    assert codes(rig.connect().says(command)) == [expected]


@pytest.mark.parametrize("command", [*ANYWHERE, *STRANGERS, *LOGGED_IN])
def test_what_a_stranger_may_say_with_a_tag_and_in_small_letters(rig: Rig, command: str) -> None:
    verb, space, rest = command.partition(" ")
    expected = (ANYWHERE | STRANGERS).get(command, "ERROR not-logged-in")
    assert codes(rig.connect().says(f"#12 {verb.lower()}{space}{rest}")) == ["#12 " + expected]


@pytest.mark.parametrize("command", [*ANYWHERE, *STRANGERS, *LOGGED_IN])
def test_what_may_be_said_after_the_login(rig: Rig, command: str) -> None:
    expected = (ANYWHERE | LOGGED_IN).get(command, "ERROR logged-in")
    assert codes(rig.person("alice").says("#12 " + command)) == ["#12 " + expected.removeprefix("#0 ")]


@pytest.mark.parametrize("ack", ["ACK 0", "ACK 7", "ACK", "ACK x", "#3 ACK 1", "ack -1", "ACK 99999999999999999999"])
def test_ack_is_never_answered(rig: Rig, ack: str) -> None:
    assert rig.connect().says(ack) == []
    assert rig.person("alice").says(ack) == []
    assert rig.person("bob", kept=True).says(ack) == []


NO_COMMANDS = ["", "PINGS", "PIN", "#5", "HELLO world", " PING", "SEND", "SEND alice", "SEND alice "]


@pytest.mark.parametrize("command", NO_COMMANDS)
def test_what_is_no_command(rig: Rig, command: str) -> None:
    (answer,) = codes(rig.person("alice").says("#9 " + command))
    assert answer == "#9 ERROR bad-command"


@pytest.mark.parametrize("verb", ["pıng", "\uff30\uff29\uff2e\uff27", "ſEND"])
def test_verbs_are_ascii(rig: Rig, verb: str) -> None:
    assert codes(rig.person("alice").says(f"{verb} alice x")) == ["ERROR bad-command"]


@pytest.mark.parametrize("command", ["WHO me", "LOGOUT now"])
def test_commands_that_stand_alone(rig: Rig, command: str) -> None:
    alice = rig.person("alice")
    assert codes(alice.says(command)) == ["ERROR bad-command"]
    assert alice.says("WHO") == ["OK WHO alice"]


def test_the_explanation_is_for_a_person(rig: Rig) -> None:
    for answer in rig.person("alice").says("FOO", "WHO x", "SEND bob hi", "#4 SEND bob hi", "KEEP"):
        assert like(r"(#\d )?ERROR [a-z-]+ \S+ \S+ \S.*", answer), answer


# --- Tags -------------------------------------------------------------------------------------------------------------


def test_the_answer_repeats_the_tag(rig: Rig) -> None:
    peer = rig.connect()
    assert codes(peer.says(
        f"#1 REGISTER alice {PASSWORD}", "#9007199254740991 PING", "#5 KEEP", "#5 FOO", f"#3 LOGIN alice {PASSWORD}",
    ))[:-1] == [
        "#1 OK REGISTER alice", "#9007199254740991 OK PING", "#5 OK KEEP 60", "#5 ERROR bad-command",
    ]  # fmt: skip


NO_TAGS = ["#", "#0", "#x", "#-1", "#1.0", "#9007199254740992", "#١", "#1\n", "##1", "#1_0", "#+1"]


@pytest.mark.parametrize("tag", NO_TAGS)
def test_a_malformed_tag_is_a_bad_command_without_a_tag(rig: Rig, tag: str) -> None:
    assert codes(rig.connect().says(f"{tag} PING")) == ["ERROR bad-command"]
    alice = rig.person("alice")
    assert codes(alice.says(f"{tag} PING", f"{tag} SEND alice hi", "#1 PING")) == [
        "ERROR bad-command", "ERROR bad-command", "#1 OK PING",
    ]  # fmt: skip


def test_in_a_session_tags_grow_and_what_was_had_before_is_ignored(rig: Rig) -> None:
    alice = rig.person("alice")
    assert alice.says("#5 PING a", "#5 PING b", "#4 PING c", "#1 LOGOUT", "#6 PING d") == [
        "#5 OK PING a", "#6 OK PING d",
    ]  # fmt: skip


@pytest.mark.parametrize("command", ["FOO", "KEEP", "SEND nobody hi", "ACK 0", "SEND alice", "WHO x"])
def test_every_tag_read_counts(rig: Rig, command: str) -> None:
    alice = rig.person("alice")
    alice.says(f"#10 {command}")
    assert alice.says("#10 PING", "#9 PING", "#11 PING") == ["#11 OK PING"]


def test_counting_starts_after_the_login_and_again_after_the_next(rig: Rig) -> None:
    peer = rig.connect()
    peer.says(f"#1 REGISTER alice {PASSWORD}")
    login = f"#100 LOGIN alice {PASSWORD}"
    assert peer.says(login, "#1 PING", "#2 LOGOUT", "#1 PING", "#1 PING", login, "#1 WHO") == [
        "#100 OK LOGIN alice", "#1 OK PING", "#2 OK LOGOUT", "#1 OK PING", "#1 OK PING",
        f"#100 OK LOGIN alice last={STAMP}", "#1 OK WHO alice",
    ]  # fmt: skip


TAGGED = st.tuples(st.integers(0, 8), st.sampled_from(["PING", "WHO", "SEND bob x", "FOO", "ACK 1"]))


@settings(max_examples=40)
@given(st.lists(TAGGED, max_size=12))
def test_who_has_read_a_tag_ignores_it_afterwards(commands: list[tuple[int, str]]) -> None:
    """Against a model of one line, on one connection after the other."""
    rig = shared_rig()
    alice = rig.person("alice")
    last, expected = 0, []
    for tag, command in commands:
        if tag and tag <= last:
            continue
        last = max(last, tag)
        answer = {"PING": "OK PING", "WHO": "OK WHO alice", "FOO": "ERROR bad-command", "ACK 1": ""}.get(command)
        answer = "ERROR not-online" if answer is None else answer
        mark = f"#{tag} " if tag else "#0 " if command.startswith("SEND") else ""
        expected += [mark + answer] if answer else []
    assert codes(alice.says(*[f"#{tag} {command}" if tag else command for tag, command in commands])) == expected
    alice.close()
    rig.turns(2)


_shared: list[Rig] = []


def shared_rig() -> Rig:
    return _shared[0]


@pytest.fixture(scope="module", autouse=True)
def _one_rig_for_the_properties(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with running(tmp_path_factory.mktemp("shared")) as rig:
        _shared.append(rig)
        yield
        _shared.clear()


# --- Accounts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alice", "Tuấn", "Мария", "田中さん", "スーパーマン", "a", "7up", "o_o.-", "x" * 32])
def test_names_that_are_fine(rig: Rig, name: str) -> None:
    peer = rig.connect()
    assert peer.says(f"REGISTER {name} {PASSWORD}") == [f"OK REGISTER {name}"]
    assert peer.says(f"LOGIN {name} {PASSWORD}", "WHO") == [f"OK LOGIN {name}", f"OK WHO {name}"]


NO_NAMES = [
    "x" * 33, "pаypal", "~bob", "_bob", "-bob", "+bob", "@bob", "bo\nb", "bo\tb", "bo\u200bb", "bob!", "😀", "a/b",
    "\u0301a",
]  # fmt: skip


@pytest.mark.parametrize("name", NO_NAMES)
def test_names_that_are_not(rig: Rig, name: str) -> None:
    assert codes(rig.connect().says(f"REGISTER {name} {PASSWORD}")) == ["ERROR bad-username"]


def test_a_name_is_taken_in_every_spelling_and_shown_as_registered(rig: Rig) -> None:
    peer = rig.connect()
    assert codes(peer.says(f"REGISTER Ann {PASSWORD}", f"REGISTER ann {PASSWORD}", f"REGISTER ＡＮＮ {PASSWORD}")) == [
        "OK REGISTER Ann", "ERROR name-taken", "ERROR name-taken",
    ]  # fmt: skip
    assert peer.says(f"LOGIN aNN {PASSWORD}", "SEND ANN hi") == ["OK LOGIN Ann", f"MSG Ann 0 {STAMP} hi"]
    assert peer.roster == {"Ann"}


@pytest.mark.parametrize("password", ["short77", "alice99", "ALICE123", "x" * 1025, "é" * 513, "two\nlines more"])
def test_passwords_that_are_not_allowed(rig: Rig, password: str) -> None:
    name = "alice123"
    assert codes(rig.connect().says(f"REGISTER {name} {password}")) == ["ERROR bad-password"]


PASSWORDS = ["x" * 8, " leads and trails ", "x" * 1024, "пароль с пробелами", "\t" * 8, "#1 @2 +3 ~"]


@pytest.mark.parametrize("password", PASSWORDS)
def test_passwords_that_are_fine(rig: Rig, password: str) -> None:
    peer = rig.connect()
    peer.says(f"REGISTER alice {password}")
    assert codes(peer.says(f"LOGIN alice {password.strip()}x", f"LOGIN alice {password}")) == [
        "ERROR bad-login", "OK LOGIN alice failed=1",
    ]  # fmt: skip


def test_a_password_is_the_same_on_every_keyboard(rig: Rig) -> None:
    peer = rig.connect()
    assert codes(peer.says("REGISTER alice cafe\u0301 cafe\u0301", "LOGIN alice caf\u00e9 caf\u00e9")) == [
        "OK REGISTER alice", "OK LOGIN alice",
    ]  # fmt: skip


def test_unknown_names_malformed_names_and_wrong_passwords_get_the_same_answer(rig: Rig) -> None:
    rig.connect().says(f"REGISTER alice {PASSWORD}")
    answers = [
        rig.connect().says(f"{verb} {name} wrong password")[0]
        for verb in ("LOGIN", "TAKEOVER") for name in ("alice", "nobody", "~~~", "x" * 500)
    ]  # fmt: skip
    assert len(set(answers)) == 1
    assert codes(answers[:1]) == ["ERROR bad-login"]


def test_a_login_tells_the_last_one_and_the_failures_since(rig: Rig) -> None:
    alice = rig.person("alice")
    assert alice.says("LOGOUT") == ["OK LOGOUT"]
    rig.wait(1)
    assert codes(alice.says("LOGIN alice wrong", "LOGIN alice wronger")) == ["ERROR bad-login"] * 2
    assert alice.says(f"LOGIN alice {PASSWORD}") == [f"OK LOGIN alice last={STAMP} failed=2"]


def test_guessing_is_throttled_with_seconds_to_wait(rig: Rig) -> None:
    guesser = rig.connect()
    guesser.says(f"REGISTER alice {PASSWORD}")
    answers = guesser.says(*[f"LOGIN alice guess{number}" for number in range(9)])
    assert codes(answers[:3]) == ["ERROR bad-login"] * 3
    assert like(r"ERROR throttled [1-9]\d* .+", answers[-1])
    rig.wait(120)
    assert like("OK LOGIN alice .+", rig.connect().says(f"LOGIN alice {PASSWORD}")[0])


def test_a_password_can_be_changed(rig: Rig) -> None:
    alice = rig.person("alice")
    assert codes(alice.says(
        f"#1 PASSWD {PASSWORD}\nthe new one ", "#2 PASSWD wrong\nanother one", "#3 PASSWD the new one \nshort",
        "#4 PASSWD no second line",
    )) == [
        "#1 OK PASSWD", "#2 ERROR bad-login", "#3 ERROR bad-password", "#4 ERROR bad-command",
    ]  # fmt: skip
    assert codes(alice.says("LOGOUT", f"LOGIN alice {PASSWORD}", "LOGIN alice the new one ")) == [
        "OK LOGOUT", "ERROR bad-login", f"OK LOGIN alice last={STAMP} failed=2",
    ]  # fmt: skip


def test_logged_out_the_connection_stays(rig: Rig) -> None:
    alice, bob = rig.people("alice", "bob")
    assert alice.says("LOGOUT", f"REGISTER carol {PASSWORD}", f"LOGIN carol {PASSWORD}") == [
        "OK LOGOUT", "OK REGISTER carol", "OK LOGIN carol",
    ]  # fmt: skip
    assert bob.sees("bob", "carol")


def test_registration_can_be_closed(tmp_path: Path) -> None:
    with running(tmp_path, registration=False) as rig:
        assert codes(rig.connect().says(f"REGISTER alice {PASSWORD}")) == ["ERROR closed"]


# --- Messages ---------------------------------------------------------------------------------------------------------


def test_a_message(rig: Rig) -> None:
    alice, bob = rig.people("alice", "bob")
    assert alice.says("SEND bob hi  there \n", "send BOB #1 @2") == []
    assert bob.hears() == [f"MSG alice 0 {STAMP} hi  there \n", f"MSG alice 0 {STAMP} #1 @2"]


def test_a_tagged_message_to_a_plain_recipient(rig: Rig) -> None:
    alice, bob = rig.people("alice", "bob")
    assert codes(alice.says("#7 SEND bob hi", "#8 SEND nobody hi", "SEND nobody hi")) == [
        "#7 OK SEND", "#8 ERROR not-online", "#0 ERROR not-online",
    ]  # fmt: skip
    assert bob.hears() == [f"MSG alice 7 {STAMP} hi"]


def test_a_message_to_oneself(rig: Rig) -> None:
    alice = rig.person("alice")
    assert sorted(alice.says("#3 SEND alice hi")) == ["#3 OK SEND", f"MSG alice 3 {STAMP} hi"]


def test_a_message_as_long_as_can_be(rig: Rig) -> None:
    alice, bob = rig.people("alice", "bob")
    text = "é" * ((65536 - len("SEND bob ")) // 2)
    assert alice.says(f"SEND bob {text}") == []
    assert bob.hears() == [f"MSG alice 0 {STAMP} {text}"]


def test_messages_stay_in_order(rig: Rig) -> None:
    alice, bob = rig.people("alice", "bob")
    alice.say(*[f"SEND bob {number} {'x' * (number % 700)}" for number in range(900)])
    alice.hears()
    assert [int(message.split(" ")[4]) for message in bob.hears()] == list(range(900))


# --- Who is there -----------------------------------------------------------------------------------------------------


def test_the_roster_comes_after_the_login_and_before_all_else(rig: Rig) -> None:
    rig.person("bob")
    alice = rig.connect().say(f"REGISTER alice {PASSWORD}", f"LOGIN alice {PASSWORD}", "WHO", "SEND alice hi")
    assert alice.next(5) == [
        "OK REGISTER alice", "OK LOGIN alice", "ONLINE bob alice", "OK WHO bob alice", f"MSG alice 0 {STAMP} hi",
    ]  # fmt: skip


def test_presence_tells_what_changed(rig: Rig) -> None:
    alice = rig.person("alice")
    bob = rig.person("bob", kept=True)
    assert alice.sees("alice", "bob")
    bob.close()
    assert alice.sees("alice", "~bob")
    back = rig.connect()
    assert like("OK RESUME bob 0 0", back.says(f"RESUME {bob.token} 0")[0])
    assert alice.sees("alice", "bob")
    back.says("#1 LOGOUT")
    assert alice.sees("alice")
    assert alice.presence[1:] == ["PRESENCE +bob", "PRESENCE ~bob", "PRESENCE +bob", "PRESENCE -bob"]


def test_strangers_are_told_nothing(rig: Rig) -> None:
    stranger = rig.connect()
    rig.people("alice", "bob")
    assert stranger.hears() == []
    assert stranger.presence == []


# --- Kept sessions ----------------------------------------------------------------------------------------------------


def test_keep_names_the_grace_and_the_login_a_token(rig: Rig) -> None:
    peer = rig.connect()
    answers = peer.says(f"REGISTER alice {PASSWORD}", "KEEP", "LOGIN alice wrong", f"LOGIN alice {PASSWORD}")
    assert answers[1] == "OK KEEP 60"
    assert like(f"OK LOGIN alice token={TOKEN} failed=1", answers[3])


def test_a_plain_login_has_neither_token_nor_numbers(rig: Rig) -> None:
    alice = rig.person("alice")
    assert alice.token == ""
    assert alice.says("PING") == ["OK PING"]


def test_answers_and_messages_are_numbered_from_one_on(rig: Rig) -> None:
    peer = rig.connect()
    peer.says(f"REGISTER bob {PASSWORD}", "KEEP")
    peer.say(f"LOGIN bob {PASSWORD}", "#1 PING", "#2 FOO", "#3 SEND bob hi", "#4 LOGOUT", "PING")
    heard = peer.next(7)
    assert like(f"OK LOGIN bob token={TOKEN}", heard.pop(0))
    assert codes(heard) == [
        "ONLINE bob", "@1 #1 OK PING", "@2 #2 ERROR bad-command", f"@3 MSG bob 3 {STAMP} hi", "#4 OK LOGOUT", "OK PING",
    ]  # fmt: skip


def test_a_message_to_a_kept_recipient_is_delivered_when_it_is_acked(rig: Rig) -> None:
    alice, bob = rig.person("alice"), rig.connect()
    bob.says(f"REGISTER bob {PASSWORD}", "KEEP")
    bob.say(f"LOGIN bob {PASSWORD}").next(2)
    assert alice.says("#1 SEND bob one", "#2 SEND bob two", "#3 SEND bob three") == []
    assert bob.next(3) == [f"@{n} MSG alice {n} {STAMP} {word}" for n, word in enumerate(("one", "two", "three"), 1)]
    bob.says("ACK 2", "ACK 1", "ACK 1000")
    assert alice.hears() == ["#1 OK SEND", "#2 OK SEND"]
    bob.says("ACK 3")
    assert alice.hears() == ["#3 OK SEND"]


def test_a_session_is_resumed_where_it_was(rig: Rig) -> None:
    alice, bob = rig.person("alice"), rig.connect()
    bob.says(f"REGISTER bob {PASSWORD}", "KEEP")
    token = bob.say(f"LOGIN bob {PASSWORD}").next(2)[0].partition("token=")[2]
    bob.say("#17 PING", "#30 ACK 0").next()
    alice.says("SEND bob one")
    bob.reset()
    alice.says("SEND bob two", "#4 SEND bob three")
    back = rig.connect().say(f"#5 RESUME {token} 1", "#31 PING")
    assert back.next(6) == [
        "#5 OK RESUME bob 30 1", f"@2 MSG alice 0 {STAMP} one", f"@3 MSG alice 0 {STAMP} two",
        f"@4 MSG alice 4 {STAMP} three", "ONLINE alice bob", "@5 #31 OK PING",
    ]  # fmt: skip
    back.says("ACK 4")
    assert alice.hears() == ["#4 OK SEND"]


def test_what_is_said_behind_a_resume_and_before_the_end_is_done(rig: Rig) -> None:
    alice, bob = rig.person("alice"), rig.person("bob", kept=True)
    bob.reset()
    assert alice.sees("alice", "~bob")
    back = rig.connect().say(f"RESUME {bob.token} 0", *(f"SEND alice {number}" for number in range(200)))
    back.socket.shutdown(socket.SHUT_WR)
    said: list[str] = []
    while len(said) < 200:
        said += [text.rpartition(" ")[2] for text in alice.next() if text.startswith("MSG bob ")]
    assert said == [str(number) for number in range(200)]


@pytest.mark.parametrize("seq", ["", " x", " -1", " 1 2"])
def test_a_malformed_resume(rig: Rig, seq: str) -> None:
    bob = rig.person("bob", kept=True)
    assert codes(rig.connect().says(f"RESUME {bob.token}{seq}")) == ["ERROR bad-command"]


def test_a_resume_above_the_last_number_leaves_the_session_alone(rig: Rig) -> None:
    bob = rig.person("bob", kept=True)
    assert codes(rig.connect().says(f"RESUME {bob.token} 1000")) == ["ERROR unknown-session"]
    assert like(r"@\d+ OK PING", bob.says("PING")[0])


def test_the_old_connection_hears_that_the_session_is_resumed(rig: Rig) -> None:
    bob = rig.person("bob", kept=True)
    back = rig.connect()
    assert back.says(f"RESUME {bob.token} 0")[0] == "OK RESUME bob 0 0"
    assert bob.ends()[-2:] == ["BYE resumed", END]
    assert like(r"@\d+ OK WHO bob", back.says("WHO")[-1])


def test_a_second_login_does_not_disturb_and_tells_since_when_and_from_where(rig: Rig) -> None:
    alice = rig.person("alice")
    second = rig.connect()
    (answer,) = second.says(f"LOGIN alice {PASSWORD}")
    assert like(rf"ERROR already-online .*{TIME}.*127\.0\.0\.1.*", answer)
    assert STAMP in answer
    alice.lively = False
    assert alice.hears() in (["PING"], [])
    assert alice.says("WHO") == ["OK WHO alice"]


def test_a_takeover_ends_the_other_session(rig: Rig) -> None:
    alice, bob = rig.people("alice", "bob")
    second = rig.connect()
    assert second.says(f"#4 TAKEOVER alice {PASSWORD}", "WHO") == [
        f"#4 OK TAKEOVER alice last={STAMP}", "OK WHO alice bob",
    ]  # fmt: skip
    assert alice.ends() == ["BYE replaced", END]
    assert bob.says("SEND alice hi") == []
    assert second.hears() == [f"MSG bob 0 {STAMP} hi"]


def test_a_token_is_dead_after_the_logout(rig: Rig) -> None:
    bob = rig.person("bob", kept=True)
    assert bob.says("LOGOUT")[-1] == "OK LOGOUT"
    assert codes(rig.connect().says(f"RESUME {bob.token} 0")) == ["ERROR unknown-session"]


def test_a_token_is_dead_after_the_next_login(rig: Rig) -> None:
    bob = rig.person("bob", kept=True)
    bob.reset()
    again = rig.person("bob", kept=True)
    assert again.token != bob.token
    assert codes(rig.connect().says(f"RESUME {bob.token} 0")) == ["ERROR unknown-session"]


def test_a_login_onto_a_lost_session_adopts_its_messages_not_its_answers(rig: Rig) -> None:
    alice, bob = rig.person("alice"), rig.person("bob", kept=True)
    bob.says("#50 WHO")
    bob.reset()
    alice.says("#1 SEND bob while you were out")
    again = rig.connect().say(f"LOGIN bob {PASSWORD}")
    assert again.next(3) == [
        f"OK LOGIN bob last={STAMP}", f"MSG alice 1 {STAMP} while you were out", "ONLINE alice bob",
    ]  # fmt: skip
    assert alice.hears() == ["#1 OK SEND"]


# --- Order and waiting ------------------------------------------------------------------------------------------------


def test_answers_come_in_the_order_of_the_commands(rig: Rig) -> None:
    peer = rig.connect()
    assert codes(peer.says(
        "PING 1", f"REGISTER alice {PASSWORD}", "PING 2", f"REGISTER alice {PASSWORD}", "LOGIN alice wrong", "FOO",
        f"LOGIN alice {PASSWORD}", "PING 3", f"PASSWD {PASSWORD}\nanother one", "PING 4", "LOGOUT", "PING 5",
        "LOGIN alice another one", "WHO",
    )) == [
        "OK PING 1", "OK REGISTER alice", "OK PING 2", "ERROR name-taken", "ERROR bad-login", "ERROR bad-command",
        "OK LOGIN alice failed=1", "OK PING 3", "OK PASSWD", "OK PING 4", "OK LOGOUT", "OK PING 5",
        f"OK LOGIN alice last={STAMP}", "OK WHO alice",
    ]  # fmt: skip


def test_every_command_is_answered_once_however_many_are_said_at_once(rig: Rig) -> None:
    alice = rig.person("alice")
    commands = [f"#{number} {('PING', 'WHO', 'FOO', 'SEND nobody x')[number % 4]}" for number in range(1, 3001)]
    answers = alice.says(*commands)
    assert [int(answer.split(" ")[0][1:]) for answer in answers] == list(range(1, 3001))


def test_a_whole_beginning_in_one_packet(rig: Rig) -> None:
    heard = rig.connect().say(f"REGISTER zoe {PASSWORD}", "KEEP", f"LOGIN zoe {PASSWORD}").next(4)
    assert heard[:2] == ["OK REGISTER zoe", "OK KEEP 60"]
    assert like(f"OK LOGIN zoe token={TOKEN}", heard[2])
    assert heard[3] == "ONLINE zoe"
