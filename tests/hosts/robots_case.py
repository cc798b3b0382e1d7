"""Physics probes of a task's robot: ``python -m tests.hosts.robots_case TASK PHYSICS``; prints what it found as one line of JSON.

A module of its own because a process holds one simulation; all probes of a robot share it.
"""

import json
import re
import sys

import mujoco
import numpy as np
import torch

from spiky_rl.hosts.base import SimulationOptions
from spiky_rl.hosts.isaaclab import physics_selection as selection
from spiky_rl.hosts.isaaclab.assets import configure_assets, get_newton_folder
from spiky_rl.hosts.isaaclab.condition_groups import share_env_origin
from spiky_rl.hosts.isaaclab.conditions.body import find_robot
from spiky_rl.hosts.isaaclab.environment import IsaacLabVecEnv, load_configs, open_simulation, resolve_task
from spiky_rl.hosts.isaaclab.local_assets import load_mjcf_model

ENVS, SEED = 4, 1
STARTS = 64
"""Resets as the task makes them, after which its robots are looked at before they move."""
SETTLE, REST = 200, 60
"""Control steps until a fallen robot lies still, and those over which the contact forces are averaged."""
ABOVE = 0.2
"""Metres that a robot is dropped from, for a reset alone may leave a foot in the ground, which pushes it out again."""
MIRRORED = 20
"""Control steps of random actions after which a robot and its mirror image are compared."""
FLIP = np.diag([1.0, -1.0, 1.0])
"""Left becomes right."""
ROUND = (int(mujoco.mjtGeom.mjGEOM_SPHERE), int(mujoco.mjtGeom.mjGEOM_CAPSULE))


def endless(cfg):
    """Nobody is put back, so that a robot can lie on the ground; the height below which it would have been."""
    height, cfg.episode_length_s = getattr(cfg, "termination_height", None), 1e6
    for name in ("torso_height", "cart_out_of_bounds"):
        if (term := getattr(getattr(cfg, "terminations", None), name, None)) is not None:
            height = term.params.get("minimum_height")
            setattr(cfg.terminations, name, None)
    for name, value in (("termination_height", -1e3), ("max_cart_pos", 1e3)):
        if hasattr(cfg, name):
            setattr(cfg, name, value)
    return height


