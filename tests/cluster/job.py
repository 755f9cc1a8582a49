"""Job of k8s/ on this machine: the manifests' commands and environment, as local processes."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from pathlib import Path
from types import TracebackType

from tests.cluster import forks
from tests.cluster.processes import ROOT, free_addresses, wait_until
from tests.manifests import Pod, build, command, environment, pods, settings

PROGRAM = ROOT / "tests" / "cluster" / "programs" / "in_pod.py"


class Job:
    """Stand-in for a Kubernetes cluster: starts named pods, mounts volumes, keeps logs, kills pods.

    Args:
      overlay: name of an overlay in k8s/overlays.
      directory: directory for the volumes.
      flags: flags that replace the overlay's own.
      missing: name of a package that the image lacks; "-" for none.
    """

    def __init__(self, overlay: str, directory: Path, flags: str, missing: str = "-") -> None:
        self._objects = build(overlay)
        self.pods = {self.task(pod): pod for pod in pods(self._objects)}
        self.volumes = directory
        self._missing = missing
        self._processes: dict[str, forks.Program] = {}
        self.write_flags(flags)
        addresses = free_addresses(len(self.pods) + 1)
        self.metrics_port = addresses.pop().rpartition(":")[2]
        known = [f"{pod.host}:2222" for pod in self.pods.values()]
        self._hosts = dict(zip(known, addresses, strict=True))

    def __enter__(self) -> Job:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    @staticmethod
    def task(pod: Pod) -> str:
        """Return a pod's short name: chief, ps-0, worker-1, backup-0."""
        found = re.search(r"chief|(ps|worker|backup)-\d+", pod.name)
        assert found, pod.name
        return found[0]

    def write_flags(self, flags: str) -> None:
        """Write the ConfigMap's volume, with other flags."""
        mount = self.volumes / "etc" / "train"
        mount.mkdir(parents=True, exist_ok=True)
        assert "flags" in settings(self._objects)
        (mount / "flags").write_text(flags)

    def start(self, *tasks: str, **changes: str) -> None:
        """Start pods, for the first time or again, with some variables changed."""
        for task in tasks:
            pod = self.pods[task]
            variables = environment(pod, self._objects) | changes
            words = [self._here(pod, word) for word in command(pod, variables)]
            assert words[0] == "python"
            own = {"PATH": os.environ["PATH"], "HOME": str(self.volumes), "PYTHONUNBUFFERED": "1"}
            own |= {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
            with open(self._log(task), "ab") as log:
                self._processes[task] = forks.start(
                    [str(PROGRAM), json.dumps(self._hosts), self._missing, *words[1:]],
                    str(ROOT),
                    own | variables,
                    log.fileno(),
                )

    def kill(self, task: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to a pod, and return its exit code."""
        self._processes[task].send_signal(number)
        return self.code(task, 30)

    def code(self, task: str, timeout_s: float = 120) -> int:
        """Wait until a pod ends, and return its exit code."""
        return self._processes[task].wait(timeout_s)

    def log(self, task: str) -> str:
        """Return the output of a pod."""
        return self._log(task).read_text()

    def await_log(self, task: str, text: str) -> None:
        """Wait until the output of a pod contains a text."""

        def written() -> bool:
            there = text in self.log(task)
            assert there or self._processes[task].poll() is None, self.log(task)[-3000:]
            return there

        wait_until(written, timeout_s=120)

    def metrics(self) -> dict[str, float]:
        """Return the metrics that the chief serves to Prometheus."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def _log(self, task: str) -> Path:
        return self.volumes / f"{task}.log"

    def _here(self, pod: Pod, word: str) -> str:
        """Return a word of a command with this machine's directories and port."""
        mounts = "|".join(mount["mountPath"] for mount in pod.container["volumeMounts"])
        word = re.sub(rf"=(?=({mounts})/)", f"={self.volumes}", word)
        return word.replace("_port=9090", f"_port={self.metrics_port}")
