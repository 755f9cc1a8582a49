"""Every Python snippet of README.md and docs/ runs, on a real cluster where it wants one.

Those of a page run in order, in a program that has the part of the reader's script; see
`programs/snippets.py`. Nothing in a snippet is replaced. One is only defined, not called: the
`train_step` in the guide's fifth "Before", which leaves out its beginning.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.processes import start
from tests.cluster.programs.snippets import ELSEWHERE, GIVEN, USED
from tests.pages import SNIPPETS

pytestmark = pytest.mark.long

FIXTURES: dict[str, Any] = {}  # The names of the page that says how a test gets a cluster.
exec(compile(SNIPPETS["docs/developing.md 1"], "developing", "exec"), FIXTURES)


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The errors of all snippets, by name; empty for those without one."""
    folder = tmp_path_factory.mktemp("snippets")
    process = start("-m", "tests.cluster.programs.snippets", str(folder))
    try:
        _, err = process.communicate(timeout=500)
    finally:
        process.kill()
    assert process.returncode == 0, err[-3000:]
    found: dict[str, str] = json.loads(Path(folder, "errors.json").read_text("utf-8"))
    return found


@pytest.mark.timeout(600)  # The first one waits until all have run.
@pytest.mark.parametrize("name", [name for name in SNIPPETS if name not in ELSEWHERE])
def test_snippets_run(errors: dict[str, str], name: str) -> None:
    assert not errors[name], errors[name]


def test_only_snippets_that_are_there_are_prepared() -> None:
    assert {*GIVEN, *USED, *ELSEWHERE} <= {*SNIPPETS}


@FIXTURES["pytestmark"]
def test_a_test_gets_a_cluster(strategy: Any) -> None:
    FIXTURES["test_something"](strategy)
