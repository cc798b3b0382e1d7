"""Gymnasium's environments as rsl_rl's: against scripted episodes, bare environments and Gymnasium's own wrappers."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import FlattenObservation
from gymnasium.wrappers.vector import NormalizeReward, RecordEpisodeStatistics

from spiky_rl.config.options import UserError
from spiky_rl.hosts import find_host
from spiky_rl.hosts.base import NonFiniteError, SimulationOptions, TaskRequest
from spiky_rl.hosts.gymnasium.environment import GymnasiumVecEnv, derive_seeds
from spiky_rl.hosts.gymnasium.spaces import TaskSpaces
from spiky_rl.learners import get_learner
from spiky_rl.learners.common.action_bounds import ActionBounds
from spiky_rl.learners.common.episodes import EpisodeStatistics
from spiky_rl.learners.common.reward_scaling import CLIP, RewardScaler
from tests.hosts.gymnasium import scripted
from tests.hosts.gymnasium.scripted import SCRIPTS


def load(task, *overrides):
    host = find_host(task)
    return host.load_task(TaskRequest(host.resolve_task(task), get_learner("rsl_rl"), overrides=overrides))


def open_env(task, num_envs, *overrides, seed=0, **options):
    return load(task, *overrides).open("cpu", num_envs, SimulationOptions(seed=seed, **options))


@pytest.mark.parametrize("task", ["Script-v0", "Reused-v0"])
def test_ends_time_limits_and_final_observations_are_those_of_the_script(task):
    """A limit of 5 steps; an end at step 3, at step 5 together with the limit, or none."""
    for ends, length, cut in ((3, 3, False), (5, 5, False), (0, 5, True)):
        with open_env(f"{SCRIPTS}{task}", 2, f"env.ends={ends}") as env:
            start = env.get_observations()["policy"].clone()
            for step in range(1, 12):
                before = env.get_observations()["policy"]
                obs, rewards, dones, extras = env.step(torch.zeros(2, 2))
                place = (step - 1) % length + 1
                assert rewards.tolist() == [place, place]
                assert dones.tolist() == [int(place == length)] * 2
                assert extras["time_outs"].tolist() == [cut and place == length] * 2
                assert env.episode_length_buf.tolist() == [place % length] * 2
                assert ("final_observations" in extras) == (place == length)
                if place == length:
                    # the successor of the last observation, not the first one of the next episode
                    final = extras["final_observations"]["policy"]
                    torch.testing.assert_close(final, before + 1.0)
                    assert (obs["policy"] < 0.1).all() and not torch.equal(obs["policy"], start)
                else:
                    torch.testing.assert_close(obs["policy"], before + 1.0)


def test_history_begins_with_the_first_observation_and_ends_with_the_latest():
    task = load(f"{SCRIPTS}Script-v0", "env.ends=3")
    task.history = 3
    with task.open("cpu", 1, SimulationOptions(seed=0)) as env:
        seen = [env.get_observations()["policy"][0]]
        finals = []
        for _ in range(4):
            obs, _, _, extras = env.step(torch.zeros(1, 2))
            seen.append(obs["policy"][0])
            finals += [extras["final_observations"]["policy"][0]] if "final_observations" in extras else []
    steps = [[round(float(value)) for value in frames] for frames in seen]
    assert steps == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [0, 0, 0], [0, 0, 1]]
    assert [round(float(value)) for value in finals[0]] == [1, 2, 3]
    assert len(set(seen[3].tolist())) == 1, "nothing of the episode before"


def test_observations_of_earlier_steps_do_not_change():
    with open_env(f"{SCRIPTS}Script-v0", 1) as env:
        first = env.get_observations()["policy"]
        value = first.clone()
        env.step(torch.zeros(1, 2))
        assert torch.equal(first, value) and first.dtype == torch.float32


def test_actions_are_clipped_to_one_and_mapped_to_the_bounds():
    with open_env(f"{SCRIPTS}Script-v0", 5) as env:
        env.step(torch.tensor([[-1.0, -1.0], [0.0, 0.0], [0.5, 0.5], [1.0, 1.0], [-7.0, 9.0]]))
        wanted = [[-0.4, 1.0], [0.0, 3.0], [0.2, 4.0], [0.4, 5.0], [-0.4, 5.0]]
        np.testing.assert_allclose(np.stack(env.latest_infos["action"]), wanted, rtol=1e-6)


def test_a_bound_near_the_largest_float_is_none_and_the_action_stays_as_it_is():
    env = gymnasium.make(f"{SCRIPTS}Script-v0").unwrapped
    env.action_space = gymnasium.spaces.Box(
        np.float32([-3.4e38, 0.0, -4.0]), np.float32([3.4e38, 3.4e38, 4.0])
    )
    actions = TaskSpaces.read("Huge-v0", env).to_actions(torch.tensor([[0.0, 0.0, 0.0], [7.0, 7.0, 0.5]]))
    np.testing.assert_array_equal(actions, [[0.0, 0.0, 0.0], [7.0, 7.0, 2.0]])


def test_actions_are_within_bounds_that_single_precision_does_not_hold():
    with open_env(f"{SCRIPTS}Fine-v0", 3) as env:  # the task refuses what its space does not contain
        env.step(torch.tensor([-9.0, 0.0, 9.0])[:, None].repeat(1, 3))
        actions = np.stack(env.latest_infos["action"])
        low, high = env.action_bounds
        mapped = ActionBounds(low, high)(torch.tensor([[-9.0], [9.0]]).repeat(1, 3)).double().numpy()
    np.testing.assert_allclose(actions, [[-0.1, -0.3, -9.0], [0.0, 0.2, 0.0], [0.1, 0.7, 0.1]], atol=1e-6)
    assert (mapped[0, :2] >= [-0.1, -0.3]).all() and (mapped[1] <= [0.1, 0.7, 0.1]).all(), "of exports, too"


def test_a_task_of_whole_numbers_takes_whole_numbers():
    with open_env(f"{SCRIPTS}Whole-v0", 4) as env:
        env.step(torch.tensor([-9.0, 0.24, 0.5, 9.0])[:, None].repeat(1, 3))
        actions = np.stack(env.latest_infos["action"])
    assert actions.dtype == np.int64
    np.testing.assert_array_equal(actions[:, :2], [[0, -3], [3, 1], [4, 2], [5, 4]])


def test_a_task_of_bools_takes_the_nearer_one():
    env = gymnasium.make(f"{SCRIPTS}Script-v0").unwrapped
    env.action_space = gymnasium.spaces.Box(0, 1, (2,), bool)
    actions = TaskSpaces.read("Bools-v0", env).to_actions(torch.tensor([[-0.9, 0.1]]))
    assert actions.dtype == bool and actions.tolist() == [[False, True]]


def test_the_mapping_of_exports_gives_the_actions_that_the_task_takes():
    """Bounds that are single, rounded or absent; a policy's export has nothing but the mapping."""
    bounds = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)).sort(dim=1).values
    low = torch.cat([bounds[:, 0], torch.tensor([0.0, -torch.inf, -torch.inf, -3.4e38])])
    high = torch.cat([bounds[:, 1], torch.tensor([torch.inf, 0.5, torch.inf, 1.0])])
    env = gymnasium.make(f"{SCRIPTS}Script-v0").unwrapped
    env.action_space = gymnasium.spaces.Box(low.numpy(), high.numpy())
    spaces, actions = TaskSpaces.read("Bounds-v0", env), torch.linspace(-2.0, 2.0, 41)[:, None].repeat(1, 504)
    mapped = ActionBounds(low, high)(actions)
    assert (mapped >= low).all() and (mapped <= high).all()
    np.testing.assert_array_equal(mapped.numpy(), spaces.to_actions(actions))


