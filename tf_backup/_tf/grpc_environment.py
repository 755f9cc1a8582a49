"""Environment variables that TensorFlow and gRPC read in tasks of a cluster."""

from __future__ import annotations

import os

_DEFAULTS = {"GRPC_FAIL_FAST": "use_caller"}  # Calls wait for servers that are not up yet.
# Each call to a server waits for its completion. In a stream of calls, a later one could overtake
# an earlier one.
_FIXED = {
    "TF_ENABLE_EAGER_CLIENT_STREAMING_ENQUEUE": "False",
    "TF_PS_DISABLE_ASYNC_EXECUTOR_GLOBALLY": "True",
}


def prepare() -> None:
    """Set the variables. Call this before the process uses gRPC.

    gRPC's threads read the environment, and to add a variable may move all others. A thread that
    reads at that moment crashes the process: so did some workers of large clusters at their start.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name, value in _FIXED.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
