"""Declarations of all keys of agent and task files: rsl_rl's configuration as in Isaac Lab, keys of skrl, and spiking networks.

`check_combination` refuses values of an agent that are valid alone, but not in combination with another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from spiky_rl.config.options import (
    Names,
    Range,
    RegistryError,
    Settings,
    Widths,
    get_options,
    option,
    suggest_name,
)
from spiky_rl.config.plain_data import PlainMapping, PlainValue, get_section

MAX_LAYERS = 100
"""Maximum number of layers of a network."""
MAX_INT32 = 2**31 - 1
"""Maximum of seeds and of numbers of iterations, steps or episodes: the largest signed integer of 32 bits."""
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
"""Activations of rsl_rl."""
CompileMode = Literal["default", "max-autotune-no-cudagraphs"]
"""Modes of torch.compile that work with rsl_rl: those without CUDA graphs."""
Layers = Annotated[Widths, Field(min_length=1, max_length=MAX_LAYERS, strict=False)]
"""Hidden layers, at least one."""
Choices = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)]
"""Numbers of choices."""
Groups = Annotated[Names, Field(min_length=1, strict=False)]
"""Names of observation groups, at least one."""


CATEGORICAL = "CategoricalDistribution"
"""Name of our distribution of discrete actions."""


class ModelSettings(Settings):
    """Actor or critic."""

    class_name: str = option(
        "MLPModel", "rsl_rl model, or module:Class; set by spiky_rl for a spiking network"
    )
    hidden_dims: Layers = option((), "hidden layers")
    activation: Activation = option("elu", "activation of an ANN")
    obs_normalization: bool = option(
        False, "normalise observations by their running mean and standard deviation"
    )
    rnn_type: Literal["gru", "lstm"] = option("gru", "recurrent unit of an RNNModel")
    rnn_hidden_dim: int = option(256, "size of an RNNModel's hidden state", low=1)
    rnn_num_layers: int = option(1, "number of recurrent layers of an RNNModel", low=1)


class Distribution(Settings):
    """Action distribution."""

    class_name: str = option(
        "GaussianDistribution",
        "rsl_rl distribution, CategoricalDistribution for discrete actions, or module:Class",
    )
    init_std: float = option(1.0, "initial standard deviation", above=0.0)
    std_type: Literal["scalar", "log"] = option("scalar", "parametrisation of the standard deviation")
    std_range: Range = option((), "lowest and highest standard deviation; empty: rsl_rl's")
    learn_std: bool = option(True, "whether the standard deviation is learned")
    action_range: Range = option((), "range of the actions of a bounded distribution")
    choices: Choices = option(
        (), "with several discrete actions: number of choices of each, as the task has them; set by the task"
    )

    @field_validator("std_range")
    @classmethod
    def _check_not_negative(cls, limits: tuple[float, ...]) -> tuple[float, ...]:
        if limits and limits[0] < 0.0:
            raise RegistryError(f"{limits[0]} is out of range; it must be at least 0.0")
        return limits


class Actor(ModelSettings):
    """Actor: a model with an action distribution."""

    distribution_cfg: Distribution = option(Distribution(), "action distribution")


class WeightSchedule(Settings):
    """Schedule of the weight of the intrinsic reward."""

    mode: Literal["constant", "step", "linear"] = option("constant", "shape of the schedule")
    initial_step: int = option(0, "with linear: step at which the change begins", low=0)
    final_step: int = option(0, "with step and linear: step from which the weight has its final value", low=0)
    final_value: float = option(0.0, "with step and linear: final weight", low=0.0)


class Rnd(Settings):
    """Random network distillation."""

    num_outputs: int = option(1, "number of outputs of predictor and target", low=1)
    predictor_hidden_dims: Layers = option((), "hidden layers of the predictor, which is trained")
    target_hidden_dims: Layers = option((), "hidden layers of the target, which is fixed and random")
    activation: Activation = option("elu", "activation of predictor and target")
    state_normalization: bool = option(False, "normalise the inputs of predictor and target")
    reward_normalization: bool = option(False, "normalise the intrinsic reward")
    weight: float = option(0.0, "weight of the intrinsic reward", low=0.0)
    weight_schedule: WeightSchedule | None = option(None, "schedule of the weight; null: constant")
    learning_rate: float = option(1e-3, "learning rate of the predictor", above=0.0)


class Symmetry(Settings):
    """Learning from mirrored observations and actions."""

    data_augmentation_func: str = option(
        "", "module:function or path/file.py:function that appends mirrored observations and actions"
    )
    use_data_augmentation: bool = option(False, "also learn from the mirrored samples")
    use_mirror_loss: bool = option(False, "add a loss on the difference between mirrored actions")
    mirror_loss_coeff: float = option(0.0, "weight of the mirror loss", low=0.0)


class DistillationSettings(Settings):
    """Distillation: the student imitates a teacher, or is converted from it, before PPO continues."""

    method: Literal["imitation", "conversion"] = option(
        "imitation",
        "imitation: the student learns the teacher's actions; conversion: it gets the weights of an ANN, and thresholds from"
        " its activations",
        neutral=True,
    )
    threshold_share: float = option(
        0.1,
        "with conversion: threshold as a share of the standard deviation of each unit's activation",
        above=0.0,
        neutral=True,
    )
    iterations: int = option(
        20,
        "iterations of imitation, or of the teacher's observations for a conversion",
        low=1,
        high=MAX_INT32,
    )
    value_iterations: int = option(
        5, "iterations between imitation and PPO that train only the critic", low=0, high=MAX_INT32
    )
    learning_rate: float = option(1e-3, "learning rate of the imitation", above=0.0)
    num_learning_epochs: int = option(1, "passes over a rollout", low=1, high=10_000)
    gradient_length: int = option(
        1,
        "control steps per gradient step; the gradient of the hidden state reaches back as far",
        low=1,
        high=MAX_INT32,
    )
    loss_type: Literal["mse", "huber"] = option("mse", "loss on the difference to the teacher's action")
    max_grad_norm: float = option(1.0, "largest norm of the gradient", above=0.0)


class ReplaySettings(Settings):
    """Options of the algorithms that replay stored transitions: TD3 and SAC."""

    batch_size: int = option(256, "TD3 and SAC: transitions per gradient step", low=1, high=10_000_000)
    replay_size: int = option(
        1_000_000,
        "TD3 and SAC: transitions in the replay buffer, of all environments together",
        low=1,
        high=MAX_INT32,
    )
    learning_starts: int = option(
        1000,
        "TD3 and SAC: transitions in the replay buffer before the first gradient step",
        low=0,
        high=MAX_INT32,
    )
    random_steps: int = option(
        1000,
        "TD3 and SAC: first environment steps of a training with uniformly random actions",
        low=0,
        high=MAX_INT32,
    )
    updates_per_step: float = option(
        1.0, "TD3 and SAC: gradient steps per environment step", above=0.0, high=1000.0
    )
    polyak: float = option(
        0.005,
        "TD3 and SAC: share of the weights that target networks take over per update",
        above=0.0,
        high=1.0,
    )


class Td3Settings(Settings):
    """Options of TD3 alone."""

    exploration_noise: float = option(
        0.1,
        "TD3: standard deviation of the action noise in training",
        low=0.0,
        high=10.0,
        unit="half ranges of the action",
    )
    policy_delay: int = option(2, "TD3: critic updates per update of actor and targets", low=1, high=10_000)
    smoothing_noise: float = option(
        0.2,
        "TD3: standard deviation of the noise on the target actor's actions",
        low=0.0,
        high=10.0,
        unit="half ranges of the action",
    )
    smoothing_clip: float = option(
        0.5,
        "TD3: bound of the noise on the target actor's actions",
        above=0.0,
        high=10.0,
        unit="half ranges of the action",
    )
    target: Literal["spiking", "proxy"] = option(
        "spiking",
        "TD3: target actor of a spiking actor; spiking: its moving average; proxy: an ANN that imitates it",
    )
    proxy_learning_rate: float = option(1e-3, "TD3: learning rate of the proxy target's imitation", above=0.0)


class SacSettings(Settings):
    """Options of SAC alone."""

    learn_entropy: bool = option(True, "SAC: learn the weight of the entropy")
    initial_entropy: float = option(1.0, "SAC: initial weight of the entropy", above=0.0)
    target_entropy: float | None = option(
        None, "SAC: entropy to which its weight is tuned; null: minus the number of actions", unit="nats"
    )
    entropy_learning_rate: float | None = option(
        None, "SAC: learning rate of the weight of the entropy; null: the critic's", above=0.0
    )


class Algorithm(ReplaySettings, Td3Settings, SacSettings):
    """PPO, TD3 or SAC."""

    class_name: str = option(
        "PPO",
        "PPO, TD3, SAC, or module:Class of a PPO; spiky_rl replaces each by its own subclass",
    )
    learning_rate: float = option(1e-3, "initial learning rate; 0 keeps the initial weights", low=0.0)
    schedule: Literal["adaptive", "fixed"] = option("adaptive", "schedule of the learning rate")
    desired_kl: float = option(0.01, "target divergence of the adaptive schedule", above=0.0)
    learning_rate_floor: float = option(0.0, "lowest learning rate of the adaptive schedule", low=0.0)
    critic_learning_rate: float | None = option(
        None,
        "learning rate of the critic, and with PPO, in the fixed schedule, of the action noise; null: learning_rate",
        above=0.0,
    )
    std_learning_rate: float | None = option(
        None,
        "with the fixed schedule: learning rate of the action's standard deviation; null: the critic's",
        above=0.0,
    )
    num_learning_epochs: int = option(5, "passes over a rollout", low=1, high=10_000)
    num_mini_batches: int = option(4, "minibatches per pass", low=1, high=MAX_INT32)
    gamma: float = option(0.99, "discount factor", low=0.0, high=1.0)
    lam: float = option(0.95, "GAE's lambda", low=0.0, high=1.0)
    clip_param: float = option(0.2, "PPO's clipping range", above=0.0)
    entropy_coef: float = option(0.0, "weight of the entropy bonus", low=0.0)
    value_loss_coef: float = option(1.0, "weight of the value loss", low=0.0)
    use_clipped_value_loss: bool = option(True, "clip the value loss like the policy loss")
    max_grad_norm: float = option(1.0, "largest norm of the gradient", above=0.0)
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = option("adam", "optimiser")
    normalize_advantage_per_mini_batch: bool = option(
        False, "normalise advantages per minibatch instead of per rollout"
    )
    use_mixed_precision: bool = option(False, "bfloat16 autocast")
    share_cnn_encoders: bool = option(False, "share CNN encoders between actor and critic")
    reward_normalization: bool = option(
        False, "divide the rewards in training by the running standard deviation of the discounted return"
    )
    rnd_cfg: Rnd | None = option(None, "random network distillation; null: none")
    symmetry_cfg: Symmetry | None = option(None, "learning from mirrored samples; null: none")
    distillation_cfg: DistillationSettings | None = option(None, "distillation from a teacher; null: none")
    rewards_shaper_scale: float = option(1.0, "skrl only: factor of the rewards in training", above=0.0)
    value_normalization: bool = option(
        False, "skrl only: normalise values by their running mean and standard deviation"
    )
    value_clip: float | None = option(
        None, "skrl only: range of the clipped value loss; null: clip_param", above=0.0
    )
    time_limit_bootstrap: bool = option(
        False, "skrl only: add the value of the last state to the reward if an episode ends by its time limit"
    )
    kl_threshold: float = option(0.0, "skrl only: divergence that ends an epoch early; 0: never", low=0.0)


class ObservationGroups(Settings):
    """Observation groups of each model."""

    actor: Groups = option((), "observation groups of the actor")
    critic: Groups = option((), "observation groups of the critic")
    rnd_state: Groups = option((), "observation groups of rnd_cfg")


class RunnerSettings(Settings):
    """All keys of an agent except its summary and its overrides for tasks."""

    num_steps_per_env: int = option(24, "T: control steps per environment and rollout", low=1, high=MAX_INT32)
    max_iterations: int = option(1000, "training iterations", low=1, high=MAX_INT32)
    save_interval: int = option(50, "iterations between checkpoints", low=1, high=MAX_INT32)
    experiment_name: str = option("", "name of the task's folder in logs/rsl_rl or logs/skrl")
    clip_actions: float | None = option(None, "bound of the actions: plus and minus this", above=0.0)
    init_at_random_ep_len: bool = option(True, "start environments at random points of their episodes")
    check_for_nan: bool = option(True, "stop on NaN")
    obs_groups: ObservationGroups = option(ObservationGroups(), "observation groups of each model")
    torch_compile_mode: CompileMode | None = option(None, "mode of torch.compile for the models")
    burn_in: int = option(
        0,
        "first control steps of a replayed rollout that only warm up a stateful network, without loss",
        low=0,
    )
    history: int = option(
        1, "control steps in one observation, the latest last; 1: as in the task", low=1, high=1000
    )
    frames: Literal["turn", "sum", "stack"] = option(
        "turn",
        "input of a classifier: the frames of a recording in turn, their sum, or a stack of channels",
    )
    picture_interval: int = option(
        25, "iterations between spike rasters in TensorBoard", low=1, high=MAX_INT32
    )
    evaluation_interval: int = option(
        0,
        "environment steps between evaluations without action noise during a training, in environments of their own; 0: none",
        low=0,
        high=MAX_INT32,
    )
    evaluation_episodes: int = option(10, "episodes of each evaluation during a training", low=1, high=10_000)
    actor: Actor = option(Actor(), "ANN of the actor, and the action distribution")
    critic: ModelSettings = option(ModelSettings(), "ANN of the critic")
    algorithm: Algorithm = option(Algorithm(), "learning algorithm of actor and critic")
    network: Any = option(None, "spiking network of the actor; absent: an ANN")
    critic_network: Any = option(None, "spiking network of the critic; absent: an ANN")


class AgentFile(RunnerSettings):
    """File of ``agents/``: the agent's layer, a summary, and overrides for tasks."""

    summary: str = option("", "description in one sentence")
    tasks: dict[str, Any] | None = option(
        None, "overrides for a task, by its name, or for all tasks of a host: Isaac Lab, Gymnasium or mjlab"
    )


