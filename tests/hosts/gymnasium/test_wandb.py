"""Trainings on Weights & Biases, offline: both learners write the same curves, settings and checkpoints."""

import json
import struct
import sys

import pytest

from spiky_rl.config.errors import UserError, require_module
from tests.hosts.gymnasium.scripted import SCRIPTS

RUN = ["--task", f"{SCRIPTS}Script-v0", "--device", "cpu", "--num_envs", 32]
RUN += ["--max_iterations", 2, "agent.num_steps_per_env=8", "agent.algorithm.num_learning_epochs=1"]
CURVES = {
    "Train/mean_reward",
    "Train/mean_episode_length",
    "Policy/mean_std",
    "Perf/total_fps",
    "Spikes/rate",
}
AGENTS = {"rsl_rl": "lif_ppo", "skrl": "lif_ppo", "replay": "lif_td3"}
BLOCK, HEADER = 2**15, 7
"""Bytes of a block and of a header in W&B's files, which have the format of LevelDB's logs."""


def read_records(path):
    """Yield the records of an offline run's file. A record may be cut into parts: whole 1, first 2, middle 3, last 4."""
    content, place, parts = path.read_bytes(), HEADER, b""
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + HEADER : place + HEADER + size]
        place += HEADER + size
        if kind in (1, 4):
            yield parts
            parts = b""


def read_run(folder):
    """Return the history, the settings and the saved files of the only offline run below ``folder``."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.rglob("run-*.wandb")
    history, settings, files = {}, {}, set()
    for data in read_records(path):
        record = Record()
        record.ParseFromString(data)
        step = record.history.step.num
        for item in record.history.item:
            history.setdefault(item.key or item.nested_key[0], {})[step] = json.loads(item.value_json)
        for update in (*record.run.config.update, *record.config.update):
            settings[update.key or update.nested_key[0]] = json.loads(update.value_json)
        files |= {file.path for file in record.files.files}
    return history, settings, files


@pytest.mark.parametrize("case", AGENTS)
def test_a_training_is_on_wandb(command, tmp_path, monkeypatch, case):
    wandb = pytest.importorskip("wandb", reason="the wandb extra is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb.teardown()  # it reads the variables once
    small = []
    if case != "rsl_rl":
        pytest.importorskip("skrl", reason="the skrl extra is not installed")
        small = ["--rl_library", "skrl"]
    if case == "replay":
        small += ["agent.algorithm.batch_size=8", "agent.algorithm.learning_starts=64"]
    given = [text for text in RUN if case != "replay" or "epochs" not in str(text)]
    code, _, stderr = command(
        "train", *given, *small, "--agent", AGENTS[case], "--log_root", tmp_path, "--logger", "wandb"
    )
    assert code == 0, stderr
    (folder,) = (path.parent for path in tmp_path.rglob("result.json"))
    history, settings, files = read_run(tmp_path)
    assert CURVES <= set(history) and any(tag.startswith("Loss/") for tag in history)
    assert set(history["Perf/total_fps"]) == {0, 1}, "one point for each iteration"
    assert history["Train/mean_reward"][1] == 15.0
    assert settings["log_dir"] == str(folder)
    assert settings["env_cfg"]["task"] == "Scripted/Script-v0"
    assert settings["train_cfg"]["num_steps_per_env"] == 8
    assert {"model_0.pt", "model_1.pt"} <= files
    assert list(folder.glob("events.out.tfevents.*")), "TensorBoard's curves are there too"


def test_a_package_that_is_not_installed_is_named_with_its_extra(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    code, _, stderr = command("train", *RUN, "--log_root", tmp_path, "--logger", "wandb")
    assert code == 2 and "wandb is not installed" in stderr and "in a clone: pip install '.[wandb]'" in stderr


def test_a_folder_of_earlier_runs_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "hollow").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="hollow is not installed"):
        require_module("hollow", "wandb")


def test_a_logger_that_a_learner_lacks_is_refused(command, tmp_path):
    pytest.importorskip("skrl", reason="the skrl extra is not installed")
    line = [*RUN, "--log_root", tmp_path, "--rl_library", "skrl", "--logger", "neptune"]
    code, _, stderr = command("train", *line)
    assert code == 2 and "--logger neptune" in stderr and "allowed: tensorboard, wandb" in stderr
