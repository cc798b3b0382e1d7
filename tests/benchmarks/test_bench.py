"""``bench.py`` times what it says it times: equal outputs, ratios of its own milliseconds, nothing lost, nothing silent."""

import contextlib
import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import choice as bench_choice
from benchmarks import plot as bench_plot
from benchmarks import run as bench
from benchmarks.contenders import FeedforwardSetting, PlainLoop
from benchmarks.entries import CONTENDERS, FORMS, REFERENCES, Entry
from spiky_rl.cli import common
from spiky_rl.config.registry import UserError

JAX_MODULE = "benchmarks.jax_contenders"
"""Its contenders compute on the CPU."""
STEPS, BATCHES = 3, (2, 64)
FEEDFORWARD = [name for name, entry in CONTENDERS.items() if entry.kind in FeedforwardSetting.kinds]
PEERS = [name for name, entry in CONTENDERS.items() if entry.package]


def installed(name):
    return bench_choice.is_installed(name, required=False)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One short real run: its rows and what it printed."""
    folder = tmp_path_factory.mktemp("bench")
    sizes = ["--steps", str(STEPS), "--batch", *map(str, BATCHES), "--rounds", "2"]
    named = [name for name in FEEDFORWARD if CONTENDERS[name].form != "compiled" and installed(name)]
    names = ["--contenders", *named, "--neurons", "lif", "alif"]
    files = ["--json", str(folder / "rows.json"), "--plot", str(folder / "plot.png")]
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown):
        patch.setattr(bench, "MIN_MEASUREMENT_S", 1e-3)
        assert common.run(bench.bench, [*sizes, *names, *files]) == 0
    return json.loads((folder / "rows.json").read_text()), shown.getvalue(), folder


@pytest.mark.slow
def test_rows_say_what_was_timed_and_ratios_are_those_of_their_milliseconds(measured):
    rows, _, _ = measured
    assert {"contender", "neuron", "mode", "steps", "batch", "ms", "ratio"} <= set(rows[0])
    assert {(row["neuron"], row["mode"], row["batch"]) for row in rows} == {
        (neuron, mode, batch)
        for neuron in ("lif", "alif")
        for mode in ("train", "infer")
        for batch in BATCHES
    }
    for row in rows:
        shape = ("neuron", "mode", "batch", "steps")
        reference = REFERENCES[CONTENDERS[row["contender"]].kind]
        [base] = [
            other["ms"]
            for other in rows
            if other["contender"] == reference and all(other[key] == row[key] for key in shape)
        ]
        assert row["ratio"] == pytest.approx(base / row["ms"]) and row["ms"] > 0 and row["failed"] is None
    assert {"spiky_rl", "spiky_rl_f32", "dense_floor", "plain_loop"} <= {row["contender"] for row in rows}
    assert not {row["contender"] for row in rows if row["neuron"] == "alif"} & set(PEERS), "peers bring a LIF"


@pytest.mark.slow
def test_contenders_compute_the_same_network_at_the_rates_of_the_comparison(measured):
    rows, _, _ = measured
    for row in rows:
        if row["batch"] >= 64:
            assert all(0.05 < rate < 0.25 for rate in row["rates"])
        exact = ("spiky_rl_f32", "spiky_rl_recompute", "spikingjelly", "jax")
        if row["contender"] in exact and row["batch"] >= 64:
            assert row["same"] > 0.9
            assert row["mode"] == "infer" or row["cosine"] > 0.99
    kept = {
        row["contender"]: row["saved_bytes"] for row in rows if row["mode"] == "train" and row["batch"] >= 64
    }
    assert kept["spiky_rl_recompute"] < 0.05 * kept["plain_loop"]


@pytest.mark.slow
def test_the_screen_has_every_contender_and_the_plot_is_a_picture(measured):
    rows, shown, folder = measured
    assert all(row["contender"] in shown for row in rows)
    assert "ratio" in shown and "process CPU time" in shown
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert bench_plot.format_summary(rows).count("plain_loop") == 4
    summary = bench_plot.format_summary(rows).splitlines()
    order = [line for line in summary if line in FORMS][:4]
    assert order == ["spiky_rl", "eager torch", "JAX", "other work"], "each form under its name"
    mlp = next(i for i, line in enumerate(summary) if line.split()[:1] == ["mlp"])
    assert summary.index("other work") < mlp


def test_a_network_that_computes_something_else_is_found_out(monkeypatch):
    setting = FeedforwardSetting("lif", STEPS, "cpu")
    race = bench.Race(setting, ["plain_loop", "spiky_rl"], 1)
    with torch.no_grad():
        next(iter(race.modules["spiky_rl"].network.layers)).connection.bias.add_(1.0)
    monkeypatch.setattr(bench, "MIN_MEASUREMENT_S", 1e-4)
    rows = {row.contender: row for row in race.run(64, "infer", 1)}
    assert "of its outputs equal the reference's" in rows["spiky_rl"].failed
    assert rows["plain_loop"].failed is None, "the others go on"


def test_a_contender_that_fails_stops_nobody_and_is_told(monkeypatch):
    def broken(_):
        raise RuntimeError("no such library function")

    monkeypatch.setitem(CONTENDERS, "mlp", Entry(broken))
    monkeypatch.setattr(bench, "MIN_MEASUREMENT_S", 1e-4)
    race = bench.Race(FeedforwardSetting("lif", STEPS, "cpu"), ["plain_loop", "mlp"], 1)
    rows = {row.contender: row for row in race.run(2, "train", 1)}
    assert rows["mlp"].failed == "RuntimeError: no such library function" and rows["mlp"].ms is None
    assert rows["plain_loop"].ms > 0


def test_the_time_of_the_first_call_is_that_of_one_call(monkeypatch):
    clock, durations = [0.0], iter([90.0, *[1.0] * 99])

    class Slow(PlainLoop):
        def learn(self, x):
            clock[0] += next(durations)
            super().learn(x)

    monkeypatch.setitem(CONTENDERS, "mlp", Entry(Slow))
    monkeypatch.setattr(
        bench, "time", SimpleNamespace(perf_counter=lambda: clock[0], process_time=lambda: clock[0])
    )
    race = bench.Race(FeedforwardSetting("lif", STEPS, "cpu"), ["mlp"], 1)
    (row,) = race.run(2, "train", 1)
    assert row.first_call_s == 90.0 and row.ms == 1000.0


def test_help_names_the_contenders_that_do_not_run_by_default():
    (action,) = [one for one in bench.build_parser()._actions if "--contenders" in one.option_strings]
    left_out = action.help.partition("default: all but ")[2].split(", ")
    assert left_out == [name for name in CONTENDERS if not CONTENDERS[name].quick] and "spyx" in left_out


WRONG = {
    "contender": (["--contenders", "spiky_r1"], ["--contenders", "'spiky_r1'", "mean 'spiky_rl'"]),
    "neuron": (["--neurons", "lift"], ["--neurons", "'lift'", "mean 'lif'"]),
    "steps": (["--steps", "0"], ["--steps: 0", "between 1 and"]),
    "rate": (["--rate", "15"], ["--rate: 15", "between 0.01 and"]),
    "mode": (["--modes", "tain"], ["--modes", "'tain'"]),
    "ending": (["--plot", "x.jpeg"], ["--plot", "'.jpeg'", ".png"]),
    "json": (["--json", "rows.txt"], ["--json", "'.txt'", ".json"]),
    "nothing to infer": (["--modes", "infer", "--contenders", "torch_neuron"], ["training only"]),
    "network": (["--networks", "recurent"], ["--networks", "'recurent'"]),
    "contender of another network": (
        ["--contenders", "spiky_rl_recurrent"],
        ["'spiky_rl_recurrent' needs --networks recurrent"],
    ),
    "neuron that a peer has not": (
        ["--neurons", "alif", "--contenders", "snntorch"],
        ["--contenders", "'snntorch'", "--neurons lif"],
    ),
    "network without contenders": (
        ["--networks", "recurrent", "reservoir", "--contenders", "plain_reservoir"],
        ["--networks recurrent", "none of its contenders"],
    ),
    "control steps": (
        ["--networks", "recurrent", "--control-steps", "0"],
        ["--control-steps: 0", "between 1 and"],
    ),
    "rate of a reservoir": (["--networks", "reservoir", "--rate", "0.3"], ["--rate", "reservoir"]),
    "control steps without a sequence": (["--control-steps", "8"], ["--control-steps", "feedforward"]),
    "memory": (
        ["--networks", "recurrent", "--batch", "1", "10000000"],
        ["--batch 10000000", "of memory"],
    ),
    "device": (["--device", "gpu"], ["--device", "'gpu'"]),
    "task of another host": (
        ["updates", "--task", "Isaac-Ant"],
        ["--task Isaac-Ant", "Isaac Lab", "allowed: tasks of Gymnasium"],
    ),
    "task with discrete actions": (["updates", "--task", "CartPole-v1"], ["discrete actions", "with TD3"]),
    "minibatch": (["updates", "--minibatch", "64", "65"], ["--minibatch: 65", "multiples of 8"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_refused_before_anything_is_timed(case, capsys):
    arguments, words = WRONG[case]
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(common.run(bench.bench, arguments))
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == "" and all(word in shown.err for word in words), shown.err


def test_a_peer_that_is_not_installed_is_refused_where_it_was_asked_for(monkeypatch):
    monkeypatch.setattr(bench_choice.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="'norse' is not installed; install it with: pip install norse"):
        bench_choice.choose_contenders(["norse"], ["feedforward"], "cpu")
    everything = bench_choice.choose_contenders(None, ["feedforward", "recurrent", "reservoir"], "cpu")
    assert not set(everything) & set(PEERS), "the default goes on without"
    assert {"plain_loop", "plain_recurrent", "spiky_rl_reservoir"} <= set(everything)


def test_a_contender_for_the_cpu_alone_is_left_out_on_a_gpu_and_refused_where_it_was_asked_for(
    monkeypatch, capsys
):
    monkeypatch.setattr(bench_choice.importlib.util, "find_spec", lambda name: object())
    networks = ["feedforward", "recurrent", "reservoir"]
    on_cpu, on_gpu = (
        set(bench_choice.choose_contenders(["all"], networks, device)) for device in ("cpu", "cuda:0")
    )
    of_jax = {name for name in on_cpu if getattr(CONTENDERS[name].build, "__module__", "") == JAX_MODULE}
    assert len(of_jax) == 4 and on_gpu == on_cpu - of_jax
    assert "left out: 'jax' runs with --device cpu only" in capsys.readouterr().err.splitlines()
    with pytest.raises(UserError, match="^--contenders: 'spyx' runs with --device cpu only$"):
        bench_choice.choose_contenders(["spyx"], networks, "cuda:0")


@pytest.mark.parametrize("rate", [0.05, 0.4])
def test_layers_fire_at_the_rate_of_the_comparison(rate):
    setting = FeedforwardSetting("lif", STEPS, "cpu", rate=rate)
    found = setting.measure_rates("network", setting.make_inputs("network", 256))
    assert all(abs(each - rate) < 0.4 * rate for each in found), found


def test_every_contender_has_a_form_and_other_work_says_why():
    assert {entry.form for entry in CONTENDERS.values()} == set(FORMS)
    assert all(entry.note for entry in CONTENDERS.values() if entry.form == "other work")


@pytest.mark.skipif(not installed("jax"), reason="jax is not installed")
def test_jax_computes_the_plain_loops_network_and_gradient(monkeypatch):
    monkeypatch.setattr(bench, "MIN_MEASUREMENT_S", 1e-4)
    race = bench.Race(FeedforwardSetting("lif", STEPS, "cpu"), ["plain_loop", "jax"], 1)
    rows = {row.contender: row for row in race.run(64, "train", 1)}
    assert rows["jax"].failed is None and rows["jax"].same > 0.95 and rows["jax"].cosine > 0.999


@pytest.mark.slow
@pytest.mark.skipif(not installed("jax"), reason="jax is not installed")
@pytest.mark.parametrize("threads", [1, 3])
def test_jax_computes_on_as_many_threads_as_the_others_and_hands_no_call_over(threads):
    code = (
        "import pathlib, time, torch; from benchmarks.contenders import FeedforwardSetting\n"
        "from benchmarks.jax_contenders import JaxLoop\n"
        f"torch.set_num_threads({threads}); setting = FeedforwardSetting('lif', 3, 'cpu')\n"
        "run, x = JaxLoop(setting), setting.make_observations(1); run(x); run(x)\n"
        "names = [file.read_text() for file in pathlib.Path('/proc/self/task').glob('*/comm')]\n"
        "whole, own = time.process_time(), time.thread_time()\n"
        "for _ in range(200): run(x)\n"
        "whole, own = time.process_time() - whole, time.thread_time() - own\n"
        "print(sum('XLAEigen' in name for name in names), own / whole)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pool, share = map(float, done.stdout.split())
    assert pool == threads and share > 0.9


@pytest.mark.slow
def test_gradient_steps_of_ppo_and_td3_are_timed_in_turns(tmp_path, monkeypatch):
    from benchmarks import updates

    monkeypatch.setattr(updates, "MIN_MEASUREMENT_S", 1e-3)
    sizes = ["--minibatch", "16", "--layers", "16", "8", "--rounds", "2", "--task", "Pendulum-v1"]
    assert common.run(bench.bench, ["updates", *sizes, "--json", str(tmp_path / "rows.json")]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["agent"] for row in rows] == [agent for pair in updates.AGENTS.values() for agent in pair]
    for mlp, spiking in zip(rows[::2], rows[1::2], strict=True):
        assert mlp["ratio"] == 1.0 and spiking["ratio"] == pytest.approx(spiking["ms"] / mlp["ms"])


def test_without_a_word_the_feedforward_network_is_compared():
    networks = bench.build_parser().parse_args([]).networks
    assert set(bench_choice.choose_contenders(None, networks, "cpu")) <= set(FEEDFORWARD)
