"""Health checks of the parameter servers, so that no call to one of them waits forever.

TensorFlow's calls have no deadline. A call to a server that is frozen or disconnected would never
return, and Python would handle no signals meanwhile. So a thread for each server asks for its
status. If the server has not answered for `timeout_s`, the thread shuts down the connections to it,
and every call that waits for it fails at once. Time in which this process itself is frozen does not
count.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import math
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tf_backup.network.address import split
from tf_backup.network.status import Channel, Status, ask

log = logging.getLogger(__name__)

POLL_S = 1.0  # Interval between status requests to a server that answers.
_ANSWER_S = 2.0  # Deadline of a status request. A missed deadline alone is not yet a loss.
_CUT_S = 0.2  # Interval between shutdowns of connections, since TensorFlow reconnects.
_HURRY_S = 0.3  # Deadline of a status request after a signal asked this process to end.
_SIGNAL_GRACE_S = 1.0  # Time for a signal's exception to take effect.
_NOTICE_S = 0.2  # Time for the thread that waits for signals to hear of one.
_REPORT_S = 10.0  # A server that is silent for longer is logged.
_ROUND_S = 5.0  # Longer than a request and the pause before it, unless this process is frozen.


class Servers:
    """The parameter servers, as one of their clients sees them.

    Args:
      addresses: addresses (`host:port`) of the servers.
      timeout_s: how long a server may be silent before it counts as lost, in seconds.
      watch_signals: whether SIGINT or SIGTERM makes calls to unresponsive servers fail. Only takes
        effect when constructed in the main thread.
    """

    def __init__(
        self, addresses: Sequence[str], timeout_s: float, watch_signals: bool = False
    ) -> None:
        self.addresses = list(addresses)
        self.timeout_s = timeout_s
        self._lost: dict[int, str] = {}
        self._known: dict[int, int] = {}
        self._channels = [Channel(address) for address in self.addresses]
        self._connections = [Connections(address) for address in self.addresses]
        self._wake, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._closed = False
        self._interrupted = 0.0  # Until then, calls to unresponsive servers fail.
        self._signal: tuple[int, float] | None = None  # The last signal, and its time.
        self._forgotten = -math.inf  # Signals until then are not repeated.
        self._signals: int | None = None
        if watch_signals and threading.current_thread() is threading.main_thread():
            self._signals = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._threads = [
            threading.Thread(target=self._watch, args=(index,), name="ps-watch", daemon=True)
            for index in range(len(self.addresses))
        ]
        self._threads.append(threading.Thread(target=self._wait, name="ps-watch", daemon=True))
        for thread in self._threads:
            thread.start()

    @property
    def lost(self) -> str | None:
        """The loss of a server, described in a sentence; None if no server is lost."""
        return next(iter(self._lost.values()), None)

    def close(self) -> None:
        """Stop watching. Connections that were shut down stay shut down."""
        if self._closed:
            return
        self._closed = True
        if self._signals is not None:
            with contextlib.suppress(ValueError):  # Not in the main thread.
                signal.set_wakeup_fd(self._signals)
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")
        for thread in self._threads:
            thread.join(_ANSWER_S + 1.0)
        for channel in self._channels:
            channel.close()
        self._wake.close()
        self._waker.close()

    def look(self) -> None:
        """Ask every server for its status; one that does not answer at once is lost.

        Meant for use after a call has failed.
        """
        hurry = time.monotonic() < self._interrupted
        for index, address in enumerate(self.addresses):
            status = _status(address, _HURRY_S if hurry else _ANSWER_S)
            if status is None:
                self._lost.setdefault(
                    index,
                    f"Parameter server {index} ({address}) is gone, and its part of the parameters "
                    "with it.",
                )
            else:
                self._restarted(index, status)

    def repeat_signal(self) -> None:
        """Call the last signal's handler again if its exception was lost; in the main thread.

        Python ignores an exception that a signal handler raises during garbage collection or in a
        call from C++: one of twenty interrupts had no effect. Only handlers that raise are called
        again: Python's own for Ctrl-C, and those with a true attribute `raises`.
        """
        if self._signal is None or time.monotonic() - self._signal[1] < _SIGNAL_GRACE_S:
            return
        (number, came), self._signal = self._signal, None
        if came < self._forgotten + _NOTICE_S:
            return
        handler: Any = signal.getsignal(number)
        if callable(handler) and (
            handler is signal.default_int_handler or getattr(handler, "raises", False)
        ):
            handler(number, None)

    def forget_signal(self) -> None:
        """Record that the signals so far have taken effect, or were another's to handle."""
        self._signal, self._forgotten = None, time.monotonic()

    def interrupt(self, seconds: float = 5.0) -> None:
        """Make calls that wait for an unresponsive server fail, for the next `seconds`."""
        self._interrupted = time.monotonic() + seconds

    # ---- Threads ------------------------------------------------------------------------------

    def _watch(self, index: int) -> None:
        """Ask one server for its status again and again, and report when it does not answer."""
        silence = Silence(min(_ROUND_S, self.timeout_s))  # One round alone is never a loss.
        reported_s = 0.0
        address = self.addresses[index]
        while not self._closed:
            hurry = time.monotonic() < self._interrupted
            status = self._channels[index].ask(_HURRY_S if hurry else _ANSWER_S)
            if status is not None:
                if index in self._lost or self._restarted(index, status):
                    self._connections[index].cut()
                    time.sleep(_CUT_S)
                    continue
                silence.end()
                reported_s = 0.0
                self._pause(POLL_S)
                continue
            silent_s = silence.go_on()
            if silent_s > self.timeout_s:
                self._lost.setdefault(
                    index,
                    f"Parameter server {index} ({address}) has not answered for {silent_s:.0f} s: "
                    "it is gone, or frozen, and its part of the parameters with it.",
                )
            elif silent_s - reported_s > _REPORT_S:
                log.warning(
                    "Parameter server %d (%s) has not answered for %.0f s; it counts as lost after "
                    "%.0f s.",
                    index,
                    address,
                    silent_s,
                    self.timeout_s,
                )
                reported_s = silent_s
            if index in self._lost or hurry:
                self._connections[index].cut()
            self._pause(_CUT_S)

    def _restarted(self, index: int, status: Status) -> bool:
        """Return whether a status shows that the server has been restarted, and record its loss."""
        if self._known.setdefault(index, status.incarnation) == status.incarnation:
            return False
        self._lost.setdefault(
            index,
            f"Parameter server {index} ({self.addresses[index]}) has been restarted, and its part "
            "of the parameters is gone.",
        )
        return True

    def _pause(self, seconds: float) -> None:
        """Sleep for `seconds`, or until `interrupt` or `close` is called."""
        end, hurry = time.monotonic() + seconds, self._interrupted
        while not self._closed and time.monotonic() < end and self._interrupted == hurry:
            time.sleep(_CUT_S)

    def _wait(self) -> None:
        """Wait for signals to this process."""
        while not self._closed:
            ready, _, _ = select.select([self._wake], [], [], POLL_S)
            if not ready:
                continue
            numbers = self._wake.recv(64)
            if self._signals is not None and self._signals >= 0:  # There is another listener.
                with contextlib.suppress(OSError):
                    os.write(self._signals, numbers)
            for number in set(numbers) & {signal.SIGINT, signal.SIGTERM}:
                self.interrupt()
                self._signal = number, time.monotonic()


