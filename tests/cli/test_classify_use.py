"""A trained classifier is used: evaluated and asked about other recordings, gone on with as it was, and never tested on what it saw."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from spiky_rl.classification import inference
from spiky_rl.classification import training as classify_training
from spiky_rl.classification.settings import ClassifyRequest
from spiky_rl.cli import common
from spiky_rl.cli.classify import classify
from spiky_rl.neurons import lif
from tests.cli.refusals import run_command
from tests.recorded import bars, encoded

CLASSES = ("row", "column", "diagonal")
LINE = "--dataset custom --device cpu --agent lif_linear_classifier --bins 4 --batch_size 8".split()
LINE += "dataset.sensor=[8,8] dataset.window=[0,1000] --seed 2 --ann none --initial agent".split()
LINE += ["agent.network.layers=[32]", "agent.network.backend=torch", "agent.algorithm.learning_rate=1e-2"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SPIKY_RL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def folder(path, count, seed, part=""):
    """Recordings of three classes that are easy to tell apart."""
    generator = np.random.default_rng(seed)
    for label, name in enumerate(CLASSES):
        (path / part / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            events = bars(generator, label).tolist()
            (path / part / name / f"{seed}_{i}.bin").write_bytes(encoded(events))
    return path


def run(tmp_path, *argv):
    """Exit code of a command whose runs lie in the test's folder."""
    return run_command(classify, [*argv, "--log_root", tmp_path / "logs"])


def newest(tmp_path):
    """The newest run's folder, and what its result says."""
    path = max((tmp_path / "logs").rglob("result.json"), key=lambda p: p.stat().st_mtime_ns)
    return path.parent, json.loads(path.read_text())


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A folder with 30 recordings of each class, without an official split, and a run on them."""
    path = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPIKY_RL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        assert run(path, *LINE, "--data", folder(path / "data", 30, 0), "--epochs", 12) == 0
    return path


@pytest.fixture
def trained(once, tmp_path):
    """A copy of that folder as the test's own."""
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    return newest(tmp_path)


def test_own_recordings_are_learned_and_new_ones_are_told_apart_with_a_row_for_each(
    tmp_path, trained, capsys
):
    run_folder, result = trained
    # chance is a third; measured here with seeds 0 to 3: 0.89 to 1.0
    assert result["accuracy"] > 0.7 and result["classes"] == sorted(CLASSES)
    others = folder(tmp_path / "others", 10, 7)
    out, line = tmp_path / "out.csv", ["--checkpoint", run_folder, "--data", others, "--device", "cpu"]
    assert run(tmp_path, "--predict", *line, "--out", out) == 0
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == 30 and {row["seen"] for row in rows} == {"no"}
    assert all(row["recording"].startswith(f"{row['label']}/") for row in rows)
    for row in rows:
        scores = {name: float(row[f"score_{name}"]) for name in CLASSES}
        assert max(scores, key=lambda name: scores[name]) == row["predicted"]
        assert sum(scores.values()) == pytest.approx(1.0, abs=1e-4)
    assert np.mean([row["label"] == row["predicted"] for row in rows]) > 0.7
    capsys.readouterr()
    assert run(tmp_path, "--evaluate", *line) == 0
    (written,) = run_folder.glob("evaluation_*.json")
    evaluation = json.loads(written.read_text())
    assert evaluation["accuracy"] == pytest.approx(
        np.mean([row["label"] == row["predicted"] for row in rows])
    )
    assert evaluation["samples"] == 30 and np.sum(evaluation["confusion"]) == 30
    low, high = evaluation["interval_95"]
    assert 0.0 <= low < evaluation["accuracy"] <= high <= 1.0


