"""Callbacks see the same on the strategy as on one device.

With N = 1 and b = 0, worker 0 reads the batches that one device reads, so that every hook must be
called with the same numbers, and every callback must do the same. The models are built once and
reset before each test, since callbacks are tested here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_backup
from tests.extra import extra, with_extra

pytestmark = pytest.mark.parametrize("cluster", [(3, 2)], indirect=True)

STEPS = 4
EPOCHS = 4
RNG = np.random.default_rng(2)
X = RNG.normal(size=[STEPS * 4, 3]).astype(np.float32)
Y = (X @ [[1.0], [-2.0], [0.5]] + 0.3).astype(np.float32)
# One batch, since evaluation on all workers is one step, however many batches there are.
VALIDATION = (X[:4] + 1.0, Y[:4])


def train() -> tf.data.Dataset:
    """Return the data; called late, since TensorFlow misplaces tensors made before the cluster."""
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)


class Recorder(keras.callbacks.Callback):  # type: ignore[misc]
    """Records every call of a hook: name, epoch or batch, and logs."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, int | None, dict[str, Any]]] = []


def _recording(name: str) -> Callable[..., None]:
    def hook(self: Recorder, *args: Any, **kwargs: Any) -> None:
        logs = kwargs.get("logs", args[-1] if args else None)
        index = args[0] if args and isinstance(args[0], int) else None
        seen = {key: np.array(value) for key, value in (logs or {}).items()}
        self.events.append((name, index, seen))

    return hook


for _hook in [
    *(f"on_{mode}_{end}" for mode in ("train", "test", "predict") for end in ("begin", "end")),
    *(
        f"on_{mode}_batch_{end}"
        for mode in ("train", "test", "predict")
        for end in ("begin", "end")
    ),
    "on_epoch_begin",
    "on_epoch_end",
]:
    setattr(Recorder, _hook, _recording(_hook))


def assert_same_events(ours: Recorder, theirs: Recorder) -> None:
    names = [
        [(hook, index, sorted(logs)) for hook, index, logs in r.events] for r in (ours, theirs)
    ]
    assert names[0] == names[1]
    for (hook, index, mine), (_, _, other) in zip(ours.events, theirs.events, strict=True):
        for key, value in other.items():
            np.testing.assert_allclose(
                mine[key], value, rtol=1e-5, atol=1e-6, err_msg=f"{hook}({index}): {key}"
            )


def built(optimizer: Any, **options: Any) -> Any:
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, activation="tanh", name="hidden"),
            keras.layers.Dense(1, name="out"),
        ],
        name="small",
    )
    model.compile(optimizer, "mse", metrics=["mae"], **options)
    model.optimizer.build(model.trainable_variables)
    return model


def sgd() -> Any:
    return keras.optimizers.SGD(0.05, momentum=0.5)


class Sides:
    """A model on the strategy, and the same model on one device."""

    def __init__(self, strategy: Any, optimizer: Callable[[], Any] = sgd, **options: Any) -> None:
        with strategy.scope():
            # "keep": as on one device.
            wrapped = tf_backup.wrap(optimizer(), replicas=1, on_nonfinite="keep")
            self.ours = built(wrapped, **options)
        self.theirs = built(optimizer(), **options)
        self._start = [[v.numpy() for v in self._variables(model)] for model in self]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.ours, self.theirs))

    @staticmethod
    def _variables(model: Any) -> list[Any]:
        return [*model.variables, *model.optimizer.variables]

    def set_back(self) -> None:
        """Reset all variables to their initial values."""
        for model, values in zip(self, self._start, strict=True):
            for variable, value in zip(self._variables(model), values, strict=True):
                variable.assign(value)

    def fit(self, callbacks: Callable[[], list[Any]] = list, **options: Any) -> tuple[Any, Any]:
        """Train both, compare what callbacks see and the variables, and return the callbacks."""
        options = {"x": train(), "epochs": EPOCHS, "shuffle": False, "verbose": 0, **options}
        options.setdefault("validation_data", VALIDATION)
        made = []
        for model in self:
            made.append([*callbacks(), Recorder()])
            model.fit(callbacks=made[-1], **options)
        assert_same_events(made[0][-1], made[1][-1])
        self.assert_same_variables()
        return made[0], made[1]

    def assert_same_variables(self) -> None:
        for ours, theirs in zip(*map(self._variables, self), strict=True):
            np.testing.assert_allclose(
                ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6, err_msg=theirs.path
            )


