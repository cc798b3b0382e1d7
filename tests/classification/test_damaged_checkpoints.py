"""A classifier's damaged checkpoint is refused in one line with the file and the key, before recordings are read or anything is built."""

import copy
import math

import numpy as np
import pytest
import torch

from spiky_rl.classification import checkpoint, inference, run
from spiky_rl.classification.settings import ClassifyRequest, resume_settings
from spiky_rl.cli import common
from spiky_rl.cli.classify import classify
from spiky_rl.config.registry import UserError
from tests.hosts.test_damaged_checkpoints import REMOVED, put
from tests.recorded import bars, encoded

LINE = (
    "--dataset custom --device cpu --agent lif_linear_classifier --bins 2 --epochs 2 --batch_size 4".split()
)
LINE += ["agent.network.layers=[5]", "agent.network.backend=torch"]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The last checkpoint of two epochs: its path, and its content."""
    root, generator = tmp_path_factory.mktemp("good"), np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPIKY_RL_CACHE", str(root / "cache"))
        for label in range(3):
            (root / "data" / f"c{label}").mkdir(parents=True)
            for i in range(5):
                events = bars(generator, label).tolist()
                (root / "data" / f"c{label}" / f"{i}.bin").write_bytes(encoded(events))
        argv = [*LINE, "--data", str(root / "data"), "--log_root", str(root / "logs")]
        assert common.run(classify, argv) == 0
        (path,) = root.rglob("model_1.pt")
        yield path, torch.load(path, weights_only=True)


IDENTITY = "infos/spiky_rl/identity"
FLAGS, DATASET, SPEC = f"{IDENTITY}/settings/flags", f"{IDENTITY}/settings/dataset", f"{IDENTITY}/spec"
WEIGHT, BIAS = "network/layers.0.connection.weight", "best/decoder.readout.bias"
GROUP, MOMENTS = "optimizer/param_groups/0", "optimizer/state/1"
ONES = torch.ones(128, 5)
EXPECTED = {
    "a whole number": ("3", 2.5, True, None, [3], torch.ones(3)),
    "text": (3, [], {}, None),
    "a list": (3, "x", None),
    "a mapping": (3, "x", [1]),
}
KINDS = {
    f"{IDENTITY}/seed": "a whole number",
    f"{FLAGS}/split": "a whole number",
    f"{FLAGS}/patience": "a whole number",
    f"{DATASET}/bins": "a whole number",
    f"{IDENTITY}/dataset": "text",
    f"{IDENTITY}/agent": "text",
    f"{IDENTITY}/data": "text",
    f"{IDENTITY}/split": "text",
    f"{IDENTITY}/device": "text",
    f"{DATASET}/name": "text",
    f"{IDENTITY}/overridden": "a list",
    f"{IDENTITY}/shape": "a list",
    f"{IDENTITY}/classes": "a list",
    f"{IDENTITY}/window": "a list",
    "history/loss": "a list",
    "history/seconds": "a list",
    "network": "a mapping",
    "history": "a mapping",
    IDENTITY: "a mapping",
    SPEC: "a mapping",
    f"{IDENTITY}/settings": "a mapping",
    FLAGS: "a mapping",
    DATASET: "a mapping",
}
NEEDED = (
    *("network", "best", "optimizer", "history", "random", "learned", "infos", WEIGHT, BIAS, IDENTITY),
    *(
        "optimizer/state",
        "optimizer/param_groups",
        f"{GROUP}/params",
        f"{MOMENTS}/step",
    ),
    *(
        f"{IDENTITY}/{key}"
        for key in ("dataset", "agent", "seed", "data", "split", "spec", "shape", "classes")
    ),
    *(f"{IDENTITY}/{key}" for key in ("window", "scale", "device", "settings")),
    *(f"{IDENTITY}/settings/{key}" for key in ("flags", "dataset")),
    *(f"{DATASET}/{key}" for key in ("name", "bins", "binary")),
    *(f"{FLAGS}/{key}" for key in ("data", "epochs", "batch_size")),
    *(f"{SPEC}/network", f"{SPEC}/network/name"),
)
DAMAGES = {
    f"{path}: {value!r}"[:80]: (path, value) for path, kind in KINDS.items() for value in EXPECTED[kind]
}
DAMAGES |= {f"no {path}": (path, REMOVED) for path in NEEDED}
OTHERS = {
    WEIGHT: (math.nan * ONES, math.inf * ONES, torch.ones(5, 128), "x", torch.ones(1).expand(128, 5)),
    BIAS: (torch.ones(4), torch.ones(1).expand(3), torch.full((3,), math.nan), None),
    "network/_extra_state": (torch.ones(3).long(),),
    "best/stranger": (torch.ones(3),),
    f"{MOMENTS}/exp_avg_sq": (-torch.ones(5), torch.ones(1).expand(5)),
    f"{MOMENTS}/step": (torch.tensor(-1.0),),
    "history/loss": ([], [0.1], [math.nan, 0.1], ["a", "b"]),
    "history/accuracy_train": ([0.1, 1.5], [-0.1, 0.5]),
    "history/accuracy_validation": ([0.5, 2.0], [0.5, "x"]),
    "history/seconds": ([-1.0, 1.0],),
    "random": ([], {}, "x"),
    "random/torch": (torch.zeros(5), 3),
    f"{IDENTITY}/seed": (-1, 2**70),
    f"{IDENTITY}/shape": ([10**5] * 3, [2, 8], [2, 8, 0], [2, -8, 8], [2, 8, 10**9], [2.0, 8.0, 8.0]),
    f"{IDENTITY}/classes": ([], ["c0"], ["c0", "c0", "c1"], [0, 1, 2], "c012"),
    f"{IDENTITY}/window": ([5, 2], [0], [-1, 4], [0, 2**70]),
    f"{IDENTITY}/scale": (-1.0, 0.0, math.nan, "1", 1e300),
    f"{IDENTITY}/device": ("tpu", "cuda:9999"),
    f"{IDENTITY}/data": ("", "no digest"),
    f"{IDENTITY}/dataset": ("digits",),
    f"{FLAGS}/epochs": (0, -1, 2**70, 10**400, None),
    f"{FLAGS}/batch_size": (0, [4], None),
    f"{FLAGS}/label_smoothing": (1.0, -0.1, math.nan),
    f"{FLAGS}/shift": (-1.0, math.inf),
    f"{FLAGS}/schedule": ("cosines", 3),
    f"{FLAGS}/skip_bad": (1,),
    f"{FLAGS}/data": (3, None),
    f"{FLAGS}/stranger": (3,),
    f"{DATASET}/bins": (0, -2, 10**9),
    f"{DATASET}/binary": (1, "yes"),
    f"{DATASET}/name": ("owl", ""),
    f"{DATASET}/sensor": ([8], [8, 0], "8x8", [8, 10**9]),
    f"{DATASET}/window": ([9, 2],),
    f"{DATASET}/stranger": (1,),
    f"{SPEC}/network": ({}, {"name": "nothing"}, "feedforwards"),
    f"{SPEC}/network/layers": ([10**9, 10**9], [-3], ["x"], 5, [2.5], []),
    f"{SPEC}/network/neuron": ({"name": "lif", "tau": -1.0}, {"name": "lif", "tau": 1e38, "taus": 1}, 3),
    f"{SPEC}/network/decoder": ({"name": "no"},),
    f"{SPEC}/frames": ("turns",),
    f"{SPEC}/algorithm/learning_rate": (-1.0, "fast"),
    f"{SPEC}/actor/hidden_dims": ("x",),
}  # fmt: skip
for own_path, values in OTHERS.items():
    DAMAGES |= {f"{own_path} {i}": (own_path, value) for i, value in enumerate(values)}


def key_of(path: str) -> str:
    """The last part of a damage's path that a message may name."""
    return path.rpartition("/")[2].rpartition(".")[2]


