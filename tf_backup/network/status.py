"""Direct requests to a TensorFlow server: its status, its readiness, and clearing its memory.

An accepted connection does not prove that a server is alive. A frozen process accepts connections
too, and so does another program at the same port.
"""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Iterator

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # It logs when a process is started.

import grpc
from tensorflow.core.framework import device_attributes_pb2, versions_pb2
from tensorflow.core.protobuf import tensorflow_server_pb2

from tf_backup.network.address import split

_METHOD = "/tensorflow.WorkerService/GetStatus"
_CLEAR = "/tensorflow.WorkerService/CleanupAll"  # CleanupAllRequest: containers are field 1.
_KEEP_ALIVE = "/tensorflow.eager.EagerService/KeepAlive"  # KeepAliveRequest: context is field 1.
# CreateContextRequest: the cluster is field 1, TensorFlow's version 4, and the context 7.
_CREATE = "/tensorflow.eager.EagerService/CreateContext"
_CONTEXT = b"tfbackup"  # ID of the first context, as 8 bytes.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500))


@dataclasses.dataclass(frozen=True)
class Status:
    """The status that a TensorFlow server reports.

    Attributes:
      task: job and index, such as "ps 0".
      incarnation: a number that changes each time the server is started.
    """

    task: str
    incarnation: int


class Channel:
    """A connection for repeated status requests to one server.

    Args:
      address: the server's `host:port`.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._ask = self._channel.unary_unary(_METHOD)

    def ask(self, timeout_s: float) -> Status | None:
        """Return the server's status; None if no TensorFlow server answers in time."""
        try:
            answer = self._ask(b"", timeout=timeout_s)
        except grpc.RpcError:
            return None
        return _parse(answer)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


def ask(address: str, timeout_s: float = 1.0) -> Status | None:
    """Return the status of the server at `host:port`; None if no TensorFlow server answers."""
    channel = Channel(address)
    try:
        return channel.ask(timeout_s)
    finally:
        channel.close()


def make_ready(address: str, job: str, index: int, timeout_s: float = 60.0) -> None:
    """Open the first context on a server before clients do, which makes it ready for them.

    For the first context, TensorFlow's server replaces its manager of collectives, which the
    context then uses. Of two clients that connected at the same time, both were treated as the
    first, and the server crashed with a segmentation fault when one used the manager that the other
    had replaced. That happened in one of fifteen starts with eight workers on a busy machine.

    Args:
      address: the server's `host:port`, as seen from this process.
      job: job of the server's task.
      index: index of the server's task.
      timeout_s: how long to wait for the server, in seconds.

    Raises:
      grpc.RpcError: if the server does not answer.
    """
    import tensorflow as tf

    server = tensorflow_server_pb2.ServerDef(job_name=job, task_index=index, protocol="grpc")
    server.cluster.job.add(name=job).tasks[index] = address
    version = versions_pb2.VersionDef(producer=tf.version.GRAPH_DEF_VERSION)
    request = _field(1, server.SerializeToString()) + _field(4, version.SerializeToString())
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        channel.unary_unary(_CREATE)(
            request + _number(7, _CONTEXT), timeout=timeout_s, wait_for_ready=True
        )


def is_ready(address: str, timeout_s: float = 1.0) -> bool:
    """Return whether a server has its first context, so that clients may connect."""
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        try:
            channel.unary_unary(_KEEP_ALIVE)(_number(1, _CONTEXT), timeout=timeout_s)
        except grpc.RpcError:
            return False
    return True


def clear(address: str, container: str, timeout_s: float = 10.0) -> bool:
    """Delete all named resources of a container on the server at `host:port`.

    A session's `reset` does the same, but waits until every task of the cluster is up.

    Returns:
      Whether the server has deleted them.
    """
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        try:
            channel.unary_unary(_CLEAR)(_field(1, container.encode()), timeout=timeout_s)
        except grpc.RpcError:
            return False
    return True


def accepts(address: str, timeout_s: float = 1.0) -> bool:
    """Return whether anything accepts connections at `host:port`."""
    try:
        with socket.create_connection(split(address), timeout_s):
            return True
    except OSError:
        return False


def _field(number: int, value: bytes) -> bytes:
    """Return a protobuf field of bytes, whose length is below 2 ** 14."""
    assert len(value) < 2**14
    return bytes([number << 3 | 2, len(value) & 0x7F | 0x80, len(value) >> 7]) + value


def _number(number: int, value: bytes) -> bytes:
    """Return a protobuf field of a 64-bit number."""
    return bytes([number << 3 | 1]) + value


def _parse(answer: bytes) -> Status | None:
    """Parse a `GetStatusResponse`, whose field 1 is repeated device attributes."""
    for field in _fields(answer):
        device = device_attributes_pb2.DeviceAttributes.FromString(field)
        parts = dict(part.split(":", 1) for part in device.name.strip("/").split("/"))
        if "job" in parts and "task" in parts:
            return Status(f"{parts['job']} {parts['task']}", int(device.incarnation))
    return None


def _fields(message: bytes) -> Iterator[bytes]:
    """Yield the values of a protobuf message whose only field is field 1, length-delimited."""
    place = 0
    while place < len(message):
        if message[place] != 0x0A:
            return
        size, shift, place = 0, 0, place + 1
        while True:
            byte = message[place]
            size |= (byte & 0x7F) << shift
            shift, place = shift + 7, place + 1
            if byte < 0x80:
                break
        yield message[place : place + size]
        place += size
