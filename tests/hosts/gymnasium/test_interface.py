"""The header of an exported policy says what a task of Gymnasium observes and takes, and nothing that is not so."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.wrappers import FlattenObservation, RescaleAction, TransformAction, TransformObservation

from spiky_rl.deploy._contract import describe_contract, format_contract, format_macros
from spiky_rl.hosts.gymnasium.interface import MAX_CHOICES, TaskInterface, describe_interface
from spiky_rl.hosts.gymnasium.spaces import TaskSpaces
from spiky_rl.learners.common.action_bounds import ActionBounds
from spiky_rl.run.simulate import open_env
from tests.hosts.gymnasium.planned import plan_of
from tests.hosts.gymnasium.scripted import SCRIPTS

ROBOTS = (
    "Ant",
    "HalfCheetah",
    "Hopper",
    "Humanoid",
    "HumanoidStandup",
    "InvertedPendulum",
    "Swimmer",
    "Walker2d",
)
"""Robots whose observations Gymnasium describes by an ``observation_structure``."""
OF_VERSION_4 = ("Ant", "HalfCheetah", "Hopper", "InvertedPendulum", "Swimmer", "Walker2d")
"""Robots whose observations of version 4 are positions and velocities."""


def describe_task(task, tmp_path, *overrides, raw=False):
    """Return the contract of a policy on a ``task``, and the lines of its header."""
    (tmp_path / "model.pt").write_bytes(b"weights")
    plan = plan_of(task, "mlp_ppo", *overrides, num_envs=1)
    with open_env(plan) as env:
        contract = describe_contract(env, ["policy"], "a", "t", tmp_path / "model.pt")
        bounds = None if raw or env.action_bounds is None else ActionBounds(*env.action_bounds)
        observed = env.get_observations()["policy"].shape[1]
        return contract, format_contract(contract, "policy", observed, env.num_actions, bounds)


def test_the_header_has_the_values_the_bounds_and_the_joints_of_a_mujoco_robot(tmp_path):
    contract, lines = describe_task("HalfCheetah-v5", tmp_path)
    assert lines[1:] == [
        "Call policy_step every 0.05 s.",
        "Joints and bodies are those of half_cheetah.xml; not observed: qpos, position of rootx, m.",
        "observation[17], in this order:",
        "     0 to 0    qpos, position of rootz, m",
        "     1 to 7    qpos, angle of rooty, bthigh, bshin, bfoot, fthigh, fshin, ffoot, rad",
        "     8 to 9    qvel, velocity of rootx, rootz, m/s",
        "    10 to 16   qvel, angular velocity of rooty, bthigh, bshin, bfoot, fthigh, fshin, ffoot, rad/s",
        "action[6], in the units of the task, -1 to 1 each:",
        "  action[0]: joint bthigh, torque = 120 (gear) x action, N m",
        "  action[1]: joint bshin, torque = 90 (gear) x action, N m",
        "  action[2]: joint bfoot, torque = 60 (gear) x action, N m",
        "  action[3]: joint fthigh, torque = 120 (gear) x action, N m",
        "  action[4]: joint fshin, torque = 60 (gear) x action, N m",
        "  action[5]: joint ffoot, torque = 30 (gear) x action, N m",
    ]
    joints = '{"bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"}'
    assert f"#define POLICY_JOINTS {joints}\n" in format_macros(contract, "policy", 1, None)
    _, lines = describe_task("HalfCheetah-v5", tmp_path, raw=True)
    assert (
        "action[6], raw: the mapping below gives the actions in the units of the task, -1 to 1 each:" in lines
    )


def test_the_header_has_the_values_of_classic_control(tmp_path):
    _, lines = describe_task("Pendulum-v1", tmp_path)
    assert lines[1:] == [
        "Call policy_step every 0.05 s.",
        "observation[3], in this order:",
        "     0 to 0    cosine of the angle, which is 0 if the pendulum is upright",
        "     1 to 1    sine of the angle, positive counter-clockwise",
        "     2 to 2    angular velocity, rad/s, positive counter-clockwise",
        "action[1], in the units of the task, -2 to 2:",
        "  action[0]: torque, N m, positive counter-clockwise",
    ]
    _, lines = describe_task("CartPole-v1", tmp_path)
    assert lines[1:] == [
        "Call policy_step every 0.02 s.",
        "observation[4], in this order:",
        "     0 to 0    position of the cart, m, positive to the right",
        "     1 to 1    velocity of the cart, m/s, positive to the right",
        "     2 to 2    angle of the pole, rad, 0 if it is upright, positive to the right",
        "     3 to 3    angular velocity of the pole, rad/s, positive to the right",
        "action[2], one number for each choice of the task's action:",
        "  action[0]: 0, push the cart to the left with 10 N",
        "  action[1]: 1, push the cart to the right with 10 N",
    ]


def test_the_header_has_the_values_of_one_observation_of_several(tmp_path):
    _, lines = describe_task("Pendulum-v1", tmp_path, "agent.history=3")
    start = lines.index("observation[9]: the last 3 observations of the task, of 3 values each.")
    assert lines[start + 1 : start + 3] == [
        "one observation, in this order:",
        "     0 to 0    cosine of the angle, which is 0 if the pendulum is upright",
    ]


@pytest.mark.parametrize(
    "task, expected",
    [
        (
            "OneSided-v0",
            [
                "action[4], in the units of the task:",
                "  action[0], at least 0",
                "  action[1], at most 0.5",
                "  action[2], without bounds",
                "  action[3], 0.1 to 0.7",
            ],
        ),
        (
            "Whole-v0",
            [
                "action[3], whole numbers in the units of the task:",
                "  action[0], 0 to 5",
                "  action[1], -3 to 4",
                "  action[2], -9.2233715e+18 to 9.2233715e+18",
            ],
        ),
        ("Turn-v0", [f"  action[{i}]: {i + 3}" for i in range(4)]),
        ("Choices-v0", [f"  action[{i}]: {i - 2 + 5} of component 1" for i in (2, 3, 4)]),
    ],
)
def test_the_header_has_bounds_and_choices_of_any_task(task, expected, tmp_path):
    contract, lines = describe_task(f"{SCRIPTS}{task}", tmp_path)
    assert lines[-len(expected) :] == expected
    assert not contract.task_terms and not contract.joints


def test_equal_bounds_need_no_line_for_each_action(tmp_path, monkeypatch):
    from tests.hosts.gymnasium import scripted

    for bound, expected in ((0.3, "-0.3 to 0.3 each."), (np.inf, "without bounds each.")):
        monkeypatch.setattr(scripted.Script, "action_space", spaces.Box(-bound, bound, (2,)))
        _, lines = describe_task(f"{SCRIPTS}Script-v0", tmp_path)
        assert lines[-1] == f"action[2], in the units of the task, {expected}"


def test_many_choices_are_not_listed(tmp_path, monkeypatch):
    from tests.hosts.gymnasium import scripted

    monkeypatch.setattr(scripted.Turn, "action_space", spaces.Discrete(MAX_CHOICES + 1))
    _, lines = describe_task(f"{SCRIPTS}Turn-v0", tmp_path)
    assert len(lines) == 1


def read_term(task, text):
    """Return the values of MuJoCo's data that a term names, as its ``text`` says."""
    model, data = task.model, task.data
    array, _, rest = text.partition(", ")
    names = rest.partition(" of ")[2].partition(", exerted")[0].split(", ")
    if array in ("cinert", "cvel", "cfrc_ext"):
        values = getattr(data, array)[1:].ravel()
    else:
        joints = {model.joint(i).name: i for i in range(model.njnt)}
        values = []
        for name in names:
            joint, _, axis = name.partition(" ")
            if joint not in joints:
                continue  # a unit
            address = {
                "qpos": model.jnt_qposadr,
                "qvel": model.jnt_dofadr,
                "qfrc_actuator": model.jnt_dofadr,
            }[array]
            is_rotation = (
                model.jnt_type[joints[joint]] == 0 and "position" not in rest and rest[:8] != "velocity"
            )
            place = {"": 0, "X": 0, "Y": 1, "Z": 2}.get(axis, 0)
            if is_rotation:
                place = 3 + ("WXYZ" if array == "qpos" else "XYZ").index(axis)
            values.append(getattr(data, array)[address[joints[joint]] + place])
    if "clipped to " in text:
        low, high = map(float, text.partition("clipped to ")[2].split(" to "))
        values = np.clip(values, low, high)
    return np.asarray(values)