def damaged(good, tmp_path, path, value):
    """The checkpoint with ``value`` at a path, or without it, in a file of its own."""
    content = copy.deepcopy(good[1])
    put(path, value)(content)
    file = tmp_path / "model.pt"
    torch.save(content, file)
    return file


def resume(path):
    """Go on with a checkpoint's run, up to its first epoch."""
    asked = ClassifyRequest(checkpoint=str(path), device="cpu", flags={"epochs": 3})
    loaded = checkpoint.read(path)
    return run.prepare_trainer(resume_settings(asked, loaded), loaded, "cpu")


def test_the_whole_checkpoint_goes_on_and_is_used(good, tmp_path):
    file = damaged(good, tmp_path, f"{FLAGS}/epochs", 2)
    assert len(list(resume(file).run_epochs())) == 1
    asked = ClassifyRequest(checkpoint=str(file), evaluate=True)
    assert len(inference.load_classifier(asked, checkpoint.read(file), "cpu", True).samples) == 15


def test_a_checkpoint_with_the_old_name_of_its_dataset_goes_on_and_is_used(good, tmp_path):
    content = copy.deepcopy(good[1])
    for path in (f"{IDENTITY}/dataset", f"{DATASET}/name"):
        put(path, "own")(content)
    put(f"{FLAGS}/epochs", 2)(content)
    torch.save(content, tmp_path / "model.pt")
    trainer = resume(tmp_path / "model.pt")
    assert trainer.samples.name == "custom" and len(list(trainer.run_epochs())) == 1
    for name in (None, "own", "custom"):
        asked = ClassifyRequest(checkpoint=str(tmp_path / "model.pt"), evaluate=True, dataset=name)
        loaded = checkpoint.read(tmp_path / "model.pt")
        assert len(inference.load_classifier(asked, loaded, "cpu", True).samples) == 15


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_checkpoint_is_refused_by_its_name_and_key(case, good, tmp_path):
    path, value = DAMAGES[case]
    file = damaged(good, tmp_path, path, value)
    with pytest.raises(UserError) as caught:
        resume(file)
    said = str(caught.value)
    assert said.startswith(f"{file}: ") and "\n" not in said and len(said) < 600
    keys = {key_of(path), key_of(path.rpartition("/")[0])}
    assert any(key and key in said for key in keys), said
    assert "Traceback" not in said and "pydantic" not in said


