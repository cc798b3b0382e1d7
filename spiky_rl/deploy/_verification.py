"""Verification of exported files: their actions against the live policy's, over a whole episode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spiky_rl.config.registry import UserError
from spiky_rl.deploy._commands import CommandMap, read_commands
from spiky_rl.deploy.base import Session, Target
from spiky_rl.kernels import dispatch
from spiky_rl.learners.rsl_rl.model import MLPModel, SpikingModel

if TYPE_CHECKING:
    from spiky_rl.hosts.isaaclab.environment import TimedVecEnv

IMPRECISE = 0.1
"""Share of the actions' spread that a quantised policy may differ by, on average, without a warning."""

type Progress = Callable[[float], None]


@dataclass
class VerificationResult:
    """Comparison of a file's actions with the policy's."""

    steps: int = 0
    difference: float = 0.0
    """Largest difference in the control steps that count as equal."""
    max_error: float = 0.0
    """Largest difference in all other control steps."""
    mismatches: int = 0
    """Control steps that differ by more than the target's tolerance."""
    reference_difference: float = 0.0
    """Mean difference between the target's reference policy and the live policy; 0 if they are the same."""
    action_spread: float = 0.0
    """Standard deviation of the live policy's actions, or commands, over the episode, mean over the actions."""
    largest: float = 1.0
    """Largest action so far, at least 1."""

    def compare(
        self,
        returned: list[np.ndarray],
        wanted: list[np.ndarray],
        target: Target,
        model: MLPModel,
        scale: float = 1.0,
    ) -> None:
        """Add a control step.

        Args:
            returned: The file's action and, if the file returns it, state.
            wanted: Action and state of the policy.
            model: The live policy.
            scale: Largest factor from the policy's actions to the file's.
        """
        worst = max(float(np.abs(a - b).max()) for a, b in zip(returned, wanted, strict=False))
        self.largest = max(self.largest, float(np.abs(wanted[0]).max()) / scale)
        self.add(worst, target.get_tolerance(model) * scale * (self.largest if target.relative else 1.0))

    def add(self, worst: float, allowed: float) -> None:
        """Add a control step with the largest difference ``worst``; up to ``allowed`` it counts as equal."""
        self.steps += 1
        if worst <= allowed:
            self.difference = max(self.difference, worst)
        else:
            self.mismatches += 1
            self.max_error = max(self.max_error, math.inf if math.isnan(worst) else worst)

    @property
    def is_imprecise(self) -> bool:
        """Whether the target's reference policy differs from the live policy by more than `IMPRECISE` of the actions' spread."""
        return self.reference_difference > IMPRECISE * self.action_spread

    def format(self, target: Target, model: MLPModel) -> str:
        """Return the result in words, for a file of ``target`` and the live policy ``model``."""
        limit = target.get_tolerance(model)
        share = " of the largest action so far, or of 1," if target.relative else ""
        allowed, changed = f"equal within {limit:.1g}{share}" if limit else "equal to the last bit", ""
        if target.get_reference_model(model) is not model:
            allowed += f" to the policy {target.changed}"
            changed = f"; mean difference of that policy's actions from the live policy's: {self.reference_difference:.2g}"
        return f"{allowed} in {self.steps - self.mismatches} of {self.steps} control steps of an episode{changed}"


def verify_targets(
    model: MLPModel,
    env: TimedVecEnv,
    targets: Mapping[Path, Target],
    progress: Progress,
    commanding: MLPModel | None = None,
) -> dict[Path, VerificationResult]:
    """Compare files with the policy that they were written from, over an episode of the first environment.

    A file that gives commands is compared with the values that the environment's own action terms computed in the step.

    Args:
        model: The live policy.
        progress: Called after every control step with the share of the longest episode.
        commanding: Copy of ``model`` whose actions are commands, from which targets that give commands were written.

    Raises UserError if a file differs by more than its target allows, or an action term from its own settings.
    """
    agreements: dict[Path, VerificationResult] = {}
    for compiled in dict.fromkeys(target.compiled for target in targets.values()):
        group = {path: target for path, target in targets.items() if target.compiled == compiled}
        backend = dispatch.list_compiled_backends()["cpu"] if compiled else dispatch.REFERENCE
        agreements |= _run_episode(model, env, group, backend, progress, commanding)
    for path, agreement in agreements.items():
        if agreement.mismatches > targets[path].flips * agreement.steps:
            raise UserError(
                f"{path}: actions differ from the live policy's in {agreement.mismatches} of {agreement.steps} control steps,"
                f" by up to {agreement.max_error:.2g}"
            )
    return agreements


