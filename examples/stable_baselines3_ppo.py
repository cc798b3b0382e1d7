"""Train PPO of Stable-Baselines3 on CartPole with a spiking features extractor.

python examples/stable_baselines3_ppo.py  (needs stable-baselines3)
"""

import spiky_rl
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor


class SpikingExtractor(BaseFeaturesExtractor):
    """Observations [B, O] -> features [B, F] of a spiking network; actor and critic share it."""

    def __init__(self, observation_space, features_dim=64, **options):
        super().__init__(observation_space, features_dim)
        self.network = spiky_rl.network(observation_space.shape[0], features_dim, **options)

    def forward(self, observations):
        return self.network(observations)


def main(steps: int = 20_000) -> float:
    """Train for ``steps`` control steps; return the mean return of ten episodes without noise."""
    policy = {
        "features_extractor_class": SpikingExtractor,
        "features_extractor_kwargs": {"layers": [64], "steps": 4, "neuron": {"name": "lif", "tau": 2.0}},
        "net_arch": [],  # action and value are linear maps of the features
    }
    envs = make_vec_env("CartPole-v1", n_envs=8, seed=0)
    # as in the zoo of Stable-Baselines3, where learning rate and clipping decline to zero
    settings = {"n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8}
    rates = {"learning_rate": lambda left: 1e-3 * left, "clip_range": lambda left: 0.2 * left}
    model = PPO("MlpPolicy", envs, policy_kwargs=policy, seed=0, device="cpu", **settings, **rates)
    model.learn(steps)
    mean, _ = evaluate_policy(model, envs, n_eval_episodes=10)
    print(f"return: {mean:.0f} of 500")
    return mean


if __name__ == "__main__":
    main()
