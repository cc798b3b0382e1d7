"""Conversion of an agent's specification to the configuration of rsl_rl's runner."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from spiky_rl.config.schema import CATEGORICAL, SKRL_ONLY
from spiky_rl.config.spec import AgentSpec, SpecError
from spiky_rl.learners.common.local_learning import caches_features, check_learning_rates, get_local_rule
from spiky_rl.learners.rsl_rl.classes import check_classes, resolve_class

CLASSES = "spiky_rl.learners.rsl_rl"
OWN_OPTIONS = ("learning_rate_floor", "critic_learning_rate", "std_learning_rate", "reward_normalization")
"""Options of SpikingPPO that rsl_rl's PPO does not have."""


def make_runner_cfg(spec: AgentSpec) -> dict[str, Any]:
    """Return rsl_rl's configuration of the agent ``spec``. Raises SpecError for conflicting options.

    An agent without spikes and without our options gets Isaac Lab's own classes unchanged.
    """
    config: dict[str, Any] = copy.deepcopy(dict(spec.runner))
    config.setdefault("obs_groups", {})
    burn_in = config.pop("burn_in", 0)
    for key in ("picture_interval", "history", "frames"):
        config.pop(key, None)
    networks = {"actor": spec.network, "critic": spec.critic_network}
    algorithm = config["algorithm"]
    for key in SKRL_ONLY:
        if key in algorithm:
            raise SpecError(f"agent.algorithm.{key}: not available with --rl_library rsl_rl; allowed: skrl")
    if burn_in:
        if spec.network is None or not all(
            n.cls.is_recurrent(n.options) for n in networks.values() if n is not None  # type: ignore[attr-defined]
        ):
            raise SpecError(
                f"agent.burn_in: {burn_in} control steps need a stateful network; set agent.network.stateful=true"
            )
        if burn_in >= config["num_steps_per_env"]:
            raise SpecError(
                f"agent.burn_in: {burn_in} given; it must be below agent.num_steps_per_env={config['num_steps_per_env']}"
            )
    if rule := get_local_rule(spec.critic_network):
        raise SpecError(
            f"agent.critic_network.learning: {rule!r} is for actors only; its third factor is the advantage of actions"
        )
    for role, network in networks.items():
        model = config[role]
        if network is not None:
            model |= {"class_name": f"{CLASSES}:SpikingModel", "network": network.settings()}
        elif burn_in:
            if model.get("class_name", "MLPModel") != "MLPModel":
                raise SpecError(
                    f"agent.burn_in: not available with agent.{role}.class_name: {model['class_name']}"
                )
            model["class_name"] = f"{CLASSES}:BurnInMLPModel"
        if burn_in:
            model["burn_in"] = burn_in
    if algorithm.get("share_cnn_encoders") and any(networks.values()):
        raise SpecError(
            "agent.algorithm.share_cnn_encoders: true needs two CNNs; set it to false for a network that spikes"
        )
    if not _supports_mixed_precision() and algorithm.pop("use_mixed_precision", False):
        raise SpecError("agent.algorithm.use_mixed_precision: true needs rsl_rl 5.5; set it to false")
    check_learning_rates(algorithm)
    distribution = config["actor"].get("distribution_cfg") or {}
    if distribution.get("class_name") == CATEGORICAL:
        distribution["class_name"] = f"{CLASSES}:{CATEGORICAL}"
    if algorithm.get("symmetry_cfg") and any(map(caches_features, networks.values())):
        raise SpecError(
            "agent.algorithm.symmetry_cfg: not available with a reservoir, whose features are computed before samples are"
            " mirrored; remove it"
        )
    check_classes(config, spec.origins)
    use_spiking_ppo(spec, algorithm, burn_in)
    return config


def _supports_mixed_precision() -> bool:
    """Return whether rsl_rl's PPO has the option."""
    from rsl_rl.algorithms import PPO

    return "use_mixed_precision" in inspect.signature(PPO).parameters


def use_spiking_ppo(spec: AgentSpec, algorithm: dict[str, object], burn_in: int) -> None:
    """Replace rsl_rl's PPO by ours if the agent needs it.

    Args:
        spec: The agent.
        algorithm: Algorithm group of rsl_rl's configuration, which is changed.
        burn_in: Control steps of burn-in.

    Raises:
        SpecError: The named class cannot train the agent.
    """
    from spiky_rl.learners.rsl_rl.distillation import DistillingPPO
    from spiky_rl.learners.rsl_rl.ppo import RslRlSpikingPPO

    distils = bool(algorithm.get("distillation_cfg"))
    if not distils:
        algorithm.pop("distillation_cfg", None)
    elif algorithm.get("rnd_cfg"):
        raise SpecError("agent.algorithm.rnd_cfg: not available with distillation_cfg; remove one of them")
    elif spec.network is not None and caches_features(spec.network):
        raise SpecError(
            f"agent.network: {spec.network.name} trains only its readout, which distillation_cfg does not support; use feedforward"
        )
    base, ours = (DistillingPPO, "DistillingPPO") if distils else (RslRlSpikingPPO, "SpikingPPO")

    networks = {"network": spec.network, "critic_network": spec.critic_network}
    # options that only our PPO supports: rsl_rl's would silently ignore them
    needs = {f"agent.algorithm.{key}": algorithm[key] for key in OWN_OPTIONS if algorithm.get(key)}
    needs |= {"agent.burn_in": burn_in} if burn_in else {}
    for key, network in networks.items():
        if network is not None and caches_features(network):
            needs[f"agent.{key}"] = network.name
        if rule := get_local_rule(network):
            needs[f"agent.{key}.learning"] = rule
    name = algorithm.get("class_name", "PPO")
    needs |= {"agent.algorithm.distillation_cfg": "a teacher's student"} if distils else {}
    if name == "PPO" and (needs or any(networks.values())):
        name = algorithm["class_name"] = f"{CLASSES}:{ours}"
    if issubclass(resolve_class("algorithm", algorithm) or object, base):
        algorithm["burn_in"] = burn_in
        return
    for key, value in needs.items():
        raise SpecError(
            f"agent.algorithm.class_name: {name!r} cannot train {key}: {value}; allowed: PPO, or module:Class of a class"
            f" derived from {CLASSES}:{ours}"
        )
    for key in OWN_OPTIONS:
        algorithm.pop(key, None)
