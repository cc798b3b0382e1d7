"""``classify.py``: from a dataset to a result, bit for bit the same again, resumed as if nothing had happened."""

import functools
import importlib.util
import json
import os
import re
import runpy
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from spiky_rl.classification import result as classify_result
from spiky_rl.classification import training as classify_training
from spiky_rl.classification.training import augment, compute_logits, to_sequence, training_step
from spiky_rl.cli.classify import classify
from spiky_rl.config import registry
from spiky_rl.datasets import nmnist_synthetic
from tests.cli.refusals import run_command

REAL = os.environ.get("SPIKY_RL_DATA")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed: the extra 'dev'"
)
DIGITS = ["--dataset", "digits", "--device", "cpu"]
SYNTHETIC = ["--dataset", "nmnist_synthetic", "dataset.count=60", "--bins", "3", "--device", "cpu"]


load_digits_once = functools.cache(nmnist_synthetic.load_mnist_like)


@pytest.fixture(autouse=True)
def shared_data(tmp_path_factory, monkeypatch):
    """Our own cache, and digits that are enlarged once for all tests."""
    monkeypatch.setattr(nmnist_synthetic, "load_mnist_like", load_digits_once)
    monkeypatch.setenv("SPIKY_RL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def run(logs, *argv):
    """Exit code and, of a run that ended well, what result.json says."""
    code = run_command(classify, [*argv, "--log_root", logs])
    results = sorted(Path(logs).glob("classify/*/*/result.json"), key=lambda p: p.stat().st_mtime_ns)
    return code, json.loads(results[-1].read_text()) if results and code == 0 else None


def weights(logs):
    newest = max(Path(logs).glob("classify/*/*/model_*.pt"), key=lambda p: p.stat().st_mtime_ns)
    return torch.load(newest, weights_only=True)["network"]


def test_digits_are_told_apart_after_a_few_epochs(tmp_path, capsys):
    code, result = run(tmp_path, *DIGITS, "--epochs", "8", "agent.algorithm.learning_rate=5e-3")
    assert code == 0
    # measured here with seeds 0 to 2: 0.95 to 0.97
    assert result["accuracy"] > 0.9
    assert [result[f"samples_{part}"] for part in ("train", "validation", "test")] == [1294, 144, 359]
    assert np.sum(result["confusion"]) == 359
    assert np.trace(result["confusion"]) / 359 == pytest.approx(result["accuracy"])
    assert result["synthetic"] is None and result["outcome"] == "finished"
    assert len(result["history"]["accuracy_validation"]) == result["epochs"] == 8
    assert result["accuracy_validation"] == max(result["history"]["accuracy_validation"])
    out = capsys.readouterr().out
    assert "epoch   8/8  validation" in out and "lif_ppo on digits: finished" in out


def test_recordings_of_ones_own_choose_an_agent_that_fits_their_sensor(tmp_path, capsys):
    for i in range(10):
        (tmp_path / "data" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "data" / "ab"[i % 2] / f"{i}.npy", np.full((4, 1, 8, 9), 1.0 + i))
    line = ["--data", tmp_path / "data", *"--dataset custom --bins 2 --epochs 1 --device cpu".split()]
    code, result = run(tmp_path, *line, "agent.algorithm.learning_rate=0.25")
    assert code == 0 and result["agent"] == "lif_conv_small_classifier"
    assert result["settings"]["learning_rate"] == 0.25
    code, result = run(tmp_path, *line, "agent.network.layers=[5,6]", "agent.network.neuron.tau=3.0")
    assert code == 0 and result["agent"] == "lif_conv_small_classifier" and len(result["firing"]) == 2
    code, _ = run(tmp_path, *line, "--agent", "lif_conv_classifier")
    assert code == 2  # one that is named is taken at its word
    capsys.readouterr()
    code, _ = run(tmp_path, *line, "agent.network.layers=[5]")  # of the agent that was chosen, not of another
    assert code == 2 and "lif_conv_small_classifier.yaml: agent.network.connection" in capsys.readouterr().err
    # what is wrong for every agent is said before recordings are read
    code, _ = run(tmp_path, *line, "agent.network.neuron.tua=3.0")
    assert code == 2 and capsys.readouterr().err.startswith("error: command line: agent.network.neuron.tua")


def test_a_run_leaves_its_files_and_only_the_last_and_the_best_checkpoint(tmp_path):
    code, result = run(tmp_path, *SYNTHETIC, "--epochs", "3")
    assert code == 0
    (folder,) = (tmp_path / "classify" / "nmnist_synthetic").iterdir()
    assert {"run.json", "result.json", "model_2.pt", "best.pt", "params"} <= {
        p.name for p in folder.iterdir()
    }
    assert len(list(folder.glob("*.pt"))) == 2
    rows = (folder / "params" / "recordings.csv").read_text().splitlines()
    assert len(rows) == 61 and sum(row.endswith(",test") for row in rows) == 12
    assert result["synthetic"].startswith("simulated sensor on ")
    assert result["synops_per_sample"] == pytest.approx(3 * result["synops_per_step"])
    assert len(result["firing"]) == 2 and 0.0 < result["firing_rate"] < 1.0
    if importlib.util.find_spec("matplotlib"):
        assert (folder / "confusion.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    if importlib.util.find_spec("tensorboard"):
        assert list(folder.glob("events.out.tfevents.*"))


def test_the_same_seed_trains_the_same_weights_and_a_resumed_run_those_of_one_that_never_stopped(tmp_path):
    line = [*SYNTHETIC, "--seed", "3"]
    _, whole = run(tmp_path / "whole", *line, "--epochs", "2")
    again_code, again = run(tmp_path / "again", *line, "--epochs", "2")
    assert again_code == 0 and again["history"]["loss"] == whole["history"]["loss"]
    # with a constant rate the first of two epochs is the first of one
    line += ["--schedule", "constant"]
    run(tmp_path / "constant", *line, "--epochs", "2")
    run(tmp_path / "parts", *line, "--epochs", "1")
    code, resumed = run(tmp_path / "parts", *line, "--epochs", "2", "--checkpoint", "latest")
    assert code == 0 and resumed["epochs"] == 2
    expected, found = weights(tmp_path / "constant"), weights(tmp_path / "parts")
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize("lost", ["result", "ann"])
def test_a_run_that_was_killed_after_its_last_epoch_gets_its_result(tmp_path, lost):
    line = [*SYNTHETIC, "--epochs", "2"]
    _, whole = run(tmp_path, *line, *(["--ann", "mlp"] if lost == "ann" else []))
    (path,) = tmp_path.glob("classify/*/*/result.json")
    if lost == "result":
        path.unlink()
    else:
        path.write_text(json.dumps(whole | {"ann": None}))
    code, again = run(tmp_path, *line, "--checkpoint", "latest")
    assert code == 0
    for key in ("accuracy", "epochs", "history", "confusion", "outcome", "epoch"):
        assert again[key] == whole[key]
    assert (again["ann"] is None) == (lost == "result")
    assert run(tmp_path, *line, "--checkpoint", "latest")[0] == 2, "it has its result now"


def test_a_checkpoint_of_other_data_network_or_dataset_is_refused(tmp_path, capsys):
    assert run(tmp_path, *SYNTHETIC, "--epochs", "1")[0] == 0
    latest = ["--epochs", "2", "--checkpoint", "latest"]
    (folder,) = (tmp_path / "classify" / "nmnist_synthetic").iterdir()
    cases = [
        (
            [*SYNTHETIC, *latest, "--split", "1"],
            "--split 1: the run of .* has 0; leave it out, or train anew",
        ),
        ([*SYNTHETIC, *latest, "--binary"], "dataset.binary True: the run of .* has False"),
        ([*SYNTHETIC, *latest, "dataset.count=50"], "dataset.count 50: the run of .* has 60"),
        (
            [*SYNTHETIC, *latest, "agent.network.layers=[4,4]"],
            "agent.network.layers [4, 4]: the run of .* has [12, 32]",
        ),
        (
            [*SYNTHETIC, *latest, "--agent", "lif_conv_small_classifier"],
            "no run of lif_conv_small_classifier",
        ),
        (
            ["--checkpoint", folder, "--agent", "lif_ppo"],
            "--agent lif_ppo: the run of .* has lif_conv_classifier",
        ),
        (["--checkpoint", "latest"], "--checkpoint latest: name the --dataset too"),
        ([*SYNTHETIC, "--epochs", "1", "--checkpoint", "latest"], "--epochs 1: .* has done 1 epochs"),
        ([*DIGITS, *latest], "no run of any agent on digits"),
        ([*DIGITS, "--checkpoint", folder], "--dataset digits: the run of .* has nmnist_synthetic"),
        ([*DIGITS, "--checkpoint", folder / "result.json"], "not a checkpoint, or damaged"),
    ]
    for argv, words in cases:
        capsys.readouterr()
        assert run(tmp_path, *argv)[0] == 2, argv
        lines = capsys.readouterr().err.splitlines()
        assert sum("error:" in line for line in lines) == 1
        assert re.search(words.replace("[", r"\["), lines[-1]), lines[-1]


def test_an_agents_file_that_says_something_else_than_the_runs_is_refused_by_its_key(tmp_path, capsys):
    """What the run's command line set is the run's own, and is no difference of the file."""
    assert run(tmp_path, *SYNTHETIC, "--epochs", "1", "agent.network.neuron.tau=3.0")[0] == 0
    resume = ["--checkpoint", "latest", "--dataset", "nmnist_synthetic", "--device", "cpu", "--agent"]
    shipped = (registry.find_data_folder("agents") / "lif_conv_classifier.yaml").read_text()
    other = tmp_path / "other" / "lif_conv_classifier.yaml"
    other.parent.mkdir()
    for before, after, words in (
        ("layers: [12, 32]", "layers: [20, 32]", r"network\.layers \[20, 32\]: the run of .* has \[12, 32\]"),
        ("decoder: rate", "decoder: membrane", r"network\.decoder\.name membrane: the run of .* has rate"),
        (
            "learning_rate: 5.0e-3",
            "learning_rate: 1.0",
            r"algorithm\.learning_rate 1.0: the run of .* has 0.005",
        ),
    ):
        assert before in shipped
        other.write_text(shipped.replace(before, after))
        capsys.readouterr()
        assert run(tmp_path, *resume, other, "--epochs", "2")[0] == 2
        assert re.search(rf"--agent {other}: agent\.{words}", capsys.readouterr().err)
    other.write_text(shipped.replace("tau: 1.4427", "tau: 2.5"))
    for epochs in ("2", "3"):  # a run that went on still knows
        assert run(tmp_path, *resume, other, "--epochs", epochs)[0] == 0


def test_a_list_of_recordings_that_has_changed_is_named(tmp_path, capsys):
    assert run(tmp_path, *SYNTHETIC, "--epochs", "1")[0] == 0
    (folder,) = (tmp_path / "classify" / "nmnist_synthetic").iterdir()
    ids = tmp_path / "ids.csv"
    rows = (folder / "params" / "recordings.csv").read_text().splitlines()
    ids.write_text("\n".join(rows))
    assert run(tmp_path / "listed", *SYNTHETIC, "--epochs", "1", "--ids", ids)[0] == 0
    ids.write_text("\n".join(rows[:-1]))
    resume = ["--checkpoint", "latest", "--dataset", "nmnist_synthetic", "--device", "cpu", "--epochs", "2"]
    assert run(tmp_path / "listed", *resume)[0] == 2
    assert (
        f"other recordings, or another window of them, than --ids '{ids}' lists in --data now"
        in capsys.readouterr().err
    )


def test_a_loss_that_is_no_number_ends_in_the_last_good_checkpoint(tmp_path, monkeypatch, capsys):
    rate = classify_training.Trainer._get_learning_rate  # pylint: disable=protected-access
    monkeypatch.setattr(
        classify_training.Trainer,
        "_get_learning_rate",
        lambda self, done: 1e38 if done >= 0.5 else rate(self, done),
    )
    assert run(tmp_path, *SYNTHETIC, "--epochs", "2", "--batch_size", "8")[0] == 1
    (path,) = tmp_path.rglob("result.json")
    result = json.loads(path.read_text())
    assert result["outcome"].startswith("failed: epoch 1: the loss is ") and result["epochs"] == 1
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())
    assert "lif_conv_classifier on nmnist_synthetic" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("times", "epochs"), [(1, 3), (2, 2)])
