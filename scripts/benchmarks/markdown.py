"""Tables of results, in Markdown that is readable in a terminal, too."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence

from scripts.benchmarks import systems_compared
from scripts.benchmarks.rows import Row
from scripts.benchmarks.summary import Spread, Summary
from scripts.benchmarks.update_times import NOT_KNOWN, UpdateTimes

_NONE = "-"


def report(rows: Sequence[Row]) -> str:
    """Return all tables of a benchmark, and where they were measured."""
    summary = Summary(rows)
    rounds = 1 + max(row.round for row in rows)
    parts = [
        f"Median of {rounds} round{'s' if rounds > 1 else ''} (lowest to highest). {_noise(rows)}",
        "Gradients used per second:",
        speeds(summary),
    ]
    if all(
        {*summary.systems} & {*names} for names in (systems_compared.OURS, systems_compared.PEERS)
    ):
        parts += ["The same, as a multiple of each peer's in the same round:", ratios(summary)]
    if systems_compared.SLOW in summary.systems and systems_compared.HEALTHY in summary.systems:
        parts += ["With one worker ten times slower, gradients used per second:", slow(summary)]
    variants = [name for name in systems_compared.VARIANTS if name in summary.systems]
    if variants and systems_compared.HEALTHY in summary.systems:
        parts += [
            f"As a multiple of {systems_compared.HEALTHY}'s in the same round:",
            compared(summary, variants),
        ]
    if any(row.times != NOT_KNOWN for row in rows):
        parts += ["Where the time of an update goes, medians in ms:", times(summary)]
    parts += ["What it costs:", costs(summary), f"{rows[0].environment}."]
    return "\n\n".join(parts)


def speeds(summary: Summary) -> str:
    """Return gradients used per second, with a row per setting and a column per system."""
    systems = [name for name in summary.systems if name != systems_compared.SLOW]
    return markdown(
        ["", *systems],
        [
            [str(setting), *(_spread(summary.spread(setting, name, _speed)) for name in systems)]
            for setting in summary.settings
        ],
    )


def ratios(summary: Summary) -> str:
    """Return the ratios of tf_backup's speeds to those of its peers."""
    peers = [name for name in systems_compared.PEERS if name in summary.systems]
    return markdown(
        ["", "system", *(f"/ {name}" for name in peers)],
        [
            [str(setting), ours, *(_spread(summary.ratio(setting, ours, peer)) for peer in peers)]
            for setting in summary.settings
            for ours in systems_compared.OURS
            if summary.of(setting, ours)
        ],
    )


def slow(summary: Summary) -> str:
    """Return the speeds of healthy workers with and without an additional slow one."""
    table = []
    for setting in summary.settings:
        speeds_of = [
            summary.spread(setting, name, _speed)
            for name in (systems_compared.HEALTHY, systems_compared.SLOW)
        ]
        ratio = summary.ratio(setting, systems_compared.SLOW, systems_compared.HEALTHY)
        table.append([str(setting), *map(_spread, (*speeds_of, ratio))])
    return markdown(["", "healthy workers alone, b = 0", "and a slow one, b = 1", "ratio"], table)


def compared(summary: Summary, variants: Sequence[str]) -> str:
    """Return the ratios of the speeds of variants to that of N = W with the default options."""
    return markdown(
        ["", *variants],
        [
            [
                str(setting),
                *(
                    _spread(summary.ratio(setting, name, systems_compared.HEALTHY))
                    for name in variants
                ),
            ]
            for setting in summary.settings
        ],
    )


def costs(summary: Summary) -> str:
    """Return bytes, CPU time and memory of each system."""
    roles = ("chief", "worker", "ps")
    head = ["", "system", "updates/s", "wire kB/gradient", "chief kB/update"]
    head += [f"{role} ms/gradient" for role in roles] + [f"{role} MiB" for role in roles]
    columns: list[Callable[[Row], float | None]] = [
        lambda row: row.updates_per_s,
        lambda row: row.wire_bytes / row.gradients / 1e3,
        lambda row: _per(row.coordinator_bytes, row.updates * 1e3),
        lambda row: _per(row.chief_cpu_s, row.gradients / 1e3),
        lambda row: _per(row.worker_cpu_s, row.gradients / 1e3),
        lambda row: _per(row.ps_cpu_s, row.gradients / 1e3),
        lambda row: row.chief_peak_mib,
        lambda row: row.worker_peak_mib,
        lambda row: row.ps_peak_mib,
    ]
    return markdown(
        head,
        [
            [
                str(setting),
                name,
                *(_median(summary.spread(setting, name, each)) for each in columns),
            ]
            for setting in summary.settings
            for name in summary.systems
            if summary.of(setting, name)
        ],
    )


def times(summary: Summary) -> str:
    """Return the times of an update's parts, for the systems that record them."""
    names = [field.name for field in dataclasses.fields(UpdateTimes)]
    table = []
    for setting in summary.settings:
        for system in summary.systems:
            found = summary.of(setting, system)
            if any(row.times != NOT_KNOWN for row in found):
                spreads = (summary.spread(setting, system, _time(name)) for name in names)
                table.append([str(setting), system, *map(_median, spreads)])
    return markdown(["", "system", *(name.removesuffix("_ms") for name in names)], table)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, with text aligned to the left and numbers to the right."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(3, *map(len, column)) for column in columns]
    right = [all(_is_number(cell) for cell in column[1:]) for column in columns]
    rule = ["-" * (width - 1) + (":" if r else "-") for width, r in zip(widths, right, strict=True)]
    lines = [
        [
            cell.rjust(width) if r else cell.ljust(width)
            for cell, width, r in zip(row, widths, right, strict=True)
        ]
        for row in (head, rule, *rows)
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float) -> str:
    """Return a number with two decimals, or fewer if it is large."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _noise(rows: Sequence[Row]) -> str:
    used = statistics.median(row.other_cpu_s / row.seconds for row in rows)
    return f"Other processes used {used:.2f} of the {rows[0].environment.cores} cores meanwhile."


def _speed(row: Row) -> float:
    return row.gradients_per_s


def _time(name: str) -> Callable[[Row], float | None]:
    """Return a function that returns one of a row's times."""

    def time(row: Row) -> float | None:
        value: float | None = getattr(row.times, name)
        return value

    return time


def _per(value: float | None, count: float) -> float | None:
    return None if value is None else value / count


def _spread(value: Spread | None) -> str:
    if value is None:
        return _NONE
    if value.low == value.high:
        return number(value.median)
    return f"{number(value.median)} ({number(value.low)} to {number(value.high)})"


def _median(value: Spread | None) -> str:
    return _NONE if value is None else number(value.median)


def _is_number(cell: str) -> bool:
    return cell == _NONE or cell[:1].isdigit()
