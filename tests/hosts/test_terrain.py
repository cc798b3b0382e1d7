"""Parts that are compared begin on the same terrain, where a simulator gives terrain to environments by their indices."""

from types import SimpleNamespace

import pytest
import torch

from spiky_rl.hosts.environment import share_terrain
from tests import processes

ROWS, COLUMNS, COUNT = 3, 4, 12
PARTS = torch.arange(COUNT).split(4)


class Curriculum:
    """Moves environments up, as Isaac Lab's and mjlab's curricula of walking robots do."""

    def __init__(self, terrain):
        self.terrain = terrain

    def compute(self, env_ids):
        self.terrain.terrain_levels[env_ids] += 1


def make_env(highest=None):
    """The attributes that the terrains of Isaac Lab and mjlab have, and environments in their order."""
    origins = torch.arange(ROWS * COLUMNS * 3.0).view(ROWS, COLUMNS, 3)
    terrain = SimpleNamespace(
        terrain_origins=origins,
        terrain_types=torch.arange(COUNT) * COLUMNS // COUNT,
        terrain_levels=torch.zeros(COUNT, dtype=torch.long),
        env_origins=torch.zeros(COUNT, 3),
        cfg=SimpleNamespace(max_init_terrain_level=highest),
    )
    return SimpleNamespace(
        scene=SimpleNamespace(terrain=terrain), curriculum_manager=Curriculum(terrain), num_envs=COUNT
    )


def begin(env, seed):
    """Reset part by part, and return the terrain."""
    with share_terrain(env, PARTS, seed):
        for ids in PARTS:
            env.curriculum_manager.compute(env_ids=ids.int())
    return env.scene.terrain


@pytest.mark.parametrize("highest", [None, 0, 1, 7])
def test_environment_i_of_every_part_is_on_the_same_cell(highest):
    state, levels = torch.get_rng_state(), set()
    for seed in range(20):
        terrain = begin(make_env(highest), seed)
        parts = [values.view(3, 4, -1) for values in (terrain.env_origins, terrain.terrain_levels)]
        assert all(torch.equal(part, part[:1].expand_as(part)) for part in parts)
        assert terrain.terrain_types.view(3, 4).tolist() == [[0, 1, 2, 3]] * 3, "each part has all types"
        cells = terrain.terrain_origins[terrain.terrain_levels, terrain.terrain_types]
        assert torch.equal(terrain.env_origins, cells)
        levels |= set(terrain.terrain_levels.tolist())
    assert levels == set(range(ROWS if highest is None else min(highest + 1, ROWS)))
    assert torch.equal(state, torch.get_rng_state())


def test_the_curriculum_goes_on_afterwards():
    env = make_env()
    terrain = begin(env, 1)
    before = terrain.terrain_levels.clone()
    env.curriculum_manager.compute(env_ids=torch.tensor([2]))
    assert (terrain.terrain_levels - before).tolist() == [0, 0, 1] + [0] * 9


@pytest.mark.parametrize("terrain", [None, SimpleNamespace(terrain_origins=None)])
def test_without_a_generated_terrain_nothing_changes(terrain):
    env = SimpleNamespace(scene=SimpleNamespace(terrain=terrain))  # has no curriculum to replace
    with share_terrain(env, PARTS, 1):
        assert vars(env.scene) == {"terrain": terrain}


@pytest.mark.slow
def test_parts_of_isaac_lab_begin_in_the_same_states_on_a_generated_terrain():
    pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
    found = processes.run_case("terrain")
    for name in ("first", "again"):
        for key, values in found[name].items():
            assert values[0] == values[1] == values[2], key
    assert found["first"] == found["again"], "whatever happened before"
    assert found["climbs"] and sorted(cell for (cell,) in found["first"]["types"][0]) == [0, 1, 2, 3]
