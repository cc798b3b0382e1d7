"""Plans as `spiky_rl.run.prepare` makes them, of agents that only their settings tell apart."""

from types import SimpleNamespace
from typing import Any

from spiky_rl.config.spec import AgentSpec, load_task
from spiky_rl.experiments.design.grid import EARLIER_PHYSICS
from spiky_rl.run.run_plan import RunPlan, RunRequest


def plan(task: str, settings: dict[str, Any]) -> RunPlan:
    """Of 64 environments, 8 steps and 5 iterations."""
    known = load_task(task)
    assert known is not None
    spec = AgentSpec(
        name="mine", runner={"num_steps_per_env": 8, "max_iterations": 5, **settings}, origins={}
    )
    host_task = SimpleNamespace(id=known.id, assets="robots", description="")
    where = ("cpu", 64, 42, EARLIER_PHYSICS)
    return RunPlan(RunRequest(task=task), known.label, host_task, "mine", known, spec, {}, "", *where)
