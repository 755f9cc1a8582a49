"""A process is the chief of one cluster at a time."""

from __future__ import annotations

import pytest

from tf_backup.cluster import connection, tf_config


def test_a_second_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_connected", ["localhost:7"])
    addresses = {"chief": ["localhost:8"], "worker": ["localhost:9"], "ps": ["localhost:10"]}
    config = tf_config.ClusterConfig(addresses, "chief", 0)
    with pytest.raises(ValueError, match="is the chief of a cluster already, as localhost:7, and"):
        connection.connect(config, connection.Timeouts())
