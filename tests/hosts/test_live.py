"""Live views: by the clock, with the spikes that the policy's network fires, and without a trace in what is trained."""

import contextlib
import importlib.util
import socket
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spiky_rl.hosts.isaaclab.live import setup
from spiky_rl.learners.rsl_rl.runner import RslRlRunner
from spiky_rl.run.run_plan import TrainOptions
from spiky_rl.run.spike_raster import SpikeRaster
from tests.hosts.point_env import LIF, PointEnv, config
from tests.hosts.pretend_case import World
from tests.hosts.pretend_cuda import DEVICE, pretended

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")

from isaaclab.visualizers.base_visualizer import BaseVisualizer
from isaaclab.visualizers.visualizer_cfg import _VISUALIZER_TYPES, VisualizerCfg

from spiky_rl.hosts.isaaclab.live import base, setup
from spiky_rl.run.visualized_env import VisualizedEnv

STEPS, DT = 60, 0.02


class Screen(BaseVisualizer):
    """A visualizer that counts: what Isaac Lab's simulation asks one for, and no picture of a robot."""

    clock: "Clock"
    seconds = 0.0
    """What a frame takes."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self.frames, self.simulated = [], 0.0

    def initialize(self, scene_data_provider):
        pass

    def step(self, dt):
        self.frames.append(self.clock.now)
        self.simulated += dt
        self.clock.now += self.seconds

    def close(self):
        pass

    def is_running(self):
        return True


class View(base.LiveVisualizer, Screen):
    """A live view on it."""

    watched = True

    def __init__(self):
        super().__init__(VisualizerCfg())
        self.shown = []

    def is_watched(self):
        return self.watched

    def show(self, picture):
        self.shown.append((self.clock.now, picture))


class Clock:
    """Time that passes where a test says so."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def view(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(base, "time", clock)
    shown = View()
    shown.clock = clock
    return shown


def run(view: View, count: int, seconds: float) -> None:
    """Control steps that take ``seconds`` each, besides the view."""
    for _ in range(count):
        view.clock.now += seconds
        view.step(DT)


def test_frames_go_by_the_clock_and_no_simulated_time_is_lost(view):
    run(view, 100, base.FRAME_INTERVAL_S / 10)
    assert len(view.frames) == 10
    assert view.simulated + view.waited == pytest.approx(100 * DT)


def test_slow_frames_take_their_share_of_the_time_at_most(view):
    view.seconds, begun = 0.5, view.clock.now
    run(view, 2000, 0.01)
    spent = view.seconds * len(view.frames)
    assert 0.9 * base.SHARE < spent / (view.clock.now - begun) < 1.1 * base.SHARE


def test_a_paused_simulation_waits_for_the_next_frame_instead_of_asking_on(view):
    run(view, 1, 0.0)
    begun = view.clock.now
    for _ in range(20):  # as Isaac Lab's simulation does while a view says that it is paused
        view.step(0.0)
    assert view.clock.now - begun == pytest.approx(10 * base.FRAME_INTERVAL_S)


def test_the_picture_is_drawn_seldom_and_only_for_somebody(view):
    view.picture = lambda: "picture"
    view.watched = False
    run(view, 100, base.FRAME_INTERVAL_S)
    assert len(view.frames) == 100 and not view.shown
    view.watched = True
    run(view, 100, base.FRAME_INTERVAL_S)
    assert len(view.shown) == pytest.approx(100 * base.FRAME_INTERVAL_S / base.PICTURE_INTERVAL_S, abs=1)


def runner(env, **network) -> RslRlRunner:
    torch.manual_seed(0)
    return RslRlRunner(env, config({**LIF, **network} if network else None))


@pytest.mark.parametrize("stateful", [False, True])
def test_the_picture_has_the_spikes_that_the_policy_fired(stateful):
    env = PointEnv()
    policy = runner(env, stateful=stateful).get_inference_policy()
    picture, fired, ends = SpikeRaster(policy), [], 0
    with torch.inference_mode():
        obs, begins = env.get_observations(), torch.ones(1)
        for step in range(STEPS):
            picture.add(obs, begins)
            fired.append(policy.compute_spikes(obs))  # in the state that the policy itself is in
            if step in (0, 7, 8, 31, STEPS - 1):
                picture()
            obs, _, dones, _ = env.step(policy(obs))
            policy.reset(dones)
            begins = dones[:1]
            ends += int(begins)
    assert ends > 2, "episodes ended in between"
    assert len(picture.panel.past) == STEPS
    assert any(layer.any() for step in fired for layer in step)
    for drawn, true in zip(picture.panel.past, fired, strict=True):
        for dots, spikes in zip(drawn, true, strict=True):
            assert (torch.from_numpy(dots) == (spikes != 0)).all()


