"""Our models under skrl's own on-policy agents, as they are: PPO, A2C and RPO, feed-forward and recurrent."""

import pytest

pytest.importorskip("skrl", reason="the skrl extra is not installed")
import torch
from skrl.agents.torch.a2c import A2C, A2C_CFG, A2C_RNN
from skrl.agents.torch.ppo import PPO, PPO_CFG, PPO_RNN
from skrl.agents.torch.rpo import RPO, RPO_CFG, RPO_RNN
from skrl.memories.torch import RandomMemory
from skrl.resources.preprocessors.torch import RunningStandardScaler
from skrl.trainers.torch import SequentialTrainer, SequentialTrainerCfg

from spiky_rl.learners.skrl import SpikingPolicy, SpikingValue
from spiky_rl.learners.skrl.environment import SkrlEnv
from tests.hosts.point_env import LIF, PointEnv

ENVS, STEPS, UPDATES = 8, 16, 3
STATELESS = {"name": "feedforward", "layers": [16, 12], **LIF}
STATEFUL = {**STATELESS, "stateful": True}
GROUPS = {"actor": ["policy"], "critic": ["policy"]}
CASES = {
    "PPO": (PPO, PPO_CFG, STATELESS),
    "PPO, a reservoir": (PPO_RNN, PPO_CFG, {"name": "reservoir", "size": 30, "steps": 3, "control": "gain"}),
    "PPO_RNN": (PPO_RNN, PPO_CFG, STATEFUL),
    "A2C": (A2C, A2C_CFG, STATELESS),
    "A2C_RNN": (A2C_RNN, A2C_CFG, STATEFUL),
    "RPO": (RPO, RPO_CFG, STATELESS),
    "RPO_RNN": (RPO_RNN, RPO_CFG, STATEFUL),
}


def agent_of(case: str, environment: SkrlEnv, seed: int = 0):
    cls, settings, network = CASES[case]
    torch.manual_seed(seed)
    spaces = {
        "observation_space": environment.observation_space,
        "state_space": environment.state_space,
        "action_space": environment.action_space,
        "device": "cpu",
    }
    shape = {"num_envs": ENVS, "sequence_length": STEPS, "hidden_dims": [16], "network": network}
    models = {"policy": SpikingPolicy(**shape, **spaces), "value": SpikingValue(**shape, **spaces)}
    cfg = settings(
        rollouts=STEPS,
        mini_batches=2,
        learning_rate=1e-2,
        observation_preprocessor=RunningStandardScaler,
        observation_preprocessor_kwargs={"size": environment.observation_space, "device": "cpu"},
    )
    if cls not in (A2C, A2C_RNN):
        cfg.learning_epochs = 2
    cfg.experiment.write_interval = cfg.experiment.checkpoint_interval = 0
    return cls(models=models, memory=RandomMemory(memory_size=STEPS, num_envs=ENVS), cfg=cfg, **spaces)


def parameters(agent) -> dict[str, torch.Tensor]:
    models = {"policy": agent.policy, "value": agent.value}
    return {
        f"{role}.{name}": value.detach().clone()
        for role, model in models.items()
        for name, value in model.named_parameters()
        if value.requires_grad
    }


@pytest.mark.parametrize("case", CASES)
def test_skrls_own_agents_train_save_and_load_our_models(case, tmp_path):
    environment = SkrlEnv(PointEnv(ENVS), GROUPS, False)
    agent = agent_of(case, environment)
    before = parameters(agent)
    trainer = SequentialTrainerCfg(
        timesteps=UPDATES * STEPS, disable_progressbar=True, close_environment_at_exit=False
    )
    SequentialTrainer(env=environment, agents=agent, cfg=trainer).train()
    after = parameters(agent)
    assert all(value.isfinite().all() for value in after.values())
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved == list(before), "every trained parameter learns"

    agent.save(str(tmp_path / "agent.pt"))
    other = agent_of(case, environment, seed=1)
    other.load(str(tmp_path / "agent.pt"))
    assert all(torch.equal(value, after[name]) for name, value in parameters(other).items())
