"""Training that is cut off anywhere and resumed, on one device, always with the same batch.

After a restart, data come in another order. With a single batch, training that was cut off must
have the same result as training that was not.
"""

from __future__ import annotations

import csv
import dataclasses
import errno
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from scripts.training import checkpoints, resumable
from scripts.training.plans import Plan
from scripts.training.recipe import LinearAtEnd, Recipe
from scripts.training.resumable import Run
from tests.extra import with_extra

pytestmark = pytest.mark.slow  # Computes for seconds.

EPOCH, UPDATES = 4, 10
RECIPE = Recipe(
    "tiny", "Adam", 0.05, batch_size=8, replicas=1, backups=0, updates=UPDATES,
    decay=LinearAtEnd(0.9),
)  # fmt: skip
AVERAGED = dataclasses.replace(RECIPE, ema=0.8, clip=1.0)


class Interrupt(keras.callbacks.Callback):
    """Interrupts training in a callback hook, at a number of updates."""

    def __init__(self, hook: str, updates: int) -> None:
        super().__init__()
        self._updates = updates
        setattr(self, hook, self._raise_if_there)

    def _raise_if_there(self, *_: Any, **__: Any) -> None:
        if int(self.model.optimizer.iterations) == self._updates:
            raise KeyboardInterrupt


def plan(recipe: Recipe = AVERAGED, updates: int = UPDATES) -> Plan:
    return Plan("tiny", recipe, 1, updates, 4.0, EPOCH)


def examples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, 3)).astype(np.float32), rng.normal(size=(8, 1)).astype(np.float32)


def run_of(plan: Plan, directory: Path | None, *, every_s: float = 1e9, seed: int = 0) -> Run:
    """Return a run as scripts/train.py makes it; the seed sets the initial weights."""
    if directory is not None:
        resumable.claim(str(directory), plan)
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)]
    model = keras.Sequential(layers, name="tiny")
    # Eagerly, since tracing three functions takes longer than ten updates.
    model.compile(plan.optimizer(), "mse", run_eagerly=True)
    return Run(model, plan, None if directory is None else str(directory), False, every_s)


def train(run: Run, interrupt: Interrupt | None = None) -> None:
    """Train as scripts/train.py does."""
    if interrupt is not None:
        run._callbacks.append(interrupt)
    data = tf.data.Dataset.from_tensors(examples()).repeat()
    held_out = tf.data.Dataset.from_tensors(examples())
    try:
        run.train(lambda start: data, held_out)
    except KeyboardInterrupt:
        run.save()
        raise


def state(run: Run) -> list[np.ndarray]:
    """Return the state of training: weights and optimizer state."""
    model = run.model
    return [each.numpy() for each in [*model.weights, *model.optimizer.variables]]


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check_same(run: Run, other: Run, exact: bool = True) -> None:
    for mine, theirs in zip(state(run), state(other), strict=True):
        if exact:
            np.testing.assert_array_equal(mine, theirs)
        else:
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def whole() -> Callable[[Recipe], Run]:
    """Return a function that returns a run that was not cut off."""
    found: dict[bool, Run] = {}

    def of(recipe: Recipe) -> Run:
        key = recipe.ema is not None
        if key not in found:
            found[key] = run_of(plan(recipe), None)
            train(found[key])
        return found[key]

    return of


MOMENTS = [
    (RECIPE, "on_train_batch_end", 6),
    (AVERAGED, "on_train_batch_end", 1),
    (AVERAGED, "on_train_batch_end", 4),
    (AVERAGED, "on_train_batch_end", 6),
    (AVERAGED, "on_train_batch_end", 10),
    (AVERAGED, "on_test_begin", 4),
    (AVERAGED, "on_test_end", 10),
]


