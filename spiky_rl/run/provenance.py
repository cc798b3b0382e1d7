"""Provenance of a result: the commit, kernels, threads and versions that it was computed with."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import spiky_rl
from spiky_rl import __version__
from spiky_rl.config.options import FileRecord
from spiky_rl.hosts import find_host, get_host, list_hosts
from spiky_rl.kernels import compiler
from spiky_rl.kernels.compiler import CompileError
from spiky_rl.learners import get_learner, list_learners

PACKAGE = Path(spiky_rl.__file__).parent
PROVENANCE = "params/provenance.json"
"""In a run's folder: the provenance of what it is computed with, written before its first iteration."""
DIRTY = "-dirty"
"""End of a commit whose package was changed since."""
NATIVE_SOURCE = ":/isaaclab_mujoco/src"
"""Native physics in the same checkout, as git names it; a change there counts as one of the package."""


class Provenance(FileRecord):
    """Origin of a result beyond its specification and the versions of libraries."""

    kernels: str
    """Digest of the compiled kernels' sources, see `compute_digest`; those of the native physics are in it where that steps the worlds."""
    threads: int | None = None
    """Threads of torch and of the compiled kernels; None in a plan for a GPU."""
    omp_num_threads: str | None = None
    """Value of OMP_NUM_THREADS; None if it was not set."""
    commit: str | None = None
    """HEAD of the checkout that the package was imported from, ``-dirty`` behind it if the package differs from that, and several joined
    by commas if a training was interrupted and went on at another; None without a checkout."""
    compiler: str | None = None
    """C++ compiler and its version; None if there is none that starts."""


def read_provenance(device: str, task: str, physics: str) -> Provenance:
    """Return the provenance of what this process computes.

    Args:
        device: Device of networks and worlds.
        task: The task, which tells the host.
        physics: Physics backend.
    """
    import torch  # those who read results do without

    return Provenance(
        kernels=compute_kernels_digest(device.startswith("cuda"), task, physics),
        threads=torch.get_num_threads(),
        omp_num_threads=os.environ.get("OMP_NUM_THREADS"),
        commit=find_commit(),
        compiler=find_compiler(),
    )


@cache
def compute_kernels_digest(on_gpu: bool, task: str, physics: str) -> str:
    """Return the digest of the sources of kernels, and of a ``task``'s ``physics`` backend if its host compiles one."""
    from spiky_rl.kernels.source_digest import compute_digest

    return compute_digest(on_gpu, find_host(task).get_physics_sources(physics))


@cache
def find_commit() -> str | None:
    """Return the commit of the package's checkout, with `DIRTY` behind it if files of the package differ; None if git tells none.

    It is looked for once in a process: what is checked out later is not what was imported. A wheel that is installed inside of another
    project's checkout is no part of that.
    """
    if shutil.which("git") is None or _ask_git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit, changes = _ask_git("rev-parse", "HEAD"), _ask_git(
        "status", "--porcelain", "--", ".", NATIVE_SOURCE
    )
    return f"{commit}{DIRTY}" if commit and changes else commit


def _ask_git(*words: str) -> str | None:
    """Return what git says in the package's folder; None if it fails."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(PACKAGE), *words]
    said = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    return said.stdout.strip() if said.returncode == 0 else None


def find_compiler() -> str | None:
    """Return the C++ compiler's first line about its version; None if there is none that starts."""
    try:
        return compiler.get_compiler_version().partition("\n")[0] if compiler.find_compiler() else None
    except CompileError:
        return None


def get_versions() -> dict[str, str]:
    """Return the versions of everything that shapes a result, by distribution."""
    stepping = [name for host in list_hosts() for name in get_host(host).distributions]
    training = [get_learner(name).distribution for name in list_learners()]
    names = dict.fromkeys((*stepping, *training, "numpy"))
    return {"spiky_rl": __version__} | {name: v for name in names if (v := _find_version(name)) is not None}


def list_deciding(task: str, library: str) -> tuple[str, ...]:
    """Return the distributions whose versions may change bits on a ``task`` that the learner ``library`` trains."""
    return (*find_host(task).distributions, get_learner(library).distribution)


def get_deciding_versions(task: str, library: str) -> dict[str, str]:
    """Return the versions of what `list_deciding` names; builds of one version for CPU and GPU count as equal."""
    names = list_deciding(task, library)
    return {name: v.partition("+")[0] for name in names if (v := _find_version(name)) is not None}


def _find_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
