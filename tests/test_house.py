"""The house keeps its rules: who may import whom, what stays light, how long a file may be."""

import ast
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spiky_rl.config.registry import list_packages

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "spiky_rl"
FLOORS = [
    {"config"},
    {"neurons", "surrogates"},
    {"datasets", "kernels"},
    {"exact"},
    {"codecs", "connections", "penalties", "reservoirs"},
    {"networks"},
    {"learning"},
    {"api"},
    {"metrics"},
    {"learners"},
    {"hosts"},
    {"run", "__init__"},  # the package offers names of api and run
    {"classification", "deploy", "experiments"},
    {"cli"},
]
"""Rooms from the ground up: each may import its own floor and those below."""
STUDY_FLOORS = ("design", "run", "analysis", "report")
"""Rooms of experiments from the ground up: each may import itself and those below."""
HEAVY = {"torch", "cupy", "rsl_rl", "skrl", "isaaclab"}
LONGEST_SCRIPT = 15
BENCHMARKS = {"bench": "start", "verify_gpu": "verify_packages"}
"""Scripts whose code does not ship, and its module."""
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py"))
NATIVE = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "isaaclab_mujoco").rglob("*.py"))
"""Modules and tests of the package beside this one."""


@functools.cache
def tree_of(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"))


@pytest.fixture(scope="module", autouse=True)
def _forget_trees():
    yield
    tree_of.cache_clear()


def imports(tree: ast.AST) -> set[str]:
    """Every module that a file imports, at its top or inside a function; `from a import b` counts as a.b."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str:
    """The room of `spiky_rl/neurons/lif.py` or of `spiky_rl.neurons.lif`."""
    parts = module.removesuffix(".py").replace("/", ".").split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def floor(name: str) -> int:
    return next((i for i, rooms in enumerate(FLOORS) if name in rooms), 0)


def packages(module: str) -> set[str]:
    """The top-level packages that a file imports."""
    return {name.partition(".")[0] for name in imports(tree_of(module))}


def upward(module: str, tree: ast.Module) -> list[str]:
    """What a file imports from floors above its own."""
    own = [name for name in imports(tree) if name.partition(".")[0] == "spiky_rl"]
    return [name for name in own if floor(room(name)) > floor(room(module))]


def test_every_module_stands_in_a_room_and_imports_downwards_only():
    for module in MODULES:
        assert any(room(module) in rooms for rooms in FLOORS), f"{module} stands in no room of the house"
        assert upward(module, tree_of(module)) == [], module


def test_an_import_from_above_would_be_seen():
    inside = ast.parse("def late():\n    from spiky_rl.networks._layer import SpikingLayer\n")
    assert upward("spiky_rl/neurons/lif.py", inside) == ["spiky_rl.networks._layer.SpikingLayer"]
    assert upward("spiky_rl/cli/train.py", inside) == []


def upward_in_experiments(module: str, tree: ast.Module) -> list[str]:
    """What a file of experiments imports from rooms of it above its own."""
    prefix = "spiky_rl.experiments."
    own = STUDY_FLOORS.index(module.split("/")[2])
    rooms = {
        name: name.removeprefix(prefix).partition(".")[0] for name in imports(tree) if name.startswith(prefix)
    }
    return sorted(name for name, room_above in rooms.items() if STUDY_FLOORS.index(room_above) > own)


def test_rooms_of_experiments_import_downwards_only():
    modules = [module for module in MODULES if re.match(r"spiky_rl/experiments/\w+/", module)]
    assert {module.split("/")[2] for module in modules} == set(STUDY_FLOORS)
    for module in modules:
        assert upward_in_experiments(module, tree_of(module)) == [], module
    assert imports(tree_of("spiky_rl/experiments/__init__.py")) == set()


def test_an_import_from_above_in_experiments_would_be_seen():
    inside = ast.parse("def late():\n    from spiky_rl.experiments.report.pages import write_pages\n")
    assert upward_in_experiments("spiky_rl/experiments/run/cells.py", inside) == [
        "spiky_rl.experiments.report.pages.write_pages"
    ]
    assert upward_in_experiments("spiky_rl/experiments/report/sections.py", inside) == []


def test_ground_floor_neurons_and_surrogates_need_only_the_standard_library_yaml_and_pydantic():
    for module in MODULES:
        if room(module) in FLOORS[0] | FLOORS[1]:
            assert packages(module) <= {*sys.stdlib_module_names, "yaml", "pydantic", "spiky_rl"}, module


HOMES = {
    "rsl_rl": "spiky_rl/learners/rsl_rl",
    "isaaclab": "spiky_rl/hosts/isaaclab",
    "mjlab": "spiky_rl/hosts/mjlab",
    "skrl": "spiky_rl/learners/skrl",
    "cupy": "spiky_rl/kernels/backends/cupy.py",
}
"""The only place that may import a library (isaaclab_rl, isaaclab_mujoco and other parts count as isaaclab)."""


def test_a_library_is_imported_in_its_home_only():
    for module in MODULES:
        for name in packages(module):
            home = HOMES.get("isaaclab" if name.startswith("isaaclab_") else name, "")
            assert module.startswith(home), f"{module} imports {name}"


def test_native_physics_is_a_package_of_its_own_that_knows_nothing_of_this_one():
    assert len(NATIVE) > 15
    for module in NATIVE:
        assert "spiky_rl" not in packages(module), module
    users = {module for module in MODULES if "isaaclab_mujoco" in packages(module)}
    assert users == {f"spiky_rl/hosts/isaaclab/{name}.py" for name in ("command", "physics_selection")}


CHOOSING = {
    "set_backend",
    *(
        node.name
        for node in tree_of("spiky_rl/kernels/dispatch.py").body
        if isinstance(node, ast.FunctionDef)
    ),
}
"""Functions whose arguments may be a backend's name."""


def names_a_backend(tree: ast.Module, names: set[str]) -> list[int]:
    """Lines in which a file names a backend.

    It does so where it imports one's module, and where a whole string is one's name and is compared with, assigned to, the default of or
    passed as something that is called a backend, or passed to one of `CHOOSING`; and where a text lists several of them. What is a
    device's or a library's name as well may stand anywhere else; what is not (cupy), nowhere.
    """

    def is_name(node: ast.AST | None) -> bool:
        return isinstance(node, ast.Constant) and node.value in names

    one = rf"\b({'|'.join(sorted(names))})\b"
    listing = re.compile(rf"{one}(\W+|\W+(and|or)\W+){one}")

    def lists(node: ast.AST) -> bool:
        return isinstance(node, ast.Constant) and bool(listing.search(str(node.value)))

    def called(node: ast.AST) -> str:
        return str(
            getattr(node, "attr", getattr(node, "id", getattr(node, "arg", getattr(node, "value", ""))))
        )

    def is_backend(node: ast.AST) -> bool:
        return "backend" in called(node)

    found = []
    for node in ast.walk(tree):
        pairs: list[tuple[ast.AST, ast.AST | None]] = []
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            sides += [part for side in sides for part in getattr(side, "elts", [])]
            pairs = [(a, b) for a in sides for b in sides]
        elif isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.AnnAssign | ast.keyword):
            pairs = [(node if isinstance(node, ast.keyword) else node.target, node.value)]
        elif isinstance(node, ast.arguments):
            ordered = [*node.posonlyargs, *node.args]
            pairs = [*zip(ordered[::-1], node.defaults[::-1], strict=False)]
            pairs += zip(node.kwonlyargs, node.kw_defaults, strict=True)
        elif isinstance(node, ast.Dict):
            pairs = [(key, value) for key, value in zip(node.keys, node.values, strict=True) if key]
        chosen = isinstance(node, ast.Call) and called(node.func) in CHOOSING and any(map(is_name, node.args))
        if (
            chosen
            or any(is_backend(a) and is_name(b) for a, b in pairs)
            or (is_name(node) and node.value in names - {"torch", "cpu"})
            or lists(node)
        ):
            found.append(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            modules = {
                name.removeprefix(BACKENDS).partition(".")[0]
                for name in imports(node)
                if name.startswith(BACKENDS)
            }
            if modules & names:
                found.append(node)
    return [getattr(node, "lineno", 0) for node in found]


BACKENDS = "spiky_rl.kernels.backends."


def test_one_file_alone_chooses_a_backend_and_no_other_knows_one_by_name():
    names = {path.stem for path in (PACKAGE / "kernels" / "backends").glob("[!_]*.py")} - {"base"}
    assert names == {"torch", "cpu", "cupy"}
    for module in MODULES:
        if module != "spiky_rl/kernels/dispatch.py" and not module.startswith("spiky_rl/kernels/backends/"):
            assert names_a_backend(tree_of(module), names) == [], module


@pytest.mark.parametrize(
    "text",
    [
        "if layer.backend == 'cpu': pass",
        "if backend in ('cpu', 'cupy'): pass",
        "backend: str = 'torch'",
        "self.backend, x = 'torch', 1; self.backend = 'torch'",
        "f(backend='cpu')",
        "def f(x, backend='cpu'): pass",
        "def f(*, own_backend='cpu'): pass",
        "settings = {'backend': 'torch'}",
        "network.set_backend('torch')",
        "dispatch.choose_backend('cpu', x)",
        "name = 'cupy'",
        "from spiky_rl.kernels.backends import cpu",
        "from spiky_rl.kernels.backends.torch import Torch",
        "import spiky_rl.kernels.backends.cupy as c",
        "backend: str = option(AUTO, 'auto, torch, cpu, cupy, or one of your own')",
        "raise RegistryError(f'{name}: choose cpu or cupy')",
    ],
)
def test_a_backend_that_is_named_would_be_seen(text):
    assert names_a_backend(ast.parse(text), {"torch", "cpu", "cupy"})


def test_devices_and_libraries_of_the_same_name_are_no_backends():
    text = "x.to('cpu'); d = 'cpu'; f(device='cpu'); x.device.type == 'cpu'; {'torch': 1}; 'cpu, cuda or cuda:N'; import torch"
    assert names_a_backend(ast.parse(text), {"torch", "cpu", "cupy"}) == []


FORMER = ("spiky_rl/hosts/rsl_rl/", "spiky_rl/hosts/skrl/")
"""Former places of learners, which saved configurations name."""
EXPORTED = ("spiky_rl/deploy/",)
"""Exports are of one learner's models, which says so by its ability."""


def named_packages(tree: ast.Module, kind: str, names: set[str]) -> list[int]:
    """Lines in which a file imports a host's or a learner's package, or in which a whole string is one's name."""
    prefixes = tuple(f"spiky_rl.{kind}.{name}" for name in names)
    strings = [
        node.lineno for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in names
    ]
    found = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        and any((f"{name}.").startswith(f"{prefix}.") for name in imports(node) for prefix in prefixes)
    ]
    return [*strings, *found]