def test_the_largest_component_is_the_choice_of_a_discrete_action():
    with open_env(f"{SCRIPTS}Turn-v0", 4) as env:
        assert env.num_actions == 4
        assert env.step(torch.eye(4) * 2.0 - 5.0)[1].tolist() == [3.0, 4.0, 5.0, 6.0]


@pytest.mark.parametrize(
    ("task", "scores", "rewards"),
    [
        ("Choices-v0", [[0.0, 1.0, 0.0, 2.0, 1.0], [3.0, 1.0, -1.0, -2.0, -3.0]], [16.0, 5.0]),
        ("Switches-v0", [[0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0]], [10.0, 1.0]),
    ],
)
def test_every_component_of_a_discrete_action_has_the_largest_of_its_own_numbers(task, scores, rewards):
    with open_env(f"{SCRIPTS}{task}", 2) as env:
        assert env.num_actions == len(scores[0]) and env.action_bounds is None
        assert env.step(torch.tensor(scores))[1].tolist() == rewards


def test_a_bound_of_actions_does_not_change_a_choice():
    task = load(f"{SCRIPTS}Turn-v0")
    with task.open("cpu", 4, SimulationOptions(seed=0, clip_actions=1.0)) as env:
        assert env.step(torch.eye(4) + 5.0)[1].tolist() == [3.0, 4.0, 5.0, 6.0]


