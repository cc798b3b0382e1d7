"""YAML is strict, layers merge in order, and every value knows where it comes from."""

import copy
import json
import re

import pytest

from spiky_rl.config import registry, spec
from spiky_rl.config.schema import RunnerSettings
from spiky_rl.config.spec import SpecError
from spiky_rl.learners import select_learner
from spiky_rl.learners.rsl_rl.config import make_runner_cfg

TASK = "Isaac-Point"
MLP = {
    "class_name": "MLPModel",
    "hidden_dims": [32, 32],
    "activation": "elu",
    "obs_normalization": False,
}
HOST = {
    "seed": 42,
    "device": "cuda:0",
    "num_steps_per_env": 32,
    "max_iterations": 1000,
    "save_interval": 50,
    "experiment_name": "point",
    "clip_actions": None,
    "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
    "actor": {**MLP, "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 1.0}},
    "critic": MLP,
    "algorithm": {
        "class_name": "PPO",
        "num_learning_epochs": 5,
        "num_mini_batches": 4,
        "learning_rate": 1.0e-3,
        "schedule": "adaptive",
        "desired_kl": 0.01,
        "entropy_coef": 0.005,
        "rnd_cfg": None,
    },
}
"""What Isaac Lab registers for a task, as a nested dict."""
SPIKING = """
summary: a spiking actor
network:
  name: feedforward
  steps: 4
  encoder: direct
  neuron: {name: lif, tau: 2.0}
  decoder: {name: membrane, tau: 2.0}
"""
AGENTS = registry.list_names("agents")
TASKS = registry.list_names("tasks")


@pytest.fixture
def agent(tmp_path):
    """Writes an agent file and returns its path."""

    def write(text: str, name: str = "mine.yaml") -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def spiking(agent):
    """The path of an agent with a spiking actor and an ANN critic."""
    return agent(SPIKING, "spiking.yaml")


def resolve(name, *overrides, task=TASK, task_spec=None):
    return spec.resolve_agent(name, task, copy.deepcopy(HOST), overrides, task_spec, host="Isaac Lab")


def origins(found):
    return {path: origin for path, _, origin in found.list_values()}


BAD_FILES = {
    "unknown key": ("nework: lif", r"mine\.yaml: agent\.nework: no such key; did you mean 'network'"),
    "unknown inner key": ("algorithm: {gama: 0.9}", r"mine\.yaml: agent\.algorithm\.gama: .*'gamma'"),
    "unknown network key": (
        "network: {name: feedforward, neuron: {name: lif, tua: 1.0}}",
        r"mine\.yaml: agent\.network\.neuron\.tua: .*did you mean 'tau'",
    ),
    "duplicate key": (
        "algorithm:\n  gamma: 0.9\n  gamma: 0.8",
        r"mine\.yaml: .*'gamma' is given twice.* line 3",
    ),
    "list": ("- network: lif", r"mine\.yaml: expected a mapping of keys to values"),
    "empty": ("", r"mine\.yaml: expected a mapping of keys to values"),
    "broken": ("summary: x\nactor: {hidden_dims: [1, 2}", r"mine\.yaml: not valid YAML: .*line 2"),
    "key that is a list": ("? [a]\n: 1", r"mine\.yaml: not valid YAML: a list .* cannot be a key.*line 1"),
    "wrong type": (
        "num_steps_per_env: many",
        r"agent\.num_steps_per_env: expected a whole number, got 'many'",
    ),
    "out of range": (
        "algorithm: {gamma: 1.5}",
        r"agent\.algorithm\.gamma: 1\.5 is out of range.*0\.0 and 1\.0",
    ),
    "group as value": ("algorithm: 5", r"mine\.yaml: agent\.algorithm: expected a mapping, got 5"),
    "network as number": ("network: 5", r"mine\.yaml: agent\.network: expected a name or a mapping, got 5"),
    "tasks as list": (
        "tasks: [Isaac-Point]",
        r"mine\.yaml: agent\.tasks: expected a mapping, got \['Isaac-Point'\]",
    ),
    "summary as number": ("summary: 3", r"mine\.yaml: agent\.summary: expected text, got 3"),
    "slip": ("sumary: x", r"mine\.yaml: agent\.sumary: no such key; did you mean 'summary'"),
    "another algorithm for a task": (
        "tasks: {Isaac-Point: {algorithm: {class_name: TD3}}}",
        r"mine\.yaml: agent\.tasks\.Isaac-Point\.algorithm\.class_name: given; allowed: in the agent's own algorithm",
    ),
    "override for a task": (
        "tasks: {Isaac-Point: {algorithm: {lamda: 0.9}}}",
        r"mine\.yaml for Isaac-Point: agent\.algorithm\.lamda: .*'lam'",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_agent_file_is_refused_by_file_key_and_remedy(case, agent):
    text, message = BAD_FILES[case]
    with pytest.raises(SpecError, match=message):
        resolve(agent(text))


BAD_TASKS = {
    "unknown key": ("id: X\nsumary: y", r"bad\.yaml: sumary: no such key; did you mean 'summary'"),
    "no id": ("summary: y", r"bad\.yaml: id: missing; give the registered id"),
    "id as number": ("id: 5", r"bad\.yaml: id: expected text, got 5"),
    "one number": ("id: X\nnum_envs: 5", r"bad\.yaml: num_envs: expected a mapping, got 5"),
    "cpu alone": ("id: X\nnum_envs: {cpu: 5}", r"bad\.yaml: num_envs: expected a number for cpu and one for"),
    "no environments": ("id: X\nnum_envs: {cpu: 0, cuda: 1}", r"num_envs\.cpu: 0 is out of range"),
    "solved": ("id: X\nsolved: soon", r"bad\.yaml: solved: expected a number, got 'soon'"),
    "agent": ("id: X\nagent: {algorithm: {gama: 1}}", r"bad\.yaml: agent\.algorithm\.gama: .*'gamma'"),
}


@pytest.mark.parametrize("case", BAD_TASKS)
def test_a_bad_task_file_is_refused_by_file_key_and_remedy(case, tmp_path):
    text, message = BAD_TASKS[case]
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=message):
        spec.load_task(str(path))


def test_a_file_that_is_not_there_and_an_unknown_agent_are_named():
    with pytest.raises(SpecError, match="cannot read 'no/such.yaml': No such file"):
        resolve("no/such.yaml")
    with pytest.raises(SpecError, match="unknown agent 'lif_pppo'; known: .*did you mean 'lif_ppo'"):
        resolve("lif_pppo")


def test_an_own_agent_without_the_ending_of_its_file_is_told_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine.yaml", "other.yml"):
        (tmp_path / name).write_text("summary: mine", encoding="utf-8")
    with pytest.raises(
        SpecError, match="unknown agent 'mine'; known: .*, or a path .*; did you mean 'mine.yaml'?"
    ):
        resolve("mine")
    with pytest.raises(
        SpecError, match="agent 'other.yml' given; allowed: a path that ends in .yaml, or a name"
    ):
        resolve("other.yml")


@pytest.mark.parametrize("text", ["5e-4", "5.0e-4", "5E-4", "0.0005"])
def test_scientific_notation_is_a_number(text, agent):
    assert (
        resolve(agent(f"algorithm: {{learning_rate: {text}}}")).runner["algorithm"]["learning_rate"] == 5e-4
    )
    layer = spec.parse_overrides([f"agent.algorithm.learning_rate={text}"])
    assert layer == {"algorithm": {"learning_rate": 5e-4}}


LAYERED = """
num_steps_per_env: {agent}
save_interval: {agent}
algorithm: {{num_learning_epochs: {agent}, num_mini_batches: {agent}}}
tasks:
  Isaac-Point:
    save_interval: {override}
    algorithm: {{num_mini_batches: {override}}}
  Isaac-Other: {{save_interval: 99}}
"""


def test_layers_merge_in_order_and_every_value_knows_its_layer(agent):
    path = agent(LAYERED.format(agent=3, override=4))
    values = {"max_iterations": 2, "num_steps_per_env": 2, "save_interval": 2}
    task = spec.TaskSpec(name="point", id=TASK, agent=values)
    found = resolve(path, "agent.algorithm.num_mini_batches=5", task_spec=task)
    runner, origin = found.runner, origins(found)
    expected = {
        "experiment_name": ("point", "Isaac Lab"),
        "max_iterations": (2, "tasks/point.yaml"),
        "num_steps_per_env": (3, "mine.yaml"),
        "save_interval": (4, "mine.yaml for Isaac-Point"),
    }
    for key, (value, layer) in expected.items():
        assert (runner[key], origin[key]) == (value, layer), key
    assert runner["algorithm"]["num_learning_epochs"] == 3
    assert runner["algorithm"]["num_mini_batches"] == 5
    assert origin["algorithm.num_learning_epochs"] == "mine.yaml"
    assert origin["algorithm.num_mini_batches"] == "command line"
    assert origin["algorithm.desired_kl"] == "Isaac Lab"


def test_values_that_nobody_sets_are_defaults_and_all_of_them_are_listed(agent):
    found = resolve(
        agent("network: {steps: 2, name: feedforward, decoder: membrane, neuron: {name: lif, tau: 5.0}}")
    )
    origin = origins(found)
    assert origin["network.steps"] == "mine.yaml"
    assert origin["network.neuron.tau"] == "mine.yaml"
    assert origin["network.neuron.threshold"] == "default"
    assert origin["network.stateful"] == "default"
    assert origin["network.decoder.name"] == "mine.yaml"
    assert origin["network.decoder.read"] == "default"
    assert set(origin) == set(spec.flatten(found.to_dict()))


def test_the_command_line_is_named_as_origin_of_its_errors(spiking):
    with pytest.raises(SpecError, match="^command line: agent.network.neuron.name: unknown neuron 'lfi'"):
        resolve(spiking, "agent.network.neuron.name=lfi")
    listed = "agent.network.neuron=[lif, {name: lif, tau: -1}]"
    with pytest.raises(
        SpecError, match=r"^command line: agent\.network\.neuron\[1\]\.tau: -1\.0 is out of range"
    ):
        resolve(spiking, "agent.network.layers=[8,8]", listed)
    with pytest.raises(SpecError, match=r"^command line: agent\.network\.neuron\.tau: -1\.0 is out of range"):
        resolve(spiking, "agent.network.neuron.tau=-1")


@pytest.mark.parametrize("renaming", ["agent.network.decoder=rate", "agent.network.decoder.name=rate"])
def test_a_component_named_anew_loses_the_options_of_the_earlier_one(renaming, spiking):
    assert resolve(spiking).network.parts["decoder"].options.tau == 2.0
    found = resolve(spiking, renaming)
    assert found.network.parts["decoder"].settings() == {"name": "rate"}
    assert found.network.parts["neuron"].options.tau == 2.0, "the others keep theirs"
    assert origins(found)["network.decoder.name"] == "command line"
    assert not any(path.startswith("network.decoder.tau") for path in found.origins)


def test_a_component_named_again_keeps_its_options(spiking):
    found = resolve(spiking, "agent.network.decoder=membrane", "agent.network.neuron.threshold=2.0")
    assert found.network.parts["decoder"].options.tau == 2.0
    assert found.network.parts["neuron"].options.tau == 2.0
    assert found.network.parts["neuron"].options.threshold == 2.0


@pytest.mark.parametrize(
    "text", ["encoder: population", "encoder: {name: population}", "encoder: population "]
)
def test_an_option_of_a_component_that_is_named_in_short_can_be_overridden(text, agent):
    path = agent(f"network: {{name: feedforward, {text}}}")
    found = resolve(path, "agent.network.encoder.fields=5")
    assert found.network.parts["encoder"].name == "population"
    assert found.network.parts["encoder"].options.fields == 5
    assert origins(found)["network.encoder.name"] == "mine.yaml"
    assert origins(found)["network.encoder.fields"] == "command line"
    assert origins(found)["network.encoder.span"] == "default"


def test_an_option_without_a_name_does_not_drop_a_list_of_components(agent):
    path = agent("network: {name: feedforward, layers: [8, 8], neuron: [alif, {name: lif, tau: 7.0}]}")
    with pytest.raises(SpecError) as refused:
        resolve(path, "agent.network.neuron.tau=5")
    said = "command line: agent.network.neuron: {'tau': 5} given; allowed: a list, as in mine.yaml, or a mapping with a name"
    assert str(refused.value) == said
    found = resolve(path, "agent.network.neuron.name=lif", "agent.network.neuron.tau=5")
    assert found.network.parts["neuron"].options.tau == 5.0


def test_an_option_of_a_component_that_nobody_names_is_that_of_the_default(agent):
    found = resolve(agent("network: feedforward"), "agent.network.neuron.tau=5")
    assert found.network.parts["neuron"].settings()["name"] == "lif"
    assert found.network.parts["neuron"].options.tau == 5.0


def test_a_network_without_layers_takes_those_of_the_ann_in_its_place(spiking):
    assert resolve(spiking).network.options.layers == (32, 32)
    wide = resolve(spiking, "agent.actor.hidden_dims=[64]", "agent.critic_network=feedforward")
    assert wide.network.options.layers == (64,)
    assert wide.critic_network.options.layers == (32, 32)
    assert resolve(spiking, "agent.network.layers=[7]").network.options.layers == (7,)


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("hidden_dims", "[16]", r"set agent.network.layers, now \[8, 8\]"),
        ("activation", "relu", "leave out one of the two"),
        ("rnn_type", "lstm", "leave out one of the two"),
    ],
)
def test_a_key_of_the_ann_that_a_network_replaces_is_refused(agent, key, value, remedy):
    network = "network: {name: feedforward, layers: [8, 8]}"
    given = (
        rf"agent.actor.{key}: '?{re.escape(value)}'? given, but agent.network replaces the model; {remedy}"
    )
    with pytest.raises(SpecError, match=f"command line: {given}"):
        resolve(agent(network), f"agent.actor.{key}={value}")
    with pytest.raises(SpecError, match=rf"mine\.yaml: {given}"):
        resolve(agent(f"actor: {{{key}: {value}}}\n{network}"))


