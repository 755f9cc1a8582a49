"""Registry of runs: a strategy's workers are in one run at a time."""

from __future__ import annotations

import gc
import weakref

from tf_backup.actors import current_run


class Strategy:
    """Anything that can be a key."""


class Run:
    """A run that counts how often it was ended."""

    def __init__(self, strategy: Strategy) -> None:
        self.ends = 0
        self._strategy = strategy

    def end(self) -> None:
        self.ends += 1
        current_run.ended(self._strategy, self.end)


def test_a_new_run_ends_the_one_before() -> None:
    strategy = Strategy()
    first, second = Run(strategy), Run(strategy)
    current_run.begin(strategy, first.end)
    current_run.begin(strategy, second.end)
    assert (first.ends, second.ends) == (1, 0)
    current_run.interrupt(strategy)
    assert (first.ends, second.ends) == (1, 1)


def test_there_may_be_no_run() -> None:
    strategy = Strategy()
    current_run.interrupt(strategy)
    run = Run(strategy)
    current_run.begin(strategy, run.end)
    run.end()
    current_run.interrupt(strategy)
    assert run.ends == 1


def test_an_earlier_run_does_not_end_the_current_one() -> None:
    strategy = Strategy()
    first, second = Run(strategy), Run(strategy)
    current_run.begin(strategy, first.end)
    current_run.begin(strategy, second.end)
    current_run.ended(strategy, first.end)
    current_run.interrupt(strategy)
    assert second.ends == 1


def test_strategies_have_runs_of_their_own() -> None:
    one, other = Strategy(), Strategy()
    runs = Run(one), Run(other)
    current_run.begin(one, runs[0].end)
    current_run.begin(other, runs[1].end)
    current_run.interrupt(other)
    assert [run.ends for run in runs] == [0, 1]


def test_a_strategy_that_is_gone_is_forgotten() -> None:
    strategy = Strategy()
    gone = weakref.ref(strategy)

    current_run.begin(strategy, lambda: None)
    del strategy
    gc.collect()
    assert gone() is None
