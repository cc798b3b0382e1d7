"""A trained policy as a torch module, without its simulator: ``spiky_rl.load_policy``."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from spiky_rl.api import SpikingModule
from spiky_rl.config import registry
from spiky_rl.config.errors import get_error_text
from spiky_rl.config.named_code import check_code_is_named
from spiky_rl.config.options import UserError
from spiky_rl.config.schema import CATEGORICAL
from spiky_rl.config.spec import AgentSpec, build_agent_spec, follow_moved_files
from spiky_rl.learners import DEFAULT_LEARNER, get_learner
from spiky_rl.learners.common.action_bounds import ActionBounds, round_inwards
from spiky_rl.learners.common.checkpoint_names import list_checkpoints
from spiky_rl.learners.common.checkpoints import (
    CheckpointError,
    find_library,
    get_identity,
    read_checkpoint,
    read_unchecked_checkpoint,
)
from spiky_rl.learners.common.discrete_actions import LargestChoice, list_choices
from spiky_rl.learners.common.inference_policy import clamp_observations, reset_nonfinite
from spiky_rl.networks.base import SpikingNetwork, State
from spiky_rl.run import policies, run_folders
from spiky_rl.run.run_plan import list_trusted_packages

if TYPE_CHECKING:
    import gymnasium


class PolicyModule(SpikingModule):
    """Trained policy without noise: ``policy(x)`` maps observations [B, O] or [T, B, O] to actions.

    Observations are those of the task's environment, of any number type; normalisation is inside. ``policy(x, state)`` is as in
    `SpikingModule`.
    """

    def __init__(self, model: Any, spec: AgentSpec, action_space: gymnasium.Space | None) -> None:
        """Wrap the actor ``model`` from `Learner.load_actor` of an agent ``spec``; `load_policy` describes ``action_space``."""
        super().__init__()
        distribution = model.distribution
        if action_space is not None:
            _check_action_space(action_space, spec, None if distribution is None else distribution.output_dim)
        self.body: nn.Module = getattr(model, "network", None) or model.mlp
        """The spiking network or the MLP."""
        self.normalizer: nn.Module = model.obs_normalizer
        self.to_actions = nn.Sequential(
            nn.Identity() if distribution is None else distribution.as_deterministic_output_module(),
            (
                nn.Identity()
                if action_space is None
                else _make_action_map(action_space, spec.runner.get("clip_actions"))
            ),
        )
        self.spec = spec
        """The agent."""
        self.inputs = (model.obs_dim,)
        network = self.network
        self.state_sizes = network.state_sizes if network is not None and network.stateful else ()

    @property
    def network(self) -> SpikingNetwork | None:
        """The spiking network, which takes normalised observations, ``normalizer(x)``; None for an ANN."""
        return self.body if isinstance(self.body, SpikingNetwork) else None

    def _to_sequence(self, x: Tensor) -> tuple[Tensor, bool]:
        x, is_step = super()._to_sequence(x)
        # many tasks of Gymnasium observe in double precision
        return x.to(next(self.body.parameters()).dtype), is_step

    def _run(self, x: Tensor, state: State | None, keep: Tensor | None) -> tuple[Tensor, State]:
        x, after = self.normalizer(x), ()
        if self.network is None:
            features = self.body(x)
        else:
            # as the policy acts in `play` and in exported files; training must detect non-finite values, so it keeps them
            features, after = self.network(x if self.training else clamp_observations(x), state, keep)
            if not self.training:
                after = reset_nonfinite(after)
        return self.to_actions(features), after

    def extra_repr(self) -> str:
        return f"agent={self.spec.name}, inputs={self.inputs[0]}, stateful={bool(self.state_sizes)}"


def load_policy(
    source: str | os.PathLike[str],
    action_space: gymnasium.Space | None = None,
    *,
    code: Collection[str] = (),
) -> PolicyModule:
    """Load the actor of a trained policy as a torch module; no simulator starts.

        env = gymnasium.make("CartPole-v1")
        policy = spiky_rl.load_policy("CartPole-v1.lif_ppo", env.action_space)
        action = policy(torch.as_tensor(observation).unsqueeze(0))[0]

    The module has the kernels, the gradients and the parameters of training, so it can be examined and trained further; for a file that
    needs no package, see ``export.py``.

    Args:
        source: Name of a policy that ``spiky show policies`` lists, run folder, or checkpoint.
        action_space: The task's action space in Gymnasium: actions are then in its bounds, or the chosen indices if they are discrete.
            Actions of a box of whole numbers are rounded. None for the policy's own actions, as the environments of Isaac Lab and mjlab take
            them, or for logits.
        code: Code outside the package that the agent may use, as ``path/file.py:Class`` or ``module:Class``. A file that has moved since
            the training is found by its new path here, and so is a ``.json`` or ``.nir`` file of the agent.

    Raises:
        UserError: The file is missing, damaged or of another kind, or names other code.
    """
    if isinstance(code, str):
        raise UserError(f"code: {code!r} given; allowed: a list, [{code!r}]")
    path, library = _find_checkpoint(source)
    loaded = read_checkpoint(str(path), library=library)
    identity = get_identity(loaded)
    if not identity.get("spec"):
        raise CheckpointError(f"{path}: not written by spiky train, so its network is unknown")
    values = follow_moved_files(identity["spec"], code)
    remedy = "pass each name in code to allow it"
    check_code_is_named(path, values, code, remedy, list_trusted_packages())
    learner = get_learner(library)
    learner.require_installed()
    spec = build_agent_spec(identity["agent"], values, {})
    try:
        model = learner.load_actor(spec, loaded)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: cannot be loaded as a module: {get_error_text(error)}") from None
    return PolicyModule(model, spec, action_space).eval()


def _find_checkpoint(source: str | os.PathLike[str]) -> tuple[Path, str]:
    """Return the checkpoint that a ``source`` of `load_policy` means, and the name of its learner."""
    if not isinstance(source, str | os.PathLike):
        raise UserError(f"source: {type(source).__name__} given; allowed: a name, or a path")
    name = os.fspath(source)
    names = registry.list_names(policies.KIND)
    if name in names:
        policy = policies.read_policy(name)
        policies.read_weights(policy)  # raises if the file is damaged
        return policy.weights, policy.library
    path = Path(name)
    checkpoints = list_checkpoints(path) if path.is_dir() else [path] if path.exists() else []
    if not checkpoints and path.is_dir():
        raise UserError(f"source: {name!r} has no checkpoint; allowed: a run folder with checkpoints")
    if not checkpoints:
        allowed = "a policy of `spiky show policies`, a checkpoint or a run folder with checkpoints"
        raise UserError(f"source: {name!r} given; allowed: {allowed}{registry.suggest_name(name, names)}")
    library = _find_library(checkpoints)
    return run_folders.find_named_checkpoint(name, library), library


def _find_library(files: Sequence[Path]) -> str:
    """Return the name of the learner that wrote the last undamaged one of the checkpoints ``files``, else of the default learner."""
    for file in reversed(files):
        with contextlib.suppress(CheckpointError):
            return find_library(read_unchecked_checkpoint(str(file))) or DEFAULT_LEARNER
    return DEFAULT_LEARNER


def _check_action_space(space: gymnasium.Space, spec: AgentSpec, num_actions: int | None) -> None:
    """Raise UserError unless the policy of an agent ``spec`` acts in ``space``; None for an unknown ``num_actions``."""
    from gymnasium.spaces import Box

    choices, _ = list_choices(space)
    if not choices and not (isinstance(space, Box) and len(space.shape) == 1):
        raise UserError(
            f"action_space: {space} given; allowed: Discrete, MultiDiscrete, MultiBinary, or Box of one dimension"
        )
    distribution = spec.runner["actor"].get("distribution_cfg") or {}
    is_discrete = distribution.get("class_name") == CATEGORICAL
    size = sum(choices) or math.prod(space.shape or ())
    known = tuple(distribution.get("choices") or ()) or choices[:1]
    if bool(choices) != is_discrete or num_actions not in (None, size) or choices != known:
        if len(known) > 1:
            allowed = f"{', '.join(map(str, known))} choices"
        else:
            allowed = f"Discrete({num_actions})" if is_discrete else f"Box of shape ({num_actions},)"
        raise UserError(f"action_space: {space} given, which is not the policy's; allowed: {allowed}")


def _make_action_map(space: Any, clip: float | None) -> nn.Module:
    """Return the module that maps a policy's output [..., A] to actions in a ``space``; ``clip`` is the agent's ``clip_actions``."""
    if list_choices(space)[0]:
        return LargestChoice(space)
    low, high = round_inwards(space.low, math.inf), round_inwards(space.high, -math.inf)
    takes_whole_numbers = space.dtype.kind in "iub"
    bounds = ActionBounds(torch.as_tensor(low), torch.as_tensor(high), clip, takes_whole_numbers)
    return nn.Sequential(bounds, _Cast(space.dtype)) if takes_whole_numbers else bounds


class _Cast(nn.Module):
    """Conversion of actions to a NumPy ``dtype``."""

    def __init__(self, dtype: np.dtype) -> None:
        super().__init__()
        self.dtype = torch.from_numpy(np.empty(0, dtype)).dtype

    def forward(self, actions: Tensor) -> Tensor:
        return actions.to(self.dtype)
