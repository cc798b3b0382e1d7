"""The commands as a user runs them, on the real Isaac-Cartpole: train, resume, stop, play, export, Isaac Lab's own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import processes

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")

ROOT = Path(__file__).parents[2]
TASK = ["--task", "Isaac-Cartpole-v0", "--device", "cpu", "--assets", "local"]
ENVS, ITERATIONS = 256, 45


def alone(path: Path, *arguments: object) -> subprocess.CompletedProcess:
    """A command from its very start."""
    line = [sys.executable, path, *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


def command(script: str, *arguments: object, start: Callable = processes.run) -> subprocess.CompletedProcess:
    return start(ROOT / "scripts" / script, *TASK, *arguments)


def train(root: Path, *arguments: object, start: Callable = processes.run) -> Path:
    """Train; returns the run folder."""
    done = command("train.py", "--log_root", root, *arguments, start=start)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    result = Path(done.stdout.strip().splitlines()[-1])
    assert result.name == "result.json" and result.is_file(), "the path of the result is printed last"
    return result.parent


def drawing() -> str | None:
    """Why nothing can be drawn here; None where it can."""
    from spiky_rl.hosts.isaaclab.camera import GraphicsError, setup_graphics

    try:
        setup_graphics()
    except GraphicsError as error:
        return str(error)
    return None


def result_of(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """One real training, long enough to learn."""
    line = ["--agent", "lif_ppo", "--num_envs", ENVS, "--max_iterations", ITERATIONS, "--run_name", "e2e"]
    return train(tmp_path_factory.mktemp("logs"), *line, start=alone)


def test_training_learns_to_balance_and_writes_isaac_labs_layout(trained):
    result = result_of(trained)
    assert result["mean_return_final"] > 3.5
    assert result["env_steps"] == ITERATIONS * ENVS * 16
    assert 0.01 < result["firing_rate"] < 0.6
    assert result["task"] == "Isaac-Cartpole" and result["agent"] == "lif_ppo"
    assert (
        trained.parent.name == "cartpole"
        and trained.parent.parent.name == "rsl_rl"
        and trained.name.endswith("_e2e")
    )
    for name in (
        f"model_{ITERATIONS - 1}.pt",
        "best.pt",
        "params/env.yaml",
        "params/agent.yaml",
        "params/spec.yaml",
    ):
        assert (trained / name).is_file(), name
    assert f"num_envs: {ENVS}" in (trained / "params/env.yaml").read_text()
    manifest = json.loads((trained / "run.json").read_text())
    assert (manifest["library"], manifest["task"], manifest["metadata"]) == (
        "rsl_rl",
        "Isaac-Cartpole",
        {"agent": "lif_ppo"},
    )
    assert list(trained.glob("events.*"))


@pytest.fixture(scope="module")
def played(trained) -> subprocess.CompletedProcess:
    """One playback, with an export."""
    line = ["--agent", "lif_ppo", "--log_root", trained.parents[2], "--num_envs", "4", "--episodes", "6"]
    done = command("play.py", *line, "--checkpoint", "best", "--export")
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def test_playback_measures_and_exports(trained, played):
    playback = json.loads((trained / "playback.json").read_text())
    keys = "task agent checkpoint episodes mean_return std_return mean_length firing_rate synops_per_step"
    assert set(keys.split()) <= set(playback)
    assert playback["episodes"] == 6 and playback["mean_return"] > 4.0
    assert playback["checkpoint"].endswith("best.pt")
    assert (trained / "exported" / "policy.pt").is_file() and (trained / "exported" / "policy.onnx").is_file()
    assert "equal to the last bit in 300 of 300 control steps of an episode" in played.stderr


@pytest.mark.slow
def test_playback_films_the_robot_and_its_spikes(trained):
    av = pytest.importorskip("av", reason="the video extra is not installed")
    if (reason := drawing()) is not None:
        pytest.skip(reason)
    line = ["--agent", "lif_ppo", "--log_root", trained.parents[2], "--num_envs", "4", "--episodes", "1"]
    done = command("play.py", *line, "--checkpoint", "best", "--video", "--video_length", "20")
    assert done.returncode == 0, done.stderr[-2000:]
    with av.open(str(trained / "videos" / "play" / "best.mp4")) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == 20 and frames[0].shape == (480, 1280, 3)
    assert frames[10][:, :640].std() > 10, "the robot's half is no empty picture"
    assert (frames[10][:, 640:] < 100).mean() > 0.001, "spikes are drawn"
    assert (trained / "videos" / "play" / "best.gif").is_file()


def test_resuming_goes_on_from_the_next_iteration(trained):
    root = trained.parents[2]
    done = command(
        "train.py", "--log_root", root, "--agent", "lif_ppo", "--num_envs", "64", "--max_iterations", "2",
        "--checkpoint", str(trained / f"model_{ITERATIONS - 1}.pt"), "--experiment_name", "resumed",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"at iteration {ITERATIONS}" in done.stderr and "running 2 more iterations" in done.stderr
    run = Path(done.stdout.strip().splitlines()[-1]).parent
    assert result_of(run)["iterations"] == ITERATIONS + 2
    assert (run / f"model_{ITERATIONS + 1}.pt").is_file()
    refused = command(
        "train.py", "--log_root", root, "--agent", "lif_ppo", "--checkpoint", trained, "agent.network.steps=8"
    )
    assert refused.returncode == 2 and "agent.network.steps=4" in refused.stderr


@pytest.mark.slow
def test_isaac_labs_own_command_trains_our_agent_and_plays_our_run(trained, tmp_path):
    """The stock entry point finds the agent; its playback finds the run that our command made, and exports it."""
    from spiky_rl.hosts.isaaclab.assets import get_local_asset_root

    (tmp_path / "logs").symlink_to(trained.parents[2])
    shared = ["--rl_library", "rsl_rl", "--task", "Isaac-Cartpole", "--agent", "lif_ppo", "--device", "cpu"]

    def start(verb: str, *arguments: str) -> subprocess.Popen:
        environment = {
            **os.environ,
            "ISAACSIM_ASSET_ROOT": str(get_local_asset_root()),
            "PYTHONUNBUFFERED": "1",
        }
        line = [str(Path(sys.executable).parent / "isaaclab"), verb, *shared, "--num_envs", "4", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            line, cwd=tmp_path, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment,
            # what runs in the background may ignore it, and a process inherits that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    with start(
        "train", "--max_iterations", "2", "--experiment_name", "stock", "agent.actor.network.steps=2"
    ) as training:
        printed, _ = training.communicate(timeout=800)
    assert training.returncode == 0, printed[-2000:]
    assert "SpikingModel" in printed
    assert list((tmp_path / "logs" / "rsl_rl" / "stock").glob("*/model_1.pt"))

    # rsl_rl writes the exports before it plays; remove ours to see that it did
    for exported in (trained / "exported").glob("policy.*"):
        exported.unlink()
    with start("play", "--checkpoint", "latest") as playing:
        assert playing.stdout is not None
        lines = []
        for line in playing.stdout:
            lines.append(line)
            if "Policy playback is running" in line:
                break
        playing.send_signal(signal.SIGINT)
        lines.append(playing.communicate(timeout=800)[0])
    assert f"model_{ITERATIONS - 1}.pt" in "".join(lines), "".join(lines)[-2000:]
    assert (trained / "exported" / "policy.onnx").is_file()


@pytest.mark.slow
def test_same_seed_gives_the_same_result(tmp_path):
    arguments = ["--agent", "lif_stateful_ppo", "--num_envs", "32", "--max_iterations", "3", "--seed", "7"]
    first, second = (result_of(train(tmp_path / str(i), *arguments)) for i in range(2))
    for key in ("mean_return_final", "mean_length_final", "firing_rate", "synops_per_step", "spec_hash"):
        assert first[key] == second[key], key
    other = result_of(train(tmp_path / "other", *arguments[:-1], "8"))
    assert other["mean_return_final"] != first["mean_return_final"]


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGTERM, signal.SIGHUP))],
)
def test_a_signal_saves_and_ends_cleanly(number, tmp_path):
    line = ["--agent", "lif_ppo", "--log_root", tmp_path, "--num_envs", "16", "--max_iterations", "5000"]
    with processes.Command(ROOT / "scripts" / "train.py", *TASK, *line) as training:
        training.until(lambda: "iteration    3/" in training.said())
        training.send(number)
        done = training.finished()
    assert done.returncode == 128 + number, done.stderr[-2000:]
    run = Path(done.stdout.strip().splitlines()[-1]).parent
    result = result_of(run)
    assert result["outcome"] == "stopped" and 3 <= result["iterations"] < 5000
    assert (run / f"model_{result['iterations'] - 1}.pt").is_file()


@pytest.mark.slow
def test_a_second_signal_ends_at_once_and_the_exit_code_is_the_first_ones(tmp_path):
    line = ["--agent", "lif_ppo", "--log_root", tmp_path, "--num_envs", "512", "--max_iterations", "5000"]
    with processes.Command(ROOT / "scripts" / "train.py", *TASK, *line) as training:
        training.until(lambda: "iteration    3/" in training.said())
        training.send(signal.SIGTERM)
        training.until(lambda: "stopping after this iteration" in training.said())
        training.send(signal.SIGINT)
        done = training.finished()
    assert done.returncode == 128 + signal.SIGTERM and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert list(tmp_path.rglob("model_*.pt"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_simulator_starts_is_not_lost(number, tmp_path):
    line = [sys.executable, str(ROOT / "scripts" / "train.py"), *TASK, "--log_root", str(tmp_path)]
    with subprocess.Popen(
        [*line, "--num_envs", "16", "--max_iterations", "5000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # as above
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for text in process.stderr:
            if text.startswith("starting the simulator"):
                break
        process.send_signal(number)
        printed, said = process.communicate(timeout=800)
    assert process.returncode == 128 + number
    assert "stopping once the simulator has started" in said and "Traceback" not in said
    result = json.loads(Path(printed.strip().splitlines()[-1]).read_text())
    assert (result["outcome"], result["iterations"]) == ("stopped", 0)


@pytest.mark.slow
def test_an_exploding_learning_rate_is_blamed_and_the_checkpoint_before_is_named(tmp_path):
    done = command(
        "train.py", "--agent", "mlp_ppo", "--log_root", tmp_path, "--num_envs", "16", "--max_iterations", "30",
        "agent.algorithm.schedule=fixed", "agent.algorithm.learning_rate=1000",
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    outcome = json.loads(next(tmp_path.rglob("result.json")).read_text())["outcome"]
    assert "the policy has exploded, lower agent.algorithm.learning_rate: " in outcome
    assert "the learning rate 1e+03; the last good checkpoint is " in outcome
    assert Path(outcome.rpartition(" is ")[2]).is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "least"), [("lif_ppo", 4.7), ("lif_stateful_ppo", 4.5)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agent_reaches_its_bar_on_cartpole(agent, least, seed, tmp_path):
    arguments = ["--agent", agent, "--num_envs", "512", "--max_iterations", "60", "--seed", str(seed)]
    assert result_of(train(tmp_path, *arguments))["mean_return_final"] >= least


@pytest.mark.slow
def test_training_films_itself_and_still_starts_at_random_points_of_episodes(tmp_path):
    line = "--agent lif_ppo --num_envs 16 --max_iterations 3 --video --video_length 20".split()
    run = train(tmp_path, *line)
    assert list((run / "videos" / "train").glob("*.mp4"))
    assert (
        result_of(run)["mean_length_final"] is not None
    ), "with random starts some episodes end within 48 control steps"
