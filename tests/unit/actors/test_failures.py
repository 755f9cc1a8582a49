"""Line of TensorFlow's error message that says what is wrong."""

from __future__ import annotations

import pytest
import tensorflow as tf

from tf_backup.actors.failures import gist


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("no such file", "no such file"),
        ("Graph execution error:\n\nDetected at node a\n  b\nbad id [[c]]", "bad id [[c]]"),
        ("2 root error(s) found.\n  (0) INVALID_ARGUMENT:  bad id\n\t [[a]]\n  (1) ...", "bad id"),
        # tf.debugging.enable_check_numerics, alone and in two workers' threads.
        ("\n!!! Detected NaN\n  Input: 1", "!!! Detected NaN"),
        ("1 root error(s) found.\n  (0) INVALID_ARGUMENT:  \n\n!!! NaN", "!!! NaN"),
        ("INVALID_ARGUMENT:\n!!! Detected NaN", "!!! Detected NaN"),
        ("", ""),
    ],
)
def test_the_cause_is_told(message: str, line: str) -> None:
    assert gist(tf.errors.InvalidArgumentError(None, None, message)) == line
