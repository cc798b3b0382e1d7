"""A result that cannot be written is refused before the simulation that it would be the result of."""

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from spiky_rl.cli import evaluate
from spiky_rl.config import files
from spiky_rl.config.options import UserError
from spiky_rl.run import evaluate as evaluating
from spiky_rl.run import play
from spiky_rl.run.run_plan import EvaluateOptions, PlayOptions, RunRequest


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A checkpoint in a folder that cannot be written, as on a read-only file system."""

    def refuse(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    return tmp_path / "model_0.pt"


def test_an_evaluation_is_refused_before_it_is_simulated(checkpoint, monkeypatch):
    pytest.importorskip("gymnasium")
    monkeypatch.setattr(evaluate, "make_plan", lambda request: None)
    monkeypatch.setattr(evaluating, "plan_evaluation", lambda *_: SimpleNamespace(checkpoint=checkpoint))
    monkeypatch.setattr(evaluating, "evaluate", lambda *_: pytest.fail("simulated"))
    options = EvaluateOptions(conditions="nominal")
    with pytest.raises(UserError, match="--out: cannot write to .* Read-only"):
        evaluate.run_evaluation(RunRequest(task="CartPole-v1"), options)


def test_playback_is_refused_before_it_is_simulated(checkpoint, monkeypatch):
    monkeypatch.setattr(play, "find_checkpoint", lambda plan: checkpoint)
    monkeypatch.setattr(play, "open_policy", lambda *_: pytest.fail("simulated"))
    plan: Any = SimpleNamespace(request=RunRequest(task="CartPole-v1", num_envs=1), num_envs=1)
    with pytest.raises(UserError, match="--checkpoint: cannot write to .* Read-only"):
        play.play_policy(plan, PlayOptions(), lambda *_: None)
