"""Who owns mjlab's ids, and what a wrong one answers."""

import importlib.util

import pytest

from spiky_rl.config import registry
from spiky_rl.hosts import find_host
from spiky_rl.hosts.base import UnknownTask
from spiky_rl.hosts.mjlab import agents, host

INSTALLED = importlib.util.find_spec("mjlab") is not None
with_mjlab = pytest.mark.skipif(
    not INSTALLED, reason="needs mjlab, which no environment with Isaac Lab has: make test-mjlab"
)


def test_ids_of_mjlab_belong_to_it():
    assert find_host("Mjlab-Cartpole-Balance").name == "mjlab"
    assert not host.HOST.owns("Isaac-Cartpole") and not host.HOST.owns("CartPole-v1")


@pytest.mark.skipif(INSTALLED, reason="mjlab is installed")
def test_without_mjlab_the_line_that_installs_it_is_the_answer():
    with pytest.raises(ValueError, match=r"without Isaac Lab .*pip install '\.\[mjlab\]'"):
        find_host("Mjlab-Cartpole-Balance").require_installed()


def test_the_agent_of_a_registered_id_is_its_last_part(monkeypatch):
    assert agents.find_agent("Mjlab-Cartpole-Balance-lif_ppo") == ("Mjlab-Cartpole-Balance", "lif_ppo")
    assert agents.find_agent("Mjlab-Cartpole-Balance") is None and agents.find_agent("lif_ppo") is None
    monkeypatch.setattr(registry, "list_names", lambda kind: ["ppo", "my-ppo"])
    assert agents.find_agent("Mjlab-Cartpole-Balance-my-ppo") == ("Mjlab-Cartpole-Balance", "my-ppo")


@with_mjlab
def test_the_ids_in_mjlabs_files_are_those_it_registers():
    import mjlab.tasks  # noqa: F401
    from mjlab.tasks.registry import list_tasks

    assert host.list_registered_ids() == {name for name in list_tasks() if agents.find_agent(name) is None}


@with_mjlab
def test_an_unknown_id_answers_with_the_nearest():
    with pytest.raises(UnknownTask, match="Mjlab-Cartpole-Balance"):
        find_host("Mjlab-Cartpol-Balance")
    with pytest.raises(UnknownTask, match="Mjlab-Velocity-Flat-Unitree-Go1"):
        host.HOST.resolve_task("Mjlab-Velocity-Flat-Unitre-Go1")


@with_mjlab
def test_an_unknown_id_of_ones_own_module_answers_with_the_nearest_that_it_registers(tmp_path):
    module = tmp_path / "own_balance.py"
    module.write_text(
        "from mjlab.tasks import registry\n"
        "known = 'Mjlab-Cartpole-Balance'\n"
        "registry.register_mjlab_task('own_pole', registry.load_env_cfg(known), registry.load_env_cfg(known, play=True),"
        " registry.load_rl_cfg(known))\n"
    )
    with pytest.raises(UnknownTask, match="did you mean own_pole"):
        find_host(f"{module}:own_pol")
