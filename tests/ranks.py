"""Trainings in several processes on the CPU, which exchange gradients by gloo."""

import contextlib
import json
import socket
from pathlib import Path
from typing import Any

from tests.processes import Command

PROBE = """
import runpy, sys
import torch
from spiky_rl.learners.rsl_rl.runner import RslRlRunner

learn = RslRlRunner.learn

def learn_and_tell(self, *arguments, **named):
    learn(self, *arguments, **named)
    weights = torch.cat([t.double().flatten() for model in self.models for t in model.state_dict().values()])
    torch.save(weights, f"{sys.argv[-1]}/weights{self.gpu_global_rank}.pt")

RslRlRunner.learn = learn_and_tell
from spiky_rl.cli.train import train
raise SystemExit(train(sys.argv[1:-1]))
"""
"""Trains as train.py with all arguments but the last, a folder into which every rank writes its weights and running statistics."""


def train_ranks(folder: Path, ranks: int, line: list[object]) -> tuple[dict[str, Any], list[Any]]:
    """Return the result of one run in several processes, and the weights of each.

    Args:
        folder: Empty folder.
        ranks: Number of processes, which get torchrun's variables.
        line: Arguments of train.py.
    """
    import torch

    probe = folder / "probe.py"
    probe.write_text(PROBE)
    job = {
        "WORLD_SIZE": ranks,
        "LOCAL_WORLD_SIZE": ranks,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": find_free_port(),
    }
    with contextlib.ExitStack() as running:
        commands = []
        for rank in range(ranks):
            variables = {key: str(value) for key, value in {**job, "RANK": rank, "LOCAL_RANK": rank}.items()}
            command = Command(probe, *line, "--log_root", folder / "logs", folder, variables=variables)
            commands.append(running.enter_context(command))
        for done in [command.finished() for command in commands]:
            assert done.returncode == 0, done.stdout + done.stderr
    (result,) = (json.loads(path.read_text()) for path in folder.glob("logs/*/*/*/result.json"))
    return result, [torch.load(folder / f"weights{rank}.pt") for rank in range(ranks)]


def find_free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
