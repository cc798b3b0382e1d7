"""Stress does what its text says, from when it says, and to its own environments alone."""

import copy
import dataclasses
from functools import partial

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.hosts.isaaclab.condition_names import ROBUSTNESS_NAMES
from spiky_rl.hosts.isaaclab.conditions import (
    CONDITIONS,
    find_unavailable,
    parse_conditions,
    require_conditions,
)  # fmt: skip
from spiky_rl.hosts.isaaclab.conditions.base import ConditionError
from spiky_rl.hosts.isaaclab.conditions.damage import LOCK_ARMATURE, PAYLOAD, STRENGTH
from spiky_rl.hosts.isaaclab.conditions.requirements import ConditionSubject
from spiky_rl.hosts.isaaclab.conditions.sensing import DELAYS, UPDATE_PROBABILITY
from spiky_rl.hosts.isaaclab.history import HistoryLayout
from spiky_rl.run.evaluate import RecoveryMeter
from tests import processes
from tests.hosts import test_conditions
from tests.hosts.test_conditions import SENSORS

EPISODES, STEPS = 40, 30
condition = partial(test_conditions.condition, episodes=EPISODES)


def values(width: int = SENSORS) -> torch.Tensor:
    """What is observed in STEPS control steps, [STEPS, EPISODES, width]."""
    return torch.randn(STEPS, EPISODES, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("delay", DELAYS)
def test_a_delayed_observation_is_the_observation_that_many_steps_ago_and_the_first_one_before(delay):
    late, true = condition(f"observation_delay_{delay}"), values()
    seen = torch.stack([late.perturb_observations(x) for x in true])
    assert torch.equal(seen[delay:], true[:-delay])
    assert torch.equal(seen[:delay], true[:1].expand(delay, -1, -1))


@pytest.mark.parametrize("delay", DELAYS)
def test_a_delayed_action_takes_effect_that_many_steps_later_and_nothing_is_sent_before(delay):
    late, told = condition(f"action_delay_{delay}"), values()
    sent = torch.stack([late.perturb_actions(x) for x in told])
    assert torch.equal(sent[delay:], told[:-delay]) and not sent[:delay].any()


def test_a_delay_line_begins_anew_with_each_episode_and_leaves_the_other_episodes_alone():
    late, true, over = condition("observation_delay_2"), values(), 10
    ends = torch.arange(EPISODES) % 2 == 0
    seen = []
    for step, x in enumerate(true):
        seen.append(late.perturb_observations(x))
        late.reset(ends if step == over else torch.zeros(EPISODES))
    seen = torch.stack(seen)
    assert torch.equal(seen[over + 1 : over + 3, ends], true[over + 1, ends].expand(2, -1, -1))
    assert torch.equal(seen[over + 3 :, ends], true[over + 1 : -2, ends])
    assert torch.equal(seen[2:, ~ends], true[:-2, ~ends])


def test_a_held_sensor_keeps_its_last_value_until_it_sends_again():
    held, true = condition("observation_held"), values()
    seen = torch.stack([held.perturb_observations(x) for x in true])
    assert torch.equal(seen[0], true[0])
    fresh, old = seen[1:] == true[1:], seen[1:] == seen[:-1]
    assert (fresh ^ old).all()
    assert (
        abs(fresh.float().mean() - UPDATE_PROBABILITY)
        < 5 * (UPDATE_PROBABILITY * (1 - UPDATE_PROBABILITY) / fresh.numel()) ** 0.5
    )
    held.reset(torch.ones(EPISODES))
    assert torch.equal(held.perturb_observations(true[3]), true[3]), "an episode begins with what there is"


def test_what_happens_to_a_sensor_stays_in_the_history_of_what_it_read():
    # two terms of 1 and 2 values with 3 control steps each, the oldest first
    frames = HistoryLayout(
        torch.tensor([2, 1, 0, 2, 2, 1, 1, 0, 0]), torch.tensor([0, 0, 0, 1, 2, 1, 2, 1, 2])
    )
    whole = torch.arange(9.0).expand(EPISODES, 9)
    assert frames.select_newest(whole)[0].tolist() == [2.0, 7.0, 8.0]
    seen = values(3)
    found = [frames.assemble(x) for x in seen]
    assert torch.equal(found[0], seen[0][:, [0, 0, 0, 1, 2, 1, 2, 1, 2]]), "the first fills the history"
    expected = torch.stack(
        [seen[t][:, c] for t, c in zip((5, 6, 7, 5, 5, 6, 6, 7, 7), frames.source, strict=True)], 1
    )
    assert torch.equal(found[7], expected)


def test_recovery_is_the_reward_of_the_last_third_by_that_before_the_middle():
    recovery = RecoveryMeter(3, 12, "cpu")
    # the first keeps half of its reward, the second falls in step 9, the third before the damage
    for step in range(12):
        rewards = torch.tensor([2.0 if step < 6 else 1.0] * 3)
        recovery.add(rewards, torch.tensor([True, step < 9, step < 4]))
    found = recovery.compute(torch.arange(3))
    assert found == {"episodes": 2, "before": 2.0, "after": (4 * 1.0 + 1 * 1.0) / 2 / 4, "share": 0.3125}
    assert recovery.compute(torch.tensor([2])) is None


# What cannot be had


def subject(**more) -> ConditionSubject:
    from spiky_rl.hosts.isaaclab.environment import load_configs

    return ConditionSubject("a task", load_configs("Isaac-Cartpole")[0], **more)


@pytest.fixture(scope="module")
def cartpole():
    pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
    from spiky_rl.hosts.isaaclab.assets import configure_assets

    configure_assets("local")
    return subject()


def spiking(neuron: str = "lif"):
    return registry.configure("networks", {"name": "feedforward", "layers": [4], "neuron": neuron}, "network")


def test_stress_is_all_that_a_task_and_an_agent_can_have(cartpole):
    everything = [name for name in CONDITIONS if name not in ROBUSTNESS_NAMES]
    assert parse_conditions("stress") == ["nominal", *everything]
    left_out = find_unavailable(everything, cartpole)
    assert set(left_out) == {"locked_leg", "lost_spikes", "spurious_spikes"}
    assert parse_conditions("stress", cartpole) == [
        "nominal",
        *(name for name in everything if name not in left_out),
    ]
    able = dataclasses.replace(cartpole, leg="a_leg", network=spiking())
    assert not find_unavailable(everything, able)
    assert set(find_unavailable(everything, dataclasses.replace(able, network=spiking("sigma_delta")))) == {
        "spurious_spikes"
    }
    maps = dataclasses.replace(able, network=None, model="CNNModel")
    assert "maps" in find_unavailable(["dead_neurons"], maps)["dead_neurons"]
    own = copy.deepcopy(able.env_cfg)
    own.actions.joint_effort.class_type = type("OwnEffort", (), {})
    refused = find_unavailable(["half_torque"], dataclasses.replace(able, env_cfg=own))
    assert "joint_effort" in refused["half_torque"], "it would be replaced without a word, under nominal too"


def test_what_cannot_be_had_is_said_in_one_line(cartpole):
    with pytest.raises(ConditionError) as refusal:
        require_conditions(["nominal", "locked_leg", "lost_spikes", "push"], cartpole)
    text = str(refusal.value)
    assert "\n" not in text and text.startswith(
        "--conditions: locked_leg not available on a task: its task file names no leg"
    )
    assert "lost_spikes not available on a task: its agent does not spike" in text and text.endswith(
        "without: nominal, push"
    )
    with pytest.raises(ConditionError, match="mlp_ppo does not spike"):
        require_conditions(["lost_spikes"], dataclasses.replace(cartpole, agent="mlp_ppo"))
    with pytest.raises(ConditionError, match="mean 'stress'"):
        parse_conditions("stres")


# On the real simulator

REAL = [
    pytest.param(("ant", "newton_mjwarp"), marks=pytest.mark.slow),
    ("ant", "mujoco"),
    ("cartpole", "mujoco"),
]


@pytest.fixture(scope="module", params=REAL, ids="-".join)
def real(request) -> dict:
    """What stress did to a robot that is free to go, by both physics, and to one with a fixed base."""
    pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
    found = processes.run_case("stress", *request.param)
    arrays = {key: torch.tensor(found[key]) for key in ("true", "seen", "joints", "wanted", "sent", "effort")}
    models = {key: {name: torch.tensor(v) for name, v in found[key].items()} for key in ("before", "after")}
    return {**found, **arrays, **models, "free": request.param[0] == "ant", "asked": request.param[1]}


def of(real: dict, key: str, name: str) -> torch.Tensor:
    """A condition's part of what was recorded, [steps, episodes, ...]."""
    return real[key][:, real["names"].index(name)]


def changed(real: dict, key: str) -> dict[str, torch.Tensor]:
    """What differs in the solver's model between before and after the damage, [episodes, values], by condition."""
    before, after = (
        real[when][key].view(len(real["names"]), -1, real[when][key].shape[-1])
        for when in ("before", "after")
    )
    return {
        name: (a, b) for name, b, a in zip(real["names"], before, after, strict=True) if not torch.equal(a, b)
    }


def test_the_physics_is_the_one_asked_for_and_the_names_are_those_of_the_task(real):
    assert real["physics"] == real["asked"]
    assert ("locked_leg" in real["names"]) == real["free"]


def test_damage_comes_in_the_middle_and_changes_what_it_is_called_after(real):
    middle, nominal = real["middle"], of(real, "true", "nominal")
    for name in real["names"]:
        apart = (of(real, "true", name) - nominal).abs().amax(-1)
        if CONDITIONS[name].damages:
            assert not apart[: middle + 1].any(), f"{name}: nothing before the middle, to the last bit"
            assert (apart[-1] > 1e-3).all(), f"{name}: every episode after it"
        elif name.startswith("observation") or name == "nominal":
            assert not apart.any(), f"{name}: the robot gets the same actions"
        else:
            assert (apart[-1] > 1e-3).all(), name


@pytest.mark.parametrize("delay", DELAYS)
def test_delays_hold_in_a_simulation(real, delay):
    late = f"observation_delay_{delay}"
    assert torch.equal(of(real, "seen", late)[delay:], of(real, "true", late)[:-delay])
    late = f"action_delay_{delay}"
    assert torch.equal(of(real, "sent", late)[delay:], of(real, "wanted", late)[:-delay])


def test_a_locked_joint_does_not_move_and_the_others_do(real):
    if not real["free"]:
        assert "locked_leg" not in real["names"], "a cart has no leg"
        return
    where, middle = of(real, "joints", "locked_leg"), real["middle"]
    leg = torch.tensor([name.startswith("front_left") for name in real["joint_names"]])
    moved = (where[middle:] - where[middle]).abs().amax((0, 1))
    assert (where[middle] - where[middle - 1]).abs()[:, leg].max() < 0.01, "from beyond a limit back to it"
    assert int(leg.sum()) == 2 and moved[leg].max() < 1e-5 and moved[~leg].min() > 0.05
    assert (where[:middle] - where[0]).abs().amax((0, 1))[leg].min() > 0.05, "before, it did"
    assert list(changed(real, "dof_armature")) == ["locked_leg"]
    assert changed(real, "dof_armature")["locked_leg"][0].max() == LOCK_ARMATURE


def test_half_of_the_torque_is_left(real):
    middle = real["middle"]
    half, whole = of(real, "effort", "half_torque"), of(real, "effort", "nominal")
    assert torch.equal(half[:middle], whole[:middle])
    assert torch.equal(half[middle:], STRENGTH * whole[middle:]) and whole.abs().max() > 0.1


def test_load_and_friction_change_in_the_solver_for_their_groups_alone(real):
    masses = changed(real, "body_mass")
    assert list(masses) == ["payload"]
    after, before = masses["payload"]
    factor = (after / before)[:, before[0] > 0]
    loaded = (factor != 1).any(0)
    assert int(loaded.sum()) == 1 and bool(loaded[0 if real["free"] else -1])
    assert factor[:, loaded].min() >= PAYLOAD[0] - 1e-5 and factor[:, loaded].max() <= PAYLOAD[1] + 1e-5
    friction = changed(real, "geom_friction" if real["free"] else "dof_frictionloss")
    assert list(friction) == ["friction_change"]
