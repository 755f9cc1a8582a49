"""The gate's rules on a packed ledger: what the chief learns, and which workers get tokens."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_backup.policy import BackupPolicy
from tf_backup.rules import protocol
from tf_backup.servers import gate_rules
from tf_backup.servers.event import EXHAUSTED, Event
from tf_backup.servers.gate_rules import Rules, pack, unpacked


def numbers(*values: int) -> list[tf.Tensor]:
    return [tf.constant(value, tf.int64) for value in values]


def opened(known: Rules, places: int, step: int) -> tf.Tensor:
    """Return the ledger of run 1 after all workers have entered it."""
    packed, run = known.open_run(pack(protocol.new_ledger(places)), *numbers(step))
    assert int(run) == 1
    for place in range(places):
        packed, where = known.admit(packed, *numbers(place, 10 + place, 1))
        assert int(where) == place
        packed, then = known.enter(packed, *numbers(place, 10 + place, 1))
        assert then.numpy().tolist() == [step, 1 + place, 0]
    return packed


def test_a_packed_ledger_is_the_same_in_both() -> None:
    scalars = {name: np.int64(i) for i, name in enumerate(protocol.SCALARS)}
    vectors = {name: np.arange(3) + i for i, name in enumerate(protocol.VECTORS)}
    ledger = protocol.Ledger(**scalars, **vectors)
    tensors = protocol.Ledger(*[tf.constant(field) for field in ledger])
    for packed in (pack(ledger), pack(tensors)):
        for field, again in zip(ledger, unpacked(packed), strict=True):
            np.testing.assert_array_equal(field, again)


def test_rules_of_equal_policies_are_shared() -> None:
    assert gate_rules.of_policy(BackupPolicy(2, 1)) is gate_rules.of_policy(BackupPolicy(2, 1))
    assert gate_rules.of_policy(BackupPolicy(2, 1)) is not gate_rules.of_policy(
        BackupPolicy(2, 1, None)
    )


def test_the_gradient_that_completes_a_step_is_an_event() -> None:
    known = gate_rules.of_policy(BackupPolicy(2, 1))
    packed = opened(known, 3, step=7)
    packed, then, events = known.offer(packed, *numbers(2, 3, 1, 7, 300, 1))
    assert (int(then), events.shape[0]) == (protocol.WAIT, 0)
    packed, _, events = known.offer(packed, *numbers(0, 1, 1, 7, 100, 1))
    (event,) = events.numpy().tolist()
    assert Event(*event) == Event(step=[7, 7], tickets=[100, 300], places=[0, 2], staleness=[0, 0])
    _, again = known.tick(packed, *numbers(1))
    assert again.numpy().tolist() == events.numpy().tolist()
    assert known.tick(packed, *numbers(0))[1].shape[0] == 0


@pytest.mark.parametrize(("last", "token"), [(0, 8), (1, protocol.STOP)])
def test_who_waits_gets_a_token(last: int, token: int) -> None:
    known = gate_rules.of_policy(BackupPolicy(2, 1))
    packed = opened(known, 3, step=7)
    for place in (2, 0):
        packed, _, _ = known.offer(packed, *numbers(place, place + 1, 1, 7, 100 * place, 1))
    _, step, tokens, sizes, events = known.advance(packed, *numbers(last))
    assert (int(step), events.shape[0]) == (8, 0)
    assert sizes.numpy().tolist() == [[1, 2], [0, 2], [1, 2]]  # Worker 1 computes.
    assert tokens.numpy()[[0, 2]].tolist() == [[1, token], [3, token]]


def test_too_few_with_data_are_an_event() -> None:
    known = gate_rules.of_policy(BackupPolicy(2, 1))
    packed = opened(known, 3, step=7)
    told = []
    for place in (0, 1):
        stop = protocol.STOP
        packed, then, events = known.offer(packed, *numbers(place, place + 1, 1, stop, 0, 1))
        assert int(then) == stop
        told.append(events.numpy().tolist())
    assert told == [[], [[[EXHAUSTED] * 2] * 4]]
