"""The table of deadlines names all of them, with their values."""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "cluster.md"

# Intervals between two looks, heartbeats or drawings, and amounts of work: nothing is given up.
INTERVAL = re.compile("POLL|BEAT|TICK|REST|CUT|EVERY|LINE|BAR|AGAIN|REFRESH|PERIOD|PIECE|SHORTEST")
# Durations of simulated or injected faults, and of pictures.
OTHER = ("simulation", "experiments", "reports", "random_faults.py")


def constants(path: pathlib.Path) -> Iterator[tuple[str, float]]:
    """Return the deadlines of a module: constants in seconds, and defaults of timeouts."""
    known: dict[str, float] = {}
    tree = ast.parse(path.read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if re.fullmatch("_?[A-Z_]+_S", name):
                code = compile(ast.Expression(node.value), path.name, "eval")
                known[name] = float(eval(code, {}, dict(known)))
                if not INTERVAL.search(name.replace("FIRST", "")):
                    yield f"{path.stem}.{name}", known[name]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            arguments, defaults = node.args.args, node.args.defaults
            pairs = zip(arguments[len(arguments) - len(defaults) :], defaults, strict=True)
            for argument, default in pairs:
                if argument.arg.endswith("timeout_s") and isinstance(default, ast.Constant):
                    name = node.name if argument.arg == "timeout_s" else argument.arg
                    if default.value is not None:
                        yield f"{path.stem}.{name}", float(default.value)


def deadlines() -> dict[str, float]:
    """Return all deadlines in the code."""
    paths = [path for folder in ("tf_backup", "scripts") for path in (ROOT / folder).rglob("*.py")]
    paths = [path for path in paths if not set(OTHER) & set(path.relative_to(ROOT).parts)]
    return dict(pair for path in paths for pair in constants(path))


def table() -> dict[str, float]:
    """Return the constants in the tables of the page."""
    found = {}
    for line in PAGE.read_text("utf-8").splitlines():
        if re.match(r"\| `\w+\.\w+`", line):
            _, names, values, *_ = line.split("|")
            pairs = zip(re.findall("`(.+?)`", names), values.split(","), strict=True)
            found.update({name: float(value) for name, value in pairs})
    return found


def test_table_has_every_deadline_and_its_value() -> None:
    assert len(deadlines()) > 30
    assert table() == deadlines()


def settings() -> set[str]:
    """Return the timeouts that users can set: arguments of the strategy, and flags of train.py."""
    tree = ast.parse((ROOT / "tf_backup" / "cluster" / "strategy.py").read_text("utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    names = {each.arg for each in functions["parameter_server_strategy"].args.kwonlyargs}
    return {name for name in names if name.endswith("timeout_s")}


def test_every_timeout_of_the_strategy_is_a_flag_and_on_the_page() -> None:
    flags = (ROOT / "scripts" / "training" / "training_flags.py").read_text("utf-8")
    assert len(settings()) == 4
    for name in settings():
        assert f'    "{name}",\n    None,' in flags
        assert re.search(rf"\| `{name}` of the strategy.*`--{name}`", PAGE.read_text("utf-8"))
