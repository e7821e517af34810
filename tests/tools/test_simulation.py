"""A short run of the simulation (tests/tools/simulate.py, which says what it checks), and a look at what it reaches.

`python tests/tools/simulate.py --minutes 10` is the long one.
"""

from collections import Counter

import simulate
from hypothesis import given
from hypothesis import strategies as st
from simulate import FAULTS, choose
from vocabulary import PASSWORD, World, examples

# States that are the point of the whole thing: a simulation that never gets there would prove nothing.
INTERESTING = (
    "cuts", "half-open links", "stalls", "kills", "stops", "suspensions", "crashed programs", "frozen programs",
    "rivals", "resumed", "resumed, maybe begun anew", "frames after RESUME", "adopted messages",
    "duplicates suppressed", "rosters to readers who were behind", "refused: already-online", "refused: storage",
    "fate OK", "fate busy", "fate not-online", "fate not-delivered", "fate unconfirmed", "fate unknown",
    "closed: resumed", "closed: replaced", "closed: silent", "closed: slow", "closed: full", "closed: shutdown",
    "event LoginNeeded", "event Back", "event NotYet",
)  # fmt: skip


@examples(25)
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.sampled_from((5, 50, 150, 300, 300, 300)),
    people=st.integers(1, 5),
    faults=st.sets(st.sampled_from(FAULTS)),
)
def test_nothing_breaks_whatever_happens(seed: int, steps: int, people: int, faults: set[str]) -> None:
    simulate.simulate(seed, steps, people, faults)


def test_the_simulation_reaches_what_is_interesting() -> None:
    reached: Counter[str] = Counter()
    for seed in range(60):
        reached += simulate.simulate(**choose(seed)).reached
        if all(reached[what] for what in INTERESTING):
            return
    assert [what for what in INTERESTING if not reached[what]] == []


def test_a_seed_tells_the_same_story_again() -> None:
    stories = [list(simulate.simulate(7, 200, 3, FAULTS, tracing=True).trace) for _ in range(2)]
    assert stories[0] == stories[1]
    assert len(stories[0]) > 200


# --- What chance meets too seldom: planted bugs that survived the simulation ---


def test_a_message_ever_written_is_at_the_worst_unconfirmed_also_after_an_adoption() -> None:
    world = World()
    alice, bob = world.people("alice", "bob", kept=True)
    for tag in (1, 2, 3):
        alice.say(f"#{tag} SEND bob {'x' * 50_000}")
    assert len(bob.hears()) == 3
    bob.leave()
    again = world.connect()
    again.reading = False  # it gets the first two and not the third
    again.say("KEEP", f"LOGIN bob {PASSWORD}")
    again.leave()
    world.wait(61.0)
    fates = [text.split(" ")[1:4] for text in alice.hears() if " ERROR " in text]
    assert fates == [[f"#{tag}", "ERROR", "unconfirmed"] for tag in (1, 2, 3)]


def test_a_client_that_acks_only_when_asked_is_asked_each_time_its_queue_is_half_full() -> None:
    world = World()
    alice, bob = world.people("alice", "bob", kept=True)
    bob.lively = False
    for last in (600, 1200):
        alice.say(*["SEND bob hi"] * 600)
        assert bob.hears().count("PING") == 1
        bob.say(f"ACK {last}")
