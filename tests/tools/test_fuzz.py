"""A short attack in the suite, and attacks on servers with a planted fault, which has to be found.

`python tests/tools/fuzz.py --minutes 10` is the long one.
"""

from __future__ import annotations

import random
import re
import textwrap
from pathlib import Path

import fuzz
import pytest
from fuzz import ATTACKS, MIB, MUTATIONS, Author, Fuzzer, FuzzError, Mutation, check_memory
from wire import PROGRAM, encode

ROUNDS = len(ATTACKS)  # in which each comes

# A server that starts with one of these lines has a fault; what the attack says then.
FAULTY = """
    import sys
    sys.path.insert(0, {root!r})
    import protocol, vessages

    def fault(*_):
        raise ValueError("planted")

    def lose(hub, session, words, *rest, deliver=protocol.Post.deliver):
        if "MSG alice 3 " not in str(words):  # also where it is bytes
            deliver(hub, session, words, *rest)

    def leak(server, sock, address, leaked=[], welcome=vessages.Server._welcome):
        leaked.append(sock.dup())
        welcome(server, sock, address)

    {plant}
    sys.exit(vessages.main())
"""
PLANTS = {
    "protocol.Hub._refuse_encoding = fault": "log tells of a fault",
    "protocol.Post.deliver = lose": "round 3: bob heard",
    "vessages.Server._welcome = leak": r"descriptors: \d\d before, now \[\d{3,}\]",
}


def attack(folder: Path, seed: int, rounds: int, code: Path = PROGRAM) -> Fuzzer:
    fuzzer = Fuzzer(folder, seed, code=code)
    try:
        fuzzer.run(lambda: fuzzer.rounds >= rounds)
    finally:
        fuzzer.close()
    return fuzzer


def test_a_short_attack_is_borne(tmp_path: Path) -> None:
    fuzzer = attack(tmp_path, 20, ROUNDS)
    wanted = {"OK LOGIN", "OK TAKEOVER", "OK KEEP", "MSG", "ONLINE", "ERROR bad-frame", "ERROR bad-command",
              "ERROR not-logged-in", "ERROR bad-login"}  # fmt: skip
    assert wanted - set(fuzzer.crowd.answers) == set()
    assert fuzzer.crowd.connections > 10 * ROUNDS
    assert re.match(rf"seed 20, {ROUNDS} rounds", fuzzer.report())


@pytest.mark.parametrize(("plant", "found"), PLANTS.items())
def test_a_planted_fault_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: str, found: str) -> None:
    if "leak" in plant and not Path("/proc/self/fd").exists():
        pytest.skip("this system does not tell how many descriptors a process has")
    monkeypatch.setattr(fuzz, "GONE_WITHIN", 1.0)
    script = textwrap.dedent(FAULTY).format(root=str(PROGRAM.parent), plant=plant)
    code = tmp_path / "faulty.py"
    code.write_text(script, encoding="utf-8")
    with pytest.raises(FuzzError, match=found):
        attack(tmp_path, 20, ROUNDS, code)


@pytest.mark.parametrize(
    ("samples", "flat"),
    [
        ([30 * MIB] * 100, True),
        ([30 * MIB] * 10 + [60 * MIB] * 90, True),  # a level that is reached once
        ([figure * MIB for figure in range(30, 130)], False),
        ([figure * MIB for figure in range(30, 60)], True),  # too few to tell
        ([30 * MIB] * 50 + [300 * MIB] * 10 + [30 * MIB] * 40, True),  # it came back
    ],
)
def test_growing_memory_is_noticed(samples: list[int], flat: bool) -> None:
    if flat:
        check_memory(samples)
    else:
        with pytest.raises(FuzzError, match="the memory grows: first 79 MiB at most, then 1"):
            check_memory(samples)


def test_a_seed_writes_the_same_again() -> None:
    written = [[author.stream() for _ in range(50)] for author in (Author(random.Random(seed)) for seed in (1, 1, 2))]
    assert written[0] == written[1] != written[2]


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutation_changes_something_and_bears_what_is_wrong_already(mutation: Mutation) -> None:
    original = encode("SEND m1 hello") * 3
    authors = [Author(random.Random(seed)) for seed in range(20)]
    assert any(mutation(author, original) != original for author in authors)
    for data in (b"x", b"\0\0\0\0", b"\0\0\0\5ab", b"\xff" * 9):
        assert all(isinstance(mutation(author, data), bytes) for author in authors)


def test_every_attack_says_what_it_is() -> None:
    assert [each.__name__ for each in ATTACKS if not each.__doc__] == []
