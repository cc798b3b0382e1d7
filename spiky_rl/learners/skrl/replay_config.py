"""Conversion of agents with TD3 or SAC to the configuration of `spiky_rl.learners.skrl.replay_runner.ReplayRunner`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spiky_rl.config.plain_data import get_section
from spiky_rl.config.registry import ComponentSpec
from spiky_rl.config.schema import Algorithm
from spiky_rl.config.spec import AgentSpec, SpecError, is_agent_origin
from spiky_rl.learners.common.local_learning import caches_fixed_part, get_local_rule
from spiky_rl.learners.skrl.config import (
    check_allowed,
    get_algorithm_settings,
    get_std_range,
    make_input_cfg,
    make_model_cfg,
)

ALLOWED: dict[str, tuple[Any, ...]] = {
    "burn_in": (0,),
    "torch_compile_mode": (None,),
    "check_for_nan": (True,),
    "actor.class_name": ("MLPModel",),
    "critic.class_name": ("MLPModel",),
    "actor.distribution_cfg.class_name": ("GaussianDistribution",),
    "actor.distribution_cfg.action_range": ((), []),
}
"""Options of rsl_rl that replay does not have, and their allowed values, which have no effect."""
PPO_NOISE = {
    "td3": ("init_std", "std_type", "std_range", "learn_std"),
    "sac": ("init_std", "std_type", "learn_std"),
}
"""Options of the action distribution without a meaning for each algorithm."""
_SHARED_KEYS = {
    "batch_size": "batch_size",
    "discount_factor": "gamma",
    "polyak": "polyak",
    "rewards_shaper_scale": "rewards_shaper_scale",
}
AGENT_KEYS = {
    "td3": {
        **_SHARED_KEYS,
        "policy_delay": "policy_delay",
        "exploration_noise": "exploration_noise",
        "smoothing_noise": "smoothing_noise",
        "smooth_regularization_clip": "smoothing_clip",
    },
    "sac": {
        **_SHARED_KEYS,
        "learn_entropy": "learn_entropy",
        "initial_entropy_value": "initial_entropy",
        "target_entropy": "target_entropy",
    },
}
"""Setting of an agent file by skrl's key, for each algorithm."""


def make_runner_cfg(spec: AgentSpec) -> dict[str, Any]:
    """Return the configuration of the agent ``spec``, whose algorithm is TD3 or SAC.

    Raises SpecError that names key, value and allowed values for settings that replay does not support.
    """
    name = spec.algorithm
    check_allowed(spec, ALLOWED, name.upper())
    _check_noise(spec)
    for key, network in (("network", spec.network), ("critic_network", spec.critic_network)):
        if network is not None:
            _check_network(key, network, name.upper())
    actor, critic = get_section(spec.runner, "actor"), get_section(spec.runner, "critic")
    values, (inputs, scalers, critic_source) = get_algorithm_settings(spec), make_input_cfg(spec)
    if values["batch_size"] == 1 and any(scalers.values()):  # skrl's scaler takes the variance of every batch
        raise SpecError("agent.algorithm.batch_size: 1 given; allowed with obs_normalization: at least 2")
    if values.get("target") == "proxy" and spec.network is None:
        raise SpecError("agent.algorithm.target: proxy given without agent.network; allowed: spiking")
    policy = make_model_cfg(actor, spec.network)
    if spec.network is not None:  # the host's hidden layers are those of its PPO
        policy["hidden_dims"] = list(getattr(spec.network.options, "layers", ()))
    if name == "sac":
        policy["std_range"] = get_std_range(get_section(actor, "distribution_cfg"))
    return {
        "algorithm": name,
        **inputs,
        "action_bound": 1.0,
        "policy": policy,
        "critic": {**make_model_cfg(critic, spec.critic_network), "source": critic_source},
        "target": values.get("target", "spiking"),
        "proxy": {
            "hidden_dims": policy["hidden_dims"],
            "learning_rate": values.get("proxy_learning_rate", Algorithm.default("proxy_learning_rate")),
        },
        **{
            key: values[key] for key in ("replay_size", "random_steps", "learning_starts", "updates_per_step")
        },
        "agent": {
            **{key: values[setting] for key, setting in AGENT_KEYS[name].items()},
            **scalers,
            "learning_rate": _list_learning_rates(values),
        },
    }


def _check_noise(spec: AgentSpec) -> None:
    """Raise SpecError if the agent sets an option of PPO's action noise; those of the host and of task files are ignored."""
    for key in PPO_NOISE[spec.algorithm]:
        path = f"actor.distribution_cfg.{key}"
        origin = spec.origins.get(path, "")
        if is_agent_origin(origin):
            raise SpecError(
                f"{origin}: agent.{path}: not available with {spec.algorithm.upper()}; allowed: PPO"
            )


def _list_learning_rates(values: Mapping[str, Any]) -> list[float]:
    """Return the rates of policy, critic and, with SAC, entropy; a rate that is not set equals the rate before it."""
    rates = [values["learning_rate"]]
    for key in ("critic_learning_rate", "entropy_learning_rate"):
        if key in values:
            rates.append(rates[-1] if values[key] is None else values[key])
    return rates


def _check_network(key: str, network: ComponentSpec, algorithm: str) -> None:
    """Raise SpecError, naming ``key``, for a network whose replay would be wrong."""
    where = f"not available with {algorithm}, whose replayed transitions have no state"
    if (plasticity := network.parts.get("plasticity")) is not None:
        raise SpecError(f"agent.{key}.plasticity: {plasticity.name}: {where}; allowed: none")
    if rule := get_local_rule(network):
        raise SpecError(
            f"agent.{key}.learning: {rule}: not available with {algorithm}, which has no rollouts to learn from; allowed:"
            " rules with gradients"
        )
    is_recurrent = network.cls.is_recurrent(network.options)  # type: ignore[attr-defined]
    if is_recurrent and not caches_fixed_part(network) and hasattr(network.options, "stateful"):
        raise SpecError(f"agent.{key}.stateful: true: {where}; allowed: false")
    if is_recurrent or caches_fixed_part(network):
        raise SpecError(f"agent.{key}.name: {network.name}: {where}; allowed: feedforward")
