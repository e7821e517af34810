"""The pictures of the README, drawn from what is: a session that is played, and the table of the benchmark.

    python tests/tools/picture.py      draws both into .readme/, each for light and for dark pages

The session is played by the real server and two real clients, at pseudo-terminals of 50 columns; what then stands in
the two windows is drawn, cell by cell. Two things are arranged, so that it is the same every time: there is one clock
on the wall for all three programs, which stands still until it is set, and what is typed next is typed only when the
windows show what came before. The other picture has the numbers of the README's table, and none of its own.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from terminal import Cell, Row, Terminal
from vocabulary import PASSWORD, WALL
from wire import ServerProcess

FOLDER = ROOT / ".readme"
COLUMNS, ROWS = 50, 14  # of a window; two of them stand side by side
NOON = WALL - WALL % 86_400 + 12 * 3600

# A program whose clock on the wall is the time of a file.
CLOCKED = """
import os, runpy, sys, time
time.time = lambda: os.stat({clock!r}).st_mtime
sys.path.insert(0, {root!r})
runpy.run_path({program!r}, run_name="__main__")
"""


# --- What is played ---------------------------------------------------------------------------------------------------


class Clock:
    """The time for programs that were started by `program`; it stands still until it is set."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "clock"
        self._file.touch()
        self.set(0)

    def set(self, minutes: int) -> None:
        """So many minutes past noon."""
        os.utime(self._file, (NOON, NOON + 60 * minutes))

    def program(self, name: str) -> Path:
        """What starts a program of the project under this clock."""
        words = CLOCKED.format(clock=str(self._file), root=str(ROOT), program=str(ROOT / name))
        path = self._folder / name
        path.write_text(words, encoding="utf-8")
        return path


def play(folder: Path) -> list[Terminal]:
    """The windows of alice and bob at the end of a session in `folder`, which is empty."""
    from seat import Seat  # not where there are no pseudo-terminals

    clock = Clock(folder)
    with ServerProcess(folder, code=clock.program("vessages.py")) as server:
        carol = server.person("carol", kept=True)
        alice, bob = seats = [
            Seat(*map(str, server.address), width=COLUMNS, height=ROWS, code=clock.program("client.py")) for _ in "ab"
        ]
        try:
            for seat, name in zip(seats, ("alice", "bob"), strict=True):
                seat.prompts(">").types(f"/register {name}\r").prompts(f"New password for {name}:")
                seat.types(PASSWORD + "\r").prompts("Repeat password:").types(PASSWORD + "\r")
                seat.sees(f"-- you are {name}")
            alice.sees("-- bob is online")
            clock.set(4)
            bob.types("alice: lunch?").prompts("3 online alice> lunch?").types("\r").sees("→ alice  lunch?")
            clock.set(5)
            alice.sees("bob  lunch?").types("bob: ").prompts("3 online bob>")
            alice.types("in ten minutes, I am still in the lab with the new microscope\r")
            alice.sees("→ bob  in ten minutes, I am still in the lab")
            clock.set(6)
            bob.types("/all pizza in the kitchen!\r")
            while " MSG bob" not in (frame := carol.next()[0]):
                pass
            carol.say("ACK " + frame.split(" ")[0][1:])
            bob.sees("→ everyone  pizza in the kitchen!")
            alice.sees("bob → everyone  pizza in the kitchen!")
            carol.reset()
            alice.sees("-- carol lost the connection")
            bob.sees("-- carol lost the connection")
            clock.set(7)
            alice.types("/msg carol shall I keep a slice for you?\r").prompts("2 online bob>")
            alice.until(lambda: any("→ carol" in row for row in alice.screen.lines()))
            alice.types("on my w").prompts("2 online bob> on my w")
            bob.prompts("2 online alice>")
        finally:
            for seat in seats:
                seat.close()
    return [seat.screen for seat in seats]


# --- How it is drawn --------------------------------------------------------------------------------------------------


