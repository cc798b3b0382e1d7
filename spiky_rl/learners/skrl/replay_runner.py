"""Runner of skrl's TD3 and SAC: control steps into a replay buffer, and gradient steps out of it."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, override

import torch
from skrl.agents.torch.sac import SAC_CFG
from skrl.agents.torch.td3 import TD3_CFG
from skrl.memories.torch import RandomMemory
from skrl.models.torch import Model
from skrl.resources.noises.torch import GaussianNoise
from skrl.resources.preprocessors.torch import RunningStandardScaler
from torch import Tensor, nn

from spiky_rl.config.memory_check import NUMBER, get_machine_memory, require_memory
from spiky_rl.learners.common.activity import (
    MAX_MEASURED_ENVS,
    PolicyActivity,
    draw_rollout_raster,
    write_figures,
)
from spiky_rl.learners.common.checkpoint_names import CheckpointError, is_numbered
from spiky_rl.learners.common.runner import wrap_load_errors
from spiky_rl.learners.skrl.activity import compute_activity
from spiky_rl.learners.skrl.base_runner import SkrlBaseRunner, silence_skrl
from spiky_rl.learners.skrl.models import Spaces
from spiky_rl.learners.skrl.replay_agents import SpikingSAC, SpikingTD3
from spiky_rl.learners.skrl.replay_models import (
    ActionValue,
    DeterministicActor,
    ProxyActor,
    ReplayActor,
    SquashedGaussianActor,
)

log = logging.getLogger(__name__)

CRITICS = ("critic_1", "critic_2")
LOSSES = {
    "Loss / Critic loss": "critic",
    "Loss / Policy loss": "actor",
    "Coefficient / Entropy coefficient": "entropy_weight",
}
"""Name of a loss by skrl's tag."""