def test_a_signal_ends_a_run_after_its_epoch_and_a_second_at_once(
    number, times, epochs, tmp_path, monkeypatch
):
    """With what shells call a process that the signal ended, and what the last whole epoch learned."""
    rate, sent = classify_training.Trainer._get_learning_rate, []  # pylint: disable=protected-access

    def signalled(self, done):
        if done >= 0.5 and len(sent) < times:
            sent.append(done)
            os.kill(os.getpid(), number)
        return rate(self, done)

    monkeypatch.setattr(classify_training.Trainer, "_get_learning_rate", signalled)
    assert run(tmp_path, *SYNTHETIC, "--epochs", "4", "--batch_size", "8")[0] == 128 + number
    (path,) = tmp_path.rglob("result.json")
    result = json.loads(path.read_text())
    assert (result["outcome"], result["epochs"], len(sent)) == ("stopped", epochs, times)
    assert path.with_name(f"model_{epochs - 1}.pt").is_file()


@pytest.mark.parametrize(("times", "code"), [(1, 0), (2, 130)])
def test_a_signal_while_the_result_is_written_leaves_it_whole_and_a_second_ends_at_once(
    times, code, tmp_path, monkeypatch
):
    write = classify_result.write_result

    def signalled(*arguments):
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
        return write(*arguments)

    monkeypatch.setattr(classify_result, "write_result", signalled)
    assert run(tmp_path, *SYNTHETIC, "--epochs", "1")[0] == code
    outcomes = [json.loads(path.read_text())["outcome"] for path in tmp_path.rglob("result.json")]
    assert outcomes == ["finished"] * (2 - times)


