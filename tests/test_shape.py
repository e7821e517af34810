"""State is what makes code hard to change: how many attributes and lines a class may have, and lines a function."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterator
from typing import Any

import pytest
from wire import ROOT

ATTRIBUTES_MAX, CLASS_LINES_MAX, FUNCTION_LINES_MAX = 22, 850, 60
FILES = ("protocol.py", "vessages.py", "storage.py", "client.py")


@functools.cache
def tree(file: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))))


def nodes(file: str, kind: type[ast.AST]) -> Iterator[tuple[Any, int]]:
    """Every node of a kind in a file, with its lines."""
    for node in tree(file):
        if isinstance(node, kind):
            yield node, (node.end_lineno or 0) - node.lineno + 1  # type: ignore[attr-defined]


def attributes_of(node: ast.AST) -> set[str]:
    """The attributes that the methods of a class set on `self`."""
    stores = [each for each in ast.walk(node) if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store)]
    return {each.attr for each in stores if isinstance(each.value, ast.Name) and each.value.id == "self"}


@pytest.mark.parametrize("file", FILES)
def test_no_class_has_too_much_state(file: str) -> None:
    for node, lines in nodes(file, ast.ClassDef):
        assert len(attributes_of(node)) <= ATTRIBUTES_MAX and lines <= CLASS_LINES_MAX, node.name


@pytest.mark.parametrize("file", FILES)
def test_no_function_is_longer_than_a_screen(file: str) -> None:
    assert [node.name for node, lines in nodes(file, ast.FunctionDef) if lines > FUNCTION_LINES_MAX] == []


RIDDLES = re.compile(r"(?:^|[.!?:] )(?:Who|Whoever|What|That)\b(?![^.!?]*\?)(?!'s)")


def prose(file: str) -> Iterator[str]:
    """The comments of a file, each with those directly below it, and its strings: docstrings, help and messages."""
    comment = ""
    for token in tokenize.generate_tokens(io.StringIO((ROOT / file).read_text(encoding="utf-8")).readline):
        if token.type == tokenize.COMMENT:
            comment += " " + token.string.lstrip("# ")
        elif token.type != tokenize.NL:
            yield comment.strip()
            comment = ""
    for node in tree(file):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (" ".join(part.split()) for part in node.value.split("\n\n"))


@pytest.mark.parametrize("file", FILES)
def test_no_sentence_begins_as_a_riddle(file: str) -> None:
    """`Who asks is told` is read twice, for nothing."""
    assert [text for text in prose(file) if RIDDLES.search(text)] == []
