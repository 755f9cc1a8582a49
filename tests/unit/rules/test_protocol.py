"""Rules of the gate, one scenario per test; test_protocol_random.py has random ones."""

from __future__ import annotations

import numpy as np
import pytest

from tf_backup.rules import places, protocol
from tf_backup.rules.protocol import (
    ABSENT,
    ACCEPTED,
    ANY_STALENESS,
    COMPUTING,
    DELIVERED,
    DUPLICATE,
    LATE,
    LEFT,
    NONFINITE,
    STALE,
    STOP,
    WAIT,
    WAITING,
    Ledger,
)

ENDS = ("accepted", "late", "stale", "duplicate", "lost", "nonfinite")


class Gate:
    """A ledger and N, with the calls of workers and chief; each call checks the accounts."""

    def __init__(
        self, workers: int, replicas: int, step: int = 0, open_it: bool = True, bound: int = 0
    ) -> None:
        self.replicas = replicas
        self.bound = bound
        self.ledger = protocol.new_ledger(workers)
        if open_it:
            self.open(step)

    def admit(self, worker: int, life: int, run: int | None = None) -> int:
        indices = np.arange(len(self.ledger.status))
        ledger, place = places.admit(self.ledger, indices, worker, life, self._run(run))
        self._keep(ledger)
        return int(place)

    def enter(self, worker: int, run: int | None = None, life: int | None = None) -> int:
        """Let a worker enter at the place of its own number, as an admitted life."""
        if life is None:
            life = int(self.ledger.life[worker]) or 100 + worker
            self.admit(worker, life, run)
        ledger, then = places.enter(
            self.ledger, self._me(worker), life, self._run(run), self.replicas
        )
        self._keep(ledger)
        return int(then)

    def enter_all(self) -> list[int]:
        return [self.enter(worker) for worker in range(len(self.ledger.status))]

    def offer(
        self,
        worker: int,
        step: int | None = None,
        run: int | None = None,
        ticket: int = 0,
        entry: int | None = None,
        finite: bool = True,
    ) -> tuple[int, int, bool]:
        step = int(self.ledger.step) if step is None else step
        entry = int(self.ledger.entry[worker]) if entry is None else entry
        me, run = self._me(worker), self._run(run)
        ledger, verdict, then, complete = protocol.offer(
            self.ledger, me, entry, run, step, ticket, self.replicas, self.bound, np.int64(finite)
        )
        self._keep(ledger)
        return int(verdict), int(then), bool(complete)

    def leave(self, worker: int, run: int | None = None) -> bool:
        entry = int(self.ledger.entry[worker])
        ledger, exhausted = protocol.leave(
            self.ledger, self._me(worker), entry, self._run(run), self.replicas
        )
        self._keep(ledger)
        return bool(exhausted)

    def advance(self) -> list[int]:
        ledger, tokens = protocol.advance(self.ledger)
        self._keep(ledger)
        return tokens.tolist()

    def close(self, updated: bool = False) -> list[int]:
        ledger, tokens = protocol.close_run(self.ledger, updated)
        self._keep(ledger)
        return tokens.tolist()

    def open(self, step: int | None = None) -> None:
        step = int(self.ledger.step) if step is None else step
        self._keep(protocol.open_run(self.ledger, np.int64(step)))

    def expire(self, *workers: int) -> list[int]:
        gone = np.isin(np.arange(len(self.ledger.status)), workers)
        ledger, tokens = places.expire(self.ledger, gone)
        self._keep(ledger)
        return tokens.tolist()

    def settle(self) -> None:
        self._keep(protocol.settle(self.ledger))

    @property
    def complete(self) -> bool:
        return bool(protocol.complete(self.ledger, self.replicas))

    def count(self, worker: int) -> dict[str, int]:
        """Return how many of a worker's contributions ended in each way, without zeros."""
        counts = {name: int(getattr(self.ledger, name)[worker]) for name in ENDS}
        return {name: count for name, count in counts.items() if count}

    def _me(self, worker: int) -> np.ndarray:
        return np.arange(len(self.ledger.status)) == worker

    def _run(self, run: int | None) -> int:
        return int(self.ledger.run) if run is None else run

    def _keep(self, ledger: Ledger) -> None:
        check_books(ledger)
        self.ledger = ledger