def test_the_layers_of_a_network_may_be_given_as_those_of_the_ann_too(agent):
    path = agent("network: {name: feedforward, layers: [8, 8]}")
    found = resolve(path, "agent.network.layers=[16]", "agent.actor.hidden_dims=[16]")
    assert found.network.options.layers == (16,) == tuple(found.runner["actor"]["hidden_dims"])


def test_a_network_that_is_added_to_an_agent_with_an_ann_replaces_the_keys_of_its_file(agent):
    path = agent("actor: {hidden_dims: [16], activation: relu}")
    found = resolve(path, "agent.network={name: feedforward, layers: [8]}")
    assert found.network.options.layers == (8,)


BAD_OVERRIDES = {
    "agent.algorithm.gamma": "is not an override; allowed: agent.key=value",
    "algorithm.gamma=0.9": "is not an override",
    "agent=5": "is not an override",
    "env.x=3": "is not an override; allowed: agent.key=value$",
    "agent..gamma=1": "is not an override",
    "agent.algorithm.gama=0.9": "command line: agent.algorithm.gama: no such key; did you mean 'gamma'",
    "agent.algorithm.gamma=high": "command line: agent.algorithm.gamma: expected a number, got 'high'",
    "agent.algorithm.gamma=2": "gamma: 2.0 is out of range; it must be between 0.0 and 1.0",
    "agent.algorithm.schedule=adaptiv": "choose from adaptive, fixed; did you mean 'adaptive'",
    "agent.save_interval=": "agent.save_interval: expected a whole number, got nothing",
    "agent.clip_actions=wide": "agent.clip_actions: expected a number, got 'wide'",
    "agent.actor.hidden_dims=[1": r"agent.actor.hidden_dims: '\[1' is not a value",
}


