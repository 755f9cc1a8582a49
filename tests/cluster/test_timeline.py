"""Timeline of a training on a real cluster: what is recorded is what happened, all of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tf_backup
from tests.cluster.scripted import Script, ScriptedData, two_server_model
from tests.extra import extra
from tf_backup.servers import arrival_log
from tf_backup.timeline import parquet
from tf_backup.timeline.schema import ACCEPTED, UNKNOWN, VERDICTS

pytestmark = pytest.mark.parametrize("cluster", [(4, 2)], indirect=True)


class Timed(ScriptedData):
    """Scripted data that knows when each batch was released, in microseconds."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.released: list[tuple[int, float]] = []

    def release(self, worker: int, value: float) -> None:
        self.released.append((worker, time.time() * 1e6))
        super().release(worker, value)


def test_arrivals_are_those_of_the_script(strategy: Any, tmp_path: Path) -> None:
    model = two_server_model(strategy, 1.0, replicas=2, backups=2)
    (tmp_path / "data").mkdir()
    data = Timed(tmp_path / "data")
    monitor = tf_backup.StragglerMonitor(tmp_path / "logs", every_s=0.1, batch_size=1)
    began = time.time() * 1e6
    # Step 0: workers 3 and 1. Step 1: worker 3, a stale one of worker 2, then worker 2 itself.
    events = [(3, 1.0), (1, 3.0), (3, 10.0), (2, 1e6), (2, 30.0)]
    with Script(model, data, events):
        model.fit(data, steps_per_epoch=2, verbose=0, callbacks=[monitor])
    ended = time.time() * 1e6
    timeline = parquet.read(tmp_path / "logs")
    assert (timeline.settings.replicas, timeline.settings.backups) == (2, 2)
    assert timeline.settings.versions["tf_backup"] == tf_backup.__version__
    rows = timeline.contributions[np.argsort(timeline.contributions["arrived"])]
    told = [
        (int(row["worker"]), int(row["step"]), VERDICTS[row["verdict"]], int(row["update"]))
        for row in rows
        if row["verdict"] == ACCEPTED or row["worker"] == 2
    ]
    assert told[:5] == [
        (3, 0, "accepted", 0),
        (1, 0, "accepted", 0),
        (3, 1, "accepted", 1),
        (2, 0, "stale", UNKNOWN),
        (2, 1, "accepted", 1),
    ]
    # Each arrived after its batch was released, and before the next was.
    mine = [row for row in rows if row["step"] >= 0][:5]
    times = [at for _, at in data.released] + [ended]
    for row, after, before in zip(mine, times, times[1:], strict=False):
        assert began < row["began"] < row["arrived"]
        assert after < row["arrived"] < before
        assert 0 < row["compute"] <= row["arrived"] - row["began"] + 1000
    assert timeline.updates["step"].tolist() == [0, 1]
    assert (timeline.updates["released"] > began).all()
    # Those of several servers; test_asynchronous.py has the times of one.
    for unknown in ("started", "taken", "applied"):
        assert (timeline.updates[unknown] == UNKNOWN).all()
    counts = model.optimizer.contributions.total.as_dict()
    assert timeline.counts() == {name: counts[name] for name in ("computed", *VERDICTS)}
    assert monitor.window is not None
    assert monitor.window.step == 2
    assert list((tmp_path / "logs" / "stragglers").iterdir())


def model_of(strategy: Any, **options: Any) -> Any:
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(tf_backup.wrap(keras.optimizers.SGD(0.1), **options), "mse")
    return model


def batches() -> Any:
    return np.ones([80, 3], np.float32), np.ones([80, 1], np.float32)


@pytest.mark.parametrize(
    "options",
    [
        {"replicas": 3, "backups": 1},
        pytest.param({"replicas": 1, "backups": 3, "max_staleness": None}, marks=extra),
    ],
)
def test_two_fits_and_a_loop_add_up(strategy: Any, tmp_path: Path, options: Any) -> None:
    model = model_of(strategy, **options)
    x, y = batches()
    monitor = tf_backup.StragglerMonitor(tmp_path, every_s=0.05)
    for _ in range(2):
        model.fit(x, y, batch_size=2, epochs=2, verbose=0, callbacks=[monitor])
    timeline = parquet.read(tmp_path, "all")
    total = model.optimizer.contributions.total
    counts = total.as_dict()
    assert timeline.counts() == {name: counts[name] for name in ("computed", *VERDICTS)}
    assert sorted(timeline.staleness) == sorted(
        age for age, count in total.staleness.items() for _ in range(count)
    )
    made = int(model.optimizer.iterations)
    assert timeline.updates["step"].tolist() == list(range(made))
    assert (np.diff(timeline.updates["released"]) > 0).all()
    assert (timeline.update_seconds > 0).all()


def test_without_recording_there_is_none(strategy: Any, tmp_path: Path) -> None:
    model = model_of(strategy, replicas=2, record_times=False)
    x, y = batches()
    monitor = tf_backup.StragglerMonitor(tmp_path)
    with pytest.raises(ValueError, match=r"records no times: make it with.*record_times=True"):
        model.fit(x, y, batch_size=20, verbose=0, callbacks=[monitor])
    model.fit(x, y, batch_size=20, verbose=0)
    assert model.train_function.engine._gate.log is None
    assert model.optimizer.contributions.total.accepted == 2 * int(model.optimizer.iterations)


def test_on_one_device_it_is_refused(cluster: Any, tmp_path: Path) -> None:
    del cluster
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="needs an optimizer made by"):
        model.fit(*batches(), verbose=0, callbacks=[tf_backup.StragglerMonitor(tmp_path)])


def test_a_log_folder_that_cannot_be_written_costs_its_records_only(
    strategy: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of(strategy, replicas=2)
    (tmp_path / "records").write_text("a file where the folder should be")
    x, y = batches()
    model.fit(x, y, batch_size=20, verbose=0, callbacks=[tf_backup.StragglerMonitor(tmp_path)])
    assert caplog.text.count("Records of this training could not be written") == 1
    assert int(model.optimizer.iterations) == 2


def test_a_full_log_loses_rows_and_delays_nothing(
    strategy: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival_log, "CAPACITY", 64)  # Enough for about eight updates.
    model = model_of(strategy, replicas=2, backups=2)
    x, y = np.ones([800, 3], np.float32), np.ones([800, 1], np.float32)
    model.fit(x, y, batch_size=2, verbose=0, callbacks=[tf_backup.StragglerMonitor(tmp_path)])
    assert int(model.optimizer.iterations) == 200
    assert "rows of the timeline were dropped" in caplog.text
    timeline = parquet.read(tmp_path)
    rows = timeline.contributions
    total = model.optimizer.contributions.total
    assert 0 < len(rows) < total.computed
    assert total.accepted == 400
    assert (rows["began"] < rows["arrived"]).all()
