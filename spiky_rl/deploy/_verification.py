"""Verification of exported files: their actions against the live policy's, over a whole episode."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spiky_rl.config.progress import ProgressCallback
from spiky_rl.config.registry import UserError
from spiky_rl.deploy._commands import read_commands
from spiky_rl.deploy.base import Session, Target, get_command_scale
from spiky_rl.kernels import dispatch
from spiky_rl.learners.rsl_rl.model import MLPModel, SpikingModel

MAX_MEAN_ERROR = 0.1
"""If a quantised policy's actions differ by more than this share of their standard deviation, on average, a warning is given."""


@dataclass
class VerificationResult:
    """Comparison of a file's actions with the policy's."""

    scale: float = 1.0
    """Largest factor from the policy's actions to the file's."""
    steps: int = 0
    mismatches: int = 0
    """Control steps that differ by more than the target's tolerance."""
    max_accepted_error: float = 0.0
    """Largest difference in the control steps that count as equal."""
    max_mismatch_error: float = 0.0
    """Largest difference in the mismatches."""
    reference_difference_sum: float = 0.0
    """Sum over the control steps of the reference policy's mean difference from the live policy; 0 if they are the same."""
    action_spread: float = 0.0
    """Standard deviation of the live policy's actions, or commands, over the episode, mean over the actions."""
    largest: float = 1.0
    """Largest action so far, at least 1."""

    def compare(
        self,
        returned: list[np.ndarray],
        expected: list[np.ndarray],
        target: Target,
        model: MLPModel,
    ) -> None:
        """Add a control step.

        Args:
            returned: The file's action and, if the file returns it, state.
            expected: Action and state of the policy.
            model: The live policy.
        """
        # the maximum of NumPy, unlike Python's, is NaN if a part is
        worst = float(np.max([np.abs(a - b).max() for a, b in zip(returned, expected, strict=False)]))
        self.largest = max(self.largest, float(np.abs(expected[0]).max()) / self.scale)
        unit = self.largest if target.has_relative_tolerance else 1.0
        self.steps += 1
        if worst <= target.get_tolerance(model) * self.scale * unit:
            self.max_accepted_error = max(self.max_accepted_error, worst)
        else:
            self.mismatches += 1
            error = math.inf if math.isnan(worst) else worst
            self.max_mismatch_error = max(self.max_mismatch_error, error)

    @property
    def reference_difference(self) -> float:
        """Mean difference between the target's reference policy and the live policy; 0 if they are the same."""
        return self.reference_difference_sum / self.steps

    @property
    def is_imprecise(self) -> bool:
        """Whether the target's reference policy differs from the live policy by more than `MAX_MEAN_ERROR` of the actions' spread."""
        return self.reference_difference > MAX_MEAN_ERROR * self.action_spread

    def format(self, target: Target, model: MLPModel) -> str:
        """Return the result in words, for a file of ``target`` and the live policy ``model``."""
        verdict = f"equal {target.format_tolerance(model, self.scale)}"
        reference_note = ""
        if target.get_reference_model(model) is not model:
            verdict += f" to the policy {target.reference_text}"
            reference_note = f"; mean difference of that policy's actions from the live policy's: {self.reference_difference:.2g}"
        return f"{verdict} in {self.steps - self.mismatches} of {self.steps} control steps of an episode{reference_note}"


def verify_targets(
    model: MLPModel,
    env: Any,
    targets: Mapping[Path, Target],
    progress: ProgressCallback,
    command_model: MLPModel | None = None,
) -> dict[Path, VerificationResult]:
    """Compare files with the policy that they were written from, over an episode of the first environment.

    A file that gives commands is compared with the values that the environment's own action terms computed in the step.

    Args:
        model: The live policy.
        progress: Called after every control step with the share of the longest episode.
        command_model: Copy of ``model`` whose actions are commands; targets that give commands were written from it.

    Raises UserError if a file differs by more than its target allows, or if an action term computes other commands than its scale,
    offset and clip give.
    """
    results: dict[Path, VerificationResult] = {}
    # one episode per backend of the live policy
    for on_cpu_backend in dict.fromkeys(target.needs_cpu_backend for target in targets.values()):
        checks = {
            path: _FileCheck(target, session, model, command_model)
            for path, target in targets.items()
            if target.needs_cpu_backend == on_cpu_backend and (session := target.open_session(path))
        }
        if checks:
            backend = dispatch.list_compiled_backends()["cpu"] if on_cpu_backend else dispatch.REFERENCE
            with _move_to_cpu(model, backend), torch.inference_mode():
                _run_episode(model, env, list(checks.values()), progress, command_model)
            results |= {path: check.get_result() for path, check in checks.items()}
    for path, result in results.items():
        if result.mismatches > targets[path].max_mismatch_share * result.steps:
            raise UserError(
                f"{path}: actions differ from the live policy's in {result.mismatches} of {result.steps} control steps,"
                f" by up to {result.max_mismatch_error:.2g}"
            )
    return results


