"""The hub beside a model so simple that one can see that it is right, and every command in every state.

The first half is about plain sessions: a dict of who is online says what everybody must hear. The second half draws
any state and any words, also senseless ones, and allows two outcomes: one answer in its place, or one of the
exceptions that the protocol names; and whatever was refused has changed nothing.
"""

import re
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from vocabulary import END, PASSWORD, Person, World, examples

import protocol
from protocol import HANDLERS, TAG_MAX, State, fold

NAMES = ("alice", "Bob", "Мария", "ANN")
WHICH = st.integers(0, 5)
MOSTLY = st.sampled_from((True, True, True, False))
GROWTHS = st.sampled_from((None, -1, 0, 1, 1, 7))  # of the tag; None: no tag
ADDRESSEES = st.sampled_from((*NAMES, *NAMES[:3], "ALICE", "bOB", "nobody", "a_~b"))
PASSWORDS = (PASSWORD, "battery staple")
STAMPED = re.compile(r"(MSG \S+ \d+) \S+Z ")


def transmitted(text: str) -> str:
    """What arrives of any text: what is no Unicode is replaced."""
    return text.encode(errors="replace").decode()


class PlainSessions(RuleBasedStateMachine):
    """The model: who has which password, who is online on which connection, and what each connection must hear."""

    def __init__(self) -> None:
        super().__init__()
        self.patience = mock.patch.object(protocol, "STRANGER_AFTER", 1e9)  # nobody is sent away for not logging in
        self.patience.start()
        self.world = World()
        self.passwords: dict[str, str] = {}  # by key
        self.shown: dict[str, str] = {}  # key -> the name as registered
        self.online: dict[str, Person] = {}
        self.tags: dict[Person, int] = {}  # the last one that counted
        self.wrong: dict[Person, int] = {}  # passwords since the last right one
        self.people: list[Person] = []  # those who are connected
        self.addresses = 0
        for place, name in enumerate(NAMES[:3]):
            self.connect()
            self.register(place, name, PASSWORD)
            self.login(place, name, right=True, takeover=False)

    def person(self, which: int) -> Person:
        """One of those who are connected."""
        if not self.people:
            self.connect()
        return self.people[which % len(self.people)]

    def key_of(self, person: Person) -> str | None:
        return next((key for key, somebody in self.online.items() if somebody is person), None)

    def expect(self, person: Person, words: str, *answers: str, others: dict[Person, str] | None = None) -> None:
        """`person` says this and hears these answers; the others hear these frames and nobody else anything."""
        due = {somebody: [text] for somebody, text in (others or {}).items()}
        due[person] = list(answers) + due.get(person, [])
        person.say(words)
        self.world.wait(0.1)
        for somebody in self.people:
            heard = [STAMPED.sub(r"\1 ", text) for text in somebody.hears()]
            assert len(heard) == len(due.get(somebody, [])), (words, heard)
            assert all(map(str.startswith, heard, due.get(somebody, []))), (words, heard)

    @rule()
    def connect(self) -> None:
        if len(self.people) < 6:
            self.addresses += 1
            person = self.world.connect(f"10.0.{self.addresses // 250}.{self.addresses % 250}")
            self.people.append(person)
            self.tags[person] = self.wrong[person] = 0

    @rule(which=WHICH, name=st.sampled_from(NAMES), password=st.sampled_from((*PASSWORDS, "short")))
    def register(self, which: int, name: str, password: str) -> None:
        person, words = self.person(which), f"REGISTER {name} {password}"
        if self.key_of(person) is not None:
            self.expect(person, words, "ERROR logged-in")
        elif password == "short":
            self.expect(person, words, "ERROR bad-password")
        elif fold(name) in self.passwords:
            self.expect(person, words, "ERROR name-taken")
        else:
            self.passwords[fold(name)], self.shown[fold(name)] = password, name
            self.expect(person, words, f"OK REGISTER {name}")

    @rule(which=WHICH, name=ADDRESSEES, right=MOSTLY, takeover=st.booleans())
    def login(self, which: int, name: str, right: bool, takeover: bool) -> None:
        person, key, verb = self.person(which), fold(name), "TAKEOVER" if takeover else "LOGIN"
        password = self.passwords.get(key, PASSWORD) if right else "a wrong one"
        words = f"{verb} {name} {password}"
        if self.key_of(person) is not None:
            self.expect(person, words, "ERROR logged-in")
        elif self.wrong[person] > 1:
            pass  # what comes of many wrong passwords is not this model's subject
        elif self.passwords.get(key) != password:
            self.wrong[person] += 1
            self.expect(person, words, "ERROR bad-login")
        elif key in self.online and not takeover:
            self.expect(person, words, f"ERROR already-online {self.shown[key]} is online since")
        else:
            old = self.online.get(key)
            self.online[key], self.tags[person], self.wrong[person] = person, 0, 0
            if old is not None:
                self.people.remove(old)
            self.expect(person, words, f"OK {verb} {self.shown[key]}")
            assert old is None or old.ends() == ["BYE replaced", END]

    @rule(which=WHICH, name=ADDRESSEES, growth=GROWTHS, text=st.text(min_size=1).map(transmitted))
    def send(self, which: int, name: str, growth: int | None, text: str) -> None:
        person = self.person(which)
        tag = 0 if growth is None else max(1, self.tags[person] + growth)
        mark = f"#{tag} " if tag else ""
        me, key, words = self.key_of(person), fold(name), f"{mark}SEND {name} {text}"
        if me is None:
            self.expect(person, words, f"{mark or '#0 '}ERROR not-logged-in")
        elif 0 < tag <= self.tags[person]:
            self.expect(person, words)
        else:
            self.tags[person] = max(tag, self.tags[person])
            message, ok = f"MSG {self.shown[me]} {tag} {text}", [f"{mark}OK SEND"] if tag else []
            if key not in self.online:
                self.expect(person, words, f"{mark or '#0 '}ERROR not-online")
            elif key == me:
                self.expect(person, words, message, *ok)
            else:
                self.expect(person, words, *ok, others={self.online[key]: message})

    @rule(which=WHICH, right=MOSTLY, new=st.sampled_from((*PASSWORDS, "short")))
    def passwd(self, which: int, right: bool, new: str) -> None:
        person = self.person(which)
        key = self.key_of(person)
        old = self.passwords.get(key or "", "") if right else "a wrong one"
        words = f"PASSWD {old}\n{new}"
        if key is None:
            self.expect(person, words, "ERROR not-logged-in")
        elif new == "short":
            self.expect(person, words, "ERROR bad-password")
        elif self.wrong[person] > 1:
            pass
        elif self.passwords[key] != old:
            self.wrong[person] += 1
            self.expect(person, words, "ERROR bad-login")
        else:
            self.passwords[key], self.wrong[person] = new, 0
            self.expect(person, words, "OK PASSWD")

    @rule(which=WHICH)
    def who(self, which: int) -> None:
        person = self.person(which)
        if self.key_of(person) is None:
            self.expect(person, "WHO", "ERROR not-logged-in")
        else:
            (answer,) = person.says("wHo")
            assert sorted(answer.split(" ")) == sorted(["OK", "WHO", *(self.shown[key] for key in self.online)])

    @rule(which=WHICH, text=st.text(max_size=10).map(transmitted))
    def ping(self, which: int, text: str) -> None:
        self.expect(self.person(which), f"PING {text}", f"OK PING {text}" if text else "OK PING")

    @rule(which=WHICH)
    def logout(self, which: int) -> None:
        person = self.person(which)
        key = self.key_of(person)
        if key is None:
            self.expect(person, "LOGOUT", "ERROR not-logged-in")
        else:
            del self.online[key]
            self.expect(person, "LOGOUT", "OK LOGOUT")

    @rule(which=WHICH)
    def leave(self, which: int) -> None:
        person = self.person(which)
        self.online.pop(self.key_of(person) or "", None)
        person.leave()
        self.people.remove(person)

    @rule(seconds=st.sampled_from((0.5, 21.0, 100.0)))
    def wait(self, seconds: float) -> None:
        """Time alone changes nothing for those who answer when asked."""
        self.world.wait(seconds)
        assert [person.hears() for person in self.people] == [[]] * len(self.people)

    @invariant()
    def everybody_knows_who_is_here(self) -> None:
        self.world.wait(2.0)
        here = {self.shown[key] for key in self.online}
        for person in self.online.values():
            assert person.hears() == []
            assert person.roster == here
        for key, account in self.world.disk.accounts.items():
            assert account.status == ("online" if key in self.online else "offline")

    def teardown(self) -> None:
        self.patience.stop()


