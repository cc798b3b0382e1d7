"""What a pretended CUDA device is for: whatever waits for it in a rollout or a minibatch, or mixes devices, is an error there."""

import pytest
import torch

from spiky_rl.codecs.encoders.direct import Direct
from spiky_rl.config import registry
from spiky_rl.kernels.backends import cupy as cupy_backend
from spiky_rl.learners.rsl_rl import SpikingModel
from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from spiky_rl.networks._layer import SpikingLayer
from spiky_rl.networks.feedforward import FeedForward
from tests.hosts.point_env import LIF, config
from tests.hosts.pretend_case import STEPS, World, Writer
from tests.hosts.pretend_cuda import DEVICE, HostSync, pretended
from tests.kernels.cases import CUPY

pytestmark = pytest.mark.slow

STATELESS = {**LIF, "layers": [6, 5]}
STATEFUL = {**STATELESS, "stateful": True}


def train(network=None):
    """One iteration on a pretended device."""
    with pretended() as cuda:
        with cuda.pretence.setting_up():
            run = RslRlRunner(
                World(), config(network or STATELESS, steps=STEPS), "nowhere", DEVICE, picture_interval=5
            )
        run.logger.writer = Writer()
        run.save = lambda path: run.alg.save()
        run.learn(1)


def after(monkeypatch, cls, name, fault):
    """Let a function do something more with what it returns."""
    whole = getattr(cls, name)

    def faulty(*args, **kwargs):
        found = whole(*args, **kwargs)
        fault(found, *args)
        return found

    monkeypatch.setattr(cls, name, faulty)


SYNCS = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "int of a tensor": lambda x: int(x.sum()),
    "tolist": lambda x: x.flatten().tolist(),
    "a truth": lambda x: bool((x > 0).any()),
    "an assertion": lambda x: torch.equal(x, x + 1),
    "nonzero": lambda x: x.nonzero(),
    "a mask": lambda x: x[x > 0],
    "assignment by a mask": lambda x: x.clone().index_put_((x > 0,), x[..., 0].flatten()),
    "unique": lambda x: x.unique(),
    "masked_select": lambda x: x.masked_select(x > 0),
    "cpu": lambda x: x.cpu(),
    "to cpu": lambda x: x.to("cpu"),
    "numpy": lambda x: x.detach().cpu().numpy(),
    "a tensor from the host": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "an index of the host": lambda x: x[torch.tensor([0])],
    "as another, which lies with the host": lambda x: torch.ones(3).to(x),
    "the device itself": lambda x: torch.cuda.synchronize(),
}


@pytest.mark.parametrize("inference", [False, True], ids=["", "in inference mode"])
@pytest.mark.parametrize("kind", SYNCS)
def test_what_waits_for_the_device_is_told_from_what_does_not(kind, inference):
    with pretended(), torch.inference_mode(inference):
        x = torch.rand(2, 3, device=DEVICE)
        with pytest.raises(HostSync, match="test_pretend_cuda_catches"):
            SYNCS[kind](x)


FINE = {
    "arithmetic": lambda x: (x + 1.0) * x.sum() / torch.tensor(2.0),
    "a size": lambda x: x.numel() * x.shape[0],
    "a choice": lambda x: torch.where(x > 0, x, 0.0),
    "assignment of a number by a mask": lambda x: x.clone().masked_fill_(x > 0, 0.0),
    "an index of the device": lambda x: x[torch.zeros(2, dtype=torch.long, device=x.device)],
    "a copy that does not wait": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "a gradient": lambda x: torch.autograd.grad(x.requires_grad_().square().sum(), x),
}


@pytest.mark.parametrize("kind", FINE)
def test_what_does_not_wait_is_left_alone(kind):
    with pretended():
        FINE[kind](torch.rand(2, 3, device=DEVICE))


def test_without_a_fault_all_is_right():
    train()
    train(STATEFUL)


PLACES = {
    "a layer": (SpikingLayer, "forward", lambda found, *_: found[0].sum().item()),
    "a network": (FeedForward, "forward", lambda found, *_: bool(found[0].isfinite().all())),
    "an encoder": (Direct, "forward", lambda found, *_: found.max().tolist()),
    "a model's resets": (
        SpikingModel,
        "reset",
        lambda _, model, dones=None: dones is None or dones.nonzero(),
    ),
    "what is listed, but in a control step": (
        SpikingModel,
        "reset",
        lambda _, model, *__: model.network.get_extra_state(),
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_wait_in_a_rollout_or_a_minibatch_is_caught(place, monkeypatch):
    after(monkeypatch, *PLACES[place])
    with pytest.raises(HostSync):
        train()


def test_a_wait_in_a_gradient_is_caught(monkeypatch):
    backward = CUPY.layer_backward

    def faulty(*args, **kwargs):
        grads = backward(*args, **kwargs)
        assert float(grads[0].abs().max()) < 1e9
        return grads

    monkeypatch.setattr(CUPY, "layer_backward", faulty)
    with pytest.raises(HostSync, match="faulty"):
        train()


MIXES = {
    "a plain attribute, which nobody moves": (
        SpikingModel,
        lambda found, obs, *_: found + torch.ones(6, 2),
    ),
    "a mask of the host": (
        SpikingModel,
        lambda found, obs, *_: torch.where(torch.ones(6, 1) > 0, found, 0.0),
    ),
}


@pytest.mark.parametrize("mix", MIXES)
def test_a_mix_of_devices_is_caught(mix, monkeypatch):
    cls, fault = MIXES[mix]
    after(monkeypatch, cls, "forward", fault)
    with pytest.raises(RuntimeError, match="two different devices|Unhandled FakeTensor Device Propagation"):
        train()


@pytest.mark.parametrize("grad", [False, True], ids=["rollout", "minibatch"])
def test_a_state_of_the_host_reaches_no_kernel(grad):
    with pretended() as cuda:
        with cuda.pretence.setting_up():
            built = registry.configure("networks", {"name": "feedforward", **STATEFUL}, "n").build(
                inputs=5, outputs=2
            )
            built.to(DEVICE)
        x, state = torch.rand(1, 6, 5, device=DEVICE), built.zero_state(6, torch.empty(0))
        with (
            torch.set_grad_enabled(grad),
            pytest.raises(TypeError, match="states: on cpu given; expected: on cuda"),
        ):
            built(x, state)


@pytest.mark.parametrize("wrong", ["missing", "a float", "a Python int as a size"])
def test_a_launch_with_another_argument_than_the_kernels_is_caught(wrong, monkeypatch):
    arguments = cupy_backend.build_arguments

    def faulty(*args):
        values = list(arguments(*args))
        if wrong == "missing":
            del values[3]
        elif wrong == "a float":
            values[-1] = float(values[-1])
        else:
            size = -len(args[3]) - len(args[4]) - 2
            values[size] = int(values[size])
        return tuple(values)

    monkeypatch.setattr(cupy_backend, "build_arguments", faulty)
    with pytest.raises(AssertionError, match="spiky_layer_forward"):
        train()
