"""A training that may be interrupted: Keras' own `fit`, and what it needs to go on later."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from models.checkpoints import Checkpoints, Saving
from models.plans import Plan
from models.progress import Clock, Lines

log = logging.getLogger(__name__)

_PLAN = "plan.json"
_CHECKPOINTS = "checkpoints"


def claim(directory: str, plan: Plan) -> None:
    """Makes a directory that of a plan, or checks that it is.

    Raises:
      ValueError: if it is that of another plan.
    """
    path = os.path.join(directory, _PLAN)
    if not os.path.exists(path):
        os.makedirs(directory, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(plan.to_json())
        return
    theirs = plan_of(directory)
    if theirs.model_and_optimizer() != plan.model_and_optimizer():
        raise ValueError(
            f"{directory} has a training of {theirs.model} with other settings ({path}). Give the "
            "flags that it was begun with to go on, or another --log_dir to begin anew."
        )


def plan_of(directory: str) -> Plan:
    """Returns the plan of a directory.

    Raises:
      FileNotFoundError: if no training has claimed it.
    """
    path = os.path.join(directory, _PLAN)
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"{directory} has no {_PLAN}: it is not the --log_dir of a training."
        )
    with open(path, encoding="utf-8") as file:
        return Plan.from_json(file.read())


def checkpoints_of(directory: str) -> Checkpoints:
    """Returns the checkpoints of a directory."""
    return Checkpoints(os.path.join(directory, _CHECKPOINTS))


class Run:
    """Trains a compiled model as a plan says, from where it was left.

    Args:
      model: a compiled Keras model; its optimizer is the plan's, perhaps wrapped.
      plan: how long to train.
      directory: for checkpoints and logs; None to write none.
      bar: whether to show Keras' progress bar; otherwise lines are logged.
      every_s: seconds between checkpoints in the middle of an epoch.
      callbacks: more of Keras' callbacks.

    Attributes:
      start: updates that were made before.
      seconds: that updates have taken since.
      logs: what the last epoch came to.
    """

    def __init__(
        self,
        model: Any,
        plan: Plan,
        directory: str | None,
        bar: bool,
        every_s: float,
        callbacks: Sequence[Any] = (),
    ) -> None:
        self.model, self.plan = model, plan
        self._bar = bar
        self._clock = Clock()
        self._saving: Saving | None = None
        self._callbacks: list[Any] = [*callbacks]
        self.logs: dict[str, float] = {}
        self.start = 0
        if directory is not None:
            checkpoints = checkpoints_of(directory)
            self.start = checkpoints.restore(model)
            self._saving = Saving(checkpoints, every_s)
        if plan.recipe.ema is not None:
            self._callbacks.append(keras.callbacks.SwapEMAWeights())
        self._callbacks.append(self._clock)
        if directory is not None:
            history = os.path.join(directory, "history.csv")
            self._callbacks.append(keras.callbacks.CSVLogger(history, append=self.start > 0))
            self._callbacks.append(keras.callbacks.TensorBoard(directory, write_graph=False))
        if not bar:
            self._callbacks.append(Lines(plan.updates))

    @property
    def seconds(self) -> float:
        """Time that updates have taken, without validation."""
        return self._clock.seconds

    def train(self, data: Callable[[int], Any], held_out: Any) -> None:
        """Trains to the end of the plan; the weights are then the averaged ones, if it has any.

        Args:
          data: from the number of updates made to what `fit` trains on.
          held_out: what it validates on after every epoch.
        """
        spans = self.plan.spans(self.start)
        made = self.start
        if self.start:
            log.info("Goes on after %d of %d updates.", self.start, self.plan.updates)
        for span in spans:
            last = span is spans[-1]
            with contextlib.nullcontext() if last else _unfinished(self.model.optimizer):
                history = self.model.fit(
                    data(made),
                    initial_epoch=span.initial_epoch,
                    epochs=span.epochs,
                    steps_per_epoch=span.updates,
                    shuffle=False,  # The data sets shuffle themselves.
                    validation_data=held_out,
                    callbacks=[*filter(None, [self._saving]), *self._callbacks],
                    verbose=1 if self._bar else 0,
                )
            made += span.updates * (span.epochs - span.initial_epoch)
            self.logs = {name: float(values[-1]) for name, values in history.history.items()}
        if not spans:
            self._evaluate(held_out)

    def save(self) -> None:
        """Saves what there is, after training has been cut off."""
        if self._saving is not None:
            self._saving.interrupted()

    def _evaluate(self, held_out: Any) -> None:
        """Does what is left to do after the last update."""
        log.info("All %d updates have been made before; evaluating.", self.plan.updates)
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
        logs = self.model.evaluate(held_out, verbose=0, return_dict=True)
        self.logs = {f"val_{name}": float(value) for name, value in logs.items()}


@contextlib.contextmanager
def _unfinished(optimizer: Any) -> Iterator[None]:
    """Keeps `fit` from ending the training: it would put the averages in the weights' place."""
    optimizer.finalize_variable_values = lambda variables: None
    try:
        yield
    finally:
        del optimizer.finalize_variable_values
