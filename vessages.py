"""The Vessages server: `python3 vessages.py 0.0.0.0 5000`.

This file knows sockets, bytes, threads and signals, and no chat: what is said is decided by `protocol.Hub`, what is
remembered is kept by `storage.Store`.

Rules of this file
    One thread owns the hub and every socket. Two workers do what would make it wait: one hashes passwords, one uses
    the disk. They get jobs and give back results, in order, and share nothing else.

    One turn of the loop is always: wait, accept, read, take results, tick, write, sweep, hand out jobs. Nothing is
    closed before the sweep, so no event of a turn can meet a socket that has changed hands. Jobs come last: a worker
    that wakes while the loop still runs only waits for it, and that costs as much as the job.

    Writing is tried first; the system is asked about writability only while something is left over. Each connection
    gets all that the turn has for it in one `send` (over TLS: one for each record).

    A connection is the hub's object, with our socket in it. Its unusual states (paused, being closed) are tables of the
    server, in which ten thousand usual connections take no room.

    One bad connection never hurts another: a fault while one is served ends that one.

Reading order
    1. `Server.turn`, then each of its steps in its order: accepting, encryption, reading, writing, closing, jobs; at
       last stopping.
    2. `Waker` and `Signals`: what interrupts the waiting. `Workers`: the slow work. `Log`.
    3. `serve`, near the end: how all is put together. Above it the options, listening, TLS, addresses, `Backups`.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 10):
    words = f"Vessages needs Python 3.10 or newer, and this is {sys.version.split()[0]}: run it with a newer one"
    print(f"{words}, such as python3.12, or install one from python.org.", file=sys.stderr)
    sys.exit(2)

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until it runs: no traceback of an import, no wait for a name server

import argparse
import contextlib
import errno
import functools
import getpass
import itertools
import os
import queue
import re
import selectors
import shutil
import socket
import ssl
import stat
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE
from types import FrameType
from typing import Any, NamedTuple, NoReturn, Protocol, TextIO

try:
    import protocol
    import storage
    from protocol import Connection, HashJob, Hub, Job, StorageFailedError
    from storage import PYTHON, complain, number_type
except ImportError as error:  # there is none, or one of another version
    if __name__ != "__main__" or error.name not in ("protocol", "storage"):
        raise
    print(f"vessages.py: copy {error.name}.py of the same version into the folder of vessages.py", file=sys.stderr)
    sys.exit(2)

if sys.platform == "win32":
    import ctypes
else:
    import fcntl
    import resource

READ_SIZE = 64 * 1024  # bytes a turn a connection; larger reads cost more than they save (measured)
STRANGER_READ = 8 * 1024  # the same where nobody is logged in: thousands may flood us, and what is read waits in memory
TLS_RECORD, TLS_HEADER = 16 * 1024, 5  # bytes: of the text of one record of TLS, the most; of what is before it
# Bytes read of a connection over TLS in a turn: the longest record. READ_SIZE would be 3,000 of those with a byte each.
TLS_READ = TLS_RECORD + 2048 + TLS_HEADER
SILENT_RECORDS_MAX = 100  # of a connection, that bring nothing: a handshake has three, new keys for an hour's chat one
ACCEPT_BATCH = 64  # newcomers a turn and listener: a storm of them is let in between messages, not before them
ACCEPT_REST = 1.0  # seconds without accepting when descriptors have run out: trying again at once would only spin
BACKLOG = 1024  # connections that the system queues for us: a class whose server was restarted
# Milliseconds between two attempts of Linux to send what was not confirmed, at most: so long a connection stays dead
# when a network that failed silently is back. By itself the system doubles them up to two minutes. (It gives up after a
# number of them: with 4 s between them after 50 s, later than `Hub` does; with 2 s it would be after 28 s.)
TCP_RTO_MAX_MS, SEND_AGAIN_WITHIN = 44, 4000  # the option (Linux 6.15; no Python names it yet), and its value
TLS_FIRST = b"\x16"  # the first byte of a connection over TLS; that of a frame is 0
HANDSHAKE_WITHIN = 30.0  # seconds for TLS to be agreed on, as for a frame that was begun
# Steps of TLS handshakes a turn: the first takes half a millisecond, and everybody's messages wait meanwhile.
HANDSHAKE_STEPS_A_TURN = 4
LINGER = 2.0  # seconds for the last frame to arrive before a connection is dropped
# Seconds in which a second signal is taken for the first one: a Ctrl-C reaches the server from the terminal, and from a
# wrapper that passes it on.
SAME_SIGNAL = 0.5
NAME_WITHIN = 2.0  # seconds for the name server to tell this machine's address, before the greeting does without it
FAULT = 3  # exit code after an internal error, or if the disk hangs while the server stops
STOP_WITHIN = 5.0  # seconds for what is queued to be written when the server stops
# Jobs that wait for a worker: one for each connection of the largest server, and some of connections that have gone.
JOBS_MAX = 120_000
DISK_BATCH = 1000  # jobs that share one commit
SPARE_FILES = 64  # open files for other things than clients: the database, its journal, backups, listeners
LEAST_SPARE_FILES = 24  # where the system allows very few
CLOSING_SHARE = 1 / 3  # of the spare files, for connections that are being closed
# Connections where there is nothing better than `select`. On Windows that takes 512 sockets: these, a listener, the
# waker's, and half of CLOSING_SHARE, which a sweep leaves. One more would end the server.
SELECT_MAX = 500
# Seconds between two looks at the clock while nobody is there: if it was set, tokens must be told of it before a kill.
CLOCK_LOOK = 60.0
ROWS_MAX = 100  # of the table of who is connected: three screens, and nothing that a message would wait for
BACKUP_DAYS = 30  # between two backups, at most: with more between them one might as well have none
# Seconds between two looks whether a backup is due: the clock may be set, a laptop sleep, somebody make one by hand.
BACKUP_LOOK = 60.0
BACKUP_PATIENCE = 5.0  # seconds for one to be finished when the server stops: ten times what 100,000 accounts need
BACKUP_AGAIN = 3600.0  # seconds after one that failed, if the next is not due sooner: a disk may be mounted meanwhile
LOG_LINES = 50_000  # waiting, and again as many being written: a stop has a line for everybody. About 7 MB
LOG_PAUSE = 0.05  # seconds that a line may wait for others: to change threads for each would double a login's cost
LOG_PATIENCE = 1.0  # seconds for the last lines of the log
LOG_ENDS = frozenset({errno.EPIPE, errno.EBADF})  # the log has no reader any more; any other fault may pass
# These threads yield to the chat, a backup to everybody. At 10 a message still waited up to 1.4 ms (p99) for the slice
# of a password check on the same core; at 19 a core that is wholly taken would check one in ten seconds.
HASHING_NICENESS, BACKUP_NICENESS = 15, 19

CLIENT_CLOSED = "closed by the client"  # why a connection ended

# Raised by a socket that has nothing or no room now. (TLS never needs to read in order to write: renegotiation is
# off, and TLS 1.3's own messages are written with the next data.)
WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

# Not every system has all of them: SIGQUIT is Ctrl-\ in a terminal, SIGBREAK the Ctrl-Break of Windows.
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
QUESTION_SIGNALS = ("SIGUSR1", "SIGQUIT", "SIGBREAK")
# Events of a console of Windows: the window is closed, the person logs off, the machine is shut down.
CLOSING = (2, 5, 6)

# How Python is called on the other kind of system: see `storage.PYTHON`.
OTHER_SYSTEM, OTHER_PYTHON = ("on Linux and macOS", "python3") if sys.platform == "win32" else ("on Windows", "py")
QUESTION_KEY = "Ctrl-Break" if sys.platform == "win32" else "Ctrl-\\"

# Monotonic seconds that go on while the machine is suspended, or it would look as if its clock had been set. Those of
# `time.monotonic` do so on Windows only.
uptime: Callable[[], float] = time.monotonic
if sys.platform != "win32":
    uptime = functools.partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

# Of all that `accept` may say, what another try at once would meet again. (Windows calls them WSA…, Python as here.)
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class WriteLog(Protocol):
    """Writes lines into the log, each with its time: `Log.write`."""

    def __call__(self, *lines: str) -> None: ...


def write_nowhere(*lines: str) -> None:
    """The log of a server that has none."""


class Server:
    """The reactor. `run` until `stop`; a test may also `turn` it by hand.

    hub: the conversation. Its settings say how many clients there may be at once.
    store: the accounts. From now on only the disk's thread uses them, and closes them at the end.
    listeners: bound sockets that listen and do not block. The server closes them.
    cost: what the hash of a new password costs.
    selector: where the sockets are waited for; it is closed at the end.
    clock, wall: uptime and Unix seconds.
    tls: the context of `tls_context`, with which clients may encrypt; None: none can.
    encrypted_only: whether those that do not are refused.
    spare_files: how many files may be open beside those of the clients; connections that are being closed take a third.
    log: takes lines for the log; `verbose`: also one for each connection that comes, and why it ended.

    All deadlines are in the hub's time, which stands still while the server is suspended.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> store = storage.open_store(f"{folder.name}/vessages.db")
    >>> server = Server(Hub(), store, bind("127.0.0.1", 0))
    >>> server.stop()  # from another thread, or `run` has no end
    >>> server.run()
    >>> server.close()
    True
    >>> folder.cleanup()
    """

    def __init__(
        self, hub: Hub, store: storage.Store, listeners: Iterable[socket.socket], *,
        cost: storage.Cost = storage.DEFAULT_COST, selector: selectors.BaseSelector | None = None,
        clock: Callable[[], float] = uptime, wall: Callable[[], float] = storage.time_of_day,
        tls: ssl.SSLContext | None = None, encrypted_only: bool = False, spare_files: int = SPARE_FILES,
        log: WriteLog = write_nowhere, verbose: bool = False,
    ) -> None:  # fmt: skip
        self.hub = hub
        self.encryption = Encryption(tls, encrypted_only)
        self.clock = clock
        self.wall = wall
        self.log = log
        self.verbose = verbose
        self.selector = selector or selectors.DefaultSelector()
        self.listeners = dict.fromkeys(listeners, -1)  # -> the last turn in which somebody came in there
        self.sockets = 0  # open ones of clients
        self.turns = 0  # so far
        self.waker = Waker()
        self.signals = Signals(self.waker, clock)
        self.workers = Workers(store, cost, log, self.waker)
        # Connections of which something is unusual; oldest first, where there is a time
        self._leftover: dict[Connection, memoryview] = {}  # -> bytes that the system has not yet taken
        self._paused: set[Connection] = set()  # not read from, since the hub does not want to
        self._flushing: dict[Connection, float] = {}  # being closed, their last frame is not yet written -> deadline
        self._lingering: dict[Connection, float] = {}  # to be closed when the other side does it too -> deadline
        self._closing_max = int(spare_files * CLOSING_SHARE)  # connections beyond the hub's that are being closed
        self._listen_again = 0.0  # end of the listeners' rest; 0 while they do not rest
        self._stop_by = 0.0  # deadline of a stop; 0 while there is none
        self.selector.register(self.waker.receiver, EVENT_READ, self._on_wake)
        self._listen(True)
        hub.wake(clock(), wall())

    # --- The loop ---

    def run(self) -> None:
        """Serve until somebody calls `stop` and all is written."""
        while not self.finished:
            self.turn()

    def turn(self) -> None:
        """One turn: wait, accept, read, take results, tick, write, sweep, hand out jobs."""
        events = self.selector.select(self._patience())
        now, wall = self.clock(), self.wall()  # of the whole turn: if it is suspended in the middle, nothing expires
        self.hub.wake(now, wall)
        self.turns += 1
        readable = []
        for key, mask in events:
            connection = key.data
            if not isinstance(connection, Connection):
                key.data(key.fileobj)  # `_accept` or `_on_wake`
                continue
            if mask & EVENT_WRITE:
                self._write_leftover(connection)
            if mask & EVENT_READ:
                readable.append(connection)
        for connection in readable:
            self._read(connection)
        if self.encryption.due:
            self._shake_hands_with_some()
        for job, result in self.workers.take_results():
            self.hub.complete(job, result)
        self.hub.tick()
        self._write_ready()
        self._sweep()
        self._hand_out_jobs()

    def _patience(self) -> float:
        """Seconds that the selector may wait: until the next deadline, at most CLOCK_LOOK."""
        wait = CLOCK_LOOK
        deadline = self.hub.next_deadline()  # asked before every wait: by the answer the hub sees a suspension
        if deadline is not None:
            wait = min(wait, deadline - self.clock())
        if self.encryption.due:
            return 0.0
        handshaking = self.encryption.handshaking
        if handshaking or self._flushing or self._lingering or self._listen_again or self._stop_by:
            times = [*itertools.islice(handshaking.values(), 1), self._listen_again, self._stop_by]
            times += [*self._flushing.values(), *self._lingering.values()]
            wait = min(wait, min(filter(None, times)) - self.hub.now)
        return max(0.0, wait)

    def _on_wake(self, receiver: socket.socket) -> None:
        self.waker.clear()
        if self.signals.figures_wanted:
            self.signals.figures_wanted = False
            self.log(*report(self.hub, self.turns, self.wall(), self.encryption.is_in_clear))
        if self.signals.stop_wanted and not self._stop_by:
            self._begin_stop()

    # --- Accepting ---

    def _listen(self, on: bool) -> None:
        for listener in self.listeners:
            if on:
                self.selector.register(listener, EVENT_READ, self._accept)
            else:
                self.selector.unregister(listener)
        self._listen_again = 0.0 if on else self.hub.now + ACCEPT_REST

    def _accept(self, listener: socket.socket) -> None:
        if self._listen_again or self._stop_by:
            return  # an earlier event of this turn has stopped the listening
        # An accept that finds nobody costs as much as one that lets somebody in, so a second one is tried only where
        # somebody came in the last turn, too.
        batch = ACCEPT_BATCH if self.listeners[listener] == self.turns - 1 else 1
        for _ in range(batch):
            if self.sockets >= self.hub.settings.connections_max + self._closing_max:
                return  # the sweep makes room
            try:
                sock, address = listener.accept()
            except WOULD_BLOCK:
                return
            except OSError as error:
                if error.errno not in EXHAUSTED:  # that connection's own fault: it has gone already
                    continue
                self.log(f"cannot accept: {error.strerror}; no newcomers for {ACCEPT_REST:.0f} s")
                self._listen(False)
                return
            self.listeners[listener] = self.turns
            if address:
                self._welcome(sock, address)
            else:  # macOS gives no address of a newcomer that has gone again
                sock.close()

    def _welcome(self, sock: socket.socket, address: Sequence[Any]) -> None:
        host = str(address[0]).removeprefix("::ffff:")
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or a message waits 40 ms for an answer
        except OSError:  # it has gone already
            sock.close()
            return
        connection = self.hub.connect(host)
        connection.socket = sock
        self.sockets += 1
        if self.verbose:
            self.log(f"{host} port {address[1]} connected: socket {sock.fileno()}")
        if self.encryption.context is not None:
            self.encryption.unsettled.add(connection)
        self.selector.register(sock, EVENT_READ, connection)
        self._read(connection)

    # --- Encryption ---

    def _settle_as_plain(self, connection: Connection) -> bool:
        """Look at the first byte of an unsettled connection, without taking it. Whether it is to be read from in clear.

        If it is that of TLS, the handshake is due.
        """
        encryption = self.encryption
        try:
            first = connection.socket.recv(1, socket.MSG_PEEK)
        except WOULD_BLOCK:
            return False
        except OSError as error:
            self._drop(connection, reason_of(error))
            return False
        if first == TLS_FIRST:
            self.selector.unregister(connection.socket)  # it waits for its turn, and need not be reported meanwhile
            encryption.handshaking[connection] = protocol.FOREVER
            encryption.due[connection] = None
            return False
        encryption.unsettled.discard(connection)
        self._log_encryption(connection, "does not encrypt")
        if first and encryption.only:
            self.hub.refuse_plain(connection)
        return True

    def _log_encryption(self, connection: Connection, does: str) -> None:
        if self.verbose:
            self.log(f"{connection.address} {does}: socket {connection.socket.fileno()}")

    def _may_write(self, connection: Connection) -> bool:
        """Whether anything may be written to an unsettled connection: as long as it counts as plain."""
        if connection not in self.encryption.handshaking:
            self._settle_as_plain(connection)
        return connection not in self.encryption.handshaking

    def _shake_hands_with_some(self) -> None:
        due = self.encryption.due
        for connection in [*itertools.islice(due, HANDSHAKE_STEPS_A_TURN)]:
            del due[connection]
            self._shake_hands(connection)

    def _shake_hands(self, connection: Connection) -> None:
        """The next step of a TLS handshake, which the client may take its time for."""
        self._leftover.pop(connection, None)
        context = self.encryption.context
        try:
            if context is not None and self.encryption.handshaking[connection] == protocol.FOREVER:
                self._begin_handshake(connection, context)
            connection.socket.do_handshake()
        except ssl.SSLWantReadError:
            self._update_interest(connection)
        except ssl.SSLWantWriteError:
            self._leftover[connection] = memoryview(b"")  # nothing of ours waits, but the selector has to tell of room
            self._update_interest(connection)
        except OSError as error:
            self._drop(connection, f"no TLS: {reason_of(error)}")
        else:
            self.encryption.settle(connection)
            self._log_encryption(connection, "encrypts")
            self._update_interest(connection)
            if connection.outbox:
                self.hub.ready.append(connection)
            self._read(connection)

    def _begin_handshake(self, connection: Connection, context: ssl.SSLContext) -> None:
        """From now on its bytes go through TLS."""
        self.encryption.handshaking[connection] = self.hub.now + HANDSHAKE_WITHIN  # its wait for us is not counted
        connection.socket = RecordSocket(connection.socket, context)
        self.selector.register(connection.socket, EVENT_READ, connection)

    # --- Reading ---

    def _read(self, connection: Connection) -> None:
        sock = connection.socket
        if sock is None:  # closed since the selector reported it
            return
        if connection in self.encryption.unsettled:
            if connection in self.encryption.handshaking:
                self.encryption.due[connection] = None
                return
            if not self._settle_as_plain(connection):
                return
        try:
            data = sock.recv(READ_SIZE if connection.session else STRANGER_READ)
        except WOULD_BLOCK:
            return
        except OSError as error:
            self._drop(connection, reason_of(error))
            return
        if not data:
            self._drop(connection, CLIENT_CLOSED)
        elif not self.hub.feed(connection, data):
            self._update_interest(connection)

    def _update_interest(self, connection: Connection) -> None:
        """Ask the selector about reading if the hub wants to, and about writing while something is left over."""
        reading, writing = connection.wants_reading, connection in self._leftover
        if reading:
            self._paused.discard(connection)
        else:
            self._paused.add(connection)
        events = EVENT_READ * reading | EVENT_WRITE * writing
        key = self.selector.get_map().get(connection.socket)
        if key is None:
            if events:
                self.selector.register(connection.socket, events, connection)
        elif not events:
            self.selector.unregister(connection.socket)
        elif events != key.events:
            self.selector.modify(connection.socket, events, connection)

    # --- Writing ---

    def _write_ready(self) -> None:
        ready, self.hub.ready = self.hub.ready, []
        for connection in ready:
            if connection in self.encryption.unsettled and not self._may_write(connection):
                continue
            if connection.outbox and connection not in self._leftover:
                self._write(connection, self.hub.take(connection))

    def _write_leftover(self, connection: Connection) -> None:
        """The system says that there is room again."""
        if connection in self.encryption.handshaking:
            self.encryption.due[connection] = None
        elif connection in self._leftover:
            self._write(connection, self._leftover[connection])

    def _write(self, connection: Connection, data: bytes | memoryview) -> None:
        """Write this; what the system does not take is left over until there is room."""
        try:
            sent = connection.socket.send(data)
        except WOULD_BLOCK:
            sent = 0
        except OSError as error:
            self._drop(connection, reason_of(error))
            return
        left = len(data) - sent
        if not left and connection not in self._leftover:
            return  # as nearly always
        if left:
            self._leftover[connection] = memoryview(data)[sent:]
        else:
            del self._leftover[connection]
            if connection.outbox:
                self.hub.ready.append(connection)
        if left != connection.unsent:
            self.hub.sent(connection, left)
        self._update_interest(connection)

    # --- Closing ---

    def _drop(self, connection: Connection, why: str) -> None:
        """This socket is of no use any more: the hub is told now, the sweep closes it."""
        self.hub.disconnect(connection, why)
        self._flushing.pop(connection, None)
        self._lingering[connection] = protocol.NEVER

    def _sweep(self) -> None:
        """Close what is to be closed, and read again from those who have listened."""
        if self.hub.closing or self.encryption.handshaking or self._flushing or self._lingering:
            self._close_what_is_due(self.hub.now)
        if self._paused:
            for connection in [each for each in self._paused if each.wants_reading]:
                self._update_interest(connection)
        if self._listen_again and self.hub.now >= self._listen_again:
            self._listen(True)

    def _close_what_is_due(self, now: float) -> None:
        closing, self.hub.closing = self.hub.closing, []
        for connection in closing:
            if connection not in self._lingering:
                self._flushing[connection] = now + (STOP_WITHIN if self._stop_by else LINGER)
        for connection in [*self._flushing]:
            self._finish_flushing(connection, now)
        for connection in self.encryption.overdue(now):
            self._drop(connection, "no TLS: the handshake took too long")
        crowd = self.sockets - self.hub.settings.connections_max - self._closing_max // 2
        for connection in [*self._lingering, *self._flushing][: max(0, crowd)]:  # too many close: the oldest end
            self._drop(connection, "closed")
        for connection in [each for each, until in self._lingering.items() if until <= now]:
            self.hub.disconnect(connection, "closed")
            self._close_socket(connection)

    def _finish_flushing(self, connection: Connection, now: float) -> None:
        """Say that nothing more will come when all is written; then wait a little for the other side to say the same.

        Without that, what it is still sending would make the system throw our last frame away.
        """
        handshaking = connection in self.encryption.handshaking
        until = self._flushing[connection]
        if now >= until or (handshaking and self._stop_by):
            self._drop(connection, "closed")
        elif not (connection.outbox or connection in self._leftover or handshaking):
            del self._flushing[connection]
            self._lingering[connection] = min(until, now + LINGER)
            self.encryption.settle(connection)  # nothing of it is looked at any more
            try:
                connection.socket.shutdown(socket.SHUT_WR)
            except OSError:
                self._drop(connection, "closed")

    def _close_socket(self, connection: Connection) -> None:
        """The only place where a client's socket is closed."""
        sock, connection.socket = connection.socket, None
        self.encryption.settle(connection)
        for table in (self._leftover, self._flushing, self._lingering):
            table.pop(connection, None)
        with contextlib.suppress(KeyError, ValueError):  # not registered; already closed
            self.selector.unregister(sock)
        self._paused.discard(connection)
        self.sockets -= 1
        if self.verbose:
            self.log(f"{connection.address} disconnected: socket {sock.fileno()}: {connection.closed}")
        sock.close()

    # --- Jobs ---

    def _hand_out_jobs(self) -> None:
        jobs, self.hub.jobs = self.hub.jobs, []
        for job in jobs:
            self.workers.put(job)
        if self.hub.notes:
            self.log(*self.hub.notes)
            self.hub.notes.clear()
        for fault in self.hub.faults:
            self.log(*fault_lines("an internal error ended one connection", fault))
        self.hub.faults.clear()

    # --- Stopping ---

    def stop(self) -> None:
        """Ask the server to stop; from any thread."""
        self.signals.stop_wanted = True
        self.waker.wake()

    def _begin_stop(self) -> None:
        self._stop_by = self.hub.now + STOP_WITHIN
        if not self._listen_again:
            self._listen(False)
        self._listen_again = 0.0
        for listener in self.listeners:
            listener.close()
        self.log(f"stopping: connections to be told: {self.sockets}")
        self.hub.shutdown()

    @property
    def finished(self) -> bool:
        """Whether the server has been stopped and nothing is left to write."""
        return self._stop_by > 0 and (not self.sockets or self.hub.now >= self._stop_by)

    def close(self) -> bool:
        """Let the workers finish what they were given, and close everything. False if the disk does not answer."""
        self.signals.close()
        self._hand_out_jobs()
        written = self.workers.finish()
        for connection in [*self._flushing, *self._lingering, *self.hub.connections]:
            self._close_socket(connection)
        for listener in self.listeners:
            listener.close()
        self.waker.close()
        self.selector.close()
        return written