def test_skrls_policy_is_shown_as_it_is_while_it_trains():
    case = pytest.importorskip("tests.hosts.skrl_case", reason="the skrl extra is not installed")
    run_ = case.runner(network=case.SPIKING)
    run_.policy.train()
    obs, policy = run_.env.get_observations(), run_.inference_policy
    picture = SpikeRaster(policy)
    picture.add(obs, torch.ones(1))
    picture()
    assert run_.policy.training
    for dots, spikes in zip(picture.panel.past[0], policy.compute_spikes(obs), strict=True):
        assert (torch.from_numpy(dots) == (spikes != 0)).all()


def test_what_nobody_looked_at_does_not_pile_up():
    env = PointEnv()
    picture = SpikeRaster(runner(env, stateful=True).get_inference_policy())
    longest = picture.panel.past.maxlen
    for _ in range(3 * longest):
        picture.add(env.get_observations(), torch.zeros(1))
    assert len(picture.pending) == longest
    picture()
    assert (len(picture.pending), len(picture.panel.past)) == (0, longest)


class SeenEnv(PointEnv):
    """A point mass with what a live view needs of Isaac Lab's environments."""

    step_dt = DT

    def __init__(self, view):
        super().__init__()
        self.view = view
        self.sim, self.scene = SimpleNamespace(visualizers=[view]), SimpleNamespace(articulations={})

    @property
    def unwrapped(self):
        return self

    def get_live_views(self):
        return setup.get_visualizers(self)

    def set_default_camera(self, follows=False):
        setup.set_default_camera(self, follows)

    def step(self, actions):
        self.view.clock.now += base.PICTURE_INTERVAL_S
        self.view.step(DT)
        return super().step(actions)