def test_images_are_channels_first_in_zero_to_one():
    with open_env(f"{SCRIPTS}Picture-v0", 2) as env:
        image = env.get_observations()["policy"]
        assert image.shape == (2, 3, 20, 16) and image.dtype == torch.float32
        assert image[1, 2, 4, 3] == np.float32((4 * 16 + 3) * 3 + 2) / np.float32(255)


@pytest.mark.parametrize("sides", [(4, 16, 18), (17, 19, 19)])
def test_images_with_channels_first_keep_their_order(sides):
    task = load(f"{SCRIPTS}Shaped-v0", f"env.shape={list(sides)}")
    with task.open("cpu", 2, SimulationOptions(seed=0)) as env:
        image, shape = env.get_observations()["policy"], env.image_shape
    assert shape == sides
    assert torch.equal(image, torch.arange(float(np.prod(sides))).reshape(sides).expand(2, -1, -1, -1))


@pytest.mark.parametrize("sides", [(19, 19, 17), (20, 20, 20)])
def test_images_have_channels_last_if_those_are_no_more_than_the_rows(sides):
    assert load(f"{SCRIPTS}Shaped-v0", f"env.shape={list(sides)}").spaces.has_channels_last


@pytest.mark.parametrize("shape", [[], [2, 3], [2, 2, 3], [15, 16, 3], [4, 16, 15], [2, 1, 1, 3]], ids=str)
def test_boxes_of_other_shapes_are_vectors_in_c_order(shape):
    size = int(np.prod(shape))
    task = load(f"{SCRIPTS}Shaped-v0", f"env.shape={shape}")
    assert task.spaces.observation_shape == (size,)
    with task.open("cpu", 2, SimulationOptions(seed=0)) as env:
        start = torch.arange(float(size)).expand(2, size)
        assert torch.equal(env.get_observations()["policy"], start)
        for step in (1, 2, 3):
            obs, _, _, extras = env.step(torch.zeros(2, 2))
            assert torch.equal(obs["policy"], start + 10 * (step % 3))
        assert torch.equal(extras["final_observations"]["policy"], start + 30)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_other_spaces_are_flattened_as_gymnasium_flattens_them(mode):
    bare = FlattenObservation(gymnasium.make(f"{SCRIPTS}Groups-v0", ends=4))
    rows = [bare.reset(seed=derive_seeds(0, 1)[0])[0]]
    rows += [bare.step(np.float32([0.0, 2.0]))[0] for _ in range(4)]
    wanted = torch.as_tensor(np.array(rows), dtype=torch.float32)
    with open_env(f"{SCRIPTS}Groups-v0", 1, "env.ends=4", f"env.vectorization_mode={mode}") as env:
        found = [env.get_observations()["policy"]]
        for _ in range(4):
            obs, _, _, extras = env.step(torch.zeros(1, 2))
            found.append(extras.get("final_observations", obs)["policy"])
    assert torch.equal(torch.cat(found), wanted) and wanted.shape == (5, 11)


