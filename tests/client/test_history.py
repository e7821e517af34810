"""What was said, printed again: all of it, in order, and as it was written."""

from __future__ import annotations

import io
import os
import re
import stat
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from room import Desk, Room
from terminal import Terminal
from vocabulary import PASSWORD, examples

import client
import protocol
from client import Block, Recalled, Said, Saying, Screen, Span, Transcript, Verbatim

WALL = 1_795_359_845.0
ME, OTHERS = "bob", ("ann", "Eve", "zoë")


def shown(*events: client.Printable, width: int = 60, encoding: str = "utf-8") -> list[str]:
    """What a person gets who selects and copies what stands on the screen then."""
    terminal, screen, transcript = Terminal(width, 12), Screen(width, 12, encoding=encoding), Transcript()
    for event in events:
        transcript.add(event, 0.0)
    terminal.feed(screen.draw(Block((Span("> "),)), transcript.take(0.0)))
    rows = terminal.copied()
    return rows[: max(index for index, row in enumerate(rows) if row == ">")]


# --- Whose conversation ---

NAMES = st.sampled_from(OTHERS)
SEVERAL = st.lists(NAMES, min_size=2, unique=True)
# A mark without a letter before it is spelled where it begins a line, and else sits on the gap before the text.
UNMARKED = st.text().filter(lambda text: not unicodedata.category(text[:1] or " ").startswith("M"))
TEXT = st.one_of(UNMARKED, st.sampled_from(["one\ntwo", "x" * 200, "a  b", "--1--\n\n--2--", "\\n \\ \t", "bob: hi"]))
HEARD = st.builds(
    protocol.Message, NAMES, st.just(0), st.floats(WALL, WALL + 1e6), TEXT,
    st.one_of(st.none(), st.just("*"), SEVERAL.map(lambda names: (ME, *names))),
)  # fmt: skip
TO = st.one_of(NAMES, st.just("*"), SEVERAL.map(",".join))
DELIVERED = st.builds(protocol.Delivered, st.just(0), TO, TEXT, st.floats(WALL, WALL + 1e6), st.just(1))
FAILED = st.builds(
    protocol.Failed, st.just(0), TO, TEXT, st.sampled_from(["not-online", "unconfirmed", "partly"]),
    st.sampled_from(["nobody of that name is online", "shown to 1 of 2; not to zoë (not online), Eve (left)"]),
    st.floats(WALL, WALL + 1e6), st.just(()),
)  # fmt: skip
# A conversation is the others who take part, in any order, or everybody.
SAID = st.lists(st.one_of(HEARD, DELIVERED, FAILED), max_size=12)


def others_of(event: Saying) -> set[str]:
    if isinstance(event, protocol.Message):
        return {"*"} if event.to == "*" else {event.sender, *(event.to or ())} - {ME}
    return set(event.recipient.split(","))


def events_of(said: Iterable[tuple[Saying, str | None]]) -> list[Saying]:
    return [event for event, _ in said]


@examples(40)
@given(SAID, TO)
def test_a_conversation_is_all_that_was_said_in_it_in_order(events: list[Saying], people: str) -> None:
    said = Said()
    for event in events:
        said.add(event, ME)
    assert said.of(None, ME) == [(event, ME) for event in events]
    assert events_of(said.of(people.upper(), ME)) == [
        event for event in events if others_of(event) == set(people.split(","))
    ]
    assert said.of(people, "carol") == said.of(people, ME)  # who is somebody else in the same program by now


def test_the_oldest_is_forgotten_beyond_a_number_and_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [protocol.Message("ann", n, WALL, f"{n} " + "x" * 1_000) for n in range(2_000)]
    for most, bytes_most, kept in ((1_000, 10**9, 1_000), (1_000, 11_000, 10), (1_000, 10, 1), (7, 10**9, 7)):
        monkeypatch.setattr(client, "SAID_MAX", most)
        monkeypatch.setattr(client, "SAID_BYTES", bytes_most)
        said = Said((event, None) for event in events[:1_500])
        for event in events[1_500:]:
            said.add(event, ME)
        assert events_of(said.of(None, ME)) == events[-kept:]


# --- As it was written ---


