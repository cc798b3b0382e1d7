"""A spiking classifier's operations beside NeuroBench's own harness: its frozen figures, and the harness itself where it is installed.

The frozen figures are those of neurobench 2.3.0 with snntorch 1.0.0, for weights and events of a closed formula. The harness
moves no version of the lock: ``pip install --no-deps neurobench==2.3.0``.
"""

import math

import pytest
import torch
from torch import nn

from spiky_rl.config import registry
from spiky_rl.metrics import energy
from tests.metrics.costs import of_network

TIME, BATCH, INPUTS, HIDDEN, CLASSES = 12, 5, 6, (8, 7), 4
TAU = 5.0
FROZEN = {
    "events": {"macs": 0.0, "acs": 379.2, "dense": 1584.0, "activation": 583 / 900, "connection": 0.3333},
    "graded": {"macs": 145.6, "acs": 251.6, "dense": 1584.0, "activation": 561 / 900, "connection": 0.3333},
}
"""Per sample of `TIME` steps; of 5 x 12 x 15 activations, as the harness gives them; it rounds connections to four digits."""


def weight(outputs: int, inputs: int) -> torch.Tensor:
    """[outputs, inputs]; every third weight is 0."""
    index = torch.arange(outputs * inputs, dtype=torch.float64)
    values = torch.sin(1.7 * index + 0.3) + 0.3
    return torch.where(index.long() % 3 == 1, 0.0, values).view(outputs, inputs).float()


def events() -> torch.Tensor:
    """[T, B, C] of 0 and 1."""
    index = torch.arange(TIME * BATCH * INPUTS, dtype=torch.float64)
    return (torch.sin(2.3 * index) > 0.4).float().view(TIME, BATCH, INPUTS)


def graded() -> torch.Tensor:
    """[T, B, C], a frame of values wherever there is an event."""
    return 1.5 * events()


SIZES = [(HIDDEN[0], INPUTS), (HIDDEN[1], HIDDEN[0]), (CLASSES, HIDDEN[1])]
SAMPLES = {"events": events, "graded": graded}


def ours(x: torch.Tensor) -> energy.InferenceCost:
    settings = {
        "name": "feedforward",
        "layers": list(HIDDEN),
        "steps": 1,
        "stateful": True,
        "neuron": {"name": "lif", "input_gain": "unit", "tau": TAU, "reset": "zero"},
        "connection": {"name": "linear", "bias": False},
        "decoder": "rate",
    }
    network = registry.configure("networks", settings, "network").build(inputs=INPUTS, outputs=CLASSES)
    first, second = (layer.connection for layer in network.layers)
    with torch.no_grad():
        first.weight.copy_(weight(*SIZES[0]).t())
        second.weight.copy_(weight(*SIZES[1]).t())
        network.readout.weight.copy_(weight(*SIZES[2]))
    return of_network(network, x, network.zero_state(BATCH, x))


def figures(cost: energy.InferenceCost) -> dict[str, float]:
    return {
        "macs": cost.effective_macs,
        "acs": cost.effective_acs,
        "dense": cost.dense_operations,
        "activation": cost.activation_sparsity,
        "connection": cost.connection_sparsity,
    }


def theirs(x: torch.Tensor) -> dict[str, float]:
    """What the harness says of the same network, built of snntorch's neurons."""
    import snntorch
    from neurobench.benchmarks import Benchmark
    from neurobench.metrics.static import ConnectionSparsity
    from neurobench.metrics.workload import ActivationSparsity, SynapticOperations
    from neurobench.models import SNNTorchModel
    from torch.utils.data import DataLoader, TensorDataset

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            layers = [nn.Linear(i, o, bias=False) for o, i in SIZES]
            for layer, size in zip(layers, SIZES, strict=True):
                layer.weight.data = weight(*size)
            self.linear = nn.ModuleList(layers)
            self.leaky = nn.ModuleList(
                snntorch.Leaky(beta=math.exp(-1 / TAU), reset_mechanism="zero", reset_delay=False)
                for _ in HIDDEN
            )
            self.reset()

        def reset(self):
            self.potentials = [torch.zeros(()) for _ in HIDDEN]

        def forward(self, x):
            for i, (layer, neuron) in enumerate(zip(self.linear, self.leaky, strict=False)):
                x, self.potentials[i] = neuron(layer(x), self.potentials[i])
            return self.linear[-1](x), None

    loader = DataLoader(TensorDataset(x.transpose(0, 1), torch.zeros(BATCH)), batch_size=BATCH)
    metrics = [[ConnectionSparsity], [ActivationSparsity, SynapticOperations]]
    with torch.no_grad():
        found = Benchmark(SNNTorchModel(Twin()), loader, [], [], metrics).run(quiet=True)
    operations = found["SynapticOperations"]
    return {
        "macs": float(operations["Effective_MACs"]),
        "acs": float(operations["Effective_ACs"]),
        "dense": float(operations["Dense"]),
        "activation": float(found["ActivationSparsity"]),
        "connection": float(found["ConnectionSparsity"]),
    }


@pytest.mark.parametrize("name", SAMPLES)
def test_a_classifier_costs_what_neurobench_froze(name):
    assert figures(ours(SAMPLES[name]())) == pytest.approx(FROZEN[name], rel=1e-6, abs=5e-5)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_classifier_costs_what_the_installed_neurobench_says(name):
    pytest.importorskip("neurobench", reason="a test-only oracle: pip install --no-deps neurobench==2.3.0")
    x = SAMPLES[name]()
    assert theirs(x) == pytest.approx(FROZEN[name], rel=1e-6, abs=5e-5)
    assert figures(ours(x)) == pytest.approx(theirs(x), rel=1e-6, abs=5e-5)
