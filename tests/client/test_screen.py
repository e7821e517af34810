"""What a person sees: editor and screen writer against a terminal in memory."""

from __future__ import annotations

import io
import os
import re
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminal import Terminal, width_of
from vocabulary import examples

import client
import protocol
from client import Block, Key, LineEditor, Paragraph, Screen, Span

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
PROMPT = (Span("bob", "36"), Span(" (3) "), Span("> ", "1"))
HOSTILE = "\x1b[2J\x1b[H\x9b31m\x1b]0;x\a\r\n\u202e\u0336\u200d\ue000\x07\x08"


class Window:
    """A terminal with a screen writer and an editor, and what they should look like."""

    def __init__(self, width: int = 40, height: int = 12, *, reflow: bool = True) -> None:
        self.terminal = Terminal(width, height, reflow=reflow)
        self.screen = Screen(width, height, reflows=reflow)
        self.editor = LineEditor()
        self.pinned: tuple[Paragraph, ...] = ()
        self.draw()

    def block(self) -> Block:
        return Block(PROMPT, *self.editor.view(), self.pinned)

    def draw(self, *paragraphs: Paragraph) -> None:
        self.terminal.feed(self.screen.draw(self.block(), paragraphs))

    def say(self, text: str, name: str = "alice") -> None:
        self.draw(Paragraph((Span("15:04 "), Span(name, client.name_style(name)), Span("  " + text)), 6))

    def type(self, text: str) -> None:
        for char in text:
            self.editor.feed(Key("char", char))
        self.draw()

    def press(self, *names: str) -> None:
        for name in names:
            self.editor.feed(Key(name))
        self.draw()

    def resize(self, width: int, height: int) -> None:
        self.terminal.resize(width, height)
        self.screen.resize(width, height)
        self.draw()

    def lines(self) -> list[str]:
        return self.terminal.history()

    def cursor(self) -> tuple[int, int]:
        return self.terminal.row, self.terminal.column


def expected_block(text: str, cursor: int, width: int) -> tuple[list[str], tuple[int, int]]:
    """The rows and the cursor's cell if a wide enough terminal did all the wrapping by itself."""
    terminal = Terminal(width, 200)
    terminal.feed("".join(span.text for span in PROMPT))
    spot = None
    index = 0
    for cluster in client.clusters(text):
        if cluster == "\n":
            spot = spot or (next_cell(terminal) if index >= cursor else None)
            terminal.feed("\r\n\r\n" if terminal.pending else "\r\n")
        else:
            for unit in client.clusters(client.safe_text(cluster)):
                cell = feed_unit(terminal, unit)
                spot = spot or (cell if index >= cursor else None)
        index += len(cluster)
    rows = terminal.history()
    end = next_cell(terminal)
    return rows + [""] * (end[0] + 1 - len(rows)), spot or end


def feed_unit(terminal: Terminal, unit: str) -> tuple[int, int]:
    """Write what must stay together on one row; returns its first cell."""
    width = sum(map(width_of, unit))
    row, column = next_cell(terminal)
    if column + width > terminal.width:
        terminal.feed("\r\n")
        row, column = next_cell(terminal)
    terminal.feed(unit)
    return row, column


def next_cell(terminal: Terminal) -> tuple[int, int]:
    return (terminal.row + 1, 0) if terminal.pending else (terminal.row, terminal.column)


def numbers_in(lines: list[str]) -> list[int]:
    """The numbers of the messages [1], [2], … as they stand on the screen, wherever a row was cut."""
    return [int(number) for number in re.findall(r"\[(\d+)\]", "".join(lines).replace(" ", ""))]


# -- examples --------------------------------------------------------------------------------------------------------


def test_a_message_comes_above_the_half_typed_line() -> None:
    window = Window()
    window.type("hello wor")
    window.press("left")
    window.say("hi")
    assert window.lines() == ["15:04 alice  hi", "bob (3) > hello wor"]
    assert window.cursor() == (1, len("bob (3) > hello wo"))


