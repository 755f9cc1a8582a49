"""Every command in README.md and docs/ is one that its program accepts.

`python scripts/X.py ...` and `make run ARGS=...`: the script itself parses the flags, and runs up
to where its work would begin (see `tests/command_lines.py`), so that a wrong flag, value, name or
fault fails here. Commands that show or draw results in results/ run to their end. `make ...`: make
says what it would run, and pytest parses the arguments of tests. `ELSEWHERE` has the others, which
only other tests run, or none.

A block of code without a language has commands and nothing else; output has the language `text`.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests import command_lines
from tests.pages import PAGES, ROOT, blocks, spans

PROGRAM = re.compile(
    r"([A-Z_]+=\S+ )?(make|python|pip|tail|tensorboard|gdb|ulimit|\.venv/bin/\w+|\.ci/run)( |$)"
)

# Why some commands do not run here.
ELSEWHERE = {
    ".ci/run": "runs all tests",
    ".venv/bin/python -m tests.cluster.programs.train_small restart_ps": "test_failures.py runs it",
    ".venv/bin/ruff format .": "changes files; make lint checks the format",
    "gdb .venv/bin/python CORE": "needs a core dump",
    "pip install .": "downloads packages",
    "pip install 'tf_backup[report]'": "downloads packages",
    "tail -n 50 /tmp/tf_backup_*/*.log": "needs the files of a test that has stopped",
    "tensorboard --logdir logs": "does not end",
    "ulimit -c unlimited": "changes the shell",
}
RECURSIVE = {"test-versions"}  # Even a dry run of it would run tests, since it calls make again.
TESTS = {"test", "test-all", "test-long", "test-quick"}


def commands_on(page: pathlib.Path) -> list[str]:
    """Return the command lines on a page."""
    lines = []
    for block in blocks(page):
        if not block.language:
            lines += block.code.replace("\\\n", " ").splitlines()
    found = [" ".join(line.partition(" #")[0].split()) for line in lines]
    return [line for line in found if line] + [each for each in spans(page) if PROGRAM.match(each)]


COMMANDS = sorted({line for page in PAGES for line in commands_on(page)})


def words(line: str) -> list[str]:
    """Return the words of a command, without variables that are set before it."""
    found = shlex.split(line)
    return found[1:] if re.match(r"[A-Z_]+=", found[0]) else found


OF_MAKE = [line for line in COMMANDS if words(line)[0] == "make"]


def target(line: str) -> str:
    """Return the target of a call of make."""
    return "".join(words(line)[1:2])


def arguments(line: str) -> list[str]:
    """Return what a call of make has in ARGS."""
    (given,) = [word for word in words(line) if word.startswith("ARGS=")] or [""]
    return shlex.split(given.removeprefix("ARGS="))


def lines_of_scripts() -> dict[str, dict[str, list[str]]]:
    """Return the arguments of all calls of each script, by command."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in COMMANDS:
        if line.startswith("python scripts/"):
            _, path, *rest = words(line)
            found.setdefault(pathlib.Path(path).stem, {})[line] = rest
    train = found["train"]
    train |= {line: arguments(line) for line in OF_MAKE if target(line) == "run"}
    # Rows of a table have flags of the command that stands above them.
    rows = [span for page in PAGES for span in spans(page) if span.startswith("--model=")]
    train |= {row: shlex.split(row) for row in rows}
    return found


SCRIPTS = lines_of_scripts()


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_looked_at(line: str) -> None:
    assert PROGRAM.match(line), "No command? Give output the language `text`."
    of_script = any(line in lines for lines in SCRIPTS.values())
    assert (of_script or line in OF_MAKE) != (line in ELSEWHERE)


def test_nothing_is_left_out_that_is_not_there() -> None:
    assert {*ELSEWHERE} <= {*COMMANDS}


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A working directory with the committed results, and those that `speed.csv` would have."""
    (tmp_path / "results").mkdir()
    for path in (ROOT / "results").glob("*.csv"):
        shutil.copy(path, tmp_path / "results")
    shutil.copy(ROOT / "results" / "benchmark-second-engine.csv", tmp_path / "speed.csv")
    return tmp_path


# Command lines that are wrong, and what the script says of them.
WRONG = {
    "benchmark": {
        "--systems=tf_backup,tf1": "--systems has 'tf1'",
        "--read=other.csv": "other.csv",
    },
    "benchmark_memory": {"--optimizer=other": "--optimizer=other"},
    "benchmark_tables": {"--rows=many": "--rows=many"},
    "chaos": {
        "--fault='kill worker 9 at step 50'": "the cluster has worker 0 to 4",
        "--fault='kill worker one at step 50'": "a number must come after 'worker'",
    },
    "evaluate": {"--watch": "--log_dir is not given"},
    "plot": {"figure1": "there is no experiment 'figure1'"},
    "report": {"runs/text --out=page.pdf": "must be the name of an .html file"},
    "train": {
        "--delay=3:x": "3:x",
        "--recipe=huge": "--recipe is 'huge'",
        "--nothing=1": "Unknown command line flag 'nothing'",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_scripts_accept_their_commands(script: str, folder: pathlib.Path) -> None:
    lines = [*SCRIPTS[script].values(), *map(shlex.split, WRONG[script])]
    said = refusals(script, lines, folder)
    found = dict(zip([*SCRIPTS[script], *WRONG[script]], said, strict=True))
    assert not {line: found[line] for line in SCRIPTS[script] if found[line]}
    for line, says in WRONG[script].items():
        assert says in found[line]


def refusals(script: str, lines: list[list[str]], folder: pathlib.Path) -> list[str]:
    """Return the messages with which a script refuses command lines; empty where it does not."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "tests.command_lines", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def test_the_scripts_are_known() -> None:
    assert {*SCRIPTS} == {*command_lines.BEGINS}


@pytest.mark.parametrize("line", [line for line in OF_MAKE if target(line) not in RECURSIVE])
def test_make_knows_its_targets_and_hands_arguments_on(line: str) -> None:
    flags = ["--dry-run", "--no-print-directory", "--old-file=.venv/installed"]
    done = subprocess.run(
        ["make", *flags, *words(line)[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    if given := arguments(line):
        assert shlex.split(done.stdout.splitlines()[-1])[-len(given) :] == given


@pytest.mark.parametrize("line", [line for line in OF_MAKE if target(line) in TESTS])
def test_pytest_knows_the_tests(line: str, pytestconfig: pytest.Config) -> None:
    wanted = [word for word in arguments(line) if word != "..."]
    given, unknown = pytestconfig._parser.parse_known_and_unknown_args(wanted)
    assert not unknown
    paths = [ROOT / name for name in given.file_or_dir]
    assert all(path.exists() for path in paths)
    if given.keyword:
        files = [each for path in paths for each in ([path] if path.is_file() else path.rglob("*"))]
        tests = [each for each in files if re.fullmatch(r"test_\w+\.py", each.name)]
        named = re.compile(rf"^def test_\w*{given.keyword}", re.MULTILINE)
        assert any(given.keyword in each.stem or named.search(each.read_text()) for each in tests)
