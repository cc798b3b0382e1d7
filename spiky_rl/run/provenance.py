"""Provenance of a result: commit, kernels, threads and versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from spiky_rl import __version__
from spiky_rl.config.named_code import find_code, list_texts
from spiky_rl.config.options import FileRecord
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.config.registry import PACKAGE, find_data_folder
from spiky_rl.hosts import find_host, get_host, list_hosts
from spiky_rl.kernels import compiler
from spiky_rl.kernels.compiler import CompileError
from spiky_rl.learners import get_learner, list_learners

PROVENANCE = "params/provenance.json"
"""File of the provenance in a run folder, written before the first iteration."""
NAMED_FILES = (".py", ".json", ".nir")
"""Endings of files that a specification names: a component's code, a grown graph, a network."""
DIRTY = "-dirty"
"""Suffix of the commit if files of the package differ from it."""
NATIVE_SOURCE = ":/isaaclab_mujoco/src"
"""Git pathspec of the native physics' sources (``:/`` is the top of the checkout); a change there counts as one of the package."""


class Provenance(FileRecord):
    """Code, kernels, threads and compiler, on which a result depends besides its specification and the versions of libraries."""

    kernels: str
    """Digest of the kernels' sources, see `compute_digest`; includes the sources of the native physics if it steps the worlds."""
    threads: int | None = None
    """Threads of torch and of the compiled kernels; None in a study's plan for a GPU (see `plan_provenance`), where
    threads do not change the result."""
    omp_num_threads: str | None = None
    """Value of OMP_NUM_THREADS; None if it was not set."""
    commit: str | None = None
    """HEAD of the package's checkout, with ``-dirty`` if files of the package differ; comma-separated if a training was resumed at
    another commit; None without a checkout."""
    compiler: str | None = None
    """C++ compiler and its version; None if none starts."""


def collect_provenance(device: str, task: str, physics: str) -> Provenance:
    """Return the provenance of this process's results on a ``task``, with networks and worlds on ``device``."""
    import torch  # not needed for reading results

    return Provenance(
        kernels=compute_kernels_digest(device.startswith("cuda"), task, physics),
        threads=torch.get_num_threads(),
        omp_num_threads=os.environ.get("OMP_NUM_THREADS"),
        commit=find_commit(),
        compiler=find_compiler_version(),
    )


def join_commits(commits: Sequence[str | None]) -> str | None:
    """Return the different commits of a result's parts, whose own ``commits`` may be several; None if one of them is unknown."""
    if None in commits:
        return None
    return ", ".join(dict.fromkeys(name for commit in commits for name in str(commit).split(", ")))


@cache
def compute_kernels_digest(on_gpu: bool, task: str, physics: str) -> str:
    """Return the digest of the kernels' sources, and of a ``task``'s ``physics`` backend if its host compiles one."""
    from spiky_rl.kernels.source_digest import compute_digest

    return compute_digest(on_gpu, find_host(task).get_physics_sources(physics))


@cache
def find_commit() -> str | None:
    """Return the commit of the package's checkout, with `DIRTY` if files of the package differ, or None if git finds none.

    The commit is found once per process: a later checkout is not the imported code. A wheel that is installed inside the
    checkout of another project has no commit.
    """
    if shutil.which("git") is None or _run_git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _run_git("rev-parse", "HEAD")
    changes = _run_git("status", "--porcelain", "--", ".", NATIVE_SOURCE)
    return f"{commit}{DIRTY}" if commit and changes else commit


def _run_git(*words: str) -> str | None:
    """Return git's output in the package's folder, or None if git fails."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(PACKAGE), *words]
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else None


def hash_named_files(spec: PlainMapping) -> dict[str, str]:
    """Return a digest of each file that a specification names, by its name there, such as ``parts.py:Mine``, ``x.nir`` or ``mine.parts:Mine``.

    A name that is not a path is one beside the shipped agents. Names without a file are left out, and so are modules of this package,
    which has a commit, and of installed packages, which have versions; those installed in place count.
    """
    digests: dict[str, str] = {}
    modules = find_code(spec)
    for name in list_texts(spec):
        existing = _find_named_file(name) or (_find_module_file(name) if name in modules else None)
        if existing is not None:
            digests[name] = hashlib.sha256(existing.read_bytes()).hexdigest()[:16]
    return digests


def _find_named_file(name: str) -> Path | None:
    """Return the file that ``name`` gives as a path, or None."""
    target, _, _ = name.rpartition(":")
    path = Path(target if target.endswith(".py") else name)
    if path.suffix not in NAMED_FILES:
        return None
    return next((p for p in (path, find_data_folder("agents") / path) if p.is_file()), None)


def _find_module_file(name: str) -> Path | None:
    """Return the file of the module in ``name``, ``module:Class`` or ``module.Class``; None without one or in a library's folder."""
    module = name.replace(":", ".").rpartition(".")[0]
    if module.partition(".")[0] in sys.stdlib_module_names:
        return None
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # no such package, or no name of a module
        return None
    path = Path(found.origin) if found is not None and found.has_location and found.origin else None
    libraries = [Path(sysconfig.get_path(key)) for key in ("purelib", "platlib")]
    return None if path is None or any(path.is_relative_to(folder) for folder in libraries) else path


def find_compiler_version() -> str | None:
    """Return the first line of the C++ compiler's version, or None if no compiler starts."""
    try:
        return compiler.get_compiler_version().partition("\n")[0] if compiler.find_compiler() else None
    except CompileError:
        return None


def get_versions() -> dict[str, str]:
    """Return the versions of all distributions that may affect a result, by name."""
    host_distributions = [name for host in list_hosts() for name in get_host(host).distributions]
    learner_distributions = [get_learner(name).distribution for name in list_learners()]
    names = dict.fromkeys((*host_distributions, *learner_distributions, "numpy"))
    return {"spiky_rl": __version__} | {name: v for name in names if (v := _find_version(name)) is not None}


def list_deciding_distributions(task: str, library: str) -> tuple[str, ...]:
    """Return the distributions whose versions may change the result, bit by bit, on a ``task`` that the learner ``library`` trains."""
    return (*find_host(task).distributions, get_learner(library).distribution)


def get_deciding_versions(task: str, library: str) -> dict[str, str]:
    """Return the versions of the distributions in `list_deciding_distributions`; CPU and GPU builds of one version count as equal."""
    names = list_deciding_distributions(task, library)
    return {name: v.partition("+")[0] for name in names if (v := _find_version(name)) is not None}


@cache
def _find_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