def test_one_write_and_none_when_nothing_changes() -> None:
    screen = Screen(40, 10)
    assert screen.draw(Block(PROMPT, "x", 1))
    assert screen.draw(Block(PROMPT, "x", 1)) == ""
    assert screen.draw(Block(PROMPT, "x", 0))


def test_a_message_of_many_lines_is_shown_whole() -> None:
    """Its sender is told that it was delivered."""
    window = Window(80, 24)
    window.say("\n".join(f"[{number}]" for number in range(2_000)))
    assert numbers_in(window.lines()) == list(range(2_000))


def test_empty_lines_do_not_push_everything_out_of_the_scrollback() -> None:
    window = Window(40, 4)
    window.say("[1]")
    window.say("hi\n" + "\n" * 30_000 + "\r\n" * 9_000 + " \t\n" * 1_000 + "bye" + "\n" * client.EMPTY_LINES + "\n[2]")
    window.say("[3]")
    rows = [row.strip() for row in window.lines()]
    assert rows[1:5] == ["15:04 alice  hi", "… 40,000 empty lines", "bye", ""]
    assert rows[-3:] == ["[2]", "15:04 alice  [3]", "bob (3) >"]
    assert len(rows) == 7 + client.EMPTY_LINES


def test_a_line_longer_than_the_window_wraps() -> None:
    window = Window(20, 8)
    window.type("x" * 30)
    window.say("hi")
    assert window.lines() == ["15:04 alice  hi", "bob (3) > xxxxxxxxxx", "x" * 20]
    assert window.cursor() == (3, 0)  # the row is full: the next character stands here
    window.press("home")
    assert window.cursor() == (1, 10)


def test_with_each_key_in_a_long_line_only_what_is_new_is_made_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    made_safe: list[str] = []

    def spelled(text: str, encoding: str) -> str:
        made_safe.append(text)
        return text

    monkeypatch.setattr(client, "spelled", spelled)
    client._typed_units.cache_clear()
    for text in ("日本語 " * 10_000, "日本語 " * 10_000 + "x"):
        Screen(20, 4).draw(Block((), text))
    client._typed_units.cache_clear()
    assert made_safe == ["日", "本", "語", " ", "x"]


def test_a_wide_character_does_not_fit_the_last_cell() -> None:
    window = Window(20, 8)
    window.type("x" * 9 + "中文")
    assert window.lines() == ["bob (3) > xxxxxxxxx", "中文"]
    window.press("left", "left")
    assert window.cursor() == (1, 0)
    window.press("left")
    assert window.cursor() == (0, 18)


def test_a_long_message_cannot_pose_as_another() -> None:
    window = Window(20, 10)
    window.say("x " * 10 + " " * 20 + "15:05 bob  owes\n15:06 carol  too\r\n\n15:07 dave")
    rows = window.lines()[1:-1]
    assert len(rows) > 6
    assert all(row.startswith(" ") or not row for row in rows)


def test_words_are_kept_whole_where_there_is_room() -> None:
    window = Window(32, 10)
    window.say("the quick brown fox jumps over the lazy dog " + "x" * 26 + " end")
    assert window.lines()[:-1] == [
        "15:04 alice  the quick brown fox",
        "      jumps over the lazy dog",
        "      " + "x" * 26,
        "      end",
    ]


URL = "https://example.org/a/very/long/path/that/goes/over/the/edge/of?query=" + "1" * 30


@pytest.mark.parametrize("width", [16, 30, 50, 80, 100, 120])
def test_a_word_longer_than_a_row_can_be_copied(width: int) -> None:
    window = Window(width, 30)
    window.type("half a line")
    window.say(f"see {URL} and tell me")
    window.say("[2]")
    assert any(URL in line.split() for line in window.terminal.copied())
    check_bottom(window)


def test_what_follows_a_long_word_has_a_row_of_its_own() -> None:
    """Else its second half and the rest of the text could pose as another message, at the left edge."""
    window = Window(20, 30)
    for blank in " \u00a0\u2003\u2800\u3000\U0001d159\t\u200b":
        window.say("x" * 27 + f"15:05{blank}bob{blank}owes me 100")
    rows = window.lines()
    assert len(rows) > 24
    assert not [row for row in rows if re.match(r"15:05\W+bob", row)]


