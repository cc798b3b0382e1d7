"""Conversion of agents with TD3 or SAC to the configuration of `spiky_rl.learners.skrl.replay_runner.ReplayRunner`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spiky_rl.config.plain_data import get_section
from spiky_rl.config.registry import ComponentSpec
from spiky_rl.config.schema import ALGORITHM_KEYS, Algorithm, ModelSettings
from spiky_rl.config.spec import AgentSpec, SpecError
from spiky_rl.learners.common.local_learning import caches_features, get_local_rule
from spiky_rl.learners.skrl.config import SCALER, list_inputs

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


def make_runner_cfg(spec: AgentSpec) -> dict[str, Any]:
    """Return the configuration of the agent ``spec``, whose algorithm is TD3 or SAC.

    Raises SpecError that names key, value and allowed values for settings that replay does not support.
    """
    _check_supported(spec)
    name, tree = spec.algorithm, spec.runner
    actor, critic = get_section(tree, "actor"), get_section(tree, "critic")
    values = {key: tree["algorithm"].get(key, Algorithm.default(key)) for key in sorted(ALGORITHM_KEYS[name])}
    groups, shared, normalised = list_inputs(tree)
    rate, critic_rate = values["learning_rate"], values["critic_learning_rate"]
    rates = [rate, rate if critic_rate is None else critic_rate]
    agent: dict[str, Any] = {
        "batch_size": values["batch_size"],
        "discount_factor": values["gamma"],
        "polyak": values["polyak"],
        "observation_preprocessor": SCALER if normalised[0] else None,
        "state_preprocessor": SCALER if normalised[1] and not shared else None,
        "rewards_shaper_scale": values["rewards_shaper_scale"],
    }
    policy = _make_model_cfg(actor, spec.network)
    if name == "td3":
        agent |= {
            "policy_delay": values["policy_delay"],
            "exploration_noise": values["exploration_noise"],
            "smoothing_noise": values["smoothing_noise"],
            "smooth_regularization_clip": values["smoothing_clip"],
        }
        if values["target"] == "proxy" and spec.network is None:
            raise SpecError("agent.algorithm.target: proxy given without agent.network; allowed: spiking")
    else:
        entropy_rate = values["entropy_learning_rate"]
        rates.append(rates[1] if entropy_rate is None else entropy_rate)
        agent |= {
            "learn_entropy": values["learn_entropy"],
            "initial_entropy_value": values["initial_entropy"],
            "target_entropy": values["target_entropy"],
        }
        std_range: Any = get_section(actor, "distribution_cfg").get("std_range")
        policy["std_range"] = list(std_range or ())
    return {
        "algorithm": name,
        "num_steps_per_env": spec.get_setting("num_steps_per_env"),
        "save_interval": spec.get_setting("save_interval"),
        "obs_groups": groups,
        "states": not shared,
        "action_bound": 1.0,
        "policy": policy,
        "critic": {
            **_make_model_cfg(critic, spec.critic_network),
            "source": "observations" if shared else "states",
        },
        "target": values.get("target", "spiking"),
        "proxy": {
            "hidden_dims": _get_widths(actor, spec.network),
            "learning_rate": values.get("proxy_learning_rate", Algorithm.default("proxy_learning_rate")),
        },
        "replay_size": values["replay_size"],
        "random_steps": values["random_steps"],
        "learning_starts": values["learning_starts"],
        "updates_per_step": values["updates_per_step"],
        "agent": {**agent, "learning_rate": rates},
    }


def _make_model_cfg(model: Mapping[str, Any], network: ComponentSpec | None) -> dict[str, Any]:
    """Return the arguments of a model besides the spaces."""
    settings: dict[str, Any] = {"hidden_dims": list(model.get("hidden_dims", ()))}
    if network is not None:
        return {**settings, "network": network.settings()}
    activation = model.get("activation", ModelSettings.default("activation"))
    return {**settings, "ann": {"activation": activation}}


def _get_widths(model: Mapping[str, Any], network: ComponentSpec | None) -> list[int]:
    """Return the widths of an actor's hidden layers."""
    return list(
        getattr(network.options, "layers", ()) if network is not None else model.get("hidden_dims", ())
    )


def _check_supported(spec: AgentSpec) -> None:
    """Raise SpecError for settings and networks whose replay would be wrong."""
    algorithm = spec.algorithm.upper()
    for path, allowed in ALLOWED.items():
        node: Any = spec.runner
        for key in path.split("."):
            node = node.get(key, allowed[0]) if isinstance(node, Mapping) else allowed[0]
        if node not in allowed:
            raise SpecError(
                f"{spec.origins.get(path, 'agent')}: agent.{path}: {node!r}: not available with {algorithm}; allowed:"
                f" {', '.join(str(value) or 'none' for value in allowed if value != [])}"
            )
    for key, network in (("network", spec.network), ("critic_network", spec.critic_network)):
        if network is None:
            continue
        where = f"not available with {algorithm}, whose replayed transitions have no state"
        if (plasticity := network.parts.get("plasticity")) is not None:
            raise SpecError(f"agent.{key}.plasticity: {plasticity.name}: {where}; allowed: none")
        if rule := get_local_rule(network):
            raise SpecError(
                f"agent.{key}.learning: {rule}: not available with {algorithm}, which has no rollouts to learn from; allowed:"
                " rules with gradients"
            )
        if caches_features(network):
            raise SpecError(f"agent.{key}.name: {network.name}: {where}; allowed: feedforward")
        if network.cls.is_recurrent(network.options):  # type: ignore[attr-defined]
            if hasattr(network.options, "stateful"):
                raise SpecError(f"agent.{key}.stateful: true: {where}; allowed: false")
            raise SpecError(f"agent.{key}.name: {network.name}: {where}; allowed: feedforward")
