"""Exit of a command: a message for people, and a code for what might start it again."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

from absl import flags

from tf_backup import quiet
from tf_backup.cluster import tf_config
from tf_backup.errors import AnotherChief, ClusterError, TfBackupError, WorkerFailed

FAILED = 1
WRONG = 2  # Flags, data or TF_CONFIG are wrong for good. The manifests' Jobs fail on this code.
LOST = 138  # The cluster is lost: retry. Kubeflow's operator retries after codes above 127 only.
TERMINATED = 143  # As if SIGTERM had killed the process.

log = logging.getLogger(__name__)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends training as Ctrl-C does."""


_signals: list[type[KeyboardInterrupt]] = []  # Exceptions of the signals so far.

_CALLERS = {"keras", "models", "scripts", "tf_backup", "__main__"}  # Callers of TensorFlow.
_reporting = threading.Event()  # Set within `reporting_errors`.
_AGAIN_S = 0.05  # Time between two looks at whether a signal's exception has to be raised.
_WITHIN_S = 1.0  # Longest time that it is put off because TensorFlow is running.


def at_signals() -> None:
    """Make SIGTERM raise `Terminated` from here on, and Ctrl-C `KeyboardInterrupt`.

    They are raised after TensorFlow's own code, not inside it, unless that takes longer than a
    second: its C++ calls Python, and prints or replaces exceptions raised there. Python ignores an
    exception in a destructor, and libraries drop some: one of fifty interrupts, during imports, had
    no effect. So within `reporting_errors`, an alarm raises a lost one again.
    Any other error after a signal counts as the signal's: one of twenty interrupts had ended as if
    a flag were wrong.
    """

    def tell(kind: type[KeyboardInterrupt]) -> Any:
        def handler(signum: int, frame: FrameType | None) -> None:
            del signum
            _signals.append(kind)
            _raise(frame, time.monotonic() + _WITHIN_S)  # Also if an earlier one is on its way.

        handler.raises = True  # type: ignore[attr-defined]  # `repeat_signal` may call it again.
        return handler

    signal.signal(signal.SIGTERM, tell(Terminated))
    signal.signal(signal.SIGINT, tell(KeyboardInterrupt))
    before = sys.unraisablehook

    def unraisable(seen: Any) -> None:
        repeated = _signals and _reporting.is_set()
        if not (repeated and issubclass(seen.exc_type, KeyboardInterrupt)):
            before(seen)

    sys.unraisablehook = unraisable


def _raise(frame: FrameType | None, deadline: float) -> None:
    """Raise the first signal's exception, or put it off while TensorFlow is running.

    Within `reporting_errors`, set an alarm that calls this again, unless the exception is being
    handled by then.

    Args:
      frame: what is running.
      deadline: how long it may be put off, by `time.monotonic`.
    """

    def again(signum: int, frame: FrameType | None) -> None:
        del signum
        if _is_being_handled():
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        else:
            _raise(frame, deadline if puts_off else time.monotonic() + _WITHIN_S)

    puts_off = _reporting.is_set() and _within_tensorflow(frame) and time.monotonic() < deadline
    if _reporting.is_set():
        signal.signal(signal.SIGALRM, again)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
    if not puts_off:
        raise _signals[0]


def _is_being_handled() -> bool:
    """Return whether a signal's exception is being handled, for instance by a `finally`."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _stop_alarm() -> None:
    """Do not raise a signal's exception again."""
    signal.setitimer(signal.ITIMER_REAL, 0.0)


def _within_tensorflow(frame: FrameType | None) -> bool:
    """Return whether TensorFlow is running, or a library that it has called."""
    while frame is not None:
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package == "tensorflow" or package in _CALLERS:
            return package == "tensorflow"
        frame = frame.f_back
    return False


def end(message: str, code: int) -> NoReturn:
    """End this process with a message and an exit code."""
    print(message, file=sys.stderr)
    if code == LOST:
        quiet.silence_stderr()
    sys.exit(code)


def parse(argv: Sequence[str]) -> list[str]:
    """Parse the flags for `absl.app.run`, whose own exit code on errors, 1, invites a retry."""
    try:
        return list(flags.FLAGS(argv))
    except flags.Error as error:
        end(f"{argv[0]}: {error}; see --help.", WRONG)


@contextlib.contextmanager
def preparing(command: str = "train.py") -> Iterator[None]:
    """End this process with WRONG if a file or directory is unusable, or a package is missing.

    This is for preparations only: later errors may pass, since disks fill and networks come back.
    """
    try:
        yield
    except OSError as error:
        log.debug("", exc_info=True)
        end(f"{command}: {error}", WRONG)
    except ImportError as error:
        needs = "which the model, its data or a flag needs. Install requirements.lock."
        end(f"{command}: {error}" + (f", {needs}" if error.name else ""), WRONG)


@contextlib.contextmanager
def reporting_errors(
    go_on: str, command: str = "train.py", again: Callable[[BaseException, str], None] | None = None
) -> Iterator[None]:
    """End this process with a message and an exit code if an error would end it.

    Args:
      go_on: sentence about resuming, for messages about interruptions.
      command: name of the command, for error messages.
      again: called with the error and its message if the cluster is lost; starts the command
        again, or returns.
    """
    _reporting.set()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        _stop_alarm()
        kind = _signals[0] if _signals else type(error)
        if issubclass(kind, Terminated):
            end(f"Told to end.{go_on}", TERMINATED)
        if issubclass(kind, KeyboardInterrupt):
            end(f"Interrupted.{go_on}", FAILED)
        said, code = _message(error, go_on, command), _code(error)
        log.debug("", exc_info=error)
        if code == LOST and again is not None:
            again(error, said)
        end(said, code)
    finally:
        _reporting.clear()
        _stop_alarm()


def _message(error: BaseException, go_on: str, command: str) -> str:
    """Return an error as a message; reraise it if it is a bug."""
    if isinstance(error, (TfBackupError, ValueError, OSError)):
        return f"{command}: {error}"
    if not _is_tensorflows(error):
        raise error
    from tf_backup.actors.failures import GONE, gist

    said = f"{command}: TensorFlow raised {type(error).__name__}: {gist(error)}"
    if isinstance(error, GONE):
        said += (
            ". A task of the cluster went, or did not find another one: each must be there for "
            f"all others at its address in TF_CONFIG.{go_on}"
        )
    return said


def _is_tensorflows(error: BaseException) -> bool:
    """Return whether an error is TensorFlow's, without the import, which takes seconds."""
    tf = sys.modules.get("tensorflow")
    return tf is not None and isinstance(error, tf.errors.OpError)


def _code(error: BaseException) -> int:
    """Return the exit code for an error, which says whether to try again."""
    if isinstance(error, AnotherChief):
        # In a pod, the other chief may be the one before it, which is still ending.
        return LOST if tf_config.is_started_again() else WRONG
    if isinstance(error, ClusterError):
        return LOST
    # Bad input to a worker or an evaluation, such as a corrupt record, stays bad.
    cause = error.__cause__ if isinstance(error, WorkerFailed) else error
    if isinstance(cause, ValueError):
        return WRONG
    if cause is None or not _is_tensorflows(cause):
        return FAILED
    import tensorflow as tf

    from tf_backup.actors.failures import GONE

    if isinstance(error, GONE):
        return LOST
    same_again = (tf.errors.InvalidArgumentError, tf.errors.NotFoundError)
    return WRONG if isinstance(cause, same_again) else FAILED
