"""The client's TLS: trust on first use, a changed certificate, a CA, and servers without TLS."""

from __future__ import annotations

import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from vocabulary import PASSWORD
from wire import ServerProcess

import client
import protocol
import vessages

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that encrypts, with a certificate of its own making."""
    with ServerProcess(tmp_path, "--tls") as running:
        yield running


def tls_to(server: ServerProcess, folder: Path, ca: Path | None = None) -> client.Tls:
    return client.Tls("127.0.0.1", server.address[1], ca=ca, known=folder / "known")


def test_an_unknown_certificate_is_not_talked_to(server: ServerProcess, tmp_path: Path) -> None:
    tls = tls_to(server, tmp_path)
    assert not tls.is_known
    with pytest.raises(client.TrustError, match="not known yet"):
        tls.dial("127.0.0.1", server.address[1])


def test_what_was_trusted_once_is_known_ever_after(server: ServerProcess, tmp_path: Path) -> None:
    tls = tls_to(server, tmp_path)
    seen = tls.meet("127.0.0.1", server.address[1])
    assert seen == vessages.fingerprint(tmp_path / "vessages-cert.pem")
    tls.trust(seen)
    if sys.platform != "win32":
        assert stat.S_IMODE((tmp_path / "known").stat().st_mode) == 0o600
    again = tls_to(server, tmp_path)
    assert again.is_known
    again.dial("127.0.0.1", server.address[1]).close()


def test_a_changed_certificate_gets_nothing(server: ServerProcess, tmp_path: Path) -> None:
    tls_to(server, tmp_path).trust("AB:CD")
    with pytest.raises(client.TrustError, match="CHANGED") as caught:
        tls_to(server, tmp_path).dial("127.0.0.1", server.address[1])
    now = protocol.fingerprint_words(vessages.fingerprint(tmp_path / "vessages-cert.pem"))
    assert "was\n    ABCD\n" in str(caught.value)
    assert f"now\n{now}\n" in str(caught.value)
    assert [len(line) for line in now.split("\n")] == [43, 43]


def test_what_is_known_of_one_port_says_nothing_of_another(server: ServerProcess, tmp_path: Path) -> None:
    client.Tls("127.0.0.1", server.address[1] * 10, known=tmp_path / "known").trust("AB:CD")
    assert not tls_to(server, tmp_path).is_known


def test_a_script_talks_through_tls(server: ServerProcess, tmp_path: Path) -> None:
    tls = tls_to(server, tmp_path)
    tls.trust(tls.meet("127.0.0.1", server.address[1]))
    with client.Client("127.0.0.1", server.address[1], tls=tls) as bot:
        bot.register("bot", PASSWORD)
        bot.login("bot", PASSWORD)
        text = "x" * 60_000  # several TLS records
        bot.send("bot", text)
        assert next(bot.messages(timeout=10)).text == text


def test_a_ca_is_trusted_for_its_names_only(tmp_path: Path) -> None:
    cert, key = tmp_path / "vessages-cert.pem", tmp_path / "vessages-key.pem"
    vessages.tls_context(cert, key, names=lambda: ["IP:127.0.0.1"])
    with ServerProcess(tmp_path, "--tls") as server:
        tls_to(server, tmp_path, ca=cert).dial("127.0.0.1", server.address[1]).close()
        with pytest.raises(OSError) as caught:
            tls_to(server, tmp_path, ca=cert).dial("localhost", server.address[1])
        told = client.dial_words("localhost", 5000, caught.value)
        assert told.startswith("--ca does not vouch for the certificate of localhost: Hostname mismatch")
        assert told.endswith("Without --ca you are shown its fingerprint")


def test_a_server_without_tls_is_told_from_one_with_it(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--tls", "off") as server:
        with pytest.raises(OSError) as caught:
            tls_to(server, tmp_path).meet("127.0.0.1", server.address[1])
        assert "leave out --tls" in client.dial_words("127.0.0.1", 5000, caught.value)