@pytest.mark.parametrize("kind", ["hosts", "learners"])
def test_no_file_outside_its_package_knows_a_host_or_a_learner_by_name(kind):
    names = set(list_packages(kind))
    assert names == {"hosts": {"gymnasium", "isaaclab", "mjlab"}, "learners": {"rsl_rl", "skrl"}}[kind]
    allowed = (f"spiky_rl/{kind}/", *FORMER, *EXPORTED)
    knowing = {m for m in MODULES if not m.startswith(allowed) and named_packages(tree_of(m), kind, names)}
    assert knowing == (EXTRAS if kind == "hosts" else set())


EXTRAS = {
    "spiky_rl/cli/show.py",  # the extra that brings matplotlib
    "spiky_rl/learners/rsl_rl/learner.py",  # the extra that brings rsl_rl
}
"""Files in which the name of a host is that of an extra."""


@pytest.mark.parametrize(
    "text",
    [
        "if library == 'skrl': pass",
        "from spiky_rl.learners.skrl.config import make_runner_cfg",
        "from spiky_rl.learners import skrl",
        "import spiky_rl.learners.rsl_rl.model",
    ],
)
def test_a_learner_that_is_named_would_be_seen(text):
    assert named_packages(ast.parse(text), "learners", {"rsl_rl", "skrl"})


