"""Bad input, by cause: exit code 2 and one line that names key, value and what is allowed, without a simulator.

What only Isaac Lab can tell is in tests/cli/test_errors.py, what a text may hold in tests/config/test_reading.py.
"""

import copy
import os

import pytest
from rsl_rl.modules.distribution import GaussianDistribution

from benchmarks import run as bench
from spiky_rl import hosts
from spiky_rl.cli import classify, common, compare, evaluate, grow, play, show, train
from spiky_rl.config import memory_check, registry, spec
from spiky_rl.config.registry import UserError
from spiky_rl.learners.rsl_rl.config import make_runner_cfg
from spiky_rl.run import prepare
from tests.config.test_reading import LAUGHS

MLP = {"class_name": "MLPModel", "hidden_dims": [32, 32], "activation": "elu", "obs_normalization": False}
GAUSSIAN = {"class_name": "GaussianDistribution", "init_std": 1.0, "std_type": "scalar"}
HOST = {
    "num_steps_per_env": 32,
    "actor": {**MLP, "distribution_cfg": GAUSSIAN},
    "critic": MLP,
    "algorithm": {"class_name": "PPO", "num_learning_epochs": 5, "num_mini_batches": 4, "rnd_cfg": None},
}
"""What Isaac Lab registers for a task, as a nested dict."""
HUGE = 10**30
GIGABYTE = 10**9
RND = "{num_outputs: 1, predictor_hidden_dims: [4], target_hidden_dims: [2], weight: 1.0"
NO_NETWORK = "is not a network; give a name such as feedforward"


def configured(agent: str, *overrides: str) -> dict:
    """rsl_rl's configuration of an agent, as before a simulator starts."""
    merged = spec.resolve_agent(agent, "Isaac-Point", copy.deepcopy(HOST), [f"agent.{o}" for o in overrides])
    return make_runner_cfg(merged)


