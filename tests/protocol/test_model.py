"""The hub beside models so simple that one can see that they are right, and every command in every state.

The first model is about plain sessions: a dict of who is online says what everybody must hear. The second one is about
messages to several among plain and kept sessions: a list of what is held for each says what the one answer must be.
The rest draws any state and any words, also senseless ones, and allows two outcomes: one answer in its place, or one of
the exceptions that the protocol names; and whatever was refused has changed nothing.
"""

import itertools
import re
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from vocabulary import END, PASSWORD, Person, World, bodies, examples

import protocol
from protocol import EVERYBODY, HANDLERS, TAG_MAX, clean_name, fold

NAMES = ("alice", "Bob", "Мария", "ANN")
WHICH = st.integers(0, 5)
MOSTLY = st.sampled_from((True, True, True, False))
GROWTHS = st.sampled_from((None, -1, 0, 1, 1, 7))  # of the tag; None: no tag
ADDRESSEES = st.sampled_from((*NAMES, *NAMES[:3], "ALICE", "bOB", "nobody", "a_~b"))
ADDRESSED = st.one_of(ADDRESSEES, ADDRESSEES, st.just(EVERYBODY)).map(lambda name: [name])
LISTS = st.lists(ADDRESSEES, min_size=2, max_size=4)
PASSWORDS = (PASSWORD, "battery staple")
STAMPED = re.compile(r"(MSG \S+ \d+) \S+Z ")


def transmitted(text: str) -> str:
    """What arrives of any text: what is no Unicode is replaced."""
    return text.encode(errors="replace").decode()


def without_limits() -> Any:
    """Nobody is sent away for not logging in, or told to wait with what is for several. To be stopped at the end."""
    patience = mock.patch.multiple(protocol, STRANGER_AFTER=1e9, TO_ALL=(10**9, 1.0), LISTED=(10**9, 1.0))
    patience.start()
    return patience


class PlainSessions(RuleBasedStateMachine):
    """The model: who has which password, who is online on which connection, and what each connection must hear."""

    def __init__(self) -> None:
        super().__init__()
        self.patience = without_limits()
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

    @rule(which=WHICH, to=st.one_of(ADDRESSED, LISTS), growth=GROWTHS, text=st.text(min_size=1).map(transmitted))
    def send(self, which: int, to: list[str], growth: int | None, text: str) -> None:
        person = self.person(which)
        tag = 0 if growth is None else max(1, self.tags[person] + growth)
        mark = f"#{tag} " if tag else ""
        me, words = self.key_of(person), f"{mark}SEND {','.join(to)} {text}"
        if me is None:
            self.expect(person, words, f"{mark or '#0 '}ERROR not-logged-in")
        elif 0 < tag <= self.tags[person]:
            self.expect(person, words)
        else:
            self.tags[person] = max(tag, self.tags[person])
            answer, origin, others = self.outcome(me, to)
            said = dict.fromkeys(others, f"MSG {origin} {tag} {text}")
            own = [said.pop(person)] if person in said else []
            answers = [f"{mark or '#0 '}{answer}"] if tag or "ERROR" in answer else []
            self.expect(person, words, *own, *answers, others=said)

    def outcome(self, me: str, to: list[str]) -> tuple[str, str, list[Person]]:
        """The answer to a message, from whom and to whom it is as others see it, and who is told it."""
        if to == [EVERYBODY]:
            here = [key for key in self.online if key != me]
            origin, names = f"{self.shown[me]}>*", {key: self.shown[key] for key in here}
        elif len(to) > 1 and not all(map(clean_name, to)):
            return "ERROR bad-command a list of recipients", "", []
        else:
            names = dict[str, str]()
            for name in to:
                if len(to) == 1 or fold(name) != me:
                    names.setdefault(fold(name), name)
            here = [key for key in names if key in self.online]
            names |= {key: self.shown[key] for key in here}
            origin = self.shown[me] + (">" + ",".join(names[key] for key in here)) * (len(names) > 1)
        if not here:
            return "ERROR not-online", "", []
        absent = [name for key, name in names.items() if key not in here]
        told = [self.online[key] for key in here]
        if absent:
            fates = ",".join(f"{name}=not-online" for name in absent)
            return f"ERROR partly {fates} shown to {len(here)} of {len(names)}", origin, told
        return f"OK SEND {len(here)}" if ">" in origin else "OK SEND", origin, told

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