def said_rows(event: Saying) -> list[str]:
    """The lines of a text as a terminal can show them, the fate of an own message behind the last."""
    look = client.said_look(event, ME)
    *rows, last = [client.safe_text(line) for line in event.text.replace("\r\n", "\n").split("\n")]
    fate = client.safe_text("".join(span.text for span in look.tail))
    return [row.rstrip() for row in (*rows, last + fate)]


def read_back(rows: list[str]) -> list[list[str]]:
    """The texts in what /history has printed, without its first row, its last, and days."""
    texts, rest = [], iter(row for row in rows[1:-1])
    for row in rest:
        if re.fullmatch("-- [A-Z][a-z]+day, .*", row):
            continue
        people, _, text = row[6:].partition("  ")
        assert re.match(r"\d\d:\d\d ", row) and people
        if found := re.fullmatch("(?:a long line|[0-9,]+ lines), up to (--[0-9]+--)", text):
            lines = []
            while not (line := next(rest)).startswith(found[1]):
                lines.append(line)
            texts.append([*lines[:-1], (lines[-1] + line.removeprefix(found[1])).rstrip()])
        else:
            texts.append([text])
    return texts


def joined(rows: list[str]) -> str:
    """Rows, spaces at the end of a text not looked at, though a fate stands behind them."""
    return re.sub(" +  (?=not |shown )", "  ", "\n".join(rows))


@examples(40)
@given(SAID, st.integers(130, 160))  # the rows around a text fit
def test_all_that_was_said_can_be_copied_as_it_was_written(events: list[Saying], width: int) -> None:
    rows = shown(Recalled("the last", tuple(events)), width=width)
    assert rows[0] == "-- the last:" and rows[-1] == "-- the end of what was said before"
    assert list(map(joined, read_back(rows))) == [joined(said_rows(event)) for event in events]


FORGERY = st.lists(st.sampled_from(["--", "-", "1", "2", "--1--", "--2--", "\n", " ", "—", "\u200b"])).map("".join)


@examples(40)
@given(FORGERY, st.sampled_from(["utf-8", "iso8859-1", "ascii"]))
def test_nobody_can_write_the_mark_at_which_a_text_ends(text: str, encoding: str) -> None:
    terminal, screen = Terminal(20, 40), Screen(20, 40, encoding=encoding)
    terminal.feed(screen.draw(Block(()), [Verbatim((Span("15:04 "), Span("eve")), Span(text + "\n" + "x" * 30))]))
    rows = terminal.copied()
    (mark,) = re.findall("--[0-9]+--", " ".join(rows[:2]))
    assert sum(row.count(mark) for row in rows) == 2


def test_what_fits_a_row_stands_in_a_row_and_what_has_no_fate_yet_says_so() -> None:
    events = (
        protocol.Message("eve", 7, 0.0, "hi"), protocol.Message("eve", 7, 0.0, "one\ntwo", ("ann", "bob")),
        protocol.Failed(1, "eve", "x" * 60, "not-online", "nobody of that name is online", 0.0),
        protocol.Waiting(1, "ann,eve", "there?"),
    )  # fmt: skip
    rows = [re.sub(r"^\d\d:\d\d ", "", row) for row in shown(Recalled("the last 3 messages", events))]
    assert re.fullmatch("-- [A-Z][a-z]+, .* 19(69|70)", rows.pop(1))
    assert rows == [
        "-- the last 3 messages:", "eve  hi",
        "eve → ann, bob  2 lines, up to --1--", "one", "two", "--1--",
        "→ eve  a long line, up to --1--", "x" * 60, "--1--  not delivered: nobody of that name is online",
        "…     → ann, eve  there?", "-- the end of what was said before",
    ]  # fmt: skip


# --- The command ---


def again(desk: Desk) -> list[str]:
    """The lines of the last /history, without date and time."""
    start = max(index for index, line in enumerate(desk.seen) if line.startswith("-- the last "))
    return [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line) for line in desk.seen[start:]]