NETWORKS = ("network", "critic_network")
"""Keys of spiking networks."""
ANN_KEYS = ("class_name", "hidden_dims", "activation", "rnn_type", "rnn_hidden_dim", "rnn_num_layers")
"""Keys of an actor or critic that define its ANN; a spiking network replaces them."""
SKRL_ONLY = (
    "rewards_shaper_scale",
    "value_normalization",
    "value_clip",
    "time_limit_bootstrap",
    "kl_threshold",
)
"""Keys of the algorithm that only skrl has."""
OFF_POLICY = {"TD3": "td3", "SAC": "sac"}
"""Class name of the algorithm -> name, of the algorithms that replay stored transitions."""
COMMON_KEYS = ("class_name", "learning_rate", "critic_learning_rate", "gamma", "rewards_shaper_scale")
"""Keys of every algorithm."""
ALGORITHM_KEYS = {
    "ppo": frozenset(Algorithm.__annotations__),
    "td3": frozenset((*COMMON_KEYS, *ReplaySettings.__annotations__, *Td3Settings.__annotations__)),
    "sac": frozenset((*COMMON_KEYS, *ReplaySettings.__annotations__, *SacSettings.__annotations__)),
}
"""Name of an algorithm -> its keys."""


def get_algorithm(settings: Mapping[str, object]) -> str:
    """Return the name of the algorithm in the section ``algorithm`` of an agent: ``td3``, ``sac`` or else ``ppo``."""
    return OFF_POLICY.get(str(settings.get("class_name", "")), "ppo")