class _FileCheck:
    """A file under verification: its session, the policy that it must equal, and the comparison so far."""

    def __init__(
        self, target: Target, session: Session, model: MLPModel, commanding: MLPModel | None
    ) -> None:
        self.target, self.session, self.model = target, session, model
        self.gives_commands = commanding is not None and target.gives_commands
        origin: Any = commanding if self.gives_commands else model
        self.scale = float(origin.distribution.bounds.scale.abs().max()) if self.gives_commands else 1.0
        self.reference = target.get_reference_model(origin)
        self.is_changed = self.reference is not origin
        self.result = VerificationResult()
        self.live_values: list[np.ndarray] = []
        self.returned: list[np.ndarray] = []
        self.referred: list[np.ndarray] = []

    def act(self, obs: Any, x: np.ndarray, state: list[np.ndarray]) -> None:
        """Run the file and, if it is not the live policy, the reference policy."""
        self.returned = self.session(x, state)
        self.referred = [self.reference(obs).numpy()] if self.is_changed else []

    def compare(self, expected: list[np.ndarray], commands: np.ndarray | None) -> None:
        """Compare the latest step with action and state of the live policy, or with the environment's ``commands``."""
        wanted = [commands] if commands is not None and self.gives_commands else expected
        self.live_values.append(wanted[0].copy())
        if self.referred:
            self.result.reference_difference += float(np.abs(self.referred[0] - wanted[0]).mean())
        self.result.compare(self.returned, self.referred or wanted, self.target, self.model, self.scale)

    def get_result(self) -> VerificationResult:
        """Return the result of the episode."""
        self.result.reference_difference /= self.result.steps
        self.result.action_spread = float(np.concatenate(self.live_values).std(0).mean())
        return self.result


def _run_episode(
    model: MLPModel,
    env: TimedVecEnv,
    targets: Mapping[Path, Target],
    backend: str,
    progress: Progress,
    commanding: MLPModel | None,
) -> dict[Path, VerificationResult]:
    checks = {
        path: _FileCheck(target, session, model, commanding)
        for path, target in targets.items()
        if (session := target.open_session(path))
    }
    distribution: Any = None if commanding is None else commanding.distribution
    steps, is_over = 0, not checks
    with _move_to_cpu(model, backend), torch.inference_mode():
        env.reset()
        for policy in (model, *(check.reference for check in checks.values())):
            policy.reset()
        while not is_over:
            obs = env.get_observations()[:1].to("cpu")
            x = torch.cat([obs[group] for group in model.obs_groups], dim=-1)
            before = get_flat_state(model)
            action = model(obs)
            expected = [action.numpy(), *get_flat_state(model)]
            for check in checks.values():
                check.act(obs, x.numpy(), before)
            steps += 1
            whole = torch.zeros(env.num_envs, env.num_actions, device=env.device)
            whole[:1] = action.to(env.device)
            is_over = bool(env.step(whole)[2][0])
            commands = None if commanding is None else _read_live_commands(env, distribution.bounds, action)
            for check in checks.values():
                check.compare(expected, commands)
            if not is_over:
                progress(float(steps / env.max_episode_length))
    return {path: check.get_result() for path, check in checks.items()}


@contextmanager
def _move_to_cpu(model: MLPModel, backend: str) -> Iterator[None]:
    """Run the block with ``model`` on the CPU and its network on ``backend``; then move it back, and reset it."""
    device = next(model.parameters()).device
    network = model.network if isinstance(model, SpikingModel) else None
    before = network.backend if network else ""
    model.to("cpu")
    if network:
        network.set_backend(backend)
    try:
        yield
    finally:
        if network:
            network.set_backend(before)
        model.to(device)
        model.reset()


def _read_live_commands(env: TimedVecEnv, bounds: CommandMap, action: torch.Tensor) -> np.ndarray:
    """Return the commands [1, A] of the latest step; ``bounds`` must map the policy's ``action`` [1, A] to the same bits."""
    commands = read_commands(env)
    if not torch.equal(commands, bounds(action)):
        worst = float((commands - bounds(action)).abs().max())
        raise UserError(
            f"actions: the environment's terms differ from their scale, offset and clip by {worst:.2g}; allowed: --raw_actions"
        )
    return commands.numpy().copy()


def get_flat_state(model: MLPModel) -> list[np.ndarray]:
    """Return the state of ``model`` as a file takes it: one flat array for a spiking policy, rsl_rl's tensors for an ANN."""
    if isinstance(model, SpikingModel):
        if not model.network.stateful:
            return []
        rest = torch.zeros(1, sum(model.network.state_sizes))
        return [(rest if model.state is None else torch.cat([s[0] for s in model.state], -1)).numpy()]
    if not model.is_recurrent:
        return []
    state = model.get_hidden_state()
    if state is None:
        recurrent: Any = model.rnn
        rnn = recurrent.rnn
        shape = (rnn.num_layers, 1, rnn.hidden_size)
        return [np.zeros(shape, np.float32)] * (2 if isinstance(rnn, torch.nn.LSTM) else 1)
    return [part.numpy() for part in (state if isinstance(state, tuple) else (state,))]
