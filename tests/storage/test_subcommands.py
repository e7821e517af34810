"""`python storage.py` as a person uses it: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import errno
import functools
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest
from accounts import CHEAP, HASH, users_in
from vocabulary import PASSWORD, WALL
from wire import ENVIRON, STORAGE

import protocol
import storage
from storage import open_store

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in an empty folder: (exit code, standard output, standard error). Its hashes are cheap."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storage, "set_password", functools.partial(storage.set_password, cost=CHEAP))

    def run_command(*arguments: str) -> tuple[int, str, str]:
        try:
            code = storage.main(list(arguments))
        except SystemExit as stop:  # argparse ends the program itself.
            code = int(stop.code or 0)
        output = capsys.readouterr()
        return code, output.out, output.err

    return run_command


@pytest.fixture
def accounts(run: Run) -> Path:
    """The default database in the current folder, with two accounts."""
    path = Path.cwd() / "vessages.db"
    with closing(open_store(path)) as store, store.transaction():
        store.add("Alice", "alice", HASH, WALL)
        store.add("Tuấn", "tuấn", HASH, WALL)
        store.record_login("alice", WALL, None)
        store.record_failure("alice", WALL)
    return path


def type_in(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Answer the prompts without echo of a person at a terminal."""
    answers = iter(lines)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda _prompt: next(answers))


# --- What is printed -------------------------------------------------------------------------------------------------


def test_backup_prints_path_accounts_and_size(run: Run, accounts: Path) -> None:
    code, out, err = run("backup")
    assert re.fullmatch(r"backups.vessages-\d{4}-\d\d-\d\dT\d{6}Z\.db: 2 accounts, 25 kB\n", out)
    assert (code, err) == (0, "")
    code, out, _ = run("backup", "--keep", "1", "--json")
    answer = json.loads(out)
    assert code == 0 and answer["accounts"] == 2 and Path(answer["path"]).stat().st_size == answer["size"]
    assert len(answer["removed"]) == 1 and len(list(accounts.parent.glob("backups/*"))) == 1