class Palette(NamedTuple):
    """Colours of a page and of a terminal on it."""

    paper: str
    ink: str
    dim: str
    frame: str
    bar: str
    strong: str  # of ours, in the picture of the figures
    weak: str  # of the others
    colours: dict[str, str]  # by the numbers of the terminal's styles


PALETTES = {
    "light": Palette(
        "#ffffff", "#1f2328", "#6e7781", "#d0d7de", "#f6f8fa", "#0969da", "#afb8c1",
        {"31": "#cf222e", "35": "#8250df", "94": "#0969da", "95": "#bf3989"},
    ),
    "dark": Palette(
        "#0d1117", "#e6edf3", "#8b949e", "#30363d", "#161b22", "#58a6ff", "#484f58",
        {"31": "#ff7b72", "35": "#bc8cff", "94": "#79c0ff", "95": "#f778ba"},
    ),
}  # fmt: skip

FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
SIZE, CELL, LINE = 14.0, 8.43, 19.0  # of the letters, and of a cell; all in pixels
MARGIN, BAR = 14.0, 28.0  # around the cells of a window, and its upper edge
GAP = 16.0  # between two windows
WIDTH = 2 * (COLUMNS * CELL + 2 * MARGIN) + GAP
BARS_LEFT, BARS_WIDTH, BAR_HEIGHT = 130.0, WIDTH - 330.0, 12.0  # of the figures: where bars begin, the longest, each


def number(value: float) -> str:
    """With as few digits as there are: the files are read by people too."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def svg(width: float, height: float, words: str, parts: list[str]) -> str:
    """A picture; `words` are for those who cannot see it."""
    size = f'width="{number(width)}" height="{number(height)}" viewBox="0 0 {number(width)} {number(height)}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="{FONT}" font-size="{number(SIZE)}">'
    return "\n".join([head, f"<title>{escape(words)}</title>", *parts, "</svg>", ""])


def box(x: float, y: float, width: float, height: float, fill: str, more: str = "") -> str:
    place = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'
    return f'<rect {place} fill="{fill}"{more}/>'


def text(x: float, y: float, words: str, look: str, cells: int = 0) -> str:
    """`cells`: how many the words take, which no font may change."""
    fixed = f' textLength="{number(cells * CELL)}" lengthAdjust="spacingAndGlyphs"' if cells else ""
    return f'<text x="{number(x)}" y="{number(y)}" {look}{fixed}>{escape(words)}</text>'


def look_of(style: str, palette: Palette) -> str:
    """A style of the terminal in the words of SVG."""
    numbers = style.split(";")
    colours = [palette.colours[each] for each in numbers if each in palette.colours]
    fill = colours[-1] if colours else palette.dim if "2" in numbers else palette.ink
    return f'fill="{fill}"' + ' font-weight="bold"' * ("1" in numbers)


def runs(row: Row) -> Iterator[tuple[int, int, str, str]]:
    """The words of a row in one style, without two blanks in them: column, how many cells, text, style."""
    words = Row()
    for column, cell in enumerate([*row, Cell(" "), Cell(" ")]):
        if words and (cell.style != words[0].style or cell == words[-1] == " "):
            start = column - len(words)
            if words[-1] == " ":
                words.pop()
            yield start, len(words), "".join(words), words[0].style
            words.clear()
        if words or cell != " ":
            words.append(cell)


def window(x: float, name: str, screen: Terminal, palette: Palette) -> list[str]:
    """A window, at `x` of the picture."""
    width, height = COLUMNS * CELL + 2 * MARGIN, BAR + ROWS * LINE + 2 * MARGIN
    edge = f' stroke="{palette.frame}" rx="8"'
    parts = [
        box(x + 0.5, 0.5, width - 1, height - 1, palette.paper, edge),
        box(x + 1, 1, width - 2, BAR, palette.bar, ' rx="7"'),
        text(x + width / 2, BAR - 9, name, f'fill="{palette.dim}" text-anchor="middle"'),
    ]
    left, base = x + MARGIN, BAR + MARGIN
    parts.append(box(left + screen.column * CELL, base + screen.row * LINE + 1, CELL, LINE - 2, palette.dim))
    for line, row in enumerate(screen.rows):
        for column, cells, words, style in runs(row):
            place = left + column * CELL, base + (line + 1) * LINE - 5
            parts.append(text(*place, words, look_of(style, palette), cells))
    return parts


def draw_session(screens: list[Terminal], palette: Palette) -> str:
    """The windows side by side."""
    parts = []
    for place, (name, screen) in enumerate(zip(("alice", "bob"), screens, strict=True)):
        parts += window(place * (WIDTH + GAP) / 2, name, screen, palette)
    words = "Two terminals, of alice and of bob, who write to each other and to everybody"
    return svg(WIDTH, BAR + ROWS * LINE + 2 * MARGIN, words, parts)


# --- The figures ------------------------------------------------------------------------------------------------------


UNITS = {"µs": 1, "ms": 1_000, "s": 1_000_000, "KiB": 1, "MiB": 1_024}
AMOUNT = re.compile(r"([\d,.]+) (µs|ms|s|KiB|MiB)\b")


class Figure(NamedTuple):
    """A row of the README's table: what was measured, and what each program needed for it, as it stands there."""

    what: str
    needed: dict[str, str]  # by the program's name