class ReplayRunner(SkrlBaseRunner):
    """Runner of TD3 and SAC. An iteration is ``num_steps_per_env`` control steps with the gradient steps between them.

    The replay buffer is kept beside the checkpoints, see `ReplayFiles`. A training that resumes from a checkpoint without its files first
    fills a new buffer, with its trained actor, up to ``learning_starts`` transitions.
    """

    parts = {
        "actor": ("policy", "observation_preprocessor"),
        "critic": (
            "target_policy",
            *CRITICS,
            *(f"target_{name}" for name in CRITICS),
            "state_preprocessor",
            "entropy",
        ),
        "optimizer": ("policy_optimizer", "critic_optimizer", "proxy_optimizer", "entropy_optimizer"),
    }
    same_settings = "agent.algorithm.class_name, its learn_entropy, and agent.actor.obs_normalization"

    @override
    def _build_agent(self) -> None:
        config, environment, device, num_envs = self.cfg, self.environment, self.device, self.env.num_envs
        spaces: Spaces = {
            "observation_space": environment.observation_space,
            "state_space": environment.state_space,
            "action_space": environment.action_space,
            "device": device,
        }
        models = _make_models(config, spaces)
        memory_size = math.ceil(config["replay_size"] / num_envs)
        # the buffer takes its memory when a training starts, see `_start`
        memory = RandomMemory(memory_size=memory_size, num_envs=num_envs, device=device, replacement=True)
        is_td3 = config["algorithm"] == "td3"
        values = _make_common_cfg(config, spaces, num_envs)
        cfg = _make_td3_cfg(values, device) if is_td3 else SAC_CFG(**values)
        self.alg: SpikingTD3 | SpikingSAC = (SpikingTD3 if is_td3 else SpikingSAC)(
            models=models, memory=memory, cfg=cfg, **spaces,
            learning_starts=config["learning_starts"], updates_per_step=config["updates_per_step"],
        )  # fmt: skip
        self.policy: ReplayActor = self.alg.policy
        self._critics = nn.ModuleList(self.alg.critics)
        self._observations: Tensor | None = None
        self._loaded_checkpoint: Path | None = None

    @property
    def models(self) -> Iterable[nn.Module]:
        """Actor and critics."""
        return self.policy, self._critics

    @property
    @override
    def action_std(self) -> Tensor:
        if isinstance(self.policy, SquashedGaussianActor):
            x = self.alg.normalize_observations(self._get_latest_observations())
            with torch.no_grad():
                return self.policy.compute_gaussian({"observations": x})[1].exp().mean(0)
        return torch.full((self.env.num_actions,), float(self.cfg["agent"]["exploration_noise"]))

    @override
    def _start(self) -> None:
        agent = self.alg
        if not agent.memory.tensors:
            self._require_memory()
            with silence_skrl():
                agent.init()
            if not getattr(self.env, "has_final_observations", False):
                log.info(
                    "the environment gives no final observations: at a time limit, the next episode's first one stands for it"
                )
            if self.progress.env_steps and self._loaded_checkpoint is not None:
                self._restore_replay(self._loaded_checkpoint)
        agent.enable_training_mode(True)

    def _restore_replay(self, checkpoint: Path) -> None:
        """Fill the replay buffer with the transitions up to a ``checkpoint``, or say that learning resumes with new ones."""
        counters = self.alg.files.read(checkpoint.parent, self.progress.iterations - 1)
        if counters is None:
            log.info(
                "%s: no replay buffer beside it; learning resumes with %d new transitions",
                checkpoint, max(self.cfg["learning_starts"], 1),
            )  # fmt: skip
            return
        self.alg.counters = counters
        log.info(
            "the replay buffer holds %s transitions of %s", f"{len(self.alg.memory):,}", checkpoint.parent
        )

    def _require_memory(self) -> None:
        """Raise UserError if the replay buffer does not fit into the memory of its device."""
        memory, policy = self.alg.memory, self.policy
        # observations and states before and after the step, actions and reward
        numbers = 2 * (policy.num_observations + policy.num_states) + policy.num_actions + 1
        size = memory.memory_size * memory.num_envs
        device = torch.device(self.device)
        on_gpu = device.type == "cuda"
        available = torch.cuda.mem_get_info(device)[0] if on_gpu else get_machine_memory()
        name = f"agent.algorithm.replay_size {self.cfg['replay_size']}"
        require_memory({name: size * (numbers * NUMBER + 1)}, available)

    @override
    def _run_iteration(self, index: int, observations: Tensor) -> tuple[Tensor, float, float]:
        steps, agent = self.cfg["num_steps_per_env"], self.alg
        learning, started = 0.0, time.perf_counter()
        for step in range(steps):
            clock = {"timestep": index * steps + step, "timesteps": (index + 1) * steps}
            observations = self._observations = self._run_control_step(observations, clock)
            if agent.is_learning:
                self.is_recorded = False
                before = time.perf_counter()
                agent.post_interaction(**clock)
                learning += time.perf_counter() - before
        agent.count_update()
        return observations, time.perf_counter() - started - learning, learning

    @override
    def save(self, path: str, infos: dict | None = None) -> None:
        super().save(path, infos)
        if is_numbered(Path(path)):
            self.alg.files.write(Path(path), self.alg.counters)

    @override
    def load(
        self, path: str, load_cfg: dict | None = None, strict: bool = True, map_location: str | None = None
    ) -> dict:
        infos = super().load(path, load_cfg, strict, map_location)
        self._loaded_checkpoint = Path(path)
        return infos

    @override
    def _select_modules(self, path: str, names: Collection[str], loaded: Mapping[str, Any]) -> dict[str, Any]:
        if "target_policy" in names and "target_policy" in loaded and isinstance(self.alg, SpikingTD3):
            ann_weight = "body.mlp.0.weight"  # a proxy is an ANN beside a spiking actor
            with wrap_load_errors(path):
                is_proxy = ann_weight in loaded["target_policy"] and ann_weight not in loaded["policy"]
            if is_proxy != isinstance(self.alg.target_policy, ProxyActor):
                given, trained = ("spiking", "proxy") if is_proxy else ("proxy", "spiking")
                raise CheckpointError(
                    f"{path}: agent.algorithm.target: {given} given; allowed: {trained}, as in the training of the checkpoint"
                )
        return super()._select_modules(path, names, loaded)

    @override
    def get_exportable_policy(self) -> Any:
        from spiky_rl.learners.skrl.trained_actor import build_actor, convert_weights, set_normalization

        model = build_actor(
            self.cfg, self.env.get_observations(), self.environment.actor, self.policy.num_actions
        )
        model.load_state_dict(convert_weights(self.cfg, self.policy.state_dict()))
        if isinstance(scaler := self.alg.copy_normalisation(), RunningStandardScaler):
            set_normalization(model, scaler)
        return model.to(self.device).eval()

    @override
    def compute_losses(self) -> dict[str, float]:
        # empty before the first update
        tracked = self.alg.tracking_data
        losses = {
            name: sum(tracked[tag]) / len(tracked[tag]) for tag, name in LOSSES.items() if tag in tracked
        }
        tracked.clear()
        return losses

    @override
    def _write_figures(self, index: int) -> None:
        memory = self.alg.memory
        count = min(self.cfg["num_steps_per_env"], len(memory) // memory.num_envs)
        latest = torch.arange(memory.memory_index - count, memory.memory_index) % memory.memory_size
        figure = None
        if self.policy.network is not None:
            x = self.alg.normalize_observations(memory.get_tensor_by_name("observations")[latest, :1])
            figure = draw_rollout_raster(self.policy.network, x, None, torch.zeros(count, device=x.device))
        write_figures(self.writer, index, memory.get_tensor_by_name("actions")[latest], figure)

    @override
    def _compute_activity(self) -> PolicyActivity:
        x = self.alg.normalize_observations(self._get_latest_observations())
        return compute_activity(self.policy, x, None, self.meter)

    def _get_latest_observations(self) -> Tensor:
        """Return the observations of at most `MAX_MEASURED_ENVS` environments before the next control step."""
        assert self._observations is not None
        return self._observations[:MAX_MEASURED_ENVS]


def _make_models(config: Mapping[str, Any], spaces: Spaces) -> dict[str, Model]:
    """Return actor, critics and their targets."""
    is_td3 = config["algorithm"] == "td3"
    policy_class = DeterministicActor if is_td3 else SquashedGaussianActor
    models: dict[str, Model] = {"policy": policy_class(**config["policy"], **spaces)}
    models |= {name: ActionValue(**config["critic"], **spaces) for name in CRITICS}
    models |= {f"target_{name}": copy.deepcopy(models[name]) for name in CRITICS}
    if is_td3 and config["target"] == "proxy":
        models["target_policy"] = ProxyActor(**config["proxy"], ann={"activation": "relu"}, **spaces)
    elif is_td3:
        models["target_policy"] = copy.deepcopy(models["policy"])
    return models


def _make_common_cfg(config: Mapping[str, Any], spaces: Spaces, num_envs: int) -> dict[str, Any]:
    """Return the options that skrl's TD3 and SAC share; ``learning_starts`` is 0 in them, as `ReplayAgent` decides when to learn."""
    values = dict(config["agent"])
    scale = values.pop("rewards_shaper_scale")
    for key, space in (("observation", spaces["observation_space"]), ("state", spaces["state_space"])):
        if values.pop(f"{key}_preprocessor") is not None:
            values[f"{key}_preprocessor"] = RunningStandardScaler
            values[f"{key}_preprocessor_kwargs"] = {"size": space, "device": spaces["device"]}
    if scale != 1.0:
        values["rewards_shaper"] = lambda rewards, *_: rewards * scale
    # a timestep of skrl is a control step of all environments at once
    values["random_timesteps"] = math.ceil(config["random_steps"] / num_envs)
    return {**values, "learning_starts": 0, "experiment": {"write_interval": 0, "checkpoint_interval": 0}}


def _make_td3_cfg(values: dict[str, Any], device: str) -> TD3_CFG:
    """Return the options of skrl's TD3; ``values`` are those of `_make_common_cfg`, with the noises as numbers."""
    for key, option in (
        ("exploration_noise", "exploration_noise"),
        ("smooth_regularization_noise", "smoothing_noise"),
    ):
        std = values.pop(option)
        values[key] = GaussianNoise if std else None
        values[f"{key}_kwargs"] = {"mean": 0.0, "std": std, "device": device} if std else {}
    return TD3_CFG(**values)