def test_a_backup_tells_what_keep_could_not_delete_and_is_a_success(
    run: Run, accounts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is open in another program on Windows, or belongs to another user in a folder that all may write."""
    storage.backup(accounts, now=WALL)
    storage.backup(accounts, now=WALL + 1)
    unlink = Path.unlink

    def refuse(file: Path, missing_ok: bool = False) -> None:
        if "2026-11-22T150405Z" in file.name:
            raise PermissionError(13, "Permission denied")
        unlink(file, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    code, out, err = run("backup", "--keep", "1")
    made, removed, note = out.splitlines()
    assert (code, err) == (0, "") and "2 accounts" in made
    assert removed == "removed " + str(Path("backups", "vessages-2026-11-22T150406Z.db"))
    assert "1 of the older backups cannot be deleted" in note and "vessages-2026-11-22T150405Z.db" in note
    assert len(json.loads(run("backup", "--keep", "1", "--json")[1])["notes"]) == 1


def test_restore_shows_the_difference_and_keeps_the_replaced_file(run: Run, accounts: Path) -> None:
    run("backup", "saved.db")
    run("remove", "ALICE")
    before = accounts.read_bytes()
    said = "+1 account, -0, 0 changed\nnothing was changed (--dry-run)\n"
    assert run("restore", "--dry-run", "saved.db") == (0, said, "")
    assert accounts.read_bytes() == before
    code, out, _ = run("restore", "saved.db")
    first, second, third = out.splitlines()
    assert code == 0 and first == "+1 account, -0, 0 changed"
    assert re.fullmatch(r"the replaced file is kept as backups.vessages-replaced-.*Z\.db", second)
    assert third == "vessages.db restored: 2 accounts, everybody is offline"
    answer = json.loads(run("restore", "saved.db", "--json")[1])
    assert answer["changed"] == 0 and Path(answer["replaced"]).exists()


def test_restore_names_the_accounts_that_it_takes_away(run: Run, accounts: Path) -> None:
    run("backup", "both.db")
    run("remove", "ALICE")
    run("backup", "one.db")
    run("restore", "both.db")
    dry = run("restore", "--dry-run", "one.db")[1].splitlines()
    assert dry[:2] == ["+0 accounts, -1, 0 changed", "not in the backup, so they would be gone: Alice"]
    assert run("restore", "one.db")[1].splitlines()[1] == "not in the backup, so gone: Alice"
    run("restore", "both.db")
    assert json.loads(run("restore", "one.db", "--json")[1])["lost"] == ["Alice"]
    names = [f"u{number:02}" for number in range(storage.LOST_NAMED + 2)]
    with closing(open_store(accounts)) as store, store.transaction():
        for name in names:
            store.add(name, name, HASH, WALL)
    told = run("restore", "one.db")[1].splitlines()[1]
    assert told.endswith(f": {', '.join(names[: storage.LOST_NAMED])} and 2 others")


def test_verify_list_and_export_show_what_is_there(run: Run, accounts: Path) -> None:
    assert run("verify")[1] == "vessages.db: whole, 2 accounts, 25 kB, version 3\n"
    assert json.loads(run("verify", "vessages.db", "--json")[1])["accounts"] == 2
    out, data = run("list")[1], run("list", "--json")[1]
    assert out.splitlines()[1].split() == ["offline", "2026-11-22", "2026-11-22T15:04:05Z", "1", "Alice"]
    assert out.splitlines()[2].split() == ["offline", "2026-11-22", "never", "0", "Tuấn"]
    assert "scrypt" not in out + data
    times = {"created": "2026-11-22T15:04:05Z", "last_login": None, "last_failure": None}
    assert json.loads(data)["users"]["tuấn"] == {"username": "Tuấn", "status": "offline", "failures": 0, **times}
    users = json.loads(run("export")[1])["users"]
    assert users["alice"]["username"] == "Alice" and users["alice"]["password"] == HASH
    assert list(users["alice"])[:3] == ["username", "password", "status"]


def test_a_status_counts_only_while_a_server_runs(run: Run, accounts: Path) -> None:
    """`accounts` were left by a server that was killed while Alice was online."""

    def status() -> str:
        listed = run("list")[1].splitlines()[1].split()[0]
        assert listed == json.loads(run("export")[1])["users"]["alice"]["status"]
        assert listed == json.loads(run("list", "--json")[1])["users"]["alice"]["status"]
        return listed

    lock = accounts.with_name("vessages.db.lock")
    assert status() == "offline" and not lock.exists()
    lock.touch()
    assert status() == "offline" and lock.exists()
    with closing(open_store(accounts)):
        assert status() == "online"
    assert status() == "offline"


def test_a_time_that_no_clock_can_show_is_unknown(run: Run, accounts: Path) -> None:
    """The clock functions of Windows end with the year 3000; a damaged file has any number."""
    last = (storage.LAST_TIME, "2999-12-31T23:59:59Z")
    for seconds, shown in [last, (99_999_999_999, "unknown"), (1e300, "unknown"), (-1, "unknown")]:
        with closing(open_store(accounts)) as store:
            store._run("UPDATE users SET last_login = ?", (float(seconds),))
        code, out, err = run("list")
        assert (code, err) == (0, "") and out.splitlines()[1].split()[2] == shown
        told = json.loads(run("list", "--json")[1])["users"]["alice"]["last_login"]
        assert told == (None if shown == "unknown" else shown)


def test_list_fits_80_columns_and_wide_names_move_no_column(run: Run, accounts: Path) -> None:
    longest, wide = "m" * protocol.NAME_MAX, "山田太郎"
    storage.import_accounts(accounts, {"users": {name: {"password": HASH} for name in (longest, wide)}})
    lines = run("list")[1].splitlines()
    assert max(map(len, lines)) <= 80
    column = lines[0].index("name")
    assert {line[column:] for line in lines[1:]} == {"Alice", "Tuấn", longest, wide}


def test_control_characters_in_names_are_not_printed(run: Run, accounts: Path) -> None:
    with closing(open_store(accounts)) as store, store.transaction():
        store.add("\x1b[2J", "evil", HASH, WALL)
    assert "\x1b" not in run("list")[1]
    run("backup", "saved.db")
    with closing(open_store(accounts)) as store, store.transaction():
        store.add("\x1b[3J", "worse", HASH, WALL)
    told = run("restore", "saved.db")[1]
    assert "\x1b" not in told and "[3J" in told


def test_export_to_a_file_is_private_and_comes_back_by_import(run: Run, accounts: Path) -> None:
    assert run("export", "all.json")[1] == "all.json: 2 accounts, with their password hashes\n"
    file = Path("all.json")
    if sys.platform != "win32":
        assert file.stat().st_mode & 0o777 == 0o600
    assert run("export", "all.json")[0] == 2
    run("remove", "Tuấn")
    assert run("import", "all.json")[1] == (
        "+1 account, 0 changed, 1 were there already and are as before (--overwrite changes them)\n"
    )
    assert json.loads(run("import", "all.json", "--overwrite", "--json")[1]) == {"added": 0, "changed": 0, "kept": 2}
    storage.set_password(accounts, "alice", "another password")
    assert run("import", "all.json", "--overwrite")[1].startswith("+0 accounts, 1 changed, 1 were there already")
    assert run("--db", "new.db", "import", "all.json")[0] == 0
    assert storage.export("new.db")["users"].keys() == {"alice", "tuấn"}


def test_advice_names_python_as_this_system_does(run: Run, accounts: Path) -> None:
    python = "py" if sys.platform == "win32" else "python3"
    assert f": {python} storage.py list" in run("remove", "nobody")[2]
    accounts.write_bytes(b"SQLite format 3\0" + accounts.read_bytes()[16:-1])
    assert f": {python} storage.py --db PATH restore BACKUP" in run("verify")[2]


def test_the_database_may_be_given_before_and_after_the_command(run: Run, accounts: Path) -> None:
    accounts.rename("other.db")
    assert run("--db", "other.db", "verify") == run("verify", "--db", "other.db")
    assert run("verify")[0] == 2


# --- Passwords -------------------------------------------------------------------------------------------------------


def password_is(path: Path, key: str, password: str) -> bool:
    return storage.check_password(password, str(users_in(path)[key]["password"]), CHEAP)[0]


def test_passwd_asks_twice_without_echo(run: Run, accounts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, "new seﬁret", "new seﬁret")
    assert run("passwd", "TUẤN") == (0, "Tuấn has a new password\n", "")
    assert password_is(accounts, "tuấn", "new sefiret")  # In NFKC, as at a login.


def test_passwd_tells_that_a_session_goes_on(run: Run, accounts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who knew the old password may be there."""
    with closing(open_store(accounts)) as store:
        for status, goes_on in (("online", True), ("lost", True), ("offline", False)):
            with store.transaction():
                store.record_statuses({"alice": status}, WALL)
            type_in(monkeypatch, "new secret", "new secret")
            code, out, _ = run("passwd", "alice")
            assert (code, out.startswith("Alice has a new password"), "/takeover with" in out) == (0, True, goes_on)
    type_in(monkeypatch, "new secret", "new secret")
    assert run("passwd", "alice") == (0, "Alice has a new password\n", "")  # no server runs


@pytest.mark.parametrize(
    ("encoding", "typed", "code"),
    [("utf-8", "pässwörd-ok", 0), ("cp1252", "\ufeffpässwörd-ok\n", 0), ("ascii", "pässwörd-ok", 0), ("ascii", "", 2)],
    ids=["UTF-8", "a mark in front, as PowerShell may have it", "ASCII", "none"],
)
def test_passwd_reads_a_line_of_utf_8_where_there_is_no_terminal(
    run: Run, accounts: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, typed: str, code: int
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode()), encoding=encoding))
    assert run("passwd", "alice")[:2] == (code, "" if code else "Alice has a new password\n")
    assert password_is(accounts, "alice", PASSWORD if code else "pässwörd-ok")


