"""A checkpoint of other robots is named as such: their scores cannot be compared."""

import logging
from types import SimpleNamespace

import torch

from spiky_rl.learners.common.checkpoints import get_random_state
from spiky_rl.run.checkpoint import find_checkpoint
from spiky_rl.run.run_plan import RunRequest


def warnings_of(tmp_path, caplog, trained_on, these):
    """What is said of a checkpoint that was trained on some robots and is used on others."""
    path = tmp_path / "model_0.pt"
    identity = {"task": "Isaac-Ant", "agent": "lif_ppo"} | ({"assets": trained_on} if trained_on else {})
    held = {"actor_state_dict": {}, "critic_state_dict": {}, "iter": 0}
    ours = {"identity": identity, "progress": {}, "random": get_random_state("cpu")}
    torch.save(held | {"infos": {"spiky_rl": ours}}, path)
    plan = SimpleNamespace(
        request=RunRequest(task="Isaac-Ant", checkpoint=str(path), log_root=tmp_path),
        task="Isaac-Ant", agent="lif_ppo", library="rsl_rl", experiment="ant", spec=None, assets=these,
        identity=identity | {"assets": these},
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        assert find_checkpoint(plan) == path
    return [record.getMessage() for record in caplog.records]


def test_checkpoint_of_other_robots_is_said_in_one_line(tmp_path, caplog):
    (line,) = warnings_of(tmp_path, caplog, "local (look-alikes 2)", "local (look-alikes 3)")
    assert "model_0.pt" in line and "look-alikes 2" in line and "look-alikes 3" in line


def test_checkpoint_of_the_same_robots_or_of_unknown_ones_is_not_commented(tmp_path, caplog):
    assert not warnings_of(tmp_path, caplog, "nucleus (a)", "nucleus (a)")
    assert not warnings_of(tmp_path, caplog, None, "nucleus (a)")