USED = {
    "a weight less": (BIAS, REMOVED),
    "a weight of another shape": (BIAS, torch.ones(4)),
    "a weight more": ("best/stranger", torch.ones(3)),
    "weights without an end": (f"{SPEC}/network/layers", [10**9, 10**9]),
    "a class less": (f"{IDENTITY}/classes", ["c0", "c1"]),
    "another sensor": (f"{IDENTITY}/shape", [2, 9, 9]),
}


@pytest.mark.parametrize("case", USED)
def test_the_command_line_refuses_a_damaged_checkpoint_in_one_line(case, good, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(common.log, "handlers", common.log.handlers)
    file = damaged(good, tmp_path, *USED[case])
    assert common.run(classify, ["--evaluate", "--checkpoint", str(file), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and said.splitlines()[-1].startswith("error: ")
    assert not list(tmp_path.glob("*.json"))


def test_zero_bytes_and_half_a_file_are_no_checkpoint(good, tmp_path):
    whole = good[0].read_bytes()
    for content in (b"", bytes(len(whole)), whole[: len(whole) // 2], whole[:-1], b"text"):
        (tmp_path / "model.pt").write_bytes(content)
        with pytest.raises(UserError, match="model.pt: not a checkpoint, or damaged"):
            checkpoint.read(tmp_path / "model.pt")


def test_recordings_that_go_on_after_the_window_of_the_training_are_said(good, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(common.log, "propagate", True)
    path, content = good
    window = content["infos"]["spiky_rl"]["identity"]["window"]
    (tmp_path / "c0").mkdir()
    for name, last in (("short", window[1] - 1), ("long", 2 * window[1])):
        (tmp_path / "c0" / f"{name}.csv").write_text(f"10,1,1,0\n{last},1,1,0\n")
    asked = ClassifyRequest(checkpoint=str(path), evaluate=True, flags={"data": str(tmp_path)})
    assert len(inference.load_classifier(asked, checkpoint.read(path), "cpu", True).samples) == 2
    words = "1 of 2 recordings continue after it, c0/long.csv until"
    assert f"dataset.window: {window}; {words} {2 * window[1] + 1}" in caplog.text


def test_keys_that_are_numbers_are_no_keys(good, tmp_path):
    file = damaged(good, tmp_path, IDENTITY, {"settings": {}, 1: 2})
    with pytest.raises(UserError, match="infos.spiky_rl.identity: missing dataset, agent"):
        checkpoint.read(file)