class Body:
    """A compiled model at rest in its zero configuration, everything in one frame: the torso's, or the world's if it is fixed."""

    def __init__(self, model):
        self.model, self.data = model, mujoco.MjData(model)
        self.data.qpos[:] = 0.0
        if model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE:
            self.data.qpos[3] = 1.0
        mujoco.mj_kinematics(model, self.data)
        self.bodies = [self.short(model.body(i).name) for i in range(model.nbody)]
        self.geoms = [re.sub(r"_\d+$", "", model.geom(i).name.rpartition("/")[2]) for i in range(model.ngeom)]
        if not any("/" in model.geom(i).name for i in range(model.ngeom)):
            self.geoms = [model.geom(i).name for i in range(model.ngeom)]
        self.hinges = range(int(model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE), model.njnt)

    @staticmethod
    def short(name):
        return name.rpartition("Robot_")[2]

    def masses(self):
        """Of every body with what is fixed to it: mass, centre of mass and inertia about that, all in one frame."""
        found, model = {}, self.model
        for root in sorted(set(model.body_weldid[1:])):
            parts = [i for i in range(1, model.nbody) if model.body_weldid[i] == root]
            mass = sum(model.body_mass[i] for i in parts)
            places = {
                i: self.data.xpos[i] + self.data.xmat[i].reshape(3, 3) @ model.body_ipos[i] for i in parts
            }
            centre = sum(model.body_mass[i] * places[i] for i in parts) / (mass or 1.0)
            inertia = np.zeros((3, 3))
            for i in parts:
                turn = np.zeros(9)
                mujoco.mju_quat2Mat(turn, model.body_iquat[i])
                turn = self.data.xmat[i].reshape(3, 3) @ turn.reshape(3, 3)
                away = places[i] - centre
                inertia += turn @ np.diag(model.body_inertia[i]) @ turn.T
                inertia += model.body_mass[i] * (away @ away * np.eye(3) - np.outer(away, away))
            found[self.bodies[root]] = (mass, centre, inertia)
        return found

    def joint(self, i):
        """Body, kind, axis, anchor and range of a joint."""
        mujoco.mj_kinematics(self.model, self.data)
        return (
            self.bodies[self.model.jnt_bodyid[i]],
            int(self.model.jnt_type[i]),
            self.data.xaxis[i].copy(),
            self.data.xanchor[i].copy(),
            self.model.jnt_range[i].copy(),
        )

    def segment(self, i):
        """A geom's radius, and the two ends of its axis in one order or the other."""
        half = self.model.geom_size[i][1] if self.model.geom_type[i] == mujoco.mjtGeom.mjGEOM_CAPSULE else 0.0
        ends = [
            self.data.geom_xpos[i] + s * half * self.data.geom_xmat[i].reshape(3, 3)[:, 2] for s in (1, -1)
        ]
        return self.model.geom_size[i][0], sorted(ends, key=lambda end: tuple(np.round(end, 5)))

    def pairs(self):
        """The geoms that may touch each other, by MuJoCo's rules."""
        model, found = self.model, set()
        excluded = set(model.exclude_signature.tolist())
        for a in range(model.ngeom):
            for b in range(a):
                if not (
                    model.geom_contype[a] & model.geom_conaffinity[b]
                    or model.geom_contype[b] & model.geom_conaffinity[a]
                ):
                    continue
                one, two = sorted((model.geom_bodyid[a], model.geom_bodyid[b]))
                welds = model.body_weldid[one], model.body_weldid[two]
                parents = [model.body_weldid[model.body_parentid[weld]] for weld in welds]
                if welds[0] == welds[1] or (int(one) << 16) + int(two) in excluded:
                    continue
                if 0 not in welds and (parents[0] == welds[1] or parents[1] == welds[0]):
                    continue
                found.add(
                    tuple(sorted("ground" if model.geom_bodyid[g] == 0 else self.geoms[g] for g in (a, b)))
                )
        return found


def beside(ours, theirs):
    """The largest difference between two models of a robot, by what is compared."""
    found = {}

    def put(name, one, two):
        difference = float(np.abs(np.asarray(one, float) - np.asarray(two, float)).max())
        found[name] = max(found.get(name, 0.0), difference)

    one, two = ours.masses(), theirs.masses()
    assert one.keys() == two.keys(), (sorted(one), sorted(two))
    for body in two:
        for name, a, b in zip(("mass", "centre of mass", "inertia"), one[body], two[body], strict=True):
            put(name, a, b)
    for j in theirs.hinges:
        body, kind, axis, anchor, limits = theirs.joint(j)
        there = [i for i in ours.hinges if ours.joint(i)[0] == body]
        i = max(there, key=lambda k: axis @ ours.joint(k)[2])
        assert ours.joint(i)[1] == kind
        put("joint axis", ours.joint(i)[2], axis)
        put("joint anchor", ours.joint(i)[3], anchor)
        put("joint range", ours.joint(i)[4], limits)
        put("limit solref", ours.model.jnt_solref[i], theirs.model.jnt_solref[j])
        put("limit solimp", ours.model.jnt_solimp[i], theirs.model.jnt_solimp[j])
        a, b = ours.model.jnt_dofadr[i], theirs.model.jnt_dofadr[j]
        put("armature", ours.model.dof_armature[a], theirs.model.dof_armature[b])
        drives = [k for k in range(ours.model.nu) if ours.model.actuator_trnid[k][0] == i]
        stiffness = -sum(ours.model.actuator_biasprm[k][1] for k in drives) + ours.model.jnt_stiffness[i]
        damping = -sum(ours.model.actuator_biasprm[k][2] for k in drives) + ours.model.dof_damping[a]
        put("joint stiffness", stiffness, theirs.model.jnt_stiffness[j])
        put("joint damping", damping, theirs.model.dof_damping[b])
        put("friction loss", ours.model.dof_frictionloss[a], theirs.model.dof_frictionloss[b])
    grounds = [next(g for g in range(m.model.ngeom) if m.model.geom_bodyid[g] == 0) for m in (ours, theirs)]
    for g in range(theirs.model.ngeom):
        if theirs.model.geom_bodyid[g] == 0:
            continue
        h = ours.geoms.index(theirs.geoms[g])
        for name, a, b in zip(("radius", "ends"), ours.segment(h), theirs.segment(g), strict=True):
            put(f"geom {name}", a, b)
        for name in ("friction", "condim", "solref", "solimp", "margin", "gap", "priority"):
            a, b = (getattr(m.model, f"geom_{name}") for m in (ours, theirs))
            put(f"geom {name}", a[h], b[g])
        friction = [np.maximum(m.model.geom_friction[k], m.model.geom_friction[f]) for m, k, f in
                    ((ours, h, grounds[0]), (theirs, g, grounds[1]))]  # fmt: skip
        put("friction on the ground", *friction)
    found["contact pairs"] = float(len(ours.pairs() ^ theirs.pairs()))
    found["contact pairs with the ground"] = float(
        len({p for p in ours.pairs() ^ theirs.pairs() if "ground" in p})
    )
    return found


