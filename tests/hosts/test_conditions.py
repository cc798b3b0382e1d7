"""Conditions do what their text says, to their own environments alone."""

import math
from types import SimpleNamespace

import pytest
import torch

from spiky_rl.hosts.condition_groups import ConditionGroups
from spiky_rl.hosts.environment import seed_torch
from spiky_rl.hosts.isaaclab.condition_names import CONDITION_NAMES, ROBUSTNESS_NAMES
from spiky_rl.hosts.isaaclab.conditions import CONDITIONS, parse_conditions
from spiky_rl.hosts.isaaclab.conditions.base import ConditionError, EnvGroup
from spiky_rl.hosts.isaaclab.conditions.body import (
    BASE_PUSH_SPEED,
    JOINT_FRICTION,
    JOINT_PUSH,
    MASS,
    SURFACE_FRICTION,
)  # fmt: skip
from spiky_rl.hosts.isaaclab.conditions.sensing import DROPOUT, NOISE, map_values_to_sensors
from tests import processes

SEED, EPISODES, SENSORS = 3, 400, 5


def condition(name: str, shapes=((SENSORS,),), episodes: int = EPISODES, seed: int = SEED):
    """A condition on what is observed, which needs no simulation."""
    sensors = map_values_to_sensors(shapes)
    deviation = torch.arange(len(sensors), dtype=torch.float)
    return CONDITIONS[name](EnvGroup(None, torch.arange(episodes), seed, sensors, deviation))


def test_help_names_all_conditions_in_their_order():
    assert tuple(CONDITIONS) == CONDITION_NAMES


def test_every_condition_says_in_one_line_what_it_does():
    texts = [kind.text for kind in CONDITIONS.values()]
    assert next(iter(CONDITIONS)) == "nominal"
    assert all(text and "\n" not in text for text in texts) and len(set(texts)) == len(texts)
    for value, name in (
        (NOISE, "observation_noise"),
        (DROPOUT, "sensor_dropout"),
        (BASE_PUSH_SPEED, "push"),
        (MASS[1], "mass"),
    ):
        assert f"{value:g}" in CONDITIONS[name].text
    assert f"{SURFACE_FRICTION[0]:g}, {SURFACE_FRICTION[1]:g}" in CONDITIONS["friction"].text


def test_a_column_of_a_vector_is_a_sensor_and_so_is_a_column_of_pixels():
    assert map_values_to_sensors([(3,), (2,)]).tolist() == [0, 1, 2, 3, 4]
    image = map_values_to_sensors([(2, 3, 4)]).view(2, 3, 4)
    assert (image == torch.arange(4)).all()
    assert map_values_to_sensors([(1, 2, 2), (1,)]).tolist() == [0, 1, 0, 1, 2]


def test_noise_has_a_tenth_of_each_value_s_own_deviation():
    noisy, samples = condition("observation_noise"), 100
    noise = (
        torch.stack([noisy.perturb_observations(torch.ones(EPISODES, SENSORS)) for _ in range(samples)]) - 1.0
    )
    count = EPISODES * samples
    assert not noise[..., 0].any(), "what never changes has no noise"
    for i in range(1, SENSORS):
        expected = NOISE * i
        # five standard errors, of a mean and of a standard deviation
        assert abs(noise[..., i].mean()) < 5 * expected / math.sqrt(count)
        assert abs(noise[..., i].std() - expected) < 5 * expected / math.sqrt(2 * count)


def test_a_sensor_drops_out_with_the_probability_that_the_text_names():
    dropping, steps = condition("sensor_dropout"), 50
    lost = (
        torch.stack([dropping.perturb_observations(torch.ones(EPISODES, SENSORS)) for _ in range(steps)]) == 0
    )
    count = EPISODES * SENSORS * steps
    assert abs(lost.float().mean() - DROPOUT) < 5 * math.sqrt(DROPOUT * (1 - DROPOUT) / count)
    assert lost.any(0).all() and not lost.all(0).any(), "each sensor drops out at times, none for good"


@pytest.mark.parametrize(("sensors", "episodes"), [(5, 400), (4, 64), (87, 64), (60, 1)])
def test_one_sensor_is_lost_for_the_whole_episode_and_all_as_often(sensors, episodes):
    losing = condition("sensor_loss", ((sensors,),), episodes)
    lost = losing.perturb_observations(torch.ones(episodes, sensors)) == 0
    assert (lost.sum(1) == 1).all()
    assert torch.equal(lost, losing.perturb_observations(torch.ones(episodes, sensors)) == 0)
    times = lost.sum(0)
    assert times.max() - times.min() <= 1
    if episodes < sensors:
        gaps = lost.any(0).nonzero().flatten().diff()
        assert len(gaps) == 0 or gaps.max() <= math.ceil(sensors / episodes), "spread over all of them"