def test_scripts_without_spaces_are_broken_between_characters() -> None:
    window = Window(20, 30)
    for text in ("漢字" * 30, "ภาษาไทย" * 10, "x" * 30 + "漢"):
        window.say(text)
    rows = window.lines()
    assert all(re.match(r"15:04| {5}|x|bob", row) for row in rows), rows


def test_a_waiting_message_with_a_long_word_is_taken_away_again() -> None:
    window = Window(20, 30)
    window.pinned = (Paragraph((Span("…  " + URL, client.DIM),), 6),)
    window.say("[1]")
    window.resize(17, 30)
    window.pinned = ()
    window.say("[2]")
    assert window.lines() == ["15:04 alice  [1]", "15:04 alice  [2]", "bob (3) >"]


def test_hostile_text_cannot_leave_its_place() -> None:
    window = Window(40, 20)
    window.type("mine")
    window.say(HOSTILE + "text", HOSTILE + "name")
    window.editor.feed(Key("paste", HOSTILE))
    window.draw()
    terminal = window.terminal
    assert (terminal.bells, terminal.title, terminal.modes) == (0, "", set())
    assert window.lines()[0].startswith("15:04 <U+001B>[2J<U+001B>[H<U+009B>31m")
    terminal.feed(client.title_sequence(HOSTILE + "\x1b\\x"))
    assert terminal.title.startswith("<U+001B>[2J")


def test_a_block_higher_than_the_window_follows_the_cursor() -> None:
    window = Window(20, 5)
    window.say("[1]")
    window.editor.feed(Key("paste", "\n".join("abcdefghij")))
    window.draw()
    assert window.terminal.lines()[1:] == ["g", "h", "i", "j"]
    window.press(*["up"] * 5)
    assert window.terminal.lines()[1:] == ["e", "f", "g", "h"]
    assert window.cursor()[0] == 1
    window.press("down")
    assert window.cursor()[0] == 2
    window.say("[2]")
    window.press(*["up"] * 9, *["ctrl-k"] * 20)
    assert numbers_in(window.lines()) == [1, 2]
    assert window.terminal.lines()[-1:] == [""]


def test_pinned_paragraphs_stand_above_the_prompt_and_go() -> None:
    window = Window(40, 6)
    window.pinned = tuple(Paragraph((Span(text, client.DIM),)) for text in ("15:04 you  hello", "15:05 you  again"))
    window.say("[1]")
    assert window.lines() == ["15:04 alice  [1]", "15:04 you  hello", "15:05 you  again", "bob (3) >"]
    window.pinned = window.pinned[1:]
    window.say("15:04 you  hello")
    assert window.lines()[-2:] == ["15:05 you  again", "bob (3) >"]
    window.pinned = window.pinned * 20
    window.draw()
    assert window.terminal.lines()[1:] == ["15:05 you  again"] * 4 + ["bob (3) >"]
    window.pinned = ()
    window.draw()
    assert window.lines() == ["15:04 alice  [1]", "15:04 alice  15:04 you  hello", "bob (3) >"]


def test_hide_leaves_nothing_behind_and_draw_brings_it_back() -> None:
    window = Window(20, 8)
    window.type("x" * 30)
    window.say("hi")
    window.terminal.feed(window.screen.hide())
    assert window.lines() == ["15:04 alice  hi"]
    assert window.cursor() == (1, 0)
    window.terminal.feed("$ fg\r\n")
    window.draw()
    assert window.lines()[1:] == ["$ fg", "bob (3) > xxxxxxxxxx", "x" * 20]


def test_clear_pushes_the_screen_into_the_scrollback() -> None:
    window = Window(20, 5)
    window.type("abc")
    window.say("[1]")
    window.terminal.feed(window.screen.clear())
    window.draw()
    assert window.terminal.lines() == ["bob (3) > abc", "", "", "", ""]
    assert numbers_in(window.lines()) == [1]


