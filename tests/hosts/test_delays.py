"""Tasks whose observations come late and agents that see several of them, on the real simulator."""

from types import SimpleNamespace

import pytest
import torch

from spiky_rl.config.registry import UserError
from spiky_rl.config.spec import load_task
from spiky_rl.hosts.isaaclab.history import set_history_length
from tests import processes

DELAY, HISTORY, OVER = 4, 8, 30
"""Of the tasks and of the agent; control step in which the case's first episodes have ended."""


def case(task: str, agent: str) -> dict[str, torch.Tensor]:
    """What was observed [steps, environments, values], and what there was to observe."""
    pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
    found = processes.run_case("delays", task, agent)
    assert found["step"] == pytest.approx(1 / 60), "so that 4 control steps are 67 ms"
    arrays = {key: torch.tensor(found[key]) for key in ("seen", "true", "held", "ends")}
    assert arrays["ends"].nonzero()[:, 0].tolist() == [OVER - 1] * arrays["ends"].shape[1]
    return arrays


def late(true: torch.Tensor, delay: int) -> torch.Tensor:
    """What is seen of it: in each episode the value ``delay`` steps ago, or else the first one."""
    steps = torch.arange(len(true))
    begun = torch.where(steps < OVER, 0, OVER)
    return true[torch.maximum(steps - delay, begun)]


@pytest.mark.parametrize("task", ["cartpole_delayed", pytest.param("ant_delayed", marks=pytest.mark.slow)])
def test_everything_observed_on_a_delayed_task_is_4_steps_old_and_begins_with_the_episode(task):
    found = case(task, "mlp_ppo")
    assert torch.equal(found["seen"], late(found["true"], DELAY))
    assert not torch.equal(found["seen"], found["true"])


def test_an_agent_with_a_history_sees_its_last_8_observations_and_stress_is_that_of_each():
    found = case("Isaac-Cartpole", "mlp_history_ppo")
    true = found["true"]  # two terms of two values
    assert found["seen"].shape[-1] == HISTORY * true.shape[-1]

    def stacked(values: torch.Tensor) -> torch.Tensor:
        """Term by term, the oldest first."""
        ages = [late(values, age) for age in range(HISTORY - 1, -1, -1)]
        return torch.cat(
            [torch.cat([x[..., term] for x in ages], -1) for term in (slice(0, 2), slice(2, 4))], -1
        )

    assert torch.equal(found["seen"], stacked(true))
    half = true.shape[1] // 2  # the first half is nominal, the second one step late
    assert torch.equal(found["held"][:, :half], found["seen"][:, :half])
    assert torch.equal(found["held"][:, half:], stacked(late(true, 1))[:, half:])


def test_a_history_that_a_task_cannot_have_is_refused():
    with pytest.raises(UserError, match="agent.history: 8 .*no observation manager.*agent.history=1"):
        set_history_length(SimpleNamespace(), 8, {})
    apart = SimpleNamespace(observations=SimpleNamespace(policy=SimpleNamespace(concatenate_terms=False)))
    with pytest.raises(UserError, match="agent.history: 8 .*'policy'.*not one vector"):
        set_history_length(apart, 8, {})
    set_history_length(SimpleNamespace(), 1, {})


def test_delayed_tasks_are_tasks_of_their_own():
    for name, gym_id in (("ant_delayed", "Isaac-Ant"), ("cartpole_delayed", "Isaac-Cartpole")):
        task = load_task(name)
        assert task is not None and (task.id, task.label) == (gym_id, name)
        terms = task.env["observations"]["policy"]
        assert all(term == {"delay_min_lag": DELAY, "delay_max_lag": DELAY} for term in terms.values())
