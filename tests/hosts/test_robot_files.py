"""A robot's file becomes the USD file of the same robot: as Newton reads it, it moves and weighs as MuJoCo says."""

from pathlib import Path

import mujoco
import numpy as np
import pytest

newton = pytest.importorskip("newton", reason="the isaaclab extra is not installed")
pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
from pxr import Usd, UsdGeom, UsdPhysics

from spiky_rl.hosts.isaaclab.local_assets import AssetError
from spiky_rl.hosts.isaaclab.robot_files import export_stage, load_mujoco_model, make_usd_stage, robot_spawn

ARM = Path(__file__).parents[2] / "examples" / "arm.urdf"
ROBOT = """
<mujoco>
  <compiler angle="radian"/>
  <asset><mesh name="wedge" vertex="0 0 0  0.1 0 0  0 0.2 0  0 0 0.3"/></asset>
  <worldbody>
    <geom name="floor" type="plane" size="1 1 1"/>
    <body name="trunk" pos="0.1 0.2 0.5" quat="0.9 0.1 0.3 -0.2">
      <freejoint/>
      <geom name="box" type="box" size="0.1 0.2 0.05" pos="0.01 0 0.02" quat="0.8 0.2 0 0.1" friction="0.7 0.01 0.002"/>
      <body name="upper leg" pos="0 0.2 -0.1" euler="0.3 0.1 -0.4">
        <joint name="hip" axis="1 2 -1" pos="0.01 -0.02 0.03" range="-0.5 1.2" ref="0.2" damping="0.3" armature="0.02" frictionloss="0.1"/>
        <geom name="rod" type="capsule" size="0.02" fromto="0 0 0 0.05 0 -0.3" condim="4" solref="0.01 0.9" solmix="3" priority="2"/>
        <body name="foot" pos="0.05 0 -0.3" quat="0.7 0 0.7 0.1">
          <geom name="wedge" type="mesh" mesh="wedge"/>
          <body name="toe" pos="0.1 0 0">
            <joint name="push" type="slide" axis="0 1 1" range="-0.01 0.04" stiffness="5"/>
            <inertial pos="0.01 0.02 0" mass="0.3" fullinertia="0.002 0.003 0.004 0.0001 0.0002 0.0003"/>
            <geom name="seen" type="cylinder" size="0.02 0.03" contype="0" conaffinity="0"/>
          </body>
        </body>
      </body>
    </body>
  </worldbody>
  <contact><exclude body1="trunk" body2="foot"/></contact>
</mujoco>
"""
SEED, POSES, EXACT = 3, 5, 2e-6
"""Poses are compared in metres and in entries of rotation matrices; USD has 32 bits."""


def robot(tmp_path, text=ROBOT):
    path = tmp_path / "robot.xml"
    path.write_text(text)
    return load_mujoco_model(path)


def simulated(model, tmp_path):
    """The robot as Newton reads it from the file."""
    path = tmp_path / "robot.usdc"
    export_stage(make_usd_stage(model), path)
    builder = newton.ModelBuilder()
    # as Isaac Lab has it read
    resolvers = [newton.usd.SchemaResolverNewton(), newton.usd.SchemaResolverMjc()]
    builder.add_usd(str(path), schema_resolvers=resolvers)
    return builder.finalize(device="cpu")


def short(labels):
    return [label.rpartition("/")[2] for label in labels]


def turn(xyzw):
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, np.asarray(xyzw, float)[[3, 0, 1, 2]])
    return matrix.reshape(3, 3)


@pytest.mark.parametrize("name", ["mjcf", "urdf"])
def test_robot_stands_as_mujoco_says_whatever_its_joints_do(tmp_path, name):
    model = robot(tmp_path) if name == "mjcf" else load_mujoco_model(ARM)
    ours, data, random = simulated(model, tmp_path), mujoco.MjData(model), np.random.default_rng(SEED)
    joints, bodies = short(ours.joint_label), short(ours.body_label)
    names = [model.body(i).name.replace(" ", "_") for i in range(1, model.nbody)]
    assert sorted(bodies) == sorted(names) and model.nbody > 2
    start = ours.joint_q_start.numpy()
    for _ in range(POSES):
        mujoco.mj_resetData(model, data)
        place = ours.joint_q.numpy().copy()
        for i in range(model.njnt):
            if model.jnt_type[i] != mujoco.mjtJoint.mjJNT_FREE:
                moved = random.uniform(-0.5, 0.5)
                data.qpos[model.jnt_qposadr[i]] += moved
                place[start[joints.index(model.joint(i).name)]] = moved
        mujoco.mj_kinematics(model, data)
        state = ours.state()
        ours.joint_q.assign(place)
        newton.eval_fk(ours, ours.joint_q, ours.joint_qd, state)
        poses, root = state.body_q.numpy(), bodies.index(names[0])
        back = data.xmat[1].reshape(3, 3)
        for i in range(1, model.nbody):
            pose, base = poses[bodies.index(names[i - 1])], poses[root]
            there = turn(base[3:]).T @ (pose[:3] - base[:3])
            assert there == pytest.approx(back.T @ (data.xpos[i] - data.xpos[1]), abs=EXACT), names[i - 1]
            rotation = turn(base[3:]).T @ turn(pose[3:])
            assert rotation == pytest.approx(back.T @ data.xmat[i].reshape(3, 3), abs=EXACT), names[i - 1]


