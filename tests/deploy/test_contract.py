"""The header of policy.c says what an engineer needs, and two policies link into one program under names of their own."""

import importlib.util
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spiky_rl.config.options import UserError
from spiky_rl.deploy import _export, _targets, _verification, c, c_int8
from spiky_rl.deploy._c_text import add_note
from spiky_rl.deploy._commands import CommandMap, find_command_map
from spiky_rl.deploy._contract import HISTORY_TEXT, describe_contract, format_contract, format_macros
from spiky_rl.deploy._targets import ExportOptions
from spiky_rl.deploy.base import get_command_scale
from spiky_rl.learners.rsl_rl.action_bounds import convert_actions
from spiky_rl.run.run_plan import RunRequest
from tests.deploy.test_c import act, answers, live, walk
from tests.deploy.test_c_int8 import Restarted, rollout_of
from tests.deploy.trained import trained

measured = SimpleNamespace(_descriptor=SimpleNamespace(extras={"units": "rad", "axes": ["X", "Y"]}))


class Managed:
    """An environment with managers, as Isaac Lab and mjlab have them."""

    step_dt = 0.02

    def __init__(self):
        terms = {
            "policy": [
                SimpleNamespace(scale=torch.tensor(0.2), clip=(-1.0, 1.0), history_length=0, func=measured),
                SimpleNamespace(scale=None, clip=None, history_length=2),
            ]
        }
        self.observation_manager = SimpleNamespace(
            active_terms={"policy": ["joint_pos", "velocity"]},
            group_obs_term_dim={"policy": [(2,), (2, 1)]},
            _group_obs_term_cfgs=terms,
        )
        self.action_manager = SimpleNamespace(active_terms=["legs"], get_term=lambda name: Legs())


LEGS = SimpleNamespace(name="robot", joint_ids=[2, 0])


def joint_pos(env, selected=LEGS):
    """Observe two of the robot's joints."""


def body_force(env, sensor_cfg):
    """Observe two values of each selected body."""


def joint_share(env, other=None):
    """Observe something that selects no joints."""


def observed(function, size, **params):
    settings = {"scale": None, "clip": None, "history_length": 0, "params": params, "func": function}
    manager = SimpleNamespace(
        active_terms={"policy": ["x"]},
        group_obs_term_dim={"policy": [(size,)]},
        _group_obs_term_cfgs={"policy": [SimpleNamespace(**settings)]},
    )
    positions = torch.tensor([[0.1, 0.8, -1.5]])
    limits = torch.tensor([[[-0.5, 0.5], [0.2, 2.0], [-2.5, -1.0]]])
    data = SimpleNamespace(
        default_joint_pos=positions,
        default_joint_vel=SimpleNamespace(torch=torch.zeros(1, 3)),
        soft_joint_pos_limits=SimpleNamespace(torch=limits),
    )
    robot = SimpleNamespace(joint_names=["hip", "knee", "ankle"], body_names=["base", "foot"], data=data)
    return SimpleNamespace(observation_manager=manager, scene={"robot": robot}, step_dt=0.1)


def joint_pos_rel(env, selected=LEGS):
    """Observe the differences of two joints' positions from the robot's default positions."""


def joint_vel_rel(env, selected=LEGS):
    """Observe the differences of two joints' velocities from the robot's default velocities, which are 0."""


def joint_pos_limit_normalized(env, selected=LEGS):
    """Observe two joints' positions as shares of their ranges."""


def last_action(env):
    """Observe the last action."""


FEET = SimpleNamespace(name="robot", body_ids=slice(None))