@pytest.mark.parametrize("keys", [["home"], ["left"] * 12, ["left"] * 15, ["left"] * 16, []])
def test_a_narrower_window_with_the_cursor_in_the_middle(keys: list[str]) -> None:
    window = Window(60, 10)
    window.say("[1]")
    window.type("x" * 45)
    window.press(*keys)
    window.resize(20, 10)
    check_bottom(window)
    assert numbers_in(window.lines()) == [1]


def test_a_terminal_that_lost_a_part_gets_it_again() -> None:
    """The window is as wide as before, and so the block is the same; but it was narrow in between."""
    window = Window(40, 10, reflow=False)
    window.type("x" * 20)
    window.terminal.resize(16, 10)
    window.screen.resize(16, 10)
    window.resize(40, 10)
    assert window.lines() == ["bob (3) > " + "x" * 20]


def test_styles_are_used_only_if_wanted() -> None:
    window = Window()
    window.say("hi")
    assert [style for char, style in window.terminal.styles if char in "l"] == ["0;" + client.name_style("alice")]
    plain = Screen(40, 10, colour=False).draw(Block(PROMPT, "x", 1), [Paragraph((Span("hi", client.RED),))])
    assert not re.search(r"\x1b\[[0-9;]*m", plain)


@pytest.mark.parametrize(
    ("environ", "dumb", "colour", "reflows"),
    [
        ({"TERM": "xterm-256color"}, False, True, True),
        ({"TERM": "xterm-256color", "NO_COLOR": ""}, False, True, True),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, False, False, True),
        ({"TERM": "xterm", "XTERM_VERSION": "XTerm(390)"}, False, True, False),
        ({"TERM": "linux"}, False, True, False),
        ({"TERM": "xterm"}, False, True, False),
        ({"TERM": "st-256color"}, False, True, False),
        ({"TERM": "rxvt-unicode-256color"}, False, True, False),
        ({"TERM": "screen.xterm-256color"}, False, True, False),
        ({"TERM": "screen", "TMUX": "/tmp/tmux-0/default,1,0", "XTERM_VERSION": "XTerm(390)"}, False, True, True),
        ({"TERM": "tmux-256color"}, False, True, True),
        ({"TERM": "alacritty"}, False, True, True),
        ({"TERM": "dumb"}, True, True, True),
        ({}, True, True, True),
    ],
)
def test_what_the_environment_says(environ: dict[str, str], dumb: bool, colour: bool, reflows: bool) -> None:
    assert client.is_dumb(environ, windows=False) is dumb
    assert client.wants_colour(environ) is colour
    assert client.terminal_reflows(environ) is reflows


