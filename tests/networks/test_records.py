"""A recorded pass costs what one without a record costs, and keeps no more than it is asked for."""

from collections import Counter

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.kernels import programs
from spiky_rl.learners.common.activity import record_step, record_steps
from spiky_rl.networks._layer import SpikingLayer
from spiky_rl.networks.base import ForwardRecord
from tests.kernels.cases import CPU

LAYERS, BATCH = [7, 5], 4


def network(**options):
    torch.manual_seed(0)
    settings = {
        "name": "feedforward",
        "layers": LAYERS,
        "neuron": {"name": "lif", "tau": 2.0, "input_gain": "unit"},
    }
    return registry.configure("networks", {**settings, **options}, "network").build(inputs=6, outputs=2)


@pytest.mark.skipif(
    CPU.get_unavailable_reason() is not None, reason=f"no compiled kernels: {CPU.get_unavailable_reason()}"
)
@pytest.mark.parametrize("grad", [False, True])
def test_a_record_runs_every_layer_once(grad):
    made, x, record = network(decoder="rate"), torch.rand(1, BATCH, 6), ForwardRecord()
    before = Counter(CPU.launches)
    with torch.set_grad_enabled(grad):
        y, _ = made(x, None, record=record)
    ran = sum(count for key, count in (Counter(CPU.launches) - before).items() if key in programs.PROGRAMS)
    # with gradients an operator runs it, which gives no potentials
    assert ran == len(LAYERS) * (2 if grad else 1)
    assert torch.equal(y, made(x, None)[0])
    reference = ForwardRecord()
    made.set_backend("torch")
    with torch.no_grad():
        made(x, None, record=reference)
    for a, b in zip(record.potentials, reference.potentials, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


ENCODERS = [
    *registry.list_names("encoders"),
    {"name": "delta", "start": "first"},
    {"name": "population", "mode": "poisson"},
    {"name": "concat", "second": {"name": "delta", "start": "first"}},
]


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("encoder", ENCODERS, ids=str)
def test_the_pass_that_is_measured_is_the_one_that_acts(encoder, stateful):
    made, x = network(encoder=encoder, stateful=stateful), torch.randn(BATCH, 6)
    features = []
    made.register_forward_hook(lambda module, given, found: features.append(found[0]))
    with torch.no_grad():
        made(x[None], made.zero_state(BATCH, x) if stateful else None)
    record_step(made, x, None)
    if not stateful:  # the control steps of a raster are independent samples
        record_steps(made, x[:, None], None, torch.zeros(BATCH, dtype=torch.bool))
    acting, *measured = features
    assert all(torch.allclose(each, acting, atol=1e-6) for each in measured)


def test_a_local_rule_keeps_the_signals_of_a_rollout_and_nothing_else(monkeypatch):
    made, traces, records = network(learning="stdp"), [], []
    forward, change = SpikingLayer.forward, made.learning.apply_weight_change

    def watched(layer, *args):
        traces.append(args[-1])
        return forward(layer, *args)

    def changed(layers, signals, credit, keep):
        records.append(signals)
        return change(layers, signals, credit, keep)

    monkeypatch.setattr(SpikingLayer, "forward", watched)
    monkeypatch.setattr(made.learning, "apply_weight_change", changed)
    before = made.layers[0].connection.weight.clone()
    made.apply_local_rules(torch.rand(1, BATCH, 6), None, None, torch.ones(1, BATCH))
    assert traces == [None] * len(LAYERS), "no potentials are kept"
    assert len(records[0]) == len(LAYERS) + 1
    assert not torch.equal(made.layers[0].connection.weight, before)
    record = ForwardRecord(only_signals=True)
    with torch.no_grad():
        made(torch.rand(1, BATCH, 6), None, record=record)
    assert len(record.signals) == len(LAYERS) + 1 and record.potentials == record.operations == []


def test_a_record_of_signals_only_has_the_same_signals_and_nothing_else_of_a_reservoir():
    settings = {"name": "reservoir", "size": 20}
    made = registry.configure("networks", settings, "network").build(inputs=6, outputs=2)
    x = torch.randn(3, BATCH, 6)
    whole, signals = ForwardRecord(), ForwardRecord(only_signals=True)
    for record in (whole, signals):
        made(x, made.zero_state(BATCH, x), record=record)
    assert all(torch.equal(a, b) for a, b in zip(signals.signals, whole.signals, strict=True))
    assert not (signals.potentials or signals.operations) and whole.potentials and whole.operations