@pytest.mark.parametrize(("first", "again", "words"), [
    ("new secret", "new sacret", "differ"), ("short", "", "8 characters"), ("x" * 1025, "", "1024 bytes"),
    ("ALICE-the-1st", "", "not the name"), ("two\nlines", "", "no line break"),
    ("secret\udc80\udc81", "", "not UTF-8"),
])  # fmt: skip
def test_passwd_refuses_what_register_would_refuse(
    first: str, again: str, words: str, run: Run, accounts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_store(accounts)) as store, store.transaction():
        store.add("Alice-the-1st", "alice-the-1st", HASH, WALL)
    before = accounts.read_bytes()
    type_in(monkeypatch, first, again or first)
    code, out, err = run("passwd", "alice-the-1st")
    assert (code, out) == (2, "") and words in err and first not in err
    assert accounts.read_bytes() == before


def test_passwd_for_nobody_does_not_ask(run: Run, accounts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch)
    for name in ("nobody", "\udc80"):
        code, _, err = run("passwd", name)
        assert code == 2 and "there is no account" in err


def test_interrupting_a_prompt_changes_nothing(run: Run, accounts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_prompt: str) -> str:
        raise KeyboardInterrupt

    before = accounts.read_bytes()
    type_in(monkeypatch)
    monkeypatch.setattr("getpass.getpass", interrupt)
    assert run("passwd", "alice") == (130, "", "interrupted: nothing was left half done\n")
    assert accounts.read_bytes() == before


