"""The README and the pages in docs/ agree with the files, flags and names that they mention.

Everything is read as text; nothing here loads TensorFlow. `test_commands_in_docs.py` checks the
commands, and `tests/cluster/test_snippets.py` runs the Python snippets.
"""

from __future__ import annotations

import ast
import collections
import csv
import functools
import json
import pathlib
import re
import statistics
from collections.abc import Iterator

import pytest

import tf_backup
from tests.pages import PAGES, README, ROOT, SNIPPETS, blocks, code, prose
from tf_backup.cluster import tf_config

README_LINES = 130
PACKAGES = {"keras", "policy", "simulation", "timeline"}  # Pages import names from their modules.

# Folders whose files a page names by path, as in `results/memory.csv`.
FOLDERS = ("docs", "k8s", "models", "results", "scripts", "tests")

all_pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


# --- Pages


def test_readme_is_short() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= README_LINES


@all_pages
def test_lines_are_short(page: pathlib.Path) -> None:
    long = [line for line in page.read_text("utf-8").splitlines() if len(line) > 120]
    assert not long


@pytest.mark.parametrize("start", [README, ROOT / "docs" / "README.md"], ids=["README", "index"])
def test_every_page_has_a_link(start: pathlib.Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", prose(start))
    linked = {(start.parent / link).resolve() for link in links}
    assert {page for page in PAGES if page.name != "README.md"} <= linked


# --- Links


@functools.cache
def anchors(page: pathlib.Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for title in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        copies = (f"{slug}-{i}" for i in range(1, 100))
        found.add(slug if slug not in found else next(s for s in copies if s not in found))
    return found


@all_pages
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue  # A link to another site.
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@all_pages
def test_paths_exist(page: pathlib.Path) -> None:
    pattern = re.compile(rf"(?<![\w./])(?:{'|'.join(FOLDERS)})/[\w./-]*\w")
    named = {path for text in code(page) for path in pattern.findall(text)}
    assert not {path for path in named if not (ROOT / path).exists()}


@all_pages
def test_modules_exist(page: pathlib.Path) -> None:
    """A page names a module without its folder: `gate.py`."""
    known = {path.name for folder in ("tf_backup", "scripts") for path in modules(folder)}
    named = {text for text in code(page) if re.fullmatch(r"\w+\.py", text)}
    assert named <= known


def modules(folder: str) -> list[pathlib.Path]:
    return sorted((ROOT / folder).rglob("*.py"))


# --- Commands


@functools.cache
def flags_of(path: pathlib.Path) -> set[str]:
    """Return the flags that a script defines, also in modules of scripts/ that it imports."""
    found: set[str] = set()
    todo, seen = [path], {path}
    while todo:
        tree = ast.parse(todo.pop().read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("flags.DEFINE_"):
                found.add(ast.literal_eval(node.args[0]))
            elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("scripts"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                for name in (str(node.module), *names):
                    imported = ROOT / f"{name.replace('.', '/')}.py"
                    if imported.exists() and imported not in seen:
                        todo.append(imported)
                        seen.add(imported)
    return found


def commands() -> Iterator[tuple[str, str, str]]:
    """Yield (page, script, arguments) for every command on a page."""
    for page in PAGES:
        for text in code(page):
            text = text.partition(" #")[0]
            for script, rest in re.findall(r"(?:python |^)(scripts/\w+\.py)(.*)", text):
                yield page.name, script, rest
            for target, rest in re.findall(r"^make ([a-z-]+)(.*)", text):
                if target == "run":
                    yield page.name, "scripts/train.py", rest


def test_flags_are_defined() -> None:
    unknown = [
        f"{page}: {script} --{flag}"
        for page, script, rest in commands()
        for flag in re.findall(r"--(\w+)", rest)
        if flag != "help" and flag not in flags_of(ROOT / script)
    ]
    assert not unknown


def test_flags_without_a_command_are_those_of_scripts() -> None:
    known = {flag for path in (ROOT / "scripts").glob("*.py") for flag in flags_of(path)}
    spans = {text for page in PAGES for text in code(page) if text.startswith("--")}
    named = {flag for text in spans for flag in re.findall(r"--(\w+)", text)}
    assert named <= known | {"help"}


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    texts = [text for page in PAGES for text in code(page)]
    named = {name for text in texts for name in re.findall(r"^make ([a-z-]+)", text)}
    assert {"run", "test"} <= named <= targets


# --- Python


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippets_compile(name: str) -> None:
    compile(SNIPPETS[name], name, "exec")


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippets_use_public_names(name: str) -> None:
    assert named_in(ast.parse(SNIPPETS[name], name)) <= set(tf_backup.__all__)


def named_in(tree: ast.AST) -> set[str]:
    """Return the names that code uses as `tf_backup.name` or imports from tf_backup."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "tf_backup":
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module == "tf_backup":
            found |= {alias.name for alias in node.names}
    return found


@all_pages
def test_text_uses_public_names(page: pathlib.Path) -> None:
    named = {name for text in code(page) for name in re.findall(r"\btf_backup\.(\w+)", text)}
    assert named <= set(tf_backup.__all__) | PACKAGES


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippets_import_names_that_modules_define(name: str) -> None:
    for node in ast.walk(ast.parse(SNIPPETS[name], name)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("tf_backup."):
            path = ROOT / f"{str(node.module).replace('.', '/')}.py"
            body = ast.parse(path.read_text("utf-8")).body
            defined = {
                each.name for each in body if isinstance(each, ast.ClassDef | ast.FunctionDef)
            }
            assert {alias.name for alias in node.names} <= defined


def test_versions_are_those_of_setup() -> None:
    setup = (ROOT / "setup.py").read_text("utf-8")
    row = re.search(r"^\| (3\.10.*) \| (2\..*?) \| (3\..*?) \|", prose(README), re.MULTILINE)
    assert row is not None
    pythons, tensorflows, kerases = (re.findall(r"\d+\.\d+", cell) for cell in row.groups())
    assert pythons == re.findall(r'"Programming Language :: Python :: (3\.\d+)"', setup)
    assert f'"tensorflow>={tensorflows[0]},<{after(tensorflows[-1])}"' in setup
    assert f'"keras>={kerases[0]},<{after(kerases[1])}"' in setup
    tried = re.search(r"^VERSIONS := (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert tried is not None
    pairs = [f"{tensorflows[0]}-{kerases[0]}", f"{tensorflows[-1]}-{kerases[1]}"]
    assert tried[1].split() == pairs


def after(version: str) -> str:
    """Return the next minor version."""
    major, minor = version.split(".")
    return f"{major}.{int(minor) + 1}"


# --- TF_CONFIG


def test_examples_of_tf_config_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [block.code for page in PAGES for block in blocks(page) if block.language == "json"]
    assert examples
    for example in examples:
        monkeypatch.setenv("TF_CONFIG", example)
        read = tf_config.from_tf_config()
        assert read.addresses == json.loads(example)["cluster"]


def test_cost_of_recording_is_that_of_the_results() -> None:
    rounds: dict[str, list[float]] = collections.defaultdict(list)
    with (ROOT / "results" / "benchmark-options.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            rounds[row["system"]].append(float(row["updates_per_s"]))
    pairs = [*zip(rounds["tf_backup_monitored"], rounds["tf_backup_unrecorded"], strict=True)]
    speed = [monitored / plain for monitored, plain in pairs]
    cost_ms = [1e3 / monitored - 1e3 / plain for monitored, plain in pairs]
    median_ms = statistics.median(cost_ms)
    for name in ("speed", "stragglers"):
        text = " ".join(prose(ROOT / "docs" / f"{name}.md").split())
        assert f"{statistics.median(speed):.2f} ({min(speed):.2f} to {max(speed):.2f})" in text
        assert f"{median_ms:.1f} ms per update ({min(cost_ms):.1f} to {max(cost_ms):.1f})" in text
        rate = re.search(
            r"below 2% where .* (\d+) ms or more: up to (\d+) updates per second", text
        )
        assert rate is not None
        assert float(rate[1]) == pytest.approx(median_ms / 0.02, rel=0.02)
        assert float(rate[2]) == pytest.approx(20 / median_ms, rel=0.03)
