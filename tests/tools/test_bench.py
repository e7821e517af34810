"""The parts of the benchmark: what it counts, how it sums up, and one run of every row at a tiny size.

Nothing here says how fast anything is.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
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
from vocabulary import examples

from protocol import SERVER_FRAME_MAX, FrameDecoder, frame

if sys.platform == "win32":
    pytest.skip("a server cannot be measured: Windows tells nothing about other processes", allow_module_level=True)

TINY = bench.Scale(seconds=0.05, repeats=1, pairs=2, some=15, many=20, logins=6, broadcasts=1)
VESSAGES = bench.vessages(bench.OWN, bench.ROOT)
# These differ from others in a number only, or in TLS, which two rows have.
ALIKE = {"ping-pong-1", "everybody", "everybody-p99", "tls-ping-pong", "tls-memory"}
RUNS = [(bench.OWN, row.key) for row in bench.make_rows(TINY) if row.key not in ALIKE]  # each row, and each server
RUNS += [(name, "streaming") for name in bench.PEERS]
RUNS += [("asyncio-protocol", "presence"), ("asyncio-protocol", "everybody-some"), ("floor", "everybody-some")]


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


@examples(30)
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


@examples(30)
@given(st.lists(st.integers(0, 4000), max_size=9))
def test_a_flow_sends_as_many_as_arrive(places: list[int]) -> None:
    message = frame(b"MSG u00000 0 2026-11-22T15:04:05.123Z " + bench.TEXT)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        flow = bench.Flow(ours, ours, bench.OURS.send(1), len(message), 3)
        delivered = 0
        for piece in filter(None, cut(message * 7, places)):
            theirs.sendall(piece)
            delivered += flow.pump()
        assert (delivered, flow.sent) == (7, 10)
        flow.stopped = True
        theirs.sendall(message)
        assert (flow.pump(), flow.sent) == (1, 10)
        assert theirs.recv(1 << 16) == bench.OURS.send(1) * 10


def test_a_kept_pair_acknowledges_and_goes_on(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    sender = bench.KeptSender(ours, 1, 2)
    sends = theirs.recv(1 << 16)
    tag = int(sends[5 : sends.index(b" ")])
    assert sends == b"".join(frame(b"#%d SEND u00001 " % number + bench.TEXT) for number in (tag, tag + 1))
    theirs.sendall(frame(b"@1 #%d OK SEND" % tag))
    assert (sender.pump(), sender.sent) == (0, 3)
    assert theirs.recv(1 << 16) == frame(b"ACK 1") + frame(b"#%d SEND u00001 " % (tag + 2) + bench.TEXT)
    sender.stopped = True
    theirs.sendall(frame(b"@2 #%d OK SEND" % (tag + 1)))
    assert (sender.pump(), sender.sent) == (0, 3)
    receiver = bench.KeptReceiver(ours)
    theirs.recv(1 << 16)
    theirs.sendall(b"".join(frame(b"@%d MSG u00000 7 2026-11-22T15:04:05.123Z x" % seq) for seq in (1, 2)))
    assert receiver.pump() == 2
    assert theirs.recv(1 << 16) == frame(b"ACK 2")


def test_a_roster_follows_what_is_told() -> None:
    roster = bench.Roster()
    roster.feed(frame(b"OK LOGIN ann") + frame(b"ONLINE ann bob ~cid"))
    assert roster.online == {"ann", "bob"}
    roster.feed(frame(b"PRESENCE +cid -bob ~ann"))
    assert roster.online == {"cid"}


def test_a_closed_connection_ends_the_run(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.close()
    with pytest.raises(bench.BenchError, match="closed"):
        bench.receive(ours)


# --- How it sums up ---


@examples(30)
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


def result_of(ours: list[float], **theirs: list[float]) -> bench.Result:
    goals = {"asyncio": 0.11, "ngircd": 1.0, bench.FIGURE: 3}
    row = bench.Row("key", "some row", "µs", VESSAGES.kept, goals=goals, readme="a row")  # type: ignore[arg-type]
    figures = {bench.OWN: ours, **{name.replace("_", "-"): figures for name, figures in theirs.items()}}
    readings = {name: [bench.Reading(figure, 0.9, 0.2, {}) for figure in them] for name, them in figures.items()}
    return bench.Result(row, readings)


def test_a_ratio_is_that_of_neighbouring_runs() -> None:
    result = result_of([1.0, 2.0, 4.0], asyncio_streams=[10.0, 10.0, 80.0], asyncio_protocol=[10.0, 20.0, 90.0])
    assert result.ratio("asyncio-streams") == (0.1, 0.05, 0.2)
    assert "server 90%, generator 20%" in bench.describe(result)


def test_a_goal_is_held_against_the_leaner_of_two_peers_or_the_figure_itself() -> None:
    result = result_of([2.0], asyncio_streams=[30.0], asyncio_protocol=[10.0])
    assert [*result.verdicts()] == ["asyncio at most 0.11: 0.200, NO", "figure at most 3: 2, yes"]
    assert bench.table([result]).splitlines()[2].startswith("| some row | 2 µs | 30 µs | 10 µs |")
    assert bench.readme_table([result]).splitlines()[2] == "| a row | 2 µs | 10 µs |  |  |"


# --- The real servers ---


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "WARM_UP", 0.0)
    monkeypatch.setattr(bench, "QUIET", 0.4)  # on a busy machine an answer takes that long
    monkeypatch.setattr(bench, "REAL_HASH", bench.CHEAP_HASH)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(("name", "key"), RUNS)
def test_every_row_and_every_server_can_be_measured(name: str, key: str) -> None:
    """A tiny run: what matters is that each server speaks as the generator expects, and that no message is lost."""
    kind = bench.PEERS.get(name, VESSAGES)
    if (kind.install and bench.find(name) is None) or (key.startswith("tls") and shutil.which("openssl") is None):
        pytest.skip(kind.install or "no openssl here")
    (row,) = [row for row in bench.make_rows(TINY) if row.key == key]
    assert kind is VESSAGES or name in row.peers
    assert [*bench.measure_row(row, [kind], 1).readings] == [name]


def test_a_server_that_is_not_here_is_said_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "find", lambda name: None)
    monkeypatch.setattr(bench, "make_rows", lambda scale: [])
    assert bench.main(["--peer", "ngircd"]) == 0
    assert "ngircd is not here: apt-get install ngircd\n" in capsys.readouterr().out


def test_only_the_rows_of_the_readme_are_measured_for_its_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(kind: bench.Kind) -> bench.Reading:
        return bench.Reading(1.0, 1.0, 0.5, {})

    rows = [bench.Row("one", "title", "µs", measure, readme="a row"), bench.Row("two", "other", "µs", measure)]
    monkeypatch.setattr(bench, "make_rows", lambda scale: rows)
    assert bench.main(["--readme", "--peer", "none"]) == 0
    said = capsys.readouterr().out
    assert said.endswith("| a row | 1 µs |  |  |  |\n")
    assert "other" not in said


def test_a_server_that_fails_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    def measure(kind: bench.Kind) -> bench.Reading:
        if kind is not VESSAGES:
            raise bench.BenchError("it has gone")
        return bench.Reading(1.0, 1.0, 0.5, {})

    row = bench.Row("key", "some row", "µs", measure)
    result = bench.measure_row(row, [VESSAGES, bench.PEERS["asyncio-streams"]], 2)
    assert {name: len(readings) for name, readings in result.readings.items()} == {bench.OWN: 2}
    assert capsys.readouterr().err == "key: no figure of asyncio-streams, it has gone\n"


@pytest.mark.usefixtures("tiny")
def test_an_older_server_is_measured_beside_the_present_one() -> None:
    """It prepares its accounts by itself: it could not read a newer file."""
    if not (bench.ROOT / ".git").exists():
        pytest.skip("there are no older ones in a copy of the files")
    with bench.older("HEAD") as (old,), bench.running(old, 2) as server, bench.Crowd(server) as crowd:
        assert old.name == bench.OLD
        assert len(crowd.log_in(map(old.token, range(2)))) == 2


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such thing')"]
    for port in (None, 1):
        with pytest.raises(bench.BenchError, match="no such thing"):
            bench.Server(tmp_path, command, port=port)


def test_what_children_of_a_server_cost_counts(tmp_path: Path) -> None:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this system does not tell of children")
    child = "print('127.0.0.1 port 1', flush=True)\nwhile True: pass"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]).wait()"
    server = bench.Server(tmp_path, [sys.executable, "-c", parent])
    try:
        start, _, *children = server.cpu(), *server._tree()
        while server.cpu() < start + 0.05:
            pass
    finally:
        server.stop()
        for pid in children:
            os.kill(pid, signal.SIGKILL)


def test_the_program_as_it_is_called() -> None:
    command = [sys.executable, bench.__file__, "--quick", "--only", "nonsense"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 2
    assert "streaming" in answer.stderr


@pytest.mark.parametrize("name", bench.ASYNCIO)
def test_our_peers_say_what_goes_wrong(name: str) -> None:
    told = [b"LOGIN u00000 x", b"SEND u00009 x", b"NONSENSE"]
    heard = [b"OK LOGIN u00000", b"ONLINE u00000", b"#0 ERROR not-online nobody of that name is online",
             b"ERROR bad-command there is no such command"]  # fmt: skip
    with bench.running(bench.PEERS[name], 1) as server, closing(bench.connect(server, b"")) as sock:
        sock.setblocking(True)
        sock.settimeout(10)
        for byte in b"".join(map(frame, told)):
            sock.sendall(bytes([byte]))
        decoder, answers = FrameDecoder(SERVER_FRAME_MAX), list[bytes]()
        while len(answers) < len(heard):
            decoder.feed(bench.receive(sock))
            answers += [answer for answer in decoder.payloads() if not answer.startswith(b"PRESENCE")]
    assert answers == heard
