"""A short run of the simulation (tests/tools/simulate.py, which says what it checks), and a look at what it reaches.

`python tests/tools/simulate.py --minutes 10` is the long one.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import simulate
from hypothesis import given
from hypothesis import strategies as st
from simulate import FAULTS, Violation, choose
from vocabulary import PASSWORD, World, examples

from protocol import Code, Flow, Group, Held, Post, Session, Spread

# States that are the point of the whole thing: a simulation that never gets there would prove nothing.
INTERESTING = (
    "cuts", "half-open links", "stalls", "kills", "stops", "suspensions", "crashed programs", "frozen programs",
    "rivals", "resumed", "resumed, maybe begun anew", "frames after RESUME", "adopted messages",
    "duplicates suppressed", "rosters to readers who were behind", "refused: already-online", "refused: storage",
    "fate OK", "fate busy", "fate not-online", "fate not-delivered", "fate unconfirmed", "fate unknown",
    "closed: resumed", "closed: replaced", "closed: silent", "closed: slow", "closed: full", "closed: shutdown",
    "event LoginNeeded", "event Back", "event NotYet", "fate partly", "partly after a restart",
    "shown, as said to several", "adopted messages to several", "turns that left a message to several under way",
    "duplicates suppressed, now of other people",
)  # fmt: skip


@examples(6)
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
    for seed in (66, 49, 80, 140, 22, 3, 10, 21, *range(80)):  # the first few once were enough
        reached += simulate.simulate(**choose(seed)).reached
        if all(reached[what] for what in INTERESTING):
            return
    assert [what for what in INTERESTING if not reached[what]] == []


# --- Faults that are planted in messages to several, and have to be found ---


def count_one_less(group: Group) -> str:
    return f"OK SEND {group.count - 1}" if not group.failed else ANSWER(group)


def let_later_frames_go_on(spread: Spread, flow: Flow, size: int, put: Callable[..., None] = Spread.put) -> None:
    flow.connection.flow = None
    put(spread, flow, size)


def lose_a_share(post: Post, session: Session, old: Held, adopt: Callable[..., None] = Post.adopt) -> None:
    old.frames = [(words, size, None if isinstance(to, Group) else to, tag) for words, size, to, tag in old.frames]
    adopt(post, session, old)


def miss_the_new_session(
    spread: Spread, group: Group, session: Session, *message: Any, hand: Callable[..., bool] = Spread._hand
) -> bool:
    if session.over:
        spread._post.settle(group, session.name, Code.NOT_ONLINE)
        return False
    return hand(spread, group, session, *message)


ANSWER = Group.answer.__get__
PLANTS: list[tuple[type, str, object, str, int]] = [  # with the world in which it was once found soonest
    (Group, "answer", property(count_one_less), "told of . people and not of", 0),
    (Spread, "put", let_later_frames_go_on, "out of order", 0),
    (Post, "adopt", lose_a_share, "commands have no answer|without a fate", 4),
    (Spread, "_hand", miss_the_new_session, "was not there, who was all the time", 57),
]


@pytest.mark.parametrize(("part", "method", "fault", "words", "first"), PLANTS, ids=[plant[1] for plant in PLANTS])
def test_a_planted_fault_is_found(part: type, method: str, fault: object, words: str, first: int) -> None:
    with mock.patch.object(part, method, fault), pytest.raises(Violation, match=words):
        for seed in (first, *range(100)):
            simulate.simulate(**choose(seed))


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
