"""Runs the tests in several processes, one more than there are cores, since a test also waits.

The first process collects the tests and forks the others, which have them then. It hands one test after another to
whichever is free, and runs none itself; they send the reports of every test back. To pytest these are as its own: dots,
failures, `-x`, `--durations`, files of results and the exit code. Only warnings are not handed over: in this suite they
are errors. On Linux alone: Windows cannot fork, and libraries of macOS may not survive it.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection, wait

import pytest

FEW = 50  # tests: one process has run them before others have begun
PROCESSES_MAX = 5
STOP_SECONDS = 10  # for a test that is broken off, to end the programs that it has started


def pytest_addoption(parser: pytest.Parser) -> None:
    number = min((os.cpu_count() or 1) + 1, PROCESSES_MAX) if sys.platform == "linux" else 1
    parser.addoption("--processes", type=int, default=number, metavar="N", help=f"that run the tests (here {number})")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    option = session.config.option
    is_watched = option.capture == "no" or option.usepdb or option.trace or option.setupshow
    if is_watched or option.collectonly or session.testsfailed:
        return None  # pytest goes on as if we were not here
    if option.processes < 2 or len(session.items) < FEW or sys.platform != "linux":
        return None
    session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # one for all, which the first removes
    gc.freeze()  # none of the others looks for garbage among all tests again
    waiting = deque(enumerate(session.items))
    workers: list[Worker] = []
    try:
        # One begins at the end, with the tools: they wait in real time, best while others compute. What is left for the
        # end of the run stands in the middle, where tests are short.
        for take in (waiting.pop, *[waiting.popleft] * (option.processes - 1)):
            workers.append(Worker(session, lambda take=take: take() if waiting else None))  # type: ignore[misc]
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

    def __init__(self, session: pytest.Session, take: Callable[[], tuple[int, pytest.Item] | None]) -> None:
        self.session = session
        self.take = take
        self.given: deque[pytest.Item] = deque()  # the test that it runs, and the one after that
        self.has_ended = False
        self.connection, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(target=work, args=(theirs, session), daemon=True)
        self.process.start()
        theirs.close()  # so that the connection ends with the process
        self.give()
        self.give()

    def give(self) -> None:
        """The next test; None when there is no more."""
        number, item = self.take() or (None, None)
        if item:
            self.given.append(item)
        with contextlib.suppress(OSError):  # it has died: that is seen when its reports end
            self.connection.send(number)

    def take_reports(self) -> None:
        try:
            reports = self.connection.recv()
        except (EOFError, OSError):
            self.end()
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
        if self.process.exitcode == 0 and not self.given:
            return
        self.session.shouldstop = f"a process that ran tests has died (exit code {self.process.exitcode})"
        if self.given:
            item = self.given[0]
            report = pytest.TestReport(item.nodeid, item.location, {}, "failed", self.session.shouldstop, "call")
            item.ihook.pytest_runtest_logreport(report=report)

    def interrupt(self) -> None:
        self.connection.close()
        if self.process.is_alive() and self.process.pid:
            os.kill(self.process.pid, signal.SIGINT)  # so that a test clears up


def work(connection: Connection, session: pytest.Session) -> None:
    """What the other processes do."""
    os.setsid()  # Ctrl-C is for the first process, which tells this one
    plugins = session.config.pluginmanager
    capture = plugins.getplugin("capturemanager")
    assert capture is not None
    capture.stop_global_capturing()  # its files are those of the first process
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the first process shows how far it is
    capture.start_global_capturing()
    capture.suspend_global_capture()
    reports: list[pytest.TestReport] = []
    plugins.register(Reports(reports))
    try:
        number = connection.recv()
        while number is not None:
            following = connection.recv()  # fixtures that it shares with this one are kept
            item, nextitem = session.items[number], None if following is None else session.items[following]
            reports.clear()
            item.ihook.pytest_runtest_protocol(item=item, nextitem=nextitem)
            hook, config = session.config.hook, session.config
            connection.send([hook.pytest_report_to_serializable(config=config, report=report) for report in reports])
            number = following
    except (KeyboardInterrupt, EOFError, BrokenPipeError):  # the first process wants no more
        session._setupstate.teardown_exact(None)


class Reports:
    """Notes the reports of a process."""

    def __init__(self, reports: list[pytest.TestReport]) -> None:
        self.reports = reports

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.reports.append(report)