def test_an_image_loses_whole_columns_of_pixels():
    shape = (3, 4, 6)
    for name in ("sensor_dropout", "sensor_loss"):
        seen = (
            condition(name, (shape,), 50)
            .perturb_observations(torch.ones(50, math.prod(shape)))
            .view(50, *shape)
        )
        assert (seen == seen[:, :1, :1, :]).all(), "all channels and rows of a column go together"
        assert (seen == 0).any()


def test_conditions_repeat_for_a_seed_and_leave_torch_s_own_numbers_alone():
    values = torch.ones(EPISODES, SENSORS)
    before = torch.get_rng_state()
    for name in ("observation_noise", "sensor_dropout"):
        first, again, other = (
            condition(name, seed=seed).perturb_observations(values) for seed in (SEED, SEED, SEED + 1)
        )
        assert torch.equal(first, again) and not torch.equal(first, other)
    with seed_torch(SEED, "cpu"):
        first = torch.rand(3)
    with seed_torch(SEED, "cpu"):
        assert torch.equal(first, torch.rand(3))
    assert torch.equal(before, torch.get_rng_state())


def test_two_policies_meet_the_same_numbers_after_a_restart():
    env = SimpleNamespace(num_envs=4, device="cpu", restart=lambda ids, seed: None)
    groups, drawn = ConditionGroups(env, ["nominal"], 4, ["policy"], SEED), []
    for weights in (10, 20):
        torch.rand(weights)
        groups.restart()
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


def test_nominal_is_always_measured_and_first():
    assert parse_conditions("all") == list(ROBUSTNESS_NAMES)
    assert parse_conditions("push, mass") == ["nominal", "push", "mass"]
    assert parse_conditions("push,nominal") == ["nominal", "push"]


def test_sets_and_names_of_conditions_combine_and_each_is_measured_once():
    assert parse_conditions("stress, push") == [*parse_conditions("stress"), "push"]
    assert parse_conditions("mass,payload,all") == [
        "nominal",
        "mass",
        "payload",
        *(n for n in ROBUSTNESS_NAMES if n not in ("nominal", "mass")),
    ]
    assert parse_conditions("all,stress") == list(CONDITIONS)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("pusch", "mean 'push'"),
        ("push,push", "named 2 times"),
        ("", "''"),
        ("push,", "''"),
        ("all,stres", "mean 'stress'"),
        ("stress,stress", "named 2 times"),
    ],
)
def test_conditions_that_there_are_not_are_refused(names, words):
    with pytest.raises(ConditionError, match="--conditions") as refusal:
        parse_conditions(names)
    assert words in str(refusal.value)


# On the real simulator


REAL = [
    ("Isaac-Cartpole", "mujoco"),
    *(
        pytest.param((task, "newton_mjwarp"), marks=pytest.mark.slow)
        for task in ("Isaac-Cartpole", "Isaac-Ant")
    ),
]


@pytest.fixture(scope="module", params=REAL, ids="-".join)
def real(request) -> dict:
    """What the conditions did to a robot with a fixed base, and to one that is free to go."""
    pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
    found = processes.run_case("conditions", *request.param)
    arrays = {key: torch.tensor(found[key]) for key in ("start", "end", "pushed", "velocity")}
    models = {key: {name: torch.tensor(v) for name, v in found[key].items()} for key in ("before", "after")}
    return {**found, **arrays, **models, "free": "slide" in found}


def of(real: dict, name: str, values: torch.Tensor) -> torch.Tensor:
    """The part of ``values`` [conditions, episodes, ...] or [B, ...] that belongs to a condition."""
    count = len(real["names"])
    return values.view(count, -1, *values.shape[-1:])[real["names"].index(name)]


def others(real: dict, name: str, values: torch.Tensor) -> torch.Tensor:
    """What belongs to all other conditions, [conditions - 1, episodes, ...]."""
    keep = [i for i, other in enumerate(real["names"]) if other != name]
    return values.view(len(real["names"]), -1, *values.shape[-1:])[keep]


