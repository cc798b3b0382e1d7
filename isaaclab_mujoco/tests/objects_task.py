"""Isaac-Ant among things that are free to move: a sphere on a box, a capsule, and a crate that is a mesh; all are thrown at a reset."""

import gymnasium
import isaaclab.sim as sim_utils
from isaaclab.assets import RigidObjectCfg
from isaaclab.envs import mdp
from isaaclab.managers import EventTermCfg, SceneEntityCfg
from isaaclab_tasks.utils.parse_cfg import load_cfg_from_registry

PARTS = {
    "rigid_props": sim_utils.RigidBodyPropertiesCfg(),
    "mass_props": sim_utils.MassPropertiesCfg(mass=0.4),
    "collision_props": sim_utils.CollisionPropertiesCfg(),
}
THINGS = {
    "box": (sim_utils.CuboidCfg(size=(0.3, 0.35, 0.4), **PARTS), (1.0, 0.0, 0.21)),
    "ball": (sim_utils.SphereCfg(radius=0.15, **PARTS), (1.0, 0.02, 0.56)),
    "stick": (sim_utils.CapsuleCfg(radius=0.08, height=0.4, axis="X", **PARTS), (-0.9, 0.2, 0.09)),
    "crate": (sim_utils.MeshCuboidCfg(size=(0.3, 0.25, 0.2), **PARTS), (0.1, 1.0, 0.15)),
}
"""Name -> what it is, and where it begins, metres."""
THROWN = {"x": (-0.5, 0.5), "y": (-0.5, 0.5), "yaw": (-1.0, 1.0)}


def configuration():
    cfg = load_cfg_from_registry("Isaac-Ant", "env_cfg_entry_point")
    solver = cfg.sim.physics.newton_mjwarp.solver_cfg
    solver.nconmax, solver.njmax = 64, 256  # Isaac-Ant's are for the ant alone
    for name, (spawn, place) in THINGS.items():
        state = RigidObjectCfg.InitialStateCfg(pos=place)
        setattr(
            cfg.scene, name, RigidObjectCfg(prim_path="{ENV_REGEX_NS}/" + name, spawn=spawn, init_state=state)
        )
        params = {"pose_range": {}, "velocity_range": THROWN, "asset_cfg": SceneEntityCfg(name)}
        setattr(
            cfg.events,
            f"throw_{name}",
            EventTermCfg(func=mdp.reset_root_state_uniform, mode="reset", params=params),
        )
    return cfg


known = gymnasium.spec("Isaac-Ant")
gymnasium.register(
    id="Ant-Among-Things",
    entry_point=known.entry_point,
    disable_env_checker=True,
    kwargs={**known.kwargs, "env_cfg_entry_point": configuration},
)
