"""Functions that Keras calls for each step of `fit` and of `evaluate`."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_backup import errors
from tf_backup._tf import strategies
from tf_backup.actors.engine import AHEAD, Engine
from tf_backup.actors.evaluation import Evaluation
from tf_backup.annotations import Model
from tf_backup.keras import _internals
from tf_backup.keras.custom_step import step_measurement, step_objective
from tf_backup.keras.feed import Feed
from tf_backup.keras.model_objective import keras_measurement, keras_objective
from tf_backup.keras.optimizer import DEFAULT_STALL_TIMEOUT_S, find, on_nonfinite
from tf_backup.worker_data import WorkerData


class TrainFunction:
    """Train function: makes one update per call, and keeps its engine from one `fit` to the next.

    Args:
      model: compiled with a wrapped optimizer.

    Attributes:
      observed: whether the callbacks of this `fit` only observe what is reported of an update.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._wrapped = find(model.optimizer)
        self._spec: Any = None
        self.engine: Engine | None = None
        self.observed = False

    def __call__(self, feed: Feed) -> Any:
        """Make one update (or `steps_per_execution` updates).

        If callbacks only observe (`observed`), later updates may have been made already.

        Returns:
          The model's metrics.

        Raises:
          StopIteration: if too few workers have data left.
        """
        _check_feed(feed, "train_on_batch")
        engine = self._engine_for(feed)
        logs = None
        if not engine.active:
            assert self._wrapped is not None
            engine.begin(feed.pipelines(), step=int(self._wrapped.iterations))
        for turn in range(feed.count):
            ahead, last = feed.count - turn, feed.count == feed.remaining
            if self.observed and feed.remaining is not None:
                ahead, last = feed.remaining - turn, True
            elif self.observed:
                ahead = AHEAD
            results = engine.step(ahead, last)
            if results is None:
                engine.end()
                if logs is None:
                    raise StopIteration
                break
            logs = results
        return logs

    def close(self, failed: bool) -> None:
        """End training: close the engine, and complete the counts and the timeline.

        Args:
          failed: whether an error ends training, so that no other one is to be raised.

        Raises:
          TfBackupError, tf.errors.OpError: if the cluster is lost. The engine is abandoned then.
        """
        assert self._wrapped is not None
        try:
            if self.engine is not None:
                self.engine.close(failed)
                _ = self._wrapped.contributions  # Read while the engine exists.
        except (errors.TfBackupError, tf.errors.OpError):
            assert self.engine is not None
            self.engine.abandon()
            raise
        finally:
            self._wrapped.stop_listening()

    def _engine_for(self, feed: Feed) -> Engine:
        """Return the engine for batches of the feed's spec."""
        spec = feed.data.element_spec
        if self.engine is None or spec != self._spec:
            assert self._wrapped is not None
            own = _internals.has_own(self._model, "train_step")
            objective = (step_objective if own else keras_objective)(self._model, spec)
            engine = Engine(
                feed.strategy,
                self._wrapped.policy,
                objective,
                feed.data.element_spec,
                self._wrapped.stall_timeout_s,
                on_nonfinite(self._model.optimizer),
                self._wrapped.listeners,
            )
            self._spec = spec
            self._wrapped.report_to(engine)
            self.engine = engine
        return self.engine


class TestFunction:
    """Test function: evaluates on all workers in one call, or here if they cannot read the data.

    Args:
      model: compiled.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._spec: Any = None
        self._evaluation: Evaluation | None = None
        self._here: Any = None

    def __call__(self, feed: Feed | Any) -> Any:
        """Evaluate all of a feed's data, or the next batch of a data set's iterator.

        Returns:
          The model's metrics.
        """
        if isinstance(feed, tf.data.Iterator):
            return self._run_here(feed)
        _check_feed(feed, "test_on_batch")
        assert isinstance(feed.data, WorkerData)
        logs = self._evaluation_for(feed).run(feed.data)
        feed.done = True
        return logs

    def _run_here(self, iterator: Any) -> Any:
        """Evaluate on a batch in this process, as Keras does."""
        if self._here is None:
            self._here = _internals.step_function(self._model, "test_step")
        with strategies.running_here():
            return self._here(iterator)

    def _evaluation_for(self, feed: Feed) -> Evaluation:
        """Return the evaluation for batches of the feed's spec."""
        spec = feed.data.element_spec
        if self._evaluation is None or spec != self._spec:
            own = _internals.has_own(self._model, "test_step")
            measurement = (step_measurement if own else keras_measurement)(self._model, spec)
            wrapped = find(self._model.optimizer)
            timeout = wrapped.stall_timeout_s if wrapped else DEFAULT_STALL_TIMEOUT_S
            self._evaluation = Evaluation(feed.strategy, measurement, spec, timeout)
            self._spec = spec
        return self._evaluation


def _check_feed(feed: Any, method: str) -> None:
    if not isinstance(feed, Feed):
        raise ValueError(
            f"{method} cannot work on a parameter-server strategy: no worker has the batch. Use "
            "fit or evaluate, or a model of its own on one device."
        )
