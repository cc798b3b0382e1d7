"""Native steps beside MuJoCo-Warp's from the same states: ``python step_case.py TASK [OVERRIDE ...]``; prints what it measured as one
line of JSON.

The simulation runs natively. Every step is made twice from what it began with, by MuJoCo's C library and by MuJoCo-Warp.
"""

import json
import sys

import numpy as np
import torch
from isaaclab.envs import mdp
from isaaclab.managers import EventTermCfg, SceneEntityCfg
from isaaclab.sensors import ContactSensorCfg
from isaaclab_newton.physics.newton_manager import NewtonManager
from simulation import open_simulation

from isaaclab_mujoco import selection

ENVS, SEED, STEPS = 64, 1, 12
COMPARED = ("qpos", "qvel", "qacc", "qacc_warmstart", "qfrc_actuator")
WRENCHES = ("cacc", "cvel", "cfrc_int")
BEGUN = ("qpos", "qvel", "act", "qacc_warmstart")


class Twice:
    """The native step, and then MuJoCo-Warp's from the same state; the simulation goes on from the native one."""

    def __init__(self, solver):
        self.solver, self.data, self.native = solver, solver.mjw_data, solver.worlds.step
        solver.worlds.step = self
        self.rows = []

    def read(self, names):
        return {name: getattr(self.data, name).numpy().copy() for name in names}

    def write(self, values):
        for name, value in values.items():
            getattr(self.data, name).numpy()[...] = value

    def contacts(self):
        """How many contacts of each world are in force, and the sum of their rows' forces [worlds]."""
        count, contact = int(self.data.nacon.numpy()[0]), self.data.contact
        world, address = contact.worldid.numpy()[:count], contact.efc_address.numpy()[:count]
        forces = np.where(
            address >= 0, self.data.efc.force.numpy()[world[:, None], np.maximum(address, 0)], 0.0
        )
        sums = np.bincount(world, forces.sum(1), self.data.nworld)
        return np.bincount(world[address[:, 0] >= 0], minlength=self.data.nworld), sums

    def __call__(self, newton, substeps):
        assert substeps == 1
        if newton.step % newton.interval == 0:  # as the native step is about to
            self.solver._update_mjc_data(self.data, self.solver.model, NewtonManager.get_state_0())
        names = COMPARED + WRENCHES * bool(self.solver.worlds.batch.wrenches)
        given = self.solver.worlds.batch.given
        before, contact = self.read(BEGUN), {}
        if given:
            contact = {
                name: getattr(self.data.contact, name).numpy().copy()
                for name in ("dist", "pos", "frame", "efc_address")
            }
        self.native(newton, substeps)
        ours, touched = self.read(names), self.contacts()
        after = self.read(BEGUN)
        self.write(before)
        for name, value in contact.items():
            getattr(self.data.contact, name).numpy()[...] = value
        self.solver.mjw_model.opt.timestep.fill_(self.solver.worlds.models[0].opt.timestep)
        with self.solver._scoped_mujoco_warp_execution():
            self.solver._mujoco_warp_step()
        theirs, others = self.read(names), self.contacts()
        self.write(after)
        row = {name: np.abs(ours[name] - theirs[name]).reshape(self.data.nworld, -1).max(1) for name in names}
        scale = {name: np.abs(theirs[name]).reshape(self.data.nworld, -1).max(1) for name in names}
        row |= {"contacts": (touched[0] != others[0]).astype(float), "force": np.abs(touched[1] - others[1])}
        scale |= {"contacts": touched[0].astype(float), "force": np.abs(others[1])}
        self.rows.append((row, scale))

    def summary(self):
        """Of all steps since the last: median, 99th percentile and largest difference, and the typical size, by quantity.

        The largest is that of the worlds in which the same contacts push; of the others there is their share.
        """
        same = np.concatenate([row["contacts"] for row, _ in self.rows]) == 0.0
        found = {"flipped": float((~same).mean())}
        for name in self.rows[0][0]:
            apart = np.concatenate([row[name] for row, _ in self.rows])
            size = np.concatenate([scale[name] for _, scale in self.rows])
            found[name] = {
                "median": float(np.median(apart)), "most": float(np.quantile(apart, 0.99)),
                "largest": float(apart[same].max()), "size": float(np.quantile(size, 0.9)),
            }  # fmt: skip
        self.rows.clear()
        return found


