"""Provenance names the commit of what was imported, and what it was computed with."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spiky_rl.hosts import find_host
from spiky_rl.kernels import compiler
from spiky_rl.run import provenance

ROOT = Path(__file__).resolve().parents[2]
AUTHOR = ("-c", "user.name=a", "-c", "user.email=a@b.c")


def git(folder, *words):
    line = ["git", "-C", str(folder), *AUTHOR, *words]
    variables = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return subprocess.run(line, check=True, capture_output=True, text=True, env=variables).stdout.strip()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in a checkout of its own."""
    folder = tmp_path / "checkout" / "package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    git(folder.parent, "init", "-q")
    monkeypatch.setattr(provenance, "PACKAGE", folder)
    provenance.find_commit.cache_clear()
    yield folder
    provenance.find_commit.cache_clear()


def find_anew():
    provenance.find_commit.cache_clear()
    return provenance.find_commit()


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_the_commit_is_that_of_the_packages_checkout_with_a_mark_where_the_package_differs(
    package, monkeypatch
):
    assert provenance.find_commit() is None, "it is installed within a checkout that it is no part of"
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-qm", "first")
    commit = git(package.parent, "rev-parse", "HEAD")
    assert provenance.find_commit() is None, "it is looked for once"
    assert find_anew() == commit and len(commit) == 40
    (package.parent / "notes.txt").write_text("nothing that runs")
    assert find_anew() == commit
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert find_anew() == commit
    (package / "new.py").write_text("")
    assert find_anew() == f"{commit}-dirty"
    (package / "new.py").unlink()
    native = package.parent / "isaaclab_mujoco" / "src" / "new.h"
    native.parent.mkdir(parents=True)
    native.write_text("")
    assert find_anew() == f"{commit}-dirty"
    native.unlink()
    assert find_anew() == commit
    (package / "__init__.py").write_text("a = 1\n")
    assert find_anew() == f"{commit}-dirty"
    monkeypatch.setenv("PATH", "")
    assert find_anew() is None


def test_provenance_says_what_computes(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = provenance.collect_provenance("cpu", "Isaac-Ant", "newton_mjwarp")
    assert (found.threads, found.omp_num_threads) == (torch.get_num_threads(), "7")
    assert found.compiler is None or found.compiler in compiler.get_compiler_version()
    digests = {
        provenance.collect_provenance(device, "Isaac-Ant", physics).kernels
        for device in ("cpu", "cuda:1")
        for physics in ("newton_mjwarp", "mujoco")
    }
    assert len(digests) == 4
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert provenance.collect_provenance("cpu", "Isaac-Ant", "newton_mjwarp").omp_num_threads is None


def test_the_native_physics_counts_all_that_it_compiles():
    pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
    from isaaclab_mujoco import compiler as native
    from isaaclab_mujoco import worlds

    assert [path.name for path in find_host("Isaac-Ant").get_physics_sources("mujoco")] == sorted(
        worlds.SOURCES
    )
    assert native.FLAGS == compiler.FLAGS, "the digest has the flags of one of them"


def test_a_compiler_that_does_not_start_is_none(monkeypatch):
    def fail():
        raise compiler.CompileError("it does not start")

    monkeypatch.setattr(compiler, "get_compiler_version", fail)
    assert provenance.find_compiler_version() is None


def test_versions_that_decide_are_the_chosen_hosts_and_no_builds(monkeypatch):
    monkeypatch.setattr(provenance, "_find_version", lambda name: None if name == "newton" else "1.2+cu130")
    deciding = provenance.get_deciding_versions("Isaac-Ant", "rsl_rl")
    assert set(deciding) == {"isaaclab", "mujoco", "mujoco-warp", "warp-lang", "torch", "rsl-rl-lib"}
    assert set(deciding.values()) == {"1.2"}
    assert set(provenance.get_versions()) >= {*deciding, "spiky_rl", "skrl", "gymnasium", "numpy"}


def test_results_are_read_without_torch():
    code = "import sys, spiky_rl.experiments.run.cell_worker, spiky_rl.cli.compare; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