def check_books(ledger: Ledger) -> None:
    """Check that every contribution is under way, or has ended in exactly one way."""
    under_way = (ledger.status == COMPUTING) + ledger.queued
    ended = sum(getattr(ledger, name) for name in ENDS)
    np.testing.assert_array_equal(ledger.begun, ended + under_way)


def test_a_new_ledger_is_closed_and_empty():
    gate = Gate(3, 2, open_it=False)
    zero = np.int64(0)
    assert gate.ledger.replicas == gate.ledger.wanted == gate.ledger.quota == 1
    ledger = gate.ledger._replace(replicas=zero, wanted=zero, quota=zero)
    assert all(not np.any(v) for v in ledger)
    assert all(np.asarray(value).dtype == np.int64 for value in gate.ledger)
    assert gate.ledger.status.tolist() == [ABSENT] * 3
    assert not gate.complete
    assert not protocol.exhausted(gate.ledger, 2)


def test_who_enters_works_on_the_current_step():
    gate = Gate(3, 2, step=7)
    assert gate.enter_all() == [7, 7, 7]
    assert gate.ledger.begun.tolist() == [1, 1, 1]
    assert gate.ledger.status.tolist() == [COMPUTING] * 3


def test_entries_are_numbered_for_all_time():
    gate = Gate(2, 1)
    numbers = []
    for worker in (0, 1, 0):
        gate.enter(worker)
        numbers.append(int(gate.ledger.entries))
    gate.close()
    gate.open()
    gate.enter(1)
    assert [*numbers, int(gate.ledger.entries)] == [1, 2, 3, 4]


def test_before_the_first_run_everybody_is_sent_home():
    gate = Gate(2, 1, open_it=False)
    assert gate.enter(0, run=0) == STOP
    assert gate.ledger.begun.tolist() == [0, 0]


def test_first_n_are_accepted_and_the_next_is_late():
    gate = Gate(3, 2)
    gate.enter_all()
    assert gate.offer(2, ticket=30) == (ACCEPTED, WAIT, False)
    assert gate.offer(0, ticket=10) == (ACCEPTED, WAIT, True)
    assert gate.offer(1, ticket=20) == (LATE, WAIT, False)
    assert gate.ledger.ticket.tolist() == [10, 0, 30]
    assert gate.ledger.accepted.tolist() == [0, 0, 0]  # Not before the update is made.
    assert gate.advance() == [1, 1, 1]
    assert [gate.count(worker) for worker in range(3)] == [
        {"accepted": 1},
        {"late": 1},
        {"accepted": 1},
    ]


def test_with_one_replica_the_first_completes_the_step():
    gate = Gate(1, 1)
    gate.enter_all()
    for step in range(3):
        assert gate.offer(0, step) == (ACCEPTED, WAIT, True)
        assert gate.advance() == [step + 1]
    assert gate.count(0) == {"accepted": 3}


def test_complete_is_said_once_and_holds_until_the_update():
    gate = Gate(4, 2)
    gate.enter_all()
    told = [gate.offer(worker)[2] for worker in range(4)]
    assert told == [False, True, False, False]
    assert gate.complete
    gate.advance()
    assert not gate.complete


def test_who_computes_gets_no_token():
    gate = Gate(3, 2)
    gate.enter_all()
    gate.offer(0)
    gate.offer(1)
    assert gate.advance() == [1, 1, WAIT]
    assert gate.ledger.begun.tolist() == [2, 2, 1]


def test_stale_goes_on_at_once_with_the_step_of_the_day():
    gate = Gate(3, 2)
    gate.enter_all()
    gate.offer(0)
    gate.offer(1)
    gate.advance()
    assert gate.offer(2, step=0) == (STALE, 1, False)
    assert gate.count(2) == {"stale": 1}
    assert gate.ledger.status[2] == COMPUTING
    assert gate.offer(2, step=1)[0] == ACCEPTED