PlainSessions.TestCase.settings = settings(examples(50), stateful_step_count=40)
TestPlainSessions = PlainSessions.TestCase


# --- Every command in every state ---

STATES = ("stranger", "stranger who said KEEP", "plain", "kept")
TYPED = (
    "", " ", "bob", "bob hi", "carol hi", "alice me too", "nobody hi", "~bob hi", "bob  ", "x" * 3000, "x\ny",
    f"alice {PASSWORD}", f"dora {PASSWORD}", f"carol {PASSWORD}", f"erin {PASSWORD}", "alice wrong",
    f"{PASSWORD}\nbattery staple",
    "token1 0", "token1 9", "token2 0", "token2 9", "token9 0", "token1", "0", "1", "99", "-1", "٣",
)  # fmt: skip
WORDS = st.one_of(st.sampled_from(TYPED), st.text(max_size=50).map(transmitted))
TAGS = ("", "#5", "#1", "#0123", f"#{TAG_MAX}", "#0", "#-1", f"#{TAG_MAX + 1}", "#x", "#")
LAST_TAG = 2  # of whoever is logged in


def everything(world: World) -> dict[str, Any]:
    """What a refused command must not change: who is here, on which connection, what is held, and the accounts."""
    sessions = {
        key: (id(session), id(session.connection), session.began, session.held and session.held.acked)
        for key, session in world.hub.sessions.items()
    }
    accounts = {
        key: {field: value for field, value in vars(account).items() if field != "failures"}
        for key, account in world.disk.accounts.items()
    }
    wires = {
        id(c): (id(c.session), bool(c.rare and c.rare.keep), c.closed) for c in world.hub.connections
    }
    return {"sessions": sessions, "accounts": accounts, "wires": wires}


