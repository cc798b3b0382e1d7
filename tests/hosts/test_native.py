"""Our commands take native physics on a CPU unless another is named, and so does Isaac Lab's own command for our agents."""

import importlib.util
import os

import pytest

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")

import gymnasium
import isaaclab_mujoco.selection
from isaaclab_mujoco.errors import UnsupportedModel
from isaaclab_tasks.utils import resolve_task_config

from spiky_rl.config.registry import UserError
from spiky_rl.hosts.isaaclab import command
from spiky_rl.hosts.isaaclab import physics_selection as selection
from spiky_rl.hosts.isaaclab.environment import load_configs, resolve_task

MANAGERS = isaaclab_mujoco.selection.MANAGERS


def test_the_names_of_physics_are_the_packages():
    for name in ("NATIVE", "AUTO", "WARP"):
        assert getattr(selection, name) == getattr(isaaclab_mujoco.selection, name)


def configured(*overrides, device="cpu", task="Isaac-Ant"):
    wanted, overrides = selection.split_physics_override(overrides)
    cfg, _ = load_configs(resolve_task(task), None, overrides)
    return selection.apply_physics(cfg, wanted, device), cfg


@pytest.mark.parametrize(
    "overrides, device, name",
    [
        ((), "cpu", "mujoco"),
        (("physics=auto",), "cpu", "mujoco"),
        (("physics=mujoco",), "cpu", "mujoco"),
        (("physics=newton_mjwarp",), "cpu", "newton_mjwarp"),
        (("presets=newton_mjwarp",), "cpu", "newton_mjwarp"),
        (("physics=newton_kamino",), "cpu", "newton_kamino"),
        ((), "cuda:0", "newton_mjwarp"),
        (("physics=isaacsim_physx",), "cuda:0", "physx"),
    ],
)
def test_a_cpu_takes_native_physics_unless_another_is_named(overrides, device, name, caplog):
    found, cfg = configured(*overrides, device=device)
    assert found == name
    kind = selection.NATIVE if "physics=mujoco" in overrides else selection.AUTO
    assert (str(cfg.sim.physics.class_type) == MANAGERS[kind]) is (name == "mujoco")
    assert not caplog.records


def test_what_native_physics_cannot_step_is_refused_by_name():
    with pytest.raises(UserError, match="physics=mujoco: .*the device is cuda:0; use physics=newton_mjwarp"):
        configured("physics=mujoco", device="cuda:0")


@pytest.fixture(name="cartpole")
def _cartpole():
    """Isaac-Cartpole in gymnasium's registry, put back after the test."""
    task = gymnasium.spec(resolve_task("Isaac-Cartpole"))
    before = dict(task.kwargs)
    yield task
    task.kwargs.clear()
    task.kwargs.update(before)


def test_isaac_labs_own_command_has_native_physics_as_its_default_for_our_agents_on_a_cpu(cartpole, caplog):
    line = ["isaaclab", "train", "--task", cartpole.id, "--device", "cpu", "--agent"]
    before = dict(cartpole.kwargs)
    command.add_physics_option([*line, "rsl_rl_cfg_entry_point"], ["lif_ppo"], gymnasium.registry)
    assert cartpole.kwargs == before and not caplog.records
    command.add_physics_option([*line, "lif_ppo"], ["lif_ppo"], gymnasium.registry)
    for overrides, manager in (([], MANAGERS["auto"]), (["physics=mujoco"], MANAGERS["mujoco"])):
        cfg, _ = resolve_task_config(cartpole.id, None, overrides=overrides)
        assert str(cfg.sim.physics.class_type) == manager
    cfg, _ = resolve_task_config(cartpole.id, None, overrides=["physics=newton_mjwarp"])
    assert str(cfg.sim.physics.class_type) not in MANAGERS.values()
    (record,) = caplog.records
    assert record.getMessage() == "spiky_rl: physics: mujoco where the task has newton_mjwarp"


def test_what_a_simulation_finds_unsupported_later_is_an_error_of_the_user():
    def fail():
        raise UnsupportedModel("sleeping bodies")

    with pytest.raises(UserError, match="^physics=mujoco: sleeping bodies; use physics=newton_mjwarp$"):
        with selection.translate_errors():
            fail()


def test_the_cache_of_this_package_is_that_of_native_physics_unless_that_has_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv("ISAACLAB_MUJOCO_CACHE", raising=False)
    monkeypatch.delenv("SPIKY_RL_CACHE", raising=False)
    found = []
    for variable, value in ((None, ""), ("SPIKY_RL_CACHE", tmp_path), ("ISAACLAB_MUJOCO_CACHE", "own")):
        if variable:
            monkeypatch.setenv(variable, str(value))
        with selection.translate_errors():
            found.append(os.environ.get("ISAACLAB_MUJOCO_CACHE"))
    assert found == [None, str(tmp_path / "isaaclab_mujoco"), "own"]


def test_without_the_package_names_are_known_and_what_needs_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert selection.split_physics_override(["physics=mujoco"]) == ("mujoco", ["physics=newton_mjwarp"])
    for use in (selection.list_sources, lambda: selection.apply_physics(None, "auto", "cpu")):
        with pytest.raises(
            UserError, match="isaaclab_mujoco is not installed; .*pip install ./isaaclab_mujoco"
        ):
            use()
