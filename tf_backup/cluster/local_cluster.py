"""A cluster of real processes on this machine."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import threading
import time
from types import TracebackType
from typing import Any

from tf_backup import errors
from tf_backup._tf import grpc_environment
from tf_backup.checks import checked_int
from tf_backup.cluster import exposure, tf_config, worker_routes
from tf_backup.cluster.connection import DEFAULT_TIMEOUT_S, Timeouts, connect, forget
from tf_backup.cluster.fork_server import ForkServer, Task
from tf_backup.cluster.scratch_folder import ScratchFolder
from tf_backup.cluster.worker_restarts import WorkerRestarts
from tf_backup.network import arrivals
from tf_backup.network.free_ports import free_ports
from tf_backup.network.status import ask, is_ready

log = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0  # Dozens of tasks start up slowly on a busy machine.
_NOT_STARTED = "Could not start gRPC server"  # TensorFlow, if a port is taken at the last moment.
_ATTEMPTS = 3  # Another program may take a free port before its task does.
END_TIMEOUT_S = 5.0  # A task ends within a second, unless the machine is busy.
DEFAULT_WORKER_RESTARTS = 3


class LocalCluster:
    """Worker and parameter-server processes on free local ports, which end with this context.

    They also end with this process, however it ends. TensorFlow's servers listen on all
    interfaces and execute whatever they are sent, so use this behind a firewall.

    Example:

        with tf_backup.LocalCluster(workers=4, ps=1) as local:
            strategy = local.strategy()

    Args:
      workers: number of worker processes, at least 1.
      ps: number of parameter-server processes, at least 1.
      threads: number of threads that one operation of a task may use. Processes that share a
        few cores are fastest with 1.
      worker_timeout_s: how long a worker may be silent before it is given up.
      server_timeout_s: how long a parameter server may be silent before it counts as lost.
      start_timeout_s: how long the processes may take to start.
      worker_restarts: how often a worker is started again whose process ends by itself: it
        crashes, or runs out of memory. 0 starts none again. One that `kill_task` has ended stays
        ended until `start_task`.

    Raises:
      TypeError: if a number of processes, threads or restarts is not an int.
      ValueError: if a number is too small.
      ClusterError: on entering the context, if a process does not start.
    """

    def __init__(
        self,
        workers: int,
        ps: int = 1,
        *,
        threads: int = 1,
        worker_timeout_s: float = DEFAULT_TIMEOUT_S,
        server_timeout_s: float = DEFAULT_TIMEOUT_S,
        start_timeout_s: float = START_TIMEOUT_S,
        worker_restarts: int = DEFAULT_WORKER_RESTARTS,
    ) -> None:
        self.workers = checked_int("workers", workers)
        self.ps = checked_int("ps", ps)
        self._threads = checked_int("threads", threads)
        self._worker_restarts = checked_int("worker_restarts", worker_restarts, least=0)
        self._timeouts = Timeouts(worker_timeout_s, server_timeout_s, start_timeout_s)
        self._start_timeout_s = start_timeout_s
        # A pipe that nobody writes to. The processes exit when its write end closes, which also
        # happens when this process ends, however it ends.
        self._lifeline: tuple[int, ...] = ()
        self._folder: ScratchFolder | None = None
        self._fork_server: ForkServer | None = None
        self._lock = threading.RLock()  # Held while a task is started, killed or looked at.
        self._tasks: dict[tuple[str, int], Task] = {}
        self._killed: set[tuple[str, int]] = set()  # By `kill_task`.
        self._restarts: WorkerRestarts | None = None
        self._config: tf_config.ClusterConfig | None = None
        self._strategy: Any = None

    def __enter__(self) -> LocalCluster:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def config(self) -> tf_config.ClusterConfig:
        """Configuration of the chief, with the addresses of all tasks."""
        if self._config is None:
            raise errors.ClusterError("The cluster has not been started: use it as a context.")
        return self._config

    def start(self) -> None:
        """Start all processes, and wait until each of them serves."""
        if self._fork_server is not None:
            raise errors.ClusterError("The cluster has been started already.")
        log.info("Starting %d worker and %d ps processes.", self.workers, self.ps)
        self._lifeline = os.pipe()
        self._folder = ScratchFolder()
        try:
            self._fork_server = ForkServer(
                self._environment(),
                self._lifeline[0],
                self._log_path("fork_server", 0),
                self._start_timeout_s,
            )
            self._fork_server.ready()
            grpc_environment.prepare()
            for _ in range(_ATTEMPTS):
                if self._start_tasks():
                    exposure.note([each for job in self.config.addresses.values() for each in job])
                    self._restarts = WorkerRestarts(
                        self._worker_restarts, self._ended_workers, self._restart_worker
                    )
                    return
                self._end_tasks()
            raise errors.ClusterError(
                f"Other programs took ports of the cluster's tasks, {_ATTEMPTS} times in a row."
            )
        except BaseException:
            self.stop()
            raise

    def start_task(self, job: str, index: int) -> None:
        """Start the process of one task, for the first time or again after it ended."""
        address = self._address(job, index)
        assert self._fork_server is not None
        # Enough for a step, a gate call, and a transfer of each other task at the same time.
        inter_op = max(4, self.workers + 2)
        with self._lock:
            task = self._tasks.get((job, index))
            if task is not None and not task.ended:
                raise errors.ClusterError(f"{job} {index} ({address}) runs already.")
            self._tasks[job, index] = self._fork_server.start(
                self._config_of(job, index).as_tf_config(job, index),
                self._log_path(job, index),
                [str(self._threads), str(inter_op)],
            )
            self._killed.discard((job, index))

    def kill_task(self, job: str, index: int) -> None:
        """Kill the process of one task with SIGKILL, as a failing machine would."""
        self._address(job, index)
        with self._lock:
            self._killed.add((job, index))
            self._tasks[job, index].kill()

    def pid(self, job: str, index: int) -> int:
        """Return the process id of one task."""
        self._address(job, index)
        return self._tasks[job, index].pid

    def strategy(self) -> Any:
        """Return the `tf.distribute.ParameterServerStrategy` of this cluster, always the same."""
        if self._strategy is None:
            self._strategy = connect(self.config, self._timeouts, local=True)
        return self._strategy

    def stop(self) -> None:
        """End all processes with SIGTERM, or with SIGKILL if they do not exit in time."""
        if self._strategy is not None:
            forget(self._strategy)
            self._strategy = None
        if self._restarts is not None:
            self._restarts.stop()
            self._restarts = None
        self._end_tasks()
        if self._fork_server is not None:
            self._fork_server.close()
            self._fork_server = None
        for end in self._lifeline:
            os.close(end)
        self._lifeline = ()
        if self._folder is not None:
            self._folder.remove()
            self._folder = None

    def _end_tasks(self) -> None:
        for task in self._tasks.values():
            task.send_signal(signal.SIGTERM)
            task.send_signal(signal.SIGCONT)  # A stopped process would not handle SIGTERM.
        deadline = time.monotonic() + END_TIMEOUT_S
        for task in self._tasks.values():
            if not task.wait(deadline - time.monotonic()):
                task.kill()
        self._tasks.clear()

    def _ended_workers(self) -> list[int]:
        """Return the indices of the workers whose processes have ended by themselves."""
        with self._lock:
            return [index for index in range(self.workers) if self._has_ended(index)]

    def _has_ended(self, worker: int) -> bool:
        task = self._tasks.get(("worker", worker))
        return task is not None and ("worker", worker) not in self._killed and task.ended

    def _restart_worker(self, worker: int) -> None:
        """Start a worker again if its process has ended by itself, and still is."""
        with self._lock:
            if self._has_ended(worker):
                self.start_task("worker", worker)

    def _address(self, job: str, index: int) -> str:
        """Return the address of a task of the running cluster.

        Raises:
          ClusterError: if the cluster is not running.
          ValueError: if there is no such task.
        """
        if self._fork_server is None:
            raise errors.ClusterError("The cluster has not been started: use it as a context.")
        addresses = self.config.addresses.get(job, []) if job != "chief" else []
        if not 0 <= index < len(addresses):
            raise ValueError(
                f"there is no {job} {index}: the cluster has workers 0 to {self.workers - 1} and "
                f"ps 0 to {self.ps - 1}."
            )
        return addresses[index]

    def _config_of(self, job: str, index: int) -> tf_config.ClusterConfig:
        """Return the cluster as a task sees it."""
        if job != "worker":
            return self.config
        addresses = dict(self.config.addresses)
        addresses["ps"] = worker_routes.of_worker(index, addresses["ps"])
        return dataclasses.replace(self.config, addresses=addresses)

    def _log_path(self, job: str, index: int) -> str:
        assert self._folder is not None
        return os.path.join(self._folder.path, f"{job}{index}.log")

    def _free_addresses(self) -> tf_config.ClusterConfig:
        """Return free addresses for all tasks."""
        ports = free_ports(self.workers + self.ps + 1)
        hosts = [f"localhost:{port}" for port in ports]
        return tf_config.ClusterConfig(
            {
                "chief": hosts[:1],
                "worker": hosts[1 : self.workers + 1],
                "ps": hosts[self.workers + 1 :],
            },
            "chief",
            0,
        )

    def _environment(self) -> dict[str, str]:
        """Return the environment variables of the tasks' processes."""
        variables = {**os.environ, "GRPC_FAIL_FAST": "use_caller"}
        variables.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        path = variables.get("PYTHONPATH")
        variables["PYTHONPATH"] = f"{package}{os.pathsep}{path}" if path else package
        return variables

    def _start_tasks(self) -> bool:
        """Start all tasks, and wait until each of them serves.

        Returns:
          False if another program has taken the port of a task.
        """
        self._config = self._free_addresses()
        for job, count in (("ps", self.ps), ("worker", self.workers)):
            for index in range(count):
                self.start_task(job, index)
        waiting = list(self._tasks)
        deadline = time.monotonic() + self._start_timeout_s
        while waiting:
            # Check all tasks: at the port of one that has ended, another server may answer.
            for (job, index), task in self._tasks.items():
                if task.ended:
                    return self._explain_end(job, index)
            waiting = [key for key in waiting if not self._serves(*key)]
            if waiting and time.monotonic() > deadline:
                names = ", ".join(f"{job} {index}" for job, index in waiting)
                raise errors.ClusterError(
                    f"{names} did not serve within {self._start_timeout_s:g} s. On a slow machine, "
                    "raise start_timeout_s."
                )
            time.sleep(0.05 if waiting else 0)
        return True

    def _serves(self, job: str, index: int) -> bool:
        """Return whether a worker answers, or a parameter server is ready for clients."""
        address = self._address(job, index)
        return is_ready(address) if job == "ps" else ask(address) is not None

    def _explain_end(self, job: str, index: int) -> bool:
        """Return False if a task ended because its port was taken; else raise its output."""
        with open(self._log_path(job, index)) as log_file:
            wrote = log_file.read()[-2000:]
        if arrivals.PORT_TAKEN in wrote or _NOT_STARTED in wrote:
            return False
        raise errors.ClusterError(
            f"The process of {job} {index} ended before it served. The end of what it "
            f"wrote:\n{wrote}"
        )
