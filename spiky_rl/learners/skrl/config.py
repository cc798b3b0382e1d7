"""Conversion of Isaac Lab's skrl configuration to the layout of agent files, and of agents to skrl's configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from spiky_rl.config.options import get_options, shorten
from spiky_rl.config.plain_data import format_value
from spiky_rl.config.registry import ComponentSpec
from spiky_rl.config.schema import ALGORITHM_KEYS, CATEGORICAL, Algorithm, ModelSettings
from spiky_rl.config.spec import AgentSpec, SpecError, find_origin
from spiky_rl.learners.common.local_learning import check_learning_rates, get_local_rule

CLASSES = "spiky_rl.learners.skrl"
SCALER = "RunningStandardScaler"
ANN_CLASSES = ("MLPModel", "RNNModel")
"""rsl_rl's class names of ANNs in agent files, without and with a recurrent layer."""
ALLOWED: dict[str, tuple[Any, ...]] = {
    "burn_in": (0,),
    "torch_compile_mode": (None,),
    "check_for_nan": (True,),
    "actor.class_name": ANN_CLASSES,
    "critic.class_name": ANN_CLASSES,
    "actor.distribution_cfg.class_name": ("GaussianDistribution", CATEGORICAL),
    "actor.distribution_cfg.std_type": ("log",),
    "actor.distribution_cfg.action_range": ((), []),
    "actor.distribution_cfg.choices": ((), []),
    "algorithm.class_name": ("PPO",),
    "algorithm.optimizer": ("adam",),
    "algorithm.normalize_advantage_per_mini_batch": (False,),
    "algorithm.use_mixed_precision": (False,),
    "algorithm.share_cnn_encoders": (False,),
    "algorithm.rnd_cfg": (None,),
    "algorithm.symmetry_cfg": (None,),
    "algorithm.distillation_cfg": (None,),
}
"""Options of rsl_rl that skrl does not have, and their allowed values, which have no effect."""
COMMAND_ALLOWED: dict[str, tuple[Any, ...]] = {
    "algorithm.reward_normalization": (False,),
    "clip_actions": (None,),
}
"""Options that Isaac Lab's own skrl command would ignore, and their allowed values, which have no effect."""
AGENT_KEYS = {
    "learning_epochs": "num_learning_epochs",
    "mini_batches": "num_mini_batches",
    "discount_factor": "gamma",
    "gae_lambda": "lam",
    "grad_norm_clip": "max_grad_norm",
    "ratio_clip": "clip_param",
    "entropy_loss_scale": "entropy_coef",
    "value_loss_scale": "value_loss_coef",
    "kl_threshold": "kl_threshold",
    "rewards_shaper_scale": "rewards_shaper_scale",
    "time_limit_bootstrap": "time_limit_bootstrap",
}
"""Setting of an agent file by skrl's key of its PPO."""