def read_computed_term(task, text):
    """Return the values of a term that a robot's class computes from MuJoCo's data, as its ``text`` says."""
    data, names = task.data, {task.model.joint(i).name for i in range(task.model.njnt)}
    kind, *_, listed = text.split(" of ")
    joints = [name for name in listed.replace(",", " ").split() if name in names]
    if kind in ("sines", "cosines"):
        return (np.sin if kind == "sines" else np.cos)([data.joint(name).qpos[0] for name in joints])
    if kind.startswith("position X Y"):
        body, _, other = text.removeprefix(f"{kind} of ").partition(", m")[0].partition(" less that of ")
        place = data.body(body).xpos - (data.body(other).xpos if other else 0.0)
        return place[: 3 if "Z" in kind else 2]
    if joints:
        values = {"qpos": "qpos", "qvel": "qvel", "qfrc_constraint": "qfrc_constraint"}[kind.split(",")[0]]
        found = [getattr(data.joint(name), values)[0] for name in joints]
    else:
        found = getattr(data, text[:4])[:7]  # the pusher's arm
    return np.clip(found, -10, 10) if "clipped to -10 to 10" in text else np.asarray(found)


@pytest.mark.parametrize("robot", ["InvertedDoublePendulum", "Pusher", "Reacher"])
def test_the_computed_terms_of_a_robot_are_what_gymnasium_observes(robot):
    with gymnasium.make(f"{robot}-v5") as env:
        env.reset(seed=0)
        task = env.unwrapped
        velocities = 8.0 * np.random.default_rng(0).normal(size=task.model.nv)
        task.set_state(task.data.qpos, velocities)
        observation, *_ = env.step(env.action_space.sample())
        terms = describe_interface(env).observations
        found = [read_computed_term(task, text) for _, text in terms]
        assert [len(values) for values in found] == [size for size, _ in terms]
        np.testing.assert_array_equal(np.concatenate(found), observation)


