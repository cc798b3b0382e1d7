"""What a run's specification may hold, key by key: Isaac Lab's rsl_rl configuration, skrl's own, and what spikes."""

from __future__ import annotations

from typing import Any

from spiky_rl.config.registry import Option

ACTIVATIONS = (
    "elu",
    "selu",
    "relu",
    "crelu",
    "lrelu",
    "tanh",
    "sigmoid",
    "softplus",
    "gelu",
    "swish",
    "mish",
    "identity",
)
"""What rsl_rl knows."""
COMPILE_MODES = ("default", "max-autotune-no-cudagraphs")
"""Modes of torch.compile that rsl_rl takes: the others capture CUDA graphs, which its algorithms do not go with."""
MOST_LAYERS = 100
"""Layers of a network."""
MOST_STEPS = 2**31 - 1
"""Iterations, steps or episodes: what counters of 32 bits hold."""
MODEL: dict[str, Any] = {
    "class_name": Option("MLPModel", "rsl_rl model, or module:Class; set by spiky_rl where a network spikes"),
    "hidden_dims": Option([], "hidden layers", low=1, least=1, most=MOST_LAYERS),
    "activation": Option("elu", "activation of an ANN", choices=ACTIVATIONS),
    "obs_normalization": Option(False, "normalise observations by their running mean and deviation"),
    "rnn_type": Option("gru", "recurrent unit of an RNNModel", choices=("gru", "lstm")),
    "rnn_hidden_dim": Option(256, "width of an RNNModel's state", low=1),
    "rnn_num_layers": Option(1, "recurrent layers of an RNNModel", low=1),
}
DISTRIBUTION = {
    "class_name": Option("GaussianDistribution", "rsl_rl distribution, or module:Class"),
    "init_std": Option(1.0, "initial standard deviation", above=0.0),
    "std_type": Option("scalar", "how it is stored", choices=("scalar", "log")),
    "std_range": Option(
        [], "least and largest standard deviation; empty: rsl_rl's", of=float, low=0.0, lengths=(0, 2)
    ),
    "learn_std": Option(True, "whether it is learned"),
    "action_range": Option([], "range of a bounded distribution's actions", of=float, lengths=(0, 2)),
}
RND = {
    "num_outputs": Option(1, "width of what is predicted", low=1),
    "predictor_hidden_dims": Option([], "hidden layers of the network that learns", low=1, least=1),
    "target_hidden_dims": Option([], "hidden layers of the network that is random", low=1, least=1),
    "activation": Option("elu", "of both", choices=ACTIVATIONS),
    "state_normalization": Option(False, "normalise what they see"),
    "reward_normalization": Option(False, "normalise the intrinsic reward"),
    "weight": Option(0.0, "of the intrinsic reward", low=0.0),
    "weight_schedule": {
        "mode": Option("constant", "how the weight changes", choices=("constant", "step", "linear")),
        "initial_step": Option(0, "linear: where it begins to change", low=0),
        "final_step": Option(0, "step, linear: where it has its last value", low=0),
        "final_value": Option(0.0, "step, linear: that value", low=0.0),
    },
    "learning_rate": Option(1e-3, "of the network that learns", above=0.0),
}
SYMMETRY = {
    "data_augmentation_func": Option("", "module:function that mirrors observations and actions"),
    "use_data_augmentation": Option(False, "learn from the mirrored samples too"),
    "use_mirror_loss": Option(False, "a loss for what differs between mirrored actions"),
    "mirror_loss_coeff": Option(0.0, "weight of that loss", low=0.0),
}
DISTILLATION = {
    "iterations": Option(
        20, "iterations in which the student learns from its teacher, before PPO", low=1, high=MOST_STEPS
    ),
    "value_iterations": Option(
        5, "iterations after them in which the critic alone learns", low=0, high=MOST_STEPS
    ),
    "learning_rate": Option(1e-3, "of the student while it learns from its teacher", above=0.0),
    "num_learning_epochs": Option(1, "passes over a rollout", low=1, high=10_000),
    "gradient_length": Option(
        1,
        "control steps per step of the optimiser, through which a state's gradient goes",
        low=1,
        high=MOST_STEPS,
    ),
    "loss_type": Option("mse", "of the distance to the teacher's action", choices=("mse", "huber")),
    "max_grad_norm": Option(1.0, "gradient clipping", above=0.0),
}
ALGORITHM: dict[str, Any] = {
    "class_name": Option(
        "PPO", "rsl_rl algorithm, or module:Class; spiky_rl puts its PPO in the place of 'PPO'"
    ),
    "learning_rate": Option(1e-3, "initial learning rate; 0 leaves a network as it was drawn", low=0.0),
    "schedule": Option("adaptive", "of the learning rate", choices=("adaptive", "fixed")),
    "desired_kl": Option(0.01, "target of the adaptive schedule", above=0.0),
    "learning_rate_floor": Option(0.0, "least learning rate of the adaptive schedule", low=0.0),
    "critic_learning_rate": Option(
        None, "of what does not spike, critic and action noise, with the fixed schedule", above=0.0, of=float
    ),
    "num_learning_epochs": Option(5, "passes over a rollout", low=1, high=10_000),
    "num_mini_batches": Option(4, "minibatches per pass", low=1, high=MOST_STEPS),
    "gamma": Option(0.99, "discount", low=0.0, high=1.0),
    "lam": Option(0.95, "GAE's lambda", low=0.0, high=1.0),
    "clip_param": Option(0.2, "PPO's clipping range", above=0.0),
    "entropy_coef": Option(0.0, "weight of the entropy bonus", low=0.0),
    "value_loss_coef": Option(1.0, "weight of the value loss", low=0.0),
    "use_clipped_value_loss": Option(True, "clip the value loss as the policy's"),
    "max_grad_norm": Option(1.0, "gradient clipping", above=0.0),
    "optimizer": Option("adam", "optimiser", choices=("adam", "adamw", "sgd", "rmsprop")),
    "normalize_advantage_per_mini_batch": Option(
        False, "normalise advantages per minibatch, not per rollout"
    ),
    "use_mixed_precision": Option(False, "bfloat16 autocast"),
    "share_cnn_encoders": Option(False, "share CNN encoders between actor and critic"),
    "rnd_cfg": RND,
    "symmetry_cfg": SYMMETRY,
    "distillation_cfg": DISTILLATION,
    "rewards_shaper_scale": Option(1.0, "skrl's: factor on the rewards that are learned from", above=0.0),
    "value_normalization": Option(False, "skrl's: normalise values by running mean and deviation"),
    "value_clip": Option(
        None, "skrl's: range of the clipped value loss; none: clip_param", above=0.0, of=float
    ),
    "time_limit_bootstrap": Option(
        False, "skrl's: add the value that is left where time cuts an episode off"
    ),
    "kl_threshold": Option(0.0, "skrl's: divergence that ends an update's epoch; 0: none does", low=0.0),
}
OPTIONAL = ("rnd_cfg", "symmetry_cfg", "distillation_cfg", "weight_schedule")
"""Groups of the algorithm that may be null: what they configure is then absent."""
SKRL_ONLY = (
    "rewards_shaper_scale",
    "value_normalization",
    "value_clip",
    "time_limit_bootstrap",
    "kl_threshold",
)
"""Keys of the algorithm that rsl_rl's PPO does not know."""
OBSERVED_BY = {
    role: Option([], f"observation groups of {who}", of=str, least=1)
    for role, who in (("actor", "the actor"), ("critic", "the critic"), ("rnd_state", "rnd_cfg"))
}
RUNNER: dict[str, Any] = {
    "num_steps_per_env": Option(24, "T: control steps per environment and rollout", low=1, high=MOST_STEPS),
    "max_iterations": Option(1000, "iterations", low=1, high=MOST_STEPS),
    "save_interval": Option(50, "iterations between checkpoints", low=1, high=MOST_STEPS),
    "experiment_name": Option("", "folder below logs/rsl_rl or logs/skrl"),
    "clip_actions": Option(None, "clip actions to this range", above=0.0, of=float),
    "init_at_random_ep_len": Option(True, "start environments at random points of their episodes"),
    "check_for_nan": Option(True, "stop on NaN"),
    "obs_groups": OBSERVED_BY,
    "torch_compile_mode": Option(None, "torch.compile mode of the models", choices=COMPILE_MODES),
    "burn_in": Option(
        0, "first control steps of a replayed rollout that warm a stateful network up without loss", low=0
    ),
    "history": Option(
        1, "control steps that an observation holds, the latest last; 1: as the task has it", low=1, high=1000
    ),
    "picture_interval": Option(25, "iterations between spike rasters in TensorBoard", low=1, high=MOST_STEPS),
    "actor": {**MODEL, "distribution_cfg": DISTRIBUTION},
    "critic": MODEL,
    "algorithm": ALGORITHM,
}
NETWORKS = {
    "network": "the actor's spiking network; absent: an ANN",
    "critic_network": "the critic's; absent: an ANN",
}
TASK: dict[str, Any] = {
    **dict.fromkeys(("id", "summary", "measure", "leg"), ""),
    **dict.fromkeys(("num_envs", "steps_per_second", "env", "agent"), {}),
    "solved": 0.0,
}
"""Keys of a task file, each with a value of its type; `TaskSpec` says what they mean."""
MEASURES = ("", "distance", "upright", "velocity_error")
"""What a task's ``measure`` may be."""
