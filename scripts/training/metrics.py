"""Metrics of training for Prometheus, at http://HOST:PORT/metrics of the chief."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import keras
import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

REFRESH_S = 5.0  # Minimum between reads of the accounts, which are on a parameter server.
VERDICTS = ("accepted", "late", "stale", "duplicate", "lost", "nonfinite")


class Metrics(keras.callbacks.Callback):
    """Callback that serves verdicts on gradients, numbers of updates and workers, and times.

    Args:
      port: port to serve at, on all interfaces; 0 for a free one.
      monitor: a `tf_backup.StragglerMonitor`, whose window has the times; None to serve no times.
      refresh_s: least number of seconds between two reads of the accounts.

    Attributes:
      port: port that is served at.
    """

    runs_behind = True  # Its metrics need not be exact to the update.

    def __init__(self, port: int, monitor: Any = None, refresh_s: float = REFRESH_S) -> None:
        super().__init__()
        self._monitor = monitor
        self._refresh_s = refresh_s
        self._looked_at: float | None = None
        self._updates = 0
        self._workers: tuple[Any, ...] = ()
        registry = prometheus_client.CollectorRegistry()
        registry.register(self)
        self._server, self._thread = prometheus_client.start_http_server(port, registry=registry)
        self.port = self._server.server_port

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Read the accounts if it is time."""
        del batch, logs
        now = time.monotonic()
        if self._looked_at is None or now - self._looked_at >= self._refresh_s:
            self._look()
            self._looked_at = now

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Read the accounts, since a long validation may follow."""
        del epoch, logs
        self._look()

    def on_train_end(self, logs: Any = None) -> None:
        """Read the accounts for the last time."""
        del logs
        self._look()

    def collect(self) -> Iterator[Any]:
        """Yield the metrics, in the server's threads, without asking the cluster for anything."""
        updates = CounterMetricFamily("tf_backup_updates", "Updates made, of the whole training.")
        updates.add_metric([], self._updates)
        yield updates
        counts = CounterMetricFamily(
            "tf_backup_contributions",
            "Gradients since this chief began, by what became of them.",
            labels=["worker", "verdict"],
        )
        for record in self._workers:
            for verdict in VERDICTS:
                counts.add_metric([str(record.worker), verdict], getattr(record, verdict))
        yield counts
        living = getattr(getattr(self.model, "optimizer", None), "living_workers", None)
        if living is not None:
            yield GaugeMetricFamily(
                "tf_backup_living_workers", "Workers that live, of N + b.", value=living
            )

        if self._monitor is not None and self._monitor.window is not None:
            yield from _times(self._monitor.window)

    def _look(self) -> None:
        optimizer = self.model.optimizer
        self._updates = int(optimizer.iterations)
        if hasattr(optimizer, "contributions"):
            self._workers = optimizer.contributions.workers


def _times(window: Any) -> Iterator[Any]:
    """Yield the metrics of a window of the timeline."""
    yield GaugeMetricFamily(
        "tf_backup_updates_per_second", "Updates per second.", value=window.updates_per_s
    )
    yield GaugeMetricFamily(
        "tf_backup_samples_per_second",
        "Samples per second, of gradients that were used; NaN if the batch size is unknown.",
        value=window.samples_per_s,
    )
    yield GaugeMetricFamily(
        "tf_backup_wasted_ratio", "Share of gradients that were not used.", value=window.wasted
    )
    yield GaugeMetricFamily(
        "tf_backup_staleness", "Mean staleness of used gradients.", value=window.staleness
    )
    ranks = GaugeMetricFamily(
        "tf_backup_arrival_seconds",
        "Median time from the beginning of a step to its first, N-th and last gradient.",
        labels=["rank"],
    )
    for rank, seconds in (
        ("first", window.first_s),
        ("nth", window.nth_s),
        ("last", window.last_s),
    ):
        ranks.add_metric([rank], seconds)
    yield ranks
    workers = GaugeMetricFamily(
        "tf_backup_worker_seconds",
        "Median time that a worker takes for a gradient.",
        labels=["worker"],
    )
    for worker, seconds in window.worker_s.items():
        workers.add_metric([str(worker)], seconds)
    yield workers