def test_a_task_without_time_limit_gets_one():
    task = load(f"{SCRIPTS}Script-v1")
    assert task.max_episode_steps == task.settings["max_episode_steps"] == 10_000
    with open_env(f"{SCRIPTS}Script-v1", 1, "env.max_episode_steps=2") as env:
        assert [bool(env.step(torch.zeros(1, 2))[3]["time_outs"]) for _ in range(4)] == [False, True] * 2


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_steps_equal_those_of_bare_environments_bit_for_bit(mode):
    """Hopper ends at different steps in every environment; each bare one is reset when it ends."""
    generator, seeds = torch.Generator().manual_seed(1), derive_seeds(3, 3)
    bare = [gymnasium.make("Hopper-v5") for _ in seeds]
    seen = [env.reset(seed=seed)[0] for env, seed in zip(bare, seeds, strict=True)]
    with open_env("Hopper-v5", 3, f"env.vectorization_mode={mode}", seed=3) as env:
        assert torch.equal(env.get_observations()["policy"], torch.tensor(np.stack(seen)).float())
        ended = 0
        for _ in range(80):
            actions = torch.rand(3, 3, generator=generator) * 3 - 1.5
            obs, rewards, dones, extras = env.step(actions)
            for i, single in enumerate(bare):
                found, reward, terminated, truncated, _ = single.step(actions[i].clamp(-1, 1).numpy())
                assert rewards[i] == np.float32(reward) and dones[i] == (terminated or truncated)
                if dones[i]:
                    ended += 1
                    assert torch.equal(extras["final_observations"]["policy"][i], torch.tensor(found).float())
                    found = single.reset()[0]
                assert torch.equal(obs["policy"][i], torch.tensor(found).float())
        assert ended >= 3
    for single in bare:
        single.close()


def test_runs_with_neighbouring_seeds_share_no_stream():
    starts = []
    for seed in (0, 1):
        with open_env("Pendulum-v1", 8, seed=seed) as env:
            starts.append({tuple(row) for row in env.get_observations()["policy"].tolist()})
    assert len(starts[0] | starts[1]) == 16
    assert len(set(derive_seeds(0, 1000))) == 1000


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_task_that_draws_from_global_generators_follows_the_seed(mode):
    """Processes of their own would else all begin with the numbers of this one."""
    rewards, actions = [], torch.zeros(2, 2)
    for seed in (0, 1, 0):
        with open_env(f"{SCRIPTS}Global-v0", 2, f"env.vectorization_mode={mode}", seed=seed) as env:
            begun = [env.step(actions)[1] for _ in range(7)]
            env.restart([torch.arange(2)], seed)
            rewards.append(torch.stack([*begun, env.step(actions)[1]]))
    assert torch.equal(rewards[0], rewards[2])
    drawn = torch.cat([part.flatten() for part in rewards[:2]])
    assert len(drawn.unique()) == len(drawn)


def test_restart_gives_every_part_the_same_states():
    with open_env("Pendulum-v1", 6) as env:
        parts = torch.arange(6).split(3)
        first = env.restart(parts, 5)["policy"].clone()
        env.step(torch.zeros(6, 1))
        again = env.restart(parts, 5)["policy"]
        other = env.restart(parts, 6)["policy"]
    assert torch.equal(first, again) and torch.equal(first[:3], first[3:])
    assert not torch.equal(first, other) and len(set(map(tuple, first.tolist()))) == 3


