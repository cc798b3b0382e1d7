"""A damaged checkpoint is refused by name and in one line: any byte of it, its metadata, and weights that are no numbers."""

import copy
import math
import random

import pytest
import torch

from spiky_rl.learners.common.checkpoints import (
    CLASSIFY_KEYS,
    CheckpointError,
    get_random_state,
    read_checkpoint,
)
from spiky_rl.learners.rsl_rl.activity import compute_last_activity
from tests.hosts.test_runner import runner

FLIPS = 200


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A checkpoint of four iterations, as bytes and as content."""
    path = tmp_path_factory.mktemp("good") / "model_3.pt"
    run = runner()
    run.learn(4)
    run.save(str(path))
    return path.read_bytes(), torch.load(path, weights_only=True)


def leaves(value, name=""):
    """Everything in nested containers, by name."""
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{name}.{key}")
    else:
        yield name, value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value)


def test_a_flipped_bit_is_refused_or_changes_nothing(good, tmp_path):
    whole, content = good
    path, generator, refused = tmp_path / "model.pt", random.Random(0), 0
    for place in generator.sample(range(len(whole)), FLIPS):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            held = read_checkpoint(str(path))
        except CheckpointError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        else:
            assert dict(leaves(held)) == dict(leaves(content)), place
    assert refused > FLIPS // 2, "most of the file is weights and states"


def test_a_tensor_that_a_flipped_bit_makes_a_folder_is_refused(good, tmp_path):
    """torch reads nothing of a folder, and gives memory as it is."""
    whole, path = bytearray(good[0]), tmp_path / "model.pt"
    entry = whole.index(b"PK\x01\x02")  # of the first part, in the table at the end
    whole[entry + 38] ^= 0x10  # its attributes
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match="damaged .its parts are folders"):
        read_checkpoint(str(path))


def test_torch_alone_does_not_notice_a_flipped_bit_in_a_weight(good, tmp_path):
    """Why the checksums are looked at: a reader that does not gets another weight."""
    whole, content = good
    weight = next(value for value in content["actor_state_dict"].values() if value.numel() > 100)
    damaged = bytearray(whole)
    damaged[whole.index(weight.numpy().tobytes()) + 2] ^= 64
    path = tmp_path / "model.pt"
    path.write_bytes(damaged)
    held = torch.load(path, weights_only=True)
    assert dict(leaves(held)) != dict(leaves(content))
    with pytest.raises(CheckpointError, match="not a checkpoint, or damaged .*the checksum of"):
        read_checkpoint(str(path))


def put(path, value):
    """A change of the content: ``value`` at a dotted path, or its removal."""

    def change(content):
        *parents, last = path.split("/")
        node = content
        for part in parents:
            node = node[part if not isinstance(node, list) and part in node else int(part)]
        last = int(last) if isinstance(node, list) else last
        if value is REMOVED:
            del node[last]
        else:
            node[last] = value

    return change


REMOVED = object()
OURS = "infos/spiky_rl"
STATE = f"{OURS}/random"
DAMAGES = {
    "iteration is text": (put("iter", "3"), "iter: expected a whole number, got '3'"),
    "iteration is negative": (put("iter", -1), "iter: -1 is out of range; it must be at least 0"),
    "iteration is a fraction": (put("iter", 2.5), "iter: expected a whole number, got 2.5"),
    "iteration is a truth": (put("iter", True), "iter: expected a whole number, got True"),
    "iteration is a tensor": (put("iter", torch.ones(3)), "iter: expected a whole number, got tensor"),
    "iteration is another": (put("iter", 2), "iter is 2, but progress.iterations is 4"),
    "no iteration": (put("iter", REMOVED), "iter missing"),
    "infos is a list": (put("infos", [1]), "infos: expected a mapping, got \\[1\\]"),
    "infos is text": (put("infos", "x"), "infos: expected a mapping, got 'x'"),
    "infos of ours is a number": (put(OURS, 3), "infos.spiky_rl: expected a mapping, got 3"),
    "no identity": (put(f"{OURS}/identity", REMOVED), "infos.spiky_rl: missing identity"),
    "identity is a list": (put(f"{OURS}/identity", []), "spiky_rl.identity: expected a mapping, got \\[\\]"),
    "task is a number": (put(f"{OURS}/identity/task", 3), "spiky_rl.identity.task: expected text, got 3"),
    "agent is a mapping": (put(f"{OURS}/identity/agent", {}), "identity.agent: expected text, got {}"),
    "seed is text": (put(f"{OURS}/identity/seed", "0"), "identity.seed: expected a whole number, got '0'"),
    "spec is text": (put(f"{OURS}/identity/spec", "x"), "identity.spec: expected a mapping, got 'x'"),
    "network is a list": (
        put(f"{OURS}/identity/spec", {"network": [1]}),
        "identity.spec.network: expected a mapping, got \\[1\\]",
    ),
    "actor is text": (
        put(f"{OURS}/identity/spec", {"actor": "x"}),
        "identity.spec.actor: expected a mapping, got 'x'",
    ),
    "no progress": (put(f"{OURS}/progress", REMOVED), "infos.spiky_rl: missing progress"),
    "progress is a list": (
        put(f"{OURS}/progress", [4]),
        "spiky_rl.progress: expected a mapping, got \\[4\\]",
    ),
    "unknown progress": (
        put(f"{OURS}/progress/speed", 1),
        "progress.speed: no such key; did you mean 'seconds'",
    ),
    "steps are negative": (
        put(f"{OURS}/progress/env_steps", -5),
        "progress.env_steps: -5 is out of range; it must be at least 0",
    ),
    "steps are text": (
        put(f"{OURS}/progress/env_steps", "5"),
        "progress.env_steps: expected a whole number, got '5'",
    ),
    "time is NaN": (
        put(f"{OURS}/progress/seconds_learning", math.nan),
        "seconds_learning: nan is out of range",
    ),
    "returns are no list": (
        put(f"{OURS}/progress/returns", 1.0),
        "progress.returns: expected a list, got 1.0",
    ),
    "a return is text": (
        put(f"{OURS}/progress/returns/0", "x"),
        "progress.returns: expected numbers, got 'x'",
    ),
    "a rate is negative": (
        put(f"{OURS}/progress/firing/0", -1),
        "progress.firing: -1.0 is out of range; it must be at least 0",
    ),
    "a return is infinite": (
        put(f"{OURS}/progress/returns/1", math.inf),
        "progress.returns: inf is out of range; it must be finite or NaN",
    ),
    "a count is a list": (
        put(f"{OURS}/progress/iterations", [4]),
        "progress.iterations: expected a whole number, got \\[4\\]",
    ),
    "courses of two lengths": (
        put(f"{OURS}/progress/steps/0", REMOVED),
        "spiky_rl.progress: lists per iteration have different lengths",
    ),
    "no random states": (put(STATE, REMOVED), "random: not a valid state of the generators"),
    "random states are text": (put(STATE, "x"), "spiky_rl.random: expected a mapping, got 'x'"),
    "short state of torch": (put(f"{STATE}/torch", torch.zeros(5, dtype=torch.uint8)), "random: not a valid"),
    "NumPy's position": (put(f"{STATE}/numpy/2", 10**6), "random: .* generators .position 1000000"),
    "Python's words": (put(f"{STATE}/python/1", [1, 2]), "random: not a valid state of the generators"),
}


ACTOR = "actor_state_dict/network.layers.0.connection.weight"
MOMENTS = "optimizer_state_dict/state/0"
DAMAGES |= {
    "a sparse tensor": (put(ACTOR, torch.eye(4, 16).to_sparse()), "damaged: "),
    "one value for all": (put(ACTOR, torch.ones(1).expand(4, 16)), "its 64 values share memory"),
    "more values than memory": (put(ACTOR, torch.ones(1).expand(2**40)), "values share memory"),
    "rows that overlap": (put(ACTOR, torch.ones(20).as_strided((4, 16), (1, 1))), "64 values share memory"),
    "a random state of one byte": (
        put(f"{STATE}/torch", torch.zeros(1, dtype=torch.uint8).expand(5056)),
        "random.torch: its 5,056 values share memory",
    ),
    "a negative variance": (put("actor_state_dict/obs_normalizer._var", -torch.ones(1, 4)), "_var: -1 is"),
    "a negative variance of returns": (
        put("reward_scaler_state_dict", {"var": -torch.ones(())}),
        "var: -1 is",
    ),
    "a negative spread": (put("actor_state_dict/obs_normalizer._std", -torch.ones(1, 4)), "_std: -1 is"),
    "a negative count": (put("actor_state_dict/obs_normalizer.count", torch.tensor(-3)), "count: -3 is out"),
    "a negative moment": (put(f"{MOMENTS}/exp_avg_sq", -torch.ones(2)), "state.0.exp_avg_sq: -1 is out"),
    "a negative step": (put(f"{MOMENTS}/step", torch.tensor(-1.0)), "state.0.step: -1 is out of range"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_metadata_is_refused_by_name(case, good, tmp_path):
    change, message = DAMAGES[case]
    content = copy.deepcopy(good[1])
    change(content)
    path = tmp_path / "model.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(str(path))
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"infos": None}, "infos: missing spiky_rl"),
        ({"infos": {"spiky_rl": {}}}, "infos.spiky_rl: missing identity"),
        ({"infos": {"spiky_rl": {"identity": {"dataset": 3}}}}, "identity.dataset: expected text, got 3"),
        ({"random": {}}, "random: not a valid state"),
    ],
)
def test_a_classification_s_damaged_metadata_is_refused_too(change, message, tmp_path):
    path, identity = tmp_path / "model.pt", {"dataset": "digits", "agent": "lif_ppo", "seed": 0}
    content = {key: {} for key in CLASSIFY_KEYS} | {"infos": {"spiky_rl": {"identity": identity}}}
    whole = content | {"random": get_random_state("cpu")}
    torch.save(whole, path)
    assert read_checkpoint(str(path), library="classify")["infos"] == whole["infos"]
    torch.save(whole | change, path)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(str(path), library="classify")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", ["actor_state_dict", "critic_state_dict", "optimizer_state_dict"])
def test_weights_that_are_no_numbers_are_refused_by_name(part, value, good, tmp_path):
    content = copy.deepcopy(good[1])
    states = content[part]["state"][0] if part == "optimizer_state_dict" else content[part]
    name = next(name for name, tensor in states.items() if tensor.is_floating_point() and tensor.ndim)
    states[name].view(-1)[-1] = value
    path = tmp_path / "model.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=f"{part}.*{name} has non-finite values"):
        read_checkpoint(str(path))


def test_checkpoints_without_our_metadata_are_read_as_before(good, tmp_path):
    path = tmp_path / "model.pt"
    for infos in (None, {}, {"other": 1}):
        torch.save({**good[1], "infos": infos}, path)
        assert read_checkpoint(str(path))["iter"] == 3


def test_a_clock_that_is_set_back_within_an_iteration_damages_no_checkpoint(tmp_path):
    run = runner()
    run.learn(1)
    run.record_iteration(1, 1, 8, (-3600.0, 1.0), {}, ([], []), compute_last_activity(run.alg))
    run.save(str(tmp_path / "model_1.pt"))
    assert read_checkpoint(str(tmp_path / "model_1.pt"))["iter"] == 1


def test_a_deviation_that_an_update_took_below_zero_is_read(good, tmp_path):
    content = copy.deepcopy(good[1])
    put("actor_state_dict/distribution.std_param", torch.tensor([1.0, -0.5]))(content)
    path = tmp_path / "model.pt"
    torch.save(content, path)
    read_checkpoint(str(path))
