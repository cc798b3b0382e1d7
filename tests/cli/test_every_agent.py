"""Every shipped agent that takes vectors resolves, builds, trains for two iterations on Isaac-Cartpole and acts, on both hosts."""

import json
import math

import pytest

from spiky_rl.config import registry, spec
from spiky_rl.hosts.common.rules import local_rule
from tests import processes

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
pytestmark = pytest.mark.timeout(900)

LIBRARIES = ["rsl_rl", "skrl"]


def takes_vectors(agent: str) -> bool:
    """Whether an agent is for observations that are vectors; one whose first connection is a convolution takes images."""
    connection = (spec.read_agent(agent)[1].get("network") or {}).get("connection")
    return not isinstance(connection, list)


def refused_by_skrl(agent: str) -> bool:
    """Whether a network is plastic or has a local rule, or a teacher comes first (tests/hosts/test_skrl_config.py, test_local_rules.py,
    test_distillation.py)."""
    if (spec.read_agent(agent)[1].get("algorithm") or {}).get("distillation_cfg"):
        return True
    network = registry.configure("networks", spec.read_agent(agent)[1].get("network") or "feedforward", agent)
    return network.parts.get("plasticity") is not None or local_rule(network) is not None


AGENTS = [name for name in registry.names("agents") if takes_vectors(name)]
SPIKING = [name for name in AGENTS if "network" in spec.read_agent(name)[1]]


@pytest.fixture(scope="module", params=LIBRARIES)
def library(request):
    if request.param == "skrl":
        pytest.importorskip("skrl", reason="the skrl extra is not installed")
    return request.param


@pytest.fixture(scope="module")
def trained(library, tmp_path_factory) -> dict[str, dict]:
    """What each agent did, by name, from one process with one simulator."""
    agents = [agent for agent in AGENTS if library != "skrl" or not refused_by_skrl(agent)]
    logs = tmp_path_factory.mktemp("logs")
    done = processes.run("-m", "tests.cli.every_agent", library, logs, *agents)
    rows = [json.loads(text) for text in done.stdout.splitlines() if text.startswith('{"agent"')]
    assert len(rows) == len(agents), done.stdout[-1000:] + done.stderr[-3000:]
    return {row["agent"]: row for row in rows}


def test_enough_agents_are_shipped():
    assert len(AGENTS) >= 16


@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_trains_on_the_real_cartpole(trained, library, agent):
    if library == "skrl" and refused_by_skrl(agent):
        assert agent not in trained
        return
    row = trained[agent]
    assert "error" not in row, row["error"]
    assert row["iterations"] == 2
    assert all(math.isfinite(value) for value in [*row["losses"].values(), *row["action"], row["operations"]])
    assert len(row["action"]) == 16
    assert row["operations"] > 0
    assert (row["rate"] > 0) == (agent in SPIKING)
    assert row["warned"] == [], "no layer of a shipped agent is silent or saturated from the start"
