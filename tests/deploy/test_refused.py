"""What a target cannot express is refused by the agent's own key, before torch and Isaac Lab are imported."""

import re
import resource
import subprocess
import sys

import pytest

from spiky_rl.config import registry
from spiky_rl.config.options import UserError
from spiky_rl.deploy import _targets
from spiky_rl.deploy.base import BINARY_SPIKE_RULES, ExportError, Target
from tests.processes import ROOT

TASK = ["--task", "cartpole", "--device", "cpu", "--assets", "local"]
NET = "agent.network."
LINES = {
    "target": ("export", ["--to", "onxn"], "--to: 'onxn' given; allowed: c, c_int8, nir, onnx, torchscript"),
    "checkpoint": ("export", ["--checkpoint", "/nope"], "--checkpoint '/nope'"),
    "checkpoint, played": ("play", ["--checkpoint", "/nope"], "--checkpoint '/nope'"),
    "checkpoint, evaluated": ("evaluate", ["--checkpoint", "/nope"], "--checkpoint '/nope'"),
    "chip": ("export", ["--report", "cortex-m9"], "--report: cortex-m9 given; allowed: cortex-m4"),
    "ANN": ("export", ["--to", "onnx,c-int8", "--agent", "mlp_ppo"], "agent.network: none given"),
    "decoder": (
        "export",
        ["--to", "nir", NET + "decoder=first_spike"],
        NET + "decoder.name: first_spike given; allowed for nir: linear, membrane, ",
    ),
    "agent's neuron": (
        "export",
        ["--to", "c,nir", "--agent", "alif_ppo"],
        NET + "neuron.name: alif given; allowed for nir: lif",
    ),
    "measured": (
        "evaluate",
        ["--quantize", "int8", NET + "neuron=izhikevich"],
        NET + "neuron.name: izhikevich given; allowed for c_int8: alif, lif, quadratic, sigma_delta",
    ),
    "measured, of 32 bits": (
        "evaluate",
        ["--quantize", "int8", "--agent", "quadratic_ppo", NET + "neuron.peak=40000"],
        NET + "neuron.peak: 40000 given; allowed for c_int8: -32767 to 32767",
    ),
}
"""Command, what is given to it, and how its line begins."""
CPU_SECONDS = 1.5
COMMAND = """
import sys
from spiky_rl.cli import common
from spiky_rl.cli.{0} import {0}
code = common.run({0}, sys.argv[1:])
assert not {{"torch", "isaaclab", "gymnasium"}} & set(sys.modules), "nothing heavy is imported"
sys.exit(code)
"""


def spent():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


LIKE_ANOTHER = ("checkpoint, evaluated", "ANN", "decoder", "agent's neuron", "measured, of 32 bits")
"""What other lines have too; they are slow, for each is a process."""


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * (case in LIKE_ANOTHER)) for case in LINES]
)
def test_a_command_refuses_at_once_and_in_one_line(case, tmp_path):
    name, given, begins = LINES[case]
    line = [sys.executable, "-c", COMMAND.format(name), *TASK, "--log_root", str(tmp_path / "logs"), *given]
    before = spent()
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines() == [done.stderr.strip()]
    assert done.stderr.startswith(f"error: {begins}")
    assert spent() - before < CPU_SECONDS
    assert not list(tmp_path.iterdir())


def one_of_each(target, path):
    """Every entry of the room behind a key of ``path``, with whether the target lists it."""
    key = path.split(".")[1]
    room = {"recurrent": "connections", "learning": "rules"}.get(key, f"{key}s")
    return [(name, name in target.supported[path]) for name in registry.list_names(room)]


SUPPORTED = [
    (name, path)
    for name in ("c", "c_int8", "nir")
    for path in registry.resolve("targets", name).supported
    if path.startswith("network.") and path.count(".") == 2
]


@pytest.mark.parametrize("name, path", SUPPORTED)
def test_a_target_takes_of_a_room_what_it_lists_and_names_the_key_of_all_else(name, path):
    target, key = registry.configure("targets", name, "--to").build(), path.split(".")[1]
    others = {}
    for entry, listed in one_of_each(target, path):
        for part in (entry, {"name": entry}, [None, entry]):
            agent = {"network": {"name": "feedforward", key: part}}
            if listed:
                target.check_network(agent)
            else:
                place = f"{key}[1]" if isinstance(part, list) else key
                with pytest.raises(
                    ExportError, match=re.escape(f"agent.network.{place}.name: {entry} given")
                ):
                    target.check_network(agent)
            others[entry] = listed
    assert set(target.supported[path]) <= set(others), "what is listed is there"


def test_rules_that_divide_a_spike_between_two_steps_are_not_listed():
    lif = registry.configure("neurons", "lif", "neuron").build()
    rules = {
        name: registry.configure("rules", name, "learning").build() for name in registry.list_names("rules")
    }
    assert {name for name, rule in rules.items() if not rule.wrap_neuron(lif).graded} == set(
        BINARY_SPIKE_RULES
    )


def test_a_rule_of_ones_own_is_looked_at_when_the_policy_is_written():
    for name in ("c_int8", "nir"):
        target = registry.configure("targets", name, "--to").build()
        target.check_network({"network": {"name": "feedforward", "learning": "mine.py:Mine"}})


