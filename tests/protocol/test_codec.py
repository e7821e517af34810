"""Frames, names, passwords and times: what both ends of the wire agree on."""

import ast
import unicodedata
from pathlib import Path
from typing import Literal
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from vocabulary import examples

import protocol
from protocol import (
    BadFrameError,
    FrameDecoder,
    clean_name,
    clean_password,
    fold,
    format_time,
    frame,
    parse_time,
    password_fault,
    skeleton,
)

IMPURE = {"socket", "selectors", "select", "threading", "time", "random", "secrets", "os", "sys", "io", "sqlite3",
          "logging", "queue", "pathlib", "asyncio", "subprocess", "ssl", "signal", "tempfile"}  # fmt: skip


def chunked(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at these places (taken modulo its length)."""
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def decode(chunks: list[bytes], limit: int = protocol.CLIENT_FRAME_MAX) -> list[bytes]:
    decoder = FrameDecoder(limit)
    payloads: list[bytes] = []
    for chunk in chunks:
        decoder.feed(chunk)
        while more := decoder.payloads():
            payloads += more
    return payloads


def test_protocol_touches_nothing() -> None:
    tree = ast.parse(Path(protocol.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in imported} & IMPURE
    assert not {"open", "print", "input"} & {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}


# --- Frames ---


def test_a_frame_is_its_length_and_its_payload() -> None:
    assert frame(b"PING hi") == b"\x00\x00\x00\x07PING hi"


@examples(40)
@given(st.lists(st.binary(min_size=1, max_size=300)), st.lists(st.integers(0, 10**6)))
def test_any_chunking_gives_the_same_payloads(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(frame, payloads))
    assert decode(chunked(stream, cuts)) == payloads
    assert decode([stream[i : i + 1] for i in range(len(stream))]) == payloads


@examples(40)
@given(st.lists(st.binary(min_size=1, max_size=30)), st.lists(st.integers(0, 10**6)), st.data())
def test_bytes_given_back_come_again(payloads: list[bytes], cuts: list[int], data: st.DataObject) -> None:
    decoder = FrameDecoder(100)
    stream = b"".join(map(frame, payloads))
    taken: list[bytes] = []
    for chunk in chunked(stream, cuts):
        decoder.feed(chunk)
        more = decoder.payloads(data.draw(st.integers(1, 5)))
        kept = data.draw(st.integers(0, len(more)))
        taken += more[:kept]
        decoder.give_back(iter(more[kept:]))
        assert decoder.buffered >= sum(len(frame(payload)) for payload in more[kept:])
    assert taken + decoder.payloads() == payloads
    assert decoder.buffered == 0


@pytest.mark.parametrize("length", [0, 11, 2**31, 2**32 - 1])
def test_a_forbidden_length_is_refused_on_the_header(length: int) -> None:
    decoder = FrameDecoder(10)
    decoder.feed(frame(b"ok") + length.to_bytes(4, "big"))
    assert decoder.payloads() == [b"ok"]
    assert decoder.pending
    with pytest.raises(BadFrameError):
        decoder.payloads()
    decoder.feed(frame(b"later"))
    with pytest.raises(BadFrameError):  # shut for good
        decoder.payloads()


def test_the_largest_frame_passes_and_a_new_limit_holds_for_the_next_header() -> None:
    decoder = FrameDecoder(10)
    decoder.feed(frame(b"x" * 10) + frame(b"y" * 11))
    assert decoder.payloads() == [b"x" * 10]
    decoder.limit = 11
    assert decoder.payloads() == [b"y" * 11]
    assert decoder.buffered == 0


@pytest.mark.parametrize("had", [14, 5])  # bytes of the second frame: all of it, which is given back, or a part
def test_a_limit_that_falls_holds_for_what_was_not_obeyed(had: int) -> None:
    decoder = FrameDecoder(10)
    decoder.feed(frame(b"x") + frame(b"y" * 10)[:had])
    decoder.give_back(decoder.payloads()[1:])
    decoder.limit = 9
    with pytest.raises(BadFrameError):
        decoder.payloads()


def test_a_trickled_frame_is_kept_once() -> None:
    decoder = FrameDecoder(100)
    for byte in frame(b"z" * 100)[:-1]:
        decoder.feed(bytes([byte]))
        assert decoder.payloads() == []
    assert decoder.buffered == 103


# --- Names ---


@pytest.mark.parametrize(
    "name",
    ["alice", "Bob_2", "1a", "a.b-c", "x" * 32, "Tuấn", "Мария", "山田太郎", "たろう", "ラーメン", "佐々木", "नमस्ते"]
    + ["สมชาย", "Στέφανος", "محمد٣"],
)
def test_names_of_the_world(name: str) -> None:
    assert clean_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "_a", ".a", "-a", "a b", "a\nb", "a~b", "+a", "x" * 33, "аlice", "alicе", "a\u200bb", "a\u202eb", "a\u034fb"]
    + ["\u3164", "e" + "\u0316" * 4, "\u0301a", "a1٣", "ab\ufe0f", "Ωalpha", "😀"],
)
def test_names_that_could_fool_somebody(name: str) -> None:
    assert clean_name(name) is None


def test_a_name_is_shown_composed_and_looked_up_folded() -> None:
    assert clean_name("Tua\u0302\u0301n") == "Tuấn"
    assert clean_name("ＡＮＮ") == "ANN"
    assert fold("ＡＮＮ") == fold("Ann") == "ann"
    assert fold("STRASSE") == fold("straße")


@given(st.text())
def test_an_allowed_name_is_stable(text: str) -> None:
    name = clean_name(text)
    if name is not None:
        assert clean_name(name) == name
        assert fold(fold(name)) == fold(name)
        assert not set(name) & set(" ~+@#\n\r\x00")


# --- Names that look alike ---

# Letters whose two cases look like two different letters, or of which only the capital looks like a Latin one.
TWO_FACED = set("ILĲΒΕΖΗΙΜΝΥІԼՏ")


@pytest.mark.parametrize(
    ("name", "other"),
    [("georg", "ɡeorg"), ("alice", "aIice"), ("alice", "alıce"), ("anna", "ɑnnɑ"), ("coco", "сосо"), ("HAMMO", "НАММО")]
    + [("AEBHT", "ΑΕΒΗΤ"), ("Ian", "lan"), ("bob1", "bobl"), ("bob1", "bobI"), ("O0o", "0oO"), ("noël", "noёl")]
    + [("İrem", "irem"), ("i\u0307rem", "irem"), ("BOB", "ꓐꓳꓐ"), ("bob", "ʙᴏʙ"), ("bob2", "bob२"), ("coco", "c०c०")]
    + [("Mircea\u030c", "Mirceă"), ("ヘラ", "へラ"), ("二", "ニ"), ("ALIVE", "ALlVE"), ("ｌａｎ", "Ian")],
)
def test_names_that_look_alike(name: str, other: str) -> None:
    assert skeleton(name) == skeleton(other)


@pytest.mark.parametrize(
    ("name", "other"),
    [("Ian", "Lan"), ("ian", "lan"), ("Bill", "Bull"), ("Arne", "Ame"), ("José", "Jose"), ("Müller", "Muller")]
    + [("Marta", "Maria"), ("Paul", "Pavl"), ("user2", "user3"), ("a.b", "a-b"), ("Вера", "Vera"), ("人", "入")],
)
def test_names_that_do_not(name: str, other: str) -> None:
    assert skeleton(name) != skeleton(other)


@given(st.text())
def test_a_skeleton_is_its_own(text: str) -> None:
    assert skeleton(skeleton(text)) == skeleton(text)


@given(st.text())
def test_names_of_one_key_look_alike_but_for_letters_with_two_faces(text: str) -> None:
    if not TWO_FACED & set(unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text))):
        assert skeleton(text) == skeleton(fold(text))


def test_every_letter_has_the_skeleton_of_its_prototype() -> None:
    for prototype, letters in protocol.LOOK_ALIKES.items():
        assert {skeleton(letter) for letter in letters} == {prototype}
        assert skeleton(prototype) == prototype


# --- Passwords and times ---


@pytest.mark.parametrize(
    ("password", "fault"),
    [("eight888", None), (" spaces  ", None), ("seven77", "at least 8"), ("x" * 1025, "at most")]
    + [("line\nbreak", "line break"), ("carriage\rreturn", None), ("ALICEALICE", "not the name")],
)
def test_passwords(password: str, fault: str | None) -> None:
    told = password_fault(password, "alicealice")
    assert told is None if fault is None else fault in str(told)


FORMS: tuple[Literal["NFC", "NFD", "NFKC", "NFKD"], ...] = ("NFC", "NFD", "NFKC", "NFKD")


@given(st.text(), st.sampled_from(FORMS))
@example("\u0390" * 512, "NFD")  # 1 KiB, and 3 as a keyboard may type it
@example("\uac01" * 341, "NFD")
def test_a_password_is_the_same_however_a_keyboard_composes_it(
    password: str, form: Literal["NFC", "NFD", "NFKC", "NFKD"]
) -> None:
    clean = clean_password(password)
    assert clean_password(unicodedata.normalize(form, password)) == clean == unicodedata.normalize("NFKC", password)


def test_a_password_is_measured_as_it_is_hashed() -> None:
    assert password_fault(clean_password("e\u0301" * 400), "alice") is None  # 1,200 bytes as it is typed
    assert "at most" in str(password_fault(clean_password("\ufdfa" * 40), "alice"))  # 1,320 bytes as it is hashed
    flood = "\u0301\u0323" * 16_000
    assert clean_password(flood) is flood and "at most" in str(password_fault(flood, "alice"))


def test_times_are_utc_with_milliseconds() -> None:
    assert format_time(1795359845.1239) == "2026-11-22T15:04:05.123Z"
    assert parse_time("2026-11-22T15:04:05.123Z") == pytest.approx(1795359845.123)


@given(st.integers(0, 2**42), st.sampled_from((1, 999, 1000, 60_000)))
def test_a_time_is_read_as_it_was_written(millis: int, later: int) -> None:
    """Also one that follows another within its second, or at the end of it."""
    for each in (millis, millis + later):
        assert round(parse_time(format_time(each / 1000)) * 1000) == each


class Other(str):
    """A text that does not say that it is ASCII, and so is judged the long way."""

    __slots__ = ()

    def isascii(self) -> bool:
        return False


@given(st.text(st.characters(max_codepoint=127), max_size=40))
def test_a_name_of_ascii_is_judged_like_any_other(name: str) -> None:
    quickly = protocol.clean_name(name)
    assert protocol.clean_name(Other(name)) == quickly


def test_a_list_of_a_hundred_long_names_is_soon_checked() -> None:
    """One person who writes to such lists, to nobody, would hold up everybody else's messages."""
    names = ",".join("がぎぐげご東京"[number % 7 :] + "ー" * (number % 11) for number in range(protocol.LIST_MAX))
    with mock.patch.object(protocol, "unicodedata", wraps=unicodedata) as looked_up:
        protocol.parse_list(names)
    assert looked_up.name.call_count <= len(set(names))


def test_no_variation_selector_is_in_a_name() -> None:
    signs = map(chr, (*range(0x10000), *range(0xE0000, 0xE1000)))  # the only blocks that have any
    selectors = [sign for sign in signs if "VARIATION SELECTOR" in unicodedata.name(sign, "")]
    assert len(selectors) > 250
    assert not any(clean_name("東" + selector) or clean_name("a" + selector) for selector in selectors)
