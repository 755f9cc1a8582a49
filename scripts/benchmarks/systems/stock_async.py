"""TensorFlow's asynchronous parameter-server training, with one closure per gradient.

Uses `tf.distribute.ParameterServerStrategy` and `ClusterCoordinator` on plain servers.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from scripts.benchmarks.peer import set_threads
from scripts.benchmarks.spec import Spec


class _Coordinator:
    """The chief, connected to its workers and parameter servers.

    Args:
      spec: specification of the system.
      tf: TensorFlow.
    """

    def __init__(self, spec: Spec, tf: Any) -> None:
        from scripts.benchmarks import architectures, batches, plain_layers

        self.children: dict[str, list[int]] = {}
        architecture = architectures.ALL[spec.model]
        strategy = tf.distribute.ParameterServerStrategy(
            tf.distribute.cluster_resolver.SimpleClusterResolver(
                tf.train.ClusterSpec(spec.cluster), task_type="chief", task_id=0, rpc_layer="grpc"
            )
        )
        weights = plain_layers.weights(architecture)
        with strategy.scope():
            variables = [tf.Variable(each.value, trainable=each.trainable) for each in weights]
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)

        def of_worker(context: Any) -> Any:
            return batches.repeated(architecture, context.input_pipeline_id)

        def data() -> Any:
            return strategy.distribute_datasets_from_function(of_worker)

        self._iterator = iter(self._coordinator.create_per_worker_dataset(data))

        def update(x: Any, y: Any) -> None:
            plain_layers.update(architecture, variables, x, y)

        @tf.function(autograph=False)
        def step(iterator: Any) -> None:
            strategy.run(update, args=next(iterator))

        self._step = step

    def measure(self, steps: int, stop: threading.Event) -> int:
        """Make updates of one gradient each."""
        for _ in range(steps):
            self._coordinator.schedule(self._step, args=(self._iterator,))
        self._coordinator.join()
        return steps


@contextlib.contextmanager
def start(spec: Spec) -> Iterator[_Coordinator]:
    """Connect, and create the variables."""
    yield _Coordinator(spec, set_threads(spec.intra_op))
