"""What a minibatch costs a GPU: launches of kernels and of torch's operations, and bytes. The table in docs/performance.md is this one."""

import itertools
from functools import cache
from pathlib import Path

import pytest
import torch

from spiky_rl.config import spec
from tests.agents import network_of, takes_images
from tests.hosts import point_env
from tests.hosts.pretend_case import AGENTS, IMAGE, OBSERVATIONS
from tests.hosts.pretend_cuda import DEVICE, converted, pretended

CONTROL_STEPS, BATCH, OUTPUTS = 24, 8, 2
DOCS = Path(__file__).parents[2] / "docs" / "performance.md"
MOST_RECURRENT, MOST_RESERVOIR = 60, 25
"""Torch's operations: of a recurrent agent's minibatch, of a reservoir's control step."""
ANT, ANT_OBSERVATIONS, ANT_ACTIONS, ANT_LAYERS = "Isaac-Ant", 60, 8, [400, 200, 100]
SAMPLES, ANT_STEPS = 32_768, 32
"""Of a minibatch on the Ant: 4,096 environments, 32 control steps, 4 minibatches."""
ANN = "mlp_ppo"
MOST_KERNELS, MOST_OPERATIONS, MOST_BYTES = 6, 18, 2.5e9
"""Of ``lif_ppo`` as it ships for the Ant."""


def network(agent: str, device: str = DEVICE, samples: int = SAMPLES):
    """An agent's network on the device, observations [T, B, O], its state and where episodes begin."""
    if is_for_ant(agent):
        host = point_env.config(steps=ANT_STEPS)
        host["actor"]["hidden_dims"] = host["critic"]["hidden_dims"] = ANT_LAYERS
        chosen = spec.resolve_agent(agent, ANT, host).network
        inputs, outputs, width = ANT_OBSERVATIONS, ANT_ACTIONS, ANT_OBSERVATIONS
    else:
        chosen, images, outputs = network_of(agent), takes_images(agent), OUTPUTS
        inputs, width = (IMAGE, torch.Size(IMAGE).numel()) if images else (OBSERVATIONS, OBSERVATIONS)
    made = chosen.build(inputs=inputs, outputs=outputs).to(device)
    time = 1
    if made.stateful:
        time = ANT_STEPS if is_for_ant(agent) else CONTROL_STEPS
    batch = samples // time if is_for_ant(agent) else BATCH
    x = torch.zeros(time, batch, width, device=device)
    if not made.stateful:
        return made, x, None, None
    return made, x, made.zero_state(batch, x), torch.ones(time, batch, device=device)


def is_for_ant(agent: str) -> bool:
    """Whether an agent has settings of its own for the Ant."""
    return ANT in (spec.read_agent(agent)[1].get("tasks") or {})


def minibatch(made, x, state, keep) -> None:
    """Forward and backward, or a reservoir's control step: what `network` gives."""
    if made.fixed_size is not None:
        made.compute_fixed_part(x[:1], state, keep[:1], adapt=True)
    else:
        made(x, state, keep)[0].sum().backward()


@cache
def costs(agent: str) -> tuple[int, int, float]:
    """Of the forward and backward pass of a minibatch; of a reservoir, whose features are the rollout's: of a control step."""
    with pretended() as cuda:
        with cuda.pretence.setting_up():
            made, x, state, keep = network(agent)
        return count(cuda, lambda: minibatch(made, x, state, keep))


def count(cuda, run) -> tuple[int, int, float]:
    """Kernels, operations of torch and bytes of ``run()``."""
    counters = (cuda.cupy.launches, cuda.pretence.operations, cuda.pretence.traffic)
    before = [counter.total() for counter in counters]
    run()
    kernels, operations, size = (counter.total() - n for counter, n in zip(counters, before, strict=True))
    return kernels, operations, size


def ann_costs() -> tuple[int, int, float]:
    """Of the MLP that Isaac Lab trains on the Ant."""
    sizes, layers = [ANT_OBSERVATIONS, *ANT_LAYERS, ANT_ACTIONS], []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        layers += [torch.nn.Linear(inputs, outputs), *([torch.nn.ELU()] if i < len(ANT_LAYERS) else [])]
    with pretended() as cuda:
        with cuda.pretence.setting_up():
            made = converted(torch.nn.Sequential(*layers), lambda x: cuda.fake(x).to(DEVICE))
            x = torch.zeros(SAMPLES, ANT_OBSERVATIONS, device=DEVICE)
        return count(cuda, lambda: made(x).sum().backward())


SPIKING = [agent for agent in AGENTS if network_of(agent) is not None]


def row(agent: str, kernels: int, operations: int, size: float) -> str:
    """A line of the table in the docs."""
    traffic = f"{size / 1e9:.2f}" if agent == ANN or is_for_ant(agent) else "-"
    return f"| `{agent}` | {kernels} | {operations} | {traffic} |"


@pytest.mark.slow
def test_the_table_in_the_docs_is_true():
    lines = [row(agent, *costs(agent)) for agent in SPIKING] + [row(ANN, *ann_costs())]
    text = DOCS.read_text(encoding="utf-8")
    missing = [line for line in lines if line not in text]
    assert not missing, "\n".join(["docs/performance.md lacks:", *lines])


def test_an_update_on_the_ant_has_few_launches_and_little_traffic():
    kernels, operations, size = costs("lif_ppo")
    assert network("lif_ppo", "cpu", samples=1)[0].sparsity is not None, "as it ships for the Ant"
    assert kernels <= MOST_KERNELS and operations <= MOST_OPERATIONS
    assert size <= MOST_BYTES
    assert size > ann_costs()[2] > 1e9, "a spiking update moves more than the MLP's, and both are counted"


@pytest.mark.slow
def test_a_loop_over_time_costs_no_more_launches_than_a_layer():
    assert costs("alif_recurrent_ppo")[1] <= MOST_RECURRENT
    assert costs("sigma_delta_ppo")[1] <= MOST_RECURRENT
    for agent in SPIKING:
        if "reservoir" in agent and "plastic" not in agent:
            assert costs(agent)[1] <= MOST_RESERVOIR, agent


@pytest.mark.parametrize("fault", ["a copy of the spikes", "a tensor that is read twice"])
def test_more_traffic_is_counted(fault, monkeypatch):
    from spiky_rl.kernels import gpu_stack

    linear = torch.nn.functional.linear

    def wasteful(x, weight, bias=None):
        if fault == "a copy of the spikes":
            return linear(x.clone(), weight, bias)
        x.sum()
        return linear(x, weight, bias)

    before = costs("lif_ppo")
    monkeypatch.setattr(gpu_stack.torch.nn.functional, "linear", wasteful)
    assert costs.__wrapped__("lif_ppo")[2] > before[2] + 3e8