# --- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "restore missing.db", "restore vessages.db", "restore notes.txt", "verify missing.db", "verify notes.txt",
        "verify .", "backup vessages.db", "backup no/such/folder.db", "backup new.db --keep 3", "export vessages.db",
        "export no/such/file.json", "import missing.json", "import notes.txt", "import twins.json", "import deep.json",
        "remove nobody", "--db missing.db list", "--db missing.db backup", "--db notes.txt list",
        "--db no/such/folder.db import good.json", "--db notes.txt backup", f"--db {'x' * 300} list",
    ],
)  # fmt: skip
def test_wrong_input_is_refused_in_one_line_and_changes_nothing(words: str, run: Run, accounts: Path) -> None:
    Path("notes.txt").write_text("Dear diary")
    account = json.dumps({"password": HASH})
    Path("twins.json").write_text(f'{{"users": {{"alice": {account}, "alice": {account}}}}}')
    Path("deep.json").write_text("[" * 100_000)
    Path("good.json").write_text('{"users": {}}')
    before = {file.name: file.read_bytes() for file in Path.cwd().iterdir() if file.is_file()}
    code, out, err = run(*words.split())
    assert (code, out) == (2, "")
    assert err.startswith("storage.py: ") and err.count("\n") == 1
    assert {file.name: file.read_bytes() for file in Path.cwd().iterdir() if file.is_file()} == before


@pytest.mark.parametrize("words", ["", "nonsense", "backup --keep 0", "backup --keep x", "passwd"])
def test_wrong_command_lines_end_with_2(words: str, run: Run) -> None:
    code, out, err = run(*words.split())
    assert code == 2 and not out
    assert err.startswith("storage.py: ") and err.endswith(" --help says more\n") and err.count("\n") == 1


COMMANDS = {  # And the arguments of each.
    "backup": {"target", "--keep N"}, "restore": {"file", "--dry-run"}, "verify": {"file"}, "list": set[str](),
    "export": {"file"}, "import": {"file", "--overwrite"}, "passwd": {"user"}, "remove": {"user"},
}  # fmt: skip


