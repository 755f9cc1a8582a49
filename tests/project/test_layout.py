"""Layout of the files, read as text; nothing here loads TensorFlow."""

import ast
import functools
import graphlib
import importlib.metadata
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import tf_backup
from tf_backup._tf.private_names import SUPPORTED

ROOT = pathlib.Path(__file__).parents[2]
MAX_LINES = 320

# A package imports only from those before it.
ORDER = [
    "tf_backup.rules",
    "tf_backup._tf",
    "tf_backup",
    "tf_backup.timeline",
    "tf_backup.simulation",
    "tf_backup.advice",
    "tf_backup.network",
    "tf_backup.servers",
    "tf_backup.actors",
    "tf_backup.keras",
    "tf_backup.cluster",
    "models.data",
    "models",
    "scripts.training",
    "scripts.reports",
    "scripts.faults",
    "scripts.experiments",
    "scripts.benchmarks",
    "scripts.benchmarks.systems",
    "scripts",
]
# Modules that earlier packages may import; they import nothing themselves.
LEAVES = {
    "models.tensor",
    "tf_backup.annotations",
    "tf_backup.checks",
    "tf_backup.errors",
    "tf_backup.quiet",
    "scripts.console",
    "scripts.early",
}


@functools.cache
def parse(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def files(folder: str) -> Iterator[pathlib.Path]:
    yield from sorted((ROOT / folder).rglob("*.py"))


def name_of(path: pathlib.Path) -> str:
    """Return a module's dotted name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    name_of(path): path for folder in ("tf_backup", "models", "scripts") for path in files(folder)
}
OURS = sorted(name for name in MODULES if name.startswith("tf_backup"))


def package_of(module: str) -> str:
    if MODULES[module].name == "__init__.py":
        return module
    return module.rpartition(".")[0]


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names of all imports, including those in functions and conditions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)


@functools.cache
def own_imports(module: str) -> set[str]:
    """Return the modules of the project that a module imports."""
    found = set()
    for name in imports(parse(MODULES[module])):
        assert not name.startswith("."), f"{module}: {name} is a relative import."
        if name.split(".")[0] not in ("tf_backup", "models", "scripts"):
            continue
        imported = name
        while imported not in MODULES:
            imported = imported.rpartition(".")[0]
        found.add(imported)
    return found


@functools.cache
def dotted_names(module: str) -> set[str]:
    """Return what a module imports, and what it mentions as `a.b.c`."""
    tree = parse(MODULES[module])
    mentioned = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return mentioned | {*imports(tree)}


def uses(matches: str) -> set[str]:
    """Return our modules that import, or mention as `a.b.c`, something that matches a pattern."""
    pattern = re.compile(matches)
    return {module for module in OURS if any(map(pattern.match, dotted_names(module)))}


# --- What a user sees


def test_public_names() -> None:
    assert tf_backup.__all__ == [
        "Advice",
        "AnotherChief",
        "ClusterError",
        "Contributions",
        "LocalCluster",
        "NonFiniteGradients",
        "ParameterServerLost",
        "RecordsError",
        "StragglerMonitor",
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
        "recommend",
        "serve",
        "wrap",
    ]


def test_public_names_are_the_same_for_type_checkers() -> None:
    typed = {
        alias.asname: node.module
        for node in ast.walk(parse(MODULES["tf_backup"]))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert typed == {name: f"tf_backup.{home}" for name, home in tf_backup._HOME.items()}


@pytest.mark.parametrize("name", tf_backup.__all__)
def test_public_name_is_defined_in_its_home(name: str) -> None:
    body = parse(MODULES[f"tf_backup.{tf_backup._HOME[name]}"]).body
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


# --- Packages and doors

# The modules that import what is private, and check that it is there.
TENSORFLOW = "tf_backup._tf.private_tensorflow"
KERAS = "tf_backup.keras._private_keras"


@pytest.mark.parametrize("module", sorted({*MODULES} - {"tf_backup"}))
def test_imports_point_down(module: str) -> None:
    # `tf_backup` loads modules at their first use: it is for users, and our modules avoid it.
    allowed = ORDER[: ORDER.index(package_of(module)) + 1]
    for imported in own_imports(module):
        if not module.startswith("scripts"):
            assert imported != "tf_backup", "Import from the module that has it."
        assert imported in LEAVES or package_of(imported) in allowed, imported
        if module.startswith("models"):
            assert imported.startswith("models"), "Networks know nothing of how they are trained."


def test_leaves_import_nothing() -> None:
    assert not {leaf: found for leaf in LEAVES if (found := own_imports(leaf))}


def test_imports_have_no_cycle() -> None:
    modules = {*MODULES} - {"tf_backup"}
    graphlib.TopologicalSorter({module: own_imports(module) for module in modules}).prepare()


def test_packages_say_what_belongs_there() -> None:
    for package in ORDER:
        path = MODULES.get(package)  # `scripts` has commands, and is not a package.
        assert path is None or ast.get_docstring(parse(path)), package


def test_no_name_is_there_twice() -> None:
    names = [path.stem for path in MODULES.values() if path.name != "__init__.py"]
    assert not {name for name in names if names.count(name) > 1}


def test_worker_and_chief_meet_only_on_the_servers() -> None:
    actors = "tf_backup.actors"
    assert f"{actors}.chief" not in own_imports(f"{actors}.worker")
    assert f"{actors}.worker" not in own_imports(f"{actors}.chief")
    chiefs = {f"{actors}.{name}" for name in ("chief", "coordinator", "engine")}
    assert not chiefs & own_imports(f"{actors}.agent")


def test_environment_is_read_in_one_place() -> None:
    # These prepare the environment of TensorFlow, gRPC or a server's process.
    others = {"_tf.runtime", "_tf.threads", "_tf.grpc_environment", "network.status"}
    others |= {f"cluster.{name}" for name in ("local_cluster", "tf_config", "fork_server")}
    assert uses(r"os\.(environ|getenv)") <= {f"tf_backup.{name}" for name in others}


@pytest.mark.parametrize("module", sorted({*OURS} - {"tf_backup.cluster.tf_config"}))
def test_only_tf_config_reads_it(module: str) -> None:
    tree = parse(MODULES[module])
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
    assert not named or module == "tf_backup.cluster.fork_server"  # For the tasks that it starts.


def test_one_door_to_private_tensorflow() -> None:
    used = uses(r"(tf|tensorflow)\.(raw_ops|__internal__)\b|tensorflow\.python\b")
    assert {package_of(module) for module in used} == {"tf_backup._tf"}
    assert uses(r"tensorflow\.python\b") == {TENSORFLOW}


def test_one_door_to_private_keras() -> None:
    assert uses(r"keras\.src\b") == {KERAS}


# Names that look private but are documented, and the two methods by which TensorFlow's checkpoints
# find the parts of an object.
PUBLIC = {"_replace", "_fields", "_asdict", "_exit"}
TRACKABLE = {"_trackable_children", "_lookup_dependency"}


def private_names(module: str) -> set[str]:
    """Return the underscored attributes that a module reads from others' objects."""
    tree = parse(MODULES[module])
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    own |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            name = str(getattr(node.args[1], "value", ""))
        else:
            continue
        if name.startswith("_") and not name.startswith("__"):
            found.add(name)
    return found - own - PUBLIC


def is_door(module: str) -> bool:
    return package_of(module) == "tf_backup._tf" or module.startswith("tf_backup.keras._")


@pytest.mark.parametrize("module", sorted(module for module in MODULES if not is_door(module)))
def test_only_doors_use_private_attributes(module: str) -> None:
    name = module.rpartition(".")[2]
    assert private_names(module) <= (TRACKABLE if name == "optimizer" else set())


@functools.cache
def checked_names() -> set[str]:
    """Return the names that are checked when private modules are imported."""
    found: set[str] = set()
    for module in (TENSORFLOW, KERAS):
        (names,) = [
            ast.literal_eval(node.value)
            for node in parse(MODULES[module]).body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_NAMES"
        ]
        for owner, known in names.items():
            found.update(known.split())
            found.update(each.rpartition(".")[2] for each in owner.split(":")[1:])
    return found


@pytest.mark.parametrize("module", sorted(module for module in OURS if is_door(module)))
def test_every_private_attribute_is_checked_at_import(module: str) -> None:
    assert private_names(module) <= checked_names()
    assert checked_names() >= TRACKABLE


def test_every_raw_operation_is_checked_at_import() -> None:
    trees = [parse(MODULES[module]) for module in OURS if is_door(module)]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    used = {node.attr for node in nodes if ast.unparse(node.value) == "tf.raw_ops"}
    assert used
    assert used <= checked_names()


def test_every_checked_name_is_in_the_docs() -> None:
    words = set(re.findall(r"\w+", (ROOT / "docs" / "internals.md").read_text("utf-8")))
    assert not checked_names() - words


def test_supported_versions_are_those_of_setup() -> None:
    asked = {each.name: each.specifier for each in requirements()}
    for name, supported in SUPPORTED.items():
        assert SpecifierSet(supported) == asked[name]


def test_modules_are_short() -> None:
    lines = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert not {module: count for module, count in lines.items() if count > MAX_LINES}


def test_the_library_does_not_need_psutil() -> None:
    assert not uses(r"psutil\b")


def test_no_module_reads_its_local_variables_by_name() -> None:
    assert not {
        module
        for module, path in MODULES.items()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "locals"
    }


# --- Flags of the commands

SCRIPTS = sorted(name for name in MODULES if name.startswith("scripts."))


def users(tree: ast.AST, name: str, function: str = "") -> Iterator[str]:
    """Yield the function in which a name stands, as such or as the end of `a.b.name`, each time."""
    spelled = {ast.Name: "id", ast.Attribute: "attr", ast.alias: "name"}
    for node in ast.iter_child_nodes(tree):
        if type(node) in spelled and getattr(node, spelled[type(node)]) == name:
            yield function
        yield from users(node, name, node.name if isinstance(node, ast.FunctionDef) else function)


def settings_of(command: str) -> ast.ClassDef | None:
    """Return the class that a command reads its flags into; None if it has no flags."""
    tree = parse(MODULES[command])
    (kind, *others) = {
        ast.unparse(node.args[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "flag_values.read"
    } or {None}
    assert not others
    homes = [tree, *(parse(MODULES[module]) for module in sorted(own_imports(command)))]
    classes = [each for home in homes for each in home.body if isinstance(each, ast.ClassDef)]
    return next((each for each in classes if each.name == kind), None)


def defined_flags(module: str) -> set[str]:
    return {
        ast.literal_eval(node.args[0])
        for node in ast.walk(parse(MODULES[module]))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("flags.DEFINE_")
    }


def test_the_library_names_no_flag() -> None:
    flag = re.compile(r"""(?<!-)--[a-z_]+(?=[\s=."'])""")
    found = {module: flag.findall(MODULES[module].read_text("utf-8")) for module in OURS}
    assert not {module: names for module, names in found.items() if names}


COMMANDS = [name for name in SCRIPTS if settings_of(name)]


def test_flags_are_read_in_one_function() -> None:
    found = {
        (module, each) for module in SCRIPTS for each in users(parse(MODULES[module]), "FLAGS")
    }
    assert found == {("scripts.exits", "parse"), ("scripts.flag_values", "read")}


@pytest.mark.parametrize("name", ["FLAGS", "flags.FLAGS", "absl.flags.FLAGS"])
def test_a_second_reader_of_the_flags_is_found(name: str) -> None:
    text = f"def main():\n    {name}.a\nclass B:\n    def f(self):\n        return g({name})\n"
    assert [*users(ast.parse(f"{text}C = {name}\n"), "FLAGS")] == ["main", "f", ""]
    assert [*users(ast.parse("from absl.flags import FLAGS"), "FLAGS")] == [""]


def test_a_command_reads_its_flags_at_its_beginning() -> None:
    found = [{*users(parse(MODULES[module]), "flag_values")} for module in SCRIPTS]
    imports_it, reads_it = "", "main"
    assert [each for each in found if each] == [{imports_it, reads_it}] * len(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_read(command: str) -> None:
    settings = settings_of(command)
    assert settings is not None
    assert "dataclasses.dataclass(frozen=True)" in map(ast.unparse, settings.decorator_list)
    fields = {ast.unparse(each.target) for each in settings.body if isinstance(each, ast.AnnAssign)}
    assert fields
    assert fields == defined_flags(command).union(
        *(defined_flags(each) for each in own_imports(command))
    )


# --- Tests

TESTS = ROOT / "tests"
# Packages whose modules all have a test file of their name.
TESTED = {f"tf_backup.{name}" for name in ("rules", "servers", "actors")}


def unit_tests_of(module: str) -> pathlib.Path:
    """Return where the unit tests of a module belong."""
    package = re.sub(r"^(tf_backup|scripts\.)\.?", "", package_of(module)).replace("_tf", "tf")
    name = MODULES[module].stem.lstrip("_")
    return TESTS.joinpath("unit", *filter(None, package.split(".")), f"test_{name}.py")


def test_folders_of_unit_tests_mirror_the_packages() -> None:
    belong = [unit_tests_of(module) for module in MODULES if package_of(module) != module]
    homes, folders = {path.name: path for path in belong}, {path.parent for path in belong}
    found = sorted((TESTS / "unit").rglob("test_*.py"))
    assert [path for path in found if path.parent not in folders] == []
    assert [path for path in found if homes.get(path.name, path) != path] == []


@pytest.mark.parametrize(
    "module", [each for each in OURS if package_of(each) in TESTED and each not in TESTED]
)
def test_module_has_a_test_file_of_its_name(module: str) -> None:
    path = unit_tests_of(module)
    assert path.exists() or (TESTS / "cluster" / path.name).exists()


# --- Lock files

PIN = re.compile(r'(?P<name>[\w.-]+)==(?P<version>[\w.]+)(; python_version (<|>=) "3\.1[123]")?')
INCLUDE = "-r requirements.lock"


def pins(lock: str, python: str) -> dict[str, str]:
    """Return the versions that a lock file has for a version of Python, by package."""
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
    """Return the requirements in setup.py, with the given extras."""
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


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("requirements.lock", ["scripts", "benchmark", "report", "metrics", "tests"]),
        (
            "requirements-models.lock",
            ["scripts", "benchmark", "report", "metrics", "tests", "models"],
        ),
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
    targets = set(re.findall(r"^make ([a-z-]+)", script, re.MULTILINE))
    assert targets == {"lint", "test", "test-long"}
    assert targets <= TARGETS
