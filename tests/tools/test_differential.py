"""The tool that compares two versions (tests/tools/differential.py), with versions that differ in a planted limit."""

from typing import Any
from unittest import mock

import differential_client
import pytest
from differential import PARTS, compare

import protocol

PLANTS = {
    "world": mock.patch.object(protocol, "SENDS_UNDER_WAY", 1),
    "terminal": mock.patch.dict(differential_client.LIMITS, TYPED_MAX=1),
}


@pytest.mark.parametrize(("part", "plant"), PLANTS.items(), ids=PLANTS)
def test_a_difference_is_found_and_none_is_invented(part: str, plant: Any) -> None:
    one, same = (["seed 2\n", *PARTS[part](2)] for _ in "12")
    assert compare(iter(one), iter(same)) == len(one) - 1 > 200
    with plant:
        difference = compare(iter(one), iter(["seed 2\n", *PARTS[part](2)]))
    assert str(difference).startswith("seed 2, line ")
