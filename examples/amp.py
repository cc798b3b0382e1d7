"""Adversarial motion priors: skrl's AMP with a spiking actor learns to move as recorded motions do, without a task's reward.

The recorded motions are a pendulum's that a controller spins as fast as it can. A discriminator learns to tell the actor's
transitions from recorded ones, and rewards the actor for transitions that it takes for recorded ones.

python examples/amp.py
"""

from typing import Any

import gymnasium
import numpy as np
import torch
from skrl.agents.torch.amp import AMP, AMP_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer
from torch import Tensor, nn

from spiky_rl.learners.skrl import SpikingPolicy

ENVS, ROLLOUT, UPDATES, MOTIONS = 32, 32, 100, 4096
NETWORK = {
    "name": "feedforward",
    "layers": [64, 64],
    "connection": {"name": "linear", "gain": 2.0, "offset": 0.25, "spread": 0.5},
    "neuron": {"name": "lif", "tau": 2.0, "input_gain": "unit"},
}


class Transitions(gymnasium.vector.VectorWrapper):
    """Adds two observations in a row, [B, 6], to the infos, where skrl's AMP looks for them."""

    def reset(self, *, seed=None, options=None):
        self.latest, infos = self.env.reset(seed=0 if seed is None else seed, options=options)
        return self.latest, infos

    def step(self, actions):
        observations, *rest, infos = self.env.step(actions)
        pairs = np.concatenate([self.latest, observations], axis=-1)
        self.latest = observations.copy()
        return observations, *rest, {**infos, "amp_obs": torch.as_tensor(pairs)}


class Readout(DeterministicMixin, Model):
    """MLP with one output: the value function, and the discriminator."""

    def __init__(self, observation_space: gymnasium.Space, device: torch.device) -> None:
        Model.__init__(self, observation_space=observation_space, device=device)
        DeterministicMixin.__init__(self)
        self.layers = nn.Sequential(nn.Linear(self.num_observations, 64), nn.ELU(), nn.Linear(64, 1))

    def compute(self, inputs: dict, role: str = "") -> tuple[Tensor, dict]:
        return self.layers(inputs["observations"]), {}


def make_env() -> Transitions:
    """Return pendulums with the infos that AMP needs."""
    return Transitions(gymnasium.make_vec("Pendulum-v1", ENVS, vectorization_mode="sync"))


def record_motions() -> Tensor:
    """Return transitions of a controller that pushes in the direction of the speed, with the largest torque, [N, 6]."""
    env, found = make_env(), []
    observations, _ = env.reset(seed=1)
    while len(found) * ENVS < MOTIONS:
        observations, *_, infos = env.step(2.0 * np.sign(observations[:, 2:]))
        found.append(infos["amp_obs"])
    return torch.cat(found)


def main(updates: int = UPDATES) -> tuple[AMP, Tensor]:
    """Train, and return the agent and the recorded motions."""
    torch.manual_seed(0)
    motions, env = record_motions(), wrap_env(make_env(), verbose=False)
    spaces: dict[str, Any] = {"observation_space": env.observation_space, "action_space": env.action_space}
    pairs = gymnasium.spaces.Box(-np.inf, np.inf, (motions.shape[-1],))
    policy = SpikingPolicy(
        num_envs=ENVS,
        sequence_length=1,
        hidden_dims=(),
        network=NETWORK,
        device=env.device,
        state_space=None,
        **spaces,
    )
    agent = AMP(
        models={
            "policy": policy,
            "value": Readout(env.observation_space, env.device),
            "discriminator": Readout(pairs, env.device),
        },
        memory=RandomMemory(memory_size=ROLLOUT, num_envs=ENVS, device=env.device),
        cfg=AMP_CFG(
            rollouts=ROLLOUT,
            learning_rate=1e-3,
            learning_epochs=4,
            mini_batches=4,
            experiment={"write_interval": 0, "checkpoint_interval": 0},
        ),
        amp_observation_space=pairs,
        motion_dataset=RandomMemory(memory_size=MOTIONS, device=env.device),
        reply_buffer=RandomMemory(memory_size=10 * MOTIONS, device=env.device),
        collect_reference_motions=lambda count: motions[torch.randint(len(motions), (count,))],
        device=env.device,
        **spaces,
    )
    settings = {"timesteps": updates * ROLLOUT, "disable_progressbar": True, "headless": True}
    SequentialTrainer(env=env, agents=agent, cfg={**settings, "close_environment_at_exit": False}).train()
    return agent, motions


if __name__ == "__main__":
    trained, recorded = main()
    transitions = trained.memory.get_tensor_by_name("amp_observations").reshape(-1, recorded.shape[-1])
    for name, samples in (("recorded", recorded), ("the actor's", transitions)):
        print(f"{name}: {samples[:, 2].abs().mean():.1f} rad/s")
