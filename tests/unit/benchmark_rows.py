"""Made-up rows of benchmark results."""

from __future__ import annotations

import dataclasses
from typing import Any

from scripts.benchmarks.environment import Environment
from scripts.benchmarks.rows import Row

ENVIRONMENT = Environment(
    date="2026-11-25 12:00",
    commit="1234567+",
    tf_backup="0.2.0",
    tensorflow="2.20.0",
    keras="3.15.1",
    python="3.11.7",
    cpu="a processor, with 2 cores",
    cores=2,
    memory_gib=24,
    intra_op_threads=1,
)

_ROW = Row(
    model="dense",
    ps=1,
    system="tf_backup",
    round=0,
    workers=3,
    replicas=2,
    slowdown=1.0,
    updates=100,
    seconds=4.0,
    wire_bytes=400_000,
    coordinator_bytes=2_000,
    chief_cpu_s=0.5,
    worker_cpu_s=4.0,
    ps_cpu_s=1.0,
    other_cpu_s=0.4,
    chief_peak_mib=700,
    worker_peak_mib=1_650,
    ps_peak_mib=690,
    environment=ENVIRONMENT,
)


def row(**changes: Any) -> Row:
    """Return a row of 50 gradients per second, with some fields changed."""
    return dataclasses.replace(_ROW, **changes)


def peer(**changes: Any) -> Row:
    """Return a row of a system without a chief: 20 gradients per second."""
    changes = {"system": "all_reduce", "replicas": 1, "updates": 80} | changes
    nothing = dict.fromkeys(
        ("coordinator_bytes", "chief_cpu_s", "ps_cpu_s", "chief_peak_mib", "ps_peak_mib")
    )
    return row(**nothing | changes)