def to_agent_layout(raw: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return Isaac Lab's skrl configuration ``raw`` of a ``task`` in the layout of agent files, which is that of rsl_rl.

    Raises SpecError if the configuration is not PPO on vectors with Gaussian actions.
    """
    agent, models = raw.get("agent") or {}, raw.get("models") or {}
    if str(agent.get("class", "")).lower() != "ppo" or not {"policy", "value"} <= set(models):
        raise SpecError(f"{task}: Isaac Lab's skrl agent is {agent.get('class')!r}; allowed: PPO")
    rollouts, policy = agent.get("rollouts", 16), models["policy"]
    # in configurations of skrl 1, STATES means the observations of policy and value function
    has_states = _reads_states(models["value"]) and not _reads_states(policy)
    # without an observation preprocessor, skrl uses the state preprocessor for observations
    normalised = agent.get("observation_preprocessor", agent.get("state_preprocessor")) is not None
    critic_normalised = "observation_preprocessor" in agent and agent.get("state_preprocessor") is not None
    return {
        "seed": raw.get("seed", 42),
        "num_steps_per_env": rollouts,
        "max_iterations": max(1, raw.get("trainer", {}).get("timesteps", 100_000) // rollouts),
        "experiment_name": (agent.get("experiment") or {}).get("directory", ""),
        "obs_groups": {"actor": ["policy"], "critic": ["critic"] if has_states else ["policy"]},
        "actor": {
            **_read_ann(policy, f"{task}: models.policy"),
            "obs_normalization": normalised,
            "distribution_cfg": _read_distribution(policy),
        },
        "critic": {
            **_read_ann(models["value"], f"{task}: models.value"),
            "obs_normalization": critic_normalised if has_states else normalised,
        },
        "algorithm": _read_algorithm(agent, task),
    }


def _read_distribution(policy: Mapping[str, Any]) -> dict[str, Any]:
    """Return the distribution of a policy in skrl's configuration."""
    std_range = [math.exp(policy.get("min_log_std", -20.0)), math.exp(policy.get("max_log_std", 2.0))]
    return {
        "class_name": "GaussianDistribution",
        "init_std": math.exp(policy.get("initial_log_std", 0.0)),
        "std_type": "log",
        "std_range": std_range if policy.get("clip_log_std", True) else [],
        "learn_std": not policy.get("fixed_log_std", False),
    }


def _read_algorithm(agent: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return the settings of PPO in skrl's configuration of a ``task``. Raises SpecError for another schedule than KLAdaptiveLR."""
    scheduled = agent.get("learning_rate_scheduler")
    if scheduled not in (None, "KLAdaptiveLR"):
        raise SpecError(
            f"{task}: Isaac Lab's learning_rate_scheduler is {scheduled!r}; allowed: KLAdaptiveLR"
        )
    ratio_clip = agent.get("ratio_clip", 0.2)
    value_clip = agent.get("value_clip", 0.2) if agent.get("clip_predicted_values", True) else 0.0
    return {
        "class_name": "PPO",
        "learning_rate": agent.get("learning_rate", 1e-3),
        "schedule": "adaptive" if scheduled else "fixed",
        "desired_kl": (agent.get("learning_rate_scheduler_kwargs") or {}).get("kl_threshold", 0.008),
        "num_learning_epochs": agent.get("learning_epochs", 8),
        "num_mini_batches": agent.get("mini_batches", 2),
        "gamma": agent.get("discount_factor", 0.99),
        "lam": agent.get("gae_lambda", agent.get("lambda", 0.95)),
        "clip_param": ratio_clip,
        "entropy_coef": agent.get("entropy_loss_scale", 0.0),
        "value_loss_coef": agent.get("value_loss_scale", 2.5),
        "use_clipped_value_loss": value_clip > 0,
        **({"value_clip": value_clip} if value_clip not in (0.0, ratio_clip) else {}),
        "max_grad_norm": agent.get("grad_norm_clip", 0.5),
        "rewards_shaper_scale": float(agent.get("rewards_shaper_scale") or 1.0),
        "value_normalization": agent.get("value_preprocessor") is not None,
        "time_limit_bootstrap": agent.get("time_limit_bootstrap", False),
        "kl_threshold": agent.get("kl_threshold", 0.0),
    }


def make_runner_cfg(spec: AgentSpec) -> dict[str, Any]:
    """Return the configuration of the agent ``spec`` for `spiky_rl.learners.skrl.runner.SkrlRunner`.

    Raises SpecError that names key, value and allowed values for settings that skrl does not support.
    """
    tree = spec.runner
    _check_supported(spec)
    values, (inputs, scalers, critic_source) = get_algorithm_settings(spec), make_input_cfg(spec)
    steps = inputs["num_steps_per_env"]
    clip = values["clip_param"] if values["value_clip"] is None else values["value_clip"]
    return {
        **inputs,
        "reward_normalization": values["reward_normalization"],
        "models": {
            "separate": True,
            "policy": {
                "class": f"{CLASSES}:SpikingPolicy",
                "sequence_length": steps,
                **make_model_cfg(tree["actor"], spec.network),
                **_get_distribution(tree["actor"].get("distribution_cfg") or {}),
            },
            "value": {
                "class": f"{CLASSES}:SpikingValue",
                "sequence_length": steps,
                **make_model_cfg(tree["critic"], spec.critic_network),
                "source": critic_source,
            },
        },
        "memory": {"class": "RandomMemory", "memory_size": -1},
        "agent": {
            "class": "PPO",
            "rollouts": steps,
            **{key: values[setting] for key, setting in AGENT_KEYS.items()},
            **_get_learning_rates(values),
            **scalers,
            "value_preprocessor": SCALER if values["value_normalization"] else None,
            "value_clip": clip if values["use_clipped_value_loss"] else 0.0,
            "experiment": {"write_interval": 0, "checkpoint_interval": 0},
        },
        "trainer": {
            "class": "SequentialTrainer",
            "timesteps": spec.get_setting("max_iterations") * steps,
            "close_environment_at_exit": False,
            "disable_progressbar": True,
        },
    }


def get_algorithm_settings(spec: AgentSpec) -> dict[str, Any]:
    """Return all settings of the agent's algorithm, with the schema's defaults."""
    chosen = spec.runner.get("algorithm", {})
    return {key: chosen.get(key, Algorithm.default(key)) for key in ALGORITHM_KEYS[spec.algorithm]}


def make_input_cfg(spec: AgentSpec) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return the run's settings of inputs, skrl's preprocessors of them, and which input the critic reads.

    That input is "observations" or "states". skrl normalises each of the two in one way, so a critic with other groups or another
    normalisation than the actor's reads states.
    """
    groups = spec.runner.get("obs_groups") or {"actor": ["policy"], "critic": ["policy"]}
    actor, critic = (
        (spec.runner.get(role) or {}).get("obs_normalization", False) for role in ("actor", "critic")
    )
    has_states = groups["actor"] != groups["critic"] or actor != critic
    settings = {key: spec.get_setting(key) for key in ("num_steps_per_env", "save_interval")}
    scalers = {
        "observation_preprocessor": SCALER if actor else None,
        "state_preprocessor": SCALER if critic and has_states else None,
    }
    return (
        {**settings, "obs_groups": groups, "states": has_states},
        scalers,
        "states" if has_states else "observations",
    )


def make_registered_cfg(spec: AgentSpec, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of an agent for Isaac Lab's own skrl command.

    ``raw`` is Isaac Lab's for the task, with the command's seed, trainer and run folder. Raises SpecError if the command's environment
    wrapper does not provide the agent's observation groups, or the command would ignore a setting.
    """
    config = make_runner_cfg(spec)
    check_allowed(spec, COMMAND_ALLOWED, "Isaac Lab's own skrl command")
    critic_groups = ["critic"] if config["states"] else ["policy"]
    for role, groups in (("actor", ["policy"]), ("critic", critic_groups)):
        if config["obs_groups"][role] != groups:
            raise SpecError(
                f"agent.obs_groups.{role}: {config['obs_groups'][role]}: not available with Isaac Lab's own skrl command;"
                f" allowed: {groups}; spiky train --rl_library skrl has no such limit"
            )
    config["seed"] = raw.get("seed", 42)
    config["agent"]["experiment"] = {
        "experiment_name": "",
        "write_interval": "auto",
        "checkpoint_interval": "auto",
        **raw["agent"].get("experiment", {}),
        "directory": spec.runner.get("experiment_name", ""),
    }
    config["trainer"] = {**raw.get("trainer", {}), "timesteps": config["trainer"]["timesteps"]}
    return config


def _reads_states(model: Mapping[str, Any]) -> bool:
    """Return whether a network of a model in skrl's configuration reads ``STATES``."""
    return any(part.get("input") == "STATES" for part in model.get("network") or ())


def _read_ann(model: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return layers and activation of a model in skrl's configuration. Raises SpecError if it is not an MLP on vectors."""
    network = model.get("network") or [{}]
    layers = network[0].get("layers", [])
    activation = network[0].get("activations") or "identity"
    is_mlp_on_vectors = (
        model.get("class") in ("GaussianMixin", "DeterministicMixin")
        and len(network) == 1
        and isinstance(activation, str)
        and all(isinstance(width, int) for width in layers)
        and network[0].get("input", "OBSERVATIONS") in ("OBSERVATIONS", "STATES")
        and model.get("output", "ONE") in ("ACTIONS", "ONE")
    )
    if not is_mlp_on_vectors:
        raise SpecError(f"{path}: Isaac Lab's network is not an MLP on vectors, which our networks replace")
    return {
        "class_name": "MLPModel",
        "hidden_dims": list(layers),
        "activation": "lrelu" if activation == "leaky_relu" else activation,
    }


def _get_learning_rates(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return skrl's learning rates and their schedule.

    The rates are those of the policy, of the value function, and of the standard deviation if it has its own.
    """
    rate, critic_rate, std_rate = (
        values[key] for key in ("learning_rate", "critic_learning_rate", "std_learning_rate")
    )
    rates = [rate, rate if critic_rate is None else critic_rate, *([] if std_rate is None else [std_rate])]
    scheduler, schedule = None, {}
    if values["schedule"] == "adaptive":
        scheduler, schedule = "KLAdaptiveLR", {"kl_threshold": values["desired_kl"]}
        if values["learning_rate_floor"]:
            schedule["min_lr"] = values["learning_rate_floor"]
    return {
        "learning_rate": rates,
        "learning_rate_scheduler": scheduler,
        "learning_rate_scheduler_kwargs": schedule,
    }


def check_allowed(spec: AgentSpec, allowed: Mapping[str, Sequence[Any]], owner: str) -> None:
    """Raise SpecError if a setting that ``owner``, such as ``--rl_library skrl``, does not have would have an effect.

    ``allowed`` has the values of each setting that have no effect, by its path; an absent setting counts as the first of them.
    """
    for path, values in allowed.items():
        node: Any = spec.runner
        for key in path.split("."):
            node = node.get(key, values[0]) if isinstance(node, Mapping) else values[0]
        if node not in values:
            raise SpecError(
                f"{find_origin(path, spec.origins)}: agent.{path}: {shorten(node)}: not available with {owner};"
                f" allowed: {', '.join(format_value(value) for value in values if value != [])}"
            )


def _check_supported(spec: AgentSpec) -> None:
    """Raise SpecError for settings that skrl does not support."""
    check_allowed(spec, ALLOWED, "--rl_library skrl")
    for key, network in (("network", spec.network), ("critic_network", spec.critic_network)):
        if network is not None and network.parts.get("plasticity") is not None:
            raise SpecError(
                f"agent.{key}.plasticity: {network.parts['plasticity'].name}: not available with --rl_library skrl, which"
                " replays rollouts; allowed: none"
            )
        if rule := get_local_rule(network):
            raise SpecError(
                f"agent.{key}.learning: {rule!r}: not available with --rl_library skrl; allowed: rules with gradients"
            )
    algorithm = spec.runner["algorithm"]
    if algorithm.get("time_limit_bootstrap") and is_recurrent(spec):
        raise SpecError(
            "agent.algorithm.time_limit_bootstrap: true: not available with a recurrent agent, whose advantages in skrl"
            " continue into the next episode; allowed: false"
        )
    check_learning_rates(algorithm)


def make_model_cfg(model: Mapping[str, Any], network: ComponentSpec | None) -> dict[str, Any]:
    """Return the arguments of a model's class that describe its layers."""
    layers = {"hidden_dims": list(model.get("hidden_dims", ()))}
    if network is not None:
        return {**layers, "network": network.settings()}
    keys = ["activation"]
    if model.get("class_name") == "RNNModel":
        keys += [key for key in get_options(ModelSettings) if key.startswith("rnn_")]
    return {**layers, "ann": {key: model.get(key, ModelSettings.default(key)) for key in keys}}


def _get_distribution(distribution: Mapping[str, Any]) -> dict[str, Any]:
    """Return the policy's arguments for a distribution. Raises SpecError as `get_std_range` does."""
    if distribution.get("class_name") == CATEGORICAL:
        return {"class": f"{CLASSES}:CategoricalPolicy"}
    return {
        "init_std": distribution.get("init_std", 1.0),
        "std_range": get_std_range(distribution),
        "learn_std": distribution.get("learn_std", True),
    }


def get_std_range(distribution: Mapping[str, Any]) -> list[float]:
    """Return the limits of the standard deviation; empty for none. Raises SpecError if the lower one is not positive."""
    limits: list[float] = list(distribution.get("std_range") or ())
    if limits and limits[0] <= 0.0:
        raise SpecError(
            f"agent.actor.distribution_cfg.std_range: {limits} given; allowed with skrl: [low, high] with 0 < low < high, or []"
        )
    return limits


def is_recurrent(spec: AgentSpec) -> bool:
    """Return whether skrl's recurrent PPO trains the agent ``spec``."""
    pairs = ((spec.runner["actor"], spec.network), (spec.runner["critic"], spec.critic_network))
    return any(
        model.get("class_name") == "RNNModel" if network is None else is_stateful(network)
        for model, network in pairs
    )


def is_stateful(network: ComponentSpec) -> bool:
    """Return whether a ``network`` carries a state from one control step to the next."""
    return bool(getattr(network.options, "stateful", getattr(network.cls, "stateful", False)))
