"""Synchronous SGD with backup workers for TensorFlow 2 and Keras 3."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tf_backup.advice.advice import Advice as Advice
    from tf_backup.advice.recommend import recommend as recommend
    from tf_backup.cluster.local_cluster import LocalCluster as LocalCluster
    from tf_backup.cluster.server import serve as serve
    from tf_backup.cluster.strategy import dismiss as dismiss
    from tf_backup.cluster.strategy import parameter_server_strategy as parameter_server_strategy
    from tf_backup.errors import AnotherChief as AnotherChief
    from tf_backup.errors import ClusterError as ClusterError
    from tf_backup.errors import NonFiniteGradients as NonFiniteGradients
    from tf_backup.errors import ParameterServerLost as ParameterServerLost
    from tf_backup.errors import RecordsError as RecordsError
    from tf_backup.errors import TfBackupError as TfBackupError
    from tf_backup.errors import WorkerFailed as WorkerFailed
    from tf_backup.errors import WorkersLost as WorkersLost
    from tf_backup.keras.minimize import Update as Update
    from tf_backup.keras.minimize import minimize as minimize
    from tf_backup.keras.optimizer import SyncReplicasWithBackup as SyncReplicasWithBackup
    from tf_backup.keras.straggler_monitor import StragglerMonitor as StragglerMonitor
    from tf_backup.keras.wrap import wrap as wrap
    from tf_backup.records import Contributions as Contributions
    from tf_backup.records import WorkerRecord as WorkerRecord
    from tf_backup.testing import delay as delay

# Loaded at first use: Keras takes seconds to import, and worker processes do not need it.
_HOME = {
    "Advice": "advice.advice",
    "AnotherChief": "errors",
    "ClusterError": "errors",
    "Contributions": "records",
    "LocalCluster": "cluster.local_cluster",
    "NonFiniteGradients": "errors",
    "ParameterServerLost": "errors",
    "RecordsError": "errors",
    "StragglerMonitor": "keras.straggler_monitor",
    "SyncReplicasWithBackup": "keras.optimizer",
    "TfBackupError": "errors",
    "Update": "keras.minimize",
    "WorkerFailed": "errors",
    "WorkerRecord": "records",
    "WorkersLost": "errors",
    "delay": "testing",
    "dismiss": "cluster.strategy",
    "minimize": "keras.minimize",
    "parameter_server_strategy": "cluster.strategy",
    "recommend": "advice.recommend",
    "serve": "cluster.server",
    "wrap": "keras.wrap",
}

__all__ = sorted(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tf_backup' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tf_backup.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
