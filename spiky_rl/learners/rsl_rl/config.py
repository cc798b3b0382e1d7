"""Conversion of an agent's specification to the configuration of rsl_rl's runner."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from spiky_rl.config.registry import ComponentSpec
from spiky_rl.config.schema import CATEGORICAL, SKRL_ONLY, DistillationSettings
from spiky_rl.config.spec import AgentSpec, SpecError
from spiky_rl.learners.common.local_learning import caches_fixed_part, check_learning_rates, get_local_rule
from spiky_rl.learners.rsl_rl.classes import check_classes, make_importable, resolve_class

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
    for key in ("picture_interval", "evaluation_interval", "evaluation_episodes", "history", "frames"):
        config.pop(key, None)
    algorithm = config["algorithm"]
    if burn_in:
        _check_burn_in(spec, burn_in, config["num_steps_per_env"])
    if rule := get_local_rule(spec.critic_network):
        raise SpecError(
            f"agent.critic_network.learning: {rule!r} is for actors only; its third factor is the advantage of actions"
        )
    networks = {"actor": spec.network, "critic": spec.critic_network}
    for role, network in networks.items():
        _set_model(role, config[role], network, burn_in)
    _check_algorithm(algorithm, has_spikes=any(networks.values()))
    distribution = config["actor"].get("distribution_cfg") or {}
    if distribution.get("class_name") == CATEGORICAL:
        distribution["class_name"] = f"{CLASSES}:{CATEGORICAL}"
    if algorithm.get("symmetry_cfg"):
        _check_symmetry(config, networks)
    check_classes(config, spec.origins)
    _check_distillation(spec, algorithm, config["num_steps_per_env"])
    use_spiking_ppo(spec, algorithm, burn_in)
    for group in (config["actor"], config["critic"], distribution, algorithm):
        if "class_name" in group:
            group["class_name"] = make_importable(group["class_name"])
    if symmetry := algorithm.get("symmetry_cfg"):
        symmetry["data_augmentation_func"] = make_importable(symmetry["data_augmentation_func"])
    return config


def _check_algorithm(algorithm: dict[str, Any], has_spikes: bool) -> None:
    """Raise SpecError for settings that rsl_rl does not support; remove an option that this version does not have."""
    for key in SKRL_ONLY:
        if key in algorithm:
            raise SpecError(f"agent.algorithm.{key}: not available with --rl_library rsl_rl; allowed: skrl")
    if algorithm.get("share_cnn_encoders") and has_spikes:
        raise SpecError(
            "agent.algorithm.share_cnn_encoders: true needs two CNNs; set it to false for a network that spikes"
        )
    if not _supports_mixed_precision() and algorithm.pop("use_mixed_precision", False):
        raise SpecError("agent.algorithm.use_mixed_precision: true needs rsl_rl 5.5; set it to false")
    check_learning_rates(algorithm)


def _check_symmetry(config: Mapping[str, Any], networks: Mapping[str, ComponentSpec | None]) -> None:
    """Raise SpecError if a network of the runner's ``config`` cannot learn from mirrored samples."""
    if any(map(caches_fixed_part, networks.values())):
        raise SpecError(
            "agent.algorithm.symmetry_cfg: not available with a reservoir, whose features are computed before samples are"
            " mirrored; remove it"
        )
    for role, network in networks.items():
        if is_recurrent(config[role], network):
            raise SpecError(
                f"agent.algorithm.symmetry_cfg: not available with a recurrent {role}, whose hidden states rsl_rl cannot mirror;"
                " remove it"
            )


def is_recurrent(model: Mapping[str, Any], network: ComponentSpec | None) -> bool:
    """Return whether rsl_rl replays the rollouts of an actor or critic: a group ``model``, or the ``network`` that replaces it."""
    if network is None:
        return model.get("class_name") == "RNNModel"
    return network.cls.is_recurrent(network.options)  # type: ignore[attr-defined]


def _supports_mixed_precision() -> bool:
    """Return whether rsl_rl's PPO has the option."""
    from rsl_rl.algorithms import PPO

    return "use_mixed_precision" in inspect.signature(PPO).parameters


def _check_burn_in(spec: AgentSpec, burn_in: int, steps: int) -> None:
    """Raise SpecError if an agent has no stateful network to warm up, or no control step of a rollout would be left."""
    networks = [network for network in (spec.network, spec.critic_network) if network is not None]
    if spec.network is None or not all(n.cls.is_recurrent(n.options) for n in networks):  # type: ignore[attr-defined]
        raise SpecError(
            f"agent.burn_in: {burn_in} control steps need a stateful network; set agent.network.stateful=true"
        )
    if burn_in >= steps:
        raise SpecError(f"agent.burn_in: {burn_in} given; it must be below agent.num_steps_per_env={steps}")


