"""Keras optimizer that updates with the mean of the first N of N + b gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_backup.actors.accounts import Account
from tf_backup.actors.engine import Engine
from tf_backup.actors.timeline_reader import Listener, Listeners
from tf_backup.annotations import Tensor
from tf_backup.checks import checked_choice
from tf_backup.policy import BackupPolicy
from tf_backup.records import Contributions

# Attributes that Keras' base class sets, but that must come from the inner optimizer.
_INNER = (
    "weight_decay",
    "clipnorm",
    "global_clipnorm",
    "clipvalue",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)

DEFAULT_STALL_TIMEOUT_S = 600.0  # Enough to schedule a lost worker again.
ON_NONFINITE = ("drop", "raise", "keep")
ON_SHORTAGE = ("wait", "shrink", "fill")


@keras.saving.register_keras_serializable(package="tf_backup")
class SyncReplicasWithBackup(keras.optimizers.Optimizer):
    """Synchronous or asynchronous SGD with backup workers around any Keras optimizer.

    Made by `wrap`. Only the way that gradients arrive differs from the inner optimizer. Learning
    rate, iterations, variables, clipping, weight decay, EMA and schedules are those of the inner
    optimizer, which clips the mean of the N gradients.

    Args:
      inner_optimizer: the optimizer that makes the updates; or a name or config of one for
        `keras.optimizers.get`.
      replicas: N, the number of gradients averaged in one update.
      backups: b, the number of workers beyond N.
      stall_timeout_s: seconds that `fit` waits with fewer than N workers alive before it raises
        `WorkersLost`.
      name: name of the optimizer.
      max_staleness: maximum staleness of a gradient that is used, in updates; None for no limit.
      on_nonfinite: what to do with a gradient that has NaN or Inf; see `wrap`.
      record_times: whether to record when each gradient arrives; see `wrap`.
      on_shortage: what to do while fewer than N workers are alive; see `wrap`.
      auto_least: if not None, the number of gradients in an update is chosen during training,
        between this and N; `wrap` sets it for `replicas="auto"`.

    Raises:
      TypeError: if `inner_optimizer` is not a Keras optimizer, or is wrapped already.
      ValueError: if N, b, `stall_timeout_s` or `max_staleness` is out of range, or `on_nonfinite`
        or `on_shortage` is unknown.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str | dict[str, Any],
        replicas: int,
        backups: int = 0,
        stall_timeout_s: float = DEFAULT_STALL_TIMEOUT_S,
        name: str | None = None,
        max_staleness: int | None = 0,
        on_nonfinite: str = "drop",
        record_times: bool = True,
        on_shortage: str = "wait",
        auto_least: int | None = None,
    ) -> None:
        if isinstance(inner_optimizer, str | dict):
            inner_optimizer = keras.optimizers.get(inner_optimizer)
        if _wrapped(inner_optimizer):
            raise TypeError("The optimizer is wrapped already; wrap the optimizer inside it.")
        if not isinstance(inner_optimizer, keras.optimizers.Optimizer):
            rule = "it must be a Keras 3 optimizer, such as keras.optimizers.SGD(0.1), or its name."
            raise TypeError(f"optimizer is {inner_optimizer!r}; {rule}")
        checked_choice("on_nonfinite", on_nonfinite, ON_NONFINITE)
        checked_choice("on_shortage", on_shortage, ON_SHORTAGE)
        auto = auto_least is not None
        if auto and (on_shortage != "wait" or not record_times):
            raise ValueError(
                'replicas="auto" makes do with fewer workers anyway, down to least_replicas, and '
                "needs the recorded times: leave out on_shortage and record_times."
            )
        least = 1 if on_shortage == "shrink" else auto_least
        fill = on_shortage == "fill"
        policy = BackupPolicy(replicas, backups, max_staleness, least, auto, fill)
        if not isinstance(stall_timeout_s, int | float) or not stall_timeout_s > 0:
            raise ValueError(
                f"stall_timeout_s is {stall_timeout_s!r}; it must be a number above 0."
            )
        super().__init__(learning_rate=0.0, name=name)
        for attribute in _INNER:
            delattr(self, attribute)  # So that __getattr__ asks the inner optimizer.
        self.inner_optimizer = inner_optimizer
        self.policy = policy
        self.stall_timeout_s = stall_timeout_s
        self.on_nonfinite = on_nonfinite
        self.record_times = record_times
        self.on_shortage = on_shortage
        self.auto_least = auto_least
        self._accounts: list[Account] = []
        self._listeners = Listeners()

    @property
    def replicas(self) -> int:
        """N, the number of gradients averaged in one update."""
        return self.policy.replicas

    @property
    def backups(self) -> int:
        """b, the number of workers beyond N."""
        return self.policy.backups

    @property
    def max_staleness(self) -> int | None:
        """Maximum staleness of a gradient that is used, in updates; None for no limit."""
        return self.policy.max_staleness

    @property
    def contributions(self) -> Contributions:
        """Counts of all gradients since this optimizer was wrapped in this process, by outcome."""
        none = Contributions.none(self.policy.workers)
        return sum((account.read() for account in self._accounts), none)

    @property
    def living_workers(self) -> int | None:
        """Number of the N + b workers known to be alive; None if no engine exists."""
        return self._accounts[-1].living_workers() if self._accounts else None

    def settle(self) -> None:
        """Wait until no update is in progress, so that the model matches `iterations`.

        For callbacks with `runs_behind = True`. Training does not wait for them after every update,
        so the model may be ahead of the updates whose logs they get. Other callbacks need not call
        this.
        """
        for account in self._accounts:
            account.settle()

    def listen(self, listener: Listener, ended: Callable[[], None] = lambda: None) -> None:
        """Call a function with the rows of the timeline, until the next `fit` or `minimize` ends.

        It is called about twice a second, in another thread, with two structured arrays: rows of
        `tf_backup.timeline.schema.CONTRIBUTION` for gradients whose fate has become known, and of
        `UPDATE`. `StragglerMonitor` saves them.

        Args:
          listener: function of the rows.
          ended: called after the last rows.

        Raises:
          ValueError: if the optimizer records no times.
        """
        if not self.record_times:
            raise ValueError(
                "The optimizer records no times: make it with tf_backup.wrap(..., "
                "record_times=True)."
            )
        self._listeners.add(listener, ended)

    def read_timeline(self) -> None:
        """Call the listeners now with the rows that are there."""
        for account in self._accounts:
            account.read_timeline()

    def stop_listening(self) -> None:
        """Remove the listeners, when training has ended."""
        self._listeners.end()

    @property
    def listeners(self) -> Listeners | None:
        """What an engine hands its timeline to; None if no times are recorded."""
        return self._listeners if self.record_times else None

    def report_to(self, engine: Engine) -> None:
        """Count the contributions of an engine, too.

        The engine is referenced weakly: read `contributions` as soon as it has finished.
        """
        self._accounts.append(Account(engine))

    # ---- Everything else is delegated to the inner optimizer ----------------------------------

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner_optimizer":
            raise AttributeError(name)
        return getattr(self.inner_optimizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _INNER and "inner_optimizer" in vars(self):
            setattr(self.inner_optimizer, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def variables(self) -> list[Any]:
        """The inner optimizer's variables."""
        return list(self.inner_optimizer.variables)

    @property
    def iterations(self) -> Any:
        """The number of updates made."""
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's learning rate."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self.inner_optimizer.learning_rate = value

    def build(self, variables: Sequence[Any]) -> None:
        """Create the inner optimizer's variables."""
        if not self.inner_optimizer.built:
            self.inner_optimizer.build(variables)
        self.built = True

    def apply(self, grads: Sequence[Tensor], trainable_variables: Any = None) -> None:
        """Update variables; called by the chief with the mean of the N gradients.

        Raises:
          RuntimeError: if it is called by hand in the strategy's scope.
        """
        if tf.distribute.get_replica_context() is None:
            raise RuntimeError(
                "the wrapped optimizer cannot apply gradients by hand: an update is the mean of N "
                "workers' gradients. Use model.fit or tf_backup.minimize, or apply them with "
                "optimizer.inner_optimizer on one device."
            )
        self.inner_optimizer.apply(grads, trainable_variables)

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Scale the loss as the inner optimizer does."""
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Finalize variables as the inner optimizer does: with EMA, by writing the averages."""
        self.inner_optimizer.finalize_variable_values(var_list)

    def exclude_from_weight_decay(self, *args: Any, **kwargs: Any) -> None:
        """Exclude variables from the inner optimizer's weight decay."""
        self.inner_optimizer.exclude_from_weight_decay(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Return the config from which `from_config` recreates this optimizer."""
        return {
            "name": self.name,
            "inner_optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "replicas": self.replicas,
            "backups": self.backups,
            "stall_timeout_s": self.stall_timeout_s,
            "max_staleness": self.max_staleness,
            "on_nonfinite": self.on_nonfinite,
            "record_times": self.record_times,
            "on_shortage": self.on_shortage,
            "auto_least": self.auto_least,
        }

    # The inner optimizer is saved, so that files are the same as those of one device.

    def __dir__(self) -> list[str]:
        # Keras saves attributes listed here, and already has the inner optimizer's variables.
        return [name for name in super().__dir__() if name != "inner_optimizer"]

    def _trackable_children(self, *args: Any, **kwargs: Any) -> Any:
        inner = vars(self).get("inner_optimizer", super())  # Also called in __init__.
        return inner._trackable_children(*args, **kwargs)

    def _lookup_dependency(self, *args: Any, **kwargs: Any) -> Any:
        inner = vars(self).get("inner_optimizer", super())
        return inner._lookup_dependency(*args, **kwargs)

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> SyncReplicasWithBackup:
        """Recreate the optimizer, which trains only under a parameter-server strategy."""
        config = dict(config)
        config["inner_optimizer"] = keras.saving.deserialize_keras_object(
            config["inner_optimizer"], custom_objects=custom_objects
        )
        return cls(**config)


def find(optimizer: Any) -> SyncReplicasWithBackup | None:
    """Return the wrapped optimizer: `optimizer` or the one inside it; None if there is none."""
    while optimizer is not None and not isinstance(optimizer, SyncReplicasWithBackup):
        optimizer = vars(optimizer).get("inner_optimizer")
    return optimizer


def on_nonfinite(optimizer: Any) -> str:
    """Return what to do with a gradient that has NaN or Inf, for a wrapped optimizer.

    Under loss scaling, around or inside the wrapped one, gradients overflow now and then by design,
    and Keras skips such updates.
    """
    wrapped = find(optimizer)
    assert wrapped is not None
    while optimizer is not None:
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            return "keep"
        optimizer = vars(optimizer).get("inner_optimizer")
    return wrapped.on_nonfinite


def _wrapped(optimizer: Any) -> bool:
    return isinstance(optimizer, keras.optimizers.Optimizer) and find(optimizer) is not None