Measure = Literal["", "distance", "upright", "velocity_error"]
"""Measures of a task's episodes besides the return."""
MEASURES = get_args(Measure)
DEVICES = ("cpu", "cuda")


class TaskSpec(Settings):
    """Task: a host's environment with the default number of environments, a measure and overrides."""

    id: str = option("", "registered id")
    summary: str = option("", "description in one sentence")
    num_envs: dict[str, Annotated[int, Field(ge=1, le=MAX_INT32)]] = option(
        {"cpu": 256, "cuda": 4096}, "default number of environments by kind of device"
    )
    measure: Measure = option("", "measure that spiky play reports besides the return")
    leg: str = option("", "regular expression of the joints of one leg of the robot; empty: no leg is known")
    solved: float | None = option(None, "mean return from which the task counts as solved")
    steps_per_second: dict[str, Annotated[float, Field(ge=1e-3)]] = option(
        {},
        "environment steps per second of simulation and learning with the MLP, on one core (cpu) and one GPU (cuda);"
        " for estimates of time",
    )
    env: dict[str, Any] = option({}, "overrides of the environment's configuration")
    agent: dict[str, Any] = option(
        {}, "overrides of the host's agent configuration, for every agent on this task"
    )
    name: str = option("", "name of the file")

    @field_validator("num_envs", "steps_per_second")
    @classmethod
    def _check_devices(cls, numbers: dict[str, float]) -> dict[str, float]:
        for kind in numbers:
            if kind not in DEVICES:
                raise RegistryError(
                    f"{kind!r} is not a kind of device; choose from {' and '.join(DEVICES)}{suggest_name(kind, DEVICES)}"
                )
        return numbers

    @field_validator("num_envs")
    @classmethod
    def _check_both_devices(cls, counts: dict[str, int]) -> dict[str, int]:
        if len(counts) < len(DEVICES):
            raise RegistryError(f"expected a number for cpu and one for cuda, got {counts!r}")
        return counts

    @model_validator(mode="after")
    def _check_id(self) -> Self:
        if not self.id:
            raise RegistryError("id: missing; give the registered id")
        return self

    @property
    def label(self) -> str:
        """Name of the task in run folders: the registered id, or the file's name if the file changes the environment."""
        return self.name if self.env else self.id


