"""The progress bar fits 80 columns, and tells what there is to tell."""

from __future__ import annotations

import io
import types
from typing import Any

import pytest

from scripts.training.bar import COLUMNS, Bar


def bar(window: Any = None, steps: int | None = 200) -> tuple[Bar, io.StringIO]:
    file = io.StringIO()
    made = Bar(types.SimpleNamespace(window=window), file)
    made.set_params({"epochs": 3, "steps": steps})
    return made, file


WINDOW = types.SimpleNamespace(late=0.123, slowest=17)


def test_the_line() -> None:
    made, _ = bar(WINDOW)
    made._made = 50
    line = made.line({"accuracy": 0.8412, "loss": 0.51234}, 5.0)
    assert line.startswith(" 50/200 ━━━───────── 15 s left 10.0/s accuracy 84.12% ")
    assert "late 12% slowest: 17" in line
    assert len(line) <= COLUMNS


@pytest.mark.parametrize("metrics", [0, 1, 3, 12])
@pytest.mark.parametrize("steps", [None, 9, 1_000_000])
def test_it_fits_whatever_there_is(metrics: int, steps: int | None) -> None:
    made, _ = bar(WINDOW, steps)
    made._made = steps or 77
    line = made.line({f"metric_{i}": 0.5 for i in range(metrics)}, 12345.0)
    assert len(line) <= COLUMNS
    assert line.endswith("late 12% slowest: 17")


def test_an_epoch_is_drawn_in_place() -> None:
    made, file = bar(None, 2)
    made.on_epoch_begin(1)
    for batch in range(2):
        made._drawn_at = 0.0
        made.on_train_batch_end(batch, {"loss": 0.5})
    made.on_epoch_end(1, {"loss": 0.25, "val_loss": 0.75, "updates": 4, "seconds": 1.0})
    head, *lines, last, _ = file.getvalue().replace("\n", "\r").split("\r")
    assert head == "Epoch 2/3"
    drawn = [line for line in lines if line.strip()]
    assert drawn[0].startswith("1/2 ━━━━━━──────")
    assert drawn[-1].startswith("2/2 ━━━━━━━━━━━━")
    assert "loss 0.2500" in drawn[-1]
    assert "updates 4" not in drawn[-1]
    assert last == "  val_loss 0.7500"


def test_without_a_cluster_nobody_is_slow() -> None:
    made, _ = bar(None)
    made._made = 1
    assert "slowest" not in made.line({}, 1.0)
