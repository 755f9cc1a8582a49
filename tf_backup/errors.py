"""What can go wrong while a cluster trains.

    TfBackupError
    |-- ClusterError            the cluster cannot be reached or used
    |   |-- ParameterServerLost a parameter server died: restart from a checkpoint
    |   `-- WorkersLost         fewer than N workers were left for too long
    `-- WorkerFailed            a worker's own code (model, data) raised

Bad arguments are ``ValueError`` or ``TypeError``, raised where they are given.
"""


class TfBackupError(Exception):
    """Base of all errors that tf_backup raises while a cluster trains."""


class ClusterError(TfBackupError):
    """The cluster cannot be reached or used."""


class ParameterServerLost(ClusterError):
    """A parameter server died; its part of the parameters is gone."""


class WorkersLost(ClusterError):
    """No update was made for longer than the stall deadline."""


class WorkerFailed(TfBackupError):
    """A worker raised while it read data or computed a gradient."""