@pytest.mark.parametrize(
    ("arguments", "terminals", "draws", "plain"),
    [
        ([], [0, 1], True, False),
        ([], [0, 1], False, True),  # a console of Windows that is as it was long ago
        ([], [1], True, True),
        ([], [0], True, True),
        (["--plain"], [0, 1], True, True),
        (["--json"], [0, 1], True, True),
    ],
)
def test_a_screen_is_drawn_only_where_that_can_be(
    arguments: list[str], terminals: list[int], draws: bool, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(client, "is_terminal", lambda descriptor: descriptor in terminals)
    monkeypatch.setattr(client, "understands_sequences", lambda: draws)
    assert client.wants_plain(client.arguments_of(["lab", "5000", *arguments])) is plain


@pytest.mark.skipif(sys.platform != "win32", reason="elsewhere `os.isatty` knows")
def test_the_null_device_is_no_console() -> None:
    with open(os.devnull) as null:  # noqa: PTH123
        assert os.isatty(null.fileno()) and not client.is_terminal(null.fileno())


def test_windows_has_no_term() -> None:
    assert not client.is_dumb({}, windows=True)
    assert client.is_dumb({"TERM": "dumb"}, windows=True)


def test_the_colour_of_a_name_is_stable() -> None:
    assert client.name_style("alice") == client.name_style("ALICE")
    assert len({client.name_style(f"name{number}") for number in range(50)}) == len(client._NAME_STYLES)
    assert client.RED not in {client.name_style(f"name{number}") for number in range(50)}


# What 35, 94 and 95 are in xterm, VGA, GNOME, macOS and Windows.
PALETTES = {
    "35": ["cd00cd", "aa00aa", "a347ba", "d338d3", "881798"],
    "94": ["5c5cff", "5555ff", "2a7bde", "5833ff", "3b78ff"],
    "95": ["ff00ff", "ff55ff", "c061cb", "f935f8", "b4009e"],
}


def luminance(colour: str) -> float:
    """As WCAG 2 defines it."""
    values = [int(colour[index : index + 2], 16) / 255 for index in (0, 2, 4)]
    red, green, blue = (v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_names_can_be_read_on_black_and_on_white() -> None:
    for style in client._NAME_STYLES:
        for colour in PALETTES.get(style.removeprefix("1;"), []):
            lightness = luminance(colour) + 0.05
            assert min(lightness / 0.05, 1.05 / lightness) > 2.5, (style, colour)
        assert style == "1" or style.removeprefix("1;") in PALETTES


# -- properties ------------------------------------------------------------------------------------------------------

FLAG = "\U0001f1fb\U0001f1f3"
TYPED = st.sampled_from(["a", "b", " ", "é", "中", "👍", FAMILY, FLAG, "e\u0302\u0301", "\x1b", "\t", "\u200b"])
KEYS = st.sampled_from(
    ["left", "right", "home", "end", "up", "down", "backspace", "ctrl-w", "ctrl-k", "ctrl-y", "alt-enter", "ctrl-u"]
)
STEP = st.one_of(
    st.tuples(st.just("type"), st.builds(str.__mul__, TYPED, st.integers(1, 12))),
    st.tuples(st.just("press"), KEYS),
    st.tuples(st.just("say"), st.sampled_from(["", "hi there", "one\ntwo", "中文" * 30, HOSTILE, "word " * 30])),
    st.tuples(st.just("pin"), st.integers(0, 3)),
    st.tuples(st.sampled_from(["resize", "resize twice"]), st.tuples(st.integers(16, 60), st.integers(50, 60))),
)


# Lists of hypothesis are short as a rule; these are of any length up to 30.
SCRIPT = st.integers(0, 30).flatmap(lambda count: st.lists(STEP, min_size=count, max_size=count))


def play(window: Window, script: list[tuple[str, object]], check: bool) -> list[int]:
    """Play a script; returns the numbers of the messages that were shown."""
    told: list[int] = []
    for kind, value in script:
        if check and len(expected_block(window.editor.text, 0, 16)[0]) > 20:
            while window.editor.text:  # so that the window is high enough
                window.editor.feed(Key("ctrl-c"))
        if kind == "type":
            window.type(str(value))
        elif kind == "press":
            window.press(str(value))
        elif kind == "say":
            told.append(len(told))
            window.say(f"[{told[-1]}] {value}")
        elif kind == "pin" and isinstance(value, int):
            window.pinned = tuple(Paragraph((Span(f"15:04 you  wait{number}", client.DIM),)) for number in range(value))
            window.draw()
        elif isinstance(value, tuple):
            if kind == "resize twice":  # and nothing is drawn in between
                window.terminal.resize(20, 50)
                window.screen.resize(20, 50)
            window.resize(*value)
        if check:
            check_bottom(window)
        assert numbers_in(window.lines()) == told
    return told


def check_bottom(window: Window) -> None:
    """Below the messages stand what is pinned, prompt and line; nothing else, and the cursor is in its cell."""
    terminal = window.terminal
    rows, (row, column) = expected_block(window.editor.text, window.editor.cursor, terminal.width)
    pinned = ["".join(span.text for span in paragraph.spans) for paragraph in window.pinned]
    top = terminal.row - row - len(pinned)
    assert terminal.lines()[top : top + len(pinned) + len(rows)] == pinned + [each.rstrip() for each in rows]
    assert not any(terminal.lines()[top + len(pinned) + len(rows) :])
    assert (terminal.column, terminal.pending) == (column, False)
    above = "".join(terminal.history()[: len(terminal.scrollback) + top])
    assert "wait" not in above
    assert "(3) >" not in above


@examples(30)
@given(SCRIPT, st.booleans())
def test_any_interleaving_of_keys_messages_and_resizes(script: list[tuple[str, object]], reflow: bool) -> None:
    """The window is high enough for everything that is typed here, so every row is checked."""
    window = Window(40, 50, reflow=reflow)
    if not reflow:  # such a terminal throws away what is right of its edge: only the line is drawn again
        script = [step for step in script if "resize" not in step[0]]
    play(window, script, check=True)


@examples(30)
@given(SCRIPT, st.integers(2, 6))
def test_no_message_is_lost_in_a_small_window(script: list[tuple[str, object]], height: int) -> None:
    """The block may be higher than the window here: the cursor stays in sight and every message is kept once."""
    window = Window(20, height)
    play(window, [step for step in script if "resize" not in step[0]], check=False)
    rows, (row, column) = expected_block(window.editor.text, window.editor.cursor, 20)
    assert window.terminal.column == column
    assert window.terminal.lines()[window.terminal.row] == rows[row].rstrip()


@examples(30)
@given(SCRIPT, st.integers(16, 60), st.integers(16, 60))
def test_a_terminal_that_does_not_reflow(script: list[tuple[str, object]], before: int, after: int) -> None:
    window = Window(before, 50, reflow=False)
    play(window, [step for step in script if step[0] not in ("resize", "resize twice", "say")], check=True)
    window.resize(after, 50)
    check_bottom(window)


# --- Terminals that lack signs ---

ENCODINGS = st.sampled_from(["ascii", "iso8859-1", "koi8-r", "euc_jp", "cp437"])


def test_signs_that_a_terminal_lacks_are_spelled() -> None:
    assert client.spelled("→ bob  café… “x” — 中 e\u0301", "iso8859-1") == '-> bob  café... "x" -- <U+4E2D> é'
    assert client.spelled("→ Привет", "koi8-r") == "-> Привет"
    assert client.spelled("→ 中", "gb18030") == "→ 中"


@examples(50)
@given(ENCODINGS, st.text(), st.text())
def test_what_is_spelled_can_be_written_and_is_as_wide_as_it_is_counted(encoding: str, before: str, after: str) -> None:
    shown = client.spelled(before, encoding)
    assert client.safe_text(shown) == shown
    screen, window = Screen(40, 500, encoding=encoding), Terminal(40, 500)
    block = Block(PROMPT, before + after, len(before), (Paragraph((Span(after),)),))
    drawn = screen.draw(block, [Paragraph((Span(before, client.RED), Span(after)))])
    assert drawn.encode(encoding).decode(encoding) == drawn
    window.feed(drawn + screen.hide())
    assert not any(window.lines()[window.row :])  # so no width was counted wrong


# -- the front end ---------------------------------------------------------------------------------------------------


@pytest.fixture
def quiet_terminal(monkeypatch: pytest.MonkeyPatch) -> client.Terminal:
    """A front end without a terminal behind it, at 100 s by a clock that stands still."""
    console = SimpleNamespace(deadline=None, keys=list, begin=lambda: None, end=lambda: None, has_focus=False)
    monkeypatch.setattr(client, "Console", lambda *_: console)
    terminal = client.Terminal(io.StringIO())
    session = SimpleNamespace(online=0, logged_in=False, name=None, is_stranded=False, undelivered=[], roster={})
    link = SimpleNamespace(now=lambda: 100.0, redial_in=None, is_up=True, session=session, wake=lambda: None)
    terminal._link = link  # type: ignore[assignment]
    helper = SimpleNamespace(expand=lambda word: None, complete=lambda before, person: (0, []))
    terminal._helper = helper  # type: ignore[assignment]
    terminal._transcript.met = True
    return terminal


def told(terminal: client.Terminal) -> list[str]:
    """What it has printed since the last time; the prompt is redrawn behind it."""
    terminal.flush(None)
    assert isinstance(terminal._out, io.StringIO)
    rows = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", terminal._out.getvalue()).replace("\r", "").split("\n")
    terminal._out.truncate(0)
    terminal._out.seek(0)
    return [re.sub(r"^\d\d:\d\d ", "", row) for row in rows if not row.startswith(">") and row]


@pytest.mark.parametrize(("environ", "kept"), [({"TMUX": "/tmp/tmux,1,0"}, True), ({}, False)])
def test_while_tmux_changes_the_size_of_a_window_nothing_is_drawn(
    quiet_terminal: client.Terminal, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], kept: bool
) -> None:
    """It tells only some of the steps, so the prompt may be anywhere, and a message below it would be erased."""
    terminal, out = quiet_terminal, quiet_terminal._out
    assert isinstance(out, io.StringIO)
    told(terminal)
    monkeypatch.setattr("os.environ", environ)
    terminal._mark_moved()
    terminal.show(protocol.Message("bob", 1, 0.0, "hi"))
    terminal.flush(None)
    assert terminal.settles() == kept
    assert (out.getvalue() == "") == kept
    later = terminal.deadline()
    if later is not None:
        monkeypatch.setattr(terminal._link, "now", lambda: later)
        assert not terminal.settles() and told(terminal) == ["bob  hi"]
        assert terminal.deadline() is None


@pytest.mark.parametrize("broken", [("_screen", "draw"), ("_transcript", "take")])
def test_a_crash_leaves_a_terminal_that_is_asked_for_nothing(
    quiet_terminal: client.Terminal, monkeypatch: pytest.MonkeyPatch, broken: tuple[str, str]
) -> None:
    ended: list[bool] = []
    monkeypatch.setattr(quiet_terminal._console, "end", lambda: ended.append(True))

    def fail(*_: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(getattr(quiet_terminal, broken[0]), broken[1], fail)
    with pytest.raises(ZeroDivisionError):
        quiet_terminal.close()
    assert isinstance(quiet_terminal._out, io.StringIO)
    assert quiet_terminal._out.getvalue().endswith(client.TERMINAL_END) and ended == [True]


def test_nothing_calls_while_the_window_has_the_focus(quiet_terminal: client.Terminal) -> None:
    out, message = quiet_terminal._out, protocol.Message("bob", 1, 0.0, "hi")
    assert isinstance(out, io.StringIO)
    for has_focus, bells, title in ((False, 1, "(1) bob - Vessages"), (True, 0, "Vessages"), (False, 1, "(1) bob - ")):
        out.truncate(0)
        quiet_terminal._console.has_focus = has_focus
        quiet_terminal.lines()
        quiet_terminal.call(client.Bell(), message)
        quiet_terminal.flush(None)
        assert out.getvalue().count(client.BELL) == bells and f"\x1b]0;{title}" in out.getvalue()


# -- bursts of text --------------------------------------------------------------------------------------------------


def burst(text: str) -> list[Key]:
    names = {"\r": Key("enter"), "\t": Key("tab")}
    return client.as_one_burst([names.get(char, Key("char", char)) for char in text])


@pytest.mark.parametrize(
    "bursts",
    [["y" * 14_000 + "\r"], ["y" * 6_500, "z" * 3_000 + "\r"], ["y" * 6_500, "z" * 3_000, "\r"]]
    + [["/msg bob " + "y" * 7_000 + "\r"], ["y\t\r" * 4_000], ["/me\t" * 3_000, "\r"]],
    ids=lambda bursts: repr(bursts)[:12],
)
def test_a_text_without_marks_that_is_too_long_is_refused_once_and_nothing_of_it_is_sent(
    quiet_terminal: client.Terminal, monkeypatch: pytest.MonkeyPatch, bursts: list[str]
) -> None:
    monkeypatch.setattr(client, "TYPED_MAX", 6_000)
    terminal = quiet_terminal
    lines: list[client.Line | None] = []
    for text in ["to be ", *bursts]:
        terminal._keys += burst(text)
        lines += terminal.lines()
    assert told(terminal) == ["!! that is too long for one message, which holds 6,000 bytes: send it in parts"]
    assert (lines, terminal._editor.text) == ([], "to be ")
    terminal._link.now = lambda: 100.0 + client.PASTE_PAUSE  # type: ignore[method-assign]
    terminal._keys += burst("or not\r")
    assert terminal.lines() == [client.Line("to be or not")]