def test_stale_waits_when_the_step_of_the_day_is_full():
    gate = Gate(3, 2)
    gate.enter_all()
    for _ in range(2):
        gate.offer(0)
        gate.offer(1)
        if gate.ledger.step == 0:
            gate.advance()
    assert gate.offer(2, step=0) == (STALE, WAIT, False)
    assert gate.advance() == [2, 2, 2]


def test_stale_is_never_part_of_the_step():
    gate = Gate(2, 1)
    gate.enter_all()
    gate.offer(0)
    gate.advance()
    gate.offer(1, step=0, ticket=5)
    assert not gate.complete
    assert gate.ledger.ticket[1] == 0


def test_what_is_not_finite_is_not_used_and_its_worker_goes_on_at_once():
    gate = Gate(3, 2)
    gate.enter_all()
    assert gate.offer(0, finite=False, ticket=5) == (NONFINITE, 0, False)
    assert gate.ledger.ticket[0] == 0
    assert gate.count(0) == {"nonfinite": 1}
    assert gate.offer(1) == (ACCEPTED, WAIT, False)
    assert gate.offer(0) == (ACCEPTED, WAIT, True)
    assert gate.ledger.begun.tolist() == [2, 1, 1]


def test_what_is_not_finite_waits_while_the_step_is_full():
    gate = Gate(2, 1)
    gate.enter_all()
    gate.offer(0)
    assert gate.offer(1, finite=False) == (NONFINITE, WAIT, False)
    assert gate.advance() == [1, 1]
    assert gate.offer(1, step=0, finite=False) == (NONFINITE, 1, False)  # Stale or not.
    assert gate.count(1) == {"nonfinite": 2}


def test_what_is_not_finite_after_the_run_is_counted_and_its_worker_stops():
    gate = Gate(2, 2)
    gate.enter_all()
    gate.close()
    assert gate.offer(0, step=0, finite=False) == (NONFINITE, STOP, False)
    assert gate.count(0) == {"nonfinite": 1}
    assert gate.ledger.status[0] == ABSENT


def test_second_offer_is_a_duplicate_and_is_not_used():
    gate = Gate(3, 2)
    gate.enter_all()
    gate.offer(0, ticket=1)
    assert gate.offer(0, ticket=2) == (DUPLICATE, WAIT, False)
    assert gate.ledger.ticket[0] == 1
    assert not gate.complete
    assert gate.offer(1)[2]
    assert gate.offer(1) == (DUPLICATE, WAIT, False)  # Completion is reported once.
    gate.advance()
    assert gate.count(0) == {"accepted": 1, "duplicate": 1}
    assert gate.ledger.begun.tolist() == [3, 3, 1]


def test_late_told_twice_is_a_duplicate():
    gate = Gate(2, 1)
    gate.enter_all()
    gate.offer(0)
    gate.offer(1)
    assert gate.offer(1) == (DUPLICATE, WAIT, False)
    assert gate.advance() == [1, 1]
    assert gate.count(1) == {"late": 1, "duplicate": 1}


def test_offer_without_entry_is_a_duplicate_that_waits():
    gate = Gate(2, 1)
    assert gate.offer(1) == (DUPLICATE, WAIT, False)
    assert gate.ledger.status[1] == WAITING
    assert gate.advance() == [WAIT, 1]


def test_death_before_delivery_loses_the_contribution():
    gate = Gate(2, 2)
    gate.enter_all()
    assert gate.enter(1) == 0
    assert gate.count(1) == {"lost": 1}
    gate.offer(0)
    assert gate.offer(1)[2]
    gate.advance()
    assert gate.count(1) == {"accepted": 1, "lost": 1}


