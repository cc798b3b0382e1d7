"""A matched ANN differs from its spiking agent in the network alone, and a ladder's agents differ in what their step adds."""

import copy

import pytest

from spiky_rl.config import registry, spec
from tests.test_spec import HOST

STUDIES = registry.find_data_folder("agents").parent / "studies"
MATCHED_128 = f"{STUDIES}/ant_matched/agents/mlp_matched_128_ppo.yaml"
LADDER = STUDIES / "ant_plausibility" / "agents"
CASES = [
    *(("lif_ppo", "mlp_matched_ppo", task) for task in ("Isaac-Cartpole", "Isaac-Ant", "Isaac-Humanoid")),
    (f"{STUDIES}/ant_pilot/agents/lif_128_ppo.yaml", MATCHED_128, "Isaac-Ant"),
    (f"{LADDER}/lif_128.yaml", MATCHED_128, "Isaac-Ant"),
]
STEPS = {
    "lif_128": set(),
    "alif_128": {"neuron"},
    "quadratic_128": {"neuron"},
    "izhikevich_128": {"neuron"},
    "lif_eprop_128": {"learning", "surrogate"},
    "lif_rstdp_128": {"learning", "stateful"},
    "sigma_delta_128": {"neuron", "encoder", "decoder", "stateful", "steps", "connection"},
}
"""Agent of the ladder -> parts of the network in which it differs from lif_128; the reservoir is another network."""


def resolve(agent: str, task: str) -> dict:
    """Return the merged specification of the ``agent`` on the ``task`` as plain data."""
    return spec.resolve_agent(agent, task, copy.deepcopy(HOST)).to_dict()


@pytest.mark.parametrize(("spiking", "ann", "task"), CASES)
def test_a_matched_ann_has_the_spiking_agents_widths_and_everything_else(spiking, ann, task):
    theirs, ours = resolve(spiking, task), resolve(ann, task)
    network = theirs.pop("network")
    assert "network" not in ours and ours["actor"].pop("hidden_dims") == network["layers"]
    del theirs["actor"]["hidden_dims"]  # the host's, whose place the network's layers take
    assert ours == theirs


@pytest.mark.parametrize(
    "path", sorted((STUDIES / "ant_memory_matched" / "agents").glob("*.yaml")), ids=lambda p: p.stem
)
def test_an_agent_of_the_study_of_memory_has_the_matched_anns_recipe(path):
    ours, theirs = (resolve(str(name), "Isaac-Ant") for name in (path, MATCHED_128))
    network = ours.pop("network", {"layers": [128, 128]})
    assert network["layers"] == [128, 128] and not network.get("sparsity")
    assert ours.pop("history", 1) in (1, 8)
    actor, other = ours.pop("actor"), theirs.pop("actor")
    assert ours == theirs and actor["obs_normalization"] == other["obs_normalization"]


@pytest.mark.parametrize("agent", sorted(path.stem for path in LADDER.glob("*.yaml")))
def test_an_agent_of_the_ladder_has_the_recipe_and_differs_in_what_its_step_adds(agent):
    ours, theirs = (resolve(f"{LADDER}/{name}.yaml", "Isaac-Ant") for name in (agent, "lif_128"))
    network, other = ours.pop("network"), theirs.pop("network")
    assert ours == theirs and not network.get("sparsity"), "a penalty is an arm of its own"
    if agent == "lif_reservoir_256":
        assert network["size"] == sum(other["layers"])
    else:
        assert {key for key in {*network, *other} if network.get(key) != other.get(key)} == STEPS[agent]
