"""Worlds stepped by MuJoCo's C library are those that MuJoCo-Warp steps: every kind of joint, constraint, actuator and shape."""

import re

import numpy as np
import pytest

mujoco = pytest.importorskip("mujoco", reason="the isaaclab extra is not installed")
mujoco_warp = pytest.importorskip("mujoco_warp", reason="the isaaclab extra is not installed")

from isaaclab_mujoco import parameters
from isaaclab_mujoco import worlds as native

WORLDS, STEPS, SEED = 4, 5, 0
STATES = ("qpos", "qvel", "act", "qacc_warmstart")
CLOSE = {"qpos": 2e-6, "qvel": 2e-4}
"""Of one step; numbers near one, in float32 and float64."""
COARSE = {
    "a cylinder on the floor": 20.0,
    "two capsules that touch": 10.0,
    "two capsules that touch, elliptic cones": 10.0,
}
"""How much more: a cylinder's depth is found otherwise and differs by up to 3e-5 m; of capsules it differs by 1e-7 m, float32's
own rounding, which turns thin ones about their axes by 1e-3 rad/s."""

BALL = '<geom type="sphere" size=".1" mass="1"/>'
LIMB = '<geom type="capsule" size=".04" fromto="0 0 0 .4 0 0" density="500"/>'
FLOOR = '<geom type="plane" size="5 5 .1" friction=".8"/>'
FREE = '<freejoint/><geom type="{0}" size="{1}" density="300" condim="{2}"/>'
PENDULUM = f'<body pos="0 0 2"><joint name="a" axis="0 1 0" damping=".1" range="-1 1" limited="true"/>{LIMB}<body pos=".4 0 0"><joint name="b" axis="0 0 1" stiffness="2" frictionloss=".05" armature=".01"/>{LIMB}<site name="tip" pos=".4 0 0"/></body></body>'


def free(kind, size, condim=3, height=0.15):
    return FLOOR + f'<body pos="0 0 {height}">{FREE.format(kind, size, condim)}</body>'


MODELS = {
    "hinges with limits, springs, friction and armature": PENDULUM,
    "a sphere on the floor": free("sphere", ".15"),
    "a capsule that slides, turns and rolls": free("capsule", ".1 .2", 6, 0.12),
    "a box on the floor": free("box", ".1 .12 .15", 4),
    "a cylinder on the floor": free("cylinder", ".1 .15", 1),
    "an ellipsoid on the floor": free("ellipsoid", ".1 .12 .15"),
    "a ball joint": f'<body pos="0 0 1"><joint type="ball" damping=".2" range="0 .6" limited="true"/>{LIMB}</body>',
    "a slider": f'<body pos="0 0 1"><joint type="slide" axis="1 0 1" range="-.2 .2" limited="true"/>{BALL}</body>',
    "two capsules that touch": FLOOR
    + "".join(f'<body pos="0 0 {z}" euler="0 90 {turn}">{FREE.format("capsule", ".1 .3", 3)}</body>' for z, turn in ((0.1, 0), (0.298, 80))),
    "gravity compensation": PENDULUM.replace('<body pos="0 0 2">', '<body pos="0 0 2" gravcomp="0.7">'),
    "a body that is moved from outside": '<body mocap="true" pos="0 0 1"><geom type="box" size=".3 .3 .05"/></body>' + f'<body pos="0 0 1.14">{FREE.format("sphere", ".1", 3)}</body>',
}  # fmt: skip
ADDED = {
    "motors": '<actuator><motor joint="a" gear="3"/><motor joint="b" ctrlrange="-.5 .5" ctrllimited="true"/></actuator>',
    "servos": '<actuator><position joint="a" kp="20" kv="1"/><velocity joint="b" kv="2" forcerange="-1 1"/></actuator>',
    "activations": '<actuator><general joint="a" dyntype="integrator" gainprm="3"/><general joint="b" dyntype="filter" dynprm=".1" gainprm="2" biastype="affine" biasprm="0 -1 -.1"/></actuator>',
    "a tendon": '<tendon><fixed name="t" stiffness="5" damping=".3" range="-.2 .2" limited="true" frictionloss=".1" armature=".01"><joint joint="a" coef="1"/><joint joint="b" coef="-.7"/></fixed></tendon><actuator><motor tendon="t" gear="2"/></actuator>',
    "a joint equality": '<equality><joint joint1="a" joint2="b" polycoef="0 .5 0 0 0"/></equality>',
    "a connected point": '<equality><connect site1="tip" site2="anchor"/></equality>',
    "wind and air": '<option density="1.2" viscosity=".1" wind="2 0 0"/>',
    "Euler's integrator": '<option integrator="Euler"/>',
    "Runge and Kutta's integrator": '<option integrator="RK4"/>',
    "the full implicit integrator": '<option integrator="implicit"/>',
    "conjugate gradients": '<option solver="CG" iterations="50"/>',
}  # fmt: skip
"""To the pendulum."""
CASES = {name: (body, "") for name, body in MODELS.items()}
CASES |= {name: (PENDULUM + '<site name="anchor" pos=".75 0 1.9"/>', more) for name, more in ADDED.items()}
CASES |= {
    f"{name}, elliptic cones": (MODELS[name], '<option cone="elliptic" impratio="10"/>')
    for name in ("a sphere on the floor", "two capsules that touch")
}