@pytest.mark.parametrize("name, path", [("c_int8", "network.name"), ("nir", "network.name"), *SUPPORTED])
@pytest.mark.parametrize("module", ["mine", "mine.py", "folder/mine.py"])
def test_ones_own_code_of_a_known_name_is_not_the_known_one(name, path, module):
    target, key = registry.configure("targets", name, "--to").build(), path.split(".")[1]
    own = f"{module}:{target.supported[path][0]}"
    agent = {"network": own if key == "name" else {"name": "feedforward", key: own}}
    if path in target.own:
        target.check_network(agent)
    else:
        with pytest.raises(ExportError, match=re.escape(f"agent.{path}: {own} given; allowed for {name}: ")):
            target.check_network(agent)


@pytest.mark.parametrize(
    "class_name, taken",
    [
        ("GaussianDistribution", True),
        ("rsl_rl.modules:GaussianDistribution", True),
        ("rsl_rl.modules.distribution.GaussianDistribution", True),
        ("mine:GaussianDistribution", False),
        ("mine.GaussianDistribution", False),
    ],
)
def test_a_class_of_rsl_rl_may_be_named_with_its_module(class_name, taken):
    target = registry.configure("targets", "c_int8", "--to").build()
    agent = {"network": "feedforward", "actor": {"distribution_cfg": {"class_name": class_name}}}
    if taken:
        target.check_network(agent)
    else:
        with pytest.raises(ExportError, match=re.escape(f"class_name: {class_name} given")):
            target.check_network(agent)


GRADED = {"name": "feedforward", "neuron": "sigma_delta", "recurrent": "lateral"}
POOLED = {"name": "feedforward", "connection": ["linear", {"name": "convolutional", "pool": 2}]}
OWN = {"name": "feedforward", "encoder": {"name": "concat", "second": {"name": "own.py:Own"}}}
DEEP = {
    "name": "feedforward",
    "encoder": {"name": "concat", "first": {"name": "concat", "second": "own.py:Own"}},
}
BETA = {"distribution_cfg": {"class_name": "BetaDistribution"}}


@pytest.mark.parametrize(
    "name, agent, said",
    [
        (
            "c_int8",
            {"network": GRADED},
            "network.neuron.name: sigma_delta beside agent.network.recurrent given",
        ),
        (
            "c_int8",
            {"network": "feedforward", "actor": BETA},
            "actor.distribution_cfg.class_name: BetaDistri",
        ),
        ("nir", {"network": "feedforward", "actor": BETA}, "actor.distribution_cfg.class_name: BetaDistri"),
        ("nir", {"network": POOLED}, "network.connection[1].pooling: max given; allowed for nir: average"),
        (
            "nir",
            {"network": {"connection": ["linear", "convolutional"], "recurrent": [None, "lateral"]}},
            "network.recurrent[1].name: lateral behind convolutional given; allowed for nir: null, lateral behind linear",
        ),
        (
            "nir",
            {"network": {"connection": ["convolutional", "linear"], "recurrent": {"name": "recurrent"}}},
            "network.recurrent.name: recurrent behind convolutional given",
        ),
        ("nir", {"network": OWN}, "network.encoder.second.name: own.py:Own given"),
        ("nir", {"network": DEEP}, "network.encoder.first.second.name: own.py:Own given"),
        ("c", {"network": DEEP}, "network.encoder.first.second.name: own.py:Own given"),
        ("c_int8", {"network": DEEP}, "network.encoder.first.second.name: own.py:Own given"),
        ("c", {"actor": {"class_name": "CNNModel"}}, "actor.class_name: CNNModel given"),
        ("c", {"actor": {"class_name": "rsl_rl.models.CNNModel"}}, "actor.class_name: CNNModel given"),
    ],
)
def test_what_only_some_values_together_rule_out_is_named_too(name, agent, said):
    with pytest.raises(ExportError, match=re.escape(f"agent.{said}")):
        registry.configure("targets", name, "--to").build().check_network(agent)


@pytest.mark.parametrize("command", ["false", "true '", "arm-none-eabi-gcc"])
def test_a_compiler_that_is_none_for_this_machine_is_refused_at_once(command, monkeypatch):
    """One says nothing, the second has an open quote, the third is for a chip."""
    monkeypatch.setenv("CC", command)
    for name in ("c", "c_int8"):
        with pytest.raises(UserError, match="verification"):
            _targets.make_targets([name])


def test_a_network_in_the_place_of_a_convolutional_ann_is_no_ann():
    c, actor = registry.configure("targets", "c", "--to").build(), {"class_name": "CNNModel"}
    c.check_network({"network": "feedforward", "actor": actor})
    with pytest.raises(ExportError, match="agent.actor.class_name: CNNModel given"):
        c.check_network({"actor": actor})


def test_a_target_of_ones_own_says_in_its_file_what_it_takes():
    class Toy(Target):
        supported = {"network.steps": ("1",), "network.name": ("feedforward",)}

        def write(self, model, folder):
            raise NotImplementedError

        def open_session(self, path):
            return None

    _targets.check_expressible([Toy()], {"network": "feedforward"})
    with pytest.raises(ExportError, match="agent.network: none given; allowed for test_refused: feedforward"):
        _targets.check_expressible([Toy()], {})
