"""The examples in the docstrings are true."""

from __future__ import annotations

import doctest

import pytest

import client
import protocol
import storage


@pytest.mark.parametrize("module", [protocol, client, storage], ids=lambda module: module.__name__)
def test_examples_in_docstrings(module: object) -> None:
    outcome = doctest.testmod(module)  # type: ignore[arg-type]
    assert outcome.attempted and not outcome.failed
