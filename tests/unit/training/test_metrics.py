"""scripts/training/metrics.py, read over HTTP as Prometheus does."""

from __future__ import annotations

import json
import pathlib
import re
import socket
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import promql_parser
import pytest
import yaml

from scripts.training import metrics
from scripts.training.metrics import Metrics
from tf_backup.records import Contributions, WorkerRecord


@pytest.fixture
def served() -> Iterator[Metrics]:
    callback = Metrics(port=0)
    yield callback
    callback.close()


def wrapped(updates: int, *accepted: int, living: int | None = None) -> Any:
    """Return a stand-in for a model, with the attributes that the callback reads."""
    records = tuple(
        WorkerRecord(index, count + 6, count, 1, 2, 0, 3) for index, count in enumerate(accepted)
    )
    optimizer = SimpleNamespace(
        iterations=updates, contributions=Contributions(records), living_workers=living
    )
    return SimpleNamespace(optimizer=optimizer)


def scrape(callback: Metrics) -> dict[str, float]:
    url = f"http://127.0.0.1:{callback.port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


def test_before_training(served: Metrics) -> None:
    assert scrape(served) == {"tf_backup_updates_total": 0.0}


def test_every_verdict_of_every_worker(served: Metrics) -> None:
    served.set_model(wrapped(12, 12, 11, living=1))
    served.on_train_batch_end(0)
    found = scrape(served)
    assert found.pop("tf_backup_updates_total") == 12
    assert found.pop("tf_backup_living_workers") == 1
    expected = {"late": 1, "stale": 2, "duplicate": 0, "lost": 3, "nonfinite": 0}
    for worker, accepted in (("0", 12), ("1", 11)):
        for verdict, count in {**expected, "accepted": accepted}.items():
            labels = f'{{verdict="{verdict}",worker="{worker}"}}'
            assert found.pop(f"tf_backup_contributions_total{labels}") == count
    assert not found


def test_verdicts_are_all_there_are() -> None:
    fields = WorkerRecord(0, 0, 0, 0, 0, 0, 0).as_dict().keys()
    assert {"worker", "computed", *metrics.VERDICTS} == fields


def test_accounts_are_asked_for_now_and_then(monkeypatch, served: Metrics) -> None:
    clock = iter([100.0, 104.9, 105.0])
    # Only in this module: other threads read the clock as well.
    monkeypatch.setattr(metrics, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    updates = []
    for made in (1, 2, 3):
        served.set_model(wrapped(made, made))
        served.on_train_batch_end(0)
        updates.append(scrape(served)["tf_backup_updates_total"])
    assert updates == [1, 1, 3]
    served.set_model(wrapped(4, 4))
    served.on_epoch_end(0)
    assert scrape(served)["tf_backup_updates_total"] == 4


def test_who_lives_is_known_while_no_update_is_made(served: Metrics) -> None:
    model = wrapped(1, 1, 1, living=2)
    served.set_model(model)
    served.on_train_batch_end(0)
    model.optimizer.living_workers = 1
    assert scrape(served)["tf_backup_living_workers"] == 1


def test_a_plain_optimizer_has_updates_only(served: Metrics) -> None:
    served.set_model(SimpleNamespace(optimizer=SimpleNamespace(iterations=5)))
    served.on_train_end()
    assert scrape(served) == {"tf_backup_updates_total": 5.0}


def test_a_port_that_is_taken_is_an_oserror() -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        with pytest.raises(OSError):
            Metrics(other.getsockname()[1])


class Monitor:
    """Stand-in for a StragglerMonitor with one window."""

    window = SimpleNamespace(
        updates_per_s=12.5,
        samples_per_s=800.0,
        wasted=0.25,
        staleness=0.0,
        first_s=0.1,
        nth_s=0.2,
        last_s=0.9,
        worker_s={0: 0.1, 3: 0.8},
    )


def test_times_of_the_last_window() -> None:
    callback = Metrics(port=0, monitor=Monitor())
    try:
        found = scrape(callback)
    finally:
        callback.close()
    assert found.pop("tf_backup_updates_total") == 0
    assert found == {
        "tf_backup_updates_per_second": 12.5,
        "tf_backup_samples_per_second": 800.0,
        "tf_backup_wasted_ratio": 0.25,
        "tf_backup_staleness": 0.0,
        'tf_backup_arrival_seconds{rank="first"}': 0.1,
        'tf_backup_arrival_seconds{rank="nth"}': 0.2,
        'tf_backup_arrival_seconds{rank="last"}': 0.9,
        'tf_backup_worker_seconds{worker="0"}': 0.1,
        'tf_backup_worker_seconds{worker="3"}': 0.8,
    }


MONITORING = pathlib.Path(__file__).parents[3] / "k8s" / "monitoring"
RULES = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
PANELS = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
ALERTS = {rule["alert"]: rule["expr"] for rule in RULES}
DRAWN = [target["expr"] for panel in PANELS for target in panel["targets"]]


@pytest.mark.parametrize("expression", [*DRAWN, *ALERTS.values()])
def test_dashboard_and_alerts_are_promql(expression: str) -> None:
    promql_parser.parse(re.sub(r"\$\w+", "chief-0", expression))  # Grafana fills in its variables.


def test_the_nth_gradient_is_compared_with_the_first_of_the_same_chief() -> None:
    alert = promql_parser.parse(ALERTS["BackupWorkersUsedUp"])
    assert (str(alert.op), str(alert.modifier.matching)) == (">", "ignoring (rank)")
    assert str(alert.rhs.op) == "*"


def test_dashboard_and_alerts_ask_for_metrics_that_exist() -> None:
    asked = [*DRAWN, *ALERTS.values()]
    assert len(ALERTS) == 2
    callback = Metrics(port=0, monitor=Monitor())
    try:
        callback.set_model(wrapped(3, 3, living=1))
        callback.on_train_begin()
        callback.on_train_batch_end(0)
        served = {name.partition("{")[0] for name in scrape(callback)}
    finally:
        callback.close()
    names = {name for text in asked for name in re.findall(r"tf_backup_\w+", text)}
    assert names <= served
    assert names >= served - {"tf_backup_updates_per_second"}  # The dashboard computes its own.