def said(capsys, command, *arguments) -> str:
    """What a command that refuses its arguments says: one line on stderr, and exit code 2."""
    try:
        code = common.run(command, [str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    stderr = capsys.readouterr().err
    lines = stderr.splitlines()
    assert code == 2 and len(lines) == 1 and "error: " in lines[0], stderr
    return lines[0]


VALUES = {
    # ranges and types of rsl_rl's own configuration
    "algorithm.gamma=1.1": ["algorithm.gamma: 1.1", "between 0.0 and 1.0"],
    "algorithm.gamma=.nan": ["expected a finite number, got nan"],
    "algorithm.gamma=2024-01-01": ["algorithm.gamma: expected a number, got '2024-01-01'"],
    "algorithm.lam=-1": ["algorithm.lam: -1.0", "between 0.0 and 1.0"],
    "algorithm.learning_rate=-1e-3": ["algorithm.learning_rate: -0.001", "at least 0.0"],
    "algorithm.learning_rate=1e999": ["expected a finite number, got inf"],
    "algorithm.critic_learning_rate=fast": ["critic_learning_rate: expected a number, got 'fast'"],
    "algorithm.clip_param=0": ["algorithm.clip_param: 0.0", "above 0.0"],
    "algorithm.max_grad_norm=-1": ["algorithm.max_grad_norm: -1.0", "above 0.0"],
    "algorithm.desired_kl=0": ["algorithm.desired_kl: 0.0", "above 0.0"],
    "algorithm.num_learning_epochs=0": ["num_learning_epochs: 0", "between 1 and 10000"],
    "algorithm.num_learning_epochs=2.5": ["num_learning_epochs: expected a whole number, got 2.5"],
    f"algorithm.num_mini_batches={HUGE}": ["out of range; whole numbers are at most 9223372036854775807"],
    "algorithm.schedule=adaptiv": [
        "'adaptiv' is not allowed; choose from adaptive, fixed",
        "mean 'adaptive'",
    ],
    "algorithm.optimizer=lion": ["'lion' is not allowed; choose from adam, adamw, sgd, rmsprop"],
    "algorithm.use_mixed_precision=1": ["use_mixed_precision: expected true or false, got 1"],
    "algorithm.share_cnn_encoders=true": ["share_cnn_encoders: true needs two CNNs"],
    "actor.activation=relue": ["actor.activation: 'relue' is not allowed", "mean 'relu'"],
    "actor.hidden_dims=[]": ["actor.hidden_dims: [] has 0 values; it must have at least 1"],
    "actor.hidden_dims=null": ["actor.hidden_dims: expected a list, got nothing"],
    f"actor.hidden_dims={[1] * 200}": ["has 200 values; it must have at most 100"],
    "critic.hidden_dims=[0]": ["critic.hidden_dims: 0", "at least 1"],
    "algorithm={}": ["agent.algorithm: {} given", "leave it out"],
    "critic={}": ["agent.critic: {} given", "leave it out"],
    "actor.distribution_cfg={}": ["actor.distribution_cfg.class_name: missing"],
    "actor.distribution_cfg.init_std=0": ["init_std: 0.0", "above 0.0"],
    "actor.distribution_cfg.init_std=-1": ["init_std: -1.0", "above 0.0"],
    "actor.distribution_cfg.std_range=[2,1]": ["std_range: [2.0, 1.0] is not a range", "low < high"],
    "actor.distribution_cfg.std_range=[1]": ["std_range: [1.0] has 1 values; it must have 0 or 2"],
    "actor.distribution_cfg.std_range=[low,high]": ["std_range: expected numbers, got 'low'"],
    "actor.distribution_cfg.std_range=[2,3]": ["init_std: 1.0 is out of std_range: [2, 3]"],
    "actor.distribution_cfg.action_range=[-1,1]": [
        "GaussianDistribution has no such option; allowed: init_std"
    ],
    "critic.distribution_cfg={}": ["critic.distribution_cfg: no such key"],
    "actor.rnn_type=gru": ["actor.rnn_type: MLPModel has no such option"],
    "obs_groups.actor=[]": ["obs_groups.actor: [] has 0 values; it must have at least 1"],
    "obs_groups.actor=policy": ["obs_groups.actor: expected a list, got 'policy'"],
    "obs_groups.actor=[policy,policy]": ["obs_groups.actor: 'policy' is given twice"],
    "obs_groups.actr=[policy]": ["obs_groups.actr: no such key", "mean 'actor'"],
    "torch_compile_mode=reduce-overhead": ["is not allowed; choose from default, max-autotune-no-cudagraphs"],
    "clip_actions=0": ["clip_actions: 0.0", "above 0.0"],
    "algorithm.rnd_cfg={}": ["rnd_cfg.num_outputs: missing"],
    "algorithm.rnd_cfg=5": ["algorithm.rnd_cfg: expected a mapping, got 5"],
    f"algorithm.rnd_cfg={RND}, weight_schedule: {{mode: step}}}}": ["weight_schedule.final_step: missing"],
    f"algorithm.rnd_cfg={RND}, weigth: 1.0}}": ["rnd_cfg.weigth: no such key", "mean 'weight'"],
    "algorithm.symmetry_cfg={}": ["symmetry_cfg.data_augmentation_func: missing"],
    "algorithm.symmetry_cfg={data_augmentation_func: os:sep}": ["'os:sep' is not a function"],
    "algorithm.symmetry_cfg={data_augmentation_func: 'math:sqrt'}": ["'math:sqrt'", "env, obs and actions"],
    "algorithm.symmetry_cfg={data_augmentation_func: os:no}": ["rsl_rl does not find 'os:no'"],
    # classes that are none of what they stand for
    "actor.class_name=os:system": ["'os:system' is not a class that derives from rsl_rl.models.MLPModel"],
    "actor.class_name=torch.nn:Linear": ["'torch.nn:Linear' is not a class that derives from"],
    "actor.class_name=.models:MLPModel": ["'.models' is a relative name"],
    "actor.class_name=no.such:Model": ["there is no module 'no'"],
    "actor.class_name=MLPModle": ["rsl_rl does not find 'MLPModle'"],
    "actor.class_name=CNNModel": ["actor.class_name: CNNModel needs a task with images"],
    "algorithm.class_name=os:system": ["'os:system' is not a class"],
    "actor.distribution_cfg.class_name=MLPModel": ["is not a class that derives from", "Distribution"],
    # a network is named or left out
    "network=null": ["agent.network: null", NO_NETWORK],
    "network=false": ["agent.network: false", NO_NETWORK],
    "network={}": ["agent.network: {}", NO_NETWORK],
    "critic_network=[]": ["agent.critic_network: []", NO_NETWORK],
    "network=os:system": ["network.name: 'os:system' is not of kind networks"],
    "network=.networks:X": ["'.networks' is a relative name"],
    "network={name: feedforward, layers: []}": ["network.layers: [] has no layer", "leave it out"],
    "network={name: feedforward, layers: null}": ["network.layers: None has no layer"],
    "network={name: feedforward, steps: 1000000000}": ["network.steps: 1000000000", "between 1 and 10000"],
    "network={name: feedforward, neuron: {name: lif, learn: [[tau]]}}": [
        "learn: expected names, got ['tau']"
    ],
    "network={name: feedforward, neuron: {name: lif, tau: 1e300}}": ["tau: 1e+300", "and 1000000.0"],
    "network={name: reservoir, traces: [0]}": ["network.traces: 0.0", "at least 0.001"],
    "network={name: reservoir, seed: 1.5}": ["network.seed: expected a whole number, got 1.5"],
    # texts
    "algorithm.gamma=&a [*a]": ["'&a [*a]' is not a value", "contains itself"],
    "algorithm.gamma=" + "[" * 5000: ["is not a value", "nested more than 64 deep"],
    "algorithm.gamma=!!python/name:os.system x": ["is not a value", "is not allowed"],
}


@pytest.mark.parametrize("override", VALUES, ids=lambda override: override[:60])
def test_a_value_is_refused_by_key_value_and_what_is_allowed(override):
    with pytest.raises(UserError) as caught:
        configured("mlp_ppo", override)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    for words in VALUES[override]:
        assert words in message, message


def mirror(env, obs, actions):
    """A function as rsl_rl takes it for ``symmetry_cfg``."""
    return obs, actions


GOOD = [
    ["torch_compile_mode=default"],
    ["actor.distribution_cfg.class_name=BetaDistribution", "actor.distribution_cfg.action_range=[-2,2]"],
    ["actor.distribution_cfg.class_name=HeteroscedasticGaussianDistribution"],
    ["actor.distribution_cfg.std_range=[0.1,2]"],
    [f"algorithm.rnd_cfg={RND}}}", "obs_groups.rnd_state=[policy]"],
    ["algorithm.symmetry_cfg={data_augmentation_func: '" + __name__ + ":mirror'}"],
    ["actor.class_name=RNNModel", "actor.rnn_type=lstm"],
]


@pytest.mark.parametrize("overrides", GOOD, ids=lambda overrides: overrides[0])
def test_values_that_rsl_rl_takes_pass_all_checks(overrides):
    config = configured("mlp_ppo", *overrides)
    distribution = dict(config["actor"]["distribution_cfg"])
    from rsl_rl.modules import distribution as module

    getattr(module, distribution.pop("class_name"))(3, **distribution)


class Headed(GaussianDistribution):
    """A distribution that a task registers together with the model that gives it its heads."""

    def __init__(self, output_dim: int, heads: int, init_std: float = 1.0, std_type: str = "scalar") -> None:
        super().__init__(output_dim, init_std, std_type=std_type)
        self.heads = heads


def test_a_class_that_a_task_registers_may_be_given_more_by_its_own_model_and_one_of_the_users_may_not():
    name = f"{Headed.__module__}:Headed"
    with pytest.raises(UserError, match="agent.actor.distribution_cfg.heads: missing; Headed has no default"):
        configured("mlp_ppo", f"actor.distribution_cfg.class_name={name}")
    host = copy.deepcopy(HOST)
    host["actor"]["distribution_cfg"] = {**GAUSSIAN, "class_name": name}
    config = make_runner_cfg(spec.resolve_agent("mlp_ppo", "Isaac-Point", host))
    assert config["actor"]["distribution_cfg"] == {**GAUSSIAN, "class_name": name}
    # which another model does not give
    with pytest.raises(UserError, match="agent.actor.distribution_cfg.heads: missing; Headed has no"):
        make_runner_cfg(spec.resolve_agent("gru_ppo", "Isaac-Point", host))


FILES = {
    "aliases that multiply": (LAUGHS, "more than 20,000 values with aliases expanded"),
    "recursive": (
        "network: &n {name: feedforward, neuron: *n}",
        "the alias *n contains itself",
    ),
    "nested": ("network: " + "[" * 50_000, "nested more than 64 deep"),
    "summary": ("summary: [1]", "summary: expected text, got [1]"),
    "no network": ("network: null", "agent.network: null is not a network"),
    "no network on a task": (
        "tasks: {Isaac-Cartpole: {network: {}}}",
        "for Isaac-Cartpole: agent.network: {}",
    ),
    "a whole number of 100 bits": (f"max_iterations: {HUGE}", f"max_iterations: {HUGE} is out of range"),
    "a network that there is not": (
        "network: {name: feedforwrd}",
        "mine.yaml: agent.network.name: unknown network 'feedforwrd'; known: feedforward",
    ),
    "a number for a network": (
        "critic_network: 5",
        "agent.critic_network: expected a name or a mapping, got 5",
    ),
    "a key of two lines": ('"a\\nb": 1', "no such key"),
    "a long value": (
        "algorithm: {gamma: " + "v" * 100_000 + "}",
        "algorithm.gamma: expected a number, got 'vvv",
    ),
}
COMMANDS = {
    "train": (train.train, ["--task", "cartpole", "--agent"]),
    "play": (play.play, ["--task", "cartpole", "--agent"]),
    "evaluate": (evaluate.evaluate, ["--task", "cartpole", "--agent"]),
    "show": (show.show, ["agents"]),
    "classify": (classify.classify, ["--dataset", "digits", "--agent"]),
    "compare": (compare.compare, ["--tasks", "cartpole", "--out", "study", "--agents"]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_bad_agent_file_by_its_name_and_key(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    function, arguments = COMMANDS[command]
    for case, (text, message) in FILES.items():
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        line = said(capsys, function, *arguments, tmp_path / "mine.yaml")
        assert "mine.yaml" in line and message in line and len(line) < 600, f"{case}: {line}"
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "pipe.yaml': it is not a regular file" in said(
        capsys, function, *arguments, tmp_path / "pipe.yaml"
    )


TASKS = {
    "aliases that multiply": (LAUGHS, "more than 20,000 values"),
    "measure": (
        "id: X\nmeasure: hight",
        "measure: 'hight' is not allowed; choose from '', distance, upright",
    ),
    "environments": (f"id: X\nnum_envs: {{cpu: {2**40}, cuda: 1}}", "num_envs.cpu: 1099511627776"),
    "solved": ("id: X\nsolved: .inf", "solved: expected a finite number, got inf"),
    "network": ("id: X\nagent: {network: false}", "agent.network: false is not a network"),
}


@pytest.mark.parametrize("case", TASKS)
def test_a_bad_task_file_is_refused_by_its_name_and_key(case, tmp_path, capsys):
    text, message = TASKS[case]
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    line = said(capsys, show.show, "tasks", tmp_path / "mine.yaml")
    assert "mine.yaml" in line and message in line


LIF = "from spiky_rl.neurons.lif import Lif\nclass Mine(Lif):\n    "
COMPONENTS = {
    "exits": (
        "import sys\nsys.exit(0)",
        "line 2: it exits the program (exit code 0)",
    ),
    "raises": ("x = 1\nraise ValueError('a\\nb')", "line 2: ValueError: a b"),
    "raises what no except clause catches": ("raise GeneratorExit('gone')", "line 1: GeneratorExit: gone"),
    "no Python": ("def x(:", "SyntaxError"),
    "no text": ("\0", "null bytes"),
    "imports nothing": ("import no_such_module", "line 1: ModuleNotFoundError"),
    "recurses": ("def f():\n    f()\nf()", "RecursionError"),
    "another class": ("class Mine: pass", "is not of kind neurons"),
    "no class": ("Mine = 5", "is not of kind neurons"),
    "no name": ("mine = 5", "has no 'Mine'; did you mean 'mine'"),
    "options": (LIF + "options = {'tau': 5}", "its options are not declared"),
    "parts": (LIF + "parts = {'x': 5}", "its parts are not a mapping of keys to"),
}


@pytest.mark.parametrize("case", COMPONENTS)
def test_a_component_file_that_is_none_ends_in_one_line_through_every_command(case, tmp_path, capsys):
    text, message = COMPONENTS[case]
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="utf-8")
    name = f"{path}:Mine"
    for command, arguments in (
        (show.show, ["neurons", name]),
        (bench.bench, ["--neurons", name]),
        (classify.classify, ["--dataset", "digits", f"agent.network.neuron={name}"]),
    ):
        line = said(capsys, command, *arguments)
        assert "mine.py" in line and message in line, line


PLACES = {
    "a folder": ("{folder}.py:Mine", "there is no file"),
    "nothing": ("{folder}/none.py:Mine", "there is no file"),
    "a pipe": ("{folder}/pipe.py:Mine", "there is no file"),
    "a relative module": ("..neurons.lif:Lif", "is a relative name"),
    "a function": ("os:system", "is not of kind neurons"),
    "a long name": ("a" * 5000 + ".py:Mine", "there is no file"),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_component_that_is_not_there_is_refused(case, tmp_path, capsys):
    (tmp_path / "mine.py").mkdir()
    os.mkfifo(tmp_path / "pipe.py")
    name, message = PLACES[case]
    name = name.format(folder=tmp_path / "mine" if case == "a folder" else tmp_path)
    assert message in said(capsys, show.show, "neurons", name)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("@classmethod\n    def validate(cls, path, options, parts): raise KeyError('x')", "cannot be checked: .*line 5: KeyError: 'x'"),
        ("class Mute(Exception):\n        def __str__(self): raise KeyError('x')\n    @classmethod\n    def validate(cls, path, options, parts): raise cls.Mute", "cannot be checked: .*line 7: Mute: its own text fails with KeyError"),
        ("def __init__(self, options): raise KeyError('x')", "cannot be built: .*line 4: KeyError: 'x'"),
        ("@classmethod\n    def validate(cls, path, options, parts): raise SystemExit(0)", "cannot be checked: .*line 5: it exits the program"),
    ],
)  # fmt: skip
def test_a_component_whose_own_code_fails_is_named_with_file_and_line(method, message, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(LIF + f"kind = 'mine'\n    {method}", encoding="utf-8")
    with pytest.raises(registry.RegistryError, match=f"mine.py:Mine' {message}"):
        registry.configure("networks", {"name": "feedforward", "layers": [4], "neuron": f"{path}:Mine"}, "n")


SIZES = {
    "environments": (["mlp_ppo"], 10**8, "--num_envs 100000000 with agent.num_steps_per_env 32: .* 128 GB"),
    "steps": (["mlp_ppo", f"num_steps_per_env={2**31 - 1}"], 4, "agent.num_steps_per_env 2147483647: .* 344 GB"),
    "layers": (["mlp_ppo", "critic.hidden_dims=[1000000,1000000]"], 4, r"agent.critic with 1,000,002,000,000 weights: .* 16 TB"),
    "no float": (["mlp_ppo", f"actor.hidden_dims=[{2**62},{2**62}]"], 4, "agent.actor with .* PB of memory"),
    "neurons": (["lif_ppo", f"network.layers=[{10**12}]"], 64, "agent.network with 1,000,000,000,000 neurons and --num_envs 64: .* 256 TB"),
    "reservoir": (["lif_reservoir_ppo", "network.size=1000000"], 4, "agent.network with 1,000,000,000,000 weights: .* 4 TB"),
}  # fmt: skip


@pytest.mark.parametrize("case", SIZES)
def test_a_size_that_no_memory_holds_is_refused_with_what_it_takes(case):
    (agent, *overrides), num_envs, message = SIZES[case]
    merged = spec.resolve_agent(agent, "Isaac-Ant", copy.deepcopy(HOST), [f"agent.{o}" for o in overrides])
    with pytest.raises(UserError, match=f"{message}.*available: 64 GB; reduce its size"):
        memory_check.check_run_memory(merged, num_envs, 64 * GIGABYTE)


def test_the_estimate_is_no_more_than_what_runs_need():
    for agent in registry.list_names("agents"):
        merged = spec.resolve_agent(agent, "Isaac-Ant", copy.deepcopy(HOST))
        memory_check.check_run_memory(merged, 4096, GIGABYTE)
    fixed = ["agent.network.size=12000"]  # 0.6 GB, without gradients and moments
    merged = spec.resolve_agent("lif_reservoir_ppo", "Isaac-Ant", copy.deepcopy(HOST), fixed)
    memory_check.check_run_memory(merged, 64, GIGABYTE)
    assert GIGABYTE < memory_check.get_machine_memory() < 10**15


COUNTS = {
    "train": (train.train, ["--task", "cartpole"], ["--num_envs", "--max_iterations", "--video_length"]),
    "evaluate": (evaluate.evaluate, ["--task", "cartpole"], ["--episodes"]),
    "play": (play.play, ["--task", "cartpole"], ["--episodes", "--video_length"]),
    "compare": (compare.compare, [], ["--episodes", "--num_envs", "--parallel"]),
    "classify": (classify.classify, ["--dataset", "digits"], ["--epochs", "--batch_size"]),
    "bench": (bench.bench, [], ["--steps", "--batch", "--rounds", "--threads"]),
    "grow": (grow.grow, ["--out", "x.json"], ["--max_size", "--population", "--hidden"]),
}


@pytest.mark.parametrize("command", COUNTS)
def test_every_command_refuses_counts_that_are_none(command, capsys):
    function, arguments, flags = COUNTS[command]
    for flag in flags:
        assert f"{flag}: {HUGE} is out of range; it must be between 1 and" in said(
            capsys, function, *arguments, flag, HUGE
        )
        assert f"{flag}: 0 is out of range; it must be between 1 and" in said(
            capsys, function, *arguments, flag, 0
        )
        line = said(capsys, function, *arguments, flag, "9" * 5000)
        assert f"{flag}: expected a whole number" in line and len(line) < 300


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (bench.bench, ["--batch", 2**31 - 1], "--batch 2147483647: needs at least"),
        (bench.bench, ["--steps", 2**31 - 1], "--steps: 2147483647 is out of range"),
        (bench.bench, ["--threads", 100_000], "--threads: 100000 is out of range; it must be between 1 and"),
        (grow.grow, ["--out", "x.json", "--max_size", 10**8], "--max_size 100000000: needs at least 80 PB"),
        (classify.classify, ["--dataset", "digits", f"agent.network.layers=[{10**12}]"], "needs at least 200 TB"),
    ],
)  # fmt: skip
def test_what_the_other_commands_cannot_hold_is_refused_too(function, arguments, message, capsys):
    assert message in said(capsys, function, *arguments)


def test_an_unknown_task_of_an_agent_is_said_in_one_sentence(caplog):
    host = hosts.get_host("gymnasium")
    prepare._check_agent_tasks(host, ["no_package:Task-v0"], "mine.yaml")
    assert caplog.messages == ["mine.yaml: tasks: 'no_package:Task-v0': there is no module 'no_package'"]
    with pytest.raises(UserError, match="^mine.yaml: tasks: 'Task-v0' is not registered"):
        prepare._check_agent_tasks(host, ["Task-v0"], "mine.yaml")