@pytest.mark.parametrize("stateful", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_training_that_is_watched_learns_the_same_bit_for_bit(view, stateful):
    weights = []
    for env in (PointEnv(), VisualizedEnv(SeenEnv(view))):
        run_ = runner(env, stateful=stateful)
        if isinstance(env, VisualizedEnv):
            env.set_policy(run_.inference_policy)
        run_.learn(3)
        weights.append(run_.alg.get_policy().state_dict())
    assert len(view.shown) > STEPS, "pictures were drawn"
    assert (view.shown[-1][1] != view.shown[-2][1]).any()
    assert all(torch.equal(weights[1][name], value) for name, value in weights[0].items())


class SeenWorld(World):
    """A world on a pretended CUDA device that a live view shows."""

    def __init__(self, view):
        super().__init__()
        self.view = view

    def get_live_views(self):
        return [self.view]

    def set_default_camera(self, follows=False):
        """Do nothing."""


@pytest.mark.parametrize("stateful", [False, True])
def test_the_first_picture_of_a_run_on_a_gpu_is_drawn(stateful):
    view = SimpleNamespace(picture=None)
    with pretended() as cuda, cuda.pretence.setting_up():  # a picture waits for the device
        torch.manual_seed(0)
        settings = config({**LIF, "layers": [8], "stateful": stateful})
        settings["obs_groups"] = {"actor": ["policy"], "critic": ["policy"]}
        env = VisualizedEnv(SeenWorld(view))
        env.set_policy(RslRlRunner(env, settings, None, DEVICE).get_inference_policy())
        env.get_observations()
        env.step(torch.zeros(env.num_envs, env.num_actions, device=DEVICE))
        assert view.picture().ndim == 3
    assert len(view.picture.panel.past) == 2


def test_an_ann_has_no_spikes_to_show(view):
    env = VisualizedEnv(SeenEnv(view))
    env.set_policy(runner(env).inference_policy)
    env.step(torch.zeros(env.num_envs, 2))
    assert view.picture is None and view.frames and not view.shown


def test_in_real_time_a_control_step_takes_as_long_as_in_the_world(view, monkeypatch):
    monkeypatch.setattr("spiky_rl.run.visualized_env.time", view.clock)
    env = VisualizedEnv(SeenEnv(view), real_time=True)
    env.step_seconds, begun = 1.0, view.clock.now
    for _ in range(10):
        env.step(torch.zeros(env.num_envs, 2))
    assert view.clock.now - begun == pytest.approx(9.0 + base.PICTURE_INTERVAL_S, abs=0.01)


def watched_with(text):
    """The visualizers that a command line asks for."""
    return TrainOptions(visualizer=text).visualizer


def test_the_names_are_isaac_labs():
    assert set(setup.REQUIREMENTS) == set(_VISUALIZER_TYPES)
    assert watched_with("viser, rerun,viser") == ("viser", "rerun")
    assert watched_with("none") == ()


@pytest.mark.parametrize(
    "text, words",
    [("vizer", "mean 'viser'"), ("viser,", "''"), ("none,viser", "'none'"), ("newton", "newton_gl")],
)
def test_other_names_are_refused(text, words):
    with pytest.raises(setup.GraphicsError, match=words) as refused:
        setup.check_visualizers(watched_with(text), records_video=False)
    assert ", ".join(setup.REQUIREMENTS) in str(refused.value)


@pytest.mark.parametrize("name", setup.REQUIREMENTS)
def test_what_is_not_installed_is_named_with_pips_line(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    modules, package = setup.REQUIREMENTS[name]
    with pytest.raises(
        setup.GraphicsError, match=f"--visualizer {name}: {', '.join(modules)} .*pip install"
    ) as refused:
        setup.check_visualizers([name], records_video=False)
    assert f"'{package}'" in str(refused.value)


@pytest.mark.parametrize("display", [None, ":4711"])
def test_a_window_without_a_screen_is_refused(display, monkeypatch):
    pytest.importorskip("pyglet", reason="the video extra is not installed")
    monkeypatch.delenv("DISPLAY", raising=False)
    if display is not None:
        monkeypatch.setenv("DISPLAY", display)
    with pytest.raises(
        setup.GraphicsError, match="--visualizer newton_gl: no window .*set DISPLAY, or use viser"
    ):
        setup.check_visualizers(["newton_gl"], records_video=False)


def test_a_window_and_a_film_in_one_process_are_refused():
    pytest.importorskip("pyglet", reason="the video extra is not installed")
    with pytest.raises(setup.GraphicsError, match="newton_gl: not available with --video"):
        setup.check_visualizers(["newton_gl"], records_video=True)


def test_a_tasks_own_settings_of_a_visualizer_stay():
    from isaaclab_visualizers.newton import NewtonGLVisualizerCfg
    from isaaclab_visualizers.viser import ViserVisualizerCfg

    own, other = ViserVisualizerCfg(port=4711), NewtonGLVisualizerCfg()
    env_cfg = SimpleNamespace(sim=SimpleNamespace(visualizer_cfgs=[own, other]))
    setup.add_visualizers(env_cfg, ["viser", "rerun", "kit"])
    viser, window, rerun = env_cfg.sim.visualizer_cfgs
    assert (viser, window) == (own, other)
    assert (viser.port, viser.bind_address, rerun.bind_address) == (4711, "127.0.0.1", "127.0.0.1")
    assert str(viser.class_type).startswith("spiky_rl.") and str(rerun.class_type).startswith("spiky_rl.")
    assert not str(window.class_type).startswith("spiky_rl.")


def test_a_port_that_is_taken_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert setup.find_free_port(port) > port


def test_visers_cameras_follow_a_point_from_where_their_viewers_turned_them():
    pytest.importorskip("viser", reason="viser is not installed: the extra 'isaaclab'")
    from spiky_rl.hosts.isaaclab.live.viser_view import ViserView

    def client(stamp):
        camera = SimpleNamespace(position=(5.0, 5.0, 3.0), look_at=(4.0, 4.0, 1.0), update_timestamp=stamp)
        return SimpleNamespace(camera=camera, atomic=contextlib.nullcontext)

    here, not_yet = client(1.0), client(0.0)
    seen = object.__new__(ViserView)
    seen._pending_camera_pose = None
    seen.server = SimpleNamespace(get_clients=lambda: {0: here, 1: not_yet})
    seen.follow(np.array([10.0, 0.0, 0.5]))
    assert list(here.camera.look_at) == [10.0, 0.0, 0.5] and list(here.camera.position) == [11.0, 1.0, 2.5]
    assert not_yet.camera.position == (5.0, 5.0, 3.0), "a viewer whose page has not said where it looks"
