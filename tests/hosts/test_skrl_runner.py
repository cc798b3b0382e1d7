"""skrl's runner keeps what the rsl_rl host's keeps: whole checkpoints, exact resumption, the same figures and ends."""

import math

import pytest

pytest.importorskip("skrl", reason="the skrl extra is not installed")
import torch

from spiky_rl.config.options import UserError
from spiky_rl.learners.common.checkpoints import CheckpointError
from spiky_rl.learners.common.runner import StopTraining, TrainingProgress
from spiky_rl.learners.rsl_rl.runner import RslRlRunner as RslRunner
from spiky_rl.learners.skrl.base_runner import SkrlEpisodeStatistics
from spiky_rl.learners.skrl.learner import LEARNER
from tests.hosts.point_env import PointEnv, config
from tests.hosts.skrl_case import PLAIN, SPIKING, runner, specification
from tests.hosts.test_runner import IDENTITY, RANDOM, equal, parameters, saved

NORMALISED = {"state_preprocessor": "RunningStandardScaler", "value_preprocessor": "RunningStandardScaler"}


RATES = {
    "adaptive": ["agent.algorithm.schedule=adaptive"],
    "fixed": ["agent.algorithm.schedule=fixed", "agent.algorithm.critic_learning_rate=1.0e-2"],
}


@pytest.mark.parametrize(("schedule", "expected"), [("fixed", [3e-5, 1e-2]), ("adaptive", [2e-4])])
def test_a_resumed_run_learns_at_the_rates_of_its_settings_unless_a_schedule_changes_them(
    schedule, expected, tmp_path
):
    run = runner(*RATES[schedule])
    run.alg.optimizer.param_groups[0]["lr"] = 2e-4
    run.save(str(tmp_path / "model.pt"))
    resumed = runner(*RATES[schedule], "agent.algorithm.learning_rate=3.0e-5")
    resumed.load(str(tmp_path / "model.pt"))
    assert [group["lr"] for group in resumed.alg.optimizer.param_groups] == expected


@pytest.mark.parametrize("schedule", RATES)
def test_a_resumed_run_goes_on_bit_for_bit(schedule, tmp_path):
    settings = {"network": {**SPIKING, **RANDOM}, **NORMALISED}
    whole = runner(*RATES[schedule], **settings)
    whole.learn(6)
    env = PointEnv()
    first = runner(*RATES[schedule], env=env, **settings)
    first.learn(3)
    first.save(str(tmp_path / "model.pt"))
    resumed = runner(*RATES[schedule], env=env, seed=99, **settings)
    assert not equal(parameters(resumed), parameters(first))
    resumed.load(str(tmp_path / "model.pt"))
    assert equal(parameters(resumed), parameters(first))
    resumed.learn(3)
    assert equal(parameters(resumed), parameters(whole))
    rates = [[group["lr"] for group in run.alg.optimizer.param_groups] for run in (resumed, whole)]
    assert rates[0] == rates[1]
    assert resumed.current_learning_iteration == whole.current_learning_iteration == 5
    assert resumed.progress.iterations == 6
    assert resumed.progress.env_steps == whole.progress.env_steps == 6 * 16 * 8
    scaler = "_observation_preprocessor"
    assert equal(getattr(resumed.alg, scaler).state_dict(), getattr(whole.alg, scaler).state_dict())


def test_models_alone_can_be_loaded_with_their_normalisation(tmp_path):
    path = str(tmp_path / "model.pt")
    run = runner(network=SPIKING, **NORMALISED)
    run.learn(2)
    run.save(path)
    other = runner(network=SPIKING, seed=5, **NORMALISED)
    before = torch.get_rng_state()
    other.load(path, {"actor": True, "critic": True})
    assert equal(parameters(other), parameters(run))
    obs = run.env.get_observations()
    assert torch.equal(other.get_inference_policy()(obs), run.get_inference_policy()(obs))
    assert other.current_learning_iteration == 0 and other.progress == TrainingProgress()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_checkpoint_is_one_of_skrls_own_agents(tmp_path):
    path = str(tmp_path / "model.pt")
    run = runner(network=SPIKING)
    run.learn(1)
    run.save(path)
    other = runner(network=SPIKING, seed=5)
    other.alg.load(path)
    assert equal(parameters(other), parameters(run))


def test_a_checkpoint_of_the_other_library_or_of_another_agent_is_refused(tmp_path):
    path = str(tmp_path / "model.pt")
    torch.manual_seed(0)
    theirs = RslRunner(PointEnv(), config(SPIKING))
    theirs.save(path)
    with pytest.raises(
        CheckpointError, match="not a checkpoint of skrl: policy, value missing; it is rsl_rl's"
    ):
        runner(network=SPIKING).load(path)
    run = runner(network=SPIKING, identity=IDENTITY)
    run.save(path)
    with pytest.raises(CheckpointError, match="it is skrl's: pass --rl_library skrl"):
        theirs.load(path)
    with pytest.raises(CheckpointError, match="checkpoint of agent 'lif', not 'mlp'; pass --agent lif"):
        runner(network=SPIKING, identity={**IDENTITY, "agent": "mlp"}).load(path)
    with pytest.raises(CheckpointError, match="the networks do not fit this agent"):
        runner(network={**SPIKING, "layers": [5]}).load(path)
    with pytest.raises(CheckpointError, match="only this agent has a observation_preprocessor"):
        runner(network=SPIKING, **NORMALISED).load(path)


