"""What a run's specification may hold, key by key: Isaac Lab's rsl_rl configuration, skrl's own, and what spikes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from spiky_rl.config.options import Names, Range, RegistryError, Settings, Widths, option, suggest_name

MOST_LAYERS = 100
"""Layers of a network."""
MOST_STEPS = 2**31 - 1
"""Iterations, steps or episodes: what counters of 32 bits hold."""
Activation = Literal[
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
]
"""What rsl_rl knows."""
CompileMode = Literal["default", "max-autotune-no-cudagraphs"]
"""Modes of torch.compile that rsl_rl takes: the others capture CUDA graphs, which its algorithms do not go with."""
Layers = Annotated[Widths, Field(min_length=1, max_length=MOST_LAYERS, strict=False)]
"""Hidden layers, at least one."""
Groups = Annotated[Names, Field(min_length=1, strict=False)]
"""Names of observation groups, at least one."""


class ModelSettings(Settings):
    """An actor or a critic."""

    class_name: str = option(
        "MLPModel", "rsl_rl model, or module:Class; set by spiky_rl where a network spikes"
    )
    hidden_dims: Layers = option((), "hidden layers")
    activation: Activation = option("elu", "activation of an ANN")
    obs_normalization: bool = option(False, "normalise observations by their running mean and deviation")
    rnn_type: Literal["gru", "lstm"] = option("gru", "recurrent unit of an RNNModel")
    rnn_hidden_dim: int = option(256, "width of an RNNModel's state", low=1)
    rnn_num_layers: int = option(1, "recurrent layers of an RNNModel", low=1)


class Distribution(Settings):
    """The distribution that actions are drawn from."""

    class_name: str = option("GaussianDistribution", "rsl_rl distribution, or module:Class")
    init_std: float = option(1.0, "initial standard deviation", above=0.0)
    std_type: Literal["scalar", "log"] = option("scalar", "how it is stored")
    std_range: Range = option((), "least and largest standard deviation; empty: rsl_rl's")
    learn_std: bool = option(True, "whether it is learned")
    action_range: Range = option((), "range of a bounded distribution's actions")

    @field_validator("std_range")
    @classmethod
    def _not_negative(cls, limits: tuple[float, ...]) -> tuple[float, ...]:
        if limits and limits[0] < 0.0:
            raise RegistryError(f"{limits[0]} is out of range; it must be at least 0.0")
        return limits


class Actor(ModelSettings):
    """An actor."""

    distribution_cfg: Distribution = option(Distribution(), "distribution that actions are drawn from")


class WeightSchedule(Settings):
    """How the weight of the intrinsic reward changes."""

    mode: Literal["constant", "step", "linear"] = option("constant", "how the weight changes")
    initial_step: int = option(0, "linear: where it begins to change", low=0)
    final_step: int = option(0, "step, linear: where it has its last value", low=0)
    final_value: float = option(0.0, "step, linear: that value", low=0.0)


class Rnd(Settings):
    """Random network distillation."""

    num_outputs: int = option(1, "width of what is predicted", low=1)
    predictor_hidden_dims: Layers = option((), "hidden layers of the network that learns")
    target_hidden_dims: Layers = option((), "hidden layers of the network that is random")
    activation: Activation = option("elu", "activation of both networks")
    state_normalization: bool = option(False, "normalise what both networks see")
    reward_normalization: bool = option(False, "normalise the intrinsic reward")
    weight: float = option(0.0, "weight of the intrinsic reward", low=0.0)
    weight_schedule: WeightSchedule | None = option(None, "how the weight changes; null: not at all")
    learning_rate: float = option(1e-3, "learning rate of the network that learns", above=0.0)


class Symmetry(Settings):
    """Learning from mirrored observations and actions."""

    data_augmentation_func: str = option("", "module:function that mirrors observations and actions")
    use_data_augmentation: bool = option(False, "learn from the mirrored samples too")
    use_mirror_loss: bool = option(False, "a loss for what differs between mirrored actions")
    mirror_loss_coeff: float = option(0.0, "weight of that loss", low=0.0)


class DistillationSettings(Settings):
    """A student that learns what a teacher does, before PPO goes on."""

    iterations: int = option(
        20, "iterations in which the student learns from its teacher, before PPO", low=1, high=MOST_STEPS
    )
    value_iterations: int = option(
        5, "iterations after them in which the critic alone learns", low=0, high=MOST_STEPS
    )
    learning_rate: float = option(
        1e-3, "learning rate of the student while it learns from its teacher", above=0.0
    )
    num_learning_epochs: int = option(1, "passes over a rollout", low=1, high=10_000)
    gradient_length: int = option(
        1,
        "control steps per step of the optimiser, through which a state's gradient goes",
        low=1,
        high=MOST_STEPS,
    )
    loss_type: Literal["mse", "huber"] = option("mse", "loss for the distance to the teacher's action")
    max_grad_norm: float = option(1.0, "gradient clipping", above=0.0)


class Algorithm(Settings):
    """PPO."""

    class_name: str = option(
        "PPO", "rsl_rl algorithm, or module:Class; spiky_rl puts its PPO in the place of 'PPO'"
    )
    learning_rate: float = option(1e-3, "initial learning rate; 0 leaves a network as it was drawn", low=0.0)
    schedule: Literal["adaptive", "fixed"] = option("adaptive", "schedule of the learning rate")
    desired_kl: float = option(0.01, "target of the adaptive schedule", above=0.0)
    learning_rate_floor: float = option(0.0, "least learning rate of the adaptive schedule", low=0.0)
    critic_learning_rate: float | None = option(
        None,
        "learning rate of what does not spike, critic and action noise, with the fixed schedule",
        above=0.0,
    )
    std_learning_rate: float | None = option(
        None,
        "learning rate of the action's standard deviation, with the fixed schedule; null: the critic's",
        above=0.0,
    )
    num_learning_epochs: int = option(5, "passes over a rollout", low=1, high=10_000)
    num_mini_batches: int = option(4, "minibatches per pass", low=1, high=MOST_STEPS)
    gamma: float = option(0.99, "discount", low=0.0, high=1.0)
    lam: float = option(0.95, "GAE's lambda", low=0.0, high=1.0)
    clip_param: float = option(0.2, "PPO's clipping range", above=0.0)
    entropy_coef: float = option(0.0, "weight of the entropy bonus", low=0.0)
    value_loss_coef: float = option(1.0, "weight of the value loss", low=0.0)
    use_clipped_value_loss: bool = option(True, "clip the value loss as the policy's")
    max_grad_norm: float = option(1.0, "gradient clipping", above=0.0)
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = option("adam", "optimiser")
    normalize_advantage_per_mini_batch: bool = option(
        False, "normalise advantages per minibatch, not per rollout"
    )
    use_mixed_precision: bool = option(False, "bfloat16 autocast")
    share_cnn_encoders: bool = option(False, "share CNN encoders between actor and critic")
    rnd_cfg: Rnd | None = option(None, "random network distillation; null: none")
    symmetry_cfg: Symmetry | None = option(None, "learning from mirrored samples; null: none")
    distillation_cfg: DistillationSettings | None = option(None, "learning from a teacher; null: none")
    rewards_shaper_scale: float = option(
        1.0, "skrl's: factor on the rewards that are learned from", above=0.0
    )
    value_normalization: bool = option(False, "skrl's: normalise values by running mean and deviation")
    value_clip: float | None = option(
        None, "skrl's: range of the clipped value loss; none: clip_param", above=0.0
    )
    time_limit_bootstrap: bool = option(
        False, "skrl's: add the value that is left where time cuts an episode off"
    )
    kl_threshold: float = option(0.0, "skrl's: divergence that ends an update's epoch; 0: none does", low=0.0)


class ObservationGroups(Settings):
    """Groups of observations, by who gets them."""

    actor: Groups = option((), "observation groups of the actor")
    critic: Groups = option((), "observation groups of the critic")
    rnd_state: Groups = option((), "observation groups of rnd_cfg")


class RunnerSettings(Settings):
    """An agent, but for its name and what differs on a task."""

    num_steps_per_env: int = option(
        24, "T: control steps per environment and rollout", low=1, high=MOST_STEPS
    )
    max_iterations: int = option(1000, "iterations", low=1, high=MOST_STEPS)
    save_interval: int = option(50, "iterations between checkpoints", low=1, high=MOST_STEPS)
    experiment_name: str = option("", "folder below logs/rsl_rl or logs/skrl")
    clip_actions: float | None = option(None, "clip actions to this range", above=0.0)
    init_at_random_ep_len: bool = option(True, "start environments at random points of their episodes")
    check_for_nan: bool = option(True, "stop on NaN")
    obs_groups: ObservationGroups = option(ObservationGroups(), "what each model observes")
    torch_compile_mode: CompileMode | None = option(None, "torch.compile mode of the models")
    burn_in: int = option(
        0, "first control steps of a replayed rollout that warm a stateful network up without loss", low=0
    )
    history: int = option(
        1, "control steps that an observation holds, the latest last; 1: as the task has it", low=1, high=1000
    )
    frames: Literal["turn", "sum", "stack"] = option(
        "turn",
        "how a classified recording's frames are seen: in turn, as their sum, or in a stack of channels",
    )
    picture_interval: int = option(
        25, "iterations between spike rasters in TensorBoard", low=1, high=MOST_STEPS
    )
    actor: Actor = option(Actor(), "the actor's ANN, and its distribution")
    critic: ModelSettings = option(ModelSettings(), "the critic's ANN")
    algorithm: Algorithm = option(Algorithm(), "how actor and critic learn")
    network: Any = option(None, "the actor's spiking network; absent: an ANN")
    critic_network: Any = option(None, "the critic's spiking network; absent: an ANN")


class AgentFile(RunnerSettings):
    """A file of ``agents/``: a layer, what it is, and the layers over it on single tasks."""

    summary: str = option("", "what it is, in a sentence")
    tasks: dict[str, Any] | None = option(None, "what differs on a task")


NETWORKS = ("network", "critic_network")
"""Keys of the networks that spike."""
ANN_KEYS = ("class_name", "hidden_dims", "activation", "rnn_type", "rnn_hidden_dim", "rnn_num_layers")
"""Keys of an actor or a critic that say what ANN it is: a network that spikes takes its place."""
SKRL_ONLY = (
    "rewards_shaper_scale",
    "value_normalization",
    "value_clip",
    "time_limit_bootstrap",
    "kl_threshold",
)
"""Keys of the algorithm that rsl_rl's PPO does not know."""
Measure = Literal["", "distance", "upright", "velocity_error"]
"""What a task's episodes may be measured by."""
MEASURES = get_args(Measure)
DEVICES = ("cpu", "cuda")


