"""What of a stranger's text reaches the terminal, and how wide it is there."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminal import Terminal

import client

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
THUMB = "\U0001f44d\U0001f3fd"
HEART = "\u2764\ufe0f"
VIETNAM = "\U0001f1fb\U0001f1f3"
SCOTLAND = "\U0001f3f4" + "".join(chr(0xE0000 + ord(c)) for c in "gbsct") + "\U000e007f"
DECOMPOSED = unicodedata.normalize("NFD", "Tuấn")
KOREAN = unicodedata.normalize("NFD", "한글")

# Characters that do something to a terminal, to the order of text, or to their neighbours, with some that do not.
hostile = st.text(
    st.one_of(
        st.sampled_from("\x00\x07\x08\t\n\r\x1b\x7f\x85\x9b\xad []mA;<>"),
        st.sampled_from("\u0301\u0300\u20dd\u0345\u034f\u200b\u200c\u200d\u200e\u2028\u202e\u2066\u2060\ufeff\ufe0f"),
        st.sampled_from("\u115f\u1160\u1100\u1161\u11a8\uac00\u3164\ue000\ufffe\U000e0041\U0010ffff\U000e0100\ud800"),
        st.sampled_from(
            "\u06cc\u06cc\u064e\u200cae\u00e9\u4e2d\u3042\uff21\u0939\u093f\u094d"
            + FAMILY
            + THUMB
            + HEART
            + VIETNAM
            + SCOTLAND
        ),
        st.characters(),
    ),
    max_size=40,
)

UNSAFE = {
    "bell": ("a\ab", "a<U+0007>b"),
    "colour": ("\x1b[31mred", "<U+001B>[31mred"),
    "eight-bit control": ("\x9b31m", "<U+009B>31m"),
    "title": ("\x1b]0;root\a", "<U+001B>]0;root<U+0007>"),
    "clipboard": ("\x1b]52;c;cm0=\x1b\\", "<U+001B>]52;c;cm0=<U+001B>\\"),
    "newline": ("a\nb", "a<U+000A>b"),
    "carriage return": ("hi\rroot:", "hi<U+000D>root:"),
    "backspace": ("a\x08b", "a<U+0008>b"),
    "delete": ("\x7f", "<U+007F>"),
    "right to left override": ("\u202egpj.exe", "<U+202E>gpj.exe"),
    "isolate": ("\u2066x\u2069", "<U+2066>x<U+2069>"),
    "right to left mark": ("\u200f", "<U+200F>"),
    "line separator": ("a\u2028b\u2029c", "a<U+2028>b<U+2029>c"),
    "private use": ("\ue0b0\U0010fffd", "<U+E0B0><U+10FFFD>"),
    "not a character": ("\ufffe", "<U+FFFE>"),
    "lone surrogate": ("\udc80", "<U+DC80>"),
    "tag without a flag": ("a\U000e0041", "a"),
    "filler letter": ("\u3164", "<U+3164>"),
    "half a flag": ("\U0001f1fb!", "V!"),
    "half a flag joined to a flag": ("\U0001f3f4\u200d\U0001f1fb", "\U0001f3f4V"),
    "skin tone alone": ("a\U0001f3fd", "a"),
    "mark without a letter": ("\u0301a", "<U+0301>a"),
    "mark after a control": ("\u202e\u0301a", "<U+202E><U+0301>a"),
    "tower of marks": ("e" + "\u0336" * 500 + "!", "e" + "\u0336" * 4 + "!"),
    "tower on nothing": ("\u0336" * 500 + "!", "<U+0336>!"),
    "zero-width": ("pay\u200bpal\u2060\ufeff\u00ad", "paypal"),
    "grapheme joiner": ("a\u034fb", "ab"),
    "endless joiners": ("\U0001f468" + "\u200d" * 500 + "!", "\U0001f468!"),
    "family": (FAMILY, "\U0001f468\U0001f469\U0001f467"),
    "skin tone": (THUMB + "!", "\U0001f44d!"),
    "emoji style": (HEART + "1\ufe0f\u20e3", "\u27641\u20e3"),
    "flags": (VIETNAM + VIETNAM, "VNVN"),
    "flag of Scotland": (SCOTLAND + "!", "\U0001f3f4!"),
    "tab": ("a\tb", "a    b"),
    "odd spaces": ("a\u00a0b\u2003c\u3000d", "a b c\u3000d"),
    "decomposed": (DECOMPOSED, "Tuấn"),
    "decomposed Korean": (KOREAN, "한글"),
    "old Korean": ("\u1112\u119e\u11ab", "\u1112<U+119E><U+11AB>"),
    "Persian": ("می\u200cخواهم", "می\u200cخواهم"),
    "non-joiner elsewhere": ("pay\u200cpal \u200c", "paypal "),
    "tower of non-joiners": ("ی" + "\u200c" * 500 + "!", "ی" + "\u200c" * 4 + "!"),
    "Korean leftovers": ("\u1161a", "<U+1161>a"),
}


@pytest.mark.parametrize(("text", "shown"), UNSAFE.values(), ids=UNSAFE)
def test_what_is_shown_of_it(text: str, shown: str) -> None:
    assert client.safe_text(text) == shown


def test_text_in_many_scripts_is_left_alone() -> None:
    for text in ("Chào bạn, Tuấn!", "你好,世界", "こんにちは", "안녕하세요", "Привет", "שלום", "سلام", "สวัสดี", "👍🎉"):
        assert client.safe_text(text) == text


def test_long_text_is_cut_and_says_so() -> None:
    assert client.safe_text("x" * 70_000) == "x" * client.DISPLAYED_MAX + "…"
    assert client.cut("abcdef", 3) == "abc…"


@given(hostile)
def test_any_text_is_shown_harmlessly_and_as_wide_as_a_terminal_makes_it(text: str) -> None:
    assert "".join(client.clusters(text)) == text and all(client.clusters(text))
    shown = client.safe_text(text)
    unsafe = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")
    letters = "".join(char for char in shown if unicodedata.category(char)[0] != "M")
    assert all(unicodedata.category(char) not in unsafe for char in re.sub("[\u0620-\u06ff]\u200c", "", letters))
    assert client.safe_text(shown) == shown
    marks = "".join("m" if unicodedata.category(char) in ("Mn", "Me", "Mc") else " " for char in shown)
    assert max(map(len, marks.split()), default=0) <= client.MARKS_MAX
    terminal = Terminal(2_000, 2)
    terminal.feed(shown)
    assert terminal.column == client.cell_width(shown)


@pytest.mark.parametrize("cluster", [THUMB, HEART, SCOTLAND, "e\u0302\u0301", KOREAN[:3], "ی\u200c", "\n"])
def test_one_character_for_a_person_is_one_cluster(cluster: str) -> None:
    assert list(client.clusters(f"a{cluster}{cluster}b")) == ["a", cluster, cluster, "b"]


@pytest.mark.parametrize(
    ("text", "width"),
    [("", 0), ("abc", 3), ("Tuấn", 4), ("你好", 4), ("👍", 2), ("ی\u200c", 1), ("e\u0336", 1), ("한", 2), ("❤", 1)],
)
def test_width(text: str, width: int) -> None:
    assert client.cell_width(text) == width


@pytest.mark.parametrize(
    "text", [FAMILY, THUMB, HEART, SCOTLAND, "می\u200cخواهم", "क\u094d\u200dष", "pay\u200bpal", "\U0001f3fd"]
)
def test_a_pipe_gets_the_text_as_it_is(text: str) -> None:
    assert client.one_line(text) == text


def test_a_pipe_gets_a_message_of_the_greatest_length_whole() -> None:
    assert client.one_line("12:00:00 bob: " + "\n" * 65_000) == "12:00:00 bob: " + "\\n" * 65_000


@given(hostile)
def test_in_a_pipe_nothing_acts_on_a_terminal(text: str) -> None:
    line = client.one_line(text)
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in line)
    assert not set(line) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert len(line.splitlines()) <= 1
    harmless = [char for char in text if char not in "\\\n\t" and f"<U+{ord(char):04X}>" not in line]
    assert all(char in line for char in harmless)