def test_an_interrupt_while_the_command_is_loaded_ends_without_a_traceback(monkeypatch):
    class Interrupted:
        """Finds the command's module, and is interrupted."""

        def find_spec(self, name, *_):
            if name == "spiky_rl.cli.classify":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "spiky_rl.cli.classify")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "classify.py"), run_name="__main__")
    assert ended.value.code == 130


BAD_LINES = {
    "dataset": (["--dataset", "mnist"], "--dataset: unknown dataset 'mnist'; known: .*did you mean 'nmnist'"),
    "no dataset": ([], "--dataset: name one of custom, digits, ev_objects, nmnist"),
    "dataset's option": (["--dataset", "stemnist", "dataset.character=all"], "did you mean 'characters'"),
    "own without a folder": (
        ["--dataset", "custom"],
        "--dataset custom: name the folder of your recordings with --data",
    ),
    "download": ([*DIGITS, "--download"], "--download: not available for digits; allowed: nmnist"),
    "out": ([*DIGITS, "--out", "x.csv"], "--out: available only with --evaluate or --predict"),
    "validation": ([*DIGITS, "--validation", "1438"], "--validation 1438: must be between 1 and 1437"),
    "flag": ([*DIGITS, "--epoch", "3"], "did you mean '--epochs'?"),
    "agent": ([*DIGITS, "--agent", "lif_pppo"], "unknown agent 'lif_pppo'.*did you mean 'lif_ppo'"),
    "local rule": (
        [*DIGITS, "agent.network.learning=stdp"],
        "agent.network.learning: 'stdp' learns from the advantages of actions",
    ),
    "plasticity": (
        [*DIGITS, "--agent", "lif_plastic_reservoir_ppo"],
        "agent.network.plasticity: stdp: not available for a classification.*allowed: none",
    ),
    "patience": (
        [*DIGITS, "--patience", "3", "--validation", "0"],
        "--patience 3: not available without validation recordings; pass --patience 0",
    ),
    "patience of few": (
        [*DIGITS, "--patience", "3", "--recordings", "5"],
        "--patience 3: not available without validation recordings; pass --patience 0",
    ),
    "output": (
        [*DIGITS, "--evaluate", "--checkpoint", "nowhere", "--out", "/proc/x.json"],
        "--out: cannot write to '/proc'",
    ),
    "no network": ([*DIGITS, "--agent", "mlp_ppo"], "--agent mlp_ppo: .*no `network`"),
    "key": ([*DIGITS, "agent.network.neuron.tua=1"], "agent.network.neuron.tua: .*did you mean 'tau'"),
    "unread key": (
        [*DIGITS, "agent.algorithm.gamma=0.9"],
        "agent.algorithm.gamma=0.9.* allowed: network, frames, actor",
    ),
    "environment": ([*DIGITS, "env.x=1"], "'env.x=1' is not an override"),
    "forgets": ([*SYNTHETIC, "agent.network.stateful=false"], "pass agent.network.stateful=true"),
    "bins of images": (
        [*DIGITS, "--bins", "4"],
        "dataset.bins: 4 is out of range; it must be between 1 and 1",
    ),
    "hold out": ([*DIGITS, "--hold_out", "1797"], "--hold_out 1797: must be between 1 and 1796"),
    "split": ([*DIGITS, "--split", "-1"], "--split: -1 is out of range; it must be between 0 and"),
    "smoothing": (
        [*DIGITS, "--label_smoothing", "1"],
        "1.0 is out of range; it must be at least 0.0 and below 1.0",
    ),
    "shift": ([*DIGITS, "--shift", "-1"], "-1.0 is out of range; it must be"),
    "no data": (["--dataset", "nmnist", "--data", "/nowhere"], "N-MNIST is not in '/nowhere'"),
    "no form": (["--dataset", "stmnist", "--data", "/nowhere"], "require a form"),
    "maps": ([*DIGITS, "--agent", "lif_conv_classifier"], "does not fit maps of"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_command_line_is_refused_and_leaves_nothing(case, tmp_path, capsys):
    argv, words = BAD_LINES[case]
    assert run(tmp_path, *argv)[0] == 2
    assert re.search(words, capsys.readouterr().err)
    assert not list(tmp_path.rglob("*.json"))


def network():
    torch.manual_seed(0)
    settings = {
        "name": "feedforward",
        "steps": 1,
        "stateful": True,
        "layers": [16],
        "neuron": {"name": "lif", "tau": 2.0, "input_gain": "unit"},
        "decoder": "rate",
    }
    return registry.configure("networks", settings, "n").build(inputs=(1, 4, 4), outputs=3)


def test_a_step_lowers_the_loss_of_its_batch_and_counts_what_was_right_before():
    net = network()
    frames, labels = torch.rand(5, 12, 16), torch.arange(12) % 3
    before = compute_logits(net, frames)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = [training_step(net, optimiser, frames, labels) for _ in range(20)]
    assert losses[0][0] == pytest.approx(torch.nn.functional.cross_entropy(before, labels).item(), rel=1e-5)
    assert losses[0][1] == int((before.argmax(1) == labels).sum())
    assert losses[-1][0] < 0.8 * losses[0][0]


def test_logits_are_the_mean_of_the_features_of_each_frame_in_turn():
    net, frames = network(), torch.rand(5, 2, 16)
    state, found = net.zero_state(2, frames), []
    for frame in frames:
        features, state = net(frame.unsqueeze(0), state)
        found.append(features[0])
    assert torch.allclose(compute_logits(net, frames), torch.stack(found).mean(0), atol=1e-6)


def test_augmentation_moves_a_sample_as_a_whole_and_leaves_it_where_there_is_none():
    frames = torch.zeros(2, 3, 1, 9, 9)
    frames[:, :, :, 4, 4] = 1.0
    assert augment(frames, 0.0, 0.0) is frames
    torch.manual_seed(0)
    moved = augment(frames, 2.0, 0.0)
    assert torch.allclose(moved.sum((2, 3, 4)), torch.ones(2, 3), atol=1e-5), "counts are shared, not lost"
    assert torch.allclose(moved[:, 0], moved[:, 2]) and not torch.allclose(moved[0], moved[1])
    axis = torch.arange(9.0)
    centre = (moved[:, 0, 0].sum(1) * axis).sum(-1)
    assert ((centre - 4.0).abs() <= 2.0 + 1e-5).all()
    turned = augment(frames, 0.0, 20.0)
    assert torch.allclose(turned[:, :, 0, 4, 4], torch.ones(2, 3)), "the centre stays when a sample is turned"


def test_samples_are_flat_and_time_comes_first():
    frames = torch.arange(2 * 3 * 4.0).reshape(2, 3, 1, 2, 2)
    assert to_sequence(frames).shape == (3, 2, 4)
    assert torch.equal(to_sequence(frames)[1, 0], frames[0, 1].flatten())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not REAL, reason="real recordings: SPIKY_RL_DATA is not set")
def test_a_convolutional_net_tells_real_recordings_apart(tmp_path):
    line = ["--dataset", "nmnist", "--hold_out", "200", "--epochs", "20", "--device", "cpu"]
    code, result = run(tmp_path, *line)
    assert code == 0 and result["accuracy"] >= 0.95