def mirror(body):
    """For every joint the one opposite and the sign that mirrors it; and how far bodies and joints are from mirror images."""
    masses, worst = body.masses(), {"mass": 0.0, "inertia": 0.0, "place": 0.0, "range": 0.0, "drive": 0.0}
    opposite = {}
    for name, (mass, centre, inertia) in masses.items():
        other = min(
            masses, key=lambda o: np.abs(FLIP @ centre - masses[o][1]).sum() + abs(mass - masses[o][0])
        )
        opposite[name] = other
        worst["place"] = max(worst["place"], float(np.abs(FLIP @ centre - masses[other][1]).max()))
        worst["mass"] = max(worst["mass"], abs(mass - masses[other][0]) / (mass or 1.0))
        worst["inertia"] = max(
            worst["inertia"], float(np.abs(FLIP @ inertia @ FLIP - masses[other][2]).max())
        )
    partners = {}
    for i in body.hinges:
        name, kind, axis, _, limits = body.joint(i)
        image = FLIP @ axis if kind == mujoco.mjtJoint.mjJNT_SLIDE else -FLIP @ axis
        there = [j for j in body.hinges if body.joint(j)[0] == opposite[name]]
        j = max(there, key=lambda k: abs(image @ body.joint(k)[2]))
        sign = float(np.sign(image @ body.joint(j)[2]))
        assert abs(image @ body.joint(j)[2]) > 0.999
        other = body.joint(j)[4] if sign > 0 else -body.joint(j)[4][::-1]
        if body.model.jnt_limited[i]:
            worst["range"] = max(worst["range"], float(np.abs(limits - other).max()))
        drives = [[body.model.actuator_biasprm[k] for k in range(body.model.nu) if body.model.actuator_trnid[k][0] == t]
                  for t in (i, j)]  # fmt: skip
        worst["drive"] = max(worst["drive"], float(np.abs(np.sum(drives[0], 0) - np.sum(drives[1], 0)).max()))
        partners[i] = (j, sign)
    return partners, worst


