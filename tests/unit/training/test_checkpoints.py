from __future__ import annotations

import contextlib
import os
import resource
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from scripts.training.checkpoints import Checkpoints


def model_after(updates: int, units: int = 2, value: float | None = None) -> Any:
    """Return a model after some updates, whose weights are all `value` (default: `updates`)."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)], name="tiny")
    model.compile(keras.optimizers.Adam(), "mse")
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(updates)
    for variable in model.trainable_variables:
        variable.assign(np.full(variable.shape, updates if value is None else value))
    return model


def value_of(model: Any) -> float:
    """Return the value of all weights, which must be equal."""
    (value,) = {float(each) for weights in model.get_weights() for each in np.ravel(weights)}
    return value


def truncate(path: str, size: int = 1000) -> None:
    content = Path(path).read_bytes()
    assert len(content) > size
    Path(path).write_bytes(content[:size])


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(str(tmp_path / "checkpoints"))


def test_there_are_none_at_first(checkpoints: Checkpoints) -> None:
    assert checkpoints.steps() == []
    model = model_after(0, value=5.0)
    assert checkpoints.restore(model) == 0
    assert value_of(model) == 5.0


def test_the_newest_is_restored_with_the_optimizers_state(checkpoints: Checkpoints) -> None:
    first = model_after(7)
    first.optimizer.variables[2].assign(np.full(first.optimizer.variables[2].shape, 0.5))
    for model in (model_after(3), first):
        checkpoints.save(model)
    model = model_after(0)
    assert checkpoints.restore(model) == 7
    assert value_of(model) == 7.0
    assert int(model.optimizer.iterations) == 7
    for mine, theirs in zip(model.optimizer.variables, first.optimizer.variables, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())


def test_an_optimizer_that_is_not_built_gets_its_state(checkpoints: Checkpoints) -> None:
    checkpoints.save(model_after(7))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name="tiny")
    model.compile(keras.optimizers.Adam(), "mse")
    assert checkpoints.restore(model) == 7
    assert int(model.optimizer.iterations) == 7


def test_three_are_kept(checkpoints: Checkpoints) -> None:
    for updates in (1, 20, 3, 1000, 4):
        checkpoints.save(model_after(updates))
    assert checkpoints.steps() == [4, 20, 1000]


def test_a_file_has_its_name_when_it_is_whole(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save(model_after(1))
    model = model_after(2)
    seen = []

    def cut_off(path: str, overwrite: bool) -> None:
        del overwrite
        Path(path).write_bytes(b"a part")
        seen.append(checkpoints.steps())
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "save_weights", cut_off)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(model)
    assert seen == [[1]]
    assert checkpoints.steps() == [1]
    monkeypatch.undo()
    checkpoints.save(model)  # What is left of the first try does no harm.
    assert checkpoints.restore(model_after(0)) == 2


@pytest.mark.parametrize("size", [0, 1000])
def test_a_truncated_file_is_left_out(
    checkpoints: Checkpoints, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    for updates in (1, 2, 3):
        checkpoints.save(model_after(updates))
    newest = checkpoints.path(3)
    for updates in (2, 3):
        truncate(checkpoints.path(updates), size)
    model = model_after(0)
    assert checkpoints.restore(model) == 1
    assert value_of(model) == 1.0
    assert f"{newest} cannot be read" in caplog.text
    assert "older one" in caplog.text


def damage(path: str, kind: str, seed: int) -> None:
    """Truncate a file, or flip 200 of its bytes."""
    content = bytearray(Path(path).read_bytes())
    if kind == "flipped":
        for place in np.random.default_rng(seed).choice(len(content), 200, replace=False):
            content[place] ^= 0xFF
    else:
        length = {"1 KiB": 1024, "half": len(content) // 2, "all but one": len(content) - 1}[kind]
        del content[length:]
    Path(path).write_bytes(content)


@pytest.mark.parametrize("kind", ["1 KiB", "half", "all but one", "flipped"])
def test_a_damaged_file_is_never_used(
    checkpoints: Checkpoints, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.save(model_after(1))
    checkpoints.save(model_after(2))
    path = Path(checkpoints.path(2))
    whole, model = path.read_bytes(), model_after(0)
    for seed in range(50 if kind == "flipped" else 1):
        damage(str(path), kind, seed)
        assert checkpoints.restore(model) == 1
        assert value_of(model) == 1.0
        assert f"{path} cannot be read (it is damaged: the checksum" in caplog.text
        assert not path.exists()
        assert Path(f"{path}.unreadable").exists()
        path.write_bytes(whole)
    assert checkpoints.restore(model) == 2


def test_a_file_without_a_checksum_is_used(checkpoints: Checkpoints) -> None:
    path = Path(checkpoints.save(model_after(7)))
    path.rename(path.with_name("000000007.weights.h5"))  # The name in version 0.1.0.
    model = model_after(0)
    assert checkpoints.restore(model) == 7
    assert value_of(model) == 7.0
    checkpoints.save(model_after(7, value=8.0))
    assert checkpoints.restore(model) == 7
    assert value_of(model) == 8.0
    assert len(list(Path(checkpoints.directory).iterdir())) == 1


@contextlib.contextmanager
def room(size: int) -> Iterator[None]:
    """Limit the size of files that this process writes, like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_where_there_is_no_room_what_there_was_is_kept(checkpoints: Checkpoints) -> None:
    checkpoints.save(model_after(1))
    before = os.listdir(checkpoints.directory)
    with room(2**16), pytest.raises(OSError, match=r"File too large: .*partial"):
        checkpoints.save(model_after(2))
    assert os.listdir(checkpoints.directory) == before
    checkpoints.save(model_after(2))
    assert checkpoints.steps() == [1, 2]


