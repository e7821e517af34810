"""Options, where the server listens and how it says that: what of the command line needs no process."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import queue
import re
import selectors
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from wire import Rig, certificate, fault, in_one_place, running

import protocol
import storage
import vessages

Start = Callable[..., vessages.Server]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """`python vessages.py …` in this process, stopped as soon as it runs; gives the server that ran."""
    run, servers = vessages.Server.run, list[vessages.Server]()

    def stop_and_run(server: vessages.Server) -> None:
        servers.append(server)
        server.stop()
        run(server)

    def run_main(*options: str, folder: Path = tmp_path) -> vessages.Server:
        assert vessages.main(["127.0.0.1", "0", "--db", str(folder / "vessages.db"), *options]) == 0
        return servers[-1]

    monkeypatch.setattr(vessages.Signals, "heed", lambda signals: None)
    monkeypatch.setattr(vessages.Server, "run", stop_and_run)
    return run_main


@pytest.mark.parametrize("count", [1, 3])
def test_where_there_is_only_select_its_sockets_are_enough(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], count: int
) -> None:
    listeners = [sock for _ in range(count) for sock in vessages.bind("127.0.0.1", 0)]
    monkeypatch.setattr(vessages, "bind", lambda host, port: listeners)
    monkeypatch.setattr(selectors, "DefaultSelector", selectors.SelectSelector)
    allowed = start().hub.settings.connections_max
    said = f"at most {allowed} clients at once, not 15000: the select of this system allows no more"
    assert said in capfd.readouterr().err
    half_of_the_closing = int(vessages.SPARE_FILES * vessages.CLOSING_SHARE) // 2
    assert allowed + half_of_the_closing + count + len(["the bell"]) <= 512  # FD_SETSIZE of Python on Windows


# --- What is refused --------------------------------------------------------------------------------------------------


PORTS = ["", "-1", "65536", "70000", "five", "5000.0"]
WRONG = {
    "--grace": ["nan", "inf", "0", "86401", "long"], "--hash-cost": ["99"],
    "--backup-every": ["", "5", "h", "0h", "-1h", "1.5h", "1y", "²h", "31d", "721h", "9" * 99 + "s"],
}  # fmt: skip
OTHERS = ["", "0 more", "0 --what", "0 --verbos", "0 --keep 3", "0 --cert none.pem", "0 --tls sometimes"]
OTHERS += ["0 --db=", "0 --db /", "0 --tls --cert none.pem --key none.pem", "0 --tls off --cert vessages.py"]
HOSTS = ["", "[]", "no.such.host.invalid", "256.0.0.1", "192.0.2.1", "-x" * 40, "ü" * 80, "x" * 300]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["127.0.0.1", port], "PORT") for port in PORTS]
    + [(["127.0.0.1", "0", option, text], option) for option, texts in WRONG.items() for text in texts]
    + [(["127.0.0.1", *text.split()], "") for text in OTHERS]
    + [(["--", host, "0"], "no address") for host in HOSTS]
    + [([], "HOST, PORT")],
)
def test_a_wrong_command_line_is_explained_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    check_refusal(arguments, words, capsys)


@pytest.mark.parametrize(
    ("arguments", "mode"),
    [
        ("h 0", "offered"), ("h 0 --tls offered", "offered"), ("h 0 --tls=off", "off"), ("--tls off h 0", "off"),
        ("h 0 --tls only", "only"), ("h 0 --tls", "only"), ("--tls h 0", "only"), ("h 0 --tls --verbose", "only"),
    ],
)  # fmt: skip
def test_tls_alone_means_what_it_once_did(arguments: str, mode: str) -> None:
    assert vessages.parse(arguments.split()).tls == mode


def test_an_empty_host_is_none_also_where_the_system_takes_it_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: resolve(host or "127.0.0.1", *rest, **more))
    with pytest.raises(vessages.StartError, match="there is no address"):
        vessages.bind("", 0)


def test_an_address_in_brackets_is_that_address() -> None:
    assert vessages.parse(["[::1]", "0"]).host == "::1"


@pytest.mark.parametrize("alone", ["--cert", "--key"])
def test_a_certificate_without_its_key_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], alone: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("given.pem").touch()
    other = {"--cert": "--key", "--key": "--cert"}[alone]
    check_refusal(["127.0.0.1", "0", alone, "given.pem"], f"give {other} too", capsys)


def test_a_fault_of_the_system_at_the_start_is_told_with_its_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(vessages, "serve", lambda options, log: refuse(options.db))
    check_refusal(["127.0.0.1", "0", "--db", "secret/vessages.db"], f"{Path('secret/vessages.db')}: Permission", capsys)


def test_a_system_without_room_for_a_thread_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    check_refusal(["127.0.0.1", "0"], "no more threads: raise the limit for processes (ulimit -u", capsys)


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be deleted there")
def test_a_deleted_current_folder_is_refused_without_db(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    check_refusal(["127.0.0.1", "0"], "folder was deleted: change to another one, or give --db", capsys)
    start()  # which says where the accounts are


def check_refusal(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        sys.exit(vessages.main(arguments))
    assert ended.value.code == 2
    out, errors = capsys.readouterr()
    (line,) = errors.splitlines()
    assert (out, line.startswith("vessages.py: "), words in line, "_ssl.c" in line) == ("", True, True, False), line


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a listener: here nothing ends
@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ({}, "--db missing/vessages.db", "no folder"),
        ({"file": "no folder"}, "--db file/vessages.db", "no folder"),
        ({"vessages.db": "my diary, " * 100}, "", "not a Vessages database"),
        ({"cert.pem": "no certificate", "key.pem": "no key"}, "--tls --cert cert.pem --key key.pem", "is not PEM"),
        ({"vessages-cert.pem": "no certificate", "vessages-key.pem": "no key"}, "", "move both away"),
    ],
)
def test_files_that_cannot_be_used_are_refused_and_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: dict[str, str],
    options: str, words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name, text in given.items():
        Path(name).write_text(text)
    check_refusal(["127.0.0.1", "0", *options.split()], words, capsys)
    assert {file.name: file.read_text() for file in Path().iterdir()} == given


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a listener: here nothing ends
def test_a_certificate_of_another_user_is_not_to_be_moved_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*files: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vessages, "_load", refuse)
    for name in ("vessages-cert.pem", "vessages-key.pem"):
        Path(name).write_text("of root")
    check_refusal(["127.0.0.1", "0"], "may not read", capsys)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="who may read everything")
def test_unreadable_accounts_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vessages.db"
    path.touch(mode=0o000)
    check_refusal(["127.0.0.1", "0", "--db", str(path)], "permission", capsys)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("30m", 1800.0), ("6h", 21600.0), ("30d", 2592000.0)])
def test_durations_have_units(text: str, seconds: float) -> None:
    assert vessages.make_parser().parse_args(["h", "0", "--backup-every", text]).backup_every == seconds


@in_one_place
@pytest.mark.skipif(sys.platform != "linux", reason="a setting of Linux")
def test_after_an_outage_the_system_soon_tries_again(rig: Rig) -> None:
    (listener,) = rig.listeners
    try:
        listener.getsockopt(socket.IPPROTO_TCP, vessages.TCP_RTO_MAX_MS)
    except OSError:
        pytest.skip("this Linux is older than 6.15")
    rig.person("alice")
    (accepted,) = (connection.socket for connection in rig.hub.connections)
    assert accepted.getsockopt(socket.IPPROTO_TCP, vessages.TCP_RTO_MAX_MS) == vessages.SEND_AGAIN_WITHIN


def test_an_older_system_tries_again_when_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vessages, "TCP_RTO_MAX_MS", 9999)  # which no system knows
    (listener,) = vessages.bind("127.0.0.1", 0)
    listener.close()


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


no_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6")


@pytest.mark.parametrize("host", ["localhost", pytest.param("::1", marks=no_ipv6)])
def test_it_listens_at_each_address_of_its_host(tmp_path: Path, host: str) -> None:
    with running(tmp_path, host=host) as rig:
        for number, _ in enumerate(rig.listeners):
            assert rig.connect(number).says("PING") == ["OK PING"]


def test_a_port_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (listener,) = vessages.bind("127.0.0.1", 0)
    with listener:
        port = str(listener.getsockname()[1])
        check_refusal(["127.0.0.1", port, "--db", str(tmp_path / "other.db")], "is in use: ", capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_listener_on_loopback_has_that_address_only() -> None:
    assert vessages.lan_addresses(["127.0.0.1"]) == ["127.0.0.1"]


def no_interface(*_: object) -> str:
    raise OSError(errno.ENXIO, "No such device or address")


class Listener(socket.socket):
    """As far as it is asked where it is bound."""

    def getsockname(self) -> tuple[str, int, int, int]:
        return "fe80::77", 5000, 0, 1


@pytest.mark.skipif(sys.platform == "win32", reason="there zones are numbers")
def test_a_link_local_address_has_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "if_indextoname", {1: "lab0"}.__getitem__)
    with Listener() as listener:
        assert vessages.bound_address(listener) == "fe80::77%lab0"
        monkeypatch.setattr(socket, "if_indextoname", no_interface)
        assert vessages.bound_address(listener) == "fe80::77%1"


def test_of_a_machine_with_very_many_addresses_the_first_are_shown() -> None:
    addresses = [f"10.1.2.{number}" for number in range(1, 81)]
    lines = vessages.Greeting(["0.0.0.0"], 5000, "").text(addresses).splitlines()
    shown = [line.split()[2] for line in lines if " client.py " in line]
    assert shown == addresses[: vessages.JOIN_LINES]
    assert f"({80 - vessages.JOIN_LINES} more addresses of this machine serve as well)" in lines
    exactly = vessages.Greeting(["0.0.0.0"], 5000, "").text(shown)
    assert "more addresses" not in exactly and exactly.count(" client.py ") == vessages.JOIN_LINES


def test_a_line_to_join_with_says_which_part_is_this_machines() -> None:
    text = vessages.Greeting(["fe80::77%lab0"], 5000, "").text(["fe80::77%lab0"])
    assert " client.py fe80::77%lab0 5000\nwhere the word behind % is this machine's " in text


def test_an_address_without_its_zone_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    found = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::77", 0, 0, 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [found])
    with pytest.raises(vessages.StartError, match=r"add %INTERFACE, such as fe80::77%eth0"):
        vessages.bind("fe80::77", 0)


def test_a_port_that_windows_keeps_for_itself_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise PermissionError(errno.EACCES, "forbidden")

    monkeypatch.setattr(vessages, "_listen_at", refuse)
    cases = [("win32", 50000, "netsh interface"), ("win32", 80, "above 1023"), ("linux", 80, "above 1023")]
    for platform, port, said in cases:
        monkeypatch.setattr(sys, "platform", platform)
        with pytest.raises(vessages.StartError, match=said):
            vessages.bind("127.0.0.1", port)


EVERYWHERE = ["0.0.0.0"]
LOOPBACK = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 0))
NAMED = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.7.7.7", 0))


class WithoutRoute(socket.socket):
    def connect(self, address: Any) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has no default route, its interfaces are loopback, and its name stands for that only."""
    monkeypatch.setattr(socket, "socket", WithoutRoute)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [LOOPBACK])
    monkeypatch.setattr(vessages, "interface_addresses", lambda: ["127.0.0.1", "::1", "fe80::1"])


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> queue.SimpleQueue[str]:
    """The greetings that were printed."""
    texts: queue.SimpleQueue[str] = queue.SimpleQueue()
    monkeypatch.setattr(vessages, "tell", texts.put)
    return texts


