import textwrap

import pytest

from tests.unit.timelines import timeline
from tf_backup.advice.recommend import recommend
from tf_backup.policy import BackupPolicy


def test_text():
    advice = recommend(timeline([1.0] * 3 + [2.0], BackupPolicy(4), 200, update_s=0.25))
    assert str(advice) == textwrap.dedent(
        """\
           N   b   s/update s if fresh gradient/s  wasted   time fastest
           1   3       1.25       1.25        0.8     71%   3.00      0%
           2   2       1.25       1.25        1.6     43%   1.50      0%
           3   1       1.25       1.25        2.4     14%   1.00    100%  fastest
           4   0       2.25       2.25      1.778      0%   1.35      0%  this run

        With N = 3 and b = 1, training would make 35.0% more progress per second than
        with the run's N = 4 and b = 0 (90% interval: 35.0% to 35.0%), and it is the
        fastest in 100% of the resamples. The run lost 25.9% of its time by its choice
        of N and b."""
    )


def test_text_of_a_run_that_chose_well():
    text = str(recommend(timeline([1.0] * 4, BackupPolicy(4), 200)))
    assert "fastest, this run" in text
    assert "The run's own N = 4 and b = 0 is the fastest of 4 splits" in text


@pytest.mark.parametrize("policy", [BackupPolicy(30), BackupPolicy.asynchronous(30)], ids=str)
def test_text_of_many_splits_is_narrow_and_short(policy):
    draws = [lambda rng: 0.001 + rng.exponential(0.0001)] * 30
    advice = recommend(timeline(draws, policy, 40))
    lines = str(advice).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("slower splits are not shown" in line for line in lines)
    assert len(lines) < 40
    assert sum("this run" in line for line in lines[:20]) == 1