def test_recordings_that_the_network_was_trained_with_are_left_out_wherever_they_lie(
    tmp_path, trained, capsys
):
    run_folder, result = trained
    assert run(tmp_path, "--evaluate", "--checkpoint", run_folder, "--device", "cpu") == 0
    (written,) = run_folder.glob("evaluation_*.json")
    evaluation = json.loads(written.read_text())
    assert (evaluation["samples"], evaluation["trained_with"]) == (18, 72)
    assert evaluation["accuracy"] == result["accuracy"] and evaluation["confusion"] == result["confusion"]
    rows = list(csv.DictReader((run_folder / "params" / "recordings.csv").open()))
    names = [row["recording"] for row in rows if row["part"] == "train"]
    seen = tmp_path / "seen"
    for name in names:  # the same events in another format, under another name
        events = np.frombuffer((tmp_path / "data" / name).read_bytes(), np.uint8).reshape(-1, 5).astype(int)
        times = (events[:, 2] & 0x7F) << 16 | events[:, 3] << 8 | events[:, 4]
        (seen / Path(name).parent).mkdir(parents=True, exist_ok=True)
        np.save(
            (seen / name).with_suffix(".npy"),
            np.stack([times, events[:, 0], events[:, 1], events[:, 2] >> 7], 1),
        )
    capsys.readouterr()
    assert run(tmp_path, "--evaluate", "--checkpoint", run_folder, "--data", seen, "--device", "cpu") == 2
    assert f"of {len(names)} recordings the network was trained with {len(names)}" in capsys.readouterr().err


def test_recordings_that_are_not_of_the_test_set_are_counted(tmp_path, trained, capsys):
    run_folder, _ = trained
    data = folder(folder(tmp_path / "parts", 4, 7, "train"), 2, 8, "test")
    assert run(tmp_path, "--evaluate", "--checkpoint", run_folder, "--data", data, "--device", "cpu") == 0
    said = capsys.readouterr().out
    assert "of 6 recordings" in said and "left out: 12 outside the test set" in said
    evaluation = json.loads(Path(said.splitlines()[-1]).read_text(encoding="utf-8"))
    assert (evaluation["samples"], evaluation["other_parts"]) == (6, 12)


def test_a_run_under_the_old_name_of_its_dataset_is_found(tmp_path, trained):
    folder, _ = trained
    manifest = folder / "run.json"
    manifest.write_text(manifest.read_text().replace('"custom"', '"own"'))
    (tmp_path / "logs" / "classify" / "custom").rename(tmp_path / "logs" / "classify" / "own")
    for name in ("own", "custom"):
        again = ["--dataset", name, "--checkpoint", "latest", "--data", tmp_path / "data", "--device", "cpu"]
        out = tmp_path / f"{name}.csv"
        assert run(tmp_path, "--predict", *again, "--out", out) == 0 and out.is_file()


def test_the_times_of_a_run_are_those_of_its_dataset():
    settings = (
        {"name": "nmnist"},
        {"name": "stemnist"},
        {"name": "custom", "time": "steps"},
        {"name": "ds.py:Mine"},
    )
    assert [inference.get_time_unit(each) for each in settings] == ["us", "steps", "steps", ""]


def test_tensors_are_refused_by_a_network_that_was_trained_with_times(tmp_path, trained, capsys):
    run_folder, _ = trained
    (tmp_path / "steps" / CLASSES[0]).mkdir(parents=True)
    np.save(tmp_path / "steps" / CLASSES[0] / "1.npy", np.ones((20, 2, 8, 8)))
    assert run(tmp_path, "--evaluate", "--checkpoint", run_folder, "--data", tmp_path / "steps") == 2
    assert (
        "1.npy: has times in steps; expected us, like the others or dataset.time" in capsys.readouterr().err
    )


def test_recordings_without_a_class_are_predicted(tmp_path, trained):
    run_folder, _ = trained
    loose = tmp_path / "loose"
    (loose / "Tuesday").mkdir(parents=True)
    for name in ("a.bin", "Tuesday/b.bin"):
        (loose / name).write_bytes(encoded(bars(np.random.default_rng(5), len(name) % 3).tolist()))
    out = tmp_path / "out.csv"
    command = ("--predict", "--checkpoint", run_folder, "--data", loose, "--out", out, "--device", "cpu")
    assert run(tmp_path, *command) == 0
    for row, name in zip(csv.DictReader(out.open()), ("Tuesday/b.bin", "a.bin"), strict=True):
        assert row["recording"] == name and row["label"] == "" and row["predicted"] in CLASSES


