"""The parts of the benchmark: what it counts, how it sums up, and one run of every row at a tiny size.

Nothing here says how fast anything is.
"""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import bench
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import SERVER_FRAME_MAX, FrameDecoder, frame

TINY = bench.Scale(seconds=0.05, repeats=1, pairs=2, many=20, logins=6, broadcasts=1)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces, cut at these places."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.settimeout(10)
        yield ours, theirs


# --- What it counts ---


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 10**6), st.lists(st.integers(0, 4000), max_size=9))
def test_numbered_frames_are_counted_however_they_come_in(kinds: list[bool], first: int, places: list[int]) -> None:
    stream, seq = b"", first - 1
    for numbered in kinds:  # between them there may be frames without a number
        seq += numbered
        stream += frame(b"@%d MSG u00001 7 2026-11-22T15:04:05.123Z " % seq + bench.TEXT if numbered else b"PING")
    with socket.socket() as sock:
        reader = bench.Numbered(sock)
        reader.last = first - 1
        assert sum(reader.read(piece) for piece in cut(stream, places)) == sum(kinds)
        assert reader.ack() == frame(b"ACK %d" % seq)


def test_an_error_among_numbered_frames_ends_the_run() -> None:
    with socket.socket() as sock, pytest.raises(bench.BenchError, match="busy"):
        bench.Numbered(sock).read(frame(b"@1 #5 ERROR busy too much is waiting"))


@given(st.lists(st.integers(0, 4000), max_size=9))
def test_a_flow_sends_as_many_as_arrive(places: list[int]) -> None:
    message = frame(b"MSG u00000 0 2026-11-22T15:04:05.123Z " + bench.TEXT)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        flow = bench.Flow(ours, ours, 1, 3)
        delivered = 0
        for piece in filter(None, cut(message * 7, places)):
            theirs.sendall(piece)
            delivered += flow.pump()
        assert (delivered, flow.sent) == (7, 10)
        flow.stop()
        theirs.sendall(message)
        assert (flow.pump(), flow.sent) == (1, 10)
        assert theirs.recv(1 << 16) == bench.send_frame(1) * 10