@pytest.mark.parametrize("text", BAD_OVERRIDES)
def test_a_bad_override_is_refused_by_key_value_and_remedy(text):
    with pytest.raises(SpecError, match=BAD_OVERRIDES[text]):
        spec.parse_overrides([text])


def test_overrides_nest_and_the_last_one_wins():
    texts = ["agent.network.neuron.tau=5", "agent.network.neuron.tau=6", "agent.network.steps=2"]
    assert spec.parse_overrides(texts) == {"network": {"neuron": {"tau": 6}, "steps": 2}}
    with pytest.raises(SpecError, match="sets a key below a value that is already set"):
        spec.parse_overrides(["agent.network.neuron=lif", "agent.network.neuron.tau=5"])
    with pytest.raises(
        SpecError, match="'agent.network.neuron=lif' given after agent.network.neuron.tau, which"
    ):
        spec.parse_overrides(["agent.network.neuron.tau=5", "agent.network.neuron=lif"])
    texts = ["agent.network.neuron={tau: 5}", "agent.network.neuron={tau: 6}", "agent.network.neuron_2=lif"]
    assert spec.parse_overrides(texts[:2]) == {"network": {"neuron": {"tau": 6}}}


def test_digest_is_equal_for_equal_specifications_and_only_for_those(agent, spiking):
    plain = resolve(spiking).digest
    assert resolve(spiking).digest == plain
    assert resolve(spiking, "agent.network.neuron.tau=2.0").digest == plain, "the same value, said again"
    assert re.fullmatch(r"[0-9a-f]{16}", plain)
    changes = (
        "agent.network.neuron.tau=2.5",
        "agent.algorithm.gamma=0.9",
        "agent.critic_network=feedforward",
    )
    digests = {resolve(spiking, text).digest for text in changes}
    assert len(digests | {plain}) == 4
    assert resolve(agent(SPIKING, "copy.yaml")).digest == plain, "a name is no difference"


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_parses_resolves_and_configures_the_host(name):
    found = resolve(name)
    assert spec.read_agent(name)[1]["summary"]
    assert {"actor", "critic", "algorithm", "num_steps_per_env"} <= set(found.runner)
    networks = {"actor": found.network, "critic": found.critic_network}
    if found.algorithm == "ppo":
        config = make_runner_cfg(found)
        for role, network in networks.items():
            assert ("SpikingModel" in config[role]["class_name"]) == (network is not None)
    else:
        config = select_learner(None, found.algorithm, name).make_runner_cfg(found)
        config["actor"] = config["policy"]
    for role, network in networks.items():
        assert ("network" in config[role]) == (network is not None)
    assert all(origin for _, _, origin in found.list_values())


