"""How a command ends: a line for people, and a code for who might start it again."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

from absl import flags

from tf_backup import quiet
from tf_backup.errors import ClusterError, TfBackupError, WorkerFailed

FAILED = 1
WRONG = 2  # Flags, data or TF_CONFIG: wrong the next time, too. The manifests' Jobs end with it.
LOST = 138  # The cluster: try again. Kubeflow's operator does so after codes above 127 only.
TOLD_TO_END = 143  # As of a process that ends at SIGTERM.

log = logging.getLogger(__name__)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a training as Ctrl-C does."""


_told: list[type[KeyboardInterrupt]] = []  # By signals, so far.

_CALLERS = {"keras", "models", "scripts", "tf_backup", "__main__"}  # Of TensorFlow.
_AGAIN_S = 0.02  # Until a signal that came within TensorFlow is looked at again,
_WITHIN_S = 1.0  # and for so long.


def at_signals() -> None:
    """Lets SIGTERM raise `Terminated` from here on, and Ctrl-C `KeyboardInterrupt`.

    Raises after TensorFlow's own code, not within it, unless that takes longer than a second: its
    C++ calls Python, and prints or replaces what is raised there. What Python cannot raise, in the
    call of a destructor for instance, is raised again a moment later. Whatever else is raised after
    a signal comes of it, too: one of twenty interrupts ended as if a flag were wrong.
    """

    def tell(kind: type[KeyboardInterrupt]) -> Any:
        def handler(signum: int, frame: FrameType | None) -> None:
            del signum
            _told.append(kind)
            _raise_after_tensorflow(frame, time.monotonic() + _WITHIN_S)

        handler.raises = True  # type: ignore[attr-defined]  # It may be called again.
        return handler

    signal.signal(signal.SIGTERM, tell(Terminated))
    signal.signal(signal.SIGINT, tell(KeyboardInterrupt))
    before = sys.unraisablehook

    def unraisable(seen: Any) -> None:
        if _told and issubclass(seen.exc_type, KeyboardInterrupt):
            _raise_later(time.monotonic() + _WITHIN_S)
        else:
            before(seen)

    sys.unraisablehook = unraisable


def _raise_after_tensorflow(frame: FrameType | None, deadline: float) -> None:
    """Raises what the first signal is to raise; later, by an alarm, if TensorFlow runs now."""
    if _within_tensorflow(frame) and time.monotonic() < deadline:
        _raise_later(deadline)
        return
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    raise _told[0]


def _raise_later(deadline: float) -> None:
    """Tries again in a moment."""

    def again(signum: int, frame: FrameType | None) -> None:
        del signum
        _raise_after_tensorflow(frame, deadline)

    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)


def _within_tensorflow(frame: FrameType | None) -> bool:
    """Returns whether TensorFlow runs, or what it has called of Python's own library."""
    while frame is not None:
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package == "tensorflow" or package in _CALLERS:
            return package == "tensorflow"
        frame = frame.f_back
    return False


def end(message: str, code: int) -> NoReturn:
    """Ends this process."""
    print(message, file=sys.stderr)
    if code == LOST:
        quiet.silence_stderr()
    sys.exit(code)


def parse(argv: Sequence[str]) -> list[str]:
    """Reads the flags; for `absl.app.run`, which would end with the code of what is worth a try."""
    try:
        return list(flags.FLAGS(argv))
    except flags.Error as error:
        end(f"{argv[0]}: {error}; see --help.", WRONG)


@contextlib.contextmanager
def preparing(command: str = "train.py") -> Iterator[None]:
    """Ends this process where a file or directory is not as it should be, or no package is there.

    After the beginning that is another matter: disks fill, and networks come back.
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
def told(go_on: str, command: str = "train.py") -> Iterator[None]:
    """Ends this process with a line and a code where an error would end it.

    Args:
      go_on: what to say of going on after an interruption.
      command: whose errors these are.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        kind = _told[0] if _told else type(error)
        if issubclass(kind, Terminated):
            end(f"Told to end.{go_on}", TOLD_TO_END)
        if issubclass(kind, KeyboardInterrupt):
            end(f"Interrupted.{go_on}", FAILED)
        _end_with(error, go_on, command)


def _end_with(error: BaseException, go_on: str, command: str) -> NoReturn:
    """Ends this process with a line and a code; raises what is a mistake of the program's."""
    if isinstance(error, (TfBackupError, ValueError, OSError)):
        log.debug("", exc_info=error)
        end(f"{command}: {error}", _code(error))
    if not _is_tensorflows(error):
        raise error
    from tf_backup.actors.failures import GONE, gist

    log.debug("", exc_info=error)
    said = f"{command}: TensorFlow raised {type(error).__name__}: {gist(error)}"
    if isinstance(error, GONE):
        said += (
            ". A task of the cluster went, or did not find another one: each must be there for "
            f"all others at its address in TF_CONFIG.{go_on}"
        )
    end(said, _code(error))


def _is_tensorflows(error: BaseException) -> bool:
    """Returns whether TensorFlow raised an error; does not import it, which takes seconds."""
    tf = sys.modules.get("tensorflow")
    return tf is not None and isinstance(error, tf.errors.OpError)


def _code(error: BaseException) -> int:
    """Returns whether to try again after an error, as the code to end with."""
    if isinstance(error, ClusterError):
        return LOST
    # What a worker or an evaluation reads or computes does not get better: a corrupt record.
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