def compiled(case):
    body, more = CASES[case]
    text = f'<mujoco><option timestep=".004" integrator="implicitfast" iterations="100" tolerance="1e-9"/>{more}<worldbody>{body}</worldbody></mujoco>'
    return mujoco.MjModel.from_xml_string(text)


class Both:
    """The same worlds in MuJoCo-Warp's arrays, to be stepped by either library."""

    def __init__(self, model, threads=1, count=WORLDS):
        self.model, self.start = model, mujoco.MjData(model)
        mujoco.mj_forward(model, self.start)
        self.warp_model = mujoco_warp.put_model(model)
        self.data = mujoco_warp.put_data(model, self.start, nworld=count, nconmax=32, njmax=128)
        draw = np.random.default_rng(SEED)
        self.write(
            {
                "qvel": draw.normal(0.0, 0.3, (count, model.nv)),
                "ctrl": draw.normal(0.0, 0.5, (count, model.nu)),
            }
        )
        self.write({"qfrc_applied": draw.normal(0.0, 0.05, (count, model.nv))})
        self.worlds = native.Worlds(model, self.data, threads)
        for each in self.worlds.models:
            each.opt.timestep = model.opt.timestep
        parameters.update_models(self.worlds, self.warp_model, model)
        self.worlds.configure_step(wrenches=True, report=True, given_contacts=False)

    def read(self, *names):
        return {name: getattr(self.data, name).numpy().copy() for name in names}

    def write(self, values):
        for name, value in values.items():
            getattr(self.data, name).numpy()[...] = value

    def touching(self):
        """How many contacts push in each world."""
        contact, number = self.data.contact, int(self.data.nacon.numpy()[0])
        pushing = contact.efc_address.numpy()[:number, 0] >= 0
        return np.bincount(contact.worldid.numpy()[:number][pushing], minlength=self.data.nworld)

    def native(self):
        self.worlds.step()

    def warp(self):
        mujoco_warp.step(self.warp_model, self.data)


SLOW = ("an ellipsoid on the floor", "a body that is moved from outside", "conjugate gradients")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in CASES]
)
def test_a_native_step_is_mujoco_warps_step(case):
    both = Both(compiled(case))
    start, other = both.read("qpos"), 0
    for _ in range(STEPS):
        before = both.read(*STATES)
        both.native()
        ours, touching = both.read(*STATES), both.touching()
        both.write(before)
        both.warp()
        theirs = both.read(*STATES)
        same = touching == both.touching()
        other += int((~same).sum())
        for name, close in CLOSE.items():
            apart = np.abs(ours[name] - theirs[name])[same].max()
            assert apart <= COARSE.get(case, 1.0) * close * max(1.0, np.abs(theirs[name]).max()), (
                name,
                apart,
            )
        both.write(ours)
    assert other <= 2, "of 20; contacts at exactly the distance where they begin to push"
    moved = np.abs(both.read("qpos")["qpos"] - start["qpos"]).max()
    assert moved > 1e-4, "nothing happened"