@pytest.mark.parametrize("name", ["mjcf", "urdf"])
def test_every_body_weighs_and_turns_as_mujoco_says(tmp_path, name):
    model = robot(tmp_path) if name == "mjcf" else load_mujoco_model(ARM)
    ours = simulated(model, tmp_path)
    bodies = short(ours.body_label)
    for i in range(1, model.nbody):
        k = bodies.index(model.body(i).name.replace(" ", "_"))
        axes = np.zeros(9)
        mujoco.mju_quat2Mat(axes, model.body_iquat[i])
        axes = axes.reshape(3, 3)
        inertia = axes @ np.diag(model.body_inertia[i]) @ axes.T
        assert ours.body_mass.numpy()[k] == pytest.approx(model.body_mass[i], rel=1e-6)
        assert ours.body_com.numpy()[k] == pytest.approx(model.body_ipos[i], abs=1e-7)
        assert ours.body_inertia.numpy()[k] == pytest.approx(inertia, abs=1e-6 * np.abs(inertia).max() + 1e-9)


def test_limits_count_from_the_pose_of_the_file(tmp_path):
    ours = simulated(robot(tmp_path), tmp_path)
    dof = ours.joint_qd_start.numpy()[short(ours.joint_label).index("hip")]
    limits = ours.joint_limit_lower.numpy()[dof], ours.joint_limit_upper.numpy()[dof]
    assert limits == pytest.approx(
        (-0.7, 1.0), abs=1e-6
    ), "-0.5 and 1.2, less the 0.2 that MuJoCo calls this pose"
    assert ours.joint_armature.numpy()[dof] == pytest.approx(0.02)
    assert ours.joint_friction.numpy()[dof] == pytest.approx(0.1)


def test_shapes_keep_their_contact_parameters_and_what_is_only_seen_touches_nothing(tmp_path):
    stage = make_usd_stage(robot(tmp_path))
    rod = stage.GetPrimAtPath("/robot/upper_leg/rod")
    found = {name: rod.GetAttribute(f"mjc:{name}").Get() for name in ("condim", "priority", "solmix")}
    assert found == {"condim": 4, "priority": 2, "solmix": 3.0}
    assert tuple(rod.GetAttribute("mjc:solref").Get()) == (0.01, 0.9)
    material = (
        stage.GetPrimAtPath("/robot/trunk/box").GetRelationship("material:binding:physics").GetTargets()[0]
    )
    assert stage.GetPrimAtPath(material).GetAttribute("physics:dynamicFriction").Get() == pytest.approx(0.7)
    touching = {p.GetName() for p in stage.Traverse() if p.HasAPI(UsdPhysics.CollisionAPI)}
    assert touching == {"box", "rod", "wedge"}, "neither the floor nor the cylinder"
    wedge = UsdGeom.Mesh(stage.GetPrimAtPath("/robot/foot/wedge"))
    assert len(wedge.GetPointsAttr().Get()) == 4 and len(wedge.GetFaceVertexCountsAttr().Get()) == 4
    pairs = UsdPhysics.FilteredPairsAPI(stage.GetPrimAtPath("/robot/trunk")).GetFilteredPairsRel()
    assert [str(target) for target in pairs.GetTargets()] == ["/robot/foot"]


def test_shapes_of_a_robot_touch_each_other_where_their_masks_let_them(tmp_path):
    masks = ("contype='1' conaffinity='0'", "contype='1' conaffinity='0'", "contype='2' conaffinity='1'")
    links = "".join(
        f"<body name='link{i}' pos='0 {i} 0'><joint name='hinge{i}'/><geom name='shape{i}' size='0.1' {mask}/></body>"
        for i, mask in enumerate(masks)
    )
    model = robot(
        tmp_path,
        f"<mujoco><worldbody><body name='base'><freejoint/><inertial pos='0 0 0' mass='1' diaginertia='1 1 1'/>{links}"
        "</body></worldbody></mujoco>",
    )
    ours = simulated(model, tmp_path)
    labels = short(ours.shape_label)
    found = {tuple(sorted(labels[i] for i in pair)) for pair in ours.shape_contact_pairs.numpy()}
    assert found == {("shape0", "shape2"), ("shape1", "shape2")}


