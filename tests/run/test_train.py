"""When a training ends: after its iterations or its budget, or after a stop request, which is never lost."""

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from spiky_rl.learners.common.progress import TrainingProgress
from spiky_rl.learners.common.runner import StopTraining
from spiky_rl.run import train as training
from spiky_rl.run.command import StopRequest
from spiky_rl.run.run_plan import TrainOptions


def make_callback(**options):
    """The callback of a training of 100 iterations, or with another budget."""
    settings = {"max_iterations": 100, "num_steps_per_env": 1}
    plan = SimpleNamespace(
        get_setting=settings.get, request=SimpleNamespace(distributed=False), device="cpu", num_envs=1
    )
    parsed = TrainOptions.check("", options)
    run: Any = SimpleNamespace(plan=plan, options=parsed, folder=None, evaluation=None, activity=None)
    env = SimpleNamespace(max_episode_length=500)
    runner: Any = SimpleNamespace(current_learning_iteration=0, progress=TrainingProgress(), env=env)
    callback = training._IterationCallback(run, runner, StopRequest("stopping"))
    callback.show = lambda training_step: None
    return callback


def make_iteration(index) -> Any:
    progress = SimpleNamespace(returns=[1.0], steps=[index + 1])
    return SimpleNamespace(index=index, last=99, progress=progress, activity=None)


def test_a_stop_request_during_the_last_iteration_leaves_a_finished_training():
    callback = make_callback()
    callback.stop.handle_signal(signal.SIGTERM)
    callback(make_iteration(99))  # the runner then ends by itself
    with pytest.raises(StopTraining):
        callback(make_iteration(98))


def test_a_stop_request_that_arrives_while_processes_agree_counts_after_the_next_iteration(monkeypatch):
    callback = make_callback()

    def receive_signal() -> bool:
        if not callback.stop():
            callback.stop.handle_signal(signal.SIGTERM)
        return False

    monkeypatch.setattr(training.dist, "is_available", receive_signal)
    callback(make_iteration(4))
    assert callback.stop.signal == signal.SIGTERM
    with pytest.raises(StopTraining):
        callback(make_iteration(5))


def test_a_stop_request_of_another_process_stops_this_one(monkeypatch):
    callback = make_callback()
    monkeypatch.setattr(training, "_max_over_ranks", lambda number, device: signal.SIGTERM)
    with pytest.raises(StopTraining):
        callback(make_iteration(4))
    assert callback.stop.signal == signal.SIGTERM


@pytest.mark.parametrize("budget", ["wall=1e9", "synops=1e24"])
def test_a_budget_is_spent_before_the_iterations_are(budget):
    assert make_callback(budget=budget).iterations >= 1e9 / 1e-6, "a microsecond for each"
