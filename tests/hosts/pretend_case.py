"""Every agent on a pretended CUDA device: an environment that is there, a writer, and the agents' configurations."""

import torch
from rsl_rl.env import VecEnv
from tensordict import TensorDict

from spiky_rl.config import registry
from tests.agents import is_ppo, network_of
from tests.hosts.pretend_cuda import DEVICE

ENVIRONMENTS, OBSERVATIONS, ACTIONS, STEPS = 6, 5, 2, 4
IMAGE = (2, 34, 34)
AGENTS = [name for name in registry.list_names("agents") if is_ppo(name)]
"""Agents that PPO trains, and classifiers."""


def check_trained(agent: str, launches, scalars, iterations: int) -> None:
    """Assert that a training wrote its curves, and that its network's spikes and gradients came from kernels."""
    assert {"Loss/value", "Train/mean_reward", "Cost/operations_per_step"} <= scalars.keys()
    network = network_of(agent)
    forward = launches["spiky_forward"] + launches["spiky_layer_forward"]
    assert (forward >= iterations * STEPS) == (network is not None)
    learns = network is not None and not network.cls.caches_fixed_part(network.options)
    assert (launches["spiky_backward"] + launches["spiky_layer_backward"] > 0) == learns


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
