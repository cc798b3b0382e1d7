"""Mirror images of tasks whose left and right are alike, for symmetry_cfg of an agent (symmetric_ppo.yaml in this folder)."""

from tensordict import TensorDict
from torch import Tensor, cat


def mirror_signs(
    env: object, obs: TensorDict | None, actions: Tensor | None
) -> tuple[TensorDict | None, Tensor | None]:
    """Append the mirror image of every sample, for a cart with a pole: all positions, velocities and forces change their signs.

    rsl_rl gives the environment ``env``, and ``obs`` [B] or ``actions`` [B, A] or both; each comes back with 2 B samples.
    """
    return (
        None if obs is None else cat([obs, obs.apply(Tensor.neg)]),  # type: ignore[return-value]
        None if actions is None else cat([actions, -actions]),
    )
