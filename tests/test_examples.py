"""The examples in the docstrings are true."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest
from wire import ServerThread

import client
import protocol
import storage
import vessages


@pytest.mark.parametrize("module", [protocol, client, storage, vessages], ids=lambda module: module.__name__)
def test_examples_in_docstrings(module: ModuleType, server: ServerThread) -> None:
    host, port = server.address
    outcome = doctest.testmod(module, extraglobs={"HOST": host, "PORT": port})
    assert outcome.attempted and not outcome.failed
