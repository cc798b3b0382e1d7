"""A policy and its changed copies act side by side, each on its own environments and with weights of its own."""

import statistics
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict

from spiky_rl.hosts.isaaclab.conditions import CONDITIONS
from spiky_rl.hosts.isaaclab.conditions.base import EnvGroup, EvalCondition
from spiky_rl.hosts.isaaclab.conditions.faults import FAULTS
from spiky_rl.hosts.isaaclab.conditions.sensing import map_values_to_sensors
from spiky_rl.learners.rsl_rl.activity import RslRlInferencePolicy
from spiky_rl.learners.rsl_rl.model import SpikingModel
from spiky_rl.run.measure import PolicyGroup

QUICK = 0.5
"""A rate of plasticity whose steps are larger than half a level of 8 bits."""
INPUTS, OUTPUTS, EPISODES, STEPS, SEED = 4, 2, 6, 20, 3
PLASTIC = {
    "name": "reservoir",
    "size": 40,
    "steps": 20,
    "seed": 0,
    "plasticity": {"name": "stdp", "rate": 0.01},
}
PLAIN = {"name": "feedforward", "layers": [16, 12], "steps": 3, "stateful": True}


def observed(step: int, conditions: int) -> TensorDict:
    """The same for every condition, different from episode to episode and from step to step."""
    x = torch.randn(EPISODES, INPUTS, generator=torch.Generator().manual_seed(step))
    return TensorDict({"policy": 3.0 * x.repeat(conditions, 1)}, batch_size=[EPISODES * conditions])


def played(network: dict) -> RslRlInferencePolicy:
    torch.manual_seed(0)
    model = SpikingModel(observed(0, 1), {"actor": ["policy"]}, "actor", OUTPUTS, network=network)
    return RslRlInferencePolicy(model.eval())


def team(policy: RslRlInferencePolicy, names: list[str], adapting: list[bool] | None = None) -> PolicyGroup:
    return team_of(policy, conditions_of(names), adapting or [False] * len(names))


def team_of(policy, conditions: list[EvalCondition], adapting: list[bool]) -> PolicyGroup:
    groups = SimpleNamespace(
        ids=[condition.group.ids for condition in conditions],
        adapts=adapting,
        perturb_policy=lambda policy, index: conditions[index].perturb_policy(policy),
    )
    return PolicyGroup(policy, groups)


def conditions_of(names: list[str]) -> list[EvalCondition]:
    sensors = map_values_to_sensors(((INPUTS,),))
    groups = torch.arange(EPISODES * len(names)).split(EPISODES)
    return [
        CONDITIONS[name](EnvGroup(None, ids, SEED, sensors, torch.ones(INPUTS)))
        for name, ids in zip(names, groups, strict=True)
    ]


def acted(acting, conditions: int) -> torch.Tensor:
    """Actions of every step, [STEPS, conditions, EPISODES, OUTPUTS]."""
    with torch.inference_mode():
        acting.reset()
        found = [acting(observed(step, conditions)) for step in range(STEPS)]
    return torch.stack(found).unflatten(1, (conditions, EPISODES))


def test_conditions_that_change_no_policy_share_one_call():
    policy = played(PLAIN)
    acting = team(policy, ["nominal", "push", "observation_delay_4"])
    assert len(acting.parts) == 1 and acting.parts[0][1] is policy


def test_a_changed_copy_acts_on_its_own_environments_and_the_policy_on_the_others():
    names = ["nominal", "weights_4_bits", "push", "dead_neurons"]
    alone = acted(played(PLAIN), 1)[:, 0]
    found = acted(team(played(PLAIN), names), len(names))
    for i, name in enumerate(names):
        same = torch.allclose(found[:, i], alone, atol=1e-6)
        assert same == (name in ("nominal", "push")), name


