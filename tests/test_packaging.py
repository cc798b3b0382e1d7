"""Wheel, sdist and editable install carry the same package, with the YAML folders inside it; native physics is a wheel of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = [
    "spiky_rl",
    "agents",
    "tasks",
    "spaces",
    "policies",
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "THIRD_PARTY.md",
]
NATIVE = ROOT / "isaaclab_mujoco"
MODULES = ("build", "pip", "setuptools")
LIST = """
import site, sys
site.addsitedir(sys.argv[1])
sys.path.append(sys.argv[2])  # the dependencies; a plain path, so that no other editable install comes in
from spiky_rl.config import registry
print(registry.__file__)
print(*registry.list_names("agents"), "|", *registry.list_names("tasks"))
"""

pytestmark = pytest.mark.skipif(
    not all(find_spec(name) for name in MODULES),
    reason=f"building needs {', '.join(MODULES)}: the extra 'dev'",
)


def python(*arguments: object, cwd: Path) -> str:
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command} failed:\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    return result.stdout


def install(source: list[object], prefix: Path) -> Path:
    """Install into a prefix of its own, without a look at any index, and return its site-packages."""
    options = [
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--no-warn-script-location",
        "--ignore-installed",
    ]
    python("-m", "pip", "install", *options, "--prefix", prefix, *source, cwd=prefix.parent)
    return prefix / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)


def listed(site_packages: Path) -> tuple[Path, str]:
    """Where an installed package lies, and the agents and tasks that it lists."""
    dependencies = sysconfig.get_path("purelib")
    where, names = python("-I", "-S", "-c", LIST, site_packages, dependencies, cwd=site_packages).splitlines()
    return Path(where), names


@pytest.fixture(name="checkout", scope="module")
def checkout_without_build_leftovers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, because a build leaves files behind and would pick up those of an earlier one."""
    copy = tmp_path_factory.mktemp("packaging") / "checkout"
    copy.mkdir()
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    (copy / "tests").mkdir()
    (copy / "tests" / "test_none.py").write_text("")
    return copy


@pytest.fixture(name="archives", scope="module")
def built_archives(checkout: Path) -> tuple[Path, Path]:
    """The wheel, built from the checkout, and the sdist."""
    python(
        "-m",
        "build",
        "--no-isolation",
        "--wheel",
        "--sdist",
        "--outdir",
        checkout.parent / "dist",
        checkout,
        cwd=checkout.parent,
    )
    (wheel,) = (checkout.parent / "dist").glob("*.whl")
    (sdist,) = (checkout.parent / "dist").glob("*.tar.gz")
    return wheel, sdist


@pytest.mark.slow
def test_wheel_holds_the_package_and_its_data_and_nothing_else(
    archives: tuple[Path, Path], checkout: Path
) -> None:
    with zipfile.ZipFile(archives[0]) as wheel:
        files = set(wheel.namelist())
        entry_points = wheel.read("spiky_rl-0.1.0.dist-info/entry_points.txt").decode()
    source = {
        path
        for path in (checkout / "spiky_rl").rglob("*")
        if path.suffix in {".py", ".c", ".cpp", ".h", ".j2"} or path.name == "py.typed"
    }
    expected = {path.relative_to(checkout).as_posix() for path in source}
    for kind in ("agents", "tasks", "spaces", "policies"):
        expected |= {f"spiky_rl/{kind}/{path.name}" for path in (checkout / kind).iterdir()}
    assert "spiky_rl/py.typed" in expected
    assert {name for name in files if ".dist-info/" not in name} == expected
    assert "[console_scripts]\nspiky = spiky_rl.cli.__main__:main" in entry_points
    assert "[isaaclab.tasks]\nspiky_rl = spiky_rl.hosts.isaaclab.agents" in entry_points


@pytest.mark.slow
def test_sdist_holds_the_folders_as_the_checkout_does(archives: tuple[Path, Path], checkout: Path) -> None:
    with tarfile.open(archives[1]) as sdist:
        files = {name.partition("/")[2] for name in sdist.getnames()}
    for kind in ("agents", "tasks", "spaces", "policies"):
        assert {f"{kind}/{path.name}" for path in (checkout / kind).iterdir()} <= files
    assert {
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "THIRD_PARTY.md",
        "pyproject.toml",
        "setup.py",
        "spiky_rl/py.typed",
    } <= files
    assert not any(name.startswith("tests") for name in files)


def test_the_image_copies_all_that_a_build_needs() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    admitted = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert copied == admitted == {*SHIPPED, "requirements.lock", NATIVE.name}