def everyone(env, term, first=False, **params):
    """Let one of Isaac Lab's event terms change all robots: all of their bodies, or the ``first`` alone."""
    ids = torch.arange(env.num_envs, dtype=torch.int32)
    params["asset_cfg"] = SceneEntityCfg(next(iter(env.scene.articulations)))
    params["asset_cfg"].resolve(env.scene)
    if first:
        params["asset_cfg"].body_ids = [0]
    if isinstance(term, type):
        term = term(EventTermCfg(func=term, mode="test", params=params), env)
    term(env, ids, **params)


def gravity(env):
    params = {
        "gravity_distribution_params": ([0.0, 0.0, -2.0], [1.0, 0.0, 2.0]), "operation": "add", "distribution": "uniform"
    }  # fmt: skip
    cfg = EventTermCfg(func=mdp.randomize_physics_scene_gravity, mode="test", params=params)  # type: ignore[arg-type]
    mdp.randomize_physics_scene_gravity(cfg, env)(
        env, torch.arange(env.num_envs, dtype=torch.int32), **params
    )


RANDOMISED = {
    "nothing": lambda env: None,
    "push": lambda env: everyone(env, mdp.push_by_setting_velocity, velocity_range={"x": (-1, 1), "y": (-1, 1)}),
    "external force": lambda env: everyone(
        env, mdp.apply_external_force_torque, force_range=(-0.2, 0.2), torque_range=(-0.1, 0.1)
    ),
    "surface friction": lambda env: everyone(
        env, mdp.randomize_rigid_body_material, static_friction_range=(0.2, 1.5), dynamic_friction_range=(0.2, 1.5),
        restitution_range=(0.0, 0.0), num_buckets=64, make_consistent=True,
    ),
    "margins": lambda env: everyone(
        env, mdp.randomize_rigid_body_collider_offsets, rest_offset_distribution_params=(0.0, 0.002),
        contact_offset_distribution_params=(0.005, 0.02),
    ),
    "mass of one body": lambda env: everyone(
        env, mdp.randomize_rigid_body_mass, first=True, mass_distribution_params=(0.5, 2.0), operation="scale",
        distribution="log_uniform", recompute_inertia=True, min_mass=1e-6,
    ),
    "mass": lambda env: everyone(
        env, mdp.randomize_rigid_body_mass, mass_distribution_params=(0.5, 2.0), operation="scale",
        distribution="log_uniform", recompute_inertia=True, min_mass=1e-6,
    ),
    "inertia": lambda env: everyone(
        env, mdp.randomize_rigid_body_inertia, inertia_distribution_params=(0.8, 1.2), operation="scale",
        distribution="uniform", diagonal_only=True,
    ),
    "centre of mass": lambda env: everyone(
        env, mdp.randomize_rigid_body_com, com_range={"x": (-0.02, 0.02), "y": (-0.02, 0.02), "z": (-0.02, 0.02)}
    ),
    "joint": lambda env: everyone(
        env, mdp.randomize_joint_parameters, friction_distribution_params=(0.0, 0.2),
        armature_distribution_params=(0.0, 0.01), lower_limit_distribution_params=(0.0, 0.1),
        upper_limit_distribution_params=(-0.1, 0.0), operation="add", distribution="uniform",
    ),
    "gains": lambda env: everyone(
        env, mdp.randomize_actuator_gains, stiffness_distribution_params=(0.1, 0.5),
        damping_distribution_params=(0.1, 0.5), operation="add", distribution="uniform",
    ),
    "gravity": gravity,
}  # fmt: skip
"""What Isaac Lab's events change, one upon the other."""


def add_contact_sensor(cfg):
    if hasattr(cfg.scene, "robot"):
        cfg.scene.robot.spawn.activate_contact_sensors = True
        cfg.scene.touched = ContactSensorCfg(prim_path="{ENV_REGEX_NS}/Robot/.*")


def main(task, *overrides):
    found, options = {}, {"num_envs": ENVS, "seed": SEED, "change": add_contact_sensor}
    with open_simulation(task, "physics=mujoco", *overrides, **options) as gym_env:
        env = gym_env.unwrapped
        gym_env.reset(seed=SEED)
        assert selection.get_solver_name(gym_env, selection.WARP) == selection.NATIVE
        gym_env.step(torch.zeros(gym_env.action_space.shape))
        NewtonManager.register_state_force_callback(lambda state: None)  # so that every substep is a call
        twice = Twice(env.sim.physics_manager._solver)
        for change, apply in RANDOMISED.items():
            apply(env)
            for _ in range(STEPS):
                gym_env.step(2.0 * torch.rand(gym_env.action_space.shape) - 1.0)
            found[change] = twice.summary()
    print("RESULT" + json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
