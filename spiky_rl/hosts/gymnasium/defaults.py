"""PPO's settings on tasks of Gymnasium, which registers none."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from spiky_rl.config.schema import CATEGORICAL

if TYPE_CHECKING:
    from spiky_rl.hosts.gymnasium.spaces import TaskSpaces

NUM_ENVS = 32
"""Default number of environments: enough for 16 minibatches of a recurrent agent, which need two environments each."""


CNN = {
    "output_channels": [16, 32, 32],
    "kernel_size": [5, 3, 3],
    "stride": [2, 2, 2],
    "padding": "zeros",
    "activation": "elu",
}
"""Convolutions of an ANN on images of any size."""


def make_agent_defaults(task: str, spaces: TaskSpaces) -> dict[str, Any]:
    """Return the settings in the layout of agent files.

    They follow CleanRL's for continuous actions, with its 2,048 samples per update from 32 environments instead of one, and a
    fixed learning rate. Scaled rewards matter on all tasks: the clipped value loss moves a value by at most 0.2 per update.
    """
    distribution: dict[str, Any] = {"class_name": "GaussianDistribution", "init_std": 1.0, "std_type": "log"}
    if spaces.is_discrete:
        distribution = {"class_name": CATEGORICAL}
        if spaces.component_choices:
            distribution["choices"] = spaces.component_choices
    model: dict[str, Any] = {"class_name": "MLPModel", "hidden_dims": [64, 64], "activation": "tanh"}
    if spaces.is_image:
        model |= {"class_name": "CNNModel", "hidden_dims": [128], "activation": "elu", "cnn_cfg": CNN}
    else:
        model["obs_normalization"] = True
    return {
        "experiment_name": re.sub(r"[^\w.+-]", "_", task),
        "seed": 42,
        "num_steps_per_env": 64,
        "max_iterations": 488,
        "save_interval": 50,
        "init_at_random_ep_len": False,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": {**model, "distribution_cfg": distribution},
        "critic": model,
        "algorithm": {
            "class_name": "PPO",
            "learning_rate": 3.0e-4,
            "schedule": "fixed",
            "desired_kl": 0.01,
            "num_learning_epochs": 10,
            "num_mini_batches": 16,
            "gamma": 0.99,
            "lam": 0.95,
            "clip_param": 0.2,
            "entropy_coef": 0.0,
            "value_loss_coef": 0.5,
            "use_clipped_value_loss": True,
            "max_grad_norm": 0.5,
            "reward_normalization": True,
        },
    }
