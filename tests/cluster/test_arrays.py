"""Shuffled arrays of every kind: the workers' processes read them in one order."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.cluster.processes import start
from tests.unit.arrays import KINDS, SAMPLES, SIZE, numbered, source
from tf_backup.worker_data import WorkerData

WORKERS = 2
EPOCHS = 3


def test_all_workers_together_read_every_sample_once(tmp_path: Path) -> None:
    files = []
    for name in KINDS:
        if name != "data frame":  # pandas need not be there; Keras makes it a NumPy array.
            data = source(KINDS[name](numbered()), np.arange(SAMPLES))
            begun = WorkerData(data.dataset, WORKERS, data.batches).start()
            files.append(tmp_path / name)
            files[-1].write_bytes(begun.graphs[0])
            files[-1].with_suffix(".json").write_text(json.dumps(begun.describe()))
    each = SAMPLES // SIZE // WORKERS
    readers = [
        start(
            "-m",
            "tests.cluster.programs.read_pipelines",
            str(i),
            str(EPOCHS * each),
            *map(str, files),
        )
        for i in range(WORKERS)
    ]
    told = []
    for reader in readers:
        out, err = reader.communicate(timeout=120)
        assert reader.returncode == 0, err
        told.append([json.loads(line) for line in out.splitlines()])
    for of_workers in zip(*told, strict=True):  # Kind by kind.
        orders = set()
        for epoch in range(EPOCHS):
            batches = [b for read in of_workers for b in read[epoch * each : (epoch + 1) * each]]
            assert sorted(label for batch in batches for label in batch) == list(range(SAMPLES))
            orders.add(json.dumps(batches))
        assert len(orders) == EPOCHS