@pytest.fixture(scope="module")
def made(cluster: tf_backup.LocalCluster) -> Sides:
    return Sides(cluster.strategy())


@pytest.fixture
def sides(made: Sides) -> Sides:
    made.set_back()
    return made


def hooks(recorder: Recorder) -> list[str]:
    return [hook for hook, _, _ in recorder.events]


# ---- Hooks ------------------------------------------------------------------------------------


def test_fit_calls_every_hook(sides: Sides) -> None:
    (recorder,), _ = sides.fit()
    seen = hooks(recorder)
    assert seen[0] == "on_train_begin" and seen[-1] == "on_train_end"
    assert seen.count("on_train_batch_end") == STEPS * EPOCHS
    assert seen.count("on_epoch_end") == seen.count("on_test_end") == EPOCHS


def both(sides: Sides, run: Callable[[Any, Recorder], None]) -> Recorder:
    """Run both models with a recorder, compare, and return ours."""
    recorders = []
    for model in sides:
        recorders.append(Recorder())
        run(model, recorders[-1])
    assert_same_events(*recorders)
    return recorders[0]


def test_evaluate_calls_every_hook(sides: Sides) -> None:
    recorder = both(sides, lambda model, r: model.evaluate(*VALIDATION, verbose=0, callbacks=[r]))
    assert hooks(recorder)[0] == "on_test_begin" and hooks(recorder)[-1] == "on_test_end"


def test_predict_calls_every_hook(sides: Sides) -> None:
    recorder = both(
        sides, lambda model, r: model.predict(X, batch_size=5, verbose=0, callbacks=[r])
    )
    assert hooks(recorder).count("on_predict_batch_begin") == 4
    assert hooks(recorder)[-1] == "on_predict_end"


def test_evaluation_of_many_batches_is_one_step(sides: Sides) -> None:
    """The one difference, which the documentation names."""
    recorder = Recorder()
    sides.ours.evaluate(train(), verbose=0, callbacks=[recorder])
    assert hooks(recorder) == [
        "on_test_begin",
        "on_test_batch_begin",
        "on_test_batch_end",
        "on_test_end",
    ]
    expected = sides.theirs.evaluate(train(), verbose=0, return_dict=True)
    for _, _, logs in recorder.events[2:]:
        assert {key: float(value) for key, value in logs.items()} == pytest.approx(expected, 1e-5)


def test_initial_epoch_and_steps_per_epoch(sides: Sides) -> None:
    (recorder,), _ = sides.fit(x=train().repeat(), steps_per_epoch=3, initial_epoch=2)
    assert [i for hook, i, _ in recorder.events if hook == "on_epoch_begin"] == [2, 3]


def test_data_of_unknown_length(sides: Sides) -> None:
    """The hook that begins a batch runs once more than the one that ends it, as on one device."""
    ours, theirs = Recorder(), Recorder()
    unknown = train().filter(lambda x, y: True)
    sides.ours.fit(lambda context: unknown, epochs=2, verbose=0, callbacks=[ours])
    with pytest.warns(UserWarning, match="ran out of data"):  # It does not know the length.
        sides.theirs.fit(unknown, epochs=2, shuffle=False, verbose=0, callbacks=[theirs])
    assert hooks(ours).count("on_train_batch_end") == 2 * STEPS
    assert_same_events(ours, theirs)


def test_steps_per_execution(strategy: Any) -> None:
    """Hooks run once every three updates."""
    sides = Sides(strategy, steps_per_execution=3)
    (recorder,), _ = sides.fit(x=train().repeat(), steps_per_epoch=6, epochs=2)
    ends = [index for hook, index, _ in recorder.events if hook == "on_train_batch_end"]
    assert ends == [2, 5, 2, 5]
    sides.set_back()
    recorder = Recorder()
    sides.ours.fit(train(), verbose=0, callbacks=[recorder])
    ends = [index for hook, index, _ in recorder.events if hook == "on_train_batch_end"]
    assert ends == [2, 3]  # One device reports 5 for the last of 4 updates.
    assert int(sides.ours.optimizer.iterations) == STEPS