@pytest.mark.parametrize("name", TASKS)
def test_every_task_parses_and_is_found_by_stem_and_gym_id(name):
    task = spec.load_task(name)
    assert task is not None
    assert task.name == name
    assert task.summary
    plain = spec.load_task(task.id)
    assert plain is not None
    assert plain == spec.load_task(f"{task.id}-v0")
    assert not plain.env, "a gym id means the environment as it is"
    assert task == plain or task.env
    assert task.label == (task.name if task.env else task.id)
    assert min(task.num_envs["cpu"], task.num_envs["cuda"]) >= 1
    assert resolve("lif_ppo", task=task.id, task_spec=task).name == "lif_ppo"


def test_a_task_without_a_file_is_no_error():
    assert spec.load_task("Isaac-Reach-Franka") is None


def test_the_ann_baseline_is_the_hosts_configuration_unchanged():
    host = {key: value for key, value in HOST.items() if key in RunnerSettings.model_fields}
    assert make_runner_cfg(resolve("mlp_ppo")) == host
    # an option of ours that changes nothing must not reach rsl_rl's own class
    assert make_runner_cfg(resolve("mlp_ppo", "agent.algorithm.learning_rate_floor=0")) == host


def test_an_agent_with_a_floor_under_its_learning_rate_gets_our_ppo():
    config = make_runner_cfg(resolve("mlp_ppo", "agent.algorithm.learning_rate_floor=1e-4"))
    assert config["algorithm"]["class_name"] == "spiky_rl.learners.rsl_rl:SpikingPPO"
    assert config["algorithm"]["learning_rate_floor"] == 1e-4
    assert config["actor"]["class_name"] == "MLPModel"