class Simulation:
    """What the running solver says of its worlds."""

    def __init__(self, env):
        solver = env.unwrapped.sim.physics_manager._solver  # pylint: disable=protected-access
        self.body, self.worlds = Body(solver.mj_model), solver.mjw_data
        self.model, self.data = solver.mj_model, mujoco.MjData(solver.mj_model)
        self.robot, self.env = find_robot(env.unwrapped)[1], env.unwrapped

    def lifted(self):
        """The sum of the contact forces upwards, in newtons, per world."""
        sensors = self.env.scene.sensors
        name = "touched" if "touched" in sensors else "contact_forces"  # the Go1's own
        return sensors[name].data.net_forces_w.torch[..., 2].sum(1).numpy()

    def places(self):
        """MuJoCo's coordinates of a floating robot, [worlds, coordinates], from Isaac Lab's: a reset changes those at once."""
        data = self.robot.data
        pose, angles = data.root_link_pose_w.torch.numpy(), data.joint_pos.torch.numpy()
        found = np.zeros((len(pose), self.model.nq))
        found[:, :3], found[:, 3:7] = pose[:, :3], pose[:, [6, 3, 4, 5]]
        found[:, self.model.jnt_qposadr[self.joints()]] = angles
        return found

    def lowest(self, qpos=None):
        """The lowest point of the robot's spheres and capsules at ``qpos`` [worlds, coordinates], now if it is None, per world."""
        rounds = [
            i for i in range(self.model.ngeom)
            if self.model.geom_bodyid[i] and self.model.geom_type[i] in ROUND
        ]  # fmt: skip
        radius, half = self.model.geom_size[rounds, 0], self.model.geom_size[rounds, 1]
        half = half * (self.model.geom_type[rounds] == mujoco.mjtGeom.mjGEOM_CAPSULE)
        low = []
        for row in self.worlds.qpos.numpy() if qpos is None else qpos:
            self.data.qpos[:] = row
            mujoco.mj_kinematics(self.model, self.data)
            upright = np.abs(self.data.geom_xmat[rounds, 8])
            low.append(np.min(self.data.geom_xpos[rounds, 2] - upright * half - radius))
        return np.array(low)

    def energy(self):
        """Kinetic, potential and in the joints' springs, in joules, per world."""
        found = []
        for qpos, qvel in zip(self.worlds.qpos.numpy(), self.worlds.qvel.numpy(), strict=True):
            self.data.qpos[:], self.data.qvel[:] = qpos, qvel
            mujoco.mj_fwdPosition(self.model, self.data)
            mujoco.mj_fwdVelocity(self.model, self.data)
            mujoco.mj_energyPos(self.model, self.data)
            mujoco.mj_energyVel(self.model, self.data)
            springs = sum(
                -0.5 * self.model.actuator_biasprm[k][1] * qpos[self.model.jnt_qposadr[joint]] ** 2
                for k, (joint, _) in enumerate(self.model.actuator_trnid)
            )
            found.append(self.data.energy.sum() + springs)
        return np.array(found)

    def joints(self):
        """MuJoCo's number of every joint of Isaac Lab's, in its order."""
        names = [self.model.joint(i).name for i in range(self.model.njnt)]
        return [
            next(i for i, name in enumerate(names) if name.endswith("_" + joint.replace(":", "_ang")))
            for joint in self.robot.joint_names
        ]


def reflect(env, sim, partners):
    """Put the second half of the worlds where the first half's mirror images are; the order and signs of mirrored joints."""
    numbers = sim.joints()
    order = [numbers.index(partners[i][0]) for i in numbers]
    signs = torch.tensor([partners[i][1] for i in numbers])
    back = torch.empty(len(order), dtype=torch.long)
    # joint k of the image is joint back[k] of the original
    back[torch.tensor(order)] = torch.arange(len(order))
    half, data = env.num_envs // 2, sim.robot.data
    place, speed = data.joint_pos.torch.clone(), data.joint_vel.torch.clone()
    for values in (place, speed):
        values[half:] = (values[:half] * signs)[:, back]
    sim.robot.write_joint_state_to_sim_index(position=place, velocity=speed)
    if not sim.robot.is_fixed_base:
        pose, motion = data.root_link_pose_w.torch.clone(), data.root_com_vel_w.torch.clone()
        pose[half:] = pose[:half] * torch.tensor([1, -1, 1, -1, 1, -1, 1.0])
        motion[half:] = motion[:half] * torch.tensor([1, -1, 1, -1, 1, -1.0])
        sim.robot.write_root_link_pose_to_sim_index(root_pose=pose)
        sim.robot.write_root_com_velocity_to_sim_index(root_velocity=motion)
    return back, signs


