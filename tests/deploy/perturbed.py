"""Learned values and statistics as a training leaves them: no two equal, none that was drawn as a round number still one."""

import torch

SHARE = 0.2
"""Standard deviation of what is added to a learned array, in the root mean square of its values."""
LEAST = 0.1
"""What counts as that root mean square where it is smaller: an array of zeros is learned too."""
ONES = {"deviation", "_std", "_var", "running_var", "running_variance"}
"""Buffers of scales, which are positive and begin at 1."""
ZEROS = {"mean", "_mean", "running_mean"}
"""Buffers of means, which begin at 0."""
COUNTS = {"count", "current_count", "num_batches_tracked"}


def perturb_learned_values(module, seed=0):
    """Change every learned value of a ``module`` and every statistic that its normalisers hold, as a training would; return it.

    A freshly drawn policy proves little of an export: receptive fields that are equal in all inputs, biases of 0, means of 0 and
    deviations of 1 fold into single numbers that a trained policy does not have.

    Args:
        module: A policy or a part of one; it is changed in place, on its device.
        seed: Of the changes, whatever the global generator is at.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(values):
        return torch.randn(values.shape, generator=generator).to(values)

    with torch.no_grad():
        for values in module.parameters():
            if values.requires_grad or values.any():  # a bias that there is not stays 0
                size = values.square().mean().sqrt().clamp(min=LEAST)
                values += SHARE * size * drawn(values)
        for path, values in module.named_buffers():
            name = path.rpartition(".")[2]
            if name in ZEROS:
                values += drawn(values)
            elif name in ONES - {"_std"}:
                values *= (0.5 * drawn(values)).exp()
            elif name in COUNTS:
                values += 1000
            elif name == "noise":  # an encoder's, drawn anew after every update
                values.copy_(torch.rand(values.shape, generator=generator))
        for part in module.modules():
            if isinstance(getattr(part, "_std", None), torch.Tensor):
                part._std.copy_(part._var.sqrt())  # rsl_rl keeps both
            if getattr(part, "plasticity", None) is not None:
                part.weight *= (
                    SHARE * drawn(part.weight)
                ).exp()  # a reservoir's synapses: learned, and yet no parameter
    return module