STATEFUL = "agent.network.stateful=true"


def test_burn_in_reaches_both_models_and_the_algorithm(spiking):
    config = make_runner_cfg(resolve(spiking, STATEFUL, "agent.burn_in=6"))
    assert [config[part]["burn_in"] for part in ("actor", "critic", "algorithm")] == [6, 6, 6]
    assert config["critic"]["class_name"] == "spiky_rl.learners.rsl_rl:BurnInMLPModel"
    assert "burn_in" not in config


BAD_BURN_IN = {
    "agent.network.stateful=false agent.burn_in=6": "6 control steps need a stateful network",
    f"{STATEFUL} agent.burn_in=32": "agent.burn_in: 32 given; it must be below agent.num_steps_per_env=32",
    f"{STATEFUL} agent.burn_in=6 agent.critic.class_name=RNNModel": "agent.critic.class_name: RNNModel",
}


@pytest.mark.parametrize("texts", BAD_BURN_IN)
def test_burn_in_is_refused(texts, spiking):
    with pytest.raises(SpecError, match=BAD_BURN_IN[texts]):
        make_runner_cfg(resolve(spiking, *texts.split()))
    with pytest.raises(SpecError, match="need a stateful network; set agent.network.stateful=true"):
        make_runner_cfg(resolve("mlp_ppo", "agent.burn_in=6"))


def test_a_learning_rate_of_the_critics_own_needs_the_fixed_schedule():
    fixed = ("agent.algorithm.critic_learning_rate=1e-2", "agent.algorithm.schedule=fixed")
    algorithm = make_runner_cfg(resolve("mlp_ppo", *fixed))["algorithm"]
    assert algorithm["class_name"] == "spiky_rl.learners.rsl_rl:SpikingPPO"
    assert algorithm["critic_learning_rate"] == 1e-2
    with pytest.raises(SpecError, match="critic_learning_rate: needs agent.algorithm.schedule=fixed"):
        make_runner_cfg(resolve("mlp_ppo", *fixed[:1]))