READERS = {
    "spiky_rl/hosts/isaaclab/environment.py": "what Isaac Lab's launcher takes",
}
"""Who uses argparse besides the commands, and for what."""


def test_below_the_commands_nobody_knows_a_command_line():
    using = {module for module in MODULES if room(module) != "cli" and "argparse" in packages(module)}
    assert using == set(READERS)


def python(*arguments: str) -> str:
    """What a fresh interpreter prints; the checkout is on its path."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, *arguments]
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_the_package_its_specification_and_its_lists_imports_nothing_heavy():
    names = ["spiky_rl", "spiky_rl.config.registry", "spiky_rl.config.spec", "spiky_rl.cli.show"]
    code = "import importlib, json, sys; [importlib.import_module(n) for n in sys.argv[1:]]; print(json.dumps(list(sys.modules)))"
    loaded = json.loads(python("-c", code, *names))
    assert set(names) <= set(loaded)
    assert not HEAVY & {name.partition(".")[0] for name in loaded}


LISTS = {
    "agents": "lif_ppo",
    "tasks": "cartpole",
    "neurons": "Leaky integrate-and-fire",
    "networks": "Feed-forward",
}


def test_show_lists_and_explains_without_importing_torch():
    lines = [[kind] for kind in LISTS] + [["neurons", "lif"], ["agents", "lif_ppo"]]
    code = """
