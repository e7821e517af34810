"""The tool that compares two versions (tests/tools/differential.py), with versions that differ in a planted limit."""

import pytest
from differential import play, protocol_at


@pytest.mark.parametrize(("half", "limit"), [("hub", "FRAMES_A_TURN"), ("session", "SENDS_UNDER_WAY")])
def test_a_difference_is_found_and_none_is_invented(half: str, limit: str) -> None:
    one, same, other = (protocol_at(None) for _ in range(3))
    setattr(other, limit, 1)
    traces = [play(half, one, seed, 100) for seed in range(3)]
    assert traces == [play(half, same, seed, 100) for seed in range(3)]
    assert traces != [play(half, other, seed, 100) for seed in range(3)]