def test_death_after_delivery_loses_nothing():
    gate = Gate(3, 2)
    gate.enter_all()
    gate.offer(0, ticket=9)
    assert gate.enter(0) == WAIT  # It may not contribute to this step again.
    assert gate.ledger.status[0] == DELIVERED
    assert gate.ledger.ticket[0] == 9
    assert gate.offer(1)[2]
    assert gate.advance() == [1, 1, WAIT]
    assert gate.count(0) == {"accepted": 1}


def test_death_after_late_waits_for_the_next_step():
    gate = Gate(2, 1)
    gate.enter_all()
    gate.offer(0)
    gate.offer(1)
    assert gate.enter(1) == WAIT
    assert gate.advance() == [1, 1]
    assert gate.count(1) == {"late": 1}


def test_token_of_a_dead_worker_is_lost():
    gate = Gate(2, 1)
    gate.enter_all()
    gate.offer(0)
    assert gate.advance() == [1, WAIT]  # Worker 0 is dead and never takes it.
    assert gate.enter(0) == 1
    assert gate.count(0) == {"accepted": 1, "lost": 1}


def test_who_enters_a_full_step_waits_for_the_next():
    gate = Gate(2, 1)
    gate.enter(0)
    gate.offer(0)
    assert gate.enter(1) == WAIT
    assert gate.ledger.begun[1] == 0
    assert gate.advance() == [1, 1]


def test_who_enters_for_an_old_run_goes_home():
    gate = Gate(2, 1)
    gate.close()
    gate.open()
    assert gate.enter(0, run=1) == STOP
    assert gate.ledger.status[0] == ABSENT
    assert gate.enter(0, run=2) == 0


def test_old_loop_that_runs_again_does_not_take_back_what_is_delivered():
    """A worker that comes back runs the loops of all runs again, the oldest first."""
    gate = Gate(3, 2)
    gate.close()
    gate.open()
    gate.enter_all()
    gate.offer(0, ticket=4)
    assert gate.enter(0, run=1) == STOP
    assert gate.enter(0, run=2) == WAIT
    assert gate.offer(1)[2]
    assert gate.advance() == [1, 1, WAIT]
    assert gate.count(0) == {"accepted": 1}


def test_old_loop_that_runs_again_does_not_reopen_a_complete_step():
    gate = Gate(3, 2)
    gate.close()
    gate.open()
    gate.enter_all()
    gate.offer(0)
    assert gate.offer(1)[2]
    gate.enter(0, run=1)
    assert gate.complete
    assert gate.offer(2) == (LATE, WAIT, False)


@pytest.mark.parametrize("call", ["enter", "offer", "leave"])
def test_no_call_for_an_old_run_takes_back_what_is_delivered(call: str):
    gate = Gate(3, 2)
    gate.close()
    gate.open()
    gate.enter_all()
    gate.offer(0)
    getattr(gate, call)(0, run=1)
    assert gate.ledger.status[0] == DELIVERED
    assert gate.offer(1)[2]


def test_leave_takes_back_what_was_begun():
    gate = Gate(3, 2)
    gate.enter_all()
    assert gate.leave(2) is False
    assert gate.ledger.begun.tolist() == [1, 1, 0]
    assert gate.ledger.status[2] == LEFT
    assert gate.count(2) == {}


def test_run_is_exhausted_when_fewer_than_n_have_data():
    gate = Gate(3, 2)
    gate.enter_all()
    assert [gate.leave(worker) for worker in range(2)] == [False, True]
    assert protocol.exhausted(gate.ledger, 2)
    assert not protocol.exhausted(gate.ledger, 1)


def test_who_is_not_here_yet_counts_as_having_data():
    gate = Gate(3, 2)
    gate.enter(0)
    assert gate.leave(0) is False
    assert gate.enter(1) == 0


def test_a_closed_run_is_not_exhausted():
    gate = Gate(2, 2)
    gate.enter_all()
    gate.close()
    assert gate.leave(0) is False
    assert not protocol.exhausted(gate.ledger, 2)


def test_delivered_counts_although_its_worker_has_no_more_data():
    gate = Gate(2, 2)
    gate.enter_all()
    gate.offer(0)
    assert gate.offer(1)[2]
    assert gate.advance() == [1, 1]
    assert gate.leave(0) is True
    assert gate.count(0) == {"accepted": 1}


