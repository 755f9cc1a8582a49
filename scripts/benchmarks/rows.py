"""Rows of results, one per measurement, and the CSV file that holds them."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scripts.benchmarks.environment import Environment
from scripts.benchmarks.update_times import NOT_KNOWN, UpdateTimes


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement of one system.

    Attributes:
      model: name of the architecture.
      ps: number of parameter servers, for the systems that have any.
      system: name of the system.
      round: index of the round.
      workers: number of workers.
      replicas: N, the number of gradients in an update.
      slowdown: time that the last worker takes for a gradient, relative to the others.
      updates: number of updates.
      seconds: time that they took.
      wire_bytes: bytes on the loopback interface, packet headers included.
      coordinator_bytes: bytes of the chief's connections, both ways; None without a chief.
      chief_cpu_s: CPU time of the chief, in seconds; None without a chief.
      worker_cpu_s: CPU time of all workers together.
      ps_cpu_s: CPU time of all parameter servers together; None without any.
      other_cpu_s: CPU time of all other processes on the machine, which is noise.
      chief_peak_mib: peak memory of the chief since its start; None without a chief.
      worker_peak_mib: peak memory of the largest worker.
      ps_peak_mib: peak memory of the largest parameter server; None without any.
      environment: machine, versions and settings.
      times: where the time of an update goes, if that was recorded.
    """

    model: str
    ps: int
    system: str
    round: int
    workers: int
    replicas: int
    slowdown: float
    updates: int
    seconds: float
    wire_bytes: int
    coordinator_bytes: int | None
    chief_cpu_s: float | None
    worker_cpu_s: float
    ps_cpu_s: float | None
    other_cpu_s: float
    chief_peak_mib: int | None
    worker_peak_mib: int
    ps_peak_mib: int | None
    environment: Environment
    times: UpdateTimes = NOT_KNOWN

    @property
    def gradients(self) -> int:
        """Number of gradients that were used; late ones do not count."""
        return self.replicas * self.updates

    @property
    def gradients_per_s(self) -> float:
        """Gradients used per second, by which systems are compared."""
        return self.gradients / self.seconds

    @property
    def updates_per_s(self) -> float:
        """Updates per second."""
        return self.updates / self.seconds


_DERIVED = ("gradients_per_s", "updates_per_s")  # For readers; computed anew when read.
_ENVIRONMENT = [field.name for field in dataclasses.fields(Environment)]
_TIMES = [field.name for field in dataclasses.fields(UpdateTimes)]  # Earlier files lack them.
_NESTED = ("environment", "times")
_MEASURED = [field.name for field in dataclasses.fields(Row) if field.name not in _NESTED]
COLUMNS = (*_MEASURED, *_DERIVED, *_TIMES, *_ENVIRONMENT)


@contextlib.contextmanager
def writing(path: str) -> Iterator[Callable[[Row], None]]:
    """Create a CSV file; yield a function that adds a row to it.

    The file is complete after every row, so that an interruption loses nothing.
    """
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")

        def write(row: Row) -> None:
            values = dataclasses.asdict(row)
            for name in _NESTED:
                values |= values.pop(name)
            values |= {name: getattr(row, name) for name in _DERIVED}
            table.writerow({name: _text(value) for name, value in values.items()})
            file.flush()

        table.writeheader()
        file.flush()
        yield write


def read(path: str) -> list[Row]:
    """Return the rows of a CSV file.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if the benchmark did not write it.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        missing = {*_MEASURED, *_ENVIRONMENT} - {*(table.fieldnames or ())}
        if missing:
            raise ValueError(
                f"{path} has no column {min(missing)!r}; it must be a file that benchmark.py wrote."
            )
        try:
            return [_row(values) for values in table]
        except ValueError as error:
            raise ValueError(f"{path}, line {table.line_num}: {error}") from None


def _row(values: dict[str, str]) -> Row:
    return Row(
        **_typed(Row, values),
        environment=Environment(**_typed(Environment, values)),
        times=UpdateTimes(**_typed(UpdateTimes, values)),
    )


def _typed(kind: Any, values: dict[str, str]) -> dict[str, Any]:
    """Return the values of a dataclass' fields, converted by their annotations."""
    return {
        field.name: _value(str(field.type), values.get(field.name, ""))
        for field in dataclasses.fields(kind)
        if field.name not in _NESTED
    }


def _value(kind: str, text: str) -> Any:
    if kind.endswith("| None") and not text:
        return None
    return {"int": int, "float": float, "str": str}[kind.split()[0]](text)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
