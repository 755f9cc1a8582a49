"""The benchmark's arithmetic, CSV file, tables and picture."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from scripts.benchmarks import chart, markdown, rows
from scripts.benchmarks.summary import Setting, Spread, Summary
from scripts.benchmarks.update_times import UpdateTimes
from tests.unit.benchmark_rows import peer, row

DENSE = Setting("dense", 1)


def cells(line: str) -> list[str]:
    """Return the cells of a line of a table."""
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_only_used_gradients_count() -> None:
    found = row(replicas=3, updates=50, seconds=2.0)
    assert (found.gradients, found.gradients_per_s, found.updates_per_s) == (150, 75.0, 25.0)


def test_a_spread_is_median_lowest_and_highest() -> None:
    assert Spread.of([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0)
    assert Spread.of([1.0, 2.0]) == Spread(1.5, 1.0, 2.0)
    assert Spread.of([]) is None


def test_ratios_are_of_the_same_round() -> None:
    # The machine was twice as slow in the second round, for both.
    summary = Summary(
        [
            row(round=0),
            peer(round=0),
            row(round=1, seconds=8.0),
            peer(round=1, seconds=8.0),
            row(round=2),  # Here the peer failed.
        ]
    )
    assert summary.ratio(DENSE, "tf_backup", "all_reduce") == Spread(2.5, 2.5, 2.5)
    assert summary.ratio(DENSE, "all_reduce", "tf_backup") == Spread(0.4, 0.4, 0.4)
    assert summary.ratio(DENSE, "tf_backup", "stock_async") is None
    assert summary.ratio(Setting("dense", 2), "tf_backup", "all_reduce") is None


def test_a_system_has_no_spread_of_what_it_has_not() -> None:
    summary = Summary([row(), peer()])
    assert summary.spread(DENSE, "tf_backup", lambda r: r.chief_cpu_s) == Spread(0.5, 0.5, 0.5)
    assert summary.spread(DENSE, "all_reduce", lambda r: r.chief_cpu_s) is None


def test_settings_and_systems_keep_the_order_of_the_file() -> None:
    summary = Summary([row(ps=2), peer(ps=2), row(), peer(), row(model="cnn")])
    assert summary.settings == [Setting("dense", 2), DENSE, Setting("cnn", 1)]
    assert summary.systems == ["tf_backup", "all_reduce"]


def test_a_csv_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    times = UpdateTimes(token_ms=0.5, compute_ms=12.5)
    path, written = (
        str(tmp_path / "speed.csv"),
        [row(times=times), peer(slowdown=10, seconds=1 / 3)],
    )
    with rows.writing(path) as write:
        write(written[0])
        assert rows.read(path) == written[:1]  # Complete after each row.
        write(written[1])
    read = rows.read(path)
    assert read[0] == written[0]
    assert read[1].seconds == pytest.approx(1 / 3, rel=1e-5)
    assert read[1].coordinator_bytes is None
    assert read[1].environment.cpu == "a processor, with 2 cores"


def test_an_earlier_csv_file_has_no_times(tmp_path: Path) -> None:
    path = tmp_path / "speed.csv"
    with rows.writing(str(path)) as write:
        write(row())
    with path.open(newline="") as file:
        (written,) = csv.DictReader(file)
    kept = {name: text for name, text in written.items() if name not in vars(UpdateTimes())}
    assert len(kept) < len(written)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, kept)
        table.writeheader()
        table.writerow(kept)
    assert rows.read(str(path)) == [row()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("round,rate\n0,5\n", "no column"),
        (",".join(rows.COLUMNS) + "\n" + "x," * (len(rows.COLUMNS) - 1) + "x\n", "line 2"),
    ],
)
def test_another_csv_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        rows.read(str(path))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0123, "0.01"), (5.678, "5.68"), (45.31, "45.3"), (1234.5, "1,234")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert markdown.number(value) == text


def test_tables_are_aligned_and_markdown() -> None:
    assert markdown.markdown(["", "speed"], [["dense", "45.3 (40.1 to 50.2)"], ["cnn", "-"]]) == (
        "|       |               speed |\n"
        "| ----- | ------------------: |\n"
        "| dense | 45.3 (40.1 to 50.2) |\n"
        "| cnn   |                   - |"
    )


def test_the_speeds_have_a_column_for_each_system() -> None:
    summary = Summary([row(), row(round=1, seconds=5.0), peer(), row(ps=2)])
    assert markdown.speeds(summary).splitlines()[2:] == [
        "| dense, 1 ps | 45.0 (40.0 to 50.0) |       20.0 |",
        "| dense, 2 ps |                50.0 |          - |",
    ]


def test_the_ratios_have_a_row_for_each_of_ours() -> None:
    found = [row(), row(system="tf_backup_async", replicas=1), peer(), peer(system="stock_async")]
    lines = markdown.ratios(Summary(found)).splitlines()
    assert cells(lines[0]) == ["", "system", "/ stock_async", "/ all_reduce"]
    assert [cells(line)[1] for line in lines[2:]] == ["tf_backup", "tf_backup_async"]
    assert cells(lines[2])[2:] == ["2.50", "2.50"]


def test_a_slow_worker_is_compared_with_healthy_ones() -> None:
    healthy = row(system="tf_backup_full_sync", replicas=3)
    slow = row(system="tf_backup_slow_worker", replicas=3, seconds=5.0)
    report = markdown.report([healthy, slow])
    assert ["dense, 1 ps", "75.0", "60.0", "0.80"] in map(cells, report.splitlines())
    assert "slower" not in markdown.report([healthy])


def test_variants_are_compared_with_the_default_options() -> None:
    healthy = row(system="tf_backup_full_sync", replicas=3)
    variant = row(system="tf_backup_unrecorded", replicas=3, seconds=5.0)
    lines = markdown.report([healthy, variant]).splitlines()
    assert ["", "tf_backup_unrecorded"] in map(cells, lines)
    assert ["dense, 1 ps", "0.80"] in map(cells, lines)
    assert "As a multiple of tf_backup_full_sync" not in markdown.report([healthy])


def test_times_are_those_of_systems_that_record_them() -> None:
    found = [row(times=UpdateTimes(token_ms=0.25, take_ms=1.0)), row(round=1), peer()]
    (line,) = markdown.times(Summary(found)).splitlines()[2:]
    assert cells(line) == ["dense, 1 ps", "tf_backup", "0.25", *"---", "-", "1.00", "-", "-"]
    assert "Where the time of an update goes" in markdown.report(found)
    assert "Where the time of an update goes" not in markdown.report([row(), peer()])


def test_costs_are_those_of_a_gradient() -> None:
    lines = markdown.costs(Summary([row(), peer()])).splitlines()
    assert " ".join(cells(lines[2])[1:]) == "tf_backup 25.0 2.00 0.02 2.50 20.0 5.00 700 1,650 690"
    assert " ".join(cells(lines[3])[1:]) == "all_reduce 20.0 5.00 - - 50.0 - - 1,650 -"


def test_the_report_says_where_and_how_noisy() -> None:
    report = markdown.report([row(), row(round=1)])
    assert report.startswith("Median of 2 rounds (lowest to highest).")
    assert "Other processes used 0.10 of the 2 cores meanwhile." in report
    assert "2 cores of a processor, with 2 cores, 24 GiB; 1 intra-op thread in every" in report


def test_the_picture_is_drawn_from_the_file(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    table, first, second = (tmp_path / name for name in ("speed.csv", "1.svg", "2.svg"))
    with rows.writing(str(table)) as write:
        for each in (row(), row(round=1, seconds=5.0), peer(), row(ps=2), row(model="cnn")):
            write(each)
    chart.check(str(first))
    chart.draw(str(table), str(first))
    chart.draw(str(table), str(second))
    assert first.read_bytes() == second.read_bytes()
    assert "<svg" in first.read_text()


def test_a_picture_of_another_format_is_refused() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    with pytest.raises(ValueError, match=r"\.svg or \.png or \.pdf"):
        chart.check("speed.gif")