def test_without_a_default_route_the_interfaces_are_asked(isolated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vessages, "interface_addresses", lambda: ["127.0.0.1", "10.1.2.3", "10.4.5.6", "fd00::5"])
    assert vessages.lan_addresses(EVERYWHERE) == ["10.1.2.3", "10.4.5.6"]
    assert vessages.lan_addresses(["::"]) == ["10.1.2.3", "10.4.5.6", "fd00::5"]


@pytest.mark.skipif(sys.platform != "linux", reason="asked on Linux only")
def test_the_interfaces_tell_their_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "127.0.0.1" in vessages.interface_addresses()
    (tmp_path / "if_inet6").write_text("fd000001000000000000000000000005 03 40 00 80     eth0\n")
    monkeypatch.setattr(vessages, "IF_INET6", tmp_path / "if_inet6")
    assert vessages.interface_addresses()[-1] == "fd00:1::5"


def test_a_greeting_without_an_address_does_not_say_loopback(isolated: None, told: queue.SimpleQueue[str]) -> None:
    vessages.greet(vessages.Greeting(EVERYWHERE, 5000, "Accounts: here"))
    assert told.get(timeout=60).splitlines() == [
        f"Vessages {protocol.VERSION} listens at 0.0.0.0 port 5000.",
        "Accounts: here",
        f"Others join with ({vessages.OTHER_SYSTEM}: {vessages.OTHER_PYTHON} instead of {storage.PYTHON})",
        f"    {storage.PYTHON} client.py ADDRESS 5000",
        "where ADDRESS is that of this machine in the network.",
        f"Ctrl-C stops the server, {vessages.QUESTION_KEY} logs who is connected.",
    ]


