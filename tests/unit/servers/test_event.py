"""Events: their rows by name, and codes that no step has."""

from __future__ import annotations

import numpy as np

from tf_backup.servers.event import EXHAUSTED, ROW, ROWS, STOPPED, Event


def test_rows_of_the_tensor_are_the_fields() -> None:
    tensor = np.arange(ROWS * 3).reshape([ROWS, 3])
    event = Event(*tensor)
    for name in Event._fields:
        np.testing.assert_array_equal(getattr(event, name), tensor[getattr(ROW, name)])


def test_step_comes_first_and_no_code_is_a_step() -> None:
    # The chief's loop runs while the first number of an event is a step.
    assert ROW.step == 0
    assert EXHAUSTED < 0 and STOPPED < 0 and EXHAUSTED != STOPPED
