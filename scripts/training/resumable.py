"""Training that can be interrupted and resumed, with Keras' own `fit`."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from scripts.training.bar import Bar
from scripts.training.checkpoints import Checkpoints, Saving
from scripts.training.curves import Curves
from scripts.training.plans import Plan
from scripts.training.progress import Clock, History, Lines

log = logging.getLogger(__name__)

_PLAN = "plan.json"
_CHECKPOINTS = "checkpoints"
_HISTORY = "history.csv"


class UnreadablePlan(ValueError):
    """A plan cannot be read: it is damaged, or of another version of this project."""


def claim(directory: str, plan: Plan) -> None:
    """Claim a directory for a plan, or check that the training in it can be resumed by the plan.

    The plan is kept twice, so that a damaged file costs nothing. If both are damaged, they are set
    aside with a warning: the checkpoints' variables are then all that the plan is compared with.

    Raises:
      ValueError: if it cannot.
    """
    path = os.path.join(directory, _PLAN)
    if is_claimed(directory):
        ours = plan.kept()
        theirs = (_known(directory) or plan).kept()
        other = [name for name in ours if theirs[name] != ours[name]]
        if other:
            raise ValueError(
                f"{directory} has a training with "
                + ", ".join(f"{name} {theirs[name]} and not {ours[name]}" for name in other)
                + f" ({path}). Give the flags that it was begun with to go on, or another "
                "--log_dir to begin anew."
            )
    for each in _plans(directory):
        os.makedirs(os.path.dirname(each), exist_ok=True)
        with open(f"{each}.partial", "w", encoding="utf-8") as file:
            file.write(plan.to_json())
        os.replace(f"{each}.partial", each)


def is_claimed(directory: str) -> bool:
    """Return whether a training run has claimed a directory."""
    return os.path.exists(os.path.join(directory, _PLAN))


def plan_of(directory: str) -> Plan:
    """Return the plan of a directory.

    Raises:
      FileNotFoundError: if no training run has claimed it.
      ValueError: if its plan cannot be read.
    """
    path, copy = _plans(directory)
    if not is_claimed(directory):
        raise FileNotFoundError(
            f"{directory} has no {_PLAN}: it is not the --log_dir of a training."
        )
    try:
        return _read(path)
    except UnreadablePlan as error:
        try:
            return _read(copy)
        except (OSError, UnreadablePlan):
            raise error from None


def _plans(directory: str) -> tuple[str, str]:
    """Return the paths of a directory's plan and of its copy."""
    return os.path.join(directory, _PLAN), os.path.join(directory, _CHECKPOINTS, _PLAN)


def _read(path: str) -> Plan:
    """Return the plan in a file.

    Raises:
      UnreadablePlan: if there is none.
    """
    with open(path, "rb") as file:
        data = file.read()
    try:
        return Plan.from_json(data.decode())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadablePlan(
            f"{path} cannot be read ({error}): it is damaged, or of another version of this "
            "project. Give another --log_dir."
        ) from error


def _known(directory: str) -> Plan | None:
    """Return the plan of a directory; None, after a warning, if its files are damaged.

    Raises:
      UnreadablePlan: if the plan is whole, but of another version of this project.
    """
    path = os.path.join(directory, _PLAN)
    try:
        _read(path)
    except UnreadablePlan:
        known = None
        with contextlib.suppress(UnreadablePlan):
            known = plan_of(directory)
        if known is None and _is_object(path):
            raise
        os.replace(path, f"{path}.damaged")
        log.warning(
            "%s is damaged; it is %s.damaged now. %s",
            path,
            path,
            "Its copy is used."
            if known is not None
            else "Goes on with the settings of this command: they must be those of before, which "
            "cannot be checked.",
        )
        return known
    return plan_of(directory)


def _is_object(path: str) -> bool:
    """Return whether a file has a plan, perhaps with other settings than those known here."""
    try:
        with open(path, "rb") as file:
            return isinstance(json.loads(file.read()).get("recipe"), dict)
    except (AttributeError, ValueError):
        return False


def checkpoints_of(directory: str) -> Checkpoints:
    """Return the checkpoints of a directory."""
    return Checkpoints(os.path.join(directory, _CHECKPOINTS))


