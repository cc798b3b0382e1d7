"""Names become classes, settings become complete and checked, and what is wrong is named with what is right."""

import math
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml

from spiky_rl.codecs.decoders.rate import RateDecoder
from spiky_rl.config import registry
from spiky_rl.config.options import RegistryError, Settings, check_number, option
from spiky_rl.config.spec import build_agent_spec
from spiky_rl.kernels import dispatch
from spiky_rl.neurons.lif import Lif

MINE = '''
"""A neuron of the user's own: a leaky integrator, tau dv/dt = -v + I, whose output tanh(v) is graded."""

from spiky_rl.neurons.base import Neuron, param


class Leaky(Neuron):
    states = ("v",)
    graded = True

    class Options(Neuron.Options):
        tau: float = param(5.0, "time constant", low=1e-3, unit="ms", transform="decay")

    def step(self, ops, current, s, p):
        v = p.decay * s.v + (1.0 - p.decay) * current
        return ops.tanh(v), s.replace(v=v)
'''
BATCH, INPUTS, OUTPUTS = 32, 3, 2


@pytest.fixture
def mine(tmp_path):
    """The user's file, as ``path:Class``."""
    path = tmp_path / "mine.py"
    path.write_text(MINE, encoding="utf-8")
    return f"{path}:Leaky"


def test_a_relative_path_means_the_file_in_the_working_folder_of_the_call(tmp_path, monkeypatch):
    found = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(MINE, encoding="utf-8")
        monkeypatch.chdir(tmp_path / name)
        found.append(sys.modules[registry.resolve("neurons", "mine.py:Leaky").__module__].__file__)
    assert found == [str(tmp_path / name / "mine.py") for name in ("first", "second")]


def test_a_class_that_is_defined_again_as_in_a_notebook_is_the_new_one(monkeypatch):
    module = types.ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", module)
    for _ in range(2):
        exec(MINE, vars(module))
        assert registry.resolve("neurons", "notebook:Leaky") is module.Leaky


def test_a_file_that_changes_is_used_as_it_was_and_that_is_said_once(mine, caplog):
    leaky = registry.resolve("neurons", mine)
    path = Path(mine.rpartition(":")[0])
    path.write_text(MINE, encoding="utf-8")
    assert registry.resolve("neurons", mine) is leaky and not caplog.records, "written with the same content"
    path.write_text(MINE.replace("5.0", "7.0"), encoding="utf-8")
    assert registry.resolve("neurons", mine) is registry.resolve("neurons", mine) is leaky
    assert f"{path}: changed since it was loaded" in caplog.text and len(caplog.records) == 1
    path.unlink()
    assert registry.resolve("neurons", mine) is leaky, "a running study does not end"


def test_names_are_the_files_of_a_room_without_its_helpers():
    zoo = ["alif", "cuba_lif", "hodgkin_huxley", "izhikevich", "lif", "quadratic", "resonate", "sigma_delta"]
    zoo.append("sigma_delta_unit")
    assert registry.list_names("neurons") == zoo
    assert registry.list_names("encoders") == [
        "concat",
        "delta",
        "direct",
        "latency",
        "population",
        "rate",
        "sigma_delta",
    ]
    readouts = ["first_spike", "linear", "membrane", "population_vector", "rate", "sigma_delta"]
    assert registry.list_names("decoders") == readouts
    assert registry.list_names("networks") == ["feedforward", "nir", "reservoir"]
    assert {"lif_ppo", "mlp_ppo", "gru_ppo"} <= set(registry.list_names("agents"))
    assert {"ant", "cartpole", "humanoid"} <= set(registry.list_names("tasks"))
    for kind in registry.COMPONENT_KINDS:
        assert not [name for name in registry.list_names(kind) if name == "base" or name[0] == "_"], kind


def test_unknown_kind_is_named_with_the_nearest():
    with pytest.raises(RegistryError, match="unknown kind 'neuron'.*did you mean 'neurons'"):
        registry.list_names("neuron")


def test_file_stem_and_module_path_and_file_path_give_the_class(mine):
    assert registry.resolve("neurons", "lif") is Lif
    assert registry.resolve("neurons", "spiky_rl.neurons.lif:Lif") is Lif
    assert registry.resolve("decoders", "spiky_rl.codecs.decoders.rate:RateDecoder") is RateDecoder
    leaky = registry.resolve("neurons", mine)
    assert leaky.__name__ == "Leaky"
    assert registry.resolve("neurons", mine) is leaky, "the file is executed once"


