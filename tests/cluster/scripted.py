"""Workers whose gradients have the values and the times that a test sets.

A worker's pipeline waits for files: `release(worker, x)` writes one, and the worker computes the
gradient x on it. `Script` releases in a given order, each once the gate has the one before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tf_backup
from tests.cluster.processes import wait_until
from tf_backup._tf import datasets
from tf_backup.rules import protocol


def ticks() -> tf.data.Dataset:
    """Return the numbers 0, 1, ... one every 2 ms."""
    return datasets.sleep_before_each(tf.data.Dataset.range(2**60), 0.002)


def exists(path: Path) -> Callable[[Any], Any]:
    """Return a function from a tick to whether a file exists at that time."""
    name = str(path)

    def at(tick: Any) -> Any:
        # The path depends on the tick, or TensorFlow would look only once.
        longer = tf.strings.join([name, tf.strings.as_string(tick)])
        return tf.size(tf.io.matching_files(tf.strings.substr(longer, 0, len(name)))) > 0

    return at


class ScriptedData:
    """Dataset function with batches that tests release one by one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._released: dict[int, int] = {}

    def __call__(self, context: tf.distribute.InputContext) -> tf.data.Dataset:
        prefix = str(self._directory / str(context.input_pipeline_id)) + "-"

        def look(index: Any, _: Any) -> Any:
            path = tf.strings.join([prefix, tf.strings.as_string(index)])
            there = tf.size(tf.io.matching_files(path)) > 0
            value = tf.cond(
                there,
                lambda: tf.strings.to_number(tf.io.read_file(path)),
                lambda: tf.constant(0.0),
            )
            return index + tf.cast(there, tf.int64), (there, value)

        ended = exists(self._directory / "end")
        going_on = ticks().take_while(lambda tick: ~ended(tick))
        values = going_on.scan(tf.constant(0, tf.int64), look).filter(lambda there, value: there)
        return values.map(lambda there, value: (value[None, None], tf.zeros([1, 1])))

    def release(self, worker: int, value: float) -> None:
        """Let a worker compute its next gradient, `value`."""
        index = self._released.get(worker, 0)
        self._released[worker] = index + 1
        draft = self._directory / "draft"
        draft.write_text(str(value))
        draft.rename(self._directory / f"{worker}-{index}")

    def end(self) -> None:
        """End the data of all workers, including those that wait for data."""
        (self._directory / "end").touch()


def held(dataset: tf.data.Dataset, path: Path) -> tf.data.Dataset:
    """Return `dataset`, with elements that wait until a file exists."""
    there = ticks().filter(exists(path))
    return tf.data.Dataset.zip((there, dataset)).map(lambda tick, batch: batch)


def two_server_model(
    strategy: Any,
    learning_rate: float,
    replicas: int,
    backups: int,
    max_staleness: int | None = 0,
    loss: Any = lambda y, y_pred: y_pred,
    on_shortage: str = "wait",
) -> Any:
    """Return a model with two parameters on different servers, and the prediction (v + w) x.

    With the default loss, both have the gradient x.
    """
    with strategy.scope():
        inputs = keras.Input((1,))
        parts = [keras.layers.Dense(1, use_bias=False)(inputs) for _ in range(2)]
        model = keras.Model(inputs, keras.layers.Add()(parts))
        wrapped = tf_backup.wrap(
            keras.optimizers.SGD(learning_rate),
            replicas,
            backups,
            max_staleness=max_staleness,
            on_shortage=on_shortage,
        )
        model.compile(wrapped, loss=loss)
    return model


def ledger(model: Any) -> Any:
    """Return the gate's ledger, once training has begun."""
    wait_until(lambda: model.train_function is not None and model.train_function.engine is not None)
    return model.train_function.engine._gate.ledger()


def all_entered(books: Any) -> bool:
    """Return whether a run has begun, and all workers are in it."""
    return bool(books.open) and bool(np.all(books.status != protocol.ABSENT))


class Script(threading.Thread):
    """Releases batches in order, each once the gate has the one before; then ends the data.

    A context manager: it runs while the model is fitted, and raises its own errors at the end,
    whatever they did to training. It starts when all workers have entered.

    Args:
      model: model that is trained.
      data: data of the training.
      events: (worker, gradient) pairs, or functions to call in between.
      settled: number of gradients, from the first, after which to wait for a completed update, too.
    """

    def __init__(
        self,
        model: Any,
        data: ScriptedData,
        events: Sequence[tuple[int, float] | Callable[[], Any]],
        settled: int = 0,
    ) -> None:
        super().__init__(name="script", daemon=True)
        self._model = model
        self._data = data
        self._events = events
        self._settled = settled
        self._error: BaseException | None = None
        self._said = "waits for all workers"

    def run(self) -> None:
        try:
            # A worker that entered later would not be at the step that the script means.
            wait_until(lambda: all_entered(ledger(self._model)))
            for index, event in enumerate(self._events):
                if callable(event):
                    self._said = f"event {index}: {event}"
                    event()
                    continue
                worker, value = event
                heard = self._heard(worker)
                self._said = f"event {index}: worker {worker}, gradient {value}, heard {heard}"
                self._data.release(worker, value)
                wait_until(lambda w=worker, h=heard: self._heard(w) > h)
                if index < self._settled:
                    wait_until(lambda: not protocol.complete(ledger(self._model), self._replicas))
            self._said = "waits for the end of training"
            wait_until(lambda: ledger(self._model).open == 0)
        except BaseException as error:
            self._error = error
        finally:
            self._data.end()

    @property
    def _replicas(self) -> int:
        return int(self._model.optimizer.replicas)

    def _heard(self, worker: int) -> int:
        """Return the number of a worker's contributions that the gate has heard of."""
        books = ledger(self._model)
        ended = books.accepted + books.late + books.stale + books.duplicate
        return int(ended[worker] + books.queued[worker])

    def __enter__(self) -> Script:
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.join(60)
        if self._error is not None or self.is_alive():
            books = ledger(self._model)
            raise AssertionError(f"The script stopped at: {self._said}. {books}") from self._error


def weights(model: Any) -> list[np.ndarray[Any, Any]]:
    """Return copies of a model's weights."""
    return [np.array(weight) for weight in model.get_weights()]
