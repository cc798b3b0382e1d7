"""Every shipped agent that takes vectors resolves, builds, trains for two iterations on Isaac-Cartpole and acts, on both hosts.

One of each kind is fast. Slow: after four iterations each is exported, with a camera those that take images, or refused by the key of the agent.
"""

import functools
import json
import math
import re

import pytest

from spiky_rl.config import registry, spec
from tests import processes
from tests.agents import mark_slow, refused_by_skrl, takes_images

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
pytestmark = pytest.mark.timeout(900)

LIBRARIES = ["rsl_rl", pytest.param("skrl", marks=pytest.mark.slow)]


AGENTS = [
    name
    for name in registry.list_names("agents")
    if not takes_images(name) and spec.read_algorithm(name) == "ppo"
]
FAST = ("alif_recurrent_ppo", "gru_ppo", "lif_plastic_reservoir_ppo", "lif_rstdp", "lif_spikeprop_ppo")
"""One of each kind: recurrent layers, an ANN with a state, a reservoir with plasticity, a local rule, the times of spikes."""
SPIKING = [name for name in AGENTS if "network" in spec.read_agent(name)[1]]


@pytest.fixture(scope="module", params=LIBRARIES)
def library(request):
    if request.param == "skrl":
        pytest.importorskip("skrl", reason="the skrl extra is not installed")
    return request.param


@pytest.fixture(scope="module")
def trained(library, tmp_path_factory):
    """What each of the fast agents, or of the others, did, by name, from one process with one simulator."""

    @functools.cache
    def train(fast: bool) -> dict[str, dict]:
        agents = [agent for agent in AGENTS if (agent in FAST) == fast]
        agents = [agent for agent in agents if library != "skrl" or not refused_by_skrl(agent)]
        return rows_of(agents, library, tmp_path_factory.mktemp("logs"), "cartpole", 2, "-")

    return train


def rows_of(agents, library, logs, task, iterations, targets):
    """What ``agents`` did, by name, in a process of their own."""
    line = (library, logs, task, iterations, targets)
    done = processes.run("-m", "tests.cli.every_agent", *line, *agents)
    rows = [json.loads(text) for text in done.stdout.splitlines() if text.startswith('{"agent"')]
    assert len(rows) == len(agents), done.stdout[-1000:] + done.stderr[-3000:]
    return {row["agent"]: row for row in rows}


def test_enough_agents_are_shipped():
    assert len(AGENTS) >= 16 and set(FAST) <= set(AGENTS)


@pytest.mark.parametrize("agent", mark_slow(AGENTS, FAST))
def test_every_agent_trains_on_the_real_cartpole(trained, library, agent):
    rows = trained(agent in FAST)
    if library == "skrl" and refused_by_skrl(agent):
        assert agent not in rows
        return
    row = rows[agent]
    assert "error" not in row, row["error"]
    assert row["iterations"] == 2
    assert all(math.isfinite(value) for value in [*row["losses"].values(), *row["action"], row["operations"]])
    assert len(row["action"]) == 16
    assert row["operations"] > 0
    assert (row["rate"] > 0) == (agent in SPIKING)
    assert row["warned"] == [], "no layer of a shipped agent is silent or saturated from the start"


TARGETS = "c,c_int8,onnx,torchscript,nir"
IMAGES = [name for name in registry.list_names("agents") if takes_images(name) and "classifier" not in name]
UNROLLED = ("hodgkin_huxley_ppo",)
"""Agents of so many operations that an ONNX graph of them takes minutes; all other files are made of them too."""
GROUPS = {
    "vectors": ([name for name in AGENTS if name not in UNROLLED], "cartpole", TARGETS),
    "many operations": (UNROLLED, "cartpole", TARGETS.replace("onnx,", "")),
    "images": (IMAGES, "cartpole_camera_small", TARGETS),
}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("group", GROUPS)
def test_every_trained_agent_is_exported_or_refused_by_its_key(group, tmp_path):
    agents, task, targets = GROUPS[group]
    rows, wrong = rows_of(agents, "rsl_rl", tmp_path, task, 4, targets), {}
    for agent, row in rows.items():
        assert "error" not in row, row["error"]
        for target, found in row["exports"].items():
            refused = re.match(r"agent\.[\w.\[\]]+: .* given; allowed for", found.get("refused", ""))
            if not (refused or found.get("steps")):
                wrong[agent, target] = found
    assert not wrong
    every = [row["exports"] for row in rows.values()]
    assert all("steps" in exports[name] for exports in every for name in ("c", "torchscript"))