def test_a_neuron_from_a_users_file_trains_through_a_feedforward_network(mine):
    torch.manual_seed(0)
    settings = {
        "name": "feedforward",
        "layers": [16],
        "neuron": {"name": mine, "tau": 2.0, "learn": ["tau"]},
        "decoder": "rate",
    }
    network = registry.configure("networks", settings, "network").build(inputs=INPUTS, outputs=OUTPUTS)
    x = torch.randn(1, BATCH, INPUTS)
    target = x[..., :OUTPUTS].sin()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        y, _ = network(x, network.zero_state(BATCH, x))
        loss = (y - target).pow(2).mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad.abs().sum() > 0 for p in network.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_a_users_class_without_a_method_of_its_base_is_refused_by_both_names(tmp_path):
    path = tmp_path / "stops.py"
    path.write_text(MINE.replace("def step", "def stop"), encoding="utf-8")
    with pytest.raises(
        RegistryError, match=r"^n\.neuron\.name: .*Leaky' is incomplete: .*define step; see .*:Neuron"
    ):
        registry.configure("networks", {"name": "feedforward", "layers": [4], "neuron": f"{path}:Leaky"}, "n")


def test_a_file_that_fails_is_executed_again_once_it_is_mended(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("raise OSError('not yet')\n", encoding="utf-8")
    with pytest.raises(RegistryError, match="broken.py, line 1: OSError: not yet"):
        registry.resolve("neurons", f"{path}:Leaky")
    path.write_text(MINE, encoding="utf-8")
    assert registry.resolve("neurons", f"{path}:Leaky").__name__ == "Leaky"


WRONG_NAMES = {
    "neighbour": ("neurons", "lfi", "unknown neuron 'lfi'; known: alif, .*; did you mean 'lif'"),
    "file alone": ("neurons", "own/leaky.py", "unknown neuron .*; of a file: own/leaky.py:CLASS"),
    "surrogate": ("surrogates", "arctan", "did you mean 'arctangent'"),
    "module": ("neurons", "spiky_rl.nuerons.lif:Lif", "there is no module 'spiky_rl.nuerons'"),
    "class": ("neurons", "spiky_rl.neurons.lif:Lf", "has no 'Lf'; did you mean 'Lif'"),
    "file": ("neurons", "no/such/file.py:Leaky", "there is no file 'no/such/file.py'"),
    "not a component": ("neurons", "math:sqrt", "is not of kind neurons"),
    "not whole": (
        "decoders",
        "spiky_rl.codecs.decoders.base:Decoder",
        "is incomplete: it does not define forward; see .*base:Decoder",
    ),
    "other kind": ("decoders", "spiky_rl.neurons.lif:Lif", "does not derive from .*base:Decoder"),
}


@pytest.mark.parametrize("case", WRONG_NAMES)
def test_a_wrong_name_says_what_is_missing_and_what_is_near(case):
    kind, name, message = WRONG_NAMES[case]
    with pytest.raises(RegistryError, match=message):
        registry.resolve(kind, name)


def test_a_wrong_class_in_a_users_file_names_the_nearest(mine):
    with pytest.raises(RegistryError, match="has no 'Laeky'; did you mean 'Leaky'"):
        registry.resolve("neurons", mine.replace("Leaky", "Laeky"))


WRONG_SETTINGS = {
    "text for a number": ({"name": "lif", "tau": "slow"}, r"n\.tau: expected a number, got 'slow'"),
    "truth for a number": ({"name": "lif", "tau": True}, r"n\.tau: expected a number, got True"),
    "nothing for a number": ({"name": "lif", "tau": None}, r"n\.tau: expected a number, got nothing"),
    "nothing for a choice": (
        {"name": "lif", "input_gain": None},
        r"n\.input_gain: expected one of ode, unit, got nothing$",
    ),
    "number for a truth": ({"name": "lif", "detach_reset": 1}, r"n\.detach_reset: expected true or false"),
    "text for a list": ({"name": "lif", "learn": "tau"}, r"n\.learn: expected a list, got 'tau'"),
    "zero": ({"name": "lif", "tau": 0}, r"n\.tau: 0.0 is out of range; it must be between 0.001 and"),
    "not a number": ({"name": "lif", "tau": math.nan}, r"n\.tau: nan is out of range; it must be finite"),
    "infinite": ({"name": "lif", "tau": math.inf}, r"n\.tau: inf is out of range; it must be finite"),
    "choice": ({"name": "lif", "reset": "substract"}, r"choose from subtract, zero; did you mean 'subtract'"),
    "unknown option": (
        {"name": "lif", "treshold": 1.0},
        r"n\.treshold: 'lif' has no such option; did you mean 'threshold'",
    ),
    "nearest option": ({"name": "lif", "treshold": 1.0}, r"did you mean 'threshold'"),
    "learned option": ({"name": "lif", "learn": ["taus"]}, r"n\.learn: 'taus' is not a parameter.*'tau'"),
    "no name": ({"tau": 2.0}, r"n\.name: name one of alif, .*, lif"),
    "no mapping": (5, r"n: expected a name or a mapping, got 5"),
    "unknown name": ("lfi", r"n\.name: unknown neuron 'lfi'"),
}


@pytest.mark.parametrize("case", WRONG_SETTINGS)
def test_wrong_settings_name_path_value_and_what_is_allowed(case):
    settings, message = WRONG_SETTINGS[case]
    with pytest.raises(RegistryError, match=message):
        registry.configure("neurons", settings, "n")


WRONG_NETWORKS = {
    "unknown part": ({"neurone": "lif"}, r"net\.neurone: 'feedforward' has no such option.*'neuron'"),
    "option of a part": ({"neuron": {"name": "lif", "tua": 1.0}}, r"net\.neuron\.tua: .*did you mean 'tau'"),
    "name of a part": ({"decoder": "membrain"}, r"net\.decoder\.name: unknown decoder.*'membrane'"),
    "part of another kind": ({"decoder": "spiky_rl.neurons.lif:Lif"}, r"net\.decoder\.name: .*not of kind"),
    "no part": ({"encoder": None}, r"net\.encoder: expected a name or a mapping, got None"),
    "backend": ({"backend": "torhc"}, r"net\.backend: unknown backend 'torhc'.*did you mean 'torch'"),
}


@pytest.mark.parametrize("case", WRONG_NETWORKS)
def test_wrong_parts_are_named_by_their_whole_path(case):
    settings, message = WRONG_NETWORKS[case]
    with pytest.raises(RegistryError, match=message):
        registry.configure("networks", {"name": "feedforward", "layers": [4], **settings}, "net")


def test_a_number_without_bounds_must_be_finite_too():
    with pytest.raises(RegistryError, match="offset: nan is out of range; it must be finite"):
        registry.configure("connections", {"name": "linear", "offset": math.nan}, "connection")


def test_ranges_are_inclusive_and_say_both_bounds():
    fractions = [check_number("x", value, float, low=0.0, high=1.0) for value in (0, 0.0, 1, 1.0)]
    assert fractions == [0.0, 0.0, 1.0, 1.0]
    with pytest.raises(RegistryError, match=r"x: 1\.5 is out of range; it must be between 0\.0 and 1\.0"):
        check_number("x", 1.5, float, low=0.0, high=1.0)
    with pytest.raises(RegistryError, match="it must be at most 3"):
        check_number("x", 4, int, high=3)


@pytest.mark.parametrize(
    "bounds",
    [{"low": 0.2}, {"high": 0.0}, {"above": 0.1}, {"below": 0.1}],
    ids=lambda bounds: next(iter(bounds)),
)
def test_a_default_is_within_its_own_bounds(bounds):
    with pytest.raises(RegistryError, match="^default of 'time constant': 0.1 is out of range"):
        option(0.1, "time constant", **bounds)
    assert option(0.1, "time constant", low=0.1, high=0.1).default == 0.1


def test_an_option_that_may_be_nothing_takes_nothing_or_a_number():
    class Limited(Settings):
        limit: float | None = option(None, "a limit, or none", low=0.0)

    assert Limited.check("x", {"limit": None}).limit is None
    assert Limited.check("x", {"limit": 2}).limit == 2.0
    with pytest.raises(RegistryError, match=r"x\.limit: expected a number, got 'wide'"):
        Limited.check("x", {"limit": "wide"})


def test_defaults_are_completed():
    configured = registry.configure("networks", {"name": "feedforward", "neuron": "lif"}, "network")
    assert configured.options.steps == 4
    assert configured.parts["decoder"].settings() == {
        "name": "membrane",
        "read": "last",
        "tau": 2.0,
        "dt": 1.0,
    }
    neuron = configured.parts["neuron"].options
    assert (neuron.tau, neuron.input_gain) == (2.0, "unit")
    parts = {"encoder", "connection", "recurrent", "neuron", "surrogate", "learning", "sparsity", "decoder"}
    assert set(configured.parts) == parts


def test_a_part_without_a_name_is_the_default_part():
    configured = registry.configure("networks", {"name": "feedforward", "neuron": {"tau": 5.0}}, "network")
    assert configured.parts["neuron"].name == "lif"
    assert configured.parts["neuron"].options.tau == 5.0


def test_a_default_part_may_have_settings_of_its_own():
    def neuron(**settings):
        return registry.configure("networks", {"name": "reservoir", **settings}, "n").parts["neuron"].options

    assert (neuron().tau, neuron().input_gain) == (20.0, "ode")
    changed = neuron(neuron={"tau": 10.0})
    assert (changed.tau, changed.input_gain) == (
        10.0,
        "ode",
    ), "what is not said stays the default part's"
    named = neuron(neuron={"name": "lif"})
    assert (named.tau, named.input_gain) == (2.0, "unit"), "what is named begins with its own defaults"


def test_whole_numbers_become_numbers_where_a_number_is_meant():
    tau = registry.configure("neurons", {"name": "lif", "tau": 5}, "neuron").options.tau
    assert tau == 5.0
    assert isinstance(tau, float)


@pytest.mark.parametrize("kind", registry.COMPONENT_KINDS)
def test_settings_round_trip_through_configure(kind):
    for name in registry.list_names(kind):
        if (kind, name) == ("networks", "nir"):
            continue  # a file's: its own tests have one
        first = registry.configure(kind, name, kind)
        assert registry.configure(kind, first.settings(), kind) == first
    chosen = {
        "name": "feedforward",
        "layers": [8, 4],
        "steps": 2,
        "neuron": {"name": "lif", "learn": ["tau"]},
    }
    first = registry.configure("networks", chosen, "network")
    again = registry.configure("networks", first.settings(), "network")
    assert again == first
    assert again.settings()["neuron"]["learn"] == ["tau"]


def test_build_hands_options_to_the_constructor():
    neuron = registry.configure("neurons", {"name": "lif", "tau": 5.0, "dt": 0.5}, "neuron").build()
    assert isinstance(neuron, Lif)
    assert (neuron.chosen["tau"], neuron.dt, neuron.learn) == (5.0, 0.5, ())


def test_summaries_are_read_without_an_import():
    sys.modules.pop("spiky_rl.surrogates.triangle", None)
    assert (
        registry.read_summary("surrogates", "triangle")
        == "Triangle: a tent of height 1 that ends at a distance of 1/k."
    )
    assert "spiky_rl.surrogates.triangle" not in sys.modules


def test_a_step_that_uses_what_ops_does_not_offer_fails_by_name(tmp_path):
    path = tmp_path / "greedy.py"
    path.write_text(MINE.replace("ops.tanh", "ops.sinh"), encoding="utf-8")
    from spiky_rl.kernels.ops import TorchOps

    neuron = registry.configure("neurons", f"{path}:Leaky", "neuron").build()
    ops = TorchOps(registry.configure("surrogates", "triangle", "surrogate").build())
    with pytest.raises(AttributeError, match="sinh"):
        dispatch.unroll("torch", neuron, ops, torch.zeros(1, 1, 1, 1), 1, (torch.zeros(1, 1),), (0.5,))


@pytest.mark.parametrize("schedule", [["fast", 3], [True, 3]])
def test_a_wrong_element_is_named_by_the_key_of_its_list(schedule):
    with pytest.raises(RegistryError, match=r"^s\.schedule: expected numbers, got ('fast'|True)$"):
        registry.configure("surrogates", {"name": "arctangent", "schedule": schedule}, "s")


@pytest.mark.parametrize("kind, old", registry.RENAMED)
def test_an_old_name_is_read_as_the_new_one_with_one_line(kind, old, caplog):
    new = registry.RENAMED[kind, old]
    assert old not in registry.list_names(kind) and new in registry.list_names(kind)
    registry._log_rename.cache_clear()
    assert registry.resolve(kind, old) is registry.resolve(kind, new)
    for settings in (old, {"name": old}):
        configured = registry.configure(kind, settings, "x")
        assert configured.name == configured.settings()["name"] == new
        assert registry.normalize_settings(kind, settings, "x")["name"] == new
    (record,) = caplog.records
    assert repr(old) in record.getMessage() and repr(new) in record.getMessage()


def test_digests_keep_the_old_name_so_that_recorded_results_are_found():
    for digest in ("memory_pilot/specs/3f2404141631f15d", "bio_plausibility_cartpole/specs/6ef94d8f69258274"):
        path = registry.PACKAGE.parent / "studies" / f"{digest}.yaml"
        text = path.read_text(encoding="utf-8")
        assert "name: beside" in text
        for content in (text, text.replace("name: beside", "name: concat")):
            spec = build_agent_spec("recorded", yaml.safe_load(content), {})
            assert spec.digest == path.stem
            assert spec.to_dict()["network"]["encoder"]["name"] == "concat"
