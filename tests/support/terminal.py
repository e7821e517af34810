"""A small terminal in memory, to look at what a person would see.

It knows the controls that the client writes and refuses every other one with an AssertionError, so a control from the
network that slips through fails the test at once. Wrapping is as in a real terminal: a character in the last column
leaves the cursor on that column, and only the next character wraps. Its widths are its own, not the client's.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import TypeVar


class Cell(str):
    """A character with its marks, and the style that it was written in; "" is the right half of a wide one."""

    style: str

    def __new__(cls, text: str, style: str = "") -> Cell:
        cell = super().__new__(cls, text)
        cell.style = style
        return cell


EMPTY = Cell(" ")


class Row(list[Cell]):
    """The cells of a row as far as it was written; `goes_on` if the terminal, not the program, broke it there."""

    goes_on = False


_TEXT = r"([^\x00-\x1f\x7f-\x9f]*)"
_SEQUENCE = re.compile(
    rf"\x1b\[(\??)([0-9;]*)([A-Za-z])|\x1b\](?:0|2);{_TEXT}(?:\x1b\\|\a)"
    rf"|(?:\x1bPtmux;\x1b)?\x1b\](?:9;Vessages: |777;notify;Vessages;(?![^\a]*;)){_TEXT}\a(?:(?<=\a)\x1b\\)?"
)


def width_of(char: str) -> int:
    """Cells of one character, as wcwidth() of the C library has it."""
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


class Terminal:
    """A window of `width` x `height` cells with its scrollback. `reflow`: narrower windows wrap old rows anew."""

    def __init__(self, width: int, height: int, *, reflow: bool = True) -> None:
        """The window is empty and the cursor in its upper left corner."""
        self.width = width
        self.height = height
        self.reflow = reflow
        self.rows = [Row() for _ in range(height)]
        self.scrollback: list[Row] = []
        self.row = 0
        self.column = 0
        self.pending = False
        self.title = ""
        self.bells = 0
        self.notices: list[str] = []  # of the desktop
        self.modes: set[str] = set()
        self.style = ""
        self.styles: list[tuple[str, str]] = []  # every visible character with its style

    # -- input ---------------------------------------------------------------------------------------------------------

    def feed(self, text: str) -> None:
        """Take in what the program writes."""
        index = 0
        while index < len(text):
            if text[index] == "\x1b":
                match = _SEQUENCE.match(text, index)
                assert match, f"unknown sequence {text[index : index + 20]!r}"
                self._sequence(match)
                index = match.end()
            else:
                self._character(text[index])
                index += 1

    def _character(self, char: str) -> None:
        if char == "\r":
            self.column, self.pending = 0, False
        elif char == "\n":
            self._line_feed()
        elif char == "\a":
            self.bells += 1
        else:
            category = unicodedata.category(char)
            harmless = category[0] != "C" and category not in ("Zl", "Zp")
            assert harmless or char == "\u200c", f"control {char!r} reached the terminal"
            self._put(char)

    def _line_feed(self) -> None:
        self.pending = False
        if self.row == self.height - 1:
            self.scrollback.append(self.rows.pop(0))
            self.rows.append(Row())
        else:
            self.row += 1

    def _put(self, char: str) -> None:
        width = width_of(char)
        line = self.rows[self.row]
        if width == 0:
            at = self.column if self.pending else self.column - 1
            at -= at > 0 and at < len(line) and line[at] == ""
            assert 0 <= at < len(line), "a mark without a letter"
            line[at] = Cell(line[at] + char, line[at].style)
            return
        if self.pending or self.column + width > self.width:
            line.goes_on = True
            self.column = 0
            self._line_feed()
            line = self.rows[self.row]
        for offset in range(width):
            self._blank(self.column + offset)
        line[self.column] = Cell(char, self.style)
        if width == 2:
            line[self.column + 1] = Cell("", self.style)
        self.styles.append((char, self.style))
        self.column += width
        if self.column == self.width:
            self.column, self.pending = self.width - 1, True

    def _blank(self, column: int) -> None:
        """Empty one cell; the other half of a wide character goes with it."""
        line = self.rows[self.row]
        line.extend([EMPTY] * (column + 1 - len(line)))
        if line[column] == "":
            line[column - 1] = EMPTY
        if column + 1 < len(line) and line[column + 1] == "":
            line[column + 1] = EMPTY
        line[column] = EMPTY

    def _sequence(self, match: re.Match[str]) -> None:
        private, arguments, final, title, notice = match.groups()
        if notice is not None:
            self.notices.append(notice)
        elif final is None:
            self.title = title
        elif private:
            assert (arguments in ("1004", "2004") and final in "hl") or arguments + final == "7h"
            (self.modes.add if final == "h" else self.modes.discard)(arguments)
        elif final == "m":
            self.style = "" if arguments == "0" else arguments
        elif final == "t":
            assert arguments in ("22;0", "23;0")
        else:
            self._move_or_erase(final, [int(argument) for argument in arguments.split(";") if argument])

    def _move_or_erase(self, final: str, numbers: list[int]) -> None:
        count = numbers[0] if numbers else 1
        self.pending = False
        if final == "A":
            self.row = max(0, self.row - count)
        elif final == "C":
            self.column = min(self.width - 1, self.column + count)
        elif final == "H":
            row, column = numbers or (1, 1)
            self.row, self.column = min(row, self.height) - 1, min(column, self.width) - 1
        else:
            assert final in "JK" and not numbers, f"unknown sequence {numbers} {final}"
            self._erase(below=final == "J")

    def _erase(self, *, below: bool) -> None:
        if below and (self.row, self.column) == (0, 0):  # tmux keeps what is erased from here in its scrollback
            self.scrollback += [row for row in self.rows if row]
        if self.column < len(self.rows[self.row]):
            self._blank(self.column)
            del self.rows[self.row][self.column :]
        self.rows[self.row].goes_on = False
        if below:
            self.rows[self.row + 1 :] = [Row() for _ in range(self.row + 1, self.height)]

    # -- the window ----------------------------------------------------------------------------------------------------

    def resize(self, width: int, height: int) -> None:
        """Change the window as terminals do: what does not fit any more goes up to the scrollback."""
        below = len(self.rows) - 1 - self.row
        rows = self.scrollback + self.rows
        cursor = len(self.scrollback) + self.row, self.column
        if self.reflow and width != self.width:
            rows, cursor = reflowed(rows, cursor, width)
        elif width < self.width:
            for row in rows:
                del row[width:]
        self.column = min(cursor[1], width - 1)
        self.width, self.height, self.pending = width, height, False
        while below and len(rows) > height and not rows[-1]:
            rows.pop()
            below -= 1
        top = max(0, min(len(rows) - height, cursor[0]))
        self.scrollback, self.rows = rows[:top], rows[top:]
        self.rows += [Row() for _ in range(height - len(self.rows))]
        self.row = cursor[0] - top

    # -- what a person sees --------------------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        """The rows of the window as text, without the spaces at their ends."""
        return ["".join(line).rstrip() for line in self.rows]

    def history(self) -> list[str]:
        """Scrollback and window as text, without the empty rows at the end."""
        lines = ["".join(line).rstrip() for line in self.scrollback] + self.lines()
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def copied(self) -> list[str]:
        """As `history`, rows that the terminal broke joined again: what a person gets who selects and copies."""
        lines = [""]
        for row in [*self.scrollback, *self.rows]:
            lines[-1] += "".join(row)
            if not row.goes_on:
                lines[-1] = lines[-1].rstrip()
                lines.append("")
        return lines


Looking = TypeVar("Looking", bound="Onlooker")


class Onlooker:
    """Somebody who looks at a terminal."""

    screen: Terminal

    def until(self: Looking, holds: Callable[[], object]) -> Looking:
        """Until this holds."""
        raise NotImplementedError

    def shows(self: Looking, words: str) -> Looking:
        """Until this stands somewhere in the window."""
        return self.until(lambda: any(words in row for row in self.screen.lines()))

    def sees(self: Looking, line: str) -> Looking:
        """Until a row is exactly this, but for a time at its beginning."""
        return self.until(lambda: any(re.sub(r"^\d\d:\d\d ", "", row) == line for row in self.screen.history()))

    def prompts(self: Looking, line: str) -> Looking:
        """Until the last row is this."""
        return self.until(lambda: [row for row in self.screen.lines() if row][-1:] == [line])


def reflowed(rows: list[Row], cursor: tuple[int, int], width: int) -> tuple[list[Row], tuple[int, int]]:
    """Rows wrapped anew, those that the terminal had broken joined first; and the cursor on the same character."""
    result: list[Row] = []
    joined = Row()
    at: int | None = None
    found = (0, 0)
    for number, row in enumerate(rows):
        if number == cursor[0]:
            at = len(joined) + cursor[1]
        joined.extend(row)
        if row.goes_on:
            continue
        pieces, places = broken(joined, width)
        if at is not None:
            inside = at < len(places)
            line, column = places[at] if inside else (len(pieces) - 1, len(pieces[-1]) + at - len(places))
            found = len(result) + line, column
        result += pieces
        joined, at = Row(), None
    return result, found


def broken(row: Row, width: int) -> tuple[list[Row], list[tuple[int, int]]]:
    """A row broken where it must be; and for each of its cells the piece and the column where it is now."""
    pieces = [Row()]
    places: list[tuple[int, int]] = []
    for index, cell in enumerate(row):
        wide = index + 1 < len(row) and row[index + 1] == ""
        if cell != "" and len(pieces[-1]) + 1 + wide > width:
            pieces[-1].goes_on = True
            pieces.append(Row())
        places.append((len(pieces) - 1, len(pieces[-1])))
        pieces[-1].append(cell)
    return pieces, places