@pytest.mark.filterwarnings("ignore:.*out of date")
@pytest.mark.parametrize(
    "robot", [*(f"{robot}-v5" for robot in ROBOTS), *(f"{robot}-v4" for robot in OF_VERSION_4)]
)
def test_the_terms_of_a_robot_are_what_gymnasium_observes(robot):
    """With velocities and contacts beyond every limit of Gymnasium's."""
    with gymnasium.make(robot, render_mode=None) as env:
        env.reset(seed=0)
        task = env.unwrapped
        rng = np.random.default_rng(0)
        interface = describe_interface(env)
        task.set_state(
            task.data.qpos + 0.1 * rng.normal(size=task.model.nq), 20.0 * rng.normal(size=task.model.nv)
        )
        task.data.xfrc_applied[1:] = 50.0 * rng.normal(size=(task.model.nbody - 1, 6))
        observation, *_ = env.step(env.action_space.sample())
        found = [read_term(task, text) for _, text in interface.observations]
        assert [len(values) for values in found] == [size for size, _ in interface.observations]
        np.testing.assert_array_equal(np.concatenate(found), observation)
        skipped = getattr(task, "_exclude_current_positions_from_observation", False)
        assert ("not observed" in interface.note) == skipped


@pytest.mark.parametrize("robot", [*ROBOTS, "Pusher", "Reacher"])
def test_an_action_times_its_gear_is_the_effort_on_the_joint(robot):
    with gymnasium.make(f"{robot}-v5") as env:
        env.reset(seed=0)
        task = env.unwrapped
        interface = describe_interface(env)
        for i, (text, joint) in enumerate(zip(interface.actions, interface.joints, strict=True)):
            action = np.zeros(env.action_space.shape, np.float32)
            action[i] = env.action_space.high[i]
            env.step(action)
            expected = float(text.partition(" = ")[2].split()[0]) * action[i]
            dof = task.model.joint(joint).dofadr[0]
            assert task.data.qfrc_actuator[dof] == pytest.approx(expected)
            assert np.count_nonzero(task.data.qfrc_actuator) == 1
            assert ("N m" in text) == (task.model.joint(joint).type[0] == 3)