@pytest.mark.parametrize(
    ("recipe", "hook", "updates"),
    with_extra(MOMENTS, *MOMENTS[:3]),
)
def test_goes_on_from_where_it_was_cut_off(
    tmp_path: Path, whole: Callable[[Recipe], Run], hook: str, updates: int, recipe: Recipe
) -> None:
    first = run_of(plan(recipe), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(first, Interrupt(hook, updates))
    second = run_of(plan(recipe), tmp_path, seed=1)
    assert second.start == updates
    expected = plan(recipe).optimizer()
    expected.iterations.assign(updates)
    assert float(second.model.optimizer.learning_rate) == float(expected.learning_rate)
    train(second)
    check_same(second, whole(recipe))
    assert second.logs["val_loss"] == pytest.approx(whole(recipe).logs["val_loss"])
    assert [(row["epoch"], row["updates"]) for row in rows(tmp_path)] == [
        ("0", "4"),
        ("1", "8"),
        ("2", "10"),
    ]


def test_cut_off_in_each_epoch_it_goes_on_each_time(
    tmp_path: Path, whole: Callable[[Recipe], Run]
) -> None:
    for hook, updates in (("train_batch", 2), ("epoch", 4), ("train_batch", 5), ("test", 10)):
        with pytest.raises(KeyboardInterrupt):
            train(run_of(plan(), tmp_path, seed=updates - 2), Interrupt(f"on_{hook}_end", updates))
    last = run_of(plan(), tmp_path)
    train(last)
    check_same(last, whole(AVERAGED), exact=False)


def test_killed_it_goes_on_from_the_last_checkpoint(
    tmp_path: Path, whole: Callable[[Recipe], Run]
) -> None:
    class Killed(BaseException):
        pass

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if int(self.model.optimizer.iterations) == 7:
                raise Killed

    first = run_of(plan(), tmp_path)
    with pytest.raises(Killed):
        train(first, Kill())
    second = run_of(plan(), tmp_path, seed=1)
    assert second.start == 4
    train(second)
    check_same(second, whole(AVERAGED), exact=False)
    assert [row["updates"] for row in rows(tmp_path)] == ["4", "8", "10"]


def test_a_truncated_newest_checkpoint_costs_an_epoch(
    tmp_path: Path, whole: Callable[[Recipe], Run]
) -> None:
    train(run_of(plan(), tmp_path))
    os.truncate(resumable.checkpoints_of(str(tmp_path)).path(UPDATES), 100)
    run = run_of(plan(), tmp_path, seed=1)
    assert run.start == 8
    train(run)
    check_same(run, whole(AVERAGED), exact=False)
    assert [row["updates"] for row in rows(tmp_path)] == ["4", "8", "10"]


@pytest.mark.parametrize(
    ("full_at", "number"), [(4, errno.ENOSPC), (UPDATES, errno.ENOSPC), (4, errno.EROFS)]
)
def test_a_full_or_read_only_disk_costs_a_checkpoint_and_not_the_training(
    tmp_path: Path,
    whole: Callable[[Recipe], Run],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    full_at: int,
    number: int,
) -> None:
    run = run_of(plan(), tmp_path)
    reserve = checkpoints._reserve

    def full(path: str, size: int) -> None:
        if int(run.model.optimizer.iterations) == full_at:
            raise OSError(number, os.strerror(number), path)
        reserve(path, size)

    monkeypatch.setattr(checkpoints, "_reserve", full)
    last = full_at == UPDATES
    with pytest.raises(OSError, match="All 10 updates were made, but") if last else nullcontext():
        train(run)
    newest = 8 if last else 0
    assert f"No checkpoint after {full_at} updates: " in caplog.text
    assert os.strerror(number) in caplog.text
    assert f"the newest checkpoint is that after {newest} updates" in caplog.text
    check_same(run, whole(AVERAGED), exact=True)
    assert resumable.checkpoints_of(str(tmp_path)).steps() == ([4, 8] if last else [8, UPDATES])
    monkeypatch.undo()
    again = run_of(plan(), tmp_path, seed=1)
    assert again.start == (8 if last else UPDATES)
    train(again)
    check_same(again, whole(AVERAGED), exact=False)
    assert [row["updates"] for row in rows(tmp_path)] == ["4", "8", "10"]


def fails_once() -> Callable[[str, int], None]:
    """Return a replacement for what reserves room on the disk, which at first finds none."""
    calls: list[str] = []

    def reserve(path: str, size: int) -> None:
        del size
        calls.append(path)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    return reserve


@pytest.mark.parametrize(
    ("hook", "saved"), [("on_test_batch_end", []), ("on_test_end", []), ("on_epoch_end", [4])]
)
def test_averages_that_are_being_validated_are_not_saved_as_weights(
    tmp_path: Path,
    whole: Callable[[Recipe], Run],
    monkeypatch: pytest.MonkeyPatch,
    hook: str,
    saved: list[int],
) -> None:
    """They were, if the disk was full at the end of the epoch, and training was interrupted."""
    monkeypatch.setattr(checkpoints, "_reserve", fails_once())
    with pytest.raises(KeyboardInterrupt):
        train(run_of(plan(), tmp_path), Interrupt(hook, 4))
    assert resumable.checkpoints_of(str(tmp_path)).steps() == saved
    again = run_of(plan(), tmp_path)
    train(again)
    check_same(again, whole(AVERAGED), exact=False)


def test_saves_from_time_to_time_in_an_epoch(tmp_path: Path) -> None:
    run = run_of(plan(), tmp_path, every_s=0.0)
    with pytest.raises(KeyboardInterrupt):
        train(run, Interrupt("on_train_batch_end", 3))
    assert resumable.checkpoints_of(str(tmp_path)).steps() == [1, 2, 3]


@pytest.mark.parametrize("recipe", [RECIPE, AVERAGED], ids=["plain", "averaged"])
def test_a_training_that_has_ended_is_evaluated_as_it_was(tmp_path: Path, recipe: Recipe) -> None:
    first = run_of(plan(recipe), tmp_path)
    train(first)
    for seed in (1, 2):
        again = run_of(plan(recipe), tmp_path, seed=seed)
        assert again.start == UPDATES
        train(again)
        assert again.logs == {"val_loss": pytest.approx(first.logs["val_loss"])}
        assert again.seconds == 0.0
        check_same(again, first, exact=False)
    assert len(rows(tmp_path)) == 3


def test_cut_off_in_that_evaluation_the_last_checkpoint_is_as_it_was(tmp_path: Path) -> None:
    train(run_of(plan(), tmp_path))
    path = Path(resumable.checkpoints_of(str(tmp_path)).path(UPDATES))
    before = path.read_bytes()
    run = run_of(plan(), tmp_path)
    run._averages.append(Interrupt("on_test_begin", UPDATES))
    with pytest.raises(KeyboardInterrupt):
        train(run)
    assert path.read_bytes() == before


def test_more_updates_go_on_from_the_trained_weights_not_their_averages(tmp_path: Path) -> None:
    constant = dataclasses.replace(AVERAGED, optimizer="SGD", decay=LinearAtEnd(1e-6))
    train(run_of(plan(constant), tmp_path))
    more = run_of(plan(constant, 13), tmp_path)
    assert more.start == UPDATES
    train(more)
    assert resumable.plan_of(str(tmp_path)).updates == 13
    whole = run_of(plan(constant, 13), None)
    train(whole)
    check_same(more, whole, exact=False)


def test_the_averages_are_what_is_validated_and_left(tmp_path: Path) -> None:
    run = run_of(plan(), tmp_path)
    train(run)
    averages = run.model.optimizer._model_variables_moving_average
    for weights, average in zip(run.model.trainable_variables, averages, strict=True):
        np.testing.assert_array_equal(weights.numpy(), average.numpy())
    loss = run.model.evaluate(*examples(), verbose=0)
    assert run.logs["val_loss"] == pytest.approx(loss, rel=1e-5)
    # The file has the trained weights.
    other = run_of(plan(), tmp_path)
    assert not np.array_equal(other.model.get_weights()[0], run.model.get_weights()[0])


def test_checkpoints_are_of_the_trained_weights_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    train(run_of(plan(), tmp_path))
    files = resumable.checkpoints_of(str(tmp_path))
    plain = run_of(plan(dataclasses.replace(AVERAGED, ema=None)), None)
    with pytest.raises(KeyboardInterrupt):
        train(plain, Interrupt("on_train_batch_end", 4))
    saved = run_of(plan(), None)
    files.load(saved.model, 4)
    for mine, theirs in zip(saved.model.get_weights(), plain.model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_data_are_asked_for_by_the_updates_made(tmp_path: Path) -> None:
    asked = []
    data = tf.data.Dataset.from_tensors(examples()).repeat()

    def of(start: int) -> tf.data.Dataset:
        asked.append(start)
        return data

    with pytest.raises(KeyboardInterrupt):
        train(run_of(plan(), tmp_path), Interrupt("on_train_batch_end", 3))
    run_of(plan(), tmp_path).train(of, tf.data.Dataset.from_tensors(examples()))
    assert asked == [3, 4, 8]


def test_curves_are_by_epoch(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(run_of(plan(), tmp_path), Interrupt("on_train_batch_end", 6))
    train(run_of(plan(), tmp_path))
    for part in ("train", "validation"):
        found = []
        for path in (tmp_path / part).glob("events*"):
            for record in tf.data.TFRecordDataset(str(path)):
                event = tf.compat.v1.Event.FromString(record.numpy())
                tags = [value.tag for value in event.summary.value]
                found += [(event.wall_time, event.step)] * tags.count("epoch_loss")
        assert [step for _, step in sorted(found)] == [0, 1, 2]


# ---- Claimed directories ----------------------------------------------------------------------


def test_another_trainings_directory_is_refused(tmp_path: Path) -> None:
    resumable.claim(str(tmp_path), plan())
    other = dataclasses.replace(plan(), model="other", replicas=2)
    with pytest.raises(ValueError, match="with model tiny and not other, replicas 1 and not 2"):
        resumable.claim(str(tmp_path), other)
    with pytest.raises(ValueError, match=r"batch_size 8 and not 4 .*plan\.json"):
        resumable.claim(str(tmp_path), plan(dataclasses.replace(AVERAGED, batch_size=4)))
    assert resumable.plan_of(str(tmp_path)) == plan()


def test_lists_and_tuples_are_the_same_settings(tmp_path: Path) -> None:
    sized = dataclasses.replace(AVERAGED, sizes={"modules": (1, 1, 1)})
    resumable.claim(str(tmp_path), plan(sized))
    resumable.claim(str(tmp_path), plan(sized))
    assert list(resumable.plan_of(str(tmp_path)).recipe.sizes["modules"]) == [1, 1, 1]


def test_a_directory_without_a_training(tmp_path: Path) -> None:
    assert not resumable.is_claimed(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"has no plan\.json: it is not the --log_dir"):
        resumable.plan_of(str(tmp_path))


DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda data: b"",
    lambda data: b"[]",
    lambda data: data[: len(data) // 2],
    lambda data: data[:-2],
    lambda data: bytes(byte ^ 0xFF for byte in data),
]
OTHER = plan(dataclasses.replace(AVERAGED, batch_size=4))


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_copy_of_a_damaged_plan_is_used(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    resumable.claim(str(tmp_path), plan())
    path = tmp_path / "plan.json"
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    assert resumable.plan_of(str(tmp_path)) == plan()
    with pytest.raises(ValueError, match="batch_size 8 and not 4"):  # Never silently another one.
        resumable.claim(str(tmp_path), OTHER)
    path.write_bytes(damaged)
    caplog.clear()
    resumable.claim(str(tmp_path), plan())
    assert "plan.json is damaged; it is " in caplog.text and "Its copy is used." in caplog.text
    assert path.with_name("plan.json.damaged").read_bytes() == damaged
    assert path.read_text() == plan().to_json()


@pytest.mark.parametrize("damage", DAMAGES)
def test_if_both_are_damaged_the_commands_plan_is_used_and_the_log_says_so(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    resumable.claim(str(tmp_path), plan())
    for path in (tmp_path / "plan.json", tmp_path / "checkpoints" / "plan.json"):
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"plan\.json cannot be read .* Give another --log_dir"):
        resumable.plan_of(str(tmp_path))
    resumable.claim(str(tmp_path), plan())
    assert "Goes on with the settings of this command" in caplog.text
    assert resumable.plan_of(str(tmp_path)) == plan()


def test_a_plan_of_another_version_is_refused(tmp_path: Path) -> None:
    text = '{"recipe": {"name": "tiny"}, "more": 2}'
    (tmp_path / "plan.json").write_text(text)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"plan\.json cannot be read .* of another version"):
            resumable.claim(str(tmp_path), plan())
    assert (tmp_path / "plan.json").read_text() == text


def test_a_training_is_complete_when_its_last_update_is_saved_and_validated(tmp_path: Path) -> None:
    assert not resumable.is_complete(str(tmp_path), plan())
    with pytest.raises(KeyboardInterrupt):  # Saved, but not validated.
        train(run_of(plan(), tmp_path), Interrupt("on_test_begin", UPDATES))
    assert resumable.checkpoints_of(str(tmp_path)).steps()[-1] == UPDATES
    assert not resumable.is_complete(str(tmp_path), plan())
    train(run_of(plan(), tmp_path))
    assert resumable.is_complete(str(tmp_path), plan())
    assert not resumable.is_complete(str(tmp_path), plan(updates=2 * UPDATES))
    (tmp_path / "history.csv").unlink()
    assert not resumable.is_complete(str(tmp_path), plan())
