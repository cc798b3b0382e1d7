"""``bench.py latency`` times shipped policies too, every form on one thread, and refuses agents that one environment cannot serve."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import latency
from spiky_rl.config.options import UserError
from spiky_rl.deploy.c import C
from spiky_rl.deploy.onnx import Onnx
from tests.deploy.test_c import walk
from tests.deploy.trained import trained


def test_the_shipped_policies_can_be_timed(tmp_path, monkeypatch):
    requests = []

    def stop(request):
        requests.append(request)
        raise UserError("planned")

    monkeypatch.setattr(latency, "make_plan", stop)
    line = ["--task", "CartPole-v1", "--checkpoint", "pretrained", "--log_root", str(tmp_path)]
    with pytest.raises(UserError, match="planned"):
        latency.bench([*line, "--agents", "lif_ppo"])
    assert Path(requests[0].checkpoint).is_file() and requests[0].spec.name == "lif_ppo"


def test_agents_with_other_histories_are_refused_before_a_simulator_starts():
    def plan(agent, **runner):
        return SimpleNamespace(agent=agent, spec=SimpleNamespace(runner=runner))

    latency.require_same_observations([plan("a"), plan("b", history=1)])
    with pytest.raises(UserError, match="--agents: a has agent.history=1, b has agent.history=3"):
        latency.require_same_observations([plan("a"), plan("b", history=3)])


def test_a_policy_in_c_is_timed_in_a_loop_of_its_own(tmp_path):
    policy = trained("lif_ppo")
    path, seen = C().write(policy, tmp_path), [x.numpy() for x in walk(policy)]
    spent = latency.time_loop(path, seen, 500)
    assert len(spent) == 500 and min(spent) > 0
    rows = latency.print_table({("lif_ppo", "c"): spent})
    assert rows[0]["best_us"] == min(spent) / 1e3 <= rows[0]["median_us"] <= rows[0]["percentile_99_us"]


def test_an_onnx_graph_runs_on_as_many_threads_as_torch(monkeypatch):
    used = []
    fake = SimpleNamespace(
        SessionOptions=SimpleNamespace,
        InferenceSession=lambda path, options, providers: used.append(options.intra_op_num_threads)
        or SimpleNamespace(get_inputs=list),
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    assert Onnx.open_session(SimpleNamespace(), Path("policy.onnx")) is not None
    assert used == [torch.get_num_threads()]
