"""What Isaac Lab's own skrl command is given: a configuration for it, and a runner that builds our models and skrl's alike."""

import copy
import re

import pytest

pytest.importorskip("skrl", reason="the skrl extra is not installed")
import torch
from skrl.agents.torch.ppo import PPO
from skrl.utils.runner import torch as runners

from spiky_rl.config import registry
from spiky_rl.config.spec import SpecError
from spiky_rl.learners.skrl.runner import ComponentRunner, register_components
from spiky_rl.learners.skrl.config import COMMAND_ALLOWED, check_allowed, make_registered_cfg
from spiky_rl.learners.skrl.environment import SkrlEnv
from spiky_rl.learners.skrl.ppo import SkrlSpikingPPO, SpikingRecurrentPPO
from tests.hosts.point_env import PointEnv
from tests.hosts.skrl_case import RAW, SPIKING, specification

GROUPS = {"actor": ["policy"], "critic": ["policy"]}
QUIET = {"write_interval": 0, "checkpoint_interval": 0, "directory": "point"}


def raw() -> dict:
    settings = copy.deepcopy(RAW)
    settings["agent"]["experiment"] = QUIET
    settings["trainer"] |= {"disable_progressbar": True, "close_environment_at_exit": False}
    return settings


def environment() -> SkrlEnv:
    return SkrlEnv(PointEnv(8), GROUPS, False)


def test_the_configuration_has_what_the_command_reads_and_changes():
    config = make_registered_cfg(specification("agent.max_iterations=3", network=SPIKING), raw())
    assert (config["seed"], config["agent"]["class"], config["agent"]["rollouts"]) == (42, "PPO", 16)
    assert config["trainer"]["timesteps"] == 3 * 16
    assert config["agent"]["experiment"] == {"experiment_name": "", **QUIET}


@pytest.mark.parametrize("stateful", [False, True])
def test_the_runner_that_the_command_makes_trains_our_models_and_writes_checkpoints(stateful, tmp_path):
    spec = specification("agent.max_iterations=2", network={**SPIKING, "stateful": stateful})
    run = ComponentRunner(environment(), make_registered_cfg(spec, raw()))
    assert type(run.agent) is (SpikingRecurrentPPO if stateful else SkrlSpikingPPO)
    before = {name: value.clone() for name, value in run.agent.policy.named_parameters()}
    run.run()
    assert all(not torch.equal(value, before[name]) for name, value in run.agent.policy.named_parameters())
    assert run.agent.policy.network.updates == 2
    run.agent.save(str(tmp_path / "agent.pt"))
    run.agent.load(str(tmp_path / "agent.pt"))


def test_skrls_own_configurations_get_skrls_own_agent_and_models():
    run = ComponentRunner(environment(), raw())
    assert type(run.agent) is PPO
    assert type(run.agent.policy).__module__.startswith(("skrl", "<"))


def test_the_runner_takes_the_place_of_skrls_where_isaac_lab_imports_it(monkeypatch):
    monkeypatch.setattr(runners, "Runner", runners.Runner)  # given back after the test
    register_components()
    from skrl.utils.runner.torch import Runner

    assert Runner is ComponentRunner


@pytest.mark.parametrize(
    ("override", "key", "allowed"),
    [
        ('agent.obs_groups={"actor": ["policy", "extra"], "critic": ["policy"]}', "actor", ["policy"]),
        ('agent.obs_groups={"actor": ["policy"], "critic": ["extra"]}', "critic", ["critic"]),
        ("agent.critic.obs_normalization=false", "critic", ["critic"]),
    ],
)
def test_what_the_command_does_not_show_a_network_is_refused_by_name(override, key, allowed):
    with pytest.raises(SpecError, match=rf"agent\.obs_groups\.{key}: .* allowed: {re.escape(str(allowed))}"):
        make_registered_cfg(specification(override), raw())


@pytest.mark.parametrize(
    ("override", "refused"),
    [
        ("agent.algorithm.reward_normalization=true", r"agent\.algorithm\.reward_normalization: True: .* allowed: false"),
        ("agent.clip_actions=1.0", r"agent\.clip_actions: 1\.0: .* allowed: null"),
    ],
)  # fmt: skip
def test_a_setting_that_the_command_would_ignore_is_refused_by_name(override, refused):
    with pytest.raises(SpecError, match=f"command line: {refused}"):
        make_registered_cfg(specification(override), raw())


@pytest.mark.parametrize("agent", registry.list_names("agents"))
def test_no_shipped_agent_has_a_setting_that_the_command_would_ignore(agent):
    check_allowed(specification(agent=agent), COMMAND_ALLOWED, "the command")