class TaskSpec(Settings):
    """A task: an Isaac Lab environment, how many of it, and what its episodes are measured by."""

    id: str = option("", "gym id, as Isaac Lab registers it")
    summary: str = option("", "what it is, in a sentence")
    num_envs: dict[str, Annotated[int, Field(ge=1, le=MOST_STEPS)]] = option(
        {"cpu": 256, "cuda": 4096}, "default number of environments per kind of device"
    )
    measure: Measure = option("", "what playback reports beside the return")
    leg: str = option(
        "", "joints of one of the robot's legs, as a regular expression; empty: it has none that is known"
    )
    solved: float | None = option(None, "mean return from which the task counts as solved")
    steps_per_second: dict[str, Annotated[float, Field(ge=1e-3)]] = option(
        {},
        "environment steps per second, simulation and learning of the MLP, on one core (cpu) and one GPU (cuda); for estimates",
    )
    env: dict[str, Any] = option({}, "overrides of the environment's configuration")
    agent: dict[str, Any] = option(
        {}, "overrides of Isaac Lab's agent configuration, for every agent on this task"
    )
    name: str = option("", "the file's name")

    @field_validator("num_envs", "steps_per_second")
    @classmethod
    def _by_device(cls, numbers: dict[str, float]) -> dict[str, float]:
        for kind in numbers:
            if kind not in DEVICES:
                raise RegistryError(
                    f"{kind!r} is no kind of device; choose from {' and '.join(DEVICES)}{suggest_name(kind, DEVICES)}"
                )
        return numbers

    @field_validator("num_envs")
    @classmethod
    def _both(cls, counts: dict[str, int]) -> dict[str, int]:
        if len(counts) < len(DEVICES):
            raise RegistryError(f"expected a number for cpu and one for cuda, got {counts!r}")
        return counts

    @model_validator(mode="after")
    def _is_a_task(self) -> Self:
        if not self.id:
            raise RegistryError("id: name the gym id")
        return self

    @property
    def label(self) -> str:
        """Name under which the task's runs are kept: the gym id, or the file's name where it makes another task of that environment."""
        return self.name if self.env else self.id