def test_an_official_test_set_is_seen_once_at_the_end_by_the_network_of_the_best_epoch(tmp_path, monkeypatch):
    data = folder(folder(tmp_path / "data", 10, 0, "train"), 5, 1, "test")
    seen = []
    scores = classify_training.compute_probabilities

    def noted(network, samples, indices, *rest):
        seen.append({samples.parts[i] for i in indices})
        return scores(network, samples, indices, *rest)

    monkeypatch.setattr(classify_training, "compute_probabilities", noted)
    assert run(tmp_path, *LINE, "--data", data, "--epochs", 3) == 0
    assert seen == [{"train"}] * 3 + [{"test"}]
    _, result = newest(tmp_path)
    chosen = result["history"]["accuracy_validation"]
    assert (result["samples_test"], result["samples_validation"]) == (15, 3)
    assert chosen[result["epoch"] - 1] == max(chosen) == result["accuracy_validation"]


def test_what_is_tested_is_the_network_of_the_best_epoch_and_not_of_the_last(tmp_path, monkeypatch):
    data = folder(tmp_path / "data", 10, 0)
    accuracies, tested = iter([0.9, 0.5, 0.1]), []
    scores = classify_training.compute_probabilities

    def noted(network, *rest):
        tested.append({key: value.clone() for key, value in network.state_dict().items()})
        return scores(network, *rest)

    monkeypatch.setattr(classify_training, "compute_accuracy", lambda trainer, indices: next(accuracies))
    monkeypatch.setattr(classify_training, "compute_probabilities", noted)
    assert run(tmp_path, *LINE, "--data", data, "--epochs", 3) == 0
    run_folder, result = newest(tmp_path)
    best, last = (
        torch.load(run_folder / name, weights_only=True)["network"] for name in ("best.pt", "model_2.pt")
    )
    assert (result["epoch"], result["accuracy_validation"]) == (1, 0.9)
    assert all(torch.equal(tested[0][key], best[key]) for key in best)
    assert any(not torch.equal(tested[0][key], last[key]) for key in last)


def test_patience_ends_a_run_early_and_no_validation_takes_the_last_epoch(tmp_path):
    data = folder(tmp_path / "data", 10, 0)
    still = ["agent.algorithm.learning_rate=0.0"]
    assert run(tmp_path, *LINE, *still, "--data", data, "--epochs", 9, "--patience", 2) == 0
    run_folder, result = newest(tmp_path)
    assert (result["epochs"], result["epoch"], result["outcome"]) == (3, 3, "finished")
    assert run(tmp_path, *LINE, "--data", data, "--epochs", 2, "--validation", 0) == 0
    _, result = newest(tmp_path)
    assert (result["epoch"], result["accuracy_validation"], result["samples_validation"]) == (2, None, 0)
    assert run(tmp_path, "--checkpoint", run_folder, "--patience", 2) == 2


def test_the_line_that_is_printed_goes_on_with_the_same_run(tmp_path, monkeypatch, capsys):
    """Of a run with its own seed and batches, stopped after its first epoch: the end is that of one that never stopped."""
    data = folder(tmp_path / "data", 10, 0)
    line = [*LINE, "--data", data, "--epochs", 3, "--shift", "1", "--label_smoothing", "0.2"]
    assert run(tmp_path, *line) == 0
    _, whole = newest(tmp_path)
    stop = classify_training.Trainer.measure_activity

    def interrupted(self):
        found = stop(self)
        if len(self.history.loss) == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return found

    monkeypatch.setattr(classify_training.Trainer, "measure_activity", interrupted)
    capsys.readouterr()
    assert run(tmp_path, *line) == 130
    monkeypatch.setattr(classify_training.Trainer, "measure_activity", stop)
    _, stopped = newest(tmp_path)
    assert (stopped["outcome"], stopped["epochs"], stopped["accuracy"], stopped["confusion"]) == (
        "stopped",
        1,
        None,
        None,
    )
    program = re.escape(common.format_program("classify"))
    (words,) = re.findall(f"resume with +{program} (.*)", capsys.readouterr().out)
    assert common.run(classify, shlex.split(words)) == 0
    _, resumed = newest(tmp_path)
    assert resumed["history"]["loss"] == whole["history"]["loss"]
    assert resumed["history"]["accuracy_validation"] == whole["history"]["accuracy_validation"]
    assert (resumed["accuracy"], resumed["confusion"]) == (whole["accuracy"], whole["confusion"])
    assert resumed["settings"] == whole["settings"] and resumed["changed"] == {}