@pytest.mark.parametrize(
    ("function", "size", "params", "parts"),
    [
        (joint_pos, 2, {}, ("ankle", "hip")),
        (joint_pos, 6, {}, ("ankle", "hip")),
        (joint_pos, 3, {}, ()),
        (body_force, 4, {"sensor_cfg": FEET}, ("base", "foot")),
        (joint_share, 2, {}, ()),
        (measured, 2, {}, ()),
    ],
)
def test_a_term_names_the_joints_or_bodies_that_it_observes(function, size, params, parts, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    env = observed(function, size, **params)
    [term] = describe_contract(env, ["policy"], "a", "t", tmp_path / "model.pt").observations
    assert term.parts == parts


def test_the_header_has_the_positions_to_which_observed_ones_are_relative(tmp_path):
    """Who passes a joint's position itself makes a robot fall."""
    _, lines = describe_lines(observed(joint_pos_rel, 2), 2, tmp_path)
    assert lines[-1].endswith("policy.x (joint_pos_rel); of ankle, hip, minus their default values -1.5, 0.1")
    _, lines = describe_lines(observed(joint_vel_rel, 2), 2, tmp_path)
    assert lines[-1].endswith("policy.x (joint_vel_rel); of ankle, hip")
    _, lines = describe_lines(observed(joint_pos_limit_normalized, 2), 2, tmp_path)
    assert lines[-1].endswith("; of ankle, hip, from -1 at -2.5, -0.5 to 1 at -1.0, 0.5 rad")


class UniformVelocityCommand:
    """A commanded velocity, as of Isaac Lab and mjlab."""


def projected_gravity(env):
    """Observe the direction of gravity."""


def test_the_header_has_units_where_isaac_lab_declares_none_or_another_one(tmp_path):
    env = observed(joint_share, 3, command_name="walk")
    env.command_manager = SimpleNamespace(get_term={"walk": UniformVelocityCommand(), "look": object()}.get)
    _, lines = describe_lines(env, 3, tmp_path)
    assert lines[-1].endswith(
        "policy.x (joint_share, command_name walk), m/s forward, m/s to the left, rad/s of a turn to the left"
    )
    env.observation_manager._group_obs_term_cfgs["policy"][0].params = {"command_name": "look"}
    _, lines = describe_lines(env, 3, tmp_path)
    assert lines[-1].endswith("policy.x (joint_share, command_name look)")
    projected_gravity._descriptor = SimpleNamespace(extras={"units": "m/s^2", "axes": ["X", "Y", "Z"]})
    projected_gravity.__module__ = "isaaclab.fake"
    _, lines = describe_lines(observed(projected_gravity, 3), 3, tmp_path)
    assert lines[-1].endswith(
        "0, 0, -1 if the robot is upright; an accelerometer at rest shows the opposite sign"
    )


def test_the_header_has_the_ranges_of_a_commanded_velocity(tmp_path):
    env = observed(joint_share, 3, command_name="walk")
    walk = UniformVelocityCommand()
    ranges = SimpleNamespace(lin_vel_x=(-1.0, 2.0), lin_vel_y=(-0.5, 0.5), ang_vel_z=(-1.0, 1.0))
    walk.cfg = SimpleNamespace(ranges=ranges, rel_standing_envs=0.1)
    env.command_manager = SimpleNamespace(get_term={"walk": walk}.get)
    _, lines = describe_lines(env, 3, tmp_path)
    assert lines[-1].endswith("; commanded -1 to 2, -0.5 to 0.5, -1 to 1, and 0 to stand")


def test_the_header_has_the_arguments_of_a_function_and_the_number_of_values_of_each_body(tmp_path):
    def scan(env, sensor_name, offset=0.5, biased=False, selected=FEET):
        """Observe heights."""

    _, lines = describe_lines(observed(scan, 4, sensor_name="rays"), 4, tmp_path)
    assert lines[-1].endswith("policy.x (scan, sensor_name rays, offset 0.5)")
    _, lines = describe_lines(observed(body_force, 12, sensor_cfg=FEET), 12, tmp_path)
    assert lines[-1].endswith("policy.x (body_force); of base, foot, 6 values each")


class DCMotorCfg:
    """Motors as Isaac Lab configures them."""

    joint_names_expr = (".*_hip", ".*_knee")
    stiffness, damping, effort_limit, velocity_limit, min_delay = 20.0, 0.0, {".*_hip": 23.7}, None, 0


class XmlActuator:
    """A motor of mjlab in a robot's XML file."""


def test_the_header_has_the_simulated_motors_and_the_limit_of_raw_actions(tmp_path):
    env, term = Managed(), JointEffortAction()
    env.observation_manager = observed(last_action, 2).observation_manager
    env.action_manager = SimpleNamespace(active_terms=["legs"], get_term=lambda name: term)
    env.clip_actions = 1.0
    term._asset = SimpleNamespace(cfg=SimpleNamespace(actuators={"legs": DCMotorCfg()}))
    contract, raw = describe_lines(env, 2, tmp_path)
    motors = (
        "  .*_hip, .*_knee (DCMotor): stiffness 20 N m/rad, damping 0 N m s/rad, effort_limit 23.7 of .*_hip N m,"
        " min_delay 0 physics steps"
    )
    assert raw[-1] == motors, "a robot that does not name its joints"
    assert "Limit raw actions to -1 to 1 first." in raw
    assert any("pass the raw action, so limited, clipped and scaled as its line says" in line for line in raw)
    assert any(
        line.endswith("scale [7.5, 2.0], offset 0.3, at least -3.0, at most 3.0; of hip, knee")
        for line in raw
    )
    commands = find_command_map(env)
    lines = format_contract(contract, "policy", 2, 2, commands)
    assert "  action[1]: effort of knee, N m" in lines and lines[-1] == motors
    assert not any("Limit raw actions" in line for line in lines)
    assert any("pass raw_action, which the struct holds" in line for line in lines)
    term._asset = SimpleNamespace(actuators=[XmlActuator()])
    contract, _ = describe_lines(env, 2, tmp_path)
    lines = format_contract(contract, "policy", 2, 2, find_command_map(env))
    assert any("control of the motor in the robot's XML file" in line for line in lines)


def test_the_header_has_the_motors_of_every_joint_with_units(tmp_path):
    class DCMotorCfg:
        joint_names_expr = [".*_hip", ".*_knee"]
        stiffness, damping = {".*_hip": 20.0, ".*_knee": 20.0}, 0.5
        effort_limit, velocity_limit, max_delay = {".*_hip": 23.7, "l_knee": 45.43}, 30.0, 4
        armature = actuator_effort_limit = None
        joint_effort_limit, joint_velocity_limit = 80.0, {".*": 7.5}

    env, term = Managed(), JointEffortAction()
    env.action_manager = SimpleNamespace(active_terms=["legs"], get_term=lambda name: term)
    env.physics_dt = 0.005
    cfg = SimpleNamespace(actuators={"legs": DCMotorCfg()})
    names = ["l_hip", "r_hip", "head", "l_knee", "r_knee"]
    term._asset = SimpleNamespace(cfg=cfg, joint_names=names)
    _, lines = describe_lines(env, 4, tmp_path)
    assert lines[-2:] == [
        "Simulated motors; the robot's must have these gains and limits, which act in every physics step, of 0.005 s:",
        "  l_hip, r_hip, l_knee, r_knee (DCMotor): stiffness 20 N m/rad, damping 0.5 N m s/rad, joint_effort_limit 80 N m,"
        " effort_limit 23.7, 23.7, 45.43, 0 N m, joint_velocity_limit 7.5 rad/s, velocity_limit 30 rad/s,"
        " max_delay 4 physics steps",
    ]
    cfg.actuators = {"legs": XmlActuator()}
    cfg.actuators["legs"].target_names_expr = (".*_hip",)
    _, lines = describe_lines(env, 4, tmp_path)
    assert lines[-2:] == ["Simulated motors:", "  l_hip, r_hip (XmlActuator)"]


def test_the_header_has_the_commands_of_a_gripper(tmp_path):
    """Also a command of 0, which other settings leave out."""

    class BinaryJointPositionAction:
        action_dim, _joint_names = 1, ["left_finger", "right_finger"]
        cfg = SimpleNamespace(
            open_command_expr={".*_finger": 0.04},
            close_command_expr={"left_.*": 0.0, "right_.*": 0.0},
            clip=None,
        )

    env = Managed()
    env.action_manager.get_term = lambda name: BinaryJointPositionAction()
    _, lines = describe_lines(env, 4, tmp_path)
    assert lines[-1] == (
        "     0 to 0    legs (BinaryJointPositionAction): open_command_expr 0.04, close_command_expr 0.0;"
        " of left_finger, right_finger"
    )
    BinaryJointPositionAction.cfg.close_command_expr = {"left_.*": 0.0, "right_.*": -0.1}
    _, lines = describe_lines(env, 4, tmp_path)
    assert "close_command_expr [0.0, -0.1]" in lines[-1]


@pytest.mark.parametrize(
    ("package", "name", "expected"),
    [
        ("isaaclab", "base_lin_vel", "of the base's centre of mass; no sensor measures it, so estimate it"),
        ("mjlab", "base_lin_vel", "of the origin of the base's frame; no sensor measures it, so estimate it"),
        ("isaaclab", "root_lin_vel_w", "m/s, X Y Z in the world's frame, of the base's centre of mass"),
        ("mjlab", "root_lin_vel_w", "m/s, X Y Z in the world's frame"),
        ("isaaclab_tasks", "base_yaw_roll", "rad, yaw, then roll, each wrapped to [-pi, pi]"),
        ("isaaclab_tasks", "base_angle_to_target", "less the yaw, wrapped to [-pi, pi]"),
        ("isaaclab", "body_incoming_wrench", "on the body, in the joint's frame on the body's side"),
        ("users", "base_lin_vel", "policy.x (base_lin_vel)"),
    ],
)
def test_a_term_means_what_its_package_observes(package, name, expected, tmp_path):
    def function(env):
        """Observe something."""

    function.__name__, function.__module__ = name, f"{package}.mdp"
    _, lines = describe_lines(observed(function, 3), 3, tmp_path)
    assert lines[-1].endswith(expected)


def test_isaac_lab_observes_what_the_header_says():
    """Which point of the base, and in which frame, are facts of its source, read without its import."""
    package = importlib.util.find_spec("isaaclab")
    if package is None:
        pytest.skip("Isaac Lab is not installed")
    root = Path(package.submodule_search_locations[0])
    data = (root / "assets" / "articulation" / "base_articulation_data.py").read_text()
    for name in ("root_lin_vel_b", "root_lin_vel_w"):
        body = data.partition(f"def {name}(")[2].partition("def ")[0]
        assert f"return self.{name.replace('root', 'root_com')}" in body
    functions = (root / "envs" / "mdp" / "observations.py").read_text()
    assert "data.root_lin_vel_b" in functions.partition("def base_lin_vel(")[2].partition("def ")[0]
    wrench = (root / "sensors" / "joint_wrench" / "joint_wrench_sensor_cfg.py").read_text()
    assert 'convention: Literal["incoming_joint_frame"] =' in wrench, "the only frame"


def describe_lines(env, inputs, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    contract = describe_contract(env, ["policy"], "a", "t", tmp_path / "model.pt")
    return contract, format_contract(contract, "policy", inputs, 2, None)


def test_a_history_that_is_ordered_by_time_has_every_term_in_every_control_step(tmp_path):
    """As ``history_order: time`` of Isaac Lab lays it out: all terms of the oldest step, then all of the next."""
    env = observed(joint_pos, 4)
    manager = env.observation_manager
    speed = SimpleNamespace(scale=0.5, clip=None, history_length=2, params={}, func=measured)
    manager.active_terms["policy"].append("speed")
    manager.group_obs_term_dim["policy"].append((2,))
    manager._group_obs_term_cfgs["policy"][0].history_length = 2
    manager._group_obs_term_cfgs["policy"].append(speed)
    by_term, lines = describe_lines(env, 6, tmp_path)
    assert [(term.start, term.size) for term in by_term.observations] == [(0, 4), (4, 2)]
    assert HISTORY_TEXT in lines
    manager._group_obs_time_major = {"policy": True}
    by_time, lines = describe_lines(env, 6, tmp_path)
    assert [(term.start, term.size) for term in by_time.observations] == [(0, 2), (2, 1), (3, 2), (5, 1)]
    ages = [term.text.rpartition("; ")[2] for term in by_time.observations]
    assert ages == ["of 1 control step before"] * 2 + ["of this control step"] * 2
    assert by_time.observations[0].parts == by_time.observations[2].parts == ("ankle", "hip")
    assert HISTORY_TEXT in lines


def test_the_header_has_the_history_of_an_environment_without_managers(tmp_path):
    _, lines = describe_lines(SimpleNamespace(step_dt=0.1, history=3), 12, tmp_path)
    assert lines[-2:] == [
        "observation[12]: the last 3 observations of the task, of 4 values each.",
        HISTORY_TEXT,
    ]
    _, lines = describe_lines(SimpleNamespace(step_dt=0.1, history=1), 12, tmp_path)
    assert HISTORY_TEXT not in lines


def test_the_header_has_the_layout_of_an_image(tmp_path):
    _, lines = describe_lines(SimpleNamespace(step_dt=0.1, image_shape=(3, 20, 16)), 960, tmp_path)
    assert lines[-1] == "observation[960]: an image [3, 20, 16], channels first; bytes are divided by 255."


def test_the_header_has_no_period_that_the_task_does_not_tell(tmp_path):
    for period, count in ((None, 0), (0.02, 1)):
        env = SimpleNamespace(step_dt=0.1, control_period=period, history=1)
        _, lines = describe_lines(env, 12, tmp_path)
        assert sum("every" in line for line in lines) == count


def test_a_term_names_the_functions_that_modify_its_values(tmp_path):
    class DigitalFilter:
        """A modifier with a state, as Isaac Lab's."""

    env = observed(measured, 2)
    (config,) = env.observation_manager._group_obs_term_cfgs["policy"]
    config.modifiers = [SimpleNamespace(func=joint_share), SimpleNamespace(func=DigitalFilter())]
    _, lines = describe_lines(env, 2, tmp_path)
    assert lines[-1].endswith("; modified first by joint_share, DigitalFilter")


class Legs:
    """A term of two joints."""

    action_dim = 2
    _joint_names = ("hip", "knee")
    cfg = SimpleNamespace(scale=0.25, offset=0.0, clip=None, use_default_offset=True)


@pytest.fixture(name="contract")
def described(tmp_path):
    (tmp_path / "model_7.pt").write_bytes(b"weights")
    return describe_contract(Managed(), ["policy"], "lif_ppo", "Isaac-Ant-v0", tmp_path / "model_7.pt")


def test_the_header_names_period_terms_joints_and_checkpoint(contract, tmp_path):
    target = c.C()
    target.contract = contract
    text = target.write(trained("lif_ppo"), tmp_path).with_suffix(".h").read_text()
    for line in (
        "// Agent lif_ppo on task Isaac-Ant-v0; checkpoint model_7.pt",
        "0 to 1    policy.joint_pos, rad, X Y: scale 0.2, clip (-1.0, 1.0)",
        "2 to 3    policy.velocity: history_length 2",
        "A history has the oldest values first",
        "0 to 1    legs (Legs): scale 0.25, use_default_offset True",
        "#define POLICY_PERIOD_US 20000",
        '#define POLICY_JOINTS {"hip", "knee"}',
    ):
        assert line in text, text
    assert contract.digest in text and len(contract.digest) == 16


class JointEffortAction:
    """An action term as Isaac Lab's, which takes an action's scale, offset and clip."""

    __module__ = "isaaclab.fake"
    action_dim = 2
    _joint_names = ("hip", "knee")

    def __init__(self, num_envs=1, clip=3.0):
        self.cfg = SimpleNamespace(
            scale={"hip": 7.5, "knee": 2.0}, offset=0.3, clip=clip and {".*": (-clip, clip)}
        )
        self._scale = torch.tensor([[7.5, 2.0]]).repeat(num_envs, 1)
        self._offset = 0.3
        if clip:
            self._clip = torch.tensor([[-clip, clip]]).repeat(num_envs, 2, 1)
        self._processed_actions = torch.zeros(num_envs, 2)

    def process_actions(self, actions):
        self._processed_actions = (actions * self._scale).add_(self._offset)
        if self.cfg.clip:
            self._processed_actions.clamp_(min=self._clip[..., 0], max=self._clip[..., 1])

    def apply_actions(self):
        """Do nothing: a point has no joints."""


class Squared(JointEffortAction):
    """A user's term."""

    __module__ = "users.own"

    def process_actions(self, actions):
        self._processed_actions = actions.square()


class Driven(Restarted):
    """A point mass behind an action term; it takes what the term makes of an action."""

    def __init__(self, term=None, clip_actions=None):
        super().__init__()
        self.term, self.clip_actions = term or JointEffortAction(self.num_envs), clip_actions
        self.action_manager = SimpleNamespace(active_terms=["legs"], get_term=lambda name: self.term)

    @property
    def unwrapped(self):
        return self

    def step(self, actions):
        if self.clip_actions is not None:
            actions = actions.clamp(-self.clip_actions, self.clip_actions)
        self.term.process_actions(actions)
        return super().step(self.term._processed_actions)


@pytest.mark.parametrize(
    "agent, clip_actions",
    [
        ("lif_stateful_ppo", 0.5),
        ("mlp_ppo", None),
        pytest.param("lif_stateful_ppo", None, marks=pytest.mark.slow),
        pytest.param("mlp_ppo", 0.5, marks=pytest.mark.slow),
    ],
)
def test_files_in_c_give_the_commands_that_the_environments_terms_compute(agent, clip_actions, tmp_path):
    policy, env = trained(agent), Driven(clip_actions=clip_actions)
    names = ["c"] if agent == "mlp_ppo" else ["c", "c_int8", "torchscript"]
    found = _export.write_and_verify(policy, env, tmp_path, _targets.make_targets(names))
    assert all(each.mismatches == 0 and each.steps > 5 for each in found.values())
    step, seen = c.C().open_session(tmp_path / "policy.c"), 3.0 * walk(policy)
    raw = torch.from_numpy(live(policy, seen))
    term = JointEffortAction(len(raw))
    term.process_actions(raw if clip_actions is None else raw.clamp(-clip_actions, clip_actions))
    commands = act(step, seen)
    tolerance = 0.0 if agent == "lif_stateful_ppo" else 1e-4
    np.testing.assert_allclose(commands, term._processed_actions.numpy(), rtol=0.0, atol=tolerance)
    assert len(np.unique(commands)) > 20 and (clip_actions or np.abs(commands).max() == 3.0)


def test_raw_actions_are_those_of_the_policy(tmp_path):
    policy, env = trained("lif_stateful_ppo"), Driven()
    _export.write_and_verify(policy, env, tmp_path, _targets.make_targets(["c"]), raw_actions=True)
    step, seen = c.C().open_session(tmp_path / "policy.c"), walk(policy)
    np.testing.assert_array_equal(act(step, seen), live(policy, seen))


def test_a_term_of_ones_own_or_a_class_of_choices_gives_raw_actions(tmp_path):
    assert find_command_map(Driven(Squared(8))) is None
    policy = trained("lif_stateful_ppo")
    _export.write_and_verify(policy, Driven(Squared(8)), tmp_path, _targets.make_targets(["c"]))
    assert "raw_action" not in (tmp_path / "policy.h").read_text()


def test_a_term_that_does_otherwise_than_its_settings_is_an_error_and_leaves_the_older_file(
    tmp_path, monkeypatch
):
    """The commands that a file must give are the environment's, not what we compute of its settings."""

    def drift(self, actions):
        self._processed_actions = actions * self._scale + 1.3

    monkeypatch.setattr(JointEffortAction, "process_actions", drift)
    env = Driven()
    assert find_command_map(env) is not None
    (tmp_path / "policy.c").write_text("older")
    with pytest.raises(UserError, match="--raw_actions"):
        _export.write_and_verify(trained("lif_ppo"), env, tmp_path, _targets.make_targets(["c"]))
    assert (tmp_path / "policy.c").read_text() == "older"


def test_commands_to_a_sliding_joint_are_in_its_units():
    env = Driven()
    env.sliding_joints = frozenset({"knee"})
    commands = find_command_map(env)
    assert commands is not None and commands.units == ("N m", "N") and commands.quantities == ("effort",) * 2


def test_the_header_says_which_actions_it_gives(contract, tmp_path):
    policy, commands = trained("lif_ppo"), find_command_map(Driven())
    texts = {}
    for name, each in (("raw", policy), ("commands", convert_actions(policy, commands, 2))):
        target = c.C()
        target.contract = contract
        texts[name] = target.write(each, tmp_path / name).with_suffix(".h").read_text()
    assert "raw actions of the policy" in texts["raw"] and "POLICY_UNITS" not in texts["raw"]
    for line in (
        "commands to the robot",
        "action[0]: effort of hip, N m",
        '#define POLICY_UNITS {"N m", "N m"}',
        "float raw_action[2];",
    ):
        assert line in texts["commands"], texts["commands"]
    assert not any("(scratch)" in line for line in texts["commands"].splitlines() if "raw_action" in line)


@pytest.mark.parametrize(
    ("settings", "size", "more", "macro"),
    [
        ({}, 2, (), "#define POLICY_LAST_ACTION 2"),
        ({"scale": 0.5}, 2, (), ""),
        ({"clip": (-1.0, 1.0)}, 2, (), ""),
        ({"delay_max_lag": 2}, 2, (), ""),
        ({"modifiers": [SimpleNamespace(func=joint_share)]}, 2, (), ""),
        ({"history_length": 3}, 6, (), ""),
        ({}, 1, (), ""),
        ({}, 2, ("again",), ""),
    ],
)
def test_the_header_has_the_index_of_a_last_action_that_is_the_raw_one(settings, size, more, macro, tmp_path):
    env = observed(measured, 2)
    manager, config = env.observation_manager, env.observation_manager._group_obs_term_cfgs["policy"][0]
    for name in ("actions", *more):
        manager.active_terms["policy"].append(name)
        manager.group_obs_term_dim["policy"].append((size,))
        term = SimpleNamespace(**{**vars(config), "func": last_action, **settings})
        manager._group_obs_term_cfgs["policy"].append(term)
    contract, _ = describe_lines(env, 4, tmp_path)
    assert sum(term.is_last_action for term in contract.observations) == 1 + len(more)
    commands = find_command_map(Driven())
    found = format_macros(contract, "policy", 2, commands)
    assert [line for line in found.splitlines() if "LAST_ACTION" in line] == ([macro] if macro else [])
    assert "LAST_ACTION" not in format_macros(contract, "policy", 2, None), "raw actions have no raw_action"
    assert not format_macros(None, "policy", 2, commands)


def test_an_environment_without_managers_has_a_period_alone(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"")
    found = describe_contract(SimpleNamespace(step_dt=0.1), ["policy"], "a", "t", tmp_path / "model.pt")
    assert (found.period, found.observations, found.actions, found.joints) == (0.1, (), (), ())


BOTH = """
#include <stdio.h>
#include "arm.h"
#include "left_leg.h"

static arm_state arm;
static left_leg_state leg;

int main(void) {
  float x[ARM_OBSERVATIONS], a[ARM_ACTIONS], b[LEFT_LEG_ACTIONS];
  arm_reset(&arm), left_leg_reset(&leg);
  while (1) {
    for (int i = 0; i < ARM_OBSERVATIONS; i++)
      if (scanf("%f", &x[i]) != 1) return 0;
    arm_step(&arm, x, a), left_leg_step(&leg, x, b);
    for (int i = 0; i < ARM_ACTIONS; i++) printf("%.9g ", (double)a[i]);
    for (int i = 0; i < LEFT_LEG_ACTIONS; i++) printf("%.9g ", (double)b[i]);
    puts("");
  }
}
"""


def test_two_policies_link_into_one_program_and_act_as_each_alone(tmp_path):
    arm, leg, targets = (
        trained("lif_stateful_ppo"),
        trained("sigma_delta_ppo", seed=1),
        (c.C(), c_int8.CInt8()),
    )
    targets[0].name, targets[1].name = "arm", "left_leg"
    targets[1].calibrate(rollout_of(leg))
    files = targets[0].write(arm, tmp_path), targets[1].write(leg, tmp_path)
    assert [path.name for path in files] == ["arm.c", "left_leg.c"]
    (tmp_path / "main.c").write_text(BOTH)
    flags = [*c.STANDARD, "-Werror", "-O2", "-march=native", *(f"-I{path.parent}" for path in files)]
    line = [*c.find_compiler(), *flags, tmp_path / "main.c", *files, "-lm", "-o", tmp_path / "main"]
    subprocess.run(line, check=True)
    seen = walk(arm)
    expected = live(arm, seen), live(targets[1].get_reference_model(leg), seen)
    np.testing.assert_array_equal(answers([tmp_path / "main"], seen), np.concatenate(expected, 1))


@pytest.mark.parametrize("name", ["left-leg", "1st", "", "x" * 32, "string", "features", "time"])
def test_a_name_that_is_none_in_c_is_refused(name):
    with pytest.raises(UserError, match="--name: "):
        ExportOptions(name=name).check_request(RunRequest(task="cartpole"))


def test_a_file_in_place_of_the_folder_is_refused_before_the_simulator_starts(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--out: cannot write to"):
        ExportOptions(out=tmp_path / "file").check_request(RunRequest(task="cartpole"))


def test_a_policy_is_where_it_was_after_a_verification_that_fails():
    policy = trained("lif_ppo")
    backend = policy.network.backend
    with pytest.raises(UserError, match="broken"), _verification._move_to_cpu(policy, "torch"):
        assert policy.network.backend == "torch"
        raise UserError("broken")
    assert policy.network.backend == backend


@pytest.mark.parametrize(
    ("agent", "target", "text"),
    [
        ("lif_ppo", "c", "equal the live policy's to the last bit if the target has fused multiply-adds"),
        (
            "mlp_ppo",
            "c",
            "equal the live policy's within 1e-05 of the largest action so far, or of 1 if the target has fused",
        ),
        ("lif_ppo", "c_int8", "equal those of the policy in int8 to the last bit. Products"),
    ],
)
def test_the_header_names_what_the_actions_equal_and_how_closely(agent, target, text, tmp_path):
    policy = trained(agent, *(() if agent == "mlp_ppo" else ("agent.network.layers=[40,30]",)))
    writer = {"c": c.C, "c_int8": c_int8.CInt8}[target]()
    if writer.needs_rollout:
        writer.calibrate(rollout_of(policy))
    path = writer.write(policy, tmp_path)
    comment = path.with_suffix(".h").read_text().replace("\n//", "")
    assert f"Actions {text}" in comment
    assert ("MULTIPLY_ADD" in path.read_text()) == ("fused" in comment)


@pytest.mark.parametrize(
    ("agent", "said", "unsaid"),
    [
        ("lif_ppo", "The network keeps no state.", "State that is not finite"),
        ("lif_stateful_ppo", "bytes of it are state of the network.", "keeps no state"),
        ("mlp_ppo", "The live policy, an ANN, does neither.", "spike"),
        ("gru_ppo", "State that is not finite after a step becomes 0", "spike"),
    ],
)
def test_the_header_says_what_is_kept_and_what_invalid_values_become(agent, said, unsaid, tmp_path):
    header = c.C().write(trained(agent), tmp_path).with_suffix(".h").read_text()
    comment = header.replace("\n//", "")
    assert said in comment and unsaid not in comment
    states = re.findall(r"float layers_0_neuron_v\[.*", header)
    assert all(("(scratch)" in line) == (agent == "lif_ppo") for line in states)
    assert bool(states) == agent.startswith("lif")


def test_a_tolerance_of_commands_has_their_unit():
    maps = CommandMap(*(torch.full((2,), value) for value in (torch.inf, 7.5, 0.0, -torch.inf, torch.inf)))
    policy = trained("mlp_ppo")
    assert get_command_scale(policy) == 1.0
    scale = get_command_scale(convert_actions(policy, maps, 2))
    assert c.C().format_tolerance(policy, scale) == "within 1e-05 of the largest action so far, or of 7.5,"


def test_a_note_that_is_known_later_joins_the_headers_comment(tmp_path):
    path = c.C().write(trained("lif_ppo"), tmp_path)
    add_note(path, "On a chip: 5 bytes.")
    add_note(path, "Verified.")
    header = path.with_suffix(".h").read_text()
    assert "//\n// On a chip: 5 bytes.\n//\n// Verified.\n#ifndef POLICY_H\n" in header
    assert c.open_c_session(path)(np.zeros((1, 4), np.float32), [])[0].shape == (1, 2)
