"""The handshake, and the certificate that the server makes for itself."""

from __future__ import annotations

import contextlib
import errno
import getpass
import hashlib
import io
import os
import re
import selectors
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from vocabulary import END, PASSWORD, STAMP
from wire import certificate, encode, fault, noting_in, running

import protocol
import vessages

HELLO = b"\x16\x03\x01\x02\x00\x01"  # the beginning of what a TLS client says first


def test_after_the_handshake_nothing_has_to_be_said_at_once(tmp_path: Path) -> None:
    with running(tmp_path, tls=True) as rig:
        quiet = rig.connect()
        quiet.lively = False
        rig.wait(44)
        assert quiet.next() == ["PING"]
        assert quiet.says("PING me") == ["OK PING me"]


def test_a_handshake_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    with running(tmp_path, tls=True) as rig:
        alice = rig.person("alice")
        rig.tls = False
        for hello in (HELLO[:1], HELLO):
            slow = rig.connect().say_bytes(hello)
            alice.hears()
            assert rig.is_at_rest()
            rig.wait(29)
            assert not slow.ended
            rig.wait(2)
            assert slow.ends() == [END]  # without a word
        assert alice.says("WHO") == ["OK WHO alice"]


def test_a_handshake_goes_on_when_there_is_room_for_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_no_room(sock: ssl.SSLSocket) -> None:
        monkeypatch.undo()
        raise ssl.SSLWantWriteError

    with running(tmp_path, tls=True) as rig:
        monkeypatch.setattr(vessages.RecordSocket, "do_handshake", find_no_room)
        rig.tls = False
        rig.connect().say_bytes(HELLO)
        rig.turn()
        assert rig.interest() == [selectors.EVENT_READ | selectors.EVENT_WRITE]
        rig.turn()
        assert rig.interest() == [selectors.EVENT_READ]


def test_no_frame_waits_in_the_tls_library_for_the_next_event(tmp_path: Path) -> None:
    """One `recv` takes a whole record; the selector tells of the next."""
    with running(tmp_path, tls=True) as rig:
        alice = rig.person("alice")
        alice.say(*[f"PING {number} {'x' * 5000}" for number in range(12)])  # one send, several records
        assert [answer.split(" ")[2] for answer in alice.next(12)] == [str(number) for number in range(12)]
        assert rig.is_at_rest()


def test_a_handshake_outlives_a_suspended_server(tmp_path: Path) -> None:
    with running(tmp_path, tls=True) as rig:
        rig.tls = False
        slow = rig.connect().say_bytes(HELLO)
        rig.turns(2)
        rig.clock.now += 3600  # the lid was closed, which does not count
        rig.wait(29)
        assert not slow.ended
        rig.wait(2)
        assert slow.ends() == [END]


LOGIN = encode("REGISTER bob longenough") + encode("LOGIN alice " + PASSWORD)


@pytest.mark.parametrize("hello", [LOGIN, LOGIN[:1], b"GET / HTTP/1.0\r\n\r\n", bytes(100)])
def test_where_encryption_is_asked_of_all_a_plain_client_is_refused_unheard(tmp_path: Path, hello: bytes) -> None:
    with running(tmp_path, tls=True, serves="only") as rig:
        alice = rig.person("alice")
        rig.tls = False
        said = rig.connect().say_bytes(hello).ends()
        assert said == [protocol.error(protocol.Code.ENCRYPTED_ONLY), END]
        assert alice.says("WHO") == ["OK WHO alice"]
        assert rig.statuses() == {"alice": "online"}


def test_where_nothing_is_encrypted_a_tls_client_is_answered_in_a_frame(tmp_path: Path) -> None:
    with running(tmp_path, serves="off") as rig:
        assert rig.connect().say_bytes(HELLO).ends()[0].startswith("ERROR bad-frame ")


def test_plain_and_encrypted_people_are_in_one_chat(tmp_path: Path) -> None:
    with running(tmp_path, tls=True) as rig:
        alice = rig.person("alice")
        rig.tls = False
        bob = rig.person("bob")
        assert alice.sees("alice", "bob")
        assert alice.says("#1 SEND bob hi") == ["#1 OK SEND"]
        assert bob.says("SEND alice hello") == [f"MSG alice 1 {STAMP} hi"]
        assert alice.hears() == [f"MSG bob 0 {STAMP} hello"]


def test_the_first_byte_is_looked_at_once_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[bytes] = []
    recv = socket.socket.recv

    def recv_and_note(sock: socket.socket, size: int, flags: int = 0) -> bytes:
        data = recv(sock, size, flags)
        if flags:
            looks.append(data)
        return data

    with running(tmp_path) as rig:
        monkeypatch.setattr(socket.socket, "recv", recv_and_note)
        alice = rig.person("alice")
        for _ in range(5):
            alice.says("SEND alice hi")
        assert looks == [b"\0"]


def test_a_certificate_is_made_for_its_owner_only_and_has_a_fingerprint(tmp_path: Path) -> None:
    cert, key = certificate() / "cert.pem", certificate() / "key.pem"
    with running(tmp_path, tls=True) as rig:
        sock = rig.person("alice").socket
        assert isinstance(sock, ssl.SSLSocket)
        digest = hashlib.sha256(sock.getpeercert(binary_form=True) or b"").hexdigest()
        assert sock.version() in ("TLSv1.2", "TLSv1.3")
    assert vessages.fingerprint(cert).replace(":", "").lower() == digest
    assert sys.platform == "win32" or key.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there is no root")
def test_a_certificate_that_root_makes_belongs_to_the_owner_of_the_folder(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, handed_over = tmp_path.stat(), []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda *arguments: handed_over.append(arguments[1:]))
    vessages.tls_context(*pair)
    assert handed_over == [(owner.st_uid, owner.st_gid)] * 2


