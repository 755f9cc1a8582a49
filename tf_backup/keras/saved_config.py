"""Saved config of a wrapped optimizer, which other processes read as that of the inner one."""

from __future__ import annotations

from typing import Any

from tf_backup.keras.optimizer import SyncReplicasWithBackup


def unwrapped(serialized: Any) -> Any:
    """Return a serialized optimizer without its `SyncReplicasWithBackup` wrapper.

    The wrapper's settings, such as N and b, are stored next to it, where Keras ignores them.
    """
    config = serialized["config"]
    if not isinstance(config, dict) or not isinstance(config.get("inner_optimizer"), dict):
        return serialized
    inner = unwrapped(config["inner_optimizer"])
    if serialized["class_name"] != SyncReplicasWithBackup.__name__:
        return {**serialized, "config": {**config, "inner_optimizer": inner}}
    settings = {name: value for name, value in config.items() if name != "inner_optimizer"}
    return {**inner, "tf_backup": settings}


def wrapped_again(serialized: Any) -> Any:
    """Return the serialized optimizer that `unwrapped` was given."""
    serialized = dict(serialized)
    settings = serialized.pop("tf_backup", None)
    config = serialized["config"]
    if isinstance(config, dict) and isinstance(config.get("inner_optimizer"), dict):
        inner = wrapped_again(config["inner_optimizer"])
        serialized["config"] = {**config, "inner_optimizer": inner}
    if settings is None:
        return serialized
    return {
        "module": SyncReplicasWithBackup.__module__,
        "class_name": SyncReplicasWithBackup.__name__,
        "config": {**settings, "inner_optimizer": serialized},
        "registered_name": f"tf_backup>{SyncReplicasWithBackup.__name__}",
    }
