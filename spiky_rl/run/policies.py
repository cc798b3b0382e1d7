"""Trained policies of the folder policies/: ``--checkpoint pretrained`` and ``--teacher pretrained:AGENT``.

A policy is two files: ``NAME.yaml``, its manifest with the merged agent, and ``NAME.pt``, the weights of actor and critic. The
weights are a checkpoint without optimiser and random states, read like any other checkpoint: no code in them runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from spiky_rl.config import files, registry
from spiky_rl.config.named_code import find_code
from spiky_rl.config.options import FileRecord, RegistryError, UserError
from spiky_rl.config.safe_loading import ReadingError
from spiky_rl.config.spec import (
    COMMAND_LINE,
    AgentSpec,
    build_agent_spec,
    load_task,
    merge,
    parse_overrides,
    read_yaml,
    strip_version,
)
from spiky_rl.hosts import get_host, list_hosts
from spiky_rl.hosts.base import find_latest_version
from spiky_rl.run.run_plan import RunRequest, list_trusted_packages, split_overrides

KIND = "policies"
PRETRAINED = "pretrained"
"""Name of the shipped policy of a task and an agent in place of a checkpoint."""
POLICY_FILE = "params/policy.yaml"
"""Manifest of the policy with which a training began, in its run folder."""


class Score(FileRecord):
    """Noise-free evaluation of a policy."""

    mean_return: float
    low: float
    """Lower end of the 95% t-interval of the mean over the episodes."""
    high: float
    episodes: int
    seed: int
    """Seed of the evaluation's environments."""


