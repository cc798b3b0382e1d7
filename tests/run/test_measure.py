"""The measuring loop on a scripted environment, whose episodes are counted by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict

from spiky_rl.cli.evaluate import print_conditions
from spiky_rl.cli.play import print_episodes
from spiky_rl.hosts.condition_groups import ConditionGroups
from spiky_rl.hosts.robot_measures import RobotMeasures
from spiky_rl.run.evaluate import measure_conditions
from spiky_rl.run.measure import run_episodes
from spiky_rl.run.play import play_episodes

LENGTHS = (2, 3, 5)
"""Control steps of every episode, by environment."""


class ScriptedEnv:
    """Environment i rewards its steps with 1, 2, 3, ... all its life, and ends an episode every ``LENGTHS[i]`` steps."""

    num_envs, num_actions, device, max_episode_length = len(LENGTHS), 1, "cpu", 5

    def __init__(self):
        self.reset()

    def reset(self):
        self.steps = 0

    def restart(self, *_):
        return self.get_observations()

    def get_observations(self):
        return TensorDict({"policy": torch.zeros(self.num_envs, 1)}, batch_size=[self.num_envs])

    def make_measures(self):
        return SimpleNamespace(
            reset=lambda: None, step=lambda dones: {"seconds": torch.full((int(dones.sum()),), 0.5)}
        )

    def step(self, actions):
        assert actions.shape == (self.num_envs, 1)
        self.steps += 1
        dones = torch.tensor([self.steps % length == 0 for length in LENGTHS]).long()
        return self.get_observations(), torch.full((self.num_envs,), float(self.steps)), dones, {}


class CountedPolicy:
    """Its activity in a control step is the number of steps so far, in every environment."""

    def __init__(self):
        self.steps, self.resets = 0, []

    def reset(self, dones=None):
        self.resets.append(None if dones is None else dones.tolist())

    def compute_activity(self, obs, ids):
        each = torch.full((len(ids),), float(self.steps + 1))
        return SimpleNamespace(rates=each, operations_each=10 * each, ann_operations=7.0, cost=None)

    def __call__(self, obs):
        self.steps += 1
        return torch.zeros(obs.batch_size[0], 1)


def sum_steps(episode: int, length: int) -> float:
    """The sum of the step numbers of an episode, from 0 on, where all have one ``length``."""
    return float(sum(range(episode * length + 1, (episode + 1) * length + 1)))


@pytest.mark.parametrize("quota", [(1, 1, 1), (3, 2, 1), (0, 2, 0)])
def test_every_environment_gives_its_quota_and_an_episode_counts_only_its_own_steps(quota):
    seen, env = [], ScriptedEnv()

    def act(obs, running):
        seen.append(running.tolist())
        return torch.zeros(env.num_envs, 1)

    steps = list(run_episodes(env, act, env.get_observations(), quota))
    rows = [row for step in steps for row in step.rows]
    for i, (count, length) in enumerate(zip(quota, LENGTHS, strict=True)):
        own = [row for row in rows if row["environment"] == i]
        assert [row["return"] for row in own] == [sum_steps(n, length) for n in range(count)]
        assert [row["length"] for row in own] == [length] * count
        assert [running[i] for running in seen].count(
            True
        ) == count * length, "it counts until its quota is full"
    assert all(row["seconds"] == 0.5 for row in rows)
    assert seen == [step.running.tolist() for step in steps]
    assert len(steps) == max(
        c * n for c, n in zip(quota, LENGTHS, strict=True)
    ), "it stops with the last episode"
    shares = [step.share for step in steps]
    assert shares == sorted(shares) and shares[-1] == 1.0


def test_firing_rate_and_operations_are_means_over_the_steps_of_one_episode():
    policy = CountedPolicy()
    result = play_episodes(ScriptedEnv(), policy, 5)
    assert [row["episode"] for row in result.rows] == list(range(5))
    for i, length in enumerate(LENGTHS):
        own = [row for row in result.rows if row["environment"] == i]
        assert len(own) == (2, 2, 1)[i], "5 episodes of 3 environments"
        wanted = [sum_steps(n, length) / length for n in range(len(own))]
        assert [row["firing_rate"] for row in own] == pytest.approx(wanted)
        assert [row["operations"] for row in own] == pytest.approx([10 * value for value in wanted])
    assert policy.resets[0] is None and policy.resets[2] == [
        1,
        0,
        0,
    ], "and its state is reset where episodes end"
    assert (result.cost, result.ann_operations) == (None, 7.0)


class Command(SimpleNamespace):
    """A commanded velocity of 1 m/s for two robots that stand still."""

    command = torch.tensor([[1.0, 0.0, 0.0]] * 2)
    robot = SimpleNamespace(data=SimpleNamespace(velocity=torch.zeros(2, 3)))


def test_an_episode_of_one_step_has_no_velocity_error():
    manager = SimpleNamespace(active_terms=["command"], get_term=lambda name: Command())
    env = SimpleNamespace(num_envs=2, device="cpu", step_dt=0.02, command_manager=manager)
    measures = RobotMeasures(env, None, Command, "velocity")
    assert measures.step(torch.tensor([1, 0]))["velocity_error"].isnan().tolist() == [True]
    assert measures.step(torch.tensor([1, 1]))["velocity_error"].isnan().tolist() == [True, False]
    measures.step(torch.tensor([0, 0]))
    assert measures.step(torch.tensor([1, 1]))["velocity_error"].tolist() == [1.0, 1.0]


class PartlyMeasuredEnv(ScriptedEnv):
    """The episodes of environment 0 have no velocity error."""

    def make_measures(self):
        errors = torch.tensor([math.nan, 1.0, 3.0])
        return SimpleNamespace(
            reset=lambda: None, step=lambda dones: {"velocity_error": errors[dones.bool()]}
        )


def test_a_measure_that_an_episode_lacks_is_left_out_of_the_mean(capsys):
    env = PartlyMeasuredEnv()
    played = play_episodes(env, CountedPolicy(), 3)
    assert [row.get("velocity_error") for row in played.rows] == [None, 1.0, 3.0]
    assert played.means["velocity_error"] == 2.0
    print_episodes(played.rows, played.means, "velocity_error", True)
    assert capsys.readouterr().out.split().count("-") == 1
    # one condition of three episodes, then three of one
    for names, found in (("a",), [2.0]), (("b", "c", "nominal"), [None, 1.0, 3.0]):
        env.reset()
        (results,), _ = measure_conditions(ConditionGroups(env, names, 3 // len(names), [], 0), None)
        assert [results[name]["measures"].get("velocity_error") for name in names] == found
    print_conditions(results, "velocity_error", False)
    lines = map(str.split, capsys.readouterr().out.splitlines())
    assert [words[-3] for words in lines if words[:1] in (["b"], ["c"])] == ["-", "1.00"]
