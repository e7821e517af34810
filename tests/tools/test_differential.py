"""The tool that compares two versions (tests/tools/differential.py), with versions that differ in a planted limit."""

import pytest
from differential import PARTS, play


@pytest.mark.parametrize(
    ("part", "limit"), [("hub", "FRAMES_A_TURN"), ("session", "SENDS_UNDER_WAY"), ("terminal", "TYPED_MAX")]
)
def test_a_difference_is_found_and_none_is_invented(part: str, limit: str) -> None:
    one, same, other = (PARTS[part][0](None) for _ in range(3))
    setattr(other, limit, 1)
    traces = [play(part, one, seed, 100) for seed in range(3)]
    assert traces == [play(part, same, seed, 100) for seed in range(3)]
    assert traces != [play(part, other, seed, 100) for seed in range(3)]
