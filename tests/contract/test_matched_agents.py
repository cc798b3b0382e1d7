"""A matched ANN differs from its spiking agent in the network alone, whatever the task."""

import copy

import pytest

from spiky_rl.config import registry, spec
from tests.test_spec import HOST

STUDIES = registry.data_dir("agents").parent / "studies"
WIDE, NARROW = ("lif_ppo", "mlp_matched_ppo"), (
    f"{STUDIES}/ant_pilot/agents/lif_128_ppo.yaml",
    f"{STUDIES}/ant_matched/agents/mlp_matched_128_ppo.yaml",
)
CASES = [(*WIDE, task) for task in ("Isaac-Cartpole", "Isaac-Ant", "Isaac-Humanoid")] + [
    (*NARROW, "Isaac-Ant")
]


def resolve(agent: str, task: str) -> dict:
    """Return the merged specification of the ``agent`` on the ``task`` as plain data."""
    return spec.resolve_agent(agent, task, copy.deepcopy(HOST)).tree()


@pytest.mark.parametrize(("spiking", "ann", "task"), CASES)
def test_a_matched_ann_has_the_spiking_agents_widths_and_everything_else(spiking, ann, task):
    theirs, ours = resolve(spiking, task), resolve(ann, task)
    network = theirs.pop("network")
    assert "network" not in ours and ours["actor"].pop("hidden_dims") == network["layers"]
    del theirs["actor"]["hidden_dims"]  # the host's, whose place the network's layers take
    assert ours == theirs
