"""Values that would only fail, or be ignored, in the simulator are refused before one starts, by key, value and what is allowed."""

import pytest

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")

from spiky_rl.config.options import UserError
from spiky_rl.hosts.isaaclab.cfg_checks import check_symmetry, check_values
from spiky_rl.hosts.isaaclab.environment import load_configs, resolve_task
from tests.test_bad_input import configured

SOLVER = "env.sim.physics.solver_cfg"
ENVIRONMENT = {
    "env.sim.dt=1e-300": ["env.sim.dt: 1e-300", "32 bits"],
    "env.sim.dt=1e-9": ["env.sim.dt: 1e-09", "between 1e-06 and 1.0"],
    "env.rewards.alive.weight=1e39": ["env.rewards.alive.weight: 1e+39", "32 bits"],
    "env.scene.robot=null": ["env.scene.robot: null", "env.observations.policy."],
    f"{SOLVER}=null": [f"{SOLVER}: null", "allowed: a ", "rewards"],
    "env.events.reset_cart_position.params.asset_cfg=null": [
        "params.asset_cfg: null",
        "allowed: a SceneEntityCfg",
    ],
    f"{SOLVER}.iterations=-1": [f"{SOLVER}.iterations: -1", "between 1 and"],
    f"{SOLVER}.njmax=0": [f"{SOLVER}.njmax: 0", "at least 1"],
    f"{SOLVER}.integrator=eulr": [f"{SOLVER}.integrator: 'eulr'", "implicitfast", "mean 'euler'"],
    f"{SOLVER}.cone=round": [f"{SOLVER}.cone: 'round'", "allowed: pyramidal, elliptic"],
    f"{SOLVER}.solver=pgs": [f"{SOLVER}.solver: 'pgs'", "allowed: cg, newton"],
    f"{SOLVER}.solver=0": [f"{SOLVER}.solver: expected str such as 'newton', got 0"],
    f"{SOLVER}.integrator='4'": [f"{SOLVER}.integrator: '4'", "implicitfast, 0, 1, 2, 3"],
    f"{SOLVER}.update_data_interval=-1": [f"{SOLVER}.update_data_interval: -1", "at least 0"],
    "env.observations.policy.joint_pos_rel.delay_min_lag=4": [
        "env.observations.policy.joint_pos_rel: ",
        "delay_min_lag 4, delay_max_lag 0",
        "allowed: 0 <= delay_min_lag <= delay_max_lag",
    ],
    "env.observations.policy.joint_vel_rel.delay_hold_prob=1.5": ["joint_vel_rel: ", "1.5", "from 0 to 1"],
    "env.actions.joint_effort.scale={'slider': 1e999}": [
        "env.actions.joint_effort.scale.slider: ",
        "finite number, got inf",
    ],
    "env.sim.gravity=[0, [1], 2]": ["env.sim.gravity: expected 3 numbers", "got [0, [1], 2]"],
    "env.sim.dt={[1]}": ["env.sim.dt: '{[1]}' is not a value", "unhashable"],
    f"env.sim.dt={'-' * 100_000}1": ["env.sim.dt: '---", "is not a value"],
    # fields that are null now
    "env.observations.policy.history_length=abc": ["history_length: expected int | None", "got abc"],
    "env.observations.policy.joint_pos_rel.clip=5": ["clip: expected tuple[float, float] | None", "got 5"],
    "env.scene.robot.actuators.cart_actuator.damping=-1.0": ["cart_actuator.damping: -1.0", "at least 0"],
}


@pytest.mark.parametrize("override", ENVIRONMENT)
def test_an_environment_that_only_fails_in_the_simulator_is_refused(override):
    with pytest.raises(UserError) as refused:
        load_configs(resolve_task("Isaac-Cartpole"), overrides=[override])
    for words in ENVIRONMENT[override]:
        assert words in str(refused.value)


FINE = [
    [
        "env.rewards.alive=null",
        "env.events.reset_cart_position=null",
        "env.observations.policy.joint_pos_rel=null",
    ],
    ["env.scene.distant_light=null"],
    [f"{SOLVER}.integrator=RK4", f"{SOLVER}.cone=elliptic", f"{SOLVER}.solver=cg"],
    [f"{SOLVER}.integrator=3", f"{SOLVER}.cone=0", f"{SOLVER}.solver=2"],  # MuJoCo's constants
    [f"{SOLVER}.update_data_interval=0"],
    [
        f"env.observations.policy.joint_pos_rel.delay_{key}"
        for key in ("max_lag=4", "min_lag=2", "hold_prob=0.5")
    ],
    [
        "env.observations.policy.joint_pos_rel.scale=2",
        "env.observations.policy.joint_pos_rel.clip=[-1, 1]",
        "env.scene.robot.actuators.cart_actuator.armature={'.*': 1}",
    ],
    ["env.sim.gravity=[0.0,0.0,-1.62]", f"{SOLVER}.iterations=5", "env.rewards.alive.weight=-1.0"],
    ["env.scene.robot.actuators.cart_actuator.damping=2.0", "env.actions.joint_effort.scale={'slider': 1.0}"],
]


@pytest.mark.parametrize("overrides", FINE, ids=lambda overrides: overrides[0])
def test_what_isaac_lab_leaves_out_where_it_is_null_and_what_is_sensible_passes(overrides):
    load_configs(resolve_task("Isaac-Cartpole"), overrides=overrides)


def test_a_mirror_is_a_function_of_the_tasks_own_package_or_of_the_users():
    env_cfg, _ = load_configs(resolve_task("Isaac-Cartpole"))
    anymal = "isaaclab_tasks.core.velocity.mdp.symmetry.anymal:compute_symmetric_states"
    for name in (None, "isaaclab_tasks.core.cartpole.mdp.symmetry:compute_symmetric_states", "mine:mirror"):
        check_symmetry(env_cfg, name)
    with pytest.raises(
        UserError,
        match="data_augmentation_func: 'isaaclab_tasks.core.velocity.* isaaclab_tasks.core.cartpole",
    ):
        check_symmetry(env_cfg, anymal)


AGENT = {
    "actor.class_name=RNNModel": ["actor.class_name: 'RNNModel'", "agent.network replaces the model"],
    "network.neuron.tau=1e38": ["network.neuron.tau: 1e+38", "between 0.001 and 1000000.0"],
    "network.neuron.threshold=1e7": ["network.neuron.threshold: 10000000.0", "and 1000000.0"],
}


@pytest.mark.parametrize("override", AGENT)
def test_values_of_a_spiking_agent_are_refused_where_they_would_be_ignored_or_overflow(override):
    with pytest.raises(UserError) as refused:
        configured("lif_ppo", override)
    for words in AGENT[override]:
        assert words in str(refused.value)


def test_a_field_whose_value_is_empty_takes_numbers():
    check_values("env.sim.gravity", [1.0, 2.0], ())
    with pytest.raises(UserError, match=r"env\.sim\.gravity: expected 3 numbers"):
        check_values("env.sim.gravity", [1.0, 2.0], (0.0, 0.0, -9.81))