BAD_LAYERS = {
    "agent.network.layers=[32, 0]": "agent.network.layers: 0 is out of range; it must be at least 1",
    "agent.network.layers=[32, -4]": "agent.network.layers: -4 is out of range",
    "agent.network.layers=[32, 4.5]": "agent.network.layers: expected whole numbers, got 4.5",
    "agent.network.layers=[32, true]": "agent.network.layers: expected whole numbers, got True",
    "agent.network.layers=32": "agent.network.layers: expected a list, got 32",
    "agent.actor.hidden_dims=[wide]": "agent.actor.hidden_dims: expected whole numbers, got 'wide'",
}


@pytest.mark.parametrize("text", BAD_LAYERS)
def test_layers_that_are_no_widths_are_refused(text, spiking):
    with pytest.raises(SpecError, match=BAD_LAYERS[text]):
        resolve(spiking, text)


@pytest.mark.parametrize("first, second", [("concat", "beside"), ("beside", "concat"), ("own", "custom")])
def test_an_old_name_over_the_present_one_keeps_the_options_below_it(first, second):
    values, origins = spec.merge(
        [
            ("file", {"part": {"name": first, "kept": 1, "changed": 1}}),
            ("override", {"part": {"name": second, "changed": 2}}),
        ]
    )
    assert values == {"part": {"name": second, "kept": 1, "changed": 2}}
    assert origins["part.kept"] == "file"


@pytest.mark.parametrize("name", ["rate", "custom", ["concat"], None])
def test_another_component_still_drops_the_options_below_it(name):
    values, _ = spec.merge(
        [("file", {"part": {"name": "concat", "dropped": 1}}), ("override", {"part": {"name": name}})]
    )
    assert values == {"part": {"name": name}}


@pytest.mark.parametrize("kind", ["agent", "task"])
def test_files_that_an_agent_or_a_task_names_are_found_beside_it(tmp_path, kind):
    (tmp_path / "graph.json").write_text("{}")
    (tmp_path / "mine.py").write_text("")
    changes = {
        "network": {"graph": {"file": "graph.json"}, "neuron": "mine.py:Mine", "encoder": "absent.py:Mine"}
    }
    file = tmp_path / f"{kind}.yaml"
    file.write_text(json.dumps(changes if kind == "agent" else {"id": "Mine-v0", "agent": changes}))
    task = spec.load_task(str(file)) if kind == "task" else None
    found = spec.read_agent(str(file))[1] if task is None else task.agent
    network = found["network"]
    assert network["graph"]["file"] == str(tmp_path / "graph.json")
    assert network["neuron"] == f"{tmp_path / 'mine.py'}:Mine" and network["encoder"] == "absent.py:Mine"


def test_a_task_file_is_read_again_after_a_change_and_what_is_returned_is_ones_own(tmp_path, monkeypatch):
    folder = tmp_path / "tasks"
    folder.mkdir()
    file = folder / "mine.yaml"
    monkeypatch.setattr(registry, "find_data_folder", lambda kind: folder)
    file.write_text("id: First-v0\nagent: {max_iterations: 5}\n")
    first = spec.load_task("mine")
    assert first is not None and first.id == "First-v0"
    first.agent["max_iterations"] = 7
    again = spec.load_task("mine")
    assert again is not None and again.agent["max_iterations"] == 5
    file.write_text("id: Second-v0\n")
    assert spec.get_task_id("mine") == "Second-v0"
    (folder / "another.yaml").symlink_to(tmp_path / "nothing")
    with pytest.raises(SpecError, match="another"):
        spec.load_task("mine")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a/parts.py:Mine", "/b/parts.py:Mine"),
        ("/a/graph.json", "/b/graph.json"),
        ("/a/policy.nir", "nets/policy.nir"),
        ("/a/parts.py:Other", "/a/parts.py:Other"),
        ("/a/twice.json", "/a/twice.json"),
        ("/c/twice.json", "/c/twice.json"),
        ("/a/lif", "/a/lif"),
    ],
)
def test_a_file_that_has_moved_is_followed_where_only_one_has_its_name(text, expected):
    texts = ["/b/parts.py:Mine", "/b/graph.json", "nets/policy.nir", "/b/twice.json", "/c/twice.json", "lif"]
    followed = spec.follow_moved_files({"network": {"layers": [text, 8]}, "tau": 2.0}, texts)
    assert followed == {"network": {"layers": [expected, 8]}, "tau": 2.0}
