"""Training warns of a layer that stays silent or saturated, once, with the keys that mend it; and of nothing else."""

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.learners.common import silent_layers
from spiky_rl.learners.common.silent_layers import WARN_AFTER_ITERATIONS, suggest_remedy
from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from tests.hosts import skrl_case
from tests.hosts.point_env import LIF, PointEnv, config

LAYERS = {"name": "feedforward", "layers": [16, 12], **LIF}
DEAF = {**LIF["neuron"], "threshold": 100.0}
EVENTS = {"steps": 1, "stateful": True, "connection": {"bias": False}}


def rsl_rl(network, folder):
    torch.manual_seed(0)
    run = RslRlRunner(PointEnv(), config(network, steps=4), str(folder))
    run.draws_figures = lambda index: False  # they take longer than the training
    return run


def skrl(network, folder):
    return skrl_case.runner("agent.num_steps_per_env=4", network=network, folder=folder)


@pytest.fixture(name="warned")
def _warned(tmp_path, caplog):
    """Gives the lines about layers of a short training."""

    def lines(network, host=rsl_rl, iterations=WARN_AFTER_ITERATIONS + 2):
        host({**LAYERS, **network}, tmp_path).learn(iterations)
        return [record.getMessage() for record in caplog.records if record.name == silent_layers.__name__]

    return lines


@pytest.mark.parametrize("host", [rsl_rl, skrl])
def test_a_silent_layer_is_warned_of_once_with_the_keys_that_mend_it(host, warned):
    (line,) = warned({"neuron": [LIF["neuron"], DEAF]}, host)
    assert line.startswith(
        f"layer 2 of the actor is silent: for {WARN_AFTER_ITERATIONS} iterations its firing rate has been 0.0 %"
    )
    keys = "agent.network.connection.gain or agent.network.connection.offset"
    assert line.endswith(f"; raise {keys}, or lower agent.network.neuron.threshold")


def test_a_saturated_layer_is_warned_of(warned):
    (line,) = warned({"connection": [LIF["connection"], {"offset": 50.0}]})
    assert (
        line.startswith("layer 2 of the actor is saturated") and "lower agent.network.connection.gain" in line
    )


def test_nothing_is_said_before_it_has_lasted(warned):
    assert not warned({"neuron": DEAF}, iterations=WARN_AFTER_ITERATIONS - 1)


QUIET = {
    "layers that fire": {},
    "sigma-delta neurons": {
        "neuron": {"name": "sigma_delta", "threshold": 1e6},
        **EVENTS,
        "decoder": "sigma_delta",
    },
    "an encoder that sends changes": {"encoder": {"name": "delta", "threshold": 1e6}, **EVENTS},
}


@pytest.mark.parametrize("case", QUIET)
def test_nothing_is_said_of(case, warned):
    assert not warned(QUIET[case])


def built(**settings):
    return registry.configure("networks", settings, "n").build(inputs=4, outputs=1)


def test_the_remedy_names_only_what_there_is():
    ode = built(name="feedforward", layers=[3], neuron={"tau": 20.0, "input_gain": "ode"})
    assert "set agent.network.neuron.input_gain=unit" in suggest_remedy(ode, 0, "silent")
    assert "input_gain" not in suggest_remedy(ode, 0, "saturated")
    izhikevich = suggest_remedy(built(name="feedforward", layers=[3], neuron="izhikevich"), 0, "silent")
    assert "agent.network.neuron.gain" in izhikevich and "threshold" not in izhikevich
    reservoir = built(name="reservoir", size=30)
    assert (
        suggest_remedy(reservoir, 0, "silent") == "; raise agent.network.bias or agent.network.input_scaling"
    )