def test_a_plastic_policy_changes_as_it_acts_and_its_frozen_twin_does_not():
    policy = played(PLASTIC)
    before = policy.model.network.weight.clone()
    names = ["nominal", "weights_4_bits"]
    acting = team(policy, [*names, *names], [False, False, True, True])
    found = acted(acting, 4)
    assert torch.equal(policy.model.network.weight, before)
    frozen = next(part for ids, part in acting.parts if int(ids[0]) == EPISODES)
    moving = [part for ids, part in acting.parts if int(ids[0]) >= 2 * EPISODES]
    assert not frozen.is_plastic and all(part.is_plastic for part in moving)
    assert not torch.equal(moving[0].model.network.weight, before)
    assert not torch.equal(moving[0].model.network.weight, moving[1].model.network.weight)
    assert torch.equal(found[0, 0], found[0, 2]), "the first action is the same"
    assert not torch.equal(found[-1, 0], found[-1, 2])


def test_weights_of_few_bits_stay_of_few_bits_while_a_policy_learns():
    names = ["weights_4_bits", "weights_8_bits"]
    conditions = conditions_of(names)
    quick = {**PLASTIC, "plasticity": {"name": "stdp", "rate": QUICK}}
    acting = team_of(played(quick), conditions, [True, True])
    before = [part.model.network.weight.clone() for _, part in acting.parts]
    with torch.inference_mode():
        acting.reset()
        for step in range(STEPS):
            acting(observed(step, len(names)))
            for condition in conditions:
                condition.step()
    after = [part.model.network.weight for _, part in acting.parts]
    assert [len(weight.unique()) <= 2**bits - 1 for weight, bits in zip(after, (4, 8), strict=True)] == [
        True,
        True,
    ]
    assert not torch.equal(before[1], after[1]), "and it learns"


def test_what_a_policy_learns_under_one_condition_does_not_reach_another():
    """A condition is measured the same whatever is measured beside it."""
    alone = acted(team(played(PLASTIC), ["nominal"], [True]), 1)[:, 0]
    beside = acted(team(played(PLASTIC), ["nominal", "push"], [True, True]), 2)[:, 0]
    torch.testing.assert_close(alone, beside)


@pytest.mark.parametrize("network", [PLAIN, PLASTIC])
def test_a_copy_begins_at_rest_and_shares_nothing(network):
    policy = played(network)
    with torch.inference_mode():
        policy(observed(0, 1))
        copy = policy.copy()
        assert copy.state is None and policy.state is not None
    own, others = (
        {tensor.data_ptr() for tensor in (*each.model.parameters(), *each.model.buffers())}
        for each in (policy, copy)
    )
    assert own and not own & others


def test_activity_is_that_of_what_acts_there():
    names = ["nominal", "dead_neurons"]
    acting = team(played(PLAIN), names)
    with torch.inference_mode():
        acting.reset()
        obs = observed(0, 2)
        found = [acting.compute_activities(obs, torch.arange(EPISODES) + i * EPISODES) for i in range(2)]
        some = acting.compute_activities(obs, torch.tensor([EPISODES, EPISODES + 2]))
    counts = [[count for count, _ in part] for part in (*found, some)]
    assert counts == [[EPISODES], [1] * EPISODES, [1, 1]], "every episode has its own pattern here"
    rates = [statistics.fmean(activity.rate for _, activity in part) for part in found]
    assert 0.0 < rates[1] < rates[0]
    assert acting.compute_activities(obs, torch.tensor([], dtype=torch.long)) == []


def test_episodes_of_one_policy_meet_different_patterns_of_dead_neurons():
    names = ["nominal", "dead_neurons"]
    acting = team(played(PLAIN), names)
    obs = TensorDict({"policy": 3.0 * torch.ones(2 * EPISODES, INPUTS)}, batch_size=[2 * EPISODES])
    with torch.inference_mode():
        acting.reset()
        alone, dead = acting(obs).split(EPISODES)
    assert len(alone.unique(dim=0)) == 1 and len(dead.unique(dim=0)) > EPISODES // 2


def test_faults_of_a_network_leave_random_actions_alone():
    told = torch.randn(EPISODES, OUTPUTS)
    for condition in conditions_of(sorted(FAULTS)):  # no policy: none of them has changed one
        condition.begin()
        condition.step()
        assert torch.equal(condition.perturb_actions(told), told)