import json, sys
from spiky_rl.cli import common
from spiky_rl.cli.show import show
assert all(common.run(show, argv) == 0 for argv in json.loads(sys.argv[1]))
print(json.dumps(list(sys.modules)))
"""
    *shown, last = python("-c", code, json.dumps(lines)).splitlines()
    text = "\n".join(shown)
    assert all(name in text for name in LISTS.values())
    assert "tau dV/dt = -V + I(t)" in text
    assert "between 0.001 and" in text, "the range of an option"
    assert not HEAVY & {name.partition(".")[0] for name in json.loads(last)}


def test_the_script_show_answers():
    assert "lif_ppo" in python("scripts/show.py", "agents")


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_scripts_only_call_the_command_of_their_name(script):
    assert len(script.read_text(encoding="utf-8").splitlines()) <= LONGEST_SCRIPT
    used = imports(ast.parse(script.read_text(encoding="utf-8")))
    benchmark = {"sys", "pathlib.Path", f"benchmarks.{BENCHMARKS.get(script.stem)}.main"}
    command = {f"spiky_rl.cli.{script.stem}.{script.stem}", "spiky_rl.cli.common.run"}
    assert used == (benchmark if script.stem in BENCHMARKS else command)


def calls(module: str) -> set[str]:
    """Names of the plain functions that a file calls."""
    nodes = [node.func for node in ast.walk(tree_of(module)) if isinstance(node, ast.Call)]
    return {node.id for node in nodes if isinstance(node, ast.Name)}


def test_nothing_prints_but_a_command_and_nothing_evaluates_text():
    for module in MODULES:
        forbidden = {"eval", "exec"} if room(module) == "cli" else {"eval", "exec", "print"}
        assert not calls(module) & forbidden, module
    for module in NATIVE:
        assert "/tests/" in module or not calls(module) & {"eval", "exec", "print"}, module
    assert "print" in calls("spiky_rl/cli/show.py"), "the check sees a print"


def test_every_module_and_every_public_class_says_what_it_is():
    for module in [*MODULES, *(module for module in NATIVE if "/src/" in module)]:
        tree = tree_of(module)
        public = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_"]
        for node in (tree, *public):
            assert ast.get_docstring(node), f"{module}: {getattr(node, 'name', 'the module')}"


def declarations(tree: ast.AST) -> list[ast.expr]:
    """Return the descriptions of all options and parameters that a file declares."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [node for node in calls if getattr(node.func, "id", "") in ("option", "parameter")]
    given = [[*node.args[1:2], *(k.value for k in node.keywords if k.arg == "description")] for node in named]
    return [description for descriptions in given for description in descriptions]


def test_the_meaning_of_an_option_begins_with_what_it_is():
    meanings = []
    for module in MODULES:
        for node in declarations(tree_of(module)):
            meanings.append(ast.unparse(node).lstrip("f'\""))
            assert not meanings[-1].startswith("of "), f"{module}:{node.lineno}: {meanings[-1]}"
    assert len(meanings) > 300