def figures(readme: str) -> list[Figure]:
    """The table of the section on speed, but for what has no unit: ratios."""
    section = readme[readme.index("## How fast it is") :].split("\n## ")[0]
    head, _, *lines = [cells(line) for line in re.findall(r"(?m)^\|.*\|$", section)]
    return [
        Figure(what, {name: words for name, words in zip(head[1:], needed, strict=True) if AMOUNT.match(words)})
        for what, *needed in lines
    ]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def amount(needed: str) -> float:
    """A number of the table, in µs or KiB."""
    found = AMOUNT.match(needed)
    assert found is not None
    return float(found[1].replace(",", "")) * UNITS[found[2]]


def draw_figures(table: list[Figure], palette: Palette) -> str:
    """A bar for each program; the longest of each row has the whole width."""
    parts = [text(0, SIZE, "What it needs, beside others: shorter is better", f'fill="{palette.dim}"')]
    y = LINE + 12
    for what, needed in table:
        longest = max(map(amount, needed.values()))
        parts.append(text(0, y + SIZE, what, f'fill="{palette.ink}" font-weight="bold"'))
        y += LINE + 4
        for place, (name, words) in enumerate(needed.items()):
            width = max(1.0, BARS_WIDTH * amount(words) / longest)
            parts += [
                text(BARS_LEFT - 10, y + BAR_HEIGHT - 1, name, f'fill="{palette.dim}" text-anchor="end"'),
                box(BARS_LEFT, y, width, BAR_HEIGHT, palette.weak if place else palette.strong, ' rx="2"'),
                text(BARS_LEFT + width + 8, y + BAR_HEIGHT - 1, words, f'fill="{palette.ink}"'),
            ]
            y += BAR_HEIGHT + 6
        y += 12
    words = "The figures of the table below as bars: " + "; ".join(each.what for each in table)
    return svg(WIDTH, y, words, parts)


# --- The files --------------------------------------------------------------------------------------------------------


def session_files(folder: Path) -> dict[str, str]:
    """Pictures of the session by the names of their files; it is played in `folder`."""
    screens = play(folder)
    return {f"session-{name}.svg": draw_session(screens, palette) for name, palette in PALETTES.items()}


def figure_files() -> dict[str, str]:
    """The same of the figures."""
    table = figures((ROOT / "README.md").read_text(encoding="utf-8"))
    return {f"figures-{name}.svg": draw_figures(table, palette) for name, palette in PALETTES.items()}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, drawn in (session_files(Path(folder)) | figure_files()).items():
            (FOLDER / name).write_text(drawn, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
