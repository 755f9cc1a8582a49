"""Timeouts for silent tasks: allowed and refused values."""

from __future__ import annotations

import re
from typing import Any

import pytest

import tf_backup


@pytest.mark.parametrize("name", ["worker_timeout_s", "server_timeout_s"])
@pytest.mark.parametrize("value", [0, -1.5, float("nan"), True, "30", None])
def test_a_timeout_must_be_a_positive_number(name: str, value: Any) -> None:
    message = re.escape(f"{name} is {value!r}; it must be a number above 0.")
    with pytest.raises(ValueError, match=message):
        tf_backup.LocalCluster(1, **{name: value})
    with pytest.raises(ValueError, match=message):
        tf_backup.parameter_server_strategy(1, **{name: value})


def test_a_lease_is_longer_than_the_heartbeat() -> None:
    with pytest.raises(ValueError, match=r"worker_timeout_s is 1\.9; it must be at least 2, since"):
        tf_backup.LocalCluster(1, worker_timeout_s=1.9)
    tf_backup.LocalCluster(1, worker_timeout_s=2, server_timeout_s=0.1)
