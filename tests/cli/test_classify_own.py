"""One's own recordings are trained on with settings that fit them, and with an ANN on the same frames beside the network."""

import os
import re
import signal

import pytest

from spiky_rl.classification import ann as ann_beside
from spiky_rl.classification.settings import load_agent
from spiky_rl.cli.classify import describe_ann
from spiky_rl.config import memory_check
from tests.cli.test_classify_use import LINE, folder, newest, run


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKY_RL_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
def test_an_ann_on_the_same_frames_stands_beside_the_network_in_words_and_in_the_result(
    tmp_path, monkeypatch, capsys
):
    data = folder(folder(tmp_path / "data", 10, 0, "train"), 6, 1, "test")
    line = [*LINE, "--data", data, "--epochs", 30, "--ann", "mlp"]
    assert run(tmp_path, *line) == 0
    run_folder, result = newest(tmp_path)
    ann, said = result["ann"], capsys.readouterr().out
    assert ann["name"] == "mlp" and ann["epochs"] == 10 and result["samples_test"] == 18
    assert 0.0 <= ann["accuracy"] <= 1.0 and ann["seconds_total"] > 0 and ann["synops_per_sample"] > 0
    (network,) = re.findall(r"accuracy +([\d.]+%) of 18 test recordings", said)
    (beside,) = re.findall(r"ANN +([\d.]+%) of the same 18: .* s, .* effective ops per recording", said)
    assert (network, beside) == (f"{result['accuracy']:.1%}", f"{ann['accuracy']:.1%}")
    # the network's result is what it is without an ANN, and a run that goes on trains it again
    assert run(tmp_path, *line[:-1], "none") == 0
    _, alone = newest(tmp_path)
    assert alone["ann"] is None and "ANN" not in capsys.readouterr().out
    assert (alone["accuracy"], alone["history"]["loss"]) == (result["accuracy"], result["history"]["loss"])
    assert run(tmp_path, "--checkpoint", run_folder, "--epochs", 33, "--device", "cpu") == 0
    assert newest(tmp_path)[1]["ann"]["epochs"] == 11
    # one that a signal stops is trained when the run goes on, one that is too large is left out, which is said
    build = ann_beside.build

    def build_and_stop(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return build(*arguments)

    monkeypatch.setattr(ann_beside, "build", build_and_stop)
    assert run(tmp_path, *line) == 0
    run_folder, stopped = newest(tmp_path)
    assert re.search(f"resume with +.* --checkpoint {run_folder}", capsys.readouterr().out)
    assert (stopped["accuracy"], stopped["ann"]) == (result["accuracy"], None)
    monkeypatch.setattr(ann_beside, "build", build)
    assert run(tmp_path, "--checkpoint", run_folder, "--device", "cpu") == 0
    assert newest(tmp_path)[1]["ann"]["accuracy"] == ann["accuracy"]
    monkeypatch.setattr("spiky_rl.classification.ann.MAX_WEIGHTS", 100_000)
    assert run(tmp_path, *line) == 0
    assert re.search(r"ANN +left out: 512 values", capsys.readouterr().out)
    assert newest(tmp_path)[1]["ann"]["accuracy"] is None


def test_a_network_that_an_ann_beats_and_a_training_that_is_not_over_are_named(tmp_path, capsys):
    data = folder(folder(tmp_path / "data", 20, 0, "train"), 20, 1, "test")
    slow = ["agent.algorithm.learning_rate=2e-4", "--ann", "mlp", "--epochs", 30]
    assert run(tmp_path, *LINE, *slow, "--data", data) == 0
    _, result = newest(tmp_path)
    said = capsys.readouterr().out
    assert result["rising"]["last"] > result["rising"]["before"]
    assert re.search(r"not converged +\w+ accuracy was still rising, .* --epochs 60", said)
    assert ("better than the spiking network" in said) == (
        result["accuracy"] < result["ann"]["accuracy"] - 0.1
    )


def test_own_recordings_are_sized_and_their_counts_scaled_unless_it_is_said_otherwise(tmp_path, capsys):
    data = folder(tmp_path / "data", 10, 0)
    line = ["--dataset", "custom", "--data", data, "--device", "cpu", "--agent", "lif_linear_classifier"]
    line += ["dataset.bins=2", "--ann", "none", "--epochs", 1]
    assert run(tmp_path, *line, "dataset.window=[0,500]") == 0
    assert "[0, 500]; 30 of 30 recordings continue after it" in capsys.readouterr().err
    assert run(tmp_path, *line) == 0
    flags = newest(tmp_path)[1]["settings"]["flags"]
    assert (flags["batch_size"], flags["initial"]) == (16, "data")
    assert run(tmp_path, *line, "--batch_size", 5, "--initial", "agent") == 0
    flags = newest(tmp_path)[1]["settings"]["flags"]
    assert (flags["batch_size"], flags["initial"]) == (5, "agent")


ONE_LAYER = "agent.network.layers=[64]"


def test_memory_is_checked_for_the_batches_that_a_run_has(tmp_path, monkeypatch, capsys):
    data = folder(tmp_path / "data", 90, 0)
    line = [*LINE[: LINE.index("--batch_size")], "--data", data, "--ann", "none", "--epochs", 1, ONE_LAYER]
    spec = load_agent("lif_linear_classifier", "custom", [ONE_LAYER])
    for have, given, named in (
        (15, (), "batches of 16 recordings"),
        (16, (), "batches of 20 recordings"),
        (16, ("--batch_size", 17), "--batch_size 17"),
    ):
        total = sum(memory_check.compute_model_bytes(spec, "", have).values())
        monkeypatch.setattr("spiky_rl.classification.run.get_memory", lambda device, total=total: total)
        assert run(tmp_path, *line, *given) == 2
        said = capsys.readouterr().err
        assert f"error: agent.network with 64 neurons and {named}: needs at least" in said


@pytest.mark.parametrize(("accuracy", "is_better"), [(0.95, False), (0.5, True)])
def test_an_ann_is_better_only_beyond_the_errors_of_both_accuracies(accuracy, is_better):
    """One of 20 recordings decides nothing, though an accuracy of 100 % has no standard error of its own."""
    ann = {"accuracy": 1.0, "seconds_total": 1.0, "synops_per_sample": 1.0}
    rows = describe_ann({"accuracy": accuracy, "samples_test": 20, "ann": ann})
    assert any("better than the spiking network" in text for _, text in rows) == is_better
