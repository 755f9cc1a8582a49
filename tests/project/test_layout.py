"""What the files promise about each other, read from their text: nothing here loads TensorFlow."""

import ast
import graphlib
import importlib.metadata
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tf_backup

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "tf_backup"
MAX_LINES = 320

# A module imports from lower levels, and from its own level where that makes no cycle.
LEVELS = [
    {
        "address",
        "chatter",
        "checks",
        "errors",
        "policy",
        "protocol",
        "places",
        "pieces",
        "members",
        "watch",
    }
    | {"records", "delays", "pod"},
    {
        "_tf",
        "_tf_named",
        "_tf_graph",
        "_tf_data",
        "_tf_program",
        "_tf_cut",
        "_tf_simplified",
        "_tf_strategy",
    }
    | {"cluster", "placement", "status", "servers"},
    {"packing", "objective", "snapshot", "tables", "contribution", "accumulator"}
    | {"tokens", "rules", "gate", "permits", "reports", "dispenser", "data", "program"}
    | {"batch_queue"}
    | {"failures", "board", "coordinator", "runs", "arrivals", "departures"},
    {"worker", "chief", "care", "agent", "evaluation", "run", "python_data"}
    | {"server", "local_task", "fork_server"},
    {"engine", "accounts", "optimizer", "_keras", "_keras_seams", "_keras_data"}
    | {"keras_variables", "keras_objective", "keras_step", "feed"},
    {"keras_functions", "fit", "training_loop", "connection", "local_cluster"} | {"strategy"},
]
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}

MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def parse(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(tree: ast.AST) -> Iterator[str]:
    """Yields the dotted names of all imports, also of those in functions and conditions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def own_imports(module: str) -> set[str]:
    """Returns the modules of tf_backup that one of them imports."""
    found = set()
    for name in imports(parse(PACKAGE / f"{module}.py")):
        assert not name.startswith("."), f"{module}.py: {name} is a relative import."
        package, *rest = name.split(".")
        if package == "tf_backup":
            assert rest and rest[0] in MODULES, (
                f"{module}.py imports {name}, which is no module: a user imports from tf_backup, "
                "its own modules import from each other."
            )
            found.add(rest[0])
    return found


def uses(matches: str) -> set[str]:
    """Returns the modules that import something matching the pattern or name it: `a.b.c`."""
    pattern = re.compile(matches)
    found = set()
    for module in MODULES:
        tree = parse(PACKAGE / f"{module}.py")
        names = [*imports(tree)]
        names += [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        if any(pattern.match(name) for name in names):
            found.add(module)
    return found


# --- What a user sees


def test_public_names() -> None:
    assert tf_backup.__all__ == [
        "BackupPolicy",
        "ClusterError",
        "Contributions",
        "LocalCluster",
        "ParameterServerLost",
        "SyncReplicasWithBackup",
        "TfBackupError",
        "Update",
        "WorkerFailed",
        "WorkerRecord",
        "WorkersLost",
        "delay",
        "dismiss",
        "minimize",
        "parameter_server_strategy",
        "serve",
        "wrap",
    ]


def test_public_names_are_the_same_for_type_checkers() -> None:
    typed = {
        alias.asname: node.module
        for node in ast.walk(parse(PACKAGE / "__init__.py"))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert typed == {name: f"tf_backup.{home}" for name, home in tf_backup._HOME.items()}


@pytest.mark.parametrize("name", tf_backup.__all__)
def test_public_name_is_defined_in_its_home(name: str) -> None:
    body = parse(PACKAGE / f"{tf_backup._HOME[name]}.py").body
    defined = {node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    assert name in defined


def test_import_is_light() -> None:
    script = (
        "import sys, tf_backup; print([m for m in ('tensorflow', 'keras') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"


def test_changelog_has_this_version() -> None:
    assert f"## [{tf_backup.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# --- Levels and doors


def test_every_module_has_a_level() -> None:
    assert sorted(LEVEL) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    upwards = {other for other in own_imports(module) if LEVEL[other] > LEVEL[module]}
    assert not upwards


def test_imports_have_no_cycle() -> None:
    graphlib.TopologicalSorter({module: own_imports(module) for module in MODULES}).prepare()


def test_worker_and_chief_meet_only_on_the_servers() -> None:
    assert "chief" not in own_imports("worker")
    assert "worker" not in own_imports("chief")
    assert not {"chief", "coordinator", "engine"} & own_imports("agent")


def test_environment_is_read_in_one_place() -> None:
    # The others prepare the environment of TensorFlow, gRPC or a server's process.
    others = {"_tf", "_tf_strategy", "status", "server", "connection", "local_cluster"}
    others |= {"fork_server"}
    assert uses(r"os\.(environ|getenv)") <= {"cluster", *others}


@pytest.mark.parametrize("module", sorted({*MODULES} - {"cluster"}))
def test_only_cluster_reads_tf_config(module: str) -> None:
    tree = parse(PACKAGE / f"{module}.py")
    written = {
        node.slice
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
    }
    named = {
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value == "TF_CONFIG"
    }
    assert named <= written
    assert not named or module == "fork_server"  # For the tasks that it starts.


def test_one_door_to_private_tensorflow() -> None:
    assert uses(r"(tf|tensorflow)\.raw_ops\b|tensorflow\.python\b") == {
        "_tf",
        "_tf_data",
        "_tf_graph",
        "_tf_named",
        "_tf_strategy",
    }


def test_one_door_to_private_keras() -> None:
    assert uses(r"keras\.src\b") == {"_keras", "_keras_seams", "_keras_data"}


def test_models_do_not_know_the_library() -> None:
    # Baselines train the same files.
    for path in (ROOT / "models").rglob("*.py"):
        used = {name for name in imports(parse(path)) if name.split(".")[0] == "tf_backup"}
        assert not used, path.relative_to(ROOT)


def test_modules_are_short() -> None:
    paths = [path for folder in ("tf_backup", "models", "scripts") for path in files(folder)]
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    assert not {path: count for path, count in lines.items() if count > MAX_LINES}


def files(folder: str) -> Iterator[pathlib.Path]:
    yield from sorted((ROOT / folder).rglob("*.py"))


# --- Lock files

PIN = re.compile(r'(?P<name>[\w.-]+)==(?P<version>[\w.]+)(; python_version (<|>=) "3\.1[12]")?')
INCLUDE = "-r requirements.lock"


def pins(lock: str, python: str) -> dict[str, str]:
    """Returns the versions that a lock file has for a version of Python, by package."""
    found: dict[str, str] = {}
    for line in (ROOT / lock).read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        if line == INCLUDE:
            more = pins("requirements.lock", python)
        else:
            assert PIN.fullmatch(line), f"{lock}: {line!r} is not 'name==version'."
            requirement = Requirement(line)
            if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
                continue
            (pin,) = requirement.specifier
            more = {canonicalize_name(requirement.name): pin.version}
        assert not found.keys() & more.keys(), f"{lock}: {line!r} is there twice."
        found |= more
    return found


def requirements(*extras: str) -> list[Requirement]:
    """Returns what setup.py asks for, with the extras."""
    values = {
        target.id: ast.literal_eval(node.value)
        for node in parse(ROOT / "setup.py").body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in ("INSTALL_REQUIRES", "EXTRAS_REQUIRE")
    }
    asked = list(values["INSTALL_REQUIRES"])
    for extra in extras:
        asked += values["EXTRAS_REQUIRE"][extra]
    return [Requirement(text) for text in asked]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("requirements.lock", ["scripts", "benchmark", "metrics", "tests"]),
        ("requirements-models.lock", ["scripts", "benchmark", "metrics", "tests", "models"]),
    ],
)
def test_lock_has_what_setup_asks_for(lock: str, extras: list[str], python: str) -> None:
    pinned = pins(lock, python)
    for requirement in requirements(*extras):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}, but {lock} has {version}"


def test_gpu_lock_has_what_tensorflow_asks_for() -> None:
    pinned = pins("requirements-gpu.lock", "3.11")
    asked = [Requirement(text) for text in importlib.metadata.requires("tensorflow") or []]
    cuda = [each for each in asked if each.marker and "and-cuda" in str(each.marker)]
    assert {canonicalize_name(each.name) for each in cuda} == pinned.keys()
    for each in cuda:
        assert each.specifier.contains(pinned[canonicalize_name(each.name)]), each


def test_models_lock_adds_to_the_other() -> None:
    assert INCLUDE in (ROOT / "requirements-models.lock").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("lock", sorted(path.name for path in ROOT.glob("*.lock")))
def test_lock_names_no_host(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert not re.search(r"://|--|\s@|file:|git\+", text)


# --- Commands

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def test_makefile_has_the_commands_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    # `make x` in code, not "make it" in a sentence.
    named = set(re.findall(r"(?:^|`|\$ )make ([a-z-]+)", readme, re.MULTILINE))
    assert {"run", "test"} <= named <= TARGETS


def test_ci_runs_what_a_developer_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert set(re.findall(r"^make ([a-z-]+)", script, re.MULTILINE)) == {"lint", "test"}
    assert {"lint", "test"} <= TARGETS
