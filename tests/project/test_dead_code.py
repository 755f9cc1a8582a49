"""Names that nothing uses, or only tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import tf_backup
from tests.project.test_layout import MODULES, package_of, parse

# Found by name: an experiment in its module, and the program of a benchmark's process.
BY_NAME = {"EXPERIMENT", "start"}
# For users, as docs/simulation.md says.
FOR_USERS = {
    "tf_backup.simulation.delays.Constant",
    "tf_backup.simulation.delays.Failing",
    "tf_backup.simulation.virtual_gate.simulated_timeline",
}


def defined(module: str) -> Iterator[str]:
    """Yield the names that a module defines."""
    for node in parse(MODULES[module]).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (each.id for each in targets if isinstance(each, ast.Name))


def used(module: str) -> Iterator[str]:
    """Yield the dotted names of the project that a module uses, its own included."""
    known = {}  # Modules, by the names that they have here.
    tree = parse(MODULES[module])
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in MODULES:
                    known[alias.asname or alias.name] = full
                else:
                    yield full
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield f"{module}.{node.id}"
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in known:
            yield f"{known[ast.unparse(node.value)]}.{node.attr}"


def test_every_name_has_a_user_that_is_no_test() -> None:
    users = {name for module in MODULES for name in used(module)}
    users |= {f"tf_backup.{home}.{name}" for name, home in tf_backup._HOME.items()} | FOR_USERS
    unused = {
        f"{module}.{name}"
        for module in MODULES
        if package_of(module) != "models"  # scripts/training/tasks.py asks for what a network has.
        for name in defined(module)
        if name not in BY_NAME and not name.startswith("__")
    }
    assert unused - users == set()


def test_what_is_for_users_is_defined() -> None:
    for name in FOR_USERS:
        module, _, own = name.rpartition(".")
        assert own in defined(module)