class _FileCheck:
    """A file under verification: its session, the policy that it must equal, and the comparison so far."""

    def __init__(
        self, target: Target, session: Session, model: MLPModel, command_model: MLPModel | None
    ) -> None:
        self.target, self.session, self.model = target, session, model
        self.gives_commands = command_model is not None and target.gives_commands
        source: Any = command_model if self.gives_commands else model
        self.reference = target.get_reference_model(source)
        self.has_own_reference = self.reference is not source
        self.result = VerificationResult(scale=get_command_scale(source))
        self.live_values: list[np.ndarray] = []
        self.returned: list[np.ndarray] = []
        self.reference_actions: list[np.ndarray] = []

    def act(self, obs: Any, x: np.ndarray, state: list[np.ndarray]) -> None:
        """Run the file; also run the reference policy if that is not the live policy."""
        self.returned = self.session(x, state)
        self.reference_actions = [self.reference(obs).numpy()] if self.has_own_reference else []

    def compare(self, live: list[np.ndarray], commands: np.ndarray | None) -> None:
        """Compare the latest step with ``live``, action and state of the live policy, or with the environment's ``commands``."""
        if self.gives_commands and commands is not None:
            live = [commands]
        self.live_values.append(live[0].copy())
        for action in self.reference_actions:
            self.result.reference_difference_sum += float(np.abs(action - live[0]).mean())
        self.result.compare(self.returned, self.reference_actions or live, self.target, self.model)

    def get_result(self) -> VerificationResult:
        """Return the result of the episode."""
        self.result.action_spread = float(np.concatenate(self.live_values).std(0).mean())
        return self.result


def _run_episode(
    model: MLPModel,
    env: Any,
    checks: list[_FileCheck],
    progress: ProgressCallback,
    command_model: MLPModel | None,
) -> None:
    """Let ``model`` act until the first environment's episode ends, and compare every file in each control step."""
    env.reset()
    for policy in (model, *(check.reference for check in checks)):
        policy.reset()
    for step in itertools.count(1):
        obs = env.get_observations()[:1].to("cpu")
        x = torch.cat([obs[group] for group in model.obs_groups], dim=-1)
        state = get_flat_state(model)
        action = model(obs)
        live = [action.numpy(), *get_flat_state(model)]
        for check in checks:
            check.act(obs, x.numpy(), state)
        all_actions = torch.zeros(env.num_envs, env.num_actions, device=env.device)
        all_actions[:1] = action.to(env.device)
        _, _, dones, _ = env.step(all_actions)
        commands = None if command_model is None else _read_live_commands(env, command_model, action)
        for check in checks:
            check.compare(live, commands)
        if dones[0]:
            return
        progress(float(step / env.max_episode_length))


@contextmanager
def _move_to_cpu(model: MLPModel, backend: str) -> Iterator[None]:
    """Run the block with ``model`` on the CPU and its network on ``backend``; then move it back, and reset it."""
    first, *_ = model.parameters()
    device = first.device
    network = model.network if isinstance(model, SpikingModel) else None
    backend_before = network.backend if network else ""
    model.to("cpu")
    if network:
        network.set_backend(backend)
    try:
        yield
    finally:
        if network:
            network.set_backend(backend_before)
        model.to(device)
        model.reset()


def _read_live_commands(env: Any, command_model: Any, action: torch.Tensor) -> np.ndarray:
    """Return the commands [1, A] of the latest step; ``command_model`` must map the policy's ``action`` [1, A] to the same bits."""
    commands, expected = read_commands(env), command_model.distribution.to_task_units(action)
    if not torch.equal(commands, expected):
        worst = float((commands - expected).abs().max())
        raise UserError(
            f"actions: the environment's terms differ from their scale, offset and clip by {worst:.2g}; allowed: --raw_actions"
        )
    return commands.numpy().copy()


def get_flat_state(model: MLPModel) -> list[np.ndarray]:
    """Return the state of ``model`` as a file takes it: one flat array for a spiking policy, rsl_rl's tensors for an ANN."""
    if isinstance(model, SpikingModel):
        if not model.network.stateful:
            return []
        if model.state is None:
            return [torch.zeros(1, sum(model.network.state_sizes)).numpy()]
        return [torch.cat([s[0] for s in model.state], -1).numpy()]
    if not model.is_recurrent:
        return []
    state = model.get_hidden_state()
    if state is None:
        rnn: Any = model.get_submodule("rnn.rnn")
        zeros = np.zeros((rnn.num_layers, 1, rnn.hidden_size), np.float32)
        return [zeros, zeros] if isinstance(rnn, torch.nn.LSTM) else [zeros]
    return [part.numpy() for part in (state if isinstance(state, tuple) else (state,))]