def test_a_kept_pair_acknowledges_and_goes_on(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    sender = bench.KeptSender(ours, 1, 2)
    sends = theirs.recv(1 << 16)
    tag = int(sends[5 : sends.index(b" ")])
    assert sends == b"".join(frame(b"#%d SEND u00001 " % number + bench.TEXT) for number in (tag, tag + 1))
    theirs.sendall(frame(b"@1 #%d OK SEND" % tag))
    assert (sender.pump(), sender.sent) == (0, 3)
    assert theirs.recv(1 << 16) == frame(b"ACK 1") + frame(b"#%d SEND u00001 " % (tag + 2) + bench.TEXT)
    sender.stop()
    theirs.sendall(frame(b"@2 #%d OK SEND" % (tag + 1)))
    assert (sender.pump(), sender.sent) == (0, 3)
    receiver = bench.KeptReceiver(ours)
    theirs.recv(1 << 16)
    theirs.sendall(b"".join(frame(b"@%d MSG u00000 7 2026-11-22T15:04:05.123Z x" % seq) for seq in (1, 2)))
    assert receiver.pump() == 2
    assert theirs.recv(1 << 16) == frame(b"ACK 2")


def test_a_roster_follows_what_is_told() -> None:
    roster = bench.Roster(kept=True)
    roster.feed(frame(b"OK LOGIN ann") + frame(b"ONLINE ann bob ~cid"))
    assert (roster.has_come, roster.online) == (True, {"ann", "bob"})
    roster.feed(frame(b"PRESENCE +cid -bob ~ann"))
    assert roster.online == {"cid"}
    with pytest.raises(bench.BenchError, match="busy"):
        roster.feed(frame(b"ERROR busy wait"))


def test_a_closed_connection_ends_the_run(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.close()
    with pytest.raises(bench.BenchError, match="closed"):
        bench.receive(ours)


# --- How it sums up ---


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_the_least_value_that_covers_its_share(times: list[float], share: float) -> None:
    value = bench.percentile(times, share)
    assert value in times
    assert sum(time <= value for time in times) >= share * len(times) - 1e-6
    assert sum(time < value for time in times) <= share * len(times)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0:01.25", 1.25), ("1:02.50", 62.5), ("01:02:03", 3723), ("2-00:00:01", 172801)]
)
def test_the_clock_of_ps_is_read(text: str, seconds: float) -> None:
    assert bench.parse_clock(text) == seconds


def result_of(row: bench.Row, ours: list[float], theirs: list[float]) -> bench.Result:
    figures = {"vessages": ours} if row.alone else {"vessages": ours, "asyncio": theirs}
    readings = {name: [bench.Reading(figure, 0.9, 0.2, {}) for figure in them] for name, them in figures.items()}
    return bench.Result(row, readings)


def test_a_ratio_is_that_of_neighbouring_runs() -> None:
    row = bench.make_rows(TINY)[0]
    result = result_of(row, [1.0, 2.0, 4.0], [10.0, 10.0, 80.0])
    assert result.ratio() == (0.1, 0.05, 0.2)
    assert result.verdict() == "at most 0.11: yes"
    assert result_of(row, [1.0], [5.0]).verdict() == "at most 0.11: NO"
    assert "server 90%, generator 20%" in bench.describe(result)
    assert json.loads(json.dumps(result.as_json()))["ratio"]["median"] == 0.1


def test_a_row_without_a_peer_is_held_against_its_figure() -> None:
    row = next(row for row in bench.make_rows(TINY) if row.alone)
    result = result_of(row, [2.0], [])
    assert (result.ratio(), result.verdict()) == (None, "at most 3: yes")
    assert bench.table([result]).splitlines()[-1].endswith("| 2 x | – | – | figure at most 3: yes |")


# --- The real servers ---


@pytest.mark.parametrize("row", bench.make_rows(TINY), ids=lambda row: row.key)
def test_every_row_can_be_measured(row: bench.Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny run: what matters is that both servers speak as the generator expects, and that no message is lost."""
    monkeypatch.setattr(bench, "WARM_UP", 0.0)
    monkeypatch.setattr(bench, "QUIET", 0.15)
    monkeypatch.setattr(bench, "REAL_HASH", bench.CHEAP_HASH)
    result = bench.measure_row(row, 1)
    assert all(len(readings) == 1 for readings in result.readings.values())
    assert row.title in bench.table([result])


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(bench.BenchError, match="no such thing"):
        bench.Server(tmp_path, ["-c", "import sys; sys.exit('no such thing')"])


def test_the_program_as_it_is_called() -> None:
    command = [sys.executable, bench.__file__, "--quick", "--only", "nonsense"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 2
    assert "streaming" in answer.stderr


def test_the_peer_answers_like_the_wire_says() -> None:
    """The rest of its commands, which no row uses."""
    dialogue = [
        (b"SEND u00000 x", b"#0 ERROR not-logged-in log in first"),
        (b"#7 WHO", b"#7 ERROR not-logged-in log in first"),
        (b"LOGIN u00000 wrong", b"ERROR bad-login wrong name or password"),
        (b"REGISTER u00000 again", b"ERROR name-taken that name is taken"),
        (b"LOGIN u00000 " + bench.PASSWORD.encode(), b"OK LOGIN u00000"),
        (b"#8 SEND u00009 x", b"#8 ERROR not-online nobody of that name is online"),
        (b"who", b"OK WHO u00000"),
        (b"PING x", b"OK PING x"),
        (b"NONSENSE", b"ERROR bad-command there is no such command"),
        (b"LOGOUT", b"OK LOGOUT"),
    ]
    told = b"".join(frame(question) for question, _ in dialogue)
    with bench.running(bench.KINDS[1], 1) as server, closing(bench.connect(server.port, told)) as sock:
        sock.setblocking(True)
        sock.settimeout(10)
        decoder = FrameDecoder(SERVER_FRAME_MAX)
        answers: list[bytes] = []
        while len(answers) < len(dialogue):
            decoder.feed(bench.receive(sock))
            answers += [answer for answer in decoder.payloads() if not answer.startswith((b"ONLINE", b"PRESENCE"))]
    assert answers == [answer for _, answer in dialogue]