@pytest.mark.parametrize(("command", "names"), [("", set(COMMANDS)), *COMMANDS.items()])
def test_every_command_and_every_argument_has_a_help_text(command: str, names: set[str], run: Run) -> None:
    code, out, _ = run(*command.split(), "--help")
    explained = re.findall(r"^ {2,4}(\S+(?: \S+)*) {2,}\S", out, re.MULTILINE)
    assert code == 0 and set(explained) == names | {"-h, --help", "--db PATH", "--json"}


# --- As a process ----------------------------------------------------------------------------------------------------


def process(
    folder: Path, *arguments: str, encoding: str = "utf-8", output: IO[bytes] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it as a process whose standard streams have that encoding, whatever we expect."""
    return subprocess.run(
        [*STORAGE, *arguments], cwd=folder, env=ENVIRON | {"PYTHONIOENCODING": encoding}, encoding="utf-8", check=False,
        stdin=subprocess.DEVNULL, stdout=output or subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_the_file_and_the_protocol_in_an_empty_folder_are_enough(accounts: Path) -> None:
    for file in (Path(storage.__file__), Path(protocol.__file__)):
        (accounts.parent / file.name).write_bytes(file.read_bytes())
    command = [sys.executable, "-W", "error", "storage.py", "verify"]
    result = subprocess.run(command, cwd=accounts.parent, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"") and b"2 accounts" in result.stdout


def test_pipes_have_utf_8_whatever_the_system_says(accounts: Path) -> None:
    storage.import_accounts(accounts, {"users": {"Zoë": {"password": HASH}}})
    assert process(accounts.parent, "list", encoding="cp1252").stdout.splitlines()[-1].endswith(" Zoë")
    result = process(accounts.parent, "--db", "中.db", "list", encoding="ascii")
    assert result.returncode == 2 and "/中.db" in result.stderr.replace("\\", "/")


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_an_export_by_redirection_comes_back_by_import(
    accounts: Path, run: Run, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """PowerShell reads it in one encoding and writes it in another."""
    names = ["Jürgen", "Zoë", "Мария", "𠮷野"]
    storage.import_accounts(accounts, {"users": {name: {"password": HASH} for name in names}})
    with monkeypatch.context() as patches:
        patches.setattr(sys, "stdout", io.TextIOWrapper(output := io.BytesIO(), encoding=encoding))
        assert run("export")[0] == 0
        Path("all.json").write_text(output.getvalue().decode("cp1252"), encoding=encoding)
    assert run("--db", "new.db", "import", "all.json")[2] == ""
    assert storage.export("new.db") == storage.export(accounts)


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be deleted there")
def test_a_backup_is_a_success_though_the_current_folder_was_deleted(accounts: Path, run: Run) -> None:
    gone = accounts.parent / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    code, out, err = run("--db", str(accounts), "backup")
    assert (code, err) == (0, "") and out.startswith(f"{accounts.parent}/backups/vessages-")
    for arguments in (("backup",), ("list",), ("--db", str(accounts), "backup", "T")):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "") and "current folder was deleted" in err and err.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there is no shell for it")
@pytest.mark.parametrize(
    ("command", "code", "words"), [("list >&- <&-", 0, ""), ("passwd alice <&-", 2, "no standard input")]
)
def test_closed_standard_streams_cause_no_traceback(accounts: Path, command: str, code: int, words: str) -> None:
    shell = ["sh", "-c", f'"$0" -m storage {command}', sys.executable]
    result = subprocess.run(shell, cwd=accounts.parent, env=ENVIRON, capture_output=True, text=True, check=False)
    assert result.returncode == code and words in result.stderr and result.stderr.count("\n") == (code != 0)


class Deaf(io.StringIO):
    """Standard output that takes nothing, for this reason."""

    def __init__(self, descriptor: int, number: int) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.number = number

    def write(self, _text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))

    def fileno(self) -> int:
        return self.descriptor


DONE = {
    ("backup",): "the backup was made", ("backup", "--json"): "the backup was made",
    ("export", "all.json"): "the export was made", ("import", "new.json"): "the accounts were imported",
    ("restore", "saved.db"): "the accounts were restored", ("restore", "saved.db", "--dry-run"): "",
    ("passwd", "alice"): "Alice has a new password", ("remove", "alice"): "Alice is removed",
    ("export",): "", ("verify",): "",
}  # fmt: skip


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(("arguments", "done"), DONE.items())
def test_a_change_is_a_success_though_its_report_cannot_be_printed(
    arguments: tuple[str, ...], done: str, run: Run, accounts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.backup(accounts, accounts.with_name("saved.db"))
    accounts.with_name("new.json").write_text(json.dumps({"users": {"bob": {"password": HASH}}}))
    type_in(monkeypatch, "a new secret", "a new secret")
    words = f"{done}, but this could not be printed" if done else "the answer is not complete"
    with Path("/dev/full").open("wb") as full, monkeypatch.context() as patches:
        patches.setattr(sys, "stdout", Deaf(full.fileno(), errno.ENOSPC))
        code, _, err = run(*arguments)
    assert (code, err) == (0 if done else 2, f"storage.py: {words}: standard output: No space left on device\n")


@pytest.mark.parametrize(("platform", "code"), [("win32", 0), ("linux", 2)])
def test_on_windows_an_invalid_argument_is_a_reader_that_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, code: int
) -> None:
    with (tmp_path / "output").open("wb") as output, monkeypatch.context() as patches:
        patches.setattr(sys, "stdout", Deaf(output.fileno(), errno.EINVAL))
        patches.setattr(sys, "platform", platform)
        assert storage._show(storage.Answer({}, ["a line"]), as_json=False) == code


@pytest.mark.skipif(sys.platform == "win32", reason="there is no shell for it")
def test_a_reader_that_has_seen_enough_is_no_error_and_a_full_disk_is_one(accounts: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as nobody:  # noqa: PTH123 (a descriptor)
        result = process(accounts.parent, "list", output=nobody)
    assert (result.returncode, result.stderr) == (0, "")
    with Path("/dev/full").open("wb") as full:
        result = process(accounts.parent, "export", output=full)
    words = "storage.py: the answer is not complete: standard output: No space left on device\n"
    assert (result.returncode, result.stderr) == (2, words)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_password_typed_at_a_terminal_is_not_shown_and_hashed_at_the_full_cost(accounts: Path) -> None:
    import pty

    main, terminal = pty.openpty()
    with subprocess.Popen(
        [*STORAGE, "passwd", "alice"], cwd=accounts.parent, env=ENVIRON,
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    ) as child:  # fmt: skip
        shown = b""
        with open(main, "r+b", buffering=0) as screen:  # noqa: PTH123 (a descriptor)
            for prompt in (b"New password for Alice: ", b"Again: "):
                while prompt not in shown:
                    shown += screen.read(1)
                screen.write(b"new secret\n")
            while b"has a new password" not in shown:
                shown += screen.read(1)
        child.wait()
    os.close(terminal)
    assert b"secret" not in shown and password_is(accounts, "alice", "new secret")
    assert str(users_in(accounts)["alice"]["password"]).startswith("scrypt$14$8$5$")


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors always wait there")
def test_an_export_is_not_cut_by_a_pipe_that_does_not_wait() -> None:
    """Python drops what such a pipe has no room for, so that accounts were missing from the middle of an export."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    code = "import os, storage; storage._run = lambda arguments: print(os.get_blocking(1)); storage.main([])"
    subprocess.run([sys.executable, "-c", code], stdout=writer, check=True, env=ENVIRON)
    assert os.read(reader, 100) == b"True\n"
    assert not os.get_blocking(writer)  # as it was found: others may share it
    os.close(reader)
    os.close(writer)