def test_episode_i_begins_in_the_same_state_under_every_condition(real):
    assert torch.equal(real["start"], real["start"][:1].expand_as(real["start"]))
    assert not torch.equal(real["start"][0, 0], real["start"][0, 1]), "and episodes begin differently"


def test_robot_of_episode_i_is_the_same_under_every_condition(real):
    masses = real["before"]["body_mass"].view(len(real["names"]), len(real["start"][0]), -1)
    assert torch.equal(masses, masses[:1].expand_as(masses))
    assert not torch.equal(masses[0, 0], masses[0, 1]), "and robots differ"


def test_what_acts_on_sensors_leaves_the_robot_alone_and_what_acts_on_the_robot_moves_it(real):
    """With equal actions the robot's motion is nominal's to the last bit, or it is not."""
    for name in real["names"]:
        apart = (of(real, name, real["end"]) - of(real, "nominal", real["end"])).abs().amax(-1)
        if "robot" in CONDITIONS[name].requirements:
            assert (apart > 1e-3).all(), name
        else:
            assert not apart.any(), name


def test_a_condition_draws_nothing_of_the_simulator_s_random_numbers(real):
    assert real["untouched"]


def test_masses_change_in_the_solver_for_the_group_alone(real):
    before, after = real["before"], real["after"]
    moving = of(real, "mass", before["body_mass"])[0] > 0  # the world has none
    factor = of(real, "mass", after["body_mass"] / before["body_mass"])[:, moving]
    assert factor.min() >= MASS[0] and factor.max() <= MASS[1]
    assert len(factor.unique()) == factor.numel(), "each body of each robot its own"
    inertia = of(real, "mass", after["body_inertia"] / before["body_inertia"])
    inertia = inertia.view(len(factor), -1, 3)[:, moving]
    torch.testing.assert_close(inertia, factor[..., None].expand_as(inertia))
    for name in ("body_mass", "body_inertia"):
        assert torch.equal(others(real, "mass", before[name]), others(real, "mass", after[name]))


def test_friction_changes_in_the_solver_for_the_group_alone(real):
    before, after = real["before"], real["after"]
    joints = ("dof_frictionloss", "dof_damping")
    for name in joints:
        assert torch.equal(others(real, "friction", before[name]), others(real, "friction", after[name]))
        added = of(real, "friction", after[name] - before[name])
        if real["free"]:
            assert not added.any()
        else:
            assert added.min() > JOINT_FRICTION[0] and added.max() <= JOINT_FRICTION[1]
            assert len(added.unique()) == added.numel()
    sliding = {
        key: real[key]["geom_friction"].view(len(real["names"]), -1, 3)[..., 0] for key in ("before", "after")
    }
    if not real["free"]:
        assert torch.equal(sliding["before"], sliding["after"])
        return
    worlds = {key: value.view(len(before["body_mass"]), -1) for key, value in sliding.items()}
    # MuJoCo: the larger of ground's (the first) and robot's
    contact = {key: torch.maximum(value[:, :1], value[:, 1:]) for key, value in worlds.items()}
    assert torch.equal(
        others(real, "friction", contact["before"]), others(real, "friction", contact["after"])
    )
    slippery = of(real, "friction", contact["after"])
    assert slippery.min() >= SURFACE_FRICTION[0] and slippery.max() <= SURFACE_FRICTION[1]


def test_a_push_changes_velocities_of_the_group_alone_and_the_physics_goes_on_from_there(real):
    assert not others(real, "push", real["pushed"]).any()
    change = of(real, "push", real["pushed"])
    moved = of(real, "push", real["velocity"]) - of(real, "nominal", real["velocity"])
    if real["free"]:
        assert not change[:, 2:].any(), "along x and y"
        change, moved = change[:, :2], moved[:, :2]
    assert change.abs().max() <= (BASE_PUSH_SPEED if real["free"] else JOINT_PUSH) + 1e-6
    assert len(change.unique()) == change.numel()
    strong = change.abs() > 0.5 * change.abs().max()
    assert (moved.sign() == change.sign())[strong].all(), "a control step later it is still there"


def test_a_robot_slides_farther_on_slippery_ground(real):
    if not real["free"]:
        assert real["names"], "a fixed robot stands on no ground"
        return
    slide = torch.tensor(real["slide"])
    nominal, slippery = (slide[real["names"].index(name)] for name in ("nominal", "friction"))
    assert (slippery > 1.1 * nominal).all()
    for name in ("observation_noise", "sensor_dropout", "sensor_loss", "push"):
        assert torch.equal(slide[real["names"].index(name)], nominal), name