class Policy(FileRecord):
    """Manifest of a trained policy."""

    name: str
    summary: str
    task: str
    agent: str
    library: str
    seed: int
    """Seed of the training."""
    study: str | None
    """Study that trained the policy; None for a single training outside of studies."""
    origin: str | None = None
    """Trainings that the training of a fine-tuned policy continued, as its `trainings`; None for any other policy."""
    env_steps: int
    """Environment steps of the training, and of those in ``origin``."""
    commit: str
    """Commit of the training; comma-separated if it was resumed, or continued a training, at another commit."""
    overrides: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Overrides of the environment in the training."""
    score: Score
    sha256: str
    licence: str
    spec: dict[str, Any]
    """The merged agent, see `AgentSpec.to_dict`."""

    @property
    def trainings(self) -> str:
        """Study and seed of the training, and those of ``origin``."""
        latest = f"{self.study or 'a single training'}, seed {self.seed}"
        return latest if self.origin is None else f"{latest}, after {self.origin}"

    @property
    def weights(self) -> Path:
        """File of the weights."""
        return registry.find_data_folder(KIND) / f"{self.name}.pt"


def read_policy(name: str) -> Policy:
    """Return the manifest of the policy ``name``. Raises ReadingError that names the damaged key."""
    return read_manifest(registry.find_data_folder(KIND) / f"{name}.yaml")


def read_manifest(path: Path) -> Policy:
    """Return the manifest in the file ``path``. Raises ReadingError that names the damaged key."""
    try:
        policy = Policy.check("", {"name": path.stem, **read_yaml(path)})
    except RegistryError as error:
        raise ReadingError(f"{path}: {error}") from None
    if code := find_code(policy.spec, list_trusted_packages()):
        raise ReadingError(f"{path}: names the code {code[0]!r}; allowed: agents without code of their own")
    return policy


def list_policies() -> list[Policy]:
    """Return the manifests of all policies, sorted by name."""
    return [read_policy(name) for name in registry.list_names(KIND)]


def find_policy(task: str, agent: str, flag: str) -> Policy:
    """Return the policy of an agent on a task, given as a registered id with or without version or as a file stem of tasks/.

    If there is none, raises UserError that begins with ``flag``, the user's flag and value, and lists the policies.
    """
    names, policies = list_labels(task), list_policies()
    for policy in policies:
        if policy.task in names and policy.agent == agent:
            return policy
    on_task = [policy.agent for policy in policies if policy.task in names]
    alternatives = (
        f"agents with one on this task: {', '.join(on_task)}"
        if on_task
        else f"tasks with one: {', '.join(dict.fromkeys(policy.task for policy in policies)) or 'none'}"
    )
    raise UserError(f"{flag}: no trained policy of --agent {agent} on --task {task}; {alternatives}")


def list_labels(task: str) -> set[str]:
    """Return the labels that a ``task`` may have in manifests, without importing the module that it may name.

    An id of Gymnasium without version stands for the latest one.
    """
    if (task_spec := load_task(task)) is not None:
        return {task_spec.label}
    name = task.rpartition(":")[2]
    ids = [task_id for host in list_hosts() for task_id in get_host(host).list_tasks()]
    return {name, strip_version(name), find_latest_version(name, ids) or name}


def resolve_pretrained(request: RunRequest) -> RunRequest:
    """Return a request in which ``--checkpoint pretrained`` is replaced by the policy: its file, agent and environment.

    Overrides of the user change the policy's agent and environment. Any other request is returned as it is. Raises UserError if
    there is no such policy, or its file is damaged.
    """
    if request.checkpoint != PRETRAINED:
        return request
    if request.tuning is not None:
        raise UserError(f"--tuning {request.tuning}: not available with --checkpoint {PRETRAINED}")
    policy = find_policy(request.task, request.agent, f"--checkpoint {PRETRAINED}")
    if request.library not in (None, policy.library):
        raise UserError(
            f"--rl_library {request.library}: not available with --checkpoint {PRETRAINED}; allowed: {policy.library}"
        )
    agent, environment = split_overrides(request.overrides)
    limit = [] if request.max_iterations is None else [f"agent.max_iterations={request.max_iterations}"]
    given_keys = {text.partition("=")[0] for text in environment}
    inherited = [text for text in policy.overrides if text.partition("=")[0] not in given_keys]
    return request.with_changes(
        checkpoint=str(copy_weights(policy, request.log_root)),
        spec=merge_spec(policy, [*agent, *limit]),
        library=policy.library,
        overrides=(*inherited, *request.overrides),
    )


def merge_spec(policy: Policy, overrides: Sequence[str]) -> AgentSpec:
    """Return the merged agent of a ``policy`` with ``overrides`` such as ``agent.algorithm.learning_rate=1e-4``."""
    layers = [(f"{KIND}/{policy.name}", policy.spec), (COMMAND_LINE, parse_overrides(overrides))]
    return build_agent_spec(policy.agent, *merge(layers))


def read_weights(policy: Policy) -> bytes:
    """Return the content of a policy's weights. Raises UserError if the file differs from its digest."""
    content = policy.weights.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != policy.sha256:
        raise UserError(f"{policy.weights}: sha256: {digest} given; allowed: {policy.sha256}; install again")
    return content


def copy_weights(policy: Policy, log_root: Path) -> Path:
    """Copy a policy's weights and manifest into a folder below ``log_root``, where commands also write their results.

    Returns the path of the weights. Raises UserError as `read_weights`, or if ``log_root`` cannot be written.
    """
    content = read_weights(policy)
    files.require_writable("--log_root", log_root)
    target = log_root / PRETRAINED / policy.name / policy.weights.name
    if not target.is_file() or target.read_bytes() != content:
        files.write_atomically(target, lambda temporary: temporary.write_bytes(content))
    files.write_text(
        target.parent / POLICY_FILE, policy.weights.with_suffix(".yaml").read_text(encoding="utf-8")
    )
    return target


def find_teacher_weights(named: str, task: str, log_root: Path) -> Path | None:
    """Return the weights of ``--teacher pretrained:AGENT``, or None if ``named`` is a path. Raises UserError without an agent."""
    kind, colon, agent = named.partition(":")
    if kind != PRETRAINED:
        return None
    if not colon:
        raise UserError(f"--teacher {named}: names no agent; allowed: {PRETRAINED}:AGENT")
    return copy_weights(find_policy(task, agent, f"--teacher {named}"), log_root)
