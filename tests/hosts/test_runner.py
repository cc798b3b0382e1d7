"""The runner on rsl_rl's real classes: whole checkpoints, exact resumption, measures, and what it refuses."""

import copy
import json
import math
import pickle
import random

import numpy as np
import pytest
import torch
from rsl_rl.runners import OnPolicyRunner

from spiky_rl.learners.common.checkpoints import CheckpointError
from spiky_rl.learners.common.runner import StopTraining, TrainingProgress
from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from spiky_rl.run import run_folders
from tests.hosts.point_env import LIF, PointEnv, config

IDENTITY = {"task": "Isaac-Point", "agent": "lif", "seed": 0}
NETWORK = {**LIF, "layers": [16, 12]}
RANDOM = {
    **NETWORK,
    "encoder": {"name": "population", "mode": "poisson", "fields": 4},
    "surrogate": {"name": "arctangent", "slope": 2.0, "schedule": [10.0, 6]},
}
"""A network with a state of its own in every place: noise, slope, updates."""


def runner(env=None, folder=None, network=NETWORK, identity=IDENTITY, seed=0, pictures=None, **algorithm):
    torch.manual_seed(seed)
    cfg = config(network, steps=8, **algorithm)
    cfg["actor"]["obs_normalization"] = True
    log_dir = None if folder is None else str(folder)
    env = env or PointEnv()
    run = RslRlRunner(env, cfg, log_dir, identity=dict(identity), picture_interval=pictures or 1)
    if pictures is None:  # they take longer than the training
        run.draws_figures = lambda index: False
    return run


def parameters(run):
    return {
        f"{i}.{k}": v.clone() for i, model in enumerate(run.models) for k, v in model.state_dict().items()
    }


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def draws():
    """The next numbers of every generator that training draws from."""
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)]