REQUIRED_KEYS = {
    "rnd_cfg": ("num_outputs", "predictor_hidden_dims", "target_hidden_dims", "weight"),
    "symmetry_cfg": ("data_augmentation_func",),
}
"""Section of the algorithm -> its required keys."""
SCHEDULES = {
    "constant": (),
    "step": ("final_step", "final_value"),
    "linear": ("initial_step", "final_step", "final_value"),
}
"""Mode of RND's weight schedule -> its required keys."""


def check_combination(runner: PlainMapping) -> None:
    """Raise RegistryError naming the key if values of the merged specification ``runner`` contradict each other."""
    actor, algorithm = get_section(runner, "actor"), get_section(runner, "algorithm")
    check_algorithm(algorithm)
    distribution = get_section(actor, "distribution_cfg")
    if "distribution_cfg" in actor and not distribution.get("class_name"):
        raise RegistryError(
            "agent.actor.distribution_cfg.class_name: missing; give a class, such as GaussianDistribution"
        )
    limits = _list_numbers(distribution.get("std_range"))
    init_std = _list_numbers(distribution.get("init_std"))  # empty or one number
    # other algorithms ignore the host's init_std, which is PPO's
    is_ppo = get_algorithm(algorithm) == "ppo"
    if is_ppo and limits and init_std and not limits[0] <= init_std[0] <= limits[1]:
        raise RegistryError(
            f"agent.actor.distribution_cfg.init_std: {init_std[0]} is out of std_range: {limits}"
        )
    for group, keys in REQUIRED_KEYS.items():
        if algorithm.get(group) is not None:
            _require_keys(f"agent.algorithm.{group}", get_section(algorithm, group), keys)
    rnd = get_section(algorithm, "rnd_cfg")
    if rnd.get("weight_schedule") is not None:
        schedule = get_section(rnd, "weight_schedule")
        path, mode = "agent.algorithm.rnd_cfg.weight_schedule", str(schedule.get("mode"))
        _require_keys(path, schedule, ("mode", *SCHEDULES.get(mode, ())))
        steps = _list_numbers([schedule.get("initial_step"), schedule.get("final_step")])
        if mode == "linear" and steps[0] >= steps[1]:
            raise RegistryError(f"{path}.final_step: {steps[1]}; it must be above initial_step: {steps[0]}")