def test_the_values_of_bodies_have_the_named_order():
    import mujoco

    with gymnasium.make("Humanoid-v5") as env:
        env.reset(seed=0)
        model, data = env.unwrapped.model, env.unwrapped.data
        data.qpos[2] += 5.0  # off the ground
        data.qvel[:] = np.random.default_rng(0).normal(size=model.nv)
        data.xfrc_applied[5] = [
            1.0,
            2.0,
            3.0,
            0.5,
            0.6,
            0.7,
        ]  # force, then torque, at the body's centre of mass
        mujoco.mj_forward(model, data)
        mujoco.mj_rnePostConstraint(model, data)
        offset = data.xipos[5] - data.subtree_com[model.body_rootid[5]]
        np.testing.assert_allclose(data.cinert[5, 6:], [*model.body_mass[5] * offset, model.body_mass[5]])
        frame = data.ximat[5].reshape(3, 3)
        inertia = frame @ np.diag(model.body_inertia[5]) @ frame.T
        inertia += model.body_mass[5] * (offset @ offset * np.eye(3) - np.outer(offset, offset))
        order = [inertia[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
        np.testing.assert_allclose(data.cinert[5, :6], order, atol=1e-12)
        velocity = np.zeros(6)
        mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_BODY, 5, velocity, 0)
        linear = velocity[3:] + np.cross(velocity[:3], -offset)
        np.testing.assert_allclose(data.cvel[5], [*velocity[:3], *linear])
        torque = data.xfrc_applied[5, 3:] + np.cross(offset, [1.0, 2.0, 3.0])
        np.testing.assert_allclose(data.cfrc_ext[5], [*torque, 1.0, 2.0, 3.0])


def test_the_values_of_classic_control_are_what_gymnasium_observes():
    with gymnasium.make("CartPole-v1") as env:
        env.reset(seed=0)
        task = env.unwrapped
        task.state = np.array([0.0, 1.0, 0.1, 0.0])
        observation, *_ = env.step(1)
        assert observation[0] == pytest.approx(0.02), "position, then velocity; the period is 0.02 s"
        assert observation[3] < 0.0 < observation[2], "a push to the right tips the pole to the left"
        assert (task.force_mag, task.tau) == (10.0, 0.02)
    with gymnasium.make("Pendulum-v1") as env:
        env.reset(seed=0)
        env.unwrapped.state = np.array([0.1, 0.0])
        observation, *_ = env.step(np.float32([0.0]))
        assert observation[2] > 0.0, "it falls from above"
        angle = 0.1 + 0.05 * observation[2]
        np.testing.assert_allclose(observation[:2], [np.cos(angle), np.sin(angle)], rtol=1e-6)
    with gymnasium.make("Acrobot-v1") as env:
        env.reset(seed=0)
        assert env.unwrapped.AVAIL_TORQUE == [-1.0, 0.0, 1]
        env.unwrapped.state = np.array([0.1, 0.2, 0.3, 0.4])
        values = env.unwrapped._get_ob()
        np.testing.assert_allclose(
            values, [np.cos(0.1), np.sin(0.1), np.cos(0.2), np.sin(0.2), 0.3, 0.4], rtol=1e-6
        )
    for task, push in (("MountainCar-v0", 2), ("MountainCarContinuous-v0", np.float32([1.0]))):
        with gymnasium.make(task) as env:
            first, _ = env.reset(seed=0)
            second, *_ = env.step(push)
            assert second[0] - first[0] == pytest.approx(second[1], rel=1e-4)
            rest = np.cos(3 * first[0]) * -0.0025
            assert second[1] - rest == pytest.approx(0.001 if task == "MountainCar-v0" else 0.0015, rel=1e-3)


@pytest.mark.parametrize(
    "task", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"]
)
def test_every_value_of_classic_control_has_a_meaning(task):
    with gymnasium.make(task) as env:
        found = TaskSpaces.read(task, env)
    assert len(found.interface.observations) == found.observation_shape[0]
    assert len(found.interface.actions) == found.num_actions


class Scaled(gymnasium.Wrapper):
    """A wrapper of one's own that changes values but no space."""

    def step(self, action):
        observation, *others = super().step(action)
        return observation * 2.0, *others


class Lifted(HalfCheetahEnv):
    """A robot of one's own."""

    def _get_obs(self):
        return super()._get_obs() + 1.0


@pytest.mark.filterwarnings("ignore:.*out of date")
def test_a_task_whose_values_may_be_others_has_no_meaning():
    """Better no word than a wrong one."""
    with gymnasium.make("HalfCheetah-v5") as env:
        assert describe_interface(env).observations
        halved = spaces.Box(-0.5, 0.5, (6,))
        wrapped = [
            Scaled(env),
            FlattenObservation(env),
            RescaleAction(env, -0.5, 0.5),
            TransformAction(env, np.negative, env.action_space),
            TransformAction(env, np.negative, halved),
            TransformObservation(env, np.negative, env.observation_space),
            gymnasium.wrappers.TimeLimit(Scaled(env), 5),
        ]
        for each in wrapped:
            assert describe_interface(each) == TaskInterface(), each
    with Lifted() as own:
        assert describe_interface(own) == TaskInterface()
    with gymnasium.make("Ant-v4", use_contact_forces=True) as env:
        assert not describe_interface(env).observations, "its contact forces are not those of version 5"


def test_a_model_without_plain_motors_has_no_factor_from_action_to_torque():
    with gymnasium.make("HalfCheetah-v5") as env:
        model = env.unwrapped.model
        model.actuator_biastype[0] = 1  # a servo
        model.actuator_gear[1, 0] = 7.0
        texts = describe_interface(env).actions
        assert texts[0] == "control of joint bthigh, gear 120"
        assert texts[1] == "joint bshin, torque = 7 (gear) x action, N m"
        model.actuator_ctrlrange[2] = (-0.5, 0.5)  # its actions are no longer the controls
        assert describe_interface(env) == TaskInterface()


class Cart(CartPoleEnv):
    """A CartPole of one's own."""


class Motor(gymnasium.Env):
    """A task whose ``tau`` is a torque."""

    tau = 3.0
    observation_space = action_space = spaces.Box(-1.0, 1.0, (1,))


def test_only_a_cartpole_has_its_period_in_tau():
    for task, period in ((Cart(), 0.02), (Motor(), None)):
        assert TaskSpaces.read("x", task).control_period == period