def stepped(threads, count=37, steps=20, model=None, searches=False):
    both = Both(model or compiled("two capsules that touch"), threads, count)
    both.worlds.batch.searches = searches
    for _ in range(steps):
        both.native()
    contact = both.data.contact
    found = both.read(*STATES, "qacc", "cfrc_int", "nacon", "nefc")
    number = int(found["nacon"][0])
    for name in ("pos", "frame", "dist", "worldid", "geom", "efc_address"):
        found[f"contact {name}"] = getattr(contact, name).numpy()[:number].copy()
    found["force"] = both.data.efc.force.numpy() * (np.arange(128) < found["nefc"][:, None])
    return found


def test_results_and_the_order_of_contacts_do_not_depend_on_the_number_of_threads():
    one, four, again = stepped(1), stepped(4), stepped(4)
    assert (np.diff(one["contact worldid"]) >= 0).all() and len(one["contact worldid"]) > 37
    for name, value in one.items():
        assert value.tobytes() == four[name].tobytes() == again[name].tobytes(), name


HEAP = "".join(
    f'<body pos="{0.12 * i} {0.05 * i} {height}" euler="{40 * i} 30 0"><freejoint/>'
    f'<geom type="capsule" size=".1 .1" {options}/><geom type="{kind}" size=".1 .12 .09" pos=".15 0 .05" {options}/></body>'
    for i, (kind, height, options) in enumerate(
        (
            ("sphere", 0.1, 'friction=".9 .02 .003" solmix="2" margin=".01" solref=".03 1"'),
            ("box", 0.2, 'priority="1" condim="6" friction=".3 .01 .001" solimp=".8 .9 .01"'),
            ("sphere", 0.3, 'condim="4" gap=".005" margin=".02" solref="-500 -20"'),
            ("box", 0.4, 'solmix="0" condim="1"'),
        )
    )
)
"""Bodies of two shapes each that touch each other and the floor, with every kind of surface."""
TOUCHING = {name: CASES[name][0] for name in CASES if "floor" in name or "outside" in name} | {
    "heap": FLOOR + HEAP
}


@pytest.mark.parametrize("case", TOUCHING)
def test_contacts_of_simple_shapes_are_those_that_mujoco_finds(case):
    model = mujoco.MjModel.from_xml_string(
        f'<mujoco><option><flag multiccd="disable"/></option><worldbody>{TOUCHING[case]}</worldbody></mujoco>'
    )
    ours, theirs = stepped(1, 5, model=model), stepped(1, 5, model=model, searches=True)
    assert len(theirs["contact dist"]) >= (30 if case == "heap" else 1)
    for name, value in theirs.items():
        assert value.tobytes() == ours[name].tobytes(), name


def test_frames_that_mujoco_copies_change_no_bit():
    body = '<body pos="0 0 1"><joint axis="1 1 0"/><geom type="box" size=".1 .2 .3"/><geom type="box" size=".1 .2 .1" pos=".1 0 0" euler="0 0 30"/></body>'
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{FLOOR + body}</worldbody></mujoco>")
    shared, apart = Both(model), Both(model)
    names = ("body_sameframe", "geom_sameframe", "site_sameframe")
    assert any(getattr(shared.worlds.models[0], name)[1:].any() for name in names)
    for name in names:
        getattr(apart.worlds.models[0], name)[:] = 0
    for _ in range(5):
        shared.native()
        apart.native()
    for name, value in shared.read(*STATES, "cfrc_int").items():
        assert value.tobytes() == apart.read(name)[name].tobytes(), name


