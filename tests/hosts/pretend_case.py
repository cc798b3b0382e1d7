"""Every agent on a pretended CUDA device: an environment that is there, a writer, and the agents' configurations."""

import pytest
import torch
from rsl_rl.env import VecEnv
from tensordict import TensorDict

from spiky_rl.config import registry, spec
from spiky_rl.learners.common.local_learning import get_local_rule
from tests.agents import is_ppo
from tests.hosts.pretend_cuda import DEVICE

ENVIRONMENTS, OBSERVATIONS, ACTIONS, STEPS = 6, 5, 2, 4
IMAGE = (2, 34, 34)
AGENTS = [name for name in registry.list_names("agents") if is_ppo(name)]
"""Agents that PPO trains, and classifiers."""
FAST = ("lif_ppo", "alif_recurrent_ppo", "lif_eprop")
"""Agents of the fast tests: without a state, recurrent, and with a local rule."""


def mark_slow(agents, fast=FAST):
    """Return ``agents`` as parameters of a test; those that are not in ``fast`` are slow."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in agents]


def network_of(agent: str):
    """An agent's network, or None for an ANN."""
    settings = spec.read_agent(agent)[1].get("network")
    if settings is None:
        return None
    return registry.configure("networks", spec.add_default_layers(settings, [6, 5]), agent)


def takes_images(agent: str) -> bool:
    network = network_of(agent)
    connection = None if network is None else network.parts.get("connection")
    return isinstance(connection, tuple) and connection[0].name == "convolutional"


def refused_by_skrl(agent: str) -> bool:
    """Whether a network is plastic or has a local rule, a teacher comes first, or novelty is rewarded."""
    if {"distillation_cfg", "rnd_cfg"} & set(spec.read_agent(agent)[1].get("algorithm") or {}):
        return True
    network = network_of(agent)
    return network is not None and (
        network.parts.get("plasticity") is not None or get_local_rule(network) is not None
    )


class World(VecEnv):
    """B environments whose episodes end at different times, on the device and without ever waiting for it."""

    checks_finite = True
    step_dt = 0.1

    def __init__(self, images: bool = False, device: str = DEVICE) -> None:
        self.num_envs, self.num_actions, self.device = ENVIRONMENTS, ACTIONS, device
        self.max_episode_length, self.cfg, self.images = 7, {}, images
        self.episode_length_buf = torch.zeros(ENVIRONMENTS, dtype=torch.long, device=device)
        self.limit = torch.arange(2, 2 + ENVIRONMENTS, device=device)

    @property
    def unwrapped(self):
        """This environment, from which rsl_rl reads ``step_dt``."""
        return self

    def get_observations(self) -> TensorDict:
        shape = IMAGE if self.images else (OBSERVATIONS,)
        seen = {"policy": torch.rand(ENVIRONMENTS, *shape, device=self.device)}
        seen["critic"] = torch.rand(ENVIRONMENTS, OBSERVATIONS, device=self.device)
        return TensorDict(seen, batch_size=[ENVIRONMENTS])

    def step(self, actions: torch.Tensor):
        assert actions.shape == (ENVIRONMENTS, ACTIONS) and str(actions.device) == self.device
        self.episode_length_buf += 1
        dones = (self.episode_length_buf >= self.limit).long()
        self.episode_length_buf *= 1 - dones
        extras = {
            "time_outs": torch.zeros_like(dones),
            "log": {"Episode_Reward/alive": torch.rand((), device=self.device)},
        }
        return self.get_observations(), actions.square().sum(-1), dones, extras


class Writer:
    """TensorBoard's, as far as it is asked; what it writes has been read from the device."""

    def __init__(self) -> None:
        self.scalars: dict[str, float] = {}

    def add_scalar(self, tag: str, value, *_) -> None:
        self.scalars[tag] = float(value)

    def add_histogram(self, tag: str, values, *_) -> None:
        values.cpu().numpy()

    def add_figure(self, tag: str, figure, *_) -> None:
        assert figure.axes

    def add_text(self, *_) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