def test_a_name_server_that_does_not_answer_holds_nothing_up(
    isolated: None, told: queue.SimpleQueue[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()

    def getaddrinfo(*_: object, **__: object) -> list[Any]:
        answer.wait(60)
        return [NAMED]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(vessages, "INTERFACES_TELL", False)
    monkeypatch.setattr(vessages, "NAME_WITHIN", 0.01)
    vessages.greet(vessages.Greeting(EVERYWHERE, 5000, ""))  # comes back
    assert " client.py ADDRESS 5000" in told.get(timeout=60)
    answer.set()


@pytest.mark.parametrize("tells", [True, False])
def test_the_name_is_asked_for_where_the_interfaces_cannot_be(
    isolated: None, told: queue.SimpleQueue[str], monkeypatch: pytest.MonkeyPatch, tells: bool
) -> None:
    monkeypatch.setattr(vessages, "INTERFACES_TELL", tells)
    monkeypatch.setattr(vessages, "interface_addresses", lambda: ["10.1.2.3"])
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [NAMED])
    vessages.greet(vessages.Greeting(EVERYWHERE, 5000, ""))
    assert re.findall(r"client\.py (\S+)", told.get(timeout=60)) == ["10.1.2.3"] + ["10.7.7.7"] * (not tells)


def test_the_name_server_is_not_asked_about_an_address_that_was_given(
    told: queue.SimpleQueue[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", fault)
    vessages.greet(vessages.Greeting(["10.1.2.3"], 5000, ""))
    assert " client.py 10.1.2.3 5000" in told.get(timeout=60)


@pytest.mark.parametrize("mode", vessages.TLS_CHOICES)
def test_it_says_where_it_listens_how_to_join_and_whom_to_trust(
    tmp_path: Path, start: Start, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    if mode != "off":
        certificate()
    start("--tls", mode)
    pair = [tmp_path / "vessages-cert.pem", tmp_path / "vessages-key.pem"]
    assert [path.exists() for path in pair] == [mode != "off"] * 2
    words = ["The certificate's fingerprint:"]
    words += protocol.fingerprint_words(vessages.fingerprint(pair[0])).splitlines() if mode != "off" else []
    lines = capsys.readouterr().out.splitlines()
    port = lines[0].split()[-1]
    assert lines == [
        f"Vessages {protocol.VERSION} listens at 127.0.0.1 port {port}",
        f"Accounts: {(tmp_path / 'vessages.db').resolve()} (new, no accounts yet)",
        "Others on this machine join with"
        f" ({vessages.OTHER_SYSTEM}: {vessages.OTHER_PYTHON} instead of {storage.PYTHON})",
        f"    {storage.PYTHON} client.py 127.0.0.1 {port[:-1]}",
        *(words if mode != "off" else []),
        f"Ctrl-C stops the server, {vessages.QUESTION_KEY} logs who is connected.",
    ]


def test_without_openssl_it_serves_plain_says_so_and_what_to_do_or_is_refused_if_only_tls_will_do(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vessages, "openssl_programs", lambda: iter([]))
    assert start().encryption.context is None
    said = capsys.readouterr().out
    assert "\nNothing is encrypted, so the network can read passwords:\nthere is no openssl" in said
    assert re.search(r"\n    openssl req -x509 .*\n", said)
    assert not list(tmp_path.glob("*.pem*"))
    monkeypatch.chdir(tmp_path)
    options = vessages.parse(["127.0.0.1", "0", "--tls", "only"])
    with pytest.raises(vessages.StartError, match=r"^there is no openssl here .*: openssl req [^\n]*$"):
        vessages.offer_tls(options, ["127.0.0.1"], vessages.write_nowhere)


def test_options_reach_the_server(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    server = start("--grace", "90", "--password-min", "12", "--connections", "2", "--hash-cost", "2,1,1", "--verbose")
    assert server.hub.settings == protocol.Settings(90.0, 12, 2, True)
    assert (server.workers._cost, server.verbose, server.encryption.only) == (storage.Cost(2, 1, 1), True, False)
    assert start("--tls", "only").encryption.only
    assert not start("--no-register").hub.settings.registration
    with pytest.raises(SystemExit) as ended:
        vessages.main(["--version"])
    assert (ended.value.code, capsys.readouterr().out.splitlines()[-1]) == (0, f"Vessages {protocol.VERSION}")


@pytest.mark.parametrize(("options", "words"), [
    ([], "(new, no accounts yet)"),
    (["--no-register"], "(new, no accounts yet and none can be made: start it once without --no-register)"),
])  # fmt: skip
def test_a_server_without_accounts_says_so_once(
    start: Start, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    for ending in (words, "vessages.db"):
        start(*options)
        assert capsys.readouterr().out.splitlines()[1].endswith(ending)


def test_it_says_that_it_has_stopped_when_all_is_done(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    end = vessages.Backups.end

    def end_and_say_so(backups: vessages.Backups) -> None:
        end(backups)
        backups._log("the last backup is made")

    monkeypatch.setattr(vessages.Backups, "end", end_and_say_so)
    start("--backup-every", "1d")
    said = [line.split(" ", 2)[2] for line in capfd.readouterr().err.splitlines()]
    assert said[-2:] == ["the last backup is made", "stopped"]


def test_it_runs_though_nobody_reads_its_greeting(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        try:
            start()
        finally:
            with contextlib.suppress(OSError):
                nobody.close()


@pytest.mark.parametrize(("terminal", "told"), [(True, rb"\u041c\u0430"), (False, "Мария".encode())])
def test_it_runs_though_its_output_cannot_show_where_the_accounts_are(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, terminal: bool, told: bytes
) -> None:
    folder = tmp_path / "Мария"
    folder.mkdir()
    output = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(output, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdout", output)
    start(folder=folder)
    assert told in output.buffer.getvalue()


def test_ctrl_c_while_it_starts_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vessages, "bind", interrupt)
    try:
        assert vessages.main(["127.0.0.1", "0"]) == 130
    except KeyboardInterrupt:
        pytest.fail("a traceback for somebody who has changed his mind")
