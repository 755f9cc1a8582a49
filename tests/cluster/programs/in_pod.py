"""Runs a command of the project as in a pod, with pods' names that lead to ports of this machine.

    in_pod.py HOSTS MISSING scripts/train.py --flags

HOSTS stands for the cluster's name server: JSON from the pods' `name:port` to their addresses.
MISSING is a package that the image lacks, or "-".
"""

from __future__ import annotations

import dataclasses
import json
import runpy
import sys

from scripts import early  # noqa: F401  # As the script itself starts.
from tf_backup.cluster import tf_config

_HOSTS, _MISSING, *_COMMAND = sys.argv[1:]
_config = tf_config.from_tf_config


def from_tf_config() -> tf_config.ClusterConfig:
    """Return the cluster with addresses on this machine."""
    config, known = _config(), json.loads(_HOSTS)
    found = {job: [known[name] for name in names] for job, names in config.addresses.items()}
    return dataclasses.replace(config, addresses=found)


if __name__ == "__main__":
    tf_config.from_tf_config = from_tf_config
    if _MISSING != "-":
        sys.modules[_MISSING] = None  # type: ignore[assignment]
    sys.argv = _COMMAND
    runpy.run_path(_COMMAND[0], run_name="__main__")
