"""State is what makes code hard to change: how many attributes and lines a class may have, and lines a function."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator

import pytest
from wire import ROOT

ATTRIBUTES_MAX, CLASS_LINES_MAX, FUNCTION_LINES_MAX = 22, 850, 60


RIDDLES = re.compile(r"(?:^|[.!?:] )(?:Who|Whoever|What|That)\b(?![^.!?]*\?)(?!'s)")


def attributes_of(node: ast.ClassDef) -> set[str]:
    """The attributes that the methods of a class set on `self`."""
    stores = [each for each in ast.walk(node) if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store)]
    return {each.attr for each in stores if isinstance(each.value, ast.Name) and each.value.id == "self"}


def prose(source: str, nodes: list[ast.AST]) -> Iterator[str]:
    """The comments of a file, each with those directly below it, and its strings: docstrings, help and messages."""
    comment = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comment += " " + token.string.lstrip("# ")
        elif token.type != tokenize.NL:
            yield comment.strip()
            comment = ""
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (" ".join(part.split()) for part in node.value.split("\n\n"))


@pytest.mark.parametrize("file", ["protocol.py", "vessages.py", "storage.py", "client.py"])
def test_no_class_has_too_much_state_no_function_is_longer_than_a_screen_and_no_sentence_a_riddle(file: str) -> None:
    """A riddle: `Who asks is told` is read twice, for nothing."""
    source = (ROOT / file).read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(source)))
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            assert len(attributes_of(node)) <= ATTRIBUTES_MAX, node.name
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            most = CLASS_LINES_MAX if isinstance(node, ast.ClassDef) else FUNCTION_LINES_MAX
            assert (node.end_lineno or 0) - node.lineno < most, node.name
    assert [text for text in prose(source, nodes) if RIDDLES.search(text)] == []
