"""The pictures of the README are drawn again, from the programs and the table of today, and come out the same."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import picture
import pytest

AGAIN = "has changed: look whether it is as it should be, then run `python tests/tools/picture.py` and look at it"


def check(drawn: dict[str, str]) -> None:
    for name, words in drawn.items():
        assert (picture.FOLDER / name).read_text(encoding="utf-8") == words, f".readme/{name} {AGAIN}"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_the_session_is_what_the_programs_show(tmp_path: Path) -> None:
    check(picture.session_files(tmp_path))


def test_the_figures_are_those_of_the_table() -> None:
    check(picture.figure_files())


def test_the_readme_shows_each_picture() -> None:
    readme = (picture.ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r'(?:src|srcset)="\.readme/([^"]+)"', readme)
    assert sorted(shown) == sorted(file.name for file in picture.FOLDER.iterdir())


def test_a_bar_is_as_long_as_its_number() -> None:
    table = "## How fast it is\n\n| | Vessages | another | a third | ratio |\n|---|---|---|---|---|\n"
    row = picture.figures(table + "| a message | 0.5 ms | 1,000 µs (plain) | | 0.5 |\n\n## Another\n\n| x | y |\n")
    assert row == [picture.Figure("a message", {"Vessages": "0.5 ms", "another": "1,000 µs (plain)"})]
    drawn = picture.draw_figures(row, picture.PALETTES["light"])
    ours, another = map(float, re.findall(r'<rect .*width="([\d.]+)"', drawn))
    assert another == pytest.approx(2 * ours) == pytest.approx(picture.BARS_WIDTH)


def test_each_figure_stands_beside_another() -> None:
    table = picture.figures((picture.ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(table) >= 5
    assert all("Vessages" in figure.needed and len(figure.needed) >= 2 for figure in table)