def test_an_evaluation_does_not_start_from_the_states_of_a_training_with_its_seed():
    with open_env("Pendulum-v1", 6, seed=42) as env:
        trained = env.get_observations()["policy"].clone()
        evaluated = env.restart([torch.arange(6)], 42)["policy"]
    assert len({tuple(row) for row in [*trained.tolist(), *evaluated.tolist()]}) == 12


def test_episode_statistics_equal_gymnasiums():
    options = {"vectorization_mode": "sync", "vector_kwargs": {"autoreset_mode": AutoresetMode.SAME_STEP}}
    theirs = RecordEpisodeStatistics(gymnasium.make_vec("Hopper-v5", 4, **options), buffer_length=1000)
    theirs.reset(seed=derive_seeds(7, 4))
    ours = EpisodeStatistics(4, "cpu")
    generator = torch.Generator().manual_seed(2)
    with open_env("Hopper-v5", 4, seed=7) as env:
        for _ in range(150):
            actions = torch.rand(4, 3, generator=generator) * 2 - 1
            _, rewards, dones, _ = env.step(actions)
            theirs.step(actions.numpy())
            ours.add(rewards, dones > 0)
    ours.fetch()
    assert len(ours.returns) == len(theirs.return_queue) > 10
    np.testing.assert_allclose(ours.returns, np.ravel(theirs.return_queue), rtol=1e-5)
    assert list(ours.lengths) == np.ravel(theirs.length_queue).tolist()


def test_scaled_rewards_equal_gymnasiums():
    options = {"vectorization_mode": "sync", "vector_kwargs": {"autoreset_mode": AutoresetMode.SAME_STEP}}
    theirs = NormalizeReward(gymnasium.make_vec("Hopper-v5", 4, **options), gamma=0.98)
    theirs.reset(seed=derive_seeds(7, 4))
    ours, saved = RewardScaler(4, 0.98), None
    generator = torch.Generator().manual_seed(2)
    with open_env("Hopper-v5", 4, seed=7) as env:
        for step in range(120):
            actions = torch.rand(4, 3, generator=generator) * 2 - 1
            with torch.inference_mode():
                _, rewards, dones, extras = env.step(actions)
                scaled = ours(rewards.double(), (dones > 0) & ~extras["time_outs"], dones > 0)
            wanted = np.clip(theirs.step(actions.numpy())[1], -CLIP, CLIP)
            # Gymnasium's running return is a float32
            np.testing.assert_allclose(scaled.numpy(), wanted, rtol=2e-5)
            if step == 60:
                saved = {key: value.clone() for key, value in ours.state_dict().items()}
    restored = RewardScaler(4, 0.98)
    restored.load_state_dict(saved)
    assert restored.var == saved["var"] != 1.0


def test_distance_is_the_way_forward():
    with open_env("HalfCheetah-v5", 2, "env.max_episode_steps=20") as env:
        measures = env.make_measures()
        measures.reset()
        generator = torch.Generator().manual_seed(0)
        for _ in range(2):
            begin = np.array([e.unwrapped.data.qpos[0] for e in env.vector_env.envs])
            for step in range(20):
                last = np.array([e.unwrapped.data.qpos[0] for e in env.vector_env.envs])
                dones = env.step(torch.rand(2, 6, generator=generator) * 2 - 1)[2]
                found = measures.step(dones)["distance"]
                assert len(found) == (2 if step == 19 else 0)
            end = last + env.latest_infos["final_info"]["x_velocity"] * env.step_dt
            np.testing.assert_allclose(found.numpy(), end - begin, rtol=1e-5, atol=1e-6)


