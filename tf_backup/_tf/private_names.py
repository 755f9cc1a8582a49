"""Check that the installed TensorFlow and Keras have the private names that tf_backup uses."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

SUPPORTED = {"tensorflow": ">=2.20,<2.22", "keras": ">=3.12,<3.16"}  # As in setup.py.
_PRODUCTS = {"tensorflow": "TensorFlow", "keras": "Keras"}


def check(package: str, version: str, names: Mapping[str, str]) -> None:
    """Check that a package has all private names that tf_backup uses.

    Only that they exist, not what they mean. An attribute that only the objects of a class have
    counts as there if a method of the class mentions it.

    Args:
      package: name of the package: "tensorflow" or "keras".
      version: its installed version.
      names: by module ("a.b"), or class or object in one ("a.b:C"): names in it, separated by
        spaces.

    Raises:
      ImportError: if the package lacks some of the names.
    """
    missing = [name for owner, known in names.items() for name in _missing(owner, known.split())]
    if missing:
        raise ImportError(
            f"{_PRODUCTS[package]} {version} has no {', '.join(missing)}, which tf_backup needs: "
            f"install a version that tf_backup supports, with pip install "
            f"'{package}{SUPPORTED[package]}'."
        )


def _missing(owner: str, names: list[str]) -> list[str]:
    """Return the full names of what an owner lacks; only its own if it does not exist."""
    full = owner.replace(":", ".")
    try:
        found = _resolve(owner)
    except (ImportError, AttributeError):
        return [full]
    absent = [name for name in names if not hasattr(found, name)]
    mentioned = _mentioned(found) if absent else set()
    return [f"{full}.{name}" for name in absent if name not in mentioned]


def _resolve(owner: str) -> Any:
    module, _, path = owner.partition(":")
    found = importlib.import_module(module)
    for name in filter(None, path.split(".")):
        found = getattr(found, name)
    return inspect.unwrap(found) if inspect.isfunction(found) else found  # A patched class.


def _mentioned(owner: Any) -> set[str]:
    """Return all names of attributes in the code of a class's methods."""
    kinds = inspect.getmro(owner) if isinstance(owner, type) else ()
    members = [member for kind in kinds for member in vars(kind).values()]
    methods = [inspect.unwrap(each) for each in members if inspect.isfunction(each)]
    return {name for method in methods for name in method.__code__.co_names}