@pytest.mark.slow
@pytest.mark.parametrize("extras", ["gymnasium,skrl", "isaaclab,skrl", "isaaclab,skrl,cuda"])
def test_the_image_installs_packages_that_exist(extras: str, tmp_path: Path) -> None:
    """Docker is not needed: the image's own line runs on a copy of what it copies, up to the download."""
    uv = ROOT / ".uv" / "bin" / "uv"
    if not uv.exists():
        pytest.skip("uv is not installed: make setup")
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    (line,) = re.findall(r"^RUN (case .*)$", text, re.MULTILINE)
    for copied in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        for name in copied.split():
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, tmp_path / name)
    line = line.replace("/opt/uv/bin/uv", str(uv)).replace("/opt/spiky/bin/python", sys.executable)
    done = subprocess.run(
        ["sh", "-c", f"{line} --dry-run --reinstall"],
        cwd=tmp_path,
        env={**os.environ, "EXTRAS": extras, "TORCH": "auto"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "does not have an extra" not in done.stderr, done.stderr[-3000:]
    planned = set(re.findall(r"^ \+ ([a-z0-9_.-]+)[=@ ]", done.stderr, re.MULTILINE))
    expected = {"spiky-rl", "torch", "gymnasium", "skrl"}
    expected |= {"isaaclab", "isaaclab-mujoco"} if "isaaclab" in extras else set()
    assert expected <= planned and any("cupy" in name for name in planned) == ("cuda" in extras)


@pytest.mark.slow
def test_wheel_sdist_and_editable_install_list_the_same_agents_and_tasks(
    archives: tuple[Path, Path], checkout: Path
) -> None:
    folder = checkout.parent
    wheel, sdist = (install([archive], folder / f"from_{archive.suffix[1:]}") for archive in archives)
    editable = install(["--editable", checkout], folder / "editable")

    found = {}
    for site_packages, home in ((wheel, wheel), (sdist, sdist), (editable, checkout)):
        where, found[site_packages] = listed(site_packages)
        assert where.is_relative_to(home)
        assert {path.name for path in site_packages.iterdir()}.isdisjoint(
            {"agents", "tasks", "spaces", "policies", "tests", "scripts"}
        )

    agents, _, tasks = found[wheel].partition(" | ")
    assert {"lif_ppo", "mlp_ppo"} <= set(agents.split()) and "ant" in tasks.split()
    assert found[wheel] == found[sdist] == found[editable]


@pytest.fixture(name="native", scope="module")
def native_physics_without_build_leftovers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("native") / "isaaclab_mujoco"
    shutil.copytree(NATIVE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    return copy


def test_native_physics_is_a_wheel_of_its_own_that_needs_nothing_of_this_package(native: Path) -> None:
    dist = native.parent / "dist"
    python("-m", "build", "--no-isolation", "--wheel", "--outdir", dist, native, cwd=native.parent)
    (path,) = dist.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        files = set(wheel.namelist())
        information = "isaaclab_mujoco-0.1.0.dist-info"
        entry_points = wheel.read(f"{information}/entry_points.txt").decode()
        metadata = wheel.read(f"{information}/METADATA").decode()
    expected = {
        path.relative_to(native / "src").as_posix()
        for path in (native / "src" / "isaaclab_mujoco").iterdir()
        if path.suffix in {".py", ".h"} or path.name == "py.typed"
    }
    assert len(expected) > 12
    assert {name for name in files if ".dist-info/" not in name} == expected
    assert {
        f"{information}/licenses/{name}" for name in ("LICENSE", "THIRD_PARTY.md", "LICENSES/Apache-2.0.txt")
    } <= files
    assert "[isaaclab.tasks]\nisaaclab_mujoco = isaaclab_mujoco.tasks" in entry_points
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    assert "Requires-Dist: isaaclab==3.0.*" in needed and not any("spiky" in line for line in needed)


@pytest.mark.slow
def test_an_editable_install_of_native_physics_is_found_beside_the_folder_of_its_name(native: Path) -> None:
    site_packages = install(["--editable", native], native.parent / "editable")
    code = "import site, sys; site.addsitedir(sys.argv[1]); import isaaclab_mujoco; print(isaaclab_mujoco.__file__)"
    where = python("-E", "-S", "-c", code, site_packages, cwd=native.parent)
    assert Path(where.strip()) == native / "src" / "isaaclab_mujoco" / "__init__.py"


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("twine"), reason="twine is not installed (pip install twine)")
def test_an_index_would_take_and_show_all_archives(archives: tuple[Path, Path], native: Path) -> None:
    dist = native.parent / "checked"
    python("-m", "build", "--no-isolation", "--outdir", dist, native, cwd=native.parent)
    python("-m", "twine", "check", "--strict", *archives, *dist.iterdir(), cwd=native.parent)
