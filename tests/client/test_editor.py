"""The line editor: a table of keys, and the same keys played on an obvious model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vocabulary import examples

import client
from client import EditorEvent, Key, Line, LineEditor

NAMES = ["Bob", "bea", "Tuấn"]
COMMANDS = ["/me", "/msg", "/who"]
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
FLAG = "\U0001f1fb\U0001f1f3"
THUMB = "\U0001f44d\U0001f3fd"


def expand(word: str) -> tuple[str, str] | None:
    """As a chat does it: names before a colon, and /r."""
    if word == "/r":
        return "", "/msg bea "
    return (word[:-1], "") if word[:-1] in NAMES and word[-1:] == ":" else None


def new_editor() -> LineEditor:
    return LineEditor(lambda before: client.complete_word(before, COMMANDS, NAMES), expand)


def press(editor: LineEditor, script: str) -> list[EditorEvent]:
    """Press the keys of a script: words are typed with _ for a space, `<left>` is a key, `<paste:…>` a paste."""
    events = []
    for part in script.replace("<", "\0<").replace(">", ">\0").split("\0"):
        if part.startswith("<paste:"):
            keys = [Key("paste", part[7:-1])]
        elif part.startswith("<"):
            keys = [Key(part[1:-1])]
        else:
            keys = [Key("char", char) for char in part.replace("_", " ")]
        events += [event for key in keys if (event := editor.feed(key)) is not None]
    return events


def shown(editor: LineEditor) -> str:
    text, cursor = editor.view()
    return f"{editor.to}> " * bool(editor.to) + text[:cursor] + "|" + text[cursor:]


# What the two models at the end do not do too: of moves and cuts other names of the keys, rows and marks.
TABLE = {
    # moving
    "ab<ctrl-b><ctrl-b><ctrl-f>c": "ac|b",
    "ab<home>c<end>d": "cabd|",
    "ab<ctrl-a>c<ctrl-e>d": "cabd|",
    "one_two<alt-b>": "one |two",
    "one_two<alt-b><alt-b><alt-f>": "one| two",
    "one,_two<ctrl-left><ctrl-left><alt-right>": "one|, two",
    "one,_two<alt-left><home><ctrl-right>": "one|, two",
    # deleting
    "abc<home><ctrl-d>": "|bc",
    "one_a-b__<alt-backspace>": "one a-|",
    "one_two<left><ctrl-c><ctrl-y>": "one two|",
    "one<enter>two<up>x<ctrl-c><up>": "one|",
    "one_two<home><ctrl-delete>": "| two",
    "one_two<home><alt-delete>": "| two",
    # the last mark of scripts whose marks are typed one by one; others are one with their letter
    "กี่<backspace>": "กี|",
    "กี่<backspace><backspace>": "ก|",
    "xकि<left><backspace>": "|कि",
    "कि<backspace>": "क|",
    "क्\u200d<backspace>": "क|",
    "שָ<backspace>": "ש|",
    "e\u0302\u0301<backspace>": "|",
    "か\u3099<backspace>": "|",
    "a❤\ufe0f1\ufe0f\u20e3<backspace><backspace>": "a|",
    "\u0e35<backspace>": "|",
    # undo: a word is a step, and so is every other change
    "one_two<ctrl-_>": "one |",
    "one_two<ctrl-_><ctrl-_><ctrl-_>": "|",
    "one<left>x<ctrl-_>": "on|e",
    "one_two<ctrl-w><ctrl-_>": "one two|",
    "one_two<ctrl-c><ctrl-_>": "one two|",
    "one<backspace><backspace><ctrl-_>": "on|",
    "one<paste:two\nthree><ctrl-_>": "one|",
    "b<tab><ctrl-_>": "b|",
    "one<ctrl-_>x<ctrl-_>": "|",
    "one<enter><ctrl-_>": "|",
    "one<enter>two<up><ctrl-_>": "one|",
    "one<enter>two<up>x<ctrl-_><ctrl-_>": "one|",
    "one<enter><ctrl-r>o<ctrl-_>": "one|",
    # what a person takes for one character; of an emoji or a flag of several, each picture that is displayed
    f"{FAMILY}b<left><left>": "\U0001f468\u200d\U0001f469\u200d|\U0001f467b",
    f"a{FAMILY}<backspace>": "a\U0001f468\u200d\U0001f469\u200d|",
    f"{FLAG}{FLAG}<left>": f"{FLAG}{FLAG[0]}|{FLAG[1]}",
    "a\u0301<home><delete>": "|",
    f"{THUMB}<home>{THUMB}<backspace>": f"|{THUMB}",
    f"{THUMB}<home>{THUMB}<left><right>": f"{THUMB}|{THUMB}",
    "\u0301<home>e<right>x": "e\u0301x|",
    # rows
    "ab<alt-enter>cd<up>": "ab|\ncd",
    "abc<alt-enter>d<up>": "a|bc\nd",
    "a<alt-enter>bcd<up><end><down>": "a\nb|cd",
    "ab<alt-enter>cd<up><end><ctrl-k>": "ab|cd",
    "ab\\<enter>cd": "ab\ncd|",
    "ab\\\\<enter>": "|",
    "a\\<left><enter>": "a\n|",
    # pasting
    "x<paste:one\r\ntwo\rthree\n>y": "xone\ntwo\nthreey|",
    "<paste:\n\n>": "|",
    "<paste:a \n>": "a |",
    "<paste:\x1b[31m>": "\x1b[31m|",
    # history
    "one<enter>thr<ctrl-p><ctrl-n><ctrl-n>": "thr|",
    "_<enter><up>": "|",
    "one<enter><paste:a\nb><up><up>": "one|",
    # search
    "one<enter>two<enter><ctrl-r>o": "two|",
    "one<enter>two<enter><ctrl-r>o<ctrl-r>": "one|",
    "one<enter>two<enter><ctrl-r>o<ctrl-r><ctrl-r>": "one|",
    "one<enter>two<enter>x<ctrl-r>on<ctrl-g>": "x|",
    "one<enter>two<enter>x<ctrl-r>on<ctrl-c>": "x|",
    "one<enter>two<enter><ctrl-r>on<backspace>": "two|",
    "one<enter>two<enter>x<ctrl-r>on<backspace><backspace>": "x|",
    "ONE<enter>two<enter><ctrl-r>on<left>": "ON|E",
    "one<enter>two<enter><ctrl-r>on<escape>x": "onex|",
    "one<enter>x<ctrl-r>zz": "x|",
    "one<enter><ctrl-r>on<paste:p>": "onep|",
    "one<enter><ctrl-r>on<enter>": "|",
    # completion
    "/m<tab>": "/me |",
    "/m<tab><tab>": "/msg |",
    "/m<tab><tab><tab>": "/m|",
    "/m<shift-tab>": "/msg |",
    "/m<tab><shift-tab>": "/m|",
    "/w<tab>x": "/who x|",
    "/w<tab><tab>": "/who Bob |",
    "/x<tab>": "/x|",
    "b<tab>": "Bob> |",
    "b<tab><tab>hi": "bea> hi|",
    "b<tab><tab><tab>": "b|",
    "b<tab><shift-tab>": "b|",
    "hi_b<tab>": "hi Bob |",
    "hi_@b<tab>": "hi @Bob |",
    "@b<tab>": "/msg Bob |",
    "@b<tab><tab>": "/msg bea |",
    "Bob:_b<tab>": "Bob> Bob |",
    "Bob:_b<tab><tab>": "Bob> bea |",
    "Bob:_hi<ctrl-c><ctrl-y>": "Bob: hi|",
    "Bob:_hi<ctrl-u><ctrl-u><ctrl-y>": "Bob: hi|",
    "hi_(b<tab><tab>": "hi (bea |",
    # the recipient of a line
    "Bob:_hi": "Bob> hi|",
    "Bob:": "Bob:|",
    "zoe:_hi": "zoe: hi|",
    "hi_Bob:_hi": "hi Bob: hi|",
    "Bob:_bea:_hi": "Bob> bea: hi|",
    "hello<home>Bob:_": "Bob> |hello",
    "<paste:Bob: hi>_": "Bob: hi |",
    "Bob:<paste: hi>": "Bob: hi|",
    "Bob:_<paste:bea: hi\nbea: ho>": "Bob> bea: hi\nbea: ho|",
    "Bob:_<backspace>": "Bob:|",
    "Bob:_hi<home><backspace>": "Bob:|hi",
    # a line that is emptied is as new
    "Bob:_hi<ctrl-u>": "|",
    "Bob:_hi<ctrl-u><ctrl-u>": "|",
    "Bob:_hi<ctrl-u>/r_ho": "/msg bea ho|",
    "Bob:_hi<ctrl-u>bea:_ho": "bea> ho|",
    "Bob:_hi<ctrl-u><ctrl-y>": "Bob: hi|",
    "Bob:_hi<ctrl-u><ctrl-_>": "Bob> hi|",
    "Bob:_h<left>o<ctrl-_><ctrl-_>": "|",
    "Bob:_hi<home><ctrl-k><ctrl-y>": "Bob: hi|",
    "Bob:_one_two<ctrl-w><ctrl-w><ctrl-y>": "Bob: one two|",
    "Bob:_<ctrl-w><ctrl-y>": "Bob: |",
    "Bob:_<ctrl-k>": "|",
    "Bob:_hi<backspace><backspace>/w<tab>": "/who |",
    "Bob:_h<home><delete>": "|",
    "Bob:_h<home><ctrl-d>": "|",
    "Bob:_h<alt-backspace>": "|",
    "Bob:_h<home><alt-d>": "|",
    "Bob:_<paste:a\nb><ctrl-u><ctrl-u><ctrl-u>": "|",
    "Bob:_hi<backspace>": "Bob> h|",
    "Bob:_hi<ctrl-c>": "|",
    "Bob:_<ctrl-c>": "|",
    "Bob:_<ctrl-d>": "Bob> |",
    "Bob:_hi<enter>": "|",
    "Bob:_hi<enter><up>": "Bob> hi|",
    "Bob:_hi<enter>ho<up><down>": "ho|",
    "Bob:_hi<enter>x<ctrl-r>h": "Bob> hi|",
    "Bob:_hi<enter>x<ctrl-r>h<ctrl-g>": "x|",
    "/r_hi": "/msg bea hi|",
    "<paste:/r>_hi": "/msg bea hi|",
    "<paste:/r hi>": "/r hi|",
    "x<left>/r_": "/msg bea |x",
    "/msg_TU<tab>hi": "/msg Tuấn hi|",
    "b_x<home><right><tab>": "Bob> | x",
    # keys without a meaning
    "a<page-up><alt-x><escape>": "a|",
}


@pytest.mark.parametrize(("script", "expected"), TABLE.items(), ids=map(repr, TABLE))
def test_keys(script: str, expected: str) -> None:
    editor = new_editor()
    press(editor, script)
    assert shown(editor) == expected


EVENTS = {
    "hi<enter>": [EditorEvent("line", Line("hi"))],
    "<enter>": [EditorEvent("line", Line(""))],
    "a<alt-enter>b<left><enter>": [EditorEvent("line", Line("a\nb"))],
    "<paste:one\ntwo\n>": [],
    "<paste:one\ntwo\n><enter>": [EditorEvent("line", Line("one\ntwo", block=True))],
    "C:\\\\<enter>": [EditorEvent("line", Line("C:\\\\"))],
    "a\\<enter>b<enter>": [EditorEvent("line", Line("a\nb"))],
    "<ctrl-c>": [EditorEvent("interrupt")],
    "a<ctrl-c>": [],
    "a<ctrl-c><ctrl-c>": [EditorEvent("interrupt")],
    "<ctrl-c><ctrl-c>": [EditorEvent("interrupt"), EditorEvent("leave")],
    "<ctrl-c>x<backspace><ctrl-c>": [EditorEvent("interrupt"), EditorEvent("interrupt")],
    "Bob:_hi<enter>": [EditorEvent("line", Line("hi", to="Bob", unseen=True))],
    "Bob:_<enter>": [EditorEvent("line", Line("", to="Bob", unseen=True))],
    "Bob:_<paste:a\nb><enter><up><left><left><left><backspace><enter>": [
        EditorEvent("line", Line("a\nb", to="Bob", block=True, unseen=True)),
        EditorEvent("line", Line("Bob:a\nb")),
    ],
    "<paste:a\nb><enter><up><enter>": [EditorEvent("line", Line("a\nb", block=True))] * 2,
    "x<paste:a\nb><enter>": [EditorEvent("line", Line("xa\nb"))],
    "<paste:a\nb><ctrl-u><ctrl-u><ctrl-u>x<enter>": [EditorEvent("line", Line("x"))],
    # a recipient that was deleted with the text is remembered, for the new text may be meant for that person
    "Bob:_h<backspace>ho<enter><up><enter>": [
        EditorEvent("line", Line("ho", dropped="Bob")),
        EditorEvent("line", Line("ho")),
    ],
    "Bob:_h<backspace><enter>ho<enter>": [
        EditorEvent("line", Line("", dropped="Bob")),
        EditorEvent("line", Line("ho")),
    ],
    "Bob:_h<ctrl-c>ho<enter>": [EditorEvent("line", Line("ho"))],
    "<ctrl-d>": [EditorEvent("end")],
    "a<ctrl-d>": [],
    "a<ctrl-z>": [EditorEvent("suspend")],
    "a<ctrl-l>": [EditorEvent("clear")],
    "one<enter><ctrl-r>on<enter>": [EditorEvent("line", Line("one")), EditorEvent("line", Line("one"))],
}


@pytest.mark.parametrize(("script", "events"), EVENTS.items(), ids=map(repr, EVENTS))
def test_events(script: str, events: list[EditorEvent]) -> None:
    assert press(new_editor(), script) == events


def test_every_key_of_the_table_is_pressed_in_these_tests() -> None:
    scripts = "".join([*TABLE, *EVENTS, *(f"<{key}>" for key in [*MOVES, *CUTS, "ctrl-y"])])
    assert [key for key in client.EDITOR_KEYS if f"<{key}>" not in scripts] == []


def test_search_shows_what_it_looks_for() -> None:
    editor = new_editor()
    press(editor, "one<enter><ctrl-r>")
    assert editor.search_prompt == "search '': "
    press(editor, "on")
    assert editor.search_prompt == "search 'on': "
    press(editor, "z")
    assert editor.search_prompt == "not found 'onz': "
    press(editor, "<escape>")
    assert editor.search_prompt is None


# -- a question ------------------------------------------------------------------------------------------------------


def test_a_password_is_neither_shown_nor_kept() -> None:
    editor = new_editor()
    press(editor, "one<enter>half<left>")
    editor.ask(hidden=True)
    assert press(editor, "sec<up><ctrl-r><tab><left>ret\\") == []
    assert editor.view() == ("", 0)
    (event,) = press(editor, "<enter>")
    assert event == EditorEvent("answer", Line("secret\\"))
    assert "secret" not in repr(event)
    editor.stop_asking()
    assert shown(editor) == "hal|f"
    press(editor, "<ctrl-y><ctrl-u><ctrl-k><up>")
    assert shown(editor) == "one|"


ENDS = ("enter", "ctrl-c", "escape", "ctrl-g")  # of a question


@pytest.mark.parametrize("key", [key for key in client.EDITOR_KEYS if key not in (*ENDS, "ctrl-y")])
def test_no_key_keeps_a_password(key: str) -> None:
    editor = new_editor()
    editor.ask(hidden=True)
    press(editor, f"secret_word<{key}><{key}>x")
    assert editor.view() == ("", 0)
    editor.stop_asking()
    press(editor, "<ctrl-y>")
    assert shown(editor) == "|"
    press(editor, "<up><up><ctrl-r>s")
    assert "s" not in editor.text


@pytest.mark.parametrize(
    ("typed", "answers"),
    [("", ["old"]), ("new", ["old"]), ("new<enter>", ["old", "new"]), ("new<enter>more<enter>x", ["old", "new"])]
    + [("<enter>", ["old"]), ("new<ctrl-u>", ["old"]), ("<paste:new\n><enter>", ["old", "new"])],
)
def test_behind_a_password_all_is_hidden_until_its_consequence_is_known(typed: str, answers: list[str]) -> None:
    """It is the answer if the question comes again, else it is dropped."""
    for again in (True, False):
        editor = new_editor()
        press(editor, "half")
        editor.ask(hidden=True)
        events = press(editor, "old<enter>")
        for key in typed.replace("<", "\0<").replace(">", ">\0").split("\0"):
            events += press(editor, key)
            assert editor.view() == ("", 0) and editor.waits
        if again and editor.ask(hidden=True):
            events += press(editor, "<enter>")
        assert [event.line.text for event in events] == (answers if again else answers[:1])
        editor.stop_asking()
        assert shown(editor) == "half|"
        press(editor, "<ctrl-y><up><up>")
        assert shown(editor) == "half|"


def test_half_a_secret_stays_hidden_when_its_time_is_over() -> None:
    for last in ("<enter>", "<ctrl-c>", "<escape>", "<ctrl-d>"):
        editor = new_editor()
        press(editor, "half")
        editor.ask(hidden=True)
        press(editor, "old<enter>ne")
        editor.release()
        assert editor.drains and press(editor, "w") == [] and editor.view() == ("", 0)
        if last != "<enter>":  # an emptied line is still hidden, for the hand may begin anew
            press(editor, "<ctrl-u>" if last == "<ctrl-d>" else last)
            assert editor.drains and editor.view() == ("", 0)
        assert press(editor, last) == []
        assert shown(editor) == "half|" and not editor.drains


def test_a_recipient_that_was_drawn_was_seen() -> None:
    editor = new_editor()
    press(editor, "Bob:_h")
    editor.mark_seen()
    assert press(editor, "i<enter>") == [EditorEvent("line", Line("hi", to="Bob"))]


def test_half_an_answer_that_came_early_is_finished_when_it_is_asked_for() -> None:
    editor = new_editor()
    editor.ask(hidden=True)
    press(editor, "old<enter>ne")
    assert not editor.ask(hidden=True)
    assert press(editor, "w<enter>") == [EditorEvent("answer", Line("new"))]
    assert not editor.ask(hidden=False)  # a question whose answer is seen takes nothing that was typed hidden
    assert editor.view() == ("", 0)


@pytest.mark.parametrize(
    ("script", "events"),
    [("<ctrl-c>", [EditorEvent("give-up")]), ("x<escape><escape>", [EditorEvent("give-up")])]
    + [("<ctrl-d>", [EditorEvent("end")]), ("x<escape>", []), ("x<ctrl-c>", [])],
)
def test_a_person_need_not_wait_for_the_consequence_of_a_password(script: str, events: list[EditorEvent]) -> None:
    editor = new_editor()
    editor.ask(hidden=True)
    press(editor, "old<enter>")
    assert press(editor, script) == events


def test_keys_of_a_password() -> None:
    editor = new_editor()
    editor.ask(hidden=True)
    assert press(editor, "old<ctrl-u>secreT<backspace>t<enter>") == [EditorEvent("answer", Line("secret"))]
    editor.ask(hidden=True)
    assert press(editor, "<paste:secret\n><ctrl-z><ctrl-d><enter>") == [
        EditorEvent("suspend"), EditorEvent("answer", Line("secret")),
    ]  # fmt: skip


@pytest.mark.parametrize("script", ["x<ctrl-c><ctrl-c>", "<ctrl-c>", "<ctrl-d>", "x<escape><escape>", "<ctrl-g>"])
def test_a_question_is_given_up_and_the_line_comes_back(script: str) -> None:
    editor = new_editor()
    press(editor, "half")
    editor.ask(hidden=True)
    assert press(editor, script) == [EditorEvent("give-up")]
    assert shown(editor) == "half|"
    press(editor, "<ctrl-y>")
    assert shown(editor) == "half|"  # nothing of the password was kept


def test_an_answer_that_is_shown_is_edited_as_usual_but_not_kept() -> None:
    editor = new_editor()
    press(editor, "one<enter>half")
    editor.ask(hidden=False)
    press(editor, "bo<up><ctrl-r><left>x")
    assert shown(editor) == "bx|o"
    assert press(editor, "<enter>") == [EditorEvent("answer", Line("bxo"))]
    assert shown(editor) == "half|"
    press(editor, "<up>")
    assert shown(editor) == "one|"


def test_a_second_question_leaves_the_line_aside() -> None:
    editor = new_editor()
    press(editor, "half")
    editor.ask(hidden=False)
    press(editor, "bob")
    editor.ask(hidden=True)
    press(editor, "secret")
    editor.stop_asking()
    assert shown(editor) == "half|"
    editor.stop_asking()
    assert shown(editor) == "half|"


def test_a_line_is_forgotten() -> None:
    editor = new_editor()
    press(editor, "/login bob secret<enter>")
    editor.forget_last()
    press(editor, "<up>")
    assert shown(editor) == "|"
    LineEditor().forget_last()


# -- limits ----------------------------------------------------------------------------------------------------------


def test_a_line_is_bounded_and_nothing_is_cut() -> None:
    editor = new_editor()
    assert press(editor, "hi_<paste:" + "x" * client.TYPED_MAX + ">") == [EditorEvent("full")]
    assert shown(editor) == "hi |"
    assert press(editor, "<paste:" + "é" * (client.TYPED_MAX // 2 - 2) + "z>") == []
    assert press(editor, "y") == [EditorEvent("full")]
    assert press(editor, "<alt-enter>") == [EditorEvent("full")]
    assert press(editor, "<home><right><right><right><tab>") == [EditorEvent("full")]
    assert len(editor.text.encode()) == client.TYPED_MAX


def test_history_is_bounded() -> None:
    editor = LineEditor()
    for number in range(client.HISTORY_MAX + 5):
        press(editor, f"{number}<enter>")
    press(editor, "<up>" * (client.HISTORY_MAX + 5))
    assert shown(editor) == "5|"


def test_without_candidates_tab_does_nothing() -> None:
    editor = LineEditor()
    press(editor, "a<tab><shift-tab>")
    assert shown(editor) == "a|"


@pytest.mark.parametrize(
    ("before", "offered"),
    [
        ("", ["ann", "bob"]),
        ("hi b", ["ann", "bob"]),
        ("/msg ", ["ann", "bob"]),
        ("/msg bob ask a", ["ann", "bob"]),
        ("/to ann ", []),
        ("/who ", []),
        ("/passwd ", []),
        ("/bell ", ["off", "title", "msg", "all"]),
        ("/bell off ", ["desktop"]),
        ("/bell off desktop ", ["text"]),
        ("/history ", ["ann", "bob"]),
        ("/history bob ", []),
        ("/help ", list(client.TYPED)),
        ("/nonsense ", ["ann", "bob"]),
        ("/ping are you there, ", ["ann", "bob"]),
    ],
)
def test_tab_offers_what_the_command_expects(before: str, offered: list[str]) -> None:
    assert client.expected_words(before, ["ann", "bob"]) == offered


# -- properties ------------------------------------------------------------------------------------------------------

# None of these joins with another, so that a list of them is an obvious model of a line.
PIECES = ["a", "b", " ", ",", "é", "e\u0302\u0301", "中", THUMB, "❤\ufe0f", "\u1112\u1161\u11ab", "\n"]
MOVES = ["left", "right", "home", "end", "alt-b", "alt-f"]
CUTS = ["backspace", "delete", "ctrl-k", "ctrl-u", "ctrl-w", "alt-d", "alt-backspace"]


class Model:
    """A line as a list of what people take for characters."""

    def __init__(self) -> None:
        self.line: list[str] = []
        self.at = 0
        self.killed: list[str] = []
        self.last_killed = False

    def row(self) -> tuple[int, int]:
        start = max((index + 1 for index, piece in enumerate(self.line[: self.at]) if piece == "\n"), default=0)
        ends = (index for index, piece in enumerate(self.line) if piece == "\n" and index >= self.at)
        return start, next(ends, len(self.line))

    def back(self, inside: str) -> int:
        at = self.at
        while at and not self.is_in(inside, at - 1):
            at -= 1
        while at and self.is_in(inside, at - 1):
            at -= 1
        return at

    def ahead(self) -> int:
        at = self.at
        while at < len(self.line) and not self.is_in("word", at):
            at += 1
        while at < len(self.line) and self.is_in("word", at):
            at += 1
        return at

    def is_in(self, inside: str, index: int) -> bool:
        piece = self.line[index]
        return (
            piece not in (" ", "\n")
            if inside == "ink"
            else piece in ("a", "b", "é", "e\u0302\u0301", "中", "\u1112\u1161\u11ab")
        )

    def press(self, key: str) -> None:
        start, end = self.row()
        moves = {
            "left": max(0, self.at - 1), "right": min(len(self.line), self.at + 1), "home": start, "end": end,
            "alt-b": self.back("word"), "alt-f": self.ahead(),
        }  # fmt: skip
        cuts = {
            "backspace": (max(0, self.at - 1), self.at),
            "delete": (self.at, min(len(self.line), self.at + 1)),
            "ctrl-k": (self.at, end if end > self.at else min(len(self.line), self.at + 1)),
            "ctrl-u": (start if start < self.at else max(0, self.at - 1), self.at),
            "ctrl-w": (self.back("ink"), self.at),
            "alt-backspace": (self.back("word"), self.at),
            "alt-d": (self.at, self.ahead()),
        }
        if key in moves:
            self.at = moves[key]
        elif key in cuts:
            first, last = cuts[key]
            cut = self.line[first:last]
            if key not in ("backspace", "delete"):
                kept = self.killed if self.last_killed else []
                self.killed = kept + cut if last > self.at else cut + kept
            self.line[first:last] = []
            self.at = first
        elif key == "ctrl-y":
            self.insert(self.killed)
        else:
            self.insert([key])
        self.last_killed = key in cuts and key not in ("backspace", "delete")

    def insert(self, pieces: list[str]) -> None:
        self.line[self.at : self.at] = pieces
        self.at += len(pieces)


STEPS = st.sampled_from(PIECES + MOVES + CUTS * 2 + ["ctrl-y"] * 3)


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.lists(STEPS, min_size=10, max_size=40))
def test_the_editor_does_what_the_model_does(typed: list[str], script: list[str]) -> None:
    editor, model = LineEditor(), Model()
    for step in typed + script:
        if step in PIECES:
            for char in step:
                editor.feed(Key("alt-enter") if char == "\n" else Key("char", char))
        else:
            editor.feed(Key(step))
        model.press(step)
        assert editor.text == "".join(model.line)
        assert editor.cursor == len("".join(model.line[: model.at]))


KEY = st.one_of(
    st.sampled_from(sorted(client.EDITOR_KEYS)).map(Key),
    st.sampled_from("ab/ \\\u0301\u200d\u3042\U0001f3fd\U0001f1fb\U0001f468").map(lambda char: Key("char", char)),
    st.text("ab\r\n\u0301", max_size=6).map(lambda text: Key("paste", text)),
)


@examples(50)
@given(st.lists(KEY, min_size=10, max_size=50))
def test_whatever_is_pressed_the_cursor_is_in_the_line(keys: list[Key]) -> None:
    editor = new_editor()
    for key in keys:
        editor.feed(key)
        assert 0 <= editor.cursor <= len(editor.text)
        assert "\r" not in editor.text
    editor.feed(Key("left"))
    places = [0]
    for cluster in client.clusters(editor.text):
        places.append(places[-1] + len(cluster))
    assert editor.cursor in places


@examples(50)
@given(st.lists(KEY, max_size=20), st.sampled_from(["Bob: ", "Bob: hi", "/r hi", "bea: x\nBob: y", "Bob:", " "]))
def test_a_paste_never_chooses_or_changes_a_recipient(keys: list[Key], text: str) -> None:
    editor = new_editor()
    for key in keys:
        editor.feed(key)
    to = editor.to
    editor.feed(Key("paste", text))
    assert editor.to == to
    event = editor.feed(Key("enter"))
    assert event is None or event.line.to == to


@examples(50)
@given(st.lists(KEY, max_size=20), st.sampled_from([*CUTS, "ctrl-d", "alt-backspace", "ctrl-c", "ctrl-_"]))
def test_no_key_that_empties_a_line_leaves_it_a_recipient(keys: list[Key], last: str) -> None:
    editor = new_editor()
    press(editor, "Bob:_h")
    for key in [*keys, Key(last)]:
        before = editor.line
        editor.feed(key)
        empties = key.name in (*CUTS, "ctrl-d", "alt-backspace", "ctrl-c", "ctrl-_") and editor.search_prompt is None
        assert not (empties and before.to and before.text and not editor.text and editor.to)


@given(st.lists(st.sampled_from(["x", "y", "enter", "up", "down"]), min_size=8, max_size=40))
def test_history_against_a_model(script: list[str]) -> None:
    """Every line of the history, and the new one, is a slot; moving changes the slot and finishing clears them."""
    editor = LineEditor()
    history: list[str] = []
    slots, at = [""], 0
    for step in script:
        editor.feed(Key(step) if len(step) > 1 else Key("char", step))
        if step == "enter":
            if slots[at] and history[-1:] != [slots[at]]:
                history.append(slots[at])
            slots, at = [*history, ""], len(history)
        elif step in ("up", "down"):
            at = min(max(at + (1 if step == "down" else -1), 0), len(slots) - 1)
        else:
            slots[at] += step
        assert editor.text == slots[at]


def test_escape_means_something_in_a_search_and_in_a_question() -> None:
    editor = new_editor()
    assert not editor.hears_escape
    press(editor, "<ctrl-r>")
    assert editor.hears_escape
    press(editor, "<escape>")
    assert not editor.hears_escape
    editor.ask(hidden=False)
    assert editor.hears_escape
    editor.ask(hidden=True)
    assert not editor.hears_escape  # a key that comes in two pieces must not end a password


def test_undo_is_bounded_and_brings_back_no_answer() -> None:
    editor = new_editor()
    press(editor, "x<left>" * (2 * client.UNDO_MAX) + "<ctrl-_>" * (3 * client.UNDO_MAX))
    assert len(editor.text) == client.UNDO_MAX
    editor.ask(hidden=True)
    press(editor, "secret<ctrl-_><backspace><enter>")
    editor.stop_asking()
    text = editor.text
    press(editor, "<ctrl-_>")
    assert editor.text == text
    editor.ask(hidden=False)
    press(editor, "yes<ctrl-_><enter><ctrl-_>")
    assert editor.text == text


@pytest.mark.parametrize("keys", ["<up>", "<ctrl-p>", "<ctrl-r>secret", "<ctrl-y>", "<ctrl-_>", "<ctrl-_><ctrl-_>"])
def test_nothing_that_was_typed_before_forget_comes_back(keys: str) -> None:
    editor = new_editor()
    press(editor, "a_secret<enter>one_secret<ctrl-w>Bob:_draft_secret<up>secret<ctrl-k><down><ctrl-u>ab<backspace>")
    before = shown(editor)
    editor.forget()
    assert shown(editor) == before  # it is being typed now
    press(editor, keys)
    assert "secret" not in shown(editor)