def test_who_left_gets_no_token_and_enters_the_next_run():
    gate = Gate(2, 1)
    gate.enter_all()
    gate.leave(0)
    gate.offer(1)
    assert gate.advance() == [WAIT, 1]
    assert gate.close() == [WAIT, WAIT]
    gate.open()
    assert gate.ledger.status[0] == ABSENT
    assert gate.enter(0) == 1


def test_who_leaves_an_old_run_has_data_in_the_new_one():
    gate = Gate(2, 1)
    gate.enter_all()
    gate.close()
    gate.open()
    assert gate.leave(0, run=1) is False
    assert gate.ledger.status[0] == ABSENT
    assert gate.ledger.begun[0] == 0
    assert gate.enter(0) == 0


def test_close_after_the_last_update_counts_it_and_sends_home():
    gate = Gate(3, 2)
    gate.enter_all()
    gate.offer(0)
    gate.offer(1)
    assert gate.close(updated=True) == [STOP, STOP, WAIT]
    assert gate.ledger.step == 1
    assert gate.ledger.open == 0
    assert gate.ledger.accepted.tolist() == [1, 1, 0]
    assert gate.ledger.status.tolist() == [ABSENT, ABSENT, COMPUTING]


def test_close_in_mid_step_makes_the_delivered_stale():
    gate = Gate(3, 3)
    gate.enter_all()
    gate.offer(0)
    assert gate.close() == [STOP, WAIT, WAIT]
    assert gate.ledger.step == 0
    assert gate.count(0) == {"stale": 1}
    assert not gate.complete


def test_close_sends_home_who_waits():
    gate = Gate(3, 1)
    gate.enter(0)
    gate.offer(0)
    gate.enter(1)
    assert gate.close(updated=True) == [STOP, STOP, WAIT]


def test_close_twice_is_close_once():
    gate = Gate(2, 2)
    gate.enter_all()
    gate.offer(0)
    gate.close()
    before = gate.ledger
    assert gate.close() == [WAIT, WAIT]
    for old, new in zip(before, gate.ledger, strict=True):
        np.testing.assert_array_equal(old, new)


def test_offer_after_the_close_is_stale_and_goes_home():
    gate = Gate(2, 1)
    gate.enter_all()
    gate.close()
    assert gate.offer(1) == (STALE, STOP, False)
    assert gate.count(1) == {"stale": 1}
    assert gate.ledger.status[1] == ABSENT


def test_straggler_of_an_old_run_is_stale_even_at_the_same_step():
    gate = Gate(2, 1)
    gate.enter_all()
    gate.close()
    gate.open()  # The step is still 0.
    assert gate.ledger.status.tolist() == [COMPUTING, COMPUTING]
    assert gate.offer(1, step=0, run=1) == (STALE, STOP, False)
    assert not gate.complete
    assert gate.count(1) == {"stale": 1}
    assert gate.enter(1) == 0
    assert gate.offer(1) == (ACCEPTED, WAIT, True)


def test_straggler_of_an_old_run_that_dies_is_lost():
    gate = Gate(2, 1)
    gate.enter_all()
    gate.close()
    gate.open()
    assert gate.enter(1, run=1) == STOP
    assert gate.enter(1, run=2) == 0
    assert gate.count(1) == {"lost": 1}


def test_settled_is_lost_and_its_late_offer_counts_no_more():
    gate = Gate(2, 1)
    gate.enter_all()
    gate.offer(0)
    gate.close(updated=True)
    gate.settle()
    assert gate.ledger.status.tolist() == [ABSENT, ABSENT]
    assert gate.count(1) == {"lost": 1}
    assert gate.offer(1, step=0) == (STALE, STOP, False)
    assert gate.count(1) == {"lost": 1}
    assert gate.ledger.begun.tolist() == [1, 1]


