"""Logs that a model returns for a batch, and what becomes of them over workers and batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_backup._tf.formulas import formula
from tf_backup.annotations import Tensor
from tf_backup.keras._tracing import Noted


class StepSums(NamedTuple):
    """What is added up over the batches of an evaluation."""

    sums: list[Tensor]  # one per sum variable
    reports: list[Tensor]  # scalars that the step returned
    batches: Tensor  # number of batches


class StepLogs:
    """Logs of a step, as they are traced on a batch, and their values over many batches.

    Results of the model's metrics, and what the step computes from them alone, are computed again
    from what the metrics have added up by then. Everything else depends on the batch: such scalars
    are reports, whose means are logged.
    """

    def __init__(self) -> None:
        # By name: a function that computes the value, or an index into the reports.
        self._names: dict[str, Callable[[], Any] | int] = {}

    def trace(
        self,
        returned: Any,
        noted: Mapping[int, Noted],
        step: str,
        starts: Sequence[Tensor] = (),
    ) -> list[Tensor]:
        """Take what a step has returned while it was traced; return the reports, [] float32 each.

        Args:
          returned: what the step returned.
          noted: results of metrics, from `_tracing.results_noted`.
          step: name of the step, for messages.
          starts: initial values of the metrics' variables, where they are constants.

        Raises:
          TypeError: if that is no dict of results of metrics and scalars.
        """
        if not isinstance(returned, dict):
            raise TypeError(
                f"{step} returned {type(returned).__name__}; it must return a dict of metric "
                "results and scalars."
            )
        reports: list[Tensor] = []
        self._names.clear()
        for key, value in returned.items():
            exact = _exact(value, noted, starts)
            if exact is None:
                self._names[key] = len(reports)
                reports.append(_report(key, value, step))
            else:
                self._names[key] = exact
        return reports

    def results(self, reports: Sequence[Tensor]) -> dict[str, Any]:
        """Return the logs, given the means of the reports."""
        return {
            name: reports[value] if isinstance(value, int) else value()
            for name, value in self._names.items()
        }

    def mean_results(self, totals: StepSums) -> dict[str, Any]:
        """Return the logs, given the sums over all batches."""
        return self.results([report / totals.batches for report in totals.reports])


def _exact(
    value: Any, noted: Mapping[int, Noted], starts: Sequence[Tensor]
) -> Callable[[], Any] | None:
    """Return a function that computes a value from metrics' current results; None if none can."""
    if id(value) in noted:
        return noted[id(value)].current
    if not tf.is_symbolic_tensor(value):
        return None
    known = [each for each in noted.values() if tf.is_symbolic_tensor(each.value)]
    known = [each for each in known if each.value.graph is value.graph]
    found = formula(value, [each.value for each in known], starts)
    if found is None:
        return None
    compute, current = found.compute, [known[place].current for place in found.places]
    return lambda: compute(*(result() for result in current))


def _report(key: str, value: Any, step: str) -> Tensor:
    scalar = tf.convert_to_tensor(value)
    if scalar.shape.rank != 0:
        raise TypeError(
            f"{step} returned {key!r} of shape {scalar.shape}; what it returns must be scalars, "
            "results of the model's metrics, or computed from such results alone."
        )
    return tf.cast(scalar, tf.float32)