SCHEDULES = {
    "adaptive": {"schedule": "adaptive", "desired_kl": 0.01},
    "fixed": {"critic_learning_rate": 1e-2},
    "novelty": {
        "rnd_cfg": {
            "num_outputs": 2,
            "predictor_hidden_dims": [4],
            "target_hidden_dims": [4],
            "state_normalization": True,
            "weight": 1.0,
            "weight_schedule": {"mode": "linear", "initial_step": 0, "final_step": 40, "final_value": 0.0},
        }
    },
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_a_resumed_run_goes_on_bit_for_bit(schedule, tmp_path):
    schedule = {"network": RANDOM, **schedule}
    whole = runner(**schedule)
    whole.learn(6)
    after = draws()
    env = PointEnv()
    first = runner(env, **schedule)
    first.learn(3)
    first.save(str(tmp_path / "model.pt"))
    middle = parameters(first)
    resumed = runner(env, seed=99, **schedule)
    assert not equal(parameters(resumed), middle)
    resumed.load(str(tmp_path / "model.pt"))
    assert equal(parameters(resumed), middle)
    resumed.learn(3)
    assert equal(parameters(resumed), parameters(whole))
    assert draws()[0] == after[0]
    assert resumed.alg.learning_rate == whole.alg.learning_rate
    assert resumed.current_learning_iteration == whole.current_learning_iteration == 5
    assert resumed.progress.iterations == 6
    assert resumed.progress.env_steps == whole.progress.env_steps == 6 * 8 * 8


def test_a_checkpoint_restores_optimiser_iteration_progress_and_random_states(tmp_path):
    path = str(tmp_path / "model.pt")
    run = runner(schedule="adaptive")
    random.seed(1)
    np.random.seed(2)
    run.learn(3)
    run.alg.learning_rate = run.alg.optimizer.param_groups[0]["lr"] = 1.25e-4
    run.save(path)
    expected, optimiser, progress = draws(), run.alg.optimizer.state_dict(), copy.deepcopy(run.progress)
    other = runner(seed=5, schedule="adaptive")
    other.load(path)
    assert draws() == expected
    assert other.alg.learning_rate == 1.25e-4
    assert other.current_learning_iteration == 3, "the next one"
    assert repr(other.progress) == repr(progress)  # equal where NaN stands, too
    restored = other.alg.optimizer.state_dict()
    assert restored["param_groups"] == optimiser["param_groups"]
    for key, moments in optimiser["state"].items():
        assert all(torch.equal(value, restored["state"][key][name]) for name, value in moments.items())


GROUPS = {
    "one rate": ({"learning_rate": 3e-4}, [3e-4]),
    "two rates": ({"learning_rate": 3e-4, "critic_learning_rate": 2e-3}, [3e-4, 2e-3]),
}


@pytest.mark.parametrize("case", GROUPS)
def test_a_resumed_run_learns_at_the_rates_of_its_settings_unless_a_schedule_changes_them(case, tmp_path):
    path, (rates, expected) = str(tmp_path / "model.pt"), GROUPS[case]
    before = {"critic_learning_rate": 1e-2} if len(expected) > 1 else {}
    run = runner(**before)
    run.learn(2)
    run.save(path)
    resumed = runner(seed=5, **rates)
    resumed.load(path)
    assert [group["lr"] for group in resumed.alg.optimizer.param_groups] == expected
    assert resumed.alg.learning_rate == 3e-4
    state, trained = (each.alg.optimizer.state_dict()["state"] for each in (resumed, run))
    assert trained and all(torch.equal(state[key]["exp_avg"], trained[key]["exp_avg"]) for key in trained)
    adaptive = runner(schedule="adaptive", desired_kl=0.01)
    adaptive.alg.learning_rate = adaptive.alg.optimizer.param_groups[0]["lr"] = 1.25e-4
    adaptive.save(path)
    resumed = runner(seed=5, schedule="adaptive", desired_kl=0.01, learning_rate=3e-4)
    resumed.load(path)
    assert resumed.alg.learning_rate == resumed.alg.optimizer.param_groups[0]["lr"] == 1.25e-4


def test_a_resumed_rank_above_0_does_not_repeat_the_noise_of_its_beginning(tmp_path):
    run = runner()
    run.learn(1)
    run.save(str(tmp_path / "model.pt"))
    first_noise = []
    for path in (None, tmp_path / "model.pt", tmp_path / "model.pt"):
        run = runner(seed=1)
        run.gpu_global_rank = 1
        torch.manual_seed(1)
        if path is not None:
            run.load(str(path))
        first_noise.append(torch.rand(3).tolist())
    new, resumed, again = first_noise
    assert resumed == again != new


def test_models_alone_can_be_loaded(tmp_path):
    path = str(tmp_path / "model.pt")
    run = runner()
    run.learn(2)
    run.save(path)
    other = runner(seed=5)
    before = torch.get_rng_state()
    other.load(path, {"actor": True, "critic": True})
    assert equal(parameters(other), parameters(run))
    assert other.current_learning_iteration == 0
    assert other.progress == TrainingProgress()
    assert torch.equal(torch.get_rng_state(), before)


def test_checkpoints_are_rsl_rls_own_in_both_directions(tmp_path):
    ours, theirs = str(tmp_path / "ours.pt"), str(tmp_path / "theirs.pt")
    run = runner()
    run.learn(2)
    run.save(ours)
    OnPolicyRunner.save(run, theirs)
    other = runner(seed=5)
    OnPolicyRunner.load(other, ours)
    assert equal(parameters(other), parameters(run))
    again = runner(seed=6)
    again.load(theirs)
    assert equal(parameters(again), parameters(run))
    assert again.progress.iterations == again.current_learning_iteration == 2


class Attack:
    """Opens a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A checkpoint of `NETWORK`, as bytes and as content."""
    path = tmp_path_factory.mktemp("good") / "model.pt"
    run = runner()
    run.learn(1)
    run.save(str(path))
    return path.read_bytes(), torch.load(path, weights_only=True)


def refused(path, message, **settings):
    """`Runner.load` raises a CheckpointError that names the file and says this."""
    with pytest.raises(CheckpointError, match=message) as caught:
        runner(**settings).load(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_refused(tmp_path):
    for path in (tmp_path / "model.pt", tmp_path):
        refused(path, "there is no checkpoint")


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x80\x02}q\x00", bytes(1000)])
def test_a_file_that_is_no_checkpoint_is_refused(content, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    refused(path, "not a checkpoint, or damaged")


@pytest.mark.parametrize("part", [0.01, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(part, good, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(good[0][: int(part * len(good[0]))])
    refused(path, "not a checkpoint, or damaged")


@pytest.mark.parametrize("write", [torch.save, lambda data, path: path.write_bytes(pickle.dumps(data, 2))])
def test_code_in_a_checkpoint_is_refused_and_not_executed(write, good, tmp_path):
    path, marker = tmp_path / "model.pt", tmp_path / "executed"
    write({**good[1], "infos": Attack(marker)}, path)
    refused(path, "not a checkpoint, or damaged")
    assert not marker.exists()
    torch.load(path, weights_only=False) if write is torch.save else pickle.loads(path.read_bytes())
    assert marker.exists(), "the attack works on who reads it carelessly"


def test_a_foreign_file_is_refused(good, tmp_path):
    path = tmp_path / "model.pt"
    for content in ({"model": {"weight": torch.zeros(2)}, "epoch": 3}, torch.zeros(3), [1, 2]):
        torch.save(content, path)
        refused(path, "not a checkpoint of rsl_rl: actor_state_dict, critic_state_dict, iter missing")
    torch.save({**good[1], "actor_state_dict": 5}, path)
    refused(path, "do not fit")


@pytest.mark.parametrize("key", ["task", "agent"])
def test_a_checkpoint_of_another_task_or_agent_is_refused(key, good, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(good[0])
    theirs = IDENTITY[key]
    message = f"checkpoint of {key} '{theirs}', not 'other'; pass --{key} {theirs}"
    refused(path, message, identity={**IDENTITY, key: "other"})


@pytest.mark.parametrize("layers", [[16, 13], [16], [16, 12, 4]])
def test_a_checkpoint_of_other_layers_is_refused(layers, good, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(good[0])
    refused(path, "the networks do not fit this agent", network={**NETWORK, "layers": layers})


def test_saving_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model.pt"
    run = runner()
    run.save(str(path))
    before = path.read_bytes()
    run.identity["task"] = lambda: "cannot be pickled"
    with pytest.raises((AttributeError, pickle.PicklingError)):
        run.save(str(path))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"], "no leftovers"


def at(index, action):
    """A display that does something after iteration ``index``."""
    return lambda iteration: action() if iteration.index == index else None


def stop():
    raise StopTraining


def saved(folder):
    return sorted(path.name for path in folder.glob("*.pt"))


NAN_LOSS = {
    "seen in the report": (
        {"num_learning_epochs": 1, "num_mini_batches": 1},
        "iteration 2: the value loss is nan, at a learning rate of 0.001; lower .*; the last good checkpoint is .*model_0.pt",
    ),
    "seen by the next minibatch": (
        {},
        r"iteration 2: (actor|critic)\..* non-finite values, at a learning rate of 0.001; lower",
    ),
}


@pytest.mark.parametrize("case", NAN_LOSS)
def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_checkpoint(case, tmp_path):
    settings, message = NAN_LOSS[case]
    run = runner(folder=tmp_path, **settings)

    def poison():
        with torch.no_grad():
            next(run.alg.critic.parameters()).fill_(math.nan)

    run.on_iteration = at(1, poison)
    with pytest.raises(FloatingPointError, match=message):
        run.learn(5)
    assert run.progress.iterations == 2
    assert saved(tmp_path) == ["model_0.pt"]
    fresh = runner()
    fresh.load(str(tmp_path / "model_0.pt"))
    assert all(value.isfinite().all() for value in parameters(fresh).values())


def test_a_stop_saves_the_iteration_at_hand(tmp_path):
    run = runner(folder=tmp_path)
    run.on_iteration = at(2, stop)
    with pytest.raises(StopTraining):
        run.learn(10)
    assert saved(tmp_path) == ["model_0.pt", "model_2.pt"]
    other = runner(seed=3)
    other.load(str(tmp_path / "model_2.pt"))
    assert other.current_learning_iteration == 3
    assert equal(parameters(other), parameters(run))


def test_a_run_may_have_any_number_of_iterations(tmp_path):
    run = runner(folder=tmp_path)
    run.on_iteration = at(1, stop)
    with pytest.raises(StopTraining):
        run.learn(10**18)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of four iterations and its folder."""
    run = runner(folder=tmp_path_factory.mktemp("trained"), pictures=2)
    run.learn(4)
    return run


def test_tensorboard_gets_rsl_rls_scalars_and_ours(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(trained.logger.log_dir)
    events.Reload()
    tags = set(events.Tags()["scalars"])
    layers = {f"Spikes/layer_{i}_{what}" for i in (1, 2) for what in ("rate", "silent", "saturated")}
    costs = {"Cost/operations_per_step", "Cost/ann_operations_per_step", "Spikes/rate"}
    seconds = {f"Perf/seconds_{part}" for part in ("simulation", "inference", "learning")}
    assert layers | costs | seconds <= tags
    assert {"Train/mean_reward", "Train/mean_episode_length", "Loss/learning_rate"} <= tags
    rates = events.Scalars("Spikes/layer_1_rate")
    assert [event.step for event in rates] == [0, 1, 2, 3]
    assert all(0.0 < event.value < 1.0 for event in rates)
    assert events.Scalars("Cost/operations_per_step")[-1].value > 0
    assert [image.step for image in events.Images("Spikes/raster")] == [0, 2]
    assert events.Images("Spikes/raster")[0].encoded_image_string.startswith(b"\x89PNG")


RESULT_KEYS = (
    "task agent seed device env_steps iterations mean_return_final mean_return_best mean_length_final"
    " seconds_total seconds_simulation seconds_inference seconds_learning firing_rate synops_per_step"
    " spec_hash versions"
)


def test_the_result_has_every_key_and_counts_what_was_done(trained, tmp_path):
    given = {**IDENTITY, "device": "cpu", "spec_hash": "0123456789abcdef"}
    returned = run_folders.write_result(tmp_path / "result.json", trained.progress, **given)
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert result == returned
    assert set(RESULT_KEYS.split()) <= set(result)
    assert (result["iterations"], result["env_steps"]) == (4, 4 * 8 * 8)
    parts = [result[f"seconds_{part}"] for part in ("simulation", "inference", "learning")]
    assert result["seconds_total"] == pytest.approx(sum(parts))
    assert result["seconds_learning"] > 0
    known = [value for value in trained.progress.returns if not math.isnan(value)]
    assert result["mean_return_final"] == pytest.approx(sum(known) / len(known))
    assert result["mean_return_best"] == max(known)
    assert 0 < result["firing_rate"] < 1 < result["synops_per_step"]
    assert {"spiky_rl", "torch", "rsl-rl-lib"} <= set(result["versions"])


def test_a_result_without_a_finished_episode_has_no_return(tmp_path):
    progress = TrainingProgress(iterations=1, returns=[math.nan], lengths=[math.nan])
    result = run_folders.write_result(tmp_path / "result.json", progress)
    assert result["mean_return_final"] is result["mean_return_best"] is result["mean_length_final"] is None
