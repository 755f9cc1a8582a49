"""Replay of measured steps: when would updates have been made with another N and b?

The same workers compute the same gradients in the same time, but an update takes the first N. Only
the rules of synchronous training are needed (see `rules.protocol`), and in this form:

* A worker that is free when a step begins, begins a gradient at once.
* A worker that is still busy with a gradient of an earlier step begins one when that has arrived,
  unless the step is full by then. In that case it waits for the next step.
* The step is full when the N-th gradient has arrived, and the next one begins `update_s` later.

So the replay of a step is a few vector operations, for all splits and for many stretches of the
timeline at once.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from tf_backup.advice.survival import Floats, Ints

_MOST_WORK = 6e7  # Gradients to replay in all: some seconds. Longer timelines are thinned.
_LONGEST_RUN_UP = 200


@dataclasses.dataclass(frozen=True, eq=False)
class Replayed:
    """Result of a replay. Column s is the split with N = s + 1.

    Attributes:
      rows: [blocks, length] the rows that were replayed: blocks of successive ones.
      seconds: [blocks, length, splits] time from each row's start to the next one's.
      begun: [splits] mean number of gradients begun for an update.
    """

    rows: Ints
    seconds: Floats
    begun: Floats


def replay(seconds: Floats, update_s: float) -> Replayed:
    """Replay all splits of W workers, N = 1 ... W and b = W - N.

    The rows are cut into blocks, each of which begins with a run-up: some rows before it, for
    workers to be as busy as they would be. The run-up of the first block is the end of the rows.

    Args:
      seconds: [rows, W] how long the gradient takes that a worker begins in a row.
      update_s: time from the N-th gradient to the next step.
    """
    rows, workers = seconds.shape
    length, run_up = _lengths(seconds)
    most = int(_MOST_WORK / (workers * workers * (length + run_up)))
    blocks = max(1, min(rows // length, max(most, 20)))
    first = np.linspace(0, rows - length, blocks).astype(np.int64)  # [blocks]
    splits = np.arange(workers)
    now = np.zeros([blocks, workers])  # [blocks, splits] when the step begins
    free = np.zeros([blocks, workers, workers])  # [blocks, splits, workers] when each is free
    taken, begun = np.empty([blocks, length, workers]), np.zeros([workers])
    for row in range(-run_up, length):
        begin = np.maximum(free, now[:, :, None])
        arrive = begin + seconds[(first + row) % rows][:, None, :]
        full = np.sort(arrive, axis=-1)[:, splits, splits]
        begins = begin <= full[:, :, None]
        free = np.where(begins, arrive, free)
        if row >= 0:
            taken[:, row] = full + update_s - now
            begun += begins.sum(axis=(0, 2))
        now = full + update_s
    replayed = first[:, None] + np.arange(length)
    return Replayed(replayed, taken, begun / (length * blocks))


def order_statistics(seconds: Floats) -> Floats:
    """Return [W] the mean time until the N-th gradient, if all workers begin at once."""
    means: Floats = np.sort(seconds, axis=-1).mean(axis=0)
    return means


def _lengths(seconds: Floats) -> tuple[int, int]:
    """Return the number of rows in a block, and in its run-up.

    Slowness that lasts for less than a block is seen as what it is, in the resampling. The run-up
    lasts as long as nearly all stragglers do.
    """
    rows = len(seconds)
    length = max(1, math.isqrt(rows) // 2)
    longest = float(np.quantile(seconds, 0.999)) / float(np.median(seconds))
    return length, int(min(max(10, math.ceil(longest)), _LONGEST_RUN_UP, 10 * rows))
