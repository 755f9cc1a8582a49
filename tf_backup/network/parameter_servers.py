"""Watches over the parameter servers, so that no call to one of them waits for ever.

TensorFlow's calls have no deadline: one to a server that is frozen, or cut off, would never return,
and Python sees no signal meanwhile. So a thread asks every server how it is. Of one that has not
answered for `timeout_s` it cuts the connections: whatever waits for it fails at once.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
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

POLL_S = 1.0  # Between two questions to a server that is well.
_ANSWER_S = 2.0  # How long an answer may take before it counts as none; not yet as a loss.
_CUT_S = 0.2  # Between two cuts: TensorFlow connects again.
_HURRY_S = 0.3  # The same after a signal: somebody wants this process to end.
_SIGNAL_GRACE_S = 1.0  # For a signal's exception to reach those that it is for.
_REPORT_S = 10.0  # A server that is silent for longer is talked about.


class Servers:
    """The parameter servers, as one of their clients sees them.

    Args:
      addresses: their `host:port`.
      timeout_s: how long one may be silent before it counts as lost.
      watch_signals: whether to let go of a server that does not answer when a signal arrives for
        this process; only in the main thread.
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
        self._interrupted = 0.0  # Until when a server that does not answer is let go of.
        self._signal: tuple[int, float] | None = None  # The last one, and when it came.
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
        """What has become of a server that is lost, in a sentence; None if all are there."""
        return next(iter(self._lost.values()), None)

    def close(self) -> None:
        """Ends watching. Connections that are cut stay so."""
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
        """Asks every server how it is: one that does not answer at once is lost.

        For when a call has failed already.
        """
        hurry = time.monotonic() < self._interrupted
        for index, address in enumerate(self.addresses):
            status = ask(address, _HURRY_S if hurry else _ANSWER_S)
            if status is None:
                self._lost.setdefault(
                    index,
                    f"Parameter server {index} ({address}) is gone, and its part of the parameters "
                    "with it.",
                )
            else:
                self._restarted(index, status)

    def repeat_signal(self) -> None:
        """Raises what a signal should have raised, if that went lost; in the main thread.

        An exception that a signal raises while Python collects garbage, or C++ calls Python, is
        ignored: one of twenty interrupts had no effect. Only handlers that raise are called again:
        Python's own for Ctrl-C, and those with an attribute `raises`.
        """
        if self._signal is None or time.monotonic() - self._signal[1] < _SIGNAL_GRACE_S:
            return
        number, self._signal = self._signal[0], None
        handler: Any = signal.getsignal(number)
        if callable(handler) and (
            handler is signal.default_int_handler or getattr(handler, "raises", False)
        ):
            handler(number, None)

    def forget_signal(self) -> None:
        """Says that the last signal has had its effect."""
        self._signal = None

    def interrupt(self, seconds: float = 5.0) -> None:
        """Lets calls fail, for so long, that wait for a server that does not answer now."""
        self._interrupted = time.monotonic() + seconds

    # ---- Threads ------------------------------------------------------------------------------

    def _watch(self, index: int) -> None:
        """Asks one server how it is, and says so when it is not."""
        heard = reported = time.monotonic()
        address = self.addresses[index]
        while not self._closed:
            hurry = time.monotonic() < self._interrupted
            status = self._channels[index].ask(_HURRY_S if hurry else _ANSWER_S)
            now = time.monotonic()
            if status is not None:
                if index in self._lost or self._restarted(index, status):
                    self._connections[index].cut()
                    time.sleep(_CUT_S)
                    continue
                heard = reported = now
                self._pause(POLL_S)
                continue
            if now - heard > self.timeout_s:
                self._lost.setdefault(
                    index,
                    f"Parameter server {index} ({address}) has not answered for "
                    f"{now - heard:.0f} s: it is gone, or frozen, and its part of the parameters "
                    "with it.",
                )
            elif now - reported > _REPORT_S:
                log.warning(
                    "Parameter server %d (%s) has not answered for %.0f s; it counts as lost after "
                    "%.0f s.",
                    index,
                    address,
                    now - heard,
                    self.timeout_s,
                )
                reported = now
            if index in self._lost or hurry:
                self._connections[index].cut()
            self._pause(_CUT_S)

    def _restarted(self, index: int, status: Status) -> bool:
        """Notes which process answers; returns whether it is another one than before."""
        if self._known.setdefault(index, status.incarnation) == status.incarnation:
            return False
        self._lost.setdefault(
            index,
            f"Parameter server {index} ({self.addresses[index]}) has been restarted, and its part "
            "of the parameters is gone.",
        )
        return True

    def _pause(self, seconds: float) -> None:
        """Waits, or until there is hurry or an end."""
        end, hurry = time.monotonic() + seconds, self._interrupted
        while not self._closed and time.monotonic() < end and self._interrupted == hurry:
            time.sleep(_CUT_S)

    def _wait(self) -> None:
        """Waits for signals of this process."""
        while not self._closed:
            ready, _, _ = select.select([self._wake], [], [], POLL_S)
            if not ready:
                continue
            numbers = self._wake.recv(64)
            if self._signals is not None and self._signals >= 0:  # Somebody else listens, too.
                with contextlib.suppress(OSError):
                    os.write(self._signals, numbers)
            for number in set(numbers) & {signal.SIGINT, signal.SIGTERM}:
                self.interrupt()
                self._signal = number, time.monotonic()


class Connections:
    """This process' connections to one server. Relies on Linux' /proc.

    Args:
      address: its `host:port`.
    """

    def __init__(self, address: str) -> None:
        self._host, self._port = split(address)
        self._hosts = self._resolve()

    def cut(self) -> int:
        """Shuts them down, so that what waits for an answer fails; returns how many there were."""
        self._hosts |= self._resolve()  # A pod that is started again has another address.
        count = 0
        for connection in self._find():
            with connection, contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
                count += 1
        return count

    def _resolve(self) -> set[str]:
        """Returns the addresses of the host."""
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError:
            return set()
        return {_plain(str(peer[0])) for *_, peer in found}

    def _find(self) -> Iterator[socket.socket]:
        """Yields copies of the sockets."""
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
    """Returns an IP address in the one form that it has here."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)