def test_hooks_run_once_per_update_beside_backup_workers(strategy: Any) -> None:
    with strategy.scope():
        model = built(tf_backup.wrap(sgd(), replicas=2, backups=1))
    recorder, iterations = Recorder(), []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: iterations.append(int(model.optimizer.iterations))
    )
    model.fit(train().repeat(), steps_per_epoch=5, epochs=2, verbose=0, callbacks=[recorder, count])
    batches = [(hook, i) for hook, i, _ in recorder.events if "train_batch" in hook]
    once = [(f"on_train_batch_{end}", i) for i in range(5) for end in ("begin", "end")]
    assert batches == 2 * once
    assert iterations == list(range(1, 11))


def test_a_hook_that_runs_behind_may_settle_and_evaluate(sides: Sides) -> None:
    """Updates that have been made ahead of it stay the epoch's own, and each is seen."""
    model = sides.ours
    seen: list[int] = []

    class Behind(keras.callbacks.Callback):  # type: ignore[misc]
        runs_behind = True

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.append(batch)
            model.optimizer.settle()
            if batch == 1:
                model.evaluate(*VALIDATION, verbose=0)

    losses = model.fit(train(), epochs=3, verbose=0, callbacks=[Behind()]).history["loss"]
    assert seen == 3 * list(range(STEPS))
    assert int(model.optimizer.iterations) == 3 * STEPS
    assert all(losses)


# ---- Keras' callbacks -------------------------------------------------------------------------


def test_model_checkpoint_saves_the_best(sides: Sides, tmp_path: Path) -> None:
    """With this learning rate, the best epoch is not the last."""
    paths = iter([tmp_path / "ours", tmp_path / "theirs"])

    def callbacks() -> list[Any]:
        path = str(next(paths)) + "-{epoch}.weights.h5"
        best = keras.callbacks.ModelCheckpoint(path, save_best_only=True, save_weights_only=True)
        worse = keras.callbacks.LearningRateScheduler(lambda epoch: 0.05 if epoch < 2 else 3.0)
        return [best, worse]

    sides.fit(callbacks)
    names = sorted(path.name.removeprefix("theirs") for path in tmp_path.glob("theirs*"))
    assert sorted(path.name.removeprefix("ours") for path in tmp_path.glob("ours*")) == names
    assert 0 < len(names) < EPOCHS
    for model, path in zip(sides, ("ours", "theirs"), strict=True):
        model.load_weights(tmp_path / f"{path}{names[-1]}")
    sides.assert_same_variables()


def test_model_checkpoint_saves_every_few_batches(sides: Sides, tmp_path: Path) -> None:
    paths = iter([tmp_path / "ours", tmp_path / "theirs"])

    def callbacks() -> list[Any]:
        path = str(next(paths)) + "-{epoch}-{batch}.keras"
        return [keras.callbacks.ModelCheckpoint(path, save_freq=3)]

    sides.fit(callbacks)
    names = sorted(path.name.removeprefix("theirs") for path in tmp_path.glob("theirs*"))
    assert sorted(path.name.removeprefix("ours") for path in tmp_path.glob("ours*")) == names
    assert len(names) == EPOCHS * STEPS // 3
    for name in names:
        ours, theirs = (keras.models.load_model(tmp_path / (s + name)) for s in ("ours", "theirs"))
        for one, other in zip(Sides._variables(ours), Sides._variables(theirs), strict=True):
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("save_freq", with_extra(["epoch", 3], "epoch"))
def test_backup_and_restore(strategy: Any, tmp_path: Path, save_freq: Any) -> None:
    """Training that breaks off in epoch 2 is resumed from what was saved, including state."""
    sides = Sides(strategy)  # Not shared: Keras' models remember the epoch to resume at.

    class Break(keras.callbacks.Callback):  # type: ignore[misc]
        epoch = -1

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if (self.epoch, batch) == (2, 1):
                raise InterruptedError

    def backup(index: int) -> Any:
        return keras.callbacks.BackupAndRestore(str(tmp_path / str(index)), save_freq=save_freq)

    for index, model in enumerate(sides):
        with pytest.raises(InterruptedError):
            model.fit(
                train(), epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[backup(index), Break()]
            )
    sides.assert_same_variables()
    sides.set_back()
    indices = iter(range(2))
    (_, recorder), _ = sides.fit(lambda: [backup(next(indices))])
    epochs = [index for hook, index, _ in recorder.events if hook == "on_epoch_begin"]
    assert epochs[-1] == EPOCHS - 1 and epochs[0] > 0


