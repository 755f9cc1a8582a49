import pytest

from tf_backup.testing import Delay, seconds_by_worker


@pytest.mark.parametrize(
    ("text", "delay"),
    [
        ("3:0.5", Delay(3, 0.5)),
        ("0:2", Delay(0, 2.0)),
        ("1:0", Delay(1, 0.0)),
        ("2:1e-3", Delay(2, 0.001)),
    ],
)
def test_parse(text: str, delay: Delay):
    assert Delay.parse(text) == delay


@pytest.mark.parametrize("text", ["", ":", "3", "3:", ":0.5", "a:1", "1:a", "1.5:1", "1:2:3"])
def test_other_forms_are_refused(text: str):
    with pytest.raises(ValueError) as error:
        Delay.parse(text)
    assert repr(text) in str(error.value)
    assert "WORKER:SECONDS, for instance 3:0.5" in str(error.value)


@pytest.mark.parametrize("seconds", ["-0.1", "inf", "nan", "-inf"])
def test_seconds_out_of_range_are_refused(seconds: str):
    with pytest.raises(ValueError, match=rf"seconds is {float(seconds)}; it must be at least 0"):
        Delay.parse(f"1:{seconds}")


def test_worker_out_of_range_is_refused():
    with pytest.raises(ValueError, match="worker is -1; it must be at least 0"):
        Delay.parse("-1:1")


def test_seconds_by_worker_adds_up():
    delays = [Delay(2, 0.5), Delay(0, 1.0), Delay(2, 0.25)]
    assert seconds_by_worker(delays, 4) == [1.0, 0.0, 0.75, 0.0]


def test_no_delays_are_zeros():
    assert seconds_by_worker([], 3) == [0.0, 0.0, 0.0]


def test_worker_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="delay names worker 3, but the workers are 0 to 2"):
        seconds_by_worker([Delay(2, 1.0), Delay(3, 1.0)], 3)