class Silence:
    """Time for which a server has been silent, as far as this process was there to hear it.

    A process that was frozen finds that its request has failed, long after the last answer. That
    says nothing about the server, so only part of a long round counts. It is not left out, since
    rounds are long on a busy machine, too.

    Args:
      round_s: how much of the time between two calls counts at most, in seconds.
    """

    def __init__(self, round_s: float) -> None:
        self._round_s = round_s
        self.end()

    def end(self) -> None:
        """Record an answer."""
        self._silent_s, self._looked = 0.0, time.monotonic()

    def go_on(self) -> float:
        """Record that a request has failed, and return the time of silence in seconds."""
        now = time.monotonic()
        self._silent_s += min(now - self._looked, self._round_s)
        self._looked = now
        return self._silent_s


class Connections:
    """This process's connections to one server, found in /proc: the library does not need psutil.

    Args:
      address: the server's `host:port`.
    """

    def __init__(self, address: str) -> None:
        self._host, self._port = split(address)
        self._hosts = self._resolve()

    def cut(self) -> int:
        """Shut down the connections, so that calls on them fail, and return how many there were."""
        self._hosts |= self._resolve()  # A restarted pod has a new address.
        count = 0
        for connection in self._find():
            with connection, contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
                count += 1
        return count

    def _resolve(self) -> set[str]:
        """Return the IP addresses of the host."""
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError:
            return set()
        return {_plain(str(peer[0])) for *_, peer in found}

    def _find(self) -> Iterator[socket.socket]:
        """Yield duplicates of the sockets that are connected to the server."""
        for name in os.listdir("/proc/self/fd"):
            try:
                if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                    continue
                connection = socket.socket(fileno=os.dup(int(name)))
            except OSError:
                continue
            try:
                peer: Any = connection.getpeername()
            except OSError:
                peer = None
            if isinstance(peer, tuple) and peer[1] == self._port and _plain(peer[0]) in self._hosts:
                yield connection
            else:
                connection.close()


def _plain(host: str) -> str:
    """Return an IP address in canonical form, with a mapped IPv4 address as IPv4."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


def _status(address: str, timeout_s: float) -> Status | None:
    """Return a server's status, or None; ask again if this process was frozen meanwhile."""
    for _ in range(3):
        begin = time.monotonic()
        status = ask(address, timeout_s)
        if status is not None or time.monotonic() < begin + 2 * timeout_s:
            return status
    return None