def test_what_may_change_is_recorded_and_what_may_not_is_refused_by_name(tmp_path, trained, capsys):
    run_folder, _ = trained
    assert run(tmp_path, "--checkpoint", run_folder, "--epochs", 13, "--device", "cpu") == 0
    _, result = newest(tmp_path)
    assert result["changed"] == {"epochs": [12, 13]} and result["epochs"] == 13 and result["seed"] == 2
    cases = [
        (["--seed", "0"], "--seed 0: the run of .* has 2; leave it out, or train anew without --checkpoint"),
        (["--batch_size", "50"], "--batch_size 50: the run of .* has 8"),
        (["--bins", "5"], "dataset.bins 5: the run of .* has 4"),
        (["--recordings", "10"], "--recordings 10: the run of .* has None"),
        (["--schedule", "constant"], "--schedule constant: the run of .* has cosine"),
        (["--hold_out", "9"], "--hold_out 9: the run of .* has None"),
        (["agent.network.neuron.tau=5.0"], "agent.network.neuron.tau 5.0: the run of .* has 10.0"),
        (["--data", tmp_path / "data" / "none"], "no such folder"),
    ]
    for argv, words in cases:
        capsys.readouterr()
        assert run(tmp_path, "--checkpoint", run_folder, "--epochs", 14, "--device", "cpu", *argv) == 2, argv
        assert re.search(words, capsys.readouterr().err), argv
    others = folder(tmp_path / "others", 30, 3)
    assert run(tmp_path, "--checkpoint", run_folder, "--epochs", 14, "--data", others, "--device", "cpu") == 2
    assert (
        "was trained on other recordings, or another window of them, than --data holds now"
        in capsys.readouterr().err
    )
    moved = (tmp_path / "data").rename(tmp_path / "moved")
    assert run(tmp_path, "--checkpoint", run_folder, "--epochs", 14, "--data", moved, "--device", "cpu") == 0


def test_a_runs_list_of_recordings_gives_the_same_split_again(tmp_path):
    data = folder(tmp_path / "data", 20, 0)
    assert run(tmp_path, *LINE, "--data", data, "--epochs", 1, "--recordings", 40, "--split", 3) == 0
    first_folder, first = newest(tmp_path)
    assert first["samples_train"] + first["samples_validation"] + first["samples_test"] == 40
    ids = first_folder / "params" / "recordings.csv"
    assert run(tmp_path, *LINE, "--data", data, "--epochs", 1, "--ids", ids) == 0
    _, again = newest(tmp_path)
    assert (again["split_hash"], again["data_hash"]) == (first["split_hash"], first["data_hash"])
    assert again["history"]["loss"] == first["history"]["loss"]


def test_bad_recordings_are_skipped_and_named_in_the_result(tmp_path, capsys):
    data = folder(tmp_path / "data", 10, 0)
    bad = data / "row" / "0_3.bin"
    bad.write_bytes(b"")
    assert run(tmp_path, *LINE, "--data", data, "--epochs", 1) == 2
    assert f"{bad}: is empty; --skip_bad" in capsys.readouterr().err
    assert run(tmp_path, *LINE, "--data", data, "--epochs", 1, "--skip_bad") == 0
    _, result = newest(tmp_path)
    assert result["skipped"] == [f"{bad}: is empty"]
    assert result["samples_train"] + result["samples_validation"] + result["samples_test"] == 29
    said = capsys.readouterr().err
    assert "skipped 1 of 30 recordings" in said and str(bad) in said


