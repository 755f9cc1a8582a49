"""Nothing grows from fit to fit: threads, file descriptors and memory of every process."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.cluster.processes import start
from tests.extra import extra

pytestmark = pytest.mark.long

FITS = int(os.environ.get("TF_BACKUP_TEST_FITS", "14"))
NEW = 12  # Fits of each model.

# Allowed growth of a process after all fits of one model, and after another model: servers keep the
# functions of every model, since TensorFlow cannot release functions on other machines yet.
BOUNDS = {"threads": (10, 14), "fds": (4, 4), "mib": (12, 60)}


def run(fits: int, updates: int) -> dict[str, Any]:
    process = start("-m", "tests.cluster.programs.many_fits", str(fits), str(updates), str(NEW))
    out, err = process.communicate(timeout=200 + fits * (20 + updates // 10))
    assert process.returncode == 0, err[-3000:]
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


def test_nothing_grows_from_fit_to_fit() -> None:
    """TF_BACKUP_TEST_FITS=100 makes it longer."""
    result = run(FITS, updates=20)
    for name, rows in result["processes"].items():
        assert len(rows) == FITS
        for what, (of_fits, of_model) in BOUNDS.items():
            values = [row[what] for row in rows]
            models = [values[first : first + NEW] for first in range(0, FITS, NEW)]
            for same in models:
                assert same[-1] - same[1] <= of_fits, (name, what, values)
            grown = models[-1][-1] - models[0][-1]
            assert grown <= of_model * (len(models) - 1), (name, what, values)


@extra
@pytest.mark.timeout(900)
def test_nothing_grows_from_update_to_update() -> None:
    result = run(fits=3, updates=2000)
    for name, rows in result["processes"].items():
        values = [row["mib"] for row in rows]
        assert values[2] - values[0] <= 4, (name, values)  # 8 where a server keeps 2 KiB of each.