def test_the_last_messages_are_printed_again_with_their_fates(room: Room) -> None:
    alice, bob, eve = room.people("alice", "bob", "eve")
    room.types(bob, "/msg alice one", see="-> alice: one")
    room.types(eve, "/msg bob,alice two\\", see="-> bob,alice: two")
    room.types(alice, "/msg bob three", see="-> bob: three")
    room.types(bob, "/all four", see="-> *: four")
    room.types(bob, "/msg zoe five", see="!! not delivered to zoe")
    fate = "!! not delivered to zoe (not-online: zoe is not online): five"
    every = ["-> alice: one", r"eve -> bob,alice: two\\", "alice: three", "-> *: four", fate]
    for command, title, lines in (
        ("/history", "the last 5 messages", every),
        ("/history 2", "the last 2 of 5 messages", every[-2:]),
        ("/history ALICE", "the last 2 messages with alice", [every[0], every[2]]),
        ("/history alice 1", "the last 1 of 2 messages with alice", [every[2]]),
        ("/history eve,alice", "the last message with eve, alice", [every[1]]),
        ("/history alice,bob,eve 9", "the last message with you, alice, eve", [every[1]]),
        ("/history *", "the last message to everyone", [every[3]]),
        ("/history zoe", "the last message with zoe", [every[4]]),
    ):
        room.types(bob, command, see="-- the last ")
        assert again(bob) == [f"-- {title}", *(f"-- {line}" for line in lines)]
    room.types(bob, "/history carol", see="-- no messages with carol yet")


@pytest.mark.parametrize("rest", ["0", "bob 0", "bob,", "a b 3", "bob 3 4", "-1"])
def test_what_cannot_be_meant_is_told(room: Room, rest: str) -> None:
    _, bob = room.desk()
    room.types(bob, f"/history {rest}", see="!! it is used like this: /history [NAME] [N]")


def test_what_is_not_shown_yet_is_in_the_history_and_its_fate_later(room: Room) -> None:
    bob, eve = room.people("bob", "eve")
    eve.resizing = True  # and so shows nothing
    text = "word " * 100
    room.types(bob, f"/msg eve {text}end", see="-- eve has not got this yet")
    assert not any("word" in line for line in eve.seen)
    room.types(bob, "/history eve", see="-- the last message with eve")
    assert bob.seen[-1].endswith(f"-- eve has not got this yet: {text}end")
    eve.resizing = False
    room.types(bob, see="-> eve: word")
    room.types(bob, "/history", see="-- the last message")
    assert again(bob)[1:] == [f"-- -> eve: {text}end"]


def test_a_pipe_is_told_that_it_has_had_every_line(room: Room) -> None:
    chat, pipe = room.desk(interactive=False)
    pipe.typed += ["/history", None]
    room.until(lambda: chat.status is not None)
    assert chat.status == 1
    assert "!! /history is for a person at a terminal: a pipe has had every line" in pipe.seen


def test_what_is_printed_again_is_not_logged_again(room: Room, tmp_path: Path) -> None:
    log = io.StringIO()
    _, bob = room.desk(log=log)
    room.types(bob, "REGISTER bob correct-horse", see="-- online: bob")
    room.types(bob, "SEND bob once", see="-> bob: once")
    room.types(bob, "/history", "/history", see="-- the last 2 messages")
    assert log.getvalue().count("once") == 2  # heard, and shown


# --- The log ---


def as_logged(event: Saying) -> Saying:
    """An event as its log has it: without fractions of a second, and with what acts on a terminal written out."""
    text = client.unescaped(client.one_line(event.text))
    return event._replace(text=text, time=float(int(event.time)))


def log_of(events: list[Saying]) -> bytes:
    return "".join(client.log_lines(event, WALL) for event in events).encode()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "chat.log"


# Between messages: other lines of ours, lines of others, and bytes.
NOISE = st.one_of(
    st.sampled_from([b"-- ann is online\n", b"2026-11-28 11:17:13 -- you are bob\n", b"\xff\x00\x1b[2J\n", b"\r\n",
                     b"2026-99-99 11:17:13 ann: hi\n", b"0000-00-00 00:00:00 ann: hi\n", b"2026-11-28 11:17:13 \n",
                     b"2026-11-28 11:17:13 !! LOGIN: wrong (bad-login)\n", b"11:17:13 ann: hi\n"]),
    st.binary().map(lambda data: data.replace(b": ", b"") + b"\n"),
)  # fmt: skip


