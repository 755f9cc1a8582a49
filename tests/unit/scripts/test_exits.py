"""scripts/exits.py: how each error ends a command."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator

import pytest
import tensorflow as tf

import tf_backup
from scripts import exits


def failed(cause: BaseException) -> tf_backup.WorkerFailed:
    error = tf_backup.WorkerFailed("Worker 1.")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("b is -1."), exits.WRONG, "train.py: b is -1."),
        (OSError("the disk is full."), exits.FAILED, "train.py: the disk is full."),
        (tf_backup.ParameterServerLost("ps 0."), exits.LOST, "train.py: ps 0."),
        (tf_backup.WorkersLost("2 of 3."), exits.LOST, "train.py: 2 of 3."),
        (tf_backup.WorkerFailed("Worker 1."), exits.FAILED, "train.py: Worker 1."),
        (exits.Terminated(), exits.TERMINATED, "Told to end. More."),
        (KeyboardInterrupt(), exits.FAILED, "Interrupted. More."),
        (
            # From a parameter server that restarted before it was missed.
            tf.errors.AbortedError(None, None, "Unable to find a context_id\n  at gate"),
            exits.LOST,
            "train.py: TensorFlow raised AbortedError: Unable to find a context_id. A task of the "
            "cluster went, or did not find another one: each must be there for all others at its "
            "address in TF_CONFIG. More.",
        ),
        (
            tf.errors.InvalidArgumentError(None, None, "mnist: corrupt"),
            exits.WRONG,
            "train.py: TensorFlow raised InvalidArgumentError: mnist: corrupt",
        ),
        (
            failed(tf.errors.InvalidArgumentError(None, None, "mnist: corrupt")),
            exits.WRONG,
            "train.py: Worker 1.",
        ),
        (
            failed(tf.errors.ResourceExhaustedError(None, None, "no memory")),
            exits.FAILED,
            "train.py: Worker 1.",
        ),
    ],
)
def test_an_error_ends_it_with_a_line_and_a_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    with pytest.raises(SystemExit) as caught, exits.reporting_errors(" More."):
        raise error
    assert caught.value.code == code
    assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize(
    ("variable", "code"),
    [(None, exits.WRONG), ("KUBERNETES_SERVICE_HOST", exits.LOST), ("TF_BACKUP_POD", exits.LOST)],
)
def test_a_second_chief_is_tried_again_in_a_pod_only(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, code: int
) -> None:
    for name in ("KUBERNETES_SERVICE_HOST", "TF_BACKUP_POD"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, "train-chief-0")
    again: list[str] = []
    with (
        pytest.raises(SystemExit) as caught,
        exits.reporting_errors("", again=lambda error, said: again.append(said)),
    ):
        raise tf_backup.AnotherChief("There is one.")
    assert caught.value.code == code
    assert len(again) == (code == exits.LOST)


def test_errors_of_our_own_making_are_shown_in_full() -> None:
    with pytest.raises(KeyError), exits.reporting_errors(""):
        raise KeyError("a bug")


def test_what_is_not_there_in_the_beginning_is_wrong_the_next_time_too() -> None:
    for error in (FileNotFoundError("no data."), ModuleNotFoundError("no garden.")):
        with pytest.raises(SystemExit) as caught, exits.preparing():
            raise error
        assert caught.value.code == exits.WRONG


WITHIN_TENSORFLOW = """
import signal
import time


def run(seconds):
    signal.raise_signal(signal.SIGTERM)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    ended.append(True)
"""


@pytest.fixture
def at_signals() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    hook = sys.unraisablehook
    exits.at_signals()
    yield
    exits._signals.clear()
    sys.unraisablehook = hook
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@contextlib.contextmanager
def terminated() -> Iterator[None]:
    with pytest.raises(SystemExit) as ended, exits.reporting_errors(""):
        yield
    assert ended.value.code == exits.TERMINATED


@pytest.mark.parametrize(
    ("modules", "within_s", "seconds", "ends"),
    [
        (["tensorflow.python.some"], 1e9, 0.1, True),  # TensorFlow finishes first,
        (["tensorflow.python.some"], 0.2, 60.0, False),  # unless it takes long.
        (["tensorflow.python.some", "importlib._bootstrap"], 1e9, 0.1, True),  # Its C++ imports.
        (["tensorflow.python.some", "tf_backup.actors.engine"], 1e9, 60.0, False),
        (["tensorflow_datasets"], 1e9, 60.0, False),
    ],
)
def test_a_signal_raises_outside_of_tensorflow(
    at_signals: None,
    monkeypatch: pytest.MonkeyPatch,
    modules: list[str],
    within_s: float,
    seconds: float,
    ends: bool,
) -> None:
    monkeypatch.setattr(exits, "_WITHIN_S", within_s)
    ended: list[bool] = []
    outer, inner = ({"__name__": name, "ended": ended} for name in (modules[0], modules[-1]))
    exec(WITHIN_TENSORFLOW, inner)
    exec("def call(run, seconds):\n    run(seconds)", outer)
    with terminated():
        outer["call"](inner["run"], seconds)
        time.sleep(60.0)
    assert ended == [True] * ends


def test_a_signal_is_raised_only_once_while_its_exception_is_on_its_way(at_signals: None) -> None:
    steps = []

    @contextlib.contextmanager
    def cleaning_up() -> Iterator[None]:
        try:
            yield
        finally:
            time.sleep(5 * exits._AGAIN_S)
            steps.append("context")

    with terminated(), cleaning_up():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as error:
            time.sleep(5 * exits._AGAIN_S)
            steps.append("except")
            raise ValueError("of the signal") from error
    time.sleep(5 * exits._AGAIN_S)
    assert steps == ["except", "context"]


def test_a_signal_after_the_errors_have_been_reported_is_raised_once(at_signals: None) -> None:
    with terminated():
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    time.sleep(5 * exits._AGAIN_S)


def test_a_second_signal_does_not_wait_for_what_the_first_one_runs(at_signals: None) -> None:
    with terminated():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGINT)
            time.sleep(60.0)


def test_a_signal_that_a_library_drops_raises_again(at_signals: None) -> None:
    dropped = 0
    with terminated():
        for _ in range(3):
            try:
                if not dropped:
                    signal.raise_signal(signal.SIGTERM)
                time.sleep(60.0)
            except BaseException:
                dropped += 1
        time.sleep(60.0)
    assert dropped == 3


def test_a_signal_that_a_destructor_swallows_raises_again(
    at_signals: None, capsys: pytest.CaptureFixture[str]
) -> None:
    class Collected:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    with terminated():
        Collected()
        time.sleep(60.0)
    assert capsys.readouterr().err == "Told to end.\n"