def test_what_a_network_cannot_be_asked_about_is_refused_in_one_line(tmp_path, trained, capsys):
    run_folder, _ = trained
    use = ["--checkpoint", run_folder, "--device", "cpu"]
    other = folder(tmp_path / "other", 2, 9)
    (other / "row").rename(other / "circle")
    wide = tmp_path / "wide"
    (wide / "row").mkdir(parents=True)
    (wide / "row" / "a.bin").write_bytes(encoded([(20, 3, 1, 5)]))
    cases = [
        (["--evaluate"], "--checkpoint: name the run"),
        (["--evaluate", "--predict", *use], "--evaluate and --predict: pass one of them"),
        (["--predict", *use], "--predict: name the folder of the recordings with --data"),
        (
            ["--evaluate", *use, "--epochs", "3"],
            "--epochs: available only for training; --evaluate takes it from the checkpoint",
        ),
        (["--evaluate", *use, "--download"], "--download: available only for training"),
        (["--predict", *use, "--data", other, "--run_name", "x"], "--run_name: available only for training"),
        (["--evaluate", *use, "--data", other], "unknown class 'circle'; allowed: column, diagonal, row"),
        (["--evaluate", *use, "--data", wide], "event 0 is at column 20, row 3.* columns from 0 to 7"),
        (
            ["--evaluate", *use, "--dataset", "nmnist_synthetic", "dataset.count=2"],
            r"has frames of \[2, 34, 34\]; the network expects \[2, 8, 8\]",
        ),
        (["--predict", *use, "--data", tmp_path / "none"], "none: no such folder"),
    ]
    for argv, words in cases:
        capsys.readouterr()
        assert run(tmp_path, *argv) == 2, argv
        said = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert len(said) == 1 and re.search(words, said[0]), (argv, said)