def is_complete(directory: str, plan: Plan) -> bool:
    """Return whether all updates of a plan have been made and validated in a directory."""
    steps = checkpoints_of(directory).steps()
    known = History(os.path.join(directory, _HISTORY), plan.updates)
    return bool(steps) and steps[-1] >= plan.updates and known.has(plan.updates)


class Run:
    """Training of a compiled model by a plan, from the newest checkpoint on.

    Args:
      model: a compiled Keras model; its optimizer is the plan's, which may be wrapped.
      plan: plan of the training run.
      directory: directory for checkpoints and logs; None to write none.
      bar: whether to show a progress bar; otherwise lines are logged.
      every_s: seconds between checkpoints in the middle of an epoch.
      callbacks: further Keras callbacks.
      monitor: `tf_backup.StragglerMonitor` that the progress bar shows; None without a cluster.

    Attributes:
      start: number of updates made before.
      seconds: time of the updates made since.
      logs: results of the last epoch.
    """

    def __init__(
        self,
        model: Any,
        plan: Plan,
        directory: str | None,
        bar: bool,
        every_s: float,
        callbacks: Sequence[Any] = (),
        monitor: Any = None,
    ) -> None:
        self.model, self.plan = model, plan
        self._clock = Clock()
        self._saving: Saving | None = None
        self._history: History | None = None
        self.logs: dict[str, float] = {}
        self.start = 0
        # The order matters: weights are saved before averages replace them for validation.
        own: list[Any] = []
        averages = [] if plan.recipe.ema is None else [keras.callbacks.SwapEMAWeights()]
        if directory is not None:
            checkpoints = checkpoints_of(directory)
            self.start = checkpoints.restore(model)
            self._saving = Saving(checkpoints, every_s, self.start)
            self._history = History(os.path.join(directory, _HISTORY), self.start)
            curves = Curves(directory)
            own = [self._saving, *averages, self._clock, self._history, curves]
        else:
            own = [*averages, self._clock]
        own += [] if monitor is None else [monitor]
        own.append(Bar(monitor) if bar else Lines(plan.updates))
        self._callbacks, self._averages = [*own, *callbacks], averages

    @property
    def seconds(self) -> float:
        """Time of the updates, without validation."""
        return self._clock.seconds

    def train(self, data: Callable[[int], Any], held_out: Any) -> None:
        """Train to the end of the plan; the weights are then the averages, if the plan has any.

        Args:
          data: function from the number of updates made to the data that `fit` trains on.
          held_out: data to validate on after every epoch.
        """
        spans = self.plan.spans(self.start)
        made = self.start
        if self.start:
            log.info("Goes on after %d of %d updates.", self.start, self.plan.updates)
            self._validate(held_out)
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
                    callbacks=[*self._callbacks],
                    verbose=0,
                )
            made += span.updates * (span.epochs - span.initial_epoch)
            self.logs = {name: float(values[-1]) for name, values in history.history.items()}
        if self._saving is not None and self._saving.error is not None:
            raise OSError(
                f"All {self.plan.updates} updates were made, but the last checkpoint could not be "
                f"saved: {self._saving.error}. Make room; the same command goes on from the one "
                "before."
            )
        if not spans:
            self.model.optimizer.finalize_variable_values(self.model.trainable_variables)

    def save(self) -> None:
        """Save the current state after training has been cut off."""
        if self._saving is not None:
            self._saving.interrupted()

    def _validate(self, held_out: Any) -> None:
        """Make up for a validation that was cut off, or repeat that of the last update."""
        assert self._history is not None
        ended = self.start >= self.plan.updates
        known = self._history.has(self.start)
        if not ended and (known or self.start % self.plan.updates_per_epoch):
            return
        log.info("Validates what %d updates have made.", self.start)
        logs = self.model.evaluate(
            held_out, verbose=0, callbacks=[*self._averages], return_dict=True
        )
        self.logs = {f"val_{name}": float(value) for name, value in logs.items()}
        if not known:
            epoch = (self.start - 1) // self.plan.updates_per_epoch
            self._history.add(epoch, {**self.logs, "updates": self.start})


@contextlib.contextmanager
def _unfinished(optimizer: Any) -> Iterator[None]:
    """Keep `fit` from finalizing the weights, which would replace them with the averages."""
    optimizer.finalize_variable_values = lambda variables: None
    try:
        yield
    finally:
        del optimizer.finalize_variable_values
