"""Every space that ships gives its agents equally many dimensions, each of which the agents take from end to end."""

import copy

import pytest

from spiky_rl.config import registry, spec
from spiky_rl.experiments.design import tuning_space
from spiky_rl.learners.rsl_rl.config import make_runner_cfg
from tests.test_spec import HOST, TASK

PILOT = ["mlp_ppo", "gru_ppo", "lif_ppo", "alif_ppo", "lif_eprop", "alif_recurrent_ppo", "lif_stateful_ppo"]
PILOT += [
    "lif_reservoir_ppo",
    "lif_superspike_ppo",
    "mlp_history_ppo",
    "quadratic_ppo",
    "izhikevich_ppo",
    "resonate_ppo",
]
SPACES = {name: tuning_space.read_space(name) for name in registry.list_names("spaces")}
CASES = [(name, agent) for name, space in SPACES.items() for agent in space.own]


def test_the_agents_of_the_pilot_share_dimensions_and_have_as_many_of_their_own():
    pilot = SPACES["pilot"]
    assert set(pilot.own) == set(PILOT)
    pilot.require_equal(PILOT)
    shared = {d.key.removeprefix("agent.") for d in pilot.shared}
    wanted = {"learning_rate", "critic_learning_rate", "entropy_coef", "num_learning_epochs"}
    assert {f"algorithm.{key}" for key in wanted} < shared
    assert {"actor.distribution_cfg.init_std", "actor.obs_normalization"} < shared
    assert {"critic.hidden_dims", "critic.activation"} < shared, "the critic is everyone's"


WIDTHS = {"agent.actor.hidden_dims", "agent.network.layers"}


def test_widths_are_searched_for_all_agents_of_the_pilot_alike():
    own = SPACES["pilot"].own
    widths = {agent: {d.choices for d in dimensions if d.key in WIDTHS} for agent, dimensions in own.items()}
    sized = {d.key for d in own["lif_reservoir_ppo"]}
    assert widths.pop("lif_reservoir_ppo") == set() and "agent.network.size" in sized, "it has no layers"
    (choices,) = {frozenset(found) for found in widths.values()}
    assert len(choices) == 1


@pytest.mark.parametrize("name", SPACES)
def test_a_penalty_is_an_arm_of_its_own_and_tuned_in_no_space_but_that_of_activity(name):
    tuned = [
        d.key
        for agent in SPACES[name].own
        for d in SPACES[name].get_dimensions(agent)
        if ".sparsity." in d.key
    ]
    assert bool(tuned) == (name == "activity")


@pytest.mark.parametrize("name", SPACES)
def test_no_agent_of_a_space_has_more_dimensions_than_another(name):
    SPACES[name].require_equal(list(SPACES[name].own))


@pytest.mark.parametrize(("name", "agent"), CASES)
def test_an_agent_takes_both_ends_of_every_dimension(name, agent):
    space = SPACES[name]
    for index in range(max(len(d.extremes) for d in space.get_dimensions(agent))):
        chosen = [(d, d.extremes[min(index, len(d.extremes) - 1)]) for d in space.get_dimensions(agent)]
        values = [text for d, value in chosen for text in d.make_overrides(value)]
        found = spec.resolve_agent(agent, TASK, copy.deepcopy(HOST), [*space.fixed_overrides, *values])
        make_runner_cfg(found)
        flat = spec.flatten(found.to_dict())
        for d, value in chosen:
            wanted = spec.parse_overrides(d.make_overrides(value)[:1])
            (expected,) = spec.flatten(wanted).values()
            assert flat[d.key.removeprefix("agent.")] == expected, d.key
