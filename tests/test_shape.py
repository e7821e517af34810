"""State is what makes code hard to change: how many attributes and lines a class may have, and lines a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from wire import ROOT

ATTRIBUTES_MAX, CLASS_LINES_MAX, FUNCTION_LINES_MAX = 22, 850, 60
FILES = ("protocol.py", "vessages.py", "storage.py", "client.py")


def nodes(kind: type[ast.AST]) -> Iterator[tuple[str, ast.AST, int]]:
    """Every node of a kind in the four files: the file, the node, its lines."""
    for name in FILES:
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            if isinstance(node, kind):
                yield name, node, (node.end_lineno or 0) - node.lineno + 1  # type: ignore[attr-defined]


def attributes_of(node: ast.AST) -> set[str]:
    """The attributes that the methods of a class set on `self`."""
    stores = [each for each in ast.walk(node) if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store)]
    return {each.attr for each in stores if isinstance(each.value, ast.Name) and each.value.id == "self"}


@pytest.mark.parametrize("file", FILES)
def test_no_class_has_too_much_state(file: str) -> None:
    for name, node, lines in nodes(ast.ClassDef):
        assert isinstance(node, ast.ClassDef)
        if name == file:
            assert len(attributes_of(node)) <= ATTRIBUTES_MAX and lines <= CLASS_LINES_MAX, node.name


def test_no_function_is_longer_than_a_screen() -> None:
    long = [
        f"{name}: {node.name}, {lines} lines"  # type: ignore[attr-defined]
        for name, node, lines in nodes(ast.FunctionDef)
        if lines > FUNCTION_LINES_MAX
    ]
    assert long == []