# --- Signals ----------------------------------------------------------------------------------------------------------


class Waker:
    """Ends the waiting of the loop, from any thread or signal handler: what one end sends, the other can read."""

    def __init__(self) -> None:
        self.receiver, self.sender = socket.socketpair()
        self.receiver.setblocking(False)
        self.sender.setblocking(False)

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # full of bytes that do the same; or all is over
            self.sender.send(b"!")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.receiver.recv(4096)

    def close(self) -> None:
        self.receiver.close()
        self.sender.close()


class Signals:
    """The wishes of signals. Their handlers interrupt the loop anywhere, so they note it and wake the loop."""

    def __init__(self, waker: Waker, clock: Callable[[], float]) -> None:
        self.stop_wanted = False
        self.figures_wanted = False
        self._hurry_from = 0.0  # time from which a further signal ends the process at once
        self._heeded: list[int] = []  # numbers of the signals with a handler of ours
        self._waker = waker
        self._clock = clock

    def heed(self) -> None:
        """Stop at Ctrl-C, SIGTERM and SIGHUP; a second one ends the process at once. The main thread must call this.

        Signals that were ignored before stay so: SIGHUP under nohup, SIGINT of a script's background job.
        """
        signal.set_wakeup_fd(self._waker.sender.fileno(), warn_on_full_buffer=False)
        for names, answer in ((STOP_SIGNALS, self._on_stop), (QUESTION_SIGNALS, self._on_question)):
            for name in names:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, answer)
                    self._heeded.append(number)
        if sys.platform == "win32":  # last, or closing the window would be the Ctrl-Break of the C library
            self._console_handler = ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint32)(self.stops_at)
            ctypes.windll.kernel32.SetConsoleCtrlHandler(self._console_handler, 1)

    def stops_at(self, event: int, wait: Callable[[float], None] = time.sleep) -> bool:
        """In a thread of Windows: stop if this event of the console says so. Windows ends the process when that thread
        is done, or after 5 s, so it stays until the server has ended by itself."""
        if event in CLOSING:
            self.stop_wanted = True
            self._waker.wake()
            wait(STOP_WITHIN)
        return event in CLOSING

    def _on_stop(self, number: int, stack: FrameType | None) -> None:
        now = self._clock()
        if not self.stop_wanted:
            self._hurry_from = now + SAME_SIGNAL
            self.stop_wanted = True
            self._waker.wake()
        elif now >= self._hurry_from:
            os._exit(128 + number)

    def _on_question(self, number: int, stack: FrameType | None) -> None:
        self.figures_wanted = True
        self._waker.wake()

    def close(self) -> None:
        """The waker is closed next. The signals stay noted."""
        if self._heeded:
            signal.set_wakeup_fd(-1)

    def ignore(self) -> None:
        """All is done: a signal that comes while Python ends would only change the exit code."""
        for number in self._heeded:
            signal.signal(number, signal.SIG_IGN)