def test_a_world_that_is_no_number_is_alone_and_comes_back():
    whole, broken = (Both(compiled("two capsules that touch"), 2) for _ in range(2))
    broken.data.qvel.numpy()[1, 0] = np.nan
    for _ in range(3):
        whole.native()
        broken.native()
    others = [0, 2, 3]
    ours, theirs = broken.read("qpos", "qvel"), whole.read("qpos", "qvel")
    assert not np.isfinite(ours["qpos"][1]).all()
    for name, value in ours.items():
        assert value[others].tobytes() == theirs[name][others].tobytes()
    for name in STATES:
        getattr(broken.data, name).numpy()[1] = getattr(whole.data, name).numpy()[1]
    whole.native()
    broken.native()
    assert broken.read("qpos")["qpos"].tobytes() == whole.read("qpos")["qpos"].tobytes()


def test_a_step_that_mujoco_breaks_off_names_the_world_and_leaves_the_process_alive(caplog):
    both = Both(compiled("two capsules that touch"), threads=2)
    for model in both.worlds.models:
        model.opt.solver = 9
    before = both.read(*STATES)
    both.native()
    (record,) = caplog.records
    assert re.search("broke off the step of world 0: .*solver", record.getMessage())
    assert np.isnan(both.read("qpos")["qpos"]).all()
    for model in both.worlds.models:
        model.opt.solver = both.model.opt.solver
    both.write(before)
    both.native()
    assert np.isfinite(both.read("qpos")["qpos"]).all()


def test_a_box_on_a_box_rests_where_mujoco_warp_lets_it_rest():
    """Corner by corner here, by one depth for the whole face there: the steps differ, the rest does not."""
    body = FLOOR + "".join(
        f'<body pos="0 0 {z}">{FREE.format("box", ".1 .1 .1", 3)}</body>' for z in (0.1, 0.305)
    )
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{body}</worldbody></mujoco>")
    heights = []
    for step in (Both.native, Both.warp):
        both = Both(model, count=1)
        both.write({"qvel": 0.0, "qfrc_applied": 0.0})
        for _ in range(150):
            step(both)
        heights.append(both.read("qpos")["qpos"][0, [2, 9]])
    np.testing.assert_allclose(*heights, atol=1e-4)
    np.testing.assert_allclose(heights[0], [0.1, 0.3], atol=2e-3)


@pytest.mark.parametrize("report", [True, False], ids=["reported", "not reported"])
@pytest.mark.parametrize("option", ["njmax", "nconmax"])
@pytest.mark.parametrize("missing", [0, 1])
def test_arrays_that_are_too_small_for_mujoco_warp_are_told_once_with_what_is_enough(
    option, missing, report, caplog
):
    ample, both = (Both(compiled("two capsules that touch")) for _ in range(2))
    ample.native()
    found = int(ample.data.nacon.numpy()[0])
    needed = {"njmax": int(ample.data.nefc.numpy().max()), "nconmax": -(-found // WORLDS)}[option]
    room = needed - missing
    if option == "njmax":
        both.data.njmax = room
    else:
        both.worlds.batch.contacts.capacity = room * WORLDS
    both.worlds.configure_step(wrenches=False, report=report, given_contacts=False)
    both.native()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == missing
    for line in said:
        path = f"env.sim.physics.solver_cfg.{option}"
        assert f"{path}={room} is too small" in line and f"{path}={needed} is enough" in line
    if report and option == "nconmax":
        assert int(both.data.nacon.numpy()[0]) == min(found, room * WORLDS)
    both.native()
    assert len(caplog.records) <= 1


def test_a_model_that_differs_between_worlds_is_stepped_with_each_worlds_own():
    model = compiled("hinges with limits, springs, friction and armature")
    both = Both(model)
    masses = np.repeat(both.warp_model.body_mass.numpy(), WORLDS, 0) * np.array(
        [[1.0], [2.0], [0.5], [1.0]], np.float32
    )
    import warp

    both.warp_model.body_mass = warp.array(masses, dtype=float)
    parameters.update_models(both.worlds, both.warp_model, model)
    both.write({"qvel": 0.3, "qfrc_applied": 0.1})
    before = both.read(*STATES)
    both.native()
    ours = both.read("qvel")["qvel"]
    both.write(before)
    both.warp()
    np.testing.assert_allclose(ours, both.read("qvel")["qvel"], atol=2e-5)
    assert ours[0].tobytes() == ours[3].tobytes()
    assert np.abs(ours[0] - ours[1]).max() > 1e-4
