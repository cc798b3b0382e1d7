"""A file that is read executes nothing: code that it names has to be named by the user too."""

import pytest

from spiky_rl.config.named_code import check_code_is_named, find_code
from spiky_rl.config.options import UserError

CODE = [
    {"neuron": "run/evil.py:X"},
    {"neuron": {"name": "evil.module:X"}},
    {"neuron": "evil.py:9"},
    {"neuron": "evil.py:"},
    {"neuron": "evil.py:\u00c9vil"},
    {"neuron": "evil\n.py:X"},
    {"neuron": "spiky_rl.py:X"},
    {"neuron": "spiky_rl.neurons/../evil.py:X"},
    {"neuron": "rsl_rl.py:X"},
    {"layers": [{"neuron": ("lif", "evil:X")}]},
    {"actor": {"class_name": "evil.Model"}},
    {"actor": {"distribution_cfg": {"class_name": "evil.deep.Model"}}},
    {"algorithm": {"symmetry_cfg": {"data_augmentation_func": "evil.function"}}},
]
NO_CODE = [
    {"neuron": "lif", "layers": [8], "tau": 2.5, "critic": None},
    {"actor": {"class_name": "MLPModel"}},
    {"actor": {"class_name": "spiky_rl.learners.rsl_rl:SpikingModel"}},
    {"actor": {"class_name": "rsl_rl.models.MLPModel"}},
    {"experiment_name": "a.b"},
]


@pytest.mark.parametrize("spec", CODE, ids=str)
def test_code_outside_the_package_is_found(spec):
    (name,) = find_code(spec, ("rsl_rl",))
    with pytest.raises(UserError, match="its run used the code"):
        check_code_is_named("model.pt", spec, ["another.py:X"], "pass it", ("rsl_rl",))
    check_code_is_named("model.pt", spec, [name], "pass it", ("rsl_rl",))


def test_all_code_that_is_not_named_is_listed_once():
    spec = {"neuron": ["own.py:A", "own.py:A"], "encoder": "own.py:B", "decoder": "own.py:C"}
    with pytest.raises(UserError, match="used the code 'own.py:A', 'own.py:C'; pass it"):
        check_code_is_named("model.pt", spec, ["own.py:B"], "pass it")


@pytest.mark.parametrize("spec", NO_CODE, ids=str)
def test_what_is_no_code_or_the_packages_own_is_not(spec):
    assert not find_code(spec, ("rsl_rl",))