def test_a_certificate_that_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = certificate()
    vessages.tls_context(folder / "cert.pem", folder / "key.pem")
    monkeypatch.setattr(vessages, "openssl_programs", fault)
    vessages.tls_context(folder / "cert.pem", folder / "key.pem")


@pytest.mark.parametrize("program", [None, sys.executable, "/no/such/program"])
def test_without_openssl_the_command_to_run_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str | None
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: program)
    with pytest.raises(vessages.StartError, match=r"openssl req -x509 .*key\.pem.*cert\.pem"):
        vessages.tls_context(tmp_path / "cert.pem", tmp_path / "key.pem")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Where a certificate and its key are to be made. The test is skipped where there is nothing to make them with."""
    certificate()
    return tmp_path / "vessages-cert.pem", tmp_path / "vessages-key.pem"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other rights")
@pytest.mark.parametrize("mask", [0, 0o077])
def test_the_key_is_its_owners_whatever_the_umask(pair: tuple[Path, Path], mask: int) -> None:
    before = os.umask(mask)
    try:
        vessages.tls_context(*pair)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in pair] == [0o644, 0o600]


@pytest.mark.parametrize("empty", [(0, 1), (0,), (1,)])
def test_a_pair_that_was_never_whole_is_made_anew(pair: tuple[Path, Path], empty: tuple[int, ...]) -> None:
    for index in empty:
        pair[index].touch()
    vessages.tls_context(*pair)
    assert [path.stat().st_size > 0 for path in pair] == [True, True]
    assert sorted(pair[0].parent.iterdir()) == sorted(pair)


@pytest.mark.parametrize("alone", [0, 1])
def test_a_file_that_was_alone_is_set_aside(
    pair: tuple[Path, Path], alone: int
) -> None:
    said: list[str] = []
    vessages.tls_context(*pair)
    before = pair[alone].read_bytes()
    pair[1 - alone].unlink()
    vessages.tls_context(*pair, log=noting_in(said))
    aside = pair[alone].with_name(pair[alone].name + ".old")
    assert aside.read_bytes() == before
    assert pair[alone].read_bytes() != before
    assert said == [f"{pair[alone]} was alone: it is {aside} now, and a new certificate and its key were made"]


@pytest.mark.parametrize("broken", [0, 1])
def test_a_certificate_that_cannot_be_loaded_is_never_replaced(pair: tuple[Path, Path], broken: int) -> None:
    vessages.tls_context(*pair)
    pair[broken].write_text("no PEM")
    before = [path.read_bytes() for path in pair]
    with pytest.raises(vessages.StartError, match="cannot use"):
        vessages.tls_context(*pair)
    assert [path.read_bytes() for path in pair] == before


@pytest.mark.skipif(sys.platform == "win32", reason="links are for few there")
def test_a_link_whose_disk_is_not_mounted_stays(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for path in pair:
        path.symlink_to(tmp_path / "not mounted" / path.name)
    with pytest.raises(vessages.StartError, match="No such file"):
        vessages.tls_context(*pair)
    assert all(path.is_symlink() for path in pair)


def test_a_certificate_that_was_chosen_is_never_made(pair: tuple[Path, Path]) -> None:
    vessages.tls_context(*pair)
    pair[1].unlink()
    with pytest.raises(vessages.StartError, match="No such file"):
        vessages.tls_context(*pair, ours=False)
    assert not pair[1].exists()


@pytest.mark.parametrize("written", [[], ["key.pem"], ["key.pem", "cert.pem"]])
def test_a_full_disk_is_told_as_that_and_nothing_is_left(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, written: list[str]
) -> None:
    def run(words: list[str], **_: object) -> None:  # ends well, though what it wrote did not get to the disk
        for name in written:
            (pair[0].parent / "vessages-cert.pem.new" / f"vessages-{name}").touch()

    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(vessages.StartError, match=re.escape(os.strerror(errno.ENOSPC))):
        vessages.tls_context(*pair)
    assert list(pair[0].parent.iterdir()) == []
    monkeypatch.undo()
    vessages.tls_context(*pair)


def test_a_start_that_was_killed_leaves_nothing_in_the_way(pair: tuple[Path, Path]) -> None:
    drafts = pair[0].with_name("vessages-cert.pem.new")
    drafts.mkdir()
    (drafts / "key.pem").write_text("half a k")
    vessages.tls_context(*pair)
    assert sorted(pair[0].parent.iterdir()) == sorted(pair)


def encrypt(key: Path) -> None:
    words = ["openssl", "pkey", "-in", str(key), "-aes128", "-passout", "pass:the passphrase"]
    key.write_bytes(subprocess.run(words, check=True, capture_output=True).stdout)


def test_without_a_terminal_a_key_with_a_passphrase_is_refused_as_that(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    vessages.tls_context(*pair)
    encrypt(pair[1])
    monkeypatch.setattr(sys, "stdin", io.StringIO("the passphrase"))
    with pytest.raises(vessages.StartError, match=r"key\.pem has a passphrase.*openssl pkey"):
        vessages.tls_context(*pair)


@pytest.mark.parametrize(("word", "said"), [("the passphrase", ""), ("another", "cannot use")])
def test_at_a_terminal_the_passphrase_is_asked_for(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, word: str, said: str
) -> None:
    vessages.tls_context(*pair)
    encrypt(pair[1])
    monkeypatch.setattr(sys, "stdin", mock.Mock(isatty=lambda: True))
    monkeypatch.setattr(getpass, "getpass", lambda prompt: word)
    with pytest.raises(vessages.StartError, match=said) if said else contextlib.nullcontext():
        vessages.tls_context(*pair)