def test_tasks_without_a_velocity_or_a_control_period_have_no_distance(monkeypatch):
    with open_env("Pendulum-v1", 2) as env:
        measures = env.make_measures()
        dones = env.step(torch.zeros(2, 1))[2]
        assert measures.step(dones) == {}
    infos = {"x_velocity": 2.0}
    results = np.zeros(1), 1.0, False, False, infos
    monkeypatch.setattr(scripted.Script, "step", lambda *_: results)
    with open_env(f"{SCRIPTS}Script-v0", 2) as env:
        measures = env.make_measures()
        assert measures.step(env.step(torch.zeros(2, 2))[2]) == {}, "a frame rate is no control rate"
    monkeypatch.setattr(scripted.Script, "dt", 0.1, raising=False)
    with open_env(f"{SCRIPTS}Script-v0", 2) as env:
        measures = env.make_measures()
        assert measures.step(env.step(torch.zeros(2, 2))[2])["distance"].shape == (0,)
        for value in (np.array([1.0]), np.array([1.0, 2.0]), None, "fast"):
            infos["x_velocity"] = value
            assert measures.step(env.step(torch.zeros(2, 2))[2]) == {}, value
        infos.clear()
        measures.step(env.step(torch.zeros(2, 2))[2] + 1)
        infos["x_velocity"] = 3.0
        again = measures.step(env.step(torch.zeros(2, 2))[2] + 1)["distance"]
    assert again.tolist() == pytest.approx([0.3, 0.3]), "nothing of the episode that ended without a velocity"


def test_a_control_period_is_the_tasks_own_or_unknown(monkeypatch):
    with open_env("Pendulum-v1", 1) as env:
        assert env.control_period == env.step_dt == 0.05
    with open_env(SCRIPTS + "Turn-v0", 1) as env:
        assert (env.control_period, env.step_dt) == (None, 0.05)
    monkeypatch.setattr(scripted.Turn, "metadata", {"render_modes": ["rgb_array"]})
    with open_env(SCRIPTS + "Turn-v0", 1) as env:
        assert (env.control_period, env.step_dt) == (None, pytest.approx(1 / 30))


def test_non_finite_values_are_refused():
    with open_env("Pendulum-v1", 2) as env:
        with pytest.raises(NonFiniteError) as refused:
            env.step(torch.tensor([[0.0], [float("nan")]]))
        assert refused.value.blames_policy
        env.vector_env.envs[1].unwrapped.state = np.array([np.inf, 0.0])
        with pytest.raises(NonFiniteError) as refused, np.errstate(invalid="ignore"):
            env.step(torch.zeros(2, 1))
        assert not refused.value.blames_policy


def test_a_reward_beyond_single_precision_is_refused(monkeypatch):
    results = np.zeros(1), -1e39, False, False, {}
    monkeypatch.setattr(scripted.Script, "step", lambda *_: results)
    with open_env(f"{SCRIPTS}Script-v0", 2) as env:
        with pytest.raises(NonFiniteError, match="a reward of Scripted/Script-v0") as refused:
            env.step(torch.zeros(2, 2))
    assert not refused.value.blames_policy


@pytest.mark.parametrize("broken_step", [0, 2, 3])
def test_an_observation_that_is_not_finite_is_refused_wherever_it_stands_in_an_episode(broken_step):
    """The first one makes the policy's action NaN, and the last one of an episode is only among the final observations."""
    with open_env(f"{SCRIPTS}Broken-v0", 2, f"env.step={broken_step}") as env:
        with pytest.raises(NonFiniteError, match="an observation") as refused:
            for _ in range(3):
                env.step(env.get_observations()["policy"].expand(2, 2))
        assert not refused.value.blames_policy


@pytest.mark.filterwarnings("ignore:.*(obs|reward) returned by")
def test_an_observation_or_reward_of_another_shape_than_the_task_declares_is_refused(monkeypatch):
    task = f"{SCRIPTS}Script-v0"
    with open_env(task, 2) as env:
        env.vector_env.envs[1].unwrapped.observed = np.zeros(2)
        with pytest.raises(UserError, match=r"Script-v0: an observation has shape \(2,\); allowed: \(1,\)"):
            env.step(torch.zeros(2, 2))
    results = np.zeros(1), np.zeros(1), False, False, {}
    monkeypatch.setattr(scripted.Script, "step", lambda *_: results)
    with open_env(task, 2) as env, pytest.raises(UserError, match=r"a reward has shape \(1,\)"):
        env.step(torch.zeros(2, 2))
    monkeypatch.setattr(scripted.Script, "step", lambda *_: (np.zeros(1), None, False, False, {}))
    with open_env(task, 2) as env, pytest.raises(UserError, match="a reward is None; allowed: a number"):
        env.step(torch.zeros(2, 2))
    monkeypatch.setattr(scripted.Script, "reset", lambda *_, **_settings: (np.zeros((1, 1)), {}))
    with pytest.raises(UserError, match=r"an observation has shape \(1, 1\)"), open_env(task, 2):
        pass


