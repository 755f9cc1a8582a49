"""Log of the gate: what was noted is read once, and a full log never blocks."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tf_backup._tf.named import Name
from tf_backup.rules import places, protocol
from tf_backup.rules.protocol import Ledger
from tf_backup.servers import arrival_log
from tf_backup.servers.arrival_log import ArrivalLog, Offer, now
from tf_backup.servers.gate_rules import pack
from tf_backup.servers.ledger_changes import UPDATE

PLACES, WORKER, RUN = 2, 1, 1
ME = np.arange(PLACES) == WORKER


class Noted:
    """A log, and a ledger with N = 1 whose changes it notes."""

    def __init__(self, name: Name) -> None:
        self.log = ArrivalLog(PLACES, name)
        self.ledger = protocol.open_run(protocol.new_ledger(PLACES), np.int64(0))
        ledger, _ = places.admit(self.ledger, np.arange(PLACES), WORKER, 7, RUN)
        self._change(places.enter(ledger, ME, 7, RUN, 1)[0])

    def offer(self, compute: int) -> None:
        step, entry = self.ledger.step, self.ledger.entry[WORKER]
        after, *_ = protocol.offer(self.ledger, ME, entry, RUN, step, 5, 1)
        numbers = (tf.constant(each, tf.int64) for each in (WORKER, RUN, step, compute))
        self._change(after, Offer(*numbers))

    def advance(self, *times: int) -> None:
        after, _ = protocol.advance(self.ledger)
        self._call(lambda old, new: self.log.note_update(old, new, np.int64(times)), after)

    def _change(self, after: Ledger, offer: Offer | None = None) -> None:
        self._call(lambda old, new: self.log.note(old, new, offer), after)

    def _call(self, note: Any, after: Ledger) -> None:
        note(tf.constant(pack(self.ledger)), tf.constant(pack(after)))
        self.ledger = after


@pytest.fixture
def noted(one_device: Name) -> Noted:
    return Noted(one_device)


def test_an_offer_and_its_update_are_rows(noted: Noted) -> None:
    began = time.time() * 1e6
    noted.offer(compute=30)
    noted.advance(10, 20, 25)
    rows, missing = noted.log.read()
    ended = time.time() * 1e6
    contribution, update = rows
    verdict, arrived, computing, step, place, worker, due, compute, run = contribution.tolist()
    assert (verdict, step, place, worker, due, compute, run) == (
        protocol.ACCEPTED, 0, WORKER, WORKER, 0, 30, RUN,
    )  # fmt: skip
    assert computing <= arrived
    assert began - 1 <= arrived <= ended
    assert update[[0, 2, 3, 4, 5, 6]].tolist() == [UPDATE, 10, 0, 20, 25, RUN]
    assert missing == 0


def test_rows_are_read_once_and_go_on(noted: Noted) -> None:
    noted.offer(compute=30)
    rows, _ = noted.log.read()
    assert len(rows) == 1
    rows, _ = noted.log.read()
    assert len(rows) == 0
    noted.advance(10, 20, 25)
    noted.offer(compute=40)
    rows, missing = noted.log.read()
    assert [row[3] for row in rows if row[0] != UPDATE] == [1]
    assert missing == 0


def test_a_full_log_drops_and_counts(one_device: Name, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival_log, "CAPACITY", 2 * PLACES)
    noted = Noted(one_device)
    for _ in range(3):
        noted.offer(compute=30)  # 1 change,
        noted.advance(10, 20, 25)  # and one for each place.
    rows, missing = noted.log.read()
    assert len(rows) == 1
    # Three updates, the last gradient, and one of which it is not known when it began.
    assert missing == 3 * PLACES + 1 + 1
    noted.offer(compute=30)
    rows, missing = noted.log.read()
    assert (len(rows), missing) == (0, 3 * PLACES + 1 + 2)


def test_now_is_the_time_in_microseconds() -> None:
    before = time.time() * 1e6
    found = int(now())
    assert before - 1 <= found <= time.time() * 1e6 + 1
