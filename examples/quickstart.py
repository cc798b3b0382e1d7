"""Build a spiking network, step it, and train it to tell which of two numbers is larger.

python examples/quickstart.py
"""

import torch

import spiky_rl

BATCH, UPDATES = 256, 150


def main() -> float:
    """Train for a few seconds and give the share of right answers."""
    torch.manual_seed(0)
    network = spiky_rl.network(2, 2, layers=[32, 32], neuron={"name": "lif", "tau": 4.0}, steps=8)

    # one control step for a batch: observations [B, O] -> features [B, F]
    features = network(torch.randn(BATCH, 2))
    print(f"features: {list(features.shape)}")

    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    right = 0.0
    for update in range(UPDATES):
        x = torch.randn(BATCH, 2)
        answer = (x[:, 1] > x[:, 0]).long()
        features = network(x)
        loss = torch.nn.functional.cross_entropy(features, answer)
        optimiser.zero_grad()
        loss.backward()  # through spikes, by the surrogate's derivative
        optimiser.step()
        right = (features.argmax(-1) == answer).float().mean().item()
        if update % 50 == 49:
            print(f"update {update + 1}: {100 * right:.0f} % right")
    return right


if __name__ == "__main__":
    main()
