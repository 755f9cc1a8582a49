"""Objects that a script makes before its strategy: they work, or are refused with a remedy."""

from __future__ import annotations

from tests.cluster.processes import start

BEFORE = "ValueError: Something that is used here was made before the strategy: a layer or metric"
EXPECTED = {
    "tensors": "works",
    "data set": "works",
    "predicted data set": BEFORE,
    "layer with a seed": BEFORE,
    "metric": "'mean_absolute_error' was created outside the strategy's scope. Create it inside",
    "optimizer": "ValueError: The optimizer was created outside the strategy's scope",
}


def test_what_is_made_before_the_strategy() -> None:
    out, log = start("-m", "tests.cluster.programs.too_early").communicate(timeout=120)
    said = dict(line.split(": ", 1) for line in out.splitlines())
    assert list(said) == list(EXPECTED), log[-3000:]
    for name, expected in EXPECTED.items():
        assert expected in said[name]