def mirrored(env, sim, partners, walker=True):
    """How far a robot and its mirror image are apart after the same random actions, mirrored, and how far they have moved."""
    env.reset()
    back, signs = reflect(env, sim, partners)
    generator, half, apart = torch.Generator().manual_seed(SEED), ENVS // 2, []
    for _ in range(MIRRORED):
        actions = torch.zeros(ENVS, env.num_actions)
        actions[:half] = torch.rand(half, env.num_actions, generator=generator) * 2 - 1
        image = actions[:half] * signs[: env.num_actions]  # the cartpole acts on its first joint alone
        actions[half:] = image[:, back] if walker else image
        env.step(actions)
        place = sim.robot.data.joint_pos.torch
        apart.append(float((place[half:] - (place[:half] * signs)[:, back]).abs().max()))
    return max(apart), float((place - sim.robot.data.default_joint_pos.torch).abs().max())


def starts(env, sim):
    """How high the lowest point of a robot is in the states that the task resets it to: the lowest of all, and the share below 0."""
    low = []
    for _ in range(STARTS):
        env.reset()
        low.append(sim.lowest(sim.places()))
    low = np.concatenate(low)
    return {"count": len(low), "lowest": float(low.min()), "sunk": float((low < 0.0).mean())}


def main(task, wanted):
    assets = configure_assets("local")
    task = resolve_task(task)
    cfg, agent = load_configs(task)
    share_env_origin(cfg)
    physics = selection.apply_physics(cfg, wanted, "cpu")
    found = {"task": task, "physics": physics, "assets": assets, "fallen": endless(cfg)}
    found["hidden"] = agent["actor"]["hidden_dims"]
    walker = next((name for name in ("ant", "humanoid") if name in task.lower()), None)
    if walker:
        from isaaclab.sensors import ContactSensorCfg

        cfg.scene.robot.spawn.activate_contact_sensors = True
        cfg.scene.touched = ContactSensorCfg(prim_path="{ENV_REGEX_NS}/Robot/.*")
    with (
        open_simulation(
            cfg, task_id=task, device="cpu", num_envs=ENVS, options=SimulationOptions(seed=SEED)
        ) as gym_env,
        torch.inference_mode(),
    ):
        env = IsaacLabVecEnv(gym_env)
        found |= {"actions": env.num_actions, "measures": list(env.make_measures().step(torch.zeros(ENVS)))}
        sim = Simulation(env)
        partners, found["symmetry"] = mirror(sim.body)
        weight = 9.81 * float(sim.model.body_mass.sum())
        if walker:
            theirs = Body(load_mjcf_model(get_newton_folder() / f"nv_{walker}.xml")[1])
            found["beside"] = beside(sim.body, theirs)
            weight = 9.81 * float(theirs.model.body_mass.sum())

        env.reset()
        found["start"] = sim.robot.data.root_link_pos_w.torch[:, 2].tolist()
        if walker:
            found["starts"] = starts(env, sim)
            pose = sim.robot.data.root_link_pose_w.torch.clone()
            pose[:, 2] += ABOVE
            sim.robot.write_root_link_pose_to_sim_index(root_pose=pose)
        still = torch.zeros(ENVS, env.num_actions)
        energy, lowest, lifted = [], [], []
        for _ in range(SETTLE + REST if walker else SETTLE):
            env.step(still)
            energy.append(sim.energy())
            if walker:
                lowest.append(sim.lowest())
                lifted.append(sim.lifted() / weight)
                moved = np.abs(sim.places() - sim.worlds.qpos.numpy())
                found["places"] = max(found.get("places", 0.0), float(moved.max()))
        found["gained"] = ((np.max(energy, 0) - energy[0]) / np.ptp(energy, 0)).tolist()
        if walker:
            found["end"] = sim.robot.data.root_link_pos_w.torch[:, 2].tolist()
            found["lifted"] = np.mean(lifted[-REST:], 0).tolist()
            found["lowest"] = np.min(lowest, 0).tolist()
            found["lowest at rest"] = np.min(lowest[-REST:], 0).tolist()

        found["apart"], found["moved"] = mirrored(env, sim, partners, walker)
    print("RESULT" + json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
