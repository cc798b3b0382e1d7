"""skrl's AMP with a spiking actor, as examples/amp.py has it: the actor moves as the recorded motions do."""

import runpy
from pathlib import Path

import pytest

from spiky_rl.learners.common.activity import record_step

pytest.importorskip("skrl", reason="the skrl extra is not installed")

FILE = Path(__file__).resolve().parents[2] / "examples" / "amp.py"


@pytest.mark.slow
def test_a_spiking_actor_imitates_recorded_motions():
    main = runpy.run_path(str(FILE))["main"]
    speeds = []
    for updates in (1, 40):
        agent, motions = main(updates)
        transitions = agent.memory.get_tensor_by_name("amp_observations").reshape(-1, motions.shape[-1])
        speeds.append(transitions[:, 2].abs().mean().item())
    record = record_step(agent.policy.network, motions[:32, :3], None)
    assert all(
        0.0 < layer.mean() < 1.0 and set(layer.unique().tolist()) == {0.0, 1.0}
        for layer in record.layer_spikes
    )
    recorded = motions[:, 2].abs().mean().item()
    assert recorded > 6.0 and speeds[0] < 0.5 * recorded < 0.7 * recorded < speeds[1], (recorded, speeds)
