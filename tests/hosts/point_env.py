"""A small real environment for rsl_rl: a point mass that is to reach the origin. Episodes end at different times."""

import torch
from rsl_rl.env import VecEnv
from tensordict import TensorDict


class PointEnv(VecEnv):
    """B points in the plane; observation: position and velocity, action: acceleration, reward: minus the distance."""

    step_dt = 0.1

    def __init__(self, num_envs: int = 8, seed: int = 0, max_episode_length: int = 20, device: str = "cpu"):
        self.num_envs, self.num_actions = num_envs, 2
        self.max_episode_length = max_episode_length
        self.device = device
        self.cfg: dict = {}
        self.generator = torch.Generator(device).manual_seed(seed)
        self.state = self._draw(num_envs)
        self.limit = self._draw_limits()
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long, device=device)

    @property
    def unwrapped(self):
        """This environment, from which rsl_rl reads ``step_dt``."""
        return self

    def _draw(self, count: int) -> torch.Tensor:
        return torch.randn(count, 4, generator=self.generator, device=self.device)

    def _draw_limits(self) -> torch.Tensor:
        size = (self.num_envs,)
        return torch.randint(3, self.max_episode_length, size, generator=self.generator, device=self.device)

    def get_observations(self) -> TensorDict:
        return TensorDict({"policy": self.state.clone()}, batch_size=[self.num_envs])

    def step(self, actions: torch.Tensor):
        position, velocity = self.state.split(2, -1)
        velocity = 0.9 * velocity + 0.1 * actions
        self.state = torch.cat([position + 0.1 * velocity, velocity], -1)
        rewards = -self.state[:, :2].norm(dim=-1)
        self.episode_length_buf += 1
        dones = (self.episode_length_buf >= self.limit).long()
        fresh = dones.bool()
        self.state = torch.where(fresh[:, None], self._draw(self.num_envs), self.state)
        self.limit = torch.where(fresh, self._draw_limits(), self.limit)
        self.episode_length_buf[fresh] = 0
        extras = {"time_outs": torch.zeros(self.num_envs, device=self.device)}
        return self.get_observations(), rewards, dones, extras


def config(network: dict | None = None, steps: int = 24, critic: dict | None = None, **algorithm) -> dict:
    """rsl_rl's configuration of a small PPO agent; ``network`` makes its actor spike, ``critic`` its critic."""
    mlp = {"class_name": "MLPModel", "hidden_dims": [16], "activation": "elu"}
    gaussian = {"class_name": "GaussianDistribution", "init_std": 1.0}
    actor = {**mlp, "distribution_cfg": gaussian}
    value = dict(mlp)
    for model, spiking in ((actor, network), (value, critic)):
        if spiking is not None:
            model["class_name"] = "spiky_rl.learners.rsl_rl:SpikingModel"
            model["network"] = {"name": "feedforward", **spiking}
    return {
        "num_steps_per_env": steps,
        "save_interval": 100,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": actor,
        "critic": value,
        "algorithm": {
            "class_name": "spiky_rl.learners.rsl_rl:SpikingPPO",
            "num_learning_epochs": 2, "num_mini_batches": 2, "schedule": "fixed", "learning_rate": 1e-3, **algorithm,
        },
    }  # fmt: skip


LIF = {
    "connection": {"name": "linear", "gain": 2.0, "offset": 0.5},
    "neuron": {"name": "lif", "tau": 2.0, "input_gain": "unit"},
}
"""A network that fires well on unit observations."""
