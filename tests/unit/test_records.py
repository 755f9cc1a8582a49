import dataclasses

import numpy as np
import pytest

from tf_backup.records import NOTHING, Contributions, WorkerRecord
from tf_backup.rules import protocol

ONE = WorkerRecord(0, computed=15, accepted=5, late=4, stale=3, duplicate=2, lost=1)
TWO = WorkerRecord(1, computed=3, accepted=2, late=1, stale=0, duplicate=0, lost=0)
SUM = WorkerRecord(None, computed=18, accepted=7, late=5, stale=3, duplicate=2, lost=1)


def ledger_of(status: list[int], begun: list[int], **counts: list[int]) -> protocol.Ledger:
    ledger = protocol.new_ledger(len(status))
    queued = [int(each == protocol.DELIVERED) for each in status]
    columns = {"status": status, "queued": queued, "begun": begun, **counts}
    return ledger._replace(**{name: np.array(column) for name, column in columns.items()})


def test_total_is_the_sum_over_the_workers():
    assert Contributions((ONE, TWO)).total == SUM
    assert Contributions(()).total == NOTHING


def test_sum_of_records_of_one_worker_is_of_that_worker():
    assert (ONE + ONE).worker == 0
    assert (ONE + ONE).accepted == 10
    assert ONE + TWO == SUM


def test_sums_of_accounts_are_per_worker():
    both = Contributions((ONE, TWO)) + Contributions((TWO, TWO))
    assert both.workers == (ONE + TWO, TWO + TWO)
    assert both.workers[1].worker == 1


def test_accounts_of_other_workers_cannot_be_added():
    with pytest.raises(ValueError):
        Contributions((ONE,)) + Contributions((ONE, TWO))


def test_none_has_a_row_of_zeros_per_worker():
    none = Contributions.none(2)
    assert [record.worker for record in none.workers] == [0, 1]
    assert none.total == NOTHING
    assert none + Contributions((ONE, TWO)) == Contributions((ONE, TWO))


def test_from_ledger_reads_every_count():
    counts = {"accepted": [5, 2], "late": [4, 1], "stale": [3, 0], "duplicate": [2, 0]}
    home = [protocol.ABSENT, protocol.WAITING]
    ledger = ledger_of(home, [15, 3], **counts, lost=[1, 0])
    one = dataclasses.replace(ONE, staleness={0: 2, 3: 3})
    staleness = [{3: 3, 0: 2}, {}]
    assert Contributions.from_ledger(ledger, staleness) == Contributions((one, TWO))
    assert list(Contributions.from_ledger(ledger, staleness).workers[0].staleness) == [0, 3]


@pytest.mark.parametrize(
    ("status", "under_way"),
    [
        (protocol.ABSENT, 0),
        (protocol.COMPUTING, 1),
        (protocol.DELIVERED, 1),
        (protocol.WAITING, 0),
        (protocol.LEFT, 0),
    ],
)
def test_what_is_under_way_is_not_computed_yet(status: int, under_way: int):
    ledger = ledger_of([status], [4 + under_way], accepted=[4])
    accounts = Contributions.from_ledger(ledger, [{}])
    assert accounts.workers == (WorkerRecord(0, 4, 4, 0, 0, 0, 0),)


def test_counts_are_plain_ints():
    record = Contributions.from_ledger(ledger_of([protocol.ABSENT], [0]), [{}]).workers[0]
    assert {type(value) for value in record.as_dict().values()} == {int}


def test_as_dict_names_the_worker_unless_it_is_a_total():
    assert ONE.as_dict() == {
        "worker": 0,
        "computed": 15,
        "accepted": 5,
        "late": 4,
        "stale": 3,
        "duplicate": 2,
        "lost": 1,
        "nonfinite": 0,
    }
    assert "worker" not in SUM.as_dict()
    assert SUM.as_dict()["computed"] == 18


def test_str_is_a_table_with_a_row_per_worker_and_one_for_all():
    rows = [line.split() for line in str(Contributions((ONE, TWO))).splitlines()]
    assert rows == [
        ["worker", "computed", "accepted", "late", "stale", "duplicate", "lost"],
        ["0", "15", "5", "4", "3", "2", "1"],
        ["1", "3", "2", "1", "0", "0", "0"],
        ["all", "18", "7", "5", "3", "2", "1"],
    ]


def test_str_shows_what_was_not_finite_where_there_is_some() -> None:
    bad = dataclasses.replace(TWO, computed=5, nonfinite=2)
    rows = [line.split()[-2:] for line in str(Contributions((ONE, bad))).splitlines()]
    assert rows == [["lost", "nonfinite"], ["1", "0"], ["0", "2"], ["1", "2"]]


# ---- Staleness --------------------------------------------------------------------------------

OLD = dataclasses.replace(ONE, staleness={0: 1, 1: 3, 4: 1})
FRESH = dataclasses.replace(TWO, staleness={0: 2})


def test_staleness_adds_up():
    assert (OLD + FRESH).staleness == {0: 3, 1: 3, 4: 1}
    total = Contributions((OLD, FRESH)).total
    assert (total.staleness_mean, total.staleness_max) == (7 / 7, 4)
    assert (OLD.staleness_mean, OLD.staleness_max) == (7 / 5, 4)
    assert hash(OLD) == hash(ONE)


def test_staleness_of_nothing_is_zero():
    assert (NOTHING.staleness_mean, NOTHING.staleness_max) == (0.0, 0)


def test_str_shows_staleness_where_there_is_some():
    rows = [line.split()[7:] for line in str(Contributions((OLD, FRESH))).splitlines()]
    assert rows == [["staleness:", "mean", "max"], ["1.40", "4"], ["0.00", "0"], ["1.00", "4"]]
    assert len({len(line) for line in str(Contributions((OLD, FRESH))).splitlines()}) == 1
    plain = str(Contributions((ONE, TWO)))
    assert str(Contributions((dataclasses.replace(ONE, staleness={0: 5}), FRESH))) == plain