# --- What the log shows -----------------------------------------------------------------------------------------------


def report(hub: Hub, turns: int, now: float, is_in_clear: Callable[[Connection], bool]) -> list[str]:
    """The answer to a question of the person who runs the server: figures, and a table of who is connected."""
    figures = hub.figures() | {"turns": turns, "in clear (!)": sum(map(is_in_clear, hub.connections))}
    rows = hub.rows(ROWS_MAX, lambda connection: "!" if is_in_clear(connection) else "")
    more = figures["connections"] + figures["lost"] - len(rows)
    lines = [", ".join(f"{number:,} {name}" for name, number in figures.items())]
    lines += table(rows, now) if rows else []
    return lines + ([f"… and {more:,} more"] if more > 0 else [])


def table(rows: Iterable[protocol.Row], now: float) -> list[str]:
    """The connected and the lost, as the log shows them at `now`, in Unix seconds.

    With its time a line fits 80 columns, unless very much waits. The name comes last, so that its width moves nothing.
    """
    lines: list[tuple[str, ...]] = [("since", "idle", "unsent", "held", "address", "name")]
    for row in rows:
        numbers = [clock_or_day(row.since, now), f"{row.idle:.0f} s", amount(*row.unsent), amount(*row.held)]
        lines.append((*numbers, row.address or "(lost)", row.name or "no login yet"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [[*map(str.rjust, line[:4], widths), line[4].ljust(widths[4]), line[5]] for line in lines]
    return [" ".join(line) for line in aligned]


def amount(size: int, frames: int) -> str:
    """The bytes and frames that wait for somebody, in words.

    >>> amount(0, 0), amount(102, 2), amount(62_500, 12)
    ('0', '102 B/2', '61 KiB/12')
    """
    if not frames:
        return "0"
    unit, word = (1, "B") if size < 1000 else (1 << 10, "KiB")
    return f"{size / unit:.0f} {word}/{frames}"


def clock_or_day(wall: float, now: float) -> str:
    """Unix seconds as the hour and minute, or what is longer than half a day ago as the day: `15:04` or `22 Nov`."""
    return f"{datetime.fromtimestamp(wall):{'%H:%M' if now - wall < 43_200 else '%d %b'}}"


def local_time(wall: float) -> str:
    """Unix seconds as the log shows them: with the offset, since an hour of the night in October comes twice."""
    return datetime.fromtimestamp(wall, timezone.utc).astimezone().isoformat(" ", "seconds")


def reason_of(error: OSError) -> str:
    """The fault as the system or OpenSSL names it, in words for a person."""
    if isinstance(error, ssl.SSLEOFError):  # what OpenSSL says at a write after the other side's end
        return CLIENT_CLOSED
    return protocol.OPENSSL_CODES.sub("", error.strerror or "") or "connection lost"


def fault_lines(what: str, fault: Exception) -> list[str]:
    """An internal error as the log shows it: what it has ended, and where it comes from."""
    return [what, *"".join(traceback.format_exception(fault)).splitlines()]


# --- Workers ----------------------------------------------------------------------------------------------------------


class Worker(threading.Thread):
    """A thread that runs `work`, which is to do the jobs of `batches`."""

    def __init__(self, name: str, work: Callable[[Worker], None]) -> None:
        super().__init__(name=name, target=work, args=(self,), daemon=True)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        start(self)

    def put(self, job: Job) -> bool:
        """One more job; False if there is no room, which is only so where a disk hangs without an error."""
        has_room = self._jobs.qsize() < JOBS_MAX
        if has_room:
            self._jobs.put(job)
        return has_room

    def batches(self, most: int) -> Iterator[list[Job]]:
        """The jobs in their order, those that wait together, at most so many; the last ones when it is to finish."""
        finishing = False
        while not finishing:
            jobs = [self._jobs.get()]
            while len(jobs) < most and not self._jobs.empty():
                jobs.append(self._jobs.get())
            wanted = [job for job in jobs if job is not None]
            finishing = len(wanted) < len(jobs)
            if wanted:
                yield wanted

    def finish(self) -> bool:
        """Do all that was given before, and no more. Whether that took no longer than STOP_WITHIN."""
        self._jobs.put(None)
        self.join(STOP_WITHIN)
        return not self.is_alive()


class Workers:
    """The threads for slow work, one for passwords and one for the disk, and the results on their way to the loop."""

    def __init__(self, store: storage.Store, cost: storage.Cost, log: WriteLog, waker: Waker) -> None:
        self._store = store
        self._cost = cost
        self._log = log
        self._waker = waker
        self._results: queue.SimpleQueue[tuple[Job, object]] = queue.SimpleQueue()  # of jobs, which have a limit
        self._hasher = Worker("hashing", self._hash_passwords)
        self._disk = Worker("disk", self._use_disk)

    def put(self, job: Job) -> None:
        if not (self._hasher if isinstance(job, HashJob) else self._disk).put(job):
            self._deliver([job], [StorageFailedError()])

    def take_results(self) -> Iterator[tuple[Job, object]]:
        while not self._results.empty():
            yield self._results.get()

    def finish(self) -> bool:
        """Do what was given before, and close the store. False if the disk does not answer."""
        written = self._disk.finish()
        self._hasher.finish()
        return written

    # On the threads of the workers

    def _deliver(self, jobs: list[Job], results: list[object]) -> None:
        for result in zip(jobs, results, strict=True):
            self._results.put(result)
        self._waker.wake()

    def _hash_passwords(self, worker: Worker) -> None:
        """One at a time: each takes 16 MiB and a sixth of a second, and lets the loop run meanwhile."""
        yield_to_the_chat(HASHING_NICENESS)
        for jobs in worker.batches(1):
            self._deliver(jobs, [self._hash(job) for job in jobs])

    def _hash(self, job: Job) -> object:
        try:
            return getattr(storage, job.method)(*job.arguments, self._cost)
        except storage.StorageError as error:
            self._log(str(error))
        except Exception as fault:
            self._log(*fault_lines("a password could not be hashed", fault))
        return StorageFailedError()

    def _use_disk(self, worker: Worker) -> None:
        """Jobs that come in while a commit goes on share the next one. The store is closed here: its disk may hang."""
        for jobs in worker.batches(DISK_BATCH):
            self._deliver(jobs, self.perform(jobs))
        self._store.close()

    def perform(self, jobs: list[Job]) -> list[object]:
        """The results of jobs for the disk. A fault of our own in one undoes all; then each is done again, alone."""
        reading = all(job.method in DISK_READS for job in jobs)
        try:
            with self._store.reading() if reading else self._store.transaction():
                return [getattr(self._store, job.method)(*job.arguments) for job in jobs]
        except storage.StorageError as error:
            self._log(str(error))
        except Exception as fault:
            if len(jobs) > 1:
                return [result for job in jobs for result in self.perform([job])]
            self._log(*fault_lines("an internal error at the disk", fault))
        return [StorageFailedError() for _ in jobs]


DISK_READS = ("find", "find_token")  # methods that need no commit


def start(thread: threading.Thread) -> None:
    """Start it. StartError where the system has no room for another one."""
    try:
        thread.start()
    except RuntimeError:
        raise StartError(
            "the system allows no more threads: raise the limit for processes (ulimit -u, or that of the container)"
        ) from None


def yield_to_the_chat(niceness: int) -> None:
    """Lower the priority of this thread, where the system can tell threads apart."""
    if sys.platform == "linux":  # elsewhere a priority is the whole process's
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


# --- The log ----------------------------------------------------------------------------------------------------------


class Log:
    """Writes the log to standard error, on a thread of its own.

    Its reader may stop: a pipe that is full, Ctrl-S, text marked in a Windows console. The chat goes on even so, and
    lines for which there is no room are dropped, as are those that come while the disk of the log is full. How many is
    said as soon as there is room again. The log ends when nobody can ever read it.

    The logging library is not used: one record of it takes as long as seven messages, and a login needs two.

    `console` is a console of Windows, if standard error is one: it wants text, bytes would be read in its code page.
    """

    def __init__(self, console: TextIO | None = None) -> None:
        self._console = console
        self._lock = threading.Lock()  # for the next two
        self._waiting: list[tuple[float, str]] = []  # lines to be written, with their Unix time
        self._dropped = 0  # lines for which `_waiting` had no room since it was last emptied
        self._begun = b""  # the rest of a line that the disk took a part of
        self._lost = 0  # lines that were not written, and are still to be told of
        self._lost_why = ""
        self._work = threading.Event()
        self._finishing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        start(self._thread)

    def write(self, *lines: str) -> None:
        """Write these lines with the present time, from any thread; as many as there is room for."""
        now = storage.time_of_day()
        with self._lock:
            room = LOG_LINES - len(self._waiting)
            self._waiting += [(now, line) for line in lines[:room]]
            self._dropped += max(0, len(lines) - room)
        self._work.set()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while not self._finishing.is_set() or self._waiting:
                self._work.wait()
                self._finishing.wait(LOG_PAUSE)  # what comes meanwhile is written with it
                self._work.clear()
                self._write_waiting()

    def _write_waiting(self) -> None:
        """Write what waits, then how much of what came behind it was dropped. OSError if nobody will ever read it."""
        with self._lock:
            lines, self._waiting = self._waiting, []
            dropped, self._dropped = self._dropped, 0
        if lines:
            self._append(lines)
        if dropped:
            self._lost, self._lost_why = self._lost + dropped, self._lost_why if self._lost else "nobody read it"
            self._append([])

    def _append(self, lines: list[tuple[float, str]]) -> None:
        """Write how many lines were lost before these, if any, and these; or count them among the lost ones."""
        lost = self._lost
        if lost:
            number = "1 line of the log was" if lost == 1 else f"{lost:,} lines of the log were"
            when = lines[0][0] if lines else storage.time_of_day()
            lines = [(when, f"{number} lost: {self._lost_why}"), *lines]
        text = "".join(f"{local_time(wall)} {line}\n" for wall, line in lines)
        data = self._begun + text.encode(errors="backslashreplace")
        rest = self._put(data)
        done = data[: len(data) - len(rest)]
        torn = not done.endswith(b"\n") if done else bool(self._begun)
        end = rest.find(b"\n") + 1 if torn else 0
        self._begun, rest = rest[:end], rest[end:]
        missing = rest.count(b"\n")
        # If not even the line about the lost ones was written, they are still to be told of, and it is none of them.
        self._lost = missing + lost - 1 if lost and missing == len(lines) else missing

    def _put(self, data: bytes) -> bytes:
        """Write as much as there is room for; returns the rest."""
        while data:
            try:
                if self._console is not None:
                    data = data[write_to_console(self._console, data) :]
                else:
                    data = data[os.write(2, data) :]
            except BlockingIOError:  # a terminal that another program has left so
                time.sleep(LOG_PAUSE)
            except OSError as error:
                if error.errno in LOG_ENDS:
                    raise
                self._lost_why = "disk full" if error.errno == errno.ENOSPC else reason_of(error)
                break
        return data

    def finish(self) -> None:
        """Wait a moment for what is still to be written."""
        self._finishing.set()
        self._work.set()
        self._thread.join(LOG_PATIENCE)


def write_to_console(console: TextIO, data: bytes) -> int:
    """Write whole lines, one by one: Python before 3.11.7 cuts what is long between the bytes of a letter."""
    for line in data.splitlines(keepends=True):
        console.write(line.decode())
    console.flush()
    return len(data)


def console_of_errors() -> TextIO | None:
    """Standard error, if it is a console of Windows."""
    return sys.stderr if sys.platform == "win32" and sys.stderr is not None and sys.stderr.isatty() else None


# --- Listening --------------------------------------------------------------------------------------------------------


class StartError(Exception):
    """The server cannot start; the text is one line for a person."""


LAST_PRIVILEGED = 1023  # of the ports
# Ports that Hyper-V, WSL and Docker take for themselves.
RESERVED_PORT = (
    "Windows has reserved port {port}: choose another one"
    " (netsh interface ipv4 show excludedportrange protocol=tcp lists those that are)"
)
LINK_LOCAL = re.compile(r"fe[89ab][0-9a-f]:[^%]*", re.IGNORECASE)  # an IPv6 address that says nothing without its zone

BIND_ERRORS = {
    errno.EADDRINUSE: "port {port} is in use: another server runs there, stop it or choose another port",
    errno.EACCES: f"no permission for port {{port}}: choose one above {LAST_PRIVILEGED}",
    errno.EADDRNOTAVAIL: "this machine has no address {host}: use 0.0.0.0 for all of its addresses",
}


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen at every address that `host` stands for, on one port; 0 lets the system choose it.

    StartError if there is none, or if one of them is in use.
    """
    found = []
    with contextlib.suppress(socket.gaierror, UnicodeError):
        if host:  # Windows would take an empty one for this machine
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    if not found:
        raise StartError(f"there is no address {host}: use 0.0.0.0 for all addresses of this machine")
    listeners: list[socket.socket] = []
    fault: OSError | None = None
    for family, kind, number, _, address in dict.fromkeys(found):
        try:
            listeners.append(_listen_at(family, kind, number, (address[0], port, *address[2:])))
            port = listeners[0].getsockname()[1]
        except OSError as error:
            fault = error
    if fault is not None and (not listeners or fault.errno == errno.EADDRINUSE):
        for listener in listeners:
            listener.close()
        text = BIND_ERRORS.get(fault.errno or 0, f"cannot listen at {{host}} port {{port}}: {fault.strerror}")
        if sys.platform == "win32" and fault.errno == errno.EACCES and port > LAST_PRIVILEGED:
            text = RESERVED_PORT
        if LINK_LOCAL.fullmatch(host):
            text = "{host} is an address in each of the networks here: add %INTERFACE, such as {host}%eth0"
        raise StartError(text.format(host=host, port=port))
    return listeners


def _listen_at(family: int, kind: int, number: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, kind, number)
    try:
        if sys.platform == "win32":  # there SO_REUSEADDR would let a second server in
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            both = address[0] == "::" and socket.has_dualstack_ipv6()
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # an older Linux
                sock.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS, SEND_AGAIN_WITHIN)  # also for what it accepts
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def open_files_limit(wanted: int) -> int:
    """How many files this process may have open, after raising the soft limit towards `wanted`."""
    if sys.platform == "win32":
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed, possible = (wanted if limit == resource.RLIM_INFINITY else min(limit, wanted) for limit in (soft, hard))
    with contextlib.suppress(OSError, ValueError):  # macOS allows less than it says
        if allowed < possible:
            resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
            return possible
    return allowed


# --- TLS --------------------------------------------------------------------------------------------------------------


class Encryption:
    """The TLS that the server offers, and the connections of which it is not settled whether they use it.

    One port serves both: the first byte decides. It is looked at without being taken, once. Until it has come a
    connection counts as plain; after that of TLS nothing is written to it but over TLS.

    Many may shake hands at once, after a restart everybody does: in a turn `HANDSHAKE_STEPS_A_TURN` go on, in their
    order.
    """

    __slots__ = ("context", "due", "handshaking", "only", "unsettled")

    def __init__(self, context: ssl.SSLContext | None, only: bool) -> None:
        self.context = context  # None: there is no TLS
        self.only = only  # plain connections are refused
        self.unsettled: set[Connection] = set()  # nothing has come from them yet, or their handshake is going on
        # Those whose first byte was that of TLS -> deadline, FOREVER before their first turn; oldest first
        self.handshaking: dict[Connection, float] = {}
        self.due: dict[Connection, None] = {}  # those of them that can go on; the one that waited longest first

    def settle(self, connection: Connection) -> None:
        """It is known how it is served, or it is not served any more."""
        self.unsettled.discard(connection)
        self.handshaking.pop(connection, None)
        self.due.pop(connection, None)

    def is_in_clear(self, connection: Connection) -> bool:
        """Whether a network can read what is said there. The way from this machine to itself is none."""
        if connection in self.unsettled or isinstance(connection.socket, RecordSocket):
            return False
        return not protocol.is_loopback(connection.address)

    def overdue(self, now: float) -> list[Connection]:
        """Connections whose handshake took too long."""
        return [*itertools.takewhile(lambda each: self.handshaking[each] <= now, self.handshaking)]


class RecordSocket(socket.socket):
    """A socket that encrypts. Its way to OpenSSL is through memory, one record at a time.

    With a socket of its own, OpenSSL reads on as long as records come that bring nothing, such as orders to change the
    keys: a stranger who sent 3 MB of them stopped the chat for ten seconds. So each record is counted here, and one
    turn has those that a read of TLS_READ gave, all of them, so that none waits unseen.
    """

    __slots__ = ("_begun", "_ended", "_farewell", "_incoming", "_library", "_outgoing", "_raw", "_silent", "_unsent")

    def __init__(self, plain: socket.socket, context: ssl.SSLContext) -> None:
        """From now on the bytes of `plain`, whose place it takes, go through TLS."""
        super().__init__(plain.family, plain.type, plain.proto, fileno=plain.detach())
        self.setblocking(False)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._library = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._raw = b""  # the beginning of a record of which the rest has not come
        self._unsent = b""  # encrypted, and not taken by the system
        self._begun = 0  # bytes of text in the record that `_unsent` is of, if `send` has not counted them
        self._silent = 0  # records so far that brought nothing
        self._ended = False  # whether the other side has said that no more will come, or made a fault
        self._farewell = False  # whether we have said it

    def do_handshake(self) -> None:
        """Go on with the handshake as far as the client has; raises what an `SSLSocket` would."""
        while True:
            try:
                self._library.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            finally:
                room = self._flush()
            if not room:
                raise ssl.SSLWantWriteError
            if done:
                return
            while not (size := record_size(self._raw, 0)):
                try:
                    data = super().recv(TLS_READ)
                except BlockingIOError:
                    raise ssl.SSLWantReadError from None
                if not data:
                    raise ConnectionAbortedError(errno.ECONNABORTED, CLIENT_CLOSED)
                self._raw += data
            self._incoming.write(self._raw[:size])
            self._raw = self._raw[size:]
            self._count_silent()

    def recv(self, size: int = READ_SIZE, flags: int = 0) -> bytes:
        """The text of the records that are here; empty at the end."""
        if self._ended:
            return b""
        if self._farewell:
            return super().recv(size, flags)  # nobody wants to know what it says
        if not record_size(self._raw, 0):  # else they came together with the last one of the handshake
            data = super().recv(TLS_READ, flags)
            if not data:
                return b""
            self._raw = self._raw + data if self._raw else data
        text = self._decrypt()
        if self._outgoing.pending:  # such as the answer to an order to change the keys
            self._flush()
        if not text and not self._ended:
            raise ssl.SSLWantReadError
        return text

    def _decrypt(self) -> bytes:
        """The text of all whole records. If a farewell or a fault comes behind it, the next call is told so.

        The system would not report the socket again for that, so reading is shut down, which it does report.
        """
        raw, start, pieces = self._raw, 0, []
        try:
            while size := record_size(raw, start):
                self._incoming.write(raw[start : start + size])
                start += size
                try:
                    pieces.append(self._library.read(TLS_RECORD))
                except ssl.SSLWantReadError:
                    self._count_silent()
                    continue
                if not pieces[-1]:
                    self._ended = True
                    break
        except OSError:
            if not pieces:
                raise
            self._ended = True
        self._raw = raw[start:]
        if self._ended:
            with contextlib.suppress(OSError):  # there is no connection any more
                super().shutdown(socket.SHUT_RD)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _count_silent(self) -> None:
        self._silent += 1
        if self._silent > SILENT_RECORDS_MAX:
            raise ConnectionAbortedError(errno.ECONNABORTED, "too many TLS records that say nothing")

    def send(self, data: Any, flags: int = 0) -> int:
        """How many bytes have gone. The rest is to be offered again as it is: a record of it may be half sent."""
        rest, sent = memoryview(data), 0
        while sent < len(rest):
            self._begun = self._begun or self._library.write(rest[sent : sent + TLS_RECORD])
            if not self._flush():
                break
            sent += self._begun
            self._begun = 0
        return sent

    def _flush(self) -> bool:
        """Write what is encrypted. Whether the system has taken all of it."""
        self._unsent = self._unsent + self._outgoing.read() if self._unsent else self._outgoing.read()
        while self._unsent:
            try:
                self._unsent = self._unsent[super().send(self._unsent) :]
            except BlockingIOError:
                return False
        return True

    def shutdown(self, how: int) -> None:
        self._say_farewell()
        super().shutdown(how)

    def close(self) -> None:
        self._say_farewell()
        super().close()

    def _say_farewell(self) -> None:
        """Tell the other side that this is an end and not a cut. Its answer, or room for it, is not waited for."""
        if not self._farewell:
            self._farewell = True
            with contextlib.suppress(OSError, ValueError):  # no TLS was agreed on; there is no connection any more
                self._library.unwrap()
            with contextlib.suppress(OSError):
                self._flush()


def record_size(data: bytes, start: int) -> int:
    """The bytes of the TLS record that begins there, with its header; 0 while it is not whole.

    One that is longer than any may be is not waited for: OpenSSL refuses it on its header.

    >>> record_size(bytes([23, 3, 3, 0, 2]) + b"hi" + b"more", 0), record_size(bytes([23, 3, 3, 0, 2]) + b"h", 0)
    (7, 0)
    """
    if len(data) - start < TLS_HEADER:
        return 0
    size = TLS_HEADER + int.from_bytes(data[start + TLS_HEADER - 2 : start + TLS_HEADER], "big")
    return size if size <= len(data) - start or size > TLS_READ else 0


CERTIFICATE_WITHIN = 10.0  # seconds for one to be made, before the server does without it
CERTIFICATE_LOOK = 0.02  # seconds between two looks whether another server has made one: that takes 0.1 s
JOIN_LINES = 8  # of the greeting: the bridges of containers are addresses too; those with a route come first
CERTIFICATE_NAMES_MAX = 50  # of this machine in its certificate: one with many networks has more, and few are used
OPENSSL = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 7300"  # twenty years
OPENSSL_ELSEWHERE = OPENSSL + " -subj /CN=Vessages -addext subjectAltName={names} -keyout {key} -out {cert}"
# Settings for openssl. Its own settings may be of any kind, or not there.
OPENSSL_SETTINGS = """\
[req]
prompt = no
distinguished_name = name
x509_extensions = extensions
[name]
CN = Vessages
[extensions]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
subjectKeyIdentifier = hash
subjectAltName = {names}
"""
# Where Git for Windows has one, which is on PATH in its own shell only: folders by environment variable, and in them.
GIT_FOLDERS = {
    "ProgramFiles": "Git", "ProgramW6432": "Git", "ProgramFiles(x86)": "Git", "LocalAppData": "Programs/Git",
}  # fmt: skip
GIT_PROGRAMS = ("usr/bin/openssl.exe", "mingw64/bin/openssl.exe")
PAIR_SIZE = 16 * 1024  # bytes: more than a certificate and its key take, to see whether the disk has room for them


# Why OpenSSL cannot load a pair, where its words say too little.
LOAD_FAULTS = {
    "PEM lib": "one of them is not PEM, or damaged", "key values mismatch": "the key is that of another certificate",
}  # fmt: skip


class NoCertificateError(StartError):
    """There is no certificate, and none can be made. A command to be run elsewhere is on a line of its own."""


def offer_tls(options: argparse.Namespace, bound: Sequence[str], log: WriteLog) -> tuple[ssl.SSLContext | None, str]:
    """The settings of TLS connections; or None, and why all are plain if nobody has chosen that. StartError."""
    if options.tls == "off":
        return None, ""
    names = functools.partial(own_names, options.host, bound)
    try:
        return tls_context(options.cert, options.key, not options.given, names, log), ""
    except NoCertificateError as error:
        if options.tls == "only":
            raise StartError(str(error).replace("\n    ", " ")) from None
        return None, str(error)


def own_names(host: str = "localhost", bound: Sequence[str] = ("127.0.0.1",)) -> list[str]:
    """The names and addresses of this machine as a certificate has them, if it listens at these as `host`.

    >>> own_names("lab.example", ["192.0.2.7"])[:2]
    ['IP:192.0.2.7', 'DNS:lab.example']
    """
    addresses = lan_addresses(bound)
    names = [host, socket.gethostname()]
    if EVERYWHERE & set(bound):
        addresses += ["127.0.0.1", "::1"]
    if any(map(protocol.is_loopback, addresses)):
        names.append("localhost")
    found = [f"IP:{address.partition('%')[0]}" for address in addresses]
    found += [f"DNS:{name}" for name in names if re.fullmatch(r"(?!.*\.[0-9]+$)[A-Za-z0-9._-]{1,255}", name)]
    return [*dict.fromkeys(found)][:CERTIFICATE_NAMES_MAX]


def tls_context(
    cert: Path, key: Path, ours: bool = True, names: Callable[[], list[str]] = own_names, log: WriteLog = write_nowhere
) -> ssl.SSLContext:
    """The settings of TLS connections. StartError says what to do.

    `ours`: nobody has chosen these files. A pair that was never whole is then made. One that cannot be loaded stays: a
    new certificate would alarm everybody who knows the old one.
    """
    if ours and not _are_there(cert, key):
        _make_certificate(cert, key, names, log)
    try:
        if sys.platform != "win32" and key.stat().st_mode & stat.S_IROTH:
            log(f"everybody on this machine can read {key}, and so pose as this server: chmod 600 {key}")
        return _load(cert, key)
    except PermissionError:
        text = f"this user may not read {cert} or {key}: give them to this user, or start as the one whose they are"
        raise StartError(text) from None
    except OSError as error:
        why = LOAD_FAULTS.get(reason_of(error), reason_of(error))
        text = f"cannot use {cert} and {key} as a certificate and its key: {why}; give others with --cert and --key"
        if ours:
            text += ", or move both away: new ones are made, and everybody is asked about them"
        raise StartError(text) from None


def _load(cert: Path, key: Path) -> ssl.SSLContext:
    def ask() -> str:
        if sys.stdin is None or not sys.stdin.isatty():
            raise StartError(
                f"{key} has a passphrase, and there is no terminal to ask for it:"
                f" give a key without one (openssl pkey -in {key} -out NEW)"
            )
        return getpass.getpass(f"passphrase of {key}: ")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0  # to come back by a shorter handshake: no client of ours asks, and they cost a fifth of one
    context.load_cert_chain(cert, key, ask)
    return context


def _holds_something(file: Path) -> bool:
    """Whether it is there and not empty. A link that leads nowhere is: its disk may be mounted again."""
    try:
        return file.is_symlink() or file.stat().st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def _are_there(cert: Path, key: Path) -> bool:
    return _holds_something(cert) and _holds_something(key)


def _make_certificate(cert: Path, key: Path, names: Callable[[], list[str]], log: WriteLog) -> None:
    """Make both elsewhere, look whether they can be used, and only then put them into place.

    Another server may be started in that folder now, with accounts of its own: the pair of the first one is for both.
    """
    until = time.monotonic() + CERTIFICATE_WITHIN
    lock = _lock_pair(cert, until)
    drafts = cert.with_name(cert.name + ".new")  # a folder: nobody else may read the key, from the first byte on
    try:
        if _are_there(cert, key):
            return
        shutil.rmtree(drafts, ignore_errors=True)  # of a start that was killed
        drafts.mkdir(0o700)
        _make_drafts(drafts, cert, key, names(), until)
        for file in filter(_holds_something, (cert, key)):  # useless alone, but it may be somebody's
            aside = file.replace(file.with_name(file.name + ".old"))
            log(f"{file} was alone: it is {aside} now, and a new certificate and its key were made")
        (drafts / key.name).replace(key)
        (drafts / cert.name).replace(cert)
        storage.sync_folder(cert.parent)
    except OSError as error:
        why = f"no certificate can be made in {cert.parent}: {reason_of(error)}"
        raise NoCertificateError(f"{why}; mend that and start again, or give one with --cert and --key") from None
    finally:
        shutil.rmtree(drafts, ignore_errors=True)
        lock.release()


def _lock_pair(cert: Path, until: float) -> storage.FileLock:
    """The right to make this certificate. While another server has it, a wait until that has made one."""
    while True:
        try:
            return storage.FileLock(cert)
        except storage.LockedError:
            if time.monotonic() >= until:
                raise NoCertificateError(f"another server is still making {cert}: start this one again") from None
            time.sleep(CERTIFICATE_LOOK)
        except storage.StorageError as error:
            raise NoCertificateError(f"no certificate can be made: {error}") from None


def openssl_programs() -> Iterator[str]:
    """The paths of the openssl programs that are here."""
    found = shutil.which("openssl")
    if found is not None:
        yield str(Path(found).absolute())
    for variable, folder in GIT_FOLDERS.items():
        for program in GIT_PROGRAMS if variable in os.environ else ():
            path = Path(os.environ[variable], folder, program)
            if path.is_file():
                yield str(path)


def _make_drafts(drafts: Path, cert: Path, key: Path, names: list[str], until: float) -> None:
    """Make both in the folder `drafts` and sync them.

    OSError if the disk is to blame, of which openssl may say nothing and exit with 0.
    """
    settings = drafts / "settings"
    settings.write_text(OPENSSL_SETTINGS.format(names=", ".join(names)), encoding="ascii")
    why = "there is no openssl here to make a certificate: install it"
    for program in openssl_programs():
        words = [program, *OPENSSL.split()[1:], "-config", settings.name, "-keyout", key.name, "-out", cert.name]
        try:
            # In that folder, since a path may have letters that this program cannot read.
            subprocess.run(
                words, cwd=drafts, check=True, stdin=subprocess.DEVNULL, capture_output=True,
                timeout=max(0.0, until - time.monotonic()),
            )  # fmt: skip
            _load(drafts / cert.name, drafts / key.name)
            break
        except (OSError, subprocess.SubprocessError):
            why = f"{program} could not make a certificate"
    else:
        with (drafts / "room").open("wb") as room:
            room.write(bytes(PAIR_SIZE))
            room.flush()
            os.fsync(room.fileno())
        command = OPENSSL_ELSEWHERE.format(names=",".join(names), cert=cert.name, key=key.name)
        text = f"{why}, or run this elsewhere and copy both files to {cert.parent.absolute()}:\n    {command}"
        raise NoCertificateError(text)
    for file, mode in ((drafts / cert.name, 0o644), (drafts / key.name, 0o600)):
        file.chmod(mode)
        with file.open("r+b") as made:
            storage.give_to_owner_of(cert.parent, made.fileno())
            storage.sync(made)


def fingerprint(cert: Path) -> str:
    """The fingerprint of a certificate, as clients remember it."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    first = cert.read_text(encoding="latin-1").partition(begin)[2].partition(end)[0]
    return protocol.fingerprint_of(ssl.PEM_cert_to_DER_cert(begin + first + end))


# --- Addresses to join with -------------------------------------------------------------------------------------------


SIOCGIFADDR = 0x8915  # Linux: what address has the network interface whose name a `struct ifreq` begins with
IFREQ_SIZE = 40  # bytes of such a struct
INTERFACES_TELL = sys.platform == "linux"  # all addresses of this machine: see `interface_addresses`
IF_INET6 = Path("/proc/net/if_inet6")  # Linux: a line for each IPv6 address, which it begins with


def bound_address(listener: socket.socket) -> str:
    """The address a listener is bound to; a link-local one with the interface behind which it is: `fe80::77%eth0`."""
    host, _, *rest = listener.getsockname()
    if len(rest) < 2 or not rest[1]:
        return str(host)
    zone = str(rest[1])
    if sys.platform != "win32":  # whose addresses have the number
        with contextlib.suppress(OSError):
            zone = socket.if_indextoname(rest[1])
    return f"{host}%{zone}"


def lan_addresses(bound: Sequence[str]) -> list[str]:
    """The addresses under which others reach what is bound to these. A while, where not INTERFACES_TELL."""
    if not EVERYWHERE & set(bound):
        return list(bound)
    named = [] if INTERFACES_TELL else named_addresses()
    return reachable(bound, [*route_addresses(), *interface_addresses(), *named])


EVERYWHERE = {"0.0.0.0", "::"}


def reachable(bound: Sequence[str], found: Iterable[str]) -> list[str]:
    """Those of the addresses that were found that others can use.

    >>> reachable(["0.0.0.0"], ["127.0.0.1", "10.1.2.3", "2001:db8::7", "10.1.2.3"])
    ['10.1.2.3']
    """
    wanted = [a for a in dict.fromkeys(found) if not protocol.is_loopback(a) and not a.startswith("fe80:")]
    return wanted if "::" in bound else [a for a in wanted if ":" not in a]


def route_addresses() -> list[str]:
    """The addresses that face the rest of the world.

    To connect a datagram socket sends nothing, it only asks the system for a route (the addresses outside are reserved
    for documentation).
    """
    found: list[str] = []
    for family, outside in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((outside, 9))
            found.append(str(probe.getsockname()[0]))
    return found


def interface_addresses() -> list[str]:
    """The addresses of the network interfaces, where INTERFACES_TELL.

    In a lab whose network leads nowhere else, so that there is no default route, nothing else tells them.
    """
    found: list[str] = []
    if sys.platform == "linux":  # as mypy wants it written
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _, name in socket.if_nameindex():
                with contextlib.suppress(OSError):  # this one has none
                    answer = fcntl.ioctl(sock, SIOCGIFADDR, name.encode().ljust(IFREQ_SIZE, b"\0"))
                    found.append(socket.inet_ntoa(answer[20:24]))  # behind the name, the family and the port
        with contextlib.suppress(OSError):  # IPv6 is switched off
            lines = IF_INET6.read_text(encoding="ascii").splitlines()
            found += [socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line[:32])) for line in lines]
    return found


