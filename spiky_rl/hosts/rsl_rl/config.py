"""An agent's specification as the dict that rsl_rl's runner takes."""

from __future__ import annotations

import copy
from typing import Any

from spiky_rl.spec import AgentSpec, SpecError

CLASSES = "spiky_rl.hosts.rsl_rl"
OWN_OPTIONS = ("learning_rate_floor", "critic_learning_rate")
"""What SpikingPPO understands beyond rsl_rl's PPO."""


def runner_config(spec: AgentSpec) -> dict[str, Any]:
    """rsl_rl's configuration. An agent that neither spikes nor uses our options gets Isaac Lab's own classes unchanged.

    Raises SpecError where options do not go together.
    """
    config: dict[str, Any] = copy.deepcopy(dict(spec.runner))
    config.setdefault("obs_groups", {})
    burn_in = config.pop("burn_in", 0)
    config.pop("picture_interval", None)
    networks = {"actor": spec.network, "critic": spec.critic_network}
    algorithm = config["algorithm"]
    if burn_in:
        if spec.network is None or not spec.network.options["stateful"]:
            raise SpecError(
                f"agent.burn_in: {burn_in} control steps need a stateful network; set agent.network.stateful=true"
            )
        if burn_in >= config["num_steps_per_env"]:
            raise SpecError(
                f"agent.burn_in: {burn_in} leaves nothing of agent.num_steps_per_env: {config['num_steps_per_env']}"
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
    if algorithm.get("critic_learning_rate") is not None and algorithm.get("schedule") != "fixed":
        raise SpecError(
            f"agent.algorithm.critic_learning_rate: needs agent.algorithm.schedule=fixed, not {algorithm.get('schedule')}"
        )
    ours = burn_in or any(networks.values()) or any(algorithm.get(key) for key in OWN_OPTIONS)
    if ours and algorithm.get("class_name", "PPO") == "PPO":
        algorithm |= {"class_name": f"{CLASSES}:SpikingPPO", "burn_in": burn_in}
    else:
        for key in OWN_OPTIONS:
            algorithm.pop(key, None)
    return config