def _set_model(role: str, model: dict[str, Any], network: ComponentSpec | None, burn_in: int) -> None:
    """Set class, network and burn-in in the group ``model`` of the ``role`` actor or critic. Raises SpecError."""
    if network is not None:
        model |= {"class_name": f"{CLASSES}:SpikingModel", "network": network.settings()}
    elif _is_own_spiking_model(model):
        raise SpecError(
            f"agent.{role}.class_name: the task's own configuration has {model['class_name']} where the agent has an ANN; set"
            f" agent.{role}.class_name=MLPModel"
        )
    elif burn_in:
        if model.get("class_name", "MLPModel") != "MLPModel":
            raise SpecError(
                f"agent.burn_in: not available with agent.{role}.class_name: {model['class_name']}"
            )
        model["class_name"] = f"{CLASSES}:BurnInMLPModel"
    if network is None:
        model.pop("network", None)  # of a spiking model in the task's own configuration
    if burn_in:
        model["burn_in"] = burn_in


def _is_own_spiking_model(model: Mapping[str, object]) -> bool:
    """Return whether the class of a ``model`` is `SpikingModel`, also by an older name."""
    package, _, name = str(model.get("class_name", "")).replace(":", ".").rpartition(".")
    return name == "SpikingModel" and package.partition(".")[0] == "spiky_rl"


def _check_distillation(spec: AgentSpec, algorithm: dict[str, Any], steps: int) -> None:
    """Remove empty settings of a distillation; raise SpecError if the agent cannot be distilled from rollouts of ``steps``."""
    if not algorithm.get("distillation_cfg"):
        algorithm.pop("distillation_cfg", None)
        return
    chosen = DistillationSettings.check("agent.algorithm.distillation_cfg", algorithm["distillation_cfg"])
    most = chosen.num_learning_epochs * steps
    if chosen.method == "imitation" and chosen.gradient_length > most:
        raise SpecError(
            f"agent.algorithm.distillation_cfg.gradient_length: {chosen.gradient_length} given, longer than all passes over a"
            f" rollout, so the student would never learn; allowed: at most {most}"
        )
    if algorithm.get("rnd_cfg"):
        raise SpecError("agent.algorithm.rnd_cfg: not available with distillation_cfg; remove one of them")
    if spec.network is not None and caches_fixed_part(spec.network):
        raise SpecError(
            f"agent.network: {spec.network.name} trains only its readout, which distillation_cfg does not support; use feedforward"
        )


def use_spiking_ppo(spec: AgentSpec, algorithm: dict[str, object], burn_in: int) -> None:
    """Replace rsl_rl's PPO by ours in the group ``algorithm``, which is changed, if the agent needs it.

    Raises SpecError if the named class cannot train the agent.
    """
    needs = _list_needs(spec, algorithm, burn_in)
    ours = f"{CLASSES}:{'DistillingPPO' if 'distillation_cfg' in algorithm else 'SpikingPPO'}"
    if algorithm.get("class_name", "PPO") == "PPO" and (needs or spec.network or spec.critic_network):
        algorithm["class_name"] = ours
    names = (algorithm.get("class_name", "PPO"), ours)
    classes: list[Any] = [resolve_class("algorithm", {"class_name": name}) for name in names]
    if issubclass(*classes):
        algorithm["burn_in"] = burn_in
        return
    if needs:
        key, value = next(iter(needs.items()))
        raise SpecError(
            f"agent.algorithm.class_name: {algorithm.get('class_name')!r} cannot train {key}: {value}; allowed: PPO, or"
            f" module:Class of a class derived from {ours}"
        )
    for key in OWN_OPTIONS:
        algorithm.pop(key, None)


def _list_needs(spec: AgentSpec, algorithm: Mapping[str, object], burn_in: int) -> dict[str, object]:
    """Return the settings, by path, that only our PPO supports; rsl_rl's would silently ignore them."""
    needs = {f"agent.algorithm.{key}": algorithm[key] for key in OWN_OPTIONS if algorithm.get(key)}
    if burn_in:
        needs["agent.burn_in"] = burn_in
    for key, network in (("network", spec.network), ("critic_network", spec.critic_network)):
        if network is not None and caches_fixed_part(network):
            needs[f"agent.{key}"] = network.name
        if rule := get_local_rule(network):
            needs[f"agent.{key}.learning"] = rule
    if "distillation_cfg" in algorithm:
        needs["agent.algorithm.distillation_cfg"] = "a teacher's student"
    return needs
