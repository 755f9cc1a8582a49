"""Private names that a release may move: which are there, and what is said of the others."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tf_backup._tf.private_names import check

HERE = __name__


def decorated(method: Any) -> Any:
    @functools.wraps(method)
    def call(self: Thing) -> Any:
        return method(self)

    return call


class Base:
    def __init__(self) -> None:
        self._of_the_base = 1


class Thing(Base):
    __slots__ = ("_slot",)
    _of_the_class = 2

    @decorated
    def fill(self) -> None:
        self._of_objects = 3

    @property
    def _property(self) -> int:
        return self._of_objects


class Inside:
    Thing = Thing


@decorated
def replaced(thing: Any) -> None:
    """Function that stands in for a class, as those of a patch do."""


replaced.__wrapped__ = Thing
thing = Thing()
ALL = "_of_the_base _of_the_class _of_objects _property _slot fill"


@pytest.mark.parametrize("owner", ["Thing", "Inside.Thing", "replaced"])
def test_names_of_classes_and_of_their_objects_are_there(owner: str) -> None:
    check("keras", "3.15.0", {f"{HERE}:{owner}": ALL})


def test_names_of_modules_and_objects_are_there() -> None:
    check("keras", "3.15.0", {HERE: "Thing thing", f"{HERE}:thing": "_of_the_class _of_the_base"})


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        ({HERE: "Thing gone"}, "gone"),
        ({f"{HERE}:Thing": "fill _gone"}, "Thing._gone"),
        ({f"{HERE}:Thing": "_gone", HERE: "there"}, f"Thing._gone, {HERE}.there"),
        ({f"{HERE}:Gone": "fill _slot"}, "Gone"),
        ({f"{HERE}:Inside.Gone": "fill"}, "Inside.Gone"),
        ({f"{HERE}.gone": "fill"}, "gone"),
        ({f"{HERE}.gone:Thing": "fill"}, "gone.Thing"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(names: dict[str, str], missing: str) -> None:
    with pytest.raises(ImportError) as raised:
        check("tensorflow", "2.99.1", names)
    assert str(raised.value) == (
        f"TensorFlow 2.99.1 has no {HERE}.{missing}, which tf_backup needs: install a version that "
        "tf_backup supports, with pip install 'tensorflow>=2.20,<2.22'."
    )