@examples(40)
@given(SAID, st.lists(NOISE))
def test_a_log_gives_back_all_that_was_said_in_order(log: Path, events: list[Saying], noise: list[bytes]) -> None:
    pieces = [log_of([event]) for event in events]
    for number, piece in enumerate(noise):
        pieces.insert(number * 2, piece)
    log.write_bytes(b"".join(pieces))
    assert events_of(client.said_before(log)) == [as_logged(event) for event in events]


@examples(40)
@given(st.binary(), SAID, st.integers(0, 300))
def test_any_bytes_in_a_log_do_nothing_to_the_terminal(log: Path, data: bytes, events: list[Saying], cut: int) -> None:
    text = b"2026-11-28 11:17:13 ann: " + data.replace(b"\n", b"")
    log.write_bytes(log_of(events)[cut:] + data + b"\n" + text)
    said = events_of(client.said_before(log))
    assert said
    for faint in (True, False):
        assert shown(Recalled("the last", tuple(said), faint))  # the terminal of the tests refuses controls
    for line in client.lines_of(Recalled("the last", tuple(said))):
        assert not set(line) & set("\r\n\x1b\x9b\u202e")


def test_a_log_knows_who_one_was_when_something_was_said(room: Room, log: Path) -> None:
    said = [
        protocol.Message("bot", 0, WALL, "one", ("alice", "carol")),
        protocol.Message("bot", 0, WALL, "two", ("alice",)),
    ]
    names = [protocol.LoggedIn(1, "alice", None, 0), protocol.LoggedIn(1, "carol", WALL, 2)]
    back = protocol.Back("alice", 3.0, 0, protocol.Presence())
    events: list[client.Printable] = [said[0], names[0], *said, names[1], said[0], back, said[1]]
    log.write_text("".join(client.log_lines(event, WALL) for event in events), encoding="utf-8")
    before = client.said_before(log)
    assert [me for _, me in before] == [None, "alice", "alice", "carol", "alice"]
    recalled = Recalled("the last 5 messages", tuple(events_of(before)), True, tuple(me for _, me in before))
    rows = [re.sub(r"^\d\d:\d\d ", "", row) for row in shown(recalled) if re.match(r"\d", row)]
    assert rows == ["bot → alice, carol  one", "bot → you, carol  one", "bot  two", "bot → you, alice  one", "bot  two"]
    chat, desk = room.desk(before=before)
    assert chat._said.of(None, None) == before and desk.seen[0] == "-- the last 5 messages in the log"


def test_of_a_huge_log_only_the_end_is_read(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Saying] = [protocol.Message("ann", 0, WALL, f"number {number}") for number in range(2_000)]
    log.write_bytes(log_of(events))
    assert events_of(client.said_before(log)) == events[-1_000:]
    monkeypatch.setattr(client, "LOG_READ", 1_000)
    said = events_of(client.said_before(log))
    assert said == events[-len(said) :] and 10 < len(said) < 30
    log.write_bytes(b"x" * 10_000)
    assert client.said_before(log) == []
    forged = b"2026-11-28 11:17:13 bob: a text that looks like a line, and there the reading begins\n"
    log.write_bytes(b"2026-11-28 11:17:13 eve: " + forged)
    monkeypatch.setattr(client, "LOG_READ", len(forged))
    assert client.said_before(log) == []


def test_a_log_that_cannot_be_read_has_nothing(tmp_path: Path) -> None:
    assert client.said_before(tmp_path) == client.said_before(tmp_path / "none") == []
    assert client.said_before(Path(os.devnull)) == []
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo")
        assert client.said_before(tmp_path / "fifo") == []


@pytest.mark.skipif(sys.platform == "win32", reason="there it is for its owner by the folder it is in")
def test_a_new_log_is_for_its_owner_only(tmp_path: Path) -> None:
    client.open_log(tmp_path / "log").close()
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600  # private messages are in it


def test_behind_a_line_that_was_cut_the_log_begins_another(tmp_path: Path) -> None:
    for before, after in ((b"", b"x\n"), (b"cut", b"cut\nx\n"), (b"whole\n", b"whole\nx\n"), (b"\n", b"\nx\n")):
        (tmp_path / "log").write_bytes(before)
        log = client.open_log(tmp_path / "log")
        log.write("x\n")
        log.flush()
        log.close()
        assert (tmp_path / "log").read_bytes().replace(b"\r", b"") == after


