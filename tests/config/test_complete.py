"""An agent that was merged once needs no merging again: its tree and origins tell all of it."""

import copy
import json

import pytest

from spiky_rl.config import registry, spec
from spiky_rl.config.spec import SpecError
from tests.test_spec import HOST, TASK


@pytest.mark.parametrize("agent", registry.list_names("agents"))
def test_an_agents_tree_gives_the_same_specification_again(agent):
    merged = spec.resolve_agent(agent, TASK, copy.deepcopy(HOST), ["agent.algorithm.gamma=0.97"])
    held = json.loads(json.dumps({"tree": merged.to_dict(), "origins": merged.origins}))
    again = spec.build_agent_spec(merged.name, held["tree"], held["origins"])
    assert again.digest == merged.digest and again.list_values() == merged.list_values()
    assert json.loads(json.dumps(again.runner)) == json.loads(json.dumps(merged.runner))


def test_a_tree_that_describes_no_agent_is_refused_with_its_origin():
    tree = spec.resolve_agent("lif_ppo", TASK, copy.deepcopy(HOST)).to_dict()
    tree["network"]["neuron"]["tua"] = 3.0
    with pytest.raises(SpecError, match="lif.yaml: agent.network.neuron.tua: .*mean 'tau'"):
        spec.build_agent_spec("lif_ppo", tree, {"network.neuron.tua": "lif.yaml"})


def test_an_option_that_came_later_changes_a_digest_only_where_it_changes_the_network():
    plain, told, rounded = (
        spec.resolve_agent(
            "lif_ppo", TASK, copy.deepcopy(HOST), [f"agent.network.quantize={value}"] if value else []
        )
        for value in ("", "none", "int8")
    )
    assert (
        plain.to_dict()["network"]["quantize"] == "none"
        and "quantize" not in plain.to_dict(for_digest=True)["network"]
    )
    assert plain.digest == told.digest != rounded.digest
