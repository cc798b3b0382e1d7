"""The demonstration: what it shows where, without starting a simulator."""

import logging

import pytest

from spiky_rl.cli import demo
from spiky_rl.config.options import UserError
from spiky_rl.hosts import find_host
from spiky_rl.run.policies import PRETRAINED, list_policies


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What is handed to playback: (request, options)."""
    found = []
    monkeypatch.setattr(demo, "run_play", lambda request, options, _: found.append((request, options)) or 0)
    monkeypatch.setattr(demo, "find_task", lambda agent: "CartPole-v1")
    monkeypatch.setattr(demo, "resolve_pretrained", lambda request: request)
    for name in ("SSH_CONNECTION", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return found


def make_viewable(monkeypatch, viewable=True):
    monkeypatch.setattr(
        type(find_host("CartPole-v1")), "abilities", frozenset({demo.LIVE_VIEW} if viewable else {})
    )
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: object())


@pytest.mark.parametrize("viewable", [True, False])
def test_without_a_browser_a_film_is_recorded(viewable, asked, monkeypatch, capsys):
    make_viewable(monkeypatch, viewable)
    assert demo.demo([]) == 0
    assert ("--view page" in capsys.readouterr().out) == viewable, "only where a page can be shown at all"
    ((request, options),) = asked
    assert request.video and request.checkpoint == PRETRAINED and options.visualizer is None
    assert request.video_length == demo.FILM_STEPS


def test_with_a_browser_the_page_is_opened_in_it(asked, monkeypatch):
    make_viewable(monkeypatch)
    opened = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(demo.webbrowser, "get", lambda: object())
    monkeypatch.setattr(demo.webbrowser, "open", opened.append)
    assert demo.demo([]) == 0
    ((request, options),) = asked
    assert not request.video and options.visualizer == ("viser",) and options.real_time
    logging.getLogger("spiky_rl").warning("live view: %s", "http://localhost:8080")
    assert opened == ["http://localhost:8080"]


def test_over_ssh_the_tunnel_is_named(asked, monkeypatch, capsys):
    make_viewable(monkeypatch)
    monkeypatch.setenv("SSH_CONNECTION", "1.2.3.4 5 6.7.8.9 22")
    assert demo.demo([]) == 0
    logging.getLogger("spiky_rl").warning("live view: %s", "http://localhost:8081")
    assert "ssh -L 8081:localhost:8081" in capsys.readouterr().out


def test_a_page_of_a_host_without_a_live_view_is_refused(asked, monkeypatch):
    make_viewable(monkeypatch, viewable=False)
    with pytest.raises(UserError, match="--view page"):
        demo.demo(["--view", "page"])
    assert asked == []


def test_a_task_without_a_policy_is_refused_before_a_film_is_announced(monkeypatch, capsys):
    make_viewable(monkeypatch, viewable=False)
    with pytest.raises(UserError, match="no trained policy of --agent lif_ppo on --task Acrobot-v1"):
        demo.demo(["--task", "Acrobot-v1"])
    assert capsys.readouterr().out == ""


def test_the_task_is_one_whose_host_is_installed(monkeypatch):
    tasks = [policy.task for policy in list_policies() if policy.agent == "lif_ppo"]
    assert set(demo.TASKS) <= set(tasks), "a shipped policy of the first agent for each of them"
    with pytest.raises(UserError, match="no trained policy"):
        demo.find_task("hodgkin_huxley_ppo")

    def missing(self, video=False):
        raise UserError("not installed")

    for task in demo.TASKS:
        monkeypatch.setattr(type(find_host(task)), "require_installed", missing)
    with pytest.raises(UserError, match="not installed"):
        demo.find_task("lif_ppo")


def test_without_isaac_lab_a_task_of_gymnasium_is_shown(monkeypatch):
    pytest.importorskip("gymnasium", reason="gymnasium is not installed: the extra 'gymnasium'")

    def missing(self, video=False):
        raise UserError("not installed")

    monkeypatch.setattr(type(find_host(demo.TASKS[0])), "require_installed", missing)
    assert demo.find_task("lif_ppo") == demo.TASKS[1]
