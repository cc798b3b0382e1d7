"""What a minibatch costs a GPU in launches: of kernels, and of torch's operations. The table in docs/performance.md is this one."""

from pathlib import Path

import pytest
import torch

from tests.hosts.pretend_case import AGENTS, IMAGE, OBSERVATIONS, network_of, takes_images
from tests.hosts.pretend_cuda import DEVICE, pretended

CONTROL_STEPS, BATCH, OUTPUTS = 24, 8, 2
DOCS = Path(__file__).parents[2] / "docs" / "performance.md"
MOST_RECURRENT, MOST_RESERVOIR = 60, 25
"""Torch's operations: of a recurrent agent's minibatch, of a reservoir's control step."""


def network(agent: str, device: str = DEVICE):
    """An agent's network on the device, observations [T, B, O], its state and where episodes begin."""
    images = takes_images(agent)
    made = network_of(agent).build(inputs=IMAGE if images else OBSERVATIONS, outputs=OUTPUTS).to(device)
    time = CONTROL_STEPS if made.stateful else 1
    width = torch.Size(IMAGE).numel() if images else OBSERVATIONS
    x = torch.zeros(time, BATCH, width, device=device)
    if not made.stateful:
        return made, x, None, None
    return made, x, made.zero_state(BATCH, x), torch.ones(time, BATCH, device=device)


def minibatch(made, x, state, keep) -> None:
    """Forward and backward, or a reservoir's control step: what `network` gives."""
    if made.features is not None:
        made.compute_features(x[:1], state, keep[:1], adapt=True)
    else:
        made(x, state, keep)[0].sum().backward()


def costs(agent: str) -> tuple[int, int]:
    """Of the forward and backward pass of a minibatch; of a reservoir, whose features are the rollout's: of a control step."""
    with pretended() as cuda:
        with cuda.pretence.setting_up():
            made, x, state, keep = network(agent)
        before = cuda.cupy.launches.total(), cuda.pretence.operations.total()
        minibatch(made, x, state, keep)
        after = cuda.cupy.launches.total(), cuda.pretence.operations.total()
    return after[0] - before[0], after[1] - before[1]


SPIKING = [agent for agent in AGENTS if network_of(agent) is not None]


@pytest.fixture(scope="module")
def table() -> dict[str, tuple[int, int]]:
    return {agent: costs(agent) for agent in SPIKING}


def test_the_table_in_the_docs_is_true(table):
    lines = [f"| `{agent}` | {kernels} | {operations} |" for agent, (kernels, operations) in table.items()]
    missing = [line for line in lines if line not in DOCS.read_text(encoding="utf-8")]
    assert not missing, "\n".join(["docs/performance.md lacks:", *lines])


def test_a_loop_over_time_costs_no_more_launches_than_a_layer(table):
    assert table["alif_recurrent_ppo"][1] <= MOST_RECURRENT
    for agent in SPIKING:
        if "reservoir" in agent and "plastic" not in agent:
            assert table[agent][1] <= MOST_RESERVOIR, agent
