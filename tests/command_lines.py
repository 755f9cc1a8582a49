"""Tells whether a command of scripts/ accepts its command lines, without its work.

    python -m tests.command_lines SCRIPT < LINES

LINES is a JSON list of lists of arguments. The script parses each with its own parser, and its
`main` runs up to the point where it would start a training or measurement, or write a report:
`BEGINS` names the functions there. What has no such function, such as drawing committed results,
runs to the end, in the working directory. Prints a JSON list: the message with which the script
refuses each line, empty if it does not.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
from typing import Any, NoReturn

from absl import app, flags
from absl.testing import flagsaver

from scripts import exits

# Each is called when all flags have been checked, and before anything is written or started.
BEGINS = {
    "benchmark": ("measure",),
    "benchmark_memory": ("measure",),
    "benchmark_tables": ("measure",),
    "chaos": ("folder",),
    "evaluate": ("Evaluation", "wait_for_training"),
    "plot": (),
    "report": ("report",),
    "train": ("_begin",),
}


class Begins(BaseException):
    """The command begins with its work."""


def begin(*args: Any, **options: Any) -> NoReturn:
    raise Begins


def refusal(script: Any, arguments: list[str]) -> str:
    """Return the message with which a script refuses its arguments."""
    said = io.StringIO()
    flags.FLAGS.unparse_flags()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            script.main(exits.parse([script.__name__, *arguments]))
    except Begins:
        return ""
    except SystemExit as end:
        return "" if "--help" in arguments else f"{said.getvalue()} (status {end.code})"
    return ""


def main() -> None:
    name = sys.argv[1]
    script = importlib.import_module(f"scripts.{name}")
    for each in BEGINS[name]:
        assert hasattr(script, each)
        setattr(script, each, begin)
    app.define_help_flags()
    refusals = []
    for arguments in json.load(sys.stdin):
        with flagsaver.flagsaver():
            refusals.append(refusal(script, arguments))
    print(json.dumps(refusals))


if __name__ == "__main__":
    main()