def test_recordings_without_a_class_cannot_be_learned_from(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.bin").write_bytes(encoded([(1, 2, 1, 5)]))
    assert run(tmp_path, *LINE, "--data", tmp_path / "data") == 2
    told = "a.bin: has no class; put it into a folder of its class, or --predict it"
    assert told in capsys.readouterr().err


OWN = '''"""Two classes of one pixel each."""
import numpy as np

from spiky_rl.datasets._events import Events
from spiky_rl.datasets.base import Dataset, Recording


class Pixels(Dataset):
    shape, window, classes = (1, 1, 2), (0, 20), ("left", "right")

    def list_recordings(self):
        return [Recording(f"{i}", i % 2, "train", row=i) for i in range(20)]

    def read_events(self, recording):
        return Events(*np.array([[recording.label, recording.label], [0, 0], [0, 0], [0, recording.row]]))
'''


def test_code_that_a_checkpoint_names_is_only_executed_if_the_command_line_names_it_too(tmp_path, capsys):
    (tmp_path / "pixels.py").write_text(OWN)
    own = ["--dataset", f"{tmp_path / 'pixels.py'}:Pixels"]
    line = [*LINE[2:], "dataset.bins=2"]
    line = [word for word in line if not word.startswith(("dataset.sensor", "dataset.window"))]
    line = [word for i, word in enumerate(line) if "--bins" not in line[max(0, i - 1) : i + 1]]
    assert run(tmp_path, *own, *line, "--epochs", 1) == 0
    run_folder, _ = newest(tmp_path)
    assert f"--predict --checkpoint {run_folder} {' '.join(own)}" in capsys.readouterr().out
    (tmp_path / "pixels.py").write_text("raise SystemExit('executed')\n" + OWN)
    for label in ("left", "right"):  # any recordings, which the class that lies elsewhere does not read
        (tmp_path / "others" / label).mkdir(parents=True)
        np.save(tmp_path / "others" / label / "0.npy", np.eye(2)[[int(label == "right")] * 19][:, None, None])
    others = ["--dataset", "custom", "--data", tmp_path / "others", "--device", "cpu"]
    assert run(tmp_path, "--checkpoint", run_folder, "--evaluate", *others) == 0
    assert "of 2 recordings" in capsys.readouterr().out
    assert run(tmp_path, "--checkpoint", run_folder, "--epochs", 2, *others) == 2
    assert "--dataset custom: the run of" in capsys.readouterr().err
    for more in (["--epochs", 2], ["--evaluate"]):
        assert run(tmp_path, "--checkpoint", run_folder, *more, "--device", "cpu") == 2
        said = capsys.readouterr().err
        assert "pass --dataset as for the run, to confirm that code" in said and "executed" not in said
    (tmp_path / "pixels.py").write_text(OWN)
    assert run(tmp_path, "--checkpoint", run_folder, *own, "--epochs", 2, "--device", "cpu") == 0
    assert run(tmp_path, "--checkpoint", run_folder, *own, "--evaluate", "--device", "cpu") == 0


def test_a_network_is_not_used_with_another_window_of_time(tmp_path, capsys):
    own, cut = ["--dataset", f"{tmp_path / 'pixels.py'}:Pixels"], [
        "--dataset",
        f"{tmp_path / 'cut.py'}:Pixels",
    ]
    (tmp_path / "pixels.py").write_text(OWN)
    (tmp_path / "cut.py").write_text(OWN.replace("(0, 20)", "(0, 30)"))
    network = ["--agent", "lif_linear_classifier", "agent.network.layers=[4]", "--device", "cpu"]
    assert run(tmp_path, *own, *network, "--bins", 2, "--epochs", 1) == 0
    run_folder, _ = newest(tmp_path)
    capsys.readouterr()
    assert run(tmp_path, "--checkpoint", run_folder, *cut, "--evaluate", "--device", "cpu") == 2
    told = "its recordings are from 0 to 30; the network expects frames of the time from 0 to 20"
    assert told in capsys.readouterr().err


def test_options_of_custom_recordings_are_available_to_the_network_of_a_named_dataset(tmp_path):
    data = folder(tmp_path / "data", 1, 0)
    trained = {"name": "nmnist", "bins": 3, "binary": False}
    identity = {
        "settings": {"dataset": trained},
        "shape": [2, 34, 34],
        "window": [0, 300_000],
        "classes": CLASSES,
    }
    request = ClassifyRequest(
        checkpoint="run",
        flags={"data": str(data)},
        overrides=("dataset.unit=ms", "dataset.others=unlabelled"),
    )
    name, found = inference._open_dataset(request, identity, data)
    assert name == "custom" and (found.options.unit, len(found.recordings)) == ("ms", 3)


def test_a_part_of_the_network_from_a_file_is_named_again_to_resume_and_to_predict(tmp_path, capsys):
    source = Path(lif.__file__).read_text()
    (tmp_path / "mine.py").write_text(source)
    data, neuron = folder(tmp_path / "data", 5, 0), f"agent.network.neuron={tmp_path / 'mine.py'}:Lif"
    assert run(tmp_path, *LINE, neuron, "--data", data, "--epochs", 1) == 0
    run_folder, _ = newest(tmp_path)
    program = re.escape(common.format_program("classify"))
    (words,) = re.findall(f"predict with +{program} (.*)", capsys.readouterr().out)
    assert common.run(classify, shlex.split(words.replace("FOLDER", str(data)))) == 0
    use = ["--checkpoint", run_folder, "--device", "cpu"]
    assert run(tmp_path, *use, neuron, "--evaluate") == 0
    assert run(tmp_path, *use, neuron, "--epochs", 2) == 0
    cases = [
        ([], "pass --agent, or the override, as for the run, to confirm that code"),
        ([neuron, "agent.network.layers=[8]"], r"agent.network.layers \[8\]: the run of .* has \[32\]"),
        ([neuron, "--agent", "cnn_classifier"], "--agent cnn_classifier: the run of .* has lif_linear"),
    ]
    for argv, said in cases:
        for action in (["--evaluate"], ["--epochs", 3]):
            capsys.readouterr()
            assert run(tmp_path, "--checkpoint", run_folder / "model_0.pt", *action, *argv) == 2
            assert re.search(said, capsys.readouterr().err), (argv, action)


def test_a_component_that_was_given_by_its_name_alone_is_the_run_s(tmp_path, trained, capsys):
    resume = ["--checkpoint", trained[0], "--epochs", 13, "--device", "cpu"]
    assert run(tmp_path, *resume, "agent.network.neuron=lif") == 0
    capsys.readouterr()
    assert run(tmp_path, *resume, "agent.network.neuron=alif") == 2
    assert "agent.network.neuron alif: the run of" in (said := capsys.readouterr().err) and "has lif;" in said