def named_addresses() -> list[str]:
    """The addresses that this machine's name stands for. A name server that does not answer takes NAME_WITHIN."""
    found: list[str] = []

    def ask() -> None:
        with contextlib.suppress(OSError):
            infos = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
            found.extend(str(info[4][0]) for info in infos)

    asking = threading.Thread(target=ask, name="name", daemon=True)
    with contextlib.suppress(StartError):
        start(asking)
        asking.join(NAME_WITHIN)
    return [*found]


# --- The command line -------------------------------------------------------------------------------------------------


class Parser(storage.Parser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        complain(f"{self.prog}: {message}. Use it like this: {PYTHON} vessages.py 0.0.0.0 5000 (or --help)")
        self.exit(2)


def _duration(text: str) -> float:
    """`90s`, `30m`, `6h` or `2d` in seconds.

    >>> _duration("90s"), _duration("6h")
    (90.0, 21600.0)
    """
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    if not (text[:-1].isdecimal() and len(text) < 9 and text[-1:] in units and int(text[:-1]) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 30m, 6h or 1d")
    seconds = int(text[:-1]) * units[text[-1]]
    if seconds > BACKUP_DAYS * units["d"]:
        raise argparse.ArgumentTypeError(f"{text!r} is longer than {BACKUP_DAYS}d, too long to be without a backup")
    return float(seconds)


TLS_CHOICES = ("offered", "only", "off")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="vessages.py", allow_abbrev=False,
        description="The Vessages server: instant messages for a lab or a LAN.",
        epilog=f"Example: {PYTHON} vessages.py 0.0.0.0 5000. Others then run: {PYTHON} client.py HOST 5000.",
    )  # fmt: skip
    add = parser.add_argument
    add("host", metavar="HOST", type=protocol.bare_host,
        help="the address to listen at; 0.0.0.0 for all of this machine, :: for IPv6 as well")  # fmt: skip
    add("port", metavar="PORT", type=number_type(0, 65535), help="the port, such as 5000; 0 lets the system choose")
    add("--db", metavar="PATH", type=Path, default=Path("vessages.db"), help="the accounts (default: %(default)s)")
    add("--grace", metavar="SECONDS", type=number_type(1, 86400, float), default=protocol.GRACE,
        help="how long a lost session is kept for its owner to come back (default: %(default).0f)")  # fmt: skip
    add("--hash-cost", metavar="COST", type=storage.parse_cost, default=storage.DEFAULT_COST,
        help="what one password check costs: log2 of scrypt's N, or log2(N),r,p (default: 14,8,5)")  # fmt: skip
    add("--password-min", metavar="N", type=number_type(1, 100), default=protocol.PASSWORD_MIN,
        help="characters of the shortest password for new accounts (default: %(default)s)")  # fmt: skip
    add("--connections", metavar="N", type=number_type(1, 100_000), default=protocol.CONNECTIONS_MAX,
        help="clients at once, as far as the system's open files allow (default: %(default)s)")  # fmt: skip
    add("--registrations", metavar="N", type=number_type(1, 100_000), default=protocol.REGISTRATIONS,
        help="new accounts from one address at once, then one in 10 s (default: %(default)s)")  # fmt: skip
    add("--no-register", action="store_true", help="take no new accounts")
    add("--backup-every", metavar="TIME", type=_duration, help="back the accounts up so often, such as 6h")
    add("--keep", metavar="N", type=number_type(1, storage.KEEP_MAX),
        help="with --backup-every: delete all but the newest N backups")  # fmt: skip
    add("--tls", choices=TLS_CHOICES, default=TLS_CHOICES[0],
        help="offered (the default): clients may encrypt, a certificate is made beside the accounts if there is none;"
        " only (or --tls alone): those that do not are refused; off: nothing is encrypted")
    add("--cert", metavar="FILE", type=Path, help="the certificate (default: vessages-cert.pem beside the accounts)")
    add("--key", metavar="FILE", type=Path, help="its key (default: vessages-key.pem there)")
    add("--verbose", action="store_true", help="log every connection and why it ended, not only who logs in and leaves")
    add("--version", action="version", version=f"Vessages {protocol.VERSION}")
    return parser


def spell_out(arguments: Sequence[str]) -> list[str]:
    """The command line with `--tls only` where there is `--tls` alone, which once meant that.

    >>> spell_out(["--tls", "0.0.0.0", "5000"])
    ['--tls=only', '0.0.0.0', '5000']
    """
    pairs = itertools.zip_longest(arguments, arguments[1:])
    return ["--tls=only" if word == "--tls" and after not in TLS_CHOICES else word for word, after in pairs]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, understood; what is wrong with it goes to standard error, with exit code 2."""
    parser = make_parser()
    options = parser.parse_args(spell_out(sys.argv[1:] if arguments is None else arguments))
    if not options.db.name:
        parser.error(f"--db {options.db} is a folder: give the name of a file")
    if (options.cert or options.key) and options.tls == "off":
        parser.error("--cert and --key are of no use with --tls off: nothing would be encrypted")
    for file in (options.cert, options.key):
        if file is not None and not os.access(file, os.R_OK):
            parser.error(f"there is no file {file} to be read; without --cert and --key a certificate is made")
    options.given = bool(options.cert or options.key)
    options.cert = options.cert or options.db.with_name("vessages-cert.pem")
    options.key = options.key or options.db.with_name("vessages-key.pem")
    for option, file in (("--cert", options.cert), ("--key", options.key)):
        if options.given and not os.access(file, os.R_OK):
            parser.error(f"a certificate and its key belong together: give {option} too")
    if options.keep and not options.backup_every:
        parser.error("--keep counts the backups of --backup-every, which is not given")
    return options


class Greeting(NamedTuple):
    """All that the person who started the server wants to know, but for the addresses that others can use."""

    bound: Sequence[str]  # the addresses
    port: int
    accounts: str  # where they are
    fingerprint: str = ""  # of the certificate, with TLS
    plain: str = ""  # why nothing is encrypted, if nobody has chosen that

    def text(self, addresses: Sequence[str]) -> str:
        others = "Others on this machine" if addresses and all(map(protocol.is_loopback, addresses)) else "Others"
        lines = [f"Vessages {protocol.VERSION} listens at {', '.join(self.bound)} port {self.port}.", self.accounts]
        lines += [f"{others} join with ({OTHER_SYSTEM}: {OTHER_PYTHON} instead of {PYTHON})"]
        shown, more = addresses[:JOIN_LINES] or ["ADDRESS"], len(addresses) - JOIN_LINES
        lines += [f"    {PYTHON} client.py {address} {self.port}" for address in shown]
        if more > 0:
            lines += [f"({more} more addresses of this machine serve as well)"]
        if not addresses:
            lines += ["where ADDRESS is that of this machine in the network."]
        if any("%" in address for address in shown):
            lines += ["where the word behind % is this machine's network interface: others write their own."]
        if self.plain:
            lines += ["Nothing is encrypted, so the network can read passwords:", self.plain]
        if self.fingerprint:
            lines += ["The certificate's fingerprint:", protocol.fingerprint_words(self.fingerprint)]
        return "\n".join([*lines, f"Ctrl-C stops the server, {QUESTION_KEY} logs who is connected."])


class Backups:
    """The backups of `--backup-every`: one is due so many seconds after the newest, also if that is of yesterday.

    path: of the database. every: seconds from one to the next. keep: how many of the newest are kept; None: all.
    log: is told of each, and of each that failed. wall: Unix seconds.
    """

    def __init__(
        self, path: Path, every: float, keep: int | None, log: WriteLog, wall: Callable[[], float] = storage.time_of_day
    ) -> None:
        self._path, self._every, self._keep, self._log, self._wall = path, every, keep, log, wall
        self._made: float | None = None  # our own last one: the folder may be one that cannot be listed
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="backup", daemon=True)

    def begin(self) -> None:
        """Say when the next one is due, and make them from now on, in a thread of their own."""
        due = self.due()
        words = f"the next one is due at {local_time(due)}" if due > self._wall() else "one is due now"
        start(self._thread)
        self._log(f"backup: {words}")

    def end(self) -> None:
        """Make no more; one that is being made is finished, since its first half would stay in the folder."""
        self._ended.set()
        self._thread.join(BACKUP_PATIENCE)
        if self._thread.is_alive():
            self._log(f"backup: given up, it was not finished within {BACKUP_PATIENCE:.0f} s")

    def due(self) -> float:
        """When the next one is due, in Unix seconds. At once if there is none; one from the future does not count."""
        now = self._wall()
        known = (self._made, storage.newest_backup(self._path, now))
        return max((made + self._every for made in known if made is not None and made <= now), default=now)

    def look(self) -> float:
        """Make a backup if it is due; returns for how many seconds to wait until the next look."""
        wait = self.due() - self._wall()
        if wait > 0:
            return min(wait, BACKUP_LOOK)
        made = self._wall()
        try:
            report = storage.backup(self._path, keep=self._keep, now=made)
        except (storage.StorageError, OSError) as error:
            again = min(self._every, BACKUP_AGAIN)
            self._log(f"backup failed: {error} (next try at {local_time(made + again)})")
            return again
        self._made = made
        self._log(f"backup: {report.path}, {report.accounts} accounts, {report.size} bytes")
        self._log(*(f"backup: {note}" for note in report.notes))
        return min(self._every, BACKUP_LOOK)

    def _run(self) -> None:
        yield_to_the_chat(BACKUP_NICENESS)
        while not self._ended.wait(self.look()):
            pass


def greet(greeting: Greeting) -> None:
    """Print it: at once, or where this machine does not tell all its addresses itself, when its name was asked for."""

    def ask_and_tell() -> None:
        tell(greeting.text(lan_addresses(greeting.bound)))

    if INTERFACES_TELL:
        ask_and_tell()
    else:
        start(threading.Thread(target=ask_and_tell, name="greeting", daemon=True))


def tell(text: str) -> None:
    """Print this, if anybody wants to read it."""
    try:
        print(text, flush=True)
    except OSError:  # a pipe that is closed already
        storage.drop_output(sys.stdout)


def serve(options: argparse.Namespace, log: Log) -> int:
    """Run a server with these options until it is stopped; returns the exit code."""
    try:
        options.db.absolute()
    except OSError:
        text = "the current folder was deleted: change to another one, or give --db with its whole path"
        raise StartError(text) from None
    listeners = bind(options.host, options.port)
    new = not options.db.exists()
    bound = [bound_address(listener) for listener in listeners]
    offer = functools.partial(offer_tls, options, bound, log.write)
    # A pair that is there is loaded before there are accounts: a start that fails should leave nothing new behind.
    offered = offer() if options.given or _are_there(options.cert, options.key) else None
    with contextlib.closing(storage.open_store(options.db)) as store:
        limit = open_files_limit(options.connections + SPARE_FILES)
        spare = min(SPARE_FILES, max(LEAST_SPARE_FILES, limit // 4))
        limit = files = limit - spare
        selector = selectors.DefaultSelector()
        if isinstance(selector, selectors.SelectSelector):
            limit = min(limit, SELECT_MAX - (len(listeners) - 1))  # each further listener takes a place
        most = max(1, min(limit, options.connections))
        hub = Hub(grace=options.grace, password_min=options.password_min, registration=not options.no_register,
                  registrations=options.registrations,
                  connections_max=most)  # fmt: skip
        tls, why_plain = offered or offer()
        server = Server(hub, store, listeners, cost=options.hash_cost, selector=selector, spare_files=spare, tls=tls,
                        encrypted_only=options.tls == "only", log=log.write, verbose=options.verbose)  # fmt: skip
        hub.restore(store.recover(storage.time_of_day()))
        backups = Backups(store.path, options.backup_every, options.keep, log.write) if options.backup_every else None
        if backups is not None:
            backups.begin()
        server.signals.heed()
        closed = " and none can be made: start it once without --no-register" * options.no_register
        accounts = f"Accounts: {store.path}" + f" (new, no accounts yet{closed})" * new
        port = listeners[0].getsockname()[1]
        log.write("started")
        if most < options.connections:
            why = "the select of this system" if most < files else "the limit of open files (ulimit -n)"
            log.write(f"at most {most} clients at once, not {options.connections}: {why} allows no more")
        greet(Greeting(bound, port, accounts, fingerprint(options.cert) if tls else "", why_plain))
        code = run(server, log.write)
        written = server.close()
        if backups is not None:
            backups.end()
        if not written:
            log.write("the disk does not answer: the accounts may lack what was to be written last", "stopped")
            log.finish()
            os._exit(FAULT)  # Python would close the store, and wait for the disk
    log.write("stopped")
    server.signals.ignore()
    return code


def run(server: Server, log: WriteLog) -> int:
    """Run it until it was stopped; returns the exit code."""
    code = 0
    try:
        server.run()
    except Exception as fault:
        log(*fault_lines("an internal error: the server stops", fault))
        code = FAULT
        with contextlib.suppress(Exception):  # what can still be told, is
            server.stop()
            server.run()
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code: 0 after a stop, 2 if it cannot start, FAULT."""
    try:
        storage.set_encodings()
        options = parse(arguments)
    finally:
        storage.write_the_rest("vessages.py")
    log: Log | None = None
    try:
        log = Log(console_of_errors())
        return serve(options, log)
    except (StartError, storage.StorageError) as error:
        complain(f"vessages.py: {error}")
        return 2
    except OSError as error:  # what every step needs: an open file, memory
        where = f"{error.filename}: " if error.filename else ""
        complain(f"vessages.py: cannot start: {where}{reason_of(error)}")
        return 2
    except KeyboardInterrupt:  # while it was starting
        return 128 + signal.SIGINT
    finally:
        if log is not None:
            log.finish()


if __name__ == "__main__":
    sys.exit(main())
