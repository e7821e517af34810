"""Bytes from a terminal, in any pieces, become keys."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

import client
from client import Key, KeyDecoder

KEYS: dict[bytes, list[Key]] = {
    b"a": [Key("char", "a")],
    "ến".encode(): [Key("char", "ế"), Key("char", "n")],
    "你👍".encode(): [Key("char", "你"), Key("char", "👍")],
    b"\x01\x05\x0b\x19": [Key("ctrl-a"), Key("ctrl-e"), Key("ctrl-k"), Key("ctrl-y")],
    b"\r": [Key("enter")],
    b"\n": [Key("enter")],
    b"\t\x1b[Z": [Key("tab"), Key("shift-tab")],
    b"\x7f\x08": [Key("backspace"), Key("backspace")],
    b"\x03\x04\x1a": [Key("ctrl-c"), Key("ctrl-d"), Key("ctrl-z")],
    b"\x1b[A\x1b[B\x1b[C\x1b[D": [Key("up"), Key("down"), Key("right"), Key("left")],
    b"\x1bOA\x1bOH\x1bOF": [Key("up"), Key("home"), Key("end")],
    b"\x1b[H\x1b[F\x1b[1~\x1b[4~\x1b[7~\x1b[8~": [Key("home"), Key("end")] * 3,
    b"\x1b[3~\x1b[2~\x1b[5~\x1b[6~": [Key("delete"), Key("insert"), Key("page-up"), Key("page-down")],
    b"\x1b[1;5D\x1b[1;3C\x1b[1;2A\x1bOd": [Key("ctrl-left"), Key("alt-right"), Key("up"), Key("ctrl-left")],
    b"\x1bb\x1bf\x1bd": [Key("alt-b"), Key("alt-f"), Key("alt-d")],
    b"\x1b\x7f\x1b\r": [Key("alt-backspace"), Key("alt-enter")],
    b"\x1b[13;2u\x1b[27;3;13~": [Key("alt-enter"), Key("alt-enter")],
    b"\x1b[13u\x1b[27;1;13~\x1b[13;3u\x1b[13;5u": [Key("enter"), Key("enter"), Key("alt-enter"), Key("alt-enter")],
    b"\x1b[32;2u\x1b[97;2u\x1b[27;2;65~\x1b[223;2u": [Key("char", char) for char in " AA\xdf"],
    b"\x1b[228u\x1b[128077;1u\x1b[97;65u": [Key("char", char) for char in "ä👍a"],
    b"\x1b[99;5u\x1b[27;5;99~\x1b[67;6u\x1b[99;69u": [Key("ctrl-c")] * 4,
    b"\x1b[105;5u\x1b[109;5u\x1b[91;5u\x1b[45;6u\x1b[47;5u\x1b[92;5u\x1b[32;5u": [
        Key("tab"), Key("enter"), Key("escape"), Key("ctrl-_"), Key("ctrl-_"), Key("ctrl-\\"), Key("ctrl-space"),
    ],
    b"\x1b[27u\x1b[9;2u\x1b[127;5u\x1b[127;2u\x1b[8;3u": [
        Key("escape"), Key("shift-tab"), Key("alt-backspace"), Key("backspace"), Key("alt-backspace"),
    ],
    b"\x1b[98;3u\x1b[99;7u\x1b[27;3;66~": [Key("alt-b"), Key("alt-ctrl-c"), Key("alt-B")],
    b"\x1b[3;5~\x1b[3;3~": [Key("ctrl-delete"), Key("alt-delete")],
    # Super; Shift alone; no code point; a control; Ctrl with a digit, with letters that are not ASCII
    b"\x1b[99;9u\x1b[57441;2u\x1b[9999999u\x1b[u\x1b[27~\x1b[55296u\x1b[133u\x1b[49;5u\x1b[1089;5u\x1b[223;5u": [],
    b"\x1b\x1b[D": [Key("alt-left")],
    b"\x1b\x1bx": [Key("escape"), Key("alt-x")],
    "\x1bé".encode(): [Key("alt-é")],
    b"\x1b[200~a\r\nb\x1b[31m\x03\x1b[201~x": [Key("paste", "a\r\nb\x1b[31m\x03"), Key("char", "x")],
    b"\x1b\x1b[200~a\r\x1b[201~": [Key("escape"), Key("paste", "a\r")],
    b"\x1b[200~\x1b[201~": [Key("paste", "")],
    b"\x1b[200~\xff\x1b[201~": [Key("paste", "\ufffd")],
    b"\x1b[I\x1b[Ox\x1b\x1b[Iy": [  # the window has the focus, or not
        Key("focus-in"), Key("focus-out"), Key("char", "x"), Key("escape"), Key("focus-in"), Key("char", "y"),
    ],
    b"\x1b[200~a\x1b[Ob\x1b[Ic\x1b[201~\x1bOI\x1bOO": [Key("paste", "abc")],
    b"\x1b[15~\x1b[[Ax\x1b[1;5P\x1b[?1;2c\x1bOPy": [Key("char", "x"), Key("char", "y")],  # keys without a meaning here
    b"\x1b[1\x03": [Key("ctrl-c")],
    b"\x1bO\x03": [Key("alt-O"), Key("ctrl-c")],
    b"\x1b[" + b"1" * 40 + b"Dx": [Key("char", "1")] * 10 + [Key("char", "D"), Key("char", "x")],
    b"\xff\xc3a\xe4\xbdb\x80": [
        Key("char", "\ufffd"), Key("char", "\ufffd"), Key("char", "a"), Key("char", "\ufffd"), Key("char", "b"),
        Key("char", "\ufffd"),
    ],
}  # fmt: skip


def decode(pieces: list[bytes]) -> list[Key]:
    decoder = KeyDecoder()
    return [key for piece in pieces for key in decoder.feed(piece)]


@pytest.mark.parametrize(("data", "keys"), KEYS.items(), ids=map(repr, KEYS))
def test_keys(data: bytes, keys: list[Key]) -> None:
    # A byte that follows shows that nothing was left over.
    assert decode([data, b"."]) == [*keys, Key("char", ".")]


PARTS = st.one_of(st.sampled_from([*KEYS, b"\x1b", b"[", b"O", b"\x1b[201~"]), st.binary(max_size=8))


@given(st.lists(PARTS), st.data())
def test_any_splitting_gives_the_same_keys(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)))))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert decode(pieces) == decode([stream])


@given(st.lists(st.sampled_from(sorted(KEYS)), min_size=1), st.integers(0, 100))
def test_ctrl_c_is_never_swallowed(parts: list[bytes], cut: int) -> None:
    """Wherever a sequence is broken off, except in a paste, an interrupt comes through."""
    stream = b"".join(part for part in parts if b"[200~" not in part)
    stream = stream[: min(cut, len(stream))]
    assert decode([stream, b"\x03"])[-1] in (Key("ctrl-c"), Key("alt-ctrl-c"))


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"\x1b", [Key("escape")]),
        (b"\x1b\x1b", [Key("escape"), Key("escape")]),
        (b"\x1b[", [Key("alt-[")]),
        (b"\x1bO", [Key("alt-O")]),
        (b"\x1b\x1b[", [Key("escape"), Key("alt-[")]),
    ],
)
def test_an_escape_that_nothing_follows(data: bytes, keys: list[Key]) -> None:
    decoder = KeyDecoder()
    assert decoder.feed(data) == []
    assert decoder.undecided
    assert decoder.settle() == keys
    assert not decoder.undecided
    assert decoder.feed(b"A") == [Key("char", "A")]


UNFINISHED = [b"\x1b[1;5", b"\x1b\x1b[1", b"\xe4\xbd", b"\x1b[200~abc", b"\x1b[200~\x1b", b"\x1b[200~\x1b["]


@pytest.mark.parametrize("data", UNFINISHED)
def test_what_has_begun_waits_for_its_end(data: bytes) -> None:
    decoder = KeyDecoder()
    assert decoder.feed(data) == []
    assert not decoder.undecided
    assert decoder.settle() == []


@pytest.mark.parametrize("piece", [1_000, 65_536, 10**6])
def test_a_huge_paste_is_bounded_but_ends(piece: int) -> None:
    decoder = KeyDecoder()
    data = b"\x1b[200~" + b"x" * 400_000 + b"\x1b[201~!"
    keys: list[Key] = []
    for start in range(0, len(data), piece):
        keys += decoder.feed(data[start : start + piece])
        assert len(decoder._buffer) <= client.PASTE_MAX + 6
    assert keys == [Key("paste", "x" * client.PASTE_MAX), Key("char", "!")]


# --- The records of a console of Windows ---

SHIFT, LEFT_ALT, RIGHT_ALT, LEFT_CTRL, NUM_LOCK = 0x10, 0x2, 0x1, 0x8, 0x20
RESIZED = struct.pack("<HxxHH12x", 4, 100, 30)


def record(char: int = 0, key: int = 0, held: int = 0, pressed: bool = True, times: int = 1) -> bytes:
    return struct.pack("<HxxiHHHHI", 1, pressed, times, key, 0, char, held)


def typed(text: str, key: int = 0, held: int = 0) -> bytes:
    """The records of this text: each key is pressed and let go."""
    units = struct.unpack(f"<{len(data) // 2}H", data) if (data := text.encode("utf-16-le")) else ()
    return b"".join(record(unit, key, held, pressed) for unit in units for pressed in (True, False))


def keys_of(*reads: bytes) -> list[Key]:
    """The keys of a console that gives these records, up to its end, which is left out."""
    left, bursts, decoder = [*reads, b""], client.Mailbox(), KeyDecoder()
    client.ConsoleReader(lambda: left.pop(0), lambda: left[0] != b"", bursts, lambda: None).run()
    *pieces, end = bursts.take()
    bursts.close()
    assert end == b""
    return [key for piece in pieces for key in client.as_one_burst(decoder.feed(piece))] + decoder.settle()


@pytest.mark.parametrize(
    ("records", "keys"),
    [
        (record(ord("a"), 0x41) + record(ord("a"), 0x41, pressed=False), [Key("char", "a")]),
        (record(ord("x"), 0x58, times=3), [Key("char", "x", more=True)] * 2 + [Key("char", "x")]),
        (record(13, 0x0D), [Key("enter")]),
        (record(10, 0x0D, LEFT_CTRL), [Key("alt-enter")]),
        (record(10), [Key("alt-enter")]),  # the same, where it gives sequences
        (record(3, 0x43, LEFT_CTRL), [Key("ctrl-c")]),
        (record(27, 0x1B), [Key("escape")]),
        (record(9, 0x09) + record(9, 0x09, SHIFT), [Key("tab"), Key("shift-tab")]),
        (record(8, 0x08) + record(127, 0x08, LEFT_CTRL | NUM_LOCK), [Key("backspace"), Key("alt-backspace")]),
        (b"".join(record(key=key) for key in range(0x21, 0x29)), [
            Key(name) for name in ("page-up", "page-down", "end", "home", "left", "up", "right", "down")
        ]),
        (record(key=0x2D) + record(key=0x2E) + record(key=0x2E, held=LEFT_CTRL), [
            Key("insert"), Key("delete"), Key("ctrl-delete")
        ]),
        (record(key=0x25, held=LEFT_CTRL) + record(key=0x27, held=LEFT_ALT), [Key("ctrl-left"), Key("alt-right")]),
        (record(ord("b"), 0x42, LEFT_ALT), [Key("alt-b")]),
        (record(ord("@"), 0x51, RIGHT_ALT | LEFT_CTRL), [Key("char", "@")]),  # AltGr
        (record(key=0x7A) + record(key=0x7B) + record(key=0x10, held=SHIFT) + record(key=0x90), []),  # F11, F12 …
        (record(0xE0, 0xDE), [Key("char", "à")]),
        (record(key=0x12, held=LEFT_ALT) + record(0x20AC, 0x12, pressed=False), [Key("char", "€")]),  # Alt and a number
        (typed("👍"), [Key("char", "👍")]),
        (typed("\x1b[1;5D\x1b[A"), [Key("ctrl-left"), Key("up")]),  # where it gives sequences
        (typed("\x1b[200~a\r\nb\x1b[201~"), [Key("paste", "a\r\nb")]),
        (typed("one\r\ntwo"), [Key("char", char, more=True) for char in "one"] + [
            Key("enter", more=True), Key("enter", more=True),
            Key("char", "t", more=True), Key("char", "w", more=True), Key("char", "o")
        ]),
        (RESIZED, []),
        (struct.pack("<H18x", 16), []),  # the window is in front
    ],
)  # fmt: skip
def test_keys_of_a_windows_console(records: bytes, keys: list[Key]) -> None:
    assert keys_of(records) == keys


@given(st.lists(st.text(st.characters(blacklist_categories=["Cc", "Cs"]), min_size=1), min_size=1), st.data())
def test_a_paste_into_a_windows_console_is_one_burst_however_it_comes(lines: list[str], data: st.DataObject) -> None:
    records = typed("xy" + "\r".join(lines))
    pieces, size = [records[:80]], 20 * data.draw(st.integers(1, 20))  # of a single record: a half may stand alone
    pieces += [records[at : at + size] for at in range(80, len(records), size)]
    assert "".join(key.text or "\r" for key in keys_of(*pieces)) == "xy" + "\r".join(lines)


def test_a_windows_console_tells_of_its_size_and_its_end() -> None:
    told: list[str] = []
    left, bursts = [RESIZED + record(key=0x10), record(ord("a"), 0x41) + RESIZED, b""], client.Mailbox()
    client.ConsoleReader(lambda: left.pop(0), lambda: False, bursts, lambda: told.append("moved")).run()
    assert (told, bursts.take()) == (["moved"] * 2, [b"a", b""])
    bursts.close()


@pytest.mark.parametrize(("event", "leaves"), [(0, False), (1, False), (2, True), (5, True), (6, True)])
def test_a_window_of_windows_that_is_closed_is_left_in_peace(event: int, leaves: bool) -> None:
    done: list[object] = []
    assert client.leaves_at(event, lambda: done.append("left"), done.append) is leaves
    assert done == (["left", client.LEAVE_SECONDS + client.LOGOUT_SECONDS] if leaves else [])


# --- Pastes whose end is lost ---

BEGIN, END = b"\x1b[200~", b"\x1b[201~"


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        (b"\x03", [Key("ctrl-c")]),
        (b"\r", [Key("enter")]),
        (b"y", [Key("char", "y")]),
        ("é".encode(), [Key("char", "é")]),
        (b"\x1b[A", [Key("up")]),
        (b"\x1b", []),
    ],
)
def test_a_key_after_a_pause_ends_a_paste(key: bytes, keys: list[Key]) -> None:
    decoder = KeyDecoder()
    assert decoder.feed(BEGIN + b"x", 10.0) == []
    assert decoder.feed(b"y", 10.9) == []
    assert decoder.feed(b"z", 11.8) == []
    assert decoder.feed(key, 12.8) == [Key("paste", "xyz"), *keys]
    assert decoder.undecided is (not keys)


def test_ctrl_c_again_and_again_ends_a_paste() -> None:
    decoder = KeyDecoder()
    decoder.feed(BEGIN + b"x", 10.0)
    assert [decoder.feed(b"\x03", 10.0 + n / 4) for n in range(4)] == [[]] * 4
    assert decoder.feed(b"\x03", 11.0) == [Key("paste", "x" + "\x03" * 4), Key("ctrl-c")]


def test_a_ctrl_c_that_is_held_until_a_paste_ends_counts_once() -> None:
    """The second and the third one would leave the program."""
    decoder = KeyDecoder()
    decoder.feed(BEGIN + b"x", 10.0)
    assert decoder.feed(b"\x03\x03", 11.0) == [Key("paste", "x"), Key("ctrl-c")]
    for held in range(1, 100):
        assert decoder.feed(b"\x03" * (1 + held % 2), 11.0 + held / 20) == []
    assert decoder.feed(b"a", 16.0) == [Key("char", "a")]
    assert decoder.feed(b"\x03\x03", 17.1) == [Key("ctrl-c")] * 2


@pytest.mark.parametrize("split", range(1, len(END)))
def test_a_paste_that_still_flows_is_not_cut(split: int) -> None:
    """Neither by pauses of the network nor by their place."""
    decoder = KeyDecoder()
    keys = decoder.feed(BEGIN + b"x" * 5_000, 0.0)
    for now in range(2, 20, 2):
        keys += decoder.feed(b"line\r" * 1_000, now)
    keys += decoder.feed(END[:split], 30.0) + decoder.feed(END[split:] + b"!", 40.0)
    assert "".join(key.text for key in keys) == "x" * 5_000 + "line\r" * 9_000 + "!"
    assert {key.name for key in keys} == {"paste", "char"}


def test_an_escape_waits_for_the_rest_where_it_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now, delay, pieces = [10.0], [client.SEQUENCE_DELAY], [b"\x1b", b"[D", b"\x1b", b"\r", b"\x1b"]
    monkeypatch.setattr(client, "console_mode", lambda: None)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    console = client.Console(lambda: delay[0])
    for key in ("left", "alt-enter"):
        console.take(pieces.pop(0))
        assert (console.keys(), console.deadline) == ([], now[0] + client.SEQUENCE_DELAY)
        now[0] += 0.3  # a bad network
        assert console.keys() == []
        console.take(pieces.pop(0))
        assert (console.keys(), console.deadline) == ([Key(key)], None)
    console.take(pieces.pop(0))
    delay[0] = client.ESCAPE_DELAY  # a question was asked
    now[0] += client.ESCAPE_DELAY
    assert (console.keys(), console.deadline) == ([Key("escape")], None)


# --- Other encodings than UTF-8 ---


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("iso8859-1", "é½ÿ"), ("koi8-r", "Привет"), ("euc-jp", "日本語"), ("gb18030", "中ễ👍"), ("shift_jis", "ソ能")],
)
def test_keys_are_decoded_in_the_terminals_encoding(encoding: str, text: str) -> None:
    data = text.encode(encoding)
    decoder = KeyDecoder(encoding)
    keys = [key for byte in data + BEGIN + data + END for key in decoder.feed(bytes([byte]))]
    assert keys == [*(Key("char", char) for char in text), Key("paste", text)]


@given(st.sampled_from(["utf-8", "euc-jp", "gb18030", "shift_jis", "big5", "iso8859-1"]), st.binary())
def test_malformed_characters_end(encoding: str, data: bytes) -> None:
    keys = KeyDecoder(encoding).feed(data.replace(b"\x1b", b"") + b"\x03\x03")
    assert keys[-1] == Key("ctrl-c")


@pytest.mark.parametrize(
    ("data", "more"),
    [
        (b"", []),
        (b"a", [False]),
        (b"al\t", [True, False, False]),  # Tab behind what was typed before it completes
        (b"\tif x:\r", [True] * 5 + [False] * 2),  # the first Tab does not
        (b"a\rb\r", [True, True, False, False]),
        (b"\x1b[A\x1b[A\r\x03", [False] * 4),  # no text, no paste
        (b"a\r\x1b[200~b\x1b[201~", [True, True, False]),
    ],
)
def test_keys_that_were_read_at_once_are_marked(data: bytes, more: list[bool]) -> None:
    keys = decode([data])
    marked = client.as_one_burst(keys)
    assert [key.more for key in marked] == more
    assert [key._replace(more=False) for key in marked] == keys


@pytest.mark.parametrize(
    ("pieces", "read"),
    [
        ([b"x", b"y"], b"x"),  # a key
        ([b"\x1b[A", b"y"], b"\x1b[A"),
        ([b"one\r", b"two", b"x", b"y"], b"one\rtwox"),  # a paste in pieces
        ([b"one\r", b""], b"one\r"),  # the end is read once more
        ([b"x" * 40_000] * 3, b"x" * 80_000),  # an endless one does not keep the loop
    ],
    ids=["key", "arrow", "pieces", "end", "endless"],  # their own are longer than a variable of Windows
)
def test_a_paste_in_pieces_is_read_as_one(pieces: list[bytes], read: bytes) -> None:
    left = list(pieces)
    assert client.read_burst(lambda: left.pop(0), lambda: left) == read


@pytest.mark.parametrize(
    ("text", "by_line", "pasted"),
    [
        ("one\ntwo\n\n", False, ("one\ntwo", 9)),
        ("one\n", False, ("", 0)),  # typed ahead
        ("a\tb\n", False, ("a\tb", 3)),
        ("/who\n/quit\n", True, ("", 0)),
        ("/msg bob a\tb\n", True, ("", 0)),
        ("y" * 1_001 + "\nz\n", True, ("y" * 1_001, 1_001)),
        ("y" * 1_001 + "\n", False, ("y" * 1_001, 1_001)),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_of_a_burst_was_pasted(text: str, by_line: bool, pasted: tuple[str, int]) -> None:
    names = {"\n": Key("enter"), "\t": Key("tab")}
    keys = client.as_one_burst([names.get(char, Key("char", char)) for char in text])
    assert client.burst_text(keys) == text
    assert client.pasted_part(text, by_line) == pasted