def check_algorithm(algorithm: PlainMapping) -> None:
    """Raise RegistryError naming the key if the section ``algorithm`` has a key of another algorithm, or learning cannot start."""
    name = get_algorithm(algorithm)
    for key, value in algorithm.items():
        if key in get_options(Algorithm) and key not in ALGORITHM_KEYS[name]:
            able = [other.upper() for other, keys in ALGORITHM_KEYS.items() if key in keys]
            raise RegistryError(
                f"agent.algorithm.{key}: {value} given with class_name: {name.upper()}; allowed with: {', '.join(able)}"
            )
    if name != "ppo":
        _check_replay_size(algorithm)


def _check_replay_size(algorithm: PlainMapping) -> None:
    """Raise RegistryError naming the key if the replay buffer never holds the transitions that learning needs."""
    size = algorithm.get("replay_size", Algorithm.default("replay_size"))
    for key in ("learning_starts", "batch_size"):
        needed = algorithm.get(key, Algorithm.default(key))
        if isinstance(size, int) and isinstance(needed, int) and needed > size:
            raise RegistryError(
                f"agent.algorithm.{key}: {needed} given; it must be at most replay_size: {size}"
            )


def _list_numbers(value: PlainValue) -> list[float]:
    """Return the numbers in a list, or a number as a list; other values are left out."""
    elements = value if isinstance(value, Sequence) else [value]
    return [number for number in elements if isinstance(number, int | float)]


def _require_keys(path: str, settings: PlainMapping, keys: tuple[str, ...]) -> None:
    for key in keys:
        if settings.get(key) in (None, ""):
            raise RegistryError(f"{path}.{key}: missing; it has no default")
