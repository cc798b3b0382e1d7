"""Build a spiking network, step it, and train it to tell which of two numbers is larger.

python examples/quickstart.py
"""

import torch

from spiky_rl.config import registry

BATCH, UPDATES = 256, 150


def main() -> float:
    """Train for a few seconds and give the share of right answers."""
    torch.manual_seed(0)
    neuron = {"name": "lif", "tau": 4.0}
    settings = {"name": "feedforward", "layers": [32, 32], "steps": 8, "neuron": neuron}
    network = registry.configure("networks", settings, "network").build(inputs=2, outputs=2)

    # one control step for a batch: observations [T, B, O] -> features [T, B, F], state
    features, _ = network(torch.randn(1, BATCH, 2), None)
    print(f"features: {list(features.shape)}")

    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    right = 0.0
    for update in range(UPDATES):
        x = torch.randn(1, BATCH, 2)
        answer = (x[0, :, 1] > x[0, :, 0]).long()
        features, _ = network(x, None)
        loss = torch.nn.functional.cross_entropy(features[0], answer)
        optimiser.zero_grad()
        loss.backward()  # through spikes, by the surrogate's derivative
        optimiser.step()
        right = (features[0].argmax(-1) == answer).float().mean().item()
        if update % 50 == 49:
            print(f"update {update + 1}: {100 * right:.0f} % right")
    return right


if __name__ == "__main__":
    main()
