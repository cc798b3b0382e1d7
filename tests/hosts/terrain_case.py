"""Starts on a generated terrain: ``python -m tests.hosts.terrain_case``; prints what parts began with as one line of JSON.

A module of its own because a process holds one simulation.
"""

import json
from types import SimpleNamespace

import torch

from spiky_rl.hosts.isaaclab.assets import configure_assets

TASK, EPISODES, PARTS, SEED = "Isaac-Ant", 4, 3, 7


def climb(env, env_ids):
    """Move environments that are reset one level up, as curricula of walking robots do."""
    ids = torch.arange(env.num_envs)[env_ids]  # a full reset gives a slice
    everyone = torch.ones(len(ids), dtype=torch.bool)
    env.scene.terrain.update_env_origins(ids, everyone, ~everyone)


def main():
    configure_assets("local")
    from isaaclab.managers import CurriculumTermCfg
    from isaaclab.terrains import (
        MeshInvertedPyramidStairsTerrainCfg,
        MeshPlaneTerrainCfg,
        TerrainGeneratorCfg,
    )

    from spiky_rl.hosts.isaaclab import physics_selection as selection
    from spiky_rl.hosts.base import SimulationOptions
    from spiky_rl.hosts.isaaclab.environment import IsaacLabVecEnv, load_configs, open_simulation

    cfg, _ = load_configs(TASK)
    kinds = {
        "flat": MeshPlaneTerrainCfg(proportion=0.5),
        "stairs": MeshInvertedPyramidStairsTerrainCfg(
            proportion=0.5, step_height_range=(0.05, 0.3), step_width=0.5, platform_width=2.0
        ),
    }
    terrain = cfg.scene.terrain
    terrain.terrain_type, terrain.visual_material, terrain.max_init_terrain_level = "generator", None, 2
    terrain.terrain_generator = TerrainGeneratorCfg(
        size=(6.0, 6.0), num_rows=3, num_cols=4, border_width=1.0, sub_terrains=kinds, curriculum=True, seed=0
    )
    cfg.curriculum = SimpleNamespace(levels=CurriculumTermCfg(func=climb))
    selection.apply_physics(cfg, "auto", "cpu")
    count = EPISODES * PARTS
    with open_simulation(
        cfg, task_id=TASK, device="cpu", num_envs=count, options=SimulationOptions(seed=1)
    ) as gym_env:
        env = IsaacLabVecEnv(gym_env)
        parts = torch.arange(count).split(EPISODES)
        scene = env.unwrapped.scene
        found = {}
        for name in ("first", "again"):
            obs = env.restart(parts, SEED)["policy"]
            values = {
                "obs": obs,
                "origins": scene.env_origins,
                "types": scene.terrain.terrain_types,
                "levels": scene.terrain.terrain_levels,
                "position": scene["robot"].data.root_link_pos_w.torch,
            }
            found[name] = {key: value.view(PARTS, EPISODES, -1).tolist() for key, value in values.items()}
            env.step(torch.zeros(count, env.num_actions))
        before = scene.terrain.terrain_levels.clone()
        env.unwrapped.reset()
        found["climbs"] = not torch.equal(before, scene.terrain.terrain_levels)
    print("RESULT" + json.dumps(found))


if __name__ == "__main__":
    main()