def test_late_offer_after_settling_does_not_disturb_the_next_run():
    gate = Gate(2, 1)
    gate.enter_all()
    gate.close()
    gate.settle()
    gate.open()
    assert gate.offer(1, step=0, run=1) == (STALE, STOP, False)
    assert gate.leave(0, run=1) is False
    assert gate.ledger.status.tolist() == [ABSENT, ABSENT]
    assert gate.enter_all() == [0, 0]


def test_settling_again_changes_nothing():
    gate = Gate(2, 1)
    gate.enter_all()
    gate.close()
    gate.settle()
    gate.settle()
    assert gate.ledger.lost.tolist() == [1, 1]


def test_a_run_begins_at_any_step_and_keeps_the_accounts():
    gate = Gate(2, 1)
    gate.enter_all()
    gate.offer(0)
    gate.close(updated=True)
    gate.open(step=100)
    assert gate.ledger.run == 2
    assert gate.ledger.accepted.tolist() == [1, 0]
    assert gate.enter(0) == 100
    gate.offer(0)
    assert gate.advance() == [101, WAIT]


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_functions_leave_the_ledger_that_they_are_given_alone(replicas: int):
    gate = Gate(3, replicas)
    gate.enter_all()
    gate.offer(0)
    ledger = gate.ledger
    copy = Ledger(*[np.copy(value) for value in ledger])
    me = np.array([False, True, False])
    places.admit(ledger, np.arange(3), 1, 7, 1)
    places.enter(ledger, me, 101, 1, replicas)
    protocol.offer(ledger, me, 2, 1, 0, 5, replicas)
    protocol.leave(ledger, me, 2, 1, replicas)
    places.expire(ledger, me)
    protocol.advance(ledger)
    protocol.close_run(ledger, False)
    protocol.open_run(ledger, np.int64(3))
    protocol.settle(ledger)
    for old, new in zip(copy, ledger, strict=True):
        np.testing.assert_array_equal(old, new)


# --- Gradients that are older than the update


def asynchronous(workers: int, replicas: int = 1, bound: int = ANY_STALENESS) -> Gate:
    """Return a gate that all workers have entered."""
    gate = Gate(workers, replicas, bound=bound)
    assert gate.enter_all() == [0] * workers
    return gate


def used(gate: Gate) -> dict[int, int]:
    """Return the workers whose gradients the next update uses, and their staleness."""
    workers = np.flatnonzero(protocol.used(gate.ledger)).tolist()
    return {worker: int(gate.ledger.staleness[worker]) for worker in workers}


def test_queued_gradients_are_used_first_come_first_used():
    gate = asynchronous(3)
    assert gate.offer(2, ticket=7) == (ACCEPTED, WAIT, True)
    assert gate.offer(0, ticket=8) == (ACCEPTED, WAIT, False)  # Step 0 is complete already.
    assert gate.offer(1, ticket=9) == (ACCEPTED, WAIT, False)
    assert gate.ledger.ticket.tolist() == [8, 9, 7]
    made = []
    for step in range(1, 4):
        assert gate.complete
        made.append(used(gate))
        (worker,) = made[-1]
        tokens = [WAIT] * 3
        tokens[worker] = step  # No others: they wait until their own gradient is used.
        assert gate.advance() == tokens
    assert made == [{2: 0}, {0: 1}, {1: 2}]
    assert not gate.complete
    assert gate.ledger.accepted.tolist() == [1, 1, 1]


def test_staleness_is_of_the_update_that_uses_it():
    gate = asynchronous(3)
    for step in range(2):
        gate.offer(0, step)
        gate.advance()
    assert gate.offer(0, 2) == (ACCEPTED, WAIT, True)
    assert gate.offer(1, 0) == (ACCEPTED, WAIT, False)
    gate.advance()
    assert used(gate) == {1: 3}


