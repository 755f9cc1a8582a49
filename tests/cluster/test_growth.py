"""Nothing grows: threads, file descriptors, memory and time from fit to fit."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from tests.cluster.processes import start

FITS = int(os.environ.get("TF_BACKUP_TEST_FITS", "10"))
NEW = 5  # Fits of each model.

# How much more a process may have after another fit of the same model, and for another model: of
# that, TensorFlow's servers keep the functions (it cannot release them on other machines yet).
BOUNDS = {"threads": (10, 14), "fds": (4, 4), "mib": (12, 60)}


def run(fits: int, updates: int) -> dict[str, Any]:
    process = start("-m", "tests.cluster.programs.many_fits", str(fits), str(updates), str(NEW))
    out, err = process.communicate(timeout=200 + 20 * fits)
    assert process.returncode == 0, err[-3000:]
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


def test_nothing_grows_from_fit_to_fit() -> None:
    """TF_BACKUP_TEST_FITS=50 makes it as long as one has patience for."""
    result = run(FITS, updates=20)
    for name, rows in result["processes"].items():
        for what, (of_fits, of_model) in BOUNDS.items():
            values = [row[what] for row in rows]
            for first in range(0, FITS, NEW):
                same = values[first : first + NEW]
                assert same[-1] - same[1] <= of_fits, (name, what, values)
            models = values[NEW - 1 :: NEW]
            assert models[-1] - models[0] <= of_model * (len(models) - 1), (name, what, values)
    for what in ("fit_s", "evaluate_s"):
        again = [second for fit, second in enumerate(result[what]) if fit % NEW]  # Nothing traced.
        assert np.median(again[-4:]) < 2 * np.median(again[:4]) + 0.5, result[what]
