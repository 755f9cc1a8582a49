"""Linux counters: CPU time and memory of processes, and bytes on the loopback interface."""

from __future__ import annotations

from pathlib import Path

import psutil


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process.

    Raises:
      psutil.NoSuchProcess: if there is no such process.
    """
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def peak_mib(pid: int) -> int:
    """Return the peak memory of a process.

    Raises:
      OSError: if there is no such process, or it has ended.
    """
    # Read by hand: psutil has no peak on Linux.
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    raise OSError(f"process {pid} reports no memory: it has ended.")


def loopback_bytes() -> int:
    """Return the number of bytes received on the loopback interface, packet headers included.

    Raises:
      OSError: if there is no such interface.
    """
    interfaces = psutil.net_io_counters(pernic=True, nowrap=False)
    if "lo" not in interfaces:
        raise OSError("there is no loopback interface.")
    return int(interfaces["lo"].bytes_recv)


def machine_cpu_seconds() -> float:
    """Return the CPU time of all processes, including time stolen by a virtual machine's host."""
    times = psutil.cpu_times()
    busy = times.user + times.nice + times.system + times.irq + times.softirq + times.steal
    return float(busy)
