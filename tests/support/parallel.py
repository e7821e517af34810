"""Runs the tests in several processes, one more than there are cores, since a test also waits.

The first process collects the tests, starts the others, and hands one test after another to whichever is free; it runs
none itself. Each of the others collects them too, and sends the reports of every test back. The first hands these to
pytest, for which they are as its own: dots, failures, `-x`, `--durations`, files of results and the exit code. Only
warnings are not handed over: in this suite they are errors.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections import deque
from multiprocessing.connection import Connection, wait

import pytest

FEW = 50  # tests: one process has run them before others have begun
PROCESSES_MAX = 5  # since each holds all tests in memory
STOP_SECONDS = 10  # for a test that is broken off, to end the programs that it has started


def pytest_addoption(parser: pytest.Parser) -> None:
    number = min((os.cpu_count() or 1) + 1, PROCESSES_MAX)
    parser.addoption("--processes", type=int, default=number, metavar="N", help=f"that run the tests (here {number})")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    option = session.config.option
    is_one_of_the_others = hasattr(session.config, "workerinput")
    is_watched = option.capture == "no" or option.usepdb or option.trace or option.setupshow
    if is_one_of_the_others or is_watched or option.collectonly or session.testsfailed:
        return None  # pytest goes on as if we were not here
    if option.processes < 2 or len(session.items) < FEW:
        return None
    waiting = deque(session.items)
    workers: list[Worker] = []
    try:
        for number in range(option.processes):
            workers.append(Worker(session, number, waiting))
        while running := {worker.connection: worker for worker in workers if not worker.has_ended}:
            for connection in wait(list(running)):
                running[connection].take_reports()  # type: ignore[index]  # a connection of ours
                if session.shouldfail:
                    raise session.Failed(session.shouldfail)
                if session.shouldstop:
                    raise session.Interrupted(session.shouldstop)
    finally:
        for worker in workers:
            worker.interrupt()
        for worker in workers:
            worker.process.join(STOP_SECONDS)
            worker.process.kill()
    return True


class Worker:
    """One of the other processes, as the first one sees it."""

    def __init__(self, session: pytest.Session, number: int, waiting: deque[pytest.Item]) -> None:
        self.session = session
        self.waiting = waiting
        self.given: deque[pytest.Item] = deque()  # the test that it runs, and the one after that
        self.has_begun = self.has_ended = False
        args = [str(arg) for arg in session.config.invocation_params.args]
        if session.config.option.basetemp:  # each empties its own
            args.append(f"--basetemp={session.config.option.basetemp}-{number}")
        self.connection, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=work, args=(theirs, args), daemon=True)
        self.process.start()
        theirs.close()  # so that the connection ends with the process
        self.give()
        self.give()

    def give(self) -> None:
        """The next test; None when there is no more."""
        item = self.waiting.popleft() if self.waiting else None
        if item:
            self.given.append(item)
        with contextlib.suppress(OSError):  # it has died: that is seen when its reports end
            self.connection.send(item and item.nodeid)

    def take_reports(self) -> None:
        try:
            reports = self.connection.recv()
        except (EOFError, OSError):
            self.end()
            return
        if not self.has_begun:
            self.has_begun = True
            return
        item = self.given.popleft()
        self.give()
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for data in reports:
            report = item.ihook.pytest_report_from_serializable(config=self.session.config, data=data)
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def end(self) -> None:
        self.has_ended = True
        self.process.join(STOP_SECONDS)
        if self.process.exitcode in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not self.given:
            return
        self.session.shouldstop = f"a process that ran tests has died (exit code {self.process.exitcode})"
        if self.given:
            item = self.given[0]
            report = pytest.TestReport(item.nodeid, item.location, {}, "failed", self.session.shouldstop, "call")
            item.ihook.pytest_runtest_logreport(report=report)

    def interrupt(self) -> None:
        self.connection.close()
        if not self.has_begun:
            self.process.kill()
        elif self.process.is_alive() and self.process.pid:
            os.kill(self.process.pid, signal.SIGINT)  # so that a test clears up


def work(connection: Connection, args: list[str]) -> None:
    """What the other processes do."""
    if sys.platform != "win32":
        os.setsid()  # Ctrl-C is for the first process, which tells this one
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the first process shows how far it is
    try:
        sys.exit(pytest.main(args, plugins=[Work(connection)]))
    except KeyboardInterrupt:
        sys.exit(pytest.ExitCode.INTERRUPTED)


class Work:
    """Runs the tests that the first process gives."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.reports: list[pytest.TestReport] = []

    def pytest_cmdline_main(self, config: pytest.Config) -> None:
        config.workerinput = {}  # type: ignore[attr-defined]  # pytest's word for: results are written elsewhere

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        hook = session.config.hook
        items = {item.nodeid: item for item in session.items}
        self.connection.send("begun")
        item = self.next_of(items)
        while item:
            following = self.next_of(items)  # fixtures that it shares with this one are kept
            self.reports.clear()
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            reports = [hook.pytest_report_to_serializable(config=session.config, report=it) for it in self.reports]
            self.connection.send(reports)
            item = following
        return True

    def next_of(self, items: dict[str, pytest.Item]) -> pytest.Item | None:
        nodeid = self.connection.recv()
        return nodeid and items[nodeid]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.reports.append(report)

    def pytest_internalerror(self, excrepr: object) -> None:
        print(excrepr, file=sys.stderr)