def test_bodies_without_a_name_have_joints_of_different_names(tmp_path):
    foot = '<body pos="0.1 0 0"><geom type="sphere" size="0.05"/></body>'
    text = f'<mujoco><worldbody><body name="trunk"><freejoint/><geom size="0.1"/>{foot}{foot}</body></worldbody></mujoco>'
    stage = make_usd_stage(robot(tmp_path, text))
    joints = [prim.GetName() for prim in stage.GetPrimAtPath("/robot/joints").GetChildren()]
    assert joints == ["body_2_fixed", "body_3_fixed"]


def test_root_is_free_where_the_file_says_so_and_fixed_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKY_RL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "robot.xml").write_text(ROBOT)
    free, fixed = robot_spawn(tmp_path / "robot.xml"), robot_spawn(ARM)
    assert (free.fix_root_link, fixed.fix_root_link) == (None, True)
    assert robot_spawn(ARM, fix_root_link=False).fix_root_link is False
    assert robot_spawn("any.usd", activate_contact_sensors=True).usd_path == "any.usd"
    stage = Usd.Stage.Open(free.usd_path)
    assert stage.GetDefaultPrim().GetName() == "robot"
    assert free.usd_path != fixed.usd_path and robot_spawn(ARM).usd_path == fixed.usd_path
    assert not [path for path in (tmp_path / "cache" / "robots").iterdir() if path.suffix != ".usdc"]


def test_robot_whose_first_joint_holds_it_to_the_world_hangs_on_a_body_for_that(tmp_path):
    slider = ROBOT.replace("<freejoint/>", '<joint name="rail" type="slide" axis="1 0 0"/>')
    stage = make_usd_stage(robot(tmp_path, slider))
    rail = UsdPhysics.PrismaticJoint(stage.GetPrimAtPath("/robot/joints/rail"))
    assert [str(path) for path in rail.GetBody0Rel().GetTargets()] == ["/robot/world"]
    assert stage.GetPrimAtPath("/robot/world").HasAPI(UsdPhysics.ArticulationRootAPI)


HIP = '<joint name="hip" axis="1 2 -1"'
REFUSED = {
    "two joints": (ROBOT.replace(HIP, f'<joint name="twist" axis="0 0 1"/>{HIP}'), ["several joints of the body 'upper leg'"]),
    "ball": (ROBOT.replace(HIP, '<joint name="hip" type="ball"/><!--').replace('frictionloss="0.1"/>', "-->"), ["the ball joint 'hip'"]),
    "two roots": (ROBOT.replace("</worldbody>", '<body name="other"><geom size="0.1"/></body></worldbody>'), ["2 roots", "trunk, other"]),
    "no body": ("<mujoco><worldbody/></mujoco>", ["0 roots", "no body"]),
    "equality": (ROBOT.replace("</mujoco>", '<equality><joint joint1="push"/></equality></mujoco>'), ["equality constraints"]),
    "no xml": ("<mujoco><worldbody>", ["MuJoCo cannot read"]),
    "unknown": (ROBOT.replace("condim", "condym"), ["MuJoCo cannot read", "condym"]),
    "ellipsoid": (ROBOT.replace('type="box"', 'type="ellipsoid"'), ["the geom 'box'", "no sphere, capsule"]),
    "one name": (ROBOT.replace('name="foot"', 'name="upper_leg"').replace('"foot"', '"upper_leg"'), ["both 'upper_leg'"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_robot_that_is_not_supported_is_refused_in_one_line(tmp_path, case):
    text, words = REFUSED[case]
    with pytest.raises(AssetError) as refused:
        make_usd_stage(robot(tmp_path, text))
    said = str(refused.value)
    assert said.startswith("robot: ") and "\n" not in said
    for word in words:
        assert word in said


def test_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(AssetError, match="nowhere.urdf is no file"):
        robot_spawn(tmp_path / "nowhere.urdf")
    with pytest.raises(
        AssetError, match=r"robot.sdf is no file of a kind that can be read: .xml \(MJCF\), .urdf, .usd"
    ):
        robot_spawn("robot.sdf")
