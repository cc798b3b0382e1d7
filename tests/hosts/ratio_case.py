"""How far a replay may be from the rollout where torch multiplies the matrices: PPO's ratio on a GPU.

A rollout multiplies [B, C], a minibatch [T B / M, C], and a library that adds in another order for another shape moves a current in
its last bits. Nearly always that moves a log-probability in its last bits; a membrane that lies that near to its threshold flips, and
the log-probability jumps. cuBLAS chooses by shape. MKL did not: stored and replayed were equal to the bit. So other orders were
emulated, as `test_ratio_case` does: rollouts as MKL adds, replays in four parts of permuted inputs. `NETWORKS` on the point mass, six
seeds each, 12,288 samples a seed:

* float32, other order: off by more than 1e-4 in 4 of 24 rollouts, at most 12 of the 12,288 samples (0.1 %): a flip and what followed in
  its episode, by up to 0.18. All other samples are within 2e-6.
* TF32 in both, other order (a seed each): none off by more than 5e-7. Inputs of 11 bits have products, and nearly always sums, that
  float32 holds exactly.
* float32 in the rollout and TF32 in the replay, as a library may choose for a small shape and a large one: 6 to 61 % off by more than
  1e-4, as the readout rounds too; 0.9 to 13 % by more than 1e-2, by up to 0.74: flips. Layers of 400 and 200 neurons: 17 and 6.5 %.
  Rollouts of 8 environments: up to 44 and 16 %.

So where torch multiplies in float32 (its default), `FLIPPED` of the samples may jump, five times what was measured, and all others
agree within `NEAR`. Under Isaac Lab's settings, TF32, `JUMPED_TF32` may be off by more than `JUMP`, a little more than was measured.
"""

import torch

from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from tests.hosts.point_env import LIF

ENVIRONMENTS = 512
"""With 24 steps 12,288 samples, so that a share of them can be small."""
NEAR, FLIPPED = 1e-4, 5e-3
JUMP, JUMPED_TF32 = 1e-2, 0.2
ALIF = {"name": "alif", "tau": 2.0, "input_gain": "unit", "tau_adaptation": 20.0, "adaptation": 0.2}
NETWORKS = {
    "lif": {**LIF, "layers": [128, 128], "steps": 4},
    "stateful": {**LIF, "layers": [128, 128], "steps": 2, "stateful": True},
    "population": {**LIF, "layers": [16, 8], "stateful": True, "encoder": "population"},
    "recurrent": {
        **LIF,
        "layers": [128],
        "steps": 2,
        "stateful": True,
        "neuron": ALIF,
        "recurrent": {"name": "recurrent", "gain": 0.5},
    },
}


def replayed_differences(run: RslRlRunner) -> torch.Tensor:
    """Of all samples: the difference between stored and replayed log-probability, in one pass of minibatches."""
    alg, found = run.alg, []
    recurrent = alg.actor.is_recurrent or alg.critic.is_recurrent
    make = alg.storage.recurrent_mini_batch_generator if recurrent else alg.storage.mini_batch_generator
    for batch in make(alg.num_mini_batches, 1):
        hidden = batch.hidden_states[0]
        alg.actor(batch.observations, masks=batch.masks, hidden_state=hidden, stochastic_output=True)
        replayed = alg.actor.get_output_log_prob(batch.actions).detach()
        found.append((replayed - batch.old_actions_log_prob.squeeze(-1)).abs().flatten())
    return torch.cat(found)


def share(differences: torch.Tensor, limit: float) -> float:
    """Of samples that are off by more than ``limit``."""
    return (differences > limit).double().mean().item()