def test_early_stopping_restores_the_best_weights(sides: Sides) -> None:
    def callbacks() -> list[Any]:
        worse = keras.callbacks.LearningRateScheduler(lambda epoch: 0.05 if epoch < 2 else 3.0)
        stop = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
        return [worse, stop]

    (_, ours, recorder), (_, theirs, _) = sides.fit(callbacks, epochs=20)
    assert (ours.stopped_epoch, ours.best_epoch) == (theirs.stopped_epoch, theirs.best_epoch)
    assert 0 < ours.best_epoch < ours.stopped_epoch < 19
    best = [logs for hook, _, logs in recorder.events if hook == "on_epoch_end"][ours.best_epoch]
    found = sides.ours.evaluate(*VALIDATION, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(float(best["val_loss"]), rel=1e-5)


def test_reduce_learning_rate_on_plateau(sides: Sides) -> None:
    def callbacks() -> list[Any]:
        return [keras.callbacks.ReduceLROnPlateau(min_delta=1e3, patience=1, factor=0.1)]

    sides.fit(callbacks)
    assert float(sides.ours.optimizer.learning_rate) == pytest.approx(0.05 * 0.1**3)


def test_learning_rate_scheduler(sides: Sides) -> None:
    def callbacks() -> list[Any]:
        return [keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)]

    (_, recorder), _ = sides.fit(callbacks)
    rates = [
        float(logs["learning_rate"]) for hook, _, logs in recorder.events if hook == "on_epoch_end"
    ]
    assert rates == pytest.approx([0.05 * 0.5**epoch for epoch in range(1, EPOCHS + 1)])