def test_the_end_of_the_log_is_shown_faintly_at_the_start_and_the_rest_by_history(room: Room) -> None:
    before = [(protocol.Message("ann", 0, WALL + number, f"number {number}"), None) for number in range(30)]
    for interactive in (True, False):
        _, bob = room.desk(before=before, interactive=interactive)
        assert bob.seen[:1] == ["-- the last 20 of 30 messages in the log"] * interactive
        assert len(bob.seen) == 21 * interactive
    terminal, transcript = Terminal(60, 30), Transcript()
    transcript.add(Recalled("the last 1", (before[0][0],), faint=True), 0.0)
    terminal.feed(Screen(60, 30).draw(Block(()), transcript.take(0.0)))
    assert {style for _, style in terminal.styles} == {f"0;{client.DIM}"}
    _, bob = room.person("bob")
    _, eve = room.desk(before=before)
    room.types(eve, f"REGISTER eve {PASSWORD}", see="-- online: ")
    room.types(bob, "/msg eve now", see="-> eve: now")
    room.types(eve, "/history 25", see="-- the last 25 of 31 messages")
    assert [line.rpartition(": ")[2] for line in again(eve)[1:]] == [f"number {n}" for n in range(6, 30)] + ["now"]


def test_below_an_old_log_another_day_begins_with_its_name() -> None:
    old, new = (protocol.Message("ann", 0, WALL + days * 86_400, "hi") for days in (0, 2))
    rows = shown(Recalled("the last message", (old,), faint=True), new)
    assert [row for row in rows if re.match("-- [A-Z]", row)] == [
        f"-- {client.day_of(WALL)}", f"-- {client.day_of(WALL + 2 * 86_400)}"
    ]  # fmt: skip


# --- Another person at the same terminal ---


def test_the_next_person_does_not_write_to_the_recipient_of_the_command_line(room: Room) -> None:
    room.person("bob")
    chat, desk = room.desk(to="bob")
    room.types(desk, f"REGISTER ann {PASSWORD}", see="-- online: ")
    room.types(desk, "hi", see="-> bob: hi")
    room.types(desk, "/logout", f"TAKEOVER bob {PASSWORD}", see="-- you are bob")
    assert chat.recipients.to is None


@pytest.mark.parametrize("logs_out", [True, False])
def test_nothing_of_the_person_before_is_had_again(room: Room, logs_out: bool) -> None:
    """After a logout, and after a login of somebody else where the session has ended otherwise."""
    room.person("ann")
    chat, desk = room.person("bob")
    room.types(desk, "/to ann", "between us", see="-> ann: between us")
    room.types(desk, "/msg bob to myself", see="-> bob: to myself")
    assert (chat.recipients.to, chat.recipients.answer_to) == ("ann", "bob")
    if logs_out:
        room.types(desk, "/logout", see="-- logged out")
        assert desk.forgotten == 1
    else:
        room.types(room.desk()[1], f"TAKEOVER bob {PASSWORD}", see="-- you are bob")
        room.until(lambda: "-- /takeover bob brings the session back here" in desk.seen)
    room.types(desk, f"REGISTER eve {PASSWORD}", see="-- online: ")
    room.types(desk, "/history", see="-- no messages yet")
    assert (chat.recipients.to, chat.recipients.answer_to, desk.forgotten) == (None, "", 1)


def test_who_comes_back_under_the_own_name_finds_everything(room: Room) -> None:
    _, bob = room.person("bob")
    room.types(bob, "/msg bob to myself", see="-> bob: to myself")
    _, elsewhere = room.desk()
    room.types(elsewhere, f"TAKEOVER bob {PASSWORD}", see="-- you are bob")
    room.until(lambda: "-- /takeover bob brings the session back here" in bob.seen)
    room.types(bob, f"TAKEOVER BOB {PASSWORD}", "/history", see="-- the last 2 messages")


def test_the_logout_of_a_script_forgets_nothing(room: Room) -> None:
    """Its next lines may have been read already."""
    room.person("ann")
    _, pipe = room.desk(interactive=False)
    lines = f"REGISTER eve {PASSWORD}", f"LOGIN eve {PASSWORD}", "LOGOUT", f"LOGIN eve {PASSWORD}", "/to ann", "hi"
    room.types(pipe, *lines, see="-> ann: hi")
