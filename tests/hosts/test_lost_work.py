"""However a training ends, its last finished iteration is saved; half an update never is, and a checkpoint is finite."""

import errno
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from tests.hosts.point_env import PointEnv, config
from tests.hosts.test_runner import runner, saved

ROOT = Path(__file__).parents[2]


def skrl_runner(folder):
    pytest.importorskip("skrl", reason="the skrl extra is not installed")
    from tests.hosts import skrl_case

    return skrl_case.runner(network=skrl_case.SPIKING, folder=folder)


HOSTS = {"rsl_rl": runner, "skrl": skrl_runner}


def weights(run):
    return {name: weight.clone() for name, weight in run.named_weights()}


def interrupt_update(run, index, steps):
    """Make Ctrl-C arrive within the update of iteration ``index``, after so many of its minibatches."""
    at_hand = {"iteration": -1, "steps": 0}

    def count(optimiser, *_):
        if run.progress.iterations == index:
            at_hand["steps"] += 1
            if at_hand["steps"] > steps:
                raise KeyboardInterrupt

    run.alg.optimizer.register_step_pre_hook(count)


@pytest.mark.parametrize("steps", [0, pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("host", HOSTS)
def test_half_an_update_is_never_saved_as_a_finished_iteration(host, steps, tmp_path, caplog):
    run = HOSTS[host](folder=tmp_path)
    interrupt_update(run, 2, steps)
    with pytest.raises(KeyboardInterrupt):
        run.learn(10)
    assert run.progress.iterations == 2
    assert saved(tmp_path) == ["model_0.pt"]
    assert (
        f"the training ended within an update, so no new checkpoint is saved; the last good checkpoint is {tmp_path}"
        in caplog.text
    )


class Breaking(PointEnv):
    """Ends in its 20th step, in the third rollout, as it is told to."""

    def __init__(self, end):
        super().__init__()
        self.end, self.count = end, 0

    def step(self, actions):
        self.count += 1
        if self.count == 20:
            raise self.end("the reason")
        return super().step(actions)


@pytest.mark.parametrize("end", [RuntimeError, OSError, KeyboardInterrupt, SystemExit])
def test_every_end_between_updates_saves_the_last_finished_iteration(end, tmp_path):
    run = runner(Breaking(end), tmp_path)
    before = {}
    run.on_iteration = lambda iteration: before.update(weights(run))
    with pytest.raises(end, match="the reason"):
        run.learn(10)
    assert saved(tmp_path) == ["model_0.pt", "model_1.pt"]
    fresh = runner(seed=3)
    fresh.load(str(tmp_path / "model_1.pt"))
    assert fresh.current_learning_iteration == 2
    assert all(torch.equal(weight, before[name]) for name, weight in fresh.named_weights())


def test_a_loggers_failure_costs_no_iteration(tmp_path):
    run = runner(folder=tmp_path)

    class Full:
        """A writer whose disk is full from the third iteration on."""

        def add_scalar(self, name, value, step, *_):
            if step == 2:
                raise OSError(errno.ENOSPC, "No space left on device")

        add_histogram = add_figure = add_text = lambda self, *_: None

    run.logger.writer = Full()
    with pytest.raises(OSError, match="No space left"):
        run.learn(10)
    assert saved(tmp_path) == ["model_0.pt", "model_2.pt"]


def test_a_nan_from_the_last_minibatch_is_not_saved_and_the_weight_is_named(tmp_path):
    run = runner(folder=tmp_path, num_learning_epochs=1, num_mini_batches=1)

    def spoil(*_):
        if run.progress.iterations == 2:
            with torch.no_grad():
                next(run.alg.actor.parameters()).view(-1)[0] = math.nan

    run.alg.optimizer.register_step_post_hook(spoil)
    with pytest.raises(FloatingPointError) as caught:
        run.learn(60)
    first = next(run.named_weights())[0]
    assert str(caught.value) == (
        f"iteration 2: {first} has non-finite values, at a learning rate of 0.001; lower"
        f" agent.algorithm.learning_rate; the last good checkpoint is {tmp_path / 'model_0.pt'}"
    )
    assert saved(tmp_path) == ["model_0.pt"]


def test_the_largest_weight_and_the_learning_rate_tell_a_learner_that_explodes_from_a_simulation(tmp_path):
    run = runner(folder=tmp_path, learning_rate=0.25)
    name = next(name for name, _ in run.named_weights() if name.startswith("critic"))
    with torch.no_grad():
        dict(run.named_weights())[name].view(-1)[0] = -3e7
    assert run.describe_weights() == (
        f"the largest weight is 3e+07 in {name}, the learning rate 0.25; there is no checkpoint yet"
    )


FULL = """
import resource, signal, sys, torch
from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from tests.hosts.point_env import PointEnv, config
torch.manual_seed(0)
run = RslRlRunner(PointEnv(), config(steps=8) | {"save_interval": 1}, sys.argv[1])

def limit(iteration):
    if iteration.index == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))

run.on_iteration = limit
try:
    run.learn(10)
except OSError as error:
    print(type(error).__name__, error.strerror, error.filename)
"""


@pytest.mark.parametrize("allowed", [0, 3000])
@pytest.mark.slow
def test_a_disk_that_is_full_in_the_middle_of_a_write_keeps_the_last_good_checkpoint(allowed, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), str(allowed)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "OSError File too large" in done.stdout
    assert saved(tmp_path) == ["model_0.pt", "model_1.pt"]
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]
    assert f"the last good checkpoint is {tmp_path / 'model_1.pt'}" in done.stderr
    fresh = RslRlRunner(PointEnv(), config(steps=8), str(tmp_path / "fresh"))
    fresh.load(str(tmp_path / "model_1.pt"))
