"""Numbers that are none are blamed on who made them: a term of the simulation, their total, or the policy."""

import math
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict

pytest.importorskip("isaaclab_rl", reason="Isaac Lab is not installed: the extra 'isaaclab'")

from spiky_rl.hosts.isaaclab.environment import IsaacLabVecEnv
from spiky_rl.hosts.nonfinite import explain_non_finite

ENVS, STEP = 4, 17


def explained(
    action: float = 0.5,
    reward: float = 1.0,
    observation: float = 0.0,
    terms=(("alive", [1.0]),),
    before: float = 0.0,
    is_trained: bool = True,
):
    """What is said where environment 2 has these values, and saw ``before``."""
    environment = IsaacLabVecEnv.__new__(IsaacLabVecEnv)
    rewards = SimpleNamespace(get_active_iterable_terms=lambda index: terms)
    environment.env = SimpleNamespace(  # type: ignore[assignment]
        unwrapped=SimpleNamespace(common_step_counter=STEP, reward_manager=rewards, cfg=CFG)
    )
    environment.num_envs = ENVS
    environment.broken = SimpleNamespace(is_excessive=torch.tensor(False))  # type: ignore[assignment]
    environment.set_trained(is_trained)
    actions, total, seen = torch.full((ENVS, 2), 0.5), torch.ones(ENVS), torch.zeros(ENVS, 3)
    actions[2, 1], total[2], seen[2, 0] = action, reward, observation
    last = torch.zeros(ENVS, 3)
    last[2, 1] = before
    environment.latest_observations = TensorDict({"policy": last}, batch_size=[ENVS])
    message, blames_policy = explain_non_finite(environment, actions, total, {"policy": seen})
    assert blames_policy == ("the policy has exploded" in message)
    assert blames_policy != (SETTINGS in message), "one of both is to blame"
    return message


CFG = SimpleNamespace(sim=SimpleNamespace(dt=0.5, gravity=(0.0, 0.0, -9.81)))
SETTINGS = "env.sim.dt=0.5 and env.sim.gravity=[0, 0, -9.81]"
WHERE = "not finite in 1 of 4 environments, the first is 2"


def test_a_term_of_the_reward_is_named():
    terms = (("alive", [1.0]), ("pole_pos", [math.nan]))
    assert explained(reward=math.nan, terms=terms) == (
        f"environment step 17: reward pole_pos {WHERE}; {SETTINGS}; the largest action was 0.5"
    )


def test_a_total_without_a_term_that_is_none_is_named_as_the_total():
    assert f"17: reward total {WHERE};" in explained(reward=math.inf)


def test_an_observation_is_named():
    assert f"17: observation policy {WHERE};" in explained(observation=math.nan)


@pytest.mark.parametrize("action", [math.nan, math.inf, -math.inf])
def test_actions_that_are_no_numbers_are_the_policys_whatever_followed(action):
    said = explained(action=action, reward=math.nan, observation=math.nan)
    assert said.startswith(
        f"environment step 17: the policy has exploded, lower agent.algorithm.learning_rate: actions {WHERE}"
    )
    assert "reward" not in said and "observation" not in said


def test_actions_that_nothing_can_follow_are_the_policys_too():
    said = explained(action=-2.5e7, reward=math.nan)
    assert "the policy has exploded, lower agent.algorithm.learning_rate: reward total not finite" in said
    assert said.endswith("the largest action was 2.5e+07")


@pytest.mark.parametrize("action", [math.nan, -2.5e7, 0.5])
@pytest.mark.parametrize("is_trained", [True, False])
@pytest.mark.parametrize("before", [math.nan, math.inf, -3e8])
def test_the_policy_is_not_to_blame_for_what_it_does_with_observations_of_no_ordinary_size(
    before, is_trained, action
):
    said = explained(action=action, reward=math.nan, before=before, is_trained=is_trained)
    assert f"the simulation has blown up, with {SETTINGS}" in said
    assert f"saw {abs(before) if before == before else math.inf:.3g} in observation policy" in said
    assert "learning_rate" not in said


def test_a_learner_that_has_not_learned_yet_is_not_to_blame():
    assert "learning_rate" not in explained(action=-2.5e7, reward=math.nan, is_trained=False)
    said = explained(action=math.nan, is_trained=False)
    assert "17: the policy has exploded: actions" in said and "learning_rate" not in said