@pytest.mark.parametrize("name", ["observation_space", "action_space"])
def test_a_space_without_values_is_refused(monkeypatch, name):
    monkeypatch.setattr(scripted.Script, name, gymnasium.spaces.Box(-1.0, 1.0, (0,)))
    with pytest.raises(UserError, match=f"Script-v0: {name.removesuffix('_space')}s of 0 values"):
        open_env(f"{SCRIPTS}Script-v0", 2)


@pytest.mark.parametrize("value", ["0", "-1", "2.5", "many"])
def test_a_time_limit_that_is_none_is_refused(value):
    with pytest.raises(UserError, match="env.max_episode_steps"):
        load("Pendulum-v1", f"env.max_episode_steps={value}")


def test_an_empty_time_limit_is_the_default_one():
    with open_env(f"{SCRIPTS}Script-v1", 1, "env.max_episode_steps=null") as env:
        assert env.max_episode_length == env.vector_env.envs[0].spec.max_episode_steps == 10_000


def test_a_task_whose_module_is_missing_is_refused_in_one_line():
    gymnasium.register("Scripted/Gone-v0", "a_module_that_is_gone:Task")
    with pytest.raises(UserError, match="a_module_that_is_gone"):
        load(f"{SCRIPTS}Gone-v0")


def test_environments_are_closed_if_the_first_picture_fails(monkeypatch):
    closed = []
    monkeypatch.setattr(scripted.Script, "close", lambda env: closed.append(env))
    monkeypatch.setattr(scripted.Script, "render", lambda _: None)
    with pytest.raises(UserError, match="--video"), open_env(f"{SCRIPTS}Script-v0", 3, video=True):
        pass
    assert len(closed) == 1 + 3  # the first one told its spaces


@pytest.mark.parametrize(
    ("shape", "dtype", "is_allowed"),
    [((480, 720, 4), np.uint8, True), ((8, 12), np.uint8, False), ((8, 12, 3), np.float32, False)],
)
def test_a_picture_is_rgb_or_refused_when_the_environments_open(shape, dtype, is_allowed, monkeypatch):
    monkeypatch.setattr(scripted.Script, "render", lambda _: np.ones(shape, dtype))
    if is_allowed:
        with open_env(f"{SCRIPTS}Script-v0", 1, video=True) as env:
            assert env.open_camera().render().shape == (480, 720, 3)
        return
    with pytest.raises(UserError, match="--video: the task renders"):
        open_env(f"{SCRIPTS}Script-v0", 1, video=True).__enter__()


def test_a_camera_that_follows_is_not_asked_of_a_class_without_cameras():
    with open_env(f"{SCRIPTS}Filmed-v0", 1, video=True) as env:
        assert env.open_camera().render().shape == (480, 720, 3)


@pytest.mark.parametrize(
    ("overrides", "camera_id"), [([], 0), (["env.camera_name=track"], 0), (["env.camera_id=-1"], -1)], ids=str
)
def test_a_camera_of_the_users_takes_the_place_of_the_one_that_follows(overrides, camera_id, monkeypatch):
    monkeypatch.setattr(GymnasiumVecEnv, "open_camera", lambda _: SimpleNamespace(render=lambda: None))
    with open_env("Hopper-v5", 1, *overrides, video=True) as env:
        assert env.vector_env.envs[0].unwrapped.mujoco_renderer.camera_id == camera_id
