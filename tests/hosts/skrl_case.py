"""skrl's runner on the point mass: Isaac Lab's configuration as its YAML has it, and the agents of the tests."""

import copy
import json

import torch

from spiky_rl.config.spec import AgentSpec, resolve_agent
from spiky_rl.learners.skrl.config import make_runner_cfg, to_agent_layout
from spiky_rl.learners.skrl.runner import SkrlRunner
from tests.hosts.point_env import LIF, PointEnv

NETWORK = [{"name": "net", "input": "OBSERVATIONS", "layers": [16], "activations": "elu"}]
RAW = {
    "seed": 42,
    "models": {
        "separate": False,
        "policy": {"class": "GaussianMixin", "initial_log_std": 0.0, "network": NETWORK, "output": "ACTIONS"},
        "value": {"class": "DeterministicMixin", "network": NETWORK, "output": "ONE"},
    },
    "memory": {"class": "RandomMemory", "memory_size": -1},
    "agent": {
        "class": "PPO", "rollouts": 16, "learning_epochs": 2, "mini_batches": 2, "discount_factor": 0.98, "lambda": 0.9,
        "learning_rate": 5.0e-4, "learning_rate_scheduler": "KLAdaptiveLR",
        "learning_rate_scheduler_kwargs": {"kl_threshold": 0.016}, "state_preprocessor": "RunningStandardScaler",
        "value_preprocessor": "RunningStandardScaler", "grad_norm_clip": 0.7, "ratio_clip": 0.25, "value_clip": 0.2,
        "clip_predicted_values": True, "entropy_loss_scale": 0.01, "value_loss_scale": 2.0, "kl_threshold": 0.0,
        "rewards_shaper_scale": 0.6, "time_limit_bootstrap": False, "experiment": {"directory": "point"},
    },
    "trainer": {"class": "SequentialTrainer", "timesteps": 160},
}  # fmt: skip
"""The shape of every configuration that Isaac Lab has for skrl's PPO."""
SPIKING = {"name": "feedforward", "layers": [16, 12], **LIF}


def specification(*overrides: str, network=None, critic=None, agent="mlp_ppo", **changes) -> AgentSpec:
    """An agent on `RAW` with ``changes`` of its ``agent`` part."""
    raw = copy.deepcopy(RAW)
    raw["agent"].update(changes)
    lines = [*overrides]
    lines += [f"agent.network={json.dumps(network)}"] if network else []
    lines += [f"agent.critic_network={json.dumps(critic)}"] if critic else []
    return resolve_agent(agent, "Isaac-Point", to_agent_layout(raw, "Isaac-Point"), lines)


PLAIN = {"state_preprocessor": None, "value_preprocessor": None, "rewards_shaper_scale": 1.0}
"""Nothing between the environment and the models, so that both hosts compute the same."""


def runner(
    *overrides, env=None, folder=None, seed=0, identity=None, num_envs=8, pictures=None, **settings
) -> SkrlRunner:
    torch.manual_seed(seed)
    config = make_runner_cfg(specification(*overrides, **{**PLAIN, **settings}))
    where = None if folder is None else str(folder)
    env = env or PointEnv(num_envs)
    run = SkrlRunner(env, config, where, identity=identity, picture_interval=pictures or 1)
    if pictures is None:  # they take longer than the training
        run.draws_figures = lambda index: False
    return run


def rollout(run: SkrlRunner, observations=None):
    """One rollout as the runner makes it, without its update; the observations that follow."""
    agent, environment = run.alg, run.environment
    agent.enable_training_mode(True)
    observations = environment.reset()[0] if observations is None else observations
    for step in range(run.cfg["num_steps_per_env"]):
        clock = {"timestep": step, "timesteps": 100}
        with torch.no_grad():
            states = environment.state()
            actions, _ = agent.act(observations, states, **clock)
            following, rewards, terminated, truncated, extras = environment.step(actions)
            successors, next_states = environment.get_successors(extras)
            agent.record_transition(
                observations=observations, states=states, actions=actions, rewards=rewards, next_observations=successors,
                next_states=next_states, terminated=terminated, truncated=truncated, infos=extras, **clock,
            )  # fmt: skip
        observations = following
    return observations