def test_every_update_takes_n_also_from_a_long_queue():
    gate = asynchronous(5, replicas=2)
    flags = [gate.offer(worker)[2] for worker in (4, 1, 3, 0, 2)]
    assert flags == [False, True, False, False, False]
    assert used(gate) == {1: 0, 4: 0}
    assert gate.advance() == [WAIT, 1, WAIT, WAIT, 1]
    assert gate.complete
    assert used(gate) == {0: 1, 3: 1}
    assert gate.advance() == [2, WAIT, WAIT, 2, WAIT]
    assert not gate.complete
    assert used(gate) == {2: 2}
    assert gate.offer(1, 1) == (ACCEPTED, WAIT, True)
    assert used(gate) == {1: 1, 2: 2}


def test_too_many_before_it_are_late_and_go_on_with_the_next_update():
    gate = asynchronous(3, bound=1)
    gate.offer(0)
    gate.offer(1)
    assert gate.offer(2) == (LATE, WAIT, False)
    assert gate.advance() == [1, WAIT, 1]
    assert gate.count(2) == {"late": 1}
    assert gate.offer(2, 1) == (ACCEPTED, WAIT, False)
    assert used(gate) == {1: 1}


def test_too_old_is_stale_and_goes_on_at_once_if_nothing_is_queued():
    gate = asynchronous(2, bound=1)
    for step in range(2):
        gate.offer(0, step)
        gate.advance()
    assert gate.offer(1, 0) == (STALE, 2, False)
    assert gate.count(1) == {"stale": 1}
    assert gate.offer(1, 2) == (ACCEPTED, WAIT, True)


def test_too_old_waits_for_the_next_update_if_that_is_imminent():
    gate = asynchronous(3, bound=1)
    for step in range(2):
        gate.offer(0, step)
        gate.advance()
    gate.offer(0, 2)
    assert gate.offer(1, 0) == (STALE, WAIT, False)
    assert gate.advance() == [3, 3, WAIT]


def test_as_old_as_allowed_is_accepted():
    gate = asynchronous(2, bound=1)
    gate.offer(0)
    gate.advance()
    assert gate.offer(1, 0) == (ACCEPTED, WAIT, True)
    assert used(gate) == {1: 1}


def test_one_worker_has_one_gradient_in_the_queue():
    gate = asynchronous(2)
    gate.offer(0, ticket=1)
    gate.offer(1, ticket=2)
    assert gate.offer(1, ticket=3) == (DUPLICATE, WAIT, False)
    assert gate.ledger.ticket.tolist() == [1, 2]


def test_a_dead_workers_gradient_keeps_its_place():
    gate = asynchronous(2)
    gate.offer(0)
    gate.offer(1)
    assert gate.enter(1) == WAIT
    assert gate.advance() == [1, WAIT]
    assert used(gate) == {1: 1}
    assert gate.advance() == [WAIT, 2]
    assert gate.count(1) == {"accepted": 1}


def test_who_enters_a_queue_waits_for_one_update_only():
    gate = Gate(3, 1, bound=ANY_STALENESS)
    gate.enter(0)
    gate.enter(1)
    gate.offer(0)
    gate.offer(1)
    assert gate.enter(2) == WAIT
    assert gate.advance() == [1, WAIT, 1]
    assert gate.complete


@pytest.mark.parametrize("updated", [False, True])
def test_the_end_of_the_run_makes_what_is_queued_stale(updated: bool):
    gate = asynchronous(4)
    for worker in range(3):
        gate.offer(worker)
    assert gate.close(updated) == [STOP, STOP, STOP, WAIT]
    assert gate.count(0) == ({"accepted": 1} if updated else {"stale": 1})
    assert [gate.count(worker) for worker in (1, 2, 3)] == [{"stale": 1}, {"stale": 1}, {}]
    gate.open()
    assert not gate.complete
    assert [gate.enter(worker) for worker in range(3)] == [int(updated)] * 3


def test_what_is_queued_counts_as_data_until_it_is_used():
    gate = asynchronous(2)
    gate.offer(0)
    gate.offer(1)
    gate.advance()
    assert gate.leave(0) is False
    assert gate.complete
    assert gate.advance() == [WAIT, 2]
    assert gate.leave(1) is True