def test_after_a_truncated_file_new_ones_are_kept(checkpoints: Checkpoints) -> None:
    for updates in (7, 8, 9):
        checkpoints.save(model_after(updates))
    for updates in (8, 9):
        truncate(checkpoints.path(updates))
    assert checkpoints.restore(model_after(0)) == 7
    for updates in (71, 72):  # Fewer updates than the names of the truncated files would say.
        checkpoints.save(model_after(updates - 64))
    assert checkpoints.steps() == [7, 8]
    assert checkpoints.restore(model_after(0)) == 8


def test_if_no_file_can_be_read_nothing_begins_anew(checkpoints: Checkpoints) -> None:
    for updates in (1, 2):
        truncate(checkpoints.save(model_after(updates)))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"none of the 2 checkpoints in .* Remove them"):
            checkpoints.restore(model_after(0))


def refusal(checkpoints: Checkpoints, model: Any) -> str:
    """Return why a model is refused, after the name of the file."""
    with warnings.catch_warnings():
        # As in a command: Keras only warns of this difference.
        warnings.filterwarnings("default", "Skipping variable loading")
        with pytest.raises(ValueError) as caught:
            checkpoints.restore(model)
    return str(caught.value).partition("does not fit the model tiny: ")[2]


def test_another_models_file_is_refused_by_name_and_shape(checkpoints: Checkpoints) -> None:
    checkpoints.save(model_after(1))
    model = model_after(0, units=5)
    kernel, bias = (variable.path for variable in model.trainable_variables)
    said = refusal(checkpoints, model)
    assert said.startswith(
        f"{kernel} is (3, 2) in the file and (3, 5) in the model; "
        f"{bias} is (2,) in the file and (5,) in the model; "
    )
    assert said.endswith("; and 3 more differ. Give the flags that it was trained with.")


def test_a_deeper_models_file_is_refused_by_name_and_shape(checkpoints: Checkpoints) -> None:
    checkpoints.save(model_after(1))
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(4)], name="tiny"
    )
    model.compile(keras.optimizers.Adam(), "mse")
    model.optimizer.build(model.trainable_variables)
    kernel = model.layers[1].kernel.path
    assert refusal(checkpoints, model).startswith(f"{kernel} (2, 4) is not in the file; ")
    model.optimizer.iterations.assign(2)
    checkpoints.save(model)
    said = refusal(checkpoints, model_after(0))
    assert said.startswith("layers/dense_1/vars/0 (2, 4) of the file is not in the model; ")


def test_another_optimizers_file_is_refused_in_a_sentence(checkpoints: Checkpoints) -> None:
    checkpoints.save(model_after(1))
    model = model_after(0)
    model.compile(keras.optimizers.SGD(), "mse")
    said = refusal(checkpoints, model)
    assert "optimizer/vars/2 (3, 2) of the file is not in the model" in said


def test_the_newest_damaged_files_are_kept(checkpoints: Checkpoints) -> None:
    checkpoints.save(model_after(1))
    for updates in range(2, 7):
        checkpoints.save(model_after(updates))
        truncate(checkpoints.path(updates))
        checkpoints.restore(model_after(0))
    found = sorted(path.name[:9] for path in Path(checkpoints.directory).glob("*.unreadable"))
    assert found == ["000000004", "000000005", "000000006"]
    assert checkpoints.steps() == [1]


def test_other_files_are_none_of_its_own(checkpoints: Checkpoints) -> None:
    checkpoints.save(model_after(1))
    for name in ("notes.txt", "000000005.weights.h5.part", "partial.weights.h5"):
        Path(checkpoints.directory, name).write_text("")
    assert checkpoints.steps() == [1]