def summaries(directory: Path) -> dict[tuple[str, str, int], Any]:
    """Return the values in TensorBoard's files by run, tag and step."""
    found = {}
    for path in sorted(directory.rglob("*tfevents*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                if value.HasField("tensor") and value.tag != "keras":
                    where = (path.parent.name, value.tag, event.step)
                    found[where] = tf.make_ndarray(value.tensor)
    return found


def test_tensorboard(sides: Sides, tmp_path: Path) -> None:
    paths = iter([tmp_path / "ours", tmp_path / "theirs"])

    def callbacks() -> list[Any]:
        return [keras.callbacks.TensorBoard(str(next(paths)), histogram_freq=1, update_freq=1)]

    sides.fit(callbacks)
    ours, theirs = summaries(tmp_path / "ours"), summaries(tmp_path / "theirs")
    timings = {tag for _, tag, _ in theirs if "per_second" in tag}
    assert set(ours) == set(theirs)
    tags = {(run, tag) for run, tag, _ in ours}
    assert {("train", "epoch_loss"), ("validation", "epoch_mae"), ("train", "batch_loss")} <= tags
    for name in ("kernel", "bias"):  # Keras 3.12 has no names of layers.
        assert any(run == "train" and tag.endswith(f"{name}/histogram") for run, tag in tags), tags
    assert sorted(s for _, tag, s in ours if tag == "batch_loss") == list(
        range(1, STEPS * EPOCHS + 1)
    )
    for where, value in theirs.items():
        if where[1] not in timings and value.dtype.kind == "f":
            # Bin counts of a histogram depend on its bounds, so only its range is compared.
            part = ... if value.ndim == 0 else np.s_[[0, -1], :2]
            np.testing.assert_allclose(
                ours[where][part], value[part], rtol=1e-4, atol=1e-5, err_msg=str(where)
            )


@extra
def test_tensorboard_profiles_the_chief(strategy: Any, tmp_path: Path) -> None:
    """It waits for all pending work, and the workers' loops are always pending."""
    with strategy.scope():
        model = built(tf_backup.wrap(sgd(), replicas=2, backups=1))
    board = keras.callbacks.TensorBoard(str(tmp_path), profile_batch=(2, 4), histogram_freq=1)
    model.fit(train().repeat(), steps_per_epoch=6, epochs=2, verbose=0, callbacks=[board])
    assert int(model.optimizer.iterations) == 12
    assert list(tmp_path.glob("**/*.xplane.pb"))


def test_csv_logger(sides: Sides, tmp_path: Path) -> None:
    paths = iter([tmp_path / "ours", tmp_path / "theirs"])
    sides.fit(lambda: [keras.callbacks.CSVLogger(str(next(paths)))])
    ours, theirs = ((tmp_path / name).read_text().splitlines() for name in ("ours", "theirs"))
    assert ours[0] == theirs[0] == "epoch,loss,mae,val_loss,val_mae"
    numbers = [np.loadtxt(rows[1:], delimiter=",") for rows in (ours, theirs)]
    assert numbers[0].shape == (EPOCHS, 5)
    np.testing.assert_allclose(numbers[0], numbers[1], rtol=1e-5)


def test_terminate_on_nan(sides: Sides) -> None:
    broken = Y.copy()
    broken[9] = np.nan  # In the third batch.
    data = tf.data.Dataset.from_tensor_slices((X, broken)).batch(4)
    (_, recorder), _ = sides.fit(lambda: [keras.callbacks.TerminateOnNaN()], x=data)
    assert hooks(recorder).count("on_train_batch_end") == 3
    assert hooks(recorder).count("on_epoch_end") == 1


def test_lambda_callback_changes_weights_in_mid_epoch(sides: Sides) -> None:
    """The next update applies a gradient at the old weights to the new ones."""
    model = sides.ours

    def halve(batch: int, logs: Any = None) -> None:
        if batch == 1:
            model.set_weights([weight * 0.5 for weight in model.get_weights()])

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=halve)
    model.fit(train(), verbose=0, callbacks=[callback])
    plain = sides.theirs
    for batch, (x, y) in enumerate(train()):
        with tf.GradientTape() as tape:
            loss = plain.compute_loss(x, y, plain(x, training=True))
        gradients = tape.gradient(loss, [v.value for v in plain.trainable_variables])
        if batch == 2:
            plain.set_weights([weight * 0.5 for weight in plain.get_weights()])
        plain.optimizer.apply(gradients, plain.trainable_variables)
    for ours, theirs in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_lambda_callback_changes_weights_between_epochs(sides: Sides) -> None:
    models = iter(sides)

    def callbacks() -> list[Any]:
        model = next(models)

        def halve(epoch: int, logs: Any) -> None:
            model.set_weights([weight * 0.5 for weight in model.get_weights()])

        return [keras.callbacks.LambdaCallback(on_epoch_end=halve)]

    sides.fit(callbacks)


def test_validation_sees_the_averages(strategy: Any) -> None:
    """`SwapEMAWeights`: the moving averages are evaluated and saved, as in the paper."""

    def averaging() -> Any:
        return keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.8)

    sides = Sides(strategy, averaging)
    (_, recorder), _ = sides.fit(lambda: [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)])
    averages = [v.numpy() for v in sides.ours.optimizer._model_variables_moving_average]
    for weight, average in zip(sides.ours.get_weights(), averages, strict=True):
        np.testing.assert_allclose(weight, average, rtol=1e-6)
    assert hooks(recorder).count("on_test_end") == EPOCHS


def shown(text: str) -> list[str]:
    """Return the lines of a progress bar, without colours, bars and times."""
    text = re.sub(r"\x1b\[[0-9;]*m|\x08", "", text)
    text = re.sub(r"[━╸]+", " ", text)
    text = re.sub(r"\d+(\.\d+)?(:\d+)*[muµ]?s(/(step|epoch))?|\d+:\d+", "", text)
    parts = [re.sub(r"\s+", " ", part).strip() for part in re.split(r"[\r\n]", text)]
    return [part for part in parts if part]


def test_progress_bar(sides: Sides, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It draws every 50 ms, but here at every step."""
    always = functools.partialmethod(keras.utils.Progbar.__init__, interval=0)
    monkeypatch.setattr(keras.utils.Progbar, "__init__", always)
    outputs = []
    for model in sides:
        model.fit(train(), epochs=2, shuffle=False, verbose=1, validation_data=VALIDATION)
        outputs.append(shown(capsys.readouterr().out))
    assert outputs[0] == outputs[1]
    steps = [line.split()[0] for line in outputs[0] if re.match(rf"\d+/{STEPS}", line)]
    assert set(steps) == {f"{i + 1}/{STEPS}" for i in range(STEPS)}
    assert any("val_mae" in line for line in outputs[0])
