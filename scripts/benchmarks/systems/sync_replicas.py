"""TensorFlow 1's `SyncReplicasOptimizer` in every worker, through `tf.compat.v1`.

An update has at least N gradients, which are not always from different workers or of the newest
parameters. Worker 0 is the chief. All settings are the optimizer's defaults.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from scripts.benchmarks import architectures, batches, plain_layers
from scripts.benchmarks.spec import Spec
from scripts.benchmarks.systems import plain_server

v1 = tf.compat.v1


class _Worker:
    """One worker, with a training loop of its own.

    Args:
      spec: specification of the process.
      session: session to train in.
      train: operation that contributes one gradient.
      global_step: variable with the number of updates.
    """

    def __init__(self, spec: Spec, session: Any, train: Any, global_step: Any) -> None:
        self.children: dict[str, list[int]] = {}
        self._index = spec.index
        self._session, self._train, self._global_step = session, train, global_step
        self._goes_on = threading.Event()
        if spec.index > 0:
            threading.Thread(target=self._go_on, daemon=True).start()

    def measure(self, steps: int, stop: threading.Event) -> int:
        """Train until `steps` updates have been made (worker 0) or `stop` is set (the others)."""
        if self._index > 0:
            self._goes_on.set()
            stop.wait()
            self._goes_on.clear()
            return 0
        begin = now = self._session.run(self._global_step)
        while now < begin + steps:
            _, now = self._session.run([self._train, self._global_step])
        return int(self._session.run(self._global_step) - begin)

    def _go_on(self) -> None:
        """Train from the start of a measurement to its end.

        A measurement's last step may block until the next measurement, when the others go on.
        """
        while True:
            self._goes_on.wait()
            self._session.run(self._train)


@contextlib.contextmanager
def start(spec: Spec) -> Iterator[_Worker]:
    """Build the graph, and open a session on a server of this process."""
    v1.disable_eager_execution()
    target = plain_server.serve(spec).target
    place = v1.train.replica_device_setter(
        worker_device=spec.device, cluster=tf.train.ClusterSpec(spec.cluster)
    )
    with v1.device(place):
        global_step = v1.train.get_or_create_global_step()
        train, hook = _train(spec, global_step)
    missing = v1.report_uninitialized_variables(v1.global_variables())
    config = plain_server.session_config(spec)
    config.device_filters.extend(["/job:ps", spec.device])
    if spec.index > 0:
        _await_chief(target, config, missing)
    session = v1.train.MonitoredTrainingSession(
        target, is_chief=spec.index == 0, hooks=[hook], config=config, log_step_count_steps=None
    )
    # Do not close the session: that waits for gradients of workers that have stopped.
    yield _Worker(spec, session, train, global_step)


def _train(spec: Spec, global_step: Any) -> tuple[Any, Any]:
    """Return the operation that contributes one gradient, and the hook for the session."""
    architecture = architectures.ALL[spec.model]
    x, y = v1.data.make_one_shot_iterator(batches.repeated(architecture, spec.index)).get_next()
    variables = [
        v1.get_variable(
            f"weight_{index}", each.shape, initializer=each.initializer, trainable=each.trainable
        )
        for index, each in enumerate(plain_layers.weights(architecture))
    ]
    loss, moved = plain_layers.loss(architecture, variables, x, y)
    optimizer = v1.train.SyncReplicasOptimizer(
        v1.train.GradientDescentOptimizer(architectures.LEARNING_RATE),
        replicas_to_aggregate=spec.replicas,
        total_num_replicas=spec.workers,
    )
    train = optimizer.minimize(loss, global_step=global_step)
    moves = [average.assign(value) for average, value in moved]
    hook = optimizer.make_session_run_hook(is_chief=spec.index == 0)
    return tf.group(train, *moves), hook


def _await_chief(target: str, config: Any, missing: Any) -> None:
    """Wait until the chief has initialized the variables: a session checks only every 30 s."""
    with v1.Session(target, config=config) as session:
        while len(session.run(missing)):
            time.sleep(0.1)