class Scene:
    """One person in some state; bob (kept) and carol (plain) are there too; alice and dora have accounts."""

    def __init__(self, state: str) -> None:
        self.world = World()
        for name in ("alice", "dora"):
            self.world.person(name).leave()
        self.others = [self.world.person("bob", kept=True), self.world.person("carol")]
        self.person = self.world.connect()
        if state in ("stranger who said KEEP", "kept"):
            self.person.say("KEEP")
        self.is_in = state in ("plain", "kept")
        if self.is_in:
            self.person.say(f"#77 LOGIN alice {PASSWORD}", f"#{LAST_TAG} PING")
        self.world.wait(3.0)
        for somebody in (self.person, *self.others):
            somebody.hears()

    def say(self, payload: str | bytes) -> tuple[list[str], list[str]]:
        """The answers to this, and all messages that came of it. That no answer is late shows a PING behind it."""
        heard = [re.sub(r"^@\d+ ", "", text) for text in self.person.says(payload, "PING marker")]
        answers = [text for text in heard if re.match(r"(#\d+ )?(OK|ERROR) ", text)]
        assert answers.pop() == "OK PING marker"
        heard += [text for somebody in self.others for text in somebody.hears()]
        return answers, [text for text in heard if "MSG " in text]


def answers_due(scene: Scene, tag: str, verb: str) -> set[int]:
    """How many answers there may be at once: one, but for the exceptions that the protocol names."""
    number = protocol.parse_number(tag[1:])
    if tag and not number:
        return {1}  # a tag that is none
    if scene.is_in and number and number <= LAST_TAG:
        return {0}  # it was had before
    if verb.upper() == "ACK":
        return {0}
    return {0, 1} if verb.upper() == "SEND" and scene.is_in else {1}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("verb", [*HANDLERS, "pIng", "ACKK", "MSG", "\u017fEND"])
@examples(8)
@given(tag=st.one_of(st.just(""), st.sampled_from(TAGS)), words=WORDS)
def test_every_command_has_its_answer_and_a_refused_one_changes_nothing(
    state: str, verb: str, tag: str, words: str
) -> None:
    scene = Scene(state)
    before = everything(scene.world)
    answers, messages = scene.say(" ".join(word for word in (tag, verb, words) if word))
    assert len(answers) in answers_due(scene, tag, verb)
    number = protocol.parse_number(tag[1:])
    for answer in answers:
        unasked = "#0 " if verb == "SEND" and "ERROR" in answer else ""
        mark = f"{tag} " if number else "" if tag else unasked
        assert answer.startswith((mark + "OK " + verb.upper(), mark + "ERROR "))
        if "ERROR" in answer:
            assert everything(scene.world) == before
            assert messages == []
            assert not scene.person.ended
    if verb == "SEND" and scene.is_in and not answers and answers_due(scene, tag, verb) != {0}:
        assert len(messages) == 1  # then it was queued


@given(state=st.sampled_from(STATES), payload=st.binary(min_size=1, max_size=200))
def test_any_bytes_have_at_most_one_answer_and_do_no_harm(state: str, payload: bytes) -> None:
    scene = Scene(state)
    before = everything(scene.world)
    answers, messages = scene.say(payload)
    assert len(answers) <= 1
    if all(verb.encode() not in payload.upper() for verb in HANDLERS):
        assert len(answers) == 1
        assert messages == []
        assert everything(scene.world) == before


@pytest.mark.parametrize("verb", HANDLERS)
@pytest.mark.parametrize(("state", "name", "refusal"), [
    (State.STRANGER, "stranger", "not-logged-in"),
    (State.LOGGED_IN, "plain", "logged-in"),
])  # fmt: skip
def test_commands_outside_the_table_are_refused(state: State, name: str, refusal: str, verb: str) -> None:
    answers, _ = Scene(name).say(f"#99 {verb}")
    assert any(f"#99 ERROR {refusal} " in answer for answer in answers) == (state not in HANDLERS[verb].states)
