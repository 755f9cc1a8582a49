"""All-reduce: a custom loop on `tf.distribute.MultiWorkerMirroredStrategy` in every worker."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from scripts.benchmarks.peer import set_threads
from scripts.benchmarks.spec import Spec


class _Worker:
    """One worker; all workers make every update together.

    Args:
      spec: specification of the system.
      tf: TensorFlow.
    """

    def __init__(self, spec: Spec, tf: Any) -> None:
        from scripts.benchmarks import architectures, batches, plain_layers

        self.children: dict[str, list[int]] = {}
        self._index = spec.index
        architecture = architectures.ALL[spec.model]
        strategy = tf.distribute.MultiWorkerMirroredStrategy(
            tf.distribute.cluster_resolver.SimpleClusterResolver(
                tf.train.ClusterSpec(spec.cluster),
                task_type="worker",
                task_id=spec.index,
                rpc_layer="grpc",
            )
        )
        weights = plain_layers.weights(architecture)
        moving = {  # Each worker keeps its own moving averages.
            "synchronization": tf.VariableSynchronization.ON_READ,
            "aggregation": tf.VariableAggregation.MEAN,
        }
        with strategy.scope():
            variables = [
                tf.Variable(
                    each.value, trainable=each.trainable, **({} if each.trainable else moving)
                )
                for each in weights
            ]
        trained = plain_layers.trainable(variables)
        self._iterator = iter(
            strategy.distribute_datasets_from_function(
                lambda context: batches.repeated(architecture, context.input_pipeline_id)
            )
        )

        def gradients(x: Any, y: Any) -> Any:
            return plain_layers.gradients(architecture, variables, x, y)

        @tf.function(autograph=False)
        def step(iterator: Any) -> None:
            pairs = zip(strategy.run(gradients, args=next(iterator)), trained, strict=True)
            means = strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.MEAN, list(pairs))
            for variable, mean in zip(trained, means, strict=True):
                strategy.extended.update(variable, plain_layers.descend, args=(mean,))

        self._step = step

    def measure(self, steps: int, stop: threading.Event) -> int:
        """Make updates of one gradient of each worker."""
        for _ in range(steps):
            self._step(self._iterator)
        if self._index > 0:
            stop.wait()
        return steps


@contextlib.contextmanager
def start(spec: Spec) -> Iterator[_Worker]:
    """Connect to the other workers, and create the variables."""
    yield _Worker(spec, set_threads(spec.intra_op, spec.inter_op))