PlainSessions.TestCase.settings = settings(examples(25), stateful_step_count=40)
TestPlainSessions = PlainSessions.TestCase


# --- Messages to several, with one fate each ---

THEM = ("ann", "bob", "cat")
WHOM = st.sampled_from(THEM)


@dataclass
class Sent:
    """A message to several, and the fates of those whom it is for, as far as they are known."""

    tag: int
    names: list[str]
    origin: str
    fates: dict[str, str] = field(default_factory=dict)

    def answers(self) -> set[str]:
        """The one answer; of a message to everybody those who have failed may be named in any order."""
        failed = [f"{name}={self.fates[name]}" for name in self.names if self.fates[name] != "OK"]
        if not failed:
            return {f"#{self.tag} OK SEND {len(self.names)}"}
        orders = itertools.permutations(failed) if self.origin.endswith("*") else [failed]
        count = f"shown to {len(self.names) - len(failed)} of {len(self.names)}"
        return {f"#{self.tag} ERROR partly {','.join(order)} {count}" for order in orders}


@dataclass
class Held:
    """The messages that are held for somebody, and how many of them were ever written to a connection."""

    messages: list[Sent] = field(default_factory=list)
    written: int = 0


class MessagesToSeveral(RuleBasedStateMachine):
    """The model: who is here, on which connection, and what is held for those whose sessions are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.patience = without_limits()
        self.world = World()
        for name in THEM:
            self.world.person(name).leave()
        self.sender = self.world.person("sender", kept=True)
        self.people: dict[str, Person | None] = {}  # those who are here; None: the connection is lost
        self.held: dict[str, Held] = {}  # of those whose session is kept
        self.tokens: dict[str, str] = {}
        self.count = 0  # of messages
        self.due: list[set[str]] = []  # answers that come now, each in every form that it may have
        self.told: dict[str, list[Sent]] = {}  # what is heard now

    @rule(names=st.lists(st.sampled_from((*THEM, "zoe")), min_size=2, unique=True))
    def send_to_some(self, names: list[str]) -> None:
        self.send(names, ",".join(names), ",".join(name for name in names if name in self.people))

    @rule()
    def send_to_all(self) -> None:
        self.send(list(self.people), EVERYBODY, EVERYBODY)

    def send(self, names: list[str], to: str, shown_to: str) -> None:
        self.count += 1
        message = Sent(self.count, names, f"sender>{shown_to}")
        if not any(name in self.people for name in names):
            self.due.append({f"#{self.count} ERROR not-online"})
            names = []
        for name in names:
            if name in self.held:
                self.held[name].messages.append(message)
                self.write(name, [message])
            elif name in self.people:
                self.told[name] = [message]
                self.settle(message, name, "OK")
            else:
                self.settle(message, name, "not-online")
        self.sender.say(f"#{self.count} SEND {to} x")

    @rule(name=WHOM)
    def confirm(self, name: str) -> None:
        """All that was written was shown."""
        person = self.people.get(name)
        if person is not None and name in self.held:
            self.let_go(name, "OK", "OK")
            person.say(*[f"ACK {number}" for number in range(1, self.count + 1)])

    @rule(name=WHOM)
    def cut(self, name: str) -> None:
        person = self.people.get(name)
        if person is not None:
            self.people[name] = None
            if name not in self.held:
                del self.people[name]
            person.leave()

    @rule(name=WHOM)
    def come_back(self, name: str) -> None:
        if name in self.held:
            old = self.people[name]
            self.people[name] = self.world.resume(self.tokens[name], 0)
            self.write(name, self.held[name].messages)
            assert old is None or old.ends() == ["BYE resumed", END]

    @rule(name=WHOM, kept=st.booleans())
    def log_in(self, name: str, kept: bool) -> None:
        """Also onto a lost session, or by TAKEOVER in the place of one that is online."""
        old, person, held = self.people.get(name), self.world.connect(), self.held.get(name, Held())
        self.people[name] = person
        self.told[name] = list(held.messages)
        if kept:
            self.held[name] = Held(held.messages, len(held.messages))
        else:
            self.let_go(name, "OK", "OK")
            self.held.pop(name, None)
        person.say(*["KEEP"] * kept, f"{'TAKEOVER' if old else 'LOGIN'} {name} {PASSWORD}")
        self.tokens[name] = str(self.world.disk.accounts[name].token)
        assert old is None or old.ends() == ["BYE replaced", END]

    @rule(name=WHOM)
    def log_out(self, name: str) -> None:
        person = self.people.get(name)
        if person is not None:
            self.end(name)
            person.say("LOGOUT")
            person.leave()

    @rule()
    def grace(self) -> None:
        """It passes: those who were lost have left."""
        for name in [name for name, person in self.people.items() if person is None]:
            self.end(name)
        self.world.wait(protocol.GRACE + 2 * protocol.WALK_PAUSE)

    # The model's own rules

    def write(self, name: str, messages: list[Sent]) -> None:
        """Somebody who has a connection is told these, and so has been told all that is held."""
        if self.people[name] is not None:
            self.told[name] = list(messages)
            self.held[name].written = len(self.held[name].messages)

    def end(self, name: str) -> None:
        """The session is over."""
        del self.people[name]
        self.let_go(name, "unconfirmed", "not-delivered")
        self.held.pop(name, None)

    def let_go(self, name: str, written: str, unwritten: str) -> None:
        """Nothing is held any more, with these fates for what was ever written and what was not."""
        held = self.held.get(name, Held())
        for place, message in enumerate(held.messages):
            self.settle(message, name, written if place < held.written else unwritten)
        held.messages, held.written = [], 0

    def settle(self, message: Sent, name: str, code: str) -> None:
        message.fates[name] = code
        if len(message.fates) == len(message.names):
            self.due.append(message.answers())

    @invariant()
    def everybody_has_heard_what_is_due(self) -> None:
        for name, person in self.people.items():
            if person is not None:
                heard = [line.partition("MSG ")[2] for line in bodies(person.hears()) if "MSG " in line]
                assert heard == [f"{message.origin} {message.tag} x" for message in self.told.get(name, [])], name
        answers = [line.partition(" ")[2] for line in self.sender.hears()]
        assert len(answers) == len(self.due), (answers, self.due)
        for answer in answers:
            code = re.sub("(not-online) .*", r"\1", answer)
            self.due.remove(next(due for due in self.due if {answer, code} & due))
        self.told = {}

    def teardown(self) -> None:
        self.patience.stop()


MessagesToSeveral.TestCase.settings = settings(examples(25), stateful_step_count=40)
TestMessagesToSeveral = MessagesToSeveral.TestCase


# --- Every command in every state ---

STATES = ("stranger", "stranger who said KEEP", "plain", "kept")
TYPED = (
    "", " ", "bob", "bob hi", "carol hi", "alice me too", "nobody hi", "~bob hi", "bob  ", "x" * 3000, "x\ny",
    "bob,carol hi", "carol,nobody hi", "nobody,alice hi", "bob,,carol hi", "* hi", "bob,* hi",
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
    wires = {id(c): (id(c.session), c.rare.keep, c.closed) for c in world.hub.connections}
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


@examples(200)
@given(
    state=st.sampled_from(STATES),
    verb=st.sampled_from((*HANDLERS, "pIng", "ACKK", "MSG", "\u017fEND")),
    tag=st.one_of(st.just(""), st.sampled_from(TAGS)),
    words=WORDS,
)
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
        if "ERROR" in answer and "ERROR partly" not in answer:
            assert everything(scene.world) == before
            assert messages == []
            assert not scene.person.ended
    if verb == "SEND" and scene.is_in and not answers and answers_due(scene, tag, verb) != {0}:
        assert len(messages) == (2 if words.startswith(("bob,carol ", "* ")) else 1)  # then it was queued


@examples(50)
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
