"""Scalars and histograms of a timeline's windows, for TensorBoard."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from typing import Any

from tf_backup.timeline.windows import Window


class Scalars:
    """Writes windows as TensorBoard's events. The file is opened at the first window.

    Args:
      folder: folder of the event file.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = os.fspath(folder)
        self._writer: Any = None

    def write(self, window: Window) -> None:
        """Write a window, at the number of updates made at its end.

        Raises:
          OSError: if the file cannot be written.
        """
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.plugins.histogram.summary_v2 import histogram_pb
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if self._writer is None:
            self._writer = EventFileWriter(self._folder)
        summaries = [scalar_pb(tag, value) for tag, value in self._values(window)]
        if len(window.arrivals):
            summaries.append(histogram_pb("arrival/seconds", window.arrivals))
        for summary in summaries:
            self._writer.add_event(Event(wall_time=time.time(), step=window.step, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        """Close the file.

        Raises:
          OSError: if the rest of it cannot be written.
        """
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _values(self, window: Window) -> Iterator[tuple[str, float]]:
        """Yield names and values, without those that are not known."""
        values = {
            "speed/updates_per_second": window.updates_per_s,
            "speed/samples_per_second": window.samples_per_s,
            "arrival/first_seconds": window.first_s,
            "arrival/nth_seconds": window.nth_s,
            "arrival/last_seconds": window.last_s,
            "gradients/wasted_percent": 100 * window.wasted,
            "gradients/staleness": window.staleness,
        }
        for verdict, count in window.verdicts.items():
            values[f"gradients/{verdict}"] = count
        for worker, seconds in window.worker_s.items():
            values[f"worker_seconds/{worker}"] = seconds
        yield from ((tag, value) for tag, value in values.items() if math.isfinite(value))
