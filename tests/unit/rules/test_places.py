"""Rules of places: who is admitted where, and what the end of a lease does."""

from __future__ import annotations

from tests.unit.rules.test_protocol import Gate
from tf_backup.rules.protocol import (
    ABSENT,
    ACCEPTED,
    COMPUTING,
    DELIVERED,
    DUPLICATE,
    EXPELLED,
    LEFT,
    NO_PLACE,
    STOP,
    WAIT,
)


def test_who_comes_gets_the_place_of_its_own_number():
    gate = Gate(3, 2)
    assert [gate.admit(worker, life=10 + worker) for worker in (2, 0, 1)] == [2, 0, 1]
    assert gate.ledger.holder.tolist() == [0, 1, 2]
    assert gate.ledger.life.tolist() == [10, 11, 12]


def test_a_spare_worker_waits_until_a_place_is_free():
    gate = Gate(2, 1)
    assert [gate.admit(worker, life=10 + worker) for worker in (0, 1)] == [0, 1]
    assert gate.admit(2, life=12) == NO_PLACE
    gate.expire(1)
    assert gate.admit(2, life=12) == 1
    assert gate.admit(1, life=13) == NO_PLACE  # It came back too late, and is the spare one.


def test_who_comes_first_takes_the_lowest_place_if_its_own_does_not_exist():
    gate = Gate(2, 1)
    assert gate.admit(5, life=10) == 0
    assert gate.admit(0, life=11) == 1


def test_nobody_is_admitted_to_a_run_that_is_over():
    gate = Gate(2, 1)
    assert gate.admit(0, life=10, run=7) == STOP
    gate.close()
    assert gate.admit(0, life=10) == STOP
    assert gate.ledger.life.tolist() == [0, 0]


def test_a_worker_that_is_started_again_gets_its_place_back_at_once():
    gate = Gate(2, 2)
    assert gate.admit(1, life=10) == 1
    assert gate.enter(1, life=10) == 0
    assert gate.admit(1, life=11) == 1
    assert gate.enter(1, life=11) == 0
    assert gate.count(1) == {"lost": 1}
    assert gate.enter(1, life=10) == EXPELLED  # The earlier life, if it still runs.
    assert gate.ledger.life[1] == 11


def test_when_a_lease_ends_what_was_under_way_is_lost():
    gate = Gate(3, 2)
    gate.enter_all()
    assert gate.expire(1) == [WAIT] * 3
    assert gate.count(1) == {"lost": 1}
    assert gate.ledger.status[1] == ABSENT
    assert gate.ledger.life[1] == 0


def test_who_waits_for_a_token_when_its_lease_ends_is_told():
    gate = Gate(3, 2)
    gate.enter_all()
    for worker in range(3):
        gate.offer(worker)
    assert gate.expire(2) == [WAIT, WAIT, EXPELLED]
    assert gate.count(2) == {"late": 1}
    assert gate.advance() == [1, 1, WAIT]


def test_what_is_delivered_is_used_though_the_lease_has_ended():
    gate = Gate(2, 2)
    gate.enter_all()
    gate.offer(0)
    gate.expire(0)
    assert gate.ledger.status[0] == DELIVERED
    assert gate.offer(1)[2]
    assert gate.advance() == [1, 1]
    assert gate.count(0) == {"accepted": 1}
    gate.expire(0)  # Now it is due to compute, and does not.
    assert gate.count(0) == {"accepted": 1, "lost": 1}


def test_what_a_thawed_worker_sends_is_refused_and_counted():
    gate = Gate(3, 2)
    gate.enter_all()
    entry = int(gate.ledger.entry[1])
    gate.expire(1)
    assert gate.offer(1, entry=entry) == (DUPLICATE, EXPELLED, False)
    assert gate.count(1) == {"lost": 1, "duplicate": 1}
    assert gate.ledger.status[1] == ABSENT
    assert gate.enter(1) == 0  # It may enter as a new one.


def test_a_thawed_worker_disturbs_no_later_life_at_its_place():
    gate = Gate(2, 2)
    gate.enter_all()
    entry = int(gate.ledger.entry[1])
    gate.expire(1)
    gate.admit(7, life=50)
    assert gate.enter(1, life=50) == 0
    assert gate.offer(1, entry=entry) == (DUPLICATE, EXPELLED, False)
    assert gate.ledger.status[1] == COMPUTING
    assert gate.offer(1, ticket=9)[0] == ACCEPTED


def test_a_place_whose_data_are_read_stays_so_in_the_run():
    gate = Gate(3, 2)
    gate.enter_all()
    gate.leave(2)
    gate.expire(2)
    assert gate.ledger.status[2] == LEFT
    gate.close()
    gate.open()
    gate.expire(2)
    assert gate.ledger.life[2] == 0