@pytest.mark.parametrize(
    "normalised",
    [
        {"state_preprocessor": "RunningStandardScaler"},  # the actor's and the critic's
        {"overrides": ["agent.critic.obs_normalization=true"]},
    ],
    ids=["actor", "critic"],
)
def test_minibatches_of_one_sample_which_has_no_variance_are_refused_with_normalisation(normalised):
    changes = {**PLAIN, **normalised}
    overrides = ["agent.num_steps_per_env=8", *changes.pop("overrides", [])]
    spec = specification(*overrides, **changes)
    with pytest.raises(UserError, match=r"agent\.algorithm\.num_mini_batches: 16 .* at most 8,"):
        LEARNER.check_minibatches(spec, num_envs=2, batches=16)
    LEARNER.check_minibatches(specification("agent.num_steps_per_env=8", **PLAIN), num_envs=2, batches=16)
    LEARNER.check_minibatches(spec, num_envs=2, batches=8)
    # raises if a loss is not finite
    runner(*overrides, "agent.algorithm.num_mini_batches=8", num_envs=2, **changes).learn(1)


def test_a_stop_saves_the_iteration_at_hand(tmp_path):
    run = runner(network=SPIKING, folder=tmp_path)

    def stop(iteration):
        if iteration.index == 2:
            raise StopTraining

    run.on_iteration = stop
    with pytest.raises(StopTraining):
        run.learn(10)
    assert saved(tmp_path) == ["model_0.pt", "model_2.pt"]
    other = runner(network=SPIKING, seed=3)
    other.load(str(tmp_path / "model_2.pt"))
    assert other.current_learning_iteration == 3
    assert equal(parameters(other), parameters(run))


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    run = runner(network=SPIKING, folder=tmp_path)

    def poison(iteration):
        if iteration.index == 1:
            with torch.no_grad():
                next(run.value.parameters()).fill_(math.nan)

    run.on_iteration = poison
    with pytest.raises(
        FloatingPointError,
        match="iteration 2: the value loss is nan, at a learning rate of .*; the last good",
    ):
        run.learn(5)
    assert run.progress.iterations == 2
    assert saved(tmp_path) == ["model_0.pt"]


def tags(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events, events.Tags()


@pytest.mark.parametrize("stateful", [pytest.param(False, marks=pytest.mark.slow), True])
def test_tensorboard_gets_the_same_tags_from_both_hosts(stateful, tmp_path):
    network = {**SPIKING, "stateful": stateful}
    notes = {"specification": "| key |"}
    torch.manual_seed(0)
    folders = {name: tmp_path / name for name in ("rsl_rl", "skrl")}
    RslRunner(PointEnv(), config(network), str(folders["rsl_rl"]), picture_interval=2, notes=notes).learn(3)
    run = runner(network=network, folder=folders["skrl"], pictures=2)
    run.notes = notes
    run.learn(3)
    (_, theirs), (events, ours) = tags(folders["rsl_rl"]), tags(folders["skrl"])
    assert set(ours["scalars"]) == set(theirs["scalars"])
    assert (set(ours["images"]), set(ours["histograms"]), set(ours["tensors"])) == (
        set(theirs["images"]),
        set(theirs["histograms"]),
        set(theirs["tensors"]),
    )
    assert [event.step for event in events.Scalars("Spikes/layer_1_rate")] == [0, 1, 2]
    assert all(0.0 < event.value < 1.0 for event in events.Scalars("Spikes/layer_1_rate"))
    assert [image.step for image in events.Images("Spikes/raster")] == [0, 2]


def test_reports_of_all_control_steps_count_in_the_means_of_an_iteration():
    episodes = SkrlEpisodeStatistics(1, "cpu")
    for step in range(300):
        episodes.add_step(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.bool), {"log": {"height": step}})
    assert episodes.fetch_reports() == {"Episode/height": 149.5}
    assert not episodes.fetch_reports()


def test_a_run_without_a_folder_keeps_no_reports():
    run = runner()
    step = run.env.step

    def report(actions):
        *result, extras = step(actions)
        return *result, {**extras, "log": {"height": 1.0}}

    run.env.step = report
    run.learn(2)
    assert not run.episodes.reports


def test_returns_are_the_environments_whatever_skrl_learns_from():
    plain, shaped = PointEnv(), PointEnv()
    returns = []
    for env, scale in ((plain, 1.0), (shaped, 1e-9)):
        run = runner(
            "agent.algorithm.learning_rate=0.0",
            "agent.algorithm.schedule=fixed",
            env=env,
            rewards_shaper_scale=scale,
        )
        run.learn(3)
        returns.append(run.progress.returns)
    assert returns[0] == returns[1]


def test_the_networks_learn():
    run = runner("agent.num_steps_per_env=24", network={**SPIKING, "layers": [32]}, num_envs=64)
    run.learn(25)
    assert run.progress.returns[-1] > run.progress.returns[1] + 1.0
