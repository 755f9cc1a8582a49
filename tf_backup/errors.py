"""Errors that tf_backup raises while a cluster trains, and about records of a training.

    TfBackupError
    |-- ClusterError            the cluster cannot be reached or used
    |   |-- AnotherChief        another chief has the parameter servers
    |   |-- ParameterServerLost a parameter server died: restart from a checkpoint
    |   `-- WorkersLost         fewer than N workers were left for too long
    |-- WorkerFailed            a worker's own code (model, data) raised
    `-- NonFiniteGradients      fewer than N workers compute finite gradients

    ValueError
    `-- RecordsError            records of a training are missing, or cannot be used

Invalid arguments raise ``ValueError`` or ``TypeError`` at the call that receives them.
"""


class TfBackupError(Exception):
    """Base of all errors that tf_backup raises while a cluster trains."""


class ClusterError(TfBackupError):
    """The cluster cannot be reached or used."""


class AnotherChief(ClusterError):
    """Another chief has the parameter servers, or has taken them over."""


class ParameterServerLost(ClusterError):
    """A parameter server died, froze or was restarted; its part of the parameters is gone."""


class WorkersLost(ClusterError):
    """Too few workers were alive for longer than the stall timeout."""


class WorkerFailed(TfBackupError):
    """A worker raised while it read data or computed a gradient."""


class NonFiniteGradients(TfBackupError):
    """So many workers compute gradients with NaN or Inf that no update can be made."""


class RecordsError(ValueError):
    """There are no records of a training where they should be, or they cannot be used."""
