"""Results of the benchmark: a row for each measurement, and the CSV file that holds them."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scripts.benchmarks.environment import Environment


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement of one system.

    Attributes:
      model: name of the architecture.
      ps: parameter servers, of the systems that have any.
      system: name of the system.
      round: 0 for the first.
      workers: number of workers.
      replicas: N, gradients in an update.
      slowdown: how many times slower the last worker was made.
      updates: made.
      seconds: that they took.
      wire_bytes: on the loopback interface, packet headers included.
      coordinator_bytes: through the chief's connections, both ways; None without a chief.
      chief_cpu_s: CPU time of the chief, in seconds.
      worker_cpu_s: of all workers.
      ps_cpu_s: of all parameter servers.
      other_cpu_s: of all else on the machine: noise.
      chief_peak_mib: most memory that the chief has held since it was started.
      worker_peak_mib: the largest worker.
      ps_peak_mib: the largest parameter server.
      environment: where it was measured.
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

    @property
    def gradients(self) -> int:
        """Gradients that were used; those that came too late do not count."""
        return self.replicas * self.updates

    @property
    def gradients_per_s(self) -> float:
        """Gradients used per second: what systems are compared by."""
        return self.gradients / self.seconds

    @property
    def updates_per_s(self) -> float:
        """Updates per second."""
        return self.updates / self.seconds


_DERIVED = ("gradients_per_s", "updates_per_s")  # For readers; computed anew when read.
_ENVIRONMENT = [field.name for field in dataclasses.fields(Environment)]
_MEASURED = [field.name for field in dataclasses.fields(Row) if field.name != "environment"]
COLUMNS = (*_MEASURED, *_DERIVED, *_ENVIRONMENT)


@contextlib.contextmanager
def writing(path: str) -> Iterator[Callable[[Row], None]]:
    """Give a function that adds a row to a new CSV file.

    The file is complete after every row: an interruption loses nothing.
    """
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")

        def write(row: Row) -> None:
            values = dataclasses.asdict(row)
            values |= values.pop("environment")
            values |= {name: getattr(row, name) for name in _DERIVED}
            table.writerow({name: _text(value) for name, value in values.items()})
            file.flush()

        table.writeheader()
        file.flush()
        yield write


def read(path: str) -> list[Row]:
    """Return the rows of a CSV file.

    Raises:
      OSError: if it cannot be read.
      ValueError: if it is not one of the benchmark's.
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
    environment = Environment(**_typed(Environment, values))
    return Row(**_typed(Row, values), environment=environment)


def _typed(kind: Any, values: dict[str, str]) -> dict[str, Any]:
    """Return the values of a dataclass' fields; annotations are strings here."""
    return {
        field.name: _value(str(field.type), values[field.name])
        for field in dataclasses.fields(kind)
        if field.name != "environment"
    }


def _value(kind: str, text: str) -> Any:
    if kind.endswith("| None") and not text:
        return None
    return {"int": int, "float": float, "str": str}[kind.split()[0]](text)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
